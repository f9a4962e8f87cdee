"""Iceberg tables made by pyiceberg, and what tests about importing them share."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.avro.file import AvroOutputFile
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
from pyroaring import BitMap64

import lake_format as lake
from lake_connectors import iceberg
from lake_format.puffin import PuffinWriter

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


def paths_of(source: IcebergTable) -> list[str]:
    """The data files, by the least id in them."""
    return sorted(
        source.inspect.data_files().column("file_path").to_pylist(),
        key=lambda path: min(pq.read_table(path.removeprefix("file://")).column("id").to_pylist()),
    )


def numbered(first: int, count: int = 5) -> pa.Table:
    return pa.table({"id": list(range(first, first + count))})


def embedded(first: int, count: int, dimension: int = 8) -> pa.Table:
    """Rows with vectors, every tenth of them NULL."""
    values = np.random.default_rng(first).standard_normal((count, dimension)).astype("f4")
    lists = [None if (first + at) % 10 == 3 else list(one) for at, one in enumerate(values)]
    column = pa.array(lists, pa.list_(pa.float32()))
    return pa.table({"id": list(range(first, first + count)), "embedding": column})


def nearest(rows: pa.Table, query: np.ndarray, k: int) -> list[int]:
    held = [row for row in rows.to_pylist() if row["embedding"] is not None]
    distances = ((np.array([row["embedding"] for row in held], "f4") - query) ** 2).sum(axis=1)
    return [held[at]["id"] for at in np.argsort(distances)[:k]]


def refused(
    source: object, tmp_path: Path, kind: type[lake.LakeError], match: str, **options: object
) -> None:
    target = tmp_path / "refused"
    with pytest.raises(kind, match=match):
        iceberg.import_table(source, str(target), **options)  # type: ignore[arg-type]
    assert not [path for path in target.rglob("*") if path.is_file()]


class _DeleteManifest(ManifestWriterV2):
    """pyiceberg reads delete files and writes none: its own writer, told that they are, with the fields of v3."""

    def new_writer(self) -> AvroOutputFile[ManifestEntry]:
        schema = self._with_partition(3)
        return AvroOutputFile(
            output_file=self._output_file,
            file_schema=schema,
            record_schema=schema,
            schema_name="manifest_entry",
            metadata=self._meta,
        )

    def content(self) -> ManifestContent:
        return ManifestContent.DELETES

    @property
    def _meta(self) -> dict[str, str]:
        return {**super()._meta, "content": "deletes"}


def with_deletes(
    source: IcebergTable, *deletes: DataFile, version: int = 2, sequence: int | None = None
) -> str:
    """The metadata file of the table with a further snapshot, in which there are these delete files too."""
    metadata, current = source.metadata, source.current_snapshot()
    assert current is not None
    folder = Path(source.location().removeprefix("file://")) / "metadata"
    number, latest = current.snapshot_id + 1, metadata.last_sequence_number + 1
    output = source.io.new_output(f"file://{folder}/deletes-{number}.avro")
    with _DeleteManifest(source.spec(), source.schema(), output, number, "deflate") as writer:
        for one in deletes:
            entry = ManifestEntry.from_args(
                3,
                status=ManifestEntryStatus.ADDED,
                snapshot_id=number,
                sequence_number=sequence,
                data_file=one,
            )
            writer.add_entry(entry)
    listing = source.io.new_output(f"file://{folder}/snap-{number}.avro")
    with write_manifest_list(2, listing, number, current.snapshot_id, latest, "deflate") as manifests:
        manifests.add_manifests([*current.manifests(source.io), writer.to_manifest_file()])
    content = json.loads(Path(source.metadata_location.removeprefix("file://")).read_text())
    newest = {**content["snapshots"][-1], "snapshot-id": number, "sequence-number": latest}
    newest |= {"parent-snapshot-id": current.snapshot_id, "manifest-list": listing.location}
    content["snapshots"].append(newest)
    content |= {"current-snapshot-id": number, "last-sequence-number": latest}
    content["refs"]["main"]["snapshot-id"] = number
    content |= {"format-version": version, "next-row-id": 0}
    path = folder / f"{number}.metadata.json"
    path.write_text(json.dumps(content))
    return str(path)


def delete_file(source: IcebergTable, rows: pa.Table, content: DataFileContent, **values: Any) -> DataFile:
    """A file with deletes beside the table's data."""
    path = Path(source.location().removeprefix("file://")) / "data" / f"{uuid4()}-deletes.parquet"
    pq.write_table(rows, path)
    return _described(path, FileFormat.PARQUET, rows.num_rows, content=content, **values)


def deletion_vector(source: IcebergTable, target: str, positions: list[int]) -> DataFile:
    """A Puffin file with the deletion vector of a data file, beside the table's data."""
    body = b"\xd1\xd3\x39\x64" + BitMap64(positions).serialize()
    blob = len(body).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    path = Path(source.location().removeprefix("file://")) / "data" / f"{uuid4()}-deletes.puffin"
    with path.open("wb") as sink:
        writer = PuffinWriter(sink)
        offset = writer.begin()
        writer.write(blob)
        writer.end("deletion-vector-v1", properties={"referenced-data-file": target})
        writer.finish()
    place = {"referenced_data_file": target, "content_offset": offset, "content_size_in_bytes": len(blob)}
    content = DataFileContent.POSITION_DELETES
    return _described(path, FileFormat.PUFFIN, len(positions), content=content, **place)


def _described(path: Path, kind: FileFormat, rows: int, **values: Any) -> DataFile:
    return DataFile.from_args(
        3,
        file_path=f"file://{path}",
        file_format=kind,
        partition=Record(),
        record_count=rows,
        file_size_in_bytes=path.stat().st_size,
        **values,
    )


def with_initial_defaults(source: IcebergTable, **defaults: Any) -> str:
    """A metadata file of the table, as of version 3, in whose schemas these columns have initial defaults."""
    path = Path(source.metadata_location.removeprefix("file://"))
    content = json.loads(path.read_text())
    for schema in content["schemas"]:
        for field in schema["fields"]:
            if field["name"] in defaults:
                field["initial-default"] = defaults[field["name"]]
    content |= {"format-version": 3, "next-row-id": 0}
    made = path.with_name(f"defaults-{uuid4()}.metadata.json")
    made.write_text(json.dumps(content))
    return str(made)
