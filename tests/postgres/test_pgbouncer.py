"""Behind a real PgBouncer, in transaction and in session mode."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading

import psycopg2
import pytest
from psycopg2.extensions import make_dsn

from tests.helpers import PATIENCE, awaitTrue, checkWhole, runTogether
from tests.postgres.server import USER

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="PgBouncer is not installed")

CONFIG = """
[databases]
* = host=127.0.0.1 port={serverPort} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = {size}
max_client_conn = 100
server_login_retry = 0.1
admin_users = postgres
"""


class Bouncer:
    """A PgBouncer before a server, with ``size`` connections to it."""

    def __init__(self, server, mode, size):
        self._place = socket.socket()  # keeps the port while it is not listened on
        self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._place.bind(("127.0.0.1", 0))
        port = self._place.getsockname()[1]
        self.dsn = make_dsn(server.dsn, port=port)
        self._folder = tempfile.TemporaryDirectory(prefix="queuepool-")
        os.chmod(self._folder.name, 0o755)
        self._config = os.path.join(self._folder.name, "pgbouncer.ini")
        with open(self._config, "w") as file:
            file.write(CONFIG.format(serverPort=server.port, port=port, mode=mode, size=size))

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc_info):
        self.stop()
        self._place.close()
        self._folder.cleanup()

    def start(self):
        user = ["-u", USER] if os.geteuid() == 0 else []
        self._process = subprocess.Popen(
            [PROGRAM, "-q", *user, self._config], cwd=self._folder.name,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        awaitTrue(self._answers)
        self.awaitServer()

    def awaitServer(self):
        """Wait until it serves: once it has lost its server it refuses for a moment."""
        awaitTrue(self._serves)

    def stop(self):
        """Stop it at once: all connections end."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(PATIENCE)

    def count(self, what):
        """Tell how many clients or servers it is connected with; nothing else is under way."""
        with contextlib.closing(psycopg2.connect(self.dsn, dbname="pgbouncer")) as conn:
            conn.autocommit = True
            with conn.cursor() as cur:
                cur.execute("show " + what)
                return len(cur.fetchall())

    def _answers(self):
        assert self._process.poll() is None, "PgBouncer did not start"
        try:
            psycopg2.connect(self.dsn, dbname="pgbouncer").close()
        except psycopg2.OperationalError:
            return False
        return True

    def _serves(self):
        try:
            with contextlib.closing(psycopg2.connect(self.dsn)) as conn:
                return ask(conn) == 1
        except psycopg2.OperationalError:
            return False


@pytest.fixture(params=["transaction", "session"])
def bouncer(request, server):
    # In session mode each connection of a pool needs one of PgBouncer's for itself.
    size = {"transaction": 3, "session": 10}[request.param]
    awaitTrue(lambda: backends(server) == 0)  # what the tests before left is gone
    with Bouncer(server, request.param, size) as bouncer:
        bouncer.size = size
        yield bouncer


@pytest.fixture
def table(server):
    server.value("create table bounced (worker int, number int)")
    yield "bounced"
    server.value("drop table bounced")


def backends(server):
    return server.value("select count(*) from pg_stat_activity "
                        "where backend_type = 'client backend' and pid <> pg_backend_pid()")


def ask(conn, statement="select 1"):
    with conn.cursor() as cur:
        cur.execute(statement)
        return cur.fetchone()[0]


def takeAll(pool):
    taken = [pool.take() for _ in range(pool.capacity)]
    for each in taken:
        pool.put(each)


def askMany(pool):
    """Have ten threads ask at the same instant."""
    def work():
        with pool.take() as conn:
            return ask(conn)

    assert runTogether(*[work] * 10) == [1] * 10


def test_fifty_threads_work_through_few_server_connections(frailPool, server, bouncer, table):
    pool = frailPool(10, bouncer.dsn)

    def work(worker):
        def run():
            for number in range(10):
                with pool.take() as conn, conn, conn.cursor() as cur:
                    cur.execute("insert into bounced values (%s, %s)", (worker, number))
        return run

    runTogether(*(work(worker) for worker in range(50)))
    assert server.value("select count(*) from bounced") == 500
    assert server.value("select count(distinct (worker, number)) from bounced") == 500
    stats = pool.stats()
    assert stats.takes == 500 and stats.openErrors == 0
    awaitTrue(lambda: backends(server) <= bouncer.size)  # those of the looks above have left
    checkWhole(pool)


def test_a_pools_settings_are_its_own(frailPool, bouncer, table):
    """Sent with each BEGIN, they do not stay on a connection that PgBouncer gives to others."""
    careful = frailPool(1, bouncer.dsn, isolation_level="SERIALIZABLE", readonly=True)
    plain = frailPool(1, bouncer.dsn)
    for _ in range(3):
        with careful.take() as conn:
            assert ask(conn, "show transaction_isolation") == "serializable"
            with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
                ask(conn, "insert into bounced values (1, 1) returning 1")
        with plain.take() as conn:
            assert ask(conn, "show transaction_isolation") == "read committed"
            assert ask(conn, "insert into bounced values (1, 1) returning 1") == 1
    assert careful.stats().closes == plain.stats().closes == 0


def test_nothing_is_set_that_outlives_the_transaction(frailPool, server, bouncer):
    """What opening and putting back send leaves each session of the server as it was."""
    pool = frailPool(3, bouncer.dsn, application_name="")
    settings = ("select string_agg(name || '=' || setting, ',' order by name) from pg_settings "
                "where source = 'session'")
    with psycopg2.connect(bouncer.dsn, application_name="") as untouched:
        before = ask(untouched, settings)
    untouched.close()
    takeAll(pool)
    with pool.take() as conn:
        assert ask(conn, settings) == before
        assert conn.get_transaction_status() == 2  # in a transaction, to be rolled back
    with pool.take() as conn:
        assert ask(conn, settings) == before
    assert pool.stats().opens == 3


def test_a_server_restarted_behind_it_is_not_noticed_by_any_user(frailPool, server, bouncer):
    pool = frailPool(10, bouncer.dsn)
    takeAll(pool)
    askMany(pool)
    server.stop()
    server.start()
    awaitTrue(lambda: bouncer.count("servers") == 0)  # and the clients bound to them
    bouncer.awaitServer()
    for _ in range(3):
        askMany(pool)
    assert pool.stats().openErrors == 0
    checkWhole(pool)


def test_a_pgbouncer_restarted_is_not_noticed_by_any_user(frailPool, bouncer):
    pool = frailPool(10, bouncer.dsn)
    takeAll(pool)
    bouncer.stop()
    bouncer.start()
    for _ in range(3):
        askMany(pool)
    assert pool.stats().openErrors == 0
    checkWhole(pool)


def test_an_outage_of_the_server_behind_it_is_waited_for(frailPool, server, bouncer):
    pool = frailPool(3, bouncer.dsn, openRetryTime=30.0)
    takeAll(pool)
    server.stop()
    failed = []

    def work():
        while True:
            try:
                with pool.take() as conn:
                    return ask(conn)
            except psycopg2.Error as error:  # the server of its transaction is not there
                failed.append(error)
                threading.Event().wait(0.01)

    starting = threading.Timer(0.5, server.start)
    starting.start()
    assert runTogether(*[work] * 10) == [1] * 10
    starting.join()
    checkWhole(pool)


@pytest.mark.parametrize("bouncer", ["session"], indirect=True)
def test_discard_leaves_nothing_of_a_session_to_the_next(frailPool, bouncer):
    pool = frailPool(1, bouncer.dsn, reset="discard", autocommit=True)
    with pool.take() as conn, conn.cursor() as cur:
        cur.execute("create temp table mine (); set statement_timeout = '7s'; "
                    "select pg_advisory_lock(7)")
    with pool.take() as again:
        assert again is conn
        assert ask(conn, "show statement_timeout") == "0"
        assert ask(conn, "select count(*) from pg_locks where locktype = 'advisory'") == 0
        assert ask(conn, "select to_regclass('mine')") is None
