"""Constant columns are declared: whatever happens to a table, it reads like one whose constant was written.

spec: SCH-5, SCH-9, EVO-10
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pytest
from conftest import Location
from hypothesis import given, settings
from hypothesis import strategies as st

import lake_format as lake
from lake_format.column_defaults import DEFAULTS_FEATURE, default_of
from lake_format.errors import CorruptionError, InvalidInputError, LakeError
from lake_format.schema import DEFAULT_KEY
from lake_format.store import Store, forget_memory, open_store
from lake_format.store.metered import MeteredStore

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), False),
        ("name", pa.string()),
        ("n", pa.int64()),
        ("v", pa.list_(pa.float32(), 2)),
    ]
)


def rows(first: int, count: int) -> pa.Table:
    ids = range(first, first + count)
    vectors = pa.array([[i % 7, i / 2] for i in ids], SCHEMA.field("v").type)
    return pa.table(
        [pa.array(ids), pa.array([f"row {i}" for i in ids]), pa.array(ids), vectors], schema=SCHEMA
    )


def make(store: Store, *sizes: int, **how: Any) -> lake.Table:
    table = lake.create("unused", SCHEMA, store=store, **how)
    for number, size in enumerate(sizes):
        table.append(rows(sum(sizes[:number]), size))
    return table


@pytest.fixture
def table(memory_location: Location) -> lake.Table:
    return make(memory_location.store(), 8, 6)


# --- the property ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A type, the constant, another value, the next wider type, and filters that ``{c}`` stands in for."""

    type: pa.DataType
    constant: Any
    other: Any
    wider: pa.DataType
    filters: tuple[str, ...]


KINDS = (
    Kind(pa.int16(), 7, -3, pa.int64(), ("{c} = 7", "{c} > 7", "{c} < 7", "{c} <> 7", "{c} IN (3, 7) AND n > 4")),
    Kind(pa.float32(), -0.0, 2.5, pa.float64(), ("{c} = 0", "{c} >= 1", "{c} < 0", "NOT {c} < 1")),
    Kind(pa.float32(), math.nan, 1.0, pa.float64(), ("{c} = 1", "{c} > 1", "{c} <= 1", "NOT {c} = 1")),
    Kind(pa.string(), "x" * 70, "a", pa.large_string(), ("{c} LIKE 'x%'", "{c} > 'y'", f"{{c}} = '{'x' * 70}'")),
    Kind(pa.binary(), b"\xff" * 80, b"", pa.large_binary(), ("{c} = X'00'", "{c} > X'01'")),
    Kind(pa.decimal128(5, 2), Decimal("1.25"), Decimal("9.00"), pa.decimal128(9, 2), ("{c} = 1.25", "{c} > 2")),
    Kind(pa.date32(), date(2024, 2, 29), date(1970, 1, 1), pa.timestamp("s"), ("{c} > DATE '2024-02-28'",)),
    Kind(pa.timestamp("s"), datetime(2024, 1, 1), datetime(1969, 1, 1), pa.timestamp("us"), ("{c} < '2020-01-01'",)),
    Kind(pa.bool_(), True, False, pa.bool_(), ("{c}", "NOT {c}")),
)  # fmt: skip


class Twin:
    """A table with a constant column, declared or written; does what it is told, or says how it was refused."""

    def __init__(self, kind: Kind, declared: bool, strategy: str, required: bool) -> None:
        self.uri = f"memory://defaults-{uuid4().hex}"
        self.table = make(open_store(self.uri), 7, 5, 3, properties={"write.update-strategy": strategy})
        self.kind, self.declared, self.required, self.column = kind, declared, required, "c"
        self.add("c")

    def add(self, name: str) -> None:
        constant = pa.scalar(self.kind.constant, self.kind.type)

        def written(batch: pa.RecordBatch) -> pa.Array:
            return pa.repeat(constant, batch.num_rows)

        values: object = constant if self.declared else written
        self.table.add_column(name, self.kind.type, values, nullable=not self.required)
        self.column = name

    def given(self, count: int, at: int) -> pa.Table:
        values = [self.kind.other if i % 3 else self.kind.constant for i in range(count)]
        column = pa.array(values, self.kind.type).cast(self.table.schema.field(self.column).type)
        return rows(100 * at, count).append_column(self.column, column)

    def step(self, what: str, number: int, at: int) -> str | None:
        try:
            STEPS[what](self, number, at)
        except (LakeError, KeyError) as error:
            return type(error).__name__
        return None

    def drop_and_add(self, at: int) -> None:
        self.table.drop_column(self.column)
        self.add(f"c{at}")

    def rename(self, at: int) -> None:
        self.table.rename_column(self.column, f"r{at}")
        self.column = f"r{at}"

    def on_branch(self, number: int, at: int) -> None:
        self.table.create_branch(f"b{at}")
        branch = lake.open("unused", branch=f"b{at}", store=open_store(self.uri))
        branch.update({self.column: self.kind.other}, f"id % {number} = 0")
        branch.append(rows(100 * at, 2) if not self.required else self.given(2, at))
        self.table.refresh().fast_forward(f"b{at}")

    def in_transaction(self, number: int, at: int) -> None:
        with self.table.transaction() as tx:
            tx.update({"n": 0}, f"id % {number} = 0")
            tx.append(self.given(3, at))
            tx.update({self.column: self.kind.other}, "id = 1")

    def looks(self) -> list[Any]:
        """All there is to see."""
        names = ["_row_id", *self.table.schema.names]
        found = [self.table.schema, sorted_rows(self.table.scan(names).read_all())]
        ids = [row_id for row_id, *_ in found[1]]
        found.append(self.table.take(ids[::-2]).to_pylist())
        if self.column in self.table.schema.names:
            for text in (*self.kind.filters, "{c} IS NULL", "{c} IS NOT NULL"):
                where = text.format(c=self.column)
                found.append(
                    (where, self.table.count(where), sorted_rows(self.table.scan(names, where).read_all()))
                )
                hits = self.table.search(
                    [1.0, 2.0], 3, where=where, select=["_row_id", "_distance", self.column]
                ).to_pylist()
                found.append(
                    sorted((row["_distance"], row["_row_id"], str(row[self.column])) for row in hits)
                )
        return found

    def histories(self) -> list[Any]:
        """Differences and feeds from the versions before and after the column came."""
        found: list[Any] = [self.table.version]
        for version in (4, 5):
            told = self.table.diff(version)
            found += [told.added.tolist(), told.removed.tolist(), told.changed.tolist()]
            feed = self.table.changes(version).read_all().drop(["_committed_at"])
            found.append(sorted(str(row) for row in feed.to_pylist()))
        return found


def sorted_rows(table: pa.Table) -> list[tuple[Any, ...]]:
    return sorted((tuple(row.values()) for row in table.to_pylist()), key=lambda row: row[0])


STEPS: dict[str, Callable[[Twin, int, int], Any]] = {
    "update c": lambda t, n, at: t.table.update({t.column: t.kind.other}, f"id % {n} = 0"),
    "update n": lambda t, n, at: t.table.update({"n": lake.sql("n + 100")}, f"id % {n} = 1"),
    "null": lambda t, n, at: t.table.update({t.column: None}, f"id % {n} = 1"),
    "delete": lambda t, n, at: t.table.delete(f"id % {n} = 2"),
    "append": lambda t, n, at: t.table.append(t.given(n, at)),
    "append without": lambda t, n, at: t.table.append(rows(100 * at, n)),
    "upsert": lambda t, n, at: t.table.upsert(t.given(n, 0), on="id"),
    "upsert without": lambda t, n, at: t.table.upsert(rows(n, 15), on="id"),
    "compact": lambda t, n, at: t.table.compact(4 * n, workers=1),
    "cluster": lambda t, n, at: t.table.cluster([t.column], everything=True),
    "rename": lambda t, n, at: t.rename(at),
    "widen": lambda t, n, at: t.table.widen_column(t.column, t.kind.wider),
    "backfill": lambda t, n, at: t.table.backfill(t.column, t.kind.other, f"id % {n} = 0"),
    "required": lambda t, n, at: t.table.alter_column(t.column, nullable=n % 2 == 0, comment="told"),
    "again": lambda t, n, at: t.drop_and_add(at),
    "restore": lambda t, n, at: t.table.restore(3 + n % (t.table.version - 2)),
    "branch": lambda t, n, at: t.on_branch(n, at),
    "transaction": lambda t, n, at: t.in_transaction(n, at),
    "partition": lambda t, n, at: t.table.set_partitioning([t.column]),
    "key": lambda t, n, at: t.table.set_key(t.column),
    "index": lambda t, n, at: t.table.create_index("v"),
}  # fmt: skip


HISTORIES = given(
    st.sampled_from(KINDS),
    st.sampled_from(["auto", "rewrite", "patch", "move"]),
    st.booleans(),
    st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.integers(2, 6)), min_size=1, max_size=6),
)


@HISTORIES
@settings(max_examples=10, deadline=None)
def test_a_declared_constant_reads_like_a_written_one(
    kind: Kind, strategy: str, required: bool, steps: list[tuple[str, int]]
) -> None:
    """Scans, reads by row id, filters and what they prune, search, differences and feeds, after any history."""
    compare_twins(kind, strategy, required, steps)


@pytest.mark.long
@HISTORIES
@settings(max_examples=300, deadline=None)
def test_many_histories_of_declared_constants(
    kind: Kind, strategy: str, required: bool, steps: list[tuple[str, int]]
) -> None:
    """The same, longer."""
    compare_twins(kind, strategy, required, steps)


def compare_twins(kind: Kind, strategy: str, required: bool, steps: list[tuple[str, int]]) -> None:
    """The same history for a declared and for a written column; whatever is to be seen must be the same."""
    twins = [Twin(kind, declared, strategy, required) for declared in (True, False)]
    assert DEFAULTS_FEATURE in twins[0].table.snapshot.version.required_features
    for at, (what, number) in enumerate(steps, 1):
        refused = [twin.step(what, number, at) for twin in twins]
        assert refused[0] == refused[1], (what, refused)
        assert repr(twins[0].looks()) == repr(twins[1].looks()), what
    assert repr(twins[0].histories()) == repr(twins[1].histories())
    problems = [[one.what for one in twin.table.verify().problems] for twin in twins]
    assert problems[0] == problems[1]
    for twin in twins:
        forget_memory(twin.uri)


# --- what it costs ------------------------------------------------------------------------------------------------


def test_a_constant_writes_no_data_file(memory_location: Location) -> None:
    """spec: EVO-1, EVO-10 — one version object and its hint, however many rows there are."""
    store = MeteredStore(memory_location.store())
    table = make(store, *[500] * 4)
    files = {info.path for info in store.list("data/")}
    store.reset()
    table.add_column("nothing", pa.string())
    nothing = store.usage()
    table.add_column("c", pa.string(), "a constant", nullable=False)
    spent = store.usage().since(nothing)
    assert {info.path for info in store.list("data/")} == files
    assert spent.requests == nothing.requests
    assert spent.bytes_read == 0
    assert spent.bytes_written < nothing.bytes_written + 2 * 1024
    assert table.count("c = 'a constant'") == 2000


def test_filters_leave_fragments_out_by_the_default(memory_location: Location) -> None:
    """spec: EVO-5 — no data file is read where the default tells that no row, or every row, passes."""
    store = MeteredStore(memory_location.store())
    make(store, *[50] * 4).add_column("c", pa.int64(), 7)
    table = lake.open("unused", store=store)
    assert table.count("c = 7") == 200
    assert table.count("c > 7 OR c IS NULL") == 0
    fresh = lake.open("unused", store=store)
    fresh.snapshot.fragments  # noqa: B018 - loads the manifests
    store.reset()
    assert fresh.count("c < 7") == 0
    assert fresh.scan(where="c IS NULL").read_all().num_rows == 0
    assert store.usage().bytes_read == 0


# --- what is declared, and what is not ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data_type", "value"),
    [
        (pa.list_(pa.float32(), 2), [1, 2]),
        (pa.struct([("a", pa.int8())]), {"a": 1}),
        (pa.list_(pa.int8()), [1]),
        (pa.dictionary(pa.int8(), pa.string()), "x"),
        (pa.string(), "ü" * 513),
        (pa.int64(), lake.sql("7")),
    ],
)
def test_other_constants_are_written(table: lake.Table, data_type: pa.DataType, value: object) -> None:
    """spec: SCH-9"""
    table.add_column("c", data_type, value)
    assert default_of(table.snapshot.schema.field("c")) is None
    assert DEFAULTS_FEATURE not in table.snapshot.version.required_features
    assert table.snapshot.schema.field("c").metadata.keys() == {b"PARQUET:field_id"}
    assert len(set(map(str, table.to_arrow()["c"].to_pylist()))) == 1
    assert table.count("c IS NULL") == 0


def test_rows_of_writers_who_do_not_know_the_column(memory_location: Location) -> None:
    """spec: EVO-10 — they have the default; those of who knows it and leaves it out are NULL."""
    table = make(memory_location.store(), 3)
    stale, part = lake.open("unused", store=table.snapshot.store), table.write_part(rows(50, 1))
    table.add_column("c", pa.int64(), 7).add_column("must", pa.int64(), 8, nullable=False)
    stale.append(rows(10, 2))
    table.refresh().commit_parts([part])
    table.alter_column("must", nullable=True).append(rows(20, 2))
    assert table.to_arrow()["c"].to_pylist() == [7] * 6 + [None] * 2
    assert table.to_arrow()["must"].to_pylist() == [8] * 6 + [None] * 2
    assert table.verify().problems == []


def test_a_table_that_only_looks_empty(memory_location: Location) -> None:
    """spec: EVO-10 — the constant holds for the version that the column lands on."""
    late = make(memory_location.store())
    lake.open("unused", store=late.snapshot.store).append(rows(0, 3))
    late.add_column("c", pa.int64(), 7, nullable=False)
    assert late.to_arrow()["c"].to_pylist() == [7, 7, 7]


def test_nobody_else_sets_a_default(table: lake.Table) -> None:
    """spec: SCH-9"""
    table.add_column("c", pa.int64(), 7)
    key = DEFAULT_KEY.decode()
    stored = table.snapshot.schema.field("c").metadata[DEFAULT_KEY]
    with pytest.raises(InvalidInputError, match="cannot be named"):
        table.alter_column("c", properties={key: None})
    with pytest.raises(InvalidInputError, match="cannot be named"):
        table.add_column("d", pa.int64(), properties={key: stored.decode()})
    table.add_column("e", pa.field("e", pa.int64(), metadata={DEFAULT_KEY: stored}))
    assert table.to_arrow()["e"].null_count == 14
    assert DEFAULT_KEY not in (table.schema.field("c").metadata or {})
    other = lake.create(f"memory://defaults-{uuid4().hex}", table.snapshot.schema)
    assert default_of(other.snapshot.schema.field("c")) is None


def test_a_wider_type_must_hold_the_default(table: lake.Table) -> None:
    """spec: SCH-9, EVO-4"""
    table.add_column("c", pa.timestamp("s"), datetime(9999, 1, 1))
    table.update({"c": datetime(2000, 1, 1)})
    with pytest.raises(InvalidInputError, match=r"has the default .* cannot hold"):
        table.widen_column("c", pa.timestamp("ns"))
    table.widen_column("c", pa.timestamp("us"))
    assert default_of(table.snapshot.schema.field("c")) == pa.scalar(datetime(9999, 1, 1), pa.timestamp("us"))


@pytest.mark.parametrize(
    "value", [pa.array([1], pa.int32()), pa.array([None], pa.int64()), pa.array([1, 1]), b"?"]
)
def test_a_default_that_is_none_is_corruption(value: pa.Array | bytes) -> None:
    """spec: SCH-9 — another type, NULL, more than one, no stream at all."""
    stored = value
    if isinstance(value, pa.Array):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, pa.schema([("value", value.type)])) as writer:
            writer.write_batch(pa.RecordBatch.from_arrays([value], ["value"]))
        stored = base64.b64encode(sink.getvalue())
    with pytest.raises(CorruptionError, match="no value of type int64"):
        default_of(pa.field("c", pa.int64(), metadata={DEFAULT_KEY: stored}))
    with pytest.raises(CorruptionError):
        default_of(pa.field("c", pa.int64(), metadata={DEFAULT_KEY: b"A" * 10_000}))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (7, "7"),
        ("new", "new"),
        (b"\xff", "b'\\xff'"),
        (True, "true"),
        (date(2024, 2, 29), "2024-02-29"),
        (Decimal("1.50"), "1.50"),
        (1.5, "1.5"),
    ],
)
def test_a_default_can_be_looked_at(table: lake.Table, value: Any, shown: str) -> None:
    """As is the one of a timestamp finer than Python's. spec: SCH-9"""
    table.add_column("c", values=value)
    table.add_column("t", pa.timestamp("ns"), values=pa.scalar(1, pa.timestamp("ns")))
    found = {row["column"]: row["default"] for row in table.inspect.columns().to_pylist()}
    assert (found["c"], found["id"]) == (shown, None)
    assert found["t"].endswith(".000000001")
