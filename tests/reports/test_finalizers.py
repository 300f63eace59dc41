"""Finalizers that put, upkeep amid a collection, and objects that are finalized only once."""

import gc

import pytest

from queuepool import Pool, PoolTimeout
from tests.helpers import FakeResource, PlainResource, checkClosed, checkWhole
from tests.reports.situations import CostlyWorld

pytestmark = [pytest.mark.usefixtures("unrecorded"),
              pytest.mark.filterwarnings("ignore::ResourceWarning")]


class Session:
    """An object in a reference cycle that returns what it took when it is collected."""

    def __init__(self, pool):
        self.pool = pool
        self.resource = pool.take()
        self.itself = self

    def __del__(self):
        self.pool.put(self.resource)


@pytest.fixture
def world():
    """Give one whose account does not hang on weak references, which the collector clears."""
    return CostlyWorld()


@pytest.fixture(params=[PlainResource, FakeResource])
def pool(request, world):
    with Pool("p", 1, factory=lambda name: request.param(name, world)) as pool:
        yield pool


def collect():
    """Collect what is in cycles, until nothing is left."""
    while gc.collect():
        pass


def test_what_a_finalizer_returned_is_handed_out_whole(pool, world):
    Session(pool)
    collect()
    with pool.take(timeout=0) as resource:
        assert resource is not None and resource.isOpen
        for _ in range(2):
            pool.recycle()  # must not take what is checked out for lost
        with pytest.raises(PoolTimeout):
            pool.take(timeout=0)
    del resource
    checkWhole(pool, world)


def test_what_a_finalizer_returned_is_noticed_when_it_is_dropped(pool, world):
    for _ in range(3):
        Session(pool)
        collect()
        pool.take(timeout=0)  # dropped at once
        pool.put(pool.take(timeout=0))
    checkWhole(pool, world)


def test_a_generator_in_a_cycle_returns_what_it_took(pool, world):
    def rows(itself):
        with pool.take(timeout=0) as resource:
            itself.append(resource)
            yield

    for _ in range(3):
        cycle = []
        generator = rows(cycle)
        next(generator)
        cycle.append(generator)
        del generator, cycle
        collect()
    checkWhole(pool, world)


def test_upkeep_in_the_middle_of_a_collection_gives_nothing_up(world):
    """The collector has cleared the weak references to the resource, and not yet ended it."""
    class Keeper:
        def __del__(self):
            for _ in range(3):
                pool.recycle()

    pool = Pool("p", 1, factory=lambda name: PlainResource(name, world))
    for _ in range(3):
        keeper = Keeper()
        keeper.resource = pool.take(timeout=0)
        keeper.resource.keeper = keeper
        del keeper
        collect()
    checkWhole(pool, world)
    checkClosed(pool, world)


def test_a_twin_of_a_class_that_guards_its_attributes_takes_its_place(world):
    class Guarded(PlainResource):
        __slots__ = ("number",)

        def __init__(self, name, world):
            object.__setattr__(self, "number", 1)
            super().__init__(name, world)

        def __setattr__(self, name, value):
            if name == "number":
                raise AttributeError("number is read-only")
            super().__setattr__(name, value)

    pool = Pool("p", 1, factory=lambda name: Guarded(name, world))
    for _ in range(3):
        assert pool.take(timeout=0).number == 1
    checkWhole(pool, world)
