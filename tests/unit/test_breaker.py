"""The circuit breaker: after a failure one tries at a time, at growing intervals."""

import gc
import logging
import threading
from weakref import ref

import pytest

from queuepool import Pool, PoolTimeout, Resource
from queuepool.core.breaker import FIRST_PAUSE, LONGEST_PAUSE, CircuitBreaker, withoutFrames
from queuepool.core.slot import NEVER, Place, Slot
from tests.helpers import (PATIENCE, FakeClock, FakeResource, Gate, awaitTrue, awaitWaiting,
                           checkClosed, checkWhole, runTogether, start)

# -- who may open, and when


@pytest.fixture
def breaker(clock):
    return CircuitBreaker(clock)


def heldSlot():
    slot = Slot()
    slot.place = Place.HELD
    return slot


def test_normally_everybody_may_open(breaker):
    assert breaker.isReady()
    assert breaker.admits(heldSlot()) and breaker.admits(heldSlot())
    assert (breaker.isTripped, breaker.error) == (False, None)


def test_once_tripped_one_at_a_time_may(breaker):
    breaker.trip()
    probe, other = heldSlot(), heldSlot()
    assert breaker.isReady()
    assert breaker.admits(probe) and breaker.admits(probe)
    assert not breaker.isReady() and not breaker.admits(other)
    breaker.release(other)
    assert not breaker.admits(other), "only the probe itself can be released"
    breaker.release(probe)
    assert breaker.isReady() and breaker.admits(other)


@pytest.mark.parametrize("place", [Place.IDLE, Place.TAKEN, Place.RETURNED, Place.GONE])
def test_a_probe_that_is_not_held_any_more_is_none(breaker, place):
    breaker.trip()
    probe, other = heldSlot(), heldSlot()
    assert breaker.admits(probe)
    probe.place = place
    assert breaker.isReady() and breaker.admits(other)
    assert not breaker.admits(probe)


def test_of_many_who_ask_at_once_one_may(breaker):
    breaker.trip()
    for _ in range(20):
        slots = [heldSlot() for _ in range(8)]
        admitted = runTogether(*[lambda slot=slot: breaker.admits(slot) for slot in slots])
        assert sum(admitted) == 1
        breaker.release(slots[admitted.index(True)])


def test_after_a_failure_nobody_may_before_its_time(breaker, clock):
    breaker.noteFailure(OSError(), None)
    pause = breaker.pause()
    assert 0.0 < pause <= FIRST_PAUSE
    assert not breaker.isReady() and not breaker.admits(heldSlot())
    clock.now = breaker.retryAt
    assert breaker.pause() == NEVER
    assert breaker.isReady() and breaker.admits(heldSlot())


def test_a_success_forgets_it_all(breaker, clock):
    breaker.noteFailure(OSError("old"), None)
    clock.advance(1)
    breaker.noteFailure(OSError("old"), None)
    clock.advance(1)
    assert breaker.admits(heldSlot())
    breaker.reset()
    assert (breaker.isTripped, breaker.error) == (False, None)
    breaker.trip()
    assert breaker.admits(heldSlot())
    error = OSError("new")
    breaker.noteFailure(error, None)
    assert breaker.error is error
    assert breaker.pause() <= FIRST_PAUSE and breaker.giveUpAt(0.0, 5.0) == clock.now + 5.0


def test_a_take_gives_up_its_time_after_it_met_the_first_failure(breaker, clock):
    since = clock.now
    for number in range(3):
        breaker.noteFailure(OSError(number), None)
        assert breaker.error.args == (number,)
        clock.advance(1)
    assert breaker.giveUpAt(since - 10.0, 5.0) == since + 5.0
    assert breaker.giveUpAt(since + 10.0, 5.0) == since + 15.0
    breaker.reset()  # by another thread, in the middle of its look
    assert breaker.giveUpAt(since - 10.0, 5.0) == NEVER


@pytest.mark.parametrize("chance, fraction", [(0, 0.85), (1, 1.0)])
def test_the_pauses_double_up_to_the_longest_and_are_a_bit_at_random(
        breaker, clock, monkeypatch, chance, fraction):
    monkeypatch.setattr("random.uniform", lambda *bounds: bounds[chance])
    pauses = []
    for _ in range(7):
        for _ in range(3):  # of several that fail at once, one counts
            breaker.noteFailure(OSError(), None)
        pauses.append(breaker.pause())
        clock.advance(pauses[-1])
    expected = [fraction * min(FIRST_PAUSE * 2 ** n, LONGEST_PAUSE) for n in range(7)]
    assert pauses == pytest.approx(expected)


def test_ten_seconds_cost_at_most_twenty_attempts():
    """Whatever chance has it, and however quickly each attempt fails."""
    for _ in range(100):
        clock, attempts = FakeClock(0.0), 0
        breaker = CircuitBreaker(clock)
        while clock.now < 10.0:
            attempts += 1
            breaker.noteFailure(OSError(), None)
            assert 0.0 < breaker.pause() <= LONGEST_PAUSE
            clock.now = breaker.retryAt
        assert 14 <= attempts <= 20


# -- the failure that is kept

def raised(error, cause=None):
    """Return the error with a traceback, as after a raise."""
    try:
        raise error from cause
    except BaseException as caught:
        return caught


def test_no_frame_is_kept_of_the_error_nor_of_all_that_it_refers_to():
    links = [raised(OSError(number)) for number in range(6)]
    top, cause, context, member, nested, deep = links
    group = raised(ExceptionGroup("g", [member, ExceptionGroup("n", [nested])]))
    top.__cause__, top.__context__ = cause, context
    context.__context__ = group
    nested.__cause__ = deep
    assert withoutFrames(top) is top
    assert [link.__traceback__ for link in [*links, group]] == [None] * 7
    assert (top.__cause__, top.__context__, context.__context__) == (cause, context, group)


@pytest.mark.parametrize("attribute", ["__cause__", "__context__"])
def test_causes_may_form_a_cycle(attribute):
    links = [raised(OSError(number)) for number in range(3)]
    for link, following in zip(links, links[1:] + links[:1]):
        setattr(link, attribute, following)
    withoutFrames(links[0])
    assert [link.__traceback__ for link in links] == [None] * 3


def test_a_group_may_be_the_cause_of_its_own_member():
    member = raised(OSError())
    group = raised(ExceptionGroup("g", [member]))
    member.__cause__ = group
    assert withoutFrames(member).__traceback__ is group.__traceback__ is None


@pytest.mark.parametrize("suppresses", [True, False])
def test_what_the_caller_was_handling_is_left_alone_and_not_kept(suppresses):
    behind = raised(KeyError("behind"))
    outer = raised(ValueError("the caller's"), behind)
    inner = raised(ConnectionError("within open"))
    error = raised(OSError("of open"))
    error.__context__, inner.__context__ = inner, outer
    inner.__suppress_context__ = suppresses
    withoutFrames(error, outer)
    assert error.__traceback__ is inner.__traceback__ is None
    assert inner.__context__ is None and inner.__suppress_context__ is suppresses
    assert outer.__traceback__ and behind.__traceback__ and outer.__cause__ is behind


def test_an_open_that_raises_what_the_caller_was_handling_leaves_it_alone():
    outer = raised(ValueError())
    assert withoutFrames(outer, outer).__traceback__


class Local:
    """What is in a variable of an open that fails."""


class Unreachable(Resource):
    """A resource whose open fails, and keeps something in a variable then."""

    locals = []

    def open(self):
        local = Local()
        self.locals.append(ref(local))
        try:
            raise OSError("inner")
        except OSError as error:
            raise ExceptionGroup("outer", [error]) from error


def test_a_pool_keeps_nothing_that_a_failed_open_had(caplog):
    caplog.set_level(logging.CRITICAL, "queuepool")  # what is captured keeps the traceback
    pool = Pool("p", 1, factory=Unreachable, openRetryTime=1.0)
    with pytest.raises(PoolTimeout):
        pool.take(timeout=0)
    gc.collect()
    assert Unreachable.locals.pop()() is None


def test_a_take_in_an_except_block_leaves_the_exception_there_alone():
    pool = Pool("p", 1, factory=Unreachable, openRetryTime=1.0)
    try:
        raise KeyError("the user's") from raised(ValueError())
    except KeyError as error:
        user, traceback = error, error.__traceback__
        with pytest.raises(PoolTimeout) as caught:
            pool.take(timeout=0)
    assert user.__traceback__ is traceback and user.__cause__.__traceback__
    assert caught.value.__context__ is user, "as Python has it"
    assert caught.value.__cause__.__context__.__context__ is None


# -- many threads

class Service:
    """What all resources of a pool open. Up, or down; knows who tried, and how many at once."""

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


class InterruptingClock(FakeClock):
    """A clock that interrupts a thread that reads it, once."""

    thread = None

    def __call__(self):
        if threading.current_thread() is self.thread:
            self.thread = None
            raise KeyboardInterrupt
        return super().__call__()


def takeAndPut(pool, **kwargs):
    with pool.take(**kwargs) as resource:
        return resource


def breakDown(service, pool):
    """Have the service go down, and one find out."""
    service.isUp = False
    pool.invalidate()
    with pytest.raises(PoolTimeout):
        pool.take(timeout=0)


def recover(service, pool, clock=None):
    """Have the service come up, and one find out."""
    service.isUp = True
    if clock is not None:
        clock.advance(LONGEST_PAUSE)
    takeAndPut(pool)


def test_of_fifty_threads_one_tries_at_a_time_and_all_are_served(world):
    service = Service(isUp=False)
    pool = service.pool(10, world)
    takers = [start(takeAndPut, pool) for _ in range(50)]
    awaitTrue(lambda: service.attempts >= 3)
    awaitTrue(lambda: pool.stats().waiting >= 49)
    service.mostAtOnce = 0  # before the first failure one for each resource may have tried
    failed = service.attempts
    awaitTrue(lambda: service.attempts > failed)
    assert service.mostAtOnce == 1
    service.isUp = True
    for taker in takers:
        taker.result()
    checkWhole(pool, world)
    assert pool.stats().timeouts == 0


def test_once_tripped_fifty_threads_cost_the_attempts_of_one(world, clock):
    service = Service()
    pool = service.pool(10, world, clock=clock)
    takeAndPut(pool)
    breakDown(service, pool)
    takers = [start(takeAndPut, pool) for _ in range(50)]
    awaitWaiting(pool, 50)
    service.mostAtOnce = 0
    for attempts in range(2, 5):
        assert service.attempts == attempts
        clock.advance(LONGEST_PAUSE)
        awaitTrue(lambda: service.attempts > attempts)
        awaitWaiting(pool, 50)  # the one that tried stands in line again
    assert service.mostAtOnce == 1
    service.isUp = True
    clock.advance(LONGEST_PAUSE)
    for taker in takers:
        taker.result()
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


def test_when_the_one_that_pauses_is_interrupted_the_next_one_tries(world):
    service, clock = Service(), InterruptingClock()
    pool = service.pool(2, world, clock=clock)
    breakDown(service, pool)
    pausing = start(pool.take)
    awaitWaiting(pool, 1)
    waiting = start(takeAndPut, pool)
    awaitWaiting(pool, 2)
    clock.thread = pausing.thread
    with pytest.raises(KeyboardInterrupt):
        pausing.result()
    service.isUp = True
    clock.advance(LONGEST_PAUSE)
    waiting.result()
    checkWhole(pool, world)


def test_one_that_comes_back_in_the_pause_goes_to_the_one_that_tries(world, clock):
    service = Service()
    pool = service.pool(2, world, clock=clock)
    taken = pool.take()
    service.isUp = False
    trying = start(pool.take)
    awaitTrue(lambda: service.attempts == 2)
    awaitWaiting(pool, 1)
    later = start(pool.take)
    awaitWaiting(pool, 2)
    for waiter in trying, later:
        pool.put(taken)
        assert waiter.result() is taken
    pool.put(taken)
    service.isUp = True
    clock.advance(LONGEST_PAUSE)
    checkWhole(pool, world)
    assert service.attempts == 3


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


def test_the_deadline_of_the_take_holds_while_the_pause_is_longer(world, clock):
    service = Service()
    pool = service.pool(1, world, clock=clock)
    breakDown(service, pool)
    for _ in range(2):
        with pytest.raises(PoolTimeout) as caught:
            pool.take(timeout=0.02)
        assert caught.value.__cause__ is service.error
    assert service.attempts == 1 and pool.stats().timeouts == 3
    recover(service, pool, clock)
    checkWhole(pool, world)
    checkClosed(pool, world)
