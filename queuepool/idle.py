"""The places of a pool and the line of those who wait: all of its synchronisation.

Nothing here calls user code: no hook, clock or log line runs inside. (A waiter calls the pool's
``mend`` between two looks, with nothing in hand; that may run hooks.)

There is no lock on the way of a resource; one guards how many members there may be. Every shared
structure is a dict or a deque, of which only single operations are used that are atomic in
CPython, with the GIL and without: a dict's store, ``pop``, ``popitem`` and ``copy``, a deque's
``append``, ``appendleft``, ``pop``, ``popleft``, ``remove`` and ``copy`` (``remove`` compares, but
nothing here has an ``__eq__`` in Python; see ``claim``). Two rules make that enough:

- *Lay down, then look at the line; stand in line, then look at what lies there.* Whoever comes
  second sees the first, so a resource and a waiter never miss each other.
- *The place holds the only reference.* An interruption between two steps drops what was in
  transit, and what is dropped comes back by itself: a resource through its Watch, as a vacancy of
  its slot; a place in line through its weak reference, which tells the waiter to stand first in
  line again. Should an interruption prevent even that, or fall between laying down and looking:
  whoever waits looks again every second.

So resources may be taken and put where locks may not: in a signal handler, in a weak
reference's callback.
"""

from __future__ import annotations

import contextlib
import enum
import queue
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any
from weakref import WeakSet, ref

from queuepool.errors import PoolClosed, PoolError
from queuepool.resource import NOWHERE, Resource, Slot, Watch

Give = Callable[[Any], None]


class Place(enum.Enum):
    """Where a resource is: in exactly one of these."""

    IDLE = "idle: it lies in the pool"
    HELD = "held: a call of the pool is running its hooks"
    TAKEN = "taken: its user has it"
    GONE = "gone: it left the pool for good, or never was in it"


class Vacancy(Resource):
    """Stand for the resource of a slot that has none, until a taker has one built."""


def _nobody(item: Any) -> None:
    """Stand where no waiter does."""


#: Seconds after which one who waits looks whether an interruption made others forget something.
LOOK_AGAIN_TIME = 1.0

#: The line of a queue that was shut: never empty, so that every put and take looks at it.
SHUT: deque[Give] = deque([_nobody])


class IdleQueue(queue.LifoQueue[Resource]):
    """Keep the idle resources, last in first out, and serve those who wait, first come first.

    Open resources are handed out before closed ones. ``put`` never blocks. What adds a member or
    dismisses a surplus one takes a lock for a moment; it guards the comparison with the capacity,
    nothing else, and a signal handler may enter it again. Whoever changes the capacity looks at
    the members next.
    """

    def __init__(self, name: str, capacity: int, dropped: Callable[[Watch], None],
                 mend: Callable[[], None]) -> None:
        super().__init__(capacity)
        self.name = name
        #: How many members there may be.
        self.capacity = capacity
        self._membership = threading.RLock()
        #: Called by the garbage collector for each member that is dropped.
        self._dropped = dropped
        #: Called now and then by those who wait, when nothing of the queue is in the making.
        self._mend = mend
        #: Idle resources, the coldest first; the closed ones by slot.
        self.open: deque[Resource] = deque()
        self.closed: dict[Slot, Resource] = {}
        #: Every slot of the pool, by the watch on the resource that fills it.
        self.members: dict[Watch, Slot] = {}
        #: Surplus ones that are members no more and are being closed: nothing new in their place.
        self.leaving: WeakSet[Resource] = WeakSet()
        #: How to give to those who wait, the first first; SHUT when the pool is closed.
        self.line: deque[Give] = deque()
        #: Whether it is in doubt that closed ones can be opened: they go out one at a time then.
        self.isDoubtful = False
        #: At most one entry, "slot": the one that is out to be tried; see ``claimTrial``.
        self._trial: dict[str, Slot] = {}
        #: Something is in here once the queue is shut and its last member was dismissed.
        self.ended: SimpleQueue[None] = SimpleQueue()

    def _qsize(self) -> int:
        return len(self.open) + len(self.closed)

    def qsize(self) -> int:
        """Tell how many resources lie here, open or closed."""
        return len(self.open) + len(self.closed)

    # -- members

    def fill(self, slot: Slot, resource: Resource, former: Watch | None) -> bool:
        """Make a held resource the one that fills this slot, in place of the former one.

        Returns False, and changes nothing, if that is no member any more. Takes no lock.
        """
        watch = Watch(resource, self._dropped)
        resource._slot = slot
        # Nothing is called between the two: nobody sees a member too many or too few.
        self.members[watch] = slot
        try:
            del self.members[former]  # type: ignore[arg-type]
        except KeyError:
            del self.members[watch]
            return False
        slot.watch = watch
        return True

    def fillUp(self, make: Callable[[], Resource]) -> None:
        """Add members until there are as many as may be; one thread at a time does so."""
        with self._membership:
            while len(self.members) + len(self.leaving) < self.capacity:
                resource = make()
                self._join(resource._slot, resource)
                self.put(resource)

    def _join(self, slot: Slot, resource: Resource) -> None:
        watch = Watch(resource, self._dropped)
        resource._slot = slot
        slot.watch = watch
        self.members[watch] = slot

    def admit(self, slot: Slot, resource: Resource) -> None:
        """Make a new resource a member, held by the caller; PoolError if there is no room."""
        with self._membership:
            if resource._slot is not NOWHERE:
                raise PoolError(f"pool {self.name!r}: {resource.name!r} was put already")
            if len(self.members) >= self.capacity:
                raise PoolError(
                    f"pool {self.name!r}: {resource.name!r} was not put: it already has all "
                    f"{self.capacity} resources of its capacity")
            self._join(slot, resource)

    @property
    def isOverfull(self) -> bool:
        """Tell whether there are more members than the capacity allows, after a shrink."""
        return len(self.members) > self.capacity

    def dismiss(self, resource: Resource, onlySurplus: bool = False) -> bool:
        """Let a held member go for good; with onlySurplus only if there are too many."""
        slot = resource._slot
        if onlySurplus:
            with self._membership:
                if not self.isOverfull:
                    return False
                self.leaving.add(resource)
                self._remove(slot)
        else:
            self._remove(slot)
        self.endTrial(slot)
        self.noteEnd()
        return True

    def _remove(self, slot: Slot) -> None:
        if slot.watch is not None:
            self.members.pop(slot.watch, None)
            slot.watch = None

    def forget(self, watch: Watch) -> Slot | None:
        """Let a member go whose resource was dropped; None if another thread has done so.

        Takes no lock.
        """
        slot = self.members.pop(watch, None)
        if slot is None or slot.watch is not watch:  # the latter: fill() was interrupted
            return None
        slot.watch = None
        self.noteEnd()
        return slot

    def noteEnd(self) -> None:
        """Tell those who wait for the end of a shut queue if the last member is gone."""
        if self.line is SHUT and not self.members:
            self.ended.put(None)

    def awaitEnd(self, timeout: float | None) -> None:
        """Wait up to timeout seconds until the last member of a shut queue is gone."""
        deadline = None if timeout is None else monotonic() + timeout
        with contextlib.suppress(Empty):
            while self.members:
                seconds = self._secondsToNextLook(deadline)
                try:
                    self.ended.get(timeout=seconds)
                except Empty:
                    self._mend()
            self.ended.put(None)  # for the next one who waits

    def isMember(self, resource: Resource) -> bool:
        """Tell whether the resource fills a slot of this queue's members."""
        watch = resource._slot.watch
        return watch is not None and watch in self.members and watch() is resource

    def placeOf(self, resource: Resource) -> Place:
        """Tell where a resource is; a moment later it may be somewhere else."""
        slot = resource._slot
        if slot is NOWHERE or not self.isMember(resource):
            return Place.GONE
        if slot.takenAt is not None:
            return Place.TAKEN
        if slot in self.closed or resource in self.open.copy():
            return Place.IDLE
        return Place.HELD

    # -- in and out

    def put(self, item: Resource, block: bool = True, timeout: float | None = None) -> None:
        """Lay a held resource down, or give it to the first in line. Never blocks."""
        self.layDown(item)
        if self.line:
            self.serve()

    def layDown(self, resource: Resource) -> None:
        """Lay a held resource down; the caller looks at the line next."""
        if resource._isOpen:
            self.open.append(resource)
        else:
            self.closed[resource._slot] = resource
        if self._trial:
            self.endTrial(resource._slot)

    def pick(self, openOnly: bool = False) -> Resource | None:
        """Take the hottest idle resource in hand, or None. Looks at no line."""
        if self.open:  # to look costs less than to fail
            try:
                return self.open.pop()
            except IndexError:
                pass
        return None if openOnly else self.pickClosed()

    def pickClosed(self) -> Resource | None:
        """Take an idle closed resource in hand, or None; in doubt only if none is being tried."""
        while self.closed and not (self.isDoubtful and self._trial):
            try:
                slot, resource = self.closed.popitem()
            except KeyError:
                return None
            if self.claimTrial(slot):
                return resource
            self.closed[slot] = resource  # another was faster; look whether it is done already
        return None

    def claimTrial(self, slot: Slot) -> bool:
        """Tell whether this held slot may be opened: in doubt, only one may at a time."""
        return not self.isDoubtful or self._trial.setdefault("slot", slot) is slot

    def endTrial(self, slot: Slot) -> None:
        """Let another slot be tried if it was this one's turn; the caller looks at the line."""
        if self._trial.get("slot") is slot:
            self._trial.pop("slot", None)

    def endDoubt(self) -> None:
        """Hand closed resources out as usual, beginning with those who wait."""
        self.isDoubtful = False
        self._trial.clear()
        self.serve()

    def pickColdest(self) -> Resource | None:
        """Take an idle resource in hand that is missed least, or None."""
        try:
            return self.closed.popitem()[1]  # it is not to be opened: no trial is needed
        except KeyError:
            pass
        try:
            return self.open.popleft()
        except IndexError:
            return None

    def claim(self, slot: Slot) -> Resource | None:
        """Take the idle open resource of this slot in hand, or None if it does not lie there."""
        watch = slot.watch
        resource = None if watch is None else watch()
        if resource is None:
            return None
        while True:
            try:
                self.open.remove(resource)
                return resource
            except ValueError:
                return None
            except IndexError:
                # A class with an ordering has CPython before 3.12 collect garbage while it
                # compares, and a finalizer may have taken or put one: looked for anew.
                continue

    def serve(self) -> None:
        """Give what is idle to those who wait, as long as there are both."""
        line = self.line
        while line and line is not SHUT:
            resource = self.pick()
            if resource is None:
                return
            try:
                # In one expression, so that nothing but the call refers to the place in line:
                # an interruption in its middle drops it, and its waiter is told.
                line.popleft()(resource)
            except IndexError:
                self.layDown(resource)  # nobody waits any more, unless somebody just came

    def get(self, block: bool = True, timeout: float | None = None,
            isFirst: bool = False) -> Resource:
        """Take a resource in hand, waiting up to timeout seconds for it.

        isFirst is for those who had their turn already: they stand before all others.
        Raises ``queue.Empty`` at the end of that time and PoolClosed when the queue is shut.
        """
        if isFirst or not self.line:
            resource = self.pick()
            if resource is not None:
                return resource
        if not block and self.line is not SHUT:
            raise Empty
        deadline = None if timeout is None else monotonic() + timeout
        resource = self._stand(deadline, isFirst)
        while resource is None:
            resource = self._stand(deadline, isFirst=True)
        return resource

    def _stand(self, deadline: float | None, isFirst: bool) -> Resource | None:
        """Stand in line until the deadline; None means: look again, stand first.

        Whoever takes a place out of the line has to give: the giver, or the waiter who leaves.
        A place that is lost on the way (its giver was interrupted, the line was cleared) says so.
        """
        line = self.line
        if line is SHUT:
            raise self.closedError()
        box: SimpleQueue[Resource | None] = SimpleQueue()
        give: Give = partial(box.put)
        lost = ref(give, partial(box.put, None))  # calls box.put(None, block=lost)
        try:
            (line.appendleft if isFirst else line.append)(give)
            give = _nobody  # now only the line refers to it, and then its giver
            self.serve()
            while self.line is line:
                seconds = self._secondsToNextLook(deadline)
                try:
                    item = box.get(timeout=seconds)
                except Empty:
                    self._mend()
                    self.serve()
                else:
                    return item
            raise self.closedError()
        except BaseException as error:
            try:
                line.remove(lost() or _nobody)
            except ValueError:
                # It was taken out of the line: what it was given is in the box or about to be.
                give = _nobody
                if lost() is None:
                    box.put(None)  # perhaps it was told already
                item = box.get()
                if item is not None:
                    if isinstance(error, Empty):
                        return item
                    self.put(item)
            raise

    def _secondsToNextLook(self, deadline: float | None) -> float:
        """Return how long to wait before the next look; raise Empty at the deadline."""
        if deadline is None:
            return LOOK_AGAIN_TIME
        seconds = deadline - monotonic()
        if seconds <= 0.0:
            raise Empty
        return min(seconds, LOOK_AGAIN_TIME)

    def closedError(self) -> PoolClosed:
        """Return what is raised once the queue is shut."""
        return PoolClosed(f"pool {self.name!r} is closed")

    def waiting(self) -> int:
        """Tell how many stand in line."""
        return 0 if self.line is SHUT else len(self.line)

    def shut(self) -> None:
        """Tell everyone in line that there is nothing more to wait for, and let nobody stand."""
        line, self.line = self.line, SHUT
        self.isDoubtful = False
        if line is not SHUT:
            line.clear()  # every place is lost, and says so
