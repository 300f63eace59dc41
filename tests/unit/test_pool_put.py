"""put and the with statement: what comes back, what is refused, and whose exception is seen."""

import threading

import pytest

from queuepool import Pool, PoolClosed, PoolError, Reason, Resource
from tests.helpers import (FakeResource, Gate, PlainResource, awaitWaiting, checkClosed, checkWhole,
                           runTogether, start)

KINDS = pytest.mark.parametrize("kind", [PlainResource, FakeResource])


def seeded(*resources, **options):
    pool = Pool("p", len(resources), **options)
    for resource in resources:
        pool.put(resource)
        if isinstance(resource, FakeResource):
            resource.calls.clear()
    return pool


def closesOf(pool):
    return {reason: count for reason, count in pool.stats().closesByReason.items() if count}


# -- giving back


@KINDS
def test_what_is_put_is_idle_and_still_open(kind, world):
    pool = seeded(kind("a", world))
    resource = pool.take()
    pool.put(resource)
    assert resource.isOpen
    checkWhole(pool, world)
    assert (world.opened, world.closed) == (1, 0)


def test_it_may_be_put_by_another_thread_than_took_it():
    pool = seeded(PlainResource("a"))
    resource = start(pool.take).result()
    pool.put(resource)
    checkWhole(pool)


def test_put_goes_to_the_first_who_waits():
    pool = seeded(PlainResource("a"))
    resource = pool.take()
    waiter = start(pool.take)
    awaitWaiting(pool, 1)
    pool.put(resource)
    assert waiter.result() is resource
    pool.put(resource)


def test_put_repair_runs_in_the_thread_that_puts_before_anyone_else_gets_it():
    gate = Gate()
    threads = []
    resource = FakeResource("a")
    pool = seeded(resource)
    pool.take()
    resource.script["putRepair"] = [lambda: threads.append(threading.current_thread()), gate]
    pool.put(resource)
    assert threads == [threading.current_thread()]
    pool.take()
    putting = start(pool.put, resource)
    gate.awaitArrival()
    assert (pool.stats().idle, pool.stats().taken) == (0, 0)
    with pytest.raises(TimeoutError):
        pool.take(timeout=0)
    gate.open()
    putting.result()
    checkWhole(pool, resource.world)


def test_put_repair_may_close_it(world):
    resource = FakeResource("a", world, putRepair=[None])
    pool = seeded(resource)
    pool.take()
    resource.script["putRepair"] = [resource.close]
    pool.put(resource)
    assert closesOf(pool) == {Reason.REPAIR: 1}
    assert not resource.isOpen
    checkWhole(pool, world)


def test_put_repair_is_called_closed_or_not():
    resource = FakeResource("a")
    pool = seeded(resource, maxUsageCount=1)
    pool.put(pool.take())
    assert resource.calls == ["takeRepair", "open", "close", "putRepair"]


def test_put_repair_may_open_it_again(world):
    class Ready(FakeResource):
        def putRepair(self):
            if self._pool.stats().takes and not self.isOpen:
                self.open()

    pool = seeded(Ready("a", world), maxUsageCount=1)
    for _ in range(2):
        with pool.take() as resource:
            pass
        assert resource.isOpen and pool.stats().open == 1
    assert (resource.usageCount, pool.stats().opens, pool.stats().closes) == (0, 3, 2)
    checkClosed(pool, world)


def test_what_its_user_closed_is_opened_at_the_next_take(world):
    pool = seeded(PlainResource("a", world))
    with pool.take() as resource:
        resource.close()
    assert closesOf(pool) == {Reason.USER: 1}
    with pool.take() as resource:
        assert resource.isOpen
    checkClosed(pool, world)


def test_what_its_user_closed_and_opened_is_closed_like_any_other(world):
    pool = seeded(PlainResource("a", world))
    with pool.take() as resource:
        resource.close()
        resource.open()
    assert (resource.isOpen, world.live) == (True, 1)
    checkClosed(pool, world)


# -- failures


@pytest.mark.parametrize("isWith", [True, False])
def test_put_does_not_raise_what_put_repair_raises(isWith, world, caplog):
    resource = FakeResource("a", world)
    pool = seeded(resource)
    resource.script["putRepair"] = [ValueError("rollback")]
    if isWith:
        with pool.take():
            pass
    else:
        pool.put(pool.take())
    assert not resource.isOpen and closesOf(pool) == {Reason.REPAIR: 1}
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("queuepool", "WARNING")
    assert record.message == "pool p: putRepair of 'a' failed; it is closed"
    assert str(record.exc_info[1]) == "rollback"
    checkWhole(pool, world)


@pytest.mark.parametrize("isWith", [True, False])
def test_put_does_not_raise_what_close_raises(isWith, world, caplog):
    resource = FakeResource("a", world, close=[ValueError("close")])
    pool = seeded(resource, maxUsageCount=1)
    if isWith:
        with pool.take():
            pass
    else:
        pool.put(pool.take())
    stats = pool.stats()
    assert (stats.closes, stats.closeErrors) == (1, 1)
    assert closesOf(pool) == {Reason.USAGE: 1}
    assert caplog.messages == ["pool p: close of 'a' failed; it counts as closed"]
    checkWhole(pool, world)


def test_put_does_not_raise_though_both_hooks_fail(world, caplog):
    resource = FakeResource("a", world, close=[OSError])
    pool = seeded(resource)
    resource.script["putRepair"] = [ValueError]
    pool.put(pool.take())
    assert caplog.messages == ["pool p: putRepair of 'a' failed; it is closed",
                               "pool p: close of 'a' failed; it counts as closed"]
    checkWhole(pool, world)


@pytest.mark.parametrize("hook", ["putRepair", "close"])
def test_an_interruption_of_a_hook_is_raised_with_the_slot_back(hook, world):
    resource = FakeResource("a", world)
    pool = seeded(resource, maxUsageCount=1 if hook == "close" else None)
    resource.script[hook] = [KeyboardInterrupt]
    with pytest.raises(KeyboardInterrupt):
        pool.put(pool.take())
    assert not resource.isOpen and world.live == 0
    checkWhole(pool, world)


def test_a_waiter_is_served_though_put_repair_fails(world):
    resource = FakeResource("a", world)
    pool = seeded(resource)
    pool.take()
    waiter = start(pool.take)
    awaitWaiting(pool, 1)
    resource.script["putRepair"] = [OSError]
    pool.put(resource)
    assert waiter.result() is resource and resource.isOpen
    pool.put(resource)


def test_the_users_exception_wins_over_those_of_the_hooks(world, caplog):
    resource = FakeResource("a", world, close=[OSError("close")])
    pool = seeded(resource)
    resource.script["putRepair"] = [ValueError("putRepair")]
    error = KeyError("the user's")
    with pytest.raises(KeyError) as caught, pool.take():
        raise error
    assert caught.value is error and error.__context__ is None
    assert len(caplog.messages) == 2
    checkWhole(pool, world)


def test_the_users_exception_wins_over_misuse(caplog):
    pool = seeded(PlainResource("a"))
    with pytest.raises(ZeroDivisionError), pool.take() as resource:
        pool.put(resource)
        1 / 0
    (message,) = caplog.messages
    assert message.startswith("pool p: 'a' cannot be put, it is not taken but idle")
    checkWhole(pool)


# -- closeOnException


class Special(KeyError):
    pass


@pytest.mark.parametrize("rule, error, closes", [
    (True, KeyError, True),
    (True, KeyboardInterrupt, True),
    (True, GeneratorExit, True),
    (False, KeyError, False),
    (False, KeyboardInterrupt, False),
    (KeyError, Special, True),
    (KeyError, ValueError, False),
    (BaseException, KeyboardInterrupt, True),
    ((), KeyError, False),
    ((ValueError, LookupError), Special, True),
    ((ValueError, LookupError), OSError, False),
    (lambda error: type(error) is Special, Special, True),
    (lambda error: type(error) is Special, KeyError, False),
])
@KINDS
def test_close_on_exception_says_which_exceptions_close(kind, rule, error, closes, world):
    pool = seeded(kind("a", world), closeOnException=rule)
    with pytest.raises(error), pool.take() as resource:
        raise error
    assert resource.isOpen is not closes
    assert closesOf(pool) == ({Reason.EXCEPTION: 1} if closes else {})
    checkWhole(pool, world)


def test_close_on_exception_is_asked_with_the_exception_itself():
    asked = []
    pool = seeded(PlainResource("a"), closeOnException=asked.append)
    error = KeyError("this one")
    with pytest.raises(KeyError), pool.take() as resource:
        raise error
    assert asked == [error] and resource.isOpen  # append returns None
    with pool.take():
        pass
    assert asked == [error]


@pytest.mark.parametrize("rule", [lambda error: 1 / 0, ("no class",)])
def test_a_close_on_exception_that_fails_closes(rule, caplog):
    pool = seeded(PlainResource("a"))
    pool.closeOnException = rule
    with pytest.raises(KeyError), pool.take() as resource:
        raise KeyError
    assert not resource.isOpen
    assert caplog.messages == ["pool p: closeOnException failed; the resource is closed"]


def test_close_on_exception_may_be_changed_at_any_time():
    pool = seeded(PlainResource("a"))
    for pool.closeOnException in False, True:
        with pytest.raises(KeyError), pool.take() as resource:
            raise KeyError
        assert resource.isOpen is not pool.closeOnException


def test_what_is_closed_on_an_exception_is_closed_before_put_repair():
    resource = FakeResource("a")
    pool = seeded(resource)
    with pytest.raises(KeyError), pool.take():
        raise KeyError
    assert resource.calls == ["takeRepair", "open", "close", "putRepair"]


def test_what_the_user_closed_before_the_exception_is_closed_once(world):
    pool = seeded(PlainResource("a", world))
    with pytest.raises(KeyError), pool.take() as resource:
        resource.close()
        raise KeyError
    assert closesOf(pool) == {Reason.EXCEPTION: 1}
    checkWhole(pool, world)


# -- misuse


def test_putting_what_lies_in_the_pool_is_refused(world):
    pool = seeded(PlainResource("a", world))
    with pool.take() as resource:
        pass
    with pytest.raises(PoolError) as caught:
        pool.put(resource)
    assert str(caught.value) == (
        "pool 'p': 'a' cannot be put, it is not taken but idle: it lies in the pool. Put back "
        "what was taken once, and do not use it afterwards")
    checkWhole(pool, world)


def test_putting_twice_at_the_end_of_a_with_block_is_refused():
    pool = seeded(PlainResource("a"))
    with pytest.raises(PoolError, match="not taken but idle"), pool.take() as resource:
        pool.put(resource)
    checkWhole(pool)


def test_putting_in_a_hook_is_refused(caplog):
    resource = FakeResource("a")
    pool = seeded(resource)
    resource.script["takeRepair"] = [lambda: pool.put(resource)]
    with pytest.raises(PoolError) as caught:
        pool.take()
    assert str(caught.value) == (
        "pool 'p': 'a' cannot be put, it is not taken but held: a call of the pool is running "
        "its hooks. Put back what was taken once, and do not use it afterwards")
    resource.script["putRepair"] = [lambda: pool.put(resource)]
    pool.put(pool.take())
    assert caplog.messages == ["pool p: putRepair of 'a' failed; it is closed"]
    checkWhole(pool, resource.world)


def test_putting_what_left_the_pool_is_refused():
    pool = seeded(PlainResource("a"))
    with pool.take() as resource:
        pool.close()
    with pytest.raises(PoolError) as caught:
        pool.put(resource)
    assert str(caught.value) == (
        "pool 'p': 'a' cannot be put, it is not taken but gone: it left the pool for good, or "
        "never was in it. Put back what was taken once, and do not use it afterwards")


def test_putting_what_another_pool_has_is_refused_and_changes_nothing(world):
    pool = seeded(PlainResource("a", world))
    other = Pool("other", 5)
    resource = pool.take()
    with pytest.raises(PoolError) as caught:
        other.put(resource)
    assert str(caught.value) == (
        "pool 'other': 'a' belongs to pool 'p', where it is taken: its user has it; put it back "
        "there")
    pool.put(resource)
    with pytest.raises(PoolError, match="'a' belongs to pool 'p', where it is idle: it lies in"):
        other.put(resource)
    assert other.stats().idle == 0
    checkWhole(pool, world)


@pytest.mark.parametrize("nonsense", [None, 42, "a", object()])
def test_putting_what_is_no_resource_is_refused(nonsense):
    pool = Pool("p", 1)
    with pytest.raises(PoolError) as caught:
        pool.put(nonsense)
    assert str(caught.value) == f"pool 'p': only a Resource can be put, not {nonsense!r}"
    assert pool.stats().idle == 0


@pytest.mark.parametrize("isHooked", [True, False])
def test_of_two_who_put_the_same_one_at_once_only_one_succeeds(isHooked, world):
    """Both are let go at the last call that comes before either claims it."""
    both = threading.Barrier(2)

    def clock():
        if resource is not None and resource._slot.takenAt is not None:
            both.wait(30)
        return 1.0

    resource = None
    pool = seeded((FakeResource if isHooked else PlainResource)("a", world), maxUsageCount=1,
                  clock=clock)
    resource = pool.take()

    def put():
        try:
            pool.put(resource)
            return "put"
        except PoolError:
            return "refused"

    assert sorted(runTogether(put, put)) == ["put", "refused"]
    assert not both.broken
    resource = None
    checkWhole(pool, world)


# -- seeding


def test_seeding_fills_the_pool_and_the_last_is_taken_first():
    a, b, c = [PlainResource(name) for name in "abc"]
    pool = seeded(a, b, c)
    assert (pool.stats().idle, pool.stats().open) == (3, 0)
    with pool.take() as first, pool.take() as second, pool.take() as third:
        assert [first, second, third] == [c, b, a]


def test_seeding_runs_put_repair_and_opens_nothing():
    resource = FakeResource("a")
    Pool("p", 1).put(resource)
    assert resource.calls == ["putRepair"]


def test_seeding_survives_a_failing_put_repair(caplog):
    resource = FakeResource("a", putRepair=[ValueError])
    pool = Pool("p", 1)
    pool.put(resource)
    assert caplog.messages == ["pool p: putRepair of 'a' failed; it is closed"]
    checkWhole(pool, resource.world)


def test_one_more_than_the_capacity_is_refused_and_does_not_hang():
    pool = seeded(Resource("a"), Resource("b"))
    extra = Resource("c")
    with pool.take() as taken:
        with pytest.raises(PoolError) as caught:
            pool.put(extra)  # that one is out makes no room
        assert taken.name == "b"
    assert str(caught.value) == (
        "pool 'p': 'c' was not put: it already has all 2 resources of its capacity")
    assert extra._pool is None
    checkWhole(pool)


def test_a_pool_with_a_factory_has_no_room_to_seed():
    pool = Pool("p", 1, factory=PlainResource)
    with pytest.raises(PoolError, match="it already has all 1 resources of its capacity"):
        pool.put(PlainResource("mine"))
    checkWhole(pool)


def test_seeding_serves_who_waits():
    pool = Pool("p", 1)
    waiter = start(pool.take)
    awaitWaiting(pool, 1)
    resource = PlainResource("a")
    pool.put(resource)
    assert waiter.result() is resource
    pool.put(resource)


def test_what_is_seeded_open_is_used_as_it_is_and_has_its_limits(world, clock):
    resource = PlainResource("a", world)
    resource.open()
    pool = seeded(resource, clock=clock)
    stats = pool.stats()
    assert (stats.open, stats.opens) == (1, 1)
    clock.advance(299)
    with pool.take():
        assert (world.opened, resource.age) == (1, 299.0)
    clock.advance(2)
    with pool.take():
        assert world.opened == 2
    assert closesOf(pool) == {Reason.AGE: 1}


def test_a_closed_pool_is_not_seeded():
    pool = Pool("p", 1)
    pool.close()
    resource = Resource("a")
    with pytest.raises(PoolClosed, match="pool 'p' is closed"):
        pool.put(resource)
    assert resource._pool is None


def test_one_seeded_while_the_pool_is_closed_does_not_stay(world):
    resource = FakeResource("a", world)
    resource.open()
    pool = Pool("p", 1)
    resource.script["putRepair"] = [pool.close]
    pool.put(resource)
    assert not resource.isOpen and world.live == 0
    assert pool.close() == 0


def test_what_left_one_pool_may_be_seeded_into_another():
    resource = PlainResource("a")
    pool = seeded(resource)
    pool.close()
    other = seeded(resource)
    with other.take() as taken:
        assert taken is resource
    checkWhole(other)
