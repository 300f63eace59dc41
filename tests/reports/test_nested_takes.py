"""Threads that hold one and take another: told when nobody can be served, and only then."""

import contextlib
import gc
import logging
import os
import random
import re
import subprocess
import sys
import threading
import time
import weakref

import pytest

from queuepool import Pool, PoolDeadlock, PoolTimeout, Verdict
from tests.helpers import (PATIENCE, FakeResource, Gate, PlainResource, awaitTrue, awaitWaiting,
                           checkWhole, start)

#: How many takes the stress tests make, all of them together several ten thousands.
SECONDS = float(os.environ.get("QUEUEPOOL_NESTING_SECONDS", "1.5"))


def poolOf(name, capacity, kind=PlainResource, **options):
    return Pool(name, capacity, factory=kind, **options)


class Nesting:
    """Threads that hold what they took from one pool and then take from another one."""

    def __init__(self):
        self._going = threading.Event()
        self._running = []

    def hold(self, outer, inner, timeout=PATIENCE, take=Pool.take):
        """Start a thread that holds one of outer; ``goOn`` lets it take one of inner."""
        gate, isHeld = Gate(), Gate()
        isHeld.open()

        def work():
            with outer.take():
                isHeld()
                gate()
                try:
                    with take(inner, timeout):
                        return "served"
                except PoolTimeout as error:
                    return error

        self._running.append((start(work), gate))
        isHeld.awaitArrival()

    def goOn(self, number, waitsIn=None):
        waiting = waitsIn.stats().waiting if waitsIn else 0
        self._running[number][1].open()
        if waitsIn is not None:
            awaitWaiting(waitsIn, waiting + 1)

    def result(self, number):
        return self._running[number][0].result()

    def results(self):
        return [running.result() for running, _ in self._running]


@pytest.fixture
def nesting():
    return Nesting()


def checkDeadlock(error, pool):
    assert isinstance(error, PoolDeadlock) and isinstance(error, TimeoutError)
    assert error.report.name == pool.name and error.report.verdict is Verdict.NESTED
    assert str(error).endswith("[queuepool:nested]")
    assert "this thread already has" in str(error) or len(error.report.holders)


def nestedWarnings(caplog):
    return [record for record in caplog.records if "[queuepool:nested]" in record.message]


# -- raiseDeadlock


@pytest.mark.alone
@pytest.mark.parametrize("capacity", [1, 2, 5])
@pytest.mark.parametrize("kind", [PlainResource, FakeResource])
def test_the_last_holder_who_waits_gets_a_deadlock_and_the_others_are_served(
        nesting, kind, capacity):
    pool = poolOf("p", capacity, kind, raiseDeadlock=True)
    for _ in range(capacity):
        nesting.hold(pool, pool)
    for number in range(capacity - 1):
        nesting.goOn(number, pool)
    startedAt = time.monotonic()
    nesting.goOn(capacity - 1)
    error = nesting.result(capacity - 1)
    checkDeadlock(error, pool)
    assert time.monotonic() - startedAt < 1.0
    assert "this thread already has 'p-" in str(error)
    assert all(holder.waitsIn == "p" for holder in error.report.holders)
    assert nesting.results() == ["served"] * (capacity - 1) + [error]
    stats = pool.stats()
    assert stats.timeouts == 1 and stats.waits == capacity == sum(stats.waitHistogram.counts)
    checkWhole(pool)


@pytest.mark.parametrize("count", [2, 3])
def test_who_completes_a_ring_of_pools_gets_a_deadlock(nesting, count):
    pools = [poolOf(f"p{number}", 1, raiseDeadlock=True) for number in range(count)]
    for number, pool in enumerate(pools):
        nesting.hold(pool, pools[(number + 1) % count])
    for number in range(count - 1):
        nesting.goOn(number, pools[number + 1])
    nesting.goOn(count - 1)
    error = nesting.result(count - 1)
    checkDeadlock(error, pools[0])
    assert error.report.holders[0].waitsIn == pools[1].name
    assert nesting.results() == ["served"] * (count - 1) + [error]
    for pool in pools:
        checkWhole(pool)


def test_of_a_ring_the_one_pool_that_may_raise_it_does(nesting):
    quiet, telling = poolOf("quiet", 1), poolOf("telling", 1, raiseDeadlock=True)
    nesting.hold(telling, quiet)
    nesting.hold(quiet, telling)
    nesting.goOn(0, quiet)
    nesting.goOn(1)
    checkDeadlock(nesting.result(1), telling)
    assert nesting.result(0) == "served"


def test_who_waits_already_gets_it_if_the_ring_is_completed_in_a_quiet_pool(nesting):
    """He looks every second."""
    quiet, telling = poolOf("quiet", 1), poolOf("telling", 1, raiseDeadlock=True)
    nesting.hold(quiet, telling)
    nesting.hold(telling, quiet)
    nesting.goOn(0, telling)
    nesting.goOn(1, quiet)
    checkDeadlock(nesting.result(0), telling)
    assert nesting.result(1) == "served"


def test_a_waiter_without_anything_is_served(nesting):
    """He does not complete the ring, and that he gives up would free nobody."""
    pool = poolOf("p", 1, raiseDeadlock=True)
    nesting.hold(pool, pool)
    outside = start(pool.take)
    awaitWaiting(pool, 1)
    nesting.goOn(0)
    checkDeadlock(nesting.result(0), pool)
    pool.put(outside.result())
    checkWhole(pool)


def test_a_thread_that_takes_twice_from_a_pool_of_one_is_told_at_once():
    pool = poolOf("p", 1, raiseDeadlock=True)
    with pool.take(), pytest.raises(PoolDeadlock) as caught:
        pool.take()
    checkDeadlock(caught.value, pool)
    assert "no resource can come free in 0." in str(caught.value)
    assert "(no timeout)" in str(caught.value)
    checkWhole(pool)


@pytest.mark.parametrize("capacity", [1, 2, 4])
def test_all_who_complete_it_in_the_same_instant_are_told_or_served(capacity):
    """Nobody hangs, and at least one is told."""
    for _ in range(50):
        pool = poolOf("p", capacity, raiseDeadlock=True)
        barrier = threading.Barrier(capacity)

        def work():
            with pool.take():
                barrier.wait(PATIENCE)
                try:
                    with pool.take():
                        return "served"
                except PoolDeadlock:
                    return "told"

        outcomes = [each.result() for each in [start(work) for _ in range(capacity)]]
        assert set(outcomes) <= {"told", "served"} and "told" in outcomes
        checkWhole(pool)


# -- the warning


@pytest.mark.alone
def test_without_it_one_warning_tells_after_a_second_and_a_new_deadlock_is_told_anew(
        nesting, caplog):
    pool = poolOf("p", 2)
    for round_ in range(2):
        these = Nesting()
        for number in range(2):
            these.hold(pool, pool, timeout=2.0)
        startedAt = time.monotonic()
        for number in range(2):
            these.goOn(number, pool)
        awaitTrue(lambda: len(nestedWarnings(caplog)) > round_)
        assert 0.9 < time.monotonic() - startedAt
        assert pool.report().verdict is Verdict.NESTED
        results = these.results()
        assert any(isinstance(result, PoolTimeout) for result in results)
        assert not any(isinstance(result, PoolDeadlock) for result in results)
        assert len(nestedWarnings(caplog)) == round_ + 1
        checkWhole(pool)
    record = nestedWarnings(caplog)[0]
    first, *table = record.message.splitlines()
    assert (record.levelname, record.name) == ("WARNING", "queuepool")
    assert first.startswith("pool p: deadlock: all that is checked out is held by threads that")
    assert "unless a thread handed on what it took" in first
    assert first.endswith("[queuepool:nested]")
    assert table[0] == "pool 'p': nested"
    assert sum("test_nested_takes.py" in line for line in table) == 2


def test_a_time_out_before_that_second_says_nested_too(nesting, caplog):
    pool = poolOf("p", 1)
    nesting.hold(pool, pool, timeout=0.05)
    nesting.goOn(0)
    error = nesting.result(0)
    assert type(error).__name__ == "TakeTimeout" and error.report.verdict is Verdict.NESTED
    assert "all that is checked out is held by threads that wait themselves" in str(error)
    assert not caplog.records


def test_a_handler_of_the_warning_that_fails_harms_nobody(nesting, monkeypatch):
    class Failing(logging.Handler):
        def emit(self, record):
            raise ValueError

    handler = Failing()
    logging.getLogger("queuepool").addHandler(handler)
    try:
        pool = poolOf("p", 1)
        nesting.hold(pool, pool, timeout=1.3)
        nesting.goOn(0)
        assert isinstance(nesting.result(0), PoolTimeout)
        checkWhole(pool)
    finally:
        logging.getLogger("queuepool").removeHandler(handler)


def test_what_the_warning_told_keeps_no_resource_from_coming_back(unrecorded):
    """Who was told of gets one later, drops it, and the pool has it again."""
    pool = poolOf("p", 2)
    nesting, dropped = Nesting(), []

    def takeAndDrop(inner, timeout):
        resource = inner.take(timeout)
        dropped.append(weakref.ref(resource.resource))
        return contextlib.nullcontext()

    nesting.hold(pool, pool, take=takeAndDrop)
    nesting.hold(pool, pool, timeout=1.6)
    nesting.goOn(0, pool)
    nesting.goOn(1, pool)
    with pytest.warns(ResourceWarning):
        assert isinstance(nesting.result(1), PoolTimeout)
        assert nesting.result(0) == "served"
        gc.collect()
        assert pool._toldKnot is not None
        checkWhole(pool)
    assert dropped[0]() is None


def test_what_the_warning_told_keeps_no_other_pool_alive(unrecorded):
    pool, other = poolOf("p", 1), poolOf("other", 1)
    nesting = Nesting()
    nesting.hold(pool, other, timeout=1.4)
    nesting.hold(other, pool, timeout=1.4)
    nesting.goOn(0, other)
    nesting.goOn(1, pool)
    nesting.results()
    queue = weakref.ref(other._queue)
    assert pool._toldKnot is not None
    other = nesting = None
    gc.collect()
    assert queue() is None


def test_a_kept_error_keeps_nothing_that_others_drop(unrecorded):
    pool = poolOf("p", 2, raiseDeadlock=True)
    nesting, dropped = Nesting(), []

    def takeAndDrop(inner, timeout):
        dropped.append(inner.take(timeout).resource)
        return contextlib.nullcontext()

    nesting.hold(pool, pool, take=takeAndDrop)
    nesting.hold(pool, pool)
    nesting.goOn(0, pool)
    nesting.goOn(1)
    with pytest.warns(ResourceWarning):
        error = nesting.result(1)
        checkDeadlock(error, pool)
        assert nesting.result(0) == "served"
        gc.collect()
        assert error.__traceback__ is not None
        checkWhole(pool)


@pytest.mark.alone
def test_those_who_give_up_one_after_the_other_are_all_told_that_it_was_nested():
    for _ in range(3):
        pool = poolOf("p", 3)
        barrier, timeouts = threading.Barrier(3), iter([0.2, 0.4, 0.4])

        def work():
            timeout = next(timeouts)
            with pool.take():
                barrier.wait(PATIENCE)
                try:
                    with pool.take(timeout):
                        return "served"
                except PoolTimeout as error:
                    return str(error.report.verdict)

        outcomes = [each.result() for each in [start(work) for _ in range(3)]]
        assert set(outcomes) <= {"nested", "served"} and "nested" in outcomes


def test_a_ring_through_an_open_is_told():
    """The open of one pool takes from another one, whose holder waits in the first."""
    secrets = poolOf("secrets", 1, raiseDeadlock=True)

    class Needing(PlainResource):
        def open(self):
            with secrets.take():
                super().open()

    needing = poolOf("needing", 1, Needing, raiseDeadlock=True)
    with secrets.take():
        opening = start(needing.take)
        awaitWaiting(secrets, 1)
        with pytest.raises(PoolDeadlock) as caught:
            needing.take()
        holder, = caught.value.report.holders
        assert holder.isHeld and holder.state.endswith(", waits in pool 'secrets'")
    needing.put(opening.result())
    checkWhole(needing)
    checkWhole(secrets)


# -- no false alarms


def test_a_holder_that_hands_to_another_thread_is_only_warned_of(caplog):
    """It is no deadlock, and the warning says so; the other thread puts what it was handed."""
    pool = poolOf("p", 1)
    handed, got = [], Gate()

    def takeAndWait():
        handed.append(pool.take())
        got()
        with pool.take(PATIENCE):
            return "served"

    waiting = start(takeAndWait)
    got.awaitArrival()
    got.open()
    awaitTrue(lambda: nestedWarnings(caplog))
    assert "unless a thread handed on what it took" in caplog.messages[-1]
    pool.put(handed.pop())
    assert waiting.result() == "served"


def timesOut(pool, timeout=0.05):
    """Check that a take that waits times out and nothing worse."""
    with pytest.raises(PoolTimeout) as caught:
        pool.take(timeout)
    assert not isinstance(caught.value, PoolDeadlock), str(caught.value)
    assert caught.value.report.verdict is not Verdict.NESTED
    return caught.value


def test_one_of_the_holders_at_work_is_no_deadlock(nesting):
    pool = poolOf("p", 3, raiseDeadlock=True)
    for _ in range(2):
        nesting.hold(pool, pool)
    gate = Gate()

    def work():
        with pool.take():
            gate()

    atWork = start(work)
    gate.awaitArrival()
    for number in range(2):
        nesting.goOn(number, pool)
    timesOut(pool)
    gate.open()
    atWork.result()
    assert nesting.results() == ["served"] * 2
    checkWhole(pool)


def test_room_for_a_seed_is_no_deadlock():
    pool = Pool("p", 2, raiseDeadlock=True)
    pool.put(PlainResource("a"))
    with pool.take():
        timesOut(pool)
        waiter = start(pool.take)
        awaitWaiting(pool, 1)
        pool.put(PlainResource("b"))
        pool.put(waiter.result())
    checkWhole(pool)


def test_what_an_ended_thread_has_is_no_deadlock():
    """Nobody knows who puts it: it may have been handed over."""
    pool = poolOf("p", 2, raiseDeadlock=True)
    running = start(pool.take)
    resource = running.result()
    awaitTrue(lambda: not running.thread.is_alive())
    with pool.take():
        timesOut(pool)
        pool.put(resource)
        pool.put(pool.take(timeout=0))


@pytest.mark.parametrize("hook", ["open", "takeRepair", "putRepair", "close"])
def test_one_in_the_hands_of_a_hook_is_no_deadlock(hook):
    gate = Gate()
    pool = Pool("p", 2, maxUsageCount=1, raiseDeadlock=True)
    slow = FakeResource("slow", **{hook: [gate]})
    pool.put(PlainResource("a"))
    with pool.take():
        if hook != "putRepair":
            pool.put(slow)
        busy = start(lambda: pool.put(slow) if hook == "putRepair" else pool.put(pool.take()))
        gate.awaitArrival()
        timesOut(pool)
        gate.open()
        busy.result()
        pool.put(pool.take(timeout=0))
    checkWhole(pool)


class GateInReport(threading.local):
    """A clock that stands still. While its error is made, a thread stops once at its gate."""

    gate = None

    def __call__(self):
        gate = self.gate
        if gate is not None and sys._getframe(1).f_code.co_name.endswith("report"):
            self.gate = None
            gate()
        return 1000.0


def test_one_that_only_asks_is_not_waiting_while_its_error_is_made():
    """With timeout=0 it never waits: it goes on, and puts what it has."""
    gate, clock = Gate(), GateInReport()
    pool = poolOf("p", 2, clock=clock, raiseDeadlock=True)

    def ask():
        with pool.take():
            clock.gate = gate
            with pytest.raises(PoolTimeout):
                pool.take(timeout=0)

    with pool.take():
        asking = start(ask)
        gate.awaitArrival()
        opening = start(lambda: (
            awaitTrue(lambda: pool.stats().waiting or pool.stats().timeouts > 1), gate.open()))
        try:
            with pool.take(PATIENCE):
                pass
        finally:
            opening.result()
            asking.result()
    checkWhole(pool)


def test_who_was_told_gives_up_so_that_no_other_one_has_to():
    """He does not count as waiting while his error is made; who comes meanwhile is served."""
    gate, clock = Gate(), GateInReport()
    pool = poolOf("p", 1, clock=clock, raiseDeadlock=True)

    def nest():
        with pool.take():
            clock.gate = gate
            with pytest.raises(PoolDeadlock) as caught:
                pool.take()
            return caught.value

    nesting = start(nest)
    gate.awaitArrival()
    other = start(pool.take, PATIENCE)
    awaitTrue(lambda: pool.stats().waiting == 2 or pool.stats().timeouts == 2)
    gate.open()
    pool.put(other.result())
    checkDeadlock(nesting.result(), pool)
    checkWhole(pool)


def test_a_take_in_a_signal_handler_or_a_hook_leaves_what_the_outer_one_waits_for(clock):
    """Of a take within a wait the taker waits in the outer pool again afterwards."""
    pool, inner = poolOf("p", 1), poolOf("inner", 1)
    blocker, blockerOfInner = pool.take(), inner.take()
    calls = []
    look = pool._look

    def lookAndTake(call):
        calls.append(call)
        if len(calls) == 2:  # the first one is before it waits
            with pytest.raises(PoolTimeout):
                inner.take(timeout=0.01)
        return look(call)

    pool._look = lookAndTake
    held = poolOf("held", 1)

    def work():
        with held.take(), pool.take(PATIENCE):
            pass

    working = start(work)
    awaitTrue(lambda: inner.stats().timeouts == 1 and len(calls) == 2)
    assert held.report().holders[0].waitsIn == "p"
    pool.put(blocker)
    inner.put(blockerOfInner)
    working.result()


@contextlib.contextmanager
def switchingOften():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def runUntil(seconds, *works):
    """Run each work again and again in a thread; return how many takes all made."""
    end = time.monotonic() + seconds

    def repeat(work):
        count = 0
        while time.monotonic() < end:
            count += work()
        return count

    with switchingOften():
        running = [start(repeat, work) for work in works]
        return sum(each.result(seconds + PATIENCE) for each in running)


@pytest.mark.parametrize("kind", [PlainResource, FakeResource])
def test_nesting_bounded_by_a_semaphore_raises_no_false_alarm(kind):
    """At most three of four hold one and take another: one of them can always go on."""
    pool = poolOf("p", 4, kind, raiseDeadlock=True)
    other = poolOf("other", 2, kind, raiseDeadlock=True)
    maySelf, nested = threading.Semaphore(3), [0]

    def nest():
        with maySelf, pool.take(PATIENCE), pool.take(PATIENCE):
            return 2

    def single():
        with random.choice([pool, other]).take(PATIENCE):
            time.sleep(0)
            return 1

    def inOrder():  # of two pools always in the same order
        with maySelf, pool.take(PATIENCE), other.take(PATIENCE):
            return 2

    def ask():  # a nested take that does not wait, or not for long
        with other.take(PATIENCE):
            try:
                with other.take(random.choice([0, 0, 0.0001])):
                    return 2
            except PoolDeadlock:
                raise
            except PoolTimeout:
                return 1

    nested = runUntil(SECONDS, *[nest] * 6, *[single] * 4, *[inOrder] * 4)
    assert nested >= 5000
    checkWhole(pool)
    checkWhole(other)


def test_one_that_asks_for_a_second_one_and_gives_up_raises_no_false_alarm():
    """All but one of the threads that hold one never wait for the second one."""
    pool = poolOf("p", 2, raiseDeadlock=True)

    def ask():
        with pool.take(PATIENCE):
            with contextlib.suppress(PoolTimeout):
                pool.put(pool.take(timeout=0))
            return 1

    def nest():
        with pool.take(PATIENCE), pool.take(PATIENCE):
            return 2

    assert runUntil(SECONDS, *[ask] * 4, nest) >= 1000
    checkWhole(pool)


def test_without_nesting_no_alarm_is_raised():
    pool = poolOf("p", 3, FakeResource, maxIdleTime=0.01, maxUsageCount=20, raiseDeadlock=True)

    def work():
        with pool.take(PATIENCE):
            return 1

    def disturb():
        random.choice([pool.recycle, pool.invalidate, pool.stats, pool.report,
                       lambda: pool.resize(random.randint(1, 3))])()
        time.sleep(0.001)
        return 0

    assert runUntil(SECONDS, *[work] * 12, disturb) >= 5000
    pool.resize(3)
    checkWhole(pool)


def test_unbounded_nesting_never_hangs():
    pools = [poolOf(name, 2, raiseDeadlock=True) for name in "pq"]
    told = []

    def nest():
        with random.choice(pools).take(PATIENCE):
            try:
                with random.choice(pools).take(PATIENCE):
                    return 2
            except PoolDeadlock as error:
                told.append(error.report.verdict)
                return 1

    def safely():
        try:
            return nest()
        except PoolDeadlock as error:  # a waiter that holds nothing, too
            told.append(error.report.verdict)
            return 0

    assert runUntil(SECONDS, *[safely] * 12) > 100
    assert told and set(told) == {Verdict.NESTED}
    for pool in pools:
        checkWhole(pool)


# -- gevent

GREEN = """
from gevent import monkey
monkey.patch_all()
import gevent
from queuepool import Pool, PoolDeadlock, Verdict
from tests.helpers import PlainResource, checkWhole

pool = Pool("p", 3, factory=PlainResource, raiseDeadlock=True)

def nest():
    with pool.take():
        gevent.sleep(0.01)
        try:
            with pool.take():
                return "served"
        except PoolDeadlock as error:
            assert error.report.verdict is Verdict.NESTED
            assert len({holder.thread for holder in error.report.holders}) == 3
            return "told"

green = [gevent.spawn(nest) for _ in range(3)]
gevent.joinall(green, timeout=20)
assert sorted(each.value for each in green) == ["served", "served", "told"], green
checkWhole(pool)

semaphore, alarms, takes = gevent.lock.BoundedSemaphore(2), 0, 0

def bounded():
    global alarms, takes
    for _ in range(40):
        try:
            with semaphore, pool.take():
                gevent.sleep(0)
                with pool.take():
                    takes += 2
                    gevent.sleep(0)
        except PoolDeadlock:
            alarms += 1

def single():
    global alarms, takes
    for _ in range(40):
        try:
            with pool.take():
                takes += 1
                gevent.sleep(0)
        except PoolDeadlock:
            alarms += 1

green = [gevent.spawn(work) for work in [bounded] * 20 + [single] * 20]
gevent.joinall(green, timeout=20, raise_error=True)
assert alarms == 0 and takes == 40 * 60, (alarms, takes)
checkWhole(pool)
print("whole")
"""


def test_greenlets_that_nest_are_told_and_no_others():
    pytest.importorskip("gevent", reason="gevent is not installed")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", GREEN], capture_output=True,
                          text=True, timeout=60)
    assert re.search("whole$", done.stdout.strip()), done.stderr
