"""What is known of libpq: its options, its texts, and how long a connect takes."""

import errno
import os

import pytest

psycopg2 = pytest.importorskip("psycopg2", reason="psycopg2 is not installed")

from psycopg2.extensions import parse_dsn

from queuepool.libpq import (CONNECT_DEFAULTS, LEAST_CONNECT_TIMEOUT, UNREACHED, buildDsn,
                             checkOptions, connectTimeout, isPermanent, withoutSecrets)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Have nobody's own settings in the tests."""
    for name in [name for name in os.environ if name.startswith("PG")]:
        monkeypatch.delenv(name)


# -- the DSN

def test_a_dsn_has_the_defaults_and_the_pools_name():
    defaults = {key: str(value) for key, value in CONNECT_DEFAULTS.items()}
    for dsn in None, "", lambda: "", lambda: None:
        assert parse_dsn(buildDsn("web", dsn)) == {"fallback_application_name": "web", **defaults}


@pytest.mark.parametrize("name", ["a b", "it's", "back\\slash", ""])
def test_any_name_of_a_pool_may_be_in_a_dsn(name):
    assert parse_dsn(buildDsn(name, None))["fallback_application_name"] == name


@pytest.mark.parametrize("dsn", [
    "host=h keepalives=0 connect_timeout=3 fallback_application_name=mine",
    "postgresql://h/?keepalives=0&connect_timeout=3&fallback_application_name=mine"])
def test_what_a_dsn_sets_itself_stays(dsn):
    parameters = parse_dsn(buildDsn("web", dsn))
    assert parameters["host"] == "h" and parameters["keepalives"] == "0"
    assert parameters["connect_timeout"] == "3" and parameters["keepalives_idle"] == "15"
    assert parameters["fallback_application_name"] == "mine"


def test_a_dsn_that_is_a_callable_is_called_each_time():
    hosts = iter(["one", "two"])

    def dsn():
        return f"host={next(hosts)}"

    assert [parse_dsn(buildDsn("web", dsn))["host"] for _ in range(2)] == ["one", "two"]


def test_the_environments_connect_timeout_is_no_default_of_ours(monkeypatch):
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "4")
    assert "connect_timeout" not in parse_dsn(buildDsn("web", "host=h"))
    assert parse_dsn(buildDsn("web", "connect_timeout=3"))["connect_timeout"] == "3"


# -- secrets

@pytest.mark.parametrize("dsn", [
    "s3cr3t", "password=my s3cr3t", 'password=my "s3cr3t', "password='s3cr3t", "password=x s3c=r3t",
    "postgresql://me:s3cr3t@[::1/db", "postgresql://me:s3cr3t%@here/db",
    "postgresql://me:s3cr3t@here/db?nonsense", "postgresql://me:s3cr3t@here/db?s3cr3t=1",
    "postgresql://me:a\ns3cr3t@[::1/db", "password=a\ns3cr3t",
], ids=repr)
@pytest.mark.parametrize("isCallable", [False, True])
def test_a_wrong_dsn_is_told_without_what_it_says(dsn, isCallable):
    with pytest.raises(psycopg2.ProgrammingError) as caught:
        buildDsn("web", (lambda: dsn) if isCallable else dsn)
    error = caught.value
    assert "invalid dsn" in str(error)
    assert "s3c" not in str(error) and "r3t" not in str(error)
    assert error.__suppress_context__ and error.__cause__ is None


@pytest.mark.parametrize("text, told", [
    ('invalid integer value "s3cr3t" for connection option "port"',
     'invalid integer value "..." for connection option "port"'),
    ('invalid sslmode value: "s3cr3t"', 'invalid sslmode value: "..."'),
    ('could not translate host name "s3cr3t@nowhere" to address: Name or service not known',
     'could not translate host name "..." to address: Name or service not known'),
    ('could not parse network address "s3cr3t": Name or service not known',
     'could not parse network address "...": Name or service not known'),
    ("bad value for connect_timeout: 's3cr3t'", 'bad value for connect_timeout: "..."'),
])
def test_a_value_that_libpq_cannot_use_is_not_told(text, told):
    """What it is for is told."""
    assert withoutSecrets(text)[:20] == told[:20] and withoutSecrets(text)[-20:] == told[-20:]
    assert "s3cr3t" not in withoutSecrets(text)


def test_what_a_server_says_is_told_but_for_values():
    for text in PERMANENT + UNSERVED + BUSY:
        assert withoutSecrets(HERE + text) == HERE + text.replace('"abc"', '"..."')


# -- what stays wrong

HERE = 'connection to server at "127.0.0.1", port 5432 failed: '
THERE = 'connection to server at "db2" (10.0.0.2), port 5432 failed: '
LOCAL = 'connection to server on socket "/run/.s.PGSQL.5432" failed: '

#: As PostgreSQL 18, PgBouncer 1.18 and libpq 17 say it.
PERMANENT = [
    'FATAL:  database "nope" does not exist\n',
    'FATAL:  role "nope" does not exist\n',
    'FATAL:  password authentication failed for user "me"\n',
    'FATAL:  password authentication failed for user "me"\n'
    'password retrieved from file "/root/.pgpass"\n',
    'FATAL:  Peer authentication failed for user "postgres"\n',
    'FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "me", database "db", no encryption\n',
    'FATAL:  pg_hba.conf rejects connection for host "10.0.0.1", user "me", database "db", '
    'no encryption\n',
    'FATAL:  role "me" is not permitted to log in\n',
    'FATAL:  permission denied for database "db"\nDETAIL:  User does not have CONNECT privilege.\n',
    'FATAL:  unrecognized configuration parameter "nope"\n',
    'FATAL:  invalid value for parameter "work_mem": "abc"\n',
    "fe_sendauth: no password supplied\n",
    "server does not support SSL, but SSL was required\n",
    "SSL error: certificate verify failed\n",
    'root certificate file "/root/.postgresql/root.crt" does not exist\n'
    "Either provide the file, use the system's trusted roots with sslrootcert=system, or change "
    "sslmode to disable server certificate verification.\n",
    # PgBouncer
    "FATAL:  no such database: nope\n",
    "FATAL:  no such user: nope\n",
    "FATAL:  password authentication failed\n",
    "FATAL:  SASL authentication failed\n",
    "FATAL:  unsupported startup parameter: options\n",
]

#: There is no server in service.
UNSERVED = [
    "FATAL:  the database system is starting up\n",
    "FATAL:  the database system is shutting down\n",
    "FATAL:  the database system is in recovery mode\n",
    "FATAL:  the database system is not yet accepting connections\n"
    "DETAIL:  Consistent recovery state has not been yet reached.\n",
    "Connection refused\n\tIs the server running on that host and accepting TCP/IP connections?\n",
    "No such file or directory\n\tIs the server running locally and accepting connections on that "
    "socket?\n",
    "timeout expired\n",
    "server closed the connection unexpectedly\n\tThis probably means the server terminated "
    "abnormally\n\tbefore or while processing the request.\n",
    "session is read-only\n",
    "server is in hot standby mode\n",
    *(f"could not receive data from server: {os.strerror(number)}\n" for number in (
        errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT, errno.ECONNRESET)),
]

#: A server that has no place for us now. The last four are PgBouncer's.
BUSY = [
    "FATAL:  sorry, too many clients already\n",
    "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute\n",
    'FATAL:  too many connections for role "me"\n',
    'FATAL:  too many connections for database "db"\n',
    'FATAL:  database "db" is not currently accepting connections\n',
    "FATAL:  terminating connection due to administrator command\n",
    "FATAL:  no more connections allowed (max_client_conn)\n",
    "FATAL:  query_wait_timeout\n",
    "FATAL:  pgbouncer cannot connect to server\n",
    "FATAL:  server login has been failing, try again later (server_login_retry)\n",
]

#: What has no attempt at a server before it.
NO_SERVER = [
    'could not translate host name "db2" to address: Name or service not known\n',
    'could not translate host name "db2" to address: Temporary failure in name resolution\n']


@pytest.mark.parametrize("text", PERMANENT)
@pytest.mark.parametrize("where", [HERE, THERE, LOCAL, ""], ids=["here", "there", "local", "old"])
def test_what_fails_again_is_permanent(where, text):
    assert isPermanent(where + text)


@pytest.mark.parametrize("where", [HERE, THERE, LOCAL, ""], ids=["here", "there", "local", "old"])
@pytest.mark.parametrize("text", UNSERVED + BUSY)
def test_what_may_succeed_the_next_time_is_not(where, text):
    assert not isPermanent(where + text)


@pytest.mark.parametrize("text", ["", "\n", "connection to server ", *NO_SERVER, "no idea"])
def test_what_is_not_known_is_not(text):
    assert not isPermanent(text)


def test_several_hosts_fail_again_only_if_all_do():
    permanent = PERMANENT[0]
    assert isPermanent(HERE + permanent + THERE + PERMANENT[1])
    for transient in UNSERVED + BUSY:
        assert not isPermanent(HERE + permanent + THERE + transient)
        assert not isPermanent(HERE + transient + THERE + permanent)
        assert not isPermanent(HERE + permanent + THERE + transient + LOCAL + permanent)
    for unknown in NO_SERVER:
        assert not isPermanent(unknown + HERE + permanent)


@pytest.mark.parametrize("text", UNSERVED)
def test_where_no_server_in_service_was_reached_is_known(text):
    assert UNREACHED.search(HERE + text)


@pytest.mark.parametrize("text", PERMANENT + BUSY)
def test_a_server_that_refuses_was_reached(text):
    assert not UNREACHED.search(HERE + text)


# -- the time for a connect

TWO = "host=one,two"


@pytest.mark.parametrize("dsn, options, seconds, expected", [
    # nothing is set
    (None, {}, None, None),
    ("", {}, None, None),
    ("host=one", {}, 7.9, 7),
    (None, {}, 1.0, LEAST_CONNECT_TIMEOUT),
    (None, {}, 0.05, LEAST_CONNECT_TIMEOUT),
    # what is set is never made longer
    ("connect_timeout=10", {}, None, 10),
    ("connect_timeout=10", {}, 30.0, 10),
    ("connect_timeout=10", {}, 3.9, 3),
    ("postgresql://one/?connect_timeout=10", {}, 3.9, 3),
    ("connect_timeout=10", {"connect_timeout": 4}, None, 4),
    ("connect_timeout=4", {"connect_timeout": 10}, None, 10),
    (None, {"connect_timeout": "4"}, 30.0, 4),
    (None, {"connect_timeout": 4}, 3.0, 3),
    # several hosts share the time that is left, but each has the time that is set
    (TWO, {}, 10.0, 5),
    (TWO, {}, 3.0, LEAST_CONNECT_TIMEOUT),
    (TWO + " connect_timeout=4", {}, 30.0, 4),
    (TWO + " connect_timeout=4", {}, None, 4),
    ("postgresql://one:1,two:2,three/", {}, 9.0, 3),
    ("host=one", {"host": "one,two"}, 10.0, 5),
    (TWO, {"host": "one"}, 10.0, 10),
    ("hostaddr=10.0.0.1,10.0.0.2", {}, 10.0, 5),
    ("host=one,two hostaddr=10.0.0.1,10.0.0.2", {}, 10.0, 5),
    (None, {"hostaddr": "10.0.0.1,10.0.0.2"}, 10.0, 5),
    # for libpq these mean no limit
    ("connect_timeout=0", {}, None, None),
    ("connect_timeout=-1", {}, None, None),
    ("connect_timeout=0", {}, 10.0, 10),
    ("connect_timeout=-1", {}, 10.0, 10),
    # as psycopg2 has it, None is what is not given
    ("connect_timeout=3", {"connect_timeout": None}, 10.0, 3),
    (TWO, {"host": None}, 10.0, 5),
    (None, {"connect_timeout": None, "host": None, "hostaddr": None}, 10.0, 10),
])
def test_the_time_for_a_connect(dsn, options, seconds, expected):
    assert connectTimeout(dsn, options, seconds) == expected


@pytest.mark.parametrize("dsn, options", [
    ("connect_timeout=soon", {}), ("", {"connect_timeout": "soon"}), ("connect_timeout=1.5", {})])
@pytest.mark.parametrize("seconds", [None, 10.0])
def test_what_is_no_number_of_seconds_is_for_libpq_to_refuse(dsn, options, seconds):
    timeout = connectTimeout(dsn, options, seconds)
    if timeout is not None:
        options = {**options, "connect_timeout": timeout}
    with pytest.raises(psycopg2.OperationalError, match="invalid integer value .*connect_timeout"):
        psycopg2.connect(dsn, host="127.0.0.1", port=1, **options)


@pytest.mark.parametrize("value, dsn, seconds, expected", [
    ("4", "", None, 4), ("4", "", 30.0, 4), ("4", "", 3.0, 3), ("0", "", None, None),
    ("0", "", 10.0, 10), ("4", "connect_timeout=6", None, 6), ("4", "connect_timeout=6", 5.0, 5),
    ("4", "connect_timeout=0", None, None),
])
def test_the_environment_may_set_it(monkeypatch, value, dsn, seconds, expected):
    monkeypatch.setenv("PGCONNECT_TIMEOUT", value)
    assert connectTimeout(dsn, {}, seconds) == expected


@pytest.mark.parametrize("name, value", [
    ("PGHOST", "one,two"), ("PGHOSTADDR", "10.0.0.1,10.0.0.2")])
def test_hosts_of_the_environment_share_it(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert connectTimeout("", {}, 10.0) == 5
    assert connectTimeout("host=one hostaddr=10.0.0.1", {}, 10.0) == 10


# -- options

def test_what_psycopg2_knows_is_accepted():
    checkOptions(["host", "hostaddr", "port", "dbname", "database", "user", "password", "sslmode",
                  "options", "application_name", "connect_timeout", "client_encoding", "service",
                  "passfile", "target_session_attrs", "replication", "dsn", "connection_factory",
                  "cursor_factory"], ["pingTime"])


@pytest.mark.parametrize("option", ["async", "async_"])
def test_an_asynchronous_connection_is_refused(option):
    with pytest.raises(TypeError, match=f"^'{option}' is not possible: .* synchronous$"):
        checkOptions(["host", option], [])


KNOWN = ["capacity", "minOpen", "takeTimeout", "maxIdleTime", "maxOpenTime", "maxUsageCount",
         "openRetryTime", "closeOnException", "pingTime", "pingTimeout", "reset", "configure",
         "autocommit", "isolation_level", "leakTrace", "maxWaiting"]


@pytest.mark.parametrize("option, meant", [
    # misspelt
    ("takeTimout", "takeTimeout"), ("max_idle_time", "maxIdleTime"), ("MaxIdleTime", "maxIdleTime"),
    ("maxOpentime", "maxOpenTime"), ("pingtime", "pingTime"), ("ping_timeout", "pingTimeout"),
    ("autoCommit", "autocommit"), ("isolationLevel", "isolation_level"), ("pasword", "password"),
    ("dbName", "dbname"), ("ssl_mode", "sslmode"), ("conect_timeout", "connect_timeout"),
    ("applicationName", "application_name"), ("cursorFactory", "cursor_factory"),
    ("keepalive_idle", "keepalives_idle"), ("max_waiting", "maxWaiting"),
    # of other pools
    ("minconn", "minOpen"), ("maxconn", "capacity"), ("min_size", "minOpen"),
    ("max_size", "capacity"), ("pool_size", "capacity"), ("pool_timeout", "takeTimeout"),
    ("timeout", "takeTimeout"), ("max_idle", "maxIdleTime"), ("max_lifetime", "maxOpenTime"),
    ("pool_recycle", "maxOpenTime"), ("pool_pre_ping", "pingTime"), ("maxusage", "maxUsageCount"),
    ("reconnect_timeout", "openRetryTime"), ("maxconnections", "capacity"),
])
def test_the_nearest_right_name_is_told(option, meant):
    with pytest.raises(TypeError, match=f"^'{option}' is neither .*; did you mean '{meant}'[?]$"):
        checkOptions(["host", option], KNOWN)


def test_what_is_like_nothing_gets_no_advice():
    with pytest.raises(TypeError, match="^'nothing_like_it' is neither .* psycopg2.connect$"):
        checkOptions(["nothing_like_it"], KNOWN)


def test_an_error_does_not_show_that_of_libpq():
    with pytest.raises(TypeError) as caught:
        checkOptions(["nonsense"], KNOWN)
    assert caught.value.__suppress_context__
