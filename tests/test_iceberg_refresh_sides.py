"""An imported table brought to later snapshots after it was changed itself: what was done on both sides counts."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from iceberg_refreshing import ids, position_deletes, refused
from iceberg_samples import (
    ROWS,
    bring,
    by_id,
    filled,
    numbered,
    paths_of,
)

import lake_format as lake
from lake_connectors import iceberg

# --- what was done here ------------------------------------------------------------------------------------------


def test_rows_deleted_and_updated_here_stay_so(tmp_path: Path) -> None:
    source = filled(tmp_path / "source", ROWS, ROWS.slice(0, 2))
    table = bring(source, tmp_path)
    table.delete("name = 'three'")
    table.update({"name": "mine"}, where="id = 2")
    table.append([{"id": 9, "name": "here"}])
    source.append(pa.table({"id": pa.array([4], pa.int32()), "name": ["four"]}))
    iceberg.refresh_table(source, table)
    found = [(row["id"], row["name"]) for row in by_id(table.to_arrow())]
    assert found == [(1, "one"), (1, "one"), (2, "mine"), (2, "mine"), (4, "four"), (9, "here")]
    version = table.version
    source.append(pa.table({"id": pa.array([5], pa.int32())}))
    iceberg.refresh_table(source, table)
    assert table.version == version + 1
    assert ids(table) == [1, 1, 2, 2, 4, 5, 9]
    assert table.verify().problems == []


def test_rows_deleted_here_never_come_back_with_a_rewritten_file(tmp_path: Path) -> None:
    for number, change in enumerate(
        (
            lambda table: table.delete("id = 3"),
            lambda table: table.set_properties({"write.update-strategy": "patch"}).update({"x": 7}, "id = 3"),
            lambda table: table.set_properties({"write.update-strategy": "move"}).update({"x": 7}, "id = 3"),
            lambda table: table.set_properties({"write.update-strategy": "rewrite"}).update(
                {"x": 7}, "id = 3"
            ),
        )
    ):
        rows = numbered(0).append_column("x", pa.array([0] * 5))
        source = filled(tmp_path / f"source-{number}", rows)
        table = bring(source, tmp_path / str(number))
        change(table)
        source.delete("id = 1")  # pyiceberg writes the file anew, with row 3
        refused(
            source,
            table,
            lake.ConflictError,
            r"rows of data file file:///.*parquet were deleted or updated here",
        )


def test_rows_that_went_on_both_sides_are_gone(tmp_path: Path) -> None:
    source = filled(tmp_path / "source", numbered(0), numbered(10))
    table = bring(source, tmp_path)
    table.set_properties({"write.update-strategy": "move"})
    table.delete("id IN (3, 11)")
    table.update({"id": 100}, where="id = 4")
    first, second = paths_of(source)
    metadata = position_deletes(source, (first, 3), (first, 4), (second, 0))
    iceberg.refresh_table(metadata, table)
    assert ids(table) == [0, 1, 2, 12, 13, 14]  # the updated row too: Iceberg deleted it


def test_columns_added_here_do_not_stand_in_the_way(tmp_path: Path) -> None:
    source = filled(tmp_path / "source", numbered(0), numbered(10))
    table = bring(source, tmp_path)
    table.add_column("double", pa.int64(), values=lake.sql("id * 2"))
    source.delete("id = 1")
    source.append(numbered(20))
    iceberg.refresh_table(source, table)
    found = {row["id"]: row["double"] for row in table.to_arrow().to_pylist()}
    assert found == {**dict.fromkeys([0, 2, 3, 4, *range(20, 25)]), **{one: one * 2 for one in range(10, 15)}}
    table.backfill("double", lake.sql("id * 2"), where="double IS NULL")
    assert table.count("double = id * 2") == 14


def test_what_was_compacted_here_is_left_alone_or_refused(tmp_path: Path) -> None:
    source = filled(tmp_path / "source", numbered(0), numbered(10))
    table = bring(source, tmp_path)
    table.compact()
    assert len(table.snapshot.fragments) == 1
    source.append(numbered(20))
    iceberg.refresh_table(source, table)
    assert ids(table) == [*range(5), *range(10, 15), *range(20, 25)]
    first = paths_of(source)[0]
    metadata = position_deletes(source, (first, 3))
    refused(metadata, table, lake.ConflictError, "has other deletes.*compacted.*import the table anew")
    source.delete("id = 1")
    refused(source, table, lake.ConflictError, "is gone from the snapshot.*compacted")


def test_an_expired_snapshot_is_missed_only_where_it_is_needed(tmp_path: Path) -> None:
    source = filled(tmp_path / "source", numbered(0), numbered(10))
    table = bring(source, tmp_path)
    source.append(numbered(20))
    old = source.history()[1].snapshot_id
    source.maintenance.expire_snapshots().by_id(old).commit()
    iceberg.refresh_table(source, table)
    assert table.count() == 15
    table.delete("id = 3")
    source.append(numbered(30))
    source.maintenance.expire_snapshots().by_id(source.history()[-2].snapshot_id).commit()
    refused(source, table, lake.ConflictError, "has expired there")


def test_a_restored_table_gets_what_comes_after(tmp_path: Path) -> None:
    source = filled(tmp_path / "source", numbered(0))
    table = bring(source, tmp_path).tag("first")
    source.append(numbered(10))
    iceberg.refresh_table(source, table).restore("first")
    assert ids(table) == [0, 1, 2, 3, 4]
    source.append(numbered(20))
    iceberg.refresh_table(source, table)
    assert ids(table) == [0, 1, 2, 3, 4, 20, 21, 22, 23, 24]


def test_a_clone_follows_by_itself(tmp_path: Path) -> None:
    source = filled(tmp_path / "source", numbered(0))
    table = bring(source, tmp_path)
    table.clone(str(tmp_path / "clone"))
    source.append(numbered(10))
    places = [source.location(), table.uri]
    clone = iceberg.refresh_table(source, str(tmp_path / "clone"), allow_external=table.uri)
    assert clone.count() == 10
    assert table.refresh().count() == 5
    assert lake.open(clone.uri, allow_external=places).count("id > 9") == 5


# --- any history -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 20))]
)
def test_any_history_ends_where_iceberg_and_this_side_say(seed: int, tmp_path: Path) -> None:
    """Random work on both sides: every row is where its last change left it."""
    chance, following = random.Random(seed), iter(range(0, 10**6, 10))
    source = filled(tmp_path / "source", numbered(next(following)), numbered(next(following)))
    table = bring(source, tmp_path)
    own: set[int] = set()
    deleted: set[int] = set()

    def append() -> None:
        source.append(numbered(next(following), chance.randrange(1, 6)))

    def drop_file() -> None:
        live = paths_of(source)
        path = chance.choice(live) if live else None
        if path is not None:
            held = pq.read_table(path.removeprefix("file://")).column("id").to_pylist()
            source.delete(f"id >= {min(held)} AND id <= {max(held)}")

    def here() -> None:
        known = sorted(set(ids(table)) - own)
        if chance.random() < 0.5 or not known:
            number = 10**7 + len(own)
            table.append([{"id": number}])
            own.add(number)
        else:
            gone = chance.choice(known)
            table.delete(f"id = {gone}")
            deleted.add(gone)

    for _ in range(14):
        chance.choice([append, append, drop_file, here])()
        if chance.random() < 0.4:
            # Nothing is rewritten there, but a deleted row's file may go while others came.
            try:
                iceberg.refresh_table(source, table)
            except lake.ConflictError:
                break
            theirs = set(source.scan().to_arrow().column("id").to_pylist())
            assert set(ids(table)) == (theirs - deleted) | own
    assert table.verify().problems == []
