"""What the user sees when the server ends, hangs or is cut off, and what it costs."""

import contextlib
import os
import select
import threading
import time

import psycopg2
import pytest

from queuepool.psycopg2 import Connection
from tests.helpers import awaitTrue, checkWhole, runTogether, start

#: How long the long outage lasts, in seconds: in full only where time is given.
IS_LONG = float(os.environ.get("QUEUEPOOL_TORTURE_SECONDS", 10)) >= 60
OUTAGE = 10.0 if IS_LONG else 3.0


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
    monkeypatch.setattr(Connection, "_answers", None)  # asks the server: not to be called
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
