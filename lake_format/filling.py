"""What filling a column is asked for as, and the change that commits it: one new column group per fragment.

Plain values between the table and the engine, and the commit of what the engine wrote. Files exist already when a
change is made here; where their fragments were replaced meanwhile, rows are found again by row id as for any change
of rows (:mod:`lake_format.row_changes`). No data file is read here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self
from uuid import UUID, uuid4

import numpy as np
import pyarrow as pa

from lake_format.computed_columns import StoredExpression, check_computed, computed_from, ids_read
from lake_format.draft import Draft
from lake_format.engine import Engine
from lake_format.errors import ConflictError, InvalidInputError
from lake_format.operation_record import OperationRecord
from lake_format.positions import positions_of
from lake_format.row_changes import ChangeRows
from lake_format.row_edits import FragmentRewrite, RowEdits, RowPlan, RowRequest, row_runs
from lake_format.schema import field_by_id, field_id
from lake_format.schema_changes import claim, put_column, require_evaluable
from lake_format.schema_edit import add_field, numbered, place_of
from lake_format.snapshot import Snapshot

__all__ = ["UNKNOWN", "AddFilledColumn", "Backfill", "FillRequest", "fields_read", "fill_plan"]

UNKNOWN = object()
"""Values that were computed elsewhere, by who knows what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FillRequest:
    """Values for one column, to be written as a new column group of each fragment concerned.

    Attributes
    ----------
    field
        The column, numbered; where ``is_new`` the snapshot's schema does not have it yet.
    values
        A constant, an SQL or pyarrow expression, a Python function over batches, Arrow data to join, or the
        expression that a computed column has, or is to have where it is new.
    where
        Rows that get a value; None is all. The others keep what they have.
    inputs
        Columns that a Python function is given; None is all.
    on
        The column by which Arrow data is joined, ``_row_id`` or a column of the table.
    fragment_ids
        Only these fragments; None is all.
    parents
        Of a member: ids of the structs it lies in, from the top-level column down. The column is written whole.
    """

    field: pa.Field
    values: object
    is_new: bool = False
    where: object | None = None
    inputs: tuple[str, ...] | None = None
    on: str | None = None
    fragment_ids: tuple[int, ...] | None = None
    parents: tuple[int, ...] = ()
    progress: Callable[[str, int, int], None] | None = None
    new_id: Callable[[], UUID] = uuid4

    @property
    def field_id(self) -> int:
        """The id of the column."""
        return field_id(self.field)

    @property
    def column_id(self) -> int:
        """The id of the top-level column that is written."""
        return self.parents[0] if self.parents else self.field_id

    @property
    def path(self) -> tuple[int, ...]:
        """Ids of the fields that lead to the column or member, from the top-level column down to itself."""
        return (*self.parents, self.field_id)

    def column(self, schema: pa.Schema) -> pa.Field:
        """The top-level column as it is written: of a schema that lacks a new member with that member."""
        if not self.parents:
            return self.field
        grown = add_field(schema, self.field, self.parents[-1]) if self.is_new else schema
        column = field_by_id(grown, self.parents[0])
        assert column is not None
        return column

    @property
    def expression(self) -> StoredExpression | None:
        """What the column is computed by from now on; None where its values are just given to it."""
        return self.values if isinstance(self.values, StoredExpression) else None


def fields_read(engine: Engine, base: Snapshot, request: FillRequest) -> frozenset[int]:
    """Ids of the columns that decide which values a fill writes."""
    names = engine.fill_inputs(base, request)
    columns = frozenset(
        field_id(base.schema.field(name)) for name in names if base.schema.get_field_index(name) >= 0
    )
    if request.parents:
        columns |= {request.column_id}  # written whole, so that a change of it is a change of what was read
    return columns if request.expression is None else columns | ids_read(base.schema, request.expression)


def fill_plan(
    base: Snapshot,
    request: FillRequest,
    edits: RowEdits,
    read: frozenset[int],
    summary: Mapping[str, Any] | None = None,
) -> RowPlan:
    """What was written, as a plan to commit: its record tells the rows and what was read for them."""
    identity = request.field_id
    rule = {identity} if request.is_new and not request.field.nullable else set()
    if request.is_new and request.expression is not None:
        rule |= {identity, *ids_read(base.schema, request.expression)}
    ids = base.fragments.integers("fragment_id")
    updated = []
    for rewrite in edits.rewrites:
        fragment = base.fragments.fragment(int(np.searchsorted(ids, np.uint64(rewrite.rows.fragment_id))))
        updated.append(fragment.row_ids()[positions_of(rewrite.rows.positions)])
    record = OperationRecord(
        kind="add_column" if request.is_new else "backfill",
        fields_read=read,
        fields_written=frozenset({identity, request.column_id}),
        fields_required=frozenset(rule),
        rows_updated=row_runs(updated),
        fragments_rewritten=frozenset(rewrite.rows.fragment_id for rewrite in edits.rewrites),
        claims=frozenset({claim(request.field.name, request.parents[-1] if request.parents else None)})
        if request.is_new
        else frozenset(),
    )
    figures = {
        **(summary or {}),
        "column": _name(base, request),
        "rows": sum(len(rewrite.rows) for rewrite in edits.rewrites),
        "fragments": len(edits.rewrites),
        "bytes": sum(group.size for group in edits.files()),
    }
    return RowPlan(base=base, edits=edits, record=record, summary=figures)


def _name(base: Snapshot, request: FillRequest) -> str:
    struct = place_of(base.schema, request.parents[-1]) if request.parents else None
    return request.field.name if struct is None else f"{struct}.{request.field.name}"


class Backfill(ChangeRows):
    """Values of an existing column on their way into a version."""

    def __init__(self, engine: Engine, fill: FillRequest, plan: RowPlan) -> None:
        super().__init__(engine, RowRequest(kind="update", new_id=fill.new_id), plan)
        self.fill = fill

    def replan(self, latest: Snapshot) -> Self:
        """Compute the values again on the version at hand: what they were made of has changed."""
        if self.fill.expression is None or self.fill.where is not None:
            self.require_names(latest)
        fill = self._renewed(latest)
        edits = self._engine.fill_column(latest, fill)
        read = fields_read(self._engine, latest, fill)
        self.discard()
        self.fill, self.plan = fill, fill_plan(latest, fill, edits, read, self.plan.summary)
        return self

    def _renewed(self, latest: Snapshot) -> FillRequest:
        place = place_of(latest.schema, self.fill.field_id)
        if place is None:
            raise ConflictError("the column was removed meanwhile", fix="refresh() the table and look")
        if computed := computed_from(latest.schema, {self.fill.field_id}):
            raise ConflictError(
                f"column {computed[0]!r} is computed from column {str(place)!r} since",
                fix=f"refresh() the table and use update(), which computes {computed[0]!r} too",
            )
        if self.fill.values is UNKNOWN:
            raise ConflictError(
                "what the values were computed from has changed meanwhile, and how to compute them is not known here",
                fix="commit the job with values=, or run it again",
            )
        if self.fill.parents and not place.field.nullable:
            raise ConflictError(
                f"{str(place)!r} forbids NULL since, and cannot be filled so",
                fix="refresh() the table and look",
            )
        # Fragments that a job named may be gone; whatever they held is somewhere among the others.
        return replace(self.fill, field=place.field, fragment_ids=None)


class AddFilledColumn(Backfill):
    """A new column and its values, and perhaps its expression, on their way into a version, in one commit."""

    @property
    def names_fields(self) -> frozenset[int]:
        """Ids of the fields that its expression reads."""
        return frozenset() if self.fill.expression is None else frozenset(self.fill.expression.inputs)

    def apply(self, draft: Draft) -> OperationRecord:
        """Number the column anew where others took its ids, and put its groups in place."""
        fill, planned = self.fill, self.plan
        added = put_column(
            draft, fill.field, fill.parents[-1] if fill.parents else None, expression=fill.expression
        )
        if fill.expression is not None:
            self._require_same_meaning(draft.version.schema, added)
        shift = field_id(added) - fill.field_id
        schema_id = self._written_with(draft, added)
        edits = replace(
            planned.edits,
            field_ids=frozenset({fill.column_id if fill.parents else field_id(added)}),
            rewrites=tuple(
                _renumbered(rewrite, fill.field_id, shift, schema_id) for rewrite in planned.edits.rewrites
            ),
        )
        written, rule = (
            frozenset(field_id(added) if one == fill.field_id else one for one in ids)
            for ids in (planned.record.fields_written, planned.record.fields_required)
        )
        record = replace(planned.record, fields_written=written, fields_required=rule)
        self.plan = replace(planned, edits=edits, record=record)
        try:
            return super().apply(draft)
        finally:
            self.plan = planned

    def _written_with(self, draft: Draft, added: pa.Field) -> int:
        """The id of the schema that the files were written with, under the ids their columns got in the end."""
        if not self.fill.parents:
            return draft.version.schema_id
        return draft.know_schema(add_field(self.plan.base.schema, added, self.fill.parents[-1]))

    def _require_same_meaning(self, schema: pa.Schema, added: pa.Field) -> None:
        """Raise ConflictError where the expression gives other values on a later schema than those written."""
        try:
            check_computed(self.plan.base.schema.append(added), schema)
        except InvalidInputError as error:
            raise ConflictError(
                f"the schema changed meanwhile: {error.what}",
                fix="refresh() the table and add the column again",
            ) from error
        require_evaluable(schema, self._engine.check_expressions)

    def _renewed(self, latest: Snapshot) -> FillRequest:
        if self.fill.parents and place_of(latest.schema, self.fill.parents[-1]) is None:
            raise ConflictError(
                "the struct that gets a member was removed meanwhile", fix="refresh() the table and look"
            )
        field, _ = numbered(self.fill.field, latest.version.next_field_id)
        return replace(self.fill, field=field)


def _renumbered(rewrite: FragmentRewrite, first: int, shift: int, schema_id: int) -> FragmentRewrite:
    """The files under the ids their column got in the end. The ids inside the files are those planned (EVO-7).

    Ids from the first planned one on are new; of a struct that gets a member the others stay.
    """

    def moved(identity: int) -> int:
        return identity + shift if identity >= first else identity

    return replace(
        rewrite,
        groups=tuple(
            replace(group, schema_id=schema_id, field_ids=tuple(map(moved, group.field_ids)))
            for group in rewrite.groups
        ),
        statistics=tuple(replace(one, field_id=moved(one.field_id)) for one in rewrite.statistics),
    )
