"""Who takes, who has what, and warnings of what is checked out too long."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Iterable
from threading import get_ident
from types import FrameType
from typing import Any
from weakref import ref

from queuepool.core.log import Log
from queuepool.core.slot import Place, Slot
from queuepool.report import Frame, Holder


class ThreadLife:
    """An object that only the thread-local data of a thread (or greenlet) refers to."""


class Taker:
    """A thread (or greenlet). Its ident may be another one's once it has ended."""

    __slots__ = ("name", "ident", "waits", "_life")

    def __init__(self, life: ThreadLife) -> None:
        #: While it waits in line: the IdleQueue, the name of its pool, and the Call.
        self.waits: tuple[Any, str, Any] | None = None
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


def holdersOf(slots: Iterable[Slot], now: float, asker: Taker | None = None,
              asked: str | None = None) -> tuple[Holder, ...]:
    """Return who has what checked out, the longest first. The asker is told as waiting there."""
    frames: dict[int, Any] = {}
    found = []
    try:
        frames = sys._current_frames()
        for slot in slots:
            taker, takenAt, trace = slot.takenBy, slot.takenAt, slot.trace
            if slot.place is Place.TAKEN and slot.takenAt == takenAt:
                waits = taker.waits
                waitsIn = asked if taker is asker else waits and waits[1]
                hasEnded = taker.hasEnded
                found.append(Holder(
                    slot.name, taker.name, max(0.0, now - takenAt), waitsIn, hasEnded,
                    () if hasEnded else tuple(_framesOf(frames.get(taker.ident))), trace))
    finally:
        frames.clear()  # it has this very frame, which would keep alive what others refer to
    return tuple(sorted(found, key=lambda holder: -holder.seconds))


def _framesOf(frame: FrameType | None) -> list[Frame]:
    found = []
    while frame is not None:
        found.append(Frame(frame.f_code.co_filename, frame.f_lineno or 0, frame.f_code.co_name))
        frame = frame.f_back
    return found[::-1]


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
            "leak", "%r is checked out for %.1f s by thread %r, which %s", slot.name, now - takenAt,
            taker.name, "has ended without returning it" if hasEnded else "is now at:",
            details=("" if hasEnded else _stackOf(taker.ident))
            + (f"It was taken at:\n{slot.trace}" if slot.trace else ""))


def _stackOf(ident: int) -> str:
    frame = sys._current_frames().get(ident)
    return "".join(traceback.format_stack(frame)) if frame else "(no stack: it is no thread)"
