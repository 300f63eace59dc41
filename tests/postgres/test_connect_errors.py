"""What is told of a connect that failed, and how long it may take where no take opens."""

import socket
import time

import psycopg2
import pytest
from psycopg2.extensions import connection, make_dsn

from queuepool.libpq import LONGEST_CONNECT_TIMEOUT, connectTimeout, withoutSecrets
from tests.helpers import checkWhole

#: Seconds by which something may be late on a machine that is busy.
LATE = 1.5


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in "PGCONNECT_TIMEOUT", "PGHOST", "PGHOSTADDR":
        monkeypatch.delenv(name, raising=False)


# -- secrets

@pytest.mark.parametrize("text, told", [
    ('FATAL:  invalid value for parameter "work_mem": "s3cr3t"',
     'FATAL:  invalid value for parameter "work_mem": "..."'),
    ('invalid integer value "s3cr3t" for connection option "port"',
     'invalid integer value "..." for connection option "port"'),
    ('invalid sslmode value: "s3cr3t"', 'invalid sslmode value: "..."'),
    ('could not translate host name "s3cr3t@host" to address',
     'could not translate host name "..." to address'),
])
def test_a_value_is_hidden_and_the_name_of_its_setting_stays(text, told):
    assert withoutSecrets(text) == told


@pytest.mark.parametrize("text", [
    'FATAL:  role "app@server" does not exist',
    'FATAL:  password authentication failed for user "app@server"',
    'FATAL:  database "app" does not exist'])
def test_names_that_the_server_says_stay(text):
    assert withoutSecrets(text) == text


def test_a_wrong_setting_is_told_without_its_value(makePool):
    pool = makePool(options="-c work_mem=s3cr3t")
    with pytest.raises(psycopg2.OperationalError, match='parameter "work_mem": "[.]{3}"') as caught:
        pool.take()
    assert "s3cr3t" not in str(caught.value)


def test_a_role_with_an_at_sign_is_told(makePool):
    pool = makePool(user="app@server")
    with pytest.raises(psycopg2.OperationalError, match='role "app@server" does not exist'):
        pool.take()


# -- the error itself

def test_an_error_of_a_connection_factory_keeps_what_it_tells(makePool):
    class Failing(connection):
        isFailing = True

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            if Failing.isFailing:
                with self.cursor() as cur:
                    cur.execute('select * from "a@b"')

    pool = makePool(connection_factory=Failing)
    with pytest.raises(psycopg2.errors.UndefinedTable) as caught:
        pool.take()
    error = caught.value
    assert (error.pgcode, error.diag.severity) == ("42P01", "ERROR")
    assert error.diag.message_primary == 'relation "a@b" does not exist'
    assert error.cursor is not None
    Failing.isFailing = False
    checkWhole(pool)


# -- how long

HUGE = 1e18


@pytest.mark.parametrize("dsn, options, seconds, expected", [
    ("connect_timeout=0", {}, None, None), ("", {"connect_timeout": 0}, None, None),
    ("connect_timeout=0", {}, 5.0, 5), ("", {"connect_timeout": 0}, 5.0, 5),
    ("connect_timeout=abc", {}, None, None), ("connect_timeout=abc", {}, 5.0, None),
    ("connect_timeout=0", {}, HUGE, None), ("connect_timeout=0", {}, float("inf"), None),
    ("connect_timeout=0", {}, 1e9, LONGEST_CONNECT_TIMEOUT),
    ("connect_timeout=10", {}, HUGE, 10), ("connect_timeout=10", {}, float("inf"), 10)])
def test_a_connect_timeout_at_the_edges(dsn, options, seconds, expected):
    assert connectTimeout(dsn, options, seconds) == expected


@pytest.mark.parametrize("own", [0, "0"])
@pytest.mark.parametrize("seconds, expected", [(None, None), (5.0, 5)])
def test_a_zero_of_the_callers_wins_over_the_environment(monkeypatch, own, seconds, expected):
    """For libpq it means no limit, as a number and as a text."""
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "4")
    assert connectTimeout("", {"connect_timeout": own}, seconds) == expected


@pytest.mark.parametrize("timeout", [HUGE, 1e9, 2.0 ** 31])
def test_a_take_with_almost_no_limit_can_connect(makePool, timeout):
    pool = makePool(connect_timeout=0, takeTimeout=timeout)
    with pool.take() as conn:
        assert not conn.closed


@pytest.mark.parametrize("takeTimeout", [None, 30.0])
def test_what_is_no_number_is_told_by_libpq(makePool, takeTimeout):
    pool = makePool(connect_timeout="abc", takeTimeout=takeTimeout)
    with pytest.raises(psycopg2.OperationalError, match="connection option \"connect_timeout\""):
        pool.take()


@pytest.mark.timeout(60)
def test_a_warm_with_little_time_gives_its_connect_no_more(makePool):
    with socket.create_server(("127.0.0.1", 0), backlog=5) as listener:
        pool = makePool(dsn=make_dsn(host="127.0.0.1", port=listener.getsockname()[1], user="me",
                                     dbname="db", connect_timeout=20))
        startedAt = time.monotonic()
        with pytest.raises(psycopg2.OperationalError):
            pool.warm(timeout=1.0)
        assert time.monotonic() - startedAt < 2.0 + LATE


@pytest.mark.parametrize("timeout", [None, 7.0])
def test_while_it_is_checked_out_no_time_is_counted(makePool, timeout):
    pool = makePool(minOpen=1)
    pool.warm(timeout)
    for _ in range(2):
        taken = pool.take(timeout=5.0)
        assert taken.timeLeft is None
        taken.close()
        taken.open()
        assert taken.timeLeft is None
        pool.put(taken)
        assert taken.timeLeft is None
