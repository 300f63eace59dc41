"""One resource that cannot be used, such as one of a host that is down, among good ones."""

import itertools

import pytest

from queuepool import Pool, PoolTimeout
from tests.helpers import FakeResource, PlainResource, checkWhole
from tests.reports.situations import CostlyWorld, poolOf

ATTEMPTS = 12


def badOf(kind, name="bad"):
    """Return a class of which those with this name cannot be opened while it is down."""
    class OneBad(kind):
        isDown = True

        def open(self):
            tried.append(self.name)
            if self.name == name and OneBad.isDown:
                raise ConnectionRefusedError(f"{self.name} is down")
            super().open()

    tried = OneBad.tried = []
    return OneBad


def seeded(count, badAt, kind, world, **options):
    pool = Pool("p", count, **options)
    for number in range(count):
        pool.put(kind("bad" if number == badAt else f"good-{number}", world))
    return pool


def countTakes(pool, attempts=ATTEMPTS, **options):
    """Return how many of some takes with a with block succeeded."""
    count = 0
    for _ in range(attempts):
        try:
            with pool.take(**options):
                count += 1
        except (ConnectionRefusedError, PoolTimeout):
            pass
    return count


@pytest.mark.parametrize("badAt", range(4))
@pytest.mark.parametrize("isInvalidated", [False, True], ids=["", "all invalidated each time"])
def test_the_good_ones_serve(isInvalidated, badAt, kind, world):
    oneBad = badOf(kind)
    pool = seeded(4, badAt, oneBad, world)
    count = 0
    for _ in range(ATTEMPTS):
        count += countTakes(pool, 1)
        if isInvalidated:
            pool.invalidate()
    assert count >= ATTEMPTS - 1
    assert oneBad.tried.count("bad") <= 1
    oneBad.isDown = False
    checkWhole(pool, world)


@pytest.mark.parametrize("badAt", range(4))
def test_with_retries_nobody_notices(badAt, kind, world):
    pool = seeded(4, badAt, badOf(kind), world, openRetryTime=5.0, takeTimeout=5.0)
    assert countTakes(pool) == ATTEMPTS


@pytest.mark.parametrize("badAt", range(3))
def test_the_good_ones_serve_at_once_if_all_are_needed(badAt, kind, world):
    oneBad = badOf(kind)
    pool = seeded(3, badAt, oneBad, world)
    taken = []
    for _ in range(6):
        try:
            taken.append(pool.take(timeout=0))
        except ConnectionRefusedError:
            pass
    assert sorted(resource.name for resource in taken) == sorted(
        f"good-{number}" for number in range(3) if number != badAt)
    for resource in taken:
        pool.put(resource)
    oneBad.isDown = False
    checkWhole(pool, world)


def test_two_bad_ones_of_four(kind, world):
    class TwoBad(kind):
        def open(self):
            if self.name in ("s-2", "s-3"):
                raise ConnectionRefusedError("down")
            super().open()

    pool = poolOf(4, TwoBad, world, isSeeded=True)
    assert countTakes(pool) == ATTEMPTS - 2
    pool.invalidate()
    assert countTakes(pool) == ATTEMPTS


def test_one_that_works_again_is_used_like_the_others(kind, world):
    oneBad = badOf(kind)
    pool = seeded(2, 1, oneBad, world)
    countTakes(pool)
    oneBad.isDown = False
    checkWhole(pool, world)
    pool.invalidate()
    checkWhole(pool, world)


def test_a_factory_that_built_a_bad_one_builds_another(kind, world):
    """Its resources take turns between two hosts, one of which is down."""
    hosts = itertools.cycle(["bad", "good"])
    pool = Pool("p", 4, factory=lambda name: badOf(kind)(next(hosts), world))
    assert countTakes(pool) >= ATTEMPTS - 1


def test_a_factory_that_raises_for_one_host_builds_another(kind, world):
    def build(name):
        if next(hosts) == "bad":
            raise ConnectionRefusedError("down")
        return kind(name, world)

    hosts = itertools.cycle(["bad", "good"])
    pool = Pool("p", 4, factory=build)
    assert countTakes(pool) == ATTEMPTS - 1
    assert pool.stats().taken == 0


@pytest.mark.parametrize("isOpen", [False, True])
def test_one_whose_take_repair_always_fails_is_not_tried_first_for_ever(isOpen, world):
    class Unfit(FakeResource):
        def takeRepair(self):
            if self.name == "bad" and (isOpen or not self.isOpen):
                raise ConnectionRefusedError("no sign of life")

    pool = seeded(4, 3, Unfit, world)
    assert countTakes(pool) >= ATTEMPTS - 1


def test_min_open_is_reached_with_the_good_ones(kind, isSeeded, world):
    oneBad = badOf(kind, "s-2" if isSeeded else "p-0")
    pool = poolOf(3, oneBad, world, isSeeded, minOpen=2)
    for _ in range(3):
        pool.recycle()
    assert pool.stats().open == 2


def test_warm_reaches_the_good_ones(kind, isSeeded, world):
    oneBad = badOf(kind, "s-2" if isSeeded else "p-0")
    pool = poolOf(3, oneBad, world, isSeeded, minOpen=2)
    with pytest.raises(ConnectionRefusedError):
        pool.warm()
    assert pool.warm() == 2


def test_never_more_than_the_capacity_is_open_meanwhile():
    world = CostlyWorld()
    pool = seeded(3, 1, badOf(PlainResource), world)
    for _ in range(4):
        with pool.take():
            countTakes(pool, 3, timeout=0)
        pool.invalidate()
    assert world.peak <= 2
