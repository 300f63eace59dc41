"""gevent whose patches come after the import of the pool: other greenlets go on all the same."""

import pytest

from tests.postgres.test_connecting import runPython

LATE = """
    import queuepool.psycopg2, queuepool.psycopg2pool
    from gevent import monkey
    monkey.patch_all()
    from psycogreen.gevent import patch_psycopg
    patch_psycopg()
    import signal, sys
    import gevent
    from queuepool.psycopg2 import ConnectionPool

    signal.alarm(20)  # a process that is frozen is ended
    pool = ConnectionPool("pool", 2, sys.argv[1], pingTime=0.0, takeTimeout=10.0)


    def use():
        for _ in range(5):
            with pool.take() as conn, conn.cursor() as cur:
                cur.execute("select pg_sleep(0.01)")


    gevent.joinall([gevent.spawn(use) for _ in range(5)], timeout=15, raise_error=True)
    assert pool.stats().takes == 25
    pool.close()
"""


@pytest.mark.usefixtures("posix")
@pytest.mark.timeout(60)
def test_patches_after_the_import_freeze_nothing(dsn):
    pytest.importorskip("gevent", reason="gevent is not installed")
    pytest.importorskip("psycogreen", reason="psycogreen is not installed")
    assert runPython(LATE.replace("    import queuepool.psycopg2,", (
        "    import warnings; warnings.simplefilter('ignore')\n    import queuepool.psycopg2,")),
        dsn) == ""
