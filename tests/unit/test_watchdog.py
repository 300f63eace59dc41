"""The one thread that keeps time limits for calls that have none of their own."""

import os
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from queuepool import watchdog
from queuepool.watchdog import Watchdog, timeLimit
from tests.helpers import PATIENCE, Gate, awaitTrue, runTogether, start

#: Seconds. A limit that is never over in a test.
LONG = 1000.0


@pytest.fixture
def threads():
    """Return a function that returns the watchdogs' threads that began in this test."""
    before = set(threading.enumerate())
    return lambda: [thread for thread in threading.enumerate() if thread not in before
                    and thread.name == "queuepool watchdog"]


@pytest.fixture
def dog(threads):
    """A watchdog of the test's own, whose threads end with the test."""
    dog = Watchdog()
    yield dog
    while threads():  # there may be two, see the class
        endThread(dog)


def endThread(dog):
    """End a thread of the watchdog's, as no action does."""
    ended = []

    def end():
        ended.append(threading.current_thread())
        sys.exit()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "excepthook", lambda args: None)
        with dog.limit(0.0, end):
            awaitTrue(lambda: ended)
        ended[0].join(PATIENCE)
        assert not ended[0].is_alive()


class Held:
    """Hold the watchdog's thread in an action, while a test prepares what it finds next."""

    def __init__(self, dog):
        self.gate = Gate()
        self._dog = dog

    def __enter__(self):
        self._limit = self._dog.limit(0.0, self.gate)
        self._limit.__enter__()
        self.gate.awaitArrival()
        return self

    def __exit__(self, *exc_info):
        self.gate.open()
        self._limit.__exit__(None, None, None)


def awaitNext(dog):
    """Wait until all that was due is done: an action that is due later has run."""
    isDone = threading.Event()
    with dog.limit(0.0, isDone.set):
        assert isDone.wait(PATIENCE)


def test_an_action_runs_when_its_time_is_over(dog):
    isDone = threading.Event()
    with dog.limit(0.0, isDone.set) as limit:
        assert isDone.wait(PATIENCE)
        awaitTrue(lambda: limit.isOver)
    assert limit.isOver


def test_an_action_does_not_run_before(dog):
    ran = []
    with dog.limit(LONG, lambda: ran.append(LONG)) as limit:
        awaitNext(dog)
    assert not ran and not limit.isOver


def test_limits_are_over_in_the_order_of_their_instants(dog):
    """Also if all are over when the thread, which was busy, sees them for the first time."""
    ran = []
    isDone = threading.Event()

    def note(name):
        return lambda: ran.append(name)

    with Held(dog) as held, dog.limit(0.003, note("c")), dog.limit(0.001, note("a")), \
            dog.limit(0.002, note("b")), dog.limit(0.004, isDone.set):
        allOver = time.monotonic() + 0.005
        awaitTrue(lambda: time.monotonic() > allOver)
        held.gate.open()
        assert isDone.wait(PATIENCE)
        assert ran == ["a", "b", "c"]


def test_a_later_limit_does_not_hold_up_an_earlier_one(dog):
    isDone = threading.Event()
    with dog.limit(LONG, lambda: None), dog.limit(0.0, isDone.set):
        assert isDone.wait(PATIENCE)


@pytest.mark.parametrize("error", [None, KeyError, KeyboardInterrupt])
def test_a_limit_that_ended_never_runs_its_action(dog, error):
    """Also if it was due at once, and however the block ended."""
    ran = []
    with Held(dog):
        try:
            with dog.limit(0.0, lambda: ran.append(0)) as limit:
                if error is not None:
                    raise error
        except (KeyError, KeyboardInterrupt):
            assert error is not None
    awaitNext(dog)
    assert not ran and not limit.isOver


def test_an_action_that_raises_harms_no_other(dog):
    isDone = threading.Event()

    def fail():
        raise OSError

    with Held(dog) as held, dog.limit(0.0, fail) as failed, dog.limit(0.001, isDone.set):
        held.gate.open()
        assert isDone.wait(PATIENCE)
        assert failed.isOver


def test_an_action_that_returns_seconds_runs_again_until_it_returns_none(dog):
    answers = [0.0, 0.001, None]
    with dog.limit(0.0, lambda: answers.pop(0)):
        awaitTrue(lambda: not answers)
        awaitNext(dog)  # it would raise IndexError, which is not seen, and never be asked again
    assert answers == []


def test_an_action_that_returned_none_is_not_asked_again(dog):
    runs = []
    with dog.limit(0.0, lambda: runs.append(0)):
        awaitTrue(lambda: runs)
        awaitNext(dog)
        assert len(runs) == 1


def test_an_action_that_runs_again_ends_with_the_block(dog):
    runs = []

    def again():
        runs.append(0)
        return 0.0

    with dog.limit(0.0, again):
        awaitTrue(lambda: len(runs) > 3)
    count = len(runs)
    awaitNext(dog)
    awaitNext(dog)
    assert len(runs) == count


def test_an_action_that_runs_again_holds_no_other_up(dog):
    isDone = threading.Event()
    with dog.limit(0.0, lambda: 0.0), dog.limit(0.001, isDone.set):
        assert isDone.wait(PATIENCE)


def test_the_end_of_a_block_waits_for_the_action_that_runs(dog):
    """What the action works on exists until it is done."""
    events = []
    gate = Gate()

    def action():
        gate()
        events.append("action")

    def block():
        with dog.limit(0.0, action) as limit:
            gate.awaitArrival()
        events.append("end")
        return limit

    running = start(block)
    running.thread.join(0.05)  # a chance to go on too early
    gate.open()
    assert running.result().isOver
    assert events == ["action", "end"]


def test_a_running_action_does_not_hold_up_another_blocks_end(dog):
    with Held(dog):
        def block():
            with dog.limit(LONG, lambda: None):
                pass

        start(block).result()


# -- the thread

def test_one_thread_is_enough_for_all(dog, threads):
    assert not threads()
    for _ in range(3):
        with dog.limit(LONG, lambda: None), dog.limit(LONG, lambda: None):
            assert len(threads()) == 1
            assert threads()[0].daemon


def test_limits_of_many_threads_are_all_kept(dog):
    done = [threading.Event() for _ in range(20)]

    def keep(event):
        def block():
            with dog.limit(0.001, event.set):
                assert event.wait(PATIENCE)
        return block

    runTogether(*map(keep, done))


def test_the_thread_waits_for_more(dog, threads):
    awaitNext(dog)
    first = threads()
    for _ in range(5):
        awaitNext(dog)
    assert threads() == first and len(first) == 1


class Watched(Watchdog):
    """A watchdog that counts how often its thread looks, and can be held before it sleeps."""

    def __init__(self):
        super().__init__()
        self.looks = 0
        self.gate = None

    def _look(self):
        seconds = super()._look()
        self.looks += 1
        if self.gate is not None:
            self.gate()
        return seconds


@pytest.fixture
def watched(threads):
    dog = Watched()
    yield dog
    dog.gate = None
    endThread(dog)


def test_limits_beyond_its_sleep_do_not_wake_the_thread(watched):
    with watched.limit(LONG, lambda: None):
        awaitNext(watched)
        awaitTrue(lambda: watched._sleepsUntil < time.monotonic() + LONG)
        looks = watched.looks
        for _ in range(100):
            with watched.limit(LONG, lambda: None):
                pass
        awaitNext(watched)
        assert watched.looks - looks <= 4


@pytest.mark.parametrize("other", [0.0, LONG])
def test_a_limit_that_comes_while_the_thread_goes_to_sleep_is_kept(watched, other):
    """Whatever the thread has just seen: nothing, or a limit that is over later."""
    isDone = threading.Event()
    awaitNext(watched)
    gate = watched.gate = Gate()
    with watched.limit(other, lambda: None):
        gate.awaitArrival()
        with watched.limit(0.0, isDone.set):
            watched.gate = None
            gate.open()
            assert isDone.wait(PATIENCE)


def test_a_thread_that_ended_is_replaced(dog, threads):
    """As in a program that ends all threads it knows of."""
    for _ in range(3):
        awaitNext(dog)
        endThread(dog)


def test_an_action_may_end_its_own_limit(dog):
    """The garbage collector may run a finalizer that does so, in any thread."""
    runs = []

    def action():
        limit.end()
        runs.append(0)
        return 0.0

    with dog.limit(0.05, action) as limit:
        awaitTrue(lambda: runs)
    awaitNext(dog)
    assert len(runs) == 1


def test_an_interruption_at_any_line_leaves_the_next_limits_alone(dog):
    """A signal handler may raise between any two lines."""
    code = [function.__code__ for function in (
        Watchdog.limit.__wrapped__, watchdog.Limit.__init__, watchdog.Limit.end)]
    number = count = 0

    def trace(frame, event, arg):
        nonlocal count
        if frame.f_code not in code:
            return None
        if event == "line":
            count += 1
            if count == number:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    while count == number:
        number, count = number + 1, 0
        sys.settrace(trace)
        try:
            with dog.limit(LONG, lambda: None):
                pass
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        awaitNext(dog)
    assert number > 10


# -- where no thread can be started

def noThread(thread):
    raise RuntimeError("can't start new thread")


def test_where_no_thread_can_be_started_the_block_does_not_begin(dog, monkeypatch):
    ran = []
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", noThread)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="can't start"):
                with dog.limit(0.0, lambda: ran.append("action")):
                    ran.append("block")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", noThread)
        with dog.limit(0.0, lambda: ran.append("action"), isVital=False) as limit:
            assert not limit.isOver
        assert dog._bells["bell"].empty()  # which nobody would read
    awaitNext(dog)  # the next one works
    assert not ran


def test_a_thread_that_runs_needs_no_other(dog, monkeypatch):
    with dog.limit(LONG, lambda: None):
        monkeypatch.setattr(threading.Thread, "start", noThread)
        awaitNext(dog)


# -- a child process

CHILD = """
    import os, signal, threading, warnings
    from queuepool.watchdog import timeLimit
    from tests.helpers import PATIENCE, Gate, awaitTrue, inChild

    # From 3.12 on a fork in a process with threads is warned of: that is what is tested here.
    warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)


    def isKept():
        isDone = threading.Event()
        with timeLimit(0.0, isDone.set):
            return isDone.wait(PATIENCE)


    def child():
        assert threading.active_count() == 1
        for _ in range(3):
            assert isKept()
        assert [thread.name for thread in threading.enumerate()][1:] == ["queuepool watchdog"]
        assert not ran


    ran = []
    assert isKept()
    gate = Gate()
    with timeLimit(0.0, gate):
        gate.awaitArrival()
        with timeLimit(0.0, lambda: ran.append(0)):  # it waits for the other
            assert inChild(child)
            gate.open()
            awaitTrue(lambda: ran)  # the parent's limits are kept as before
    assert isKept()
    """


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_child_process_has_a_watchdog_of_its_own():
    """The thread of its parent is not there, and what waited for that is the parent's."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(CHILD)],
        capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_process_has_one():
    isDone = threading.Event()
    with timeLimit(0.0, isDone.set) as limit:
        assert isDone.wait(PATIENCE)
    assert limit.isOver
