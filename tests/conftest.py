"""Fixtures for all tests."""

import gc
import signal

import pytest

from tests.helpers import FakeClock, World


def pytest_sessionfinish(session, exitstatus):
    """Let tox run those that have to run alone, which may be none of what was asked for."""
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and session.config.option.markexpr:
        session.exitstatus = pytest.ExitCode.OK


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def world():
    return World()


@pytest.fixture(autouse=True, scope="session")
def interruptible():
    """Have SIGINT interrupt, here and in child processes, where a shell's ``&`` has it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="module")
def cheapCollections():
    """Have the collector not look at what was imported: many tests run it again and again."""
    gc.collect()
    gc.freeze()
