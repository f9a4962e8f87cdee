"""A table's schema as its relations show it to DuckDB, and the names of their hidden columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import pyarrow as pa

from lake_connectors.adapter.following import Follower, Observer
from lake_connectors.duckdb.gate import GATE_TYPE
from lake_connectors.duckdb.types import TYPES
from lake_engines.files.dictionaries import with_dictionaries
from lake_format.schema import DISTANCE, DISTANCE_FIELD, ROW_ID, ROW_ID_FIELD
from lake_format.table import Table

__all__ = ["GATE", "KNN", "RANK", "Shown", "TableFollower", "follow"]

KNN, GATE, RANK = "_knn", "_gate", "_rank"
"""Hidden columns: the request for neighbours, a row's way through the gate, a kept row's number."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A table's schema in the forms in which its relations show it; made once per schema.

    Attributes
    ----------
    rows, hidden, found
        The table's own columns; with the hidden ones before them; with those that knn() shows after them.
    coded
        The table's own columns, text as dictionaries.
    """

    rows: pa.Schema
    coded: pa.Schema
    hidden: pa.Schema
    found: pa.Schema

    @classmethod
    def of(cls, schema: pa.Schema) -> Shown:
        """The forms of a table's schema."""
        rows = TYPES.schema(schema)
        internal = (pa.field(KNN, pa.string()), pa.field(GATE, GATE_TYPE))
        open_ = (pa.field(ROW_ID, ROW_ID_FIELD.type), pa.field(DISTANCE, DISTANCE_FIELD.type))
        return cls(
            rows, with_dictionaries(rows), pa.schema([*internal, *open_, *rows]), pa.schema([*rows, *open_])
        )


TableFollower: TypeAlias = Follower[Shown]


def follow(
    name: str, table: Table, max_staleness: float = 0.0, observer: Observer | None = None
) -> TableFollower:
    """A table as DuckDB's statements see it."""
    hidden = frozenset({KNN, GATE})
    return Follower(name, table, Shown.of, max_staleness=max_staleness, observer=observer, hidden=hidden)
