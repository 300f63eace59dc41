"""A circuit breaker for ``open``: after a failure one resource is tried at a time."""

from __future__ import annotations

import random
from collections.abc import Callable

from queuepool.core.slot import NEVER, PAST, Place, Slot
from queuepool.lock import Lock, exclusive

#: Seconds between the first failure and the next attempt. Doubled after each further failure.
FIRST_PAUSE = 0.1
#: The longest time between two attempts: what works again is noticed within a second.
LONGEST_PAUSE = 0.75


class CircuitBreaker:
    """Tells who may open a resource, and when, after a failure.

    Normally everybody may. Once it is *tripped* only one at a time may, the *probe*, and not
    before ``retryAt``. The first success resets it. A lock guards these fields, nothing else.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = Lock()
        self._probe: Slot | None = None
        self.reset()

    @exclusive
    def reset(self) -> None:
        """Note a success: everybody may open again."""
        self.isTripped = False
        #: The last failure, without the frames of its traceback; None if there was none.
        self.error: BaseException | None = None
        #: When the first failure happened, and when the next attempt may be made.
        self.startedAt = self.retryAt = PAST
        self._pause = FIRST_PAUSE
        self._probe = None

    def trip(self) -> None:
        """Note that an open resource turned out to be broken: perhaps the others are, too."""
        self.isTripped = True

    def noteFailure(self, error: BaseException, outer: BaseException | None) -> None:
        """Note that the probe could not be opened.

        ``outer`` is the exception that the caller of ``take`` was handling: it is not ours.
        """
        self._keep(withoutFrames(error, outer), self._clock())

    @exclusive
    def _keep(self, error: BaseException, now: float) -> None:
        if self.error is None:
            self.startedAt = now
        self.error = error
        self.isTripped = True
        if now >= self.retryAt:  # of several that fail at once, one counts
            self.retryAt = now + self._pause * random.uniform(0.85, 1.0)
            self._pause = min(2.0 * self._pause, LONGEST_PAUSE)

    def isReady(self) -> bool:
        """Tell whether somebody may try to open now."""
        return not self.isTripped or (
            self._clock() >= self.retryAt and self._current() is None)

    def pause(self) -> float:
        """Return the seconds until the next attempt may be made; NEVER if nobody waits for that."""
        if not self.isTripped:
            return NEVER
        seconds = self.retryAt - self._clock()
        return seconds if seconds > 0.0 else NEVER

    def giveUpAt(self, startedAt: float, retryTime: float) -> float:
        """Return when a take that began then gives up, after something could not be opened.

        NEVER if meanwhile another thread has opened something.
        """
        failedAt = self.startedAt
        return NEVER if failedAt == PAST else max(startedAt, failedAt) + retryTime

    def admits(self, slot: Slot) -> bool:
        """Tell whether this held slot may be opened now. If tripped, it is the probe then."""
        if not self.isTripped:
            return True
        return self._clock() >= self.retryAt and self._isProbe(slot)

    @exclusive
    def _isProbe(self, slot: Slot) -> bool:
        """Tell whether this is the probe. It is from now on if there is none."""
        if self._current() is None:
            self._probe = slot
        return self._probe is slot

    @exclusive
    def release(self, slot: Slot) -> None:
        """Let another one be the probe, if it was this one."""
        if self._probe is slot:
            self._probe = None

    def _current(self) -> Slot | None:
        """Return the probe. A slot that is not held any more is none, however it got there."""
        slot = self._probe
        return slot if slot is not None and slot.place is Place.HELD else None


def withoutFrames(error: BaseException, outer: BaseException | None = None) -> BaseException:
    """Remove the tracebacks from an exception that is kept, and from all that it refers to.

    Frames keep alive whatever was in their variables. Causes, contexts and group members may
    form a cycle. ``outer`` and what only ``outer`` refers to belong to somebody else.
    """
    seen = {id(outer)}
    pending: list[BaseException | None] = [error]
    while pending:
        link = pending.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        link.__traceback__ = None
        if outer is not None and link.__context__ is outer:
            link.__context__ = None
        pending += [link.__cause__, link.__context__]
        if isinstance(link, BaseExceptionGroup):
            pending += link.exceptions
    return error
