"""A fork while other threads are at work: parent and child both go on, each with its own.

Every program runs in a process of its own, where threads and forks harm no other test.
"""

import os
import subprocess
import sys

import pytest

from tests.helpers import hasGil

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

PROLOGUE = """
import gc, multiprocessing, os, signal, sys, threading, time, warnings

atFork = []
os.register_at_fork(before=lambda: [call() for call in atFork], after_in_child=gc.collect)  # first
from queuepool import Pool, PoolError, PoolTimeout, PoolClosed
from tests.helpers import (PATIENCE, FakeResource, Gate, PlainResource, World, awaitTrue,
                           awaitWaiting, checkClosed, checkWhole, inChild, start)

# From 3.12 on a fork in a process with threads is warned of: that is what is tested here.
warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
sys.setswitchinterval(1e-5)
CAPACITY = 3
world = World()


class Noting(PlainResource):
    def __init__(self, name, world=world):
        super().__init__(name, world)

    def open(self):
        super().open()
        self.resource.openedBy = os.getpid()

    def checkOwner(self, hook):
        if self.isOpen and self.resource.openedBy != os.getpid():
            os.write(2, b"another process's: %s; " % hook.encode())  # the pool only logs errors

    def close(self):
        self.checkOwner("close")
        super().close()


def makePool(hasFactory):
    if hasFactory:
        return Pool("p", CAPACITY, factory=Noting)
    pool = Pool("p", CAPACITY)
    for number in range(CAPACITY):
        pool.put(Noting(str(number)))
    return pool


def use(pool):
    '''Use every slot of the pool in this process.'''
    taken = [pool.take(timeout=PATIENCE) for _ in range(CAPACITY)]
    assert len(set(taken)) == CAPACITY
    for resource in taken:
        assert resource.resource.openedBy == os.getpid()
        pool.put(resource)
    # A recycler that runs may have one in its hands for a moment.
    awaitTrue(lambda: (pool.stats().idle, pool.stats().taken) == (CAPACITY, 0))
    assert pool.stats().waiting == 0
    try:
        with pool.take(timeout=0), pool.take(timeout=0), pool.take(timeout=0):
            pool.take(timeout=0)
    except PoolTimeout:
        pass
    else:
        raise AssertionError("more than the capacity")


pool = makePool({hasFactory})
"""

ALL_AT_WORK = """
isOver = threading.Event()


def work():
    while not isOver.is_set():
        with pool.take(PATIENCE):
            pass


def drop():
    while not isOver.is_set():
        pool.invalidate()
        pool.recycle()


threads = [start(work) for _ in range(5)] + [start(drop)]
for _ in range(40):
    assert inChild(lambda: use(pool))
isOver.set()
for thread in threads:
    thread.result()
use(pool)
checkClosed(pool, world)
"""

IN_OPEN = """
gate = Gate()
inner = Noting.open
Noting.open = lambda self: (gate(), inner(self))[1]
taking = start(pool.take)
gate.awaitArrival()


def child():
    Noting.open = inner  # the gate's lock may be held for ever by the thread that is not here
    use(pool)


assert inChild(child)
gate.open()
pool.put(taking.result())
use(pool)
checkClosed(pool, world)
"""

IN_LINE = """
taken = [pool.take() for _ in range(CAPACITY)]
waiting = [start(pool.take) for _ in range(3)]
awaitWaiting(pool, 3)


def child():
    assert pool.stats().waiting == 0
    while taken:
        pool.put(taken.pop())
    use(pool)


assert inChild(child)
while taken:
    pool.put(taken.pop())
for each in waiting:
    pool.put(each.result())
use(pool)
checkClosed(pool, world)
"""

IN_RECYCLE = """
for resource in [pool.take() for _ in range(CAPACITY)]:
    pool.put(resource)
gate = Gate()
inner = Noting.close
Noting.close = lambda self: (gate(), inner(self))[1]
closing = start(pool.invalidate)
gate.awaitArrival()


def child():
    Noting.close = inner
    use(pool)


assert inChild(child)
gate.open()
closing.result()
use(pool)
checkClosed(pool, world)
"""

TAKEN_BEFORE = """
with pool.take() as resource:
    handle = resource.resource


    def child():
        live = world.live
        pool.put(resource)
        assert resource.resource is None and not resource.isOpen
        assert world.closed == 0  # forgotten, not closed
        use(pool)


    assert inChild(child)
    assert resource.resource is handle
assert pool.take(timeout=0) is resource
pool.put(resource)
use(pool)
checkClosed(pool, world)
"""

TAKEN_BEFORE_IN_A_WITH_BLOCK = """
def child():
    with resource:
        pass
    use(pool)


with pool.take() as resource:
    assert inChild(child)
use(pool)
checkClosed(pool, world)
"""

RECYCLER = """
pool.startRecycler(0.001)
pool.invalidate()


def names():
    return [thread.name for thread in threading.enumerate() if thread is not
            threading.main_thread()]


def child():
    assert names() == ["queuepool recycler p"], names()
    pool._maxIdleTime = 0.0  # all that lies there is due
    use(pool)
    awaitTrue(lambda: pool.stats().open == 0)
    pool.stopRecycler()
    assert not names()


for _ in range(5):
    assert inChild(child)
assert names() == ["queuepool recycler p"]
use(pool)
pool.stopRecycler()  # else it may have one in hand when the pool is closed
checkClosed(pool, world)
"""

CLOSED_BEFORE = """
taken = pool.take()
pool.close()


def child():
    pool.put(taken)
    assert pool.closed
    try:
        pool.take(timeout=0)
    except PoolClosed:
        pass
    else:
        raise AssertionError("taken from a closed pool")
    assert world.closed == 0


assert inChild(child)
pool.put(taken)
checkClosed(pool, world)
"""

ENDS_BEFORE_THE_POOL_KNOWS = """
class Putting:
    def __init__(self):
        self.resource = pool.take()

    def __del__(self):
        try:
            pool.put(self.resource)
        except PoolError:  # collected after a seeded pool got its resource anew
            pass


def session():
    with pool.take() as resource:
        yield resource


def inCycle(thing):
    cycle = [thing]
    cycle.append(cycle)
    return cycle


def work():
    # A child is without this thread, so CPython clears there what only this thread has.
    local.session = session()
    next(local.session)
    local.putting = {putting}
    local.dropped = {dropped}
    gate()
    vars(local).clear()
    gc.collect()


Noting.putRepair = lambda self: self.checkOwner("putRepair")
pool.closeOnException = True
local, gate = threading.local(), Gate()
worker = start(work)
gate.awaitArrival()
assert pool.stats().taken == CAPACITY
assert inChild(lambda: use(pool))
gate.open()
worker.result()
use(pool)
checkClosed(pool, world)
"""

OWN_PUT = """
class Pool(Pool):
    def put(self, resource):
        super().put(resource)


pool = makePool(pool._factory is not None)
"""

PUT_DURING_THE_FORK = """
def work():
    resource = pool.take()
    mayPut.wait(PATIENCE)
    pool.put(resource)
    return resource


cleaned, mayPut = [], threading.Event()
Noting.putRepair = lambda self: cleaned.append(self)
worker = start(work)
awaitTrue(lambda: pool.stats().taken == 1)
cleaned.clear()
atFork[:] = [mayPut.set, worker.thread.join]
assert inChild(lambda: use(pool))
resource = worker.result()
assert cleaned == [resource] and resource.isOpen, cleaned
atFork.clear()
use(pool)
"""

CLEANED = """
def child():
    assert not isSeeded or sorted(cleaned) == ["0", "1", "2"], cleaned
    use(pool)


isSeeded, cleaned = pool._factory is None, []
Noting.putRepair = lambda self: cleaned.append(self.name)
use(pool)
cleaned.clear()
assert inChild(child)
"""

FORKED_TWICE = """
use(pool)


def child():
    use(pool)
    assert inChild(lambda: use(pool))
    use(pool)


assert inChild(child)
use(pool)
checkClosed(pool, world)
"""

#: Without the GIL CPython hands the lock of an object on to a thread that waited for it for 1 ms.
#: If that thread is not in the child, whoever changes the object there waits for ever: six threads
#: that add to and discard from one set are enough, without any pool.
needsGil = pytest.mark.skipif(
    not hasGil(), reason="without the GIL objects that other threads change may stay locked")

PROGRAMS = {
    "threads take, put, open and recycle": pytest.param(ALL_AT_WORK, marks=needsGil),
    "one is opening": IN_OPEN,
    "three wait": IN_LINE, "one is recycling": IN_RECYCLE,
    "the child puts what was taken before": TAKEN_BEFORE,
    "the child leaves the with-block": TAKEN_BEFORE_IN_A_WITH_BLOCK,
    "a thread that is not in the child has it": ENDS_BEFORE_THE_POOL_KNOWS.format(
        putting="Putting()", dropped="pool.take()"),
    "a thread that is not in the child has it in a cycle": ENDS_BEFORE_THE_POOL_KNOWS.format(
        putting="inCycle(Putting())", dropped="inCycle(pool.take())"),
    "a thread that is not in the child has it of a pool with a put of its own": OWN_PUT
    + ENDS_BEFORE_THE_POOL_KNOWS.format(putting="Putting()", dropped="pool.take()"),
    "another thread puts during the fork": PUT_DURING_THE_FORK, "they are cleaned": CLEANED,
    "the recycler runs": RECYCLER, "the pool is closed": CLOSED_BEFORE,
    "the child forks": FORKED_TWICE,
}


def run(*command):
    process = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=100,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))})
    assert process.returncode == 0, process.stderr
    assert (process.stdout, process.stderr) == ("", "")


@pytest.mark.parametrize("hasFactory", [True, False], ids=["factory", "seeded"])
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_fork(program, hasFactory):
    run("-c", PROLOGUE.replace("{hasFactory}", str(hasFactory)) + program)


MULTIPROCESSING = PROLOGUE + """
def useInChild(number):
    use(pool)
    return os.getpid()


if __name__ == "__main__":
    isOver = threading.Event()

    def work():
        while not isOver.is_set():
            with pool.take(PATIENCE):
                pass

    threads = [start(work) for _ in range(3)]
    context = multiprocessing.get_context("{method}")
    with context.Pool(2) as processes:
        identities = processes.map(useInChild, range(6))
    assert os.getpid() not in identities
    isOver.set()
    for thread in threads:
        thread.result()
    use(pool)
    checkClosed(pool, world)
"""


@pytest.mark.parametrize("hasFactory", [True, False], ids=["factory", "seeded"])
@pytest.mark.parametrize("method", [
    pytest.param("fork", marks=needsGil), "forkserver", "spawn"])
def test_multiprocessing(method, hasFactory, tmp_path):
    program = tmp_path / "program.py"  # a file, since spawn imports it
    program.write_text(MULTIPROCESSING.replace("{method}", method)
                       .replace("{hasFactory}", str(hasFactory)))
    run(str(program))
