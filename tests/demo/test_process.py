"""The demo as its user runs it: in a process, before a terminal or not, ended by signals."""

import contextlib
import os
import re
import signal

import pytest

from queuepool import __main__ as command
from tests.demo.conftest import SIGNALS, frozen, processesIn
from tests.helpers import PATIENCE, awaitTrue

pytestmark = pytest.mark.usefixtures("posix")


def test_embedded_run_reports_in_plain_lines_and_leaves_nothing(start):
    process = start("--seconds", "1", "--threads", "6", "--capacity", "3",
                    "--sql", "select pg_sleep(0.002)")
    outcome = process.outcome()
    assert (outcome.code, outcome.err) == (0, "")
    assert "\x1b" not in outcome.out and "\r" not in outcome.out
    assert outcome.fact("chaos").endswith("terminated all 3 backends of the pool")
    assert outcome.fact("server connections").startswith(outcome.fact("opens") + " in total")
    assert "pool closed 3" in outcome.fact("closes")
    process.checkNothingLeft()


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_ends_with_the_report_and_leaves_nothing(start, number):
    process = start("--seconds", "1000", "--threads", "6", "--capacity", "3")
    process.awaitLine("requests/s")
    process.signalGroup(number)
    with contextlib.suppress(ProcessLookupError):
        process.signalGroup(number)  # impatient users send two
    outcome = process.outcome()
    assert (outcome.code, outcome.err) == (0, "")
    assert re.match(r"[1-9][\d,]* in \d", outcome.fact("requests"))
    process.checkNothingLeft()


def test_ctrl_c_while_the_server_starts_leaves_nothing(start):
    process = start()
    process.awaitLine("Starting")
    process.signalGroup(signal.SIGINT)
    outcome = process.outcome()
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.endswith("Stopped before the first request.\n")
    process.checkNothingLeft()


def test_ctrl_c_that_ends_the_servers_own_programs_leaves_nothing(start, folder):
    process = start()
    awaitTrue(lambda: any("initdb" in one.name() for one in processesIn(folder)))
    process.signalGroup(signal.SIGINT)
    outcome = process.outcome()
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.endswith("Stopped before the first request.\n")
    process.checkNothingLeft()


@pytest.mark.parametrize("number", SIGNALS[:2])
def test_signal_while_the_server_does_not_answer(start, serverDsn, number):
    process = start("--dsn", serverDsn, "--seconds", "1000", "--threads", "6", "--capacity", "3",
                    "--sql", "select pg_sleep(0.002)")
    process.awaitLine("requests/s")
    with frozen(serverDsn):
        process.signalGroup(number)
        outcome = process.outcome()
    assert (outcome.code, outcome.err) == (0, "")
    assert "0 still running" in outcome.fact("not done at the end")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no such file")
@pytest.mark.parametrize("arguments", [[], ["size"]])
def test_output_that_cannot_be_written_is_told_in_one_line(start, serverDsn, arguments):
    with open("/dev/full", "w") as full:
        process = start(*arguments, "--dsn", serverDsn, stdout=full)
        error = process.popen.communicate(timeout=PATIENCE)[1]
    assert process.popen.returncode == 1
    assert error.count("\n") == 1 and "the output cannot be written: No space left" in error


@pytest.mark.parametrize("arguments", [[], ["size"]])
def test_no_standard_output_is_told_in_one_line(monkeypatch, capsys, arguments):
    monkeypatch.setattr("sys.stdout", None)
    assert command.main([*arguments, "--dsn", "dbname=none"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_reader_that_goes_away_ends_it_quietly(start):
    process = start("--seconds", "1000", "--threads", "2", "--capacity", "1")
    process.awaitLine("Starting")
    process.popen.stdout.close()
    assert process.popen.wait(60) == 1
    assert process.popen.stderr.read() == ""
    process.checkNothingLeft()


def test_terminal_shows_a_live_table_then_the_report(start, serverDsn):
    mine, its = os.openpty()
    try:
        process = start("--dsn", serverDsn, "--seconds", "1", "--threads", "6", "--capacity", "3",
                        stdout=its)
    finally:
        os.close(its)
    shown = b""
    with contextlib.suppress(OSError):  # EIO: the other side was closed
        while chunk := os.read(mine, 65536):
            shown += chunk
    os.close(mine)
    outcome = process.outcome() if process.popen.stdout else process.popen.wait(60)
    text = shown.decode()
    assert process.popen.returncode == 0, outcome
    live, report = text.split("Report")
    assert "\x1b[" in live
    assert live.count("requests/s") > 2 and "wait p50" in live
    assert "requests per second" in report and "server connections" in report
