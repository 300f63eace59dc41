"""A bounded memory of a pool's load."""

from __future__ import annotations

#: How many samples are remembered: one hour of one a second, at most 32 KB.
MEMORY = 3600


class Samples:
    """The latest loads of a pool at one capacity: how many were in use or waited for.

    One thread adds, any thread may read. After ``resize`` they start afresh: with another
    capacity another number would have waited.
    """

    def __init__(self) -> None:
        # Only single append, item assignment and copy() are used: atomic without the GIL, too.
        self._loads: list[int] = []
        self._next = 0  #: where the oldest one is, once the memory is full
        self._capacity = 0

    def add(self, load: int, capacity: int) -> None:
        """Remember a load; the oldest one is forgotten if there are too many."""
        if capacity != self._capacity:
            self._loads, self._next, self._capacity = [], 0, capacity
        loads = self._loads
        if len(loads) < MEMORY:
            loads.append(load)
        else:
            loads[self._next] = load
            self._next = (self._next + 1) % MEMORY

    def at(self, capacity: int) -> list[int]:
        """Return the loads at that capacity, in no certain order."""
        return self._loads.copy() if capacity == self._capacity else []
