"""``python -m queuepool``: the pool at work on a real PostgreSQL, for everyone to see."""

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
from queuepool.demo import (EMBEDDED_CAPACITY, DemoError, Load, Stopped, attend, embeddedServer,
                             importPool, openDisplay)

#: Reads the catalogue, so it works on any database and writes nothing.
DEFAULT_SQL = ("SELECT count(*) FROM pg_catalog.pg_class c "
               "JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid")

EPILOG = """\
The report's "wait" is the time that a request waited for its connection, "request" all of its
time, until it gave the connection back. A request that fails is counted, never tried again.
Ends after --seconds, or earlier with Ctrl-C; both end with the report.
Exit codes: 0 after a report (also with Ctrl-C), 1 when it cannot run or no request succeeded,
2 for wrong options.
"""


def wholeNumber(text: str) -> int:
    """Read a whole number from 1 up."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def seconds(text: str) -> float:
    """Read a number of seconds above 0."""
    number = float(text)
    if not 0.0 < number < math.inf:
        raise ValueError
    return number


# argparse names the type in its message: "invalid whole number from 1 up value: '0'".
wholeNumber.__name__ = "whole number from 1 up"
seconds.__name__ = "number of seconds above 0"


class OneLineParser(argparse.ArgumentParser):
    """Say what is wrong in one line, without the usage before it."""

    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def makeParser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    parser = OneLineParser(
        prog="python -m queuepool", epilog=EPILOG, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Show a pool of connections at work: many threads, few connections, a real "
                    "PostgreSQL.")
    parser.add_argument(
        "--dsn", help="the database to run on, as libpq reads it (default: an embedded "
                      "PostgreSQL, started for this run and removed afterwards)")
    parser.add_argument(
        "--sql", default=DEFAULT_SQL,
        help="what each request runs, in a transaction of its own that is committed (default: "
             "a query on the catalogue)")
    parser.add_argument("--threads", type=wholeNumber, default=50, metavar="N",
                        help="how many threads make requests (default: %(default)s)")
    parser.add_argument("--capacity", type=wholeNumber, default=10, metavar="N",
                        help="how many connections the pool may open (default: %(default)s)")
    parser.add_argument("--seconds", type=seconds, default=10.0, metavar="S",
                        help="how long (default: 10)")
    parser.add_argument(
        "--chaos", action=argparse.BooleanOptionalAction, default=None,
        help="in the middle, have the server terminate every backend of the pool (default: on "
             "the embedded server yes, with --dsn no)")
    parser.add_argument("--version", action="version", version=f"queuepool {__version__}")
    return parser


def listen() -> SimpleQueue[int]:
    """Turn the signals that end a program into entries of a queue, whose put is reentrant.

    No signal raises anything anywhere, so whatever was begun is also ended. It stays like this
    to the end of the process, whose last moments a second Ctrl-C is not to disturb.
    """
    wishes: SimpleQueue[int] = SimpleQueue()
    for name in "SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK":
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: wishes.put(number))
    return wishes


def run(options: argparse.Namespace, wishes: SimpleQueue[int]) -> int:
    """Run the load and show it; return the exit code."""
    importPool()
    with contextlib.ExitStack() as stack:
        display = openDisplay()
        dsn = options.dsn
        if dsn is None:
            display.say("Starting an embedded PostgreSQL ...")
            dsn = stack.enter_context(embeddedServer(wishes))
        isChaotic = options.dsn is None if options.chaos is None else options.chaos
        load = Load(dsn, options.sql, options.threads, options.capacity)
        stack.callback(load.end)
        server = attend(load.check, wishes)
        where = "given with --dsn" if options.dsn is not None else "embedded"
        display.begin(f"queuepool {__version__}: {options.threads} threads on "
                      f"{options.capacity} connections to PostgreSQL {server} ({where})",
                      options.seconds)
        with display:
            load.begin()
            load.watch(options.seconds, isChaotic, wishes, display.show)
        display.report(load.summary())
        return 0 if load.countDone() else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = makeParser()
    options = parser.parse_args(arguments)
    if options.dsn is None and options.capacity > EMBEDDED_CAPACITY:
        parser.error(f"--capacity: the embedded server has room for {EMBEDDED_CAPACITY}")
    wishes = listen()
    try:
        return run(options, wishes)
    except Stopped:
        print("Stopped before the first request.", flush=True)
        return 0
    except BrokenPipeError:
        # Nobody reads any more; keep the interpreter from saying so at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except DemoError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
