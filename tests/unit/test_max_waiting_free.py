"""maxWaiting where something is free: it refuses nobody for whom there is something."""

import threading

import pytest

from queuepool import Pool, PoolBusy
from queuepool.core import idle
from tests.helpers import (PATIENCE, FakeResource, Gate, PlainResource, World, awaitTrue,
                           awaitWaiting, checkWhole, start)


class Sleepers:
    """Has waiters that were woken not run on yet, as where the machine is busy with others."""

    def __init__(self, monkeypatch):
        self._isAwake = threading.Event()
        self._isAwake.set()
        self._asleep = set()
        original = idle.Waiter.sleep

        def sleepLonger(waiter, seconds):
            self._asleep.add(waiter)
            isWoken = original(waiter, seconds)
            assert self._isAwake.wait(PATIENCE)
            self._asleep.discard(waiter)
            return isWoken

        monkeypatch.setattr(idle.Waiter, "sleep", sleepLonger)

    def hold(self, pool):
        # Who stands in line, but does not sleep yet, would look and get what is put.
        self._isAwake.clear()
        awaitTrue(lambda: len(self._asleep) == pool.stats().waiting)

    def release(self):
        self._isAwake.set()


@pytest.fixture
def sleepers(monkeypatch):
    sleepers = Sleepers(monkeypatch)
    yield sleepers
    sleepers.release()


@pytest.fixture(params=[PlainResource, FakeResource], ids=["plain", "hooked"])
def makePool(request, world):
    def make(capacity, **options):
        return Pool("p", capacity, factory=lambda name: request.param(name, world), **options)
    return make


def takeAll(pool):
    return [pool.take() for _ in range(pool.capacity)]


def waitInLine(pool, count):
    takers = []
    for number in range(1, count + 1):
        takers.append(start(pool.take))
        awaitWaiting(pool, number)
    return takers


@pytest.mark.parametrize("maxWaiting, free", [
    (0, 1), (0, 2), (1, 1), (1, 2), (1, 3), (2, 1), (2, 3), (3, 3)])
def test_those_for_whom_something_is_free_do_not_count(
        makePool, world, sleepers, maxWaiting, free):
    pool = makePool(3, maxWaiting=maxWaiting)
    taken = takeAll(pool)
    takers = waitInLine(pool, maxWaiting)
    sleepers.hold(pool)
    for _ in range(free):
        pool.put(taken.pop())
    for number in range(maxWaiting + 1, maxWaiting + free + 1):
        takers.append(start(pool.take))  # for each that is free there may be one more
        if maxWaiting:  # else it is taken at once
            awaitWaiting(pool, number)
        else:
            taken.append(takers.pop().result())
    with pytest.raises(PoolBusy, match=rf"maxWaiting \({maxWaiting}\) threads wait already"):
        pool.take()
    sleepers.release()
    for resource in taken:
        pool.put(resource)
    for taker in takers:
        pool.put(taker.result())
    checkWhole(pool, world)


def test_room_for_a_new_one_is_free(makePool, world, sleepers):
    pool = makePool(1, maxWaiting=1)
    [taken] = takeAll(pool)
    takers = waitInLine(pool, 1)
    sleepers.hold(pool)
    pool.resize(3)
    takers += [start(pool.take)]
    awaitWaiting(pool, 2)
    takers += [start(pool.take)]
    awaitWaiting(pool, 3)
    with pytest.raises(PoolBusy):
        pool.take()
    sleepers.release()
    pool.put(taken)  # now: of three who see room for two at a time, any one may have to wait
    for taker in takers:
        pool.put(taker.result())
    checkWhole(pool, world)


def test_what_was_closed_by_its_user_is_free(makePool, world, sleepers):
    pool = makePool(2, maxWaiting=1)
    first, second = takeAll(pool)
    takers = waitInLine(pool, 1)
    sleepers.hold(pool)
    first.close()
    pool.put(first)
    takers += [start(pool.take)]
    awaitWaiting(pool, 2)
    with pytest.raises(PoolBusy):
        pool.take()
    sleepers.release()
    pool.put(second)
    for taker in takers:
        pool.put(taker.result())
    checkWhole(pool, world)


def test_one_that_is_being_refused_keeps_nobody_from_what_is_free(makePool, world, monkeypatch):
    """If it stands in line until it knows, it is not to be counted."""
    pool = makePool(1, maxWaiting=0)
    [taken] = takeAll(pool)
    gate = Gate()
    copy = idle._copy

    def copyLater(items):
        if threading.current_thread() is not threading.main_thread():
            hasCome.set()
            gate()
        return copy(items)

    monkeypatch.setattr(idle, "_copy", copyLater)
    hasCome = threading.Event()
    refused = start(pool.take)
    awaitTrue(lambda: hasCome.is_set() or not refused.thread.is_alive())
    pool.put(taken)
    with pool.take():
        gate.open()
        with pytest.raises(PoolBusy):
            refused.result()
    checkWhole(pool, world)


# -- while the circuit breaker is tripped

@pytest.mark.parametrize("maxWaiting", [0, 1, 2])
def test_while_nothing_can_be_opened_what_is_closed_is_not_free(clock, maxWaiting):
    world = World()
    isDown = [True]

    def play():
        if isDown:
            raise OSError

    pool = Pool("p", 4, factory=lambda name: FakeResource(name, world, open=[play] * 99),
                openRetryTime=1e6, maxWaiting=maxWaiting, clock=clock)
    first = start(pool.take)  # it fails, and waits first in line until it may try again
    awaitTrue(lambda: pool.stats().openErrors == 1 and pool.stats().waiting == 1)
    takers = []
    for number in range(2, maxWaiting + 1):
        takers.append(start(pool.take))
        awaitWaiting(pool, number)
    with pytest.raises(PoolBusy, match="reconnecting") as caught:
        pool.take()
    assert isinstance(caught.value.__cause__, OSError)
    isDown.clear()
    clock.advance(10.0)
    for taker in [first, *takers]:
        pool.put(taker.result())
    checkWhole(pool, world)


@pytest.mark.parametrize("maxWaiting", [0, 1, 7])
def test_of_fifty_in_the_same_instant_one_is_served_and_exactly_so_many_wait(
        makePool, world, maxWaiting):
    pool = makePool(2, maxWaiting=maxWaiting)
    for _ in range(5):
        taken = takeAll(pool)
        pool.put(taken.pop())  # one of the fifty gets it
        barrier = threading.Barrier(50)

        def take():
            barrier.wait(PATIENCE)
            try:
                return pool.take()
            except PoolBusy:
                return None

        takers = [start(take) for _ in range(50)]
        awaitTrue(lambda: sum(taker.thread.is_alive() for taker in takers) <= maxWaiting)
        awaitWaiting(pool, maxWaiting)
        ended = [taker for taker in takers if not taker.thread.is_alive()]
        served = [taker.result() for taker in ended if taker.result() is not None]
        assert (len(served), len(ended)) == (1, 50 - maxWaiting)
        for resource in taken + served:
            pool.put(resource)
        waiting = [taker for taker in takers if taker not in ended]
        while waiting:
            awaitTrue(lambda: any(not taker.thread.is_alive() for taker in waiting))
            done = next(taker for taker in waiting if not taker.thread.is_alive())
            waiting.remove(done)
            pool.put(done.result())
    checkWhole(pool, world)
