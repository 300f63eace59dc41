"""Each integration with the real library: metrics are compared with what the pool counted."""

import contextlib
import itertools

from queuepool import PoolTimeout
from queuepool.stats import BOUNDS
from tests.helpers import awaitWaiting, runTogether, start

THREADS, TAKES = 6, 40


def work(pool):
    """Use a pool of two with many threads: waits, timeouts, and closes for several reasons."""
    def use():
        for number in range(TAKES):
            try:
                with pool.take(timeout=30.0):
                    if number % 10 == 9:
                        raise LookupError
            except LookupError:
                pass

    runTogether(*[use] * THREADS)
    with contextlib.ExitStack() as stack:
        for _ in range(pool.capacity):
            stack.enter_context(pool.take())
        for _ in range(3):
            with contextlib.suppress(PoolTimeout):
                pool.take(timeout=0.001)
        waiter = start(lambda: pool.take(timeout=30.0))  # waits for certain
        awaitWaiting(pool, 1)
    pool.put(waiter.result())
    pool.invalidate()


def checkWork(pool):
    """Check that there was something of everything to be counted."""
    stats = pool.stats()
    assert stats.takes == THREADS * TAKES + pool.capacity + 1
    assert stats.timeouts == 3
    assert 0 < stats.waits and 0 < stats.opens and 0 < stats.closes
    return stats


def expected(pool, stats):
    """What a scrape has to show of a pool of this name: by name and labels."""
    plain = {
        "queuepool_max_connections": stats.capacity,
        "queuepool_waiting": stats.waiting,
        "queuepool_takes_total": stats.takes,
        "queuepool_waits_total": stats.waits,
        "queuepool_timeouts_total": stats.timeouts,
        "queuepool_opens_total": stats.opens,
        "queuepool_open_errors_total": stats.openErrors,
        "queuepool_close_errors_total": stats.closeErrors,
    }
    found = {key(name, pool=pool): number for name, number in plain.items()}
    found[key("queuepool_connections", pool=pool, state="idle")] = stats.open - stats.taken
    found[key("queuepool_connections", pool=pool, state="used")] = stats.taken
    for reason, number in stats.closesByReason.items():
        found[key("queuepool_closes_total", pool=pool, reason=reason.value)] = number
    for what, histogram in (("wait", stats.waitHistogram), ("open", stats.openHistogram),
                            ("use", stats.useHistogram)):
        name = f"queuepool_{what}_seconds"
        bounds = [*map(str, BOUNDS), "+Inf"]
        for bound, number in zip(bounds, itertools.accumulate(histogram.counts), strict=True):
            found[key(name + "_bucket", pool=pool, le=bound)] = number
        found[key(name + "_count", pool=pool)] = histogram.number
        found[key(name + "_sum", pool=pool)] = histogram.total if histogram.number else 0.0
    return found


def key(name, **labels):
    return name, frozenset(labels.items())
