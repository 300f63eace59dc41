"""The pools that are compared, each in its cheapest fair configuration.

A contender has SLOTS connections: without a DSN such as do nothing, with one psycopg's own under
autocommit, which its pool rolls back when they are returned (no message to the server then). Its
driver and its package are imported when it is made.
"""

import itertools
import queue
import threading
from collections import deque
from functools import partial
from types import SimpleNamespace

SLOTS = 10

#: A usage limit that is looked at each time and never reached.
MANY = 10 ** 9


class NoConnection:
    """Be a connection that does nothing and is always fine, for all peers."""

    closed = 0
    info = pgconn = SimpleNamespace(transaction_status=0)

    @classmethod
    def connect(cls, *args, **kwargs):
        return cls()

    def close(self):
        pass

    rollback = commit = close

    def __enter__(self):
        return self

    def __exit__(self, *args):
        pass


def connector(dsn):
    """Return what opens one connection."""
    if dsn is None:
        return NoConnection.connect
    import psycopg2

    def connect():
        conn = psycopg2.connect(dsn)
        conn.autocommit = True
        return conn

    return connect


class Contender:
    """Be one way to take a connection, do something with it and give it back."""

    #: Whether taking waits for a connection to come free.
    waits = True
    #: Whether it can hold real connections.
    isReal = True

    def ofThread(self):
        """Return what the calling thread works with."""
        return self

    def lend(self, use):
        """Call ``use`` with a connection."""
        conn = self.take()
        try:
            use(conn)
        finally:
            self.put(conn)

    @staticmethod
    def bare(conn):
        """Return the driver's own connection."""
        return conn


class QueuePool(Contender):
    """Have ``with pool.take()`` in common, in 2.0 and 1.3.2."""

    def checkOut(self, times):
        take = self.pool.take
        for _ in range(times):
            with take():
                pass

    def lend(self, use):
        with self.pool.take() as conn:
            use(conn)


class Ours(QueuePool):
    def __init__(self, dsn=None):
        if dsn is None:
            from queuepool import Pool, Resource

            self.pool = Pool("benchmark", SLOTS, maxUsageCount=MANY, factory=Resource)
        else:
            from queuepool.psycopg2 import ConnectionPool

            self.pool = ConnectionPool(
                "benchmark", SLOTS, dsn, autocommit=True, maxUsageCount=MANY)


class Former(QueuePool):
    """Need PYTHONPATH to lead to queuepool 1.3.2."""

    def __init__(self, dsn=None):
        from queuepool import Pool, ResourceManager

        if dsn is None:
            build = ResourceManager
        else:
            from queuepool.psycopg2cm import ConnectionManager

            build = partial(ConnectionManager, autocommit=True, dsn=dsn)
        self.pool = Pool("benchmark", SLOTS, maxUsageCount=MANY)
        for number in range(SLOTS):
            self.pool.put(build(str(number)))

    def lend(self, use):
        with self.pool.take() as manager:
            use(manager.resource)


class Psycopg2Pool(Contender):
    waits = False

    def __init__(self, dsn=None):
        from psycopg2.pool import ThreadedConnectionPool

        class Pool(ThreadedConnectionPool):
            def _connect(self, key=None):
                conn = connector(dsn)()
                self._pool.append(conn)
                return conn

        self.pool = Pool(SLOTS, SLOTS)
        self.take, self.put = self.pool.getconn, self.pool.putconn

    def checkOut(self, times):
        take, put = self.take, self.put
        for _ in range(times):
            put(take())


class Psycopg2PoolWaiting(Psycopg2Pool):
    """Wait at a semaphore, since psycopg2.pool raises an exception when it is empty."""

    waits = True

    def __init__(self, dsn=None):
        super().__init__(dsn)
        self.free = threading.Semaphore(SLOTS)

    def checkOut(self, times):
        free, take, put = self.free, self.take, self.put
        for _ in range(times):
            with free:
                put(take())

    def lend(self, use):
        with self.free:
            super().lend(use)


class Closing(Contender):
    """Have in common that a connection is given back by its close method."""

    def checkOut(self, times):
        take = self.take
        for _ in range(times):
            take().close()

    @staticmethod
    def put(conn):
        conn.close()


class SqlAlchemy(Closing):
    def __init__(self, dsn=None):
        self.take = self.build(
            connector(dsn), pool_size=SLOTS,
            reset_on_return=None if dsn is None else "rollback").connect

    @staticmethod
    def build(connect, **options):
        from sqlalchemy.pool import QueuePool

        return QueuePool(connect, max_overflow=0, use_lifo=True, **options)

    @staticmethod
    def bare(conn):
        return conn.dbapi_connection


class Fair(SqlAlchemy):
    @staticmethod
    def build(connect, **options):
        from queuepool.sqlalchemy import FairPool

        return FairPool(connect, **options)


class DbUtils(Closing):
    def __init__(self, dsn=None):
        from dbutils.pooled_db import PooledDB

        connect = partial(connector(dsn))
        connect.threadsafety = 2
        self.take = PooledDB(
            connect, mincached=SLOTS, maxcached=SLOTS, maxconnections=SLOTS,
            blocking=True, reset=dsn is not None, ping=0, failures=(OSError,)).connection

    @staticmethod
    def bare(conn):
        return conn._con._con


class PsycopgPool(Contender):
    def __init__(self, dsn=None):
        import psycopg
        from psycopg_pool import ConnectionPool

        self.pool = ConnectionPool(
            dsn or "", min_size=SLOTS, max_size=SLOTS, open=True, kwargs={"autocommit": True},
            connection_class=psycopg.Connection if dsn else NoConnection)
        self.pool.wait()
        self.take, self.put = self.pool.getconn, self.pool.putconn

    def checkOut(self, times):
        take, put = self.take, self.put
        for _ in range(times):
            put(take())


class PsycopgPoolWith(PsycopgPool):
    def checkOut(self, times):
        connection = self.pool.connection
        for _ in range(times):
            with connection():
                pass

    def lend(self, use):
        with self.pool.connection() as conn:
            use(conn)


class BareQueue(Contender):
    isReal = False

    def __init__(self, dsn=None):
        self.queue = queue.LifoQueue()
        for _ in range(SLOTS):
            self.queue.put(NoConnection())
        self.take, self.put = self.queue.get, self.queue.put

    def checkOut(self, times):
        take, put = self.take, self.put
        for _ in range(times):
            put(take())


class FloorItem:
    def __init__(self, items):
        self.items = items

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.items.append(self)


class Floor(QueuePool):
    """Be a with statement over one pop and one append: no limits, no states, no counters."""

    waits = isReal = False

    def __init__(self, dsn=None):
        self.items = deque()
        self.items.extend(FloorItem(self.items) for _ in range(SLOTS))
        self.pool = self

    def take(self):
        return self.items.pop()


class NoPool(Contender):
    """Be what no pool can beat: each thread has a connection of its own and keeps it."""

    waits = False

    def __init__(self, dsn=None):
        connect = connector(dsn)
        self.conns = itertools.cycle([connect() for _ in range(SLOTS)])

    def ofThread(self):
        conn = next(self.conns)
        return SimpleNamespace(lend=lambda use: use(conn))


class PoolEach(Contender):
    """Be a pool for each thread: there is nothing to share."""

    isReal = False

    def __init__(self, dsn=None):
        self.ofThread = Ours


OURS, FAIR, FORMER = "queuepool 2", "queuepool 2 FairPool (SQLAlchemy)", "queuepool 1.3.2"
PSYCOPG2, PSYCOPG2_WAITING = "psycopg2.pool", "psycopg2.pool + semaphore"
SQLALCHEMY, DBUTILS = "SQLAlchemy QueuePool", "DBUtils PooledDB"
PSYCOPG, PSYCOPG_WITH = "psycopg_pool", "psycopg_pool (with)"
LIFO, FLOOR = "bare LifoQueue", "floor"
NO_POOL, POOL_EACH = "no pool: a connection a thread", "queuepool 2, a pool a thread"

CONTENDERS = {
    OURS: Ours, FAIR: Fair, FORMER: Former, PSYCOPG2: Psycopg2Pool,
    PSYCOPG2_WAITING: Psycopg2PoolWaiting, SQLALCHEMY: SqlAlchemy, DBUTILS: DbUtils,
    PSYCOPG: PsycopgPool, PSYCOPG_WITH: PsycopgPoolWith, LIFO: BareQueue, FLOOR: Floor,
}
#: With those that are measured in one part only.
ALL = CONTENDERS | {NO_POOL: NoPool, POOL_EACH: PoolEach}
