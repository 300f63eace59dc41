"""unbias, also where there is no need of it: it leaves nothing behind."""

import _thread
import sys
import threading

import pytest

from queuepool.core import refcount
from queuepool.core.refcount import unbias
from tests.helpers import PATIENCE


class Thing:
    pass


@pytest.fixture(autouse=True)
def asWithoutTheGil(monkeypatch):
    monkeypatch.setattr(refcount, "IS_BIASED", True)


def test_the_number_of_references_stays_the_same():
    thing = Thing()
    before = sys.getrefcount(thing)
    unbias(thing)
    assert sys.getrefcount(thing) == before


def test_without_another_thread_it_does_nothing(monkeypatch):
    def refuse(*_):
        raise RuntimeError("can't start new thread")

    thing = Thing()
    before = sys.getrefcount(thing)
    monkeypatch.setattr(_thread, "start_new_thread", refuse)
    unbias(thing)
    assert sys.getrefcount(thing) == before


def test_the_other_thread_comes_to_its_end_though_this_one_is_interrupted(monkeypatch):
    """It comes late then, and finds nothing."""
    def startLate(function, arguments):
        threads.append(threading.Thread(target=function, args=arguments))
        raise KeyboardInterrupt

    thing, threads = Thing(), []
    before = sys.getrefcount(thing)
    monkeypatch.setattr(_thread, "start_new_thread", startLate)
    with pytest.raises(KeyboardInterrupt):
        unbias(thing)
    threads[0].start()  # what it raised would be a warning, and that an error
    threads[0].join(PATIENCE)
    assert sys.getrefcount(thing) == before
