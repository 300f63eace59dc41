"""A child process that puts what its parent had checked out: the handle, or what it has open."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

if find_spec("psycopg2"):
    from tests.postgres import conftest

    #: The server that the tests of psycopg2 use.
    dsn, parameters = conftest.dsn, conftest.parameters
else:
    @pytest.fixture
    def dsn():
        pytest.skip("psycopg2 is not installed")

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

PROLOGUE = """
import os, signal, sys, warnings
from queuepool import Pool, PoolError
from tests.helpers import FakeResource, PlainResource, World, inChild

# From 3.12 on a fork in a process with threads is warned of.
warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
generations = int(sys.argv[1])  # how many processes lie between


def isRefused(pool, thing):
    try:
        pool.put(thing)
    except PoolError:
        return True
    return False
"""

GENERIC = PROLOGUE + """
def makePool(kind, isSeeded):
    if not isSeeded:
        return Pool("p", 2, factory=lambda name: kind(name, World()))
    pool = Pool("p", 2)
    for number in range(2):
        pool.put(kind(str(number), World()))
    return pool


def work(generations, thing):
    if generations:
        assert inChild(lambda: work(generations - 1, thing))
        return
    pool.put(thing)
    assert isRefused(pool, opened)  # it is forgotten now
    stats = pool.stats()
    assert (stats.taken, stats.idle, stats.open) == (0, 2, 0), stats
    for resource in [pool.take(), pool.take()]:
        assert resource.resource is not opened
        pool.put(resource)


for kind in PlainResource, FakeResource:
    for isSeeded in False, True:
        pool = makePool(kind, isSeeded)
        taken = pool.take()
        opened = taken.resource
        for thing in opened, taken:
            work(generations, thing)
        pool.put(opened)  # the parent's is as before
        assert pool.stats().open == 1 and isRefused(pool, opened)
        assert pool.close() == 0
"""

POSTGRES = PROLOGUE + """
from queuepool.psycopg2 import ConnectionPool

def query(conn, statement):
    with conn.cursor() as cur:
        cur.execute(statement)
        return cur.fetchone()[0]


def work(generations, thing):
    if generations:
        assert inChild(lambda: work(generations - 1, thing))
        return
    pool.put(thing)
    assert isRefused(pool, conn)  # it is forgotten now
    with pool.take() as own, pool.take() as other:
        pids = {query(own, "select pg_backend_pid()"), query(other, "select pg_backend_pid()")}
        assert len(pids) == 2 and pid not in pids
    pool.close()


pool = ConnectionPool("p", 2, sys.argv[2])
with pool.take() as conn:
    pid = query(conn, "select pg_backend_pid()")
taken = pool.take()
conn = taken.resource
with conn:
    query(conn, "create temp table kept as select 42 as a; select 1")
    for thing in conn, taken:
        work(generations, thing)
    assert query(conn, "select a from kept") == 42  # no child has ended its transaction
assert query(conn, "select pg_backend_pid()") == pid
pool.put(conn)
assert pool.stats().opens == 1
pool.close()
"""

PSYCOPG2POOL = PROLOGUE + """
from queuepool.psycopg2pool import ThreadedConnectionPool

def query(conn, statement):
    with conn.cursor() as cur:
        cur.execute(statement)
        return cur.fetchone()[0]


def work(generations, close):
    if generations:
        assert inChild(lambda: work(generations - 1, close))
        return
    pool.putconn(conn, close=close)
    own = pool.getconn()
    assert query(own, "select pg_backend_pid()") != pid
    pool.putconn(own)
    pool.closeall()


pool = ThreadedConnectionPool(0, 1, sys.argv[2])
conn = pool.getconn()
pid = query(conn, "select pg_backend_pid()")
for close in False, True:
    work(generations, close)
    assert query(conn, "select pg_backend_pid()") == pid
pool.putconn(conn)
pool.closeall()
"""


def run(program, *args):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *args], capture_output=True, text=True,
        timeout=60, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))})
    assert not done.stderr, done.stderr
    assert (done.returncode, done.stdout) == (0, "")


GENERATIONS = pytest.mark.parametrize("generations", ["1", "2", "3"])


@GENERATIONS
def test_what_a_resource_has_open(generations):
    run(GENERIC, generations)


@GENERATIONS
@pytest.mark.parametrize("program", [POSTGRES, PSYCOPG2POOL], ids=["pool", "psycopg2pool"])
def test_a_connection_of_psycopg2(program, generations, dsn):
    run(program, generations, dsn)
