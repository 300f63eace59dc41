"""How many Python functions a take and its put call: not one more than their budget."""

import socket
import sys
import threading
from functools import partial

import psycopg2
from psycopg2.extensions import STATUS_READY, connection

from queuepool import Pool, Resource
from queuepool.psycopg2 import ConnectionPool
from tests.helpers import PATIENCE, Gate, start

PLAIN = 3
HOOKED = 9
PSYCOPG2 = 9
#: A take that waits, and the put that wakes it, together.
WAITING = 24


class Hooked(Resource):
    """A resource that has both repair hooks."""

    def takeRepair(self):
        pass

    def putRepair(self):
        pass


def callsOfACheckout(pool):
    """Return the names of the Python functions that one take and put of an open resource call."""
    calls = []

    def note(frame, event, arg):
        if event == "call":
            calls.append(frame.f_code.co_name)

    def checkOut():
        with pool.take():
            pass

    checkOut()
    before = sys.getprofile()
    sys.setprofile(note)
    try:
        checkOut()
    finally:
        sys.setprofile(before)
    return calls[1:]  # the first is checkOut


def test_a_checkout_of_a_plain_resource_keeps_to_its_budget():
    calls = callsOfACheckout(Pool("p", 2, factory=Resource))
    assert len(calls) <= PLAIN, calls
    assert calls == ["take", "__exit__"]  # __enter__ is not written in Python


def test_a_checkout_of_a_hooked_resource_keeps_to_its_budget():
    calls = callsOfACheckout(Pool("p", 2, factory=Hooked))
    assert len(calls) <= HOOKED, calls
    assert calls.count("takeRepair") == calls.count("putRepair") == 1


def callsOfATakeThatWaits(pool):
    """Return the names of the functions that a waiting take calls, and those of the put."""
    def noteTake(frame, event, arg):
        if event == "call":
            taking.append(frame.f_code.co_name)
        elif event == "c_call" and frame.f_code.co_name == "sleep":
            isAsleep.set()

    def notePut(frame, event, arg):
        if event == "call":
            putting.append(frame.f_code.co_name)

    def take():
        with pool.take():
            pass
        gate()  # what only the first take of a thread calls is not counted
        sys.setprofile(noteTake)
        try:
            return pool.take()
        finally:
            sys.setprofile(None)

    taking, putting, isAsleep = [], [], threading.Event()
    gate = Gate()
    waiting = start(take)
    gate.awaitArrival()
    resource = pool.take()
    gate.open()
    assert isAsleep.wait(PATIENCE), "it does not wait"
    before = sys.getprofile()
    sys.setprofile(notePut)
    try:
        pool.put(resource)
    finally:
        sys.setprofile(before)
    pool.put(waiting.result())
    return taking, putting


def test_a_take_that_waits_and_its_put_keep_to_their_budget(monkeypatch):
    monkeypatch.setattr("queuepool.core.idle.LOOK_AGAIN_TIME", PATIENCE)
    taking, putting = callsOfATakeThatWaits(Pool("p", 1, factory=Hooked))
    assert len(taking) + len(putting) <= WAITING, (taking, putting)
    assert taking.count("takeRepair") == putting.count("putRepair") == 1


def test_a_checkout_of_a_psycopg2_connection_keeps_to_its_budget(monkeypatch):
    line, server = socket.socketpair()

    class Unconnected(connection):
        """A connection without a server; what a checkout calls of it is not written in Python."""

        closed, status = 0, STATUS_READY
        isolation_level = readonly = deferrable = cursor_factory = None
        autocommit, encoding, string_types, binary_types = False, "UTF8", {}, {}
        fileno, close, set_session = line.fileno, line.close, dict
        get_transaction_status = staticmethod(partial(int))
        get_parameter_status = staticmethod(partial(str))
        rollback = staticmethod(partial(int))

        def __init__(self):
            pass

    monkeypatch.setattr(psycopg2, "connect", lambda *args, **kwargs: Unconnected())
    with server, ConnectionPool("p", 1) as pool:
        calls = callsOfACheckout(pool)
        assert pool.stats().opens == 1
    assert len(calls) <= PSYCOPG2, calls
    assert calls.count("takeRepair") == calls.count("putRepair") == 1
