"""The vectors of a column that a file holds as lists among others: decoded, as nothing tells where each of them lies.

Foreign files are of this kind, and those of the open layout. They are read by position like all others, page by page;
only their bytes cannot be computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lake_engines.evolution.projection import Projection
from lake_engines.files.parquet_reader import ParquetReader

__all__ = ["ListedVectors"]

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
    """

    def __init__(
        self, reader: ParquetReader, name: str, project: Projection, kind: pa.DataType, *, is_local: bool
    ) -> None:
        self._reader = reader
        self._name = name
        self._project = project
        self._dimension = int(kind.list_size)
        self.is_local = is_local
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
        rows = self._reader.rows
        if self._dimension > 1 and self._reader.value_count(self._name) == rows * self._dimension:
            return np.empty(0, np.uint64)  # a NULL counts as one value, a vector as its dimension
        found = [
            first + np.flatnonzero(~valid)
            for first, _, valid in self.chunks(batch_rows=_BATCH_ROWS)
            if valid is not None
        ]
        return np.concatenate([np.empty(0, np.int64), *found]).astype(np.uint64)

    def take_vectors(self, positions: npt.ArrayLike) -> tuple[_Floats, _Valid | None]:
        """The vectors at ``positions``, in any order, repeats allowed; zeros and False for NULL vectors."""
        distinct, inverse = np.unique(np.asarray(positions).astype(np.uint64), return_inverse=True)
        vectors, valid = self._decoded(self._reader.take(distinct, [self._name]))
        return vectors[inverse], None if valid is None else valid[inverse]

    def chunks(
        self, *, start: int = 0, stop: int | None = None, batch_rows: int
    ) -> Iterator[tuple[int, _Floats, _Valid | None]]:
        """The vectors of rows ``[start, stop)``, block by block: first position, vectors, which are there."""
        first = start
        for batch in self._reader.scan([self._name], start=start, stop=stop, batch_rows=batch_rows):
            yield first, *self._decoded(batch)
            first += batch.num_rows

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
