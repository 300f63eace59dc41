"""FairPool with SQLAlchemy, a real PostgreSQL, and both drivers."""

import contextlib
import os
import select
import subprocess
import sys

import pytest

from queuepool.stats import Reason
from tests.helpers import PATIENCE, awaitTrue, runTogether

sqlalchemy = pytest.importorskip("sqlalchemy")

from sqlalchemy import Integer, create_engine, event, text  # noqa: E402
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column  # noqa: E402

from queuepool.sqlalchemy import FairPool  # noqa: E402

DRIVERS = ["psycopg2", "psycopg"]


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "item"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    number: Mapped[int]


@pytest.fixture(params=DRIVERS)
def url(request, parameters):
    pytest.importorskip(request.param)
    return sqlalchemy.URL.create(
        f"postgresql+{request.param}", username=parameters["user"], database=parameters["dbname"],
        query={"host": parameters["host"], "port": str(parameters["port"])})


@pytest.fixture
def makeEngine(url):
    with contextlib.ExitStack() as stack:
        def make(**kwargs):
            engine = create_engine(url, poolclass=FairPool, **kwargs)
            stack.callback(lambda: engine.dispose())
            return engine
        yield make


@pytest.fixture
def alwaysLook(monkeypatch):
    monkeypatch.setattr("queuepool.sqlalchemy.LEAST_IDLE_TIME", -1.0)


def pidOf(conn):
    return conn.execute(text("select pg_backend_pid()")).scalar()


def countPings(engine):
    """Return the list that gets an entry at each ping."""
    pings, ping = [], engine.dialect.do_ping

    def do_ping(conn):
        pings.append(conn)
        return ping(conn)

    engine.dialect.do_ping = do_ping
    return pings


def test_sessions_of_many_threads_share_a_few_connections(makeEngine):
    engine = makeEngine(pool_size=2, pool_timeout=PATIENCE)
    Base.metadata.create_all(engine)

    def work():
        for number in range(20):
            with Session(engine) as session, session.begin():
                session.add(Item(number=number))
        with Session(engine) as session:  # rolled back by SQLAlchemy's reset
            session.add(Item(number=-1))
            session.flush()

    runTogether(*[work] * 6)
    with Session(engine) as session:
        assert sum(session.scalars(sqlalchemy.select(Item.number))) == 6 * sum(range(20))
    stats = engine.pool.queuepool.stats()
    assert stats.opens == 2 == stats.open and stats.taken == 0
    Base.metadata.drop_all(engine)


def test_a_live_connection_is_not_asked(makeEngine, alwaysLook):
    engine = makeEngine(pool_size=1)
    pings = countPings(engine)
    with engine.connect() as conn:
        pid = pidOf(conn)
    with engine.connect() as conn:
        assert pidOf(conn) == pid
    assert pings == []


def test_what_the_server_has_closed_is_replaced_before_it_is_handed_out(
        makeEngine, alwaysLook, admin):
    engine = makeEngine(pool_size=3, pool_timeout=0.0)
    with engine.connect() as one, engine.connect() as two, engine.connect() as three:
        pids = [pidOf(conn) for conn in (one, two, three)]
    admin.terminate(*pids)
    with engine.connect() as conn:
        assert pidOf(conn) not in pids
    stats = engine.pool.queuepool.stats()
    assert stats.closesByReason[Reason.EXCEPTION] == 3
    assert (stats.opens, stats.open, stats.taken) == (4, 1, 0)


def test_a_connection_that_was_idle_for_long_is_looked_at(makeEngine, admin):
    engine = makeEngine(pool_size=1)
    with engine.connect() as conn:
        pid = pidOf(conn)
    admin.terminate(pid)
    below = engine.pool.queuepool
    now = below.clock()
    below.clock = lambda: now + 1.0
    with engine.connect() as conn:
        assert pidOf(conn) != pid


def test_a_connection_that_got_a_notification_is_asked_and_kept(makeEngine, alwaysLook, admin):
    engine = makeEngine(pool_size=1)
    pings = countPings(engine)
    with engine.connect() as conn:
        pid = pidOf(conn)
        conn.execute(text("listen channel"))
        conn.commit()
        socket = conn.connection.driver_connection.fileno()
    for number in range(1, 3):
        admin.query("notify channel")
        awaitTrue(lambda: select.select([socket], [], [], 0)[0])
        with engine.connect() as conn:
            assert pidOf(conn) == pid
        assert len(pings) == number


def test_an_interrupted_look_costs_no_slot(makeEngine, alwaysLook, admin):
    engine = makeEngine(pool_size=1, pool_timeout=0.0)
    with engine.connect() as conn:
        pid = pidOf(conn)
    admin.terminate(pid)

    def do_ping(conn):
        raise KeyboardInterrupt

    engine.dialect.do_ping = do_ping
    with pytest.raises(KeyboardInterrupt):
        engine.connect()
    assert (engine.pool.checkedout(), engine.pool.checkedin()) == (0, 0)
    with engine.connect() as conn:
        assert pidOf(conn) != pid


def test_pool_pre_ping_asks_as_well(makeEngine, admin):
    engine = makeEngine(pool_size=1, pool_pre_ping=True)
    pings = countPings(engine)
    with engine.connect() as conn:
        pid = pidOf(conn)
    admin.terminate(pid)
    with engine.connect() as conn:
        assert pidOf(conn) != pid
    with engine.connect() as conn:
        pass
    assert len(pings) >= 2


def test_an_error_of_a_lost_connection_in_use_invalidates_what_is_idle(makeEngine, admin):
    engine = makeEngine(pool_size=2)
    with engine.connect() as one, engine.connect() as two:
        pids = [pidOf(one), pidOf(two)]
    closed = []
    event.listen(engine, "close", lambda *args: closed.append(args))
    with engine.connect() as conn:
        pid = pidOf(conn)
        admin.terminate(pid)
        with pytest.raises(sqlalchemy.exc.DBAPIError) as caught:
            conn.execute(text("select 1"))
        assert caught.value.connection_invalidated
    with engine.connect() as one, engine.connect() as two:
        assert not {pidOf(one), pidOf(two)} & set(pids)
    assert len(closed) >= 2


PROGRAM = """
import gc, os, sys, threading, warnings
from sqlalchemy import create_engine, exc, text
from sqlalchemy.orm import scoped_session, sessionmaker
from queuepool.sqlalchemy import FairPool

warnings.simplefilter("error")
warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
PID = text("select pg_backend_pid()")
engine = create_engine(sys.argv[1], poolclass=FairPool, pool_size=3, pool_timeout=0.0, {options})


def pids():
    with engine.connect() as a, engine.connect() as b, engine.connect() as c:
        return [conn.execute(PID).scalar() for conn in (a, b, c)]


def inChild(work):
    '''Run work in a forked child, which ends as a program does; return how it ended.'''
    child = os.fork()
    if child == 0:
        work()
        sys.exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


"""

IDLE = """
mine = pids()


def work():
    before = engine.pool.status()
    assert "checked out 0, idle 3" in before and engine.pool.checkedin() == 0, before
    assert not set(pids()) & set(mine)
    assert not set(pids()) & set(mine)
    engine.dispose()
    assert not set(pids()) & set(mine)
    engine.dispose()


for _ in range(2):
    if inChild(work):
        sys.exit("the child has failed")
assert sorted(pids()) == sorted(mine)
engine.dispose()
"""

IN_USE = """
with engine.connect() as conn:
    conn.execute(text("create temporary table t (x int)"))
    conn.commit()
    conn.execute(text("insert into t values (7)"))  # in a transaction that is open

    def work():
        for use in (lambda: conn.execute(text("select 1"))), conn.commit:
            try:
                use()
            except exc.SQLAlchemyError as error:
                assert "checked out before the fork" in str(error), error
            else:
                sys.exit("a child has used the connection of its parent")
        conn.close()  # rolls back as a rule
        assert engine.pool.checkedout() == 0
        pids()
        engine.dispose()

    if inChild(work):
        sys.exit("the child has failed")
    assert conn.execute(text("select x from t")).scalar() == 7
    conn.commit()
    assert conn.execute(text("select x from t")).scalar() == 7
pids()
engine.dispose()
"""


OF_A_THREAD = """
registry = scoped_session(sessionmaker(engine))
isReady, mayGoOn, seen = threading.Event(), threading.Event(), []


def use():
    registry.execute(text("create temporary table t (x int)"))
    registry.commit()
    registry.execute(text("insert into t values (7)"))  # in a transaction that is open
    isReady.set()
    assert mayGoOn.wait(30)
    seen.append(registry.execute(text("select x from t")).scalar())
    registry.remove()


def work():
    gc.collect()  # a child has not the threads of its parent, nor what only they refer to
    pids()
    engine.dispose()


thread = threading.Thread(target=use)
thread.start()
assert isReady.wait(30)
status = inChild(work)
mayGoOn.set()
thread.join()
assert (status, seen) == (0, [7]), (status, seen)
engine.dispose()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("program, options", [
    (IDLE, "maxIdleTime=60.0"), (IN_USE, ""), (OF_A_THREAD, "")],
    ids=["idle, with a recycler", "in use", "in use by another thread"])
def test_a_child_process_leaves_the_parents_sessions_alone(url, program, options):
    program = PROGRAM.format(options=options) + program
    done = subprocess.run(
        [sys.executable, "-c", program, url.render_as_string(hide_password=False)],
        capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stderr) == (0, "")
