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
its settings change, or differ between threads, as those of tenants do, each has a pool of its own.
An alias has up to MOST_POOLS of them; then the one used longest ago is closed, of those of which
nothing is checked out. ``connections[alias].close_pool()`` closes all of them. A new password makes
no new pool: the next connection is opened with it.
"""

# Django has no types.
# mypy: allow-subclassing-any, allow-untyped-decorators
# mypy: disable-error-code="import-untyped, import-not-found"

from __future__ import annotations

import inspect
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

try:
    import psycopg2
except ImportError as error:
    raise ImportError(
        f"queuepool.django needs the driver psycopg2, which cannot be imported ({error}). "
        f"Install it: pip install psycopg2-binary", name="psycopg2") from error
try:
    import django  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"queuepool.django needs Django, which cannot be imported ({error}). Install it: "
        f"pip install django", name="django") from error
import psycopg2.extras
from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS
from django.db.backends.base.base import NO_DB_ALIAS, BaseDatabaseWrapper
from django.db.backends.postgresql import base, creation
from django.db.backends.postgresql.psycopg_any import IsolationLevel, is_psycopg3
from django.db.utils import DatabaseErrorWrapper
from django.utils.functional import cached_property

from queuepool.errors import PoolClosed, PoolError
from queuepool.lock import Lock, exclusive
from queuepool.psycopg2 import Connection, ConnectionPool

if is_psycopg3:
    raise ImproperlyConfigured(
        "queuepool.django needs psycopg2, but psycopg 3 is installed too, and Django prefers that. "
        "Uninstall the package psycopg, or hide it: write 'import sys; sys.modules[\"psycopg\"] = "
        "None' at the top of the settings")

DEFAULT_CAPACITY = 10

#: How many pools an alias has, if no more are in use.
MOST_POOLS = 20

#: What OPTIONS["pool"] may have.
_KEYWORDS = frozenset(
    name for name, parameter in inspect.signature(ConnectionPool).parameters.items()
    if parameter.kind is not parameter.VAR_KEYWORD
    ) - {"name", "dsn", "autocommit", "isolation_level"}


@dataclass(slots=True, repr=False)  # a password is in it
class Recipe:
    """What a pool is made of: where it differs, there is another pool."""

    params: dict[str, Any]  #: for psycopg2.connect, without the password
    options: dict[str, Any]  #: OPTIONS
    password: Any = field(compare=False)
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

    def askPassword(self) -> Any:
        """Return the password; None has libpq look for one."""
        return self.password() if callable(self.password) else self.password

    def copy(self) -> Recipe:
        """Return a copy that stays the same when somebody changes the settings."""
        return replace(self, options={
            key: dict(value) if isinstance(value, Mapping) else value
            for key, value in self.options.items()})

    def makePool(self, alias: str) -> ConnectionPool:
        """Make the pool, and start its recycler. Each open has the password of that time."""
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
        configure = self._configurer(keywords.pop("configure", None))
        try:
            pool = ConnectionPool(
                alias, keywords.pop("capacity"), autocommit=True, configure=configure,
                isolation_level=level, password=self.askPassword, **keywords, **self.params)
        except (TypeError, ValueError) as error:
            raise ImproperlyConfigured(f"{where}: {error}") from error
        pool.startRecycler()
        return pool

    def _configurer(self, own: Callable[[Any], object] | None) -> Callable[[Any], None]:
        """Return what does once for each connection what Django does at each connect."""
        role = self.options.get("assume_role")

        def configure(conn: Any) -> None:
            # Django decodes JSON itself.
            psycopg2.extras.register_default_jsonb(conn_or_curs=conn, loads=lambda text: text)
            if role:
                with conn.cursor() as cur:
                    cur.execute("SET ROLE %s", [role])
            if own is not None:
                own(conn)

        return configure


@dataclass(slots=True, repr=False, eq=False)
class Entry:
    """A pool, what it was made of, and when it was asked for last."""

    recipe: Recipe
    pool: ConnectionPool
    usedAt: float


class Pools:
    """The pools of this process. Any thread may call any method."""

    def __init__(self) -> None:
        #: Of each alias. A tuple is replaced under the lock, and read without it.
        self._entries: dict[str, tuple[Entry, ...]] = {}
        self._lock = Lock()

    def get(self, alias: str, recipe: Recipe) -> ConnectionPool:
        """Return the pool of an alias that was made of this recipe; make it if there is none."""
        pool = self._find(alias, recipe)
        if pool is None:
            pool, surplus = self._make(alias, recipe)
            for entry in surplus:
                entry.pool.close()
        return pool

    @exclusive
    def _make(self, alias: str, recipe: Recipe) -> tuple[ConnectionPool, list[Entry]]:
        """Return the pool, which another thread may have made, and what makes room for it."""
        pool = self._find(alias, recipe)
        if pool is not None:
            return pool, []
        recipe = recipe.copy()
        pool = recipe.makePool(alias)
        entries = [entry for entry in self._entries.get(alias, ()) if not entry.pool.closed]
        unused = sorted((entry for entry in entries if not entry.pool.stats().taken),
                        key=lambda entry: entry.usedAt)
        surplus = unused[:max(0, len(entries) + 1 - MOST_POOLS)]
        self._entries[alias] = (Entry(recipe, pool, time.monotonic()), *(
            entry for entry in entries if entry not in surplus))
        return pool, surplus

    def _find(self, alias: str, recipe: Recipe) -> ConnectionPool | None:
        for entry in self._entries.get(alias, ()):
            if entry.recipe == recipe and not entry.pool.closed:
                entry.recipe.password = recipe.password
                entry.usedAt = time.monotonic()
                return entry.pool
        return None

    def close(self, alias: str) -> None:
        """Close the pools of an alias, and those of others that lead to the same databases.

        A replica that mirrors the test database would keep it from being dropped.
        """
        for entry in self._remove(alias):
            entry.pool.close()

    @exclusive
    def _remove(self, alias: str) -> list[Entry]:
        databases = [entry.recipe.database for entry in self._entries.get(alias, ())]
        removed = []
        for each, entries in self._entries.items():
            left = [entry for entry in entries if each == alias
                    or entry.recipe.database in databases]
            removed += left
            self._entries[each] = tuple(entry for entry in entries if entry not in left)
        return removed

    def startAfresh(self) -> None:
        """Forget, in a child process, that another thread may have had the lock."""
        self._lock = Lock()


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


class DatabaseCreation(creation.DatabaseCreation):
    """Has a test run leave the database, with all that is open there, before it goes to another.

    What was queried before, such as in ``AppConfig.ready``, may still have a connection.
    """

    def create_test_db(self, *args: Any, **kwargs: Any) -> Any:
        self._leave()
        return super().create_test_db(*args, **kwargs)

    def set_as_test_mirror(self, primary_settings_dict: dict[str, Any]) -> None:
        self._leave()
        super().set_as_test_mirror(primary_settings_dict)

    def setup_worker_connection(self, _worker_id: int) -> None:
        self._leave()
        super().setup_worker_connection(_worker_id)

    def _leave(self) -> None:
        self.connection.close()
        self.connection.close_pool()


class DatabaseWrapper(base.DatabaseWrapper):
    """Django's connection to PostgreSQL. It takes one of the pool when Django would connect.

    ``connection`` is psycopg2's own. When Django closes it, it is cleaned and put back.
    """

    creation_class = DatabaseCreation
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
        """The pool of this alias and these settings, made now if there is none.

        None if it is to have none.

        Opens nothing. Raises ImproperlyConfigured.
        """
        return self._getPool(self.get_connection_params()) if self._isPooled() else None

    def _isPooled(self) -> bool:
        # Django drops and creates databases by the other alias.
        return self.alias != NO_DB_ALIAS and self.settings_dict["OPTIONS"].get(
            "pool", True) not in (False, None)

    def _getPool(self, params: dict[str, Any]) -> ConnectionPool:
        recipe = Recipe({key: value for key, value in params.items() if key != "password"},
                        self.settings_dict["OPTIONS"], params.get("password"),
                        self.settings_dict["CONN_MAX_AGE"])
        self.isolation_level = recipe.isolationLevel
        return _pools.get(self.alias, recipe)

    def close_pool(self) -> None:
        """Close the pools of this alias, and those of others that lead to the same databases.

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
            self._resource = self._take(conn_params)
        except PoolError as error:
            if isinstance(error, psycopg2.Error):
                raise
            raise psycopg2.OperationalError(str(error)) from error
        return self._resource.resource

    def _take(self, params: dict[str, Any]) -> Connection:
        """Take of the pool; of the next one if another thread closes it meanwhile."""
        startedAt = time.monotonic()
        with suppress(PoolClosed):
            return self._getPool(params).take()
        while True:
            pool = self._getPool(params)
            rest = pool.takeTimeout
            if rest is not None:
                rest = max(0.0, startedAt + rest - time.monotonic())
            try:
                return pool.take(rest)
            except PoolClosed:
                if rest == 0.0:
                    raise

    def init_connection_state(self) -> None:
        if self._resource is None:
            super().init_connection_state()
            return
        BaseDatabaseWrapper.init_connection_state(self)
        # Whoever had it before may have left another time zone, or it is new. To look sends
        # nothing.
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
