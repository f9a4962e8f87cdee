"""Random histories of a table against a model in plain Python: two handles, any order of operations.

The model knows rows by row id and which of them each version has. Distances are computed one by one in double
precision. Vectors are small multiples of a quarter, so that float32 holds every intermediate value exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from conftest import Location
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import lake_format as lake
from lake_format.errors import ConflictError, InvalidInputError, NotFoundError, UnsupportedError
from lake_format.store import forget_memory

SCHEMA = pa.schema(
    [
        pa.field("n", pa.int32(), False),
        ("name", pa.string()),
        ("v", pa.list_(pa.float32(), 3)),
        ("h", pa.list_(pa.float16(), 2)),
    ]
)
METRICS = ("l2", "cosine", "ip")
COLUMNS = {"v": 3, "h": 2}


@dataclass(frozen=True)
class Row:
    """One row of the model."""

    n: int
    name: str | None
    v: tuple[float, ...] | None
    h: tuple[float, ...] | None

    def as_dict(self) -> dict[str, Any]:
        vectors = {name: None if (v := getattr(self, name)) is None else list(v) for name in COLUMNS}
        return {"n": self.n, "name": self.name, **vectors}


def vector(dimension: int) -> st.SearchStrategy[tuple[float, ...]]:
    return st.tuples(*[st.integers(-8, 8).map(lambda number: number / 4)] * dimension)


ROWS = st.lists(
    st.builds(
        Row,
        n=st.integers(-5, 30),
        name=st.none() | st.sampled_from(["", "a", "b", "ä"]),
        v=st.none() | vector(3),
        h=st.none() | vector(2),
    ),
    min_size=1,
    max_size=8,
)
FILTERS: list[tuple[str, pc.Expression, Any]] = [
    ("n < 10", pc.field("n") < 10, lambda row_id, row: row.n < 10),
    ("name = 'a'", pc.field("name") == "a", lambda row_id, row: row.name == "a"),
    ("name IS NULL", pc.field("name").is_null(), lambda row_id, row: row.name is None),
    (
        "name IN ('a', 'ä') AND n >= 0",
        pc.field("name").isin(["a", "ä"]) & (pc.field("n") >= 0),
        lambda row_id, row: row.name in ("a", "ä") and row.n >= 0,
    ),
    (
        "NOT n = 3 OR v IS NULL",
        (pc.field("n") != 3) | pc.field("v").is_null(),
        lambda r, row: row.n != 3 or row.v is None,
    ),
    ("_row_id > 5 AND n > 100", (pc.field("_row_id") > 5) & (pc.field("n") > 100), lambda row_id, row: False),
]
INDEX = st.tuples(st.sampled_from(sorted(COLUMNS)), st.sampled_from(METRICS))
FILTER = st.none() | st.tuples(st.sampled_from(FILTERS), st.booleans())


@dataclass(frozen=True)
class Read:
    """What one look at a table asks for."""

    chosen: Any
    limit: int | None
    fractions: list[float]
    column: str
    queries: list[tuple[float, ...]]
    k: int


READ = st.builds(
    Read,
    chosen=FILTER,
    limit=st.none() | st.sampled_from([0, 1, 5, 12]),
    fractions=st.lists(st.floats(0, 0.999), max_size=5),
    column=st.sampled_from(sorted(COLUMNS)),
    queries=st.lists(vector(3), min_size=1, max_size=3),
    k=st.integers(1, 15),
)


def where_of(chosen: Any) -> tuple[Any, Any]:
    """A filter as the table takes it (SQL text or expression), and as the model does."""
    if chosen is None:
        return None, lambda _row_id, _row: True
    (text, expression, keeps), as_text = chosen
    return (text if as_text else expression), keeps


def distance(query: tuple[float, ...], values: tuple[float, ...], metric: str) -> float:
    """The distance as the documentation defines it. spec: TAB-9"""
    product = math.fsum(a * b for a, b in zip(query, values, strict=True))
    if metric == "ip":
        return -product
    if metric == "l2":
        return math.dist(query, values)
    lengths = math.hypot(*query) * math.hypot(*values)
    return 1 - product / lengths if lengths else math.nan


class TableMachine(RuleBasedStateMachine):
    """Two handles of one table, and what they must see."""

    location = Location("")

    @initialize(
        scalar_format=st.sampled_from(["vortex", "vortex", "parquet"]),
        fragment_rows=st.sampled_from([3, 1000]),
        many=st.sampled_from([False] * 7 + [True]),
        parts=st.lists(ROWS, max_size=3),
        indexed=st.lists(INDEX, max_size=2, unique=True),
        later=st.lists(ROWS, max_size=2),
    )
    def begin(
        self,
        scalar_format: str,
        fragment_rows: int,
        many: bool,
        parts: list[list[Row]],
        indexed: list[tuple[str, str]],
        later: list[list[Row]],
    ) -> None:
        """A table with some history already: rows, indexes, rows no index covers."""
        self.create(scalar_format, fragment_rows)
        if many:
            self.append_many(0, 5)
        for rows in parts:
            self.append(0, rows)
        for column, metric in indexed:
            self.create_index(0, column, metric)
        for rows in later:
            self.append(0, rows)

    def create(self, scalar_format: str, fragment_rows: int) -> None:
        self.where = self.new_location()
        properties = {"write.scalar-format": scalar_format, "write.fragment-rows": fragment_rows}
        first = lake.create(
            self.where.uri, SCHEMA, properties=properties, storage_options=self.where.storage_options
        )
        self.handles = [first, self.open()]
        self.rows: dict[int, Row] = {}
        self.live: dict[int, tuple[int, ...]] = {1: ()}
        self.newest = 1
        self.built: dict[int, tuple[str, str] | None] = {1: None}
        self.indexed: dict[int, frozenset[tuple[str, str]]] = {1: frozenset()}

    def new_location(self) -> Location:
        return Location(f"memory://machine-{uuid4().hex}")

    def open(self, version: int | None = None) -> lake.Table:
        return lake.open(self.where.uri, version, storage_options=self.where.storage_options)

    def teardown(self) -> None:
        if hasattr(self, "where") and self.where.uri.startswith("memory:"):
            forget_memory(self.where.uri)

    def landed(self, handle: lake.Table, live: tuple[int, ...], indexed: frozenset[tuple[str, str]]) -> None:
        self.newest += 1
        assert handle.version == self.newest
        self.live[self.newest] = live
        self.built[self.newest] = None
        self.indexed[self.newest] = indexed

    # --- writes -----------------------------------------------------------------------------------------------

    @rule(which=st.integers(0, 1), rows=ROWS)
    def append(self, which: int, rows: list[Row]) -> None:
        handle = self.handles[which]
        handle.append(pa.Table.from_pylist([row.as_dict() for row in rows], schema=SCHEMA))
        self.added(handle, rows)

    @rule(which=st.integers(0, 1), seed=st.integers(0, 3))
    @precondition(lambda self: len(self.rows) < 1000 and self.newest > 6)
    def append_many(self, which: int, seed: int) -> None:
        """Enough rows for an index with lists."""
        numbers = np.random.default_rng(seed).integers(-8, 9, (1100, 5)) / 4
        rows = [Row(i % 40, "b", tuple(a[:3].tolist()), tuple(a[3:].tolist())) for i, a in enumerate(numbers)]
        handle = self.handles[which]
        handle.append(row.as_dict() for row in rows)
        self.added(handle, rows)

    def added(self, handle: lake.Table, rows: list[Row]) -> None:
        first = len(self.rows)
        self.rows |= dict(enumerate(rows, first))
        ids = tuple(range(first, first + len(rows)))
        self.landed(handle, self.live[self.newest] + ids, self.indexed[self.newest])

    @rule(which=st.integers(0, 1), index=INDEX)
    def build(self, which: int, index: tuple[str, str]) -> None:
        self.create_index(which, *index)

    def create_index(self, which: int, column: str, metric: str) -> None:
        handle = self.handles[which]
        known = self.live[handle.version]
        if all(getattr(self.rows[row_id], column) is None for row_id in known):
            with pytest.raises(InvalidInputError, match="no vectors to index"):
                handle.create_index(column, metric)
            return
        if any(
            self.built[number] == (column, metric) for number in range(handle.version + 1, self.newest + 1)
        ):
            with pytest.raises(ConflictError, match="same name"):  # CON: both claim the index's name
                handle.create_index(column, metric)
            return
        handle.create_index(column, metric)
        indexed = self.indexed[self.newest] | {(column, metric)}
        self.landed(handle, self.live[self.newest], indexed)
        self.built[self.newest] = (column, metric)

    @rule(which=st.integers(0, 1), anew=st.booleans())
    def move_to_the_newest(self, which: int, anew: bool) -> None:
        if anew:
            self.handles[which] = self.open()
        assert self.handles[which].refresh().version == self.newest

    # --- reads ------------------------------------------------------------------------------------------------

    @rule(which=st.integers(0, 1), asked=READ)
    def read(self, which: int, asked: Read) -> None:
        self.check_reads(self.handles[which], asked)

    @rule(which=st.integers(0, 1), asked=READ)
    def read_again(self, which: int, asked: Read) -> None:
        """The same once more, so that reads outnumber writes."""
        self.check_reads(self.handles[which], asked)

    @rule(fraction=st.floats(0, 1), asked=READ)
    def read_an_older_version(self, fraction: float, asked: Read) -> None:
        version = 1 + round(fraction * (self.newest - 1))
        table = self.open(version)
        assert table.version == version
        self.check_reads(table, asked)
        with pytest.raises(UnsupportedError):
            table.append(pa.Table.from_pylist([], schema=SCHEMA))
        entries = table.refresh().versions()
        assert [entry["version"] for entry in entries] == list(range(1, version + 1))
        assert [entry["rows"] for entry in entries] == [len(self.live[entry["version"]]) for entry in entries]

    def check_reads(self, table: lake.Table, asked: Read) -> None:
        self.check_scan(table, asked.chosen, asked.limit)
        self.check_take(table, asked.fractions)
        queries = [query[: COLUMNS[asked.column]] for query in asked.queries]
        for metric in METRICS:
            for exact in (False, True):
                self.check_search(table, asked.column, queries, asked.k, metric, asked.chosen, exact)

    def check_scan(self, table: lake.Table, chosen: Any, limit: int | None) -> None:
        where, keeps = where_of(chosen)
        expected = [
            self.rows[row_id].as_dict() | {"_row_id": row_id}
            for row_id in self.live[table.version]
            if keeps(row_id, self.rows[row_id])
        ]
        columns = ["_row_id", "v", "name", "n", "h"]
        found = table.scan(columns, where, limit).read_all()
        assert found.column_names == columns
        assert found.to_pylist() == expected[:limit]
        assert table.count(where) == len(expected)

    def check_take(self, table: lake.Table, fractions: list[float]) -> None:
        live = self.live[table.version]
        wanted = [live[int(fraction * len(live))] for fraction in fractions] if live else []
        assert table.take(wanted).to_pylist() == [self.rows[row_id].as_dict() for row_id in wanted]
        with pytest.raises(NotFoundError, match=str(len(self.rows) + 7)):
            table.take([*wanted, len(self.rows) + 7])

    def check_search(
        self,
        table: lake.Table,
        column: str,
        queries: list[tuple[float, ...]],
        k: int,
        metric: str,
        chosen: Any,
        exact: bool,
    ) -> None:
        where, keeps = where_of(chosen)
        candidates = {
            row_id: getattr(self.rows[row_id], column)
            for row_id in self.live[table.version]
            if getattr(self.rows[row_id], column) is not None and keeps(row_id, self.rows[row_id])
        }
        result = table.search(
            queries,
            k=k,
            column=column,
            where=where,
            metric=metric,
            exact=exact,
            select=["_distance", "_row_id", "n"],
        )
        found = result.to_arrow()
        per_query: dict[int, list[dict[str, Any]]] = {number: [] for number in range(len(queries))}
        for neighbour in found.to_pylist():
            per_query[neighbour.pop("_query")].append(neighbour)
        lists = (column, metric) in self.indexed[table.version] and len(self.live[table.version]) > 1000
        for number, query in enumerate(queries):
            true = {row_id: distance(query, values, metric) for row_id, values in candidates.items()}
            self.check_neighbours(per_query[number], true, k, certain=exact or not lists)

    def check_neighbours(
        self, neighbours: list[dict[str, Any]], true: dict[int, float], k: int, *, certain: bool
    ) -> None:
        ids = [neighbour["_row_id"] for neighbour in neighbours]
        distances = [neighbour["_distance"] for neighbour in neighbours]
        assert len(ids) == len(set(ids)) == min(k, len(true))
        assert [neighbour["n"] for neighbour in neighbours] == [self.rows[row_id].n for row_id in ids]
        np.testing.assert_allclose(distances, [true[row_id] for row_id in ids], rtol=1e-5, atol=1e-6)
        best = sorted(true.values(), key=lambda value: (math.isnan(value), value))[:k]
        in_order = sorted(distances, key=lambda value: (math.isnan(value), value))
        np.testing.assert_array_equal(distances, in_order)
        if certain:
            np.testing.assert_allclose(distances, best, rtol=1e-5, atol=1e-6)

    @invariant()
    def handles_stay_where_they_are(self) -> None:
        for handle in getattr(self, "handles", []):
            assert handle.count() == len(self.live[handle.version])


SHORT = settings(
    max_examples=12,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
LONG = settings(SHORT, max_examples=100, stateful_step_count=30)


def test_random_histories() -> None:
    """spec: COM-1, COM-3, COM-7, COM-9, MAN-6, SCH-5, DEL-3, TAB-9, TAB-10"""
    run_state_machine_as_test(TableMachine, settings=SHORT)


@pytest.mark.long
def test_many_random_histories() -> None:
    run_state_machine_as_test(TableMachine, settings=LONG)


def test_one_history_on_every_kind_of_storage(table_uri: Location) -> None:
    """The same rules in a fixed order, on local disk, memory and S3. spec: COM-1, COM-6"""

    class Fixed(TableMachine):
        def new_location(self) -> Location:
            return table_uri

        def teardown(self) -> None:
            pass

    machine = Fixed()
    machine.create("vortex", 3)
    rows = [
        Row(i, "a" if i % 2 else None, (i / 4, 0.0, -i / 2), (1.0, i / 4) if i % 3 else None)
        for i in range(8)
    ]
    machine.append(0, rows)
    machine.append(1, rows[:2])
    machine.create_index(0, "v", "l2")
    machine.append(1, rows[5:])
    for which in (0, 1):
        for chosen in (None, (FILTERS[0], True), (FILTERS[3], False)):
            for column in COLUMNS:
                asked = Read(chosen, 5, [0.1, 0.9, 0.1], column, [(0.5, 0.25, -1.0)], 4)
                machine.check_reads(machine.handles[which], asked)
        machine.move_to_the_newest(which, which == 1)
    machine.read_an_older_version(0.7, Read(None, None, [], "v", [(0.0, 1.0, 0.5)], 3))
    assert machine.open(2).take([7, 0]).to_pylist() == [rows[7].as_dict(), rows[0].as_dict()]
