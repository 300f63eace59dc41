"""The histograms: buckets, percentiles, and that their counts are those of the counters."""

import contextlib
import sys
import threading
import time

import pytest

from queuepool import Histogram, Pool, PoolClosed, PoolDeadlock, PoolTimeout
from queuepool.core.slot import Ledger
from queuepool.stats import BOUNDS
from tests.helpers import (PATIENCE, FakeClock, FakeResource, PlainResource, awaitWaiting,
                           checkClosed, hasGil, runTogether, start)


def histogramOf(*times):
    """Count these times as a pool counts its waits."""
    ledger = Ledger()
    slot = ledger.issue()
    for seconds in times:
        slot.countWait(seconds)
        slot.countOpening(seconds)
    assert ledger.histogram("wait") == ledger.histogram("open")
    return ledger.histogram("wait")


EMPTY = Histogram((0,) * (len(BOUNDS) + 1), 0.0, 0.0)


# -- buckets


def test_the_bounds_are_1_2_5_and_5_from_a_tenth_of_a_millisecond_to_ten_seconds():
    assert [float(f"{factor}e{power}") for power in range(-4, 1) for factor in (1, 2.5, 5)
            ] + [10.0] == list(BOUNDS)


@pytest.mark.parametrize("number, bound", list(enumerate(BOUNDS)))
def test_what_takes_as_long_as_a_bound_is_in_its_bucket(number, bound):
    below = BOUNDS[number - 1] if number else 0.0
    counts = histogramOf(bound, (bound + below) / 2, bound * 1.0001).counts
    assert counts[number] == 2 and counts[number + 1] == 1 and sum(counts) == 3


@pytest.mark.parametrize("seconds, bucket", [(0.0, 0), (-1.0, 0), (10.1, -1), (1e9, -1)])
def test_the_first_and_the_last_bucket_have_no_other_end(seconds, bucket):
    counts = histogramOf(seconds).counts
    assert counts[bucket] == sum(counts) == 1 and len(counts) == len(BOUNDS) + 1


def test_it_has_the_sum_the_number_and_the_largest():
    histogram = histogramOf(0.5, 12.0, 0.25)
    assert (histogram.total, histogram.maximum, histogram.number) == (12.75, 12.0, 3)
    assert histogramOf() == EMPTY and EMPTY.number == 0


def test_it_is_frozen_and_does_not_change_later(clock):
    pool = Pool("p", 1, factory=PlainResource, clock=clock)
    before = pool.stats()
    with pool.take():
        pass
    assert before.openHistogram == EMPTY != pool.stats().openHistogram
    with pytest.raises(AttributeError):
        before.openHistogram.total = 1.0
    with pytest.raises(TypeError):
        before.openHistogram.counts[0] = 1


# -- percentiles


def test_within_a_bucket_times_are_taken_for_evenly_distributed():
    histogram = histogramOf(1.5, 1.6, 1.7, 2.5)  # all from 1 to 2.5
    assert [histogram.percentile(q) for q in (0, 25, 50, 100)] == [1.0, 1.375, 1.75, 2.5]


def test_a_percentile_lies_in_the_bucket_of_its_time():
    times = [0.00005, 0.003, 0.03, 0.03, 0.3, 0.3, 0.3, 3.0, 3.0, 20.0]
    histogram = histogramOf(*times)
    for number, seconds in enumerate(times):
        found = histogram.percentile(100 * (number + 1) / len(times))
        upper = next((bound for bound in BOUNDS if bound >= seconds), 20.0)
        lower = max((bound for bound in BOUNDS if bound < seconds), default=0.0)
        assert lower < found <= upper, (number, found)
    found = [histogram.percentile(q) for q in range(101)]
    assert found == sorted(found) and found[100] == 20.0


@pytest.mark.parametrize("q", [0, 50, 99.9, 100])
def test_of_nothing_there_is_no_percentile(q):
    assert EMPTY.percentile(q) is None


def test_it_never_exceeds_the_largest():
    histogram = histogramOf(0.6)  # its bucket ends at 1
    assert histogram.percentile(100) == 0.6
    assert 0.5 <= histogram.percentile(0) <= histogram.percentile(50) <= 0.6


def test_beyond_ten_seconds_it_lies_between_that_and_the_largest():
    histogram = histogramOf(11.0, 30.0)
    assert [histogram.percentile(q) for q in (0, 50, 100)] == [10.0, 20.0, 30.0]


@pytest.mark.parametrize("q", [-0.1, 100.1, float("nan"), float("inf"), -1])
@pytest.mark.parametrize("histogram", [EMPTY, histogramOf(1.0)], ids=["empty", "one"])
def test_a_senseless_q_is_refused(histogram, q):
    with pytest.raises(ValueError, match="q must be a number from 0 to 100, not"):
        histogram.percentile(q)


# -- what is counted


def checkCounts(pool, uses):
    """Check that each histogram is about the same events as the counters."""
    stats = pool.stats()
    assert stats.waitHistogram.number == stats.waits
    assert stats.openHistogram.number == stats.opens + stats.openErrors
    assert stats.useHistogram.number == uses
    for what in "wait", "open":
        histogram = getattr(stats, f"{what}Histogram")
        assert histogram.total == getattr(stats, f"{what}Time")
        assert histogram.maximum == getattr(stats, f"{what}Max")
    return stats


def test_waits_are_counted_whatever_came_of_them(clock):
    pool = Pool("p", 1, factory=PlainResource, clock=clock)
    taken = pool.take()
    for seconds in 0.0002, 4.0:
        waiter = start(pool.take)
        awaitWaiting(pool, 1)
        clock.advance(seconds)
        pool.put(taken)
        taken = waiter.result()
    with pytest.raises(PoolTimeout):
        pool.take(timeout=0.01)
    with pytest.raises(PoolTimeout):
        pool.take(timeout=0)  # it does not wait
    pool.maxWaiting = 0
    with pytest.raises(PoolTimeout):
        pool.take()
    pool.put(taken)
    taken = pool.take()  # so that this thread has it
    pool.maxWaiting, pool.raiseDeadlock = None, True
    with pytest.raises(PoolDeadlock):
        pool.take()
    pool.raiseDeadlock = False
    waiter = start(pool.take)
    awaitWaiting(pool, 1)
    clock.advance(2.0)
    pool.close()
    with pytest.raises(PoolClosed):
        waiter.result()
    stats = checkCounts(pool, 0)
    assert stats.waits == 5
    counts = stats.waitHistogram.counts
    assert counts[0] == 2  # of those that gave up at once, by this clock
    assert counts[BOUNDS.index(0.00025)] == counts[BOUNDS.index(5.0)] == (
        counts[BOUNDS.index(2.5)]) == 1


def test_opens_are_counted_failed_ones_too(clock):
    def lasting(seconds, error=None):
        def play():
            clock.advance(seconds)
            if error is not None:
                raise error
        return play

    pool = Pool("p", 1, clock=clock)
    pool.put(FakeResource("a", open=[lasting(3), lasting(0.3, OSError()), lasting(20)]))
    for _ in range(3):
        with contextlib.suppress(OSError), pool.take():
            pass
        pool.invalidate()
    stats = checkCounts(pool, 2)
    counts = stats.openHistogram.counts
    assert counts[BOUNDS.index(5.0)] == counts[BOUNDS.index(0.5)] == counts[-1] == 1
    assert stats.openHistogram.percentile(100) == 20.0


@pytest.mark.parametrize("byPut", [True, False])
@pytest.mark.parametrize("kind, histograms, isCounted", [
    (PlainResource, False, False), (PlainResource, True, True),
    (FakeResource, False, True), (FakeResource, True, True)])
@pytest.mark.parametrize("isSeeded", [True, False])
def test_uses_are_counted_for_what_goes_the_long_way_or_when_asked_for(
        kind, histograms, isCounted, isSeeded, byPut, clock):
    pool = Pool("p", 1, factory=None if isSeeded else kind, histograms=histograms, clock=clock)
    if isSeeded:
        pool.put(kind("a"))
        assert pool.stats().useHistogram.number == 0  # nobody has used it yet
    for seconds in 2.0, 0.25, 30.0:
        if byPut:
            resource = pool.take()
            clock.advance(seconds)
            pool.put(resource)
        else:
            with pool.take():
                clock.advance(seconds)
    stats = checkCounts(pool, 3 if isCounted else 0)
    assert (stats.useTime, stats.useMax) == (32.25, 30.0)
    counts = stats.useHistogram.counts
    if isCounted:
        assert counts[BOUNDS.index(2.5)] == counts[BOUNDS.index(0.25)] == counts[-1] == 1


@pytest.mark.parametrize("kind", [PlainResource, FakeResource])
def test_the_sum_and_the_largest_of_uses_are_those_of_the_counted_ones(kind, clock):
    """Else a mean that somebody computes from them is wrong, or a division by zero."""
    pool = Pool("p", 1, factory=kind, clock=clock)
    with pool.take():
        clock.advance(3.0)
    histogram = pool.stats().useHistogram
    assert (histogram.total, histogram.maximum) == (3.0 * histogram.number,) * 2


def test_a_use_that_ends_with_an_exception_or_a_close_is_counted_and_a_dropped_one_is_not(clock):
    pool = Pool("p", 1, factory=FakeResource, maxUsageCount=2, histograms=True, clock=clock)
    for _ in range(2):
        with pytest.raises(KeyError), pool.take():
            raise KeyError
    with pool.take() as resource:
        resource.close()
    with pytest.warns(ResourceWarning):
        del resource
        pool.take()
        pool.recycle()
    with pool.take():
        pool.close()
    stats = pool.stats()
    assert (stats.takes, stats.useHistogram.number) == (5, 4)


def test_histograms_cannot_be_switched_on_later(clock):
    pool = Pool("p", 1, factory=PlainResource, clock=clock)
    with pytest.raises(AttributeError):
        pool.histograms = True
    assert pool.histograms is False


def test_counts_outlive_a_shrink(clock):
    pool = Pool("p", 3, factory=FakeResource, clock=clock)
    with pool.take(), pool.take(), pool.take():
        pass
    pool.resize(1)
    with pool.take():
        pass
    checkCounts(pool, 4)


@pytest.mark.parametrize("kind", [PlainResource, FakeResource])
def test_no_count_is_lost_between_threads(kind):
    pool = Pool("p", 3, factory=kind, maxUsageCount=7, histograms=True)
    stop = threading.Event()

    def work():
        for number in range(300):
            with contextlib.suppress(PoolTimeout), pool.take(0 if number % 10 == 0 else PATIENCE):
                time.sleep(0)  # let another thread in

    def look():
        while not stop.is_set():
            stats = pool.stats()
            assert stats.useHistogram.number <= 2400
        return 1

    looking = start(look)
    runTogether(*[work] * 8)
    stop.set()
    looking.result()
    stats = checkCounts(pool, pool.stats().takes)
    assert stats.waits and stats.opens and stats.takes + stats.timeouts == 2400
    checkClosed(pool)


def test_a_plain_resource_keeps_no_lists_it_does_not_need():
    """A thousand idle connections cost the memory of no buckets for what never happened."""
    pool = Pool("p", 1, factory=PlainResource, clock=FakeClock())
    with pool.take() as resource:
        pass
    slot = resource._slot
    assert slot.useCounts is None and slot.waitCounts is None and slot.openCounts is not None


def test_a_snapshot_amid_puts_has_the_same_times_in_its_sum_and_in_its_counts():
    class Clock(FakeClock):
        def __call__(self):
            self.advance(1.0)  # so each use takes a second
            return super().__call__()

    pool = Pool("p", 1, None, None, None, factory=FakeResource, clock=Clock())
    isOver = threading.Event()

    def use():
        while not isOver.is_set():
            with pool.take():
                pass

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        using = start(use)
        seen, until = set(), time.monotonic() + PATIENCE
        while len(seen) < 100 and time.monotonic() < until:
            histogram = pool.stats().useHistogram
            seen.add((histogram.number, histogram.total))
        isOver.set()
        using.result()
    finally:
        isOver.set()
        sys.setswitchinterval(interval)
    assert len(seen) == 100
    # Without the GIL a look may come between the two stores of one put.
    assert {number - total for number, total in seen} <= ({0.0} if hasGil() else {0.0, 1.0})
