"""SQL text to the predicate tree: sqlglot parses (DuckDB's dialect), this module says what it accepts.

Whatever is not listed here is refused by name and place; nothing is guessed. Importing this module imports
sqlglot (a third of a second), so the package does it only when SQL text is met.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NoReturn

import pyarrow as pa
import sqlglot
from sqlglot import exp
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.errors import ParseError, TokenError

from lake_engines.predicate.constants import cast_scalar, interval_from_text, number_from_text, shifted
from lake_engines.predicate.tree import (
    And,
    Call,
    Case,
    Cast,
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
from lake_format.errors import InvalidInputError, UnsupportedError

__all__ = ["parse"]

_SHOWN = 60  # characters of a filter shown in an error


class _FilterSql(DuckDB):
    """DuckDB's dialect, with the byte string literals x'00FF' that DuckDB 2.0 knows and sqlglot does not."""

    class Tokenizer(DuckDB.Tokenizer):
        HEX_STRINGS = [("x'", "'"), ("X'", "'")]  # noqa: RUF012 - the base class declares a list


@lru_cache(maxsize=512)
def parse(text: str) -> Expression:
    """Parse a filter; see :func:`lake_engines.predicate.parse_sql`."""
    if not text.strip():
        raise InvalidInputError(
            "the filter is empty", fix="leave it out, or write a condition such as price < 10"
        )
    try:
        parsed = sqlglot.parse_one(text, into=exp.Condition, dialect=_FilterSql)
        return _Reader(text).read(parsed)
    except ParseError as error:
        raise InvalidInputError(f"this is not valid SQL: {_syntax(error, text)}") from error
    except TokenError as error:
        raise InvalidInputError(
            f"this is not valid SQL: {_excerpt(text)}",
            fix="check quotes and comments that are not closed",
        ) from error
    except RecursionError as error:
        raise InvalidInputError(
            "the filter is nested too deeply", fix="flatten it, or use IN (...)"
        ) from error


def _syntax(error: ParseError, text: str) -> str:
    if not error.errors:
        return _excerpt(text)
    first = error.errors[0]
    before, at, after = (str(first.get(part) or "") for part in ("start_context", "highlight", "end_context"))
    column = int(first.get("col") or len(at)) - len(at) + 1
    description = str(first.get("description") or "unexpected text").split(" for <")[0].rstrip(".")
    excerpt = f"{before[-_SHOWN // 2 :]}→{at}{after[: _SHOWN // 2]}"
    return f"{description} at line {first.get('line')}, column {column}: {excerpt}"


def _excerpt(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _SHOWN else flat[: _SHOWN - 1] + "…"


_COMPARISONS: dict[type[exp.Expr], Operator] = {
    exp.EQ: Operator.EQUAL,
    exp.NEQ: Operator.NOT_EQUAL,
    exp.LT: Operator.LESS,
    exp.LTE: Operator.LESS_EQUAL,
    exp.GT: Operator.GREATER,
    exp.GTE: Operator.GREATER_EQUAL,
    exp.NullSafeEQ: Operator.NOT_DISTINCT,
    exp.NullSafeNEQ: Operator.DISTINCT,
}
_SIGNS: dict[type[exp.Expr], str] = {
    exp.Add: "+",
    exp.Sub: "-",
    exp.Mul: "*",
    exp.Div: "/",
    exp.IntDiv: "//",
    exp.Mod: "%",
    exp.DPipe: "||",
}
_FUNCTIONS: dict[type[exp.Expr], str] = {
    exp.Lower: "lower",
    exp.Upper: "upper",
    exp.Length: "length",
    exp.Abs: "abs",
    exp.Year: "year",
    exp.Month: "month",
    exp.Day: "day",
    exp.DayOfMonth: "day",
    exp.Hour: "hour",
    exp.Minute: "minute",
    exp.Second: "second",
    exp.Quarter: "quarter",
    exp.Week: "week",
    exp.DayOfYear: "dayofyear",
    exp.DayOfWeek: "dayofweek",
    exp.DayOfWeekIso: "isodow",
    exp.Floor: "floor",
    exp.Ceil: "ceil",
}
"""Functions of one argument; any other that is given with them is refused."""

_CALLS: dict[type[exp.Expr], tuple[str, tuple[str, ...]]] = {
    exp.Coalesce: ("coalesce", ("this", "expressions")),
    exp.Greatest: ("greatest", ("this", "expressions")),
    exp.Least: ("least", ("this", "expressions")),
    exp.Concat: ("concat", ("expressions",)),
    exp.Substring: ("substr", ("this", "start", "length")),
    exp.Left: ("left", ("this", "expression")),
    exp.Right: ("right", ("this", "expression")),
    exp.Round: ("round", ("this", "decimals")),
    exp.Replace: ("replace", ("this", "expression", "replacement")),
}
"""Other functions: their names here, and the parts of sqlglot's node that are their arguments, in order."""

_PART_NAMES = {part: part for part in ("year", "month", "day", "hour", "minute", "second", "quarter", "week")}
_PART_NAMES |= {name: name for name in ("dayofweek", "dayofyear", "isodow")}
_PART_NAMES |= {"dow": "dayofweek", "weekday": "dayofweek", "doy": "dayofyear"}
_TRIMS = {"LEADING": "ltrim", "TRAILING": "rtrim", "BOTH": "trim", "": "trim"}
_TEXT_TESTS = frozenset({"starts_with", "ends_with", "contains"})
_TYPES = {
    "BOOLEAN": pa.bool_(),
    "TINYINT": pa.int8(),
    "SMALLINT": pa.int16(),
    "INT": pa.int32(),
    "BIGINT": pa.int64(),
    "INT128": pa.decimal128(38, 0),
    "UTINYINT": pa.uint8(),
    "USMALLINT": pa.uint16(),
    "UINT": pa.uint32(),
    "UBIGINT": pa.uint64(),
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "TEXT": pa.string(),
    "VARCHAR": pa.string(),
    "VARBINARY": pa.binary(),
    "DATE": pa.date32(),
    "TIME": pa.time64("us"),
    "TIMESTAMP": pa.timestamp("us"),
    "TIMESTAMPNTZ": pa.timestamp("us"),
    "TIMESTAMPTZ": pa.timestamp("us", "UTC"),
    "TIMESTAMP_S": pa.timestamp("s"),
    "TIMESTAMP_MS": pa.timestamp("ms"),
    "TIMESTAMP_NS": pa.timestamp("ns"),
}
_NULL = pa.scalar(None, pa.null())


class _Reader:
    """Turns sqlglot's nodes into ours; keeps the text for errors."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._handlers: dict[type[exp.Expr], Callable[[Any], Expression]] = {
            exp.Paren: lambda node: self.read(node.this),
            exp.And: lambda node: And(self._terms(node, And)),
            exp.Or: lambda node: Or(self._terms(node, Or)),
            exp.Not: lambda node: Not(self.read(node.this)),
            exp.Is: self._is,
            exp.In: self._in,
            exp.Between: self._between,
            exp.Like: self._like,
            exp.ILike: self._like,
            exp.Escape: self._escape,
            exp.Column: self._column,
            exp.Dot: self._column,
            exp.Bracket: self._column,
            exp.Literal: self._literal,
            exp.HexString: lambda node: Literal(pa.scalar(bytes.fromhex(node.name), pa.binary())),
            exp.Boolean: lambda node: Literal(pa.scalar(bool(node.this))),
            exp.Null: lambda _: Literal(_NULL),
            exp.Interval: self._interval,
            exp.Cast: self._cast,
            exp.Neg: self._negative,
            exp.IsNan: lambda node: IsNan(self.read(node.this)),
            exp.Trim: self._trim,
            exp.Case: self._case,
            exp.If: self._if,
            exp.Nullif: self._null_if,
            exp.TimestampTrunc: self._cut_time,
            exp.DateTrunc: self._cut_time,
            exp.Extract: lambda node: self._part(node, node.name, node.expression),
            exp.StartsWith: lambda node: self._text_test(node, "starts_with", [node.this, node.expression]),
            exp.EndsWith: lambda node: self._text_test(node, "ends_with", [node.this, node.expression]),
            exp.Contains: lambda node: self._text_test(node, "contains", [node.this, node.expression]),
            exp.Anonymous: self._function,
        }

    def read(self, node: exp.Expr | None) -> Expression:
        """Convert one node and everything below it."""
        if node is None:  # sqlglot lets operators and functions stand without their operands
            raise InvalidInputError(f"this is not valid SQL: an operand is missing in {_excerpt(self._text)}")
        kind = type(node)
        if kind in _COMPARISONS:
            return Comparison(_COMPARISONS[kind], self.read(node.this), self.read(node.expression))
        if kind in _SIGNS:
            return self._arithmetic(node, _SIGNS[kind])
        if kind in _FUNCTIONS:
            if any(isinstance(given, exp.Expr) for name, given in node.args.items() if name != "this"):
                self._refuse(node)
            return self._call(_FUNCTIONS[kind], [node.this])
        if kind in _CALLS:
            name, parts = _CALLS[kind]
            given = [node.args.get(part) for part in parts]
            return self._call(
                name, [one for each in given for one in (each if isinstance(each, list) else [each]) if one]
            )
        handler = self._handlers.get(kind)
        if handler is None:
            self._refuse(node)
        found = handler(node)
        return Not(found) if node.args.get("negate") else found

    def _terms(self, node: exp.Expr, kind: type[And] | type[Or]) -> tuple[Expression, ...]:
        read = (self.read(term) for term in node.flatten())
        return tuple(part for term in read for part in (term.terms if isinstance(term, kind) else (term,)))

    def _refuse(self, node: exp.Expr, why: str = "is not supported") -> NoReturn:
        raise UnsupportedError(f"{_excerpt(node.sql(dialect=_FilterSql))} {why}{self._place(node)}")

    def _invalid(self, node: exp.Expr, why: object) -> InvalidInputError:
        return InvalidInputError(f"{_excerpt(node.sql(dialect=_FilterSql))}: {why}{self._place(node)}")

    def _place(self, node: exp.Expr) -> str:
        starts = [each.meta["start"] for each in node.walk() if "start" in each.meta]
        if not starts:
            return f" (in: {_excerpt(self._text)})"
        before = self._text[: min(starts)]
        return f" (line {before.count(chr(10)) + 1}, column {len(before) - before.rfind(chr(10))})"

    def _call(self, name: str, arguments: list[exp.Expr]) -> Expression:
        return Call(name, tuple(self.read(argument) for argument in arguments))

    def _column(self, node: exp.Expr) -> Expression:
        if isinstance(node, exp.Column):
            if any(not isinstance(part, exp.Identifier) for part in node.parts):
                self._refuse(node)
            return Column(tuple(part.name for part in node.parts))
        base = self.read(node.this)
        member = node.expression if isinstance(node, exp.Dot) else node.expressions[0]
        named = isinstance(member, exp.Identifier) or (isinstance(member, exp.Literal) and member.is_string)
        if (
            not isinstance(base, Column)
            or not named
            or (isinstance(node, exp.Bracket) and len(node.expressions) > 1)
        ):
            self._refuse(node)
        return Column((*base.path, member.name))

    def _literal(self, node: exp.Literal) -> Expression:
        if node.is_string:
            return Literal(pa.scalar(node.name, pa.string()))
        try:
            return Literal(number_from_text(node.name))
        except ValueError as error:
            raise self._invalid(node, error) from error

    def _is(self, node: exp.Is) -> Expression:
        value, other = self.read(node.this), node.expression
        if isinstance(other, exp.Null):
            return IsNull(value)
        if isinstance(other, exp.Boolean):
            return Comparison(Operator.NOT_DISTINCT, value, self.read(other))
        self._refuse(node)

    def _in(self, node: exp.In) -> Expression:
        if not isinstance(node.args.get("expressions"), list) or any(
            node.args.get(other) for other in ("query", "unnest", "field")
        ):
            self._refuse(node)
        value = self.read(node.this)
        options = tuple(self.read(option) for option in node.expressions)
        literals = tuple(option for option in options if isinstance(option, Literal))
        if len(literals) == len(options):
            return In(value, literals)
        return Or(tuple(Comparison(Operator.EQUAL, value, option) for option in options))

    def _between(self, node: exp.Between) -> Expression:
        if node.args.get("symmetric"):
            self._refuse(node)
        value = self.read(node.this)
        low, high = self.read(node.args["low"]), self.read(node.args["high"])
        return And((
            Comparison(Operator.GREATER_EQUAL, value, low),
            Comparison(Operator.LESS_EQUAL, value, high),
        ))  # fmt: skip

    def _like(self, node: exp.Expr, escape: str | None = None) -> Expression:
        value, pattern = self.read(node.this), self.read(node.expression)
        if not isinstance(pattern, Literal):
            self._refuse(node, "is not supported: a pattern must be a constant")
        if not pattern.value.is_valid:
            return Comparison(Operator.EQUAL, value, pattern)
        if not pa.types.is_string(pattern.value.type):
            raise self._invalid(node, "a pattern must be text")
        return Like(value, pattern.value.as_py(), escape, isinstance(node, exp.ILike))

    def _escape(self, node: exp.Escape) -> Expression:
        inner = node.this
        if not isinstance(inner, exp.Like | exp.ILike) or not isinstance(node.expression, exp.Literal):
            self._refuse(node)
        found = self._like(inner, node.expression.name)
        return Not(found) if inner.args.get("negate") else found

    def _interval(self, node: exp.Interval) -> Expression:
        amount, unit = node.this, node.args.get("unit")
        if not isinstance(amount, exp.Literal) or unit is None:
            self._refuse(node)
        try:
            return Literal(interval_from_text(amount.name, unit.name))
        except ValueError as error:
            self._refuse(node, f"is not supported: {error}")

    def _cast(self, node: exp.Cast) -> Expression:
        value, dtype = self.read(node.this), self._type(node)
        if not isinstance(value, Literal):
            return Cast(value, dtype)
        try:
            return Literal(cast_scalar(value.value, dtype))
        except (ValueError, pa.ArrowException) as error:
            raise self._invalid(node, error) from error

    def _type(self, node: exp.Cast) -> pa.DataType:
        target = node.to
        name = target.this.name if isinstance(target, exp.DataType) else ""
        sizes = [int(size.name) for size in target.expressions if size.name.isdigit()]
        if name == "DECIMAL":
            precision, scale = (*sizes, 0)[:2] if sizes else (18, 3)
            if not 0 <= scale <= precision <= 38 or precision == 0:
                raise self._invalid(node, "a decimal has 1 to 38 digits")
            return pa.decimal128(precision, scale)
        if name not in _TYPES or (sizes and name not in {"TEXT", "VARCHAR"}):
            self._refuse(node)
        return _TYPES[name]

    def _negative(self, node: exp.Neg) -> Expression:
        value = self.read(node.this)
        if not isinstance(value, Literal) or not value.value.is_valid:
            return Call("negate", (value,))
        scalar = value.value
        if isinstance(node.this, exp.Literal) and not node.this.is_string:
            return Literal(number_from_text(f"-{node.this.name}"))  # -9223372036854775808 is an integer
        if pa.types.is_floating(scalar.type):
            return Literal(pa.scalar(-scalar.as_py(), scalar.type))
        return Call("negate", (value,))

    def _arithmetic(self, node: exp.Expr, sign: str) -> Expression:
        left, right = self.read(node.this), self.read(node.expression)
        if isinstance(left, Literal) and isinstance(right, Literal) and sign in "+-":
            moment, interval = left.value, right.value
            is_moment = pa.types.is_timestamp(moment.type) or pa.types.is_date32(moment.type)
            if is_moment and pa.types.is_duration(interval.type):
                try:
                    return Literal(shifted(moment, interval, 1 if sign == "+" else -1))
                except (ValueError, OverflowError, pa.ArrowException) as error:
                    raise self._invalid(node, error) from error
        return Call(sign, (left, right))

    def _part(self, node: exp.Expr, part: str, moment: exp.Expr) -> Expression:
        if part.lower() not in _PART_NAMES:
            self._refuse(node)
        return self._call(_PART_NAMES[part.lower()], [moment])

    def _trim(self, node: exp.Trim) -> Expression:
        if node.args.get("collation"):
            self._refuse(node)
        characters = node.args.get("expression")
        name = _TRIMS[str(node.args.get("position") or "").upper()]
        return self._call(name, [node.this] if characters is None else [node.this, characters])

    def _cut_time(self, node: exp.Expr) -> Expression:
        if node.args.get("zone") or node.args.get("input_type_preserved"):
            self._refuse(node)
        unit = node.args["unit"]
        return Call("date_trunc", (Literal(pa.scalar(unit.name.lower())), self.read(node.this)))

    def _case(self, node: exp.Case) -> Expression:
        """CASE in either form; ``CASE x WHEN y`` asks whether they are equal."""
        conditions = tuple(self.read(branch.this) for branch in node.args["ifs"])
        if node.this is not None:
            value = self.read(node.this)
            conditions = tuple(Comparison(Operator.EQUAL, value, each) for each in conditions)
        results = tuple(self.read(branch.args["true"]) for branch in node.args["ifs"])
        return Case(conditions, results, self._otherwise(node.args.get("default")))

    def _if(self, node: exp.If) -> Expression:
        result, otherwise = self.read(node.args["true"]), self._otherwise(node.args.get("false"))
        return Case((self.read(node.this),), (result,), otherwise)

    def _null_if(self, node: exp.Nullif) -> Expression:
        value = self.read(node.this)
        same = Comparison(Operator.EQUAL, value, self.read(node.expression))
        return Case((same,), (Literal(_NULL),), value)

    def _otherwise(self, node: exp.Expr | None) -> Expression:
        return Literal(_NULL) if node is None else self.read(node)

    def _text_test(self, node: exp.Expr, kind: str, arguments: list[exp.Expr]) -> Expression:
        value, text = (self.read(argument) for argument in arguments)
        if (
            not isinstance(text, Literal)
            or not pa.types.is_string(text.value.type)
            or not text.value.is_valid
        ):
            self._refuse(node, "is not supported: the text looked for must be a constant")
        return TextMatch(kind, value, text.value.as_py())  # type: ignore[arg-type]

    def _function(self, node: exp.Anonymous) -> Expression:
        name, arguments = node.name.lower(), node.expressions
        if name == "isnan" and len(arguments) == 1:
            return IsNan(self.read(arguments[0]))
        if name in {"date_part", "datepart"} and len(arguments) == 2:
            return self._part(node, arguments[0].name, arguments[1])
        if name in _TEXT_TESTS | {"prefix", "suffix"} and len(arguments) == 2:
            kind = {"prefix": "starts_with", "suffix": "ends_with"}.get(name, name)
            return self._text_test(node, kind, arguments)
        if name in _PART_NAMES and len(arguments) == 1:
            return self._call(_PART_NAMES[name], arguments)
        self._refuse(node)
