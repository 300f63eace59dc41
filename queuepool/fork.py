"""A child process: every pool starts afresh in it; what the parent opened stays the parent's."""

from __future__ import annotations

import contextlib
import os
import sys
import weakref
from threading import get_ident
from typing import TYPE_CHECKING, Any

from queuepool.errors import PoolError
from queuepool.idle import SHUT, IdleQueue
from queuepool.resource import NOWHERE, Resource

if TYPE_CHECKING:
    from queuepool.pool import Pool

_pools: weakref.WeakSet[Pool[Any]] = weakref.WeakSet()


def remember(pool: Pool[Any]) -> None:
    """Have a pool start afresh in every child process."""
    _pools.add(pool)


def startAfresh(pool: Pool[Any]) -> None:
    """Forget, in a child process, all that the parent's threads did with this pool.

    Waiters and locks are new. Runs the abandon hook of what nobody uses, and in a pool without a
    factory, which is seeded with the same resources anew, their putRepair. Opens nothing.
    """
    old = pool._queue
    recycler = pool._recycler.pop("thread", None)
    pool._slots = []
    pool._spareSlots = []
    pool._outage = None
    pool._queue = queue = IdleQueue(pool.name, old.capacity, pool._dropped, pool._mend)
    for slot in old.members.values():
        slot.isHooked = True  # for good: whatever comes back is to be looked at by _takeBack
        slot.askToCheck()
    if old.line is SHUT:
        queue.shut()
        return
    areThreads = get_ident() in sys._current_frames()  # and not greenlets, which all go on
    idle = {resource._slot for resource in old.open} | old.closed.keys()
    for watch, slot in old.members.items():
        resource = watch()
        isOut = slot not in idle and (not areThreads or slot.takenBy == get_ident())
        if isOut or resource is None:
            continue  # its user may still put it, also one whose hook forked
        if slot.takenAt is None or pool._factory is None:
            slot.takenAt = None
            disown(pool, resource)
    old.open.clear()  # a call whose hook forked goes on with the old one
    old.closed.clear()
    if pool._factory is not None:
        pool._mend()
    if recycler is not None:
        pool.startRecycler(recycler.interval)


def disown(pool: Pool[Any], resource: Resource) -> None:
    """Forget, in a child process, what the parent opened, and seed with it as if new."""
    try:
        resource.abandon()
    except Exception:
        pool._warn("abandon of %r failed", resource.name, exc_info=True)
    resource.resource = None
    resource._isOpen = False
    resource._slot = NOWHERE
    resource._pool = None
    if pool._factory is None:
        with contextlib.suppress(PoolError):  # closed, or seeded again meanwhile
            pool._seed(resource)


def _startAllAfresh() -> None:
    for pool in list(_pools):
        try:
            startAfresh(pool)
        except BaseException:  # the next ones are to start afresh all the same
            pool._warn("starting afresh in a child process failed", exc_info=True)


# Where there is no fork there is nothing to register with.
getattr(os, "register_at_fork", dict)(after_in_child=_startAllAfresh)
