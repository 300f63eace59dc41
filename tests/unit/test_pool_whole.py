"""The whole pool: its making, closing, invalidating, resizing, and what it says of itself."""

import inspect
import logging
import subprocess
import sys
import threading

import pytest

from queuepool import Pool, PoolClosed, PoolError, Reason, Resource
from tests.helpers import (FakeResource, Gate, PlainResource, awaitTrue, awaitWaiting, checkClosed,
                           checkWhole, runTogether, start)

KINDS = pytest.mark.parametrize("kind", [PlainResource, FakeResource])


def poolOf(count, world=None, kind=PlainResource, **options):
    return Pool("p", count, factory=lambda name: kind(name, world), **options)


def seeded(names, world=None, kind=PlainResource, **options):
    pool = Pool("p", len(names), **options)
    for name in names:
        pool.put(kind(name, world))
    return pool


def closesOf(pool):
    return {reason: count for reason, count in pool.stats().closesByReason.items() if count}


def openAll(pool):
    """Open all; return them, the first deepest."""
    taken = [pool.take(timeout=0) for _ in range(pool.capacity)]
    for resource in taken:
        pool.put(resource)
    return taken


def namesOf(pool):
    """Return the names in the order in which the pool hands them out."""
    taken = [pool.take(timeout=0) for _ in range(pool.stats().idle)]
    for resource in reversed(taken):
        pool.put(resource)
    return [resource.name for resource in taken]


# -- arguments


@pytest.mark.parametrize("options, message", [
    ({"capacity": 0}, "capacity is a whole number from 1 up, not 0"),
    ({"capacity": -1}, "capacity is a whole number from 1 up, not -1"),
    ({"capacity": 1.0}, "capacity is a whole number from 1 up, not 1.0"),
    ({"capacity": True}, "capacity is a whole number from 1 up, not True"),
    ({"capacity": "1"}, "capacity is a whole number from 1 up, not '1'"),
    ({"minOpen": -1}, "minOpen is a whole number from 0 up, not -1"),
    ({"minOpen": 4}, "minOpen is 4, more than the capacity, 3"),
    ({"maxUsageCount": 0}, "maxUsageCount is a whole number from 1 up, not 0"),
    ({"maxUsageCount": 1.5}, "maxUsageCount is a whole number from 1 up, not 1.5"),
    ({"jitter": -0.1}, "jitter is a fraction from 0 to 1, not -0.1"),
    ({"jitter": 1.1}, "jitter is a fraction from 0 to 1, not 1.1"),
    ({"jitter": float("nan")}, "jitter is a fraction from 0 to 1, not nan"),
    *[({name: value}, f"{name} is None or a number of seconds from 0 up, not {value!r}")
      for name in ("maxIdleTime", "maxOpenTime", "takeTimeout", "leakTime", "openRetryTime")
      for value in (-1, "1", True, float("nan"))],
    ({"closeOnException": 42},
     "closeOnException is True, False, exception classes, or a callable, not 42"),
    ({"closeOnException": "yes"},
     "closeOnException is True, False, exception classes, or a callable, not 'yes'"),
])
def test_senseless_arguments_are_refused(options, message):
    with pytest.raises(ValueError) as caught:
        Pool("p", **{"capacity": 3, **options})
    assert str(caught.value) == message


def test_infinite_times_are_no_limit(clock):
    endless = float("inf")
    pool = poolOf(1, maxIdleTime=endless, maxOpenTime=endless, takeTimeout=endless,
                  leakTime=endless, clock=clock)
    (resource,) = openAll(pool)
    clock.advance(1e15)
    pool.recycle()
    assert resource.isOpen and pool.takeTimeout is None and pool.leakTime is None


def test_what_is_new_is_keyword_only():
    parameters = inspect.signature(Pool).parameters.values()
    new = [parameter.name for parameter in parameters
           if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    assert new[:4] == ["factory", "minOpen", "jitter", "takeTimeout"] and new[-1] == "clock"
    with pytest.raises(TypeError):
        Pool("p", 1, 300.0, 300.0, 1000, True, PlainResource)


def test_the_pool_is_generic_in_its_resource():
    pool = Pool[PlainResource]("p", 1, factory=PlainResource)
    assert type(pool) is Pool
    checkWhole(pool)


# -- factory


def test_the_factory_builds_all_slots_at_once_and_opens_none(world):
    names = []

    def build(name):
        names.append(name)
        return PlainResource(name, world)

    pool = Pool("p", 3, factory=build)
    assert sorted(names) == ["p-0", "p-1", "p-2"]
    assert (pool.stats().idle, pool.stats().open, world.opened) == (3, 0, 0)
    assert namesOf(pool) == ["p-0", "p-1", "p-2"]
    assert len(names) == 3


def test_a_factory_that_fails_at_once_is_seen_at_once():
    with pytest.raises(ZeroDivisionError):
        Pool("p", 1, factory=lambda name: 1 / 0)


def test_a_factory_has_to_return_a_resource():
    with pytest.raises(PoolError) as caught:
        Pool("p", 1, factory=str.upper)
    assert str(caught.value) == (
        "pool 'p': the factory has to return a new Resource each time; for 'p-0' it returned "
        "'P-0'")


def test_a_factory_has_to_return_a_new_one_each_time():
    same = Resource("same")
    with pytest.raises(PoolError, match="has to return a new Resource each time; for 'p-0' it"):
        Pool("p", 2, factory=lambda name: same)


class AllEqual(PlainResource):
    def __eq__(self, other):
        return True


IS_NO_MEMBER = (
    "pool 'p': 'a' cannot be kept: resources are told apart by identity, and AllEqual defines "
    "__eq__; remove it (for a dataclass: eq=False)")


def test_what_compares_by_more_than_identity_is_not_put(world):
    pool = Pool("p", 1)
    with pytest.raises(PoolError) as caught:
        pool.put(AllEqual("a", world))
    assert str(caught.value) == IS_NO_MEMBER
    pool.put(PlainResource("b", world))
    checkWhole(pool, world)


def test_what_compares_by_more_than_identity_is_not_built(world):
    kinds = [PlainResource, AllEqual, PlainResource]
    pool = Pool("p", 1, factory=lambda name: kinds.pop(0)("a", world))
    pool.resize(2)
    with pytest.raises(PoolError) as caught:
        pool.take()
    assert str(caught.value) == IS_NO_MEMBER
    checkWhole(pool, world)


def test_a_factory_that_fails_later_loses_no_slot():
    errors = []

    def build(name):
        if errors:
            raise errors.pop()
        return PlainResource(name)

    pool = Pool("p", 1, factory=build)
    with pool.take():
        pool.resize(2)
        errors.append(OSError("no more"))
        with pytest.raises(OSError, match="no more"):
            pool.take(timeout=0)
        assert (pool.stats().idle, pool.stats().taken) == (1, 1)
    checkWhole(pool)


def test_what_the_factory_returns_open_has_its_limits_too(world, clock):
    def build(name):
        resource = PlainResource(name, world)
        resource.open()
        return resource

    pool = Pool("p", 1, factory=build, clock=clock)
    with pool.take() as resource:
        pass
    assert (resource.age, pool.stats().open, pool.stats().opens) == (0.0, 1, 1)
    clock.advance(301)
    pool.recycle()
    assert world.live == 0
    checkClosed(pool, world)


# -- closing


def test_close_closes_what_is_idle_and_tells_how_many_are_out(world):
    pool = poolOf(3, world)
    openAll(pool)
    with pool.take() as resource:
        assert not pool.closed
        assert pool.close() == 1
        assert pool.closed and world.live == 1 and resource.isOpen
    assert world.live == 0
    assert pool.close() == 0
    assert closesOf(pool) == {Reason.POOL_CLOSED: 3}
    assert (pool.stats().idle, pool.stats().open, pool.stats().taken) == (0, 0, 0)


@KINDS
def test_what_comes_back_to_a_closed_pool_is_closed_without_an_error(kind, world):
    pool = poolOf(2, world, kind)
    first, second = pool.take(), pool.take()
    assert pool.close() == 2
    pool.put(first)
    assert world.live == 1
    with second:
        pass
    checkClosed(pool, world)


def test_what_comes_back_to_a_closed_pool_is_repaired_and_then_closed():
    pool = poolOf(1, kind=FakeResource)
    with pool.take() as resource:
        pool.close()
    assert resource.calls == ["takeRepair", "open", "putRepair", "close"]


def test_close_tells_every_waiter_before_it_closes_anything(world):
    gate = Gate()
    pool = poolOf(2, world, FakeResource)
    openAll(pool)
    with pool.take():
        idle = pool.take()
        idle.script["close"] = [gate]
        waiter = start(pool.take)
        awaitWaiting(pool, 1)
        serve, pool._queue.serve = pool._queue.serve, lambda: None
        pool.put(idle)  # it lies there, nobody is served yet
        closing = start(pool.close)
        gate.awaitArrival()
        with pytest.raises(PoolClosed):
            waiter.result()
        gate.open()
        assert closing.result() == 1
        pool._queue.serve = serve
    checkClosed(pool, world)


def test_close_waits_for_what_is_out_as_long_as_it_is_told(world):
    pool = poolOf(1, world)
    resource = pool.take()
    assert pool.close(timeout=0) == 1
    assert pool.close(timeout=0.01) == 1
    closing = [start(pool.close, None), start(lambda: pool.close(timeout=30))]
    awaitTrue(lambda: all(running.thread.is_alive() for running in closing))
    pool.put(resource)
    assert [running.result() for running in closing] == [0, 0]
    assert pool.close(None) == 0


def test_close_does_not_wait_by_default():
    assert inspect.signature(Pool.close).parameters["timeout"].default == 0.0


def test_close_of_a_pool_that_has_nothing_ends_at_once():
    assert Pool("p", 3).close(timeout=None) == 0


@pytest.mark.parametrize("timeout", [-1, "1", float("nan")])
def test_close_refuses_a_senseless_time_out_and_does_nothing(timeout):
    pool = poolOf(1)
    with pytest.raises(ValueError):
        pool.close(timeout)
    assert not pool.closed


def test_two_may_close_at_once(world):
    pool = poolOf(4, world)
    openAll(pool)
    assert runTogether(pool.close, pool.close) in ([0, 0], [0, 1], [1, 0])
    checkClosed(pool, world)


def test_close_goes_on_though_closes_fail(world, caplog):
    pool = poolOf(3, world, FakeResource)
    for resource in openAll(pool):
        resource.script["close"] = [OSError]
    assert pool.close() == 0
    assert (world.live, pool.stats().closeErrors, len(caplog.messages)) == (0, 3, 3)
    checkClosed(pool, world)


def test_a_close_that_is_interrupted_can_be_called_again(world):
    pool = poolOf(3, world, FakeResource)
    openAll(pool)[2].script["close"] = [KeyboardInterrupt]
    with pytest.raises(KeyboardInterrupt):
        pool.close()
    checkClosed(pool, world)


def test_the_with_statement_of_a_pool_closes_it(world):
    with poolOf(2, world) as pool:
        openAll(pool)
    assert pool.closed and world.live == 0


def test_the_with_statement_of_a_pool_does_not_swallow_exceptions(world):
    with pytest.raises(ZeroDivisionError), poolOf(2, world) as pool, pool.take():
        1 / 0
    assert pool.closed and world.live == 0
    assert closesOf(pool) == {Reason.EXCEPTION: 1}


def test_nothing_but_looking_is_possible_with_a_closed_pool(world):
    pool = poolOf(2, world)
    pool.close()
    for call in pool.take, lambda: pool.resize(3), pool.startRecycler:
        with pytest.raises(PoolClosed, match="^pool 'p' is closed$"):
            call()
    pool.stopRecycler()
    pool.invalidate()
    pool.recycle()
    assert (pool.capacity, pool.stats().capacity, pool.stats().waiting) == (2, 2, 0)
    assert world.opened == 0


def test_close_ends_the_recycler():
    pool = poolOf(1)
    pool.startRecycler(3600)
    thread = pool._recycler["thread"]
    pool.close()
    awaitTrue(lambda: not thread.isAlive)


# -- invalidate


@KINDS
def test_invalidate_closes_what_is_idle_at_once_and_what_is_out_when_it_comes_back(kind, world):
    pool = poolOf(3, world, kind)
    openAll(pool)
    with pool.take() as resource:
        pool.invalidate()
        assert world.live == 1 and resource.isOpen
    assert world.live == 0
    assert closesOf(pool) == {Reason.INVALIDATED: 3}
    checkWhole(pool, world)


def test_what_is_opened_after_invalidate_is_kept(world):
    pool = poolOf(2, world)
    openAll(pool)
    pool.invalidate()
    openAll(pool)
    with pool.take():
        pass
    pool.recycle()
    assert (world.live, world.opened) == (2, 4)


@KINDS
def test_what_is_opening_while_it_is_invalidated_is_used_once(kind, world):
    gate = Gate()
    pool = poolOf(1, world, Opening if kind is PlainResource else FakeResource)
    resource = pool._queue.pick()
    if kind is PlainResource:
        resource.before = gate
    else:
        resource.script["open"] = [gate]
    pool._queue.put(resource)
    taker = start(pool.take)
    gate.awaitArrival()
    pool.invalidate()
    gate.open()
    assert taker.result() is resource and resource.isOpen
    pool.put(resource)
    assert closesOf(pool) == {Reason.INVALIDATED: 1}
    checkWhole(pool, world)


class Opening(PlainResource):
    """Do what is set before it opens."""

    before = None

    def open(self):
        before, self.before = self.before, None
        if before is not None:
            before()
        super().open()


def test_what_comes_to_lie_just_after_invalidate_is_closed_at_take(world):
    pool = poolOf(1, world)
    openAll(pool)
    queue = pool._queue
    held = queue.pick()
    pool.invalidate()
    queue.layDown(held)  # its put was past the look when invalidate was called
    with pool.take():
        assert world.opened == 2
    assert closesOf(pool) == {Reason.INVALIDATED: 1}


def test_invalidate_of_closed_ones_does_nothing(world):
    pool = poolOf(2, world, FakeResource)
    pool.invalidate()
    assert (world.opened, world.closed) == (0, 0)
    checkWhole(pool, world)


# -- resize


def test_growing_with_a_factory_gives_more(world):
    pool = poolOf(1, world)
    with pool.take():
        pool.resize(3)
        assert (pool.capacity, pool.stats().idle) == (3, 2)
        with pool.take() as second, pool.take() as third:
            assert {second.name, third.name} == {"p-1", "p-2"}
    checkWhole(pool, world)


def test_growing_with_a_factory_builds_when_it_is_taken():
    names = []

    def build(name):
        names.append(name)
        return PlainResource(name)

    pool = Pool("p", 1, factory=build)
    pool.resize(5)
    assert names == ["p-0"]
    checkWhole(pool)
    assert len(names) == 5


def test_growing_fills_the_names_that_are_free():
    pool = poolOf(3)
    with pool.take() as first, pool.take():
        assert first.name == "p-0"
        pool.resize(2)  # p-2 goes
        pool.resize(4)
    assert sorted(namesOf(pool)) == ["p-0", "p-1", "p-2", "p-3"]


def test_growing_without_a_factory_makes_room_to_seed(world):
    pool = seeded("a", world)
    pool.resize(2)
    assert (pool.capacity, pool.stats().idle) == (2, 1)
    pool.put(PlainResource("b", world))
    with pytest.raises(PoolError):
        pool.put(PlainResource("c", world))
    checkWhole(pool, world)


def test_who_waits_profits_of_growing_at_once():
    pool = poolOf(1)
    with pool.take():
        takers = [start(pool.take) for _ in range(3)]
        awaitWaiting(pool, 3)
        pool.resize(3)
        taken = [taker for taker in takers[:2] if taker.result()]
        awaitWaiting(pool, 1)
    third = takers[2].result()
    for resource in [taker.result() for taker in taken] + [third]:
        pool.put(resource)
    checkWhole(pool)


def test_shrinking_lets_closed_ones_go_first_and_closes_nothing(world):
    pool = seeded("abcd", world)
    with pool.take(), pool.take():
        pass
    pool.resize(2)
    assert (world.live, world.closed, pool.stats().idle) == (2, 0, 2)
    assert sorted(namesOf(pool)) == ["c", "d"]
    checkWhole(pool, world)


def test_shrinking_then_lets_the_longest_idle_go(world):
    pool = seeded("abcd", world)
    openAll(pool)  # d lies deepest
    with pool.take() as taken:
        assert taken.name == "a"
        pool.resize(2)
        assert closesOf(pool) == {Reason.SHRUNK: 2}
        assert namesOf(pool) == ["b"]
    checkWhole(pool, world)


@KINDS
def test_what_is_out_goes_when_it_comes_back(kind, world):
    pool = poolOf(3, world, kind)
    taken = [pool.take() for _ in range(3)]
    pool.resize(1)
    assert (pool.capacity, pool.stats().taken, world.live) == (1, 3, 3)
    pool.put(taken[0])
    pool.put(taken[1])
    assert (world.live, pool.stats().idle) == (1, 0)
    pool.put(taken[2])
    assert (world.live, pool.stats().idle) == (1, 1)
    assert closesOf(pool) == {Reason.SHRUNK: 2}
    checkWhole(pool, world)


def test_shrinking_and_growing_while_all_are_out_loses_none(world):
    pool = seeded("ab", world)
    with pool.take(), pool.take():
        pool.resize(1)
        pool.resize(2)
    assert world.closed == 0
    checkWhole(pool, world)


def test_a_shrink_while_two_are_opening_is_not_lost(world):
    gates = [Gate(), Gate()]
    pool = Pool("p", 2)
    for gate in gates:
        resource = Opening("r", world)
        resource.before = gate
        pool.put(resource)
    takers = [start(pool.take), start(pool.take)]
    for gate in gates:
        gate.awaitArrival()
    pool.resize(1)
    for gate in gates:
        gate.open()
    for resource in [taker.result() for taker in takers]:
        pool.put(resource)
    assert pool.stats().idle == 1
    checkWhole(pool, world)


def test_a_shrink_in_the_middle_of_two_puts_is_not_lost(world):
    """Both puts are past their look at the limits when it shrinks."""

    class Telling(PlainResource):
        """Tell, once, when somebody asks whether it is open."""

        asked = None
        flag = False

        @property
        def _isOpen(self):
            asked, self.asked = self.asked, None
            if asked is not None:
                asked()
            return self.flag

        @_isOpen.setter
        def _isOpen(self, value):
            self.flag = value

    pool = poolOf(2, world, Telling)
    openAll(pool)
    first, second = pool.take(), pool.take()
    first.asked = lambda: pool.put(second)
    second.asked = lambda: pool.resize(1)
    pool.put(first)
    for _ in range(2):
        with pool.take():
            pass
    checkWhole(pool, world)


def test_a_shrink_just_before_one_lies_down_is_not_lost(world):
    pool = poolOf(2, world, FakeResource)
    openAll(pool)
    with pool.take():
        layDown = pool._queue.layDown

        def shrinkBefore(resource):
            pool._queue.layDown = layDown
            pool.resize(1)  # it finds nothing that is idle
            layDown(resource)

        with pool.take():
            pool._queue.layDown = shrinkBefore
        assert pool.stats().idle == 0
    checkWhole(pool, world)


def test_growing_again_just_before_one_goes_keeps_it(world):
    pool = seeded("ab", world)
    with pool.take(), pool.take():
        pool.resize(1)
        dismiss = pool._queue.dismiss

        def growBefore(resource, onlySurplus=False):
            pool._queue.dismiss = dismiss
            pool.resize(2)
            return dismiss(resource, onlySurplus)

        pool._queue.dismiss = growBefore
    assert closesOf(pool) == {}
    checkWhole(pool, world)


def test_what_fills_a_used_slot_counts_from_zero(world):
    pool = seeded("ab", world)
    openAll(pool)
    pool.resize(1)
    pool.resize(2)
    resource = PlainResource("c", world)
    pool.put(resource)
    assert (resource.usageCount, resource.age, resource.idleTime) == (0, None, None)
    assert repr(resource) == "<PlainResource 'c' closed, used 0 times>"


def test_shrinking_keeps_who_waits_in_line_for_what_is_left(world):
    pool = poolOf(2, world)
    first, second = pool.take(), pool.take()
    waiter = start(pool.take)
    awaitWaiting(pool, 1)
    pool.resize(1)
    pool.put(first)
    assert pool.stats().waiting == 1
    pool.put(second)
    assert waiter.result() is second
    pool.put(second)
    checkWhole(pool, world)


def test_shrinking_below_min_open_keeps_as_many_as_there_are(world):
    pool = poolOf(3, world, minOpen=3)
    pool.recycle()
    pool.resize(1)
    pool.recycle()
    assert (world.live, world.opened) == (1, 3)


def test_growing_from_two_threads_at_once_admits_no_more_than_the_capacity():
    pool = poolOf(1)
    admit, both = pool._queue.admit, threading.Barrier(2)

    def admitTogether(slot, resource):
        both.wait(30)
        admit(slot, resource)

    pool._queue.admit = admitTogether
    runTogether(lambda: pool.resize(2), lambda: pool.resize(2))
    assert pool.stats().idle == 2
    checkWhole(pool)


@pytest.mark.parametrize("capacity", [0, -1, 1.5, True, None])
def test_resize_refuses_senseless_capacities_and_does_nothing(capacity):
    pool = poolOf(2)
    with pytest.raises(ValueError, match="capacity is a whole number from 1 up, not"):
        pool.resize(capacity)
    assert pool.capacity == 2


def test_the_capacity_is_changed_by_resize_only():
    with pytest.raises(AttributeError):
        poolOf(1).capacity = 2


# -- what it says


def test_its_string_is_its_name():
    assert str(poolOf(1)) == "p"


def test_its_representation_says_how_it_stands():
    pool = poolOf(3)
    with pool.take():
        assert repr(pool) == "<Pool 'p': capacity 3, taken 1, idle 2, waiting 0>"
    pool.close()
    assert repr(pool) == "<Pool 'p': capacity 3, taken 0, idle 0, waiting 0, closed>"

    class Mine(Pool):
        pass

    assert repr(Mine("m", 1)) == "<Mine 'm': capacity 1, taken 0, idle 0, waiting 0>"


def test_openings_and_closings_are_logged_with_their_reason(caplog, clock):
    caplog.set_level(logging.DEBUG, "queuepool")
    pool = poolOf(1, kind=Opening, clock=clock)
    resource = pool._queue.pick()
    resource.before = lambda: clock.advance(1.25)
    pool._queue.put(resource)
    with pool.take():
        pass
    clock.advance(301)
    pool.recycle()
    assert [(record.name, record.levelname, record.message) for record in caplog.records] == [
        ("queuepool", "DEBUG", "pool p: opened 'p-0' in 1.250 s"),
        ("queuepool", "DEBUG", "pool p: closed 'p-0': age")]


@pytest.mark.parametrize("name", ["50%d", "%", "{0}", "a\nb"])
def test_any_name_can_be_logged(name, caplog, capsys):
    caplog.set_level(logging.DEBUG, "queuepool")
    pool = Pool(name, 1, factory=lambda name: FakeResource(name, close=[OSError]))
    with pool.take():
        pool.close()
    assert len(caplog.messages) == 3
    assert all(message.startswith(f"pool {name}: ") for message in caplog.messages)
    assert capsys.readouterr().err == ""


def test_a_logging_that_fails_is_not_the_pools_failure(monkeypatch, world):
    class Failing(logging.Handler):
        def emit(self, record):
            raise ZeroDivisionError

    handler = Failing(logging.DEBUG)
    logger = logging.getLogger("queuepool")
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logger, "level", logging.DEBUG)
    logger.manager._clear_cache()
    try:
        pool = poolOf(1, world, maxUsageCount=1)
        with pool.take():
            pass
        checkWhole(pool, world)
        checkClosed(pool, world)
    finally:
        monkeypatch.undo()
        logger.manager._clear_cache()


def test_a_program_without_logging_sees_nothing():
    program = """if True:
        import queuepool
        class Failing(queuepool.Resource):
            def open(self):
                super().open()
            def close(self):
                raise OSError
        pool = queuepool.Pool("p", 1, factory=Failing)
        with pool.take():
            pass
        pool.close()
        assert pool.stats().closeErrors == 1
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                          timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_importing_the_package_loads_no_driver():
    program = """if True:
        import sys, queuepool
        drivers = {"psycopg2", "smtplib", "queuepool.psycopg2", "queuepool.smtp"}
        assert not drivers & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
