"""A snapshot: one version of a table, ready to be planned against.

Holds what a version says and what follows from it — live fragments, where a row id lives — and loads each part
when first asked. It reads manifests but never data files.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyroaring import BitMap64

from lake_format.errors import CorruptionError
from lake_format.field_history import FieldHistory
from lake_format.manifest import FragmentTable
from lake_format.manifest_bounds import ManifestBounds
from lake_format.manifest_set import ManifestSet
from lake_format.model import ColumnPatch, Fragment, Version
from lake_format.partition_values import PartitionValues
from lake_format.positions import positions_of
from lake_format.row_ids import U64
from lake_format.schema import without_field_ids
from lake_format.store.base import Store
from lake_format.store.table_store import TableStore

_LARGE = 1024
"""Of fewer fragments all manifests are loaded at once."""
_NARROWINGS = 16
__all__ = ["RowLocations", "Snapshot", "deleted_positions", "patched_positions"]


def deleted_positions(fragment: Fragment) -> U64:
    """Deleted positions of a fragment, ascending; CorruptionError if the bitmap does not fit it."""
    if fragment.deletions is None:
        if fragment.deleted_count:
            raise CorruptionError(f"fragment {fragment.fragment_id} counts deleted rows but has no bitmap")
        return np.empty(0, np.uint64)
    name = f"the deletion bitmap of fragment {fragment.fragment_id}"
    return _positions(fragment.deletions, fragment.deleted_count, fragment.row_count, name)


def patched_positions(fragment: Fragment, patch: ColumnPatch) -> U64:
    """The positions of one of a fragment's patches, ascending; CorruptionError if the bitmap does not fit it."""
    name = f"the bitmap of a patch of fragment {fragment.fragment_id}"
    return _positions(patch.positions, patch.count, fragment.row_count, name)


def _positions(data: bytes, count: int, rows: int, name: str) -> U64:
    try:
        bitmap = BitMap64.deserialize(data)
    except (ValueError, RuntimeError, TypeError, IndexError) as error:
        raise CorruptionError(f"{name} cannot be read") from error
    positions = positions_of(bitmap).astype(np.uint64)
    if len(positions) != count or (len(positions) and positions[-1] >= rows):
        raise CorruptionError(f"{name} does not fit its rows")
    return positions


class RowLocations:
    """Maps row ids to live rows: runs of consecutive row ids, each lying in one fragment.

    Building it costs O(fragments) where row ids are contiguous and nothing is deleted; only fragments with
    deletions or moved rows are looked into.
    """

    def __init__(self, fragments: FragmentTable) -> None:
        first = fragments.integers("first_row_id")
        length = fragments.integers("row_count").astype(np.int64)
        owner = np.arange(len(fragments), dtype=np.int64)
        position = np.zeros(len(fragments), np.int64)
        special = (fragments.integers("deleted_count") > 0) | _has_sequence(fragments)
        if special.any():
            parts = [(first[~special], length[~special], owner[~special], position[~special])]
            parts += [_runs(fragments.fragment(int(index)), int(index)) for index in np.flatnonzero(special)]
            first, length, owner, position = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.argsort(first, kind="stable")
        self._first, self._length = first[order], length[order]
        self._owner, self._position = owner[order], position[order]
        ends = self._first[:-1] + self._length[:-1].astype(np.uint64)
        if (ends > self._first[1:]).any():
            raise CorruptionError("a row id is live in two fragments", fix="run verify() on the table")

    @property
    def runs(self) -> tuple[U64, npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """First row id, length, fragment row and first position of each run, ascending by row id."""
        return self._first, self._length, self._owner, self._position

    def locate(self, row_ids: U64) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Where rows are.

        Parameters
        ----------
        row_ids
            Any row ids, any order; shape ``(n,)``.

        Returns
        -------
        (ndarray, ndarray)
            Fragment row in the fragment table and position in the fragment; both -1 for a row id that is not
            live; shape ``(n,)`` each.
        """
        if len(self._first) == 0:
            nowhere = np.full(len(row_ids), -1, np.int64)
            return nowhere, nowhere.copy()
        run = np.searchsorted(self._first, row_ids, side="right") - 1
        offset = (row_ids - self._first[run]).astype(np.int64)
        live = (run >= 0) & (offset >= 0) & (offset < self._length[run])
        return np.where(live, self._owner[run], -1), np.where(live, self._position[run] + offset, -1)


def _has_sequence(fragments: FragmentTable) -> npt.NDArray[np.bool_]:
    column = fragments.table.column("first_row_id")
    if not column.null_count:
        return np.zeros(len(fragments), bool)
    return np.asarray(column.is_null().to_numpy())


def _runs(
    fragment: Fragment, owner: int
) -> tuple[U64, npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The runs of live, consecutive row ids of one fragment."""
    if fragment.first_row_id is not None:  # what lies between deleted positions
        deleted = deleted_positions(fragment).astype(np.int64)
        starts, stops = np.r_[0, deleted + 1], np.r_[deleted, fragment.row_count]
        starts, stops = starts[stops > starts], stops[stops > starts]
        first = starts.astype(np.uint64) + np.uint64(fragment.first_row_id)
        return first, stops - starts, np.full(len(starts), owner, np.int64), starts
    live = np.ones(fragment.row_count, bool)
    live[deleted_positions(fragment).astype(np.int64)] = False
    positions = np.flatnonzero(live)
    ids = fragment.row_ids()[positions]
    if len(ids) == 0:
        empty = np.empty(0, np.int64)
        return np.empty(0, np.uint64), empty, empty, empty
    broken = (ids[1:] != ids[:-1] + np.uint64(1)) | (positions[1:] != positions[:-1] + 1)
    starts = np.flatnonzero(np.r_[True, broken])
    lengths = np.diff(np.r_[starts, len(ids)])
    return ids[starts], lengths, np.full(len(starts), owner, np.int64), positions[starts]


class Snapshot:
    """One version of a table in one store.

    Attributes
    ----------
    store, version
        The table's root and the version's values.
    """

    def __init__(self, store: Store, version: Version, manifests: ManifestSet) -> None:
        self.store = store
        if version.roots and isinstance(store, TableStore):
            store.learn(version.roots)
        self.version = version
        self.manifests = manifests
        self._narrowings = 0

    def viewed(self, fragments: FragmentTable, schema: pa.Schema) -> Snapshot:
        """Some fragments of this version, read as another version's schema; columns are matched by field id.

        Costs nothing that grows with the table: rows are looked for in these fragments alone.
        """
        own = self.version
        other = max(own.schemas) + 1
        version = replace(own, schema_id=other, schemas={**own.schemas, other: schema})
        view = Snapshot(self.store, version, self.manifests)
        fragments.history = FieldHistory(version.schemas, other)
        view.fragments = fragments
        return view

    def restricted(self, fragment_ids: Iterable[int]) -> Snapshot:
        """Some fragments of this version; costs nothing that grows with the rest of the table."""
        wanted = np.fromiter(fragment_ids, np.uint64)
        held = [
            bool(((wanted >= one.first_fragment_id) & (wanted <= one.last_fragment_id)).any())
            for one in self.version.manifests
        ]
        chosen = tuple(one for one, taken in zip(self.version.manifests, held, strict=True) if taken)
        whole = Snapshot(self.store, replace(self.version, manifests=chosen), self.manifests).fragments
        rows = np.isin(whole.integers("fragment_id"), wanted)
        part = Snapshot(self.store, self.version, self.manifests)
        part.fragments = FragmentTable([whole.table.filter(pa.array(rows))])
        part.fragments.history = whole.history
        return part

    @property
    def schema(self) -> pa.Schema:
        """The version's schema, field ids in the metadata."""
        return self.version.schema

    @cached_property
    def user_schema(self) -> pa.Schema:
        """The version's schema as users see it: without field ids."""
        return without_field_ids(self.version.schema)

    @cached_property
    def fragments(self) -> FragmentTable:
        """All live fragments; the first use loads manifests, in one round."""
        table = self.manifests.load(self.version.manifests)
        table.history = FieldHistory(self.version.schemas, self.version.schema_id)
        if self.version.partition_specs:
            table.partitions = PartitionValues(table.table, self.version.partition_specs, self.schema)
        return table

    @cached_property
    def manifest_bounds(self) -> ManifestBounds:
        """What the version says of its manifests without loading them."""
        return ManifestBounds(self.version.manifests, self.version.schemas)

    def narrowed(self, wanted: npt.NDArray[np.bool_]) -> Snapshot:
        """Narrow the version down to the fragments of some of its manifests, or give itself where that costs no more.

        Whoever looks again and again gets all of it: then every manifest has been loaded before long.

        Parameters
        ----------
        wanted
            Which manifests; shape ``(manifests,)``.
        """
        references = self.version.manifests
        chosen = tuple(one for one, taken in zip(references, wanted.tolist(), strict=True) if taken)
        total, left = (sum(one.fragment_count for one in some) for some in (references, chosen))
        if (
            "fragments" in self.__dict__
            or total < _LARGE
            or 2 * left > total
            or self._narrowings >= _NARROWINGS
        ):
            return self
        self._narrowings += 1
        return Snapshot(self.store, replace(self.version, manifests=chosen), self.manifests)

    @cached_property
    def locations(self) -> RowLocations:
        """Where each row id lives."""
        return RowLocations(self.fragments)
