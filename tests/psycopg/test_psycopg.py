"""Connections of psycopg 3: taken without a round trip, and clean for the next user."""

import contextlib
import logging
import os
import select
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import psycopg2
import pytest
from psycopg.rows import dict_row, tuple_row

from queuepool import Reason, dbapi
from queuepool.errors import PoolError
from queuepool.postgres import withoutSecrets
from queuepool.psycopg import (SETTINGS, Connection, ConnectionPool, PoolBusy, PoolClosed,
                               PoolTimeout, isConnectionError)
from tests.helpers import PATIENCE, FakeClock, awaitTrue, checkWhole, inChild, start

ROOT = Path(__file__).parents[2]


def runPython(code):
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=PATIENCE,
                   env={**os.environ, "PYTHONPATH": str(ROOT)})


def value(conn, statement):
    return psycopg.Cursor(conn, row_factory=tuple_row).execute(statement).fetchone()[0]


def pid(conn):
    return conn.info.backend_pid


def awaitReadable(conn):
    assert select.select([conn], [], [], PATIENCE)[0]


# -- take

def test_the_with_statement_hands_out_psycopgs_connection(makePool):
    pool = makePool()
    with pool.take() as conn:
        assert type(conn) is psycopg.Connection
        assert value(conn, "select 1") == 1
    resource = pool.take()
    assert isinstance(resource, Connection) and resource.resource is conn
    pool.put(conn)
    checkWhole(pool)


def test_a_take_and_put_of_a_clean_connection_send_nothing(makePool, wire, wireDsn):
    pool = makePool(dsn=wireDsn)
    with pool.take():
        pass
    said = len(wire.said)
    for _ in range(3):
        with pool.take():
            pass
    assert len(wire.said) == said


def test_connections_that_end_while_idle_are_not_noticed_by_users(makePool, admin):
    pool = makePool(3)
    taken = [pool.take() for _ in range(3)]
    pids = {pid(each.resource) for each in taken}
    for each in taken:
        pool.put(each)
    admin.terminate(*pids)
    for _ in range(6):
        with pool.take() as conn:
            assert value(conn, "select 1") == 1 and pid(conn) not in pids
    assert pool.stats().closesByReason[Reason.REPAIR] >= 1
    checkWhole(pool)


def test_a_connection_that_was_idle_for_long_is_asked(makePool, wire, wireDsn):
    clock = FakeClock()
    pool = makePool(dsn=wireDsn, clock=clock, pingTime=30.0)
    with pool.take() as conn:
        pass
    clock.advance(31.0)
    said = len(wire.said)
    with pool.take() as again:
        assert again is conn and not conn.autocommit
    assert b"SHOW" in wire.said[said:]


def test_a_server_that_does_not_answer_costs_one_ping_timeout(makePool, wire, wireDsn):
    clock = FakeClock()
    pool = makePool(2, dsn=wireDsn, clock=clock, pingTime=0.0, pingTimeout=0.1, connect_timeout=2)
    taken = [pool.take() for _ in range(2)]
    for each in taken:
        pool.put(each)
    generation = pool.generation
    clock.advance(1.0)
    wire.hold()
    with pytest.raises(psycopg.OperationalError):  # of the connect that comes next
        pool.take()
    wire.release()
    assert pool.generation is not generation
    assert pool.stats().open == 0


@pytest.mark.parametrize("isKept", [False, True])
def test_what_somebody_forgot_to_unlisten_ends(makePool, admin, isKept):
    heard = []

    def configure(conn):
        conn.execute("listen ours")
        conn.add_notify_handler(heard.append)

    pool = makePool(configure=configure)
    with pool.take() as conn:
        first = pid(conn)
        conn.execute("listen forgotten")
        conn.commit()
    admin.query("notify ours, 'kept'" if isKept else "notify forgotten")
    awaitReadable(conn)
    with pool.take() as conn:
        assert pid(conn) == first
        listened = conn.execute("select pg_listening_channels() order by 1").fetchall()
    assert listened == ([("forgotten",), ("ours",)] if isKept else [("ours",)])
    assert [each.payload for each in heard] == (["kept"] if isKept else [])


def test_a_notice_is_a_reason_to_ask_and_none_to_close(makePool, wire, wireDsn):
    notices = []
    pool = makePool(dsn=wireDsn, configure=lambda conn: conn.add_notice_handler(
        lambda diagnostic: notices.append(diagnostic.message_primary)))
    with pool.take() as conn:
        pass
    body = b"SNOTICE\0VNOTICE\0C00000\0Munasked\0\0"
    wire.tell(b"N" + (len(body) + 4).to_bytes(4, "big") + body)
    awaitReadable(conn)
    said = len(wire.said)
    with pool.take() as again:
        assert again is conn and b"SHOW" in wire.said[said:]
        conn.execute("do $$ begin raise notice 'hello'; end $$")
    assert notices == ["hello"]


# -- put

def test_what_was_not_committed_is_rolled_back(makePool, admin):
    pool = makePool()
    admin.query("create table kept (n int)")
    with pool.take() as conn:
        first = pid(conn)
        conn.execute("insert into kept values (1)")
    with pool.take() as conn:
        assert pid(conn) == first
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        assert value(conn, "select count(*) from kept") == 0


def test_a_begin_by_hand_under_autocommit_is_rolled_back(makePool, admin):
    pool = makePool(autocommit=True)
    admin.query("create table begun (n int)")
    with pool.take() as conn:
        conn.execute("begin")
        conn.execute("insert into begun values (1)")
    with pool.take() as again:
        assert again is conn and value(conn, "select count(*) from begun") == 0


def test_a_failed_transaction_is_rolled_back_and_the_connection_stays(makePool):
    pool = makePool()
    with pytest.raises(psycopg.errors.DivisionByZero), pool.take() as conn:
        conn.execute("select 1/0")
    with pool.take() as again:
        assert again is conn and value(conn, "select 1") == 1


def stream(conn):
    yield from conn.cursor().stream("select generate_series(1, 1000)")


def copy(conn):
    with conn.cursor().copy("copy (select 1) to stdout") as copy:
        yield copy


def pipeline(conn):
    with conn.pipeline() as pipeline:
        yield pipeline


@pytest.mark.parametrize("begin", [stream, copy, pipeline])
def test_one_that_is_in_the_middle_of_something_is_closed(makePool, begin):
    pool = makePool()
    with pool.take() as conn:
        goesOn = begin(conn)
        next(goesOn)
    assert conn.closed and not conn.broken
    assert pool.stats().closesByReason[Reason.REPAIR] == 1
    with contextlib.suppress(psycopg.Error):
        goesOn.close()
    checkWhole(pool)


def test_one_whose_block_of_a_transaction_goes_on_is_closed(makePool, caplog):
    def rows(conn):
        with conn.transaction():
            yield from conn.execute("select generate_series(1, 3)")

    pool = makePool()
    with pool.take() as conn:
        generator = rows(conn)
        next(generator)
    assert conn.closed and "[queuepool:in-block]" in caplog.text
    with contextlib.suppress(psycopg.Error):
        generator.close()
    checkWhole(pool)


def test_one_on_which_something_was_begun_after_the_put_is_not_handed_out(makePool):
    pool = makePool()
    with pool.take() as conn:
        pass
    conn.execute("select 1")
    with pool.take() as other:
        assert other is not conn and conn.closed
    checkWhole(pool)


@pytest.mark.parametrize("isInTransaction", [False, True])
def test_one_whose_notifications_are_half_read_is_closed(makePool, isInTransaction):
    pool = makePool(autocommit=not isInTransaction)
    with pool.take() as conn:
        conn.execute("listen x")
        conn.commit()
        conn.execute("notify x")
        conn.commit()
        if isInTransaction:
            conn.execute("select 1")
        heard = conn.notifies(timeout=PATIENCE)
        next(heard)
    assert conn.closed
    with pool.take() as other:
        assert value(other, "select 1") == 1
    heard.close()
    checkWhole(pool)


@pytest.mark.usefixtures("posix")
def test_one_on_which_a_thread_begins_to_listen_after_the_put_is_not_handed_out(
        makePool, monkeypatch):
    monkeypatch.setattr("queuepool.psycopg.END_TIME", PATIENCE)
    pool = makePool(autocommit=True)
    with pool.take() as conn:
        pass

    def listen():
        with pytest.raises(psycopg.OperationalError):
            list(conn.notifies())

    listening = start(listen)
    awaitTrue(conn.lock.locked)
    with pool.take() as other:
        assert value(other, "select 1") == 1
    listening.result()
    assert other is not conn and conn.closed


def test_one_whose_block_of_a_transaction_goes_on_after_a_rollback_by_hand_is_closed(
        makePool, caplog):
    def rows(conn):
        with conn.transaction():
            conn.execute("rollback")
            yield

    pool = makePool()
    with pool.take() as conn:
        generator = rows(conn)
        next(generator)
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert conn.closed and "[queuepool:in-block]" in caplog.text
    with contextlib.suppress(psycopg.Error):
        generator.close()


@pytest.mark.parametrize("isPrepared", [False, True])
def test_one_in_a_two_phase_transaction_is_closed(makePool, caplog, isPrepared):
    pool = makePool()
    with contextlib.suppress(psycopg.NotSupportedError), pool.take() as conn:
        conn.tpc_begin("x")
        conn.execute("select 1")
        if isPrepared:
            conn.tpc_prepare()  # which the server of the tests refuses, so that it is rolled back
    assert conn.closed and "two-phase transaction" in caplog.text


@pytest.mark.parametrize("isOurs", [False, True])
def test_what_a_user_has_heard_is_not_told_to_the_next(makePool, isOurs):
    pool = makePool(autocommit=True,
                    configure=lambda conn: conn.execute('listen "Ours""é"') and None)
    with pool.take() as conn:
        channel = '"Ours""é"' if isOurs else "theirs"
        conn.execute(f"listen {channel}")
        conn.execute(f"notify {channel}, 'mine'")
    with pool.take() as again:
        assert (again is conn) is isOurs
        assert [each.payload for each in again.notifies(timeout=0)] == ["mine"] * isOurs
        assert value(again, "select pg_listening_channels()") == 'Ours"é'


def test_what_arrives_unasked_is_not_told_either(makePool, wire, wireDsn):
    pool = makePool(dsn=wireDsn, autocommit=True)
    with pool.take() as conn:
        conn.execute("listen theirs")
    body = (1).to_bytes(4, "big") + b"theirs\0x\0"
    wire.tell(b"A" + (len(body) + 4).to_bytes(4, "big") + body)
    awaitReadable(conn)
    with pool.take() as again:
        assert again is conn and list(conn.notifies(timeout=0)) == []
        assert conn.execute("select pg_listening_channels()").fetchall() == []


def test_one_that_its_user_closed_is_replaced(makePool):
    pool = makePool()
    with pool.take() as conn, conn:
        pass
    assert conn.closed
    with pool.take() as other:
        assert value(other, "select 1") == 1


CHANGES = {
    "autocommit": True, "isolation_level": psycopg.IsolationLevel.SERIALIZABLE, "read_only": True,
    "deferrable": True, "row_factory": dict_row, "cursor_factory": psycopg.ClientCursor,
    "server_cursor_factory": type("Own", (psycopg.ServerCursor,), {}), "prepare_threshold": None,
    "prepared_max": 7}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_changed_setting_is_set_back(makePool, wire, wireDsn, name):
    pool = makePool(dsn=wireDsn)
    with pool.take() as conn:
        before = getattr(conn, name)
        said = len(wire.said)
        setattr(conn, name, CHANGES[name])
    with pool.take() as again:
        assert again is conn and getattr(conn, name) == before != CHANGES[name]
    assert len(wire.said) == said


def test_settings_may_be_given_as_keywords(makePool):
    pool = makePool(autocommit=True, isolation_level=psycopg.IsolationLevel.SERIALIZABLE,
                    read_only=True, deferrable=True, row_factory=dict_row,
                    application_name=lambda: "called")
    with pool.take() as conn:
        assert conn.autocommit and conn.read_only and conn.deferrable
        assert conn.isolation_level is psycopg.IsolationLevel.SERIALIZABLE
        assert conn.execute("select 1 as one").fetchone() == {"one": 1}
        assert value(conn, "show application_name") == "called"
        conn.read_only = False
    with pool.take() as again:
        assert again is conn and conn.read_only is True


def test_the_client_encoding_is_set_back(makePool):
    pool = makePool()
    with pool.take() as conn:
        conn.execute("set client_encoding to latin1")
        conn.commit()
        assert conn.info.encoding == "iso8859-1"
    with pool.take() as again:
        assert again is conn and conn.info.encoding == "utf-8"


def test_another_role_is_discarded(makePool, admin):
    pool = makePool(configure=lambda conn: conn.execute("set work_mem = '7MB'"))
    with admin.conn.cursor() as cur:
        cur.execute("drop role if exists weak")
        cur.execute("create role weak")
    try:
        with pool.take() as conn:
            conn.execute("set role weak")
            conn.commit()
        with pool.take() as again:
            assert again is conn
            assert value(conn, "select current_user") != "weak"
            assert value(conn, "show work_mem") == "7MB"
    finally:
        admin.query("drop role weak")


def test_prepared_statements_outlive_a_discard(makePool):
    pool = makePool(reset="discard", prepare_threshold=0)
    for _ in range(3):
        with pool.take() as conn:
            assert conn.execute("select %s::int", (5,)).fetchone() == (5,)
            conn.execute("set work_mem = '9MB'")
            conn.commit()
        with pool.take() as again:
            assert again is conn and value(conn, "show work_mem") != "9MB"


@pytest.mark.parametrize("hasTransaction", [False, True])
def test_a_statement_that_is_prepared_after_the_first_discard_is_prepared_again_after_the_next(
        makePool, hasTransaction):
    pool = makePool(reset="discard", prepare_threshold=1, autocommit=not hasTransaction)
    for _ in range(4):
        with pool.take() as conn:
            pass
        for _ in range(2):
            with pool.take() as again:
                for _ in range(3):
                    assert again.execute("select %s::int", (5,)).fetchone() == (5,)
                again.commit()
    assert again is conn


def test_reset_may_be_a_callable(makePool):
    called = []
    pool = makePool(reset=called.append)
    with pool.take() as conn:
        conn.execute("select 1")
    assert called == [conn]


def test_a_rollback_that_hangs_is_cut_off(makePool, wire, wireDsn, caplog):
    pool = makePool(dsn=wireDsn, pingTimeout=0.1)
    with pool.take() as conn:
        conn.execute("select 1")
        wire.hold()
    wire.release()
    assert conn.closed and "[queuepool:hook-failed]" in caplog.text
    checkWhole(pool)


@pytest.mark.usefixtures("posix")
def test_a_put_does_not_wait_for_a_statement_of_another_thread(makePool, admin, monkeypatch):
    monkeypatch.setattr("queuepool.psycopg.END_TIME", PATIENCE)
    pool = makePool()
    resource = pool.take()
    conn = resource.resource
    running = start(lambda: conn.execute("select pg_sleep(60)"))
    awaitTrue(lambda: admin.count(pid(conn), "active", "%pg_sleep(60)%"))
    before = time.monotonic()
    pool.put(resource)
    assert time.monotonic() - before < PATIENCE / 2
    with pytest.raises(psycopg.OperationalError):
        running.result()
    checkWhole(pool)


def test_a_rolled_back_transaction_leaves_a_trace(makePool, caplog):
    caplog.set_level(logging.DEBUG, "queuepool")
    pool = makePool()
    with pool.take() as conn:
        conn.execute("select 1")
    assert "was put in the middle of a transaction" in caplog.text


def test_a_discard_that_hangs_in_the_set_up_is_cut_off(makePool, wire, wireDsn, caplog):
    configured = []

    def configure(conn):
        configured.append(conn)
        if len(configured) == 2:
            wire.hold()

    pool = makePool(dsn=wireDsn, pingTimeout=0.1, reset="discard", configure=configure)
    with pool.take() as conn:
        pass
    wire.release()
    assert conn.closed and "[queuepool:hook-failed]" in caplog.text


# -- configure

def test_a_server_that_does_not_tell_its_channels_is_configured_all_the_same(makePool, admin):
    admin.query("create role channelless login")
    admin.query("revoke execute on function pg_listening_channels() from public")
    try:
        with makePool(user="channelless", configure=lambda conn: None).take() as conn:
            assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
            assert value(conn, "select current_user") == "channelless"
    finally:
        admin.query("grant execute on function pg_listening_channels() to public")
    admin.query("drop role channelless")


def test_what_configure_does_is_committed(makePool, admin):
    pool = makePool(configure=lambda conn: conn.execute("create table configured (n int)"))
    with pool.take() as conn:
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert admin.value("select count(*) from configured") == 0


def test_a_configure_that_hides_a_failed_statement_is_told(makePool):
    def configure(conn):
        with contextlib.suppress(psycopg.Error):
            conn.execute("nonsense")

    with pytest.raises(PoolError, match=r"\[queuepool:configure\]"):
        makePool(configure=configure).take()


# -- errors

def test_the_pools_errors_are_psycopgs(makePool):
    pool = makePool(maxWaiting=0)
    with pool.take():
        for timeout, kind in (0, PoolTimeout), (1, PoolBusy):
            with pytest.raises(kind) as caught:
                pool.take(timeout=timeout)
            assert isinstance(caught.value, psycopg.OperationalError)
            assert caught.value.report.taken == 1
    pool.close()
    with pytest.raises(PoolClosed) as caught:
        pool.take()
    assert isinstance(caught.value, psycopg.OperationalError)


def test_an_error_that_ends_the_connection_is_known(makePool, admin):
    pool = makePool()
    with pytest.raises(psycopg.errors.AdminShutdown) as caught, pool.take() as conn:
        admin.terminate(pid(conn))
        conn.execute("select 1")
    assert isConnectionError(caught.value)
    assert not isConnectionError(psycopg.OperationalError("x"))
    assert not isConnectionError(ValueError("x"))
    assert pool.stats().closesByReason[Reason.EXCEPTION] == 1
    checkWhole(pool)


def becomeReadOnly(conn):
    """Have the server say that it has, as after a fail-over, and write."""
    conn.execute("set default_transaction_read_only = on")
    conn.commit()
    conn.execute("create table never (n int)")


@pytest.mark.parametrize("isHandled", [False, True])
@pytest.mark.parametrize("isOld", [False, True])
def test_a_server_that_became_read_only_has_the_others_replaced(makePool, isOld, isHandled):
    clock = FakeClock()
    # Under autocommit only the exception tells of it, and if that is handled only the transaction.
    pool = makePool(2, clock=clock, autocommit=not isHandled)
    taken = [pool.take() for _ in range(2)]
    for each in taken:
        pool.put(each)
    clock.advance(2.0 if isOld else 0.0)
    generation = pool.generation
    expected = pytest.raises(psycopg.errors.ReadOnlySqlTransaction)
    if isHandled:
        with pool.take() as conn, expected:
            becomeReadOnly(conn)
    else:
        with expected, pool.take() as conn:
            becomeReadOnly(conn)
    assert (pool.generation is not generation) is isOld


def test_a_read_only_transaction_by_choice_is_no_fail_over(makePool):
    clock = FakeClock()
    pool = makePool(clock=clock)
    with pool.take():
        pass
    clock.advance(2.0)
    generation = pool.generation
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), pool.take() as conn:
        conn.execute("set transaction read only")
        conn.execute("create table never (n int)")
    assert pool.generation is generation


def test_only_what_may_succeed_is_tried_again(makePool, dsn):
    resource = Connection("c", dsn + " dbname=missing")
    with pytest.raises(psycopg.OperationalError) as caught:
        resource.open()
    assert not resource.isTransient(caught.value)
    resource = Connection("c", "host=127.0.0.1,127.0.0.1 port=1 connect_timeout=2")
    with pytest.raises(psycopg.OperationalError) as caught:
        resource.open()
    assert resource.isTransient(caught.value)
    both = psycopg.OperationalError(
        'x\nMultiple connection attempts failed. All failures were:\n- host: \'a\', port: None, '
        'hostaddr: None: connection failed: connection to server at "a" failed: FATAL:  '
        'password authentication failed for user "u"')
    assert not resource.isTransient(both)


# -- arguments

@pytest.mark.parametrize("conninfo", [
    "s3cr3t", "password=my s3cr3t", "postgresql://me:s3cr3t@[::1/db",
    "postgresql://me:s3cr3t%@here/db", "postgresql://me:a\ns3cr3t@[::1/db"], ids=repr)
def test_a_wrong_conninfo_is_told_without_what_it_says(conninfo):
    with pytest.raises(psycopg.ProgrammingError) as caught:
        ConnectionPool("p", 1, conninfo)
    assert "s3cr3t" not in str(caught.value)
    assert caught.value.__suppress_context__ and caught.value.__cause__ is None
    with pytest.raises(psycopg.ProgrammingError) as caught:
        ConnectionPool("p", 1, lambda: conninfo).take()
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize("conninfo", [
    "postgresql://me:pa@s3cr3t@nowhere.invalid/db", "postgresql://me:pa@s3cr3t,x@127.0.0.1:1/db",
    "postgresql://me:it's@s3cr3t,a,b@127.0.0.1:1/db"])
def test_a_part_of_the_password_that_became_a_host_is_not_told(conninfo):
    with pytest.raises(psycopg.OperationalError) as caught:
        ConnectionPool("p", 1, conninfo, connect_timeout=2).take()
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize("text", [
    "failed to resolve host 's3cr3t@h': x", 'failed to resolve host "it\'s3cr3t@h": x',
    "- host: 's3cr3t@h', port: '1', hostaddr: None: connection failed: x",
    "- host: 's3cr3t', port: None, hostaddr: None: x\n- host: 'b@h', port: None, hostaddr: None: x",
    'could not translate host name "s3cr3t" to address\ncould not translate host name "b@h" to y'])
def test_what_looks_like_a_password_is_not_shown_as_a_host(text):
    shown = withoutSecrets(text)
    assert "s3cr3t" not in shown and "h'" not in shown and '"..."' in shown
    assert withoutSecrets("- host: 'a', x \"b\"") == "- host: 'a', x \"b\""


def test_the_generic_pool_refuses_drivers_that_have_their_own():
    for connect, name in (psycopg.connect, "psycopg"), (psycopg2.connect, "psycopg2"):
        with pytest.raises(TypeError, match=f"use queuepool.{name}.ConnectionPool instead"):
            dbapi.ConnectionPool("p", 1, connect)


def test_the_generic_pool_refuses_their_connections_too(dsn):
    for driver in psycopg, psycopg2:
        pool = dbapi.ConnectionPool("p", 1, lambda: driver.connect(dsn), openRetryTime=PATIENCE)
        with pytest.raises(TypeError, match=f"use queuepool.{driver.__name__}.ConnectionPool"):
            pool.take()
        assert pool.stats().open == 0


def test_a_misspelt_keyword_is_told():
    with pytest.raises(TypeError, match="'takeTimout' is neither an option of the pool nor one of "
                                        "psycopg.connect; did you mean 'takeTimeout'"):
        ConnectionPool("p", 1, takeTimout=3)
    with pytest.raises(TypeError, match="'auto_commit'.* did you mean 'autocommit'"):
        ConnectionPool("p", 1, auto_commit=True)


@pytest.mark.parametrize("arguments", [
    {"isolation_level": 99}, {"reset": "nothing"}, {"pingTime": -1}, {"pingTimeout": "x"},
    {"configure": 1}], ids=repr)
def test_a_wrong_argument_is_told_at_once(arguments):
    with pytest.raises((TypeError, ValueError)):
        ConnectionPool("p", 1, **arguments)


def test_what_is_looked_for_on_the_pool_is_found_elsewhere(makePool):
    with pytest.raises(AttributeError, match="take a connection first"):
        makePool().execute


# -- threads and processes

def test_fifty_threads_share_five_connections(makePool):
    pool = makePool(5)
    pids = set()

    def work():
        for _ in range(10):
            with pool.take() as conn:
                pids.add(value(conn, "select pg_backend_pid()"))

    for running in [start(work) for _ in range(50)]:
        running.result()
    assert len(pids) <= 5 and pool.stats().opens == len(pids)
    checkWhole(pool)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_process_leaves_the_parents_connections_alone(makePool):
    pool = makePool(2)
    with pool.take() as conn:
        mine = pid(conn)

    def check():
        with pool.take() as conn:
            assert pid(conn) != mine and value(conn, "select 1") == 1

    assert inChild(check)
    with pool.take() as conn:
        assert pid(conn) == mine and value(conn, "select 1") == 1


def test_a_missing_driver_is_told():
    runPython("import sys; sys.modules['psycopg'] = None\n"
              "try: import queuepool.psycopg\n"
              "except ImportError as error:\n"
              "    assert \"pip install 'psycopg[binary]'\" in str(error), error\n"
              "    assert error.name == 'psycopg'\n"
              "else: raise AssertionError")


def test_no_other_driver_is_loaded():
    runPython("import sys, queuepool.psycopg\nassert 'psycopg2' not in sys.modules\n"
              "assert queuepool.psycopg.psycopg is sys.modules['psycopg']")
