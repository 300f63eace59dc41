"""The snapshot: frozen, exact, and with times in seconds."""

import pytest

from queuepool import Pool, PoolClosed, Reason, Stats
from tests.helpers import FakeResource, PlainResource, awaitWaiting, start

COUNTERS = ["takes", "waits", "timeouts", "opens", "openErrors", "closes", "closeErrors"]


def closesOf(pool):
    return {reason: count for reason, count in pool.stats().closesByReason.items() if count}


def test_a_new_pool_has_done_nothing():
    stats = Pool("p", 3).stats()
    assert (stats.capacity, stats.open, stats.idle, stats.taken, stats.waiting) == (3, 0, 0, 0, 0)
    assert [getattr(stats, name) for name in COUNTERS] == [0] * len(COUNTERS)
    assert dict(stats.closesByReason) == dict.fromkeys(Reason, 0)
    times = [stats.waitTime, stats.waitMax, stats.openTime, stats.openMax, stats.useTime,
             stats.useMax]
    assert times == [0.0] * 6


def test_the_snapshot_is_frozen_and_does_not_change_later():
    pool = Pool("p", 1, factory=PlainResource)
    before = pool.stats()
    with pool.take():
        pass
    assert before.takes == 0
    with pytest.raises(AttributeError):
        before.takes = 1
    before.closesByReason[Reason.IDLE] = 1
    assert pool.stats().closesByReason[Reason.IDLE] == 0


def test_the_snapshot_becomes_a_plain_dict():
    stats = Pool("p", 1).stats()
    plain = stats._asdict()
    assert plain["closesByReason"] == dict.fromkeys(Reason, 0)
    assert Stats(**plain) == stats


def test_gauges_tell_where_the_resources_are():
    pool = Pool("p", 3, factory=PlainResource)
    first, second = pool.take(), pool.take()
    stats = pool.stats()
    assert (stats.capacity, stats.open, stats.idle, stats.taken) == (3, 2, 1, 2)
    pool.put(second)
    stats = pool.stats()
    assert (stats.capacity, stats.open, stats.idle, stats.taken) == (3, 2, 2, 1)
    pool.put(first)


def test_idle_counts_with_a_factory_also_what_can_still_be_built():
    pool, seeded = Pool("p", 3, factory=PlainResource), Pool("p", 3)
    assert (pool.stats().idle, seeded.stats().idle) == (3, 0)
    seeded.put(PlainResource("a"))
    with pool.take(), seeded.take():
        assert (pool.stats().idle, seeded.stats().idle) == (2, 0)
    assert (pool.stats().idle, seeded.stats().idle) == (3, 1)
    pool.resize(2)
    assert pool.stats().idle == 2
    pool.close()
    assert pool.stats().idle == 0


def test_gauges_tell_how_many_wait():
    pool = Pool("p", 1, factory=PlainResource)
    taken = pool.take()
    takers = [start(pool.take) for _ in range(3)]
    awaitWaiting(pool, 3)
    assert (pool.stats().waiting, pool.stats().waits) == (3, 0)
    for taker in takers:
        pool.put(taken)
        taken = taker.result()
    assert (pool.stats().waiting, pool.stats().waits) == (0, 3)
    pool.put(taken)


def test_takes_are_counted_over_all_slots_and_over_reopening():
    pool = Pool("p", 2, maxUsageCount=2, factory=PlainResource)
    for _ in range(5):
        with pool.take(), pool.take():
            pass
    stats = pool.stats()
    assert (stats.takes, stats.opens, stats.closes) == (10, 6, 4)


def test_open_times_are_summed_failed_ones_too(clock):
    def lasting(seconds, error=None):
        def play():
            clock.advance(seconds)
            if error is not None:
                raise error
        return play

    resource = FakeResource("a", open=[lasting(3), lasting(5, OSError()), lasting(1)])
    pool = Pool("p", 1, clock=clock)
    pool.put(resource)
    with pool.take():
        pass
    pool.invalidate()
    with pytest.raises(OSError):
        pool.take()
    with pool.take():
        pass
    stats = pool.stats()
    assert (stats.opens, stats.openErrors) == (2, 1)
    assert (stats.openTime, stats.openMax) == (9.0, 5.0)


@pytest.mark.parametrize("kind", [PlainResource, FakeResource])
def test_use_times_are_summed_from_take_to_put(clock, kind):
    pool = Pool("p", 2, factory=kind, clock=clock)
    for seconds in 2, 7, 1:
        with pool.take():
            clock.advance(seconds)
    stats = pool.stats()
    assert (stats.useTime, stats.useMax) == (10.0, 7.0)


@pytest.mark.parametrize("hook", ["takeRepair", "open", "putRepair"])
def test_use_time_does_not_count_the_time_in_hooks(clock, hook):
    resource = FakeResource("a")
    pool = Pool("p", 1, clock=clock)
    pool.put(resource)
    resource.script[hook] = [lambda: clock.advance(9)] * 2
    for _ in range(2):
        with pool.take():
            clock.advance(2)
        pool.invalidate()
    stats = pool.stats()
    assert (stats.useTime, stats.useMax) == (4.0, 2.0)


def test_wait_times_are_summed_whatever_came_of_the_wait(clock):
    pool = Pool("p", 1, factory=PlainResource, clock=clock)
    taken = pool.take()
    for seconds in 4, 6:
        waiter = start(pool.take)
        awaitWaiting(pool, 1)
        clock.advance(seconds)
        pool.put(taken)
        taken = waiter.result()
    waiter = start(pool.take)
    awaitWaiting(pool, 1)
    clock.advance(5)
    pool.close()
    with pytest.raises(PoolClosed):
        waiter.result()
    stats = pool.stats()
    assert (stats.waits, stats.waitTime, stats.waitMax) == (3, 15.0, 6.0)


def test_who_does_not_stand_in_line_does_not_count_as_waiting():
    pool = Pool("p", 1, factory=PlainResource)
    with pool.take(), pytest.raises(TimeoutError):
        pool.take(timeout=0)
    stats = pool.stats()
    assert (stats.waits, stats.timeouts) == (0, 1)


def test_a_failed_take_is_no_take():
    pool = Pool("p", 1, factory=lambda name: FakeResource(name, open=[OSError]))
    with pytest.raises(OSError):
        pool.take()
    stats = pool.stats()
    assert (stats.takes, stats.taken, stats.idle, stats.openErrors) == (0, 0, 1, 1)


def test_counters_outlive_a_shrink_and_the_names_that_left():
    pool = Pool("p", 3, factory=PlainResource)
    with pool.take(), pool.take(), pool.take():
        pass
    pool.resize(1)
    pool.resize(2)
    with pool.take(), pool.take():
        pass
    stats = pool.stats()
    assert (stats.takes, stats.opens, stats.closes) == (5, 4, 2)
    assert closesOf(pool) == {Reason.SHRUNK: 2}


def test_closes_are_the_sum_of_their_reasons(clock):
    pool = Pool("p", 2, maxIdleTime=10, maxUsageCount=2, factory=PlainResource, clock=clock)
    for _ in range(2):
        with pool.take():
            pass  # usage
    with pytest.raises(KeyError), pool.take():
        raise KeyError  # exception
    with pool.take():
        pass
    clock.advance(11)
    pool.recycle()  # idle
    with pool.take():
        pool.invalidate()  # invalidated
    with pool.take():
        pool.close()  # pool closed
    stats = pool.stats()
    assert closesOf(pool) == {
        Reason.USAGE: 1, Reason.EXCEPTION: 1, Reason.IDLE: 1, Reason.INVALIDATED: 1,
        Reason.POOL_CLOSED: 1}
    assert stats.closes == stats.opens == 5


def test_reasons_read_as_words_and_serve_as_strings():
    assert [str(reason) for reason in Reason] == [
        "idle", "age", "usage", "exception", "repair", "invalidated", "shrunk", "pool closed",
        "user", "dropped"]
    assert f"{Reason.POOL_CLOSED}" == "pool closed"
    assert Pool("p", 1).stats().closesByReason["age"] == 0
