"""A pool of PostgreSQL connections, opened with psycopg (version 3).

Only this module imports the driver; ``queuepool`` itself does not.
"""

from __future__ import annotations

import contextlib
import inspect
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from queuepool import errors, postgres
from queuepool.dbapi import chain, restoreSettings, shutDown
from queuepool.elsewhere import Elsewhere
from queuepool.pool import CloseOnException, Pool
from queuepool.postgres import ACTIVE, Conninfo, ofTaken

try:
    import psycopg
except ImportError as error:
    raise ImportError(
        "queuepool.psycopg needs the driver psycopg (version 3), which cannot be imported "
        f"({error}). Install it: pip install 'psycopg[binary]'", name="psycopg") from error
from psycopg import IsolationLevel
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import tuple_row

Configure = Callable[[psycopg.Connection[Any]], object] | None
Reset = Literal["discard"] | Callable[[psycopg.Connection[Any]], object] | None

CONNINFO = Conninfo(
    "psycopg", conninfo_to_dict, make_conninfo, psycopg.ProgrammingError,
    frozenset(("row_factory", "cursor_factory", "context")),
    frozenset(("conninfo", "autocommit", "prepare_threshold")))

#: Seconds that a statement of another thread may take to fail after its connection was cut off.
END_TIME = 0.1

#: The attributes of psycopg's connection that a put sets back.
SETTINGS = ("autocommit", "isolation_level", "read_only", "deferrable", "row_factory",
            "cursor_factory", "server_cursor_factory", "prepare_threshold", "prepared_max")


class PoolTimeout(errors.PoolTimeout, psycopg.OperationalError):
    """Raised when ``take`` got no open connection within its time."""


class PoolBusy(errors.PoolBusy, PoolTimeout):
    """Raised when ``take`` would have to wait, but ``maxWaiting`` threads wait already."""


class PoolDeadlock(errors.PoolDeadlock, PoolTimeout):
    """Raised, with ``raiseDeadlock``, when all holders wait themselves, for ever."""


class PoolClosed(errors.PoolClosed, psycopg.OperationalError):
    """Raised when the pool was closed: nothing can be taken from it any more."""


def isConnectionError(error: BaseException) -> bool:
    """Tell whether an exception proves that its connection cannot be used any more.

    True for an exception of psycopg whose severity is FATAL or PANIC. It is the
    ``closeOnException`` of a ConnectionPool; whatever it says, a put closes a connection that is
    lost, busy, or cannot be rolled back.
    """
    return isinstance(error, psycopg.Error) and (
        error.diag.severity_nonlocalized in ("FATAL", "PANIC"))


class _Session(postgres.Session):
    """A session of psycopg's."""

    _error = psycopg.Error
    block = "'with conn.transaction()', or in a two-phase transaction"

    def _begin(self, settings: Mapping[str, Any]) -> None:
        raw = self._raw
        pgconn = raw.pgconn
        self._ear = _Ear(pgconn.notify_handler)
        self.status = partial(_statusOf, raw.lock, pgconn, self._ear)
        self.reported = raw.info.parameter_status
        self.rights = partial(pgconn.parameter_status, b"is_superuser")
        for name, value in settings.items():
            setattr(raw, name, value)

    def _commit(self) -> None:
        self._raw.commit()

    def _remember(self) -> None:
        raw = self._raw
        self._ear.channels = {each.encode(raw.info.encoding) for each in self._channels}
        raw.pgconn.notify_handler = self._ear
        self._settings = {name: getattr(raw, name) for name in SETTINGS}
        self._encoding = raw.pgconn.parameter_status(b"client_encoding")

    def _run(self, statement: str) -> list[Any]:
        raw = self._raw
        wasAutocommit = raw.autocommit
        raw.autocommit = True  # which sends nothing
        try:
            # Not raw.cursor(): that would use the cursor class of the user.
            with psycopg.Cursor(raw, row_factory=tuple_row) as cur:
                cur.execute(statement.encode(), prepare=False)
                return [row[0] for row in cur] if cur.description else []
        finally:
            if not raw.closed:
                raw.autocommit = wasAutocommit

    def restore(self, isBegun: bool) -> bool:
        raw = self._raw
        try:
            if isBegun:
                with self._within():
                    raw.rollback()
            else:
                raw.rollback()  # which sends nothing, and tells what the status does not
        except psycopg.ProgrammingError:
            return False
        restoreSettings(raw, self._settings)
        if raw.pgconn.parameter_status(b"client_encoding") != self._encoding:
            with self._within():
                self._run(f"SET client_encoding TO '{(self._encoding or b'').decode()}'")
        return True

    def discard(self) -> None:
        # psycopg forgets what it has prepared at a ROLLBACK. At a DISCARD ALL it does so only if
        # it has not counted that statement before; one of two results it does not count.
        self._run("BEGIN; ROLLBACK")
        self._run("DISCARD ALL")

    def readUnasked(self, poll: Callable[[int], Any]) -> bool:
        pgconn = self._raw.pgconn
        notices: list[Any] = []
        handler, pgconn.notice_handler = pgconn.notice_handler, notices.append
        try:
            while poll(0):
                pgconn.consume_input()
            pgconn.is_busy()  # which looks at what was read
        finally:
            pgconn.notice_handler = handler
        while (each := pgconn.notifies()) is not None:
            self._ear.hearIdle(each)
        return bool(notices)

    def hearsOthers(self) -> bool:
        return self._ear.hasHeardOthers

    def _forgetOthers(self) -> None:
        self._ear.hasHeardOthers = False

    def ask(self) -> None:
        pgconn, ear = self._raw.pgconn, self._ear
        pgconn.notify_handler = ear.hearIdle
        try:
            super().ask()
        finally:
            pgconn.notify_handler = ear


class _Ear:
    """Gets the notifications of a session, and tells which are not for ``configure``.

    psycopg keeps them for the next who asks, and has no public way to forget them, so that one
    that its user has heard makes the connection unfit.
    """

    def __init__(self, handler: Any) -> None:
        #: psycopg's own. After a DISCARD ALL there is an ear already.
        self._handler: Any = handler._handler if isinstance(handler, _Ear) else handler
        #: Those of ``configure``.
        self.channels: set[bytes] = set()
        self.hasHeardOthers = False

    def __call__(self, notification: Any) -> None:
        if notification.relname not in self.channels:
            self.hasHeardOthers = True
        if self._handler is not None:
            self._handler(notification)

    def hearIdle(self, notification: Any) -> None:
        """Pass on what ``configure`` listens to, and nothing else: nobody has asked for it."""
        if notification.relname in self.channels:
            self(notification)
        else:
            self.hasHeardOthers = True


def _statusOf(lock: Any, pgconn: Any, ear: _Ear) -> int:
    """Return libpq's number.

    A generator or thread that has psycopg's lock is at work, as is a pipeline.
    """
    if lock.locked() or pgconn.pipeline_status or ear.hasHeardOthers:
        return ACTIVE
    return int(pgconn.transaction_status)


class Connection(postgres.Connection):
    """A connection; ``with pool.take() as conn`` hands out psycopg's own connection.

    ``take`` without ``with`` returns this object; its ``resource`` is psycopg's connection.

    ``isolation_level``, ``read_only`` and ``deferrable`` are set on each new connection. All other
    arguments go to ``psycopg.connect``, such as ``autocommit`` and ``row_factory``. One that is a
    callable is called at each open and returns the argument, such as a password that changes; only
    ``row_factory``, ``cursor_factory`` and ``context`` are passed on as they are.

    A put rolls back an open transaction, and sets back these settings, the factories,
    ``prepare_threshold``, ``prepared_max`` and the client encoding. If the server has reported
    another superuser status, as after SET ROLE or SET SESSION AUTHORIZATION, the whole session is
    discarded, and set up as after open. A connection is closed that is lost, still runs a
    statement or a COPY, is in pipeline mode or a two-phase transaction, or on which a block or
    ``conn.notifies()`` has not ended; and one that got a notification to which ``configure`` does
    not listen. All that blocks for one round trip for each thing that has to be done, for at most
    ``pingTimeout`` seconds; a clean connection costs none. What is registered at
    ``conn.adapters``, and handlers of notices and notifications, stay for the next
    user: psycopg has no public way to find them. Register them in ``configure``. A connection on
    which something was begun after its put is closed by the next take.

    Use ``with conn.transaction():`` for a transaction. ``with conn:`` closes the connection, so
    the pool has to open another one.

    - ``pingTime``: a connection that was idle for more than this many seconds is handed out only
      after the server has answered on it. None: the server is never asked.
    - ``pingTimeout``: how many seconds an answer to what the pool asks may take. If it does not
      come to a ping, the connection is closed and all others of the pool are invalidated, so that
      a cut network costs this time once and not once for each connection.
    - ``reset``: what is done at a put with a connection that is clean again: nothing (None),
      DISCARD ALL (``"discard"``), or a callable that gets psycopg's connection. If it raises, the
      connection is closed.
    - ``configure``: a callable that gets psycopg's connection once, after it was opened, and again
      after a DISCARD ALL of the pool's. It may run SQL, and need not commit. If it raises, the
      connection is closed, and the taker gets the exception.
    """

    resource: psycopg.Connection[Any] | None

    _driver = psycopg
    _conninfo = CONNINFO
    _sessionType = _Session
    _settingNames = ("isolation_level", "read_only", "deferrable")

    def __init__(self, name: str, conninfo: str | Callable[[], str] = "", *,
                 isolation_level: IsolationLevel | int | None = None,
                 read_only: bool | None = None, deferrable: bool | None = None,
                 pingTime: float | None = 30.0, pingTimeout: float = 3.0, reset: Reset = None,
                 configure: Configure = None, **kwargs: Any) -> None:
        super().__init__(name, psycopg.connect, conninfo, reset=reset, configure=configure,
                         pingTime=pingTime, pingTimeout=pingTimeout, **kwargs)
        CONNINFO.check(kwargs, ("isolation_level", "read_only", "deferrable", "pingTime",
                                "pingTimeout", "reset", "configure", *CONNINFO.own))
        self.pingTime = pingTime
        self.isolation_level = None if isolation_level is None else IsolationLevel(isolation_level)
        self.read_only = read_only
        self.deferrable = deferrable

    def _end(self, raw: psycopg.Connection[Any]) -> None:
        isFree = raw.lock.acquire(blocking=False)
        if not isFree:
            # close() would free what a statement of another thread is using. So that one is ended
            # first. A stream that was left half read keeps the lock, but no thread runs it.
            with contextlib.suppress(psycopg.Error):  # it ended just now
                shutDown(raw.fileno())
            isFree = raw.lock.acquire(timeout=END_TIME)
        try:
            raw.close()
        finally:
            if isFree:
                raw.lock.release()

    def _isReadOnlyByChoice(self, raw: psycopg.Connection[Any]) -> bool:
        return not raw.closed and self._role.isReadOnlyByChoice(
            raw.read_only, raw.info.get_parameters().get("target_session_attrs"))

    if TYPE_CHECKING:
        def __enter__(self) -> psycopg.Connection[Any]: ...  # type: ignore[override]

    def noteError(self, error: BaseException) -> None:
        """Invalidate all others of the pool if the error, or one behind it, tells of a fail-over.

        That is 25006: the server has become read-only, and a new connection may lead to another.
        Connections that a server has ended are noticed one by one, without a round trip.
        """
        raw = self._raw
        if raw is not None:
            self._noteStates(raw, [each.sqlstate for each in chain(error)
                                   if isinstance(each, psycopg.Error)])


class ConnectionPool(Pool[Connection]):
    """A pool of up to ``capacity`` connections, which it opens itself.

    ``conninfo`` is a connection string or URI of libpq, or a callable that returns one and is
    called at each open. The keywords are Connection's, Pool's without ``factory``, and those of
    ``psycopg.connect``, which win over the conninfo and may be callables too. Nothing is opened
    here. A wrong conninfo raises psycopg.ProgrammingError, an unknown keyword TypeError, any other
    wrong argument ValueError or TypeError. PoolTimeout, PoolBusy and PoolClosed of this module are
    what is raised: they are also psycopg.OperationalError.

    These defaults are not those of Pool: ``closeOnException`` is ``isConnectionError``,
    ``takeTimeout`` 30.0 seconds, and ``jitter`` 0.1. What neither the conninfo nor a keyword sets
    is set by ``queuepool.postgres.CONNECT_DEFAULTS`` (``connect_timeout`` only if
    PGCONNECT_TIMEOUT is not set either), and ``fallback_application_name`` is the name of the
    pool.
    """

    if not TYPE_CHECKING:
        cursor = ofTaken("conn.cursor()")
        commit = ofTaken("conn.commit()")
        rollback = ofTaken("conn.rollback()")
        execute = ofTaken("conn.execute(...)")
        connection = Elsewhere("write 'with pool.take() as conn'")

    timeoutError = PoolTimeout
    busyError = PoolBusy
    deadlockError = PoolDeadlock
    closedError = PoolClosed

    def __init__(self, name: str, capacity: int, conninfo: str | Callable[[], str] | None = None,
                 *, isolation_level: IsolationLevel | int | None = None,
                 read_only: bool | None = None, deferrable: bool | None = None,
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
                resourceName, partial(CONNINFO.build, name, conninfo),
                isolation_level=isolation_level, read_only=read_only, deferrable=deferrable,
                pingTime=pingTime, pingTimeout=pingTimeout, reset=reset, configure=configure,
                **connectOptions)

        CONNINFO.check(connectOptions, (*_POOL_OPTIONS, *CONNINFO.own))
        super().__init__(
            name, capacity, maxIdleTime, maxOpenTime, maxUsageCount, closeOnException,
            factory=make, minOpen=minOpen, jitter=jitter, takeTimeout=takeTimeout,
            maxWaiting=maxWaiting, openRetryTime=openRetryTime, leakTime=leakTime,
            leakTrace=leakTrace, raiseDeadlock=raiseDeadlock, histograms=histograms, clock=clock)
        # What is wrong is to be told here, and not by the first take.
        make(name)
        CONNINFO.tryOut(name, conninfo, connectOptions)

    if TYPE_CHECKING:
        def put(self, resource: Connection | psycopg.Connection[Any]) -> None: ...


_POOL_OPTIONS = [parameter for parameter in inspect.signature(ConnectionPool).parameters
                 if parameter != "connectOptions"]
