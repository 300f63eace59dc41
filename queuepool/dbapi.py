"""A pool of connections to any database whose driver keeps to DB-API 2.0 (PEP 249).

Also the home of what all drivers share: liveness without a round trip, time limits for what has
none, fail-over, and what the driver's errors say. ``queuepool.psycopg2`` and ``queuepool.psycopg``
stand on it.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import logging
import os
import re
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from sys import exception, getrefcount
from types import FunctionType, SimpleNamespace
from typing import Any

from queuepool.errors import poolError
from queuepool.pool import CloseOnException, Pool
from queuepool.resource import Resource
from queuepool.watchdog import Limit, timeLimit

try:
    import ctypes
except ImportError:  # Python was built without libffi
    ctypes = None  # type: ignore[assignment]

logger = logging.getLogger("queuepool")

#: Seconds. A connection younger than this leads to the server to which a new one would lead, so
#: its errors do not invalidate the others. Without this rule a server that stays read-only would
#: have all its connections replaced at every write.
FRESH_TIME = 1.0

#: What a user may change of a connection and a put sets back, if the driver has it.
SETTINGS = ("autocommit", "isolation_level", "row_factory", "text_factory")

#: What servers, poolers and libraries say when the next connect would fail as well.
PERMANENT = re.compile("(?i)" + "|".join((
    "access denied", "authentication failed", "login failed", "unknown database",
    "invalid (?:username|credential)", r'(?:role|user|database) ["\'].*["\'] does not exist',
    "no password supplied", "no pg_hba.conf entry", "pg_hba.conf rejects",
    "is not permitted to log in", "permission denied for database",
    "unrecognized configuration parameter", "unsupported startup parameter",
    "invalid value for parameter", "no such (?:database|user)", "certificate verify failed",
    "does not support SSL", "root certificate file .* does not exist")))

#: What drivers say that cannot be asked whether there is a transaction, such as DuckDB's.
_NO_TRANSACTION = re.compile("(?i)no (?:active )?transaction|not in a transaction")

#: What drivers say of a connection that their user has closed.
_CLOSED = re.compile("(?i)already closed|is closed|closed (?:connection|database)")

#: How TypeErrors name a keyword that a function does not have.
_KEYWORD = re.compile(r"keyword argument '(\w+)'|'(\w+)' is an invalid keyword argument")

#: How they say that there is one, without its name.
_SOME_KEYWORD = re.compile("incompatible function arguments")

#: The exception classes of DB-API 2.0 that matter here.
_ERRORS = "Error", "InterfaceError", "OperationalError"

#: The drivers that have a module of their own here.
_OWN = {"psycopg2": "queuepool.psycopg2", "psycopg": "queuepool.psycopg"}


def isInterruption(error: BaseException) -> bool:
    """Tell whether an exception may have stopped the driver in the middle of an answer.

    True for what is no Exception, such as KeyboardInterrupt. It is the ``closeOnException`` of a
    ConnectionPool: what is left of that answer would be taken for the next one.
    """
    return not isinstance(error, (Exception, GeneratorExit))


class Connection(Resource):
    """A connection; ``with pool.take() as conn`` hands out the driver's own connection.

    ``connect`` is the driver's function, or one of yours that returns a connection. It gets
    ``args``, and all keywords that are none of this class. ``take`` without ``with`` returns this
    object; its ``resource`` is the driver's connection.

    A put rolls back, unless the driver says that there is nothing to roll back (``in_transaction``
    is False), and sets back those SETTINGS that are plain attributes of the driver's connection,
    and an autocommit that it tells with ``get_autocommit()``. All else that a user changed stays
    for the next one, unless ``reset`` undoes it. It closes the connection after an InterfaceError
    of the driver's, and if the rollback or ``isUsable`` fails after an OperationalError.

    A connection whose driver has a ``fileno()`` is found to be lost by a look at its socket,
    without a round trip, and nothing that the pool itself asks on it takes longer than
    ``pingTimeout``. A driver without one has to have time limits of its own. psycopg2 and psycopg
    are refused: ``queuepool.psycopg2`` and ``queuepool.psycopg`` know what they leave behind.

    - ``isUsable``: a callable that gets the driver's connection if that was idle for more than
      ``pingTime`` seconds (None: never), and after an OperationalError. It raises any Exception
      or returns False if the connection cannot be used any more. Then it is closed, and, if it was
      idle, all others of the pool are invalidated. What it has begun is rolled back.
    - ``reset``: a callable that gets the driver's connection at each put, after the rollback. If
      it raises, the connection is closed.
    - ``configure``: a callable that gets the driver's connection once, after it was opened. What
      it and ``connect`` did is committed. If it raises, the connection is closed, and the taker
      gets the exception.
    - ``pingTimeout``: how many seconds an answer may take to what the pool asks: isUsable, the
      rollback, and close.
    """

    #: Whether ``reset`` may also be "discard".
    _canDiscard = False
    #: What ``_status`` returns for a connection that no put keeps.
    _unfit: tuple[Any, ...] = (True,)
    #: Where the driver's exception classes are.
    _driver: Any = SimpleNamespace(**dict.fromkeys(_ERRORS, ()))

    def __init__(self, name: str, connect: Callable[..., Any], *args: Any,
                 isUsable: Callable[[Any], object] | None = None, reset: Any = None,
                 configure: Callable[[Any], object] | None = None,
                 pingTime: float | None = 30.0, pingTimeout: float = 3.0, **kwargs: Any) -> None:
        super().__init__(name)
        if not callable(connect):
            raise TypeError(f"connect must be a callable, such as sqlite3.connect, not a value of "
                            f"type {type(connect).__name__}")
        if reset is not None and not callable(reset) and not (
                self._canDiscard and reset == "discard"):
            what = "None, 'discard'" if self._canDiscard else "None"
            raise ValueError(f"reset must be {what} or a callable, not a value of type "
                             f"{type(reset).__name__}")
        for what, function in ("configure", configure), ("isUsable", isUsable):
            if function is not None and not callable(function):
                raise TypeError(f"{what} must be None or a callable, not a value of type "
                                f"{type(function).__name__}")
        if pingTime is not None:
            _checkSeconds("pingTime must be None or", pingTime)
        _checkSeconds("pingTimeout must be", pingTimeout)
        self.isUsable = isUsable
        self.pingTime = pingTime if isUsable else None
        self.pingTimeout = pingTimeout
        self.reset = reset
        self.configure = configure
        self._connector = connect
        self._args = args
        self._kwargs = kwargs
        #: The driver's own connection. An agent that traces programs may wrap ``resource`` around
        #: that.
        self._raw: Any = None
        #: Tells what it is doing: something, or nothing (0 or False), as it has to at a take.
        self._status: Callable[[], Any] = _doNothing
        #: Called with 0, tells without blocking whether there is something to read.
        self._poll: Callable[[int], Any] = _doNothing
        #: How many references to the driver's connection there are while nobody uses it, if
        #: ``_isInUse`` is to be asked when there are others.
        self._references: int | None = None
        #: Whether what open raises comes from what is done to a connection that was made.
        self._isSettingUp = False

    # -- open and close

    def open(self) -> None:
        """Connect, and call ``configure``.

        Blocks as long as these, and raises what they raise. Raises PoolError for a driver or a
        connection that cannot be used in more than one thread, and TypeError for what is no
        connection, or one of a driver that has a module of its own here.
        """
        self._isSettingUp = False
        conn = self.resource = self._connect()
        self._isSettingUp = True
        raw = self._raw = self._unwrap(conn)
        self.handOut(conn)
        self._poll = poller(raw) or _doNothing
        self._setUp()
        self._isSettingUp = False
        super().open()

    def _connect(self) -> Any:
        try:
            return self._connector(*self._args, **self._kwargs)
        except TypeError as error:
            option = _unknownKeyword(str(error), self._connector, self._kwargs)
            if option is None:
                raise
            # The driver's own text may show the arguments.
            raise TypeError(unknownOption(option, "the driver's connect", _POOL_OPTIONS)) from None

    def _unwrap(self, conn: Any) -> Any:
        """Return the driver's own connection."""
        for method in "close", "commit", "cursor":
            if not callable(getattr(conn, method, None)):
                raise TypeError(f"connect returned a {type(conn).__name__}, which is no connection "
                                f"of DB-API 2.0: it has no {method}()")
        return conn

    def _setUp(self) -> None:
        """Prepare a new connection."""
        raw = self._raw
        self._driver = _driverOf(raw)
        _refuseOwn(self._driver.OperationalError)
        _checkThreads(raw)
        isTold = any(hasattr(raw, name) for name in ("closed", "open", "in_transaction"))
        self._status = partial(_isClosed if isTold else _refusesCursor, raw)
        #: What noteError saw since the last put.
        self._isUnfit = self._isDoubtful = False
        if self.configure is not None:
            self.configure(self.resource)
        with self._within(raw):
            self._endTransaction(raw, "COMMIT")
        #: Not those that are written in Python: they may ask the server.
        self._settings = {
            name: getattr(raw, name) for name in SETTINGS
            if not isinstance(inspect.getattr_static(raw, name, None), (property, FunctionType))
            and hasattr(raw, name) and not callable(getattr(type(raw), name, None))}
        self._autocommit = _autocommit(raw)

    def isTransient(self, error: Exception) -> bool:
        """Return True for an OSError and the driver's OperationalError and InterfaceError.

        But not if the text says that a password or a name of a database is wrong. Drivers have no
        common code for that: override it if yours has one.
        """
        kinds = {kind.__name__ for kind in type(error).__mro__}
        return (isinstance(error, OSError) or not kinds.isdisjoint(
            ("OperationalError", "InterfaceError"))) and not PERMANENT.search(str(error))

    def hasOpen(self, thing: object) -> bool:
        """Tell whether it is this connection, or what an agent has wrapped around it."""
        return thing is self.resource or thing is self._raw

    def abandon(self) -> None:
        """Forget the connection: it is the parent process's. It is leaked, see ``leak``."""
        leak(self.resource)
        leak(self._raw)
        self._raw = None
        super().abandon()

    def close(self) -> None:
        """Close the connection. Blocks for at most ``pingTimeout`` seconds, see the class."""
        conn, raw, self.resource, self._raw = self.resource, self._raw, None, None
        try:
            if raw is not None:
                self._end(raw)
            elif callable(getattr(conn, "close", None)):  # it was no connection of the driver
                conn.close()
        finally:
            self._status = self._poll = _doNothing  # they keep the driver's connection
            super().close()

    def _end(self, raw: Any) -> None:
        if not _isClosed(raw):
            with self._within(raw):
                raw.close()

    # -- repairs

    def takeRepair(self) -> None:
        """Close the connection if the server has closed it, or a former user still uses it.

        Usually sends nothing: an idle connection has nothing to read unless the server closed it,
        or sent something unasked. Blocks for at most ``pingTimeout`` seconds, and not longer than
        the take may; and only if the connection was idle for longer than ``pingTime``, or got a
        notice, or a notification for which somebody forgot to UNLISTEN.
        """
        raw = self._raw
        if raw is None:
            return
        hasToAsk = False
        try:
            isInUse = False
            if self._references is not None:
                references = getrefcount(raw)
                isInUse = references != self._references and self._isInUse(references)
            if isInUse or self._status():
                self.close()
                return
            if self._poll(0):
                hasToAsk = self._readUnasked(raw)
        except self._driver.Error:
            self.close()
            return
        if raw is not self._raw:
            return
        slot = self._slot
        wasIdleLong = (self.pingTime is not None
                       and slot.since - slot.lastUsedAt > self.pingTime)  # idleTime at the take
        if wasIdleLong or hasToAsk:
            self._ping(raw, wasIdleLong)

    def putRepair(self) -> None:
        """Undo what its user left behind, and do what ``reset`` says, see the class.

        Closes the connection if it cannot be used again. Blocks for a round trip for each thing
        that has to be done. Raises what the driver, ``reset`` and ``configure`` raise.
        """
        raw = self._raw
        if raw is None:
            return
        if self._references is not None and exception() is not None:
            self._references = 0  # a signal may have kept its user from leaving a block
        if not self._clean(raw):
            self.close()
        elif self.reset is not None:
            if self.reset == "discard":
                self._discard()
            else:
                self.reset(self.resource)
                if not self._clean(raw):
                    self.close()

    def _clean(self, raw: Any) -> bool:
        """Undo what its user left behind. Return False if it cannot be used again."""
        isDoubtful, self._isDoubtful = self._isDoubtful, False
        if self._isUnfit or self._status() in self._unfit:
            return False
        try:
            if isDoubtful or getattr(raw, "in_transaction", True):
                if getattr(raw, "in_transaction", False):
                    self._tellRolledBack()
                with self._within(raw):
                    self._endTransaction(raw, "ROLLBACK", isDoubtful)
            if restoreSettings(raw, self._settings):
                with self._within(raw):
                    # sqlite3 has begun another one if autocommit was False until now.
                    self._endTransaction(raw, "ROLLBACK")
            if self._autocommit is not None and self._autocommit is not _autocommit(raw):
                with self._within(raw):
                    raw.autocommit(self._autocommit)
            return not (isDoubtful and self.isUsable) or self._asks(raw)
        except Exception as error:
            # Its user has seen why, or did it himself.
            if isinstance(error, self._driver.Error) and (
                    isDoubtful or _CLOSED.search(str(error))):
                return False
            raise

    def _endTransaction(self, raw: Any, statement: str, isDoubtful: bool = False) -> None:
        """End what was begun, if there may be anything, with COMMIT or ROLLBACK."""
        if not (isDoubtful or getattr(raw, "in_transaction", True)):
            return
        try:
            getattr(raw, statement.lower())()
        except Exception as error:  # some drivers raise one where there is nothing to end
            if not _NO_TRANSACTION.search(str(error)):
                raise
        if getattr(raw, "in_transaction", False) and getattr(raw, "autocommit", None) is True:
            # A BEGIN by hand under autocommit: the driver does not end it.
            with contextlib.closing(raw.cursor()) as cursor:
                cursor.execute(statement)

    def _discard(self) -> None:
        """Discard the whole session, and set it up as after open."""
        raise NotImplementedError

    def _tellRolledBack(self) -> None:
        """Leave a trace of a write that may be lost."""
        if logger.isEnabledFor(logging.DEBUG):
            trace = self.takeTrace
            logger.debug(
                "pool %s: %r was put in the middle of a transaction, which was rolled back, by "
                "thread %r%s%s", self.pool, self.name, threading.current_thread().name,
                "; it was taken at:\n" if trace else "", trace or "")

    # -- liveness

    def _isInUse(self, references: int) -> bool:
        """Tell whether somebody still uses it, though the status does not tell."""
        return False

    def _readUnasked(self, raw: Any) -> bool:
        """Read what the server sent unasked, and return whether it has to be asked as well.

        Of a driver that is not known it is the end of the connection.
        """
        self.close()
        return False

    def _ask(self, raw: Any) -> bool:
        """Ask the server, and return whether the connection can be used."""
        if self.isUsable is None:
            return True
        if self.isUsable(raw) is False:
            return False
        self._endTransaction(raw, "ROLLBACK")  # of its SELECT
        return True

    def _answer(self, raw: Any) -> bool | type[Exception]:
        """Return what ``_ask`` returns, or the class of what it raises.

        Not the exception: its traceback would keep this connection, which is to come back by
        itself if it is dropped.
        """
        try:
            return self._ask(raw)
        except Exception as error:
            logger.debug("pool %s: %r cannot be used any more, it is closed", self.pool, self.name,
                         exc_info=True)
            return type(error)

    def _asks(self, raw: Any) -> bool:
        with self._within(raw) as limit:
            return self._answer(raw) is True and not limit.isOver

    def _ping(self, raw: Any, wasIdleLong: bool) -> None:
        """Ask the server. If it does not answer in time, close this one, and all older ones.

        Those stay open if nothing is known of the server: the take had less time than pingTimeout,
        or no thread could be started, or only a notice was the reason to ask. No driver has a
        timeout for an answer, so another thread shuts the socket down.
        """
        timeLeft = self.timeLeft
        isCut = timeLeft is not None and timeLeft < self.pingTimeout
        seconds: Any = timeLeft if isCut else self.pingTimeout
        isSilent = False
        try:
            with timeLimit(seconds, _cutter(raw)) as limit:
                answer = self._answer(raw)
            if answer is True and not limit.isOver:
                return
            # InterfaceError: a user who still refers to it has closed it.
            isClosed = isinstance(answer, type) and issubclass(
                answer, self._driver.InterfaceError)
            isSilent = wasIdleLong and not (isCut and limit.isOver) and not isClosed
        except RuntimeError:  # no thread can be started
            pass
        self.close()
        if isSilent:
            self._invalidate(self.generation)

    def _within(self, raw: Any) -> contextlib.AbstractContextManager[Limit]:
        return within(raw, self.pingTimeout)

    # -- fail-over

    def _invalidate(self, generation: object, newerThan: float | None = None) -> None:
        """Invalidate what the pool opened in this generation, unless somebody has done so.

        With ``newerThan`` only if the pool opened something in it, and nothing since that instant.
        """
        pool = self.pool
        if pool is None or pool.generation is not generation:
            return
        if newerThan is not None:
            newest = pool.newestOpenedAt
            if newest is None or newest >= newerThan:
                return
        pool.invalidate()

    def _invalidateOlder(self) -> None:
        """Invalidate all others of the pool, unless this one is new: then they are as good."""
        if (self.age or 0.0) >= FRESH_TIME:
            self._invalidate(self.generation)

    def noteError(self, error: BaseException) -> None:
        """Note what the driver's exceptions say of the connection; putRepair acts on it.

        InterfaceError: it cannot be used any more. OperationalError: it may be lost.
        """
        for each in chain(error):
            if isinstance(each, self._driver.InterfaceError):
                self._isUnfit = True
            elif isinstance(each, self._driver.OperationalError):
                self._isDoubtful = True


def restoreSettings(raw: Any, settings: Mapping[str, object]) -> bool:
    """Set back what its user changed of a connection. Return whether he did."""
    hasChanged = False
    for name, value in settings.items():
        if getattr(raw, name) is not value:
            setattr(raw, name, value)
            hasChanged = True
    return hasChanged


def chain(error: BaseException) -> list[BaseException]:
    """Return an exception and all those behind it: causes, contexts and members of groups."""
    found: dict[int, BaseException] = {}
    pending: list[BaseException | None] = [error]
    while pending:
        each = pending.pop(0)
        if each is not None and id(each) not in found:
            found[id(each)] = each
            pending += [each.__cause__, each.__context__]
            if isinstance(each, BaseExceptionGroup):
                pending += each.exceptions
    return list(found.values())


_leaked: list[object] = []


def leak(thing: object) -> None:
    """Leave a connection to the parent process, which has opened it.

    A dead socket takes the place of its own in this process, so that not even a cursor of it can
    speak on the parent's. Nor is it ever freed here, the end of the process included: a driver
    without a public ``fileno()`` may say goodbye to the server then.
    """
    with contextlib.suppress(Exception):  # it is closed, or an agent's that fails
        fileno = _fileno(thing)
        if fileno is not None:
            dead, other = socket.socketpair()
            with dead, other:
                os.dup2(dead.fileno(), fileno, inheritable=False)
    if ctypes is None:
        _leaked.append(thing)  # which Python frees at its end
    else:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def shutDown(fileno: int) -> None:
    """End a connection; a thread that waits for an answer on it fails at once.

    On Windows it may wait until the server, or the network, ends the connection as well.
    """
    with contextlib.suppress(OSError):
        link = socket.socket(fileno=fileno)
        try:
            link.shutdown(socket.SHUT_RDWR)
        finally:
            link.detach()  # the descriptor is the connection's


def within(raw: Any, seconds: float) -> contextlib.AbstractContextManager[Limit]:
    """Cut a connection off, if there is a way, if the block takes longer than so many seconds."""
    cutter = _cutter(raw)
    if cutter is _doNothing:
        return contextlib.nullcontext(Limit(cutter))
    return timeLimit(seconds, cutter, isVital=False)


def _doNothing(*args: Any) -> None:
    """Stand for a look at the socket, or the end of it, of a driver that shows none."""


def _fileno(raw: Any) -> int | None:
    """Return the descriptor of its socket, if the driver has a public way to it."""
    fileno = getattr(raw, "fileno", None)
    number = fileno() if callable(fileno) else None
    return number if isinstance(number, int) and number >= 0 else None


def _cutter(raw: Any) -> Callable[[], None]:
    """Return a function that ends the connection, if there is a way to do so."""
    fileno = _fileno(raw)
    return _doNothing if fileno is None else partial(shutDown, fileno)


def poller(raw: Any) -> Callable[[int], Any] | None:
    """Return a function that, called with 0, tells without blocking whether there is data to read.

    A socket that is not open any more counts as such. None if the driver has no public way to it.
    """
    fileno = _fileno(raw)
    if fileno is None:
        return None
    if not hasattr(select, "poll"):  # on Windows, and under eventlet
        return partial(_select, fileno)
    poll = select.poll()
    poll.register(fileno, select.POLLIN)
    return poll.poll


def _select(fileno: int, timeout: int) -> bool:
    try:
        return bool(select.select([fileno], [], [], timeout)[0])
    except OSError:
        return True
    except ValueError:  # the descriptor is too large for it: nothing is known
        return False


def _isClosed(raw: Any) -> bool:
    """Tell whether the driver says that the connection is closed, as far as it says so."""
    try:
        closed, isOpen = getattr(raw, "closed", False), getattr(raw, "open", True)
        getattr(raw, "in_transaction", None)
    except Exception:  # sqlite3 tells nothing of a connection that is closed
        return True
    return (isinstance(closed, int) and bool(closed)
            or isinstance(isOpen, int) and not isOpen)


def _refusesCursor(raw: Any) -> bool:
    """Tell whether a connection makes no cursor: it is closed, says PEP 249, or busy."""
    try:
        raw.cursor().close()
        return False
    except Exception:
        return True


def _autocommit(raw: Any) -> bool | None:
    """Return the autocommit of a connection that has it as methods, or None."""
    get = getattr(raw, "get_autocommit", None)
    return bool(get()) if callable(get) and callable(getattr(raw, "autocommit", None)) else None


def _driverOf(raw: Any) -> Any:
    """Return what has the exception classes of a connection's driver: () for what is not known.

    They are asked for at the connection: its class may have descriptors by these names, and an
    agent may have wrapped something around it.
    """
    module = _moduleOf(raw)

    def find(name: str) -> Any:
        found = (getattr(place, name, None) for place in (raw, module))
        return next((kind for kind in found if isinstance(kind, type)), ())

    return SimpleNamespace(**{name: find(name) for name in _ERRORS})


def _moduleOf(raw: Any) -> Any:
    """Return the module of a connection's driver, or None."""
    for kind in getattr(raw, "OperationalError", None), *type(raw).__mro__:
        name = kind.__module__ if isinstance(kind, type) else ""
        while name:
            module = sys.modules.get(name)
            if hasattr(module, "apilevel") and hasattr(module, "OperationalError"):
                return module
            name = name.rpartition(".")[0]
    return None


def _refuseOwn(thing: object) -> None:
    """Raise TypeError for what comes from a driver that has a module of its own here."""
    driver = str(getattr(thing, "__module__", "")).partition(".")[0]
    if driver in _OWN:
        raise TypeError(
            f"connect is of the driver {driver}: use {_OWN[driver]}.ConnectionPool instead, which "
            f"also undoes what only that driver can leave behind")


def _checkThreads(raw: Any) -> None:
    """Raise PoolError if the connection may be used in the thread only that has opened it."""
    module = _moduleOf(raw)
    if getattr(module, "threadsafety", 1) == 0:
        raise poolError(
            "one-thread", f"the driver {module.__name__} says (threadsafety 0) that threads may "
            f"not use it at the same time, so its connections cannot be in a pool")
    if module is None or module.__name__ != "sqlite3":
        return
    errors: list[Exception] = []

    def use() -> None:
        try:
            raw.cursor().close()
        except Exception as error:
            errors.append(error)

    with contextlib.suppress(RuntimeError):  # no thread can be started
        thread = threading.Thread(target=use, daemon=True)
        thread.start()
        thread.join()
    if errors:
        raise poolError(
            "one-thread", "sqlite3 refuses a connection in any thread but the one that has opened "
            "it, and the pool lends it to one thread after the other: pass "
            "check_same_thread=False to sqlite3.connect") from errors[0]


def _checkSeconds(rule: str, value: object) -> None:
    isNumber = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (isNumber and value >= 0):  # type: ignore[operator]
        raise ValueError(
            f"{rule} a number of seconds >= 0, not "
            f"{value if isNumber else f'a value of type {type(value).__name__}'}")


# -- options

#: How other pools call what these options do.
_OTHER_NAMES = {
    "minconn": "minOpen", "minsize": "minOpen", "minconnections": "minOpen",
    "maxconn": "capacity", "maxsize": "capacity", "maxconnections": "capacity",
    "poolsize": "capacity", "size": "capacity",
    "timeout": "takeTimeout", "pooltimeout": "takeTimeout", "waittimeout": "takeTimeout",
    "maxidle": "maxIdleTime", "idletimeout": "maxIdleTime",
    "maxlifetime": "maxOpenTime", "maxage": "maxOpenTime", "poolrecycle": "maxOpenTime",
    "maxusage": "maxUsageCount", "poolpreping": "pingTime", "ping": "pingTime",
    "reconnecttimeout": "openRetryTime", "resetsession": "reset",
}


def unknownOption(option: str, connect: str, known: Iterable[str]) -> str:
    """Return what to say of an option that nobody knows; ``known`` are for advice."""
    nearest = _nearest(option, known)
    return (f"{option!r} is neither an option of the pool nor one of {connect}"
            + (f"; did you mean {nearest!r}?" if nearest else ""))


def _unknownKeyword(
        text: str, connect: Callable[..., Any], options: Iterable[str]) -> str | None:
    """Return which of these options a TypeError of ``connect`` is about, or None.

    Those that ``connect`` has are not: it is about something else, such as a bug in ``connect``.
    """
    known: Iterable[str] = ()
    with contextlib.suppress(TypeError, ValueError):  # it is written in C
        known = inspect.signature(connect).parameters
    unknown = [option for option in options if option not in known]
    keyword = _KEYWORD.search(text)
    if keyword is not None:
        return next((option for option in unknown if option in keyword.groups()), None)
    return next((option for option in unknown if _nearest(option, _POOL_OPTIONS)),
                None) if _SOME_KEYWORD.search(text) else None


def _nearest(option: str, known: Iterable[str]) -> str | None:
    """Return the known option that was probably meant, or None."""
    names = {**_OTHER_NAMES, **{_plain(name): name for name in known}}
    found = difflib.get_close_matches(_plain(option), names, n=1, cutoff=0.7)
    return names[found[0]] if found else None


def _plain(option: str) -> str:
    return option.replace("_", "").lower()


class ConnectionPool(Pool[Connection]):
    """A pool of up to ``capacity`` connections, which it opens itself with ``connect``.

    ``connect`` is the driver's function, such as ``sqlite3.connect``, or one of yours. The
    keywords are Connection's, and Pool's without ``factory``. All that are not known here go to
    ``connect``, as does what follows it. A keyword that both have is the pool's; give the driver
    its own with ``functools.partial(connect, name=…)``. Nothing is opened here.

    These defaults are not those of Pool: ``takeTimeout`` is 30.0 seconds, ``jitter`` 0.1, and
    ``closeOnException`` is ``isInterruption``. Which of the driver's exceptions close the
    connection is said at Connection, and holds whatever ``closeOnException`` says.
    """

    def __init__(self, name: str, capacity: int, connect: Callable[..., Any], *args: Any,
                 isUsable: Callable[[Any], object] | None = None,
                 reset: Callable[[Any], object] | None = None,
                 configure: Callable[[Any], object] | None = None,
                 pingTime: float | None = 30.0, pingTimeout: float = 3.0,
                 maxIdleTime: float | None = 300.0, maxOpenTime: float | None = 300.0,
                 maxUsageCount: int | None = 1000,
                 closeOnException: CloseOnException = isInterruption, minOpen: int = 0,
                 jitter: float = 0.1, takeTimeout: float | None = 30.0,
                 maxWaiting: int | None = None, openRetryTime: float = 0.0,
                 leakTime: float | None = None, leakTrace: bool = False,
                 raiseDeadlock: bool = False, histograms: bool = False,
                 clock: Callable[[], float] = time.monotonic, **kwargs: Any) -> None:
        def make(resourceName: str) -> Connection:
            return Connection(
                resourceName, connect, *args, isUsable=isUsable, reset=reset, configure=configure,
                pingTime=pingTime, pingTimeout=pingTimeout, **kwargs)

        super().__init__(
            name, capacity, maxIdleTime, maxOpenTime, maxUsageCount, closeOnException,
            factory=make, minOpen=minOpen, jitter=jitter, takeTimeout=takeTimeout,
            maxWaiting=maxWaiting, openRetryTime=openRetryTime, leakTime=leakTime,
            leakTrace=leakTrace, raiseDeadlock=raiseDeadlock, histograms=histograms, clock=clock)
        make(name)  # what is wrong is to be told here, and not by the first take
        _refuseOwn(connect)
        try:
            inspect.signature(connect).bind(*args, **kwargs)
        except TypeError as error:
            option = _unknownKeyword(str(error), connect, kwargs)
            if option is not None:
                raise TypeError(unknownOption(
                    option, "the driver's connect", _POOL_OPTIONS)) from None
        except ValueError:  # it is written in C
            pass


_POOL_OPTIONS = [name for name, parameter in inspect.signature(ConnectionPool).parameters.items()
                 if parameter.kind is parameter.KEYWORD_ONLY] + ["capacity"]
