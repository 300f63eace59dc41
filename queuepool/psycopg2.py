"""A pool of PostgreSQL connections, opened with psycopg2.

Only this module imports the driver; ``queuepool`` itself does not.
"""

from __future__ import annotations

import contextlib
import errno
import inspect
import os
import re
import select
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from queuepool.elsewhere import Elsewhere
from queuepool.pool import CloseOnException, Pool
from queuepool.resource import Resource

try:
    import psycopg2
except ImportError as error:
    raise ImportError(
        "queuepool.psycopg2 needs the driver psycopg2, which cannot be imported "
        f"({error}). Install it: pip install psycopg2-binary", name="psycopg2") from error
from psycopg2.extensions import (STATUS_READY, TRANSACTION_STATUS_ACTIVE, TRANSACTION_STATUS_IDLE,
                                 TRANSACTION_STATUS_UNKNOWN, connection, cursor, make_dsn,
                                 parse_dsn)

IsolationLevel = int | str | None
ServerState = bool | str | None
Reset = Literal["discard"] | Callable[[connection], object] | None

#: The arguments of psycopg2.connect that are callables themselves. Any other callable is called
#: at each open, and returns the argument.
FACTORIES = frozenset(("connection_factory", "cursor_factory"))

#: The settings of libpq for a connection that does not set them itself. They are seconds, but
#: tcp_user_timeout is milliseconds. With them a query on a cut link fails after about idle +
#: interval * count = 30 s; the defaults of an operating system take 15 minutes to two hours.
CONNECT_DEFAULTS: Mapping[str, object] = {
    "connect_timeout": 10,
    "keepalives": 1, "keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3,
    "tcp_user_timeout": 30000,
}

#: Seconds. A connection younger than this leads to the server to which a new one would lead, so
#: its errors do not invalidate the others. Without this rule a server that stays read-only would
#: have all its connections replaced at every write.
FRESH_TIME = 1.0

#: What libpq says when a connect did not reach a server that is in service. There is no SQLSTATE
#: then.
UNREACHED = re.compile("|".join((
    "Is the server running", "timeout expired", "server closed the connection unexpectedly",
    "session is read-only", "server is in hot standby mode",
    "the database system is (?:starting up|shutting down|in recovery mode|not )",
    *(re.escape(os.strerror(number)) for number in (
        errno.ECONNRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH,
        errno.ETIMEDOUT)))))

#: Where libpq quotes a part of a DSN that it cannot read: it may be a password.
_QUOTED_DSN = re.compile('(: |after )".*"', re.DOTALL)

#: Where libpq quotes a value that it cannot use, and what cannot be the name of a host: a wrong
#: DSN may have led a part of the password there.
_QUOTED_VALUE = re.compile(r'((?:invalid|malformed|missing|unexpected)[^"\n]*)"[^"\n]*"'
                           r'|"[^"\n]*@[^"\n]*"')

_POOL_OPTIONS = frozenset(inspect.signature(Pool.__init__).parameters)


def isConnectionError(error: BaseException) -> bool:
    """Tell whether an exception means that its connection cannot be used any more.

    True for psycopg2's InterfaceError, for the SQLSTATE classes 08 (connection) and 57P
    (shutdown), for an OperationalError without SQLSTATE whose connection is closed or not known,
    and for everything that is not an ``Exception``. False for all others, such as a KeyError, a
    constraint violation, a serialization failure, a deadlock or a cancelled statement. It is the
    ``closeOnException`` of a ConnectionPool.
    """
    if not isinstance(error, Exception) or isinstance(error, psycopg2.InterfaceError):
        return True
    if not isinstance(error, psycopg2.Error):
        return False
    if error.pgcode is not None:
        return error.pgcode.startswith(("08", "57P"))
    if not isinstance(error, psycopg2.OperationalError):
        return False
    return error.cursor is None or bool(error.cursor.connection.closed)


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
                 pingTimeout: float = 3.0, reset: Reset = None, **kwargs: Any) -> None:
        super().__init__(name)
        if reset is not None and reset != "discard" and not callable(reset):
            raise ValueError(f"reset must be None, 'discard' or a callable, not a value of type "
                             f"{type(reset).__name__}")
        _checkSeconds("pingTime", pingTime)
        _checkSeconds("pingTimeout", pingTimeout)
        self.isolation_level = isolation_level
        self.readonly = readonly
        self.deferrable = deferrable
        self.autocommit = autocommit
        self.pingTime = pingTime
        self.pingTimeout = pingTimeout
        self.reset = _discard if reset == "discard" else reset
        self._args = args
        self._kwargs = kwargs

    def open(self) -> None:
        """Connect.

        Blocks as long as ``psycopg2.connect``, and raises what that and ``set_session`` raise. If
        no server in service was reached, all that the pool opened before is invalidated. Sends no
        statement, unless ``autocommit`` comes with other settings.
        """
        pool = self.pool
        generation = pool and pool.generation
        startedAt = pool.clock() if pool else 0.0
        try:
            conn = self.resource = self._connect()
        except psycopg2.OperationalError as error:
            if UNREACHED.search(str(error)):
                self._invalidate(generation, startedAt)
            raise
        self.handOut(conn)
        settings: dict[str, Any] = dict(
            isolation_level=self.isolation_level, readonly=self.readonly,
            deferrable=self.deferrable, autocommit=self.autocommit)
        conn.set_session(**settings)
        self._settings = (
            conn.isolation_level, conn.readonly, conn.deferrable, conn.autocommit)
        self._cursorFactory = conn.cursor_factory
        self._poll = _poller(conn.fileno())
        super().open()

    def _connect(self) -> connection:
        args = [value() if number == 0 and callable(value) else value
                for number, value in enumerate(self._args)]
        kwargs = {key: value() if callable(value) and key not in FACTORIES else value
                  for key, value in self._kwargs.items()}
        try:
            conn: connection = psycopg2.connect(*args, **kwargs)
        except psycopg2.OperationalError as error:
            text = _QUOTED_VALUE.sub(r'\1"..."', str(error))
            if text == str(error):
                raise
            raise psycopg2.OperationalError(text) from None
        return conn

    def close(self) -> None:
        """Close the connection. Never waits for a statement that another thread runs on it."""
        conn, self.resource = self.resource, None
        try:
            if conn is not None and not conn.closed:
                if conn.get_transaction_status() == TRANSACTION_STATUS_ACTIVE:
                    with _duplicate(conn) as link:
                        _shutDown(link)
                conn.close()
        finally:
            super().close()

    def takeRepair(self) -> None:
        """Close the connection if the server has closed it.

        Usually sends nothing: an idle connection has nothing to read unless the server closed it,
        or sent something unasked. Blocks for at most ``pingTimeout`` seconds, and only if the
        connection was idle for longer than ``pingTime``, or got a notice.
        """
        conn = self.resource
        if conn is None:
            return
        if conn.closed:  # by a user who still refers to it
            self.close()
            return
        try:
            gotNotice = bool(self._poll(0)) and self._readUnasked(conn)
        except psycopg2.Error:
            self.close()
            return
        idleTime = self.idleTime
        wasIdleLong = (self.pingTime is not None and idleTime is not None
                       and idleTime > self.pingTime)
        if (wasIdleLong or gotNotice) and not self._answers(conn):
            self.close()
            if wasIdleLong:  # a notice is about the end of this one connection only
                self._invalidate(self.generation)

    def putRepair(self) -> None:
        """Roll back an open transaction, set changed settings back, and do what ``reset`` says.

        Closes the connection if it is lost or still runs a statement. Blocks for one round trip
        for each thing that has to be done; a clean connection costs none. Raises what psycopg2
        and ``reset`` raise. A statement that another thread begins meanwhile is waited for.
        """
        conn = self.resource
        if conn is None:
            return
        if not self._clean(conn):
            self.close()
        elif self.reset is not None:
            self.reset(conn)
            conn.cursor_factory = self._cursorFactory
            if not self._clean(conn):
                self.close()

    def _clean(self, conn: connection) -> bool:
        """Roll back and set settings back as needed. Return False if it cannot be used again."""
        # A closed connection's status is UNKNOWN. After a COMMIT by hand the server is idle, but
        # psycopg2 believes that it is in a transaction, and would not send the next BEGIN.
        status = conn.get_transaction_status()
        if status != TRANSACTION_STATUS_IDLE or conn.status != STATUS_READY:
            if status in (TRANSACTION_STATUS_ACTIVE, TRANSACTION_STATUS_UNKNOWN):
                return False
            conn.rollback()
            if conn.get_transaction_status() != TRANSACTION_STATUS_IDLE:
                # A BEGIN by hand under autocommit: psycopg2 does not know of it.
                _execute(conn, "ROLLBACK")
        if self._settings != (
                conn.isolation_level, conn.readonly, conn.deferrable, conn.autocommit):
            level, readonly, deferrable, autocommit = self._settings
            conn.set_session(
                isolation_level="default" if level is None else level,
                readonly="default" if readonly is None else readonly,
                deferrable="default" if deferrable is None else deferrable,
                autocommit=autocommit)
        return True

    def _readUnasked(self, conn: connection) -> bool:
        """Read what the server sent unasked. Raises psycopg2.Error if it closed the connection.

        Notifications are kept for the next user. Returns True if there was a notice: it may be
        the last message of the server, and the end of the connection may arrive after it.
        """
        notices = conn.notices
        conn.notices = []
        try:
            while self._poll(0):
                conn.poll()
            return bool(conn.notices)
        finally:
            conn.notices = notices

    def _answers(self, conn: connection) -> bool:
        """Ask the server, and tell whether it answered within pingTimeout seconds.

        libpq has no timeout for an answer, so another thread shuts the socket down.
        """
        hasTimedOut: list[bool] = []
        with _duplicate(conn) as link:
            timer = threading.Timer(
                self.pingTimeout, lambda: hasTimedOut.append(_shutDown(link)))
            timer.daemon = True
            timer.start()
            try:
                # It takes no snapshot: a deferrable transaction would have to wait for one.
                _execute(conn, "SHOW server_version")
                conn.rollback()
            except psycopg2.Error:
                return False
            finally:
                timer.cancel()
                timer.join()
        return not hasTimedOut

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

    if TYPE_CHECKING:
        def __enter__(self) -> connection: ...  # type: ignore[override]

    def noteError(self, error: BaseException) -> None:
        """Invalidate all others of the pool if the error tells of a fail-over."""
        if isinstance(error, psycopg2.Error) and self._isFailOver(error):
            self._invalidate(self.generation)

    def _isFailOver(self, error: psycopg2.Error) -> bool:
        """Tell whether an error means that a new connection may lead to another server."""
        conn = self.resource
        code = error.pgcode or ""
        if not code.startswith(("08", "57P01", "57P02", "57P03", "25006")):
            return False
        if conn is None or error.cursor is not None and error.cursor.connection is not conn:
            return False
        if (self.age or 0.0) < FRESH_TIME:
            return False
        return code != "25006" or not _isReadOnlyByChoice(conn)


def _isReadOnlyByChoice(conn: connection) -> bool:
    """Tell whether the transaction is read-only because its user asked for that."""
    if conn.closed:  # a closed connection knows nothing any more
        return False
    if conn.readonly:
        return True
    # Reported since PostgreSQL 14. Before that it is not known, so the answer is no.
    return all(conn.get_parameter_status(name) == "off"
               for name in ("in_hot_standby", "default_transaction_read_only"))


def _discard(conn: connection) -> None:
    """Run DISCARD ALL, and remove what psycopg2 remembers of the session."""
    conn.reset()
    conn.notifies.clear()
    conn.notices.clear()


def _execute(conn: connection, statement: str) -> None:
    # Not conn.cursor(): that would use the cursor class, or the connection class, of the user.
    with cursor(conn) as cur:
        cur.execute(statement)


def _poller(fileno: int) -> Callable[[int], list[Any]]:
    """Return a function that, called with 0, tells without blocking whether there is data."""
    if not hasattr(select, "poll"):
        return lambda timeout: select.select([fileno], [], [], timeout)[0]
    poller = select.poll()
    poller.register(fileno, select.POLLIN)
    return poller.poll


@contextlib.contextmanager
def _duplicate(conn: connection) -> Iterator[socket.socket]:
    """Return a second socket object on the connection; closing it leaves the connection alone."""
    with socket.socket(fileno=socket.dup(conn.fileno())) as link:
        yield link


def _shutDown(link: socket.socket) -> bool:
    """End the connection; a thread that waits for an answer on it fails at once. Return True."""
    with contextlib.suppress(OSError):
        link.shutdown(socket.SHUT_RDWR)
    return True


def _checkSeconds(what: str, value: object) -> None:
    isNumber = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is not None and not (isNumber and value >= 0):  # type: ignore[operator]
        raise ValueError(
            f"{what} must be None or a number of seconds >= 0, not "
            f"{value if isNumber else f'a value of type {type(value).__name__}'}")


class ConnectionPool(Pool[Connection]):
    """A pool of up to ``capacity`` connections, which it opens itself.

    ``dsn`` is a connection string or URI of libpq, or a callable that returns one and is called
    at each open. The keywords are those below, which Connection explains; all of Pool's but
    ``factory``; and all of ``psycopg2.connect``, which win over the DSN and may be callables too.
    Nothing is opened here. A wrong DSN or keyword raises psycopg2.ProgrammingError, any other
    wrong argument ValueError or TypeError.

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

    def __init__(self, name: str, capacity: int, dsn: str | Callable[[], str] | None = None, *,
                 isolation_level: IsolationLevel = None, readonly: ServerState = None,
                 deferrable: ServerState = None, autocommit: bool | None = None,
                 pingTime: float | None = 30.0, pingTimeout: float = 3.0, reset: Reset = None,
                 closeOnException: CloseOnException = isConnectionError,
                 takeTimeout: float | None = 30.0, jitter: float = 0.1, **others: Any) -> None:
        poolOptions = {key: others.pop(key) for key in _POOL_OPTIONS & others.keys()}

        def make(resourceName: str) -> Connection:
            return Connection(
                resourceName, isolation_level, readonly, deferrable, autocommit,
                partial(_buildDsn, name, dsn), pingTime=pingTime, pingTimeout=pingTimeout,
                reset=reset, **others)

        super().__init__(
            name, capacity, closeOnException=closeOnException, takeTimeout=takeTimeout,
            jitter=jitter, **poolOptions, factory=make)
        # What is wrong is to be told here, and not by the first take.
        make(name)
        make_dsn(_buildDsn(name, None if callable(dsn) else dsn), **{
            key: value for key, value in others.items()
            if key not in FACTORIES and not callable(value)})


def _buildDsn(name: str, dsn: str | Callable[[], str] | None) -> str:
    """Return the DSN together with the defaults for what it does not set."""
    defaults = {"fallback_application_name": name, **CONNECT_DEFAULTS}
    if "PGCONNECT_TIMEOUT" in os.environ:
        del defaults["connect_timeout"]
    try:
        given = parse_dsn((dsn() if callable(dsn) else dsn) or "")
    except psycopg2.ProgrammingError as error:
        raise psycopg2.ProgrammingError(_QUOTED_DSN.sub(r'\1"..."', str(error))) from None
    return str(make_dsn(**{**defaults, **given}))
