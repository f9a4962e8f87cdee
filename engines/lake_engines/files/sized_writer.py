"""Writes a scalar column group in the format that suits its size: plain Parquet while it is small, Vortex beyond.

Vortex spends some ten milliseconds on choosing encodings even for a thousand rows; small files live until they are
compacted, so on a local disk they are written as fast as can be (spec/decisions/0001-scalar-format.md). It decides
between writers, no more.
"""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from lake_engines.files.base import FileWriter, WrittenFile, batch_bytes
from lake_engines.files.parquet_types import parquet_can_hold
from lake_engines.files.parquet_writer import ParquetWriter
from lake_engines.files.vortex_writer import VortexWriter
from lake_format.store.base import Store

__all__ = ["SMALL_BYTES", "SMALL_ROWS", "SizedWriter"]

SMALL_ROWS = 16_384
SMALL_BYTES = 4 << 20


class SizedWriter:
    """A :class:`~lake_engines.files.base.FileWriter` that keeps rows until it knows whether the file will be small.

    Parameters
    ----------
    path_of
        The path of a file of a format.
    schema
        Columns that :func:`vortex_can_hold`.
    """

    def __init__(self, store: Store, path_of: Callable[[str], str], schema: pa.Schema) -> None:
        self._store = store
        self._path_of = path_of
        self._schema = schema
        self._held: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0
        self._writer: FileWriter | None = None
        if not all(parquet_can_hold(field.type) for field in schema):
            self._begin("vortex")

    def write(self, batch: pa.RecordBatch) -> None:
        """Append the rows of ``batch``."""
        if self._writer is not None:
            self._writer.write(batch)
            return
        self._held.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch_bytes(batch)
        if self._rows > SMALL_ROWS or self._bytes > SMALL_BYTES:
            self._begin("vortex")

    def close(self) -> WrittenFile:
        """Finish the file and make it visible."""
        return (self._writer or self._begin("parquet")).close()

    def abort(self) -> None:
        """Give the file up; nothing becomes visible."""
        self._held = []
        if self._writer is not None:
            self._writer.abort()

    def _begin(self, chosen: str) -> FileWriter:
        path = self._path_of(chosen)
        self._writer = (
            VortexWriter(self._store, path, self._schema)
            if chosen == "vortex"
            else ParquetWriter(self._store, path, self._schema, uncompressed=True)
        )
        held, self._held = self._held, []
        for batch in held:
            self._writer.write(batch)
        return self._writer
