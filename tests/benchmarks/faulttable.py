"""Put all pools to all faults, and write the tables by fault and by feature.

Part of ``python -m tests.benchmarks faults``. Each fault of each pool runs in a process of its
own, which is killed when it takes too long: "hangs" is a result.
"""

import contextlib
import json
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor

from tests.benchmarks import features
from tests.benchmarks.contenders import FORMER
from tests.benchmarks.faults import FAULTS, THOROUGH
from tests.benchmarks.report import table
from tests.benchmarks.subjects import SUBJECTS, VARIANTS

#: Processes at a time that mostly wait.
AT_ONCE = 3


def run(python, fault, subject, settings, variables, folder=None, limit=None):
    """Run a fault in a process of its own, in a folder; return what it saw."""
    process = subprocess.Popen(
        [python, "-W", "ignore", "-m", "tests.benchmarks.faults", fault, subject,
         json.dumps(settings)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **variables}, cwd=folder, start_new_session=True)
    try:
        output, errors = process.communicate(timeout=limit or FAULTS[fault].limit)
        isHung = False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, errors = process.communicate()
        isHung = True
    lines = [json.loads(line) for line in output.splitlines()]
    last = lines[-1] if lines else {"stage": "the beginning"}
    if "stage" not in last:
        return last
    if isHung:
        return {"hangs": last["stage"]}
    return {"failed": last["stage"], "why": (errors.strip().splitlines() or ["no word"])[-1]}


def tell(fault, seen):
    """Return a cell: what was seen, in a few words."""
    if "hangs" in seen:
        return f"**hangs** ({seen['hangs']})"
    if "failed" in seen:
        return f"**failed** ({seen['failed']}): {seen['why']}"
    return FAULTS[fault].words(seen)


def runAll(python, settings, variablesOf, folder, faults, say=print):
    """Return what was seen, by fault and by subject; a variant's under the subject's name and its
    options."""
    jobs = []
    for fault, (_, program, *_) in FAULTS.items():
        if callable(program) and fault in faults:
            for subject in SUBJECTS:
                jobs.append((fault, subject, subject, {}))
                options, concerned = VARIANTS.get(subject, ({}, ()))
                if fault in concerned:
                    jobs.append((fault, variantOf(subject), subject, options))

    def work(job):
        fault, name, subject, options = job
        seen = run(python, fault, subject, {**settings, "options": options},
                   variablesOf(subject), folder)
        say(" ", fault, "|", name, "|", tell(fault, seen))
        return seen

    isAlone = {job[:2]: FAULTS[job[0]].isAlone for job in jobs}
    with ThreadPoolExecutor(AT_ONCE) as executor:
        together = [job for job in jobs if not isAlone[job[:2]]]
        # Those that take long first.
        together.sort(key=lambda job: -FAULTS[job[0]].limit)
        found = dict(zip((job[:2] for job in together), executor.map(work, together)))
    found |= {job[:2]: work(job) for job in jobs if isAlone[job[:2]]}
    results = {job[0]: {} for job in jobs}
    for fault, name, *_ in jobs:
        results[fault][name] = found[fault, name]
    return results


def variantOf(subject):
    return f"{subject}, {optionsOf(VARIANTS[subject][0])}"


def optionsOf(options):
    return ", ".join(f"{key}={value}" for key, value in options.items())


def cell(results, fault, subject):
    """Return what was seen of a subject, and of its variant if that is another thing."""
    program = FAULTS[fault].run
    seen = results[fault if callable(program) else program]
    words = tell(fault, seen[subject])
    variant = variantOf(subject) if subject in VARIANTS else None
    if variant in seen and (other := tell(fault, seen[variant])) != words:
        words += f"; with `{optionsOf(VARIANTS[subject][0])}`: {other}"
    return words


def describe(found):
    """Yield the blocks of faults.md."""
    yield "# Pools by fault and by feature"
    yield header(found)
    yield "## By fault"
    yield byFault(found["faults"])
    yield ("Bold is what loses capacity or work, starves a thread, harms another process or "
           "another user, or does not end. A slot is lost if its connection cannot be had again; a "
           "wake-up if one is idle and the thread that waits for it does not hear of it. Each "
           "fault of each pool ran once, in a process of its own. Counts of what a random moment "
           "decides, such as slots lost by signals, differ from run to run. Nothing was done for "
           "the pools that they do not do by themselves: some manuals tell what to do after a "
           "fork.")
    yield "## By feature"
    yield byFeature(found["features"])
    yield ("What provides it: a parameter or method, chosen by its signature and documentation "
           "string; the run has looked up each in the installed release. – is: none was found. "
           "What a pool does without being told is in the table by fault.")


def header(found):
    versions = found["versions"]
    packages = "psycopg2-binary", "SQLAlchemy", "DBUtils", "psycopg", "psycopg-pool"
    used = "; ".join(f"{subject}: `{optionsOf(kind.options)}`"
                     for subject, kind in SUBJECTS.items() if kind.options)
    return (f"Made by `python -m tests.benchmarks faults` with CPython {versions['CPython']}, "
            f"PostgreSQL {versions['PostgreSQL']}, queuepool {versions['queuepool']} and "
            f"{versions['former']}, "
            + ", ".join(f"{name} {versions[name]}" for name in packages)
            + f". Each pool has its defaults, but for the capacity and {used}. psycopg2 is the "
              "driver of all but psycopg_pool.")


def byFault(results):
    return table(["", *SUBJECTS], [
        [fault.title, *(cell(results, key, subject) for subject in SUBJECTS)]
        for key, fault in FAULTS.items()])


def byFeature(found):
    return table(["", *SUBJECTS], [
        [title, *(providers.get(subject, "–") for subject in SUBJECTS)]
        for title, providers in found.items()])


@contextlib.contextmanager
def restartable(server):
    """Give what the settings say of an embedded server; stop it, whoever has restarted it."""
    control = [str(server.bin_path / "pg_ctl"), "-w", "-D", str(server.pgdata), "-m", "fast"]
    asUser = {"cwd": str(server.pgdata)}
    if server.system_user is not None:
        asUser.update(user=server.system_user, group=server.system_user, extra_groups=[])
    pidFile = server.pgdata / "postmaster.pid"
    pid = pidFile.read_text().split()[0]
    try:
        yield {"dsn": server.get_uri(), "restartCommand": [*control, "restart"], "asUser": asUser}
    finally:
        if pidFile.read_text().split()[0] != pid:  # its package knows the first process only
            subprocess.run([*control, "stop"], check=True, stdout=subprocess.DEVNULL, **asUser)


def make(environment, server, root, faults, say=print):
    """Run the faults in the environment, with what restartable gives; return what was seen."""
    def variablesOf(subject):
        path = [environment.former, root] if subject == FORMER else [root]
        return {"PYTHONPATH": os.pathsep.join(map(str, path))}

    versions = environment.packages()
    versions["CPython"] = environment.versionInFull
    versions["queuepool"] = environment.ask(
        "import queuepool; print(queuepool.__version__)").strip()
    versions["former"] = json.loads(environment.ask(
        "import importlib.metadata as m, json; print(json.dumps([d.version for d in "
        f"m.distributions(path=[{str(environment.former)!r}])]))"))[0]
    versions["PostgreSQL"] = environment.ask(
        f"import psycopg2; conn = psycopg2.connect({server['dsn']!r}); cursor = conn.cursor(); "
        "cursor.execute('show server_version'); print(cursor.fetchone()[0])").strip()
    say("features")
    found = features.lookUp(environment.python, variablesOf, environment.folder)
    say("faults")
    return {"versions": versions, "features": found,
            "faults": runAll(environment.python, {**THOROUGH, **server}, variablesOf,
                             environment.folder, faults, say)}


def write(folder, found):
    """Write what was seen, and what was seen before of the other faults."""
    folder.mkdir(parents=True, exist_ok=True)
    if not {fault for fault in FAULTS if callable(FAULTS[fault].run)} <= found["faults"].keys():
        before = json.loads((folder / "faults.json").read_text(encoding="utf-8"))
        if before["versions"] != found["versions"]:
            raise SystemExit("the other faults were seen of other versions: run all")
        found["faults"] = before["faults"] | found["faults"]
    (folder / "faults.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / "faults.md").write_text("\n\n".join(describe(found)) + "\n", encoding="utf-8")


if __name__ == "__main__":  # the tables of what is written already
    from tests.benchmarks.report import RESULTS

    write(RESULTS, json.loads((RESULTS / "faults.json").read_text(encoding="utf-8")))
