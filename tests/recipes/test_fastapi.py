"""FastAPI: what works with 100 clients on 5 connections, and what does not."""

import contextlib
import http.client
import inspect
import socket
import threading

import pytest

from queuepool.psycopg2 import ConnectionPool
from tests.helpers import PATIENCE, awaitTrue, awaitWaiting, checkWhole, start

fastapi = pytest.importorskip("fastapi", reason="FastAPI is not installed")
uvicorn = pytest.importorskip("uvicorn", reason="uvicorn is not installed")

CLIENTS = 100
#: How many worker threads anyio has, and starlette uses.
WORKERS = 40


@contextlib.contextmanager
def serving(app):
    """Serve the application on a loopback port while the block runs; yield the port."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="on", ws="none"))
    with socket.create_server(("127.0.0.1", 0), backlog=2 * CLIENTS) as place:
        serving = start(server.run, [place])
        try:
            yield place.getsockname()[1]
        finally:
            server.should_exit = True
            serving.result()


def askAll(app, pool, waiting):
    """Send two requests from each client, all at once, and return the statuses of the answers.

    Every connection is held until that many threads wait for one.
    """
    def ask():
        statuses = []
        for _ in range(2):
            with contextlib.closing(
                    http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as client:
                client.request("GET", "/answer")
                statuses.append(client.getresponse().status)
        return statuses

    with serving(app) as port:
        held = [pool.take() for _ in range(pool.capacity)]
        asking = [start(ask) for _ in range(CLIENTS)]
        awaitWaiting(pool, waiting)
        for each in held:
            pool.put(each)
        return [status for each in asking for status in each.result()]


def test_a_hundred_clients_of_fastapi_are_served_by_five_connections(recipe):
    fast = recipe("FastAPI")
    assert fast.pool.capacity == 5
    assert askAll(fast.app, fast.pool, WORKERS) == [200] * 2 * CLIENTS
    assert fast.pool.closed  # at the end of the lifespan
    awaitTrue(lambda: "queuepool recycler web" not in [
        thread.name for thread in threading.enumerate()])


def applicationWithDependency(pool, **options):
    def connection():
        with pool.take() as conn:
            yield conn

    app = fastapi.FastAPI()

    @app.get("/answer")
    def answer(conn=fastapi.Depends(connection, **options)):
        with conn, conn.cursor() as cur:
            cur.execute("SELECT 6 * 7")
            return {"answer": cur.fetchone()[0]}

    return app


def test_a_dependency_that_yields_a_connection_waits_for_a_thread_that_waits_for_it(dsn):
    """When this fails, FastAPI has changed: the README may recommend such a dependency then."""
    with ConnectionPool("naive", 5, dsn, takeTimeout=0.5) as pool:
        statuses = askAll(applicationWithDependency(pool), pool, WORKERS)
        assert pool.stats().timeouts == statuses.count(500) > 0
        checkWhole(pool)


@pytest.mark.skipif("max_concurrency" not in inspect.signature(fastapi.Depends).parameters,
                    reason="this FastAPI cannot limit the calls of a dependency")
def test_a_dependency_that_is_limited_to_the_capacity_may_yield_a_connection(dsn):
    with ConnectionPool("limited", 5, dsn) as pool:
        app = applicationWithDependency(pool, max_concurrency=5)
        assert askAll(app, pool, 5) == [200] * 2 * CLIENTS
        checkWhole(pool)
