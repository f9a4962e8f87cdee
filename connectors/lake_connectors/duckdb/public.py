"""Relations through DuckDB's public API alone: a ``pyarrow.dataset.Dataset`` per relation.

Projection and predicates arrive, as pyarrow expressions; DuckDB offers fewer predicates than to a source (none
that NaN could satisfy) and keeps the schema it saw first, so that new columns need the table attached again —
which a :class:`~lake_connectors.duckdb.connection.LakeConnection` does by itself.
"""

from __future__ import annotations

from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from lake_connectors.adapter.requests import ReadRequest
from lake_connectors.duckdb.relations import Relation
from lake_connectors.duckdb.showing import KNN
from lake_engines.predicate import from_arrow
from lake_engines.predicate.tree import Column as ColumnNode
from lake_engines.predicate.tree import Expression, walk
from lake_format.errors import UnsupportedError

__all__ = ["DICTIONARIES", "RANKS_SQL", "plug"]

RANKS_SQL = """SELECT _rank FROM query_table({table}) WHERE _knn COLLATE C = {request}
UNION ALL SELECT range FROM range(-1000, 0)"""
"""Reads the numbers of kept rows. A dataset gives no row estimate; numbers that match no row make this side of
the join the larger one, which DuckDB reads last."""


DICTIONARIES = False
"""Whether text is handed over as dictionaries; a dataset's filters would see them."""


class _Reading:
    """What DuckDB needs of a scanner; pyarrow's own would read ahead, and each step ahead is a wider search."""

    def __init__(self, reader: pa.RecordBatchReader) -> None:
        self._reader = reader
        self.projected_schema = reader.schema

    def to_reader(self) -> pa.RecordBatchReader:
        """The stream."""
        return self._reader


class PublicDataset(ds.Dataset):  # type: ignore[misc]
    """A relation as a dataset."""

    def __init__(self, relation: Relation) -> None:
        self._relation = relation

    @property
    def schema(self) -> pa.Schema:
        """The relation's columns."""
        return self._relation.schema()

    def scanner(
        self,
        columns: list[str] | None = None,
        filter: pc.Expression | None = None,  # noqa: A002 - pyarrow's name
        **_: object,
    ) -> _Reading:
        """The rows that pass ``filter``, with only ``columns``."""
        names = tuple(self.schema.names if columns is None else columns)
        predicates, rest = ((), None) if filter is None else _split(filter)
        request = ReadRequest(columns=names, predicates=predicates, rules="arrow", rest=rest)
        reader = self._relation.read(request)
        return _Reading(reader)

    def _get_fragments(self, *_: object) -> NoReturn:
        raise UnsupportedError("this dataset serves DuckDB scans only")


def _split(expression: pc.Expression) -> tuple[tuple[Expression, ...], pc.Expression | None]:
    """Separate the conjuncts of a neighbour search, and what of it has to be evaluated by Arrow afterwards."""
    whole = from_arrow(expression)
    hidden = any(isinstance(node, ColumnNode) and node.path[0] in (KNN, "_distance") for node in walk(whole))
    if not hidden:
        return (whole,), None
    return whole.translated, None if whole.complete else expression


def plug(relation: Relation) -> Any:
    """What to register with ``con.register``."""
    return PublicDataset(relation)
