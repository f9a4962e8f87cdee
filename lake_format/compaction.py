"""Compaction: which fragments are worth putting together, and the commit that puts one in place of several.

Choosing looks at manifests only; writing the new files is the engine's work. Rows keep their ids, so indexes are not
touched (spec/upkeep.md, UPK-1 to UPK-3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self
from uuid import UUID, uuid4

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from lake_format.clustering import Clustering
from lake_format.draft import Draft
from lake_format.manifest import FragmentTable
from lake_format.model import ColumnGroup, Fragment, NewFragment, Version
from lake_format.operation_record import OperationRecord
from lake_format.patching import MOST_PATCHES, PATCHED_SHARE
from lake_format.positions import deleted_positions
from lake_format.row_ids import U64
from lake_format.snapshot import Snapshot
from lake_format.transaction import YieldedError

__all__ = [
    "CompactFragments",
    "CompactionReport",
    "CompactionTarget",
    "RewriteRequest",
    "Rewritten",
    "RewrittenGroup",
    "choose_fragments",
    "choose_unclustered",
]

_I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactionTarget:
    """What fragments should be like.

    Attributes
    ----------
    rows, bytes
        The most a new fragment should have; fragments below half of both are put together.
    deleted_share
        Fragments with at least this share of deleted rows are written anew, also alone. So are those in which
        patches hold a quarter as many rows, or that have as many patches as a column may have.
    """

    rows: int
    bytes: int
    deleted_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RewriteRequest:
    """Fragments of one partition whose live rows are to be written anew.

    Attributes
    ----------
    fragments
        In the order of their rows.
    clustering
        The order to bring the rows into; None leaves them in theirs.
    split
        Cut at the table's limits; otherwise the rows become one fragment.
    """

    fragments: tuple[Fragment, ...]
    clustering: Clustering | None = None
    split: bool = False
    progress: Callable[[str, int, int], None] | None = None
    new_id: Callable[[], UUID] = uuid4


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """A new fragment, its row ids by position, and what a reader of its files must know."""

    fragment: NewFragment
    row_ids: U64
    features: frozenset[str]


@dataclass(slots=True, kw_only=True)
class CompactionReport:
    """What a compaction did.

    Attributes
    ----------
    fragments_removed, fragments_added
        Fragments replaced, and those that took their places.
    rows, bytes_written
        Rows written again, and the size of the new files.
    commits, yielded
        How many commits it took; how many groups of fragments gave way to others' work.
    """

    fragments_removed: int = 0
    fragments_added: int = 0
    rows: int = 0
    bytes_written: int = 0
    commits: int = 0
    yielded: int = 0

    def count(self, groups: Sequence[RewrittenGroup]) -> None:
        """Add groups that one commit put in place."""
        self.commits += 1
        for group in groups:
            self.fragments_removed += len(group.sources)
            self.fragments_added += len(group.rewritten)
            self.rows += group.rows
            self.bytes_written += sum(file.size for file in group.files)


@dataclass(frozen=True, slots=True, kw_only=True)
class RewrittenGroup:
    """Fragments as they were read in one version, and what was written of them; not committed."""

    base: Version
    sources: tuple[Fragment, ...]
    rewritten: tuple[Rewritten, ...]
    kind: str = "compact"

    @property
    def rows(self) -> int:
        """Rows written."""
        return sum(new.fragment.row_count for new in self.rewritten)

    @property
    def files(self) -> list[ColumnGroup]:
        """What was written."""
        return [file for new in self.rewritten for file in new.fragment.groups]

    @property
    def change(self) -> CompactFragments:
        """The commit that puts the new fragments in the places of those read."""
        return CompactFragments(
            sources=self.sources,
            rewritten=self.rewritten,
            kind=self.kind,
            summary={"fragments_removed": len(self.sources), "rows": self.rows},
        )


def choose_fragments(
    fragments: FragmentTable, target: CompactionTarget, unfit: npt.NDArray[np.bool_] | None = None
) -> list[list[int]]:
    """Rows of the fragment table to be replaced by one fragment each, in scan order.

    Small fragments are gathered up to the target size. A fragment that is written anew is above half the target
    unless nothing was left to gather, so that a second compaction finds nothing to do.

    Parameters
    ----------
    unfit
        Fragments to be written anew whatever else they are like; shape ``(fragments,)``.
    """
    rows = fragments.integers("row_count").astype(np.int64)
    deleted = fragments.integers("deleted_count").astype(np.int64)
    live = rows - deleted
    size = _live_bytes(fragments)
    worn = deleted >= np.maximum(rows * target.deleted_share, 1)
    patches, patched = _patches(fragments)
    worn |= (patches >= MOST_PATCHES) | (patched >= np.maximum(rows * PATCHED_SHARE, 1))
    if unfit is not None:
        worn |= unfit
    small = (2 * live < target.rows) & (2 * size < target.bytes)
    partitions = fragments.partition_numbers()
    chosen = np.flatnonzero(worn | small)
    chosen = chosen[np.argsort(partitions[chosen], kind="stable")]
    return [
        group
        for group in _gathered(chosen, live, size, target, partitions)
        if len(group) > 1 or bool(worn[group[0]])
    ]


def choose_unclustered(
    fragments: FragmentTable, order: str | None, *, full: CompactionTarget, group: CompactionTarget
) -> list[list[int]]:
    """Rows of the fragment table to be sorted together, each group of one partition and of ``group``'s size.

    Left alone are fragments that are in ``order`` already, unless they are small (below half of ``full``) and there
    are others to sort them with. None sorts all.
    """
    live = fragments.integers("row_count").astype(np.int64)
    live -= fragments.integers("deleted_count").astype(np.int64)
    size = _live_bytes(fragments)
    marks = fragments.table.column("clustering").to_pylist()
    unsorted = np.array([order is None or mark != order for mark in marks], bool)
    small = (2 * live < full.rows) & (2 * size < full.bytes)
    partitions = fragments.partition_numbers()
    chosen = np.flatnonzero(unsorted | small)
    chosen = chosen[np.argsort(partitions[chosen], kind="stable")]
    return [
        found
        for found in _gathered(chosen, live, size, group, partitions)
        if bool(unsorted[found].any()) or len(found) > 1
    ]


def _live_bytes(fragments: FragmentTable) -> _I64:
    """About how many bytes each fragment's live rows take; shape ``(fragments,)``."""
    rows = fragments.integers("row_count").astype(np.int64)
    live = rows - fragments.integers("deleted_count").astype(np.int64)
    return (_stored_bytes(fragments) * (live / np.maximum(rows, 1))).astype(np.int64)


def _stored_bytes(fragments: FragmentTable) -> _I64:
    """Bytes of each fragment's files; shape ``(fragments,)``."""
    column = fragments.table.column("groups").combine_chunks()
    sizes = column.flatten().field("size").to_numpy(zero_copy_only=False).astype(np.int64)
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    lengths = column.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    stops = np.cumsum(lengths)
    return np.asarray(ends[stops] - ends[stops - lengths])


def _patches(fragments: FragmentTable) -> tuple[_I64, _I64]:
    """How many patches each fragment has, and how many rows they hold together; shape ``(fragments,)`` each."""
    column = fragments.table.column("patches")
    if column.null_count == len(fragments):
        return np.zeros(len(fragments), np.int64), np.zeros(len(fragments), np.int64)
    lists = column.combine_chunks()
    owners = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)
    rows = lists.flatten().field("count").to_numpy(zero_copy_only=False).astype(np.int64)
    return (
        np.bincount(owners, minlength=len(fragments)),
        np.bincount(owners, weights=rows, minlength=len(fragments)).astype(np.int64),
    )


def _gathered(
    chosen: _I64, live: _I64, size: _I64, target: CompactionTarget, partitions: _I64
) -> Iterator[list[int]]:
    """Groups of neighbouring fragments of one partition, each up to the target's size."""
    group: list[int] = []
    rows = held = 0
    for index in chosen.tolist():
        full = rows + live[index] > target.rows or held + size[index] > target.bytes
        if group and (full or partitions[index] != partitions[group[0]]):
            yield group
            group, rows, held = [], 0, 0
        group.append(index)
        rows, held = rows + int(live[index]), held + int(size[index])
    if group:
        yield group


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactFragments:
    """Put fragments of the same rows in place of several.

    Attributes
    ----------
    sources
        The fragments as they were read.
    rewritten
        Their rows that were live then.
    kind
        ``compact``, or ``cluster`` where the rows were brought into another order.
    """

    sources: tuple[Fragment, ...]
    rewritten: tuple[Rewritten, ...]
    kind: str = "compact"
    summary: Mapping[str, Any] = field(default_factory=dict)

    @property
    def record(self) -> OperationRecord:
        """The fragments it removes."""
        return OperationRecord(
            kind=self.kind, fragments_removed=frozenset(source.fragment_id for source in self.sources)
        )

    def apply(self, draft: Draft) -> OperationRecord:
        """Replace the fragments; rows that left them meanwhile are dead in the new one (IDN-12)."""
        fragments = draft.snapshot.fragments
        departed = [self._departed(source, fragments.by_id(source.fragment_id)) for source in self.sources]
        gone = np.concatenate(departed)
        draft.replace_fragments({source.fragment_id: None for source in self.sources})
        for new in self.rewritten:
            dead = np.flatnonzero(np.isin(new.row_ids, gone)) if len(gone) else np.empty(0, np.int64)
            if len(dead) < len(new.row_ids):
                draft.add_compacted(new.fragment, new.row_ids, dead, new.features)
        return self.record

    def replan(self, latest: Snapshot) -> Self:
        """No rule of the matrix plans a compaction anew: it gives way."""
        raise YieldedError(f"a {self.kind} is not planned anew", fix="start it again")

    def _departed(self, source: Fragment, now: Fragment | None) -> U64:
        """Row ids that were live in the fragment when it was read and are not now."""
        if now is None or not now.holds_what(source):
            raise YieldedError(
                f"fragment {source.fragment_id} was replaced while it was rewritten", fix="start it again"
            )
        if now.deletions == source.deletions:
            return np.empty(0, np.uint64)
        left = np.setdiff1d(deleted_positions(now), deleted_positions(source))
        return source.row_ids()[left.astype(np.int64)]
