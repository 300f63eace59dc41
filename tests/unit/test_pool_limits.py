"""The limits: idle, age, usage, jitter; recycle, warm and minOpen. All by a fake clock."""

import pytest

from queuepool import Pool, PoolClosed, PoolError, PoolTimeout, Reason
from tests.helpers import (FakeResource, Gate, PlainResource, awaitWaiting, checkClosed, checkWhole,
                           start)

KINDS = pytest.mark.parametrize("kind", [PlainResource, FakeResource])


@pytest.fixture
def poolOf(clock, world):
    def build(count=1, kind=PlainResource, **options):
        return Pool("p", count, factory=lambda name: kind(name, world), clock=clock, **options)

    return build


def closesOf(pool):
    return {reason: count for reason, count in pool.stats().closesByReason.items() if count}


def openSome(pool, count):
    """Open that many by taking all at once; return them, the least recently used first."""
    taken = takeSome(pool, count)
    for resource in taken:
        pool.put(resource)
    return taken


def takeSome(pool, count):
    return [pool.take(timeout=0) for _ in range(count)]


# -- idle


@KINDS
def test_at_the_idle_limit_it_is_kept_and_beyond_it_is_closed_at_take(kind, poolOf, clock, world):
    pool = poolOf(kind=kind, maxIdleTime=10)
    openSome(pool, 1)
    clock.advance(10)
    openSome(pool, 1)
    assert world.opened == 1
    clock.advance(10.001)
    openSome(pool, 1)
    assert (world.opened, world.closed) == (2, 1)
    assert closesOf(pool) == {Reason.IDLE: 1}


def test_the_time_in_use_is_not_idle_time(poolOf, clock, world):
    pool = poolOf(maxIdleTime=10, maxOpenTime=None)
    with pool.take():
        clock.advance(1000)
    clock.advance(10)
    openSome(pool, 1)
    assert world.opened == 1


def test_idle_time_begins_at_the_put_and_not_at_the_end_of_its_hooks(poolOf, clock, world):
    pool = poolOf(kind=FakeResource, maxIdleTime=10)
    with pool.take() as resource:
        resource.script["putRepair"] = [lambda: clock.advance(11)]
    pool.recycle()
    assert closesOf(pool) == {Reason.IDLE: 1}


# -- age


@KINDS
def test_at_the_age_limit_it_is_kept_and_beyond_it_is_closed_at_take(kind, poolOf, clock, world):
    pool = poolOf(kind=kind, maxIdleTime=None, maxOpenTime=10)
    openSome(pool, 1)
    clock.advance(10)
    openSome(pool, 1)
    assert world.opened == 1
    clock.advance(0.001)
    openSome(pool, 1)
    assert closesOf(pool) == {Reason.AGE: 1}


@KINDS
def test_beyond_the_age_limit_it_is_closed_at_put(kind, poolOf, clock, world):
    pool = poolOf(kind=kind, maxOpenTime=10)
    with pool.take():
        clock.advance(10)
    assert world.live == 1
    with pool.take():
        clock.advance(0.001)
    assert world.live == 0
    assert closesOf(pool) == {Reason.AGE: 1}


def test_age_counts_from_the_last_opening(poolOf, clock, world):
    pool = poolOf(maxOpenTime=10)
    for _ in range(3):
        with pool.take():
            clock.advance(11)
    with pool.take():
        clock.advance(10)
    assert world.live == 1
    assert closesOf(pool) == {Reason.AGE: 3}


# -- usage


@KINDS
@pytest.mark.parametrize("limit", [1, 3])
def test_the_last_use_that_the_limit_allows_ends_with_a_close(kind, limit, poolOf, world):
    pool = poolOf(kind=kind, maxUsageCount=limit)
    for count in range(1, 3 * limit + 1):
        with pool.take() as resource:
            assert resource.usageCount == (count - 1) % limit + 1
            assert world.live == 1
        assert world.closed == count // limit
    assert closesOf(pool) == {Reason.USAGE: 3}


def test_without_a_usage_limit_it_is_never_closed(poolOf, world):
    pool = poolOf(maxUsageCount=None)
    for _ in range(1500):
        with pool.take():
            pass
    assert (world.opened, world.closed) == (1, 0)


# -- all of them


def test_none_is_no_limit(poolOf, clock, world):
    pool = poolOf(maxIdleTime=None, maxOpenTime=None, maxUsageCount=None)
    openSome(pool, 1)
    clock.advance(1e12)
    pool.recycle()
    openSome(pool, 1)
    assert world.opened == 1


def test_the_defaults_are_those_of_1_3_2(clock, world):
    pool = Pool("p", 1, factory=lambda name: PlainResource(name, world), clock=clock)
    openSome(pool, 1)
    clock.advance(300)
    openSome(pool, 1)
    assert world.opened == 1
    clock.advance(0.001)
    openSome(pool, 1)
    assert closesOf(pool) == {Reason.AGE: 1}
    for _ in range(998):
        openSome(pool, 1)
    assert world.opened == 2
    openSome(pool, 1)
    assert closesOf(pool) == {Reason.AGE: 1, Reason.USAGE: 1}


def test_limits_of_zero_close_at_the_first_moment(poolOf, clock):
    pool = poolOf(maxIdleTime=0, maxOpenTime=None)
    openSome(pool, 1)
    pool.recycle()
    assert closesOf(pool) == {}
    clock.advance(0.001)
    pool.recycle()
    assert closesOf(pool) == {Reason.IDLE: 1}


# -- jitter


@pytest.mark.parametrize("drawn, limit", [(0.0, 100.0), (0.5, 95.0), (1.0, 90.0)])
def test_jitter_shortens_the_age_limit_by_up_to_its_fraction(
        drawn, limit, poolOf, clock, world, monkeypatch):
    monkeypatch.setattr("random.random", lambda: drawn)
    pool = poolOf(maxIdleTime=None, maxOpenTime=100, jitter=0.1)
    openSome(pool, 1)
    clock.advance(limit)
    openSome(pool, 1)
    assert world.closed == 0
    clock.advance(0.001)
    openSome(pool, 1)
    assert closesOf(pool) == {Reason.AGE: 1}


def test_jitter_is_drawn_once_when_it_opens_for_each_anew(poolOf, clock, monkeypatch):
    draws = [0.0, 1.0, 0.5]
    monkeypatch.setattr("random.random", lambda: draws.pop(0))
    pool = poolOf(2, maxIdleTime=None, maxOpenTime=100, jitter=0.1)
    openSome(pool, 2)
    assert draws == [0.5]
    for _ in range(10):
        openSome(pool, 2)
        pool.recycle()
    assert draws == [0.5]
    clock.advance(91)
    openSome(pool, 2)  # the one that drew 1.0 is opened anew
    assert (draws, closesOf(pool)) == ([], {Reason.AGE: 1})


def test_jitter_without_an_age_limit_is_none(poolOf, clock, world):
    pool = poolOf(maxIdleTime=None, maxOpenTime=None, jitter=1.0)
    openSome(pool, 1)
    clock.advance(1e9)
    openSome(pool, 1)
    assert world.opened == 1


# -- recycle


def test_recycle_closes_what_is_idle_for_too_long_and_leaves_the_rest(poolOf, clock, world):
    pool = poolOf(4, maxIdleTime=10)
    a, b, c = openSome(pool, 3)
    clock.advance(6)
    with pool.take() as used:
        assert used is c
    clock.advance(5)
    pool.recycle()
    assert [r.isOpen for r in (a, b, c)] == [False, False, True]
    assert closesOf(pool) == {Reason.IDLE: 2}
    pool.recycle()
    assert world.closed == 2
    assert (pool.stats().idle, pool.stats().open) == (4, 1)


def test_recycle_closes_what_is_too_old(poolOf, clock):
    pool = poolOf(2, maxIdleTime=None, maxOpenTime=10)
    openSome(pool, 1)
    clock.advance(6)
    openSome(pool, 2)
    clock.advance(5)
    pool.recycle()
    assert (closesOf(pool), pool.stats().open) == ({Reason.AGE: 1}, 1)


def test_recycle_works_on_the_least_recently_used_first_and_one_at_a_time(poolOf, clock, world):
    pool = poolOf(3, kind=FakeResource, maxIdleTime=10)
    resources = takeSome(pool, 3)[::-1]
    for resource in resources:
        clock.advance(1)
        pool.put(resource)
    closed = []
    for resource in resources:
        def close(resource=resource):
            closed.append(resource)
            assert pool.stats().idle == 2  # all but this one
        resource.script["close"] = [close]
    clock.advance(11)
    pool.recycle()
    assert closed == resources
    assert world.live == 0
    checkWhole(pool, world)


def test_recycle_does_not_touch_those_in_use_lately_nor_their_order(poolOf, clock):
    pool = poolOf(4, kind=FakeResource, maxIdleTime=10)
    a, b, c, d = openSome(pool, 4)
    clock.advance(6)
    openSome(pool, 2)  # d and c; c is put last
    clock.advance(5)

    def look():
        with pool.take(timeout=0) as first, pool.take(timeout=0) as second:
            assert [first, second] == [c, d]

    a.script["close"] = b.script["close"] = [look]
    pool.recycle()
    look()
    assert closesOf(pool) == {Reason.IDLE: 2}


def test_a_taker_does_not_wait_for_a_slow_close_of_recycle(poolOf, clock, world):
    gate = Gate()
    pool = poolOf(2, kind=FakeResource, maxIdleTime=10)
    expired, live = openSome(pool, 2)
    clock.advance(6)
    openSome(pool, 1)
    clock.advance(5)
    expired.script["close"] = [gate]
    recycling = start(pool.recycle)
    gate.awaitArrival()
    with pool.take(timeout=0) as resource:
        assert resource is live
    gate.open()
    recycling.result()
    checkWhole(pool, world)


def test_who_waits_for_one_that_recycle_closes_gets_it(poolOf, clock):
    gate = Gate()
    pool = poolOf(1, kind=FakeResource, maxIdleTime=10)
    (resource,) = openSome(pool, 1)
    clock.advance(11)
    resource.script["close"] = [gate]
    recycling = start(pool.recycle)
    gate.awaitArrival()
    waiter = start(pool.take)
    awaitWaiting(pool, 1)
    gate.open()
    recycling.result()
    assert waiter.result() is resource and resource.isOpen
    pool.put(resource)


@pytest.mark.parametrize("isPut", [False, True])
def test_one_that_is_taken_while_recycle_closes_another_is_left_alone(
        isPut, poolOf, clock, world):
    pool = poolOf(2, kind=FakeResource, maxIdleTime=10)
    first, second = openSome(pool, 2)
    clock.advance(11)
    taken = []

    def use():
        taken.append(pool.take(timeout=0))
        if isPut:
            pool.put(taken.pop())

    first.script["close"] = [use]
    pool.recycle()
    assert second.isOpen and closesOf(pool) == {Reason.IDLE: 2}
    assert world.opened == 3  # of the second, the take closed and opened it
    for resource in taken:
        pool.put(resource)
    checkWhole(pool, world)


def test_recycle_logs_a_failing_close_and_goes_on(poolOf, clock, world, caplog):
    pool = poolOf(3, kind=FakeResource, maxIdleTime=10)
    for resource in openSome(pool, 3):
        resource.script["close"] = [OSError(resource.name)]
    clock.advance(11)
    pool.recycle()
    assert caplog.messages == [
        f"pool p: close of 'p-{number}' failed; it counts as closed [queuepool:close-failed]"
        for number in range(3)]
    assert (world.live, pool.stats().closeErrors) == (0, 3)
    checkWhole(pool, world)


def test_recycle_loses_nothing_when_it_is_interrupted(poolOf, clock, world):
    pool = poolOf(3, kind=FakeResource, maxIdleTime=10)
    openSome(pool, 3)[1].script["close"] = [KeyboardInterrupt]
    clock.advance(11)
    with pytest.raises(KeyboardInterrupt):
        pool.recycle()
    assert pool.stats().idle == 3
    checkWhole(pool, world)


def test_recycle_leaves_what_is_taken_alone(poolOf, clock):
    pool = poolOf(2, maxIdleTime=10, maxOpenTime=10)
    with pool.take() as resource:
        clock.advance(11)
        pool.recycle()
        assert resource.isOpen
    assert closesOf(pool) == {Reason.AGE: 1}


def test_recycle_of_a_closed_pool_opens_nothing(poolOf, clock, world):
    pool = poolOf(2, minOpen=2)
    pool.close()
    pool.recycle()
    assert world.opened == 0


# -- minOpen


def test_recycle_opens_what_is_missing(poolOf, world):
    pool = poolOf(3, minOpen=2)
    assert world.opened == 0
    pool.recycle()
    pool.recycle()
    assert (world.live, world.opened, pool.stats().open, pool.stats().idle) == (2, 2, 2, 3)
    openSome(pool, 2)
    assert world.opened == 2


def test_recycle_counts_what_is_taken_as_open(poolOf, world):
    pool = poolOf(3, minOpen=2)
    with pool.take():
        pool.recycle()
        assert world.live == 2


@pytest.mark.parametrize("capacity", [2, 3])
def test_recycle_replaces_what_is_too_old_and_opens_before_it_closes(
        capacity, poolOf, clock, world):
    pool = poolOf(capacity, kind=FakeResource, maxIdleTime=None, maxOpenTime=10, minOpen=2)
    live = []
    pool.recycle()
    for resource in takeSome(pool, 2):
        resource.script["close"] = [lambda: live.append(world.live)]
        pool.put(resource)
    clock.advance(11)
    pool.recycle()
    assert live == ([2, 2] if capacity == 3 else [1, 1])
    assert (world.live, world.opened) == (2, 4)
    assert closesOf(pool) == {Reason.AGE: 2}


def test_min_open_are_kept_though_they_are_idle_for_too_long(poolOf, clock, world):
    pool = poolOf(4, maxIdleTime=10, maxOpenTime=None, minOpen=2)
    openSome(pool, 4)
    for _ in range(3):
        clock.advance(11)
        pool.recycle()
        assert world.live == 2
    checkWhole(pool, world)


def test_what_is_too_old_stays_until_another_can_be_opened(clock, world, caplog):
    """One that is old is better than none while the server is down."""
    opens = [None, OSError("down")]
    pool = Pool("p", 2, minOpen=1, clock=clock,
                factory=lambda name: FakeResource(name, world, open=[opens.pop(0)]))
    pool.recycle()
    clock.advance(301)
    pool.recycle()
    assert (world.live, closesOf(pool)) == (1, {})
    assert caplog.messages == [
        "pool p: opening 'p-1' ahead of use failed [queuepool:cannot-open]"]
    pool.recycle()
    assert (world.live, closesOf(pool)) == (1, {Reason.AGE: 1})
    checkClosed(pool, world)


def test_recycle_without_min_open_opens_nothing(poolOf, world):
    pool = poolOf(3)
    pool.recycle()
    assert world.opened == 0


def test_recycle_opens_as_many_as_there_are(clock, world):
    pool = Pool("p", 3, minOpen=3, clock=clock)
    pool.put(PlainResource("a", world))
    pool.recycle()
    assert (world.live, pool.stats().idle) == (1, 1)
    pool.resize(2)
    pool.put(PlainResource("b", world))
    pool.recycle()
    assert world.live == 2
    checkClosed(pool, world)


def test_recycle_logs_a_failing_open_and_tries_again_the_next_time(world, caplog):
    pool = Pool("p", 2, minOpen=2,
                factory=lambda name: FakeResource(name, world, open=[OSError("down")]))
    for failed in "p-0", "p-1":
        pool.recycle()
        assert caplog.messages[-1] == (
            f"pool p: opening '{failed}' ahead of use failed [queuepool:cannot-open]")
        assert caplog.records[-1].levelname == "WARNING"
        assert str(caplog.records[-1].exc_info[1]) == "down"
    pool.recycle()
    assert world.live == 2
    checkWhole(pool, world)


def test_who_waits_gets_what_is_opened_ahead(poolOf):
    gate = Gate()
    pool = poolOf(1, kind=FakeResource, minOpen=1)
    with pool.take() as resource:
        resource.close()
        resource.script["open"] = [gate]
    recycling = start(pool.recycle)
    gate.awaitArrival()
    waiter = start(pool.take)
    awaitWaiting(pool, 1)
    gate.open()
    recycling.result()
    assert waiter.result() is resource
    assert pool.stats().opens == 2
    pool.put(resource)


def test_what_opens_ahead_while_the_pool_is_closed_does_not_stay_open(poolOf, world):
    pool = poolOf(1, kind=FakeResource, minOpen=1)
    with pool.take() as resource:
        resource.close()
    resource.script["open"] = [pool.close]
    pool.recycle()
    assert world.live == 0
    checkClosed(pool, world)


# -- warm


@pytest.mark.parametrize("minOpen, count", [(0, 1), (1, 1), (2, 2)])
def test_warm_opens_min_open_and_at_least_one(minOpen, count, poolOf, world):
    pool = poolOf(3, minOpen=minOpen)
    assert (pool.warm(), world.live) == (count, count)
    assert (pool.warm(), world.opened) == (count, count)
    checkWhole(pool, world)


def test_warm_counts_what_is_checked_out(poolOf, world):
    pool = poolOf(3, minOpen=2)
    with pool.take():
        assert (pool.warm(), world.live) == (2, 2)


def test_warm_raises_what_open_raises(world):
    errors = [None, OSError("down")]
    pool = Pool("p", 3, minOpen=2,
                factory=lambda name: FakeResource(
                    name, world, open=[errors.pop(0) if errors else None]))
    with pytest.raises(OSError, match="down"):
        pool.warm()
    assert world.live == 1
    assert (pool.warm(), world.live) == (2, 2)
    checkWhole(pool, world)


@pytest.mark.parametrize("seconds, isInTime", [(5.0, True), (5.1, False)])
def test_warm_begins_no_other_one_after_its_time(seconds, isInTime, clock, world):
    pool = Pool("p", 2, minOpen=2, clock=clock, factory=lambda name: FakeResource(
        name, world, open=[lambda: clock.advance(seconds)]))
    if isInTime:
        assert pool.warm(timeout=5) == 2
    else:
        with pytest.raises(PoolTimeout):
            pool.warm(timeout=5)
        assert world.live == 1
    checkWhole(pool, world)


def test_warm_opens_no_more_than_there_are(world):
    pool = Pool("p", 3, minOpen=3)
    with pytest.raises(PoolError, match="has nothing to open"):
        pool.warm()
    pool.put(PlainResource("a", world))
    assert (pool.warm(), world.live) == (1, 1)


def test_a_closed_pool_is_not_warmed(poolOf, world):
    pool = poolOf(1)
    pool.close()
    with pytest.raises(PoolClosed):
        pool.warm()
    assert world.opened == 0


@pytest.mark.parametrize("timeout", [-1, "1", True, float("nan")])
def test_warm_refuses_a_wrong_time_out(timeout, poolOf, world):
    with pytest.raises(ValueError, match="timeout must be None or a number of seconds >= 0, not"):
        poolOf().warm(timeout)
    assert world.opened == 0
