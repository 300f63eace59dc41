"""The deadline of a take reaches libpq: how long a connect and a ping may take."""

import logging
import socket
import threading
import time

import psycopg2
import pytest
from psycopg2.extensions import make_dsn, parse_dsn

from queuepool import PoolTimeout, Reason
from queuepool.libpq import CONNECT_DEFAULTS, LEAST_CONNECT_TIMEOUT
from queuepool.psycopg2 import ConnectionPool
from queuepool.watchdog import Watchdog
from tests.helpers import awaitWaiting, checkWhole, runTogether, start

#: Seconds by which something may be late on a machine that is busy.
LATE = 2.0


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.delenv("PGCONNECT_TIMEOUT", raising=False)


@pytest.fixture
def silent():
    """The DSN of a host that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as listener:
        yield make_dsn(host="127.0.0.1", port=listener.getsockname()[1], user="me", dbname="db")


def twice(dsn):
    port = parse_dsn(dsn)["port"]
    return make_dsn(dsn, host="127.0.0.1,127.0.0.1", port=f"{port},{port}")


def failing(error, *args, take=lambda pool: pool.take(), **options):
    """Return a target that takes in vain and returns for how many seconds."""
    def target():
        with ConnectionPool("pool", 1, *args, **options) as pool:
            startedAt = time.monotonic()
            with pytest.raises(error, match="timeout expired|was not ready|no resource came free|"
                                            "nothing could be opened"):
                take(pool)
            return time.monotonic() - startedAt
    return target


# -- connect

@pytest.mark.timeout(60)
def test_a_silent_host_takes_no_longer_than_the_take_has(silent):
    """It takes what libpq can do at least, which counts in whole seconds."""
    def take(pool):
        pool.take(timeout=1.0)

    lost = psycopg2.OperationalError
    seconds = runTogether(
        failing(lost, silent, take=take),
        failing(lost, silent, take=lambda pool: pool.take(timeout=0)),
        failing(lost, silent, takeTimeout=1.0),
        failing(lost, silent, take=take, connect_timeout=30),
        failing(lost, lambda: make_dsn(silent, connect_timeout=30), take=take),
        failing(lost, make_dsn(silent, connect_timeout=0), take=take),
        failing(PoolTimeout, silent, take=take, openRetryTime=30.0))
    assert min(seconds) > 0.9 * LEAST_CONNECT_TIMEOUT
    assert max(seconds) < LEAST_CONNECT_TIMEOUT + LATE


@pytest.mark.timeout(60)
def test_two_silent_hosts_share_what_the_take_has(silent):
    [seconds] = runTogether(failing(
        psycopg2.OperationalError, twice(silent), take=lambda pool: pool.take(timeout=5.0)))
    assert seconds < 5.0 + LATE


@pytest.mark.timeout(60)
def test_a_shorter_connect_timeout_stays(silent):
    seconds = runTogether(
        failing(psycopg2.OperationalError, silent, connect_timeout=2),
        failing(psycopg2.OperationalError, silent, connect_timeout=2,
                take=lambda pool: pool.take(timeout=None)))
    assert max(seconds) < LEAST_CONNECT_TIMEOUT + LATE


class Refusing:
    """Stands for psycopg2.connect: refuses, and notes which connect_timeout it was given."""

    def __init__(self, clock, errors):
        self.given = []
        self._clock = clock
        self._errors = errors
        self._connect = psycopg2.connect

    def __call__(self, *args, **kwargs):
        self.given.append(kwargs.get("connect_timeout"))
        if self._errors:
            self._clock.advance(self._errors.pop(0))
            raise psycopg2.OperationalError("refused by the test")
        return self._connect(*args, **kwargs)


@pytest.fixture
def refuse(clock, monkeypatch):
    def refuse(*seconds):
        """Refuse as many connects, each after so many seconds, and let all others through."""
        refusing = Refusing(clock, list(seconds))
        monkeypatch.setattr(psycopg2, "connect", refusing)
        return refusing.given
    return refuse


@pytest.mark.parametrize("timeout, expected", [
    (7.9, 7), (2.0, 2), (0.3, LEAST_CONNECT_TIMEOUT), (0, LEAST_CONNECT_TIMEOUT), (30.0, 10),
    (None, 10)])
def test_libpq_gets_what_the_take_has(makePool, clock, refuse, timeout, expected):
    given = refuse()
    with makePool(clock=clock).take(timeout=timeout):
        assert given == [expected]


def test_after_a_wait_in_line_libpq_gets_less(makePool, clock, refuse):
    pool = makePool(clock=clock)
    taken = pool.take()
    given = refuse()
    waiter = start(pool.take, 9.0)
    awaitWaiting(pool, 1)
    clock.advance(4.5)
    taken.resource.close()  # by its user
    pool.put(taken)
    pool.put(waiter.result())
    assert given == [4]
    checkWhole(pool)


def test_after_a_failed_connect_libpq_gets_less(makePool, clock, refuse):
    pool = makePool(clock=clock, openRetryTime=30.0)
    given = refuse(4.0)
    taker = start(pool.take, 9.0)
    awaitWaiting(pool, 1)
    clock.advance(1.0)
    pool.put(taker.result())
    assert given == [9, 4]


def test_where_no_take_opens_libpq_gets_what_that_call_has(makePool, clock, refuse):
    pool = makePool(clock=clock, takeTimeout=3.0, minOpen=1)
    given = refuse()
    pool.recycle()
    pool.invalidate()
    pool.warm()
    assert given == [CONNECT_DEFAULTS["connect_timeout"]] * 2
    pool.invalidate()
    pool.warm(5.0)
    assert given[2:] == [5]


def test_a_user_who_opens_again_himself_has_what_is_set(makePool, clock, refuse):
    pool = makePool(clock=clock)
    taken = pool.take(timeout=3.0)
    clock.advance(2.5)
    taken.close()
    given = refuse()
    taken.open()
    assert given == [CONNECT_DEFAULTS["connect_timeout"]]
    pool.put(taken)


# -- ping

def takeAll(pool):
    """Take all connections and put them back; return their backends, the last put first."""
    taken = [pool.take() for _ in range(pool.capacity)]
    for each in taken:
        pool.put(each)
    return [each.resource.get_backend_pid() for each in reversed(taken)]


def closes(pool):
    return {reason: count for reason, count in pool.stats().closesByReason.items() if count}


@pytest.mark.timeout(60)
def test_a_ping_that_the_take_cut_short_tells_of_one_connection_only(makePool, wire, wireDsn):
    """The server may only be slow. The others are as good as before."""
    pool = makePool(3, wireDsn, pingTime=0.0, pingTimeout=20.0)
    before = takeAll(pool)
    wire.hold()
    startedAt = time.monotonic()
    with pytest.raises(PoolTimeout):
        pool.take(timeout=0.2)
    assert time.monotonic() - startedAt < 0.2 + LATE
    assert closes(pool) == {Reason.REPAIR: 1}
    wire.release()
    after = [pool.take() for _ in range(3)]
    assert [each.resource.get_backend_pid() for each in after[:2]] == before[1:]
    assert closes(pool) == {Reason.REPAIR: 1}
    for each in after:
        pool.put(each)
    checkWhole(pool)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("timeout", [20.0, None])
def test_a_ping_that_had_its_full_time_tells_of_all(makePool, wire, wireDsn, dsn, timeout):
    ways = [wireDsn]
    pool = makePool(3, lambda: ways[-1], pingTime=0.0, pingTimeout=0.2)
    before = takeAll(pool)
    wire.hold()
    ways.append(dsn)
    taken = [pool.take(timeout=timeout) for _ in range(3)]
    assert not {each.resource.get_backend_pid() for each in taken} & set(before)
    assert closes(pool) == {Reason.REPAIR: 1, Reason.INVALIDATED: 2}
    for each in taken:
        pool.put(each)


def test_a_ping_that_is_answered_in_little_time_is_fine(makePool):
    pool = makePool(2, pingTime=0.0)
    before = takeAll(pool)
    assert set(takeAll(pool)) == set(before)
    for timeout in 0, 0.01, 20.0, None:
        with pool.take(timeout=timeout):
            pass
    assert closes(pool) == {}


# -- where no thread can be started

def noThread(thread):
    raise RuntimeError("can't start new thread")


@pytest.fixture
def noThreads(monkeypatch):
    """Return a function after which no thread can be started; the watchdog has none yet."""
    def forbid():
        monkeypatch.setattr("queuepool.watchdog._watchdog", Watchdog())
        monkeypatch.setattr(threading.Thread, "start", noThread)
    return forbid


@pytest.mark.parametrize("options", [{}, {"openRetryTime": 5.0}], ids=str)
def test_where_no_thread_can_be_started_a_ping_opens_anew_quietly(
        makePool, clock, noThreads, caplog, options):
    pool = makePool(2, clock=clock, **options)
    old, kept = pool.take(), pool.take()
    pids = [each.resource.get_backend_pid() for each in (old, kept)]
    pool.put(old)
    clock.advance(31.0)
    pool.put(kept)
    noThreads()
    caplog.set_level(logging.INFO, "queuepool")
    with pool.take() as conn, pool.take() as other:
        assert conn.get_backend_pid() == pids[1]
        assert other.get_backend_pid() not in pids
    assert closes(pool) == {Reason.REPAIR: 1}
    assert not caplog.records
    checkWhole(pool)


def test_where_no_thread_can_be_started_all_due_ones_are_opened_anew(
        makePool, clock, noThreads, caplog):
    pool = makePool(3, clock=clock)
    before = takeAll(pool)
    clock.advance(31.0)
    noThreads()
    for _ in range(3):
        assert not set(takeAll(pool)) & set(before)
    assert closes(pool) == {Reason.REPAIR: 3}
    assert not caplog.records
    checkWhole(pool)
