"""A slot: where a resource is, and what the pool knows about it."""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from typing import Any

from queuepool.stats import BOUNDS, Histogram, Reason

#: The counts of a Histogram of nothing; to be copied.
NO_COUNTS = [0] * (len(BOUNDS) + 1)

NEVER = float("inf")
PAST = float("-inf")


class Place:
    """Where a resource is: in exactly one of these, told apart by identity.

    From the pick to the next line, where a call sets HELD, the place is still the former one.
    They are interned strings, which no thread counts references to. Without the GIL threads would
    hinder each other by counting those to the members of an Enum, at each take and put.
    """

    IDLE = sys.intern("idle in the pool")
    HELD = sys.intern("in the hands of a pool call that runs its hooks")
    TAKEN = sys.intern("checked out")
    RETURNED = sys.intern("back in the pool, to be closed before it is used again")
    GONE = sys.intern("not in a pool")


class Slot:
    """The place, the stamps and the counters of one resource of a pool.

    Written only by the thread that holds or has taken the resource, so no field needs a lock and
    no count is lost. There is one exception: ``askToCheck`` may be called by anybody. Whoever
    calls it changes the pool first (invalidate, resize); the holder resets ``checkAt`` first and
    looks at the pool then. So no request is missed.

    A slot outlives its resource. When that leaves the pool, the ledger issues the slot again, and
    its counters go on.
    """

    __slots__ = (
        "name", "place", "queue", "ref", "life", "isLong", "isNew", "hasRepairHooks",
        "isTriedLast", "droppedFrom",
        "closing",
        "takenBy", "takenAt", "trace", "reported", "generation", "since", "timeout",
        "openedAt", "lastUsedAt", "lifeShare", "expiresAt", "checkAt", "shortUntil",
        "takes", "takesAtOpen", "takesLimit",
        "opens", "openErrors", "closes", "closeErrors",
        "waits", "timeouts", "waitTime", "waitMax", "openTime", "openMax", "useTime", "useMax",
        "waitCounts", "openCounts", "useCounts",
    )

    def __init__(self) -> None:
        self.takes = self.opens = self.openErrors = self.closeErrors = 0
        self.waits = self.timeouts = 0
        self.waitTime = self.waitMax = self.openTime = self.openMax = 0.0
        self.useTime = self.useMax = 0.0
        #: For each bucket of a Histogram how many; None until there is one, to save memory.
        self.waitCounts: list[int] | None = None
        self.openCounts: list[int] | None = None
        self.useCounts: list[int] | None = None
        self.closes: dict[Reason, int] = {}
        self.reset("")

    def reset(self, name: str) -> None:
        """Start with another resource. The counters go on."""
        self.name = name
        self.place = Place.GONE
        self.queue: Any = None  #: the IdleQueue that it is a member of
        self.ref: Callable[[], Any] = _nothing  #: weak: returns the resource, or None
        self.isLong = False  #: its takes and puts never go the short way
        self.isNew = True  #: the resource, or its twin, was not opened yet
        self.life: object = None  #: the resource refers to it as long as it exists
        self.hasRepairHooks = False
        self.isTriedLast = False  #: its last open failed: others are tried first
        #: TAKEN or HELD: its finalizer brought it back, from its user or from a call
        self.droppedFrom: str | None = None
        self.closing = Reason.USER  #: the reason that counts if it is closed now
        self.takenBy: Any = None  #: the Taker that took it last, or holds it
        self.takenAt = PAST
        self.trace: str | None = None  #: the stack of its take, with leakTrace
        self.reported: int | None = None  #: the number (takes) of a take that was reported
        self.generation: object = None  #: the pool's when it was opened
        #: The take that runs hooks began to count then, and its timeout; None: no limit
        self.since = PAST
        self.timeout: Any = None
        self.openedAt: float | None = None  #: None: it is closed
        self.lastUsedAt = PAST  #: returned or opened
        self.lifeShare = 1.0  #: of maxOpenTime, by jitter
        self.expiresAt = NEVER  #: by maxOpenTime and lifeShare
        self.checkAt = self.shortUntil = PAST  #: until then only usage can be due
        self.takesAtOpen = self.takes
        self.takesLimit = sys.maxsize

    def askToCheck(self) -> None:
        """Send the next take and put the long way, where all limits are checked."""
        self.checkAt = self.shortUntil = PAST

    def countClose(self, reason: Reason) -> None:
        """Count one close, and note that the resource is closed."""
        self.openedAt = None
        self.closes[reason] = self.closes.get(reason, 0) + 1

    def countOpening(self, seconds: float) -> None:
        """Count the time of one call of ``open``, successful or not."""
        counts = self.openCounts
        if counts is None:
            counts = self.openCounts = NO_COUNTS.copy()
        self.openMax = max(self.openMax, seconds)
        bucket = bisect_left(BOUNDS, seconds)
        counts[bucket] += 1  # no call until the next store, see Ledger.histogram
        self.openTime += seconds

    def countWait(self, seconds: float) -> None:
        """Count one wait in line."""
        self.waits += 1
        counts = self.waitCounts
        if counts is None:
            counts = self.waitCounts = NO_COUNTS.copy()
        self.waitMax = max(self.waitMax, seconds)
        bucket = bisect_left(BOUNDS, seconds)
        counts[bucket] += 1  # no call until the next store, see Ledger.histogram
        self.waitTime += seconds


class Ledger:
    """All slots that a pool ever had, so that no count ends with its resource."""

    def __init__(self) -> None:
        # Of the list only append and copy() are used, of the deque only append and pop: each is
        # atomic without the GIL, too. (A deque's copy() would not be.)
        self._slots: list[Slot] = []
        self._spare: deque[Slot] = deque()

    def issue(self) -> Slot:
        """Return a slot that nobody else writes."""
        try:
            return self._spare.pop()
        except IndexError:
            slot = Slot()
            self._slots.append(slot)
            return slot

    def keep(self, slot: Slot) -> None:
        """Keep a slot that nobody writes any more, to be issued again."""
        self._spare.append(slot)

    def sum(self, counter: str) -> Any:
        """Return the sum of one counter over all slots."""
        return sum(getattr(slot, counter) for slot in self._slots.copy())

    def max(self, maximum: str) -> float:
        """Return the largest of one maximum over all slots."""
        return max((getattr(slot, maximum) for slot in self._slots.copy()), default=0.0)

    @staticmethod
    def _consistent(slot: Slot, sum: str, counts: list[int]) -> tuple[float, list[int]]:
        """Return a sum and a copy of its counts in which the same times are.

        Whoever counts stores both with no call in between, so no other thread runs there. Without
        the GIL one may read between the two: then the counts are one time ahead of the sum.
        """
        for _ in range(100):  # more often than a thread can count while another one reads
            seconds = getattr(slot, sum)
            copy = counts.copy()
            if getattr(slot, sum) == seconds:
                break
        return seconds, copy

    def histogram(self, what: str) -> Histogram:
        """Return the histogram of "wait", "open" or "use" over all slots."""
        total, seconds, longest = NO_COUNTS.copy(), 0.0, 0.0
        for slot in self._slots.copy():
            counts = getattr(slot, what + "Counts")
            if counts is not None:
                time, counts = self._consistent(slot, what + "Time", counts)
                seconds += time
                longest = max(longest, getattr(slot, what + "Max"))
                for number, count in enumerate(counts):
                    total[number] += count
        return Histogram(tuple(total), seconds, longest)

    def closes(self) -> dict[Reason, int]:
        """Return how many closes there were for each reason."""
        total = dict.fromkeys(Reason, 0)
        for slot in self._slots.copy():
            for reason, count in slot.closes.copy().items():
                total[reason] += count
        return total


def _nothing() -> None:
    return None


#: The slot of a resource that is in no pool. Nobody writes it.
NOWHERE = Slot()
