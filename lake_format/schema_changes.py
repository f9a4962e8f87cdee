"""Changes to a table's schema as commits: add, drop, rename, alter and reorder columns.

Each names fields by id, so that it fits whatever schema it lands on after others' commits; whether it may land is
the conflict matrix's decision (spec/identity.md, spec/evolution.md). No data is read or written here: values of new
columns come as column groups that are written already (:mod:`lake_format.filling`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import pyarrow as pa

from lake_format.column_defaults import DEFAULTS_FEATURE, with_default
from lake_format.computed_columns import (
    COMPUTED_FEATURE,
    StoredExpression,
    check_computed,
    computed_names,
    with_expression,
)
from lake_format.draft import Draft
from lake_format.errors import ConflictError, InvalidInputError, LakeError
from lake_format.keys import keeps_key_hash, key_field_ids
from lake_format.model import Version
from lake_format.operation_record import OperationRecord
from lake_format.partition_changes import check_partition_sources
from lake_format.schema import field_by_id, field_id, walk_fields
from lake_format.schema_edit import add_field, edit_field, numbered, reorder
from lake_format.snapshot import Snapshot

__all__ = ["AddColumn", "AlterColumn", "DropColumn", "RenameColumn", "ReorderColumns"]
__all__ += ["check_schema", "claim", "put_column", "require_evaluable"]

_EVOLVED = frozenset({"evolved-types"})


def claim(name: str, parent: int | None = None) -> str:
    """The claim on a column's name: of two that differ in case only, both are the same name."""
    return f"column:{'' if parent is None else f'{parent}/'}{name.casefold()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AddColumn:
    """Add a column whose rows are all NULL or have a declared default, or a member of a struct.

    Attributes
    ----------
    column
        The field as the user described it, without ids.
    parent
        The struct that gets a member; None for a top-level column.
    default
        The value, as an array of one, that all rows have which are there when it lands (EVO-10); None is NULL.
    """

    record: OperationRecord
    summary: Mapping[str, Any]
    column: pa.Field
    parent: int | None = None
    default: pa.Array | None = None

    @property
    def names_fields(self) -> frozenset[int]:
        """Ids of the columns it is about."""
        return frozenset() if self.parent is None else frozenset({self.parent})

    def apply(self, draft: Draft) -> OperationRecord:
        """Give the column the next field ids and make it part of the schema."""
        added = put_column(draft, self.column, self.parent, self.default)
        return replace(self.record, fields_written=frozenset({field_id(added)}))

    def replan(self, latest: Snapshot) -> Self:
        """Fits any version, but for a column that forbids NULL and has no default: only one without rows."""
        rows = latest.version.row_count
        if rows and not self.column.nullable and self.default is None:
            raise ConflictError(
                f"column {self.column.name!r} forbids NULL, and others added {rows:,} rows meanwhile",
                fix="refresh() the table and add the column with values",
            )
        return self


def check_schema(version: Version, schema: pa.Schema) -> None:
    """Raise InvalidInputError if a new schema takes something away that partitions or columns are made of."""
    check_partition_sources(version, schema)
    check_computed(version.schema, schema)


def require_evaluable(schema: pa.Schema, check: Callable[[pa.Schema], None]) -> None:
    """Raise ConflictError where a change that lands on a later schema leaves a column that nobody can compute."""
    if not computed_names(schema):
        return
    try:
        check(schema)
    except LakeError as error:
        raise ConflictError(
            f"the schema changed meanwhile: {error.what}", fix="refresh() the table, look, and try again"
        ) from error


def put_column(
    draft: Draft,
    column: pa.Field,
    parent: int | None,
    default: pa.Array | None = None,
    expression: StoredExpression | None = None,
) -> pa.Field:
    """Number a column, append it to the draft's schema and return it as numbered."""
    version = draft.version
    added, following = numbered(column, version.next_field_id)
    if default is not None:
        added = with_default(added, default)
        draft.require_features({DEFAULTS_FEATURE})
    if expression is not None:
        added = with_expression(added, expression)
        draft.require_features({COMPUTED_FEATURE})
    _edit(draft, lambda schema: add_field(schema, added, parent), next_field_id=following)
    if parent is not None:
        draft.require_features(_EVOLVED)
    return added


@dataclass(frozen=True, slots=True, kw_only=True)
class DropColumn:
    """Remove a column or a struct's member, with the indexes over it. Files keep its values, which nobody sees."""

    record: OperationRecord
    summary: Mapping[str, Any]
    field_id: int
    nested: bool = False

    @property
    def names_fields(self) -> frozenset[int]:
        """Ids of the columns it is about."""
        return frozenset({self.field_id})

    def apply(self, draft: Draft) -> OperationRecord:
        """Take the field out of the schema and its indexes out of the version."""
        gone = self.record.fields_written
        draft.remove_indexes([entry.name for entry in draft.version.indexes if entry.field_id in gone])
        _edit(draft, lambda schema: edit_field(schema, self.field_id, lambda _: None))
        if self.nested:
            draft.require_features(_EVOLVED)
        return self.record

    def replan(self, latest: Snapshot) -> Self:
        """Fits any version that has the column."""
        _require(latest, self.field_id)
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class RenameColumn:
    """Give a column or a struct's member another name; its id, data and indexes stay."""

    record: OperationRecord
    summary: Mapping[str, Any]
    field_id: int
    name: str

    @property
    def names_fields(self) -> frozenset[int]:
        """Ids of the columns it is about."""
        return frozenset({self.field_id})

    def apply(self, draft: Draft) -> OperationRecord:
        """Put the new name into the schema."""
        _edit(draft, lambda schema: edit_field(schema, self.field_id, lambda one: one.with_name(self.name)))
        return self.record

    def replan(self, latest: Snapshot) -> Self:
        """Fits any version that has the column."""
        _require(latest, self.field_id)
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class AlterColumn:
    """Change a field's type, nullability or metadata.

    Attributes
    ----------
    edit
        What becomes of the field; applied to it as it is on the version the change lands on.
    check
        Looks at the data of a version and raises where it forbids the change (a NULL in a column made
        required, an instant too far away for a finer unit); None where no data can.
    evaluable
        Raises where a computed column of a schema cannot be computed.
    """

    record: OperationRecord
    summary: Mapping[str, Any]
    field_id: int
    edit: Callable[[pa.Field], pa.Field]
    check: Callable[[Snapshot], None] | None = None
    evaluable: Callable[[pa.Schema], None] = lambda _: None
    features: frozenset[str] = field(default_factory=frozenset)

    @property
    def names_fields(self) -> frozenset[int]:
        """Ids of the columns it is about."""
        return frozenset({self.field_id})

    def apply(self, draft: Draft) -> OperationRecord:
        """Put the altered field into the schema; refused where the field has become part of the key meanwhile."""
        now = field_by_id(draft.version.schema, self.field_id)
        if now is not None and self.field_id in key_field_ids(draft.version.properties):
            after = self.edit(now)
            if after.nullable or not keeps_key_hash(now.type, after.type):
                raise ConflictError(
                    f"column {now.name!r} has become part of the table's key meanwhile",
                    fix="refresh() the table; a key is NOT NULL, and its values hash alike in their new type",
                )
        _edit(draft, lambda schema: edit_field(schema, self.field_id, self.edit))
        require_evaluable(draft.version.schema, self.evaluable)
        draft.require_features(self.features)
        return self.record

    def replan(self, latest: Snapshot) -> Self:
        """Look at the data again: rows came that were not checked."""
        _require(latest, self.field_id)
        if self.check is not None:
            try:
                self.check(latest)
            except InvalidInputError as error:
                raise ConflictError(f"others wrote meanwhile: {error.what}", fix=error.fix) from error
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class ReorderColumns:
    """Put columns, or members of a struct, in another order; of two that meet, the later one counts."""

    record: OperationRecord
    summary: Mapping[str, Any]
    first: tuple[int, ...]
    parent: int | None = None

    @property
    def names_fields(self) -> frozenset[int]:
        """Ids of the columns it is about."""
        return frozenset(self.first)

    def apply(self, draft: Draft) -> OperationRecord:
        """Reorder the draft's schema; columns others added meanwhile stay behind those named."""
        _edit(draft, lambda schema: reorder(schema, self.first, self.parent))
        if self.parent is not None:
            draft.require_features(_EVOLVED)
        return self.record

    def replan(self, latest: Snapshot) -> Self:
        """An order fits any version."""
        return self


def _edit(draft: Draft, change: Callable[[pa.Schema], pa.Schema], next_field_id: int | None = None) -> None:
    """Change the draft's schema; what was possible when planned and is not any more is a conflict."""
    try:
        schema = change(draft.version.schema)
        check_schema(draft.version, schema)
    except InvalidInputError as error:
        raise ConflictError(
            f"the schema changed meanwhile: {error.what}", fix="refresh() the table, look, and try again"
        ) from error
    draft.set_schema(schema, next_field_id)


def _require(latest: Snapshot, wanted: int) -> None:
    if all(field_id(one) != wanted for one in walk_fields(latest.schema)):
        raise ConflictError("the column was removed meanwhile", fix="refresh() the table and look")
