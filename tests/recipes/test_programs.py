"""Recipes without a framework."""

import asyncio
import signal
import sys
import uuid

import psycopg2.pool
import pytest
from psycopg2.extensions import make_dsn

from queuepool import Reason
from queuepool.psycopg2 import ConnectionPool
from tests.helpers import PATIENCE, awaitTrue, checkWhole
from tests.recipes import README, pythonBlocks
from tests.smtp.conftest import PASSWORD, USER


def test_configure_prepares_each_connection(recipe, admin):
    admin.query("create schema reports")
    admin.query("create table reports.seen (id uuid)")
    module = recipe("Preparing each connection")
    for _ in range(2):
        with module.pool.take() as conn, conn, conn.cursor() as cur:
            cur.execute("insert into seen values (gen_random_uuid()) returning id")
            assert isinstance(cur.fetchone()[0], uuid.UUID)
        module.pool.invalidate()
    assert admin.value("select count(*) from reports.seen") == 2


@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM ends a program there at once")
def test_a_program_stops_gracefully_at_sigterm(program, admin):
    [block] = pythonBlocks()["Graceful stop"]
    # Each job waits until the test has seen it.
    process = program("jobs.py", jobs=block.replace("pg_sleep(0.1)", "pg_advisory_xact_lock(1)"))
    admin.query("select pg_advisory_lock(1)")
    waiting = ("select count(*) from pg_locks where locktype = 'advisory' and not granted "
               "and database = (select oid from pg_database where datname = current_database())")
    awaitTrue(lambda: admin.value(waiting) in (1, 2) and process.poll() is None)
    process.send_signal(signal.SIGTERM)
    admin.query("select pg_advisory_unlock(1)")
    printed, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, printed) == (0, "still in use: 0\n")
    awaitTrue(lambda: admin.backends() == 0)


APPLICATION = """
pool = None


def visit():
    with pool.take() as conn, conn, conn.cursor() as cur:
        cur.execute("CREATE TABLE IF NOT EXISTS visits (page text)")
        cur.execute("INSERT INTO visits VALUES ('home') RETURNING current_database()")
        return cur.fetchone()[0]
"""

TESTS = """
import app


def test_visit(pool):
    assert app.visit() == "app_test"
    assert pool.stats().takes == 1


def test_another_pool_on_the_same_database(pool):
    assert app.visit() == "app_test"
    assert pool.stats().takes == 1


def test_a_connection_is_not_returned(pool):
    leases.append((pool, pool.take()))


leases = []


def teardown_module():
    for pool, lease in leases:
        pool.put(lease)
"""


def test_tests_of_an_application(program, admin):
    [block] = pythonBlocks()["Tests of an application"]
    process = program("-m", "pytest", "-q", "-p", "no:cacheprovider", conftest=block,
                      app=APPLICATION, test_app=TESTS)
    printed, _ = process.communicate(timeout=PATIENCE)
    assert "3 passed, 1 error" in printed
    assert "a connection was not returned" in printed
    assert not admin.value("select count(*) from pg_database where datname = 'app_test'")


def test_after_invalidate_the_database_of_an_idle_pool_can_be_dropped(dsn, admin):
    assert "with `app.pool.invalidate()`" in README.read_text(encoding="utf-8")
    admin.query("create database used")
    with ConnectionPool("used", 2, make_dsn(dsn, dbname="used")) as pool:
        checkWhole(pool)
        assert admin.value("select count(*) from pg_stat_activity where datname = 'used'") == 2
        pool.invalidate()
        admin.query("drop database used")


def test_a_pool_for_the_primary_and_one_for_the_replicas(recipe, pair, monkeypatch):
    primary, standby = pair
    dsn = make_dsn(host="127.0.0.1,127.0.0.1", port=f"{primary.port},{standby.port}",
                   user="postgres", dbname="postgres")
    for hosts in dsn, dsn.replace(f"{primary.port},{standby.port}",
                                  f"{standby.port},{primary.port}"):
        monkeypatch.setenv("DSN", hosts)
        module = recipe("Replicas")
        with module.primary.take() as conn, conn, conn.cursor() as cur:
            assert conn.info.port == primary.port
            cur.execute("insert into t values ('word')")
        with module.replica.take() as conn, conn, conn.cursor() as cur:
            assert conn.info.port == standby.port
            with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
                cur.execute("insert into t values ('word')")
    standby.kill()
    with module.replica.take() as conn, conn, conn.cursor() as cur:
        assert conn.info.port == primary.port
        with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
            cur.execute("insert into t values ('word')")


def test_asyncio_runs_the_whole_block_in_a_thread(recipe, dsn):
    with ConnectionPool("app", 1, dsn) as pool:
        assert asyncio.run(recipe("asyncio", pool=pool).main()) == 42
        checkWhole(pool)


def test_a_program_for_the_pool_of_psycopg2_changes_its_import(recipe, capsys):
    module = recipe("Coming from psycopg2.pool")
    assert capsys.readouterr().out == "42\n"
    assert issubclass(module.ThreadedConnectionPool, psycopg2.pool.ThreadedConnectionPool)
    assert module.conn.closed


def test_a_mail_is_sent_over_a_verified_connection(
        recipe, tlsServer, authority, tmp_path, monkeypatch):
    monkeypatch.setenv("SMTP_PASSWORD", PASSWORD)
    # Where OpenSSL finds the authorities that it trusts.
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    module = recipe("Mail", {
        '"smtp.example.org", 587, "user"': repr((tlsServer.hostname, tlsServer.port, USER))[1:-1]})
    [(sender, receivers, mail)] = tlsServer.mails
    assert (sender, receivers) == ("app@example.org", ["you@example.org"])
    assert b"Subject: Hello" in mail
    assert module.mailers.stats().idle == 4


def test_a_password_from_a_file_is_asked_for_at_each_open(recipe, tmp_path):
    file = tmp_path / "password"
    file.write_text("secret\n")
    module = recipe("Fail-over and rotating passwords", PASSWORD_FILE=str(file))
    assert module.password() == "secret"
    assert module.pool.stats().closesByReason[Reason.INVALIDATED] == 1
    checkWhole(module.pool)
