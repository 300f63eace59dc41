"""Django's PostgreSQL backend with a pool of psycopg2's connections for each alias.

    DATABASES = {"default": {
        "ENGINE": "queuepool.django", "NAME": …, "USER": …,
        "OPTIONS": {"pool": {"capacity": 10, "takeTimeout": 5.0}}}}

``OPTIONS["pool"]`` has the keywords of ``queuepool.psycopg2.ConnectionPool``, all with the same
defaults, and ``capacity``, which is 10 unless it is given. True, or nothing at all, stands for
``{}``; with False there is no pool. A thread has a connection from its first query until Django
closes it: at the end of the request, as with ``CONN_MAX_AGE = 0``, which is what it has to be.

``connections[alias].pool`` is the pool, for its ``report()`` and ``stats()``. Its name is the
alias. What it raises reaches the program as django.db.OperationalError; ``__cause__`` has more.

A pool of its own is made in each process, at the first query. It leads where the alias leads: if
its settings change, as when a test run sets the name of the test database, the next query closes
the pool and makes another one.
"""

# Django has no types.
# mypy: allow-subclassing-any, allow-untyped-decorators
# mypy: disable-error-code="import-untyped, import-not-found"

from __future__ import annotations

import inspect
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg2
import psycopg2.extras
from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS
from django.db.backends.base.base import NO_DB_ALIAS, BaseDatabaseWrapper
from django.db.backends.postgresql import base
from django.db.backends.postgresql.psycopg_any import IsolationLevel, is_psycopg3
from django.db.utils import DatabaseErrorWrapper
from django.utils.functional import cached_property

from queuepool.errors import PoolClosed, PoolError
from queuepool.psycopg2 import Connection, ConnectionPool

if is_psycopg3:
    raise ImproperlyConfigured(
        "queuepool.django needs psycopg2, but psycopg 3 is installed too, and Django prefers that. "
        "Uninstall the package psycopg, or hide it: write 'import sys; sys.modules[\"psycopg\"] = "
        "None' at the top of the settings")

DEFAULT_CAPACITY = 10

#: What OPTIONS["pool"] may have.
_KEYWORDS = frozenset(
    name for name, parameter in inspect.signature(ConnectionPool).parameters.items()
    if parameter.kind is not parameter.VAR_KEYWORD
    ) - {"name", "dsn", "autocommit", "isolation_level"}


@dataclass(slots=True, repr=False)  # a password is in it
class Recipe:
    """What a pool is made of: if it changes, another pool has to be made."""

    params: dict[str, Any]  #: for psycopg2.connect
    options: dict[str, Any]  #: OPTIONS
    timezone: str | None
    maxAge: float | None = field(compare=False)  #: CONN_MAX_AGE

    @property
    def database(self) -> tuple[Any, ...]:
        return tuple(map(self.params.get, ("host", "port", "service", "dbname")))

    @property
    def isolationLevel(self) -> IsolationLevel:
        """The isolation level of the transactions. Raises ImproperlyConfigured if it is none."""
        level = self.options.get("isolation_level", IsolationLevel.READ_COMMITTED)
        try:
            return IsolationLevel(level)
        except ValueError:
            raise ImproperlyConfigured(
                f"Invalid transaction isolation level {level} specified. Use one of the values of "
                f"django.db.backends.postgresql.psycopg_any.IsolationLevel.") from None

    def copy(self) -> Recipe:
        """Return a copy that stays the same when somebody changes the settings."""
        return replace(self, options={
            key: dict(value) if isinstance(value, Mapping) else value
            for key, value in self.options.items()})

    def makePool(self, alias: str, zoneSql: str) -> ConnectionPool:
        """Make the pool, and start its recycler. ``zoneSql`` sets the time zone."""
        where = f"DATABASES[{alias!r}]"
        if self.maxAge != 0:
            raise ImproperlyConfigured(
                f"{where}: CONN_MAX_AGE must be 0 with a pool. Connections stay open in the pool; "
                f"a thread that kept one between its requests would keep it from all others")
        given = self.options.get("pool", True)
        if given is not True and not isinstance(given, Mapping):
            raise ImproperlyConfigured(
                f"{where}: OPTIONS['pool'] must be a dict, True or False, not "
                f"{type(given).__name__}")
        keywords = {"capacity": DEFAULT_CAPACITY, **({} if given is True else given)}
        unknown = [key for key in keywords if key not in _KEYWORDS]
        if unknown:
            raise ImproperlyConfigured(
                f"{where}: OPTIONS['pool'] has no {unknown[0]!r}; it may have: "
                f"{', '.join(sorted(_KEYWORDS))}")
        level = self.isolationLevel if "isolation_level" in self.options else None
        configure = self._configurer(zoneSql, keywords.pop("configure", None))
        try:
            pool = ConnectionPool(
                alias, keywords.pop("capacity"), autocommit=True, configure=configure,
                isolation_level=level, **keywords, **self.params)
        except (TypeError, ValueError) as error:
            raise ImproperlyConfigured(f"{where}: {error}") from error
        pool.startRecycler()
        return pool

    def _configurer(self, zoneSql: str,
                    own: Callable[[Any], object] | None) -> Callable[[Any], None]:
        """Return what does once for each connection what Django does at each connect."""
        timezone, role = self.timezone, self.options.get("assume_role")

        def configure(conn: Any) -> None:
            # Django decodes JSON itself.
            psycopg2.extras.register_default_jsonb(conn_or_curs=conn, loads=lambda text: text)
            with conn.cursor() as cur:
                if timezone and conn.info.parameter_status("TimeZone") != timezone:
                    cur.execute(zoneSql, [timezone])
                if role:
                    cur.execute("SET ROLE %s", [role])
            if own is not None:
                own(conn)

        return configure


class Pools:
    """The pools of this process, one for each alias. Any thread may call any method."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[Recipe, ConnectionPool]] = {}
        self._lock = threading.Lock()

    def get(self, alias: str, recipe: Recipe, zoneSql: str) -> ConnectionPool:
        """Return the pool of an alias; make another one if it was made of anything else."""
        pool = self._find(alias, recipe)
        if pool is not None:
            return pool
        with self._lock:
            pool = self._find(alias, recipe)
            if pool is not None:
                return pool
            old = self._entries.get(alias)
            pool = recipe.makePool(alias, zoneSql)
            self._entries[alias] = recipe.copy(), pool
        if old is not None:
            old[1].close()
        return pool

    def _find(self, alias: str, recipe: Recipe) -> ConnectionPool | None:
        entry = self._entries.get(alias)
        return entry[1] if entry and entry[0] == recipe and not entry[1].closed else None

    def close(self, alias: str) -> None:
        """Close the pool of an alias, and those of others that lead to the same database.

        A replica that mirrors the test database would keep it from being dropped.
        """
        with self._lock:
            entry = self._entries.get(alias)
            closing = [each for each, (recipe, pool) in self._entries.items()
                       if entry and recipe.database == entry[0].database]
            pools = [self._entries.pop(each)[1] for each in closing]
        for pool in pools:
            pool.close()

    def startAfresh(self) -> None:
        """Forget, in a child process, that another thread may have had the lock."""
        self._lock = threading.Lock()


_pools = Pools()


class _ThreadEnd:
    """What ends with its thread, and then brings back what the thread did not close.

    The wrappers refer to themselves, so they would be collected at some later time.
    """

    def __init__(self) -> None:
        self.wrappers: weakref.WeakSet[DatabaseWrapper] = weakref.WeakSet()
        self._process = os.getpid()

    def __del__(self, getpid: Callable[[], int] = os.getpid) -> None:
        if getpid() == self._process:  # in a child process all other threads end at once
            for wrapper in self.wrappers:
                wrapper._drop()


class _Here(threading.local):
    def __init__(self) -> None:
        self.end = _ThreadEnd()


_here = _Here()


def _startAfresh() -> None:
    """Leave to the parent process what this thread has of it."""
    _pools.startAfresh()
    wrappers = list(_here.end.wrappers)
    _here.end = _ThreadEnd()
    for wrapper in wrappers:
        _here.end.wrappers.add(wrapper)
        wrapper._leaveToParent()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_startAfresh)


class _ErrorWrapper(DatabaseErrorWrapper):
    """Tells the pool of errors, too: one may mean that the server has become read-only."""

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        if exc_value is not None and self.wrapper._resource is not None:
            self.wrapper._resource.noteError(exc_value)
        super().__exit__(exc_type, exc_value, traceback)


class DatabaseWrapper(base.DatabaseWrapper):
    """Django's connection to PostgreSQL. It takes one of the pool when Django would connect.

    ``connection`` is psycopg2's own. When Django closes it, it is cleaned and put back.
    """

    settings_dict: dict[str, Any]
    connection: Any

    def __init__(self, settings_dict: dict[str, Any], alias: str = DEFAULT_DB_ALIAS) -> None:
        super().__init__(settings_dict, alias)
        #: What was taken, as long as Django has the connection.
        self._resource: Connection | None = None
        #: The cursors of that, which are closed with it.
        self._cursors: weakref.WeakSet[Any] = weakref.WeakSet()
        _here.end.wrappers.add(self)

    @cached_property
    def wrap_database_errors(self) -> _ErrorWrapper:
        return _ErrorWrapper(self)

    @property
    def pool(self) -> ConnectionPool | None:
        """The pool of this alias, made now if there is none; None if it is to have none.

        Opens nothing. Raises ImproperlyConfigured.
        """
        return self._getPool(self.get_connection_params()) if self._isPooled() else None

    def _isPooled(self) -> bool:
        # Django drops and creates databases by the other alias.
        return self.alias != NO_DB_ALIAS and self.settings_dict["OPTIONS"].get(
            "pool", True) not in (False, None)

    def _getPool(self, params: dict[str, Any]) -> ConnectionPool:
        recipe = Recipe(params, self.settings_dict["OPTIONS"], self.timezone_name,
                        self.settings_dict["CONN_MAX_AGE"])
        self.isolation_level = recipe.isolationLevel
        return _pools.get(self.alias, recipe, self.ops.set_time_zone_sql())

    def close_pool(self) -> None:
        """Close the pool of this alias, and those of others that lead to the same database.

        Blocks while idle connections are closed. The next query makes another pool.
        """
        _pools.close(self.alias)

    def get_connection_params(self) -> dict[str, Any]:
        settings = self.settings_dict
        options = {key: value for key, value in settings["OPTIONS"].items() if key != "pool"}
        try:  # Django refuses a pool with psycopg2
            self.settings_dict = {**settings, "OPTIONS": options}
            params: dict[str, Any] = super().get_connection_params()
            return params
        finally:
            self.settings_dict = settings

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Take a connection; blocks and raises as ``ConnectionPool.take``."""
        if not self._isPooled():
            return super().get_new_connection(conn_params)
        if self._resource is not None:  # connect() was called twice
            self._close()
        try:
            try:
                self._resource = self._getPool(conn_params).take()
            except PoolClosed:  # by another thread, just now
                self._resource = self._getPool(conn_params).take()
        except PoolError as error:
            if isinstance(error, psycopg2.Error):
                raise
            raise psycopg2.OperationalError(str(error)) from error
        return self._resource.resource

    def init_connection_state(self) -> None:
        if self._resource is None:
            super().init_connection_state()
            return
        BaseDatabaseWrapper.init_connection_state(self)
        # Whoever had it before may have left another time zone. To look sends nothing.
        if self._configure_timezone(self.connection) and not self.get_autocommit():
            self.connection.commit()

    def create_cursor(self, name: str | None = None) -> Any:
        cursor = super().create_cursor(name)
        self._cursors.add(cursor)
        return cursor

    def close_if_health_check_failed(self) -> None:
        # The pool hands out none that the server has closed.
        if self.connection is not None and self._resource is None:
            super().close_if_health_check_failed()

    def _close(self) -> None:
        """Put the connection back. Blocks as ``Pool.put``."""
        resource, self._resource = self._resource, None
        if resource is None:
            with self.wrap_database_errors:
                self.connection.close()
            return
        self.connection = None
        # Else they would go on with the connection of another thread.
        for cursor in list(self._cursors):
            with suppress(psycopg2.Error):
                cursor.close()
        resource.pool.put(resource)

    def _leaveToParent(self) -> None:
        """Forget, in a child process, the connection, as if it had been closed."""
        if self._resource is not None:
            self._cursors.clear()
            self._close()
            if self.in_atomic_block:
                self.closed_in_transaction = self.needs_rollback = True

    def _drop(self) -> None:
        """Forget the connection, which comes back to the pool, and is closed there."""
        if not self.allow_thread_sharing:
            self.connection = self._resource = None
