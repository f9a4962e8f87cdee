"""Commits that are about keys: declare one, drop it, put the runs of the key index together.

What they need to know of the data was found out by the engine before (spec/identity.md, IDN-13; spec/keys.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import pyarrow as pa

from lake_format.draft import Draft
from lake_format.engine import Engine
from lake_format.errors import ConflictError
from lake_format.key_index import KeyIndex, KeyRunsMerged
from lake_format.keys import KEY_FEATURE, KEY_PROPERTY, key_field_ids
from lake_format.operation_record import OperationRecord
from lake_format.schema import field_by_id, field_id
from lake_format.snapshot import Snapshot
from lake_format.transaction import Surroundings, YieldedError

__all__ = ["DropKey", "SetKey", "SettleKeyIndex"]

_CLAIM = frozenset({f"property:{KEY_PROPERTY}"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SetKey:
    """Declare columns the key; every row of the version it was planned on has been looked at.

    Attributes
    ----------
    columns
        The key's columns as they were then, in order.
    index
        Over all rows of that version.
    """

    engine: Engine
    around: Surroundings
    base: Snapshot
    columns: tuple[pa.Field, ...]
    index: KeyIndex

    @property
    def record(self) -> OperationRecord:
        """Rows written meanwhile must be looked at too."""
        return OperationRecord(
            kind="set_properties",
            fields_read=frozenset(self.index.field_ids),
            fields_required=frozenset(self.index.field_ids),
            claims=_CLAIM,
        )

    @property
    def summary(self) -> Mapping[str, Any]:
        """The columns."""
        return {"key": [column.name for column in self.columns]}

    def apply(self, draft: Draft) -> OperationRecord:
        """Make the columns NOT NULL, and name them as the key."""
        schema = draft.version.schema
        for planned in self.columns:
            now = field_by_id(schema, field_id(planned))
            if now is None or now.type != planned.type:
                raise ConflictError(
                    f"column {planned.name!r} was changed or dropped meanwhile",
                    fix="refresh() the table and set the key again",
                )
            if now.nullable:
                schema = schema.set(schema.get_field_index(now.name), now.with_nullable(False))
        if schema is not draft.version.schema:
            draft.set_schema(schema)
        key = ",".join(str(identity) for identity in self.index.field_ids)
        draft.set_properties({**draft.version.properties, KEY_PROPERTY: key})
        draft.require_features({KEY_FEATURE})
        draft.set_key_index(self.index)
        return self.record

    def replan(self, latest: Snapshot) -> Self:
        """Look at all rows again."""
        self.discard()
        found = [field_by_id(latest.schema, identity) for identity in self.index.field_ids]
        columns = tuple(one for one in found if one is not None)
        if len(columns) < len(found):
            raise ConflictError("a column of the key was dropped meanwhile", fix="choose another key")
        index = self.engine.build_key_index(latest, [column.name for column in columns], self.around.new_id)
        return replace(self, base=latest, columns=columns, index=index)

    def discard(self) -> None:
        """Remove the files of an index that will not be committed."""
        self.engine.discard_files(self.base.store, (), tuple(self.index.paths()))


@dataclass(frozen=True, slots=True, kw_only=True)
class DropKey:
    """Let the table have no key any more; its columns stay NOT NULL."""

    summary: Mapping[str, Any] = field(default_factory=lambda: {"key": []})
    record: OperationRecord = field(
        default_factory=lambda: OperationRecord(kind="set_properties", claims=_CLAIM)
    )

    def apply(self, draft: Draft) -> OperationRecord:
        """Take the property and the index away."""
        kept = {name: value for name, value in draft.version.properties.items() if name != KEY_PROPERTY}
        draft.set_properties(kept)
        draft.set_key_index(None)
        return self.record

    def replan(self, latest: Snapshot) -> Self:
        """Nothing is computed from the base."""
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleKeyIndex:
    """Put one run in place of those of the version it was made from."""

    base: Snapshot
    merged: KeyRunsMerged

    @property
    def record(self) -> OperationRecord:
        """An index's upkeep; only writers of key columns, and other upkeep of it, are in the way."""
        fields = key_field_ids(self.base.version.properties)
        return OperationRecord(
            kind="optimize_index", fields_read=frozenset(fields), claims=frozenset({"index:key"})
        )

    @property
    def summary(self) -> Mapping[str, Any]:
        """How many runs became one."""
        return {"key runs merged": len(self.merged.replaced)}

    def apply(self, draft: Draft) -> OperationRecord:
        """Replace the runs, if they are all still there and over the same key."""
        index, planned = draft.version.key_index, self.base.version.key_index
        if index is None or planned is None or index.field_ids != planned.field_ids:
            raise YieldedError("the table has another key by now", fix="compact again")
        changed = index.with_merged(self.merged)
        if changed is index:
            raise YieldedError("runs of the key index were merged meanwhile", fix="compact again")
        draft.set_key_index(changed)
        return self.record

    def overtaken_by(self, theirs: Sequence[OperationRecord]) -> Self:
        """Give way to whoever changed keys of existing rows: the run has the old ones."""
        if any(not self.record.fields_read.isdisjoint(record.fields_written) for record in theirs):
            raise YieldedError("keys were changed while their index was merged", fix="compact again")
        return self

    def replan(self, latest: Snapshot) -> Self:
        """Upkeep gives way."""
        raise YieldedError("the key index is not merged anew", fix="compact again")
