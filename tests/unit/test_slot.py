"""The slot and the ledger: stamps and counters, of which none ends with its resource."""

import threading

from queuepool.core.slot import NOWHERE, PAST, Ledger, Place, Slot
from queuepool.stats import Reason
from tests.helpers import PATIENCE, start


def test_each_place_says_what_it_means():
    assert {name: place for name, place in vars(Place).items() if name.isupper()} == {
        "IDLE": "idle in the pool",
        "HELD": "in the hands of a pool call that runs its hooks",
        "TAKEN": "checked out",
        "RETURNED": "back in the pool, to be closed before it is used again",
        "GONE": "not in a pool"}


def test_the_counters_go_on_with_the_next_resource_and_all_else_begins_anew():
    slot = Slot()
    assert slot.waitCounts is slot.openCounts is slot.useCounts is None
    fresh = {field: getattr(slot, field) for field in Slot.__slots__}
    assert not any(fresh[flag] for flag in (
        "isLong", "hasRepairHooks", "isTriedLast", "droppedFrom", "useTime", "useMax"))
    slot.takes = slot.takesAtOpen = 7
    slot.countOpening(2.0)
    slot.countWait(3.0)
    slot.countClose(Reason.AGE)
    assert sum(slot.waitCounts) == sum(slot.openCounts) == 1
    counters = {"takes": 7, "takesAtOpen": 7, "openTime": 2.0, "openMax": 2.0, "waits": 1,
                "waitTime": 3.0, "waitMax": 3.0, "closes": {Reason.AGE: 1},
                "waitCounts": slot.waitCounts, "openCounts": slot.openCounts}
    for field in set(fresh) - set(counters) - set(
            "opens openErrors closeErrors timeouts useTime useMax useCounts".split()):
        setattr(slot, field, "of the one before")
    slot.reset("next")
    assert {field: getattr(slot, field) for field in Slot.__slots__} == {
        **fresh, **counters, "name": "next"}


def test_asked_to_check_it_goes_the_long_way_once():
    slot = Slot()
    slot.checkAt = slot.shortUntil = 100.0
    slot.askToCheck()
    assert (slot.checkAt, slot.shortUntil) == (PAST, PAST)


def test_times_are_summed_and_the_longest_is_kept():
    slot = Slot()
    for seconds in 2.0, 5.0, 1.0:
        slot.countOpening(seconds)
        slot.countWait(seconds)
    assert (slot.openTime, slot.openMax) == (8.0, 5.0)
    assert (slot.waits, slot.waitTime, slot.waitMax) == (3, 8.0, 5.0)


def test_what_is_counted_as_closed_is_closed():
    slot = Slot()
    for reason in Reason.AGE, Reason.USER, Reason.AGE:
        slot.openedAt = 1.0
        slot.countClose(reason)
        assert slot.openedAt is None
    assert slot.closes == {Reason.AGE: 2, Reason.USER: 1}


def test_the_ledger_sums_over_all_slots_that_it_ever_issued():
    ledger = Ledger()
    assert (ledger.sum("takes"), ledger.max("openMax")) == (0, 0.0)
    assert ledger.closes() == dict.fromkeys(Reason, 0)
    for takes in 1, 2, 4:
        slot = ledger.issue()
        slot.takes = takes
        slot.countOpening(float(takes))
        slot.countClose(Reason.USAGE)
        slot.countClose(Reason.IDLE)
    ledger.keep(slot)
    assert (ledger.sum("takes"), ledger.max("openMax")) == (7, 4.0)
    assert ledger.closes() == {**dict.fromkeys(Reason, 0), Reason.USAGE: 3, Reason.IDLE: 3}


def test_a_slot_that_was_taken_back_is_issued_again():
    ledger = Ledger()
    first, second = ledger.issue(), ledger.issue()
    assert first is not second
    ledger.keep(first)
    assert ledger.issue() is first
    assert ledger.issue() not in (first, second)


def test_of_many_who_are_issued_slots_at_once_no_two_have_the_same():
    ledger = Ledger()
    barrier = threading.Barrier(8)

    def count():
        barrier.wait(PATIENCE)
        for _ in range(500):
            slot = ledger.issue()
            slot.takes += 1  # not atomic: a slot that two have loses counts
            ledger.keep(slot)

    for each in [start(count) for _ in range(8)]:
        each.result()
    assert ledger.sum("takes") == 8 * 500


def test_what_is_in_no_pool_is_gone_and_closed():
    assert (NOWHERE.place, NOWHERE.queue, NOWHERE.openedAt) == (Place.GONE, None, None)
    assert NOWHERE.takes == NOWHERE.takesAtOpen == 0
