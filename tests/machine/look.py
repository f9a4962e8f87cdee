"""What a reader sees of a version, compared with the model: scans, filters, row ids, searches, differences."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import strategies as st

import lake_format as lake
from lake_format.errors import NotFoundError

from .filters import FILTERS, Filter
from .state import Column, State
from .upkeep_operations import METRICS

CERTAIN_UP_TO = 1000
"""Rows up to which an index answers exactly: it has no lists then."""


PARTS = ("take", "search", "older", "verify")
"""What is asked besides a filtered scan; one of these after most steps, everything after some."""


@dataclass(frozen=True)
class Look:
    """What to ask for."""

    where: Filter
    limit: int | None
    fractions: tuple[float, ...]
    column: int
    metric: str
    queries: tuple[tuple[int, int, int], ...]
    k: int
    back: int
    parts: frozenset[str]

    @property
    def deep(self) -> bool:
        return "everything" in self.parts

    def asks(self, part: str) -> bool:
        return self.deep or part in self.parts


LOOKS = st.builds(
    Look,
    where=FILTERS,
    limit=st.none() | st.sampled_from([0, 1, 5]),
    fractions=st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.7, 0.99]), max_size=3).map(tuple),
    column=st.integers(0, 3),
    metric=st.sampled_from(METRICS),
    queries=st.lists(st.tuples(*[st.integers(-8, 8)] * 3), min_size=1, max_size=2).map(tuple),
    k=st.integers(1, 12),
    back=st.integers(0, 30),
    parts=st.sampled_from([*PARTS, *PARTS, "everything"]).map(lambda part: frozenset({part})),
)


def look_at(table: lake.Table, state: State, asked: Look) -> None:
    """Ask one version."""
    check_scan(table, state, asked)
    if asked.asks("take"):
        check_take(table, state, asked)
    column = state.pick(asked.column, lambda one: one.kind.startswith("vector"))
    if column is not None and asked.asks("search"):
        check_search(table, state, asked, column)


def check_schema(table: lake.Table, state: State) -> None:
    assert table.schema.remove_metadata().equals(state.schema), (table.schema, state.schema)


def check_rows(table: lake.Table, state: State) -> None:
    """All rows, whole."""
    assert rows_by_id(table, state) == state.shown()
    assert table.count() == len(state.rows)


def rows_by_id(table: lake.Table, state: State) -> dict[int, dict[str, Any]]:
    names = [one.name for one in state.columns]
    found = table.scan([*names, "_row_id"]).read_all().to_pylist()
    by_id = {row.pop("_row_id"): row for row in found}
    assert len(by_id) == len(found), "a row id is there twice"
    return by_id


def check_scan(table: lake.Table, state: State, asked: Look) -> None:
    where = asked.where.bind(state)
    chosen, shown = where.chosen(state), state.shown()
    assert table.count(where.given) == len(chosen), where.text
    names = [one.name for one in reversed(state.columns)][:2]
    found = table.scan(["_row_id", *names], where.given, asked.limit).read_all().to_pylist()
    assert len(found) == min(len(chosen), len(chosen) if asked.limit is None else asked.limit), where.text
    for row in found:
        own = row.pop("_row_id")
        assert own in chosen, where.text
        assert row == {name: shown[own][name] for name in names}, where.text


def check_take(table: lake.Table, state: State, asked: Look) -> None:
    live = sorted(state.rows)
    wanted = [live[int(fraction * len(live))] for fraction in asked.fractions] if live else []
    assert table.take(wanted).to_pylist() == [state.show(state.rows[row_id]) for row_id in wanted]
    gone = next((i for i in range(state.next_row_id + 1) if i not in state.rows), state.next_row_id)
    with pytest.raises(NotFoundError, match=str(gone)):
        table.take([*wanted, gone])


def check_search(table: lake.Table, state: State, asked: Look, column: Column) -> None:
    where, size = asked.where.bind(state), int(column.kind[-1])
    chosen = where.chosen(state)
    queries = [tuple(number / 4 for number in query[:size]) for query in asked.queries]
    vectors = {
        row_id: values
        for row_id, row in state.rows.items()
        if row_id in chosen and (values := row.get(column.number)) is not None
    }
    lists = len(state.rows) > CERTAIN_UP_TO
    for exact in (False, True) if asked.deep else (False,):
        found = table.search(
            queries,
            k=asked.k,
            column=column.name,
            where=where.given,
            metric=asked.metric,
            exact=exact,
            select=["_distance", "_row_id"],
        ).to_arrow()
        for number, query in enumerate(queries):
            own = found.filter(pa.compute.equal(found["_query"], number))
            true = {row_id: distance(query, values, asked.metric) for row_id, values in vectors.items()}
            check_neighbours(own, true, asked.k, certain=exact or not lists)


def check_neighbours(found: pa.Table, true: dict[int, float], k: int, *, certain: bool) -> None:
    ids, distances = found["_row_id"].to_pylist(), found["_distance"].to_pylist()
    assert len(ids) == len(set(ids)) == min(k, len(true))
    np.testing.assert_allclose(distances, [true[row_id] for row_id in ids], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(distances, _in_order(distances))
    if certain:
        np.testing.assert_allclose(distances, _in_order(list(true.values()))[:k], rtol=1e-5, atol=1e-6)


def _in_order(distances: list[float]) -> list[float]:
    return sorted(distances, key=lambda value: (math.isnan(value), value))


def distance(query: tuple[float, ...], values: tuple[float, ...], metric: str) -> float:
    """The distance as the documentation defines it. spec: TAB-9"""
    product = math.fsum(a * b for a, b in zip(query, values, strict=True))
    if metric == "ip":
        return -product
    if metric == "l2":
        return math.dist(query, values)
    lengths = math.hypot(*query) * math.hypot(*values)
    return 1 - product / lengths if lengths else math.nan


def check_difference(table: lake.Table, old: State, new: State) -> None:
    """What became of rows, by the columns both versions have."""
    found = table.diff(old.number, new.number)
    common = [(one, two) for one in old.columns if (two := new.column(one.number)) is not None]
    assert set(found.added.tolist()) == new.rows.keys() - old.rows.keys()
    assert set(found.removed.tolist()) == old.rows.keys() - new.rows.keys()
    changed = {
        row_id
        for row_id in old.rows.keys() & new.rows.keys()
        if any(_shared(old, row_id, pair) != _shared(new, row_id, pair) for pair in common)
    }
    told = set(found.changed.tolist())
    some = sorted(told ^ changed)[:2]
    assert told == changed, [(i, old.show(old.rows[i]), new.show(new.rows[i])) for i in some]


def _shared(state: State, row_id: int, pair: tuple[Column, Column]) -> Any:
    """A value without members of a struct that only one of the two columns has."""
    value = state.rows[row_id].get(pair[0].number)
    if not isinstance(value, dict):
        return value
    numbers = {one.number for one in pair[0].members} & {one.number for one in pair[1].members}
    return {number: value.get(number) for number in numbers}
