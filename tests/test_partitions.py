"""Partitioned tables: pure fragments whatever is done to them, pruned by filters on the columns themselves."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lake_format as lake
from lake_engines.filters import compile_filter
from lake_engines.fragment_reader import FragmentReader, ReaderPool
from lake_engines.scan import prune
from lake_format.errors import ConflictError, CorruptionError, InvalidInputError
from lake_format.model import KNOWN_FEATURES
from lake_format.partition_values import PartitionValues
from lake_format.schema import field_by_id
from lake_format.statistics import encode_bound
from lake_format.store import forget_memory

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), False),
        ("n", pa.int32()),
        ("name", pa.string()),
        ("ts", pa.timestamp("us")),
        ("v", pa.list_(pa.float32(), 2)),
    ]
)
FIELDS = (
    "n",
    "name",
    "ts",
    "bucket(3, id)",
    "bucket(2, name)",
    "truncate(10, n)",
    "truncate(1, name)",
    "year(ts)",
    "month(ts)",
    "day(ts)",
    "hour(ts)",
)
MOMENT = dt.datetime(1969, 12, 31, 22)


@pytest.fixture
def uri() -> Iterator[str]:
    made = f"memory://partitions-{uuid4().hex}"
    yield made
    forget_memory(made)


def rows(ids: Any, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    ids = list(ids)
    names = [None, "", "apple", "apricot", "bär", "b"]
    return pa.Table.from_pylist(
        [
            {
                "id": one,
                "n": None if rng.random() < 0.1 else int(rng.integers(-15, 16)),
                "name": names[int(rng.integers(len(names)))],
                "ts": None
                if rng.random() < 0.1
                else MOMENT + dt.timedelta(minutes=int(rng.integers(60 * 72))),
                "v": [float(one), 1.0],
            }
            for one in ids
        ],
        SCHEMA,
    )


def contents(table: lake.Table, where: str | None = None) -> list[dict[str, Any]]:
    return sorted(table.scan(where=where).read_all().to_pylist(), key=lambda row: row["id"])


def assert_pure(table: lake.Table) -> None:
    """Every row, deleted ones included, has the results its fragment's partition names."""
    snapshot = table.snapshot
    for fragment in snapshot.fragments.fragments():
        if fragment.partition is None:
            continue
        spec = snapshot.version.partition_specs[fragment.partition.spec_id]
        reader = FragmentReader(snapshot, fragment, ReaderPool())
        for field, value in zip(spec.fields, fragment.partition.values, strict=True):
            column = field_by_id(snapshot.schema, field.source_id)
            for _, batch in reader.scan([column.name], 0, fragment.row_count, 1000):
                for result in field.transform.apply(batch.column(0)).unique():
                    assert (encode_bound(result) if result.is_valid else None) == value


def kept(table: lake.Table, where: str) -> int:
    return len(prune(table.snapshot, compile_filter(table.snapshot, where)))


_SPECS = st.lists(st.sampled_from(FIELDS), max_size=3, unique=True)
_FILTERS = st.sampled_from(
    [
        "n = 3",
        "n IN (-10, 4, 7)",
        "n < -3 OR n > 12",
        "n IS NULL",
        "NOT (n = 3)",
        "name = 'apple'",
        "name LIKE 'ap%'",
        "name IS NOT NULL AND n <> 0",
        "ts < TIMESTAMP '1970-01-01 00:00:00'",
        "ts >= TIMESTAMP '1970-01-02 03:00:00' AND name IN ('b', '')",
        "id = 5",
        "id IN (1, 2, 30)",
        "NOT (id IN (1, 2, 30))",
        "(id = 4 OR n = 2) AND ts IS NOT NULL",
    ]
)
_STEPS = st.one_of(
    st.tuples(st.just("append"), st.integers(0, 99)),
    st.tuples(st.just("update n"), _FILTERS),
    st.tuples(st.just("update name"), _FILTERS),
    st.tuples(st.just("upsert"), st.integers(0, 99)),
    st.tuples(st.just("delete"), _FILTERS),
    st.tuples(st.just("overwrite"), _FILTERS),
    st.tuples(st.just("compact"), st.none()),
    st.tuples(st.just("cluster"), st.sampled_from([["n"], ["n", "ts"], ["name", "n", "id"]])),
    st.tuples(st.just("partition"), _SPECS),
)


def carry_out(table: lake.Table, step: tuple[str, Any], fresh: pa.Table) -> None:
    match step:
        case ("append", _):
            table.append(fresh)
        case ("update n", where):
            table.update({"n": 7}, where=where)
        case ("update name", where):
            table.update({"name": "bär", "ts": MOMENT}, where=where)
        case ("upsert", seed):
            table.upsert(rows([*range(seed % 7, 40, 5), *fresh["id"].to_pylist()], seed), on="id")
        case ("delete", where):
            table.delete(where)
        case ("overwrite", where):
            table.overwrite(fresh, where=where)
        case ("compact", _):
            table.compact()
        case ("cluster", columns):
            table.cluster(columns)
        case ("partition", fields):
            table.set_partitioning(fields)


_CASES = {
    "spec": _SPECS,
    "steps": st.lists(_STEPS, max_size=5),
    "filters": st.lists(_FILTERS, min_size=2, max_size=3),
}


@settings(max_examples=5, deadline=None)
@given(**_CASES)
def test_a_partitioned_table_is_an_ordinary_table(
    spec: list[str], steps: list[tuple[str, Any]], filters: list[str]
) -> None:
    """spec: PAR-5, PAR-6, PAR-7, CLU-3"""
    compare_with_an_ordinary_table(spec, steps, filters)


@pytest.mark.long
@settings(max_examples=100, deadline=None)
@given(**_CASES)
def test_partitioned_tables_at_length(
    spec: list[str], steps: list[tuple[str, Any]], filters: list[str]
) -> None:
    compare_with_an_ordinary_table(spec, steps, filters)


def compare_with_an_ordinary_table(spec: list[str], steps: list[tuple[str, Any]], filters: list[str]) -> None:
    uris = [f"memory://partitions-{uuid4().hex}" for _ in range(2)]
    parted, plain = (
        lake.create(uri, SCHEMA, partition_by=fields) for uri, fields in zip(uris, (spec, []), strict=True)
    )
    following = 40
    for step in [("append", 0), *steps]:
        fresh = (
            rows(range(following, following + 12), following) if step != ("append", 0) else rows(range(40))
        )
        following += 12
        for table in (parted, plain):
            if table is parted or step[0] not in ("partition", "cluster", "compact"):
                carry_out(table, step, fresh)
    assert contents(parted) == contents(plain)
    for where in filters:
        assert contents(parted, where) == contents(plain, where)
        assert parted.count(where) == plain.count(where)
    assert_pure(parted)
    assert parted.verify().problems == []
    for uri in uris:
        forget_memory(uri)


def test_filters_on_columns_leave_partitions_out(uri: str) -> None:
    """spec: PAR-6"""
    table = lake.create(uri, SCHEMA, partition_by=["day(ts)", "bucket(8, id)"])
    table.append(rows(range(900)))
    days, all_of_them = 5, len(table.snapshot.fragments)  # four days and NULL
    assert all_of_them == days * 8
    assert kept(table, "id = 17") <= days
    assert kept(table, "id IN (17, 18)") <= 2 * days
    assert kept(table, "NOT (id = 17)") == all_of_them
    assert kept(table, "ts IS NULL") == 8
    assert kept(table, "ts < TIMESTAMP '1970-01-01 00:00:00'") == 8
    assert kept(table, "ts < TIMESTAMP '1970-01-01 00:00:00' AND id = 17") <= 1
    assert table.count("ts < TIMESTAMP '1970-01-01 00:00:00'") == sum(
        row["ts"] is not None and row["ts"].year == 1969 for row in contents(table)
    )


def test_partitions_narrow_where_statistics_are_silent(uri: str) -> None:
    """spec: PAR-6"""
    table = lake.create(uri, SCHEMA, partition_by=["truncate(10, n)", "name", "month(ts)"])
    table.append(rows(range(300)))
    fragments = table.snapshot.fragments
    values = PartitionValues(fragments.table, table.snapshot.version.partition_specs, table.snapshot.schema)
    for place, column in enumerate(["n", "name", "ts"]):
        identity = {"n": 2, "name": 3, "ts": 4}[column]
        lower, upper, nulls, _ = values.narrowed(identity, None)
        measured = fragments.column(identity)
        assert measured is not None
        for row, fragment in enumerate(fragments.fragments()):
            assert fragment.partition is not None
            is_null = fragment.partition.values[place] is None
            assert nulls[row].as_py() == (fragment.row_count if is_null else 0)
            if not is_null:
                assert lower[row].as_py() <= measured[0][row].as_py()
                assert measured[1][row].as_py() <= upper[row].as_py()


def test_inspection_shows_partitions_to_people(uri: str) -> None:
    table = lake.create(uri, SCHEMA, partition_by=["months(ts)", "truncate(name, 1)"])
    table.append(rows([1]).set_column(3, "ts", pa.array([MOMENT], SCHEMA.field("ts").type)))
    assert table.partitioning == ["month(ts)", "truncate(1, name)"]
    (row,) = table.inspect.partitions().to_pylist()
    name = rows([1])["name"][0].as_py()
    shown = "NULL" if name is None else name[:1]
    assert row["partition"] == f"month(ts)=1969-12, truncate(1, name)={shown}"
    assert (row["rows"], row["fragments"]) == (1, 1)
    assert table.inspect.fragments()["partition"].to_pylist() == [row["partition"]]


def test_specs_evolve_and_old_fragments_keep_theirs(uri: str) -> None:
    """spec: PAR-1, PAR-7"""
    table = lake.create(uri, SCHEMA)
    table.append(rows(range(10)))
    assert "partitions" not in table.snapshot.version.required_features
    for number, fields in enumerate((["name"], ["day(ts)"], [], ["name"])):
        table.set_partitioning(fields)
        table.append(rows(range(10 * number + 10, 10 * number + 20), number))
        assert table.partitioning == fields
    version = lake.open(uri).snapshot.version
    assert "partitions" in version.required_features & KNOWN_FEATURES
    assert sorted(version.partition_specs) == [0, 1, 2]
    assert version.partition_spec_id == 0
    specs = table.inspect.partitions()["spec_id"].to_pylist()
    assert set(specs) == {None, 0, 1}
    assert_pure(table)
    assert [row["id"] for row in contents(table, "name = 'apple'")] == [
        row["id"] for row in contents(table) if row["name"] == "apple"
    ]
    table.restore(3)  # partitioned by name
    assert table.partitioning == ["name"]
    table.restore(2)  # not at all
    assert table.partitioning == []
    table.append(rows([77]))
    assert table.snapshot.fragments.fragments()[-1].partition is None


def test_a_restore_to_before_partitioning_keeps_the_specs(uri: str) -> None:
    """spec: PAR-7"""
    table = lake.create(uri, SCHEMA)
    table.append(rows(range(5)))
    table.set_partitioning("name").append(rows(range(5, 10)))
    table.restore(2)
    assert table.partitioning == []
    table.set_partitioning("n").append(rows(range(10, 15)))
    table.restore(4)
    assert table.partitioning == ["name"]
    assert len(lake.open(uri).snapshot.version.partition_specs) == 3
    assert table.verify().problems == []


def test_source_columns_stay_renames_and_widenings_are_fine(uri: str) -> None:
    """spec: PAR-8"""
    table = lake.create(uri, SCHEMA, partition_by=["bucket(4, n)", "truncate(2, name)"])
    table.append(rows(range(60)))
    before = [row["id"] for row in contents(table, "n = 7")]
    table.rename_column("n", "number").widen_column("number", pa.int64()).rename_column("name", "title")
    table.append(rows(range(60, 120)).rename_columns(["id", "number", "title", "ts", "v"]))
    assert [row["id"] for row in contents(table, "number = 7") if row["id"] < 60] == before
    assert_pure(table)
    with pytest.raises(InvalidInputError, match="bucket\\(4, number\\)"):
        table.drop_column("number")
    with pytest.raises(InvalidInputError, match="would give other values"):
        table.widen_column("number", pa.decimal128(38, 0))
    table.set_partitioning(["truncate(2, title)"]).drop_column("number")
    assert table.verify().problems == []
    assert all("bucket(4, number)" in text for text in table.inspect.partitions()["partition"].to_pylist())
    table.add_column("number", pa.int64())  # another column of the same name
    assert table.count("number = 7") == 0


def test_a_column_dropped_meanwhile_is_a_conflict(uri: str) -> None:
    """spec: PAR-8"""
    first = lake.create(uri, SCHEMA)
    first.append(rows(range(3)))
    second = lake.open(uri)
    refreshed = second.refresh
    second.refresh = lambda: (refreshed(), first.drop_column("name"))[0]  # type: ignore[method-assign]
    with pytest.raises(ConflictError, match="dropped"):
        second.set_partitioning(["name"])
    third, fourth = lake.open(uri), lake.open(uri)
    third.set_partitioning(["n"])
    with pytest.raises(ConflictError, match="partitioned by n"):
        fourth.drop_column("n")


def test_values_that_decide_a_partition_are_not_filled_in_place(uri: str) -> None:
    """spec: PAR-5"""
    table = lake.create(uri, SCHEMA)
    table.append(rows(range(20)))
    table.add_column("kind", pa.string())
    table.set_partitioning(["kind"])
    table.append(rows(range(20, 40)))
    with pytest.raises(ConflictError, match="update"):
        table.backfill("kind", lake.sql("'x'"), where="kind IS NULL")
    assert table.update({"kind": "x"}, where="kind IS NULL").updated == 40
    assert_pure(table)
    assert table.count("kind = 'x'") == 40


def test_keys_are_found_in_rows_that_were_put_in_order(uri: str) -> None:
    """spec: KEY-3"""
    table = lake.create(uri, SCHEMA, key="id", partition_by=["bucket(4, n)"], cluster_by=["n", "ts"])
    table.append(rows(range(3000)))
    assert table.snapshot.version.key_index is not None
    known = {row["id"]: row for row in contents(table)}
    table.upsert(rows(range(2990, 3010), 7))
    assert table.count() == 3010
    for key in (0, 5, 1234, 2989):
        assert table.get(key) == known[key]
    with pytest.raises(InvalidInputError, match="2999"):
        table.append(rows([2999]))
    table.cluster(["ts", "n"])
    assert table.upsert(rows(range(0, 3010, 7), 9)).inserted == 0
    assert_pure(table)
    assert table.verify().problems == []


def test_updates_of_other_columns_stay_in_place(uri: str) -> None:
    table = lake.create(uri, SCHEMA, partition_by=["name"])
    ids = np.arange(20_000)
    table.append({"id": ids, "name": np.where(ids % 2, "a", "b"), "v": np.zeros((len(ids), 2)).tolist()})
    assert table.update({"n": 5}).strategy == "rewrite"
    assert table.update({"name": "b"}).strategy == "move"
    assert table.inspect.partitions()["partition"].to_pylist() == ["name=b"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("nothing", "nothing"),
        ("day(name)", "day"),
        ("v", "v"),
        ("bucket(0, id)", "bucket"),
        ("bucket(id)", "bucket"),
        ("cube(id)", "cube"),
        (["id", "id"], "twice"),
        (3, "texts"),
        ("bucket(1, 2, 3)", "bucket"),
    ],
)
def test_bad_fields_are_named(uri: str, fields: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        lake.create(uri, SCHEMA, partition_by=fields)


def test_too_many_partitions_are_refused(uri: str) -> None:
    table = lake.create(uri, SCHEMA, partition_by="id", properties={"write.max-partitions": 10})
    with pytest.raises(InvalidInputError, match="more than 10 partitions by id"):
        table.append(rows(range(11)))
    assert table.count() == 0
    table.append(rows(range(10)))
    assert len(table.snapshot.fragments) == 10


def test_altered_partitions_are_refused(uri: str) -> None:
    """spec: PAR-4"""
    table = lake.create(uri, SCHEMA, partition_by="name")
    table.append(rows(range(10)))
    snapshot = table.snapshot
    for specs in ({}, {1: snapshot.version.partition_specs[0]}):
        with pytest.raises(CorruptionError, match="spec 0"):
            PartitionValues(snapshot.fragments.table, specs, snapshot.schema)
