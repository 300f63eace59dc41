"""Django's backend, with the real Django, each time in a process of its own.

Django can be configured once in a process, and here it is to believe that there is no psycopg 3.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.helpers import PATIENCE

pytest.importorskip("django", reason="Django is not installed")

ROOT = Path(__file__).parents[2]

needsFork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

#: What every program has.
PRELUDE = """
import threading

import django
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, InterfaceError, connection, connections, transaction
import psycopg2

django.setup()

from queuepool import PoolTimeout
from tests.helpers import awaitTrue, start
from tests.integrations.django.shop.models import Item
from tests.integrations.django.shop.views import backend


def one(statement, args=None, connection=connection):
    with connection.cursor() as cur:
        cur.execute(statement, args)
        return cur.fetchone()[0]


def raised(kind, function, *args):
    try:
        function(*args)
    except kind as error:
        return error
    raise AssertionError(f"{kind} was not raised")


def get(url):
    # As a server does it: the test client would not close connections.
    from django.test import RequestFactory
    from tests.integrations.django.wsgi import application

    answers = []
    response = application(RequestFactory().get(url).environ, lambda *each: answers.append(each))
    try:
        return answers[0][0][:3], b"".join(response)
    finally:
        response.close()


def createTables():
    with connection.schema_editor() as editor:
        editor.create_model(Item)
    connection.close()
"""


@pytest.fixture
def environment(parameters):
    return {**os.environ, "PYTHONPATH": str(ROOT), "SERVER": json.dumps(parameters),
            "DJANGO_SETTINGS_MODULE": "tests.integrations.django.settings"}


@pytest.fixture
def python(environment, tmp_path):
    """Run a Python with the project's settings, and return what it printed."""
    def run(*args, databases={"default": {}}, fails=False, **more):
        done = subprocess.run(
            [sys.executable, *args], cwd=tmp_path, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE,
            env={**environment, "DATABASES": json.dumps(databases), **more})
        assert bool(done.returncode) is fails, done.stdout
        return done.stdout

    return run


@pytest.fixture
def program(python):
    """Run a program that has the prelude."""
    def run(text, **kwargs):
        return python("-c", PRELUDE + textwrap.dedent(text), **kwargs)

    return run


# -- settings


@pytest.mark.skipif(find_spec("psycopg") is None, reason="psycopg 3 is not installed")
def test_psycopg3_beside_it_is_refused_with_what_to_do(program):
    printed = program("connection.ensure_connection()", fails=True, SHOW_PSYCOPG3="yes")
    assert "ImproperlyConfigured: queuepool.django needs psycopg2, but psycopg 3" in printed
    assert 'sys.modules["psycopg"] = None' in printed


@pytest.mark.parametrize("missing, advice", [
    ("psycopg2", "queuepool.django needs the driver psycopg2, .* pip install psycopg2-binary"),
    ("django", "queuepool.django needs Django, .* pip install django")])
def test_what_is_not_installed_is_named_with_what_to_do(python, missing, advice):
    printed = python("-c", f"import sys; sys.modules[{missing!r}] = None\n"
                           f"import queuepool.django.base", fails=True)
    assert re.search(f"\nImportError: {advice}", printed), printed


WRONG = [
    ({"CONN_MAX_AGE": 60}, "CONN_MAX_AGE must be 0 with a pool"),
    ({"CONN_MAX_AGE": None}, "CONN_MAX_AGE must be 0 with a pool"),
    ({"OPTIONS": {"pool": 10}}, "OPTIONS['pool'] must be a dict, True or False, not int"),
    ({"OPTIONS": {"pool": {"max_size": 10}}}, "OPTIONS['pool'] has no 'max_size'"),
    ({"OPTIONS": {"pool": {"dsn": "host=elsewhere"}}}, "OPTIONS['pool'] has no 'dsn'"),
    ({"OPTIONS": {"pool": {"capacity": "ten"}}}, "capacity must be an integer >= 1"),
    ({"OPTIONS": {"isolation_level": 99}}, "Invalid transaction isolation level 99"),
]


def test_wrong_settings_are_refused(program):
    program(f"""
        for number, message in enumerate({[message for _, message in WRONG]!r}):
            wrong = connections[f"wrong{{number}}"]
            for function in wrong.ensure_connection, lambda: wrong.pool:
                error = raised(ImproperlyConfigured, function)
                assert message in str(error), error
        """, databases={"default": {}, **{
            f"wrong{number}": changes for number, (changes, _) in enumerate(WRONG)}})


def test_a_pool_is_made_at_the_first_query_unless_it_is_not_wanted(program):
    program("""
        def pids(connection):
            pids = set()
            for _ in range(3):
                pids.add(one("SELECT pg_backend_pid()", connection=connection))
                connection.close()
            return len(pids)

        assert {alias: pids(connections[alias]) for alias in connections} == dict(
            default=1, same=1, empty=1, without=3)
        assert {alias: connections[alias].pool and connections[alias].pool.capacity
                for alias in connections} == dict(default=10, same=10, empty=10, without=None)
        """, databases={"default": {"OPTIONS": {}}, "same": {"OPTIONS": {"pool": True}},
                        "empty": {"OPTIONS": {"pool": {}}},
                        "without": {"OPTIONS": {"pool": False}}})


def test_the_options_of_the_pool_and_of_the_connection_are_used(program):
    program("""
        from django.db.backends.postgresql.psycopg_any import IsolationLevel

        assert one("SHOW application_name") == "shop"
        assert one("SHOW transaction_isolation") == "repeatable read"
        assert one("SELECT current_user") == "pg_monitor"
        assert connection.isolation_level == IsolationLevel.REPEATABLE_READ
        connection.close()
        with transaction.atomic():
            assert one("SHOW transaction_isolation") == "repeatable read"
        assert one("SELECT current_user") == "pg_monitor"
        assert connection.pool.capacity == 2 and connection.pool.maxWaiting == 7
        assert connection.pool.report().recyclerRuns
        """, databases={"default": {"OPTIONS": {
            "pool": {"capacity": 2, "maxWaiting": 7}, "application_name": "shop",
            "isolation_level": 2, "assume_role": "pg_monitor"}}})


# -- take and put


def test_a_connection_is_taken_at_the_first_query_and_put_at_close(program):
    program("""
        pool = connection.pool
        assert pool.name == "default" and pool.stats().opens == 0
        pid, _ = backend()
        assert type(connection.connection) is psycopg2.extensions.connection
        assert pool.stats().taken == 1
        connection.close()
        assert connection.connection is None and pool.stats().taken == 0
        connections.close_all()
        assert backend()[0] == pid and pool.stats().opens == 1
        assert connection.pool is pool
        connection.connect()
        assert backend()[0] == pid and pool.stats().taken == 1
        other = connection.copy()
        assert one("SELECT pg_backend_pid()", connection=other) != pid
        assert other.pool is pool and pool.stats().taken == 2
        other.close()
        connections.close_all()
        assert pool.stats().taken == 0
        """)


def test_requests_use_the_same_connection_and_leave_no_transaction(program):
    program("""
        createTables()
        pids = {get("/which") for _ in range(5)}
        assert get("/failing")[0] == "500"
        assert b'"items": []' in get("/which?items")[1]
        assert pids == {get("/which")}
        stats = connection.pool.stats()
        assert stats.taken == 0 and stats.opens == 1 and stats.takes >= 9, stats
        """, databases={"default": {"ATOMIC_REQUESTS": True}})


def test_errors_of_the_pool_are_those_of_django(program):
    program("""
        def query():
            return raised(OperationalError, one, "SELECT 1")

        with transaction.atomic():
            one("SELECT 1")
            error = start(query).result()
        assert "[queuepool:exhausted]" in str(error)
        assert isinstance(error.__cause__, PoolTimeout)
        assert error.__cause__.report.holders[0].thread == "MainThread"
        assert one("SELECT 1") == 1
        connection.close()

        def configure(conn):
            conn.autocommit = False
            with conn.cursor() as cur:
                try:
                    cur.execute("nonsense")
                except psycopg2.Error:
                    pass

        connection.settings_dict["OPTIONS"]["pool"]["configure"] = configure
        assert "[queuepool:configure]" in str(query())
        connection.settings_dict["HOST"] = "/nowhere"
        assert "/nowhere" in str(query())
        """, databases={"default": {"OPTIONS": {"pool": {"capacity": 1, "takeTimeout": 0}}}})


def test_who_waits_for_a_pool_that_is_closed_goes_on_with_the_next(program):
    program("""
        pool = connection.pool
        pid, _ = backend()
        waiting = start(backend)
        awaitTrue(lambda: pool.stats().waiting == 1)
        connection.close_pool()
        assert waiting.result()[0] != pid
        connection.close()
        assert pool.stats().open == 0 and connection.pool is not pool
        """, databases={"default": {"OPTIONS": {"pool": {"capacity": 1}}}})


def test_a_take_goes_on_however_often_another_thread_closes_the_pool(program):
    program("""
        opens = 0

        def configure(conn):
            global opens
            opens += 1
            if opens <= most:  # as another thread may do meanwhile
                connection.close_pool()

        options = connection.settings_dict["OPTIONS"]["pool"] = {"configure": configure}
        most = 5
        assert one("SELECT 1") == 1 and opens == 6
        connection.close()
        connection.close_pool()
        options["takeTimeout"], most = 0.1, 1_000_000
        assert "[queuepool:" in str(raised(OperationalError, one, "SELECT 1"))
        """)


def test_what_a_user_leaves_behind_does_not_reach_the_next_one(program):
    program("""
        createTables()
        pid, _ = backend()

        connection.set_autocommit(False)
        Item.objects.create(name="lost")
        connection.close()
        assert connection.get_autocommit() and Item.objects.count() == 0

        try:
            with transaction.atomic():
                Item.objects.create(name="lost")
                connection.close()
                assert connection.pool.stats().taken == 0
                assert raised(Exception, Item.objects.count)
        except transaction.TransactionManagementError:
            pass
        assert Item.objects.count() == 0

        try:
            with transaction.atomic():
                one("nonsense")
        except django.db.ProgrammingError:
            pass
        Item.objects.create(name="kept")
        connection.close()

        one("SET TIME ZONE 'Asia/Tokyo'; SELECT 1")
        connection.close()
        assert one("SHOW TIME ZONE") == "UTC"
        assert backend()[0] == pid and Item.objects.get().name == "kept"
        """)


def test_transactions_by_hand_begin_and_end_as_with_django(program):
    program("""
        with connections["setup"].schema_editor() as editor:
            editor.create_model(Item)
        Item.objects.create(name="kept")
        connection.commit()
        Item.objects.create(name="lost")
        connection.close()
        assert not connection.get_autocommit() and Item.objects.get().name == "kept"
        connection.rollback()
        one("SET TIME ZONE 'Asia/Tokyo'; SELECT 1")
        connection.commit()
        connection.close()
        assert one("SHOW TIME ZONE") == "UTC"
        connection.rollback()
        assert one("SHOW TIME ZONE") == "UTC" and connection.pool.stats().opens == 1
        """, databases={"default": {"AUTOCOMMIT": False}, "setup": {}})


def test_a_cursor_ends_with_its_connection(program):
    program("""
        plain = connection.cursor()
        chunked = connection.chunked_cursor()
        chunked.execute("SELECT generate_series(1, 1000)")
        assert chunked.fetchmany(2) == [(1,), (2,)]
        connection.close()
        assert one("SELECT count(*) FROM pg_cursors") == 0
        with transaction.atomic():
            assert "closed" in str(raised(InterfaceError, plain.execute, "SELECT 1"))
            assert "closed" in str(raised(InterfaceError, chunked.fetchmany, 2))
            one("SELECT 1")

        with transaction.atomic():
            chunked = connection.chunked_cursor()
            chunked.execute("SELECT generate_series(1, 1000)")
            chunked.fetchone()
        connection.close()
        assert one("SELECT count(*) FROM pg_cursors") == 0
        assert connection.pool.stats().opens == 1
        """)


def test_rows_of_json_and_of_times_are_as_django_wants_them(program):
    program("""
        import datetime

        createTables()
        soldAt = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)
        Item.objects.create(name="one", details={"size": [1]}, soldAt=soldAt)
        for _ in range(2):
            item = Item.objects.get()
            assert item.details == {"size": [1]} and item.soldAt == soldAt
            assert one("SELECT details FROM shop_item") == '{"size": [1]}'
            assert [each.name for each in Item.objects.iterator()] == ["one"]
            connection.close()
        """)


def test_the_time_zone_follows_the_settings(program):
    program("""
        from django.test import override_settings

        pools = [connection.pool]
        assert one("SHOW TIME ZONE") == "UTC"
        with override_settings(USE_TZ=False, TIME_ZONE="Asia/Tokyo"):
            assert one("SHOW TIME ZONE") == "Asia/Tokyo"
            connection.close()
            assert one("SHOW TIME ZONE") == "Asia/Tokyo"
            pools.append(connection.pool)
        assert one("SHOW TIME ZONE") == "UTC"
        connection.close()
        assert one("SHOW TIME ZONE") == "UTC"
        assert [pool.closed for pool in pools] == [True, True]
        assert [pool.stats().open for pool in pools] == [0, 0]
        """)


def test_a_lost_connection_is_replaced_and_a_failover_replaces_all(program):
    program("""
        other = connection.copy()
        with connection.cursor():
            pid = one("SELECT pg_backend_pid()", connection=other)
            one("SELECT pg_terminate_backend(%s)", [pid])
            error = raised(OperationalError, one, "SELECT 1", None, other)
            assert "terminating connection" in str(error)
            error = raised(InterfaceError, one, "SELECT 1", None, other)
            assert "terminating connection" in str(error)  # psycopg2 does not tell it here
        other.close()
        connection.close()
        assert one("SELECT 1", connection=other) == 1
        other.close()

        pool = connection.pool
        generation = pool.generation
        one("SELECT 1")
        raised(django.db.ProgrammingError, one, "nonsense")
        assert pool.generation is generation
        pool.clock, clock = lambda: clock() + 10.0, pool.clock
        one("SET default_transaction_read_only = on; SELECT 1")  # as a standby has it
        raised(django.db.InternalError, one, "CREATE TABLE new ()")
        assert pool.generation is not generation
        """)


# -- threads and processes


def test_a_thread_that_ends_without_close_gives_its_connection_back(program):
    printed = program("""
        import logging

        logging.basicConfig(format="%(message)s")
        pool = connection.pool
        assert pool.capacity == 3

        def leave():
            transaction.set_autocommit(False)
            return one("SELECT pg_backend_pid()")

        left = [start(leave).result() for _ in range(4)]
        assert len(set(left)) == 4 and pool.stats().taken == 0
        awaitTrue(lambda: not one(
            "SELECT count(*) FROM pg_stat_activity WHERE pid = any(%s)", [left]))
        """)
    assert printed.count("[queuepool:dropped]") == 4


def test_a_connection_shared_with_other_threads_outlives_its_own(program):
    program("""
        def make():
            connection.inc_thread_sharing()
            return connections["default"], backend()[0]

        shared, pid = start(make).result()
        assert one("SELECT pg_backend_pid()", connection=shared) == pid
        shared.close()
        assert connection.pool.stats().taken == 0
        """)


@needsFork
def test_a_child_process_leaves_the_connections_to_its_parent(program):
    printed = program("""
        import os
        import warnings

        warnings.simplefilter("ignore", DeprecationWarning)  # fork() beside the recycler's thread

        def inChild(function):
            pid = os.fork()
            if not pid:
                try:
                    function()
                except BaseException as error:
                    print(repr(error), flush=True)
                finally:
                    os._exit(0)
            os.waitpid(pid, 0)

        def query():
            print("session", backend()[0], flush=True)
            connection.close()
            assert connection.pool.stats().taken == 0

        createTables()
        print("session", backend()[0], flush=True)
        inChild(query)
        with transaction.atomic():
            Item.objects.create(name="one")
            cursor = connection.chunked_cursor()
            cursor.execute("SELECT generate_series(1, 1000)")
            inChild(query)
            assert len(cursor.fetchall()) == 1000
        print("session", backend()[0], flush=True)
        assert Item.objects.count() == 1
        """).splitlines()
    parent, child, error, again = printed
    assert parent.startswith("session") and child.startswith("session")
    assert parent == again and child != parent
    assert "ProgrammingError" in error or "TransactionManagementError" in error


def test_threads_of_a_server_wait_for_each_other(program):
    program("""
        from concurrent.futures import ThreadPoolExecutor
        from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
        from urllib.request import urlopen
        from tests.integrations.django.wsgi import application

        class Quiet(WSGIRequestHandler):
            def log_message(self, *args):
                pass

        with ThreadedWSGIServer(("127.0.0.1", 0), Quiet) as server:
            server.set_app(application)
            serving = start(server.serve_forever)
            url = f"http://127.0.0.1:{server.server_port}/sleeping"
            with ThreadPoolExecutor(8) as executor:
                pids = set(executor.map(lambda _: urlopen(url).read(), range(24)))
            server.shutdown()
            serving.result()
        stats = connection.pool.stats()
        assert len(pids) <= 3 and stats.opens <= 3 and stats.taken == 0 and stats.waits, stats
        """)


GUNICORN_CONFIG = """
preload_app = True
workers = 2
threads = 2
control_socket_disable = True
"""


@needsFork
def test_processes_and_threads_of_gunicorn_have_sessions_of_their_own(environment, tmp_path):
    pytest.importorskip("gunicorn", reason="gunicorn is not installed")
    (tmp_path / "gunicorn.conf.py").write_text(GUNICORN_CONFIG)
    with socket.create_server(("127.0.0.1", 0)) as place:
        url = f"http://127.0.0.1:{place.getsockname()[1]}/sleeping"
        master = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "--bind", f"fd://{place.fileno()}",
             "tests.integrations.django.wsgi:application"],
            cwd=tmp_path, start_new_session=True, pass_fds=[place.fileno()],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**environment, "QUERY_WHEN_READY": "keep"})
    try:
        answers = []
        with ThreadPoolExecutor(6) as executor:
            while len({each["process"] for each in answers}) < 2:
                answers += map(json.load, executor.map(
                    lambda _: urlopen(url, timeout=PATIENCE), range(12)))
        master.send_signal(signal.SIGTERM)
        assert master.wait(PATIENCE) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(master.pid, signal.SIGKILL)
        master.wait(PATIENCE)
    [ofMaster] = {each["sessionsAtStart"][0] for each in answers}
    sessions = {(each["pid"], each["process"]) for each in answers}
    pids = {pid for pid, _ in sessions}
    assert ofMaster not in pids and len(pids) == len(sessions) <= 4


def test_coroutines_of_a_view_share_the_thread_of_the_request(program):
    program("""
        import asyncio
        from asgiref.testing import ApplicationCommunicator
        from django.core.asgi import get_asgi_application
        from django.test import AsyncRequestFactory

        createTables()
        application = get_asgi_application()

        async def request():
            scope = AsyncRequestFactory().get("/gathering").scope
            server = ApplicationCommunicator(application, scope)
            await server.send_input({"type": "http.request"})
            await server.receive_output(10)
            body = (await server.receive_output(10))["body"]
            await server.wait(10)  # until the request has finished
            return body

        assert asyncio.run(request()) == b'{"count": 5}'
        assert connection.pool.stats().taken == 0
        """)


@needsFork
def test_celery_finds_and_leaves_connections_as_it_expects(program):
    pytest.importorskip("celery", reason="Celery is not installed")
    program("""
        import os
        import queue
        import warnings
        from types import SimpleNamespace
        from celery import Celery
        from celery.contrib.testing.worker import start_worker
        from celery.fixups.django import DjangoWorkerFixup

        app = Celery("shop", broker="memory://", set_as_current=False)
        app.conf.broker_transport_options = {"polling_interval": 0.02}
        sessions = queue.Queue()

        @app.task
        def session():
            sessions.put(backend()[0])

        warnings.simplefilter("ignore", DeprecationWarning)  # fork() beside the recycler's thread
        fixup = DjangoWorkerFixup(app)
        fixup.worker = SimpleNamespace(pool_cls="celery.concurrency.prefork:TaskPool")
        before = backend()[0]
        child = os.fork()
        if not child:
            fixup.on_worker_process_init()
            fixup.on_task_prerun(session)
            session()
            isAnother = sessions.get() != before
            fixup.on_task_postrun(session)
            os._exit(0 if isAnother and connection.pool.stats().taken == 0 else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert backend()[0] == before
        connection.close()

        with start_worker(app, pool="threads", concurrency=2, perform_ping_check=False):
            for _ in range(6):
                session.delay()
            pids = {sessions.get(timeout=20) for _ in range(6)}
            assert len(pids) <= 2, pids
            awaitTrue(lambda: connection.pool.stats().taken == 0)
            os._exit(0)  # its worker would take 4 s to stop
        """)


# -- test runs, several aliases and commands


REPLICA = {"default": {}, "replica": {"TEST": {"MIRROR": "default"}}}


@pytest.mark.parametrize("wish, arguments", [
    ("yes", ()), ("keep", ()), ("yes", ("--parallel", "2"))], ids=str)
def test_a_test_run_uses_the_test_database(python, admin, wish, arguments):
    printed = python("-m", "django", "test", "--noinput", *arguments,
                     "tests.integrations.django.suite", databases=REPLICA, QUERY_WHEN_READY=wish)
    assert "\nRan 7 tests" in printed and "\nOK\n" in printed
    names = {name for name, in admin.query("SELECT datname FROM pg_database")}
    assert not any(name.startswith("test_") for name in names)


def test_each_alias_has_a_pool_that_leads_where_it_leads(program):
    program("""
        pools = {alias: connections[alias].pool for alias in connections}
        assert {alias: pool.name for alias, pool in pools.items()} == {
            alias: alias for alias in connections}
        for alias in connections:
            one("SELECT 1", connection=connections[alias])
        connections.close_all()
        connections["other"].close_pool()
        assert [pools[alias].closed for alias in connections] == [False, True, False]
        connection.close_pool()
        assert pools["default"].closed and pools["replica"].closed
        assert not connection.pool.closed
        connection.settings_dict["NAME"] = "postgres"
        old = connection.pool
        assert one("SELECT current_database()") == "postgres"
        """, databases={"default": {}, "other": {"NAME": "template1"}, "replica": {}})


def test_threads_that_see_an_alias_differently_have_pools_of_their_own(program):
    program("""
        tenant = connection.copy()
        tenant.settings_dict["NAME"] = "template1"

        def database(connection):
            name = one("SELECT current_database()", connection=connection)
            connection.close()
            return name

        def useBoth():
            assert database(tenant) == "template1"
            assert database(connection) == connection.settings_dict["NAME"]

        pools = [connection.pool, tenant.pool]
        for _ in range(3):
            useBoth()
        one("SELECT 1")
        assert database(tenant) == "template1" and one("SELECT 2") == 2
        connection.close()
        assert [pool.stats().opens for pool in pools] == [1, 1]
        assert [connection.pool, tenant.pool] == pools
        connection.close_pool()
        assert [pool.closed for pool in pools] == [True, True]
        useBoth()
        connection.close_pool()  # or else nobody could make a database like template1
        """)


def test_threads_of_two_time_zones_share_a_pool(program):
    program("""
        other = connection.copy()
        other.settings_dict["TIME_ZONE"] = "Asia/Tokyo"
        for _ in range(3):
            for connection, zone in (other, "Asia/Tokyo"), (connections["default"], "UTC"):
                assert one("SHOW TIME ZONE", connection=connection) == zone
                connection.close()
        assert other.pool is connection.pool and connection.pool.stats().opens == 1
        """)


def test_a_new_password_is_used_for_the_next_connection_of_the_same_pool(program):
    printed = program("""
        pool = connection.pool
        assert one("SELECT 1") and not connection.connection.info.password
        other = connection.copy()
        for password in "first", lambda: "second":
            other.settings_dict["PASSWORD"] = password
            assert one("SELECT 1", connection=other) == 1
            assert other.pool is pool
            print(other.connection.info.password)
            pool.invalidate()
            other.close()
        """)
    assert printed == "first\nsecond\n"


def test_an_alias_has_not_more_pools_than_are_in_use(program):
    program("""
        from queuepool.django.base import MOST_POOLS

        def poolOf(number):
            connection.settings_dict["OPTIONS"]["application_name"] = f"tenant {number}"
            return connection.pool

        pools = [poolOf(number) for number in range(MOST_POOLS)]
        taken = pools[0].take()
        assert poolOf(1) is pools[1]  # so the third is the one used longest ago
        assert not any(pool.closed for pool in pools)
        pools += [poolOf(number) for number in range(MOST_POOLS, MOST_POOLS + 2)]
        assert [number for number, pool in enumerate(pools) if pool.closed] == [2, 3]
        assert poolOf(0) is pools[0] and poolOf(2) is not pools[2] and pools[4].closed
        pools[0].put(taken)
        """)


def test_commands_and_what_looks_at_queries_work(program):
    program("""
        import io
        from django.conf import settings
        from django.core.management import call_command

        createTables()
        out = io.StringIO()
        call_command("inspectdb", "shop_item", stdout=out)
        assert "class ShopItem" in out.getvalue()
        args, env = connection.client.settings_to_cmd_args_env(connection.settings_dict, [])
        assert args[0] == "psql" and args[-1] == connection.settings_dict["NAME"]
        call_command("check", databases=["default"])

        seen = []
        def look(execute, sql, params, many, context):
            seen.append(sql)
            return execute(sql, params, many, context)

        with connection.execute_wrapper(look):
            Item.objects.count()
        settings.DEBUG = True
        Item.objects.count()
        connection.close()
        assert [query["sql"] for query in connection.queries] == seen
        assert connection.is_usable() is False
        connection.ensure_connection()
        assert connection.is_usable() is True
        """)
