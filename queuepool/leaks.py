"""Reports of resources that are out for too long, or whose user is no more."""

from __future__ import annotations

import sys
import threading
import traceback
from threading import get_ident
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from queuepool.pool import Pool


def reportOverdue(pool: Pool[Any], now: float) -> None:
    """Warn once of each resource that is out for too long or whose thread has ended."""
    taken = [(slot, slot.takenAt, slot.takenBy) for slot in list(pool._queue.members.values())
             if slot.takenAt is not None]  # most are not, and need no closer look
    # Looked at after the takes: a thread that has taken was there then, if it is not now. The
    # identities only: a frame kept here would keep what it refers to. Under gevent they are
    # those of greenlets, of which nobody's end can be told.
    running = set(sys._current_frames())
    areThreads = get_ident() in running
    threads = {thread.ident: thread.name for thread in threading.enumerate()}
    for slot, takenAt, takenBy in taken:
        if takenAt is None or takenAt != slot.takenAt or takenAt == slot.overdueSince:
            continue
        isDead = areThreads and takenBy not in running
        if not isDead and (pool.leakTime is None or now - takenAt <= pool.leakTime):
            continue
        slot.overdueSince = takenAt
        slot.askToCheck()
        pool._warn(
            "%r is out for %.1f s; thread %s, which took it, %s%s%s", slot.name,
            now - takenAt, threads.get(takenBy, takenBy),
            "has ended" if isDead else "is here:\n" + _stackOf(takenBy),
            "\nIt was taken here:\n" if slot.trace else "", slot.trace or "")


def _stackOf(thread: int | None) -> str:
    frame = sys._current_frames().get(thread or 0)
    return "".join(traceback.format_stack(frame)) if frame else ""
