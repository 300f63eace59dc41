"""The mail server freezes: it is there, but nobody answers any more.

The timeout is a minute in these tests. What waits for it would be seen.
"""

import gc
import smtplib
import socket
import ssl
import threading
import time
import weakref
from contextlib import contextmanager

import pytest

from queuepool import Pool, PoolError, smtp
from queuepool.smtp import Connection, Session
from tests.helpers import FakeClock, awaitTrue, start
from tests.smtp.test_smtp import MAIL, send

#: Seconds that no test here may use: some more than the longest limit, far less than the timeout.
LONG = 15.0


@contextmanager
def inTime():
    startedAt = time.monotonic()
    yield
    assert time.monotonic() - startedAt < LONG


@pytest.fixture(params=["plain", "TLS"])
def server(request, serve, serverContext):
    return serve(serverContext if request.param == "TLS" else None)


@pytest.fixture
def waits(monkeypatch):
    """The seconds that each QUIT was waited for."""
    seconds = []
    leave = Session.leave

    def note(self, limit):
        seconds.append(limit)
        return leave(self, limit)

    monkeypatch.setattr(Session, "leave", note)
    return seconds


@pytest.fixture
def filled(server, context):
    """Make a pool of 10 open connections."""
    pools = []

    def make(capacity=10, **options):
        pool = Pool("mail", capacity, **options, factory=lambda name: Connection(
            name, server.hostname, server.port, starttls=server.SMTP_kwargs["tls_context"]
            is not None, context=context))
        pools.append(pool)
        taken = [pool.take() for _ in range(capacity)]
        for each in taken:
            pool.put(each)
        return pool

    yield make
    for pool in pools:
        pool.close()


def quitTimes(count):
    """The waits of count closes: one for all."""
    return [smtp.QUIT_TIME] + [0.0] * (count - 1)


def test_close_waits_for_one_quit_only(server, filled, waits):
    pool = filled()
    server.freeze()
    with inTime():
        assert pool.close(timeout=0) == 0
    assert waits == quitTimes(10)
    assert pool.stats().closeErrors == 0
    server.thaw.open()
    awaitTrue(lambda: server.quits == 10)  # it was told all the same


def test_invalidate_waits_for_one_quit_only(server, filled, waits):
    pool = filled()
    server.freeze()
    with inTime():
        assert pool.invalidate() == 0
    assert waits == quitTimes(10)


def test_recycle_waits_for_one_quit_only(server, filled, waits):
    clock = FakeClock()
    pool = filled(maxIdleTime=60, clock=clock)
    clock.advance(61)
    server.freeze()
    with inTime():
        pool.recycle()
    assert waits == quitTimes(10)
    assert pool.stats().open == 0


def test_a_server_that_is_back_is_waited_for_again(server, filled, waits):
    pool = filled(2)
    server.freeze()
    pool.invalidate()
    server.thaw.open()
    send(pool)
    pool.invalidate()
    assert waits == [smtp.QUIT_TIME, 0.0, smtp.QUIT_TIME]
    awaitTrue(lambda: server.live == 0)


def test_pools_of_other_servers_do_wait(server, filled, waits):
    pool, other = filled(1), filled(1)
    server.freeze()
    pool.invalidate()
    server.thaw.open()
    other.invalidate()
    assert waits == [smtp.QUIT_TIME] * 2


def test_no_wait_is_longer_than_the_timeout(plainServer, makePool, waits):
    pool = makePool(plainServer, starttls=False, timeout=0.125)
    send(pool)
    pool.invalidate()
    assert waits == [0.125]


def test_a_put_waits_briefly_for_the_reset(server, filled):
    pool = filled(1)
    with inTime():
        with pool.take() as client:
            client.mail("left@example.org")
            server.freeze()
    assert pool.stats().open == 0
    server.thaw.open()
    assert send(pool) == {}


def test_a_put_of_what_raised_waits_briefly(server, filled, waits):
    pool = filled(1, closeOnException=True)
    with inTime(), pytest.raises(KeyError):
        with pool.take():
            server.freeze()
            raise KeyError
    assert waits == [smtp.QUIT_TIME]


def test_a_put_of_what_timed_out_says_nothing_more(server, filled, waits):
    pool = filled(1)
    with inTime(), pytest.raises(smtplib.SMTPServerDisconnected):
        with pool.take() as client:
            client.sock.settimeout(0.1)
            server.freeze()
            client.sendmail(*MAIL)
    assert waits == []
    assert pool.stats().open == 0


@pytest.mark.parametrize("timeout", [0, 1])
def test_a_take_ends_in_time(server, filled, waits, timeout):
    clock = FakeClock()
    pool = filled(maxIdleTime=60, clock=clock)
    clock.advance(61)
    server.freeze()
    with inTime(), pytest.raises((PoolError, smtplib.SMTPServerDisconnected)):
        pool.take(timeout=timeout)
    [wait] = waits
    assert 0 < wait <= max(timeout, 0.1) / 2
    assert pool.stats().idle == 10


def test_the_time_left_bounds_a_host_with_many_addresses(monkeypatch):
    tried = []

    def connect(address, timeout, source_address):
        tried.append(timeout)
        raise TimeoutError

    monkeypatch.setattr(Connection, "timeLeft", 8.0)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: ["address"] * 4)
    monkeypatch.setattr(socket, "create_connection", connect)
    for timeout in (60.0, None):
        with pytest.raises(TimeoutError):
            Connection("mail", "mail.example.org", timeout=timeout).open()
    assert tried == pytest.approx([2.0, 2.0], abs=0.5)


@pytest.mark.parametrize("left, limit", [(30.0, 30), (0.05, smtp.LEAST_OPEN_TIME)])
def test_each_step_of_an_open_has_what_is_left(serve, serverContext, context, monkeypatch, left,
                                               limit):
    """To connect and each reply take a tenth of a second here, by a clock of its own."""
    class Time:
        monotonic = FakeClock(0.0)

    def note(self, sock, **kwargs):
        limits.append(sock.gettimeout())
        return handshake(self, sock, **kwargs)

    def noteReply(self):
        limits.append(self.sock.gettimeout())
        Time.monotonic.advance(0.1)
        return reply(self)

    def connectSlowly(*args, **kwargs):
        Time.monotonic.advance(0.1)
        return connect(*args, **kwargs)

    limits = []
    connect, reply, handshake = (socket.create_connection, smtplib.SMTP.getreply,
                                 ssl.SSLContext.wrap_socket)
    monkeypatch.setattr(socket, "create_connection", connectSlowly)
    monkeypatch.setattr(smtp, "time", Time)
    monkeypatch.setattr(smtplib.SMTP, "getreply", noteReply)
    monkeypatch.setattr(ssl.SSLContext, "wrap_socket", note)
    monkeypatch.setattr(Connection, "timeLeft", left)
    server = serve(serverContext)
    connection = Connection("mail", server.hostname, server.port, context=context)
    connection.open()
    # the greeting, EHLO, STARTTLS, the handshake, EHLO
    assert limits == pytest.approx([limit - 0.1 * replies for replies in (1, 2, 3, 4, 4)])
    assert connection.resource.sock.gettimeout() == 60.0
    connection.close()


def test_a_silent_peer_takes_no_longer_than_the_time_left(monkeypatch):
    monkeypatch.setattr(smtp, "LEAST_OPEN_TIME", 0.1)
    monkeypatch.setattr(Connection, "timeLeft", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connection = Connection("mail", *listener.getsockname())
        with inTime(), pytest.raises(smtplib.SMTPServerDisconnected, match="timed out"):
            connection.open()


@contextmanager
def scripted(lastVerb, lastWord):
    """A server for one client, which falls silent after a command; the address of it."""
    def talk():
        peer, _ = listener.accept()
        with peer, peer.makefile("rb") as lines:
            peer.sendall(b"220 here\r\n")
            for line in lines:
                if line.upper().startswith(lastVerb):
                    peer.sendall(lastWord)
                    isOver.wait()
                    return
                peer.sendall(b"250-here\r\n250 STARTTLS\r\n")

    isOver = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        talking = start(talk)
        try:
            yield listener.getsockname()
        finally:
            isOver.set()
            talking.result()


def test_a_peer_that_freezes_in_the_handshake_takes_no_longer_than_the_time_left(monkeypatch):
    monkeypatch.setattr(smtp, "LEAST_OPEN_TIME", 0.2)
    monkeypatch.setattr(Connection, "timeLeft", 0.2)
    with scripted(b"STARTTLS", b"220 go on\r\n") as address:
        connection = Connection("mail", *address)
        with inTime(), pytest.raises(TimeoutError):
            connection.open()
        connection.close()


def test_a_reply_byte_by_byte_is_not_waited_for(waits):
    """A tarpit answers one byte at a time, each within the limit: the first one is enough."""
    with scripted(b"QUIT", b"2") as address:
        with Pool("mail", 1, factory=lambda name: Connection(
                name, *address, starttls=False)) as pool:
            pool.put(pool.take())
            with inTime():
                pool.invalidate()
    assert waits == [smtp.QUIT_TIME]


def test_a_pool_of_a_frozen_server_is_not_kept(plainServer):
    pool = Pool("mail", 1, factory=lambda name: Connection(
        name, plainServer.hostname, plainServer.port, starttls=False))
    pool.put(pool.take())
    plainServer.freeze()
    assert pool.close() == 0
    gone = weakref.ref(pool)
    del pool
    gc.collect()
    assert gone() is None
