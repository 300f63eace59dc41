"""A program that ends with a pool at work ends at once, with code 0, and says nothing."""

import os
import subprocess
import sys
import time

import pytest

IDLE = "pass"

BUSY = """
import threading
from queuepool import Pool, PoolTimeout
from tests.helpers import FakeResource, PlainResource, awaitWaiting

{kind}
pool = Pool("p", 3, factory=lambda name: Kind(name), minOpen=2, leakTime=0.0, maxIdleTime=0.001)
pool.startRecycler(0.001)
resources = [pool.take() for _ in range({taken})]


def wait():
    pool.take()


def work():
    while True:
        try:
            with pool.take(0.001):
                pass
        except PoolTimeout:
            pass


for target in {threads}:
    threading.Thread(target=target, daemon=True).start()
if {waiting}:
    awaitWaiting(pool, {waiting})
{end}
"""


def run(program):
    """Run a program; return its exit code, its error output and how long it took (seconds)."""
    startedAt = time.monotonic()
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True,
        timeout=60, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))})
    return process.returncode, process.stdout + process.stderr, time.monotonic() - startedAt


def runBusy(taken=0, threads="[]", waiting=0, kind="PlainResource", end=""):
    return run(BUSY.format(taken=taken, threads=threads, waiting=waiting,
                           kind=f"Kind = {kind}", end=end))


@pytest.fixture(scope="module")
def idleTime():
    """Return how long an interpreter takes that imports the same and does nothing (seconds)."""
    program = "import threading, queuepool, tests.helpers"
    return min(run(program)[2] for _ in range(3))


PROGRAMS = {
    "recycler": {},
    "recycler and all taken": {"taken": 3},
    "recycler, all taken, five wait": {"taken": 3, "threads": "[wait] * 5", "waiting": 5},
    "recycler, some taken, five work": {"taken": 1, "threads": "[work] * 5"},
    "with hooks": {"taken": 1, "threads": "[work] * 5", "kind": "FakeResource"},
    "the module's names are gone first": {"taken": 3, "threads": "[wait] * 5", "waiting": 5,
                                          "end": "del pool, resources[:]"},
    "closed with waiters": {"taken": 3, "end": "pool.close()"},
    "a resource refers to itself": {"taken": 3, "end": "resources[0].itself = resources"},
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_exit(program, idleTime):
    if "del pool" in program.get("end", ""):
        # What is dropped by name is a leak, and told as one: that is no matter of the exit.
        program = {**program, "end": "import warnings; warnings.simplefilter('ignore')\n"
                                     "import logging; logging.disable()\n" + program["end"]}
    code, output, seconds = runBusy(**program)
    assert (code, output) == (0, "")
    assert seconds < idleTime + 1.0


def test_exit_code_is_the_programs_own():
    assert runBusy(taken=3, end="raise SystemExit(7)")[:2] == (7, "")
