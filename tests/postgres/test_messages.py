"""What people are told: by exceptions, and by the log."""

import contextlib
import copy
import gc
import logging
import pickle
import select
import threading
import time
import traceback

import psycopg2
import pytest
from psycopg2.extensions import connection

import queuepool
from queuepool import Reason
from queuepool.psycopg2 import ConnectionPool, PoolBusy, PoolClosed, PoolTimeout
from tests.helpers import PATIENCE, awaitTrue, awaitWaiting, checkWhole, runTogether, start
from tests.postgres import test_connecting

#: A fixture: a user who, unlike all others, has to tell the password, which is 'first'.
rotator = test_connecting.rotator


def run(conn, *statements):
    with conn.cursor() as cur:
        for statement in statements:
            cur.execute(statement)


def value(conn, statement):
    with conn.cursor() as cur:
        cur.execute(statement)
        return cur.fetchone()[0]


def told(caplog, level, text=""):
    """Return what was logged at this level, with this text in it."""
    return [record.getMessage() for record in caplog.records
            if record.name == "queuepool" and record.levelno == level
            and text in record.getMessage()]


# -- why a connection is closed

REASON = "terminating connection due to administrator command"


def first(pool, end):
    with pool.take() as conn, conn, conn.cursor() as cur:
        end(conn)
        cur.execute("select 1")


def inTheMiddle(pool, end):
    with pool.take() as conn, conn, conn.cursor() as cur:
        cur.execute("select 1")
        end(conn)
        cur.execute("select 2")


def withoutInner(pool, end):
    with pool.take() as conn, conn.cursor() as cur:
        cur.execute("select 1")
        end(conn)
        cur.execute("select 2")


def innerOnly(pool, end):
    with pool.take() as conn:
        with conn:
            run(conn, "select 1")
            end(conn)
            run(conn, "select 2")


def atCommit(pool, end):
    with pool.take() as conn, conn:
        run(conn, "select 1")
        end(conn)


def whileWaiting(pool, end):
    with pool.take() as conn, conn, conn.cursor() as cur:
        ending = start(end, conn, "select pg_sleep%")
        try:
            cur.execute("select pg_sleep(60)")
        finally:
            ending.result()


def twiceEntered(pool, end):
    with pool.take() as conn:
        with conn:
            run(conn, "select 1")
        with conn:
            run(conn, "select 1")
            end(conn)
            run(conn, "select 2")


def usedAgain(pool, end):
    """A user who goes on after the first error meets the second one."""
    with pool.take() as conn:
        run(conn, "select 1")
        end(conn)
        try:
            run(conn, "select 2")
        except psycopg2.Error:
            run(conn, "select 3")


USES = [first, inTheMiddle, withoutInner, innerOnly, atCommit, whileWaiting, twiceEntered,
        usedAgain]


@pytest.mark.parametrize("autocommit", [False, True])
@pytest.mark.parametrize("use", USES)
def test_the_reason_of_the_server_reaches_the_user(makePool, admin, use, autocommit):
    def end(conn, statement=None):
        pid = conn.info.backend_pid
        if statement is not None:
            awaitTrue(lambda: admin.count(pid, "active", statement))
        admin.terminate(pid)

    pool = makePool(2, autocommit=autocommit)
    with pytest.raises(psycopg2.Error) as caught:
        use(pool, end)
    assert isinstance(caught.value, (psycopg2.OperationalError, psycopg2.InterfaceError))
    assert REASON in str(caught.value)
    assert str(caught.value).count(REASON) == 1
    assert pool.stats().taken == 0
    with pool.take() as conn:
        assert value(conn, "select 1") == 1
    checkWhole(pool)


def test_the_reason_of_a_transaction_that_was_idle_for_too_long_reaches_the_user(makePool, admin):
    pool = makePool()
    with pytest.raises(psycopg2.Error, match="terminating connection due to idle-in-transaction"):
        with pool.take() as conn, conn, conn.cursor() as cur:
            cur.execute("set idle_in_transaction_session_timeout = 50")
            pid = conn.info.backend_pid
            awaitTrue(lambda: not admin.value(
                "select count(*) from pg_stat_activity where pid = %s", (pid,)))
            cur.execute("select 1")
    checkWhole(pool)


def test_the_users_own_exception_stays_as_it_is(makePool, admin):
    pool = makePool()
    error = KeyError("mine")
    with pytest.raises(KeyError) as caught, pool.take() as conn:
        admin.terminate(conn.info.backend_pid)
        raise error
    assert caught.value is error and error.args == ("mine",)
    checkWhole(pool)


def failToTake(other, dsn):
    other.take(timeout=0)


def failToConnect(other, dsn):
    psycopg2.connect(dsn, dbname="nowhere")


def failInAnother(other, dsn):
    with contextlib.closing(psycopg2.connect(dsn)) as conn:
        run(conn, "select 1/0")


@pytest.mark.parametrize("fail", [failToTake, failToConnect, failInAnother])
def test_the_reason_is_added_to_no_error_of_something_else(makePool, admin, dsn, fail):
    pool, other = makePool(), makePool()
    with other.take(), pytest.raises(psycopg2.Error) as caught, pool.take() as conn:
        admin.terminate(conn.info.backend_pid)
        with contextlib.suppress(psycopg2.Error):
            run(conn, "select 1")
        fail(other, dsn)
    assert REASON not in str(caught.value)
    checkWhole(pool)


# -- transactions that a put rolled back

ROLLED_BACK = "in the middle of a transaction, which was rolled back"


def insert(conn):
    run(conn, "insert into t values (1)")


def inError(conn):
    with contextlib.suppress(psycopg2.Error):
        run(conn, "select 1/0")


def byHand(conn):
    conn.autocommit = True
    run(conn, "begin", "insert into t values (1)")


@pytest.fixture
def table(admin):
    admin.query("create table t (a int)")


@pytest.mark.parametrize("reset", [None, "discard"])
@pytest.mark.parametrize("use", [insert, inError, byHand])
def test_a_transaction_that_a_put_rolled_back_leaves_a_trace(
        makePool, table, caplog, use, reset):
    caplog.set_level(logging.DEBUG, "queuepool")
    pool = makePool(reset=reset)

    def work():
        threading.current_thread().name = "worker-7"
        taken = pool.take()
        use(taken.resource)
        pool.put(taken)

    start(work).result()
    [line] = told(caplog, logging.DEBUG, ROLLED_BACK)
    assert line == (f"pool pool: 'pool-0' was put {ROLLED_BACK}, by thread 'worker-7'")
    assert pool.stats().closes == 0


def test_an_exception_rolls_back_and_leaves_a_trace_as_well(makePool, table, caplog):
    caplog.set_level(logging.DEBUG, "queuepool")
    with pytest.raises(KeyError), makePool().take() as conn:
        insert(conn)
        raise KeyError
    assert len(told(caplog, logging.DEBUG, ROLLED_BACK)) == 1


def takeHere(pool):
    return pool.take()


def test_with_leak_trace_it_is_told_where_the_connection_was_taken(makePool, table, caplog):
    caplog.set_level(logging.DEBUG, "queuepool")
    pool = makePool(leakTrace=True)
    taken = takeHere(pool)
    insert(taken.resource)
    pool.put(taken)
    with pool.take() as conn:
        insert(conn)
    first, second = told(caplog, logging.DEBUG, ROLLED_BACK)
    assert "; it was taken at:\n" in first and "in takeHere\n" in first
    assert "; it was taken at:\n" in second and "takeHere" not in second
    assert "in test_with_leak_trace_it_is_told" in second


@pytest.mark.parametrize("leakTrace", [False, True])
def test_a_clean_put_leaves_no_trace(makePool, table, caplog, leakTrace):
    caplog.set_level(logging.DEBUG, "queuepool")
    pool = makePool(leakTrace=leakTrace)
    with pool.take():
        pass
    with pool.take() as conn, conn:
        insert(conn)
    with pool.take() as conn:
        insert(conn)
        conn.commit()
    with pool.take() as conn:
        insert(conn)
        conn.rollback()
    with pool.take() as conn:
        run(conn, "insert into t values (1); commit")
    with pool.take() as conn:
        conn.autocommit = True
        insert(conn)
    with pytest.raises(psycopg2.Error), pool.take() as conn, conn:
        run(conn, "select 1/0")
    assert not told(caplog, logging.DEBUG, "transaction")
    assert pool.stats().opens == 1


def test_it_is_told_to_those_who_debug_only(makePool, table, caplog):
    caplog.set_level(logging.INFO, "queuepool")
    pool = makePool(leakTrace=True)
    with pool.take() as conn:
        insert(conn)
    assert not caplog.records


# -- what is used after its put

def rows(conn):
    """Stream rows from a transaction, as a response that is generated does."""
    with conn, conn.cursor() as cur:
        cur.execute("insert into t values (1)")
        yield from range(10)


@pytest.mark.parametrize("reset", [None, "discard"])
def test_a_generator_that_is_still_in_its_transaction_is_told_of(
        makePool, table, admin, caplog, reset):
    pool = makePool(reset=reset)
    taken = pool.take()
    stream = rows(taken.resource)
    next(stream)
    pool.put(taken)
    with pool.take():
        pass
    [line] = told(caplog, logging.WARNING)
    assert line.startswith(
        "pool pool: 'pool-0' was put while somebody is in a block of 'with conn'")
    assert "generator" in line and "it is closed" in line
    assert pool.stats().closesByReason[Reason.REPAIR] == 1
    with pytest.raises(psycopg2.InterfaceError, match="connection already closed"):
        list(stream)
    assert admin.value("select count(*) from t") == 0
    checkWhole(pool)


def test_a_generator_that_has_ended_is_not_told_of(makePool, table, admin, caplog):
    pool = makePool()
    with pool.take() as conn:
        assert len(list(rows(conn))) == 10
    with pool.take() as conn:
        stream = rows(conn)
        next(stream)
        stream.close()
    assert not caplog.records and pool.stats().closes == 0
    assert admin.value("select count(*) from t") in (1, 2)


# -- a connection that is kept longer than its handle

KEEP = "keep what take() returned for as long as you use its 'resource'"


@pytest.mark.filterwarnings("ignore:.*dropped without being returned:ResourceWarning")
def test_who_keeps_the_connection_without_its_handle_is_told_how_to_do_it(
        makePool, admin, caplog):
    pool = makePool()
    conn = pool.take().resource
    gc.collect()  # where there is no count of references
    with pool.take() as other:
        assert other is not conn
        awaitTrue(lambda: admin.backends() == 1)
        with pytest.raises(psycopg2.InterfaceError, match="connection already closed"):
            conn.cursor()
    [line] = told(caplog, logging.WARNING)
    assert "'pool-0' was taken and dropped without being returned; it was closed" in line
    assert KEEP in line and "put()" in line and "with statement" in line
    assert pool.stats().closesByReason[Reason.DROPPED] == 1
    checkWhole(pool)


@pytest.mark.filterwarnings("ignore:.*dropped without being returned:ResourceWarning")
def test_a_put_of_a_connection_without_its_handle_says_so(makePool):
    pool = makePool()
    conn = pool.take().resource
    gc.collect()
    with pool.take():
        with pytest.raises(queuepool.PoolError, match="Put what take.. returned, and keep it"):
            pool.put(conn)
    checkWhole(pool)


@pytest.mark.filterwarnings("ignore:.*dropped without being returned:ResourceWarning")
def test_connections_that_are_kept_are_never_more_than_the_capacity(makePool, admin):
    pool = makePool(3)
    kept = []
    for _ in range(25):
        kept.append(pool.take(timeout=5).resource)
        gc.collect()
        awaitTrue(lambda: admin.backends() <= 3)
    assert sum(not conn.closed for conn in kept) <= 3
    checkWhole(pool)


class Web:
    """Does what Flask programs do with ``g``: get before a request, use, release after it."""

    def __init__(self, pool):
        self.pool = pool

    def get(self):
        raise NotImplementedError

    def release(self, kept):
        self.pool.put(kept)

    def connection(self, kept):
        return kept

    def request(self):
        kept = self.get()
        try:
            return value(self.connection(kept), "select pg_backend_pid()")
        finally:
            self.release(kept)


class Take(Web):
    """Keeps what take returned, and takes it for psycopg2's connection."""

    def get(self):
        return self.pool.take()


class Lease(Take):
    """Keeps what take returned, as is right."""

    def connection(self, kept):
        return kept.resource


class Kept(Web):
    """Keeps the connection, and in passing its handle."""

    def get(self):
        self.handle = self.pool.take()
        return self.handle.resource


class Raw(Web):
    """Keeps psycopg2's connection only."""

    def get(self):
        return self.pool.take().resource


class Enter(Web):
    """Keeps what the with statement would have handed out."""

    def get(self):
        return self.pool.take().__enter__()


def isConnected(conn):
    """Tell whether the socket is neither closed nor shut down."""
    poller = select.poll()
    try:
        poller.register(conn.fileno(), select.POLLHUP)
    except (psycopg2.InterfaceError, ValueError):  # the latter: libpq has closed it, it is -1
        return False
    return not poller.poll(0)


@pytest.mark.timeout(60)
@pytest.mark.usefixtures("posix")
@pytest.mark.filterwarnings("ignore:.*dropped without being returned:ResourceWarning")
@pytest.mark.parametrize("way", [Take, Lease, Kept, Raw, Enter])
def test_twelve_clients_of_three_connections_are_served_or_told(makePool, way):
    connections, most = [], []

    class Counted(connection):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            connections.append(self)
            most.append(sum(map(isConnected, connections)))

    pool = makePool(3, takeTimeout=PATIENCE, connection_factory=Counted)
    outcomes = []

    def client():
        web = way(pool)
        for _ in range(5):
            try:
                outcomes.append(web.request())
            except Exception as error:
                outcomes.append(error)

    runTogether(*[client] * 12)
    assert len(outcomes) == 60
    assert max(most) <= 3, most
    errors = [each for each in outcomes if isinstance(each, Exception)]
    if way in (Lease, Kept):
        assert not errors
    elif way is Take:
        assert len(errors) == 60
        assert all(isinstance(error, AttributeError) and "'resource'" in str(error)
                   for error in errors), errors
    else:
        assert all(isinstance(error, (psycopg2.Error, queuepool.PoolError))
                   for error in errors), errors
    checkWhole(pool)


# -- put of psycopg2's connection

def test_the_connection_may_be_put(makePool, table, admin):
    pool = makePool(2)
    for _ in range(3):
        one, two = pool.take(), pool.take()
        insert(one.resource)
        pool.put(one.resource)
        pool.put(two.resource)
    assert pool.stats().opens == 2 and pool.stats().closes == 0
    assert admin.value("select count(*) from t") == 0
    checkWhole(pool)


def test_a_connection_that_was_put_cannot_be_put_again(makePool):
    pool = makePool()
    taken = pool.take()
    conn = taken.resource
    pool.put(conn)
    for again in conn, taken:
        with pytest.raises(queuepool.PoolError, match="already returned"):
            pool.put(again)
    checkWhole(pool)


def test_a_connection_that_its_user_closed_may_be_put(makePool):
    pool = makePool()
    taken = pool.take()
    taken.resource.close()
    pool.put(taken.resource)
    checkWhole(pool)


def test_a_connection_of_somebody_else_is_refused(makePool, dsn):
    pool, other = makePool(), makePool()
    with other.take() as conn, pool.take():
        with pytest.raises(queuepool.PoolError, match="what one of this pool has open"):
            pool.put(conn)
        with contextlib.closing(psycopg2.connect(dsn)) as conn:
            with pytest.raises(queuepool.PoolError, match="what one of this pool has open"):
                pool.put(conn)
        assert not conn.cursor_factory
    for wrong in None, "conn", 3:
        with pytest.raises(queuepool.PoolError):
            pool.put(wrong)
    checkWhole(pool)
    checkWhole(other)


# -- exceptions that programs catch

@pytest.mark.parametrize("kind, generic", [
    (PoolTimeout, queuepool.PoolTimeout), (PoolBusy, queuepool.PoolBusy),
    (PoolClosed, queuepool.PoolClosed)])
def test_errors_of_the_pool_are_also_psycopg2s(kind, generic):
    assert issubclass(kind, generic) and issubclass(kind, queuepool.PoolError)
    assert issubclass(kind, psycopg2.OperationalError)
    for error in kind("pool 'p': no"), pickle.loads(pickle.dumps(kind("pool 'p': no"))), \
            copy.copy(kind("pool 'p': no")):
        assert type(error) is kind and str(error) == "pool 'p': no"
        assert error.pgcode is None and error.pgerror is None
        assert error.diag.severity is None and error.cursor is None


def test_busy_is_a_time_out():
    assert issubclass(PoolBusy, PoolTimeout)
    assert not issubclass(PoolClosed, PoolTimeout)


@pytest.mark.parametrize("caught", [
    psycopg2.OperationalError, psycopg2.Error, queuepool.PoolError])
def test_programs_catch_them_as_what_they_know(makePool, caught):
    pool = makePool(maxWaiting=1)
    errors = []
    with pool.take():
        for timeout in 0, 0.01:
            try:
                pool.take(timeout=timeout)
            except caught as error:
                errors.append(error)
        waiter = start(pool.take)
        awaitWaiting(pool, 1)
        try:
            pool.take()
        except caught as error:
            errors.append(error)
    pool.put(waiter.result())
    pool.close()
    for use in pool.take, pool.warm, pool.startRecycler, lambda: pool.resize(2):
        try:
            use()
        except caught as error:
            errors.append(error)
    assert [type(error) for error in errors] == [
        PoolTimeout, PoolTimeout, PoolBusy] + 4 * [PoolClosed]
    for error in errors:
        assert "'pool'" in str(error)
        assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_those_who_wait_are_told_of_the_close(makePool):
    pool = makePool()
    taken = pool.take()
    waiter = start(pool.take)
    awaitWaiting(pool, 1)
    pool.close()
    with pytest.raises(psycopg2.OperationalError, match="closed") as caught:
        waiter.result()
    assert type(caught.value) is PoolClosed
    pool.put(taken)


def test_a_time_out_of_a_take_closes_no_other_connection(makePool):
    """It says nothing about the connection in whose block it is raised."""
    pool = makePool()
    with pytest.raises(PoolTimeout), pool.take():
        pool.take(timeout=0)
    assert pool.stats().closes == 0


# -- what stays wrong is told at once

@pytest.fixture
def wrongs(admin):
    """Roles and a database that cannot be used."""
    admin.query("create role nologin nologin")
    admin.query("create role ordinary login")
    admin.query("create role full_up login connection limit 0")
    admin.query("create database forbidden")
    admin.query("revoke connect on database forbidden from public")
    yield
    admin.query("drop database forbidden")
    admin.query("drop role nologin, ordinary, full_up")


@pytest.mark.parametrize("options, text", [
    (dict(user="nobody"), 'role "nobody" does not exist'),
    (dict(dbname="nowhere"), 'database "nowhere" does not exist'),
    (dict(user="nologin"), "is not permitted to log in"),
    (dict(user="ordinary", dbname="forbidden"), 'permission denied for database "forbidden"'),
    (dict(options="-c nope=1"), 'unrecognized configuration parameter "nope"'),
    (dict(options="-c work_mem=abc"), 'invalid value for parameter "work_mem"'),
    (dict(client_encoding="nonsense"), "invalid value for parameter"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_what_the_server_refuses_for_good_is_raised_at_once(
        makePool, wrongs, caplog, options, text):
    pool = makePool(2, openRetryTime=PATIENCE, **options)
    startedAt = time.monotonic()
    for count in 1, 2, 3:
        with pytest.raises(psycopg2.OperationalError, match=text):
            pool.take()
        assert pool.stats().openErrors == count
    assert time.monotonic() - startedAt < PATIENCE / 3
    assert not caplog.records
    stats = pool.stats()
    assert (stats.idle, stats.taken, stats.timeouts) == (2, 0, 0)


@pytest.mark.parametrize("password, text", [
    ("wrong", "password authentication failed"), (None, "no password supplied")])
def test_a_wrong_password_is_told_at_once(makePool, rotator, caplog, password, text):
    passwords = [password]
    pool = makePool(user=rotator, password=lambda: passwords[-1], openRetryTime=PATIENCE)
    with pytest.raises(psycopg2.OperationalError, match=text):
        pool.take()
    assert pool.stats().openErrors == 1 and not caplog.records
    passwords.append("first")
    with pool.take() as conn:
        assert value(conn, "select current_user") == rotator
    checkWhole(pool)


def test_what_may_help_is_tried_again(makePool, wrongs, admin, caplog):
    pool = makePool(user="full_up", openRetryTime=PATIENCE)
    with pytest.raises(PoolTimeout) as caught:
        pool.take(timeout=0.3)
    assert isinstance(caught.value.__cause__, psycopg2.OperationalError)
    assert "too many connections for role" in str(caught.value.__cause__)
    lines = told(caplog, logging.WARNING)
    assert len(lines) == pool.stats().openErrors >= 2
    for line in lines:
        assert line.startswith(
            "pool pool: opening 'pool-0' failed, it is tried again: OperationalError: ")
        assert "too many connections" in line
    assert "Traceback" not in caplog.text
    admin.query("alter role full_up connection limit 5")
    with pool.take(timeout=PATIENCE) as conn:
        assert value(conn, "select current_user") == "full_up"


# -- secrets

SECRETS = ["host=127.0.0.1 port=1 user=u password=hunter2 s3cr3t",
           "host=127.0.0.1 port=1 user=u password=hunter2 s3cr3t=1",
           "postgresql://u:12s3cr3t/x@127.0.0.1:1/db",
           "postgresql://u:s3cr3t@127.0.0.1:1/db",
           "host=127.0.0.1 port=1 user=u password=s3cr3t"]


@pytest.mark.parametrize("openRetryTime", [0.0, 0.2])
@pytest.mark.parametrize("dsn", SECRETS)
def test_no_secret_is_in_the_log_or_in_an_error(dsn, openRetryTime, caplog):
    caplog.set_level(logging.DEBUG)
    with ConnectionPool("pool", 1, lambda: dsn, openRetryTime=openRetryTime, minOpen=1) as pool:
        errors = []
        for use in pool.take, pool.warm, pool.recycle:
            try:
                use()
            except psycopg2.Error as error:
                errors.append(error)
        assert len(errors) == 2
        printed = [repr(pool), caplog.text, *(
            "".join(traceback.format_exception(error)) + repr(error) for error in errors)]
    assert caplog.text
    assert "s3cr3t" not in "".join(printed) and "hunter2" not in "".join(printed)


def test_a_password_that_is_refused_is_not_told(makePool, rotator, caplog):
    caplog.set_level(logging.DEBUG)
    pool = makePool(user=rotator, password="s3cr3t", openRetryTime=0.2, minOpen=1)
    pool.recycle()
    with pytest.raises(psycopg2.OperationalError) as caught:
        pool.take()
    printed = "".join(traceback.format_exception(caught.value))
    assert "authentication failed" in printed and "authentication failed" in caplog.text
    assert "s3cr3t" not in printed + caplog.text + repr(pool)
