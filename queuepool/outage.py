"""When to try again to open what cannot be opened at the moment."""

from __future__ import annotations

import random

#: Seconds before the second attempt; doubled each time.
FIRST_PAUSE = 0.1
#: Seconds between two attempts at the most: what opens again is found open within a second.
LONGEST_PAUSE = 0.75


class Outage:
    """Keep the schedule of attempts, from the first that failed to the first that succeeds.

    Written only by the one thread that may try.
    """

    def __init__(self, now: float = 0.0) -> None:
        self.startedAt = now
        self.error: BaseException | None = None
        self.nextTryAt = float("-inf")
        self._pause = FIRST_PAUSE

    def noteFailure(self, error: BaseException, now: float) -> None:
        """Remember the last error and set the time of the next attempt, a bit at random.

        The error without its traceback: that would keep all that the frames refer to.
        """
        self.error = error
        link: BaseException | None = error
        while link is not None:
            link.__traceback__ = None
            link = link.__cause__ or link.__context__
        self.nextTryAt = now + self._pause * random.uniform(0.85, 1.0)
        self._pause = min(2.0 * self._pause, LONGEST_PAUSE)


#: Stands for none: nothing failed.
NO_OUTAGE = Outage()
