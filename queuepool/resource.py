"""A resource: something expensive to open, and the slot of the pool that it fills."""

from __future__ import annotations

import sys
import weakref
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from queuepool.errors import PoolError

if TYPE_CHECKING:
    from queuepool.pool import Pool
    from queuepool.stats import Reason

NEVER = float("inf")
PAST = float("-inf")

R = TypeVar("R", bound="Resource")


class Slot:
    """Keep one place of a pool: the stamps, limits and counters of whatever resource fills it.

    A slot is written only by the thread that holds its resource, so its fields need no lock and
    lose no count. It outlives its resource: when that is dropped, the next one goes on counting.
    Two fields are written by others too: until ``checkAt`` nothing is due but for idleness or
    usage, until ``shortUntil`` there is no hook to call either. PAST asks the holder to look
    closely at the next take or put. Whoever wants that (invalidate, resize) changes the pool first
    and calls ``askToCheck`` then; the holder resets the two first and looks at the pool then, so
    no request is overlooked. (``overdueSince`` is the recycler's: the holder only reads it.)
    """

    __slots__ = (
        "name", "watch", "isHooked", "trace", "epoch", "overdueSince",
        "takenAt", "takenBy", "openedAt", "lastUsedAt", "checkAt", "shortUntil", "retireAt",
        "takes", "takesAtOpen", "takesLimit", "openings",
        "opens", "openErrors", "closes", "closeErrors",
        "waits", "timeouts", "waitTime", "waitMax", "openTime", "openMax", "useTime", "useMax",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.watch: Watch | None = None  # on the resource that fills it
        self.isHooked = False  # takes and puts have repair hooks to call
        self.overdueSince: float | None = None  # the takenAt of a take that was reported
        self.trace: str | None = None  # the stack of its take
        self.epoch: object = None  # the pool's at the time it was opened
        self.takenAt: float | None = None  # None: nobody has taken it
        self.takenBy: int | None = None  # the thread that took it last, or has it in hand
        self.openedAt: float | None = None  # None: it is not open
        self.lastUsedAt = NEVER  # put back or opened
        self.checkAt = self.shortUntil = PAST
        self.retireAt = NEVER
        self.takes = 0
        self.takesAtOpen = 0
        self.takesLimit = sys.maxsize
        self.openings = 0  # the resource's, when the pool last looked
        self.opens = 0
        self.openErrors = 0
        self.closes: dict[Reason, int] | None = None
        self.closeErrors = 0
        self.waits = 0
        self.timeouts = 0
        self.waitTime = 0.0
        self.waitMax = 0.0
        self.openTime = 0.0
        self.openMax = 0.0
        self.useTime = 0.0
        self.useMax = 0.0

    def askToCheck(self) -> None:
        """Have whoever holds the resource, now or next, look what is due."""
        self.checkAt = self.shortUntil = PAST

    def countClose(self, reason: Reason) -> None:
        """Note that what was open in this slot is not any more."""
        if self.closes is None:
            self.closes = {}
        self.openedAt = None
        self.closes[reason] = self.closes.get(reason, 0) + 1

    def countOpen(self, seconds: float) -> None:
        """Note how long a call of open() took."""
        self.openTime += seconds
        self.openMax = max(self.openMax, seconds)

    def countWait(self, seconds: float) -> None:
        """Note how long somebody stood in line."""
        self.waits += 1
        self.waitTime += seconds
        self.waitMax = max(self.waitMax, seconds)


class Watch(weakref.ref["Resource"]):
    """Refer weakly to the resource of a slot: its callback is called when that is dropped."""

    __slots__ = ()
    __hash__ = object.__hash__  # its own, whatever its resource's is


#: The slot of a resource that no pool has.
NOWHERE = Slot("")


class Resource:
    """Be something that is expensive to open: subclass it, give it ``open`` and ``close``.

    A subclass sets ``self.resource`` in ``open`` and calls ``super().open()`` at its end, drops
    it in ``close`` and calls ``super().close()``. The pool runs one hook at a time, in the thread
    that takes or puts the resource (or in the recycler's), and holds no lock meanwhile. The with
    statement gives back what ``Pool.take()`` returned.

    Once in a pool, a resource belongs to it: touch it only between a take and its put. Resources
    are told apart by identity: a class that defines ``__eq__`` is refused.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        #: Whatever ``open`` opened: a connection, a session, a device.
        self.resource: Any = None
        self._pool: Pool[Any] | None = None
        self._slot = NOWHERE
        self._isOpen = False
        self._openings = 0  # how often open() was called, by whomever

    def open(self) -> None:
        """Open the resource; called by take when it is closed.

        May block. What it raises reaches the caller of take, after the slot went back and what
        was half open was closed. Overriders set ``self.resource`` and call this last.
        """
        self._isOpen = True
        self._openings += 1
        self._slot.askToCheck()  # the pool is to note it, whoever called this

    def close(self) -> None:
        """Close the resource; called when it is due (see ``Reason``), only while it is open.

        May block. What it raises is logged; the resource counts as closed all the same.
        Overriders close ``self.resource``, set it to None and call this.
        """
        self._isOpen = False

    def takeRepair(self) -> None:
        """Look at the resource before each take, open or not; overriders may call ``close``.

        What it raises reaches the caller of take, after the resource was closed and put back.
        """

    def putRepair(self) -> None:
        """Clean the resource at each put, open or not; overriders may call ``close``.

        What it raises is logged and the resource closed: nothing unclean is handed out again.
        """

    def _noteError(self, error: BaseException) -> None:
        """Learn what the user's with-block raised, before anything is done about it."""

    def abandon(self) -> None:
        """Forget what is open without closing it: after a fork it is the parent process's."""
        self.resource = None
        self._isOpen = False

    @property
    def isOpen(self) -> bool:
        """Tell whether the resource is open."""
        return self._isOpen

    @property
    def usageCount(self) -> int:
        """Tell how many times the resource was taken since it was opened."""
        return self._slot.takes - self._slot.takesAtOpen

    # Where a subclass written for 1.3.2 reads it, or sets it in an open() of its own.
    @property
    def _usageCount(self) -> int:
        return self.usageCount

    @_usageCount.setter
    def _usageCount(self, count: int) -> None:
        slot = self._slot
        if self._pool is not None and slot is not NOWHERE:
            slot.takesAtOpen = slot.takes - count
            slot.takesLimit = slot.takesAtOpen + self._pool._maxUsageCount

    @property
    def age(self) -> float | None:
        """Tell the seconds since the pool opened the resource; None if it is closed."""
        return self._since(self._slot.openedAt)

    @property
    def idleTime(self) -> float | None:
        """Tell the seconds since the resource was last put back or opened; None if closed."""
        return self._since(self._slot.lastUsedAt)

    def _since(self, stamp: float | None) -> float | None:
        if stamp is None or self._pool is None or self._slot.openedAt is None:
            return None
        return self._pool._clock() - stamp

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        state = "open" if self._isOpen else "closed"
        return f"<{type(self).__name__} {self.name!r} {state}, used {self.usageCount} times>"

    # Returns Any because a subclass may hand out what it wraps, as psycopg2's Connection does.
    def __enter__(self: R) -> Any:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, exc_value: BaseException | None,
                 traceback: TracebackType | None) -> None:
        """Give the resource back to its pool; ``Pool.put`` does the same.

        With an exception, ``closeOnException`` decides whether the resource is closed first.
        Blocks only in hooks, and raises nothing of theirs. The pool owns the resource afterwards.
        """
        slot = self._slot
        pool = self._pool
        if pool is None:
            if exc_value is None:
                raise PoolError(f"{self.name!r} is in no pool: there is nowhere to put it back")
            return
        now = pool._clock()
        takenAt = slot.takenAt
        if (takenAt is not None and exc_value is None and now <= slot.shortUntil
                and slot.takes < slot.takesLimit and self._isOpen):
            # From here until it lies in its place nothing of Python is called, so that neither a
            # signal nor, with the GIL, another thread comes in between: of two who put the same
            # resource only one gets here, and no interruption finds the slot nowhere.
            slot.takenAt = None
            used = now - takenAt
            slot.useTime += used
            if used > slot.useMax:
                slot.useMax = used
            slot.lastUsedAt = now
            queue = pool._queue
            queue.open.append(self)
            if queue.line:
                pool._attend()
        else:
            pool._takeBack(self, exc_value, now)


#: The name of 1.3.2; the same class.
ResourceManager = Resource
