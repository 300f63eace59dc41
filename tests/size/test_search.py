"""The search on fake servers whose best capacity is known, with noise that is drawn anew."""

import random
import threading
import time
from typing import NamedTuple

import pytest

from queuepool import Pool
from queuepool.size.search import (LEAST_RUNS, MOST_RUNS, Ended, findKnee, interpolate, ladder,
                                   middle, search, step)
from tests.helpers import PlainResource

LIMIT = 50


class Run(NamedTuple):
    rate: float
    p99: float = 0.001


def workers(count):
    """A server that works on so many requests at a time; more only disturb it a little."""
    return lambda capacity: 100.0 * min(capacity, count) * 0.998 ** max(0, capacity - count)


class Fake:
    """Measure a model, with noise: a few per cent each time, and now and then a bad second."""

    def __init__(self, model, seed=None, noise=0.04, bad=0.05):
        self.model = model
        self.chance = None if seed is None else random.Random(seed)
        self.noise = noise
        self.bad = bad
        self.calls = []

    def __call__(self, capacity):
        self.calls.append(capacity)
        rate = self.model(capacity)
        if self.chance is not None:
            rate *= 1.0 + self.chance.gauss(0.0, self.noise)
            if self.chance.random() < self.bad:
                rate *= self.chance.uniform(0.3, 0.8)
        return Run(rate)


# -- where the best capacity is known

@pytest.mark.parametrize("count", [*range(1, 13), 16, 17, 24, 31, 32, 33])
def test_without_noise_the_answer_is_within_one_step(count):
    fake = Fake(workers(count))
    _, answer = search(fake, LIMIT)
    assert answer.verdict == "found"
    assert abs(answer.recommended - count) <= step(count)
    assert len(set(fake.calls)) <= 11
    assert answer.reach == (answer.recommended,) * 2


@pytest.mark.parametrize("count", [1, 2, 3, 6, 10, 20])
def test_with_noise_it_is_within_one_step_in_20_of_20_runs(count):
    wrong = []
    for seed in range(20):
        fake = Fake(workers(count), seed)
        _, answer = search(fake, LIMIT)
        if answer.verdict != "found" or abs(answer.recommended - count) > step(count):
            wrong.append((seed, answer))
        assert max(map(fake.calls.count, fake.calls)) <= MOST_RUNS
    assert wrong == []


def test_constant_latency_still_gains_in_20_of_20_runs():
    answers = [search(Fake(workers(10 ** 6), seed), LIMIT)[1] for seed in range(20)]
    assert {answer.verdict for answer in answers} == {"still gains"}
    assert {answer.recommended for answer in answers} == {None}


def test_threads_that_all_have_one_need_no_more():
    _, answer = search(Fake(workers(10 ** 6)), 12, isWhole=True)
    assert (answer.verdict, answer.recommended) == ("all", 12)


@pytest.mark.parametrize("count, limit", [(20, 32), (20, 30), (3, 4), (1, 2), (6, 9)])
def test_knee_well_below_the_limit_is_found(count, limit):
    assert abs(search(Fake(workers(count)), limit)[1].recommended - count) <= step(count) // 2


@pytest.mark.parametrize("count, limit", [(20, 21), (20, 20), (20, 7), (2, 2), (9, 9)])
def test_knee_close_to_the_limit_is_not_told_from_one_beyond_it(count, limit):
    assert search(Fake(workers(count)), limit)[1].verdict == "still gains"


def test_throughput_that_falls_behind_the_knee():
    def contended(capacity):
        return 100.0 * min(capacity, 6) * 0.9 ** max(0, capacity - 6)

    assert abs(search(Fake(contended), LIMIT)[1].recommended - 6) <= 1


def test_noise_that_hides_everything_is_told():
    chance = random.Random(7)
    answers = [search(lambda capacity: Run(10.0 ** chance.uniform(0.0, 3.0)), LIMIT)[1]
               for _ in range(20)]
    assert [answer.verdict for answer in answers] == ["noise"] * 20
    assert {answer.recommended for answer in answers} == {None}


# -- how it measures

def test_each_capacity_is_measured_as_often_as_the_least_and_in_turns():
    fake = Fake(workers(3))
    curve, _ = search(fake, LIMIT)
    rounds = [fake.calls[at:at + len(curve.runs)] for at in range(0, len(fake.calls),
                                                                  len(curve.runs))]
    assert len(rounds) == LEAST_RUNS
    assert all(set(one) == set(curve.runs) for one in rounds)


def test_one_bad_run_decides_nothing():
    calls = []

    def measure(capacity):
        calls.append(capacity)
        return Run(1.0 if len(calls) == 4 else workers(6)(capacity))

    assert search(measure, LIMIT)[1].recommended == 6


def test_it_measures_nothing_beyond_the_limit():
    for limit in (1, 2, 3, 4, 5, 7, 11, 50, 64):
        fake = Fake(workers(10 ** 6))
        search(fake, limit)
        assert max(fake.calls) == limit


def test_ladder_has_no_small_steps_and_ends_at_the_limit():
    assert ladder(1) == [1]
    assert ladder(64) == [1, 2, 4, 8, 16, 32, 64]
    assert ladder(50) == [1, 2, 4, 8, 16, 32, 50]
    for limit in range(2, 300):
        rungs = ladder(limit)
        assert rungs[-1] == limit
        assert all(low * 3 <= 2 * high for low, high in zip(rungs, rungs[1:]))


def test_level_of_some_runs_is_neither_the_best_nor_a_bad_one():
    assert middle([5.0]) == 5.0
    assert middle([100.0, 1.0, 102.0, 98.0, 150.0]) == 101.0
    assert middle([3.0, 1.0, 2.0]) == 2.5


def test_level_between_two_is_between_theirs():
    levels = {1: 100.0, 4: 300.0}
    assert interpolate(levels, 2) == 200.0
    assert (interpolate(levels, 4), interpolate(levels, 9)) == (300.0, 300.0)


def test_slow_growth_is_not_worth_a_doubling():
    assert findKnee(lambda capacity: 1.05 ** (capacity.bit_length() - 1), LIMIT).capacity == 1


# -- how it ends early

def endingAfter(count, model):
    fake = Fake(model)

    def measure(capacity):
        if len(fake.calls) == count:
            raise Ended("it was stopped")
        return fake(capacity)

    return measure


def test_end_before_anything_was_measured():
    curve, answer = search(endingAfter(0, workers(3)), LIMIT)
    assert curve.runs == {}
    assert (answer.verdict, answer.recommended) == ("ended", None)


def test_end_while_it_still_gains_recommends_nothing():
    curve, answer = search(endingAfter(3, workers(20)), LIMIT)
    assert sorted(curve.runs) == [1, 2, 4]
    assert (answer.verdict, answer.recommended) == ("ended", None)
    assert answer.ended == "it was stopped"


@pytest.mark.parametrize("count", range(1, 50, 3))
def test_end_at_any_time_says_nothing_wrong(count):
    curve, answer = search(endingAfter(count, workers(6)), LIMIT)
    # Six capacities are measured in each round.
    if answer.recommended is None:
        assert answer.verdict == "ended" and count < 3 * 7
        if max(curve.runs) == 16:
            assert answer.reach[0] <= 6 <= answer.reach[1]
    else:
        assert (answer.verdict, answer.recommended) == ("found", 6)
        assert count >= 3 * 6


@pytest.mark.parametrize("seed", range(5))
def test_single_runs_find_nothing(seed):
    for count in range(1, 25):
        fake = Fake(workers(20), seed, noise=0.03, bad=0.0)
        measured = []

        def measure(capacity):
            if len(measured) == count:
                raise Ended("it was stopped")
            measured.append(capacity)
            return fake(capacity)

        curve, answer = search(measure, 64)
        if answer.recommended is None:
            assert answer.verdict == "ended"
        else:
            assert abs(answer.recommended - 20) <= step(20)
            assert min(len(curve.runs[capacity])
                       for capacity in curve.beside(answer.recommended)) >= 3
        low, high = answer.reach
        assert low <= high and (max(curve.runs) < 32 or low <= 20 <= high + step(20))


def test_all_is_not_said_of_single_runs():
    fake = endingAfter(7, workers(10 ** 6))
    _, answer = search(fake, 12, isWhole=True)
    assert (answer.verdict, answer.recommended) == ("ended", None)


# -- with a limit for p99

def withP99(model, p99):
    return lambda capacity: Run(model(capacity), p99(capacity))


def test_knee_that_keeps_p99_is_recommended():
    _, answer = search(withP99(workers(6), lambda capacity: 0.010), LIMIT, p99=0.010)
    assert (answer.verdict, answer.recommended) == ("found", 6)


def test_more_than_the_knee_is_recommended_if_that_keeps_p99():
    measure = withP99(workers(6), lambda capacity: 0.030 if capacity < 11 else 0.009)
    _, answer = search(measure, LIMIT, p99=0.010)
    assert (answer.verdict, answer.recommended) == ("found", 11)


def test_none_that_keeps_p99():
    _, answer = search(withP99(workers(6), lambda capacity: 0.030), LIMIT, p99=0.010)
    assert (answer.verdict, answer.recommended) == ("p99", None)


def test_capacity_that_keeps_p99_but_loses_throughput_is_not_recommended():
    def model(capacity):
        return 100.0 * min(capacity, 6) * (0.5 if capacity > 8 else 1.0)

    measure = withP99(model, lambda capacity: 0.001 if capacity < 4 or capacity > 8 else 0.030)
    _, answer = search(measure, LIMIT, p99=0.010)
    assert (answer.verdict, answer.recommended) == ("p99", None)


# -- with threads

def measureThreads(count, seconds=0.06, threads=16):
    """Be a server of so many workers, each of which takes 4 ms a request."""
    desks = threading.Semaphore(count)

    def measure(capacity):
        pool = Pool("fake", capacity, factory=PlainResource)
        done = [0] * threads
        endAt = time.perf_counter() + seconds

        def work(number):
            while time.perf_counter() < endAt:
                with pool.take(), desks:
                    time.sleep(0.004)
                done[number] += 1

        running = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        return Run(sum(done) / seconds)

    return measure


@pytest.mark.alone
@pytest.mark.parametrize("count", [1, 3])
def test_threads_on_a_fake_server(count):
    _, answer = search(measureThreads(count), 16)
    assert answer.verdict == "found"
    assert abs(answer.recommended - count) <= 1
