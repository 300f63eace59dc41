"""The README shows what was measured, targets are judged as they are, progress is told."""

import io
import json
import sys

import pytest

from tests.benchmarks import compare, report
from tests.benchmarks.__main__ import Progress, findPythons
from tests.benchmarks.contenders import FAIR, LIFO, NO_POOL, OURS, PSYCOPG2, SQLALCHEMY
from tests.helpers import FakeClock


def test_the_readmes_table_is_made_from_the_results():
    results = json.loads((report.RESULTS / "results.json").read_text(encoding="utf-8"))
    assert report.splitReadme()[1] == report.summarize(results)


def serve(rate, median=2.0, longest=8.0):
    return {"perSecond": [rate] * 3, "p50": [median] * 3, "p99": [median] * 3,
            "max": [longest] * 3, "least": [1] * 3, "most": [2] * 3}


def makeFound(**parts):
    return {"version": "3.13.0", "packages": {}, "missing": {}, "fairness": {}, "scaling": {},
            "scale": {}, "recycling": {"p99": 1.0},
            "import": {"queuepool": [1.0], "standard": [1.0]},
            "busy": {}, "select": {}, "checkout": {OURS: {"1": [0.5]}, LIFO: {"1": [1.0]}}, **parts}


def judge(found):
    return {title: (value := values["3.13"]) and compare.verdict(value, sign, target)
            for title, sign, target, values in compare.reached({"pythons": {"3.13": found}})}


def test_each_target_is_reached_at_its_figure_and_missed_beyond():
    def verdicts(ceiling, peer, longest, lifo, psycopg2, added):
        return list(judge(makeFound(
            busy={OURS: {"10": serve(97.0), "50": serve(120.0, longest=longest)},
                  FAIR: {"50": serve(999.0)}, SQLALCHEMY: {"50": serve(peer)},
                  PSYCOPG2: {"50": serve(1.0)}, NO_POOL: {"10": serve(ceiling)}},
            select={OURS: {"added": [added]}, PSYCOPG2: {"added": [0.1]}},
            checkout={OURS: {"1": [0.26]}, LIFO: {"1": [lifo]}, PSYCOPG2: {"1": [psycopg2]}},
        )).values())

    assert verdicts(99.0, 99.0, 7.9, 0.66, 0.41, 3.9) == ["reached"] * 6
    assert verdicts(101.0, 101.0, 8.1, 0.64, 0.39, 4.1) == ["missed"] * 6


def test_a_target_whose_peers_are_missing_is_not_judged():
    assert list(judge(makeFound()).values()) == [None, None, None, "missed", None, None]


def test_all_is_written_and_what_is_missed_or_left_out_is_told(tmp_path):
    every = makeFound(busy={OURS: {"10": serve(9000.0), "50": serve(1.0)}},
                      fairness={OURS: {"50": serve(2.0)}},
                      scaling={LIFO: {"1": [10.0], "2": [5.0]}},
                      select={OURS: {"added": [3.0], "bare": [16.0]}})
    few = makeFound(missing={"psycopg2-binary": "no wheel", "psycopg2.pool": "no wheel"})
    (tmp_path / "results.json").write_text(json.dumps({
        "machine": {"date": "today", "processor": "x", "cores": 2, "system": "y"},
        "pythons": {"3.13": every, "3.13t": few}}))
    report.write(tmp_path)
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    for row in ("| ≤ 0.4 | **0.5, missed** | **0.5, missed** |", "| ≤ 4 | 3 | – |",
                "| CPython 3.13t | psycopg2-binary, psycopg2.pool | no wheel |",
                f"| {OURS} | 10 | 9,000 | 2.00 | 2.00 | 8.00 | 1 | 2 |",
                f"| {OURS} | 3 to 16 | – |", f"| {LIFO} | 100, 200: 2.00 | – |"):
        assert row in text
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".md", ".png"}
    assert report.newest({"3.13": every, "3.13t": few}) == ("3.13", every)


def test_the_comparison_ends_with_an_error_if_a_target_is_missed(tmp_path, capsys):
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"pythons": {"3.13": makeFound()}}))
    with pytest.raises(SystemExit, match="1 missed"):
        compare.main(path)
    assert "0.5    missed" in capsys.readouterr().out


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_progress_tells_what_is_done_and_what_is_left(kind):
    clock, stream = FakeClock(), kind()
    progress = Progress({"one": 2, "two": 2}, stream, clock)
    for part, times in {"one": (60.0, 120.0), "two": (6.0, 6.0)}.items():
        for seconds in progress.steps(part, "A", times):
            clock.advance(seconds)
    progress.end()
    lines = ["A: one, 0 of 4 steps done, time left unknown",
             "A: one, 1 of 4 steps done, about 3.0 minutes left",
             "A: two, 2 of 4 steps done, about 3.0 minutes left",
             "A: two, 3 of 4 steps done, about 0.1 minutes left"]
    assert stream.getvalue() == (
        "".join(f"\r{line}\x1b[K" for line in lines) + "\n" if kind is Terminal
        else f"{lines[0]}\n{lines[2]}\n")


@pytest.mark.skipif(sys.platform == "win32", reason="the interpreters are scripts")
def test_the_first_interpreter_of_each_version_that_works_is_found(tmp_path, monkeypatch):
    def makePython(folder, version, words):
        path = tmp_path / folder / f"python{version}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{words}\n")
        path.chmod(0o755)
        return str(path)

    makePython("shims", "3.12", "exit 1")  # its version is not active
    makePython("free", "3.13", "echo CPython 3.13t")
    free = makePython("free", "3.13t", "echo CPython 3.13t")
    makePython("other", "3.11", "echo PyPy 3.11")
    makePython("old", "3.10", "echo CPython 3.10")
    newest = makePython("pyenv/versions/3.12.9/bin", "3.12", "echo CPython 3.12")
    makePython("pyenv/versions/3.12.1/bin", "3.12", "echo CPython 3.12")
    normal = makePython("pyenv/versions/3.13.0/bin", "3.13", "echo CPython 3.13")
    monkeypatch.setenv("PATH", ":".join(
        str(tmp_path / folder) for folder in ("shims", "free", "other", "old")))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    assert findPythons() == [newest, normal, free]
