"""A PostgreSQL server on a loopback port that a test may stop, kill, freeze and start again."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

import psutil
import psycopg2
from psycopg2.extensions import make_dsn

from tests.helpers import PATIENCE, awaitTrue

#: Whom the embedded server's package makes where it finds itself to be root, which PostgreSQL
#: refuses to be.
USER = "pgserver"

#: Nothing has to outlive the machine.
OPTIONS = {
    "fsync": "off", "full_page_writes": "off", "max_connections": "60", "shared_buffers": "16MB",
    "autovacuum": "off", "max_wal_senders": "3", "wal_keep_size": "16MB",
    "restart_after_crash": "on", "wal_retrieve_retry_interval": "100",
    # A lost log line of a fault that was meant would only be noise.
    "log_min_messages": "panic", "listen_addresses": "127.0.0.1", "unix_socket_directories": "",
}


class Server:
    """A run of the server program ``bin``/postgres in its own folder, for a with statement.

    The port stays the same from one start to the next.
    """

    def __init__(self, bin):
        self.bin = Path(bin)
        self._process = None
        self._folder = tempfile.TemporaryDirectory(prefix="queuepool-")
        self.data = os.path.join(self._folder.name, "data")
        if os.geteuid() == 0:
            shutil.chown(self._folder.name, USER)
        # Bound but not listening it refuses connections, and nobody else gets the port.
        self._port = socket.socket()
        self._port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._port.bind(("127.0.0.1", 0))
        self.port = self._port.getsockname()[1]
        self.dsn = make_dsn(host="127.0.0.1", port=self.port, user="postgres", dbname="postgres")

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.kill()
        self._port.close()
        self._folder.cleanup()

    def create(self):
        """Make the data folder of a new server."""
        self._run("initdb", "-A", "trust", "-U", "postgres", "-E", "utf8", "--no-sync", "-D",
                  self.data)
        with open(os.path.join(self.data, "pg_hba.conf"), "a") as file:
            file.write("host replication all 127.0.0.1/32 trust\n")

    def copy(self, primary):
        """Make the data folder of a standby that follows the other server."""
        self._run("pg_basebackup", "-D", self.data, "-d", primary.dsn, "-R", "-c", "fast",
                  "--no-sync")

    def promote(self):
        """Make the standby the primary."""
        with self.connect() as conn, conn.cursor() as cur:
            cur.execute("select pg_promote()")

    def start(self):
        """Start the server and wait until it answers."""
        self.launch()
        self.awaitUp()

    def launch(self):
        """Start the server and wait for nothing."""
        settings = [f"--{key}={value}" for key, value in OPTIONS.items()]
        self._process = subprocess.Popen(
            [self.bin / "postgres", "-D", self.data, "-p", str(self.port), *settings],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
            start_new_session=True, **self._asUser())

    @property
    def isUp(self):
        """Tell whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def awaitUp(self):
        """Wait until the server answers."""
        awaitTrue(self.answers)

    def answers(self):
        """Tell whether a connection can be made."""
        assert self.isUp, "it did not start"
        with contextlib.suppress(psycopg2.OperationalError), self.connect():
            return True
        return False

    @contextlib.contextmanager
    def connect(self, **kwargs):
        """Connect past all pools and proxies, under autocommit."""
        with contextlib.closing(psycopg2.connect(self.dsn, **kwargs)) as conn:
            conn.autocommit = True
            yield conn

    def value(self, statement, *args):
        """Run a statement on a connection of its own; return its first value."""
        with self.connect() as conn, conn.cursor() as cur:
            cur.execute(statement, args or None)
            return cur.fetchone()[0] if cur.description else None

    def stop(self):
        """Stop the server as a shutdown in the fast mode does: end all connections, tell why."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(PATIENCE)
        self._process = None

    def kill(self):
        """Kill all its processes at once."""
        if self._process is not None:
            processes = self._processes()
            self._signal(signal.SIGKILL, processes)
            self._process.wait(PATIENCE)
            self._process = None
            awaitTrue(lambda: not any(map(_isAlive, processes)))

    def killBackend(self):
        """Kill the oldest backend, on which the server ends all others and recovers."""
        with self.connect() as conn, conn.cursor() as cur:
            cur.execute("select pid from pg_stat_activity "
                        "where backend_type = 'client backend' order by backend_start")
            pids = [pid for pid, in cur.fetchall()]
        with contextlib.suppress(ProcessLookupError):
            os.kill(pids[0], signal.SIGKILL)

    def freeze(self):
        """Halt all its processes: its kernel acknowledges what comes, and nobody answers."""
        self._signal(signal.SIGSTOP, self._processes())

    def thaw(self):
        """Let all its processes go on."""
        self._signal(signal.SIGCONT, self._processes())

    def _processes(self):
        if self.isUp:
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(self._process.pid)
                return [process, *process.children(recursive=True)]
        return []

    def _signal(self, number, processes):
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def _run(self, program, *args):
        subprocess.run([self.bin / program, *args], check=True, stdout=subprocess.DEVNULL,
                       cwd=os.path.dirname(self.data), **self._asUser())

    def _asUser(self):
        # The server's messages are looked for by their words.
        environment = {"LC_ALL": "C", "PATH": os.environ.get("PATH", "")}
        if os.geteuid() != 0:
            return {"env": environment}
        return {"env": environment, "user": USER, "group": USER, "extra_groups": []}


def _isAlive(process):
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False
