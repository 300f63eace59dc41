"""Have what a thread drops be freed at once, on a free-threaded CPython too."""

from __future__ import annotations

import _thread
import contextlib
import sysconfig
from queue import SimpleQueue
from typing import Any

#: Whether each object belongs to the thread that made it, which counts its own references to it
#: apart from those of all others (PEP 703). So it is when that build runs with the GIL, too.
IS_BIASED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def unbias(thing: Any) -> None:
    """Have CPython count all references to an object in one place, soon.

    As long as its maker's own count is not zero, an object that another thread drops is freed, and
    finalized, only when the maker runs Python code again: never if that is blocked. So one
    reference moves to the common count: another thread adds it and this one removes it. When this
    thread has dropped the rest of its own, nothing is left to be counted apart, and whoever drops
    the last reference frees the object. Costs a thread for an instant, and nothing elsewhere.
    """
    if not IS_BIASED:
        return
    things, added = [thing], []
    done: SimpleQueue[None] = SimpleQueue()

    def add() -> None:
        added.extend(things)  # nothing if the other thread was interrupted
        done.put(None)

    try:
        # Not a threading.Thread, which is waited for with locks, see Waiter in core/idle.py.
        with contextlib.suppress(RuntimeError):  # none can be started, as at the end of a program
            _thread.start_new_thread(add, ())
            done.get()
    finally:
        things.clear()
        added.clear()
