"""The frozen snapshot that ``Pool.stats()`` returns."""

import enum
from dataclasses import dataclass


class Reason(str, enum.Enum):
    """Why a resource was closed."""

    IDLE = "idle"  #: it lay idle for longer than maxIdleTime
    AGE = "age"  #: it was open for longer than maxOpenTime
    USAGE = "usage"  #: it was taken maxUsageCount times
    EXCEPTION = "exception"  #: its user's with-block raised, see closeOnException
    REPAIR = "repair"  #: takeRepair or putRepair closed it, or failed
    INVALIDATED = "invalidated"  #: invalidate() was called after it was opened
    SHRUNK = "shrunk"  #: resize() left no place for it
    POOL_CLOSED = "pool closed"  #: the pool was closed
    USER = "user"  #: its user closed it before putting it back
    DROPPED = "dropped"  #: its user dropped it and never put it back

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Stats:
    """Hold what a pool looked like and what it had done when ``stats()`` was called.

    The gauges are read one after the other while other threads go on, so they may be a moment
    apart; each counter is exact, and no take, open or close is ever counted twice or left out.
    Times are seconds.
    """

    # gauges
    capacity: int
    open: int
    idle: int
    taken: int
    waiting: int
    # counters since the pool was made
    takes: int
    waits: int
    timeouts: int
    opens: int
    openErrors: int
    closes: int
    closeErrors: int
    closesByReason: dict[Reason, int]
    waitTime: float  #: sum over all who stood in line, whatever came of it
    waitMax: float
    openTime: float  #: sum over all calls of open(), failed ones too
    openMax: float
    useTime: float  #: sum from take to put
    useMax: float
