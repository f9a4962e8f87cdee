"""Reads a Vortex file: scans by row window, takes by position, in the exact Arrow types that were written.

Columns of local files that are taken from again and again are decoded once and kept in memory, as long as they are
small enough (:class:`~lake_engines.files.column_cache.Demand`): a take through vortex costs some 100 microseconds a
column, however few its rows.

Rows are decoded chunk by chunk through vortex's iterator, not through its C stream: a panic over damaged bytes
is an exception in the first and ends the process in the second (vortex-data 0.93).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from lake_engines.files.access import FileBytes
from lake_engines.files.base import (
    DEFAULT_BATCH_ROWS,
    Positions,
    WrittenFile,
    check_columns,
    check_increasing,
    check_window,
    empty_batch,
    gather,
    project,
    rows_only,
)
from lake_engines.files.checksums import StreamLayout
from lake_engines.files.column_cache import DECODED, LARGEST_COLUMN, Demand
from lake_engines.files.dictionaries import encoded
from lake_engines.files.layout import VORTEX_KIND
from lake_engines.files.vortex_errors import reading
from lake_format.errors import CorruptionError
from lake_format.store.base import Store

__all__ = ["VortexReader"]

_SCAN_BATCH_BYTES = 8 << 20
_VARIABLE_BYTES = 160
_TAKE_BATCH_ROWS = 262_144  # measured: a take of 1,000 rows is 2-3 times faster than with vortex's 8,192


class VortexReader:
    """A :class:`~lake_engines.files.base.FileReader` for Vortex files.

    Parameters
    ----------
    verify_reads
        Check every block that is read against its checksum. Otherwise only the footer is checked.
    """

    def __init__(
        self, store: Store, file: WrittenFile, schema: pa.Schema, *, verify_reads: bool = False
    ) -> None:
        self._path = file.path
        self._schema = schema
        self._layout = StreamLayout.from_bytes(
            file.layout, VORTEX_KIND, path=file.path, rows=file.rows, size=file.size
        )
        self._bytes = FileBytes(store, file.path, file.size, checksums=self._layout if verify_reads else None)
        self._keeps = self._bytes.local_path is not None and not verify_reads
        self._demand = Demand(file.rows)
        self._owner = object()  # of kept columns: they must not keep the file's map alive
        self._file = self._open(verify_reads)
        if len(self._file) != file.rows:
            raise CorruptionError(
                f"Vortex file {file.path!r} has {len(self._file)} rows, not the {file.rows} recorded"
            )

    def _open(self, verify_reads: bool) -> Any:
        import vortex  # noqa: PLC0415 - 40 ms that only readers of Vortex files should pay

        self._source = source = _Source(self._bytes, self._layout)
        with self._reading():
            if self._bytes.local_path is not None and not verify_reads:
                return vortex.open(self._bytes.local_path, memory_map=True)
            return vortex.open_readable(source)

    @property
    def rows(self) -> int:
        """Rows in the file."""
        return self._layout.rows

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema exactly as written."""
        return self._schema

    def scan(
        self,
        columns: Sequence[str] | None = None,
        *,
        start: int = 0,
        stop: int | None = None,
        batch_rows: int = DEFAULT_BATCH_ROWS,
        dictionaries: bool = False,
    ) -> Iterator[pa.RecordBatch]:
        """Rows ``[start, stop)`` in order, decoded as they are asked for."""
        names = check_columns(columns, self._schema, self._path)
        begin, end = check_window(start, stop, self.rows, self._path)
        if not names:
            for first in range(begin, end, batch_rows):
                yield rows_only(min(batch_rows, end - first))
            return
        if begin == end:
            return
        wanted = project(self._schema, names)
        with self._reading():
            scan = self._file.to_repeated_scan(names, batch_size=min(batch_rows, _scan_rows(wanted)))
            window = scan.execute(row_range=(begin, end))
        yield from self._decoded(window, wanted, end - begin, dictionaries=dictionaries)

    def take(self, positions: Positions, columns: Sequence[str] | None = None) -> pa.RecordBatch:
        """The rows at ``positions`` (strictly increasing), as one batch."""
        names = check_columns(columns, self._schema, self._path)
        # vortex ends the process over an index past the end, so that this check is not a courtesy
        places = check_increasing(positions, self.rows, self._path)
        if not names:
            return rows_only(len(places))
        wanted = project(self._schema, names)
        if not len(places):
            return empty_batch(wanted)
        kept = self._kept(names) if self._keeps else {}
        missing = [name for name in names if name not in kept]
        if not kept:
            return self._take_stored(places, wanted)
        index = places.astype(np.int64)
        found = gather(pa.RecordBatch.from_arrays(list(kept.values()), list(kept)), index)
        arrays = dict(zip(kept, found.columns, strict=True))
        if missing:
            stored = self._take_stored(places, project(self._schema, missing))
            arrays |= dict(zip(missing, stored.columns, strict=True))
        return pa.RecordBatch.from_arrays([arrays[name] for name in names], schema=wanted)

    def _take_stored(self, places: Positions, wanted: pa.Schema) -> pa.RecordBatch:
        """Rows through vortex, which reads no more than their blocks."""
        import vortex  # noqa: PLC0415 - 40 ms that only readers of Vortex files should pay

        with self._reading():
            indices = vortex.array(pa.array(np.ascontiguousarray(places), pa.uint64()))
            found = self._file.scan(wanted.names, indices=indices, batch_size=_TAKE_BATCH_ROWS)
        parts = list(self._decoded(found, wanted, len(places)))
        batch = parts[0] if len(parts) == 1 else pa.concat_batches(parts)
        if self._keeps:
            self._demand.note(batch)
        return batch

    def _kept(self, names: list[str]) -> dict[str, pa.Array]:
        """Those of the columns that are at hand as a whole, and those that it pays to decode now."""
        found = {}
        for name in names:
            array = DECODED.get(self._owner, name)
            if array is None and self._demand.wants(name):
                array = self._whole(name)
            if array is not None:
                found[name] = array
        return found

    def _whole(self, name: str) -> pa.Array | None:
        """A column decoded and kept; None if it turns out to be too large, which is seen before it fills memory.

        None also where any of it cannot be decoded: rows that are not damaged can still be taken one by one.
        """
        parts: list[pa.Array] = []
        size = 0
        try:
            for batch in self.scan([name]):
                parts.append(batch.column(0))
                size += int(parts[-1].get_total_buffer_size())
                if size > LARGEST_COLUMN:
                    raise _TooLargeError
        except (_TooLargeError, CorruptionError):
            self._demand.refuse(name)
            return None
        array = pa.concat_arrays(parts)
        DECODED.put(self._owner, name, array)
        return array

    def _decoded(
        self, chunks: Any, wanted: pa.Schema, rows: int, *, dictionaries: bool = False
    ) -> Iterator[pa.RecordBatch]:
        seen = 0
        while True:
            with self._reading():
                chunk = next(chunks, None)
                if chunk is None:
                    break
                schema = _as_stored(chunk, wanted) if dictionaries else wanted
                decoded = chunk.to_arrow_array(arrow_type=pa.struct(list(schema)))
            seen += len(chunk)
            for part in decoded.chunks if isinstance(decoded, pa.ChunkedArray) else [decoded]:
                yield pa.RecordBatch.from_arrays(part.flatten(), schema=schema)
        if seen != rows:
            raise CorruptionError(f"Vortex file {self._path!r} gave {seen} rows where {rows} were asked for")

    def _reading(self) -> Any:
        return reading(self._path, self._source.faults)

    def verify(self) -> None:
        """Read the whole file and check every block."""
        self._bytes.verify(self._layout)


class _TooLargeError(Exception):
    """A column is larger than what is kept; never leaves this module."""


def _as_stored(chunk: Any, wanted: pa.Schema) -> pa.Schema:
    """The schema with dictionaries for those columns of text that are dictionaries in this chunk.

    Vortex would make dictionaries of others too, at ten times the cost of plain text.
    """
    if chunk.id != "vortex.struct":
        return wanted
    return pa.schema(
        [
            field.with_type(encoded(field.type)) if chunk.field(field.name).id == "vortex.dict" else field
            for field in wanted
        ]
    )


def _scan_rows(schema: pa.Schema) -> int:
    """Rows per batch that keep a batch near 8 MB, as a power of two.

    Measured: 64k rows of wide text decode three times slower than 16k, narrow columns twice as fast.
    """
    width = sum(_width(field.type) for field in schema)
    return int(min(1 << 17, max(1 << 13, 1 << (_SCAN_BATCH_BYTES // width).bit_length() - 1)))


def _width(data_type: pa.DataType) -> int:
    """Bytes of a value, by its type; a guess for what varies."""
    try:
        return max(1, int(data_type.bit_width) // 8)
    except ValueError:
        return _VARIABLE_BYTES


class _Source:
    """What vortex reads through: our bytes, the tail fetched once and checked before anything is parsed."""

    def __init__(self, data: FileBytes, layout: StreamLayout) -> None:
        self._data = data
        self._start = layout.size - layout.tail_length
        self._tail = memoryview(data.read(self._start, layout.tail_length))
        self.faults: list[BaseException] = []
        layout.check_tail(self._tail, data.path)

    def size(self) -> int:
        """Total length in bytes."""
        return self._data.size

    def read_at(self, offset: int, length: int) -> bytes | memoryview:
        """``length`` bytes from ``offset``; called from vortex's threads, many at once."""
        if offset >= self._start:
            return self._tail[offset - self._start : offset - self._start + length]
        try:
            return self._data.read(offset, length)
        except BaseException as error:
            self.faults.append(error)
            raise
