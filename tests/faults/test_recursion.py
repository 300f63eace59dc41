"""A full stack, or no memory, in the middle of a take or a put loses no slot.

Each operation is run with so few frames left that it fails somewhere, once for every number of
frames up to one with which it succeeds. A program that catches the RecursionError goes on with a
whole pool.
"""

import contextlib
import gc
import itertools
import logging
import sys
import warnings
import weakref

import pytest

from queuepool import Pool, PoolError
from tests.helpers import (FakeClock, FakeResource, Handle, PlainResource, World, checkClosed,
                           checkWhole, hasGil)

CAPACITY = 3
#: With so many frames every operation succeeds. None goes deeper than eleven.
ENOUGH = 20


class FrugalWorld(World):
    """A world whose account needs no frames when a handle ends, as a WeakSet's does."""

    def __init__(self):
        super().__init__()
        self.handles = []

    @property
    def live(self):
        return sum(handle() is not None and not handle().isClosed for handle in self.handles)

    def open(self):
        handle = Handle()
        handle.isClosed = False
        self.handles.append(weakref.ref(handle))
        return handle

    def close(self, handle):
        if handle.isClosed:
            self.wrongs.append("closed what was not open")
        handle.isClosed = True


class DeepResource(FakeResource):
    """A resource whose hooks call functions of their own, as hooks do."""

    def _play(self, hook):
        self.callDeeper(super()._play, hook)

    def callDeeper(self, function, *args):
        function(*args)


class Stage:
    """A pool and what its users do with it."""

    def __init__(self, kind, isSeeded, keeps):
        self.world = FrugalWorld()
        self.clock = FakeClock()
        self.kind = kind
        self.isSeeded = isSeeded
        self.keeps = keeps
        self.kept = []
        self.pool = Pool("p", CAPACITY, 10.0, factory=None if isSeeded else self.build,
                         clock=self.clock)
        if isSeeded:
            for number in range(CAPACITY):
                self.pool.put(self.build(f"s-{number}"))

    def build(self, name):
        resource = self.kind(name, self.world)
        if self.keeps:
            self.kept.append(resource)
        return resource

    def openAll(self):
        with contextlib.ExitStack() as stack:
            for _ in range(CAPACITY):
                stack.callback(self.pool.put, self.pool.take(timeout=0))

    def check(self):
        stats = self.pool.stats()
        if hasGil() or stats.idle < CAPACITY or self.world.live > stats.open:
            gc.collect()  # without the GIL it walks over the whole heap: only if need be
        for _ in range(2):  # what a full stack kept from coming back is found by recycle
            self.pool.recycle()
        if self.isSeeded:
            assert sorted(slot.name for slot in self.pool._queue.members) == [
                f"s-{number}" for number in range(CAPACITY)]
        checkWhole(self.pool, self.world)
        checkClosed(self.pool, self.world)


def withFrames(count, act):
    """Call act with so many frames left; return what it returns, or None if they are not enough."""
    limit = sys.getrecursionlimit()
    for depth in itertools.count(1):
        try:
            sys.setrecursionlimit(depth)
            break
        except RecursionError:  # lower than where this is
            pass
    try:
        sys.setrecursionlimit(depth + count)
        return act()
    except RecursionError:
        return None
    finally:
        sys.setrecursionlimit(limit)


# Each case prepares, yields what is called with few frames, and gets what that returned.


def take(stage):
    resource = yield lambda: stage.pool.take(timeout=0)
    if resource is not None:
        stage.pool.put(resource)


def takeOpen(stage):
    stage.openAll()
    yield from take(stage)


def takeExpired(stage):
    stage.openAll()
    stage.clock.advance(11.0)
    yield from take(stage)


def put(stage):
    resource = stage.pool.take()
    yield lambda: stage.pool.put(resource)
    with contextlib.suppress(PoolError):
        stage.pool.put(resource)  # once more: it may not have begun


def putExpired(stage):
    resource = stage.pool.take()
    stage.pool.invalidate()
    yield lambda: stage.pool.put(resource)
    with contextlib.suppress(PoolError):
        stage.pool.put(resource)


def withBlock(stage):
    def act():
        with stage.pool.take(timeout=0):
            pass

    stage.openAll()
    yield act


def withBlockOfAClosedOne(stage):
    def act():
        with stage.pool.take(timeout=0):
            pass

    yield act


def withException(stage):
    def act():
        with contextlib.suppress(ValueError):
            with stage.pool.take(timeout=0):
                raise ValueError

    stage.openAll()
    yield act


def withDeepException(stage):
    """The body itself runs out of frames, as a walk through cyclic data does."""
    def act():
        with stage.pool.take(timeout=0):
            goDeeper()

    def goDeeper():
        goDeeper()

    stage.openAll()
    yield act


def recycle(stage):
    stage.openAll()
    stage.clock.advance(11.0)
    yield stage.pool.recycle


CASES = [take, takeOpen, takeExpired, put, putExpired, withBlock, withBlockOfAClosedOne,
         withException, withDeepException, recycle]


def runWithFrames(case, stage, frames):
    """Run a case; tell whether it succeeded with so many frames."""
    acting = case(stage)
    act = next(acting)
    outcomes = []
    withFrames(frames, lambda: outcomes.append(act()))
    succeeds = bool(outcomes)
    with contextlib.suppress(StopIteration):
        acting.send(outcomes.pop() if succeeds else None)
    return succeeds


@pytest.mark.parametrize("kind", [PlainResource, FakeResource, DeepResource])
@pytest.mark.parametrize("keeps", [False, True], ids=["", "kept"])
@pytest.mark.parametrize("isSeeded", [False, True], ids=["factory", "seeded"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_a_full_stack_loses_no_slot(case, isSeeded, keeps, kind, quietly):
    losses = []
    for frames in range(1, ENOUGH):
        stage = Stage(kind, isSeeded, keeps)
        try:
            succeeds = runWithFrames(case, stage, frames)
            stage.check()
        except Exception as error:
            losses.append(f"with {frames} frames: {type(error).__name__}: {error}"[:300])
    assert not losses, "\n".join(losses)
    assert succeeds is (case is not withDeepException)


@pytest.mark.parametrize("keeps", [False, True], ids=["", "kept"])
@pytest.mark.parametrize("isSeeded", [False, True], ids=["factory", "seeded"])
def test_a_walk_that_uses_the_pool_at_each_level_loses_no_slot(isSeeded, keeps, quietly):
    """Each level of the walk is two frames; the request fails, and the server goes on."""
    def visit():
        with stage.pool.take(timeout=0):
            pass
        goOn()

    def goOn():
        visit()

    stage = Stage(DeepResource, isSeeded, keeps)
    for more in range(8):
        function = visit
        for _ in range(more):
            function = (lambda inner: lambda: inner())(function)
        assert withFrames(200, function) is None
    stage.check()


@pytest.mark.parametrize("error", [MemoryError, RecursionError])
@pytest.mark.parametrize("keeps", [False, True], ids=["", "kept"])
@pytest.mark.parametrize("isSeeded", [False, True], ids=["factory", "seeded"])
@pytest.mark.parametrize("fails", [False, True], ids=["", "with exception"])
@pytest.mark.parametrize("hook", ["open", "close", "takeRepair", "putRepair", "noteError"])
def test_a_hook_without_memory_loses_no_slot(hook, fails, isSeeded, keeps, error, quietly):
    class Resource(FakeResource):
        def _play(self, called):
            if called == hook and hook in failing:
                failing.remove(hook)
                raise error

        def noteError(self, error):
            self._play("noteError")

    failing = []
    stage = Stage(Resource, isSeeded, keeps)
    for isOpen in False, True:
        if isOpen:
            stage.openAll()
        failing.append(hook)
        with contextlib.suppress(error, ValueError):
            with stage.pool.take(timeout=0):
                if fails:
                    raise ValueError
        stage.pool.invalidate()
    failing.clear()
    stage.check()


@pytest.fixture
def quietly(monkeypatch, caplog):
    """Keep the garbage of other tests out of the collections, and silence what is dropped."""
    caplog.set_level(logging.CRITICAL, "queuepool")
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)  # a finalizer, no frames
    gc.collect()
    gc.freeze()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
