"""A MariaDB server on a loopback port that a test may kill and start again."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

import pymysql

from tests.helpers import PATIENCE, awaitTrue

#: Debian keeps the server where only root's PATH leads.
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])

#: Nothing has to outlive the machine.
OPTIONS = ["--innodb-buffer-pool-size=8M", "--innodb-log-file-size=8M",
           "--innodb-flush-log-at-trx-commit=0", "--innodb-fast-shutdown=2", "--skip-log-bin"]


def programs():
    """Return where the server and what makes its data folder are; None for what is missing."""
    return [shutil.which(name, path=PATH) for name in ("mariadbd", "mariadb-install-db")]


class Server:
    """A run of mariadbd in its own folder, for a with statement."""

    def __init__(self):
        self._server, self._install = programs()
        self._process = None
        self._folder = tempfile.TemporaryDirectory(prefix="queuepool-")
        self.data = os.path.join(self._folder.name, "data")
        # Bound but not listening it refuses connections, and nobody else gets the port.
        self._port = socket.socket()
        self._port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._port.bind(("127.0.0.1", 0))
        self.arguments = dict(host="127.0.0.1", port=self._port.getsockname()[1], user="root",
                              database="mysql")
        # It refuses to run as root unless it is told to.
        self._asUser = ["--user=root"] if os.geteuid() == 0 else []

    def __enter__(self):
        subprocess.run(
            [self._install, "--no-defaults", *self._asUser, f"--datadir={self.data}",
             "--auth-root-authentication-method=normal", "--skip-test-db", *OPTIONS],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)
        self.start()
        return self

    def __exit__(self, *exc_info):
        self.kill()
        self._port.close()
        self._folder.cleanup()

    def start(self):
        """Start the server and wait until it answers."""
        self._process = subprocess.Popen(
            [self._server, "--no-defaults", *self._asUser, f"--datadir={self.data}",
             "--bind-address=127.0.0.1", f"--port={self.arguments['port']}",
             f"--socket={os.path.join(self._folder.name, 'socket')}",
             f"--pid-file={os.path.join(self._folder.name, 'pid')}", *OPTIONS],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
            start_new_session=True)
        awaitTrue(self._answers)

    def _answers(self):
        assert self._process.poll() is None, "it did not start"
        with contextlib.suppress(pymysql.Error):
            self.run("select 1")
            return True
        return False

    def kill(self):
        """Kill the server at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE)
            self._process = None

    def signal(self, number):
        """Send it a signal; after SIGSTOP return when it stands still."""
        self._process.send_signal(number)
        if number == signal.SIGSTOP:
            awaitTrue(self._isHalted)

    def _isHalted(self):
        """Tell whether each of its threads stands still, as Linux says."""
        stats = Path(f"/proc/{self._process.pid}/task").glob("*/stat")
        return all(stat.read_text().rpartition(")")[2].split()[0] == "T" for stat in stats)

    def run(self, statement, *args):
        """Run a statement past all pools, under autocommit; return its first value."""
        with contextlib.closing(pymysql.connect(**self.arguments, autocommit=True)) as conn:
            with conn.cursor() as cur:
                cur.execute(statement, args or None)
                row = cur.fetchone()
                return row and row[0]
