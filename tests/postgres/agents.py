"""Agents that watch a program's queries, and what a pool has to do through their proxies.

An agent replaces psycopg2.connect by a function whose connections are proxies. What is checked is
the same for all of them: for those written here, and for those that people install.
"""

import contextlib
import functools
import io
import json
import sys
import traceback

import psycopg2
import psycopg2.extensions
import psycopg2.extras

from queuepool import Reason
from queuepool.psycopg2 import ConnectionPool
from tests.helpers import FakeClock, awaitTrue

# -- agents written here


class Bare:
    """A proxy that passes on its attributes and nothing else.

    No weak reference to it can be made, and it cannot be used in a with statement.
    """

    __slots__ = "_conn", "_traced"

    def __init__(self, conn, traced):
        object.__setattr__(self, "_conn", conn)
        object.__setattr__(self, "_traced", traced)

    def __getattr__(self, name):
        if name == "cursor":
            self._traced.append(name)
        return getattr(self._conn, name)

    def __setattr__(self, name, value):
        setattr(self._conn, name, value)


class WithCursors:
    """A proxy with cursors and a with statement of its own. It cannot be hashed."""

    def __init__(self, conn, traced):
        self.__dict__.update(_conn=conn, _traced=traced)

    def __getattr__(self, name):
        return getattr(self._conn, name)

    def __setattr__(self, name, value):
        setattr(self._conn, name, value)

    def __eq__(self, other):
        return self._conn == other

    def __enter__(self):
        self._conn.__enter__()
        return self

    def __exit__(self, *exc_info):
        return self._conn.__exit__(*exc_info)

    def cursor(self, *args, **kwargs):
        return CursorProxy(self._conn.cursor(*args, **kwargs), self._traced)


class CursorProxy:
    def __init__(self, cursor, traced):
        self.__dict__.update(_cursor=cursor, _traced=traced)

    def __getattr__(self, name):
        return getattr(self._cursor, name)

    def __setattr__(self, name, value):
        setattr(self._cursor, name, value)

    def __enter__(self):
        self._cursor.__enter__()
        return self

    def __exit__(self, *exc_info):
        return self._cursor.__exit__(*exc_info)

    def __iter__(self):
        return iter(self._cursor)

    def execute(self, statement, args=None):
        self._traced.append(statement)
        return self._cursor.execute(statement, args)


@functools.cache
def wraptClass():
    """Return a class of proxies such as most agents have."""
    import wrapt

    class TracedCursor(wrapt.ObjectProxy):
        def __init__(self, cursor, traced):
            super().__init__(cursor)
            self._self_traced = traced

        def __enter__(self):
            self.__wrapped__.__enter__()
            return self

        def execute(self, statement, args=None):
            self._self_traced.append(statement)
            return self.__wrapped__.execute(statement, args)

    class Traced(wrapt.ObjectProxy):
        def __init__(self, conn, traced):
            super().__init__(conn)
            self._self_traced = traced

        def cursor(self, *args, **kwargs):
            return TracedCursor(self.__wrapped__.cursor(*args, **kwargs), self._self_traced)

    return Traced


PROXIES = {"bare": lambda: Bare, "with cursors": lambda: WithCursors, "wrapt": wraptClass}


def patched(kind, traced):
    """Return what replaces psycopg2.connect."""
    connect = psycopg2.connect
    return lambda *args, **kwargs: PROXIES[kind]()(connect(*args, **kwargs), traced)


# -- agents that people install
#
# Each function patches psycopg2, and returns a function that tells how many queries were traced.

def datadog():
    import ddtrace
    from ddtrace.trace import TraceFilter, tracer
    traced = []

    class Keep(TraceFilter):
        def process_trace(self, trace):
            traced.extend(trace)  # and send nothing

    tracer.configure(trace_processors=[Keep()])
    ddtrace.patch(psycopg=True)
    return lambda: len(traced)


def elastic():
    import elasticapm
    from elasticapm.instrumentation.packages import psycopg2 as package
    traced = []

    class Client(elasticapm.Client):
        def queue(self, kind, data, flush=False):
            traced.append(data)

    package.Psycopg2Instrumentation().instrument()
    package.Psycopg2ExtensionsInstrumentation().instrument()
    Client(service_name="test").begin_transaction("test")
    return lambda: len(traced)


def openTelemetry():
    from opentelemetry.instrumentation.psycopg2 import Psycopg2Instrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    Psycopg2Instrumentor().instrument(tracer_provider=provider)
    return lambda: len(exporter.get_finished_spans())


def xRay():
    from aws_xray_sdk.core import patch, xray_recorder

    class Emitter:
        def send_entity(self, entity):
            pass

    xray_recorder.configure(emitter=Emitter(), sampling=False, streaming_threshold=10 ** 6)
    segment = xray_recorder.begin_segment("test")
    patch(["psycopg2"])
    return lambda: len(segment.subsegments)


def newRelic():
    from newrelic.hooks import database_psycopg2 as hooks

    hooks.instrument_psycopg2(psycopg2)
    hooks.instrument_psycopg2_extensions(psycopg2.extensions)
    return None  # it traces only what belongs to a transaction that it reports to its server


#: The function, the modules that it needs, and what keeps the agent from using the network.
AGENTS = {
    "ddtrace": (datadog, ["ddtrace"], dict(
        DD_TRACE_ENABLED="true", DD_TRACE_AGENT_URL="unix:///nowhere",
        DD_INSTRUMENTATION_TELEMETRY_ENABLED="false", DD_REMOTE_CONFIGURATION_ENABLED="false",
        DD_CRASHTRACKING_ENABLED="false", DD_TRACE_STARTUP_LOGS="false")),
    "elastic-apm": (elastic, ["elasticapm"], dict(
        ELASTIC_APM_DISABLE_SEND="true", ELASTIC_APM_CENTRAL_CONFIG="false",
        ELASTIC_APM_CLOUD_PROVIDER="none", ELASTIC_APM_METRICS_INTERVAL="0s",
        ELASTIC_APM_SPAN_COMPRESSION_ENABLED="false")),
    "opentelemetry": (openTelemetry, ["opentelemetry.instrumentation.psycopg2",
                                      "opentelemetry.sdk.trace"], {}),
    "aws-xray": (xRay, ["aws_xray_sdk"], dict(AWS_XRAY_CONTEXT_MISSING="IGNORE_ERROR")),
    "newrelic": (newRelic, ["newrelic"], dict(NEW_RELIC_MONITOR_MODE="false")),
}


# -- what is checked

def query(conn, statement):
    with conn.cursor() as cur:
        cur.execute(statement)
        return cur.fetchall() if cur.description else None


def value(conn, statement):
    return query(conn, statement)[0][0]


def rawOf(conn):
    """Return psycopg2's own connection."""
    with conn.cursor() as cur:
        return cur.connection


def settings(conn):
    return conn.isolation_level, conn.readonly, conn.deferrable, conn.autocommit


class Situation:
    """A database, pools that connect to it through the agent, a clock, and a look from outside.

    ``countTraced`` tells how many queries the agent has seen; None if it does not tell.
    """

    def __init__(self, dsn, countTraced, stack):
        self.dsn = dsn
        self.clock = FakeClock()
        self.countTraced = countTraced
        self._stack = stack
        # Not psycopg2.connect, which belongs to the agent.
        self.outside = stack.enter_context(contextlib.closing(
            psycopg2.extensions.connection(dsn)))
        self.outside.autocommit = True

    def pool(self, capacity=1, **options):
        return self._stack.enter_context(ConnectionPool(
            "pool", capacity, self.dsn, clock=self.clock, **options))

    def checkTraced(self, conn):
        before = self.countTraced and self.countTraced()
        assert value(conn, "select 42 as mine") == 42
        assert self.countTraced is None or self.countTraced() > before


CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


@check
def whatIsHandedOutIsTheAgents(at):
    with contextlib.closing(psycopg2.connect(at.dsn)) as its:
        pass
    pool = at.pool()
    for _ in range(2):
        with pool.take() as conn:
            assert type(conn) is type(its)
            at.checkTraced(conn)
    taken = pool.take()
    assert taken.resource is conn
    at.checkTraced(taken.resource)
    pool.put(taken)
    assert pool.stats().opens == 1


@check
def aTransactionOfTheUsers(at):
    pool = at.pool()
    query(at.outside, "create table written (a int)")
    with pool.take() as conn:
        query(conn, "insert into written values (0)")
        conn.commit()
    if hasattr(type(conn), "__enter__"):
        with pool.take() as conn, conn:
            query(conn, "insert into written values (1)")
        with contextlib.suppress(KeyError), pool.take() as conn, conn:
            query(conn, "insert into written values (2)")
            raise KeyError
        assert query(at.outside, "select a from written order by a") == [(0,), (1,)]
    with pool.take() as conn:
        query(conn, "insert into written values (3)")
    assert value(at.outside, "select max(a) from written") < 3
    assert pool.stats().closes == 0


def lastStatement(at, pid):
    return value(at.outside, f"select query from pg_stat_activity where pid = {pid}")


@check
def aPing(at):
    pool = at.pool(2, autocommit=True, pingTime=30.0)
    with pool.take() as conn:
        pid = value(conn, "select pg_backend_pid()")
    with pool.take():
        assert "pg_backend_pid" in lastStatement(at, pid)
    at.clock.advance(31.0)
    with pool.take() as again:
        assert again is conn
        assert "pg_backend_pid" not in lastStatement(at, pid)  # the pool has asked
        assert again.get_transaction_status() == 0
        at.checkTraced(again)
    assert pool.stats().closes == 0


@check
def aBeginByHandUnderAutocommit(at):
    pool = at.pool(autocommit=True)
    with pool.take() as conn:
        query(conn, "begin")
        query(conn, "create table begun ()")
    with pool.take() as again:
        assert again is conn and again.get_transaction_status() == 0
    assert value(at.outside, "select to_regclass('begun')") is None
    assert pool.stats().closes == 0


@check
def changedSettings(at):
    pool = at.pool(isolation_level="REPEATABLE READ")
    with pool.take() as conn:
        before = settings(conn)
        conn.set_session(isolation_level="SERIALIZABLE", readonly=True, deferrable=True)
        query(conn, "select 1")
    with pool.take() as conn:
        assert settings(conn) == before
        conn.autocommit = True
        query(conn, "select 1")
    with pool.take() as conn:
        assert settings(conn) == before
        assert value(conn, "show transaction_isolation") == "repeatable read"
    assert pool.stats().closes == 0


@check
def aDiscard(at):
    pool = at.pool(reset="discard")
    for _ in range(3):
        with pool.take() as conn:
            assert value(conn, "select to_regclass('pg_temp.mine')") is None
            assert value(conn, "show search_path") != "nowhere"
            assert value(conn, "select count(*) from pg_listening_channels()") == 0
            query(conn, "create temp table mine (); set search_path = nowhere; listen news")
            conn.commit()
            at.checkTraced(conn)
    assert pool.stats().opens == 1


@check
def whatTheServerReportsAsChanged(at):
    pool = at.pool()
    with pool.take() as conn:
        before = query(conn, "select session_user::text, current_setting('timezone')")
        query(conn, "set timezone = 'Asia/Tokyo'; set session authorization pg_monitor")
        conn.commit()
    with pool.take() as again:
        assert query(again, "select session_user::text, current_setting('timezone')") == before
        at.checkTraced(again)


def upper(conn):
    """Have a connection return its texts in upper case."""
    psycopg2.extensions.register_type(psycopg2.extensions.new_type(
        (25,), "UPPER", lambda text, cur: text and text.upper()), rawOf(conn))


@check
def whatIsLeftOnTheConnection(at):
    pool = at.pool()
    with pool.take() as conn:
        before = conn.cursor_factory, conn.encoding
        assert value(conn, "select 'a'::text") == "a"
    with pool.take() as conn:
        upper(conn)
        conn.cursor_factory = psycopg2.extras.RealDictCursor
        conn.set_client_encoding("LATIN1")
        query(conn, "do $$ begin raise notice 'n'; end $$")
        assert query(conn, "select 'a'::text as a") == [{"a": "A"}]
    with pool.take() as again:
        assert again is conn
        assert (again.cursor_factory, again.encoding) == before
        assert value(again, "select 'a'::text") == "a"
        assert not list(again.notices)
        at.checkTraced(again)
    assert pool.stats().closes == 0


@check
def aWithThatIsNeverLeft(at):
    pool = at.pool(autocommit=True)
    query(at.outside, "create table entered (a int)")
    with pool.take() as conn:
        rawOf(conn).__enter__()
        query(conn, "select 1")
    with pool.take() as conn:
        query(conn, "insert into entered values (1)")
    with pool.take() as conn:
        if hasattr(type(conn), "__enter__"):
            with conn:
                query(conn, "insert into entered values (2)")
        else:
            query(conn, "insert into entered values (2)")
    assert query(at.outside, "select a from entered order by a") == [(1,), (2,)]


@check
def aFailOver(at):
    pool = at.pool(3)
    one, two, three = (pool.take() for _ in range(3))
    pool.put(three)
    at.clock.advance(5.0)
    with contextlib.suppress(psycopg2.errors.ReadOnlySqlTransaction), one as conn:
        query(conn, "set default_transaction_read_only = on")
        conn.commit()
        query(conn, "create table refused ()")
        raise AssertionError("the server has not refused it")
    pool.put(two)
    assert pool.stats().closesByReason[Reason.INVALIDATED] >= 2


@check
def aConnectionThatTheServerEnds(at):
    pool = at.pool()
    with contextlib.suppress(psycopg2.OperationalError), pool.take() as conn:
        query(conn, "select pg_terminate_backend(pg_backend_pid())")
        raise AssertionError("the server has not ended it")
    assert conn.closed
    with pool.take() as conn:
        pid = value(conn, "select pg_backend_pid()")
    query(at.outside, f"select pg_terminate_backend({pid})")
    awaitTrue(lambda: not value(
        at.outside, f"select count(*) from pg_stat_activity where pid = {pid}"))
    with pool.take() as conn:
        at.checkTraced(conn)
        conn.close()
    with pool.take() as conn:
        at.checkTraced(conn)


@check
def aPutOfWhatWasHandedOut(at):
    pool = at.pool(2)
    for _ in range(2):
        taken = [pool.take() for _ in range(2)]
        conns = [each.resource for each in taken]
        for conn in conns:
            at.checkTraced(conn)
        for conn in conns:
            pool.put(conn)
    stats = pool.stats()
    assert (stats.idle, stats.taken, stats.opens) == (2, 0, 2)


@check
def aCursorFactoryOfThePools(at):
    pool = at.pool(cursor_factory=psycopg2.extras.RealDictCursor)
    for _ in range(2):
        with pool.take() as conn:
            assert query(conn, "select 1 as a") == [{"a": 1}]
            before = at.countTraced and at.countTraced()
            query(conn, "select 42 as mine")
            assert at.countTraced is None or at.countTraced() > before
            conn.cursor_factory = psycopg2.extras.NamedTupleCursor


@check
def aConnectionFactoryOfThePools(at):
    """Before it was configured, no cursor can be had of this one."""
    for options in ({}, dict(autocommit=True), dict(reset="discard")):
        pool = at.pool(connection_factory=psycopg2.extras.LoggingConnection,
                       configure=lambda conn: conn.initialize(io.StringIO()), **options)
        for statement in ("select 42 as mine", "begin"):
            with pool.take() as conn:
                query(conn, statement)
        at.clock.advance(31.0)
        with pool.take() as again:
            assert again is conn and again.get_transaction_status() == 0


@check
def aConfigure(at):
    configured = []

    def configure(conn):
        configured.append(conn)
        query(conn, "set timezone = 'Asia/Tokyo'")
        upper(conn)

    for options in ({}, dict(reset="discard")):
        pool = at.pool(configure=configure, **options)
        for _ in range(3):
            with pool.take() as conn:
                assert value(conn, "show timezone") == "ASIA/TOKYO"
                query(conn, "set timezone = 'Europe/Paris'; set role pg_monitor")
                conn.commit()
        assert pool.stats().opens == 1
    assert configured


def main(agent, dsn):
    """Run all checks with an agent; print the tracebacks of those that fail, by name."""
    countTraced = AGENTS[agent][0]()
    failed = {}
    for function in CHECKS:
        with contextlib.ExitStack() as stack:
            try:
                function(Situation(dsn, countTraced, stack))
            except Exception:
                failed[function.__name__] = traceback.format_exc()
    print(json.dumps(failed))


if __name__ == "__main__":
    main(*sys.argv[1:])
