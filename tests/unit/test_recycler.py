"""The recycler's thread: one per pool, survives, holds nothing, ends."""

import gc
import inspect
import math
import random
import subprocess
import sys
import textwrap
import threading
import weakref
from queue import Empty, SimpleQueue

import pytest

from queuepool import Pool, PoolClosed
from queuepool.core.log import Log
from queuepool.core.recycler import Recycler, _run
from tests.helpers import (PATIENCE, FakeResource, Gate, awaitTrue, checkClosed, checkWhole,
                           runTogether, start)

#: Seconds between two rounds: soon, and not within a test.
SOON, NEVER = 0.001, 3600.0


def recyclersOf(name):
    return [thread for thread in threading.enumerate()
            if thread.name == f"queuepool recycler {name}"]


@pytest.fixture
def pool(world, clock, request):
    """A pool of two, by the test's name, of which one lies idle and open."""
    with Pool(request.node.name, 2, factory=lambda name: FakeResource(name, world),
              clock=clock) as pool:
        pool.put(pool.take())
        yield pool
    checkEnded(pool.name)


def checkEnded(name):
    awaitTrue(lambda: not recyclersOf(name))


def nextRound(pool, clock):
    """Make what is idle due, and wait until the recycler has closed it."""
    pool.put(pool.take())
    closes = pool.stats().closes
    clock.advance(301.0)
    awaitTrue(lambda: pool.stats().closes > closes and pool.stats().idle == pool.capacity)


# -- what it does

def test_it_recycles_every_interval(pool, clock, world):
    pool.startRecycler(SOON)
    for _ in range(3):
        nextRound(pool, clock)
    assert world.live == 0


def test_its_first_round_is_at_once(pool, clock):
    clock.advance(301.0)
    pool.startRecycler(NEVER)
    awaitTrue(lambda: pool.stats().closes == 1)


class Worked:
    """Stands for a pool; notes when what is called. A round, and a sample, may take seconds."""

    name = "worked"

    def __init__(self, clock, roundTime=0.0, error=None):
        self._clock = clock
        self._roundTime = roundTime
        self._error = error
        self.rounds = []
        self.samples = []

    def recycle(self):
        self.rounds.append(self._clock())
        self._clock.advance(self._roundTime)

    def sampleLoad(self):
        self.samples.append(self._clock())
        if self._error is not None:
            raise self._error


def work(pool, clock, interval, seconds, late=0.0):
    """Run what the thread runs for some seconds of the clock: a sleep takes no time, but is late.

    Return the instants of the rounds and of the samples, from 0.
    """
    class End:
        def get(self, timeout):
            assert 0.0 <= timeout
            clock.advance(timeout + late)
            if clock() < startedAt + seconds:
                raise Empty

    startedAt = clock()
    _run(lambda: pool, End(), interval, Log("worked"), clock)
    return ([at - startedAt for at in pool.rounds], [at - startedAt for at in pool.samples])


def test_it_sleeps_the_interval_between_two_rounds(clock):
    rounds, _ = work(Worked(clock, roundTime=5.0), clock, 60.0, 180.0)
    assert rounds == pytest.approx([0.0, 65.0, 130.0])


# -- samples

@pytest.mark.parametrize("interval", [0.1, 1.0, 60.0, 3600.0])
def test_it_samples_once_in_each_second_whatever_the_interval_is(clock, interval):
    rounds, samples = work(Worked(clock), clock, interval, 600.0)
    assert len(rounds) == pytest.approx(600.0 / interval, abs=1.0)
    assert [math.floor(at) for at in samples] == list(range(600))


def test_it_samples_at_another_instant_of_each_second(clock):
    """What a program does at each full second would always be seen otherwise, or never."""
    _, samples = work(Worked(clock), clock, 3600.0, 600.0)
    parts = [math.floor(10.0 * (at % 1.0)) for at in samples]
    assert all(30 < parts.count(part) < 90 for part in range(10))


def test_threads_that_wake_late_do_not_drift(clock):
    _, samples = work(Worked(clock), clock, 3600.0, 600.0, late=0.01)
    seconds = [math.floor(at) for at in samples]
    assert seconds == sorted(set(seconds))
    assert len(seconds) >= 580  # in a second that begins late there is none
    assert seconds[-1] >= 598


def test_seconds_that_a_slow_round_misses_have_no_sample(clock):
    rounds, samples = work(Worked(clock, roundTime=7.25), clock, 20.0, 100.0)
    seconds = [math.floor(at) for at in samples]
    assert seconds == sorted(set(seconds))
    for at in rounds:
        assert not [each for each in samples if at < each < at + 7.25]
    missed = set(range(100)) - set(seconds)
    assert 6 * len(rounds) <= len(missed) <= 9 * len(rounds)


def test_sample_that_fails_ends_nothing(clock, caplog):
    rounds, samples = work(Worked(clock, error=MemoryError()), clock, 2.0, 10.0)
    assert len(samples) == 10
    assert rounds == pytest.approx([0.0, 2.0, 4.0, 6.0, 8.0], abs=1.0)
    assert caplog.text.count("[queuepool:recycle-failed]") == 10


def test_numbers_at_random_of_the_program_are_not_used_up(clock):
    before = random.getstate()
    work(Worked(clock), clock, 60.0, 60.0)
    assert random.getstate() == before


def test_its_thread_samples_the_pool(pool, monkeypatch):
    monkeypatch.setattr("queuepool.core.recycler._random", lambda: 0.0)
    with pool.take():
        pool.startRecycler(NEVER)
        awaitTrue(lambda: pool.advise().samples)
        assert pool.advise().loadMax == 1


def test_its_thread_is_a_daemon_with_the_pools_name(pool):
    pool.startRecycler(NEVER)
    thread, = recyclersOf(pool.name)
    assert thread.daemon


def test_pools_have_their_own(pool):
    with Pool("other", 1) as other:
        other.startRecycler(NEVER)
        pool.startRecycler(NEVER)
        other.stopRecycler()
        assert len(recyclersOf(pool.name)) == 1
        assert not recyclersOf("other")


@pytest.mark.parametrize("interval", [0, 0.0, -1, None, "60", float("nan"), True])
def test_interval_is_a_number_of_seconds_above_zero(pool, interval):
    with pytest.raises(ValueError, match="interval"):
        pool.startRecycler(interval)
    assert not recyclersOf(pool.name)


def test_interval_is_sixty_seconds_when_it_is_not_told(pool):
    parameter = inspect.signature(pool.startRecycler).parameters["interval"]
    assert parameter.default == 60


# -- starting and stopping

def test_started_twice_it_is_one(pool):
    pool.startRecycler(NEVER)
    thread, = recyclersOf(pool.name)
    pool.startRecycler(SOON)
    assert recyclersOf(pool.name) == [thread]


def test_started_by_many_at_once_it_is_one(pool):
    for _ in range(20):
        runTogether(*[lambda: pool.startRecycler(NEVER)] * 8)
        assert len(recyclersOf(pool.name)) == 1
        pool.stopRecycler()
        assert not recyclersOf(pool.name)


def test_stopped_by_many_at_once_it_ends(pool):
    for _ in range(20):
        pool.startRecycler(NEVER)
        runTogether(*[pool.stopRecycler] * 8)
        checkEnded(pool.name)


def test_stopping_what_does_not_run_does_nothing(pool):
    pool.stopRecycler()
    pool.startRecycler(NEVER)
    pool.stopRecycler()
    pool.stopRecycler()
    assert not recyclersOf(pool.name)


def test_stop_waits_for_the_round_that_is_under_way(pool, clock):
    gate = Gate()
    resource = pool.take()
    resource.script["close"] = [gate]
    pool.put(resource)
    clock.advance(301.0)
    pool.startRecycler(SOON)
    gate.awaitArrival()
    stopping = start(pool.stopRecycler)
    stopping.thread.join(0.05)
    assert stopping.thread.is_alive()
    gate.open()
    stopping.result()
    assert not recyclersOf(pool.name)


def test_started_again_it_runs_with_the_new_interval(pool, clock):
    pool.startRecycler(NEVER)
    pool.stopRecycler()
    pool.startRecycler(SOON)
    assert len(recyclersOf(pool.name)) == 1
    nextRound(pool, clock)


def test_a_hook_that_it_runs_may_stop_it(pool, clock):
    resource = pool.take()
    resource.script["close"] = [pool.stopRecycler]
    pool.put(resource)
    clock.advance(301.0)
    pool.startRecycler(SOON)
    checkEnded(pool.name)
    assert pool.stats().closes == 1
    assert pool.stats().closeErrors == 0
    checkWhole(pool)


def test_a_hook_that_it_runs_may_start_it_anew(pool, clock):
    def restart():
        pool.stopRecycler()
        pool.startRecycler(SOON)
        first.append(threading.current_thread())

    first = []
    resource = pool.take()
    resource.script["close"] = [restart]
    pool.put(resource)
    clock.advance(301.0)
    pool.startRecycler(SOON)
    awaitTrue(lambda: first and not first[0].is_alive())
    second, = recyclersOf(pool.name)
    assert second is not first[0]
    nextRound(pool, clock)


def test_closing_the_pool_ends_it(pool, world):
    pool.startRecycler(NEVER)
    checkClosed(pool, world)
    checkEnded(pool.name)
    with pytest.raises(PoolClosed):
        pool.startRecycler(NEVER)


def test_a_hook_that_it_runs_may_close_the_pool(pool, clock, world):
    resource = pool.take()
    resource.script["close"] = [pool.close]
    pool.put(resource)
    clock.advance(301.0)
    pool.startRecycler(SOON)
    checkEnded(pool.name)
    checkClosed(pool, world)


def test_thread_that_cannot_be_started_leaves_nothing_behind(pool, monkeypatch):
    def fail(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    with pytest.raises(RuntimeError, match="can't start"):
        pool.startRecycler(NEVER)
    monkeypatch.undo()
    pool.stopRecycler()
    pool.startRecycler(NEVER)
    assert len(recyclersOf(pool.name)) == 1


def test_it_tells_whether_it_runs_and_how_often(pool):
    recycler = Recycler(pool, Log(pool.name))
    for interval in NEVER, NEVER + 1.0:
        assert (recycler.isRunning, recycler.interval) == (False, None)
        recycler.start(interval)
        recycler.start(SOON)
        assert (recycler.isRunning, recycler.interval) == (True, interval)
        recycler.stop(wait=True)
        assert not recyclersOf(pool.name)
    recycler.stop(wait=False)


# -- surviving

@pytest.mark.parametrize("error", [ValueError("broken"), OSError("gone")])
def test_it_survives_failing_hooks(pool, clock, world, caplog, error):
    pool.startRecycler(SOON)
    for _ in range(3):
        resource = pool.take()
        resource.script["close"] = [error]
        pool.put(resource)
        nextRound(pool, clock)
    assert pool.stats().closeErrors == 3
    assert world.live == 0
    warned = [record for record in caplog.records if record.levelname == "WARNING"]
    assert [record.exc_info[1] for record in warned] == [error] * 3


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_it_survives_what_is_no_exception(pool, clock, world, caplog, error):
    pool.startRecycler(SOON)
    resource = pool.take()
    resource.script["close"] = [error]
    pool.put(resource)
    nextRound(pool, clock)
    nextRound(pool, clock)
    assert world.live == 0
    assert "recycle failed; the recycler goes on" in caplog.text
    assert any(record.exc_info and record.exc_info[0] is error for record in caplog.records)


def test_it_survives_a_failing_recycle(clock, caplog):
    class Failing(Pool):
        rounds = 0

        def recycle(self):
            self.rounds += 1
            raise RuntimeError(f"round {self.rounds} failed")

    with Failing("failing", 1, clock=clock) as pool:
        pool.startRecycler(SOON)
        awaitTrue(lambda: pool.rounds >= 3)
    checkEnded("failing")
    assert "round 2 failed" in caplog.text


# -- holding nothing

def awaitEnd(weakPool, thread):
    """Wait until a pool is collected and the thread of its recycler has ended."""
    awaitTrue(lambda: gc.collect() >= 0 and weakPool() is None)
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_pool_that_is_dropped_is_collected_and_its_thread_ends(world, clock):
    pool = Pool("dropped", 1, factory=lambda name: FakeResource(name, world), clock=clock)
    pool.put(pool.take())
    pool.startRecycler(NEVER)
    thread, = recyclersOf("dropped")
    weakPool = weakref.ref(pool)
    del pool
    awaitEnd(weakPool, thread)  # the first round may be under way, and has the pool meanwhile


def test_pool_that_is_dropped_between_two_rounds_is_collected(clock):
    class Counting(Pool):
        def recycle(self):
            super().recycle()
            rounds.release()

    rounds = threading.Semaphore(0)
    pool = Counting("dropped between", 1, clock=clock)
    pool.startRecycler(SOON)
    thread, = recyclersOf("dropped between")
    for _ in range(3):
        assert rounds.acquire(timeout=PATIENCE)
    weakPool = weakref.ref(pool)
    del pool
    awaitEnd(weakPool, thread)


def test_pool_that_is_dropped_during_a_round_is_collected_after_it(clock):
    class Slow(Pool):
        def recycle(self):
            gate()

    gate = Gate()
    pool = Slow("dropped during", 1, clock=clock)
    pool.startRecycler(SOON)
    thread, = recyclersOf("dropped during")
    gate.awaitArrival()
    weakPool = weakref.ref(pool)
    del pool
    gc.collect()
    assert weakPool() is not None, "the round that is under way needs it"
    gate.open()
    awaitEnd(weakPool, thread)


def test_thread_ends_when_it_finds_no_pool():
    """The pool can be collected between the end of the sleep and the look at it."""
    _run(lambda: None, SimpleQueue(), 0.0, Log("p"))


# -- the end of the interpreter

@pytest.mark.parametrize("ending", ["", "sys.exit(0)"])
@pytest.mark.parametrize("what", [
    pytest.param("pool.startRecycler(3600)", id="asleep"),
    pytest.param("pool.startRecycler(0.0001)", id="busy"),
    pytest.param("""
        slow = pool.take()
        slow.close = lambda: (arrived.set(), threading.Event().wait())
        pool.put(slow)
        now.append(301.0)
        pool.startRecycler(0.0001)
        arrived.wait()
        """, id="in a hook that does not end"),
])
def test_interpreter_exits_at_once_and_quietly(what, ending):
    program = textwrap.dedent("""
        import sys, threading
        from queuepool import Pool, Resource

        arrived = threading.Event()
        now = [0.0]
        pool = Pool("main", 2, factory=Resource, clock=lambda: now[-1])
        """) + textwrap.dedent(what) + textwrap.dedent("""
        taken = [pool.take() for _ in range(pool.stats().idle)]
        waiting = threading.Thread(target=pool.take, daemon=True)
        waiting.start()
        while not pool.stats().waiting:
            pass
        """) + ending
    done = subprocess.run([sys.executable, "-X", "dev", "-c", program], capture_output=True,
                          text=True, timeout=10.0)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_pool_that_is_closed_in_the_instant_of_the_start_has_no_recycler(pool, monkeypatch):
    def closeFirst(interval):
        pool.close()
        startIt(interval)

    startIt = pool._recycler.start
    monkeypatch.setattr(pool._recycler, "start", closeFirst)
    pool.startRecycler(1000)
    assert pool._recycler.interval is None
