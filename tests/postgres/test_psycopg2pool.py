"""psycopg2.pool's classes on a ConnectionPool: what psycopg2 documents, and how people use it.

Tests with ``makeEither`` are about what both have in common, so they are run with psycopg2's own
classes as well. Those with ``make`` are about what is better here.
"""

import contextlib
import gc
import os
import threading

import psycopg2
import psycopg2.extras
import psycopg2.pool
import pytest
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, connection

import queuepool
from queuepool import psycopg2pool
from tests.helpers import (PATIENCE, FakeClock, Gate, awaitTrue, awaitWaiting, inChild, runTogether,
                           start)

OURS = psycopg2pool.ThreadedConnectionPool
THEIRS = psycopg2.pool.ThreadedConnectionPool


def nameOf(kind):
    return f"{kind.__module__}.{kind.__name__}"


@pytest.fixture
def appDsn(dsn):
    """Has the name by which ``admin.backends`` counts the connections, of either pool."""
    return psycopg2.extensions.make_dsn(dsn, application_name="app")


@pytest.fixture
def closing():
    """Return pools that are closed at the test's end, unless the test has done so."""
    pools = []
    yield lambda pool: pools.append(pool) or pool
    for pool in pools:
        if not pool.closed:
            pool.closeall()


@pytest.fixture(params=[OURS, THEIRS], ids=nameOf)
def makeEither(request, appDsn, closing):
    """Make pools of each class in turn. Ours do not wait, because psycopg2's cannot."""
    options = {"timeout": 0} if request.param is OURS else {}

    def make(minconn=0, maxconn=1, *args, kind=request.param, **kwargs):
        return closing(kind(minconn, maxconn, *args or (appDsn,), **options, **kwargs))
    make.kind = request.param
    return make


@pytest.fixture
def make(appDsn, closing):
    def make(minconn=0, maxconn=1, *args, kind=OURS, **kwargs):
        return closing(kind(minconn, maxconn, *args or (appDsn,), **kwargs))
    return make


def run(conn, statement):
    with conn.cursor() as cur:
        cur.execute(statement)
        return cur.fetchall() if cur.description else None


def value(conn, statement):
    return run(conn, statement)[0][0]


def putAll(pool, conns):
    for conn in conns:
        pool.putconn(conn)


# -- what is documented, and the arguments


def test_minconn_connections_are_opened_at_once(makeEither, admin):
    pool = makeEither(3, 5)
    assert admin.backends() == 3
    assert (pool.minconn, pool.maxconn, pool.closed) == (3, 5, False)


def test_no_connection_is_opened_for_a_minconn_of_none(makeEither, admin):
    pool = makeEither(0, 5)
    assert admin.backends() == 0
    assert value(pool.getconn(), "select 6 * 7") == 42


def test_up_to_maxconn_connections_are_given_and_all_differ(makeEither, admin):
    pool = makeEither(1, 3)
    conns = [pool.getconn() for _ in range(3)]
    assert len({conn.get_backend_pid() for conn in conns}) == admin.backends() == 3
    with pytest.raises(psycopg2.pool.PoolError, match="^connection pool exhausted"):
        pool.getconn()
    pool.putconn(conns[0])
    assert pool.getconn().get_backend_pid() in {conn.get_backend_pid() for conn in conns}


def test_numbers_may_be_text(makeEither, admin):
    pool = makeEither("1", "2")
    assert (pool.minconn, pool.maxconn) == (1, 2)
    assert admin.backends() == 1


def test_a_minconn_that_is_more_than_maxconn_counts(makeEither, admin):
    pool = makeEither(2, 1)
    assert admin.backends() == 2
    putAll(pool, [pool.getconn(), pool.getconn()])


class Marked(connection):
    """A connection with a class, and attributes, of the program's own."""


def test_positional_arguments_go_to_connect(makeEither, appDsn):
    pool = makeEither(1, 1, appDsn, Marked, psycopg2.extras.DictCursor)
    conn = pool.getconn()
    assert isinstance(conn, Marked) and isinstance(conn, connection)
    with conn.cursor() as cur:
        cur.execute("select 1 as one")
        assert cur.fetchone()["one"] == 1


def test_keywords_go_to_connect(makeEither, parameters):
    parameters["database"] = parameters.pop("dbname")
    pool = makeEither(1, 1, None, cursor_factory=psycopg2.extras.RealDictCursor,
                      connection_factory=Marked, application_name="other",
                      options="-c statement_timeout=12345", **parameters)
    conn = pool.getconn()
    assert isinstance(conn, Marked)
    assert run(conn, "show statement_timeout") == [{"statement_timeout": "12345ms"}]
    assert run(conn, "show application_name") == [{"application_name": "other"}]


def test_the_dsn_may_be_a_keyword(makeEither, appDsn):
    pool = makeEither(1, 1, None, **psycopg2.extensions.parse_dsn(appDsn))
    assert value(pool.getconn(), "show application_name") == "app"
    assert value(makeEither.kind(1, 1, dsn=appDsn).getconn(), "select 1") == 1


def test_the_constructor_raises_what_connect_raises(makeEither, dsn):
    with pytest.raises(psycopg2.OperationalError, match='"nowhere" does not exist') as info:
        makeEither(2, 5, dsn, dbname="nowhere")
    assert not isinstance(info.value, psycopg2.pool.PoolError)
    with pytest.raises((psycopg2.ProgrammingError, TypeError), match="nonsense"):
        makeEither(1, 1, dsn, nonsense=1)


def test_getconn_raises_what_connect_raises(makeEither, dsn):
    pool = makeEither(0, 1, dsn, dbname="nowhere")
    for _ in range(2):
        with pytest.raises(psycopg2.OperationalError, match='"nowhere" does not exist'):
            pool.getconn()


def test_a_constructor_that_fails_leaves_no_connection(make, appDsn, admin):
    role = "limited"
    admin.query(f"create role {role} login connection limit 2")
    try:
        with pytest.raises(psycopg2.OperationalError, match="too many connections"):
            make(3, 5, appDsn, user=role)
        awaitTrue(lambda: admin.backends() == 0)
    finally:
        admin.query(f"drop role {role}")


@pytest.mark.parametrize("argument", [-1, "many", None])
def test_a_number_that_makes_no_sense_is_refused(argument, make):
    with pytest.raises((ValueError, TypeError)):
        make(0, argument)
    with pytest.raises((ValueError, TypeError)):
        make(argument, 1)


@pytest.mark.parametrize("timeout", [-1, "long"])
def test_a_timeout_that_makes_no_sense_is_refused(timeout, make):
    with pytest.raises((ValueError, TypeError)):
        make(timeout=timeout)


@pytest.mark.parametrize("name", [
    "AbstractConnectionPool", "SimpleConnectionPool", "ThreadedConnectionPool"])
def test_each_class_is_a_subclass_of_psycopg2s(name, make):
    pool = make(1, 2, kind=getattr(psycopg2pool, name))
    assert isinstance(pool, getattr(psycopg2.pool, name))
    conn = pool.getconn("a")
    assert pool.getconn("a") is conn and value(conn, "select 6 * 7") == 42
    pool.putconn(conn)
    pool.closeall()


def test_a_program_finds_all_names_here():
    assert set(psycopg2pool.__all__) >= {
        name for name, thing in vars(psycopg2.pool).items() if isinstance(thing, type)}
    assert psycopg2pool.PoolError is psycopg2.pool.PoolError


# -- keys


def test_the_same_key_gives_the_same_connection(makeEither):
    pool = makeEither(1, 3)
    conn = pool.getconn("a")
    assert pool.getconn("a") is pool.getconn(key="a") is conn
    assert pool.getconn("b") is not conn
    assert pool.getconn() not in (conn, pool.getconn("b"))


def test_a_keyed_connection_is_put_back_with_or_without_its_key(makeEither):
    pool = makeEither(1, 1)
    for put in (lambda conn: pool.putconn(conn, "a"), lambda conn: pool.putconn(conn, key="a"),
                pool.putconn):
        put(pool.getconn("a"))
        conn = pool.getconn("b")
        pool.putconn(conn, key="b")


def test_a_key_is_free_again_after_putconn(makeEither):
    pool = makeEither(2, 2)
    first = pool.getconn("a")
    pool.putconn(first, "a")
    other = pool.getconn("b")
    assert pool.getconn("a") is not other


@pytest.mark.parametrize("key", [0, 1, 2, "", (), False, threading])
def test_a_key_of_the_program_is_never_that_of_a_connection_without_one(key, make):
    pool = make(0, 3)
    unkeyed = pool.getconn(), pool.getconn()
    assert pool.getconn(key) not in unkeyed


def test_threads_that_ask_for_one_key_at_once_get_one_connection(make, admin):
    gate = Gate()

    def connect(*args):
        gate()
        return connection(*args)

    pool = make(0, 2, connection_factory=connect)
    threads = [start(pool.getconn, "a") for _ in range(2)]
    for _ in threads:
        gate.awaitArrival()
    gate.open()
    conns = {id(thread.result()) for thread in threads}
    assert len(conns) == 1
    assert len(pool._used) == len(pool._pool) == 1


def test_a_wait_in_vain_ends_with_what_its_key_got_meanwhile(make, monkeypatch):
    pool = make()

    def take(timeout):
        monkeypatch.undo()
        got.append(pool.getconn("a"))
        raise queuepool.PoolTimeout("too late")

    got = []
    monkeypatch.setattr(pool.connectionPool, "take", take)
    assert pool.getconn("a") is got[0]


# -- putconn


def test_a_connection_is_used_again(makeEither):
    pool = makeEither(1, 1)
    pids = set()
    for _ in range(3):
        conn = pool.getconn()
        pids.add(conn.get_backend_pid())
        pool.putconn(conn)
    assert len(pids) == 1


def test_putconn_with_close_discards_the_connection(makeEither, admin):
    pool = makeEither(1, 1)
    conn = pool.getconn("a")
    pid = conn.get_backend_pid()
    pool.putconn(conn, "a", close=True)
    assert conn.closed
    awaitTrue(lambda: admin.backends() == 0)
    assert pool.getconn("a").get_backend_pid() != pid


@pytest.mark.parametrize("close", [False, True])
def test_what_is_not_of_this_pool_is_refused(close, makeEither, appDsn):
    pool, other = makeEither(1, 1), makeEither(1, 1)
    others = other.getconn()
    with contextlib.closing(psycopg2.connect(appDsn)) as own:
        for conn in own, others, None, "nonsense":
            with pytest.raises(psycopg2.pool.PoolError, match="unkeyed"):
                pool.putconn(conn, close=close)
        assert not own.closed and not others.closed
    other.putconn(others)
    pool.putconn(pool.getconn())


def test_putting_twice_is_refused(makeEither):
    pool = makeEither(1, 2)
    conn = pool.getconn()
    pool.putconn(conn)
    with pytest.raises(psycopg2.pool.PoolError, match="^trying to put unkeyed connection$"):
        pool.putconn(conn)
    first, second = pool.getconn(), pool.getconn()
    assert first is not second


def test_a_wrong_key_is_refused_and_changes_nothing(make):
    pool = make(0, 2)
    first, second = pool.getconn("a"), pool.getconn("b")
    for conn, key in (first, "b"), (second, "a"), (first, "c"), ("nonsense", "a"):
        with pytest.raises(psycopg2.pool.PoolError, match="unkeyed"):
            pool.putconn(conn, key, close=True)
    assert pool.getconn("a") is first and pool.getconn("b") is second
    assert not first.closed and not second.closed
    pool.putconn(first, "a")
    pool.putconn(second)


def test_the_key_alone_puts_its_connection_back(make):
    pool = make()
    pool.getconn("a")
    pool.putconn(key="a")
    pool.putconn(pool.getconn("b"))


# -- in what state a connection comes back


INSERT = "insert into t values (1)"


@pytest.fixture
def table(admin):
    admin.query("create table t (a int)")
    return lambda: admin.value("select count(*) from t")


def test_an_open_transaction_is_rolled_back(makeEither, table, admin):
    pool = makeEither(1, 1)
    conn = pool.getconn()
    run(conn, INSERT)
    pool.putconn(conn)
    assert conn.get_transaction_status() == TRANSACTION_STATUS_IDLE
    again = pool.getconn()
    again.commit()
    assert again is conn and table() == 0


def test_a_failed_transaction_is_rolled_back(makeEither, table):
    pool = makeEither(1, 1)
    conn = pool.getconn()
    run(conn, INSERT)
    with pytest.raises(psycopg2.errors.DivisionByZero):
        run(conn, "select 1 / 0")
    pool.putconn(conn)
    again = pool.getconn()
    assert again is conn and value(again, "select 6 * 7") == 42


def test_what_was_committed_stays(makeEither, table):
    pool = makeEither(1, 1)
    conn = pool.getconn()
    with conn:
        run(conn, INSERT)
    pool.putconn(conn)
    assert table() == 1


def test_a_connection_that_broke_in_use_is_closed(makeEither, admin):
    pool = makeEither(1, 1)
    conn = pool.getconn()
    admin.terminate(conn.get_backend_pid())
    with pytest.raises(psycopg2.OperationalError):
        run(conn, "select 1")
    pool.putconn(conn)
    assert conn.closed
    assert value(pool.getconn(), "select 6 * 7") == 42


def test_a_connection_that_its_user_closed_is_replaced(makeEither):
    pool = makeEither(1, 1)
    conn = pool.getconn()
    conn.close()
    pool.putconn(conn)
    again = pool.getconn()
    assert again is not conn and value(again, "select 6 * 7") == 42


def test_a_connection_that_died_in_the_pool_is_not_given(make, admin):
    pool = make(3, 3)
    conns = [pool.getconn() for _ in range(3)]
    pids = [conn.get_backend_pid() for conn in conns]
    putAll(pool, conns)
    admin.terminate(*pids)
    for _ in range(3):
        assert value(pool.getconn(), "select 6 * 7") == 42


def test_settings_are_set_back(make):
    pool = make(1, 1)
    conn = pool.getconn()
    conn.autocommit = True
    pool.putconn(conn)
    assert pool.getconn() is conn and not conn.autocommit


# -- how many stay open


def test_what_is_used_stays_open_and_minconn_for_good(make, admin):
    clock = FakeClock()
    pool = make(2, 5, clock=clock)
    putAll(pool, [pool.getconn() for _ in range(5)])
    assert admin.backends() == len(pool._pool) == 5
    clock.advance(200)
    pool.putconn(pool.getconn())
    clock.advance(200)
    pool.connectionPool.recycle()  # also opens another for each of minconn that has expired
    awaitTrue(lambda: admin.backends() == 2)
    assert len(pool._pool) == 2


def recyclers(pool):
    name = f"queuepool recycler {type(pool).__name__}"
    return [thread for thread in threading.enumerate() if thread.name == name]


def test_a_recycler_runs_once_more_than_minconn_are_open(make):
    class Own(psycopg2pool.ThreadedConnectionPool):
        pass

    pool = make(2, 5, kind=Own)
    conns = [pool.getconn() for _ in range(2)]
    assert not recyclers(pool)
    conns.append(pool.getconn())
    assert len(recyclers(pool)) == 1
    putAll(pool, conns)
    pool.closeall()
    awaitTrue(lambda: not recyclers(pool))


def test_a_recycler_that_cannot_start_hinders_nobody(make, monkeypatch):
    pool = make()

    def fail(interval=60):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(pool.connectionPool, "startRecycler", fail)
    assert value(pool.getconn(), "select 6 * 7") == 42


def test_maxconn_may_be_changed(make):
    pool = make(0, 1)
    first = pool.getconn()
    waiting = start(pool.getconn)
    awaitWaiting(pool.connectionPool, 1)
    pool.maxconn = 2
    second = waiting.result()
    assert pool.maxconn == 2 and second is not first


# -- closeall


def test_closeall_closes_what_is_idle_and_what_is_used(makeEither, admin):
    pool = makeEither(3, 5)
    conn, keyed = pool.getconn(), pool.getconn("a")
    run(conn, "select 1")
    pool.closeall()
    assert pool.closed and conn.closed and keyed.closed
    awaitTrue(lambda: admin.backends() == 0)
    with pytest.raises(psycopg2.InterfaceError, match="already closed"):
        conn.cursor()


def test_a_closed_pool_refuses_everything(makeEither):
    pool = makeEither(1, 2)
    conn = pool.getconn()
    pool.closeall()
    for call in (pool.getconn, pool.closeall, lambda: pool.getconn("a"),
                 lambda: pool.putconn(conn), lambda: pool.putconn(conn, close=True),
                 lambda: pool.putconn(None)):
        with pytest.raises(psycopg2.pool.PoolError, match="^connection pool is closed$"):
            call()


def test_closeall_leaves_a_whole_account(make):
    pool = make(1, 3)
    pool.getconn(), pool.getconn("a")
    pool.closeall()
    stats = pool.connectionPool.stats()
    assert stats.opens == stats.closes == 2 and stats.taken == stats.open == 0


@pytest.mark.usefixtures("posix")
def test_closeall_does_not_wait_for_a_statement(make, admin):
    pool = make(0, 1)
    conn = pool.getconn()
    pid = conn.get_backend_pid()
    running = start(run, conn, "select pg_sleep(600)")
    awaitTrue(lambda: admin.isAt(conn, "%pg_sleep%"))
    pool.closeall()
    with pytest.raises((psycopg2.OperationalError, psycopg2.InterfaceError)):
        running.result()
    assert conn.closed
    admin.terminate(pid)


def test_closeall_asks_the_server_for_nothing(make, wireDsn, wire):
    pool = make(0, 1, wireDsn)
    conn = pool.getconn()
    run(conn, "select 1")  # begins a transaction
    pool.closeall()
    assert conn.closed and b"ROLLBACK" not in wire.said


def test_those_who_wait_learn_that_the_pool_is_closed(make):
    pool = make()
    pool.getconn()
    waiting = [start(pool.getconn) for _ in range(3)]
    awaitWaiting(pool.connectionPool, 3)
    pool.closeall()
    for thread in waiting:
        with pytest.raises(psycopg2.pool.PoolError, match="^connection pool is closed$"):
            thread.result()


def test_one_that_is_got_while_the_pool_is_closed_is_closed(make, monkeypatch, admin):
    pool = make()
    take = pool.connectionPool.take

    def takeLate(timeout):
        handle = take(timeout)
        pool.closeall()
        return handle

    monkeypatch.setattr(pool.connectionPool, "take", takeLate)
    with pytest.raises(psycopg2.pool.PoolError, match="^connection pool is closed$"):
        pool.getconn()
    awaitTrue(lambda: admin.backends() == 0)


def test_of_two_closealls_at_once_one_is_told(make):
    pool = make(2, 2)

    def close():
        try:
            pool.closeall()
        except psycopg2.pool.PoolError:
            return "told"

    assert sorted(map(str, runTogether(close, close))) == ["None", "told"]


# -- waiting


def test_a_wait_in_vain_raises_a_pool_error_of_both(make):
    pool = make(0, 1, timeout=0.01)
    conn = pool.getconn()
    with pytest.raises(psycopg2.pool.PoolError, match="^connection pool exhausted") as info:
        pool.getconn()
    assert isinstance(info.value, queuepool.PoolTimeout)
    assert isinstance(info.value, psycopg2pool.PoolTimeout)
    assert not isinstance(info.value, psycopg2.OperationalError)  # no connection is lost
    assert "capacity 1, checked out 1" in str(info.value)
    pool.putconn(conn)
    assert pool.getconn() is conn


def test_the_timeout_is_thirty_seconds_unless_told(make):
    assert make().connectionPool.takeTimeout == 30.0
    assert make(timeout=None).connectionPool.takeTimeout is None


def test_the_timeout_is_told_of_the_last_failure_to_connect(make, dsn):
    pool = make(0, 1, dsn, host="/nowhere", timeout=0.05, openRetryTime=60)
    with pytest.raises(psycopg2.pool.PoolError) as info:
        pool.getconn()
    assert isinstance(info.value.__cause__, psycopg2.OperationalError)


def test_threads_are_served_first_come_first_served(make):
    pool = make()
    conn = pool.getconn()
    served = []

    def work(number):
        conn = pool.getconn()
        served.append(number)
        pool.putconn(conn)

    threads = []
    for number in range(10):
        threads.append(start(work, number))
        awaitWaiting(pool.connectionPool, number + 1)
    pool.putconn(conn)
    for thread in threads:
        thread.result()
    assert served == list(range(10))


def test_more_threads_than_connections_are_all_served(make, table, admin):
    pool = make(1, 3)

    def work():
        for _ in range(10):
            conn = pool.getconn()
            try:
                run(conn, INSERT)
                conn.commit()
            finally:
                pool.putconn(conn)

    runTogether(*[work] * 12)
    assert table() == 120
    assert admin.backends() <= 3 and not pool._used


# -- as people use it


def test_get_try_finally_put(makeEither, table):
    pool = makeEither(1, 1)
    for hasToFail in True, False, True:
        conn = None
        try:
            conn = pool.getconn()
            with conn.cursor() as cur:
                cur.execute(INSERT)
                if hasToFail:
                    cur.execute("select 1 / 0")
            conn.commit()
        except psycopg2.Error:
            conn.rollback()
        finally:
            if conn is not None:
                pool.putconn(conn)
    assert table() == 1


def test_a_context_manager_of_the_program(makeEither, table):
    pool = makeEither(1, 1)

    @contextlib.contextmanager
    def cursor(commit=False):
        conn = pool.getconn()
        try:
            with conn.cursor() as cur:
                yield cur
            if commit:
                conn.commit()
        except Exception:
            conn.rollback()
            raise
        finally:
            pool.putconn(conn)

    with cursor(commit=True) as cur:
        cur.execute(INSERT)
    with cursor() as cur:
        cur.execute(INSERT)
    with pytest.raises(ZeroDivisionError), cursor(commit=True) as cur:
        cur.execute(INSERT)
        1 / 0
    assert table() == 1


def test_a_connection_for_each_thread_by_its_ident(makeEither):
    pool = makeEither(0, 3)
    barrier = threading.Barrier(3)

    def work():
        me = threading.get_ident()
        conn = pool.getconn(me)
        barrier.wait(PATIENCE)
        assert pool.getconn(me) is conn
        barrier.wait(PATIENCE)
        pid = conn.get_backend_pid()
        pool.putconn(conn, me)
        return pid

    assert len(set(runTogether(work, work, work))) == 3


def test_a_check_of_ones_own_that_discards(makeEither, admin):
    pool = makeEither(1, 1)
    conn = pool.getconn()
    admin.terminate(conn.get_backend_pid())
    try:
        run(conn, "select 1")
    except (psycopg2.OperationalError, psycopg2.InterfaceError):
        pool.putconn(conn, close=True)
        conn = pool.getconn()
    assert value(conn, "select 6 * 7") == 42


def test_a_thread_that_dies_takes_its_connection_along(makeEither, admin):
    pool = makeEither(0, 2)

    def die():
        conn = pool.getconn("mine")
        run(conn, "select 1")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        start(die).result()
    conn = pool.getconn()
    with pytest.raises(psycopg2.pool.PoolError, match="exhausted"):
        pool.getconn()
    assert value(pool.getconn("mine"), "select 6 * 7") == 42  # the key leads to it
    pool.putconn(conn)
    pool.closeall()
    awaitTrue(lambda: admin.backends() == 0)


def test_a_pool_that_nobody_holds_leaves_its_connection_alone(makeEither, appDsn):
    conn = makeEither.kind(1, 5, appDsn).getconn()
    gc.collect()
    assert value(conn, "select 6 * 7") == 42
    conn.close()


def test_lengths_of_what_is_used_and_what_is_idle(makeEither):
    pool = makeEither(3, 5)
    conn = pool.getconn("a")
    assert (len(pool._used), len(pool._rused), len(pool._pool)) == (1, 1, 2)
    assert pool._used == {"a": conn} and pool._rused == {id(conn): "a"}
    pool.putconn(conn)
    assert (len(pool._used), len(pool._rused), len(pool._pool)) == (0, 0, 3)


class Proxy:
    """What an agent that watches a program makes of a connection."""

    def __init__(self, conn):
        self.__dict__.update(conn=conn)

    def __getattr__(self, name):
        return getattr(self.conn, name)

    def __setattr__(self, name, value):
        setattr(self.conn, name, value)


def test_putconn_accepts_what_an_agent_wrapped(makeEither, monkeypatch):
    connect = psycopg2.connect
    monkeypatch.setattr(
        psycopg2, "connect", lambda *args, **kwargs: Proxy(connect(*args, **kwargs)))
    pool = makeEither(1, 1)
    for put in (pool.putconn, lambda conn: pool.putconn(conn, "a"),
                lambda conn: pool.putconn(conn, close=True)):
        conn = pool.getconn("a")
        assert isinstance(conn, Proxy) and value(conn, "select 6 * 7") == 42
        put(conn)
    pool.getconn()
    pool.closeall()


# -- subclasses


def test_putconn_accepts_what_a_subclass_opened_under_an_agent(makeEither, monkeypatch):
    class Own(makeEither.kind):
        def _connect(self, key=None):
            return super()._connect(key)

    connect = psycopg2.connect
    monkeypatch.setattr(
        psycopg2, "connect", lambda *args, **kwargs: Proxy(connect(*args, **kwargs)))
    pool = makeEither(1, 1, kind=Own)
    for _ in range(2):
        conn = pool.getconn()
        assert isinstance(conn, Proxy) and value(conn, "select 6 * 7") == 42
        pool.putconn(conn)


def test_a_subclass_that_waits_by_a_semaphore(makeEither):
    class Own(makeEither.kind):
        def __init__(self, minconn, maxconn, *args, **kwargs):
            self._semaphore = threading.Semaphore(maxconn)
            super().__init__(minconn, maxconn, *args, **kwargs)

        def getconn(self, *args, **kwargs):
            self._semaphore.acquire()
            return super().getconn(*args, **kwargs)

        def putconn(self, *args, **kwargs):
            super().putconn(*args, **kwargs)
            self._semaphore.release()

    pool = makeEither(1, 2, kind=Own)

    def work():
        for _ in range(20):
            conn = pool.getconn()
            value(conn, "select 1")
            pool.putconn(conn)

    runTogether(*[work] * 5)


def test_a_subclass_that_prepares_each_new_connection(makeEither, admin):
    class Own(makeEither.kind):
        count = 0

        def _connect(self, key=None):
            conn = super()._connect(key)
            run(conn, "set search_path to pg_catalog")  # and does not commit
            self.count += 1
            return conn

    pool = makeEither(1, 2, kind=Own)
    for _ in range(3):
        conns = [pool.getconn(), pool.getconn()]
        for conn in conns:
            assert value(conn, "show search_path") == "pg_catalog"
            conn.commit()
        pool.putconn(conns[1], close=True)
        pool.putconn(conns[0])
    assert pool.count == 4
    awaitTrue(lambda: admin.backends() == 1)


def test_a_subclass_that_connects_by_itself(makeEither, parameters):
    """It works on psycopg2's private attributes, as many programs do."""
    class Own(makeEither.kind):
        def _connect(self, key=None):
            self._kwargs["user"] = parameters["user"]
            conn = psycopg2.connect(*self._args, **self._kwargs)
            conn.set_session(readonly=True, autocommit=True)
            if key is not None:
                self._used[key] = conn
                self._rused[id(conn)] = key
            else:
                self._pool.append(conn)
            return conn

    pool = makeEither(1, 2, None, kind=Own, **{**parameters, "user": "nobody"})
    for _ in range(2):
        conns = pool.getconn(), pool.getconn("a")
        assert conns[0] is not conns[1]
        for conn in conns:
            assert conn.autocommit and value(conn, "show transaction_read_only") == "on"
        putAll(pool, conns)


def test_what_a_connect_of_ones_own_raises_is_raised(makeEither):
    class Own(makeEither.kind):
        isAvailable = False

        def _connect(self, key=None):
            if not self.isAvailable:
                raise LookupError("no token")
            return super()._connect(key)

    pool = makeEither(0, 1, kind=Own)
    with pytest.raises(LookupError):
        pool.getconn()
    pool.isAvailable = True
    assert value(pool.getconn(), "select 6 * 7") == 42
    with pytest.raises(LookupError):
        makeEither(1, 1, kind=Own)


def test_a_connect_of_ones_own_may_have_arguments_of_its_own(makeEither, appDsn):
    class Own(makeEither.kind):
        def _connect(self, key=None):
            self._args, self._kwargs = (self._kwargs["connector"](),), {}
            return super()._connect(key)

    pool = makeEither(1, 1, None, kind=Own, connector=lambda: appDsn)
    assert value(pool.getconn(), "select 6 * 7") == 42


def test_a_subclass_with_keys_of_its_own(makeEither):
    class Own(makeEither.kind):
        def _getkey(self):
            return threading.get_ident()

    pool = makeEither(0, 2, kind=Own)
    conn = pool.getconn()
    assert pool.getconn() is conn
    other = start(pool.getconn).result()
    assert other is not conn
    putAll(pool, [conn, other])


@pytest.mark.parametrize("base", [
    psycopg2.pool.AbstractConnectionPool, psycopg2pool.AbstractConnectionPool], ids=nameOf)
def test_a_subclass_of_the_abstract_class(base, closing, appDsn):
    """It locks, so its getconn must not wait while its putconn needs that lock."""
    class Persistent(base):
        def __init__(self, minconn, maxconn, *args, **kwargs):
            base.__init__(self, minconn, maxconn, *args, **kwargs)
            self._lock = threading.Lock()

        def getconn(self):
            with self._lock:
                return self._getconn(threading.get_ident())

        def putconn(self, conn=None, close=False):
            key = threading.get_ident()
            with self._lock:
                self._putconn(conn or self._used[key], key, close)

        def closeall(self):
            with self._lock:
                self._closeall()

    pool = closing(Persistent(1, 1, appDsn))
    conn = pool.getconn()
    assert pool.getconn() is conn
    with pytest.raises(psycopg2.pool.PoolError, match="^connection pool exhausted"):
        start(pool.getconn).result()
    pool.putconn()
    assert start(pool.getconn).result() is conn
    pool.closeall()
    assert pool.closed and conn.closed


def test_a_pool_of_nothing_that_only_its_subclass_fills(makeEither):
    class Own(makeEither.kind):
        def getconn(self, key=None):
            return "a connection"

        def putconn(self, conn, key=None, close=False):
            assert conn == "a connection"

        def closeall(self):
            pass

    pool = makeEither(0, 0, kind=Own)
    pool.putconn(pool.getconn())


# -- a child process


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("close", [False, True])
def test_a_child_has_connections_of_its_own(close, make):
    pool = make(2, 2)
    conn, keyed = pool.getconn(), pool.getconn("a")
    pids = {conn.get_backend_pid(), keyed.get_backend_pid()}
    run(conn, "select 1")

    def check():
        assert not pool._used and not pool._rused
        mine = [pool.getconn("a"), pool.getconn()]
        assert {value(each, "select pg_backend_pid()") for each in mine}.isdisjoint(pids)
        pool.putconn(conn, close=close)
        pool.putconn(keyed, "a")
        assert pool.getconn("a") is mine[0]
        with pytest.raises(psycopg2.pool.PoolError):
            pool.putconn(conn)
        pool.closeall()
        assert all(each.closed for each in mine)

    assert inChild(check)
    assert pool.getconn("a") is keyed
    for each in conn, keyed:  # they were neither used nor closed by the child
        assert value(each, "select pg_backend_pid()") in pids
    putAll(pool, [conn, keyed])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_closeall_in_a_child_leaves_the_parents_connections_alone(make):
    pool = make(2, 2)
    conn = pool.getconn()

    def check():
        pool.closeall()
        assert pool.closed

    assert inChild(check)
    assert value(conn, "select 6 * 7") == 42
    assert value(pool.getconn(), "select 6 * 7") == 42


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_needs_no_lock_that_another_thread_held(make):
    pool = make(1, 1)
    next(pool.connectionPool._lock.steps)
    assert inChild(pool.getconn)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("end", [
    lambda pool, conn: pool.putconn(conn), lambda pool, conn: pool.putconn(conn, close=True),
    lambda pool, conn: pool.closeall()], ids=["put", "closed", "closeall"])
def test_what_another_threads_generator_puts_in_a_child_stays_the_parents(make, end):
    """CPython clears there what only that thread had, before the pool knows of the fork."""
    pool, local, gate, values = make(1, 2), threading.local(), Gate(), []

    def session():
        conn = pool.getconn()
        try:
            yield conn
        finally:
            end(pool, conn)

    def work():
        local.session = session()
        conn = next(local.session)
        run(conn, "create temporary table t (x int)")
        gate()
        values.append(value(conn, "select count(*) from t"))
        vars(local).clear()

    worker = start(work)
    gate.awaitArrival()
    assert inChild(lambda: None)
    gate.open()
    worker.result()
    assert values == [0]


def test_the_connection_pool_below_is_there_for_more(make):
    pool = make(1, 2, configure=lambda conn: run(conn, "set timezone to 'Etc/GMT+7'"))
    conn = pool.getconn()
    assert value(conn, "show timezone") == "Etc/GMT+7"
    pool.putconn(conn)
    assert pool.connectionPool.invalidate() == 0
    assert conn.closed
    assert value(pool.getconn(), "show timezone") == "Etc/GMT+7"
    assert pool.connectionPool.stats().taken == 1
