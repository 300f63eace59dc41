"""Exceptions that refer to each other: what a failed open leaves alive, and whose they are."""

import contextlib
import gc
import traceback
import weakref

import pytest

from queuepool import PoolTimeout
from tests.helpers import start
from tests.reports.situations import poolOf


class Buffer:
    """Something large that is in a variable of a failing open."""


# -- causes that form a cycle


def itself():
    error = OSError("no route")
    error.__cause__ = error
    return error


def two():
    first, second = OSError("primary"), OSError("fallback")
    first.__cause__, second.__cause__ = second, first
    return first


def threeByCauseAndContext():
    first, second, third = OSError("1"), OSError("2"), OSError("3")
    first.__cause__, second.__context__, third.__cause__ = second, third, first
    return first


def aGroupThatCausedItsMember():
    member = OSError("no route")
    group = ExceptionGroup("all hosts", [OSError("1"), member])
    member.__cause__ = group
    return group


def aGroupWithinItsMembersContext():
    inner = ExceptionGroup("inner", [OSError("1")])
    outer = ExceptionGroup("outer", [inner])
    inner.exceptions[0].__context__ = outer
    return outer


CYCLES = [itself, two, threeByCauseAndContext, aGroupThatCausedItsMember,
          aGroupWithinItsMembersContext]


@pytest.mark.parametrize("retry", [0.0, 0.01])
@pytest.mark.parametrize("cycle", CYCLES, ids=[cycle.__name__ for cycle in CYCLES])
def test_causes_that_form_a_cycle_do_not_stop_the_pool(cycle, retry, kind, isSeeded, clock):
    class Down(kind):
        def open(self):
            clock.advance(10.0)
            raise cycle()

    pool = poolOf(2, Down, None, isSeeded, clock=clock, openRetryTime=retry)
    with pytest.raises(PoolTimeout if retry else (OSError, ExceptionGroup)):
        start(pool.take).result(10)
    assert start(pool.close).result(10) == 0


# -- what is kept alive


def plain(fail):
    fail()


def contextOfAnother(fail):
    try:
        fail()
    except OSError:
        fail()


def causeOfAnother(fail):
    try:
        fail()
    except OSError as error:
        raise KeyError("cache") from error


def causeAndContext(fail):
    try:
        fail()
    except OSError as error:
        inner = error
    try:
        fail()
    except OSError:
        try:
            raise OSError("all hosts") from inner
        finally:
            del inner


def suppressedContext(fail):
    try:
        fail()
    except OSError:
        raise OSError("refused") from None


def membersOfAGroup(fail):
    errors = []
    for _ in range(2):
        try:
            fail()
        except OSError as error:
            errors.append(error)
    try:
        raise ExceptionGroup("all hosts", [ExceptionGroup("one", errors), OSError("two")])
    finally:
        errors = None


FAILURES = [plain, contextOfAnother, causeOfAnother, causeAndContext, suppressedContext,
            membersOfAGroup]


@pytest.mark.parametrize("failure", FAILURES, ids=[failure.__name__ for failure in FAILURES])
@pytest.mark.parametrize("keeps", [False, True], ids=["", "PoolTimeout kept"])
def test_a_failed_open_leaves_no_frames_alive(failure, keeps, kind, isSeeded, clock, unrecorded):
    class Down(kind):
        def open(self):
            clock.advance(10.0)
            failure(fail)

    def fail():
        buffer = Buffer()
        alive.append(weakref.ref(buffer))
        raise OSError("no route")

    alive = []
    pool = poolOf(1, Down, None, isSeeded, clock=clock, openRetryTime=0.01)
    kept = []
    for _ in range(2):
        try:
            pool.take()
        except PoolTimeout as error:
            assert error.__cause__ is not None
            if keeps:
                kept.append(error)
    kept = [error.with_traceback(None) for error in kept]
    gc.collect()
    assert alive and not [buffer for buffer in alive if buffer() is not None]


@pytest.mark.parametrize("way", ["take", "recycle", "warm"])
def test_without_retries_a_failure_is_kept_by_nobody(way, kind, isSeeded, unrecorded):
    class Down(kind):
        def open(self):
            error = OSError("no route")
            error.buffer = Buffer()
            alive.append(weakref.ref(error.buffer))
            raise error

    alive = []
    pool = poolOf(1, Down, None, isSeeded, minOpen=1)
    with contextlib.suppress(OSError):
        getattr(pool, way)()
    gc.collect()
    assert len(alive) == 1 and alive[0]() is None


@pytest.mark.parametrize("hook", ["close", "takeRepair", "putRepair"])
def test_other_failing_hooks_leave_nothing_alive(hook, kind, isSeeded, unrecorded):
    def fail(self):
        buffer = Buffer()
        alive.append(weakref.ref(buffer))
        raise OSError("broken")

    alive = []
    pool = poolOf(1, type("Broken", (kind,), {hook: fail}), None, isSeeded, openRetryTime=0.01)
    with contextlib.suppress(OSError):
        with pool.take():
            pool.invalidate()
    gc.collect()
    assert alive and not [buffer for buffer in alive if buffer() is not None]


def test_after_an_outage_nothing_of_it_is_kept(kind, isSeeded, clock, unrecorded):
    class Flaky(kind):
        def open(self):
            if not ends:
                clock.advance(0.2)
                error = OSError("no route")
                error.buffer = Buffer()
                ends.append(weakref.ref(error.buffer))
                raise error
            super().open()

    ends = []
    pool = poolOf(1, Flaky, None, isSeeded, clock=clock, openRetryTime=100.0)
    with pytest.raises(PoolTimeout):
        pool.take(timeout=0)
    clock.advance(1.0)
    with pool.take():
        pass
    gc.collect()
    assert ends[0]() is None


# -- the exceptions of the user


def work():
    raise KeyError("mine")


def framesOf(error):
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


def inAnExceptBlock(take):
    """Take while an exception is handled that has a cause of its own; return both."""
    try:
        try:
            work()
        except KeyError as error:
            cause = error
            raise ValueError("mine, too") from error
    except ValueError as error:
        with contextlib.suppress(PoolTimeout, OSError):
            take()
        return cause, error


def inAFinallyBlock(take):
    try:
        try:
            work()
        except KeyError as error:
            cause = error
            try:
                raise ValueError("mine, too") from error
            finally:
                with contextlib.suppress(PoolTimeout, OSError):
                    take()
    except ValueError as error:
        return cause, error


def inAWithExit(take):
    class Taking:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            with contextlib.suppress(PoolTimeout, OSError):
                take()

    try:
        try:
            work()
        except KeyError as error:
            cause = error
            with Taking():
                raise ValueError("mine, too") from error
    except ValueError as error:
        return cause, error


SITUATIONS = [inAnExceptBlock, inAFinallyBlock, inAWithExit]


@pytest.mark.parametrize("timeout", [0, 5])
@pytest.mark.parametrize("retry", [0.0, 5.0])
@pytest.mark.parametrize("isGroup", [False, True], ids=["", "group"])
@pytest.mark.parametrize("situation", SITUATIONS, ids=[each.__name__ for each in SITUATIONS])
def test_an_exception_that_the_user_handles_keeps_its_traceback(
        situation, isGroup, retry, timeout, kind, isSeeded):
    class Flaky(kind):
        def open(self):
            if not failed:
                failed.append(self)
                raise ExceptionGroup("all", [OSError("1")]) if isGroup else OSError("refused")
            super().open()

    def take():
        try:
            with pool.take(timeout):
                pass
        except ExceptionGroup:
            pass
        assert failed

    failed = []
    pool = poolOf(1, Flaky, None, isSeeded, openRetryTime=retry)
    cause, error = situation(take)
    assert framesOf(cause)[-1] == "work"
    assert len(framesOf(error)) == 1
    assert error.__cause__ is cause


def test_an_exception_that_open_took_up_from_the_user_keeps_its_traceback(
        kind, isSeeded, clock):
    """The open raises its own from what was handled when take was called."""
    class Down(kind):
        def open(self):
            clock.advance(10.0)
            raise OSError("refused") from mine[0]

    mine = []
    pool = poolOf(1, Down, None, isSeeded, clock=clock, openRetryTime=0.01)
    try:
        work()
    except KeyError as error:
        mine.append(error)
        with pytest.raises(PoolTimeout):
            pool.take()
        assert framesOf(error)[-1] == "work"


def test_the_time_out_refers_to_what_the_user_handled(kind, isSeeded, clock):
    class Down(kind):
        def open(self):
            clock.advance(10.0)
            raise OSError("refused")

    pool = poolOf(1, Down, None, isSeeded, clock=clock, openRetryTime=0.01)
    try:
        work()
    except KeyError as error:
        with pytest.raises(PoolTimeout) as caught:
            pool.take()
        assert caught.value.__context__ is error
        assert isinstance(caught.value.__cause__, OSError)


def test_what_one_thread_handles_is_not_told_to_another(kind, isSeeded, clock):
    """The failure that a second thread is told of does not refer to the first one's exception."""
    class Down(kind):
        def open(self):
            clock.advance(10.0)
            raise OSError("refused")

    pool = poolOf(1, Down, None, isSeeded, clock=clock, openRetryTime=0.01)
    try:
        work()
    except KeyError:
        with pytest.raises(PoolTimeout):
            pool.take()
    with pytest.raises(PoolTimeout) as caught:
        start(pool.take, 0).result(10)
    assert caught.value.__cause__.__context__ is None
