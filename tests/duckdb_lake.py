"""Tables for the DuckDB tests, and DuckDB's own copy of their rows to compare with."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import duckdb
import lake_rows
import pyarrow as pa
from lake_rows import DIMENSION, ROWS, SCHEMA, query, rows

import lake_format as lake
from lake_connectors.duckdb import LakeConnection, Pushdown, connect

INTERFACES = ("sources", "public")
__all__ = ["DIMENSION", "INTERFACES", "ROWS", "SCHEMA", "Lake", "attached", "filled_table", "new_table"]
__all__ += ["plain_connection", "query", "rows"]
_numbers = itertools.count()


def new_table(schema: pa.Schema = SCHEMA) -> lake.Table:
    return lake.create(f"memory://duckdb-tests-{next(_numbers)}", schema)


def filled_table() -> lake.Table:
    return lake_rows.filled_table(f"memory://duckdb-tests-{next(_numbers)}")


@dataclass
class Lake:
    """A table attached as ``items``, DuckDB's copy of it as ``copied``, and what reached the table."""

    table: lake.Table
    con: LakeConnection
    seen: list[Pushdown] = field(default_factory=list)

    def same(self, sql: str, parameters: object = None, *, ordered: bool = False) -> list[Any]:
        """Run a statement over ``items``, twice, and over the copy; the rows, which are the same."""
        first = self.con.execute(sql, parameters).fetchall()
        found = self.con.execute(sql, parameters).fetchall()
        if not ordered:
            first = sorted(first, key=repr)
        expected = self.con.duckdb.execute(sql.replace("items", "copied"), parameters).fetchall()
        if not ordered:
            found, expected = sorted(found, key=repr), sorted(expected, key=repr)
        assert repr(first) == repr(found) == repr(expected), sql  # by text, as NaN is not equal to itself
        return found

    def nearest(self, condition: str, k: int, query: list[float]) -> list[int]:
        """The ids that DuckDB itself finds nearest among the copied rows."""
        sql = f"""SELECT id FROM copied WHERE vec IS NOT NULL AND ({condition})
            ORDER BY array_distance(vec, ?::FLOAT[{DIMENSION}]) LIMIT {k}"""
        return [row[0] for row in self.con.duckdb.execute(sql, [query]).fetchall()]


def attached(interface: str, table: lake.Table) -> Lake:
    made = Lake(table, connect(interface=interface))
    made.con.execute("SET TimeZone = 'UTC'")
    made.con.attach(table, "items", observer=made.seen.append)
    source = table.to_arrow()
    made.con.duckdb.register("source", source)
    made.con.duckdb.execute("CREATE TABLE copied AS SELECT * FROM source")
    made.con.duckdb.unregister("source")
    return made


def plain_connection() -> duckdb.DuckDBPyConnection:
    return duckdb.connect()
