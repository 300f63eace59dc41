"""A pool of PostgreSQL connections, opened with psycopg2.

Only this module and those that it is made of (``queuepool.libpq``, ``queuepool.session``) import
the driver; ``queuepool`` itself does not.
"""

from __future__ import annotations

import contextlib
import inspect
import time
from collections.abc import Callable
from functools import partial
from sys import getrefcount
from typing import TYPE_CHECKING, Any, Literal

from queuepool import errors, postgres
from queuepool.dbapi import chain, shutDown
from queuepool.elsewhere import Elsewhere
from queuepool.pool import CloseOnException, Pool
from queuepool.watchdog import timeLimit

try:
    import psycopg2
except ImportError as error:
    raise ImportError(
        "queuepool.psycopg2 needs the driver psycopg2, which cannot be imported "
        f"({error}). Install it: pip install psycopg2-binary", name="psycopg2") from error
from psycopg2.extensions import connection, get_wait_callback

from queuepool.libpq import CONNINFO, buildDsn, checkOptions
from queuepool.postgres import ACTIVE, ofTaken
from queuepool.session import Session

IsolationLevel = int | str | None
ServerState = bool | str | None
Configure = Callable[[connection], object] | None
Reset = Literal["discard"] | Callable[[connection], object] | None

#: The ``closed`` of a connection that was not closed by this program.
LOST = 2


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


class Connection(postgres.Connection):
    """A connection; ``with pool.take() as conn`` hands out psycopg2's own connection.

    ``take`` without ``with`` returns this object; its ``resource`` is psycopg2's connection.

    ``isolation_level``, ``readonly``, ``deferrable`` and ``autocommit`` are those of psycopg2's
    ``set_session``; a put sets back what the user changed of them. All other arguments go to
    ``psycopg2.connect``. One that is a callable is called at each open and returns the argument,
    such as a password that changes; only ``connection_factory`` and ``cursor_factory`` are passed
    on as they are.

    A put rolls back an open transaction, and sets back the settings of psycopg2, the cursor
    factory, typecasters, encoding, notices and notifications. If the server has reported another
    superuser status, as after SET ROLE or SET SESSION AUTHORIZATION, the whole session is
    discarded, and set up as after open. A connection is closed that is lost, that still runs a
    statement, or that somebody is still in a block of (``with conn``). All that blocks for one
    round trip for each thing that has to be done; a clean connection costs none. No answer to
    what the pool asks is waited for longer than ``pingTimeout``: then the connection is closed. A
    statement that another thread begins meanwhile is waited for. It is the next take that finds
    what was begun after the put, and a block in which nothing was begun, but not one of a
    ``connection_factory`` with a ``rollback`` of its own; then it opens another connection.

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

    _driver = psycopg2
    _conninfo = CONNINFO
    _sessionType = Session
    _session: Session
    _settingNames = ("isolation_level", "readonly", "deferrable", "autocommit")

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
        super().__init__(name, psycopg2.connect, *args, reset=reset, configure=configure,
                         pingTime=pingTime, pingTimeout=pingTimeout, **kwargs)
        checkOptions(kwargs, ("pingTime", "pingTimeout", "reset", "configure"))
        self.pingTime = pingTime
        self.isolation_level = isolation_level
        self.readonly = readonly
        self.deferrable = deferrable
        self.autocommit = autocommit

    def open(self) -> None:
        """Connect, and call ``configure``.

        Blocks as long as ``psycopg2.connect``, which gets as its connect_timeout what the take has
        left, in whole seconds and at least 2. Raises what that, ``set_session`` and ``configure``
        raise. If no server in service was reached, all that the pool opened before is invalidated.
        Sends no statement of its own, unless ``autocommit`` comes with other settings; after
        ``configure`` it asks what that listens to.
        """
        super().open()
        raw = self._raw
        # Who is in a block refers to the connection, or to what an agent has wrapped around it.
        self._ownReferences = getrefcount(raw) if raw is self.resource else 0
        # 0: what refers to it for the moment only was counted as well, so the next take looks.
        self._references = 0 if self._session.isOfDriver else None

    def _isInUse(self, references: int) -> bool:
        """Do what ``dbapi.Connection._isInUse`` does; somebody may be in a block of ``with conn``.

        To look for that gives up the GIL, so that all who wait for it go first. It is not done
        while nobody refers to the connection, and nothing was raised in its last use: a block may
        have been entered and, by a signal, never left.
        """
        session = self._session
        if not session.enterBlock():
            self._tellOfBlock()
            return True
        if not session.isReady:  # something was begun after the put
            return True
        session.leaveBlock()
        self._references = self._ownReferences = min(self._ownReferences, references)
        return False

    def _watchConnect(self, args: list[Any], kwargs: dict[str, Any], seconds: int) -> None:
        if get_wait_callback() is not None:
            _watch(args, kwargs, seconds)

    def _unwrap(self, conn: Any) -> Any:
        return _unwrap(conn)

    def close(self) -> None:
        """Close the connection. Never waits for a statement that another thread runs on it.

        That one fails then, and its connection is closed by psycopg2, in the thread it runs in.
        """
        super().close()

    def _end(self, raw: connection) -> None:
        if not raw.closed:
            # close() would wait for the statement, or free what a COPY is using.
            if raw.get_transaction_status() == ACTIVE:
                with contextlib.suppress(psycopg2.Error):  # it ended just now
                    shutDown(raw.fileno())
            else:
                raw.close()

    def _isReadOnlyByChoice(self, raw: connection) -> bool:
        # A closed connection knows nothing any more.
        return not raw.closed and self._role.isReadOnlyByChoice(
            raw.readonly, raw.info.dsn_parameters.get("target_session_attrs"))

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
        ours = [each for each in chain(error) if isinstance(each, psycopg2.Error)
                and (each.cursor is None or each.cursor.connection is raw)]
        self._noteStates(raw, [each.pgcode for each in ours])
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
            shutDown(conn.fileno())
        return seconds

    def connect(dsn: str, **options: Any) -> Any:
        conn = factory.__new__(factory, dsn, **options)
        with timeLimit(seconds, partial(end, conn), isVital=False) as limit:
            try:
                factory.__init__(conn, dsn, **options)  # type: ignore[misc]
            except psycopg2.Error:
                if limit.isOver:
                    raise psycopg2.OperationalError(
                        f"timeout expired: no connection within {seconds} s") from None
                raise
        return conn

    if len(args) > 1:
        args[1] = connect
    else:
        kwargs["connection_factory"] = connect


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
        cursor = ofTaken("conn.cursor()")
        commit = ofTaken("conn.commit()")
        rollback = ofTaken("conn.rollback()")
        autocommit = ofTaken("conn.autocommit")
        execute = ofTaken("conn.cursor()")

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
        CONNINFO.tryOut(name, dsn, connectOptions)

    if TYPE_CHECKING:
        def put(self, resource: Connection | connection) -> None: ...


_POOL_OPTIONS = [parameter for parameter in inspect.signature(ConnectionPool).parameters
                 if parameter != "connectOptions"]
