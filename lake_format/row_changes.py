"""Commits of row changes: what was prepared against one version, made to fit the version it lands on.

Deletes and moves become masks, rewrites new groups of their fragments, patches values laid over them. Where a
fragment was replaced meanwhile the rows are found again by row id (spec/identity.md, IDN-12); new values whose place
was taken are handed back to the engine to be written again. Nothing here evaluates a predicate or reads a data file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap64

from lake_format.clustering import Clustering
from lake_format.draft import Draft
from lake_format.engine import Engine
from lake_format.errors import ConflictError, CorruptionError
from lake_format.model import ColumnPatch, Fragment, Version
from lake_format.operation_record import OperationRecord
from lake_format.patching import patched, superseded, without_columns
from lake_format.positions import bitmap_of, deleted_positions, positions_of
from lake_format.row_edits import (
    CarriedRows,
    FragmentPatch,
    FragmentRewrite,
    RowEdits,
    RowMove,
    RowPlan,
    RowRequest,
    TouchedRows,
)
from lake_format.row_ids import U64, encode_row_ids
from lake_format.schema_edit import renamed_between
from lake_format.snapshot import Snapshot
from lake_format.statistics import ColumnStatistics

__all__ = ["ChangeRows", "Touched", "land_rows", "masked"]

_SUPERSEDED = "superseded-columns"
"""A group's file has columns whose values another group of the fragment holds by now (EVO-6)."""

_PATCHES = "patch-files"
"""A fragment has patches (MAN-9)."""

_Positions = npt.NDArray[np.int64]


class ChangeRows:
    """A planned change of rows on its way into a version; planned anew when the matrix says so.

    Attributes
    ----------
    plan
        The plan as it stands: what was committed, once it is.
    own_fields_from
        Within a transaction: the ids its own columns begin with, which are numbered anew where others added some.
    """

    def __init__(
        self, engine: Engine, request: RowRequest, plan: RowPlan, *, own_fields_from: int | None = None
    ) -> None:
        self.plan = plan
        self._own_fields_from = own_fields_from
        self._engine = engine
        self._request = request

    @property
    def record(self) -> OperationRecord:
        """What the plan touches."""
        return self.plan.record

    @property
    def summary(self) -> Mapping[str, Any]:
        """Figures for the history."""
        return self.plan.summary

    def apply(self, draft: Draft) -> OperationRecord:
        """Mask, replace and add fragments where the rows are now."""
        touched = Touched()
        left = land_rows(draft, self.plan.base, self.plan.edits, touched)
        if left:
            before = draft.snapshot
            edits = self._engine.carry_rows(before, left, self.plan.edits.field_ids, self._request.new_id)
            if land_rows(draft, before, edits, touched):
                raise CorruptionError("new values prepared for a draft do not fit it")
        return replace(
            self.plan.record,
            fragments_masked=frozenset(touched.masked),
            fragments_rewritten=frozenset(touched.rewritten),
            fragments_removed=frozenset(touched.removed),
        )

    def overtaken_by(self, theirs: Sequence[OperationRecord]) -> Self:
        """Give up runs merged from a version whose keys others have changed since."""
        index = self.plan.base.version.key_index
        fields = set(index.field_ids if index is not None else ())
        if self.plan.edits.merged_runs is not None and any(
            not fields.isdisjoint(record.fields_written) for record in theirs
        ):
            run = self.plan.edits.merged_runs.run
            self._engine.discard_files(self.plan.base.store, (), [run.run.path] if run is not None else [])
            self.plan = replace(self.plan, edits=replace(self.plan.edits, merged_runs=None))
        return self

    def replan(self, latest: Snapshot) -> Self:
        """Plan the same request on the version at hand; the files of the old plan are removed."""
        self.require_names(latest)
        self.discard()
        self.plan = self._engine.plan_rows(latest, self._request)
        return self

    def require_names(self, latest: Snapshot) -> None:
        """Refuse to carry a request out on a version where a name in it may mean another column."""
        name = renamed_between(self.plan.base.schema, latest.schema, self._own_fields_from)
        if name is not None:
            raise ConflictError(
                f"column {name!r} is another one, or gone, since version {self.plan.base.version.version}",
                fix="refresh() the table, look, and try again",
            )

    def discard(self) -> None:
        """Remove the files of a plan that will not be committed."""
        place = self.plan.record.key_hashes_at
        others = (*([place] if place else []), *self.plan.edits.key_files())
        self._engine.discard_files(self.plan.base.store, tuple(self.plan.edits.files()), others)


@dataclass(slots=True)
class Touched:
    """Fragments that a change touched in the end, for its record (CON-12)."""

    masked: set[int] = field(default_factory=set)
    rewritten: set[int] = field(default_factory=set)
    removed: set[int] = field(default_factory=set)


@dataclass(slots=True)
class _Landing:
    """What becomes of the fragments of one version, gathered before any is replaced."""

    masks: dict[int, BitMap64] = field(default_factory=dict)
    rewrites: dict[int, FragmentRewrite] = field(default_factory=dict)
    patches: dict[int, FragmentPatch] = field(default_factory=dict)
    moved: list[tuple[RowMove, U64, npt.NDArray[np.bool_]]] = field(default_factory=list)
    """New fragment, row ids of the existing rows in it, in their order, and which of them are dead on arrival."""
    updated: list[U64] = field(default_factory=list)
    carried: list[CarriedRows] = field(default_factory=list)

    def mask(self, fragment_id: int, positions: BitMap64) -> None:
        self.masks[fragment_id] = self.masks.get(fragment_id, BitMap64()) | positions


def land_rows(draft: Draft, base: Snapshot, edits: RowEdits, touched: Touched) -> list[CarriedRows]:
    """Apply edits to a draft; returns the new values that found their place taken."""
    finder = _Finder(base, base if draft.version is base.version else draft.snapshot)
    landing = _Landing()
    for rows in edits.deletes:
        _land_delete(finder, rows, landing)
    for rewrite in edits.rewrites:
        _land_rewrite(finder, rewrite, edits.field_ids, landing)
    for patch in edits.patches:
        _land_patch(finder, patch, landing)
    for move in edits.moves:
        _land_move(finder, move, landing)
    _write(draft, base, finder, edits, landing, touched)
    return landing.carried


def _land_delete(finder: _Finder, rows: TouchedRows, landing: _Landing) -> None:
    found = finder.find(rows)
    if found.stayed:
        landing.mask(rows.fragment_id, found.stayed)
    finder.mask_elsewhere(found.elsewhere, landing)


def _land_rewrite(
    finder: _Finder, rewrite: FragmentRewrite, field_ids: frozenset[int], landing: _Landing
) -> None:
    found = finder.find(rewrite.rows)
    landing.updated.append(found.live_ids())
    fits = found.now is not None and all(
        _places(found.before, identity) == _places(found.now, identity) for identity in field_ids
    )
    if fits:
        landing.rewrites[rewrite.rows.fragment_id] = rewrite
    again = found.elsewhere_at if fits else found.live_at()
    if len(again):
        landing.carried.append(
            CarriedRows(
                groups=rewrite.groups,
                row_count=found.before.row_count,
                positions=again,
                row_ids=found.ids_at(again),
            )
        )


def _land_patch(finder: _Finder, patch: FragmentPatch, landing: _Landing) -> None:
    """A patch lies over whatever the fragment holds by now; rows that live elsewhere get their values there."""
    found = finder.find(patch.rows)
    landing.updated.append(found.live_ids())
    fits = found.now is not None and bool(found.stayed)
    if fits:
        landing.patches[patch.rows.fragment_id] = patch
    again = found.elsewhere_at if fits else found.live_at()
    if len(again):
        landing.carried.append(
            CarriedRows(
                groups=patch.files,
                row_count=patch.file_rows,
                positions=patch.first_row + np.flatnonzero(np.isin(found.all_at(), again)),
                row_ids=found.ids_at(again),
            )
        )


def _land_move(finder: _Finder, move: RowMove, landing: _Landing) -> None:
    """Rows whose values were not touched meanwhile arrive as written; the others are merged anew by the engine."""
    ids, dead, again = [], [], []
    for rows in move.rows:
        found = finder.find(rows)
        landing.updated.append(found.live_ids())
        own = found.all_at()
        ids.append(found.ids_at(own))
        unchanged = found.now is not None and found.now.holds_what(found.before)
        if unchanged and not found.has_left:
            landing.mask(rows.fragment_id, found.stayed)
            dead.append(np.zeros(len(own), bool))
            again.append(dead[-1])
            continue
        arrives = np.isin(own, positions_of(found.stayed)) if unchanged else np.zeros(len(own), bool)
        if unchanged and found.stayed:
            landing.mask(rows.fragment_id, found.stayed)
        dead.append(~arrives)
        again.append(~arrives & np.isin(own, found.live_at()))
    row_ids, merged = np.concatenate(ids), np.concatenate(again)
    landing.moved.append((move, row_ids, np.concatenate(dead)))
    if merged.any():
        places = np.arange(len(merged)) if move.places is None else move.places
        places, left = places[merged], row_ids[merged]
        order = np.argsort(places)
        landing.carried.append(
            CarriedRows(
                groups=move.fragment.groups,
                row_count=move.fragment.row_count,
                positions=places[order],
                row_ids=left[order],
            )
        )


def _write(
    draft: Draft, base: Snapshot, finder: _Finder, edits: RowEdits, landing: _Landing, touched: Touched
) -> None:
    entries: dict[int, Fragment | None] = {}
    features = set(edits.features)
    for fragment_id in {*landing.masks, *landing.rewrites, *landing.patches}:
        now = finder.latest_fragment(fragment_id)
        assert now is not None
        entry: Fragment | None = now
        if fragment_id in landing.rewrites:
            entry = _regrouped(now, landing.rewrites[fragment_id], draft.version)
            touched.rewritten.add(fragment_id)
        if fragment_id in landing.patches:
            entry = patched(now, landing.patches[fragment_id], draft.version.schemas)
            entry = replace(entry, clustering=_order_left(entry, edits.field_ids, draft.version))
            features.add(_PATCHES)
            touched.rewritten.add(fragment_id)
        if fragment_id in landing.masks and entry is not None:
            entry = masked(entry, landing.masks[fragment_id])
            (touched.masked if entry is not None else touched.removed).add(fragment_id)
        entries[fragment_id] = entry
    draft.replace_fragments(entries)
    if any(file.superseded for entry in entries.values() if entry for file in entry.files()):
        features.add(_SUPERSEDED)
    first_new = draft.version.next_row_id
    _add_moved(draft, landing)
    draft.add_fragments(edits.fresh, features)
    if landing.updated:
        draft.mark_stale(edits.field_ids, np.concatenate(landing.updated))
    _index_keys(draft, base, edits, first_new)


def _index_keys(draft: Draft, base: Snapshot, edits: RowEdits, first_new: int) -> None:
    """Let the key index know the new rows, unless the table has another key by now."""
    index, planned = draft.version.key_index, base.version.key_index
    if index is None or planned is None or index.field_ids != planned.field_ids:
        return
    changed = index.with_fresh(edits.key_runs, first_new)
    if edits.merged_runs is not None:
        changed = changed.with_merged(edits.merged_runs)
    if changed != index:
        draft.set_key_index(changed)


def _add_moved(draft: Draft, landing: _Landing) -> None:
    """List the fragments of moved rows; rows in them that are new get the next row ids."""
    kept = []
    first = next_row_id = draft.version.next_row_id
    for move, ids, dead in landing.moved:
        if move.new_rows or not dead.all():
            new = np.arange(next_row_id, next_row_id + move.new_rows, dtype=np.uint64)
            kept.append((move, move.laid_out(ids, new), move.laid_out(dead, np.zeros(len(new), bool))))
            next_row_id += move.new_rows
    fragments = [(move.fragment, encode_row_ids(ids)) for move, ids, _ in kept]
    arrived = draft.version.next_fragment_id
    draft.add_moved(fragments, new_rows=next_row_id - first)
    masks = {
        arrived + offset: BitMap64(np.flatnonzero(dead).tolist())
        for offset, (_, _, dead) in enumerate(kept)
        if dead.any()
    }
    if masks:
        finder = _Finder(draft.snapshot, draft.snapshot)
        entries: dict[int, Fragment | None] = {}
        for fragment_id, positions in masks.items():
            entry = finder.latest_fragment(fragment_id)
            assert entry is not None
            entries[fragment_id] = masked(entry, positions)
        draft.replace_fragments(entries)


def masked(entry: Fragment, positions: BitMap64) -> Fragment | None:
    """The entry with these positions deleted too; None when no row is left."""
    deleted = positions if entry.deletions is None else BitMap64.deserialize(entry.deletions) | positions
    if len(deleted) == entry.row_count:
        return None
    deleted.run_optimize()
    return replace(entry, deleted_count=len(deleted), deletions=deleted.serialize())


def _order_left(entry: Fragment, replaced: frozenset[int], version: Version) -> str | None:
    """The order a fragment's rows are still in once fields got other values in place.

    Raises
    ------
    ConflictError
        The values decide the rows' partition, which cannot be changed where they are (PAR-5).
    """
    parted = entry.partition
    if parted is not None and not replaced.isdisjoint(version.partition_specs[parted.spec_id].source_ids):
        raise ConflictError(
            f"fragment {entry.fragment_id} is partitioned by a column that was to get other values in place",
            fix="update() the column instead: it moves rows to their partition",
        )
    order = None if entry.clustering is None else Clustering.parse(entry.clustering)
    return entry.clustering if order is not None and replaced.isdisjoint(order.field_ids) else None


def _regrouped(entry: Fragment, rewrite: FragmentRewrite, version: Version) -> Fragment:
    """The entry with new groups, the columns they replace superseded, and bounds that hold."""
    replaced = frozenset(identity for group in rewrite.groups for identity in group.live_field_ids)
    kept = [
        superseded(group, replaced) for group in entry.groups if not replaced.issuperset(group.live_field_ids)
    ]
    new = {column.field_id: column for column in rewrite.statistics}
    old: list[ColumnStatistics] = [one for one in entry.statistics if one.field_id not in new]
    statistics = tuple(sorted((*old, *new.values()), key=lambda column: column.field_id))
    return replace(
        entry,
        groups=(*kept, *rewrite.groups),
        patches=without_columns(entry.patches, replaced),
        statistics=statistics,
        clustering=_order_left(entry, replaced, version),
    )


def _places(entry: Fragment, identity: int) -> list[tuple[str, int]]:
    """Where the values of a field lie: files, and the first row in each that counts."""
    return [
        (one.file.path, one.first_row) if isinstance(one, ColumnPatch) else (one.path, 0)
        for one in entry.holders(identity)
    ]


@dataclass(slots=True)
class _Found:
    """Where the touched rows of one fragment are in a later version."""

    before: Fragment
    now: Fragment | None
    positions: BitMap64
    stayed: BitMap64
    elsewhere_at: _Positions
    elsewhere: tuple[_Positions, _Positions]
    """Positions in ``before`` of rows that live elsewhere now; their fragment row and position there."""

    @property
    def has_left(self) -> bool:
        return self.stayed is not self.positions

    def all_at(self) -> _Positions:
        return positions_of(self.positions)

    def live_at(self) -> _Positions:
        if not self.has_left:
            return self.all_at()
        stayed = positions_of(self.stayed)
        return np.union1d(stayed, self.elsewhere_at) if len(self.elsewhere_at) else stayed

    def ids_at(self, positions: _Positions) -> U64:
        if self.before.first_row_id is not None:
            return positions.astype(np.uint64) + np.uint64(self.before.first_row_id)
        return self.before.row_ids()[positions]

    def live_ids(self) -> U64:
        return self.ids_at(self.live_at())


class _Finder:
    """Finds rows of a base snapshot in a later one, reading row-id sequences only where a fragment changed."""

    def __init__(self, base: Snapshot, latest: Snapshot) -> None:
        self._base = base
        self._latest = latest

    def find(self, rows: TouchedRows) -> _Found:
        before = _fragment(self._base, rows.fragment_id)
        if before is None:
            raise CorruptionError(f"fragment {rows.fragment_id} of a plan is not in its base version")
        now = self.latest_fragment(rows.fragment_id)
        if now is None:
            stayed = BitMap64()
        elif now.deletions == before.deletions:
            stayed = rows.positions
        else:
            stayed = rows.positions - bitmap_of(deleted_positions(now))
        found = _Found(before, now, rows.positions, stayed, _EMPTY, (_EMPTY, _EMPTY))
        left = positions_of(rows.positions - stayed)
        if len(left):
            owners, positions = self._latest.locations.locate(found.ids_at(left))
            live = owners >= 0
            found.elsewhere_at = left[live]
            found.elsewhere = (owners[live], positions[live])
        return found

    def mask_elsewhere(self, places: tuple[_Positions, _Positions], landing: _Landing) -> None:
        owners, positions = places
        for owner in np.unique(owners).tolist():
            fragment_id = int(self._latest.fragments.integers("fragment_id")[owner])
            landing.mask(fragment_id, BitMap64(positions[owners == owner].tolist()))

    def latest_fragment(self, fragment_id: int) -> Fragment | None:
        return _fragment(self._latest, fragment_id)


_EMPTY: _Positions = np.empty(0, np.int64)


def _fragment(snapshot: Snapshot, fragment_id: int) -> Fragment | None:
    ids = snapshot.fragments.integers("fragment_id")
    at = int(np.searchsorted(ids, np.uint64(fragment_id)))
    return snapshot.fragments.fragment(at) if at < len(ids) and ids[at] == fragment_id else None
