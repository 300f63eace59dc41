"""A way to run the command in this process, on a server of the tests'."""

from queue import SimpleQueue

import pytest

from queuepool import __main__ as entry
from queuepool.size import command
from tests.demo.conftest import Outcome, admin, folder, serverDsn, start

__all__ = ["admin", "folder", "serverDsn", "start"]


@pytest.fixture
def stops(monkeypatch):
    """The queue whose entries the command in this process takes for Ctrl-C."""
    queue = SimpleQueue()
    monkeypatch.setattr(command, "catchSignals", lambda: queue)
    return queue


@pytest.fixture
def run(stops, serverDsn, capsys):
    """Run the command in this process."""
    def runHere(*arguments):
        try:
            code = entry.main(["size", *arguments])
        except SystemExit as end:
            code = end.code
        return Outcome(code, *capsys.readouterr())

    return runHere
