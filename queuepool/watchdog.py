"""Time limits for calls that have none of their own, kept by one thread for all of them."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator

#: Seconds after which the thread ends if there is nothing to watch.
LINGER_TIME = 60.0


class Limit:
    """One time limit. Its action runs in the watchdog's thread, unless it ends before."""

    def __init__(self, action: Callable[[], float | None]) -> None:
        self._action: Callable[[], float | None] | None = action
        self._lock = threading.Lock()
        #: Whether the time was over before the call was.
        self.isOver = False

    def expire(self) -> float | None:
        """Run the action, and return what it returns.

        Meanwhile ``end`` waits, so that what the action works on still exists.
        """
        with self._lock:
            if self._action is not None:
                self.isOver = True
                with contextlib.suppress(Exception):
                    return self._action()
        return None

    def end(self) -> None:
        """Forget the action. It does not run any more after this."""
        with self._lock:
            self._action = None


class Watchdog:
    """Runs actions when time limits are over. Its thread runs only while there are some."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        #: A heap of instants of time.monotonic(), numbers in the order of arrival, and limits.
        self._limits: list[tuple[float, int, Limit]] = []
        self._numbers = itertools.count()
        self._isRunning = False

    @contextlib.contextmanager
    def limit(self, seconds: float, action: Callable[[], float | None]) -> Iterator[Limit]:
        """Run ``action`` if the block takes longer than so many seconds.

        It runs in another thread, must not block, and never runs after the block. It may return
        the seconds after which it is to run again. Raises RuntimeError, and does not begin the
        block, if no thread can be started.
        """
        limit = Limit(action)
        try:
            with self._condition:
                self._add(seconds, limit)
                if not self._isRunning:
                    threading.Thread(
                        target=self._run, name="queuepool watchdog", daemon=True).start()
                    self._isRunning = True
                self._condition.notify()
            yield limit
        finally:
            limit.end()

    def _add(self, seconds: float, limit: Limit) -> None:
        heapq.heappush(self._limits, (time.monotonic() + seconds, next(self._numbers), limit))

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._limits:
                    if not self._condition.wait(LINGER_TIME) and not self._limits:
                        self._isRunning = False
                        return
                rest = self._limits[0][0] - time.monotonic()
                if rest > 0.0:
                    self._condition.wait(rest)
                    continue
                limit = heapq.heappop(self._limits)[-1]
            again = limit.expire()
            if again is not None:
                with self._condition:
                    self._add(again, limit)


_watchdog = Watchdog()


def timeLimit(seconds: float, action: Callable[[], float | None],
              ) -> contextlib.AbstractContextManager[Limit]:
    """Do what ``Watchdog.limit`` does, with the one watchdog of this process."""
    return _watchdog.limit(seconds, action)


def _startAfresh() -> None:
    """Forget the parent's watchdog, in a child process: its thread is not here."""
    global _watchdog
    _watchdog = Watchdog()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_startAfresh)
