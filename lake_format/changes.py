"""Changes whose files are already written: rows to append, an index to add. The simplest kinds of commit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from pyroaring import BitMap64

from lake_format.draft import Draft, staler
from lake_format.errors import ConflictError
from lake_format.model import IndexEntry, NewFragment
from lake_format.operation_record import OperationRecord
from lake_format.snapshot import Snapshot

__all__ = ["AddFragments", "AddIndex"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AddFragments:
    """Append rows that are already written to files."""

    record: OperationRecord
    summary: Mapping[str, Any]
    fragments: tuple[NewFragment, ...]
    features: frozenset[str] = frozenset()
    roots: Mapping[int, str] = field(default_factory=dict)
    """External roots that the fragments' files lie in."""

    def apply(self, draft: Draft) -> OperationRecord:
        """Add the fragments."""
        draft.add_roots(self.roots)
        draft.add_fragments(self.fragments, self.features)
        return self.record

    def replan(self, latest: Snapshot) -> Self:
        """Rows written for one schema go into another only where no rule was added that they were not checked for."""
        raise ConflictError(
            f"version {latest.version.version} brought a rule that the rows were not checked against",
            fix="refresh() the table and append again",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AddIndex:
    """Add an index whose shards are already written."""

    record: OperationRecord
    summary: Mapping[str, Any]
    entry: IndexEntry

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
        """An index is not built anew behind its user's back."""
        raise ConflictError(
            f"the table was restored to an older state as version {latest.version.version}",
            fix="build the index again",
        )
