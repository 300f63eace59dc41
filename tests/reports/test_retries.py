"""openRetryTime: what may help is tried again, with one log line each; what cannot is told at once.

People reported of other pools that a wrong password was tried for half a minute, and that an
outage filled the log with a traceback for each attempt.
"""

import logging

import pytest

from queuepool import Pool, PoolTimeout
from queuepool.core.breaker import LONGEST_PAUSE
from tests.helpers import (PATIENCE, FakeResource, Gate, awaitTrue, awaitWaiting, checkClosed,
                           checkWhole, start)


@pytest.fixture(autouse=True)
def wakeUpsOnly(monkeypatch):
    """Have a wake-up that is lost never be made good."""
    monkeypatch.setattr("queuepool.core.idle.LOOK_AGAIN_TIME", 100.0 * PATIENCE)


class Wrong(Exception):
    """What stays wrong, such as a password."""


class Judging(FakeResource):
    """A resource that knows what stays wrong."""

    def isTransient(self, error):
        self.calls.append(error)
        return not isinstance(error, Wrong)


@pytest.fixture
def makePool(isSeeded, world):
    def make(capacity, errors, kind=Judging, **options):
        """Make a pool whose opens do what is popped from ``errors``."""
        def play():
            error = errors.pop(0) if errors else None
            if callable(error):
                error = error()
            if error is not None:
                raise error

        def build(name):
            return kind(name, world, open=[play] * 999)

        pool = Pool("p", capacity, factory=None if isSeeded else build,
                    **{"openRetryTime": PATIENCE, **options})
        for number in range(capacity if isSeeded else 0):
            pool.put(build(f"p-{number}"))
        return pool
    return make


def lines(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# -- what stays wrong

def test_what_stays_wrong_is_raised_at_once(makePool, world, caplog):
    wrong = Wrong("no such user")
    pool = makePool(1, [wrong])
    with pytest.raises(Wrong) as caught:
        pool.take()
    assert caught.value is wrong
    stats = pool.stats()
    assert (stats.openErrors, stats.opens, stats.timeouts) == (1, 0, 0)
    assert (stats.idle, stats.taken, stats.waiting) == (1, 0, 0)
    assert not lines(caplog)
    assert "reconnecting" not in repr(pool)
    checkWhole(pool, world)  # the next take tries again
    checkClosed(pool, world)


def test_each_take_is_told(makePool, world):
    pool = makePool(2, [Wrong(number) for number in range(10)])
    for number in range(10):
        with pytest.raises(Wrong, match=str(number)):
            pool.take(timeout=0)
    checkWhole(pool, world)


def test_what_stays_wrong_with_one_does_not_hold_up_the_others(makePool, world):
    pool = makePool(3, [None, Wrong()])
    with pool.take():
        with pytest.raises(Wrong):
            pool.take(timeout=0)
        # No pause, and not one at a time: these are opened at once.
        with pool.take(timeout=0), pool.take(timeout=0):
            assert pool.stats().open == 3
    checkWhole(pool, world)


def test_two_are_tried_at_once_after_what_stays_wrong(makePool, world):
    gates = [Gate(), Gate()]
    pool = makePool(2, [Wrong(), *gates])
    with pytest.raises(Wrong):
        pool.take()
    takers = [start(pool.take) for _ in gates]
    for gate in gates:
        gate.awaitArrival()
    for gate in gates:
        gate.open()
    for taker in takers:
        pool.put(taker.result())
    checkWhole(pool, world)


def test_what_stays_wrong_ends_an_outage_for_its_taker_only(makePool, world):
    """Who waits while it is tried tries next, without a pause."""
    gate = Gate()

    def failLate():
        gate()
        return Wrong()

    pool = makePool(1, [OSError(), failLate])
    probe = start(pool.take)
    gate.awaitArrival()  # at its second attempt
    waiter = start(pool.take)
    awaitWaiting(pool, 1)
    gate.open()
    with pytest.raises(Wrong):
        probe.result()
    pool.put(waiter.result())
    stats = pool.stats()
    assert (stats.openErrors, stats.opens, stats.timeouts) == (2, 1, 0)
    checkWhole(pool, world)


def test_one_who_waits_is_served_after_what_stays_wrong(makePool, world):
    gate = Gate()

    def failLate():
        gate()
        return Wrong()

    pool = makePool(1, [failLate])
    taker = start(pool.take)
    gate.awaitArrival()
    waiter = start(pool.take)
    awaitWaiting(pool, 1)
    gate.open()
    with pytest.raises(Wrong):
        taker.result()
    pool.put(waiter.result())
    checkWhole(pool, world)


def test_the_resource_is_asked_for_each_failure(makePool, world):
    errors = [OSError(1), OSError(2), Wrong(3)]
    pool = makePool(1, list(errors), openRetryTime=PATIENCE)
    with pytest.raises(Wrong):
        pool.take()
    with pool.take() as resource:
        assert [call for call in resource.calls if isinstance(call, Exception)] == errors


def test_without_open_retry_time_nobody_is_asked(makePool, world):
    pool = makePool(1, [OSError()], openRetryTime=0.0)
    with pytest.raises(OSError):
        pool.take()
    with pool.take() as resource:
        assert not [call for call in resource.calls if isinstance(call, Exception)]


def test_by_default_all_may_help(makePool, world):
    pool = makePool(1, [Wrong(), ValueError()], kind=FakeResource)
    with pool.take():
        assert pool.stats().openErrors == 2


def test_an_interruption_is_not_asked_about(makePool, world):
    pool = makePool(1, [KeyboardInterrupt])
    with pytest.raises(KeyboardInterrupt):
        pool.take()
    with pool.take() as resource:
        assert not [call for call in resource.calls if isinstance(call, BaseException)]
    checkWhole(pool, world)


class Doubting(FakeResource):
    """A resource whose isTransient fails itself."""

    def isTransient(self, error):
        raise LookupError("I do not know")


def test_who_cannot_tell_counts_as_yes_and_is_logged(makePool, world, caplog):
    pool = makePool(1, [OSError("down")], kind=Doubting)
    with pool.take():
        assert pool.stats().openErrors == 1
    told, retry = lines(caplog)
    assert told == "pool p: isTransient of 'p-0' failed [queuepool:hook-failed]"
    assert "I do not know" in caplog.text and "tried again" in retry
    checkWhole(pool, world)


def test_an_interruption_while_it_is_asked_loses_nothing(makePool, world):
    class Interrupted(FakeResource):
        def isTransient(self, error):
            raise KeyboardInterrupt

    pool = makePool(1, [OSError("down")], kind=Interrupted)
    with pytest.raises(KeyboardInterrupt):
        pool.take()
    checkWhole(pool, world)


def test_a_recycler_that_keeps_some_open_is_not_ended_by_what_stays_wrong(makePool, world, caplog):
    pool = makePool(2, [Wrong("no such user")], minOpen=1)
    pool.recycle()
    assert pool.stats().open == 0 and "no such user" in caplog.text
    pool.recycle()
    assert pool.stats().open == 1
    checkWhole(pool, world)


def test_warm_tells_what_stays_wrong(makePool, world):
    pool = makePool(2, [Wrong()], minOpen=1)
    with pytest.raises(Wrong):
        pool.warm()
    assert pool.warm() == 1
    checkWhole(pool, world)


# -- what the log says

def test_each_attempt_is_one_line_of_the_log(makePool, world, caplog):
    caplog.set_level(logging.DEBUG, "queuepool")
    pool = makePool(1, [OSError("it is down\nfor long"), ConnectionError("refused"), OSError()])
    with pool.take():
        pass
    assert lines(caplog) == [
        f"pool p: opening 'p-0' failed, it is tried again: {what} [queuepool:cannot-open]"
        for what in ("OSError: it is down", "ConnectionError: refused", "OSError: ")]
    for record in caplog.records:
        assert not record.exc_info and not record.stack_info
        assert "\n" not in record.getMessage()
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("text", ["100 %", "%s %d %(name)s", "\n\nlate", "\x00", "é\u2028x"])
def test_any_text_of_an_error_is_logged(makePool, world, caplog, text):
    pool = makePool(1, [OSError(text)])
    with pool.take():
        pass
    [line] = lines(caplog)
    assert line.startswith("pool p: opening 'p-0' failed, it is tried again: OSError: ")
    assert len(line.splitlines()) == 1


def test_an_error_that_has_no_text_is_tried_again_as_well(makePool, world, caplog):
    class Mute(Exception):
        def __str__(self):
            raise ValueError("no text")

    pool = makePool(1, [Mute()])
    with pool.take():
        pass
    [line] = lines(caplog)
    assert "'p-0'" in line and "Mute" in line
    checkWhole(pool, world)


# -- what a time-out says

def test_a_time_out_has_the_last_failure_as_its_cause(makePool, world, clock, caplog):
    errors = [OSError(number) for number in range(20)]
    pool = makePool(1, list(errors), openRetryTime=1.0, clock=clock)
    taker = start(pool.take)
    for count in range(1, 20):
        awaitTrue(lambda: pool.stats().openErrors >= count or not taker.thread.is_alive())
        if not taker.thread.is_alive():
            break
        awaitTrue(lambda: pool.stats().waiting or not taker.thread.is_alive())
        clock.advance(LONGEST_PAUSE)
    with pytest.raises(PoolTimeout, match="the last attempt .* failed with OSError") as caught:
        taker.result()
    failed = pool.stats().openErrors
    assert 2 <= failed < 5
    assert caught.value.__cause__ is errors[failed - 1]
    assert len(lines(caplog)) == failed
    assert pool.stats().timeouts == 1


def test_a_time_out_after_what_stays_wrong_is_not_caused_by_it(makePool, world):
    pool = makePool(1, [Wrong()])
    with pytest.raises(Wrong):
        pool.take()
    with pool.take():
        with pytest.raises(PoolTimeout) as caught:
            pool.take(timeout=0.01)
    assert caught.value.__cause__ is None
    checkWhole(pool, world)
