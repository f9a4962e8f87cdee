"""Upkeep of indexes: what an engine is asked to encode anew, and the commit that puts shards in place of others.

Plain values between the table, which commits, and the engine, which reads vectors and writes shards. An index is
never wrong, only behind; upkeep lets it catch up (spec/upkeep.md, UPK-20 to UPK-23; spec/identity.md, IDN-8 to 10).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self
from uuid import UUID, uuid4

import numpy as np
from pyroaring import BitMap64

from lake_format.draft import Draft
from lake_format.model import IndexEntry, IndexShard
from lake_format.operation_record import OperationRecord
from lake_format.row_ids import U64
from lake_format.snapshot import Snapshot
from lake_format.transaction import YieldedError

__all__ = ["EncodedRows", "IndexReport", "IndexUpkeepRequest", "ReplaceShards"]


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexUpkeepRequest:
    """An index that should catch up with the rows of a snapshot.

    Attributes
    ----------
    entry
        The index as it is in the snapshot.
    retrain
        True trains the model anew, False never does, None where the vectors have drifted away from it.
    model
        A shard of no row that has the index's model, where none of its own is known to.
    join
        Put all shards together, whatever their sizes.
    measure
        Whether what a new shard takes to reach a recall is measured; without it, a search scans all of the shard.
    threads
        How many to use; all processors by default.
    """

    entry: IndexEntry
    retrain: bool | None = None
    model: IndexShard | None = None
    join: bool = False
    measure: bool = True
    threads: int | None = None
    progress: Callable[[str, int, int], None] | None = None
    new_id: Callable[[], UUID] = uuid4


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedRows:
    """What an engine wrote for an index.

    Attributes
    ----------
    shards
        New shards; nothing of them is visible before the commit.
    removed
        Paths of the shards whose rows they take over.
    kind, parameters
        Of the index from now on.
    encoded, copied, dropped
        Rows encoded anew; rows whose codes were taken over; rows no longer covered, as they are gone or stale.
    retrained
        Why the model was trained anew; "" where it was kept.
    """

    shards: tuple[IndexShard, ...]
    removed: frozenset[str]
    kind: str
    parameters: Mapping[str, Any]
    encoded: int
    copied: int
    dropped: int
    retrained: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexReport:
    """What upkeep of one index did.

    Attributes
    ----------
    index
        Its name.
    encoded, copied, dropped
        Rows encoded anew; rows whose codes were copied into another shard; rows no longer covered, as they are
        gone or have other values.
    shards
        Shards the index has now.
    bytes_written
        Size of the new ones.
    retrained
        Why the model was trained anew; "" where it was kept.
    yielded
        Whether the work was given up because somebody changed the index meanwhile.
    """

    index: str
    encoded: int = 0
    copied: int = 0
    dropped: int = 0
    shards: int = 0
    bytes_written: int = 0
    retrained: str = ""
    yielded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaceShards:
    """Put new shards in place of some that an index has.

    Attributes
    ----------
    entry
        The index as it was in the version the shards were built on.
    rows
        What was built.
    overtaken
        Rows that others gave new values since: they are stale in the new shards (IDN-10).
    """

    entry: IndexEntry
    rows: EncodedRows
    summary: Mapping[str, Any]
    overtaken: BitMap64 = field(default_factory=BitMap64)

    @property
    def record(self) -> OperationRecord:
        """The index it claims and the column it reads."""
        return OperationRecord(
            kind="optimize_index",
            fields_read=frozenset({self.entry.field_id}),
            claims=frozenset({f"index:{self.entry.name}"}),
        )

    def apply(self, draft: Draft) -> OperationRecord:
        """Replace the shards; those that appends added meanwhile stay."""
        now = next(
            (one for one in draft.version.indexes if one.index_id == self.entry.index_id),
            None,
        )
        if now is None or not self.rows.removed <= {shard.path for shard in now.shards}:
            raise YieldedError(
                f"index {self.entry.name!r} was changed while it was optimized", fix="optimize it again"
            )
        kept = tuple(shard for shard in now.shards if shard.path not in self.rows.removed)
        stale = (_bitmap(now.stale) - self._settled(kept)) | self.overtaken
        draft.replace_index(
            replace(
                now,
                kind=self.rows.kind,
                parameters=self.rows.parameters,
                shards=(*kept, *self.rows.shards),
                stale=stale.serialize() if stale else None,
            )
        )
        return self.record

    def overtaken_by(self, theirs: Sequence[OperationRecord]) -> ReplaceShards:
        """The change with the rows stale whose indexed value others wrote meanwhile."""
        written = [
            row_id
            for record in theirs
            if self.entry.field_id in record.fields_written
            for row_id in record.rows_updated
        ]
        return replace(self, overtaken=self.overtaken | BitMap64(written)) if written else self

    def replan(self, latest: Snapshot) -> Self:
        """No rule of the matrix plans upkeep anew: it gives way."""
        raise YieldedError("an index is not optimized anew", fix="optimize it again")

    def _settled(self, kept: Sequence[IndexShard]) -> BitMap64:
        """Rows that were stale when the shards were built and that no shard kept covers: encoded anew, or gone."""
        stale = _bitmap(self.entry.stale)
        if not stale:
            return stale
        ids: U64 = np.fromiter(stale, np.uint64, len(stale))
        for shard in kept:
            ids = np.setdiff1d(ids, shard.decoded_row_ids(), assume_unique=True)
        return BitMap64(ids.tolist())


def _bitmap(stored: bytes | None) -> BitMap64:
    return BitMap64() if stored is None else BitMap64.deserialize(stored)
