"""Who takes, who has what, and warnings of what is checked out too long."""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
import time
from collections.abc import Iterable
from itertools import accumulate, repeat
from threading import get_ident
from types import FrameType
from typing import Any
from weakref import ref

from queuepool.core.log import Log
from queuepool.core.slot import PAST, Place, Slot
from queuepool.report import SHOWN, Frame, Holder, stackOf

#: CPython 3.11 may crash if it looks at the frames of a thread that is just ending. So the reports
#: of errors, which are made at any time and in great numbers, do not look there.
LOOKS_FOR_ERRORS = sys.version_info >= (3, 12)

#: How many frames of a thread are looked at, from the innermost outwards.
DEPTH = 50

#: Seconds for which many errors at a time use what one of them has looked at.
STACKS_TIME = 0.1


def mayLook() -> bool:
    """Tell whether the frames of other threads may be looked at.

    Without the GIL those threads go on meanwhile, and CPython crashes: then nobody looks.
    """
    return getattr(sys, "_is_gil_enabled", lambda: True)()


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


class Stacks:
    """Where the threads were when somebody looked last, at most STACKS_TIME ago.

    When a pool is overloaded or closed, many threads get an error at a time. Each error has a
    report, and to walk the stacks is most of its cost.
    """

    def __init__(self) -> None:
        self._until = 0.0
        #: By slot, and its number of takes.
        self._seen: dict[tuple[Slot, int], tuple[Frame, ...]] = {}

    def seen(self) -> dict[tuple[Slot, int], tuple[Frame, ...]]:
        """Return what was seen, to be completed."""
        now = time.monotonic()
        if now > self._until:
            self._seen, self._until = {}, now + STACKS_TIME
        return self._seen


def currentFrames() -> dict[int, FrameType]:
    """Return the frame of each thread, by its ident.

    CPython 3.11 may collect garbage in the middle of this. It has a lock then that the end of a
    threading.local needs: the thread would wait for itself for ever.
    """
    if sys.version_info >= (3, 12):
        return sys._current_frames()
    isEnabled = gc.isenabled()
    try:
        gc.disable()
        return sys._current_frames()
    finally:
        if isEnabled:
            gc.enable()


def holdersOf(slots: Iterable[Slot], now: float, asker: Taker | None = None,
              asked: str | None = None, stacks: Stacks | None = None) -> tuple[Holder, ...]:
    """Return who has what checked out, or in the hands of a hook, the longest first.

    The asker is told as waiting there. With ``stacks`` the frames of the first SHOWN only.
    """
    found: list[tuple[float, Slot, Taker, bool]] = []
    for slot in slots:
        taker, takenAt, place = slot.takenBy, slot.takenAt, slot.place
        if taker is None:  # it became a member just now
            continue
        if place is Place.TAKEN and slot.takenAt == takenAt:
            found.append((takenAt, slot, taker, False))
        elif place is Place.HELD and taker is not asker:
            since = max(slot.since, slot.lastUsedAt)
            found.append((since if since > PAST else now, slot, taker, True))
    found.sort(key=lambda each: each[0])
    threads: dict[int, FrameType] = {}
    holders = []
    seen = {} if stacks is None else stacks.seen()
    try:
        for number, (since, slot, taker, isHeld) in enumerate(found):
            frames: tuple[Frame, ...] | None = ()
            hasEnded = taker.hasEnded
            if not hasEnded and mayLook() and (
                    stacks is None or LOOKS_FOR_ERRORS and number < SHOWN):
                key = slot, slot.takes
                frames = seen.get(key)
                if frames is None:
                    threads = threads or currentFrames()
                    frames = seen[key] = _framesOf(threads.get(taker.ident))
            waits = taker.waits
            holders.append(Holder(
                slot.name, taker.name, max(0.0, now - since),
                asked if taker is asker else waits and waits[1], hasEnded, frames or (),
                slot.trace, isHeld))
    finally:
        threads.clear()  # it has this very frame, which would keep alive what others refer to
    return tuple(holders)


def _framesOf(frame: FrameType | None) -> tuple[Frame, ...]:
    if frame is None:
        return ()
    # One call, and all of it in C: so the other thread, whose frames these are, does not run in
    # between. CPython 3.11 crashes if it follows f_back of a frame that comes to its end.
    found: list[FrameType] = []
    with contextlib.suppress(AttributeError):  # None has no f_back: what was found is kept
        found.extend(accumulate(repeat("f_back", DEPTH - 1), getattr, initial=frame))
    return tuple(Frame(each.f_code.co_filename, each.f_lineno or 0, each.f_code.co_name)
                 for each in reversed(found) if each is not None)


def reportOverdue(slots: Iterable[Slot], leakTime: float | None, now: float, log: Log) -> None:
    """Warn once of each resource checked out longer than leakTime, or whose taker has ended."""
    for slot in slots:
        seen = takes, taker, takenAt = slot.takes, slot.takenBy, slot.takenAt
        if slot.place is not Place.TAKEN or takes == slot.reported or taker is None:
            continue
        hasEnded = taker.hasEnded
        if not hasEnded and (leakTime is None or now - takenAt <= leakTime):
            continue
        if (slot.takes, slot.takenBy, slot.takenAt) != seen:
            continue  # it was returned and taken again while this looked
        slot.reported = takes
        slot.askToCheck()  # its put is to log that it came back
        log.warning(
            "leak", "%r is checked out for %.1f s by thread %r, which %s", slot.name, now - takenAt,
            taker.name, "has ended without returning it" if hasEnded else "is now at:",
            details=("" if hasEnded else _stackOf(taker.ident))
            + (f"It was taken at:\n{slot.trace}" if slot.trace else ""))


def _stackOf(ident: int) -> str:
    if not mayLook():
        return "(no stack: without the GIL it cannot be read)\n"
    frames = _framesOf(currentFrames().get(ident))
    return stackOf(frames) or "(no stack: it is no thread)\n"
