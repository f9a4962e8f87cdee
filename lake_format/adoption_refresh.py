"""One commit that brings a table of adopted files up to date with what they belong to: files, deletes and columns.

What came, what went and what the schemas were is known beforehand, told against one version of the table; here it is
made to fit whatever version it lands on. Rows are found by row id, so that those that were compacted or moved
meanwhile go where they are now. Nothing is looked up outside the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Self

import pyarrow as pa

from lake_format.adoption import Adoption
from lake_format.column_defaults import DEFAULTS_FEATURE
from lake_format.completing import Completing
from lake_format.draft import Draft
from lake_format.errors import ConflictError, InvalidInputError, LakeError
from lake_format.model import ColumnGroup
from lake_format.operation_record import OperationRecord
from lake_format.row_changes import Touched, land_rows
from lake_format.row_edits import RowEdits, TouchedRows
from lake_format.row_runs import RowRuns
from lake_format.schema import DEFAULT_KEY, field_id, is_computed, walk_fields
from lake_format.schema_changes import check_schema
from lake_format.schema_following import evolves_types, followed, following_records
from lake_format.snapshot import Snapshot
from lake_format.table import Table
from lake_format.transaction import REFUSALS

__all__ = ["Removal", "refresh_adopting"]

_AGAIN = "nothing was written; refresh the table again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """Rows that go, as they lie in the version that was looked at.

    Attributes
    ----------
    rows
        The rows, by fragment and position; live.
    row_ids
        The same, or more.
    replaced
        Those of files that went while others came, which may hold the same rows.
    """

    rows: tuple[TouchedRows, ...] = ()
    row_ids: RowRuns = field(default_factory=RowRuns)
    replaced: RowRuns = field(default_factory=RowRuns)


def refresh_adopting(
    table: Table,
    adoption: Adoption,
    removal: Removal,
    *,
    base: Snapshot,
    schemas: tuple[pa.Schema, pa.Schema],
    next_field_id: int,
    properties: Mapping[str, str | None],
) -> None:
    """Commit what came and went, and move the table to that version.

    Parameters
    ----------
    adoption
        The files that came; its summary is the commit's.
    base
        The version that all of it was told against.
    schemas
        The columns of what the files belong to, at the last refresh and now, in field ids that the table shares.
    next_field_id
        The first id that nothing in ``adoption`` uses.
    properties
        What the table is to remember of this; None removes a property.

    Raises
    ------
    ConflictError
        Others committed meanwhile what does not go together with it, another refresh above all.
    """
    completing = table._completing(base.version)
    change = _Refresh(adoption, removal, base, schemas, next_field_id, properties, completing)
    try:
        table._commit(change, base=base.version)
    except REFUSALS:
        change.discard()
        raise


class _Refresh:
    """The change; its operations count as if they were made here one after another."""

    def __init__(
        self,
        adoption: Adoption,
        removal: Removal,
        base: Snapshot,
        schemas: tuple[pa.Schema, pa.Schema],
        next_field_id: int,
        properties: Mapping[str, str | None],
        completing: Completing,
    ) -> None:
        self._completing = completing
        self._written: tuple[ColumnGroup, ...] = ()
        self._adoption = adoption
        self._removal = removal
        self._base = base
        self._schemas = schemas
        self._next_field_id = next_field_id
        self._properties = properties
        self._records = list(self._planned())

    @property
    def record(self) -> OperationRecord:
        """The first operation."""
        return self._records[0]

    @property
    def others(self) -> Sequence[OperationRecord]:
        """The operations after it."""
        return self._records[1:]

    @property
    def summary(self) -> Mapping[str, Any]:
        """Figures for the history."""
        return self._adoption.summary

    def apply(self, draft: Draft) -> OperationRecord:
        """Follow the schema, let rows go, add files, remember how far this went."""
        self._follow(draft)
        touched = Touched()
        if self._removal.rows:
            land_rows(draft, self._base, RowEdits(deletes=self._removal.rows), touched)
        self._completed(draft).apply(draft)
        kept = {**draft.version.properties, **self._properties}
        draft.set_properties({name: value for name, value in kept.items() if value is not None})
        self._records = [
            replace(
                one,
                fragments_masked=frozenset(touched.masked),
                fragments_removed=frozenset(touched.removed),
            )
            if one.kind == "delete"
            else one
            for one in self._records
        ]
        return self.record

    def discard(self) -> None:
        """Remove the files of computed columns that were written for a version which somebody else got."""
        groups, self._written = self._written, ()
        with suppress(LakeError):  # then they are garbage like any other
            self._completing.engine.discard_files(self._base.store, groups)

    def overtaken_by(self, theirs: Sequence[OperationRecord]) -> Self:
        """Refuse where rows were deleted meanwhile that a new file may hold again."""
        if any(self._removal.replaced.overlaps(one.rows_deleted) for one in theirs):
            raise ConflictError("rows of files that are to be replaced were deleted meanwhile", fix=_AGAIN)
        return self

    def replan(self, latest: Snapshot) -> Self:
        """What was read elsewhere is not read again from here."""
        raise ConflictError(
            f"version {latest.version.version} changed what this was checked against", fix=_AGAIN
        )

    # --- inside -------------------------------------------------------------------------------------------

    def _planned(self) -> list[OperationRecord]:
        """The record of each operation; a row that goes conflicts with whatever else becomes of it."""
        schema = self._base.schema
        records = []
        if self._adoption.fragments:
            records.append(self._adoption.record)
        if self._removal.rows:
            everything = frozenset(field_id(one) for one in walk_fields(schema))
            records.append(
                OperationRecord(
                    kind="delete",
                    fields_read=everything,
                    rows_deleted=self._removal.row_ids,
                    fragments_masked=frozenset(one.fragment_id for one in self._removal.rows),
                )
            )
        records += following_records(schema, followed(*self._schemas, schema))
        claims = frozenset(f"property:{name}" for name in self._properties)
        return [*records, OperationRecord(kind="set_properties", claims=claims)]

    def _completed(self, draft: Draft) -> Adoption:
        """The files that came, and beside them those of columns that are computed here (EVO-14)."""
        self.discard()
        columns = [one for one in draft.version.schema if is_computed(one)]
        if not columns or not self._adoption.fragments:
            return self._adoption
        known = self._adoption.known_to(draft)
        completing = self._completing
        fragments, features = completing.engine.complete_fragments(
            draft.snapshot, known.fragments, columns, completing.new_id
        )
        before = {group.path for one in known.fragments for group in one.groups}
        groups = (group for one in fragments for group in one.groups)
        self._written = tuple(group for group in groups if group.path not in before)
        return replace(known, fragments=fragments, features=known.features | features)

    def _follow(self, draft: Draft) -> None:
        version = draft.version
        if self._next_field_id > self._base.version.next_field_id:
            if version.next_field_id != self._base.version.next_field_id:
                raise ConflictError("others added columns meanwhile", fix=_AGAIN)
            draft.take_field_ids(self._next_field_id)
        schema = followed(*self._schemas, version.schema)
        if schema.equals(version.schema, check_metadata=True):
            return
        try:
            check_schema(version, schema)
        except InvalidInputError as error:
            raise ConflictError(f"the columns cannot follow: {error.what}", fix=error.fix) from error
        kept = {field_id(one) for one in walk_fields(schema)}
        draft.remove_indexes([entry.name for entry in version.indexes if entry.field_id not in kept])
        draft.set_schema(schema)
        if evolves_types(version.schema, schema):
            draft.require_features({"evolved-types"})
        if any(DEFAULT_KEY in (column.metadata or {}) for column in schema):
            draft.require_features({DEFAULTS_FEATURE})
