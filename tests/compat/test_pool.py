"""What a program written for queuepool 1.3.2 finds, recorded by running it on 1.3.2 itself.

Nothing here uses what 1.3.2 does not have, so that the file can be run against it as well.
"""

import inspect
import multiprocessing.pool
import queue
import threading
import time
from datetime import datetime

import pytest

import queuepool
import queuepool.pool
from queuepool import Pool, ResourceManager


class Handle:
    """Be what a driver returns."""

    def __init__(self):
        self.closed = False
        self.isClean = True

    def close(self):
        self.closed = True


class Manager(ResourceManager):
    """Be what 1.3.2's own ConnectionManager is, and remember which hooks were called."""

    def __init__(self, name, *args, **kwargs):
        super().__init__(name)
        self._args = args
        self._kwargs = kwargs
        self.calls = []
        self.counts = []

    def __repr__(self):
        return str(dict(args=self._args, ResourceManager=super().__repr__()))

    def open(self):
        self.calls.append("open")
        self.resource = Handle()
        super().open()
        self.counts.append(self._usageCount)

    def close(self):
        self.calls.append("close")
        if not self.resource.closed:
            self.resource.close()
        self.resource = None
        super().close()

    def repair(self):
        if self._isOpen:
            if self.resource.closed:
                self.close()
            else:
                self.resource.isClean = True

    def takeRepair(self):
        self.calls.append("takeRepair")
        super().takeRepair()

    def putRepair(self):
        self.calls.append("putRepair")
        self.repair()
        super().putRepair()


def seeded(capacity=1, *args, **kwargs):
    """Make a pool the way every program for 1.3.2 does."""
    pool = Pool("test", capacity, *args, **kwargs)
    managers = []
    for i in range(pool.capacity):
        managers.append(Manager(name="test-" + str(i)))
        pool.put(managers[-1])
    for manager in managers:
        manager.calls.clear()
    return pool, managers


def letTimePass():
    """Return when every clock that may be asked has moved on."""
    monotonic, wall = time.monotonic(), datetime.now()
    while time.monotonic() == monotonic or datetime.now() == wall:
        pass


# -- names and signatures


def test_the_names_are_where_they_were():
    assert queuepool.name == "queuepool"
    assert queuepool.pool.Pool is Pool
    assert queuepool.pool.ResourceManager is ResourceManager


def test_the_pool_is_made_with_the_arguments_and_defaults_of_1_3_2():
    parameters = list(inspect.signature(Pool).parameters.values())[:6]
    assert [(parameter.name, parameter.default) for parameter in parameters] == [
        ("name", inspect.Parameter.empty), ("capacity", inspect.Parameter.empty),
        ("maxIdleTime", 300.0), ("maxOpenTime", 300.0), ("maxUsageCount", 1000),
        ("closeOnException", True)]
    assert {parameter.kind for parameter in parameters} == {
        inspect.Parameter.POSITIONAL_OR_KEYWORD}


def test_the_methods_are_called_as_in_1_3_2():
    inspect.signature(ResourceManager).bind("name")
    inspect.signature(ResourceManager).bind(name="name")
    pool, (manager,) = seeded()
    for hook in "open", "close", "takeRepair", "putRepair":
        inspect.signature(getattr(manager, hook)).bind()
    assert manager.__enter__() is type(manager).__enter__(manager) is manager
    inspect.signature(manager.__exit__).bind(None, None, None)
    inspect.signature(manager.__exit__).bind(exc_type=None, exc_value=None, traceback=None)
    inspect.signature(pool.take).bind()
    inspect.signature(pool.put).bind(manager)
    inspect.signature(pool.recycle).bind()
    assert inspect.signature(pool.startRecycler).parameters["interval"].default == 60
    inspect.signature(pool.startRecycler).bind(5)


def test_a_pool_is_made_by_position_as_by_keyword():
    pool = Pool("test", 20, 60, 600, None, False)
    assert (pool.name, pool.capacity, pool.closeOnException) == ("test", 20, False)
    pool = Pool(name="test", capacity=20, maxIdleTime=60, maxOpenTime=600, maxUsageCount=1000,
                closeOnException=True)
    assert (pool.name, pool.capacity, pool.closeOnException) == ("test", 20, True)
    assert Pool("test", 1, None, None, None).closeOnException is True


# -- attributes


def test_a_new_manager_has_the_attributes_of_1_3_2():
    manager = ResourceManager("a")
    assert (manager.name, manager.resource, manager._pool, manager._isOpen) == (
        "a", None, None, False)


def test_open_and_close_of_the_base_class_set_is_open():
    manager = ResourceManager("a")
    manager.open()
    assert manager._isOpen is True
    manager.close()
    assert manager._isOpen is False
    assert manager.takeRepair() is None and manager.putRepair() is None


def test_a_manager_knows_its_pool_once_it_was_put():
    pool, (manager,) = seeded()
    assert manager._pool is pool
    with pool.take():
        assert manager._pool is pool
    assert manager._pool is pool


def test_usage_count_is_counted_from_the_opening():
    pool, (manager,) = seeded()
    for count in 1, 2, 3:
        with pool.take():
            assert manager._usageCount == count
        assert manager._usageCount == count
    manager = pool.take()
    manager.close()
    pool.put(manager)
    with pool.take():
        assert manager._usageCount == 1
    assert manager.counts == [0, 0]  # as read in open(), after the base class's


def test_close_on_exception_is_read_and_written():
    pool, _ = seeded()
    for pool.closeOnException in False, True:
        with pytest.raises(KeyError), pool.take() as manager:
            raise KeyError
        assert manager._isOpen is not pool.closeOnException


@pytest.mark.parametrize("rule, closes", [
    (True, True), (1, True), (False, False), (0, False), (None, False)])
def test_close_on_exception_is_a_truth_value(rule, closes):
    pool, _ = seeded(closeOnException=rule)
    with pytest.raises(KeyError), pool.take() as manager:
        raise KeyError
    assert manager._isOpen is not closes


LIMITS = pytest.mark.parametrize("limit", ["_maxIdleTime", "_maxOpenTime", "_maxUsageCount"])


@pytest.mark.parametrize("values", [(60, 600, 7), (0.5, 0, 1), (None, None, None)])
def test_the_limits_are_read_as_they_were_given(values):
    pool = Pool("test", 1, *values)
    assert (pool._maxIdleTime, pool._maxOpenTime, pool._maxUsageCount) == values
    for limit, value in zip(("_maxIdleTime", "_maxOpenTime", "_maxUsageCount"), values):
        setattr(pool, limit, None)
        assert getattr(pool, limit) is None
        setattr(pool, limit, value)
        assert getattr(pool, limit) == value


@LIMITS
def test_a_limit_that_is_set_holds_for_what_is_opened_afterwards(limit):
    pool, (manager,) = seeded(1, None, None, None)
    setattr(pool, limit, 1 if limit == "_maxUsageCount" else 0.0)
    with pool.take():
        letTimePass()
    letTimePass()
    pool.recycle()
    assert not manager._isOpen


@LIMITS
def test_a_limit_that_is_set_holds_for_what_is_open_already(limit):
    pool, (manager,) = seeded(1, None, None, None)
    with pool.take():
        setattr(pool, limit, 1 if limit == "_maxUsageCount" else 0.0)
        letTimePass()
    letTimePass()
    pool.recycle()
    assert not manager._isOpen


@LIMITS
def test_a_limit_that_is_set_to_none_is_none(limit):
    pool, (manager,) = seeded(1, *[None if limit != other else 1 if other == "_maxUsageCount"
                                   else 0.0 for other in LIMITS.args[1]])
    setattr(pool, limit, None)
    for _ in range(3):
        with pool.take():
            letTimePass()
        letTimePass()
        pool.recycle()
        assert manager._isOpen


def test_the_queue_is_a_lifo_queue_that_tells_its_size():
    pool, _ = seeded(3)
    assert isinstance(pool._queue, queue.LifoQueue)
    assert (pool._queue.qsize(), pool._queue.maxsize) == (3, 3)
    assert pool._queue.full() and not pool._queue.empty()
    with pool.take(), pool.take():
        assert pool._queue.qsize() == 1
    with pool.take(), pool.take(), pool.take():
        assert pool._queue.empty()
    assert pool._queue.qsize() == 3


def test_strings_and_representations():
    pool, (manager,) = seeded()
    assert (str(pool), str(manager)) == ("test", "test-0")
    assert f"{pool} {manager}" == "test test-0"
    assert "'test'" in repr(pool) and "capacity" in repr(pool)
    assert "'test-0'" in repr(manager) and "ResourceManager" in repr(manager)


# -- hooks


def test_seeding_runs_put_repair_and_opens_nothing():
    pool = Pool("test", 1)
    manager = Manager("a")
    pool.put(manager)
    assert manager.calls == ["putRepair"]
    assert manager._isOpen is False


def test_hooks_run_in_this_order():
    pool, (manager,) = seeded()
    with pool.take():
        assert manager.calls == ["takeRepair", "open"]
    assert manager.calls[2:] == ["putRepair"]
    with pool.take():
        assert manager.calls[3:] == ["takeRepair"]
    assert manager.calls[4:] == ["putRepair"]


def test_hooks_run_in_this_order_when_the_usage_limit_is_reached():
    pool, (manager,) = seeded(maxUsageCount=2)
    for _ in range(2):
        pool.put(pool.take())
    assert manager.calls == ["takeRepair", "open", "putRepair",
                             "takeRepair", "close", "putRepair"]
    assert not manager._isOpen
    pool.put(pool.take())
    assert manager.calls[6:] == ["takeRepair", "open", "putRepair"]


def test_hooks_run_in_this_order_when_it_is_idle_for_too_long():
    pool, (manager,) = seeded()
    pool.put(pool.take())
    manager.calls.clear()
    pool._maxIdleTime = 0.0
    letTimePass()
    manager = pool.take()
    assert manager.calls == ["close", "takeRepair", "open"]
    pool.put(manager)


def test_hooks_run_in_this_order_when_it_is_open_for_too_long():
    pool, (manager,) = seeded(1, None, 0.0)
    with pool.take():
        manager.calls.clear()
        letTimePass()
    assert manager.calls == ["close", "putRepair"]


def test_hooks_run_in_this_order_on_an_exception():
    pool, (manager,) = seeded()
    with pytest.raises(KeyError), pool.take():
        manager.calls.clear()
        raise KeyError
    assert manager.calls == ["close", "putRepair"]


def test_hooks_run_in_this_order_on_an_exception_that_does_not_close():
    pool, (manager,) = seeded(closeOnException=False)
    with pytest.raises(KeyError), pool.take():
        manager.calls.clear()
        raise KeyError
    assert manager.calls == ["putRepair"]


def test_a_repair_may_close_what_was_closed_outside():
    pool, (manager,) = seeded()
    taken = pool.take()
    taken.resource.close()
    manager.calls.clear()
    pool.put(taken)
    assert manager.calls == ["putRepair", "close"]
    with pool.take() as taken:
        assert not taken.resource.closed


def test_a_repair_cleans_what_its_user_left():
    pool, _ = seeded()
    with pool.take() as manager:
        manager.resource.isClean = False
    assert manager.resource.isClean


def test_a_repair_may_close_and_open_again_by_itself():
    class Reconnecting(Manager):
        def takeRepair(self):
            if self._isOpen and self.resource.closed:
                self.close()
                self.open()

    pool = Pool("test", 1)
    pool.put(Reconnecting("a"))
    with pool.take() as manager:
        first = manager.resource
    first.close()  # the server went away
    with pool.take() as manager:
        assert manager.resource is not first and not manager.resource.closed
        assert manager._usageCount == 1


def test_an_open_may_set_all_by_itself():
    class Own(Manager):
        def open(self):
            self.resource = Handle()
            self._isOpen = True
            self._lastOpened = self._lastUsed = datetime.now()
            self._usageCount = 0

    pool = Pool("test", 1, maxUsageCount=2)
    pool.put(Own("a"))
    for count in 1, 2, 1, 2:
        with pool.take() as manager:
            assert manager._isOpen and manager._usageCount == count


# -- use


def test_the_with_statement_hands_out_the_manager_and_puts_it():
    pool, (manager,) = seeded()
    with pool.take() as taken:
        assert taken is manager and isinstance(taken.resource, Handle)
        assert pool._queue.qsize() == 0
    assert pool._queue.qsize() == 1 and manager._isOpen


def test_the_with_statement_does_not_swallow_the_exception():
    pool, _ = seeded()
    error = KeyError("mine")
    with pytest.raises(KeyError) as caught, pool.take():
        raise error
    assert caught.value is error


@pytest.mark.parametrize("closeOnException", [True, False])
def test_the_idiom_without_a_with_statement(closeOnException):
    pool, (manager,) = seeded(closeOnException=closeOnException)

    def work(fails):
        connmgr = pool.take()
        try:
            if fails:
                raise KeyError("bam!")
            return connmgr.resource
        except Exception:
            if pool.closeOnException:
                connmgr.close()
            raise
        finally:
            pool.put(connmgr)

    first = work(False)
    assert work(False) is first
    with pytest.raises(KeyError, match="bam!"):
        work(True)
    assert first.closed is closeOnException
    assert (work(False) is first) is not closeOnException
    assert pool._queue.qsize() == 1


def test_the_last_put_is_taken_first_and_one_at_a_time_opens_one():
    pool, managers = seeded(3)
    for _ in range(5):
        with pool.take() as manager:
            assert manager is managers[2]
    assert [manager._isOpen for manager in managers] == [False, False, True]
    a, b, c = pool.take(), pool.take(), pool.take()
    assert [a, b, c] == managers[::-1]
    for manager in b, a, c:
        pool.put(manager)
    taken = [pool.take() for _ in range(3)]
    assert taken == [c, a, b]
    for manager in taken:
        pool.put(manager)


def test_take_waits_for_a_put():
    pool, (manager,) = seeded()
    taken = pool.take()
    got = queue.Queue()
    thread = threading.Thread(target=lambda: got.put(pool.take()), daemon=True)
    thread.start()
    with pytest.raises(queue.Empty):
        got.get(timeout=0.05)
    pool.put(taken)
    assert got.get(timeout=30) is manager
    thread.join()
    pool.put(manager)


def test_take_of_an_unseeded_pool_waits_for_the_first_put():
    pool = Pool("test", 1)
    got = queue.Queue()
    thread = threading.Thread(target=lambda: got.put(pool.take()), daemon=True)
    thread.start()
    pool.put(Manager("a"))
    manager = got.get(timeout=30)
    assert manager.name == "a" and manager._isOpen
    thread.join()
    pool.put(manager)


def test_the_example_with_a_thread_pool():
    pool, managers = seeded(4, maxIdleTime=60, maxOpenTime=600, maxUsageCount=7)
    pool.startRecycler(5)

    def fetch(dbpool, name):
        res = []
        for i in range(10):
            with dbpool.take() as cm:
                res.append((name, i, cm.resource.closed))
        # closed outside of the manager
        connm = dbpool.take()
        connm.resource.close()
        dbpool.put(connm)
        return res

    with multiprocessing.pool.ThreadPool(8) as threads:
        results = threads.starmap(fetch, [(pool, "task-" + str(x)) for x in range(50)])
    expected = [(f"task-{x}", i, False) for x in range(50) for i in range(10)]
    assert sorted(sum(results, [])) == sorted(expected)
    assert pool._queue.qsize() == 4
    assert len({id(pool._queue.get()) for _ in range(4)}) == 4


# -- recycling


def test_recycle_closes_what_is_expired_and_keeps_order_and_number():
    pool, managers = seeded(3)
    taken = [pool.take() for _ in range(3)]
    for manager in taken:
        pool.put(manager)
    pool._maxIdleTime = 0.0
    letTimePass()
    for manager in managers:
        manager.calls.clear()
    pool.recycle()
    assert [manager.calls for manager in managers] == [["close"]] * 3
    assert pool._queue.qsize() == 3


def test_recycle_leaves_what_is_not_expired_as_it_is():
    pool, managers = seeded(3)
    taken = [pool.take() for _ in range(2)]
    for manager in taken:
        pool.put(manager)
    pool.recycle()
    assert [manager._isOpen for manager in managers] == [False, True, True]
    with pool.take() as manager:
        assert manager is taken[1]


def test_the_recycler_is_one_daemon_thread_that_recycles():
    pool, (manager,) = seeded(1, 0.0)
    pool.put(pool.take())
    before = set(threading.enumerate())
    pool.startRecycler(0.01)
    pool.startRecycler(interval=0.01)
    (thread,) = set(threading.enumerate()) - before
    assert thread.daemon and thread.name.startswith("queuepool recycler")
    deadline = time.monotonic() + 30
    while (manager._isOpen or not pool._queue.qsize()) and time.monotonic() < deadline:
        thread.join(0.001)
    assert not manager._isOpen and pool._queue.qsize() == 1


class Wrapping(Pool):
    """Wrap take and put; remember what was put, and whether it was open then."""

    takes = 0

    def take(self):
        self.takes += 1
        return super().take()

    def put(self, r):
        vars(self).setdefault("puts", []).append((r, r._isOpen))
        super().put(r)


def test_a_pool_subclass_may_wrap_take_and_put():
    pool = Wrapping("test", 1)
    manager = Manager("a")
    pool.put(manager)
    assert pool.take() is manager
    pool.put(manager)
    assert (pool.takes, pool.puts) == (1, [(manager, False), (manager, True)])


@pytest.mark.parametrize("closeOnException", [True, False])
def test_the_put_of_a_pool_subclass_is_called_at_the_end_of_a_with_block(closeOnException):
    pool = Wrapping("test", 1, closeOnException=closeOnException)
    manager = Manager("a")
    pool.put(manager)
    with pool.take():
        assert len(pool.puts) == 1
    with pytest.raises(KeyError), pool.take():
        assert len(pool.puts) == 2
        manager.calls.clear()
        raise KeyError
    assert pool.puts[1:] == [(manager, True), (manager, not closeOnException)]
    assert manager.calls == ["close", "putRepair"][not closeOnException:]
    assert pool._queue.qsize() == 1


def test_a_pool_subclass_may_keep_what_is_put():
    """A put that does not call the base class's at once keeps the resource from others."""
    class Resting(Pool):
        def put(self, r):
            if r._isOpen:
                self.resting = r
            else:
                super().put(r)

    pool = Resting("test", 1)
    manager = Manager("a")
    pool.put(manager)
    with pool.take():
        pass
    assert pool.resting is manager and pool._queue.empty()
    Pool.put(pool, manager)
    assert pool._queue.qsize() == 1 and manager._isOpen
