"""Polars expressions as lake-format predicates, as far as they can be said exactly.

An expression reaches a scan as an object that only Polars can read; what it says is told by its serialised form, a
tree in JSON. That form is no promise of Polars: whatever is not understood is left to Polars, which filters all rows
it gets once more anyhow. Comparisons mean what they mean in DuckDB: NaN equals itself and is greater than any number.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import polars as pl
import pyarrow as pa

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

__all__ = ["translate"]

_OPERATORS = {
    "Eq": Operator.EQUAL,
    "NotEq": Operator.NOT_EQUAL,
    "Lt": Operator.LESS,
    "LtEq": Operator.LESS_EQUAL,
    "Gt": Operator.GREATER,
    "GtEq": Operator.GREATER_EQUAL,
}
_UNITS = {"Milliseconds": "ms", "Microseconds": "us", "Nanoseconds": "ns"}
_PLAIN = {
    "Boolean": pa.bool_(),
    "Int8": pa.int8(),
    "Int16": pa.int16(),
    "Int32": pa.int32(),
    "Int64": pa.int64(),
    "UInt8": pa.uint8(),
    "UInt16": pa.uint16(),
    "UInt32": pa.uint32(),
    "UInt64": pa.uint64(),
    "Float32": pa.float32(),
    "Float64": pa.float64(),
    "String": pa.string(),
    "Date": pa.date32(),
}


class _UnknownError(Exception):
    """A node that cannot be said exactly."""


def translate(predicate: pl.Expr) -> tuple[tuple[Expression, ...], bool]:
    """Those of the conjuncts that can be said exactly, and whether these are all."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # the JSON form is announced to go some day; then nothing is pushed
            tree = json.loads(predicate.meta.serialize(format="json"))
    except Exception:  # noqa: BLE001 - whatever it is, Polars filters by itself
        return (), False
    terms, whole = [], True
    for node in _conjuncts(tree):
        try:
            terms.append(_expression(node))
        except (_UnknownError, KeyError, TypeError, ValueError, RecursionError, pa.ArrowException):
            whole = False
    return tuple(terms), whole


def _conjuncts(node: Any) -> Iterator[Any]:
    match node:
        case {"BinaryExpr": {"left": left, "op": "And" | "LogicalAnd", "right": right}}:
            yield from _conjuncts(left)
            yield from _conjuncts(right)
        case _:
            yield node


def _expression(node: Any) -> Expression:
    match node:
        case {"BinaryExpr": {"left": left, "op": "And" | "LogicalAnd", "right": right}}:
            return And((_expression(left), _expression(right)))
        case {"BinaryExpr": {"left": left, "op": "Or" | "LogicalOr", "right": right}}:
            return Or((_expression(left), _expression(right)))
        case {"BinaryExpr": {"left": {"Column": name}, "op": op, "right": constant}} if op in _OPERATORS:
            return Comparison(_OPERATORS[op], Column((name,)), _literal(constant))
        case {"BinaryExpr": {"left": constant, "op": op, "right": {"Column": name}}} if op in _OPERATORS:
            return Comparison(_OPERATORS[op].mirrored, Column((name,)), _literal(constant))
        case {"Column": str(name)}:
            return Column((name,))
        case {"Function": {"input": [operand, *arguments], "function": {"Boolean": function}}}:
            return _boolean(function, operand, arguments)
    raise _UnknownError


def _boolean(function: Any, operand: Any, arguments: list[Any]) -> Expression:
    match function, operand, arguments:
        case "Not", _, []:
            return Not(_expression(operand))
        case "IsNull", {"Column": name}, []:
            return IsNull(Column((name,)))
        case "IsNotNull", {"Column": name}, []:
            return Not(IsNull(Column((name,))))
        case {"IsIn": {"nulls_equal": False}}, {"Column": name}, [{"Literal": {"Scalar": {"List": data}}}]:
            return In(Column((name,)), tuple(Literal(value) for value in _series(bytes(data))))
        case {"IsBetween": {"closed": "Both"}}, {"Column": name}, [low, high]:
            column = Column((name,))
            return And(
                (
                    Comparison(Operator.GREATER_EQUAL, column, _literal(low)),
                    Comparison(Operator.LESS_EQUAL, column, _literal(high)),
                )
            )
    raise _UnknownError


def _series(data: bytes) -> list[pa.Scalar]:
    with pa.ipc.open_stream(data) as reader:
        column = reader.read_all().column(0)
    if pa.types.is_string_view(column.type):
        column = column.cast(pa.string())
    if column.null_count:
        raise _UnknownError
    return list(column)


def _literal(node: Any) -> Literal:
    ((kind, value),) = node["Literal"]["Scalar"].items()
    if value is None:  # JSON has no NaN and no infinity
        raise _UnknownError
    if kind in _PLAIN:
        return Literal(pa.scalar(value, _PLAIN[kind]))
    if kind == "Datetime":
        number, unit, zone = value
        return Literal(pa.scalar(number, pa.timestamp(_UNITS[unit], zone and zone["inner"])))
    if kind == "Decimal":
        unscaled, precision, scale = value
        return Literal(pa.scalar(Decimal(unscaled).scaleb(-scale), pa.decimal128(precision, scale)))
    raise _UnknownError
