"""``advise()`` about a pool of real connections."""

import contextlib

from queuepool.psycopg2 import ConnectionPool
from tests.helpers import awaitWaiting, start


def test_it_sees_the_load_and_what_opening_costs(dsn):
    def use():
        with pool.take() as conn, conn, conn.cursor() as cur:
            cur.execute("SELECT 1")

    with ConnectionPool("app", 2, dsn, maxUsageCount=1) as pool:
        for _ in range(5):
            use()
        with contextlib.ExitStack() as stack:
            for _ in range(2):
                stack.enter_context(pool.take())
            users = [start(use) for _ in range(3)]
            awaitWaiting(pool, 3)
            for _ in range(600):
                pool.sampleLoad()
        for user in users:
            user.result()
        advice = pool.advise()
        stats = pool.stats()
    assert (advice.samples, advice.loadMean, advice.loadP95, advice.loadMax) == (600, 5.0, 5, 5)
    assert (advice.least, advice.most) == (6, 6)
    saving, = advice.savings
    assert (saving.limit, saving.value, saving.opens) == ("maxUsageCount", 1, 10)
    assert 0.0 < saving.seconds <= stats.openTime
    assert advice.costs == ("waiting" if stats.waitTime > stats.openTime else "opening")
    assert "Raise the capacity from 2 to 6" in advice.sentence
    assert "maxUsageCount=1 closed 10" in str(advice)
