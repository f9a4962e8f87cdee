"""What became of the rows between two versions, by row id: added, removed, changed.

Works on runs of row ids, so that its cost follows the fragments and not the rows; values are compared in batches,
and only those of rows that may have changed (spec/versions.md, VER-8).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lake_format.log import ExpiredError, VersionLog
from lake_format.model import Fragment
from lake_format.operation_record import OperationRecord
from lake_format.row_ids import U64
from lake_format.row_runs import RowRuns
from lake_format.schema import field_id
from lake_format.snapshot import Snapshot, deleted_positions

__all__ = ["VersionDifference", "difference"]

_BATCH_ROWS = 8192
_REPLACES = frozenset({"restore"})
Take = Callable[[Snapshot, U64, tuple[str, ...]], pa.Table]
Runs = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""First row ids and the ids after the last, ascending and disjoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionDifference:
    """Row ids that differ between two versions, each ascending, shape ``(n,)``.

    Attributes
    ----------
    added, removed
        Rows that only the later, or only the earlier version has.
    changed
        Rows of both with another value in a column of both.
    """

    added: U64
    removed: U64
    changed: U64


def difference(old: Snapshot, new: Snapshot, log: VersionLog, take: Take) -> VersionDifference:
    """Compare two versions of one table; either may be the later one.

    Parameters
    ----------
    take
        Reads rows by row id.
    """
    before, after = _live(old), _live(new)
    common = _without(after, _without(after, before))
    names = _common_columns(old, new)
    changed = [
        ids[_differing(take(old, ids, names[0]), take(new, ids, names[1]))]
        for ids in _suspects(old, new, common, _told(old, new, log))
        if names[0]
    ]
    return VersionDifference(
        added=_ids(_without(after, before)),
        removed=_ids(_without(before, after)),
        changed=np.sort(np.concatenate(changed)) if changed else np.empty(0, np.uint64),
    )


def _live(snapshot: Snapshot) -> Runs:
    first, length, _, _ = snapshot.locations.runs
    starts = first.astype(np.int64)
    return starts, starts + length


def _without(runs: Runs, others: Runs) -> Runs:
    """The parts of runs that are in none of the others: a sweep over both boundaries."""
    starts, stops = runs
    edges = np.concatenate([starts, stops, others[0], others[1]])
    step = np.repeat([1, -1, -2, 2], [len(starts), len(stops), len(others[0]), len(others[1])])
    order = np.argsort(edges, kind="stable")
    edges, depth = edges[order], np.cumsum(step[order])
    inside = np.append((depth[:-1] == 1) & (edges[1:] > edges[:-1]), False) if len(edges) else edges > 0
    at = np.flatnonzero(inside)
    return edges[at], edges[at + 1]


def _ids(runs: Runs) -> U64:
    lengths = runs[1] - runs[0]
    ends = np.cumsum(lengths)
    within = np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - lengths, lengths)
    return np.asarray(np.repeat(runs[0], lengths) + within, np.uint64)


def _common_columns(old: Snapshot, new: Snapshot) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names in either version of the columns that both have."""
    before = {field_id(field): field.name for field in old.schema}
    pairs = [(before[field_id(field)], field.name) for field in new.schema if field_id(field) in before]
    return tuple(one for one, _ in pairs), tuple(two for _, two in pairs)


def _told(old: Snapshot, new: Snapshot, log: VersionLog) -> RowRuns | None:
    """All rows that commits between the versions say they updated; None where they cannot tell."""
    low, high = sorted((old.version.version, new.version.version))
    ids: list[tuple[int, int]] = []
    for number in range(low + 1, high + 1):
        try:
            records = [OperationRecord.from_json(raw) for raw in log.read(number).operations]
        except ExpiredError:
            return None
        for record in records:
            if record.kind in _REPLACES:
                return None
            ids += record.rows_updated.runs
    merged: list[tuple[int, int]] = []
    for first, count in sorted(ids):
        if merged and first <= merged[-1][0] + merged[-1][1]:
            end = max(first + count, merged[-1][0] + merged[-1][1])
            merged[-1] = (merged[-1][0], end - merged[-1][0])
        else:
            merged.append((first, count))
    return RowRuns(tuple(merged))


def _suspects(old: Snapshot, new: Snapshot, common: Runs, told: RowRuns | None) -> Iterator[U64]:
    """Rows of both versions that may have other values, in batches."""
    known = None if told is None else np.array(told.runs, np.int64).reshape(-1, 2)
    for fragment in new.fragments.fragments():
        earlier = old.fragments.by_id(fragment.fragment_id)
        if earlier is not None and earlier.holds_what(fragment):
            ids = _revived_ids(earlier, fragment)  # the others lie where they lay
        else:
            ids = _live_ids(fragment)
        ids = ids[_within(ids, common)]
        if known is not None:
            ids = ids[_within(ids, (known[:, 0], known[:, 0] + known[:, 1]))]
        for start in range(0, len(ids), _BATCH_ROWS):
            yield ids[start : start + _BATCH_ROWS]


def _live_ids(fragment: Fragment) -> U64:
    live = np.ones(fragment.row_count, bool)
    live[deleted_positions(fragment).astype(np.int64)] = False
    return np.asarray(fragment.row_ids()[live], np.uint64)


def _revived_ids(earlier: Fragment, fragment: Fragment) -> U64:
    """Rows that live in this entry of the fragment and not in the other."""
    if earlier.deletions is None or earlier.deletions == fragment.deletions:
        return np.empty(0, np.uint64)
    positions = np.setdiff1d(deleted_positions(earlier), deleted_positions(fragment))
    return np.asarray(fragment.row_ids()[positions.astype(np.int64)], np.uint64)


def _within(ids: U64, runs: Runs) -> npt.NDArray[np.bool_]:
    if len(runs[0]) == 0:
        return np.zeros(len(ids), bool)
    at = np.searchsorted(runs[0], ids.astype(np.int64), side="right") - 1
    return np.asarray((at >= 0) & (ids.astype(np.int64) < runs[1][at]))


def _differing(old: pa.Table, new: pa.Table) -> npt.NDArray[np.bool_]:
    found = np.zeros(new.num_rows, bool)
    for before, after in zip(old.columns, new.columns, strict=True):
        same_type = before if before.type == after.type else before.cast(after.type)
        _mark(_bits(same_type.combine_chunks()), _bits(after.combine_chunks()), 0, found)
    return found


def _bits(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Numbers with a fraction as the integers of their bits, so that NaN equals NaN."""
    if pa.types.is_floating(column.type):
        return column.view({16: pa.int16(), 32: pa.int32(), 64: pa.int64()}[column.type.bit_width])
    return column


def _mark(old: pa.Array, new: pa.Array, start: int, found: npt.NDArray[np.bool_]) -> None:
    """Mark rows that differ, by halving what is not equal as a whole: works for every type."""
    if len(new) == 0 or old.equals(new):
        return
    if len(new) == 1:
        found[start] = True
        return
    half = len(new) // 2
    _mark(old.slice(0, half), new.slice(0, half), start, found)
    _mark(old.slice(half), new.slice(half), start + half, found)
