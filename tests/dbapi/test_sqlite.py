"""Connections to SQLite: to a file, and to a database in memory that they share."""

import contextlib
import os
import sqlite3
import sys

import pytest

from queuepool import PoolError
from queuepool.dbapi import ConnectionPool
from tests.helpers import checkWhole, start

THREADS = 50


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "test.db"
    with contextlib.closing(sqlite3.connect(path)) as conn:
        conn.execute("pragma journal_mode = wal")
        conn.execute("create table t (n int)")
    return path


@pytest.fixture
def makePool(path):
    with contextlib.ExitStack() as stack:
        def make(capacity=1, database=path, **kwargs):
            kwargs.setdefault("check_same_thread", False)
            return stack.enter_context(
                ConnectionPool("db", capacity, sqlite3.connect, database, **kwargs))
        yield make


def count(conn):
    return conn.execute("select count(*) from t").fetchone()[0]


def insertInThreads(pool):
    """Insert two rows in each of many threads, of which one is rolled back."""
    def work():
        with pool.take() as conn:
            conn.execute("begin immediate")
            conn.execute("insert into t values (1)")
            conn.commit()
        with pool.take() as conn:
            conn.execute("begin immediate")
            conn.execute("insert into t values (2)")

    for running in [start(work) for _ in range(THREADS)]:
        running.result()
    with pool.take() as conn:
        assert count(conn) == THREADS


def test_many_threads_write_to_a_file(makePool):
    pool = makePool(5, timeout=30.0)
    insertInThreads(pool)
    assert pool.stats().opens <= 5 and pool.stats().closes == 0
    checkWhole(pool)


def test_many_threads_share_a_database_in_memory(makePool):
    # It lasts as long as one of its connections, and of those that wait for its tables one is
    # refused at once, so that there is only one.
    pool = makePool(1, "file:shared?mode=memory&cache=shared", uri=True, maxIdleTime=None,
                    maxOpenTime=None, maxUsageCount=None,
                    configure=lambda conn: conn.execute("create table t (n int)"))
    insertInThreads(pool)
    assert pool.stats().opens == 1


def test_many_threads_read_a_database_in_memory(makePool):
    uri = "file:read?mode=memory&cache=shared"
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as keeper:
        keeper.execute("create table t (n int)")
        keeper.execute("insert into t values (1)")
        keeper.commit()
        pool = makePool(5, uri, uri=True)

        def work():
            with pool.take() as conn:
                return count(conn)

        assert [each.result() for each in [start(work) for _ in range(THREADS)]] == [1] * THREADS
        checkWhole(pool)
        pool.close()


@pytest.mark.parametrize("arguments", [{}, {"check_same_thread": True}])
def test_a_connection_that_is_for_one_thread_only_is_refused(path, arguments):
    pool = ConnectionPool("db", 1, sqlite3.connect, path, openRetryTime=30.0, **arguments)
    with pytest.raises(PoolError, match=r"pass check_same_thread=False .*\[queuepool:one-thread\]"):
        pool.take()
    assert pool.stats().open == 0


def test_it_is_also_refused_if_a_function_of_ones_own_connects(path):
    with pytest.raises(PoolError, match="check_same_thread=False"):
        ConnectionPool("db", 1, lambda: sqlite3.connect(path)).take()


@pytest.mark.parametrize("arguments", [
    {}, {"isolation_level": None},
    *([{"autocommit": True}, {"autocommit": False}] if sys.version_info >= (3, 12) else [])])
def test_what_was_begun_is_rolled_back(makePool, arguments):
    pool = makePool(**arguments)
    with pool.take() as conn:
        if not conn.in_transaction:
            conn.execute("begin")
        conn.execute("insert into t values (1)")
    assert conn.in_transaction is (arguments.get("autocommit") is False)
    with pool.take() as again:
        assert again is conn and count(conn) == 0


def test_what_was_committed_stays(makePool):
    pool = makePool()
    with pool.take() as conn:
        conn.execute("insert into t values (1)")
        conn.commit()
    with pool.take() as conn:
        assert count(conn) == 1


def test_a_clean_connection_is_not_rolled_back(makePool):
    class Counting(sqlite3.Connection):
        rollbacks = 0

        def rollback(self):
            self.rollbacks += 1
            super().rollback()

    pool = makePool(factory=Counting)
    with pool.take() as conn:
        count(conn)
    assert conn.rollbacks == 0
    with pool.take() as conn:
        conn.execute("insert into t values (1)")
    assert conn.rollbacks == 1


def test_settings_are_set_back(makePool):
    pool = makePool(configure=lambda conn: setattr(conn, "row_factory", sqlite3.Row))
    with pool.take() as conn:
        conn.row_factory, conn.isolation_level, conn.text_factory = None, None, bytes
    with pool.take() as again:
        assert again is conn and conn.row_factory is sqlite3.Row
        assert conn.isolation_level == "" and conn.text_factory is str


def test_an_error_of_a_statement_keeps_the_connection(makePool):
    pool = makePool()
    with pytest.raises(sqlite3.OperationalError), pool.take() as conn:
        conn.execute("select * from nothing")
    with pytest.raises(sqlite3.IntegrityError), pool.take() as again:
        again.execute("create temp table u (n int unique)")
        again.executemany("insert into u values (?)", [(1,), (1,)])
    with pool.take() as third:
        assert conn is again is third
    assert pool.stats().closes == 0


def test_a_misspelt_option_is_told(path):
    with pytest.raises(TypeError, match="'takeTimeuot' is neither .* did you mean 'takeTimeout'"):
        ConnectionPool("db", 1, sqlite3.connect, path, takeTimeuot=3).take()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_process_opens_its_own(makePool):
    pool = makePool()
    with pool.take() as conn:
        conn.execute("insert into t values (1)")
        conn.commit()
        child = os.fork()
        if not child:
            with pool.take() as other:
                os._exit(0 if other is not conn and count(other) == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with pool.take() as again:
        assert again is conn and count(conn) == 1
