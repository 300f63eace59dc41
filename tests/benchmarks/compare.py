"""Tell whether the results reach their targets: ``python -m tests.benchmarks.compare [FILE]``.

Reads what the last benchmark wrote. Ends with exit code 1 if a target is missed. Run by hand: only
an idle machine gives figures to judge by.
"""

import json
import statistics
import sys
from pathlib import Path

from tests.benchmarks.contenders import FAIR, LIFO, NO_POOL, OURS, PSYCOPG2


def ratio(ours, theirs):
    """Return the median of the ratios of figures that were measured one after the other."""
    return statistics.median(one / other for one, other in zip(ours, theirs))


def rate(found, name, threads):
    return found["busy"][name][threads]["perSecond"]


def toCeiling(found):
    return ratio(rate(found, OURS, "10"), rate(found, NO_POOL, "10"))


def toBestPeer(found):
    ours = rate(found, OURS, "50")
    return min((ratio(ours, rate(found, name, "50"))
                for name, byThreads in found["busy"].items()
                if name not in (OURS, FAIR) and "50" in byThreads), default=None)


def longestToMedian(found):
    waits = found["busy"][OURS]["50"]
    return ratio(waits["max"], waits["p50"])


def checkoutTo(peer):
    return lambda found: ratio(found["checkout"][OURS]["1"], found["checkout"][peer]["1"])


def added(found):
    return statistics.median(found["select"][OURS]["added"])


#: What is measured, how, whether it is to be at most or at least the target, and the target.
TARGETS = [
    ("10 threads, SELECT 1: requests/s / those of one connection a thread", toCeiling, ">=", 0.97),
    ("50 threads, SELECT 1: requests/s / the best peer's", toBestPeer, ">=", 1.2),
    ("50 threads, SELECT 1: longest wait / median", longestToMedian, "<=", 4.0),
    (f"1 thread, take and put: cost / {LIFO}'s", checkoutTo(LIFO), "<=", 0.4),
    (f"1 thread, take and put: cost / {PSYCOPG2}'s", checkoutTo(PSYCOPG2), "<=", 0.65),
    ("1 thread, SELECT 1: added by the pool, µs", added, "<=", 4.0),
]


def verdict(value, sign, target):
    """Return "reached" or "missed"."""
    return "reached" if (value <= target if sign == "<=" else value >= target) else "missed"


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
            print(f"{version:5} {title:68} {sign} {target:<4g} {figure:6} {word}")
    if misses:
        sys.exit(f"{misses} missed")


if __name__ == "__main__":
    main(*sys.argv[1:])
