"""Make the tables and plots of what was measured: ``python -m tests.benchmarks.report``."""

import json
import math
import statistics
from pathlib import Path

from tests.benchmarks import compare
from tests.benchmarks.contenders import (DBUTILS, FAIR, FLOOR, FORMER, LIFO, NO_POOL, OURS, PSYCOPG,
                                         PSYCOPG2, PSYCOPG2_WAITING, PSYCOPG_WITH, SQLALCHEMY)

COLOURS = {
    OURS: "#d62728", FAIR: "#e377c2", FORMER: "#ff9896", PSYCOPG2: "#1f77b4",
    PSYCOPG2_WAITING: "#6baed6", SQLALCHEMY: "#2ca02c", DBUTILS: "#9467bd", PSYCOPG: "#e6a700",
    PSYCOPG_WITH: "#c49c00", LIFO: "#555555", FLOOR: "#aaaaaa", NO_POOL: "#aaaaaa"}

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[2] / "README.md"
#: Stand before and after the table in the README.
MARKS = "<!-- by tests/benchmarks/report.py -->\n", "<!-- end -->\n"


def write(folder):
    """Write results.md and the plots from results.json, and the README's table if it is its."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    (folder / "results.md").write_text(
        "\n\n".join(describe(results)) + "\n", encoding="utf-8")
    plot(folder, results["pythons"])
    if folder == RESULTS:
        before, old, after = splitReadme()
        README.write_text(before + summarize(results) + after, encoding="utf-8")


def splitReadme():
    """Return the README's text before its table, the table, and the text after it."""
    before, mark, rest = README.read_text(encoding="utf-8").partition(MARKS[0])
    table, end, after = rest.partition(MARKS[1])
    return before + mark, table, end + after


def summarize(results):
    """Return the README's table: the newest CPython's figures in short."""
    version, found = newest(results["pythons"])
    names = dict.fromkeys([*found["checkout"], *found.get("busy", ())])
    return "{}\n\n{}\n".format(
        describeMachine(results), table(
            [f"CPython {version}", "1 thread, µs", "4 threads, µs", "50 threads, µs",
             "added to a SELECT 1, µs", "SELECT 1 by 10 threads, 1/s", "by 50 threads, 1/s",
             "longest wait of 50, ms"],
            [[name, *(short(figures(found, "checkout", name, count)) for count in ("1", "4", "50")),
              short(figures(found, "select", name, "added")),
              *(short(figures(found, "busy", name, count, "perSecond")) for count in ("10", "50")),
              short(figures(found, "busy", name, "50", "max"))]
             for name in names]))


def newest(pythons):
    """Return the newest CPython with the GIL, which has all peers, and what was found there."""
    withGil = [item for item in pythons.items() if not item[0].endswith("t")]
    return (withGil or list(pythons.items()))[-1]


def figures(found, *keys):
    """Return the figures that these keys lead to, none if that was not measured."""
    for key in keys:
        found = found.get(key, {})
    return found or []


def short(values):
    if not values:
        return "–"
    value = statistics.median(values)
    return f"{value:,.{2 if value < 10 else 0}f}"


def describeMachine(results):
    machine, pythons = results["machine"], results["pythons"]
    packages = {}
    for found in pythons.values():
        packages |= found["packages"]
    names = "psycopg2-binary", "SQLAlchemy", "DBUtils", "psycopg", "psycopg-pool"
    return ("Made by `python -m tox -e bench` on {date}: {processor}, {cores} cores, {system}; "
            "CPython ".format(**machine)
            + ", ".join(found["version"] + "t" * version.endswith("t")
                        for version, found in pythons.items()) + "; queuepool 1.3.2, "
            + ", ".join(f"{name} {packages[name]}" for name in names if name in packages)
            + ". 10 slots unless said otherwise. Figures are medians of interleaved rounds.")


def describe(results):
    """Yield the blocks of results.md."""
    pythons = results["pythons"]
    titles = [f"CPython {version}" for version in pythons]
    yield "# Side by side"
    yield describeMachine(results) + (
        " ± is half of what lies between the quartiles. A version with a t has no GIL.")
    yield "## Targets"
    yield table(
        ["", "target", *pythons],
        [[title, f"{'≤' if sign == '<=' else '≥'} {target:g}",
          *(mark(value, sign, target) for value in values.values())]
         for title, sign, target, values in compare.reached(results)])
    yield "## Left out"
    yield table(["", "what", "why"], [
        [title, ", ".join(name for name, reason in found["missing"].items() if reason == why), why]
        for title, found in zip(titles, pythons.values())
        for why in dict.fromkeys(found["missing"].values())])
    yield ("## SELECT 1 with 10 connections to a real PostgreSQL (autocommit, a rollback by the "
           "pool)")
    yield from describeService(pythons, "busy")
    yield "## SELECT 1 by one thread: what the pool adds, µs (client and server on one core)"
    yield table(
        ["", *titles],
        [[name, *(f"{spread(of['added'])} to {short(of['bare'])}" if of else "–"
                  for found in pythons.values() for of in [figures(found, "select", name)])]
         for name in namesOf(pythons, "select")])
    yield "## Take and put of an open resource that does nothing, µs"
    for title, found in zip(titles, pythons.values()):
        threads = list(found["checkout"][OURS])
        yield table(
            [title, *(f"{count} thread{'s' * (count != '1')}" for count in threads)],
            [[name, *(spread(figures(costs, count)) for count in threads)]
             for name, costs in found["checkout"].items()])
    yield "## Take and put by 1 and by 2 threads, thousands a second, and the ratio of these"
    yield ("The floor is one deque that both threads pop from and append to, in a with statement. "
           "Without the GIL even it loses by a second thread.")
    yield table(["", *titles], [
        [name, *(scaling(figures(found, "scaling", name)) for found in pythons.values())]
        for name in namesOf(pythons, "scaling")])
    yield "## Fairness: each thread holds a resource for 1 ms, again and again"
    yield from describeService(pythons, "fairness")
    yield "## Scale"
    for title, found in zip(titles, pythons.values()):
        yield table(
            [title, *(f"{int(slots):,} slots" for slots in found["scale"])],
            [[title, *(spread(figures[key]) for figures in found["scale"].values())]
             for key, title in SCALE.items()])
    yield table(["", *titles], [
        [title, *(short(values(found)) for found in pythons.values())] for title, values in [
            ("99 of 100 takes during a slow recycle, ms",
             lambda found: [found["recycling"]["p99"]]),
            ("import queuepool, ms", lambda found: found["import"]["queuepool"]),
            ("import of what it imports, ms", lambda found: found["import"]["standard"])]])


def describeService(pythons, part):
    for version, found in pythons.items():
        rows = [[name, count,
                 *(f"{statistics.median(values[key]):,.{digits}f}"
                   for key, (_, digits) in SERVICE.items())]
                for count in ("10", "50")
                for name, byCount in found[part].items() if count in byCount
                for values in [byCount[count]]]
        if rows:
            yield table([f"CPython {version}", "threads",
                         *(title for title, _ in SERVICE.values())], rows)


SERVICE = {
    "perSecond": ("requests/s", 0), "p50": ("wait p50, ms", 2), "p99": ("p99", 2),
    "max": ("longest", 2), "least": ("least served", 0), "most": ("most served", 0)}
SCALE = {
    "checkout": "take and put, µs", "recycleLive": "recycle, nothing expired, ms",
    "recycleExpired": "recycle, everything expired, ms", "stats": "stats, ms",
    "construction": "making the pool, ms"}


def namesOf(pythons, part):
    """Return the contenders that were measured in that part on any CPython."""
    return dict.fromkeys(name for found in pythons.values() for name in found[part])


def scaling(costs):
    if not costs:
        return "–"
    one, two = (1000 / statistics.median(costs[count]) for count in ("1", "2"))
    return f"{one:,.0f}, {two:,.0f}: {two / one:.2f}"


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def mark(value, sign, target):
    if value is None:
        return "–"
    word = compare.verdict(value, sign, target)
    return f"{value:.3g}" if word == "reached" else f"**{value:.3g}, {word}**"


def spread(values):
    """Return the median and half of what lies between the quartiles."""
    if not values:
        return "–"
    text = f"{statistics.median(values):.3g}"
    if len(values) > 1:
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        text += f" ±{(high - low) / 2:.2g}"
    return text


def plot(folder, pythons):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    def save(name):
        pyplot.savefig(folder / name, dpi=110, bbox_inches="tight")
        pyplot.close()

    rows = -(-len(pythons) // 3)
    figure, axes = pyplot.subplots(
        rows, 3, figsize=(12, 3.6 * rows), sharey=True, squeeze=False, layout="constrained")
    lines = {}
    for axis, (version, found) in zip(axes.flat, pythons.items()):
        for name, costs in found["checkout"].items():
            lines[name], = axis.plot(
                list(costs), [statistics.median(rounds) for rounds in costs.values()], marker=".",
                color=COLOURS[name], linewidth=3 if name == OURS else 1.2)
        axis.set(title=f"CPython {version}", xlabel="threads", ylabel="take and put, µs",
                 yscale="log")
        axis.grid(alpha=0.3, which="both")
    for axis in axes.flat[len(pythons):]:
        axis.remove()
    figure.legend(lines.values(), lines, loc="outside upper center", ncols=4)
    save("checkout.png")

    version, found = newest(pythons)
    figure, axes = pyplot.subplots(1, 3, figsize=(15, 3.6), sharey=True, layout="constrained")
    names = list(dict.fromkeys([*found["busy"], *found["fairness"]]))
    for row, name in enumerate(names):
        for count, alpha in ("10", 0.4), ("50", 1.0):
            axes[0].barh(row + (0.2 if count == "50" else -0.2), middle(
                found, "busy", name, count, "perSecond"), 0.4, color=COLOURS[name], alpha=alpha)
        for axis, part in zip(axes[1:], ("busy", "fairness")):
            waits = [middle(found, part, name, "50", key) for key in ("p50", "p99", "max")]
            axis.plot(waits, [row] * 3, color=COLOURS[name], linewidth=1)
            for wait, marker in zip(waits, "o|>"):
                axis.plot(wait, row, marker, color=COLOURS[name], markersize=8)
    axes[0].set(title=f"CPython {version}: SELECT 1 on 10 connections",
                xlabel="requests/s with 10 (pale) and 50 threads")
    for axis, title in zip(axes[1:], ("50 threads, SELECT 1", "50 threads, 1 ms hold")):
        axis.set(title=title, xscale="log",
                 xlabel="wait, ms: median (o), 99 of 100 (|), longest (>)")
    for axis in axes:
        axis.grid(alpha=0.3)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    save("fairness.png")

    figure, axis = pyplot.subplots(figsize=(8, 5))
    names = list(namesOf(pythons, "select"))
    measured = {version: found for version, found in pythons.items() if found["select"]}
    height = 0.8 / max(1, len(measured))
    for number, (version, found) in enumerate(measured.items()):
        axis.barh([row + number * height for row in range(len(names))],
                  [middle(found, "select", name, "added") for name in names],
                  height, label=f"CPython {version}")
    axis.set_yticks([row + 0.4 - height / 2 for row in range(len(names))], names)
    axis.invert_yaxis()
    axis.set_xlabel("added to a SELECT 1, µs")
    axis.legend()
    save("select.png")


def middle(found, *keys):
    """Return the median of these figures; nothing is drawn of what was not measured."""
    return statistics.median(figures(found, *keys) or [math.nan])


if __name__ == "__main__":
    write(RESULTS)
