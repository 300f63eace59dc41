"""The pools of the comparison by fault, each used as its documentation shows.

They differ from those of contenders.py, which are made to be fast: here all settings are the
library's defaults but for the capacity, and what a subject's ``options`` say. A driver and a
package are imported when a subject is made.
"""

from tests.benchmarks.contenders import DBUTILS, FORMER, OURS, PSYCOPG, PSYCOPG2, SQLALCHEMY

#: What a pool that can have a name is called.
NAME = "orders"


class Subject:
    """A pool of ``capacity`` connections to ``dsn``; ``options`` are the library's own.

    ``lend`` calls its argument with a connection, ``ask`` runs a statement on that.
    """

    #: The option that bounds the wait for a connection, if there is one.
    timeout = None
    #: Options that are no defaults, as they are told to a reader.
    options = {}

    def lend(self, use):
        conn = self.take()
        try:
            use(conn)
        finally:
            self.put(conn)

    def take(self):
        raise NotImplementedError

    def put(self, conn):
        conn.close()

    @staticmethod
    def ask(conn, statement):
        """Run a statement; return the first value of its result, or None."""
        with conn.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchone()[0] if cursor.description else None


class Ours(Subject):
    timeout = "takeTimeout"

    def __init__(self, dsn, capacity, **options):
        from queuepool.psycopg2 import ConnectionPool

        self.pool = ConnectionPool(NAME, capacity, dsn, **options)

    def lend(self, use):
        with self.pool.take() as conn:
            use(conn)

    def take(self):
        return self.pool.take()

    def put(self, resource):
        self.pool.put(resource)

    @staticmethod
    def ask(conn, statement):
        return Subject.ask(getattr(conn, "resource", conn), statement)


class Former(Subject):
    """Need PYTHONPATH to lead to queuepool 1.3.2."""

    def __init__(self, dsn, capacity, **options):
        from queuepool import Pool
        from queuepool.psycopg2cm import ConnectionManager

        self.pool = Pool(NAME, capacity, **options)
        for number in range(capacity):
            self.pool.put(ConnectionManager(str(number), dsn=dsn))

    def lend(self, use):
        with self.pool.take() as manager:
            use(manager)

    def take(self):
        return self.pool.take()

    def put(self, resource):
        self.pool.put(resource)

    @staticmethod
    def ask(conn, statement):
        return Subject.ask(conn.resource, statement)


class Psycopg2Pool(Subject):
    options = {"minconn": "capacity"}

    def __init__(self, dsn, capacity):
        from psycopg2.pool import ThreadedConnectionPool

        self.pool = ThreadedConnectionPool(capacity, capacity, dsn)
        self.take, self.put = self.pool.getconn, self.pool.putconn


class SqlAlchemy(Subject):
    timeout = "pool_timeout"
    options = {"max_overflow": 0}

    def __init__(self, dsn, capacity, **options):
        import psycopg2
        from sqlalchemy import create_engine

        self.engine = create_engine(
            "postgresql+psycopg2://", creator=lambda: psycopg2.connect(dsn), pool_size=capacity,
            pool_logging_name=NAME, **self.options, **options)
        self.take = self.engine.connect

    def lend(self, use):
        with self.engine.connect() as conn:
            use(conn)

    @staticmethod
    def ask(conn, statement):
        result = conn.exec_driver_sql(statement)
        return result.scalar() if result.returns_rows else None


class DbUtils(Subject):
    options = {"blocking": True}

    def __init__(self, dsn, capacity, **options):
        import psycopg2
        from dbutils.pooled_db import PooledDB

        self.take = PooledDB(psycopg2, maxconnections=capacity, dsn=dsn,
                             **{**self.options, **options}).connection


class PsycopgPool(Subject):
    timeout = "timeout"

    def __init__(self, dsn, capacity, check=None, **options):
        from psycopg_pool import ConnectionPool

        if check is not None:
            options["check"] = getattr(ConnectionPool, check)
        self.pool = ConnectionPool(dsn, min_size=capacity, open=True, name=NAME, **options)
        self.take, self.put = self.pool.getconn, self.pool.putconn

    def lend(self, use):
        with self.pool.connection() as conn:
            use(conn)


SUBJECTS = {
    OURS: Ours, FORMER: Former, PSYCOPG2: Psycopg2Pool, SQLALCHEMY: SqlAlchemy, DBUTILS: DbUtils,
    PSYCOPG: PsycopgPool,
}
#: By subject: another way to set it up, and the faults for which that matters.
VARIANTS = {
    SQLALCHEMY: ({"pool_pre_ping": True}, ("terminated while idle", "restart", "round trips")),
    DBUTILS: ({"blocking": False}, ("exhausted", "message")),
    PSYCOPG: ({"check": "check_connection"}, ("terminated while idle", "restart", "round trips")),
}
