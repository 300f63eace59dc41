"""What a pool of real connections tells about itself."""

import logging
import threading

import psycopg2
import pytest

from queuepool import Verdict
from queuepool.psycopg2 import PoolClosed, PoolDeadlock, PoolTimeout
from tests.helpers import PATIENCE, awaitTrue, awaitWaiting, start


def runQuery(pool, query):
    with pool.take() as conn, conn.cursor() as cur:
        cur.execute(query)


def test_the_report_says_who_is_in_which_query(makePool, admin):
    pool = makePool(2)
    running = start(runQuery, pool, "SELECT pg_sleep(60)")
    awaitTrue(lambda: admin.value("SELECT count(*) FROM pg_stat_activity WHERE "
                                  "query = 'SELECT pg_sleep(60)' AND state = 'active'"))
    with pool.take():
        report = pool.report()
        slow, mine = report.holders
        assert (report.open, report.taken, report.verdict) == (2, 2, Verdict.EXHAUSTED)
        assert slow.seconds >= mine.seconds
        assert slow.place.endswith("in runQuery") and 'cur.execute(query)' in slow.stack
        assert mine.thread == threading.current_thread().name
        assert slow.resource in str(report) and slow.place in str(report)
    admin.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE query = 'SELECT pg_sleep(60)'")
    with pytest.raises(psycopg2.OperationalError):
        running.result()


def test_each_verdict_is_told_by_the_error(frailPool, server):
    pool = frailPool(1)
    with pool.take(), pytest.raises(PoolTimeout, match=r"\[queuepool:exhausted\]") as raised:
        start(pool.take, 0).result()
    assert raised.value.report.verdict is Verdict.EXHAUSTED
    pool.openRetryTime = PATIENCE
    server.stop()
    with pytest.raises(PoolTimeout, match=r"\[queuepool:cannot-open\]") as raised:
        pool.take(0.3)
    report = raised.value.report
    assert report.verdict is Verdict.CANNOT_OPEN and report.isReconnecting
    assert "failed with OperationalError" in str(raised.value)
    assert "Connection refused" in report.lastError
    pool.close()
    with pytest.raises(PoolClosed, match=r"\[queuepool:shutting-down\]") as raised:
        pool.take()
    assert raised.value.report.verdict is Verdict.SHUTTING_DOWN
    assert repr(threading.current_thread().name) in str(raised.value)


def test_who_completes_a_ring_of_takes_is_told_at_once(makePool):
    pool = makePool(2, raiseDeadlock=True)
    held, gate = threading.Barrier(2), threading.Event()

    def takeTwice():
        with pool.take():
            held.wait(PATIENCE)
            with pool.take() as conn, conn.cursor() as cur:
                cur.execute("SELECT 1")
                gate.wait(PATIENCE)

    def takeTwiceOrBeTold():
        try:
            takeTwice()
        except PoolDeadlock as error:
            return error
        return None

    running = [start(takeTwiceOrBeTold) for _ in range(2)]
    gate.set()
    error, = filter(None, [each.result() for each in running])
    assert isinstance(error, psycopg2.OperationalError)
    assert error.report.verdict is Verdict.NESTED
    assert "this thread already has" in str(error)


def test_a_ring_of_takes_is_logged_once(makePool, caplog):
    caplog.set_level(logging.WARNING, logger="queuepool")
    pool = makePool(1)
    with pool.take(), pytest.raises(PoolTimeout, match=r"\[queuepool:nested\]"):
        pool.take(1.5)
    line, = [record.getMessage() for record in caplog.records
             if "[queuepool:nested]" in record.getMessage()]
    assert "unless" in line


def test_the_histograms_count_each_wait_open_and_use(makePool):
    pool = makePool(1)
    held = pool.take()
    waiting = [start(runQuery, pool, "SELECT pg_sleep(0.02)") for _ in range(3)]
    awaitWaiting(pool, 3)
    pool.put(held)
    for each in waiting:
        each.result()
    stats = pool.stats()
    assert (stats.openHistogram.number, stats.openHistogram.total) == (1, stats.openTime)
    assert (stats.waitHistogram.number, stats.waitHistogram.total) == (3, stats.waitTime)
    assert (stats.useHistogram.number, stats.useHistogram.maximum) == (4, stats.useMax)
    assert stats.useHistogram.percentile(50) > 0.01
    assert stats.waitHistogram.percentile(100) == stats.waitMax >= 0.04
