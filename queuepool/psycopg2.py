"""A pool of PostgreSQL connections, opened with psycopg2.

Only this module and those that it is made of (``queuepool.libpq``, ``queuepool.session``) import
the driver; ``queuepool`` itself does not.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import select
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from queuepool import errors
from queuepool.elsewhere import Elsewhere
from queuepool.pool import CloseOnException, Pool
from queuepool.resource import Resource
from queuepool.watchdog import timeLimit

try:
    import psycopg2
except ImportError as error:
    raise ImportError(
        "queuepool.psycopg2 needs the driver psycopg2, which cannot be imported "
        f"({error}). Install it: pip install psycopg2-binary", name="psycopg2") from error
from psycopg2.extensions import (STATUS_READY, TRANSACTION_STATUS_ACTIVE, TRANSACTION_STATUS_IDLE,
                                 TRANSACTION_STATUS_INERROR, TRANSACTION_STATUS_UNKNOWN, connection,
                                 get_wait_callback, make_dsn)

from queuepool.libpq import (FACTORIES, UNREACHED, buildDsn, checkOptions, connectTimeout,
                             isPermanent, withoutSecrets)
from queuepool.session import Session, commit, execute

IsolationLevel = int | str | None
ServerState = bool | str | None
Configure = Callable[[connection], object] | None
Reset = Literal["discard"] | Callable[[connection], object] | None

logger = logging.getLogger("queuepool")

#: The ``closed`` of a connection that was not closed by this program.
LOST = 2

#: Seconds. A connection younger than this leads to the server to which a new one would lead, so
#: its errors do not invalidate the others. Without this rule a server that stays read-only would
#: have all its connections replaced at every write.
FRESH_TIME = 1.0


class PoolTimeout(errors.PoolTimeout, psycopg2.OperationalError):
    """Raised when ``take`` got no open connection within its time."""


class PoolBusy(errors.PoolBusy, PoolTimeout):
    """Raised when ``take`` would have to wait, but ``maxWaiting`` threads wait already."""


class PoolDeadlock(errors.PoolDeadlock, PoolTimeout):
    """Raised, with ``raiseDeadlock``, when all holders wait themselves, for ever."""


class PoolClosed(errors.PoolClosed, psycopg2.OperationalError):
    """Raised when the pool was closed: nothing can be taken from it any more."""


def isConnectionError(error: BaseException) -> bool:
    """Tell whether an exception proves that its connection cannot be used any more.

    True for an exception of psycopg2 whose connection is closed, or whose severity is FATAL or
    PANIC. The SQLSTATE proves nothing: a statement may fail with that of another server, or with
    any that a function raises. It is the ``closeOnException`` of a ConnectionPool; whatever it
    says, a put closes a connection that is lost, busy, or cannot be rolled back.
    """
    if not isinstance(error, psycopg2.Error):
        return False
    return (error.diag.severity_nonlocalized in ("FATAL", "PANIC")
            or error.cursor is not None and bool(error.cursor.connection.closed))


def _ofConnection(use: str) -> Any:
    return Elsewhere(f"psycopg2's connection has it: write 'with pool.take() as conn: {use}', or "
                     f"use the 'resource' of what take() returned")


def _ofTaken(use: str) -> Any:
    return Elsewhere(f"take a connection first: 'with pool.take() as conn: {use}'")


class Connection(Resource):
    """A connection; ``with pool.take() as conn`` hands out psycopg2's own connection.

    ``take`` without ``with`` returns this object; its ``resource`` is psycopg2's connection.

    ``isolation_level``, ``readonly``, ``deferrable`` and ``autocommit`` are those of psycopg2's
    ``set_session``; a put sets back what the user changed of them. All other arguments go to
    ``psycopg2.connect``. One that is a callable is called at each open and returns the argument,
    such as a password that changes; only ``connection_factory`` and ``cursor_factory`` are passed
    on as they are.

    - ``pingTime``: a connection that was idle for more than this many seconds is handed out only
      after the server has answered on it. None: the server is never asked.
    - ``pingTimeout``: how many seconds the answer may take. If it does not come, the connection
      is closed and all others of the pool are invalidated, so that a cut network costs this time
      once and not once for each connection.
    - ``reset``: what is done at a put with a connection that is clean again: nothing (None),
      DISCARD ALL (``"discard"``), or a callable that gets psycopg2's connection. If it raises,
      the connection is closed.
    - ``configure``: a callable that gets psycopg2's connection once, after it was opened, and
      again after a DISCARD ALL of the pool's. It may run SQL, and need not commit. If it raises,
      the connection is closed, and the taker gets the exception.
    """

    resource: connection | None

    if not TYPE_CHECKING:  # a type checker says itself that there is no such attribute
        cursor = _ofConnection("conn.cursor()")
        commit = _ofConnection("conn.commit()")
        rollback = _ofConnection("conn.rollback()")
        execute = Elsewhere("write 'with pool.take() as conn, conn.cursor() as cursor: "
                            "cursor.execute(...)'")

    def __init__(self, name: str, isolation_level: IsolationLevel = None,
                 readonly: ServerState = None, deferrable: ServerState = None,
                 autocommit: bool | None = None, *args: Any, pingTime: float | None = 30.0,
                 pingTimeout: float = 3.0, reset: Reset = None, configure: Configure = None,
                 **kwargs: Any) -> None:
        super().__init__(name)
        if reset is not None and reset != "discard" and not callable(reset):
            raise ValueError(f"reset must be None, 'discard' or a callable, not a value of type "
                             f"{type(reset).__name__}")
        if configure is not None and not callable(configure):
            raise TypeError(f"configure must be None or a callable, not a value of type "
                            f"{type(configure).__name__}")
        if pingTime is not None:
            _checkSeconds("pingTime must be None or", pingTime)
        _checkSeconds("pingTimeout must be", pingTimeout)
        checkOptions(kwargs, ("pingTime", "pingTimeout", "reset", "configure"))
        self.isolation_level = isolation_level
        self.readonly = readonly
        self.deferrable = deferrable
        self.autocommit = autocommit
        self.pingTime = pingTime
        self.pingTimeout = pingTimeout
        self.reset = reset
        self.configure = configure
        self._args = args
        self._kwargs = kwargs
        #: psycopg2's own connection. An agent that traces programs may wrap ``resource`` around it.
        self._raw: Any = None
        #: Whether what open raises comes from what is done to a connection that was made.
        self._isSettingUp = False

    def open(self) -> None:
        """Connect, and call ``configure``.

        Blocks as long as ``psycopg2.connect``, which gets as its connect_timeout what the take has
        left, in whole seconds and at least 2. Raises what that, ``set_session`` and ``configure``
        raise. If no server in service was reached, all that the pool opened before is invalidated.
        Sends no statement of its own, unless ``autocommit`` comes with other settings; after
        ``configure`` it asks what that listens to.
        """
        conn = self.resource = self._connect()
        self._isSettingUp = True
        raw = self._raw = _unwrap(conn)
        self.handOut(conn)
        self._poll = _poller(raw.fileno())
        self._setUp()
        self._isSettingUp = False
        super().open()

    def _connect(self) -> connection:
        pool = self.pool
        self._isSettingUp = False
        generation = pool and pool.generation
        startedAt = pool.clock() if pool else 0.0
        args = [value() if number == 0 and callable(value) else value
                for number, value in enumerate(self._args)]
        kwargs = {key: value() if callable(value) and key not in FACTORIES else value
                  for key, value in self._kwargs.items()}
        isCut = False
        try:
            dsn = args[0] if args else kwargs.get("dsn")
            timeout = connectTimeout(dsn, kwargs, self.timeLeft)
            if timeout is not None:
                isCut = timeout != connectTimeout(dsn, kwargs, None)
                kwargs["connect_timeout"] = timeout
                if get_wait_callback() is not None:
                    _watch(args, kwargs, timeout)
            conn: connection = psycopg2.connect(*args, **kwargs)
        except psycopg2.Error as error:
            text = withoutSecrets(str(error))
            if text != str(error):
                error.args = (text,)
            # One that only had too little time says nothing about what is open already.
            if isinstance(error, psycopg2.OperationalError) and UNREACHED.search(text) and not (
                    isCut and "timeout expired" in text):
                self._invalidate(generation, startedAt)
            raise
        return conn

    def _setUp(self) -> None:
        """Set up a session to which nothing was done yet."""
        settings = dict(isolation_level=self.isolation_level, readonly=self.readonly,
                        deferrable=self.deferrable, autocommit=self.autocommit)
        self._session = Session(self._raw, self.resource, settings, self.configure)

    def isTransient(self, error: Exception) -> bool:
        """Return False for what a server or libpq refuses for good, such as a wrong password.

        It is recognised by the English text: psycopg2 has no SQLSTATE for a failed connect. What
        ``configure`` raises is transient only if it is psycopg2's OperationalError.
        """
        if isinstance(error, psycopg2.OperationalError):
            return not isPermanent(str(error))
        return not self._isSettingUp and not isinstance(error, psycopg2.Error)

    def hasOpen(self, thing: object) -> bool:
        """Tell whether it is this connection, or what an agent has wrapped around it."""
        return thing is self.resource or thing is self._raw

    def abandon(self) -> None:
        """Forget the connection: it is the parent process's."""
        self._raw = None
        super().abandon()

    def close(self) -> None:
        """Close the connection. Never waits for a statement that another thread runs on it.

        That one fails then, and its connection is closed by psycopg2, in the thread it runs in.
        """
        conn, raw, self.resource, self._raw = self.resource, self._raw, None, None
        try:
            if raw is None:  # what connect returned was no connection
                if conn is not None:
                    conn.close()
            elif not raw.closed:
                # close() would wait for the statement, or free what a COPY is using.
                if raw.get_transaction_status() == TRANSACTION_STATUS_ACTIVE:
                    with contextlib.suppress(psycopg2.Error):  # it ended just now
                        _shutDown(raw.fileno())
                else:
                    raw.close()
        finally:
            super().close()

    def takeRepair(self) -> None:
        """Close the connection if the server has closed it.

        Usually sends nothing: an idle connection has nothing to read unless the server closed it,
        or sent something unasked. Blocks for at most ``pingTimeout`` seconds, and not longer than
        the take may; and only if the connection was idle for longer than ``pingTime``, or got a
        notice, or a notification for which somebody forgot to UNLISTEN.
        """
        raw = self._raw
        if raw is None:
            return
        # By a user who still refers to it, or who still runs something on it.
        if raw.get_transaction_status() in (TRANSACTION_STATUS_ACTIVE, TRANSACTION_STATUS_UNKNOWN):
            self.close()
            return
        hasToAsk = False
        try:
            if self._poll(0):
                hasToAsk = self._readUnasked(raw)
        except psycopg2.Error:
            self.close()
            return
        idleTime = self.idleTime
        wasIdleLong = (self.pingTime is not None and idleTime is not None
                       and idleTime > self.pingTime)
        if wasIdleLong or hasToAsk:
            self._ping(raw, wasIdleLong)

    def putRepair(self) -> None:
        """Undo what its user left behind, and do what ``reset`` says.

        Rolls back an open transaction, and sets back the settings of psycopg2, the cursor factory,
        typecasters, encoding, notices and notifications. If the server has reported another
        superuser status, as after SET ROLE or SET SESSION AUTHORIZATION, the whole session is
        discarded, and set up as after open. Closes the connection if it is lost or still runs a
        statement. Blocks for one round trip for each thing that has to be done; a clean connection
        costs none. Raises what psycopg2, ``reset`` and ``configure`` raise. A statement that
        another thread begins meanwhile is waited for.
        """
        raw = self._raw
        if raw is None:
            return
        if not self._clean(raw):
            self.close()
        elif self.reset is not None:
            if self.reset == "discard":
                self._discard()
            else:
                self.reset(self.resource)  # type: ignore[arg-type]
                if not self._clean(raw):
                    self.close()

    def _clean(self, raw: connection) -> bool:
        """Undo what its user left behind. Return False if it cannot be used again."""
        session = self._session
        wasDirty = False
        # A closed connection's status is UNKNOWN. After a COMMIT by hand the server is idle, but
        # psycopg2 believes that it is in a transaction, and would not send the next BEGIN.
        status = raw.get_transaction_status()
        if status != TRANSACTION_STATUS_IDLE or raw.status != STATUS_READY:
            if status in (TRANSACTION_STATUS_ACTIVE, TRANSACTION_STATUS_UNKNOWN):
                return False
            if status == TRANSACTION_STATUS_INERROR and session.becameReadOnly():
                self._invalidateOlder()
                return False
            session.rollBack()
            self._tellRolledBack(status)
            wasDirty = True
        if not session.restore(wasDirty):
            logger.warning(
                "pool %s: %r was put while somebody is in a block of 'with conn', such as a "
                "generator that has not ended; it is closed, because the end of that block would "
                "end the transaction of another user [queuepool:in-block]", self.pool, self.name)
            return False
        if raw.get_parameter_status("is_superuser") != session.isSuperuser:
            self._discard()
        return True

    def _tellRolledBack(self, status: int) -> None:
        """Leave a trace of a write that may be lost."""
        if status != TRANSACTION_STATUS_IDLE and logger.isEnabledFor(logging.DEBUG):
            trace = self.takeTrace
            logger.debug(
                "pool %s: %r was put in the middle of a transaction, which was rolled back, by "
                "thread %r%s%s", self.pool, self.name, threading.current_thread().name,
                "; it was taken at:\n" if trace else "", trace or "")

    def _discard(self) -> None:
        """Discard the whole session, and set it up as after open."""
        self._raw.reset()
        self._setUp()

    def _readUnasked(self, raw: connection) -> bool:
        """Read what the server sent unasked. Raises psycopg2.Error if it closed the connection.

        Returns whether it has to be asked as well: a notice may be its last message, and the end
        of the connection may arrive after it; and what somebody else listened to has to end.
        """
        sink, raw.notices = raw.notices, []
        while self._poll(0):
            raw.poll()
        hasNotices, raw.notices = bool(raw.notices), sink
        return hasNotices or self._session.hearsOthers()

    def _ping(self, raw: connection, wasIdleLong: bool) -> None:
        """Ask the server. If it does not answer in time, close this one, and all older ones.

        Those stay open if nothing is known of the server: the take had less time than pingTimeout,
        or no thread could be started, or only a notice was the reason to ask. libpq has no timeout
        for an answer, so another thread shuts the socket down.
        """
        timeLeft = self.timeLeft
        isCut = timeLeft is not None and timeLeft < self.pingTimeout
        seconds: Any = timeLeft if isCut else self.pingTimeout
        session = self._session
        hasToForget = session.hearsOthers()
        isSilent = wasIdleLong
        try:
            with timeLimit(seconds, partial(_shutDown, raw.fileno())) as limit:
                # SHOW takes no snapshot: a deferrable transaction would have to wait for one.
                execute(raw, session.unlistenOthers if hasToForget else "SHOW server_version")
                commit(raw)
            if not limit.isOver:
                if hasToForget:
                    session.forgetOthers()
                return
            isSilent = wasIdleLong and not isCut
        except psycopg2.InterfaceError:  # a user who still refers to it has closed it
            isSilent = False
        except psycopg2.Error:
            isSilent = wasIdleLong and not (isCut and limit.isOver)
        except RuntimeError:  # no thread can be started
            isSilent = False
        self.close()
        if isSilent:
            self._invalidate(self.generation)

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

    if TYPE_CHECKING:
        def __enter__(self) -> connection: ...  # type: ignore[override]

    def noteError(self, error: BaseException) -> None:
        """Invalidate all others of the pool if the error, or one behind it, tells of a fail-over.

        That is 25006: the server has become read-only, and a new connection may lead to another.
        Connections that a server has ended are noticed one by one, without a round trip. psycopg2
        does not tell what the server said at the end, so that is added to the text of the error.
        """
        raw = self._raw
        if raw is None:
            return
        ours = [each for each in _chain(error) if isinstance(each, psycopg2.Error)
                and (each.cursor is None or each.cursor.connection is raw)]
        if any(each.pgcode == "25006" for each in ours) and not (
                self._session.isReadOnlyByChoice()):
            self._invalidateOlder()
        if raw.closed == LOST:
            reason = (raw.info.error_message or "").strip()
            for each in ours:
                _addReason(each, reason)


def _addReason(error: psycopg2.Error, reason: str) -> None:
    """Add to an error of psycopg2 what the server said when it ended the connection.

    Not to one that may be of something else, such as a connect to another server.
    """
    text = str(error).strip()
    if text and text in reason:  # the last line of it
        error.args = (reason,)
    elif reason and reason not in text and isinstance(error, psycopg2.InterfaceError):
        error.args = (f"{text}: {reason}",)


def _chain(error: BaseException) -> list[BaseException]:
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


def _unwrap(conn: Any) -> Any:
    """Return psycopg2's own connection, around which an agent may have wrapped others.

    Their classes may pretend to be psycopg2's, so only the type itself is looked at.
    """
    if issubclass(type(conn), connection):
        return conn
    # A method that no agent has a reason to replace belongs to the connection itself.
    inner = getattr(conn.fileno, "__self__", None)
    if not issubclass(type(inner), connection):
        with contextlib.closing(conn.cursor()) as cur:  # which sends nothing
            inner = cur.connection
    if not issubclass(type(inner), connection):
        raise TypeError(f"psycopg2.connect returned a {type(conn).__name__}, with no connection of "
                        f"psycopg2 behind it")
    return inner


def _watch(args: list[Any], kwargs: dict[str, Any], seconds: int) -> None:
    """Have a connect end after so many seconds, as libpq does without a wait callback.

    With one libpq has no connect_timeout. Only a factory that is a class can be watched: the
    connection has to exist before it connects. Of several hosts the next one is tried if libpq
    goes on to it, and gets the same time.
    """
    factory = (args[1] if len(args) > 1 else kwargs.get("connection_factory")) or connection
    if not isinstance(factory, type):
        return

    def end(conn: Any) -> float:
        # ValueError: there is no socket yet, while libpq asks for an address.
        with contextlib.suppress(psycopg2.Error, ValueError):
            _shutDown(conn.fileno())
        return seconds

    def connect(dsn: str, **options: Any) -> Any:
        conn = factory.__new__(factory, dsn, **options)
        with contextlib.ExitStack() as stack:
            try:
                limit = stack.enter_context(timeLimit(seconds, partial(end, conn)))
            except RuntimeError:  # no thread can be started
                limit = None
            try:
                factory.__init__(conn, dsn, **options)  # type: ignore[misc]
            except psycopg2.Error:
                if limit is not None and limit.isOver:
                    raise psycopg2.OperationalError(
                        f"timeout expired: no connection within {seconds} s") from None
                raise
        return conn

    if len(args) > 1:
        args[1] = connect
    else:
        kwargs["connection_factory"] = connect


def _poller(fileno: int) -> Callable[[int], list[Any]]:
    """Return a function that, called with 0, tells without blocking whether there is data."""
    if not hasattr(select, "poll"):
        return lambda timeout: select.select([fileno], [], [], timeout)[0]
    poller = select.poll()
    poller.register(fileno, select.POLLIN)
    return poller.poll


def _shutDown(fileno: int) -> None:
    """End a connection; a thread that waits for an answer on it fails at once."""
    with contextlib.suppress(OSError):
        link = socket.socket(fileno=fileno)
        try:
            link.shutdown(socket.SHUT_RDWR)
        finally:
            link.detach()  # the descriptor is the connection's


def _checkSeconds(rule: str, value: object) -> None:
    isNumber = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (isNumber and value >= 0):  # type: ignore[operator]
        raise ValueError(
            f"{rule} a number of seconds >= 0, not "
            f"{value if isNumber else f'a value of type {type(value).__name__}'}")


class ConnectionPool(Pool[Connection]):
    """A pool of up to ``capacity`` connections, which it opens itself.

    ``dsn`` is a connection string or URI of libpq, or a callable that returns one and is called
    at each open. The keywords are Connection's, Pool's without ``factory``, and those of
    ``psycopg2.connect``, which win over the DSN and may be callables too. Nothing is opened here.
    A wrong DSN raises psycopg2.ProgrammingError, an unknown keyword TypeError, any other wrong
    argument ValueError or TypeError. PoolTimeout, PoolBusy and PoolClosed of this module are
    what is raised: they are also psycopg2.OperationalError.

    These defaults are not those of Pool: ``closeOnException`` is ``isConnectionError``,
    ``takeTimeout`` 30.0 seconds, and ``jitter`` 0.1. What neither the DSN nor a keyword sets
    is set by CONNECT_DEFAULTS (``connect_timeout`` only if PGCONNECT_TIMEOUT is not set either),
    and ``fallback_application_name`` is the name of the pool.
    """

    if not TYPE_CHECKING:
        cursor = _ofTaken("conn.cursor()")
        commit = _ofTaken("conn.commit()")
        rollback = _ofTaken("conn.rollback()")
        autocommit = _ofTaken("conn.autocommit")
        execute = _ofTaken("conn.cursor()")

    timeoutError = PoolTimeout
    busyError = PoolBusy
    deadlockError = PoolDeadlock
    closedError = PoolClosed

    def __init__(self, name: str, capacity: int, dsn: str | Callable[[], str] | None = None, *,
                 isolation_level: IsolationLevel = None, readonly: ServerState = None,
                 deferrable: ServerState = None, autocommit: bool | None = None,
                 pingTime: float | None = 30.0, pingTimeout: float = 3.0, reset: Reset = None,
                 configure: Configure = None, maxIdleTime: float | None = 300.0,
                 maxOpenTime: float | None = 300.0, maxUsageCount: int | None = 1000,
                 closeOnException: CloseOnException = isConnectionError, minOpen: int = 0,
                 jitter: float = 0.1, takeTimeout: float | None = 30.0,
                 maxWaiting: int | None = None, openRetryTime: float = 0.0,
                 leakTime: float | None = None, leakTrace: bool = False,
                 raiseDeadlock: bool = False, histograms: bool = False,
                 clock: Callable[[], float] = time.monotonic, **connectOptions: Any) -> None:
        def make(resourceName: str) -> Connection:
            return Connection(
                resourceName, isolation_level, readonly, deferrable, autocommit,
                partial(buildDsn, name, dsn), pingTime=pingTime, pingTimeout=pingTimeout,
                reset=reset, configure=configure, **connectOptions)

        checkOptions(connectOptions, _POOL_OPTIONS)
        super().__init__(
            name, capacity, maxIdleTime, maxOpenTime, maxUsageCount, closeOnException,
            factory=make, minOpen=minOpen, jitter=jitter, takeTimeout=takeTimeout,
            maxWaiting=maxWaiting, openRetryTime=openRetryTime, leakTime=leakTime,
            leakTrace=leakTrace, raiseDeadlock=raiseDeadlock, histograms=histograms, clock=clock)
        # What is wrong is to be told here, and not by the first take.
        make(name)
        make_dsn(buildDsn(name, None if callable(dsn) else dsn), **{
            key: value for key, value in connectOptions.items()
            if key not in FACTORIES and not callable(value)})

    if TYPE_CHECKING:
        def put(self, resource: Connection | connection) -> None: ...


_POOL_OPTIONS = [parameter for parameter in inspect.signature(ConnectionPool).parameters
                 if parameter != "connectOptions"]
