"""Spark's filters as lake-format predicates. Those that cannot be said exactly stay with Spark.

Comparisons mean what they mean in DuckDB: NaN equals itself and is greater than any number. That is Spark's rule too.
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
from pyspark.sql.datasource import (
    EqualTo,
    Filter,
    GreaterThan,
    GreaterThanOrEqual,
    In,
    IsNotNull,
    IsNull,
    LessThan,
    LessThanOrEqual,
    Not,
    StringStartsWith,
)

from lake_engines.predicate import tree

__all__ = ["translate"]

_COMPARISONS = {
    EqualTo: tree.Operator.EQUAL,
    GreaterThan: tree.Operator.GREATER,
    GreaterThanOrEqual: tree.Operator.GREATER_EQUAL,
    LessThan: tree.Operator.LESS,
    LessThanOrEqual: tree.Operator.LESS_EQUAL,
}


def translate(filter_: Filter) -> tree.Expression | None:
    """The predicate, or None where it has no exact counterpart."""
    match filter_:
        case IsNull(attribute=path):
            return tree.IsNull(tree.Column(path))
        case IsNotNull(attribute=path):
            return tree.Not(tree.IsNull(tree.Column(path)))
        case Not(child=child):
            inner = translate(child)
            return None if inner is None else tree.Not(inner)
        case In(attribute=path, value=values):
            options = [_literal(value) for value in values]
            known = [option for option in options if option is not None]
            return tree.In(tree.Column(path), tuple(known)) if len(known) == len(options) else None
        case StringStartsWith(attribute=path, value=str() as text):
            return tree.TextMatch("starts_with", tree.Column(path), text)
    operator = _COMPARISONS.get(type(filter_))
    if operator is None:
        return None
    literal = _literal(filter_.value)  # type: ignore[attr-defined]
    return None if literal is None else tree.Comparison(operator, tree.Column(filter_.attribute), literal)  # type: ignore[attr-defined]


def _literal(value: Any) -> tree.Literal | None:
    match value:
        case bool() | int() | float() | str() | bytes() | Decimal():
            return tree.Literal(pa.scalar(value))
        case datetime():
            return tree.Literal(pa.scalar(value, pa.timestamp("us", None if value.tzinfo is None else "UTC")))
        case date():
            return tree.Literal(pa.scalar(value, pa.date32()))
    return None
