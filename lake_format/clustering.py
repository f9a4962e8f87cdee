"""Clustering: the order in which a table's rows lie, and how fragments remember it (spec/partitions.md, CLU clauses).

Values and checks only; rows are brought into order by the engine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa

from lake_format.errors import InvalidInputError
from lake_format.schema import field_by_id, field_id, require_column
from lake_format.statistics import bound_kind

__all__ = ["CLUSTERING_PROPERTY", "METHODS", "Clustering", "check_clustering", "clustering_of"]

CLUSTERING_PROPERTY = "clustering"
"""The property that holds the order in which rows are written, as :class:`Clustering` is stored."""
METHODS = ("hilbert", "zorder", "linear")
_MOST_COLUMNS = 16
_STORED = re.compile(r"(hilbert|zorder|linear|vector):(\d+(?:,\d+)*)(?:@([0-9a-zA-Z-]+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Clustering:
    """An order of rows.

    Attributes
    ----------
    method
        ``hilbert``, ``zorder``, ``linear``, or ``vector``: the order of the lists of an index.
    field_ids
        The columns, by field id.
    index_id
        The index, for ``vector``.
    """

    method: str
    field_ids: tuple[int, ...]
    index_id: str | None = None

    def __str__(self) -> str:
        text = f"{self.method}:{','.join(map(str, self.field_ids))}"
        return text if self.index_id is None else f"{text}@{self.index_id}"

    @classmethod
    def parse(cls, text: str) -> Clustering | None:
        """The order that a stored text names; None for one that this release does not know."""
        found = _STORED.fullmatch(text)
        if found is None:
            return None
        ids = tuple(int(part) for part in found.group(2).split(","))
        return cls(method=found.group(1), field_ids=ids, index_id=found.group(3))

    def within(self, schema: pa.Schema) -> Clustering | None:
        """The order by those columns that the schema still has; None where none is left."""
        ids = tuple(one for one in self.field_ids if field_by_id(schema, one) is not None)
        if not ids:
            return None
        method = "linear" if len(ids) == 1 and self.method in METHODS else self.method
        return Clustering(method=method, field_ids=ids, index_id=self.index_id)


def check_clustering(schema: pa.Schema, columns: object, method: object = None) -> Clustering:
    """The order by columns as users name them.

    Parameters
    ----------
    method
        ``hilbert`` (the default for several columns), ``zorder`` or ``linear`` (the default for one).

    Raises
    ------
    InvalidInputError
        An unknown method or column, a type without order, a column given twice.
    """
    names = [columns] if isinstance(columns, str) else list(columns) if isinstance(columns, Iterable) else []
    if not 0 < len(names) <= _MOST_COLUMNS or not all(isinstance(name, str) for name in names):
        raise InvalidInputError(f"rows are clustered by 1 to {_MOST_COLUMNS} column names, not {columns!r}")
    chosen = ("linear" if len(names) == 1 else "hilbert") if method is None else method
    if chosen not in METHODS:
        raise InvalidInputError(
            f"unknown clustering method {method!r}", fix=f"methods are {', '.join(METHODS)}"
        )
    ids = []
    for name in names:
        field = require_column(schema, name)
        if bound_kind(field.type) is None:
            raise InvalidInputError(
                f"rows cannot be clustered by column {name!r}: values of type {field.type} have no order",
                fix="a vector column is clustered by its index: cluster(vector=...)",
            )
        if names.count(name) > 1:
            raise InvalidInputError(f"column {name!r} is given twice")
        ids.append(field_id(field))
    return Clustering(method=str(chosen), field_ids=tuple(ids))


def clustering_of(properties: Mapping[str, str], schema: pa.Schema) -> Clustering | None:
    """The order in which a table's rows are written; None where they stay in theirs."""
    stored = Clustering.parse(properties.get(CLUSTERING_PROPERTY, ""))
    return None if stored is None else stored.within(schema)
