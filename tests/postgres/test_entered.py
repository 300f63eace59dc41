"""Blocks of ``with conn`` that are entered when their connection is put, without any SQL yet.

Whoever leaves such a block later ends the transaction that the connection is in then.
"""

import contextlib
import logging

import psycopg2
import pytest
from psycopg2.extensions import connection

from queuepool.psycopg2cm import ConnectionManager
from queuepool.psycopg2pool import ThreadedConnectionPool
from tests.helpers import checkWhole

RESETS = pytest.mark.parametrize("reset", [None, "discard"])
OPTIONS = pytest.mark.parametrize("options", [
    {}, dict(autocommit=True), dict(readonly=False, isolation_level="SERIALIZABLE")], ids=str)


def run(conn, statement):
    with conn.cursor() as cur:
        cur.execute(statement)


@pytest.fixture
def log(admin):
    """The numbers that users wrote and committed."""
    admin.query("create table log (a int)")
    return lambda: admin.value("select coalesce(array_agg(a order by a), '{}') from log")


def insert(conn, number):
    run(conn, f"insert into log values ({number})")


def rows(conn):
    """Be a generator with a transaction of its own that has run nothing so far."""
    with conn:
        yield 0


def suspend(conn):
    generator = rows(conn)
    next(generator)
    return generator


def endByClose(generator):
    with contextlib.suppress(psycopg2.Error):
        generator.close()


def endByLast(generator):
    with contextlib.suppress(psycopg2.Error):
        for _ in generator:
            pass


ENDS = pytest.mark.parametrize("end", [endByClose, endByLast], ids=["roll back", "commit"])


def putByPut(pool):
    taken = pool.take()
    generator = suspend(taken.resource)
    pool.put(taken)
    return generator


def putByWith(pool):
    with pool.take() as conn:
        return suspend(conn)


def putByException(pool):
    with contextlib.suppress(KeyError), pool.take() as conn:
        generator = suspend(conn)
        raise KeyError
    return generator


PUTS = pytest.mark.parametrize("put", [putByPut, putByWith, putByException])


def warnings(caplog):
    return [record.getMessage() for record in caplog.records
            if record.name == "queuepool" and record.levelno >= logging.WARNING]


@PUTS
@ENDS
@RESETS
@OPTIONS
def test_the_late_end_reaches_no_stranger(makePool, log, caplog, put, end, reset, options):
    pool = makePool(reset=reset, **options)
    generator = put(pool)
    with pool.take() as conn:
        [warning] = warnings(caplog)
        assert "is in a block of 'with conn'" in warning and "it is closed" in warning
        insert(conn, 1)
        end(generator)
        if conn.autocommit:
            assert log() == [1]
        else:
            assert log() == []  # the late end did not commit it
            conn.commit()
            assert log() == [1]  # nor did it roll it back
    assert pool.stats().closes == 1 and len(warnings(caplog)) == 1
    checkWhole(pool)


@PUTS
@ENDS
def test_the_late_end_reaches_no_strangers_block(makePool, log, put, end):
    pool = makePool()
    generator = put(pool)
    with pool.take() as conn, conn:
        insert(conn, 1)
        end(generator)
        assert log() == []
        insert(conn, 2)
    assert log() == [1, 2]


@ENDS
def test_so_it_is_with_a_manager(dsn, log, end):
    manager = ConnectionManager("manager", None, None, None, None, dsn)
    manager.open()
    generator = suspend(manager.resource)
    manager.repair()
    assert not manager.isOpen
    manager.open()
    insert(manager.resource, 1)
    end(generator)
    assert log() == []
    manager.close()


@ENDS
def test_so_it_is_with_getconn(dsn, log, end):
    pool = ThreadedConnectionPool(0, 1, dsn)
    conn = pool.getconn()
    generator = suspend(conn)
    pool.putconn(conn)
    conn = pool.getconn()
    insert(conn, 1)
    end(generator)
    assert log() == []
    pool.closeall()


def test_blocks_that_have_ended_keep_the_connection(makePool, log, caplog):
    pool = makePool()
    for number in range(3):
        with pool.take() as conn:
            with contextlib.suppress(KeyError), conn:
                pass
            with contextlib.suppress(KeyError), conn:
                raise KeyError
            endByLast(suspend(conn))
            endByClose(suspend(conn))
    assert pool.stats().opens == 1 and not warnings(caplog)


def test_a_generator_that_goes_on_after_the_put_commits_no_half(makePool, log):
    def halves(conn):
        with conn:
            insert(conn, -1)
            yield
            insert(conn, 1)

    pool = makePool()
    with pool.take() as conn:
        generator = halves(conn)
        next(generator)
    with pytest.raises(psycopg2.InterfaceError, match="already closed"):
        next(generator)
    assert log() == []


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_references_of_configures_that_are_gone_hide_no_block(makePool, log, count):
    kept = []
    pool = makePool(configure=lambda conn: kept.extend([conn] * count))
    with pool.take():
        pass
    kept.clear()
    for _ in range(2):
        with pool.take():
            pass
    taken = pool.take()
    with contextlib.ExitStack() as block:
        for _ in range(count - 1):
            block.callback(taken.resource.commit)
        block.enter_context(taken.resource)
        pool.put(taken)
        with pool.take() as conn:
            insert(conn, 1)
            with contextlib.suppress(psycopg2.Error):
                block.close()
            conn.commit()
    assert log() == [1] and pool.stats().opens == 2


def putAtTheEnd(pool):
    taken = pool.take()
    try:
        taken.resource.__enter__()
        raise KeyError  # as of a signal handler between the enter and the block
    finally:
        pool.put(taken)


def putByBlock(pool):
    with pool.take() as conn:
        conn.__enter__()
        del conn
        raise KeyError


@pytest.mark.parametrize("put", [putAtTheEnd, putByBlock])
def test_a_block_that_was_entered_but_not_left_is_found_after_an_exception(
        makePool, caplog, put):
    pool = makePool()
    for _ in range(2):  # the first take after an open looks anyway
        with pool.take():
            pass
    with pytest.raises(KeyError):
        put(pool)
    for _ in range(2):
        with pool.take() as conn, conn:
            pass
    assert pool.stats().opens == 2 and len(warnings(caplog)) == 1


def begin(conn):
    insert(conn, 1)


def endByHand(conn):
    """End it for the server; psycopg2 believes that the transaction goes on."""
    run(conn, "select 1")
    run(conn, "commit")


@pytest.mark.parametrize("use", [begin, endByHand])
@pytest.mark.parametrize("keeps", [True, False])
def test_what_somebody_began_after_the_put_is_not_handed_out(
        makePool, log, caplog, use, keeps):
    pool = makePool()
    for _ in range(2):
        with pool.take():
            pass
    taken = pool.take()
    pool.put(taken)
    pid = taken.resource.get_backend_pid()
    kept = [taken.resource] if keeps else []
    use(taken.resource)
    with pool.take() as other:
        assert use is endByHand and not keeps or other.get_backend_pid() != pid
        insert(other, 2)
        other.commit()
    assert log() == [2] and not warnings(caplog)
    assert not kept or kept[0].closed


def test_a_block_that_goes_on_after_the_put_is_told_of(makePool, log, caplog):
    pool = makePool()
    with pool.take() as conn:
        generator = suspend(conn)
    insert(conn, 1)
    with pool.take():
        pass
    assert len(warnings(caplog)) == 1
    endByClose(generator)


def test_to_refer_to_a_connection_after_its_put_does_no_harm(makePool):
    pool = makePool()
    kept = []
    for _ in range(3):
        with pool.take() as conn:
            kept.append(conn)
    assert pool.stats().opens == 1 and not conn.closed


# -- configure

def enter(conn):
    conn.__enter__()


def enterAndAsk(conn):
    conn.__enter__()
    run(conn, "set work_mem = '77MB'")


@RESETS
@OPTIONS
@pytest.mark.parametrize("configure", [enter, enterAndAsk])
def test_a_block_that_configure_leaves_open_is_left(
        makePool, log, caplog, configure, reset, options):
    pool = makePool(configure=configure, reset=reset, **options)
    for number in range(3):
        with pool.take() as conn, conn:
            if configure is enterAndAsk:
                with conn.cursor() as cur:
                    cur.execute("show work_mem")
                    assert cur.fetchone() == ("77MB",)
            insert(conn, number)
    assert log() == [0, 1, 2]
    assert pool.stats().opens == 1 and not warnings(caplog)


# -- connection classes with a rollback of their own

class Noting(connection):
    """A connection class that notes when it is to commit or to roll back."""

    calls = []

    def rollback(self):
        self.calls.append("rollback")
        super().rollback()

    def commit(self):
        self.calls.append("commit")
        super().commit()


class Careful(connection):
    """A connection class that lets nobody roll back where there is nothing to roll back."""

    def rollback(self):
        assert self.info.transaction_status != psycopg2.extensions.TRANSACTION_STATUS_IDLE
        super().rollback()


def useNothing(conn):
    pass


def commitSome(conn):
    run(conn, "select 1")
    connection.commit(conn)


def rollBackSome(conn):
    run(conn, "select 1")
    connection.rollback(conn)


@RESETS
@pytest.mark.parametrize("use", [useNothing, commitSome, rollBackSome])
def test_the_rollback_of_ones_own_class_is_not_called_for_a_clean_connection(
        makePool, caplog, use, reset):
    pool = makePool(connection_factory=Noting, reset=reset)
    with pool.take():
        pass
    Noting.calls.clear()
    for _ in range(3):
        with pool.take() as conn:
            use(conn)
    assert "rollback" not in Noting.calls
    pool = makePool(connection_factory=Careful, reset=reset)
    for _ in range(3):
        with pool.take() as conn:
            use(conn)
    assert pool.stats().opens == 1 and not warnings(caplog)


def test_the_rollback_of_ones_own_class_is_called_for_what_was_begun(makePool, log):
    pool = makePool(connection_factory=Noting)
    with pool.take():
        pass
    Noting.calls.clear()
    with pool.take() as conn:
        insert(conn, 1)
    assert Noting.calls and set(Noting.calls) == {"rollback"}
    assert log() == [] and pool.stats().opens == 1


@ENDS
def test_a_dirty_block_is_found_with_a_class_of_ones_own(makePool, log, caplog, end):
    pool = makePool(connection_factory=Noting)
    with pool.take() as conn:
        generator = suspend(conn)
        insert(conn, 1)
    assert len(warnings(caplog)) == 1
    with pool.take() as conn:
        insert(conn, 2)
        end(generator)
        conn.commit()
    assert log() == [2]
