"""``python -m queuepool``: a demonstration of a pool under load, on a real PostgreSQL."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import signal
import sys
from collections.abc import Sequence
from queue import SimpleQueue

from queuepool import __version__
from queuepool.demo import (EMBEDDED_CAPACITY, DemoError, Load, Stopped, awaitCall, embeddedServer,
                            importPool, openDisplay)

#: It reads only the catalogue, so it runs on any database and changes nothing.
DEFAULT_SQL = ("SELECT count(*) FROM pg_catalog.pg_class c "
               "JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid")

EPILOG = """\
In the report "wait" is the time that a request waited for its connection, and "request" its
whole time, until it returned the connection. A failed request is counted and not tried again.
The run ends after --seconds, or with Ctrl-C, and both print the report.
Exit codes: 0 after a report (also with Ctrl-C), 1 when it cannot run or no request succeeded,
2 for wrong options.
"""


def integer(text: str) -> int:
    """Return an integer >= 1; raise ValueError for all else."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def seconds(text: str) -> float:
    """Return a finite number of seconds > 0; raise ValueError for all else."""
    number = float(text)
    if not 0.0 < number < math.inf:
        raise ValueError
    return number


# argparse puts the name of the type into its message: "invalid integer >= 1 value: '0'".
integer.__name__ = "integer >= 1"
seconds.__name__ = "number of seconds > 0"


class OneLineParser(argparse.ArgumentParser):
    """A parser of the command line that reports an error in one line, without the usage."""

    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def makeParser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = OneLineParser(
        prog="python -m queuepool", epilog=EPILOG, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Show a pool of connections under load: many threads, few connections, a "
                    "real PostgreSQL.")
    parser.add_argument(
        "--dsn", help="the database to run on, a connection string or URI of libpq (default: an "
                      "embedded PostgreSQL, started for this run and removed afterwards)")
    parser.add_argument(
        "--sql", default=DEFAULT_SQL,
        help="the SQL of each request, which runs in its own transaction and is committed "
             "(default: a query on the catalogue)")
    parser.add_argument("--threads", type=integer, default=50, metavar="N",
                        help="the number of threads that make requests (default: %(default)s)")
    parser.add_argument("--capacity", type=integer, default=10, metavar="N",
                        help="the number of connections of the pool (default: %(default)s)")
    parser.add_argument("--seconds", type=seconds, default=10.0, metavar="S",
                        help="how long to run (default: 10)")
    parser.add_argument(
        "--chaos", action=argparse.BooleanOptionalAction, default=None,
        help="after half of the time have the server terminate all backends of the pool "
             "(default: yes on the embedded server, no with --dsn)")
    parser.add_argument("--svg", metavar="FILE",
                        help="write the live table, as it was shown last, as an SVG picture")
    parser.add_argument("--version", action="version", version=f"queuepool {__version__}")
    return parser


def catchSignals() -> SimpleQueue[int]:
    """Return a queue that gets the number of each signal that would end the program.

    No signal raises an exception any more, so what was begun is always ended. That holds until
    the process has ended: a second Ctrl-C does not interrupt the cleaning up.
    """
    stops: SimpleQueue[int] = SimpleQueue()  # its put is reentrant
    for name in "SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK":
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: stops.put(number))
    return stops


def run(options: argparse.Namespace, stops: SimpleQueue[int]) -> int:
    """Run the load and show it; return the exit code."""
    importPool()
    with contextlib.ExitStack() as stack:
        display = openDisplay(options.svg)
        dsn = options.dsn
        if dsn is None:
            display.say("Starting an embedded PostgreSQL ...")
            dsn = stack.enter_context(embeddedServer(stops))
        isChaotic = options.dsn is None if options.chaos is None else options.chaos
        load = Load(dsn, options.sql, options.threads, options.capacity)
        stack.callback(load.end)
        server = awaitCall(load.check, stops)
        where = "embedded" if options.dsn is None else "given with --dsn"
        display.begin(f"queuepool {__version__}: {options.threads} threads on "
                      f"{options.capacity} connections to PostgreSQL {server} ({where})",
                      options.seconds)
        with display:
            load.begin()
            load.watch(options.seconds, isChaotic, stops, display.show)
        display.report(load.summary())
        return 0 if load.countDone() else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = makeParser()
    options = parser.parse_args(arguments)
    if options.dsn is None and options.capacity > EMBEDDED_CAPACITY:
        parser.error(f"--capacity: the embedded server allows {EMBEDDED_CAPACITY} connections")
    stops = catchSignals()
    try:
        return run(options, stops)
    except Stopped:
        print("Stopped before the first request.", flush=True)
        return 0
    except BrokenPipeError:
        # Nobody reads the output any more. The interpreter would complain about that at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except DemoError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
