"""Corners where two rare things meet: doubt and repair, shrinking and closing, fork and outage."""

import signal
import sys
import warnings

import pytest

from queuepool import Pool, PoolError, PoolTimeout, Reason, fork
from queuepool.fork import startAfresh
from queuepool.recycler import Recycler
from queuepool.resource import Watch
from tests.helpers import (FakeResource, Gate, PlainResource, awaitWaiting, checkClosed, checkWhole,
                           start)


def flaky(world, capacity, errors, **options):
    """Return a pool whose opens raise what is popped from ``errors``, as long as there is any."""
    def play():
        if errors:
            raise errors.pop(0)

    return Pool("p", capacity, openRetryTime=10.0, **options,
                factory=lambda name: FakeResource(name, world, open=[play] * 99))


def test_the_outage_keeps_no_frame_of_what_failed(world):
    errors = [OSError("refused") for _ in range(9)]
    pool = flaky(world, 1, list(errors))
    with pytest.raises(PoolTimeout) as caught:
        pool.take(timeout=0)
    assert caught.value.__cause__ is errors[0]
    assert errors[0].__traceback__ is None


def test_an_open_that_succeeds_while_another_fails_ends_the_outage(world):
    pool = flaky(world, 2, [])
    gate = Gate()
    fails = [True]

    def failSlowly():
        if fails:
            fails.clear()
            gate()
            raise OSError("refused")

    pool._factory = None
    for resource in pool._queue.closed.values():
        resource.script["open"] = [failSlowly] * 99
    failing = start(pool.take)
    gate.awaitArrival()
    other = pool.take()
    gate.open()
    one = failing.result()
    pool.put(one)
    pool.put(other)
    assert pool._outage is None and not pool._queue.isDoubtful
    checkWhole(pool, world)


def test_a_child_process_does_not_inherit_an_outage(world):
    pool = flaky(world, 1, [OSError("refused")] * 9)
    with pytest.raises(PoolTimeout):
        pool.take(timeout=0)
    startAfresh(pool)
    assert pool._outage is None
    assert not pool._queue.isDoubtful


def test_a_repair_that_opens_by_itself_ends_the_doubt(world):
    class SelfOpening(PlainResource):
        def takeRepair(self):
            if not self.isOpen:
                self.open()

    pool = Pool("p", 2, openRetryTime=10.0, factory=lambda name: SelfOpening(name, world))
    with pytest.raises(KeyError), pool.take():
        raise KeyError  # closes it, and raises doubt
    assert pool._queue.isDoubtful
    with pool.take(timeout=0), pool.take(timeout=0):
        assert not pool._queue.isDoubtful
    checkWhole(pool, world)


def test_the_time_in_line_does_not_count_as_retry_time(world, clock):
    errors = []
    pool = flaky(world, 1, errors, clock=clock)
    pool.openRetryTime = 0.5
    first = pool.take()
    waiting = start(pool.take)
    awaitWaiting(pool, 1)
    clock.advance(100.0)
    errors.append(OSError("refused"))
    first.close()
    pool.put(first)
    pool.put(waiting.result())
    assert pool.stats().openErrors == 1
    checkWhole(pool, world)


def test_a_slow_close_of_one_too_many_costs_no_other(world):
    gate = Gate()
    pool = Pool("p", 3, factory=lambda name: FakeResource(name, world, close=[gate]))
    taken = [pool.take() for _ in range(3)]
    pool.put(taken.pop())
    shrinking = start(pool.resize, 2)
    gate.awaitArrival()
    for resource in taken:
        pool.put(resource)
    assert pool.stats().open == 2
    gate.open()
    shrinking.result()
    assert pool.stats().closesByReason[Reason.SHRUNK] == 1
    checkWhole(pool, world)


def test_what_its_user_closes_and_opens_is_counted(world):
    pool = Pool("p", 1, factory=lambda name: PlainResource(name, world))
    with pool.take() as resource:
        resource.close()
        resource.open()
    stats = pool.stats()
    assert (stats.opens, stats.closesByReason[Reason.USER]) == (2, 1)
    checkClosed(pool, world)


def test_a_resource_of_no_pool_says_so(world):
    with pytest.raises(PoolError, match="'loose' is in no pool"):
        with PlainResource("loose", world):
            pass
    with pytest.raises(KeyError), PlainResource("loose", world):
        raise KeyError  # the user's own is the one to be seen


def test_a_signal_handler_may_enter_the_membership_again(world):
    pool = Pool("p", 2, factory=lambda name: PlainResource(name, world))
    with pool._queue._membership:
        pool.resize(1)
        pool.resize(2)
    checkWhole(pool, world)


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="needs POSIX signals")
def test_a_signal_handler_may_take_and_put(world):
    pool = Pool("p", 2, factory=lambda name: PlainResource(name, world))
    served = []

    def handler(signum, frame):
        with pool.take():
            served.append(signum)

    before = signal.signal(signal.SIGALRM, handler)
    try:
        with pool.take():
            signal.raise_signal(signal.SIGALRM)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert served == [signal.SIGALRM]
    checkWhole(pool, world)


def test_a_pool_that_cannot_start_afresh_does_not_keep_the_next_from_it(world, monkeypatch, caplog):
    pools = [Pool(name, 1, factory=lambda name: PlainResource(name, world)) for name in "ab"]
    queues = {pool.name: pool._queue for pool in pools}

    class Unfit:
        name = "unfit"
        _warn = pools[0]._warn

        @property
        def _queue(self):
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(fork, "_pools", [Unfit(), *pools])
    fork._startAllAfresh()
    assert all(pool._queue is not queues[pool.name] for pool in pools)
    assert "starting afresh" in caplog.text


def test_a_thread_that_came_during_the_report_is_not_taken_for_dead(world, monkeypatch, caplog):
    pool = Pool("p", 1, factory=lambda name: PlainResource(name, world))
    gate = Gate()

    def takeAndStay():
        with pool.take():
            gate()

    frames = sys._current_frames
    staying = []

    def comeFirst():
        if not staying:
            running = frames()
            staying.append(start(takeAndStay))
            gate.awaitArrival()
            return running
        return frames()

    monkeypatch.setattr(sys, "_current_frames", comeFirst)
    pool.recycle()
    gate.open()
    staying[0].result()
    assert "has ended" not in caplog.text


def test_a_resource_that_cannot_be_a_member_any_more_is_not_laid_down(world):
    pool = Pool("p", 1, factory=lambda name: PlainResource(name, world))
    pool._settle(PlainResource("stranger", world))
    assert pool.stats().idle == 1


def test_what_the_parent_opened_is_forgotten_though_that_fails(world, caplog):
    class Clinging(PlainResource):
        def abandon(self):
            raise OSError("no")

    pool = Pool("p", 1, factory=lambda name: Clinging(name, world))
    with pool.take() as resource:
        pass
    startAfresh(pool)
    assert (resource.isOpen, resource.resource) == (False, None)
    assert "abandon of 'p-0' failed" in caplog.text
    checkWhole(pool)


def test_a_recycler_that_cannot_start_leaves_no_trace(world, monkeypatch):
    pool = Pool("p", 1, factory=lambda name: PlainResource(name, world))
    with monkeypatch.context() as patch:
        patch.setattr(Recycler, "start", lambda self: (_ for _ in ()).throw(RuntimeError("no")))
        with pytest.raises(RuntimeError):
            pool.startRecycler(60)
    pool.startRecycler(60)
    recycler = pool._recycler["thread"]
    assert recycler.isAlive
    pool.stopRecycler()


def test_a_recycler_that_started_is_kept_though_the_call_is_interrupted(world, monkeypatch):
    begin = Recycler.start

    def startAndInterrupt(self):
        begin(self)
        raise KeyboardInterrupt

    pool = Pool("p", 1, factory=lambda name: PlainResource(name, world))
    monkeypatch.setattr(Recycler, "start", startAndInterrupt)
    with pytest.raises(KeyboardInterrupt):
        pool.startRecycler(60)
    assert pool._recycler["thread"].isAlive
    pool.stopRecycler()


def test_a_pool_that_is_closed_while_its_recycler_starts_has_none(world, monkeypatch):
    begin = Recycler.start

    def closeAndStart(self):
        pool.close()
        begin(self)

    pool = Pool("p", 1, factory=lambda name: PlainResource(name, world))
    monkeypatch.setattr(Recycler, "start", closeAndStart)
    recyclers = []
    monkeypatch.setattr(pool, "_recycler", Kept(recyclers))
    pool.startRecycler(60)
    assert recyclers and not recyclers[0].isAlive


class Kept(dict):
    """Remember what was set by default; lose nothing to the pop of a close."""

    def __init__(self, kept):
        super().__init__()
        self._kept = kept

    def setdefault(self, key, value):
        self._kept.append(value)
        return super().setdefault(key, value)

    def pop(self, key, default=None):
        if len(self._kept) == 1 and not self._kept[0].isAlive:
            return default
        return super().pop(key, default)


def test_a_watch_that_an_interruption_left_behind_brings_nothing_back(world):
    pool = Pool("p", 1)
    resource = PlainResource("r", world)
    pool.put(resource)
    stale = Watch(resource, pool._dropped)
    pool._queue.members[stale] = resource._slot
    pool._dropped(stale)
    assert list(pool._queue.members) == [resource._slot.watch]
    checkWhole(pool, world)


def test_what_is_dropped_while_the_pool_closes_is_not_filled_anew(world, monkeypatch):
    pool = Pool("p", 1, factory=lambda name: PlainResource(name, world))
    queue = pool._queue
    put = queue.put

    def putAndShut(resource):
        put(resource)
        queue.shut()

    monkeypatch.setattr(queue, "put", putAndShut)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        pool.take()
    assert len(told) == 1
    assert (pool.stats().idle, pool.close()) == (0, 0)


def test_a_close_that_was_interrupted_before_it_was_counted_is_counted_later(world):
    pool = Pool("p", 1, factory=lambda name: PlainResource(name, world))
    with pool.take() as resource:
        pass
    pool._queue.open.remove(resource)
    world.close(resource.resource)
    resource.resource, resource._isOpen = None, False
    pool._settle(resource)
    with pool.take():
        pass
    stats = pool.stats()
    assert (stats.opens, stats.closes) == (2, 1)
    checkClosed(pool, world)


def test_what_another_thread_of_the_parent_took_may_be_in_use_still(world):
    pool = Pool("p", 1, factory=lambda name: PlainResource(name, world))
    handedOver = start(pool.take).result()
    startAfresh(pool)
    assert handedOver.isOpen
    checkWhole(pool)
    pool.put(handedOver)
    assert not handedOver.isOpen
    checkWhole(pool)


def test_of_two_who_notice_a_drop_the_second_does_nothing(world, monkeypatch):
    pool = Pool("p", 1, factory=lambda name: PlainResource(name, world))
    [watch] = pool._queue.members
    resource = watch()
    fill = pool._queue.fill

    def fillTooLate(slot, vacancy, former):
        del pool._queue.members[former]
        try:
            return fill(slot, vacancy, former)
        finally:
            pool._queue.members[former] = slot

    monkeypatch.setattr(pool._queue, "fill", fillTooLate)
    pool._dropped(watch)
    monkeypatch.undo()
    assert list(pool._queue.members) == [watch]
    assert list(pool._queue.closed.values()) == [resource]
    checkWhole(pool, world)


def test_recycle_closes_what_an_interrupted_close_left(world):
    pool = Pool("p", 1, factory=lambda name: PlainResource(name, world))
    with pool.take():
        pass
    pool._queue.shut()
    pool.recycle()
    assert pool.stats().open == 0
    checkClosed(pool, world)


def test_a_thread_that_puts_and_ends_during_the_report_left_nothing_out(
        world, monkeypatch, caplog):
    pool = Pool("p", 1, factory=lambda name: PlainResource(name, world))
    gate = Gate()

    def takeAndPut():
        with pool.take():
            gate()

    leaving = start(takeAndPut)
    gate.awaitArrival()
    frames = sys._current_frames

    def leaveFirst():
        gate.open()
        leaving.result()
        return frames()

    monkeypatch.setattr(sys, "_current_frames", leaveFirst)
    pool.recycle()
    assert "has ended" not in caplog.text


def test_what_a_closed_pool_had_out_at_a_fork_is_abandoned_not_closed(world):
    pool = Pool("p", 1, factory=lambda name: PlainResource(name, world))
    resource = pool.take()
    pool.close()
    startAfresh(pool)
    pool.put(resource)
    assert not resource.isOpen
    assert (world.closed, pool.stats().idle) == (0, 0)


def test_a_child_forked_by_an_open_hook_has_no_resource_too_many(world):
    def forkOnce():
        if forks:
            startAfresh(forks.pop())

    pool = Pool("p", 1, factory=lambda name: PlainResource(name, world))
    forks = [pool]
    open_ = world.open
    world.open = lambda: forkOnce() or open_()
    with pool.take():
        assert not forks
    checkWhole(pool, world)


def test_a_child_forked_by_a_close_hook_takes_nothing_of_the_parents(world, clock):
    def forkOnce(handle):
        close(handle)
        if forks:
            startAfresh(forks.pop())

    pool = Pool("p", 2, maxOpenTime=10.0, factory=lambda name: PlainResource(name, world),
                clock=clock)
    old = pool.take()
    clock.advance(8.0)
    pool.put(pool.take())
    pool.put(old)
    clock.advance(4.0)
    forks, close, world.close = [pool], world.close, forkOnce
    with pool.take():
        assert not forks
    checkWhole(pool, world)


def test_what_another_thread_was_putting_back_at_a_fork_is_not_lost_to_the_child(world):
    gate = Gate()
    pool = Pool("p", 1)
    pool.put(FakeResource("a", world, putRepair=[None, gate]))
    resource = pool.take()
    putting = start(pool.put, resource)
    gate.awaitArrival()
    startAfresh(pool)
    assert pool.stats().idle == 1
    gate.open()
    putting.result()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_seeding_that_was_interrupted_can_be_done_again(world, error):
    def clock():
        if errors:
            raise errors.pop()
        return 1.0

    errors = [error]
    pool = Pool("p", 1, clock=clock)
    resource = PlainResource("a", world)
    with pytest.raises(error):
        pool.put(resource)
    pool.put(resource)
    checkWhole(pool, world)


def test_what_a_take_passed_over_is_not_kept_alive_by_it(world):
    """It found a better one; who takes and drops the first meanwhile is not to wait for it."""
    putBack, gate = [], Gate()
    first = FakeResource("a", world, takeRepair=[lambda: pool.put(putBack.pop())])
    second = FakeResource("b", world, takeRepair=[None, gate])
    pool = Pool("p", 2)
    pool.put(first)
    pool.put(second)
    putBack.append(pool.take())
    assert putBack == [second]
    del first, second
    taking = start(pool.take)  # is given a, closed; b comes back meanwhile, open, and is preferred
    gate.awaitArrival()
    with pytest.warns(ResourceWarning, match="'a' was taken and dropped"):
        pool.take(timeout=0)
    gate.open()
    pool.put(taking.result())
    assert pool.stats().idle == 1


def test_an_answer_without_a_truth_value_does_not_hide_the_users_exception(world, caplog):
    class Odd:
        def __bool__(self):
            raise ValueError("ambiguous")

    pool = Pool("p", 1, factory=lambda name: PlainResource(name, world),
                closeOnException=lambda error: Odd())
    with pytest.raises(KeyError), pool.take() as resource:
        raise KeyError
    assert not resource.isOpen
    assert "closeOnException failed" in caplog.text
    checkWhole(pool, world)


def test_a_resource_that_fails_to_look_at_an_exception_is_closed_or_not_all_the_same(
        world, caplog):
    class Blind(PlainResource):
        def _noteError(self, error):
            raise OSError

    pool = Pool("p", 1, factory=lambda name: Blind(name, world), closeOnException=False)
    with pytest.raises(KeyError), pool.take() as resource:
        raise KeyError
    assert resource.isOpen
    assert "'p-0' failed to look at an exception" in caplog.text
    checkWhole(pool, world)


def test_a_recycler_that_ran_runs_in_the_child_too(world):
    with Pool("p", 1, factory=lambda name: PlainResource(name, world)) as pool:
        pool.startRecycler(1000.0)
        parents = pool._recycler["thread"]
        startAfresh(pool)
        childs = pool._recycler["thread"]
        assert childs is not parents and childs.isAlive
        assert childs.interval == 1000.0
        parents.stop()


def test_recycle_of_a_closed_pool_closes_what_was_laid_down_late(world):
    pool = Pool("p", 1, factory=lambda name: PlainResource(name, world))
    with pool.take():
        pass
    late = pool._queue.pick()
    pool.close()
    pool._queue.layDown(late)  # it had looked before the pool was closed
    pool.recycle()
    assert world.live == 0
    checkClosed(pool, world)


def test_recycle_builds_what_min_open_asks_for(world):
    pool = Pool("p", 1, minOpen=1, factory=lambda name: PlainResource(name, world))
    pool.resize(2)
    pool.minOpen = 2
    pool.recycle()
    assert world.live == pool.stats().open == 2
    checkClosed(pool, world)


def test_nothing_is_opened_in_the_place_of_a_surplus_one_until_that_is_closed(world):
    gate, close = Gate(), world.close
    pool = Pool("p", 2, factory=lambda name: PlainResource(name, world))
    checkWhole(pool, world)
    world.close = lambda handle: gate() or close(handle)
    shrinking = start(pool.resize, 1)
    gate.awaitArrival()
    pool.resize(2)
    first = pool.take(timeout=0)
    with pytest.raises(PoolTimeout):
        pool.take(timeout=0)
    gate.open()
    shrinking.result()
    pool.put(first)
    checkWhole(pool, world)
    checkClosed(pool, world)
