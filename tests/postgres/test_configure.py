"""What a configure does that goes wrong, and connections that allow less than others."""

import psycopg2
import psycopg2.extras
import pytest
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, make_dsn

from queuepool import Pool, PoolError, Reason, session
from queuepool.psycopg2 import Connection
from queuepool.psycopg2pool import ThreadedConnectionPool
from tests.helpers import awaitTrue, checkWhole
from tests.postgres.test_left_behind import run, value


class Failing:
    """A configure that does something the first times, and nothing later."""

    def __init__(self, fail, times=10 ** 6):
        self.calls = 0
        self.fail = fail
        self.times = times

    def __call__(self, conn):
        self.calls += 1
        if self.calls <= self.times:
            self.fail(conn)


def raising(error):
    def fail(conn):
        raise error
    return fail


def misspelt(conn):
    undefined(conn)  # noqa: F821


def close(conn):
    conn.close()


def failStatement(conn):
    run(conn, "set work_mem = '77MB'; select 1/0")


def runWithoutEnd(conn):
    with conn.cursor() as cur:
        cur.execute("select 1")
        cur.callproc("no_such_function")


def nestTwice(conn):
    with conn, conn:
        pass


OWN = [
    (raising(ValueError("no")), ValueError), (raising(KeyError("no")), KeyError),
    (raising(OSError("no")), OSError), (misspelt, NameError), (close, psycopg2.InterfaceError),
    (failStatement, psycopg2.DataError), (runWithoutEnd, psycopg2.ProgrammingError),
    (nestTwice, psycopg2.ProgrammingError),
    (raising(psycopg2.ProgrammingError("no")), psycopg2.ProgrammingError),
    (raising(psycopg2.IntegrityError("no")), psycopg2.IntegrityError)]


@pytest.mark.parametrize("fail, error", OWN)
def test_what_configure_raises_reaches_the_taker_at_once(makePool, admin, fail, error):
    failing = Failing(fail)
    pool = makePool(configure=failing, openRetryTime=1e6, takeTimeout=None)
    for number in 1, 2:
        with pytest.raises(error):
            pool.take()
        assert failing.calls == number
    stats = pool.stats()
    assert (stats.openErrors, stats.open, stats.idle) == (2, 0, 1)
    failing.times = 0
    checkWhole(pool)
    awaitTrue(lambda: admin.backends() == 1)  # those that could not be configured are closed


def waitForLock(conn):
    run(conn, "set local statement_timeout = 1; select pg_sleep(60)")


@pytest.mark.parametrize("fail", [
    raising(psycopg2.OperationalError("for now")), waitForLock,
    raising(psycopg2.errors.LockNotAvailable("for now"))])
def test_what_may_pass_is_tried_again(makePool, fail):
    failing = Failing(fail, times=2)
    pool = makePool(configure=failing, openRetryTime=20.0)
    with pool.take() as conn:
        assert value(conn, "select 1") == 1
    assert failing.calls == 3 and pool.stats().openErrors == 2


def test_without_open_retry_time_nothing_is_tried_again(makePool):
    failing = Failing(raising(psycopg2.OperationalError("for now")))
    pool = makePool(configure=failing)
    with pytest.raises(psycopg2.OperationalError, match="for now"):
        pool.take()
    assert failing.calls == 1


def failAndGoOn(conn):
    run(conn, "set work_mem = '77MB'")
    try:
        run(conn, "select 1/0")
    except psycopg2.Error:
        pass


def failByHandAndGoOn(conn):
    conn.autocommit = True
    with conn.cursor() as cur:
        cur.execute("begin")
        try:
            cur.execute("select 1/0")
        except psycopg2.Error:
            pass


@pytest.mark.parametrize("fail", [failAndGoOn, failByHandAndGoOn])
def test_a_failed_transaction_that_configure_leaves_is_told(makePool, fail):
    """It would be rolled back, and with it all that configure has done."""
    failing = Failing(fail)
    pool = makePool(configure=failing, openRetryTime=1e6, takeTimeout=None)
    with pytest.raises(PoolError, match="^configure left a transaction in which a statement has "):
        pool.take()
    assert failing.calls == 1
    failing.times = 0
    checkWhole(pool)


@pytest.mark.parametrize("fail", [case[0] for case in OWN] + [failAndGoOn])
@pytest.mark.parametrize("reset", [None, "discard"])
def test_one_that_cannot_be_configured_again_is_closed(makePool, admin, fail, reset):
    failing = Failing(fail, times=0)
    pool = makePool(configure=failing, reset=reset)
    with pool.take() as conn:
        failing.times = 2
        run(conn, "set role pg_monitor")  # which needs a discard
    assert failing.calls == 2
    awaitTrue(lambda: not admin.backends())
    assert pool.stats().closesByReason[Reason.REPAIR] == 1
    failing.times = 0
    with pool.take() as conn:
        assert value(conn, "select current_user = session_user")


def test_an_open_of_ones_own_that_fails_once_is_tried_again(dsn, caplog):
    """The same before the first connect as after one that succeeded."""
    errors = [ConnectionError("first"), None, ConnectionError("second"), None]

    class Own(Connection):
        def open(self):
            error = errors.pop(0)
            if error is not None:
                raise error
            super().open()

    with Pool("pool", 1, factory=lambda name: Own(name, None, None, None, None, dsn),
              openRetryTime=20.0) as pool:
        for _ in range(2):
            with pool.take() as conn:
                assert value(conn, "select 1") == 1
            pool.invalidate()
    assert not errors and "isTransient" not in caplog.text


# -- psycopg2pool

def test_minconn_with_a_configure_that_raises(dsn, admin):
    with pytest.raises(NameError):
        ThreadedConnectionPool(2, 3, dsn, configure=misspelt, openRetryTime=1e6)
    awaitTrue(lambda: not admin.backends())


# -- connections that allow less

@pytest.mark.parametrize("options", [
    {}, dict(configure=lambda conn: None), dict(pingTime=0.0)],
    ids=["plain", "configured", "asked"])
@pytest.mark.parametrize("kind", [
    psycopg2.extras.LogicalReplicationConnection, psycopg2.extras.PhysicalReplicationConnection])
def test_replication_connections_can_be_pooled(makePool, kind, options, caplog):
    """They have neither isolation levels nor DISCARD, and the physical ones run no SQL but SHOW."""
    pool = makePool(connection_factory=kind, **options)
    systems = set()
    for _ in range(3):
        with pool.take() as conn:
            assert type(conn) is kind
            with conn.cursor() as cur:
                cur.execute("IDENTIFY_SYSTEM")
                systems.add(cur.fetchone()[0])
    assert len(systems) == 1
    assert pool.stats().opens == 1 and not caplog.records


class Noting(psycopg2.extensions.connection):
    """A connection class that notes what is set."""

    settings = []

    def set_session(self, **kwargs):
        self.settings.append(kwargs)
        super().set_session(**kwargs)


@pytest.mark.parametrize("options, count", [
    ({}, 0), (dict(autocommit=False), 1), (dict(readonly=True), 1),
    (dict(isolation_level="SERIALIZABLE", deferrable=False), 1)], ids=str)
def test_what_is_not_set_is_not_touched(makePool, options, count):
    Noting.settings.clear()
    pool = makePool(connection_factory=Noting, **options)
    for _ in range(2):
        with pool.take() as conn:
            run(conn, "select 1")
    assert len(Noting.settings) == count


# -- servers that know less

@pytest.fixture
def withoutChannels(monkeypatch):
    """Have the server not know pg_listening_channels, such as one that is no PostgreSQL."""
    execute = session.execute

    def executeLess(raw, statement):
        if "pg_listening_channels" in statement:
            statement = statement.replace("pg_listening_channels", "pg_no_such_channels")
        return execute(raw, statement)

    monkeypatch.setattr(session, "execute", executeLess)


@pytest.mark.parametrize("options", [{}, dict(autocommit=True), dict(reset="discard")], ids=str)
def test_a_server_that_cannot_tell_its_channels_works_with_configure(
        makePool, withoutChannels, options, caplog):
    pool = makePool(configure=lambda conn: run(conn, "set work_mem = '77MB'"), **options)
    for _ in range(3):
        with pool.take() as conn:
            assert value(conn, "show work_mem") == "77MB"
            assert conn.notices == [] == conn.notifies
    assert pool.stats().opens == 1 and not caplog.records


def test_a_connection_that_ends_when_it_is_asked_for_its_channels_is_not_handed_out(
        makePool, admin, monkeypatch):
    execute = session.execute
    isEnding = [True]

    def executeLess(raw, statement):
        if "pg_listening_channels" in statement and isEnding:
            isEnding.pop()
            admin.terminate(raw.info.backend_pid)
        return execute(raw, statement)

    monkeypatch.setattr(session, "execute", executeLess)
    pool = makePool(configure=lambda conn: None)
    with pytest.raises(psycopg2.OperationalError):
        pool.take()
    with pool.take() as conn:
        assert conn.info.transaction_status == TRANSACTION_STATUS_IDLE
        assert value(conn, "select 1") == 1


def test_a_configure_is_bound_by_the_options_of_the_connection(makePool, dsn):
    """An option that the server refuses is the driver's error, and is not tried again."""
    pool = makePool(dsn=make_dsn(dsn, options="-c no_such_setting=1"), openRetryTime=1e6,
                    takeTimeout=None)
    with pytest.raises(psycopg2.OperationalError, match="unrecognized configuration parameter"):
        pool.take()
