"""What a merge does to each row: evaluates its clauses, and computes new values from the row and its source row.

In conditions and expressions a column of the table goes by its name, one of the rows handed in by
``source.<name>``. An upsert is a merge of two clauses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lake_engines.changes.assignments import Computation, assign, fitted
from lake_engines.changes.computing import refuse_given, require_agreeing
from lake_engines.changes.source import StagedRows
from lake_engines.changes.values import I64, Target
from lake_engines.files.base import gather, rows_only
from lake_engines.predicate import BoundPredicate, Rules, bind, parse_filter
from lake_format.errors import InvalidInputError, UnsupportedError
from lake_format.row_edits import MergeClause
from lake_format.schema import is_computed, require_column

__all__ = ["SOURCE", "Clause", "MergeValues", "inserted_rows", "prepare"]

SOURCE = "source"
"""The name under which expressions find the row handed in."""


@dataclass(frozen=True, slots=True)
class Clause:
    """A clause of a merge, checked against the table and the rows handed in.

    ``values`` are the computations of an update or insert, by column; None takes source columns by name.
    """

    action: str
    condition: BoundPredicate | None
    values: Mapping[str, Computation] | None
    columns: tuple[str, ...]

    def holds(self, rows: pa.RecordBatch, source: StagedRows, origin: I64 | None) -> npt.NDArray[np.bool_]:
        """For which rows the clause applies; ``rows`` has the table's columns of the condition."""
        if self.condition is None:
            return np.ones(rows.num_rows, bool)
        return self.condition.mask(joined(rows, source, origin, self.condition.columns))

    @property
    def reads(self) -> frozenset[str]:
        """Columns of the table that the condition needs."""
        return (self.condition.columns if self.condition else frozenset()) - {SOURCE}


def prepare(
    clauses: Sequence[MergeClause], schema: pa.Schema, source: StagedRows, on: Sequence[str]
) -> list[tuple[str, Clause]]:
    """Check the clauses of a merge; each with its situation.

    Raises
    ------
    InvalidInputError
        An unknown column, a value or condition that does not fit, a source column where there is no source row.
    """
    if any(clause.values is None and clause.action != "delete" for clause in clauses):
        require_agreeing(source.batches(), schema)
    ours = pa.schema(list(schema))
    theirs = pa.field(SOURCE, pa.struct(list(source.table.schema)))
    found: list[tuple[str, Clause]] = []
    for clause in clauses:
        over = {
            "matched": ours.append(theirs),
            "not matched": pa.schema([theirs]),
            "not matched by source": ours,
        }[clause.when]
        texts = clause.condition is not None or clause.values is not None
        if texts and SOURCE in schema.names and clause.when == "matched":
            raise UnsupportedError(
                f"the table has a column {SOURCE!r}, which a merge uses for the rows handed in",
                fix="rename the column, or merge without conditions and values",
            )
        found.append((clause.when, _checked(clause, schema, over, source, on)))
    return found


def _checked(
    clause: MergeClause, schema: pa.Schema, over: pa.Schema, source: StagedRows, on: Sequence[str]
) -> Clause:
    condition = None
    if clause.condition is not None:
        rules: Rules = "sql" if isinstance(clause.condition, str) else "arrow"
        condition = bind(parse_filter(clause.condition), over, rules)
    if clause.action == "delete":
        return Clause("delete", condition, None, ())
    if clause.values is None:
        if clause.when == "not matched by source":
            raise InvalidInputError("an update of rows without source row needs values")
        columns = tuple(
            name
            for name in source.columns
            if name in schema.names
            and not is_computed(schema.field(name))
            and not (clause.action == "update" and name in on)
        )
        return Clause(clause.action, condition, None, columns)
    for name in clause.values:
        require_column(schema, name)
    refuse_given(schema, clause.values)
    return Clause(clause.action, condition, assign(schema, clause.values, over=over), tuple(clause.values))


def joined(
    rows: pa.RecordBatch, source: StagedRows, origin: I64 | None, names: frozenset[str]
) -> pa.RecordBatch:
    """The rows with their source rows beside them, where an expression reads those."""
    if SOURCE not in names:
        return rows if rows.num_columns else rows_only(rows.num_rows)
    if origin is None:
        raise InvalidInputError(f"there is no row handed in that {SOURCE!r} could stand for")
    beside = source.take(origin)
    struct = pa.StructArray.from_arrays(beside.columns, fields=list(beside.schema))
    return pa.RecordBatch.from_arrays([*rows.columns, struct], [*rows.schema.names, SOURCE])


class MergeValues:
    """New values of the rows that a merge updates: of a row's clause, computed from the source row of its origin.

    Rows have the values of the columns ``on`` in common with their source row.
    """

    def __init__(
        self, schema: pa.Schema, clauses: Sequence[Clause], source: StagedRows, on: Sequence[str]
    ) -> None:
        self._on = [name for name in on if name in source.columns]
        self._schema = schema
        self._clauses = clauses
        self._source = source
        updates = [clause for clause in clauses if clause.action == "update"]
        wanted = {name for clause in updates for name in clause.columns}
        self.columns = tuple(name for name in schema.names if name in wanted)
        read = {name for name in self.columns if any(name not in clause.columns for clause in updates)}
        for clause in updates:
            read |= {name for one in (clause.values or {}).values() for name in one.inputs}
        self.inputs = tuple(sorted(read - {SOURCE}))

    def compute(self, rows: pa.RecordBatch, target: Target) -> Mapping[str, pa.Array]:
        """Values clause by clause, put together in the order of the rows."""
        assert target.clause is not None
        assert target.origin is not None
        if len(target.clause) and (target.clause == target.clause[0]).all():
            return self._of(self._clauses[int(target.clause[0])], rows, target.origin)
        present = np.unique(target.clause).tolist()
        parts: list[Mapping[str, pa.Array]] = []
        order = []
        for number in present:
            at = np.flatnonzero(target.clause == number)
            parts.append(self._of(self._clauses[number], _at(rows, at), target.origin[at]))
            order.append(at)
        back: I64 = np.empty(len(target.positions), np.int64)
        back[np.concatenate(order)] = np.arange(len(back))
        merged = pa.RecordBatch.from_arrays(
            [pa.concat_arrays([part[name] for part in parts]) for name in self.columns], list(self.columns)
        )
        return dict(zip(self.columns, gather(merged, back).columns, strict=True))

    def unchanged(self, target: Target) -> Mapping[str, pa.Array]:
        """The key, where every row has a source row: values of the types that keys may have are equal bit by bit."""
        assert target.origin is not None
        names = [name for name in self._on if name not in self.columns]
        if not names or (target.origin < 0).any():
            return {}
        beside = self._source.take(target.origin, names)
        return {name: fitted(beside.column(name), self._schema.field(name)) for name in names}

    def _of(self, clause: Clause, rows: pa.RecordBatch, origin: I64) -> Mapping[str, pa.Array]:
        new = _values(clause, self._schema, rows, self._source, origin if (origin >= 0).all() else None)
        return {name: new[name] if name in new else rows.column(name) for name in self.columns}


def inserted_rows(clause: Clause, schema: pa.Schema, source: StagedRows, origin: I64) -> pa.RecordBatch:
    """Rows that an insert clause makes of source rows; columns it says nothing of are left out."""
    new = _values(clause, schema, rows_only(len(origin)), source, origin)
    return pa.RecordBatch.from_arrays(list(new.values()), list(new))


def _values(
    clause: Clause, schema: pa.Schema, rows: pa.RecordBatch, source: StagedRows, origin: I64 | None
) -> dict[str, pa.Array]:
    if clause.values is None:
        assert origin is not None
        beside = source.take(origin, clause.columns)
        return {name: fitted(beside.column(name), schema.field(name)) for name in clause.columns}
    needed = frozenset[str]().union(*(one.inputs for one in clause.values.values()))
    both = joined(rows, source, origin, needed)
    return {name: one.run(both) for name, one in clause.values.items()}


def _at(rows: pa.RecordBatch, at: I64) -> pa.RecordBatch:
    return gather(rows, at) if rows.num_columns else rows_only(len(at))
