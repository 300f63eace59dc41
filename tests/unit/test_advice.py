"""``advise()``: which capacity and which limits suit a load; simulated loads, and the edges."""

import contextlib
import functools
import heapq
import math
import random
import threading

import pytest

from queuepool import Advice, Pool, PoolTimeout, Reason
from queuepool.advice import LEAST_SAMPLES, WIDTH, adviceFrom
from queuepool.core.sampler import MEMORY
from tests.helpers import FakeResource, Gate, PlainResource, awaitTrue, awaitWaiting, start

LIMITS = {"maxIdleTime": 300.0, "maxOpenTime": 300.0, "maxUsageCount": 1000}


# -- loads

def exponential(chance):
    return chance.expovariate(20.0)


def lognormal(chance):
    return 0.02 * math.exp(chance.gauss(0.0, 1.2))


@functools.cache
def arrivals(rate, useTime, burst=None, seconds=1200):
    """Return when each user comes and how long he needs it.

    In bursts the rate is alternately multiplied by two factors, each for some seconds.
    """
    chance = random.Random(7)
    now, isOn = 0.0, True
    length, on, off = burst or (1e9, 1.0, 1.0)
    changeAt = chance.expovariate(1.0 / length)
    users = []
    while now < seconds:
        current = rate * (on if isOn else off)
        step = chance.expovariate(current) if current else math.inf
        if now + step > changeAt:
            now, isOn = changeAt, not isOn
            changeAt = now + chance.expovariate(1.0 / length)
        else:
            now += step
            users.append((now, useTime(chance)))
    return tuple(users)


def serve(users, capacity):
    """Return when each is in the pool (from, taken at, until), first come first served."""
    free = [0.0] * capacity
    served = []
    for at, seconds in users:
        takenAt = max(at, heapq.heappop(free))
        heapq.heappush(free, takenAt + seconds)
        served.append((at, takenAt, takenAt + seconds))
    return served


@functools.cache
def needed(users):
    """Return the least capacity with which 99 % of the users need not wait."""
    # With less than what is in use on average, hardly anybody need not wait.
    capacity = math.ceil(sum(seconds for _, seconds in users) / users[-1][0])
    while sum(taken > at for at, taken, _ in serve(users, capacity)) > 0.01 * len(users):
        capacity += 1
    return capacity


def instants(seconds=1200):
    chance = random.Random(3)
    return [second + chance.random() for second in range(seconds)]


@pytest.fixture(params=[
    pytest.param((20.0, exponential), id="random, mean 1"),
    pytest.param((80.0, exponential), id="random, mean 4"),
    pytest.param((240.0, exponential, None, 600), id="random, mean 12"),
    pytest.param((80.0, lognormal), id="lognormal"),
    pytest.param((80.0, exponential, (5.0, 1.8, 0.2)), id="bursts of 5 s"),
    pytest.param((40.0, exponential, (30.0, 4.0, 0.0)), id="bursts of 30 s"),
])
def users(request):
    return arrivals(*request.param)


def test_capacity_is_within_one_of_the_truth(users, clock):
    duration = round(users[-1][0])
    events = sorted([(at, 2, number) for number, (at, _) in enumerate(users)]
                    + [(at + seconds, 1, number) for number, (at, seconds) in enumerate(users)]
                    + [(at, 0, None) for at in instants(duration)])
    taken = {}
    with Pool("web", 40, factory=PlainResource, clock=clock) as pool:
        for at, kind, number in events:
            clock.now = at
            if kind == 2:
                taken[number] = pool.take(timeout=0)
            elif kind == 1:
                pool.put(taken.pop(number))
            else:
                pool.sampleLoad()
        advice = pool.advise()
    assert advice.samples == duration
    assert advice.capacity == advice.least == advice.most
    assert abs(advice.least - needed(users)) <= 1
    offered = sum(seconds for _, seconds in users) / duration
    assert advice.loadMean == pytest.approx(offered, rel=0.1)
    assert advice.loadMean < advice.loadP95 < advice.least <= advice.loadMax + 1


def adviseShort(pool, users, capacity):
    """Return the advice for a pool in which many of them have to wait."""
    served = serve(users, capacity)
    changes = sorted([(at, 1) for at, _, _ in served] + [(end, -1) for _, _, end in served])
    loads, load, number = [], 0, 0
    for at in instants(round(users[-1][0])):
        while number < len(changes) and changes[number][0] <= at:
            load += changes[number][1]
            number += 1
        loads.append(load)
    stats = pool.stats()._replace(
        capacity=capacity, takes=len(served), waits=sum(taken > at for at, taken, _ in served))
    return adviceFrom("web", stats, loads, True, 0, LIMITS)


@pytest.mark.parametrize("share", [0.6, 0.8])
def test_with_long_lines_the_truth_is_between_least_and_most(users, share, pool):
    truth = needed(users)
    capacity = math.ceil(share * truth)
    advice = adviseShort(pool, users, capacity)
    assert capacity < advice.least <= truth + 1
    assert advice.most >= truth - 1
    assert f"Raise the capacity from {capacity} to {advice.least}" in advice.sentence
    assert ("ask again" in advice.sentence) == (advice.least < advice.most)


@pytest.mark.parametrize("capacity", [13, 15, 17])
def test_with_long_lines_of_random_arrivals_least_is_within_one_of_the_truth(pool, capacity):
    users = arrivals(240.0, exponential, None, 600)
    advice = adviseShort(pool, users, capacity)
    assert abs(advice.least - needed(users)) <= 1
    assert advice.least < advice.most


# -- samples

@pytest.fixture
def pool(clock, world):
    with Pool("web", 2, factory=lambda name: FakeResource(name, world), clock=clock) as pool:
        yield pool


def sample(pool, times=LEAST_SAMPLES):
    for _ in range(times):
        pool.sampleLoad()


def test_with_fewer_than_600_samples_it_is_too_early(pool):
    sample(pool, 599)
    advice = pool.advise()
    assert (advice.samples, advice.least, advice.most) == (599, None, None)
    assert "too early" in advice.sentence and "599 of 600" in advice.sentence
    sample(pool, 1)
    advice = pool.advise()
    assert (advice.samples, advice.least, advice.most) == (600, 1, 1)
    assert "too early" not in str(advice)


def test_pool_that_did_nothing_has_an_advice(pool):
    advice = pool.advise()
    assert (advice.samples, advice.loadMean, advice.loadP95, advice.loadMax) == (0, *[None] * 3)
    assert (advice.costs, advice.savings) == (None, ())
    assert "0 of 600" in str(advice)


def test_it_says_how_the_recycler_is_started_that_takes_the_samples(pool):
    for _ in range(2):
        assert not pool.advise().recyclerRuns
        assert "startRecycler()" in pool.advise().sentence
        pool.startRecycler(3600.0)
        assert pool.advise().recyclerRuns
        assert "startRecycler()" not in str(pool.advise())
        pool.stopRecycler()
    sample(pool)
    assert "startRecycler()" in str(pool.advise())


def test_it_knows_mean_95_percent_and_maximum(pool):
    advice = adviceFrom("web", pool.stats(), [9, *[0] * 94, *[1] * 5], True, 0, LIMITS)
    assert (advice.loadMean, advice.loadP95, advice.loadMax) == (0.14, 1, 9)


def test_load_is_what_is_checked_out_opened_or_waited_for(world, clock):
    gate = Gate()
    scripts = [{}, {"open": [gate]}]
    with Pool("web", 2, factory=lambda name: FakeResource(name, world, **scripts.pop(0)),
              clock=clock) as pool:
        loads = []

        def look():
            pool.sampleLoad()
            loads.append(round(pool.advise().loadMean * pool.advise().samples) - sum(loads))

        look()
        first = pool.take()
        look()
        opening = start(pool.take)
        gate.awaitArrival()
        look()
        waiting = [start(pool.take) for _ in range(2)]
        awaitWaiting(pool, 2)
        look()
        gate.open()
        pool.put(opening.result())
        pool.put(first)
        look()
        for running in waiting:
            pool.put(running.result())
        look()
    assert loads == [0, 1, 2, 4, 2, 0]


def test_who_gives_up_is_no_load_but_is_told(pool):
    sample(pool, 1)
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(pool.take())
        for _ in range(3):
            with pytest.raises(PoolTimeout):
                pool.take(timeout=0)
        sample(pool)
    advice = pool.advise()
    assert advice.loadMax == 2
    assert (advice.least, advice.most) == (3, 3)
    assert "gave up, 3 of 5" in advice.sentence
    assert "takes 5; waited 0 (0.0 %)" in str(advice) and "gave up 3" in str(advice)


def test_pool_that_is_always_in_use_and_never_waited_for_is_right(pool):
    with pool.take(), pool.take():
        sample(pool)
    advice = pool.advise()
    assert (advice.least, advice.most) == (2, 2)
    assert advice.sentence == "The capacity of 2 is right."


def test_capacity_that_is_far_too_large_is_told(pool):
    pool.resize(20)
    with pool.take():
        sample(pool)
    assert pool.advise().sentence == "The capacity of 20 is more than enough: 2 would do."


def test_it_remembers_an_hour(pool):
    with pool.take():
        sample(pool, MEMORY - 1)
    sample(pool, 1)
    assert (pool.advise().samples, pool.advise().loadMax) == (3600, 1)
    sample(pool, MEMORY - 2)
    assert pool.advise().loadMax == 1
    assert pool.advise().loadMean == pytest.approx(1 / 3600)
    sample(pool, 1)
    assert (pool.advise().samples, pool.advise().loadMax) == (3600, 0)


@pytest.mark.parametrize("change", [lambda pool: pool.resize(3), lambda pool: pool.startAfresh()])
def test_resized_or_in_a_child_process_the_samples_start_afresh(pool, change):
    sample(pool)
    change(pool)
    assert pool.advise().samples == 0
    sample(pool, 2)
    assert pool.advise().samples == 2


def test_what_was_counted_before_the_samples_is_not_held_against_the_capacity(pool):
    with pool.take(), pool.take():
        for _ in range(3):
            with pytest.raises(PoolTimeout):
                pool.take(timeout=0)
    pool.resize(3)
    sample(pool, 1)
    with pool.take(), pool.take(), pool.take():
        sample(pool)
        with pytest.raises(PoolTimeout):
            pool.take(timeout=0)
    advice = pool.advise()
    assert (advice.asked, advice.gaveUp) == (4, 1)
    assert "1 of 4)" in advice.sentence
    assert advice.stats.timeouts == 4


def test_counters_are_forgotten_with_the_samples_of_their_time(pool):
    def fail():
        with pool.take(), pool.take(), pytest.raises(PoolTimeout):
            pool.take(timeout=0)

    sample(pool, 1)
    fail()
    sample(pool, MEMORY - 1)
    assert pool.advise().gaveUp == 1
    sample(pool, 1)
    assert pool.advise().gaveUp == 0
    fail()
    assert (pool.advise().asked, pool.advise().gaveUp) == (3, 1)


def test_stopping_the_recycler_loses_no_samples(pool):
    sample(pool)
    pool.startRecycler(3600.0)
    pool.stopRecycler()
    assert pool.advise().samples >= 600


def test_while_reconnecting_or_closed_nothing_is_sampled(world, clock):
    gate = Gate()
    with Pool("web", 1, openRetryTime=60.0, clock=clock, factory=lambda name: FakeResource(
            name, world, open=[OSError("down"), gate])) as pool:
        taking = start(pool.take)
        awaitTrue(lambda: pool.report().isReconnecting)
        pool.sampleLoad()
        assert pool.advise().samples == 0
        clock.advance(2.0)
        gate.awaitArrival()
        gate.open()
        pool.put(taking.result())
        pool.sampleLoad()
        assert pool.advise().samples == 1
    pool.sampleLoad()
    assert pool.advise().samples == 1


def test_threads_may_ask_while_another_one_samples(pool):
    isOver = threading.Event()

    def ask():
        while not isOver.is_set():
            assert pool.advise().loadMax in (0, 1, None)

    asking = [start(ask) for _ in range(3)]
    for _ in range(2):
        with pool.take():
            sample(pool, MEMORY)
        sample(pool, 100)
        pool.resize(3)
    isOver.set()
    for running in asking:
        running.result()


# -- limits

def openSlowly(clock, world, **script):
    return lambda name: FakeResource(name, world, open=[lambda: clock.advance(0.5)] * 100)


@pytest.mark.parametrize("limit, value, reason, pause", [
    ("maxIdleTime", 10.0, Reason.IDLE, 11.0),
    ("maxOpenTime", 10.0, Reason.AGE, 11.0),
    ("maxUsageCount", 1, Reason.USAGE, 0.0),
])
def test_it_says_which_limit_costs_how_many_opens(clock, world, limit, value, reason, pause):
    limits = {"maxIdleTime": None, "maxOpenTime": None, "maxUsageCount": None, limit: value}
    with Pool("web", 1, factory=openSlowly(clock, world), clock=clock, **limits) as pool:
        for _ in range(20):
            pool.put(pool.take())
            clock.advance(pause)
        sample(pool)
        advice = pool.advise()
    closes = advice.stats.closesByReason[reason]
    assert closes >= 19
    assert advice.savings == ((limit, value, closes, 0.5 * closes),)
    assert f"{limit}={value} had closed" in advice.sentence
    assert f"{100 * closes / 20:.1f} % of takes" in advice.sentence
    assert ("or raise minOpen, which is 0." in advice.sentence) == (reason is Reason.IDLE)
    word = "higher" if reason is Reason.USAGE else "longer"
    assert f"closed {closes}: a {word} one saves" in str(advice)
    assert f"up to {0.5 * closes:.3f} s" in str(advice)
    assert advice.costs == "opening"


def test_the_limit_with_most_opens_comes_first(pool):
    stats = pool.stats()._replace(takes=1000, opens=60, openTime=6.0, closesByReason={
        **pool.stats().closesByReason, Reason.IDLE: 10, Reason.AGE: 30, Reason.USAGE: 20})
    advice = adviceFrom("web", stats, [0] * 600, True, 1, LIMITS)
    assert [saving.limit for saving in advice.savings] == [
        "maxOpenTime", "maxUsageCount", "maxIdleTime"]
    assert "maxOpenTime=300.0" in advice.sentence


def test_limit_that_costs_hardly_any_opens_is_not_advised(pool):
    stats = pool.stats()._replace(takes=1000, opens=10, openTime=1.0, closesByReason={
        **pool.stats().closesByReason, Reason.IDLE: 9})
    advice = adviceFrom("web", stats, [1] * 600, True, 0, LIMITS)
    assert advice.sentence == "The capacity of 2 is right."
    assert "maxIdleTime=300.0 closed 9" in str(advice)


def test_failed_opens_count_for_the_mean_of_an_open(pool):
    stats = pool.stats()._replace(takes=20, opens=20, openErrors=20, openTime=8.0, closesByReason={
        **pool.stats().closesByReason, Reason.USAGE: 10})
    saving, = adviceFrom("web", stats, [], True, 0, LIMITS).savings
    assert saving.seconds == pytest.approx(2.0)


@pytest.mark.parametrize("minOpen, isTold", [(1, True), (2, False)])
def test_more_min_open_is_advised_if_it_is_below_the_need(pool, minOpen, isTold):
    stats = pool.stats()._replace(takes=20, opens=20, closesByReason={
        **pool.stats().closesByReason, Reason.IDLE: 19})
    advice = adviceFrom("web", stats, [1] * 600, True, minOpen, LIMITS)
    assert "raise it" in advice.sentence
    assert ("minOpen" in advice.sentence) == isTold


def test_limit_that_was_lifted_meanwhile_is_not_advised(pool):
    stats = pool.stats()._replace(takes=20, opens=20, closesByReason={
        **pool.stats().closesByReason, Reason.USAGE: 19})
    advice = adviceFrom("web", stats, [1] * 600, True, 0, {**LIMITS, "maxUsageCount": None})
    assert advice.sentence == "The capacity of 2 is right."
    assert "  maxUsageCount closed 19 before it was lifted\n" in f"{advice}\n"


def withCloses(pool, takes, **closes):
    return pool.stats()._replace(takes=takes, opens=70, openTime=1.0, closesByReason={
        **pool.stats().closesByReason, **{Reason[name]: count for name, count in closes.items()}})


def test_more_closes_than_takes_are_not_blamed_on_takes(pool):
    stats = withCloses(pool, 1, AGE=60)
    advice = adviceFrom("web", stats, [1] * 600, True, 2, LIMITS)
    assert advice.sentence == ("The capacity is enough, but maxOpenTime=300.0 closed 60, mostly "
                               "opened again for minOpen: raise it.")
    assert "at most 100.0 % of takes" in adviceFrom(
        "web", stats, [1] * 600, True, 0, LIMITS).sentence


def test_limit_of_a_pool_that_nobody_uses_is_not_advised(pool):
    advice = adviceFrom("web", withCloses(pool, 0, AGE=1), [1] * 600, True, 0, LIMITS)
    assert advice.sentence == "The capacity of 2 is right."


def test_other_reasons_are_listed(pool):
    with contextlib.suppress(ValueError), pool.take():
        raise ValueError
    resource = pool.take()
    resource.close()
    pool.put(resource)
    pool.put(pool.take())
    pool.close()
    assert pool.stats().closesByReason[Reason.POOL_CLOSED] == 1
    assert "closed for other reasons: exception 1, user 1\n" in str(pool.advise())
    assert pool.advise().savings == ()


def test_it_says_what_costs_more(pool):
    for waitTime, openTime, costs in (0.0, 0.0, None), (2.0, 1.0, "waiting"), (1.0, 2.0, "opening"):
        stats = pool.stats()._replace(waitTime=waitTime, openTime=openTime)
        advice = adviceFrom("web", stats, [], True, 0, LIMITS)
        assert advice.costs == costs
        assert (f"{costs} costs more" in str(advice)) == (costs is not None)


# -- for humans

def test_it_is_at_most_80_columns_wide_whatever_the_numbers_are(pool):
    reasons = dict.fromkeys(Reason, 10 ** 12)
    stats = pool.stats()._replace(
        capacity=10 ** 6, takes=10 ** 15, waits=10 ** 14, timeouts=10 ** 13, opens=10 ** 12,
        waitTime=1e12, openTime=1e12, closesByReason=reasons)
    for loads in [], [10 ** 7] * 600, [10 ** 6 - 5] * 600, [3] * 600:
        advice = adviceFrom("web\n\x1b[31m" * 20, stats, loads, False, 0, LIMITS)
        for line in str(advice).split("\n"):
            assert line.isprintable() and len(line) <= WIDTH == 80
        assert "\n" not in advice.sentence and advice.sentence.endswith(".")


def test_it_is_frozen(pool):
    advice = pool.advise()
    assert isinstance(advice, Advice)
    with pytest.raises(AttributeError):
        advice.least = 3
