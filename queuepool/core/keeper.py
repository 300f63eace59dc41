"""What a pool does with the resources that nobody uses: builds, returns, closes and evicts them."""

from __future__ import annotations

import contextlib
import functools
import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from weakref import ref

from queuepool.core.breaker import CircuitBreaker
from queuepool.core.call import Call
from queuepool.core.hooks import Hooks
from queuepool.core.idle import IdleQueue
from queuepool.core.leaks import currentTaker
from queuepool.core.limits import Limits
from queuepool.core.log import Log
from queuepool.core.slot import NEVER, Ledger, Place, Slot
from queuepool.stats import Reason

IDLE, HELD = Place.IDLE, Place.HELD

T = TypeVar("T")


def withHand(method: Callable[..., T]) -> Callable[..., T]:
    """Give a method of the Keeper a call of its own, whose hand is returned whatever is raised.

    Not a with statement: its end may need more of the stack than its block did.
    """
    @functools.wraps(method)
    def run(keeper: Keeper, *args: Any) -> T:
        call = Call()
        call.resource = None
        try:
            return method(keeper, call, *args)
        except BaseException:
            keeper._queue.giveBack(call.resource)
            raise

    return run


class Keeper:
    """Keeps the resources of a pool that nobody uses. Every method may run hooks, and block.

    ``until`` is an instant of the clock: after it no further hook is begun.
    """

    def __init__(self, name: str, clock: Callable[[], float],
                 factory: Callable[[str], Any] | None, join: Callable[[Any, Slot], None],
                 disown: Callable[[Any], None], queue: IdleQueue, hooks: Hooks, limits: Limits,
                 breaker: CircuitBreaker, ledger: Ledger, log: Log) -> None:
        self._clock = clock
        self._factory = factory
        #: Connects a new resource with its slot and its pool, or raises PoolError.
        self._join = join
        #: Forgets, in a child process, what the parent opened.
        self._disown = disown
        self._queue = queue
        self._hooks = hooks
        self._limits = limits
        self._breaker = breaker
        self._ledger = ledger
        self._log = log
        self._name = name
        self._numbers = itertools.count()

    # -- members come and go

    def build(self, call: Call) -> bool:
        """Have the factory build another member. Return False without one, or without room."""
        if self._factory is None or not self._queue.hasRoom:
            return False
        slot = self._ledger.issue()
        slot.reset(f"{self._name}-{next(self._numbers)}")
        resource = None
        try:
            if self._queue.admit(slot):
                resource = self._factory(slot.name)
                self._join(resource, slot)
                call.resource = resource
                if self._queue.hasRoom:
                    self._queue.notify()
                return True
        except BaseException:
            call.resource = None
            self.detach(resource, slot)
            raise
        self._ledger.keep(slot)
        return False

    def detach(self, resource: Any, slot: Slot) -> None:
        """Let a resource leave the pool for good, and keep its slot for another one."""
        self._queue.evict(slot)
        if getattr(resource, "_slot", None) is slot:
            resource._leavePool()
        self._ledger.keep(slot)

    def release(self, call: Call) -> None:
        """Make what is in hand idle. It leaves instead if it is surplus or the pool is closed."""
        queue = self._queue
        resource = call.resource
        slot = resource._slot
        if slot.queue is not queue:  # a hook has forked, and this is the child
            call.resource = None
            self._disown(resource)
            return
        if self._breaker.isTripped:
            self._breaker.release(slot)
        if queue.isShutDown:
            self._leave(call, Reason.POOL_CLOSED)
            return
        if len(queue.members) > queue.maxsize and queue.startLeaving(slot):
            self._leave(call, Reason.SHRUNK)
            return
        put = queue.open.append if resource._isOpen else (
            queue.closed.appendleft if slot.isTriedLast else queue.closed.append)
        # One line, see Call. The place comes first: once it is idle, another thread may take it.
        slot.place = IDLE; call.resource = None; put(resource)  # noqa: E702
        if queue.waiters:
            self.attend()

    def attend(self) -> None:
        """See to what has to be done after a resource became idle."""
        if self._queue.isShutDown:  # it was put while the pool was being closed
            if not self._closeOne(self._queue.openPicks):
                self._closeOne(self._queue.closedPicks)
        else:
            self._queue.notify()

    def _leave(self, call: Call, reason: Reason) -> None:
        """Close what is in hand, and let it leave the pool for good."""
        queue = self._queue
        resource = call.resource
        slot = resource._slot
        try:
            self._hooks.close(resource, reason)
        finally:
            if resource._isOpen:
                pass  # something was raised before its close began: it stays in hand
            elif reason is Reason.SHRUNK and not queue.finishLeaving(slot):
                self.release(call)  # the pool grew again meanwhile
            else:
                self.detach(resource, slot)
                call.resource = None

    # -- what came back without a put

    @withHand
    def reclaim(self, call: Call) -> bool:
        """Close one resource that came back without a put. Return False if there is none."""
        if not self._queue.pick(call, self._queue.returnedPicks):
            return False
        if self.restore(call):
            self.release(call)
        return True

    def reclaimAll(self, until: float = NEVER) -> None:
        """Close what came back without a put."""
        while self._queue.returned and self._clock() <= until:
            self.reclaim()

    def restore(self, call: Call) -> bool:
        """Close what is in hand and came back without a put. Return False if it is no member."""
        resource = call.resource
        slot = resource._slot
        if slot.queue is not self._queue:
            call.resource = None
            if slot.queue is None:
                self._disown(resource)
            return False
        droppedFrom, slot.droppedFrom = slot.droppedFrom, None
        wasDropped = droppedFrom is Place.TAKEN
        slot.place = HELD
        slot.takenBy = currentTaker()
        slot.timeout = None
        slot.isTriedLast = slot.isTriedLast or not wasDropped
        slot.ref = ref(resource)  # the collector clears weak references to what is in a cycle
        reason = (Reason.DROPPED if wasDropped else
                  Reason.POOL_CLOSED if self._queue.isShutDown else Reason.REPAIR)
        try:
            self._hooks.close(resource, reason)
        finally:
            if droppedFrom is not None:
                self._replaceByTwin(call)
        if call.resource is None:
            return False
        if wasDropped:
            self._tellDropped(slot)
        return True

    def _replaceByTwin(self, call: Call) -> None:
        """Replace what was dropped by an object like it.

        CPython finalizes an object only once: if this one were dropped again, nobody would know.
        """
        resource = call.resource
        slot = resource._slot
        try:
            call.resource = twinOf(resource)
            slot.ref = ref(call.resource)
            slot.isNew = True
        except Exception:  # as of a class of which only C code can make an object
            call.resource = None
            self.detach(resource, slot)
            self._log.warning("lost", "%r was dropped and cannot be used again; the pool has room "
                              "for another resource", slot.name)

    def _tellDropped(self, slot: Slot) -> None:
        message = (
            f"{slot.name!r} was taken and dropped without being returned; it was closed and is "
            f"in the pool again. Return it with put() or take it in a with statement; keep what "
            f"take() returned for as long as you use its 'resource'")
        trace, slot.trace = f"It was taken at:\n{slot.trace}" if slot.trace else "", None
        self._log.warning("dropped", "%s", message, details=trace)
        with contextlib.suppress(ResourceWarning):  # where warnings are errors: not this call's
            warnings.warn(f"pool {self._log.poolName!r}: {message} [queuepool:dropped]\n{trace}",
                          ResourceWarning, stacklevel=2)

    # -- upkeep

    def reconcile(self) -> None:
        """Find the slots of resources that are no more, and log them."""
        self._queue.reconcile()
        while True:
            try:
                slot = self._queue.lost.popleft()
            except IndexError:  # there is none, or another thread was faster
                return
            self._log.warning("lost", "%r is no more: it was dropped and could not come back; the "
                              "pool has room for another resource", slot.name)
            self._ledger.keep(slot)

    def closeDue(self, until: float = NEVER, minOpen: int = 0) -> None:
        """Close what is due among the idle, the least recently used first.

        With minOpen that many stay open: another is opened before one of these is closed.
        """
        due = sorted((slot for slot in list(self._queue.members)
                      if slot.place is IDLE and self._limits.due(slot, self._clock())),
                     key=_lastUsedAt)
        if due and not self._queue.comparesByIdentity:
            # To pick a certain one would run comparisons of the user's. So each is picked in
            # turn, and becomes the last one again: in the end the order is as before.
            due = [slot for slot in list(self._queue.members) if slot.place is IDLE]
        for slot in due:
            if self._clock() > until:
                return
            self._closeThis(slot, minOpen)

    @withHand
    def _closeThis(self, call: Call, slot: Slot, minOpen: int) -> None:
        if self._pickToClose(call, slot):
            self._hold(call)
            self._closeOrReplace(call, minOpen)
            self.release(call)

    def _pickToClose(self, call: Call, slot: Slot) -> bool:
        if not self._queue.comparesByIdentity:
            return self._queue.pick(call, self._queue.oldestPicks)
        resource = slot.ref()
        return resource is not None and self._queue.pickThis(call, resource)

    def _closeOrReplace(self, call: Call, minOpen: int) -> None:
        """Close what is in hand if it is due, but keep minOpen open all the time.

        Another one is opened first. Without another it is opened again itself; if that fails,
        the next round tries again.
        """
        if self._limits.due(call.resource._slot, self._clock()) is None:
            return
        # With the one in hand more than minOpen are open if that many are idle: no need to count.
        areEnough = len(self._queue.open) >= minOpen or self.countOpen() > minOpen
        if areEnough or self.openAnother():
            self.closeIfDue(call.resource, self._clock())
        elif not self._queue.closed and (self._factory is None or not self._queue.hasRoom):
            if self.closeIfDue(call.resource, self._clock()):
                try:
                    self._hooks.open(call.resource)
                except Exception:
                    self._log.warning("cannot-open", "opening %r again failed", call.resource.name,
                                      exc_info=True)

    def isNextDue(self, now: float) -> bool:
        """Tell whether the open resource that would be picked next has to be closed as well."""
        try:
            return self._limits.due(self._queue.open[-1]._slot, now) is not None
        except IndexError:  # another thread picked it
            return True

    def closeIfDue(self, resource: Any, now: float) -> bool:
        """Close a held resource if a limit says so. Tell whether it did.

        The check is reset before the look, so what is asked for meanwhile is seen next time.
        """
        slot = resource._slot
        self._limits.resetCheck(slot)
        if self._queue.hasSurplus:
            slot.askToCheck()
        reason = self._limits.due(slot, now)
        if reason is None:
            return False
        self._hooks.close(resource, reason)
        return True

    def pickClosed(self, call: Call) -> bool:
        """Pick a closed one. Those that could not be opened come last, after what can be built."""
        queue = self._queue
        if self._factory is not None and queue.hasRoom and queue.haveAllFailed():
            return False
        return queue.pick(call, queue.closedPicks)

    def openAnother(self) -> bool:
        """Open one more for minOpen. Log it and return False if that is not possible now."""
        try:
            return self.openOne()
        except Exception:
            return False

    @withHand
    def openOne(self, call: Call, seconds: float | None = None) -> bool:
        """Open a closed resource, or one built for it. Return False if there is none.

        Raises what its ``open`` raises. ``seconds`` is its ``timeLeft``.
        """
        name = "a new resource"
        try:
            if not self._breaker.isReady() or not (self.pickClosed(call) or self.build(call)):
                return False
            name = repr(call.resource.name)
            self._hold(call)
            call.resource._slot.since = self._clock()
            call.resource._slot.timeout = seconds
            if not self._breaker.admits(call.resource._slot):
                return False
            self._hooks.open(call.resource)
            return True
        except Exception:
            self._log.warning(
                "cannot-open", "opening %s ahead of use failed", name, exc_info=True)
            raise
        finally:
            if call.resource is not None:
                self.release(call)

    def trim(self, until: float = NEVER) -> None:
        """Let surplus members leave, closed ones first, then the least recently used."""
        queue = self._queue
        while queue.hasSurplus and self._clock() <= until:
            if not (self._closeOne(queue.closedPicks) or self._closeOne(queue.oldestPicks)):
                return  # the rest leaves when it is put

    def drain(self, until: float = NEVER) -> bool:
        """Close what is idle in a closed pool. Return False if some of it is left."""
        queue = self._queue
        while queue.qsize():
            if self._clock() > until:
                return False
            if not (self.reclaim() or self._closeOne(queue.closedPicks)
                    or self._closeOne(queue.oldestPicks)):
                return True
        return True

    @withHand
    def _closeOne(self, call: Call, picks: Iterator[Any]) -> bool:
        """Let one leave, if it has to. Return False if there is none."""
        if not self._queue.pick(call, picks):
            return False
        self._hold(call)
        self.release(call)
        return True

    def countIdle(self) -> int:
        """Return how many can be taken at once: those that are idle or can still be built."""
        queue = self._queue
        if self._factory is None or queue.isShutDown:
            return queue.qsize()
        return queue.qsize() + max(0, queue.maxsize - len(queue.members))

    def countOpen(self) -> int:
        """Return how many members are open."""
        return sum(slot.openedAt is not None for slot in list(self._queue.members))

    # -- a hand

    def _hold(self, call: Call) -> None:
        slot = call.resource._slot
        slot.place = HELD
        slot.takenBy = currentTaker()
        slot.since = self._clock()
        slot.timeout = None


def _lastUsedAt(slot: Slot) -> float:
    return slot.lastUsedAt


def twinOf(resource: Any) -> Any:
    """Return an object of the same class that shares all attributes of this one.

    They have one ``__dict__``: what refers to the old one sees what happens to the new one.
    """
    twin = object.__new__(type(resource))
    twin.__dict__ = resource.__dict__
    state = object.__getstate__(resource)
    if isinstance(state, tuple):
        for name, value in state[1].items():  # of classes with __slots__
            object.__setattr__(twin, name, value)
    twin.handOut(twin)
    return twin
