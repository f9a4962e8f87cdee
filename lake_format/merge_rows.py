"""Rows of a branch on their way into the line it was made from, by row id.

New fragments are listed as they are; of the others what the branch did to their rows is done to these rows wherever
the version at hand has them. Column files are taken over where the fragment still has the values it had at the base;
else new values are handed to the engine, which writes them where the rows are now (spec/identity.md, IDN-12).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap64

from lake_format.commit_changes import CommitChanges
from lake_format.draft import Draft
from lake_format.id_ranges import IdRanges, ids_of, union, within
from lake_format.merge_plan import MergePlan
from lake_format.model import Fragment
from lake_format.positions import deleted_positions
from lake_format.row_changes import Touched, masked
from lake_format.row_edits import CarriedRows
from lake_format.row_ids import U64
from lake_format.snapshot import Snapshot

__all__ = ["MergedRows", "take_rows_over"]

_Places = npt.NDArray[np.int64]


@dataclass(slots=True)
class MergedRows:
    """What became of a branch's rows.

    Attributes
    ----------
    touched
        Fragments of the line at hand that were touched.
    carried
        New values that have to be written where their rows are now, by the fields they are of.
    deleted, updated
        Row ids of the line at hand that are gone, or have new values.
    """

    touched: Touched = field(default_factory=Touched)
    carried: dict[frozenset[int], list[CarriedRows]] = field(default_factory=dict)
    deleted: int = 0
    updated: list[U64] = field(default_factory=list)


def take_rows_over(
    draft: Draft, merge: MergePlan, changes: CommitChanges, numbers: Mapping[int, int]
) -> MergedRows:
    """Bring a draft's rows to what they are with the work of a branch, but for values that are to be carried.

    Parameters
    ----------
    changes
        What differs between the branch's two versions.
    numbers
        The ids that the branch's schemas have in the draft.
    """
    landing = _Landing(merge, changes, draft.snapshot)
    landing.delete(ids_of(changes.deleted))
    arrived = []
    for entry in changes.came.fragments():
        before = changes.gone.by_id(entry.fragment_id)
        moved = _translated(entry, numbers)
        if before is None:
            arrived.append(landing.arrive(moved))
        elif not before.holds_what(entry):
            landing.change(before, moved)
    landing.write(draft, [entry for entry in arrived if entry is not None])
    return landing.result


class _Landing:
    """Gathers what becomes of the fragments of one version before any is replaced."""

    def __init__(self, merge: MergePlan, changes: CommitChanges, latest: Snapshot) -> None:
        self.result = MergedRows()
        self._merge = merge
        self._inserted = changes.inserted
        self._updated: IdRanges = union(rows for _, rows in merge.updated)
        self._latest = latest
        self._masks: dict[int, BitMap64] = {}
        self._changed: dict[int, Fragment] = {}

    def delete(self, ids: U64) -> None:
        """Rows that the branch deleted go, wherever they are."""
        owners, positions = self._latest.locations.locate(ids)
        live = owners >= 0
        self.result.deleted = int(live.sum())
        self._mask(owners[live], positions[live])

    def change(self, before: Fragment, entry: Fragment) -> None:
        """A fragment that both versions of the branch have got other values."""
        now = self._latest.fragments.by_id(entry.fragment_id)
        stays = now is not None and _same_values(before, now)
        if now is not None and stays:
            self._changed[entry.fragment_id] = replace(
                now,
                groups=entry.groups,
                patches=entry.patches,
                statistics=entry.statistics,
                clustering=entry.clustering,
            )
            self.result.touched.rewritten.add(entry.fragment_id)
        positions, ids = _live(entry)
        concerned = within(ids, self._updated)
        positions, ids = positions[concerned], ids[concerned]
        owners, _ = self._latest.locations.locate(ids)
        live = owners >= 0
        self.result.updated.append(ids[live])
        at_home = stays & live & (self._owner_ids(owners) == entry.fragment_id)
        self._carry(entry, positions, ids, live & ~at_home)

    def arrive(self, entry: Fragment) -> Fragment | None:
        """A fragment that is new on the branch: its new rows are taken, and moved rows that others left alone.

        Rows that only upkeep moved stay where they are; new values of rows that others touched too are carried.
        """
        positions, ids = _live(entry)
        inserted = within(ids, self._inserted)
        updated = within(ids, self._updated) & ~inserted
        owners, places = self._latest.locations.locate(ids)
        live = owners >= 0
        home = np.zeros(len(ids), bool)
        home[updated] = self._where_they_were(ids[updated], owners[updated], places[updated])
        self.result.updated.append(ids[updated & live])
        self._mask(owners[home], places[home])
        self._carry(entry, positions, ids, updated & live & ~home)
        arriving = positions[inserted | home]
        if len(arriving) == 0:
            return None
        dead = np.ones(entry.row_count, bool)
        dead[arriving] = False
        bitmap = BitMap64(np.flatnonzero(dead).tolist())
        bitmap.run_optimize()
        return replace(entry, deleted_count=len(bitmap), deletions=bitmap.serialize() if bitmap else None)

    def write(self, draft: Draft, arrived: Sequence[Fragment]) -> None:
        """Put the gathered entries in place."""
        entries: dict[int, Fragment | None] = {}
        touched = self.result.touched
        for fragment_id in {*self._masks, *self._changed}:
            entry = self._changed.get(fragment_id) or self._latest.fragments.by_id(fragment_id)
            assert entry is not None
            if fragment_id in self._masks:
                left = masked(entry, self._masks[fragment_id])
                (touched.masked if left is not None else touched.removed).add(fragment_id)
                entries[fragment_id] = left
            else:
                entries[fragment_id] = entry
        draft.replace_fragments(entries)
        features = {"deletion-bitmaps"} if any(entry.deletions for entry in arrived) else set()
        draft.list_fragments(arrived, features)

    def _where_they_were(self, ids: U64, owners: _Places, places: _Places) -> npt.NDArray[np.bool_]:
        """Which rows are in the version at hand where they were at the base, with the values they had."""
        found = np.zeros(len(ids), bool)
        base = self._merge.base
        before, at = base.locations.locate(ids)
        for owner in np.unique(owners[owners >= 0]).tolist():
            now = self._latest.fragments.fragment(owner)
            earlier = base.fragments.by_id(now.fragment_id)
            if earlier is not None and _same_values(earlier, now):
                same = base.fragments.integers("fragment_id")[before] == now.fragment_id
                found |= (owners == owner) & (before >= 0) & same & (at == places)
        return found

    def _carry(self, entry: Fragment, positions: _Places, ids: U64, chosen: npt.NDArray[np.bool_]) -> None:
        for fields, rows in self._merge.updated if chosen.any() else ():
            these = chosen & within(ids, rows)
            if these.any():
                carried = CarriedRows(
                    groups=entry.groups,
                    patches=entry.patches,
                    row_count=entry.row_count,
                    positions=positions[these],
                    row_ids=ids[these],
                )
                self.result.carried.setdefault(fields, []).append(carried)

    def _mask(self, owners: _Places, positions: _Places) -> None:
        numbers = self._owner_ids(owners)
        for fragment_id in np.unique(numbers).tolist():
            gone = BitMap64(positions[numbers == fragment_id].tolist())
            self._masks[fragment_id] = self._masks.get(fragment_id, BitMap64()) | gone

    def _owner_ids(self, owners: _Places) -> npt.NDArray[np.int64]:
        """Fragment ids of rows of the fragment table; -1 where there is none."""
        known = np.append(self._latest.fragments.integers("fragment_id").astype(np.int64), -1)
        return np.asarray(known[owners])


def _live(entry: Fragment) -> tuple[_Places, U64]:
    """The positions that are not deleted, and the row ids there."""
    live = np.ones(entry.row_count, bool)
    live[deleted_positions(entry).astype(np.int64)] = False
    return np.flatnonzero(live), np.asarray(entry.row_ids()[live], np.uint64)


def _same_values(one: Fragment, other: Fragment) -> bool:
    """Whether two entries of a fragment read their values from the same places, whatever their schemas' numbers."""
    return _value_places(one) == _value_places(other)


def _value_places(entry: Fragment) -> tuple[Any, ...]:
    groups = [(group.path, group.superseded) for group in entry.groups]
    patches = [
        (patch.file.path, patch.file.superseded, patch.first_row, patch.positions) for patch in entry.patches
    ]
    return groups, patches


def _translated(entry: Fragment, numbers: Mapping[int, int]) -> Fragment:
    """The entry with its files' schemas under the ids that they have in the version at hand."""
    if all(numbers.get(file.schema_id, file.schema_id) == file.schema_id for file in entry.files()):
        return entry
    return replace(
        entry,
        groups=tuple(replace(one, schema_id=numbers[one.schema_id]) for one in entry.groups),
        patches=tuple(
            replace(one, file=replace(one.file, schema_id=numbers[one.file.schema_id]))
            for one in entry.patches
        ),
    )
