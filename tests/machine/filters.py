"""Filters: as SQL text, as an Arrow expression, and what they mean for a row of the model, NULL included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc
from hypothesis import strategies as st

from .state import NAMES, Column, Row, State

Truth = bool | None


@dataclass(frozen=True)
class Comparison:
    """One comparison; which column is meant is settled when the version is known."""

    column: int
    test: str
    value: int
    negated: bool = False


@dataclass(frozen=True)
class Filter:
    """Comparisons joined by AND or OR."""

    tests: tuple[Comparison, ...]
    all_of: bool = True
    as_text: bool = True

    def bind(self, state: State) -> Bound:
        parts = [_bind(test, state) for test in self.tests]
        joined = pc.scalar(True) if not parts else parts[0].expression
        for part in parts[1:]:
            joined = (joined & part.expression) if self.all_of else (joined | part.expression)
        text = (" AND " if self.all_of else " OR ").join(f"({part.text})" for part in parts)
        return Bound(
            text=text or "true",
            expression=joined,
            reads=frozenset().union(*(part.reads for part in parts)),
            truth=lambda row_id, row: _joined([part.truth(row_id, row) for part in parts], self.all_of),
            as_text=self.as_text,
        )


@dataclass(frozen=True)
class Bound:
    """A filter on the columns of one version."""

    text: str
    expression: Any
    reads: frozenset[int]
    truth: Callable[[int, Row], Truth]
    as_text: bool = True

    @property
    def given(self) -> Any:
        return self.text if self.as_text else self.expression

    def chosen(self, state: State) -> frozenset[int]:
        return frozenset(row_id for row_id, row in state.rows.items() if self.truth(row_id, row))


def _joined(truths: list[Truth], all_of: bool) -> Truth:
    if not truths:
        return True
    if (not all_of) in truths:
        return not all_of
    return None if None in truths else all_of


def _bind(test: Comparison, state: State) -> Bound:
    plain = [one for one in state.columns if not one.members]
    column = plain[test.column % len(plain)]
    if test.test == "row_id":
        bound = Bound(
            f"_row_id < {test.value}",
            pc.field("_row_id") < test.value,
            frozenset(),
            lambda row_id, _: row_id < test.value,
        )
    elif test.test == "null" or column.kind.startswith("vector"):
        bound = Bound(
            f'"{column.name}" IS NULL',
            pc.field(column.name).is_null(),
            frozenset({column.number}),
            lambda _, row: row.get(column.number) is None,
        )
    else:
        bound = _compare(column, test)
    if not test.negated:
        return bound
    return Bound(
        f"NOT ({bound.text})",
        ~bound.expression,
        bound.reads,
        lambda row_id, row: None if (found := bound.truth(row_id, row)) is None else not found,
    )


def _compare(column: Column, test: Comparison) -> Bound:
    value: Any = test.value
    if column.kind.endswith("string"):
        value = NAMES[test.value % len(NAMES)]
    shown, field = (f"'{value}'" if isinstance(value, str) else str(value)), pc.field(column.name)
    meaning: dict[str, tuple[str, Any, Callable[[Any], bool]]] = {
        "less": (f"< {shown}", field < value, lambda own: own < value),
        "equal": (f"= {shown}", field == value, lambda own: own == value),
        "in": (f"IN ({shown})", field == value, lambda own: own == value),
    }
    text, expression, holds = meaning[test.test]

    def truth(_row_id: int, row: Row) -> Truth:
        own = row.get(column.number)
        if own is None:
            return None
        return holds(own)

    return Bound(f'"{column.name}" {text}', expression, frozenset({column.number}), truth)


TESTS = st.builds(
    Comparison,
    column=st.integers(0, 9),
    test=st.sampled_from(["less", "equal", "in", "null", "row_id"]),
    value=st.integers(-3, 25),
    negated=st.booleans(),
)
FILTERS = st.builds(
    Filter,
    tests=st.lists(TESTS, max_size=2).map(tuple),
    all_of=st.booleans(),
    as_text=st.booleans(),
)
TEXT_FILTERS = st.builds(Filter, tests=st.lists(TESTS, max_size=2).map(tuple), all_of=st.booleans())
