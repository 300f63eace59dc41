"""The search for the capacity of a pool: which capacities to measure, and what follows from it.

It knows nothing of databases: ``search`` gets a function that measures. The rule is ``findKnee``.
It is applied to the levels of what was measured, again after each round of runs, and asks for the
capacities that it needs. ``reach`` applies it to runs drawn anew from those that were measured:
how far the answers differ then is what the noise allows to tell.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar

#: A doubling of the capacity has to gain so much, or the search doubles it no more.
GAIN = 1.15
#: A throughput of this share of the best one is nearly the best.
NEARLY = 0.95
#: How often each capacity that the answer depends on is measured, at least and at most.
LEAST_RUNS = 5
MOST_RUNS = 15
#: After an early end, both sides of the knee need so many runs for an answer.
ENOUGH_RUNS = 3
#: By what share a level may be wrong. If it is more, no gain of GAIN can be seen.
MOST_BLUR = 0.1
#: How often the runs are drawn anew, to see what other answers they allow.
DRAWS = 100

Verdict = Literal["found", "all", "still gains", "noise", "p99", "ended"]


class Ended(Exception):
    """Raised by what measures when it cannot go on; its message says why."""


class Run(Protocol):
    """What one run has measured: requests per second, and percentiles of their times in seconds."""

    @property
    def rate(self) -> float: ...

    @property
    def p99(self) -> float: ...


R = TypeVar("R", bound=Run)
N = TypeVar("N", int, float)


class Knee(NamedTuple):
    """The place at which the throughput ceases to grow."""

    #: The smallest capacity with nearly the best throughput, or None: it still gains at the limit.
    capacity: int | None
    #: The capacity at which what limits can be seen.
    full: int
    #: What throughput is nearly the best.
    enough: float


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


def findKnee(level: Callable[[int], float], limit: int) -> Knee:
    """Find the knee. ``level`` returns the throughput at a capacity.

    The capacity is doubled while that gains enough; then the interval in which it ceased to gain
    is halved. Whether it still gains at the limit shows at three quarters of it: the throughput
    is not nearly the best there.
    """
    rungs = ladder(limit)
    low = top = rungs[0]
    full, best = top, level(top)
    for full in rungs[1:]:
        needed: float = GAIN ** math.log2(full / top)
        gained = level(full) >= needed * level(top)
        lower, best = sorted((level(top), level(full)))
        if lower >= NEARLY * best:
            best = (lower + best) / 2.0  # the higher of two equal ones is so by chance
        if not gained:
            break
        low, top = top, full
    enough = NEARLY * best
    high = top
    if level(top) < enough:
        low, high = top, full
    elif top == limit:
        high = max(low, limit * 3 // 4)
        if limit == 1 or level(high) < enough:
            return Knee(None, limit, enough)
    while high - low > step(high):
        between = (low + high) // 2
        if level(between) >= enough:
            high = between
        else:
            low = between
    return Knee(high, full, enough)


def middle(values: list[float]) -> float:
    """Return the level of these throughputs: the mean of the upper half without the highest.

    What disturbs a measurement makes it slower, as a rule. The highest of few is left out, too.
    """
    ranked = sorted(values)
    return statistics.fmean(ranked[len(ranked) // 2:len(ranked) - len(ranked) // 5])


def interpolate(levels: dict[int, float], capacity: int) -> float:
    """Return the level at a capacity that was not measured, from those beside it."""
    below = max((known for known in levels if known <= capacity), default=min(levels))
    above = min((known for known in levels if known >= capacity), default=max(levels))
    if below >= above:
        return levels[below]
    share = math.log(capacity / below) / math.log(above / below)
    return levels[below] + share * (levels[above] - levels[below])


@dataclass
class Curve(Generic[R]):
    """The runs at each capacity, and what follows from them."""

    limit: int
    runs: dict[int, list[R]] = field(default_factory=dict)

    def level(self, capacity: int) -> float:
        """Return the throughput at a capacity: the middle of its runs."""
        return middle([run.rate for run in self.runs[capacity]])

    def p99(self, capacity: int) -> float:
        """Return the 99th percentile of the times at a capacity: the median of its runs."""
        return statistics.median(run.p99 for run in self.runs[capacity])

    def knee(self) -> Knee:
        """Return the knee of what was measured."""
        levels = {capacity: self.level(capacity) for capacity in self.runs}
        return findKnee(lambda capacity: interpolate(levels, capacity), self.limit)

    def reach(self) -> tuple[int, int]:
        """Return the lowest and the highest knee of eight out of ten draws of the same runs.

        A knee beyond the limit counts as twice the limit.
        """
        chance = random.Random(0)
        rates = {capacity: [run.rate for run in runs] for capacity, runs in self.runs.items()}
        knees = []
        for _ in range(DRAWS):
            levels = {capacity: draw(chance, some) for capacity, some in rates.items()}
            knee = findKnee(lambda capacity: interpolate(levels, capacity), self.limit)
            knees.append(knee.capacity or 2 * self.limit)
        return inner(knees)

    def beside(self, capacity: int) -> tuple[int, int]:
        """Return the capacities that were measured next below it, and next at or above it."""
        return (max((known for known in self.runs if known < capacity), default=min(self.runs)),
                min((known for known in self.runs if known >= capacity), default=max(self.runs)))

    def blur(self) -> float:
        """Return by what share the levels on both sides of the knee may be wrong."""
        knee = self.knee()
        chance = random.Random(0)
        blurs = []
        for capacity in set(self.runs).intersection((knee.capacity or 0, knee.full)):
            rates = [run.rate for run in self.runs[capacity]]
            low, high = inner([draw(chance, rates) for _ in range(DRAWS)])
            blurs.append((high - low) / (high + low))
        return max(blurs, default=0.0)


def draw(chance: random.Random, rates: list[float]) -> float:
    """Return the level of as many throughputs drawn anew from these."""
    return middle(chance.choices(rates, k=len(rates)))


def inner(values: list[N]) -> tuple[N, N]:
    """Return the lowest and the highest of eight out of ten values."""
    ranked = sorted(values)
    cut = len(ranked) // 10
    return ranked[cut], ranked[-1 - cut]


def search(measure: Callable[[int], R], limit: int, *, p99: float | None = None,
           isWhole: bool = False) -> tuple[Curve[R], Answer]:
    """Find the smallest capacity up to the limit that has nearly the best throughput.

    ``measure`` measures a capacity once. It is called with one capacity after the other, in
    rounds, so that a while in which the machine is busy does not hit one capacity alone. When it
    raises Ended, the answer comes from what was measured until then; that may be nothing.
    ``p99`` is the limit for the 99th percentile in seconds. ``isWhole`` tells that nothing beyond
    the limit could be used.
    """
    curve: Curve[R] = Curve(limit)
    ended = ""
    try:
        _measureInRounds(curve, measure, p99)
    except Ended as error:
        ended = str(error)
    return curve, _answer(curve, p99, isWhole, ended)


def _measureInRounds(curve: Curve[R], measure: Callable[[int], R], p99: float | None) -> None:
    """Measure all that the answer depends on, until its runs tell it, or there were enough."""
    while True:
        asked = _measureOnce(curve, measure, p99)
        fewest = min(len(curve.runs[capacity]) for capacity in asked)
        if fewest >= LEAST_RUNS:
            low, high = curve.reach()
            if fewest >= MOST_RUNS or high - low <= high // 8 and curve.blur() <= MOST_BLUR:
                return
        for capacity in sorted(asked):
            if len(curve.runs[capacity]) < MOST_RUNS:
                curve.runs[capacity].append(measure(capacity))


def _measureOnce(curve: Curve[R], measure: Callable[[int], R], p99: float | None) -> set[int]:
    """Apply the rules, measure what they need and is missing, and return all that they need."""
    asked: set[int] = set()

    def level(capacity: int) -> float:
        asked.add(capacity)
        if capacity not in curve.runs:
            curve.runs[capacity] = [measure(capacity)]
        return curve.level(capacity)

    knee = findKnee(level, curve.limit)
    if p99 is not None and knee.capacity is not None:
        low = high = knee.capacity
        while curve.p99(high) > p99 and high < curve.limit:
            low, high = high, min(2 * high, curve.limit)
            if level(high) < knee.enough:
                return asked
        while high - low > step(high):
            between = (low + high) // 2
            if level(between) >= knee.enough and curve.p99(between) <= p99:
                high = between
            else:
                low = between
    return asked


def _answer(curve: Curve[R], p99: float | None, isWhole: bool, ended: str) -> Answer:
    if not curve.runs:
        return Answer("ended", None, 0, (0, 0), ended)
    if ended:  # as if what was not measured were not there
        isWhole = isWhole and curve.limit in curve.runs
        curve.limit = max(curve.runs)
    knee = curve.knee()
    low, high = reach = curve.reach()
    if high > 2 * low and high - low > step(high) or curve.blur() > MOST_BLUR:
        return Answer("noise", None, knee.full, reach, ended)
    if ended:
        below, above = curve.beside(knee.capacity or curve.limit)
        if (min(len(curve.runs[below]), len(curve.runs[above])) < ENOUGH_RUNS
                or knee.capacity is not None and above - below > step(above)):
            reach = min(low, below + (below < above)), max(high, above)
            return Answer("ended", None, knee.full, reach, ended)
    verdict: Verdict = "found"
    least = knee.capacity
    if least is None:
        if not isWhole:
            return Answer("ended" if ended else "still gains", None, knee.full, reach, ended)
        verdict, least = "all", curve.limit
    good = [capacity for capacity in sorted(curve.runs) if capacity >= least
            and (capacity == least or curve.level(capacity) >= knee.enough)
            and (p99 is None or curve.p99(capacity) <= p99)]
    return Answer(verdict if good else "p99", good[0] if good else None, knee.full, reach, ended)
