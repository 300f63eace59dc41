"""Arguments that were taken though they are wrong, or printed though they are secret."""

import decimal
import sys
import tracemalloc

import pytest

from queuepool import Pool, PoolError
from tests.helpers import PlainResource, checkClosed
from tests.reports.situations import poolOf

SECRET = "host=db password=hunter2"
NAN = float("nan")

INTEGERS = [SECRET, None, 1.0, True, NAN, -1, [SECRET], {SECRET: 1}, decimal.Decimal(1), object()]
SECONDS = [SECRET, True, NAN, -1, -0.5, float("-inf"), [SECRET], decimal.Decimal(1), object(), 1j]
NUMBERS = {
    "capacity": INTEGERS + [0],
    "minOpen": INTEGERS,
    "maxUsageCount": [value for value in INTEGERS if value is not None] + [0],
    "jitter": SECONDS + [None, 1.1],
    **dict.fromkeys(["maxIdleTime", "maxOpenTime", "takeTimeout", "openRetryTime", "leakTime"],
                    SECONDS),
}


def check(caught, what):
    message = str(caught.value)
    assert message.startswith(what + " must be "), message
    assert "hunter2" not in message
    assert " 0x" not in message


@pytest.mark.parametrize("what, value", [
    (what, value) for what, values in NUMBERS.items() for value in values])
def test_a_wrong_number_is_refused_by_its_name(what, value):
    options = dict(capacity=1, factory=PlainResource)
    options[what] = value
    with pytest.raises((ValueError, TypeError)) as caught:
        Pool("p", **options)
    check(caught, what)


@pytest.mark.parametrize("what", ["factory", "clock", "closeOnException"])
@pytest.mark.parametrize("value", [SECRET, [SECRET], 1.5, object(), {}])
def test_what_is_not_callable_is_refused_by_its_name(what, value):
    with pytest.raises((ValueError, TypeError)) as caught:
        Pool("p", 1, **{what: value})
    check(caught, what)


@pytest.mark.parametrize("value", [
    (), int, object, (OSError, int), (OSError, SECRET), [OSError], OSError("x")])
def test_what_is_no_rule_for_exceptions_is_refused(value):
    if value == ():
        Pool("p", 1, closeOnException=value)  # no class closes
        return
    with pytest.raises(ValueError) as caught:
        Pool("p", 1, closeOnException=value)
    check(caught, "closeOnException")


@pytest.mark.parametrize("name", [None, 1, b"app", ["app"], PlainResource, object()])
def test_a_name_is_a_str(name):
    with pytest.raises(TypeError) as caught:
        Pool(name, 1)
    check(caught, "name")


def test_a_dsn_in_the_place_of_the_capacity_is_not_shown():
    for values in ("app", SECRET), ("app", 1, SECRET), ("app", 1, 1, SECRET), (
            "app", 1, 1, 1, SECRET), ("app", 1, 1, 1, 1, SECRET):
        with pytest.raises((ValueError, TypeError)) as caught:
            Pool(*values)
        check(caught, ["capacity", "maxIdleTime", "maxOpenTime", "maxUsageCount",
                       "closeOnException"][len(values) - 2])


def test_min_open_is_at_most_the_capacity():
    with pytest.raises(ValueError, match=r"minOpen must be <= capacity \(2\), not 3"):
        Pool("p", 2, minOpen=3)


METHODS = {
    "take": ("timeout", SECONDS), "close": ("timeout", SECONDS),
    "invalidate": ("timeout", SECONDS), "warm": ("timeout", SECONDS),
    "startRecycler": ("interval", SECONDS + [None, 0, 0.0]),
    "resize": ("capacity", INTEGERS + [0]),
}


@pytest.mark.parametrize("method, value", [
    (method, value) for method, (_, values) in METHODS.items() for value in values])
def test_a_wrong_argument_of_a_method_changes_nothing(method, value, world):
    pool = poolOf(2, PlainResource, world)
    pool.put(pool.take())
    with pytest.raises((ValueError, TypeError)) as caught:
        getattr(pool, method)(value)
    check(caught, METHODS[method][0])
    assert not pool.closed and pool.capacity == 2 and world.live == 1
    with pool.take(timeout=0):
        assert world.opened == 1
    checkClosed(pool, world)


@pytest.mark.parametrize("value", [0, 0.0, 1, 10 ** 400, float("inf"), sys.float_info.max])
def test_any_time_from_zero_on_is_right(value, world):
    pool = Pool("p", 1, value, value, factory=lambda name: PlainResource(name, world),
                takeTimeout=value, openRetryTime=value, leakTime=value)
    pool.put(pool.take(value))
    pool.invalidate(value)
    pool.warm(value)
    pool.recycle()
    assert pool.close(value) == 0


# -- a huge capacity


@pytest.mark.parametrize("capacity", [10 ** 6, 2 ** 31, sys.maxsize, 10 ** 30])
@pytest.mark.parametrize("way", ["new", "resize", "minOpen"])
def test_a_huge_capacity_costs_nothing(way, capacity, kind, isSeeded, world):
    tracemalloc.start()
    try:
        if way == "resize":
            pool = poolOf(2, kind, world, isSeeded)
            pool.resize(capacity)
        elif isSeeded:
            pool = Pool("p", capacity)
            pool.put(kind("a", world))
        else:
            pool = Pool("p", capacity, factory=lambda name: kind(name, world),
                        minOpen=capacity if way == "minOpen" else 0)
        with pool.take(timeout=0):
            pass
        assert pool.stats().capacity == pool.capacity == capacity
        assert pool.stats().taken == 0
        repr(pool)
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()
    pool.resize(1)
    checkClosed(pool, world)


# -- secrets that are put


@pytest.mark.parametrize("thing", [SECRET, [SECRET], {"password": "hunter2"}, None, 7])
def test_what_is_put_or_built_is_never_printed(thing):
    with pytest.raises(PoolError) as caught:
        Pool("p", 1).put(thing)
    assert "hunter2" not in str(caught.value)
    with pytest.raises(PoolError) as caught:
        Pool("p", 1, factory=lambda name: thing).take()
    assert "hunter2" not in str(caught.value)
    assert "factory" in str(caught.value)


def test_an_exception_of_open_is_not_part_of_the_text_of_the_time_out(kind, clock):
    """A driver's text may hold the password; the exception itself is the cause."""
    class Down(kind):
        def open(self):
            clock.advance(10.0)
            raise OSError(SECRET)

    pool = poolOf(1, Down, None, clock=clock, openRetryTime=0.01)
    with pytest.raises(TimeoutError) as caught:
        pool.take()
    assert "hunter2" not in str(caught.value)
    assert "OSError" in str(caught.value)
    assert "hunter2" in str(caught.value.__cause__)
