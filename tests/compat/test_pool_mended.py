"""Where 1.3.2 lost a slot, hung or went wrong without a word: what the same program sees now."""

import pytest

from queuepool import Pool, PoolError
from tests.helpers import FakeResource, Gate, World, checkWhole, start


def seeded(capacity=1, world=None, **options):
    world = world or World()
    pool = Pool("p", capacity, **options)
    for number in range(capacity):
        pool.put(FakeResource(f"r{number}", world))
    return pool, world


@pytest.mark.parametrize("hook", ["open", "takeRepair"])
def test_a_failing_hook_at_take_lost_the_slot(hook):
    pool, world = seeded()
    with pool.take() as resource:
        resource.close()
        resource.script[hook] = [OSError("down")]
    with pytest.raises(OSError, match="down"):
        pool.take()
    checkWhole(pool, world)


@pytest.mark.parametrize("hook", ["putRepair", "close"])
def test_a_failing_hook_at_put_lost_the_slot_and_hid_the_users_exception(hook):
    pool, world = seeded()
    with pytest.raises(KeyError, match="the user's"), pool.take() as resource:
        resource.script[hook] = [OSError("down")]
        raise KeyError("the user's")
    checkWhole(pool, world)


def test_seeding_one_too_many_hung():
    pool, world = seeded()
    with pytest.raises(PoolError, match="already has all 1 resources"):
        pool.put(FakeResource("one more"))
    checkWhole(pool, world)


def test_putting_twice_handed_one_out_to_two():
    pool, world = seeded(2)
    with pool.take() as resource:
        pass
    with pytest.raises(PoolError, match="is idle in the pool, not checked out"):
        pool.put(resource)
    checkWhole(pool, world)


def test_putting_into_the_wrong_pool_moved_it_there():
    pool, world = seeded()
    other = Pool("other", 2)
    with pool.take() as resource:
        with pytest.raises(PoolError, match="belongs to pool 'p'"):
            other.put(resource)
    assert other.stats().idle == 0
    checkWhole(pool, world)


def test_a_failing_close_lost_all_that_recycle_had_in_hand(clock):
    pool, world = seeded(3, clock=clock)
    with pool.take(), pool.take(), pool.take() as resource:
        resource.script["close"] = [OSError("down")]
    clock.advance(301)
    pool.recycle()
    assert world.live == 0
    checkWhole(pool, world)


def test_recycle_kept_takers_waiting_for_live_resources(clock):
    pool, world = seeded(2, maxOpenTime=None, clock=clock)
    gate = Gate()
    with pool.take() as live:
        with pool.take() as expired:
            pass
        expired.script["close"] = [gate]
        clock.advance(301)
    recycling = start(pool.recycle)
    gate.awaitArrival()
    with pool.take(timeout=0) as resource:
        assert resource is live
    gate.open()
    recycling.result()
    checkWhole(pool, world)


def test_a_failing_close_ended_the_recycler(clock):
    pool, world = seeded(2, clock=clock)
    closed = [Gate(), Gate()]
    with pool.take() as first, pool.take() as second:
        for gate, resource, error in zip(closed, (first, second), (SystemExit, OSError)):
            def fail(gate=gate, error=error):
                gate.arrived.release()
                raise error
            resource.script["close"] = [fail]
    clock.advance(301)
    pool.startRecycler(0.001)
    for gate in closed:
        gate.awaitArrival()
    pool.stopRecycler()
    checkWhole(pool, world)
