"""The manifests of a version as a whole: load them in one round, add to them, keep them few.

A commit adds one small manifest inside the version object. When those grow past a budget they spill into an
object of their own, and objects of similar size merge sixteen to one up to a cap, so that a version lists
O(log fragments) manifests and a commit writes bytes proportional to its change (design of log-structured merge
trees, O'Neil et al. 1996, section 3).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from threading import Lock
from uuid import UUID

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lake_format.errors import CorruptionError, StorageError
from lake_format.manifest import FragmentTable, decode_manifest, inline_manifest, live_rows, manifest_table
from lake_format.model import Fragment, ManifestReference, Version
from lake_format.paths import manifest_path
from lake_format.row_ids import U64
from lake_format.store.base import ByteRange, Store

__all__ = ["ManifestSet", "Spilled"]

INLINE_BYTES = 48 << 10
"""Inline manifests of a version together stay below this many bytes."""
MERGE_WIDTH = 16
"""So many manifests of one size class become one."""
MAX_FRAGMENTS = 4096
"""A manifest this large is never merged again."""
_CACHE_BYTES = 64 << 20
Spilled = dict[bytes, ManifestReference]
"""Manifests that attempts of one commit wrote to objects of their own, by their bytes. Never kept for another
commit: objects that no version names may be collected in between."""


class ManifestSet:
    """Loads and writes the manifests of one table; remembers decoded ones within a byte budget.

    Parameters
    ----------
    store
        The table's root.
    new_id
        Gives the unique part of new manifests' names.
    """

    def __init__(self, store: Store, new_id: Callable[[], UUID]) -> None:
        self._store = store
        self._new_id = new_id
        self._lock = Lock()
        self._cache: OrderedDict[tuple[str | bytes | None, int], pa.Table] = OrderedDict()
        self._cached_bytes = 0

    def load(self, references: Sequence[ManifestReference]) -> FragmentTable:
        """All live fragments of these manifests, in order. At most one round of requests."""
        return FragmentTable(
            _without(table, ref) for ref, table in zip(references, self._tables(references), strict=True)
        )

    def add(
        self, references: Sequence[ManifestReference], fragments: Sequence[Fragment]
    ) -> tuple[ManifestReference, ...]:
        """The manifests with these fragments appended as a further inline manifest."""
        return (*references, self._made(manifest_table(fragments))) if fragments else tuple(references)

    def _made(self, table: pa.Table) -> ManifestReference:
        """A manifest of these fragments, which need not be decoded in order to be read."""
        reference = inline_manifest(table)
        self._remember(reference, table)
        return reference

    @property
    def store(self) -> Store:
        """The table's root."""
        return self._store

    def without(
        self, references: Sequence[ManifestReference], fragment_ids: Collection[int]
    ) -> tuple[tuple[ManifestReference, ...], int]:
        """The manifests with these fragments taken out, and how many live rows those have.

        Reads only manifests they may be in.

        Raises
        ------
        CorruptionError
            A fragment is in none of them.
        """
        wanted = pa.array(sorted(fragment_ids), pa.uint64())
        holders = [
            reference
            for reference in references
            if any(reference.first_fragment_id <= one <= reference.last_fragment_id for one in fragment_ids)
        ]
        changed: dict[int, ManifestReference | None] = {}
        found = rows = 0
        for reference, table in zip(holders, self._tables(holders), strict=True):
            live = _without(table, reference)
            hits = live.filter(pc.is_in(live.column("fragment_id"), value_set=wanted))
            if hits.num_rows:
                gone = live_rows(hits)
                changed[id(reference)] = _less(reference, hits.column("fragment_id").to_pylist(), gone)
                found, rows = found + hits.num_rows, rows + gone
        if found != len(wanted):
            raise CorruptionError("a fragment to replace is not in the table, or is in it twice")
        kept = (changed.get(id(reference), reference) for reference in references)
        return tuple(reference for reference in kept if reference is not None), rows

    def difference(
        self, old: Sequence[ManifestReference], new: Sequence[ManifestReference]
    ) -> tuple[FragmentTable, FragmentTable]:
        """Fragment entries that only the old, and only the new ones of these manifests hold.

        Reads manifests that only one side has, and those of which the sides hold other fragments.
        """
        gone = self.load([reference for reference in old if reference not in new]).table
        came = self.load([reference for reference in new if reference not in old]).table
        both = np.intersect1d(gone.column("fragment_id").to_numpy(), came.column("fragment_id").to_numpy())
        if len(both) == 0:
            return FragmentTable([gone]), FragmentTable([came])
        before, after = (_only(table, both) for table in (gone, came))
        same = both[~_changed(before, after)]
        return FragmentTable([_except(gone, same)]), FragmentTable([_except(came, same)])

    def settle(
        self, references: Sequence[ManifestReference], spilled: Spilled
    ) -> tuple[ManifestReference, ...]:
        """The same fragments in few manifests: merges and spills where a budget is exceeded.

        Objects written here become part of the table only by the commit that names them.

        Parameters
        ----------
        spilled
            What earlier attempts of the same commit wrote: the same bytes are not written twice.
        """
        settled = self._settle_inline(list(references), spilled)
        while (window := _merge_window(settled)) is not None:
            start, stop = window
            merged = self._made(self._merged(settled[start:stop]))
            settled[start:stop] = [self._spill(merged, spilled)]
        return tuple(settled)

    def remove_unused(self, spilled: Spilled, landed: Version | None) -> None:
        """Remove what attempts of a commit wrote and the version that landed, if one did, does not name."""
        used = {reference.path for reference in landed.manifests} if landed else set()
        for reference in spilled.values():
            if reference.path is not None and reference.path not in used:
                with suppress(StorageError):  # then it is garbage like any other
                    self._store.delete(reference.path)

    def _settle_inline(
        self, references: list[ManifestReference], spilled: Spilled
    ) -> list[ManifestReference]:
        inline = [reference for reference in references if reference.path is None]
        if len(inline) <= MERGE_WIDTH and sum(reference.size for reference in inline) <= INLINE_BYTES:
            return references
        stored = [reference for reference in references if reference.path is not None]
        merged = self._made(self._merged(inline))
        return [*stored, merged if merged.size <= INLINE_BYTES // 2 else self._spill(merged, spilled)]

    def _merged(self, references: Sequence[ManifestReference]) -> pa.Table:
        return self.load(references).table

    def _spill(self, reference: ManifestReference, spilled: Spilled) -> ManifestReference:
        assert reference.body is not None
        if reference.body not in spilled:
            path = manifest_path(self._new_id())
            self._store.create(path, reference.body)
            spilled[reference.body] = replace(reference, path=path, body=None)
        return spilled[reference.body]

    def _tables(self, references: Sequence[ManifestReference]) -> list[pa.Table]:
        tables = [self._recall(reference) for reference in references]
        missing = [index for index, table in enumerate(tables) if table is None]
        stored = [(references[index].path, references[index].size) for index in missing]
        ranges = [ByteRange(path, 0, size) for path, size in stored if path is not None]
        fetched = iter(self._store.get_ranges(ranges) if ranges else [])
        for index in missing:
            reference = references[index]
            data = reference.body if reference.body is not None else next(fetched)
            tables[index] = decode_manifest(data, reference)
            self._remember(reference, tables[index])
        return tables

    def _recall(self, reference: ManifestReference) -> pa.Table | None:
        with self._lock:
            return self._cache.get(_known_by(reference))

    def _remember(self, reference: ManifestReference, table: pa.Table) -> None:
        if table.nbytes > _CACHE_BYTES:
            return
        with self._lock:
            key = _known_by(reference)
            if key in self._cache:
                return
            self._cache[key] = table
            self._cached_bytes += table.nbytes
            while self._cached_bytes > _CACHE_BYTES:
                _, oldest = self._cache.popitem(last=False)
                self._cached_bytes -= oldest.nbytes


def _known_by(reference: ManifestReference) -> tuple[str | bytes | None, int]:
    """What tells a manifest from all others; one inside a version object lies in the versions after it as well."""
    return reference.path or reference.body, reference.crc


def _without(table: pa.Table, reference: ManifestReference) -> pa.Table:
    return _except(table, np.array(reference.removed, np.uint64)) if reference.removed else table


def _only(table: pa.Table, ids: U64) -> pa.Table:
    return table.filter(pc.is_in(table.column("fragment_id"), value_set=pa.array(ids, pa.uint64())))


def _except(table: pa.Table, ids: U64) -> pa.Table:
    found = pc.is_in(table.column("fragment_id"), value_set=pa.array(ids, pa.uint64()))
    return table.filter(pc.invert(found))


def _changed(old: pa.Table, new: pa.Table) -> npt.NDArray[np.bool_]:
    """Which rows of two tables with the same fragment ids differ, by halving what is not equal as a whole."""
    found = np.zeros(len(old), bool)
    waiting = [(0, len(old))]
    while waiting:
        start, count = waiting.pop()
        if not old.slice(start, count).equals(new.slice(start, count)):
            if count == 1:
                found[start] = True
            else:
                half = count // 2
                waiting += [(start, half), (start + half, count - half)]
    return found


def _less(reference: ManifestReference, gone: list[int], rows: int) -> ManifestReference | None:
    """The reference with fragments that have so many live rows removed; None when none is left."""
    removed = (*reference.removed, *gone)
    if len(removed) == reference.fragment_count:
        return None
    return replace(reference, removed=tuple(sorted(removed)), row_count=reference.row_count - rows)


def _merge_window(references: Sequence[ManifestReference]) -> tuple[int, int] | None:
    """The first run of ``MERGE_WIDTH`` neighbouring stored manifests of one size class below the cap."""
    classes = [_size_class(reference) for reference in references]
    for start in range(len(references) - MERGE_WIDTH + 1):
        window = classes[start : start + MERGE_WIDTH]
        if window[0] is not None and all(one == window[0] for one in window):
            return start, start + MERGE_WIDTH
    return None


def _size_class(reference: ManifestReference) -> int | None:
    if reference.path is None or reference.fragment_count >= MAX_FRAGMENTS:
        return None
    return int(np.log(max(reference.fragment_count, 1)) / np.log(MERGE_WIDTH))
