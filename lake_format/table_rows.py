"""The side of a table that changes rows: delete, update, upsert, merge, overwrite, and appends to a table with a key.

Requests are checked here and planned by the engine; each is one commit. A change that meets another one is made to
fit, planned again, or refused, as the conflict matrix says (spec/identity.md, spec/changes.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from lake_format.engine import Progress
from lake_format.errors import InvalidInputError
from lake_format.keys import require_key_type
from lake_format.model import Version
from lake_format.row_changes import ChangeRows
from lake_format.row_edits import MergeClause, RowRequest, RowsPlanned, StrategyUse
from lake_format.schema import require_column
from lake_format.table_core import checked_idempotency
from lake_format.table_keys import TableKeys
from lake_format.transaction import REFUSALS

__all__ = ["Merge", "RowsChanged", "TableRows"]

_UPSERT = (
    MergeClause(when="matched", action="update"),
    MergeClause(when="not matched", action="insert"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsChanged:
    """What a change of rows did.

    Attributes
    ----------
    version
        The version that holds the change; the one read where nothing had to be done.
    deleted, updated, inserted
        How many rows.
    strategy
        How new values were written: ``rewrite`` (column files of whole fragments), ``patch`` (values laid over some
        rows), ``move`` (changed rows in a new fragment), several of them (``patch and move``), or ``nothing``.
    bytes
        Size of the data files written.
    strategies
        Fragments, rows and bytes by strategy.
    """

    version: int
    deleted: int = 0
    updated: int = 0
    inserted: int = 0
    strategy: str = "nothing"
    bytes: int = 0
    strategies: Mapping[Any, StrategyUse] = field(default_factory=dict)


class TableRows(TableKeys):
    """Changes to rows; row ids survive updates, and searches see every change at once."""

    def delete(
        self,
        where: object,
        *,
        idempotency: tuple[str, int] | None = None,
        progress: Progress | None = None,
    ) -> RowsChanged:
        """Remove the rows that match a filter.

        Parameters
        ----------
        where
            SQL text or a ``pyarrow.compute.Expression``; ``"true"`` removes every row.
        idempotency, progress
            As in :meth:`append`.

        Raises
        ------
        InvalidInputError
            No filter, or one that does not fit the schema.
        ConflictError
            Another commit changed values by which these rows were chosen.
        """
        _require_filter(where, "delete", 'delete("true") removes every row')
        return self._change(RowRequest(kind="delete", where=where, progress=progress), idempotency)

    def update(
        self,
        values: Mapping[str, object],
        where: object | None = None,
        *,
        inputs: Sequence[str] | None = None,
        idempotency: tuple[str, int] | None = None,
        progress: Progress | None = None,
    ) -> RowsChanged:
        """Give columns of the rows that match a filter new values.

        Parameters
        ----------
        values
            By column: a constant, :func:`lake_format.sql`, a ``pyarrow.compute.Expression``, or a Python function
            that takes a record batch and returns one value a row. All see the old values.
        where
            A filter; None is every row.
        inputs
            The columns that Python functions need; None hands them all, and so reads them all.
        idempotency, progress
            As in :meth:`append`.

        Raises
        ------
        InvalidInputError
            An unknown column, a value that does not fit its column.
        DuplicateKeyError
            A row would get the key of another one.
        ConflictError
            Another commit changed the same values, or values by which these were chosen or computed.
        """
        request = replace(_update_request(values, where, inputs), progress=progress)
        return self._change(request, idempotency)

    def plan_delete(self, where: object) -> RowsPlanned:
        """What :meth:`delete` would do; nothing is written."""
        _require_filter(where, "delete", 'delete("true") removes every row')
        return self._explained(RowRequest(kind="delete", where=where))

    def plan_update(
        self,
        values: Mapping[str, object],
        where: object | None = None,
        *,
        inputs: Sequence[str] | None = None,
    ) -> RowsPlanned:
        """What :meth:`update` would do: rows, and how they would be written; nothing is.

        >>> print(table.plan_update({"price": 1.0}, "id = 3").explain())  # doctest: +SKIP
        """
        return self._explained(_update_request(values, where, inputs))

    def plan_upsert(
        self, data: object, on: str | Sequence[str] | None = None, *, order_by: str | None = None
    ) -> RowsPlanned:
        """What :meth:`upsert` would do: rows, and how they would be written; nothing is."""
        names = self._on(on, "upsert")
        with self._staged(data, order_by) as source:
            return self._explained(
                RowRequest(kind="upsert", source=source, on=names, order_by=order_by, clauses=_UPSERT)
            )

    def upsert(
        self,
        data: object,
        on: str | Sequence[str] | None = None,
        *,
        order_by: str | None = None,
        idempotency: tuple[str, int] | None = None,
        progress: Progress | None = None,
    ) -> RowsChanged:
        """Update the rows whose key is in the table, insert the others.

        Parameters
        ----------
        data
            Rows, as :meth:`append` takes them. Of matching rows the columns that are handed in are updated.
        on
            The columns that identify a row; None is the table's key.
        order_by
            A column of the rows (which the table need not have): of rows with the same key the one with the
            greatest value counts. Without it a repeated key is an error.
        idempotency, progress
            As in :meth:`append`.

        Raises
        ------
        DuplicateKeyError
            A key occurs twice in ``data``; it is named.
        InvalidInputError
            A NULL key, an unknown column, a value that does not fit.
        """
        return self._merge_rows("upsert", data, on, order_by, _UPSERT, idempotency, progress)

    def merge(
        self, data: object, on: str | Sequence[str] | None = None, *, order_by: str | None = None
    ) -> Merge:
        """Begin a merge: say with ``when_…`` methods what happens to which rows, then :meth:`Merge.execute`.

        >>> table.merge(rows, on="id").when_matched_update().when_not_matched_insert().execute()  # doctest: +SKIP

        Parameters
        ----------
        data, on, order_by
            As in :meth:`upsert`.
        """
        return Merge(self, data, on, order_by)

    def overwrite(
        self,
        data: object,
        where: object | None = None,
        *,
        idempotency: tuple[str, int] | None = None,
        progress: Progress | None = None,
    ) -> RowsChanged:
        """Remove the rows that match a filter and add others, in one commit.

        Parameters
        ----------
        data
            Rows, as :meth:`append` takes them; they need not match the filter.
        where
            Rows to remove; None is every row.
        idempotency, progress
            As in :meth:`append`.

        Raises
        ------
        DuplicateKeyError
            In a table with a key: a key occurs twice in ``data``, or stays in the table.
        """
        with self._staged(data) as source:
            request = RowRequest(kind="overwrite", where=where, source=source, progress=progress)
            return self._change(request, idempotency)

    # --- inside -------------------------------------------------------------------------------------------

    def _append_keyed(
        self, data: object, idempotency: tuple[str, int] | None, progress: Progress | None
    ) -> Self:
        """Append to a table with a key: every key is looked up before, and judged again at the commit."""
        with self._staged(data) as source:
            self._change(RowRequest(kind="append", source=source, progress=progress), idempotency)
        return self

    def _merge_rows(
        self,
        kind: Literal["upsert", "merge"],
        data: object,
        on: str | Sequence[str] | None,
        order_by: str | None,
        clauses: tuple[MergeClause, ...],
        idempotency: tuple[str, int] | None,
        progress: Progress | None,
    ) -> RowsChanged:
        names = self._on(on, kind)
        with self._staged(data, order_by) as source:
            request = RowRequest(
                kind=kind, source=source, on=names, order_by=order_by, clauses=clauses, progress=progress
            )
            return self._change(request, idempotency)

    def _explained(self, request: RowRequest) -> RowsPlanned:
        return self._engine.explain_rows(self.refresh().snapshot, request)

    def _on(self, on: str | Sequence[str] | None, kind: str) -> tuple[str, ...]:
        names = (on,) if isinstance(on, str) else tuple(self.key if on is None else on)
        if not names:
            raise InvalidInputError(
                f"the table has no key, so {kind} needs to know what identifies a row", fix='pass on="id"'
            )
        for name in names:
            require_key_type(require_column(self._snapshot.schema, name))
        return names

    @contextmanager
    def _staged(self, data: object, extra: str | None = None) -> Iterator[Any]:
        self._require_writable()
        source = self._engine.stage(data, self.refresh().snapshot.schema, extra)
        try:
            yield source
        finally:
            self._release(source)

    def _change(self, request: RowRequest, idempotency: tuple[str, int] | None) -> RowsChanged:
        """Plan on the newest version, commit, and tell what was done."""
        self._require_writable()
        mark = checked_idempotency(idempotency)
        snapshot = self.refresh().snapshot
        if mark and snapshot.version.sequences.get(mark.writer, -1) >= mark.sequence:
            return RowsChanged(version=snapshot.version.version)
        request = replace(request, new_id=self._around.new_id)
        plan = self._engine.plan_rows(snapshot, request)
        if plan.changes_nothing and mark is None:
            return RowsChanged(version=snapshot.version.version)
        own = None if self._pending is None else self._pending.base.next_field_id
        change = ChangeRows(self._engine, request, plan, own_fields_from=own)
        try:
            landed = self._commit(change, base=snapshot.version, idempotency=mark)
        except REFUSALS:
            change.discard()
            raise
        return _done(landed, change.summary, change.plan.uses)


class Merge:
    """A merge being put together; nothing happens before :meth:`execute`.

    Of the clauses for a row's situation the first whose condition holds is carried out. In conditions and values a
    column of the table goes by its name, one of the rows handed in by ``source.<name>``.
    """

    def __init__(
        self, table: TableRows, data: object, on: str | Sequence[str] | None, order_by: str | None
    ) -> None:
        self._table = table
        self._data = data
        self._on = on
        self._order_by = order_by
        self._clauses: list[MergeClause] = []

    def when_matched_update(
        self, values: Mapping[str, object] | None = None, *, condition: object | None = None
    ) -> Self:
        """Update rows whose key was handed in; ``values`` None takes every column handed in."""
        return self._add("matched", "update", condition, values)

    def when_matched_delete(self, *, condition: object | None = None) -> Self:
        """Delete rows whose key was handed in."""
        return self._add("matched", "delete", condition)

    def when_not_matched_insert(
        self, values: Mapping[str, object] | None = None, *, condition: object | None = None
    ) -> Self:
        """Insert rows whose key no row has; ``values`` None takes every column handed in."""
        return self._add("not matched", "insert", condition, values)

    def when_not_matched_by_source_update(
        self, values: Mapping[str, object], *, condition: object | None = None
    ) -> Self:
        """Update rows whose key was not handed in."""
        return self._add("not matched by source", "update", condition, values)

    def when_not_matched_by_source_delete(self, *, condition: object | None = None) -> Self:
        """Delete rows whose key was not handed in."""
        return self._add("not matched by source", "delete", condition)

    def execute(
        self, *, idempotency: tuple[str, int] | None = None, progress: Progress | None = None
    ) -> RowsChanged:
        """Carry the merge out, as one commit.

        Raises
        ------
        DuplicateKeyError
            A key was handed in twice; it is named.
        InvalidInputError
            No clause; a condition or value that does not fit.
        """
        if not self._clauses:
            raise InvalidInputError("the merge says nothing to do", fix="add a when_… clause")
        return self._table._merge_rows(
            "merge", self._data, self._on, self._order_by, tuple(self._clauses), idempotency, progress
        )

    def _add(
        self,
        when: Literal["matched", "not matched", "not matched by source"],
        action: Literal["update", "delete", "insert"],
        condition: object | None,
        values: Mapping[str, object] | None = None,
    ) -> Self:
        if values is not None and not (isinstance(values, Mapping) and values):
            raise InvalidInputError(f"values must be new values by column, not {values!r}")
        self._clauses.append(MergeClause(when=when, action=action, condition=condition, values=values))
        return self


def _update_request(
    values: Mapping[str, object], where: object | None, inputs: Sequence[str] | None
) -> RowRequest:
    if not isinstance(values, Mapping):
        raise InvalidInputError(
            f"update takes new values by column, not {values!r}", fix='update({"price": 1.5}, where="id = 3")'
        )
    return RowRequest(
        kind="update", values=dict(values), where=where, inputs=None if inputs is None else tuple(inputs)
    )


def _require_filter(where: object, what: str, fix: str) -> None:
    if where is None:
        raise InvalidInputError(f"{what} needs a filter", fix=fix)


def _done(landed: Version, facts: Mapping[str, Any], uses: Mapping[Any, StrategyUse]) -> RowsChanged:
    return RowsChanged(
        version=landed.version,
        deleted=facts["rows_deleted"],
        updated=facts["rows_updated"],
        inserted=facts["rows_inserted"],
        strategy=facts.get("strategy", "nothing"),
        bytes=facts["bytes"],
        strategies=uses,
    )
