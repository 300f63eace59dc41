"""What is taken and never put back is seen, said, and its slot comes back."""

import gc
import logging
import sys
import threading
import warnings

import pytest

from queuepool import Pool, PoolTimeout, Reason
from tests.helpers import (PATIENCE, FakeResource, PlainResource, awaitWaiting, checkClosed,
                           checkWhole, runTogether, start)


def makePool(world, capacity=1, kind=PlainResource, **options):
    return Pool("p", capacity, factory=lambda name: kind(name, world), **options)


@pytest.fixture
def told():
    """Collect the warnings: one raised as an error in a weak reference's callback is lost."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        yield told


def takeAndDrop(pool):
    pool.take(timeout=0)


def test_dropped_slot_is_filled_anew_with_a_factory(world, told):
    pool = makePool(world)
    takeAndDrop(pool)
    assert world.live == 0
    stats = pool.stats()
    assert stats.taken == 0 and stats.idle == 1
    assert stats.closesByReason[Reason.DROPPED] == 1
    assert [warning.category for warning in told] == [ResourceWarning]
    checkWhole(pool, world)
    checkClosed(pool)


def test_dropped_slot_is_free_for_seeding_without_a_factory(world, told, caplog):
    pool = Pool("p", 2)
    pool.put(PlainResource("a", world))
    pool.put(PlainResource("b", world))
    takeAndDrop(pool)
    assert pool.stats().idle == 1
    assert not caplog.records  # the collector does not log
    pool.put(PlainResource("c", world))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "'b'" in caplog.text and "put another" in caplog.text
    checkWhole(pool, world)
    checkClosed(pool)


def test_dropped_names_pool_and_resource(world, told):
    pool = makePool(world)
    takeAndDrop(pool)
    message = str(told[0].message)
    assert "pool 'p'" in message and "'p-0'" in message
    assert "takeAndDrop" not in message


@pytest.mark.parametrize("kind", [PlainResource, FakeResource])
def test_dropped_tells_the_stack_of_its_take_with_leak_trace(world, told, kind):
    pool = makePool(world, kind=kind, leakTrace=True)
    with pool.take():
        pass
    takeAndDrop(pool)
    message = str(told[0].message)
    assert "in takeAndDrop" in message
    assert "pool.take(timeout=0)" in message


def test_dropped_in_a_with_block_that_reassigns_is_put_back(world, told):
    pool = makePool(world)
    with pool.take() as resource:
        resource = None  # the with statement has its own reference
    assert resource is None
    assert not told
    checkWhole(pool, world)


def test_dropped_in_a_cycle_comes_back_when_it_is_collected(world, told):
    pool = makePool(world)
    resource = pool.take()
    resource.itself = resource
    del resource
    gc.collect()
    assert pool.stats().idle == 1
    assert len(told) == 1
    checkWhole(pool, world)


def test_dropped_wakes_who_waits(world, told):
    pool = makePool(world)
    taken = [pool.take()]
    waiting = start(pool.take)
    awaitWaiting(pool, 1)
    taken.clear()
    pool.put(waiting.result())
    assert len(told) == 1
    checkWhole(pool)


def test_dropped_wakes_who_waits_without_a_factory_when_another_is_put(world, told):
    pool = Pool("p", 1)
    pool.put(PlainResource("a", world))
    taken = [pool.take()]
    waiting = start(pool.take)
    awaitWaiting(pool, 1)
    taken.clear()
    pool.put(PlainResource("b", world))
    resource = waiting.result()
    assert resource.name == "b"
    pool.put(resource)
    checkWhole(pool)


def test_dropped_after_close_lets_the_close_end(world, told):
    pool = makePool(world)
    taken = [pool.take()]
    assert pool.close() == 1
    closing = start(pool.close, PATIENCE)
    taken.clear()
    assert closing.result() == 0
    assert len(told) == 1
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
def test_collections_in_the_middle_of_take_and_put(world, told, kind):
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
        gc.unfreeze()
    gc.collect()
    assert pool.stats().closesByReason[Reason.DROPPED] == 5 * 50
    checkWhole(pool, world)
    checkClosed(pool)


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
    assert "came back after 8.0 s" in reports[1].getMessage()
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
