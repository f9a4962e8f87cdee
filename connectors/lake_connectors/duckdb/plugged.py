"""Relations as DuckDB scan sources: the fuller of two ways in, with row estimates and new columns at every bind.

DuckDB's Python package wraps every Arrow object in a source of its private module ``duckdb._sources``; an object
that is a source already is used as it is. :func:`check_contract` tells whether the installed module is the one
this was written for; where it is not, `public` takes over.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from duckdb._sources import adapt
from duckdb._sources.arrow import ArrowScanSource
from duckdb._sources.nodes import Binary, Col, In, Lit, Postfix, Unary, exact_value

from lake_connectors.adapter.requests import ReadRequest
from lake_connectors.duckdb.predicates import UntranslatedError, translate
from lake_connectors.duckdb.relations import Relation

__all__ = ["DICTIONARIES", "RANKS_SQL", "check_contract", "plug"]

RANKS_SQL = "SELECT _rank FROM query_table({table}) WHERE _knn COLLATE C = {request}"
"""Reads the numbers of kept rows; the row estimate of the relation puts it on the side of the join read last."""


DICTIONARIES = True
"""Whether text is handed over as dictionaries: DuckDB shows VARCHAR all the same, and groups by code."""


class PluggedSource(ArrowScanSource):  # type: ignore[misc]
    """A relation as a scan source."""

    schema_is_stable = False

    def __init__(self, relation: Relation) -> None:
        super().__init__(relation)
        self._relation = relation
        self._names: list[str] = []

    def __arrow_c_schema__(self) -> object:
        """The columns a statement bound now will see."""
        schema = self._relation.schema()
        self._names = schema.names
        return schema.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Every row; makes DuckDB take this for an Arrow object."""
        return self.stream(None, ())[0]

    def rows(self) -> int | None:
        """An estimate of the number of rows."""
        return self._relation.rows()

    def accepts(self, predicate: Any) -> bool:
        """Whether the predicate is answered exactly; DuckDB then forgets it."""
        try:
            return self._relation.accepts(translate(predicate))
        except UntranslatedError:
            return False

    def stream(self, columns: Sequence[int] | None, filters: Sequence[Any]) -> tuple[object, bool]:
        """The rows that pass ``filters``, with only ``columns``."""
        names = self._names or self._relation.schema().names
        chosen = tuple(names if columns is None else (names[index] for index in columns))
        predicates = tuple(translate(predicate) for predicate in filters)
        request = ReadRequest(columns=chosen, predicates=predicates, rules="duckdb")
        return self._relation.read(request).__arrow_c_stream__(), bool(chosen)


def plug(relation: Relation) -> object:
    """What to register with ``con.register``."""
    return PluggedSource(relation)


def check_contract() -> str | None:
    """What about DuckDB's private module differs from what this module relies on; None if nothing does."""
    probe = ArrowScanSource(None)
    if adapt(probe) is not probe:
        return "a source is wrapped again"
    expected = {
        ArrowScanSource.accepts: ["self", "predicate"],
        ArrowScanSource.stream: ["self", "columns", "filters"],
        ArrowScanSource.rows: ["self"],
        exact_value: ["constant"],
    }
    for function, names in expected.items():
        if list(inspect.signature(function).parameters) != names:
            return f"{function.__qualname__} takes other arguments"
    fields = {
        Binary: ("op", "left", "right"),
        Unary: ("op", "operand"),
        Postfix: ("op", "operand"),
        In: ("operand", "values"),
        Col: ("parts",),
        Lit: ("value", "type"),
    }
    for node, wanted in fields.items():
        if tuple(node.__dataclass_fields__) != wanted:
            return f"{node.__name__} has other fields"
    return None
