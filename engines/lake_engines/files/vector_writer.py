"""Writes one vector column as a byte-addressable Parquet file, front to back, one page in memory at most.

It lays the pages out itself (:mod:`lake_engines.files.vector_pages`), so that every vector's byte offset is
known the moment it is written; pyarrow's own Parquet writer is not used: it is some ten times slower here.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lake_engines.files.base import WrittenFile, check_batch, whole_vectors
from lake_engines.files.vector_layout import (
    ELEMENTS,
    INLINE_NULL_BYTES,
    MAX_DIMENSION,
    NullBlob,
    VectorLayout,
    encode_nulls,
    page_rows_for,
)
from lake_engines.files.vector_pages import MAGIC, VectorPage, footer, levels, offset_index, page_header
from lake_format.checksum import crc32
from lake_format.errors import InvalidInputError
from lake_format.store.base import Store

__all__ = ["ALIGNMENT", "VectorWriter", "can_be_paged"]

ALIGNMENT = 64
NULLS_BLOB = "lake-null-positions-v0"

_Floats = npt.NDArray[np.floating[Any]]
_Valid = npt.NDArray[np.bool_]


def can_be_paged(schema: pa.Schema) -> bool:
    """Whether a file of this schema is written as a vector file: one fixed-size list of floats, alone."""
    if len(schema) != 1:
        return False
    kind = schema.field(0).type
    return (
        pa.types.is_fixed_size_list(kind)
        and any(kind.value_type == element for element, _ in ELEMENTS.values())
        and 1 <= kind.list_size <= MAX_DIMENSION
    )


class VectorWriter:
    """A :class:`~lake_engines.files.base.FileWriter` for one vector column.

    Parameters
    ----------
    schema
        One field of type ``fixed_size_list<float16 | float32 | float64>``.
    page_rows
        Rows per page; by default about 32 MB worth (:func:`page_rows_for`).
    lasting
        Batches stay as they are until the file is closed: a page may be gathered without copying them.
    """

    def __init__(
        self,
        store: Store,
        path: str,
        schema: pa.Schema,
        *,
        page_rows: int | None = None,
        lasting: bool = False,
    ) -> None:
        if not can_be_paged(schema):
            raise InvalidInputError(f"{schema.types} cannot be written as a vector file to {path!r}")
        self._schema = schema
        self._path = path
        kind = schema.field(0).type
        self._element, self._dtype = next(
            (code, dtype) for code, (element, dtype) in ELEMENTS.items() if element == kind.value_type
        )
        self._dim: int = kind.list_size
        self._width = self._dim * self._dtype.itemsize
        self._page_rows = page_rows or page_rows_for(self._width)
        self._pages: list[VectorPage] = []
        self._value_offsets: list[int] = []
        self._level_lengths: list[int] = []
        self._crcs: list[int] = []
        self._nulls: list[npt.NDArray[np.uint64]] = []
        self._rows = 0  # rows in finished pages
        self._lasting = lasting
        self._pending = 0  # rows waiting for their page to be full, their vectors, and which of them have one
        self._held: list[_Floats] = []
        self._valid: list[_Valid] = []
        self._out = store.open_writer(path)
        self._out.write(MAGIC)

    def write(self, batch: pa.RecordBatch) -> None:
        """Append the vectors of ``batch``.

        Raises
        ------
        InvalidInputError
            Another schema, a NULL element inside a vector, or a NULL vector in a column that forbids them.
        """
        check_batch(batch, self._schema, self._rows + self._pending, self._path)
        column = batch.column(0)
        valid = None if column.null_count == 0 else np.asarray(column.is_valid())
        flat = whole_vectors(column, self._schema.field(0).name, self._rows + self._pending)
        self._append(flat.to_numpy(zero_copy_only=True).reshape(-1, self._dim), valid, len(column))

    def _append(self, values: _Floats, valid: _Valid | None, rows: int) -> None:
        row = slot = 0
        while row < rows:
            count = min(self._page_rows - self._pending, rows - row)
            part = None if valid is None else valid[row : row + count]
            used = count if part is None else int(part.sum())
            taken = values[slot : slot + used]
            self._held.append(taken if self._lasting or count == self._page_rows else taken.copy())
            self._valid.append(np.ones(count, np.bool_) if part is None else part)
            self._pending += count
            if self._pending == self._page_rows:
                self._flush()
            row, slot = row + count, slot + used

    def _flush(self) -> None:
        if self._pending:
            held, self._held = self._held, []
            valid, self._valid = np.concatenate(self._valid), []
            rows, self._pending = self._pending, 0
            self._emit(held, None if valid.all() else valid, rows)

    def _emit(self, parts: list[_Floats], valid: _Valid | None, rows: int) -> None:
        head = levels(valid, rows, self._dim, self._schema.field(0).nullable)
        bodies = [np.ascontiguousarray(one, self._dtype).reshape(-1).view(np.uint8).data for one in parts]
        crc = crc32(head)
        for body in bodies:
            crc = crc32(body, crc)
        size, vectors = sum(len(body) for body in bodies), sum(len(one) for one in parts)
        nulls = rows - vectors
        level_count = vectors * self._dim + nulls
        header = page_header(len(head) + size, crc, level_count)
        start = self._out.tell() + len(header) + len(head)
        padding = -start % ALIGNMENT
        if self._value_offsets:  # later pages stay on the first page's grid of vectors (VEC-5)
            padding = (self._value_offsets[0] - start) % math.lcm(self._width, ALIGNMENT)
        offset = self._out.tell() + padding
        self._out.write(bytes(padding) + header + head)
        for body in bodies:
            self._out.write(body)
        if valid is not None:
            self._nulls.append(np.flatnonzero(~valid).astype(np.uint64) + np.uint64(self._rows))
        self._value_offsets.append(start + padding)
        self._level_lengths.append(len(head))
        self._crcs.append(crc)
        self._pages.append(
            VectorPage(
                offset=offset, length=self._out.tell() - offset, rows=rows, nulls=nulls, values=level_count
            )
        )
        self._rows += rows

    def close(self) -> WrittenFile:
        """Write the last page, the offset indexes and the footer; then make the file visible."""
        self._flush()
        nulls, blobs = self._write_nulls()
        layout = VectorLayout(
            element=self._element,
            dim=self._dim,
            rows=self._rows,
            page_rows=self._page_rows,
            value_offsets=np.array(self._value_offsets, np.uint64),
            level_lengths=np.array(self._level_lengths, np.uint32),
            crcs=np.array(self._crcs, np.uint32),
            page_nulls=np.array([page.nulls for page in self._pages], np.uint32),
            nulls=nulls,
        ).to_bytes()
        indexes = []
        for page in self._pages:
            index = offset_index(page)
            indexes.append((self._out.tell(), len(index)))
            self._out.write(index)
        tail = footer(self._schema, self._pages, indexes, layout, blobs)
        self._out.write(tail + len(tail).to_bytes(4, "little") + MAGIC)
        size = self._out.tell()
        self._out.close()
        return WrittenFile(path=self._path, format="parquet", rows=self._rows, size=size, layout=layout)

    def _write_nulls(self) -> tuple[NullBlob | None, list[dict[str, Any]]]:
        """Few NULL positions travel in the layout; many are kept in the file, so that manifests stay small."""
        if not self._nulls:
            return None, []
        data = encode_nulls(np.concatenate(self._nulls))
        crc = crc32(data)
        if len(data) <= INLINE_NULL_BYTES:
            return NullBlob(inline=data, length=len(data), crc=crc), []
        offset = self._out.tell()
        self._out.write(data)
        blob = {"type": NULLS_BLOB, "offset": offset, "length": len(data)}
        return NullBlob(offset=offset, length=len(data), crc=crc), [blob]

    def abort(self) -> None:
        """Give the file up; nothing becomes visible."""
        self._held = []
        self._out.abort()
