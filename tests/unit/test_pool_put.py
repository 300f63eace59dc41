"""put and the with statement: what is returned, what is refused, and whose exception is seen."""

import threading

import pytest

from queuepool import Pool, PoolClosed, PoolError, PoolTimeout, Reason, Resource
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


# -- returning


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
            if self.pool.stats().takes and not self.isOpen:
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
    assert record.message == (
        "pool p: putRepair of 'a' failed; it is closed [queuepool:hook-failed]")
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
    assert caplog.messages == [
        "pool p: close of 'a' failed; it counts as closed [queuepool:close-failed]"]
    checkWhole(pool, world)


def test_put_does_not_raise_though_both_hooks_fail(world, caplog):
    resource = FakeResource("a", world, close=[OSError])
    pool = seeded(resource)
    resource.script["putRepair"] = [ValueError]
    pool.put(pool.take())
    assert caplog.messages == [
        "pool p: putRepair of 'a' failed; it is closed [queuepool:hook-failed]",
        "pool p: close of 'a' failed; it counts as closed [queuepool:close-failed]"]
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


def test_one_who_waits_gets_it_though_put_repair_fails(world):
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
    assert message.startswith("pool p: 'a' is idle in the pool, not checked out: it was already")
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
    (None, KeyError, False),
    (0, KeyError, False),
    (1, KeyError, True),
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


class Odd:
    def __bool__(self):
        raise ValueError("ambiguous")


@pytest.mark.parametrize("rule", [lambda error: 1 / 0, lambda error: Odd(), ("no class",)])
def test_a_close_on_exception_that_fails_closes(rule, caplog):
    pool = seeded(PlainResource("a"))
    pool.closeOnException = rule
    with pytest.raises(KeyError), pool.take() as resource:
        raise KeyError
    assert not resource.isOpen
    assert caplog.messages == [
        "pool p: closeOnException failed; 'a' is closed [queuepool:hook-failed]"]


@pytest.mark.parametrize("rule", [True, BaseException, OSError, lambda error: True])
@KINDS
def test_the_pools_own_exceptions_close_nothing(kind, rule, world):
    """PoolTimeout is an OSError; but it tells nothing about what is checked out here."""
    pool = seeded(kind("a", world), closeOnException=rule)
    for error in PoolTimeout, PoolClosed, PoolError:
        with pytest.raises(error), pool.take() as resource:
            raise error
        assert resource.isOpen
    checkWhole(pool, world)


def test_what_fails_to_note_an_error_is_closed_or_not_all_the_same(world, caplog):
    class Blind(PlainResource):
        def noteError(self, error):
            raise OSError

    for rule in False, True:
        pool = seeded(Blind("a", world), closeOnException=rule)
        with pytest.raises(KeyError), pool.take() as resource:
            raise KeyError
        assert resource.isOpen is not rule
        assert caplog.messages[-1] == "pool p: noteError of 'a' failed [queuepool:hook-failed]"
        checkClosed(pool, world)


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
    assert closesOf(pool) == {Reason.USER: 1}
    checkWhole(pool, world)


# -- misuse


MISUSE = ("pool 'p': 'a' is {}, not checked out: it was already returned (put twice?). "
          "Return once what was taken, and do not use it afterwards [queuepool:put-twice]")


def test_putting_what_is_idle_is_refused(world):
    pool = seeded(PlainResource("a", world))
    with pool.take() as resource:
        pass
    with pytest.raises(PoolError) as caught:
        pool.put(resource)
    assert str(caught.value) == MISUSE.format("idle in the pool")
    checkWhole(pool, world)


def test_putting_twice_at_the_end_of_a_with_block_is_refused():
    pool = seeded(PlainResource("a"))
    with pytest.raises(PoolError, match="not checked out"), pool.take() as resource:
        pool.put(resource)
    checkWhole(pool)


def test_putting_in_a_hook_is_refused(caplog):
    resource = FakeResource("a")
    pool = seeded(resource)
    resource.script["takeRepair"] = [lambda: pool.put(resource)]
    with pytest.raises(PoolError) as caught:
        pool.take()
    assert str(caught.value) == MISUSE.format("in the hands of a pool call that runs its hooks")
    resource.script["putRepair"] = [lambda: pool.put(resource)]
    pool.put(pool.take())
    assert caplog.messages == [
        "pool p: putRepair of 'a' failed; it is closed [queuepool:hook-failed]"]
    checkWhole(pool, resource.world)


def test_putting_what_left_the_pool_is_like_putting_a_new_one(world):
    pool = seeded(PlainResource("a", world), PlainResource("b", world))
    resource, other = pool.take(), pool.take()
    pool.resize(1)
    pool.put(resource)
    pool.put(other)
    with pytest.raises(PoolError, match="pool 'p' already has all 1 resources of its capacity"):
        pool.put(resource)
    pool.resize(2)
    pool.put(resource)
    checkWhole(pool, world)
    pool.close()
    with pytest.raises(PoolClosed, match="^pool 'p' is closed: close.. was called, or"):
        pool.put(resource)


def test_putting_what_another_pool_has_is_refused_and_changes_nothing(world):
    pool = seeded(PlainResource("a", world))
    other = Pool("other", 5)
    resource = pool.take()
    with pytest.raises(PoolError) as caught:
        other.put(resource)
    assert str(caught.value) == (
        "pool 'other': 'a' belongs to pool 'p', where it is checked out; put it back there "
        "[queuepool:foreign]")
    pool.put(resource)
    with pytest.raises(PoolError, match="'a' belongs to pool 'p', where it is idle in the pool"):
        other.put(resource)
    assert other.stats().idle == 0
    checkWhole(pool, world)


@pytest.mark.parametrize("nonsense, what", [
    (None, "a value of type NoneType"), ("password", "a value of type str"), (42, "42")])
def test_putting_what_is_no_resource_is_refused(nonsense, what):
    pool = Pool("p", 1)
    with pytest.raises(PoolError) as caught:
        pool.put(nonsense)
    assert str(caught.value).startswith(
        f"pool 'p': only a Resource can be put, or what one of this pool has open, not {what}. Put "
        f"what take() returned")
    assert pool.stats().idle == 0


def test_what_a_resource_has_open_can_be_put_instead_of_it(world):
    pool = seeded(PlainResource("a", world), PlainResource("b", world))
    resource, other = pool.take(), pool.take()
    pool.put(resource.resource)
    assert pool.stats().taken == 1
    with pytest.raises(PoolError, match="'b' is idle in the pool.*put twice"):
        pool.put(resource.resource)
    pool.put(other.resource)
    with pool.take() as again:
        assert again is other
    checkWhole(pool, world)


def test_what_a_dropped_resource_had_open_cannot_be_put(world):
    pool = seeded(PlainResource("a", world))
    handle = pool.take().resource
    pool.put(handle)  # the resource came back already; it is closed before it is used again
    with pool.take() as resource:
        assert resource.resource is not handle
        with pytest.raises(PoolError, match=r"Put what take\(\) returned, and keep it until then"):
            pool.put(handle)
    checkWhole(pool, world)


def test_putting_what_forgot_its_super_init_says_so():
    class Forgetful(Resource):
        def __init__(self):
            self.name = "a"

    with pytest.raises(PoolError) as caught:
        Pool("p", 1).put(Forgetful())
    assert str(caught.value) == (
        "pool 'p': Forgetful.__init__ has to call super().__init__(name) [queuepool:no-super]")


def test_the_with_statement_of_a_resource_in_no_pool_says_so(world):
    with pytest.raises(PoolError, match="'loose' is in no pool"), PlainResource("loose", world):
        pass
    with pytest.raises(KeyError), PlainResource("loose", world):
        raise KeyError  # the user's own is the one to be seen


@pytest.mark.parametrize("isHooked", [True, False])
def test_of_two_who_put_the_same_one_at_once_only_one_succeeds(isHooked, world):
    """Both go on from the last call that comes before either changes its place."""
    both = threading.Barrier(2)
    hurdles = [both, both]

    def clock():
        if resource is not None and hurdles:
            hurdles.pop().wait(30)
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
    assert not hurdles and not both.broken
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
    assert caplog.messages == [
        "pool p: putRepair of 'a' failed; it is closed [queuepool:hook-failed]"]
    checkWhole(pool, resource.world)


def test_one_more_than_the_capacity_is_refused_and_does_not_hang():
    pool = seeded(Resource("a"), Resource("b"))
    extra = Resource("c")
    with pool.take() as taken:
        with pytest.raises(PoolError) as caught:
            pool.put(extra)  # that one is checked out makes no room
        assert taken.name == "b"
    assert str(caught.value) == (
        "pool 'p' already has all 2 resources of its capacity; 'c' was not put. Raise the "
        "capacity with resize() [queuepool:full]")
    assert extra.pool is None
    checkWhole(pool)


def test_a_pool_with_a_factory_may_be_seeded_while_there_is_room(world):
    pool = Pool("p", 2, factory=lambda name: PlainResource(name, world))
    mine = PlainResource("mine", world)
    pool.put(mine)
    with pool.take() as first, pool.take() as second:
        assert first is mine and second.name == "p-0"
        with pytest.raises(PoolError, match="already has all 2 resources of its capacity"):
            pool.put(PlainResource("extra"))
    checkWhole(pool, world)


class AllEqual(PlainResource):
    """Has no hash either."""

    def __eq__(self, other):
        raise AssertionError("compared")


def test_resources_are_told_apart_by_identity_whatever_their_class_defines(world, clock):
    resources = [AllEqual(name, world) for name in "abc"]
    pool = seeded(*resources, clock=clock)
    checkWhole(pool, world)
    with pool.take() as first, pool.take(), pool.take() as third:
        clock.advance(200)
        assert first is not resources[0] and third is resources[0]
    clock.advance(101)
    pool.recycle()
    assert world.live == 0
    with pool.take() as older:
        clock.advance(200)
        with pool.take():
            pass
    clock.advance(101)
    for _ in range(2):  # it was put last, so the first round may look at the other one
        pool.recycle()
    assert not older.isOpen and world.live == 1
    checkWhole(pool, world)
    pool.resize(1)
    checkClosed(pool, world)


def test_who_waits_gets_what_is_seeded():
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
    assert resource.pool is None


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


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_seeding_that_was_interrupted_can_be_done_again(error, world):
    def clock():
        if errors:
            raise errors.pop()
        return 1.0

    errors = [error]
    pool = Pool("p", 1, clock=clock)
    resource = PlainResource("a", world)
    with pytest.raises(error):
        pool.put(resource)
    assert resource.pool is None
    pool.put(resource)
    checkWhole(pool, world)


# -- the put of a subclass


class Noting(Pool):
    """Notes its puts, and whether the resource was open then."""

    def __init__(self, *args, **options):
        self.puts = []
        super().__init__(*args, **options)

    def put(self, resource):
        self.puts.append((resource, resource.isOpen))
        super().put(resource)


@pytest.mark.parametrize("rule, isOpen", [(True, False), (False, True), (OSError, True)])
@KINDS
def test_a_put_that_is_overridden_is_called_at_the_end_of_a_with_block(kind, rule, isOpen, world):
    pool = Noting("p", 1, closeOnException=rule)
    resource = kind("a", world)
    pool.put(resource)
    for _ in range(3):
        with pool.take():
            pass
    with pytest.raises(KeyError), pool.take():
        raise KeyError
    assert pool.puts == [(resource, False), *[(resource, True)] * 3, (resource, isOpen)]
    assert closesOf(pool) == ({} if isOpen else {Reason.EXCEPTION: 1})
    checkWhole(pool, world)


def test_a_put_that_is_not_overridden_is_not_called_at_the_end_of_a_with_block(world):
    class Other(Pool):
        """Overrides something else."""

        def take(self, timeout=None):
            return super().take(timeout)

    pool = Other("p", 1)
    pool.put(FakeResource("a", world))
    pool.put = None
    with pool.take():
        pass
    with pytest.raises(KeyError), pool.take():
        raise KeyError
    del pool.put
    checkWhole(pool, world)


@pytest.mark.parametrize("error", [None, KeyError])
def test_a_put_of_a_subclass_that_fails_loses_nothing(error, world, caplog):
    class Failing(Pool):
        def put(self, resource):
            super().put(resource)
            if resource.isOpen:
                raise OSError("mine")

    pool = Failing("p", 1, closeOnException=False)
    pool.put(PlainResource("a", world))
    with pytest.raises(error or OSError), pool.take():
        if error is not None:
            raise error
    if error is not None:
        assert caplog.messages == ["pool p: put of 'a' failed [queuepool:put-failed]"]
    assert pool.stats().idle == 1
    with pool.take(timeout=0) as resource:
        resource.close()  # so that the put does not fail
    assert pool.close() == 0


@pytest.mark.parametrize("error", [None, KeyError])
def test_what_a_put_of_a_subclass_did_not_put_is_taken_on(error, world, caplog):
    class Failing(Pool):
        def put(self, resource):
            if resource.isOpen:
                raise OSError("mine")
            super().put(resource)

    pool = Failing("p", 1, closeOnException=False)
    pool.put(PlainResource("a", world))
    with pytest.raises(error or OSError), pool.take():
        if error is not None:
            raise error
    stats = pool.stats()
    assert (stats.idle, stats.taken) == (1, 0)
    assert pool.close() == 0 and world.live == 0
