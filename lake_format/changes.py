"""Changes whose files are already written: rows to append, an index to add. The simplest kinds of commit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import pyarrow as pa
from pyroaring import BitMap64

from lake_format.completing import Completing
from lake_format.draft import Draft, staler
from lake_format.errors import ConflictError
from lake_format.model import IndexEntry, IndexShard, NewFragment
from lake_format.operation_record import OperationRecord
from lake_format.row_ids import encode_row_ids
from lake_format.schema import field_id, walk_fields, without_field_ids
from lake_format.snapshot import Snapshot

__all__ = ["AddFragments", "AddIndex", "DropIndex", "SetProperties"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AddFragments:
    """Append rows that are already written to files."""

    record: OperationRecord
    summary: Mapping[str, Any]
    fragments: tuple[NewFragment, ...]
    features: frozenset[str] = frozenset()
    roots: Mapping[int, str] = field(default_factory=dict)
    """External roots that the fragments' files lie in."""
    shards: Mapping[str, IndexShard] = field(default_factory=dict)
    """Shards over the new rows, by the id of their index; their row ids count on from ``first_row_id``."""
    first_row_id: int = 0
    schema: pa.Schema | None = None
    """The schema the files were written with, where it is one of a transaction that has not landed."""
    completing: Completing | None = None
    """How the rows get columns that become computed before they land; None where that is a conflict."""

    @property
    def lasting(self) -> bool:
        """Rows are the same whatever happens to others."""
        return True

    def apply(self, draft: Draft) -> OperationRecord:
        """Add the fragments, and to the indexes that are still there what was encoded of them."""
        draft.add_roots(self.roots)
        shift = draft.version.next_row_id - self.first_row_id
        draft.add_fragments(self._numbered(draft), self.features)
        for entry in draft.version.indexes:
            shard = self.shards.get(entry.index_id)
            if shard is not None:
                draft.replace_index(replace(entry, shards=(*entry.shards, _shifted(shard, shift))))
        return self.record

    def replan(self, latest: Snapshot) -> Self:
        """Rows written for one schema go into another only where no rule was added that they were not checked for.

        A column that is computed since is computed for them too.
        """
        if self.completing is not None:
            fragments, features = self.completing.complete(self.fragments, latest)
            return replace(
                self,
                fragments=fragments,
                features=self.features | features,
                completing=self.completing.on(latest.version),
            )
        raise ConflictError(
            f"version {latest.version.version} brought a rule that the rows were not checked against",
            fix="refresh() the table and append again",
        )

    def _numbered(self, draft: Draft) -> Sequence[NewFragment]:
        """The fragments under the ids that a schema of the same transaction got in the end (EVO-7)."""
        version = draft.version
        planned = {group.schema_id for fragment in self.fragments for group in fragment.groups}
        if self.schema is None or all(self.schema.equals(version.schemas.get(one)) for one in planned):
            return self.fragments
        ids: dict[int, int] = {}
        for column in self.schema:
            at = version.schema.get_field_index(column.name)
            before, now = pa.schema([column]), pa.schema([version.schema.field(at)] if at >= 0 else [])
            if without_field_ids(before) != without_field_ids(now):
                raise ConflictError(
                    f"others changed column {column.name!r} while this transaction wrote rows for it",
                    fix="nothing was written; do the transaction again",
                )
            pairs = zip(walk_fields(before), walk_fields(now), strict=True)
            ids |= {field_id(one): field_id(other) for one, other in pairs}
        return [_renumbered(fragment, ids, version.schema_id) for fragment in self.fragments]


def _renumbered(fragment: NewFragment, ids: Mapping[int, int], schema_id: int) -> NewFragment:
    return replace(
        fragment,
        groups=tuple(
            replace(group, schema_id=schema_id, field_ids=tuple(ids[one] for one in group.field_ids))
            for group in fragment.groups
        ),
        statistics=tuple(replace(one, field_id=ids[one.field_id]) for one in fragment.statistics),
    )


def _shifted(shard: IndexShard, distance: int) -> IndexShard:
    """The shard with the row ids its rows got in the end (IDN-9)."""
    if distance == 0:
        return shard
    row_ids = (shard.decoded_row_ids().astype(np.int64) + distance).astype(np.uint64)
    return replace(shard, row_ids=encode_row_ids(row_ids))


@dataclass(frozen=True, slots=True, kw_only=True)
class SetProperties:
    """Set table properties; None removes one, so that its default holds."""

    record: OperationRecord
    summary: Mapping[str, Any]
    values: Mapping[str, str | None]

    def apply(self, draft: Draft) -> OperationRecord:
        """Merge the values into the properties there are."""
        merged = {**draft.version.properties, **self.values}
        draft.set_properties({name: value for name, value in merged.items() if value is not None})
        return self.record

    def replan(self, latest: Snapshot) -> Self:
        """Fits any version."""
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class AddIndex:
    """Add an index whose shards are already written."""

    record: OperationRecord
    summary: Mapping[str, Any]
    entry: IndexEntry
    rebuild: Callable[[Snapshot], IndexEntry] | None = None
    """Builds it again, over rows that were changed in the same transaction before."""

    @property
    def lasting(self) -> bool:
        """Whether what it covers was there before."""
        return self.rebuild is None

    def apply(self, draft: Draft) -> OperationRecord:
        """Put the index in place."""
        draft.put_index(self.entry)
        return self.record

    def overtaken_by(self, theirs: Sequence[OperationRecord]) -> AddIndex:
        """The index with rows stale whose indexed value others wrote since it was built (IDN-10)."""
        written = [
            row_id
            for record in theirs
            if self.entry.field_id in record.fields_written
            for row_id in record.rows_updated
        ]
        return replace(self, entry=staler(self.entry, BitMap64(written))) if written else self

    def replan(self, latest: Snapshot) -> Self:
        """An index is not built anew behind its user's back, unless over rows of its own transaction."""
        if self.rebuild is not None:
            entry = self.rebuild(latest)
            return replace(
                self, entry=entry, record=replace(self.record, fields_read=frozenset({entry.field_id}))
            )
        raise ConflictError(
            f"the table was restored to an older state as version {latest.version.version}",
            fix="build the index again",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DropIndex:
    """Remove an index by name; its files are collected once no kept version names them."""

    record: OperationRecord
    summary: Mapping[str, Any]
    name: str

    def apply(self, draft: Draft) -> OperationRecord:
        """Take the index out; one that went with its column is gone already."""
        draft.remove_indexes([self.name])
        return self.record

    def replan(self, latest: Snapshot) -> Self:
        """Fits any version."""
        return self
