"""What the tests share: a clock that stands still, a resource that does as told, gates."""

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
import weakref

from queuepool import Resource

#: Seconds after which a test that waits for another thread is given up. Never reached in a
#: test that passes.
PATIENCE = 30.0


class FakeClock:
    """Be a clock that moves only when told to."""

    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now

    def advance(self, seconds):
        self.now += seconds


class Handle:
    """Be what a FakeResource opens; as a driver's connection, it ends when it is collected."""

    isOpen = True


class World:
    """Keep account of all that FakeResources opened, and of what went wrong with it."""

    def __init__(self):
        self.opened = 0
        self.closed = 0
        self.wrongs = []
        self._live = weakref.WeakSet()

    @property
    def live(self):
        """How many handles are open: neither closed nor collected."""
        return len(self._live)

    def open(self):
        handle = Handle()
        self._live.add(handle)
        self.opened += 1
        return handle

    def close(self, handle):
        # Not whether it is among the live: of what a resource in garbage refers to, the collector
        # clears the weak references before the finalizer brings the resource back.
        if not handle.isOpen:
            self.wrongs.append("closed what was not open")
        handle.isOpen = False
        self._live.discard(handle)
        self.closed += 1


class Gate:
    """Hold up whoever passes until it is opened; tell when somebody stands before it."""

    def __init__(self):
        self.arrived = threading.Semaphore(0)
        self._opened = threading.Event()

    def __call__(self):
        self.arrived.release()
        assert self._opened.wait(PATIENCE), "nobody opened the gate"

    def awaitArrival(self):
        assert self.arrived.acquire(timeout=PATIENCE), "nobody came to the gate"

    def open(self):
        self._opened.set()


class FakeResource(Resource):
    """Do in each hook what its script says, one entry a call: an exception to raise, or a call.

    ``script`` maps a hook's name to a list; an entry may be None (do the usual), an exception
    (raise it, before anything is done) or a callable (call it first). Without entries the hooks
    do the usual. A world keeps account.
    """

    def __init__(self, name, world=None, **script):
        super().__init__(name)
        self.world = world or World()
        self.script = {hook: list(entries) for hook, entries in script.items()}
        self.calls = []

    def _play(self, hook):
        self.calls.append(hook)
        entries = self.script.get(hook)
        entry = entries.pop(0) if entries else None
        if isinstance(entry, BaseException) or isinstance(entry, type):
            raise entry
        if entry is not None:
            entry()

    def open(self):
        self._play("open")
        if self.resource is not None:
            self.world.wrongs.append("opened twice")
        self.resource = self.world.open()
        super().open()

    def close(self):
        handle, self.resource = self.resource, None
        if handle is not None:
            self.world.close(handle)
        self._play("close")
        super().close()

    def takeRepair(self):
        self._play("takeRepair")

    def putRepair(self):
        self._play("putRepair")


class PlainResource(Resource):
    """Open and close, without repair hooks: what takes the short way through take and put."""

    def __init__(self, name, world=None):
        super().__init__(name)
        self.world = world or World()

    def open(self):
        self.resource = self.world.open()
        super().open()

    def close(self):
        handle, self.resource = self.resource, None
        self.world.close(handle)
        super().close()


def hasGil():
    """Tell whether one thread at a time runs Python code."""
    return getattr(sys, "_is_gil_enabled", lambda: True)()


def start(target, *args):
    """Run target in a thread of its own; ``result()`` waits for it and raises what it raised."""
    return Running(target, args)


class Running:
    def __init__(self, target, args):
        self._outcome = None
        self._error = None
        self.thread = threading.Thread(target=self._run, args=(target, args), daemon=True)
        self.thread.start()

    def _run(self, target, args):
        try:
            self._outcome = target(*args)
        except BaseException as error:
            self._error = error

    def result(self, timeout=PATIENCE):
        self.thread.join(timeout)
        assert not self.thread.is_alive(), "the thread hangs"
        if self._error is not None:
            raise self._error
        return self._outcome


def runTogether(*targets):
    """Run each target in a thread, all from the same instant; return what they returned."""
    barrier = threading.Barrier(len(targets))

    def run(target):
        barrier.wait(PATIENCE)
        return target()

    return [running.result() for running in [start(run, target) for target in targets]]


def interruptOften(call, check, times=300):
    """Make a call again and again, until a signal handler raises; then check. So many times."""
    class Interrupt(Exception):
        pass

    def raiseIt(*_):
        hasRaised.append(True)
        raise Interrupt

    # Not in the with block itself: CPython 3.13 leaves the jump of the loop out of it.
    def callAgainAndAgain():
        while not hasRaised:  # in a finalizer what is raised gets lost
            call()

    hasRaised = []
    before = signal.signal(signal.SIGALRM, raiseIt)
    try:
        for _ in range(times):
            hasRaised.clear()
            with contextlib.suppress(Interrupt):
                signal.setitimer(signal.ITIMER_REAL, 0.0005)
                callAgainAndAgain()
            check()
    finally:
        signal.signal(signal.SIGALRM, before)


def inChild(work):
    """Run work in a forked child; tell whether it came to its end there, and raised nothing."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(30)  # a child that hangs is ended
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def openAll(pool):
    """Open all of a pool; return them, the least recently used first."""
    taken = [pool.take() for _ in range(pool.capacity)]
    for resource in taken:
        pool.put(resource)
    return taken


def awaitWaiting(pool, count):
    """Wait until that many threads stand in the pool's line."""
    awaitTrue(lambda: pool.stats().waiting == count)


def awaitTrue(condition, patience=PATIENCE):
    """Wait until the condition holds; for what only another thread can bring about."""
    for _ in range(int(patience / 0.001)):
        if condition():
            return
        time.sleep(0.001)
    raise AssertionError("it never came true")


def checkWhole(pool, world=None):
    """Check that no slot is lost: all can be taken at once; leaves them put back."""
    stats = pool.stats()
    assert stats.taken == 0 and stats.waiting == 0, stats
    assert stats.idle == stats.capacity, stats
    with contextlib.ExitStack() as stack:
        # With the time to replace what has expired, on a machine that is busy.
        taken = [pool.take(timeout=2.0) for _ in range(pool.capacity)]
        for resource in taken:
            stack.callback(pool.put, resource)
        assert len(set(map(id, taken))) == pool.capacity
        assert all(resource.isOpen for resource in taken)
        if world is not None:
            assert world.live == pool.capacity
    if world is not None:
        assert not world.wrongs, world.wrongs


def checkClosed(pool, world=None):
    """Close the pool and check that nothing is left open."""
    assert pool.close() == 0
    stats = pool.stats()
    assert stats.opens == stats.closes, stats
    assert stats.open == stats.idle == stats.taken == 0, stats
    if world is not None:
        assert world.live == 0
        assert not world.wrongs, world.wrongs
