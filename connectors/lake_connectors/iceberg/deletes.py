"""Iceberg's deletes by position, from delete files and deletion vectors: a set of positions for each data file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from pyroaring import BitMap64

from lake_connectors.iceberg.entries import Entry
from lake_connectors.iceberg.locations import Locations
from lake_engines.files.base import WrittenFile
from lake_engines.files.parquet_reader import ParquetReader
from lake_format.checksum import crc32
from lake_format.errors import CorruptionError
from lake_format.positions import bitmap_of
from lake_format.store.base import ByteRange

__all__ = ["deleted_rows"]

_MAGIC = b"\xd1\xd3\x39\x64"
_LARGEST_VECTOR = 1 << 30
_COLUMNS = {"file_path": pa.string(), "pos": pa.int64()}


@dataclass(slots=True)
class _Target:
    """A data file, what is deleted in it, and the vector that settles that by itself, if there is one."""

    rows: int
    sequence: int
    vector: str | None = None
    positions: BitMap64 = field(default_factory=BitMap64)


def deleted_rows(
    locations: Locations, data: Sequence[Entry], deletes: Iterable[Entry]
) -> Mapping[str, BitMap64]:
    """The deleted positions of the data files that have any, by the files' locations.

    A deletion vector takes the place of all delete files for its data file. Deletes of files that are not there, and
    of files newer than the deletes, count for nothing.

    Raises
    ------
    CorruptionError
        A delete file or vector is damaged, names a row that its data file does not have, or two vectors are for one.
    """
    targets = {one.file.file_path: _Target(one.file.record_count, one.sequence) for one in data}
    ordered = sorted(deletes, key=lambda one: not one.is_vector)
    for one in ordered:
        if one.is_vector:
            _apply_vector(locations, one, targets)
        else:
            _apply_file(locations, one, targets)
    return {path: target.positions for path, target in targets.items() if target.positions}


def _apply_vector(locations: Locations, entry: Entry, targets: Mapping[str, _Target]) -> None:
    where = f"the deletion vector for {entry.target} in {entry.file.file_path}"
    target = targets.get(entry.target or "")
    if target is None or target.sequence > entry.sequence:
        return
    if target.vector is not None:
        raise CorruptionError(f"{where} is the second for its file, after {target.vector}")
    target.vector = where
    offset, length = entry.offset, entry.length
    if offset is None or length is None or offset < 0 or not 12 <= length <= _LARGEST_VECTOR:
        raise CorruptionError(f"{where} has no place: offset {offset}, length {length}")
    path = locations.path(entry.file.file_path)
    (stored,) = locations.store.get_ranges([ByteRange(path, offset, length)])
    target.positions = _decoded(stored, where)
    if len(target.positions) != entry.file.record_count:
        raise CorruptionError(
            f"{where} has {len(target.positions)} rows, not {entry.file.record_count} as recorded"
        )
    _check_within(target, where)


def _decoded(stored: bytes, where: str) -> BitMap64:
    """The positions in a blob ``deletion-vector-v1``: length, magic, portable 64-bit roaring bitmap, CRC-32."""
    body, checksum = stored[4:-4], int.from_bytes(stored[-4:], "big")
    if int.from_bytes(stored[:4], "big") != len(body) or body[:4] != _MAGIC or crc32(body) != checksum:
        raise CorruptionError(f"{where} is damaged: its length, magic or checksum is wrong")
    try:
        return BitMap64.deserialize(body[4:])
    except (ValueError, RuntimeError, TypeError, IndexError) as error:
        raise CorruptionError(f"{where} cannot be read") from error


def _apply_file(locations: Locations, entry: Entry, targets: Mapping[str, _Target]) -> None:
    where = entry.file.file_path
    path, size = locations.path(where), entry.file.file_size_in_bytes
    written = WrittenFile(
        path=path, format="parquet", rows=max(entry.file.record_count, 0), size=size, layout=b""
    )
    reader = ParquetReader(locations.store, written)
    for name in _COLUMNS:
        if name not in reader.schema.names:
            raise CorruptionError(f"position delete file {where} has no column {name!r}")
    for batch in reader.scan(list(_COLUMNS)):
        _apply_batch(batch, entry, targets)


def _apply_batch(batch: pa.RecordBatch, entry: Entry, targets: Mapping[str, _Target]) -> None:
    where = f"position delete file {entry.file.file_path}"
    try:
        paths, positions = (batch.column(at).cast(kind) for at, kind in enumerate(_COLUMNS.values()))
    except pa.ArrowException as error:
        raise CorruptionError(f"{where} holds no paths and positions: {error}") from error
    if paths.null_count or positions.null_count:
        raise CorruptionError(f"{where} has NULLs among its paths and positions")
    coded = paths.dictionary_encode()
    codes, numbers = coded.indices.to_numpy(), positions.to_numpy()
    for code, name in enumerate(coded.dictionary.to_pylist()):
        target = targets.get(name)
        if target is None or target.vector is not None or target.sequence > entry.sequence:
            continue
        found = np.unique(numbers[codes == code])
        if found[0] < 0:
            raise CorruptionError(f"{where} deletes row {found[0]} of {name}")
        target.positions |= bitmap_of(found)
        _check_within(target, f"{where}, for {name},")


def _check_within(target: _Target, where: str) -> None:
    if target.positions and target.positions.max() >= target.rows:
        raise CorruptionError(
            f"{where} deletes row {target.positions.max()}, but the file has {target.rows} rows"
        )
