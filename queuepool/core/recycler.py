"""The daemon thread that calls ``Pool.recycle`` at an interval and samples the load."""

from __future__ import annotations

import contextlib
import math
import random
import threading
import time
import weakref
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from queuepool.core.log import Log

#: Our own: a program that has seeded the one of the module gets the numbers that it expects.
_random = random.Random().random


class Recyclable(Protocol):
    """What is needed of a pool here."""

    name: str

    def recycle(self) -> None: ...
    def sampleLoad(self) -> None: ...


class Recycler:
    """Starts and stops the thread that calls ``pool.recycle()`` at once and at an interval.

    It also calls ``pool.sampleLoad()`` once a second. Between two calls the thread has only a weak
    reference to the pool, whose end wakes and ends it. No exception of a call ends it. As a daemon
    it ends with the interpreter.
    """

    def __init__(self, pool: Recyclable, log: Log,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._pool = weakref.ref(pool)
        self._log = log
        #: Not the pool's, which may stand still: the thread really sleeps.
        self._clock = clock
        #: At most one entry, "thread". setdefault and pop, both atomic, decide who starts and
        #: who stops it.
        self._threads: dict[str, _Thread] = {}

    @property
    def interval(self) -> float | None:
        """The seconds between two rounds; None if no thread runs."""
        thread = self._threads.get("thread")
        return None if thread is None else thread.interval

    @property
    def isRunning(self) -> bool:
        """Whether a thread runs."""
        thread = self._threads.get("thread")
        return thread is not None and thread.is_alive()

    def start(self, interval: float) -> None:
        """Start the thread, unless it runs already."""
        pool = self._pool()
        if pool is None:
            return
        thread = _Thread(pool, interval, self._log, self._clock)
        try:
            if self._threads.setdefault("thread", thread) is thread:
                thread.start()
        except BaseException:
            if self._threads.get("thread") is thread and not thread.is_alive():
                del self._threads["thread"]
            raise

    def stop(self, wait: bool) -> None:
        """Tell the thread to end, if it runs; with wait, wait until it has ended."""
        thread = self._threads.pop("thread", None)
        if thread is not None:
            thread.end.put(None)
            if wait and thread is not threading.current_thread() and thread.is_alive():
                thread.join()


class _Thread(threading.Thread):
    """The daemon thread of a Recycler."""

    def __init__(self, pool: Recyclable, interval: float, log: Log,
                 clock: Callable[[], float]) -> None:
        self.interval = interval
        #: Whatever is put in here ends the thread. Its put takes no lock: a finalizer may call it.
        self.end: SimpleQueue[Any] = SimpleQueue()
        super().__init__(
            target=_run,
            args=(weakref.ref(pool, self.end.put), self.end, interval, log, clock),
            name=f"queuepool recycler {pool.name}", daemon=True)


def _run(weakPool: weakref.ref[Recyclable], end: SimpleQueue[Any], interval: float,
         log: Log, clock: Callable[[], float] = time.monotonic) -> None:
    recycleAt = second = clock()  # the first round is now
    # One sample at a random instant of each second: what a program does at each full second is
    # neither always seen nor never. Each second is counted from the first, so nothing drifts.
    sampleAt = second + _random()
    while True:
        try:
            end.get(timeout=max(0.0, min(recycleAt, sampleAt) - clock()))
            return
        except Empty:
            now = clock()
        pool = weakPool()
        if pool is None:
            return
        isRound = now >= recycleAt
        try:
            if now >= sampleAt:
                # This sample is that of the second that is now. Those that a slow round has
                # missed have none.
                second += math.floor(now - second) + 1.0
                sampleAt = second + _random()
                pool.sampleLoad()
            if isRound:
                pool.recycle()
        except BaseException:
            with contextlib.suppress(BaseException):
                log.warning("recycle-failed", "recycle failed; the recycler goes on", exc_info=True)
        del pool
        if isRound:
            recycleAt = clock() + interval
