"""Two servers: where the connections go when the one that was the primary is it no more."""

import threading
import time

import psycopg2
import pytest
from psycopg2.extensions import make_dsn

from queuepool import Reason
from tests.helpers import awaitTrue, checkWhole, openAll, start
from tests.postgres.server import Server


@pytest.fixture
def pair(posix, embeddedServer):
    """A primary, and a hot standby that follows it."""
    with Server(embeddedServer.bin) as primary, Server(embeddedServer.bin) as standby:
        primary.create()
        primary.start()
        primary.value("create table t (word text)")
        standby.copy(primary)
        standby.start()
        yield primary, standby


@pytest.fixture
def pairDsn(pair):
    return make_dsn(
        host="127.0.0.1,127.0.0.1", port=f"{pair[0].port},{pair[1].port}", user="postgres",
        dbname="postgres", target_session_attrs="read-write", connect_timeout=2)


def write(pool):
    """Write a row; return the port of the server that has it."""
    with pool.take() as conn, conn, conn.cursor() as cur:
        cur.execute("insert into t values ('word')")
        cur.execute("select inet_server_port()")
        return cur.fetchone()[0]


def portsOf(pool):
    """Return the ports of the servers that a pool's connections lead to."""
    taken = [pool.take() for _ in range(pool.capacity)]
    ports = {each.resource.info.port for each in taken}
    for each in taken:
        pool.put(each)
    return ports


def promote(standby):
    standby.promote()
    awaitTrue(lambda: not standby.value("select pg_is_in_recovery()"))


@pytest.mark.alone
@pytest.mark.parametrize("how", ["stop", "kill"])
def test_after_a_fail_over_writers_find_the_new_primary(frailPool, pair, pairDsn, how):
    primary, standby = pair
    pool = frailPool(10, pairDsn, openRetryTime=30.0)
    openAll(pool)
    assert write(pool) == primary.port
    awaitTrue(lambda: standby.value("select count(*) from t") == 1)
    getattr(primary, how)()
    writing = [start(write, pool) for _ in range(20)]  # while there is no primary
    threading.Event().wait(0.3)
    promote(standby)
    promotedAt = time.monotonic()
    assert {each.result() for each in writing} == {standby.port}
    took = time.monotonic() - promotedAt
    assert portsOf(pool) == {standby.port}
    assert took < 1.5
    assert standby.value("select count(*) from t") == 21
    checkWhole(pool)


def test_without_retries_the_fail_over_is_the_drivers_error(frailPool, pair, pairDsn):
    primary, standby = pair
    pool = frailPool(3, pairDsn)
    openAll(pool)
    primary.stop()
    with pytest.raises(psycopg2.OperationalError, match="refused"):
        write(pool)
    promote(standby)
    assert write(pool) == standby.port
    checkWhole(pool)


def demote(server):
    """Make the server read-only as a demotion does that keeps the connections.

    A real demotion needs a restart, which ends them; a managed service's proxy keeps them.
    """
    server.value("alter system set default_transaction_read_only = on")
    server.value("select pg_reload_conf()")
    awaitTrue(lambda: server.value("show default_transaction_read_only") == "on")


def test_one_write_on_an_old_primary_leads_all_to_the_new_one(frailPool, pair, pairDsn, clock):
    primary, standby = pair
    pool = frailPool(10, pairDsn, clock=clock)
    openAll(pool)
    promote(standby)
    demote(primary)
    clock.advance(1.0)
    with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
        write(pool)
    stats = pool.stats()
    assert stats.open == 0
    assert stats.closesByReason[Reason.INVALIDATED] == 10
    assert portsOf(pool) == {standby.port}
    assert write(pool) == standby.port
    checkWhole(pool)


def test_a_primary_that_freezes_costs_one_ping(frailPool, pair, pairDsn):
    primary, standby = pair
    pool = frailPool(5, pairDsn, pingTime=0.05, pingTimeout=0.3, openRetryTime=30.0)
    openAll(pool)
    threading.Event().wait(0.1)
    primary.freeze()
    promote(standby)
    startedAt = time.monotonic()
    # After the ping each connect waits its connect_timeout, 2 s at the least, for the host that
    # is named first: libpq knows of no other way to find out.
    assert write(pool) == standby.port
    took = time.monotonic() - startedAt
    assert 0.3 <= took < 4.0
    stats = pool.stats()
    assert stats.closesByReason[Reason.INVALIDATED] == 4


def test_a_way_that_changes_is_taken_after_invalidate(frailPool, pair):
    """As a name in the DNS does, or the address that a registry tells."""
    primary, standby = pair
    promote(standby)
    ports = [primary.port]
    pool = frailPool(3, host="127.0.0.1", port=lambda: ports[-1])
    openAll(pool)
    ports.append(standby.port)
    assert portsOf(pool) == {primary.port}
    pool.invalidate()
    assert portsOf(pool) == {standby.port}


def test_readers_that_prefer_a_standby_go_where_one_is(frailPool, pair, pairDsn):
    primary, standby = pair
    pool = frailPool(3, make_dsn(pairDsn, target_session_attrs="prefer-standby"))
    assert portsOf(pool) == {standby.port}
    standby.stop()
    assert portsOf(pool) == {primary.port}
    checkWhole(pool)
