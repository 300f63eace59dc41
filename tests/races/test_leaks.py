"""What is taken and never put back is seen, said, and its slot comes back."""

import gc
import logging
import subprocess
import sys
import threading
import warnings
from collections import deque

import pytest

from queuepool import Pool, PoolTimeout, Reason
from queuepool.core.leaks import currentTaker, holdersOf, reportOverdue
from queuepool.core.log import Log
from queuepool.core.slot import Place, Slot
from tests.helpers import (PATIENCE, FakeResource, Gate, PlainResource, World, awaitWaiting,
                           checkClosed, checkWhole, hasGil, runTogether, start)

#: For tests of what is told of where other threads are.
needsFrames = pytest.mark.skipif(
    not hasGil(), reason="without the GIL the frames of other threads cannot be read")


class LastingWorld(World):
    """A world whose handles end only when they are closed.

    The collector clears weak references to everything in a cycle, also to what comes back.
    """

    def __init__(self):
        super().__init__()
        self._live = set()


def makePool(world, capacity=1, kind=PlainResource, **options):
    return Pool("p", capacity, factory=lambda name: kind(name, world), **options)


@pytest.fixture
def told():
    """Collect the warnings."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        yield told


def takeAndDrop(pool):
    pool.take(timeout=0)


@pytest.mark.parametrize("isSeeded", [False, True], ids=["factory", "seeded"])
@pytest.mark.parametrize("kind", [PlainResource, FakeResource])
def test_dropped_comes_back_and_is_closed_before_it_is_used_again(world, told, caplog, kind,
                                                                  isSeeded):
    pool = Pool("p", 1) if isSeeded else makePool(world, kind=kind)
    if isSeeded:
        pool.put(kind("a", world))
    takeAndDrop(pool)
    stats = pool.stats()
    assert (stats.taken, stats.idle, world.live) == (0, 1, 1)
    assert not told and not caplog.records  # the finalizer says nothing
    with pool.take(timeout=0):
        assert world.live == 1
        assert (world.opened, world.closed) == (2, 1)
    assert pool.stats().closesByReason[Reason.DROPPED] == 1
    assert [warning.category for warning in told] == [ResourceWarning]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    checkWhole(pool, world)
    checkClosed(pool, world)


@pytest.mark.parametrize("upkeep", ["recycle", "resize", "close"])
def test_upkeep_closes_what_was_dropped(world, told, upkeep):
    pool = makePool(world, 2)
    takeAndDrop(pool)
    getattr(pool, upkeep)(*[1] if upkeep == "resize" else [])
    assert world.live == 0
    assert pool.stats().closesByReason[Reason.DROPPED] == len(told) == 1
    checkClosed(pool, world)


def test_a_seeded_pool_loses_no_member_by_drops(world, told):
    pool = Pool("p", 2)
    pool.put(PlainResource("a", world))
    pool.put(PlainResource("b", world))
    for _ in range(10):
        takeAndDrop(pool)
    with pool.take(timeout=0) as one, pool.take(timeout=0) as other:
        assert {one.name, other.name} == {"a", "b"}
    assert pool.stats().closesByReason[Reason.DROPPED] == len(told) == 10
    checkWhole(pool, world)
    checkClosed(pool, world)


def test_what_was_dropped_has_all_its_attributes_when_it_is_back(world, told):
    """It is another object then; what refers to the old one sees the same attributes."""
    class Slotted(PlainResource):
        __slots__ = ("number",)

    pool = Pool("p", 1)
    resource = Slotted("a", world)
    resource.number, resource.note = 7, []
    pool.put(resource)
    del resource
    takeAndDrop(pool)
    with pool.take(timeout=0) as resource:
        assert (resource.number, resource.note, resource.world) == (7, [], world)
        assert type(resource) is Slotted
        assert resource.pool is pool
    checkWhole(pool, world)


def test_dropped_names_pool_and_resource(world, told):
    pool = makePool(world)
    takeAndDrop(pool)
    pool.recycle()
    message = str(told[0].message)
    assert "pool 'p'" in message and "'p-0'" in message
    assert "takeAndDrop" not in message


@pytest.mark.parametrize("kind", [PlainResource, FakeResource])
def test_dropped_tells_the_stack_of_its_take_with_leak_trace(world, told, kind):
    pool = makePool(world, kind=kind, leakTrace=True)
    with pool.take():
        pass
    takeAndDrop(pool)
    pool.recycle()
    message = str(told[0].message)
    assert "in takeAndDrop" in message
    assert "pool.take(timeout=0)" in message


@pytest.mark.filterwarnings("error")
def test_a_warning_that_is_an_error_is_not_the_next_takers(world, caplog):
    pool = makePool(world)
    takeAndDrop(pool)
    checkWhole(pool, world)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_drop_while_logging_holds_its_lock_hangs_nothing(world, told):
    """A finalizer runs anywhere, also in a thread that has a lock; nothing is told there."""
    class Handler(logging.Handler):
        def emit(self, record):
            taken.clear()

    pool = makePool(world)
    taken = [pool.take()]
    logger, handler = logging.getLogger("queuepool"), Handler()
    handler.lock = threading.Lock()  # one that its own thread cannot take twice
    logger.addHandler(handler)
    try:
        start(logger.warning, "anything").result()
    finally:
        logger.removeHandler(handler)
    checkWhole(pool, world)
    assert len(told) == 1


def test_dropped_in_a_with_block_that_reassigns_is_put_back(world, told):
    pool = makePool(world)
    with pool.take() as resource:
        resource = None  # the with statement has its own reference
    assert resource is None
    assert not told
    checkWhole(pool, world)


def test_dropped_in_a_cycle_comes_back_when_it_is_collected(told):
    world = LastingWorld()
    pool = makePool(world)
    resource = pool.take()
    resource.itself = resource
    del resource
    gc.collect()
    assert pool.stats().idle == 1
    checkWhole(pool, world)
    assert len(told) == 1


@pytest.mark.parametrize("isSeeded", [False, True], ids=["factory", "seeded"])
def test_dropped_wakes_who_waits(world, told, monkeypatch, isSeeded):
    monkeypatch.setattr("queuepool.core.idle.LOOK_AGAIN_TIME", PATIENCE)  # no help from that
    pool = Pool("p", 1) if isSeeded else makePool(world)
    if isSeeded:
        pool.put(PlainResource("p-0", world))
    taken = [pool.take()]
    waiting = start(pool.take)
    awaitWaiting(pool, 1)
    taken.clear()
    resource = waiting.result()
    assert resource.name == "p-0"
    pool.put(resource)
    del resource
    assert len(told) == 1
    checkWhole(pool, world)


@pytest.mark.parametrize("isSeeded", [False, True], ids=["factory", "seeded"])
def test_dropped_comes_back_at_once_though_its_maker_is_blocked(world, told, isSeeded):
    """Without the GIL CPython would leave it to the thread that made it to free it."""
    def use():
        takeAndDrop(pool)
        with pool.take(timeout=0):  # makes another one in its place
            pass

    def useAndBlock():
        use()
        gate()

    gate = Gate()
    pool = Pool("p", 1) if isSeeded else makePool(world)
    if isSeeded:
        pool.put(PlainResource("p-0", world))
    with pool.take():
        pass
    using = start(useAndBlock)
    gate.awaitArrival()
    start(use).result()
    gate.open()
    using.result()
    assert pool.stats().closesByReason[Reason.DROPPED] == 2
    checkWhole(pool, world)


def test_dropped_after_close_lets_the_close_end(world, told):
    """Its driver closes what is dropped then; nobody is told to put it into a closed pool."""
    pool = makePool(world)
    taken = [pool.take()]
    assert pool.close() == 1
    closing = start(pool.close, PATIENCE)
    taken.clear()
    assert closing.result() == 0
    assert not told
    assert pool.stats().closesByReason[Reason.DROPPED] == 1
    checkClosed(pool, world)


def test_what_belongs_to_a_dropped_pool_says_nothing(world, told):
    pool = makePool(world)
    resource = pool.take()
    pool.put(resource)
    del pool, resource
    gc.collect()
    assert world.live == 0
    assert not told


@pytest.mark.parametrize("kind", [PlainResource, FakeResource])
def test_collections_in_the_middle_of_take_and_put(told, caplog, kind):
    """The collector runs at every allocation, so a drop is seen inside any call of any thread."""
    def work():
        for number in range(150):
            try:
                resource = pool.take(PATIENCE)
            except PoolTimeout:
                raise AssertionError("a slot is lost") from None
            if number % 3 == 0:
                resource.itself = resource  # garbage that only the collector finds
            else:
                pool.put(resource)
            del resource

    def collect():
        while not areDone.is_set():  # when all wait, nobody allocates
            gc.collect()
            areDone.wait(0.001)

    caplog.set_level(logging.CRITICAL, "queuepool")
    world = LastingWorld()
    areDone = threading.Event()
    gc.freeze()  # what was there before slows the collections down
    pool = makePool(world, 3, kind)
    interval, threshold = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-5)
    gc.set_threshold(1, 1, 1)
    collecting = start(collect)
    try:
        runTogether(*[work] * 5)
    finally:
        areDone.set()
        collecting.result()
        gc.set_threshold(*threshold)
        sys.setswitchinterval(interval)
    gc.collect()
    checkWhole(pool, world)
    assert pool.stats().closesByReason[Reason.DROPPED] == 5 * 50
    checkClosed(pool, world)


def test_a_thread_that_died_holding_one_is_reported_once(world, caplog, clock):
    pool = makePool(world, clock=clock)
    thread = start(pool.take)
    resource = thread.result()
    clock.advance(7.0)
    pool.recycle()
    pool.recycle()
    reports = [record.getMessage() for record in caplog.records]
    assert len(reports) == 1, reports
    assert "p-0" in reports[0] and "7.0 s" in reports[0] and "has ended" in reports[0]
    pool.put(resource)
    checkWhole(pool, world)


def test_a_thread_that_lives_is_not_reported_without_leak_time(world, caplog, clock):
    pool = makePool(world, clock=clock)
    resource = pool.take()
    clock.advance(1e6)
    pool.recycle()
    assert not caplog.records
    pool.put(resource)


@needsFrames
@pytest.mark.parametrize("leakTrace", [False, True])
def test_what_is_out_longer_than_leak_time_is_reported_once(world, caplog, clock, leakTrace):
    caplog.set_level(logging.INFO, "queuepool")
    pool = makePool(world, clock=clock, leakTime=5.0, leakTrace=leakTrace)
    resource = pool.take()
    clock.advance(5.0)
    pool.recycle()
    assert not caplog.records  # not longer than leakTime
    clock.advance(1.0)
    pool.recycle()
    pool.recycle()
    reports = caplog.records
    assert [record.levelname for record in reports] == ["WARNING"]
    message = reports[0].getMessage()
    assert threading.current_thread().name in message
    assert "6.0 s" in message
    assert "in test_what_is_out_longer_than_leak_time" in message
    assert ("resource = pool.take()" in message) == leakTrace
    clock.advance(2.0)
    pool.put(resource)
    assert [record.levelname for record in reports] == ["WARNING", "INFO"]
    assert "was returned after 8.0 s" in reports[1].getMessage()
    checkWhole(pool, world)


def test_a_later_take_is_reported_anew(world, caplog, clock):
    caplog.set_level(logging.INFO, "queuepool")
    pool = makePool(world, clock=clock, leakTime=5.0)
    for _ in range(2):
        with pool.take():
            clock.advance(6.0)
            pool.recycle()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"] * 2


def test_what_comes_back_in_time_says_nothing(world, caplog, clock):
    caplog.set_level(logging.INFO, "queuepool")
    pool = makePool(world, clock=clock, leakTime=5.0)
    with pool.take():
        clock.advance(4.0)
        pool.recycle()
    assert not caplog.records


def test_the_recycler_reports_what_is_out_for_too_long(world, caplog):
    pool = makePool(world, leakTime=0.0)
    reported = threading.Event()

    class Handler(logging.Handler):
        def emit(self, record):
            reported.set()

    handler = Handler(logging.WARNING)
    logging.getLogger("queuepool").addHandler(handler)
    try:
        resource = pool.take()
        pool.startRecycler(0.001)
        assert reported.wait(PATIENCE)
    finally:
        logging.getLogger("queuepool").removeHandler(handler)
        pool.stopRecycler()
    assert "MainThread" in caplog.text
    pool.put(resource)
    checkWhole(pool, world)


COLLECTED = """
import faulthandler, gc, threading
from queuepool.core.leaks import currentFrames

faulthandler.dump_traceback_later(20, exit=True)


class Node:
    pass


def look(enable=gc.enable):
    node = Node()
    node.itself, node.local = node, threading.local()
    node.local.x = 1
    del node
    enable()
    currentFrames()  # its first allocation runs the collector


gc.set_threshold(1)
for _ in range(100):
    gc.disable()
    look()
assert gc.isenabled()
print("looked")
"""


def test_a_collection_while_it_looks_at_all_threads_does_not_wait_for_itself():
    """So it does on CPython 3.11 if a threading.local is collected there."""
    done = subprocess.run([sys.executable, "-c", COLLECTED], capture_output=True, text=True)
    assert done.stdout == "looked\n", done.stderr


class Leaver:
    """A thread that puts what it has and ends, while it is looked at; then another one takes."""

    name, ident, waits = "leaver", 0, None

    def __init__(self, slot):
        self.slot = slot

    @property
    def hasEnded(self):
        self.slot.takenBy = currentTaker()
        return True


def slotTakenBy(taker):
    slot = Slot()
    slot.place, slot.takenAt, slot.takenBy = Place.TAKEN, 1.0, taker
    return slot


def test_who_has_put_it_before_he_ended_has_no_leak(caplog):
    slot = slotTakenBy(None)
    slot.takenBy = Leaver(slot)
    reportOverdue([slot], None, 2.0, Log("p"))
    assert not caplog.records


def test_a_look_at_what_became_a_member_in_the_middle_of_it_finds_no_taker(caplog):
    slot = slotTakenBy(None)
    assert holdersOf([slot], 2.0) == ()
    reportOverdue([slot], 0.5, 2.0, Log("p"))
    assert not caplog.records


class Contended(deque):
    """Others pop all that is in it just before this thread does."""

    def popleft(self):
        self.clear()
        return super().popleft()


def test_who_finds_that_others_have_told_of_what_is_lost_goes_on(world, caplog):
    pool = makePool(world)
    pool._queue.lost = Contended([Slot()])
    pool.recycle()
    assert not caplog.records
    checkWhole(pool, world)
