"""How many signals cost a slot: ``python -m tests.benchmarks.signals [SIGNALS]``.

A signal handler raises in a loop of with blocks. The resources are referred to elsewhere or not,
and the body of the block does nothing, or works for some microseconds. A slot is lost if it cannot
be taken afterwards though the exception was dropped.
"""

import platform
import signal
import sys
import time

from queuepool import Pool, PoolTimeout, Resource

CAPACITY = 2  # see isWhole


class Interruption(BaseException):
    """Raised by the signal handler."""


class Kept(Resource):
    """A resource that something else refers to."""

    kept: list["Kept"] = []

    def __init__(self, name):
        super().__init__(name)
        self.kept.append(self)


def interrupt(signum, frame):
    raise Interruption


def loop(pool, rounds):
    """Take and put until a signal comes; ``rounds`` is the work in the block, None is none."""
    while rounds is None:
        with pool.take():
            pass
    while True:
        with pool.take():
            for _ in range(rounds):
                pass


def lostOf(signals, kind, rounds):
    """Return how many of the signals cost a slot."""
    lost, pool = 0, None
    for number in range(signals):
        if pool is None:
            pool = Pool("signals", CAPACITY, None, None, None, factory=kind)
            isWhole(pool)  # opens both
        try:
            signal.setitimer(signal.ITIMER_REAL, 3e-4 + number % 97 * 1e-6)
            loop(pool, rounds)
        except Interruption:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if not isWhole(pool):
            lost, pool = lost + 1, None
            Kept.kept.clear()
    return lost


def isWhole(pool):
    """Tell whether all resources can be taken."""
    taken = []
    try:
        taken += [pool.take(timeout=0), pool.take(timeout=0)]
    except PoolTimeout:
        return False
    while taken:
        pool.put(taken.pop())
    return True


def microseconds(rounds):
    if rounds is None:
        return 0.0
    startedAt = time.perf_counter()
    for _ in range(1000):
        for _ in range(rounds):
            pass
    return (time.perf_counter() - startedAt) * 1e3


def main():
    signals = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    signal.signal(signal.SIGALRM, interrupt)
    for rounds in None, 300:
        for kind in Kept, Resource:
            where = "referred to elsewhere" if kind is Kept else "not referred to elsewhere"
            lost = lostOf(signals, kind, rounds)
            print(f"CPython {platform.python_version()}, {microseconds(rounds):.1f} µs of work in "
                  f"the block, {where}: {lost} of {signals} signals cost a slot "
                  f"({lost / signals:.1%})", flush=True)


if __name__ == "__main__":
    main()
