"""The idle resources, the members and the waiters: all that the threads of a pool share.

Two rules make it work:

- *Put, then look at the waiters; stand in line, then look at what is idle.* A put only wakes the
  first waiter, which picks for itself, so nothing is ever on its way from one thread to another.
  If one thread puts while another one stands in line, whoever comes second sees what the first
  did: either the putter sees the waiter and wakes it, or the waiter sees the resource. Without the
  GIL as well: a deque changes under its own lock, which it releases by an atomic operation, and its
  length is read sequentially consistent, so on x86-64 and ARM64 no such read is done before the
  change that comes before it in the same thread. Elsewhere LOOK_AGAIN_TIME is the net.
- *A pick is one step.* ``for call.resource in picks`` pops a resource and stores it in the hand of
  the call without a call in between. CPython runs signal handlers only after calls and jumps, so
  no interruption finds a resource that is neither idle nor in a hand.

No user code, clock or log line runs in here, and user objects are neither hashed nor compared.
The one lock guards the number of members, nothing else; a signal handler may enter it again.
"""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from itertools import filterfalse, repeat
from queue import Empty, SimpleQueue
from sys import getrefcount
from time import monotonic
from typing import Any
from weakref import ref

from queuepool.core.call import Call
from queuepool.core.refcount import IS_BIASED
from queuepool.core.slot import NEVER, NOWHERE, Place, Slot
from queuepool.lock import Lock, exclusive
from queuepool.stats import Reason

#: Seconds after which a waiter checks that the line moves though nobody woke it. A signal handler
#: that raises between the append of a put and its look at the waiters costs a wake-up; one that
#: raises while a waiter leaves can leave it at the head of the line.
LOOK_AGAIN_TIME = 1.0


class Bell:
    """What a ``threading.Lock`` is to a Waiter, on a free-threaded CPython.

    There a thread that finds a lock locked first calls sched_yield forty times. On a busy machine
    all other processes have their turn at each of them, so that to wait for a millisecond takes a
    hundred. It does not do so in a SimpleQueue.
    """

    __slots__ = ("_rings",)

    def __init__(self) -> None:
        self._rings: queue.SimpleQueue[None] = SimpleQueue()

    def acquire(self, timeout: float) -> bool:
        """Wait until somebody releases it, at most that long. Tell whether somebody did."""
        try:
            self._rings.get(timeout=timeout)
        except Empty:
            return False
        return True

    def release(self) -> None:
        """End the wait of who acquires it, or the next one."""
        if self._rings.empty():  # of two at once both may ring: the waiter looks once more then
            self._rings.put(None)


class Waiter:
    """A thread that waits. Only its own frame refers to it: with the frame it is gone."""

    __slots__ = ("_lock", "__weakref__")

    def __init__(self) -> None:
        if IS_BIASED:
            self._lock: Any = Bell()
        else:
            self._lock = threading.Lock()
            self._lock.acquire()

    def sleep(self, seconds: float) -> bool:
        """Sleep until woken, at most that long. Tell whether it was woken."""
        isWoken: bool = self._lock.acquire(timeout=seconds)
        return isWoken

    def wake(self) -> None:
        """End its sleep, or its next one. Takes no lock: a finalizer may call it."""
        try:
            self._lock.release()
        except RuntimeError:  # it is awake already
            pass


#: Stands for ever at the end of the line of a queue that was shut down. So ``waiters`` is not
#: empty, no take goes the short way, and every put calls ``keeper.attend``, which closes it.
END = Waiter()


def picking(pop: Callable[[deque[Any]], Any], items: deque[Any]) -> Iterator[Any]:
    """Return an iterator that pops an item at each step, and raises IndexError if there is none."""
    return map(pop, repeat(items))


class IdleQueue(queue.LifoQueue[Any]):
    """The idle resources of a pool, last in first out, open before closed, and who waits for one.

    It is a LifoQueue by its meaning and for ``qsize``, ``empty`` and ``full``. The pool uses
    neither its put and get nor its lock: see the module.

    What is shared is safe without the GIL as well, because only atomic operations are used:
    append, appendleft, +=, pop, popleft, the item at an end and len of a deque; single stores, pop,
    ``in`` and list() of a dict. Two are not atomic and tell so, and are tried again: ``remove`` of
    a deque (IndexError) and its copy (RuntimeError). The picks of several threads are one map over
    one endless repeat; neither of them has a state that a step changes.
    """

    def __init__(self, capacity: int) -> None:
        #: Open resources, the least recently used first.
        self.open: deque[Any] = deque()
        #: Closed ones; those that could not be opened first.
        self.closed: deque[Any] = deque()
        #: What came back without a put: dropped by its user, or in hand when something was raised.
        #: It is closed before it is used again.
        self.returned: deque[Any] = deque()
        self.openPicks = picking(deque.pop, self.open)
        self.oldestPicks = picking(deque.popleft, self.open)
        self.closedPicks = picking(deque.pop, self.closed)
        self.returnedPicks = picking(deque.pop, self.returned)
        #: False once there is a member whose class compares otherwise.
        self.comparesByIdentity = True
        #: Weak references to those who wait, the first first.
        self.waiters: deque[ref[Waiter]] = deque()
        self.isShutDown = False
        self.process = os.getpid()  #: see isNewborn in core/fork.py
        super().__init__(capacity)
        # LifoQueue's maxsize is how many members there may be.
        #: Every slot that counts towards the capacity: idle, held or taken.
        self.members: dict[Slot, None] = {}
        #: Members that are surplus, held to be closed: they count until they are.
        self.leaving: dict[Slot, None] = {}
        #: Slots of members that were evicted by ``reconcile``, to be logged.
        self.lost: deque[Slot] = deque()
        #: For _checkLine: when it checks again, and who was first when something was idle.
        self._nextCheckAt = 0.0
        self._suspect: ref[Waiter] | None = None
        self._lock = Lock()
        #: Something is in here once the queue is shut down and the last member is gone.
        self._ended: SimpleQueue[None] = SimpleQueue()

    # What LifoQueue asks of its subclasses.
    def _qsize(self) -> int:
        return len(self.open) + len(self.closed) + len(self.returned)

    def _put(self, item: Any) -> None:
        (self.open if item.isOpen else self.closed).append(item)

    def _get(self) -> Any:
        return (self.open or self.closed or self.returned).pop()

    def qsize(self) -> int:
        """Return how many resources are idle. Takes no lock."""
        return self._qsize()

    # -- members

    @property
    def hasRoom(self) -> bool:
        """Tell whether there may be another member."""
        return len(self.members) < self.maxsize

    @property
    def hasSurplus(self) -> bool:
        """Tell whether a member has to leave, after the capacity shrank."""
        return len(self.members) - len(self.leaving) > self.maxsize

    @exclusive
    def admit(self, slot: Slot) -> bool:
        """Make a slot a member. Return False if there is no room, or the queue was shut down."""
        if self.isShutDown or not self.hasRoom:
            return False
        slot.queue = self
        self.members[slot] = None
        return True

    @exclusive
    def startLeaving(self, slot: Slot) -> bool:
        """Tell whether this held member has to leave. If so it is closed, then finishLeaving."""
        if slot not in self.leaving and not self.hasSurplus:
            return False
        self.leaving[slot] = None
        return True

    @exclusive
    def finishLeaving(self, slot: Slot) -> bool:
        """Evict a member that had to leave. Return False if meanwhile the capacity grew again."""
        self.leaving.pop(slot, None)
        if len(self.members) <= self.maxsize:
            return False
        self.evict(slot)
        return True

    def evict(self, slot: Slot) -> None:
        """Remove a member for good, so that there is room for another. Takes no lock.

        Only whoever holds the slot may call it; ``reconcile``, which holds nothing, has the lock.
        """
        self.leaving.pop(slot, None)
        slot.place = Place.GONE
        # One line, see Call: a member knows its queue, and what knows its queue is a member.
        slot.queue = None; self.members.pop(slot, None)  # noqa: E702
        if not self.isShutDown:
            self.notify()
        elif not self.members:
            self._ended.put(None)

    def reconcile(self) -> None:
        """Evict members whose resource is no more, though it did not come back.

        That happens when the interpreter could not run its finalizer, because it was interrupted
        or the stack was full. Weak references do not tell: before CPython 3.15 the collector
        clears them before it runs finalizers, which bring a resource back.
        """
        for slot in list(self.members):
            self._evictLost(slot)

    @exclusive  # of two who find the same, one evicts it
    def _evictLost(self, slot: Slot) -> None:
        # Two references: the slot's, and the one of this call. Without the GIL there may seem to
        # be one more until the thread that made it runs again, never one less.
        if slot.place in (Place.TAKEN, Place.HELD) and getrefcount(slot.life) == 2:
            if slot.openedAt is not None:
                slot.countClose(Reason.DROPPED)
            self.lost.append(slot)
            self.evict(slot)

    # -- picks: a resource gets into the hand of a call

    def pick(self, call: Call, picks: Iterator[Any]) -> bool:
        """Pick one from ``openPicks`` or the like. Return False if there is none."""
        try:
            for call.resource in picks:
                return True
        except IndexError:
            pass
        return False

    def pickThis(self, call: Call, resource: Any) -> bool:
        """Pick this open resource. Return False if it is not idle any more.

        To be called only while ``comparesByIdentity``.
        """
        try:
            # remove returns None, so the filter lets through what was removed.
            for call.resource in filterfalse(self.open.remove, (resource,)):
                return True
        except Exception:
            # It is not there, or another thread changed the deque meanwhile. The message is to
            # have the repr of the resource, its user's own, which may raise anything.
            pass
        return False

    def haveAllFailed(self) -> bool:
        """Tell whether all the closed ones could not be opened the last time."""
        try:
            return bool(self.closed[-1]._slot.isTriedLast)
        except IndexError:  # another thread picked it
            return False

    def giveBack(self, resource: Any) -> None:
        """Keep what a call has in hand, if anything, until somebody closes it. Takes no lock."""
        if resource is not None and resource._slot is not NOWHERE:
            slot, returned = resource._slot, self.returned
            slot.place = Place.RETURNED; returned += (resource,)  # noqa: E702
            self.notify()

    # -- waiters

    def waitFor(self, call: Call, look: Callable[[Call], bool], seconds: float,
                pause: Callable[[Call], tuple[float, float]],
                longest: Callable[[], int] | None = None) -> bool:
        """Stand in line until ``look(call)``, called when it is this thread's turn, returns True.

        Return False if that took more than so many seconds. ``pause(call)`` tells after how many
        seconds to look again though nobody calls ``notify``, and after how many to give up.
        Raise queue.Full if ``longest()`` wait already, unless this thread had its turn before.
        """
        until = monotonic() + seconds
        waiters = self.waiters
        waiter = Waiter()
        place = ref(waiter)
        isOver = False
        if call.isFirst:
            longest = None
        if longest is not None and len(waiters) >= longest():
            raise queue.Full
        try:
            (waiters.appendleft if call.isFirst else waiters.append)(place)
            # Others may have come in the same instant: the first ones stay.
            if longest is not None and not any(
                    each is place for each in _copy(waiters)[:longest()]):
                raise queue.Full
            while True:
                try:
                    isTurn = waiters[0] is place or self.isShutDown or self.first() is place
                except IndexError:  # it is lost, see below
                    isTurn = False
                if isTurn and look(call):
                    return True
                if isOver:
                    return False
                nextLook, rest = pause(call)
                now = monotonic()
                until = min(until, now + rest)
                isHeldUp = nextLook != NEVER
                rest, nextLook = until - now, min(LOOK_AGAIN_TIME, nextLook)
                isLast = rest <= nextLook
                isWoken = waiter.sleep(max(0.0, rest if isLast else nextLook))
                isOver = isLast and not isWoken  # the time is over: one more look
                if not isWoken and self._checkLine(call, look, isHeldUp):
                    return True
                try:
                    isLost = waiters[0] is not place and place not in _copy(waiters)
                except IndexError:
                    isLost = True
                if isLost:  # another waiter took this one for gone
                    waiters.appendleft(place)
        finally:
            self._leave(place)

    def first(self) -> ref[Waiter] | None:
        """Return the first place in line, and remove those before it whose waiter is gone."""
        waiters = self.waiters
        while waiters:
            try:
                place = waiters[0]
                if place() is not None:
                    return place
                waiters.remove(place)
            except (IndexError, ValueError):  # another thread was faster
                pass
        return None

    def _checkLine(self, call: Call, look: Callable[[Call], bool], isHeldUp: bool) -> bool:
        """Check every LOOK_AGAIN_TIME, in the thread of any waiter, that the line moves.

        If something is idle at two checks and the same waiter is first at both, perhaps it does
        not wait any more, but a traceback still refers to it. Then this thread looks in its
        place. If it finds something, the first waiter is removed, and the result is True. What
        is closed does not count while waiters are held up, by the circuit breaker.
        """
        now = monotonic()
        if now < self._nextCheckAt:
            return False
        self._nextCheckAt = now + LOOK_AGAIN_TIME
        self.reconcile()
        self.notify()
        isIdle = self.open or self.returned or self.closed and not isHeldUp
        first = self.first() if isIdle else None
        suspect, self._suspect = self._suspect, first
        if first is None or first is not suspect or not look(call):
            return False
        self._remove(first)
        return True

    def _remove(self, place: ref[Waiter]) -> None:
        while True:
            try:
                self.waiters.remove(place)
                return
            except ValueError:
                return
            except IndexError:  # another thread changed it meanwhile, without the GIL
                pass

    def _leave(self, place: ref[Waiter]) -> None:
        """Leave the line; the next one looks if there is something to be found."""
        self._remove(place)
        if self.waiters and (self.open or self.closed or self.returned
                             or len(self.members) < self.maxsize):
            self.notify()

    def notify(self) -> None:
        """Have the first waiter look. Takes no lock: a finalizer may call it."""
        try:
            waiter = self.waiters[0]()
            while waiter is None:  # it is gone
                self.first()
                waiter = self.waiters[0]()
            waiter.wake()
        except IndexError:  # nobody waits
            pass

    def waiting(self) -> int:
        """Return how many threads wait."""
        return sum(place() not in (None, END) for place in _copy(self.waiters))

    def countTaken(self) -> int:
        """Return how many members are checked out."""
        return sum(slot.place is Place.TAKEN for slot in list(self.members))

    def askToCheck(self) -> None:
        """Send every member the long way once: there it is seen what has changed."""
        for slot in list(self.members):
            slot.askToCheck()

    # -- the end

    def shutdown(self, immediate: bool = False) -> None:
        """Let nobody wait any more: wake all who do. May be called again."""
        self._end()
        for place in _copy(self.waiters):
            waiter = place()
            if waiter is not None:
                waiter.wake()
        if not self.members:
            self._ended.put(None)

    @exclusive
    def _end(self) -> None:
        if not self.isShutDown:
            self.isShutDown = True; self.waiters.append(ref(END))  # noqa: E702

    def awaitEnd(self, seconds: float) -> bool:
        """Wait up to that long for the last member of a queue that was shut down to be gone.

        Return False if it is time to look what came back meanwhile, at the latest at the end.
        """
        try:
            if self.members:
                self._ended.get(timeout=min(seconds, LOOK_AGAIN_TIME))
        except Empty:
            return False
        self._ended.put(None)  # for the next one who waits
        return True


def _copy(items: deque[Any]) -> list[Any]:
    """Return a copy of a deque that other threads may change meanwhile."""
    while True:
        try:
            return list(items)
        except RuntimeError:  # changed while it was copied, as happens without the GIL
            pass
