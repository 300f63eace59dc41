"""take: order, turns, time-outs, lazy opening, and what comes of hooks that fail."""

import signal

import pytest

from queuepool import Pool, PoolClosed, PoolError, PoolTimeout, Reason
from queuepool.core.idle import Waiter
from tests.helpers import (FakeResource, Gate, PlainResource, World, awaitTrue, awaitWaiting,
                           checkWhole, hasGil, start)

KINDS = pytest.mark.parametrize("kind", [PlainResource, FakeResource])


def poolOf(count, world=None, clock=None, kind=FakeResource, **options):
    if clock is not None:
        options["clock"] = clock
    return Pool("p", count, factory=lambda name: kind(name, world), **options)


def scripted(**script):
    """Return a pool of one resource, and that resource."""
    pool = Pool("p", 1)
    resource = FakeResource("a", **script)
    pool.put(resource)
    resource.calls.clear()
    return pool, resource


def takeAll(pool):
    return [pool.take(timeout=0) for _ in range(pool.capacity)]


def orderOf(pool):
    """Return the resources in the order in which the pool hands them out; put them back."""
    taken = takeAll(pool)
    for resource in reversed(taken):
        pool.put(resource)
    return taken


# -- order


@KINDS
def test_the_last_put_is_taken_first(kind):
    pool = poolOf(3, kind=kind)
    a, b, c = takeAll(pool)
    for resource in b, a, c:
        pool.put(resource)
    assert orderOf(pool) == [c, a, b]


def test_the_factory_numbers_its_resources_from_the_first():
    assert [resource.name for resource in orderOf(poolOf(3))] == ["p-0", "p-1", "p-2"]


@KINDS
def test_one_at_a_time_only_one_is_ever_opened(kind, world):
    pool = poolOf(5, world, kind=kind)
    for _ in range(20):
        with pool.take() as resource:
            assert resource.name == "p-0"
    assert world.opened == 1


@KINDS
def test_an_open_one_is_preferred_to_a_closed_one_put_later(kind):
    pool = poolOf(3, kind=kind)
    a, b, c = takeAll(pool)
    pool.put(a)
    for resource in b, c:
        resource.close()
        pool.put(resource)
    assert orderOf(pool) == [a, c, b]


@pytest.mark.parametrize("hook", ["close", "takeRepair"])
def test_an_open_one_is_preferred_to_one_that_turns_out_to_be_closed(hook, world, clock):
    pool = poolOf(2, world, clock, maxIdleTime=10)
    a, b = takeAll(pool)
    if hook == "takeRepair":
        pool.put(a)
        b.script["takeRepair"] = [b.close]
    else:  # idle for too long, although its put ended last
        b.script["putRepair"] = [lambda: clock.advance(11) or pool.put(a)]
    pool.put(b)
    with pool.take() as resource:
        assert resource is a
    assert world.opened == 2 and not b.isOpen
    checkWhole(pool, world)


# -- turns


def test_who_waits_is_served_first_come_first_served():
    pool = poolOf(1)
    taken = pool.take()
    served = []

    def takeAndTell(number):
        with pool.take():
            served.append(number)

    takers = []
    for number in range(6):
        takers.append(start(takeAndTell, number))
        awaitWaiting(pool, number + 1)
    pool.put(taken)
    for taker in takers:
        taker.result()
    assert served == list(range(6))


def test_what_is_put_goes_to_who_waits_and_not_to_the_next_who_comes():
    pool = poolOf(1)
    taken = pool.take()
    waiter = start(pool.take)
    awaitWaiting(pool, 1)
    pool.put(taken)
    with pytest.raises(PoolTimeout):
        pool.take(timeout=0)  # it is the waiter's, whether that has woken or not
    assert waiter.result() is taken
    pool.put(taken)


@KINDS
def test_a_newcomer_does_not_overtake_one_who_is_slow_to_wake(kind, monkeypatch):
    pool = poolOf(1, kind=kind)
    taken = pool.take()
    waiter = start(pool.take)
    awaitWaiting(pool, 1)
    with monkeypatch.context() as patch:
        patch.setattr(Waiter, "wake", lambda self: None)
        pool.put(taken)
        for timeout in 0, 0.01:
            with pytest.raises(PoolTimeout):
                pool.take(timeout)
    pool.resize(1)  # wakes it
    assert waiter.result() is taken
    pool.put(taken)


def test_one_who_times_out_leaves_the_line_to_the_others(monkeypatch):
    gate, sleep = Gate(), Waiter.sleep
    sleeps = [lambda waiter, seconds: gate()]
    monkeypatch.setattr(
        Waiter, "sleep", lambda *arguments: (sleeps.pop() if sleeps else sleep)(*arguments))
    pool = poolOf(1)
    taken = pool.take()
    impatient = start(pool.take, 0.01)
    gate.awaitArrival()
    patient = start(pool.take)
    awaitWaiting(pool, 2)
    gate.open()
    with pytest.raises(PoolTimeout):
        impatient.result()
    assert pool.stats().waiting == 1
    pool.put(taken)
    assert patient.result() is taken
    pool.put(taken)


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="needs POSIX signals")
def test_a_signal_handler_may_take_and_put(world):
    pool = poolOf(2, world)
    served = []

    def handler(signum, frame):
        with pool.take():
            served.append(signum)

    before = signal.signal(signal.SIGALRM, handler)
    try:
        with pool.take():
            signal.raise_signal(signal.SIGALRM)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert served == [signal.SIGALRM]
    checkWhole(pool, world)


# -- time-outs


def test_timeout_0_takes_what_is_free_and_does_not_wait():
    pool = poolOf(1)
    taken = pool.take(timeout=0)
    with pytest.raises(PoolTimeout):
        pool.take(timeout=0)
    pool.put(taken)
    assert orderOf(pool) == [taken]


def test_left_out_the_pools_time_out_holds():
    pool = poolOf(1, takeTimeout=0.01)
    with pool.take(), pytest.raises(PoolTimeout, match=r"\(timeout 0.01 s\)"):
        pool.take()


def test_an_own_time_out_overrides_the_pools():
    pool = poolOf(1, takeTimeout=3600)
    with pool.take(), pytest.raises(PoolTimeout, match=r"\(timeout 0.01 s\)"):
        pool.take(timeout=0.01)
    with pool.take(), pytest.raises(PoolTimeout, match=r"\(timeout 0.01 s\)"):
        pool.take(0.01)


@pytest.mark.parametrize("takeTimeout, given", [
    (None, {}), (0, {"timeout": None}),
    # More than a thread can wait is for ever.
    (None, {"timeout": float("inf")}), (0, {"timeout": 1e300})])
def test_it_may_wait_for_ever(takeTimeout, given):
    pool = poolOf(1, takeTimeout=takeTimeout)
    taken = pool.take()
    waiter = start(lambda: pool.take(**given))
    awaitWaiting(pool, 1)
    pool.put(taken)
    assert waiter.result() is taken
    pool.put(taken)


def test_a_time_out_says_who_how_many_and_how_long(clock):
    pool = poolOf(3, clock=clock)
    with pool.take(), pool.take(), pool.take(), pytest.raises(PoolTimeout) as caught:
        pool.take(timeout=0)
    assert str(caught.value) == (
        "pool 'p': no resource came free in 0.000 s (timeout 0 s): "
        "capacity 3, checked out 3, idle 0, waiting 0; all that is checked out is held by threads "
        "that wait themselves (unless they handed it on); "
        "'p-0' is checked out longest, for 0.0 s, by thread 'MainThread', "
        "which waits in pool 'p'; this thread already has 'p-0' [queuepool:nested]")


def test_a_time_out_says_the_seconds_waited_and_who_else_waits():
    readings = [1000.0]
    pool = poolOf(1, clock=lambda: readings.pop(0) if readings[1:] else readings[0])
    taken = pool.take()
    other = start(pool.take)
    awaitWaiting(pool, 1)
    readings += [1000.0, 1007.25]  # at the call, and ever after
    readings.pop(0)
    with pytest.raises(PoolTimeout) as caught:
        pool.take(timeout=0.01)
    assert str(caught.value) == (
        "pool 'p': no resource came free in 7.250 s (timeout 0.01 s): "
        "capacity 1, checked out 1, idle 0, waiting 1; all that is checked out is held by threads "
        "that wait themselves (unless they handed it on); "
        "'p-0' is checked out longest, for 7.2 s, by thread 'MainThread', "
        "which waits in pool 'p'; this thread already has 'p-0' [queuepool:nested]")
    assert caught.value.__cause__ is None and caught.value.__context__ is None
    pool.put(taken)
    pool.put(other.result())


def test_a_time_out_is_counted_with_its_wait():
    pool = poolOf(1)
    with pool.take():
        for seconds in 0, 0.01:
            with pytest.raises(PoolTimeout):
                pool.take(timeout=seconds)
    stats = pool.stats()
    assert (stats.timeouts, stats.waits, stats.takes) == (2, 1, 1)
    assert stats.waitTime >= 0.01


def test_the_time_out_of_a_pool_that_was_never_seeded_says_so(clock):
    with pytest.raises(PoolTimeout) as caught:
        Pool("p", 2, clock=clock).take(timeout=0)
    assert str(caught.value) == (
        "pool 'p': no resource came free in 0.000 s (timeout 0 s): capacity 2, checked out 0, "
        "idle 0, waiting 0; nothing was put into the pool yet, and it has no factory "
        "[queuepool:empty]")


@pytest.mark.parametrize("timeout", [-1, -0.001, float("nan"), "1", True])
def test_a_senseless_time_out_is_refused_whether_it_would_have_to_wait_or_not(timeout):
    pool = poolOf(1)
    said = "timeout must be None or a number of seconds >= 0, not"
    with pytest.raises(ValueError, match=said):
        pool.take(timeout=timeout)
    with pool.take(), pytest.raises(ValueError, match=said):
        pool.take(timeout=timeout)
    assert (pool.stats().takes, pool.stats().idle) == (1, 1)


@pytest.mark.parametrize("hook, seconds, isInTime", [
    ("takeRepair", 0.5, True), ("takeRepair", 0.51, False), ("open", 9.0, True)])
def test_after_the_time_no_other_hook_is_begun(hook, seconds, isInTime, world, clock):
    """The end of the last hook may be late; what it made ready is handed out."""
    pool = poolOf(1, world, clock)
    pool.put(pool.take())
    with pool.take() as resource:
        resource.close()
    resource.script[hook] = [lambda: clock.advance(seconds)]
    if isInTime:
        pool.put(pool.take(timeout=0.5))
    else:
        with pytest.raises(PoolTimeout, match=r"'p-0' was not ready in 0.510 s"):
            pool.take(timeout=0.5)
    assert resource.isOpen is isInTime
    checkWhole(pool, world)


@pytest.mark.parametrize("seconds, isInTime", [(0.05, True), (0.06, False)])
def test_however_short_the_time_is_hooks_may_use_a_little(seconds, isInTime, world, clock):
    pool = poolOf(1, world, clock)
    pool.put(pool.take())
    with pool.take() as resource:
        resource.close()
    resource.script["takeRepair"] = [lambda: clock.advance(seconds)]
    if isInTime:
        pool.put(pool.take(timeout=0))
    else:
        with pytest.raises(PoolTimeout):
            pool.take(timeout=0)
    checkWhole(pool, world)


@KINDS
def test_one_take_closes_at_most_one_that_has_expired(kind, world, clock):
    pool = poolOf(3, world, clock, kind)
    orderOf(pool)
    clock.advance(301)
    with pool.take(timeout=0):
        assert (world.closed, world.opened, world.live) == (1, 4, 3)
    checkWhole(pool, world)


# -- hooks


def test_it_is_opened_only_when_it_is_taken(world):
    pool = poolOf(2, world)
    assert world.opened == 0
    with pool.take() as resource:
        assert resource.isOpen and resource.resource is not None
        assert world.opened == 1


def test_hooks_run_in_the_order_of_1_3_2(clock):
    pool = Pool("p", 1, maxIdleTime=10, clock=clock)
    resource = FakeResource("a")
    pool.put(resource)
    assert resource.calls == ["putRepair"]
    pool.put(pool.take())
    assert resource.calls[1:] == ["takeRepair", "open", "putRepair"]
    pool.put(pool.take())
    assert resource.calls[4:] == ["takeRepair", "putRepair"]
    clock.advance(11)
    pool.put(pool.take())
    assert resource.calls[6:] == ["close", "takeRepair", "open", "putRepair"]


def test_hooks_that_are_not_overridden_are_not_called(monkeypatch):
    def fail(self):
        raise AssertionError("called")

    pool = poolOf(1, kind=PlainResource)
    monkeypatch.setattr("queuepool.Resource.takeRepair", fail)
    monkeypatch.setattr("queuepool.Resource.putRepair", fail)
    for _ in range(2):
        with pool.take():
            pass


@pytest.mark.parametrize("hook", ["takeRepair", "putRepair"])
@pytest.mark.parametrize("isOnInstance", [True, False])
def test_one_overridden_hook_is_called_each_time(hook, isOnInstance):
    calls = []

    class Hooked(PlainResource):
        pass

    resource = Hooked("a")
    if isOnInstance:
        setattr(resource, hook, lambda: calls.append("here"))
    else:
        setattr(Hooked, hook, lambda self: calls.append("here"))
    pool = Pool("p", 1)
    pool.put(resource)
    calls.clear()
    for _ in range(3):
        with pool.take():
            pass
    assert len(calls) == 3


def test_no_clock_no_log_and_no_hook_runs_while_nobody_calls(world, clock):
    pool = poolOf(2, world, clock, maxIdleTime=1)
    with pool.take():
        pass
    clock.advance(100)
    assert world.closed == 0  # nothing but a take, a put and recycle() look


def test_the_clock_is_read_once_by_a_take_and_by_a_put():
    readings = []

    def clock():
        readings.append(1)
        return 1000.0

    pool = poolOf(1, kind=PlainResource, clock=clock)
    with pool.take():
        pass
    readings.clear()
    with pool.take():
        assert len(readings) == 1
    assert len(readings) == 2


def test_take_repair_that_closes_has_it_opened_anew(world):
    pool = poolOf(1, world)
    with pool.take() as resource:
        first = resource.resource
    resource.script["takeRepair"] = [resource.close]
    with pool.take() as resource:
        assert resource.resource is not first
    stats = pool.stats()
    assert (stats.opens, stats.closesByReason[Reason.REPAIR]) == (2, 1)


def test_take_repair_may_close_and_open_it_itself(clock):
    class Reconnecting(FakeResource):
        def takeRepair(self):
            if self.isOpen:
                self.close()
            self.open()

    pool = poolOf(1, clock=clock, kind=Reconnecting, maxIdleTime=None)
    for count in 1, 2, 3:
        with pool.take() as resource:
            stats = pool.stats()
            assert (stats.open, stats.opens, stats.closes) == (1, count, count - 1)
            assert (resource.age, resource.usageCount) == (0.0, 1)
            clock.advance(100)


def test_what_a_take_passed_over_is_not_kept_alive_by_it(world):
    """It found a better one; who takes and drops the first meanwhile is not to wait for it."""
    putBack, gate = [], Gate()
    first = FakeResource("a", world, takeRepair=[lambda: pool.put(putBack.pop())])
    second = FakeResource("b", world, takeRepair=[None, gate])
    pool = Pool("p", 2)
    pool.put(first)
    pool.put(second)
    putBack.append(pool.take())
    assert putBack == [second]
    del first, second
    taking = start(pool.take)  # picks a, closed; b comes back meanwhile, open, and is preferred
    gate.awaitArrival()
    pool.take(timeout=0)  # and drops it
    assert (pool.stats().taken, pool.stats().idle) == (0, 1)
    gate.open()
    pool.put(taking.result())
    with pytest.warns(ResourceWarning, match="'a' was taken and dropped"):
        pool.recycle()
    checkWhole(pool, world)


# -- failures


ERRORS = pytest.mark.parametrize("error", [OSError("no route"), KeyboardInterrupt()])


@ERRORS
@pytest.mark.parametrize("hook", ["open", "takeRepair"])
def test_the_exception_of_a_hook_reaches_the_caller_with_the_slot_back(hook, error):
    pool, resource = scripted(**{hook: [error]})
    with pytest.raises(type(error)) as caught:
        pool.take()
    assert caught.value is error
    assert caught.value.__cause__ is None and caught.value.__context__ is None
    stats = pool.stats()
    assert (stats.idle, stats.taken, stats.open) == (1, 0, 0)
    checkWhole(pool, resource.world)


@pytest.mark.parametrize("hook", ["open", "takeRepair"])
def test_the_next_waiter_proceeds_at_once_when_a_hook_fails(hook):
    gate = Gate()

    def fail():
        gate()
        raise OSError

    pool, resource = scripted(**{hook: [fail]})
    taker = start(pool.take)
    gate.awaitArrival()
    waiter = start(pool.take)
    awaitWaiting(pool, 1)
    gate.open()
    with pytest.raises(OSError):
        taker.result()
    assert waiter.result() is resource
    pool.put(resource)
    checkWhole(pool, resource.world)


def test_each_of_a_line_gets_the_exception_of_its_own_open():
    errors = [OSError(number) for number in range(4)]
    gate = Gate()
    pool, resource = scripted(open=[gate, *errors])
    taken = start(pool.take)
    gate.awaitArrival()
    takers = []
    for number in range(4):
        takers.append(start(pool.take))
        awaitWaiting(pool, number + 1)
    gate.open()
    resource = taken.result()
    resource.close()
    pool.put(resource)
    for taker, error in zip(takers, errors):
        with pytest.raises(OSError) as caught:
            taker.result()
        assert caught.value is error
    checkWhole(pool, resource.world)


def test_what_a_failing_open_left_half_open_is_closed(world):
    class HalfOpen(FakeResource):
        def open(self):
            super().open()
            if self.world.opened == 1:
                raise OSError("set_session failed")

    pool = poolOf(1, world, kind=HalfOpen)
    with pytest.raises(OSError, match="set_session failed"):
        pool.take()
    assert (world.live, world.closed) == (0, 1)
    stats = pool.stats()
    assert (stats.opens, stats.openErrors, stats.closes, stats.open) == (0, 1, 0, 0)
    checkWhole(pool, world)


def test_what_was_not_even_half_open_is_not_closed():
    pool, resource = scripted(open=[OSError])
    with pytest.raises(OSError):
        pool.take()
    assert "close" not in resource.calls


@pytest.mark.parametrize("closing", [ValueError, KeyboardInterrupt])
def test_the_half_open_counts_as_closed_though_its_close_fails(closing, caplog):
    class HalfOpen(PlainResource):
        def open(self):
            self.resource = "half"
            raise OSError("open")

        def close(self):
            raise closing("close")

    pool = poolOf(1, kind=HalfOpen)
    with pytest.raises(OSError if closing is ValueError else closing):
        pool.take()
    resource = pool._queue.get()
    assert (resource.resource, resource.isOpen) == (None, False)
    if closing is ValueError:
        (record,) = caplog.records
        assert record.message == (
            "pool p: close of the half open 'p-0' failed [queuepool:close-failed]")
        assert record.exc_info[0] is ValueError


def test_an_open_that_forgets_its_super_is_told_so(world):
    class Forgetful(PlainResource):
        def open(self):
            self.resource = self.world.open()

    pool = poolOf(1, world, kind=Forgetful)
    with pytest.raises(PoolError) as caught:
        pool.take()
    assert str(caught.value) == (
        "Forgetful.open() of 'p-0' has to call super().open() at its end [queuepool:no-super]")
    assert world.live == 0
    stats = pool.stats()
    assert (stats.idle, stats.openErrors, stats.opens) == (1, 1, 0)


def test_one_that_take_repair_failed_on_is_closed(caplog):
    pool, resource = scripted(takeRepair=[None, OSError("dead")])
    pool.put(pool.take())
    with pytest.raises(OSError, match="dead"):
        pool.take()
    assert not resource.isOpen and resource.world.live == 0
    assert pool.stats().closesByReason[Reason.REPAIR] == 1
    assert not caplog.records  # the caller has the exception; there is nothing more to tell


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_close_that_fails_at_take_counts_as_closed(error, clock, caplog):
    pool = Pool("p", 1, maxIdleTime=10, clock=clock)
    resource = FakeResource("a", close=[error("close")])
    pool.put(resource)
    pool.put(pool.take())
    clock.advance(11)
    if error is ValueError:
        pool.put(pool.take())
        (record,) = caplog.records
        assert record.message == (
            "pool p: close of 'a' failed; it counts as closed [queuepool:close-failed]")
        assert record.levelname == "WARNING" and record.exc_info[0] is ValueError
    else:
        with pytest.raises(KeyboardInterrupt):
            pool.take()
    stats = pool.stats()
    assert (stats.closes, stats.closeErrors) == (1, 1)
    assert stats.closesByReason[Reason.IDLE] == 1
    checkWhole(pool, resource.world)


def test_a_close_that_fails_keeps_nothing():
    class Stuck(PlainResource):
        def close(self):
            raise OSError

    pool = poolOf(1, kind=Stuck, maxUsageCount=1)
    resource = pool.take()
    pool.put(resource)
    assert (resource.resource, resource.isOpen) == (None, False)


def test_a_close_that_forgets_its_super_counts_as_closed_all_the_same():
    class Forgetful(PlainResource):
        def close(self):
            self.resource = None

    pool = poolOf(1, kind=Forgetful, maxUsageCount=1)
    for opens in 1, 2:
        with pool.take():
            assert pool.stats().opens == opens
    assert pool.stats().closes == 2


# -- in an outage


def isReconnecting(pool):
    return repr(pool).endswith(", reconnecting>")


def test_an_open_that_succeeds_while_another_one_fails_ends_the_outage(world):
    gate = Gate()

    def failSlowly():
        gate()
        raise OSError("refused")

    scripts = [[failSlowly], []]
    pool = Pool("p", 2, openRetryTime=10.0,
                factory=lambda name: FakeResource(name, world, open=scripts.pop(0)))
    failing = start(pool.take)
    gate.awaitArrival()
    other = pool.take()
    gate.open()
    one = failing.result()
    assert not isReconnecting(pool)
    pool.put(one)
    pool.put(other)
    checkWhole(pool, world)


def test_a_repair_that_opens_it_itself_ends_the_outage(world):
    class SelfOpening(PlainResource):
        def takeRepair(self):
            if not self.isOpen:
                self.open()

    pool = poolOf(2, world, kind=SelfOpening, openRetryTime=10.0)
    with pytest.raises(KeyError), pool.take():
        raise KeyError  # it is closed, so others may be broken too
    assert isReconnecting(pool)
    with pool.take(timeout=0), pool.take(timeout=0):
        assert not isReconnecting(pool)
    checkWhole(pool, world)


# -- the pool is closed


def test_nothing_is_taken_from_a_closed_pool(clock):
    pool = poolOf(1, clock=clock)
    pool.close()
    clock.advance(2)
    for timeout in None, 0, 1.0:
        with pytest.raises(PoolClosed) as caught:
            pool.take(timeout)
        assert str(caught.value) == (
            "pool 'p' is closed: close() was called, or the block of 'with pool:' has ended, "
            "2.0 s ago in thread 'MainThread' [queuepool:shutting-down]")


def test_who_waits_is_told_when_the_pool_is_closed():
    pool = poolOf(1)
    taken = pool.take()
    takers = [start(pool.take) for _ in range(3)]
    awaitWaiting(pool, 3)
    assert pool.close() == 1
    for taker in takers:
        with pytest.raises(PoolClosed, match="pool 'p' is closed"):
            taker.result()
    pool.put(taken)


@pytest.mark.parametrize("hook", ["open", "takeRepair"])
def test_one_whose_hook_runs_while_the_pool_is_closed_is_not_handed_out(hook):
    pool, resource = scripted()
    resource.script[hook] = [pool.close]
    with pytest.raises(PoolClosed):
        pool.take()
    assert not resource.isOpen and resource.world.live == 0
    stats = pool.stats()
    assert stats.opens == (1 if hook == "open" else 0)
    assert stats.opens == stats.closes == stats.closesByReason[Reason.POOL_CLOSED]
    assert pool.close() == 0


# -- what is checked out for long


def test_what_is_checked_out_for_long_is_reported_once_and_when_it_is_returned(clock, caplog):
    caplog.set_level("INFO", "queuepool")
    pool = poolOf(1, clock=clock, kind=PlainResource, leakTime=10, leakTrace=True)
    taken = pool.take()
    clock.advance(10)
    pool.recycle()
    assert not caplog.messages
    clock.advance(1)
    pool.recycle()
    pool.recycle()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.message.startswith(
        "pool p: 'p-0' is checked out for 11.0 s by thread 'MainThread', which is now at: "
        "[queuepool:leak]\n")
    where, trace = record.message.split("\nIt was taken at:\n")
    assert "pool.recycle()" in where or not hasGil()
    assert "taken = pool.take()" in trace
    clock.advance(1)
    pool.put(taken)
    assert caplog.records[1].levelname == "INFO"
    assert caplog.messages[1] == "pool p: 'p-0' was returned after 12.0 s"
    pool.leakTrace = False
    with pool.take():
        clock.advance(11)
        pool.recycle()
        assert "It was taken at:" not in caplog.messages[2]


def test_what_is_returned_the_short_way_is_told_too(clock, caplog):
    caplog.set_level("INFO", "queuepool")
    pool = poolOf(1, clock=clock, kind=PlainResource, leakTime=10)
    with pool.take():
        clock.advance(11)
        pool.recycle()
    assert caplog.messages[1:] == ["pool p: 'p-0' was returned after 11.0 s"]
    with pool.take():
        pass
    assert len(caplog.messages) == 2


def test_one_whose_thread_has_ended_is_reported_once(clock, caplog):
    pool = poolOf(1, clock=clock, kind=PlainResource)
    running = start(pool.take)
    resource = running.result()
    awaitTrue(lambda: not running.thread.is_alive())
    clock.advance(2)
    pool.recycle()
    pool.recycle()
    (message,) = caplog.messages
    assert message.startswith("pool p: 'p-0' is checked out for 2.0 s by thread 'Thread-")
    assert message.endswith("', which has ended without returning it [queuepool:leak]")
    pool.put(resource)


def test_the_next_take_of_the_same_one_is_reported_anew(clock, caplog):
    pool = poolOf(1, clock=clock, kind=PlainResource, leakTime=10)
    for _ in range(2):
        with pool.take():
            clock.advance(11)
            pool.recycle()
    assert len(caplog.messages) == 2


def test_the_time_in_line_is_not_reported(clock, caplog):
    pool = poolOf(1, World(), clock, kind=PlainResource, leakTime=10)
    taken = pool.take()
    done = Gate()

    def use():
        with pool.take():
            done()

    waiter = start(use)
    awaitWaiting(pool, 1)
    clock.advance(9)
    pool.put(taken)
    done.awaitArrival()
    clock.advance(9)
    pool.recycle()
    assert not caplog.messages
    done.open()
    waiter.result()
