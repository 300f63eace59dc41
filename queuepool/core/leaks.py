"""Who takes, and reports of what is checked out too long or whose taker has ended."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Iterable
from threading import get_ident
from weakref import ref

from queuepool.core.log import Log
from queuepool.core.slot import Place, Slot


class ThreadLife:
    """An object that only the thread-local data of a thread (or greenlet) refers to."""


class Taker:
    """A thread (or greenlet). Its ident may be another one's once it has ended."""

    __slots__ = ("name", "ident", "_life")

    def __init__(self, life: ThreadLife) -> None:
        self.name = threading.current_thread().name
        self.ident = get_ident()
        self._life = ref(life)

    @property
    def hasEnded(self) -> bool:
        """Tell whether the thread has ended."""
        return self._life() is None


#: What every thread has of its own: ``taker``, from its first take on.
threadLocal = threading.local()


def currentTaker() -> Taker:
    """Return the Taker of this thread, made when it is asked for."""
    taker: Taker | None = getattr(threadLocal, "taker", None)
    if taker is None:
        threadLocal.life = ThreadLife()
        threadLocal.taker = taker = Taker(threadLocal.life)
    return taker


def reportOverdue(slots: Iterable[Slot], leakTime: float | None, now: float, log: Log) -> None:
    """Warn once of each resource checked out longer than leakTime, or whose taker has ended."""
    for slot in slots:
        taker, takenAt = slot.takenBy, slot.takenAt
        if slot.place is not Place.TAKEN or takenAt == slot.reportedAt:
            continue
        hasEnded = taker.hasEnded
        if not hasEnded and (leakTime is None or now - takenAt <= leakTime):
            continue
        if slot.takenAt != takenAt:  # it was returned and taken again while this looked
            continue
        slot.reportedAt = takenAt
        slot.askToCheck()  # its put is to log that it came back
        log.warning(
            "%r is checked out for %.1f s by thread %r, which %s%s%s", slot.name, now - takenAt,
            taker.name, "has ended without returning it" if hasEnded
            else "is now at:\n" + _stackOf(taker.ident),
            "\nIt was taken at:\n" if slot.trace else "", slot.trace or "")


def _stackOf(ident: int) -> str:
    frame = sys._current_frames().get(ident)
    return "".join(traceback.format_stack(frame)) if frame else "(no stack: it is no thread)"
