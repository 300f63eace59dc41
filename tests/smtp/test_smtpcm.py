"""queuepool.smtpcm as a program written for 1.3.2 uses it."""

import contextlib
import gc
import inspect
import logging
import smtplib
import ssl
import weakref

import pytest

import queuepool.pool as qp
import queuepool.smtpcm as smtpcm
from tests.helpers import awaitTrue, runTogether
from tests.smtp.conftest import PASSWORD, USER
from tests.smtp.test_smtp import MAIL, RECEIVED


@pytest.fixture
def pool(tlsServer):
    pool = qp.Pool(name="mail", capacity=2, maxIdleTime=60, maxOpenTime=600, maxUsageCount=1000,
                   closeOnException=True)
    for i in range(pool.capacity):
        pool.put(smtpcm.ConnectionManager(
            name="mail-" + str(i), host=tlsServer.hostname, port=tlsServer.port, user=USER,
            password=PASSWORD))
    pool.startRecycler(5)
    yield pool
    pool.close()


def test_with_hands_out_the_manager(pool, tlsServer):
    with pool.take() as cm:
        assert isinstance(cm, smtpcm.ConnectionManager)
        assert isinstance(cm.resource, smtplib.SMTP)
        assert cm.sendmail(*MAIL) == {}
    assert tlsServer.mails == [RECEIVED]


def test_without_the_with_statement(pool, tlsServer):
    cm = pool.take()
    try:
        cm.sendmail(*MAIL)
    except Exception:
        if pool.closeOnException:
            cm.close()
        raise
    finally:
        pool.put(cm)
    assert tlsServer.mails == [RECEIVED]
    assert pool.stats().idle == 2


def test_exception_closes(pool, tlsServer):
    with pytest.raises(RuntimeError, match="bum!"):
        with pool.take():
            raise RuntimeError("bum!")
    assert pool.stats().open == 0
    awaitTrue(lambda: tlsServer.live == 0)
    with pool.take() as cm:
        cm.sendmail(*MAIL)
    assert tlsServer.opens == 2


def test_arguments_are_those_of_the_old_version():
    parameters = inspect.signature(smtpcm.ConnectionManager).parameters
    assert [str(parameter.replace(annotation=inspect.Parameter.empty))
            for parameter in parameters.values()] == [
        "name", "host=''", "port=0", "user=None", "password=None", "*args", "**kwargs"]
    smtpcm.ConnectionManager("mail", "localhost", 25, "user", "password", "more", further="more")


def test_text_hides_the_password():
    cm = smtpcm.ConnectionManager("mail", "localhost", 25, USER, PASSWORD)
    assert PASSWORD not in repr(cm)
    assert "'password': 'xxxxxxx'" in repr(cm)
    assert "'host': 'localhost'" in repr(cm)
    assert str(cm) == "mail"


def test_context_that_is_given_verifies(tlsServer):
    cm = smtpcm.ConnectionManager("mail", tlsServer.hostname, tlsServer.port, USER, PASSWORD,
                                  context=ssl.create_default_context())
    with qp.Pool("mail", 1) as pool:
        pool.put(cm)
        with pytest.raises(ssl.SSLCertVerificationError):
            pool.take()


def test_new_options_are_passed_on(plainServer):
    cm = smtpcm.ConnectionManager("mail", plainServer.hostname, plainServer.port,
                                  starttls=False, timeout=12.5)
    with qp.Pool("mail", 1) as pool:
        pool.put(cm)
        with pool.take():
            assert cm.resource.sock.gettimeout() == 12.5
            cm.sendmail(*MAIL)
    assert plainServer.mails == [RECEIVED]


# -- that certificates are not verified

def warnings(caplog):
    return [record.getMessage() for record in caplog.records
            if record.levelno >= logging.WARNING and record.name == "queuepool"]


def openAll(pool):
    runTogether(*[lambda: pool.put(pool.take())] * 4)
    taken = [pool.take() for _ in range(pool.capacity)]
    for each in taken:
        pool.put(each)


@contextlib.contextmanager
def poolOf(server, capacity=3, name="mail", **options):
    with qp.Pool(name, capacity) as pool:
        for i in range(capacity):
            pool.put(smtpcm.ConnectionManager(
                f"{name}-{i}", server.hostname, server.port, USER, PASSWORD, **options))
        yield pool


def test_each_pool_warns_once_of_certificates_that_are_not_verified(tlsServer, caplog):
    with poolOf(tlsServer) as pool, poolOf(tlsServer, name="other") as other:
        assert warnings(caplog) == []
        openAll(pool)
        pool.invalidate()
        openAll(pool)
        [text] = warnings(caplog)
        assert text.startswith("pool mail: ") and tlsServer.hostname in text
        assert "pass context=ssl.create_default_context()" in text
        openAll(other)
        assert len(warnings(caplog)) == 2
        assert warnings(caplog)[1].startswith("pool other: ")
        assert PASSWORD not in caplog.text


def test_nobody_is_warned_who_verifies_or_does_not_encrypt(tlsServer, plainServer, context, caplog):
    with poolOf(tlsServer, context=context) as pool:
        openAll(pool)
    with qp.Pool("mail", 1) as pool:
        pool.put(smtpcm.ConnectionManager("mail", plainServer.hostname, plainServer.port,
                                          starttls=False))
        openAll(pool)
    assert warnings(caplog) == []


def test_one_that_is_in_no_pool_warns_itself(tlsServer, caplog):
    manager = smtpcm.ConnectionManager("alone", tlsServer.hostname, tlsServer.port)
    for _ in range(2):
        manager.open()
        manager.close()
    [text] = warnings(caplog)
    assert text.startswith("pool alone: ")


def test_a_handler_of_logging_that_fails_fails_no_take(tlsServer):
    class Broken(logging.Handler):
        def emit(self, record):
            raise RuntimeError("the disk is full")

    handler = Broken(logging.WARNING)
    logging.getLogger("queuepool").addHandler(handler)
    try:
        with poolOf(tlsServer) as pool:
            openAll(pool)
            assert pool.stats().open == 3
    finally:
        logging.getLogger("queuepool").removeHandler(handler)


def test_pools_that_are_equal_and_cannot_be_hashed_warn_as_well(tlsServer, caplog):
    class Equal(qp.Pool):
        def __eq__(self, other):
            return True

    for name in "one", "two":
        with Equal(name, 1) as pool:
            pool.put(smtpcm.ConnectionManager(name, tlsServer.hostname, tlsServer.port))
            openAll(pool)
            assert pool.stats().openErrors == pool.stats().closeErrors == 0
    assert [text[:9] for text in warnings(caplog)] == ["pool one:", "pool two:"]


def test_a_pool_that_warned_is_not_kept(tlsServer):
    with poolOf(tlsServer) as pool:
        openAll(pool)
    gone = weakref.ref(pool)
    del pool
    gc.collect()
    assert gone() is None


def test_the_first_lines_tell():
    assert "does not verify certificates" in smtpcm.__doc__.splitlines()[0]
    assert "not verified" in smtpcm.ConnectionManager.__doc__.splitlines()[0]
