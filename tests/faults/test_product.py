"""Whatever any of the hooks does, in any combination, no slot is lost and nothing stays open."""

import contextlib
import itertools
import logging
import threading

import pytest

from queuepool import Pool
from tests.helpers import (PATIENCE, FakeClock, FakeResource, Gate, World, awaitTrue, awaitWaiting,
                           checkClosed, checkWhole, start)

CAPACITY = 2
HOOKS = ("open", "close", "takeRepair", "putRepair")
OUTCOMES = ("returns", "fails", "is interrupted", "is slow")


class Interruption(BaseException):
    """What no hook is expected to raise: no Exception."""


class Refused(Exception):
    """What a user's with-block raises."""


class StrictWorld(World):
    """A world that checks at every open that no more is open than the capacity allows."""

    def open(self):
        handle = super().open()
        if self.live > CAPACITY:
            self.wrongs.append(f"{self.live} are open")
        return handle


class Case:
    """One combination: a pool each of whose hooks does once what is asked of it."""

    def __init__(self, outcomes, isRecycled, isAwaited):
        self.outcomes = outcomes
        self.isRecycled = isRecycled
        self.isAwaited = isAwaited
        self.world = StrictWorld()
        self.clock = FakeClock()
        self.resources = []
        self.gates = []
        self.pool = Pool("p", CAPACITY, 10.0, factory=self.build, clock=self.clock)

    def build(self, name):
        self.resources.append(FakeResource(name, self.world))
        return self.resources[-1]

    def entry(self, outcome):
        if outcome == "is slow":
            gate = Gate()
            self.gates.append(gate)
            return gate
        return {"returns": None, "fails": ValueError("hook"),
                "is interrupted": Interruption()}[outcome]

    def run(self):
        pool = self.pool
        taken = [pool.take() for _ in range(CAPACITY)]
        users = []
        if self.isAwaited:
            users = [start(self.use) for _ in range(CAPACITY)]
            awaitWaiting(pool, CAPACITY)
        self.arm()
        if self.isRecycled:
            pool.startRecycler(0.0005)
        users += [start(self.giveBack, resource) for resource in taken]
        del taken
        self.await_(users)
        for resource in self.resources:
            resource.script = {}
        with pool.take(PATIENCE), pool.take(PATIENCE):
            pass  # both are open again
        self.arm()
        self.clock.advance(11.0)  # all that is open is due now: for the recycler, or the taker
        if self.isRecycled:
            self.letThroughUntil(lambda: pool.stats().open == 0)
        self.await_([start(self.use) for _ in range(CAPACITY)])
        if self.isRecycled:
            assert pool._recycler.isRunning, "a hook ended the recycler"
        self.await_([start(pool.stopRecycler)])
        for resource in self.resources:
            resource.script = {}

    def arm(self):
        for resource in self.resources:
            resource.script = {hook: [self.entry(outcome)]
                               for hook, outcome in zip(HOOKS, self.outcomes)}

    def use(self):
        with contextlib.suppress(ValueError, Interruption):
            with self.pool.take(PATIENCE):
                pass

    def giveBack(self, resource):
        with contextlib.suppress(ValueError, Interruption, Refused):
            with resource:
                raise Refused

    def await_(self, users):
        self.letThroughUntil(lambda: not any(user.thread.is_alive() for user in users))
        for user in users:
            user.result()

    def letThroughUntil(self, condition):
        """Let through whoever is slow, after a look at the pool, until the condition holds."""
        def isSo():
            for gate in self.gates:
                if gate.arrived.acquire(blocking=False):
                    stats = self.pool.stats()
                    assert 0 <= stats.idle + stats.taken <= stats.capacity == CAPACITY, stats
                    gate.open()
            return condition()

        awaitTrue(isSo)


@pytest.fixture(autouse=True)
def quiet(caplog):
    """Failing hooks are logged a thousand times here."""
    caplog.set_level(logging.CRITICAL, "queuepool")


COMBINATIONS = [(outcomes, isRecycled, isAwaited)
                for outcomes in itertools.product(OUTCOMES, repeat=len(HOOKS))
                for isRecycled in (False, True)
                for isAwaited in (False, True)]


@pytest.mark.parametrize("isAwaited", [False, True], ids=["nobody waits", "two wait"])
@pytest.mark.parametrize("isRecycled", [False, True], ids=["no recycler", "recycler"])
@pytest.mark.parametrize("openOutcome", OUTCOMES)
def test_product_of_faults(openOutcome, isRecycled, isAwaited):
    cases = [case for case in COMBINATIONS
             if case[0][0] == openOutcome and case[1:] == (isRecycled, isAwaited)]
    played = set()
    for combination in cases:
        case = Case(*combination)
        try:
            case.run()
            checkWhole(case.pool, case.world)
            checkClosed(case.pool, case.world)
        except BaseException as error:
            raise AssertionError(f"{dict(zip(HOOKS, combination[0]))}") from error
        for resource in case.resources:
            played.update(resource.calls)
    assert len(cases) == len(OUTCOMES) ** 3
    assert played == set(HOOKS)


def test_the_product_is_whole():
    assert len(set(COMBINATIONS)) == 4 ** 4 * 2 * 2


def test_threads_are_gone():
    # The watchdog is not a pool's: it stays as long as the process, once something needed it.
    awaitTrue(lambda: not [thread for thread in threading.enumerate()
                           if thread.name.startswith("queuepool")
                           and thread.name != "queuepool watchdog"])
