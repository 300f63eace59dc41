"""The README is true: its examples run, and what it names is there. tests/recipes/ has the rest."""

import ast
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import psycopg2
import pytest

from queuepool import Pool, PoolTimeout
from tests.helpers import awaitTrue, start
from tests.recipes import README, pythonBlocks

ROOT = README.parent
#: The headings of the examples that follow one another, as a reader types them.
FIRST_STEPS = "Start", "Transactions", "Without a with block", "Your own resource", "gevent"
SEVERAL = "gunicorn, and other servers of several processes"
#: The headings of the examples that look into a pool.
LOOKS = "The report", "From outside the process", "Logging"
#: The headings of the examples of metrics.
METRICS = "Prometheus", "OpenTelemetry", SEVERAL
#: What the README quotes of others: psycopg2, PostgreSQL, Python.
FOREIGN_MESSAGES = {"connection already closed", "too many clients already"}


def section(heading):
    """Return the text under a heading, up to the next heading of the same level."""
    marks, text = re.search(rf"^(#+) {re.escape(heading)}\n(.*)", README.read_text(
        encoding="utf-8"), re.M | re.S).groups()
    return re.split(rf"^{marks} ", text, flags=re.M)[0]


@pytest.fixture
def echoPort():
    """Accept connections and read what comes, until the end of the test."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        def serve():
            while True:
                try:
                    line, _ = server.accept()
                except OSError:
                    return
                with line:
                    while line.recv(100):
                        pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_the_first_steps_run_one_after_the_other(dsn, echoPort, monkeypatch, capsys):
    monkeypatch.setenv("DSN", dsn)
    namespace = {"PORT": echoPort, "__name__": "readme"}
    try:
        for heading in FIRST_STEPS:
            for block in pythonBlocks()[heading]:
                exec(compile(block, f"README.md, {heading}", "exec"), namespace)
        assert namespace["pool"].stats().taken == 0
    finally:
        for value in namespace.values():
            if isinstance(value, Pool):
                value.close()
    assert capsys.readouterr().out == "42\n"


@pytest.fixture
def unchanged(posix):
    """Set back what the examples change for the whole process."""
    logger = logging.getLogger("queuepool")
    level, handler = logger.level, signal.getsignal(signal.SIGUSR1)
    yield
    logger.setLevel(level)
    signal.signal(signal.SIGUSR1, handler)


def test_a_stuck_pool_can_be_looked_into(makePool, unchanged, capfd):
    pool = makePool(1, maxWaiting=0)
    held = start(pool.take).result()
    reports, signals, logs = ("".join(pythonBlocks()[heading]) for heading in LOOKS)
    with pytest.raises(PoolTimeout):
        exec(reports, {"pool": pool})
    verdict, _, report = capfd.readouterr().out.partition("\n")
    assert verdict == "exhausted"
    exec(signals)
    os.kill(os.getpid(), signal.SIGUSR1)
    dumped = capfd.readouterr().err
    for text in report, dumped:
        assert f"pool {pool.name!r}: exhausted\n  capacity 1, checked out 1" in text
    exec(logs)
    assert logging.getLogger("queuepool").level == logging.INFO
    pool.put(held)


def runWithPool(*blocks, **environment):
    """Run the blocks, in a program that has a pool, and return what it prints."""
    program = "\n".join(["from tests.helpers import PlainResource", "from queuepool import Pool",
                         "pool = Pool('app', 3, factory=PlainResource)",
                         "with pool.take(): pass", *blocks])
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, text=True, timeout=30,
                          capture_output=True, env={**os.environ, **environment})
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_prometheus_can_scrape():
    pytest.importorskip("prometheus_client", reason="prometheus-client is not installed")
    block, = pythonBlocks()["Prometheus"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    assert "8000" in block
    scraped = runWithPool(
        block.replace("8000", port), "from urllib.request import urlopen",
        f"print(urlopen('http://127.0.0.1:{port}/metrics').read().decode())")
    assert 'queuepool_max_connections{pool="app"} 3.0' in scraped
    assert 'queuepool_takes_total{pool="app"} 1.0' in scraped


def test_prometheus_can_scrape_several_processes(tmp_path):
    pytest.importorskip("prometheus_client", reason="prometheus-client is not installed")
    program, configuration = pythonBlocks()[SEVERAL]
    scrape = """
import contextlib, os, struct, time, types
from wsgiref.util import setup_testing_defaults

request, text = {}, ""
setup_testing_defaults(request)
# It is written once a second, the gauges last.
while 'queuepool_max_connections{pool="app"} 3.0' not in text:
    time.sleep(0.01)
    with contextlib.suppress(struct.error):  # prometheus_client reads a file that is just made
        text = b"".join(metrics(request, lambda status, headers: None)).decode()
print(text, "--- dead")
child_exit(None, types.SimpleNamespace(pid=os.getpid()))
print(os.listdir(os.environ["PROMETHEUS_MULTIPROC_DIR"]))"""
    alive, dead = runWithPool(program, configuration, scrape,
                              PROMETHEUS_MULTIPROC_DIR=str(tmp_path)).split("--- dead")
    assert 'queuepool_max_connections{pool="app"} 3.0' in alive
    assert 'queuepool_takes_total{pool="app"} 1.0' in alive
    assert "counter_" in dead and "live" not in dead


def test_opentelemetry_observes_the_pool():
    for package in "opentelemetry", "opentelemetry.sdk":
        pytest.importorskip(package, reason=f"{package} is not installed")
    block, = pythonBlocks()["OpenTelemetry"]
    collected = runWithPool(
        "from opentelemetry.metrics import set_meter_provider",
        "from opentelemetry.sdk.metrics import MeterProvider",
        "from opentelemetry.sdk.metrics.export import InMemoryMetricReader",
        "reader = InMemoryMetricReader()", "set_meter_provider(MeterProvider([reader]))", block,
        "print(reader.get_metrics_data().to_json())")
    assert '"db.client.connection.max"' in collected
    assert '"db.client.connection.pool.name": "app"' in collected


def test_every_python_block_is_run_by_a_test():
    run = {*FIRST_STEPS, *LOOKS, *METRICS}
    for path in (ROOT / "tests" / "recipes").glob("test_*.py"):
        run.update(node.value for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                   if isinstance(node, ast.Constant) and isinstance(node.value, str))
    assert sorted(set(pythonBlocks()) - run) == []


def test_every_test_that_the_readme_names_is_there():
    named = set(re.findall(r"`(test_\w+)`", README.read_text(encoding="utf-8")))
    there = {name for path in ROOT.glob("tests/**/test_*.py")
             for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.M)}
    assert named
    assert sorted(named - there) == []


def test_every_promise_has_a_test():
    rows = [row for row in re.findall(r"^\|.*\|$", section("Promises"), re.M)
            if not re.match(r"\| (?:---|promise|fault|left behind)", row)]
    assert len(rows) > 40
    assert [row for row in rows if "`test_" not in row] == []


def test_every_link_within_the_readme_leads_to_a_heading():
    text = README.read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", prose, re.M)
    anchors = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
    assert len(anchors) == len(set(anchors))
    links = re.findall(r"\]\(#([^)]*)\)", text)
    assert sorted(set(links) - set(anchors)) == []
    contents = text.partition("\n## ")[0]
    assert sorted(re.findall(r"^## (.+)$", prose, re.M)) == sorted(
        heading for heading, anchor in zip(headings, anchors)
        if f"](#{anchor})" in contents and f"\n## {heading}\n" in text or heading == "License")


def test_every_file_that_the_readme_links_to_is_there():
    links = re.findall(r"\]\((?!#|https?:)([^)]*)\)", README.read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link).is_file()] == []


def test_every_message_that_the_readme_explains_is_one_of_the_packages():
    told = {text for text in re.findall(r"`([^`]+)`", section("When something is wrong"))
            if " " in text and not text.startswith("with ")}
    assert FOREIGN_MESSAGES < told
    messages = "\n".join(allStrings())
    assert [text for text in sorted(told - FOREIGN_MESSAGES) if text not in messages] == []


def allStrings():
    """Yield every string of the package, and every piece between the braces of an f-string."""
    for path in (ROOT / "queuepool").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


# -- what the table of what a put cleans says "no" of

@pytest.fixture
def ordinary(admin):
    """A user who is no superuser, as that of an application, and may take another role."""
    admin.query("do $$ begin create role monitor login in role pg_monitor; "
                "exception when duplicate_object then null; end $$")
    return "monitor"


@pytest.mark.parametrize("leave, look", [
    pytest.param(*each, id=each[0]) for each in [
        ("set statement_timeout = 12345", "show statement_timeout"),
        ("set search_path = nowhere", "show search_path"),
        ("set timezone = 'Asia/Tokyo'", "show timezone"),
        ("set names 'LATIN1'", "show client_encoding"),
        ("set role pg_monitor", "select current_user"),
        ("declare mine cursor with hold for select 1", "select count(*) from pg_cursors"),
        ("create temp table mine as select 1", "select to_regclass('pg_temp.mine')"),
        ("prepare mine as select 1", "select count(*) from pg_prepared_statements"),
        ("select pg_advisory_lock(1)", "select count(*) from pg_locks "
         "where locktype = 'advisory' and pid = pg_backend_pid()"),
    ]])
def test_what_a_put_does_not_clean_needs_a_discard(makePool, ordinary, leave, look):
    for reset in None, "discard":
        seen = []
        with makePool(user=ordinary, reset=reset) as pool:
            for use in None, leave, None:
                with pool.take() as conn, conn, conn.cursor() as cur:
                    cur.execute(look)
                    seen.append(cur.fetchone()[0])
                    if use:
                        cur.execute(use)
            assert pool.stats().opens == 1
        assert (seen[2] == seen[0]) is (reset == "discard")


def test_a_cancel_that_comes_late_hits_the_next_user(makePool, admin):
    pool = makePool()
    with pool.take() as conn:
        pass
    with pool.take() as conn, conn.cursor() as cur:
        sleeping = start(cur.execute, "select pg_sleep(600)")
        awaitTrue(lambda: admin.count(conn.get_backend_pid(), "active", "%pg_sleep%"))
        conn.cancel()  # by a watchdog of the first user
        with pytest.raises(psycopg2.errors.QueryCanceled):
            sleeping.result()
