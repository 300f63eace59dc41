"""How many Python-level calls a take and its put need, in a with statement: not one more."""

import sys

from queuepool import Pool, Resource


class Repaired(Resource):
    """Have both repair hooks, as psycopg2's Connection has."""

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


def test_a_checkout_of_a_plain_resource_is_three_calls():
    assert callsOfACheckout(Pool("p", 2, factory=Resource)) == ["take", "__enter__", "__exit__"]


def test_a_checkout_of_a_repaired_resource_keeps_to_its_budget():
    calls = callsOfACheckout(Pool("p", 2, factory=Repaired))
    assert len(calls) == 26, calls
    assert calls.count("takeRepair") == calls.count("putRepair") == 1
