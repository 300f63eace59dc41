"""The making of a pool: its arguments, its factory, and what it says of itself."""

import copy
import inspect
import pickle
import subprocess
import sys

import pytest

from queuepool import Pool, PoolError, Resource
from tests.helpers import PlainResource, checkClosed, checkWhole

# -- arguments


SECONDS = "must be None or a number of seconds >= 0, not"
CLOSE_ON_EXCEPTION = ("closeOnException must be True, False, one or several exception classes, or "
                      "a callable, not")


@pytest.mark.parametrize("options, message", [
    ({"capacity": 0}, "capacity must be an integer >= 1, not 0"),
    ({"capacity": -1}, "capacity must be an integer >= 1, not -1"),
    ({"capacity": 1.0}, "capacity must be an integer >= 1, not 1.0"),
    ({"capacity": True}, "capacity must be an integer >= 1, not True"),
    ({"capacity": "dbname=x password=y"},
     "capacity must be an integer >= 1, not a value of type str"),
    ({"minOpen": -1}, "minOpen must be an integer >= 0, not -1"),
    ({"minOpen": 4}, "minOpen must be <= capacity (3), not 4"),
    ({"maxUsageCount": 0}, "maxUsageCount must be an integer >= 1, not 0"),
    ({"maxUsageCount": 1.5}, "maxUsageCount must be an integer >= 1, not 1.5"),
    ({"jitter": -0.1}, "jitter must be a fraction from 0 to 1, not -0.1"),
    ({"jitter": 1.1}, "jitter must be a fraction from 0 to 1, not 1.1"),
    ({"jitter": float("nan")}, "jitter must be a fraction from 0 to 1, not nan"),
    ({"jitter": None}, "jitter must be a fraction from 0 to 1, not a value of type NoneType"),
    *[({name: value}, f"{name} {SECONDS} {text}")
      for name in ("maxIdleTime", "maxOpenTime", "takeTimeout", "leakTime", "openRetryTime")
      for value, text in ((-1, "-1"), ("1", "a value of type str"), (True, "True"),
                          (float("nan"), "nan"))],
    ({"closeOnException": "yes"}, f"{CLOSE_ON_EXCEPTION} a value of type str"),
    ({"closeOnException": 0.5}, f"{CLOSE_ON_EXCEPTION} 0.5"),
    ({"closeOnException": int}, f"{CLOSE_ON_EXCEPTION} a value of type type"),
    ({"closeOnException": (OSError, int)}, f"{CLOSE_ON_EXCEPTION} a value of type tuple"),
])
def test_wrong_arguments_are_refused_and_secrets_are_not_printed(options, message):
    with pytest.raises(ValueError) as caught:
        Pool("p", **{"capacity": 3, **options})
    assert str(caught.value) == message


@pytest.mark.parametrize("options, message", [
    ({"name": 42}, "name must be a str, not 42"),
    ({"name": None}, "name must be a str, not a value of type NoneType"),
    ({"name": b"p"}, "name must be a str, not a value of type bytes"),
    ({"factory": "p"}, "factory must be callable, not a value of type str"),
    ({"clock": 1.5}, "clock must be callable, not 1.5"),
    ({"clock": None}, "clock must be callable, not a value of type NoneType"),
])
def test_arguments_of_a_wrong_type_are_refused(options, message):
    with pytest.raises(TypeError) as caught:
        Pool(**{"name": "p", "capacity": 1, **options})
    assert str(caught.value) == message


@pytest.mark.parametrize("rule", [
    True, False, None, 0, 1, OSError, BaseException, (), (OSError, KeyError), len])
def test_close_on_exception_takes_a_truth_value_classes_or_a_callable(rule):
    assert Pool("p", 1, closeOnException=rule).closeOnException is rule


def test_infinite_times_are_no_limit(clock):
    endless = float("inf")
    pool = Pool("p", 1, endless, endless, factory=PlainResource, takeTimeout=endless,
                leakTime=endless, clock=clock)
    with pool.take() as resource:
        pass
    clock.advance(1e15)
    pool.recycle()
    assert resource.isOpen and pool.takeTimeout is None and pool.leakTime is None


def test_what_is_new_is_keyword_only():
    parameters = inspect.signature(Pool).parameters.values()
    new = [parameter.name for parameter in parameters
           if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    assert new[:4] == ["factory", "minOpen", "jitter", "takeTimeout"] and new[-1] == "clock"
    with pytest.raises(TypeError):
        Pool("p", 1, 300.0, 300.0, 1000, True, PlainResource)


def test_the_pool_is_generic_in_its_resource():
    pool = Pool[PlainResource]("p", 1, factory=PlainResource)
    assert type(pool) is Pool
    checkWhole(pool)


def test_a_huge_capacity_costs_nothing_until_it_is_used(world):
    pool = Pool("p", 10 ** 12, factory=lambda name: PlainResource(name, world))
    with pool.take():
        assert (world.opened, pool.stats().idle) == (1, 10 ** 12 - 1)
    checkClosed(pool, world)


# -- factory


def test_the_factory_is_called_by_a_take_that_needs_another_one(world):
    names = []

    def build(name):
        names.append(name)
        return PlainResource(name, world)

    pool = Pool("p", 3, factory=build)
    assert (names, pool.stats().idle, world.opened) == ([], 3, 0)
    for _ in range(2):
        with pool.take():
            assert (names, pool.stats().idle) == (["p-0"], 2)
    checkWhole(pool, world)
    assert names == ["p-0", "p-1", "p-2"]


def test_a_factory_that_fails_costs_no_room(world):
    errors = [OSError("no more")]

    def build(name):
        if errors:
            raise errors.pop()
        return PlainResource(name, world)

    pool = Pool("p", 1, factory=build)
    with pytest.raises(OSError, match="no more"):
        pool.take(timeout=0)
    assert (pool.stats().idle, pool.stats().taken) == (1, 0)
    checkWhole(pool, world)


def test_a_factory_has_to_return_a_new_resource_each_time(world):
    same = PlainResource("same", world)
    products = ["password", None, same, same, PlainResource("new", world)]
    pool = Pool("p", 2, factory=lambda name: products.pop(0))
    said = ("pool 'p': the factory has to return a new Resource each time; for 'p-{}' it returned "
            "{} [queuepool:factory]")
    for number, what in enumerate(["a value of type str", "a value of type NoneType"]):
        with pytest.raises(PoolError) as caught:
            pool.take()
        assert str(caught.value) == said.format(number, what)
    with pool.take(), pytest.raises(PoolError) as caught:
        pool.take()
    assert str(caught.value) == said.format(3, "one that is in a pool")
    checkWhole(pool, world)


def test_a_factory_whose_resource_forgot_its_super_init_is_told_so():
    class Forgetful(Resource):
        def __init__(self, name):
            self.name = name

    pool = Pool("p", 1, factory=Forgetful)
    with pytest.raises(PoolError) as caught:
        pool.take()
    assert str(caught.value) == (
        "pool 'p': Forgetful.__init__ has to call super().__init__(name) [queuepool:no-super]")
    assert pool.stats().idle == 1


def test_what_the_factory_returns_open_has_its_limits_too(world, clock):
    def build(name):
        resource = PlainResource(name, world)
        resource.open()
        return resource

    pool = Pool("p", 1, factory=build, clock=clock)
    with pool.take() as resource:
        pass
    assert (resource.age, pool.stats().open, pool.stats().opens) == (0.0, 1, 1)
    clock.advance(301)
    pool.recycle()
    assert world.live == 0
    checkClosed(pool, world)


# -- what it says


def test_its_string_is_its_name():
    assert str(Pool("p", 1)) == "p"


def test_its_representation_says_how_it_stands():
    pool = Pool("p", 3, factory=PlainResource)
    with pool.take():
        assert repr(pool) == "<Pool 'p': capacity 3, checked out 1, idle 2, waiting 0>"
    pool.close()
    assert repr(pool) == "<Pool 'p': capacity 3, checked out 0, idle 0, waiting 0, closed>"

    class Mine(Pool):
        pass

    assert repr(Mine("m", 1)) == "<Mine 'm': capacity 1, checked out 0, idle 0, waiting 0>"


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_it_cannot_be_copied_or_pickled(duplicate):
    with pytest.raises(TypeError) as caught:
        duplicate(Pool("p", 1))
    assert str(caught.value) == (
        "pool 'p' cannot be copied or pickled; make one in each process")


def test_importing_the_package_loads_no_driver():
    program = """if True:
        import sys, queuepool
        drivers = {"psycopg2", "smtplib", "queuepool.psycopg2", "queuepool.smtp"}
        assert not drivers & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
