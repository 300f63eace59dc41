"""What the user sees when the server ends, hangs or is cut off, and what it costs."""

import contextlib
import os
import select
import socket
import subprocess
import sys
import textwrap
import threading
import time

import psycopg2
import pytest

from queuepool import PoolTimeout, Reason
from queuepool.psycopg2 import Connection
from tests.helpers import awaitTrue, checkWhole, runTogether, start
from tests.postgres.proxy import mayDrop

#: How long the long outage lasts, in seconds: in full only where time is given.
IS_LONG = float(os.environ.get("QUEUEPOOL_TORTURE_SECONDS", 0)) >= 60
OUTAGE = 10.0 if IS_LONG else 2.0


def ask(conn, statement="select 1"):
    with conn.cursor() as cur:
        cur.execute(statement)
        return cur.fetchone()[0]


def takeAll(pool):
    """Open all connections of a pool and put them back; return psycopg2's connections."""
    with contextlib.ExitStack() as stack:
        return [stack.enter_context(pool.take()) for _ in range(pool.capacity)]


def awaitEnds(conns):
    """Wait until the server's end of each connection is closed, without reading anything."""
    for conn in conns:
        poller = select.poll()
        poller.register(conn.fileno(), getattr(select, "POLLRDHUP", select.POLLHUP))
        awaitTrue(lambda: poller.poll(0))


# -- ends of all connections

def terminate(server):
    server.value("select count(pg_terminate_backend(pid)) from pg_stat_activity "
                 "where backend_type = 'client backend' and pid <> pg_backend_pid()")


def restart(server):
    server.stop()
    server.start()


def killAndStart(server):
    server.kill()
    server.start()


def crash(server):
    server.killBackend()


ENDS = pytest.mark.parametrize("end", [terminate, restart, killAndStart, crash])


@ENDS
def test_ends_of_idle_connections_are_not_noticed_by_any_user(
        frailPool, server, end, monkeypatch):
    monkeypatch.setattr(Connection, "_ping", None)  # asks the server: not to be called
    pool = frailPool()
    old = takeAll(pool)
    end(server)
    awaitEnds(old)
    server.awaitUp()
    conns = runTogether(*[lambda: takeAndAsk(pool)] * 10)
    for _ in range(100):
        conns.append(takeAndAsk(pool))
    assert not set(map(id, conns)) & set(map(id, old))
    assert pool.stats().openErrors == 0
    checkWhole(pool)


def takeAndAsk(pool):
    with pool.take() as conn:
        assert ask(conn) == 1
        return conn


@pytest.mark.parametrize("end", [terminate, restart, killAndStart, crash, "close", "reset"])
def test_an_end_in_the_middle_of_a_query_fails_that_request_only(
        frailPool, server, proxy, proxyDsn, end):
    pool = frailPool(3, proxyDsn)
    takeAll(pool)
    used = []

    def sleep():
        with pool.take() as conn:
            used.append(conn)
            ask(conn, "select pg_sleep(60)")

    sleeping = start(sleep)
    awaitTrue(lambda: server.value(
        "select count(*) from pg_stat_activity where wait_event = 'PgSleep'"))
    getattr(proxy, end)() if isinstance(end, str) else end(server)
    with pytest.raises(psycopg2.OperationalError):
        sleeping.result()
    server.awaitUp()
    awaitTrue(lambda: proxy.held() == 0 or isinstance(end, str))
    for conn in [takeAndAsk(pool) for _ in range(10)] + takeAll(pool):
        assert conn is not used[0]
    assert pool.stats().openErrors == 0
    checkWhole(pool)


# -- the server is down

@pytest.mark.alone
def test_a_server_that_is_down_is_told_at_once(frailPool, server):
    pool = frailPool()
    server.stop()
    startedAt = time.monotonic()
    with pytest.raises(psycopg2.OperationalError, match="refused"):
        pool.take()
    assert time.monotonic() - startedAt < 1.0
    server.start()
    takeAndAsk(pool)
    checkWhole(pool)


@pytest.mark.alone
def test_an_outage_is_waited_for_with_few_attempts_and_recovered_from_at_once(
        frailPool, server, capsys):
    attempts = []

    def dsn():
        attempts.append(time.monotonic())
        return server.dsn

    pool = frailPool(10, dsn, openRetryTime=30.0, takeTimeout=30.0)
    takeAll(pool)
    opened, isOver = len(attempts), threading.Event()

    def work():
        done = 0
        while not isOver.is_set():
            takeAndAsk(pool)
            done += 1
        return done

    server.stop()
    awaitTrue(lambda: not server.isUp)
    startedAt = time.monotonic()
    workers = [start(work) for _ in range(50)]
    threading.Event().wait(OUTAGE)
    assert pool.stats().waiting >= 49  # one tries, or pauses in the line as well
    server.start()
    backAt = time.monotonic()
    failed = pool.stats().openErrors
    awaitTrue(lambda: pool.stats().open == 10)
    recovery = time.monotonic() - backAt
    isOver.set()
    done = [worker.result() for worker in workers]
    with capsys.disabled():
        print(f"\n  outage of {backAt - startedAt:.1f} s: {failed} attempts with 50 threads, "
              f"all 10 connections back {recovery:.3f} s after it, {sum(done)} requests, 0 failed")
    assert failed == len(attempts) - opened - 10
    assert failed <= 20 * (OUTAGE / 10.0 if IS_LONG else 1.0)
    assert recovery < 1.0
    checkWhole(pool)


@pytest.mark.parametrize("options", [{}, {"takeTimeout": 30.0, "openRetryTime": 0.5}])
def test_at_the_deadline_all_are_told_the_drivers_last_error(frailPool, server, options):
    pool = frailPool(**{"takeTimeout": 0.5, "openRetryTime": 30.0, **options})
    takeAll(pool)
    server.stop()

    def fail():
        startedAt = time.monotonic()
        with pytest.raises(PoolTimeout) as caught:
            pool.take(timeout=0.5)
        assert isinstance(caught.value.__cause__, psycopg2.OperationalError)
        assert "refused" in str(caught.value.__cause__)
        return time.monotonic() - startedAt

    took = runTogether(*[fail] * 20)
    assert max(took) < 1.5
    assert pool.stats().openErrors <= 10
    server.start()
    takeAndAsk(pool)
    checkWhole(pool)


def test_where_no_more_can_be_opened_all_are_served_by_what_comes_back(frailPool, server):
    server.value("create role limited login connection limit 3")
    pool = frailPool(10, user="limited", openRetryTime=30.0)

    def work():
        for _ in range(20):
            takeAndAsk(pool)

    runTogether(*[work] * 30)
    stats = pool.stats()
    assert stats.takes == 600 and stats.timeouts == 0
    assert stats.opens == stats.open == 3
    pool.close()
    server.value("drop role limited")


# -- the server, or the way to it, is silent

@pytest.mark.parametrize("silence", ["freeze", "swallow", "drop"])
def test_silence_costs_one_ping_timeout(frailPool, server, proxy, proxyDsn, silence):
    if silence == "drop" and not mayDrop():
        pytest.skip("this system does not let this user have a socket drop packets")
    ways = [proxyDsn]
    pool = frailPool(10, lambda: ways[-1], pingTime=0.05, pingTimeout=1.0)
    old = takeAll(pool)
    returnedAt = pool.clock()
    awaitTrue(lambda: pool.clock() > returnedAt + 0.1)
    if silence == "freeze":
        server.freeze()
        thaw = threading.Timer(1.1, server.thaw)  # past the time-out, while one connects
        thaw.start()
    else:
        getattr(proxy, silence)()
        ways.append(server.dsn)  # another way is free
    startedAt = time.monotonic()
    conns = [takeAndAsk(pool) for _ in range(10)] + takeAll(pool)
    took = time.monotonic() - startedAt
    assert not set(map(id, conns)) & set(map(id, old))
    assert 1.0 <= took < 4.0  # and not 10; that it was one, the closes tell
    closes = pool.stats().closesByReason
    assert closes[Reason.REPAIR] == 1 and closes[Reason.INVALIDATED] == 9


def test_what_was_only_held_up_is_no_loss(frailPool, proxy, proxyDsn):
    pool = frailPool(10, proxyDsn, pingTime=0.05)
    old = takeAll(pool)
    proxy.hold()
    asking = [start(takeAndAsk, pool) for _ in range(10)]
    threading.Event().wait(0.3)
    proxy.release()
    assert {id(each.result()) for each in asking} <= set(map(id, old))
    assert pool.stats().opens == 10


@pytest.mark.skipif(
    not mayDrop(), reason="this system does not let this user have a socket drop packets")
@pytest.mark.parametrize("options", [
    dict(tcp_user_timeout=1000, keepalives_idle=60),
    dict(tcp_user_timeout=0, keepalives_idle=1, keepalives_interval=1, keepalives_count=1),
], ids=["what is sent is not acknowledged", "nothing comes any more"])
@pytest.mark.alone
def test_a_query_on_a_cut_link_ends(frailPool, server, proxy, proxyDsn, options):
    pool = frailPool(2, proxyDsn, **options)
    takeAll(pool)
    isCut = threading.Event()

    def fail():
        with pool.take() as conn:
            if options["tcp_user_timeout"]:
                assert isCut.wait(30)  # and send into the void
            with pytest.raises(psycopg2.OperationalError):
                ask(conn, "select pg_sleep(60)")
            raise TimeoutError

    failing = start(fail)
    awaitTrue(lambda: pool.stats().taken == 1 if options["tcp_user_timeout"] else server.value(
        "select count(*) from pg_stat_activity where wait_event = 'PgSleep'"))
    proxy.drop()
    isCut.set()
    startedAt = time.monotonic()
    with pytest.raises(TimeoutError):
        failing.result()
    assert 0.9 < time.monotonic() - startedAt < 5.0
    terminate(server)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"),
                    reason="this system has no such options")
def test_by_default_a_query_on_a_cut_link_ends_within_half_a_minute(frailPool):
    with frailPool().take() as conn:
        with socket.socket(fileno=socket.dup(conn.fileno())) as line:
            def value(name):
                return line.getsockopt(socket.IPPROTO_TCP, getattr(socket, "TCP_" + name))

            assert line.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert value("USER_TIMEOUT") == 30000
            assert value("KEEPIDLE") + value("KEEPINTVL") * value("KEEPCNT") <= 30


# -- what ends a statement, and not the connection

@pytest.mark.usefixtures("posix")
@pytest.mark.parametrize("wait, error, isKept", [
    ("psycopg2.extras.wait_select", "QueryCanceled", True),  # it cancels the statement itself
    ("waitPlainly", "KeyboardInterrupt", False),  # the statement is still under way
])
def test_a_real_interruption_in_the_middle_of_a_query(server, wait, error, isKept):
    """Ctrl-C while the driver waits, which it does in Python where it has a wait callback."""
    told = runPython("""
        import os, select, signal, sys, threading
        import psycopg2.extras
        from psycopg2.extensions import POLL_OK, TRANSACTION_STATUS_IDLE
        from queuepool.psycopg2 import ConnectionPool

        def waitPlainly(conn):
            while conn.poll() != POLL_OK:
                select.select([conn], [], [], 0.1)

        def interrupt():
            with watcher.cursor() as cur:
                while True:
                    cur.execute("select count(*) from pg_stat_activity "
                                "where wait_event = 'PgSleep'")
                    if cur.fetchone()[0]:
                        return os.kill(os.getpid(), signal.SIGINT)

        psycopg2.extensions.set_wait_callback(eval(sys.argv[2]))
        pool = ConnectionPool("pool", 1, sys.argv[1])
        watcher = psycopg2.connect(sys.argv[1])
        watcher.autocommit = True
        thread = threading.Thread(target=interrupt)
        thread.start()
        try:
            with pool.take() as conn, conn.cursor() as cur:
                cur.execute("select pg_sleep(60)")
        except BaseException as error:
            print(type(error).__name__)
        thread.join()
        with pool.take() as other, other.cursor() as cur:
            print(other is conn, bool(conn.closed))
            print(other.get_transaction_status() == TRANSACTION_STATUS_IDLE)
            cur.execute("select 'mine'")
            print(cur.fetchone()[0])
        pool.close()
        """, server.dsn, wait)
    assert told.split() == [error, str(isKept), str(not isKept), "True", "mine"]
    terminate(server)  # a server does not look whether anybody waits for the answer


def runPython(script, *args):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script), *args],
        capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout
