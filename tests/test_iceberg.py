"""Iceberg tables imported: the same rows as pyiceberg reads, whatever happened to the table before."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from external_samples import files
from iceberg_samples import (
    ROWS,
    bring,
    by_id,
    delete_file,
    deletion_vector,
    filled,
    numbered,
    paths_of,
    refused,
    warehouse,
    with_deletes,
    with_initial_defaults,
)
from pyiceberg.manifest import DataFileContent
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import StaticTable
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import (
    BinaryType,
    BooleanType,
    DateType,
    DecimalType,
    DoubleType,
    FixedType,
    IntegerType,
    LongType,
    NestedField,
    PrimitiveType,
    StringType,
    TimestampType,
    UUIDType,
)

import lake_format as lake
from lake_connectors import iceberg


def plain(table: pa.Table) -> str:
    """Rows as text, in which NaN equals NaN."""
    return repr(by_id(table))


# --- the same rows ------------------------------------------------------------------------------------------


def test_a_table_is_imported_where_it_lies(tmp_path: Path) -> None:
    source = filled(tmp_path / "source", ROWS, ROWS)
    before = files(tmp_path / "source")
    table = bring(source, tmp_path)
    assert plain(table.to_arrow()) == plain(source.scan().to_arrow())
    assert table.count() == 6
    assert table.version == 1
    assert table.take([4]).to_pylist()[0]["id"] == 2
    assert table.count(where="name = 'one'") == 2
    assert table.properties["user.iceberg.snapshot-id"] == str(source.current_snapshot().snapshot_id)
    assert files(tmp_path / "source") == before
    own = sum(path.stat().st_size for path in (tmp_path / "imported").rglob("*") if path.is_file())
    assert not list((tmp_path / "imported").rglob("*.parquet"))
    assert own < 100_000


def test_files_are_read_only_where_that_is_allowed(tmp_path: Path) -> None:
    """spec: STO-28"""
    bring(filled(tmp_path / "source", ROWS), tmp_path)
    with pytest.raises(lake.ExternalNotAllowedError, match="source/files/shop/items"):
        lake.open(str(tmp_path / "imported")).to_arrow()


def test_a_metadata_file_is_enough(tmp_path: Path) -> None:
    source = filled(tmp_path / "source", ROWS)
    table = iceberg.import_table(source.metadata_location, str(tmp_path / "imported"))
    assert plain(table.to_arrow()) == plain(ROWS)


def test_an_empty_table(tmp_path: Path) -> None:
    source = warehouse(tmp_path / "source").create_table("shop.items", ROWS.schema)
    table = bring(source, tmp_path)
    assert table.count() == 0
    assert table.schema.names == ROWS.schema.names


def test_every_type(tmp_path: Path) -> None:
    moment = datetime(2026, 3, 1, 12, 30, 0, 123456)
    rows = pa.table(
        {
            "id": [1, 2],
            "flag": [True, None],
            "double": [1.25, -0.0],
            "day": pa.array([date(1969, 12, 31), date(2026, 1, 1)]),
            "time": pa.array([timedelta(hours=3).seconds * 10**6, None], pa.int64()).cast(pa.time64("us")),
            "naive": pa.array([moment, None], pa.timestamp("us")),
            "instant": pa.array([moment.replace(tzinfo=UTC), None], pa.timestamp("us", "UTC")),
            "money": pa.array([Decimal("-12.34"), Decimal("99999.99")], pa.decimal128(9, 2)),
            "raw": [b"\x00\xff", None],
            "fixed": pa.array([b"abcd", None], pa.binary(4)),
            "uuid": pa.array([b"0123456789abcdef", None], pa.binary(16)),
        }
    )
    source = warehouse(tmp_path / "source").create_table(
        "shop.items", rows.schema.remove(len(rows.schema) - 1)
    )
    with source.update_schema() as change:
        change.add_column("uuid", UUIDType())
    source.append(rows)
    table = bring(source, tmp_path)
    assert by_id(table.to_arrow()) == by_id(rows)
    for column, value in (("day", "DATE '1969-12-31'"), ("money", "-12.34"), ("double", "1.25")):
        assert table.count(where=f"{column} = {value}") == 1, column
    assert table.count(where="naive > TIMESTAMP '2026-03-01 12:30:00'") == 1


def test_files_before_the_schema_changed_are_read_as_iceberg_reads_them(tmp_path: Path) -> None:
    source = filled(tmp_path / "source", ROWS)
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
    table = bring(source, tmp_path)
    assert table.schema.names == ["note", "id", "title", "price", "place", "scores", "tags"]
    assert plain(table.to_arrow()) == plain(source.scan().to_arrow())
    assert table.count(where="price > 1e200") == 2  # NaN is greater than every number
    assert table.count(where="title = 'one' AND tags IS NULL") == 1
    older = iceberg.import_table(source, str(tmp_path / "older"), snapshot_id=source.history()[0].snapshot_id)
    assert plain(older.to_arrow()) == plain(ROWS)


def test_new_columns_and_rows_of_the_imported_table_get_ids_of_their_own(tmp_path: Path) -> None:
    source = filled(tmp_path / "source", ROWS)
    before = files(tmp_path / "source")
    table = bring(source, tmp_path)
    table.add_column("extra", pa.int64())
    table.append(ROWS.append_column("extra", pa.array([7, 8, 9])))
    table.delete("id = 1")
    table.update({"name": "two"}, where="id = 2")
    assert table.count(where="extra IS NULL") == 2
    assert table.count(where="name = 'two'") == 2
    table.compact()
    assert table.count() == 4
    assert files(tmp_path / "source") == before


def test_a_partitioned_table(tmp_path: Path) -> None:
    spec = PartitionSpec(
        PartitionField(1, 1000, IdentityTransform(), "id"),
        PartitionField(2, 1001, IdentityTransform(), "name"),
    )
    schema = Schema(NestedField(1, "id", IntegerType()), NestedField(2, "name", StringType()))
    source = warehouse(tmp_path / "source").create_table("shop.items", schema, partition_spec=spec)
    rows = pa.table({"id": pa.array([1, 1, 2, None], pa.int32()), "name": ["a/b c%20", "ü", None, "x"]})
    source.append(rows)
    table = bring(source, tmp_path)
    assert by_id(table.to_arrow().sort_by("name")) == by_id(rows.sort_by("name"))
    assert table.count(where="id = 2") == 1


def test_files_without_ids_are_read_by_the_name_mapping(tmp_path: Path) -> None:
    source = filled(tmp_path / "source", ROWS)
    foreign = str(tmp_path / "source" / "files" / "foreign.parquet")
    pq.write_table(ROWS.select(["name", "id", "place"]).slice(1), foreign)
    source.add_files([foreign])
    where = source.location()
    with pytest.raises(lake.ExternalNotAllowedError, match=r"foreign.parquet.*allow_external=.*source/files"):
        iceberg.import_table(source, str(tmp_path / "imported"))
    root = str(tmp_path / "source" / "files")
    table = iceberg.import_table(source, str(tmp_path / "imported"), allow_external=root)
    assert plain(table.to_arrow()) == plain(source.scan().to_arrow())
    reopened = lake.open(str(tmp_path / "imported"), allow_external=[root, where])
    assert reopened.count(where="id = 3") == 2


# --- initial defaults -----------------------------------------------------------------------------------------


def test_initial_defaults_are_values_of_rows_written_before(tmp_path: Path) -> None:
    """spec: SCH-9"""
    source = filled(tmp_path / "source", numbered(0))
    kinds: dict[str, tuple[PrimitiveType, Any, Any]] = {
        "text": (StringType(), "new", "new"),
        "whole": (LongType(), 1 << 40, 1 << 40),
        "real": (DoubleType(), 1, 1.0),
        "flag": (BooleanType(), True, True),
        "day": (DateType(), "2024-02-29", date(2024, 2, 29)),
        "moment": (TimestampType(), "2024-02-29T12:30:00.000001", datetime(2024, 2, 29, 12, 30, 0, 1)),
        "money": (DecimalType(9, 2), "-12.30", Decimal("-12.30")),
        "raw": (BinaryType(), "00ff", b"\x00\xff"),
        "fixed": (FixedType(2), "0102", b"\x01\x02"),
        "uuid": (UUIDType(), "30313233-3435-3637-3839-616263646566", b"0123456789abcdef"),
    }
    with source.update_schema() as change:
        for name, (kind, _, _) in kinds.items():
            change.add_column(name, kind)
    new = {name: pa.array([None], source.schema().as_arrow().field(name).type) for name in kinds}
    source.append(pa.table({"id": [100], **new}))
    metadata = with_initial_defaults(source, **{name: stored for name, (_, stored, _) in kinds.items()})
    table = iceberg.import_table(metadata, str(tmp_path / "imported"))
    *early, late = by_id(table.to_arrow())
    assert early == [
        {"id": one, **{name: value for name, (_, _, value) in kinds.items()}} for one in range(5)
    ]
    assert late == {"id": 100, **dict.fromkeys(kinds)}
    assert table.count("text = 'new'") == table.count("whole > 5") == table.count("money < 0") == 5
    assert table.count("text IS NULL") == 1
    assert "column-defaults" in table.snapshot.version.required_features
    table.compact()
    assert by_id(table.to_arrow()) == [*early, late]
    assert table.verify().problems == []


def test_initial_defaults_that_do_not_fit_are_named(tmp_path: Path) -> None:
    source = filled(tmp_path / "source", numbered(0))
    with source.update_schema() as change:
        change.add_column("text", StringType())
        change.add_column("small", IntegerType())
    wrong = with_initial_defaults(source, small=1 << 40)
    refused(
        wrong, tmp_path, lake.CorruptionError, "'small' .* is int and has the initial default 1099511627776"
    )
    wrong = with_initial_defaults(source, small="many")
    refused(
        wrong,
        tmp_path,
        lake.CorruptionError,
        "'small' .* is int and has the initial default 'many'|metadata.json",
    )
    long = with_initial_defaults(source, text="x" * 2000)
    refused(long, tmp_path, lake.UnsupportedError, "lacks the column 'text': .*cannot be declared")


# --- deletes ------------------------------------------------------------------------------------------------


def test_position_deletes_count_for_what_was_there_before(tmp_path: Path) -> None:
    source = filled(tmp_path / "source", numbered(0), numbered(10), numbered(20))
    first, second, third = paths_of(source)
    places = [(first, 0), (second, 1), (second, 4), ("file:///gone.parquet", 7), (first, 0)]
    places += [(third, at) for at in range(5)]
    rows = pa.table({"file_path": [path for path, _ in places], "pos": [at for _, at in places]})
    metadata = with_deletes(source, delete_file(source, rows, DataFileContent.POSITION_DELETES))
    theirs = StaticTable.from_metadata(metadata).scan().to_arrow()
    table = iceberg.import_table(metadata, str(tmp_path / "imported"))
    assert by_id(table.to_arrow()) == by_id(theirs)
    assert table.count() == len(theirs) == 7
    assert table.count(where="id = 11") == 0
    assert len(table.snapshot.fragments) == 2  # nothing is left of the third
    table.delete("id = 12")
    assert table.count() == 6
    table.compact()
    assert sorted(table.to_arrow().column("id").to_pylist()) == [1, 2, 3, 4, 10, 13]


def test_deletes_do_not_count_for_newer_files(tmp_path: Path) -> None:
    source = filled(tmp_path / "source", numbered(0), numbered(10))
    rows = pa.table({"file_path": paths_of(source), "pos": [0, 0]})
    deletes = delete_file(source, rows, DataFileContent.POSITION_DELETES)
    table = iceberg.import_table(with_deletes(source, deletes, sequence=1), str(tmp_path / "imported"))
    # By the specification (pyiceberg 0.12 applies a delete file to whatever path it names).
    assert [row["id"] for row in by_id(table.to_arrow())] == [1, 2, 3, 4, 10, 11, 12, 13, 14]


def test_a_deletion_vector_takes_the_place_of_delete_files(tmp_path: Path) -> None:
    source = filled(tmp_path / "source", numbered(0), numbered(10))
    first, second = paths_of(source)
    rows = pa.table({"file_path": [first, second], "pos": [4, 4]})
    deletes = [
        delete_file(source, rows, DataFileContent.POSITION_DELETES),
        deletion_vector(source, first, [0, 2]),
    ]
    metadata = with_deletes(source, *deletes, version=3)
    table = iceberg.import_table(metadata, str(tmp_path / "imported"))
    assert [row["id"] for row in by_id(table.to_arrow())] == [1, 3, 4, 10, 11, 12, 13]
    alone = with_deletes(source, deletes[1], version=3)
    theirs = StaticTable.from_metadata(alone).scan().to_arrow()
    assert by_id(iceberg.import_table(alone, str(tmp_path / "alone")).to_arrow()) == by_id(theirs)


def test_damaged_deletes_are_named(tmp_path: Path) -> None:
    source = filled(tmp_path / "source", numbered(0))
    (first,) = paths_of(source)
    for position in (-1, 5, 1 << 40):
        rows = pa.table({"file_path": [first], "pos": [position]})
        outside = with_deletes(source, delete_file(source, rows, DataFileContent.POSITION_DELETES))
        refused(outside, tmp_path, lake.CorruptionError, f"-deletes.parquet.* deletes row {position}")
    other = delete_file(
        source, pa.table({"file_path": [first], "row": [0]}), DataFileContent.POSITION_DELETES
    )
    refused(with_deletes(source, other), tmp_path, lake.CorruptionError, "no column 'pos'")
    vectors = [deletion_vector(source, first, [1, 9]), deletion_vector(source, first, [1, 2])]
    refused(
        with_deletes(source, vectors[0], version=3), tmp_path, lake.CorruptionError, "puffin deletes row 9"
    )
    twice = with_deletes(source, vectors[1], deletion_vector(source, first, [3]), version=3)
    refused(twice, tmp_path, lake.CorruptionError, "puffin is the second for its file")
    path = Path(vectors[1].file_path.removeprefix("file://"))
    whole = path.read_bytes()
    for at in (5, 9, 20, 40):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        damaged = with_deletes(source, vectors[1], version=3)
        refused(damaged, tmp_path, lake.CorruptionError, f"{path.name} is damaged")
    path.write_bytes(whole[:10])
    refused(with_deletes(source, vectors[1], version=3), tmp_path, lake.CorruptionError, path.name)


# --- statistics ---------------------------------------------------------------------------------------------


def test_bounds_leave_files_out_and_never_rows(tmp_path: Path) -> None:
    long = "x" * 100
    parts = [
        pa.table({"id": [first, first + 1], "text": [f"{first:03}{long}", None], "f": [1.0, float("nan")]})
        for first in range(0, 40, 10)
    ]
    table = bring(filled(tmp_path / "source", *parts), tmp_path)
    found = {one.field_id for one in table.snapshot.fragments.fragments()[0].statistics}
    assert found == {1, 2}  # NaN is not counted by this writer, so nothing is known of the floats
    for first in range(0, 40, 10):
        assert table.count(where=f"id = {first + 1}") == 1
        assert table.count(where=f"text = '{first:03}{long}'") == 1
    assert table.count(where="text IS NULL") == 4
    assert table.count(where="f > 1e9") == 4  # NaN is greater than every number
    for path in (tmp_path / "source").rglob("*.parquet"):
        if 10 not in pq.read_table(path).column("id").to_pylist():
            path.unlink()
    table = lake.open(table.uri, allow_external=str(tmp_path))
    assert table.count(where="id = 11") == 1  # nothing but its own file is read for it
    with pytest.raises(lake.NotFoundError):
        table.count(where="f = 1.0")


# --- what cannot be imported is named, and nothing is left --------------------------------------------------


def test_wrong_arguments(tmp_path: Path) -> None:
    source = filled(tmp_path / "source", ROWS)
    refused(source, tmp_path, lake.InvalidInputError, "no snapshot 5", snapshot_id=5)
    refused(3, tmp_path, lake.InvalidInputError, "3 is no Iceberg table")
    refused(str(tmp_path), tmp_path, lake.InvalidInputError, "metadata.json")
    inside = source.location().removeprefix("file://") + "/lake"
    with pytest.raises(lake.InvalidInputError, match="share a folder"):
        iceberg.import_table(source, inside)
    iceberg.import_table(source, str(tmp_path / "twice"))
    before = files(tmp_path / "twice")
    with pytest.raises(lake.AlreadyExistsError, match="twice"):
        iceberg.import_table(source, str(tmp_path / "twice"))
    assert files(tmp_path / "twice") == before


def test_names_that_a_table_cannot_hold(tmp_path: Path) -> None:
    source = filled(tmp_path / "source", pa.table({"id": [1], "ID": [2]}))
    refused(source, tmp_path, lake.UnsupportedError, "'id' and 'ID'")


def test_equality_deletes_are_named(tmp_path: Path) -> None:
    source = filled(tmp_path / "source", ROWS)
    equality = delete_file(source, ROWS.select(["id"]), DataFileContent.EQUALITY_DELETES, equality_ids=[1])
    refused(
        with_deletes(source, equality), tmp_path, lake.UnsupportedError, "equality deletes .*-deletes.parquet"
    )


def copied(source: Path, target: Path) -> tuple[Path, Path]:
    """A copy of a table for a test to damage, below its own folder: the table's folder, and its newest metadata."""
    shutil.copytree(source, target)
    for path in target.rglob("*.metadata.json"):
        path.write_text(path.read_text().replace(str(source), str(target)))
    newest = max(target.rglob("*.metadata.json"), key=lambda path: path.name)
    return newest.parent.parent, newest


def test_damaged_metadata_is_named(tmp_path: Path) -> None:
    filled(tmp_path / "source", ROWS)
    for number, damage in enumerate(("{", "[]", "{}", '{"format-version": 9}', "\xff")):
        _, metadata = copied(tmp_path / "source", tmp_path / f"damaged-{number}")
        metadata.write_bytes(damage.encode("latin-1"))
        refused(str(metadata), tmp_path, lake.CorruptionError, metadata.name)


@pytest.mark.parametrize("pattern", ["snap-*.avro", "*-m0.avro", "*.parquet"])
def test_truncated_files_are_named(pattern: str, tmp_path: Path) -> None:
    source = filled(tmp_path / "source", ROWS)
    (path,) = (tmp_path / "source").rglob(pattern)
    whole = path.read_bytes()
    lengths = [*range(0, len(whole), len(whole) // 20), len(whole) - 1]
    if pattern.endswith(".avro"):
        lengths.append(whole.index(whole[-16:]) + 16)  # a header that no block follows
    for length in lengths:
        path.write_bytes(whole[:length])
        refused(source, tmp_path, lake.CorruptionError, path.name)
    path.unlink()
    refused(source, tmp_path, lake.NotFoundError, path.name)


def test_metadata_may_not_lead_out_of_the_table(tmp_path: Path) -> None:
    """spec: STO-8"""
    filled(tmp_path / "source", ROWS)
    for number, place in enumerate(
        ("/etc/passwd", "file:///etc/passwd", "s3://other/list.avro", "{}/../../x")
    ):
        folder, metadata = copied(tmp_path / "source", tmp_path / f"hostile-{number}")
        content = json.loads(metadata.read_text())
        for snapshot in content["snapshots"]:
            snapshot["manifest-list"] = place.format(folder)
        metadata.write_text(json.dumps(content))
        refused(str(metadata), tmp_path, lake.ExternalNotAllowedError, "outside its own location")
