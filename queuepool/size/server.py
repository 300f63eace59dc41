"""What the server allows, and what its sessions wait for, seen through one more connection."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

from queuepool.demo import CANCEL, DemoError, importPool, oneLine

#: Others are the client backends that do not bear our application_name. A role without privileges
#: does not see the backend_type of other roles.
FACTS = """
WITH other AS (
    SELECT usesysid, datid FROM pg_catalog.pg_stat_activity
    WHERE usesysid IS NOT NULL AND coalesce(backend_type, 'client backend') = 'client backend'
        AND application_name IS DISTINCT FROM %(label)s)
SELECT current_setting('max_connections')::int,
    current_setting('superuser_reserved_connections')::int
        + coalesce(current_setting('reserved_connections', true)::int, 0),
    (SELECT count(*) FROM other),
    CASE WHEN NOT role.rolsuper AND role.rolconnlimit >= 0 THEN role.rolconnlimit END,
    (SELECT count(*) FROM other WHERE usesysid = role.oid),
    CASE WHEN NOT role.rolsuper AND base.datconnlimit >= 0 THEN base.datconnlimit END,
    (SELECT count(*) FROM other WHERE datid = base.oid)
FROM pg_catalog.pg_roles role, pg_catalog.pg_database base
WHERE role.rolname = session_user AND base.datname = current_database()
"""

SESSIONS = """
SELECT CASE WHEN state <> 'active' THEN 'Client' ELSE coalesce(wait_event_type, 'CPU') END
FROM pg_catalog.pg_stat_activity
WHERE application_name = %(label)s AND pid <> pg_backend_pid() AND state IS NOT NULL
"""

OURS = """
SELECT count(*) FROM pg_catalog.pg_stat_activity
WHERE application_name = %(label)s AND pid <> pg_backend_pid()
"""


@dataclass(frozen=True)
class Facts:
    """How many connections the server allows, and who has them. None is no limit."""

    maxConnections: int
    reserved: int
    others: int
    roleLimit: int | None
    roleOthers: int
    databaseLimit: int | None
    databaseOthers: int

    @property
    def free(self) -> int:
        """How many connections a pool may open; one that watches the server is open already."""
        free = [self.maxConnections - self.reserved - self.others]
        if self.roleLimit is not None:
            free.append(self.roleLimit - self.roleOthers)
        if self.databaseLimit is not None:
            free.append(self.databaseLimit - self.databaseOthers)
        return min(free) - 1

    def __str__(self) -> str:
        text = (f"max_connections {self.maxConnections}, {self.reserved} of them reserved; "
                f"other clients have {self.others}")
        if self.roleLimit is not None:
            text += f"; this role may have {self.roleLimit}, others of it have {self.roleOthers}"
        if self.databaseLimit is not None:
            text += (f"; this database may have {self.databaseLimit}, others on it have "
                     f"{self.databaseOthers}")
        return text


class Server:
    """The server, watched through one connection of its own. It writes nothing."""

    def __init__(self, dsn: str, label: str) -> None:
        """Open nothing. Raises DemoError if the DSN is wrong."""
        self._label = label
        try:
            self._pool: Any = importPool()("size-watch", 1, dsn, autocommit=True, maxOpenTime=None,
                                           maxUsageCount=None, application_name=label)
        except Exception as error:
            raise DemoError(f"the DSN is wrong: {oneLine(error)}") from error

    def connect(self) -> tuple[str, str]:
        """Connect, and return version and host. Raises DemoError if that fails."""
        try:
            with self._pool.take() as conn:
                version: int = conn.server_version
                host: str = conn.info.host or ""
        except Exception as error:
            raise DemoError(f"cannot connect to the database: {oneLine(error)}") from error
        return f"{version // 10000}.{version % 10000}", host

    def facts(self) -> Facts:
        """Ask the server. Raises DemoError if it does not tell."""
        try:
            return Facts(*self._query(FACTS)[0])
        except Exception as error:
            raise DemoError("the server does not tell how many connections it allows: "
                            f"{oneLine(error)}") from error

    def sessions(self) -> Counter[str]:
        """Return how many of our sessions wait for what; "CPU": they run, or wait for a core."""
        return Counter(kind for kind, in self._query(SESSIONS))

    def countOurs(self) -> int:
        """Return how many sessions the server has of ours, besides this one."""
        count: int = self._query(OURS)[0][0]
        return count

    def cancel(self) -> None:
        """Cancel what our other sessions run. Blocks until the server answers."""
        with contextlib.suppress(Exception):  # as when it does not answer
            self._query(CANCEL)

    def close(self) -> None:
        """Close the connection."""
        self._pool.close()

    def _query(self, statement: str) -> list[Any]:
        with self._pool.take() as conn, conn.cursor() as cursor:
            cursor.execute(statement, {"label": self._label})
            rows: list[Any] = cursor.fetchall()
            return rows
