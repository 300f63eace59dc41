"""The pool against a small model of it, in one thread, by whatever steps hypothesis thinks of.

The model is written from what is promised: two lists, a few numbers. After each step the pool has
to agree with it in everything: order, openness, ages, limits, counters.
"""

import os
from collections import Counter

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (RuleBasedStateMachine, initialize, invariant, precondition, rule,
                                 run_state_machine_as_test)

from queuepool import Pool, PoolClosed, PoolError, PoolTimeout, Reason, Resource
from tests.helpers import FakeClock, PlainResource, World

STRESS_SECONDS = float(os.environ.get("QUEUEPOOL_STRESS_SECONDS", 2))
USUAL_EXAMPLES = 150


class Failure(Exception):
    """What a hook raises that was told to fail."""


class Short(Resource):
    """Fail once in each hook that is named in ``failing``; without repair hooks."""

    def __init__(self, name, world):
        super().__init__(name)
        self.world = world
        self.failing = set()

    def failIfTold(self, hook):
        if hook in self.failing:
            self.failing.remove(hook)
            raise Failure(hook)

    def open(self):
        self.failIfTold("open")
        assert self.resource is None
        self.resource = self.world.open()
        super().open()

    def close(self):
        handle, self.resource = self.resource, None
        self.world.close(handle)
        self.failIfTold("close")
        super().close()


class Long(Short):
    """The same with repair hooks."""

    def takeRepair(self):
        self.failIfTold("takeRepair")

    def putRepair(self):
        self.failIfTold("putRepair")


class Item:
    """Be a resource of the model."""

    def __init__(self, name, real=None):
        self.name = name
        self.real = real  # None: the factory has not built it yet
        self.failing = set()
        self.isOpen = False
        self.openedAt = self.lastUsedAt = self.takenAt = None
        self.isValid = True
        self.uses = 0

    def failsIn(self, hook):
        if hook in self.failing:
            self.failing.remove(hook)
            return True
        return False


class Model:
    """Be a pool, without threads: ``open`` and ``closed`` are stacks, the last is taken next."""

    def __init__(self, capacity, maxIdleTime, maxOpenTime, maxUsageCount, minOpen, isClosing, kind):
        self.capacity = capacity
        self.maxIdleTime = maxIdleTime
        self.maxOpenTime = maxOpenTime
        self.maxUsageCount = maxUsageCount
        self.minOpen = minOpen
        self.isClosing = isClosing
        self.kind = kind
        self.now = 1000.0
        self.open = []
        self.closed = []
        self.taken = []
        self.gone = []
        self.isClosed = False
        self.counters = Counter()
        self.closes = Counter()
        self.useTime = self.useMax = 0.0

    @property
    def members(self):
        return self.open + self.closed + self.taken

    @property
    def isOverfull(self):
        return len(self.members) > self.capacity

    def due(self, item):
        if not item.isOpen:
            return None
        if not item.isValid:
            return Reason.INVALIDATED
        if self.now - item.openedAt > self.maxOpenTime:
            return Reason.AGE
        if item.uses >= self.maxUsageCount:
            return Reason.USAGE
        if self.now - item.lastUsedAt > self.maxIdleTime:
            return Reason.IDLE
        return None

    def openIt(self, item):
        """Tell whether it opened."""
        item.uses = 0
        if item.failsIn("open"):
            self.counters["openErrors"] += 1
            return False
        item.isOpen = item.isValid = True
        item.openedAt = item.lastUsedAt = self.now
        self.counters["opens"] += 1
        return True

    def closeIt(self, item, reason):
        if reason is None or not item.isOpen:
            return
        item.isOpen = False
        self.closes[reason] += 1
        if item.failsIn("close"):
            self.counters["closeErrors"] += 1

    def layDown(self, item):
        """Lay down what is in no list now, or let it go."""
        isOverfull = len(self.members) + 1 > self.capacity
        if self.isClosed or isOverfull:
            self.closeIt(item, Reason.POOL_CLOSED if self.isClosed else Reason.SHRUNK)
            self.gone.append(item)
        else:
            (self.open if item.isOpen else self.closed).append(item)

    def take(self):
        """Return the item taken, or the error that take raises."""
        if self.isClosed:
            return PoolClosed
        if not self.open and not self.closed:
            self.counters["timeouts"] += 1
            return PoolTimeout
        item = (self.open or self.closed).pop()
        while True:
            self.closeIt(item, self.due(item))
            if self.kind is Long and item.failsIn("takeRepair"):
                self.closeIt(item, Reason.REPAIR)
                self.layDown(item)
                return Failure
            if item.isOpen:
                break
            if self.open:
                aside, item = item, self.open.pop()
                self.layDown(aside)
            elif self.openIt(item):
                break
            else:
                self.layDown(item)
                return Failure
        item.uses += 1
        item.takenAt = self.now
        self.counters["takes"] += 1
        self.taken.append(item)
        return item

    def put(self, item, error=None):
        self.taken.remove(item)
        used = self.now - item.takenAt
        self.useTime += used
        self.useMax = max(self.useMax, used)
        item.takenAt = None
        item.lastUsedAt = self.now
        reason = self.due(item)
        if error is not None and self.isClosing(error):
            reason = Reason.EXCEPTION
        self.finish(item, reason)

    def finish(self, item, reason=None):
        self.closeIt(item, reason)
        if self.kind is Long and item.failsIn("putRepair"):
            self.closeIt(item, Reason.REPAIR)
        self.layDown(item)

    def closeByUser(self, item, reason):
        item.isOpen = False
        self.closes[reason] += 1

    def closeDue(self):
        for item in list(self.open):
            reason = self.due(item)
            if reason is not None:
                self.open.remove(item)
                self.closeIt(item, reason)
                self.layDown(item)

    def recycle(self):
        self.closeDue()
        missing = min(self.minOpen, self.capacity) - sum(item.isOpen for item in self.members)
        while missing > 0 and self.closed and not self.isClosed:
            item = self.closed.pop()
            missing = missing - 1 if self.openIt(item) else 0
            self.layDown(item)

    def invalidate(self):
        for item in self.members:
            item.isValid = False
        self.closeDue()

    def resize(self, capacity, hasFactory):
        self.capacity = capacity
        while self.isOverfull and (self.closed or self.open):
            item = self.closed.pop() if self.closed else self.open.pop(0)
            self.closeIt(item, Reason.SHRUNK)
            self.gone.append(item)
        if hasFactory:
            self.fill()

    def fill(self):
        names = {item.name for item in self.members}
        for number in range(2 * self.capacity + len(names)):
            if len(self.members) < self.capacity and f"p-{number}" not in names:
                self.closed.append(Item(f"p-{number}"))

    def close(self):
        self.isClosed = True
        while self.open or self.closed:
            item = (self.open or self.closed).pop()
            self.closeIt(item, Reason.POOL_CLOSED)
            self.gone.append(item)
        return len(self.taken)


RULES = [
    (True, lambda error: True),
    (False, lambda error: False),
    (KeyError, lambda error: error is KeyError),
    ((KeyError, KeyboardInterrupt), lambda error: error is not ValueError),
    (lambda error: isinstance(error, ValueError), lambda error: error is ValueError),
]


class PoolMachine(RuleBasedStateMachine):
    """Do the same to both."""

    @initialize(
        capacity=st.integers(1, 4), maxIdleTime=st.sampled_from([None, 5, 10]),
        maxOpenTime=st.sampled_from([None, 8, 20]), maxUsageCount=st.sampled_from([None, 1, 3]),
        minOpen=st.integers(0, 3), closing=st.sampled_from(RULES),
        kind=st.sampled_from([Short, Long]), hasFactory=st.booleans())
    def make(self, capacity, maxIdleTime, maxOpenTime, maxUsageCount, minOpen, closing, kind,
             hasFactory):
        rule, isClosing = closing
        minOpen = min(minOpen, capacity)
        self.world = World()
        self.clock = FakeClock()
        self.hasFactory = hasFactory
        self.built = {}
        self.seeds = 0
        self.model = Model(
            capacity, *[float("inf") if limit is None else limit
                        for limit in (maxIdleTime, maxOpenTime, maxUsageCount)],
            minOpen, isClosing, kind)
        self.pool = Pool("p", capacity, maxIdleTime, maxOpenTime, maxUsageCount, rule,
                         factory=self.build if hasFactory else None, minOpen=minOpen,
                         clock=self.clock)
        self.other = Pool("other", 1, factory=PlainResource)
        if hasFactory:
            self.model.fill()
            self.model.closed.reverse()  # the first is handed out first
            self.learn()

    def build(self, name):
        self.built[name] = self.model.kind(name, self.world)
        return self.built[name]

    def learn(self):
        """Let the model know what the factory has built for its items meanwhile."""
        for item in self.model.members + self.model.gone:
            if item.real is None and item.name in self.built:
                item.real = self.built.pop(item.name)

    # -- steps

    @rule()
    def take(self):
        expected = self.model.take()
        if isinstance(expected, Item):
            self.check(self.pool.take(timeout=0), expected)
        else:
            with pytest.raises(expected):
                self.pool.take(timeout=0)
            self.learn()

    def check(self, real, expected):
        self.learn()
        assert real is expected.real

    @precondition(lambda self: self.model.taken)
    @rule(data=st.data())
    def put(self, data):
        item = data.draw(st.sampled_from(self.model.taken))
        self.model.put(item)
        self.pool.put(item.real)

    @rule(error=st.sampled_from([None, KeyError, ValueError, KeyboardInterrupt]),
          seconds=st.sampled_from([0, 1, 9]), userCloses=st.booleans())
    def takeWith(self, error, seconds, userCloses):
        expected = self.model.take()
        if not isinstance(expected, Item):
            with pytest.raises(expected), self.pool.take(timeout=0):
                raise AssertionError("there was nothing to take")
            self.learn()
            return
        try:
            with self.pool.take(timeout=0) as real:
                self.check(real, expected)
                self.wait(seconds)
                if userCloses and "close" not in real.failing:
                    real.close()
                    self.model.closeByUser(
                        expected, Reason.USER if error is None else Reason.EXCEPTION)
                self.model.put(expected, error)
                if error is not None:
                    raise error
        except (KeyError, ValueError, KeyboardInterrupt) as caught:
            assert type(caught) is error
        else:
            assert error is None

    @precondition(lambda self: self.model.open + self.model.closed + self.model.gone)
    @rule(data=st.data())
    def doublePut(self, data):
        model = self.model
        items = [item for item in model.open + model.closed + model.gone if item.real is not None]
        if items:
            with pytest.raises(PoolError, match="cannot be put, it is not taken but"):
                self.pool.put(data.draw(st.sampled_from(items)).real)

    @rule(data=st.data())
    def foreignPut(self, data):
        with self.other.take() as foreign:
            with pytest.raises(PoolError, match="'other-0' belongs to pool 'other'"):
                self.pool.put(foreign)
        items = [item for item in self.model.members if item.real is not None]
        if items:
            with pytest.raises(PoolError, match="belongs to pool 'p'"):
                self.other.put(data.draw(st.sampled_from(items)).real)

    @rule()
    def seed(self):
        model = self.model
        self.seeds += 1
        item = Item(f"s-{self.seeds}", model.kind(f"s-{self.seeds}", self.world))
        if model.isClosed:
            expected = PoolClosed
        elif len(model.members) >= model.capacity:
            expected = PoolError
        else:
            model.finish(item)
            self.pool.put(item.real)
            return
        with pytest.raises(expected) as caught:
            self.pool.put(item.real)
        assert caught.type is expected

    @rule(seconds=st.sampled_from([1, 3, 6, 11, 30]))
    def wait(self, seconds):
        self.model.now += seconds
        self.clock.advance(seconds)

    @rule(data=st.data(), hook=st.sampled_from(["open", "close", "takeRepair", "putRepair"]))
    def failTheNext(self, data, hook):
        items = [item for item in self.model.members if item.real is not None]
        if items and (self.model.kind is Long or hook in ("open", "close")):
            item = data.draw(st.sampled_from(items))
            item.failing.add(hook)
            item.real.failing.add(hook)

    @rule()
    def recycle(self):
        self.model.recycle()
        self.pool.recycle()
        self.learn()

    @rule()
    def invalidate(self):
        self.model.invalidate()
        self.pool.invalidate()

    @rule(capacity=st.integers(1, 5))
    def resize(self, capacity):
        if self.model.isClosed:
            with pytest.raises(PoolClosed):
                self.pool.resize(capacity)
        else:
            self.model.resize(capacity, self.hasFactory)
            self.pool.resize(capacity)

    @precondition(lambda self: self.model.counters["takes"] > 5)
    @rule()
    def close(self):
        assert self.pool.close() == self.model.close()

    # -- what has to hold

    @invariant()
    def agree(self):
        if not hasattr(self, "pool"):
            return
        model, stats, queue = self.model, self.pool.stats(), self.pool._queue
        assert (self.pool.closed, self.pool.capacity) == (model.isClosed, model.capacity)
        for real, expected in (queue.open, model.open), (queue.closed.values(), model.closed):
            assert [resource.name for resource in real] == [item.name for item in expected]
        for name in "takes", "opens", "openErrors", "closeErrors", "timeouts":
            assert getattr(stats, name) == model.counters[name], name
        assert {reason: n for reason, n in stats.closesByReason.items() if n} == model.closes
        assert stats.closes == sum(model.closes.values())
        assert (stats.useTime, stats.useMax) == (model.useTime, model.useMax)
        assert (stats.waiting, stats.waits, stats.waitTime) == (0, 0, 0.0)
        live = sum(item.isOpen for item in model.members)
        assert (stats.open, stats.idle, stats.taken) == (
            live, len(model.open) + len(model.closed), len(model.taken))
        assert stats.opens - stats.closes == self.world.live == live
        assert not self.world.wrongs

    @invariant()
    def agreeOnEach(self):
        if not hasattr(self, "pool"):
            return
        for item in self.model.members + self.model.gone:
            real, now = item.real, self.model.now
            if real is None:
                continue
            assert real.isOpen == item.isOpen
            assert real.usageCount == item.uses or item in self.model.gone
            if item.isOpen:
                assert (real.age, real.idleTime) == (now - item.openedAt, now - item.lastUsedAt)
            else:
                assert (real.age, real.idleTime) == (None, None)

    def teardown(self):
        if not hasattr(self, "pool"):
            return
        assert self.pool.close() == self.model.close()
        for item in list(self.model.taken):
            self.model.put(item)
            self.pool.put(item.real)
        self.agree()
        stats = self.pool.stats()
        assert (stats.opens, self.world.live) == (stats.closes, 0)
        assert self.pool.close() == 0


@pytest.mark.timeout(300 + 10 * STRESS_SECONDS)  # it takes its time only to shrink a failure
def test_the_pool_agrees_with_its_model_after_each_step():
    isUsual = STRESS_SECONDS <= 2
    run_state_machine_as_test(PoolMachine, settings=settings(
        max_examples=USUAL_EXAMPLES if isUsual else int(30 * STRESS_SECONDS),
        stateful_step_count=50, deadline=None, derandomize=isUsual, database=None,
        suppress_health_check=list(HealthCheck)))
