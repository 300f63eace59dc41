"""Pools of psycopg 3 that lead to one database of the embedded PostgreSQL."""

import contextlib

import psycopg2
import pytest

from queuepool.psycopg import ConnectionPool
from tests.postgres.conftest import admin, dsn, wire, wireDsn

__all__ = ["admin", "dsn", "wire", "wireDsn"]


@pytest.fixture(scope="session")
def parameters(embeddedServer):
    """What connects to the database of all tests here: to make one for each would take longer."""
    server = dict(host=embeddedServer.host, port=embeddedServer.port, user=embeddedServer.user)
    with contextlib.closing(psycopg2.connect(**server, dbname="postgres")) as conn:
        conn.autocommit = True
        with conn.cursor() as cur:
            cur.execute("create database psycopg3")
            yield dict(**server, dbname="psycopg3")
            cur.execute("drop database psycopg3 with (force)")


@pytest.fixture
def makePool(dsn):
    """Make pools that are closed at the test's end."""
    with contextlib.ExitStack() as stack:
        def make(capacity=1, dsn=dsn, **kwargs):
            return stack.enter_context(ConnectionPool("pool", capacity, dsn, **kwargs))
        yield make
