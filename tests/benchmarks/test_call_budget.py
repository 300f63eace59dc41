"""How many Python functions a take and its put call, in a with statement: not one more."""

import socket
import sys
from functools import partial
from types import SimpleNamespace

import psycopg2
from psycopg2.extensions import STATUS_READY

from queuepool import Pool, Resource
from queuepool.psycopg2 import ConnectionPool

PLAIN = 3
HOOKED = 9
PSYCOPG2 = 10


class Hooked(Resource):
    """Have both repair hooks."""

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
    assert calls == ["take", "__enter__", "__exit__"]
    assert len(calls) == PLAIN


def test_a_checkout_of_a_hooked_resource_keeps_to_its_budget():
    calls = callsOfACheckout(Pool("p", 2, factory=Hooked))
    assert len(calls) == HOOKED, calls
    assert calls.count("takeRepair") == calls.count("putRepair") == 1


def test_a_checkout_of_a_psycopg2_connection_keeps_to_its_budget(monkeypatch):
    line, server = socket.socketpair()
    # In the place of psycopg2's own connection; nothing of it is written in Python.
    conn = SimpleNamespace(
        closed=0, status=STATUS_READY, get_transaction_status=partial(int), fileno=line.fileno,
        isolation_level=None, readonly=None, deferrable=None, autocommit=False,
        cursor_factory=None,
        set_session=dict, close=line.close)
    monkeypatch.setattr(psycopg2, "connect", lambda *args, **kwargs: conn)
    with server, ConnectionPool("p", 1) as pool:
        calls = callsOfACheckout(pool)
        assert pool.stats().opens == 1
    assert len(calls) == PSYCOPG2, calls
    assert calls.count("takeRepair") == calls.count("putRepair") == 1
