"""Metrics for Prometheus, of what ``Pool.stats()`` counts.

``REGISTRY.register(Collector(pool))`` is all that is needed; pools are read when Prometheus asks.

*Several processes* (gunicorn): where prometheus_client works in its multiprocess mode, each process
writes into a file of its own in ``PROMETHEUS_MULTIPROC_DIR``, and its MultiProcessCollector adds
the files up. It asks no collector. So a Collector starts a daemon thread there, one a process, that
writes once a second, and a last time when the process ends.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import multiprocessing.util
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Any, NamedTuple

from queuepool import allPools
from queuepool.lock import Lock, exclusive
from queuepool.pool import Pool
from queuepool.stats import BOUNDS, Histogram, Stats

try:
    from prometheus_client import Metric, values
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
    from prometheus_client.utils import floatToGoString
except ImportError as error:
    raise ImportError(
        "queuepool.prometheus needs the package prometheus-client, which cannot be imported "
        f"({error}). Install it: pip install 'queuepool[prometheus]'",
        name="prometheus_client") from error

__all__ = ["Collector"]

logger = logging.getLogger("queuepool")

#: Seconds between two writes in multiprocess mode.
WRITE_INTERVAL = 1.0

#: The values of the label "le".
_BUCKETS = [*map(floatToGoString, BOUNDS), "+Inf"]
_SUM = "sum"

#: By the value of the label that a family has besides "pool"; "" where it has none.
_Row = dict[str, float]


class _Family(NamedTuple):
    name: str
    kind: str
    help: str
    read: Callable[[Stats], _Row]
    label: str = ""


def _buckets(histogram: Histogram) -> _Row:
    """Return how many are in each bucket, not added up, and the sum of all."""
    row: _Row = dict(zip(_BUCKETS, histogram.counts))
    row[_SUM] = histogram.total if histogram.number else 0.0  # a sum of what is not counted
    return row


_CAPACITY = _Family("queuepool_max_connections", "gauge", "How many connections the pool may have.",
                    lambda stats: {"": stats.capacity})

_FAMILIES = (
    _Family("queuepool_connections", "gauge", "Open connections, idle or checked out (used).",
            lambda stats: {"idle": max(0, stats.open - stats.taken), "used": stats.taken},
            "state"),
    _CAPACITY,
    _Family("queuepool_waiting", "gauge", "Threads that wait for a connection.",
            lambda stats: {"": stats.waiting}),
    _Family("queuepool_takes", "counter", "Connections checked out.",
            lambda stats: {"": stats.takes}),
    _Family("queuepool_waits", "counter", "Takes that had to wait, however they ended.",
            lambda stats: {"": stats.waits}),
    _Family("queuepool_timeouts", "counter", "Takes that raised PoolTimeout.",
            lambda stats: {"": stats.timeouts}),
    _Family("queuepool_opens", "counter", "Connections opened.",
            lambda stats: {"": stats.opens}),
    _Family("queuepool_open_errors", "counter", "Attempts to open a connection that failed.",
            lambda stats: {"": stats.openErrors}),
    _Family("queuepool_closes", "counter", "Connections closed, by reason.",
            lambda stats: {reason.value: count for reason, count in stats.closesByReason.items()},
            "reason"),
    _Family("queuepool_close_errors", "counter", "Close hooks that raised an exception.",
            lambda stats: {"": stats.closeErrors}),
    _Family("queuepool_wait_seconds", "histogram", "How long takes that had to wait waited.",
            lambda stats: _buckets(stats.waitHistogram), "le"),
    _Family("queuepool_open_seconds", "histogram", "How long opening took, failed attempts too.",
            lambda stats: _buckets(stats.openHistogram), "le"),
    _Family("queuepool_use_seconds", "histogram", "How long connections were checked out.",
            lambda stats: _buckets(stats.useHistogram), "le"),
)

#: A row for each family.
_Rows = list[_Row]

_GAUGES = {family.name for family in _FAMILIES if family.kind == "gauge"}


def _rowsOf(pool: Pool[Any]) -> tuple[str, _Rows]:
    """Return the name of a pool, as it can be written, and its rows."""
    stats = pool.stats()
    return (pool.name.encode(errors="backslashreplace").decode(),  # a surrogate has no UTF-8
            [family.read(stats) for family in _FAMILIES])


class _Totals:
    """Sums over pools of one name. While a pool of that name is there, no counter falls."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        #: By id: what users define to compare pools does not matter.
        self._last: dict[int, tuple[weakref.ref[Any], str, _Rows]] = {}
        #: What pools counted that have ended.
        self._ended: dict[str, _Rows] = {}

    def read(self, pools: Iterable[Pool[Any]]) -> dict[str, _Rows]:
        """Return the sums by name."""
        if self._pid != os.getpid():  # a child, where all pools start at zero
            self._pid = os.getpid()
            self._last.clear()
            self._ended.clear()
        current = {}
        for pool in pools:
            current[id(pool)] = (weakref.ref(pool), *_rowsOf(pool))
        for reference, name, rows in self._last.values():
            if reference() is None:
                _add(self._ended.setdefault(name, []), [
                    {} if family.name in _GAUGES else row
                    for family, row in zip(_FAMILIES, rows)])
        self._last = current
        names = dict.fromkeys(name for _, name, _ in current.values())
        self._ended = {name: rows for name, rows in self._ended.items() if name in names}
        totals: dict[str, _Rows] = {name: [] for name in names}
        for name, rows in self._ended.items():
            _add(totals[name], rows)
        for _, name, rows in current.values():
            _add(totals[name], rows)
        return totals


def _add(total: _Rows, rows: _Rows) -> None:
    total += [{} for _ in rows[len(total):]]
    for into, row in zip(total, rows):
        for label, number in row.items():
            into[label] = into.get(label, 0) + number


#: Guards the writer, and the totals of all Collectors. Held during a fork: so no thread of the
#: parent is in the middle of a write, with a lock of prometheus_client that the child never gets.
_lock = Lock()


class Collector:
    """Metrics of these pools, or of all pools of the process if none is named.

    For ``prometheus_client.REGISTRY.register``, or another registry. Keeps no pool alive, and
    looks for pools whenever it is asked. Pools of the same name are added up: give each its own
    name. In multiprocess mode it starts a thread that writes the metrics once a second.
    """

    _lock = _lock

    def __init__(self, *pools: Pool[Any]) -> None:
        for pool in pools:
            if not isinstance(pool, Pool):
                raise TypeError(f"Collector wants pools, not {type(pool).__name__}")
        self._pools = [weakref.ref(pool) for pool in pools]
        self._totals = _Totals()
        self._writer = _writer if getattr(values.ValueClass, "_multiprocess", False) else None
        if self._writer is not None:
            self._writer.add(self)

    def pools(self) -> list[Pool[Any]]:
        """Return the pools whose metrics these are."""
        if not self._pools:
            return allPools()
        return [pool for reference in self._pools if (pool := reference()) is not None]

    def describe(self) -> Iterator[Metric]:
        """Return the metrics without values: registering a Collector reads no pool."""
        return map(_metric, _FAMILIES)

    def collect(self) -> list[Metric]:
        """Return the metrics of the pools as they are now. Called by the registry.

        In multiprocess mode it writes them, and returns none: the MultiProcessCollector does.
        """
        if self._writer is not None:
            self._writer.write()
            return []
        totals = self._readTotals()
        metrics = []
        for number, family in enumerate(_FAMILIES):
            metric = _metric(family)
            for name, rows in totals.items():
                row = rows[number]
                if family.kind == "histogram":
                    counts = accumulate(row[bucket] for bucket in _BUCKETS)
                    metric.add_metric([name], list(zip(_BUCKETS, counts)), row[_SUM])
                else:
                    for label, value in row.items():
                        metric.add_metric([name, label] if family.label else [name], value)
            metrics.append(metric)
        return metrics

    @exclusive
    def _readTotals(self) -> dict[str, _Rows]:
        return self._totals.read(self.pools())


def _metric(family: _Family) -> Any:
    kinds: dict[str, Any] = {"gauge": GaugeMetricFamily, "counter": CounterMetricFamily,
                             "histogram": HistogramMetricFamily}
    labels = ["pool", family.label] if family.label not in ("", "le") else ["pool"]
    return kinds[family.kind](family.name, family.help, labels=labels)


# -- multiprocess mode

class _Writer:
    """Writes the metrics of all Collectors of this process into its files, from a daemon thread.

    There is one, so that a pool that two Collectors have is not counted twice. It writes what was
    added since the last time: the file of this process id may hold counts of an earlier process.
    """

    _lock = _lock

    def __init__(self) -> None:
        self._collectors: weakref.WeakSet[Collector] = weakref.WeakSet()
        self._thread: threading.Thread | None = None
        self._hasFailed = False
        self._hasEnded = False
        self._pid = os.getpid()
        #: What was written of each pool, by its id, a row for each family.
        self._written: dict[int, tuple[weakref.ref[Any], _Rows]] = {}
        #: By family, pool and label.
        self._values: dict[tuple[str, str, str], Any] = {}

    @exclusive
    def add(self, collector: Collector) -> None:
        """Write the metrics of this Collector as well, as long as it is there."""
        self._collectors.add(collector)
        self.start()

    @exclusive
    def start(self) -> None:
        """Start the thread unless it runs or there is nothing to write."""
        if self._collectors and (self._thread is None or not self._thread.is_alive()):
            self._thread = threading.Thread(
                target=self._run, name="queuepool metrics", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        pause = threading.Event()
        isNeeded = True
        while isNeeded:
            pause.wait(WRITE_INTERVAL)
            try:
                isNeeded = self._writeAndLook()
            except Exception:
                if not self._hasFailed:
                    self._hasFailed = True
                    with contextlib.suppress(Exception):  # as of a logging handler that fails
                        logger.warning("writing metrics for Prometheus failed; it is tried again "
                                       "every second [queuepool:metrics-failed]", exc_info=True)

    @exclusive
    def _writeAndLook(self) -> bool:
        """Write; return whether the thread has to go on. If not, another may be started."""
        self.write()
        self._hasFailed = False
        if not self._collectors:
            self._thread = None
        return self._thread is not None

    @exclusive
    def write(self, atExit: bool = False) -> None:
        """Write what the pools look like and what they have counted since the last time."""
        if self._hasEnded:
            return
        self._hasEnded = atExit
        if self._pid != os.getpid():  # a child, where all pools start at zero
            self._pid = os.getpid()
            self._written.clear()
        self._written = {key: each for key, each in self._written.items()
                         if each[0]() is not None}
        gauges = dict.fromkeys((key for key in self._values if key[0] in _GAUGES), 0.0)
        pools = {id(pool): pool for each in list(self._collectors) for pool in each.pools()}
        for pool in pools.values():
            self._writePool(pool, gauges)
        for key, number in gauges.items():
            self._values[key].set(0 if atExit else number)

    def _writePool(self, pool: Pool[Any], gauges: dict[tuple[str, str, str], float]) -> None:
        name, rows = _rowsOf(pool)
        # The master of gunicorn has a pool, too, that it does not use.
        isUsed = any(any(row.values()) for family, row in zip(_FAMILIES, rows)
                     if family is not _CAPACITY)
        _, written = self._written.setdefault(
            id(pool), (weakref.ref(pool), [{} for _ in _FAMILIES]))
        for family, row, before in zip(_FAMILIES, rows, written):
            for label, number in row.items():
                key = family.name, name, label
                value = self._values.get(key)
                if value is None:
                    value = self._values[key] = _value(family, name, label)
                if family.name in _GAUGES:
                    gauges[key] = gauges.get(key, 0) + (number if isUsed else 0)
                else:
                    value.inc(number - before.get(label, 0))
                    before[label] = number


def _value(family: _Family, name: str, label: str) -> Any:
    """Return a number in a file of this process, as prometheus_client's own metrics have it."""
    isLabel = family.label and label != _SUM
    sample = {"gauge": "", "counter": "_total",
              "histogram": "_bucket" if isLabel else "_sum"}[family.kind]
    make: Any = values.ValueClass
    return make(family.kind, family.name, family.name + sample,
                ("pool", family.label) if isLabel else ("pool",),
                (name, label) if isLabel else (name,), family.help, multiprocess_mode="livesum")


_writer = _Writer()


def _afterForkInChild() -> None:
    _lock.release()
    _writer.start()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release,
                        after_in_child=_afterForkInChild)


@atexit.register
def _writeAtExit() -> None:
    if _writer._collectors:
        with contextlib.suppress(Exception):  # the thread has logged it, if there is no folder
            _writer.write(True)


def _writeAtEndOfChild(_: object = None) -> None:
    """Have a child process of multiprocessing write as well: it runs no atexit function."""
    multiprocessing.util.Finalize(None, _writeAtExit, exitpriority=0)


if multiprocessing.parent_process() is not None:
    _writeAtEndOfChild()
multiprocessing.util.register_after_fork(_writer, _writeAtEndOfChild)
