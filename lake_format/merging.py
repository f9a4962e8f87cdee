"""The commit that merges a branch into the line it was made from: all its operations since, in one version.

What to take, and whether it may be taken, is :mod:`lake_format.merge_plan`; rows and indexes are brought over by
:mod:`lake_format.merge_rows` and :mod:`lake_format.merge_indexes`. Here they become one change (spec/branches.md,
BRA-14 to BRA-17).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Self

import numpy as np
import pyarrow as pa

from lake_format.branches import listed, require_forkable
from lake_format.commit_changes import changes_of
from lake_format.draft import Draft
from lake_format.engine import Engine
from lake_format.errors import ConflictError, CorruptionError, InvalidInputError, LakeError, NotFoundError
from lake_format.id_ranges import within
from lake_format.keys import key_columns, key_field_ids
from lake_format.merge_indexes import take_indexes_over
from lake_format.merge_plan import MergePlan
from lake_format.merge_rows import MergedRows, take_rows_over
from lake_format.model import Version
from lake_format.operation_record import OperationRecord
from lake_format.row_changes import land_rows
from lake_format.row_edits import CarriedRows, RowEdits
from lake_format.schema import field_id
from lake_format.schema_changes import check_schema
from lake_format.snapshot import Snapshot
from lake_format.transaction import Surroundings

__all__ = ["MergeBranch"]

_OF_ONE_LINE = frozenset({"expired-versions"})
"""Features that tell of a line's history, not of its rows."""


class MergeBranch:
    """A branch's work on its way into the line it was made from.

    Parameters
    ----------
    plan
        What is taken; judged already against every version up to the one the commit starts from.
    """

    def __init__(self, engine: Engine, plan: MergePlan, around: Surroundings) -> None:
        self._engine = engine
        self._plan = plan
        self._around = around
        self._changes = changes_of(plan.base.version, plan.newest.version, plan.base.manifests)
        self._carried: list[RowEdits] = []
        self._figures: dict[str, Any] = {}

    @property
    def record(self) -> OperationRecord:
        """The first operation that is taken."""
        return self._plan.operations[0]

    @property
    def others(self) -> Sequence[OperationRecord]:
        """The operations after it."""
        return self._plan.operations[1:]

    @property
    def summary(self) -> Mapping[str, Any]:
        """The branch and its version, and what became of rows."""
        taken = {"branch": self._plan.name, "branch_version": self._plan.newest.version.version}
        return {**taken, **self._figures}

    def apply(self, draft: Draft) -> OperationRecord:
        """Bring over schema, rows and indexes, and note how far the branch was merged."""
        self.discard()
        plan, newest = self._plan, self._plan.newest.version
        self._require_ready(draft.version)
        draft.require_features(newest.required_features - _OF_ONE_LINE)
        draft.know_partition_specs(newest.partition_specs)
        draft.add_roots(newest.roots)
        numbers = _take_schema_over(draft, plan)
        rows = take_rows_over(draft, plan, self._changes, numbers)
        self._mark_stale(draft, rows)
        take_indexes_over(draft, plan, self._changes.inserted)
        for fields, carried in rows.carried.items():
            self._carry(draft, fields, carried, rows)
        draft.mark_merged(plan.line, newest)
        inserted = self._changes.inserted
        self._figures = {
            "rows": int((inserted[1] - inserted[0]).sum()),
            "rows_deleted": rows.deleted,
            "rows_updated": sum(map(len, rows.updated)),
        }
        return replace(
            self.record,
            fragments_masked=self.record.fragments_masked | rows.touched.masked,
            fragments_rewritten=self.record.fragments_rewritten | rows.touched.rewritten,
            fragments_removed=self.record.fragments_removed | rows.touched.removed,
        )

    def overtaken_by(self, theirs: Sequence[OperationRecord]) -> Self:
        """Remember what the line got meanwhile: indexes of the branch have not seen it."""
        self._plan = replace(self._plan, overtook=(*self._plan.overtook, *theirs))
        return self

    def replan(self, latest: Snapshot) -> Self:
        """A branch's operations are not carried out again: whoever merges has to look."""
        raise ConflictError(
            f"what branch {self._plan.name!r} did would have to be done anew on version {latest.version.version}, "
            "which was committed meanwhile",
            fix="nothing was written; refresh() the table, look, and merge again",
        )

    def discard(self) -> None:
        """Remove files that were written for a version which somebody else got."""
        files = [file for edits in self._carried for file in edits.files()]
        self._carried = []
        with suppress(LakeError):  # then they are garbage like any other
            self._engine.discard_files(self._plan.newest.store, files)

    # --- inside -------------------------------------------------------------------------------------------

    def _require_ready(self, version: Version) -> None:
        """Raise where the branch, or what was judged, is not what it was."""
        plan, newest = self._plan, self._plan.newest.version
        if version.line == 0:
            _require_kept(version, plan)
        if version.merges.get(plan.line, 1) != plan.base.version.version:
            raise ConflictError(f"branch {plan.name!r} was merged by another commit meanwhile")
        keys = {key_field_ids(one.properties) for one in (version, plan.base.version, newest)}
        if len(keys) > 1:
            told = [", ".join(key_columns(one)) or "no key" for one in (version, newest)]
            raise ConflictError(
                f"branch {plan.name!r} cannot be merged: the table's key was changed since "
                f"({told[0]} here, {told[1]} there)",
                fix="declare the same key on both with set_key() and make a new branch",
            )

    def _mark_stale(self, draft: Draft, rows: MergedRows) -> None:
        """Values that came with the branch's files are not what indexes of this line hold."""
        if not rows.updated:
            return
        updated = np.concatenate(rows.updated)
        for fields, ranges in self._plan.updated:
            draft.mark_stale(fields, updated[within(updated, ranges)])

    def _carry(
        self, draft: Draft, fields: frozenset[int], carried: Sequence[CarriedRows], rows: MergedRows
    ) -> None:
        before = draft.snapshot
        edits = self._engine.carry_rows(before, carried, fields, self._around.new_id)
        self._carried.append(edits)
        if land_rows(draft, before, edits, rows.touched):
            raise CorruptionError("values of a branch prepared for a draft do not fit it")


def _require_kept(main: Version, plan: MergePlan) -> None:
    """Raise where a version of main does not promise that what is merged stays (BRA-5)."""
    if listed(main, plan.name).line != plan.line:
        raise NotFoundError(f"the branch {plan.name!r} was deleted, and another made, meanwhile")
    require_forkable(main, plan.line, plan.newest.version.version)


# --- the schema ---------------------------------------------------------------------------------------------


def _take_schema_over(draft: Draft, plan: MergePlan) -> dict[int, int]:
    """Make the branch's schema the draft's, if the branch changed it; the ids of its schemas in the draft.

    Raises
    ------
    ConflictError
        Both lines changed the schema since they parted (IDN-16).
    """
    base, newest = plan.base.version, plan.newest.version
    wanted = _without_unjudged_rules(plan)
    changed = newest.next_field_id != base.next_field_id or not _same(wanted, base.schema)
    here = draft.version.next_field_id != base.next_field_id or not _same(draft.version.schema, base.schema)
    if changed and here:
        raise ConflictError(
            f"branch {plan.name!r} cannot be merged: both lines changed columns since they parted"
            f"{_differing(base.schema, wanted, draft.version.schema)}",
            fix="change columns on one of the lines only, or append the branch's rows instead",
        )
    numbers = {}
    for number, schema in sorted(newest.schemas.items()):
        own = draft.version.schemas.get(number)
        numbers[number] = number if own is not None and _same(own, schema) else draft.know_schema(schema)
    if changed:
        try:
            check_schema(draft.version, wanted)
        except InvalidInputError as error:
            raise ConflictError(
                f"branch {plan.name!r} cannot be merged: {error.what}", fix=error.fix
            ) from error
        draft.set_schema(wanted)
    return numbers


def _without_unjudged_rules(plan: MergePlan) -> pa.Schema:
    """The branch's schema; NOT NULL only where an operation that was judged made it so, or where it was before."""
    base, schema = plan.base.version.schema, plan.newest.version.schema
    ruled = frozenset[int]().union(*(one.fields_required for one in plan.operations))
    bound = {field_id(one) for one in base if not one.nullable}
    known = {field_id(one) for one in base}
    for at, column in enumerate(schema):
        identity = field_id(column)
        if not column.nullable and identity in known and identity not in bound | ruled:
            schema = schema.set(at, column.with_nullable(True))
    return schema


def _differing(base: pa.Schema, branch: pa.Schema, here: pa.Schema) -> str:
    """Names of the columns that are not what they were on either line."""
    before = {field_id(one): one for one in base}
    names = {
        one.name
        for schema in (branch, here)
        for one in schema
        if not one.equals(before.get(field_id(one), pa.field("", pa.null())), check_metadata=True)
    }
    names |= {
        one.name
        for one in base
        for schema in (branch, here)
        if field_id(one) not in {field_id(x) for x in schema}
    }
    return f": {', '.join(map(repr, sorted(names)))}" if names else ""


def _same(one: pa.Schema, other: pa.Schema) -> bool:
    return bool(one.equals(other, check_metadata=True))
