"""What a type checker knows of a pool: the target of a with statement was Any."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import queuepool

PROGRAM = '''
from typing import reveal_type
from queuepool import Pool, Reason, Resource, ResourceManager, Stats

class Line(Resource):
    def talk(self) -> str:
        return "hello"

class LinePool(Pool[Line]):
    pass

pool = Pool("p", 1, factory=Line)
seeded: Pool[Line] = Pool("p", 1)
sub = LinePool("p", 1, factory=Line)
old: Pool[ResourceManager] = Pool("p", 1, factory=ResourceManager)

reveal_type(pool)  # Pool[Line]
reveal_type(pool.take())  # Line
reveal_type(seeded.take(timeout=1))  # Line
with pool.take() as r1:
    reveal_type(r1)  # Line
    reveal_type(r1.talk())  # str
with seeded.take() as r2:
    reveal_type(r2)  # Line
with sub.take() as r3:
    reveal_type(r3)  # Line
with old.take() as r4:
    reveal_type(r4)  # Resource
with pool as p5:
    reveal_type(p5)  # Pool[Line]
with sub as p6:
    reveal_type(p6)  # LinePool
reveal_type(pool.stats())  # Stats
reveal_type(pool.stats().closesByReason)  # dict[Reason, int]
reveal_type(pool.close())  # int
reveal_type(pool.invalidate())  # int
reveal_type(pool.warm())  # int
'''

#: What a type checker is to find wrong, each line for itself.
WRONG = '''
from queuepool import Pool, Resource

class Line(Resource):
    pass

pool = Pool("p", 1, factory=Line)
pool.put(Resource("a"))
pool.put("a")
Pool(1, 1)
Pool("p", "dsn")
pool.take(timeout="1")
with pool.take() as line:
    line.cursor()
'''


def check(program, tmp_path):
    """Run mypy --strict over a program; return what it says, as {line: text}."""
    pytest.importorskip("mypy")
    path = tmp_path / "program.py"
    path.write_text(program)
    outcome = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--config-file=",
         "--cache-dir", str(tmp_path / "cache"), "--hide-error-context", str(path)],
        capture_output=True, text=True, timeout=300, cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(Path(queuepool.__file__).parents[1])})
    assert not outcome.stderr, outcome.stderr
    said = {}
    for line in outcome.stdout.splitlines():
        found = re.match(r".*?program\.py:(\d+): (\w+): (.*)", line)
        if found:
            said.setdefault(int(found[1]), f"{found[2]}: {found[3]}")
    return said


@pytest.mark.timeout(300)
def test_the_target_of_with_has_the_type_of_the_resource(tmp_path):
    said = check(PROGRAM, tmp_path)
    expected = {number: line.partition("  # ")[2]
                for number, line in enumerate(PROGRAM.splitlines(), 1) if "reveal_type(" in line}
    revealed = {}
    for number, text in said.items():
        found = re.search(r'Revealed type is "(.*)"', text)
        assert found, (number, text)
        name = re.sub(r"(\w+\.)+", "", found[1])
        revealed[number] = re.sub(r"tuple\[.*fallback=(\w+)\]", r"\1", name)
    assert revealed == expected


@pytest.mark.timeout(300)
def test_what_is_wrong_is_found_by_a_type_checker(tmp_path):
    said = check(WRONG, tmp_path)
    numbers = [number for number, line in enumerate(WRONG.splitlines(), 1)
               if re.match(r"\s*(pool\.|Pool\(|line\.)", line)]
    assert sorted(said) == numbers
    assert all(text.startswith("error: ") for text in said.values())
