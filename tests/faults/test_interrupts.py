"""An interruption at any line of the package loses no slot, leaks nothing, forgets no waiter.

Each case is run once for every line that it executes inside the package, and a KeyboardInterrupt
is raised before that line. The user lets go of all that was in his hands then; after that all
slots have to be there, and whoever waits has to be served.

Then each case is run once for every call at which CPython looks for signals, while something
else refers to all resources, so that none comes back by being dropped.
"""

import contextlib
import functools
import gc
import inspect
import itertools
import linecache
import logging
import os
import sys
import threading
import warnings

import pytest

import queuepool
from queuepool import Pool, PoolClosed, PoolError, PoolTimeout
from tests.helpers import (FakeClock, FakeResource, PlainResource, World, awaitTrue, awaitWaiting,
                           checkWhole, hasGil, start)

PACKAGE = os.path.dirname(queuepool.__file__) + os.sep
CAPACITY = 3
#: Seconds until a waiter counts as forgotten. Nobody waits that long in a test that passes.
FORGOTTEN = 5.0


class Interrupter:
    """Raises KeyboardInterrupt in this thread, before the line of the package with this number.

    With ``isExact`` at the entry of a function, or after a call of what is not the package's, with
    this number. There CPython looks for signals; between two lines without a call it does not.
    """

    def __init__(self, number, isExact=False):
        self.left = number
        self.isExact = isExact
        self.where = None
        #: The resource whose put was interrupted before it began, if it was one.
        self.unput = None
        self._entered = set()

    def __enter__(self):
        if self.isExact:
            sys.setprofile(self._stepCall)
        else:
            sys.settrace(self._enterFrame)

    def __exit__(self, *_):
        sys.settrace(None)
        sys.setprofile(None)
        self._entered.clear()

    def _stepCall(self, frame, event, arg):
        if isOurs(frame) and event in ("call", "c_return"):
            self._pass(frame)
        elif event == "return" and isOurs(frame.f_back) and not isOurs(frame):
            self._pass(frame.f_back)

    def _enterFrame(self, frame, event, arg):
        return self._stepLine if isOurs(frame) else None

    def _stepLine(self, frame, event, arg):
        if event == "line" and not self._leavesWith(frame):
            self._pass(frame)
        return self._stepLine

    def _pass(self, frame):
        if self.where is not None:
            return
        if self.left == 0:
            self.where = (f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno} "
                          f"{frame.f_code.co_name}")
            if self.isExact:
                self.unput = resourceToPut(frame)
            self._entered.clear()
            sys.settrace(None)
            sys.setprofile(None)
            raise KeyboardInterrupt
        self.left -= 1

    def _leavesWith(self, frame):
        """Tell whether a block or a lock is just left: a line event, but no signal comes there.

        Between the end of the block and the call of __exit__, or of release, there is no signal
        point.
        """
        line = lineOf(frame.f_code.co_filename, frame.f_lineno)
        if line in ("if isHeld:", "self._lock.release()"):
            return True
        if not line.startswith("with "):
            return False
        if (frame, frame.f_lineno) in self._entered:
            return True
        self._entered.add((frame, frame.f_lineno))
        return False


@functools.cache
def lineOf(path, number):
    return linecache.getline(path, number).strip()


def isOurs(frame):
    return frame is not None and frame.f_code.co_filename.startswith(PACKAGE)


def resourceToPut(frame):
    """Return the resource if this is the beginning of its put, where no try is reached yet.

    Whoever has it puts it again. In a with statement nobody can: that is CPython's own window,
    which it opens for signals at the entry of each function, also of ``__exit__``.
    """
    code = frame.f_code
    if code.co_name not in ("put", "__exit__"):
        return None
    lines = itertools.takewhile(lambda line: line.strip() != "try:",
                                inspect.getsourcelines(code)[0])
    if frame.f_lineno >= code.co_firstlineno + len(list(lines)):
        return None
    return frame.f_locals["resource" if code.co_name == "put" else "self"]


class RefusingWorld(World):
    """A world in which nothing can be opened while it refuses."""

    refuses = False

    def open(self):
        if self.refuses:
            raise ValueError
        return super().open()


class Stage:
    """A pool and what one case does with it."""

    def __init__(self, kind, keeps=False):
        self.world = RefusingWorld()
        self.clock = FakeClock()
        self.kind = kind
        #: Refers to every resource if ``keeps``: none ever ends by being dropped.
        self.kept = []
        self.keeps = keeps
        self.pool = self.makePool()
        self.acted = threading.Event()
        self.helpers = []

    def makePool(self):
        return Pool("p", CAPACITY, 10.0, factory=self.build, clock=self.clock)

    def build(self, name):
        resource = self.kind(name, self.world)
        if self.keeps:
            self.kept.append(resource)
        return resource

    def countOut(self):
        """Return how many are in the hands of somebody."""
        return len(self.pool._queue.members) - self.pool._queue.qsize()

    def collect(self, out):
        """Have what was dropped come back, also what is in a cycle. So many are not dropped.

        Without the GIL a collection walks over the whole heap, over what is frozen, too. So none is
        made there if nothing is missing.
        """
        if hasGil() or self.countOut() > out or self.world.live > self.pool.stats().open:
            gc.collect()

    def makeUp(self):
        """Do what an application does when a slot is missing."""
        # What was interrupted while it was brought back is found by recycle.
        if self.pool.stats().idle < CAPACITY:
            for _ in range(2):
                self.pool.recycle()

    def putAgain(self, resource):
        """Do what an application does that was interrupted before its put began."""
        with contextlib.suppress(PoolError):
            self.pool.put(resource)

    def openAll(self):
        with contextlib.ExitStack() as stack:
            for _ in range(CAPACITY):
                stack.callback(self.pool.put, self.pool.take(timeout=0))

    def help(self, target, *args):
        """Let another thread do its part of the case."""
        self.helpers.append(start(target, *args))

    def standInLine(self):
        """Let another thread wait for a resource, and give it back when it has one."""
        def wait():
            with self.pool.take(timeout=FORGOTTEN):
                pass

        self.help(wait)
        awaitTrue(lambda: self.pool._queue.waiters)  # calls nothing that is interrupted

    def awaitHelpers(self):
        for helper in self.helpers:
            helper.result(2 * FORGOTTEN)

    def whenSomebodyWaits(self, action):
        """Let another thread do this when the case stands in line, or is over without that."""
        def watch():
            awaitTrue(lambda: self.acted.is_set() or self.pool._queue.waiters)
            action()

        self.help(watch)


class SeededStage(Stage):
    """A stage whose pool has no factory: it keeps all its members."""

    def makePool(self):
        pool = Pool("p", CAPACITY, 10.0, clock=self.clock)
        for number in range(CAPACITY):
            pool.put(self.build(f"s-{number}"))
        return pool


# Each case is a generator: it prepares, yields what is interrupted, and tidies up behind it as
# an application does that lets go of everything. What it still refers to when it yields is
# what an application's frame would refer to; it ends before the slots are counted.


def takeOpen(stage):
    stage.openAll()
    yield lambda: stage.pool.put(stage.pool.take())


def takeClosed(stage):
    yield lambda: stage.pool.put(stage.pool.take())


def takeExpired(stage):
    stage.openAll()
    stage.clock.advance(11.0)
    yield lambda: stage.pool.put(stage.pool.take())


def takeVacant(stage):
    stage.pool.resize(CAPACITY + 1)
    stage.pool.resize(CAPACITY)
    for _ in range(CAPACITY):
        stage.pool.take()
    yield lambda: stage.pool.put(stage.pool.take())


def takeWhileOpenFails(stage):
    def act():
        with contextlib.suppress(ValueError):
            stage.pool.take()

    stage.world.refuses = True
    yield act
    stage.world.refuses = False


def takeWaiting(stage):
    taken = [stage.pool.take() for _ in range(CAPACITY)]
    stage.whenSomebodyWaits(lambda: [stage.pool.put(taken.pop()) for _ in range(CAPACITY)])
    yield lambda: stage.pool.put(stage.pool.take(FORGOTTEN))


def takeWaitingInVain(stage):
    def act():
        with contextlib.suppress(PoolTimeout):
            stage.pool.take(timeout=0.001)

    taken = [stage.pool.take() for _ in range(CAPACITY)]
    yield act
    while taken:
        stage.pool.put(taken.pop())


def takeWaitingInAnOverlookedPlace(stage):
    def overlook():
        if stage.pool._queue.waiters:
            stage.pool._queue.waiters.popleft()
        while taken:
            stage.pool.put(taken.pop())

    taken = [stage.pool.take() for _ in range(CAPACITY)]
    stage.whenSomebodyWaits(overlook)
    yield lambda: stage.pool.put(stage.pool.take(FORGOTTEN))


def takeWaitingUntilItIsClosed(stage):
    def act():
        with contextlib.suppress(PoolClosed):
            stage.pool.take(FORGOTTEN)

    taken = [stage.pool.take() for _ in range(CAPACITY)]
    stage.whenSomebodyWaits(stage.pool.close)
    yield act
    while taken:
        stage.pool.put(taken.pop())


def put(stage):
    resource = stage.pool.take()
    yield lambda: stage.pool.put(resource)


def putWithAWaiter(stage):
    taken = [stage.pool.take() for _ in range(CAPACITY)]
    stage.standInLine()
    yield lambda: stage.pool.put(taken.pop())
    stage.awaitHelpers()
    while taken:
        stage.pool.put(taken.pop())


def putExpired(stage):
    resource = stage.pool.take()
    stage.pool.invalidate()
    yield lambda: stage.pool.put(resource)


def putExpiredWithAWaiter(stage):
    taken = [stage.pool.take() for _ in range(CAPACITY)]
    stage.pool.invalidate()
    stage.standInLine()
    yield lambda: stage.pool.put(taken.pop())
    stage.awaitHelpers()
    while taken:
        stage.pool.put(taken.pop())


def putIntoAClosedPool(stage):
    resource = stage.pool.take()
    stage.pool.close()
    yield lambda: stage.pool.put(resource)


def putWhatIsAwaitedByClose(stage):
    resource = stage.pool.take()
    stage.help(stage.pool.close, None)  # hangs when it is not told of the end
    awaitTrue(lambda: stage.pool.closed)
    yield lambda: stage.pool.put(resource)


def withBlock(stage):
    def act():
        with stage.pool.take():
            pass

    stage.openAll()
    yield act


def withException(stage):
    def act():
        with contextlib.suppress(ValueError):
            with stage.pool.take():
                raise ValueError

    stage.openAll()
    yield act


def withExceptionAndAWaiter(stage):
    def act():
        with contextlib.suppress(ValueError):
            with taken.pop():
                raise ValueError

    taken = [stage.pool.take() for _ in range(CAPACITY)]
    stage.standInLine()
    yield act
    stage.awaitHelpers()
    while taken:
        stage.pool.put(taken.pop())


def recycle(stage):
    stage.openAll()
    stage.clock.advance(11.0)
    yield stage.pool.recycle


def recycleWithMinOpen(stage):
    stage.pool.minOpen = 2
    stage.openAll()
    stage.clock.advance(11.0)
    yield stage.pool.recycle


def recycleWithSomethingOverdue(stage):
    stage.pool.leakTime = 5.0
    resource = stage.pool.take()
    stage.clock.advance(11.0)
    yield stage.pool.recycle
    stage.pool.put(resource)


def recycleWhileOneWaits(stage):
    """The waiter comes while the recycler has the only one that is not taken in hand."""
    taken = [stage.pool.take() for _ in range(CAPACITY)]
    letAWaiterComeAtClose(stage, taken[-1])
    stage.pool.put(taken.pop())
    stage.clock.advance(11.0)
    yield stage.pool.recycle
    stage.awaitHelpers()
    while taken:
        stage.pool.put(taken.pop())


def letAWaiterComeAtClose(stage, resource):
    def closeSlowly():
        if not (stage.acted.is_set() or stage.helpers):
            stage.standInLine()
        closeIt()

    closeIt = resource.close
    resource.close = closeSlowly


def invalidate(stage):
    stage.openAll()
    resource = stage.pool.take()
    yield stage.pool.invalidate
    stage.pool.put(resource)


def close(stage):
    stage.openAll()
    yield stage.pool.close


def closeWithSomethingTaken(stage):
    stage.openAll()
    resource = stage.pool.take()
    yield stage.pool.close
    stage.pool.put(resource)


def closeWithAWaiter(stage):
    def wait():
        with pytest.raises(PoolClosed):
            stage.pool.take(FORGOTTEN)

    taken = [stage.pool.take() for _ in range(CAPACITY)]
    stage.help(wait)
    awaitWaiting(stage.pool, 1)
    yield stage.pool.close
    stage.pool.close()  # again: an interrupted close may not have begun
    stage.awaitHelpers()
    while taken:
        stage.pool.put(taken.pop())


def closeWaiting(stage):
    resource = stage.pool.take()
    yield lambda: stage.pool.close(timeout=0.001)
    stage.pool.put(resource)


def shrink(stage):
    stage.openAll()
    yield lambda: stage.pool.resize(1)
    stage.pool.resize(1)
    assert stage.pool.stats().idle == 1
    stage.pool.resize(CAPACITY)


def shrinkAndPut(stage):
    taken = [stage.pool.take() for _ in range(CAPACITY)]
    stage.pool.resize(1)

    def act():
        while taken:
            stage.pool.put(taken.pop())

    yield act
    while taken:
        stage.pool.put(taken.pop())
    stage.collect(0)
    stage.pool.recycle()
    assert stage.pool.stats().idle == 1
    stage.pool.resize(CAPACITY)


def grow(stage):
    stage.pool.resize(1)
    yield lambda: stage.pool.resize(CAPACITY)
    stage.pool.resize(CAPACITY)


def growWithAWaiter(stage):
    stage.pool.resize(1)
    resource = stage.pool.take()
    stage.standInLine()
    yield lambda: stage.pool.resize(CAPACITY)
    stage.pool.resize(CAPACITY)
    stage.awaitHelpers()
    stage.pool.put(resource)


def startAndStopRecycler(stage):
    def act():
        stage.pool.startRecycler(1000.0)
        stage.pool.stopRecycler()

    yield act
    stage.pool.stopRecycler()


def drop(stage):
    taken = [stage.pool.take()]
    yield taken.clear


def dropWithAWaiter(stage):
    taken = [stage.pool.take() for _ in range(CAPACITY)]
    stage.standInLine()
    yield taken.pop
    stage.awaitHelpers()
    while taken:
        stage.pool.put(taken.pop())


CASES = [takeOpen, takeClosed, takeExpired, takeVacant, takeWhileOpenFails, takeWaiting,
         takeWaitingInVain, takeWaitingInAnOverlookedPlace, takeWaitingUntilItIsClosed,
         put, putWithAWaiter, putExpired, putExpiredWithAWaiter, putIntoAClosedPool,
         putWhatIsAwaitedByClose, withBlock, withException, withExceptionAndAWaiter,
         recycle, recycleWithMinOpen, recycleWithSomethingOverdue, recycleWhileOneWaits,
         invalidate, close, closeWithSomethingTaken, closeWithAWaiter, closeWaiting,
         shrink, shrinkAndPut, grow, growWithAWaiter, startAndStopRecycler, drop, dropWithAWaiter]


DROPPING_CASES = [takeVacant, drop, dropWithAWaiter]
#: No repair hook runs in these: a plain resource goes through the same lines as one with hooks.
CASES_WITHOUT_HOOKS = [takeWaitingInVain, takeWaitingUntilItIsClosed, recycle,
                       recycleWithSomethingOverdue, recycleWhileOneWaits, invalidate, close,
                       closeWithSomethingTaken, shrink]


def seed(stage):
    stage.pool.resize(CAPACITY - 1)
    stage.pool.resize(CAPACITY)
    resource = stage.build("seed")
    yield lambda: stage.pool.put(resource)
    with contextlib.suppress(PoolError):
        stage.pool.put(resource)  # once more: either it was put, or it can be


SEEDED_CASES = [takeOpen, takeClosed, takeExpired, put, putExpired, withBlock, recycle, invalidate,
                seed]


def actInterrupted(act, interrupter):
    with contextlib.suppress(KeyboardInterrupt), interrupter:
        act()


def interrupt(case, kind, number, makeStage, keeps):
    """Run a case, interrupted before this line, and check that all is there afterwards.

    Returns where that was (None if it has fewer lines) and what went wrong.
    """
    stage = makeStage(kind, keeps)
    interrupter = Interrupter(number, isExact=keeps)
    acting = case(stage)
    act = next(acting)
    out = stage.countOut()
    running = start(actInterrupted, act, interrupter)
    del act
    try:
        running.result(FORGOTTEN)
        stage.acted.set()
        stage.collect(out)
        if interrupter.unput is not None:
            stage.putAgain(interrupter.unput)
        assert next(acting, None) is None
        stage.awaitHelpers()
        stage.collect(0)
        if not stage.pool.closed:
            stage.makeUp()
            checkWhole(stage.pool, stage.world)
        checkAllClosed(stage.pool, stage.world)
    except BaseException as error:
        return interrupter.where, f"{type(error).__name__}: {error}"
    return interrupter.where, None


@pytest.mark.parametrize("case, makeStage, kind, keeps", [
    pytest.param(case, makeStage, kind, keeps, id="-".join(
        [case.__name__, makeStage.__name__, kind.__name__] + ["kept"] * keeps))
    for makeStage, cases in [(Stage, CASES), (SeededStage, SEEDED_CASES)] for case in cases
    for kind in ([] if case in CASES_WITHOUT_HOOKS else [PlainResource]) + [FakeResource]
    # What somebody else refers to is not dropped.
    for keeps in ([False] if case in DROPPING_CASES else [False, True])])
def test_interruption_at_every_line(case, makeStage, keeps, kind, quietly):
    points, losses = interruptEverywhere(case, kind, makeStage, keeps)
    print(f"{points} interruptions, {points - len(losses)} survived")
    assert not losses, "\n".join(losses)
    assert points > 3


def checkAllClosed(pool, world):
    assert pool.close() == 0
    stats = pool.stats()
    assert stats.open == stats.idle == stats.taken == stats.waiting == 0, stats
    assert world.live == 0
    assert not world.wrongs, world.wrongs
    # What was interrupted in the middle of counting may be uncounted.
    assert abs(stats.opens - stats.closes) <= 1, stats


def interruptEverywhere(case, kind, makeStage, keeps):
    points, losses = 0, []
    while True:
        where, loss = interrupt(case, kind, points, makeStage, keeps)
        if loss is not None:
            losses.append(f"{case.__name__}, interrupted at {where}: {loss}")
        if where is None:
            return points, losses
        points += 1


@pytest.fixture
def quietly(monkeypatch, caplog):
    """Keep the garbage of other tests out of the collections, and silence what is dropped."""
    # Those who wait look every second for what others forgot: no need to wait that long here.
    monkeypatch.setattr(queuepool.core.idle, "LOOK_AGAIN_TIME", 0.02)
    caplog.set_level(logging.CRITICAL, "queuepool")
    gc.collect()
    gc.freeze()
    # An interruption of a finalizer goes here.
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
