"""The pool: its public face, and the life of a take and of a put.

Three rules stand behind everything:

1. *Nobody hands anything over.* A put makes a resource idle and wakes the first waiter, which
   picks for itself (``core/idle.py``).
2. *A call returns what it has in hand, whatever is raised* (``core/call.py``). It appends it to
   ``queue.returned``, as the finalizer of a dropped resource does. What lies there is closed by
   its close hook before it is used again.
3. *The clock is read again after anything that may have blocked.* After the deadline nothing else
   that may block is begun.

The *short way* is for an open resource that has no repair hooks and is not due: ``take`` and
``Resource.__exit__`` do it alone, without a lock. ``slot.shortUntil`` tells until when it may be
gone. All else goes the *long way*, on these four walks:

*A take that waits.* Thread A: ``take`` finds waiters, or nothing open; ``_takeSlowly`` and
``_find`` find nothing else; ``_wait`` stands in line and sleeps (``queue.waitFor``). Thread B: the
end of its with block (``Resource.__exit__``, or ``_takeBack`` on the long way) appends a resource,
sees that somebody waits, and wakes the first waiter (``queue.notify``). Thread A: it is the first,
so ``_look`` picks the resource; it leaves the line, and wakes the next waiter if there is more;
``_check`` looks at the limits and runs takeRepair; ``take`` sets the place to TAKEN.

*A failing open.* ``take`` has a closed resource in hand; ``_opens`` asks the circuit breaker, and
``hooks.open`` runs the hook, closes what is half open and raises. Without openRetryTime the
exception reaches ``take``, which appends the resource to ``returned``; ``keeper.reclaim`` makes it
idle, to be tried after all other closed ones. With openRetryTime the breaker trips,
``keeper.release`` makes it idle in the same way, and the take stands first in line: until the
breaker lets it try again, or somebody puts an open one.

*A dropped resource.* ``Resource.__del__`` appends it to ``returned`` and wakes the first waiter. A
take that finds nothing open picks it there (``_look``), or ``recycle`` does. ``keeper.restore``
runs its close hook, puts a twin with the same attributes in its place, because CPython finalizes
an object only once, and warns. The take opens the twin; ``recycle`` makes it idle.

*A fork.* In the child ``core/fork.py`` calls ``startAfresh``: the pool gets a new queue, ledger
and breaker. ``disownAll`` goes through the members of the old queue. What was idle is abandoned
(``_disown``), and a pool without a factory is seeded with it. What the forking thread has checked
out it may still put: ``_takeBack`` sees that it is in no queue of this process and disowns it
then. What is put even before, by what CPython clears of the other threads, waits in the old queue.
The recycler runs again if it ran.

"1.3.2" stands for the release before, whose programs run unchanged.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from bisect import bisect_left
from collections.abc import Callable
from functools import partial
from queue import Full
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Self, TypeVar

from queuepool.advice import Advice, adviceFrom
from queuepool.core import fork, leaks
from queuepool.core.breaker import CircuitBreaker
from queuepool.core.call import LEAST_HOOK_TIME, POOL_DEFAULT, Call
from queuepool.core.deadlock import DEADLOCK_TIME, Knot, findKnot
from queuepool.core.fork import underWay
from queuepool.core.hooks import CloseOnException, Hooks
from queuepool.core.idle import IdleQueue
from queuepool.core.keeper import Keeper, twinOf
from queuepool.core.leaks import Taker, threadLocal
from queuepool.core.limits import Limits, checkInteger, checkLimit, checkSeconds, describe
from queuepool.core.log import Log, brief
from queuepool.core.recycler import Recycler
from queuepool.core.refcount import unbias
from queuepool.core.sampler import Counts, Samples
from queuepool.core.slot import NEVER, NO_COUNTS, NOWHERE, PAST, Ledger, Place, Slot
from queuepool.elsewhere import Elsewhere
from queuepool.errors import (PoolBusy, PoolClosed, PoolDeadlock, PoolError, PoolTimeout, TakeBusy,
                              TakeDeadlock, TakeTimeout, poolError)
from queuepool.report import Report, Verdict
from queuepool.resource import Resource, ResourceManager, checkInit, checkNew, join
from queuepool.stats import BOUNDS, Reason, Stats

__all__ = ["CloseOnException", "Pool", "ResourceManager"]

R = TypeVar("R", bound=Resource)

IDLE, HELD, TAKEN, RETURNED = Place.IDLE, Place.HELD, Place.TAKEN, Place.RETURNED
REPAIR, USER = Reason.REPAIR, Reason.USER

#: Seconds after which invalidate (if not told otherwise), resize and close (unless its timeout is
#: longer) run no further close hook. The recycler, takes and puts close what is left.
LEAST_CLOSE_TIME = 1.0


def _limit(name: str) -> Any:
    """Return a property that is a limit of the pool: 1.3.2's programs may read and set it."""
    def setLimit(pool: Pool[Any], value: float | None) -> None:
        pool._limits.change(name, value, list(pool._queue.members))

    return property(lambda pool: pool._limits.given(name), setLimit)


class Pool(Generic[R]):
    """A thread-safe pool of up to ``capacity`` resources. The one used last is handed out first.

    A limit of None is no limit. Times are seconds (float) of ``clock``, which never goes back.

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
    - ``maxWaiting``: a take that would have to wait raises PoolBusy at once if this many threads
      wait already: for services that refuse requests rather than queue them.
    - ``openRetryTime``: when opening fails with an Exception, take tries again for this long, but
      not beyond its own timeout, and only if the resource's ``isTransient`` says that it may help.
      One thread tries at a time, at growing intervals up to a second; the others wait in line and
      get whatever comes first. 0 raises the first failure at once.
    - ``leakTime``: ``recycle`` reports once what is checked out for longer.
    - ``leakTrace``: remember the stack of each take, for the reports; makes takes slower.
    - ``raiseDeadlock``: a take that would wait for ever, because all is checked out by threads
      that wait themselves, raises PoolDeadlock at once. Without it that is logged once. Not for
      programs in which a thread hands what it took to another one.
    - ``histograms``: count use times in ``stats().useHistogram`` also of resources without repair
      hooks; makes their takes slower.

    Any thread may call any method at any time. In a with statement the pool is closed at the end
    of the block.
    """

    #: What is raised. Subclasses for a driver raise subclasses that are also the driver's.
    timeoutError: type[PoolTimeout] = TakeTimeout
    busyError: type[PoolBusy] = TakeBusy
    deadlockError: type[PoolDeadlock] = TakeDeadlock
    closedError: type[PoolClosed] = PoolClosed

    def __init__(self, name: str, capacity: int, maxIdleTime: float | None = 300.0,
                 maxOpenTime: float | None = 300.0, maxUsageCount: int | None = 1000,
                 closeOnException: CloseOnException = True, *,
                 factory: Callable[[str], R] | None = None, minOpen: int = 0,
                 jitter: float = 0.0, takeTimeout: float | None = None,
                 maxWaiting: int | None = None, openRetryTime: float = 0.0,
                 leakTime: float | None = None, leakTrace: bool = False,
                 raiseDeadlock: bool = False, histograms: bool = False,
                 clock: Callable[[], float] = time.monotonic) -> None:
        if not isinstance(name, str):
            raise TypeError(f"name must be a str, not {describe(name)}")
        checkInteger("capacity", capacity, 1)
        checkInteger("minOpen", minOpen, 0)
        if minOpen > capacity:
            raise ValueError(f"minOpen must be <= capacity ({capacity}), not {minOpen}")
        if maxWaiting is not None:
            checkInteger("maxWaiting", maxWaiting, 0)
        _checkCloseOnException(closeOnException)
        for what, function in ("factory", factory), ("clock", clock):
            if not callable(function) and (function is not None or what == "clock"):
                raise TypeError(f"{what} must be callable, not {describe(function)}")
        self.name = name
        self.closeOnException = closeOnException
        self.minOpen = minOpen
        self.takeTimeout = checkSeconds("takeTimeout", takeTimeout)
        self.maxWaiting = maxWaiting
        self.openRetryTime = checkLimit("openRetryTime", openRetryTime)
        self.leakTime = checkSeconds("leakTime", leakTime)
        self._leakTrace = leakTrace
        self.raiseDeadlock = raiseDeadlock
        self._histograms = histograms
        self._limits = Limits(maxIdleTime, maxOpenTime, maxUsageCount, jitter)
        self._factory = factory
        #: Returns the instant now, in seconds; all times of the pool are measured by it.
        self.clock = clock
        self._log = Log(name)
        #: When close() was first called, and by which thread.
        self._closedAt = 0.0
        self._closedBy = ""
        #: Who held what in the deadlock that was logged last, and when one was seen last.
        self._toldKnot: Knot | None = None
        self._knotAt = PAST
        #: For the reports of errors.
        self._stacks = leaks.Stacks()
        #: A put that a subclass defines is called at the end of a with block.
        self._overridesPut = type(self).put is not Pool.put
        self._recycler = Recycler(self, self._log)
        #: In a child process: the slots of what was checked out during the fork.
        self._inheritedSlots: list[Slot] = []
        self._begin(capacity)
        fork.remember(self)

    def _begin(self, capacity: int) -> None:
        """Start with no resource, when the pool is made and in a child process."""
        self._queue = IdleQueue(capacity)
        self._breaker = CircuitBreaker(self.clock)
        self._ledger = Ledger()
        self._samples = Samples()
        self._hooks = Hooks(self, self._limits, self._breaker, self._log)
        self._keeper = Keeper(
            self.name, self.clock, self._factory, partial(join, self), self._disown, self._queue,
            self._hooks, self._limits, self._breaker, self._ledger, self._log)

    if not TYPE_CHECKING:  # what is looked for on a pool by mistake
        cursor, execute, commit, rollback = (
            Elsewhere("take a resource first: 'with pool.take() as …'") for _ in range(4))

    _maxIdleTime = _limit("maxIdleTime")
    _maxOpenTime = _limit("maxOpenTime")
    _maxUsageCount = _limit("maxUsageCount")

    # -- take

    def take(self, timeout: float | None = POOL_DEFAULT) -> R:
        """Take a resource, open, for the caller to use and put back.

        Blocks until one is free, at most ``timeout`` seconds: left out for the pool's
        ``takeTimeout``, None for ever, 0 not at all. Threads are served first come first served.
        Runs close if the resource has expired, takeRepair, and open if it is closed; an open one
        is preferred. The timeout bounds all of that but the one hook that is running when it
        ends, such as a slow ``open``; however short it is, hooks may use 0.05 s. Raises
        PoolTimeout then, PoolBusy when ``maxWaiting`` threads wait already, PoolClosed when the
        pool is or gets closed, and whatever the hooks raise. The caller owns the resource
        afterwards; ``with pool.take() as resource:`` returns it.
        """
        queue = self._queue
        if timeout is not POOL_DEFAULT:
            timeout = checkSeconds("timeout", timeout)
        try:
            taker = threadLocal.taker
        except AttributeError:  # the first take of this thread
            taker = leaks.currentTaker()
        now = self.clock()
        call = None
        resource: Any = None
        try:
            if not queue.waiters:  # nobody waits, and the queue is not shut down, see END
                try:
                    for resource in queue.openPicks:  # pops and stores in one step
                        slot = resource._slot
                        if now <= slot.shortUntil:
                            slot.takes += 1
                            slot.takenBy = taker
                            slot.takenAt = now
                            slot.place = TAKEN
                            return resource  # type: ignore[no-any-return]
                        break
                except IndexError:  # no open one is idle
                    pass
            if resource is not None:
                if slot.droppedFrom is not None:  # a finalizer put it: it needs a twin
                    returned = queue.returned
                    slot.place = RETURNED; returned += (resource,); resource = None  # noqa: E702
                else:
                    then = self._check(resource, taker, now, timeout)
            if resource is None or not resource._isOpen or queue.isShutDown:
                call = Call(); call.resource, resource = resource, None  # noqa: E702  see Call
                call.now = now if call.resource is None else then
                self._takeSlowly(call, taker, now, timeout)
                then = call.now
                resource, call = call.resource, None
                slot = resource._slot
            if self._leakTrace:
                slot.trace = "".join(traceback.format_stack(sys._getframe(1)))
            slot.timeout = None
            slot.takes += 1
            slot.takenAt = then
            slot.place = TAKEN
            return resource  # type: ignore[no-any-return]
        except BaseException:
            if call is not None:
                resource = call.resource
            if resource is not None and resource._slot is not NOWHERE:
                slot, returned = resource._slot, self._queue.returned
                slot.place = RETURNED; returned += (resource,)  # noqa: E702
                del resource, call  # else this frame, in the traceback, keeps it from coming back
                self._keeper.reclaim()
            raise

    def _check(self, resource: Any, taker: Taker, now: float, timeout: float | None) -> float:
        """Close what was picked if it has expired, and run its takeRepair.

        Returns the time then. After a close that took longer than the timeout no takeRepair runs.
        """
        slot = resource._slot
        slot.place = HELD
        slot.takenBy = taker
        slot.since = now
        slot.timeout = timeout
        if now > slot.checkAt:
            self._keeper.closeIfDue(resource, now)
            then = self.clock()
            if timeout is POOL_DEFAULT:
                timeout = self.takeTimeout
            if not resource._isOpen and timeout is not None and (
                    then > now + max(timeout, LEAST_HOOK_TIME)):
                return then
            now = then
        if slot.hasRepairHooks:
            wasOpen, slot.closing = resource._isOpen, REPAIR
            resource.takeRepair()
            if resource._isOpen is (slot.openedAt is None):
                self._hooks.countMissed(resource)
            slot.closing = USER
            now = self.clock()
            if resource._isOpen is not wasOpen:
                if wasOpen:
                    self._hooks.noteBroken()
                else:
                    self._hooks.noteSuccess(slot)
        return now

    def _takeSlowly(self, call: Call, taker: Taker, now: float, timeout: float | None) -> None:
        """Get an open resource into the hand.

        What is in the hand at the beginning, if anything, is closed and was checked.
        """
        if timeout is POOL_DEFAULT:
            timeout = self.takeTimeout
        call.startedAt = now
        call.deadline = NEVER if timeout is None else now + timeout
        call.isFirst = False
        while call.resource is None or not self._opens(call):
            if call.resource is not None:
                self._keeper.release(call)
                call.isFirst = True
            self._find(call)
            if not (call.resource._isOpen or call.mayRunAnotherHook()):
                raise self._timeoutError(call, f"{call.resource.name!r} was not ready",
                                         verdict=Verdict.CANNOT_OPEN)
            call.now = self._check(
                call.resource, taker, call.now, max(0.0, call.deadline - call.now))
            if call.resource._isOpen:
                break
        if self._queue.isShutDown:
            raise self._closedError()

    def _find(self, call: Call) -> None:
        """Get an idle or a new resource into the hand; wait in line if there is none."""
        queue = self._queue
        while True:
            isFound = (call.isFirst or not queue.waiters or queue.first() is None
                       ) and self._look(call)
            if not isFound and queue.isShutDown:
                raise self._closedError()
            if not isFound and call.now < call.deadline:
                isFound = self._wait(call)
            if not isFound:
                raise self._timeoutError(call, "no resource came free")
            call.isFirst = True  # it had its turn
            if call.resource is None:
                if self._keeper.build(call):
                    call.now = self.clock()
                    return
            elif (call.resource._slot.place is IDLE
                    and call.resource._slot.droppedFrom is None):
                return
            else:  # it was dropped, or something was raised
                isMember = self._keeper.restore(call)
                call.now = self.clock()
                if isMember:
                    return

    def _wait(self, call: Call) -> bool:
        """Wait in line until ``_look`` finds something, and count for how long."""
        startedAt = call.now
        if self._factory is None and not self._queue.members:
            self._log.warning("empty", "a take waits, but nothing was put into the pool yet, and "
                              "it has no factory")
        taker = threadLocal.taker
        before, taker.waits = taker.waits, (self._queue, self.name, call)
        hasWaited = True
        try:
            return self._queue.waitFor(
                call, self._look, call.deadline - startedAt, self._pause,
                None if self.maxWaiting is None else self._longestLine)
        except Full:
            hasWaited = False
        finally:
            taker.waits = before
            call.now = self.clock()
            if not hasWaited:
                pass
            elif call.resource is not None:
                call.resource._slot.countWait(call.now - startedAt)
            else:  # counted in a slot that nobody else writes
                slot = self._ledger.issue()
                slot.countWait(call.now - startedAt)
                self._ledger.keep(slot)
        raise self._timeoutError(
            call, f"it would have to wait, but maxWaiting ({self.maxWaiting}) threads wait "
            f"already; it gave up", self.busyError)

    def _longestLine(self) -> int:
        """Return how many may wait: maxWaiting, and those who are about to get something."""
        queue = self._queue
        free = (len(queue.open) + len(queue.returned) if self._breaker.isTripped
                else self._keeper.countIdle())
        return (self.maxWaiting or 0) + free

    def _look(self, call: Call) -> bool:
        """Pick the best that is there; return False if there is nothing.

        True with an empty hand means that there is room to build one. It is built later, not
        while this thread stands in line.
        """
        queue = self._queue
        if queue.isShutDown:
            raise self._closedError()
        if queue.open and queue.pick(call, queue.openPicks):
            return True
        if queue.returned and queue.pick(call, queue.returnedPicks):
            return True
        if self._breaker.isTripped and not self._breaker.isReady():
            return False
        if queue.closed and self._keeper.pickClosed(call):
            return True
        return self._factory is not None and len(queue.members) < queue.maxsize

    def _pause(self, call: Call) -> tuple[float, float]:
        """Return in how many seconds a waiter looks though nobody wakes it, and gives up."""
        breaker = self._breaker
        if self.raiseDeadlock or self.clock() - call.startedAt >= DEADLOCK_TIME:
            self._lookForDeadlock(call)
        if not breaker.isTripped:
            return NEVER, NEVER
        rest = NEVER
        if breaker.error is not None:
            rest = breaker.giveUpAt(call.startedAt, self.openRetryTime) - self.clock()
        return breaker.pause(), rest

    def _lookForDeadlock(self, call: Call) -> None:
        """Raise or log that all is held by threads that wait themselves."""
        knot = findKnot(self._queue)
        if knot is None:
            return
        self._knotAt = self.clock()
        taker = threadLocal.taker
        if self.raiseDeadlock and id(taker) in [each for each, _, _ in knot]:
            taker.waits = None  # it gives up: nobody else has to
            raise self._timeoutError(
                call, "no resource can come free", self.deadlockError, Verdict.NESTED)
        if knot != self._toldKnot:
            self._toldKnot = knot
            self._log.warning(
                "nested", "deadlock: all that is checked out is held by threads that wait for "
                "another resource themselves, so nobody is served until one of them gives up, "
                "unless a thread handed on what it took. Do not take while you hold one, or take "
                "from several pools in the same order everywhere",
                details=str(self.report()))

    def _opens(self, call: Call) -> bool:
        """Open what is in hand. Return False if another one is better, or if that failed."""
        queue, breaker = self._queue, self._breaker
        if not call.mayRunAnotherHook():
            raise self._timeoutError(call, f"{call.resource.name!r} was not ready",
                                     verdict=Verdict.CANNOT_OPEN)
        if queue.hasSurplus or queue.isShutDown:
            return False
        if queue.open and not self._keeper.isNextDue(call.now):
            return False
        if not breaker.admits(call.resource._slot):
            return False
        outer = sys.exception()  # the caller's, if he takes in an except block
        slot = call.resource._slot
        slot.since = call.now
        slot.timeout = None if call.deadline == NEVER else call.deadline - call.now
        try:
            self._hooks.open(call.resource)
        except Exception as error:
            if not self.openRetryTime or not self._hooks.isTransient(call.resource, error):
                raise
            self._log.warning("cannot-open", "opening %r failed, it is tried again: %s",
                              call.resource.name, brief(error))
            breaker.noteFailure(error, outer)
            call.now = self.clock()
            return False
        call.now = self.clock()
        return True

    def _timeoutError(self, call: Call, what: str, kind: type[PoolTimeout] | None = None,
                      verdict: Verdict | None = None) -> PoolTimeout:
        """Count a timeout and return what to raise: why, and who has what."""
        slot = self._ledger.issue()
        slot.timeouts += 1
        self._ledger.keep(slot)
        error = self._breaker.error
        limit = ("no timeout" if call.deadline == NEVER
                 else f"timeout {call.deadline - call.startedAt:g} s")
        if error is not None:
            what = "nothing could be opened" if verdict is None else what
            limit += f", openRetryTime {self.openRetryTime:g} s"
        taker = leaks.currentTaker()
        report = self._report(taker, self._stacks)
        verdict = verdict or report.verdict or Verdict.EXHAUSTED
        if verdict is Verdict.NESTED:
            self._knotAt = self.clock()
        elif verdict is Verdict.EXHAUSTED and self._knotAt >= max(
                call.startedAt, self.clock() - DEADLOCK_TIME):
            verdict = Verdict.NESTED  # another one of them gave up an instant ago
        report = report._replace(verdict=verdict)
        message = (f"pool {self.name!r}: {what} in {self.clock() - call.startedAt:.3f} s "
                   f"({limit}): {self._situation()}")
        if verdict is Verdict.EMPTY:
            message += "; nothing was put into the pool yet, and it has no factory"
        elif verdict is Verdict.NESTED:
            message += ("; all that is checked out is held by threads that wait themselves "
                        "(unless they handed it on)")
        if report.holders:
            longest = report.holders[0]
            message += (f"; {longest.resource!r} is "
                        f"{'in the hands of a hook' if longest.isHeld else 'checked out'} longest, "
                        f"for {longest.seconds:.1f} s, by thread {longest.thread!r}"
                        + (f", which {longest.state}" if longest.state else ""))
            own = [held.name for held in list(self._queue.members)
                   if held.place is TAKEN and held.takenBy is taker]
            if own:
                message += f"; this thread already has {own[0]!r}"
        if report.lastError is not None and self._hooks.isFailing:
            # Not its text, which may say a secret: that is in the cause, and in the report.
            message += (f"; the last attempt to open one failed with "
                        f"{report.lastError.partition(':')[0]}")
        timeout = (kind or self.timeoutError)(f"{message} [queuepool:{verdict}]")
        timeout.report = report
        if error is not None:
            timeout.__cause__ = error
        return timeout

    # -- put

    def put(self, resource: R) -> None:
        """Return a taken resource, or seed the pool with a new one.

        What the resource has open, such as the connection, is accepted for the resource. Blocks
        only in hooks, and raises nothing of theirs: failures are logged and the resource
        closed. Raises PoolError, and changes nothing, for what is not taken, is in another pool,
        is one more than the capacity or is no Resource; PoolClosed for a new one when the pool
        is closed. Runs putRepair, and close if the resource has expired or the pool is closed.
        The pool owns the resource afterwards.
        """
        if getattr(resource, "_pool", None) is not self:
            resource = self._resourceOf(resource)
            if resource._pool is not self:
                self._seed(resource)
                unbias(resource)  # else, if another thread drops it, it may come back late
                return
        if self._overridesPut:
            self._takeBack(resource, None, self.clock())
        else:
            Resource.__exit__(resource, None, None, None)

    def _putAfterWith(self, resource: Any, error: BaseException | None) -> None:
        """Call the put of a subclass at the end of a with block, as 1.3.2 did."""
        if error is None:
            self.put(resource)
            return
        try:
            slot = resource._slot
            if (slot.place is TAKEN and slot.queue is self._queue
                    and self._hooks.closesOn(resource, error)):
                self._hooks.close(resource, Reason.EXCEPTION)
            self.put(resource)
        except Exception:  # the user's exception is the one that counts
            self._log.warning("put-failed", "put of %r failed", resource.name, exc_info=True)
            if slot.place is TAKEN:
                self._takeBack(resource, error, self.clock())

    def _takeBack(self, resource: Any, error: BaseException | None, now: float,
                  isUse: bool = True) -> None:
        """Return a resource the long way: close it if it is due, clean it, and release it.

        ``error`` is what the with block of its user raised. It was no use if the resource is new.
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
            try:
                slot.takenBy = threadLocal.taker
            except AttributeError:
                slot.takenBy = leaks.currentTaker()
            if underWay and fork.isNewborn(queue):  # startAfresh, which follows, disowns it
                if slot.ref() is None:
                    slot.droppedFrom = TAKEN
                returned = queue.returned
                slot.place = RETURNED; returned += (resource,); held = None  # noqa: E702
                return
            if slot.queue is not queue:  # it was taken before a fork
                held = None
                self._disown(resource)
                return
            if slot.ref() is None:  # a finalizer puts it, and it is being collected itself
                slot.droppedFrom, returned = TAKEN, queue.returned
                slot.place = RETURNED; returned += (resource,); held = None  # noqa: E702
                queue.notify()
                return
            used = now - slot.takenAt
            if slot.isLong and isUse:
                counts = slot.useCounts
                if counts is None:
                    counts = slot.useCounts = NO_COUNTS.copy()
                bucket = bisect_left(BOUNDS, used)
                counts[bucket] += 1  # no call until the next store, see Ledger.histogram
            slot.useTime += used
            slot.useMax = used if used > slot.useMax else slot.useMax
            slot.lastUsedAt = now
            if resource._isOpen is (slot.openedAt is None):  # its user closed or opened it
                self._hooks.countMissed(resource)
            if slot.reported == slot.takes:
                self._log.info("%r was returned after %.1f s", resource.name, used)
            if error is not None and self._hooks.closesOn(resource, error):
                self._hooks.close(resource, Reason.EXCEPTION)
            elif now > slot.checkAt or slot.takes >= slot.takesLimit:
                self._keeper.closeIfDue(resource, now)
            if slot.hasRepairHooks:
                wasOpen, slot.closing = resource._isOpen, REPAIR
                try:
                    resource.putRepair()
                except Exception:
                    self._log.warning("hook-failed", "putRepair of %r failed; it is closed",
                                      resource.name, exc_info=True)
                    self._hooks.close(resource, REPAIR)
                if resource._isOpen is (slot.openedAt is None):
                    self._hooks.countMissed(resource)
                slot.closing = USER
                if wasOpen and not resource._isOpen:
                    self._hooks.noteBroken()
            slot.trace = None
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
            if held is not None and held._slot is not NOWHERE:
                slot, returned = held._slot, self._queue.returned
                slot.place = RETURNED; returned += (held,)  # noqa: E702
                self._keeper.reclaim()
            raise

    def _refuse(self, resource: Any, error: BaseException | None) -> None:
        """Tell that what is put is not taken; an exception of the user is the one to be seen."""
        if resource._slot.place is RETURNED:
            return  # a finalizer or an interrupted call was faster; it comes back all the same
        misuse = (f"{resource.name!r} is {resource._slot.place}, not checked out: it was "
                  f"already returned (put twice?). Return once what was taken, and do not use it "
                  f"afterwards")
        if error is None:
            raise poolError("put-twice", f"pool {self.name!r}: {misuse}")
        self._log.warning("put-twice", "%s", misuse)

    # -- members

    def _resourceOf(self, thing: Any) -> Any:
        """Return the resource itself, or the one that has ``thing`` open."""
        if isinstance(thing, Resource):
            checkInit(self, thing)
            return thing
        if thing is not None:
            for slot in [*self._queue.members, *self._inheritedSlots]:
                resource = slot.ref()
                if resource is not None and resource.hasOpen(thing):
                    return resource
        raise poolError(
            "not-a-resource",
            f"pool {self.name!r}: only a Resource can be put, or what one of this pool has open, "
            f"not {describe(thing)}. Put what take() returned, and keep it until then: of a "
            f"resource that was dropped everything is closed")

    def _seed(self, resource: Any) -> None:
        """Make a new resource a member, and return it as if it had been taken."""
        checkNew(self, resource)
        if self.closed:
            raise self._closedError()
        slot = self._ledger.issue()
        slot.reset(resource.name)
        try:
            if not self._queue.admit(slot):
                if self.closed:
                    raise self._closedError()
                raise poolError(
                    "full", f"pool {self.name!r} already has all {self.capacity} resources of its "
                    f"capacity; {resource.name!r} was not put. Raise the capacity with resize()")
            join(self, resource, slot)
            slot.takenAt = now = self.clock()
            slot.place = TAKEN
        except BaseException:
            self._keeper.detach(resource, slot)
            raise
        self._takeBack(resource, None, now, isUse=False)

    # -- the whole pool

    def recycle(self) -> None:
        """Close what has expired among the idle, keep ``minOpen`` open, report leaks.

        Blocks in the hooks of those it works on, one after the other, the least recently used
        first. All others stay where they are, so nobody waits for it. Failures of hooks are
        logged. Called on a closed pool it closes what ``close`` had no time for.
        """
        keeper = self._keeper
        if self.closed:
            keeper.drain()
            self._recycler.stop(wait=False)
            return
        keeper.reconcile()
        keeper.reclaimAll()
        keeper.trim()
        keeper.closeDue(minOpen=self.minOpen)
        while keeper.countOpen() < self.minOpen and keeper.openAnother():
            pass
        leaks.reportOverdue(list(self._queue.members), self.leakTime, self.clock(), self._log)

    def warm(self, timeout: float | None = None) -> int:
        """Open ``minOpen`` resources, at least one, now; for a start that fails at once.

        Blocks in ``open``, of one after the other. After ``timeout`` seconds (None: no limit) no
        other one is begun, and PoolTimeout is raised. Raises what ``open`` raises. Returns how
        many are open.
        """
        call = Call()
        call.startedAt = self.clock()
        call.deadline = call.startedAt + checkLimit("timeout", timeout)
        if self.closed:
            raise self._closedError()
        if self._factory is None and not self._queue.members:
            raise poolError("empty", f"pool {self.name!r} has nothing to open: nothing was put "
                            f"into it yet, and it has no factory")
        while self._keeper.countOpen() < max(1, self.minOpen):
            call.now = self.clock()
            if self.closed:
                raise self._closedError()
            if not call.mayRunAnotherHook():
                raise self._timeoutError(call, f"{self._keeper.countOpen()} were opened",
                                         verdict=Verdict.CANNOT_OPEN)
            if not self._keeper.openOne(
                    None if call.deadline == NEVER else call.deadline - call.now):
                if self._breaker.isTripped:
                    raise self._timeoutError(call, f"{self._keeper.countOpen()} were opened",
                                             verdict=Verdict.CANNOT_OPEN)
                break  # what is closed is in the hands of other calls
        return self._keeper.countOpen()

    def startRecycler(self, interval: float = 60) -> None:
        """Start a daemon thread that calls ``recycle`` at once and every ``interval`` seconds.

        Whatever the interval is, it calls ``sampleLoad`` once a second. Does nothing if it runs
        already. The thread survives failing hooks, holds no reference to the pool while it
        sleeps, and ends with the pool, with ``stopRecycler`` or the program.
        """
        seconds = checkSeconds("interval", interval)
        if seconds is None or seconds <= 0:
            raise ValueError(f"interval must be a number of seconds > 0, not {describe(interval)}")
        if self.closed:
            raise self._closedError()
        self._recycler.start(seconds)
        if self.closed and not self._queue.qsize():  # closed meanwhile, perhaps by a hook
            self.stopRecycler()

    def stopRecycler(self) -> None:
        """End the recycler's thread, if it runs; blocks while a recycle is under way."""
        self._recycler.stop(wait=True)

    @property
    def generation(self) -> object:
        """Changed by each ``invalidate``; to be compared with ``is``."""
        return self._limits.generation

    @property
    def newestOpenedAt(self) -> float | None:
        """The instant of ``clock`` at which the newest one of this generation was opened."""
        return max((openedAt for slot in list(self._queue.members)
                    if (openedAt := slot.openedAt) is not None
                    and slot.generation is self.generation), default=None)

    def invalidate(self, timeout: float | None = LEAST_CLOSE_TIME) -> int:
        """Have every resource that is open now closed instead of being used again.

        Idle ones at once, blocking in their close hooks: after ``timeout`` seconds (None: no
        limit) no other one is begun. What is left, and what is taken, is closed by the recycler,
        or by its next take or put. For after a fail-over, a change of credentials or of the
        schema. Returns how many are still open.
        """
        seconds = checkLimit("timeout", timeout)
        self._limits.generation = generation = object()
        self._queue.askToCheck()
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
        self._queue.maxsize = capacity
        self._queue.askToCheck()
        until = self.clock() + LEAST_CLOSE_TIME
        self._keeper.reclaimAll(until)
        self._keeper.trim(until)
        self._queue.notify()

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
        if not queue.isShutDown:
            self._closedAt, self._closedBy = self.clock(), threading.current_thread().name
        queue.shutdown()
        self._queue.askToCheck()
        if self._keeper.drain(max(until, self.clock() + LEAST_CLOSE_TIME)):
            self._recycler.stop(wait=False)
        else:
            self._recycler.stop(wait=False)  # it may sleep for long
            try:
                self._recycler.start(1.0)
            except RuntimeError:  # puts and the next close() go on with it
                self._log.warning("no-thread", "no thread can be started to close what is idle")
        while seconds > 0.0 and queue.members:
            rest = seconds - (time.monotonic() - startedAt)
            if rest <= 0.0 or queue.awaitEnd(rest):
                break
            self._keeper.drain(until)
        return len(queue.members)

    def startAfresh(self) -> None:
        """Forget, in a child process, all that the parent's threads did with this pool.

        Called after each fork. Runs the abandon hook of what nobody uses here; a pool without a
        factory is seeded with it, which runs putRepair. Opens nothing.
        """
        old = self._queue
        interval = self._recycler.interval
        self._recycler = Recycler(self, self._log)
        self._begin(old.maxsize)
        if old.isShutDown:
            self._queue.shutdown()
        self._inheritedSlots += fork.disownAll(old, self._disown, isSeeded=self._factory is None)
        if interval is not None and not self.closed:
            self.startRecycler(interval)

    def _disown(self, resource: Any) -> None:
        """Forget, in a child process, what the parent has open, and seed with it as if new."""
        self._hooks.abandon(resource)
        if resource._slot.droppedFrom is not None:  # it was finalized
            resource = twinOf(resource)
        resource._leavePool()
        if self._factory is None and not self.closed:
            try:
                self._seed(resource)
            except PoolError:  # no room: another one was seeded meanwhile
                pass

    @property
    def leakTrace(self) -> bool:
        """Whether the stack of each take is remembered. May be set at any time."""
        return self._leakTrace

    @leakTrace.setter
    def leakTrace(self, value: bool) -> None:
        self._leakTrace = value
        for slot in list(self._queue.members):
            slot.isLong = slot.isLong or bool(value)
            slot.askToCheck()

    @property
    def histograms(self) -> bool:
        """Whether use times of all resources are counted. Set when the pool is made."""
        return self._histograms

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._queue.isShutDown

    @property
    def capacity(self) -> int:
        """How many resources the pool may have."""
        return self._queue.maxsize

    def stats(self) -> Stats:
        """Return a snapshot of what the pool looks like and what it has done. Never blocks."""
        queue, ledger = self._queue, self._ledger
        closes = ledger.closes()
        return Stats(
            capacity=queue.maxsize, open=self._keeper.countOpen(), idle=self._keeper.countIdle(),
            taken=queue.countTaken(), waiting=queue.waiting(),
            takes=ledger.sum("takes"), waits=ledger.sum("waits"),
            timeouts=ledger.sum("timeouts"), opens=ledger.sum("opens"),
            openErrors=ledger.sum("openErrors"), closes=sum(closes.values()),
            closeErrors=ledger.sum("closeErrors"), closesByReason=closes,
            waitTime=ledger.sum("waitTime"), waitMax=ledger.max("waitMax"),
            openTime=ledger.sum("openTime"), openMax=ledger.max("openMax"),
            useTime=ledger.sum("useTime"), useMax=ledger.max("useMax"),
            waitHistogram=ledger.histogram("wait"), openHistogram=ledger.histogram("open"),
            useHistogram=ledger.histogram("use"))

    def sampleLoad(self) -> None:
        """Note for ``advise`` how many are in use or waited for. The recycler calls it.

        Never blocks, runs no hook. While the pool is closed or reconnecting nothing is noted:
        those who wait then do not wait for want of capacity.
        """
        queue = self._queue
        if not (queue.isShutDown or self._breaker.isTripped):
            inUse = sum(slot.place in (TAKEN, HELD) for slot in list(queue.members))
            ledger = self._ledger
            self._samples.add(inUse + queue.waiting(), queue.maxsize, Counts(
                ledger.sum("takes"), ledger.sum("waits"), ledger.sum("timeouts")))

    def advise(self) -> Advice:
        """Return which capacity and which limits would suit the load that the pool has seen.

        ``print(pool.advise())`` shows it; see ``Advice`` for what it can tell and what not. Blocks
        and locks nothing, runs no hook. The recycler samples the load once a second; with fewer
        than 600 samples since the pool was made or resized, ``least`` is None: it is too early.
        A second that the recycler spends in a slow hook has no sample. In a child process all
        starts afresh.
        """
        loads, before = self._samples.at(self.capacity)
        return adviceFrom(
            self.name, self.stats(), loads, self._recycler.isRunning, self.minOpen,
            {limit: self._limits.given(limit)
             for limit in ("maxIdleTime", "maxOpenTime", "maxUsageCount")}, before)

    def report(self) -> Report:
        """Return what the pool looks like now, and who has what. Blocks and locks nothing.

        ``print(pool.report())`` shows a table: who holds what for how long, and where that thread
        is now. It costs about 0.5 ms for each 10 that are checked out.
        """
        return self._report(None)

    def _report(self, asker: Taker | None, stacks: leaks.Stacks | None = None) -> Report:
        """Return the report. The asker, if any, is a thread that just waited or would have to."""
        now = self.clock()
        lastError, lastErrorAt = self._hooks.lastError or (None, 0.0)
        breaker = self._breaker
        return Report(
            self.name, self.closed, self.capacity, self._keeper.countOpen(),
            self._keeper.countIdle(), self._queue.countTaken(), self._queue.waiting(),
            self._verdict(asker), lastError, None if lastError is None else now - lastErrorAt,
            breaker.isTripped, max(0.0, breaker.retryAt - now) if breaker.isTripped else None,
            self._recycler.isRunning, leaks.holdersOf(
                list(self._queue.members), now, asker, self.name, stacks))

    def _verdict(self, asker: Taker | None) -> Verdict | None:
        """Return why a take would get nothing now; None if it would."""
        queue = self._queue
        if queue.isShutDown:
            return Verdict.SHUTTING_DOWN
        if self._factory is None and not queue.members:
            return Verdict.EMPTY
        if queue.open or queue.returned:
            return None
        opening = [slot.since for slot in list(queue.members)
                   if slot.place is HELD and slot.openedAt is None]
        if self._keeper.countIdle():
            # An open that takes longer than a second is news; the next one may take as long.
            fails = self._hooks.isFailing or self.clock() - min(opening, default=NEVER) > 1.0
            return Verdict.CANNOT_OPEN if fails else None
        if len(opening) > queue.countTaken():
            return Verdict.CANNOT_OPEN
        return Verdict.EXHAUSTED if findKnot(queue, asker) is None else Verdict.NESTED

    def _situation(self) -> str:
        return (f"capacity {self.capacity}, checked out {self._queue.countTaken()}, "
                f"idle {self._keeper.countIdle()}, waiting {self._queue.waiting()}"
                + (", closed" if self.closed else "")
                + (", reconnecting" if self._breaker.isTripped else ""))

    def _closedError(self) -> PoolClosed:
        error = self.closedError(
            f"pool {self.name!r} is closed: close() was called, or the block of 'with pool:' has "
            f"ended, {self.clock() - self._closedAt:.1f} s ago in thread {self._closedBy!r} "
            f"[queuepool:{Verdict.SHUTTING_DOWN}]")
        error.report = self._report(None, self._stacks)
        return error

    def __enter__(self) -> Self:
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
