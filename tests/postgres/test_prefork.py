"""Servers that import the program, use its pool, and fork: gunicorn --preload and Celery.

Each process notes in the database, on each connection it uses, which process it is and which
backend answers: the server itself tells whose its connections are.
"""

import contextlib
import http.client
import importlib.util
import os
import signal
import socket
import subprocess
import sys

import pytest

from tests.helpers import PATIENCE, awaitTrue, start

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

CAPACITY = 3
WORKERS = 2
JOBS = 4  # each worker process ends after one

PROGRAM = """
import contextlib, os, threading
from queuepool.psycopg2 import ConnectionPool

pool = ConnectionPool("app", {CAPACITY}, os.environ["DSN"])
pool.startRecycler(0.01)


def use(work, count={CAPACITY}, key=None):
    '''Use that many connections at once, and none before the test lets go of the key.'''
    with contextlib.ExitStack() as stack:
        for conn in [stack.enter_context(pool.take()) for _ in range(count)]:
            with conn, conn.cursor() as cur:
                if key is not None:
                    cur.execute("select pg_advisory_xact_lock_shared(%s)", (key,))
                cur.execute(
                    "insert into seen values (%s, pg_backend_pid(), %s, %s)",
                    (os.getpid(), work, "queuepool recycler app" in [
                        thread.name for thread in threading.enumerate()]))


use("import")
"""

GUNICORN_PROGRAM = PROGRAM + """

def app(environ, startResponse):
    use("job", key=int(environ["PATH_INFO"].strip("/")))
    startResponse("200 OK", [("Content-Type", "text/plain")])
    return [b"done"]
"""

# In the file, a setting that this version of gunicorn does not know is no error.
GUNICORN_CONFIG = """
preload_app = True
workers = {WORKERS}
max_requests = 1
control_socket_disable = True


def post_worker_init(worker):
    with open("ready", "a") as file:
        print(worker.pid, file=file)


def child_exit(server, worker):
    from program import use
    use("child exit", count=1)  # may be called in the middle of itself, by the next SIGCHLD


def on_exit(server):
    from program import use
    use("end")
"""

CELERY_PROGRAM = PROGRAM + """
from celery import Celery, signals

app = Celery("program", broker="memory://")
app.conf.broker_transport_options = {"polling_interval": 0.05}
app.conf.worker_enable_remote_control = False


@app.task
def job(key):
    use("job", key=key)


@signals.worker_ready.connect
def send(**_):
    for key in range({JOBS}):
        job.delay(key)


@signals.worker_process_init.connect
def ready(**_):
    with open("ready", "a") as file:
        print(os.getpid(), file=file)


@signals.worker_shutdown.connect
def end(**_):
    use("end")
"""


def write(path, text):
    for name in ("CAPACITY", "WORKERS", "JOBS"):
        text = text.replace("{" + name + "}", str(globals()[name]))
    path.write_text(text)


class Master:
    """A program that forks, in its own process session; all of that is killed at the end."""

    def __init__(self, folder, dsn, *command, **kwargs):
        self.folder = folder
        self._log = folder / "log"
        with open(self._log, "w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *command], cwd=folder, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, **kwargs,
                env={**os.environ, "DSN": dsn, "C_FORCE_ROOT": "1",
                     "PYTHONPATH": os.pathsep.join(filter(None, sys.path))})
        self.pid = self._process.pid

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait(PATIENCE)
        print(self.log())

    def log(self):
        return self._log.read_text()

    def isThere(self):
        """Tell whether any process of its session is left, its own one or a child's."""
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def awaitTrue(self, condition):
        def holds():
            assert self._process.poll() is None, "it ended"
            return condition()

        awaitTrue(holds, patience=10.0)  # looking into the database takes twice as long again

    def end(self):
        """Ask it to end, wait until it and all its children have, return its exit code."""
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(PATIENCE)
        awaitTrue(lambda: not self.isThere())
        return code


@pytest.fixture
def seen(admin):
    """A table for what the processes note, and all jobs held up."""
    admin.query("create table seen (process int, backend int, work text, recycles bool)")
    admin.query("select pg_advisory_lock(key) from generate_series(0, %s) as key", (JOBS - 1,))
    return lambda columns, where: set(admin.query(f"select {columns} from seen where {where}"))


def checkAtWork(master, admin, seen):
    """Let the jobs go on when each worker runs one; check which connections there are."""
    held = "from pg_locks where locktype = 'advisory' and not granted"
    for _ in range(JOBS // WORKERS):
        master.awaitTrue(lambda: admin.value("select count(*) " + held) == WORKERS)
        master.awaitTrue(lambda: admin.backends() == CAPACITY * (1 + WORKERS))
        for backend, in seen("backend", "work = 'import'"):
            assert admin.count(backend, "idle") == 1
        admin.query("select pg_advisory_unlock(key) from "
                    f"(select objid::bigint as key {held}) as keys")
    master.awaitTrue(
        lambda: len(seen("process", "work = 'job'")) == JOBS)  # a process each: all ended, or will


def checkEnd(master, admin, seen):
    """Have it end by SIGTERM, and check which process used which backend."""
    # A worker that is just being started misses the signal to end, and is waited for.
    ready = master.folder / "ready"
    awaitTrue(lambda: len(ready.read_text().splitlines()) == JOBS + WORKERS)
    assert master.end() == 0
    awaitTrue(lambda: admin.backends() == 0)
    ours = seen("process, backend", "work = 'import'")
    assert len(ours) == CAPACITY and {process for process, _ in ours} == {master.pid}
    assert seen("process, backend", "work = 'end'") == ours
    theirs = seen("process, backend", "work = 'job'")
    assert master.pid not in {process for process, _ in theirs}
    assert len({process for process, _ in theirs}) == JOBS
    # No backend twice: neither the master's in a worker, nor one in two workers.
    assert len({backend for _, backend in ours | theirs}) == CAPACITY * (1 + JOBS)
    assert len(ours | theirs) == CAPACITY * (1 + JOBS)
    assert not seen("process, work", "not recycles")
    assert "Traceback" not in master.log()


@pytest.mark.skipif(importlib.util.find_spec("gunicorn") is None,
                    reason="gunicorn is not installed")
def test_gunicorn_preload(tmp_path, dsn, admin, seen):
    write(tmp_path / "program.py", GUNICORN_PROGRAM)
    write(tmp_path / "gunicorn.conf.py", GUNICORN_CONFIG)

    def ask(key):
        with contextlib.closing(
                http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as client:
            client.request("GET", f"/{key}")
            response = client.getresponse()
            return response.status, response.read()

    with contextlib.ExitStack() as stack:
        # Listened on from now on: who comes before gunicorn is ready waits.
        place = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = place.getsockname()[1]
        master = stack.enter_context(Master(
            tmp_path, dsn, "gunicorn", "--bind", f"fd://{place.fileno()}", "program:app",
            pass_fds=[place.fileno()]))
        place.close()
        asking = [start(ask, key) for key in range(JOBS)]
        checkAtWork(master, admin, seen)
        assert [each.result() for each in asking] == [(200, b"done")] * JOBS
        awaitTrue(lambda: admin.value(
            "select count(*) from seen where work = 'child exit'") == JOBS)
        checkEnd(master, admin, seen)
        assert seen("process, backend", "work = 'child exit'") <= seen(
            "process, backend", "work = 'import'")


@pytest.mark.skipif(importlib.util.find_spec("celery") is None, reason="Celery is not installed")
def test_celery_prefork(tmp_path, dsn, admin, seen):
    write(tmp_path / "program.py", CELERY_PROGRAM)
    with Master(tmp_path, dsn, "celery", "-A", "program", "worker", "--pool=prefork",
                f"--concurrency={WORKERS}", "--max-tasks-per-child=1", "--without-gossip",
                "--without-mingle", "--without-heartbeat") as master:
        checkAtWork(master, admin, seen)
        checkEnd(master, admin, seen)
