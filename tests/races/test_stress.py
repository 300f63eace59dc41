"""Threads do everything at once, with faults at random: never too many, never one to two."""

import contextlib
import gc
import logging
import os
import random
import sys
import threading
import time
import warnings

import pytest

from queuepool import Pool, PoolTimeout
from tests.helpers import (PATIENCE, FakeResource, PlainResource, World, checkClosed, checkWhole,
                           start)

CAPACITY = 5
SECONDS = float(os.environ.get("QUEUEPOOL_STRESS_SECONDS", "2"))


class Fault(BaseException):
    pass


class StrictWorld(World):
    """A world that checks at each open that no more is open than the capacity allows."""

    def open(self):
        handle = super().open()
        if self.live > CAPACITY:
            self.wrongs.append(f"{self.live} are open")
        return handle


class Faulty(FakeResource):
    """A resource of which one hook in twenty fails."""

    chance = 0.05

    def _play(self, hook):
        chance = random.random()
        if chance < self.chance:
            raise random.choice([ValueError, OSError, Fault])(hook)
        if chance < self.chance + 0.01:
            time.sleep(0)  # let another thread in


class Stress:
    def __init__(self, pool):
        self.pool = pool
        self.holders = {}
        self.served = 0
        self.end = time.monotonic() + SECONDS

    def hold(self, resource):
        thread = threading.get_ident()
        assert self.holders.setdefault(resource, thread) == thread, "two have it"
        assert resource.isOpen and resource.resource is not None
        assert len(self.holders) <= CAPACITY
        time.sleep(0)
        assert self.holders.pop(resource) == thread

    def work(self):
        served = 0
        while time.monotonic() < self.end:
            with contextlib.suppress(ValueError, OSError, Fault, PoolTimeout):
                served += self.useOnce(random.random())
        return served

    def useOnce(self, chance):
        timeout = random.choice([0, 0.001, PATIENCE])
        if chance < 0.9:
            with self.pool.take(timeout) as resource:
                self.hold(resource)
                if chance < 0.1:
                    raise ValueError
            return 1
        resource = self.pool.take(timeout)
        self.hold(resource)
        if chance > 0.92:
            self.pool.put(resource)
        return 1  # or it is dropped

    def disturb(self):
        while time.monotonic() < self.end:
            with contextlib.suppress(Fault):
                random.choice([self.pool.recycle, self.pool.invalidate, gc.collect,
                               lambda: self.pool.resize(random.randint(1, CAPACITY)),
                               self.pool.stats])()
            time.sleep(0.001)
        return 1


@pytest.mark.timeout(SECONDS + 120)
def test_stress(caplog, monkeypatch):
    caplog.set_level(logging.CRITICAL, "queuepool")
    world = StrictWorld()
    pool = Pool("p", CAPACITY, 0.01, 0.1, 50, factory=lambda name: Faulty(name, world),
                jitter=0.5)
    stress = Stress(pool)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    pool.startRecycler(0.001)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # what is dropped on purpose
            counts = runFor(*[stress.work] * 12, stress.disturb)
            gc.collect()
    finally:
        sys.setswitchinterval(interval)
        pool.stopRecycler()
    assert all(counts), counts
    assert not world.wrongs, world.wrongs
    monkeypatch.setattr(Faulty, "chance", 0.0)
    pool.resize(CAPACITY)
    checkWhole(pool, world)
    checkClosed(pool, world)


def runFor(*targets):
    """As runTogether, with patience for a long run."""
    running = [start(target) for target in targets]
    return [each.result(SECONDS + PATIENCE) for each in running]


class Holding(PlainResource):
    """A resource that tells when two threads have it at a time."""

    user = None

    def use(self):
        self.user = me = object()
        if random.random() < 0.05:
            time.sleep(0)  # let another thread in
        return self.user is me and self.isOpen and self.resource.isOpen


def test_none_is_handed_out_twice_no_take_is_uncounted_and_no_waiter_forgotten(monkeypatch):
    """Five threads go the short way. Now and then there are fewer resources, and they wait."""
    def work():
        served = 0
        while time.monotonic() < end:
            with pool.take(PATIENCE) as resource:
                assert resource.use()
                served += 1
        return served

    def disturb():
        while time.monotonic() < end:
            random.choice([lambda: pool.resize(random.choice([1, 2, 8])), pool.invalidate,
                           pool.stats, pool.report, pool.recycle])()
            time.sleep(0.01)
        return 0

    # No help from that.
    monkeypatch.setattr("queuepool.core.idle.LOOK_AGAIN_TIME", 2 * PATIENCE)
    world = World()
    pool = Pool("p", 8, maxUsageCount=100, factory=lambda name: Holding(name, world))
    pool.startRecycler(0.01)
    end = time.monotonic() + SECONDS
    try:
        served = runFor(*[work] * 5, disturb)
    finally:
        pool.stopRecycler()
    pool.resize(8)
    stats = pool.stats()
    assert all(served[:-1]), served
    assert stats.takes == sum(served)
    assert stats.opens - stats.closes == stats.open == world.live
    assert sum(stats.waitHistogram.counts) == stats.waits
    assert not world.wrongs, world.wrongs
    checkWhole(pool, world)
    checkClosed(pool, world)
