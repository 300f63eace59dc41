"""Real signals, in the middle of anything: all slots are there afterwards."""

import os
import random
import signal
import subprocess
import sys
import threading

import pytest

from tests.helpers import PATIENCE

SIGNALLED = """
import faulthandler, gc, random, signal, sys, threading, warnings
faulthandler.dump_traceback_later(90, exit=True)
from queuepool import Pool, PoolTimeout
from tests.helpers import FakeResource, Handle, PlainResource, World, checkWhole

warnings.simplefilter("ignore", ResourceWarning)  # what an interruption dropped
sys.unraisablehook = lambda unraisable: None  # an interruption of a finalizer
CAPACITY, SIGNALS = 4, 2000
world = World()
kinds = [PlainResource, FakeResource]
pool = Pool("p", CAPACITY, factory=lambda name: kinds[int(name[-1]) % 2](name, world))
isOver = threading.Event()
received = 0
count = 0


def work(number):
    random.seed(number)
    while not isOver.is_set():
        useOnce(random.random())


def useOnce(what):
    if what < 0.6:
        with pool.take(30.0):
            pass
    elif what < 0.8:
        try:
            with pool.take(30.0):
                raise ValueError
        except ValueError:
            pass
    elif what < 0.95:
        try:
            pool.put(pool.take(0.001))
        except PoolTimeout:
            pass
    else:
        pool.recycle()


def countLive():
    gc.collect()  # the world's own account may have been interrupted
    return sum(type(thing) is Handle for thing in gc.get_objects())


def interrupt(signum, frame):
    global received
    received += 1
    while frame is not None:  # the rest of this script is not made for interruptions
        if frame.f_code is useOnce.__code__:
            raise KeyboardInterrupt
        frame = frame.f_back


signal.signal(signal.SIGINT, interrupt)
others = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(7)]
for thread in others:
    thread.start()
print("ready", flush=True)
interruptions = 0
while interruptions < SIGNALS:
    try:
        useOnce(random.random())
    except KeyboardInterrupt:
        interruptions += 1
signal.signal(signal.SIGINT, signal.SIG_IGN)
isOver.set()
for thread in others:
    thread.join(60)
    assert not thread.is_alive(), "forgotten"
gc.collect()
pool.recycle()
checkWhole(pool)
assert countLive() == CAPACITY, countLive()
assert pool.close() == 0
assert countLive() == 0, countLive()
print(received, "signals,", interruptions, "interruptions,", pool.stats().takes, "takes")
"""


@pytest.mark.usefixtures("posix")
def test_two_thousand_signals_while_eight_threads_work():
    process = subprocess.Popen(
        [sys.executable, "-c", SIGNALLED], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))})
    try:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        random.seed(2)
        pause = threading.Event()
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            pause.wait(random.uniform(0.0, 0.002))  # they come at random, and none is awaited
        output, errors = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait()
    print(output)
    assert process.returncode == 0 and not errors, errors
    assert "2000 interruptions" in output
