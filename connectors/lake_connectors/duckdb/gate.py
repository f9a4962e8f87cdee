"""Counting the neighbours that pass DuckDB's own filters, so that a scan knows when to stop and which to keep.

The k nearest rows *that match* cannot be found by a scan alone when DuckDB keeps part of the WHERE for itself
(LIKE, functions, arithmetic). So the scan hands out rows in distance order, ever further; each carries a number
(`_gate`); the rows that pass DuckDB's filters are reported by :func:`mark_rows`, a function that DuckDB calls on
the build side of a hash join; and the probe side of that join, read only after the build side is complete, lists
the numbers of the first k that passed. Nothing here depends on the order in which threads work.

`_gate` is an array, not a number, because DuckDB holds back small chunks of plain values after a filter, and then
the scan would learn too late that enough rows passed.
"""

from __future__ import annotations

import threading
import weakref
from itertools import count

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["GATE_TYPE", "MARK_FUNCTION", "RANK_BITS", "Passage", "mark_rows"]

GATE_TYPE = pa.list_(pa.int64(), 2)
"""Passage and rank of a row."""

MARK_FUNCTION = "lake_mark_row"
RANK_BITS = 38
"""Ranks below 2^38 and passages below 2^25 make up a number; both are far beyond what one process reaches."""

_numbers = count(1)
_open: weakref.WeakValueDictionary[int, Passage] = weakref.WeakValueDictionary()


class Passage:
    """One scan's rows on their way through DuckDB's filters.

    Parameters
    ----------
    k
        Rows wanted; None is all.
    """

    def __init__(self, k: int | None) -> None:
        self.k = k
        self.finished = False
        self._number = next(_numbers)
        self._handed_out = 0
        self._passed: list[npt.NDArray[np.int64]] = []
        self._count = 0
        self._changed = threading.Condition()
        _open[self._number] = self

    @property
    def passed(self) -> int:
        """How many rows are known to have passed."""
        return self._count

    @property
    def enough(self) -> bool:
        """Whether k rows are known to have passed."""
        return self.k is not None and self._count >= self.k

    def gates(self, rows: int) -> pa.Array:
        """The gate column of the next rows handed out."""
        values = np.empty((rows, 2), np.int64)
        values[:, 0] = self._number
        values[:, 1] = np.arange(self._handed_out, self._handed_out + rows)
        self._handed_out += rows
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 2)

    def report(self, ranks: npt.NDArray[np.int64]) -> None:
        """Note rows that passed."""
        with self._changed:
            self._passed.append(ranks)
            self._count += len(ranks)
            self._changed.notify_all()

    def wait_enough(self, seconds: float) -> bool:
        """Give other threads a moment to report; whether enough rows have passed."""
        with self._changed:
            return self._changed.wait_for(lambda: self.enough, seconds)

    def kept(self) -> npt.NDArray[np.int64]:
        """The numbers of the first k rows that have passed by now, nearest first.

        All have, once the build side of the passage's own join is complete. The join of another search with the same
        text may ask before, and has no use for the answer.
        """
        with self._changed:
            passed = np.sort(np.concatenate(self._passed)) if self._passed else np.empty(0, np.int64)
            self._passed = [passed[: self.k]]
            return self._passed[0] | (self._number << RANK_BITS)


def mark_rows(gates: pa.ChunkedArray) -> pa.Array:
    """Report rows as passed and return their numbers; DuckDB calls this as ``lake_mark_row(_gate)``."""
    array = gates.combine_chunks() if isinstance(gates, pa.ChunkedArray) else gates
    pairs = array.flatten().to_numpy(zero_copy_only=False).reshape(-1, 2)
    numbers, ranks = pairs[:, 0], pairs[:, 1]
    for number in np.unique(numbers):
        passage = _open.get(int(number))
        if passage is not None:
            passage.report(ranks[numbers == number].copy())
    return pa.array((numbers << RANK_BITS) | ranks)
