"""What is known of PostgreSQL and of libpq, its client library, whatever driver uses it.

Defaults, texts and options of a connect, and the signs of a server that takes no writes.
``queuepool.psycopg2`` and ``queuepool.psycopg`` stand on it.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from queuepool import dbapi
from queuepool.dbapi import PERMANENT, unknownOption
from queuepool.elsewhere import Elsewhere
from queuepool.errors import PoolError, poolError

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

#: Where libpq or the server say that they cannot use a value, which they quote.
_UNUSABLE = re.compile("(?:invalid|malformed|missing|unexpected).*")

#: The quotes in that, but for names of settings.
_QUOTED_VALUE = re.compile(r'((?:parameter|for connection option) "[^"\n]*")|"[^"\n]*"')

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


class Listening:
    """The channels to which ``configure`` listens."""

    def __init__(self, channels: Iterable[str] = ()) -> None:
        self.channels = frozenset(channels)
        #: In one transaction, so that no notification for these is missed.
        self.endOthers = "; ".join(["UNLISTEN *", *(
            'LISTEN "' + channel.replace('"', '""') + '"' for channel in sorted(self.channels))])

    @classmethod
    def ask(cls, raw: Any, run: Callable[[Any, str], list[Any]],
            error: type[Exception]) -> Listening:
        """Ask what a session listens to that was configured, and is in no transaction."""
        try:
            # A name: for text configure may have registered a typecaster.
            return cls(run(raw, "SELECT pg_listening_channels()::name"))
        except error:  # such as of a server that speaks PostgreSQL's protocol only
            if raw.closed:
                raise
            raw.rollback()
            return cls()


def ofTaken(use: str) -> Any:
    """Stand for what is looked for on a pool, but belongs to a connection."""
    return Elsewhere(f"take a connection first: 'with pool.take() as conn: {use}'")


def configureError() -> PoolError:
    """Return what is raised if ``configure`` has handled the error of a statement itself."""
    return poolError("configure", "configure left a transaction in which a statement has failed, "
                     "so what it did would be rolled back")


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
    _role: ServerRole

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

    def _tellInBlock(self, block: str) -> None:
        logger.warning(
            "pool %s: %r was put while somebody is in a block of %s, such as a "
            "generator that has not ended; it is closed, because the end of that block would "
            "end the transaction of another user [queuepool:in-block]", self.pool, self.name, block)
