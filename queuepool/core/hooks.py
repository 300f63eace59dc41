"""Runs the hooks of a resource, counts them and logs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from queuepool.core.breaker import CircuitBreaker
from queuepool.core.fork import isNewborn, underWay
from queuepool.core.limits import Limits
from queuepool.core.log import Log, brief
from queuepool.core.refcount import unbias
from queuepool.core.slot import Slot
from queuepool.errors import PoolError, poolError
from queuepool.stats import Reason

USER = Reason.USER

CloseOnException = (bool | int | None | type[BaseException] | tuple[type[BaseException], ...]
                    | Callable[[BaseException], object])


class Hooked(Protocol):
    """What is needed of a resource here."""

    name: str
    resource: Any
    _isOpen: bool
    _slot: Slot

    @property
    def _hasRepairHooks(self) -> bool: ...
    def open(self) -> None: ...
    def close(self) -> None: ...
    def abandon(self) -> None: ...
    def isTransient(self, error: Exception) -> bool: ...
    def noteError(self, error: BaseException) -> None: ...


class Settings(Protocol):
    """What is needed of a pool here: settings that may change while it works."""

    clock: Callable[[], float]
    closeOnException: CloseOnException
    openRetryTime: float
    leakTrace: bool
    _overridesPut: bool

    @property
    def histograms(self) -> bool: ...


class Hooks:
    """Runs hooks of held resources. Takes no lock, so a hook may block as long as it likes."""

    def __init__(self, settings: Settings, limits: Limits, breaker: CircuitBreaker,
                 log: Log) -> None:
        self._settings = settings
        self._limits = limits
        self._breaker = breaker
        self._log = log
        #: What the last open that failed raised, in one line, and when.
        self.lastError: tuple[str, float] | None = None
        #: Whether nothing was opened since.
        self.isFailing = False

    def open(self, resource: Hooked) -> None:
        """Open a resource, or raise what its ``open`` raises, with nothing left half open."""
        slot = resource._slot
        opens = slot.opens
        # Read before: what is invalidated while it is being opened is invalid.
        slot.generation = self._limits.generation
        startedAt = self._settings.clock()
        try:
            resource.open()
            if not resource._isOpen:
                raise poolError(
                    "no-super", f"{type(resource).__name__}.open() of {resource.name!r} has to "
                    f"call super().open() at its end")
        except BaseException as error:
            slot.isTriedLast = True
            slot.opens = opens
            slot.openedAt = None
            slot.openErrors += 1
            try:
                now = self._settings.clock()
                slot.countOpening(now - startedAt)
                if isinstance(error, Exception):
                    self.lastError = brief(error), now
                    self.isFailing = True
            finally:
                self._closeHalfOpen(resource)
            raise
        self.countMissed(resource)
        slot.isTriedLast = False
        self.isFailing = False
        self.noteSuccess(slot)
        seconds = self._settings.clock() - startedAt
        slot.countOpening(seconds)
        self._log.debug("opened %r in %.3f s", resource.name, seconds)
        # Most are opened by the thread that made them. Not when they are made: it may take long.
        if slot.isNew:
            slot.isNew = False
            unbias(resource)

    def _closeHalfOpen(self, resource: Hooked) -> None:
        """Close what a failed ``open`` left behind. The exception that counts is that of open."""
        if resource.resource is not None or resource._isOpen:
            try:
                resource.close()
            except Exception:
                self._log.warning("close-failed", "close of the half open %r failed", resource.name,
                                  exc_info=True)
            finally:
                resource.resource = None
                resource._isOpen = False

    def lookForHooks(self, resource: Hooked) -> None:
        """Look which hooks there are: without repair hooks takes and puts go the short way."""
        slot = resource._slot
        slot.hasRepairHooks = resource._hasRepairHooks
        slot.isLong = (slot.hasRepairHooks or self._settings.leakTrace
                       or self._settings.histograms or self._settings._overridesPut)

    def noteOpen(self, resource: Hooked) -> None:
        """Count an open, whoever called it, and set the limits that hold from now on."""
        slot = resource._slot
        if slot.openedAt is not None:  # opened twice, or its close was interrupted
            slot.countClose(slot.closing)
        slot.opens += 1
        self.lookForHooks(resource)
        self._limits.start(slot, self._settings.clock())
        slot.askToCheck()

    def countMissed(self, resource: Hooked) -> None:
        """Count an open or close of a class that does it without super(), as 1.3.2 allowed."""
        slot = resource._slot
        if resource._isOpen and slot.openedAt is None:
            self.noteOpen(resource)
        elif not resource._isOpen and slot.openedAt is not None:
            slot.countClose(slot.closing)

    def close(self, resource: Hooked, reason: Reason) -> None:
        """Close a resource if it is open. It counts as closed whatever its ``close`` raises.

        An exception is logged, one that is not an ``Exception`` is raised as well.
        """
        slot = resource._slot
        if not resource._isOpen:
            slot.closing = USER
            return
        if underWay and slot.queue is not None and isNewborn(slot.queue):
            self.abandon(resource)  # it is the parent process's
            return
        slot.closing = reason
        try:
            resource.close()
        except BaseException as error:
            resource.resource = None
            slot.closeErrors += 1
            self._log.warning("close-failed", "close of %r failed; it counts as closed",
                              resource.name, exc_info=True)
            if not isinstance(error, Exception):
                raise
        finally:
            resource._isOpen = False
            self.countMissed(resource)
            slot.closing = USER
            if reason is Reason.EXCEPTION:
                self.noteBroken()
            self._log.debug("closed %r: %s", resource.name, reason)

    def noteSuccess(self, slot: Slot) -> None:
        """Note that something could be opened: everybody may open again."""
        if self._breaker.isTripped:
            self._breaker.reset()
            if slot.queue is not None:
                slot.queue.notify()

    def noteBroken(self) -> None:
        """Note that an open resource turned out to be broken: perhaps it is not the only one."""
        if self._settings.openRetryTime:
            self._breaker.trip()

    def isTransient(self, resource: Hooked, error: Exception) -> bool:
        """Tell whether another attempt may open what could not be opened."""
        try:
            return resource.isTransient(error)
        except Exception:
            self._log.warning(
                "hook-failed", "isTransient of %r failed", resource.name, exc_info=True)
            return True

    def closesOn(self, resource: Hooked, error: BaseException) -> bool:
        """Tell whether what the user's with block raised closes the resource."""
        try:
            resource.noteError(error)
        except Exception:
            self._log.warning("hook-failed", "noteError of %r failed", resource.name, exc_info=True)
        if isinstance(error, PoolError):  # of another take; it says nothing about this resource
            return False
        rule = self._settings.closeOnException
        try:
            if isinstance(rule, (type, tuple)):
                return isinstance(error, rule)
            return bool(rule(error) if callable(rule) else rule)
        except Exception:
            self._log.warning("hook-failed", "closeOnException failed; %r is closed", resource.name,
                              exc_info=True)
            return True

    def abandon(self, resource: Hooked) -> None:
        """Have a resource forget what it has open, without closing that."""
        try:
            resource.abandon()
        except Exception:
            self._log.warning("hook-failed", "abandon of %r failed", resource.name, exc_info=True)
        finally:
            resource.resource = None
            resource._isOpen = False
