"""The recipes for those who have another driver than psycopg2, or something above it."""

import threading

import pytest

from queuepool import Report
from tests.helpers import runTogether
from tests.recipes import pythonBlocks


def run(heading, number=0, instead={}, **names):
    """Run a block of the README and return its names."""
    block = pythonBlocks()[heading][number]
    for part, other in instead.items():
        assert part in block
        block = block.replace(part, other)
    exec(compile(block, f"README.md, {heading}", "exec"), names)
    return names


def test_sqlalchemy_has_a_fair_pool(dsn, monkeypatch, capsys):
    sqlalchemy = pytest.importorskip("sqlalchemy", reason="SQLAlchemy is not installed")
    monkeypatch.setenv("DSN", dsn)
    import psycopg2

    url = sqlalchemy.URL.create("postgresql+psycopg2", query=psycopg2.extensions.parse_dsn(dsn))
    engine = run("SQLAlchemy", url=url)["engine"]
    assert "all is well" in capsys.readouterr().out
    try:
        def ask():
            with engine.connect() as conn:
                assert conn.scalar(sqlalchemy.text("SELECT 6 * 7")) == 42

        runTogether(*[ask] * 20)
        assert isinstance(engine.pool.queuepool.report(), Report)
        assert engine.pool.queuepool.stats().takes >= 20
    finally:
        engine.dispose()


def test_psycopg_3_has_the_same_pool(dsn, monkeypatch, capsys):
    pytest.importorskip("psycopg", reason="psycopg 3 is not installed")
    monkeypatch.setenv("DSN", dsn)
    with run("psycopg 3")["pool"] as pool:
        assert pool.stats().takes == 1
    assert capsys.readouterr().out == "42\n"


def test_sqlite_is_shared_by_threads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with run("Other databases", 0)["pool"] as pool:
        with pool.take() as conn:
            conn.execute("CREATE TABLE t (x)")
            conn.commit()
        barrier = threading.Barrier(5)

        def add():
            with pool.take() as conn:
                barrier.wait(30)  # all five have one
                conn.execute("INSERT INTO t VALUES (1)")
                conn.commit()

        runTogether(*[add] * 5)
        with pool.take() as conn:
            assert conn.execute("SELECT count(*) FROM t").fetchone() == (5,)
