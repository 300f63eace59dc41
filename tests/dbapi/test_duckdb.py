"""Connections to DuckDB, whose driver cannot be asked whether there is a transaction."""

import pytest

duckdb = pytest.importorskip("duckdb", reason="DuckDB is not installed")

from queuepool.dbapi import ConnectionPool  # noqa: E402
from tests.helpers import checkWhole, start  # noqa: E402


@pytest.fixture
def makePool(tmp_path):
    path = str(tmp_path / "test.duckdb")
    with duckdb.connect(path) as keeper:
        keeper.execute("create table t (n int)")
        made = []

        def make(capacity=1, **kwargs):
            made.append(ConnectionPool("db", capacity, duckdb.connect, path, **kwargs))
            return made[-1]

        yield make
        for pool in made:
            pool.close()


def count(conn):
    return conn.execute("select count(*) from t").fetchone()[0]


def test_a_connection_stays_without_a_transaction_to_roll_back(makePool, caplog):
    pool = makePool()
    with pool.take() as conn:
        conn.execute("insert into t values (1)")
    with pool.take() as again:
        assert again is conn and count(conn) == 1
    assert not caplog.records


def test_what_was_begun_is_rolled_back(makePool):
    pool = makePool()
    with pool.take() as conn:
        conn.begin()
        conn.execute("insert into t values (1)")
    with pool.take() as again:
        assert again is conn and count(conn) == 0


def test_a_failed_transaction_is_rolled_back(makePool):
    pool = makePool()
    with pytest.raises(duckdb.Error), pool.take() as conn:
        conn.begin()
        conn.execute("insert into t values ('x')")
    with pool.take() as again:
        assert again is conn and count(conn) == 0


def test_configure_needs_no_transaction(makePool):
    pool = makePool(configure=lambda conn: conn.execute("set threads = 1"))
    with pool.take() as conn:
        assert conn.execute("select current_setting('threads')").fetchone() == (1,)


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


def test_an_error_in_the_block_is_looked_at_in_silence(makePool, caplog):
    pool = makePool()
    with pytest.raises(duckdb.Error), pool.take() as conn:
        conn.execute("select nonsense")
    with pool.take() as again:
        assert again is conn and not caplog.records


def test_many_threads_share_a_few_connections(makePool):
    pool = makePool(4)

    def work():
        with pool.take() as conn:
            conn.execute("insert into t values (1)")

    for running in [start(work) for _ in range(50)]:
        running.result()
    with pool.take() as conn:
        assert count(conn) == 50
    assert pool.stats().opens <= 4 and pool.stats().closes == 0


def test_a_misspelt_option_is_told():
    with pytest.raises(TypeError, match="'max_idle_time' is neither .* did you mean 'maxIdleTime'"):
        ConnectionPool("db", 1, duckdb.connect, max_idle_time=3).take()
