"""maxWaiting: a service that would rather refuse a request than let it wait in a long line."""

import gc
import re
import sys
import threading
import time

import pytest

from queuepool import Pool, PoolBusy, PoolClosed, PoolTimeout
from tests.helpers import (PATIENCE, FakeResource, Gate, awaitTrue, awaitWaiting, checkClosed,
                           checkWhole, start)


@pytest.fixture(autouse=True)
def wakeUpsOnly(monkeypatch):
    """Have a wake-up that is lost never be made good."""
    monkeypatch.setattr("queuepool.core.idle.LOOK_AGAIN_TIME", 100.0 * PATIENCE)


@pytest.fixture
def makePool(kind, isSeeded, world):
    def make(capacity=1, **options):
        if not isSeeded:
            return Pool("p", capacity, factory=lambda name: kind(name, world), **options)
        pool = Pool("p", capacity, **options)
        for number in range(capacity):
            pool.put(kind(f"p-{number}", world))
        return pool
    return make


def takeAll(pool):
    return [pool.take() for _ in range(pool.capacity)]


def waitInLine(pool, count):
    """Let so many more threads wait, one after the other; return them in their order."""
    takers = []
    before = pool.stats().waiting
    for number in range(1, count + 1):
        takers.append(start(pool.take))
        awaitWaiting(pool, before + number)
    return takers


def checkServes(pool, taken, takers, world):
    """Put what is taken, have all be served that wait, and check that nothing is left behind."""
    for resource in taken:
        pool.put(resource)
    for taker in takers:
        pool.put(taker.result())
    checkWhole(pool, world)
    checkClosed(pool, world)


@pytest.mark.parametrize("maxWaiting", [0, 1, 3])
def test_so_many_may_wait_and_the_next_is_refused_at_once(makePool, world, maxWaiting):
    pool = makePool(2, maxWaiting=maxWaiting)
    taken = takeAll(pool)
    takers = waitInLine(pool, maxWaiting)
    for timeout in None, 1000.0 * PATIENCE:
        with pytest.raises(PoolBusy):
            pool.take(timeout)
    assert pool.stats().waiting == maxWaiting
    checkServes(pool, taken, takers, world)


def test_without_a_limit_all_may_wait(makePool, world):
    pool = makePool()
    taken = takeAll(pool)
    checkServes(pool, taken, waitInLine(pool, 20), world)


def test_the_error_says_the_numbers(makePool, world):
    pool = makePool(2, maxWaiting=1)
    taken = takeAll(pool)
    takers = waitInLine(pool, 1)
    with pytest.raises(PoolBusy) as caught:
        pool.take(timeout=7.5)
    assert re.fullmatch(
        r"pool 'p': it would have to wait, but maxWaiting \(1\) threads wait already; it gave up "
        r"in 0\.\d\d\d s \(timeout 7\.5 s\): capacity 2, checked out 2, idle 0, waiting 1; .*; "
        r"'.*' is checked out longest, for \d\.\d s, by thread 'MainThread', which waits in pool "
        r"'p'; this thread already has '.*' \[queuepool:nested\]",
        str(caught.value))
    assert isinstance(caught.value, PoolTimeout) and isinstance(caught.value, TimeoutError)
    assert caught.value.__cause__ is None and caught.value.__context__ is None
    checkServes(pool, taken, takers, world)


def test_the_refused_are_counted_as_timeouts_and_not_as_waits(makePool, world):
    pool = makePool(maxWaiting=0)
    with pool.take():
        for _ in range(3):
            with pytest.raises(PoolBusy):
                pool.take()
        stats = pool.stats()
        assert (stats.timeouts, stats.takes) == (3, 1)
        assert (stats.waits, stats.waitTime, stats.waitMax) == (0, 0.0, 0.0)
    checkWhole(pool, world)


def test_who_would_not_wait_is_not_busy(makePool, world):
    pool = makePool(maxWaiting=0)
    with pool.take():
        with pytest.raises(PoolTimeout) as caught:
            pool.take(timeout=0)
        assert not isinstance(caught.value, PoolBusy)
    checkWhole(pool, world)


# -- who may wait

@pytest.fixture
def inSteps():
    """Have new threads stand in line in steps: after each line another one may go on."""
    def trace(frame, event, arg):
        if frame.f_code.co_name != "waitFor":
            return None
        time.sleep(0.0)
        return trace

    threading.settrace(trace)
    yield
    threading.settrace(None)


@pytest.mark.parametrize("maxWaiting", [0, 1, 7])
def test_of_thirty_in_the_same_instant_exactly_so_many_wait(
        makePool, world, inSteps, maxWaiting):
    pool = makePool(2, maxWaiting=maxWaiting)
    for _ in range(5):
        taken = takeAll(pool)
        barrier = threading.Barrier(30)

        def take():
            barrier.wait(PATIENCE)
            try:
                return pool.take()
            except PoolBusy:
                return None

        takers = [start(take) for _ in range(30)]
        awaitTrue(lambda: sum(not taker.thread.is_alive() for taker in takers) >= 30 - maxWaiting)
        awaitWaiting(pool, maxWaiting)
        refused = [taker for taker in takers if not taker.thread.is_alive()]
        assert len(refused) == 30 - maxWaiting
        assert [taker.result() for taker in refused] == [None] * len(refused)
        for resource in taken:
            pool.put(resource)
        waiting = [taker for taker in takers if taker not in refused]
        while waiting:
            awaitTrue(lambda: any(not taker.thread.is_alive() for taker in waiting))
            served = next(taker for taker in waiting if not taker.thread.is_alive())
            waiting.remove(served)
            pool.put(served.result())
    checkWhole(pool, world)


def test_with_zero_nobody_waits_but_what_is_free_is_taken(makePool, world):
    pool = makePool(2, maxWaiting=0)
    for _ in range(3):
        taken = takeAll(pool)  # at first they are closed, or not built yet
        with pytest.raises(PoolBusy):
            pool.take()
        for resource in taken:
            pool.put(resource)
    taken = takeAll(pool)
    taken[0].close()  # by its user
    checkServes(pool, taken, [], world)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_with_zero_what_was_dropped_is_free(makePool, world):
    pool = makePool(maxWaiting=0)
    pool.take()
    gc.collect()  # where there is no count of references
    with pool.take():
        assert world.live == 1
    checkWhole(pool, world)


def test_after_the_line_has_moved_another_may_wait(makePool, world):
    pool = makePool(maxWaiting=1)
    [taken] = takeAll(pool)
    for _ in range(3):
        [taker] = waitInLine(pool, 1)
        with pytest.raises(PoolBusy):
            pool.take()
        pool.put(taken)
        taken = taker.result()
    checkServes(pool, [taken], [], world)


def test_after_one_gave_up_another_may_wait(makePool, world):
    pool = makePool(maxWaiting=1)
    taken = takeAll(pool)
    with pytest.raises(PoolTimeout) as caught:
        pool.take(timeout=0.01)
    assert not isinstance(caught.value, PoolBusy)
    checkServes(pool, taken, waitInLine(pool, 1), world)


def test_those_who_wait_are_served_in_their_order_though_others_are_refused(makePool, world):
    pool = makePool(maxWaiting=3)
    [taken] = takeAll(pool)
    takers = waitInLine(pool, 3)
    for _ in range(5):
        with pytest.raises(PoolBusy):
            pool.take()
        pool.put(taken)
        taken = takers.pop(0).result()
        assert all(taker.thread.is_alive() for taker in takers)
        takers += waitInLine(pool, 1)
    checkServes(pool, [taken], takers, world)


# -- who had its turn

def failing(capacity, world, errors, **options):
    """Return a pool whose opens do what is popped from ``errors``: raise it, or call it first."""
    def play():
        error = errors.pop(0) if errors else None
        if callable(error):
            error = error()
        if error is not None:
            raise error

    return Pool("p", capacity, factory=lambda name: FakeResource(name, world, open=[play] * 99),
                openRetryTime=PATIENCE, **options)


def test_whose_open_failed_waits_for_the_next_attempt(world):
    pool = failing(1, world, [OSError(), OSError()], maxWaiting=0)
    with pool.take():
        assert pool.stats().openErrors == 2
    checkWhole(pool, world)


def test_whose_open_failed_is_not_refused_though_the_line_is_full(world):
    gates = [Gate(), Gate()]

    def failAfter(gate):
        def play():
            gate()
            return OSError()
        return play

    pool = failing(2, world, [failAfter(gate) for gate in gates], maxWaiting=1)
    takers = [start(pool.take) for _ in range(2)]
    for gate in gates:
        gate.awaitArrival()
    takers += waitInLine(pool, 1)
    with pytest.raises(PoolBusy):
        pool.take()
    for gate in gates:
        gate.open()
    taken = [taker.result() for taker in takers[:2]]
    assert pool.stats().openErrors >= 2
    pool.put(taken[0])
    checkServes(pool, taken[1:], takers[2:], world)


def test_while_nothing_can_be_opened_others_are_refused(world):
    gate = Gate()

    def holdUp():
        gate()

    pool = failing(2, world, [OSError(), holdUp], maxWaiting=1)
    probe = start(pool.take)
    gate.awaitArrival()  # at its second attempt
    takers = waitInLine(pool, 1)
    with pytest.raises(PoolBusy, match="reconnecting; .*the last .* OSError") as caught:
        pool.take()
    assert isinstance(caught.value.__cause__, OSError)
    gate.open()
    checkServes(pool, [probe.result()], takers, world)


# -- how those who wait are served

def test_more_capacity_serves_those_who_wait(makePool, kind, isSeeded, world):
    pool = makePool(maxWaiting=2)
    taken = takeAll(pool)
    takers = waitInLine(pool, 2)
    with pytest.raises(PoolBusy):
        pool.take()
    pool.resize(3)
    if isSeeded:
        pool.put(kind("a", world))
        pool.put(kind("b", world))
    taken += [taker.result() for taker in takers]
    checkServes(pool, taken, waitInLine(pool, 2), world)


def test_a_close_tells_those_who_wait_and_nobody_is_busy_afterwards(makePool, world):
    pool = makePool(maxWaiting=2)
    [taken] = takeAll(pool)
    takers = waitInLine(pool, 2)
    assert pool.close() == 1
    for taker in takers:
        with pytest.raises(PoolClosed):
            taker.result()
    with pytest.raises(PoolClosed):
        pool.take()
    pool.put(taken)
    checkClosed(pool, world)


def test_no_wake_up_goes_to_one_that_is_refused(makePool, world):
    pool = makePool(3, maxWaiting=2)
    outcomes = {"served": 0, "busy": 0}

    def work():
        served = busy = 0
        for _ in range(300):
            try:
                with pool.take():
                    served += 1
            except PoolBusy:
                busy += 1
        outcomes["served"] += served
        outcomes["busy"] += busy

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for running in [start(work) for _ in range(10)]:
            running.result()
    finally:
        sys.setswitchinterval(interval)
    stats = pool.stats()
    assert sum(outcomes.values()) == 3000
    assert (stats.takes, stats.timeouts) == (outcomes["served"], outcomes["busy"])
    checkWhole(pool, world)
    checkClosed(pool, world)


@pytest.mark.parametrize("wrong", [-1, 1.5, True, "3"])
def test_a_wrong_number_is_refused(wrong):
    with pytest.raises((TypeError, ValueError), match="maxWaiting must be an integer >= 0"):
        Pool("p", 1, maxWaiting=wrong)
