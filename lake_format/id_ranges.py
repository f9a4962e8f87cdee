"""Sets of row ids as arrays of ranges, and set arithmetic on them whose cost follows the ranges, not the rows.

For sets as large as a table; :class:`lake_format.row_runs.RowRuns` is the small form that records store.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from lake_format.row_ids import U64
from lake_format.row_runs import RowRuns

__all__ = ["NOTHING", "IdRanges", "common", "from_ids", "from_runs", "ids_of", "union", "within", "without"]

IdRanges = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""First row ids, and the ids after the last: ascending and disjoint; shape ``(ranges,)`` each."""
NOTHING: IdRanges = (np.empty(0, np.int64), np.empty(0, np.int64))


def from_ids(ids: U64) -> IdRanges:
    """The set of these row ids, given in any order, without repeats."""
    return from_runs(RowRuns.from_ids(ids))


def from_runs(runs: RowRuns) -> IdRanges:
    """The set of a record."""
    starts = runs.first.astype(np.int64)
    return starts, starts + runs.count.astype(np.int64)


def union(sets: Iterable[IdRanges]) -> IdRanges:
    """The set of what is in any of these, which may share nothing or much; touching ranges become one."""
    parts = list(sets)
    starts = np.concatenate([NOTHING[0], *(one[0] for one in parts)])
    stops = np.concatenate([NOTHING[1], *(one[1] for one in parts)])
    if len(starts) == 0:
        return NOTHING
    order = np.argsort(starts, kind="stable")
    starts, reach = starts[order], np.maximum.accumulate(stops[order])
    first = np.flatnonzero(np.r_[True, starts[1:] > reach[:-1]])
    return starts[first], reach[np.r_[first[1:] - 1, len(starts) - 1]]


def without(ranges: IdRanges, others: IdRanges) -> IdRanges:
    """The set without others: a sweep over both boundaries."""
    starts, stops = ranges
    edges = np.concatenate([starts, stops, others[0], others[1]])
    step = np.repeat([1, -1, -2, 2], [len(starts), len(stops), len(others[0]), len(others[1])])
    order = np.argsort(edges, kind="stable")
    edges, depth = edges[order], np.cumsum(step[order])
    inside = np.append((depth[:-1] == 1) & (edges[1:] > edges[:-1]), False) if len(edges) else edges > 0
    at = np.flatnonzero(inside)
    return edges[at], edges[at + 1]


def common(ranges: IdRanges, others: IdRanges) -> IdRanges:
    """What two sets share."""
    return without(ranges, without(ranges, others))


def ids_of(ranges: IdRanges) -> U64:
    """Every row id of the set, ascending; shape ``(rows,)``."""
    lengths = ranges[1] - ranges[0]
    ends = np.cumsum(lengths)
    within = np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - lengths, lengths)
    return np.asarray(np.repeat(ranges[0], lengths) + within, np.uint64)


def within(ids: U64, ranges: IdRanges) -> npt.NDArray[np.bool_]:
    """Which row ids the set holds; shape of ``ids``."""
    if len(ranges[0]) == 0:
        return np.zeros(len(ids), bool)
    at = np.searchsorted(ranges[0], ids.astype(np.int64), side="right") - 1
    return np.asarray((at >= 0) & (ids.astype(np.int64) < ranges[1][at]))
