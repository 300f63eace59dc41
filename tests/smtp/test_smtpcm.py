"""queuepool.smtpcm as a program written for 1.3.2 uses it."""

import inspect
import smtplib
import ssl

import pytest

import queuepool.pool as qp
import queuepool.smtpcm as smtpcm
from tests.helpers import awaitTrue
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
