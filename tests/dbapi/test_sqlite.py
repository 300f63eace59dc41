"""Connections to SQLite: to a file, and to a database in memory that they share."""

import contextlib
import os
import sqlite3
import sys

import pytest

from queuepool import PoolError
from queuepool.dbapi import ConnectionPool
from tests.helpers import FakeClock, checkWhole, inChild, start

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


@pytest.mark.parametrize("statement", ["select nonsense", "nonsense"])
def test_an_error_in_the_block_is_looked_at_in_silence(makePool, caplog, statement):
    pool = makePool()
    with pytest.raises(sqlite3.OperationalError), pool.take() as conn:
        conn.execute(statement)
    with pytest.raises(ValueError), pool.take() as again:
        raise ValueError
    assert again is conn and not caplog.records


def test_an_interface_error_closes_it(makePool):
    pool = makePool()
    with pytest.raises(sqlite3.InterfaceError), pool.take():
        raise sqlite3.InterfaceError
    assert pool.stats().open == 0


@pytest.mark.parametrize("isLate", [False, True])
def test_one_that_its_user_closed_is_replaced_in_silence(makePool, caplog, isLate):
    pool = makePool()
    with pool.take() as conn:
        if not isLate:
            conn.close()
    conn.close()
    with pool.take() as other:
        assert count(other) == 0
    assert not caplog.records
    checkWhole(pool)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there is no autocommit")
@pytest.mark.parametrize("isolationLevel", [None, "DEFERRED"])
@pytest.mark.parametrize("own, changed", [
    (own, changed) for own in (sqlite3.LEGACY_TRANSACTION_CONTROL, False, True)
    for changed in (-1, False, True)] if sys.version_info >= (3, 12) else [])
def test_a_changed_autocommit_leaves_no_transaction_and_commits_none(
        makePool, isolationLevel, own, changed):
    pool = makePool(isolation_level=isolationLevel, autocommit=own)
    with pool.take() as conn:
        conn.autocommit = changed
        if not conn.in_transaction:
            conn.execute("begin")
        conn.execute("insert into t values (1)")
    with pool.take() as again:
        assert again is conn and conn.autocommit == own
        assert conn.in_transaction is (own is False)
        assert count(conn) == 0


def test_what_is_usable_begins_is_rolled_back(makePool):
    clock = FakeClock()
    pool = makePool(isUsable=lambda conn: conn.execute("begin"), clock=clock)
    with pool.take():
        pass
    clock.advance(31.0)
    with pool.take() as conn:
        assert not conn.in_transaction
    with pytest.raises(sqlite3.OperationalError), pool.take() as again:
        raise sqlite3.OperationalError
    assert again is conn and not conn.in_transaction


@pytest.mark.parametrize("isAutocommit", [None, True, False])
def test_what_connect_did_is_committed(path, isAutocommit):
    if isAutocommit is not None and sys.version_info < (3, 12):
        pytest.skip("there is no autocommit")
    options = {} if isAutocommit is None else {"autocommit": isAutocommit}

    def connect():
        conn = sqlite3.connect(path, check_same_thread=False, **options)
        if not conn.in_transaction:
            conn.execute("begin")
        conn.execute("insert into t values (1)")
        return conn

    with ConnectionPool("db", 1, connect) as pool:
        for _ in range(2):
            with pool.take() as conn:
                assert count(conn) == 1


class Wrapped:
    """What an agent that traces programs returns for a connection."""

    def __init__(self, conn):
        self.conn = conn

    def __getattr__(self, name):
        return getattr(self.conn, name)


def test_one_for_one_thread_only_is_refused_behind_a_wrapper_too(path):
    pool = ConnectionPool("db", 1, lambda: Wrapped(sqlite3.connect(path)))
    with pytest.raises(PoolError, match=r"\[queuepool:one-thread\]"):
        pool.take()


def test_the_errors_of_a_wrapped_connection_are_the_drivers(path, caplog):
    with ConnectionPool("db", 1, lambda: Wrapped(
            sqlite3.connect(path, check_same_thread=False))) as pool:
        with pytest.raises(sqlite3.InterfaceError), pool.take():
            raise sqlite3.InterfaceError
        assert pool.stats().open == 0
        with pool.take() as conn:
            conn.close()
    assert not caplog.records


@pytest.mark.parametrize("database, text", [
    ((), "missing .*argument:? 'database'"), ((None,), "expected str, bytes or os.PathLike")])
def test_a_type_error_of_something_else_stays_as_it_is(database, text):
    with pytest.raises(TypeError, match=text):
        ConnectionPool("db", 1, sqlite3.connect, *database, timeout=5.0).take()


def test_a_misspelt_option_is_told(path):
    with pytest.raises(TypeError, match="'takeTimeuot' is neither .* did you mean 'takeTimeout'"):
        ConnectionPool("db", 1, sqlite3.connect, path, takeTimeuot=3).take()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_process_opens_its_own(makePool):
    def check():
        with pool.take() as other:
            assert other is not conn and count(other) == 1

    pool = makePool()
    with pool.take() as conn:
        conn.execute("insert into t values (1)")
        conn.commit()
        assert inChild(check)
    with pool.take() as again:
        assert again is conn and count(conn) == 1
