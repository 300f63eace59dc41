"""Run the tests: ``python -m tests.run`` with any arguments of pytest.

Those marked ``alone``, which measure time or throughput, run first, one at a time; and what that
process compiles, no other has to. Most of the others wait most of the time, so four run at a time.
What failed in company runs once more by itself, which then decides: what fails by itself is a
failure, and what does not is told at the end. A crash of the interpreter is a failure in any case.
"""

import subprocess
import sys

OK, FAILED, NONE = 0, 1, 5


def pytest(*arguments):
    command = [sys.executable, "-m", "pytest", *arguments]
    print("$", *command[1:], flush=True)
    return subprocess.call(command)


def main(arguments):
    alone = pytest("-m", "alone", *arguments)
    inCompany = pytest("-m", "not alone", "-n", "4", "--dist", "worksteal", *arguments)
    if inCompany not in (OK, FAILED, NONE):
        return inCompany
    again = OK
    if inCompany == FAILED:
        again = pytest("-m", "not alone", "--last-failed", "--last-failed-no-failures", "none",
                       *arguments)
        if again == OK:
            print("All that failed in company has passed by itself.", flush=True)
    return next((code for code in (again, alone) if code not in (OK, NONE)),
                NONE if inCompany == alone == NONE else again)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
