"""What other systems do not have, such as Windows a fork, is missing: the package works without."""

import subprocess
import sys
import textwrap

PREAMBLE = """
import logging, multiprocessing.util, os, select, signal, socket, subprocess, sys
for module, names in (
        (os, "fork register_at_fork kill killpg getuid geteuid sched_getaffinity getloadavg"),
        (select, "poll epoll kqueue"), (socket, "AF_UNIX TCP_USER_TIMEOUT"),
        (signal, "SIGHUP SIGUSR1 SIGALRM SIGSTOP SIGCONT SIGKILL setitimer alarm pthread_kill")):
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
sys.modules.update(dict.fromkeys(["fcntl", "pwd", "grp", "resource", "termios"]))
"""


def run(script):
    """Run a script on a Python where all that is missing; return what it printed."""
    done = subprocess.run([sys.executable, "-c", PREAMBLE + textwrap.dedent(script)],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_pool_with_all_its_threads_works():
    assert run("""
        import threading
        from queuepool import Pool, dumpOnSignal
        from tests.helpers import FakeResource, World, checkClosed, checkWhole, start
        from queuepool.watchdog import timeLimit

        world = World()
        pool = Pool("p", 2, factory=lambda name: FakeResource(name, world), minOpen=1)
        pool.startRecycler(0.01)
        with pool.take(), pool.take():
            pass
        checkWhole(pool, world)
        isOver = threading.Event()
        with timeLimit(0.0, isOver.set):
            assert isOver.wait(30)
        dumpOnSignal(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        checkClosed(pool, world)
        print("whole")
    """) == "whole\n"


def test_every_module_can_be_imported():
    assert run("""
        import importlib, pkgutil, queuepool
        sys.modules["psycopg"] = None  # Django's backend is that of psycopg2
        names = [module.name for module in pkgutil.walk_packages(
            queuepool.__path__, "queuepool.") if not module.name.endswith("__main__")]
        for name in names:
            try:
                importlib.import_module(name)
            except ImportError as error:
                assert error.name in (  # it is not installed
                    "django", "opentelemetry", "prometheus_client", "psycopg", "psycopg2",
                    "sqlalchemy"), error
        print("queuepool.core.fork" in names and "queuepool.psycopg2" in names)
    """) == "True\n"


def test_the_commands_catch_the_signals_that_there_are():
    assert run("""
        from queuepool.commandline import catchSignals

        stops = catchSignals()
        signal.raise_signal(signal.SIGINT)
        print(stops.get(timeout=30) == signal.SIGINT)
    """) == "True\n"
