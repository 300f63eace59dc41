"""What a user leaves behind on a connection, in psycopg2's object and in the server's session."""

import collections
import contextlib
import select
import types

import psycopg2
import psycopg2.extras
import pytest
from psycopg2.extensions import new_type, register_type

from queuepool import Reason
from queuepool.session import Session
from tests.postgres.test_take import message

RESETS = pytest.mark.parametrize("reset", [None, "discard"])


def run(conn, *statements):
    """Run statements and commit them."""
    with conn.cursor() as cur:
        for statement in statements:
            cur.execute(statement)
    conn.commit()


def query(conn, statement):
    with conn.cursor(cursor_factory=psycopg2.extensions.cursor) as cur:
        cur.execute(statement)
        return cur.fetchall()


def value(conn, statement):
    return query(conn, statement)[0][0]


def sql(*statements):
    """Return a use that runs and commits these statements."""
    return lambda conn: run(conn, *statements)


def asks(statement):
    """Return a look that asks the server."""
    return lambda conn: value(conn, statement)


def checkCleanPutSendsNothing(wire, pool):
    wire.bytesOf(pool, 0)
    assert wire.bytesOf(pool, 20) == wire.bytesOf(pool, 0)


class Sink:
    """All that psycopg2 asks of conn.notices and conn.notifies: append."""

    def __init__(self):
        self.kept = []

    def append(self, item):
        self.kept.append(item)


UPPER = new_type((25,), "UPPER", lambda text, cur: text and text.upper())


def toFactory(conn):
    conn.cursor_factory = psycopg2.extras.RealDictCursor


def toTypecaster(conn):
    register_type(UPPER, conn)


def toJson(conn):
    psycopg2.extras.register_default_jsonb(conn, loads=lambda text: "raw " + text)


def toUuid(conn):
    psycopg2.extras.register_uuid(conn_or_curs=conn)


def noTypecasters(conn):
    register_type(UPPER, conn)
    conn.string_types.clear()
    conn.string_types[23] = UPPER


def binaryTypes(conn):
    conn.binary_types[25] = UPPER


def entered(conn):
    conn.__enter__()


def enteredBySomeone(conn):
    """Enter as ``with conn`` of a suspended generator does; return whether that is still so."""
    try:
        conn.__enter__()
    except psycopg2.ProgrammingError:
        return True
    conn.__exit__(None, None, None)
    return False


def replace(attribute, kind):
    return lambda conn: setattr(conn, attribute, kind())


def kind(attribute):
    return lambda conn: type(getattr(conn, attribute)).__name__


def text(conn):
    return value(conn, "select 'a'::text")


#: What a user leaves without a word to the server, and how the next one could see it.
LOCAL = [
    pytest.param(toFactory, lambda conn: conn.cursor_factory, id="cursor_factory"),
    pytest.param(toTypecaster, text, id="register_type"),
    pytest.param(toUuid, lambda conn: type(value(conn, "select gen_random_uuid()")).__name__,
                 id="register_uuid"),
    pytest.param(toJson, asks("select '{}'::jsonb"), id="register_default_jsonb"),
    pytest.param(noTypecasters, lambda conn: (text(conn), value(conn, "select 1")),
                 id="string_types"),
    pytest.param(binaryTypes, lambda conn: dict(conn.binary_types), id="binary_types"),
    *(pytest.param(replace(attribute, each), kind(attribute), id=f"{attribute} {each.__name__}")
      for attribute in ("notices", "notifies") for each in (Sink, collections.deque)),
    pytest.param(entered, enteredBySomeone, id="with conn"),
]


def encoding(conn):
    return (conn.encoding, value(conn, "show client_encoding"),
            value(conn, "select '\u20ac'"))


#: What a user leaves that both the server and psycopg2 know of.
ENCODING = [pytest.param(lambda conn: conn.set_client_encoding("WIN1252"), encoding,
                         id="set_client_encoding")]


def setting(name, statement):
    return pytest.param(sql(statement), asks(f"select current_setting('{name}')"), id=name)


WHO = asks("select row(session_user, current_user, current_setting('is_superuser'))::text")

#: What the server tells unasked when it is changed, and the pool compares.
REPORTED = [
    pytest.param(sql("set session authorization pg_monitor"), WHO, id="SESSION AUTHORIZATION"),
    pytest.param(sql("set role pg_monitor"), WHO, id="ROLE of a superuser"),
]

#: What only reset="discard" removes.
SESSION = [
    setting("TimeZone", "set timezone = 'Asia/Tokyo'"),
    setting("DateStyle", "set datestyle = 'SQL, DMY'"),
    setting("IntervalStyle", "set intervalstyle = 'iso_8601'"),
    setting("application_name", "set application_name = 'somebody else'"),
    setting("standard_conforming_strings", "set standard_conforming_strings = off"),
    setting("default_transaction_read_only", "set default_transaction_read_only = on"),
    pytest.param(sql("set session characteristics as transaction read only"),
                 asks("show transaction_read_only"), id="SESSION CHARACTERISTICS"),
    setting("search_path", "set search_path = nowhere"),
    pytest.param(sql("set client_encoding = 'WIN1252'"), encoding, id="SET client_encoding"),
    pytest.param(sql("set names 'WIN1252'"), encoding, id="SET NAMES"),
    setting("statement_timeout", "set statement_timeout = 12345"),
    pytest.param(sql("set session authorization pg_monitor", "set role none"), WHO,
                 id="ROLE none"),
    pytest.param(sql("create temp table mine as select 1"),
                 asks("select to_regclass('pg_temp.mine')"), id="temporary table"),
    pytest.param(sql("listen news"), asks("select count(*) from pg_listening_channels()"),
                 id="LISTEN"),
    pytest.param(sql("prepare mine as select 1"),
                 asks("select count(*) from pg_prepared_statements where name = 'mine'"),
                 id="prepared statement"),
    pytest.param(sql("select pg_advisory_lock(1)"),
                 asks("select count(*) from pg_locks where locktype = 'advisory' "
                      "and pid = pg_backend_pid()"), id="advisory lock"),
    pytest.param(sql("declare mine cursor with hold for select 1"),
                 asks("select count(*) from pg_cursors where name = 'mine'"),
                 id="WITH HOLD cursor"),
    pytest.param(sql("listen news", "notify news"), lambda conn: len(conn.notifies),
                 id="notification"),
    pytest.param(sql("do $$ begin raise notice 'n'; end $$"), lambda conn: len(conn.notices),
                 id="notice"),
    pytest.param(sql("create temp sequence numbers", "select nextval('numbers')"),
                 asks("select to_regclass('pg_temp.numbers')"), id="sequence"),
]

RESTORED = LOCAL + ENCODING + REPORTED


def checkRestored(pool, leave, look):
    """Let one user leave something; check that it is there, and that the next one sees none."""
    with pool.take() as conn:
        before = look(conn)
    with pool.take() as conn:
        leave(conn)
        assert look(conn) != before
        conn.rollback()
    for _ in range(2):
        with pool.take() as again:
            assert look(again) == before
    return again is conn


@RESETS
@pytest.mark.parametrize("leave, look", LOCAL + ENCODING)
@pytest.mark.parametrize("options", [{}, dict(autocommit=True)], ids=str)
def test_what_is_left_on_the_connection_does_not_reach_the_next_user(
        makePool, leave, look, reset, options):
    pool = makePool(reset=reset, **options)
    isKept = checkRestored(pool, leave, look)
    assert isKept or leave is entered


@RESETS
@pytest.mark.parametrize("leave, look", REPORTED)
@pytest.mark.parametrize("options", [{}, dict(autocommit=True)], ids=str)
def test_what_the_server_reports_as_changed_does_not_reach_the_next_user(
        makePool, leave, look, reset, options):
    assert checkRestored(makePool(reset=reset, **options), leave, look)


@pytest.mark.parametrize("leave, look", SESSION)
def test_a_discard_leaves_nothing(makePool, leave, look):
    assert checkRestored(makePool(reset="discard"), leave, look)


@pytest.mark.parametrize("leave, look", RESTORED)
def test_after_what_was_restored_a_clean_put_sends_nothing(
        makePool, wire, wireDsn, leave, look):
    pool = makePool(dsn=wireDsn)
    checkRestored(pool, leave, look)
    checkCleanPutSendsNothing(wire, pool)


@pytest.mark.parametrize("leave, look", LOCAL)
def test_what_only_psycopg2_knows_of_is_restored_without_a_word(
        makePool, wire, wireDsn, leave, look):
    pool = makePool(dsn=wireDsn)
    wire.bytesOf(pool, 0)
    isSilent = wire.bytesOf(pool, 3, leave) == wire.bytesOf(pool, 0)
    # Who replaces notifies most likely listens: that ends, though nobody knows what arrived.
    assert isSilent or leave is entered or b"UNLISTEN" in wire.said
    assert b"DISCARD" not in wire.said
    assert pool.stats().opens == 1 or leave is entered


@pytest.mark.parametrize("leave, look", REPORTED)
def test_a_change_that_is_not_committed_costs_no_more_than_the_rollback(
        makePool, wire, wireDsn, leave, look):
    pool = makePool(dsn=wireDsn)
    with pool.take() as conn:
        uncommitted = types.SimpleNamespace(cursor=conn.cursor, commit=lambda: None)
        leave(uncommitted)
    with pool.take() as again:
        value(again, "select 1")
    assert again is conn
    assert b"DISCARD" not in wire.said


# -- settings of psycopg2, which are reported as well

@pytest.mark.parametrize("options", [
    dict(readonly=True, autocommit=True), dict(autocommit=True), dict(readonly=True)], ids=str)
@pytest.mark.parametrize("changed", [
    dict(readonly=True, autocommit=True), dict(readonly=False, autocommit=True),
    dict(autocommit=False), dict(readonly=True, autocommit=False)], ids=str)
def test_settings_set_back_need_no_discard(makePool, wire, wireDsn, options, changed):
    pool = makePool(dsn=wireDsn, **options)
    look = asks("select row(current_setting('default_transaction_read_only'), "
                "current_setting('transaction_read_only'))::text")
    with pool.take() as conn:
        before = look(conn)
    with pool.take() as conn:
        conn.set_session(**changed)
        value(conn, "select 1")
    with pool.take() as again:
        assert again is conn and look(again) == before
    checkCleanPutSendsNothing(wire, pool)
    assert b"DISCARD" not in wire.said


def test_an_encoding_of_the_pools_is_kept(makePool, wire, wireDsn):
    pool = makePool(dsn=wireDsn, client_encoding="WIN1252")
    with pool.take() as conn:
        assert conn.encoding == "WIN1252"
        conn.set_client_encoding("UTF8")
    with pool.take() as again:
        assert again is conn
        assert (conn.encoding, value(conn, "show client_encoding")) == ("WIN1252", "WIN1252")
    checkCleanPutSendsNothing(wire, pool)


def test_what_a_server_reports_of_its_own_accord_is_asked_for_once(
        makePool, wire, wireDsn):
    """A reload of the server's configuration changes what is reported on all connections."""
    pool = makePool(dsn=wireDsn)
    with pool.take() as conn:
        value(conn, "select 1")
    wire.tell(message(b"S", b"TimeZone", b"Asia/Tokyo"))
    assert select.select([conn], [], [], 30)[0]
    with pool.take() as again:
        value(again, "select 1")
    assert again is conn
    assert conn.get_parameter_status("TimeZone") == "Asia/Tokyo"
    checkCleanPutSendsNothing(wire, pool)


@pytest.fixture
def member(admin):
    """A user that is no superuser and may take two roles."""
    admin.query("create role member login in role pg_monitor, pg_read_all_data")
    yield "member"
    admin.query("drop role member")


def test_a_discard_leaves_no_role_of_an_ordinary_user(makePool, member):
    pool = makePool(user=member, reset="discard")
    assert checkRestored(pool, sql("set role pg_monitor"), WHO)


@pytest.mark.parametrize("own, other", [
    ("session authorization pg_monitor", "session authorization default"),
    ("session authorization pg_monitor", "session authorization postgres"),
    ("role pg_monitor", "role none"),
])
def test_a_tenant_that_configure_chose_is_not_left_by_a_user(
        makePool, admin, wire, wireDsn, own, other):
    def configure(conn):
        with conn.cursor() as cur:
            cur.execute("set " + own)

    pool = makePool(dsn=wireDsn, configure=configure)
    assert checkRestored(pool, sql("set " + other), WHO)
    checkCleanPutSendsNothing(wire, pool)


# -- a transaction that was entered and never left

def rows(conn):
    """Stream rows in a transaction, as many a helper does."""
    with conn, conn.cursor() as cur:
        cur.execute("select generate_series(1, 10)")
        yield from cur


@pytest.fixture
def suspended():
    """Suspend generators, and end them after the test."""
    generators = []

    def suspend(conn):
        generators.append(rows(conn))
        assert next(generators[-1]) == (1,)
        return generators[-1]

    yield suspend
    for generator in generators:
        end(generator)


def end(generator):
    """End a generator as the garbage collector does, to which no exception is of interest."""
    with contextlib.suppress(psycopg2.Error):
        generator.close()


def insert(conn, number):
    query(conn, f"insert into log values ({number}) returning 1")


@pytest.fixture
def log(admin):
    """The numbers that users wrote and committed."""
    admin.query("create table log (a int)")
    return lambda: admin.value("select array_agg(a order by a) from log")


def bySuspension(conn, suspended):
    suspended(conn)


def byHand(conn, suspended):
    conn.__enter__()


def inATransaction(conn, suspended):
    conn.__enter__()
    insert(conn, 100)


def afterACommit(conn, suspended):
    conn.__enter__()
    run(conn, "select 1")


ENTERS = pytest.mark.parametrize("enter", [bySuspension, byHand, inATransaction, afterACommit])


@ENTERS
@RESETS
@pytest.mark.parametrize("options", [{}, dict(autocommit=True)], ids=str)
def test_the_next_users_can_enter_a_transaction(
        makePool, suspended, log, enter, reset, options):
    pool = makePool(reset=reset, **options)
    with pool.take() as conn:
        enter(conn, suspended)
    for number in range(3):
        with pool.take() as conn, conn:
            insert(conn, number)
    assert log() == [0, 1, 2]


@ENTERS
@RESETS
def test_under_autocommit_the_next_users_lose_no_write(makePool, suspended, log, enter, reset):
    pool = makePool(autocommit=True, reset=reset)
    with pool.take() as conn:
        enter(conn, suspended)
    for number in range(3):
        with pool.take() as conn:
            assert conn.autocommit
            insert(conn, number)
    assert log() == [0, 1, 2]


@RESETS
@pytest.mark.parametrize("options", [{}, dict(autocommit=True)], ids=str)
def test_the_late_end_of_a_generator_ends_no_strangers_transaction(
        makePool, suspended, log, reset, options):
    pool = makePool(reset=reset, **options)
    with pool.take() as conn:
        generator = suspended(conn)
    with pool.take() as conn, conn:
        insert(conn, 1)
        end(generator)
        insert(conn, 2)
    assert log() == [1, 2]


def test_a_transaction_that_was_left_keeps_the_connection(makePool, log):
    pool = makePool()
    for number in range(3):
        with contextlib.suppress(KeyError), pool.take() as conn, conn:
            insert(conn, number)
            if number == 1:
                raise KeyError
    assert log() == [0, 2]
    assert pool.stats().closes == 0


# -- notices and notifications

def notice(conn):
    run(conn, "do $$ begin raise notice 'secret'; end $$")
    assert "secret" in conn.notices[-1]


@RESETS
@pytest.mark.parametrize("options", [{}, dict(autocommit=True)], ids=str)
def test_a_strangers_notices_are_not_seen(makePool, wire, wireDsn, reset, options):
    pool = makePool(dsn=wireDsn, reset=reset, **options)
    with pool.take() as conn:
        notice(conn)
    with pool.take() as again:
        assert again is conn and list(again.notices) == []
        notice(again)
    if reset is None:
        checkCleanPutSendsNothing(wire, pool)
    assert b"DISCARD" not in wire.said or reset


def test_notices_that_a_user_kept_stay_as_they_were(makePool):
    pool = makePool()
    with pool.take() as conn:
        notice(conn)
        kept = conn.notices
    with pool.take() as conn:
        notice(conn)
    assert len(kept) == 1


@RESETS
@pytest.mark.parametrize("attribute", ["notices", "notifies"])
def test_a_sink_of_the_users_gets_nothing_of_strangers(makePool, admin, attribute, reset):
    pool = makePool(reset=reset)
    sink = Sink()
    with pool.take() as conn:
        setattr(conn, attribute, sink)
    with pool.take() as conn:
        run(conn, "listen news", "notify news", "do $$ begin raise notice 'n'; end $$")
        assert len(getattr(conn, attribute)) == 1
    assert sink.kept == []
    assert pool.stats().opens == 1


def channels(conn):
    with conn.cursor(cursor_factory=psycopg2.extensions.cursor) as cur:
        cur.execute("select pg_listening_channels()")
        return sorted(channel for channel, in cur)


def listen(conn, channel="news"):
    run(conn, "listen " + channel)


def notify(admin, channel="news"):
    admin.query("select pg_notify(%s, 'for whom it may concern')", (channel,))


def atPut(pool, admin):
    """Have a notification arrive while its user still has the connection."""
    with pool.take() as conn:
        listen(conn)
        notify(admin)
        value(conn, "select 1")
        assert len(conn.notifies) == 1
    return conn


def atTake(pool, admin):
    """Have a notification arrive while the connection is idle."""
    with pool.take() as conn:
        listen(conn)
    notify(admin)
    assert select.select([conn], [], [], 30)[0]
    return conn


@pytest.mark.parametrize("arrive", [atPut, atTake])
@pytest.mark.parametrize("options", [{}, dict(autocommit=True)], ids=str)
def test_a_listen_whose_notifications_arrive_is_forgotten(
        makePool, admin, wire, wireDsn, arrive, options):
    pool = makePool(dsn=wireDsn, **options)
    conn = arrive(pool, admin)
    with pool.take() as again:
        assert again is conn
        assert list(again.notifies) == []
        assert channels(again) == []
        notify(admin)
        value(again, "select 1")
        assert list(again.notifies) == []
    assert pool.stats().closes == 0
    checkCleanPutSendsNothing(wire, pool)


def test_what_arrives_with_the_answer_to_a_ping_is_forgotten_too(makePool, admin):
    with makePool().take() as conn:
        session = Session(conn, conn, {}, None, contextlib.nullcontext)
        listen(conn)
        notify(admin)
        assert select.select([conn], [], [], 30)[0]  # and nobody reads it before the ping does
        session.ask()
        assert channels(conn) == [] == conn.notifies


def configureListen(conn):
    with conn.cursor() as cur:
        cur.execute("listen wanted")


@pytest.mark.parametrize("arrive", [atPut, atTake])
def test_a_listen_of_configure_stays(makePool, admin, wire, wireDsn, arrive):
    pool = makePool(dsn=wireDsn, configure=configureListen)
    conn = arrive(pool, admin)
    with pool.take() as again:
        assert again is conn
        assert channels(again) == ["wanted"]
    for _ in range(2):
        with pool.take() as again:
            assert again is conn
            notify(admin, "wanted")
            value(again, "select 1")
            assert [each.channel for each in again.notifies] == ["wanted"]
            assert channels(again) == ["wanted"]
    checkCleanPutSendsNothing(wire, pool)


# -- what configure did

class Configure:
    """Set up a connection in every way there is, and count how often that was done."""

    def __init__(self):
        self.count = 0

    def __call__(self, conn):
        self.count += 1
        conn.autocommit = True
        conn.cursor_factory = psycopg2.extras.DictCursor
        register_type(UPPER, conn)
        psycopg2.extras.register_uuid(conn_or_curs=conn)
        with conn.cursor() as cur:
            cur.execute("set search_path = mine, public")
            cur.execute("set timezone = 'Europe/Paris'")
            cur.execute("set statement_timeout = '59s'")
            cur.execute("prepare wanted as select 1")
            cur.execute("create temp table wanted as select 1")
            cur.execute("listen wanted")

    @staticmethod
    def look(conn):
        return dict(
            autocommit=conn.autocommit, cursor_factory=conn.cursor_factory.__name__,
            text=text(conn), uuid=type(value(conn, "select gen_random_uuid()")).__name__,
            settings=query(conn, "select current_setting('search_path'), "
                                 "current_setting('timezone'), "
                                 "current_setting('statement_timeout')"),
            prepared=query(conn, "select name from pg_prepared_statements"),
            table=value(conn, "select to_regclass('pg_temp.wanted') is not null"),
            channels=channels(conn), user=WHO(conn))


CONFIGURED = dict(
    autocommit=True, cursor_factory="DictCursor", text="A", uuid="UUID",
    settings=[("MINE, PUBLIC", "EUROPE/PARIS", "59S")], prepared=[("WANTED",)], table=True,
    channels=["WANTED"])


def undo(conn):
    """Undo all that configure did, and more."""
    conn.set_session(autocommit=False, deferrable=True)
    conn.cursor_factory = None
    conn.string_types.clear()
    conn.rollback()
    run(conn, "set search_path = nowhere", "set timezone = 'Asia/Tokyo'", "unlisten *",
        "deallocate all", "drop table pg_temp.wanted", "set statement_timeout = 0",
        "set role pg_monitor")


@RESETS
@pytest.mark.parametrize("leave, look", [
    *RESTORED, pytest.param(undo, None, id="undone")])
def test_what_configure_did_stays(makePool, reset, leave, look):
    configure = Configure()
    pool = makePool(reset=reset, configure=configure)
    with pool.take() as conn:
        before = Configure.look(conn)
        assert {**before, **CONFIGURED} == before
    with pool.take() as conn:
        leave(conn)
    for _ in range(2):
        with pool.take() as again:
            assert Configure.look(again) == before
            assert again is conn or leave is entered


@RESETS
@pytest.mark.parametrize("attribute", ["notices", "notifies"])
def test_a_sink_of_configures_stays(makePool, reset, attribute):
    sink = Sink()

    def configure(conn):
        setattr(conn, attribute, sink)
        if attribute == "notifies":
            run(conn, "listen wanted")

    pool = makePool(reset=reset, configure=configure)
    for leave in (lambda conn: None, replace(attribute, Sink), sql("set role pg_monitor"),
                  lambda conn: None):
        with pool.take() as conn:
            run(conn, "notify wanted", "do $$ begin raise notice 'n'; end $$")
            assert len(sink.kept) == 1
            sink.kept.clear()
            leave(conn)
    assert pool.stats().opens == 1


@pytest.mark.parametrize("leave, look", LOCAL)
def test_what_is_restored_locally_is_not_configured_again(makePool, leave, look):
    if leave is entered:
        pytest.skip("the connection may be replaced")
    configure = Configure()
    pool = makePool(configure=configure)
    for _ in range(3):
        with pool.take() as conn:
            leave(conn)
    assert configure.count == pool.stats().opens == 1


@pytest.mark.parametrize("leave, look", REPORTED)
def test_after_a_configure_that_was_repeated_a_clean_put_sends_nothing(
        makePool, wire, wireDsn, leave, look):
    configure = Configure()
    pool = makePool(dsn=wireDsn, configure=configure)
    with pool.take() as conn:
        leave(conn)
    checkCleanPutSendsNothing(wire, pool)
    assert (configure.count, pool.stats().opens) == (2, 1)


def test_a_role_of_configures_stays(makePool, admin, wire, wireDsn):
    """The statements of a pool with less rights than its login are never run with more."""
    def configure(conn):
        with conn.cursor() as cur:
            cur.execute("set role pg_monitor")

    pool = makePool(dsn=wireDsn, configure=configure)
    with pool.take() as conn:
        before = WHO(conn)
        assert "pg_monitor" in before
    checkCleanPutSendsNothing(wire, pool)
    with pool.take() as conn:
        run(conn, "reset role")
        assert WHO(conn) != before
    with pool.take() as again:
        assert again is conn and WHO(again) == before


@RESETS
def test_a_connection_that_cannot_be_configured_again_is_closed(makePool, reset, caplog):
    outcomes = []

    def configure(conn):
        outcomes.append(conn)
        if len(outcomes) == 2:
            raise ArithmeticError("not now")
        with conn.cursor() as cur:
            cur.execute("set timezone = 'Europe/Paris'")

    pool = makePool(configure=configure, reset=reset)
    with pool.take() as conn:
        run(conn, "set timezone = 'Asia/Tokyo'", "set role pg_monitor")
    assert conn.closed and "not now" in caplog.text
    with pool.take() as other:
        assert other is not conn
        assert value(other, "show timezone") == "Europe/Paris"
    assert pool.stats().closesByReason[Reason.REPAIR] == 1
