"""The resource: what its public reads say at each moment of its life, and its with statement."""

import contextlib
import copy
import gc
import pickle
from weakref import ref

import pytest

from queuepool import Pool, PoolError, Resource, ResourceManager
from tests.helpers import FakeResource, Handle, PlainResource


@pytest.fixture
def pool(clock):
    return Pool("p", 1, factory=PlainResource, clock=clock)


def test_a_new_resource_is_closed_unused_and_has_no_age():
    resource = Resource("a")
    assert (resource.name, resource.resource, resource.isOpen) == ("a", None, False)
    assert (resource.usageCount, resource.age, resource.idleTime) == (0, None, None)
    assert resource.pool is None


def test_open_and_close_of_the_base_class_change_its_state():
    resource = Resource("a")
    resource.open()
    assert resource.isOpen and resource._isOpen
    resource.close()
    assert not resource.isOpen and not resource._isOpen


def test_an_open_resource_that_no_pool_opened_has_no_age():
    resource = Resource("a")
    resource.open()
    assert (resource.age, resource.idleTime) == (None, None)


def test_the_repair_hooks_of_the_base_class_do_nothing():
    resource = Resource("a")
    resource.open()
    resource.resource = "it"
    assert resource.takeRepair() is None and resource.putRepair() is None
    assert resource.isOpen and resource.resource == "it"


def test_abandon_forgets_without_closing(world):
    resource = FakeResource("a", world)
    resource.open()
    resource.abandon()
    assert (resource.resource, resource.isOpen) == (None, False)
    assert (world.closed, resource.calls) == (0, ["open"])


def test_the_public_reads_cannot_be_written():
    for name in "isOpen", "usageCount", "age", "idleTime", "pool", "generation":
        with pytest.raises(AttributeError):
            setattr(Resource("a"), name, 1)


def test_usage_count_counts_the_takes_since_it_was_opened(pool):
    for count in 1, 2, 3:
        with pool.take() as resource:
            assert resource.usageCount == resource._usageCount == count
    pool.invalidate()
    assert resource.usageCount == 3
    with pool.take() as resource:
        assert resource.usageCount == 1


def test_age_counts_from_the_opening_whoever_has_it(pool, clock):
    with pool.take() as resource:
        assert resource.age == 0.0
        clock.advance(5)
        assert resource.age == 5.0
    clock.advance(2)
    assert resource.age == 7.0
    pool.invalidate()
    assert resource.age is None
    with pool.take() as resource:
        assert resource.age == 0.0


def test_age_counts_from_the_end_of_open(clock):
    pool = Pool("p", 1, factory=lambda name: FakeResource(name, open=[lambda: clock.advance(3)]),
                clock=clock)
    with pool.take() as resource:
        assert resource.age == resource.idleTime == 0.0


def test_idle_time_counts_from_the_last_put(pool, clock):
    with pool.take() as resource:
        clock.advance(5)
        assert resource.idleTime == 5.0  # not put back since it was opened
    assert resource.idleTime == 0.0
    clock.advance(2)
    assert resource.idleTime == 2.0
    with pool.take() as resource:
        assert resource.idleTime == 2.0
    pool.invalidate()
    assert resource.idleTime is None


def test_it_knows_its_pool_and_the_generation_that_it_was_opened_in(pool):
    generations = []
    for _ in range(2):
        with pool.take() as resource:
            assert resource.pool is pool and resource.generation is pool.generation
            generations.append(resource.generation)
        pool.invalidate()
        assert resource.generation is not pool.generation
    assert generations[0] is not generations[1]


def test_the_name_is_its_string():
    assert str(Resource("a")) == "a"


def test_its_representation_says_class_name_state_and_use(pool):
    with pool.take() as resource:
        assert repr(resource) == "<PlainResource 'p-0' open, used 1 times>"
    pool.invalidate()
    assert repr(resource) == "<PlainResource 'p-0' closed, used 1 times>"


class EnteredBySuper(PlainResource):
    """A resource with an ``__enter__`` of its own that calls the one of its base class."""

    def __enter__(self):
        return super().__enter__()


def enteredByWith(resource, body):
    with resource as target:
        body(target)


def enteredByExitStack(resource, body):
    with contextlib.ExitStack() as stack:
        body(stack.enter_context(resource))


def enteredByCall(resource, body):
    body(resource.__enter__())
    resource.__exit__(None, None, None)


@pytest.mark.parametrize("enter", [enteredByWith, enteredByExitStack, enteredByCall])
@pytest.mark.parametrize("kind", [PlainResource, FakeResource, EnteredBySuper])
def test_however_it_is_entered_it_hands_out_itself_and_is_returned(kind, enter):
    def body(target):
        assert target is taken
        assert pool.stats().taken == 1

    pool = Pool("p", 1, factory=kind)
    taken = pool.take()
    enter(taken, body)
    assert pool.stats().taken == 0


def test_a_subclass_may_hand_out_what_it_wraps(clock):
    class Wrapping(PlainResource):
        def __enter__(self):
            return self.resource

    pool = Pool("p", 1, factory=Wrapping, clock=clock)
    taken = pool.take()
    with taken as handle:
        assert handle is taken.resource
    assert pool.stats().taken == 0


@pytest.mark.parametrize("enter", [enteredByWith, enteredByExitStack, enteredByCall])
@pytest.mark.parametrize("opened", [Handle(), (1, 2), None], ids=["handle", "tuple", "None"])
def test_hand_out_tells_what_is_handed_out(opened, enter):
    class Handing(Resource):
        def open(self):
            self.resource = opened
            self.handOut(opened)
            super().open()

    targets = []
    pool = Pool("p", 1, factory=Handing)
    enter(pool.take(), targets.append)
    assert len(targets) == 1 and targets[0] is opened


def test_hand_out_does_not_keep_what_is_handed_out():
    resource = Resource("a")
    resource.resource = Handle()
    resource.handOut(resource.resource)
    handle = ref(resource.resource)
    resource.resource = None
    assert handle() is None


def test_a_resource_is_in_no_reference_cycle():
    """Else what was dropped would come back to the pool only with the garbage collector."""
    gc.disable()
    try:
        resource = Resource("a")
        weakly = ref(resource)
        del resource
        assert weakly() is None
    finally:
        gc.enable()


def test_what_is_in_no_pool_cannot_be_returned_to_one():
    with pytest.raises(PoolError, match="'a' is in no pool"), Resource("a"):
        pass
    with pytest.raises(ZeroDivisionError), Resource("a"):
        1 / 0


def test_the_with_statement_does_not_swallow_exceptions(pool):
    with pytest.raises(ZeroDivisionError), pool.take():
        1 / 0
    assert pool.take().__exit__(None, None, None) is None


def test_resource_manager_is_the_same_class():
    assert ResourceManager is Resource


def test_the_usage_count_of_1_3_2_may_be_set_by_an_open_that_does_all_itself(pool):
    with pool.take() as resource:
        resource._usageCount = 0
        assert resource.usageCount == 0
    with pool.take():
        assert resource.usageCount == 1
    alone = Resource("a")
    alone._usageCount = 5
    assert alone.usageCount == Resource("b").usageCount == 0


@pytest.mark.parametrize("attempt", [copy.copy, copy.deepcopy, pickle.dumps])
@pytest.mark.parametrize("kind", [Resource, PlainResource, FakeResource])
def test_it_cannot_be_copied_or_pickled(kind, attempt):
    with pytest.raises(TypeError, match=f"{kind.__name__} 'a' cannot be copied or pickled"):
        attempt(kind("a"))


# -- a finalizer of a subclass

class Finalized(PlainResource):
    """A resource with a finalizer, which notes the ends."""

    def __init__(self, name):
        super().__init__(name)
        self.ends = []

    def __del__(self):
        self.ends.append(self.name)


class FinalizedTwice(Finalized):
    """One that calls the finalizer of its base class, too."""

    def __del__(self):
        super().__del__()
        self.ends.append("own")


class Mixin:
    def __del__(self):
        self.ends.append(self.name)


class FinalizedByMixin(Mixin, Finalized):
    """One whose finalizer is not defined in a subclass of Resource."""


kinds = pytest.mark.parametrize("kind, ends", [
    (Finalized, ["p-0"]), (FinalizedTwice, ["p-0", "own"]), (FinalizedByMixin, ["p-0"])])


@kinds
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_finalizer_of_a_subclass_is_called_at_the_end_and_not_when_it_comes_back(kind, ends):
    pool = Pool("p", 1, factory=kind)
    noted = pool.take().ends  # the resource is dropped
    pool.recycle()
    with pool.take() as resource:
        assert resource.ends is noted and not noted
    del resource, pool
    gc.collect()
    assert noted == ends


@kinds
def test_it_is_called_for_what_leaves_the_pool_and_for_what_never_was_in_one(kind, ends):
    noted = kind("p-0").ends
    assert noted == ends
    with Pool("p", 1, factory=kind) as pool:
        with pool.take() as resource:
            noted = resource.ends
        del resource
    assert noted == ends


@kinds
def test_it_is_called_for_what_is_dropped_after_its_pool_was_closed(kind, ends):
    pool = Pool("p", 1, factory=kind)
    resource = pool.take()
    noted = resource.ends
    assert pool.close() == 1
    del resource
    assert noted == ends
    assert pool.close() == 0


def test_a_resource_whose_constructor_failed_ends_quietly():
    class Failing(Resource):
        def __init__(self, name):
            raise KeyError(name)

    with pytest.raises(KeyError):
        Failing("a")
    gc.collect()
