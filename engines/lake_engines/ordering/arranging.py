"""Rows on their way into fragments: parted by partition and brought into the table's order, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lake_engines.ordering.keys import PartitionKeys, RowKeys, keys_for
from lake_engines.ordering.sorting import ExternalSort
from lake_format.engine import WriteRequest
from lake_format.partitioning import Partition
from lake_format.properties import integer_property
from lake_format.row_ids import U64

__all__ = ["Arranger", "Piece"]

Piece = tuple[Partition | None, pa.RecordBatch]


class Arranger:
    """Gives rows back partition by partition, in order within each.

    Parameters
    ----------
    request
        Says how rows are parted and clustered.
    keys
        Another order than the request's, where its keys are not those of columns.

    Attributes
    ----------
    order
        Which of the rows handed in each row given back was; None until all were given, or where none moved.
    """

    def __init__(self, request: WriteRequest, keys: RowKeys | None = None) -> None:
        schema = request.schema
        limit = integer_property(request.properties, "write.max-partitions")
        self._schema = schema
        self._partitions = (
            PartitionKeys(request.partitioning, schema, limit) if request.partitioning else None
        )
        if keys is None and request.clustering is not None:
            keys = keys_for(request.clustering, schema)
        self._keys = _Keys([one for one in (self._partitions, keys) if one is not None])
        self._places: list[npt.NDArray[np.int64]] = []
        self.order: npt.NDArray[np.int64] | None = None

    def pieces(self, batches: Iterator[pa.RecordBatch]) -> Iterator[Piece]:
        """The rows, each batch of one partition."""
        if not self._keys.parts:
            for batch in batches:
                yield None, batch
            return
        with ExternalSort(self._schema, self._keys) as sort:
            for batch in batches:
                sort.add(batch)
            for rows in sort.rows():
                self._places.append(rows.places)
                yield from self._parted(rows.batch, rows.words[0])
        self.order = np.concatenate(self._places) if self._places else np.empty(0, np.int64)

    def _parted(self, batch: pa.RecordBatch, numbers: U64) -> Iterator[Piece]:
        if self._partitions is None:
            yield None, batch
            return
        starts = np.flatnonzero(np.r_[True, numbers[1:] != numbers[:-1]])
        for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(numbers)], strict=True):
            yield self._partitions.partitions[int(numbers[start])], batch.slice(start, stop - start)


class _Keys:
    """Several keys one after the other."""

    def __init__(self, parts: Sequence[RowKeys]) -> None:
        self.parts = parts

    def fit(self, batches: Sequence[pa.RecordBatch]) -> None:
        for part in self.parts:
            part.fit(batches)

    def keys(self, batch: pa.RecordBatch, start: int) -> list[U64]:
        return [word for part in self.parts for word in part.keys(batch, start)]
