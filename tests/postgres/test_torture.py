"""The long run: threads make requests during all kinds of faults, and nothing is lost.

QUEUEPOOL_TORTURE_SECONDS (6): how long there are faults. QUEUEPOOL_TORTURE_SEED: repeats a run.
"""

import contextlib
import itertools
import os
import random
import threading
import time
from collections import Counter

import psutil
import psycopg2
import pytest

from queuepool import PoolError
from tests.helpers import awaitTrue, checkClosed, checkWhole, start

SECONDS = float(os.environ.get("QUEUEPOOL_TORTURE_SECONDS", 6))
SEED = int(os.environ.get("QUEUEPOOL_TORTURE_SEED", random.randrange(10 ** 6)))
THREADS, CAPACITY = 50, 10

#: Seconds until the last word of what a fault ended has come through, on a busy machine too.
LAG = 0.1


class Shift:
    """A switch that has all worker threads pause for a while."""

    def __init__(self):
        self.isOver = False
        self._resting = set()
        self._mayWork = threading.Event()
        self._mayWork.set()

    def goesOn(self):
        """Tell a worker whether there is more to do, at the end of a rest if there is one."""
        if not self._mayWork.is_set():
            me = threading.get_ident()
            self._resting.add(me)
            self._mayWork.wait()
            self._resting.discard(me)
        return not self.isOver

    def rest(self):
        """Return when all rest."""
        self._mayWork.clear()
        awaitTrue(lambda: len(self._resting) == THREADS)

    def work(self):
        self._mayWork.set()

    def end(self):
        self.isOver = True
        self.work()


class Faults:
    """Faults in a random order, and the times from when to when each one lasted.

    Some happen while all connections are idle: then no request may fail.
    """

    def __init__(self, shift, server, proxy, seed):
        self.shift = shift
        self.server = server
        self.proxy = proxy
        self.random = random.Random(seed)
        self.spans = []
        self.counts = Counter()
        self.atRest = 0
        self.pause = threading.Event().wait
        self.kinds = [
            self.close, self.reset, self.hold, self.swallow, self.delay, self.refuse,
            self.terminate, self.terminateOne, self.crash, self.freeze, self.restart, self.kill]

    def run(self, seconds):
        until = time.monotonic() + seconds
        course = []
        while time.monotonic() < until:
            self.pause(self.random.uniform(0.2, 0.6))
            if not course:  # each kind once, before any comes again
                course = self.random.sample(self.kinds, len(self.kinds))
            fault = course.pop()
            self.counts[fault.__name__] += 1
            if self.random.random() < 0.4:
                self.shift.rest()
                fault()
                self.shift.work()
                self.atRest += 1
            else:
                began = time.monotonic()
                fault()
                self.spans.append((began, time.monotonic()))

    def lasting(self):
        self.pause(self.random.uniform(0.1, 0.5))

    def close(self):
        self.proxy.close()

    def reset(self):
        self.proxy.reset()

    def hold(self):
        """Nothing passes for a while; what was held up arrives then."""
        self.proxy.hold()
        self.lasting()
        self.proxy.release()

    def swallow(self):
        """What is sent gets lost, until the network gives the connections up."""
        self.proxy.swallow()
        self.lasting()
        self.proxy.reset()

    def delay(self):
        self.proxy.delay = 0.02
        self.lasting()
        self.proxy.delay = 0.0

    def refuse(self):
        """The way is blocked: connections break, and none can be made."""
        self.proxy.refuse()
        self.proxy.reset()
        self.lasting()
        self.proxy.listen()

    def terminate(self):
        self._terminate("")

    def terminateOne(self):
        self._terminate("order by backend_start limit 1")

    def _terminate(self, which):
        pids = self.server.value(
            "select array(select pid from pg_stat_activity where application_name = 'pool' "
            f"{which})")
        with self.server.connect() as conn, conn.cursor() as cur:
            cur.execute("select pg_terminate_backend(pid) from unnest(%s::int[]) as pid", (pids,))

        # Not only from pg_stat_activity, which a session leaves before its socket is closed.
        awaitTrue(lambda: not any(map(psutil.pid_exists, pids)))
        self.proxy.settle()

    def crash(self):
        """One backend is killed; the server ends all others and recovers."""
        self.server.killBackend()
        self.pause(0.05)
        self.server.awaitUp()
        self.proxy.settle()

    def freeze(self):
        self.server.freeze()
        self.lasting()
        self.server.thaw()

    def restart(self):
        self.server.stop()
        self.lasting()
        self.server.start()
        self.proxy.settle()

    def kill(self):
        self.server.kill()
        self.lasting()
        self.server.start()
        self.proxy.settle()


class Request:
    """A request that writes a row, reads it back on another checkout, and notes the outcome."""

    def __init__(self, pool, key):
        self.pool = pool
        self.key = key
        self.word = f"word {key}"
        self.isWritten = False  # True, False, or None for what is not known
        self.error = None
        self.began = time.monotonic()
        try:
            self.write()
            self.readBack()
        except Exception as error:
            self.error = error
        self.ended = time.monotonic()

    def write(self):
        with self.pool.take() as conn, conn.cursor() as cur:
            cur.execute("insert into torture values (%s, %s) returning word", (self.key, self.word))
            assert cur.fetchall() == [(self.word,)], "another's result"
            self.isWritten = None
            conn.commit()
            self.isWritten = True

    def readBack(self):
        with self.pool.take() as conn, conn.cursor() as cur:
            cur.execute("select word, %s from torture where key = %s", (self.key, self.key))
            assert cur.fetchall() == [(self.word, self.key)], "another's result, or none"

    @property
    def took(self):
        return self.ended - self.began


@pytest.mark.alone
@pytest.mark.timeout(SECONDS * 3 + 110)
def test_torture(frailPool, server, proxy, proxyDsn, capsys):
    server.value("create table torture (key bigint, word text)")
    pool = frailPool(CAPACITY, proxyDsn, openRetryTime=30.0, takeTimeout=30.0,
                     pingTime=0.1, pingTimeout=0.25, maxUsageCount=200, maxOpenTime=3.0)
    shift = Shift()
    faults = Faults(shift, server, proxy, SEED)
    keys = itertools.count()

    def work():
        requests = []
        while shift.goesOn():
            requests.append(Request(pool, next(keys)))
        return requests

    beganAt = time.monotonic()
    with contextlib.ExitStack() as stack:
        stack.callback(shift.end)
        workers = [start(work) for _ in range(THREADS)]
        pool.startRecycler(0.5)
        threading.Event().wait(1.0)
        faults.run(SECONDS)
        quietAt = time.monotonic()
        awaitTrue(lambda: pool.stats().open == CAPACITY)
        recovery = time.monotonic() - quietAt
        threading.Event().wait(2.0)
    requests = [request for worker in workers for request in worker.result()]
    stats = pool.stats()

    rows = Counter(dict(rowsOf(server)))
    failed = [request for request in requests if request.error is not None]
    failedAt = [request for request in failed
                if not any(began <= request.ended and request.began <= ended + LAG
                           for began, ended in faults.spans)]
    takes = sorted(request.took for request in requests)
    calm = rateOf(requests, beganAt, beganAt + 1.0)
    after = rateOf(requests, quietAt + 1.0, quietAt + 2.0)
    with capsys.disabled():
        print(f"\n  seed {SEED}: {sum(faults.counts.values())} faults in "
              f"{quietAt - beganAt:.1f} s: "
              + ", ".join(f"{count} {name}" for name, count in sorted(faults.counts.items()))
              + f"; {faults.atRest} of them while all were idle"
              + f"\n  {len(requests)} requests of {THREADS} threads on {CAPACITY} slots, "
              f"{len(failed)} failed, {len(failedAt)} of them out of any fault's time; "
              f"{sum(request.isWritten is None for request in requests)} commits in doubt"
              f"\n  a request took {takes[len(takes) // 2]:.3f} s (median), {takes[-1]:.3f} s "
              f"(most); {calm:.0f} requests/s before the faults, {after:.0f} after; "
              f"all {CAPACITY} connections in use {recovery:.3f} s after the last"
              f"\n  {proxy.connections} connections, never more than {proxy.mostHeld} at once; "
              f"{stats.opens} opens, {stats.openErrors} failed attempts; closed: "
              + ", ".join(f"{count} {reason}" for reason, count in stats.closesByReason.items()
                          if count))
    # What was said to be written is there once, what was rolled back is not.
    for request in requests:
        count = rows.pop(request.key, 0)
        assert count in {True: [1], False: [0], None: [0, 1]}[request.isWritten], vars(request)
    assert not rows
    for request in failed:
        assert isinstance(request.error, (psycopg2.Error, PoolError)), request.error
    assert not failedAt, [(request.error, request.began, request.ended) for request in failedAt]
    assert proxy.mostHeld <= CAPACITY
    assert recovery < 1.0
    assert after >= calm / 5  # others may have come to use the machine meanwhile
    assert stats.timeouts == 0
    pool.stopRecycler()
    pool.recycle()  # a take that closes what has expired has no time left to open with timeout=0
    checkWhole(pool)
    assert proxy.held() == pool.stats().open
    checkClosed(pool)


def rowsOf(server):
    with server.connect() as conn, conn.cursor() as cur:
        cur.execute("select key, count(*) from torture group by key")
        rows = cur.fetchall()
        cur.execute("drop table torture")
        return rows


def rateOf(requests, began, ended):
    """Return how many requests succeeded in this time, per second."""
    return sum(request.error is None and began <= request.ended < ended
               for request in requests) / (ended - began)
