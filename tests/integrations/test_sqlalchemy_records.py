"""The life of FairPool's connection records: events, failures, what is dropped or interrupted."""

import contextlib
import gc
import itertools
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import weakref

import pytest

from queuepool.stats import Reason
from tests.helpers import PATIENCE, awaitTrue, awaitWaiting, checkWhole, start

sqlalchemy = pytest.importorskip("sqlalchemy")

from sqlalchemy import event, exc, text  # noqa: E402
from sqlalchemy.orm import Session  # noqa: E402

import queuepool.sqlalchemy  # noqa: E402
from queuepool.sqlalchemy import FairPool  # noqa: E402
from tests.integrations.test_sqlalchemy import (Connection, driver, makeEngine,  # noqa: E402
                                                makePool, numberOf, url, use)

__all__ = ["driver", "makeEngine", "makePool", "url"]

RECYCLER = "queuepool recycler {}".format


class DriverError(Exception):
    pass


class Interruption(BaseException):
    pass


def checkCounts(pool, driver):
    """Check that nothing is checked out, and that what was opened and closed was counted."""
    checkWhole(pool.queuepool)
    stats = pool.queuepool.stats()
    assert (stats.opens, stats.open) == (len(driver.made), len(driver.live))
    assert stats.opens - stats.closes == stats.open


def listen(target, name):
    """Return the list of what was called for this event, in the order of the calls."""
    calls = []
    event.listen(target, name, lambda *args: calls.append(args))
    return calls


# -- events

def test_the_events_of_a_connection_come_in_sqlalchemys_order(makePool):
    pool = makePool(1)
    said = []
    for name in ("first_connect", "connect", "checkout", "checkin", "reset", "invalidate",
                 "soft_invalidate", "close", "detach", "close_detached"):
        event.listen(pool, name, lambda *args, name=name: said.append(name))

    def saidSince():
        found, said[:] = said[:], []
        return " ".join(found)

    fairy = pool.connect()
    assert saidSince() == "first_connect connect checkout"
    fairy.close()
    assert saidSince() == "reset checkin"
    fairy = pool.connect()
    fairy.invalidate(soft=True)
    fairy.close()
    assert saidSince() == "checkout soft_invalidate reset checkin"
    fairy = pool.connect()
    assert saidSince() == "close connect checkout"
    fairy.invalidate()
    assert saidSince() == "invalidate close checkin"
    fairy = pool.connect()
    fairy.detach()
    assert saidSince() == "connect checkout detach"
    fairy.close()
    assert saidSince() == "reset close_detached"
    pool.connect().close()
    pool.dispose()
    assert saidSince() == "connect checkout reset checkin close"


def test_a_listener_gets_sqlalchemys_record_whose_info_lives_as_long_as_documented(makePool):
    pool = makePool(1)
    checkouts = listen(pool, "checkout")
    with contextlib.closing(pool.connect()) as fairy:
        fairy.info["of"] = "the connection"
        fairy.record_info["of"] = "the record"
    conn, record, _ = checkouts[0]
    assert (record.dbapi_connection, record.in_use) == (conn, False)
    with contextlib.closing(pool.connect()) as fairy:
        assert fairy.info == {"of": "the connection"}
        fairy.invalidate()
    with contextlib.closing(pool.connect()) as fairy:
        assert (fairy.info, fairy.record_info) == ({}, {"of": "the record"})
    assert checkouts[-1][1] is record


def test_a_checkout_listener_that_tells_of_a_disconnection_gets_another_one(makePool, driver):
    pool = makePool(1)
    errors = [exc.DisconnectionError()]

    @event.listens_for(pool, "checkout")
    def onCheckout(conn, record, fairy):
        if errors:
            raise errors.pop()

    with contextlib.closing(pool.connect()) as fairy:
        assert numberOf(fairy) == 1 and driver.live == [1]
    checkCounts(pool, driver)
    errors += [exc.DisconnectionError()] * 2  # SQLAlchemy tries twice
    with pytest.raises(exc.InvalidRequestError):
        pool.connect()
    checkWhole(pool.queuepool)
    assert driver.live == [driver.made[-1].number]


def test_a_checkout_listener_that_tells_of_a_lost_server_has_all_replaced(makePool, driver):
    pool = makePool(2)
    for fairy in [pool.connect(), pool.connect()]:
        fairy.close()
    errors = [exc.InvalidatePoolError()]

    @event.listens_for(pool, "checkout")
    def onCheckout(conn, record, fairy):
        if errors:
            raise errors.pop()

    awaitTrue(lambda: time.time() > max(made.madeAt for made in driver.made))
    fairies = [pool.connect() for _ in range(2)]
    assert sorted(map(numberOf, fairies)) == [2, 3] == driver.live
    for fairy in fairies:
        fairy.close()
    assert pool.queuepool.stats().closesByReason[Reason.EXCEPTION] == 1  # it was idle
    checkCounts(pool, driver)


@pytest.mark.parametrize("kind", [DriverError, Interruption])
def test_a_checkout_listener_that_fails_costs_no_slot(makePool, driver, kind):
    pool = makePool(1)
    error = kind()

    def fail(*args):
        raise error

    event.listen(pool, "checkout", fail)
    with pytest.raises(kind) as caught:
        pool.connect()
    assert caught.value is error and driver.live == []
    event.remove(pool, "checkout", fail)
    assert use(pool) == 1
    checkCounts(pool, driver)


@pytest.mark.parametrize("kind", [DriverError, Interruption])
def test_a_connect_listener_that_fails_costs_neither_slot_nor_connection(makePool, driver, kind):
    pool = makePool(1)
    error = kind()

    def fail(*args):
        raise error

    event.listen(pool, "connect", fail)
    with pytest.raises(kind) as caught:
        pool.connect()
    assert caught.value is error and driver.live == []
    event.remove(pool, "connect", fail)
    assert use(pool) == 1


@pytest.mark.parametrize("name", ["checkin", "reset", "close", "invalidate"])
def test_another_listener_that_fails_costs_no_slot(makePool, driver, name):
    pool = makePool(1)

    def fail(*args):
        raise DriverError

    event.listen(pool, name, fail)
    fairy = pool.connect()
    with contextlib.suppress(DriverError):
        if name == "invalidate":
            fairy.invalidate()
    with contextlib.suppress(DriverError):
        fairy.close()
    del fairy
    event.remove(pool, name, fail)
    gc.collect()
    use(pool)
    checkWhole(pool.queuepool)


# -- opening

@pytest.mark.parametrize("kind", [DriverError, Interruption])
def test_what_the_driver_raises_is_raised_as_it_is_and_nothing_is_lost(makePool, driver, kind):
    pool = makePool(1)
    error = kind("cannot connect")
    driver.errors.append(error)
    with pytest.raises(kind) as caught:
        pool.connect()
    assert caught.value is error and error.__cause__ is error.__context__ is None
    assert use(pool) == 0
    checkCounts(pool, driver)


def test_a_failing_reconnect_after_an_invalidation_costs_no_slot(makePool, driver):
    pool = makePool(1)
    pool.connect().invalidate()
    driver.errors.append(DriverError())
    with pytest.raises(DriverError):
        pool.connect()
    assert use(pool) == 1
    checkCounts(pool, driver)


def test_a_failing_reconnect_by_pool_recycle_costs_no_slot(makePool, driver, monkeypatch):
    pool = makePool(1, recycle=600)
    use(pool)
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + 601)
    driver.errors.append(DriverError())
    with pytest.raises(DriverError):
        pool.connect()
    assert use(pool) == 1
    checkCounts(pool, driver)


def test_opening_is_tried_again_only_when_the_driver_calls_it_an_error_of_operation(makeEngine):
    errors = [sqlite3.OperationalError(), sqlite3.OperationalError()]

    def connect():
        if errors:
            raise errors.pop()
        return sqlite3.connect(":memory:")

    engine = makeEngine(creator=connect, openRetryTime=PATIENCE)
    with engine.connect() as conn:
        assert conn.execute(text("select 1")).scalar() == 1
    assert engine.pool.queuepool.stats().openErrors == 2
    engine.dispose()
    errors.append(sqlite3.ProgrammingError())
    with pytest.raises(exc.ProgrammingError):
        engine.connect()


# -- closing

def test_a_detached_connection_is_its_users_and_its_slot_is_free(makePool, driver):
    pool = makePool(1)
    detached = pool.connect()
    detached.detach()
    with contextlib.closing(pool.connect()) as fairy:
        assert numberOf(fairy) == 1
    assert driver.live == [0, 1] and pool.queuepool.stats().open == 1
    detached.close()
    assert driver.live == [1]
    checkWhole(pool.queuepool)


def test_an_invalidated_connection_is_closed_at_once_and_counted(makePool, driver):
    pool = makePool(1)
    pool.connect().invalidate()
    assert driver.live == [] and pool.queuepool.stats().closesByReason[Reason.USER] == 1
    assert use(pool) == 1
    checkCounts(pool, driver)


def test_a_soft_invalidated_connection_is_replaced_at_the_next_checkout(
        makePool, driver, monkeypatch):
    pool = makePool(1)
    now = time.time()
    fairy = pool.connect()
    monkeypatch.setattr("time.time", lambda: now + 1)
    fairy.invalidate(soft=True)
    fairy.close()
    assert driver.live == [0]
    monkeypatch.setattr("time.time", lambda: now + 2)
    assert use(pool) == 1 and driver.live == [1]
    checkCounts(pool, driver)


def test_pool_recycle_replaces_what_is_older_at_its_checkout(makePool, driver, monkeypatch):
    pool = makePool(1, recycle=600)
    now = time.time()
    assert use(pool) == 0
    monkeypatch.setattr("time.time", lambda: now + 599)
    assert use(pool) == 0
    monkeypatch.setattr("time.time", lambda: now + 602)
    assert use(pool) == 1 and driver.live == [1]
    checkCounts(pool, driver)


def test_pool_recycle_has_what_is_idle_and_older_closed_by_recycle(makePool, driver):
    pool = makePool(1, recycle=1e-9)
    use(pool)
    pool.queuepool.recycle()
    assert driver.live == [] and pool.queuepool.stats().closesByReason[Reason.AGE] >= 1


def test_pool_recycle_0_connects_once_for_each_checkout(makePool, driver, monkeypatch):
    pool = makePool(1, recycle=0)
    now = itertools.count(time.time())
    monkeypatch.setattr("time.time", lambda: next(now))  # time passes
    use(pool)
    before = len(driver.made)
    for _ in range(3):
        use(pool)
    assert len(driver.made) == before + 3 and len(driver.live) == 1
    checkCounts(pool, driver)


def test_a_clock_that_is_set_back_after_an_invalidation_costs_one_connect(
        makeEngine, monkeypatch):
    engine = makeEngine(pool_size=1, pool_timeout=0.0)

    @event.listens_for(engine, "handle_error")
    def sayItIsLost(context):
        context.is_disconnect = True

    with engine.connect() as conn, pytest.raises(exc.OperationalError):
        conn.execute(text("nonsense"))
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now - 3600)
    connects = listen(engine, "connect")

    @event.listens_for(engine, "connect")
    def giveUp(*args):
        if len(connects) > 9:
            raise Interruption("it connects for ever")

    for _ in range(3):
        with engine.connect() as conn:
            assert conn.execute(text("select 1")).scalar() == 1
    assert len(connects) == 1


def test_without_pool_recycle_nothing_is_ever_closed(makePool, driver):
    pool = makePool(1)
    below = pool.queuepool
    use(pool)
    now = below.clock()
    below.clock = lambda: now + 1e6
    for _ in range(2000):
        assert use(pool) == 0
    below.recycle()
    assert driver.live == [0]


def test_max_idle_time_closes_what_is_idle(makePool, driver):
    pool = makePool(1, maxIdleTime=0.0)
    use(pool)
    pool.queuepool.recycle()
    assert driver.live == []
    assert use(pool) > 0


def test_max_usage_count_closes_what_was_used_often(makePool, driver):
    pool = makePool(1, maxUsageCount=2)
    assert [use(pool) for _ in range(4)] == [0, 0, 1, 1]


def test_a_close_that_fails_is_made_up_by_a_fresh_connection(makePool, driver):
    pool = makePool(1, maxUsageCount=1)

    def fail(*args):
        raise DriverError

    event.listen(pool, "close", fail)
    assert [use(pool) for _ in range(3)] == [0, 1, 2]
    event.remove(pool, "close", fail)
    assert pool.queuepool.stats().closeErrors > 0
    checkWhole(pool.queuepool)


def test_reset_on_return_is_sqlalchemys(makePool, driver):
    for rule, calls in ("rollback", ["rollback"]), ("commit", ["commit"]), (None, []):
        pool = makePool(1, reset_on_return=rule)
        use(pool)
        assert driver.made[-1].calls == calls


def test_dispose_closes_what_is_idle_and_what_is_checked_out_when_it_is_returned(
        makePool, driver):
    pool = makePool(2)
    taken, idle = pool.connect(), pool.connect()
    idle.close()
    pool.dispose()
    assert driver.live == [0]
    taken.close()
    assert driver.live == []


def test_a_close_that_fails_after_dispose_costs_no_slot(makePool):
    pool = makePool(1)
    fairy = pool.connect()
    pool.dispose()

    def fail(*args):
        raise DriverError

    event.listen(pool, "close", fail)
    with pytest.raises(DriverError) as caught:  # which keeps all that was dropped
        fairy.close()
    event.remove(pool, "close", fail)
    assert (pool.checkedout(), use(pool)) == (0, 1) and caught.value


def test_an_engine_goes_on_with_a_fresh_pool_after_dispose(makeEngine):
    engine = makeEngine(pool_size=1, pool_timeout=0.0)
    closed = listen(engine, "close")
    before = engine.pool
    with engine.connect() as old:
        engine.dispose()
        assert engine.pool is not before and closed == []
        with engine.connect() as new:  # though the old pool's only one is checked out
            assert new.execute(text("select 1")).scalar() == 1
        assert old.execute(text("select 1")).scalar() == 1
    assert len(closed) == 1
    assert (before.checkedin(), before.checkedout(), engine.pool.checkedin()) == (0, 0, 1)


def test_who_waits_during_dispose_is_served(makePool, driver):
    pool = makePool(1, PATIENCE)
    fairy = pool.connect()
    waiter = start(use, pool)
    awaitWaiting(pool.queuepool, 1)
    pool.dispose()
    fairy.close()
    assert waiter.result() == 1 and driver.live == []


# -- what is dropped, and what is interrupted

def test_a_dropped_connection_is_reset_and_comes_back(makePool, driver):
    pool = makePool(1)
    fairy = pool.connect()
    del fairy
    gc.collect()
    assert driver.made[0].calls == ["rollback"]
    assert use(pool) == 0
    checkCounts(pool, driver)


@pytest.fixture
def quickCollector():
    """Have the collector look at what comes from now on only."""
    gc.collect()
    gc.freeze()


def inThread(work):
    """Run work in a thread of its own: an exception of a trace function can confuse its thread."""
    start(work).result()


def atLine(number, call, action):
    """Run call, and action at the start of the given line of the package that it runs.

    Returns whether there is such a line.
    """
    folder = queuepool.sqlalchemy.__file__.rpartition("sqlalchemy")[0]
    rest = number

    def trace(frame, what, _):
        nonlocal rest
        if not frame.f_code.co_filename.startswith(folder):
            return None
        if what == "line":
            if rest == 0:
                rest = -1
                action()
            elif rest > 0:
                rest -= 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return rest < 0


@pytest.mark.parametrize("size", [1, 2])
def test_a_connection_that_is_dropped_at_any_line_of_a_checkout_is_returned(
        makePool, driver, size):
    """The garbage collector calls SQLAlchemy's weak reference anywhere, also in a take."""
    for number in range(10_000):
        pool = makePool(size, 2.0)
        box = [pool.connect()]
        taken = []
        pool.queuepool.takeTimeout = 0.001

        def connect():
            with contextlib.suppress(exc.TimeoutError):
                taken.append(pool.connect())

        wasReached = atLine(number, connect, box.clear)
        taken.clear()
        box.clear()
        pool.queuepool.takeTimeout = 2.0
        use(pool)
        checkWhole(pool.queuepool)
        if not wasReached:
            break
    assert number > 50


def test_a_connection_that_is_dropped_at_any_line_of_a_checkin_is_returned(makePool, driver):
    for number in range(10_000):
        pool = makePool(2)
        box, other = [pool.connect()], pool.connect()
        wasReached = atLine(number, other.close, box.clear)
        box.clear()
        checkWhole(pool.queuepool)
        if not wasReached:
            break
    assert number > 5


class DeadConnection(Connection):
    """Be a connection whose server has sent something: there is no dialect to ask it."""

    def __init__(self, number):
        super().__init__(number)
        self._ends = socket.socketpair()
        self._ends[1].send(b"good-bye")

    def fileno(self):
        return self._ends[0].fileno()

    def close(self):
        super().close()
        for end in self._ends:
            end.close()


@pytest.mark.parametrize("state", ["closed", "idle", "dead"])
def test_an_interruption_at_any_line_of_a_checkout_costs_no_slot(
        driver, state, quickCollector):
    def interrupt():
        raise KeyboardInterrupt

    def interruptEachLine():
        for number in range(10_000):
            pool = FairPool(driver.connect, 1, 2.0)
            if state != "closed":
                driver.kind = DeadConnection if state == "dead" else Connection
                use(pool)
                driver.kind = Connection
                now = pool.queuepool.clock()
                pool.queuepool.clock = lambda now=now: now + 1.0
            taken, wasReached = [], True
            try:
                wasReached = atLine(number, lambda: taken.append(pool.connect()), interrupt)
            except KeyboardInterrupt:
                pass
            taken.clear()
            gc.collect()
            last = driver.made[use(pool)]
            assert type(last) is Connection and not last.isClosed
            checkWhole(pool.queuepool)
            pool.dispose()
            if not wasReached:
                break
        assert number > 5

    inThread(interruptEachLine)
    for conn in driver.made:  # a real one ends at last when it is collected
        conn.close()


@pytest.mark.parametrize("size", [1, 3])
def test_dead_connections_are_closed_and_another_one_is_handed_out(
        makePool, driver, size):
    pool = makePool(size)
    driver.kind = DeadConnection
    for fairy in [pool.connect() for _ in range(size)]:
        fairy.close()
    driver.kind = Connection
    now = pool.queuepool.clock()
    pool.queuepool.clock = lambda: now + 1.0
    with contextlib.closing(pool.connect()) as fairy:
        assert [numberOf(fairy)] == driver.live == [size]
    checkCounts(pool, driver)
    assert pool.queuepool.stats().closesByReason[Reason.EXCEPTION] == size


@pytest.mark.usefixtures("posix")
def test_an_interrupted_wait_leaves_the_line(makePool):
    pool = makePool(1, PATIENCE)
    fairy = pool.connect()

    def interrupt():
        awaitWaiting(pool.queuepool, 1)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        interrupter = start(interrupt)
        pool.connect()
    interrupter.result()
    assert pool.queuepool.stats().waiting == 0
    fairy.close()
    checkWhole(pool.queuepool)


# -- the recycler

def recyclers(name):
    return [thread for thread in threading.enumerate() if thread.name == RECYCLER(name)]


def test_no_thread_runs_where_nothing_needs_one(makePool):
    pool = makePool(name="none", recycle=600, maxUsageCount=9)
    use(pool)
    assert recyclers("none") == []


@pytest.mark.parametrize("need", [dict(maxIdleTime=60.0), dict(minOpen=1), dict(leakTime=60.0)])
def test_the_recycler_runs_from_the_first_connection_until_dispose(makePool, need):
    pool = makePool(name="busy", **need)
    assert recyclers("busy") == []  # create_engine has not set up the events yet
    use(pool)
    assert len(recyclers("busy")) == 1
    pool.dispose()
    awaitTrue(lambda: recyclers("busy") == [])
    use(pool)
    assert recyclers("busy") == []


def test_the_recycler_ends_with_a_pool_that_nobody_has_any_more(driver):
    pool = FairPool(driver.connect, maxIdleTime=60.0, name="dropped")
    use(pool)
    below = weakref.ref(pool.queuepool)
    assert len(recyclers("dropped")) == 1
    del pool

    def isGone():
        gc.collect()
        return below() is None and recyclers("dropped") == []

    awaitTrue(isGone)


# -- a child process

FORK = """
import os, sys
from queuepool.sqlalchemy import FairPool


class Connection:  # as those of mysqlclient, it ends its session when it is collected
    def __init__(self):
        self.madeBy = os.getpid()

    def rollback(self):
        self.close()

    def close(self):
        if self.madeBy != os.getpid():
            os.write(2, b"ended the parent's session; ")

    __del__ = close


pool = FairPool(Connection, 3)
taken, other = pool.connect(), pool.connect()
other.close()
child = os.fork()
if child == 0:
    taken.close()
    del taken, other
    pool.connect().close()
    pool.dispose()
    del pool
    sys.exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_child_process_does_not_even_collect_what_its_parent_has_open():
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True,
                          timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")


DROPPED_BY_THE_FORK = """
import gc, os, sys, threading, warnings

lines, lineToCollectAt = 0, 0


def trace(frame, event, arg):
    global lines
    if event == "line" and "queuepool" in frame.f_code.co_filename:
        lines += 1
        if lines == lineToCollectAt:
            sys.settrace(None)
            gc.collect()
    return trace


def begin():  # called in a child before the pool knows of the fork
    gc.disable()
    if lineToCollectAt == 0:
        gc.collect()
    sys.settrace(trace)


os.register_at_fork(after_in_child=begin)
from queuepool.sqlalchemy import FairPool
os.register_at_fork(after_in_child=lambda: sys.settrace(None))
warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)


class Connection:
    def __init__(self):
        self.madeBy = os.getpid()

    def rollback(self):
        if self.madeBy != os.getpid():
            os.write(2, b"ended the parent's transaction; ")

    close = rollback


pool, local = FairPool(Connection, 3, timeout=30.0), threading.local()
isReady, mayGoOn = threading.Event(), threading.Event()


def work():
    # Only this thread has it, in a cycle. A child is without this thread.
    local.cycle = [pool.connect()]
    local.cycle.append(local.cycle)
    isReady.set()
    mayGoOn.wait()
    local.cycle.clear()


gc.freeze()  # what was imported; it takes long to look at
thread = threading.Thread(target=work)
thread.start()
isReady.wait()
pool.connect().close()
code, OVER = 0, 3
while code == 0:
    child = os.fork()
    if child == 0:
        gc.collect()
        assert pool.checkedout() == 0, pool.status()
        pool.connect(), pool.connect(), pool.connect()
        pool.dispose()
        os._exit(0 if lines >= lineToCollectAt else OVER)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    lineToCollectAt += 2
mayGoOn.set()
thread.join()
assert code == OVER and lineToCollectAt > 50 and pool.checkedout() == 0, (code, lineToCollectAt)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_what_only_another_thread_had_may_be_collected_at_any_line_of_the_childs_start():
    done = subprocess.run([sys.executable, "-c", DROPPED_BY_THE_FORK], capture_output=True,
                          text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")


# -- SQLite

def test_a_database_in_memory_is_shared_by_threads_if_there_is_one_connection(makeEngine):
    engine = makeEngine("sqlite://", pool_size=1, pool_timeout=PATIENCE,
                        connect_args={"check_same_thread": False})
    with Session(engine) as session:
        session.execute(text("create table t (x)"))
        session.execute(text("insert into t values (7)"))
        session.commit()

    def look():
        with Session(engine) as session:
            return session.execute(text("select x from t")).scalar()

    assert start(look).result() == look() == 7


def test_a_connection_that_belongs_to_its_thread_says_so_itself(makeEngine):
    engine = makeEngine("sqlite://", pool_size=1)
    with engine.connect() as conn:
        raw = conn.connection.dbapi_connection

    def look():
        with engine.connect() as conn:
            conn.execute(text("select 1"))

    with pytest.raises(exc.ProgrammingError, match="same thread"):
        start(look).result()
    assert engine.pool.checkedout() == 0
    raw.close()  # the other thread could not
