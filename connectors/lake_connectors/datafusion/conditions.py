"""Filters that DataFusion keeps to itself, said as predicates of the table where both mean the same.

DataFusion hands over comparisons and their like only; ``LIKE``, whatever is ORed with it, members of structs and
columns cast to compare them stay in the plan. Here they are read there, typed and simplified. A search that knows
them finds rows that pass, and nothing has to be counted (`settling`). DataFusion checks every row again, so that a
predicate may also be true of more rows; one that misses rows must never be made. Must not run anything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa

from lake_connectors.adapter.requests import mixes_distance
from lake_connectors.datafusion.plans import Scan, resolved
from lake_connectors.datafusion.types import TYPES
from lake_engines.predicate import bind
from lake_engines.predicate.tree import (
    And,
    Column,
    Comparison,
    Expression,
    In,
    IsNan,
    IsNull,
    Like,
    Literal,
    Not,
    Operator,
    Or,
    TextMatch,
)
from lake_format.errors import LakeError

__all__ = ["Carried", "carry", "column_of"]

_COMPARISONS = {
    "=": Operator.EQUAL,
    "!=": Operator.NOT_EQUAL,
    "<": Operator.LESS,
    "<=": Operator.LESS_EQUAL,
    ">": Operator.GREATER,
    ">=": Operator.GREATER_EQUAL,
    "IS DISTINCT FROM": Operator.DISTINCT,
    "IS NOT DISTINCT FROM": Operator.NOT_DISTINCT,
}
_TRUTHS = {
    "IsTrue": (True, True),
    "IsFalse": (False, True),
    "IsNotTrue": (True, False),
    "IsNotFalse": (False, False),
}
"""Tests of a flag: for which answer, and whether it has to be that one or must not be."""

_TEXT_TESTS = ("starts_with", "ends_with", "contains")
_ALIKE = frozenset("iks")
"""ASCII letters with which others fold together: the long s, the Kelvin sign, the dotted I."""


class _NotCarriedError(Exception):
    """The condition is DataFusion's to evaluate."""


@dataclass(frozen=True, slots=True)
class Carried:
    """What the table is told of the filters above a scan.

    Attributes
    ----------
    terms
        Every row that passes the filters passes each of these.
    whole
        Whether every row that passes these passes the filters, so that nothing needs to be counted.
    """

    terms: tuple[Expression, ...]
    whole: bool


@dataclass(frozen=True, slots=True)
class _Term:
    """A condition as a predicate, and whether it means just that or is true of more rows."""

    node: Expression
    exact: bool = True


def carry(scan: Scan, schema: pa.Schema) -> Carried:
    """What can be said of the filters above a scan.

    Parameters
    ----------
    schema
        The table's columns, and those that a search adds.
    """
    terms: list[Expression] = []
    whole = True
    for node, below in scan.filters:
        reader = _Reader(below, schema)
        for conjunct in _conjuncts(node.to_variant().predicate()):
            term = reader.carried(conjunct)
            whole = whole and term is not None and term.exact
            if term is not None:
                terms.append(term.node)
    return Carried(tuple(terms), whole)


def column_of(expression: Any, below: tuple[Any, ...], schema: pa.Schema) -> Column | None:
    """The table's column that an expression is; None where it is none.

    Parameters
    ----------
    below
        What lies between the expression and the scan, the topmost first.
    """
    try:
        return _Reader(below, schema).column(expression)
    except _NotCarriedError:
        return None


def _conjuncts(expression: Any) -> list[Any]:
    """Split at the ANDs."""
    found, pending = [], [expression]
    while pending:
        one = pending.pop()
        if one.variant_name() == "BinaryExpr" and one.rex_call_operator() == "AND":
            pending.extend(reversed(one.rex_call_operands()))
        else:
            found.append(one)
    return found


class _Reader:
    """Reads DataFusion's expressions, refusing what may mean something else here."""

    def __init__(self, below: tuple[Any, ...], schema: pa.Schema) -> None:
        self._below = below
        self._schema = schema

    def carried(self, expression: Any) -> _Term | None:
        """The condition as the table can answer it; None where it cannot."""
        try:
            term = self._condition(expression)
            bind(term.node, self._schema, rules="duckdb")
        except (_NotCarriedError, LakeError, RecursionError):
            return None
        return None if mixes_distance(term.node) else term

    def column(self, expression: Any) -> Column:
        """A column or a member of one, of a type with one way to be equal."""
        column, dtype = self._column(expression)
        return column if pa.types.is_integer(dtype) or _is_text(dtype) else _refuse()

    def _condition(self, expression: Any) -> _Term:
        kind = expression.variant_name()
        operands = expression.rex_call_operands() if kind not in ("Column", "Literal") else []
        if kind == "BinaryExpr":
            return self._binary(expression.rex_call_operator(), *operands)
        if kind == "Not":
            return self._negated(self._condition(operands[0]))
        if kind == "Like":
            return self._like(expression)
        if kind == "InList":
            return self._in(expression.to_variant())
        if kind in ("IsNull", "IsNotNull", "IsUnknown", "IsNotUnknown"):
            missing = IsNull(self._column(operands[0])[0])
            return _Term(missing if kind in ("IsNull", "IsUnknown") else Not(missing))
        if kind in _TRUTHS:
            answer, wanted = _TRUTHS[kind]
            operator = Operator.NOT_DISTINCT if wanted else Operator.DISTINCT
            return _Term(Comparison(operator, self._flag(operands[0]), Literal(pa.scalar(answer))))
        if kind == "ScalarFunction":
            return self._function(expression.rex_call_operator(), operands)
        if kind == "Literal":
            return _Term(_fitting(expression, pa.bool_()))
        return _Term(self._flag(expression))

    def _negated(self, term: _Term) -> _Term:
        return _Term(Not(term.node)) if term.exact else _refuse()

    def _binary(self, operator: str, left: Any, right: Any) -> _Term:
        if operator in ("AND", "OR"):
            terms = (self._condition(left), self._condition(right))
            nodes = tuple(term.node for term in terms)
            return _Term(And(nodes) if operator == "AND" else Or(nodes), all(term.exact for term in terms))
        compared = _COMPARISONS.get(operator) or _refuse()
        if left.variant_name() == "Literal":
            compared, left, right = compared.mirrored, right, left
        if right.variant_name() == "Literal":
            column, dtype = self._column(left, cast=True)
            return _Term(Comparison(compared, column, _fitting(right, dtype)))
        (one, dtype), (other, same) = (self._column(side) for side in (left, right))
        if dtype != same or not (_is_plain(dtype) or _is_text(dtype)):
            _refuse()
        return _Term(Comparison(compared, one, other))

    def _like(self, expression: Any) -> _Term:
        variant = expression.to_variant()
        column, dtype = self._column(variant.expr())
        pattern = self._text(variant.pattern())
        if not _is_text(dtype) or variant.escape_char() not in (None, "\\"):
            _refuse()
        operator = expression.rex_call_operator()
        ignore_case = operator.endswith("ilike")
        pattern, exact = _caseless(pattern) if ignore_case else (pattern, True)
        if not exact and "\\" in pattern:
            _refuse()
        term = _Term(Like(column, pattern, "\\", ignore_case), exact)
        return self._negated(term) if variant.negated() else term

    def _in(self, variant: Any) -> _Term:
        column, dtype = self._column(variant.expr(), cast=True)
        if pa.types.is_floating(dtype):  # of long lists DataFusion tells -0.0 and 0.0 apart
            _refuse()
        found = In(column, tuple(_fitting(one, dtype) for one in variant.list()))
        return _Term(Not(found) if variant.negated() else found)

    def _function(self, name: str, operands: list[Any]) -> _Term:
        if name not in ("isnan", *_TEXT_TESTS):
            _refuse()
        column, dtype = self._column(operands[0])
        if name == "isnan" and pa.types.is_floating(dtype):
            return _Term(IsNan(column))
        if name == "isnan" or not _is_text(dtype):
            _refuse()
        return _Term(TextMatch(name, column, self._text(operands[1])))  # type: ignore[arg-type]

    def _text(self, expression: Any) -> str:
        value = expression.python_value() if expression.variant_name() == "Literal" else _refuse()
        found = value.as_py() if hasattr(value, "as_py") else value
        return found if isinstance(found, str) else _refuse()

    def _flag(self, expression: Any) -> Column:
        column, dtype = self._column(expression)
        return column if pa.types.is_boolean(dtype) else _refuse()

    def _column(self, expression: Any, *, cast: bool = False) -> tuple[Column, pa.DataType]:
        """A column or a member of one, and its type in DataFusion; with ``cast`` also one cast to another type."""
        expression, below = resolved(expression, self._below)
        if cast and expression.variant_name() == "Cast":
            expression, below = resolved(expression.rex_call_operands()[0], below)
        path, dtype = self._place(expression, below)
        if pa.types.is_float16(dtype) or (len(path) > 1 and pa.types.is_floating(dtype)):
            _refuse()  # only columns have one NaN by the time DataFusion compares them
        return Column(path), TYPES.declared(dtype)

    def _place(self, expression: Any, below: tuple[Any, ...]) -> tuple[tuple[str, ...], pa.DataType]:
        """Where in the table a value lies, and its type there."""
        expression, below = resolved(expression, below)
        kind = expression.variant_name()
        if kind == "Column":
            name = str(expression.to_variant().name())
            return (name,), self._schema.field(name).type if name in self._schema.names else _refuse()
        if kind != "ScalarFunction" or expression.rex_call_operator() != "get_field":
            _refuse()
        within, step = expression.rex_call_operands()
        path, dtype = self._place(within, below)
        name = self._text(step)
        if not pa.types.is_struct(dtype) or len(dtype.get_all_field_indices(name)) != 1:
            _refuse()
        return (*path, name), dtype.field(name).type


def _fitting(expression: Any, dtype: pa.DataType) -> Literal:
    """A constant with which values of a type are compared without rounding either."""
    value = expression.python_value() if expression.variant_name() == "Literal" else None
    if not isinstance(value, pa.Scalar) or _is_odd_nan(value):
        _refuse()
    if _is_text(dtype) and _is_text(value.type):
        return Literal(pa.scalar(value.as_py(), pa.string()))
    if value.type == dtype and _is_plain(dtype):
        return Literal(value)
    if not value.is_valid or not _holds(value, dtype):
        _refuse()
    return Literal(value)


def _is_odd_nan(value: pa.Scalar) -> bool:
    """Whether a constant is another NaN than the usual one: DataFusion tells them apart."""
    if not pa.types.is_floating(value.type) or not value.is_valid:
        return False
    number = np.float64(value.as_py())
    return bool(np.isnan(number) and number.tobytes() != np.float64("nan").tobytes())


def _holds(value: pa.Scalar, dtype: pa.DataType) -> bool:
    """Whether the type of a constant has every value of another type."""
    if pa.types.is_integer(dtype) and pa.types.is_integer(value.type):
        less, more = np.iinfo(dtype.to_pandas_dtype()), np.iinfo(value.type.to_pandas_dtype())
        return bool(more.min <= less.min and less.max <= more.max)
    if not pa.types.is_float64(value.type):
        return False
    small = pa.types.is_integer(dtype) and dtype.bit_width <= 32 and math.isfinite(value.as_py())
    return bool(small or pa.types.is_float32(dtype))


def _is_text(dtype: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(dtype) or pa.types.is_large_string(dtype) or pa.types.is_string_view(dtype)
    )


def _is_plain(dtype: pa.DataType) -> bool:
    is_ = pa.types
    known = (
        is_.is_boolean,
        is_.is_integer,
        is_.is_floating,
        is_.is_date32,
        is_.is_timestamp,
        is_.is_decimal128,
    )
    return any(one(dtype) for one in known)


def _caseless(pattern: str) -> tuple[str, bool]:
    """A pattern that matches, whatever the case, at least what it matches in DataFusion; and whether only that.

    DataFusion folds case as Unicode says, the table puts both sides in lower case. They agree on letters that have
    one partner; any other letter is left open.
    """
    exact, characters = True, []
    for character in pattern:
        alone = character.lower() == character.upper() == character.casefold()
        if alone or (character.isascii() and character.lower() not in _ALIKE):
            characters.append(character)
        else:
            exact = False
            characters.append("_")
    return "".join(characters), exact


def _refuse() -> NoReturn:
    raise _NotCarriedError
