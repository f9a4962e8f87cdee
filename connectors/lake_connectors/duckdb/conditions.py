"""A WHERE that the table can answer whole, so that it travels in the request and DuckDB has nothing left to filter.

Then a search needs no counting of what passes (`gate`), which costs DuckDB more to plan than the search takes to
run. Reads conditions as ``json_serialize_sql`` writes them; what is not surely the same here and in DuckDB is
not carried, and the statement keeps the plan that is right for every condition. Must not run SQL.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NoReturn

import pyarrow as pa

from lake_connectors.adapter.requests import mixes_distance
from lake_connectors.duckdb.names import text_literal
from lake_engines.predicate import bind
from lake_engines.predicate.constants import cast_scalar, number_from_text
from lake_engines.predicate.tree import (
    And,
    Column,
    Comparison,
    Expression,
    In,
    IsNull,
    Like,
    Literal,
    Not,
    Operator,
    Or,
    conjuncts_of,
)
from lake_format.errors import InvalidInputError, LakeError

__all__ = ["Carried", "carry", "given_by_name", "kinds_of", "read_condition"]

Node = dict[str, Any]

_COMPARISONS = {
    "COMPARE_EQUAL": Operator.EQUAL,
    "COMPARE_NOTEQUAL": Operator.NOT_EQUAL,
    "COMPARE_LESSTHAN": Operator.LESS,
    "COMPARE_LESSTHANOREQUALTO": Operator.LESS_EQUAL,
    "COMPARE_GREATERTHAN": Operator.GREATER,
    "COMPARE_GREATERTHANOREQUALTO": Operator.GREATER_EQUAL,
    "COMPARE_DISTINCT_FROM": Operator.DISTINCT,
    "COMPARE_NOT_DISTINCT_FROM": Operator.NOT_DISTINCT,
}
_PATTERNS = {"~~": (False, False), "!~~": (True, False), "~~*": (False, True), "!~~*": (True, True)}
"""DuckDB's operators behind LIKE: whether negated, whether whatever the case."""

_CASTS = {"DATE": pa.date32(), "TIMESTAMP": pa.timestamp("us")}
_KINDS: dict[type, str] = {
    bool: "BOOLEAN",
    int: "INTEGER",
    float: "DOUBLE",
    str: "VARCHAR",
    dt.date: "DATE",
    dt.datetime: "TIMESTAMP",
}
_SAMPLES = {
    "BOOLEAN": "true",
    "INTEGER": "1",
    "DOUBLE": "0.5",
    "VARCHAR": "a",
    "DATE": "2000-01-01",
    "TIMESTAMP": "2000-01-01 00:00:00",
}
_SEPARATOR = ":"


class _NotCarriedError(Exception):
    """The condition, or a part of it, is DuckDB's to evaluate."""


@dataclass(frozen=True, slots=True)
class Carried:
    """A condition on its way into a request.

    Attributes
    ----------
    sql
        The SQL expression of its text in the request; it names parameters as ``lake_parameter_N``.
    parameters
        The nodes of these parameters, in order.
    compares_text
        Whether it counts on DuckDB to compare text by code points.
    form
        The part of the text that no parameter changes.
    """

    sql: str
    parameters: tuple[Node, ...]
    compares_text: bool
    form: str

    def text(self, given: Mapping[str, object]) -> str:
        """What ``sql`` comes to with these values of the statement's parameters, by name."""
        values = (_written(given[node["identifier"]]) for node in self.parameters)
        return _SEPARATOR.join([self.form, *(value.encode().hex() for value in values)])


def kinds_of(parameters: object) -> tuple[tuple[str, str], ...]:
    """The kind of each parameter given to a statement; those that no condition can carry are left out."""
    given = given_by_name(parameters)
    return tuple((name, kind) for name, value in given.items() if (kind := _kind(value)) is not None)


def given_by_name(parameters: object) -> dict[str, object]:
    """Parameters as given to ``execute``, by name: the first of those given by position is called 1."""
    if isinstance(parameters, Mapping):
        return {str(name): value for name, value in parameters.items()}
    if isinstance(parameters, list | tuple):
        return {str(number): value for number, value in enumerate(parameters, 1)}
    return {}


def _kind(value: object) -> str | None:
    if isinstance(value, dt.datetime) and value.tzinfo is not None:
        return None
    if type(value) is int and not -(2**63) <= value < 2**63:
        return None
    return _KINDS.get(type(value))


def _written(value: object) -> str:
    """A parameter's value as DuckDB casts it to text; it has one of the kinds above."""
    return str(value).lower() if isinstance(value, bool | float) else str(value)


def carry(node: Node, alias: str, fields: Mapping[str, pa.Field], kinds: Mapping[str, str]) -> Carried | None:
    """The condition as it travels; None where DuckDB has to evaluate it.

    Parameters
    ----------
    alias
        What the statement calls the table.
    fields
        The columns it may read, by name in lower case.
    kinds
        Of the statement's parameters, by name.
    """
    reader = _Reader(alias.lower(), fields, kinds)
    try:
        form = reader.truth(node)
        tree = _expression(form, [_SAMPLES[kind] for _, kind in reader.parameters])
        bind(tree, pa.schema(list(fields.values())), rules="duckdb")
        if any(mixes_distance(term) for term in conjuncts_of(tree)):
            return None
    except (_NotCarriedError, LakeError, RecursionError, ValueError):
        return None
    text = json.dumps({"form": form, "parameters": len(reader.parameters)}).encode().hex()
    names = [f"hex(lake_parameter_{number}::VARCHAR)" for number in range(len(reader.parameters))]
    sql = text_literal(text)
    if names:
        sql = f"concat_ws('{_SEPARATOR}', {', '.join([sql, *names])})"
    return Carried(sql, tuple(node for node, _ in reader.parameters), reader.compares_text, text)


@lru_cache(maxsize=512)
def read_condition(text: str) -> Expression:
    """Read the text of a condition in a request.

    Raises
    ------
    InvalidInputError
        If it is none, or a parameter is missing (NULL).
    """
    try:
        head, *given = (bytes.fromhex(part).decode() for part in text.split(_SEPARATOR))
        stored = json.loads(head)
        if len(given) != stored["parameters"]:
            raise ValueError("a parameter is missing")
        return _expression(stored["form"], given)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise InvalidInputError(f"the request holds no condition that can be read: {error}") from error


class _Reader:
    """Reads DuckDB's nodes into nested lists that JSON can hold, refusing what may mean something else here."""

    def __init__(self, alias: str, fields: Mapping[str, pa.Field], kinds: Mapping[str, str]) -> None:
        self._alias = alias
        self._fields = fields
        self._kinds = kinds
        self.parameters: list[tuple[Node, str]] = []
        self.compares_text = False

    def truth(self, node: Node) -> list[Any]:
        """A condition."""
        kind, children = node.get("type", ""), node.get("children", [])
        if kind in ("CONJUNCTION_AND", "CONJUNCTION_OR"):
            return [kind[12:], *map(self.truth, children)]
        if kind == "OPERATOR_NOT":
            return ["NOT", self.truth(children[0])]
        if kind in ("OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL"):
            found: list[Any] = ["NULL", self._column(children[0])[0]]
            return found if kind == "OPERATOR_IS_NULL" else ["NOT", found]
        if kind in _COMPARISONS:
            return self._comparison(_COMPARISONS[kind], node["left"], node["right"])
        if kind == "COMPARE_BETWEEN":
            path, dtype = self._column(node["input"])
            low, high = self._constants([node["lower"], node["upper"]], dtype)
            return ["AND", ["COMPARE", ">=", path, low], ["COMPARE", "<=", path, high]]
        if kind in ("COMPARE_IN", "COMPARE_NOT_IN"):
            path, dtype = self._column(children[0])
            found = ["IN", path, *self._constants(children[1:], dtype)]
            return found if kind == "COMPARE_IN" else ["NOT", found]
        if kind == "FUNCTION" and node.get("function_name") in _PATTERNS and node.get("is_operator"):
            return self._like(node)
        if kind == "COLUMN_REF":
            return ["TRUE", self._column(node)[0]]
        _refuse()

    def _comparison(self, operator: Operator, left: Node, right: Node) -> list[Any]:
        if left.get("class") != "COLUMN_REF":
            operator, left, right = operator.mirrored, right, left
        path, dtype = self._column(left)
        return ["COMPARE", operator.value, path, *self._constants([right], dtype)]

    def _like(self, node: Node) -> list[Any]:
        value, pattern = (argument["expression"] for argument in node["arguments"])
        path, dtype = self._column(value)
        literal = pattern.get("literal", {}) if pattern.get("class") == "CONSTANT" else {}
        if literal.get("kind") != "STRING" or not pa.types.is_string(dtype):
            _refuse()
        self.compares_text = True
        negated, ignore_case = _PATTERNS[node["function_name"]]
        found = ["LIKE", path, literal.get("text", ""), ignore_case]
        return ["NOT", found] if negated else found

    def _column(self, node: Node) -> tuple[list[str], pa.DataType]:
        """The path of a column as the table spells it, and its type."""
        if node.get("class") != "COLUMN_REF":
            _refuse()
        names = [name.lower() for name in node["column_names"]]
        if len(names) > 1 and names[0] == self._alias:
            if self._alias in self._fields:  # a member of that column, or a column of that table?
                _refuse()
            names = names[1:]
        field = self._fields.get(names[0]) or _refuse()
        path = [field.name]
        for name in names[1:]:
            members = [one for one in _members(field.type) if one.name.lower() == name]
            field = members[0] if len(members) == 1 else _refuse()
            path.append(field.name)
        if pa.types.is_timestamp(field.type) and field.type.tz is not None:  # the session's zone has a say
            _refuse()
        return path, field.type

    def _constants(self, nodes: list[Node], dtype: pa.DataType) -> list[dict[str, Any]]:
        """What a column is compared with. DuckDB gives several constants one type, so they must be of one kind."""
        found = [self._constant(node, dtype) for node in nodes]
        if len({_family(one["kind"]) for one in found}) > 1 or not found:
            _refuse()
        if pa.types.is_string(dtype):
            self.compares_text = True
        return found

    def _constant(self, node: Node, dtype: pa.DataType) -> dict[str, Any]:
        if node.get("class") == "CAST" and not node.get("try_cast"):
            kind, inner = node["type_expr"].get("type_name"), node["child"].get("literal", {})
            if kind not in _CASTS or inner.get("kind") != "STRING" or node["type_expr"].get("children"):
                _refuse()
            return {"kind": kind, "text": inner.get("text", "")}
        if node.get("class") == "PARAMETER":
            kind = self._kinds.get(node["identifier"]) or _refuse()
            if kind == "VARCHAR" and not pa.types.is_string(dtype):
                _refuse()
            self.parameters.append((node, kind))
            return {"kind": _checked(kind, dtype), "parameter": len(self.parameters) - 1}
        literal = node.get("literal", {}) if node.get("class") == "CONSTANT" else {}
        kind, text = literal.get("kind"), literal.get("text", "")
        if kind in ("INTEGER", "NUMERIC"):
            exact = kind == "INTEGER" or not set(text.lower()) - set("+-.0123456789")
            return {"kind": _checked(kind if exact else "DOUBLE", dtype), "text": text}
        if kind == "STRING":
            return {"kind": "VARCHAR", "text": text}
        if kind == "BOOLEAN" and text in ("true", "false"):
            return {"kind": "BOOLEAN", "text": text}
        _refuse()


def _checked(kind: str, dtype: pa.DataType) -> str:
    """Doubles compare with columns of floats only: DuckDB would round whole numbers to doubles first."""
    if kind == "DOUBLE" and not pa.types.is_floating(dtype):
        _refuse()
    return kind


def _family(kind: str) -> str:
    return "number" if kind in ("INTEGER", "NUMERIC") else kind


def _members(dtype: pa.DataType) -> list[pa.Field]:
    return list(dtype.fields) if pa.types.is_struct(dtype) else []


def _refuse() -> NoReturn:
    raise _NotCarriedError


def _expression(form: list[Any], given: list[str]) -> Expression:
    """The tree of a form, with the texts of its parameters."""
    name, *rest = form
    if name in ("AND", "OR"):
        terms = tuple(_expression(term, given) for term in rest)
        return And(terms) if name == "AND" else Or(terms)
    if name == "NOT":
        return Not(_expression(rest[0], given))
    column = Column(tuple(rest[-1] if name in ("TRUE", "NULL") else rest[name == "COMPARE"]))
    if name == "TRUE":
        return column
    if name == "NULL":
        return IsNull(column)
    if name == "COMPARE":
        return Comparison(Operator(rest[0]), column, _literal(rest[2], given))
    if name == "LIKE":
        return Like(column, rest[1], ignore_case=rest[2])
    if name == "IN":
        return In(column, tuple(_literal(one, given) for one in rest[1:]))
    raise ValueError(f"{name!r} is no form of a condition")


def _literal(stored: dict[str, Any], given: list[str]) -> Literal:
    kind, text = stored["kind"], stored.get("text")
    if text is None:
        text = given[stored["parameter"]]
    if kind in ("INTEGER", "NUMERIC"):
        return Literal(number_from_text(text))
    if kind == "DOUBLE":
        return Literal(pa.scalar(float(text), pa.float64()))
    if kind == "BOOLEAN":
        return Literal(pa.scalar(text == "true"))
    value = pa.scalar(text, pa.string())
    return Literal(value if kind == "VARCHAR" else cast_scalar(value, _CASTS[kind]))
