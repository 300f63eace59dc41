"""The classes of psycopg2.pool, on a ConnectionPool: a program changes its import and runs on.

``from queuepool.psycopg2pool import ThreadedConnectionPool, PoolError``, or
``from queuepool import psycopg2pool as pool``. What psycopg2 documents of its pool holds, but
``getconn`` waits for a connection instead of raising "connection pool exhausted" at once. New
programs use ``queuepool.psycopg2.ConnectionPool``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Hashable
from typing import Any, NamedTuple, SupportsInt
from weakref import ref

from queuepool import errors
from queuepool.core.fork import isNewborn, underWay
from queuepool.lock import Lock, exclusive
from queuepool.psycopg2 import Connection, ConnectionPool

import psycopg2.pool  # isort: skip  after queuepool.psycopg2, which says how to install the driver
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, connection  # isort: skip
from psycopg2.pool import PoolError  # isort: skip

__all__ = ["AbstractConnectionPool", "PoolError", "PoolTimeout", "SimpleConnectionPool",
           "ThreadedConnectionPool"]

#: The positional arguments of psycopg2.connect.
_POSITIONAL = "dsn", "connection_factory", "cursor_factory"

# Programs compare what str() makes of these.
_CLOSED = "connection pool is closed"
_EXHAUSTED = "connection pool exhausted"
_UNKEYED = "trying to put unkeyed connection"


class PoolTimeout(PoolError, errors.PoolTimeout):
    """Raised when ``getconn`` got no connection within the pool's ``timeout``."""


class _Taken(NamedTuple):
    handle: Connection
    conn: connection


class _KeyedPool(ConnectionPool):
    """A ConnectionPool that finds what is checked out by its key, or by psycopg2's connection."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._lock = Lock()  # guards what follows; never held while anything blocks
        self._taken: dict[Hashable, _Taken] = {}
        self._keys: dict[int, Hashable] = {}  # by id of the connection, which _taken keeps alive
        self._inherited: dict[int, _Taken] = {}  # by id: what a parent process has checked out
        self._hasEnded = False
        self._hasRecycler = False

    @exclusive
    def find(self, key: Hashable) -> connection | None:
        """Return what is checked out under this key. Raises PoolError after ``closeAll``."""
        self._checkEnd()
        taken = self._taken.get(key)
        return taken and taken.conn

    def takeFor(self, key: Hashable, timeout: float | None) -> connection:
        """Return what is checked out under this key; take one if there is none."""
        conn = self.find(key)
        if conn is not None:
            return conn
        try:
            handle = self.take(timeout)
        except errors.PoolClosed:
            raise PoolError(_CLOSED) from None
        except errors.PoolTimeout as error:
            conn = self.find(key)  # another thread may have got one for this key
            if conn is not None:
                return conn
            raise PoolTimeout(f"{_EXHAUSTED}: {error}") from error.__cause__
        if not self._keep(key, handle):
            self.put(handle)
            return self.takeFor(key, timeout)
        if len(self._taken) > self.minOpen and not self._hasRecycler:
            self._hasRecycler = True
            with contextlib.suppress(RuntimeError, errors.PoolError):  # no thread can be started
                self.startRecycler()
        return handle.resource  # type: ignore[return-value]

    @exclusive
    def _keep(self, key: Hashable, handle: Connection) -> bool:
        conn: Any = handle.resource
        if self._hasEnded or key in self._taken:
            return False
        self._keys[id(conn)] = key
        self._taken[key] = _Taken(handle, conn)
        return True

    def putBack(self, conn: connection | None, key: Hashable | None, close: bool) -> None:
        """Put back what is checked out; close it first if ``close``."""
        if underWay and isNewborn(self._queue):  # startAfresh, which follows, forgets it
            return
        handle, isOurs = self._remove(conn, key)
        try:
            if close and isOurs:
                handle.close()
        finally:
            self.put(handle)

    @exclusive
    def _remove(self, conn: connection | None, key: Hashable | None) -> tuple[Connection, bool]:
        """Forget what is checked out. Tell whether it is not the parent process's, which goes on
        with it: then put only forgets it, too.
        """
        self._checkEnd()
        taken = self._inherited.pop(id(conn), None)
        if taken is not None:
            return taken.handle, False
        if key is None:
            key = self._keys.get(id(conn))
        taken = self._taken.get(key)
        if taken is None:
            raise PoolError(_UNKEYED)
        if conn is not None and taken.conn is not conn:
            raise PoolError(f"{_UNKEYED}: its key belongs to another one")
        del self._taken[key]
        del self._keys[id(taken.conn)]
        return taken.handle, True

    def closeAll(self) -> None:
        """Close the pool and all connections, those that are checked out as well."""
        if underWay and isNewborn(self._queue):  # they are the parent process's
            return
        taken = self._end()
        self.close()
        for each in taken:
            with contextlib.suppress(Exception):
                each.handle.close()
            self.put(each.handle)

    @exclusive
    def _end(self) -> list[_Taken]:
        self._checkEnd()
        self._hasEnded = True
        taken = list(self._taken.values())
        self._taken.clear()
        self._keys.clear()
        return taken

    def startAfresh(self) -> None:
        """Forget, in a child process, what the parent has, but for putting it back."""
        self._lock = Lock()  # another thread of the parent may have held it
        self._inherited.update((id(each.conn), each) for each in self._taken.values())
        self._taken.clear()
        self._keys.clear()
        super().startAfresh()

    def _checkEnd(self) -> None:
        if self._hasEnded:
            raise PoolError(_CLOSED)


class AbstractConnectionPool(psycopg2.pool.AbstractConnectionPool):
    """A pool of about ``maxconn`` connections, of which ``minconn`` are opened at once.

    ``args`` and ``kwargs`` are those of ``psycopg2.connect``; keywords of ConnectionPool, such as
    ``configure``, are accepted as well. Blocks while it connects, and raises what
    ``psycopg2.connect`` raises. ``timeout`` is how many seconds ``getconn`` waits: 0 not at all,
    None for ever. Any thread may call any method at any time.

    More connections than ``minconn`` stay open after their use, because to open one is slow; each
    is closed when it was idle for 300 seconds, by a thread that starts when more than ``minconn``
    are checked out at once. ``minconn`` is only read when the pool is made; ``maxconn`` may be
    changed.

    A subclass may override any documented method, ``_getkey``, and ``_connect``: then all
    connections are opened by ``_connect``, with the arguments of psycopg2.pool only, and the
    transaction that it leaves open is committed.
    """

    minconn: int
    closed: bool

    def __init__(self, minconn: SupportsInt | str, maxconn: SupportsInt | str, *args: Any,
                 timeout: float | None = 30.0, **kwargs: Any) -> None:
        self.minconn = int(minconn)
        self.maxconn = int(maxconn)
        self.closed = False
        self._args = args
        self._kwargs = kwargs
        if type(self)._connect is AbstractConnectionPool._connect:
            options = {**dict(zip(_POSITIONAL, args)), **kwargs}
        else:
            this = ref(self)
            options = {"connection_factory": lambda dsn: this()._open()}  # type: ignore[union-attr]
        for name, number in ("minconn", self.minconn), ("maxconn", self.maxconn):
            if number < 0:
                raise ValueError(f"{name} must be an integer >= 0, not {number}")
        #: The ConnectionPool below: for its ``stats``, ``invalidate``, and so on.
        self.connectionPool = _KeyedPool(
            type(self).__name__, self._capacity, minOpen=self.minconn, takeTimeout=timeout,
            **options)
        if self.connectionPool.minOpen:
            try:
                self.connectionPool.warm()
            except BaseException:
                self.connectionPool.close()
                raise

    @property
    def maxconn(self) -> int:
        """How many connections there may be; may be set."""
        return self._maxconn

    @maxconn.setter
    def maxconn(self, maxconn: int) -> None:
        self._maxconn = maxconn
        pool = getattr(self, "connectionPool", None)
        if pool is not None:
            pool.resize(self._capacity)

    @property
    def _capacity(self) -> int:
        return max(1, self.minconn, self.maxconn)

    def getconn(self, key: Hashable | None = None) -> connection:
        """Return a free connection, or the one that is checked out under ``key``.

        Blocks until one is free, first come first served, at most ``timeout`` seconds: then
        PoolTimeout is raised, which is a PoolError. Raises PoolError when the pool is closed, and
        what ``psycopg2.connect`` raises. The caller owns the connection until ``putconn``; one that
        is never put back is missing from then on.
        """
        return self.connectionPool.takeFor(
            self._getkey() if key is None else key, self.connectionPool.takeTimeout)

    def putconn(self, conn: connection | None = None, key: Hashable | None = None,
                close: bool = False) -> None:
        """Put a connection back, and close it if ``close``. ``key`` is that of ``getconn``.

        Rolls an open transaction back. Raises PoolError, and does nothing, for what is not checked
        out of this pool or under another key, and when the pool is closed. Blocks for the round
        trips that it takes to clean the connection.
        """
        self._putconn(conn, key, close)

    def closeall(self) -> None:
        """Close all connections, those in use as well. Raises PoolError if this was done before.

        Those who wait for a connection get PoolError.
        """
        self._closeall()

    # -- what psycopg2 does not document, but subclasses and programs use

    def _getkey(self) -> Hashable:
        """Return the key of a connection that is got without one."""
        return object()

    def _connect(self, key: Hashable | None = None) -> connection:
        """Open a connection. A subclass calls it in a ``_connect`` of its own; ``key`` is None."""
        conn: connection = psycopg2.connect(*self._args, **self._kwargs)
        return conn

    def _open(self) -> connection:
        conn = self._connect()
        if conn.get_transaction_status() != TRANSACTION_STATUS_IDLE:
            conn.commit()
        return conn

    def _getconn(self, key: Hashable | None = None) -> connection:
        # Does not wait: subclasses call it with a lock that their putconn needs.
        return self.connectionPool.takeFor(self._getkey() if key is None else key, 0.0)

    def _putconn(self, conn: connection | None, key: Hashable | None = None,
                 close: bool = False) -> None:
        self.connectionPool.putBack(conn, key, close)

    def _closeall(self) -> None:
        self.closed = True
        self.connectionPool.closeAll()

    # To look at only, at their length above all: each is a new object.

    @property
    def _used(self) -> dict[Hashable, connection]:
        return {key: taken.conn for key, taken in self.connectionPool._taken.copy().items()}

    @property
    def _rused(self) -> dict[int, Hashable]:
        return self.connectionPool._keys.copy()

    @property
    def _pool(self) -> list[None]:
        stats = self.connectionPool.stats()
        return [None] * max(0, stats.open - stats.taken)


class SimpleConnectionPool(AbstractConnectionPool, psycopg2.pool.SimpleConnectionPool):
    """A pool for one thread, as psycopg2 has it. This one may be shared by threads, too."""


class ThreadedConnectionPool(AbstractConnectionPool, psycopg2.pool.ThreadedConnectionPool):
    """A pool for any number of threads."""
