"""Make the tables and plots of what was measured: ``python -m tests.benchmarks.report``."""

import json
import statistics
from pathlib import Path

from tests.benchmarks import compare
from tests.benchmarks.contenders import CONTENDERS, FLOOR, LIFO, OURS

COLOURS = dict(zip(CONTENDERS, (
    "#d62728", "#ff9896", "#1f77b4", "#2ca02c", "#9467bd", "#e6a700", "#c49c00")))
COLOURS |= {LIFO: "#555555", FLOOR: "#aaaaaa"}


RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[2] / "README.md"
#: Stand before and after the table in the README.
MARKS = "<!-- by tests/benchmarks/report.py -->\n", "<!-- end -->\n"


def write(folder):
    """Write results.md and the plots from results.json, and the README's table if it is its."""
    results = json.loads((folder / "results.json").read_text())
    (folder / "results.md").write_text("\n\n".join(describe(results)) + "\n")
    plot(folder, results["pythons"])
    if folder == RESULTS:
        before, old, after = splitReadme()
        README.write_text(before + summarize(results) + after)


def splitReadme():
    """Return the README's text before its table, the table, and the text after it."""
    before, mark, rest = README.read_text().partition(MARKS[0])
    table, end, after = rest.partition(MARKS[1])
    return before + mark, table, end + after


def summarize(results):
    """Return the README's table: the newest CPython's figures in short."""
    version, found = list(results["pythons"].items())[-1]
    none = {"added": [], "max": []}
    return "{}\n\n{}\n".format(
        describeMachine(results), table(
            [f"CPython {version}", "1 thread, µs", "4 threads, µs", "50 threads, µs",
             "added to a SELECT 1, µs", "longest wait of 50 threads, ms"],
            [[name, *(short(costs[count]) for count in ("1", "4", "50")),
              short(found["select"].get(name, none)["added"]),
              short(found["fairness"].get(name, {"50": none})["50"]["max"])]
             for name, costs in found["checkout"].items()]))


def short(values):
    if not values:
        return "–"
    value = statistics.median(values)
    return f"{value:.{2 if value < 10 else 0}f}"


def describeMachine(results):
    machine, pythons = results["machine"], results["pythons"]
    packages = list(pythons.values())[-1]["packages"]
    names = "psycopg2-binary", "SQLAlchemy", "DBUtils", "psycopg", "psycopg-pool"
    return ("Made by `python -m tox -e bench` on {date}: {processor}, {cores} cores, {system}; "
            "CPython ".format(**machine)
            + ", ".join(found["version"] for found in pythons.values()) + "; queuepool 1.3.2, "
            + ", ".join(f"{name} {packages[name]}" for name in names)
            + ". 10 slots unless said otherwise. Figures are medians of interleaved rounds.")


def describe(results):
    """Yield the blocks of results.md."""
    pythons = results["pythons"]
    yield "# Side by side"
    yield describeMachine(results) + " ± is half of what lies between the quartiles."
    yield "## Targets"
    yield table(
        ["", "target", *pythons],
        [[title, f"{'≤' if sign == '<=' else '≥'} {target:g}",
          *("–" if value is None else mark(value, sign, target) for value in values.values())]
         for title, sign, target, values in compare.reached(results)])
    yield "## Take and put of an open resource that does nothing, µs"
    for version, found in pythons.items():
        threads = list(found["checkout"][OURS])
        yield table(
            [f"CPython {version}", *(f"{count} thread{'s' * (count != '1')}" for count in threads)],
            [[name, *(spread(costs[count]) for count in threads)]
             for name, costs in found["checkout"].items()])
    yield "## SELECT 1 on a real PostgreSQL: what the pool adds, µs (client and server on one core)"
    yield table(
        ["", *(f"CPython {version}" for version in pythons)],
        [[name, *(f"{spread(found['select'][name]['added'])} "
                  f"to {statistics.median(found['select'][name]['bare']):.0f}"
                  for found in pythons.values())]
         for name in list(pythons.values())[0]["select"]])
    yield "## Fairness: each thread holds a resource for 1 ms, again and again"
    for version, found in pythons.items():
        yield table(
            [f"CPython {version}", "threads", "requests/s", "wait p50, ms", "p99", "longest",
             "least served", "most served"],
            [[name, count, *(f"{statistics.median(figures[key]):.{digits}f}"
                             for key, digits in FAIRNESS.items())]
             for count in ("50", "200")
             for name, byCount in found["fairness"].items()
             for figures in [byCount[count]]])
    yield "## Scale"
    for version, found in pythons.items():
        yield table(
            [f"CPython {version}", *(f"{int(slots):,} slots" for slots in found["scale"])],
            [[title, *(spread(figures[key]) for figures in found["scale"].values())]
             for key, title in SCALE.items()])


FAIRNESS = {"perSecond": 0, "p50": 2, "p99": 2, "max": 2, "least": 0, "most": 0}
SCALE = {
    "checkout": "take and put, µs", "recycleLive": "recycle, nothing expired, ms",
    "recycleExpired": "recycle, everything expired, ms", "stats": "stats, ms",
    "construction": "making the pool, ms", "memory": "memory of a closed slot, bytes"}


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def mark(value, sign, target):
    text = f"{value:.3g}"
    return text if compare.verdict(value, sign, target) == "reached" else f"**{text}**"


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

    figure, axes = pyplot.subplots(
        1, len(pythons), figsize=(4 * len(pythons), 4), sharey=True, squeeze=False)
    for axis, (version, found) in zip(axes[0], pythons.items()):
        for name, costs in found["checkout"].items():
            points = [(count, statistics.median(rounds))
                      for count, rounds in costs.items() if rounds]
            axis.plot(*zip(*points), marker=".", label=name, color=COLOURS[name],
                      linewidth=3 if name == OURS else 1.2)
        axis.set(title=f"CPython {version}", xlabel="threads", yscale="log")
        axis.grid(alpha=0.3, which="both")
    axes[0][0].set_ylabel("take and put, µs")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper center",
                  ncols=5, bbox_to_anchor=(0.5, 1.12))
    save("checkout.png")

    version, found = list(pythons.items())[-1]
    figure, axes = pyplot.subplots(1, 2, figsize=(12, 3.2), sharey=True)
    for axis, count in zip(axes, ("50", "200")):
        for row, (name, byCount) in enumerate(found["fairness"].items()):
            waits = [statistics.median(byCount[count][key]) for key in ("p50", "p99", "max")]
            axis.plot(waits, [row] * 3, color=COLOURS[name], linewidth=1)
            for wait, marker in zip(waits, "o|>"):
                axis.plot(wait, row, marker, color=COLOURS[name], markersize=8)
        axis.set(title=f"{count} threads, 10 slots, 1 ms hold", xscale="log",
                 xlabel="wait, ms: median (o), 99 of 100 (|), longest (>)")
        axis.grid(alpha=0.3)
    axes[0].set_yticks(range(len(found["fairness"])), found["fairness"])
    axes[0].invert_yaxis()
    save("fairness.png")

    figure, axis = pyplot.subplots(figsize=(8, 3.6))
    names = list(found["select"])
    height = 0.8 / len(pythons)
    for number, (version, found) in enumerate(pythons.items()):
        axis.barh([row + number * height for row in range(len(names))],
                  [statistics.median(found["select"][name]["added"]) for name in names],
                  height, label=f"CPython {version}")
    axis.set_yticks([row + 0.4 - height / 2 for row in range(len(names))], names)
    axis.invert_yaxis()
    axis.set_xlabel("added to a SELECT 1, µs")
    axis.legend()
    save("select.png")


if __name__ == "__main__":
    write(RESULTS)
