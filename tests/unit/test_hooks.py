"""The hooks: how one is run, counted and logged; a pool's use of them is tested with the pool."""

from types import SimpleNamespace

import pytest

from queuepool import PoolError, PoolTimeout, Reason
from queuepool.core.breaker import CircuitBreaker
from queuepool.core.hooks import Hooks
from queuepool.core.limits import Limits
from queuepool.core.log import Log
from queuepool.core.slot import PAST, Slot


class Thing:
    """What Hooks needs of a resource; it opens and closes without calling its base class."""

    def __init__(self, name="a"):
        self.name = name
        self.resource = None
        self._isOpen = self._hasRepairHooks = False
        self._slot = Slot()
        self.next = []  # what the next hooks do at their end: exceptions, or calls
        self.noted = []

    def _play(self):
        event = self.next.pop(0) if self.next else None
        if isinstance(event, BaseException):
            raise event
        if event is not None:
            event()

    def open(self):
        self.resource = object()
        self._play()
        self._isOpen = True

    def close(self):
        self._play()
        self.resource, self._isOpen = None, False

    def abandon(self):
        self._play()

    def noteError(self, error):
        self._play()
        self.noted.append(error)


class Watched:
    """What Hooks needs of a slot's queue: it wakes who waits for an open."""

    def __init__(self):
        self.notified = 0

    def notify(self):
        self.notified += 1


@pytest.fixture
def settings(clock):
    return SimpleNamespace(clock=clock, closeOnException=True, openRetryTime=0.0, leakTrace=False,
                           histograms=False, _overridesPut=False)


@pytest.fixture
def breaker(clock):
    return CircuitBreaker(clock)


@pytest.fixture
def hooks(settings, breaker):
    return Hooks(settings, Limits(300.0, 300.0, 1000, 0.0), breaker, Log("p"))


@pytest.fixture
def thing(hooks):
    thing = Thing()
    hooks.open(thing)
    return thing


def countsOf(thing):
    slot = thing._slot
    return slot.opens, slot.openErrors, slot.closes, slot.closeErrors


def test_what_opens_without_its_base_class_is_counted_and_has_its_limits(hooks, clock):
    thing = Thing()
    thing.next = [lambda: clock.advance(3.0)]
    hooks.open(thing)
    slot = thing._slot
    assert countsOf(thing) == (1, 0, {}, 0)
    assert (slot.openedAt, slot.expiresAt, slot.openTime) == (clock.now, clock.now + 300.0, 3.0)
    hooks.countMissed(thing)
    assert countsOf(thing) == (1, 0, {}, 0)


@pytest.mark.parametrize("error", [OSError(), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("closing", [None, OSError("close"), SystemExit()], ids=repr)
def test_what_a_failing_open_left_is_closed_and_does_not_count_as_open(
        hooks, clock, error, closing, caplog):
    thing = Thing()
    thing.next = [error, closing]
    with pytest.raises(type(closing if isinstance(closing, SystemExit) else error)):
        hooks.open(thing)
    assert countsOf(thing) == (0, 1, {}, 0)
    assert (thing.resource, thing._isOpen, thing._slot.openedAt) == (None, False, None)
    assert thing._slot.isTriedLast
    assert ("half open" in caplog.text) is (repr(closing) == "OSError('close')")
    hooks.open(thing)
    assert countsOf(thing) == (1, 1, {}, 0) and not thing._slot.isTriedLast


def test_an_open_that_does_not_open_is_told_what_to_do(hooks):
    thing = Thing()
    thing.open = lambda: None
    with pytest.raises(PoolError, match=r"Thing.open\(\) of 'a' has to call super\(\).open\(\)"):
        hooks.open(thing)
    assert countsOf(thing) == (0, 1, {}, 0)


def test_a_success_ends_the_outage_and_wakes_who_waits(hooks, breaker):
    thing = Thing()
    thing._slot.queue = queue = Watched()
    hooks.open(thing)
    assert queue.notified == 0
    hooks.close(thing, Reason.USER)
    breaker.noteFailure(OSError(), None)
    hooks.open(thing)
    assert not breaker.isTripped and queue.notified == 1


def test_what_was_opened_twice_was_closed_once(hooks, thing):
    hooks.noteOpen(thing)
    assert countsOf(thing) == (2, 0, {Reason.USER: 1}, 0)


@pytest.mark.parametrize("error", [None, OSError("reset"), KeyboardInterrupt()], ids=repr)
def test_whatever_close_raises_it_counts_as_closed(hooks, thing, error, caplog):
    thing.next = [error]
    if isinstance(error, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            hooks.close(thing, Reason.AGE)
    else:
        hooks.close(thing, Reason.AGE)
    assert countsOf(thing) == (1, 0, {Reason.AGE: 1}, int(error is not None))
    assert (thing.resource, thing._isOpen) == (None, False)
    assert ("close of 'a' failed" in caplog.text) is (error is not None)


def test_what_is_closed_is_not_closed_again_and_the_reason_is_forgotten(hooks, thing):
    for _ in range(2):
        hooks.close(thing, Reason.AGE)
    assert countsOf(thing) == (1, 0, {Reason.AGE: 1}, 0)
    hooks.open(thing)
    thing.close()  # by its user
    hooks.countMissed(thing)
    assert countsOf(thing) == (2, 0, {Reason.AGE: 1, Reason.USER: 1}, 0)


@pytest.mark.parametrize("reason", Reason)
@pytest.mark.parametrize("openRetryTime", [0.0, 1.0])
def test_only_an_exception_makes_the_others_suspect(hooks, thing, breaker, settings, reason,
                                                    openRetryTime):
    settings.openRetryTime = openRetryTime
    hooks.close(thing, reason)
    assert breaker.isTripped is (reason is Reason.EXCEPTION and openRetryTime > 0.0)


@pytest.mark.parametrize("setting", ["_hasRepairHooks", "leakTrace", "_overridesPut"])
def test_what_has_to_be_done_at_each_take_is_looked_up_at_each_open(hooks, settings, setting):
    thing = Thing()
    hooks.open(thing)
    assert not thing._slot.isLong and not thing._slot.hasRepairHooks
    setattr(thing if setting == "_hasRepairHooks" else settings, setting, True)
    hooks.close(thing, Reason.USER)
    thing._slot.checkAt = thing._slot.shortUntil = 1e9
    hooks.open(thing)
    assert thing._slot.isLong
    assert thing._slot.hasRepairHooks is (setting == "_hasRepairHooks")
    assert (thing._slot.checkAt, thing._slot.shortUntil) == (PAST, PAST)


@pytest.mark.parametrize("rule, closes", [
    (True, True), (False, False), (OSError, True), ((KeyError, OSError), True),
    (KeyError, False), ((), False), (lambda error: error.args, False)])
@pytest.mark.parametrize("failure", [None, RuntimeError("noteError broke")], ids=repr)
def test_an_error_is_noted_before_the_rule_decides(hooks, thing, settings, rule, closes, failure,
                                                   caplog):
    error = OSError()
    settings.closeOnException = rule
    thing.next = [failure]
    assert hooks.closesOn(thing, error) is closes
    assert thing.noted == ([] if failure else [error])
    assert ("noteError of 'a' failed" in caplog.text) is (failure is not None)


def test_the_pools_own_error_is_noted_and_closes_nothing(hooks, thing, settings):
    settings.closeOnException = OSError
    error = PoolTimeout()
    assert not hooks.closesOn(thing, error)
    assert thing.noted == [error]


@pytest.mark.parametrize("error", [None, OSError("abandon"), KeyboardInterrupt()], ids=repr)
def test_what_is_abandoned_has_nothing_open_whatever_the_hook_raises(hooks, thing, error, caplog):
    thing.next = [error]
    if isinstance(error, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            hooks.abandon(thing)
    else:
        hooks.abandon(thing)
    assert (thing.resource, thing._isOpen) == (None, False)
    warned = [record.exc_info[1] for record in caplog.records if record.levelname == "WARNING"]
    assert warned == ([error] if isinstance(error, OSError) else [])
