"""What a user puts into psycopg2's connection, and that is equal to what was there before.

Everything is compared by identity: a comparison of the user's may answer anything, and raise.
"""

import collections

import pytest
from psycopg2.extensions import cursor, new_type, register_type

from queuepool import Reason
from tests.helpers import checkWhole
from tests.postgres.test_left_behind import run, value

RESETS = pytest.mark.parametrize("reset", [None, "discard"])
ATTRIBUTES = pytest.mark.parametrize("attribute", ["notices", "notifies"])

#: What the sinks below were given.
given = []


class EmptyList(list):
    """A list that stays empty and passes on what it is given."""

    def append(self, item):
        given.append(item)


class AlwaysEqual:
    """A sink that says that it is equal to everything."""

    __hash__ = None

    def __eq__(self, other):
        return True

    def append(self, item):
        given.append(item)


class AlwaysFalse(AlwaysEqual):
    """A sink that says that it is nothing."""

    def __bool__(self):
        return False

    def __len__(self):
        return 0


class Raising(AlwaysEqual):
    """A sink that can be neither compared nor counted."""

    def __eq__(self, other):
        raise RuntimeError("not to be compared")

    def __len__(self):
        raise RuntimeError("not to be counted")


class Short(collections.deque):
    def __init__(self):
        super().__init__(maxlen=0)

    def append(self, item):
        given.append(item)


SINKS = pytest.mark.parametrize("sink", [EmptyList, AlwaysEqual, AlwaysFalse, Raising, Short])


@pytest.fixture(autouse=True)
def nothingGiven():
    given.clear()


def say(conn, admin, text):
    """Have the connection receive a notice and a notification."""
    run(conn, "listen news")
    admin.query("select pg_notify('news', %s)", (text,))
    run(conn, f"do $$ begin raise notice '{text}'; end $$")


@RESETS
@ATTRIBUTES
@SINKS
def test_a_sink_of_a_user_gets_nothing_of_the_next_one(makePool, admin, sink, attribute, reset):
    pool = makePool(reset=reset)
    with pool.take() as conn:
        setattr(conn, attribute, sink())
    for _ in range(2):
        with pool.take() as conn:
            assert type(getattr(conn, attribute)) is list
            say(conn, admin, "of a stranger")
            assert not given
            assert len(getattr(conn, attribute)) == 1
    checkWhole(pool)


@pytest.mark.parametrize("sink", [EmptyList, AlwaysEqual, AlwaysFalse, Short])
@ATTRIBUTES
def test_a_sink_costs_no_connection(makePool, sink, attribute):
    pool = makePool()
    for _ in range(3):
        with pool.take() as conn:
            setattr(conn, attribute, sink())
    assert pool.stats().opens == 1


@RESETS
@ATTRIBUTES
@SINKS
def test_a_sink_of_configures_stays_though_a_user_set_one_that_is_equal(
        makePool, admin, sink, attribute, reset):
    own = []

    class Own(AlwaysEqual):
        def append(self, item):
            own.append(item)

    def configure(conn):
        setattr(conn, attribute, Own())

    pool = makePool(configure=configure, reset=reset)
    with pool.take() as conn:
        setattr(conn, attribute, sink())
    with pool.take() as conn:
        assert type(getattr(conn, attribute)) is Own
        say(conn, admin, "mine")
    assert len(own) == 1 and not given


@pytest.mark.parametrize("sink", [EmptyList, AlwaysEqual])
def test_what_a_user_listened_to_is_forgotten_though_his_sink_looks_empty(makePool, admin, sink):
    pool = makePool()
    with pool.take() as conn:
        conn.notifies = sink()
        run(conn, "listen news")
    with pool.take() as conn:
        assert value(conn, "select count(*) from pg_listening_channels()") == 0


# -- the cursor class

class EqualClasses(type):
    """A class of classes that are equal to everything."""

    __hash__ = type.__hash__

    def __eq__(cls, other):
        return True

    def __ne__(cls, other):
        return False


class Equal(cursor, metaclass=EqualClasses):
    """A cursor class that is equal to every other."""


class AlsoEqual(Equal):
    """Another one."""


@RESETS
@pytest.mark.parametrize("options", [{}, dict(cursor_factory=AlsoEqual)], ids=["none", "own"])
def test_a_cursor_class_that_is_equal_to_the_pools_is_set_back(makePool, reset, options):
    pool = makePool(reset=reset, **options)
    with pool.take() as conn:
        conn.cursor_factory = Equal
    with pool.take() as conn:
        assert conn.cursor_factory is options.get("cursor_factory")
    assert pool.stats().opens == 1


# -- typecasters: those of one oid are equal

INT4 = 23


def casting(name):
    return new_type((INT4,), name, lambda text, cur: (name, text))


@RESETS
@pytest.mark.parametrize("hasOwn", [False, True], ids=["none", "own"])
def test_a_typecaster_that_is_equal_to_the_pools_is_set_back(makePool, reset, hasOwn):
    own, stranger = casting("own"), casting("stranger")
    assert own == stranger
    pool = makePool(
        reset=reset, configure=(lambda conn: register_type(own, conn)) if hasOwn else None)
    with pool.take() as conn:
        register_type(stranger, conn)
        assert value(conn, "select 1") == ("stranger", "1")
    for _ in range(2):
        with pool.take() as conn:
            assert value(conn, "select 1") == (("own", "1") if hasOwn else 1)
            assert conn.string_types.get(INT4) is (own if hasOwn else None)
    assert pool.stats().closesByReason[Reason.REPAIR] == 0


def test_a_typecaster_that_a_user_removed_is_there_again(makePool):
    pool = makePool(configure=lambda conn: register_type(casting("own"), conn))
    with pool.take() as conn:
        conn.string_types.clear()
        register_type(new_type((20,), "other", lambda text, cur: text), conn)
    with pool.take() as conn:
        assert value(conn, "select 1") == ("own", "1")
        assert value(conn, "select 1::bigint") == 1
