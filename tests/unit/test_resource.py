"""The resource: what its public reads say at each moment of its life, and its with statement."""

import pytest

from queuepool import Pool, Resource, ResourceManager
from tests.helpers import FakeResource, PlainResource


@pytest.fixture
def pool(clock):
    return Pool("p", 1, factory=PlainResource, clock=clock)


def test_a_new_resource_is_closed_unused_and_has_no_age():
    resource = Resource("a")
    assert (resource.name, resource.resource, resource.isOpen) == ("a", None, False)
    assert (resource.usageCount, resource.age, resource.idleTime) == (0, None, None)
    assert resource._pool is None


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
    for name in "isOpen", "usageCount", "age", "idleTime":
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


def test_the_name_is_its_string():
    assert str(Resource("a")) == "a"


def test_its_representation_says_class_name_state_and_use(pool):
    with pool.take() as resource:
        assert repr(resource) == "<PlainResource 'p-0' open, used 1 times>"
    pool.invalidate()
    assert repr(resource) == "<PlainResource 'p-0' closed, used 1 times>"


def test_the_with_statement_hands_out_the_resource_and_gives_it_back(pool):
    taken = pool.take()
    with taken as resource:
        assert resource is taken
        assert pool.stats().taken == 1
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
