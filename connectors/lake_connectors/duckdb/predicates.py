"""DuckDB's predicate nodes as lake-format predicates.

Needs DuckDB's private ``duckdb._sources.nodes``; imported by `plugged` only. A node that cannot be said exactly
is refused, and DuckDB then evaluates it.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from duckdb._sources import nodes

from lake_engines.predicate.tree import (
    And,
    Column,
    Comparison,
    Expression,
    In,
    IsNull,
    Literal,
    Not,
    Operator,
    Or,
)

__all__ = ["UntranslatedError", "translate"]

_OPERATORS = {
    "=": Operator.EQUAL,
    "!=": Operator.NOT_EQUAL,
    "<": Operator.LESS,
    "<=": Operator.LESS_EQUAL,
    ">": Operator.GREATER,
    ">=": Operator.GREATER_EQUAL,
}
_TYPES = {
    "BOOLEAN": pa.bool_(),
    "TINYINT": pa.int8(),
    "SMALLINT": pa.int16(),
    "INTEGER": pa.int32(),
    "BIGINT": pa.int64(),
    "UTINYINT": pa.uint8(),
    "USMALLINT": pa.uint16(),
    "UINTEGER": pa.uint32(),
    "UBIGINT": pa.uint64(),
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "VARCHAR": pa.string(),
    "BLOB": pa.binary(),
    "DATE": pa.date32(),
    "TIME": pa.time64("us"),
    "TIMESTAMP_S": pa.timestamp("s"),
    "TIMESTAMP_MS": pa.timestamp("ms"),
    "TIMESTAMP": pa.timestamp("us"),
    "TIMESTAMP WITH TIME ZONE": pa.timestamp("us", tz="UTC"),
}


class UntranslatedError(Exception):
    """The node cannot be said exactly."""


def translate(node: nodes.Node) -> Expression:
    """Say the node as a predicate.

    Raises
    ------
    UntranslatedError
        An unknown node, or a constant whose value or type has no exact counterpart.
    """
    try:
        return _translate(node)
    except RecursionError as error:
        raise UntranslatedError("nested too deeply") from error


def _translate(node: nodes.Node) -> Expression:
    match node:
        case nodes.Binary(op="AND", left=left, right=right):
            return And((_translate(left), _translate(right)))
        case nodes.Binary(op="OR", left=left, right=right):
            return Or((_translate(left), _translate(right)))
        case nodes.Unary(op="NOT", operand=operand):
            return Not(_translate(operand))
        case nodes.Postfix(op="IS NULL", operand=nodes.Col(parts=parts)):
            return IsNull(Column(parts))
        case nodes.Postfix(op="IS NOT NULL", operand=nodes.Col(parts=parts)):
            return Not(IsNull(Column(parts)))
        case nodes.Binary(op=op, left=nodes.Col(parts=parts), right=nodes.Lit() as constant) if (
            op in _OPERATORS
        ):
            return Comparison(_OPERATORS[op], Column(parts), _literal(constant))
        case nodes.In(operand=nodes.Col(parts=parts), values=values) if values:
            return In(Column(parts), tuple(_literal(value) for value in values))
    raise UntranslatedError(f"no counterpart of {type(node).__name__}")


def _literal(constant: Any) -> Literal:
    if not isinstance(constant, nodes.Lit) or not nodes.exact_value(constant):
        raise UntranslatedError("not an exact constant")
    kind = _TYPES.get(constant.type)
    if kind is None:
        if not constant.type.startswith("DECIMAL("):
            raise UntranslatedError(f"constants of type {constant.type}")
        precision, scale = constant.type[8:-1].split(",")
        kind = pa.decimal128(int(precision), int(scale))
    return Literal(pa.scalar(constant.value, kind))
