"""The vectors of a column that a Parquet file holds as lists among other columns, read by position like all others.

Files of the open layout are of this kind: where none of their vectors is NULL, the offset index tells where each is.
Elsewhere, and in foreign files, pages are decoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lake_engines.evolution.projection import Projection
from lake_engines.files.base import check_increasing
from lake_engines.files.parquet_reader import ParquetReader

__all__ = ["ListedVectors"]

_I64 = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.floating[Any]]
_Valid = npt.NDArray[np.bool_]
_BATCH_ROWS = 4096


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
        self.dtype: np.dtype[Any] = np.dtype(kind.value_type.to_pandas_dtype())

    @property
    def null_count(self) -> int:
        """NULL vectors in the file."""
        return len(self._nulls)

    def nulls(self) -> npt.NDArray[np.uint64]:
        """Sorted positions of the NULL vectors."""
        return self._nulls

    @cached_property
    def _nulls(self) -> npt.NDArray[np.uint64]:
        if self._is_full:
            return np.empty(0, np.uint64)
        found = [
            first + np.flatnonzero(~valid)
            for first, _, valid in self.chunks(batch_rows=_BATCH_ROWS)
            if valid is not None
        ]
        return np.concatenate([np.empty(0, np.int64), *found]).astype(np.uint64)

    @cached_property
    def _is_full(self) -> bool:
        """Whether it is known that no vector is NULL: a NULL counts as one value, a vector as its dimension."""
        values = self._reader.rows * self._dimension
        return self._dimension > 1 and self._reader.value_count(self._name) == values

    @cached_property
    def _places(self) -> tuple[_I64, _I64] | None:
        """First row, and offset of the first vector, of each page whose vectors lie there as they are."""
        if not self._is_own or not self._is_full:
            return None
        return self._reader.value_places(self._name, self._width)

    @property
    def _width(self) -> int:
        return self._dimension * self.dtype.itemsize

    def take_vectors(self, positions: npt.ArrayLike) -> tuple[_Floats, _Valid | None]:
        """The vectors at ``positions``, in any order, repeats allowed; zeros and False for NULL vectors."""
        distinct, inverse = np.unique(np.asarray(positions).astype(np.uint64), return_inverse=True)
        if self._places is not None:
            first, offsets = self._places
            rows = check_increasing(distinct, self._reader.rows, self._name).astype(np.int64)
            pages = np.searchsorted(first, rows, "right") - 1
            found = offsets[pages] + (rows - first[pages]) * self._width
            return self._read(found.tolist(), [self._width] * len(rows))[inverse], None
        vectors, valid = self._decoded(self._reader.take(distinct, [self._name]))
        return vectors[inverse], None if valid is None else valid[inverse]

    def chunks(
        self, *, start: int = 0, stop: int | None = None, batch_rows: int
    ) -> Iterator[tuple[int, _Floats, _Valid | None]]:
        """The vectors of rows ``[start, stop)``, block by block: first position, vectors, which are there."""
        if self._places is not None:
            yield from self._plain_chunks(start, self._reader.rows if stop is None else stop, batch_rows)
            return
        first = start
        for batch in self._reader.scan([self._name], start=start, stop=stop, batch_rows=batch_rows):
            yield first, *self._decoded(batch)
            first += batch.num_rows

    def _plain_chunks(
        self, start: int, stop: int, batch_rows: int
    ) -> Iterator[tuple[int, _Floats, _Valid | None]]:
        assert self._places is not None
        first, offsets = self._places
        for low in range(start, stop, batch_rows):
            high = min(low + batch_rows, stop)
            pages = np.arange(np.searchsorted(first, low, "right") - 1, np.searchsorted(first, high))
            begin = np.maximum(first[pages], low)
            end = np.minimum(np.append(first[pages[1:]], high), high)
            found = offsets[pages] + (begin - first[pages]) * self._width
            yield low, self._read(found.tolist(), ((end - begin) * self._width).tolist()), None

    def _read(self, offsets: list[int], lengths: list[int]) -> _Floats:
        data = self._reader.read_places(offsets, lengths)
        return np.frombuffer(data, self.dtype).reshape(-1, self._dimension)

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
