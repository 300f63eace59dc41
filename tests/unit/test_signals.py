"""dumpOnSignal: in processes of their own, all of whose threads are stuck."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from queuepool import dumpOnSignal
from tests.helpers import hasGil

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="there are no such signals")

PROLOGUE = """
import contextlib, gc, os, signal, sys, threading, time
from queuepool import Pool, PoolTimeout, dumpOnSignal
from tests.helpers import *
"""


def run(program, *options, timeout=60):
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", *options, "-c",
         PROLOGUE + textwrap.dedent(program)], capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return done


STUCK = """
dumpOnSignal(signal.SIGUSR1)
pool, other = (Pool(name, 2, factory=PlainResource) for name in ("one", "other"))
pool.startRecycler(60)
taken = [other.take()]

def getStuck():
    with pool.take():
        with pool.take():
            pass

threads = [threading.Thread(target=getStuck, name=f"stuck-{number}", daemon=True)
           for number in range(2)]
real = pool.take
both = threading.Barrier(2)

def takeTogether():
    resource = real()
    if threading.current_thread() not in had:
        had.add(threading.current_thread())
        both.wait(PATIENCE)
    return resource

had = set()
pool.take = takeTogether
for thread in threads:
    thread.start()
awaitWaiting(pool, 2)

def send():
    awaitWaiting(pool, 3)
    os.kill(os.getpid(), signal.SIGUSR1)
    # The next one comes when the handler of the first has returned, and main waits on.
    os.kill(os.getpid(), signal.SIGUSR1)

threading.Thread(target=send, daemon=True).start()
with contextlib.suppress(PoolTimeout):
    real(timeout=1.0)
print("main is whole")
"""


def test_all_threads_are_stuck_and_the_main_one_too():
    done = run(STUCK)
    assert done.stdout == "main is whole\n"
    err = done.stderr
    assert err.count("pool 'one': nested") in (1, 2) and "pool 'other': all is well" in err
    assert "checked out 2, idle 0, open 2, waiting 3" in err
    for name in "stuck-0", "stuck-1":
        assert name in err
    if hasGil():  # else nobody looks at the frames of other threads
        assert err.count("in takeTogether") >= 2 and "in <module>" in err


def test_into_a_file_and_nothing_to_stderr(tmp_path):
    path = tmp_path / "reports"
    path.write_text("before\n")
    done = run(f"""
        file = open({str(path)!r}, "a", encoding="ascii")
        dumpOnSignal(signal.SIGUSR1, file)
        pool = Pool("Größe \\udc80 \\u6e2c", 1, factory=PlainResource)
        with pool.take():
            for _ in range(3):
                signal.raise_signal(signal.SIGUSR1)
        """)
    assert done.stderr == ""
    text = path.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.count("checked out 1") == 3
    assert "Größe" in text


def test_asked_for_again_it_still_writes_once():
    done = run("""
        signal.signal(signal.SIGUSR1, lambda *_: print("before", file=sys.stderr))
        for _ in range(3):
            dumpOnSignal(signal.SIGUSR1)
        pool = Pool("p", 1, factory=PlainResource)
        signal.raise_signal(signal.SIGUSR1)
        """)
    assert done.stderr.count("pool 'p'") == 1 and done.stderr.count("before") == 1


@pytest.mark.parametrize("number", ["None", "'2'"])
def test_what_is_no_file_of_the_system_is_refused(number):
    done = run(f"""
        class File:
            fileno = lambda self: {number}
        try:
            dumpOnSignal(signal.SIGUSR1, File())
        except ValueError as error:
            print(error)
        """)
    assert "fileno() must be an int" in done.stdout


def test_a_file_that_nobody_else_keeps_stays_open(tmp_path):
    """Else the number of its descriptor would be that of something else, as of a connection."""
    path = tmp_path / "reports"
    done = run(f"""
        dumpOnSignal(signal.SIGUSR1, open({str(path)!r}, "w"))
        gc.collect()
        another = open({str(tmp_path / "another")!r}, "w")
        pool = Pool("p", 1, factory=PlainResource)
        signal.raise_signal(signal.SIGUSR1)
        another.close()
        """, "-W", "ignore")
    assert done.stderr == ""
    assert (tmp_path / "another").read_text() == ""
    assert "pool 'p'" in path.read_text()


def test_into_a_file_that_was_closed_it_writes_nowhere(tmp_path):
    run(f"""
        file = open({str(tmp_path / "reports")!r}, "w")
        dumpOnSignal(signal.SIGUSR1, file)
        file.close()
        another = open({str(tmp_path / "another")!r}, "w")
        pool = Pool("p", 1, factory=PlainResource)
        signal.raise_signal(signal.SIGUSR1)
        another.close()
        """)
    assert (tmp_path / "another").read_text() == ""


def test_without_a_pool_it_says_so_and_a_pool_that_is_gone_is_not_told():
    done = run("""
        dumpOnSignal(signal.SIGUSR1)
        pool = Pool("gone", 1, factory=PlainResource)
        del pool
        gc.collect()
        signal.raise_signal(signal.SIGUSR1)
        """)
    assert done.stderr == "no queuepool\n"


def test_pools_are_told_in_the_order_in_which_they_were_made():
    done = run("""
        dumpOnSignal(signal.SIGUSR1)
        pools = [Pool(name, 1, factory=PlainResource) for name in "zay"]
        signal.raise_signal(signal.SIGUSR1)
        """)
    assert [line.split()[1] for line in done.stderr.splitlines() if line.startswith("pool")] == [
        "'z':", "'a':", "'y':"]


@pytest.mark.parametrize("before, said", [
    ("lambda number, frame: print('before', number == signal.SIGUSR1, frame is not None)",
     "before True True\n"),
    ("signal.SIG_IGN", ""), ("signal.SIG_DFL", "")])
def test_the_handler_of_before_is_called_too(before, said):
    done = run(f"""
        signal.signal(signal.SIGUSR1, {before})
        dumpOnSignal(signal.SIGUSR1)
        pool = Pool("p", 1, factory=PlainResource)
        signal.raise_signal(signal.SIGUSR1)
        """)
    assert done.stdout == said and "pool 'p': all is well" in done.stderr


def test_what_the_handler_of_before_raises_reaches_the_program():
    done = run("""
        dumpOnSignal(signal.SIGINT)
        pool = Pool("p", 1, factory=PlainResource)
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            print("interrupted")
        """)
    assert done.stdout == "interrupted\n" and "pool 'p'" in done.stderr


def test_a_stderr_that_is_closed_or_full_harms_nothing():
    done = run("""
        dumpOnSignal(signal.SIGUSR1)
        pool = Pool("p", 1, factory=PlainResource)
        os.close(2)
        signal.raise_signal(signal.SIGUSR1)
        with pool.take():
            pass
        checkWhole(pool)
        print("whole")
        """)
    assert done.stdout == "whole\n"


def test_a_report_that_fails_does_not_break_the_program_it_interrupts():
    done = run("""
        dumpOnSignal(signal.SIGUSR1)
        def clock():
            if isBroken:
                raise ValueError
            return 1.0
        isBroken = False
        broken = Pool("broken", 1, factory=PlainResource, clock=clock)
        pool = Pool("p", 1, factory=PlainResource)
        isBroken = True
        signal.raise_signal(signal.SIGUSR1)
        """)
    assert "pool 'p': all is well" in done.stderr


@pytest.mark.parametrize("kind", ["PlainResource", "FakeResource"])
def test_a_signal_at_any_moment_of_takes_and_puts_harms_nothing(kind):
    """The main thread is interrupted two hundred times, wherever it is."""
    done = run(f"""
        received = []
        signal.signal(signal.SIGUSR1, lambda *_: received.append(None))
        dumpOnSignal(signal.SIGUSR1)
        world = World()
        pool = Pool("p", 3, factory=lambda name: {kind}(name, world), maxUsageCount=5)
        stop = threading.Event()

        def work():
            while not stop.is_set():
                with pool.take(PATIENCE):
                    pass

        def send():
            for number in range(200):
                os.kill(os.getpid(), signal.SIGUSR1)
                awaitTrue(lambda: len(received) > number)
            stop.set()

        running = [start(work) for _ in range(3)] + [start(send)]
        takes = 0
        while not stop.is_set() or takes <= 200:
            with pool.take(PATIENCE):
                with contextlib.suppress(PoolTimeout):
                    pool.put(pool.take(timeout=0.001))
                takes += 1
        for each in running:
            each.result()
        assert len(received) == 200
        checkWhole(pool, world)
        checkClosed(pool, world)
        print("whole")
        """)
    assert done.stdout == "whole\n"
    assert done.stderr.count("pool 'p': ") == 200


def test_it_can_be_asked_for_in_the_main_thread_only():
    from tests.helpers import start
    with pytest.raises(ValueError, match="main thread"):
        start(dumpOnSignal, signal.SIGUSR1).result()
    with pytest.raises((OSError, ValueError)):
        dumpOnSignal(10_000)
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    assert os.getpid()
