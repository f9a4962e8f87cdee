"""The predicate tree: what a filter says, before it is checked against a schema.

Immutable values with SQL's three-valued meaning, made by a front end (`sql`, `arrow`) and given a schema by
`bind`. ``str(expression)`` is SQL text again (it parses to the same tree). This module must not evaluate,
check types, or parse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any
from typing import Literal as OneOf

import pyarrow as pa

from lake_engines.predicate.constants import literal_sql, text_sql, type_sql
from lake_format.expressions import identifier_sql

__all__ = [
    "And",
    "Call",
    "Case",
    "Cast",
    "Column",
    "Comparison",
    "Expression",
    "In",
    "IsNan",
    "IsNull",
    "Like",
    "Literal",
    "Not",
    "Opaque",
    "Operator",
    "Or",
    "Rules",
    "TextMatch",
    "conjuncts_of",
    "walk",
    "with_columns",
]

Rules = OneOf["sql", "arrow", "duckdb"]
"""Whose rules give a predicate its meaning; see `spec/filters.md` (FILTER-3)."""


class Operator(StrEnum):
    """A comparison; the value is its SQL spelling."""

    EQUAL = "="
    NOT_EQUAL = "<>"
    LESS = "<"
    LESS_EQUAL = "<="
    GREATER = ">"
    GREATER_EQUAL = ">="
    DISTINCT = "IS DISTINCT FROM"
    NOT_DISTINCT = "IS NOT DISTINCT FROM"

    @property
    def mirrored(self) -> Operator:
        """The comparison that means the same with its sides swapped."""
        return _MIRRORED.get(self, self)


_MIRRORED = {
    Operator.LESS: Operator.GREATER,
    Operator.LESS_EQUAL: Operator.GREATER_EQUAL,
    Operator.GREATER: Operator.LESS,
    Operator.GREATER_EQUAL: Operator.LESS_EQUAL,
}


@dataclass(frozen=True, slots=True)
class Expression:
    """Anything that can stand in a filter: the base of all nodes."""

    @property
    def children(self) -> tuple[Expression, ...]:
        """The nodes directly below this one."""
        return ()


@dataclass(frozen=True, slots=True)
class Column(Expression):
    """A column, or a member of a struct column: ``("address", "city")``."""

    path: tuple[str, ...]

    def __str__(self) -> str:
        return identifier_sql(self.path)


@dataclass(frozen=True, slots=True)
class Literal(Expression):
    """A constant. Binding gives it the type of what it is compared with, exactly or with an error."""

    value: pa.Scalar

    def __str__(self) -> str:
        return literal_sql(self.value)


@dataclass(frozen=True, slots=True)
class Comparison(Expression):
    """``left operator right``."""

    operator: Operator
    left: Expression
    right: Expression

    @property
    def children(self) -> tuple[Expression, ...]:
        """Both sides."""
        return (self.left, self.right)

    def __str__(self) -> str:
        return f"{_operand(self.left)} {self.operator.value} {_operand(self.right)}"


@dataclass(frozen=True, slots=True)
class And(Expression):
    """TRUE if all terms are; FALSE if any is; else NULL."""

    terms: tuple[Expression, ...]

    @property
    def children(self) -> tuple[Expression, ...]:
        """The terms."""
        return self.terms

    def __str__(self) -> str:
        return " AND ".join(map(_operand, self.terms)) or "TRUE"


@dataclass(frozen=True, slots=True)
class Or(Expression):
    """TRUE if any term is; FALSE if all are; else NULL."""

    terms: tuple[Expression, ...]

    @property
    def children(self) -> tuple[Expression, ...]:
        """The terms."""
        return self.terms

    def __str__(self) -> str:
        return " OR ".join(map(_operand, self.terms)) or "FALSE"


@dataclass(frozen=True, slots=True)
class Not(Expression):
    """The opposite; NULL stays NULL."""

    term: Expression

    @property
    def children(self) -> tuple[Expression, ...]:
        """The one term."""
        return (self.term,)

    def __str__(self) -> str:
        return f"NOT {_operand(self.term)}"


@dataclass(frozen=True, slots=True)
class In(Expression):
    """``value IN (options…)``: the OR of equalities, so that a NULL option makes FALSE into NULL."""

    value: Expression
    options: tuple[Literal, ...]

    @property
    def children(self) -> tuple[Expression, ...]:
        """The value (options are constants)."""
        return (self.value,)

    def __str__(self) -> str:
        return f"{_operand(self.value)} IN ({', '.join(map(str, self.options))})"


@dataclass(frozen=True, slots=True)
class IsNull(Expression):
    """``value IS NULL``: never NULL itself."""

    value: Expression

    @property
    def children(self) -> tuple[Expression, ...]:
        """The value."""
        return (self.value,)

    def __str__(self) -> str:
        return f"{_operand(self.value)} IS NULL"


@dataclass(frozen=True, slots=True)
class IsNan(Expression):
    """``isnan(value)``: NULL for NULL."""

    value: Expression

    @property
    def children(self) -> tuple[Expression, ...]:
        """The value."""
        return (self.value,)

    def __str__(self) -> str:
        return f"isnan({self.value})"


@dataclass(frozen=True, slots=True)
class Like(Expression):
    """``value [I]LIKE pattern [ESCAPE escape]``; without ``escape`` no character escapes."""

    value: Expression
    pattern: str
    escape: str | None = None
    ignore_case: bool = False

    @property
    def children(self) -> tuple[Expression, ...]:
        """The value."""
        return (self.value,)

    def __str__(self) -> str:
        keyword = "ILIKE" if self.ignore_case else "LIKE"
        escape = f" ESCAPE {text_sql(self.escape)}" if self.escape is not None else ""
        return f"{_operand(self.value)} {keyword} {text_sql(self.pattern)}{escape}"


@dataclass(frozen=True, slots=True)
class TextMatch(Expression):
    """``starts_with``, ``ends_with`` or ``contains``."""

    kind: OneOf["starts_with", "ends_with", "contains"]
    value: Expression
    text: str

    @property
    def children(self) -> tuple[Expression, ...]:
        """The value."""
        return (self.value,)

    def __str__(self) -> str:
        return f"{self.kind}({self.value}, {text_sql(self.text)})"


@dataclass(frozen=True, slots=True)
class Call(Expression):
    """A function by its name in lower case, or an arithmetic operator by its sign."""

    name: str
    arguments: tuple[Expression, ...]

    @property
    def children(self) -> tuple[Expression, ...]:
        """The arguments."""
        return self.arguments

    def __str__(self) -> str:
        if self.name in _INFIX and len(self.arguments) == 2:
            return f" {self.name} ".join(map(_operand, self.arguments))
        if self.name == "negate":
            return f"-{_operand(self.arguments[0])}"
        return f"{self.name}({', '.join(map(str, self.arguments))})"


@dataclass(frozen=True, slots=True)
class Case(Expression):
    """``CASE WHEN condition THEN result … ELSE otherwise END``."""

    conditions: tuple[Expression, ...]
    results: tuple[Expression, ...]
    otherwise: Expression

    @property
    def children(self) -> tuple[Expression, ...]:
        """Conditions, results, and what is left."""
        return (*self.conditions, *self.results, self.otherwise)

    def __str__(self) -> str:
        pairs = zip(self.conditions, self.results, strict=True)
        branches = " ".join(f"WHEN {condition} THEN {result}" for condition, result in pairs)
        return f"CASE {branches} ELSE {self.otherwise} END"


@dataclass(frozen=True, slots=True)
class Cast(Expression):
    """``CAST(value AS target)``."""

    value: Expression
    target: pa.DataType

    @property
    def children(self) -> tuple[Expression, ...]:
        """The value."""
        return (self.value,)

    def __str__(self) -> str:
        return f"CAST({self.value} AS {type_sql(self.target)})"


@dataclass(frozen=True, slots=True)
class Opaque(Expression):
    """A pyarrow expression, evaluated by Arrow as it is.

    ``translated`` holds the conjuncts of it that this tree can say (every row that passes the whole passes
    each of them), for pruning; ``complete`` tells whether together they say everything.
    """

    source: Any = field(compare=False)
    paths: tuple[tuple[str, ...], ...]
    translated: tuple[Expression, ...]
    complete: bool
    text: str

    @property
    def children(self) -> tuple[Expression, ...]:
        """The columns it reads."""
        return tuple(Column(path) for path in self.paths)

    def __str__(self) -> str:
        return self.text


_INFIX = frozenset("+-*/%") | {"//", "||"}


def _operand(node: Expression) -> str:
    """Spell ``node`` so that it can stand beside any operator."""
    bare = isinstance(node, Column | Literal | IsNan | TextMatch | Cast | Case)
    bare = bare or (isinstance(node, Call) and node.name not in _INFIX and node.name != "negate")
    return str(node) if bare else f"({node})"


def conjuncts_of(expression: Expression) -> tuple[Expression, ...]:
    """Split at the top-level ANDs."""
    if isinstance(expression, And):
        return tuple(part for term in expression.terms for part in conjuncts_of(term))
    return (expression,)


def walk(expression: Expression) -> Iterator[Expression]:
    """Yield ``expression`` and everything below it, without recursion."""
    pending = [expression]
    while pending:
        node = pending.pop()
        yield node
        pending.extend(node.children)


def with_columns(expression: Expression, change: Callable[[Column], Column]) -> Expression:
    """The same expression over other columns."""
    if isinstance(expression, Column):
        return change(expression)
    changed: dict[str, Any] = {}
    for one in fields(expression):
        value = getattr(expression, one.name)
        if isinstance(value, Expression):
            changed[one.name] = with_columns(value, change)
        elif isinstance(value, tuple) and value and isinstance(value[0], Expression):
            changed[one.name] = tuple(with_columns(part, change) for part in value)
    return replace(expression, **changed) if changed else expression
