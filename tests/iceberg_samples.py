"""Iceberg tables made by pyiceberg, and what tests about importing them share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.manifest import (
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestWriterV2,
    write_manifest_list,
)
from pyiceberg.table import Table as IcebergTable
from pyiceberg.typedef import Record

import lake_format as lake
from lake_connectors import iceberg

ROWS = pa.table(
    {
        "id": pa.array([1, 2, 3], pa.int32()),
        "name": ["one", None, "three"],
        "price": pa.array([1.5, float("nan"), None], pa.float32()),
        "tags": [["a", "b"], [], None],
        "place": [{"x": 1, "y": "p"}, None, {"x": 3, "y": None}],
        "scores": pa.array([[("a", 1)], [], None], pa.map_(pa.string(), pa.int32())),
    }
)


def warehouse(folder: Path) -> SqlCatalog:
    """A catalog with the namespace ``shop`` whose files lie below a folder."""
    folder.mkdir(parents=True)
    catalog = SqlCatalog("test", uri=f"sqlite:///{folder}/catalog.db", warehouse=f"file://{folder}/files")
    catalog.create_namespace("shop")
    return catalog


def filled(folder: Path, *parts: pa.Table, **options: Any) -> IcebergTable:
    """The table ``shop.items`` with the rows of each part in a snapshot of its own."""
    table = warehouse(folder).create_table("shop.items", parts[0].schema, **options)
    for part in parts:
        table.append(part)
    return table


def bring(source: IcebergTable, tmp_path: Path, **options: Any) -> lake.Table:
    """Import, and open again as anybody else would."""
    uri = str(tmp_path / "imported")
    iceberg.import_table(source, uri, **options)
    return lake.open(uri, allow_external=source.location())


def by_id(table: pa.Table) -> list[dict[str, Any]]:
    return sorted(table.to_pylist(), key=lambda row: (row["id"] is None, row["id"]))


class _DeleteManifest(ManifestWriterV2):
    """pyiceberg reads delete files and writes none: its own writer, told that they are."""

    def content(self) -> ManifestContent:
        return ManifestContent.DELETES

    @property
    def _meta(self) -> dict[str, str]:
        return {**super()._meta, "content": "deletes"}


def with_deletes(source: IcebergTable, *deletes: DataFile) -> str:
    """The metadata file of the table with a further snapshot, in which there are these delete files too."""
    metadata, current = source.metadata, source.current_snapshot()
    assert current is not None
    folder = Path(source.location().removeprefix("file://")) / "metadata"
    number, sequence = current.snapshot_id + 1, metadata.last_sequence_number + 1
    output = source.io.new_output(f"file://{folder}/deletes-{number}.avro")
    with _DeleteManifest(source.spec(), source.schema(), output, number, "deflate") as writer:
        for one in deletes:
            entry = ManifestEntry.from_args(
                status=ManifestEntryStatus.ADDED, snapshot_id=number, data_file=one
            )
            writer.add_entry(entry)
    listing = source.io.new_output(f"file://{folder}/snap-{number}.avro")
    with write_manifest_list(2, listing, number, current.snapshot_id, sequence, "deflate") as manifests:
        manifests.add_manifests([*current.manifests(source.io), writer.to_manifest_file()])
    content = json.loads(Path(source.metadata_location.removeprefix("file://")).read_text())
    newest = {**content["snapshots"][-1], "snapshot-id": number, "sequence-number": sequence}
    newest |= {"parent-snapshot-id": current.snapshot_id, "manifest-list": listing.location}
    content["snapshots"].append(newest)
    content |= {"current-snapshot-id": number, "last-sequence-number": sequence}
    content["refs"]["main"]["snapshot-id"] = number
    path = folder / f"{number}.metadata.json"
    path.write_text(json.dumps(content))
    return str(path)


def delete_file(source: IcebergTable, rows: pa.Table, content: DataFileContent, **values: Any) -> DataFile:
    """A file with deletes beside the table's data."""
    path = Path(source.location().removeprefix("file://")) / "data" / f"{uuid4()}-deletes.parquet"
    pq.write_table(rows, path)
    made = DataFile.from_args(
        content=content,
        file_path=f"file://{path}",
        file_format=FileFormat.PARQUET,
        partition=Record(),
        record_count=rows.num_rows,
        file_size_in_bytes=path.stat().st_size,
        **values,
    )
    made.spec_id = source.spec().spec_id
    return made
