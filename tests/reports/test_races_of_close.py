"""Calls that meet a close, a shrink or an invalidate in an unlucky instant."""

import sys
import threading
from pathlib import Path

import pytest

import queuepool
from queuepool import Pool, PoolClosed, PoolError, PoolTimeout, Reason
from tests.helpers import (PATIENCE, FakeResource, Gate, PlainResource, awaitTrue, awaitWaiting,
                           checkClosed, checkWhole, start)
from tests.reports.situations import CostlyWorld, openAll, poolOf, takeAll

PACKAGE = str(Path(queuepool.__file__).parent)


@pytest.fixture
def world():
    return CostlyWorld()


# -- at every line of a call, another thread does something else


def atLine(number, intervene, call):
    """Run call(); when it is at that line of the package, run intervene() in another thread.

    Return whether call() has so many lines. Where intervene() has to wait for call(), as for a
    lock, it runs when call() goes on.
    """
    count = 0
    running = []

    def trace(frame, event, arg):
        nonlocal count
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            count += 1
            if count == number:
                sys.settrace(before)  # what follows is run at full speed
                running.append(start(intervene))
                running[0].thread.join(0.02)
                return None
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except PoolError:  # as when the pool was closed
        pass
    finally:
        sys.settrace(before)
    if running:
        running[0].result()
    return count >= number


def takeAndPut(pool):
    pool.put(pool.take(timeout=0.003))


def putIfTaken(pool, resource):
    try:
        pool.put(resource)
    except PoolError:  # it is back already, or left the pool
        pass


#: What a thread is doing. The pool has two, one is idle and one is taken.
CALLS = {
    "take": lambda pool, resource: takeAndPut(pool),
    "put": lambda pool, resource: pool.put(resource),
    "with": lambda pool, resource: resource.__exit__(None, None, None),
    "error": lambda pool, resource: resource.__exit__(KeyError, KeyError(), None),
    "recycle": lambda pool, resource: pool.recycle(),
    "warm": lambda pool, resource: pool.warm(timeout=0.01),
    "invalidate": lambda pool, resource: pool.invalidate(),
    "shrink": lambda pool, resource: pool.resize(1),
    "grow": lambda pool, resource: pool.resize(3),
    "close": lambda pool, resource: pool.close(),
}
#: What another thread does meanwhile.
INTERVENTIONS = {
    "close": lambda pool: pool.close(),
    "shrink": lambda pool: None if pool.closed else pool.resize(1),
    "invalidate": lambda pool: pool.invalidate(),
    "take and put": takeAndPut,
}


@pytest.mark.parametrize("intervention", sorted(INTERVENTIONS))
@pytest.mark.parametrize("name, waiter, kind", [
    pytest.param(name, waiter, kind, id=f"{kind.__name__}-{name}" + "-one waits" * waiter)
    for name in sorted(CALLS) for waiter in [False, True]
    # A take behind one that waits gets nothing whose hooks it could run.
    for kind in [PlainResource] + [FakeResource] * (not (waiter and name == "take"))])
def test_nothing_is_left_open_or_lost_whatever_meets(name, intervention, waiter, kind):
    def intervene():
        try:
            INTERVENTIONS[intervention](pool)
        except (PoolClosed, PoolTimeout):
            pass

    def wait():
        try:
            pool.put(pool.take(timeout=PATIENCE))
        except PoolClosed:
            pass

    number, isThere = 0, True
    while isThere:
        number += 1
        world = CostlyWorld()
        pool = poolOf(2, kind, world, isSeeded=True, minOpen=2)
        openAll(pool)
        resource = pool.take()
        other = pool.take() if waiter else None
        waiting = start(wait) if waiter else None
        if waiter:
            awaitWaiting(pool, 1)
        isThere = atLine(number, intervene, lambda: CALLS[name](pool, resource))
        putIfTaken(pool, resource)
        if waiter:
            putIfTaken(pool, other)
            waiting.result()
        assert world.peak <= 2
        del resource, other
        if not pool.closed:
            pool.recycle()
            assert pool.stats().taken == 0
        checkClosed(pool, world)


# -- the reports themselves


@pytest.mark.parametrize("timeout", [0, 1, None])
def test_a_take_on_a_closing_pool_runs_no_hooks_of_others(timeout, kind, isSeeded, world):
    gate = Gate()

    class Slow(kind):
        def close(self):
            closers.append(threading.current_thread())
            gate()
            super().close()

    closers = []
    pool = poolOf(5, Slow, world, isSeeded)
    openAll(pool)
    closing = start(pool.close, None)
    gate.awaitArrival()
    for call in (lambda: pool.take(timeout), lambda: pool.resize(3), pool.startRecycler,
                 lambda: pool.put(kind("new", world)), pool.warm):
        with pytest.raises(PoolClosed):
            start(call).result(10)
    assert len(closers) == 1
    gate.open()
    assert closing.result() == 0
    assert world.live == 0


def test_a_short_put_on_a_closing_pool_closes_its_own_at_once(isSeeded, world):
    pool = poolOf(3, PlainResource, world, isSeeded)
    openAll(pool)
    first, second = pool.take(), pool.take()
    assert pool.close() == 2
    assert world.live == 2
    pool.put(first)
    assert world.live == 1
    with second:
        pass
    assert world.live == 0
    assert pool.close() == 0


@pytest.mark.parametrize("isNewFirst", [True, False])
def test_seeding_while_a_surplus_one_is_being_closed_never_exceeds_the_capacity(
        isNewFirst, kind, world):
    """The pool shrinks, grows again and is seeded, while the close of the surplus one blocks."""
    gate = Gate()

    class Slow(kind):
        def close(self):
            if threading.current_thread() is not main:
                gate()
            super().close()

    main = threading.current_thread()
    pool = poolOf(2, Slow, world, isSeeded=True)
    openAll(pool)
    shrinking = start(pool.resize, 1)
    gate.awaitArrival()
    pool.resize(2)
    with pytest.raises(PoolError):
        pool.put(Slow("new", world))
    resource = pool.take(timeout=0)
    if isNewFirst:
        with pytest.raises(PoolTimeout):
            pool.take(timeout=0)
    gate.open()
    shrinking.result()
    pool.put(resource)
    del resource
    assert world.peak == 2
    checkWhole(pool, world)


def test_building_while_a_surplus_one_is_being_closed_never_exceeds_the_capacity(kind, world):
    gate = Gate()

    class Slow(kind):
        def close(self):
            if threading.current_thread() is not main:
                gate()
            super().close()

    main = threading.current_thread()
    pool = poolOf(2, Slow, world)
    openAll(pool)
    shrinking = start(pool.resize, 1)
    gate.awaitArrival()
    with pool.take(timeout=0):
        with pytest.raises(PoolTimeout):
            pool.take(timeout=0)
        pool.resize(2)
        with pytest.raises(PoolTimeout):
            pool.take(timeout=0)
        gate.open()
        shrinking.result()
        with pool.take(timeout=1):
            pass
    assert world.peak == 2
    checkWhole(pool, world)


HOOKS = ["open", "close", "takeRepair", "putRepair"]
#: Calls that run hooks of a resource: of an idle one that is open, or was opened never yet.
RUNNERS = {
    "take": lambda pool: pool.put(pool.take(timeout=0)),
    "take expired": lambda pool: (pool.invalidate(timeout=0), pool.put(pool.take(timeout=0))),
    "recycle": lambda pool: pool.recycle(),
    "warm": lambda pool: pool.warm(),
    "shrink": lambda pool: pool.resize(1),
}


@pytest.mark.parametrize("isOpen", [False, True])
@pytest.mark.parametrize("runner", sorted(RUNNERS))
@pytest.mark.parametrize("hook", HOOKS)
def test_a_close_while_a_hook_runs_leaves_nothing_open(hook, runner, isOpen, isSeeded, world):
    def closePool():
        if not pool.closed:
            assert start(pool.close).result() >= 1

    pool = poolOf(2, FakeResource, world, isSeeded, minOpen=2)
    taken = takeAll(pool)
    for resource in taken:
        if not isOpen:
            resource.close()
        pool.put(resource)
        resource.script[hook] = [closePool]
    del resource, taken
    try:
        RUNNERS[runner](pool)
    except PoolClosed:
        pass
    if pool.closed:
        assert pool.stats().open == 0
    checkClosed(pool, world)


class Touchy(PlainResource):
    """Must not be hashed, compared, counted or asked whether it is true."""

    def _fail(self, *args):
        raise AssertionError("a method of the user's was called")

    __eq__ = __ne__ = __lt__ = __hash__ = __bool__ = __len__ = __contains__ = _fail


class TouchyHooked(FakeResource):
    __eq__ = __ne__ = __lt__ = __hash__ = __bool__ = __len__ = __contains__ = Touchy._fail


@pytest.mark.parametrize("touchy", [Touchy, TouchyHooked])
def test_user_objects_are_neither_hashed_nor_compared(touchy, isSeeded, world, clock):
    pool = poolOf(3, touchy, world, isSeeded, clock=clock, maxIdleTime=10.0, minOpen=1,
                  leakTime=1.0, leakTrace=True)
    taken = takeAll(pool)
    waiting = start(pool.take, PATIENCE)
    awaitWaiting(pool, 1)
    clock.advance(2.0)
    pool.recycle()  # reports them
    for resource in taken:
        pool.put(resource)
    pool.put(waiting.result())
    with pytest.raises(PoolError):
        pool.put(resource)
    del resource, taken, waiting
    pool.take()  # dropped
    for _ in range(2):
        pool.recycle()
    with pytest.raises(KeyError):
        with pool.take():
            raise KeyError
    clock.advance(11.0)
    pool.recycle()
    pool.invalidate()
    pool.warm()
    openAll(pool)
    pool.resize(1)
    pool.resize(3)
    assert pool.stats().taken == 0
    repr(pool)
    with pytest.raises(PoolError):
        pool.put(object())
    checkClosed(pool, world)


def test_a_put_of_a_waiting_pool_that_closes_is_told_to_who_waits(kind, isSeeded, world):
    """The waiter is told that the pool is closed; what is put afterwards is closed."""
    pool = poolOf(1, kind, world, isSeeded)
    resource = pool.take()
    waiting = start(pool.take, PATIENCE)
    awaitWaiting(pool, 1)
    assert pool.close() == 1
    with pytest.raises(PoolClosed):
        waiting.result()
    pool.put(resource)
    assert world.live == 0
    assert pool.stats().closesByReason[Reason.POOL_CLOSED] == 1
    awaitTrue(lambda: pool.close() == 0)


def test_a_pool_closed_by_the_factory_keeps_nothing(kind, world):
    def build(name):
        pool.close()
        return kind(name, world)

    pool = Pool("p", 1, factory=build)
    with pytest.raises(PoolClosed):
        pool.take()
    checkClosed(pool, world)
