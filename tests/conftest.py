"""Fixtures for all tests."""

import gc
import os
import signal

import pytest

from tests.helpers import FakeClock, World, hasGil


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(crashitem):
    """End the run at a crash of the interpreter, so that ``tests.run`` does not try again."""
    pytest.exit(f"CPython crashed in {crashitem}", returncode=3)


def pytest_configure(config):
    """Without the GIL, have each process that runs tests in a session of its own, where it can.

    A thread that waits for a lock then calls sched_yield forty times first, and so does who makes a
    class, though it is alone. Linux lets all other processes of the session have their turn at each
    of them: with four at work it takes a hundred times as long to start a thread or to import.
    """
    if hasattr(config, "workerinput") and hasattr(os, "setsid") and not hasGil():
        os.setsid()


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def world():
    return World()


@pytest.fixture(scope="session")
def posix():
    """Skip a test, or what uses a fixture, that needs what Windows does not have."""
    if not hasattr(os, "fork"):
        pytest.skip("there is no fork, no unix socket, no signal that halts a process, and no "
                    "shutdown of a socket that ends a wait for it")


@pytest.fixture(autouse=True, scope="session")
def interruptible():
    """Have SIGINT interrupt, here and in child processes, where a shell's ``&`` has it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="module")
def cheapCollections():
    """Have the collector not look at what was imported: many tests run it again and again.

    A free-threaded CPython walks over what is frozen all the same, and the fewer objects are not,
    the more often it collects: every 2,000 new ones, which makes a simulation 20 times as slow.
    """
    gc.collect()
    gc.freeze()
    if not hasGil():
        gc.set_threshold(100_000)
