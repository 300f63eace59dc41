"""The report: what it tells of a pool, and that it neither locks nor keeps anything."""

import contextlib
import copy
import gc
import os
import pickle
import sys
import sysconfig
import threading
import weakref

import pytest

from queuepool import Pool, PoolBusy, PoolClosed, PoolError, PoolTimeout, Report, Verdict
from queuepool.core.leaks import LOOKS_FOR_ERRORS
from queuepool.lock import Lock
from queuepool.report import SHOWN, WIDTH, Frame, Holder
from tests.helpers import (PATIENCE, FakeResource, Gate, PlainResource, awaitTrue, awaitWaiting,
                           checkWhole, hasGil, start)

#: For tests of what is told of where other threads are.
needsFrames = pytest.mark.skipif(
    not hasGil(), reason="without the GIL the frames of other threads cannot be read")


def poolOf(capacity, kind=PlainResource, **options):
    return Pool("p", capacity, factory=kind, **options)


@contextlib.contextmanager
def heldBy(pool, name):
    """Have a thread of that name take one and stand at a gate; give its resource."""
    gate, taken = Gate(), []

    def holdWhatWasTaken():
        threading.current_thread().name = name
        with pool.take() as resource:
            taken.append(resource)
            gate()

    holding = start(holdWhatWasTaken)
    try:
        gate.awaitArrival()
        yield taken[0]
    finally:
        gate.open()
        holding.result()


def reportOf(**changes):
    return Report("p", False, 3, 0, 0, 0, 0, None, None, None, False, None, False, ())._replace(
        **changes)


def checkTable(report):
    """Check what holds for every table: 80 columns, and nothing that a terminal obeys."""
    lines = str(report).split("\n")
    assert all(line.isprintable() for line in lines), lines
    assert all(len(line) <= WIDTH == 80 for line in lines), lines
    return lines


# -- the gauges


@pytest.mark.parametrize("kind", [PlainResource, FakeResource])
def test_the_gauges_are_those_of_the_stats(kind):
    pool = poolOf(4, kind)

    def check():
        report, stats = pool.report(), pool.stats()
        for gauge in "capacity", "open", "idle", "taken", "waiting":
            assert getattr(report, gauge) == getattr(stats, gauge), gauge
        assert len(report.holders) == stats.taken
        assert report.name == "p" and report.closed is pool.closed
        checkTable(report)

    check()
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(pool.take())
            check()
        waiter = start(pool.take)
        awaitWaiting(pool, 1)
        check()
    pool.put(waiter.result())
    check()
    pool.resize(2)
    check()
    pool.close()
    check()


def test_a_new_pool_is_well():
    report = Pool("p", 3, factory=PlainResource).report()
    assert report == reportOf(idle=3)
    assert checkTable(report) == [
        "pool 'p': all is well",
        "  capacity 3, checked out 0, idle 3, open 0, waiting 0",
        "  recycler off"]


def test_it_is_frozen_and_does_not_change_later():
    pool = poolOf(1)
    with pool.take():
        report = pool.report()
        with pytest.raises(AttributeError):
            report.taken = 0
        with pytest.raises(AttributeError):
            report.holders[0].seconds = 0.0
    assert report.taken == len(report.holders) == 1


def test_whether_the_recycler_runs():
    pool = poolOf(1)
    pool.startRecycler(60)
    assert pool.report().recyclerRuns and "recycler on" in str(pool.report())
    pool.stopRecycler()
    assert not pool.report().recyclerRuns and "recycler off" in str(pool.report())


def test_a_closed_pool_says_so():
    pool = poolOf(1)
    with pool.take():
        pool.close()
        report = pool.report()
    assert (report.closed, report.taken, report.verdict) == (True, 1, Verdict.SHUTTING_DOWN)
    assert "closed" in str(report) and "shutting-down" in str(report)


# -- the holders


def test_the_longest_holder_comes_first_and_seconds_are_those_of_the_clock(clock):
    pool = poolOf(3, clock=clock)
    with heldBy(pool, "early"):
        clock.advance(5)
        with heldBy(pool, "late"):
            clock.advance(2)
            with pool.take():
                clock.advance(0.25)
                holders = pool.report().holders
    assert [(each.resource, each.thread, each.seconds) for each in holders] == [
        ("p-0", "early", 7.25), ("p-1", "late", 2.25), ("p-2", "MainThread", 0.25)]
    assert not any(each.hasEnded or each.waitsIn for each in holders)
    assert pool.report().holders == ()


def test_the_time_since_the_take_is_not_negative_though_the_clock_goes_back(clock):
    pool = poolOf(1, clock=clock)
    with pool.take():
        clock.advance(-3)
        assert pool.report().holders[0].seconds == 0.0


@needsFrames
def test_the_stack_is_where_the_thread_is():
    pool = poolOf(1)
    with heldBy(pool, "web-2"):
        report = pool.report()
    (holder,) = report.holders
    functions = [frame.function for frame in holder.frames]
    assert "holdWhatWasTaken" in functions
    assert functions.index("_bootstrap") < functions.index("holdWhatWasTaken")  # innermost last
    assert __file__ in [frame.file for frame in holder.frames]
    where = [frame for frame in holder.frames if frame.function == "holdWhatWasTaken"][0]
    assert f'  File "{__file__}", line {where.line}, in holdWhatWasTaken\n    gate()\n' in (
        holder.stack)
    assert holder.place.startswith("helpers.py:") and holder.place.endswith("in __call__")
    assert f"at {holder.place}" in str(report)


@needsFrames
def test_the_stack_of_this_thread_is_the_call_of_report():
    pool = poolOf(1)
    with pool.take():
        (holder,) = pool.report().holders
    assert "test_the_stack_of_this_thread_is_the_call_of_report" in holder.place


def test_the_stack_of_the_take_is_there_with_leak_trace():
    pool = poolOf(1)
    with pool.take():
        assert pool.report().holders[0].takeTrace is None
    pool = poolOf(1, leakTrace=True)
    with pool.take():
        trace = pool.report().holders[0].takeTrace
    assert "test_the_stack_of_the_take_is_there_with_leak_trace" in trace
    assert "with pool.take():" in trace


def test_a_holder_that_waits_says_in_which_pool():
    pool, other = poolOf(1), Pool("other", 1, factory=PlainResource)
    blocker = other.take()

    def work():
        with pool.take():
            return other.take()

    working = start(work)
    awaitWaiting(other, 1)
    report = pool.report()
    (holder,) = report.holders
    assert (holder.waitsIn, holder.state) == ("other", "waits in pool 'other'")
    assert "waits in pool 'other'" in str(report)
    other.put(blocker)
    other.put(working.result())
    with pool.take():
        (holder,) = pool.report().holders
        assert (holder.waitsIn, holder.state) == (None, "")


def test_a_holder_whose_thread_has_ended_says_so():
    pool = poolOf(1)
    running = start(pool.take)
    resource = running.result()
    awaitTrue(lambda: not running.thread.is_alive())
    report = pool.report()
    (holder,) = report.holders
    assert (holder.hasEnded, holder.frames, holder.stack, holder.place) == (True, (), "", "")
    assert "has ended without returning it" in str(report)
    pool.put(resource)


def test_the_place_is_the_users_line_though_his_thread_is_in_a_library():
    def holderAt(*files):
        frames = tuple(Frame(file, number, f"f{number}") for number, file in enumerate(files, 1))
        return Holder("a", "t", 0.0, None, False, frames, None)

    import queuepool
    own, standard = queuepool.pool.__file__, threading.__file__
    installed = "/venv/lib/python3/site-packages/django/views.py".replace("/", os.sep)
    assert holderAt("/app/web.py", installed, standard, own).place == "web.py:1 in f1"
    assert holderAt(standard, "/app/web.py", "/app/model.py").place == "model.py:3 in f3"
    assert holderAt(standard, installed, own).place == "views.py:2 in f2"
    assert holderAt(own).place == "" == holderAt().place


# -- opening


def test_the_last_error_of_an_open_and_its_age(clock):
    pool = Pool("p", 1, clock=clock)
    pool.put(FakeResource("a", open=[OSError("down\nfor good"), None]))
    assert (pool.report().lastError, pool.report().lastErrorAge) == (None, None)
    with pytest.raises(OSError):
        pool.take()
    clock.advance(2.5)
    report = pool.report()
    assert (report.lastError, report.lastErrorAge) == ("OSError: down", 2.5)
    assert "last failed open 2.5 s ago: OSError: down" in checkTable(report)[3]
    with pool.take():
        clock.advance(2.5)
    assert pool.report().lastErrorAge == 5.0  # it tells of the last one, whatever came after


def test_the_last_error_keeps_no_frame_alive():
    class Witness:
        pass

    witnesses = []

    class Failing(PlainResource):
        def open(self):
            witness = Witness()
            witnesses.append(weakref.ref(witness))
            raise OSError(witness)

    pool = poolOf(1, Failing)
    with pytest.raises(OSError) as caught:
        pool.take()
    report = pool.report()
    del caught
    gc.collect()
    assert witnesses[0]() is None
    assert report.lastError.startswith("OSError: ")


class Mute(Exception):
    def __str__(self):
        raise ValueError


@pytest.mark.parametrize("error, told", [
    (Mute(), "Mute: (it has no text)"), (OSError(""), "OSError: "),
    (OSError("first\nsecond"), "OSError: first"), (OSError("\n"), "OSError: "),
    (OSError("x" * 10_000), "OSError: " + "x" * 200)])
def test_an_error_is_told_in_one_short_line(error, told):
    pool = Pool("p", 1)
    pool.put(FakeResource("a", open=[error]))
    with pytest.raises(type(error)):
        pool.take()
    report = pool.report()
    assert report.lastError == told
    assert len(checkTable(report)) == (4 if len(told) < 50 else 7)


def test_what_interrupts_an_open_is_no_error_of_it():
    pool = Pool("p", 1)
    pool.put(FakeResource("a", open=[KeyboardInterrupt()]))
    with pytest.raises(KeyboardInterrupt):
        pool.take()
    assert pool.report().lastError is None


def test_reconnecting_and_when_it_is_tried_again(world, clock):
    pool = Pool("p", 1, openRetryTime=60, clock=clock)
    pool.put(FakeResource("a", world, open=[OSError("down")]))
    assert (pool.report().isReconnecting, pool.report().retryIn) == (False, None)
    taking = start(pool.take)
    awaitTrue(lambda: pool.report().waiting == 1 and pool.report().lastError is not None)
    report = pool.report()
    assert report.isReconnecting and 0.08 < report.retryIn <= 0.1
    assert report.lastError == "OSError: down"
    assert report.verdict is Verdict.CANNOT_OPEN
    assert "reconnecting, next attempt in 0.1 s" in str(report)
    clock.advance(1)
    assert pool.report().retryIn == 0.0
    pool._queue.notify()
    pool.put(taking.result())
    report = pool.report()
    assert (report.isReconnecting, report.retryIn, report.verdict) == (False, None, None)


# -- the table


def test_of_a_thousand_holders_twenty_are_shown(clock):
    pool = poolOf(1000, clock=clock)
    taken = []
    for _ in range(1000):
        taken.append(pool.take())
        clock.advance(1)
    report = pool.report()
    assert len(report.holders) == 1000
    lines = checkTable(report)
    assert lines[-1] == f"  and {1000 - SHOWN} more" and SHOWN == 20
    assert sum("MainThread" in line for line in lines) == 20
    assert "1000.000" in lines[4] and len(lines) < 50
    for resource in taken:
        pool.put(resource)


def test_twenty_holders_are_all_shown():
    pool = poolOf(SHOWN)
    with contextlib.ExitStack() as stack:
        for _ in range(SHOWN):
            stack.enter_context(pool.take())
        assert "more" not in str(pool.report())


@needsFrames
@pytest.mark.parametrize("name", [
    "x" * 500, "two\nlines", "return\rsep\u2028", "Größe 測試" * 20, "", "a\tb\x1b[31m\0", "\udc80"],
    ids=ascii)
def test_unusual_names_stay_in_their_line(name, clock):
    """A table of which a name could make two lines, or colour the terminal, tells untruths."""
    pool = Pool(name, 2, clock=clock)
    pool.put(FakeResource("b", open=[OSError(name)]))
    with pytest.raises(OSError):
        pool.take()
    pool.put(PlainResource(name))
    with heldBy(pool, name):
        report = pool.report()
    (holder,) = report.holders
    assert (holder.resource, holder.thread) == (name, name)  # only the table changes them
    assert len(checkTable(report._replace(lastError=None))) == 6
    assert len(checkTable(report._replace(
        lastError=None, holders=(holder._replace(waitsIn=name),)))) == 7
    assert len([line for line in checkTable(report)[3:] if line.startswith("    ")]) < 8


# -- what it costs others


def test_it_takes_no_lock(clock):
    """Another thread has every lock of the pool while this one makes a report."""
    pool = poolOf(3, clock=clock, openRetryTime=1.0)
    pool.startRecycler(60)
    kinds = type(threading.Lock()), type(threading.RLock()), Lock
    locks = [thing for owner in (pool, pool._queue, pool._breaker, pool._keeper, pool._ledger,
                                 pool._hooks, pool._limits, pool._recycler)
             for thing in vars(owner).values() if isinstance(thing, kinds)]
    assert {id(pool._queue._lock), id(pool._breaker._lock)} <= set(map(id, locks))
    gate = Gate()

    def lockAll():
        with contextlib.ExitStack() as stack:
            for lock in locks:
                if isinstance(lock, Lock):
                    next(lock.steps)
                    stack.callback(lock.release)
                else:
                    stack.enter_context(lock)
            gate()

    with pool.take():
        locking = start(lockAll)
        gate.awaitArrival()
        report = start(lambda: (pool.report(), str(pool.report())))
        assert report.result(5)[0].taken == 1
        gate.open()
        locking.result()
    pool.stopRecycler()


def test_reports_while_eight_threads_work_are_sound():
    pool = poolOf(4, FakeResource)
    stop = threading.Event()

    def work():
        count = 0
        while not stop.is_set():
            with pool.take(PATIENCE):
                count += 1
        return count

    working = [start(work) for _ in range(8)]
    try:
        for _ in range(300):
            report = pool.report()
            assert len(report.holders) <= 4 and 0 <= report.taken <= 4
            assert [each.seconds for each in report.holders] == sorted(
                (each.seconds for each in report.holders), reverse=True)
            assert all(each.thread.startswith("Thread-") for each in report.holders)
            assert report.verdict in (None, Verdict.EXHAUSTED), report.verdict
            checkTable(report)
    finally:
        stop.set()
        counts = [each.result() for each in working]
    assert all(counts)
    checkWhole(pool)


def test_it_keeps_neither_the_pool_nor_anything_else_alive():
    pool = poolOf(2)
    resource = pool.take()
    pool.put(resource)
    with heldBy(pool, "t") as other:
        report = pool.report()
    references = [weakref.ref(pool), weakref.ref(resource), weakref.ref(other)]
    del pool, resource, other
    gc.collect()
    assert [reference() for reference in references] == [None] * 3
    assert report.holders[0].thread == "t"


def test_it_keeps_no_frame_alive():
    """A cycle with the frames of all threads would keep alive whatever they had in variables."""
    class Witness:
        pass

    def makeReport():
        witness = Witness()
        pool.report()
        return weakref.ref(witness)

    pool = poolOf(1)
    gc.collect()
    gc.disable()
    try:
        with pool.take():
            assert makeReport()() is None
    finally:
        gc.enable()


def test_what_is_dropped_after_a_report_comes_back_at_once():
    pool = poolOf(1)
    gc.collect()
    gc.disable()
    try:
        with pytest.warns(ResourceWarning):
            def drop():
                resource = pool.take()
                pool.report()
                assert resource.isOpen

            start(drop).result()
            with pool.take(timeout=0):
                pass
    finally:
        gc.enable()


def test_it_can_be_pickled_and_copied():
    pool = poolOf(1, leakTrace=True)
    with pool.take():
        report = pool.report()
        with pytest.raises(PoolTimeout) as caught:
            pool.take(timeout=0)
    for twin in pickle.loads(pickle.dumps(report)), copy.copy(report), copy.deepcopy(report):
        assert twin == report and str(twin) == str(report)
        assert type(twin) is Report and type(twin.holders[0]) is Holder
        assert twin.holders[0].stack == report.holders[0].stack
    assert pickle.loads(pickle.dumps(caught.value)).report == caught.value.report


# -- verdicts


def timeoutOf(pool, timeout=0):
    with pytest.raises(PoolTimeout) as caught:
        pool.take(timeout)
    error = caught.value
    assert str(error).endswith(f" [queuepool:{error.report.verdict}]")
    assert "\n" not in str(error)
    checkTable(error.report)
    return error


def test_the_verdict_exhausted():
    pool = poolOf(1)
    with heldBy(pool, "web-7"):
        assert pool.report().verdict is Verdict.EXHAUSTED
        error = timeoutOf(pool)
        assert error.report.verdict is Verdict.EXHAUSTED
        assert "'p-0' is checked out longest, for 0.0 s, by thread 'web-7'" in str(error)
        assert "this thread" not in str(error)
        assert error.report.holders[0].thread == "web-7"
    assert pool.report().verdict is None


def test_the_verdict_nested():
    pool = poolOf(2)
    with pool.take(), pool.take():
        error = timeoutOf(pool)
        assert error.report.verdict is Verdict.NESTED
        assert "this thread already has 'p-" in str(error)
        assert pool.report().verdict is Verdict.EXHAUSTED  # nobody waits any more
        assert not any(holder.waitsIn for holder in pool.report().holders)
    assert pool.report().verdict is None


def test_one_of_two_holders_at_work_is_no_nesting():
    pool = poolOf(2)
    with pool.take(), heldBy(pool, "worker"):
        error = timeoutOf(pool)
        assert error.report.verdict is Verdict.EXHAUSTED
        assert "this thread already has 'p-0'" in str(error)
        assert [(each.thread, each.waitsIn) for each in error.report.holders] == [
            ("MainThread", "p"), ("worker", None)]


def test_the_verdict_cannot_open(world):
    pool = Pool("p", 1, openRetryTime=60)
    pool.put(FakeResource("a", world, open=[OSError("password=secret")] * 1000))
    error = timeoutOf(pool, 0.15)
    assert error.report.verdict is Verdict.CANNOT_OPEN is pool.report().verdict
    assert "the last attempt to open one failed with OSError" in str(error)
    assert error.report.lastError == "OSError: password=secret"
    assert "secret" in str(error.report)  # the report says all


def test_the_text_of_an_opens_error_is_not_in_the_message(world):
    """It may say a password, and messages of errors are logged everywhere."""
    pool = Pool("p", 2, openRetryTime=60)
    for name in "ab":
        pool.put(FakeResource(name, world, open=[OSError("s3cret")] * 1000))
    error = timeoutOf(pool, 0.12)
    assert "s3cret" not in str(error) and "s3cret" not in repr(error)
    assert "s3cret" in str(error.__cause__)


def test_the_verdict_cannot_open_of_what_was_not_ready_in_time(world, clock):
    pool = Pool("p", 1, 10, clock=clock)
    pool.put(FakeResource("a", world, close=[lambda: clock.advance(5)]))
    pool.put(pool.take())
    clock.advance(11)
    error = timeoutOf(pool, 1)
    assert "'a' was not ready in 5.000 s (timeout 1 s)" in str(error)
    assert error.report.verdict is Verdict.CANNOT_OPEN
    assert pool.report().verdict is None
    checkWhole(pool, world)


def test_an_old_error_is_not_told_as_that_of_the_last_attempt(world, clock):
    """What was opened after it shows that the error is over."""
    pool = Pool("p", 1, 10, clock=clock)
    pool.put(FakeResource("a", world, open=[ValueError("once"), None],
                          close=[lambda: clock.advance(5)]))
    with pytest.raises(ValueError):
        pool.take()
    pool.put(pool.take())
    clock.advance(11)
    assert "ValueError" not in str(timeoutOf(pool, 1))


def test_what_comes_free_while_the_report_is_made_is_no_failing_open():
    """The take found nothing, whatever the report finds a moment later."""
    isPut = False

    def clock():
        nonlocal isPut
        if not isPut and sys._getframe(1).f_code.co_name.endswith("report"):
            isPut = True
            resource = taken.pop()
            start(lambda: pool.put(resource)).result()
        return 1000.0

    pool = poolOf(1, clock=clock)
    taken = [start(pool.take).result()]
    error = timeoutOf(pool)
    assert isPut and error.report.idle == 1
    assert error.report.verdict is Verdict.EXHAUSTED, str(error)


@pytest.mark.parametrize("capacity", [1, 2])
def test_while_another_thread_opens_it_is_not_that_all_are_checked_out(world, capacity):
    """A host that does not answer: nobody has anything, all are in the hands of an open."""
    gate = Gate()
    pool = Pool("p", capacity)
    for number in range(capacity):
        pool.put(FakeResource(f"r{number}", world, open=[gate]))
    opening = [start(pool.take) for _ in range(capacity)]
    for _ in opening:
        gate.awaitArrival()
    verdict, error = pool.report().verdict, timeoutOf(pool)
    gate.open()
    for each in opening:
        pool.put(each.result())
    assert error.report.taken == 0
    assert error.report.verdict is verdict is Verdict.CANNOT_OPEN
    checkWhole(pool, world)


def test_the_verdict_empty():
    pool = Pool("p", 2)
    assert pool.report().verdict is Verdict.EMPTY
    error = timeoutOf(pool)
    assert error.report.verdict is Verdict.EMPTY
    assert "nothing was put into the pool yet, and it has no factory" in str(error)
    with pytest.raises(PoolError, match=r"\[queuepool:empty\]$"):
        pool.warm()
    pool.put(PlainResource("a"))
    assert pool.report().verdict is None
    with pool.take():
        assert timeoutOf(pool).report.verdict is Verdict.EXHAUSTED  # a second one may be put


def test_the_verdict_shutting_down(clock):
    pool = poolOf(1, clock=clock)
    pool.put(pool.take())

    def closeIt():
        threading.current_thread().name = "closer"
        pool.close()

    start(closeIt).result()
    clock.advance(1.25)
    for refused in pool.take, pool.warm, pool.startRecycler, lambda: pool.put(PlainResource("a")):
        with pytest.raises(PoolClosed) as caught:
            refused()
        message = str(caught.value)
        assert "1.2 s ago in thread 'closer'" in message
        assert message.endswith("[queuepool:shutting-down]")
        assert caught.value.report.verdict is Verdict.SHUTTING_DOWN is pool.report().verdict
    clock.advance(1)
    pool.close()  # again: the first one counts
    with pytest.raises(PoolClosed, match="2.2 s ago in thread 'closer'"):
        pool.take()


def test_who_waits_when_the_pool_is_closed_gets_the_report():
    pool = poolOf(1)
    with pool.take():
        waiter = start(pool.take)
        awaitWaiting(pool, 1)
        pool.close()
        with pytest.raises(PoolClosed) as caught:
            waiter.result()
    assert caught.value.report.verdict is Verdict.SHUTTING_DOWN
    assert caught.value.report.holders[0].thread == "MainThread"


def test_a_busy_pool_has_the_report_and_the_verdict_too():
    pool = poolOf(1, maxWaiting=0)
    with heldBy(pool, "worker"), pytest.raises(PoolBusy) as caught:
        pool.take()
    assert str(caught.value).endswith("[queuepool:exhausted]")
    assert caught.value.report.verdict is Verdict.EXHAUSTED
    assert caught.value.report.holders[0].thread == "worker"


@pytest.mark.parametrize("isSeeded", [True, False])
def test_the_verdict_is_none_if_and_only_if_a_take_gets_something(isSeeded):
    pool = Pool("p", 3, factory=None if isSeeded else PlainResource)
    taken = []
    for _ in range(3 if isSeeded else 0):
        pool.put(PlainResource("a"))
    while pool.report().verdict is None:
        taken.append(pool.take(timeout=0))
    assert len(taken) == 3
    timeoutOf(pool)
    for resource in taken:
        pool.put(resource)
        assert pool.report().verdict is None


def test_the_verdicts_are_words_and_serve_as_strings():
    assert [str(verdict) for verdict in Verdict] == [
        "exhausted", "nested", "cannot-open", "empty", "shutting-down"]
    assert f"{Verdict.CANNOT_OPEN}" == "cannot-open" == Verdict.CANNOT_OPEN


# -- what is in the hands of a hook


@needsFrames
@pytest.mark.parametrize("hook", ["open", "takeRepair", "putRepair", "close"])
def test_who_runs_a_hook_is_told(hook):
    gate = Gate()

    class Slow(FakeResource):
        pass

    def stand(self):
        if gate is not None:
            gate()
        getattr(FakeResource, hook)(self)

    setattr(Slow, hook, stand)
    stand.__name__ = hook
    stand.__code__ = stand.__code__.replace(co_name=hook)
    pool = poolOf(1, Slow)

    def use():
        with pool.take():
            pass
        pool.invalidate()

    using = start(use)
    gate.awaitArrival()
    holder, = pool.report().holders
    assert (holder.isHeld, holder.hook, holder.state) == (True, hook, f"runs its {hook}")
    assert holder.place.startswith("helpers.py:") and pool.report().taken == 0
    assert f"runs its {hook}" in "\n".join(checkTable(pool.report()))
    gate.open()
    using.result()


def test_opens_that_take_long_or_fail_are_no_well_pool(clock):
    gate = Gate()

    class Hanging(PlainResource):
        def open(self):
            gate()
            super().open()

    pool = poolOf(3, Hanging, clock=clock)
    opening = [start(pool.take) for _ in range(2)]
    for _ in opening:
        gate.awaitArrival()
    assert pool.report().verdict is None
    clock.advance(1.5)
    assert pool.report().verdict is Verdict.CANNOT_OPEN
    gate.open()
    first, second = [each.result() for each in opening]
    assert pool.report().verdict is None
    pool.put(first)
    pool.put(second)


def test_the_last_open_failed_and_nothing_was_opened_since(world):
    pool = Pool("p", 2)
    pool.put(FakeResource("a", world, open=[OSError("refused")]))
    with pytest.raises(OSError):
        pool.take()
    assert pool.report().verdict is Verdict.CANNOT_OPEN
    with pool.take():
        pass
    assert pool.report().verdict is None


def test_one_in_use_does_not_hide_those_that_hang_in_open():
    gate, numbers = Gate(), iter(range(3))

    class Hanging(PlainResource):
        def open(self):
            if next(numbers) > 0:
                gate()
            super().open()

    pool = poolOf(3, Hanging)
    with pool.take():
        opening = [start(pool.take) for _ in range(2)]
        for _ in opening:
            gate.awaitArrival()
        assert timeoutOf(pool).report.verdict is Verdict.CANNOT_OPEN
        gate.open()
        for each in opening:
            pool.put(each.result())


# -- the cost of errors


@needsFrames
def test_many_errors_at_a_time_look_at_the_stacks_once(monkeypatch):
    pool = poolOf(30, maxWaiting=0)
    looks, currentFrames = [], sys._current_frames
    monkeypatch.setattr(sys, "_current_frames", lambda: looks.append(1) or currentFrames())
    monkeypatch.setattr("queuepool.core.leaks.STACKS_TIME", PATIENCE)
    with contextlib.ExitStack() as stack:
        for _ in range(30):
            stack.enter_context(pool.take())
        reports = []
        for _ in range(20):
            with pytest.raises(PoolBusy) as caught:
                pool.take()
            reports.append(caught.value.report)
        shown = SHOWN if LOOKS_FOR_ERRORS else 0
        assert len(looks) == bool(shown)
        for report in reports:
            assert [bool(holder.frames) for holder in report.holders] == [True] * shown + [
                False] * (30 - shown)
        assert all(holder.frames for holder in pool.report().holders)


@needsFrames
def test_deep_stacks_are_told_from_the_innermost_outwards():
    def sink(depth):
        if depth:
            return sink(depth - 1)
        with pool.take():
            return pool.report().holders[0]

    pool = poolOf(1)
    holder = sink(200)
    assert len(holder.frames) == 50
    assert holder.place.endswith("in sink")


# -- names


@pytest.mark.parametrize("given, told", [(None, "None"), (7, "7"), (b"a", "b'a'")])
def test_a_name_that_is_no_text_is_told_as_text(given, told):
    pool = Pool("p", 1)
    pool.put(PlainResource(given))
    with pool.take() as resource:
        assert resource.name == given
        assert pool.report().holders[0].resource == told
        assert f" {told} " in str(pool.report())
        assert told in str(timeoutOf(pool))


def test_a_name_without_any_text_harms_nothing():
    class Nameless:
        def __str__(self):
            raise RuntimeError

    pool = Pool("p", 1)
    pool.put(PlainResource(Nameless()))
    with pool.take():
        assert pool.report().holders[0].resource == "PlainResource"


def test_a_factory_that_names_by_itself_is_told_so():
    pool = Pool("p", 1, factory=lambda name: PlainResource("primary"))
    with pool.take():
        assert pool.report().holders[0].resource == "primary"


# -- the line that is told


LIBRARY = "/usr/lib/python3/dist-packages/flask/app.py".replace("/", os.sep)


@pytest.mark.parametrize("files, place", [
    (["/srv/app.py", threading.__file__], "app.py:1 in f"),
    ([os.path.join(sysconfig.get_path("scripts"), "gunicorn"),
      os.path.join(sysconfig.get_path("purelib"), "web", "app.py"),
      threading.__file__], "app.py:2 in f"),
    (["<frozen runpy>", "/srv/slow.py", "<frozen importlib._bootstrap>"], "slow.py:2 in f"),
    ([threading.__file__, LIBRARY, threading.__file__], "app.py:2 in f"),
    (["<frozen runpy>", threading.__file__], f"{os.path.basename(threading.__file__)}:2 in f"),
    (["/srv/a\nb\x1b.py"], "a\\nb\\x1b.py:1 in f")])
def test_the_line_is_of_the_program_rather_than_of_a_library(files, place):
    frames = tuple(Frame(file, number, "f") for number, file in enumerate(files, 1))
    assert Holder("a", "t", 0.0, None, False, frames, None).place == place


def test_the_trace_of_takes_can_be_switched_on_while_it_runs():
    pool = poolOf(1)
    with pool.take():
        pool.leakTrace = True
        assert pool.report().holders[0].takenAt == ""
    with pool.take():
        assert pool.report().holders[0].takenAt.startswith("test_report.py:")
    pool.leakTrace = False
    with pool.take():
        assert pool.report().holders[0].takenAt == ""
