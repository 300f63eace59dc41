"""A pool whose psycopg2.connect was replaced by an agent: what it returns is a proxy."""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys

import psycopg2
import pytest

import tests
from queuepool import Reason
from tests.helpers import awaitTrue, start
from tests.postgres.agents import AGENTS, CHECKS, PROXIES, Situation, patched, value

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(tests.__file__)))


@pytest.fixture(params=PROXIES)
def traced(request, monkeypatch):
    """Replace psycopg2.connect, once for each kind of proxy; list what passed through them."""
    if request.param == "wrapt":
        pytest.importorskip("wrapt")
    traced = []
    monkeypatch.setattr(psycopg2, "connect", patched(request.param, traced))
    return traced


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_pool_works_through_a_proxy(traced, check, dsn):
    with contextlib.ExitStack() as stack:
        check(Situation(dsn, lambda: len(traced), stack))


def isInstalled(module):
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that would hold it
        return False


@pytest.mark.parametrize("agent", AGENTS)
def test_a_pool_works_with_an_agent(agent, dsn):
    """Agents patch what the whole process uses, so that each gets a process of its own."""
    _, modules, environment = AGENTS[agent]
    missing = [module for module in modules if not isInstalled(module)]
    if missing:
        pytest.skip(f"{missing[0]} is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "tests.postgres.agents", agent, dsn], cwd=ROOT,
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    failed = json.loads(done.stdout.splitlines()[-1])
    assert not failed, "\n".join([*failed, *failed.values()])


def test_a_clean_take_and_put_through_a_proxy_sends_nothing(traced, makePool, wire, wireDsn):
    pool = makePool(dsn=wireDsn)
    wire.bytesOf(pool, 0)
    assert wire.bytesOf(pool, 20) == wire.bytesOf(pool, 0)
    assert pool.stats().opens == 1


def test_a_silent_server_is_noticed_through_a_proxy(
        traced, makePool, clock, wire, wireDsn, dsn):
    ways = [wireDsn]
    pool = makePool(2, lambda: ways[-1], clock=clock, pingTimeout=0.2)
    with pool.take() as conn, pool.take() as other:
        pass
    ways.append(dsn)
    clock.advance(31.0)
    wire.hold()
    with pool.take() as fresh:
        assert value(fresh, "select 1") == 1
    wire.release()
    assert conn.closed and other.closed
    closes = pool.stats().closesByReason
    assert closes[Reason.REPAIR] == 1 and closes[Reason.INVALIDATED] == 1


def test_a_block_through_a_proxy_is_found(traced, makePool):
    pool = makePool()
    taken = pool.take()
    taken.resource.__enter__()  # a proxy's with statement ends in this
    pool.put(taken)
    with pool.take():
        pass
    assert pool.stats().opens == 2


@pytest.mark.usefixtures("posix")
def test_a_busy_connection_is_closed_through_a_proxy(traced, makePool, admin):
    pool = makePool(autocommit=True)
    taken = pool.take()
    conn = taken.resource
    pid = conn.get_backend_pid()
    sleeper = start(value, conn, "select pg_sleep(60)")
    awaitTrue(lambda: admin.isAt(conn, "select pg_sleep(60)"))
    pool.put(taken)
    with pytest.raises(psycopg2.Error):
        sleeper.result()
    assert conn.closed
    admin.terminate(pid)
