"""A filter as users write it, bound to a snapshot's schema: SQL text, a pyarrow expression, or a predicate tree."""

from __future__ import annotations

import pyarrow.compute as pc

from lake_engines.predicate.arrow import from_arrow
from lake_engines.predicate.bind import bind
from lake_engines.predicate.bound import BoundPredicate
from lake_engines.predicate.sql import parse_sql
from lake_engines.predicate.tree import Expression
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
    schema = snapshot.schema.append(ROW_ID_FIELD)
    if isinstance(where, str):
        return bind(parse_sql(where), schema, rules="sql")
    if isinstance(where, pc.Expression):
        return bind(from_arrow(where), schema, rules="arrow")
    if isinstance(where, Expression):
        return bind(where, schema, rules="sql")
    raise InvalidInputError(
        f"a filter must be SQL text or a pyarrow expression, not {type(where).__name__}",
        fix="""write where="price < 10 AND category = 'a'" """.strip(),
    )
