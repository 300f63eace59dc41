"""The queue: places, order and the waiting line, without a pool."""

import queue
from collections import deque

import pytest

from queuepool import PoolClosed, PoolError, Resource
from queuepool.idle import SHUT, IdleQueue, Place
from queuepool.resource import Slot
from tests.helpers import awaitTrue, start


@pytest.fixture
def places():
    return IdleQueue("p", 3, lambda watch: None, lambda: None)


def member(places, name, isOpen=True):
    """Make a resource a member, held by the test."""
    resource = Resource(name)
    resource._isOpen = isOpen
    places.admit(Slot(name), resource)
    return resource


def laid(places, *names, isOpen=True):
    resources = [member(places, name, isOpen) for name in names]
    for resource in resources:
        places.put(resource)
    return resources


def awaitLine(places, count):
    awaitTrue(lambda: places.waiting() == count)


def test_it_is_a_lifo_queue():
    assert issubclass(IdleQueue, queue.LifoQueue)


def test_the_last_put_is_got_first(places):
    a, b, c = laid(places, *"abc")
    assert [places.get() for _ in range(3)] == [c, b, a]


def test_an_open_one_is_got_before_a_closed_one_whenever_it_was_put(places):
    (a,) = laid(places, "a")
    b, c = laid(places, *"bc", isOpen=False)
    assert [places.get() for _ in range(3)] == [a, c, b]


def test_its_size_counts_what_lies_there_open_or_closed(places):
    laid(places, "a")
    laid(places, "b", isOpen=False)
    held = member(places, "c")
    assert places.qsize() == 2 and not places.empty() and not places.full()
    places.put(held)
    assert places.qsize() == 3 and places.full()


def test_get_without_blocking_raises_empty(places):
    with pytest.raises(queue.Empty):
        places.get(block=False)
    with pytest.raises(queue.Empty):
        places.get_nowait()


def test_get_raises_empty_at_the_end_of_its_time(places):
    with pytest.raises(queue.Empty):
        places.get(timeout=0.01)
    assert places.waiting() == 0


def test_who_waits_is_served_first_come_first_served(places):
    a = member(places, "a")
    served = []

    def getAndTell(number):
        resource = places.get()
        served.append(number)
        return resource

    takers = []
    for number in range(5):
        takers.append(start(getAndTell, number))
        awaitLine(places, number + 1)
    for taker in takers:
        places.put(a)
        assert taker.result() is a
    assert served == [0, 1, 2, 3, 4]


def test_a_newcomer_does_not_overtake_one_who_waits(places):
    a = member(places, "a")
    waiter = start(places.get)
    awaitLine(places, 1)
    places.layDown(a)  # as in the middle of a put, before it looks at the line
    with pytest.raises(queue.Empty):
        places.get(block=False)
    places.serve()
    assert waiter.result() is a


def test_who_stands_in_line_looks_once_more_at_what_lies_there(places):
    a = member(places, "a")
    places.layDown(a)
    places.line.append(places.layDown)  # one who stands there, so that nothing is got at once
    assert places.get(timeout=30) is a


def test_one_whose_place_was_lost_stands_first_in_line_again(places):
    a, b = member(places, "a"), member(places, "b")
    first = start(places.get)
    awaitLine(places, 1)
    second = start(places.get)
    awaitLine(places, 2)
    places.line.popleft()  # a giver is interrupted here: the place is dropped
    awaitLine(places, 2)
    places.put(a)
    assert first.result() is a
    places.put(b)
    assert second.result() is b


def test_one_whose_place_was_lost_keeps_its_deadline(places):
    class Losing(type(places.line)):
        """A line that loses the first who comes."""

        lost = 0

        def append(self, give):
            self.lost += 1

    places.line = Losing()
    with pytest.raises(queue.Empty):
        places.get(timeout=0.01)
    assert (places.line.lost, places.waiting()) == (1, 0)


def test_serve_lays_it_down_again_when_the_last_one_left_meanwhile(places):
    class Leaving:
        """A line whose one waiter leaves between the look and the pop."""

        def __init__(self):
            self.looks = [True, False]

        def __bool__(self):
            return self.looks.pop(0)

        def popleft(self):
            raise IndexError

    (a,) = laid(places, "a")
    line, places.line = places.line, Leaving()
    places.serve()
    places.line = line
    assert places.get(block=False) is a


def test_a_waiter_that_times_out_while_it_is_served_gets_what_it_is_given(places, monkeypatch):
    a = member(places, "a")

    class LateLine(type(places.line)):
        """A line that serves its waiter in the moment it times out."""

        def remove(self, give):
            if self:
                self.popleft()(a)
            super().remove(give)

    places.line = LateLine()
    assert places.get(timeout=0.01) is a


def test_a_waiter_that_is_interrupted_while_it_is_served_lays_it_down(places, monkeypatch):
    a = member(places, "a")

    class Interrupting:
        def __init__(self):
            self.items = []

        def put(self, item, block=True):
            self.items.append(item)

        def get(self, timeout=None):
            if timeout is not None:
                places.line.popleft()(a)
                raise KeyboardInterrupt
            return self.items.pop(0)

    monkeypatch.setattr("queuepool.idle.SimpleQueue", Interrupting)
    with pytest.raises(KeyboardInterrupt):
        places.get(timeout=1)
    assert places.get(block=False) is a


def test_a_waiter_that_is_interrupted_after_its_place_was_lost_has_nothing_to_lay_down(
        places, monkeypatch):
    class Interrupting:
        def __init__(self):
            self.items = []

        def put(self, item, block=True):
            self.items.append(item)

        def get(self, timeout=None):
            if timeout is not None:
                places.line.popleft()
                raise KeyboardInterrupt
            return self.items.pop(0)

    monkeypatch.setattr("queuepool.idle.SimpleQueue", Interrupting)
    with pytest.raises(KeyboardInterrupt):
        places.get(timeout=1)
    assert (places.qsize(), places.waiting()) == (0, 0)


def test_nobody_is_admitted_beyond_the_capacity(places):
    for name in "abc":
        member(places, name)
    with pytest.raises(PoolError, match="pool 'p': 'd' was not put: it already has all 3"):
        member(places, "d")


def test_the_dismissed_makes_room(places):
    a, _, _ = [member(places, name) for name in "abc"]
    assert places.dismiss(a)
    assert places.placeOf(a) is Place.GONE
    member(places, "d")


def test_only_the_surplus_is_dismissed_when_asked_so(places):
    a, b, c = [member(places, name) for name in "abc"]
    assert not places.dismiss(a, onlySurplus=True)
    places.capacity = 2
    assert places.isOverfull
    assert places.dismiss(a, onlySurplus=True)
    assert not places.isOverfull
    assert not places.dismiss(b, onlySurplus=True)
    assert places.isMember(b) and not places.isMember(a)


def test_the_place_of_a_resource_is_exactly_one(places):
    a = Resource("a")
    assert places.placeOf(a) is Place.GONE
    places.admit(Slot("a"), a)
    assert places.placeOf(a) is Place.HELD
    for a._isOpen in True, False:
        places.put(a)
        assert places.placeOf(a) is Place.IDLE
        places.get()
        assert places.placeOf(a) is Place.HELD
    a._slot.takenAt = 0.0
    assert places.placeOf(a) is Place.TAKEN


def test_each_place_says_what_it_means():
    assert [place.value for place in Place] == [
        "idle: it lies in the pool",
        "held: a call of the pool is running its hooks",
        "taken: its user has it",
        "gone: it left the pool for good, or never was in it"]


def test_the_coldest_is_a_closed_one_then_the_longest_idle(places):
    a, b = laid(places, *"ab")
    (c,) = laid(places, "c", isOpen=False)
    assert [places.pickColdest() for _ in range(4)] == [c, a, b, None]


def test_a_claim_looks_anew_when_a_finalizer_changed_the_place_meanwhile(places):
    class Disturbed(deque):
        def remove(self, value):
            places.open = undisturbed
            raise IndexError("deque mutated during remove().")

    a, b, c = laid(places, *"abc")
    undisturbed, places.open = places.open, Disturbed()
    assert places.claim(b._slot) is b
    assert list(places.open) == [a, c]


def test_a_claim_that_comes_too_late_gets_nothing(places):
    (a,) = laid(places, "a")
    assert places.get() is a
    assert places.claim(a._slot) is None


def test_a_claim_of_what_was_dropped_gets_nothing(places):
    assert places.claim(Slot("of nothing")) is None


def test_a_pick_that_comes_too_late_gets_the_next(places):
    """Something lay there when it looked, and was taken before it reached for it."""
    class Emptied(deque):
        def __len__(self):
            return 1

    (a,) = laid(places, "a", isOpen=False)
    places.open = Emptied()
    assert places.pick() is a


def test_a_pick_of_a_closed_one_that_comes_too_late_gets_nothing(places):
    class Emptied(dict):
        def __len__(self):
            return 1

    places.closed = Emptied()
    assert places.pick() is None


def test_everyone_in_line_is_told_when_it_is_shut(places):
    waiters = [start(places.get) for _ in range(3)]
    awaitLine(places, 3)
    places.shut()
    for waiter in waiters:
        with pytest.raises(PoolClosed):
            waiter.result()
    assert places.waiting() == 0


def test_nobody_stands_in_line_of_a_shut_queue(places):
    places.shut()
    places.shut()
    for arguments in {"block": False}, {"timeout": 0}, {}:
        with pytest.raises(PoolClosed):
            places.get(**arguments)
    assert places.line is SHUT and len(SHUT) == 1


def test_one_who_comes_in_the_moment_it_is_shut_is_told(places):
    class ShuttingLine(type(places.line)):
        """A line that is replaced in the moment somebody comes to stand there."""

        def append(self, give):
            places.shut()
            super().append(give)

    places.line = ShuttingLine()
    with pytest.raises(PoolClosed):
        places.get()
    assert places.waiting() == 0


def test_the_end_of_a_shut_queue_is_its_last_members(places):
    a, b = member(places, "a"), member(places, "b")
    places.awaitEnd(0)  # nothing is told of a queue that lives
    places.shut()
    watchers = [start(places.awaitEnd, None) for _ in range(2)]
    places.dismiss(a)
    assert all(watcher.thread.is_alive() for watcher in watchers)
    assert places.forget(b._slot.watch) is b._slot
    places.noteEnd()
    for watcher in watchers:
        watcher.result()


def test_a_dropped_member_is_forgotten_once(places):
    slot = member(places, "a")._slot
    watch = slot.watch
    assert places.forget(watch) is slot
    assert (slot.watch, places.forget(watch), len(places.members)) == (None, None, 0)


def test_the_next_one_that_fills_a_slot_takes_the_place_of_the_former(places):
    a = member(places, "a")
    built = Resource("a")
    places.fill(a._slot, built, a._slot.watch)
    assert places.isMember(built) and not places.isMember(a)
    assert len(places.members) == 1


def test_nobody_is_admitted_twice(places):
    a = member(places, "a")
    with pytest.raises(PoolError, match="pool 'p': 'a' was put already"):
        places.admit(Slot("a"), a)
    assert len(places.members) == 1


def test_what_an_interruption_lost_is_mended_by_those_who_wait(monkeypatch):
    """A slot that an interruption has lost comes back although nobody puts anything."""
    monkeypatch.setattr("queuepool.idle.LOOK_AGAIN_TIME", 0.001)
    mended = []

    def mend():
        if not mended:
            mended.append(member(places, "a"))
            places.put(mended[0])

    places = IdleQueue("p", 1, lambda watch: None, mend)
    assert places.get(timeout=30) is mended[0]


def test_dismissing_twice_does_no_harm(places):
    a = member(places, "a")
    slot = a._slot
    places.dismiss(a)
    a._slot = slot
    assert places.dismiss(a) and len(places.members) == 0


# -- in doubt


def test_in_doubt_closed_ones_go_out_one_at_a_time(places):
    a, b, c = laid(places, *"abc", isOpen=False)
    places.isDoubtful = True
    assert places.pick() is c
    assert places.pick() is None
    places.put(c)
    assert places.pick() is c
    places.endDoubt()
    assert [places.pick() for _ in range(2)] == [b, a]


def test_in_doubt_open_ones_go_out_as_usual(places):
    laid(places, "a", isOpen=False)
    b, c = laid(places, *"bc")
    places.isDoubtful = True
    assert [places.pick() for _ in range(2)] == [c, b]


def test_of_two_who_pick_at_once_in_doubt_one_lays_it_down_again(places):
    (a,) = laid(places, "a", isOpen=False)
    places.isDoubtful = True
    claimTrial = places.claimTrial

    def claimTooLate(slot):
        places._trial["slot"] = Slot("another's")
        return claimTrial(slot)

    places.claimTrial = claimTooLate
    assert places.pick() is None
    assert places.placeOf(a) is Place.IDLE


def test_the_end_of_the_doubt_serves_who_waits(places):
    a, b = laid(places, *"ab", isOpen=False)
    places.isDoubtful = True
    assert places.get() is b
    waiter = start(places.get)
    awaitLine(places, 1)
    places.endDoubt()
    assert waiter.result() is a


def test_what_is_no_member_any_more_is_not_replaced(places):
    a = member(places, "a")
    former = a._slot.watch
    places.dismiss(a)
    assert not places.fill(Slot("a"), Resource("b"), former)
    assert not places.members
