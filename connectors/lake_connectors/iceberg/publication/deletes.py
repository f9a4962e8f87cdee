"""Deleted rows as a position delete file of Iceberg's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pyarrow as pa
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.typedef import Record
from pyroaring import BitMap64

from lake_connectors.iceberg.publication.folder import Folder
from lake_engines.files import open_writer
from lake_format.schema import FIELD_ID_KEY

__all__ = ["write_deletes"]

_PATH_ID, _POSITION_ID = 2147483546, 2147483545
_SCHEMA = pa.schema(
    [
        pa.field("file_path", pa.string(), False, {FIELD_ID_KEY: str(_PATH_ID).encode()}),
        pa.field("pos", pa.int64(), False, {FIELD_ID_KEY: str(_POSITION_ID).encode()}),
    ]
)
_BATCH_ROWS = 65_536


def write_deletes(folder: Folder, targets: Mapping[str, BitMap64]) -> DataFile:
    """Write the deleted positions of data files, by their locations; there is at least one."""
    location = folder.new_location(".deletes.parquet")
    writer = open_writer(folder.store, folder.path(location), _SCHEMA)
    ordered = sorted(targets)
    try:
        for target in ordered:
            for batch in _batches(target, targets[target]):
                writer.write(batch)
        file = writer.close()
    except BaseException:
        writer.abort()
        raise
    return DataFile.from_args(
        content=DataFileContent.POSITION_DELETES,
        file_path=location,
        file_format=FileFormat.PARQUET,
        partition=Record(),
        record_count=file.rows,
        file_size_in_bytes=file.size,
        lower_bounds={_PATH_ID: ordered[0].encode()},
        upper_bounds={_PATH_ID: ordered[-1].encode()},
    )


def _batches(target: str, positions: BitMap64) -> Iterator[pa.RecordBatch]:
    numbers = pa.array(positions.to_array(), pa.uint64()).cast(pa.int64())
    for start in range(0, len(numbers), _BATCH_ROWS):
        part = numbers.slice(start, _BATCH_ROWS)
        yield pa.RecordBatch.from_arrays([pa.repeat(target, len(part)), part], schema=_SCHEMA)
