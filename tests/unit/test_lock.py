"""A method that runs alone, whatever interrupts it."""

import pytest

from queuepool.lock import Lock, exclusive
from tests.helpers import Gate, interruptOften, start


class Counter:
    def __init__(self):
        self._lock = Lock()
        self.count = 0

    @exclusive
    def add(self, number=1):
        """Add a number."""
        self.count += number
        return self.count

    @exclusive
    def call(self, function):
        return function()


def isFree(counter):
    """Tell whether another thread gets in."""
    return start(counter.add, 0).result(5.0) == counter.count


def test_a_method_returns_its_result_and_keeps_its_name_and_docstring():
    counter = Counter()
    assert (counter.add(), counter.add(2)) == (1, 3)
    assert (Counter.add.__name__, Counter.add.__doc__) == ("add", "Add a number.")
    assert isFree(counter)


def test_its_own_thread_may_enter_again():
    counter = Counter()
    assert counter.call(lambda: counter.call(counter.add)) == 1
    assert isFree(counter)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_is_raised_inside_leaves_it_free(error):
    counter = Counter()

    def fail():
        raise error

    with pytest.raises(error):
        counter.call(fail)
    assert isFree(counter)


def test_other_threads_wait():
    counter, gate = Counter(), Gate()
    inside = start(counter.call, gate)
    gate.awaitArrival()
    waiting = start(counter.add)
    waiting.thread.join(0.02)
    assert waiting.thread.is_alive() and counter.count == 0
    gate.open()
    inside.result()
    assert waiting.result() == 1


@pytest.mark.usefixtures("posix")
def test_signal_handlers_that_raise_leave_it_free():
    """With ``with lock:`` more than half of these signals leave it locked on CPython 3.14."""
    counter = Counter()

    def check():
        # The same thread gets in whether or not it was left locked.
        assert isFree(counter), "it stayed locked"

    interruptOften(counter.add, check)
    assert counter.count
