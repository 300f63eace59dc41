"""What the README explains is what the package says: words of messages, stats, the report."""

import ast
import re

import queuepool
from queuepool import Holder, Report, Stats, Verdict
from queuepool.report import Frame
from queuepool.stats import Reason
from tests.recipes import README

ROOT = README.parent
WORD = re.compile(r"\[queuepool:([a-z-]+)\]")


def calls():
    """Yield the name of each function that the package calls, and the arguments of the call."""
    for path in (ROOT / "queuepool").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield getattr(node.func, "attr", getattr(node.func, "id", "")), node.args


def wordsOf(name, arguments):
    """Return the words that a call of this function gives to a message."""
    texts = [each.value for argument in arguments for each in ast.walk(argument)
             if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    if name in ("poolError", "warning") and re.fullmatch("[a-z-]+", texts[0]):
        return [texts[0]]
    return [word for text in texts for word in WORD.findall(text)]


def test_every_word_of_a_message_has_a_heading_and_every_heading_a_word():
    words = {str(verdict) for verdict in Verdict}
    for name, arguments in calls():
        words.update(wordsOf(name, arguments))
    headings = re.findall(rf"^### {WORD.pattern}$", README.read_text(encoding="utf-8"), re.M)
    assert len(headings) == len(set(headings))
    assert sorted(words - set(headings)) == []
    assert sorted(set(headings) - words) == []


def test_every_warning_has_a_word():
    warnings = [arguments for name, arguments in calls() if name == "warning"]
    assert len(warnings) > 15
    assert [ast.unparse(arguments[0]) for arguments in warnings
            if not wordsOf("warning", arguments)] == []


def test_the_table_of_stats_has_all_fields():
    table = README.read_text(encoding="utf-8").partition("\n### Stats\n")[2].partition("\n## ")[0]
    fields = [name for row in re.findall(r"^\| (`.*?) \|", table, re.M)
              for name in re.findall(r"`(\w+)`", row)]
    assert sorted(fields) == sorted(Stats._fields)
    reasons = re.search(r"`Reason`: (.*?) \|", table)[1]
    assert reasons.split(", ") == [reason.value for reason in Reason]


def test_the_report_is_shown_as_it_looks():
    def holder(resource, thread, seconds, *place, waitsIn=None):
        return Holder(f"web-{resource}", thread, seconds, waitsIn, not place,
                      (Frame("/srv/billing.py", *place),) if place else (), None)

    report = Report(
        name="web", closed=False, capacity=4, open=4, idle=0, taken=4, waiting=2,
        verdict=Verdict.EXHAUSTED, lastError=None, lastErrorAge=None, isReconnecting=False,
        retryIn=None, recyclerRuns=True, holders=(
            holder(0, "import-7", 6.996),
            holder(1, "report", 6.303, 13, "sumUp"),
            holder(2, "request-31", 5.603, 18, "callPartner"),
            holder(3, "request-32", 4.899, 26, "audit", waitsIn="web")))
    lines = [line.rstrip() for line in str(report).splitlines()]
    section = README.read_text(encoding="utf-8").partition("\n### The report\n")[2]
    block, *_ = re.findall(r"^```text\n(pool .*?)^```$", section, re.M | re.S)
    assert block.splitlines() == lines


def test_everything_public_is_named():
    text = README.read_text(encoding="utf-8")
    assert [name for name in queuepool.__all__ if name not in text] == []
