"""An entry of a fragment with a patch laid over it: what the patch hides, and statistics that hold with it.

Pure; no file is read (spec/changes.md, PAT clauses).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import pyarrow as pa
from pyroaring import BitMap64

from lake_format.column_defaults import default_statistics
from lake_format.model import ColumnGroup, ColumnPatch, Fragment
from lake_format.row_edits import FragmentPatch
from lake_format.schema import field_by_id, field_id, walk_fields
from lake_format.statistics import ColumnStatistics, bound_kind

__all__ = ["MOST_PATCHES", "PATCHED_SHARE", "may_patch", "patched", "superseded", "without_columns"]

MOST_PATCHES = 8
"""So many patches may lie over one another in one column of a fragment; then it is written anew (PAT-4)."""
PATCHED_SHARE = 0.25
"""So many of a fragment's rows patches may hold."""


def may_patch(fragment: Fragment, identities: frozenset[int], rows: int) -> bool:
    """Whether one more patch of so many rows leaves these columns of a fragment cheap to read."""
    for identity in identities:
        counts = [patch.count for patch in fragment.patches if identity in patch.file.live_field_ids]
        if len(counts) >= MOST_PATCHES or sum(counts) + rows > fragment.row_count * PATCHED_SHARE:
            return False
    return True


def patched(entry: Fragment, patch: FragmentPatch, schemas: Mapping[int, pa.Schema]) -> Fragment:
    """The entry with the values of a patch over its own; earlier values that nobody can see any more are dropped."""
    added = [
        ColumnPatch(
            file=file,
            file_rows=patch.file_rows,
            first_row=patch.first_row,
            count=len(patch.rows),
            positions=patch.rows.positions.serialize(),
        )
        for file in patch.files
    ]
    columns = frozenset(one for file in patch.files for one in file.live_field_ids)
    kept = [
        shown
        for earlier in entry.patches
        if (shown := _shown(earlier, columns, patch.rows.positions)) is not None
    ]
    statistics = {one.field_id: one for one in entry.statistics}
    for one in _widened(entry, patch, schemas):
        statistics[one.field_id] = one
    ordered = tuple(sorted(statistics.values(), key=lambda one: one.field_id))
    return replace(entry, patches=(*kept, *added), statistics=ordered)


def without_columns(patches: tuple[ColumnPatch, ...], columns: frozenset[int]) -> tuple[ColumnPatch, ...]:
    """The patches without these columns, which a new group holds; a patch of which nothing is left is gone."""
    fewer = (replace(patch, file=superseded(patch.file, columns)) for patch in patches)
    return tuple(patch for patch in fewer if patch.file.live_field_ids)


def superseded(file: ColumnGroup, columns: frozenset[int]) -> ColumnGroup:
    """The file with these columns no longer read from it."""
    return replace(file, superseded=file.superseded | (columns & set(file.field_ids)))


def _shown(earlier: ColumnPatch, columns: frozenset[int], positions: BitMap64) -> ColumnPatch | None:
    """What is left to see of a patch under another one of these columns; None where nothing is."""
    if columns.isdisjoint(earlier.file.live_field_ids):
        return earlier
    if not BitMap64.deserialize(earlier.positions).issubset(positions):
        return earlier
    fewer = superseded(earlier.file, columns)
    return replace(earlier, file=fewer) if fewer.live_field_ids else None


def _widened(
    entry: Fragment, patch: FragmentPatch, schemas: Mapping[int, pa.Schema]
) -> Iterator[ColumnStatistics]:
    """Statistics of the patched fields that hold with the patch; none where none were known."""
    known = {one.field_id: one for one in entry.statistics}
    replaced = {one.field_id: one for one in patch.replaced}
    count = len(patch.rows)
    for column in _columns(patch, schemas):
        before = _fields(_written_with(entry, field_id(column)), field_id(column), schemas)
        default = None if before else default_statistics(column, field_id(column), entry.row_count)
        for field in walk_fields([column]):
            new = next((one for one in patch.statistics if one.field_id == field_id(field)), None)
            if new is None:  # a member of a list or map
                continue
            kind = bound_kind(field.type)
            if default is not None:  # then no field lies inside
                old = default
            elif new.field_id not in before:  # NULL in every row
                old = ColumnStatistics(
                    field_id=new.field_id,
                    null_count=entry.row_count,
                    nan_count=0 if kind == "float" else None,
                    lower=None,
                    upper=None,
                )
            elif new.field_id in known:
                old = known[new.field_id]
                if (
                    bound_kind(before[new.field_id].type) != kind
                ):  # bounds and counts of another type (STAT-8)
                    old = replace(old, lower=None, upper=None, nan_count=None)
            else:
                continue
            yield _together(old, entry.row_count, new, count, replaced.get(new.field_id))


def _together(
    old: ColumnStatistics, rows: int, new: ColumnStatistics, count: int, gone: ColumnStatistics | None
) -> ColumnStatistics:
    nan_count = None
    if old.nan_count is not None and new.nan_count is not None:
        nan_count = old.nan_count + new.nan_count - ((gone.nan_count or 0) if gone else 0)
    parts = [one for one, size in ((old, rows), (new, count)) if size > one.null_count + (one.nan_count or 0)]
    lowers, uppers = [one.lower for one in parts], [one.upper for one in parts]
    return ColumnStatistics(
        field_id=old.field_id,
        null_count=old.null_count + new.null_count - (gone.null_count if gone else 0),
        nan_count=nan_count,
        lower=_bound(min, lowers),
        upper=_bound(max, uppers),
    )


def _bound(choose: Callable[[list[bytes]], bytes], bounds: list[bytes | None]) -> bytes | None:
    found = [one for one in bounds if one is not None]
    return choose(found) if found and len(found) == len(bounds) else None


def _columns(patch: FragmentPatch, schemas: Mapping[int, pa.Schema]) -> list[pa.Field]:
    found = [
        field_by_id(schemas[file.schema_id], identity)
        for file in patch.files
        for identity in file.live_field_ids
    ]
    return [field for field in found if field is not None]


def _written_with(entry: Fragment, identity: int) -> int | None:
    """The newest schema that values of a column of the entry were written with."""
    files = [one.file if isinstance(one, ColumnPatch) else one for one in entry.holders(identity)]
    return max((file.schema_id for file in files), default=None)


def _fields(schema_id: int | None, identity: int, schemas: Mapping[int, pa.Schema]) -> dict[int, pa.Field]:
    """A column as of a schema: it and the fields inside it, by id."""
    column = None if schema_id is None else field_by_id(schemas[schema_id], identity)
    return {} if column is None else {field_id(field): field for field in walk_fields([column])}
