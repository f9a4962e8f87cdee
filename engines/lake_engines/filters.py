"""A filter as users write it, bound to a snapshot's schema: SQL text, a pyarrow expression, or a predicate tree."""

from __future__ import annotations

import pyarrow.compute as pc

from lake_engines.predicate import BoundPredicate, Expression, Rules, bind, parse_filter
from lake_format.errors import InvalidInputError
from lake_format.schema import ROW_ID_FIELD
from lake_format.snapshot import Snapshot

__all__ = ["compile_filter"]


def compile_filter(snapshot: Snapshot, where: object | None) -> BoundPredicate | None:
    """The filter checked against the schema, ``_row_id`` included; None where there is no filter.

    Raises
    ------
    InvalidInputError
        Not a filter, not valid SQL, an unknown column, or a comparison between types that do not compare.
    UnsupportedError
        SQL that filters cannot express.
    """
    if where is None or isinstance(where, BoundPredicate):
        return where
    if not isinstance(where, str | pc.Expression | Expression):
        raise InvalidInputError(
            f"a filter must be SQL text or a pyarrow expression, not {type(where).__name__}",
            fix="for example where=\"price < 10 AND category = 'a'\"",
        )
    rules: Rules = "arrow" if isinstance(where, pc.Expression) else "sql"
    return bind(parse_filter(where), snapshot.schema.append(ROW_ID_FIELD), rules=rules)
