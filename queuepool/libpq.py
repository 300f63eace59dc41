"""What is known of libpq, PostgreSQL's client library: its defaults, texts and options."""

from __future__ import annotations

import difflib
import errno
import os
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from psycopg2 import ProgrammingError
from psycopg2.extensions import make_dsn, parse_dsn

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

#: The arguments of psycopg2.connect that are callables themselves. Any other callable is called
#: at each open, and returns the argument.
FACTORIES = frozenset(("connection_factory", "cursor_factory"))

#: What psycopg2.connect knows and libpq does not.
_OPTIONS_OF_PSYCOPG2 = FACTORIES | {"dsn"}

#: What libpq says when a connect did not reach a server that is in service. There is no SQLSTATE
#: then.
UNREACHED = re.compile("|".join((
    "Is the server running", "timeout expired", "server closed the connection unexpectedly",
    "session is read-only", "server is in hot standby mode",
    "the database system is (?:starting up|shutting down|in recovery mode|not )",
    *(re.escape(os.strerror(number)) for number in (
        errno.ECONNRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH,
        errno.ETIMEDOUT)))))

#: What PostgreSQL, PgBouncer and libpq say when the next attempt would fail as well.
_PERMANENT = re.compile("|".join((
    r'(?:role|database) ".*" does not exist', "authentication failed", "no password supplied",
    "no pg_hba.conf entry", "pg_hba.conf rejects", "is not permitted to log in",
    "permission denied for database", "unrecognized configuration parameter",
    "unsupported startup parameter", "invalid value for parameter",
    "no such (?:database|user)", "certificate verify failed", "does not support SSL",
    "root certificate file .* does not exist")))

#: Where libpq quotes a part of a DSN that it cannot read: it may be a password.
_QUOTED_DSN = re.compile('(: |after |option )".*"', re.DOTALL)

#: Where libpq or the server say that they cannot use a value, which they quote.
_UNUSABLE = re.compile("(?:invalid|malformed|missing|unexpected).*")

#: The quotes in that, but for names of settings.
_QUOTED_VALUE = re.compile(r'((?:parameter|for connection option) "[^"\n]*")|"[^"\n]*"')

#: What cannot be the name of a host: a wrong DSN may have led a part of the password there.
_QUOTED_HOST = re.compile(r'(?<!role )(?<!user )"[^"\n]*@[^"\n]*"')

#: How other pools call what these options do.
_OTHER_NAMES = {
    "minconn": "minOpen", "minsize": "minOpen", "minconnections": "minOpen",
    "maxconn": "capacity", "maxsize": "capacity", "maxconnections": "capacity",
    "poolsize": "capacity", "size": "capacity",
    "timeout": "takeTimeout", "pooltimeout": "takeTimeout", "waittimeout": "takeTimeout",
    "maxidle": "maxIdleTime", "idletimeout": "maxIdleTime",
    "maxlifetime": "maxOpenTime", "maxage": "maxOpenTime", "poolrecycle": "maxOpenTime",
    "maxusage": "maxUsageCount", "poolpreping": "pingTime", "ping": "pingTime",
    "reconnecttimeout": "openRetryTime", "resetsession": "reset",
}

#: The options of libpq that people set in programs; only for advice, so it need not be complete.
_LIBPQ_OPTIONS = (
    "host", "hostaddr", "port", "dbname", "user", "password", "passfile", "connect_timeout",
    "client_encoding", "options", "application_name", "fallback_application_name", "keepalives",
    "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout", "sslmode",
    "sslcert", "sslkey", "sslrootcert", "sslpassword", "service", "target_session_attrs",
    "channel_binding", "gssencmode", "load_balance_hosts", "connection_factory",
    "cursor_factory")


def buildDsn(name: str, dsn: str | Callable[[], str] | None) -> str:
    """Return the DSN together with the defaults for what it does not set."""
    defaults = {"fallback_application_name": name, **CONNECT_DEFAULTS}
    if "PGCONNECT_TIMEOUT" in os.environ:
        del defaults["connect_timeout"]
    try:
        given = parse_dsn((dsn() if callable(dsn) else dsn) or "")
    except ProgrammingError as error:
        raise ProgrammingError(withoutSecrets(str(error))) from None
    return str(make_dsn(**{**defaults, **given}))


def withoutSecrets(text: str) -> str:
    """Return an error message of libpq without the values that it quotes from a wrong DSN."""
    if text.startswith("invalid dsn"):
        return _QUOTED_DSN.sub(r'\1"..."', text)
    text = _UNUSABLE.sub(lambda unusable: _QUOTED_VALUE.sub(
        lambda quoted: quoted[1] or '"..."', unusable[0]), text)
    return _QUOTED_HOST.sub('"..."', text)


def isPermanent(text: str) -> bool:
    """Tell whether the next connect would fail as this one did, on all hosts that were tried."""
    attempts = [attempt for attempt in text.split("connection to server ") if attempt.strip()]
    return bool(attempts) and all(map(_PERMANENT.search, attempts))


def connectTimeout(
        dsn: str | None, options: Mapping[str, Any], seconds: float | None) -> int | None:
    """Return the connect_timeout with which a connect takes at most about so many seconds.

    It holds for each host, so several hosts share the seconds. A shorter one that the DSN, the
    options or the environment set stays. None is no limit, also in ``seconds``.
    """
    given = {**parse_dsn(dsn or ""),
             **{name: value for name, value in options.items() if value is not None}}
    own = given.get("connect_timeout", os.environ.get("PGCONNECT_TIMEOUT")) or 0
    try:
        timeout = int(own)
    except ValueError:  # libpq refuses it in its own words
        return None
    if seconds is not None and seconds < threading.TIMEOUT_MAX:
        hosts = next((given[name] for name in ("host", "hostaddr") if given.get(name)), None) or (
            os.environ.get("PGHOST") or os.environ.get("PGHOSTADDR") or "")
        share = max(LEAST_CONNECT_TIMEOUT, int(seconds / (str(hosts).count(",") + 1)))
        timeout = min(timeout, share) if timeout > 0 else min(share, LONGEST_CONNECT_TIMEOUT)
    return timeout if timeout > 0 else None


def checkOptions(options: Iterable[str], known: Iterable[str]) -> None:
    """Raise TypeError if psycopg2.connect does not know one of these options.

    ``known`` are those that the caller itself has, for advice.
    """
    for option in options:
        if option in ("async", "async_"):
            raise TypeError(f"{option!r} is not possible: the pool's connections are synchronous")
        if option not in _OPTIONS_OF_PSYCOPG2:
            try:
                make_dsn(**{option: "1"})
            except ProgrammingError:
                nearest = _nearest(option, [*known, *_LIBPQ_OPTIONS])
                raise TypeError(
                    f"{option!r} is neither an option of the pool nor one of psycopg2.connect"
                    + (f"; did you mean {nearest!r}?" if nearest else "")) from None


def _nearest(option: str, known: Iterable[str]) -> str | None:
    """Return the known option that was probably meant, or None."""
    names = {**_OTHER_NAMES, **{_plain(name): name for name in known}}
    found = difflib.get_close_matches(_plain(option), names, n=1, cutoff=0.7)
    return names[found[0]] if found else None


def _plain(option: str) -> str:
    return option.replace("_", "").lower()
