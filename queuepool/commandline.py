"""What the commands of ``python -m queuepool`` have in common: options, errors and signals."""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from queuepool import __version__
from queuepool.demo import DemoError, Stopped

#: It reads only the catalogue, so it runs on any database and changes nothing.
DEFAULT_SQL = ("SELECT count(*) FROM pg_catalog.pg_class c "
               "JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid")


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

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse; the error about what nobody knows names options only: the rest may be secret."""
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            names = [word.partition("=")[0] for word in unknown if word.startswith("--")]
            self.error(f"unrecognized options: {' '.join(names)}" if names else
                       f"unrecognized arguments ({len(unknown)}); quote a value with blanks, as "
                       "that of --dsn may be")
        return options

    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def makeParser(prog: str, description: str, epilog: str) -> OneLineParser:
    """Return a parser with the options that all commands have."""
    parser = OneLineParser(prog=prog, description=description, epilog=epilog, allow_abbrev=False,
                           formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"queuepool {__version__}")
    parser.add_argument(
        "--dsn", help="the database to run on, a connection string or URI of libpq (default: an "
                      "embedded PostgreSQL, started for this run and removed afterwards)")
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


def conduct(prog: str, run: Callable[[], int], whenStopped: str) -> int:
    """Run a command; tell in one line why it ended, and return the exit code."""
    try:
        try:
            return run()
        except Stopped:
            print(whenStopped, flush=True)
            return 0
    except DemoError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return error.code
    except OSError as error:
        _tellOutputFailed(prog, error)
        return 1


def _tellOutputFailed(prog: str, error: OSError) -> None:
    """Tell in one line why the output cannot be written.

    That nobody reads it any more, as behind ``| head``, is no news.
    """
    # The interpreter would write what is left, and complain, at its exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if not isinstance(error, BrokenPipeError):
        print(f"{prog}: the output cannot be written: {error.strerror or error}", file=sys.stderr)
