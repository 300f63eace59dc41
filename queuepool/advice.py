"""What ``Pool.advise()`` returns: which capacity and which limits would suit the load it saw."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from queuepool.core.sampler import Counts
from queuepool.stats import Reason, Stats

#: With fewer samples it is too early to advise a capacity. One a second: 10 minutes.
LEAST_SAMPLES = 600
#: The share of takes that may find none free, and of which a limit is worth to be named.
SHARE = 0.01

_LIMITS = {Reason.IDLE: "maxIdleTime", Reason.AGE: "maxOpenTime", Reason.USAGE: "maxUsageCount"}
#: No resource is opened again for these.
_ENDS = (Reason.SHRUNK, Reason.POOL_CLOSED)
WIDTH = 80


class Saving(NamedTuple):
    """How much opening a longer limit would have saved at most, since the pool was made.

    At most: what it closed was opened again only if a take, or ``minOpen``, needed it.
    """

    limit: str  #: the parameter of the pool
    value: float | None  #: what it is now
    opens: int  #: how many the limit has closed
    seconds: float  #: to open so many, by the mean of all opens


class Advice(NamedTuple):
    """Which capacity and which limits would suit a pool. ``str()`` is for humans.

    The load is how many are in use (checked out, or in a hook of a take or put) and how many
    threads wait, sampled once a second, up to an hour back. With a capacity of ``least``, 99 % of
    takes would have found one free. If threads waited in more than 1 % of the samples, what piled
    up in line is in the load as well, so the truth is somewhere from ``least`` to ``most``. Takes
    that gave up are missing in the load; ``gaveUp`` of ``asked`` did in the time of the samples.
    The counters of ``stats`` and the savings are those since the pool was made. Times are seconds.
    """

    name: str
    stats: Stats  #: what the pool looked like then
    recyclerRuns: bool  #: whether the thread runs that takes the samples
    minOpen: int
    samples: int  #: how many there are since the pool was made or resized, up to 3,600
    loadMean: float | None  #: None without samples
    loadP95: int | None  #: 95 % of the samples did not exceed it
    loadMax: int | None
    least: int | None  #: the capacity that 99 % of takes need; None if it is too early
    most: int | None  #: the same as ``least`` unless it is not known exactly
    #: What took more time in all; opens by the recycler, that no take waited for, count as well
    costs: Literal["waiting", "opening"] | None
    savings: tuple[Saving, ...]  #: of each limit that has closed something, the most opens first
    asked: int  #: takes in the time of the samples, with those that gave up
    gaveUp: int  #: how many of them gave up

    @property
    def capacity(self) -> int | None:
        """The capacity to set now, with ``resize``: ``least``. None if it is too early."""
        return self.least

    @property
    def sentence(self) -> str:
        """What to do, in one sentence."""
        capacity, stats = self.stats.capacity, self.stats
        if self.least is None or self.most is None:
            text = (f"It is too early to advise a capacity: {self.samples} of {LEAST_SAMPLES} "
                    f"samples, one a second")
            return text + ("." if self.recyclerRuns
                           else ", and they need startRecycler(), which does not run.")
        if self.least > capacity:
            text = f"Raise the capacity from {capacity} to {self.least}"
            if self.least < self.most:
                text += (f" and ask again after {LEAST_SAMPLES // 60} minutes: up to {self.most} "
                         f"may be needed, but that includes what piled up in line")
        elif (saving := self._worst) is not None:
            limit = f"{saving.limit}={saving.value}"
            if saving.opens > stats.takes and self.minOpen:
                text = (f"The capacity is enough, but {limit} closed {saving.opens}, mostly opened "
                        f"again for minOpen: raise it")
            else:
                share = _share(min(saving.opens, stats.takes), stats.takes)
                text = (f"The capacity is enough, but at most {share} of takes had to open what "
                        f"{limit} had closed: raise it")
            if saving.limit == "maxIdleTime" and self.minOpen < self.least:
                text += f", or raise minOpen, which is {self.minOpen}"
        elif self.least < capacity - 1:
            text = f"The capacity of {capacity} is more than enough: {self.least} would do"
        else:
            text = f"The capacity of {capacity} is right"
        if self.gaveUp:
            text += (f" (more may be needed: the samples do not show the takes that gave up, "
                     f"{self.gaveUp} of {self.asked})")
        return text + "."

    @property
    def _worst(self) -> Saving | None:
        """The limit that caused most opens, if they are worth to be named."""
        return next((saving for saving in self.savings
                     if saving.value is not None and self.stats.takes
                     and saving.opens >= SHARE * self.stats.takes), None)

    def __str__(self) -> str:
        name = repr(self.name)
        name = name if len(name) <= 40 else name[:39] + "…"
        return "\n".join(
            line for text in (f"pool {name}: {self.sentence}", *self._lines())
            for line in textwrap.wrap(text, WIDTH, subsequent_indent="    "))

    def _lines(self) -> Iterator[str]:
        stats = self.stats
        asked = stats.takes + stats.timeouts
        if self.loadMean is not None:
            yield (f"  load: mean {self.loadMean:.1f}, 95 % up to {self.loadP95}, at most "
                   f"{self.loadMax}; {self.samples} samples")
        if self.least is not None:
            yield (f"  99 % of takes need a capacity of {self.least}"
                   + (f" to {self.most}" if self.least != self.most else "")
                   + f"; it is {stats.capacity}")
        yield (f"  takes {asked}; waited {stats.waits} "
               f"({_share(stats.waits, asked)}), {stats.waitTime:.3f} s; "
               f"gave up {stats.timeouts}")
        yield (f"  opens {stats.opens} ({_share(stats.opens, stats.takes)}), "
               f"{stats.openTime:.3f} s"
               + (f"; {self.costs} costs more" if self.costs else ""))
        for saving in self.savings:
            if saving.value is None:
                yield f"  {saving.limit} closed {saving.opens} before it was lifted"
                continue
            word = "higher" if saving.limit == "maxUsageCount" else "longer"
            yield (f"  {saving.limit}={saving.value} closed {saving.opens}: a {word} one saves up "
                   f"to {saving.seconds:.3f} s of opening")
        others = ", ".join(
            f"{reason} {count}" for reason, count in stats.closesByReason.items()
            if count and reason not in _LIMITS and reason not in _ENDS)
        if others:
            yield f"  closed for other reasons: {others}"
        if not self.recyclerRuns:
            yield "  recycler off: it takes the samples; startRecycler() starts it"


def adviceFrom(name: str, stats: Stats, loads: Sequence[int], recyclerRuns: bool, minOpen: int,
               limits: Mapping[str, float | None], before: Counts = Counts(0, 0, 0)) -> Advice:
    """Return the advice for a pool, from samples of its load at its present capacity.

    ``before`` are its counters when the samples began.
    """
    loads = sorted(loads)
    number = len(loads)
    lately = Counts(stats.takes - before.takes, stats.waits - before.waits,
                    stats.timeouts - before.timeouts)
    least, most = _need(loads, stats.capacity, lately) if number >= LEAST_SAMPLES else (None, None)
    attempts = stats.opens + stats.openErrors
    perOpen = stats.openTime / attempts if attempts else 0.0
    closes = stats.closesByReason
    savings = [Saving(limit, limits[limit], closes[reason], closes[reason] * perOpen)
               for reason, limit in _LIMITS.items() if closes[reason]]
    savings.sort(key=lambda saving: -saving.opens)
    longer = max(stats.waitTime, stats.openTime)
    return Advice(
        name, stats, recyclerRuns, minOpen, number, sum(loads) / number if number else None,
        loads[int(0.95 * number)] if number else None, loads[-1] if number else None, least, most,
        None if longer == 0.0 else "waiting" if longer == stats.waitTime else "opening",
        tuple(savings), lately.takes + lately.timeouts, lately.timeouts)


def _need(loads: Sequence[int], capacity: int, lately: Counts) -> tuple[int, int]:
    """Return the least and the most capacity with which 99 % of takes find one free.

    A take that comes at a random instant finds one free if the load is below the capacity. That
    is exact as long as hardly any take waits. Otherwise the load contains those that piled up in
    line and would not be there with a larger capacity: it is the most. How many are in use on the
    average is not changed by the line; what Erlang's formula says of that mean is right for
    arrivals at random, and too little for arrivals in bursts: it is the least.
    """
    most = loads[int((1.0 - SHARE) * len(loads))] + 1
    if most <= capacity:
        return most, most
    if most == capacity + 1:  # all are in use, and nobody waits in the samples
        need = capacity if lately.waits + lately.timeouts <= SHARE * lately.takes else most
        return need, need
    mean = sum(min(load, capacity) for load in loads) / len(loads)
    return min(most, max(capacity + 1, _erlang(mean))), most


def _erlang(load: float) -> int:
    """Return how many servers Erlang's delay formula wants for that mean load."""
    servers, blocked = 0, 1.0  # by the formula for losses, one server after the other
    while True:
        servers += 1
        blocked = load * blocked / (servers + load * blocked)
        if load < servers and (
                servers * blocked / (servers - load * (1.0 - blocked)) <= SHARE):
            return servers


def _share(part: int, whole: int) -> str:
    return f"{100.0 * part / whole:.1f} %" if whole else "0.0 %"
