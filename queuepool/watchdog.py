"""Time limits for calls that have none of their own, kept by one thread for all of them."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from queuepool.lock import Lock, exclusive


class Limit:
    """One time limit. Its action runs in the watchdog's thread, unless it ends before."""

    def __init__(self, action: Callable[[], float | None]) -> None:
        self._action: Callable[[], float | None] | None = action
        self._lock = Lock()  # a finalizer may call end in the watchdog's own thread
        #: Whether the time was over before the call was.
        self.isOver = False

    @exclusive
    def expire(self) -> float | None:
        """Run the action, and return what it returns.

        Meanwhile ``end`` waits, so that what the action works on still exists.
        """
        if self._action is not None:
            self.isOver = True
            with contextlib.suppress(Exception):
                return self._action()
        return None

    @exclusive
    def end(self) -> None:
        """Forget the action. It does not run any more after this."""
        self._action = None


#: An instant of time.monotonic(), a number in the order of arrival, and a limit.
_Entry = tuple[float, int, Limit]


class Watchdog:
    """Runs actions when time limits are over, in a daemon thread that starts with the first.

    There is no lock that a signal handler could leave locked: the limits go to the thread through
    a SimpleQueue. That is made with the first limit, because gevent may replace the class after
    the import.
    """

    def __init__(self) -> None:
        self._queues: dict[str, Any] = {}
        #: "keeper", while it runs. Not its is_alive(): a signal handler that raises in that makes
        #: CPython 3.12 believe that the thread has ended.
        self._threads: dict[str, threading.Thread] = {}
        self._numbers = itertools.count()

    @contextlib.contextmanager
    def limit(self, seconds: float, action: Callable[[], float | None]) -> Iterator[Limit]:
        """Run ``action`` if the block takes longer than so many seconds.

        It runs in another thread, must not block, and never runs after the block. It may return
        the seconds after which it is to run again. Raises RuntimeError, and does not begin the
        block, if no thread can be started.
        """
        limit = Limit(action)
        try:
            # In one step: two limits may be the first.
            arrivals = self._queues.get("arrivals") or self._queues.setdefault(
                "arrivals", queue.SimpleQueue())
            if not self._threads:
                self._start(arrivals)
            arrivals.put((time.monotonic() + seconds, next(self._numbers), limit))
            yield limit
        finally:
            limit.end()

    def _start(self, arrivals: Any) -> None:
        thread = threading.Thread(target=_run, args=(arrivals, self._threads),
                                  name="queuepool watchdog", daemon=True)
        try:
            if self._threads.setdefault("keeper", thread) is thread:
                thread.start()
        except BaseException:
            if self._threads.get("keeper") is thread and not thread.is_alive():
                del self._threads["keeper"]
            raise


def _run(arrivals: Any, threads: dict[str, threading.Thread]) -> None:
    try:
        _keep(arrivals)
    finally:
        threads.clear()


def _keep(arrivals: Any) -> None:
    entries: list[_Entry] = []
    while True:
        rest = entries[0][0] - time.monotonic() if entries else threading.TIMEOUT_MAX
        try:
            # All that has arrived is looked at before anything expires.
            heapq.heappush(entries, arrivals.get(
                timeout=max(0.0, min(rest, threading.TIMEOUT_MAX))))
            continue
        except queue.Empty:
            pass
        if entries and entries[0][0] <= time.monotonic():
            _, number, limit = heapq.heappop(entries)
            again = limit.expire()
            if again is not None:
                heapq.heappush(entries, (time.monotonic() + again, number, limit))


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
