"""Programs that use a pool wrongly in ways that look right. Each error says what to do."""

import gc

import pytest

from queuepool import Pool, PoolClosed, PoolError, PoolTimeout, Resource
from tests.helpers import PATIENCE, FakeResource, awaitWaiting, checkClosed, checkWhole, start
from tests.reports.situations import CostlyWorld, poolOf, warningsIn


class Line(Resource):
    """Opens something that has a method of its own, and hands that out."""

    class Connection:
        def cursor(self):
            return "cursor"

    def open(self):
        self.resource = Line.Connection()
        self.handOut(self.resource)
        super().open()

    def close(self):
        self.resource = None
        super().close()


class WithoutInit(Line):
    def __init__(self, name):
        self.name = name


# -- subclasses


@pytest.mark.parametrize("way", ["put", "take", "warm", "recycle"])
def test_an_init_that_does_not_call_its_super_is_told(way, caplog):
    pool = Pool("p", 1, factory=None if way == "put" else WithoutInit, minOpen=1)
    if way == "recycle":
        pool.recycle()
        assert "super().__init__(name)" in caplog.text
    else:
        with pytest.raises(PoolError, match=r"WithoutInit.__init__ .*super\(\).__init__\(name\)"):
            pool.put(WithoutInit("a")) if way == "put" else getattr(pool, way)()
    assert pool.stats().idle == (0 if way == "put" else 1)
    if way == "put":
        pool.put(Line("b"))
    assert pool.close() == 0


def test_one_whose_init_did_not_call_its_super_can_be_dropped():
    WithoutInit("a")  # what its finalizer raised would be an error here
    gc.collect()


def test_an_open_that_does_not_call_its_super_is_told(isSeeded):
    class Forgetful(Line):
        def __init__(self, name, world):
            super().__init__(name)

        def open(self):
            self.resource = object()

    pool = poolOf(1, Forgetful, None, isSeeded)
    with pytest.raises(PoolError, match=r"Forgetful.open\(\) of '.*super\(\).open\(\)"):
        pool.take()
    assert pool.stats().idle == 1


def test_a_close_that_does_not_call_its_super_counts_as_closed(isSeeded):
    class Forgetful(Line):
        def __init__(self, name, world):
            super().__init__(name)

        def close(self):
            self.resource = None

    pool = poolOf(1, Forgetful, None, isSeeded)
    pool.put(pool.take())
    pool.invalidate()
    checkWhole(pool)
    checkClosed(pool)


@pytest.mark.parametrize("result", ["None", "a class", "the same", "one of a pool"])
def test_a_factory_that_returns_no_new_resource_is_told(result):
    other = Pool("other", 1, factory=Line)
    same = Line("same")
    results = {"None": None, "a class": Line, "the same": same, "one of a pool": other.take()}
    pool = Pool("p", 2, factory=lambda name: results[result])
    if result == "the same":
        first = pool.take()
        assert first is same
    with pytest.raises(PoolError, match="factory has to return a new Resource each time"):
        pool.take()
    assert pool.stats().taken == (result == "the same")
    assert pool.stats().idle == (1 if result == "the same" else 2)


# -- what is put


@pytest.mark.parametrize("isTaken", [True, False])
def test_a_connection_that_is_put_instead_of_its_resource_is_accepted_once(isTaken, isSeeded):
    class Named(Line):
        def __init__(self, name, world):
            super().__init__(name)

    pool = poolOf(1, Named, None, isSeeded)
    resource = pool.take()
    conn = resource.resource
    pool.put(conn if isTaken else resource)
    with pytest.raises(PoolError, match=f"'{resource.name}' is idle in the pool, not checked out"):
        pool.put(conn)
    checkWhole(pool)


@pytest.mark.parametrize("twice", ["put put", "put with", "with put", "with with"])
def test_one_that_is_returned_twice_is_told(twice, kind, isSeeded, world):
    def giveBack(way):
        if way == "put":
            pool.put(taken[0])
        else:
            taken[0].__exit__(None, None, None)

    pool = poolOf(2, kind, world, isSeeded)
    taken = [pool.take()]
    first, second = twice.split()
    giveBack(first)
    for _ in range(2):
        with pytest.raises(PoolError, match="already returned .put twice"):
            giveBack(second)
    checkWhole(pool, world)


def test_a_put_inside_its_own_with_block_is_told_unless_the_block_raises(
        kind, isSeeded, world, caplog):
    pool = poolOf(1, kind, world, isSeeded)
    with pytest.raises(PoolError, match="put twice"):
        with pool.take() as resource:
            pool.put(resource)
    with pytest.raises(KeyError):
        with pool.take() as resource:
            pool.put(resource)
            raise KeyError
    assert "put twice" in warningsIn(caplog)[-1]
    del resource
    checkWhole(pool, world)


def test_one_of_another_pool_is_told_where_it_belongs(kind, isSeeded, world):
    pool = poolOf(1, kind, world, isSeeded)
    other = Pool("other", 1)
    resource = pool.take()
    with pytest.raises(PoolError, match="belongs to pool 'p', where it is checked out; put it "
                                        "back there"):
        other.put(resource)
    pool.put(resource)
    with pytest.raises(PoolError, match="belongs to pool 'p', where it is idle"):
        other.put(resource)
    assert other.stats().idle == 0
    checkWhole(pool, world)


def test_one_more_than_the_capacity_is_told(kind, isSeeded, world):
    pool = poolOf(1, kind, world, isSeeded)
    with pool.take():
        with pytest.raises(PoolError, match=r"all 1 resources of its capacity; 'new' .*resize"):
            pool.put(kind("new", world))
    checkWhole(pool, world)


def test_a_new_one_outside_a_pool_is_told_at_the_end_of_its_with_block(kind, world):
    with pytest.raises(PoolError, match="'a' is in no pool"):
        with kind("a", world):
            pass
    with pytest.raises(KeyError):
        with kind("a", world):
            raise KeyError


# -- used as if it were the connection


def test_a_take_without_with_used_as_the_connection_is_told():
    resource = Pool("p", 1, factory=Line).take()
    with pytest.raises(AttributeError, match="with pool.take") as caught:
        resource.cursor()
    assert "'Line'" in str(caught.value) and "cursor" in str(caught.value)
    assert not hasattr(resource, "cursor") and getattr(resource, "cursor", 7) == 7


def test_an_attribute_that_the_connection_has_not_is_told_as_usual():
    resource = Pool("p", 1, factory=Line).take()
    with pytest.raises(AttributeError, match="no attribute 'cursr'"):
        resource.cursr


def test_a_pool_used_as_the_connection_is_told():
    with Pool("p", 1, factory=Line) as conn:
        with pytest.raises(AttributeError, match="with pool.take") as caught:
            conn.cursor()
        assert "'Pool'" in str(caught.value) and "cursor" in str(caught.value)
        assert not hasattr(conn, "cursor")
    assert conn.closed


# -- an empty pool


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_an_empty_pool_without_a_factory_says_what_is_missing(timeout):
    pool = Pool("p", 3)
    with pytest.raises(PoolTimeout, match="nothing was put into the pool yet, and it has no "
                                          "factory"):
        pool.take(timeout)


def test_who_waits_for_ever_on_an_empty_pool_is_told_in_the_log(caplog, kind, world):
    pool = Pool("p", 3)
    waiting = start(pool.take, PATIENCE)
    awaitWaiting(pool, 1)
    assert "no factory" in warningsIn(caplog)[0]
    pool.put(kind("a", world))
    pool.put(waiting.result())


def test_a_pool_that_has_a_factory_or_members_does_not_say_so(kind, isSeeded, world):
    pool = poolOf(1, kind, world, isSeeded)
    with pool.take():
        with pytest.raises(PoolTimeout) as caught:
            pool.take(timeout=0)
    assert "factory" not in str(caught.value)


# -- a closed pool


def test_each_call_on_a_closed_pool_says_that_it_is_closed(kind, isSeeded, world):
    with poolOf(1, kind, world, isSeeded) as pool:
        pass
    for call in (pool.take, pool.warm, pool.startRecycler, lambda: pool.resize(2),
                 lambda: pool.put(kind("new", world))):
        with pytest.raises(PoolClosed, match="pool 'p' is closed: close.. was called, or"):
            call()
    pool.recycle()
    pool.stopRecycler()
    assert pool.invalidate() == 0
    assert pool.close() == 0
    assert pool.stats().open == 0
    assert "closed" in repr(pool)


def test_what_was_taken_before_may_be_put_after_the_close(giveBack, kind, isSeeded, world):
    pool = poolOf(2, kind, world, isSeeded)
    resource, other = pool.take(), pool.take()
    assert pool.close() == 2
    giveBack(resource)
    assert world.live == 1
    with pytest.raises(PoolError):
        pool.put(resource)
    pool.put(other)
    assert pool.close() == 0 == world.live


def test_a_dropped_one_of_a_closed_pool_is_told_no_advice_that_does_not_help(
        kind, isSeeded, world, caplog):
    pool = poolOf(2, kind, world, isSeeded)
    box = [pool.take()]
    pool.take()  # dropped before the close
    pool.close()
    box.clear()
    pool.recycle()
    assert pool.close() == 0
    for line in warningsIn(caplog):
        assert "another" not in line and "room for" not in line


@pytest.mark.parametrize("call", ["take", "put", "close"])
def test_an_error_of_misuse_changes_nothing(call, isSeeded):
    world = CostlyWorld()
    pool = poolOf(2, FakeResource, world, isSeeded)
    resource = pool.take()
    before = pool.stats()
    with pytest.raises((PoolError, ValueError)):
        if call == "take":
            pool.take(timeout=-1)
        elif call == "put":
            pool.put(object())
        else:
            pool.close(timeout="now")
    assert pool.stats() == before
    pool.put(resource)
    del resource
    checkWhole(pool, world)
    checkClosed(pool, world)
