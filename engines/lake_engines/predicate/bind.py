"""Binding: a predicate tree and a schema become a predicate that can be evaluated and pruned.

Names are resolved, types checked and constants fitted here, so that every mistake in a filter is an error
before the first row is read, and none is met later.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import pyarrow as pa

from lake_engines.predicate.bound import BoundPredicate
from lake_engines.predicate.calls import build
from lake_engines.predicate.choices import case
from lake_engines.predicate.compare import compare_constant, compare_values, member
from lake_engines.predicate.functions import cast, is_text
from lake_engines.predicate.patterns import like
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
    Opaque,
    Operator,
    Or,
    Rules,
    TextMatch,
    conjuncts_of,
)
from lake_engines.predicate.truth import (
    All,
    Answer,
    AnyOf,
    ByArrow,
    Compare,
    Filled,
    Fixed,
    Match,
    Nan,
    Negation,
    Null,
    Truth,
    WhenValid,
)
from lake_engines.predicate.values import Constant, FieldValue, Value, plain_type
from lake_format.errors import InvalidInputError, LakeError, UnsupportedError
from lake_format.schema import FIELD_ID_KEY, ROW_ID, ROW_ID_STATISTICS
from lake_format.statistics import value_type

__all__ = ["bind", "field_of", "value_of"]

_NO_ROWS = pa.RecordBatch.from_pydict({})
_SHOWN = 20  # names listed in an error


def bind(expression: Expression, schema: pa.Schema, rules: Rules = "sql") -> BoundPredicate:
    """Check ``expression`` against ``schema`` and fit its constants.

    Parameters
    ----------
    expression
        A tree from :func:`parse_sql` or :func:`from_arrow`, or built by hand.
    schema
        Types of the columns; permanent ids in the metadata key ``PARQUET:field_id`` allow pruning.
    rules
        Whose meaning of NaN and zones applies (`spec/filters.md`, FILTER-3). Expressions made by
        :func:`from_arrow` follow Arrow's rules unless ``"duckdb"`` is asked for.

    Raises
    ------
    InvalidInputError
        If a column does not exist or a constant or function does not fit its types.
    UnsupportedError
        If the filter means something that cannot be evaluated exactly.
    """
    binder = _Binder(schema, rules)
    try:
        pairs = [(binder.truth(term), term) for term in conjuncts_of(expression)]
    except RecursionError as error:
        raise InvalidInputError(
            "the filter is nested too deeply", fix="flatten it, or use IN (...)"
        ) from error
    parts = tuple(BoundPredicate(truth, term, rules) for truth, term in pairs)
    whole = _all(truth for truth, _ in pairs)
    return BoundPredicate(whole, expression, rules, parts if len(parts) > 1 else ())


def value_of(expression: Expression, schema: pa.Schema, rules: Rules = "sql") -> Value:
    """Check an expression that computes a value, such as ``price * 2``, against ``schema``.

    Raises
    ------
    InvalidInputError, UnsupportedError
        As :func:`bind`.
    """
    try:
        return _Binder(schema, rules).value(expression)
    except RecursionError as error:
        raise InvalidInputError("the expression is nested too deeply", fix="flatten it") from error


def field_of(column: Column, schema: pa.Schema, rules: Rules = "sql") -> FieldValue:
    """The field that a column of an expression means; InvalidInputError where there is none."""
    return _Binder(schema, rules).field(column.path)


def _all(terms: Iterable[Truth]) -> Truth:
    """AND, flattened, without what is always TRUE."""
    flat: list[Truth] = []
    for term in terms:
        flat.extend(term.terms if isinstance(term, All) else (term,))
    kept = tuple(term for term in flat if term != Fixed(True))
    if Fixed(False) in kept:
        return Fixed(False)
    return kept[0] if len(kept) == 1 else All(kept) if kept else Fixed(True)


class _Binder:
    """Turns tree nodes into bound nodes for one schema and one set of rules."""

    def __init__(self, schema: pa.Schema, rules: Rules) -> None:
        self._schema = schema
        self._rules = rules

    def truth(self, node: Expression) -> Truth:
        """Bind a condition; one that reads no column is computed at once."""
        found = self._truth(node)
        if isinstance(found, Fixed) or found.columns or isinstance(found, ByArrow):
            return found
        return Fixed(found.evaluate(_NO_ROWS).as_py())

    def _truth(self, node: Expression) -> Truth:
        match node:
            case And(terms):
                return _all([self.truth(term) for term in terms])
            case Or(terms):
                return AnyOf(tuple(self.truth(term) for term in terms)) if terms else Fixed(False)
            case Not(term):
                return Negation(self.truth(term))
            case Comparison():
                return self._comparison(node)
            case In(value, options):
                return member(self.value(value), tuple(option.value for option in options), self._rules)
            case IsNull(value):
                bound = self.value(value)
                return Fixed(True) if pa.types.is_null(bound.dtype) else Null(bound)
            case IsNan(value):
                return self._nan(self.value(value))
            case Like() | TextMatch():
                return self._text_test(node)
            case Opaque():
                return self._opaque(node)
            case _:
                return self._flag(node)

    def value(self, node: Expression) -> Value:
        """Bind what is compared: a column, a constant, a function of them, or a condition's answer."""
        match node:
            case Column(path):
                return self.field(path)
            case Literal(scalar):
                return Constant(scalar)
            case Call(name, arguments):
                return build(name, tuple(self.value(argument) for argument in arguments))
            case Cast(value, target):
                return cast(self.value(value), target)
            case Case(conditions, results, otherwise):
                values = tuple(self.value(result) for result in results)
                return case(tuple(map(self.truth, conditions)), values, self.value(otherwise))
            case _:
                return Answer(self.truth(node))

    def _flag(self, node: Expression) -> Truth:
        value = self.value(node)
        if isinstance(value, Constant) and not value.scalar.is_valid:
            return Fixed(None)
        if not pa.types.is_boolean(value.dtype):
            raise InvalidInputError(
                f"{node} has type {value.dtype} and is no condition", fix="compare it with something"
            )
        return Compare(value, Operator.EQUAL, pa.scalar(True))

    def _comparison(self, node: Comparison) -> Truth:
        left, right, operator = self.value(node.left), self.value(node.right), node.operator
        if operator in {Operator.DISTINCT, Operator.NOT_DISTINCT}:
            same = self._same(left, right)
            return Negation(same) if operator is Operator.DISTINCT else same
        return self._compare(left, operator, right)

    def _compare(self, left: Value, operator: Operator, right: Value) -> Truth:
        if isinstance(left, Constant) and (not isinstance(right, Constant) or is_text(left.dtype)):
            left, operator, right = right, operator.mirrored, left
        if isinstance(right, Constant):
            if isinstance(left, Constant) and not left.scalar.is_valid:
                return Fixed(None)
            return compare_constant(left, operator, right.scalar, self._rules)
        return compare_values(left, operator, right, self._rules)

    def _same(self, left: Value, right: Value) -> Truth:
        """``left IS NOT DISTINCT FROM right``: equality in which NULL equals NULL; never NULL."""
        for one, other in ((left, right), (right, left)):
            if isinstance(one, Constant):
                equal = self._compare(left, Operator.EQUAL, right)
                return Filled(equal, False) if one.scalar.is_valid else Null(other)
        equal = self._compare(left, Operator.EQUAL, right)
        return AnyOf((All((Null(left), Null(right))), Filled(equal, False)))

    def _nan(self, value: Value) -> Truth:
        if pa.types.is_floating(value.dtype):
            return Nan(value)
        if pa.types.is_integer(value.dtype) or pa.types.is_decimal(value.dtype):
            return WhenValid(value, False)
        raise InvalidInputError(f"isnan() takes a number, not {value.dtype}")

    def _text_test(self, node: Like | TextMatch) -> Truth:
        value = self.value(node.value)
        if pa.types.is_null(value.dtype):
            return Fixed(None)
        if not is_text(value.dtype):
            raise InvalidInputError(
                f"{node.value} has type {value.dtype}; a test of text needs text (in: {node})"
            )
        if isinstance(node, TextMatch):
            prefix = node.text if node.kind == "starts_with" else ""
            return Match(value, node.kind, node.text, prefix)
        try:
            return like(value, node.pattern, node.escape, ignore_case=node.ignore_case)
        except ValueError as error:
            raise InvalidInputError(f"{error} (in: {node})") from error

    def _opaque(self, node: Opaque) -> Truth:
        """Bind a pyarrow expression: by this package where that is the same, else by Arrow itself."""
        rules: Rules = "duckdb" if self._rules == "duckdb" else "arrow"
        exact = _Binder(self._schema, rules)
        values = tuple(exact.field_exactly(path) for path in node.paths)
        hints, complete = [], node.complete
        for term in node.translated:
            try:
                hints.append(exact.truth(term))
            except LakeError:  # not wrong: only Arrow knows what it means, and says so below
                complete = False
        if complete:
            return _all(hints)
        if rules == "duckdb":
            raise UnsupportedError(f"{node} cannot be evaluated by DuckDB's rules")
        from lake_engines.predicate.arrow import runner  # noqa: PLC0415 - loads pyarrow.acero

        return ByArrow(runner(node, self._schema), values, tuple(hints))

    def field_exactly(self, path: tuple[str, ...]) -> FieldValue:
        """Resolve a path whose spelling is exact."""
        return self.field(path, fold_case=False)

    def field(self, path: tuple[str, ...], *, fold_case: bool | None = None) -> FieldValue:
        """Resolve a path; by SQL's rules its case does not matter where only one field fits."""
        fold_case = self._rules == "sql" if fold_case is None else fold_case
        index = _position(path[0], self._schema.names, path[:1], fold_case)
        field = self._schema.field(index)
        names = [field.name]
        for name in path[1:]:
            struct = value_type(field.type)
            if not pa.types.is_struct(struct):
                raise InvalidInputError(
                    f"column '{'.'.join(names)}' has type {field.type} and no member '{name}'",
                    fix='put a name with a dot in double quotes: "a.b"' if len(names) == 1 else None,
                )
            step = _position(name, [child.name for child in struct], (*names, name), fold_case)
            field = struct.field(step)
            names.append(field.name)
        found = (field.metadata or {}).get(FIELD_ID_KEY, b"")
        field_id = int(found) if found.isdigit() else ROW_ID_STATISTICS if names == [ROW_ID] else None
        return FieldValue(tuple(names), field.type, plain_type(field.type), field_id)


def _position(name: str, names: list[str], path: tuple[str, ...], fold_case: bool) -> int:
    """Find ``name``: as written, or (SQL) the only one that differs in case."""
    found = [index for index, each in enumerate(names) if each == name]
    if not found and fold_case:
        found = [index for index, each in enumerate(names) if each.lower() == name.lower()]
    if len(found) == 1:
        return found[0]
    if found:
        spelled = ", ".join(f"'{names[index]}'" for index in found)
        raise InvalidInputError(f"the column name '{name}' is ambiguous: {spelled}")
    near = difflib.get_close_matches(name.lower(), [each.lower() for each in names], n=3)
    similar = [each for each in names if each.lower() in near]
    shown = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
    hint = f"did you mean {' or '.join(map(repr, similar))}? " if similar else ""
    kind = "column" if len(path) == 1 else "struct member"
    raise InvalidInputError(
        f"there is no {kind} '{'.'.join(path)}'", fix=f"{hint}available: {shown or 'none'}"
    )
