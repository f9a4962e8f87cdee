"""Indexes of a branch on their way into the line it was made from: new ones, dropped ones, shards over its new rows.

Shards keep their rows' ids and so their numbering (spec/identity.md, IDN-9). What cannot be taken as it is stays
behind: rows that no shard covers are compared one by one, so an index may be behind, never wrong (IDN-10).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from pyroaring import BitMap64

from lake_format.draft import Draft, staler
from lake_format.id_ranges import IdRanges, from_ids, from_runs, ids_of, union, within, without
from lake_format.merge_plan import MergePlan
from lake_format.model import IndexEntry, IndexShard
from lake_format.positions import bitmap_of
from lake_format.row_ids import U64
from lake_format.schema import field_by_id

__all__ = ["take_indexes_over"]


def take_indexes_over(draft: Draft, merge: MergePlan, inserted: IdRanges) -> None:
    """Bring a draft's indexes to what they are with the work of a branch.

    Parameters
    ----------
    inserted
        The rows that the branch brings.
    """
    base, newest = merge.base.version, merge.newest.version
    known = {entry.index_id: entry for entry in base.indexes}
    dropped = known.keys() - {entry.index_id for entry in newest.indexes}
    draft.remove_indexes([entry.name for entry in draft.version.indexes if entry.index_id in dropped])
    for entry in newest.indexes:
        if entry.index_id not in known:
            draft.put_index(_overtaken(entry, merge))
            continue
        now = next((one for one in draft.version.indexes if one.index_id == entry.index_id), None)
        if now is not None:
            draft.replace_index(_extended(now, entry, known[entry.index_id], inserted))
    without_column = [
        entry.name
        for entry in draft.version.indexes
        if field_by_id(draft.version.schema, entry.field_id) is None
    ]
    draft.remove_indexes(without_column)
    _extend_key_index(draft, merge, inserted)


def _overtaken(entry: IndexEntry, merge: MergePlan) -> IndexEntry:
    """An index of the branch, with the rows stale that the other line has given other values since the fork."""
    written = union(
        from_runs(record.rows_updated) for record in merge.overtook if entry.field_id in record.fields_written
    )
    return staler(entry, bitmap_of(ids_of(written))) if len(written[0]) else entry


def _extended(now: IndexEntry, branch: IndexEntry, base: IndexEntry, inserted: IdRanges) -> IndexEntry:
    """The index with the branch's shards over nothing but rows that it brings."""
    before = {shard.path for shard in base.shards}
    own = [shard for shard in branch.shards if shard.path not in before and _covers_only(shard, inserted)]
    if not own or (now.kind, now.parameters) != (base.kind, base.parameters):
        return now
    extended = replace(now, shards=(*now.shards, *own))
    if branch.stale is None:
        return extended
    stale = BitMap64.deserialize(branch.stale)
    covered: U64 = np.sort(np.concatenate([shard.decoded_row_ids() for shard in own]))
    own_stale = stale & bitmap_of(covered)
    return staler(extended, own_stale) if own_stale else extended


def _covers_only(shard: IndexShard, rows: IdRanges) -> bool:
    return bool(within(shard.decoded_row_ids(), rows).all())


def _extend_key_index(draft: Draft, merge: MergePlan, inserted: IdRanges) -> None:
    """The key index with the branch's runs over nothing but rows that it brings."""
    now, branch, base = draft.version.key_index, merge.newest.version.key_index, merge.base.version.key_index
    if now is None or branch is None or now.field_ids != branch.field_ids:
        return
    before = {run.identity for run in base.runs} if base is not None else set()
    own = [
        run
        for run in branch.runs
        if run.identity not in before and not len(without(from_runs(run.rows), inserted)[0])
    ]
    if not own:
        return
    draft.set_key_index(replace(now, runs=(*now.runs, *own)))
    covered = from_ids(np.concatenate([ids_of(from_runs(run.rows)) for run in own]))
    stale = ids_of(from_runs(branch.stale))
    stale = stale[within(stale, covered)]
    changed = draft.version.key_index
    if len(stale) and changed is not None:
        draft.set_key_index(changed.with_stale(stale))
