"""What a data file is to the rest of the engine: the values and protocols every file format shares.

It must not know any format: formats import this module, never the other way round.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lake_format.errors import InvalidInputError

__all__ = [
    "DEFAULT_BATCH_ROWS",
    "UNKNOWN_ROWS",
    "FileReader",
    "FileWriter",
    "Positions",
    "WrittenFile",
    "as_positions",
    "batch_bytes",
    "check_batch",
    "check_columns",
    "check_increasing",
    "check_window",
    "empty_batch",
    "gather",
    "project",
    "rows_only",
    "take_any_order",
    "whole_vectors",
]

DEFAULT_BATCH_ROWS = 65_536

UNKNOWN_ROWS = -1
"""Rows of a foreign file before its footer has been read."""

Positions = npt.NDArray[np.uint64]
"""Row positions within one file, 0-based."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenFile:
    """One finished data file, as the manifest keeps it.

    Parameters
    ----------
    path
        The object's path below the store's root.
    format
        ``"parquet"`` or ``"vortex"``.
    rows
        Rows in the file.
    size
        Bytes of the whole object.
    layout
        What a reader needs to address rows without opening the footer (``spec/files.md``, FIL-4). Empty
        for files of foreign writers: the footer is read instead.
    """

    path: str
    format: str
    rows: int
    size: int
    layout: bytes


class FileWriter(Protocol):
    """Writes one data file from record batches; nothing is visible before :meth:`close` returns."""

    def write(self, batch: pa.RecordBatch) -> None:
        """Append the rows of ``batch``, whose schema must be the writer's own."""
        ...

    def close(self) -> WrittenFile:
        """Finish the file, make it visible and durable, and return what the manifest must keep of it."""
        ...

    def abort(self) -> None:
        """Give the file up; nothing becomes visible. Harmless after ``close`` or a second time."""
        ...


class FileReader(Protocol):
    """Reads one data file; safe to share between threads."""

    @property
    def rows(self) -> int:
        """Rows in the file."""
        ...

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema exactly as written."""
        ...

    def scan(
        self,
        columns: Sequence[str] | None = None,
        *,
        start: int = 0,
        stop: int | None = None,
        batch_rows: int = DEFAULT_BATCH_ROWS,
        dictionaries: bool = False,
    ) -> Iterator[pa.RecordBatch]:
        """Rows ``[start, stop)`` in order, as batches of at most ``batch_rows`` rows.

        With ``dictionaries``, columns of text may come as dictionaries with int32 codes, where they lie so in the
        file: batch by batch.
        """
        ...

    def take(self, positions: Positions, columns: Sequence[str] | None = None) -> pa.RecordBatch:
        """The rows at ``positions`` (strictly increasing), in that order, as one batch."""
        ...

    def verify(self) -> None:
        """Read the whole file and check all its checksums; CorruptionError names what is damaged."""
        ...


def take_any_order(
    reader: FileReader, positions: npt.ArrayLike, columns: Sequence[str] | None = None
) -> pa.RecordBatch:
    """The rows at ``positions``, which may repeat and come in any order.

    Each distinct row is read once; the result follows the order of ``positions``.
    """
    wanted = as_positions(positions)
    distinct, inverse = np.unique(wanted, return_inverse=True)
    batch = reader.take(distinct, columns)
    if len(distinct) == len(wanted) and bool((inverse[1:] > inverse[:-1]).all()):
        return batch
    return gather(batch, inverse.astype(np.int64))


def as_positions(positions: npt.ArrayLike) -> Positions:
    """``positions`` as a one-dimensional uint64 array; negative or fractional positions are refused."""
    array: npt.NDArray[Any] = np.asarray(positions)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise InvalidInputError(
            f"row positions must be a one-dimensional integer array, not {array.dtype} of {array.ndim} dimensions"
        )
    if array.dtype.kind == "i" and array.size and int(array.min()) < 0:
        raise InvalidInputError(f"row position {int(array.min())} is negative")
    return array.astype(np.uint64, copy=False)


def check_increasing(positions: Positions, rows: int, path: str) -> Positions:
    """``positions``, checked to be strictly increasing and below ``rows``."""
    positions = as_positions(positions)
    if positions.size:
        if int(positions[-1]) >= rows:
            raise InvalidInputError(f"row position {int(positions[-1])} is past the {rows} rows of {path!r}")
        if not bool((positions[1:] > positions[:-1]).all()):
            raise InvalidInputError(
                f"row positions for a take from {path!r} are not strictly increasing",
                fix="sort and deduplicate them, or use take_any_order",
            )
    return positions


def check_window(start: int, stop: int | None, rows: int, path: str) -> tuple[int, int]:
    """The row window ``[start, stop)`` with ``None`` filled in, checked against the file's ``rows``."""
    end = rows if stop is None else stop
    if not 0 <= start <= end <= rows:
        raise InvalidInputError(f"rows [{start}, {end}) are not within the {rows} rows of {path!r}")
    return start, end


def check_columns(columns: Sequence[str] | None, schema: pa.Schema, path: str) -> list[str]:
    """The column names to read, in the order asked for; all of them for ``None``."""
    if columns is None:
        return list(schema.names)
    for name in columns:
        if name not in schema.names:
            raise InvalidInputError(
                f"{path!r} has no column {name!r}", fix=f"its columns are {', '.join(schema.names)}"
            )
    if len(set(columns)) != len(columns):
        raise InvalidInputError(f"a column is asked for twice of {path!r}: {list(columns)}")
    return list(columns)


def project(schema: pa.Schema, columns: Sequence[str]) -> pa.Schema:
    """``schema`` narrowed to ``columns``, in their order, schema metadata kept."""
    return pa.schema([schema.field(name) for name in columns], metadata=schema.metadata)


def rows_only(count: int) -> pa.RecordBatch:
    """A batch of ``count`` rows without columns."""
    return pa.RecordBatch.from_struct_array(pa.Array.from_buffers(pa.struct([]), count, [None]))


def empty_batch(schema: pa.Schema) -> pa.RecordBatch:
    """A batch of ``schema`` without rows."""
    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)


def whole_vectors(column: pa.FixedSizeListArray, name: str, first_row: int) -> pa.Array:
    """The elements of the vectors that are not NULL, one after another.

    Raises
    ------
    InvalidInputError
        An element inside a vector is NULL.
    """
    flat = column.flatten()  # honours slices, and leaves out what lies under NULL vectors
    if flat.null_count:
        place = int(np.argmin(np.asarray(flat.is_valid())))
        row = int(np.flatnonzero(np.asarray(column.is_valid()))[place // column.type.list_size])
        raise InvalidInputError(
            f"column {name!r} has a NULL element in row {first_row + row}, element {place % column.type.list_size}",
            fix="a vector is either whole or NULL: fill the element or make the vector NULL",
        )
    return flat


def check_batch(batch: pa.RecordBatch, schema: pa.Schema, first_row: int, path: str) -> None:
    """Refuse a batch of another schema, or with a NULL in a column that forbids it.

    ``first_row`` is the position in the file of the batch's first row, for the message.
    """
    if not batch.schema.equals(schema):
        raise InvalidInputError(f"a batch of {batch.schema} does not fit {path!r}, which has {schema}")
    for field, column in zip(schema, batch.columns, strict=True):
        if not field.nullable and column.null_count:
            row = first_row + int(np.argmin(np.asarray(column.is_valid())))
            raise InvalidInputError(
                f"column {field.name!r} is not nullable, but row {row} is NULL", fix="fill the value in"
            )


def gather(batch: pa.RecordBatch, index: npt.NDArray[np.int64]) -> pa.RecordBatch:
    """The rows of ``batch`` at ``index``, in that order, for every type (pyarrow's take lacks string views)."""
    try:
        return batch.take(pa.array(index))
    except pa.ArrowNotImplementedError:
        if not len(index):
            return batch.slice(0, 0)
        breaks = np.flatnonzero(np.diff(index) != 1) + 1
        runs = zip(np.append(0, breaks).tolist(), np.append(breaks, len(index)).tolist(), strict=True)
        return pa.concat_batches([batch.slice(int(index[low]), high - low) for low, high in runs])


def batch_bytes(batch: pa.RecordBatch) -> int:
    """Bytes of the rows of ``batch``; of its whole buffers where pyarrow cannot tell (nested string views)."""
    try:
        return int(batch.nbytes)
    except pa.ArrowNotImplementedError:
        return int(batch.get_total_buffer_size())
