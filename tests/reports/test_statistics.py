"""Times and reasons that were counted wrongly."""

import pytest

from queuepool import PoolTimeout, Reason, Resource
from tests.helpers import FakeResource, PlainResource, World, start
from tests.reports.situations import CostlyWorld, openAll, poolOf, reasonsOf, warningsIn


def spending(clock, **seconds):
    """Return a class whose hooks take time: each hook's name with its seconds."""
    class Spending(FakeResource):
        def _play(self, hook):
            clock.advance(seconds.get(hook, 0.0))
            super()._play(hook)

    return Spending


@pytest.mark.parametrize("hook", ["open", "close", "takeRepair", "putRepair"])
def test_time_in_hooks_is_not_use_time(hook, giveBack, isSeeded, clock):
    pool = poolOf(1, spending(clock, **{hook: 0.5}), World(), isSeeded, clock=clock)
    for _ in range(3):
        resource = pool.take()
        clock.advance(0.25)
        giveBack(resource)
    stats = pool.stats()
    assert (stats.useTime, stats.useMax) == (0.75, 0.25)
    assert stats.openTime == stats.openMax == (0.5 if hook == "open" else 0.0)
    assert stats.waitTime == 0.0


def test_time_in_line_is_not_use_time(kind, isSeeded, clock):
    def use():
        with pool.take():
            clock.advance(1.0)

    pool = poolOf(1, kind, World(), isSeeded, clock=clock)
    resource = pool.take()
    waiting = start(use)
    while not pool.stats().waiting:
        pass
    clock.advance(100.0)
    pool.put(resource)
    waiting.result()
    stats = pool.stats()
    assert (stats.useTime, stats.useMax) == (101.0, 100.0)
    assert stats.waitTime == stats.waitMax == 100.0


def test_a_slow_take_repair_is_no_leak(isSeeded, clock, caplog):
    def recycle():
        clock.advance(10.0)
        pool.recycle()

    class Slow(FakeResource):
        def takeRepair(self):
            recycle()

    pool = poolOf(1, Slow, World(), isSeeded, clock=clock, leakTime=5.0)
    with pool.take():
        pool.recycle()
        assert not warningsIn(caplog)
        clock.advance(6.0)
        pool.recycle()
        assert len(warningsIn(caplog)) == 1


# -- who closed it


def byUser(pool):
    with pool.take() as resource:
        resource.close()


def byUserWhoPutsIt(pool):
    resource = pool.take()
    resource.close()
    pool.put(resource)


def byUserWhoseBlockRaises(pool):
    with pytest.raises(KeyError):
        with pool.take() as resource:
            resource.close()
            raise KeyError


def byUserBeforeADrop(pool):
    pool.take().close()
    pool.recycle()


def byAnError(pool):
    with pytest.raises(KeyError):
        with pool.take():
            raise KeyError


def byADrop(pool):
    pool.take()
    pool.recycle()


def byInvalidate(pool):
    pool.invalidate()


def byInvalidateWhileTaken(pool):
    with pool.take():
        pool.invalidate()


def byShrinking(pool):
    pool.put(pool.take())
    with pool.take(), pool.take():
        pool.resize(1)


def byClosing(pool):
    with pool.take():
        pool.close()


WHO = {
    byUser: Reason.USER, byUserWhoPutsIt: Reason.USER, byUserWhoseBlockRaises: Reason.USER,
    byUserBeforeADrop: Reason.USER, byAnError: Reason.EXCEPTION, byADrop: Reason.DROPPED,
    byInvalidate: Reason.INVALIDATED, byInvalidateWhileTaken: Reason.INVALIDATED,
    byShrinking: Reason.SHRUNK, byClosing: Reason.POOL_CLOSED,
}


@pytest.mark.parametrize("who", WHO, ids=[who.__name__ for who in WHO])
def test_each_close_counts_for_who_did_it(who, kind, isSeeded):
    world = World()
    pool = poolOf(2, kind, world, isSeeded)
    pool.put(pool.take())
    who(pool)
    reasons = reasonsOf(pool)
    assert reasons == {WHO[who].name: reasons[WHO[who].name]}
    assert sum(reasons.values()) == world.closed == pool.stats().closes
    assert world.live == pool.stats().open


@pytest.mark.parametrize("hook", ["takeRepair", "putRepair"])
@pytest.mark.parametrize("way", ["closes", "raises"])
def test_a_close_in_a_repair_hook_counts_as_repair(way, hook, isSeeded):
    def repair(self):
        if self.isOpen and not done:
            done.append(self)
            if way == "raises":
                raise OSError("broken")
            self.close()

    done = []
    pool = poolOf(1, type("Repaired", (FakeResource,), {hook: repair}), World(), isSeeded)
    for _ in range(3):
        try:
            with pool.take():
                pass
        except OSError:
            assert (way, hook) == ("raises", "takeRepair")
    assert reasonsOf(pool) == {"REPAIR": 1}


def test_a_close_by_the_user_after_a_repair_counts_as_user(isSeeded):
    pool = poolOf(1, FakeResource, World(), isSeeded)
    for _ in range(2):
        with pool.take() as resource:
            resource.close()
    assert reasonsOf(pool) == {"USER": 2}


def test_a_user_who_opens_it_again_is_counted(kind, giveBack, isSeeded):
    pool = poolOf(1, kind, World(), isSeeded)
    resource = pool.take()
    resource.close()
    resource.open()
    giveBack(resource)
    assert reasonsOf(pool) == {"USER": 1}
    assert pool.stats().opens == 2 and pool.stats().open == 1


def test_a_class_without_super_calls_is_counted_as_well(giveBack, isSeeded):
    class Old(Resource):
        """As 1.3.2 allowed: it sets the flag itself."""

        def __init__(self, name, world):
            super().__init__(name)

        def open(self):
            self._isOpen = True

        def close(self):
            self._isOpen = False

    pool = poolOf(1, Old, None, isSeeded)
    for _ in range(2):
        resource = pool.take()
        resource.close()
        giveBack(resource)
    assert reasonsOf(pool) == {"USER": 2}
    assert pool.stats().opens == 2


def test_what_failed_to_open_counts_as_no_open(kind, isSeeded, clock):
    class Down(kind):
        def open(self):
            super().open()
            clock.advance(2.0)
            raise OSError("too late")

    world = CostlyWorld()
    pool = poolOf(1, Down, world, isSeeded, clock=clock)
    with pytest.raises(OSError):
        pool.take()
    stats = pool.stats()
    assert (stats.opens, stats.openErrors, stats.takes, stats.open) == (0, 1, 0, 0)
    assert stats.openTime == 2.0
    assert world.live == 0


def test_a_time_out_is_counted_once_and_is_no_take(isSeeded):
    pool = poolOf(1, PlainResource, World(), isSeeded)
    openAll(pool)
    before = pool.stats().takes
    with pool.take():
        for _ in range(3):
            with pytest.raises(PoolTimeout):
                pool.take(timeout=0)
    stats = pool.stats()
    assert (stats.timeouts, stats.waits, stats.takes) == (3, 0, before + 1)
