"""A session of PostgreSQL as its pool has set it up, and how to get it back to that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from operator import attrgetter
from typing import Any

from psycopg2 import ProgrammingError
from psycopg2.extensions import (STATUS_READY, TRANSACTION_STATUS_IDLE, connection, cursor,
                                 quote_ident)

#: What a user may change of a connection without the server. Notices and notifications of one
#: user are not for the next one.
localState = attrgetter(
    "isolation_level", "readonly", "deferrable", "autocommit", "cursor_factory", "encoding",
    "string_types", "binary_types", "notices", "notifies")


class Session:
    """A session that was set up, and what it looked like then.

    ``raw`` is psycopg2's own connection, ``conn`` what is handed out: an agent that traces
    programs may have wrapped it around ``raw``.
    """

    def __init__(self, raw: Any, conn: Any, settings: Mapping[str, Any],
                 configure: Callable[[Any], object] | None) -> None:
        """Set it up: make the settings of ``set_session``, call ``configure`` and commit."""
        self._raw = raw
        #: Forgets that somebody entered a block of ``with conn`` and did not leave it.
        self.leaveBlock = partial(connection.__exit__, raw, Exception, None, None)
        if raw.status != STATUS_READY:  # left by a connection_factory
            commit(raw)
        raw.set_session(**settings)
        channels: list[str] = []
        if configure is not None:
            raw.notices, raw.notifies = [], []
            configure(conn)
            commit(raw)
            # A name: for text configure may have registered a typecaster.
            channels = execute(raw, "SELECT pg_listening_channels()::name")
            commit(raw)
        #: What configure listens to. In one transaction nothing of it is missed.
        self._channels = frozenset(channels)
        self.unlistenOthers = "; ".join(
            ["UNLISTEN *", *(f"LISTEN {quote_ident(channel, raw)}" for channel in channels)])
        #: Those of configure, or None: a new list for each user.
        self._notices, self._notifies = (None if type(sink) is list else sink
                                         for sink in (raw.notices, raw.notifies))
        self._emptySinks()
        state = localState(raw)
        self._settings = state[:4]
        self._cursorFactory, self._encoding = state[4:6]
        self._stringTypes, self._binaryTypes = map(dict, state[6:8])
        #: To be compared with ``localState(raw)``.
        self.state = (*state[:6], self._stringTypes, self._binaryTypes,
                      self._notices or [], self._notifies or [])
        self.isSuperuser = raw.get_parameter_status("is_superuser")
        self._wasReadOnly = self._isReadOnly()

    # -- what its user left behind

    def rollBack(self) -> None:
        """Roll back what was begun, by psycopg2 or by hand."""
        raw = self._raw
        raw.rollback()
        if raw.get_transaction_status() != TRANSACTION_STATUS_IDLE:
            # A BEGIN by hand under autocommit: psycopg2 does not know of it.
            execute(raw, "ROLLBACK")

    def isEntered(self) -> bool:
        """Tell whether somebody is still in a block of ``with conn``. If not, then we are now."""
        try:
            connection.__enter__(self._raw)
        except ProgrammingError:
            return True
        return False

    def restore(self) -> None:
        """Set back what its user changed of psycopg2's connection."""
        raw = self._raw
        level, readonly, deferrable, autocommit = self._settings
        (*settings, factory, encoding, stringTypes, binaryTypes, _, _) = localState(raw)
        if settings != [*self._settings]:
            raw.set_session(
                isolation_level="default" if level is None else level,
                readonly="default" if readonly is None else readonly,
                deferrable="default" if deferrable is None else deferrable,
                autocommit=autocommit)
        if factory is not self._cursorFactory:
            raw.cursor_factory = self._cursorFactory
        if encoding != self._encoding:
            raw.set_client_encoding(self._encoding)
        for types, own in (stringTypes, self._stringTypes), (binaryTypes, self._binaryTypes):
            if types != own:
                types.clear()
                types.update(own)
        if self.hearsOthers():
            execute(raw, self.unlistenOthers)
            commit(raw)
        self._emptySinks()

    def hearsOthers(self) -> bool:
        """Tell whether there are notifications of what somebody forgot to UNLISTEN.

        Of what a user's own object got nothing is known, so the answer is yes.
        """
        notifies = self._raw.notifies
        if notifies is self._notifies:
            return False
        return type(notifies) is not list or any(
            each.channel not in self._channels for each in notifies)

    def forgetOthers(self) -> None:
        """Remove those notifications."""
        self._raw.notifies = [
            each for each in self._raw.notifies if each.channel in self._channels]

    def _emptySinks(self) -> None:
        self._raw.notices = [] if self._notices is None else self._notices
        self._raw.notifies = [] if self._notifies is None else self._notifies

    # -- fail-over

    def _isReadOnly(self) -> bool:
        """Tell whether the server says that a transaction is read-only unless it asks not to."""
        return "on" in (self._raw.get_parameter_status("in_hot_standby"),
                        self._raw.get_parameter_status("default_transaction_read_only"))

    def becameReadOnly(self) -> bool:
        """Tell whether the server says that it has become read-only since the set-up.

        A user who handles the error of a write himself leaves no other sign of a fail-over.
        """
        return not self._wasReadOnly and self._isReadOnly() and not self.isReadOnlyByChoice()

    def isReadOnlyByChoice(self) -> bool:
        """Tell whether the transaction is read-only because its user, or the pool's, wanted it."""
        raw = self._raw
        if raw.closed:  # a closed connection knows nothing any more
            return False
        if raw.readonly or raw.info.dsn_parameters.get("target_session_attrs") in (
                "read-only", "standby", "prefer-standby"):
            return True
        # Reported since PostgreSQL 14. Before that it is not known, so the answer is no.
        states = [raw.get_parameter_status(name)
                  for name in ("in_hot_standby", "default_transaction_read_only")]
        if states == ["off", "off"]:
            return True  # SET TRANSACTION READ ONLY
        return states == ["off", "on"] and self._wasReadOnly  # a setting of role or database


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
