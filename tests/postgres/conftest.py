"""A real PostgreSQL for the tests: one server and one database a session, emptied by each."""

import contextlib
import socket

import psycopg2.extras
import pytest
from psycopg2.extensions import TRANSACTION_STATUS_ACTIVE, make_dsn, set_wait_callback

from queuepool.psycopg2 import ConnectionPool
from tests.helpers import awaitTrue
from tests.postgres.proxy import Proxy
from tests.postgres.server import Server
from tests.postgres.wire import Wire

#: What the tests' database contains: nothing. A schema of this name is there in each new one.
EMPTY = """
do $$ declare name text; begin
    for name in select nspname from pg_namespace where nspname !~ '^(pg_|information_schema$)' loop
        execute format('drop schema %I cascade', name);
    end loop;
end $$;
create schema public authorization pg_database_owner;
grant usage on schema public to public
"""


@pytest.fixture
def parameters(database):
    """What psycopg2.connect wants for the tests' database, which is emptied at the test's end."""
    yield dict(database)
    with contextlib.closing(psycopg2.connect(**database)) as conn:
        conn.autocommit = True
        admin = Admin(conn)
        others = ("from pg_stat_activity where datname = current_database() "
                  "and pid != pg_backend_pid()")
        admin.query("select pg_terminate_backend(pid) " + others)
        awaitTrue(lambda: not admin.value("select count(*) " + others))
        admin.query(EMPTY)


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
