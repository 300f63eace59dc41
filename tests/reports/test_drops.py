"""Resources that their users dropped instead of returning them."""

import gc
import threading
import weakref

import pytest

from queuepool import Pool, PoolTimeout, Reason, Resource
from tests.helpers import (PATIENCE, FakeResource, Gate, PlainResource, World, awaitWaiting,
                           checkClosed, checkWhole, start)
from tests.reports.situations import CostlyWorld, openAll, poolOf, reasonsOf, takeAll


@pytest.fixture
def world():
    return CostlyWorld()


def forget(pool):
    pool.take()


def forgetInACycle(pool):
    class Program:
        pass

    program = Program()
    program.itself = program
    program.resource = pool.take()
    del program
    gc.collect()


def forgetInAThread(pool):
    start(lambda: forget(pool)).result()


def forgetByAnError(pool):
    def fail():
        resource = pool.take()
        raise KeyError(resource.name)

    try:
        fail()
    except KeyError:
        pass


def forgetAfterHandingOver(pool):
    box = [pool.take()]
    start(box.clear).result()


DROPS = [forget, forgetInACycle, forgetInAThread, forgetByAnError, forgetAfterHandingOver]

#: Each call that closes what was dropped. No take: it needs it only when nothing else is open.
UPKEEP = {
    "recycle": lambda pool: pool.recycle(),
    "resize": lambda pool: pool.resize(pool.capacity),
    "close": lambda pool: pool.close(),
}


@pytest.fixture(params=DROPS, ids=[drop.__name__ for drop in DROPS])
def drop(request):
    return request.param


def test_the_slot_comes_back_and_is_closed_before_it_is_filled(drop, kind, isSeeded):
    world = CostlyWorld()
    pool = poolOf(1, kind, world, isSeeded)
    for _ in range(5):
        drop(pool)
    with pool.take(timeout=0):
        assert world.peak == 1
    assert reasonsOf(pool) == {"DROPPED": 5}
    assert world.closed == 5  # by its own hook
    checkWhole(pool, world)
    checkClosed(pool, world)


def test_never_more_than_the_capacity_is_open(drop, kind, isSeeded):
    world = CostlyWorld()
    pool = poolOf(3, kind, world, isSeeded)
    openAll(pool)
    for _ in range(10):
        with pool.take(timeout=0), pool.take(timeout=0):
            drop(pool)
    assert world.peak == 3
    checkWhole(pool, world)


def test_a_seeded_pool_loses_no_member(drop, kind, world):
    pool = poolOf(3, kind, world, isSeeded=True)
    for _ in range(4):
        drop(pool)
        drop(pool)
        taken = takeAll(pool)
        assert sorted(resource.name for resource in taken) == ["s-0", "s-1", "s-2"]
        assert all(type(resource) is kind and resource.world is world for resource in taken)
        for resource in taken:
            pool.put(resource)
        del taken, resource
    checkWhole(pool, world)


@pytest.mark.parametrize("upkeep", sorted(UPKEEP))
def test_what_was_dropped_is_closed_at_the_next_upkeep(upkeep, drop, kind, isSeeded, world):
    pool = poolOf(3, kind, world, isSeeded)
    openAll(pool)
    drop(pool)
    UPKEEP[upkeep](pool)
    assert pool.stats().closesByReason[Reason.DROPPED] == 1
    assert pool.stats().taken == 0
    if upkeep != "close":
        assert world.live == 2
        checkWhole(pool, world)
    checkClosed(pool, world)


def test_who_waits_gets_what_was_dropped(kind, isSeeded, world):
    pool = poolOf(1, kind, world, isSeeded)
    resource = pool.take()
    waiting = start(pool.take, PATIENCE)
    awaitWaiting(pool, 1)
    del resource
    pool.put(waiting.result())
    del waiting
    assert reasonsOf(pool) == {"DROPPED": 1}
    checkWhole(pool, world)


def test_an_open_one_is_preferred_to_what_was_dropped(kind, isSeeded, world):
    pool = poolOf(2, kind, world, isSeeded)
    openAll(pool)
    forget(pool)
    with pool.take(timeout=0):
        assert world.closed == 0


def test_one_that_is_dropped_while_the_capacity_shrinks_leaves(drop, kind, isSeeded, world):
    pool = poolOf(2, kind, world, isSeeded)
    resource = pool.take()
    drop(pool)
    pool.resize(1)
    pool.put(resource)
    del resource
    pool.recycle()
    assert pool.stats().open <= 1
    checkWhole(pool, world)


def test_one_that_is_dropped_after_an_invalidate_is_not_handed_out(kind, isSeeded, world):
    pool = poolOf(1, kind, world, isSeeded)
    resource = pool.take()
    assert pool.invalidate() == 1
    del resource
    with pool.take(timeout=0) as resource:
        assert resource.generation is pool.generation
    assert world.opened == 2
    del resource
    checkWhole(pool, world)


def test_one_that_its_user_closed_and_dropped_is_not_closed_again(isSeeded, world):
    pool = poolOf(1, PlainResource, world, isSeeded)
    pool.take().close()
    with pool.take(timeout=0):
        pass
    assert reasonsOf(pool) == {"USER": 1}
    checkWhole(pool, world)


def test_a_close_that_fails_loses_no_slot(isSeeded, unrecorded):
    class Stuck(FakeResource):
        def close(self):
            raise OSError("stuck")

    pool = poolOf(2, Stuck, None, isSeeded)
    for _ in range(6):
        forget(pool)
    checkWhole(pool)
    assert pool.stats().closesByReason[Reason.DROPPED] == pool.stats().closeErrors >= 4


def test_a_dropped_one_that_cannot_be_opened_again_keeps_its_slot(kind, isSeeded, world):
    class Flaky(kind):
        def open(self):
            if isDown:
                raise OSError("down")
            super().open()

    isDown = []
    pool = poolOf(1, Flaky, world, isSeeded)
    forget(pool)
    isDown.append(True)
    for _ in range(3):
        with pytest.raises(OSError):
            pool.take(timeout=0)
    isDown.clear()
    checkWhole(pool, world)


def test_what_refers_to_it_weakly_or_by_its_attributes_sees_no_difference(world):
    """A twin shares the attributes: a list that somebody else holds stays the same list."""
    pool = poolOf(1, PlainResource, world, isSeeded=True)
    with pool.take() as resource:
        resource.notes = notes = ["first"]
    del resource
    forget(pool)
    with pool.take() as resource:
        assert resource.notes is notes


def test_slots_of_a_class_survive_as_well(world):
    class Slotted(PlainResource):
        __slots__ = ("host", "port")

        def __init__(self, name, world):
            super().__init__(name, world)
            self.host = "db"  # port is left unset

    pool = poolOf(1, Slotted, world, isSeeded=True)
    for _ in range(3):
        forget(pool)
        with pool.take(timeout=0) as resource:
            assert resource.host == "db"
            assert not hasattr(resource, "port")
        del resource
    checkWhole(pool, world)


def test_a_finalizer_of_the_class_is_called_once_at_the_end(world):
    class Final(PlainResource):
        def __del__(self):
            ended.append(self.name)

    ended = []
    pool = poolOf(1, Final, world, isSeeded=True)
    forget(pool)
    pool.recycle()
    assert ended in ([], ["s-0"])  # the object that was dropped may end; the member has not
    before = len(ended)
    with pool.take(timeout=0):
        pass
    pool.close()
    gc.collect()
    assert len(ended) == before + 1


def test_dropping_a_new_one_that_is_in_no_pool_does_nothing(kind):
    world = World()
    kind("a", world).open()
    assert world.live == 0


def test_a_dropped_one_of_a_closed_pool_is_no_member_any_more(kind, isSeeded):
    world = World()
    pool = poolOf(2, kind, world, isSeeded)
    openAll(pool)
    box = [pool.take()]
    assert pool.close() == 1
    box.clear()
    gc.collect()
    assert pool.close() == 0
    assert world.live == 0


# -- a dropped pool


@pytest.mark.parametrize("state", ["new", "open", "closed", "dropped", "recycled"])
def test_a_dropped_pool_is_collected_with_all_its_resources(state, kind, isSeeded):
    made = []

    class Noted(kind):
        def __init__(self, name, world):
            super().__init__(name, world)
            made.append(weakref.ref(self))

    world = World()
    pool = poolOf(3, Noted, world, isSeeded)
    if state != "new":
        openAll(pool)
    if state == "closed":
        pool.invalidate()
    if state in ("dropped", "recycled"):
        forget(pool)
    if state == "recycled":
        pool.recycle()
    end = weakref.ref(pool)
    del pool
    gc.collect()
    gc.collect()  # what was lying in the pool and came back once is found in the second run
    assert end() is None
    assert [resource() for resource in made if resource() is not None] == []
    assert world.live == 0


def test_a_dropped_pool_is_collected_though_its_recycler_runs(kind, isSeeded):
    world = World()
    pool = poolOf(2, kind, world, isSeeded)
    openAll(pool)
    before = threading.active_count()
    pool.startRecycler(3600)
    ended = threading.Event()
    weakref.finalize(pool, ended.set)
    del pool
    for _ in range(100):  # its first round may still refer to the pool
        gc.collect()
        if ended.wait(0.05):
            break
    assert ended.is_set()
    assert world.live == 0
    for thread in threading.enumerate():
        if thread.name == "queuepool recycler p":
            thread.join(PATIENCE)
    assert threading.active_count() <= before


def test_what_is_taken_keeps_its_pool(kind, isSeeded):
    world = World()
    pool = poolOf(1, kind, world, isSeeded)
    resource = pool.take()
    end = weakref.ref(pool)
    del pool
    gc.collect()
    resource.pool.put(resource)
    del resource
    gc.collect()
    gc.collect()
    assert end() is None
    assert world.live == 0


def test_dropping_the_pool_and_what_is_taken_at_once_ends_both(kind, isSeeded):
    world = World()
    box = {}
    box["pool"] = poolOf(2, kind, world, isSeeded)
    box["taken"] = takeAll(box["pool"])
    end = weakref.ref(box["pool"])
    box.clear()
    gc.collect()
    gc.collect()
    assert end() is None
    assert world.live == 0


# -- who cannot come back


def test_one_whose_class_only_c_code_can_make_leaves_and_makes_room(caplog):
    class Odd(Resource, Exception):
        def open(self):
            self.resource = object()
            super().open()

        def close(self):
            self.resource = None
            super().close()

    pool = Pool("p", 1, factory=Odd)
    for _ in range(3):
        forget(pool)
        with pool.take(timeout=0):
            pass
    assert "room for another" in caplog.text
    checkWhole(pool)


def test_one_in_a_cycle_is_not_given_up_while_its_close_runs(kind, isSeeded, world):
    """The collector clears weak references to it, though it came back."""
    gate = Gate()

    class Slow(kind):
        def close(self):
            if isSlow:
                gate()
            super().close()

    isSlow = [True]
    pool = poolOf(1, Slow, world, isSeeded)
    forgetInACycle(pool)
    taking = start(pool.take, PATIENCE)
    gate.awaitArrival()
    for _ in range(3):
        pool.recycle()
    isSlow.clear()
    gate.open()
    pool.put(taking.result())
    del taking
    assert world.peak == 1
    checkWhole(pool, world)


def test_a_drop_does_not_make_room_for_more_than_the_capacity(kind, world):
    pool = poolOf(1, kind, world, isSeeded=True)
    forget(pool)
    with pool.take(timeout=0):
        with pytest.raises(PoolTimeout):
            pool.take(timeout=0)
