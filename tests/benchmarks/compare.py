"""Tell whether the results reach their targets: ``python -m tests.benchmarks.compare [FILE]``.

Reads what the last benchmark wrote. Ends with exit code 1 if a target is missed by more than
15 %. Run by hand: only an idle machine gives figures to judge by.
"""

import json
import statistics
import sys
from pathlib import Path

from tests.benchmarks.contenders import (DBUTILS, FLOOR, FORMER, LIFO, OURS, PSYCOPG, PSYCOPG2,
                                         SQLALCHEMY)

TOLERANCE = 0.15


def ratio(ours, theirs):
    """Return the median of the ratios of figures that were measured one after the other."""
    return statistics.median(one / other for one, other in zip(ours, theirs))


def checkout(peer, threads):
    def of(found):
        return ratio(found["checkout"][OURS][threads], found["checkout"][peer][threads])
    return of


def throughput(threads):
    def of(found):
        ours, theirs = found["fairness"][OURS][threads], found["fairness"][LIFO][threads]
        return ratio(ours["perSecond"], theirs["perSecond"])
    return of


def fairness(threads, one, other):
    def of(found):
        ours = found["fairness"][OURS][threads]
        return ratio(ours[one], ours[other])
    return of


def added(name):
    def of(found):
        return statistics.median(found["select"][name]["added"])
    return of


def addedToBest(found):
    best = min(added(name)(found) for name in found["select"] if name != OURS)
    return added(OURS)(found) / max(best, 0.1)


def growth(found):
    costs = [found["scale"][slots]["checkout"] for slots in ("10000", "10")]
    return ratio(*costs)


def large(key):
    def of(found):
        return statistics.median(found["scale"]["10000"][key])
    return of


#: What is measured, how, whether it is to be at most or at least the target, and the target.
TARGETS = [
    *((f"{threads} thread{'s' * (threads != '1')}: cost / {peer}", checkout(peer, threads),
       "<=", target)
      for threads, peer, target in [
          ("1", LIFO, 0.45), ("1", PSYCOPG2, 0.75), ("1", FORMER, 0.2), ("1", PSYCOPG, 0.2),
          ("1", SQLALCHEMY, 0.15), ("1", DBUTILS, 0.5), ("1", FLOOR, 3.0),
          ("4", LIFO, 0.25), ("4", FORMER, 0.15), ("50", LIFO, 0.6)]),
    *(target for threads in ("50", "200") for target in [
        (f"{threads} threads, 1 ms: throughput / {LIFO}", throughput(threads), ">=", 0.95),
        (f"{threads} threads, 1 ms: longest wait / median", fairness(threads, "max", "p50"),
         "<=", 4.0),
        (f"{threads} threads, 1 ms: least / most served", fairness(threads, "least", "most"),
         ">=", 0.9)]),
    ("SELECT 1: added by queuepool, µs", added(OURS), "<=", 5.0),
    ("SELECT 1: added by queuepool / by the best peer", addedToBest, "<=", 1.0),
    ("take during a slow recycle, p99, ms", lambda found: found["recycling"]["p99"], "<=", 1.0),
    ("cost with 10,000 slots / with 10", growth, "<=", 1.1),
    ("recycle over 10,000 live resources, ms", large("recycleLive"), "<=", 5.0),
    ("memory of a closed slot, bytes", large("memory"), "<=", 1000.0),
    ("import queuepool / what it imports",
     lambda found: ratio(found["import"]["queuepool"], found["import"]["standard"]), "<=", 1.25),
]


def verdict(value, sign, target):
    """Return "reached", "near" or "missed"."""
    excess = value / target - 1.0 if sign == "<=" else 1.0 - value / target
    return "reached" if excess <= 0.0 else "near" if excess <= TOLERANCE else "missed"


def reached(results):
    """Yield each target, and by version of Python what was reached, None if not measured."""
    for title, of, sign, target in TARGETS:
        values = {}
        for version, found in results["pythons"].items():
            try:
                values[version] = of(found)
            except KeyError:
                values[version] = None
        yield title, sign, target, values


def main(path=Path(__file__).parent / "results/results.json"):
    results = json.loads(Path(path).read_text())
    misses = 0
    for title, sign, target, values in reached(results):
        for version, value in values.items():
            word = "not measured" if value is None else verdict(value, sign, target)
            misses += word == "missed"
            figure = "" if value is None else f"{value:.3g}"
            print(f"{version:5} {title:52} {sign} {target:<6g} {figure:8} {word}")
    if misses:
        sys.exit(f"{misses} missed by more than {TOLERANCE:.0%}")


if __name__ == "__main__":
    main(*sys.argv[1:])
