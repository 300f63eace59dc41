"""What is said and drawn of a search: the table, the plots, the recommendation, the JSON."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

from queuepool.demo import DemoError, formatTime, oneLine
from queuepool.size.limits import Limit, findLimit
from queuepool.size.load import Measurement
from queuepool.size.search import NEARLY, Answer, Curve
from queuepool.size.server import Facts

#: Columns of the plots in a terminal at most, and their lines.
WIDTH = 100
HEIGHT = 16


@dataclass(frozen=True)
class Result:
    """The result of a search, with what is needed to explain it."""

    curve: Curve[Measurement]
    answer: Answer
    facts: Facts
    threads: int
    processes: int
    #: What the limit of the search comes from: "--to", "--threads" or "the server".
    bound: str
    #: The limit for the 99th percentile in seconds.
    p99: float | None

    @property
    def reason(self) -> str:
        """The recommendation with its reason, in one sentence, or why there is none."""
        answer, curve = self.answer, self.curve
        limit = max(curve.runs)
        if answer.verdict == "noise":
            low, high = answer.reach
            highest = f"more than {limit}" if high > limit else str(high)
            return ("No recommendation: the noise is too large to tell, because the same runs "
                    f"allow answers from {low} to {highest} and throughputs that are "
                    f"{curve.blur():.0%} higher or lower; try it with more --seconds, or when "
                    "less else runs.")
        if answer.verdict == "p99":
            assert self.p99 is not None
            best = min(curve.runs, key=curve.p99)
            return (f"No recommendation: no capacity has nearly the best throughput and a p99 "
                    f"below {formatTime(self.p99)}; the lowest p99 is "
                    f"{formatTime(curve.p99(best))}, with {connections(best)}.")
        if answer.verdict in ("ended", "still gains") and limit == 1:
            return ("No recommendation: only 1 connection " + (
                f"was measured ({answer.ended})" if answer.ended else "is free")
                + ", so nothing can be compared.")
        if answer.verdict == "ended" and curve.knee().capacity is None:
            return (f"No recommendation: up to {connections(limit)} the throughput still gained, "
                    f"and more was not measured ({answer.ended}).")
        if answer.verdict == "ended":
            low, high = answer.reach
            highest = f"more than {limit}" if high > limit else str(high)
            return (f"No recommendation: too little was measured to tell ({answer.ended}); it "
                    f"allows answers from {low} to {highest}.")
        if answer.verdict == "still gains":
            more = ("the server has no more free" if self.bound == "the server" else
                    "try it with a higher --to")
            return (f"No recommendation: the throughput still gains at {connections(limit)} "
                    f"({curve.level(limit):,.0f} requests/s); {more}.")
        assert answer.recommended is not None
        recommended = answer.recommended
        level = curve.level(recommended)
        if answer.verdict == "all" and self.threads == 1:
            return "Recommended: 1 connection, because one thread cannot use more."
        if answer.verdict == "all":
            return (f"Recommended: {connections(recommended)}, because the throughput gains up to "
                    f"one for each of the {self.threads} threads ({level:,.0f} requests/s), and "
                    "they cannot use more.")
        more = (f"; {answer.full} have {curve.level(answer.full):,.0f}"
                if answer.full > recommended else "")
        why = f"the fewest with nearly the best throughput ({level:,.0f} requests/s{more})"
        if self.p99 is not None:
            why += (f" and a p99 below {formatTime(self.p99)} "
                    f"({formatTime(curve.p99(recommended))})")
        return f"Recommended: {connections(recommended)}, {why}."

    @property
    def limit(self) -> Limit:
        """What limits the throughput."""
        full = self.answer.full
        limit = findLimit(self.curve.runs[full], full)
        if self.answer.verdict == "all":
            return Limit("the number of threads", limit.evidence)
        if self.answer.verdict in ("ended", "still gains"):
            if max(self.curve.runs) == 1:
                return Limit("not known", limit.evidence)
            if self.curve.knee().capacity is None:
                return Limit("nothing yet", limit.evidence)
        return limit

    def notes(self) -> list[tuple[str, str]]:
        """Return what there is to know besides, as pairs of label and text."""
        answer = self.answer
        kind = self.limit.kind
        looks = {"not known": "It is not known.", "nothing yet": "Nothing yet."}
        notes = [("what limits", f"{looks.get(kind, f'It looks like {kind}.')} "
                  f"{self.limit.evidence}"),
                 ("server", f"{self.facts}; free {self.facts.free}.")]
        if answer.recommended is not None:
            total = self.processes * answer.recommended
            text = (f"{self.processes} x {answer.recommended} = {total} connections, of "
                    f"{self.facts.free} that are free.")
            if total > self.facts.free:
                text += " That is more than the server has."
            if self.processes > 1 and answer.verdict == "found" and "GIL" not in self.limit.kind:
                share = math.ceil(answer.recommended / self.processes)
                text += (f" What was measured is one process: if all work at the same time, "
                         f"{share} in each come to as many.")
            notes.append(("processes x capacity", text))
            low, high = answer.reach
            if low != high:
                notes.append(("how exact", f"The same runs allow answers from {low} to "
                              f"{high if high <= self.curve.limit else 'more than the limit'}."))
        if answer.ended:
            fewest = min(map(len, self.curve.runs.values()))
            notes.append(("ended early", f"{answer.ended}; each capacity of the table was measured "
                          f"{'once' if fewest == 1 else f'{fewest} times'} at least."))
        return notes


def connections(count: int) -> str:
    """Return the count with its noun."""
    return f"{count} connection{'' if count == 1 else 's'}"


def sayRun(capacity: int, run: Measurement) -> None:
    """Print one run as progress."""
    failed = f"   failed {run.failed}" if run.failed else ""
    print(f"  {connections(capacity):>15} {run.rate:10,.0f} requests/s   "
          f"p50 {formatTime(run.p50):>9}   p99 {formatTime(run.p99):>9}{failed}", flush=True)


def sayResult(result: Result) -> None:
    """Print the table, the plots, the recommendation and the notes."""
    print(f"\n  {'capacity':>8} {'requests/s':>12} {'lowest - highest':>19} {'p50':>10} "
          f"{'p99':>10} {'failed':>7} {'runs':>5}")
    for capacity, runs in sorted(result.curve.runs.items()):
        rates = [run.rate for run in runs]
        spread = f"{min(rates):,.0f} - {max(rates):,.0f}"
        mark = "*" if capacity == result.answer.recommended else " "
        print(f"{mark} {capacity:8} {result.curve.level(capacity):12,.0f} {spread:>19} "
              f"{formatTime(p50(runs)):>10} {formatTime(result.curve.p99(capacity)):>10} "
              f"{sum(run.failed for run in runs):7,} {len(runs):5}")
    print()
    sayPlots(result)
    print(result.reason)
    for label, text in result.notes():
        print(f"  {label:20} {text}")
    sys.stdout.flush()


def p50(runs: list[Measurement]) -> float:
    """Return the median of the runs' medians, in seconds."""
    return sorted(run.p50 for run in runs)[len(runs) // 2]


def sayPlots(result: Result) -> None:
    """Draw throughput, p50 and p99 in the terminal, or say why not."""
    try:
        plotext: Any = import_module("plotext")
        figure = plotext.figure
    except (ImportError, AttributeError):
        print("(to see plots here: python -m pip install 'plotext>=6')\n")
        return
    curve = result.curve
    capacities = sorted(curve.runs)
    if len(capacities) < 2:
        return
    plots = (
        ("requests/s against capacity", {"o": [curve.level(c) for c in capacities]}),
        ("ms against capacity: x p99, o p50",
         {"x": [1000 * curve.p99(c) for c in capacities],
          "o": [1000 * p50(curve.runs[c]) for c in capacities]}))
    x = [math.log2(capacity) for capacity in capacities]
    powers = range(int(x[-1]) + 1)
    for title, lines in plots:
        figure.clear()
        figure.plot_size(min(WIDTH, shutil.get_terminal_size().columns - 1), HEIGHT)
        figure.title(title)
        for marker, values in lines.items():
            figure.draw(figure.signal(x, values, marker=marker).lines())
        highest = max(map(max, lines.values()))
        marks = [highest * part / 4 for part in range(5)]
        digits = 0 if highest >= 20 else 2
        figure.ruler("y").lim(0, 1.05 * highest)
        figure.ruler("y").ticks(marks, [f"{mark:,.{digits}f}" for mark in marks])
        figure.ruler("x").ticks(list(powers), [str(2 ** power) for power in powers])
        if result.answer.recommended is not None:
            figure.line(math.log2(result.answer.recommended), orientation=1)
        text = figure.build().string(colorless=isColorless())
        try:
            text.encode(sys.stdout.encoding or "utf-8")
        except UnicodeEncodeError:
            print("(no plots: this terminal has no Unicode)")
            break
        print(text)
    print()


def isColorless() -> bool:
    """Tell whether the output is to have no colours: it is no terminal, or they are not wanted."""
    return (not sys.stdout.isatty() or bool(os.environ.get("NO_COLOR"))
            or os.environ.get("TERM") == "dumb")


def importFigure() -> Any:
    """Return matplotlib's Figure. Raises DemoError if it is not installed."""
    try:
        return import_module("matplotlib.figure").Figure
    except ImportError as error:
        raise DemoError("--png needs matplotlib. Install it with: python -m pip install "
                        f"matplotlib ({oneLine(error)})") from error


def savePng(result: Result, path: str) -> None:
    """Write the plots as a picture. Raises DemoError if that fails."""
    curve, answer = result.curve, result.answer
    capacities = sorted(curve.runs)
    figure = importFigure()(figsize=(8, 6.5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    levels = [curve.level(capacity) for capacity in capacities]
    above.plot(*zip(*((capacity, run.rate) for capacity in capacities
                      for run in curve.runs[capacity])), ".", color="#9ecae1", label="one run")
    above.plot(capacities, levels, "o-", color="#1f77b4", label="level of the runs")
    above.axhline(curve.knee().enough, color="#999999", linewidth=0.8, linestyle=":",
                  label=f"nearly the best ({NEARLY:.0%})")
    above.set_ylim(bottom=0)
    above.set_ylabel("requests/s")
    below.plot(capacities, [1000 * curve.p99(c) for c in capacities], "s-", color="#d62728",
               label="p99")
    below.plot(capacities, [1000 * p50(curve.runs[c]) for c in capacities], "o-",
               color="#2ca02c", label="p50")
    if result.p99 is not None:
        below.axhline(1000 * result.p99, color="#d62728", linewidth=0.8, linestyle=":",
                      label="--p99")
    below.set_ylabel("ms, with the wait")
    below.set_xlabel(f"capacity of the pool ({result.threads} threads)")
    below.set_yscale("log")
    below.yaxis.set_major_formatter("{x:g}")
    below.yaxis.set_minor_formatter("{x:g}")
    ticks = [2 ** power for power in range(capacities[-1].bit_length())]
    for axes in above, below:
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, labels=list(map(str, ticks)))
        axes.set_xticks([], minor=True)
        axes.grid(alpha=0.25)
        if answer.recommended is not None:
            axes.axvline(answer.recommended, color="#ff7f0e", linewidth=1.5, zorder=0,
                         label=f"recommended: {answer.recommended}")
        axes.legend(fontsize=8)
    above.set_title("\n".join((title(answer), f"What limits: {result.limit.kind}")), fontsize=10)
    try:
        figure.savefig(path, format="png", dpi=110)
    except OSError as error:
        raise DemoError(f"--png: {oneLine(error)}") from error


def title(answer: Answer) -> str:
    """Return the answer as a title."""
    if answer.recommended is not None:
        return f"Recommended: {connections(answer.recommended)}"
    return {"noise": "Too much noise to tell", "still gains": "It still gains at the limit",
            "p99": "None keeps the limit for p99", "ended": "Ended early"}[answer.verdict]


def saveJson(result: Result, path: str) -> None:
    """Write all that was found. Raises DemoError if that fails."""
    curve, answer = result.curve, result.answer
    found = {
        "recommended": answer.recommended, "verdict": answer.verdict, "reason": result.reason,
        "reach": list(answer.reach), "endedEarly": answer.ended or None,
        "limit": result.limit._asdict(),
        "server": {**asdict(result.facts), "free": result.facts.free},
        "threads": result.threads, "processes": result.processes,
        "connections": answer.recommended and result.processes * answer.recommended,
        "capacities": [
            {"capacity": capacity, "rate": curve.level(capacity), "p50": p50(runs),
             "p99": curve.p99(capacity), "runs": [asdict(run) for run in runs]}
            for capacity, runs in sorted(curve.runs.items())]}
    try:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=1)
            file.write("\n")
    except OSError as error:
        raise DemoError(f"--json: {oneLine(error)}") from error
