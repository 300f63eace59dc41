"""FairPool with the real SQLAlchemy, and a driver that is not real."""

import contextlib
import logging
import time

import pytest

from tests.helpers import awaitWaiting, runTogether, start

sqlalchemy = pytest.importorskip("sqlalchemy")

from sqlalchemy import create_engine, engine_from_config, exc, text  # noqa: E402
from sqlalchemy.orm import Session  # noqa: E402

from queuepool.sqlalchemy import FairPool, PoolBusy, PoolDeadlock, PoolTimeout  # noqa: E402

THREADS, CONNECTIONS, CHECKOUTS = 50, 10, 1000


class Connection:
    """Note what is done to it."""

    def __init__(self, number):
        self.number = number
        self.calls = []
        self.madeAt = time.time()  # by SQLAlchemy's clock

    def rollback(self):
        self.calls.append("rollback")

    def commit(self):
        self.calls.append("commit")

    def close(self):
        self.calls.append("close")

    @property
    def isClosed(self):
        return "close" in self.calls


class Driver:
    """Connect; fail with what ``errors`` has, one a connect."""

    def __init__(self):
        self.made = []
        self.errors = []
        self.kind = Connection

    def connect(self):
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        self.made.append(self.kind(len(self.made)))
        return self.made[-1]

    @property
    def live(self):
        return [conn.number for conn in self.made if not conn.isClosed]


@pytest.fixture
def driver():
    return Driver()


@pytest.fixture
def makePool(driver):
    """Make pools of this driver that are disposed of at the end."""
    with contextlib.ExitStack() as stack:
        def make(pool_size=2, timeout=0.0, **kwargs):
            pool = FairPool(driver.connect, pool_size, timeout, **kwargs)
            stack.callback(pool.dispose)
            return pool
        yield make


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/database"


@pytest.fixture
def makeEngine(url):
    with contextlib.ExitStack() as stack:
        def make(url=url, **kwargs):
            engine = create_engine(url, poolclass=FairPool, **kwargs)
            stack.callback(lambda: engine.dispose())
            return engine
        yield make


def numberOf(fairy):
    return fairy.dbapi_connection.number


def use(pool):
    """Check out and in; return the connection's number."""
    with contextlib.closing(pool.connect()) as fairy:
        return numberOf(fairy)


# -- arguments

def test_create_engine_passes_on_sqlalchemys_arguments_and_the_pools_own(makeEngine):
    engine = makeEngine(pool_size=3, pool_timeout=0.25, pool_recycle=600, pool_pre_ping=True,
                        pool_reset_on_return="commit", pool_logging_name="app", maxWaiting=7,
                        maxUsageCount=5, minOpen=1, leakTime=9.0, raiseDeadlock=True)
    pool = engine.pool
    assert (pool.size(), pool.timeout(), pool.overflow()) == (3, 0.25, 0)
    below = pool.queuepool
    assert (below.name, below.maxWaiting, below.minOpen) == ("app", 7, 1)
    assert (below.leakTime, below.raiseDeadlock) == (9.0, True)
    with engine.connect() as conn:
        assert conn.execute(text("select 1")).scalar() == 1
    assert makeEngine(name="other", pool_logging_name="app").pool.queuepool.name == "other"


def test_engine_from_config_does_too(url):
    engine = engine_from_config({"sqlalchemy.url": url, "sqlalchemy.pool_size": "3"},
                                poolclass=FairPool, maxIdleTime=60.0)
    assert engine.pool.size() == 3
    engine.dispose()


def test_engine_from_config_passes_on_texts_which_are_converted(url):
    texts = dict(maxIdleTime="5", maxUsageCount="7", jitter="0.5", minOpen="1", maxWaiting="3",
                 openRetryTime="0.5", leakTime="1.5", leakTrace="false", raiseDeadlock="false",
                 histograms="true", pool_size="2")
    engine = engine_from_config(
        {"sqlalchemy.url": url, **{f"sqlalchemy.{name}": text for name, text in texts.items()}},
        poolclass=FairPool)
    below = engine.pool.queuepool
    assert (below.minOpen, below.maxWaiting, below.openRetryTime) == (1, 3, 0.5)
    assert (below.leakTime, below.raiseDeadlock) == (1.5, False)
    with contextlib.closing(engine.raw_connection()) as fairy:
        assert fairy._connection_record.takeTrace is None
    assert below.stats().useHistogram.number == 1
    engine.dispose()


@pytest.mark.parametrize("argument, message", [
    (dict(maxIdleTime="soon"), "^maxIdleTime must be a number; it is a text"),
    (dict(minOpen="1.5"), "^minOpen must be an integer; it is a text"),
    (dict(leakTrace="perhaps"), "^leakTrace must be true or false; it is a text")])
def test_a_text_that_cannot_be_converted_is_refused(makeEngine, argument, message):
    with pytest.raises(exc.ArgumentError, match=message):
        makeEngine(**argument)


@pytest.mark.parametrize("argument, message", [
    (dict(pool_size="5"), "^pool_size .* integer >= 1, not a value of type str"),
    (dict(pool_size=None), "^pool_size .* integer >= 1, not None"),
    (dict(pool_size=True), "^pool_size .* integer >= 1, not a value of type bool"),
    (dict(pool_timeout=-1), "^pool_timeout must be a number of seconds >= 0, .* not -1$"),
    (dict(pool_timeout="3"), "^pool_timeout must be .* not a value of type str"),
    (dict(pool_timeout=float("nan")), "^pool_timeout must be .* not nan"),
    (dict(pool_recycle=None), "^pool_recycle must be a number of seconds, .* not None"),
    (dict(pool_size=2, minOpen=3), "^minOpen must be <= pool_size \\(2\\), not 3")])
def test_an_error_names_the_argument_that_was_written(makeEngine, argument, message):
    with pytest.raises(exc.ArgumentError, match=message):
        makeEngine(**argument)


@pytest.mark.parametrize("argument, message", [
    (dict(max_overflow=5), "no max_overflow.*pool_size \\+ max_overflow"),
    (dict(max_overflow=-1), "no max_overflow"),
    (dict(pool_use_lifo=False), "leave out pool_use_lifo"),
    (dict(pool_size=0), "pool_size.*>= 1, not 0.*NullPool")])
def test_what_has_no_meaning_here_is_refused_with_an_explanation(makeEngine, argument, message):
    with pytest.raises(exc.ArgumentError, match=message):
        makeEngine(**argument)


def test_what_says_the_same_as_this_pool_is_accepted(makeEngine):
    assert makeEngine(max_overflow=0, pool_use_lifo=True, pool_size=1).pool.size() == 1


def test_an_unknown_argument_is_refused_by_create_engine(makeEngine):
    with pytest.raises(TypeError, match="maxIdleTimes"):
        makeEngine(maxIdleTimes=1)


def test_an_async_engine_is_refused():
    pytest.importorskip("psycopg")
    with pytest.raises(exc.ArgumentError, match="FairPool cannot be used with asyncio engine"):
        create_engine("postgresql+psycopg_async://", poolclass=FairPool)


def test_a_new_pool_after_dispose_has_all_the_arguments(driver, makePool):
    given = dict(maxIdleTime=11.0, maxUsageCount=12, jitter=0.25, minOpen=1, maxWaiting=14,
                 openRetryTime=15.0, leakTime=16.0, leakTrace=True, raiseDeadlock=True,
                 histograms=True)
    pool = makePool(3, 17.0, recycle=18, name="app", reset_on_return="commit", **given)
    again = pool.recreate()
    assert again is not pool and type(again) is FairPool
    below = again.queuepool
    assert below is not pool.queuepool
    assert (again.size(), again.timeout(), below.name) == (3, 17.0, "app")
    assert all(vars(again)[name] == vars(pool)[name]
               for name in ("_options", "_recycle", "_reset_on_return", "_creator_arg"))
    for name in "maxWaiting", "minOpen", "openRetryTime", "leakTime":
        assert getattr(below, name) == given[name]
    assert below.leakTrace and below.raiseDeadlock and below.histograms


# -- who gets what

def test_the_connection_used_last_is_handed_out_first(makePool):
    pool = makePool(3)
    first, second, third = (pool.connect() for _ in range(3))
    for fairy in third, first, second:
        fairy.close()
    assert [use(pool) for _ in range(3)] == [1, 1, 1]
    assert [numberOf(fairy) for fairy in [pool.connect() for _ in range(3)]] == [1, 0, 2]


def test_threads_are_served_first_come_first_served_and_who_returns_queues_up_again(makePool):
    pool = makePool(1, None)
    served = []

    def serve(number):
        with contextlib.closing(pool.connect()):
            served.append(number)

    fairy = pool.connect()
    threads = []
    for number in range(THREADS):
        threads.append(start(serve, number))
        awaitWaiting(pool.queuepool, number + 1)
    fairy.close()
    serve("again")
    for thread in threads:
        thread.result()
    assert served == [*range(THREADS), "again"]


@pytest.mark.alone
def test_no_thread_starves_when_there_are_more_than_connections(makePool):
    pool = makePool(CONNECTIONS, None)
    served = [0] * THREADS
    total = iter(range(CHECKOUTS))

    def work(number):
        for _ in total:
            with contextlib.closing(pool.connect()):
                time.sleep(0)  # as a query, it lets the others run
                served[number] += 1

    runTogether(*[lambda number=number: work(number) for number in range(THREADS)])
    assert sum(served) == CHECKOUTS
    assert min(served) >= CHECKOUTS // THREADS // 2, served
    assert pool.queuepool.stats().waits > 0


def test_a_timeout_is_sqlalchemys_and_tells_who_has_the_connections(makePool):
    pool = makePool(1, name="app")
    holder = start(pool.connect)
    holder.thread.name = "holder"
    fairy = holder.result()
    with pytest.raises(exc.TimeoutError, match=r"pool 'app'.*\[queuepool:exhausted\]") as caught:
        pool.connect()
    assert type(caught.value) is PoolTimeout and caught.value.code == "3o7r"
    assert [each.resource for each in caught.value.report.holders] == ["app-0"]
    fairy.close()
    assert use(pool) == 0


def test_a_nested_session_of_a_full_pool_is_told_so(makeEngine):
    engine = makeEngine(pool_size=1, pool_timeout=0.0, name="app")
    with Session(engine) as outer:
        outer.execute(text("select 1"))
        with Session(engine) as inner:
            with pytest.raises(exc.TimeoutError,
                               match=r"this thread already has 'app-0'.*\[queuepool:nested\]"):
                inner.execute(text("select 1"))
        assert outer.execute(text("select 2")).scalar() == 2
    assert engine.pool.checkedout() == 0


def test_a_deadlock_is_raised_at_once_if_asked_for(makePool):
    pool = makePool(1, None, raiseDeadlock=True)
    with contextlib.closing(pool.connect()):
        with pytest.raises(PoolDeadlock) as caught:
            pool.connect()
    assert isinstance(caught.value, exc.TimeoutError)


def test_who_may_not_wait_is_told_at_once(makePool):
    pool = makePool(1, None, maxWaiting=0)
    with contextlib.closing(pool.connect()):
        with pytest.raises(PoolBusy) as caught:
            pool.connect()
    assert isinstance(caught.value, exc.TimeoutError)


def test_numbers_and_status(makePool):
    pool = makePool(3, name="app")
    fairies = [pool.connect() for _ in range(2)]
    fairies.pop().close()
    assert (pool.size(), pool.checkedin(), pool.checkedout(), pool.overflow()) == (3, 1, 1, 0)
    assert "'app': capacity 3, checked out 1" in pool.status()


def test_two_engines_have_pools_of_their_own(makeEngine):
    one, other = (makeEngine(pool_size=1, pool_timeout=0.0) for _ in range(2))
    with one.connect(), other.connect():
        assert (one.pool.checkedout(), other.pool.checkedout()) == (1, 1)
    assert (one.pool.checkedout(), other.pool.checkedout()) == (0, 0)


def test_the_log_is_sqlalchemys_kind(makeEngine, caplog):
    caplog.set_level(logging.DEBUG, "queuepool.sqlalchemy.FairPool")
    engine = makeEngine()
    with engine.connect():
        pass
    engine.dispose()
    said = "\n".join(record.getMessage() for record in caplog.records
                     if record.name == "queuepool.sqlalchemy.FairPool")
    for what in "checked out from pool", "being returned to pool", "Pool disposed", "recreating":
        assert what in said


def test_echo_pool_logs(makeEngine, caplog):
    engine = makeEngine(echo_pool="debug", pool_logging_name="app")
    caplog.set_level(logging.DEBUG)
    with engine.connect():
        pass
    assert any("checked out" in record.getMessage() for record in caplog.records)
