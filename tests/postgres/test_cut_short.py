"""Connects and pings whose time is over: whom they tell something about, and whom not."""

import contextlib
import socket
import threading
import time

import psycopg2
import psycopg2.extras
import pytest
from psycopg2.extensions import connection, make_dsn, set_wait_callback

import queuepool.dbapi
from queuepool import PoolTimeout, Reason
from queuepool.session import Session
from tests.helpers import PATIENCE, awaitTrue, checkWhole, start
from tests.postgres.test_connecting import runPython
from tests.postgres.test_left_behind import value

#: Seconds by which something may be late on a machine that is busy.
LATE = 1.5


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in "PGCONNECT_TIMEOUT", "PGHOST", "PGHOSTADDR", "PGPORT":
        monkeypatch.delenv(name, raising=False)


def failing(take):
    """Take in vain, and return for how many seconds."""
    startedAt = time.monotonic()
    with pytest.raises((psycopg2.OperationalError, PoolTimeout)):
        take()
    return time.monotonic() - startedAt


# -- connect

CUT = 2.0  # seconds: the least that libpq can count


@pytest.mark.usefixtures("posix")
@pytest.mark.timeout(60)
@pytest.mark.parametrize("timeout, connectTimeout, isCut", [
    (0.1, 10, True), (CUT, 10, True), (30.0, 2, False), (None, 2, False)])
@pytest.mark.parametrize("isGreen", [False, True], ids=["plain", "green"])
def test_a_connect_that_was_cut_short_invalidates_nobody(
        makePool, dsn, silent, timeout, connectTimeout, isCut, isGreen):
    ways = [dsn]
    pool = makePool(3, lambda: ways[-1], connect_timeout=connectTimeout)
    taken = [pool.take(), pool.take()]
    generation = pool.generation
    ways.append(make_dsn(host="127.0.0.1", port=silent, user="me", dbname="db"))
    if isGreen:
        set_wait_callback(psycopg2.extras.wait_select)
    try:
        assert CUT - 0.2 < failing(lambda: pool.take(timeout)) < CUT + LATE
    finally:
        set_wait_callback(None)
    assert (pool.generation is generation) is isCut
    for each in taken:
        pool.put(each)
    assert pool.stats().open == (2 if isCut else 0)


@pytest.mark.timeout(60)
def test_a_host_that_refuses_invalidates_though_the_take_has_little_time(makePool, dsn):
    ways = [dsn]
    pool = makePool(2, lambda: ways[-1])
    taken = pool.take()
    generation = pool.generation
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    ways.append(make_dsn(host="127.0.0.1", port=port, user="me", dbname="db"))
    with pytest.raises(psycopg2.OperationalError):
        pool.take(timeout=1.0)
    assert pool.generation is not generation
    pool.put(taken)


# -- several hosts

@pytest.mark.timeout(60)
def test_hosts_of_the_environment_share_what_the_take_has(makePool, silent, monkeypatch):
    pool = makePool(dsn="user=me dbname=db")
    for name in "PGHOST", "PGHOSTADDR":
        with monkeypatch.context() as patch:
            patch.setenv(name, "127.0.0.1,127.0.0.1,127.0.0.1")
            patch.setenv("PGPORT", f"{silent},{silent},{silent}")
            assert failing(lambda: pool.take(timeout=6.0)) < 6.0 + LATE


@pytest.fixture
def slow(wire):
    """The port of a server that takes a second to answer."""
    wire.hold()
    timer = threading.Timer(CUT + 1.0, wire.release)
    timer.start()
    yield wire.port
    timer.cancel()
    timer.join()


@pytest.mark.timeout(60)
def test_under_a_wait_callback_the_next_host_has_as_much_time(
        makePool, green, full, slow, parameters):
    pool = makePool(dsn=make_dsn(
        host="127.0.0.1,127.0.0.1", port=f"{full},{slow}", user=parameters["user"],
        dbname=parameters["dbname"], connect_timeout=int(CUT)))
    startedAt = time.monotonic()
    with pool.take() as conn:
        assert value(conn, "select 1") == 1
    assert time.monotonic() - startedAt > CUT + 0.5  # the first host had its time


@pytest.mark.usefixtures("posix")
@pytest.mark.timeout(60)
def test_under_a_wait_callback_each_of_two_hosts_has_its_time(makePool, green, full, silent):
    pool = makePool(dsn=make_dsn(
        host="127.0.0.1,127.0.0.1", port=f"{full},{silent}", user="me", dbname="db",
        connect_timeout=int(CUT)))
    assert 2 * CUT - 0.2 < failing(pool.take) < 2 * CUT + LATE


@pytest.mark.usefixtures("posix")
@pytest.mark.timeout(60)
def test_under_a_wait_callback_the_limit_holds_though_the_name_took_longer(
        makePool, green, silent):
    """While libpq asks for an address there is no socket yet that could be shut down."""
    class SlowName(connection):
        def __init__(self, *args, **kwargs):
            time.sleep(CUT + 0.3)  # as libpq's getaddrinfo does, which knows no limit
            super().__init__(*args, **kwargs)

    pool = makePool(
        dsn=make_dsn(host="127.0.0.1", port=silent, user="me", dbname="db"),
        connect_timeout=int(CUT), connection_factory=SlowName)
    taker = start(failing, pool.take)
    assert taker.result(PATIENCE / 2) < 3 * CUT + LATE


# -- ping

def slowly(monkeypatch, seconds):
    """Have the thread that pings be slow when the answer has come."""
    ask = Session.ask

    def askLate(session):
        ask(session)
        time.sleep(seconds)

    monkeypatch.setattr(Session, "ask", askLate)


@pytest.mark.parametrize("timeout, pingTimeout, isCut", [(0.1, 3.0, True), (30.0, 0.1, False)])
def test_an_answer_just_when_the_limit_ends_invalidates_only_if_it_had_its_full_time(
        makePool, monkeypatch, timeout, pingTimeout, isCut):
    pool = makePool(3, pingTime=0.0, pingTimeout=pingTimeout)
    for each in [pool.take() for _ in range(3)]:
        pool.put(each)
    generation = pool.generation
    with monkeypatch.context() as patch:
        slowly(patch, 0.3)
        with contextlib.suppress(PoolTimeout):
            pool.put(pool.take(timeout))
    assert (pool.generation is generation) is isCut
    assert pool.stats().closesByReason[Reason.REPAIR] == 1
    assert pool.stats().open == (2 if isCut else 1)
    checkWhole(pool)


@pytest.mark.parametrize("pingTimeout", [float("inf"), 1e300])
def test_a_ping_without_a_limit_stops_no_limit_of_others(makePool, pingTimeout, wire, wireDsn):
    endless = makePool(pingTime=0.0, pingTimeout=pingTimeout, takeTimeout=None)
    for _ in range(3):
        with endless.take() as conn:
            value(conn, "select 1")
    assert endless.stats().opens == 1
    limited = makePool(2, wireDsn, pingTime=0.0, pingTimeout=0.2, takeTimeout=None)
    with limited.take():
        pass
    wire.hold()
    timer = threading.Timer(PATIENCE / 3, wire.release)  # else the ping would wait for ever
    timer.start()
    startedAt = time.monotonic()
    running = threading.Thread(target=lambda: limited.take(), daemon=True)
    running.start()
    awaitTrue(lambda: limited.stats().closes == 1)
    assert time.monotonic() - startedAt < PATIENCE / 4
    timer.cancel()
    wire.release()
    running.join(PATIENCE)
    with pytest.warns(ResourceWarning), limited.take():
        pass


@pytest.mark.parametrize("isCut", [False, True])
def test_one_that_its_user_closes_during_the_ping_tells_nothing_of_others(
        makePool, monkeypatch, isCut):
    pool = makePool(2, pingTime=0.0)
    taken = [pool.take(), pool.take()]
    for each in taken:
        pool.put(each)
    raws = [taken[-1].resource]
    generation = pool.generation
    limit = queuepool.dbapi.timeLimit

    def limitLate(seconds, action):
        if raws:
            raws.pop().close()
        return limit(seconds, action)

    monkeypatch.setattr(queuepool.dbapi, "timeLimit", limitLate)
    pool.put(pool.take(timeout=1.0 if isCut else None))
    assert pool.generation is generation
    checkWhole(pool)


# -- no file descriptors

EXHAUSTED = """
    import contextlib, resource, sys, threading
    import psycopg2
    from queuepool.psycopg2 import ConnectionPool
    from tests.helpers import PATIENCE, awaitTrue, start


    @contextlib.contextmanager
    def exhausted():
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, limits[1]))
        with contextlib.ExitStack() as files:
            try:
                with contextlib.suppress(OSError):
                    while True:
                        files.enter_context(open("/dev/null"))
                yield
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)


    def sleep(raw):
        with contextlib.suppress(psycopg2.Error), raw.cursor() as cur:
            cur.execute("select pg_sleep(60)")


    pool = ConnectionPool("pool", 1, sys.argv[1], pingTime=0.0)
    with pool.take():
        pass
    with exhausted():
        for _ in range(2):
            with pool.take() as conn, conn.cursor() as cur:
                cur.execute("select 1")
        assert pool.stats().opens == 1
        taken = pool.take()
        raw = taken.resource
        raw.autocommit = True  # so that its BEGIN is not taken for the statement
        running = start(sleep, raw)
        awaitTrue(lambda: raw.get_transaction_status() == 1)  # active
        pool.put(taken)
        running.result(PATIENCE / 3)  # it has ended at once
        stats = pool.stats()
        assert stats.closes == 1 and stats.closeErrors == 0, stats
    with pool.take() as conn:
        assert conn is not raw
    pool.close()
"""


@pytest.mark.timeout(60)
def test_without_file_descriptors_a_ping_and_a_busy_close_work(dsn):
    pytest.importorskip("resource", reason="this system has no such limit")
    assert runPython(EXHAUSTED, dsn) == ""
