"""When an open resource has to be closed, and the checks of what users pass as arguments."""

from __future__ import annotations

import random
import sys
import threading

from queuepool.core.slot import NEVER, PAST, Slot
from queuepool.stats import Reason


class Limits:
    """The limits of a pool. Tells which of them a slot has reached."""

    def __init__(self, maxIdleTime: float | None, maxOpenTime: float | None,
                 maxUsageCount: int | None, jitter: float) -> None:
        if maxUsageCount is not None:
            checkInteger("maxUsageCount", maxUsageCount, 1)
        if not isNumber(jitter) or not 0.0 <= jitter <= 1.0:
            raise ValueError(
                f"jitter must be a fraction from 0 to 1, not {describe(jitter)}")
        self.maxIdleTime = checkLimit("maxIdleTime", maxIdleTime)
        self.maxOpenTime = checkLimit("maxOpenTime", maxOpenTime)
        self.maxUsageCount = sys.maxsize if maxUsageCount is None else maxUsageCount
        self.jitter = jitter
        #: Replaced by invalidate(): what was opened in an earlier generation has to be closed.
        self.generation = object()

    def start(self, slot: Slot, now: float) -> None:
        """Set the limits of what was opened just now."""
        slot.openedAt = slot.lastUsedAt = now
        slot.takesAtOpen = slot.takes
        slot.takesLimit = slot.takes + self.maxUsageCount
        slot.expiresAt = now + self.maxOpenTime * (1.0 - self.jitter * random.random())

    def due(self, slot: Slot, now: float) -> Reason | None:
        """Return why the resource has to be closed, or None if it may stay open or is closed."""
        if slot.openedAt is None:
            return None
        if slot.generation is not self.generation:
            return Reason.INVALIDATED
        if now > slot.expiresAt:
            return Reason.AGE
        if slot.takes >= slot.takesLimit:
            return Reason.USAGE
        if now - slot.lastUsedAt > self.maxIdleTime:
            return Reason.IDLE
        return None

    def resetCheck(self, slot: Slot, isSurplus: bool) -> None:
        """Let takes and puts go the short way again until the resource expires."""
        slot.checkAt = slot.expiresAt
        slot.shortUntil = PAST if slot.isLong else slot.expiresAt
        if isSurplus or slot.generation is not self.generation:
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
