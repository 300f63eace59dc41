"""What put leaves behind: no transaction, no changed setting, no busy or lost connection."""

import asyncio
import threading

import psycopg2
import psycopg2.errors
import psycopg2.extras
import pytest
from psycopg2.extensions import ISOLATION_LEVEL_SERIALIZABLE

from queuepool import Reason
from queuepool.psycopg2 import isConnectionError
from tests.helpers import PATIENCE, awaitTrue, checkWhole, start


def settings(conn):
    return conn.isolation_level, conn.readonly, conn.deferrable, conn.autocommit


def run(conn, statement):
    with conn.cursor() as cur:
        cur.execute(statement)


def value(conn, statement):
    with conn.cursor() as cur:
        cur.execute(statement)
        return cur.fetchone()[0]


@pytest.fixture
def keptBy(makePool, admin):
    """Let a user do something with a connection; check that it comes back clean and alive."""
    def check(use, error=None, **options):
        pool = makePool(**options)
        admin.query("create table if not exists t (a int primary key)")
        with pool.take() as conn:
            before = settings(conn)
        if error is None:
            with pool.take():
                use(conn)
        else:
            with pytest.raises(error), pool.take():
                use(conn)
        assert admin.count(conn.get_backend_pid(), "idle") == 1
        assert admin.value("select count(*) from t") == 0
        with pool.take() as again:
            assert again is conn
            assert settings(conn) == before
            assert conn.status == psycopg2.extensions.STATUS_READY
        assert pool.stats().closes == 0
        return pool
    return check


INSERT = "insert into t values (1)"


def fail(conn):
    with pytest.raises(psycopg2.errors.DivisionByZero):
        run(conn, INSERT + "; select 1/0")


@pytest.mark.parametrize("use", [
    lambda conn: run(conn, INSERT),
    fail,
    lambda conn: run(conn, "select 1; commit"),
    lambda conn: run(conn, "savepoint a"),
], ids=["in transaction", "in error", "committed by hand", "savepoint"])
def test_a_transaction_left_open_is_rolled_back(keptBy, use):
    keptBy(use)


def test_after_a_commit_by_hand_the_next_user_gets_a_transaction(keptBy):
    pool = keptBy(lambda conn: run(conn, "select 1; commit"))
    with pool.take() as conn:
        run(conn, "select 1")
        assert conn.get_transaction_status() == psycopg2.extensions.TRANSACTION_STATUS_INTRANS


def beginByHand(conn):
    run(conn, "begin")
    run(conn, INSERT)


def failByHand(conn):
    run(conn, "begin")
    fail(conn)


@pytest.mark.parametrize("use", [beginByHand, failByHand])
def test_a_begin_by_hand_under_autocommit_is_rolled_back(keptBy, use):
    keptBy(use, autocommit=True)


@pytest.mark.parametrize("factory", [
    dict(cursor_factory=psycopg2.extras.LoggingCursor),
    dict(connection_factory=psycopg2.extras.LoggingConnection),
])
def test_cleaning_needs_no_cursor_of_the_users_making(makePool, factory):
    pool = makePool(autocommit=True, **factory)
    with pool.take() as conn:
        with psycopg2.extensions.cursor(conn) as cur:
            cur.execute("begin")
    with pool.take() as again:
        assert again is conn and conn.get_transaction_status() == 0


def change(**settings):
    def use(conn):
        conn.set_session(**settings)
        run(conn, "select 1")
    return use


@pytest.mark.parametrize("options", [
    {}, dict(autocommit=True), dict(isolation_level=ISOLATION_LEVEL_SERIALIZABLE),
    dict(isolation_level="REPEATABLE READ", readonly=False, deferrable=True, autocommit=True),
], ids=str)
@pytest.mark.parametrize("use", [
    change(autocommit=True), change(autocommit=False), change(readonly=True),
    change(deferrable=False), change(isolation_level="READ UNCOMMITTED"),
    change(isolation_level="SERIALIZABLE", readonly=True, deferrable=True, autocommit=True),
])
def test_changed_settings_are_as_configured_again(keptBy, options, use):
    pool = keptBy(use, **options)
    with pool.take() as conn:
        level = value(conn, "show transaction_isolation")
        assert level == {
            None: "read committed", ISOLATION_LEVEL_SERIALIZABLE: "serializable",
            "REPEATABLE READ": "repeatable read"}[options.get("isolation_level")]
        assert value(conn, "show transaction_read_only") == "off"


class Mistake(Exception):
    pass


def mistake(conn):
    run(conn, INSERT)
    raise Mistake


def violate(conn):
    run(conn, INSERT)
    run(conn, INSERT)


def timeOut(conn):
    run(conn, "set local statement_timeout = 10")
    run(conn, "select pg_sleep(30)")


def cancel(conn):
    run(conn, "select 1")
    timer = threading.Timer(0.05, conn.cancel)
    timer.start()
    try:
        run(conn, "select pg_sleep(30)")
    finally:
        timer.join()


@pytest.mark.parametrize("use, error", [
    (mistake, Mistake),
    (violate, psycopg2.errors.UniqueViolation),
    (lambda conn: run(conn, "nonsense"), psycopg2.errors.SyntaxError),
    (timeOut, psycopg2.errors.QueryCanceled),
    (cancel, psycopg2.errors.QueryCanceled),
    (lambda conn: conn.cursor().fetchone(), psycopg2.ProgrammingError),
    (lambda conn: {}["key"], KeyError),
])
def test_an_error_that_is_not_the_connections_keeps_it(keptBy, use, error):
    keptBy(use, error)


def test_a_serialization_failure_keeps_both_connections(makePool, admin):
    pool = makePool(2, isolation_level="SERIALIZABLE")
    admin.query("create table x as select 1 as x")
    with pytest.raises(psycopg2.errors.SerializationFailure):
        with pool.take() as one, pool.take() as two:
            for conn in (one, two):
                run(conn, "select x from x")
            run(one, "update x set x = 2")
            one.commit()
            run(two, "update x set x = 3")
    assert admin.value("select x from x") == 2
    stats = pool.stats()
    assert stats.closes == 0 and stats.idle == 2
    with pool.take() as conn:
        assert value(conn, "select x from x") == 2


def endItself(conn):
    run(conn, "select pg_terminate_backend(pg_backend_pid())")


def useClosedCursor(conn):
    cur = conn.cursor()
    cur.close()
    cur.execute("select 1")


def connectElsewhere(conn):
    psycopg2.connect(conn.dsn, dbname="no such database")


def test_an_end_of_the_connection_closes_it(makePool, admin):
    pool = makePool()
    with pytest.raises(psycopg2.OperationalError), pool.take() as conn:
        endItself(conn)
    assert conn.closed
    awaitTrue(lambda: admin.backends() == 0)
    with pool.take() as other:
        run(other, "select 1")
    assert pool.stats().closesByReason[Reason.EXCEPTION] == 1


@pytest.mark.parametrize("error", [
    KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError, psycopg2.InterfaceError,
    psycopg2.OperationalError("of no connection that is known")])
def test_an_exception_that_says_nothing_of_the_connection_keeps_it(keptBy, error):
    def use(conn):
        run(conn, "select 1")
        raise error

    keptBy(use, error if isinstance(error, type) else type(error))


@pytest.mark.parametrize("use, error", [
    (useClosedCursor, psycopg2.InterfaceError), (connectElsewhere, psycopg2.OperationalError)])
def test_an_error_of_something_else_keeps_the_connection(keptBy, use, error):
    keptBy(use, error)


@pytest.mark.parametrize("code", ["08006", "57P01", "57P02", "57P03", "57P05"])
def test_an_error_code_that_is_not_fatal_keeps_the_connection(makePool, code):
    now = [0.0]
    pool = makePool(2, clock=lambda: now[0])
    with pool.take(), pool.take():
        pass
    now[0] += 10.0
    with pytest.raises(psycopg2.Error), pool.take() as conn:
        run(conn, f"do $$ begin raise exception sqlstate '{code}'; end $$")
    with pool.take() as again, pool.take():
        assert again is conn
    assert pool.stats().closes == 0


def test_an_error_without_code_is_the_connections_if_that_is_closed(makePool):
    with makePool().take() as conn, conn.cursor() as cur:
        class Unknown(psycopg2.OperationalError):
            cursor = cur

        assert not isConnectionError(Unknown())
        conn.close()
        assert isConnectionError(Unknown())
    assert not isConnectionError(psycopg2.OperationalError())


def test_a_connection_lost_in_the_middle_of_a_query_is_closed(makePool, admin):
    pool = makePool()
    with pytest.raises(psycopg2.OperationalError), pool.take() as conn:
        pid = conn.get_backend_pid()
        sleeper = start(run, conn, "select pg_sleep(60)")
        awaitTrue(lambda: admin.isAt(conn, "select pg_sleep(60)"))
        admin.terminate(pid)
        sleeper.result()
    assert pool.stats().closesByReason[Reason.EXCEPTION] == 1


def test_a_connection_lost_in_use_and_not_told_of_is_closed(makePool, admin):
    pool = makePool()
    with pool.take() as conn:
        with pytest.raises(psycopg2.OperationalError):
            endItself(conn)
    assert pool.stats().closesByReason[Reason.REPAIR] == 1


def test_a_connection_that_its_user_closed_is_opened_again(makePool):
    pool = makePool()
    with pool.take() as conn:
        conn.close()
    with pool.take() as other:
        run(other, "select 1")
    assert pool.stats().closesByReason[Reason.REPAIR] == 1


@pytest.mark.usefixtures("posix")
@pytest.mark.timeout(20)
def test_a_busy_connection_is_closed_without_waiting_for_its_statement(makePool, admin):
    pool = makePool()
    taken = pool.take()
    conn = taken.resource
    pid = conn.get_backend_pid()
    sleeper = start(run, conn, "select pg_sleep(60)")
    awaitTrue(lambda: admin.isAt(conn, "select pg_sleep(60)"))  # and not its BEGIN
    pool.put(taken)
    assert pool.stats().closesByReason[Reason.REPAIR] == 1
    with pytest.raises(psycopg2.Error):
        sleeper.result(PATIENCE)
    admin.terminate(pid)


def test_a_two_phase_transaction_left_open_closes_the_connection(makePool, admin, caplog):
    pool = makePool()
    with pool.take() as conn:
        conn.tpc_begin(conn.xid(1, "a", "b"))
        run(conn, "create table left_over as select 1")
    assert conn.closed
    assert "putRepair of 'pool-0' failed" in caplog.text
    assert admin.value("select to_regclass('left_over')") is None


# -- reset

def pollute(conn):
    run(conn, "select pg_advisory_lock(1)")
    run(conn, "create temp table mine as select 1")
    run(conn, "set search_path = nowhere; listen news; prepare p as select 1")
    run(conn, "declare c cursor with hold for select 1")
    conn.commit()
    conn.set_client_encoding("LATIN1")
    run(conn, "notify news; do $$ begin raise notice 'n'; end $$")
    conn.commit()
    assert conn.notifies and conn.notices
    run(conn, "select 1")


def traces(conn, admin):
    """Return what is left of pollute."""
    found = dict(
        lock=admin.value("select count(*) from pg_locks where locktype = 'advisory' "
                         "and pid = %s", (conn.get_backend_pid(),)),
        table=value(conn, "select to_regclass('pg_temp.mine') is not null"),
        path=value(conn, "show search_path") == "nowhere",
        listens=value(conn, "select count(*) from pg_listening_channels()"),
        prepared=value(conn, "select count(*) from pg_prepared_statements"),
        cursors=value(conn, "select count(*) from pg_cursors where name = 'c'"),
        encoding=conn.encoding == "LATIN1", notifies=len(conn.notifies),
        notices=len(conn.notices), umlaut=value(conn, "select '\u20ac'") != "\u20ac")
    return {key for key, trace in found.items() if trace}


@pytest.mark.parametrize("options", [
    {}, dict(autocommit=True), dict(isolation_level="SERIALIZABLE", autocommit=True),
], ids=str)
def test_discard_leaves_nothing_of_a_session(makePool, admin, options):
    pool = makePool(reset="discard", **options)
    with pool.take() as conn:
        before = settings(conn), value(conn, "show default_transaction_isolation")
        pollute(conn)
    with pool.take() as again:
        assert again is conn
        assert traces(conn, admin) == set()
        assert (settings(conn), value(conn, "show default_transaction_isolation")) == before


def test_without_reset_the_session_stays(makePool, admin):
    pool = makePool()
    with pool.take() as conn:
        pollute(conn)
        conn.set_client_encoding("UTF8")
    with pool.take() as again:
        assert again is conn
        assert traces(conn, admin) == {"lock", "table", "path", "prepared", "cursors"}


def test_discard_after_a_begin_by_hand(makePool, admin):
    pool = makePool(reset="discard", autocommit=True)
    with pool.take() as conn:
        run(conn, "begin; create table t (a int)")
    with pool.take() as again:
        assert again is conn and settings(conn) == (None, None, None, True)
    assert admin.value("select to_regclass('t')") is None


def test_a_reset_of_ones_own_gets_a_clean_connection_and_is_cleaned_after(makePool, admin):
    seen = []

    def reset(conn):
        seen.append((conn.get_transaction_status(), settings(conn)))
        run(conn, "select pg_advisory_unlock_all()")  # begins a transaction

    pool = makePool(reset=reset)
    with pool.take() as conn:
        conn.autocommit = True
        run(conn, "begin; select pg_advisory_lock(1)")
    assert seen == [(0, (None, None, None, False))]
    assert admin.count(conn.get_backend_pid(), "idle") == 1
    assert admin.value("select count(*) from pg_locks where locktype = 'advisory'") == 0


def closeIt(conn):
    conn.close()


def spoil(conn):
    raise Mistake


@pytest.mark.parametrize("reset", [closeIt, spoil])
def test_a_connection_whose_reset_fails_is_not_seen_again(makePool, reset, caplog):
    pool = makePool(reset=reset)
    with pool.take() as conn:
        pass
    assert conn.closed
    with pool.take() as other:
        assert other is not conn
    assert ("Mistake" in caplog.text) is (reset is spoil)


def test_a_discard_on_a_lost_connection_closes_it(makePool, admin):
    pool = makePool(reset="discard")
    with pool.take() as conn:
        admin.terminate(conn.get_backend_pid())
    assert conn.closed
    with pool.take() as other:
        run(other, "select 1")


def begin(conn):
    conn.cursor().execute("select 1")


def changeEncoding(conn):
    conn.set_client_encoding("LATIN1")


def changeSettings(conn):
    conn.set_session(readonly=True, autocommit=True)


def listen(conn):
    with conn.cursor() as cur:
        cur.execute("listen theirs")
        conn.commit()
        cur.execute("notify theirs")
    conn.commit()


def doNothing(conn):
    pass


@pytest.mark.parametrize("use, options", [
    (begin, {}), (changeEncoding, {}), (changeSettings, {"autocommit": True, "readonly": False}),
    (listen, {}), (doNothing, {"reset": "discard"})])
def test_what_a_put_sends_is_cut_off_if_there_is_no_answer(
        makePool, wire, wireDsn, caplog, use, options):
    pool = makePool(dsn=wireDsn, pingTimeout=0.1, **options)
    with pool.take() as conn:
        use(conn)
        wire.hold()
    wire.release()
    assert conn.closed and "[queuepool:hook-failed]" in caplog.text
    checkWhole(pool)


def test_a_set_up_after_a_discard_is_cut_off_if_there_is_no_answer(
        makePool, wire, wireDsn, caplog):
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
    checkWhole(pool)
