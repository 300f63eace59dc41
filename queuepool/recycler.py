"""The daemon thread that calls ``Pool.recycle`` now and then."""

from __future__ import annotations

import threading
import weakref
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from queuepool.pool import Pool


class Recycler:
    """Call ``pool.recycle()`` every interval seconds until told to stop or the pool is dropped.

    Between two calls the thread holds no reference to the pool but a weak one, whose callback
    wakes it; no exception of a recycle ends it; as a daemon it ends with the interpreter.
    """

    def __init__(self, pool: Pool[Any], interval: float) -> None:
        self.interval = interval
        #: Whatever is put in here ends the thread. Its put takes no lock: safe in a callback.
        self._wake: SimpleQueue[Any] = SimpleQueue()
        self._pool = weakref.ref(pool, self._wake.put)
        self._thread = threading.Thread(
            target=_run, args=(self._pool, self._wake, interval),
            name=f"queuepool recycler {pool.name}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Tell the thread to end, without waiting for it."""
        self._wake.put(None)

    def join(self) -> None:
        """Wait until the thread has ended, unless this is that thread or it never started."""
        if self.isAlive and self._thread is not threading.current_thread():
            self._thread.join()

    @property
    def isAlive(self) -> bool:
        """Tell whether the thread runs."""
        return self._thread.is_alive()


def _run(weakPool: weakref.ref[Pool[Any]], wake: SimpleQueue[Any], interval: float) -> None:
    while True:
        try:
            wake.get(timeout=interval)
            return
        except Empty:
            pass
        pool = weakPool()
        if pool is None:
            return
        try:
            pool.recycle()
        except BaseException:
            pool._warn("recycle failed; the recycler goes on", exc_info=True)
        del pool
