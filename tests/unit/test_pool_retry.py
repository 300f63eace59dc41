"""openRetryTime: while nothing can be opened, take tries again for that long."""

import re

import pytest

from queuepool import Pool, PoolClosed, PoolTimeout
from queuepool.core.breaker import LONGEST_PAUSE
from tests.helpers import (PATIENCE, FakeResource, Gate, awaitTrue, awaitWaiting, checkClosed,
                           checkWhole, start)


def failing(count, world, errors, **options):
    """Return a pool whose opens do what is popped from ``errors``: raise it, or call it first."""
    def play():
        if errors:
            error = errors.pop(0)
            if callable(error):
                error = error()
            if error is not None:
                raise error

    options = {"openRetryTime": PATIENCE, **options}
    return Pool("p", count, factory=lambda name: FakeResource(name, world, open=[play] * 99),
                **options)


def test_without_it_the_first_failure_is_raised(world):
    pool = failing(1, world, [OSError("down")], openRetryTime=0.0)
    with pytest.raises(OSError, match="down"):
        pool.take()
    checkWhole(pool, world)


def test_it_tries_again_until_it_opens(world):
    pool = failing(2, world, [OSError(), ConnectionError(), OSError()])
    with pool.take():
        pass
    stats = pool.stats()
    assert (stats.opens, stats.openErrors, stats.timeouts) == (1, 3, 0)
    checkWhole(pool, world)


def test_a_time_out_is_caused_by_the_last_failure_and_counted(world):
    errors = [OSError(number) for number in range(9)]
    pool = failing(1, world, list(errors))
    with pytest.raises(PoolTimeout) as caught:
        pool.take(timeout=0.15)
    failed = pool.stats().openErrors
    assert failed >= 1 and caught.value.__cause__ is errors[failed - 1]
    assert re.fullmatch(
        r"pool 'p': nothing could be opened in 0\.\d\d\d s \(timeout 0\.15 s, openRetryTime 30 s"
        r"\): capacity 1, checked out 0, idle 1, waiting 0, reconnecting; the last attempt to open "
        r"one failed with OSError \[queuepool:cannot-open\]", str(caught.value))
    assert pool.stats().timeouts == 1


@pytest.mark.parametrize("options, timeout", [({"openRetryTime": 0.01}, None), ({}, 0)])
def test_what_ends_first_counts_the_retry_time_or_the_takes(world, monkeypatch, options, timeout):
    monkeypatch.setattr("queuepool.core.breaker.FIRST_PAUSE", PATIENCE)  # no second attempt
    pool = failing(1, world, [OSError("down")], **options)
    with pytest.raises(PoolTimeout) as caught:
        pool.take(timeout=timeout)
    assert str(caught.value.__cause__) == "down"
    stats = pool.stats()
    assert (stats.openErrors, stats.idle, stats.taken) == (1, 1, 0)


def test_it_counts_from_the_first_failure_and_not_from_the_wait_before(world, clock):
    """Who waited long for a resource is not to give up at the first failure."""
    pool = failing(1, world, [None, OSError()], openRetryTime=1.0, clock=clock)
    taken = pool.take()
    waiter = start(pool.take)
    awaitWaiting(pool, 1)
    clock.advance(100.0)
    taken.script["putRepair"] = [taken.close]
    pool.put(taken)
    awaitTrue(lambda: pool.stats().openErrors == 1)
    awaitWaiting(pool, 1)
    clock.advance(LONGEST_PAUSE)
    pool.put(waiter.result())
    checkWhole(pool, world)


def test_an_interruption_is_not_tried_again(world):
    pool = failing(1, world, [KeyboardInterrupt()])
    with pytest.raises(KeyboardInterrupt):
        pool.take()
    checkWhole(pool, world)


@pytest.mark.parametrize("isSeeded", [True, False], ids=["seeded", "factory"])
@pytest.mark.parametrize("bad", range(3))
@pytest.mark.parametrize("openRetryTime", [0.0, PATIENCE])
def test_what_could_not_be_opened_is_tried_after_the_others(openRetryTime, bad, isSeeded, world):
    """One bad resource costs one failure, and not each take."""
    def build(name):
        return FakeResource(name, world, open=[OSError] * 99 if name == f"p-{bad}" else [])

    pool = Pool("p", 3, factory=None if isSeeded else build, openRetryTime=openRetryTime)
    if isSeeded:
        for number in range(3):
            pool.put(build(f"p-{number}"))
    failures = 0
    for _ in range(10):
        try:
            with pool.take(timeout=5):
                pass
        except OSError:
            failures += 1
            assert failures == 1
    stats = pool.stats()
    assert stats.openErrors <= 1
    assert (stats.takes, stats.opens, stats.timeouts) == (10 - failures, 1, 0)


def test_one_at_a_time_tries_and_the_first_success_serves_all(world):
    gate = Gate()

    def holdUp():
        gate()
        return OSError()

    pool = failing(3, world, [OSError(), holdUp])
    takers = [start(pool.take)]
    gate.awaitArrival()  # at its second attempt
    takers += [start(pool.take) for _ in range(2)]
    awaitWaiting(pool, 2)
    assert pool.stats().openErrors == 1
    gate.open()
    for resource in [taker.result() for taker in takers]:
        pool.put(resource)
    assert (pool.stats().opens, pool.stats().openErrors) == (3, 2)
    checkWhole(pool, world)


def test_those_that_fail_at_once_stand_in_line_before_those_who_came_later(world):
    gates = [Gate(), Gate()]
    third = Gate()

    def failAfter(gate):
        def play():
            gate()
            return OSError()
        return play

    pool = failing(2, world, [failAfter(gates[0]), failAfter(gates[1]), third])
    takers = [start(pool.take) for _ in range(2)]
    for gate in gates:
        gate.awaitArrival()
    late = start(pool.take)
    awaitWaiting(pool, 1)
    gates[0].open()
    awaitTrue(lambda: pool.stats().openErrors == 1)
    gates[1].open()
    third.awaitArrival()
    awaitWaiting(pool, 2)
    assert pool.stats().idle == 1
    third.open()
    taken = [taker.result() for taker in takers]
    assert pool.stats().waiting == 1
    for resource in taken:
        pool.put(resource)
    pool.put(late.result())
    checkWhole(pool, world)


@pytest.mark.parametrize("hook", ["close", "takeRepair", "putRepair"])
def test_after_one_was_broken_the_next_are_opened_one_at_a_time(world, hook):
    """Perhaps it is not this one alone, so that nobody runs against a dead server in a crowd."""
    gate = Gate()
    pool = failing(2, world, [None, gate])
    if hook == "close":
        with pytest.raises(KeyError), pool.take():
            raise KeyError
    else:
        with pool.take() as resource:
            resource.script[hook] = [resource.close]
    takers = [start(pool.take)]
    gate.awaitArrival()  # now it is known to be broken
    takers.append(start(pool.take))
    awaitWaiting(pool, 1)
    assert pool.stats().idle == 1
    gate.open()
    for resource in [taker.result() for taker in takers]:
        pool.put(resource)
    checkWhole(pool, world)


def test_who_waits_is_served_by_what_comes_back(world):
    pool = failing(2, world, [None] + [OSError()] * 99)
    other = failing(1, world, [])  # another pool has nothing to do with it
    taken = pool.take()
    waiter = start(pool.take)
    awaitTrue(lambda: pool.stats().openErrors > 0)
    awaitWaiting(pool, 1)
    pool.put(taken)
    assert waiter.result() is taken
    pool.put(taken)
    with other.take():
        pass


def test_a_time_out_in_line_is_caused_by_the_failure_of_another(world):
    gate = Gate()
    error = OSError("down")
    pool = failing(2, world, [error, gate])
    trying = start(pool.take)
    gate.awaitArrival()
    with pytest.raises(PoolTimeout, match="checked out 0, idle 1, waiting 0") as caught:
        pool.take(timeout=0)
    assert caught.value.__cause__ is error
    gate.open()
    pool.put(trying.result())
    checkWhole(pool, world)


def test_one_who_gives_up_leaves_the_attempts_to_the_next_in_line(world):
    errors = [OSError(number) for number in range(99)]
    pool = failing(2, world, errors)
    impatient = start(lambda: pool.take(timeout=0.3))
    awaitTrue(lambda: pool.stats().openErrors > 0)
    patient = start(pool.take)
    with pytest.raises(PoolTimeout):
        impatient.result()
    errors.clear()
    pool.put(patient.result())
    checkWhole(pool, world)


def test_closing_the_pool_ends_the_attempts(world):
    pool = failing(2, world, [OSError()] * 99)
    trying = start(pool.take)
    waiting = start(pool.take)
    awaitTrue(lambda: pool.stats().openErrors > 0)
    awaitWaiting(pool, 2)
    pool.close()
    for running in trying, waiting:
        with pytest.raises(PoolClosed):
            running.result()
    checkClosed(pool, world)


def test_closing_the_pool_while_one_opens_closes_the_others(world):
    gate = Gate()
    pool = failing(3, world, [OSError(), gate])
    trying = start(pool.take)
    gate.awaitArrival()
    assert pool.close() == 1
    gate.open()
    with pytest.raises(PoolClosed):
        trying.result()
    checkClosed(pool, world)


def test_when_recycle_opens_one_all_may_open_again(world, clock):
    pool = failing(2, world, [OSError()], minOpen=1, clock=clock)
    with pytest.raises(PoolTimeout):
        pool.take(timeout=0)
    pool.recycle()
    assert world.opened == 0, "it is too early for another attempt"
    clock.advance(LONGEST_PAUSE)
    pool.recycle()
    assert world.live == 1 and "reconnecting" not in repr(pool)
    checkWhole(pool, world)


def test_shrinking_while_one_is_tried_lets_the_others_go(world):
    gate = Gate()
    pool = failing(3, world, [OSError(), gate])
    trying = start(pool.take)
    gate.awaitArrival()
    pool.resize(1)
    assert pool.stats().idle == 0
    gate.open()
    pool.put(trying.result())
    checkWhole(pool, world)
