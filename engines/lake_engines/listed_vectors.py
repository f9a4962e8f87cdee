"""The vectors of a column that a Parquet file holds as lists among other columns, read by position like all others.

Files of the open layout are of this kind: once it is known which vectors are NULL, the offset index tells where each
other lies. Before that, and in foreign files, pages are decoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lake_engines.evolution.projection import Projection
from lake_engines.files.base import check_increasing
from lake_engines.files.parquet_reader import ParquetReader
from lake_format.errors import CorruptionError

__all__ = ["ListedVectors"]

_I64 = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.floating[Any]]
_Valid = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Lying:
    """Pages that end with their vectors, one after another without the NULL ones.

    Attributes
    ----------
    first, offsets, lengths
        First row, offset and length of each page.
    nulls
        Rows with a NULL vector, ascending.
    rows, width
        Of the file; bytes of a vector.
    """

    first: _I64
    offsets: _I64
    lengths: _I64
    nulls: _I64
    rows: int
    width: int

    def valid(self, rows: _I64) -> _Valid | None:
        """Which of the rows have a vector; None for all."""
        found = np.isin(rows, self.nulls, invert=True) if len(self.nulls) else None
        return None if found is None or found.all() else found

    def ranges(self, rows: _I64) -> tuple[_I64, _I64]:
        """Offset and length of the vector of each row, none of them NULL."""
        return self._offset(np.searchsorted(self.first, rows, "right") - 1, rows), np.full(
            len(rows), self.width
        )

    def runs(self, low: int, high: int) -> tuple[_I64, _I64]:
        """Offset and length of all vectors of rows ``[low, high)``, page by page."""
        pages = np.arange(np.searchsorted(self.first, low, "right") - 1, np.searchsorted(self.first, high))
        begin = np.maximum(self.first[pages], low)
        end = np.append(begin[1:], high)
        return self._offset(pages, begin), self._count(begin, end) * self.width

    def _offset(self, pages: _I64, rows: _I64) -> _I64:
        """Where the first vector from each row on is, in the page that it is in."""
        first = self.first[pages]
        held = self._count(first, np.append(self.first, self.rows)[pages + 1]) * self.width
        if (held > self.lengths[pages]).any():
            raise CorruptionError("pages of a Parquet file are too short for their vectors")
        ends = self.offsets[pages] + self.lengths[pages]
        return ends - held + self._count(first, rows) * self.width

    def _count(self, begin: _I64, end: _I64) -> _I64:
        """How many vectors rows ``[begin, end)`` have."""
        return end - begin - np.searchsorted(self.nulls, end) + np.searchsorted(self.nulls, begin)


class ListedVectors:
    """Vectors of one file.

    Parameters
    ----------
    reader, name
        The file and the column's name in it.
    project
        Makes vectors of what the file holds; refuses lists of another length.
    kind
        The column's type in the table.
    is_local
        Whether the file is memory-mapped, not fetched.
    is_own
        Whether a writer of this format wrote the file, all lists of the column's dimension and type.
    """

    def __init__(
        self,
        reader: ParquetReader,
        name: str,
        project: Projection,
        kind: pa.DataType,
        *,
        is_local: bool,
        is_own: bool,
    ) -> None:
        self._reader = reader
        self._name = name
        self._project = project
        self._dimension = int(kind.list_size)
        self.is_local = is_local
        self._is_own = is_own
        self._found: _Lying | None = None
        self.dtype: np.dtype[Any] = np.dtype(kind.value_type.to_pandas_dtype())

    @property
    def null_count(self) -> int:
        """NULL vectors in the file."""
        return len(self.nulls())

    def nulls(self) -> npt.NDArray[np.uint64]:
        """Sorted positions of the NULL vectors."""
        return np.empty(0, np.uint64) if self._is_full else self._reader.null_rows(self._name)

    @cached_property
    def _is_full(self) -> bool:
        """Whether it is known that no vector is NULL: a NULL counts as one value, a vector as its dimension."""
        values = self._reader.rows * self._dimension
        return self._dimension > 1 and self._reader.value_count(self._name) == values

    @property
    def _lying(self) -> _Lying | None:
        """Where the vectors lie, once it is known which are NULL; None where they have to be decoded."""
        if self._found is None and self._is_own and (self._is_full or self._reader.knows_nulls(self._name)):
            pages = self._reader.value_pages(self._name)
            if pages is not None:
                width = self._dimension * self.dtype.itemsize
                nulls = self.nulls().astype(np.int64)
                self._found = _Lying(*pages, nulls, self._reader.rows, width)
        return self._found

    def take_vectors(self, positions: npt.ArrayLike) -> tuple[_Floats, _Valid | None]:
        """The vectors at ``positions``, in any order, repeats allowed; zeros and False for NULL vectors."""
        distinct, inverse = np.unique(np.asarray(positions).astype(np.uint64), return_inverse=True)
        lying = self._lying
        if lying is not None:
            rows = check_increasing(distinct, self._reader.rows, self._name).astype(np.int64)
            valid = lying.valid(rows)
            vectors = self._placed(lying.ranges(rows if valid is None else rows[valid]), len(rows), valid)
        else:
            vectors, valid = self._decoded(self._reader.take(distinct, [self._name]))
        return vectors[inverse], None if valid is None else valid[inverse]

    def chunks(
        self, *, start: int = 0, stop: int | None = None, batch_rows: int
    ) -> Iterator[tuple[int, _Floats, _Valid | None]]:
        """The vectors of rows ``[start, stop)``, block by block: first position, vectors, which are there."""
        lying = self._lying
        if lying is not None:
            end = self._reader.rows if stop is None else stop
            for low in range(start, end, batch_rows):
                high = min(low + batch_rows, end)
                valid = lying.valid(np.arange(low, high))
                yield low, self._placed(lying.runs(low, high), high - low, valid), valid
            return
        first = start
        for batch in self._reader.scan([self._name], start=start, stop=stop, batch_rows=batch_rows):
            yield first, *self._decoded(batch)
            first += batch.num_rows

    def _placed(self, ranges: tuple[_I64, _I64], rows: int, valid: _Valid | None) -> _Floats:
        """Vectors read from ranges, each in its row; zeros for those that are NULL."""
        offsets, lengths = ranges
        data = self._reader.read_places(offsets.tolist(), lengths.tolist())
        found = np.frombuffer(data, self.dtype).reshape(-1, self._dimension)
        if valid is None:
            return found
        vectors = np.zeros((rows, self._dimension), self.dtype)
        vectors[valid] = found
        return vectors

    def _decoded(self, batch: pa.RecordBatch) -> tuple[_Floats, _Valid | None]:
        array = self._project(batch.column(0))
        size = self._dimension
        values = array.values.slice(array.offset * size, len(array) * size)
        if not array.null_count:
            return values.to_numpy(zero_copy_only=False).reshape(-1, size), None
        valid = array.is_valid().to_numpy(zero_copy_only=False)
        vectors = np.zeros((len(array), size), self.dtype)
        vectors[valid] = array.flatten().to_numpy(zero_copy_only=False).reshape(-1, size)
        return vectors, valid
