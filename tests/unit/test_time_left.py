"""Resource.timeLeft: what hooks may use of the time that their take has."""

import gc

import pytest

from queuepool import Pool, PoolTimeout, Resource
from queuepool.core.breaker import LONGEST_PAUSE
from queuepool.core.call import LEAST_HOOK_TIME
from tests.helpers import FakeResource, Gate, awaitTrue, awaitWaiting, checkWhole, start


class Timed(FakeResource):
    """A resource that notes in each hook what time is left, before and after its script."""

    def __init__(self, name, world=None, **script):
        super().__init__(name, world, **script)
        self.left = []

    def _play(self, hook):
        self.left.append((hook, self.timeLeft))
        super()._play(hook)

    def noteError(self, error):
        self._play("noteError")

    def isTransient(self, error):
        self._play("isTransient")
        return True


class Pools:
    """Makes pools of Timed resources; ``left`` is what one of them noted since it was asked."""

    def __init__(self, clock, world):
        self._clock = clock
        self._world = world
        self.made = []

    def make(self, capacity=1, script=None, **options):
        def build(name):
            self.made.append(Timed(name, self._world, **(script or {})))
            return self.made[-1]

        return Pool("p", capacity, factory=build, clock=self._clock, **options)

    def left(self, number=0):
        noted, self.made[number].left = self.made[number].left, []
        return noted

    def slow(self, seconds):
        return lambda: self._clock.advance(seconds)

    def failSlowly(self, seconds):
        def fail():
            self._clock.advance(seconds)
            raise OSError
        return fail


@pytest.fixture
def pools(clock, world):
    return Pools(clock, world)


@pytest.mark.parametrize("takeTimeout, timeout, expected", [
    (None, (), None), (7.0, (), 7.0), (7.0, (3.0,), 3.0), (7.0, (None,), None),
    (None, (3,), 3.0), (0.0, (), LEAST_HOOK_TIME), (7.0, (0,), LEAST_HOOK_TIME),
    (None, (0.01,), LEAST_HOOK_TIME), (None, (LEAST_HOOK_TIME,), LEAST_HOOK_TIME),
])
def test_hooks_of_a_take_have_what_the_take_has(pools, takeTimeout, timeout, expected):
    pool = pools.make(takeTimeout=takeTimeout)
    resource = pool.take(*timeout)
    assert pools.left() == [("takeRepair", expected), ("open", expected)]
    pool.put(resource)
    assert pools.left() == [("putRepair", None)]
    pool.put(pool.take(*timeout))  # it is open now
    assert pools.left() == [("takeRepair", expected), ("putRepair", None)]


def test_where_no_hook_runs_there_is_no_limit(pools):
    pool = pools.make()
    for _ in range(2):  # closed at first, then open
        resource = pool.take(timeout=10.0)
        assert resource.timeLeft is None
        pool.put(resource)
        assert resource.timeLeft is None


def test_the_take_timeout_may_change(pools):
    pool = pools.make(takeTimeout=7.0)
    pool.put(pool.take())
    pools.left()
    for pool.takeTimeout in 3.0, None:
        pool.put(pool.take())
        assert pools.left() == [("takeRepair", pool.takeTimeout), ("putRepair", None)]


def test_what_is_in_no_pool_has_no_limit():
    assert Resource("alone").timeLeft is None


def test_a_hook_may_ask_again_when_time_has_passed(pools, clock):
    pool = pools.make()
    left = []

    def ask():
        for _ in range(3):
            left.append(pools.made[0].timeLeft)
            clock.advance(2.0)

    resource = pool.take()
    resource.script["takeRepair"] = [ask]
    pool.put(resource)
    pool.put(pool.take(timeout=3.0))
    assert left == [3.0, 1.0, LEAST_HOOK_TIME]


# -- what takes time before

def test_after_a_wait_in_line_less_is_left(pools, clock):
    pool = pools.make()
    resource = pool.take()
    waiter = start(pool.take, 10.0)
    awaitWaiting(pool, 1)
    clock.advance(4.0)
    pools.left()
    pool.put(resource)
    pool.put(waiter.result())
    assert pools.left() == [
        ("putRepair", None), ("takeRepair", 6.0), ("putRepair", None)]


def test_after_a_wait_for_room_less_is_left(pools, clock):
    pool = pools.make()
    resource = pool.take()
    waiter = start(pool.take, 10.0)
    awaitWaiting(pool, 1)
    clock.advance(4.0)
    pool.resize(2)
    second = waiter.result()
    assert pools.left(1) == [("takeRepair", 6.0), ("open", 6.0)]
    pool.put(resource)
    pool.put(second)


def test_after_a_slow_factory_less_is_left(clock, world):
    made = []

    def build(name):
        clock.advance(4.0)
        made.append(Timed(name, world))
        return made[-1]

    pool = Pool("p", 1, factory=build, clock=clock)
    pool.put(pool.take(timeout=10.0))
    assert made[0].left == [("takeRepair", 6.0), ("open", 6.0), ("putRepair", None)]


def test_after_a_slow_take_repair_less_is_left_for_open(pools):
    pool = pools.make(script={"takeRepair": [pools.slow(4.0)]})
    pool.put(pool.take(timeout=10.0))
    assert pools.left()[:2] == [("takeRepair", 10.0), ("open", 6.0)]


def test_a_take_repair_that_closes_leaves_less_for_open(pools, clock):
    pool = pools.make()
    pool.put(pool.take())
    pools.left()
    resource = pools.made[0]

    def repair():
        clock.advance(4.0)
        resource.close()
        clock.advance(1.0)

    resource.script["takeRepair"] = [repair]
    pool.put(pool.take(timeout=10.0))
    assert pools.left() == [
        ("takeRepair", 10.0), ("close", 6.0), ("open", 5.0), ("putRepair", None)]


@pytest.mark.parametrize("timeout, expected", [(10.0, 6.0), (None, None)])
def test_after_the_slow_close_of_an_expired_one_less_is_left(pools, clock, timeout, expected):
    pool = pools.make(maxOpenTime=100.0, script={"close": [pools.slow(4.0)]})
    pool.put(pool.take())
    clock.advance(101.0)
    pools.left()
    pool.put(pool.take(timeout=timeout))
    assert pools.left() == [
        ("close", timeout), ("takeRepair", expected), ("open", expected), ("putRepair", None)]


def test_after_the_slow_close_of_a_dropped_one_less_is_left(pools, clock):
    pool = pools.make()
    resource = pool.take()
    resource.script["close"] = [pools.slow(4.0)]
    resource.left = left = []
    pools.made.clear()
    del resource
    gc.collect()  # where there is no count of references
    with pytest.warns(ResourceWarning, match="dropped"):
        resource = pool.take(timeout=10.0)
    assert left[1:] == [("takeRepair", 6.0), ("open", 6.0)]
    pool.put(resource)


def test_after_a_failed_open_less_is_left(pools, clock, world):
    pool = pools.make(openRetryTime=100.0, script={"open": [
        pools.failSlowly(4.0), pools.failSlowly(1.0)]})
    taker = start(pool.take, 10.0)
    for count in 1, 2:
        awaitTrue(lambda: pool.stats().openErrors == count and pool.stats().waiting)
        clock.advance(LONGEST_PAUSE)
    pool.put(taker.result())
    assert pools.left() == [
        ("takeRepair", 10.0), ("open", 10.0), ("isTransient", 6.0),
        ("takeRepair", 6.0 - LONGEST_PAUSE), ("open", 6.0 - LONGEST_PAUSE),
        ("isTransient", 5.0 - LONGEST_PAUSE),
        ("takeRepair", 5.0 - 2 * LONGEST_PAUSE), ("open", 5.0 - 2 * LONGEST_PAUSE),
        ("putRepair", None)]
    checkWhole(pool, world)


def test_after_the_deadline_no_hook_is_begun(pools, clock, world):
    pool = pools.make(script={"takeRepair": [pools.slow(11.0)]})
    with pytest.raises(PoolTimeout):
        pool.take(timeout=10.0)
    assert pools.left() == [("takeRepair", 10.0)]
    checkWhole(pool, world)


# -- hooks that no take runs

def take(pool, pools):
    """Take with a limit, so that there is one that could be left over."""
    resource = pool.take(timeout=10.0)
    pools.left()
    return resource


def test_hooks_of_a_put_have_no_limit(pools, clock):
    pool = pools.make(maxUsageCount=1)
    pool.put(take(pool, pools))
    assert pools.left() == [("close", None), ("putRepair", None)]
    with pytest.raises(KeyError), take(pool, pools):
        raise KeyError
    assert pools.left() == [("noteError", None), ("close", None), ("putRepair", None)]


def test_a_close_by_the_user_has_no_limit(pools):
    pool = pools.make()
    with take(pool, pools) as resource:
        resource.close()
        resource.open()
    assert pools.left() == [("close", None), ("open", None), ("putRepair", None)]


def drop(pool, clock):
    with pytest.warns(ResourceWarning, match="dropped"):
        pool.take(timeout=10.0)
        gc.collect()  # where there is no count of references
        pool.recycle()


@pytest.mark.parametrize("isPlain", [False, True], ids=["hooked", "plain"])
@pytest.mark.parametrize("work", [
    lambda pool, clock: clock.advance(1000.0) or pool.recycle(),
    lambda pool, clock: pool.invalidate(),
    lambda pool, clock: pool.close(),
    lambda pool, clock: pool.resize(1),
    drop,
], ids=["recycle", "invalidate", "close", "resize", "dropped"])
def test_closes_that_no_take_runs_have_no_limit(clock, world, work, isPlain):
    left = []

    class Noting(Resource if isPlain else FakeResource):
        def open(self):
            self.resource = object()
            Resource.open(self)

        def close(self):
            left.append(self.timeLeft)
            Resource.close(self)

    pool = Pool("p", 2, factory=Noting, clock=clock)
    for resource in [pool.take(timeout=10.0) for _ in range(2)]:
        pool.put(resource)
    for _ in range(2):  # whoever waited got it the long way, and a put may be short
        taken = [pool.take(timeout=10.0) for _ in range(2)]
        waiters = [start(pool.take, 10.0) for _ in taken]
        awaitWaiting(pool, 2)
        for resource in taken:
            pool.put(resource)
        for waiter in waiters:
            pool.put(waiter.result())
        del taken, waiters, resource, waiter
    work(pool, clock)
    assert left and set(left) == {None}


@pytest.mark.parametrize("work, expected", [
    (lambda pool: pool.recycle(), None), (lambda pool: pool.warm(), None),
    (lambda pool: pool.warm(7.0), 7.0)], ids=["recycle", "warm", "warm in time"])
def test_opens_ahead_of_use_have_the_time_of_their_call(pools, work, expected):
    pool = pools.make(minOpen=1)
    pool.put(take(pool, pools))
    pool.invalidate()
    pools.left()
    work(pool)
    assert pools.left() == [("open", expected)]
    pool.invalidate()
    assert pools.left() == [("close", None)]


def test_each_open_of_a_warm_has_what_is_left(pools):
    pool = pools.make(2, script={"open": [pools.slow(4.0)]}, minOpen=2)
    assert pool.warm(timeout=10.0) == 2
    assert pools.left(0) == [("open", 10.0)] and pools.left(1) == [("open", 6.0)]


def test_a_warm_after_a_take_that_failed_has_no_limit(pools, world):
    pool = pools.make(minOpen=1, script={"open": [OSError]})
    with pytest.raises(OSError):
        pool.take(timeout=10.0)
    pools.left()
    assert pool.warm() == 1
    assert pools.left() == [("open", None)]


def test_a_put_while_another_take_waits_has_no_limit(pools, world):
    gate = Gate()
    pool = pools.make(script={"putRepair": [gate]})
    resource = pool.take(timeout=10.0)
    putter = start(pool.put, resource)
    gate.awaitArrival()
    waiter = start(pool.take, 20.0)
    awaitWaiting(pool, 1)
    pools.left()
    assert resource.timeLeft is None
    gate.open()
    putter.result()
    pool.put(waiter.result())
    checkWhole(pool, world)
