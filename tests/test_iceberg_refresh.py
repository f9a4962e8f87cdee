"""An imported table brought to later snapshots: what is new comes, what went goes, and columns follow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from external_samples import files
from iceberg_refreshing import going_on, ids, plain, position_deletes, refused, row_ids
from iceberg_samples import (
    ROWS,
    bring,
    by_id,
    deletion_vector,
    embedded,
    filled,
    nearest,
    numbered,
    paths_of,
    warehouse,
    with_deletes,
)
from pyiceberg.types import DoubleType, IntegerType, LongType, StringType
from stores.faulty import FaultyStore

import lake_format as lake
from lake_connectors import iceberg
from lake_format.store import open_store

# --- what is new, and nothing else ---------------------------------------------------------------------------


def test_only_what_is_new_is_read_and_added(tmp_path: Path) -> None:
    source = filled(tmp_path / "source", embedded(0, 300), embedded(300, 300))
    table = bring(source, tmp_path, vectors={"embedding": 8})
    table.create_index("embedding", metric="l2")
    before, known = row_ids(table), set(paths_of(source))
    source.append(embedded(600, 50))
    seen = FaultyStore(open_store(source.location().removeprefix("file://")))
    table = lake.open(table.uri, allow_external={source.location(): seen})
    untouched = files(tmp_path / "source")
    version = table.version
    assert iceberg.refresh_table(source, table) is table
    read = {path for _, path in seen.calls if path.endswith(".parquet")}
    assert len(read) == 1
    assert not any(path.endswith(next(iter(read))) for path in known)
    assert files(tmp_path / "source") == untouched
    assert table.version == version + 1
    assert by_id(table.to_arrow()) == by_id(source.scan().to_arrow())
    after = row_ids(table)
    assert {one: after[one] for one in before} == before
    assert table.properties["user.iceberg.snapshot-id"] == str(source.current_snapshot().snapshot_id)
    query = np.ones(8, "f4")
    assert table.search(query, 5, exact=True).to_arrow().column("id").to_pylist() == nearest(
        source.scan().to_arrow(), query, 5
    )
    (index,) = table.inspect.indexes().to_pylist()
    assert index["name"] == "embedding_l2"
    (entry,) = table.snapshot.version.indexes
    assert entry.stale is None
    assert sum(shard.row_count for shard in entry.shards) == 540
    assert table.verify().problems == []
    (change,) = {row["_change"] for row in table.changes(version).read_all().to_pylist()}
    assert change == "insert"


def test_a_snapshot_that_is_there_costs_no_commit(tmp_path: Path) -> None:
    source = filled(tmp_path / "source", ROWS)
    table = bring(source, tmp_path)
    for _ in range(2):
        assert iceberg.refresh_table(source, table.uri).version == 1
    source.append(ROWS)
    assert iceberg.refresh_table(source.metadata_location, table.uri).version == 2
    assert iceberg.refresh_table(source, table).version == 2
    assert table.count() == 6


def test_an_empty_table_is_filled_and_emptied(tmp_path: Path) -> None:
    source = warehouse(tmp_path / "source").create_table("shop.items", numbered(0).schema)
    table = bring(source, tmp_path)
    source.append(numbered(0))
    assert ids(iceberg.refresh_table(source, table)) == [0, 1, 2, 3, 4]
    source.delete("id >= 0")
    assert ids(iceberg.refresh_table(source, table)) == []
    assert len(table.snapshot.fragments) == 0
    source.append(numbered(10))
    assert ids(iceberg.refresh_table(source, table)) == [10, 11, 12, 13, 14]


def test_files_that_are_gone_take_their_rows_along(tmp_path: Path) -> None:
    source = filled(tmp_path / "source", numbered(0), numbered(10), numbered(20))
    table = bring(source, tmp_path)
    before = row_ids(table)
    source.delete("id >= 10 AND id < 15")
    source.delete("id = 22")
    iceberg.refresh_table(source, table)
    assert ids(table) == [0, 1, 2, 3, 4, 20, 21, 23, 24]
    after = row_ids(table)
    assert {one: after[one] for one in range(5)} == {one: before[one] for one in range(5)}
    assert not {after[20], after[24]} & set(before.values())  # rewritten there: new rows here
    assert table.verify().problems == []


def test_new_deletes_on_files_that_stay(tmp_path: Path) -> None:
    source = filled(tmp_path / "source", numbered(0), numbered(10))
    table = bring(source, tmp_path)
    before = row_ids(table)
    first, second = paths_of(source)
    source = going_on(source, position_deletes(source, (first, 1), (second, 4)))
    iceberg.refresh_table(source, table)
    assert ids(table) == [0, 2, 3, 4, 10, 11, 12, 13]
    source = going_on(source, with_deletes(source, deletion_vector(source, first, [1, 2, 3]), version=3))
    fragments = len(table.snapshot.fragments)
    iceberg.refresh_table(source, table)
    assert ids(table) == [0, 4, 10, 11, 12, 13]
    assert len(table.snapshot.fragments) == fragments == 2
    assert row_ids(table) == {one: before[one] for one in ids(table)}
    metadata = with_deletes(source, deletion_vector(source, second, list(range(5))), version=3)
    assert ids(iceberg.refresh_table(metadata, table)) == [0, 4]


def test_an_older_snapshot_takes_away_what_it_lacks(tmp_path: Path) -> None:
    source = filled(tmp_path / "source", numbered(0), numbered(10))
    early = source.history()[0].snapshot_id
    metadata = position_deletes(source, (paths_of(source)[0], 0))
    table = iceberg.import_table(metadata, str(tmp_path / "imported"))
    assert ids(table) == [1, 2, 3, 4, 10, 11, 12, 13, 14]
    before = row_ids(table)
    iceberg.refresh_table(metadata, table, snapshot_id=early)
    assert ids(table) == [0, 1, 2, 3, 4]
    assert not set(row_ids(table).values()) & set(
        before.values()
    )  # a dead row never comes to life: all are new
    iceberg.refresh_table(metadata, table)
    assert ids(table) == [1, 2, 3, 4, 10, 11, 12, 13, 14]
    assert table.verify().problems == []


# --- columns ---------------------------------------------------------------------------------------------------


def test_columns_follow_by_field_id(tmp_path: Path) -> None:
    """spec: SCH-3"""
    source = filled(tmp_path / "source", ROWS)
    table = bring(source, tmp_path)
    table.add_column("own", pa.int64(), values=7)
    table.append([{"id": 50, "name": "here", "own": 8}])
    with source.update_schema() as change:
        change.rename_column("name", "title")
        change.update_column("id", LongType())
        change.update_column("price", DoubleType())
        change.add_column("note", StringType())
        change.add_column(("place", "z"), IntegerType())
        change.rename_column("place.x", "first")
        change.delete_column("tags")
        change.move_first("note")
    with source.update_schema() as change:
        change.add_column("tags", IntegerType())
    iceberg.refresh_table(source, table)
    names = ["note", "id", "title", "price", "place", "scores", "tags", "own"]
    assert table.schema.names == names
    assert table.schema.field("id").type == pa.int64()
    later = {
        "note": ["n"],
        "id": [1 << 40],
        "title": ["four"],
        "price": [1e300],
        "place": [{"first": 4, "y": "q", "z": 9}],
        "scores": [None],
        "tags": [7],
    }
    source.append(pa.table(later, source.schema().as_arrow()))
    iceberg.refresh_table(source, table)
    theirs = table.to_table(filter=pa.compute.field("id") != 50).select(names[:-1])
    assert plain(theirs) == plain(source.scan().to_arrow())
    assert table.count("own = 7") == 4  # a constant that was declared here holds for files that come, too
    (mine,) = table.scan(where="id = 50").read_all().to_pylist()
    assert mine["title"] == "here"
    assert mine["tags"] is None
    reopened = lake.open(table.uri, allow_external=source.location())
    assert reopened.schema.equals(table.schema)
    assert reopened.verify().problems == []


def test_a_column_that_goes_takes_its_index_along(tmp_path: Path) -> None:
    source = filled(tmp_path / "source", embedded(0, 300))
    table = bring(source, tmp_path, vectors={"embedding": 8}).create_index("embedding", metric="l2")
    with source.update_schema() as change:
        change.rename_column("embedding", "vec")
    iceberg.refresh_table(source, table)
    assert pa.types.is_fixed_size_list(table.schema.field("vec").type)
    assert table.search(np.ones(8, "f4"), 3).to_arrow().num_rows == 3
    with source.update_schema() as change:
        change.delete_column("vec")
    iceberg.refresh_table(source, table)
    assert table.inspect.indexes().num_rows == 0
    assert table.schema.names == ["id"]


def test_new_columns_of_lists_may_be_vectors(tmp_path: Path) -> None:
    source = filled(tmp_path / "source", numbered(0))
    table = bring(source, tmp_path)
    with source.update_schema() as change:
        change.union_by_name(embedded(0, 1).schema)
    source.append(embedded(100, 300))
    iceberg.refresh_table(source, table, vectors={"embedding": 8})
    assert table.search(np.ones(8, "f4"), 5).to_arrow().column("id").to_pylist() == nearest(
        source.scan().to_arrow(), np.ones(8, "f4"), 5
    )
    assert "listed-vectors" in table.snapshot.version.required_features
    source.append(embedded(400, 10))
    iceberg.refresh_table(source, table)
    assert table.count() == 315
    source.append(embedded(410, 10))
    with pytest.raises(lake.InvalidInputError, match="'embedding' was there"):
        iceberg.refresh_table(source, table, vectors={"embedding": 8})


Edit = Callable[[Any], object]
CLASHES: dict[str, tuple[Edit, Edit, str]] = {
    "renamed twice": (
        lambda table: table.rename_column("name", "label"),
        lambda change: change.rename_column("name", "title"),
        "'label' was renamed to 'title' there",
    ),
    "a name that is taken": (
        lambda table: table.add_column("note", pa.string()),
        lambda change: change.add_column("note", StringType()),
        "'note' and 'note'",
    ),
    "dropped and changed": (
        lambda table: table.widen_column("price", pa.float64()),
        lambda change: change.delete_column("price"),
        "'price' was dropped there and changed here",
    ),
    "a rule of this side's": (
        lambda table: table.alter_column("id", nullable=False),
        lambda change: change.add_column("note", StringType()),
        "'id' may not be NULL here",
    ),
}


@pytest.mark.parametrize("clash", CLASHES)
def test_columns_that_both_sides_changed_are_named(clash: str, tmp_path: Path) -> None:
    here, there, match = CLASHES[clash]
    source = filled(tmp_path / "source", ROWS)
    table = bring(source, tmp_path)
    here(table)
    with source.update_schema() as change:
        there(change)
    source.append(ROWS.select(["id"]))
    refused(source, table, lake.ConflictError, match)


def test_columns_that_one_side_changed_are_as_that_side_has_them(tmp_path: Path) -> None:
    source = filled(tmp_path / "source", ROWS)
    table = bring(source, tmp_path)
    table.rename_column("price", "cost").drop_column("tags").widen_column("id", pa.int64())
    table.reorder_columns(["scores", "cost"])
    with source.update_schema() as change:
        change.update_column("price", DoubleType())
        change.rename_column("name", "title")
        change.rename_column("tags", "labels")
        change.update_column("id", LongType())
    source.append(
        ROWS.rename_columns(["id", "title", "price", "labels", "place", "scores"]).cast(
            source.schema().as_arrow()
        )
    )
    iceberg.refresh_table(source, table)
    assert table.schema.names == ["scores", "cost", "id", "title", "place"]
    assert table.schema.field("cost").type == pa.float64()
    assert table.count("cost = 1.5") == 2
    assert table.count("title = 'one'") == 2
