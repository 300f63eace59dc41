"""A bounded memory of a pool's load."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

#: How many samples are remembered: one hour of one a second, at most 32 KB.
MEMORY = 3600
#: The counters are noted with the first of so many samples.
BLOCK = 600


class Counts(NamedTuple):
    """Counters of a pool at one instant."""

    takes: int
    waits: int
    timeouts: int


class Era:
    """The samples at one capacity."""

    # Of the list only append, item assignment and copy() are used, of the deque only append and
    # the first item: each is atomic without the GIL, too.
    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.loads: list[int] = []
        self.next = 0  #: where the oldest one is, once the memory is full
        #: The counters when the samples began; that of the oldest block is forgotten with it.
        self.counts: deque[Counts] = deque(maxlen=MEMORY // BLOCK)


class Samples:
    """The latest loads of a pool at one capacity: how many were in use or waited for.

    One thread adds, any thread may read. After ``resize`` they start afresh: with another
    capacity another number would have waited.
    """

    def __init__(self) -> None:
        self._era = Era(0)

    def add(self, load: int, capacity: int, counts: Counts) -> None:
        """Remember a load; the oldest one is forgotten if there are too many."""
        era = self._era
        if capacity != era.capacity:
            era = Era(capacity)
        if era.next % BLOCK == 0:
            era.counts.append(counts)
        if len(era.loads) < MEMORY:
            era.loads.append(load)
        else:
            era.loads[era.next] = load
        era.next = (era.next + 1) % MEMORY
        self._era = era

    def at(self, capacity: int) -> tuple[list[int], Counts]:
        """Return the loads at that capacity, in no certain order, and the counters before them."""
        era = self._era
        if capacity != era.capacity:
            return [], Counts(0, 0, 0)
        return era.loads.copy(), era.counts[0]
