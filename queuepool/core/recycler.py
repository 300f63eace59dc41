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
    """Calls ``pool.recycle()`` at once and then every ``interval`` seconds, until it is stopped.

    Between two calls the thread has only a weak reference to the pool, whose end wakes and ends
    it. No exception of a recycle ends it. As a daemon it ends with the interpreter.
    """

    def __init__(self, pool: Recyclable, interval: float, log: Log) -> None:
        self.interval = interval
        #: Whatever is put in here ends the thread. Its put takes no lock: a finalizer may call it.
        self._end: SimpleQueue[Any] = SimpleQueue()
        self._thread = threading.Thread(
            target=_run, args=(weakref.ref(pool, self._end.put), self._end, interval, log),
            name=f"queuepool recycler {pool.name}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Tell the thread to end. Does not wait for it."""
        self._end.put(None)

    def join(self) -> None:
        """Wait until the thread has ended, unless this is that thread or it never started."""
        if self.isAlive and self._thread is not threading.current_thread():
            self._thread.join()

    @property
    def isAlive(self) -> bool:
        """Tell whether the thread runs."""
        return self._thread.is_alive()


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
                log.warning("recycle failed; the recycler goes on", exc_info=True)
        del pool
