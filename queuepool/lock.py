"""A lock that no interruption leaves locked."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from itertools import repeat, starmap
from typing import Any, TypeVar

Method = TypeVar("Method", bound=Callable[..., Any])


class Lock:
    """A lock for ``exclusive``. Its thread may enter it again: in a signal handler, a finalizer."""

    def __init__(self) -> None:
        lock = threading.RLock()
        #: Each step acquires the lock, and gives True.
        self.steps = starmap(lock.acquire, repeat(()))
        self.acquire, self.release = lock.acquire, lock.release


def exclusive(method: Method) -> Method:
    """Have a method run while the ``_lock`` of its object is held.

    A with statement does not do for that: CPython 3.14 may run a signal handler between the
    acquire and the block, and if that raises, the lock stays locked. A step of a for loop stores
    its result with no call in between, and signal handlers run only after calls and jumps.
    """
    @functools.wraps(method)
    def run(self: Any, *args: Any) -> Any:
        isHeld = False
        try:
            for isHeld in self._lock.steps:
                return method(self, *args)
        finally:
            if isHeld:
                self._lock.release()

    return run  # type: ignore[return-value]
