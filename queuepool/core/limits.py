"""When an open resource has to be closed, and the checks of what users pass as arguments."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable
from typing import Any

from queuepool.core.slot import NEVER, PAST, Slot
from queuepool.stats import Reason


class Limits:
    """The limits of a pool. Tells which of them a slot has reached."""

    def __init__(self, maxIdleTime: float | None, maxOpenTime: float | None,
                 maxUsageCount: int | None, jitter: float) -> None:
        if not isNumber(jitter) or not 0.0 <= jitter <= 1.0:
            raise ValueError(
                f"jitter must be a fraction from 0 to 1, not {describe(jitter)}")
        self.maxIdleTime = checkLimit("maxIdleTime", maxIdleTime)
        self.maxOpenTime = checkLimit("maxOpenTime", maxOpenTime)
        self.maxUsageCount = checkCount("maxUsageCount", maxUsageCount)
        self.jitter = jitter
        #: Replaced by invalidate(): what was opened in an earlier generation has to be closed.
        self.generation = object()
        #: Replaced when a limit is changed.
        self._version = object()

    def start(self, slot: Slot, now: float) -> None:
        """Set the limits of what was opened just now."""
        slot.openedAt = slot.lastUsedAt = now
        slot.takesAtOpen = slot.takes
        slot.lifeShare = 1.0 - self.jitter * random.random()
        self._apply(slot)

    def _apply(self, slot: Slot) -> None:
        slot.takesLimit = slot.takesAtOpen + self.maxUsageCount
        if slot.openedAt is not None:
            slot.expiresAt = slot.openedAt + self.maxOpenTime * slot.lifeShare

    def given(self, name: str) -> float | None:
        """Return a limit as it was given: None if it is none."""
        value: float = getattr(self, name)
        return None if value in (NEVER, sys.maxsize) else value

    def change(self, name: str, value: float | None, slots: list[Slot]) -> None:
        """Change one limit, also of what is open already."""
        check: Callable[[str, Any], float] = (
            checkCount if name == "maxUsageCount" else checkLimit)
        setattr(self, name, check(name, value))
        self._version = object()
        for slot in slots:
            slot.askToCheck()

    def due(self, slot: Slot, now: float) -> Reason | None:
        """Return why the resource has to be closed, or None if it may stay open or is closed."""
        openedAt = slot.openedAt  # another thread may close it while this looks
        if openedAt is None:
            return None
        if slot.generation is not self.generation:
            return Reason.INVALIDATED
        if now > openedAt + self.maxOpenTime * slot.lifeShare:
            return Reason.AGE
        if slot.takes - slot.takesAtOpen >= self.maxUsageCount:
            return Reason.USAGE
        if now - slot.lastUsedAt > self.maxIdleTime:
            return Reason.IDLE
        return None

    def resetCheck(self, slot: Slot) -> None:
        """Let takes and puts go the short way again until the resource may be due.

        Its last use is taken for the last one, so it is due later than that if it is used again.
        What changed meanwhile, or the generation, is looked at afterwards: see ``askToCheck``.
        """
        version = self._version
        self._apply(slot)
        slot.checkAt = min(slot.expiresAt, slot.lastUsedAt + self.maxIdleTime)
        slot.shortUntil = PAST if slot.isLong else slot.checkAt
        if self._version is not version or slot.generation is not self.generation:
            slot.askToCheck()


def describe(value: object) -> str:
    """Describe a wrong argument without printing what may be a secret, such as a DSN."""
    if isinstance(value, (int, float)):
        return repr(value)
    return f"a value of type {type(value).__name__}"


def isNumber(value: object) -> bool:
    """Tell whether a value is an int or a float; a bool is not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def checkInteger(what: str, value: object, least: int) -> None:
    """Raise ValueError if the value is no integer of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{what} must be an integer >= {least}, not {describe(value)}")


def checkCount(what: str, value: int | None) -> int:
    """Return a number of takes; None is no limit."""
    if value is None:
        return sys.maxsize
    checkInteger(what, value, 1)
    return value


def checkSeconds(what: str, value: float | None) -> float | None:
    """Return a time in seconds as a float; None, or more than a thread can wait, is no limit."""
    if value is None:
        return None
    if not isNumber(value) or not value >= 0:
        raise ValueError(
            f"{what} must be None or a number of seconds >= 0, not {describe(value)}")
    return float(value) if value <= threading.TIMEOUT_MAX else None


def checkLimit(what: str, value: float | None) -> float:
    """Return a time in seconds as ``checkSeconds`` does, with NEVER for no limit."""
    seconds = checkSeconds(what, value)
    return NEVER if seconds is None else seconds
