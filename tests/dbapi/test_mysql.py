"""Connections of PyMySQL to a MariaDB that is killed and started again."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pymysql = pytest.importorskip("pymysql", reason="PyMySQL is not installed")

from queuepool import PoolTimeout, Reason  # noqa: E402
from queuepool.dbapi import ConnectionPool  # noqa: E402
from tests.dbapi.mariadb import Server, programs  # noqa: E402
from tests.helpers import FakeClock, awaitTrue, checkWhole, start  # noqa: E402
from tests.recipes import pythonBlocks  # noqa: E402

pytestmark = [pytest.mark.usefixtures("posix"), pytest.mark.skipif(
    None in programs(), reason="MariaDB is not installed (Debian: apt-get install mariadb-server)")]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server():
    with Server() as server:
        server.run("create database test")
        server.arguments["database"] = "test"
        server.run("create table t (n int) engine = innodb")
        yield server


def isUsable(conn):
    conn.ping(reconnect=False)


@pytest.fixture
def makePool(server):
    made = []

    def make(capacity=1, **kwargs):
        made.append(ConnectionPool("db", capacity, pymysql.connect, **{
            "isUsable": isUsable, **server.arguments, **kwargs}))
        return made[-1]

    yield make
    for pool in made:
        pool.close()


def value(conn, statement):
    with conn.cursor() as cur:
        cur.execute(statement)
        return cur.fetchone()[0]


def endAll(server):
    """End all sessions, as wait_timeout does."""
    with pymysql.connect(**server.arguments, autocommit=True) as conn, conn.cursor() as cur:
        cur.execute("select id from information_schema.processlist where id <> connection_id() "
                    "and user = 'root'")
        for number, in cur.fetchall():
            cur.execute(f"kill {number}")
        awaitTrue(lambda: not cur.execute(
            "select id from information_schema.processlist where id <> connection_id() "
            "and user = 'root'"))


def test_what_was_not_committed_is_rolled_back(makePool):
    pool = makePool()
    with pool.take() as conn, conn.cursor() as cur:
        cur.execute("insert into t values (1)")
    with pool.take() as again:
        assert again is conn and value(conn, "select count(*) from t") == 0
    checkWhole(pool)


@pytest.mark.parametrize("isAutocommit", [False, True])
def test_a_changed_autocommit_is_set_back(makePool, isAutocommit):
    pool = makePool(autocommit=isAutocommit)
    with pool.take() as conn:
        conn.autocommit(not isAutocommit)
        conn.begin()
        value(conn, "select 1")
    with pool.take() as again:
        assert again is conn and conn.get_autocommit() is isAutocommit
        assert value(conn, "select @@autocommit") == isAutocommit
        assert not value(conn, "select @@in_transaction") or not isAutocommit


def test_what_is_usable_asked_leaves_no_old_snapshot(makePool, server):
    def count(conn):
        return value(conn, "select count(*) from snapshot")

    server.run("create table snapshot (n int) engine = innodb")
    pool = makePool(isUsable=count)
    with pytest.raises(pymysql.OperationalError), pool.take() as conn:
        raise pymysql.OperationalError(1205, "Lock wait timeout exceeded")
    server.run("insert into snapshot values (1)")
    with pool.take() as again:
        assert again is conn and count(conn) == 1


def test_sessions_that_ended_while_idle_for_long_are_not_noticed_by_users(makePool, server):
    clock = FakeClock()
    pool = makePool(3, clock=clock)
    taken = [pool.take() for _ in range(3)]
    for each in taken:
        pool.put(each)
    endAll(server)
    clock.advance(31.0)
    for _ in range(4):
        with pool.take() as conn:
            assert value(conn, "select 1") == 1
    reasons = pool.stats().closesByReason
    assert reasons[Reason.REPAIR] == 1 and reasons[Reason.INVALIDATED] == 2


def test_a_session_that_ends_in_use_is_replaced(makePool, server, caplog):
    pool = makePool()
    with pytest.raises(pymysql.OperationalError), pool.take() as conn:
        endAll(server)
        value(conn, "select 1")
    with pool.take() as other:
        assert other is not conn and value(other, "select 1") == 1
    assert not [each for each in caplog.records if each.levelname == "WARNING"]


def test_an_error_of_a_statement_keeps_the_connection(makePool):
    pool = makePool()
    for statement in "select nothing", "select * from nothing", "nonsense":
        with pytest.raises(pymysql.MySQLError), pool.take() as conn:
            value(conn, statement)
    with pool.take() as again:
        assert again is conn


def test_a_server_that_is_killed_and_started_again(makePool, server):
    pool = makePool(5, openRetryTime=20.0)
    isDown, failures = [], []

    def work():
        served = 0
        while served < 20 or not isDown:
            try:
                with pool.take() as conn:
                    served += value(conn, "select 1")
            except pymysql.MySQLError as error:  # in the middle of a statement
                failures.append(error)

    workers = [start(work) for _ in range(10)]
    awaitTrue(lambda: pool.stats().takes > 50)
    server.kill()
    awaitTrue(lambda: failures or pool.stats().waiting)
    server.start()
    isDown.append(True)
    for worker in workers:
        worker.result()
    assert len(failures) <= 5 + pool.stats().capacity  # about once for each connection
    checkWhole(pool)


def test_a_server_that_is_down_is_told(makePool, server):
    pool = makePool(openRetryTime=0.2)
    server.kill()
    try:
        with pytest.raises(PoolTimeout, match="last attempt to open one failed with "
                                              "OperationalError") as caught:
            pool.take()
        assert isinstance(caught.value.__cause__, pymysql.OperationalError)
    finally:
        server.start()


@pytest.mark.parametrize("wrong", [{"password": "s3cr3t"}, {"database": "nothing"}])
def test_what_stays_wrong_is_told_at_once(makePool, wrong):
    pool = makePool(openRetryTime=60.0, **wrong)
    with pytest.raises(pymysql.OperationalError) as caught:
        pool.take(timeout=60.0)
    assert "s3cr3t" not in str(caught.value)


def test_a_frozen_server_costs_the_drivers_own_time_limit(makePool, server):
    pool = makePool(read_timeout=1, write_timeout=1)
    with pool.take() as conn:
        value(conn, "select 1")
        server.signal(signal.SIGSTOP)
    server.signal(signal.SIGCONT)
    assert not conn.open
    checkWhole(pool)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_the_end_of_a_child_process_is_not_the_end_of_its_parents_session(server):
    subprocess.run([sys.executable, "-c", textwrap.dedent(f"""
        import os, sys, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        import pymysql
        from queuepool.dbapi import ConnectionPool

        def identity(conn):
            with conn.cursor() as cur:
                cur.execute("select connection_id()")
                return cur.fetchone()[0]

        pool = ConnectionPool("db", 1, pymysql.connect, **{server.arguments!r})
        with pool.take() as conn:
            mine = identity(conn)
        child = os.fork()
        with pool.take() as conn:
            assert (identity(conn) == mine) is bool(child)
        if child:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            with pool.take() as conn:
                assert identity(conn) == mine
        """)], check=True, timeout=30, env={**os.environ, "PYTHONPATH": str(ROOT)})


def test_the_readmes_example_works(server):
    block = pythonBlocks()["Other databases"][1]
    given = 'host="db", user="app", password=password'
    assert given in block
    names = {"arguments": server.arguments}
    exec(block.replace(given, "**arguments"), names)
    with names["pool"] as pool, pool.take() as conn, conn.cursor() as cur:
        cur.execute("SELECT 6 * 7")
        assert cur.fetchone() == (42,)
