"""close: who is told, what is closed by whom, how long it takes, and what it returns."""

import inspect
import threading

import pytest

from queuepool import Pool, PoolClosed, Reason
from queuepool.core.idle import Waiter
from tests.helpers import (PATIENCE, FakeResource, Gate, PlainResource, awaitTrue, awaitWaiting,
                           checkClosed, openAll, runTogether, start)

KINDS = pytest.mark.parametrize("kind", [PlainResource, FakeResource])


def poolOf(count, world=None, kind=PlainResource, **options):
    return Pool("p", count, factory=lambda name: kind(name, world), **options)


def closesOf(pool):
    return {reason: count for reason, count in pool.stats().closesByReason.items() if count}


def recyclers():
    return [thread for thread in threading.enumerate() if thread.name == "queuepool recycler p"]


def test_close_closes_what_is_idle_and_tells_how_many_are_checked_out(world):
    pool = poolOf(3, world)
    openAll(pool)
    with pool.take() as resource:
        assert not pool.closed
        assert pool.close() == 1
        assert pool.closed and world.live == 1 and resource.isOpen
    assert world.live == 0
    assert pool.close() == 0
    assert closesOf(pool) == {Reason.POOL_CLOSED: 3}
    assert (pool.stats().idle, pool.stats().open, pool.stats().taken) == (0, 0, 0)


@KINDS
def test_what_is_returned_to_a_closed_pool_is_closed_without_an_error(kind, world):
    pool = poolOf(2, world, kind)
    first, second = pool.take(), pool.take()
    assert pool.close() == 2
    pool.put(first)
    assert world.live == 1
    with second:
        pass
    assert closesOf(pool) == {Reason.POOL_CLOSED: 2}
    checkClosed(pool, world)


def test_what_is_returned_to_a_closed_pool_is_repaired_and_then_closed():
    pool = poolOf(1, kind=FakeResource)
    with pool.take() as resource:
        pool.close()
    assert resource.calls == ["takeRepair", "open", "putRepair", "close"]


@pytest.mark.parametrize("hook", ["putRepair", "close"])
def test_what_is_returned_while_the_pool_is_closed_is_closed(hook, world):
    pool = poolOf(1, world, FakeResource, maxUsageCount=1)
    with pool.take() as resource:
        resource.script[hook] = [pool.close]
    assert world.live == 0
    checkClosed(pool, world)


def test_close_tells_every_waiter_before_it_closes_anything(world, monkeypatch):
    gate, asleep, sleep = Gate(), threading.Event(), Waiter.sleep
    monkeypatch.setattr(
        Waiter, "sleep", lambda waiter, seconds: asleep.set() or sleep(waiter, seconds))
    pool = poolOf(1, world, FakeResource)
    resource = pool.take()
    resource.script["close"] = [gate]
    waiter = start(pool.take)
    assert asleep.wait(30)
    with monkeypatch.context() as patch:
        patch.setattr(Waiter, "wake", lambda waiter: None)  # it is slow to wake
        pool.put(resource)
    closing = start(pool.close)
    gate.awaitArrival()
    with pytest.raises(PoolClosed):
        waiter.result()
    gate.open()
    assert closing.result() == 0
    checkClosed(pool, world)


def test_a_take_from_a_closing_pool_runs_no_hook_of_others(world):
    gate = Gate()
    pool = poolOf(3, world, FakeResource)
    first, *others = openAll(pool)
    first.script["close"] = [gate]
    closing = start(pool.close)
    gate.awaitArrival()
    for timeout in 0, None:
        with pytest.raises(PoolClosed):
            pool.take(timeout)
    assert all(resource.isOpen for resource in others)
    gate.open()
    assert closing.result() == 0
    checkClosed(pool, world)


# -- how long it takes


def test_close_waits_for_what_is_checked_out_as_long_as_it_is_told(world):
    pool = poolOf(1, world)
    resource = pool.take()
    assert pool.close(timeout=0) == 1
    assert pool.close(timeout=0.01) == 1
    closing = [start(pool.close, None), start(lambda: pool.close(timeout=30))]
    awaitTrue(lambda: all(running.thread.is_alive() for running in closing))
    pool.put(resource)
    assert [running.result() for running in closing] == [0, 0]
    assert pool.close(None) == 0


def test_close_does_not_wait_by_default():
    assert inspect.signature(Pool.close).parameters["timeout"].default == 0.0


def test_close_of_a_pool_that_has_nothing_ends_at_once():
    assert Pool("p", 3).close(timeout=None) == 0


@pytest.mark.parametrize("timeout, begun", [(0, 2), (0.5, 2), (1.5, 3), (None, 4)])
def test_slow_close_hooks_are_begun_for_a_second_or_the_time_out(timeout, begun, world, clock):
    """What is left is closed by a daemon thread, which then ends."""
    gate = Gate()
    pool = poolOf(4, world, FakeResource, clock=clock)
    for number, resource in enumerate(openAll(pool)):
        resource.script["close"] = [lambda: clock.advance(0.6)] if number < begun else [gate]
    assert pool.close(timeout) == 4 - begun
    assert world.closed >= begun
    if begun < 4:
        gate.awaitArrival()
        assert all(thread.daemon for thread in recyclers())
        gate.open()
    awaitTrue(lambda: pool.close() == 0 and not recyclers())
    assert closesOf(pool) == {Reason.POOL_CLOSED: 4}
    checkClosed(pool, world)


@pytest.mark.parametrize("timeout", [-1, "1", True, float("nan")])
def test_close_refuses_a_wrong_time_out_and_does_nothing(timeout):
    pool = poolOf(1)
    with pytest.raises(ValueError, match="timeout must be None or a number of seconds >= 0, not"):
        pool.close(timeout)
    assert not pool.closed


# -- called again, interrupted, failing


def test_two_may_close_at_once(world):
    pool = poolOf(4, world)
    openAll(pool)
    assert runTogether(pool.close, pool.close) in ([0, 0], [0, 1], [1, 0])
    checkClosed(pool, world)


def test_close_goes_on_though_closes_fail(world, caplog):
    pool = poolOf(3, world, FakeResource)
    for resource in openAll(pool):
        resource.script["close"] = [OSError]
    assert pool.close() == 0
    assert (world.live, pool.stats().closeErrors, len(caplog.messages)) == (0, 3, 3)
    checkClosed(pool, world)


@pytest.mark.parametrize("again", [Pool.close, Pool.recycle])
def test_a_close_that_is_interrupted_can_be_called_again(again, world):
    pool = poolOf(3, world, FakeResource)
    openAll(pool)[1].script["close"] = [KeyboardInterrupt]
    with pytest.raises(KeyboardInterrupt):
        pool.close()
    assert world.live == 1
    again(pool)
    assert world.live == 0
    checkClosed(pool, world)


def test_a_hook_of_a_close_may_close_too(world):
    pool = poolOf(3, world, FakeResource)
    openAll(pool)[0].script["close"] = [lambda: pool.close()]
    assert pool.close() == 0
    checkClosed(pool, world)


# -- the with statement, and what is possible afterwards


def test_the_with_statement_of_a_pool_closes_it(world):
    with poolOf(2, world) as pool:
        openAll(pool)
    assert pool.closed and world.live == 0


def test_the_with_statement_of_a_pool_does_not_swallow_exceptions(world):
    with pytest.raises(ZeroDivisionError), poolOf(2, world) as pool, pool.take():
        1 / 0
    assert pool.closed and world.live == 0
    assert closesOf(pool) == {Reason.EXCEPTION: 1}


def test_nothing_but_looking_is_possible_with_a_closed_pool(world):
    pool = poolOf(2, world, minOpen=2)
    pool.close()
    for call in pool.take, lambda: pool.resize(3), pool.startRecycler, pool.warm:
        with pytest.raises(PoolClosed, match="^pool 'p' is closed: "):
            call()
    pool.stopRecycler()
    assert pool.invalidate() == 0
    pool.recycle()
    assert (pool.capacity, pool.stats().capacity, pool.stats().waiting) == (2, 2, 0)
    assert world.opened == 0


def test_close_ends_the_recycler(world):
    pool = poolOf(1, world)
    pool.startRecycler(3600)
    assert len(recyclers()) == 1
    pool.close()
    awaitTrue(lambda: not recyclers())


def test_the_first_round_of_the_recycler_may_close_the_pool(world):
    pool = poolOf(1, world, FakeResource, maxUsageCount=1, minOpen=1)
    with pool.take() as resource:
        resource.script["open"] = [pool.close]
    pool.startRecycler(3600)
    awaitTrue(lambda: not recyclers())
    checkClosed(pool, world)


def test_who_waits_for_what_was_dropped_is_told_of_the_close(world):
    pool = poolOf(1, world)
    taken = pool.take()
    waiters = [start(pool.take) for _ in range(2)]
    awaitWaiting(pool, 2)
    pool.close()
    for waiter in waiters:
        with pytest.raises(PoolClosed):
            waiter.result()
    del taken
    assert pool.close() == 0 and world.live == 0


def test_close_waits_on_though_it_looks_now_and_then(monkeypatch, world):
    monkeypatch.setattr("queuepool.core.idle.LOOK_AGAIN_TIME", 0.001)
    pool = Pool("p", 1, factory=lambda name: PlainResource(name, world))
    resource = pool.take()
    closing = start(pool.close, PATIENCE)
    awaitTrue(lambda: pool.closed)
    closing.thread.join(0.05)
    assert closing.thread.is_alive()
    pool.put(resource)
    assert closing.result() == 0
