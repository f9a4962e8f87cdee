"""What became of the rows between two versions, by row id: added, removed, changed.

Works on runs of row ids, so that its cost follows the fragments and not the rows; values are compared in batches,
and only those of rows that may have changed (spec/versions.md, VER-8).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lake_format.id_ranges import IdRanges, from_runs, ids_of, union, within, without
from lake_format.log import ExpiredError, VersionLog
from lake_format.model import Fragment
from lake_format.operation_record import OperationRecord
from lake_format.positions import deleted_positions
from lake_format.row_compare import common_columns, differing, names_of
from lake_format.row_ids import U64
from lake_format.snapshot import Snapshot

__all__ = ["VersionDifference", "difference"]

_BATCH_ROWS = 8192
_REPLACES = frozenset({"restore"})
Take = Callable[[Snapshot, U64, tuple[str, ...]], pa.Table]


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
    common = without(after, without(after, before))
    pairs = common_columns(old.schema, new.schema)
    changed = [
        ids[differing(take(old, ids, names_of(pairs, 0)), take(new, ids, names_of(pairs, 1)), pairs)]
        for ids in _suspects(old, new, common, _told(old, new, log))
        if pairs
    ]
    return VersionDifference(
        added=ids_of(without(after, before)),
        removed=ids_of(without(before, after)),
        changed=np.sort(np.concatenate(changed)) if changed else np.empty(0, np.uint64),
    )


def _live(snapshot: Snapshot) -> IdRanges:
    first, length, _, _ = snapshot.locations.runs
    starts = first.astype(np.int64)
    return starts, starts + length


def _told(old: Snapshot, new: Snapshot, log: VersionLog) -> IdRanges | None:
    """All rows that commits between the versions say they updated; None where they cannot tell."""
    low, high = sorted((old.version.version, new.version.version))
    parts: list[IdRanges] = []
    for number in range(low + 1, high + 1):
        try:
            records = [OperationRecord.from_json(raw) for raw in log.read(number).operations]
        except ExpiredError:
            return None
        for record in records:
            if record.kind in _REPLACES:
                return None
            parts.append(from_runs(record.rows_updated))
    return union(parts)


def _suspects(old: Snapshot, new: Snapshot, common: IdRanges, told: IdRanges | None) -> Iterator[U64]:
    """Rows of both versions that may have other values, in batches."""
    for fragment in new.fragments.fragments():
        earlier = old.fragments.by_id(fragment.fragment_id)
        if earlier is not None and earlier.holds_what(fragment):
            ids = _revived_ids(earlier, fragment)  # the others lie where they lay
        else:
            ids = _live_ids(fragment)
        ids = ids[within(ids, common)]
        if told is not None:
            ids = ids[within(ids, told)]
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
