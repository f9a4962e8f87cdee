"""Sort keys of rows: their partition, and their place in the order that a table's rows are brought into.

A key is a few unsigned words a row. Places along a curve are taken over quantiles of a sample of the values, so that
skewed columns are cut as finely as even ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lake_engines.ordering.curves import hilbert, zorder
from lake_engines.ordering.values import nulls_of, ordered, words_of
from lake_format.clustering import Clustering
from lake_format.errors import InvalidInputError
from lake_format.partitioning import Partition, PartitionSpec, partition_of
from lake_format.row_ids import U64
from lake_format.schema import field_by_id

__all__ = ["CurveKeys", "LinearKeys", "PartitionKeys", "RankKeys", "RowKeys", "keys_for"]

_MOST_BITS = 16
_SAMPLE_ROWS = 1 << 17


class RowKeys(Protocol):
    """Gives rows the words they are sorted by."""

    def fit(self, batches: Sequence[pa.RecordBatch]) -> None:
        """Look at the first rows, before any keys are asked for."""
        ...

    def keys(self, batch: pa.RecordBatch, start: int) -> list[U64]:
        """The words of each row, the most significant first; ``start`` is the place of the first row."""
        ...


class PartitionKeys:
    """Numbers the partitions that rows fall into, in the order in which they are met.

    Parameters
    ----------
    limit
        More partitions are refused: each is at least one fragment.
    """

    def __init__(self, spec: PartitionSpec, schema: pa.Schema, limit: int) -> None:
        self._spec = spec
        self._columns = []
        for field in spec.fields:
            column = field_by_id(schema, field.source_id)
            if column is None:
                raise InvalidInputError(
                    f"the table is partitioned by field {field.source_id}, which it lacks"
                )
            self._columns.append((field.transform, schema.names.index(column.name)))
        self._shown = ", ".join(spec.shown(schema))
        self._limit = limit
        self._numbers: dict[Partition, int] = {}
        self.partitions: list[Partition] = []

    def fit(self, batches: Sequence[pa.RecordBatch]) -> None:
        """Nothing to learn."""

    def keys(self, batch: pa.RecordBatch, start: int) -> list[U64]:
        """The number of each row's partition."""
        results = [transform.apply(batch.column(index)) for transform, index in self._columns]
        combined = np.zeros(batch.num_rows, np.int64)
        for result in results:
            codes = result.dictionary_encode(null_encoding="encode").indices.to_numpy().astype(np.int64)
            _, combined = np.unique(combined * (int(codes.max(initial=0)) + 1) + codes, return_inverse=True)
        _, first, inverse = np.unique(combined, return_index=True, return_inverse=True)
        numbers = [self._number([result[int(at)] for result in results]) for at in first.tolist()]
        return [np.array(numbers, np.uint64)[inverse]]

    def _number(self, values: Iterable[pa.Scalar]) -> int:
        partition = partition_of(self._spec, values)
        known = self._numbers.get(partition)
        if known is None:
            known = self._numbers[partition] = len(self.partitions)
            self.partitions.append(partition)
            if known >= self._limit:
                raise InvalidInputError(
                    f"the rows fall into more than {self._limit:,} partitions by {self._shown}",
                    fix="partition more coarsely, write fewer partitions at once, or raise the property "
                    "write.max-partitions",
                )
        return known


class LinearKeys:
    """Rows by one column after the other, NULLs last."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns

    def fit(self, batches: Sequence[pa.RecordBatch]) -> None:
        """Nothing to learn."""

    def keys(self, batch: pa.RecordBatch, start: int) -> list[U64]:
        """For each column whether it is NULL, then its value."""
        words: list[U64] = []
        for name in self._columns:
            null = nulls_of(batch.column(name)).astype(np.uint64)
            values = [np.where(null, np.uint64(0), word) for word in words_of(ordered(batch.column(name)))]
            words += [null, *values]
        return words


class CurveKeys:
    """Rows along a space-filling curve through the quantiles of several columns."""

    def __init__(self, columns: Sequence[str], method: str) -> None:
        self._columns = columns
        self._curve = hilbert if method == "hilbert" else zorder
        self._bits = min(_MOST_BITS, 64 // len(columns))
        self._quantiles: list[npt.NDArray[np.generic]] = []

    def fit(self, batches: Sequence[pa.RecordBatch]) -> None:
        """Take the quantiles of a sample, unless they are known."""
        if self._quantiles:
            return
        step = max(1, sum(batch.num_rows for batch in batches) // _SAMPLE_ROWS)
        for name in self._columns:
            parts = []
            for batch in batches:
                column = batch.column(name)
                values, valid = ordered(column), ~nulls_of(column)
                parts.append(values[valid][::step])
            self._quantiles.append(self._cuts(np.sort(np.concatenate(parts))))

    def _cuts(self, values: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        count = (1 << self._bits) - 2  # the last place is for NULL
        if len(values) > count:
            values = values[np.linspace(0, len(values) - 1, count).astype(np.int64)]
        return np.unique(values)

    def keys(self, batch: pa.RecordBatch, start: int) -> list[U64]:
        """The place of each row along the curve."""
        axes = []
        for name, quantiles in zip(self._columns, self._quantiles, strict=True):
            column = batch.column(name)
            rank = np.searchsorted(quantiles, ordered(column), side="right").astype(np.uint64)
            spread = rank * np.uint64((1 << self._bits) - 2) // np.uint64(max(len(quantiles), 1))
            axes.append(np.where(nulls_of(column), np.uint64((1 << self._bits) - 1), spread))
        return [self._curve(axes, self._bits)]


class RankKeys:
    """Rows by ranks that were worked out beforehand."""

    def __init__(self, ranks: U64) -> None:
        self._ranks = ranks

    def fit(self, batches: Sequence[pa.RecordBatch]) -> None:
        """Nothing to learn."""

    def keys(self, batch: pa.RecordBatch, start: int) -> list[U64]:
        """The rank of each row."""
        return [self._ranks[start : start + batch.num_rows]]


def keys_for(clustering: Clustering, schema: pa.Schema) -> RowKeys:
    """The keys of an order by columns."""
    names = [field.name for one in clustering.field_ids if (field := field_by_id(schema, one)) is not None]
    return LinearKeys(names) if clustering.method == "linear" else CurveKeys(names, clustering.method)
