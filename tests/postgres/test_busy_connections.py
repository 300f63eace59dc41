"""A connection that another thread is using when the pool closes it, or hands it out.

psycopg2 frees what a COPY of another thread uses if its connection is closed meanwhile, which ends
the process. So each case is tried many times in a process of its own.
"""

import textwrap

import psycopg2
import pytest

from queuepool.psycopg2cm import ConnectionManager
from queuepool.psycopg2pool import ThreadedConnectionPool
from tests.helpers import awaitTrue, start
from tests.postgres.test_connecting import runPython

PROLOGUE = """
    import contextlib, faulthandler, gc, logging, sys, threading, warnings
    import psycopg2
    from queuepool import Pool
    from queuepool.psycopg2 import ConnectionPool
    from queuepool.psycopg2cm import ConnectionManager
    from queuepool.psycopg2pool import ThreadedConnectionPool
    from tests.helpers import PATIENCE, start

    faulthandler.enable()
    logging.getLogger("queuepool").disabled = True
    dsn = sys.argv[1]


    class Copying:
        '''Copies into or out of the server in a thread, without an end.'''

        def __init__(self, raw):
            self.raw = raw
            self.isUnderWay = threading.Event()
            self._count = 0
            with raw.cursor() as cur:
                cur.execute("create temp table copied (a text)")
            raw.commit()
            self._thread = start(self._run)
            assert self.isUnderWay.wait(PATIENCE)

        def _run(self):
            with contextlib.suppress(psycopg2.Error), self.raw.cursor() as cur:
                cur.copy_expert({statement}, self)

        def _pass(self):
            self._count += 1
            if self._count == 5:
                self.isUnderWay.set()

        def read(self, size):
            self._pass()
            return b"123456789\\n" * 800

        def write(self, data):
            self._pass()

        def awaitEnd(self):
            self._thread.result()


    for _ in range({times}):
        work()
"""

STATEMENTS = {
    "in": '"copy copied from stdin"',
    "out": '''"copy (select repeat('x', 100) from generate_series(1, 1000000)) to stdout"'''}

PUT = """
    def work():
        pool = ConnectionPool("pool", 1, dsn)
        taken = pool.take()
        copying = Copying(taken.resource)
        pool.put(taken)
        with pool.take() as conn:
            assert conn is not copying.raw
        copying.awaitEnd()
        pool.close()
"""

EXCEPTION = """
    def work():
        pool = ConnectionPool("pool", 1, dsn, closeOnException=True)
        with contextlib.suppress(KeyError), pool.take() as conn:
            copying = Copying(conn)
            raise KeyError
        copying.awaitEnd()
        pool.close()
"""

DROPPED = """
    warnings.simplefilter("ignore", ResourceWarning)

    def work():
        pool = ConnectionPool("pool", 1, dsn)
        copying = Copying(pool.take().resource)
        gc.collect()  # where there is no count of references
        with pool.take() as conn:
            assert conn is not copying.raw
        copying.awaitEnd()
        pool.close()
"""

CLOSED = """
    def work():
        pool = ConnectionPool("pool", 1, dsn)
        taken = pool.take()
        copying = Copying(taken.resource)
        taken.close()
        pool.close()
        copying.awaitEnd()
        pool.put(taken)
"""

KEPT_AND_TAKEN = """
    def work():
        pool = ConnectionPool("pool", 1, dsn)
        with pool.take() as conn:
            pass
        copying = Copying(conn)  # a mistake: it was returned
        with pool.take() as conn:
            assert conn is not copying.raw
        copying.awaitEnd()
        pool.close()
"""

KEPT_AND_EXPIRED = """
    def work():
        pool = ConnectionPool("pool", 1, dsn)
        with pool.take() as conn:
            pass
        copying = Copying(conn)  # a mistake: it was returned
        pool.invalidate()
        copying.awaitEnd()
        pool.close()
"""

MANAGER = """
    def work():
        pool = Pool("pool", 1, factory=lambda name: ConnectionManager(
            name, None, None, None, None, dsn))
        with pool.take() as manager:
            copying = Copying(manager.resource)
        copying.awaitEnd()
        pool.close()
"""

CLOSE_ALL = """
    def work():
        pool = ThreadedConnectionPool(0, 2, dsn)
        copyings = [Copying(pool.getconn()), Copying(pool.getconn())]
        pool.closeall()
        for copying in copyings:
            copying.awaitEnd()
"""

PUTCONN = """
    def work():
        pool = ThreadedConnectionPool(0, 2, dsn)
        for close in False, True:
            conn = pool.getconn()
            copying = Copying(conn)
            pool.putconn(conn, close=close)
            assert pool.getconn() is not conn
            copying.awaitEnd()
        pool.closeall()
"""

PROGRAMS = {
    "put": PUT, "an exception": EXCEPTION, "its handle is dropped": DROPPED,
    "closed by its user": CLOSED, "used after its put, and taken": KEPT_AND_TAKEN,
    "used after its put, and expired": KEPT_AND_EXPIRED, "a manager is put": MANAGER,
    "closeall": CLOSE_ALL, "putconn": PUTCONN}


@pytest.mark.timeout(90)
@pytest.mark.parametrize("way", STATEMENTS)
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_a_copy_of_another_thread_survives(program, way, dsn):
    prologue, loop = PROLOGUE.replace("{statement}", STATEMENTS[way]).replace(
        "{times}", "25").split("    for _ in")
    script = "".join(map(textwrap.dedent, [prologue, program, "    for _ in" + loop]))
    assert runPython(script, dsn) == ""


# -- what becomes of the connection

def sleepLong(raw):
    with raw.cursor() as cur:
        cur.execute("select pg_sleep(600)")


def copyLong(raw):
    class Endless:
        def read(self, size):
            return b"123456789\n" * 800

    with raw.cursor() as cur:
        cur.execute("create temp table copied (a text)")
        cur.copy_expert("copy copied from stdin", Endless())


BUSY = pytest.mark.parametrize("work, statement", [
    (sleepLong, "select pg_sleep%"), (copyLong, "copy%")])


@pytest.mark.usefixtures("posix")
@BUSY
def test_a_put_does_not_wait_and_the_one_who_uses_it_gets_an_error(
        makePool, admin, work, statement):
    pool = makePool()
    taken = pool.take()
    raw = taken.resource
    pid = raw.info.backend_pid
    running = start(work, raw)
    awaitTrue(lambda: admin.isAt(raw, statement))
    pool.put(taken)
    assert not taken.isOpen
    with pool.take() as conn:
        assert conn is not raw and conn.info.backend_pid != pid
    with pytest.raises(psycopg2.Error):
        running.result()
    admin.terminate(pid)  # if it has not noticed yet
    stats = pool.stats()
    assert (stats.opens, stats.closes, stats.closeErrors) == (2, 1, 0)


@pytest.mark.usefixtures("posix")
@BUSY
def test_a_manager_that_is_busy_is_closed_likewise(dsn, admin, work, statement):
    manager = ConnectionManager("manager", None, None, None, None, dsn)
    manager.open()
    raw = manager.resource
    pid = raw.info.backend_pid
    running = start(work, raw)
    awaitTrue(lambda: admin.isAt(raw, statement))
    manager.repair()
    assert not manager.isOpen and manager.resource is None
    with pytest.raises(psycopg2.Error):
        running.result()
    admin.terminate(pid)


@pytest.mark.usefixtures("posix")
@BUSY
def test_closeall_ends_what_is_under_way(dsn, admin, work, statement):
    pool = ThreadedConnectionPool(0, 1, dsn)
    raw = pool.getconn()
    pid = raw.info.backend_pid
    running = start(work, raw)
    awaitTrue(lambda: admin.isAt(raw, statement))
    pool.closeall()
    with pytest.raises(psycopg2.Error):
        running.result()
    admin.terminate(pid)
    assert pool.connectionPool.stats().open == 0
