"""Metrics for OpenTelemetry, by its semantic conventions for database client connections.

These conventions have the status *Development*: their names may still change, and then these do.
Needs the API package only; without an SDK nothing is measured and nothing is stored.

``db.client.connection.wait_time`` has only the takes that had to wait in line, ``create_time`` also
attempts that failed, and ``use_time`` what ``Stats.useHistogram`` has. ``idle.min`` is the pool's
``minOpen``, which counts used ones as well.
"""

from __future__ import annotations

import contextlib
import math
import os
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from queuepool.lock import Lock, exclusive
from queuepool.pool import Pool
from queuepool.stats import BOUNDS, Histogram, Stats

try:
    from opentelemetry.metrics import (CallbackOptions, MeterProvider, Observation,
                                       get_meter_provider)
except ImportError as error:
    raise ImportError(
        "queuepool.opentelemetry needs the package opentelemetry-api, which cannot be imported "
        f"({error}). Install it: pip install 'queuepool[opentelemetry]'",
        name="opentelemetry") from error

__all__ = ["observe"]

#: How many times of one kind a collection records at most for a pool: 10,000 take about 0.1 s.
MOST_RECORDS = 10_000

_POOL = "db.client.connection.pool.name"
_STATE = "db.client.connection.state"


def observe(pool: Pool[Any], meter_provider: MeterProvider | None = None) -> None:
    """Have the metrics of the pool collected, by the global meter provider if none is given.

    Runs nothing until a reader collects, keeps the pool alive no longer than its users do, and
    changes nothing if the pool is observed already. Pools of the same name are added up: give each
    its own name. OpenTelemetry's histograms take single times only, and the pool keeps none. So
    for each time that it counted in a bucket one is recorded that lies in that bucket, chosen so
    that the sum is right as well: counts of all buckets, number and sum are exact, minimum and
    maximum are those of the bucket. Each record takes about 8 µs of the collecting thread; when
    there were more than 10,000 of a kind since the last collection, a sample of 10,000 is recorded:
    then percentiles are still right, number and sum are the sample's. Collect more often to avoid
    that.
    """
    if not isinstance(pool, Pool):
        raise TypeError(f"pool must be a Pool, not {type(pool).__name__}")
    current = get_meter_provider()
    _observers.add(pool, current if meter_provider is None else meter_provider, current)


class _Observers:
    """One observer for each provider: an SDK ignores what is registered twice."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._all: weakref.WeakKeyDictionary[MeterProvider, _Observer] = weakref.WeakKeyDictionary()
        self._default: _Observer | None = None

    @exclusive
    def add(self, pool: Pool[Any], provider: MeterProvider, current: MeterProvider) -> None:
        """Have this provider observe one pool more; ``current`` is the global one."""
        # What was made before the global provider was set works with that one now.
        observer = self._default if provider is current else None
        if observer is None:
            observer = self._all.get(provider)
        if observer is None:
            observer = self._all[provider] = _Observer(provider)
        if provider is current:
            self._default = observer
        observer.add(pool)


_observers = _Observers()


class _Observer:
    """The instruments of one meter provider, and the pools that they observe."""

    def __init__(self, provider: MeterProvider) -> None:
        self._pools: list[_Observed] = []
        #: Of pools that have ended: their time-outs when they were last seen, by name.
        self._ended: dict[str, int] = {}
        self._endedIn = os.getpid()
        meter = provider.get_meter("queuepool")
        create: Any = meter.create_histogram
        self._histograms = [
            (create(f"db.client.connection.{name}", "s", text,
                    explicit_bucket_boundaries_advisory=BOUNDS), field)
            for name, text, field in (
                ("create_time", "How long opening a connection took, failed attempts too.",
                 "openHistogram"),
                ("wait_time", "How long takes that had to wait waited.", "waitHistogram"),
                ("use_time", "How long connections were checked out.", "useHistogram"))]
        gauge, counter = meter.create_observable_up_down_counter, meter.create_observable_counter
        gauge("db.client.connection.count", [self._count], "{connection}",
              "Open connections, idle or checked out (used).")
        gauge("db.client.connection.max",
              [self._sums(lambda pool, stats: stats.capacity)], "{connection}",
              "How many connections the pool may have.")
        gauge("db.client.connection.idle.max",
              [self._sums(lambda pool, stats: stats.capacity)], "{connection}",
              "How many of them may be idle: all.")
        gauge("db.client.connection.idle.min",
              [self._sums(lambda pool, stats: pool.minOpen)], "{connection}",
              "How many connections are kept open (minOpen), idle or used.")
        gauge("db.client.connection.pending_requests",
              [self._sums(lambda pool, stats: stats.waiting)], "{request}",
              "Threads that wait for a connection.")
        counter("db.client.connection.timeouts",
                [self._timeouts], "{timeout}",
                "Takes that raised PoolTimeout.")

    def add(self, pool: Pool[Any]) -> None:
        """Observe one pool more."""
        if not any(each.pool() is pool for each in self._pools):
            self._pools.append(_Observed(pool))

    def _stats(self) -> Iterator[tuple[_Observed, Pool[Any], Stats]]:
        for observed in self._pools.copy():
            pool = observed.pool()
            if pool is not None:
                yield observed, pool, pool.stats()

    def _timeouts(self, options: CallbackOptions) -> Iterable[Observation]:
        """Observe them. What a pool that has ended counted goes on to count for its name."""
        if self._endedIn != os.getpid():  # a child, where all counts start at zero
            self._ended, self._endedIn = {}, os.getpid()
            for observed in self._pools:
                observed.timeouts = 0
        for observed in self._pools.copy():
            pool = observed.pool()
            if pool is not None:
                observed.timeouts = pool.stats().timeouts
            else:
                with contextlib.suppress(ValueError):  # another collection was faster
                    self._pools.remove(observed)
                    if observed.timeouts:
                        self._ended[observed.name] = (
                            self._ended.get(observed.name, 0) + observed.timeouts)
        sums = self._ended.copy()
        for observed in self._pools.copy():
            sums[observed.name] = sums.get(observed.name, 0) + observed.timeouts
        return [Observation(number, {_POOL: name}) for name, number in sums.items()]

    def _count(self, options: CallbackOptions) -> Iterable[Observation]:
        """Observe what is open. Records the times as well: this is called for each collection."""
        counts: dict[tuple[str, str], int] = {}
        for observed, pool, stats in self._stats():
            for state, count in (("idle", max(0, stats.open - stats.taken)), ("used", stats.taken)):
                counts[pool.name, state] = counts.get((pool.name, state), 0) + count
            for histogram, field in self._histograms:
                for seconds in observed.times(field, getattr(stats, field)):
                    histogram.record(seconds, {_POOL: pool.name})
        return [Observation(count, {_POOL: name, _STATE: state})
                for (name, state), count in counts.items()]

    def _sums(self, read: Callable[[Pool[Any], Stats], int]
              ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def callback(options: CallbackOptions) -> Iterable[Observation]:
            sums: dict[str, int] = {}
            for _, pool, stats in self._stats():
                sums[pool.name] = sums.get(pool.name, 0) + read(pool, stats)
            return [Observation(number, {_POOL: name}) for name, number in sums.items()]

        return callback


class _Observed:
    """One pool, and what of its times was recorded so far."""

    def __init__(self, pool: Pool[Any]) -> None:
        self.pool = weakref.ref(pool)
        self.name = pool.name
        self.timeouts = 0
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._lock = Lock()
        self._recorded: dict[str, tuple[tuple[int, ...], float]] = {}

    def times(self, field: str, histogram: Histogram) -> list[float]:
        """Return what is to be recorded of this histogram now."""
        if self._pid != os.getpid():  # a child, where the pool starts at zero
            self._forget()
        return _sample(self._new(field, histogram))

    @exclusive
    def _new(self, field: str, histogram: Histogram) -> list[tuple[int, float]]:
        """Return how often which time was added since the last time."""
        before, sumBefore = self._recorded.get(field, ((0,) * len(histogram.counts), 0.0))
        counts = [count - then for count, then in zip(histogram.counts, before)]
        if min(counts) < 0 or not any(counts):  # another collection was faster
            return []
        groups = _spread(counts, histogram.total - sumBefore, histogram.maximum)
        # Not the pool's sum, which may be a moment older or newer than its counts.
        self._recorded[field] = (
            histogram.counts, sumBefore + sum(count * seconds for count, seconds in groups))
        return groups


def _spread(counts: list[int], total: float, maximum: float) -> list[tuple[int, float]]:
    """Return for each bucket its count and a time in it, so that all times add up to ``total``.

    Each time is as far above the lower bound of its bucket, in parts of the bucket's width.
    """
    groups = [(count, math.nextafter(lower, math.inf), upper) for count, lower, upper in zip(
        counts, (0.0, *BOUNDS), (*BOUNDS, max(maximum, BOUNDS[-1] * 1.001))) if count]
    least = sum(count * lower for count, lower, _ in groups)
    width = sum(count * (upper - lower) for count, lower, upper in groups)
    part = min(1.0, max(0.0, (total - least) / width))
    return [(count, min(upper, lower + part * (upper - lower))) for count, lower, upper in groups]


def _sample(groups: list[tuple[int, float]]) -> list[float]:
    """Return the times, or if they are too many, some of each group in proportion."""
    number = sum(count for count, _ in groups)
    most = min(number, MOST_RECORDS)
    times: list[float] = []
    seen = 0
    for count, seconds in groups:
        seen += count
        times += [seconds] * (seen * most // number - len(times))
    return times
