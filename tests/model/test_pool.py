"""The pool against a small model of it, in one thread, by whatever steps hypothesis thinks of.

The model is written from what is promised: two lists, a few numbers. After each step the pool has
to agree with it in everything: order, openness, ages, limits, counters.
"""

import itertools
import os
from collections import Counter

import pytest
from hypothesis import HealthCheck, Phase, settings
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
    """A resource without repair hooks that fails once in each hook named in ``failing``.

    What is in ``whileClosing`` is called in the middle of its next close.
    """

    def __init__(self, name, world):
        super().__init__(name)
        self.world = world
        self.failing = set()
        self.whileClosing = []

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
        while self.whileClosing:
            self.whileClosing.pop()()
        self.failIfTold("close")
        super().close()


class Long(Short):
    """The same with repair hooks."""

    def takeRepair(self):
        self.failIfTold("takeRepair")

    def putRepair(self):
        self.failIfTold("putRepair")


class Item:
    """A resource of the model."""

    def __init__(self, name, real=None):
        self.name = name
        self.real = real  # None: the factory builds it
        self.failing = set()
        self.isOpen = False
        self.openedAt = self.lastUsedAt = self.takenAt = None
        self.isValid = True
        self.hasFailed = False
        self.uses = 0

    def failsIn(self, hook):
        if hook in self.failing:
            self.failing.remove(hook)
            return True
        return False


class Model:
    """A pool without threads. Of ``open`` and ``closed`` the last is taken next."""

    def __init__(self, capacity, maxIdleTime, maxOpenTime, maxUsageCount, minOpen, isClosing, kind,
                 hasFactory):
        self.capacity = capacity
        self.maxIdleTime = maxIdleTime
        self.maxOpenTime = maxOpenTime
        self.maxUsageCount = maxUsageCount
        self.minOpen = minOpen
        self.isClosing = isClosing
        self.kind = kind
        self.hasFactory = hasFactory
        self.now = 1000.0
        self.open = []
        self.closed = []
        self.taken = []
        self.held = []
        self.gone = []
        self.isClosed = False
        self.built = 0
        self.joining = itertools.count()
        self.counters = Counter()
        self.closes = Counter()
        self.useTime = self.useMax = 0.0
        self.leaving = []
        #: What happens in the middle of the next close because the capacity shrank.
        self.whileShrinking = []

    @property
    def members(self):
        return self.open + self.closed + self.taken + self.held

    @property
    def countOpen(self):
        return sum(item.isOpen for item in self.members)

    @property
    def hasSurplus(self):
        return len(self.members) - len(self.leaving) > self.capacity

    @property
    def room(self):
        """How many the factory may still build."""
        hasRoom = self.hasFactory and not self.isClosed
        return max(0, self.capacity - len(self.members)) if hasRoom else 0

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

    def pick(self, *sources):
        """Get something into the hand: out of these lists, else newly built if there is room.

        What failed the last time comes last of all.
        """
        for items in sources:
            if items and not (items[-1].hasFailed and not items[-1].isOpen and self.room):
                item = items.pop()
                break
        else:
            if not self.room:
                return None
            item = Item(f"p-{self.built}")
            self.built += 1
            item.joinedAs = next(self.joining)
        self.held.append(item)
        return item

    def openIt(self, item):
        """Tell whether it opened."""
        item.hasFailed = item.failsIn("open")
        if item.hasFailed:
            self.counters["openErrors"] += 1
            return False
        item.isOpen = item.isValid = True
        item.uses = 0
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

    def release(self, item):
        """Make idle what is held, or let it go."""
        if self.isClosed:
            self.closeIt(item, Reason.POOL_CLOSED)
        elif self.hasSurplus:
            self.leaving.append(item)
            if item.isOpen and self.whileShrinking:
                self.whileShrinking.pop()()
            self.closeIt(item, Reason.SHRUNK)
            self.leaving.remove(item)
        self.held.remove(item)
        if self.isClosed or len(self.members) >= self.capacity:
            self.gone.append(item)
        elif item.isOpen:
            self.open.append(item)
        elif item.hasFailed:
            self.closed.insert(0, item)  # others are tried first
        else:
            self.closed.append(item)

    def take(self):
        """Return the item taken, or the error that take raises."""
        if self.isClosed:
            return PoolClosed
        while True:
            item = self.pick(self.open, self.closed)
            if item is None:
                self.counters["timeouts"] += 1
                return PoolTimeout
            self.closeIt(item, self.due(item))
            if self.kind is Long and item.failsIn("takeRepair"):
                item.hasFailed = True
                self.closeIt(item, Reason.REPAIR)
                self.release(item)
                return Failure
            if item.isOpen:
                break
            # An open one is better; but of several that have expired a take closes one only.
            if self.open and not self.due(self.open[-1]):
                self.release(item)
            elif self.openIt(item):
                break
            else:
                self.release(item)
                return Failure
        item.uses += 1
        item.takenAt = self.now
        self.counters["takes"] += 1
        self.held.remove(item)
        self.taken.append(item)
        return item

    def put(self, item, error=None):
        self.taken.remove(item)
        self.held.append(item)
        used = self.now - item.takenAt
        self.useTime += used
        self.useMax = max(self.useMax, used)
        item.takenAt = None
        item.lastUsedAt = self.now
        reason = self.due(item)
        if error is not None and self.isClosing(error):
            reason = Reason.EXCEPTION
        self.finish(item, reason)

    def seed(self, item):
        item.joinedAs = next(self.joining)
        self.held.append(item)
        self.finish(item)

    def finish(self, item, reason=None):
        self.closeIt(item, reason)
        if self.kind is Long and item.failsIn("putRepair"):
            self.closeIt(item, Reason.REPAIR)
        self.release(item)

    def closeByUser(self, item):
        item.isOpen = False
        self.closes[Reason.USER] += 1

    def closeDue(self, minOpen=0):
        """Close what is due among the idle; another is opened first if minOpen would be missed."""
        for item in sorted(filter(self.due, self.open),
                           key=lambda item: (item.lastUsedAt, item.joinedAs)):
            self.open.remove(item)
            self.held.append(item)
            if self.countOpen > minOpen or self.openAnother():
                self.closeIt(item, self.due(item))
            elif not self.closed and not self.room:
                self.closeIt(item, self.due(item))
                self.openIt(item)
            self.release(item)

    def openAnother(self):
        item = self.pick(self.closed)
        isOpened = item is not None and self.openIt(item)
        if item is not None:
            self.release(item)
        return isOpened

    def recycle(self):
        if not self.isClosed:
            self.closeDue(self.minOpen)
            while self.countOpen < self.minOpen and self.openAnother():
                pass

    def warm(self):
        """Return how many are open, or the error that warm raises."""
        if self.isClosed:
            return PoolClosed
        if not self.members and not self.hasFactory:
            return PoolError
        while self.countOpen < max(1, self.minOpen):
            errors = self.counters["openErrors"]
            if not self.openAnother():
                return self.countOpen if self.counters["openErrors"] == errors else Failure
        return self.countOpen

    def invalidate(self):
        """Return how many are still open."""
        for item in self.members:
            item.isValid = False
        self.closeDue()
        return self.countOpen

    def resize(self, capacity):
        self.capacity = capacity
        while self.hasSurplus and (self.closed or self.open):
            self.releaseOldest()

    def releaseOldest(self):
        item = self.closed.pop() if self.closed else self.open.pop(0)
        self.held.append(item)
        self.release(item)

    def close(self):
        self.isClosed = True
        while self.closed or self.open:
            self.releaseOldest()
        return len(self.taken)


RULES = [
    (True, lambda error: True),
    (False, lambda error: False),
    (KeyError, lambda error: error is KeyError),
    ((KeyError, KeyboardInterrupt), lambda error: error is not ValueError),
    (lambda error: isinstance(error, ValueError), lambda error: error is ValueError),
]


class PoolMachine(RuleBasedStateMachine):
    """Does the same to the pool and to its model."""

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
        self.built = {}
        self.seeds = 0
        self.model = Model(
            capacity, *[float("inf") if limit is None else limit
                        for limit in (maxIdleTime, maxOpenTime, maxUsageCount)],
            minOpen, isClosing, kind, hasFactory)
        self.pool = Pool("p", capacity, maxIdleTime, maxOpenTime, maxUsageCount, rule,
                         factory=self.build if hasFactory else None, minOpen=minOpen,
                         clock=self.clock)
        self.other = Pool("other", 1, factory=PlainResource)

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
                    self.model.closeByUser(expected)
                self.model.put(expected, error)
                if error is not None:
                    raise error
        except (KeyError, ValueError, KeyboardInterrupt) as caught:
            assert type(caught) is error
        else:
            assert error is None

    @precondition(lambda self: self.model.open + self.model.closed)
    @rule(data=st.data())
    def doublePut(self, data):
        item = data.draw(st.sampled_from(self.model.open + self.model.closed))
        with pytest.raises(PoolError, match="is idle in the pool, not checked out"):
            self.pool.put(item.real)

    @rule(data=st.data())
    def foreignPut(self, data):
        with self.other.take() as foreign:
            with pytest.raises(PoolError, match="'other-0' belongs to pool 'other'"):
                self.pool.put(foreign)
        if self.model.members:
            with pytest.raises(PoolError, match="belongs to pool 'p'"):
                self.other.put(data.draw(st.sampled_from(self.model.members)).real)

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
            model.seed(item)
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
        items = self.model.members
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
        assert self.model.invalidate() == self.pool.invalidate()

    @rule()
    def warm(self):
        expected = self.model.warm()
        if isinstance(expected, int):
            assert self.pool.warm() == expected
        else:
            with pytest.raises(expected):
                self.pool.warm()
        self.learn()

    @rule(capacity=st.integers(1, 5))
    def resize(self, capacity):
        if self.model.isClosed:
            with pytest.raises(PoolClosed):
                self.pool.resize(capacity)
        else:
            self.model.resize(capacity)
            self.pool.resize(capacity)

    @precondition(lambda self: not self.model.isClosed and len(self.model.open) > 1)
    @rule(capacity=st.integers(1, 3), later=st.integers(1, 5))
    def resizeWhileItShrinks(self, capacity, later):
        """The capacity is changed again in the middle of the first close of a shrink."""
        def resizeAgain():
            for real in reals:
                real.whileClosing.clear()
            self.pool.resize(later)

        reals = [item.real for item in self.model.open]
        for real in reals:
            real.whileClosing.append(resizeAgain)
        self.model.whileShrinking.append(lambda: self.model.resize(later))
        self.model.resize(capacity)
        self.pool.resize(capacity)
        self.model.whileShrinking.clear()
        for real in reals:
            real.whileClosing.clear()

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
        for real, expected in (queue.open, model.open), (queue.closed, model.closed):
            assert [resource.name for resource in real] == [item.name for item in expected]
        for name in "takes", "opens", "openErrors", "closeErrors", "timeouts":
            assert getattr(stats, name) == model.counters[name], name
        assert {reason: n for reason, n in stats.closesByReason.items() if n} == model.closes
        assert stats.closes == sum(model.closes.values())
        assert (stats.useTime, stats.useMax) == (model.useTime, model.useMax)
        assert (stats.waiting, stats.waits, stats.waitTime) == (0, 0, 0.0)
        live = model.countOpen
        assert (stats.open, stats.idle, stats.taken) == (
            live, len(model.open) + len(model.closed) + model.room, len(model.taken))
        assert stats.opens - stats.closes == self.world.live == live
        assert not self.world.wrongs

    @invariant()
    def agreeOnEach(self):
        if not hasattr(self, "pool"):
            return
        for item in self.model.members + self.model.gone:
            real, now = item.real, self.model.now
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
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck)))
