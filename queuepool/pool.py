"""The pool: it calls all the user's code, and holds no lock while it does.

Every path that takes a resource in hand ends in one of two ways: in its user's hands (``take``)
or laid down again by ``_settle``, whatever is raised in between.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import random
import sys
import threading
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable
from queue import Empty
from threading import get_ident
from types import TracebackType
from typing import Any, Generic, TypeVar, Union

from queuepool import fork, leaks
from queuepool.errors import PoolError, PoolTimeout
from queuepool.idle import SHUT, IdleQueue, Vacancy
from queuepool.outage import NO_OUTAGE, Outage
from queuepool.recycler import Recycler
from queuepool.resource import NEVER, NOWHERE, PAST, Resource, ResourceManager, Slot, Watch
from queuepool.stats import Reason, Stats

__all__ = ["Pool", "ResourceManager"]

R = TypeVar("R", bound=Resource)
P = TypeVar("P", bound="Pool[Any]")

CloseOnException = Union[bool, type[BaseException], tuple[type[BaseException], ...],
                         Callable[[BaseException], bool]]

logger = logging.getLogger("queuepool")
logger.addHandler(logging.NullHandler())

#: Stands for "the pool's takeTimeout" where None means for ever.
POOLS: Any = type("PoolsTakeTimeout", (), {"__repr__": lambda self: "<the pool's takeTimeout>"})()


class Pool(Generic[R]):
    """Keep up to ``capacity`` resources and hand them out, the last used first.

    All limits are None for no limit. Times are seconds (float) of ``clock``.

    - ``maxIdleTime``: an open resource that lay idle for longer is closed.
    - ``maxOpenTime``: an open resource older than this is closed; ``jitter`` (0 to 1) shortens
      the limit of each by a random part of up to that fraction, so that not all go at once.
    - ``maxUsageCount``: an open resource taken this many times is closed.
    - ``closeOnException``: whether an exception in a with-block closes the resource: True,
      False, the class or classes that do, or a callable that gets the exception and answers.
    - ``factory``: called with a name, returns a new closed Resource. All are built here and now;
      without a factory the user seeds the pool with ``put``.
    - ``minOpen``: ``recycle`` keeps this many open.
    - ``takeTimeout``: how long ``take`` waits when it is not told.
    - ``openRetryTime``: when opening fails with an Exception, take tries again for this long, but
      not beyond its own timeout. One thread tries at a time, at growing intervals up to a second;
      the others stand in line and get whatever comes first. 0 raises the first failure at once.
    - ``leakTime``: ``recycle`` reports once what is out for longer.
    - ``leakTrace``: remember the stack of each take, for the reports; makes takes slower.

    Any thread may call any method at any time. Used in a with statement, the pool is closed at
    its end.
    """

    def __init__(self, name: str, capacity: int, maxIdleTime: float | None = 300.0,
                 maxOpenTime: float | None = 300.0, maxUsageCount: int | None = 1000,
                 closeOnException: CloseOnException = True, *,
                 factory: Callable[[str], R] | None = None, minOpen: int = 0,
                 jitter: float = 0.0, takeTimeout: float | None = None,
                 openRetryTime: float = 0.0,
                 leakTime: float | None = None, leakTrace: bool = False,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        _checkWhole("capacity", capacity, 1)
        _checkWhole("minOpen", minOpen, 0)
        if minOpen > capacity:
            raise ValueError(f"minOpen is {minOpen}, more than the capacity, {capacity}")
        if maxUsageCount is not None:
            _checkWhole("maxUsageCount", maxUsageCount, 1)
        if not 0.0 <= jitter <= 1.0:
            raise ValueError(f"jitter is a fraction from 0 to 1, not {jitter!r}")
        if not callable(closeOnException) and not isinstance(closeOnException, (bool, tuple)):
            raise ValueError("closeOnException is True, False, exception classes, or a callable, "
                             f"not {closeOnException!r}")
        self.closeOnException = closeOnException
        self.minOpen = minOpen
        self.takeTimeout = _seconds("takeTimeout", takeTimeout)
        self.openRetryTime = _limit("openRetryTime", openRetryTime)
        self.leakTime = _seconds("leakTime", leakTime)
        self.leakTrace = leakTrace
        self._maxIdleTime = _limit("maxIdleTime", maxIdleTime)
        self._maxOpenTime = _limit("maxOpenTime", maxOpenTime)
        self._maxUsageCount = sys.maxsize if maxUsageCount is None else maxUsageCount
        self._jitter = jitter
        self._factory = factory
        self._clock = clock
        #: Changed by invalidate(): what was opened under another one is closed.
        self._epoch = object()
        #: Set from the first failure to open to the next success, if openRetryTime is.
        self._outage: Outage | None = None
        #: Every slot there ever was; counters are summed over all of them.
        self._slots: list[Slot] = []
        #: Those that no resource fills. Whoever pops one may write it.
        self._spareSlots: list[Slot] = []
        #: What is to be logged of dropped resources.
        self._unsaid: deque[str] = deque()
        #: At most one entry, "thread"; setdefault and pop decide who starts and stops it.
        self._recycler: dict[str, Recycler] = {}
        self._queue = IdleQueue(name, capacity, self._dropped, self._mend)
        if factory is not None:
            self._mend()
            for slot in reversed(list(self._queue.members.values())):
                self._queue.layDown(self._build(self._queue.closed.pop(slot)))
        fork.remember(self)

    # -- take and put

    def take(self, timeout: float | None = POOLS) -> R:
        """Take a resource, open, for the caller to use and put back.

        Blocks until one is free, at most ``timeout`` seconds: left out for the pool's
        ``takeTimeout``, None for ever, 0 not at all. Those who wait are served first come first
        served. Raises PoolTimeout at that time's end, PoolClosed when the pool is or gets
        closed, and whatever the hooks raise. Runs close if the resource is due, takeRepair, and
        open if it is closed; an open one is preferred. The caller owns the resource afterwards;
        ``with pool.take() as resource:`` gives it back.
        """
        queue = self._queue
        now = self._clock()
        if timeout is not POOLS:
            timeout = _seconds("timeout", timeout)
        if not queue.line:
            try:
                resource = queue.open.pop()
            except IndexError:
                pass
            else:
                slot = resource._slot
                if now <= slot.shortUntil and now - slot.lastUsedAt <= self._maxIdleTime:
                    slot.takes += 1
                    slot.takenBy = get_ident()
                    slot.takenAt = now
                    return resource  # type: ignore[return-value]
                return self._prepare(resource, now, now, timeout)  # type: ignore[return-value]
        return self._prepare(None, now, now, timeout)  # type: ignore[return-value]

    def put(self, resource: R) -> None:
        """Give a taken resource back, or seed the pool with a new one.

        Blocks only in hooks, and raises nothing of theirs: failures are logged and the resource
        closed. Raises PoolError, and changes nothing, for what is not taken, is another pool's, is
        one more than the capacity, is no Resource or has an ``__eq__``; PoolClosed for a new one
        when the pool is closed. Runs putRepair, and close if the resource is due or the pool
        closed. The pool owns the resource afterwards.
        """
        if getattr(resource, "_pool", None) is self:
            Resource.__exit__(resource, None, None, None)
        else:
            self._seed(resource)

    # -- the rest of take

    def _prepare(self, resource: Resource | None, now: float, startedAt: float,
                 timeout: float | None) -> Resource:
        """Make a resource in hand fit for use, and take it: this one, or one that is better.

        None stands for no resource yet. ``startedAt`` and ``timeout`` are the take's.
        """
        queue = self._queue
        if timeout is POOLS:
            timeout = self.takeTimeout
        deadline = NEVER if timeout is None else startedAt + timeout
        isFirst = False
        try:
            while True:
                if resource is None:
                    resource, now = self._wait(now, startedAt, deadline, isFirst)
                if type(resource) is Vacancy:
                    resource = self._build(resource)
                slot = resource._slot
                slot.takenBy = get_ident()
                if now > slot.checkAt or now - slot.lastUsedAt > self._maxIdleTime:
                    self._closeIfDue(resource, now)
                if slot.isHooked:
                    resource.takeRepair()
                    if not resource._isOpen or resource._openings != slot.openings:
                        self._note(resource, Reason.REPAIR, now)
                if resource._isOpen:
                    break
                better = queue.pick(openOnly=True)
                if better is None and not queue.isOverfull:
                    better = self._openInTurn(resource, startedAt, deadline)
                    now = self._clock()
                    if better is resource:
                        break
                # Named first, settled then: an interruption between the two settles none twice.
                closed, resource = resource, better
                self._settle(closed)
                del closed  # who takes and drops it next is not to wait for this call
                isFirst = True
            if queue.line is SHUT:
                raise queue.closedError()
            if self.leakTrace:
                slot.trace = "".join(traceback.format_stack(sys._getframe(2)))
            slot.takes += 1
            slot.takenAt = now
            return resource
        except BaseException:
            if resource is not None:
                resource._slot.takenAt = None
                try:
                    if queue.line is not SHUT:
                        self._close(resource, Reason.REPAIR)
                finally:
                    self._settle(resource)
            if queue.line is SHUT:
                self._drain()
            raise

    def _wait(self, now: float, startedAt: float, deadline: float,
              isFirst: bool) -> tuple[Resource, float]:
        """Take any idle resource in hand, standing in line for it; return it and the time then."""
        queue = self._queue
        if self._factory is not None and len(queue.members) < queue.capacity:
            self._mend()
        try:
            resource = queue.pick() if isFirst or not queue.line else None
            if resource is not None:
                return resource, now
            if queue.line is SHUT:
                raise queue.closedError()
            if now >= deadline:
                raise Empty
            try:
                resource = queue.get(
                    timeout=None if deadline == NEVER else deadline - now, isFirst=isFirst)
            except BaseException:
                slot = self._popSpare()
                slot.countWait(self._clock() - now)
                self._spareSlots.append(slot)
                raise
            then = self._clock()
            resource._slot.countWait(then - now)
            return resource, then
        except Empty:
            raise self._timeout(
                f"no resource came free in {self._clock() - startedAt:.3f} s "
                f"(timeout {deadline - startedAt:g} s)") from (self._outage or NO_OUTAGE).error

    def _timeout(self, message: str) -> PoolTimeout:
        """Count a time-out and return what to raise."""
        slot = self._popSpare()
        slot.timeouts += 1
        self._spareSlots.append(slot)
        return PoolTimeout(f"pool {self.name!r}: {message}: {self._situation()}")

    def _build(self, resource: Resource) -> Resource:
        """Have the factory build what a vacancy stands for."""
        self._sayDropped()
        slot = resource._slot
        assert self._factory is not None, "only a pool with a factory has vacancies"
        built = self._factory(slot.name)
        if not isinstance(built, Resource) or built._slot is not NOWHERE:
            raise PoolError(
                f"pool {self.name!r}: the factory has to return a new Resource each time; "
                f"for {slot.name!r} it returned {built!r}")
        self._checkIdentity(built)
        self._adopt(slot, built)
        self._queue.fill(slot, built, slot.watch)
        return built

    def _openInTurn(self, resource: Resource, startedAt: float,
                    deadline: float) -> Resource | None:
        """Open a held resource if it is its turn; if that fails, try again while there is time.

        Returns it when it is open, or another one, also held, that came free meanwhile and is to
        be used instead; None if another thread is trying to open: there is nothing but to wait.
        """
        queue = self._queue
        while queue.claimTrial(resource._slot):
            outage = self._outage
            if outage is not None:
                giveUpAt = min(
                    deadline, max(startedAt, outage.startedAt) + self.openRetryTime)
                pause = min(outage.nextTryAt, giveUpAt) - self._clock()
                if pause > 0.0:
                    with contextlib.suppress(Empty):
                        return queue.get(timeout=pause, isFirst=True)
                if outage.nextTryAt > giveUpAt:
                    raise self._timeout(
                        f"{resource.name!r} could not be opened in "
                        f"{self._clock() - startedAt:.3f} s; the last attempt failed with "
                        f"{outage.error!r}") from outage.error
            try:
                self._open(resource)
                return resource
            except Exception as error:
                if not self.openRetryTime:
                    raise
                self._warn("opening %r failed; it is tried again", resource.name, exc_info=True)
                queue.isDoubtful = True
                if queue.claimTrial(resource._slot):
                    now = self._clock()
                    outage = self._outage or Outage(now)
                    outage.noteFailure(error, now)
                    self._outage = outage
        return None

    def _open(self, resource: Resource) -> None:
        """Run open(), count it, and set the limits that hold from now on."""
        slot = resource._slot
        epoch = self._epoch  # read before: what is invalidated while it opens is invalid
        slot.takesAtOpen = slot.takes
        startedAt = self._clock()
        try:
            resource.open()
            if not resource._isOpen:
                raise PoolError(
                    f"pool {self.name!r}: {type(resource).__name__}.open() of "
                    f"{resource.name!r} did not call super().open() at its end")
        except BaseException:
            slot.openErrors += 1
            slot.countOpen(self._clock() - startedAt)
            self._closeHalfOpen(resource)
            raise
        now = self._clock()
        slot.countOpen(now - startedAt)
        self._noteOpened(resource, epoch, now)
        self._log(logging.DEBUG, "opened %r in %.3f s", resource.name, now - startedAt)

    def _note(self, resource: Resource, reason: Reason, now: float) -> None:
        """Count what the user's code may have closed or opened by itself."""
        slot = resource._slot
        if slot.openedAt is not None:
            slot.countClose(reason)
            self._log(logging.DEBUG, "closed %r: %s", resource.name, reason)
            if self.openRetryTime and reason in (Reason.EXCEPTION, Reason.REPAIR):
                self._queue.isDoubtful = True  # perhaps it is not this one alone
        if resource._isOpen and slot.openedAt is None:
            self._noteOpened(resource, self._epoch, now)

    def _noteOpened(self, resource: Resource, epoch: object, now: float) -> None:
        """Count what is open from now on, and set its limits."""
        slot = resource._slot
        if slot.openedAt is not None:  # its close was interrupted before it was counted
            slot.countClose(Reason.EXCEPTION)
        slot.opens, slot.openedAt = slot.opens + 1, now
        slot.lastUsedAt = now
        slot.openings = resource._openings
        slot.takesAtOpen = slot.takes
        slot.takesLimit = slot.takes + self._maxUsageCount
        slot.retireAt = now + self._maxOpenTime * (1.0 - self._jitter * random.random())
        slot.epoch = epoch
        self._resetCheck(slot)
        if self._outage is not None or self._queue.isDoubtful:
            self._outage = None
            self._queue.endDoubt()

    def _closeHalfOpen(self, resource: Resource) -> None:
        """Close what a failed open() left behind; the exception of the open is what counts."""
        if resource.resource is not None or resource._isOpen:
            try:
                resource.close()
            except Exception:
                self._warn("close of the half open %r failed", resource.name, exc_info=True)
            finally:
                resource.resource = None
                resource._isOpen = False

    # -- the rest of put

    def _seed(self, resource: R) -> None:
        """Make a new resource a member and lay it down."""
        if not isinstance(resource, Resource):
            raise PoolError(f"pool {self.name!r}: only a Resource can be put, not {resource!r}")
        owner = resource._pool
        if owner is not None and owner._queue.isMember(resource):
            raise PoolError(
                f"pool {self.name!r}: {resource.name!r} belongs to pool {owner.name!r}, where it "
                f"is {owner._queue.placeOf(resource).value}; put it back there")
        if self.closed:
            raise self._queue.closedError()
        self._checkIdentity(resource)
        self._sayDropped()
        slot = self._popSpare()
        slot.name = resource.name
        try:
            self._queue.admit(slot, resource)
            self._adopt(slot, resource)
            slot.takenBy = get_ident()
            slot.takenAt = now = self._clock()
        except BaseException:
            if resource._slot is slot:  # it was admitted
                self._queue.dismiss(resource)
                resource._slot = NOWHERE
                resource._pool = None
            self._spareSlots.append(slot)
            raise
        self._takeBack(resource, None, now)

    def _checkIdentity(self, resource: Resource) -> None:
        kind = type(resource)
        if kind.__eq__ is not object.__eq__:
            raise PoolError(
                f"pool {self.name!r}: {resource.name!r} cannot be kept: resources are told apart "
                f"by identity, and {kind.__name__} defines __eq__; remove it (for a dataclass: "
                f"eq=False)")

    def _adopt(self, slot: Slot, resource: Resource) -> None:
        """Set up a slot for a new resource, and the resource for this pool."""
        resource._pool = self
        resource._slot = slot
        # Asked of the methods: a look into vars() would make each later attribute read slower.
        slot.isHooked = (
            self.leakTrace
            or getattr(resource.takeRepair, "__func__", None) is not Resource.takeRepair
            or getattr(resource.putRepair, "__func__", None) is not Resource.putRepair)
        slot.takenAt = slot.openedAt = slot.overdueSince = slot.trace = None
        slot.takesAtOpen = slot.takes
        slot.openings = 0
        slot.askToCheck()

    def _takeBack(self, resource: Resource, error: BaseException | None, now: float) -> None:
        """Close and clean what was taken, as it is due, and lay it down.

        ``error`` is what its user's with-block raised.
        """
        slot = resource._slot
        takenAt = slot.takenAt  # read and cleared at once: of two who put the same, one gets on
        slot.takenAt = None
        if takenAt is None:
            self._refuse(resource, error)
            return
        if slot.watch not in self._queue.members:
            fork.disown(self, resource)  # it was taken before the fork
            return
        isFit = False
        try:
            slot.takenBy = get_ident()
            used = now - takenAt
            slot.useTime += used
            if used > slot.useMax:
                slot.useMax = used
            if slot.overdueSince == takenAt:
                self._log(logging.INFO, "%r came back after %.1f s", resource.name, used)
            slot.lastUsedAt = now
            slot.trace = None
            if not resource._isOpen or resource._openings != slot.openings:
                self._note(resource, Reason.USER if error is None else Reason.EXCEPTION, now)
            if error is not None and self._closesOn(resource, error):
                self._close(resource, Reason.EXCEPTION)
            elif now > slot.checkAt or slot.takes >= slot.takesLimit:
                self._closeIfDue(resource, now)
            if slot.isHooked:
                try:
                    resource.putRepair()
                except Exception:
                    self._warn("putRepair of %r failed; it is closed", resource.name,
                               exc_info=True)
                    self._close(resource, Reason.REPAIR)
                if not resource._isOpen or resource._openings != slot.openings:
                    self._note(resource, Reason.REPAIR, now)
            isFit = True
        finally:
            try:
                if not isFit:
                    self._close(resource, Reason.REPAIR)
            finally:
                self._settle(resource)

    def _refuse(self, resource: Resource, error: BaseException | None) -> None:
        """Tell that what is put is not taken; a user's own exception is the one to be seen."""
        misuse = (f"{resource.name!r} cannot be put, it is not taken but "
                  f"{self._queue.placeOf(resource).value}. Put back what was taken once, and "
                  f"do not use it afterwards")
        if error is None:
            raise PoolError(f"pool {self.name!r}: {misuse}")
        self._warn("%s", misuse)

    def _closesOn(self, resource: Resource, error: BaseException) -> bool:
        """Tell whether what its user's with-block raised closes the resource."""
        rule = self.closeOnException
        try:
            resource._noteError(error)
        except Exception:
            self._warn("%r failed to look at an exception", resource.name, exc_info=True)
        try:
            if isinstance(rule, (type, tuple)):
                return isinstance(error, rule)
            return bool(rule(error) if callable(rule) else rule)
        except Exception:
            self._warn("closeOnException failed; the resource is closed", exc_info=True)
            return True

    # -- what take, put and recycle share

    def _closeIfDue(self, resource: Resource, now: float) -> None:
        """Close a held resource if one of the limits says so.

        Resets the check before it looks, so that what is asked for later is seen later.
        """
        slot = resource._slot
        self._resetCheck(slot)
        reason = self._due(slot, now)
        if reason is not None:
            self._close(resource, reason)

    def _resetCheck(self, slot: Slot) -> None:
        slot.checkAt = slot.retireAt
        slot.shortUntil = PAST if slot.isHooked else slot.retireAt
        if slot.epoch is not self._epoch or self._queue.isOverfull:
            slot.askToCheck()

    def _due(self, slot: Slot, now: float) -> Reason | None:
        if slot.openedAt is None:
            return None
        if slot.epoch is not self._epoch:
            return Reason.INVALIDATED
        if now > slot.retireAt:
            return Reason.AGE
        if slot.takes >= slot.takesLimit:
            return Reason.USAGE
        if now - slot.lastUsedAt > self._maxIdleTime:
            return Reason.IDLE
        return None

    def _close(self, resource: Resource, reason: Reason) -> None:
        """Run close() if the resource is open; it is closed and counted whatever comes of that."""
        try:
            if resource._isOpen:
                resource.close()
        except BaseException as error:
            resource.resource = None
            resource._slot.closeErrors += 1
            self._warn("close of %r failed; it counts as closed", resource.name, exc_info=True)
            if not isinstance(error, Exception):
                raise
        finally:
            resource._isOpen = False
            self._note(resource, reason, 0.0)

    def _settle(self, resource: Resource) -> None:
        """Lay a held resource down: the one way out that does not lead to a user."""
        queue = self._queue
        watch = resource._slot.watch
        # What queue.isMember tells, without its call.
        if watch is not None and watch in queue.members and watch() is resource:
            queue.layDown(resource)
            if queue.line or len(queue.members) > queue.capacity:
                self._attend()

    def _attend(self) -> None:
        """See to what has come up when a resource was laid down."""
        queue = self._queue
        if queue.line is SHUT:
            self._drain()
        else:
            if len(queue.members) > queue.capacity:
                self._trim()
            queue.serve()

    def _drain(self) -> None:
        """Close what lies in a closed pool: all of it, even if one close is interrupted."""
        interruption = None
        resource = self._queue.pickColdest()
        while resource is not None:
            try:
                self._letGo(resource, Reason.POOL_CLOSED)
            except BaseException as error:
                interruption = interruption or error
            resource = self._queue.pickColdest()
        if interruption is not None:
            raise interruption

    def _trim(self) -> None:
        """Let idle resources go until no more than the capacity are left, closed ones first."""
        queue = self._queue
        while queue.isOverfull:
            resource = queue.pickColdest()
            if resource is None:
                return  # the rest goes when it comes back
            self._letGo(resource, Reason.SHRUNK)

    def _letGo(self, resource: Resource, reason: Reason) -> None:
        """Close a held resource and let it leave the pool for good.

        If it was one too many, that is settled first: it may be no more.
        """
        queue = self._queue
        slot = resource._slot
        if reason is Reason.SHRUNK and not queue.dismiss(resource, onlySurplus=True):
            queue.put(resource)
            return
        try:
            self._close(resource, reason)
        finally:
            if reason is Reason.POOL_CLOSED:
                queue.dismiss(resource)
            queue.leaving.discard(resource)
            resource._slot = NOWHERE
            self._spareSlots.append(slot)
            if len(queue.members) < queue.capacity and queue.line is not SHUT:
                self._mend()  # the pool grew again meanwhile

    def _dropped(self, watch: Watch) -> None:
        """Bring the slot of a dropped resource back.

        Called by the garbage collector, in any thread at any moment: takes no lock, and the slot
        is back before anything is said about it.
        """
        queue = self._queue
        slot = queue.members.get(watch)
        if slot is None or sys.is_finalizing():
            return
        takenAt, trace = slot.takenAt, slot.trace
        if self._factory is None or queue.line is SHUT or slot.watch is not watch:
            if queue.forget(watch) is None:
                return
            self._noteDropped(slot)
            self._spareSlots.append(slot)
            after = "its slot is free: put another one"
        else:
            vacancy = Vacancy(slot.name)
            if not queue.fill(slot, vacancy, watch):
                return  # another thread was faster
            self._noteDropped(slot)
            self._adopt(slot, vacancy)
            queue.put(vacancy)
            if queue.line is SHUT and queue.closed.pop(slot, None) is not None:
                queue.dismiss(vacancy)
            after = "its slot is filled anew"
        if takenAt is None:  # not its user's fault
            if self._factory is None and queue.line is not SHUT:
                self._unsaid.append(f"{slot.name!r} was dropped in the middle of a take or put, "
                                    f"as by an interruption; {after}")
            return
        message = (f"{slot.name!r} was taken and dropped, and never put back; {after}"
                   + (f". It was taken here:\n{trace}" if trace else ""))
        self._unsaid.append(message)
        warnings.warn(f"pool {self.name!r}: {message}", ResourceWarning, stacklevel=2)

    def _sayDropped(self) -> None:
        """Log what was dropped: not the collector does that, for logging may take locks."""
        with contextlib.suppress(IndexError):
            while True:
                self._warn("%s", self._unsaid.popleft())

    def _noteDropped(self, slot: Slot) -> None:
        self._queue.endTrial(slot)
        if slot.openedAt is not None:
            slot.countClose(Reason.DROPPED)

    def _mend(self) -> None:
        """Bring the members to the number there should be, whatever was interrupted or resized."""
        queue = self._queue
        for watch in list(queue.members):
            if watch() is None:
                self._dropped(watch)
        if queue.line is SHUT:
            self._drain()
        else:
            if self._factory is not None and len(queue.members) < queue.capacity:
                used = {slot.name for slot in list(queue.members.values())}
                names = itertools.filterfalse(
                    used.__contains__, map(lambda n: f"{self.name}-{n}", itertools.count()))
                queue.fillUp(lambda: self._makeVacancy(next(names)))
            self._trim()

    def _makeVacancy(self, name: str) -> Vacancy:
        slot = self._popSpare()
        slot.name = name
        vacancy = Vacancy(name)
        self._adopt(slot, vacancy)
        return vacancy

    # -- the whole pool

    def recycle(self) -> None:
        """Close what is due among the idle, open what minOpen asks for, report what is out long.

        Blocks in the hooks of those it works on, one after the other, the longest idle first;
        live resources stay where they are, so nobody waits for it. Failures of hooks are logged.
        """
        now = self._clock()
        self._mend()
        self._sayDropped()
        self._closeDue(now)
        self._openMissing()
        leaks.reportOverdue(self, now)

    def _closeDue(self, now: float) -> None:
        queue = self._queue
        # Of slots: what somebody takes and drops meanwhile is not to be kept alive by this list.
        for slot in [resource._slot for resource in queue.open.copy()]:
            if self._due(slot, now) is None:
                continue
            resource = queue.claim(slot)
            if resource is None:
                continue
            slot.takenBy = get_ident()
            try:
                self._closeIfDue(resource, now)  # anew: before the claim it was not in hand
            finally:
                self._settle(resource)

    def _openMissing(self) -> None:
        queue = self._queue
        missing = self.minOpen and self.minOpen - self._countOpen()  # counting takes a while
        while missing > 0 and queue.line is not SHUT:
            resource = queue.pickClosed()
            if resource is None:
                return
            resource._slot.takenBy = get_ident()
            try:
                if type(resource) is Vacancy:
                    resource = self._build(resource)
                self._open(resource)
                missing -= 1
            except Exception:
                self._warn("opening %r ahead of use failed", resource.name, exc_info=True)
                missing = 0
            finally:
                self._settle(resource)

    def startRecycler(self, interval: float = 60) -> None:
        """Start a daemon thread that calls ``recycle`` every ``interval`` seconds.

        Does nothing if it runs already. The thread survives failing hooks, holds no reference to
        the pool while it sleeps, and ends with the pool, with ``stopRecycler`` or the program.
        """
        seconds = _seconds("interval", interval)
        if seconds is None or seconds <= 0:
            raise ValueError(f"interval is a number of seconds above 0, not {interval!r}")
        if self.closed:
            raise self._queue.closedError()
        recycler = Recycler(self, seconds)
        try:
            if self._recycler.setdefault("thread", recycler) is recycler:
                recycler.start()
        except BaseException:
            if self._recycler.get("thread") is recycler and not recycler.isAlive:
                del self._recycler["thread"]
            raise
        if self.closed:  # meanwhile, perhaps by a hook that the recycler ran
            self.stopRecycler()

    def stopRecycler(self) -> None:
        """End the recycler's thread, if it runs; blocks while a recycle is under way."""
        recycler = self._recycler.pop("thread", None)
        if recycler is not None:
            recycler.stop()
            recycler.join()

    def invalidate(self) -> None:
        """Have every resource that is open now closed instead of being used again.

        Idle ones at once, blocking in their close hooks; taken ones when they come back. For
        after a fail-over, a change of credentials or of the schema.
        """
        self._epoch = object()
        for slot in list(self._queue.members.values()):
            slot.askToCheck()
        self._closeDue(self._clock())

    def resize(self, capacity: int) -> None:
        """Change how many resources the pool has.

        With a factory, new ones are built when they are taken; without, there is room to seed.
        When it shrinks, closed ones go at once, then the longest idle (blocks in their close
        hooks), and the rest when they come back. Those who wait profit at once.
        """
        _checkWhole("capacity", capacity, 1)
        if self.closed:
            raise self._queue.closedError()
        queue = self._queue
        queue.capacity = capacity
        for slot in list(queue.members.values()):
            slot.askToCheck()
        self._mend()

    def close(self, timeout: float | None = 0.0) -> int:
        """Close the pool: tell those who wait, then close what is idle.

        What is out is closed when it is put back. Blocks in the close hooks, then up to
        ``timeout`` seconds until everything is back: 0 not at all, None as long as it takes.
        Returns how many resources are still out. May be called again, from any thread.
        """
        seconds = _seconds("timeout", timeout)
        queue = self._queue
        queue.shut()
        recycler = self._recycler.pop("thread", None)
        if recycler is not None:
            recycler.stop()
        self._drain()
        self._sayDropped()
        if queue.members and seconds != 0.0:
            queue.awaitEnd(seconds)
        return len(queue.members)

    @property
    def closed(self) -> bool:
        """Tell whether ``close`` was called."""
        return self._queue.line is SHUT

    @property
    def capacity(self) -> int:
        """Tell how many resources the pool may have."""
        return self._queue.capacity

    def stats(self) -> Stats:
        """Return a snapshot of what the pool looks like and what it has done; never blocks."""
        queue = self._queue
        slots = list(self._slots)
        byReason = dict.fromkeys(Reason, 0)
        for slot in slots:
            for reason, count in dict(slot.closes or ()).items():
                byReason[reason] += count
        return Stats(
            capacity=queue.capacity, open=self._countOpen(), idle=queue.qsize(),
            taken=self._countTaken(), waiting=queue.waiting(),
            takes=sum(slot.takes for slot in slots),
            waits=sum(slot.waits for slot in slots),
            timeouts=sum(slot.timeouts for slot in slots),
            opens=sum(slot.opens for slot in slots),
            openErrors=sum(slot.openErrors for slot in slots),
            closes=sum(byReason.values()),
            closeErrors=sum(slot.closeErrors for slot in slots),
            closesByReason=byReason,
            waitTime=sum(slot.waitTime for slot in slots),
            waitMax=max((slot.waitMax for slot in slots), default=0.0),
            openTime=sum(slot.openTime for slot in slots),
            openMax=max((slot.openMax for slot in slots), default=0.0),
            useTime=sum(slot.useTime for slot in slots),
            useMax=max((slot.useMax for slot in slots), default=0.0))

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

    # -- small things

    def _situation(self) -> str:
        queue = self._queue
        return (f"capacity {queue.capacity}, taken {self._countTaken()}, idle {queue.qsize()}, "
                f"waiting {queue.waiting()}"
                + (", closed" if self.closed else "")
                + (", one is being tried" if queue.isDoubtful else ""))

    def _countTaken(self) -> int:
        return sum(slot.takenAt is not None for slot in list(self._queue.members.values()))

    def _countOpen(self) -> int:
        return sum(slot.openedAt is not None for slot in list(self._queue.members.values()))

    def _popSpare(self) -> Slot:
        """Return a slot that nobody else writes, to be pushed back or filled."""
        try:
            return self._spareSlots.pop()
        except IndexError:
            slot = Slot("")
            self._slots.append(slot)
            return slot

    def _warn(self, message: str, *args: object, exc_info: bool = False) -> None:
        self._log(logging.WARNING, message, *args, exc_info=exc_info)

    def _log(self, level: int, message: str, *args: object, exc_info: bool = False) -> None:
        # What is wrong with the logging must not become the pool's failure.
        with contextlib.suppress(Exception):
            if logger.isEnabledFor(level):
                logger.log(level, "pool %s: " + message, self.name, *args, exc_info=exc_info)


def _checkWhole(what: str, number: object, least: int) -> None:
    if not isinstance(number, int) or isinstance(number, bool) or number < least:
        raise ValueError(f"{what} is a whole number from {least} up, not {number!r}")


def _seconds(what: str, number: float | None) -> float | None:
    """Check a time in seconds; None is for ever, and so is what no thread can wait for."""
    if number is None:
        return None
    if not isinstance(number, (int, float)) or isinstance(number, bool) or not number >= 0:
        raise ValueError(f"{what} is None or a number of seconds from 0 up, not {number!r}")
    return float(number) if number <= threading.TIMEOUT_MAX else None


def _limit(what: str, number: float | None) -> float:
    seconds = _seconds(what, number)
    return NEVER if seconds is None else seconds
