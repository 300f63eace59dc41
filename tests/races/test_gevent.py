"""The core under gevent's monkey-patching: in a process of its own, since it is not undone."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("gevent", reason="gevent is not installed")

PROLOGUE = """
import warnings
from gevent import monkey
monkey.patch_all()
import gc, random
import gevent
from queuepool import Pool, PoolClosed, PoolTimeout
from tests.helpers import FakeResource, PlainResource, World, checkClosed, checkWhole

class SlowResource(FakeResource):
    def open(self):
        gevent.sleep(0.001)
        super().open()

world = World()
pool = Pool("p", 10, factory=lambda name: SlowResource(name, world))
"""

MANY = """
inUse = set()

def use():
    for _ in range(3):
        with pool.take(60.0) as resource:
            assert resource not in inUse
            inUse.add(resource)
            assert len(inUse) <= 10
            gevent.sleep(random.uniform(0.0, 0.001))
            inUse.remove(resource)

pool.startRecycler(0.001)
greenlets = [gevent.spawn(use) for _ in range(1000)]
gevent.joinall(greenlets, raise_error=True)
pool.stopRecycler()
assert pool.stats().takes == 3000
checkWhole(pool, world)
checkClosed(pool, world)
print("done")
"""

TIMEOUTS = """
warnings.simplefilter("ignore", ResourceWarning)  # what a time-out dropped on the way
outcomes = {"served": 0, "timed out": 0}

def use():
    for _ in range(3):
        try:
            with gevent.Timeout(random.uniform(0.0, 0.2)):
                with pool.take():
                    gevent.sleep(random.uniform(0.0, 0.002))
            outcomes["served"] += 1
        except gevent.Timeout:
            outcomes["timed out"] += 1

greenlets = [gevent.spawn(use) for _ in range(1000)]
gevent.joinall(greenlets, raise_error=True)
gc.collect()
assert all(outcomes.values()), outcomes
assert sum(outcomes.values()) == 3000
checkWhole(pool, world)
checkClosed(pool, world)
print("done")
"""

OWN_TIMEOUTS = """
def use():
    try:
        with pool.take(timeout=0.01):
            gevent.sleep(0.005)
    except PoolTimeout:
        return 0
    return 1

greenlets = [gevent.spawn(use) for _ in range(200)]
gevent.joinall(greenlets, raise_error=True)
served = sum(greenlet.value for greenlet in greenlets)
assert 0 < served < 200
assert pool.stats().timeouts == 200 - served
checkWhole(pool, world)
print("done")
"""

CLOSE = """
def use():
    try:
        pool.take()
    except PoolClosed:
        return True

taken = [pool.take() for _ in range(10)]
greenlets = [gevent.spawn(use) for _ in range(100)]
gevent.sleep(0)
assert pool.close() == 10
gevent.joinall(greenlets, raise_error=True)
assert all(greenlet.value for greenlet in greenlets)
closing = gevent.spawn(pool.close, 60.0)
gevent.sleep(0)
while taken:
    pool.put(taken.pop())
assert closing.get() == 0
checkClosed(pool, world)
print("done")
"""

PROGRAMS = {"a thousand greenlets on ten slots": MANY, "gevent.Timeout": TIMEOUTS,
            "time-outs of takes": OWN_TIMEOUTS, "close": CLOSE}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_gevent(program):
    process = subprocess.run(
        [sys.executable, "-c", PROLOGUE + program], capture_output=True, text=True, timeout=100,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))})
    assert process.returncode == 0, process.stderr
    assert (process.stdout, process.stderr) == ("done\n", "")
