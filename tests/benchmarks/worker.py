"""The process of one contender: it measures what it is asked to.

``python -m tests.benchmarks.worker CONTENDER [DSN]`` first answers with null, or with the reason
why the contender cannot be made. Then it reads requests from its standard input, one JSON object a
line: the name of a function below and its arguments; and answers likewise. So each contender has
its own interpreter and its own modules, and all can be measured in turns.
"""

import json
import statistics
import sys
import threading
import time
from time import perf_counter

from tests.benchmarks.contenders import ALL, SLOTS

#: Checkouts between two looks at the clock; fewer for many threads, each of which does one batch.
BATCH, SMALL_BATCH = 100, 20


def checkout(contender, threads, seconds):
    """Return the microseconds of one take and put, of all threads together."""
    batch = BATCH if threads <= 10 else SMALL_BATCH
    span, counts = [], []

    def work():
        checkOut = contender.ofThread().checkOut
        checkOut(batch)
        barrier.wait()
        until = span[0] + seconds
        count = 0
        while True:
            checkOut(batch)
            count += batch
            if perf_counter() >= until:
                break
        counts.append(count)

    barrier = threading.Barrier(threads, action=lambda: span.append(perf_counter()))
    runThreads(threads, work)
    return (perf_counter() - span[0]) / sum(counts) * 1e6


def serve(contender, threads, seconds, hold=None):
    """Have each thread use a connection again and again; tell how they were served.

    A use is a SELECT 1, or ``hold`` seconds of sleep.
    """
    span, waits, served = [], [], []

    def work():
        def use(conn):
            nonlocal count
            gotAt = perf_counter()
            waits.append(gotAt - askedAt)
            count += gotAt < until
            if hold is None:
                ask(conn)
            else:
                time.sleep(hold)

        count = 0
        lend = contender.ofThread().lend
        barrier.wait()
        until = span[0] + seconds
        while (askedAt := perf_counter()) < until:
            lend(use)
        served.append(count)

    barrier = threading.Barrier(threads, action=lambda: span.append(perf_counter()))
    runThreads(threads, work)
    waits.sort()
    return {
        "perSecond": sum(served) / seconds, "least": min(served), "most": max(served),
        **{key: waits[int(fraction * (len(waits) - 1))] * 1000
           for key, fraction in dict(p50=0.5, p99=0.99, max=1.0).items()}}


def ask(conn):
    cursor = conn.cursor()
    cursor.execute("SELECT 1")
    cursor.fetchone()
    cursor.close()


def select(contender, seconds, block=20):
    """Return the microseconds of a SELECT 1 on a bare connection, and what the pool adds to it.

    Both are taken on the pool's connections, in alternating blocks of a few milliseconds.
    """
    def useBare(conn):
        bare = contender.bare(conn)
        startedAt = perf_counter()
        for _ in range(block):
            ask(bare)
        bares.append((perf_counter() - startedAt) / block * 1e6)

    bares, pooled = [], []
    until = perf_counter() + seconds
    while perf_counter() < until:
        contender.lend(useBare)
        startedAt = perf_counter()
        for _ in range(block):
            contender.lend(ask)
        pooled.append((perf_counter() - startedAt) / block * 1e6)
    return {"bare": statistics.median(bares),
            "added": statistics.median(after - before for before, after in zip(bares, pooled))}


def scale(contender, slots, seconds):
    """Return what a pool of that many slots costs; contender only says which package."""
    from queuepool import Pool, Resource

    def seconds_(call):
        startedAt = perf_counter()
        call()
        return perf_counter() - startedAt

    def build(**kwargs):
        return Pool("benchmark", slots, maxUsageCount=None, factory=Resource, **kwargs)

    construction = statistics.median(seconds_(build) for _ in range(3))
    contender.pool = openAll(build())
    cost = checkout(contender, 1, seconds)
    stats = statistics.median(seconds_(contender.pool.stats) for _ in range(5))
    recycleLive = statistics.median(seconds_(contender.pool.recycle) for _ in range(5))
    clock = Clock()
    expiring = openAll(build(clock=clock))
    clock.now += 1000.0
    recycleExpired = seconds_(expiring.recycle)
    assert expiring.stats().open == 0
    return {"checkout": cost, "construction": construction * 1000, "stats": stats * 1000,
            "recycleLive": recycleLive * 1000, "recycleExpired": recycleExpired * 1000}


def recycling(contender, slots, closeTime):
    """Return how long takes last while recycle closes that many expired resources."""
    from queuepool import Pool, Resource

    class SlowToClose(Resource):
        def close(self):
            time.sleep(closeTime)
            super().close()

    live = 10
    clock = Clock()
    pool = openAll(Pool("benchmark", slots + live, factory=SlowToClose, maxOpenTime=None,
                        maxUsageCount=None, clock=clock))
    clock.now += 200.0
    resources = [pool.take() for _ in range(live)]
    for resource in resources:
        pool.put(resource)
    clock.now += 200.0
    recycler = threading.Thread(target=pool.recycle)
    recycler.start()
    took = []
    while recycler.is_alive():
        startedAt = perf_counter()
        with pool.take():
            took.append(perf_counter() - startedAt)
        time.sleep(0.0005)
    assert pool.stats().open == live
    took.sort()
    return {"p99": took[int(0.99 * (len(took) - 1))] * 1000, "max": took[-1] * 1000}


class Clock:
    """Be a clock that moves only when told to."""

    now = 1000.0

    def __call__(self):
        return self.now


def openAll(pool):
    for resource in [pool.take() for _ in range(pool.capacity)]:
        pool.put(resource)
    return pool


def runThreads(count, work):
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main(name, dsn=None):
    try:
        contender = ALL[name](dsn)
    except Exception as error:  # its driver is missing, or it does not run on this Python
        print(json.dumps(f"{type(error).__name__}: {error}"))
        return
    # All its connections are open when it is measured.
    barrier = threading.Barrier(SLOTS, timeout=60.0)
    runThreads(SLOTS, lambda: contender.ofThread().lend(lambda conn: barrier.wait()))
    print(json.dumps(None), flush=True)
    for line in sys.stdin:
        measure, kwargs = json.loads(line)
        print(json.dumps(globals()[measure](contender, **kwargs)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
