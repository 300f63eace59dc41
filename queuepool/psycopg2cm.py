"""The connection managers of 1.3.2, for programs written for it. New ones use queuepool.psycopg2.

``with pool.take() as manager`` hands out the manager; its ``resource`` is psycopg2's connection.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from queuepool.elsewhere import Elsewhere
from queuepool.psycopg2 import Connection

Arguments = Sequence[Any] | Mapping[str, Any] | None
Row = dict[str, Any]


def _ofManager(use: str) -> Any:
    return Elsewhere(f"psycopg2's connection has it: write 'manager.resource.{use}'")


class ConnectionManager(Connection):
    """A connection that a with statement hands out as it is: the manager, not what it opened."""

    if TYPE_CHECKING:
        def __enter__(self) -> Self: ...  # type: ignore[override]
    else:
        cursor = _ofManager("cursor()")
        commit = _ofManager("commit()")
        rollback = _ofManager("rollback()")
        execute = _ofManager("cursor()")

    def handOut(self, target: Any) -> None:
        """Have the with statement hand out the manager, whatever ``target`` is."""
        super().handOut(self)

    def repair(self) -> None:
        """Clean the connection, or close it if it is lost. The name of ``putRepair`` in 1.3.2.

        Blocks and raises as ``Connection.putRepair`` does.
        """
        super().putRepair()
        if self.isOpen and self._references is not None and self._isInUse(sys.maxsize):
            self.close()

    def putRepair(self) -> None:
        """Call ``repair``, which a subclass written for 1.3.2 may have overridden."""
        self.repair()


class ConnectionManagerExtended(ConnectionManager):
    """A connection manager with methods that run a query and return its rows.

    Each of them blocks until the server has answered, and raises what psycopg2 raises.
    """

    def now_expr(self, t: float = 0) -> str:
        """Return SQL for the time ``t`` seconds from now, in milliseconds since 1970."""
        return f"((extract(epoch from now())+{t})*1000)::bigint"

    def query(self, query: Any, args: Arguments = None) -> list[Row]:
        """Run a query and return its rows, each as a dict from column name to value."""
        rows, columns = self.querys(query, args)
        return [{column[0]: value for column, value in zip(columns, row)} for row in rows]

    def querys(self, query: Any, args: Arguments = None) -> tuple[list[Any], Any]:
        """Run a query and return its rows as tuples, and the description of its columns."""
        with self.resource.cursor() as cur:  # type: ignore[union-attr]
            cur.execute(query, args)
            description = cur.description
            return cur.fetchall(), description

    def query1(self, query: Any, args: Arguments = None) -> Row | None:
        """Run a query and return its row, or None if there is no row or more than one."""
        rows = self.query(query, args)
        return rows[0] if len(rows) == 1 else None

    def qexec(self, query: Any, args: Arguments = None) -> None:
        """Run a statement that returns nothing."""
        with self.resource.cursor() as cur:  # type: ignore[union-attr]
            cur.execute(query, args)

    def geojson(self, geomColumn: str, attrColumns: Sequence[str], selectQuery: str,
                args: Arguments = None, prec: int = 5) -> Row:
        """Run a query and return its rows as a GeoJSON FeatureCollection. Needs PostGIS.

        ``geomColumn`` is the geometry of each feature, with ``prec`` decimals; ``attrColumns``
        are its properties.
        """
        from psycopg2 import sql  # not above: queuepool.psycopg2 says how to install the driver

        statement = sql.SQL(
            "with x as (" + selectQuery + ") select ST_AsGeoJSON({}," + str(int(prec))
            + ") as geometry,{} from x").format(
                sql.Identifier(geomColumn), sql.SQL(", ").join(map(sql.Identifier, attrColumns)))
        features = [
            dict(type="Feature", geometry=json.loads(row["geometry"]),
                 properties={key: row[key] for key in row if key != "geometry"})
            for row in self.query(statement, args)]
        return dict(type="FeatureCollection", features=features)
