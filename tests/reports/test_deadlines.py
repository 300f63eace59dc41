"""Calls that took longer than they were told, because of the hooks of many resources."""

import threading
import time

import pytest

from queuepool import Pool, PoolClosed, PoolTimeout, Reason
from tests.helpers import (FakeResource, Gate, PlainResource, awaitTrue, awaitWaiting, checkWhole,
                           start)
from tests.reports.situations import CostlyWorld, openAll, poolOf, reasonsOf

#: How to make all that is idle be closed by its next take.
EXPIRIES = {
    "idle": (dict(maxIdleTime=10.0, maxOpenTime=None), lambda pool, clock: clock.advance(11.0)),
    "age": (dict(maxIdleTime=None, maxOpenTime=10.0), lambda pool, clock: clock.advance(11.0)),
    "invalidated": (dict(maxIdleTime=None, maxOpenTime=None),
                    lambda pool, clock: pool.invalidate(timeout=0)),
}


@pytest.fixture(params=sorted(EXPIRIES))
def expiry(request):
    return EXPIRIES[request.param]


@pytest.mark.parametrize("timeout", [None, 100, 0.5, 0])
def test_one_take_closes_one_of_all_that_expired(timeout, expiry, kind, isSeeded, clock):
    options, expire = expiry
    world = CostlyWorld(clock)
    pool = poolOf(10, kind, world, isSeeded, clock=clock, **options)
    openAll(pool)
    world.closeTime = 0.3
    expire(pool, clock)
    closed, before = world.closed, clock.now
    try:
        pool.put(pool.take(timeout))
    except PoolTimeout:
        assert timeout == 0
    assert clock.now - before == pytest.approx(0.3)
    assert world.closed == closed + 1
    world.closeTime = 0.0
    checkWhole(pool, world)


@pytest.mark.parametrize("timeout, most", [(0.0, 1), (0.5, 2), (1.0, 4), (None, 10)])
def test_repairing_one_after_the_other_ends_at_the_deadline(timeout, most, isSeeded, clock):
    class Broken(FakeResource):
        def takeRepair(self):
            if isBroken and self.isOpen:
                clock.advance(0.3)
                self.close()

    world = CostlyWorld(clock)
    isBroken = []
    pool = poolOf(10, Broken, world, isSeeded, clock=clock, maxIdleTime=None)
    openAll(pool)
    isBroken.append(True)
    before = clock.now
    try:
        pool.put(pool.take(timeout))
    except PoolTimeout:
        assert timeout is not None
    assert clock.now - before == pytest.approx(0.3 * most)
    assert world.closed == most
    isBroken.clear()
    checkWhole(pool, world)


@pytest.mark.parametrize("timeout", [0, 1, 4.9])
def test_nothing_is_opened_after_the_deadline(timeout, isSeeded, clock):
    """The close of what expired used up the time."""
    world = CostlyWorld(clock)
    pool = poolOf(1, FakeResource, world, isSeeded, clock=clock, maxIdleTime=10.0)
    openAll(pool)
    clock.advance(11.0)
    world.closeTime = 5.0
    with pytest.raises(PoolTimeout):
        pool.take(timeout)
    assert world.opened == 1
    assert pool.stats().timeouts == 1
    checkWhole(pool, world)


def test_nothing_is_opened_after_a_factory_that_used_up_the_time(kind, world, clock):
    def build(name):
        clock.advance(5.0)
        return kind(name, world)

    pool = Pool("p", 1, factory=build, clock=clock)
    with pytest.raises(PoolTimeout):
        pool.take(timeout=1)
    assert world.opened == 0
    checkWhole(pool, world)


def test_nothing_is_opened_after_the_close_of_a_dropped_one_used_up_the_time(
        kind, isSeeded, clock):
    world = CostlyWorld(clock)
    pool = poolOf(1, kind, world, isSeeded, clock=clock)
    pool.take()
    world.closeTime = 5.0
    with pytest.raises(PoolTimeout):
        pool.take(timeout=1)
    assert world.opened == world.closed == 1
    world.closeTime = 0.0
    checkWhole(pool, world)


@pytest.mark.parametrize("timeout", [0, 1, 3])
def test_an_open_that_was_begun_in_time_is_handed_out(timeout, kind, isSeeded, clock):
    """What is documented: a hook that runs is not stopped, and its result is not thrown away."""
    world = CostlyWorld(clock, openTime=30.0)
    pool = poolOf(1, kind, world, isSeeded, clock=clock)
    resource = pool.take(timeout)
    assert resource.isOpen
    pool.put(resource)
    checkWhole(pool, world)


def test_a_failing_open_is_not_tried_again_after_the_deadline(kind, isSeeded, clock):
    class Down(kind):
        def open(self):
            attempts.append(self)
            clock.advance(3.0)
            raise OSError("no route")

    attempts = []
    pool = poolOf(3, Down, CostlyWorld(), isSeeded, clock=clock, openRetryTime=100.0)
    with pytest.raises(PoolTimeout) as caught:
        start(pool.take, 1).result(10)
    assert len(attempts) == 1
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("call", ["takeRepair", "close"])
def test_a_take_that_has_to_wait_again_does_not_get_its_time_anew(call, isSeeded, clock):
    """The pool shrank while the hook ran, so what the take had in hand had to leave."""
    def shrink():
        clock.advance(1000.0)
        pool.resize(1)

    class Shrinking(FakeResource):
        def takeRepair(self):
            if call == "takeRepair" and armed and self.isOpen:
                armed.clear()
                self.close()
                shrink()

        def close(self):
            super().close()
            if call == "close" and armed:
                armed.clear()
                shrink()

    armed = []
    world = CostlyWorld(clock)
    pool = poolOf(2, Shrinking, world, isSeeded, clock=clock, maxIdleTime=10.0)
    openAll(pool)
    kept = pool.take()
    if call == "close":
        clock.advance(11.0)
    armed.append(True)
    with pytest.raises(PoolTimeout):
        start(pool.take, 1000).result(10)
    assert not armed
    pool.put(kept)
    del kept
    checkWhole(pool)


@pytest.mark.parametrize("wake", ["resize", "put"])
def test_a_waiting_take_that_is_woken_for_nothing_waits_on(wake, kind, world, monkeypatch):
    monkeypatch.setattr("queuepool.core.idle.LOOK_AGAIN_TIME", 3600.0)
    pool = poolOf(2, kind, world)
    first, second = pool.take(), pool.take()
    if wake == "put":
        pool.resize(1)
    waiting = start(pool.take, 1000)
    awaitWaiting(pool, 1)
    if wake == "resize":
        pool.resize(2)
    else:
        pool.put(second)  # leaves at once, because it is surplus
    waiting.thread.join(0.2)
    assert waiting.thread.is_alive()
    pool.put(first)
    assert waiting.result(10) is first


def test_a_fake_clock_that_stands_still_does_not_keep_a_take_waiting(kind, world, clock):
    pool = poolOf(1, kind, world, clock=clock)
    resource = pool.take()
    with pytest.raises(PoolTimeout):
        start(pool.take, 0.01).result(10)
    pool.put(resource)


# -- close


def closingSlowly(world, clock, seconds):
    """Have closes take time here; in other threads they stop at the gate that is returned."""
    gate = Gate()
    main = threading.current_thread()
    closeHandle = world.close

    def close(handle):
        if threading.current_thread() is main:
            clock.advance(seconds)
        else:
            gate()
        closeHandle(handle)

    world.close = close
    return gate


def test_close_leaves_to_a_thread_what_it_has_no_time_for(kind, isSeeded, clock):
    world = CostlyWorld(clock)
    pool = poolOf(10, kind, world, isSeeded, clock=clock)
    openAll(pool)
    gate = closingSlowly(world, clock, 0.6)
    before = clock.now
    assert pool.close() == 8
    assert clock.now - before == pytest.approx(1.2)
    assert world.live == 8
    gate.open()
    awaitTrue(lambda: world.live == 0)
    awaitTrue(lambda: pool.close() == 0)
    assert not world.wrongs


@pytest.mark.parametrize("timeout, closed", [(0, 2), (0.5, 2), (3.2, 6), (5.9, 10), (None, 10)])
def test_close_is_bounded(timeout, closed, kind, isSeeded, clock):
    """The one hook that runs at the end of the time is waited for."""
    world = CostlyWorld(clock)
    pool = poolOf(10, kind, world, isSeeded, clock=clock)
    openAll(pool)
    gate = closingSlowly(world, clock, 0.6)
    gate.open()
    before = clock.now
    rest = pool.close(timeout)
    assert clock.now - before == pytest.approx(0.6 * closed)
    assert 0 <= rest <= 10 - closed
    awaitTrue(lambda: world.live == 0)


def test_recycle_closes_what_close_had_no_time_for(kind, isSeeded, clock):
    world = CostlyWorld(clock)
    pool = poolOf(5, kind, world, isSeeded, clock=clock)
    openAll(pool)
    gate = closingSlowly(world, clock, 2.0)
    assert pool.close() == 4
    gate.awaitArrival()  # the thread has one in hand
    pool.recycle()
    assert world.live == 1
    gate.open()
    awaitTrue(lambda: world.live == 0 and pool.close() == 0)


def test_close_does_not_wait_longer_than_told_for_what_is_taken(kind, isSeeded, world):
    pool = poolOf(2, kind, world, isSeeded)
    openAll(pool)
    resource = pool.take()
    assert start(pool.close, 0.01).result(10) == 1
    pool.put(resource)
    assert world.live == 0 and pool.close() == 0


# -- invalidate, resize


@pytest.mark.parametrize("timeout, closed", [(0, 1), (1.0, 2), (3.2, 6), (None, 10)])
def test_invalidate_is_bounded_and_tells_what_is_left(timeout, closed, kind, isSeeded, clock):
    world = CostlyWorld(clock)
    pool = poolOf(10, kind, world, isSeeded, clock=clock)
    openAll(pool)
    world.closeTime = 0.6
    before = clock.now
    assert pool.invalidate(timeout) == 10 - closed
    assert clock.now - before == pytest.approx(0.6 * closed)
    assert world.closed == closed


def test_invalidate_without_an_argument_takes_a_second(kind, isSeeded, clock):
    world = CostlyWorld(clock)
    pool = poolOf(10, kind, world, isSeeded, clock=clock)
    openAll(pool)
    world.closeTime = 0.6
    assert pool.invalidate() == 8


@pytest.mark.parametrize("way", ["recycle", "take"])
def test_what_invalidate_left_is_closed_later(way, kind, isSeeded, clock):
    world = CostlyWorld(clock)
    pool = poolOf(5, kind, world, isSeeded, clock=clock)
    openAll(pool)
    world.closeTime = 0.6
    assert pool.invalidate(timeout=0) == 4
    if way == "recycle":
        pool.recycle()
    else:
        generations = [resource.generation for resource in [pool.take() for _ in range(5)]]
        assert all(generation is pool.generation for generation in generations)
    assert reasonsOf(pool)["INVALIDATED"] == 5


def test_resize_is_bounded_and_the_rest_leaves_later(kind, isSeeded, clock):
    world = CostlyWorld(clock)
    pool = poolOf(10, kind, world, isSeeded, clock=clock)
    openAll(pool)
    world.closeTime = 0.6
    before = clock.now
    pool.resize(1)
    assert clock.now - before == pytest.approx(1.2)
    before = clock.now
    pool.put(pool.take(timeout=None))
    assert clock.now - before <= 0.6 + 1e-6
    pool.recycle()
    assert pool.stats().open <= 1
    world.closeTime = 0.0
    checkWhole(pool, world)
    assert pool.stats().closesByReason[Reason.SHRUNK] == 9


# -- warm


@pytest.mark.parametrize("timeout, opened", [(0, 1), (2.5, 3), (4.0, 5), (None, 5)])
def test_warm_begins_no_open_after_its_time(timeout, opened, kind, isSeeded, clock):
    world = CostlyWorld(clock, openTime=1.0)
    pool = poolOf(5, kind, world, isSeeded, clock=clock, minOpen=5)
    if opened < 5:
        with pytest.raises(PoolTimeout):
            pool.warm(timeout)
    else:
        assert pool.warm(timeout) == 5
    assert world.opened == opened
    world.openTime = 0.0
    checkWhole(pool, world)


def test_a_take_of_a_closing_pool_fails_though_its_hook_was_slow(kind, isSeeded, clock):
    """It was closed while the take opened: what was opened is closed, not handed out."""
    class Closing(kind):
        def open(self):
            super().open()
            pool.close()

    world = CostlyWorld(clock)
    pool = poolOf(1, Closing, world, isSeeded, clock=clock)
    with pytest.raises(PoolClosed):
        pool.take(timeout=1)
    assert world.live == 0
    assert pool.close() == 0


def test_no_take_repair_runs_after_a_close_that_used_up_the_time(clock, world):
    class Slow(PlainResource):
        repairs = 0

        def close(self):
            clock.advance(0.4)
            super().close()

        def takeRepair(self):
            self.repairs += 1

    pool = Pool("p", 1, 10.0, factory=lambda name: Slow(name, world), clock=clock)
    pool.put(pool.take())
    clock.advance(11.0)
    with pytest.raises(PoolTimeout, match="'p-0' was not ready"):
        pool.take(timeout=0.1)
    resource = pool.take()
    assert resource.repairs == 2
    pool.put(resource)


@pytest.mark.alone
def test_those_who_wait_already_give_up_together_in_an_outage(world):
    class Down(PlainResource):
        isDown = False

        def open(self):
            if Down.isDown:
                raise OSError("no server")
            super().open()

    pool = Pool("p", 1, factory=lambda name: Down(name, world), openRetryTime=0.3)
    resource = pool.take()
    waiting = [start(pool.take) for _ in range(8)]
    awaitWaiting(pool, 8)
    Down.isDown = True
    resource.close()
    startedAt = time.monotonic()
    pool.put(resource)
    del resource
    for running in waiting:
        with pytest.raises(PoolTimeout) as caught:
            running.result()
        assert isinstance(caught.value.__cause__, OSError)
    assert time.monotonic() - startedAt < 8 * 0.3
