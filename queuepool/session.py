"""A session of PostgreSQL with psycopg2, see ``queuepool.postgres``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from operator import attrgetter
from typing import Any

from psycopg2 import Error, ProgrammingError
from psycopg2.extensions import STATUS_READY, TRANSACTION_STATUS_IDLE, connection, cursor

from queuepool import postgres

#: The settings of psycopg2's set_session, and the client encoding.
_settings = attrgetter("isolation_level", "readonly", "deferrable", "autocommit", "encoding")


def _encoding(raw: Any) -> tuple[Any]:
    return (raw.encoding,)


class Session(postgres.Session):
    """A session of psycopg2's."""

    _error = Error
    block = "'with conn'"

    def _begin(self, settings: Mapping[str, Any]) -> None:
        raw = self._raw
        self.status = raw.get_transaction_status
        self.reported = raw.get_parameter_status
        self.rights = partial(raw.get_parameter_status, "is_superuser")
        self._enter = partial(connection.__enter__, raw)
        #: Leave a block of ``with conn``. Rolls back, and gives up the GIL at least two times.
        self.leaveBlock = partial(connection.__exit__, raw, Exception, None, None)
        #: Whether that calls no code of the user's. Else it is done only if there is something to
        #: roll back, so a block in which nothing was begun is not looked for.
        self.isOfDriver = type(raw).rollback is connection.rollback
        if raw.status != STATUS_READY:  # left by a connection_factory
            with self._within():
                self._endTransaction("COMMIT")
        if settings:
            with self._within():
                raw.set_session(**settings)
        raw.notices, raw.notifies = [], []

    def _commit(self) -> None:
        self._endTransaction("COMMIT")
        self.leaveBlock()

    def _remember(self) -> None:
        raw = self._raw
        #: The objects of configure that collect them, or None: each user gets an empty list.
        self._notices, self._notifies = (None if type(sink) is list else sink
                                         for sink in (raw.notices, raw.notifies))
        self._emptySinks()
        # A connection for replication has no more.
        self._readSettings = _settings if hasattr(raw, "isolation_level") else _encoding
        self._settings = self._readSettings(raw)
        self._cursorFactory = raw.cursor_factory
        self._stringTypes, self._binaryTypes = dict(raw.string_types), dict(raw.binary_types)

    def _endTransaction(self, statement: str) -> None:
        """End what was begun, if anything, by psycopg2 or by hand, with COMMIT or ROLLBACK."""
        raw = self._raw
        getattr(raw, statement.lower())()
        if raw.get_transaction_status() != TRANSACTION_STATUS_IDLE:
            # A BEGIN by hand under autocommit: psycopg2 does not know of it.
            execute(raw, statement)

    def _run(self, statement: str) -> list[Any]:
        rows = execute(self._raw, statement)
        self._endTransaction("COMMIT")
        return rows

    # -- what its user left behind

    def restore(self, isBegun: bool) -> bool:
        """Do what ``postgres.Session.restore`` does.

        If nothing was begun, it is the next take that looks for a block.
        """
        raw = self._raw
        # After a COMMIT by hand the server is idle, but psycopg2 believes that it is in a
        # transaction, and would not send the next BEGIN.
        if isBegun or raw.status != STATUS_READY:
            if not self.enterBlock():
                return False
            with self._within():
                self.leaveBlock()
                if raw.get_transaction_status() != TRANSACTION_STATUS_IDLE:
                    execute(raw, "ROLLBACK")  # of a BEGIN by hand, see _endTransaction
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

    @property
    def isReady(self) -> bool:
        """Whether nothing was begun, neither for the server nor for psycopg2."""
        return self.status() == TRANSACTION_STATUS_IDLE and self._raw.status == STATUS_READY

    def enterBlock(self) -> bool:
        """Enter a block of ``with conn``. Return False if somebody is in one already."""
        try:
            self._enter()
        except ProgrammingError:  # it cannot be entered twice
            return False
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

    def discard(self) -> None:
        self._raw.reset()

    # -- notices and notifications

    def _restoreSinks(self) -> None:
        if self.hearsOthers():
            with self._within():
                self._run(self._endOthers)
        self._emptySinks()

    def _emptySinks(self) -> None:
        self._raw.notices = [] if self._notices is None else self._notices
        self._raw.notifies = [] if self._notifies is None else self._notifies

    def readUnasked(self, poll: Callable[[int], Any]) -> bool:
        raw = self._raw
        sink, raw.notices = raw.notices, []
        while poll(0):
            raw.poll()
        hasNotices, raw.notices = bool(raw.notices), sink
        return hasNotices

    def hearsOthers(self) -> bool:
        """Do what ``postgres.Session.hearsOthers`` does.

        Of what a user's own object got nothing is known, so the answer is yes.
        """
        notifies = self._raw.notifies
        if notifies is self._notifies:
            return False
        return type(notifies) is not list or any(
            each.channel not in self._channels for each in notifies)

    def _forgetOthers(self) -> None:
        self._raw.notifies = [
            each for each in self._raw.notifies if each.channel in self._channels]


def _restoreTypes(types: dict[int, Any], own: dict[int, Any]) -> None:
    """Restore typecasters. Two of them may be equal, but only itself is the same."""
    if len(types) != len(own) or any(types.get(oid) is not own[oid] for oid in own):
        types.clear()
        types.update(own)


def execute(raw: connection, statement: str) -> list[Any]:
    """Run a statement, and return the first column of its rows."""
    # Not raw.cursor(): that would use the cursor class, or the connection class, of the user.
    with cursor(raw) as cur:
        cur.execute(statement)
        return [row[0] for row in cur] if cur.description else []
