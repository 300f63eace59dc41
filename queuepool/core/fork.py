"""A child process: every pool starts afresh in it. What the parent opened stays the parent's."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from threading import get_ident
from typing import Any, Protocol

from queuepool.core.idle import IdleQueue
from queuepool.core.leaks import currentFrames, currentTaker
from queuepool.core.log import Log
from queuepool.core.refcount import IS_BIASED
from queuepool.core.slot import Place, Slot


class Forkable(Protocol):
    """What is needed of a pool here."""

    name: str

    def startAfresh(self) -> None: ...


#: By id: what users define to compare pools does not matter.
_pools: weakref.WeakValueDictionary[int, Forkable] = weakref.WeakValueDictionary()

#: One item for each thread that forks right now. Without any, nobody asks isNewborn.
underWay: list[None] = []


def allPools() -> list[Any]:
    """Return all pools of this process, in the order in which they were made. Does not block."""
    return [pool for reference in _pools.valuerefs() if (pool := reference()) is not None]


def remember(pool: Forkable) -> None:
    """Have ``pool.startAfresh()`` called in every child process."""
    _pools[id(pool)] = pool


def isNewborn(queue: IdleQueue) -> bool:
    """Tell whether this is a child process in which the pool of this queue did not start afresh.

    Before it does, CPython clears what the parent's other threads had in a ``threading.local``,
    and may collect garbage: a with block in a generator ends there, and what it took is put.
    """
    return queue.process != os.getpid()


def disownAll(old: IdleQueue, disown: Callable[[Any], None], isSeeded: bool) -> list[Slot]:
    """Call ``disown`` for each resource of the parent's queue that nobody uses in this child.

    Returns the slots of what may still be put here. Of the parent's threads only the one that
    forked is here. What it has, checked out or in the hands of a pool call whose hook forked, it
    may still put. Under gevent all greenlets go on.
    """
    inherited = []
    areThreads = get_ident() in currentFrames()  # not greenlets
    for resource in list(old.returned):
        resource._slot.ref = weakref.ref(resource)  # the collector has cleared that of a cycle
    for slot in list(old.members):
        slot.askToCheck()  # whatever comes back has to be noticed as the parent's
        resource = slot.ref()
        mayComeBack = slot.place in (Place.TAKEN, Place.HELD) and (
            not areThreads or slot.takenBy is currentTaker())
        if mayComeBack:
            slot.queue = None  # it belongs to no queue of this process
            inherited.append(slot)
        # What a thread of the parent has checked out may be in the middle of a statement, so not
        # even abandon is called for it, unless a seeded pool needs the resource itself.
        elif resource is not None and (isSeeded or slot.place is not Place.TAKEN):
            disown(resource)
    # Without the GIL an object's own lock may be that of a thread that is not here, for ever. The
    # busiest ones are left to the collector then.
    if not IS_BIASED:
        old.open.clear()
        old.closed.clear()
        old.returned.clear()
    return inherited


def _startAllAfresh() -> None:
    for pool in list(_pools.values()):
        try:
            pool.startAfresh()
        except BaseException:  # the other pools are to start afresh all the same
            Log(pool.name).warning(
                "fork-failed", "starting afresh in a child process failed", exc_info=True)
    underWay.clear()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(
        before=lambda: underWay.append(None), after_in_parent=underWay.pop,
        after_in_child=_startAllAfresh)
