"""The queue: order, members and the waiting line, without a pool."""

import itertools
import queue
import threading
from weakref import ref

import pytest

from queuepool.core.call import Call
from queuepool.core.idle import IdleQueue, Waiter
from queuepool.core.slot import NEVER, Place, Slot
from queuepool.stats import Reason
from tests.helpers import PATIENCE, Gate, awaitTrue, runTogether, start


class Item:
    """What the queue needs of a resource."""

    def __init__(self, slot, isOpen):
        self._slot = slot
        self.isOpen = isOpen
        self.life = slot.life = object()


class Comparing(Item):
    """An item whose class compares and hashes as it likes."""

    __hash__ = None

    def __eq__(self, other):
        raise AssertionError("the queue compared a resource")


class ShutDown(Exception):
    """Raised by a look, as the pool's look raises PoolClosed."""


@pytest.fixture
def idle():
    return IdleQueue(3)


@pytest.fixture
def impatient(monkeypatch):
    """Have waiters check the line after a moment."""
    monkeypatch.setattr("queuepool.core.idle.LOOK_AGAIN_TIME", 0.001)


def member(idle, isOpen=True, kind=Item):
    """Make an item a member, in the hands of the test."""
    slot = Slot()
    assert idle.admit(slot)
    item = kind(slot, isOpen)
    slot.ref = ref(item)
    slot.place = Place.HELD
    return item


def members(idle, count, isOpen=True, kind=Item):
    """Make so many items idle members, the first one the longest idle."""
    items = [member(idle, isOpen, kind) for _ in range(count)]
    for item in items:
        put(idle, item)
    return items


def put(idle, item):
    """Make an item idle, as the pool does."""
    item._slot.place = Place.IDLE
    (idle.open if item.isOpen else idle.closed).append(item)
    idle.notify()


def newCall(isFirst=False):
    call = Call()
    call.resource = None
    call.isFirst = isFirst
    return call


def picked(idle, picks):
    """Pick one and return it; None if there is none."""
    call = newCall()
    assert idle.pick(call, picks) is (call.resource is not None)
    return call.resource


def patiently(call):
    """Neither look again nor give up."""
    return NEVER, NEVER


def never(call):
    return NEVER


def lookFor(idle, look=None):
    """Return a look that picks an open one, like the pool's."""
    def lookAtOpen(call):
        if idle.isShutDown:
            raise ShutDown
        return idle.pick(call, idle.openPicks)

    return look or lookAtOpen


def get(idle, seconds=NEVER, isFirst=False, look=None, pause=never):
    """Wait in line and return what was picked there; None if nothing came in time."""
    call = newCall(isFirst)
    isFound = idle.waitFor(call, lookFor(idle, look), seconds, lambda call: (pause(call), NEVER))
    assert isFound or call.resource is None
    return call.resource


def startWaiting(idle, count, **options):
    """Start a thread that waits, and return it when that many wait."""
    waiter = start(lambda: get(idle, **options))
    awaitTrue(lambda: idle.waiting() == count)
    return waiter


# -- a queue.LifoQueue

def test_it_is_a_lifo_queue_of_open_ones_before_closed_ones_before_returned_ones(idle):
    assert isinstance(idle, queue.LifoQueue)
    closed, first, last = [member(idle, isOpen) for isOpen in (False, True, True)]
    idle.giveBack(first)
    idle.put(closed)
    idle.put(last, block=False)
    assert (idle.qsize(), idle.empty(), idle.full()) == (3, False, True)
    with pytest.raises(queue.Full):
        idle.put_nowait(first)
    assert [idle.get(), idle.get(timeout=1), idle.get_nowait()] == [last, closed, first]
    assert (idle.qsize(), idle.empty(), idle.full()) == (0, True, False)


def test_of_two_that_were_put_the_last_is_got_first(idle):
    items = [member(idle) for _ in range(3)]
    for item in items:
        idle.put(item)
    assert [idle.get() for _ in items] == items[::-1]


@pytest.mark.parametrize("options", [{"block": False}, {"timeout": 0.001}])
def test_get_raises_empty_when_nothing_comes_in_time(idle, options):
    with pytest.raises(queue.Empty):
        idle.get(**options)


# -- picks

@pytest.mark.parametrize("picks, isOpen, order", [
    ("openPicks", True, [2, 1, 0]), ("oldestPicks", True, [0, 1, 2]),
    ("closedPicks", False, [2, 1, 0])])
@pytest.mark.parametrize("kind", [Item, Comparing])
def test_picks_come_in_their_order_and_go_on_after_there_was_nothing(
        idle, picks, isOpen, order, kind):
    assert picked(idle, getattr(idle, picks)) is None
    items = members(idle, 3, isOpen, kind)
    assert all(picked(idle, getattr(idle, picks)) is items[number] for number in order)
    assert picked(idle, getattr(idle, picks)) is None
    put(idle, items[0])
    assert picked(idle, getattr(idle, picks)) is items[0]


def test_what_was_given_back_is_picked_once(idle):
    items = [member(idle) for _ in range(2)]
    for item in items:
        idle.giveBack(item)
        assert item._slot.place is Place.RETURNED
    idle.giveBack(None)  # an empty hand
    assert {picked(idle, idle.returnedPicks) for _ in items} == set(items)
    assert picked(idle, idle.returnedPicks) is None


def test_a_known_one_is_picked_from_among_the_others(idle):
    a, b, c = members(idle, 3)
    call = newCall()
    assert idle.pickThis(call, b) and call.resource is b
    assert list(idle.open) == [a, c]
    call = newCall()
    assert not idle.pickThis(call, b) and call.resource is None
    assert list(idle.open) == [a, c]


# -- members

def test_what_is_not_idle_is_not_picked_whatever_its_repr_does(idle):
    class Unprintable(Item):
        def __repr__(self):
            raise RuntimeError

    call = Call()
    call.resource = None
    assert not idle.pickThis(call, member(idle, kind=Unprintable))
    assert call.resource is None


def test_nobody_is_admitted_beyond_the_capacity(idle):
    items = [member(idle) for _ in range(3)]
    assert not idle.hasRoom
    assert not idle.admit(Slot())
    idle.evict(items[0]._slot)
    assert idle.hasRoom and idle.admit(Slot())
    assert not idle.admit(Slot())


def test_of_many_who_are_admitted_at_once_only_those_are_for_whom_there_is_room():
    for _ in range(20):
        idle = IdleQueue(3)
        barrier = threading.Barrier(8)

        def admit():
            barrier.wait(PATIENCE)
            return idle.admit(Slot())

        admitted = [each.result() for each in [start(admit) for _ in range(8)]]
        assert sum(admitted) == len(idle.members) == 3


def test_nobody_is_admitted_after_the_shutdown(idle):
    idle.shutdown()
    assert not idle.admit(Slot())
    assert not idle.members


def test_the_evicted_knows_no_queue_and_is_evicted_once(idle):
    slot = member(idle)._slot
    assert slot.queue is idle
    for _ in range(2):
        idle.evict(slot)
        assert (slot.place, slot.queue, slot in idle.members) == (Place.GONE, None, False)


def test_an_eviction_wakes_who_waits_for_room(idle):
    items = [member(idle) for _ in range(3)]
    waiter = start(lambda: idle.waitFor(newCall(), lambda call: idle.hasRoom, NEVER, patiently))
    awaitTrue(lambda: idle.waiting() == 1)
    idle.evict(items[0]._slot)
    assert waiter.result()


def test_only_as_many_leave_as_are_surplus(idle):
    a, b, c = [member(idle)._slot for _ in range(3)]
    assert not idle.hasSurplus and not idle.startLeaving(a)
    idle.maxsize = 2
    assert idle.hasSurplus and idle.startLeaving(a)
    assert idle.startLeaving(a), "it is leaving already"
    assert not idle.hasSurplus and not idle.startLeaving(b)
    assert not idle.admit(Slot()), "what is leaving is still open"
    assert idle.finishLeaving(a)
    assert list(idle.members) == [b, c] and not idle.leaving


def test_what_was_leaving_stays_if_the_capacity_grew_meanwhile(idle):
    a, b, c = [member(idle)._slot for _ in range(3)]
    idle.maxsize = 2
    assert idle.startLeaving(a)
    idle.maxsize = 3
    assert not idle.finishLeaving(a)
    assert list(idle.members) == [a, b, c] and not idle.leaving
    assert a.queue is idle and a.place is Place.HELD


@pytest.mark.parametrize("place", [Place.HELD, Place.TAKEN])
def test_a_member_whose_resource_is_no_more_is_evicted(idle, place):
    for openedAt in 1.0, None:
        item = member(idle)
        slot, slot.place, slot.openedAt = item._slot, place, openedAt
        del slot, item
    idle.reconcile()
    assert not idle.members and len(idle.lost) == 2
    assert [slot.closes for slot in idle.lost] == [{Reason.DROPPED: 1}, {}]


def test_members_whose_resource_is_there_are_kept(idle):
    """Also one whose weak references the collector has cleared already."""
    held, (waiting,) = member(idle), members(idle, 1)
    held._slot.ref = lambda: None
    idle.reconcile()
    assert list(idle.members) == [held._slot, waiting._slot]


def test_of_many_who_find_the_same_lost_member_one_evicts_it():
    for _ in range(200):
        idle = IdleQueue(3)
        for _ in range(3):
            member(idle)
        runTogether(*[idle.reconcile] * 4)
        assert len(idle.lost) == 3 and not idle.members


def test_threads_share_the_picks():
    """Nothing is picked twice, nothing is lost, and who finds nothing is told so."""
    idle = IdleQueue(4)
    rounds = 5000

    def pickAndPut():
        call, picked = Call(), 0
        while picked < rounds:
            if idle.pick(call, idle.openPicks):
                assert call.resource.users.pop() is None
                picked += 1
                call.resource.users.append(None)
                idle.open.append(call.resource)
        return picked

    for _ in range(3):
        item = member(idle)
        item.users = [None]
        idle.open.append(item)
    assert runTogether(*[pickAndPut] * 4) == [rounds] * 4
    assert len(idle.open) == len(set(map(id, idle.open))) == 3


# -- waiters

def test_what_is_there_is_found_at_once(idle):
    a, b = members(idle, 2)
    assert get(idle, seconds=0) is b
    assert get(idle, seconds=0) is a
    assert get(idle, seconds=0) is None
    assert idle.waiting() == 0


def test_who_waits_is_served_first_come_first_served(idle):
    a = member(idle)
    waiters = [startWaiting(idle, number + 1) for number in range(5)]
    for waiter in waiters:
        put(idle, a)
        assert waiter.result() is a


def test_who_had_its_turn_stands_first(idle):
    a = member(idle)
    second = startWaiting(idle, 1)
    first = startWaiting(idle, 2, isFirst=True)
    for waiter in first, second:
        put(idle, a)
        assert waiter.result() is a


def test_a_newcomer_does_not_look_while_another_stands_before_it(idle):
    gate, a = Gate(), member(idle)

    def lookLater(call):
        if idle.open:
            gate()
        return idle.pick(call, idle.openPicks)

    waiter = startWaiting(idle, 1, look=lookLater)
    put(idle, a)
    gate.awaitArrival()
    assert get(idle, seconds=0.01) is None
    gate.open()
    assert waiter.result() is a


def test_a_time_out_leaves_the_line_to_the_others(idle):
    a = member(idle)
    waiters = [startWaiting(idle, 1), None, startWaiting(idle, 2)]
    assert get(idle, seconds=0.01) is None
    assert idle.waiting() == 2
    for waiter in waiters[::2]:
        put(idle, a)
        assert waiter.result() is a


def test_at_the_end_of_its_time_it_looks_once_more(idle):
    looks = []

    def look(call):
        looks.append(call)
        return len(looks) == 2

    assert idle.waitFor(newCall(), look, 0.01, patiently)
    assert len(looks) == 2


def test_after_the_pause_it_looks_again_though_nobody_notifies(idle):
    pauses = itertools.chain([0.001, 0.001], itertools.repeat(NEVER))
    looks = []

    def look(call):
        looks.append(call)
        return len(looks) == 3

    assert idle.waitFor(newCall(), look, NEVER, lambda call: (next(pauses), NEVER))
    assert next(pauses) == NEVER


def test_the_pause_does_not_put_off_the_end_of_the_time(idle):
    assert get(idle, seconds=0.01, pause=lambda call: PATIENCE) is None


@pytest.mark.parametrize("where", ["look", "pause"])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_what_is_raised_in_line_leaves_it_to_the_next(idle, where, error):
    gate, a = Gate(), member(idle)

    def fail(call=None):
        gate()
        raise error

    failing = start(lambda: get(idle, **{where: fail}))
    gate.awaitArrival()
    waiter = startWaiting(idle, 2)
    put(idle, a)  # wakes the first, which cannot take it
    gate.open()
    with pytest.raises(error):
        failing.result()
    assert waiter.result() is a
    assert not idle.waiters


@pytest.mark.parametrize("isOpen", [True, False])
def test_who_leaves_wakes_the_next_while_something_is_there(idle, isOpen):
    """Two were put, and both wakes reached the first waiter, which takes only one."""
    gate, (a, b) = Gate(), [member(idle, isOpen) for _ in range(2)]

    def look(call):
        return idle.pick(call, idle.openPicks) or idle.pick(call, idle.closedPicks)

    def lookLater(call):
        if idle.qsize():
            gate()
        return look(call)

    first = startWaiting(idle, 1, look=lookLater)
    second = startWaiting(idle, 2, look=look)
    put(idle, a)
    gate.awaitArrival()
    put(idle, b)
    gate.open()
    assert {first.result(), second.result()} == {a, b}


@pytest.fixture(params=[False, True], ids=["lock", "bell"])
def anySleep(monkeypatch, request):
    """Have those who wait sleep as they do with the GIL, and as without it."""
    monkeypatch.setattr("queuepool.core.idle.IS_BIASED", request.param)


@pytest.mark.usefixtures("anySleep")
def test_a_wake_up_before_the_sleep_is_not_lost(idle):
    gate, a = Gate(), member(idle)

    def pause(call):
        gate()  # it has looked, and does not sleep yet
        return NEVER

    waiter = start(lambda: get(idle, pause=pause))
    gate.awaitArrival()
    for _ in range(2):
        put(idle, a)
        assert idle.open.pop() is a
    put(idle, a)
    gate.open()
    assert waiter.result() is a


@pytest.mark.usefixtures("anySleep")
def test_a_wake_up_for_nothing_does_not_end_the_wait(idle):
    gate, a = Gate(), member(idle)

    def lookLater(call):
        if gate.isAwaited:
            gate()
        return idle.pick(call, idle.openPicks)

    gate.isAwaited = False
    waiter = startWaiting(idle, 1, seconds=PATIENCE, look=lookLater)
    gate.isAwaited = True
    idle.notify()
    gate.awaitArrival()
    gate.isAwaited = False
    gate.open()
    awaitTrue(lambda: idle.waiting() == 1)
    waiter.thread.join(0.02)
    put(idle, a)
    assert waiter.result() is a


@pytest.mark.usefixtures("anySleep")
def test_of_many_wake_ups_before_the_sleep_the_first_ends_it_and_no_later_one(idle):
    waiter = Waiter()
    assert not waiter.sleep(0.0)
    for _ in range(3):
        waiter.wake()
    assert waiter.sleep(PATIENCE)
    assert not waiter.sleep(0.001)


def test_nobody_needs_to_be_there_to_be_notified(idle):
    idle.notify()
    assert idle.waiting() == 0


# -- the line heals

def test_a_waiter_whose_frame_is_gone_holds_up_nobody(idle):
    a = member(idle)
    idle.waiters.append(ref(Waiter()))
    waiter = startWaiting(idle, 1)
    put(idle, a)
    assert waiter.result() is a
    assert not idle.waiters


def stick(idle, monkeypatch):
    """Leave a waiter at the head of the line that waits no more; it lives while this is kept."""
    def interrupt(place):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(idle, "_leave", interrupt)
        with pytest.raises(KeyboardInterrupt) as caught:
            get(idle, seconds=0)
    assert idle.waiting() == 1
    return caught


def test_a_first_waiter_that_does_not_pick_is_removed(idle, impatient, monkeypatch):
    stuck, (a,) = stick(idle, monkeypatch), members(idle, 1)
    assert get(idle, seconds=PATIENCE) is a
    assert not idle.waiters and stuck


def test_it_is_removed_by_those_with_short_time_outs_too(idle, monkeypatch):
    """None of them waits for long enough to see it twice."""
    monkeypatch.setattr("queuepool.core.idle.LOOK_AGAIN_TIME", 0.01)
    stuck, (a,) = stick(idle, monkeypatch), members(idle, 1)
    assert a in [get(idle, seconds=0.01) for _ in range(20)]
    assert not idle.waiters and stuck


def test_a_line_that_does_not_move_because_nothing_is_there_keeps_its_order(idle, impatient):
    gate, a = Gate(), member(idle)
    counter = itertools.count()

    def pause(call):
        if next(counter) == 20:  # it has checked the line that often
            gate()
        return NEVER

    first = startWaiting(idle, 1)
    second = startWaiting(idle, 2, pause=pause)
    gate.awaitArrival()
    gate.open()
    assert idle.waiting() == 2
    for waiter in first, second:
        put(idle, a)
        assert waiter.result() is a


def test_a_line_that_waits_for_the_end_of_an_outage_keeps_its_order(idle, impatient):
    """Something closed is idle all the time, and the first waiter is right not to pick it."""
    isReady, counter, (a,) = threading.Event(), itertools.count(), members(idle, 1, isOpen=False)

    def look(call):
        return isReady.is_set() and idle.pick(call, idle.closedPicks)

    def pause(call):
        next(counter)
        return 3600.0

    waiters = [startWaiting(idle, number + 1, look=look, pause=pause) for number in range(3)]
    checked = next(counter)
    awaitTrue(lambda: next(counter) > checked + 300)
    isReady.set()
    for waiter in waiters:
        idle.notify()
        assert waiter.result() is a
        put(idle, a)
    assert not idle.waiters


@pytest.mark.parametrize("others", [0, 1])
def test_a_first_waiter_that_was_only_slow_stands_in_line_again(idle, impatient, others):
    gate, a = Gate(), member(idle)

    def lookLate(call):
        if idle.open:
            gate()
        return idle.pick(call, idle.openPicks)

    slow = startWaiting(idle, 1, look=lookLate)
    put(idle, a)
    gate.awaitArrival()
    assert get(idle, seconds=PATIENCE) is a  # it removed the slow one
    assert not idle.waiters
    waiters = [startWaiting(idle, 1) for _ in range(others)]
    gate.open()
    awaitTrue(lambda: idle.waiting() == 1 + others, patience=3.0)
    for waiter in [slow, *waiters]:
        put(idle, a)
        assert waiter.result() is a


def test_who_waits_finds_the_room_of_one_that_could_not_come_back(impatient):
    idle = IdleQueue(1)
    slot = member(idle)._slot  # its resource is gone already
    slot.place = Place.TAKEN
    assert idle.waitFor(newCall(), lambda call: idle.hasRoom, PATIENCE, patiently)
    assert list(idle.lost) == [slot]


# -- the end

def test_all_who_wait_are_told_of_the_shutdown(idle):
    waiters = [startWaiting(idle, number + 1) for number in range(3)]
    idle.shutdown()
    idle.shutdown()
    for waiter in waiters:
        with pytest.raises(ShutDown):
            waiter.result()
    assert idle.isShutDown and idle.waiting() == 0


def test_after_the_shutdown_nobody_waits_and_takes_still_see_a_line(idle):
    idle.shutdown()
    for isFirst in False, True:
        with pytest.raises(ShutDown):
            get(idle, isFirst=isFirst)
    assert idle.waiters and idle.first() is not None


def test_the_end_is_told_to_all_when_the_last_member_is_gone(idle):
    a, b = member(idle)._slot, member(idle)._slot
    idle.evict(member(idle)._slot)
    idle.shutdown()
    assert not idle.awaitEnd(0.001)
    watchers = [start(idle.awaitEnd, PATIENCE) for _ in range(3)]
    idle.evict(a)
    assert all(watcher.thread.is_alive() for watcher in watchers)
    idle.evict(b)
    assert [watcher.result() for watcher in watchers] == [True] * 3
    assert idle.awaitEnd(0.0)


def test_the_end_of_a_queue_without_members_is_its_shutdown(idle):
    idle.shutdown()
    assert idle.awaitEnd(0.0)


def test_who_waits_for_the_end_looks_now_and_then_what_came_back(idle, impatient):
    slot = member(idle)._slot
    idle.shutdown()
    assert not idle.awaitEnd(NEVER)
    idle.evict(slot)
    assert idle.awaitEnd(NEVER)
