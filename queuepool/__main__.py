"""``python -m queuepool``: a demonstration of a pool under load, on a real PostgreSQL.

``python -m queuepool size`` is another command: how many connections should a pool have?
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from collections.abc import Sequence
from queue import SimpleQueue

from queuepool import __version__, commandline
from queuepool.commandline import DEFAULT_SQL, catchSignals, conduct, integer, seconds
from queuepool.demo import (EMBEDDED_CAPACITY, Load, awaitCall, embeddedServer, importPool,
                            openDisplay)

EPILOG = """\
In the report "wait" is the time that a request waited for its connection, and "request" its
whole time, until it returned the connection. A failed request is counted and not tried again.
The run ends after --seconds, or with Ctrl-C, and both print the report.
Exit codes: 0 after a report (also with Ctrl-C), 1 when it cannot run or no request succeeded,
2 for wrong options.
Another command: "python -m queuepool size --help" measures how many connections a pool should have.
"""


def makeParser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = commandline.makeParser(
        "python -m queuepool", "Show a pool of connections under load: many threads, few "
        "connections, a real PostgreSQL.", EPILOG)
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
    return parser


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
    arguments = sys.argv[1:] if arguments is None else arguments
    if sys.stdout is None:
        print("python -m queuepool: there is no standard output to write to", file=sys.stderr)
        return 1
    if isinstance(sys.stdout, io.TextIOWrapper):  # what the server says may be in any language
        sys.stdout.reconfigure(errors="backslashreplace")
    if arguments and arguments[0] == "size":
        from queuepool.size import command

        return command.main(arguments[1:])
    parser = makeParser()
    options = parser.parse_args(arguments)
    if options.dsn is None and options.capacity > EMBEDDED_CAPACITY:
        parser.error(f"--capacity: the embedded server allows {EMBEDDED_CAPACITY} connections")
    stops = catchSignals()
    return conduct(parser.prog, lambda: run(options, stops), "Stopped before the first request.")


if __name__ == "__main__":
    sys.exit(main())
