"""Run the tests: ``python -m tests.run`` with any arguments of pytest.

Those marked ``alone``, which measure time or throughput, run first, one at a time; and what that
process compiles, no other has to. Most of the others wait most of the time, so three run at a time
for each processor, at most twelve.
What failed, in company or because something else kept the machine busy, runs once more by itself,
which then decides: what fails again is a failure, and what does not is told at the end. A crash of
the interpreter is a failure in any case.
"""

import os
import subprocess
import sys

OK, FAILED, NONE = 0, 1, 5

#: Each process has a PostgreSQL server of its own.
MOST_PROCESSES = 12


def pytest(*arguments):
    command = [sys.executable, "-m", "pytest", *arguments]
    print("$", *command[1:], flush=True)
    return subprocess.call(command)


def main(arguments):
    canTell = hasattr(os, "sched_getaffinity")
    processors = len(os.sched_getaffinity(0)) if canTell else os.cpu_count() or 1
    processes = str(min(3 * processors, MOST_PROCESSES))
    codes = [pytest("-m", "alone", *arguments),
             pytest("-m", "not alone", "-n", processes, "--dist", "worksteal", *arguments)]
    worst = next((code for code in codes if code not in (OK, FAILED, NONE)), None)
    if worst is not None:
        return worst
    if FAILED not in codes:
        return min(codes)
    again = pytest("--last-failed", "--last-failed-no-failures", "none", *arguments)
    if again == OK:
        print("All that failed has passed by itself.", flush=True)
    return again


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
