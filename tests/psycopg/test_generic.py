"""queuepool.dbapi with a driver whose connections have a fileno: psycopg 3, as if not known."""

import psycopg
import pytest

from queuepool import Reason
from queuepool.dbapi import ConnectionPool
from tests.helpers import checkWhole


@pytest.fixture
def pool(dsn):
    with ConnectionPool("pool", 3, psycopg.connect, dsn, connect_timeout=10) as pool:
        yield pool


def pid(conn):
    return conn.info.backend_pid


def test_connections_that_end_while_idle_are_not_noticed_by_users(pool, admin):
    taken = [pool.take() for _ in range(3)]
    pids = [pid(each.resource) for each in taken]
    for each in taken:
        pool.put(each)
    admin.terminate(*pids)
    for _ in range(3):
        with pool.take() as conn:
            assert pid(conn) not in pids and conn.execute("select 1").fetchone() == (1,)
    assert pool.stats().closesByReason[Reason.REPAIR] == 3
    checkWhole(pool)


def test_one_that_ends_in_use_is_replaced(pool, admin, caplog):
    with pytest.raises(psycopg.OperationalError), pool.take() as conn:
        admin.terminate(pid(conn))
        conn.execute("select 1")
    with pool.take() as other:
        assert other is not conn and other.execute("select 1").fetchone() == (1,)
    assert not [each for each in caplog.records if each.levelname == "WARNING"]


def test_an_error_of_a_statement_keeps_the_connection(pool):
    for statement in "select 1/0", "nonsense", "select * from nothing":
        with pytest.raises(psycopg.Error), pool.take() as conn:
            conn.execute(statement)
    with pool.take() as again:
        assert again is conn and conn.execute("select 1").fetchone() == (1,)
