"""queuepool.smtp against a real mail server."""

import os
import select
import smtplib
import socket
import ssl
import threading

import pytest

from queuepool import Reason
from queuepool.smtp import Connection, Session
from queuepool.smtpcm import ConnectionManager
from tests.helpers import PATIENCE, awaitTrue, checkWhole, runTogether
from tests.smtp.conftest import PASSWORD, USER, Dialog

MAIL = ("from@example.org", ["to@example.org"], "Subject: hi\r\n\r\nHo.\r\n")
RECEIVED = (MAIL[0], MAIL[1], MAIL[2].encode())


def send(pool):
    with pool.take(timeout=PATIENCE) as smtp:
        return smtp.sendmail(*MAIL)


def sendAndWatch(pool):
    """Send a mail; return a call that waits until the server has said something more."""
    with pool.take(timeout=PATIENCE) as smtp:
        smtp.sendmail(*MAIL)
        sock = smtp.sock

    def awaitWord():
        assert select.select([sock], [], [], PATIENCE)[0], "the server said nothing"

    return awaitWord


# -- what works

def test_mail_is_sent_over_tls_after_a_login(tlsServer, makePool, context):
    pool = makePool(tlsServer, USER, PASSWORD, context=context)
    for _ in range(3):
        assert send(pool) == {}
    assert tlsServer.mails == [RECEIVED] * 3
    assert tlsServer.opens == 1
    assert tlsServer.dialogs[0].session.ssl is not None
    assert tlsServer.dialogs[0].session.authenticated


def test_with_hands_out_the_drivers_object_and_take_the_connection(plainServer, makePool):
    pool = makePool(plainServer, starttls=False)
    connection = pool.take()
    assert isinstance(connection, Connection)
    with connection as smtp:
        assert isinstance(smtp, smtplib.SMTP)
        assert smtp is connection.resource


def test_without_a_user_there_is_no_login(serve, serverContext, makePool, context):
    server = serve(serverContext)
    assert send(makePool(server, context=context)) == {}
    assert not server.dialogs[0].session.authenticated


def test_without_starttls_there_is_no_tls(plainServer, makePool):
    assert send(makePool(plainServer, starttls=False)) == {}
    assert plainServer.dialogs[0].session.ssl is None


# The server warns of what this test is about.
@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS:UserWarning")
def test_login_without_tls(serve, makePool):
    server = serve(users={USER: PASSWORD})
    assert send(makePool(server, USER, PASSWORD, starttls=False)) == {}
    assert server.dialogs[0].session.authenticated


def test_threads_share_the_connections(tlsServer, makePool, context):
    pool = makePool(tlsServer, USER, PASSWORD, capacity=2, context=context)
    runTogether(*[lambda: [send(pool) for _ in range(3)]] * 6)
    assert tlsServer.mails == [RECEIVED] * 18
    assert 1 <= tlsServer.opens <= 2
    checkWhole(pool)


def test_closing_the_pool_sends_quit(tlsServer, makePool, context):
    pool = makePool(tlsServer, USER, PASSWORD, context=context)
    send(pool)
    assert pool.close() == 0
    assert tlsServer.quits == 1
    awaitTrue(lambda: tlsServer.live == 0)


def test_the_password_is_in_no_text(plainServer, makePool, caplog):
    caplog.set_level("DEBUG", logger="queuepool")
    pool = makePool(plainServer, USER, PASSWORD)  # the server has neither TLS nor AUTH
    with pytest.raises(smtplib.SMTPNotSupportedError) as caught:
        pool.take()
    connection = Connection("mail", "localhost", 25, USER, PASSWORD)
    for text in (repr(connection), str(connection), str(caught.value), caplog.text, repr(pool)):
        assert PASSWORD not in text


def test_the_name_of_this_host_is_looked_up_once(plainServer, makePool, monkeypatch):
    """Where the DNS does not answer, smtplib waits for it for seconds at each connection."""
    askers = []  # the server, in its own thread, asks as well

    def getfqdn():
        askers.append(threading.current_thread())
        return "this.example.org"

    monkeypatch.setattr(socket, "getfqdn", getfqdn)
    pool = makePool(plainServer, starttls=False)
    for _ in range(2):
        send(pool)
        pool.invalidate()
    assert askers.count(threading.current_thread()) == 1
    assert [dialog.session.host_name for dialog in plainServer.dialogs] == ["this.example.org"] * 2


# -- what fails while it opens

def test_wrong_password_reaches_the_caller_and_the_slot_is_back(tlsServer, makePool, context):
    pool = makePool(tlsServer, USER, "wrong", context=context)
    with pytest.raises(smtplib.SMTPAuthenticationError):
        pool.take()
    assert pool.stats().idle == 1
    assert pool.stats().openErrors == 1
    awaitTrue(lambda: tlsServer.live == 0)
    assert tlsServer.quits == 1
    tlsServer.users[USER] = "wrong"
    assert send(pool) == {}


def test_certificate_of_an_unknown_authority_is_refused(tlsServer, makePool):
    pool = makePool(tlsServer, USER, PASSWORD)
    with pytest.raises(ssl.SSLCertVerificationError):
        pool.take()
    assert pool.stats().idle == 1
    awaitTrue(lambda: tlsServer.live == 0)


def test_certificate_of_another_host_is_refused(serve, authority, makePool, context):
    serverContext = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("mail.example.org").configure_cert(serverContext)
    with pytest.raises(ssl.SSLCertVerificationError):
        makePool(serve(serverContext), context=context).take()


def test_server_without_tls_gets_neither_mail_nor_password(plainServer, makePool):
    pool = makePool(plainServer, USER, PASSWORD)
    with pytest.raises(smtplib.SMTPNotSupportedError):
        pool.take()
    assert pool.stats().idle == 1
    awaitTrue(lambda: plainServer.live == 0)


def test_421_on_connect_reaches_the_caller_and_the_slot_is_back(plainServer, makePool):
    pool = makePool(plainServer, starttls=False)
    plainServer.isBusy = True
    with pytest.raises(smtplib.SMTPConnectError) as caught:
        pool.take()
    assert caught.value.smtp_code == 421
    assert pool.stats().idle == 1
    awaitTrue(lambda: plainServer.live == 0)
    plainServer.isBusy = False
    assert send(pool) == {}


def test_no_server_reaches_the_caller_and_the_slot_is_back(plainServer, makePool):
    pool = makePool(plainServer, starttls=False)
    plainServer.stop()
    with pytest.raises(ConnectionRefusedError):
        pool.take()
    assert pool.stats().idle == 1


def test_server_that_says_nothing_ends_in_a_timeout(makePool):
    class Mute:
        hostname = "127.0.0.1"

    with socket.create_server((Mute.hostname, 0)) as listener:
        Mute.port = listener.getsockname()[1]
        pool = makePool(Mute, starttls=False, timeout=0.05)
        with pytest.raises(smtplib.SMTPServerDisconnected, match="timed out"):
            pool.take()
    assert pool.stats().idle == 1


def test_what_an_interruption_leaves_half_open_is_closed(plainServer, makePool, monkeypatch):
    pool = makePool(plainServer, starttls=False)

    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(smtplib.SMTP, "ehlo_or_helo_if_needed", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pool.take()
    assert pool.stats().idle == 1
    awaitTrue(lambda: plainServer.live == 0)
    monkeypatch.undo()
    assert send(pool) == {}


# -- the server goes while a connection is idle

@pytest.mark.parametrize("isTls", [True, False])
@pytest.mark.parametrize("how", [Dialog.drop, Dialog.hangUp])
def test_dead_link_is_seen_at_take_and_reopened(serve, serverContext, makePool, context, isTls,
                                                how):
    server = serve(serverContext if isTls else None)
    pool = makePool(server, starttls=isTls, context=context)
    awaitWord = sendAndWatch(pool)
    server.endAll(how)
    awaitWord()
    assert send(pool) == {}
    assert server.opens == 2
    assert pool.stats().closesByReason[Reason.REPAIR] == 1
    assert pool.stats().closeErrors == 0


@pytest.mark.parametrize("isTls", [True, False])
def test_421_said_to_an_idle_connection_is_heard(serve, serverContext, makePool, context, isTls):
    server = serve(serverContext if isTls else None)
    pool = makePool(server, starttls=isTls, context=context)
    awaitWord = sendAndWatch(pool)
    server.run(server.dialogs[0].say, "421 closing soon")  # and the link stays up
    awaitWord()
    assert send(pool) == {}
    assert server.opens == 2
    assert server.quits == 0, "a QUIT would be answered with what was said before"


def test_451_said_to_an_idle_connection_before_its_end_is_heard(plainServer, makePool):
    """Some servers end idle sessions with it instead of 421."""
    pool = makePool(plainServer, starttls=False)
    awaitWord = sendAndWatch(pool)
    plainServer.run(plainServer.dialogs[0].say, "451 4.4.2 timeout, closing connection")
    plainServer.endAll(Dialog.hangUp)
    awaitWord()
    assert send(pool) == {}
    assert plainServer.opens == 2


def test_421_that_came_with_the_last_reply_is_heard(plainServer, makePool):
    """It lies in the reader's buffer then, and the socket is not readable."""
    pool = makePool(plainServer, starttls=False)
    with pool.take() as smtp:
        plainServer.handle_NOOP = None
        plainServer.run(plainServer.dialogs[0].say, "250 first\r\n421 closing soon")
        assert smtp.getreply() == (250, b"first")
    assert send(pool) == {}
    assert plainServer.opens == 2


def test_tls_records_without_data_are_no_death(tlsServer, context):
    """After the handshake the server sends session tickets: there is much to read, but no word."""
    with Session(tlsServer.hostname, tlsServer.port) as smtp:
        smtp.starttls(context=context)
        assert smtp.sock.version() == "TLSv1.3"
        assert select.select([smtp.sock], [], [], PATIENCE)[0], "no session ticket came"
        smtp.listen()
        assert smtp.isReady
        assert smtp.ehlo()[0] == 250


def test_server_gone_and_back_costs_no_mail(serve, makePool):
    server = serve()
    pool = makePool(server, capacity=3, starttls=False)
    runTogether(*[lambda: send(pool)] * 3)
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        send(pool)
    assert pool.stats().taken == 0
    again = serve(port=server.port)
    runTogether(*[lambda: send(pool)] * 10)
    assert again.mails == [RECEIVED] * 10
    checkWhole(pool)


def test_closed_session_is_not_ready(plainServer):
    smtp = Session(plainServer.hostname, plainServer.port)
    smtp.close()
    smtp.listen()
    assert not smtp.isReady


def test_the_look_at_the_link_sends_nothing(plainServer, makePool, monkeypatch):
    pool = makePool(plainServer, starttls=False)
    send(pool)
    sent = []
    monkeypatch.setattr(smtplib.SMTP, "send", lambda self, s: sent.append(s))
    for _ in range(3):
        with pool.take():
            pass
    assert sent == []


def test_the_timeout_is_as_it_was_after_the_look(plainServer, makePool):
    pool = makePool(plainServer, starttls=False, timeout=12.5)
    for _ in range(2):
        with pool.take() as smtp:
            assert smtp.sock.gettimeout() == 12.5


# -- the server goes while a mail is under way

@pytest.mark.parametrize("closeOnException", [True, False])
def test_drop_in_the_middle_of_data_fails_that_mail_only(plainServer, makePool,
                                                         closeOnException):
    pool = makePool(plainServer, starttls=False, closeOnException=closeOnException)
    plainServer.dropsData = True
    with pytest.raises(smtplib.SMTPServerDisconnected):
        send(pool)
    plainServer.dropsData = False
    assert plainServer.mails == []
    assert send(pool) == {}
    assert plainServer.mails == [RECEIVED]
    assert plainServer.opens == 2
    checkWhole(pool)


@pytest.mark.parametrize("text", ["", "half a mai"])
@pytest.mark.parametrize("closeOnException", [True, False])
def test_interruption_in_the_middle_of_data_sends_no_half_mail(plainServer, makePool,
                                                               closeOnException, text):
    """A QUIT or RSET would only be more text of the mail, and its reply never come."""
    pool = makePool(plainServer, starttls=False, closeOnException=closeOnException,
                    timeout=10 * PATIENCE)
    with pytest.raises(KeyboardInterrupt):
        with pool.take() as smtp:
            smtp.mail("from@example.org")
            smtp.rcpt("to@example.org")
            assert smtp.docmd("DATA")[0] == 354
            if text:
                smtp.send(text)
            raise KeyboardInterrupt
    awaitTrue(lambda: plainServer.live == 0)
    assert plainServer.mails == []
    assert plainServer.quits == plainServer.resets == 0
    assert send(pool) == {}
    assert plainServer.mails == [RECEIVED]


def test_interruption_before_a_reply_closes(plainServer, makePool):
    """The late reply would be taken for the next command's."""
    pool = makePool(plainServer, starttls=False, closeOnException=False)
    with pytest.raises(KeyboardInterrupt):
        with pool.take() as smtp:
            smtp.putcmd("NOOP")
            raise KeyboardInterrupt
    assert pool.stats().open == 0
    assert send(pool) == {}
    assert plainServer.opens == 2


# -- whether another attempt may help

@pytest.mark.parametrize("error, isTransient", [
    (smtplib.SMTPAuthenticationError(535, b"5.7.8 credentials invalid"), False),
    (smtplib.SMTPAuthenticationError(534, b"5.7.9 mechanism too weak"), False),
    (smtplib.SMTPAuthenticationError(454, b"4.7.0 temporary failure"), True),
    (smtplib.SMTPConnectError(421, b"too many connections"), True),
    (smtplib.SMTPConnectError(554, b"no service here"), False),
    (smtplib.SMTPConnectError(-1, b""), True),
    (smtplib.SMTPHeloError(550, b"who are you"), False),
    (smtplib.SMTPResponseException(454, b"TLS not available"), True),
    (smtplib.SMTPNotSupportedError("no STARTTLS"), False),
    (smtplib.SMTPException("No suitable authentication method found."), False),
    (smtplib.SMTPServerDisconnected("Connection unexpectedly closed"), True),
    (ssl.SSLCertVerificationError("unknown authority"), False),
    (ssl.SSLEOFError(), True),
    (ConnectionRefusedError(), True),
    (TimeoutError(), True),
    (socket.gaierror(socket.EAI_NONAME, "not known yet, as a container that is starting"), True),
    (UnicodeEncodeError("ascii", "\u00fc", 0, 1, "not ASCII"), False)])
def test_what_another_attempt_cannot_mend_is_not_transient(error, isTransient):
    assert Connection("mail", "localhost").isTransient(error) is isTransient


def test_a_wrong_password_is_raised_at_once_although_openings_are_tried_again(
        tlsServer, makePool, context):
    pool = makePool(tlsServer, USER, "wrong", context=context)
    pool.openRetryTime = PATIENCE
    with pytest.raises(smtplib.SMTPAuthenticationError):
        pool.take()
    assert tlsServer.opens == 1


# -- what a user leaves behind

def test_half_done_mail_is_reset(plainServer, makePool):
    pool = makePool(plainServer, starttls=False)
    with pool.take() as smtp:
        smtp.mail("left@example.org")
        smtp.rcpt("behind@example.org")
    assert plainServer.resets == 1
    assert send(pool) == {}
    assert plainServer.mails == [RECEIVED]
    assert plainServer.opens == 1


def test_mail_that_the_driver_leaves_half_done_is_reset(plainServer, makePool):
    """smtplib's sendmail does not reset when DATA itself is refused."""
    pool = makePool(plainServer, starttls=False, closeOnException=False)
    plainServer.refusesData = True
    with pytest.raises(smtplib.SMTPDataError):
        send(pool)
    assert plainServer.resets == 1
    plainServer.refusesData = False
    assert send(pool) == {}
    assert plainServer.opens == 1


def test_reset_that_is_refused_closes(plainServer, makePool):
    pool = makePool(plainServer, starttls=False)
    plainServer.refusesReset = True
    with pool.take() as smtp:
        smtp.mail("left@example.org")
    assert plainServer.resets == 1
    assert pool.stats().open == 0
    assert send(pool) == {}
    assert plainServer.opens == 2


def test_reset_on_a_dropped_link_closes(plainServer, makePool):
    pool = makePool(plainServer, starttls=False)
    with pool.take() as smtp:
        smtp.mail("left@example.org")
        plainServer.endAll()
    assert pool.stats().open == 0
    assert send(pool) == {}


@pytest.mark.parametrize("verb", ["MAIL", "DATA"])
def test_connection_that_sent_its_number_of_mails_is_closed(plainServer, makePool, verb):
    """The server refuses each further mail on it, whoever takes it, but stays connected."""
    pool = makePool(plainServer, starttls=False)
    plainServer.mailsPerSession = 2
    plainServer.refusesAt = verb
    with pool.take() as smtp:
        for _ in range(2):
            smtp.sendmail(*MAIL)
        with pytest.raises(smtplib.SMTPResponseException) as caught:
            smtp.sendmail(*MAIL)
    assert caught.value.smtp_code == 452
    assert pool.stats().open == 0
    assert send(pool) == {}
    assert plainServer.opens == 2
    assert plainServer.quits == 1


def test_421_in_the_middle_of_a_mail_that_the_user_handles_closes(plainServer, makePool):
    pool = makePool(plainServer, starttls=False)
    plainServer.goesAtMail = True
    with pool.take() as smtp:
        with pytest.raises(smtplib.SMTPSenderRefused):
            smtp.sendmail(*MAIL)
    assert pool.stats().open == 0
    plainServer.goesAtMail = False
    assert send(pool) == {}
    assert plainServer.opens == 2


def test_a_mail_with_utf8_addresses_leaves_no_encoding_behind(plainServer, makePool):
    """smtplib would send the next one's raw bytes to a server that was told of no SMTPUTF8."""
    pool = makePool(plainServer, starttls=False)
    with pool.take() as smtp:
        smtp.sendmail("gr\u00fc\u00dfe@example.org", *MAIL[1:], mail_options=["SMTPUTF8"])
    with pytest.raises(UnicodeEncodeError):
        with pool.take() as smtp:
            smtp.sendmail("gr\u00fc\u00dfe@example.org", *MAIL[1:])
    assert len(plainServer.mails) == 1


def test_a_timeout_that_a_user_set_is_set_back(plainServer, makePool):
    pool = makePool(plainServer, starttls=False, timeout=12.5)
    with pool.take() as smtp:
        smtp.sock.settimeout(0.001)
    with pool.take() as smtp:
        assert smtp.sock.gettimeout() == 12.5
    assert plainServer.opens == 1


def test_clean_connection_is_put_without_a_round_trip(plainServer, makePool):
    pool = makePool(plainServer, starttls=False)
    send(pool)
    assert plainServer.resets == 0


def test_connection_that_its_user_quit_is_reopened(plainServer, makePool):
    pool = makePool(plainServer, starttls=False)
    with pool.take() as smtp:
        smtp.quit()
    assert pool.stats().open == 0
    assert send(pool) == {}
    assert plainServer.opens == 2


@pytest.mark.parametrize("what", [["file"], ["file", "sock"]])
def test_connection_whose_insides_its_user_closed_is_reopened(plainServer, makePool, what, caplog):
    pool = makePool(plainServer, starttls=False)
    with pool.take() as smtp:
        for each in what:
            getattr(smtp, each).close()
    assert send(pool) == {}
    assert plainServer.opens == 2
    assert caplog.records == []


def test_connection_whose_server_says_that_it_goes_is_closed(plainServer, makePool):
    pool = makePool(plainServer, starttls=False)
    with pool.take() as smtp:
        smtp.putcmd("VRFY")  # without an argument it is an error, which is no farewell
        assert smtp.getreply()[0] == 501
    assert pool.stats().open == 1
    plainServer.goes = True
    with pool.take() as smtp:
        assert smtp.noop()[0] == 421
    assert pool.stats().open == 0
    assert plainServer.quits == 0


# -- closing

def test_quit_on_a_dropped_link_is_no_error(plainServer, makePool, caplog):
    pool = makePool(plainServer, starttls=False)
    send(pool)
    plainServer.endAll()
    assert pool.close() == 0
    assert pool.stats().closeErrors == 0
    assert caplog.records == []


def test_link_dropped_by_the_quit_is_no_error(plainServer, makePool):
    pool = makePool(plainServer, starttls=False)
    send(pool)
    plainServer.dropsQuit = True
    assert pool.close() == 0
    assert plainServer.quits == 1
    assert pool.stats().closeErrors == 0


def test_interrupted_quit_closes_the_socket(plainServer, monkeypatch):
    connection = Connection("mail", plainServer.hostname, plainServer.port, starttls=False)
    connection.open()
    sock = connection.resource.sock

    def interrupt(self, *args):
        raise KeyboardInterrupt

    monkeypatch.setattr(smtplib.SMTP, "putcmd", interrupt)
    with pytest.raises(KeyboardInterrupt):
        connection.close()
    assert sock.fileno() == -1
    assert not connection.isOpen


@pytest.mark.parametrize("isTls", [True, False])
def test_abandon_sends_nothing_and_keeps_the_other_process_connected(
        serve, serverContext, context, isTls):
    server = serve(serverContext if isTls else None)
    connection = Connection("mail", server.hostname, server.port, starttls=isTls,
                            context=context)
    connection.open()
    sock = connection.resource.sock
    with socket.socket(fileno=os.dup(sock.fileno())) as others:
        connection.abandon()
        assert not connection.isOpen
        assert connection.resource is None
        assert sock.fileno() == -1
        others.settimeout(PATIENCE)
        server.run(server.dialogs[0].say, "250 still here")
        assert others.recv(100)
        assert server.live == 1
        connection.abandon()  # a second time does nothing
    awaitTrue(lambda: server.live == 0)
    assert server.quits == 0


# -- what was meant for the SMTP, asked of something else

@pytest.mark.parametrize("make, name, how", [
    (Connection, "sendmail", "with pool.take() as smtp: smtp.sendmail(...)"),
    (Connection, "send_message", "with pool.take() as smtp: smtp.send_message(...)"),
    (ConnectionManager, "send_message", "manager.resource.send_message(...)")])
def test_where_to_find_an_attribute_of_the_smtp(make, name, how):
    thing = make("mail", "localhost")
    with pytest.raises(AttributeError) as caught:
        getattr(thing, name)
    assert str(caught.value).startswith(f"{make.__name__!r} object has no attribute {name!r}; ")
    assert how in str(caught.value)
    assert not hasattr(thing, name) and not hasattr(make, name)
