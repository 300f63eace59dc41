"""Time limits of all threads go on, whatever a signal handler raises in one of them."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from queuepool.watchdog import Watchdog
from tests.helpers import PATIENCE

SIGNALLED = """
import random, signal, threading
from queuepool.watchdog import timeLimit
from tests.helpers import PATIENCE, start

SIGNALS = 2000


def limitAll():
    while True:
        with timeLimit(1000.0, lambda: None):
            pass


def interrupt(signum, frame):
    while frame is not None:  # the rest of this script is not made for interruptions
        if frame.f_code is limitAll.__code__:
            raise KeyboardInterrupt
        frame = frame.f_back


def isKept():
    isDone = threading.Event()
    with timeLimit(0.0, isDone.set):
        return isDone.wait(PATIENCE / 3)


random.seed(2)
assert start(isKept).result()
signal.signal(signal.SIGALRM, interrupt)
for number in range(1, SIGNALS + 1):
    signal.setitimer(signal.ITIMER_REAL, random.uniform(2e-5, 2e-4), 1e-3)
    try:
        limitAll()
    except KeyboardInterrupt:
        pass
    if number % 50 == 0:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        assert start(isKept).result(), f"after {number} signals no limit is kept"
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no such timer")
@pytest.mark.timeout(60)
def test_two_thousand_signals_stop_no_limit_of_other_threads():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SIGNALLED], capture_output=True, text=True,
        timeout=55, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# -- limits that no clock reaches

LONGEST = pytest.mark.parametrize("seconds", [
    float("inf"), 1e300, threading.TIMEOUT_MAX, 2 * threading.TIMEOUT_MAX])


def checkKeeps(dog):
    isDone = threading.Event()
    with dog.limit(0.0, isDone.set) as limit:
        assert isDone.wait(PATIENCE / 3)
    assert limit.isOver


@LONGEST
def test_a_limit_that_is_never_over_stops_no_other(seconds):
    dog = Watchdog()
    ran = []
    for _ in range(2):
        with dog.limit(seconds, lambda: ran.append(0)) as limit:
            checkKeeps(dog)
        checkKeeps(dog)
        assert not limit.isOver
    assert not ran


@LONGEST
def test_an_action_that_is_never_to_run_again_stops_no_other(seconds):
    dog = Watchdog()
    hasRun = threading.Event()

    def action():
        hasRun.set()
        return seconds

    with dog.limit(0.0, action):
        assert hasRun.wait(PATIENCE)
        checkKeeps(dog)
    checkKeeps(dog)


# -- in the watchdog's own thread

def test_an_action_may_end_its_own_limit():
    """As a finalizer does that runs while the action does, and leaves the block."""
    dog = Watchdog()
    runs = []
    hasBegun = threading.Event()

    def action():
        assert hasBegun.wait(PATIENCE)
        limit.end()
        runs.append(0)
        return 0.0

    with dog.limit(0.0, action) as limit:
        hasBegun.set()
        checkKeeps(dog)
        checkKeeps(dog)
        assert runs == [0]
