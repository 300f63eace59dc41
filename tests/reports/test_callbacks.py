"""What must not happen while the interpreter finalizes something: it may hold any lock then."""

import gc
import logging
import logging.handlers
import queue
import sys
import warnings
import weakref

import pytest

from queuepool import Pool, Reason
from tests.helpers import PATIENCE, awaitWaiting, checkWhole, start
from tests.reports.situations import CostlyWorld, openAll, poolOf, warningsIn


@pytest.fixture
def world():
    return CostlyWorld()


def takeInACycle(pool):
    class Program:
        pass

    program = Program()
    program.itself = program
    program.resource = pool.take()


@pytest.fixture
def collectsWhenTold():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


#: Calls that find what was dropped.
TELLING = {
    "take": lambda pool: pool.put(pool.take()),
    "recycle": lambda pool: pool.recycle(),
    "resize": lambda pool: pool.resize(1),
    "close": lambda pool: pool.close(),
}


@pytest.mark.parametrize("telling", sorted(TELLING))
@pytest.mark.parametrize("inACycle", [False, True], ids=["", "in a cycle"])
def test_a_drop_is_told_by_the_next_slow_call_with_the_stack_of_the_take(
        inACycle, telling, kind, isSeeded, world, caplog, collectsWhenTold):
    pool = poolOf(1, kind, world, isSeeded, leakTrace=True)
    openAll(pool)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        if inACycle:
            takeInACycle(pool)
            gc.collect()
        else:
            pool.take()
        assert not warned and not warningsIn(caplog)
        assert world.closed == 0
        TELLING[telling](pool)
        assert world.closed >= 1
        assert [warning.category for warning in warned] == [ResourceWarning]
        [line] = warningsIn(caplog)
        for text in line, str(warned[0].message):
            assert "dropped" in text
            assert __file__.rpartition("/")[2] in text  # the stack of the take
        pool.recycle()
        assert len(warned) == len(warningsIn(caplog)) == 1


def test_a_drop_takes_no_lock_logs_nothing_and_runs_no_hook(kind, isSeeded, world):
    """A profile function notes every call that the finalizer makes, of C functions as well."""
    def profile(frame, event, function):
        if event == "c_call":
            called.append(getattr(function, "__qualname__", str(function)))
        elif event == "call":
            called.append(frame.f_code.co_qualname)

    called = []
    pool = poolOf(1, kind, world, isSeeded)
    resource = pool.take()
    waiting = start(pool.take, PATIENCE)
    awaitWaiting(pool, 1)
    sys.setprofile(profile)
    del resource
    sys.setprofile(None)
    pool.put(waiting.result())
    assert "Resource.__del__" in called
    for name in called:
        assert not name.endswith((
            "acquire", "__enter__", "warn", "log", "warning", "get", "open", "close",
            "takeRepair", "putRepair", "clock", "monotonic")), called


def test_a_drop_does_not_read_the_clock(kind, isSeeded, world, clock):
    class Clock:
        def __call__(self):
            assert not isFinalizing, "the clock was read"
            return clock()

    isFinalizing = []
    pool = poolOf(1, kind, world, isSeeded, clock=Clock())
    resource = pool.take()
    isFinalizing.append(True)
    del resource
    isFinalizing.clear()
    with pool.take(timeout=0):
        pass
    assert pool.stats().closesByReason[Reason.DROPPED] == 1


def test_a_drop_while_a_queue_of_the_log_is_locked_does_not_dead_lock(
        kind, isSeeded, world, collectsWhenTold):
    """Warnings are captured into the log, whose handler puts into a queue, under its lock."""
    class Collecting(queue.Queue):
        def _put(self, item):
            gc.collect()
            super()._put(item)

    lines = Collecting()
    handler = logging.handlers.QueueHandler(lines)
    logger = logging.getLogger()
    logger.addHandler(handler)
    pool = poolOf(1, kind, world, isSeeded)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            logging.captureWarnings(True)
            takeInACycle(pool)
            start(logging.getLogger("program").warning, "hello").result(10)
            logging.captureWarnings(False)
    finally:
        logging.captureWarnings(False)
        logger.removeHandler(handler)
    checkWhole(pool, world)


def test_a_warning_that_is_an_error_does_not_hit_an_innocent_take(kind, isSeeded, world, caplog):
    pool = poolOf(1, kind, world, isSeeded)
    pool.take()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pool.take(timeout=0):
            pass
    assert len(warningsIn(caplog)) == 1
    checkWhole(pool, world)


def test_a_log_handler_that_fails_does_not_hit_an_innocent_take(kind, isSeeded, world):
    class Failing(logging.Handler):
        def emit(self, record):
            raise OSError("disk full")

    handler = Failing()
    logger = logging.getLogger("queuepool")
    logger.addHandler(handler)
    pool = poolOf(1, kind, world, isSeeded)
    try:
        pool.take()
        with pool.take(timeout=0):
            pass
    finally:
        logger.removeHandler(handler)
    checkWhole(pool, world)


def test_the_end_of_a_pool_is_silent(kind, isSeeded, caplog):
    pool = poolOf(2, kind, None, isSeeded)
    openAll(pool)
    pool.startRecycler(3600)
    pool.stopRecycler()
    end = weakref.ref(pool)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        del pool
        gc.collect()
        gc.collect()
    assert end() is None
    assert not warned and not warningsIn(caplog)


def test_a_drop_inside_a_hook_of_the_same_pool_is_told_later(kind, world, caplog):
    """The open hook collects; what it collects comes back to the pool that is opening."""
    class Collecting(kind):
        def open(self):
            gc.collect()
            super().open()

    pool = Pool("p", 2, factory=lambda name: Collecting(name, world))
    takeInACycle(pool)
    pool.put(pool.take())
    pool.recycle()
    assert len(warningsIn(caplog)) == 1
    assert world.peak <= 2
    checkWhole(pool, world)
