"""queuepool.prometheus with the real client: what a scrape shows is what the pool counted."""

import contextlib
import gc
import http.client
import multiprocessing
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from queuepool import Pool
from tests.helpers import PATIENCE, FakeResource, PlainResource, awaitTrue, interruptOften, start
from tests.integrations import checkWork, expected, key, work

prometheus_client = pytest.importorskip(
    "prometheus_client", reason="prometheus-client is not installed")
from prometheus_client.parser import text_string_to_metric_families  # noqa: E402

from queuepool.prometheus import Collector  # noqa: E402

ROOT = Path(__file__).parents[2]
TAKES = key("queuepool_takes_total", pool="app")
USED = key("queuepool_connections", pool="app", state="used")


def samples(text):
    """Return the value of each sample by name and labels; no sample may be there twice."""
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        assert family.type in ("gauge", "counter", "histogram")
        for sample in family.samples:
            name = key(sample.name, **sample.labels)
            assert name not in found
            found[name] = sample.value
    return found


def scrape(registry):
    return samples(prometheus_client.generate_latest(registry).decode())


@pytest.fixture
def registry():
    return prometheus_client.CollectorRegistry(auto_describe=True)


@pytest.fixture
def ask(registry):
    """Scrape by HTTP, as Prometheus does."""
    server, thread = prometheus_client.start_http_server(0, "127.0.0.1", registry)

    def ask():
        with contextlib.closing(http.client.HTTPConnection(
                "127.0.0.1", server.server_port, timeout=PATIENCE)) as client:
            client.request("GET", "/metrics")
            response = client.getresponse()
            assert response.status == 200
            return samples(response.read().decode())

    yield ask
    server.shutdown()
    server.server_close()
    thread.join(PATIENCE)


def test_a_scrape_shows_what_the_pool_counted(pool, registry, ask):
    registry.register(Collector(pool))
    assert ask() == expected("app", pool.stats())
    work(pool)
    assert ask() == expected("app", checkWork(pool))
    with pool.take():
        assert ask()[USED] == 1


def test_scrapes_under_load_are_whole_and_no_counter_falls(pool, registry, ask):
    registry.register(Collector(pool))
    working = start(work, pool)
    before, scrapes = {}, 0
    while working.thread.is_alive() or not scrapes:
        found = ask()
        scrapes += 1
        for (name, labels), value in found.items():
            if name.endswith(("_total", "_bucket", "_count", "_sum")):
                assert value >= before.get((name, labels), 0.0), name
            else:
                assert value >= 0
        for what in "wait", "open", "use":
            name = f"queuepool_{what}_seconds"
            assert (found[key(name + "_bucket", pool="app", le="+Inf")]
                    == found[key(name + "_count", pool="app")])
        before = found
    working.result()
    assert ask() == expected("app", checkWork(pool))


def test_without_names_all_pools_are_shown_also_those_made_later(registry):
    registry.register(Collector())
    first = Pool("first", 1, factory=PlainResource)
    second = Pool("second", 1, factory=PlainResource)
    with first, second, second.take():
        found = scrape(registry)
    assert found[key("queuepool_takes_total", pool="first")] == 0
    assert found[key("queuepool_takes_total", pool="second")] == 1


def test_with_names_only_those_are_shown(registry):
    first = Pool("first", 1, factory=PlainResource)
    second = Pool("second", 1, factory=PlainResource)
    third = Pool("third", 1, factory=PlainResource)
    registry.register(Collector(first, third))
    shown = {dict(labels)["pool"] for _, labels in scrape(registry)}
    assert shown == {"first", "third"}
    assert second.stats().takes == 0


def test_a_collector_keeps_no_pool_alive(registry):
    pool = Pool("app", 1, factory=PlainResource)
    registry.register(Collector(pool))
    assert TAKES in scrape(registry)
    del pool
    gc.collect()
    assert scrape(registry) == {}


def test_pools_of_one_name_are_added_up_and_counters_do_not_fall(registry):
    first, second = (Pool("app", 2, factory=FakeResource) for _ in range(2))
    registry.register(Collector(first, second))
    for pool, takes in (first, 3), (second, 4):
        for _ in range(takes):
            with pool.take():
                pass
    found = scrape(registry)
    assert found[TAKES] == 7
    assert found[key("queuepool_max_connections", pool="app")] == 4
    assert found[key("queuepool_use_seconds_count", pool="app")] == 7
    del pool, first
    gc.collect()
    for _ in range(2):
        found = scrape(registry)
        assert found[TAKES] == 7
        assert found[key("queuepool_max_connections", pool="app")] == 2
    del second
    gc.collect()
    assert scrape(registry) == {}


def test_registering_reads_no_pool_and_twice_is_an_error(registry):
    class Broken(Pool):
        def stats(self):
            raise AssertionError

    pool = Broken("app", 1, factory=PlainResource)
    registry.register(Collector(pool))
    with pytest.raises(ValueError, match="queuepool_takes"):
        registry.register(Collector(pool))


def test_a_failing_scrape_is_not_the_failure_of_the_pool(registry):
    class Broken(Pool):
        def stats(self):
            raise ZeroDivisionError

    pool = Broken("app", 1, factory=PlainResource)
    registry.register(Collector(pool))
    with pytest.raises(ZeroDivisionError):
        scrape(registry)
    with pool.take() as resource:
        assert resource.isOpen


@pytest.mark.parametrize("name", ['a "b"\n\\c', "", "été", "\udc80"])
def test_any_name_of_a_pool_can_be_shown(registry, name):
    pool = Pool(name, 1, factory=PlainResource)
    registry.register(Collector(pool))
    shown = name.encode(errors="backslashreplace").decode()
    assert scrape(registry) == expected(shown, pool.stats())


@pytest.mark.parametrize("wrong", [None, "app", []])
def test_what_is_no_pool_is_refused(wrong):
    with pytest.raises(TypeError, match="Collector wants pools, not"):
        Collector(wrong)


@pytest.mark.filterwarnings("ignore:Exception ignored in")
@pytest.mark.usefixtures("posix")
def test_signal_handlers_that_raise_stop_no_other_scrape(registry):
    """As a worker's time limit: on CPython 3.14 it may come between the acquire and its block."""
    collector = Collector(Pool("app", 1, factory=PlainResource))  # gone: the quickest
    interruptOften(collector.collect, lambda: start(collector.collect).result(PATIENCE), times=1000)


def test_a_forked_child_counts_from_zero(registry):
    if not hasattr(os, "fork"):
        pytest.skip("this system cannot fork")
    output = subprocess.run([sys.executable, "-W", "error", "-c", """
import gc, os
from prometheus_client import CollectorRegistry
from queuepool import Pool
from queuepool.prometheus import Collector
from tests.helpers import PlainResource
first, second = (Pool("app", 1, factory=PlainResource) for _ in range(2))
registry = CollectorRegistry()
registry.register(Collector(first, second))
def takes():
    return registry.get_sample_value("queuepool_takes_total", {"pool": "app"})
for pool in first, first, second:
    with pool.take():
        pass
assert takes() == 3
del pool, first
gc.collect()
assert takes() == 3
pid = os.fork()
if pid == 0:
    with second.take():
        pass
    os._exit(int(takes()))
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
assert takes() == 3
"""], cwd=ROOT, text=True, capture_output=True, timeout=PATIENCE)
    assert output.returncode == 0, output.stderr


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "queuepool.prometheus")
    with pytest.raises(ImportError, match=r"pip install 'queuepool\[prometheus\]'"):
        import queuepool.prometheus  # noqa: F401


def test_importing_the_package_imports_no_library_of_metrics():
    code = ("import sys, queuepool, queuepool.psycopg2; "
            "print({'prometheus_client', 'opentelemetry'} & set(sys.modules))")
    assert subprocess.check_output(
        [sys.executable, "-c", code], cwd=ROOT, text=True, timeout=PATIENCE) == "set()\n"


# -- multiprocess mode

PROGRAM = """
import os, pickle, sys
from prometheus_client import REGISTRY
from queuepool import Pool
from queuepool.prometheus import Collector
from tests.helpers import FakeResource
from tests.integrations import work

pool = Pool("app", 2, factory=FakeResource)
collector = Collector(pool)
REGISTRY.register(collector)


def tell():
    # One write a line, whoever else writes.
    os.write(1, pickle.dumps(pool.stats(), 0).hex().encode() + b"\\n")


def run():
    work(pool)
    with pool.take():
        tell()
        os.read(0, 1)  # until the test has seen it
    with pool.take():
        pass
    tell()
"""


class Program:
    """A program in multiprocess mode."""

    def __init__(self, folder, text):
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM + text], cwd=ROOT, text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)})

    def stats(self):
        line = self.process.stdout.readline()
        assert line, "the program has failed"
        return pickle.loads(bytes.fromhex(line))

    def goOn(self, times=1):
        self.process.stdin.write("\n" * times)
        self.process.stdin.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait(PATIENCE)
        self.process.stdin.close()
        self.process.stdout.close()


def merged(folder):
    from prometheus_client import multiprocess

    registry = prometheus_client.CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, str(folder))
    try:
        return scrape(registry)
    except struct.error:  # prometheus_client fails at a file that is just being made
        return {}


def added(*many):
    """The sum of what each process has to show."""
    total = {}
    for stats in many:
        for name, value in expected("app", stats).items():
            total[name] = total.get(name, 0) + value
    return total


def isSame(found, wanted):
    """Compare exactly, but sums of seconds, which are added in another order."""
    return found.keys() == wanted.keys() and all(
        value == wanted[name] or (name[0].endswith("_sum")
                                  and value == pytest.approx(wanted[name], rel=1e-9))
        for name, value in found.items())


def isGauge(name):
    return not name[0].endswith(("_total", "_bucket", "_count", "_sum"))


def without(found):
    """Nothing is open any more, in no process."""
    return {name: 0 if isGauge(name) else value for name, value in found.items()}


def test_two_processes_are_added_up_exactly(tmp_path):
    with Program(tmp_path, "run()") as one, Program(tmp_path, "run()") as two:
        wanted = added(one.stats(), two.stats())
        assert wanted[USED] == 2 and wanted[TAKES] > 400
        awaitTrue(lambda: isSame(merged(tmp_path), wanted), 10)
        one.goOn()
        two.goOn()
        wanted = added(one.stats(), two.stats())
        assert one.process.wait(PATIENCE) == two.process.wait(PATIENCE) == 0
    # They wrote a last time at their ends: the counts stay, nothing is open.
    assert isSame(merged(tmp_path), without(wanted))


def test_the_gauges_of_a_killed_process_go_when_it_is_marked_dead(tmp_path):
    from prometheus_client import multiprocess

    with Program(tmp_path, "run()") as one, Program(tmp_path, "run()") as two:
        stats = one.stats(), two.stats()
        awaitTrue(lambda: isSame(merged(tmp_path), added(*stats)), 10)
        two.process.kill()
        two.process.wait(PATIENCE)
        multiprocess.mark_process_dead(two.process.pid, str(tmp_path))
        found = merged(tmp_path)
        assert found[USED] == 1
        assert found[TAKES] == added(*stats)[TAKES]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_forked_processes_count_what_they_did_themselves(tmp_path):
    """As gunicorn --preload: the master made the pool, used it, and forks."""
    with Program(tmp_path, """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of a fork amid threads
with pool.take():
    pass
assert collector.collect() == []  # what the master did is written before the fork
children = []
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        run()
        sys.exit()
    children.append(pid)
for pid in children:
    assert os.waitpid(pid, 0)[1] == 0
tell()
""") as program:
        children = program.stats(), program.stats()
        awaitTrue(lambda: merged(tmp_path).get(USED) == 2, 10)
        program.goOn(2)
        children = program.stats(), program.stats()
        master = program.stats()
        assert program.process.wait(PATIENCE) == 0
    assert master.takes == 1
    assert isSame(merged(tmp_path), without(added(master, *children)))


@pytest.mark.skipif(os.name == "nt", reason="there is no such signal")
def test_a_scrape_writes_what_this_process_has_counted(tmp_path):
    with Program(tmp_path, """
import queuepool.prometheus
queuepool.prometheus.WRITE_INTERVAL = 1000.0
with pool.take():
    pass
collector.collect()
tell()
os.kill(os.getpid(), 9)
""") as program:
        assert program.stats().takes == 1
        program.process.wait(PATIENCE)
    assert merged(tmp_path)[TAKES] == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_fork_while_metrics_are_written_blocks_no_child(tmp_path):
    with Program(tmp_path, """
import queuepool.prometheus, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)
queuepool.prometheus.WRITE_INTERVAL = 0.0
for name in range(20):  # much to write
    globals()[f"pool{name}"] = Pool(f"more {name}", 1, factory=FakeResource)
others = Collector()
for _ in range(40):
    pid = os.fork()
    if pid == 0:
        others.collect()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
tell()
""") as program:
        program.stats()
        assert program.process.wait(PATIENCE) == 0


def test_a_pool_of_two_collectors_is_written_once_and_an_unused_one_is_not_counted(tmp_path):
    with Program(tmp_path, """
other = Collector(pool)
third = Collector()
unused = Pool("unused", 7, factory=FakeResource)
run()
""") as program:
        wanted = added(program.stats())
        awaitTrue(lambda: merged(tmp_path).items() >= {
            name: value for name, value in wanted.items() if isGauge(name)}.items(), 10)
        program.goOn()
        stats = program.stats()
        assert program.process.wait(PATIENCE) == 0
    found = merged(tmp_path)
    assert found.pop(key("queuepool_max_connections", pool="unused")) == 0
    assert isSame({name: value for name, value in found.items()
                   if ("pool", "app") in name[1]}, without(added(stats)))


def test_a_process_with_the_id_of_an_earlier_one_goes_on_with_its_counts(tmp_path):
    program = """
import prometheus_client.values
prometheus_client.values.ValueClass = prometheus_client.values.MultiProcessValue(lambda: 1)
run()
"""
    found = []
    for _ in range(2):
        with Program(tmp_path, program) as running:
            running.goOn()
            running.stats()
            found.append(running.stats())
            assert running.process.wait(PATIENCE) == 0
    assert isSame(merged(tmp_path), without(added(*found)))


def test_a_failing_write_is_logged_once_and_tried_again(tmp_path):
    with Program(tmp_path, """
import logging, queuepool.prometheus
queuepool.prometheus.WRITE_INTERVAL = 0.001
lines = []
class Handler(logging.Handler):
    def emit(self, record):
        lines.append(record.getMessage())
logging.getLogger("queuepool").addHandler(Handler())
rounds = []
class Broken(Pool):
    def stats(self):
        rounds.append(1)
        if len(rounds) < 20:
            raise ZeroDivisionError
        return super().stats()
broken = Broken("broken", 1, factory=FakeResource)
other = Collector(broken)
run()
while len(rounds) < 30:
    pass
assert len(lines) == 1 and lines[0].endswith("[queuepool:metrics-failed]"), lines
""") as program:
        program.goOn()
        program.stats()
        stats = program.stats()
        assert program.process.wait(PATIENCE) == 0
    assert merged(tmp_path)[TAKES] == stats.takes


def test_the_thread_ends_with_the_last_collector_and_gauges_are_zero_then(tmp_path):
    with Program(tmp_path, """
import gc, threading
work(pool)
def names():
    return [thread.name for thread in threading.enumerate()]
assert "queuepool metrics" in names()
from prometheus_client import CollectorRegistry, multiprocess
registry = CollectorRegistry()
multiprocess.MultiProcessCollector(registry)
def most():
    return registry.get_sample_value("queuepool_max_connections", {"pool": "app"})
collector.collect()
assert most() == 2
REGISTRY.unregister(collector)
del collector
gc.collect()
[thread] = [each for each in threading.enumerate() if each.name == "queuepool metrics"]
thread.join()
assert most() == 0
REGISTRY.register(Collector(pool))
assert "queuepool metrics" in names()
tell()
""") as program:
        stats = program.stats()
        assert program.process.wait(PATIENCE) == 0
    assert isSame(merged(tmp_path), without(added(stats)))


GUNICORN_CONFIG = """
from prometheus_client import multiprocess

preload_app = {preload}
workers = 2
control_socket_disable = True


def child_exit(server, worker):
    multiprocess.mark_process_dead(worker.pid)
"""

GUNICORN_PROGRAM = """
import os
from prometheus_client import CollectorRegistry, REGISTRY, make_wsgi_app, multiprocess
from queuepool.psycopg2 import ConnectionPool
from queuepool.prometheus import Collector

pool = ConnectionPool("app", 2, os.environ["DSN"])
REGISTRY.register(Collector(pool))
registry = CollectorRegistry()
multiprocess.MultiProcessCollector(registry)
metrics = make_wsgi_app(registry)


def app(environ, startResponse):
    if environ["PATH_INFO"] == "/metrics":
        return metrics(environ, startResponse)
    with pool.take() as conn, conn.cursor() as cur:
        cur.execute("select 1")
    startResponse("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"""


@pytest.mark.parametrize("preload", [False, True])
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_gunicorn(tmp_path, dsn, preload):
    pytest.importorskip("gunicorn", reason="gunicorn is not installed")
    (tmp_path / "program.py").write_text(GUNICORN_PROGRAM)
    (tmp_path / "gunicorn.conf.py").write_text(GUNICORN_CONFIG.format(preload=preload))
    (tmp_path / "metrics").mkdir()

    def ask(path):
        with contextlib.closing(
                http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as client:
            client.request("GET", path)
            response = client.getresponse()
            assert response.status == 200
            return response.read().decode()

    def capacity():
        """Return that of both processes. Each writes it after its counters."""
        with contextlib.suppress(AssertionError):  # prometheus_client cannot read half a file
            return samples(ask("/metrics")).get(key("queuepool_max_connections", pool="app"))

    with socket.create_server(("127.0.0.1", 0)) as place:
        port = place.getsockname()[1]
        master = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "--bind", f"fd://{place.fileno()}", "program:app"],
            cwd=tmp_path, start_new_session=True, pass_fds=[place.fileno()],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "DSN": dsn, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics"),
                 "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), *sys.path]))})
    try:
        seen = []
        while len(set(seen)) < 2 or len(seen) < 50:  # both processes have worked
            seen.append(ask("/"))
        awaitTrue(lambda: merged(tmp_path / "metrics").get(TAKES) == len(seen), 10)
        awaitTrue(lambda: capacity() == 4, 10)
        found = samples(ask("/metrics"))
        assert found[key("queuepool_use_seconds_count", pool="app")] == len(seen)
        assert found[key("queuepool_connections", pool="app", state="idle")] == 2
        master.send_signal(signal.SIGTERM)
        assert master.wait(PATIENCE) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(master.pid, signal.SIGKILL)
        master.wait(PATIENCE)
    left = merged(tmp_path / "metrics")
    assert left[TAKES] == len(seen)
    assert left.get(USED, 0) == 0


@pytest.mark.parametrize(
    "method", sorted({"fork", "spawn"}.intersection(multiprocessing.get_all_start_methods())))
def test_a_child_of_multiprocessing_writes_at_its_end(tmp_path, method):
    program = tmp_path / "program.py"
    program.write_text(f"""
import multiprocessing
import sys
sys.path.insert(0, {str(ROOT)!r})
import prometheus_client
import queuepool.prometheus
from queuepool import Pool, Resource
queuepool.prometheus.WRITE_INTERVAL = 3600.0  # so that only the end writes

def use():
    pool = Pool("app", 1, factory=Resource)
    prometheus_client.REGISTRY.register(queuepool.prometheus.Collector(pool))
    for _ in range(7):
        with pool.take():
            pass

if __name__ == "__main__":
    child = multiprocessing.get_context({method!r}).Process(target=use)
    child.start()
    child.join()
    sys.exit(child.exitcode)
""")
    folder = tmp_path / "metrics"
    folder.mkdir()
    subprocess.run([sys.executable, program], check=True, timeout=PATIENCE, env={
        **os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)})
    assert merged(folder)[TAKES] == 7


def test_outside_of_multiprocess_mode_no_thread_is_started(registry):
    before = set(threading.enumerate())
    registry.register(Collector())
    assert set(threading.enumerate()) == before
