"""What stays open while nobody needs it, and a start that is to fail at once."""

import pytest

from queuepool import Pool, PoolClosed, PoolError, PoolTimeout
from tests.helpers import Gate, PlainResource, awaitTrue, checkWhole, start
from tests.reports.situations import CostlyWorld, openAll, poolOf, reasonsOf, takeAll


class Watch(CostlyWorld):
    """Note how many are open at each open and close."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def open(self):
        handle = super().open()
        self.seen.append(self.live)
        return handle

    def close(self, handle):
        super().close(handle)
        self.seen.append(self.live)


OLD = {
    "idle": dict(maxIdleTime=10.0, maxOpenTime=None),
    "age": dict(maxIdleTime=None, maxOpenTime=10.0),
}


@pytest.mark.parametrize("old", sorted(OLD))
@pytest.mark.parametrize("opened", [3, 5, 8])
def test_min_open_are_open_throughout_when_all_are_old(opened, old, kind, isSeeded, clock):
    world = Watch()
    pool = poolOf(10, kind, world, isSeeded, clock=clock, minOpen=3, **OLD[old])
    taken = takeAll(pool)[:opened]
    for resource in taken:
        pool.put(resource)
    del resource, taken  # those beyond are dropped, and closed
    pool.recycle()
    assert world.live == opened
    clock.advance(11.0)
    world.seen.clear()
    generation = [clock.now]
    pool.recycle()
    assert min(world.seen) >= 3
    assert world.live == pool.stats().open == 3
    for resource in [pool.take() for _ in range(3)]:
        assert resource.age == clock.now - generation[0] == 0.0


@pytest.mark.parametrize("old", sorted(OLD))
def test_where_the_capacity_allows_no_other_one_is_replaced_at_a_time(
        old, kind, isSeeded, clock):
    world = Watch()
    pool = poolOf(4, kind, world, isSeeded, clock=clock, minOpen=4, **OLD[old])
    pool.warm()
    clock.advance(11.0)
    world.seen.clear()
    pool.recycle()
    assert world.live == 4
    assert min(world.seen, default=4) >= 3
    assert world.peak == 4
    assert reasonsOf(pool) == {old.upper(): 4}


def test_a_young_one_stays(kind, isSeeded, clock):
    world = Watch()
    pool = poolOf(5, kind, world, isSeeded, clock=clock, minOpen=2, maxIdleTime=10.0)
    pool.warm()
    clock.advance(9.0)
    pool.recycle()
    assert world.opened == 2 and world.closed == 0


def test_what_cannot_be_replaced_stays_open(kind, isSeeded, world, clock):
    class Flaky(kind):
        def open(self):
            if isDown:
                raise OSError("down")
            super().open()

    isDown = []
    pool = poolOf(5, Flaky, world, isSeeded, clock=clock, minOpen=2, maxIdleTime=10.0)
    pool.warm()
    clock.advance(11.0)
    isDown.append(True)
    pool.recycle()
    assert world.live == 2
    isDown.clear()
    pool.recycle()
    assert world.live == 2 and world.opened == 4
    checkWhole(pool, world)


@pytest.mark.parametrize("loss", ["invalidate", "drop", "user", "error", "usage"])
def test_recycle_opens_anew_what_was_lost(loss, kind, isSeeded, world):
    pool = poolOf(4, kind, world, isSeeded, minOpen=2, maxUsageCount=1 if loss == "usage" else 9)
    pool.recycle()
    assert world.live == 2
    if loss == "invalidate":
        pool.invalidate()
    elif loss == "drop":
        pool.take()
    elif loss == "user":
        with pool.take() as resource:
            resource.close()
        del resource
    elif loss == "usage":
        pool.put(pool.take())
    else:
        with pytest.raises(KeyError):
            with pool.take():
                raise KeyError
    pool.recycle()
    assert world.live == pool.stats().open == 2


def test_the_recycler_runs_its_first_round_at_once(kind, isSeeded, world):
    pool = poolOf(4, kind, world, isSeeded, minOpen=3)
    pool.startRecycler(3600)
    awaitTrue(lambda: world.live == 3)
    pool.stopRecycler()
    pool.startRecycler(3600)  # a second one does so, too
    pool.invalidate()
    pool.stopRecycler()


def test_a_take_is_served_while_the_recycler_opens(kind, world):
    gate = Gate()

    class Slow(kind):
        def open(self):
            if isSlow:
                gate()
            super().open()

    isSlow = []
    pool = poolOf(3, Slow, world, minOpen=2)
    pool.put(pool.take())
    isSlow.append(True)
    pool.startRecycler(3600)
    gate.awaitArrival()
    with pool.take(timeout=0):
        assert world.opened == 1
    isSlow.clear()
    gate.open()
    awaitTrue(lambda: world.live == 2)
    pool.stopRecycler()


# -- warm


@pytest.mark.parametrize("minOpen, opened", [(0, 1), (1, 1), (3, 3)])
def test_warm_opens_min_open_but_at_least_one(minOpen, opened, kind, isSeeded, world):
    pool = poolOf(4, kind, world, isSeeded, minOpen=minOpen)
    assert pool.warm() == opened == world.opened
    assert pool.warm() == opened == world.opened
    checkWhole(pool, world)


def test_warm_counts_what_is_taken(kind, isSeeded, world):
    pool = poolOf(3, kind, world, isSeeded, minOpen=2)
    with pool.take():
        assert pool.warm() == 2
    assert world.opened == 2


@pytest.mark.parametrize("retry", [0.0, 5.0])
def test_warm_raises_the_error_of_the_driver(retry, kind, isSeeded, world):
    class Down(kind):
        def open(self):
            raise ConnectionRefusedError("no server")

    pool = poolOf(2, Down, world, isSeeded, minOpen=2, openRetryTime=retry)
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError, match="no server"):
            pool.warm(timeout=5)
    assert pool.stats().idle == 2


def test_warm_in_an_outage_raises(kind, isSeeded, world):
    """A take was in vain before, so the circuit breaker is tripped."""
    class Down(kind):
        def open(self):
            raise ConnectionRefusedError("no server")

    pool = poolOf(2, Down, world, isSeeded, openRetryTime=0.01)
    with pytest.raises(PoolTimeout):
        pool.take()
    with pytest.raises((ConnectionRefusedError, PoolTimeout)):
        start(pool.warm, 0.01).result(10)


def test_warm_raises_what_the_factory_raises(world):
    def build(name):
        raise KeyError("host")

    pool = Pool("p", 1, factory=build)
    with pytest.raises(KeyError):
        pool.warm()
    assert pool.stats().idle == 1


def test_warm_without_resources_says_what_is_missing():
    with pytest.raises(PoolError, match="no factory"):
        Pool("p", 1).warm()


def test_warm_of_a_closed_pool_fails(kind, isSeeded, world):
    pool = poolOf(2, kind, world, isSeeded)
    pool.close()
    with pytest.raises(PoolClosed):
        pool.warm()


def test_what_warm_opened_is_taken(kind, isSeeded, world):
    pool = poolOf(2, kind, world, isSeeded)
    openAll(pool)
    pool.invalidate()
    pool.warm()
    opened = world.opened
    with pool.take(timeout=0):
        assert world.opened == opened


def test_what_is_old_is_replaced_though_a_seeded_pool_could_have_more(kind, world, clock):
    pool = Pool("p", 5, None, 10.0, minOpen=2, clock=clock)
    for name in "ab":
        pool.put(kind(name, world))
    pool.recycle()
    clock.advance(11.0)
    pool.recycle()
    assert (pool.stats().open, world.opened) == (2, 4)


@pytest.mark.parametrize("minOpen", [0, 3])
def test_all_that_expired_are_closed_without_counting_anew_for_each(minOpen, clock, monkeypatch):
    """So 10,000 take ten times as long as 1,000, not a hundred times."""
    pool = Pool("p", 50, 10.0, factory=PlainResource, clock=clock, minOpen=minOpen)
    for resource in [pool.take() for _ in range(50)]:
        pool.put(resource)
    clock.advance(11.0)
    counts = []
    monkeypatch.setattr(
        pool._keeper, "countOpen", lambda count=pool._keeper.countOpen: counts.append(1) or count())
    pool.recycle()
    assert pool.stats().open == minOpen
    assert len(counts) <= 2 * minOpen + 2
