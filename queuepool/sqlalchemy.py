"""A pool for SQLAlchemy: ``create_engine(url, poolclass=FairPool, pool_size=10)``.

A connection record of SQLAlchemy is the resource here, so all that SQLAlchemy does with records
(events, ``invalidate``, ``detach``, ``pool_recycle``, ``pool_pre_ping``) stays its own. The pool
below it decides who gets which record, and when.

*A checkout.* ``_do_get`` takes a record, which connects if it is closed. SQLAlchemy then asks the
record for its connection, which replaces it if a rule of SQLAlchemy's says so, and runs its events.

*A checkin.* SQLAlchemy resets the connection, runs its events, and calls ``_do_return_conn``. What
was done to the connection meanwhile is counted there. A connection that its user dropped comes
back in the same way, out of a weak reference's callback, which may run between any two lines, also
of a take. So nothing is locked here, and a put takes no lock that a take could hold.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any, NoReturn

from queuepool import errors
from queuepool.core.fork import isNewborn, underWay
from queuepool.dbapi import leak, poller
from queuepool.pool import Pool
from queuepool.resource import Resource

try:
    from sqlalchemy import exc
except ImportError as error:
    raise ImportError(
        f"queuepool.sqlalchemy needs SQLAlchemy, which cannot be imported ({error}). Install it: "
        f"pip install sqlalchemy", name="sqlalchemy") from error
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.pool import Pool as SqlalchemyPool
from sqlalchemy.pool.base import _ConnectionRecord
from sqlalchemy.util import asbool

__all__ = ["FairPool", "PoolBusy", "PoolDeadlock", "PoolTimeout", "Record", "Records"]

#: Seconds. A connection that was idle for less is not looked at when it is taken: a look costs as
#: much as all the rest of a take, and a busy pool hands out what was returned just now.
LEAST_IDLE_TIME = 0.01


class PoolTimeout(errors.PoolTimeout, exc.TimeoutError):
    """Raised when a checkout got no open connection within ``pool_timeout``."""

    code = "3o7r"  # SQLAlchemy's page on QueuePool's timeout


class PoolBusy(errors.PoolBusy, PoolTimeout):
    """Raised when a checkout would have to wait, but ``maxWaiting`` threads wait already."""


class PoolDeadlock(errors.PoolDeadlock, PoolTimeout):
    """Raised, with ``raiseDeadlock``, when all holders wait themselves, for ever."""


class _OfParent:
    """Stands, in a child process, for a connection that was checked out before the fork."""

    def __getattr__(self, name: str) -> NoReturn:
        raise exc.InvalidRequestError(
            "this connection was checked out before the fork and is the parent process's: close "
            "it here, and check out another one")

    def rollback(self) -> None:
        """Leave the transaction to the parent process."""

    close = rollback


class Record(Resource, _ConnectionRecord):
    """A connection record of SQLAlchemy; ``resource`` is the connection of the driver."""

    _fairyRef: Any = None  # what fairy_ref hides in a child process, with SQLAlchemy 2.0

    def __init__(self, name: str, owner: FairPool) -> None:
        _ConnectionRecord.__init__(self, owner, connect=False)
        Resource.__init__(self, name)
        self._owner = owner
        #: Called with 0, tells whether there is something to read; None if that is not known.
        self._poll: Callable[[int], Any] | None = None

    def open(self) -> None:
        """Connect. Raises what the ``creator`` and the listeners of ``connect`` raise."""
        if self.dbapi_connection is not None:  # its close was interrupted
            _ConnectionRecord.close(self)
        invalidatedAt = self._owner._invalidate_time
        connection = self.get_connection()
        # The system's clock was set back: else it would be replaced at each checkout until the
        # clock gets there.
        self.starttime = max(self.starttime, invalidatedAt)
        self._noteOpen(connection)
        self._owner._startRecycler()

    def _noteOpen(self, connection: Any) -> None:
        self.resource = connection
        self._poll = None
        with contextlib.suppress(Exception):  # it is no connection to a server
            self._poll = poller(self.driver_connection)
        Resource.open(self)

    def close(self) -> None:
        """Close the connection. Runs the listeners of ``close``. Raises what they raise."""
        try:
            _ConnectionRecord.close(self)
        finally:
            self.dbapi_connection = None
            self._noteClose()

    def _noteClose(self) -> None:
        self.resource = self._poll = None
        Resource.close(self)

    def checkAlive(self) -> None:
        """Raise DisconnectionError if the connection is dead, or older than an invalidation.

        Sends nothing as a rule: an idle connection has nothing to read unless the server closed
        it, or sent something unasked, such as a notification. Then it is pinged.
        """
        if self.starttime < self._owner._invalidate_time:  # SQLAlchemy's rule
            raise exc.DisconnectionError("it is older than the invalidation of the pool")
        if not (self._poll and self._poll(0)):
            return
        dialect: Any = self._owner._dialect
        try:
            if dialect.do_ping(self.resource):
                return
        except Exception as error:
            raise exc.DisconnectionError("the server has closed it") from error
        raise exc.DisconnectionError("the server does not answer")

    @property
    def needs_gc(self) -> bool:
        """Whether a connection that its user dropped is to be reset and returned.

        Not in a child process whose pool did not start afresh yet: it is the parent's.
        """
        return not self._isOfParent() and super().needs_gc

    def _isOfParent(self) -> bool:
        return bool(underWay) and self._pool is not None and isNewborn(self._pool._queue)

    def noteUse(self) -> None:
        """Count what SQLAlchemy did to the connection since the take."""
        connection: Any = self.dbapi_connection
        if connection is not self.resource:  # it was invalidated, detached or replaced
            if self._isOpen:
                self._noteClose()
            if connection is not None:
                self._noteOpen(connection)

    def isTransient(self, error: Exception) -> bool:
        """Tell whether the driver calls it an error of operation; others stay what they are."""
        driver: Any = getattr(self._owner._dialect, "dbapi", None)
        return driver is None or isinstance(error, (driver.OperationalError, driver.InterfaceError))

    def abandon(self) -> None:
        """Forget the connection, which is the parent process's, without closing it."""
        leak(self.dbapi_connection)
        reference: Any = self._fairyRef or self.fairy_ref
        fairy = reference and reference()
        if fairy is not None and fairy.dbapi_connection is not None:
            fairy.dbapi_connection = _OfParent()
        self.dbapi_connection = self._poll = None
        super().abandon()


if not hasattr(_ConnectionRecord, "needs_gc"):  # SQLAlchemy 2.0 looks at fairy_ref instead
    def _fairyRef(record: Record) -> Any:
        return None if record._isOfParent() else record._fairyRef

    def _setFairyRef(record: Record, reference: Any) -> None:
        record._fairyRef = reference

    Record.fairy_ref = property(_fairyRef, _setFairyRef)  # type: ignore[assignment]


class Records(Pool[Record]):
    """The pool below a FairPool; its timeouts are SQLAlchemy's."""

    timeoutError = PoolTimeout
    busyError = PoolBusy
    deadlockError = PoolDeadlock

    def __init__(self, owner: FairPool, name: str, capacity: int, **options: Any) -> None:
        super().__init__(name, capacity, factory=lambda name: Record(name, owner), **options)

    def startAfresh(self) -> None:
        """Forget, in a child process, also what is checked out: its end would roll it back."""
        # Before the pool has a new queue: until then its records are known as the parent's.
        for slot in list(self._queue.members):
            record = slot.ref()
            if record is not None:
                self._hooks.abandon(record)
        super().startAfresh()


class FairPool(SqlalchemyPool):
    """A pool of SQLAlchemy that serves threads first come, first served.

    ``create_engine(url, poolclass=FairPool, pool_size=10, pool_timeout=30)``. ``create_engine``
    passes on SQLAlchemy's own arguments as usual, and those below by their names.

    - ``pool_size``: the most connections there are at a time. There is no overflow: whoever finds
      none free waits in line.
    - ``pool_timeout``: the seconds a checkout waits, None for ever. What it raises then is
      SQLAlchemy's TimeoutError and tells who has the connections; so does its ``report``.
    - ``pool_recycle``: the seconds after which a connection is replaced, -1 for never. ``jitter``
      (0 to 1) shortens that for each connection by a random part of up to that fraction.
    - ``name``: the name of the pool in messages and metrics; else it is ``pool_logging_name``.
    - ``maxIdleTime``, ``maxUsageCount``, ``minOpen``, ``maxWaiting``, ``openRetryTime``,
      ``leakTime``, ``leakTrace``, ``raiseDeadlock``, ``histograms``: as of ``queuepool.Pool``, but
      without a limit if they are left out. For ``maxIdleTime``, ``minOpen`` and ``leakTime`` a
      daemon thread is started with the first connection; it ends with ``dispose`` or the pool.

    The connection used last is handed out first. One that the server has closed is noticed without
    a round trip when it is taken, for psycopg2 and psycopg; ``pool_pre_ping`` is needed for other
    drivers, and to notice a network that is cut. In a child process the pool starts afresh, and
    the parent's connections are neither used nor closed there.
    """

    _is_asyncio = False  # create_engine refuses it for async engines then

    def __init__(
            self, creator: Any, pool_size: int = 5, timeout: float | None = 30.0,
            max_overflow: int = 0, use_lifo: bool = True, name: str | None = None,
            maxIdleTime: float | None = None, maxUsageCount: int | None = None,
            jitter: float = 0.0, minOpen: int = 0, maxWaiting: int | None = None,
            openRetryTime: float = 0.0, leakTime: float | None = None, leakTrace: bool = False,
            raiseDeadlock: bool = False, histograms: bool = False, **kw: Any) -> None:
        # Not keyword-only: create_engine passes on only what it finds among the others.
        if max_overflow:
            raise exc.ArgumentError(
                "FairPool has no max_overflow: pool_size is the most connections there are at a "
                "time, and whoever finds none free is served in turn. Set pool_size to the "
                "pool_size + max_overflow that you had, and maxIdleTime to have those closed "
                "again that are not needed")
        if not use_lifo:
            raise exc.ArgumentError(
                "FairPool hands out the connection used last: leave out pool_use_lifo=False. "
                "(Threads are served first come, first served all the same)")
        _checkArguments(pool_size, timeout, kw.get("recycle", -1))
        #: What recreate passes on.
        self._options: dict[str, Any] = {
            option: _converted(option, value) if isinstance(value, str) else value
            for option, value in dict(
                maxIdleTime=maxIdleTime, maxUsageCount=maxUsageCount, jitter=jitter,
                minOpen=minOpen, maxWaiting=maxWaiting, openRetryTime=openRetryTime,
                leakTime=leakTime, leakTrace=leakTrace, raiseDeadlock=raiseDeadlock,
                histograms=histograms).items()}
        minOpen = self._options["minOpen"]
        if _isNumber(minOpen) and minOpen > pool_size:
            raise exc.ArgumentError(f"minOpen must be <= pool_size ({pool_size}), not {minOpen}")
        super().__init__(creator, **kw)
        self._needsRecycler = minOpen != 0 or any(
            self._options[option] is not None for option in ("maxIdleTime", "leakTime"))
        self._isDisposed = False
        #: The pool below: its ``report()``, ``stats()``, ``recycle()``, and for metrics.
        self.queuepool = Records(
            self, name or self._orig_logging_name or "sqlalchemy", pool_size, takeTimeout=timeout,
            # With 0, SQLAlchemy replaces the connection at each checkout.
            maxOpenTime=self._recycle if self._recycle > 0 else None, **self._options)

    def _startRecycler(self) -> None:
        """Called when a connection was opened: before the first, create_engine is not done."""
        if self._needsRecycler and not self._isDisposed:
            self.queuepool.startRecycler()

    def _do_get(self) -> ConnectionPoolEntry:
        pool = self.queuepool
        record = pool.take()
        until = None
        # Not in a takeRepair: with that hook a checkout would cost two microseconds more. What was
        # opened just now is not looked at, so this ends.
        while record.starttime < self._invalidate_time or (
                record._poll is not None
                and record._slot.takenAt - record._slot.lastUsedAt > LEAST_IDLE_TIME):
            if self._isAlive(record):
                break
            if until is None:
                until = pool.clock() + (math.inf if pool.takeTimeout is None else pool.takeTimeout)
            record = pool.take(max(0.0, until - pool.clock()))
        return record

    def _isAlive(self, record: Record) -> bool:
        """Tell whether a record is alive; a dead one is closed and returned."""
        try:
            record.checkAlive()
            return True
        except BaseException as error:
            connection = record.resource
            record.__exit__(type(error), error, error.__traceback__)
            if not isinstance(error, exc.DisconnectionError):
                raise
            self.logger.info("Connection %r is replaced: %s", connection, error)
            return False

    def _do_return_conn(self, record: Any) -> None:
        try:
            if record.dbapi_connection is not record.resource:
                record.noteUse()
            if self._isDisposed:
                record.close()
        finally:
            record.__exit__(None, None, None)

    def recreate(self) -> FairPool:
        """Return a new pool with the same arguments; ``engine.dispose()`` goes on with it."""
        self.logger.info("Pool recreating")
        pool = self.queuepool
        return type(self)(
            self._creator, pool_size=pool.capacity, timeout=pool.takeTimeout, name=pool.name,
            recycle=self._recycle, echo=self.echo, logging_name=self._orig_logging_name,
            reset_on_return=self._reset_on_return, pre_ping=self._pre_ping,
            _dispatch=self.dispatch, dialect=self._dialect, **self._options)

    def dispose(self) -> None:
        """Close what is idle now, and what is checked out when it is returned.

        Blocks while the driver closes. Those who wait in line are still served.
        """
        self._isDisposed = True
        self.queuepool.invalidate(timeout=None)
        self.queuepool.stopRecycler()
        self.logger.info("Pool disposed. %s", self.status())

    def status(self) -> str:
        """Return how many connections there are, and where."""
        return repr(self.queuepool)

    def size(self) -> int:
        """Return ``pool_size``."""
        return self.queuepool.capacity

    def timeout(self) -> float | None:
        """Return ``pool_timeout``."""
        return self.queuepool.takeTimeout

    def checkedin(self) -> int:
        """Return how many connections are open and idle."""
        stats = self.queuepool.stats()
        return max(0, stats.open - stats.taken)

    def checkedout(self) -> int:
        """Return how many connections are checked out."""
        return self.queuepool.stats().taken

    def overflow(self) -> int:
        """Return 0: there is no overflow."""
        return 0


def _checkArguments(poolSize: object, timeout: object, recycle: object) -> None:
    """Raise ArgumentError for what SQLAlchemy's own arguments must not be, by their names."""
    if not isinstance(poolSize, int) or isinstance(poolSize, bool) or poolSize < 1:
        raise exc.ArgumentError(
            f"pool_size of a FairPool must be an integer >= 1, not {_describe(poolSize)}. It has "
            f"no unlimited size; for no pooling at all use SQLAlchemy's NullPool")
    if timeout is not None and not (_isNumber(timeout) and timeout >= 0):  # type: ignore[operator]
        raise exc.ArgumentError(
            f"pool_timeout must be a number of seconds >= 0, or None for ever, not "
            f"{_describe(timeout)}")
    if not _isNumber(recycle) or recycle != recycle:
        raise exc.ArgumentError(
            f"pool_recycle must be a number of seconds, or -1 for never, not "
            f"{_describe(recycle)}")


def _isNumber(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _describe(value: object) -> str:
    isPlain = value is None or _isNumber(value)
    return str(value) if isPlain else f"a value of type {type(value).__name__}"


#: What ``engine_from_config`` passes on is text; SQLAlchemy converts that of its own arguments.
_KINDS: dict[str, tuple[Callable[[str], Any], str]] = {
    **dict.fromkeys(("maxIdleTime", "jitter", "openRetryTime", "leakTime"), (float, "a number")),
    **dict.fromkeys(("maxUsageCount", "minOpen", "maxWaiting"), (int, "an integer")),
    **dict.fromkeys(("leakTrace", "raiseDeadlock", "histograms"), (asbool, "true or false"))}


def _converted(option: str, text: str) -> Any:
    convert, what = _KINDS[option]
    try:
        return convert(text)
    except ValueError:
        raise exc.ArgumentError(f"{option} must be {what}; it is a text that is none") from None
