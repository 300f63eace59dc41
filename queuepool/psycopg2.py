"""PostgreSQL connections of psycopg2, and a pool of them.

The driver is imported here and nowhere else in the package.
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
from typing import TYPE_CHECKING, Any, Literal, Union

from queuepool.pool import CloseOnException, Pool
from queuepool.resource import Resource

try:
    import psycopg2
except ImportError as error:
    raise ImportError(
        "queuepool.psycopg2 needs the driver psycopg2, which cannot be imported "
        f"({error}): pip install psycopg2-binary", name="psycopg2") from error
from psycopg2.extensions import (STATUS_READY, TRANSACTION_STATUS_ACTIVE, TRANSACTION_STATUS_IDLE,
                                 TRANSACTION_STATUS_UNKNOWN, connection, cursor, make_dsn,
                                 parse_dsn)

IsolationLevel = Union[int, str, None]
ServerState = Union[bool, str, None]
Reset = Union[Literal["discard"], Callable[[connection], object], None]

#: What psycopg2.connect takes as a callable; any other callable gives its argument's value.
FACTORIES = frozenset(("connection_factory", "cursor_factory"))

#: For connections that do not say otherwise. Seconds, but tcp_user_timeout: milliseconds. A
#: query on a cut link ends after about idle + interval * count, that is 30 s, and not after the
#: quarter of an hour to two hours of an operating system's own defaults.
CONNECT_DEFAULTS: Mapping[str, object] = {
    "connect_timeout": 10,
    "keepalives": 1, "keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3,
    "tcp_user_timeout": 30000,
}

#: A connection younger than this (seconds) leads where a new one would, so that what befalls it
#: is no reason to replace all others: without this a server that is read-only for good would
#: have its connections replaced at every write.
FRESH_TIME = 1.0

#: How libpq says that a connect did not reach a server in service. It gives no SQLSTATE then.
UNREACHED = re.compile("|".join((
    "Is the server running", "timeout expired", "server closed the connection unexpectedly",
    "session is read-only", "server is in hot standby mode",
    "the database system is (?:starting up|shutting down|in recovery mode|not )",
    *(re.escape(os.strerror(number)) for number in (
        errno.ECONNRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH,
        errno.ETIMEDOUT)))))

_POOL_OPTIONS = frozenset(inspect.signature(Pool.__init__).parameters)


def isConnectionError(error: BaseException) -> bool:
    """Tell whether an exception means that its connection is not fit for use any more.

    So do psycopg2's InterfaceError, the SQLSTATE classes 08 (connection) and 57P (shutdown), an
    OperationalError without SQLSTATE unless its connection still works, and whatever is not an
    ``Exception``. A KeyError, a constraint violation, a serialization failure, a deadlock, a
    cancelled statement mean nothing of that kind. ConnectionPool's ``closeOnException``.
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


class Connection(Resource):
    """Be one connection; ``with pool.take() as conn`` hands out psycopg2's own connection.

    ``isolation_level``, ``readonly``, ``deferrable`` and ``autocommit`` are those of psycopg2's
    ``set_session``; what a user changed of them is set back when the connection is put back.
    All else goes to ``psycopg2.connect``; an argument that is a callable is called at each open
    and gives its value, as for passwords that change (not so psycopg2's own two factories).

    - ``pingTime``: a connection that lay idle for longer (seconds) is asked for a sign of life
      before it is handed out; None for never.
    - ``pingTimeout``: how long (seconds) it has to answer. The first that does not invalidates
      all others of the pool, so that a cut network costs one such time.
    - ``reset``: what is done with a clean connection that is put back: None for nothing,
      ``"discard"`` for DISCARD ALL, or a callable that gets the psycopg2 connection. If it
      raises, the connection is closed.
    """

    resource: connection | None

    def __init__(self, name: str, isolation_level: IsolationLevel = None,
                 readonly: ServerState = None, deferrable: ServerState = None,
                 autocommit: bool | None = None, *args: Any, pingTime: float | None = 30.0,
                 pingTimeout: float = 3.0, reset: Reset = None, **kwargs: Any) -> None:
        super().__init__(name)
        if reset is not None and reset != "discard" and not callable(reset):
            raise ValueError(f"reset is None, 'discard' or a callable, not {reset!r}")
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
        """Connect. Sends nothing more to the server, unless autocommit comes with other settings.

        Blocks as long as ``psycopg2.connect`` does and raises what it raises. When no server in
        service was reached, what the pool opened before is invalidated.
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
        conn: connection = psycopg2.connect(*args, **kwargs)
        return conn

    def close(self) -> None:
        """Close the connection, without waiting for a statement that another thread runs on it."""
        conn, self.resource = self.resource, None
        try:
            if conn is not None and not conn.closed:
                if conn.get_transaction_status() == TRANSACTION_STATUS_ACTIVE:
                    with _line(conn) as line:
                        _cut(line)
                conn.close()
        finally:
            super().close()

    def takeRepair(self) -> None:
        """Close the connection if the server has gone; costs no round trip.

        Nothing is to be read from an idle connection unless the server closed it or sent
        something unasked. Only what lay idle for longer than pingTime is asked, which blocks for
        up to pingTimeout seconds.
        """
        conn = self.resource
        if conn is None:
            return
        if conn.closed:  # by somebody who did not let go of it at the put
            self.close()
            return
        try:
            isDoubtful = bool(self._poll(0)) and self._readUnasked(conn)
        except psycopg2.Error:
            self.close()
            return
        idleTime = self.idleTime
        isRested = (self.pingTime is not None and idleTime is not None
                    and idleTime > self.pingTime)
        if (isRested or isDoubtful) and not self._answers(conn):
            self.close()
            if isRested:  # else it was its own end that was told
                self._invalidate(self.generation)

    def putRepair(self) -> None:
        """Roll back what is under way, set changed settings back, do what ``reset`` says.

        Closes the connection if it is lost or still busy. A clean one costs no round trip. What
        another thread still begins to run on it meanwhile, psycopg2 has the rollback wait for.
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
        """Roll back and set settings back as needed; tell whether the connection is fit."""
        # A closed connection's status is UNKNOWN. After a COMMIT by hand the server is idle
        # and psycopg2 is not: it would not send the next user's BEGIN.
        status = conn.get_transaction_status()
        if status != TRANSACTION_STATUS_IDLE or conn.status != STATUS_READY:
            if status in (TRANSACTION_STATUS_ACTIVE, TRANSACTION_STATUS_UNKNOWN):
                return False
            conn.rollback()
            if conn.get_transaction_status() != TRANSACTION_STATUS_IDLE:
                # A BEGIN by hand under autocommit, of which psycopg2 knows nothing.
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
        """Read what the server sent unasked; raise psycopg2.Error if it has gone.

        Notifications stay for the next user. Returns True if there was a notice: it may be the
        server's last word, with the end of the connection still on its way.
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
        """Ask the server for a sign of life; tell whether one came within pingTimeout seconds.

        Nothing in libpq ends the wait for an answer, so another thread cuts the connection off.
        """
        cuts: list[bool] = []
        with _line(conn) as line:
            timer = threading.Timer(self.pingTimeout, lambda: cuts.append(_cut(line)))
            timer.daemon = True
            timer.start()
            try:
                # Needs no snapshot, for which a deferrable transaction would have to wait.
                _execute(conn, "SHOW server_version")
                conn.rollback()
            except psycopg2.Error:
                return False
            finally:
                timer.cancel()
                timer.join()
        return not cuts

    def _invalidate(self, generation: object, newerThan: float | None = None) -> None:
        """Invalidate what the pool opened in this generation, if nobody has done so yet.

        With newerThan only if it opened something in it, and nothing since that instant.
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
        def __enter__(self) -> connection:  # type: ignore[override]
            """Hand out the psycopg2 connection itself."""
            ...

    def noteError(self, error: BaseException) -> None:
        """After a fail-over have all others closed, too."""
        if isinstance(error, psycopg2.Error) and self._isFailOver(error):
            self._invalidate(self.generation)

    def _isFailOver(self, error: psycopg2.Error) -> bool:
        """Tell whether an error means that new connections may lead to another server."""
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
    """Tell whether the transaction is read-only because its user wanted it so."""
    if conn.closed:
        return False  # its user closed it: nothing can be asked any more
    if conn.readonly:
        return True
    # PostgreSQL 14 and later tell; of those before, nothing is known.
    return all(conn.get_parameter_status(name) == "off"
               for name in ("in_hot_standby", "default_transaction_read_only"))


def _discard(conn: connection) -> None:
    """Run DISCARD ALL, and have psycopg2 forget what it knew of the session."""
    conn.reset()
    conn.notifies.clear()
    conn.notices.clear()


def _execute(conn: connection, statement: str) -> None:
    # Not conn.cursor(): the user's cursor and connection factories are not meant for this.
    with cursor(conn) as cur:
        cur.execute(statement)


def _poller(fileno: int) -> Callable[[int], list[Any]]:
    """Return what tells, given 0, whether something is there to be read."""
    if not hasattr(select, "poll"):
        return lambda timeout: select.select([fileno], [], [], timeout)[0]
    poller = select.poll()
    poller.register(fileno, select.POLLIN)
    return poller.poll


@contextlib.contextmanager
def _line(conn: connection) -> Iterator[socket.socket]:
    """Give a second handle on the connection's socket, which closes without harm to it."""
    with socket.socket(fileno=socket.dup(conn.fileno())) as line:
        yield line


def _cut(line: socket.socket) -> bool:
    """End the connection under whoever waits on it, in whatever thread."""
    with contextlib.suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)
    return True


class ConnectionPool(Pool[Connection]):
    """Keep up to ``capacity`` connections: a Pool that is filled with them.

    ``dsn`` is libpq's connection string or URI, or a callable that returns one at each open.
    Keywords are, in this order, those below; Pool's own, ``maxIdleTime`` to ``clock`` (all but
    ``factory``); and for ``psycopg2.connect``, which override the DSN and may be callables as
    well. Wrong ones raise psycopg2.ProgrammingError here and now.

    Other defaults than Pool's: ``closeOnException`` closes for what ``isConnectionError`` says,
    ``takeTimeout`` is 30 s, ``jitter`` 10 %. Connections get CONNECT_DEFAULTS and the pool's
    name as ``fallback_application_name`` where neither DSN nor keyword says otherwise (in the
    case of ``connect_timeout``, PGCONNECT_TIMEOUT too). For the rest see Connection.
    """

    def __init__(self, name: str, capacity: int, dsn: str | Callable[[], str] | None = None, *,
                 isolation_level: IsolationLevel = None, readonly: ServerState = None,
                 deferrable: ServerState = None, autocommit: bool | None = None,
                 pingTime: float | None = 30.0, pingTimeout: float = 3.0, reset: Reset = None,
                 closeOnException: CloseOnException = isConnectionError,
                 takeTimeout: float | None = 30.0, jitter: float = 0.1, **others: Any) -> None:
        poolOptions = {key: others.pop(key) for key in _POOL_OPTIONS & others.keys()}
        # Has libpq check all that is known already.
        make_dsn(_buildDsn(name, None if callable(dsn) else dsn), **{
            key: value for key, value in others.items()
            if key not in FACTORIES and not callable(value)})
        super().__init__(
            name, capacity, closeOnException=closeOnException, takeTimeout=takeTimeout,
            jitter=jitter, **poolOptions, factory=lambda slotName: Connection(
                slotName, isolation_level, readonly, deferrable, autocommit,
                partial(_buildDsn, name, dsn), pingTime=pingTime, pingTimeout=pingTimeout,
                reset=reset, **others))


def _buildDsn(name: str, dsn: str | Callable[[], str] | None) -> str:
    """Return the DSN with the defaults for what it leaves out."""
    defaults = {"fallback_application_name": name, **CONNECT_DEFAULTS}
    if "PGCONNECT_TIMEOUT" in os.environ:
        del defaults["connect_timeout"]
    given = parse_dsn((dsn() if callable(dsn) else dsn) or "")
    return str(make_dsn(**{**defaults, **given}))
