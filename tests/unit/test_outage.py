"""openRetryTime with many threads: one tries, at growing intervals, and nobody is forgotten."""

import threading

import pytest

from queuepool import Pool, PoolTimeout
from queuepool.outage import FIRST_PAUSE, LONGEST_PAUSE, Outage
from tests.helpers import (PATIENCE, FakeResource, Gate, awaitTrue, awaitWaiting, checkClosed,
                           checkWhole, runTogether, start)


class Service:
    """Be what all resources of a pool open: up, or down; tell who tried and how many at once."""

    def __init__(self, isUp=True):
        self.isUp = isUp
        self.attempts = 0
        self.atOnce = 0
        self.mostAtOnce = 0
        self.guard = threading.Lock()
        self.next = []  # what the next attempts meet: exceptions, or calls
        self.error = None

    def __call__(self):
        with self.guard:
            self.attempts += 1
            self.atOnce += 1
            self.mostAtOnce = max(self.mostAtOnce, self.atOnce)
            event = self.next.pop(0) if self.next else None
        try:
            if isinstance(event, BaseException):
                raise event
            if event is not None:
                event()
            if not self.isUp:
                self.error = ConnectionError(self.attempts)
                raise self.error
        finally:
            with self.guard:
                self.atOnce -= 1

    def pool(self, capacity, world, **options):
        options = {"openRetryTime": PATIENCE, **options}
        return Pool("p", capacity, **options, factory=lambda name: FakeResource(
            name, world, open=[self] * 1000))


def takeAndPut(pool, **kwargs):
    with pool.take(**kwargs) as resource:
        return resource


def breakDown(service, pool):
    """Have the service go down, and one find out."""
    service.isUp = False
    pool.invalidate()
    with pytest.raises(PoolTimeout):
        pool.take(timeout=0)


def recover(service, pool):
    """Have the service come up, and one find out."""
    service.isUp = True
    takeAndPut(pool)


def test_of_fifty_threads_one_tries_at_a_time_and_all_are_served(world):
    service = Service(isUp=False)
    pool = service.pool(10, world)
    takers = [start(takeAndPut, pool) for _ in range(50)]
    awaitTrue(lambda: service.attempts >= 3)
    awaitTrue(lambda: pool.stats().waiting >= 49)
    service.mostAtOnce = 0  # before the doubt arose one for each slot may have tried
    failed = service.attempts
    awaitTrue(lambda: service.attempts > failed)
    assert service.mostAtOnce == 1
    service.isUp = True
    for taker in takers:
        taker.result()
    checkWhole(pool, world)
    assert pool.stats().timeouts == 0


def test_once_in_doubt_fifty_threads_cost_the_attempts_of_one(world):
    service = Service()
    pool = service.pool(10, world)
    takeAndPut(pool)
    breakDown(service, pool)
    service.attempts = service.mostAtOnce = 0

    def fail():
        with pytest.raises(PoolTimeout) as caught:
            pool.take(timeout=FIRST_PAUSE * 6)
        assert isinstance(caught.value.__cause__, ConnectionError)

    runTogether(*[fail] * 50)
    # 0.1, 0.3 (and, at the earliest, 0.085, 0.255, 0.595) seconds after the first failure.
    assert 1 <= service.attempts <= 4
    assert service.mostAtOnce == 1
    recover(service, pool)
    checkWhole(pool, world)


def test_the_first_success_has_all_others_open_at_once(world):
    service = Service()
    gate = Gate()
    pool = service.pool(5, world)
    breakDown(service, pool)
    service.isUp = True
    service.next = [None] + [gate] * 4
    takers = [start(pool.take) for _ in range(5)]
    for _ in range(4):
        gate.awaitArrival()  # four at once, none after the other
    gate.open()
    for taker in takers:
        pool.put(taker.result())
    assert service.mostAtOnce == 4
    checkWhole(pool, world)


def test_the_next_outage_begins_with_short_pauses_again(world):
    service = Service()
    pool = service.pool(1, world)
    for _ in range(2):
        service.isUp = False
        pool.invalidate()
        taker = start(takeAndPut, pool)
        failed = service.attempts
        awaitTrue(lambda: service.attempts >= failed + 2)
        assert pool._outage._pause > 2 * FIRST_PAUSE
        service.isUp = True
        taker.result()
        assert pool._outage is None and not pool._queue.isDoubtful
    breakDown(service, pool)
    assert pool._outage._pause == 2 * FIRST_PAUSE
    recover(service, pool)
    checkWhole(pool, world)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), SystemExit()], ids=repr)
def test_when_the_one_that_tries_is_interrupted_the_next_one_tries(world, interruption):
    service = Service(isUp=False)
    gate = Gate()

    def holdUp():
        gate()
        raise interruption

    pool = service.pool(3, world)
    with pytest.raises(PoolTimeout):
        pool.take(timeout=0)
    service.next = [holdUp]
    trying = start(pool.take)
    gate.awaitArrival()
    waiting = [start(takeAndPut, pool) for _ in range(5)]
    awaitWaiting(pool, 5)
    attempts = service.attempts
    gate.open()
    with pytest.raises(type(interruption)):
        trying.result()
    awaitTrue(lambda: service.attempts > attempts)
    service.isUp = True
    for each in waiting:
        each.result()
    checkWhole(pool, world)


def test_when_the_one_that_pauses_is_interrupted_the_next_one_tries(world, monkeypatch):
    service = Service(isUp=False)
    pool = service.pool(2, world)
    queue = pool._queue
    get = queue.get
    gate = Gate()

    def interrupted(*args, **kwargs):
        monkeypatch.setattr(queue, "get", get)
        gate()
        raise KeyboardInterrupt

    with pytest.raises(PoolTimeout):
        pool.take(timeout=0)
    assert queue.closed and pool._outage.nextTryAt > 0
    monkeypatch.setattr(queue, "get", interrupted)  # the pause
    pool._outage.nextTryAt = pool._clock() + PATIENCE
    pausing = start(pool.take)
    gate.awaitArrival()
    waiting = start(takeAndPut, pool)
    awaitWaiting(pool, 1)
    service.isUp = True
    pool._outage.nextTryAt = 0.0
    gate.open()
    with pytest.raises(KeyboardInterrupt):
        pausing.result()
    waiting.result()
    checkWhole(pool, world)


def test_one_that_comes_back_in_the_pause_goes_to_the_one_that_tries(world):
    service = Service()
    pool = service.pool(2, world)
    taken = pool.take()
    service.isUp = False
    trying = start(pool.take)
    awaitTrue(lambda: service.attempts == 2)
    later = start(pool.take)
    awaitWaiting(pool, 2)  # the one in its pause, and the other
    pool.put(taken)
    assert trying.result() is taken
    pool.put(taken)
    assert later.result() is taken
    pool.put(taken)
    service.isUp = True
    with pool.take(), pool.take():
        pass
    checkWhole(pool, world)


def test_one_that_is_closed_in_the_repair_has_the_others_open_one_at_a_time(world):
    """Where connections have ended, new ones may fail as well: that one finds out."""
    service = Service()
    gate = Gate()
    pool = service.pool(3, world)
    taken = [pool.take() for _ in range(3)]
    for each in taken:
        pool.put(each)
    for each in taken:
        each.script["takeRepair"] = [each.close]
    service.next = [gate]
    service.mostAtOnce = 0
    takers = [start(takeAndPut, pool)]
    gate.awaitArrival()
    takers += [start(takeAndPut, pool) for _ in range(2)]
    awaitTrue(lambda: pool.stats().waiting == 2 or service.mostAtOnce > 1)
    assert service.mostAtOnce == 1
    gate.open()
    for taker in takers:
        taker.result()
    assert pool.stats().openErrors == 0
    checkWhole(pool, world)


def test_the_deadline_of_the_take_holds_while_the_pause_is_longer(world):
    service = Service(isUp=False)
    pool = service.pool(1, world)
    with pytest.raises(PoolTimeout):
        pool.take(timeout=0)
    pool._outage.nextTryAt = pool._clock() + PATIENCE
    for _ in range(2):
        with pytest.raises(PoolTimeout, match="could not be opened in 0.0") as caught:
            pool.take(timeout=0.02)
        assert caught.value.__cause__ is service.error
    assert service.attempts == 1 and pool.stats().timeouts == 3
    pool._outage.nextTryAt = 0.0
    recover(service, pool)
    checkWhole(pool, world)
    checkClosed(pool, world)


def test_ten_seconds_cost_at_most_twenty_attempts():
    """Whatever chance has it, and however quickly each attempt fails."""
    for _ in range(100):
        outage, now, attempts = Outage(), 0.0, 0
        while now < 10.0:
            attempts += 1
            outage.noteFailure(OSError(), now)
            assert now < outage.nextTryAt <= now + LONGEST_PAUSE
            now = outage.nextTryAt
        assert 10 <= attempts <= 20
