"""What the reports share: pools in a given state, and a world in which hooks take time."""

import logging

from queuepool import Pool
from tests.helpers import PATIENCE, World


class CostlyWorld(World):
    """Keep account as a World does. Opening and closing take time of a fake clock.

    It keeps what is open alive, so only a close hook ends it.
    """

    def __init__(self, clock=None, openTime=0.0, closeTime=0.0):
        super().__init__()
        self.clock = clock
        self.openTime = openTime
        self.closeTime = closeTime
        #: The most that was ever open at the same time.
        self.peak = 0
        self._handles = set()

    @property
    def live(self):
        return len(self._handles)

    def open(self):
        if self.openTime:
            self.clock.advance(self.openTime)
        handle = super().open()
        self._handles.add(handle)
        self.peak = max(self.peak, self.live)
        return handle

    def close(self, handle):
        if self.closeTime:
            self.clock.advance(self.closeTime)
        super().close(handle)
        self._handles.discard(handle)


def poolOf(count, kind, world, isSeeded=False, **options):
    """Return a pool of that many resources of a kind: seeded, or with a factory."""
    if not isSeeded:
        return Pool("p", count, factory=lambda name: kind(name, world), **options)
    pool = Pool("p", count, **options)
    for number in range(count):
        pool.put(kind(f"s-{number}", world))
    return pool


def takeAll(pool):
    return [pool.take(timeout=PATIENCE) for _ in range(pool.capacity)]


def openAll(pool):
    """Have all resources of a pool open and idle; the one named last was put last."""
    for resource in takeAll(pool):
        pool.put(resource)


def reasonsOf(pool):
    """Return how many closes there were, for each reason for which there was one."""
    return {reason.name: count for reason, count in pool.stats().closesByReason.items() if count}


def warningsIn(caplog):
    return [record.getMessage() for record in caplog.records
            if record.name == "queuepool" and record.levelno >= logging.WARNING]
