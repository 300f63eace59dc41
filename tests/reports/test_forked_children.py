"""What a child process does with the resources of its parent, in less usual pools."""

import os

import pytest

from queuepool import Pool, Resource
from tests.helpers import inChild

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


class Noting(Resource):
    """A resource that notes which hook ran in which process."""

    def __init__(self, name):
        super().__init__(name)
        self.hooks = []

    def open(self):
        self.resource = os.getpid()
        super().open()

    def close(self):
        self.hooks.append(("close", os.getpid()))
        self.resource = None
        super().close()

    def abandon(self):
        self.hooks.append(("abandon", os.getpid()))
        super().abandon()


class OwnPut(Pool):
    """A pool with a put of its own."""

    def put(self, resource):
        super().put(resource)


class Equal(Pool):
    """A pool that is equal to all others, and has no hash."""

    __hash__ = None

    def __eq__(self, other):
        return True


@pytest.mark.parametrize("kind", [Pool, OwnPut])
def test_an_exception_in_the_childs_with_block_closes_nothing_of_the_parent(kind):
    def leaveByException():
        try:
            with resource:
                raise KeyError
        except KeyError:
            assert resource.hooks == [("abandon", os.getpid())]

    pool = kind("p", 1, factory=Noting)
    resource = pool.take()
    assert inChild(leaveByException)
    pool.put(resource)
    assert resource.hooks == [] and resource.isOpen


def test_each_of_several_equal_pools_starts_afresh():
    def opensItsOwn():
        assert all(pool.take(timeout=0).resource == os.getpid() for pool in pools)

    pools = [Equal(name, 1, factory=Noting) for name in "abc"]
    for pool in pools:
        pool.put(pool.take())
    assert inChild(opensItsOwn)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_what_lay_dropped_during_the_fork_can_be_dropped_again_in_the_child(clock):
    def dropAndTake():
        for _ in range(3):
            pool.take(timeout=0)  # dropped at once
        assert pool.take(timeout=0).resource == os.getpid()

    pool = Pool("p", 1, clock=clock)  # that a child is slow does not matter
    pool.put(Noting("a"))
    pool.take()  # dropped, and not brought back yet
    assert inChild(dropAndTake)
    dropAndTake()
