"""A session of PostgreSQL as its pool has set it up, and how to get it back to that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from operator import attrgetter
from typing import Any

from psycopg2 import Error, ProgrammingError
from psycopg2.extensions import (STATUS_READY, TRANSACTION_STATUS_IDLE, TRANSACTION_STATUS_INERROR,
                                 connection, cursor)

from queuepool.postgres import Listening, configureError

#: The settings of psycopg2's set_session, and the client encoding.
_settings = attrgetter("isolation_level", "readonly", "deferrable", "autocommit", "encoding")


def _encoding(raw: Any) -> tuple[Any]:
    return (raw.encoding,)


class Session:
    """A session that was set up, and what it looked like then.

    ``raw`` is psycopg2's own connection, ``conn`` what is handed out: an agent that traces
    programs may have wrapped it around ``raw``. What sends something at a put does so ``within`` a
    time limit.
    """

    def __init__(self, raw: Any, conn: Any, settings: Mapping[str, Any],
                 configure: Callable[[Any], object] | None,
                 within: Callable[[], AbstractContextManager[Any]]) -> None:
        """Set it up: make the settings of ``set_session``, call ``configure`` and commit."""
        self._raw = raw
        self._within = within
        self._enterBlock = partial(connection.__enter__, raw)
        self._leaveBlock = partial(connection.__exit__, raw, Exception, None, None)
        #: Whether to leave a block calls no code of the user's.
        self._mayLeave = type(raw).rollback is connection.rollback
        if raw.status != STATUS_READY:  # left by a connection_factory
            with within():
                commit(raw)
        if any(value is not None for value in settings.values()):
            with within():
                raw.set_session(**settings)
        self._listening = Listening()
        raw.notices, raw.notifies = [], []
        if configure is not None:
            configure(conn)
            if raw.get_transaction_status() == TRANSACTION_STATUS_INERROR:
                raise configureError()
            with within():
                commit(raw)
                self._leaveBlock()
                self._listening = Listening.ask(raw, run, Error)
        #: The objects of configure that collect them, or None: each user gets an empty list.
        self._notices, self._notifies = (None if type(sink) is list else sink
                                         for sink in (raw.notices, raw.notifies))
        self._emptySinks()
        # A connection for replication has no more.
        self._readSettings = _settings if hasattr(raw, "isolation_level") else _encoding
        self._settings = self._readSettings(raw)
        self._cursorFactory = raw.cursor_factory
        self._stringTypes, self._binaryTypes = dict(raw.string_types), dict(raw.binary_types)
        #: What the server reports unasked. It changes with the rights, as by SET ROLE.
        self.isSuperuser = raw.get_parameter_status("is_superuser")

    # -- what its user left behind

    def rollBack(self) -> None:
        """Roll back what was begun, by psycopg2 or by hand."""
        raw = self._raw
        with self._within():
            raw.rollback()
            if raw.get_transaction_status() != TRANSACTION_STATUS_IDLE:
                # A BEGIN by hand under autocommit: psycopg2 does not know of it.
                execute(raw, "ROLLBACK")

    def restore(self, wasDirty: bool) -> bool:
        """Set back what its user changed of psycopg2's connection. Send nothing if it is clean.

        Return False if somebody is still in a block of ``with conn``: he would end the transaction
        of the next user. A ``rollback`` of a user's own class is called only if the connection
        ``wasDirty``: without calling it such a block cannot be looked for.
        """
        raw = self._raw
        if self._mayLeave or wasDirty:
            try:
                self._enterBlock()
            except ProgrammingError:  # it cannot be entered twice
                return False
            self._leaveBlock()
        if self._readSettings(raw) != self._settings:
            with self._within():
                self._restoreSettings()
        if raw.cursor_factory is not self._cursorFactory:
            raw.cursor_factory = self._cursorFactory
        if raw.string_types or raw.binary_types or self._stringTypes or self._binaryTypes:
            _restoreTypes(raw.string_types, self._stringTypes)
            _restoreTypes(raw.binary_types, self._binaryTypes)
        notices, notifies = raw.notices, raw.notifies
        if (notices is not self._notices and (notices or type(notices) is not list)
                or notifies is not self._notifies and (notifies or type(notifies) is not list)):
            self._restoreSinks()
        return True

    def _restoreSettings(self) -> None:
        raw = self._raw
        *settings, encoding = self._settings
        if self._readSettings(raw)[:-1] != self._settings[:-1]:
            level, readonly, deferrable, autocommit = settings
            raw.set_session(
                isolation_level="default" if level is None else level,
                readonly="default" if readonly is None else readonly,
                deferrable="default" if deferrable is None else deferrable,
                autocommit=autocommit)
        if raw.encoding != encoding:
            raw.set_client_encoding(encoding)

    def _restoreSinks(self) -> None:
        if self.hearsOthers():
            with self._within():
                run(self._raw, self._listening.endOthers)
        self._emptySinks()

    def hearsOthers(self) -> bool:
        """Tell whether there are notifications of what somebody forgot to UNLISTEN.

        Of what a user's own object got nothing is known, so the answer is yes.
        """
        notifies = self._raw.notifies
        if notifies is self._notifies:
            return False
        return type(notifies) is not list or any(
            each.channel not in self._listening.channels for each in notifies)

    @property
    def endOthers(self) -> str:
        """The statement that ends what somebody forgot to UNLISTEN."""
        return self._listening.endOthers

    def forgetOthers(self) -> None:
        """Remove those notifications."""
        self._raw.notifies = [
            each for each in self._raw.notifies if each.channel in self._listening.channels]

    def _emptySinks(self) -> None:
        self._raw.notices = [] if self._notices is None else self._notices
        self._raw.notifies = [] if self._notifies is None else self._notifies


def _restoreTypes(types: dict[int, Any], own: dict[int, Any]) -> None:
    """Restore typecasters. Two of them may be equal, but only itself is the same."""
    if len(types) != len(own) or any(types.get(oid) is not own[oid] for oid in own):
        types.clear()
        types.update(own)


def commit(raw: connection) -> None:
    """Commit what was begun, if anything, by psycopg2 or by hand."""
    raw.commit()
    if raw.get_transaction_status() != TRANSACTION_STATUS_IDLE:
        execute(raw, "COMMIT")


def execute(raw: connection, statement: str) -> list[Any]:
    """Run a statement, and return the first column of its rows."""
    # Not raw.cursor(): that would use the cursor class, or the connection class, of the user.
    with cursor(raw) as cur:
        cur.execute(statement)
        return [row[0] for row in cur] if cur.description else []


def run(raw: connection, statement: str) -> list[Any]:
    """Run a statement in a transaction of its own, and return the first column of its rows."""
    rows = execute(raw, statement)
    commit(raw)
    return rows
