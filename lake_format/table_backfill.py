"""The side of a table that gives values to a column it has: at once, or as a job of many workers.

Values are computed by the engine and written as one new file per fragment; everything else stays as it is. What a
job's workers finished is recorded in the store, so that a job that died goes on where it stopped
(spec/evolution.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Self

import pyarrow as pa

from lake_format.backfill_job import BackfillPart, BackfillPlan, BackfillResult, FragmentRecord, JobRecords
from lake_format.computed_columns import EXPRESSION, StoredExpression, computed_from, expression_of
from lake_format.engine import Progress
from lake_format.errors import (
    ConflictError,
    CorruptionError,
    InvalidInputError,
    LakeError,
    NotFoundError,
    UnsupportedError,
)
from lake_format.expressions import SqlExpression
from lake_format.filling import UNKNOWN, Backfill, FillRequest, fields_read, fill_plan
from lake_format.row_edits import RowEdits
from lake_format.schema import field_id
from lake_format.schema_edit import Place, place_of
from lake_format.snapshot import Snapshot
from lake_format.table_schema import TableSchema

__all__ = ["TableBackfill"]


class TableBackfill(TableSchema):
    """Backfills; rows appended meanwhile are NULL, and ``backfill(…, where="c IS NULL")`` finishes them."""

    def backfill(
        self,
        column: str,
        values: object = EXPRESSION,
        where: object | None = None,
        *,
        inputs: Sequence[str] | None = None,
        on: str | None = None,
        job: str | None = None,
        progress: Progress | None = None,
    ) -> Self:
        """Fill a column, for all rows or those that match, as one new file per fragment.

        Parameters
        ----------
        column
            A column of the table, or a member of structs (``"a.b"``), which is written along with the whole
            column it lies in; where the struct is NULL it stays so.
        values
            As for :meth:`add_column`: a constant, ``lake.sql(…)``, a pyarrow expression, a function over
            batches, or Arrow data to join by row id or key. Left out for a computed column, and only there.
        where
            Rows that get a value; the others keep theirs. None is all.
        inputs, on
            As for :meth:`add_column`.
        job
            A name under which finished fragments are remembered: the same call after a crash goes on where
            the first one stopped. Needs ``where`` as text.
        progress
            Called with ``("fill", rows done, rows in all)``.

        Raises
        ------
        InvalidInputError
            An unknown column, or values that do not fit it; nothing was changed.
        ConflictError
            Somebody removed the column, or changed what the values were computed from in a way that computing
            them anew does not settle.
        """
        values = self._engine.gather_values(values)
        if job is not None:
            plan = self.plan_backfill(column, values, where, inputs=inputs, on=on, job=job)
            for part in plan.parts:
                self.run_backfill(part, values, progress=progress)
            return self.commit_backfill(plan, values=values)
        request = self._fill_request(column, values, where, inputs, on, progress)
        base = self._snapshot
        edits = self._engine.fill_column(base, request)
        if edits.rewrites:
            read = fields_read(self._engine, base, request)
            self._commit_filled(Backfill(self._engine, request, fill_plan(base, request, edits, read)))
        return self

    def plan_backfill(
        self,
        column: str,
        values: object = EXPRESSION,
        where: object | None = None,
        *,
        inputs: Sequence[str] | None = None,
        on: str | None = None,
        parts: int | None = None,
        job: str | None = None,
    ) -> BackfillPlan:
        """Start a backfill that many workers share, or take up one that was started before.

        Parameters
        ----------
        parts
            How many parts to deal the fragments to; None is one a fragment.
        job
            The job's name; made up where None. A job of this name that was started before is resumed, at the
            version it was started on.

        Returns
        -------
        BackfillPlan
            Its ``parts`` go to workers, who call :meth:`run_backfill`; then one :meth:`commit_backfill`.

        Raises
        ------
        InvalidInputError
            A job of this name does something else, or ``where`` is not text.
        """
        self._require_alone("a backfill as a job")
        if where is not None and not isinstance(where, str):
            raise UnsupportedError(
                "a backfill in parts takes its filter as text", fix='write where="price > 10"'
            )
        values = SqlExpression("NULL") if values is None else values
        request = self._fill_request(column, values, where, inputs, on, None)
        name = str(self._around.new_id()) if job is None else job
        records = JobRecords(self._store, name)
        version = self._snapshot.version
        plan = BackfillPlan(
            job=name,
            table_id=version.table_id,
            version=version.version,
            field_id=request.field_id,
            column=column,
            values=_described(request.values),
            sql=values.text if isinstance(values, SqlExpression) else None,
            where=where,
            inputs=request.inputs,
            on=on,
            reads=tuple(sorted(fields_read(self._engine, self._snapshot, request))),
            fragments=tuple(self._snapshot.fragments.integers("fragment_id").tolist()),
            part_count=max(1, parts if parts is not None else len(self._snapshot.fragments)),
        )
        started = records.start(plan)
        if not started.same_work(plan):
            raise InvalidInputError(
                f"a job {name!r} was started that fills column {started.column!r} with {started.values}",
                fix="choose another name, or drop_backfill() that job",
            )
        if not self._readable(started.version):
            records.remove()
            started = records.start(plan)
        return replace(started, part_count=plan.part_count)

    def run_backfill(
        self, part: BackfillPart, values: object | None = None, *, progress: Progress | None = None
    ) -> BackfillResult:
        """Compute and write a part's values; nothing becomes visible. Fragments done before are not done again.

        Parameters
        ----------
        values
            The values, where they are no SQL; the same as in :meth:`plan_backfill`.

        Raises
        ------
        NotFoundError
            There is no such job: it was committed or dropped.
        """
        plan, records = self._job(part.job)
        base = self._at(plan.version)
        values = self._engine.gather_values(values)
        rows = size = 0
        for fragment_id in part.fragments:
            done = records.done(fragment_id)
            if done is None:
                done = self._fill_one(base, plan, values, fragment_id, records)
            rows += 0 if done.rewrite is None else len(done.rewrite.rows)
            size += sum(group.size for group in done.rewrite.groups) if done.rewrite else 0
            if progress is not None:
                progress("fill", rows, base.version.row_count)
        return BackfillResult(
            job=part.job, number=part.number, fragments=part.fragments, rows=rows, bytes=size
        )

    def commit_backfill(
        self,
        plan: BackfillPlan,
        results: Iterable[BackfillResult] | None = None,
        *,
        values: object | None = None,
    ) -> Self:
        """Make a job's values part of the table, in one commit, and forget the job.

        Parameters
        ----------
        results
            What the workers sent back; only checked. What was done is read from the store.
        values
            Needed only where values that are no SQL have to be computed anew, because others changed what
            they were computed from.

        Raises
        ------
        InvalidInputError
            Some fragments are not done yet.
        NotFoundError
            There is no such job: it was dropped.
        """
        self._require_writable()
        for result in results or ():
            if result.job != plan.job:
                raise InvalidInputError(f"a result of job {result.job!r} does not belong to job {plan.job!r}")
        records = JobRecords(self._store, plan.job)
        self.refresh()
        if self._has_landed(plan):
            records.remove()
            return self
        plan, records = self._job(plan.job)
        found = records.all_done(plan.fragments)
        missing = [number for number, done in zip(plan.fragments, found, strict=True) if done is None]
        if missing:
            raise InvalidInputError(
                f"{len(missing)} of {len(found)} fragments are not done yet: {missing[:5]}",
                fix="run their parts, then commit",
            )
        self._commit_job(plan, [done for done in found if done is not None], values)
        records.remove()
        return self

    def drop_backfill(self, job: str) -> None:
        """Give a job up and remove the files its workers wrote."""
        self._require_writable()
        plan, records = self._job(job)
        if not self._has_landed(plan):
            groups = [
                group
                for done in records.all_done(plan.fragments)
                if done is not None and done.rewrite is not None
                for group in done.rewrite.groups
            ]
            self._engine.discard_files(self._store, tuple(groups))
        records.remove()

    # --- inside -------------------------------------------------------------------------------------------

    def _fill_request(
        self,
        column: str,
        values: object,
        where: object | None,
        inputs: Sequence[str] | None,
        on: str | None,
        progress: Progress | None,
    ) -> FillRequest:
        place = self._place(column)
        values = self._engine.gather_values(values)
        _check_member(place)
        self._refuse_key(place, "filled")
        values = self._fill_values(place, values, inputs, on)
        return FillRequest(
            field=place.field,
            values=values,
            where=where,
            inputs=None if inputs is None else tuple(inputs),
            on=on,
            parents=tuple(map(field_id, place.parents)),
            progress=progress,
            new_id=self._around.new_id,
        )

    def _fill_values(
        self, place: Place, values: object, inputs: Sequence[str] | None, on: str | None
    ) -> object:
        """The values given; those of a computed column are its own, and what it is made of is not changed apart."""
        schema = self._snapshot.schema
        expression = expression_of(place.field)
        if expression is not None:
            if values is not EXPRESSION or inputs is not None or on is not None:
                raise InvalidInputError(
                    f"column {str(place)!r} is computed as {expression.text(schema)}, and takes no other values",
                    fix=f"leave them out: backfill({str(place)!r})",
                )
            return expression
        if values is EXPRESSION:
            raise InvalidInputError(
                f"column {str(place)!r} is not computed, so its values are missing", fix="give values"
            )
        if computed := computed_from(schema, {place.field_id}):
            raise InvalidInputError(
                f"column {computed[0]!r} is computed from {str(place)!r}, and would not follow",
                fix=f"use update(), which computes {computed[0]!r} too",
            )
        return values

    def _fill_one(
        self, base: Snapshot, plan: BackfillPlan, values: object, fragment_id: int, records: JobRecords
    ) -> FragmentRecord:
        request = replace(self._job_request(base, plan, values), fragment_ids=(fragment_id,))
        if request.values is UNKNOWN:
            raise InvalidInputError(
                f"job {plan.job!r} fills in {plan.values}, which has to be handed in", fix="give values="
            )
        edits = self._engine.fill_column(base, request)
        own = FragmentRecord(
            fragment_id=fragment_id,
            rewrite=edits.rewrites[0] if edits.rewrites else None,
            features=edits.features,
        )
        kept = records.record(own)
        if kept != own:
            self._engine.discard_files(self._store, tuple(edits.files()))
        return kept

    def _job_request(self, base: Snapshot, plan: BackfillPlan, values: object) -> FillRequest:
        place = place_of(base.schema, plan.field_id)
        if place is None:
            raise CorruptionError(f"version {plan.version} lacks field {plan.field_id} of job {plan.job!r}")
        given = SqlExpression(plan.sql) if plan.sql is not None else UNKNOWN if values is None else values
        given = expression_of(place.field) or given
        return FillRequest(
            field=place.field,
            values=given,
            where=plan.where,
            inputs=plan.inputs,
            on=plan.on,
            parents=tuple(map(field_id, place.parents)),
            new_id=self._around.new_id,
        )

    def _commit_job(self, plan: BackfillPlan, done: list[FragmentRecord], values: object) -> None:
        base = self._at(plan.version)
        request = self._job_request(base, plan, values)
        edits = RowEdits(
            field_ids=frozenset({request.column_id}),
            rewrites=tuple(one.rewrite for one in done if one.rewrite is not None),
            features=frozenset[str]().union(*(one.features for one in done)),
        )
        if not edits.rewrites:
            return
        filled = fill_plan(base, request, edits, frozenset(plan.reads), {"job": plan.job})
        change = Backfill(self._engine, request, filled)
        self._commit(change, base=base.version)

    def _job(self, name: str) -> tuple[BackfillPlan, JobRecords]:
        records = JobRecords(self._store, name)
        plan = records.plan()
        if plan is None:
            raise NotFoundError(f"there is no job {name!r}", fix="it was committed or dropped; plan it again")
        if plan.table_id != self._snapshot.version.table_id:
            raise ConflictError(f"job {name!r} belongs to a table that was dropped", fix="plan it again")
        return plan, records

    def _has_landed(self, plan: BackfillPlan) -> bool:
        """Whether a commit since the job's version was this job's."""
        newest = self._snapshot.version
        numbers = range(plan.version + 1, newest.version + 1)
        versions = (newest if number == newest.version else self._log.read(number) for number in numbers)
        return any(version.summary.get("job") == plan.job for version in versions)

    def _readable(self, version: int) -> bool:
        try:
            self._log.read(version)
        except LakeError:
            return False
        return True

    def _at(self, version: int) -> Snapshot:
        if version == self._snapshot.version.version:
            return self._snapshot
        return Snapshot(self._store, self._log.read(version), self._manifests)


def _check_member(place: Place) -> None:
    """Raise UnsupportedError for members of structs that cannot be filled."""
    if place.in_list:
        raise UnsupportedError(
            f"{str(place)!r} lies in a list, so that a row may have many of it, and cannot be filled",
            fix=f"update() column {place.names[0]!r}",
        )
    if place.parents and not place.field.nullable:
        raise UnsupportedError(
            f"{str(place)!r} is a member of a struct that forbids NULL, and cannot be filled so",
            fix="alter_column(nullable=True), fill it, then forbid NULL again",
        )


def _described(values: object) -> str:
    """Values as text by which a job is recognised."""
    if isinstance(values, SqlExpression):
        return f"sql {values.text!r}"
    if isinstance(values, StoredExpression):
        return f"its expression {values.sql!r}"
    if isinstance(values, str | int | float | bytes | bool | None):
        return f"the constant {values!r}"
    if isinstance(values, pa.Scalar):
        return f"the constant {values.as_py()!r}"
    return f"a {type(values).__name__}"
