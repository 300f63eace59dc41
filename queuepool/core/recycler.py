"""The daemon thread that calls ``Pool.recycle`` at an interval."""

from __future__ import annotations

import contextlib
import threading
import weakref
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from queuepool.core.log import Log


class Recyclable(Protocol):
    """What is needed of a pool here."""

    name: str

    def recycle(self) -> None: ...


class Recycler:
    """Starts and stops the thread that calls ``pool.recycle()`` at once and at an interval.

    Between two calls the thread has only a weak reference to the pool, whose end wakes and ends
    it. No exception of a recycle ends it. As a daemon it ends with the interpreter.
    """

    def __init__(self, pool: Recyclable, log: Log) -> None:
        self._pool = weakref.ref(pool)
        self._log = log
        #: At most one entry, "thread". setdefault and pop, both atomic, decide who starts and
        #: who stops it.
        self._threads: dict[str, _Thread] = {}

    @property
    def interval(self) -> float | None:
        """The seconds between two calls; None if no thread runs."""
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
        thread = _Thread(pool, interval, self._log)
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

    def __init__(self, pool: Recyclable, interval: float, log: Log) -> None:
        self.interval = interval
        #: Whatever is put in here ends the thread. Its put takes no lock: a finalizer may call it.
        self.end: SimpleQueue[Any] = SimpleQueue()
        super().__init__(
            target=_run, args=(weakref.ref(pool, self.end.put), self.end, interval, log),
            name=f"queuepool recycler {pool.name}", daemon=True)


def _run(weakPool: weakref.ref[Recyclable], end: SimpleQueue[Any], interval: float,
         log: Log) -> None:
    seconds = 0.0  # the first round is now
    while True:
        try:
            end.get(timeout=seconds)
            return
        except Empty:
            seconds = interval
        pool = weakPool()
        if pool is None:
            return
        try:
            pool.recycle()
        except BaseException:
            with contextlib.suppress(BaseException):
                log.warning("recycle-failed", "recycle failed; the recycler goes on", exc_info=True)
        del pool
