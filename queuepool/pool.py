"""The pool: its public face, and the life of a take and of a put.

Three rules stand behind all of it.

1. *Nobody hands anything over.* A put makes a resource idle and wakes the first waiter, which
   picks for itself (``core/idle.py``).
2. *A call returns what it has in hand, whatever is raised.* It has at most one resource in hand
   (``core/call.py``). What was in hand when something was raised, and what its user dropped, lies
   in ``queue.returned`` until somebody closes it with its own hook.
3. *Time is read again after whatever may have blocked*, and no further hook is begun after the
   deadline.

A take that waits: ``take`` sees waiters, or nothing open → ``_takeSlowly`` → ``_find`` stands in
line (``queue.waitFor``) → a put appends and calls ``notify`` → the waiter wakes, is first, and
``_look`` picks → it leaves the line, and goes on with ``_isReady`` (limits, takeRepair).

A failing open: ``_takeSlowly`` has a closed one in hand → ``_opens`` asks the circuit breaker →
``hooks.open`` counts, closes what is half open and raises → without openRetryTime ``take`` puts
it into ``returned`` and raises; ``keeper.reclaim`` makes it idle at the far end, so that others are
tried first → with openRetryTime the breaker trips, the resource is released, and the take stands
first in line until the breaker lets one try again.

A dropped resource: its ``__del__`` appends it to ``queue.returned`` and wakes a waiter → the next
call that finds nothing open (``_look``), or ``recycle``, picks it → ``keeper.restore`` closes it,
warns, and goes on with a twin, because CPython finalizes an object only once → it is used, or
released as idle.

A fork: in the child ``core/fork.py`` calls ``startAfresh`` → new queue, ledger and breaker → what
nobody can put any more is disowned: its ``abandon`` runs, and a pool without a factory is seeded
with it → what this thread has checked out it may still put: ``_takeBack`` sees the old queue in
its slot and disowns it then → the recycler runs again if it ran.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, NoReturn, TypeVar
from weakref import ref

from queuepool.core import fork, leaks
from queuepool.core.breaker import CircuitBreaker
from queuepool.core.call import Call
from queuepool.core.hooks import CloseOnException, Hooks
from queuepool.core.idle import IdleQueue
from queuepool.core.keeper import Keeper
from queuepool.core.leaks import here
from queuepool.core.limits import Limits, checkInteger, checkLimit, checkSeconds, describe
from queuepool.core.log import Log
from queuepool.core.recycler import Recycler
from queuepool.core.slot import NEVER, NOWHERE, Ledger, Place, Slot
from queuepool.errors import PoolClosed, PoolError, PoolTimeout
from queuepool.resource import Resource, ResourceManager
from queuepool.stats import Reason, Stats

__all__ = ["CloseOnException", "Pool", "ResourceManager"]

R = TypeVar("R", bound=Resource)
P = TypeVar("P", bound="Pool[Any]")

# Looked up once: attributes of an enum are slow to read.
IDLE, HELD, TAKEN, RETURNED = Place.IDLE, Place.HELD, Place.TAKEN, Place.RETURNED
REPAIR, USER = Reason.REPAIR, Reason.USER

#: Seconds that invalidate, resize and close may at least spend on the close hooks of others.
#: What is left is closed by the recycler, by takes and by puts.
LEAST_CLOSE_TIME = 1.0

#: Stands for "the pool's takeTimeout" where None means for ever.
POOLS: Any = type("PoolsTakeTimeout", (), {"__repr__": lambda self: "<the pool's takeTimeout>"})()


def _limit(name: str) -> Any:
    """Return a property that is a limit of the pool: 1.3.2's programs may read and set it."""
    return property(lambda pool: getattr(pool._limits, name),
                    lambda pool, value: setattr(pool._limits, name, value))


class Pool(Generic[R]):
    """A thread-safe pool of up to ``capacity`` resources. The one used last is handed out first.

    A limit of None is no limit. Times are seconds (float) of ``clock``.

    - ``maxIdleTime``: an open resource that was idle for longer is closed.
    - ``maxOpenTime``: an open resource older than this is closed; ``jitter`` (0 to 1) shortens
      the limit of each by a random part of up to that fraction, so that not all go at once.
    - ``maxUsageCount``: an open resource that was taken this many times is closed.
    - ``closeOnException``: whether an exception in a with block closes the resource: True,
      False, the class or classes that do, or a callable that gets the exception and answers.
      The pool's own exceptions (PoolError) close nothing.
    - ``factory``: called with a name, returns a new closed Resource. Called by a take when no
      resource is idle and there are fewer than ``capacity``. Without a factory you seed the pool
      with ``put``.
    - ``minOpen``: ``recycle`` keeps this many open, also when they are idle for too long.
    - ``takeTimeout``: how long ``take`` waits when it is not told.
    - ``openRetryTime``: when opening fails with an Exception, take tries again for this long, but
      not beyond its own timeout. One thread tries at a time, at growing intervals up to a second;
      the others wait in line and get whatever comes first. 0 raises the first failure at once.
    - ``leakTime``: ``recycle`` reports once what is checked out for longer.
    - ``leakTrace``: remember the stack of each take, for the reports; makes takes slower.

    Any thread may call any method at any time. In a with statement the pool is closed at the end
    of the block.
    """

    def __init__(self, name: str, capacity: int, maxIdleTime: float | None = 300.0,
                 maxOpenTime: float | None = 300.0, maxUsageCount: int | None = 1000,
                 closeOnException: CloseOnException = True, *,
                 factory: Callable[[str], R] | None = None, minOpen: int = 0,
                 jitter: float = 0.0, takeTimeout: float | None = None,
                 openRetryTime: float = 0.0,
                 leakTime: float | None = None, leakTrace: bool = False,
                 clock: Callable[[], float] = time.monotonic) -> None:
        if not isinstance(name, str):
            raise TypeError(f"name must be a str, not {describe(name)}")
        checkInteger("capacity", capacity, 1)
        checkInteger("minOpen", minOpen, 0)
        if minOpen > capacity:
            raise ValueError(f"minOpen must be <= capacity ({capacity}), not {minOpen}")
        _checkCloseOnException(closeOnException)
        for what, function in ("factory", factory), ("clock", clock):
            if not callable(function) and (function is not None or what == "clock"):
                raise TypeError(f"{what} must be callable, not {describe(function)}")
        self.name = name
        self.closeOnException = closeOnException
        self.minOpen = minOpen
        self.takeTimeout = checkSeconds("takeTimeout", takeTimeout)
        self.openRetryTime = checkLimit("openRetryTime", openRetryTime)
        self.leakTime = checkSeconds("leakTime", leakTime)
        self.leakTrace = leakTrace
        self._limits = Limits(maxIdleTime, maxOpenTime, maxUsageCount, jitter)
        self._factory = factory
        #: Returns the instant now, in seconds; all times of the pool are measured by it.
        self.clock = clock
        self._log = Log(name)
        #: A put that a subclass defines is called at the end of a with block.
        self._overridesPut = type(self).put is not Pool.put
        #: At most one entry, "thread"; setdefault and pop decide who starts and stops it.
        self._recycler: dict[str, Recycler] = {}
        self._begin(capacity)
        fork.remember(self)

    def _begin(self, capacity: int) -> None:
        """Start with no resource, here or in a child process."""
        self._queue = IdleQueue(capacity)
        self._breaker = CircuitBreaker()
        self._ledger = Ledger()
        self._hooks = Hooks(self, self._limits, self._breaker, self._log)
        self._keeper = Keeper(self.name, self.clock, self._queue, self._hooks, self._limits,
                              self._breaker, self._ledger, self._log)

    _maxIdleTime = _limit("maxIdleTime")
    _maxOpenTime = _limit("maxOpenTime")
    _maxUsageCount = _limit("maxUsageCount")

    # -- take

    def take(self, timeout: float | None = POOLS) -> R:
        """Take a resource, open, for the caller to use and put back.

        Blocks until one is free, at most ``timeout`` seconds: left out for the pool's
        ``takeTimeout``, None for ever, 0 not at all. Threads are served first come first served.
        Runs close if the resource has expired, takeRepair, and open if it is closed; an open one
        is preferred. The timeout bounds all of that but the one hook that is running when it
        ends, such as a slow ``open``; however short it is, hooks may use 0.05 s. Raises
        PoolTimeout then, PoolClosed when the pool is or gets closed, and whatever the hooks
        raise. The caller owns the resource afterwards; ``with pool.take() as resource:`` returns
        it.
        """
        queue = self._queue
        if timeout is not POOLS:
            timeout = checkSeconds("timeout", timeout)
        taker = here.taker
        now = self.clock()
        call = None
        resource: Any = None
        try:
            if not queue.waiters:
                try:
                    for resource in queue.openPicks:
                        slot = resource._slot
                        if now <= slot.shortUntil and now - slot.lastUsedAt <= self._limits.maxIdleTime:
                            slot.takes += 1
                            slot.takenBy = taker
                            slot.takenAt = now
                            slot.place = TAKEN
                            return resource  # type: ignore[no-any-return]
                        break
                except IndexError:  # no open one is idle
                    pass
            call = Call(); call.resource, resource = resource, None  # noqa: E702  see Call
            call.startedAt = call.now = now
            call.taker = taker
            call.isFirst = False
            return self._takeSlowly(call, timeout)  # type: ignore[no-any-return]
        except BaseException:
            if call is not None and call.resource is not None:
                resource = call.resource
            if resource is not None:
                resource._slot.place = RETURNED; queue.returned.append(resource)  # noqa: E702
                del resource, call
                self._keeper.reclaim()
            raise

    def _takeSlowly(self, call: Call, timeout: float | None) -> Any:
        """Take the long way: wait if nothing is in hand, and make ready what is."""
        if timeout is POOLS:
            timeout = self.takeTimeout
        call.deadline = NEVER if timeout is None else call.startedAt + timeout
        while True:
            if call.resource is None:
                self._find(call)
            resource = call.resource
            slot = resource._slot
            slot.place = HELD
            slot.takenBy = call.taker
            hasExpired = False
            if (call.now > slot.checkAt
                    or call.now - slot.lastUsedAt > self._limits.maxIdleTime):
                hasExpired = self._keeper.closeIfDue(resource)
                call.now = self.clock()
            if slot.hasRepairHooks:
                wasOpen, slot.closing = resource._isOpen, REPAIR
                resource.takeRepair()
                if resource._isOpen is (slot.openedAt is None):
                    self._hooks.reconcile(resource)
                slot.closing = USER
                call.now = self.clock()
                if wasOpen and not resource._isOpen:
                    self._hooks.suspect()
            if resource._isOpen or self._opens(call, hasExpired):
                break
            del resource  # who takes it next and drops it is not to wait for this call
            self._keeper.release(call)
            call.isFirst = True
        if self._queue.isShutDown:
            raise self._closedError()
        if self.leakTrace:
            slot.trace = "".join(traceback.format_stack(sys._getframe(2)))
        slot.takes += 1
        slot.takenAt = call.now
        slot.place = TAKEN
        return resource

    def _find(self, call: Call) -> None:
        """Get an idle or a new resource into the hand; wait in line if there is none."""
        queue = self._queue
        while True:
            isFound = (call.isFirst or queue.first() is None) and self._look(call)
            if not isFound and queue.isShutDown:
                raise self._closedError()
            if not isFound and call.now < self._giveUpAt(call):
                isFound = self._wait(call)
            if not isFound:
                raise self._timeoutError(call)
            call.isFirst = True  # it had its turn
            if call.resource is None:
                if self._build(call):
                    return
            elif call.resource._slot.place is IDLE:
                return
            elif self._keeper.restore(call):  # it was dropped, or something was raised
                call.now = self.clock()
                return

    def _wait(self, call: Call) -> bool:
        """Wait in line until ``_look`` finds something, and count for how long."""
        startedAt = call.now
        try:
            return self._queue.waitFor(call, self._look, self._giveUpAt(call) - startedAt,
                                       self._pause)
        finally:
            call.now = self.clock()
            if call.resource is not None:
                call.resource._slot.countWait(call.now - startedAt)
            else:
                slot = self._ledger.issue()
                slot.countWait(call.now - startedAt)
                self._ledger.takeBack(slot)

    def _look(self, call: Call) -> bool:
        """Pick the best that is there. True with nothing in hand: there is room to build one."""
        queue = self._queue
        if queue.isShutDown:
            raise self._closedError()
        if queue.open and queue.pick(call, queue.openPicks):
            return True
        if queue.returned and queue.pick(call, queue.returnedPicks):
            return True
        if self._breaker.isTripped and not self._breaker.isReady(self.clock()):
            return False
        if queue.closed and queue.pick(call, queue.closedPicks):
            return True
        return self._factory is not None and queue.hasRoom

    def _giveUpAt(self, call: Call) -> float:
        """Return the instant at which a take gives up: while nothing can be opened, maybe sooner."""
        breaker = self._breaker
        if breaker.error is None:
            return call.deadline
        return min(call.deadline,
                   max(call.startedAt, breaker.startedAt) + self.openRetryTime)

    def _pause(self) -> float:
        """Return in how many seconds to look again though nobody calls: NEVER if there is no need."""
        if not self._breaker.isTripped:
            return NEVER
        seconds = self._breaker.retryAt - self.clock()
        return seconds if seconds > 0.0 else NEVER

    def _opens(self, call: Call, hasExpired: bool) -> bool:
        """Open what is in hand. Return False if another one is better, or if that failed."""
        queue, breaker = self._queue, self._breaker
        if not call.mayRunAnotherHook():
            raise self._timeoutError(call)
        if queue.hasSurplus or queue.isShutDown:
            return False
        if queue.open and not (hasExpired and self._isNextDue(call.now)):
            return False
        if not breaker.admits(call.resource._slot, call.now):
            return False
        outer = sys.exception()  # the caller's, if he takes in an except block
        try:
            self._hooks.open(call.resource)
        except Exception as error:
            if not self.openRetryTime:
                raise
            self._log.warning("opening %r failed; it is tried again", call.resource.name,
                              exc_info=True)
            call.now = self.clock()
            breaker.noteFailure(error, call.now, outer)
            return False
        call.now = self.clock()
        return True

    def _isNextDue(self, now: float) -> bool:
        """Tell whether the open resource that would be picked next has expired as well."""
        try:
            return self._limits.due(self._queue.open[-1]._slot, now) is not None
        except IndexError:  # another thread picked it
            return True

    def _build(self, call: Call) -> bool:
        """Build another resource if there is a factory and room for one."""
        return self._factory is not None and self._keeper.build(call, self._factory, self._adopt)

    def _timeoutError(self, call: Call) -> PoolTimeout:
        """Count a time-out and return what to raise."""
        slot = self._ledger.issue()
        slot.timeouts += 1
        self._ledger.takeBack(slot)
        error = self._breaker.error
        message = (f"pool {self.name!r}: no resource came free in "
                   f"{self.clock() - call.startedAt:.3f} s "
                   f"(timeout {call.deadline - call.startedAt:g} s): {self._situation()}")
        if error is not None:
            message += f"; the last attempt to open one failed with {type(error).__name__}"
        if self._isEmpty():
            message += "; nothing was put into the pool yet, and it has no factory"
        timeout = PoolTimeout(message)
        timeout.__cause__ = error
        return timeout

    def _isEmpty(self) -> bool:
        return self._factory is None and not self._queue.members

    # -- put

    def put(self, resource: R) -> None:
        """Return a taken resource, or seed the pool with a new one.

        Blocks only in hooks, and raises nothing of theirs: failures are logged and the resource
        closed. Raises PoolError, and changes nothing, for what is not taken, is in another pool,
        is one more than the capacity or is no Resource; PoolClosed for a new one when the pool
        is closed. Runs putRepair, and close if the resource has expired or the pool is closed.
        The pool owns the resource afterwards.
        """
        if getattr(resource, "_pool", None) is not self:
            self._seed(resource)
        elif self._overridesPut:
            self._takeBack(resource, None, self.clock())
        else:
            Resource.__exit__(resource, None, None, None)

    def _putAfterWith(self, resource: Any, error: BaseException | None) -> None:
        """Call the put of a subclass at the end of a with block, as 1.3.2 did."""
        if error is None:
            self.put(resource)
            return
        try:
            if resource._slot.place is TAKEN and self._hooks.closesOn(resource, error):
                self._hooks.close(resource, Reason.EXCEPTION)
            self.put(resource)
        except Exception:  # the user's exception is the one that counts
            self._log.warning("put of %r failed", resource.name, exc_info=True)

    def _takeBack(self, resource: Any, error: BaseException | None, now: float) -> None:
        """Return a resource the long way: close it if it is due, clean it, and release it.

        ``error`` is what the with block of its user raised.
        """
        slot = resource._slot
        if slot.place is not TAKEN:
            self._refuse(resource, error)
            return
        queue = self._queue
        call = None
        held = resource
        try:
            slot.place = HELD
            if slot.queue is not queue:  # it was taken before a fork
                held = None
                self._disown(resource)
                return
            used = now - slot.takenAt
            slot.useTime += used
            slot.useMax = used if used > slot.useMax else slot.useMax
            slot.lastUsedAt = now
            slot.trace = None
            if resource._isOpen is (slot.openedAt is None):  # its user closed or opened it
                self._hooks.reconcile(resource)
            if slot.reportedAt == slot.takenAt:
                self._log.info("%r was returned after %.1f s", resource.name, used)
            if error is not None and self._hooks.closesOn(resource, error):
                self._hooks.close(resource, Reason.EXCEPTION)
            elif now > slot.checkAt or slot.takes >= slot.takesLimit:
                self._keeper.closeIfDue(resource)
            if slot.hasRepairHooks:
                wasOpen, slot.closing = resource._isOpen, REPAIR
                try:
                    resource.putRepair()
                except Exception:
                    self._log.warning("putRepair of %r failed; it is closed", resource.name,
                                      exc_info=True)
                    self._hooks.close(resource, REPAIR)
                if resource._isOpen is (slot.openedAt is None):
                    self._hooks.reconcile(resource)
                slot.closing = USER
                if wasOpen and not resource._isOpen:
                    self._hooks.suspect()
            if resource._isOpen and now <= slot.checkAt:
                slot.place = IDLE; held = None; queue.open.append(resource)  # noqa: E702
                if queue.waiters:
                    self._keeper.attend()
            else:
                call = Call(); call.resource, held = resource, None  # noqa: E702
                self._keeper.release(call)
        except BaseException:
            if call is not None:
                held = call.resource
            if held is not None:
                slot.place = RETURNED; queue.returned.append(held)  # noqa: E702
                self._keeper.reclaim()
            raise

    def _refuse(self, resource: Any, error: BaseException | None) -> None:
        """Tell that what is put is not taken; an exception of the user is the one to be seen."""
        misuse = (f"{resource.name!r} is {resource._slot.place.value}, not checked out: it was "
                  f"already returned (put twice?). Return once what was taken, and do not use it "
                  f"afterwards")
        if error is None:
            raise PoolError(f"pool {self.name!r}: {misuse}")
        self._log.warning("%s", misuse)

    # -- members

    def _seed(self, resource: Any) -> None:
        """Make a new resource a member, and return it as if it had been taken."""
        self._checkNew(resource)
        if self.closed:
            raise self._closedError()
        slot = self._ledger.issue()
        slot.reset(resource.name)
        try:
            if not self._queue.admit(slot):
                raise PoolError(
                    f"pool {self.name!r} already has all {self.capacity} resources of its "
                    f"capacity; {resource.name!r} was not put. Raise the capacity with resize()")
            self._adopt(resource, slot)
            slot.takenAt = now = self.clock()
            slot.place = TAKEN
        except BaseException:
            self._keeper.detach(resource, slot)
            raise
        self._takeBack(resource, None, now)

    def _checkNew(self, resource: Any) -> None:
        """Raise PoolError if this cannot be made a member."""
        kind = type(resource).__name__
        if not isinstance(resource, Resource):
            holder = self._holderOf(resource)
            raise PoolError(
                f"pool {self.name!r}: only a Resource can be put, not a {kind}" + (
                    f": it is what {holder!r} has open; put that, or use "
                    f"'with pool.take() as …'" if holder else ""))
        if resource._pool is not None:
            raise PoolError(
                f"pool {self.name!r}: {resource.name!r} belongs to pool {resource._pool.name!r}, "
                f"where it is {resource._slot.place.value}; put it back there")
        if getattr(resource, "_target", None) is None:
            raise PoolError(
                f"pool {self.name!r}: {kind}.__init__ has to call super().__init__(name)")

    def _holderOf(self, thing: Any) -> str | None:
        """Return the name of the resource that has this open, if there is one."""
        for slot in list(self._queue.members):
            resource = slot.ref()
            if resource is not None and resource.resource is thing:
                return slot.name
        return None

    def _adopt(self, resource: Any, slot: Slot) -> None:
        """Connect a new resource, held by the caller, with its slot and this pool."""
        if not isinstance(resource, Resource) or resource._slot is not NOWHERE:
            raise PoolError(
                f"pool {self.name!r}: the factory has to return a new Resource each time; for "
                f"{slot.name!r} it returned "
                f"{'one that is in a pool' if isinstance(resource, Resource) else describe(resource)}")
        self._checkNew(resource)
        slot.ref = ref(resource)
        slot.takenBy = here.taker
        slot.place = HELD
        if type(resource).__eq__ is not object.__eq__:
            self._queue.comparesByIdentity = False
        resource._slot = slot
        resource._pool = self
        self._hooks.check(resource)
        if resource._isOpen:
            slot.generation = self.generation
            self._hooks.noteOpen(resource)

    def _attend(self) -> None:
        self._keeper.attend()

    # -- the whole pool

    def recycle(self) -> None:
        """Close what has expired among the idle, keep ``minOpen`` open, report leaks.

        Blocks in the hooks of those it works on, one after the other, the least recently used
        first. All others stay where they are, so nobody waits for it. Failures of hooks are
        logged. Called on a closed pool it closes what ``close`` had no time for.
        """
        if self.closed:
            self._keeper.drain()
            self._stopRecycler()
            return
        self._keeper.reconcile()
        self._keeper.trim()
        self._keeper.closeDue(minOpen=self.minOpen, openAnother=self._openAnother)
        while self._keeper.countOpen() < self.minOpen and self._openAnother():
            pass
        leaks.reportOverdue(list(self._queue.members), self.leakTime, self.clock(), self._log)

    def _openAnother(self) -> bool:
        """Open one more, for minOpen; log it and return False if that is not possible now."""
        try:
            return not self.closed and self._keeper.openOne(self._build)
        except Exception:
            self._log.warning("opening a resource ahead of use failed", exc_info=True)
            return False

    def warm(self, timeout: float | None = None) -> int:
        """Open ``minOpen`` resources, at least one, now; for a start that fails at once.

        Blocks in ``open``, of one after the other. After ``timeout`` seconds (None: no limit) no
        other one is begun, and PoolTimeout is raised. Raises what ``open`` raises. Returns how
        many are open.
        """
        call = Call()
        call.startedAt = self.clock()
        call.deadline = call.startedAt + checkLimit("timeout", timeout)
        while self._keeper.countOpen() < max(1, self.minOpen):
            call.now = self.clock()
            if self.closed:
                raise self._closedError()
            if not call.mayRunAnotherHook():
                raise self._timeoutError(call)
            if not self._keeper.openOne(self._build):
                break  # what is closed is in the hands of others, who open it
        return self._keeper.countOpen()

    def startRecycler(self, interval: float = 60) -> None:
        """Start a daemon thread that calls ``recycle`` at once and every ``interval`` seconds.

        Does nothing if it runs already. The thread survives failing hooks, holds no reference to
        the pool while it sleeps, and ends with the pool, with ``stopRecycler`` or the program.
        """
        seconds = checkSeconds("interval", interval)
        if seconds is None or seconds <= 0:
            raise ValueError(f"interval must be a number of seconds > 0, not {describe(interval)}")
        if self.closed:
            raise self._closedError()
        self._startRecycler(seconds)
        if self.closed and not self._queue.qsize():  # closed meanwhile, perhaps by a hook
            self.stopRecycler()

    def _startRecycler(self, seconds: float) -> None:
        recycler = Recycler(self, seconds, self._log)
        try:
            if self._recycler.setdefault("thread", recycler) is recycler:
                recycler.start()
        except BaseException:
            if self._recycler.get("thread") is recycler and not recycler.isAlive:
                del self._recycler["thread"]
            raise

    def stopRecycler(self) -> None:
        """End the recycler's thread, if it runs; blocks while a recycle is under way."""
        recycler = self._stopRecycler()
        if recycler is not None:
            recycler.join()

    def _stopRecycler(self) -> Recycler | None:
        recycler = self._recycler.pop("thread", None)
        if recycler is not None:
            recycler.stop()
        return recycler

    @property
    def generation(self) -> object:
        """Changed by each ``invalidate``; to be compared with ``is``."""
        return self._limits.generation

    @property
    def newestOpenedAt(self) -> float | None:
        """The instant of ``clock`` at which the newest one of this generation was opened."""
        return max((slot.openedAt for slot in list(self._queue.members)
                    if slot.openedAt is not None and slot.generation is self.generation),
                   default=None)

    def invalidate(self, timeout: float | None = LEAST_CLOSE_TIME) -> int:
        """Have every resource that is open now closed instead of being used again.

        Idle ones at once, blocking in their close hooks: after ``timeout`` seconds (None: no
        limit) no other one is begun. What is left, and what is taken, is closed by the recycler,
        or by its next take or put. For after a fail-over, a change of credentials or of the
        schema. Returns how many are still open.
        """
        seconds = checkLimit("timeout", timeout)
        self._limits.generation = generation = object()
        self._check()
        self._keeper.closeDue(self.clock() + seconds)
        return sum(slot.openedAt is not None and slot.generation is not generation
                   for slot in list(self._queue.members))

    def resize(self, capacity: int) -> None:
        """Change how many resources the pool may have.

        When it grows, takes build more with the factory, or there is room to seed. When it
        shrinks, closed ones leave at once, then the least recently used, for at most about a
        second (blocks in their close hooks), and the rest when they are put. Those who wait
        profit at once.
        """
        checkInteger("capacity", capacity, 1)
        if self.closed:
            raise self._closedError()
        self._queue.capacity = capacity
        self._check()
        self._keeper.trim(self.clock() + LEAST_CLOSE_TIME)
        self._queue.notify()

    def _check(self) -> None:
        """Send every resource the long way once: there it is seen what has changed."""
        for slot in list(self._queue.members):
            slot.askToCheck()

    def close(self, timeout: float | None = 0.0) -> int:
        """Close the pool: tell those who wait, then close what is idle.

        What is taken is closed when it is put back. Blocks in the close hooks, for at least about
        a second if they are slow, and until everything is back and closed, up to ``timeout``
        seconds: None as long as it takes. What is idle then is closed by a daemon thread. Returns
        how many resources are not closed yet. May be called again, from any thread.
        """
        seconds = checkLimit("timeout", timeout)
        queue = self._queue
        until = self.clock() + seconds
        startedAt = time.monotonic()
        queue.shutdown()
        self._check()
        if self._keeper.drain(max(until, self.clock() + LEAST_CLOSE_TIME)):
            self._stopRecycler()
        else:
            self._closeLater()
        while seconds > 0.0 and queue.members:
            rest = seconds - (time.monotonic() - startedAt)
            if rest <= 0.0 or queue.awaitEnd(rest):
                break
            self._keeper.drain(until)
        return len(queue.members)

    def _closeLater(self) -> None:
        try:
            self._startRecycler(1.0)
        except RuntimeError:  # no thread can be started: puts and the next close() go on with it
            self._log.warning("no thread can be started to close what is idle")

    def startAfresh(self) -> None:
        """Forget, in a child process, all that the parent's threads did with this pool.

        Called after each fork. Runs the abandon hook of what nobody uses here; a pool without a
        factory is seeded with it, which runs putRepair. Opens nothing.
        """
        old = self._queue
        recycler = self._recycler.pop("thread", None)
        self._begin(old.capacity)
        if old.isShutDown:
            self._queue.shutdown()
        fork.disownAll(old, self._disown, isSeeded=self._factory is None)
        if recycler is not None and not self.closed:
            self.startRecycler(recycler.interval)

    def _disown(self, resource: Any) -> None:
        """Forget, in a child process, what the parent has open, and seed with it as if new."""
        self._hooks.abandon(resource)
        resource._slot = NOWHERE
        resource._pool = None
        if self._factory is None and not self.closed:
            try:
                self._seed(resource)
            except PoolError:  # no room: another one was seeded meanwhile
                pass

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._queue.isShutDown

    @property
    def capacity(self) -> int:
        """How many resources the pool may have."""
        return self._queue.capacity

    def stats(self) -> Stats:
        """Return a snapshot of what the pool looks like and what it has done. Never blocks."""
        queue, ledger = self._queue, self._ledger
        closes = ledger.closes()
        return Stats(
            capacity=queue.capacity, open=self._keeper.countOpen(), idle=self._countIdle(),
            taken=self._countTaken(), waiting=queue.waiting(),
            takes=ledger.sum("takes"), waits=ledger.sum("waits"),
            timeouts=ledger.sum("timeouts"), opens=ledger.sum("opens"),
            openErrors=ledger.sum("openErrors"), closes=sum(closes.values()),
            closeErrors=ledger.sum("closeErrors"), closesByReason=closes,
            waitTime=ledger.sum("waitTime"), waitMax=ledger.max("waitMax"),
            openTime=ledger.sum("openTime"), openMax=ledger.max("openMax"),
            useTime=ledger.sum("useTime"), useMax=ledger.max("useMax"))

    def _countIdle(self) -> int:
        """Return how many are idle, with a factory also how many may still be built."""
        room = 0
        if self._factory is not None and not self.closed:
            room = max(0, self._queue.capacity - len(self._queue.members))
        return self._queue.qsize() + room

    def _countTaken(self) -> int:
        return sum(slot.place is TAKEN for slot in list(self._queue.members))

    def _situation(self) -> str:
        return (f"capacity {self.capacity}, checked out {self._countTaken()}, "
                f"idle {self._countIdle()}, waiting {self._queue.waiting()}"
                + (", closed" if self.closed else "")
                + (", reconnecting" if self._breaker.isTripped else ""))

    def _closedError(self) -> PoolClosed:
        return PoolClosed(f"pool {self.name!r} is closed: close() was called, or the block of "
                          f"'with pool:' has ended")

    def __enter__(self: P) -> P:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, exc_value: BaseException | None,
                 traceback: TracebackType | None) -> None:
        """Close the pool, as ``close()`` does."""
        self.close()

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}: {self._situation()}>"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            f"pool {self.name!r} cannot be copied or pickled; make one in each process")


def _checkCloseOnException(rule: object) -> None:
    """Raise ValueError for what is no rule; what 1.3.2 took for true or false still is."""
    kinds = rule if isinstance(rule, tuple) else (rule,)
    if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
        if isinstance(rule, tuple) or isinstance(rule, type) or not (
                callable(rule) or rule is None or isinstance(rule, int)):
            raise ValueError(
                "closeOnException must be True, False, one or several exception classes, or a "
                f"callable, not {describe(rule)}")
