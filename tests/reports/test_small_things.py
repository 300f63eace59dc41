"""Small things that people stumbled over."""

import re
import types
from pathlib import Path

import pytest

import queuepool
from queuepool import Pool, PoolBusy, PoolClosed, PoolError, PoolTimeout
from tests.helpers import FakeResource, PlainResource, checkWhole
from tests.reports.situations import openAll, poolOf, reasonsOf

# -- which exceptions close


class Misuse(PoolError):
    """A subclass of a program's own."""


RULES = {
    "OSError": OSError, "TimeoutError": TimeoutError, "all": True, "Exception": Exception,
    "BaseException": (BaseException,), "a function": lambda error: True, "PoolError": PoolError,
}


@pytest.mark.parametrize("rule", sorted(RULES))
@pytest.mark.parametrize("error", [PoolTimeout, PoolError, PoolClosed, Misuse])
def test_an_exception_of_a_pool_closes_nothing(error, rule, kind, isSeeded, world):
    pool = poolOf(1, kind, world, isSeeded, closeOnException=RULES[rule])
    with pytest.raises(error):
        with pool.take():
            raise error("of another take")
    assert world.live == 1 and world.closed == 0
    checkWhole(pool, world)


@pytest.mark.parametrize("rule", ["OSError", "all"])
def test_an_inner_take_that_times_out_leaves_the_outer_one_open(rule, kind, isSeeded, world):
    outer = poolOf(1, kind, world, isSeeded, closeOnException=RULES[rule])
    inner = poolOf(1, kind, None, isSeeded)
    with inner.take():
        with pytest.raises(PoolTimeout):
            with outer.take(), inner.take(timeout=0):
                pass
    assert world.live == 1 and world.closed == 0


def test_an_exception_of_the_user_because_of_ours_closes(kind, isSeeded, world):
    pool = poolOf(1, kind, world, isSeeded, closeOnException=OSError)
    with pytest.raises(ConnectionError):
        with pool.take():
            raise ConnectionError from PoolTimeout("inner")
    assert reasonsOf(pool) == {"EXCEPTION": 1}


@pytest.mark.parametrize("rule, closes", [
    (None, False), (0, False), (False, False), (1, True), (True, True), (2, True), ((), False),
    (KeyError, True), (LookupError, True), (OSError, False), ((OSError, KeyError), True),
    (lambda error: "", False), (lambda error: "yes", True), (lambda error: 1 / 0, True)])
def test_close_on_exception_takes_what_it_took(rule, closes, kind, isSeeded, world):
    pool = poolOf(1, kind, world, isSeeded, closeOnException=rule)
    with pytest.raises(KeyError):
        with pool.take():
            raise KeyError
    assert world.closed == closes
    assert reasonsOf(pool) == ({"EXCEPTION": 1} if closes else {})
    checkWhole(pool, world)


# -- hooks that a test patches


@pytest.mark.parametrize("target", ["instance", "class"])
@pytest.mark.parametrize("hook", ["open", "close", "takeRepair", "putRepair", "noteError"])
def test_a_hook_that_is_patched_when_it_is_in_a_pool_is_called(
        hook, target, isSeeded, world, monkeypatch):
    class Patched(FakeResource):
        def noteError(self, error):
            pass

    def patched(self, *args):
        calls.append(hook)
        original(self, *args)

    calls = []
    original = getattr(Patched, hook)
    pool = poolOf(1, Patched, world, isSeeded)
    openAll(pool)
    if target == "class":
        monkeypatch.setattr(Patched, hook, patched)
    else:
        with pool.take() as resource:
            monkeypatch.setattr(resource, hook, types.MethodType(patched, resource))
        calls.clear()
        del resource
    with pytest.raises(KeyError):  # which closes it
        with pool.take():
            raise KeyError
    with pool.take():  # which opens it
        pass
    assert calls
    monkeypatch.undo()
    checkWhole(pool, world)


@pytest.mark.parametrize("target", ["instance", "class"])
@pytest.mark.parametrize("hook", ["takeRepair", "putRepair"])
def test_a_repair_hook_that_is_patched_on_a_plain_resource_is_called_from_its_next_open_on(
        hook, target, isSeeded, world, monkeypatch):
    """As the README tells: whether there are repair hooks is asked at each open."""
    class Plain(PlainResource):
        pass

    def patched(self=None):
        calls.append(hook)

    calls = []
    pool = poolOf(1, Plain, world, isSeeded)
    resource = pool.take()
    monkeypatch.setattr(resource if target == "instance" else Plain, hook, patched,
                        raising=False)
    pool.put(resource)
    pool.invalidate()
    for _ in range(2):
        pool.put(pool.take())
    assert len(calls) >= 1
    monkeypatch.undo()
    del resource
    checkWhole(pool, world)


# -- what is told to those who install it


def test_who_has_no_demo_is_told_how_to_install_it_from_the_package_index():
    root = Path(queuepool.__file__).parents[1]
    for path in root / "README.md", root / "queuepool" / "demo" / "__init__.py":
        text = re.sub(r'"\s+f?"', "", path.read_text())  # as Python joins strings
        assert re.search(r"pip install ['\"]queuepool\[demo\]['\"]", text), path


def test_the_package_says_what_it_exports():
    for name in queuepool.__all__:
        assert getattr(queuepool, name).__name__ in (name, "Resource")
    assert queuepool.ResourceManager is queuepool.Resource
    assert issubclass(PoolBusy, PoolTimeout) and issubclass(PoolTimeout, PoolError)
    assert issubclass(PoolClosed, PoolError)
    assert Pool.__name__ == "Pool"
