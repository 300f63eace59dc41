"""A cursor that a forked child still has does not speak on its parent's session."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.postgres.conftest import dsn, parameters

__all__ = ["dsn", "parameters"]

ROOT = Path(__file__).parents[2]

PROGRAM = """
import contextlib
import os
from queuepool.{driver} import ConnectionPool

pool = ConnectionPool("p", 1, os.environ["DSN"])
with pool.take() as conn:
    cur = conn.cursor(name="c")
    cur.execute("SELECT generate_series(1, 100)")
    cur.fetchmany(10)
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        print(len(cur.fetchall()))
if not child:
    with contextlib.suppress(Exception):
        cur.close()
    os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_a_cursor_in_a_child_leaves_the_parents_alone(driver, dsn):
    pytest.importorskip(driver)
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(driver=driver)], cwd=ROOT,
                          env={**os.environ, "DSN": dsn}, capture_output=True, text=True,
                          timeout=60)
    assert (done.stdout, done.returncode) == ("90\n", 0), done.stderr
