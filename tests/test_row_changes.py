"""Delete, update, upsert, merge and overwrite, one writer at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from row_samples import DIMENSION, Forced, content, ids, make, row_ids, rows, summary, vector

import lake_format as lake
from lake_format.errors import InvalidInputError, NotFoundError, UnsupportedError
from lake_format.store.local import LocalStore
from lake_format.store.metered import MeteredStore
from lake_format.table import Table


@pytest.fixture(params=["rewrite", "patch", "move"])
def strategy(request: pytest.FixtureRequest) -> Iterator[str]:
    """All ways of writing new values, whatever they cost: the result must be the same."""
    with Forced(request.param):
        yield str(request.param)


def nearest(table: Table, seed: int, **options: Any) -> list[tuple[int, float]]:
    found = table.search(vector(seed), 1, select=["id", "_distance"], **options).to_arrow().to_pylist()
    return [(row["id"], round(row["_distance"], 4)) for row in found]


# --- delete -------------------------------------------------------------------------------------------------


def test_a_deleted_row_is_gone_for_every_reader(tmp_path: Path) -> None:
    table = make(tmp_path, *range(35))
    before = row_ids(table)
    done = table.delete("id IN (3, 12) OR price >= 33")
    assert (done.deleted, done.updated, done.inserted, done.version) == (4, 0, 0, 3)
    left = sorted({*range(33)} - {3, 12})
    assert ids(table) == left
    assert table.count() == len(left)
    assert table.count("id < 13") == 11
    assert ids(lake.open(table.uri)) == left
    assert table.take([before[4], before[32]], ["id"]).to_pylist() == [{"id": 4}, {"id": 32}]
    for gone in (3, 12, 33):
        with pytest.raises(NotFoundError):
            table.take([before[gone]])
    assert ids(lake.open(table.uri, version=2)) == [*range(35)]


def test_fragments_that_end_empty_are_removed(tmp_path: Path) -> None:
    """spec: CHG-1"""
    table = make(tmp_path, *range(40))
    files = sorted(path.name for path in (tmp_path / "table" / "data").iterdir())
    table.delete("id >= 10 AND id < 30 OR id = 5")
    assert sorted(path.name for path in (tmp_path / "table" / "data").iterdir()) == files
    assert table.inspect.fragments().num_rows == 2
    record = table.snapshot.version.operations[0]
    assert record["fragments_removed"] == [1, 2]
    assert record["fragments_masked"] == [0]
    assert record["rows_deleted"] == [[5, 1], [10, 20]]
    table.delete("true")
    assert table.count() == 0
    assert table.inspect.fragments().num_rows == 0
    assert table.append(rows(1)).count() == 1
    assert row_ids(table)[1] == 40


def test_deleting_again_adds_to_what_is_deleted(tmp_path: Path) -> None:
    table = make(tmp_path, *range(10))
    for gone in (7, 2, 5):
        assert table.delete(f"id = {gone}").deleted == 1
    version = table.version
    assert table.delete("id = 2").deleted == 0
    assert table.version == version, "nothing to do makes no version"
    assert ids(table) == [0, 1, 3, 4, 6, 8, 9]
    with pytest.raises(InvalidInputError, match="filter"):
        table.delete(None)
    with pytest.raises(InvalidInputError, match="there is no column"):
        table.delete("nothing = 1")


def test_searches_never_return_deleted_rows(tmp_path: Path) -> None:
    table = make(tmp_path, *range(400), fragment_rows=100)
    table.create_index("vec")
    assert nearest(table, 17) == [(17, 0.0)]
    table.delete("id = 17")
    assert nearest(table, 17)[0][0] != 17
    assert nearest(table, 17) == nearest(table, 17, exact=True)
    assert nearest(table, 18) == [(18, 0.0)]
    assert len(table.search(vector(1), 400, select=["id"]).to_arrow()) == 399


# --- update -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (7, 7.0),
        (pa.scalar(2.5), 2.5),
        (np.float32(0.5), 0.5),
        (None, None),
        (lake.sql("price * 2 + 1"), 9.0),
        (lake.sql("CAST(length(name) AS DOUBLE)"), 6.0),
        (pc.multiply(pc.field("price"), pc.field("id")), 16.0),
        (pc.scalar(3), 3.0),
        (lambda batch: pc.add(batch["price"], 0.25), 4.25),
        (lambda batch: [float(i) + 0.5 for i in batch["id"].to_pylist()], 4.5),
    ],
)
@pytest.mark.usefixtures("strategy")
@pytest.mark.parametrize("where", ["id = 4", "id >= 4 AND id < 30"])
def test_update_takes_constants_expressions_and_functions(
    tmp_path: Path, value: object, expected: object, where: str
) -> None:
    """spec: CHG-3"""
    table = make(tmp_path, *range(12))
    before, untouched = row_ids(table), content(table, "name", "vec")
    done = table.update({"price": value}, where)
    assert done.updated == len([i for i in range(12) if i == 4 or (i >= 4 and where != "id = 4")])
    assert content(table, "price")[4] == expected
    assert content(table, "price")[3] == 3.0
    assert row_ids(table) == before
    assert content(table, "name", "vec") == untouched


def test_all_assignments_see_the_old_values(tmp_path: Path) -> None:
    table = make(tmp_path, 1, 2)
    table.update({"id": lake.sql("id + 10"), "price": lake.sql("CAST(id AS DOUBLE) / 2")})
    assert content(table, "price") == {11: 0.5, 12: 1.0}


def test_update_says_what_does_not_fit_and_changes_nothing(tmp_path: Path) -> None:
    table = make(tmp_path, *range(5))
    files = sorted(path.name for path in (tmp_path / "table" / "data").iterdir())
    bad: list[tuple[dict[str, object], str]] = [
        ({"prize": 1}, "prize"),
        ({"price": "dear"}, "price"),
        ({"id": None}, "id"),
        ({"id": 1.5}, "id"),
        ({"vec": [1.0, 2.0]}, "dimension"),
        ({"price": lake.sql("nothing + 1")}, "nothing"),
        ({"price": lake.sql("name")}, "price"),
        ({"id": lambda batch: [1]}, "1 values for"),
        ({"id": lambda batch: [None] * batch.num_rows}, "must not be NULL"),
        ({}, "at least one column"),
    ]
    for values, message in bad:
        with pytest.raises(InvalidInputError, match=message):
            table.update(values)
    assert table.version == 2
    assert sorted(path.name for path in (tmp_path / "table" / "data").iterdir()) == files


def test_a_narrow_update_writes_its_column_only(tmp_path: Path) -> None:
    """Vectors and text are not written again: bytes are counted at the store. spec: CHG-2, CHG-4"""
    store = MeteredStore(LocalStore(tmp_path / "wide"))
    schema = pa.schema(
        [("id", pa.int64()), ("n", pa.int32()), ("text", pa.string()), ("vec", pa.list_(pa.float32(), 64))]
    )
    table = lake.create("wide", schema, store=store)
    count = 4000
    vectors = np.random.default_rng(0).normal(size=count * 64).astype(np.float32)
    table.append(
        {
            "id": np.arange(count),
            "n": np.arange(count, dtype=np.int32),
            "text": [f"{i:08d}" * 20 for i in range(count)],
            "vec": pa.FixedSizeListArray.from_arrays(pa.array(vectors), 64),
        }
    )
    before = table.scan(["text", "vec", "_row_id"]).read_all()
    groups = table.snapshot.fragments.fragment(0).groups
    start = store.usage()
    done = table.update({"n": lambda batch: pc.add(batch["n"], 7)}, inputs=["n"])
    cost = store.usage().since(start)
    assert done.strategy == "rewrite"
    assert done.bytes < 40_000 < groups[1].size
    assert cost.bytes_written < 60_000, "the column, a manifest entry and the version"
    now = table.snapshot.fragments.fragment(0)
    assert [group.path for group in now.groups[:2]] == [group.path for group in groups]
    assert table.scan(["text", "vec", "_row_id"]).read_all().equals(before)
    assert table.scan(["n"]).read_all()["n"].to_pylist() == [i + 7 for i in range(count)]
    assert "superseded-columns" in table.snapshot.version.required_features


def test_bounds_hold_after_a_rewrite(tmp_path: Path, strategy: str) -> None:
    """spec: CHG-5"""
    table = make(tmp_path, *range(10))
    assert table.update({"price": lake.sql("price + 1000")}).strategy == strategy
    assert table.count("price >= 1000") == 10
    assert table.count("price < 1000") == 0
    table.update({"price": 5.0}, "id = 3")
    assert ids(table) == [*range(10)]
    assert table.count("price < 1000") == 1
    assert table.count("price = 5") == 1


def test_a_plan_tells_the_strategy_without_writing(tmp_path: Path) -> None:
    table = make(tmp_path, *range(1000), fragment_rows=1000)
    few = table.plan_update({"price": 1.0}, "id = 3")
    assert (few.strategy, few.updated, few.strategies["move"].fragments) == ("move", 1, 1)
    assert table.version == 2
    assert table.update({"price": 1.0}, "id = 3").strategy == "move"
    assert summary(table)["rows_moved"] == 1


@pytest.mark.usefixtures("strategy")
def test_an_updated_vector_is_found_at_its_new_value_only(tmp_path: Path) -> None:
    """spec: IDN-10, CHG-6"""
    table = make(tmp_path, *range(300), fragment_rows=100)
    table.create_index("vec")
    table.update({"vec": vector(9001)}, "id = 5")
    assert nearest(table, 9001) == nearest(table, 9001, exact=True) == [(5, 0.0)]
    assert nearest(table, 5)[0][0] != 5
    table.update({"name": "other"}, "id = 6")
    (entry,) = table.snapshot.version.indexes
    assert entry.stale is not None
    assert nearest(table, 6) == [(6, 0.0)]
    table.update({"vec": lambda batch: [vector(i + 5000) for i in batch["id"].to_pylist()]}, inputs=["id"])
    for seed in (5, 120, 299):
        assert nearest(table, seed + 5000) == [(seed, 0.0)]
    table.update({"vec": None}, "id = 7")
    assert len(table.search(vector(0), 300, select=["id"]).to_arrow()) == 299


@pytest.mark.usefixtures("strategy")
def test_updates_follow_rows_through_moves(tmp_path: Path) -> None:
    table = make(tmp_path, *range(30))
    before = row_ids(table)
    for step in range(5):
        table.update({"price": float(step)}, "id IN (1, 11, 21)")
        table.update({"name": f"step {step}"}, "id = 11")
    assert content(table, "price")[11] == 4.0
    assert content(table, "name")[11] == "step 4"
    assert content(table, "vec")[21] == vector(21)
    assert row_ids(table) == before
    assert ids(table) == [*range(30)]


# --- upsert and merge ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("strategy")
@pytest.mark.parametrize("key", [None, "id"])
def test_upsert_updates_what_is_there_and_inserts_the_rest(tmp_path: Path, key: str | None) -> None:
    table = make(tmp_path, *range(25), key=key)
    before = row_ids(table)
    done = table.upsert(rows(3, 17, 40, name="new"), on=None if key else "id")
    assert (done.updated, done.inserted) == (2, 1)
    assert content(table, "name")[3] == content(table, "name")[40] == "new"
    assert ids(table) == [*range(25), 40]
    assert {i: r for i, r in row_ids(table).items() if i != 40} == before
    table.upsert(pa.table({"id": [17, 50], "price": [0.5, 0.25]}), on="id")
    assert content(table, "name", "price")[17] == {"id": 17, "name": "new", "price": 0.5}
    assert content(table, "name", "price")[50] == {"id": 50, "name": None, "price": 0.25}


def test_a_source_may_be_any_stream_and_is_bounded(tmp_path: Path) -> None:
    table = make(tmp_path, *range(20), key="id")
    batches = [pa.RecordBatch.from_pylist(rows(*range(start, start + 5), name="s")) for start in (15, 20, 25)]
    reader = pa.RecordBatchReader.from_batches(batches[0].schema, batches)
    done = table.upsert(reader)
    assert (done.updated, done.inserted) == (5, 10)
    assert ids(table) == [*range(30)]
    assert table.upsert([]).version == table.version


def test_repeated_and_missing_keys_are_named(tmp_path: Path) -> None:
    """spec: CHG-8"""
    table = make(tmp_path, *range(5), key="id")
    with pytest.raises(lake.DuplicateKeyError, match="id=3 more than once"):
        table.upsert(rows(3, 4, 3))
    with pytest.raises(lake.DuplicateKeyError, match="id=9 more than once"):
        table.append(rows(9, 9))
    with pytest.raises(lake.DuplicateKeyError, match="id=2 is in the table already"):
        table.append(rows(8, 2))
    for data in ([{"id": None, "name": "x"}], [{"name": "x"}]):
        with pytest.raises(InvalidInputError, match="id"):
            table.upsert(data)
        with pytest.raises(InvalidInputError, match="id"):
            table.append(data)
    with pytest.raises(lake.DuplicateKeyError, match="id=4 is in the table already"):
        table.update({"id": 4}, "id = 1")
    with pytest.raises(UnsupportedError, match="key"):
        table.upsert(rows(1), on="name")
    assert table.version == 2
    assert ids(table) == [*range(5)]


def test_order_by_decides_between_repeated_keys(tmp_path: Path) -> None:
    """spec: CHG-8"""
    table = make(tmp_path, *range(3), key="id")
    changes = [
        {"id": 1, "name": "late", "at": 9},
        {"id": 1, "name": "early", "at": 2},
        {"id": 7, "name": "none", "at": None},
        {"id": 7, "name": "some", "at": 1},
        {"id": 2, "name": "alone", "at": 5},
    ]
    done = table.upsert(changes, order_by="at")
    assert (done.updated, done.inserted) == (2, 1)
    assert content(table, "name") == {0: "name 0", 1: "late", 2: "alone", 7: "some"}
    with pytest.raises(lake.DuplicateKeyError, match="same 'at'"):
        table.upsert([*changes, {"id": 1, "name": "tie", "at": 9}], order_by="at")


@pytest.mark.usefixtures("strategy")
def test_merge_carries_out_the_first_clause_that_holds(tmp_path: Path) -> None:
    table = make(tmp_path, *range(10))
    done = (
        table.merge(rows(1, 2, 3, 20, 21, name="in", price=100.0), on="id")
        .when_matched_delete(condition="source.id = 2")
        .when_matched_update({"price": lake.sql("price + source.price")}, condition="id < 3")
        .when_matched_update()
        .when_not_matched_insert({"id": lake.sql("source.id"), "name": "made"}, condition="source.id = 21")
        .when_not_matched_insert()
        .when_not_matched_by_source_delete(condition="id >= 8")
        .when_not_matched_by_source_update({"name": lake.sql("upper(name)")}, condition="id = 5")
        .execute()
    )
    assert (done.deleted, done.updated, done.inserted) == (3, 3, 2)
    found = content(table, "name", "price")
    assert found[1] == {"id": 1, "name": "name 1", "price": 101.0}
    assert found[3] == {"id": 3, "name": "in", "price": 100.0}
    assert found[5] == {"id": 5, "name": "NAME 5", "price": 5.0}
    assert found[20] == {"id": 20, "name": "in", "price": 100.0}
    assert found[21] == {"id": 21, "name": "made", "price": None}
    assert sorted(found) == [0, 1, 3, 4, 5, 6, 7, 20, 21]


def test_merge_on_several_columns_and_with_nothing_handed_in(tmp_path: Path) -> None:
    table = make(tmp_path, *range(6))
    table.merge(rows(1, 2, price=0.5), on=["id", "name"]).when_matched_update().execute()
    table.merge(rows(3, name="else", price=0.5), on=["name", "id"]).when_matched_update().execute()
    assert content(table, "price") == {0: 0.0, 1: 0.5, 2: 0.5, 3: 3.0, 4: 4.0, 5: 5.0}
    nothing = SCHEMA_ROWS.slice(0, 0)
    table.merge(nothing, on="id").when_not_matched_by_source_delete(condition="id > 3").execute()
    assert ids(table) == [0, 1, 2, 3]
    with pytest.raises(InvalidInputError, match="when_"):
        table.merge(rows(1), on="id").execute()


SCHEMA_ROWS = pa.Table.from_pylist(rows(1))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.int32(), [-5, 0, 7]),
        (pa.uint64(), [0, 5, 2**64 - 1]),
        (pa.string(), ["", "a", "a much longer key than eight bytes"]),
        (pa.large_string(), ["x", "y", "z"]),
        (pa.binary(), [b"", b"\x00", b"\x00\x00"]),
        (pa.date32(), [0, 1, 20000]),
        (pa.timestamp("us", "UTC"), [0, 1, 10**15]),
        (pa.bool_(), [False, True]),
        (pa.dictionary(pa.int8(), pa.string()), ["p", "q", "r"]),
    ],
)
def test_keys_of_every_type(tmp_path: Path, kind: pa.DataType, values: list[Any]) -> None:
    """spec: IDN-13, IDN-14"""
    keys = pa.array(values, kind)
    table = lake.create(str(tmp_path / "t"), pa.schema([("k", kind), ("n", pa.int64())]), key="k")
    table.append(pa.table({"k": keys[:-1], "n": range(len(keys) - 1)}))
    with pytest.raises(lake.DuplicateKeyError):
        table.append(pa.table({"k": keys, "n": range(len(keys))}))
    done = table.upsert(pa.table({"k": keys, "n": range(10, 10 + len(keys))}))
    assert (done.updated, done.inserted) == (len(keys) - 1, 1)
    assert table.count() == len(keys)
    assert sorted(table.to_arrow()["n"].to_pylist()) == [*range(10, 10 + len(keys))]


def test_a_key_must_be_made_for_it(tmp_path: Path) -> None:
    """spec: CHG-7"""
    for key, message in [("nothing", "nothing"), ("price", "cannot identify"), ("vec", "cannot identify"),
                         ([], "one or more"), (["id", "id"], "twice")]:  # fmt: skip
        with pytest.raises(InvalidInputError, match=message):
            make(tmp_path, key=key)
    table = make(tmp_path, key=["name", "id"])
    assert table.key == ["name", "id"]
    assert lake.open(table.uri).key == ["name", "id"]
    assert not table.schema.field("name").nullable
    assert table.properties["key"] == "2,1"
    assert "keys" in table.snapshot.version.required_features


def test_scattered_keys_do_not_rewrite_every_fragment(tmp_path: Path) -> None:
    """spec: CHG-4"""
    table = make(tmp_path, *range(3000), key="id", fragment_rows=100)
    done = table.upsert([{"id": i, "price": -1.0} for i in range(0, 3000, 60)])
    assert (done.updated, done.strategy) == (50, "move")
    record = table.snapshot.version.operations[0]
    assert "fragments_rewritten" not in record
    assert len(record["fragments_masked"]) == 30
    assert table.inspect.fragments().num_rows == 31
    assert table.count("price = -1") == 50


# --- overwrite ----------------------------------------------------------------------------------------------


def test_overwrite_is_one_commit(tmp_path: Path) -> None:
    table = make(tmp_path, *range(20), key="id")
    done = table.overwrite(rows(3, 100, name="over"), where="id < 10")
    assert (done.deleted, done.inserted, done.version) == (10, 2, 3)
    assert ids(table) == [3, *range(10, 20), 100]
    assert [one["kind"] for one in table.snapshot.version.operations] == ["overwrite"]
    with pytest.raises(lake.DuplicateKeyError, match="id=15"):
        table.overwrite(rows(15), where="id = 3")
    table.overwrite(rows(15, 3))
    assert ids(table) == [3, 15]
    assert table.overwrite([]).deleted == 2
    assert table.count() == 0


def test_a_job_that_is_retried_changes_rows_once(tmp_path: Path) -> None:
    table = make(tmp_path, *range(3))
    for _ in range(2):
        table.update({"price": lake.sql("price + 1")}, idempotency=("job", 1))
    assert content(table, "price") == {0: 1.0, 1: 2.0, 2: 3.0}
    assert table.delete("id = 99", idempotency=("job", 2)).deleted == 0
    assert table.snapshot.version.sequences == {"job": 2}


def test_a_table_opened_at_a_version_is_not_written_to(tmp_path: Path) -> None:
    old = lake.open(make(tmp_path, 1).uri, version=2)
    for attempt in (
        lambda: old.delete("true"),
        lambda: old.update({"price": 1.0}),
        lambda: old.upsert(rows(1), on="id"),
        lambda: old.overwrite(rows(1)),
    ):
        with pytest.raises(UnsupportedError):
            attempt()


def test_vectors_of_moved_rows_keep_their_bytes(tmp_path: Path) -> None:
    table = make(tmp_path, *range(10))
    table.update({"vec": None}, "id = 2")
    table.update({"name": "x"}, "id IN (2, 3)")
    found = content(table, "vec")
    assert found[2] is None
    assert found[3] == vector(3)
    assert len(found[3]) == DIMENSION
