"""Compaction: which fragments are worth putting together, and the commit that puts one in place of several.

Choosing looks at manifests only; writing the new files is the engine's work. Rows keep their ids, so indexes are not
touched (spec/upkeep.md, UPK-1 to UPK-3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from uuid import UUID, uuid4

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from lake_format.draft import Draft
from lake_format.manifest import FragmentTable
from lake_format.model import Fragment, NewFragment
from lake_format.operation_record import OperationRecord
from lake_format.patching import MOST_PATCHES, PATCHED_SHARE
from lake_format.row_ids import U64
from lake_format.snapshot import Snapshot, deleted_positions
from lake_format.transaction import YieldedError

__all__ = [
    "CompactFragments",
    "CompactionReport",
    "CompactionTarget",
    "RewriteRequest",
    "Rewritten",
    "choose_fragments",
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
    """Fragments whose live rows are to be written as one new fragment, in the order given."""

    fragments: tuple[Fragment, ...]
    progress: Callable[[str, int, int], None] | None = None
    new_id: Callable[[], UUID] = uuid4


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """The new fragment, its row ids by position, and what a reader of its files must know."""

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
        How many groups of fragments were replaced, one commit each; how many gave way to others' work.
    """

    fragments_removed: int = 0
    fragments_added: int = 0
    rows: int = 0
    bytes_written: int = 0
    commits: int = 0
    yielded: int = 0


def choose_fragments(fragments: FragmentTable, target: CompactionTarget) -> list[list[int]]:
    """Rows of the fragment table to be replaced by one fragment each, in scan order.

    Small fragments are gathered up to the target size. A fragment that is written anew is above half the target
    unless nothing was left to gather, so that a second compaction finds nothing to do.
    """
    rows = fragments.integers("row_count").astype(np.int64)
    deleted = fragments.integers("deleted_count").astype(np.int64)
    live = rows - deleted
    size = (_stored_bytes(fragments) * (live / np.maximum(rows, 1))).astype(np.int64)
    worn = deleted >= np.maximum(rows * target.deleted_share, 1)
    patches, patched = _patches(fragments)
    worn |= (patches >= MOST_PATCHES) | (patched >= np.maximum(rows * PATCHED_SHARE, 1))
    small = (2 * live < target.rows) & (2 * size < target.bytes)
    chosen = np.flatnonzero(worn | small)
    return [
        group for group in _gathered(chosen, live, size, target) if len(group) > 1 or bool(worn[group[0]])
    ]


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


def _gathered(chosen: _I64, live: _I64, size: _I64, target: CompactionTarget) -> Iterator[list[int]]:
    group: list[int] = []
    rows = held = 0
    for index in chosen.tolist():
        if group and (rows + live[index] > target.rows or held + size[index] > target.bytes):
            yield group
            group, rows, held = [], 0, 0
        group.append(index)
        rows, held = rows + int(live[index]), held + int(size[index])
    if group:
        yield group


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactFragments:
    """Put a fragment of the same rows in place of several.

    Attributes
    ----------
    sources
        The fragments as they were read, in the order of their rows in the new one.
    rewritten
        Their rows that were live then.
    """

    sources: tuple[Fragment, ...]
    rewritten: Rewritten
    summary: Mapping[str, Any] = field(default_factory=dict)

    @property
    def record(self) -> OperationRecord:
        """The fragments it removes."""
        return OperationRecord(
            kind="compact", fragments_removed=frozenset(source.fragment_id for source in self.sources)
        )

    def apply(self, draft: Draft) -> OperationRecord:
        """Replace the fragments; rows that left them meanwhile are dead in the new one (IDN-12)."""
        fragments = draft.snapshot.fragments
        departed = [self._departed(source, fragments.by_id(source.fragment_id)) for source in self.sources]
        gone = np.concatenate(departed)
        dead = np.flatnonzero(np.isin(self.rewritten.row_ids, gone)) if len(gone) else np.empty(0, np.int64)
        draft.replace_fragments({source.fragment_id: None for source in self.sources})
        if len(dead) < len(self.rewritten.row_ids):
            draft.add_compacted(
                self.rewritten.fragment, self.rewritten.row_ids, dead, self.rewritten.features
            )
        return self.record

    def replan(self, latest: Snapshot) -> Self:
        """No rule of the matrix plans a compaction anew: it gives way."""
        raise YieldedError("a compaction is not planned anew", fix="compact again")

    def _departed(self, source: Fragment, now: Fragment | None) -> U64:
        """Row ids that were live in the fragment when it was read and are not now."""
        if now is None or not now.holds_what(source):
            raise YieldedError(
                f"fragment {source.fragment_id} was replaced while it was compacted", fix="compact again"
            )
        if now.deletions == source.deletions:
            return np.empty(0, np.uint64)
        left = np.setdiff1d(deleted_positions(now), deleted_positions(source))
        return source.row_ids()[left.astype(np.int64)]
