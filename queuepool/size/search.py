"""The search for the capacity of a pool: which capacities to measure, and what follows from it.

It knows nothing of databases: ``search`` gets a function that measures. The rule is ``findKnee``.
It is applied to the medians of what was measured, again after each round of runs, and asks for the
capacities that it needs. ``reach`` applies it to runs drawn anew from those that were measured:
how far the answers differ then is what the noise allows to tell.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

#: A doubling of the capacity has to gain so much, or the search doubles it no more.
GAIN = 1.15
#: A throughput of this share of the best one is nearly the best.
NEARLY = 0.95
#: How often each capacity that the answer depends on is measured, at least and at most.
LEAST_RUNS = 3
MOST_RUNS = 9
#: How often the runs are drawn anew, to see what other answers they allow.
DRAWS = 200

Verdict = Literal["found", "all", "still gains", "noise", "p99", "ended"]


class Ended(Exception):
    """Raised by what measures when it cannot go on; its message says why."""


class Run(Protocol):
    """What one run has measured, in requests per second and in seconds."""

    @property
    def rate(self) -> float: ...

    @property
    def times(self) -> list[float]: ...


@dataclass(frozen=True)
class Answer:
    """What was found.

    - "found": ``recommended`` has nearly the best throughput, and with a limit for p99 it keeps it
    - "all": the throughput gains up to the limit, beyond which nothing can be used
    - "still gains": the throughput gains up to the limit, so more may be better
    - "noise": the runs differ too much to tell
    - "p99": no capacity with nearly the best throughput keeps the limit for p99
    - "ended": the search ended before it could tell
    """

    verdict: Verdict
    recommended: int | None
    #: The capacity behind the knee, at which what limits can be seen.
    full: int
    #: The lowest and the highest answer that the same runs allow.
    reach: tuple[int, int]
    #: Why the search ended early, or "".
    ended: str


def step(capacity: int) -> int:
    """Return how exact an answer is: the capacities that are tried lie so far apart."""
    return max(1, capacity // 8)


def ladder(limit: int) -> list[int]:
    """Return 1, 2, 4 ... and the limit. No rung is less than a half above the one before."""
    rungs = [1]
    while rungs[-1] * 3 <= limit:
        rungs.append(rungs[-1] * 2)
    return rungs + [limit] * (limit > 1)


def findKnee(level: Callable[[int], float], limit: int) -> tuple[int | None, int]:
    """Return the smallest capacity with nearly the best throughput, and the one behind it.

    ``level`` returns the throughput at a capacity. The knee is None if the throughput still gains
    at the limit. That shows at three quarters of it: there it is not nearly the best.
    """
    rungs = ladder(limit)
    top = 0
    while top + 1 < len(rungs):
        needed: float = GAIN ** math.log2(rungs[top + 1] / rungs[top])
        if level(rungs[top + 1]) < needed * level(rungs[top]):
            break
        top += 1
    best = level(rungs[top])
    full = rungs[top]
    if top + 1 < len(rungs):
        best = max(best, level(rungs[top + 1]))
        full = rungs[top + 1]
    enough = NEARLY * best
    if level(rungs[top]) < enough:
        low, high = rungs[top], full
    else:
        low, high = rungs[max(0, top - 1)], rungs[top]
    if high == limit:
        quarter = max(low, limit * 3 // 4)
        if limit == 1 or level(quarter) < enough:
            return None, limit
    while high - low > step(high):
        middle = (low + high) // 2
        if level(middle) >= enough:
            high = middle
        else:
            low = middle
    return high, full


def interpolate(levels: dict[int, float], capacity: int) -> float:
    """Return the level at a capacity that was not measured, from those beside it."""
    below = max((known for known in levels if known <= capacity), default=min(levels))
    above = min((known for known in levels if known >= capacity), default=max(levels))
    if below >= above:
        return levels[below]
    share = math.log(capacity / below) / math.log(above / below)
    return levels[below] + share * (levels[above] - levels[below])


@dataclass
class Curve:
    """The runs at each capacity, and what follows from them."""

    limit: int
    runs: dict[int, list[Run]] = field(default_factory=dict)

    def level(self, capacity: int) -> float:
        """Return the throughput at a capacity: the median of its runs."""
        return statistics.median(run.rate for run in self.runs[capacity])

    def p99(self, capacity: int) -> float:
        """Return the 99th percentile of the times of all requests at a capacity, in seconds."""
        return percentile([time for run in self.runs[capacity] for time in run.times], 0.99)

    def reach(self) -> tuple[int, int]:
        """Return the lowest and the highest knee of nine out of ten draws of the same runs.

        A knee beyond the limit counts as twice the limit.
        """
        chance = random.Random(0)
        knees = []
        rates = {capacity: [run.rate for run in runs] for capacity, runs in self.runs.items()}
        for _ in range(DRAWS):
            levels = {capacity: statistics.median(chance.choices(some, k=len(some)))
                      for capacity, some in rates.items()}
            knee, _ = findKnee(lambda capacity: interpolate(levels, capacity), self.limit)
            knees.append(knee or 2 * self.limit)
        knees.sort()
        return knees[DRAWS // 20], knees[-1 - DRAWS // 20]


def percentile(values: list[float], share: float) -> float:
    """Return the exact percentile (nearest rank), or nan if there are no values."""
    return sorted(values)[math.ceil(share * len(values)) - 1] if values else math.nan


def search(measure: Callable[[int], Run], limit: int, *, p99: float | None = None,
           isWhole: bool = False) -> tuple[Curve, Answer]:
    """Find the smallest capacity up to the limit that has nearly the best throughput.

    ``measure`` measures a capacity once. It is called with one capacity after the other, in
    rounds, so that a while in which the machine is busy does not hit one capacity alone. When it
    raises Ended, the answer comes from what was measured until then; that may be nothing.
    ``p99`` is the limit for the 99th percentile in seconds. ``isWhole`` tells that nothing beyond
    the limit could be used.
    """
    curve = Curve(limit)
    ended = ""
    try:
        _measure(curve, measure, p99)
    except Ended as error:
        ended = str(error)
    return curve, _answer(curve, p99, isWhole, ended)


def _measure(curve: Curve, measure: Callable[[int], Run], p99: float | None) -> None:
    """Measure in rounds all that the answer depends on, until its runs tell it, or do not."""
    while True:
        asked = _decide(curve, measure, p99)
        fewest = min(len(curve.runs[capacity]) for capacity in asked)
        if fewest >= MOST_RUNS:
            return
        if fewest >= LEAST_RUNS:
            low, high = curve.reach()
            if high - low <= step(high):
                return
        # What was asked for late catches up, so that all get the same number of runs.
        for capacity in sorted(asked):
            if len(curve.runs[capacity]) == fewest or fewest >= LEAST_RUNS:
                curve.runs[capacity].append(measure(capacity))


def _decide(curve: Curve, measure: Callable[[int], Run], p99: float | None) -> set[int]:
    """Apply the rules to the curve, measure what is missing, return what they asked for."""
    asked: set[int] = set()

    def level(capacity: int) -> float:
        asked.add(capacity)
        if capacity not in curve.runs:
            curve.runs[capacity] = [measure(capacity)]
        return curve.level(capacity)

    knee, _ = findKnee(level, curve.limit)
    if p99 is not None and knee is not None:
        best = max(map(curve.level, asked))

        def isGood(capacity: int) -> bool:
            return level(capacity) >= NEARLY * best and curve.p99(capacity) <= p99

        low = high = knee
        while not isGood(high) and level(high) >= NEARLY * best and high < curve.limit:
            low, high = high, min(2 * high, curve.limit)
        while isGood(high) and high - low > step(high):
            middle = (low + high) // 2
            if isGood(middle):
                high = middle
            else:
                low = middle
    return asked


def _answer(curve: Curve, p99: float | None, isWhole: bool, ended: str) -> Answer:
    if not curve.runs:
        return Answer("ended", None, 0, (0, 0), ended)
    highest = max(curve.runs)
    if ended:  # as if what was not measured were not there
        curve.limit = min(curve.limit, highest)
        isWhole = False
    levels = {capacity: curve.level(capacity) for capacity in curve.runs}
    knee, full = findKnee(lambda capacity: interpolate(levels, capacity), curve.limit)
    if knee is not None and knee not in curve.runs:
        knee = min(capacity for capacity in curve.runs if capacity >= knee)
    if full not in curve.runs:
        full = highest
    low, high = reach = curve.reach()
    if high > 2 * low and high - low > step(high):
        return Answer("noise", None, full, reach, ended)
    if knee is None:
        if ended:
            return Answer("ended", None, full, reach, ended)
        if not isWhole:
            return Answer("still gains", None, full, reach, ended)
        return Answer(*_withinP99(curve, curve.limit, p99, "all"), full, reach, ended)
    return Answer(*_withinP99(curve, knee, p99, "found"), full, reach, ended)


def _withinP99(curve: Curve, knee: int, p99: float | None,
               verdict: Verdict) -> tuple[Verdict, int | None]:
    """Return the smallest capacity from the knee on that keeps the limit for p99, too."""
    if p99 is None:
        return verdict, knee
    best = max(map(curve.level, curve.runs))
    good = [capacity for capacity in curve.runs if capacity >= knee
            and curve.level(capacity) >= NEARLY * best and curve.p99(capacity) <= p99]
    return (verdict, min(good)) if good else ("p99", None)
