"""The mail server fails, and no mail does that was not under way."""

import contextlib
import random
import smtplib
import threading
from collections import Counter

import pytest

from queuepool import Pool, PoolTimeout
from queuepool.smtp import Connection
from tests.helpers import PATIENCE, awaitTrue, checkClosed, checkWhole, openAll, runTogether, start
from tests.smtp.conftest import Dialog
from tests.smtp.test_smtp import MAIL


@pytest.fixture
def patientPool():
    """Make pools that wait until a server can be reached; they are closed at the test's end."""
    with contextlib.ExitStack() as stack:
        def make(server, capacity, **options):
            options = {"openRetryTime": 30.0, "takeTimeout": 30.0, **options}
            return stack.enter_context(Pool("mail", capacity, **options, factory=lambda name: (
                # A server that is stopped may leave one that has just come without a word.
                Connection(name, server.hostname, server.port, starttls=False, timeout=1.0))))
        yield make


def send(pool, subject="hi"):
    with pool.take() as smtp:
        smtp.sendmail("from@example.org", ["to@example.org"], f"Subject: {subject}\r\n\r\nHo.\r\n")


def subjects(*servers):
    """Count the mails that arrived, by their subjects."""
    return Counter(content.split(b"\r\n")[0].removeprefix(b"Subject: ").decode()
                   for server in servers for _, _, content in server.mails)


@pytest.mark.parametrize("how", [Dialog.drop, Dialog.hangUp])
def test_a_server_gone_while_all_were_idle_costs_no_mail(serve, patientPool, how):
    server = serve()
    pool = patientPool(server, 5, openRetryTime=0.0)
    openAll(pool)
    server.endAll(how)
    awaitTrue(lambda: server.live == 0)
    haveTaken = threading.Barrier(5)  # else one that is quick has its connection used by the next

    def sendWithOthers():
        with pool.take() as smtp:
            haveTaken.wait(PATIENCE)
            smtp.sendmail(*MAIL)

    runTogether(*[sendWithOthers] * 5)
    assert len(server.mails) == 5
    assert pool.stats().openErrors == 0 and server.opens == 10
    checkWhole(pool)


def test_an_outage_is_waited_for_with_few_attempts(serve, patientPool):
    server = serve()
    pool = patientPool(server, 5)
    openAll(pool)
    server.stop()
    sending = [start(send, pool) for _ in range(20)]
    awaitTrue(lambda: pool.stats().openErrors >= 3)
    again = serve(port=server.port)
    for each in sending:
        each.result()
    assert len(again.mails) == 20
    assert pool.stats().openErrors < 10
    checkWhole(pool)


def test_a_busy_server_is_asked_by_one_at_a_time(serve, patientPool):
    server = serve()
    server.isBusy = True
    pool = patientPool(server, 5)
    with pytest.raises(PoolTimeout) as caught:
        pool.take(timeout=0)
    assert isinstance(caught.value.__cause__, smtplib.SMTPConnectError)
    assert caught.value.__cause__.smtp_code == 421
    sending = [start(send, pool) for _ in range(20)]
    awaitTrue(lambda: server.opens >= 3)
    server.isBusy = False
    for each in sending:
        each.result()
    assert len(server.mails) == 20
    assert pool.stats().openErrors < 10
    checkWhole(pool)


def test_a_drop_in_the_middle_of_data_fails_that_mail_and_no_other(serve, patientPool):
    server = serve()
    pool = patientPool(server, 3)
    openAll(pool)
    server.dropsData = True
    with pytest.raises(smtplib.SMTPServerDisconnected):
        send(pool, "lost")
    server.dropsData = False
    runTogether(*(lambda number=number: send(pool, f"mail {number}") for number in range(10)))
    assert subjects(server) == Counter(f"mail {number}" for number in range(10))
    assert server.opens == 4
    checkWhole(pool)


def test_every_mail_that_was_sent_arrives_once_whatever_happens(serve, patientPool):
    """The long run, for two seconds: 10 threads, 3 slots, a fault every tenth of a second."""
    servers = [serve()]
    pool = patientPool(servers[0], 3)
    isOver = threading.Event()
    chance = random.Random(4)

    def work(worker):
        sent, failed = [], []
        number = 0
        while not isOver.is_set():
            number += 1
            subject = f"{worker}-{number}"
            try:
                send(pool, subject)
                sent.append(subject)
            except OSError:  # SMTPException is one
                failed.append(subject)
        return sent, failed

    def restart():
        servers[-1].stop()
        servers.append(serve(port=servers[0].port))

    def beBusy():
        servers[-1].isBusy = True
        servers[-1].endAll()
        isOver.wait(0.1)
        servers[-1].isBusy = False

    def dropData():
        servers[-1].dropsData = True
        isOver.wait(0.05)
        servers[-1].dropsData = False

    with contextlib.ExitStack() as stack:
        stack.callback(isOver.set)
        workers = [start(work, worker) for worker in range(10)]
        for _ in range(4):
            faults = [restart, beBusy, dropData, lambda: servers[-1].endAll(),
                      lambda: servers[-1].endAll(Dialog.hangUp)]
            for fault in chance.sample(faults, len(faults)):
                isOver.wait(0.05)
                fault()
    sent, failed = map(sum, zip(*(worker.result() for worker in workers)), ([], []))
    arrived = subjects(*servers)
    assert len(sent) > 20 and failed
    assert all(arrived[subject] == 1 for subject in sent)
    assert all(arrived[subject] <= 1 for subject in failed)  # the end may follow the last dot
    assert pool.stats().timeouts == 0
    checkWhole(pool)
    checkClosed(pool)
