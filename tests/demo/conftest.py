"""A server for the tests of the demo, and ways to run it: in this process and in another."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from queue import SimpleQueue

import psutil
import psycopg2
import pytest

from queuepool import __main__ as command
from tests.helpers import PATIENCE, awaitTrue

ROOT = Path(command.__file__).parent.parent
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
           if hasattr(signal, name)]


@pytest.fixture
def serverDsn(embeddedServer):
    return embeddedServer.uri


@pytest.fixture
def admin(serverDsn):
    """Run statements outside of the demo; return the first column of the rows."""
    with contextlib.closing(psycopg2.connect(serverDsn, application_name="admin")) as conn:
        conn.autocommit = True

        def query(statement):
            with conn.cursor() as cursor:
                cursor.execute(statement)
                return [row[0] for row in cursor.fetchall()] if cursor.description else []

        yield query


@contextlib.contextmanager
def frozen(dsn):
    """Halt all processes of the server once a request runs: nobody answers any more."""
    with contextlib.closing(psycopg2.connect(dsn, application_name="admin")) as conn:
        def isRunning():
            with conn, conn.cursor() as cursor:
                cursor.execute("select count(*) from pg_stat_activity where application_name like "
                               "'queuepool %' and query like '%pg_sleep%'")
                return cursor.fetchone()[0] > 0

        awaitTrue(isRunning)
        server = psutil.Process(conn.info.backend_pid).parent()
        halted = [server, *server.children(recursive=True)]
        try:
            for process in halted:
                process.suspend()
            yield
        finally:
            for process in reversed(halted):
                process.resume()


@pytest.fixture
def stops(monkeypatch):
    """The queue whose entries the demo in this process takes for Ctrl-C."""
    queue = SimpleQueue()
    monkeypatch.setattr(command, "catchSignals", lambda: queue)
    return queue


class Outcome:
    """The outcome of a run: its exit code and what it printed."""

    def __init__(self, code, out, err):
        self.code = code
        self.out = out
        self.err = err

    def fact(self, label):
        """The text that stands beside a label of the report."""
        lines = [line for line in self.out.splitlines() if line.startswith(f"  {label:20} ")]
        assert len(lines) == 1, self.out
        return lines[0][23:]

    def checkOneLine(self, code):
        """Check that it failed with this code and one line."""
        assert self.code == code
        assert self.err.startswith("python -m queuepool: ")
        assert self.err.count("\n") == 1 and self.err.endswith("\n"), self.err


@pytest.fixture
def run(stops, serverDsn, capsys):
    """Run the demo in this process."""
    def runHere(*arguments, stdout=None):
        with contextlib.redirect_stdout(stdout or sys.stdout):
            try:
                code = command.main(arguments)
            except SystemExit as end:
                code = end.code
        return Outcome(code, *capsys.readouterr())

    return runHere


@pytest.fixture
def folder():
    """A short path, since those of unix sockets are limited."""
    path = tempfile.mkdtemp(prefix="qp-")
    os.chmod(path, 0o755)
    yield Path(path)
    shutil.rmtree(path)


class Process:
    """The demo in a process group of its own, as a terminal starts it."""

    def __init__(self, arguments, folder, **options):
        self.folder = folder
        environment = dict(os.environ, TMPDIR=str(folder), PYTHONPATH=str(ROOT))
        environment.pop("XDG_RUNTIME_DIR", None)
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "queuepool", *arguments], env=environment, cwd=folder,
            start_new_session=True, text=True,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options})
        self.seen = ""

    def awaitLine(self, text):
        """Read until a line that contains the text."""
        for line in self.popen.stdout:
            self.seen += line
            if text in line:
                return
        raise AssertionError(self.seen + self.popen.stderr.read())

    def signalGroup(self, number):
        os.killpg(self.popen.pid, number)

    def outcome(self):
        out, err = self.popen.communicate(timeout=2 * PATIENCE)
        return Outcome(self.popen.returncode, self.seen + out, err)

    def checkNothingLeft(self):
        checkNothingLeft(self.folder)


def checkNothingLeft(folder):
    """Check that no file is left in the temporary folder, and no process that works there."""
    assert os.listdir(folder) == []
    # Not for long: a server ends by itself, later, when it finds that its folder is gone.
    awaitTrue(lambda: not processesIn(folder), patience=0.05)


def processesIn(folder):
    """The processes that have the folder on their command line."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(str(folder) in part for part in process.cmdline()):
                found.append(process)
    return found


@pytest.fixture
def start(posix, folder):
    """Start the demo in another process, with the folder as its temporary folder."""
    started = []

    def startThere(*arguments, **options):
        def defaultSignals():
            for number in SIGNALS:
                signal.signal(number, signal.SIG_DFL)

        started.append(Process(arguments, folder, preexec_fn=defaultSignals, **options))
        return started[-1]

    yield startThere
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.popen.pid, signal.SIGKILL)
        process.popen.wait()
        for stream in (process.popen.stdout, process.popen.stderr):
            if stream is not None:
                stream.close()
        for left in processesIn(folder):
            left.kill()
