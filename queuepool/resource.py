"""A resource: something that is expensive to open."""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from operator import attrgetter
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, Self
from weakref import ref

from queuepool.core.call import LEAST_HOOK_TIME, POOL_DEFAULT
from queuepool.core.hooks import Hooks
from queuepool.core.idle import IdleQueue
from queuepool.core.keeper import Keeper
from queuepool.core.leaks import currentTaker
from queuepool.core.limits import describe
from queuepool.core.slot import NEVER, NOWHERE, Place, Slot
from queuepool.elsewhere import Elsewhere
from queuepool.errors import poolError
from queuepool.stats import Reason

IDLE, HELD, TAKEN, RETURNED = Place.IDLE, Place.HELD, Place.TAKEN, Place.RETURNED


class Owner(Protocol):
    """What a resource knows of its pool."""

    name: str
    _queue: IdleQueue
    _hooks: Hooks
    clock: Callable[[], float]
    takeTimeout: float | None
    _overridesPut: bool

    _keeper: Keeper

    @property
    def generation(self) -> object: ...

    def _takeBack(self, resource: Any, error: BaseException | None, now: float) -> None: ...
    def _putAfterWith(self, resource: Any, error: BaseException | None) -> None: ...


class Entering(property):
    """An ``__enter__`` without Python code, so that no signal handler runs in it.

    One that raises there would leave the resource checked out as long as anything refers to it,
    because ``__exit__`` is not called then. A with statement gets the value of the property, which
    is a weak reference, and calls it: that returns what it refers to. ``contextlib.ExitStack``
    calls the property itself.
    """

    def __call__(self, resource: Any) -> Any:
        return self.__get__(resource)()


class Resource:
    """Something that is expensive to open. Subclass it and define ``open`` and ``close``.

    ``open`` sets ``self.resource`` and calls ``super().open()`` at its end; ``close`` closes it,
    sets it to None and calls ``super().close()``. The pool runs one hook at a time, in the thread
    that takes or puts the resource (or in the recycler's), and holds no lock meanwhile.

    ``with pool.take() as resource:`` returns it to the pool at the end of the block. Once a
    resource is in a pool, use it only between a take and its put. One that is dropped without a
    put comes back by itself, and is closed then. Resources are told apart by identity, whatever
    ``__eq__`` and ``__hash__`` their class defines.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        #: Whatever ``open`` opened: a connection, a session, a device.
        self.resource: Any = None
        self._pool: Owner | None = None
        self._slot = NOWHERE
        self._isOpen = False
        #: Of those who put it into a pool at once, the one that pops this succeeds.
        self._ticket = [True]
        #: Ends with the resource, or with its twin; no finalizer or collector is involved.
        self._life = object()
        self.handOut(self)

    def open(self) -> None:
        """Open the resource. Called by take when it is closed, and by recycle for ``minOpen``.

        May block. What it raises reaches the caller of take, after what is half open was closed
        and the resource is in the pool again. Overriders set ``self.resource`` and call this last.
        """
        self._isOpen = True
        if self._pool is not None:
            self._pool._hooks.noteOpen(self)

    def close(self) -> None:
        """Close the resource. Called only while it is open, see ``Reason`` for when.

        May block. What it raises is logged, and the resource counts as closed all the same.
        Overriders close ``self.resource``, set it to None and call this.
        """
        self._isOpen = False
        if self._slot.openedAt is not None:
            self._slot.countClose(self._slot.closing)

    def takeRepair(self) -> None:
        """Check the resource before each take, open or not. Overriders may call ``close``.

        What it raises reaches the caller of take, after the resource was closed and is in the
        pool again.
        """

    def putRepair(self) -> None:
        """Clean the resource at each put, open or not. Overriders may call ``close``.

        What it raises is logged and the resource closed: nothing unclean is handed out again.
        """

    def noteError(self, error: BaseException) -> None:
        """Look at what the with block of the user raised, before anything is done about it.

        Called for each exception, in the thread of the user. What it raises is logged.
        """

    def isTransient(self, error: Exception) -> bool:
        """Tell whether another attempt may succeed after ``open`` raised this.

        Asked under the pool's ``openRetryTime``. With False the exception reaches the caller of
        take at once. Overriders return False for what stays wrong, such as a wrong password.
        """
        return True

    def hasOpen(self, thing: object) -> bool:
        """Tell whether ``thing`` is what is open here: ``put`` accepts it for the resource."""
        return thing is self.resource

    def abandon(self) -> None:
        """Forget what is open without closing it: after a fork it is the parent process's."""
        self.resource = None
        self._isOpen = False

    def handOut(self, target: Any) -> None:
        """Have the with statement hand out ``target``; call it in ``open``. Else it is ``self``.

        Only a weak reference is kept if there can be one: ``self.resource`` keeps the target.
        """
        try:
            self._target: Callable[[], Any] = ref(target)
        except TypeError:
            self._target = lambda: target

    def _leavePool(self) -> None:
        """Forget the pool: the resource is no member any more."""
        self._slot = NOWHERE
        self._pool = None
        self._ticket[:] = [True]

    if not TYPE_CHECKING:  # what is looked for on a resource by mistake
        cursor, execute, commit, rollback = (
            Elsewhere("use what 'with pool.take() as …' hands out, or the 'resource' of what "
                      "take() returned") for _ in range(4))

    @property
    def isOpen(self) -> bool:
        """Whether the resource is open."""
        return self._isOpen

    @property
    def pool(self) -> Any:
        """The pool that the resource is in, or None."""
        return self._pool

    @property
    def usageCount(self) -> int:
        """How many times the resource was taken since it was opened."""
        return self._slot.takes - self._slot.takesAtOpen

    # A subclass written for 1.3.2 may read it, or set it in an open() of its own.
    @property
    def _usageCount(self) -> int:
        return self.usageCount

    @_usageCount.setter
    def _usageCount(self, count: int) -> None:
        slot = self._slot
        if slot is not NOWHERE:
            shift = self.usageCount - count
            slot.takesAtOpen += shift
            slot.takesLimit += shift

    @property
    def age(self) -> float | None:
        """The seconds since the resource was opened; None if it is closed or in no pool."""
        openedAt = self._slot.openedAt
        return None if openedAt is None or self._pool is None else self._pool.clock() - openedAt

    @property
    def idleTime(self) -> float | None:
        """The seconds since it was returned or opened; None if it is closed or in no pool."""
        if self._slot.openedAt is None or self._pool is None:
            return None
        return self._pool.clock() - self._slot.lastUsedAt

    @property
    def timeLeft(self) -> float | None:
        """The seconds that the take, or warm, has left that runs a hook now; None: no limit.

        For hooks: what may block can be given this as its own time limit. It is never less than
        0.05. In hooks that neither runs, such as putRepair, it is None.
        """
        slot, pool = self._slot, self._pool
        timeout = slot.timeout
        if pool is None or timeout is None:
            return None
        if timeout is POOL_DEFAULT:
            timeout = pool.takeTimeout
            if timeout is None:
                return None
        rest: float = slot.since + timeout - pool.clock()
        return None if rest == NEVER else max(LEAST_HOOK_TIME, rest)

    @property
    def takeTrace(self) -> str | None:
        """The stack of its take, until it is put back; None without the pool's ``leakTrace``."""
        return self._slot.trace

    @property
    def generation(self) -> object:
        """The generation of the pool that it was opened in, see ``Pool.generation``."""
        return self._slot.generation

    @property
    def _hasRepairHooks(self) -> bool:
        # Asked of the methods, which may be the instance's own. A look into vars() would make
        # each later attribute read slower.
        return (getattr(self.takeRepair, "__func__", None) is not Resource.takeRepair
                or getattr(self.putRepair, "__func__", None) is not Resource.putRepair)

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        state = "open" if self._isOpen else "closed"
        return f"<{type(self).__name__} {self.name!r} {state}, used {self.usageCount} times>"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} {self.name!r} cannot be copied or pickled: what it has open "
            f"can only be used once at a time; make a new one")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Have the ``__del__`` of a subclass called at its end, not when it comes back."""
        super().__init_subclass__(**kwargs)
        own = cls.__del__
        if not getattr(own, "comesBack", False):
            cls.__del__ = _comingBack(own)  # type: ignore[method-assign]

    def __del__(self) -> bool:
        """Come back to the pool if the user, or an interrupted call, dropped the resource.

        One append brings it back; no lock is taken and nothing is logged here. Returns whether
        it came back.
        """
        try:
            slot = object.__getattribute__(self, "_slot")
        except AttributeError:  # its __init__ has failed
            return False
        current = slot.ref()
        if current is not None and current is not self:  # a twin has taken its place
            return False
        place = slot.place
        queue = slot.queue
        if place is IDLE:
            # Collected with its pool, or put by a finalizer in the same garbage. It is finalized
            # now, so the next take has to replace it.
            slot.droppedFrom = place
            slot.askToCheck()
        if queue is None or place is not TAKEN and place is not HELD:
            return False
        if queue.isShutDown:  # nobody needs it: its driver closes it
            queue.evict(slot)
            if slot.openedAt is not None:
                slot.countClose(Reason.DROPPED)
            return False
        slot.droppedFrom = place
        returned = queue.returned
        slot.place = RETURNED; returned += (self,)  # noqa: E702  not append: see __exit__
        queue.notify()
        return True

    __del__.comesBack = True  # type: ignore[attr-defined]

    if TYPE_CHECKING:
        def __enter__(self) -> Self: ...
    else:
        __enter__ = Entering(attrgetter("_target"))

    def __exit__(self, exc_type: type[BaseException] | None, exc_value: BaseException | None,
                 traceback: TracebackType | None) -> None:
        """Return the resource to its pool, as ``Pool.put`` does.

        With an exception, ``closeOnException`` decides whether the resource is closed first.
        Blocks only in hooks, and raises nothing of theirs. The pool owns the resource afterwards.
        """
        pool = self._pool
        if pool is None:
            if exc_value is None:
                raise poolError("in-no-pool", f"{self.name!r} is in no pool, so it cannot be "
                                              f"returned to one")
            return
        slot = self._slot
        takes = slot.takes
        try:
            now = pool.clock()
            if (slot.place is TAKEN and exc_value is None and now <= slot.shortUntil
                    and takes < slot.takesLimit and self._isOpen):
                used = now - slot.takenAt
                slot.useTime += used
                if used > slot.useMax:
                    slot.useMax = used
                slot.lastUsedAt = now
                queue = pool._queue
                # One line: no signal handler runs, and with the GIL no other thread, between the
                # change of the place and the append. Of two who put the same, one gets here.
                slot.place = IDLE; queue.open.append(self)  # noqa: E702
                if queue.waiters:
                    pool._keeper.attend()
            elif pool._overridesPut:
                pool._putAfterWith(self, exc_value)
            else:
                pool._takeBack(self, exc_value, now)
        except BaseException:
            # Still where it was at the beginning, as when the clock was interrupted.
            if slot.place is TAKEN and slot.takes == takes:
                # Not append: on a full stack nothing can be called.
                returned = pool._queue.returned
                slot.place = RETURNED; returned += (self,)  # noqa: E702
            if pool._queue.isShutDown:
                pool._keeper.reclaim()
            pool._queue.notify()
            raise


def _comingBack(own: Callable[[Any], object]) -> Callable[[Any], bool]:
    def __del__(self: Resource) -> bool:
        comesBack = Resource.__del__(self)
        if not comesBack:
            own(self)
        return comesBack

    __del__.comesBack = True  # type: ignore[attr-defined]
    return __del__


def join(pool: Owner, resource: Any, slot: Slot) -> None:
    """Connect a new resource with its slot and its pool; the caller holds it then."""
    isResource = isinstance(resource, Resource)
    if isResource:
        checkInit(pool, resource)
    if not isResource or resource._pool is not None:
        what = "one that is in a pool" if isResource else describe(resource)
        raise poolError("factory", f"pool {pool.name!r}: the factory has to return a new Resource "
                                   f"each time; for {slot.name!r} it returned {what}")
    hasTicket = False
    try:
        try:
            for hasTicket in map(list.pop, repeat(resource._ticket)):  # in one step, see Call
                break
        except IndexError:
            raise poolError("put-twice", f"pool {pool.name!r}: {resource.name!r} is being put into "
                                         f"a pool by another thread") from None
        slot.name = _nameOf(resource)
        slot.ref = ref(resource)
        slot.life = resource._life
        slot.takenBy = currentTaker()
        slot.place = HELD
        kind: Any = type(resource)
        if kind.__eq__ is not object.__eq__:
            pool._queue.comparesByIdentity = False
        resource._slot = slot
        resource._pool = pool
        pool._hooks.lookForHooks(resource)
        if resource._isOpen:
            slot.generation = pool.generation
            pool._hooks.noteOpen(resource)
    except BaseException:
        if hasTicket:
            resource._leavePool()
        raise


def _nameOf(resource: Resource) -> str:
    """Return its name, as text whatever its user gave for one: reports and errors show it."""
    name: object = resource.name
    try:
        return name if isinstance(name, str) else str(name)
    except Exception:
        return type(resource).__name__


def checkNew(pool: Owner, resource: Any) -> None:
    """Raise PoolError if this Resource cannot be made a member of the pool."""
    owner = resource._pool
    if owner is not None:
        raise poolError(
            "foreign", f"pool {pool.name!r}: {resource.name!r} belongs to pool {owner.name!r}, "
            f"where it is {resource._slot.place}; put it back there")


def checkInit(pool: Owner, resource: Any) -> None:
    """Raise PoolError if a class forgot to call the __init__ of Resource."""
    try:
        object.__getattribute__(resource, "_target")
    except AttributeError:
        raise poolError("no-super", f"pool {pool.name!r}: {type(resource).__name__}.__init__ has "
                                    f"to call super().__init__(name)") from None


#: The name of 1.3.2; the same class.
ResourceManager = Resource
