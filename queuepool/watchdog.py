"""Time limits for calls that have none of their own, kept by one thread for all of them."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any

from queuepool.core.slot import NEVER
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


class Watchdog:
    """Runs actions when time limits are over, in a daemon thread that starts with the first.

    Most blocks end long before, so a limit wakes the thread only if that sleeps beyond it. There
    is no lock that a signal handler could leave locked: of the dict only single stores, pop and
    copy() are used, which are atomic without the GIL, too; and what wakes the thread is a
    SimpleQueue. That is made with the first limit, because gevent may replace the class after the
    import.
    """

    def __init__(self) -> None:
        #: When each limit that runs is over, an instant of time.monotonic().
        self._ends: dict[Limit, float] = {}
        #: Until then the thread sleeps unless it is woken; NEVER also while it looks.
        self._sleepsUntil = NEVER
        self._bells: dict[str, Any] = {}
        #: "keeper", while it runs. Not its is_alive(): a signal handler that raises in that makes
        #: CPython 3.12 believe that the thread has ended.
        self._threads: dict[str, threading.Thread] = {}

    @contextlib.contextmanager
    def limit(self, seconds: float, action: Callable[[], float | None],
              isVital: bool = True) -> Iterator[Limit]:
        """Run ``action`` if the block takes longer than so many seconds.

        It runs in another thread, must not block, and never runs after the block. It may return
        the seconds after which it is to run again. If no thread can be started, the block runs
        without a limit, or, if that is vital, does not begin, and RuntimeError is raised.
        """
        limit = Limit(action)
        try:
            # In one step: two limits may be the first.
            bell = self._bells.get("bell") or self._bells.setdefault("bell", queue.SimpleQueue())
            if not self._threads:
                try:
                    self._start(bell)
                except RuntimeError:
                    if isVital:
                        raise
            # It stores, then looks; the thread does so, too. So one of them sees the other.
            self._ends[limit] = end = time.monotonic() + seconds
            if end < self._sleepsUntil and self._threads:
                bell.put(None)
            yield limit
        finally:
            self._ends.pop(limit, None)
            limit.end()

    def _start(self, bell: Any) -> None:
        thread = threading.Thread(
            target=self._run, args=(bell,), name="queuepool watchdog", daemon=True)
        try:
            if self._threads.setdefault("keeper", thread) is thread:
                thread.start()
        except BaseException:
            if self._threads.get("keeper") is thread and not thread.is_alive():
                del self._threads["keeper"]
            raise

    def _run(self, bell: Any) -> None:
        try:
            while True:
                with contextlib.suppress(queue.Empty):
                    bell.get(timeout=max(0.0, min(self._look(), threading.TIMEOUT_MAX)))
        finally:
            self._sleepsUntil = NEVER
            self._threads.clear()

    def _look(self) -> float:
        """Run the actions of what is over, the earliest first; return the seconds of the rest."""
        self._sleepsUntil = NEVER
        for limit, end in sorted(self._ends.copy().items(), key=itemgetter(1)):
            now = time.monotonic()
            if now < end:
                self._sleepsUntil = end
                return end - now
            again = limit.expire()
            if again is None:
                self._ends.pop(limit, None)
            elif limit in self._ends:
                self._ends[limit] = time.monotonic() + again
        return 0.0 if self._ends else NEVER


_watchdog = Watchdog()


def timeLimit(seconds: float, action: Callable[[], float | None], isVital: bool = True,
              ) -> contextlib.AbstractContextManager[Limit]:
    """Do what ``Watchdog.limit`` does, with the one watchdog of this process."""
    return _watchdog.limit(seconds, action, isVital)


def _startAfresh() -> None:
    """Forget the parent's watchdog, in a child process: its thread is not here."""
    global _watchdog
    _watchdog = Watchdog()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_startAfresh)
