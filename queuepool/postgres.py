"""What is known of PostgreSQL and of libpq, its client library, whatever driver uses it.

Defaults, texts and options of a connect, the life of a session from its set-up to each put, and
the signs of a server that takes no writes.
``queuepool.psycopg2`` and ``queuepool.psycopg`` stand on it.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

from queuepool import dbapi
from queuepool.dbapi import PERMANENT, unknownOption, within
from queuepool.elsewhere import Elsewhere
from queuepool.errors import poolError

logger = logging.getLogger("queuepool")

#: libpq's numbers for what a session is doing.
IDLE, ACTIVE, INTRANS, INERROR, UNKNOWN = range(5)

#: The settings for a connection that does not set them itself. They are seconds, but
#: tcp_user_timeout is milliseconds. With them a query on a cut link fails after about idle +
#: interval * count = 30 s; the defaults of an operating system take 15 minutes to two hours.
CONNECT_DEFAULTS: Mapping[str, object] = {
    "connect_timeout": 10,
    "keepalives": 1, "keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3,
    "tcp_user_timeout": 30000,
}

#: Seconds. libpq counts connect_timeout in whole seconds, and takes a shorter one for this.
LEAST_CONNECT_TIMEOUT = 2

#: Seconds: libpq reads connect_timeout as a 32-bit integer of milliseconds.
LONGEST_CONNECT_TIMEOUT = 2_000_000

#: What libpq says when a connect did not reach a server that is in service. There is no SQLSTATE
#: then.
UNREACHED = re.compile("|".join((
    "Is the server running", "timeout expired", "server closed the connection unexpectedly",
    "session is read-only", "server is in hot standby mode",
    "the database system is (?:starting up|shutting down|in recovery mode|not )",
    *(re.escape(os.strerror(number)) for number in (
        errno.ECONNRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH,
        errno.ETIMEDOUT)))))

_INVALID = "invalid dsn"

#: Where libpq quotes a part of a DSN that it cannot read: it may be a password.
_QUOTED_DSN = re.compile('(: |after |option )".*"', re.DOTALL)

#: Where libpq, psycopg or the server say that they cannot use a value, which they quote.
_UNUSABLE = re.compile("(?:invalid|malformed|missing|unexpected|could not parse|bad value).*")

#: The quotes in that, but for names of settings.
_QUOTED_VALUE = re.compile(
    r"""((?:parameter|for connection option) "[^"\n]*")|(["'])(?:(?!\2)[^\n])*\2""")

#: What cannot be the name of a host: a wrong DSN may have led a part of the password there.
_QUOTED_HOST = re.compile(r"""(?<!role )(?<!user )(["'])(?:(?!\1)[^\n])*@(?:(?!\1)[^\n])*\1""")

#: All hosts of that DSN: a comma in the password has made several of it.
_HOSTS = re.compile(r"""((?:\bhost(?: name|:)?|server at) )(["'])(?:(?!\2)[^\n])*\2""")

#: What psycopg 3 writes before what libpq says.
_PREFIX = re.compile("^(?:- host: .*?: )?connection failed: ", re.MULTILINE)

#: The options of libpq that people set in programs; only for advice, so it need not be complete.
_LIBPQ_OPTIONS = (
    "host", "hostaddr", "port", "dbname", "user", "password", "passfile", "connect_timeout",
    "client_encoding", "options", "application_name", "fallback_application_name", "keepalives",
    "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout", "sslmode",
    "sslcert", "sslkey", "sslrootcert", "sslpassword", "service", "target_session_attrs",
    "channel_binding", "gssencmode", "load_balance_hosts")


class Conninfo(NamedTuple):
    """How a driver reads and writes a connection string, which libpq does for it."""

    #: Of the driver, for messages.
    name: str
    #: Return the options that a string sets.
    parse: Callable[[str], Mapping[str, Any]]
    #: Return a string that sets these options.
    make: Callable[..., str]
    #: What both raise for a string or an option that libpq does not know.
    error: type[Exception]
    #: The arguments of its connect that are callables themselves. Any other callable is called at
    #: each open, and returns the argument.
    factories: frozenset[str]
    #: The other arguments of its connect that libpq does not know.
    own: frozenset[str]

    def build(self, name: str, dsn: str | Callable[[], str] | None) -> str:
        """Return the DSN together with the defaults for what it does not set."""
        defaults = {"fallback_application_name": name, **CONNECT_DEFAULTS}
        if "PGCONNECT_TIMEOUT" in os.environ:
            del defaults["connect_timeout"]
        try:
            given = self.parse((dsn() if callable(dsn) else dsn) or "")
        except self.error as error:
            text = str(error)
            text = text if text.startswith(_INVALID) else f"{_INVALID}: {text}"
            raise self.error(withoutSecrets(text)) from None
        return str(self.make(**{**defaults, **given}))

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments for a connect: callables are called, but for the factories."""
        return {key: value() if callable(value) and key not in self.factories else value
                for key, value in given.items()}

    def connectTimeout(
            self, dsn: str | None, options: Mapping[str, Any], seconds: float | None) -> int | None:
        """Return the connect_timeout with which a connect takes at most about so many seconds.

        It holds for each host, so several hosts share the seconds. A shorter one that the DSN, the
        options or the environment set stays. None is no limit, also in ``seconds``.
        """
        given = {**self.parse(dsn or ""),
                 **{name: value for name, value in options.items() if value is not None}}
        own = given.get("connect_timeout", os.environ.get("PGCONNECT_TIMEOUT")) or 0
        try:
            timeout = int(own)
        except ValueError:  # libpq refuses it in its own words
            return None
        if seconds is not None and seconds < threading.TIMEOUT_MAX:
            hosts = next((given[name] for name in ("host", "hostaddr") if given.get(name)),
                         None) or os.environ.get("PGHOST") or os.environ.get("PGHOSTADDR") or ""
            share = max(LEAST_CONNECT_TIMEOUT, int(seconds / (str(hosts).count(",") + 1)))
            timeout = min(timeout, share) if timeout > 0 else min(share, LONGEST_CONNECT_TIMEOUT)
        return timeout if timeout > 0 else None

    def tryOut(self, name: str, dsn: str | Callable[[], str] | None,
               options: Mapping[str, Any]) -> None:
        """Raise the error of a connect that can be told without one."""
        self.make(self.build(name, None if callable(dsn) else dsn), **{
            key: value for key, value in options.items()
            if key not in self.factories | self.own and not callable(value)})

    def check(self, options: Iterable[str], known: Iterable[str]) -> None:
        """Raise TypeError if the driver's connect does not know one of these options.

        ``known`` are those that the caller itself has, for advice.
        """
        for option in options:
            if option in ("async", "async_"):
                raise TypeError(
                    f"{option!r} is not possible: the pool's connections are synchronous")
            if option not in self.factories and option not in self.own:
                try:
                    self.make(**{option: "1"})
                except self.error:
                    raise TypeError(unknownOption(
                        option, f"{self.name}.connect",
                        [*known, *_LIBPQ_OPTIONS, *self.factories])) from None


class ServerRole:
    """Whether the server of a session takes writes.

    ``status`` returns what the server has reported unasked of a setting, or None.
    """

    def __init__(self, status: Callable[[str], str | None]) -> None:
        self._status = status
        self._wasReadOnly = self._isReadOnly()

    def _isReadOnly(self) -> bool:
        """Tell whether the server says that a transaction is read-only unless it asks not to."""
        return "on" in (self._status("in_hot_standby"),
                        self._status("default_transaction_read_only"))

    def becameReadOnly(self) -> bool:
        """Tell whether the server says that it has become read-only since the session began."""
        return not self._wasReadOnly and self._isReadOnly()

    def isReadOnlyByChoice(self, isAsked: bool | None, attributes: str | None) -> bool:
        """Tell whether the transaction is read-only because its user, or the pool's, wanted it.

        ``isAsked``: whether the driver was told so. ``attributes``: the target_session_attrs.
        """
        if isAsked or attributes in ("read-only", "standby", "prefer-standby"):
            return True
        # Reported since PostgreSQL 14. Before that it is not known, so the answer is no.
        isStandby = self._status("in_hot_standby") != "off"
        default = self._status("default_transaction_read_only")
        if isStandby or default is None:
            return False
        # With "off" it is SET TRANSACTION READ ONLY, with "on" from the start a setting of the
        # role or of the database.
        return default == "off" or self._wasReadOnly


class Session:
    """A session as its pool has set it up, and how to get it back to that.

    ``raw`` is the driver's own connection, ``conn`` what is handed out: an agent that traces
    programs may have wrapped it around ``raw``. What sends something does so ``within`` a time
    limit. A driver's subclass says how.
    """

    #: The driver's exception of the database.
    _error: type[Exception]
    #: A block of the driver's that somebody may still be in, for a message.
    block: str

    #: What the session is doing, one of libpq's numbers. ACTIVE also if it is not fit for a take.
    status: Callable[[], int]
    #: What the server has reported unasked of a setting, or None.
    reported: Callable[[str], str | None]
    #: What it has reported of its user's rights.
    rights: Callable[[], object]

    def __init__(self, raw: Any, conn: Any, settings: Mapping[str, Any],
                 configure: Callable[[Any], object] | None,
                 within: Callable[[], AbstractContextManager[Any]]) -> None:
        """Set it up: make the settings that are not None, call ``configure`` and commit."""
        self._raw = raw
        self._within = within
        self._begin({name: value for name, value in settings.items() if value is not None})
        #: The channels to which ``configure`` listens.
        self._channels: frozenset[str] = frozenset()
        if configure is not None:
            configure(conn)
            if self.status() == INERROR:
                raise poolError("configure", "configure left a transaction in which a statement "
                                "has failed, so what it did would be rolled back")
            with within():
                self._commit()
                self._channels = self._listensTo()
        #: In one transaction, so that no notification for these is missed.
        self._endOthers = "; ".join(["UNLISTEN *", *(
            'LISTEN "' + channel.replace('"', '""') + '"' for channel in sorted(self._channels))])
        self._remember()
        #: They change as by SET ROLE, if one of the two roles is a superuser.
        self.ownRights = self.rights()

    def _begin(self, settings: Mapping[str, Any]) -> None:
        """Set ``status``, ``reported`` and ``rights``, and make the settings."""
        raise NotImplementedError

    def _commit(self) -> None:
        """Commit what ``configure`` has begun, if anything."""
        raise NotImplementedError

    def _listensTo(self) -> frozenset[str]:
        try:
            # A name: for text configure may have registered a typecaster.
            return frozenset(self._run("SELECT pg_listening_channels()::name"))
        except self._error:  # such as of a server that speaks PostgreSQL's protocol only
            if self._raw.closed:
                raise
            self._raw.rollback()
            return frozenset()

    def _remember(self) -> None:
        """Remember what it looks like now."""
        raise NotImplementedError

    def _run(self, statement: str) -> list[Any]:
        """Run a statement, leave no transaction, and return the first column of its rows."""
        raise NotImplementedError

    def restore(self, isBegun: bool) -> bool:
        """Roll back what was begun, and set back what its user changed. A clean one sends nothing.

        Return False if somebody is still in a block of the driver's, see ``block``: its end would
        end the transaction of the next user.
        """
        raise NotImplementedError

    def discard(self) -> None:
        """Discard the whole session. It has to be set up again."""
        raise NotImplementedError

    # -- what arrives while nobody has it

    def readUnasked(self, poll: Callable[[int], Any]) -> bool:
        """Read all that ``poll`` sees. Return whether there were notices."""
        raise NotImplementedError

    def hearsOthers(self) -> bool:
        """Tell whether there are notifications of what somebody forgot to UNLISTEN."""
        raise NotImplementedError

    def _forgetOthers(self) -> None:
        """Remove those notifications."""
        raise NotImplementedError

    def ask(self) -> None:
        """Have the server answer, and end what somebody forgot to UNLISTEN."""
        if not self.hearsOthers():
            # SHOW takes no snapshot: a deferrable transaction would have to wait for one.
            self._run("SHOW server_version")
        if self.hearsOthers():
            self._run(self._endOthers)
            self._forgetOthers()


def ofTaken(use: str) -> Any:
    """Stand for what is looked for on a pool, but belongs to a connection."""
    return Elsewhere(f"take a connection first: 'with pool.take() as conn: {use}'")


def withoutSecrets(text: str) -> str:
    """Return an error message of libpq without the values that it quotes from a wrong DSN."""
    if text.startswith(_INVALID):
        return _QUOTED_DSN.sub(r'\1"..."', text)
    text = _UNUSABLE.sub(lambda unusable: _QUOTED_VALUE.sub(
        lambda quoted: quoted[1] or '"..."', unusable[0]), text)
    if _QUOTED_HOST.search(text):
        text = _HOSTS.sub(r'\1"..."', text)
    return _QUOTED_HOST.sub('"..."', text)


def isPermanent(text: str) -> bool:
    """Tell whether the next connect would fail as this one did, on all hosts that were tried."""
    text = _PREFIX.sub("", text.partition("All failures were:\n")[2] or text)
    attempts = [attempt for attempt in text.split("connection to server ") if attempt.strip()]
    return bool(attempts) and all(map(PERMANENT.search, attempts))


class Connection(dbapi.Connection):
    """A connection to PostgreSQL, whatever driver has opened it."""

    _canDiscard = True
    _unfit = (ACTIVE, UNKNOWN)
    _conninfo: Conninfo
    _sessionType: type[Session]
    #: The attributes that are settings of the session.
    _settingNames: tuple[str, ...]

    def _connect(self) -> Any:
        pool = self.pool
        generation = pool and pool.generation
        startedAt = pool.clock() if pool else 0.0
        args = [value() if number == 0 and callable(value) else value
                for number, value in enumerate(self._args)]
        kwargs = self._conninfo.options(self._kwargs)
        isCut = False
        try:
            dsn = args[0] if args else kwargs.get("dsn")
            timeout = self._conninfo.connectTimeout(dsn, kwargs, self.timeLeft)
            if timeout is not None:
                isCut = timeout != self._conninfo.connectTimeout(dsn, kwargs, None)
                kwargs["connect_timeout"] = timeout
                self._watchConnect(args, kwargs, timeout)
            return self._driver.connect(*args, **kwargs)
        except self._driver.Error as error:
            text = withoutSecrets(str(error))
            if text != str(error):
                error.args = (text,)
            # One that only had too little time says nothing about what is open already.
            if isinstance(error, self._driver.OperationalError) and UNREACHED.search(text) and not (
                    isCut and "timeout expired" in text):
                self._invalidate(generation, startedAt)
            raise

    def _watchConnect(self, args: list[Any], kwargs: dict[str, Any], seconds: int) -> None:
        """Have a connect end after so many seconds where libpq does not see to it."""

    def isTransient(self, error: Exception) -> bool:
        """Return False for what a server or libpq refuses for good, such as a wrong password.

        It is recognised by the English text: drivers have no SQLSTATE for a failed connect. What
        ``configure`` raises is transient only if it is the driver's OperationalError.
        """
        if isinstance(error, self._driver.OperationalError):
            return not isPermanent(str(error))
        return not self._isSettingUp and not isinstance(error, self._driver.Error)

    def _setUp(self) -> None:
        """Set up a session to which nothing was done yet."""
        raw = self._raw
        self._session = self._sessionType(
            raw, self.resource, {name: getattr(self, name) for name in self._settingNames},
            self.configure, partial(within, raw, self.pingTimeout))
        self._status = self._session.status
        self._role = ServerRole(self._session.reported)

    def _clean(self, raw: Any) -> bool:
        """Undo what its user left behind. Return False if it cannot be used again."""
        session = self._session
        status = self._status()
        isBegun = status != IDLE
        if isBegun and (status in self._unfit or status == INERROR and self._hasFailedOver(raw)):
            return False
        if not session.restore(isBegun):
            self._tellOfBlock()
            return False
        if isBegun:
            self._tellRolledBack()
        if session.rights() != session.ownRights:
            self._discard()
        return True

    def _tellOfBlock(self) -> None:
        logger.warning(
            "pool %s: %r was put while somebody is in a block of %s, such as a generator that "
            "has not ended; it is closed, because the end of that block would end the "
            "transaction of another user [queuepool:in-block]",
            self.pool, self.name, self._session.block)

    def _discard(self) -> None:
        """Discard the whole session, and set it up as after open."""
        with self._within(self._raw):
            self._session.discard()
        self._setUp()

    def _readUnasked(self, raw: Any) -> bool:
        """Read what the server sent unasked. Raises the driver's Error if that was the end.

        Returns whether it has to be asked as well: a notice may be its last message, and the end
        of the connection may arrive after it; and what somebody else listened to has to end.
        """
        hasNotices = self._session.readUnasked(self._poll)
        return hasNotices or self._session.hearsOthers()

    def _ask(self, raw: Any) -> bool:
        self._session.ask()
        return True

    def _isReadOnlyByChoice(self, raw: Any) -> bool:
        """Tell whether the transaction is read-only because its user, or the pool's, wanted it."""
        raise NotImplementedError

    def _hasFailedOver(self, raw: Any) -> bool:
        """Tell whether a failed transaction is the sign of a fail-over, and act on it.

        A user who handles the error of a write himself leaves no other sign.
        """
        if not self._role.becameReadOnly() or self._isReadOnlyByChoice(raw):
            return False
        self._invalidateOlder()
        return True

    def _noteStates(self, raw: Any, states: Iterable[str | None]) -> None:
        """Act on the SQLSTATEs of errors: 25006 says that the server has become read-only."""
        if "25006" in states and not self._isReadOnlyByChoice(raw):
            self._invalidateOlder()
