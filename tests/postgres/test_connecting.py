"""How connections are opened: arguments, defaults, secrets, and where no server answers."""

import contextlib
import inspect
import json
import logging
import os
import subprocess
import sys
import textwrap
import traceback

import psycopg2
import psycopg2.extras
import pytest
from psycopg2.extensions import make_dsn

from queuepool import Pool, PoolTimeout, Reason
from queuepool.psycopg2 import Connection, ConnectionPool, isConnectionError
from tests.helpers import awaitTrue


def run(conn, statement):
    with conn.cursor() as cur:
        cur.execute(statement)


def parametersOf(pool):
    with pool.take() as conn:
        return conn.get_dsn_parameters()


@pytest.fixture
def rotator(embeddedServer, admin):
    """A user who, unlike all others, has to tell the password."""
    path = os.path.join(embeddedServer.folder, "pg_hba.conf")
    with open(path) as file:
        before = file.read()

    def write(text):
        with open(path, "w") as file:
            file.write(text)
        admin.query("select pg_reload_conf()")

    admin.query("create role rotator login password 'first'")
    write("local all rotator scram-sha-256\n" + before)
    awaitTrue(lambda: admin.value(
        "select count(*) from pg_hba_file_rules where 'rotator' = any(user_name)"))
    yield "rotator"
    write(before)
    admin.query("drop role rotator")


# -- arguments

def test_defaults_keep_a_cut_link_from_being_waited_for(makePool):
    used = parametersOf(makePool())
    assert used["fallback_application_name"] == "pool"
    assert used["connect_timeout"] == "10"
    assert used["keepalives"] == "1"
    seconds = [int(used["keepalives_" + key]) for key in ("idle", "interval", "count")]
    assert seconds[0] + seconds[1] * seconds[2] <= 30
    assert used["tcp_user_timeout"] == "30000"


def test_keywords_override_the_dsn_and_the_dsn_the_defaults(makePool, dsn, parameters):
    own = dict(connect_timeout="3", keepalives_idle="7", application_name="mine")
    uri = "postgresql://{user}@/{dbname}?host={host}&port={port}&connect_timeout=3" \
        "&keepalives_idle=7&application_name=mine".format(**parameters)
    for pool in (makePool(**own), makePool(dsn=make_dsn(dsn, **own)), makePool(dsn=uri),
                 makePool(dsn=lambda: uri), makePool(dsn=None, **parameters, **own),
                 makePool(dsn=make_dsn(dsn, connect_timeout=4), **own)):
        used = parametersOf(pool)
        assert {key: used.get(key) for key in own} == own
        assert used["keepalives_count"] == "3"


def test_the_environments_connect_timeout_is_the_callers_own(makePool, monkeypatch):
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "4")
    assert parametersOf(makePool())["connect_timeout"] == "4"


def test_the_pools_own_options_reach_the_pool(makePool):
    pool = makePool(capacity=2, maxUsageCount=1, maxIdleTime=None, minOpen=1, takeTimeout=0.0)
    pool.recycle()
    assert pool.stats().open == 1
    with pool.take(), pool.take():
        with pytest.raises(PoolTimeout):
            pool.take()
    assert pool.stats().closesByReason[Reason.USAGE] == 2


def test_defaults_of_the_pool():
    pool = ConnectionPool("pool", 1)
    assert pool.takeTimeout == 30.0
    assert inspect.signature(ConnectionPool).parameters["jitter"].default == 0.1
    assert pool.closeOnException is isConnectionError
    assert not pool.closeOnException(psycopg2.InterfaceError())
    assert not pool.closeOnException(KeyError())


@pytest.mark.parametrize("options, error, text", [
    *((dict([(wrong, 3)]), TypeError, f"'{wrong}' is neither .*; did you mean '{right}'?")
      for wrong, right in (("takeTimout", "takeTimeout"), ("max_idle_time", "maxIdleTime"),
                           ("minconn", "minOpen"), ("pool_size", "capacity"),
                           ("pasword", "password"), ("sslmod", "sslmode"))),
    (dict(nothing_like_it=3), TypeError, "one of psycopg2.connect$"),
    (dict(async_=True), TypeError, "'async_' is not possible"),
    (dict(dsn="nonsense"), psycopg2.ProgrammingError, "missing"),
    (dict(factory=Connection), TypeError, "factory"),
    (dict(jitter=2), ValueError, "jitter"),
    (dict(pingTime="1"), ValueError, "pingTime must be None or a number of seconds >= 0, not a v"),
    (dict(pingTime=True), ValueError, "not a value of type bool"),
    (dict(pingTimeout=-1), ValueError, "pingTimeout must be .* not -1"),
    (dict(pingTimeout=None), ValueError, "pingTimeout must be .* not a value of type NoneType"),
    (dict(configure="SET x"), TypeError, "configure must be None or a callable, not a value of t"),
    (dict(maxWaiting=-1), ValueError, "maxWaiting must be an integer >= 0, not -1"),
    *((dict(reset=reset), ValueError, "reset must be None, 'discard' or a callable")
      for reset in ("rollback", 1, True)),
])
def test_wrong_options_are_refused_when_the_pool_is_made(options, error, text):
    with pytest.raises(error, match=text):
        ConnectionPool("pool", 1, **options)


@pytest.mark.parametrize("dsn", [
    "open-sesame", "host=here password=my open-sesame", "postgresql://me:open-sesame@[::1/db",
    "postgresql://me:open-sesame%@here/db", "postgresql://me:open-sesame@here/db?nonsense"])
@pytest.mark.parametrize("isCallable", [False, True])
def test_a_wrong_dsn_is_not_printed(dsn, isCallable):
    with pytest.raises(psycopg2.ProgrammingError) as caught:
        ConnectionPool("pool", 1, (lambda: dsn) if isCallable else dsn).take()
    printed = "".join(traceback.format_exception(caught.value))
    assert "sesame" not in printed and '"..."' in printed


@pytest.mark.parametrize("dsn", [
    "postgresql://me:1sesame/x@127.0.0.1:1/db", "postgresql://me:open@sesame@nowhere.invalid/db",
    "host=127.0.0.1 port=1 sslmode=sesame"])
def test_a_dsn_that_is_found_wrong_while_connecting_is_not_printed(dsn, caplog):
    with ConnectionPool("pool", 1, dsn, openRetryTime=0.05) as pool:
        with pytest.raises(PoolTimeout) as caught:
            pool.take()
    printed = "".join(traceback.format_exception(caught.value))
    assert "sesame" not in printed + caplog.text and '"..."' in printed


def test_factories_of_the_driver_are_handed_on(makePool):
    pool = makePool(cursor_factory=psycopg2.extras.RealDictCursor,
                    connection_factory=psycopg2.extras.MinTimeLoggingConnection)
    with pool.take() as conn:
        assert type(conn) is psycopg2.extras.MinTimeLoggingConnection
        assert conn.cursor_factory is psycopg2.extras.RealDictCursor


def test_callables_are_called_at_each_open(makePool, parameters):
    names = iter(["first", "second"])
    pool = makePool(dsn=None, **{**parameters, "host": lambda: parameters["host"]},
                    application_name=lambda: next(names))
    assert parametersOf(pool)["application_name"] == "first"
    assert parametersOf(pool)["application_name"] == "first"
    pool.invalidate()
    assert parametersOf(pool)["application_name"] == "second"


def test_a_password_that_changes(makePool, admin, rotator, dsn):
    passwords = ["first"]
    pool = makePool(user=rotator, password=lambda: passwords[-1])
    with pool.take():
        pass
    admin.query("alter role rotator password 'second'")
    with pool.take():
        pass  # what is open stays open
    pool.invalidate()
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        pool.take()
    passwords.append("second")
    with pool.take() as conn:
        run(conn, "select 1")
    assert pool.stats().opens == 2


def test_passwords_are_in_no_log_and_no_repr(makePool, admin, rotator, caplog):
    caplog.set_level(logging.DEBUG, "queuepool")
    secret = "open-sesame"
    pool = makePool(capacity=2, user=rotator, password=secret, minOpen=1)
    pool.recycle()  # logs the traceback
    with pytest.raises(psycopg2.OperationalError) as caught:
        pool.take()
    admin.query(f"alter role rotator password '{secret}'")
    taken = pool.take()
    told = [caplog.text, str(caught.value), repr(pool), str(pool), repr(taken), str(taken),
            repr(taken.resource)]
    assert "password authentication failed" in caplog.text and "opened" in caplog.text
    assert not [text for text in told if secret in text]
    pool.put(taken)


def test_a_connection_whose_settings_are_refused_is_closed(makePool, admin):
    conns = []

    class Kept(psycopg2.extensions.connection):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            conns.append(self)

    pool = makePool(isolation_level="NONSENSE", connection_factory=Kept)
    for _ in range(2):
        with pytest.raises(ValueError, match="isolation_level"):
            pool.take()
    assert [conn.closed for conn in conns] == [1, 1]
    awaitTrue(lambda: admin.backends() == 0)
    assert pool.stats().idle == 1


# -- fail-over

def openAll(pool):
    """Open all connections of a pool; return them, taken."""
    return [pool.take() for _ in range(pool.capacity)]


def invalidated(pool):
    return pool.stats().closesByReason[Reason.INVALIDATED]


def fail(pool, taken, use):
    """Let the user of a taken connection fail with an error of PostgreSQL's."""
    with contextlib.suppress(psycopg2.Error, LookupError, ExceptionGroup), taken as conn:
        use(conn)


def demoted(conn):
    """Do what a writer does on a primary that has become read-only."""
    conn.autocommit = True
    run(conn, "set default_transaction_read_only = on")
    run(conn, "create table t ()")


def wrapped(conn):
    try:
        demoted(conn)
    except psycopg2.Error as error:
        raise LookupError from error


def inContext(conn):
    try:
        demoted(conn)
    except psycopg2.Error:
        raise LookupError


def inGroup(conn):
    try:
        demoted(conn)
    except psycopg2.Error as error:
        raise ExceptionGroup("two", [ValueError(), error])


def handled(conn):
    run(conn, "set default_transaction_read_only = on")
    conn.commit()
    with contextlib.suppress(psycopg2.Error):
        run(conn, "create table t ()")


FAIL_OVERS = [demoted, wrapped, inContext, inGroup, handled]


@pytest.mark.parametrize("use", FAIL_OVERS)
def test_a_fail_over_seen_by_one_replaces_all(makePool, clock, use):
    pool = makePool(3, clock=clock)
    one, two, three = openAll(pool)
    pool.put(three)
    clock.advance(1.0)
    fail(pool, one, use)
    assert pool.stats().open == 1  # the idle one went at once
    pool.put(two)
    assert pool.stats().open == 0


@pytest.mark.parametrize("use", FAIL_OVERS)
def test_a_generation_is_replaced_once(makePool, clock, use):
    pool = makePool(3, clock=clock)
    one, two, three = openAll(pool)
    pool.put(three)
    clock.advance(1.0)
    fail(pool, one, use)
    fresh = pool.take()
    clock.advance(1.0)
    fail(pool, two, use)
    pool.put(fresh)
    assert pool.stats().open == 1
    with pool.take() as conn:
        assert conn is not None
    assert pool.stats().opens == 4


@pytest.mark.parametrize("use", FAIL_OVERS)
def test_a_fresh_connection_replaces_no_others(makePool, clock, use):
    pool = makePool(2, clock=clock)
    one, two = openAll(pool)
    clock.advance(0.9)
    fail(pool, one, use)
    pool.put(two)
    assert invalidated(pool) == 0


def readOnly(conn):
    run(conn, "set transaction read only; create table t ()")


@pytest.mark.parametrize("options, use", [
    ({}, readOnly),
    (dict(readonly=True), lambda conn: run(conn, "create table t ()")),
    (dict(readonly=True, autocommit=True), lambda conn: run(conn, "create table t ()")),
])
def test_a_transaction_that_is_read_only_by_choice_is_no_fail_over(
        makePool, clock, options, use):
    pool = makePool(2, clock=clock, **options)
    one, two = openAll(pool)
    clock.advance(1.0)
    with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction), one as conn:
        use(conn)
    pool.put(two)
    assert pool.stats().closes == 0


def test_the_fail_over_of_another_database_is_not_ours(makePool, clock, dsn):
    pool = makePool(2, clock=clock, autocommit=True)
    one, two = openAll(pool)
    clock.advance(1.0)
    with contextlib.closing(psycopg2.connect(dsn)) as other:
        with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction), one as conn:
            run(conn, "set default_transaction_read_only = on")
            demoted(other)
    pool.put(two)
    assert invalidated(pool) == 0


def test_a_refused_connect_replaces_what_was_open_before(makePool, wire, wireDsn, clock):
    pool = makePool(3, wireDsn, clock=clock)
    one, two = pool.take(), pool.take()
    pool.put(one)
    one = pool.take()
    clock.advance(0.1)
    wire.refuse()
    for _ in range(2):
        with pytest.raises(psycopg2.OperationalError, match="refused"):
            pool.take()
    pool.put(one)
    pool.put(two)
    assert invalidated(pool) == 2


def test_a_refused_connect_does_not_replace_what_was_opened_meanwhile(
        makePool, dsn, wire, wireDsn, clock):
    ways = [wireDsn]
    fresh = []

    def way():
        if len(ways) == 2 and not fresh:
            fresh.append(None)
            fresh[0] = pool.take()  # while the other's connect is under way
            return wireDsn
        return ways[-1]

    pool = makePool(3, way, clock=clock)
    old = pool.take()
    clock.advance(1.0)
    wire.refuse()
    ways.append(dsn)
    with pytest.raises(psycopg2.OperationalError, match="refused"):
        pool.take()
    pool.put(fresh[0])
    pool.put(old)
    assert invalidated(pool) == 0


def test_a_server_that_answers_with_a_refusal_replaces_nothing(makePool, dsn, clock):
    ways = [dsn]
    pool = makePool(2, lambda: ways[-1], clock=clock)
    one = pool.take()
    clock.advance(1.0)
    ways.append(make_dsn(dsn, dbname="nowhere"))
    with pytest.raises(psycopg2.OperationalError, match="does not exist"):
        pool.take()
    pool.put(one)
    assert pool.stats().closes == 0


def test_a_connection_in_no_pool_fails_as_the_driver_does():
    with pytest.raises(psycopg2.OperationalError):
        Connection("alone", host="127.0.0.1", port=1).open()


# -- processes

def runPython(script, *args):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore:This process", "-c",
         textwrap.dedent(script), *args],
        capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_leaves_the_parents_connections_alone(dsn, admin):
    out = runPython("""
        import gc, json, os, sys
        from queuepool.psycopg2 import ConnectionPool

        def pid(conn):
            with conn.cursor() as cur:
                cur.execute("select pg_backend_pid()")
                return cur.fetchone()[0]

        pool = ConnectionPool("pool", 2, sys.argv[1])
        taken = pool.take()
        with pool.take() as conn:
            idle = pid(conn)
        out, into = os.pipe()
        child = os.fork()
        if child == 0:
            with pool.take() as conn, pool.take() as other:
                pids = [pid(conn), pid(other)]
            pool.put(taken)
            del taken, conn, other
            gc.collect()
            pool.close()
            os.write(into, json.dumps(pids).encode())
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
        theirs = json.loads(os.read(out, 1000))
        second = pool.take()
        ours = [pid(taken.resource), pid(second.resource)]
        assert ours[1] == idle and not set(ours) & set(theirs), (ours, theirs)
        os.close(out), os.close(into)
        print(json.dumps(ours + theirs))
        pool.put(taken)
        pool.put(second)
        pool.close()
        """, dsn)
    assert len(set(json.loads(out))) == 4
    awaitTrue(lambda: admin.backends() == 0)


@pytest.mark.parametrize("module", ["psycopg2", "psycopg2cm"])
def test_without_the_driver_the_import_says_what_to_install(module):
    out = runPython("""
        import importlib, sys
        sys.modules["psycopg2"] = None
        import queuepool
        try:
            importlib.import_module("queuepool." + sys.argv[1])
        except ImportError as error:
            print(error.name, error)
        """, module)
    assert out.startswith("psycopg2 ") and "pip install psycopg2-binary" in out


def test_importing_the_pool_loads_no_driver():
    assert runPython("import sys, queuepool; print('psycopg2' in sys.modules)") == "False\n"


def test_a_pool_of_another_class_may_hold_them_too(dsn):
    with contextlib.closing(Pool("any", 1, factory=lambda name: Connection(
            name, None, None, None, True, lambda: dsn))) as pool:
        with pool.take() as conn:
            assert conn.autocommit
