"""openRetryTime: while nothing opens, one tries at a time and all wait their turn."""

import re

import pytest

from queuepool import Pool, PoolClosed, PoolTimeout
from queuepool.outage import FIRST_PAUSE, LONGEST_PAUSE, Outage
from tests.helpers import (FakeResource, Gate, awaitTrue, awaitWaiting, checkClosed, checkWhole,
                           start)


def failing(count, world, errors, **options):
    """Return a pool whose opens raise what is popped from ``errors``, as long as there is."""
    def play():
        if errors:
            error = errors.pop(0)
            if callable(error):
                error = error()
            if error is not None:
                raise error

    options = {"openRetryTime": 30.0, **options}
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


def test_at_the_deadline_it_is_a_time_out_caused_by_the_last_error(world):
    errors = [OSError(number) for number in range(9)]
    pool = failing(1, world, list(errors))
    with pytest.raises(PoolTimeout) as caught:
        pool.take(timeout=0.15)
    failed = pool.stats().openErrors
    assert failed >= 1 and caught.value.__cause__ is errors[failed - 1]
    assert re.fullmatch(
        r"pool 'p': 'p-0' could not be opened in 0\.\d\d\d s; the last attempt failed with "
        rf"OSError\({failed - 1}\): capacity 1, taken 0, idle 0, waiting 0, one is being tried",
        str(caught.value))


@pytest.mark.parametrize("options, timeout", [({"openRetryTime": 0.01}, None), ({}, 0)])
def test_what_ends_first_counts_the_retry_time_or_the_takes(world, options, timeout):
    pool = failing(1, world, [OSError("down")], **options)
    with pytest.raises(PoolTimeout) as caught:
        pool.take(timeout=timeout)
    assert str(caught.value.__cause__) == "down"
    assert pool.stats().openErrors == 1
    assert (pool.stats().idle, pool.stats().taken) == (1, 0)


def test_an_interruption_is_not_tried_again(world):
    pool = failing(1, world, [KeyboardInterrupt()])
    with pytest.raises(KeyboardInterrupt):
        pool.take()
    checkWhole(pool, world)


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


def test_of_two_that_fail_at_once_one_goes_on_and_the_other_stands_first_in_line(world):
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


@pytest.mark.parametrize("hook", ["close", "takeRepair"])
def test_after_one_went_wrong_the_next_are_opened_one_at_a_time(world, hook):
    """Perhaps it is not this one alone, so that nobody runs against a dead server in a crowd."""
    gate = Gate()
    pool = failing(2, world, [None, gate])
    if hook == "close":
        with pytest.raises(KeyError), pool.take():
            raise KeyError
    else:
        with pool.take() as resource:
            resource.script["takeRepair"] = [resource.close]
    takers = [start(pool.take) for _ in range(2)]
    gate.awaitArrival()
    awaitWaiting(pool, 1)
    assert pool.stats().idle == 1
    gate.open()
    for resource in [taker.result() for taker in takers]:
        pool.put(resource)
    checkWhole(pool, world)


def test_who_waits_is_served_by_what_comes_back(world):
    pool = failing(2, world, [None])
    taken = pool.take()
    other = failing(1, world, [])  # another pool has nothing to do with it
    for resource in list(pool._queue.closed.values()):
        resource.script["open"] = [OSError] * 99
        del resource
    waiter = start(pool.take)
    awaitTrue(lambda: pool.stats().openErrors > 0)
    awaitWaiting(pool, 1)
    pool.put(taken)
    assert waiter.result() is taken
    pool.put(taken)
    with other.take():
        pass


def test_a_time_out_in_line_is_caused_by_the_outage(world):
    gate = Gate()
    error = OSError("down")

    def holdUp():
        gate()

    pool = failing(2, world, [error, holdUp])
    trying = start(pool.take)
    gate.awaitArrival()
    with pytest.raises(PoolTimeout, match="capacity 2, taken 0, idle 1, waiting 0") as caught:
        pool.take(timeout=0)
    assert caught.value.__cause__ is error
    gate.open()
    pool.put(trying.result())
    checkWhole(pool, world)


def test_one_who_gives_up_leaves_the_trial_to_the_next_in_line(world):
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


def test_closing_the_pool_ends_the_trial(world):
    pool = failing(2, world, [OSError()] * 99)
    trying = start(pool.take)
    waiting = start(pool.take)
    awaitTrue(lambda: pool.stats().openErrors > 0)
    awaitWaiting(pool, 2)
    pool.close()
    for running in trying, waiting:
        with pytest.raises(PoolClosed, match="^pool 'p' is closed$"):
            running.result()
    checkClosed(pool, world)


def test_closing_the_pool_while_one_opens_closes_the_others(world):
    gate = Gate()

    def holdUp():
        gate()

    pool = failing(3, world, [OSError(), holdUp])
    trying = start(pool.take)
    gate.awaitArrival()
    assert pool.close() == 1
    gate.open()
    with pytest.raises(PoolClosed):
        trying.result()
    checkClosed(pool, world)


def test_recycle_ends_the_doubt_when_it_opens_one(world):
    pool = failing(2, world, [OSError()], minOpen=1)
    with pytest.raises(PoolTimeout):
        pool.take(timeout=0)
    pool.recycle()
    assert world.live == 1
    with pool.take(), pool.take():
        pass
    checkWhole(pool, world)


def test_the_pauses_double_up_to_the_longest(monkeypatch):
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    outage = Outage()
    pauses = []
    for now in range(7):
        error = OSError(now)
        outage.noteFailure(error, now)
        assert outage.error is error
        pauses.append(outage.nextTryAt - now)
    expected = [min(FIRST_PAUSE * 2 ** n, LONGEST_PAUSE) for n in range(7)]
    assert pauses == pytest.approx(expected)


def test_the_pauses_are_a_bit_at_random(monkeypatch):
    monkeypatch.setattr("random.uniform", lambda low, high: low)
    outage = Outage()
    outage.noteFailure(OSError(), 10.0)
    assert outage.nextTryAt == pytest.approx(10.0 + 0.85 * FIRST_PAUSE)


def test_giving_up_in_an_outage_counts_as_a_time_out(world):
    pool = failing(1, world, [OSError()])
    with pytest.raises(PoolTimeout):
        pool.take(timeout=0)
    assert pool.stats().timeouts == 1


def test_shrinking_while_one_is_tried_lets_the_others_go(world):
    gate = Gate()

    def holdUp():
        gate()

    pool = failing(3, world, [OSError(), holdUp])
    trying = start(pool.take)
    gate.awaitArrival()
    pool.resize(1)
    assert pool.stats().idle == 0
    gate.open()
    pool.put(trying.result())
    checkWhole(pool, world)
