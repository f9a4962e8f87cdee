"""Imported tables brought to later snapshots while others write, storage fails, or Iceberg's files are damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fault_operations import fresh, objects_of
from iceberg_refreshing import ids, position_deletes, refused
from iceberg_samples import (
    ROWS,
    bring,
    delete_file,
    deletion_vector,
    filled,
    numbered,
    paths_of,
    with_deletes,
)
from pyiceberg.manifest import DataFileContent
from pyiceberg.types import StringType
from stores.faulty import Fault, FaultyStore, SimulatedCrash

import lake_format as lake
from lake_connectors import iceberg
from lake_format.store import open_store

# --- others at work, and faults ----------------------------------------------------------------------------------


class Prepared:
    """An imported table in memory, and a source that has since got a file, lost one and has deletes in a third."""

    def __init__(self, tmp_path: Path) -> None:
        self.source = filled(tmp_path / "source", numbered(0), numbered(10), numbered(20))
        uri = f"memory://refresh-{tmp_path.name}"
        self.place = self.source.location()
        iceberg.import_table(self.source, uri)
        self.objects = objects_of(open_store(uri))
        first = paths_of(self.source)[0]
        self.source.delete("id >= 10 AND id < 15")
        with self.source.update_schema() as change:
            change.add_column("note", StringType())
        self.source.append(pa.table({"id": [30], "note": ["n"]}))
        self.metadata = position_deletes(self.source, (first, 0))

    def open(self, store: Any) -> lake.Table:
        return lake.open("unused", store=store, allow_external=self.place)

    def refresh(self, store: Any) -> lake.Table:
        return iceberg.refresh_table(self.metadata, self.open(store))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return Prepared(tmp_path_factory.mktemp("prepared"))


AFTER = [1, 2, 3, 4, 20, 21, 22, 23, 24, 30]
BEFORE = [*range(5), *range(10, 15), *range(20, 25)]


@pytest.mark.parametrize(
    "fault",
    [
        *(Fault.CRASH_BEFORE, Fault.CRASH_AFTER, Fault.CRASH_MID_WRITE, Fault.LOSE_RESPONSE),
        *(Fault.LOSE_REQUEST, Fault.DISK_FULL, Fault.PERMISSION_DENIED, Fault.REPEATED),
    ],
)
def test_a_fault_at_any_call_leaves_all_or_nothing(prepared: Prepared, fault: Fault) -> None:
    watched = FaultyStore(fresh(prepared.objects))
    prepared.refresh(watched)
    for number in range(len(watched.calls)):
        store = fresh(prepared.objects)
        met = None
        try:
            prepared.refresh(FaultyStore(store, {number: fault}))
        except (SimulatedCrash, lake.LakeError) as error:
            met = error
        table = prepared.open(store)
        assert ids(table) in ([AFTER] if met is None else [BEFORE, AFTER]), (number, met)
        assert table.verify().problems == []
        again = prepared.refresh(store)  # whoever does it again does it once
        assert ids(again) == AFTER
        assert again.version == 2
        assert again.schema.names == ["id", "note"]


def overtaken(prepared: Prepared, rival: Callable[[lake.Table], object]) -> lake.Table:
    """The table after a refresh that another commit came before, between its look and its own commit."""
    store, done = fresh(prepared.objects), []

    def plan(_number: int, method: str, path: str) -> Fault | None:
        if method == "create" and "_lake/versions/" in path and not done:
            done.append(path)
            return Fault.OVERTAKEN
        return None

    slow = FaultyStore(store, plan, meanwhile=lambda: rival(prepared.open(store)))
    try:
        prepared.refresh(slow)
    finally:
        assert done
        assert prepared.open(store).verify().problems == []
    return prepared.open(store)


def test_what_others_commit_meanwhile_is_kept(prepared: Prepared) -> None:
    assert ids(overtaken(prepared, lambda table: table.append([{"id": 50}]))) == [*AFTER, 50]
    assert ids(overtaken(prepared, lambda table: table.delete("id IN (3, 22)"))) == sorted({*AFTER} - {3, 22})
    compacted = overtaken(prepared, lambda table: table.compact())
    assert ids(compacted) == AFTER
    assert len(compacted.snapshot.fragments) == 2
    added = overtaken(prepared, lambda table: table.add_column("own", pa.int64()))
    assert ids(added) == AFTER
    assert added.schema.names == ["id", "own", "note"]


def test_what_does_not_go_together_is_a_conflict(prepared: Prepared) -> None:
    rivals: list[tuple[Callable[[lake.Table], object], str]] = [
        (lambda table: iceberg.refresh_table(prepared.metadata, table), "same name|already"),
        (lambda table: table.delete("id = 12"), "rows of files that are to be replaced were deleted"),
        (lambda table: table.update({"id": 99}, where="id = 12"), "a value this operation read"),
        (lambda table: table.add_column("note", pa.string()), "the same name"),
        (lambda table: table.set_key("id"), "checked against|rule"),
        (lambda table: table.restore(1), "restore|checked against"),
    ]
    for rival, match in rivals:
        with pytest.raises(lake.ConflictError, match=match):
            overtaken(prepared, rival)


# --- mistakes and damage -----------------------------------------------------------------------------------------


def test_wrong_tables_are_named(tmp_path: Path) -> None:
    source = filled(tmp_path / "source", ROWS)
    table = bring(source, tmp_path)
    other = filled(tmp_path / "other", ROWS)
    uuid = str(source.metadata.table_uuid)
    refused(other, table, lake.InvalidInputError, f"imported from the Iceberg table {uuid}")
    source.append(ROWS)
    own = lake.create(str(tmp_path / "own"), ROWS.schema)
    refused(source, own, lake.InvalidInputError, "was not imported from Iceberg")
    refused(source, table, lake.InvalidInputError, "no snapshot 5", snapshot_id=5)
    refused(str(tmp_path), table, lake.InvalidInputError, "metadata.json")
    refused(source, table, lake.InvalidInputError, "goes with a URI", storage_options={"sync": "false"})
    refused(source, table.checkout(1), lake.UnsupportedError, "version 1")
    table.create_branch("try")
    branch = lake.open(table.uri, branch="try", allow_external=source.location())
    refused(source, branch, lake.UnsupportedError, "branch 'try'")
    with table.transaction() as tx, pytest.raises(lake.UnsupportedError, match="part of a transaction"):
        iceberg.refresh_table(source, tx)
    table.set_properties({"user.iceberg.rows": "many"})
    refused(source, table, lake.InvalidInputError, "user.iceberg.rows is 'many'")
    table.set_properties({"user.iceberg.rows": None})
    refused(source, table, lake.UnsupportedError, "earlier release")
    table.set_properties({"user.iceberg.rows": "3"})
    iceberg.refresh_table(source, table)
    source.append(ROWS)
    table.set_partitioning(["bucket(2, id)"])
    refused(source, table, lake.UnsupportedError, "partitioned here")
    table.set_partitioning([])
    table.overwrite([{"id": 1, "name": "a"}])
    table.set_key("id")
    refused(source, table, lake.UnsupportedError, "drop_key")


def test_places_that_are_not_allowed_are_named(tmp_path: Path) -> None:
    """spec: STO-28"""
    source = filled(tmp_path / "source", ROWS)
    table = bring(source, tmp_path)
    foreign = f"{tmp_path}/elsewhere/part.parquet"
    Path(foreign).parent.mkdir()
    pq.write_table(ROWS, foreign)
    source.add_files([foreign])
    refused(source, table, lake.ExternalNotAllowedError, "elsewhere")
    made = iceberg.refresh_table(source, table.uri, allow_external=f"{tmp_path}/elsewhere")
    assert made.count() == 6
    assert set(made.snapshot.version.roots.values()) == {
        f"file://{source.location().removeprefix('file://')}",
        f"file://{tmp_path}/elsewhere",
    }


@pytest.mark.parametrize("pattern", ["snap-*.avro", "*-m0.avro", "data/*.parquet"])
def test_damage_is_named_and_changes_nothing(pattern: str, tmp_path: Path) -> None:
    source = filled(tmp_path / "source", ROWS)
    table = bring(source, tmp_path)
    known = set((tmp_path / "source").rglob(pattern))
    source.append(ROWS)
    (path,) = set((tmp_path / "source").rglob(pattern)) - known
    whole = path.read_bytes()
    for length in (0, 7, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        refused(source, table, lake.CorruptionError, path.name)
    path.unlink()
    refused(source, table, lake.NotFoundError, path.name)
    path.write_bytes(whole)
    assert iceberg.refresh_table(source, table).count() == 6


def test_what_cannot_be_imported_is_refused_here_too(tmp_path: Path) -> None:
    source = filled(tmp_path / "source", ROWS)
    table = bring(source, tmp_path)
    equality = delete_file(source, ROWS.select(["id"]), DataFileContent.EQUALITY_DELETES, equality_ids=[1])
    refused(
        with_deletes(source, equality), table, lake.UnsupportedError, "equality deletes .*-deletes.parquet"
    )
    (first,) = source.inspect.files().column("file_path").to_pylist()
    outside = deletion_vector(source, first, [1, 9])
    refused(with_deletes(source, outside, version=3), table, lake.CorruptionError, "puffin deletes row 9")


def test_files_that_expired_underneath_are_named(tmp_path: Path) -> None:
    source = filled(tmp_path / "source", numbered(0), numbered(10))
    table = bring(source, tmp_path)
    lost = Path(paths_of(source)[0].removeprefix("file://"))
    lost.unlink()
    source.append(numbered(20))
    iceberg.refresh_table(source, table)  # what is known already is not looked at
    assert table.count("id >= 10") == 10
    with pytest.raises(lake.NotFoundError, match=lost.name):
        table.to_arrow()
    assert lost.name in str(table.verify().problems)
