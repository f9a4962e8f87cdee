"""Filters: SQL text and pyarrow expressions to one tree, bound to a schema, then pruned and evaluated.

::

    SQL text ────── parse_sql ───┐
                                 ├─> Expression ── bind(schema) ──> BoundPredicate ──> prune, evaluate
    pc.Expression ─ from_arrow ──┘

`tree` is what a filter says; `bind` (with `compare`, `functions`, `patterns`) fits it to types; `truth` and
`values` are what is evaluated; `prune` reads the same against statistics. What filters mean is written in
`spec/filters.md`.
"""

from __future__ import annotations

import pyarrow.compute as pc

from lake_engines.predicate.arrow import from_arrow
from lake_engines.predicate.bind import bind
from lake_engines.predicate.bound import BoundPredicate, SimpleConjunct
from lake_engines.predicate.prune import StatisticsView
from lake_engines.predicate.tree import Expression, Rules
from lake_format.errors import InvalidInputError

__all__ = [
    "BoundPredicate",
    "Expression",
    "Rules",
    "SimpleConjunct",
    "StatisticsView",
    "bind",
    "from_arrow",
    "parse_filter",
    "parse_sql",
]


def parse_sql(text: str) -> Expression:
    """Parse an SQL condition such as ``price < 10 AND title LIKE 'x%'`` (DuckDB's dialect).

    Parsed texts are kept, so that asking again is free.

    Raises
    ------
    InvalidInputError
        If the text is no SQL condition; the message shows where.
    UnsupportedError
        If it contains something that filters do not support; the message names it and its place.
    """
    from lake_engines.predicate.sql import parse  # noqa: PLC0415 - imports sqlglot, a third of a second

    return parse(text)


def parse_filter(where: str | Expression | pc.Expression) -> Expression:
    """Accept a filter in any form users give one: SQL text, a pyarrow expression, or a tree."""
    if isinstance(where, Expression):
        return where
    if isinstance(where, str):
        return parse_sql(where)
    if isinstance(where, pc.Expression):
        return from_arrow(where)
    raise InvalidInputError(
        f"a filter cannot be of type {type(where).__name__}",
        fix="give SQL text or a pyarrow.compute.Expression",
    )
