"""Who took it, and which one it is: idents of threads are used again, and objects can be equal."""

import _thread
import copy
import pickle
import subprocess
import sys
import threading

import pytest

from queuepool import Pool, PoolError
from tests.helpers import FakeResource, Gate, PlainResource, World, checkClosed, checkWhole, start
from tests.reports.situations import CostlyWorld, openAll, poolOf, takeAll, warningsIn

# -- threads


def takeInAThread(pool, name, box):
    thread = threading.Thread(target=lambda: box.append(pool.take()), name=name)
    thread.start()
    thread.join()
    return thread.ident


@pytest.mark.parametrize("leakTime", [None, 5.0])
def test_a_leak_is_reported_by_the_end_of_its_thread_though_its_ident_is_used_again(
        leakTime, kind, isSeeded, world, clock, caplog):
    pool = poolOf(1, kind, world, isSeeded, clock=clock, leakTime=leakTime)
    box = []
    ident = takeInAThread(pool, "the-leaker", box)
    gates, threads = [], []
    for _ in range(20):
        gates.append(Gate())
        threads.append(threading.Thread(target=gates[-1], name="innocent"))
        threads[-1].start()
        if threads[-1].ident == ident:
            break
    clock.advance(10.0)
    pool.recycle()
    for gate, thread in zip(gates, threads):
        gate.open()
        thread.join()
    [line] = warningsIn(caplog)
    assert "the-leaker" in line and "has ended" in line
    assert "innocent" not in line and "is now at" not in line
    pool.recycle()
    assert len(warningsIn(caplog)) == 1
    pool.put(box.pop())
    assert "was returned" in caplog.text or caplog.records[-1].levelno > 10
    checkWhole(pool, world)


def test_a_thread_that_python_did_not_start_is_told_apart_as_well(kind, world, caplog):
    pool = poolOf(1, kind, world)
    box, done = [], threading.Event()

    def leak():
        box.append(pool.take())
        done.set()

    _thread.start_new_thread(leak, ())
    done.wait()
    for _ in range(1000):
        pool.recycle()
        if warningsIn(caplog):
            break
        threading.Event().wait(0.01)
    assert "has ended" in warningsIn(caplog)[0]
    pool.put(box.pop())


def test_a_thread_that_lives_is_not_accused(kind, isSeeded, world, clock, caplog):
    gate = Gate()

    def work():
        with pool.take():
            gate()

    pool = poolOf(1, kind, world, isSeeded, clock=clock)
    working = start(work)
    gate.awaitArrival()
    clock.advance(1e6)
    pool.recycle()
    gate.open()
    working.result()
    assert not warningsIn(caplog)


def test_what_another_thread_returns_in_time_is_no_leak(kind, isSeeded, world, caplog):
    pool = poolOf(1, kind, world, isSeeded)
    box = []
    takeInAThread(pool, "taker", box)
    pool.put(box.pop())
    pool.recycle()
    assert not warningsIn(caplog)


def test_the_next_take_of_a_reported_one_is_reported_anew(kind, isSeeded, world, clock, caplog):
    """Also in the same instant: the clock of Windows goes on in steps of 15.6 ms."""
    pool = poolOf(1, kind, world, isSeeded, clock=clock)
    for name in "first", "second":
        box = []
        takeInAThread(pool, name, box)
        pool.recycle()
        assert name in warningsIn(caplog)[-1]
        pool.put(box.pop())
    assert len(warningsIn(caplog)) == 2


def test_a_greenlet_that_ended_is_reported(tmp_path):
    pytest.importorskip("gevent")
    program = """
from gevent import monkey; monkey.patch_all()
import logging, sys, threading
import gevent
from queuepool import Pool
from tests.helpers import PlainResource
logging.basicConfig(stream=sys.stdout, format="%(message)s")
pool = Pool("p", 2, factory=PlainResource)
box = []
gevent.spawn(lambda: box.append(pool.take())).join()
other = gevent.spawn(lambda: (box.append(pool.take()), gevent.sleep(30)))
gevent.sleep(0)
gevent.sleep(0.01)
pool.recycle()
assert len(box) == 2
other.kill()
"""
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                             timeout=60)
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.count("has ended without returning it") == 1, outcome.stdout


# -- copies

COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "deepcopy of a list": lambda thing: copy.deepcopy([thing]),
    **{f"pickle {protocol}": lambda thing, protocol=protocol: pickle.dumps(thing, protocol)
       for protocol in range(pickle.HIGHEST_PROTOCOL + 1)},
}


@pytest.mark.parametrize("way", sorted(COPIES))
@pytest.mark.parametrize("state", ["new", "idle", "taken", "closed"])
def test_a_copy_of_a_resource_is_refused(state, way, kind, isSeeded, world):
    pool = poolOf(1, kind, world, isSeeded)
    resource = kind("new", world) if state == "new" else pool.take()
    if state in ("idle", "closed"):
        pool.put(resource)
    if state == "closed":
        pool.close()
    with pytest.raises(TypeError, match=r"'(new|p-0|s-0)' cannot be copied or pickled"):
        COPIES[way](resource)
    if state == "taken":
        pool.put(resource)
    checkClosed(pool, world)


@pytest.mark.parametrize("way", sorted(COPIES))
def test_a_copy_of_a_pool_is_refused(way, kind, isSeeded, world):
    class Named(Pool):
        pass

    for pool in poolOf(1, kind, world, isSeeded), Named("p", 1):
        with pytest.raises(TypeError, match="pool 'p' cannot be copied or pickled"):
            COPIES[way](pool)


# -- equal resources


class Equal(PlainResource):
    """Is equal to all others, and so has no hash."""

    def __eq__(self, other):
        return True


class EqualHooked(FakeResource):
    def __eq__(self, other):
        return True


@pytest.fixture(params=[Equal, EqualHooked])
def equal(request):
    return request.param


def test_equal_resources_are_kept_and_told_apart(equal, isSeeded, world):
    pool = poolOf(3, equal, world, isSeeded)
    first, second, third = takeAll(pool)
    assert len({id(first), id(second), id(third)}) == 3
    pool.put(second)
    with pytest.raises(PoolError, match="checked out"):
        pool.put(second)
    assert pool.take() is second
    for resource in first, second, third:
        pool.put(resource)
    assert [id(each) for each in takeAll(pool)] == [id(third), id(second), id(first)]


def test_one_that_is_equal_to_a_member_is_no_member(equal, world):
    pool = poolOf(1, equal, world, isSeeded=True)
    other = equal("other", world)
    with pytest.raises(PoolError):
        pool.put(other)
    with pool.take():
        with pytest.raises(PoolError):
            pool.put(other)


def test_of_equal_resources_the_one_that_is_due_is_closed(equal, isSeeded, world, clock):
    pool = poolOf(3, equal, world, isSeeded, clock=clock, maxOpenTime=10.0, maxIdleTime=None)
    first = pool.take()
    clock.advance(5.0)
    others = [pool.take(), pool.take()]
    pool.put(others[0])
    pool.put(first)  # the oldest lies between two younger ones
    pool.put(others[1])
    clock.advance(6.0)
    pool.recycle()
    assert not first.isOpen
    assert all(resource.isOpen for resource in others)


@pytest.mark.parametrize("call", ["recycle", "invalidate", "shrink", "close", "drop"])
def test_equal_resources_are_served_like_others(call, equal, isSeeded, clock):
    world = CostlyWorld()
    pool = poolOf(3, equal, world, isSeeded, clock=clock, maxIdleTime=10.0)
    openAll(pool)
    if call == "recycle":
        clock.advance(11.0)
        pool.recycle()
        assert world.live == 0
    elif call == "invalidate":
        assert pool.invalidate() == 0
        assert world.live == 0
    elif call == "shrink":
        pool.resize(1)
        assert world.live == 1
    elif call == "close":
        assert pool.close() == 0
    elif call == "drop":
        for _ in range(5):
            pool.take()
            pool.recycle()
    if call != "close":
        checkWhole(pool, world)
    checkClosed(pool, world)


def test_a_resource_whose_truth_is_false_is_one(world):
    class Empty(PlainResource):
        def __len__(self):
            return 0

    pool = poolOf(2, Empty, world, isSeeded=True)
    for _ in range(3):
        with pool.take(), pool.take():
            pass
        assert pool.invalidate() == 0 == world.live
    checkWhole(pool, world)


def test_what_is_open_may_be_equal_to_everything():
    """As an array of numbers, which cannot be asked whether it is equal to None."""
    class Array:
        def __eq__(self, other):
            raise ValueError("the truth value of an array is ambiguous")

        __bool__ = __eq__

    class Holder(PlainResource):
        def open(self):
            super().open()
            self.resource = Array()
            self.handOut(self.resource)

        def close(self):
            self.resource = None
            super(PlainResource, self).close()

    world = World()
    pool = Pool("p", 1, factory=lambda name: Holder(name, world))
    with pool.take() as array:
        assert isinstance(array, Array)
        pool.put(array)  # of the resource that has it open
        assert pool.take().resource is array
    pool.invalidate()
    pool.take()
    pool.recycle()
    pool.close()
