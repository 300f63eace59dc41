"""resize and invalidate: the pool changes while its resources are idle, checked out or held."""

import pytest

from queuepool import Pool, PoolError, PoolTimeout, Reason
from tests.helpers import (FakeResource, Gate, PlainResource, awaitWaiting, checkClosed, checkWhole,
                           openAll, runTogether, start)

KINDS = pytest.mark.parametrize("kind", [PlainResource, FakeResource])


def poolOf(count, world=None, kind=PlainResource, **options):
    return Pool("p", count, factory=lambda name: kind(name, world), **options)


def seeded(names, world=None, kind=PlainResource, **options):
    pool = Pool("p", len(names), **options)
    for name in names:
        pool.put(kind(name, world))
    return pool


def closesOf(pool):
    return {reason: count for reason, count in pool.stats().closesByReason.items() if count}


def namesOf(pool):
    """Return the names in the order in which the pool hands them out."""
    taken = [pool.take(timeout=0) for _ in range(pool.stats().idle)]
    for resource in reversed(taken):
        pool.put(resource)
    return [resource.name for resource in taken]


# -- invalidate


@KINDS
def test_invalidate_closes_what_is_idle_at_once_and_the_rest_when_it_is_returned(kind, world):
    pool = poolOf(3, world, kind)
    openAll(pool)
    with pool.take() as resource:
        assert pool.invalidate() == 1
        assert world.live == 1 and resource.isOpen
    assert world.live == 0
    assert closesOf(pool) == {Reason.INVALIDATED: 3}
    assert pool.invalidate() == 0
    checkWhole(pool, world)


def test_what_is_opened_after_invalidate_is_kept(world):
    pool = poolOf(2, world)
    openAll(pool)
    pool.invalidate()
    openAll(pool)
    with pool.take():
        pass
    pool.recycle()
    assert (world.live, world.opened) == (2, 4)


def test_what_is_opening_while_it_is_invalidated_is_used_once(world):
    gate = Gate()
    pool = Pool("p", 1, factory=lambda name: FakeResource(name, world, open=[gate]))
    taker = start(pool.take)
    gate.awaitArrival()
    pool.invalidate()
    gate.open()
    resource = taker.result()
    assert resource.isOpen
    pool.put(resource)
    assert closesOf(pool) == {Reason.INVALIDATED: 1}
    checkWhole(pool, world)


@pytest.mark.parametrize("find", ["take", "recycle"])
def test_what_is_returned_while_it_is_invalidated_is_not_used_again(find, world):
    """It is past the look at its limits."""
    pool = poolOf(1, world, FakeResource)
    with pool.take() as resource:
        resource.script["putRepair"] = [pool.invalidate]
    if find == "take":
        with pool.take():
            assert world.opened == 2
    else:
        pool.recycle()
    assert closesOf(pool) == {Reason.INVALIDATED: 1}
    checkWhole(pool, world)


def test_invalidate_of_closed_ones_does_nothing(world):
    pool = poolOf(2, world, FakeResource)
    assert pool.invalidate() == 0
    assert (world.opened, world.closed) == (0, 0)
    checkWhole(pool, world)


@pytest.mark.parametrize("timeout, left", [((), 2), ((0,), 3), ((2.0,), 0), ((None,), 0)])
def test_invalidate_begins_no_other_close_after_its_time(timeout, left, world, clock):
    """What is left is closed before it is used again."""
    pool = poolOf(4, world, FakeResource, clock=clock)
    resources = openAll(pool)
    for resource in resources:
        resource.script["close"] = [lambda: clock.advance(0.6)]
    assert pool.invalidate(*timeout) == left
    assert [resource.isOpen for resource in resources] == [False] * (4 - left) + [True] * left
    pool.recycle()
    assert closesOf(pool) == {Reason.INVALIDATED: 4}
    checkWhole(pool, world)


@pytest.mark.parametrize("timeout", [-1, "1", True, float("nan")])
def test_invalidate_refuses_a_wrong_time_out_and_does_nothing(timeout, world):
    pool = poolOf(1, world)
    openAll(pool)
    with pytest.raises(ValueError, match="timeout must be None or a number of seconds >= 0, not"):
        pool.invalidate(timeout)
    pool.recycle()
    assert closesOf(pool) == {}


# -- growing


def test_growing_with_a_factory_gives_more(world):
    pool = poolOf(1, world)
    with pool.take():
        pool.resize(3)
        assert (pool.capacity, pool.stats().idle) == (3, 2)
        with pool.take() as second, pool.take() as third:
            assert (second.name, third.name) == ("p-1", "p-2")
    checkWhole(pool, world)


def test_growing_again_uses_no_name_twice(world):
    pool = poolOf(3, world)
    openAll(pool)
    pool.resize(1)
    pool.resize(3)
    assert namesOf(pool) == ["p-2", "p-3", "p-4"]
    checkWhole(pool, world)


def test_growing_without_a_factory_makes_room_to_seed(world):
    pool = seeded("a", world)
    pool.resize(2)
    assert (pool.capacity, pool.stats().idle) == (2, 1)
    pool.put(PlainResource("b", world))
    with pytest.raises(PoolError):
        pool.put(PlainResource("c", world))
    checkWhole(pool, world)


def test_who_waits_profits_of_growing_at_once():
    pool = poolOf(1)
    with pool.take():
        takers = [start(pool.take) for _ in range(3)]
        awaitWaiting(pool, 3)
        pool.resize(3)
        awaitWaiting(pool, 1)
    for taker in takers:
        pool.put(taker.result())
    checkWhole(pool)


def test_growing_from_two_threads_at_once_admits_no_more_than_the_capacity(world):
    pool = poolOf(1, world)
    runTogether(lambda: pool.resize(2), lambda: pool.resize(2))
    assert pool.stats().idle == 2
    checkWhole(pool, world)


# -- shrinking


def test_shrinking_lets_closed_ones_leave_first_and_closes_nothing(world):
    pool = seeded("abcd", world)
    with pool.take(), pool.take():
        pass
    pool.resize(2)
    assert (world.live, world.closed, pool.stats().idle) == (2, 0, 2)
    assert sorted(namesOf(pool)) == ["c", "d"]
    checkWhole(pool, world)


def test_shrinking_then_lets_the_least_recently_used_leave(world):
    pool = seeded("abcd", world)
    openAll(pool)
    with pool.take() as taken:
        assert taken.name == "a"
        pool.resize(2)
        assert closesOf(pool) == {Reason.SHRUNK: 2}
        assert namesOf(pool) == ["b"]
    checkWhole(pool, world)


@KINDS
def test_what_is_checked_out_leaves_when_it_is_returned(kind, world):
    pool = poolOf(3, world, kind)
    taken = [pool.take() for _ in range(3)]
    pool.resize(1)
    assert (pool.capacity, pool.stats().taken, world.live) == (1, 3, 3)
    pool.put(taken[0])
    pool.put(taken[1])
    assert (world.live, pool.stats().idle) == (1, 0)
    pool.put(taken[2])
    assert (world.live, pool.stats().idle) == (1, 1)
    assert closesOf(pool) == {Reason.SHRUNK: 2}
    checkWhole(pool, world)


def test_shrinking_and_growing_while_all_are_checked_out_loses_none(world):
    pool = seeded("ab", world)
    with pool.take(), pool.take():
        pool.resize(1)
        pool.resize(2)
    assert world.closed == 0
    checkWhole(pool, world)


def test_shrinking_begins_no_other_close_after_a_second(world, clock):
    pool = poolOf(6, world, FakeResource, clock=clock)
    resources = openAll(pool)
    for resource in resources:
        resource.script["close"] = [lambda: clock.advance(0.6)]
    pool.resize(1)
    assert world.live == 4
    pool.recycle()
    assert world.live == 1
    assert closesOf(pool) == {Reason.SHRUNK: 5}
    checkWhole(pool, world)


def test_shrinking_closes_surplus_ones_though_closes_fail(world, caplog):
    pool = poolOf(3, world, FakeResource)
    for resource in openAll(pool):
        resource.script["close"] = [OSError]
    pool.resize(1)
    assert (world.live, len(caplog.messages), closesOf(pool)) == (1, 2, {Reason.SHRUNK: 2})
    checkWhole(pool, world)


def test_a_shrink_that_is_interrupted_is_made_up_for(world):
    pool = poolOf(3, world, FakeResource)
    openAll(pool)[0].script["close"] = [KeyboardInterrupt]
    with pytest.raises(KeyboardInterrupt):
        pool.resize(1)
    pool.recycle()
    checkWhole(pool, world)


def test_a_shrink_while_two_are_opening_is_not_lost(world):
    gates = [Gate(), Gate()]
    pool = Pool("p", 2)
    for gate in gates:
        pool.put(FakeResource("r", world, open=[gate]))
    takers = [start(pool.take), start(pool.take)]
    for gate in gates:
        gate.awaitArrival()
    pool.resize(1)
    for gate in gates:
        gate.open()
    for resource in [taker.result() for taker in takers]:
        pool.put(resource)
    assert pool.stats().idle == 1
    checkWhole(pool, world)


def test_a_shrink_in_the_middle_of_two_puts_is_not_lost(world):
    """Both puts are past their look at the limits when it shrinks."""
    pool = poolOf(2, world, FakeResource)
    first, second = pool.take(), pool.take()
    first.script["putRepair"] = [lambda: pool.put(second)]
    second.script["putRepair"] = [lambda: pool.resize(1)]
    pool.put(first)
    assert pool.stats().idle == 1
    checkWhole(pool, world)


@pytest.mark.parametrize("hook", ["takeRepair", "putRepair"])
def test_a_shrink_while_hooks_run_is_not_lost(hook, world):
    pool = poolOf(2, world, FakeResource)
    with pool.take():
        with pool.take() as resource:
            pass
        resource.script[hook] = [lambda: pool.resize(1)]
        with pool.take():
            pass
        assert pool.stats().idle == 0
    checkWhole(pool, world)


def test_what_has_to_leave_is_not_opened(world):
    pool = poolOf(2, world, FakeResource)
    with pool.take():
        with pool.take() as resource:
            resource.close()
        resource.script["takeRepair"] = [lambda: pool.resize(1)]
        with pytest.raises(PoolTimeout):
            pool.take(timeout=0)
        assert (world.opened, world.live, resource.pool) == (2, 1, None)
    checkWhole(pool, world)


@KINDS
def test_growing_again_while_a_surplus_one_is_closed_keeps_its_place(kind, world):
    pool = seeded("ab", world, kind)
    first, second = pool.take(), pool.take()
    close = world.close
    world.close = lambda handle: pool.resize(2) or close(handle)
    pool.resize(1)
    pool.put(first)
    world.close = close
    pool.put(second)
    assert (first.pool, first.isOpen, closesOf(pool)) == (pool, False, {Reason.SHRUNK: 1})
    checkWhole(pool, world)


def test_a_slow_close_of_a_surplus_one_costs_no_other(world):
    gate = Gate()
    pool = Pool("p", 3, factory=lambda name: FakeResource(name, world, close=[gate]))
    taken = [pool.take() for _ in range(3)]
    pool.put(taken.pop())
    shrinking = start(pool.resize, 2)
    gate.awaitArrival()
    for resource in taken:
        pool.put(resource)
    assert (pool.stats().idle, world.live) == (2, 2)  # the handle ends before the gate
    gate.open()
    shrinking.result()
    assert closesOf(pool) == {Reason.SHRUNK: 1}
    checkWhole(pool, world)


def test_nothing_is_opened_in_the_place_of_a_surplus_one_until_that_is_closed(world):
    gate, close = Gate(), world.close
    pool = poolOf(2, world)
    openAll(pool)
    world.close = lambda handle: gate() or close(handle)
    shrinking = start(pool.resize, 1)
    gate.awaitArrival()
    pool.resize(2)
    first = pool.take(timeout=0)
    with pytest.raises(PoolTimeout):
        pool.take(timeout=0)
    gate.open()
    shrinking.result()
    pool.put(first)
    checkWhole(pool, world)
    checkClosed(pool, world)


def test_nothing_is_seeded_in_the_place_of_a_surplus_one_until_that_is_closed(world):
    gate, close = Gate(), world.close
    pool = seeded("ab", world)
    openAll(pool)
    world.close = lambda handle: gate() or close(handle)
    shrinking = start(pool.resize, 1)
    gate.awaitArrival()
    pool.resize(2)
    with pytest.raises(PoolError, match="already has all 2 resources"):
        pool.put(PlainResource("c", world))
    gate.open()
    shrinking.result()
    checkWhole(pool, world)


def test_what_is_seeded_after_another_left_counts_from_zero(world):
    pool = seeded("ab", world)
    openAll(pool)
    pool.resize(1)
    pool.resize(2)
    resource = PlainResource("c", world)
    pool.put(resource)
    assert (resource.usageCount, resource.age, resource.idleTime) == (0, None, None)
    assert repr(resource) == "<PlainResource 'c' closed, used 0 times>"
    assert pool.stats().takes == 2


def test_shrinking_keeps_who_waits_in_line_for_what_is_left(world):
    pool = poolOf(2, world)
    first, second = pool.take(), pool.take()
    waiter = start(pool.take)
    awaitWaiting(pool, 1)
    pool.resize(1)
    pool.put(first)
    assert pool.stats().waiting == 1
    pool.put(second)
    assert waiter.result() is second
    pool.put(second)
    checkWhole(pool, world)


def test_shrinking_below_min_open_keeps_as_many_as_there_are(world):
    pool = poolOf(3, world, minOpen=3)
    pool.recycle()
    pool.resize(1)
    pool.recycle()
    assert (world.live, world.opened) == (1, 3)


@pytest.mark.parametrize("capacity", [0, -1, 1.5, True, None])
def test_resize_refuses_wrong_capacities_and_does_nothing(capacity):
    pool = poolOf(2)
    with pytest.raises(ValueError, match="capacity must be an integer >= 1, not"):
        pool.resize(capacity)
    assert pool.capacity == 2


def test_the_capacity_is_changed_by_resize_only():
    with pytest.raises(AttributeError):
        poolOf(1).capacity = 2
