"""Wait callbacks: psycogreen under gevent, and psycopg2's own in plain threads.

With a wait callback libpq knows no connect_timeout, and psycopg2 waits in Python.
"""

import os
import subprocess
import sys
import textwrap
import threading
import time

import psycopg2
import psycopg2.extras
import pytest
from psycopg2.extensions import connection

from queuepool import Reason
from queuepool.watchdog import Watchdog
from tests.helpers import awaitTrue, checkWhole, start

#: Seconds by which something may be late on a machine that is busy.
LATE = 2.0

# -- gevent, in a process of its own, since its patches are not undone

PROLOGUE = """
    from gevent import monkey
    monkey.patch_all()
    from psycogreen.gevent import patch_psycopg
    patch_psycopg()
    import atexit, contextlib, logging, signal, socket, sys, time
    import gevent
    import psycopg2
    from psycopg2.extensions import make_dsn, parse_dsn
    from queuepool import PoolTimeout, Reason
    from queuepool.psycopg2 import ConnectionPool
    from tests.helpers import awaitTrue, checkWhole
    from tests.postgres.wire import Wire

    signal.alarm(50)  # a process that is frozen is ended
    dsn = sys.argv[1]
    logging.basicConfig(level=logging.ERROR)
    listeners = contextlib.ExitStack()
    atexit.register(listeners.close)


    def ask(conn, statement="select 1"):
        with conn.cursor() as cur:
            cur.execute(statement)
            return cur.fetchone()[0]


    def use(pool):
        '''Take and use a connection; return how it went and for how many seconds.'''
        startedAt = time.monotonic()
        try:
            with pool.take() as conn:
                ask(conn)
        except Exception as error:
            return f"{type(error).__name__}: {error}", time.monotonic() - startedAt
        return "served", time.monotonic() - startedAt


    def together(pool, count):
        greenlets = [gevent.spawn(use, pool) for _ in range(count)]
        gevent.joinall(greenlets, timeout=30, raise_error=True)
        return [greenlet.get(block=False) for greenlet in greenlets]


    class Heart:
        '''Beats while other greenlets are served.'''

        def __enter__(self):
            self.longest = 0.0
            self._greenlet = gevent.spawn(self._beat)
            gevent.sleep(0)
            return self

        def _beat(self):
            while True:
                startedAt = time.monotonic()
                gevent.sleep(0.01)
                self.longest = max(self.longest, time.monotonic() - startedAt)

        def __exit__(self, *exc_info):
            gevent.sleep(0.02)
            self._greenlet.kill()


    def silent():
        '''Return the DSN of a host that accepts connections and says nothing.'''
        listener = listeners.enter_context(socket.create_server(("127.0.0.1", 0), backlog=50))
        return make_dsn(host="127.0.0.1", port=listener.getsockname()[1], user="me", dbname="db")


    def sleepLong(conn):
        '''Run a long statement, and return the error that ends it.'''
        try:
            ask(conn, "select pg_sleep(20)")
        except psycopg2.Error as error:
            return error
"""

BUSY_PUT = """
    pool = ConnectionPool("pool", 1, dsn)
    taken = pool.take()
    raw = taken.resource
    greenlet = gevent.spawn(sleepLong, raw)
    awaitTrue(lambda: raw.get_transaction_status() == 1)  # active
    with Heart() as heart:
        startedAt = time.monotonic()
        pool.put(taken)
        seconds = time.monotonic() - startedAt
        assert use(pool)[0] == "served"
        assert greenlet.get(timeout=10) is not None
    assert seconds < 1.0 and heart.longest < 1.0, (seconds, heart.longest)
    assert raw.closed
    assert pool.stats().closesByReason[Reason.REPAIR] == 1
    checkWhole(pool)
    pool.close()
"""

BUSY_EXCEPTION = """
    pool = ConnectionPool("pool", 1, dsn)
    with Heart() as heart:
        try:
            with gevent.Timeout(0.1), pool.take() as conn:
                greenlet = gevent.spawn(sleepLong, conn)
                gevent.sleep(20)
        except gevent.Timeout:
            pass
        assert use(pool)[0] == "served"
        assert greenlet.get(timeout=10) is not None
    assert heart.longest < 1.0, heart.longest
    checkWhole(pool)
    pool.close()
"""

SILENT_CONNECT = """
    ways = [dsn]
    pool = ConnectionPool("pool", 5, lambda: ways.pop() if len(ways) > 1 else ways[0],
                          connect_timeout=2, takeTimeout=15, openRetryTime=15)
    assert {outcome for outcome, _ in together(pool, 5)} == {"served"}
    pool.invalidate()
    ways.append(silent())
    with Heart() as heart:
        outcomes = together(pool, 8)
    assert {outcome for outcome, _ in outcomes} == {"served"}, outcomes
    assert max(seconds for _, seconds in outcomes) < 2.0 + 2.0, outcomes
    assert max(seconds for _, seconds in together(pool, 8)) < 1.0
    stats = pool.stats()
    assert stats.openErrors == 1 and stats.timeouts == 0, stats
    assert heart.longest < 1.0, heart.longest
    for each in [pool.take() for _ in range(5)]:  # the one that failed is opened now
        pool.put(each)
    checkWhole(pool)
    pool.close()
"""

SILENT_CONNECT_AND_OTHERS = """
    ways = [dsn, silent()]
    pool = ConnectionPool("pool", 2, lambda: ways.pop() if len(ways) > 1 else ways[0],
                          connect_timeout=2)
    first = gevent.spawn(use, pool)
    awaitTrue(lambda: len(ways) == 1)
    for _ in range(3):
        outcome, seconds = use(pool)
        assert outcome == "served" and seconds < 1.0
    assert not first.ready()
    outcome, seconds = first.get(timeout=10)
    assert outcome == "OperationalError: timeout expired: no connection within 2 s", outcome
    assert 1.5 < seconds < 4.0, seconds
    checkWhole(pool)
    pool.close()
"""

DEADLINE = """
    pool = ConnectionPool("pool", 1, silent(), connect_timeout=30, takeTimeout=1.0)
    outcome, seconds = use(pool)
    assert outcome.startswith("OperationalError: timeout expired"), outcome
    assert seconds < 4.0, seconds
    port = parse_dsn(silent())["port"]
    pool = ConnectionPool("pool", 1, host="127.0.0.1,127.0.0.1", port=f"{port},{port}",
                          user="me", dbname="db", connect_timeout=30, takeTimeout=1.0)
    outcome, seconds = use(pool)
    assert outcome.startswith("OperationalError: timeout expired"), outcome
    assert seconds < 6.0, seconds
"""

SILENT_PING = """
    parameters = parse_dsn(dsn)
    with Wire(f"{parameters['host']}/.s.PGSQL.{parameters['port']}") as wire:
        ways = [make_dsn(dsn, host="127.0.0.1", port=wire.port)]
        pool = ConnectionPool("pool", 3, lambda: ways[-1], pingTime=0.0, pingTimeout=0.5)
        taken = [pool.take() for _ in range(3)]
        for each in taken:
            pool.put(each)
        wire.hold()
        ways.append(dsn)
        with Heart() as heart:
            outcomes = together(pool, 3)
        assert {outcome for outcome, _ in outcomes} == {"served"}, outcomes
        assert max(seconds for _, seconds in outcomes) < 0.5 + 2.0, outcomes
        assert heart.longest < 0.4, heart.longest
        assert max(seconds for _, seconds in together(pool, 3)) < 0.4
        checkWhole(pool)
        pool.close()
"""

PROGRAMS = {
    "put while another greenlet queries": BUSY_PUT,
    "timed out while another greenlet queries": BUSY_EXCEPTION,
    "one silent connect in an outage": SILENT_CONNECT,
    "one silent connect": SILENT_CONNECT_AND_OTHERS,
    "a take's deadline": DEADLINE,
    "a silent ping": SILENT_PING,
}


@pytest.mark.usefixtures("posix")
@pytest.mark.timeout(60)
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_gevent(program, dsn):
    pytest.importorskip("gevent", reason="gevent is not installed")
    pytest.importorskip("psycogreen", reason="psycogreen is not installed")
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c",
         textwrap.dedent(PROLOGUE) + textwrap.dedent(program), dsn],
        capture_output=True, text=True, timeout=55,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# -- psycopg2's own wait callback, in plain threads

def ask(conn, statement="select 1"):
    with conn.cursor() as cur:
        cur.execute(statement)
        return cur.fetchone()[0]


def secondsOf(function, *args):
    startedAt = time.monotonic()
    function(*args)
    return time.monotonic() - startedAt


def test_an_ordinary_life(makePool, green, caplog):
    pool = makePool(2, minOpen=1, pingTime=0.0, configure=lambda conn: ask(conn))
    pool.recycle()
    for _ in range(3):
        with pool.take() as conn, conn:
            ask(conn)
    with pytest.raises(psycopg2.errors.DivisionByZero), pool.take() as conn:
        ask(conn, "select 1/0")
    checkWhole(pool)
    assert pool.stats().opens == 2 and pool.stats().closes == 0
    assert not caplog.records


@pytest.mark.usefixtures("posix")
@pytest.mark.timeout(60)
def test_a_silent_peer_at_connect_costs_its_limit(makePool, green, silent):
    pool = makePool(host="127.0.0.1", port=silent, connect_timeout=2)

    def fail():
        with pytest.raises(psycopg2.OperationalError,
                           match="^timeout expired: no connection within 2 s$"):
            pool.take()

    assert 1.5 < secondsOf(fail) < 2.0 + LATE
    assert pool.stats().idle == 1


@pytest.mark.usefixtures("posix")
@pytest.mark.timeout(60)
def test_a_silent_peer_at_connect_costs_no_more_than_the_take_has(makePool, green, silent):
    pool = makePool(host="127.0.0.1", port=silent, connect_timeout=30)

    def fail():
        with pytest.raises(psycopg2.OperationalError, match="^timeout expired"):
            pool.take(timeout=0.1)

    assert secondsOf(fail) < 2.0 + LATE


@pytest.mark.usefixtures("posix")
@pytest.mark.timeout(60)
@pytest.mark.parametrize("hosts", [1, 2])
def test_each_host_that_does_not_answer_costs_its_limit(makePool, green, full, hosts):
    pool = makePool(host=",".join(["127.0.0.1"] * hosts), port=",".join([str(full)] * hosts),
                    connect_timeout=2)

    def fail():
        with pytest.raises(psycopg2.OperationalError, match="^timeout expired"):
            pool.take()

    assert secondsOf(fail) < 2.0 * hosts + LATE


@pytest.mark.timeout(60)
def test_a_silent_peer_at_a_ping_costs_its_limit_once(makePool, green, wire, wireDsn, dsn):
    ways = [wireDsn]
    pool = makePool(3, lambda: ways[-1], pingTime=0.0, pingTimeout=0.3)
    for each in [pool.take() for _ in range(3)]:
        pool.put(each)
    wire.hold()
    ways.append(dsn)
    for each in [pool.take() for _ in range(3)]:
        ask(each.resource)
        pool.put(each)
    closes = pool.stats().closesByReason
    assert closes[Reason.REPAIR] == 1 and closes[Reason.INVALIDATED] == 2
    checkWhole(pool)


@pytest.mark.timeout(60)
@pytest.mark.usefixtures("posix")
def test_a_put_while_another_thread_queries_does_not_wait(makePool, green, admin):
    pool = makePool()
    taken = pool.take()
    raw = taken.resource

    def busy():
        with pytest.raises(psycopg2.Error):
            ask(raw, "select pg_sleep(60)")

    running = start(busy)
    awaitTrue(lambda: admin.count(raw.info.backend_pid, "active", "select pg_sleep%"))
    assert secondsOf(pool.put, taken) < LATE
    running.result()
    with pool.take() as conn:
        assert conn is not raw and ask(conn) == 1


def test_where_no_thread_can_be_started_a_connect_has_no_limit(makePool, green, monkeypatch):
    def noThread(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("queuepool.watchdog._watchdog", Watchdog())
    monkeypatch.setattr(threading.Thread, "start", noThread)
    with makePool().take() as conn:
        ask(conn)


# -- connection factories

class Own(connection):
    """A connection class with a constructor of its own."""

    def __init__(self, dsn, *args, **kwargs):
        self.dsnAtFirst = dsn
        super().__init__(dsn, *args, **kwargs)
        self.isReady = True


class Newer(Own):
    """A connection class that makes its objects itself."""

    def __new__(cls, dsn, *args, **kwargs):
        made = super().__new__(cls, dsn, *args, **kwargs)
        made.isMade = True
        return made


def function(dsn):
    return Own(dsn)


@pytest.mark.parametrize("isGreen", [False, True], ids=["plain", "green"])
@pytest.mark.parametrize("factory, kind", [
    (connection, connection), (Own, Own), (Newer, Newer), (function, Own),
    (psycopg2.extras.RealDictConnection, psycopg2.extras.RealDictConnection)])
def test_a_connection_factory_makes_the_connection(makePool, factory, kind, isGreen, request):
    if isGreen:
        request.getfixturevalue("green")
    pool = makePool(connection_factory=factory)
    for _ in range(2):
        with pool.take() as conn:
            assert type(conn) is kind
            if kind in (Own, Newer):
                assert conn.isReady and "fallback_application_name=pool" in conn.dsnAtFirst
            if kind is Newer:
                assert conn.isMade
            with conn.cursor() as cur:
                cur.execute("select 1 as a")
                assert list(cur)
    assert pool.stats().opens == 1


@pytest.mark.parametrize("isGreen", [False, True], ids=["plain", "green"])
def test_a_logging_connection_is_set_up_by_configure(makePool, isGreen, request):
    if isGreen:
        request.getfixturevalue("green")
    said = []

    class Log:
        def write(self, text):
            said.append(text)

    pool = makePool(connection_factory=psycopg2.extras.LoggingConnection,
                    configure=lambda conn: conn.initialize(Log()))
    with pool.take() as conn:
        assert type(conn) is psycopg2.extras.LoggingConnection
        ask(conn, "select 42")
    assert "select 42" in "".join(map(str, said))
    checkWhole(pool)


@pytest.mark.parametrize("error", [KeyError, psycopg2.OperationalError])
def test_what_a_connection_factory_raises_reaches_the_taker(makePool, green, error):
    class Failing(connection):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            raise error("no")

    pool = makePool(connection_factory=Failing)
    with pytest.raises(error, match="no"):
        pool.take()
    assert pool.stats().idle == 1


@pytest.mark.usefixtures("posix")
@pytest.mark.timeout(60)
def test_a_connection_of_ones_own_class_has_the_limit_too(makePool, green, silent):
    pool = makePool(host="127.0.0.1", port=silent, connect_timeout=2, connection_factory=Own)

    def fail():
        with pytest.raises(psycopg2.OperationalError, match="^timeout expired"):
            pool.take()

    assert secondsOf(fail) < 2.0 + LATE
