"""The limits: which one is reached first, and the checks of what users pass."""

import sys
import threading

import pytest

from queuepool.core.limits import Limits, checkInteger, checkLimit, checkSeconds, describe, isNumber
from queuepool.core.slot import NEVER, PAST, Slot
from queuepool.stats import Reason


def opened(limits, now=0.0):
    """Return the slot of what was opened at that instant."""
    slot = Slot()
    slot.generation = limits.generation
    limits.start(slot, now)
    return slot


def test_what_is_closed_is_never_due():
    limits = Limits(0.0, 0.0, 1, 0.0)
    slot = Slot()
    slot.takes = 5
    assert limits.due(slot, 1e9) is None


@pytest.mark.parametrize("now, takes, reason", [
    (10.0, 2, None), (10.5, 2, Reason.IDLE), (10.0, 3, Reason.USAGE), (10.5, 3, Reason.USAGE),
    (20.0, 2, Reason.IDLE), (20.5, 2, Reason.AGE), (20.5, 3, Reason.AGE)])
def test_at_a_limit_it_may_stay_and_beyond_it_is_due(now, takes, reason):
    limits = Limits(10.0, 20.0, 3, 0.0)
    slot = opened(limits)
    slot.takes = takes
    assert limits.due(slot, now) is reason
    limits.generation = object()
    assert limits.due(slot, now) is Reason.INVALIDATED


def test_usage_counts_from_the_opening():
    limits = Limits(None, None, 2, 0.0)
    slot = Slot()
    slot.generation, slot.takes = limits.generation, 100
    limits.start(slot, 0.0)
    slot.takes += 1
    assert limits.due(slot, 0.0) is None
    slot.takes += 1
    assert limits.due(slot, 0.0) is Reason.USAGE


def test_none_is_no_limit():
    limits = Limits(None, None, None, 1.0)
    slot = opened(limits)
    slot.takes = 10 ** 9
    assert limits.due(slot, 1e300) is None
    assert (limits.maxIdleTime, limits.maxOpenTime) == (NEVER, NEVER)
    assert limits.maxUsageCount == sys.maxsize


@pytest.mark.parametrize("idle, isInvalid, isLong, checkAt, shortUntil", [
    (10.0, False, False, 10.0, 10.0), (30.0, False, False, 20.0, 20.0),
    (None, False, False, 20.0, 20.0), (10.0, False, True, 10.0, PAST),
    (10.0, True, False, PAST, PAST)])
def test_after_a_check_it_goes_the_short_way_until_it_may_be_due(
        idle, isInvalid, isLong, checkAt, shortUntil):
    """What is invalid is checked each time; what has hooks never goes it."""
    limits = Limits(idle, 20.0, 3, 0.0)
    slot = opened(limits)
    slot.isLong = isLong
    if isInvalid:
        limits.generation = object()
    limits.resetCheck(slot)
    assert (slot.checkAt, slot.shortUntil) == (checkAt, shortUntil)


# -- what users pass

@pytest.mark.parametrize("value, text", [
    (-1, "-1"), (1.5, "1.5"), (True, "True"), (None, "a value of type NoneType"),
    ("password=secret", "a value of type str"), (["secret"], "a value of type list")])
def test_only_numbers_are_printed(value, text):
    assert describe(value) == text


def test_truth_values_are_no_numbers():
    assert [isNumber(value) for value in (1, 1.5, True, "1", None)] == [
        True, True, False, False, False]


@pytest.mark.parametrize("value, isRight", [
    (2, True), (10 ** 30, True), (1, False), (2.0, False), (True, False), ("2", False),
    (None, False)])
def test_integers_have_a_least_value(value, isRight):
    if isRight:
        checkInteger("it", value, 2)
    else:
        with pytest.raises(ValueError, match="^it must be an integer >= 2, not "):
            checkInteger("it", value, 2)


@pytest.mark.parametrize("value, seconds", [
    (None, None), (0, 0.0), (1.5, 1.5), (threading.TIMEOUT_MAX, threading.TIMEOUT_MAX),
    (2 * threading.TIMEOUT_MAX, None), (float("inf"), None), (10 ** 400, None)])
def test_more_seconds_than_a_thread_can_wait_are_no_limit(value, seconds):
    assert checkSeconds("it", value) == seconds
    assert checkLimit("it", value) == (NEVER if seconds is None else seconds)
    assert not isinstance(checkSeconds("it", value), int)


@pytest.mark.parametrize("value", [-1, -0.5, float("nan"), True, "1", b"1", [1], 1j])
@pytest.mark.parametrize("check", [checkSeconds, checkLimit])
def test_other_values_are_no_seconds(check, value):
    with pytest.raises(ValueError, match="^it must be None or a number of seconds >= 0, not "):
        check("it", value)
