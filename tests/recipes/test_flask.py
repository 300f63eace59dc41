"""Flask: a connection in each view, one for a whole request, and a health check."""

import threading
from types import SimpleNamespace

import psycopg2
import pytest

from queuepool.psycopg2 import ConnectionPool
from tests.helpers import checkWhole, runTogether

pytest.importorskip("flask", reason="Flask is not installed")


@pytest.fixture
def web(recipe):
    return recipe("Flask, and any threaded server")


@pytest.fixture
def withG(recipe, web, dsn, admin):
    """The application with ``g``, on a pool that notes what closeOnException is asked."""
    admin.query("create table visits (page text)")
    errors = []

    def note(error):
        errors.append(error)
        return False

    with ConnectionPool("g", 3, dsn, closeOnException=note) as pool:
        recipe("Flask with g", app=web.app, pool=pool)
        yield SimpleNamespace(app=web.app, pool=pool, errors=errors)


def test_a_view_of_flask_takes_a_connection(web):
    answer = web.app.test_client().get("/answer")
    assert (answer.status_code, answer.json) == (200, {"answer": 42})
    assert "queuepool recycler web" in [thread.name for thread in threading.enumerate()]
    checkWhole(web.pool)


def test_twelve_threads_of_flask_with_g_share_three_connections(withG, admin):
    def visit():
        client = withG.app.test_client()
        return [client.post(f"/visits/{page}").status_code for page in range(5)]

    assert runTogether(*[visit] * 12) == [[204] * 5] * 12
    assert admin.value("select count(*) from visits") == 60
    assert withG.pool.stats().opens <= 3
    assert not withG.errors
    checkWhole(withG.pool)


def test_a_request_that_fails_returns_the_connection_with_its_exception(withG, admin):
    admin.query("alter table visits add check (page <> 'none')")
    assert withG.app.test_client().post("/visits/none").status_code == 500
    assert [type(error) for error in withG.errors] == [psycopg2.errors.CheckViolation]
    assert withG.pool.stats().opens == 1 and withG.pool.stats().closes == 0
    checkWhole(withG.pool)


def test_what_a_request_did_not_commit_is_rolled_back_at_its_end(withG, recipe, admin):
    withG.app.add_url_rule("/forgets", view_func=forgetfulView(recipe("Flask with g", **{
        "app": SimpleNamespace(teardown_appcontext=keep, post=lambda rule: keep),
        "pool": withG.pool})))
    assert withG.app.test_client().get("/forgets").status_code == 200
    assert admin.value("select count(*) from visits") == 0
    checkWhole(withG.pool)


def keep(function):
    return function


def forgetfulView(module):
    def forget():
        with module.database().cursor() as cur:
            cur.execute("insert into visits values ('never seen')")
        return "forgotten"

    return forget


@pytest.fixture
def health(recipe, web):
    return recipe("Health check", app=web.app, pool=web.pool)


def get(health, path):
    answer = health.app.test_client().get(path)
    return answer.status_code, answer.json


def test_a_program_whose_database_answers_is_ready(health):
    assert get(health, "/alive") == (204, None)
    assert get(health, "/ready") == (200, {"open": 1, "taken": 0, "waiting": 0})


def test_a_program_whose_database_is_down_is_alive_and_not_ready(health):
    with ConnectionPool("down", 1, host="127.0.0.1", port=1) as health.pool:
        assert get(health, "/alive") == (204, None)
        assert get(health, "/ready") == (503, {"error": "OperationalError"})


class ImpatientPool(ConnectionPool):
    """A pool whose takes do not wait."""

    def take(self, timeout=None):
        return super().take(0)


def test_a_program_whose_pool_is_busy_or_closed_is_not_ready(health, dsn):
    with ImpatientPool("busy", 1, dsn) as health.pool:
        with health.pool.take():
            status, answer = get(health, "/ready")
            assert status == 503 and "PoolTimeout" in answer["error"]
    status, answer = get(health, "/ready")
    assert status == 503 and "PoolClosed" in answer["error"]
