"""What take hands out: a connection that lives, known without asking the server."""

import contextlib
import gc
import os
import select
import socket

import psycopg2
import pytest

from queuepool import Pool, Reason
from queuepool.psycopg2 import Connection, ConnectionPool
from queuepool.psycopg2cm import ConnectionManager
from queuepool.watchdog import timeLimit
from tests.helpers import awaitTrue, runTogether


def ask(conn):
    with conn.cursor() as cur:
        cur.execute("select 1")
        assert cur.fetchone() == (1,)
    conn.rollback()


def takeAll(pool):
    """Take all connections of a pool and put them back; return their backends' pids."""
    taken = [pool.take() for _ in range(pool.capacity)]
    pids = [each.resource.get_backend_pid() for each in taken]
    for each in reversed(taken):
        pool.put(each)
    return pids


def message(kind, *texts):
    """Return a message of the PostgreSQL protocol."""
    body = b"".join(text + b"\0" for text in texts)
    return kind + (len(body) + 4).to_bytes(4, "big") + body


def awaitReadable(conn):
    assert select.select([conn], [], [], 30)[0]


def awaitEnd(conn):
    """Wait until the server's end of the socket is closed, and not only its last word here."""
    poller = select.poll()
    poller.register(conn.fileno(), select.POLLHUP)
    awaitTrue(lambda: poller.poll(0))


def test_with_hands_out_the_connection_of_psycopg2_itself(makePool):
    pool = makePool()
    with pool.take() as conn, conn, conn.cursor() as cur:
        assert type(conn) is psycopg2.extensions.connection
        cur.execute("create table t as select 1")
    taken = pool.take()
    assert type(taken) is Connection and taken.resource is conn
    ask(taken.resource)
    pool.put(taken)


def test_a_clean_take_and_put_sends_nothing(makePool, wire, wireDsn):
    pool = makePool(dsn=wireDsn)
    wire.bytesOf(pool, 0)
    assert wire.bytesOf(pool, 100) == wire.bytesOf(pool, 0)
    assert pool.stats().opens == 1


def test_opening_sends_no_statement_by_default(makePool, wire, wireDsn):
    with makePool(dsn=wireDsn).take() as conn:
        ask(conn)
    assert wire.said.count(b"Q\0\0\0") == 3  # BEGIN, the question, ROLLBACK
    assert b"SET" not in wire.said.upper().replace(b"TZ", b"")


@pytest.mark.usefixtures("posix")
def test_a_connection_ended_by_the_server_is_replaced_without_asking(
        makePool, admin, monkeypatch):
    monkeypatch.setattr(Connection, "_ping", None)  # not to be called
    pool = makePool()
    with pool.take() as conn:
        ask(conn)
    admin.terminate(conn.get_backend_pid())
    awaitEnd(conn)
    with pool.take() as other:
        assert other is not conn
        ask(other)
    assert pool.stats().closesByReason[Reason.REPAIR] == 1


def test_the_last_word_of_a_server_is_heard_though_the_connection_has_not_ended(
        makePool, admin, wire, wireDsn):
    wire.keepsEnds = True
    pool = makePool(2, wireDsn)
    takeAll(pool)
    with pool.take() as conn:
        pid = conn.get_backend_pid()
    admin.terminate(pid)
    awaitReadable(conn)
    with pool.take() as other:
        assert other.get_backend_pid() != pid
        ask(other)
    closes = pool.stats().closesByReason
    assert closes[Reason.REPAIR] == 1 and closes[Reason.INVALIDATED] == 0


def test_ten_threads_on_ten_dead_connections_all_succeed(makePool, admin):
    pool = makePool(10)
    admin.terminate(*takeAll(pool))

    def work():
        with pool.take() as conn:
            ask(conn)

    runTogether(*[work] * 10)
    assert pool.stats().openErrors == 0


def listen(conn):
    with conn.cursor() as cur:
        cur.execute("listen news")


def test_a_notification_is_no_death_and_stays_for_the_next_user(makePool, admin):
    pool = makePool(autocommit=True, configure=listen)
    with pool.take() as conn:
        pass
    admin.query("select pg_notify('news', 'a'), pg_notify('news', 'b')")
    awaitReadable(conn)
    with pool.take() as again:
        assert again is conn
        assert [each.payload for each in conn.notifies] == ["a", "b"]


@pytest.mark.parametrize("unasked, isAsked", [
    (message(b"S", b"TimeZone", b"Asia/Tokyo"), False),
    (message(b"N", b"SWARNING", b"VWARNING", b"C01000", b"Mbeware", b""), True),
], ids=["parameter", "notice"])
def test_what_the_server_says_unasked_is_no_death(makePool, wire, wireDsn, unasked, isAsked):
    pool = makePool(dsn=wireDsn)
    with pool.take() as conn:
        ask(conn)
    wire.tell(unasked)
    awaitReadable(conn)
    with pool.take() as again:
        assert again is conn
        ask(again)
        assert not conn.notices
    assert (b"SHOW" in wire.said) is isAsked


@pytest.mark.usefixtures("posix")
def test_a_connection_closed_after_its_put_is_opened_again(makePool):
    pool = makePool()
    with pool.take() as conn:
        ask(conn)
    number = conn.fileno()
    silent, other = socket.socketpair()
    with silent, other:
        conn.close()
        os.dup2(silent.fileno(), number)  # the descriptor is somebody else's now
        try:
            with pool.take() as fresh:
                ask(fresh)
        finally:
            os.close(number)


def test_without_poll_select_does(makePool, admin, monkeypatch):
    monkeypatch.delattr(select, "poll", raising=False)
    pool = makePool()
    with pool.take() as conn:
        pass
    with pool.take() as again:
        assert again is conn
    admin.terminate(conn.get_backend_pid())
    with pool.take() as other:
        assert other is not conn
        ask(other)


def test_what_lay_idle_for_long_is_asked_once(makePool, clock, wire, wireDsn):
    pool = makePool(dsn=wireDsn, clock=clock, pingTime=30.0)
    with pool.take() as conn:
        pass
    clock.advance(30.0)
    with pool.take():
        ask(conn)
    assert b"SHOW" not in wire.said
    clock.advance(30.1)
    with pool.take() as again:
        assert again is conn
        assert conn.get_transaction_status() == 0
    with pool.take():
        ask(conn)
    assert wire.said.count(b"SHOW") == 1


def test_without_ping_time_nothing_is_asked(makePool, clock, wire, wireDsn):
    pool = makePool(dsn=wireDsn, clock=clock, pingTime=None, maxIdleTime=None,
                    maxOpenTime=None)
    with pool.take() as conn:
        pass
    clock.advance(1e6)
    with pool.take():
        ask(conn)
    assert b"SHOW" not in wire.said


@pytest.mark.timeout(30)
def test_a_silent_cut_costs_one_ping_timeout_and_not_one_a_connection(
        makePool, clock, dsn, wire, wireDsn, monkeypatch):
    ways = [wireDsn]
    limits = []

    def countedLimit(seconds, action):
        limits.append(seconds)
        return timeLimit(seconds, action)

    monkeypatch.setattr("queuepool.dbapi.timeLimit", countedLimit)
    pool = makePool(3, lambda: ways[-1], clock=clock, pingTimeout=0.2)
    old = takeAll(pool)
    clock.advance(31.0)
    wire.hold()
    ways.append(dsn)
    assert not set(takeAll(pool)) & set(old)
    assert limits == [0.2]
    closes = pool.stats().closesByReason
    assert closes[Reason.REPAIR] == 1 and closes[Reason.INVALIDATED] == 2


def test_a_ping_that_just_came_too_late_is_a_failed_one(makePool, clock, monkeypatch):
    @contextlib.contextmanager
    def lateLimit(seconds, action):
        """A time limit that is over though the answer has arrived."""
        with timeLimit(seconds, action) as limit:
            yield limit
            limit.expire()

    pool = makePool(clock=clock)
    with pool.take() as conn:
        pass
    clock.advance(31.0)
    monkeypatch.setattr("queuepool.dbapi.timeLimit", lateLimit)
    with pool.take() as other:
        assert other is not conn
        ask(other)


def test_a_pool_of_ones_own_may_be_filled_with_connections(dsn, admin):
    with Pool("plain", 2) as pool:
        pool.put(Connection("a", "SERIALIZABLE", None, None, None, dsn, application_name="a"))
        pool.put(Connection("b", application_name="b", dsn=dsn))
        assert admin.backends() == 0
        with pool.take() as conn, pool.take() as other:
            ask(conn)
            ask(other)
            assert admin.backends() == 2


@pytest.mark.parametrize("make", [Connection, ConnectionManager])
def test_a_connection_that_was_dropped_is_closed_and_used_again(dsn, admin, caplog, make):
    with Pool("pool", 1, factory=lambda name: make(
            name, application_name=name, dsn=dsn)) as pool:
        pool.take()
        gc.collect()  # where there is no count of references
        with pytest.warns(ResourceWarning, match="'pool-0' was taken and dropped"):
            pool.recycle()
        assert "'pool-0' was taken and dropped without being returned" in caplog.text
        awaitTrue(lambda: admin.backends() == 0)
        assert pool.stats().closesByReason[Reason.DROPPED] == 1
        with pool.take() as target:
            ask(target.resource if make is ConnectionManager else target)


def test_fifty_threads_share_ten_connections(makePool, admin):
    pool = makePool(10)
    admin.query("create table done (worker int, number int)")

    def work(worker):
        def run():
            for number in range(10):
                with pool.take() as conn, conn, conn.cursor() as cur:
                    cur.execute("insert into done values (%s, %s)", (worker, number))
        return run

    runTogether(*(work(worker) for worker in range(50)))
    assert admin.value("select count(distinct (worker, number)) from done") == 500
    stats = pool.stats()
    assert stats.takes == 500 and stats.opens <= 10 and admin.backends() == stats.open


# -- what was meant for the connection, asked of something else

@pytest.mark.parametrize("name", ["cursor", "commit", "rollback", "execute"])
@pytest.mark.parametrize("make, how", [
    (ConnectionPool, "with pool.take() as conn"), (Connection, "with pool.take() as conn"),
    (ConnectionManager, "manager.resource")])
def test_where_to_find_an_attribute_of_the_connection(make, how, name):
    thing = make("thing", *([1] if make is ConnectionPool else []))
    with pytest.raises(AttributeError) as caught:
        getattr(thing, name)
    assert str(caught.value).startswith(f"{make.__name__!r} object has no attribute {name!r}; ")
    assert how in str(caught.value)
    assert not hasattr(thing, name) and not hasattr(make, name)


def test_a_pool_has_no_autocommit_though_its_connections_have():
    with pytest.raises(AttributeError, match="with pool.take.. as conn: conn.autocommit"):
        ConnectionPool("pool", 1).autocommit
    assert Connection("one", autocommit=True).autocommit


def test_a_subclass_may_have_what_is_elsewhere():
    class Own(Connection):
        def cursor(self):
            return "own"

        def __getattr__(self, name):
            return name

    own = Own("own")
    own.rollback = "set"
    assert (own.cursor(), own.rollback, own.commit) == ("own", "set", "commit")
