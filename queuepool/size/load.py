"""The load: threads that make requests on a pool of some capacity, and what was measured."""

from __future__ import annotations

import contextlib
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

from queuepool import PoolClosed
from queuepool.demo import (PATIENCE, PAUSE, Stopped, awaitCall, callAside, cause, cutOff,
                            importPool, oneLine, percentiles)
from queuepool.size.search import LEAST_RUNS, Ended
from queuepool.size.server import Server

now = time.perf_counter

#: Each run begins with a while that is not counted: this share of its time, and then until each
#: thread has waited in the line once, but not for more than so many times its time.
WARM_UP = 0.2
LONGEST_WARM_UP = 5.0
#: How often the sessions of the server are looked at in a run, and how many seconds apart at least.
LOOKS = 10
LEAST_PAUSE = 0.02
#: Seconds that running requests have to end after each attempt to end them. The first time they
#: have so many times as long as the longest took, if that is more.
GRACE = 1.0
GRACE_FACTOR = 3.0


@dataclass(frozen=True)
class Measurement:
    """What one run has measured. Times are seconds from before the take until after the put."""

    rate: float
    p50: float
    p99: float
    requests: int
    failed: int
    #: How many cores this process has used.
    cpu: float
    #: How many of the server's sessions, on average, waited for what.
    waits: dict[str, float]
    #: The share of the machine's cores that was busy, if the server runs on this machine.
    machine: float | None


@dataclass
class Worker:
    """A thread that makes requests, one after the other. It writes only its own lists."""

    test: Test
    startedAt: array[float] = field(default_factory=lambda: array("d"))
    takenAt: array[float] = field(default_factory=lambda: array("d"))
    endedAt: array[float] = field(default_factory=lambda: array("d"))
    failures: list[str] = field(default_factory=list)
    thread: threading.Thread | None = None

    def begin(self) -> None:
        """Start the thread."""
        self.thread = threading.Thread(target=self._run, name="queuepool-size", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        test = self.test
        me = threading.get_ident()
        while not test.isOver.is_set():
            startedAt = now()
            try:
                with test.pool.take() as conn:
                    test.current[me] = conn
                    takenAt = now()
                    test.request(conn)
            except PoolClosed:
                return
            except BaseException as error:  # a script may raise anything
                if test.isCancelling:
                    return
                self.failures.append(f"{cause(error)}: {oneLine(error)}")
                test.isOver.wait(PAUSE)
            else:
                self.endedAt.append(now())
                self.takenAt.append(takenAt)
                self.startedAt.append(startedAt)


class Test:
    """One run of the load: a pool, and the threads that use it."""

    def __init__(self, pool: Any, request: Callable[[Any], object], threads: int) -> None:
        self.pool = pool
        self.request = request
        self.isOver = threading.Event()
        self.isCancelling = False
        #: The connection that each thread took last, by its ident.
        self.current: dict[int, Any] = {}
        self.workers = [Worker(self) for _ in range(threads)]

    def begin(self) -> None:
        """Start the threads. Raises Ended if there cannot be so many."""
        try:
            for worker in self.workers:
                worker.begin()
        except RuntimeError as error:
            raise Ended(f"--threads {len(self.workers)}: {oneLine(error)}") from error

    @property
    def isSteady(self) -> bool:
        """Whether each thread has made a request."""
        return all(worker.endedAt or worker.failures for worker in self.workers)

    def end(self, stops: SimpleQueue[int], longest: float, cancel: Callable[[], object]) -> bool:
        """End all requests: wait, cancel them, cut them off. Return whether the user ended it.

        ``cancel`` may block. Raises Ended if some do not end, and the user did not ask for it.
        """
        self.isOver.set()
        longest = max([longest, *(ended - taken for worker in self.workers
                                  for ended, taken in zip(worker.endedAt, worker.takenAt))])
        deadline = now() + max(GRACE, GRACE_FACTOR * longest)
        while (left := self.pool.close(timeout=0.05)) and now() < deadline and stops.empty():
            pass
        if left:
            self.isCancelling = True
            callAside(cancel)
            left = self.pool.close(timeout=GRACE)
        if left:
            cutOff(list(self.current.values()))
            left = self.pool.close(timeout=GRACE)
        deadline = now() + GRACE
        for worker in self.workers:
            if worker.thread is not None:
                worker.thread.join(max(0.0, deadline - now()))
        if left and stops.empty():
            raise Ended(f"{left} request{'' if left == 1 else 's'} did not end when cancelled")
        return not stops.empty()


class Load:
    """Makes requests from so many threads on pools of any capacity, and measures them."""

    def __init__(self, dsn: str, label: str, server: Server, request: Callable[[Any], object],
                 *, isReadOnly: bool, isLocal: bool, threads: int, seconds: float,
                 stops: SimpleQueue[int], show: Callable[[int, Measurement], object]) -> None:
        """Open nothing. ``seconds`` is how long a capacity is measured, in several runs."""
        self._dsn = dsn
        self._label = label
        self._server = server
        self._request = request
        self._isReadOnly = isReadOnly
        self._isLocal = isLocal
        self._threads = threads
        self._seconds = seconds / LEAST_RUNS
        self._stops = stops
        self._show = show
        #: How many seconds the longest request has taken.
        self._longest = 0.0
        #: Whether sessions end on the server when they are closed. Not so behind a proxy.
        self._isEnding = True
        #: The connection of the request that is not counted, while that runs.
        self._checked: Any = None

    def check(self) -> object:
        """Make one request that is not counted. Returns what it returns, raises what it raises."""
        with self._makePool(1) as pool, pool.take() as conn:
            startedAt = now()
            self._checked = conn
            try:
                result = self._request(conn)
            finally:
                self._checked = None
            self._longest = now() - startedAt
        return result

    def end(self) -> None:
        """Cancel the request that is not counted, if it still runs: the user has ended it."""
        conn = self._checked
        if conn is not None:
            callAside(self._server.cancel, GRACE)
            cutOff([conn])

    def measure(self, capacity: int) -> Measurement:
        """Run the load for a while on a pool of this capacity.

        Raises Ended when the user ends it, when the server has not so many connections free any
        more, when there cannot be so many threads, or when a request does not end or none succeeds.
        """
        self._awaitRoom(capacity)
        pool = self._makePool(capacity)
        test = Test(pool, self._request, self._threads)
        watch = Watch(self._server, self._seconds / LOOKS, self._isLocal)
        isStopped, isSteady = True, False
        try:
            self._warm(pool)
            test.begin()
            if not self._warmUp(test):
                isSteady = test.isSteady
                watch.begin()
                isStopped = self._sleep(self._seconds)
        finally:
            watch.end()
            isStopped = test.end(self._stops, self._longest, self._server.cancel) or isStopped
        if isStopped:
            raise Ended("it was stopped")
        measurement = self._evaluate(test, watch, capacity, isSteady)
        self._show(capacity, measurement)
        return measurement

    def _makePool(self, capacity: int) -> Any:
        # No limits: the query is measured, and not how often connections are opened.
        return importPool()("size", capacity, self._dsn, readonly=self._isReadOnly or None,
                            minOpen=capacity, maxOpenTime=None, maxUsageCount=None,
                            takeTimeout=None, application_name=self._label)

    def _awaitRoom(self, capacity: int) -> None:
        """Wait until the server has ended the sessions of the last run; see what is free."""
        def look() -> int:
            deadline = now() + PATIENCE
            while self._isEnding and self._server.countOurs():
                self._isEnding = now() < deadline
                time.sleep(0.005)
            return self._server.facts().free

        try:
            free = awaitCall(look, self._stops)
        except Exception as error:
            raise _asEnded(error) from error
        if free < capacity:
            raise Ended(f"the server has only {free} free by now")

    def _warm(self, pool: Any) -> None:
        try:
            awaitCall(pool.warm, self._stops)
        except Exception as error:
            raise _asEnded(error) from error

    def _warmUp(self, test: Test) -> bool:
        """Wait until the line is as long as it will be; return whether the user has ended it."""
        deadline = now() + LONGEST_WARM_UP * self._seconds
        isStopped = self._sleep(WARM_UP * self._seconds)
        while not (isStopped or test.isSteady) and now() < deadline:
            isStopped = self._sleep(0.01)
        return isStopped

    def _sleep(self, seconds: float) -> bool:
        """Sleep; return whether the user has ended it."""
        with contextlib.suppress(Empty):
            self._stops.put(self._stops.get(timeout=seconds))  # for whoever looks next
            return True
        return False

    def _evaluate(self, test: Test, watch: Watch, capacity: int, isSteady: bool) -> Measurement:
        begin, end = watch.beganAt, watch.endedAt
        rate = 0.0
        times = array("d")
        for worker in test.workers:
            for startedAt, takenAt, endedAt in zip(worker.startedAt, worker.takenAt,
                                                   worker.endedAt):
                # A request that lies in the run by a half counts as a half.
                inside = min(endedAt, end) - max(takenAt, begin)
                if inside > 0.0:
                    rate += inside / (endedAt - takenAt)
                    times.append(endedAt - startedAt)
                    self._longest = max(self._longest, endedAt - takenAt)
        failures = [failure for worker in test.workers for failure in worker.failures]
        found = percentiles(times)
        if found is None:
            if failures:
                most, = Counter(failures).most_common(1)
                raise Ended(f"no request succeeded with capacity {capacity}: {most[0]}")
            raise Ended(f"no request ended in time with capacity {capacity}: give more --seconds")
        rate /= end - begin
        # A line that is longer than the run was is not seen to its end. By Little's law the mean
        # time is the number of threads by the throughput, and in a fair line all wait as long.
        least = 0.0 if isSteady or failures else self._threads / rate
        return Measurement(rate, max(found.p50, least), max(found.p99, least), len(times),
                           len(failures), watch.cpu, watch.waits, watch.machine)


def _asEnded(error: Exception) -> Ended:
    return Ended("it was stopped" if isinstance(error, Stopped) else oneLine(error))


class Watch:
    """What the processor and the server's sessions do from its begin to its end."""

    def __init__(self, server: Server, pause: float, isLocal: bool) -> None:
        self._server = server
        self._pause = max(LEAST_PAUSE, pause)
        self._isLocal = isLocal
        self._isOver = threading.Event()
        self._looks: list[Counter[str]] = []
        self.beganAt = self.endedAt = self.cpu = 0.0
        self.machine: float | None = None
        self._ticks: tuple[int, int] | None = None

    def begin(self) -> None:
        """Start."""
        self._ticks = machineTicks() if self._isLocal else None
        self.cpu, self.beganAt = time.process_time(), now()
        callAside(self._look)

    def end(self) -> None:
        """Stop, if it was started."""
        if not self.beganAt:
            return
        self.endedAt = now()
        self.cpu = (time.process_time() - self.cpu) / (self.endedAt - self.beganAt)
        ticks = machineTicks()
        if self._ticks is not None and ticks is not None and ticks[1] > self._ticks[1]:
            self.machine = (ticks[0] - self._ticks[0]) / (ticks[1] - self._ticks[1])
        self._isOver.set()  # and it is not waited for: the server may not answer

    @property
    def waits(self) -> dict[str, float]:
        """How many sessions, on average, waited for what."""
        looks = list(self._looks)
        return {kind: count / len(looks)
                for kind, count in sum(looks, Counter()).most_common()}

    def _look(self) -> None:
        with contextlib.suppress(Exception):  # what cannot be seen is not told
            while not self._isOver.wait(self._pause):
                self._looks.append(self._server.sessions())


def machineTicks() -> tuple[int, int] | None:
    """Return the ticks that the cores of this machine were busy, and all; None if not known."""
    try:
        with open("/proc/stat") as file:
            ticks = [int(word) for word in file.readline().split()[1:9]]
    except (OSError, ValueError):
        return None
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)
