"""A fork as the child sees it: startAfresh is called in this process, in whatever moment."""

import threading

import pytest

from queuepool import Pool, PoolTimeout
from queuepool.core import fork
from tests.helpers import FakeResource, Gate, PlainResource, checkClosed, checkWhole, start


@pytest.fixture
def pool(world, clock):
    return Pool("p", 2, factory=lambda name: PlainResource(name, world), clock=clock)


@pytest.fixture
def seeded(world, clock):
    pool = Pool("p", 2, clock=clock)
    for name in "ab":
        pool.put(FakeResource(name, world))
    return pool


def recyclers():
    return [thread for thread in threading.enumerate() if thread.name == "queuepool recycler p"]


def test_what_is_idle_is_forgotten_and_not_closed(pool, world):
    with pool.take() as resource:
        pass
    pool.startAfresh()
    assert (resource.isOpen, resource.resource, resource.pool) == (False, None, None)
    stats = pool.stats()
    assert (stats.open, stats.opens, stats.takes, world.closed) == (0, 0, 0, 0)
    checkWhole(pool)


def test_a_pool_without_a_factory_is_seeded_with_the_same_resources(seeded, world):
    resources = {seeded.take(), seeded.take()}
    for resource in resources:
        seeded.put(resource)
        resource.calls.clear()
    seeded.startAfresh()
    assert all(resource.calls == ["putRepair"] for resource in resources)
    assert (world.closed, seeded.stats().open) == (0, 0)
    with seeded.take() as first, seeded.take() as second:
        assert {first, second} == resources
    checkWhole(seeded)


def test_what_this_thread_has_checked_out_may_still_be_put(seeded, world):
    resource = seeded.take()
    seeded.startAfresh()
    assert resource.isOpen and seeded.stats().idle == 1
    seeded.put(resource)
    assert not resource.isOpen and world.closed == 0
    checkWhole(seeded)


def test_what_this_thread_puts_the_short_way_is_noticed_as_the_parents(pool, world):
    for _ in range(2):
        with pool.take():
            pass
    with pool.take() as resource:
        pool.startAfresh()
    assert not resource.isOpen and world.closed == 0
    checkWhole(pool)


def test_what_another_thread_of_the_parent_took_may_be_put_too(pool, world):
    handedOver = start(pool.take).result()
    pool.startAfresh()
    assert handedOver.isOpen
    checkWhole(pool)
    pool.put(handedOver)
    assert not handedOver.isOpen and handedOver.pool is None
    checkWhole(pool)


def test_what_another_thread_has_checked_out_is_seeded_anew(seeded, world):
    resource = start(seeded.take).result()
    seeded.startAfresh()
    assert (seeded.stats().idle, resource.isOpen, world.closed) == (2, False, 0)
    checkWhole(seeded)


def test_what_a_put_of_another_threads_take_forks_in_is_forgotten_once(seeded, world):
    """Its hook forks in the thread that puts, which is not the one that took it."""
    resource = start(seeded.take).result()
    resource.script["putRepair"] = [seeded.startAfresh]
    seeded.put(resource)
    assert not resource.isOpen and world.closed == 0
    checkWhole(seeded)


def test_what_another_thread_was_putting_is_not_lost_to_the_child(world):
    gate = Gate()
    pool = Pool("p", 1)
    pool.put(FakeResource("a", world, putRepair=[None, gate]))
    resource = pool.take()
    putting = start(pool.put, resource)
    gate.awaitArrival()
    pool.startAfresh()
    assert pool.stats().idle == 1
    gate.open()
    putting.result()


def test_what_a_closed_pool_has_checked_out_is_forgotten_when_it_is_put(pool, world):
    resource = pool.take()
    pool.close()
    pool.startAfresh()
    assert pool.closed
    pool.put(resource)
    assert not resource.isOpen
    assert (world.closed, pool.stats().idle) == (0, 0)
    checkClosed(pool)


def test_it_is_forgotten_though_abandon_fails(world, caplog):
    class Clinging(PlainResource):
        def abandon(self):
            raise OSError("no")

    pool = Pool("p", 1, factory=lambda name: Clinging(name, world))
    with pool.take() as resource:
        pass
    pool.startAfresh()
    assert (resource.isOpen, resource.resource) == (False, None)
    assert caplog.messages == ["pool p: abandon of 'p-0' failed [queuepool:hook-failed]"]
    checkWhole(pool)


def test_the_child_does_not_inherit_an_outage(world, clock):
    errors = [OSError("refused")]

    def fail():
        if errors:
            raise errors.pop()

    pool = Pool("p", 1, openRetryTime=10.0, clock=clock,
                factory=lambda name: FakeResource(name, world, open=[fail]))
    with pytest.raises(PoolTimeout, match="reconnecting; the last attempt .* with OSError"):
        pool.take(timeout=0)
    with pytest.raises(PoolTimeout):
        pool.take(timeout=0)  # though there is no error any more, it is not tried yet
    pool.startAfresh()
    assert "reconnecting" not in repr(pool)
    checkWhole(pool, world)


@pytest.mark.parametrize("isSeeded", [False, True])
def test_an_open_hook_may_fork(isSeeded, pool, seeded, world):
    pool = seeded if isSeeded else pool
    forks, open_ = [pool], world.open
    world.open = lambda: forks and forks.pop().startAfresh() or open_()
    with pool.take():
        assert not forks
    checkWhole(pool)


@pytest.mark.parametrize("isSeeded", [False, True])
@pytest.mark.parametrize("hook", ["open", "takeRepair"])
def test_a_hook_may_fork_and_fail(hook, isSeeded, seeded, world):
    pool = seeded if isSeeded else Pool("p", 2, factory=lambda name: FakeResource(name, world))

    def forkAndFail():
        pool.startAfresh()
        raise OSError

    with pool.take() as resource:
        resource.close()
    resource.script[hook] = [forkAndFail]
    with pytest.raises(OSError):
        pool.take()
    checkWhole(pool)


@pytest.mark.parametrize("isSeeded", [False, True])
def test_a_close_hook_of_recycle_may_fork(isSeeded, pool, seeded, world, clock):
    pool = seeded if isSeeded else pool
    with pool.take():
        pass
    clock.advance(301)
    forks, close = [pool], world.close
    world.close = lambda handle: close(handle) or forks and forks.pop().startAfresh()
    pool.recycle()
    assert not forks
    checkWhole(pool)


@pytest.mark.parametrize("isSeeded", [False, True])
def test_a_close_hook_may_fork(isSeeded, pool, seeded, world, clock):
    pool = seeded if isSeeded else pool
    older = pool.take()
    clock.advance(200)
    pool.put(pool.take())
    pool.put(older)  # handed out next; it expires first
    clock.advance(101)
    forks, close = [pool], world.close
    world.close = lambda handle: close(handle) or forks and forks.pop().startAfresh()
    with pool.take() as resource:
        assert not forks and resource.isOpen
    checkWhole(pool)


@pytest.mark.parametrize("isSeeded", [False, True])
@pytest.mark.parametrize("hook", ["takeRepair", "putRepair"])
def test_a_repair_hook_may_fork(hook, isSeeded, seeded, world):
    pool = seeded if isSeeded else Pool("p", 2, factory=lambda name: FakeResource(name, world))
    with pool.take() as resource:
        pass
    resource.script[hook] = [pool.startAfresh]
    with pool.take():
        pass
    assert not resource.isOpen and world.closed == 0  # what it had open is the parent's
    checkWhole(pool)


def test_the_recycler_runs_in_the_child_if_it_ran(pool):
    pool.startAfresh()
    assert not recyclers()
    pool.startRecycler(1000.0)
    (parents,) = recyclers()
    pool.startAfresh()
    (childs,) = [thread for thread in recyclers() if thread is not parents]
    assert childs.daemon
    pool.close()


def test_a_pool_that_cannot_start_afresh_keeps_no_other_from_it(monkeypatch, caplog):
    started = []

    class Fake:
        def __init__(self, name):
            self.name = name

        def startAfresh(self):
            started.append(self.name)
            if self.name == "unfit":
                raise SystemExit

    fakes = [Fake("a"), Fake("unfit"), Fake("b")]
    monkeypatch.setattr(fork, "_pools", dict(enumerate(fakes)))
    fork._startAllAfresh()
    assert started == ["a", "unfit", "b"]
    assert caplog.messages == [
        "pool unfit: starting afresh in a child process failed [queuepool:fork-failed]"]
