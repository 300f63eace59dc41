"""What holds for the connections of any driver."""

import contextlib
import os
import select
import time
from functools import partial

import pytest

from queuepool import PoolError, PoolTimeout, Reason
from queuepool.dbapi import Connection, ConnectionPool
from tests.dbapi import driver
from tests.helpers import Gate, awaitTrue, checkWhole, inChild, start


@pytest.fixture
def makePool():
    """Make pools of the driver that is connected to nobody; they are closed at the test's end."""
    with contextlib.ExitStack() as stack:
        made = []

        def make(capacity=1, connect=driver.connect, script=None, hasSocket=True, **kwargs):
            def connectAndKeep():
                made.append(connect(hasSocket, script))
                return made[-1]

            return stack.enter_context(ConnectionPool("db", capacity, connectAndKeep, **kwargs))

        make.made = made
        yield make
        stack.close()
        for conn in made:
            conn.near.close()
            conn.far.close()


# -- take

def test_the_with_statement_hands_out_the_drivers_connection(makePool):
    pool = makePool()
    with pool.take() as conn:
        assert isinstance(conn, driver.Connection)
    resource = pool.take()
    assert isinstance(resource, Connection) and resource.resource is conn
    pool.put(conn)
    checkWhole(pool)


def test_one_that_the_server_has_closed_is_replaced_without_a_question(makePool):
    pool = makePool(isUsable=driver.Connection.ping)
    with pool.take() as conn:
        pass
    conn.far.close()
    with pool.take() as other:
        assert other is not conn
    assert "ping" not in conn.calls and conn.closed
    assert pool.stats().closesByReason[Reason.REPAIR] == 1


@pytest.mark.parametrize("hasSocket", [False, True])
def test_one_that_its_user_closed_is_replaced(makePool, hasSocket):
    pool = makePool(hasSocket=hasSocket)
    resource = pool.take()
    resource.resource.close()
    pool.put(resource)
    with pool.take() as other:
        assert not other.closed
    held = pool.take()
    pool.put(held)
    held.resource.close()  # by one who still refers to it
    with pool.take() as other:
        assert not other.closed
    checkWhole(pool)


@pytest.mark.parametrize("pingTime, idleTime, isAsked", [
    (30.0, 31.0, True), (30.0, 29.0, False), (None, 1e6, False), (0.0, 0.1, True)])
def test_it_is_asked_after_the_ping_time(makePool, clock, pingTime, idleTime, isAsked):
    pool = makePool(isUsable=driver.Connection.ping, pingTime=pingTime, clock=clock,
                    maxIdleTime=None, maxOpenTime=None)
    with pool.take() as conn:
        pass
    clock.advance(idleTime)
    with pool.take() as again:
        assert again is conn
    assert ("ping" in conn.calls) is isAsked


@pytest.mark.parametrize("answer", [
    False, driver.OperationalError("gone"), OSError("gone"), RuntimeError("read of closed file"),
    AttributeError("'NoneType' object has no attribute 'recv'")], ids=repr)
def test_one_that_is_not_usable_is_replaced_and_with_it_all_others(makePool, clock, answer):
    def isUsable(conn):
        if isinstance(answer, Exception):
            raise answer
        return answer

    pool = makePool(2, isUsable=isUsable, clock=clock)
    taken = [pool.take(), pool.take()]
    for each in taken:
        pool.put(each)
    clock.advance(31.0)
    with pool.take() as conn:
        assert conn is makePool.made[2]
    assert all(conn.closed for conn in makePool.made[:2])


@pytest.mark.parametrize("error", [OSError("gone"), AttributeError("x"), RuntimeError("x")],
                         ids=repr)
def test_what_is_usable_raises_at_a_put_closes_it_in_silence(makePool, caplog, error):
    pool = makePool(isUsable=driver.Connection.ping, script={"ping": error})
    with pytest.raises(driver.OperationalError), pool.take() as conn:
        raise driver.OperationalError("x")
    assert conn.closed and not [each for each in caplog.records if each.levelname != "DEBUG"]


@pytest.mark.usefixtures("posix")
def test_a_question_without_an_answer_is_cut_off(makePool, clock):
    pool = makePool(isUsable=driver.waitForAnswer, pingTimeout=0.05, clock=clock)
    with pool.take() as conn:
        pass
    clock.advance(31.0)
    generation = pool.generation
    with pool.take() as other:
        assert other is not conn
    assert conn.closed and pool.generation is not generation


@pytest.mark.usefixtures("posix")
def test_a_take_that_has_less_time_tells_nothing_of_the_others(makePool, clock):
    pool = makePool(isUsable=driver.waitForAnswer, pingTimeout=30.0, clock=clock)
    with pool.take() as conn:
        pass
    clock.advance(31.0)
    generation = pool.generation
    with contextlib.suppress(PoolTimeout), pool.take(timeout=0.05):
        pass
    assert conn.closed and pool.generation is generation


# -- put

def test_a_put_rolls_back(makePool):
    with makePool().take() as conn:
        pass
    assert conn.calls == ["commit", "rollback"]


@pytest.mark.parametrize("isInTransaction", [False, True])
def test_a_driver_that_knows_of_no_transaction_is_not_asked_to_roll_back(
        makePool, isInTransaction):
    with makePool().take() as conn:
        conn.in_transaction = isInTransaction
        conn.calls.clear()
    assert conn.calls == ["rollback"] * isInTransaction


def test_a_driver_that_refuses_to_roll_back_nothing_keeps_its_connection(makePool, caplog):
    pool = makePool(script={"rollback": driver.OperationalError("no transaction is active")})
    with pool.take() as conn:
        pass
    with pool.take() as again:
        assert again is conn and not caplog.records


def test_one_that_cannot_be_rolled_back_is_closed(makePool, caplog):
    pool = makePool(script={"rollback": driver.ProgrammingError("never")})
    with pool.take() as conn:
        pass
    assert conn.closed and "[queuepool:hook-failed]" in caplog.text
    checkWhole(pool)


@pytest.mark.usefixtures("posix")
def test_a_rollback_that_hangs_is_cut_off(makePool, caplog):
    pool = makePool(pingTimeout=0.05, script={"rollback": driver.waitForAnswer})
    with pool.take() as conn:
        pass
    assert conn.closed and "[queuepool:hook-failed]" in caplog.text
    assert "server has gone away" in caplog.text


@pytest.mark.usefixtures("posix")
def test_a_close_that_hangs_is_cut_off(makePool, caplog):
    pool = makePool(pingTimeout=0.05, script={"close": driver.waitForAnswer})
    with pool.take():
        pass
    before = time.monotonic()
    assert pool.close() == 0
    assert time.monotonic() - before < 10
    assert pool.stats().closeErrors == 1 and "[queuepool:close-failed]" in caplog.text


@pytest.mark.parametrize("error, isClosed, calls", [
    (driver.InterfaceError("x"), True, []),
    (driver.OperationalError("x"), False, ["rollback", "ping"]),
    (driver.ProgrammingError("x"), False, []),
    (ValueError("x"), False, []),
])
@pytest.mark.parametrize("isBehind", [False, True])
def test_the_drivers_errors_tell_whether_it_is_fit(makePool, error, isClosed, calls, isBehind):
    pool = makePool(isUsable=driver.Connection.ping)
    with pytest.raises(Exception), pool.take() as conn:
        conn.in_transaction = False
        conn.calls.clear()
        if isBehind:
            raise RuntimeError("the program's own") from error
        raise error
    assert conn.closed is isClosed
    assert conn.calls == calls + ["close"] * isClosed
    checkWhole(pool)
    assert conn.calls[len(calls):] in ([], ["close"])  # it is not remembered


@pytest.mark.parametrize("script", [
    {"rollback": driver.OperationalError("gone")}, {"ping": driver.OperationalError("gone")},
    {"ping": lambda conn: False}], ids=["rollback", "ping", "answer"])
def test_one_that_is_lost_is_closed_in_silence(makePool, caplog, script):
    pool = makePool(isUsable=driver.Connection.ping, script=script)
    with pytest.raises(driver.OperationalError), pool.take() as conn:
        raise driver.OperationalError("server has gone away")
    assert conn.closed and not [each for each in caplog.records if each.levelname != "DEBUG"]
    checkWhole(pool)


def test_what_an_error_said_is_forgotten_with_the_connection(makePool):
    pool = makePool(closeOnException=True)
    with pytest.raises(driver.InterfaceError), pool.take():
        raise driver.InterfaceError("x")
    with pool.take() as conn:
        pass
    assert not conn.closed


@pytest.mark.parametrize("error, isClosed", [
    (KeyboardInterrupt(), True), (SystemExit(), True), (GeneratorExit(), False)], ids=repr)
def test_one_that_was_interrupted_is_closed(makePool, error, isClosed):
    pool = makePool()
    with pytest.raises(type(error)), pool.take() as conn:
        raise error
    assert conn.closed is isClosed and ("rollback" in conn.calls) is not isClosed
    assert pool.stats().closesByReason[Reason.EXCEPTION] == isClosed


def test_settings_are_set_back(makePool):
    pool = makePool(configure=lambda conn: setattr(conn, "autocommit", False))
    with pool.take() as conn:
        conn.autocommit = True
    assert conn.autocommit is False


def test_an_autocommit_that_a_driver_has_as_methods_is_set_back(makePool):
    class Methods(driver.Connection):
        value = False

        def get_autocommit(self):
            return self.value

        def autocommit(self, value):
            self.calls.append(value)
            self.value = value

    pool = makePool(connect=Methods)
    with pool.take() as conn:
        conn.autocommit(True)
    assert conn.get_autocommit() is False and conn.calls == ["commit", True, "rollback", False]
    with pool.take():
        conn.calls.clear()
    assert conn.calls == ["rollback"]


@pytest.mark.usefixtures("posix")
def test_an_autocommit_that_cannot_be_set_back_in_time_is_cut_off(makePool, caplog):
    class Methods(driver.Connection):
        value = False

        def get_autocommit(self):
            return self.value

        def autocommit(self, value):
            driver.waitForAnswer(self)

    pool = makePool(connect=Methods, pingTimeout=0.05)
    with pool.take() as conn:
        conn.value = True
    assert conn.closed and "[queuepool:hook-failed]" in caplog.text


def test_a_setting_that_may_ask_the_server_is_not_read(makePool):
    class Asking(driver.Connection):
        @property
        def autocommit(self):
            raise AssertionError("it was asked")

    with makePool(connect=Asking).take():
        pass


def test_reset_comes_after_the_rollback(makePool):
    pool = makePool(reset=lambda conn: conn.calls.append("reset"))
    with pool.take() as conn:
        pass
    assert conn.calls == ["commit", "rollback", "reset", "rollback"]


# -- open

def test_what_configure_does_is_committed(makePool):
    pool = makePool(configure=lambda conn: conn.calls.append("configure"))
    with pool.take() as conn:
        assert conn.calls == ["configure", "commit"]


def test_one_that_cannot_be_configured_is_closed(makePool):
    def configure(conn):
        raise driver.OperationalError("x")

    pool = makePool(configure=configure)
    with pytest.raises(driver.OperationalError):
        pool.take()
    assert makePool.made[0].closed


@pytest.mark.parametrize("error, isTriedAgain", [
    (driver.OperationalError("connection refused"), True), (ConnectionRefusedError(), True),
    (driver.InterfaceError("x"), True), (driver.ProgrammingError("x"), False),
    (driver.OperationalError("Access denied for user 'me'"), False),
    (driver.OperationalError("Unknown database 'd'"), False),
    (driver.OperationalError({"M": 'database "d" does not exist'}), False),
    (TypeError("x"), False)], ids=repr)
def test_only_what_may_succeed_is_tried_again(error, isTriedAgain):
    attempts = []

    def connect():
        attempts.append(1)
        if len(attempts) == 1:
            raise error
        return driver.connect()

    with ConnectionPool("db", 1, connect, openRetryTime=30.0) as pool:
        if isTriedAgain:
            with pool.take():
                pass
        else:
            with pytest.raises(type(error)):
                pool.take()
    assert len(attempts) == 1 + isTriedAgain


def test_what_is_no_connection_is_told():
    pool = ConnectionPool("db", 1, lambda: 5)
    with pytest.raises(TypeError, match="connect returned a int, which is no connection of DB-API"):
        pool.take()


def test_a_driver_that_is_not_safe_with_threads_is_refused(makePool, monkeypatch):
    monkeypatch.setattr(driver, "threadsafety", 0)
    with pytest.raises(PoolError, match=r"threadsafety 0.* \[queuepool:one-thread\]"):
        makePool(openRetryTime=30.0).take()
    assert makePool.made[0].closed


# -- arguments

def test_a_misspelt_option_is_told():
    for connect in driver.connect, partial(driver.connect, True):
        with pytest.raises(TypeError, match="^'takeTimeuot' is neither an option of the pool nor "
                                            "one of the driver's connect; did you mean "
                                            "'takeTimeout'[?]$"):
            ConnectionPool("db", 1, connect, password="s3cr3t", takeTimeuot=3)


def test_a_misspelt_option_is_told_by_the_first_take_if_the_driver_hides_its_own():
    def connect(*args, **kwargs):
        return driver.connect(*args, **kwargs)

    def unclear(*args, **kwargs):
        raise TypeError("connect(): incompatible function arguments")

    for function in connect, unclear:
        with pytest.raises(TypeError, match="did you mean 'maxIdleTime'[?]$") as caught:
            ConnectionPool("db", 1, function, password="s3cr3t", max_idle_time=3).take()
        assert "s3cr3t" not in str(caught.value)


def test_a_type_error_of_something_else_stays_as_it_is():
    def connect(password):
        raise TypeError("port must be an integer")

    with pytest.raises(TypeError, match="^port must be an integer$"):
        ConnectionPool("db", 1, connect, password="s3cr3t").take()


def test_a_bug_in_a_function_of_ones_own_stays_as_it_is():
    def connect(timeout):
        driver.connect(timeout=timeout)

    with pytest.raises(TypeError, match="^connect.. got an unexpected keyword argument 'timeout'$"):
        ConnectionPool("db", 1, connect, timeout=5).take()

    def unclear(**kwargs):
        return None + 1

    with pytest.raises(TypeError, match="unsupported operand"):
        ConnectionPool("db", 1, unclear, timeout=5).take()


def test_no_argument_of_the_driver_is_shown():
    pool = ConnectionPool("db", 1, driver.connect, password="s3cr3t")
    with pool.take():
        assert "s3cr3t" not in repr(pool) + str(pool.report()) + repr(pool.stats())
    assert "s3cr3t" not in repr(Connection("c", driver.connect, password="s3cr3t"))
    pool.close()


@pytest.mark.parametrize("arguments", [
    {"connect": None}, {"isUsable": 1}, {"reset": "discard"}, {"configure": 1}, {"pingTime": -1},
    {"pingTimeout": None}], ids=repr)
def test_a_wrong_argument_is_told_at_once(arguments):
    with pytest.raises((TypeError, ValueError), match=f"^{next(iter(arguments))} must be "):
        ConnectionPool("db", 1, **{"connect": driver.connect, **arguments})


# -- a driver without a socket to be seen

def test_one_without_a_fileno_is_asked_only(makePool, clock):
    pool = makePool(hasSocket=False, isUsable=driver.Connection.ping, clock=clock)
    with pool.take() as conn:
        pass
    conn.far.close()
    with pool.take() as again:
        assert again is conn
    clock.advance(31.0)
    with pool.take():
        pass
    assert conn.calls == ["commit", "rollback", "rollback", "ping", "rollback", "rollback"]


# -- systems

@pytest.mark.parametrize("hasPoll", [True, False])
def test_a_socket_that_is_not_open_any_more_is_noticed_on_any_system(
        makePool, monkeypatch, hasPoll):
    if not hasPoll:
        monkeypatch.delattr(select, "poll", raising=False)
    pool = makePool()
    with pool.take() as conn:
        pass
    with pool.take() as again:
        assert again is conn
    conn.near.close()  # the driver says that the connection is open
    with pool.take() as other:
        assert other is not conn


def test_a_descriptor_that_is_too_large_for_select_is_no_reason_to_fail(makePool, monkeypatch):
    def refuse(*args):
        raise ValueError("filedescriptor out of range in select()")

    monkeypatch.delattr(select, "poll", raising=False)
    monkeypatch.setattr(select, "select", refuse)
    pool = makePool()
    with pool.take() as conn:
        pass
    with pool.take() as again:
        assert again is conn


# -- processes

@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("hasCtypes", [True, False])
def test_a_child_process_says_no_goodbye_with_its_parents_connection(
        makePool, monkeypatch, hasCtypes):
    if not hasCtypes:
        monkeypatch.setattr("queuepool.dbapi.ctypes", None)

    class Polite(driver.Connection):
        def __del__(self):
            with contextlib.suppress(OSError):
                self.near.send(b"goodbye")

    pool = makePool(connect=Polite)
    with pool.take() as conn:
        pass
    conn.far.setblocking(False)
    far = conn.far
    makePool.made.clear()
    del conn

    def check():
        with pool.take() as other:
            assert other.far is not far

    assert inChild(check)
    with pytest.raises(BlockingIOError):
        far.recv(100)


# -- threads

def test_a_put_that_hangs_holds_up_nobody_else(makePool):
    gate = Gate()
    pool = makePool(2, script={"rollback": lambda conn: gate()}, hasSocket=False)
    resources = [pool.take(), pool.take()]
    putting = start(pool.put, resources[0])
    gate.awaitArrival()
    other = start(pool.put, resources[1])
    gate.awaitArrival()
    gate.open()
    putting.result(), other.result()
    awaitTrue(lambda: pool.stats().idle == 2)
