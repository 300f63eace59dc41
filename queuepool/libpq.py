"""libpq as psycopg2 uses it, see ``queuepool.postgres``."""

from __future__ import annotations

from psycopg2 import ProgrammingError
from psycopg2.extensions import make_dsn, parse_dsn

from queuepool.postgres import (CONNECT_DEFAULTS, LEAST_CONNECT_TIMEOUT, LONGEST_CONNECT_TIMEOUT,
                                UNREACHED, Conninfo, isPermanent, withoutSecrets)

__all__ = ["CONNECT_DEFAULTS", "CONNINFO", "LEAST_CONNECT_TIMEOUT", "LONGEST_CONNECT_TIMEOUT",
           "UNREACHED", "buildDsn", "checkOptions", "connectTimeout", "isPermanent",
           "withoutSecrets"]

CONNINFO = Conninfo("psycopg2", parse_dsn, make_dsn, ProgrammingError,
                    frozenset(("connection_factory", "cursor_factory")), frozenset(("dsn",)))
buildDsn, connectTimeout, checkOptions = CONNINFO.build, CONNINFO.connectTimeout, CONNINFO.check
