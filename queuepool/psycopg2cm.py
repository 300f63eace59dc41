"""The connection managers of 1.3.2, for programs written for it; new ones use queuepool.psycopg2.

In a with statement they hand out themselves; psycopg2's connection is their ``resource``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, Union

from queuepool.psycopg2 import Connection

M = TypeVar("M", bound="ConnectionManager")

Arguments = Union[Sequence[Any], Mapping[str, Any], None]
Row = dict[str, Any]


class ConnectionManager(Connection):
    """Be one connection, and hand out itself."""

    def handOut(self, target: Any) -> None:
        """Have the with statement hand out the manager itself, whatever was opened."""
        super().handOut(self)

    if TYPE_CHECKING:
        def __enter__(self: M) -> M: ...  # type: ignore[override]

    def repair(self) -> None:
        """Make the connection clean, or close it if it is lost; the put hook, by its old name."""
        super().putRepair()

    def putRepair(self) -> None:
        """Call ``repair``, which subclasses of 1.3.2's may have overridden."""
        self.repair()


class ConnectionManagerExtended(ConnectionManager):
    """Run queries without a cursor of one's own. All of it blocks and raises as psycopg2 does."""

    def now_expr(self, t: float = 0) -> str:
        """Return the SQL for the time in ``t`` seconds, in milliseconds since 1970."""
        return f"((extract(epoch from now())+{t})*1000)::bigint"

    def query(self, query: Any, args: Arguments = None) -> list[Row]:
        """Return the rows of a query, each as a dict by column name."""
        rows, columns = self.querys(query, args)
        return [{column[0]: value for column, value in zip(columns, row)} for row in rows]

    def querys(self, query: Any, args: Arguments = None) -> tuple[list[Any], Any]:
        """Return the rows of a query as tuples, and the cursor's description of their columns."""
        with self.resource.cursor() as cur:  # type: ignore[union-attr]
            cur.execute(query, args)
            description = cur.description
            return cur.fetchall(), description

    def query1(self, query: Any, args: Arguments = None) -> Row | None:
        """Return the one row of a query, or None if there are none or several."""
        rows = self.query(query, args)
        return rows[0] if len(rows) == 1 else None

    def qexec(self, query: Any, args: Arguments = None) -> None:
        """Run a statement that returns nothing."""
        with self.resource.cursor() as cur:  # type: ignore[union-attr]
            cur.execute(query, args)

    def geojson(self, geomColumn: str, attrColumns: Sequence[str], selectQuery: str,
                args: Arguments = None, prec: int = 5) -> Row:
        """Return the rows of a query as a GeoJSON FeatureCollection; needs PostGIS.

        ``geomColumn`` becomes each feature's geometry, with ``prec`` decimals, and
        ``attrColumns`` its properties.
        """
        from psycopg2 import sql  # here, so that without the driver the import above says so

        statement = sql.SQL(
            "with x as (" + selectQuery + ") select ST_AsGeoJSON({}," + str(int(prec))
            + ") as geometry,{} from x").format(
                sql.Identifier(geomColumn), sql.SQL(", ").join(map(sql.Identifier, attrColumns)))
        features = [
            dict(type="Feature", geometry=json.loads(row["geometry"]),
                 properties={key: row[key] for key in row if key != "geometry"})
            for row in self.query(statement, args)]
        return dict(type="FeatureCollection", features=features)
