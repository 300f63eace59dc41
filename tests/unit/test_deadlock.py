"""findKnot: whether all that could serve a waiter is held by threads that wait themselves."""

from types import SimpleNamespace

import pytest

from queuepool.core import deadlock
from queuepool.core.deadlock import findKnot
from queuepool.core.idle import IdleQueue
from queuepool.core.slot import Place, Slot


def taker(waitsFor=None, hasEnded=False):
    waits = None if waitsFor is None else (waitsFor, "name", object())
    return SimpleNamespace(waits=waits, hasEnded=hasEnded)


def member(queue, takenBy, place=Place.TAKEN):
    slot = Slot()
    assert queue.admit(slot)
    slot.takenBy, slot.place = takenBy, place
    return slot


@pytest.fixture
def queues():
    return IdleQueue(2), IdleQueue(1), IdleQueue(1)


def tie(queues):
    """Have two that hold all of the first queue wait there and in the second, and so on."""
    first, second, third = queues
    return [member(first, taker(first)), member(first, taker(second)),
            member(second, taker(third)), member(third, taker(first))]


def test_all_who_hold_what_a_waiter_needs_are_found(queues):
    slots = tie(queues)
    for queue in queues:
        assert {slot for _, slot, _ in findKnot(queue)} == set(map(id, slots))
    assert findKnot(queues[0]) == findKnot(queues[0])


@pytest.mark.parametrize("number", range(4))
def test_one_that_does_not_wait_undoes_it(queues, number):
    slot = tie(queues)[number]
    before, slot.takenBy = slot.takenBy, taker()
    assert not any(map(findKnot, queues))
    slot.takenBy = taker(queues[0], hasEnded=True)
    assert not any(map(findKnot, queues))
    slot.takenBy = before
    for slot.place in Place.IDLE, Place.RETURNED, Place.GONE:
        assert not any(map(findKnot, queues)), slot.place
    for slot.place in Place.TAKEN, Place.HELD:  # a hook may take from another pool
        assert all(map(findKnot, queues))


@pytest.mark.parametrize("number", range(3))
def test_room_or_an_end_undoes_it(queues, number):
    tie(queues)
    queues[number].maxsize += 1
    assert not any(map(findKnot, queues))
    queues[number].maxsize -= 1
    assert all(map(findKnot, queues))
    queues[number].shutdown()
    assert not any(map(findKnot, queues))


def test_a_waiter_elsewhere_does_not_matter(queues):
    first, second, _ = queues
    member(first, taker(first))
    member(first, taker(first))
    member(second, taker())
    assert findKnot(first) and not findKnot(second)


def test_more_members_than_the_capacity_are_no_room(queues):
    first = queues[0]
    member(first, taker(first)), member(first, taker(first))
    first.maxsize = 1
    assert len(findKnot(first)) == 2


def test_a_queue_without_members_is_no_knot():
    queue = IdleQueue(1)
    assert findKnot(queue) is None


@pytest.mark.parametrize("change", ["takes", "waits"])
def test_what_changes_between_the_two_looks_is_no_knot(queues, change, monkeypatch):
    """One that was put and taken again, or whose taker waits anew, was not stuck."""
    slot = tie(queues)[0]
    look, looks = deadlock._look, []

    def lookAndChange(*args):
        looks.append(look(*args))
        if change == "takes":
            slot.takes += 1
        else:
            slot.takenBy.waits = (*slot.takenBy.waits[:2], object())
        return looks[-1]

    monkeypatch.setattr(deadlock, "_look", lookAndChange)
    assert findKnot(queues[0]) is None
    assert all(looks) and len(looks) == 2
