"""Which rows one commit inserted, deleted or may have updated: from the manifests of two neighbouring versions.

Looks at fragment entries that only one of the versions has, and reads no data files: its cost follows the commit,
not the table (spec/versions.md, VER-12).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lake_format.id_ranges import NOTHING, IdRanges, common, from_ids, from_runs, union, without
from lake_format.manifest import FragmentTable
from lake_format.manifest_set import ManifestSet
from lake_format.model import Fragment, Version
from lake_format.operation_record import OperationRecord
from lake_format.positions import deleted_positions
from lake_format.row_ids import U64
from lake_format.row_locations import RowLocations
from lake_format.snapshot import Snapshot

__all__ = ["CommitChanges", "all_changes_of", "changes_of"]

_TELLS_NO_ROWS = frozenset({"restore"})
"""Operations whose records do not name the rows they gave other values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitChanges:
    """What one commit did to rows.

    Attributes
    ----------
    gone, came
        Entries of fragments before the commit that it removed or replaced, and those it put in.
    deleted, inserted
        Rows that lived only before, or only after it.
    suspects
        Rows that lived before and after it and may have other values.
    fields
        Ids of fields that may have other values; None where any may.
    """

    gone: FragmentTable
    came: FragmentTable
    deleted: IdRanges
    inserted: IdRanges
    suspects: IdRanges
    fields: frozenset[int] | None


def all_changes_of(before: Snapshot, after: Snapshot) -> CommitChanges:
    """What a commit may have done, told from all rows of both versions: where any row may have other values."""
    old, new = _live(before.fragments), _live(after.fragments)
    return CommitChanges(
        gone=before.fragments,
        came=after.fragments,
        deleted=without(old, new),
        inserted=without(new, old),
        suspects=common(old, new),
        fields=None,
    )


def changes_of(before: Version, after: Version, manifests: ManifestSet) -> CommitChanges:
    """What the commit of ``after`` did; ``before`` is the version it was applied to.

    Of any two versions of a line the rows deleted and inserted between them are told, and the fragments.
    """
    gone, came = manifests.difference(before.manifests, after.manifests)
    paired = np.intersect1d(gone.integers("fragment_id"), came.integers("fragment_id"))
    lost, arrived = [_live(_others(gone, paired))], [_live(_others(came, paired))]
    rewritten = []
    for number in paired.tolist():
        old, new = gone.by_id(number), came.by_id(number)
        assert old is not None
        assert new is not None
        lost.append(_newly_dead(old, new))
        arrived.append(_newly_dead(new, old))
        if not old.holds_what(new):
            rewritten.append(_live_twice(old, new))
    left, entered = union(lost), union(arrived)
    deleted = without(left, entered)
    suspects = union([without(left, deleted), *rewritten])
    records = [OperationRecord.from_json(raw) for raw in after.operations]
    fields = None
    if not any(record.kind in _TELLS_NO_ROWS for record in records):
        suspects = common(suspects, union(from_runs(record.rows_updated) for record in records))
        fields = frozenset[int]().union(*(record.fields_written for record in records))
    return CommitChanges(
        gone=gone,
        came=came,
        deleted=deleted,
        inserted=without(entered, left),
        suspects=suspects,
        fields=fields,
    )


def _others(fragments: FragmentTable, ids: U64) -> FragmentTable:
    """The fragments but these."""
    if len(ids) == 0:
        return fragments
    found = pc.is_in(fragments.table.column("fragment_id"), value_set=pa.array(ids, pa.uint64()))
    return FragmentTable([fragments.table.filter(pc.invert(found))])


def _live(fragments: FragmentTable) -> IdRanges:
    first, length, _, _ = RowLocations(fragments).runs
    return first.astype(np.int64), first.astype(np.int64) + length


def _newly_dead(old: Fragment, new: Fragment) -> IdRanges:
    """Rows at positions that are deleted in the new entry of a fragment and not in the old one."""
    if new.deletions is None or new.deletions == old.deletions:
        return NOTHING
    return _ids_at(new, np.setdiff1d(deleted_positions(new), deleted_positions(old)))


def _live_twice(old: Fragment, new: Fragment) -> IdRanges:
    dead = np.union1d(deleted_positions(old), deleted_positions(new))
    if len(dead) == 0 and new.first_row_id is not None:
        return np.array([new.first_row_id], np.int64), np.array([new.first_row_id + new.row_count], np.int64)
    return _ids_at(new, np.setdiff1d(np.arange(new.row_count, dtype=np.uint64), dead))


def _ids_at(fragment: Fragment, positions: U64) -> IdRanges:
    if fragment.first_row_id is not None:
        return from_ids(positions + np.uint64(fragment.first_row_id))
    return from_ids(fragment.row_ids()[positions.astype(np.int64)])
