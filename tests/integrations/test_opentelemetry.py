"""queuepool.opentelemetry with the real SDK: what is collected is what the pool counted."""

import contextlib
import gc
import itertools
import logging
import os
import random
import subprocess
import sys
import weakref
from pathlib import Path

import pytest

from queuepool import Pool, PoolTimeout
from queuepool.stats import BOUNDS
from tests.helpers import PATIENCE, FakeClock, FakeResource, PlainResource, interruptOften, start
from tests.integrations import checkWork, work

pytest.importorskip("opentelemetry.sdk.metrics", reason="opentelemetry-sdk is not installed")
from opentelemetry.sdk.metrics import MeterProvider  # noqa: E402
from opentelemetry.sdk.metrics.export import InMemoryMetricReader  # noqa: E402

from queuepool.opentelemetry import observe  # noqa: E402

ROOT = Path(__file__).parents[2]
UNITS = {
    "count": "{connection}", "max": "{connection}", "idle.max": "{connection}",
    "idle.min": "{connection}", "pending_requests": "{request}", "timeouts": "{timeout}",
    "create_time": "s", "wait_time": "s", "use_time": "s"}
TIMES = {"create_time": "openHistogram", "wait_time": "waitHistogram", "use_time": "useHistogram"}
PREFIX = "db.client.connection."


class Metrics:
    """A meter provider, and what its reader collects."""

    def __init__(self, *others):
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader, *others])

    def collect(self):
        """Return the data point for each metric, pool and state; the names without the prefix."""
        found = {}
        data = self.reader.get_metrics_data()
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                assert scope.scope.name == "queuepool"
                for metric in scope.metrics:
                    name = metric.name.removeprefix(PREFIX)
                    assert metric.name != name and metric.unit == UNITS[name]
                    assert metric.description
                    if name not in TIMES:
                        assert metric.data.is_monotonic is (name == "timeouts")
                    for point in metric.data.data_points:
                        attributes = dict(point.attributes)
                        key = (name, attributes.pop(PREFIX + "pool.name"),
                               *([attributes.pop(PREFIX + "state")] if name == "count" else []))
                        assert not attributes and key not in found
                        found[key] = point
        return found


@pytest.fixture
def metrics():
    metrics = Metrics()
    yield metrics
    metrics.provider.shutdown()


def check(found, stats, minOpen=0):
    """Compare all that was collected with what the pool counted."""
    values = {
        ("count", "app", "idle"): stats.open - stats.taken, ("count", "app", "used"): stats.taken,
        ("max", "app"): stats.capacity, ("idle.max", "app"): stats.capacity,
        ("idle.min", "app"): minOpen, ("pending_requests", "app"): stats.waiting,
        ("timeouts", "app"): stats.timeouts}
    histograms = {(name, "app"): getattr(stats, field) for name, field in TIMES.items()}
    histograms = {key: each for key, each in histograms.items() if each.number}
    assert found.keys() == values.keys() | histograms.keys()
    for key, value in values.items():
        assert found[key].value == value, key
    for key, histogram in histograms.items():
        point = found[key]
        assert tuple(point.explicit_bounds) == BOUNDS
        assert tuple(point.bucket_counts) == histogram.counts
        assert point.count == histogram.number
        assert point.sum == pytest.approx(histogram.total, rel=1e-9)


def test_what_is_collected_is_what_the_pool_counted(pool, metrics):
    observe(pool, metrics.provider)
    check(metrics.collect(), pool.stats())
    work(pool)
    check(metrics.collect(), checkWork(pool))
    check(metrics.collect(), pool.stats())
    with pool.take():
        assert metrics.collect()["count", "app", "used"].value == 1


def test_collections_under_load_add_up(pool, metrics):
    observe(pool, metrics.provider)
    working = start(work, pool)
    before, collections = {}, 0
    while working.thread.is_alive() or not collections:
        found = metrics.collect()
        collections += 1
        for key in found:
            if key[0] in TIMES and key in before:
                assert found[key].count >= before[key].count
                assert found[key].sum >= before[key].sum
        before = found
    working.result()
    check(metrics.collect(), checkWork(pool))


def test_every_collection_has_the_times_since_the_last_one_in_their_buckets(metrics):
    clock, chance = FakeClock(), random.Random(4)
    pool = Pool("app", 1, factory=FakeResource, clock=clock, maxOpenTime=None)
    observe(pool, metrics.provider)
    edges = [edge for bound in BOUNDS for edge in (bound, bound * 1.01)]
    total = 0.0
    for _ in range(30):
        for seconds in chance.choices([0.0, *edges, 11.0, 400.0], k=chance.randrange(12)):
            with pool.take():
                clock.advance(seconds)
        found, histogram = metrics.collect(), pool.stats().useHistogram
        if histogram.number:
            point = found["use_time", "app"]
            assert tuple(point.bucket_counts) == histogram.counts
            assert point.sum == pytest.approx(histogram.total, rel=1e-9)
            total = point.sum
    assert total > 400.0


def test_a_clock_that_is_set_back_moves_no_time_into_another_bucket(metrics):
    clock = FakeClock()
    pool = Pool("app", 1, factory=FakeResource, clock=clock, maxOpenTime=None)
    observe(pool, metrics.provider)
    for times in (0.3, -1.0), (400.0,):
        for seconds in times:
            with pool.take():
                clock.advance(seconds)
        point, histogram = metrics.collect()["use_time", "app"], pool.stats().useHistogram
        assert tuple(point.bucket_counts) == histogram.counts
    # What could not be right the first time is made up for.
    assert point.sum == pytest.approx(histogram.total)


def test_several_readers_get_all():
    second = InMemoryMetricReader()
    metrics = Metrics(second)
    pool = Pool("app", 1, factory=FakeResource)
    observe(pool, metrics.provider)
    with pool.take():
        pass
    check(metrics.collect(), pool.stats())
    metrics.reader = second
    check(metrics.collect(), pool.stats())
    metrics.provider.shutdown()


def test_of_too_many_times_a_sample_is_recorded(metrics, monkeypatch):
    monkeypatch.setattr("queuepool.opentelemetry.MOST_RECORDS", 100)
    clock = FakeClock()
    pool = Pool("app", 1, factory=FakeResource, clock=clock, maxOpenTime=None)
    observe(pool, metrics.provider)
    for number in range(1000):
        with pool.take():
            clock.advance(0.02 if number % 10 else 2.0)
    point = metrics.collect()["use_time", "app"]
    assert point.count == 100
    assert point.bucket_counts[BOUNDS.index(0.025)] == 90
    assert point.bucket_counts[BOUNDS.index(2.5)] == 10
    assert point.sum == pytest.approx(pool.stats().useTime / 10)
    with pool.take():
        pass
    assert metrics.collect()["use_time", "app"].count == 101  # nothing is left over


def test_several_pools_are_told_apart_and_those_of_one_name_are_added_up(metrics):
    pools = [Pool(name, 3, factory=FakeResource, minOpen=1) for name in ("app", "app", "other")]
    for pool in pools:
        observe(pool, metrics.provider)
        observe(pool, metrics.provider)
        with pool.take(), pool.take():
            pass
        with pytest.raises(PoolTimeout), pool.take(), pool.take(), pool.take():
            pool.take(timeout=0)
    found = metrics.collect()
    for name, number in ("app", 2), ("other", 1):
        assert found["max", name].value == 3 * number
        assert found["idle.min", name].value == number
        assert found["timeouts", name].value == number
        assert found["count", name, "idle"].value == 3 * number
        assert found["use_time", name].count == 5 * number


def test_the_pool_is_not_kept_alive(metrics):
    pool = Pool("app", 1, factory=FakeResource)
    observe(pool, metrics.provider)
    assert ("max", "app") in metrics.collect()
    end = weakref.ref(pool)
    del pool
    gc.collect()
    assert end() is None
    assert metrics.collect() == {}


def test_the_timeouts_of_a_name_never_fall(metrics):
    def poolWithTimeouts(number):
        pool = Pool("app", 1, factory=FakeResource)
        observe(pool, metrics.provider)
        with pool.take():
            for _ in range(number):
                with pytest.raises(PoolTimeout):
                    pool.take(0)
        return pool

    first, second = poolWithTimeouts(3), poolWithTimeouts(4)
    assert metrics.collect()["timeouts", "app"].value == 7
    del first
    gc.collect()
    assert metrics.collect()["timeouts", "app"].value == 7
    third = poolWithTimeouts(1)
    assert metrics.collect()["timeouts", "app"].value == 8
    del second, third
    gc.collect()
    assert metrics.collect()["timeouts", "app"].value == 8


def test_the_provider_is_not_kept_alive():
    provider = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
    pool = Pool("app", 1, factory=FakeResource)
    observe(pool, provider)
    provider.shutdown()
    end = weakref.ref(provider)
    del provider
    gc.collect()
    assert end() is None


@pytest.mark.filterwarnings("ignore:Exception ignored in")
@pytest.mark.usefixtures("posix")
def test_signal_handlers_that_raise_stop_no_other_thread():
    """On CPython 3.14 a signal handler may run between the acquire of a lock and its block."""
    pool, provider = Pool("app", 1, factory=PlainResource), MeterProvider()

    def observeAgain():
        # The SDK may raise KeyError after it was interrupted while it made an instrument.
        with contextlib.suppress(KeyError):
            observe(pool, provider)

    interruptOften(observeAgain, lambda: start(observeAgain).result(PATIENCE))


def test_a_failing_collection_is_not_the_failure_of_the_pool(metrics, caplog):
    class Broken(Pool):
        def stats(self):
            raise ZeroDivisionError

    pool = Broken("app", 1, factory=PlainResource)
    observe(pool, metrics.provider)
    with caplog.at_level(logging.CRITICAL):
        metrics.collect()
    with pool.take() as resource:
        assert resource.isOpen


@pytest.mark.parametrize("wrong", [None, "app", []])
def test_what_is_no_pool_is_refused(wrong, metrics):
    with pytest.raises(TypeError, match="pool must be a Pool, not"):
        observe(wrong, metrics.provider)


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "opentelemetry"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delitem(sys.modules, "queuepool.opentelemetry")
    with pytest.raises(ImportError, match=r"pip install 'queuepool\[opentelemetry\]'"):
        import queuepool.opentelemetry  # noqa: F401


#: What is global in a process is tried in one of its own.
GLOBAL = """
import sys
from opentelemetry import metrics
from queuepool import Pool
from queuepool.opentelemetry import observe
from tests.helpers import FakeResource

first, second, third = pools = [Pool(name, 1, factory=FakeResource) for name in "123"]


def sdk():
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    global reader
    reader = InMemoryMetricReader()
    return MeterProvider([reader])


def seen():
    return {point.attributes["db.client.connection.pool.name"]
            for resource in reader.get_metrics_data().resource_metrics
            for scope in resource.scope_metrics for metric in scope.metrics
            if metric.name == "db.client.connection.max" for point in metric.data.data_points}

"""


def runGlobal(code):
    output = subprocess.run([sys.executable, "-c", GLOBAL + code], cwd=ROOT, text=True,
                            capture_output=True, timeout=PATIENCE)
    assert output.returncode == 0 and output.stderr == "", output.stderr


@pytest.mark.parametrize("order", list(itertools.product(["before", "given", "after"], repeat=2)))
def test_the_global_provider_may_be_set_before_or_afterwards(order):
    runGlobal(f"""
order = {order!r}
provider = sdk()
for pool, when in zip(pools, order):
    if when == "before":
        observe(pool)
metrics.set_meter_provider(provider)
for pool, when in zip(pools, order):
    if when == "given":
        observe(pool, provider)
    if when == "after":
        observe(pool)
observe(third)
assert seen() == set("123"), seen()
""")


def test_a_provider_that_is_given_and_made_global_then_sees_all():
    runGlobal("""
provider = sdk()
observe(first, provider)
metrics.set_meter_provider(provider)
observe(second)
observe(third, provider)
assert seen() == set("123"), seen()
""")


def test_without_an_sdk_nothing_happens():
    runGlobal("""
observe(first)
with first.take():
    pass
assert not any(name.startswith("opentelemetry.sdk") for name in sys.modules)
""")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_records_only_its_own_times():
    runGlobal("""
import os
provider = sdk()
observe(first, provider)
for _ in range(3):
    with first.take():
        pass
def uses():
    return {metric.name: point.count for resource in reader.get_metrics_data().resource_metrics
            for scope in resource.scope_metrics for metric in scope.metrics
            for point in metric.data.data_points if hasattr(point, "count")}[
                "db.client.connection.use_time"]
assert uses() == 3
pid = os.fork()
if pid == 0:
    with first.take():
        pass
    # The SDK goes on with what it had before the fork.
    os._exit(uses())
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 4
""")
