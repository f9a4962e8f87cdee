"""Computed columns where rows are: gives them their values in rows handed in and in rows that change.

Values that somebody hands in for a computed column are compared with what they have to be; nothing else is ever
written there (spec/evolution.md, EVO-13).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lake_engines.changes.assignments import Computation, assign, fitted
from lake_engines.changes.source import comparable
from lake_engines.changes.values import NewValues, Target
from lake_engines.files.base import rows_only
from lake_engines.ingest import as_batches, conform
from lake_engines.predicate.stored import stored_expression
from lake_format.computed_columns import StoredExpression, check_computable, computed_names, expression_of
from lake_format.errors import InvalidInputError
from lake_format.schema import is_computed

__all__ = ["check_expressions", "completed", "declare", "recomputed", "refuse_given", "require_agreeing"]

_SLICE_ROWS = 65_536


def declare(schema: pa.Schema, field: pa.Field, text: str) -> StoredExpression:
    """The expression by which a column is to be computed, checked as far as it can be without rows.

    Raises
    ------
    InvalidInputError
        The text is no expression over the other columns, or gives no value of the column's type.
    UnsupportedError
        It contains what expressions do not support.
    """
    expression = stored_expression(text, schema)
    check_computable(schema, field, expression.inputs)
    (computation,) = assign(pa.schema([field]), {field.name: expression}, over=schema).values()
    _run(computation, pa.RecordBatch.from_pylist([], schema=schema))  # tells whether the types fit
    return expression


def check_expressions(schema: pa.Schema) -> None:
    """Raise where a computed column of a schema cannot be computed: UnsupportedError, or CorruptionError."""
    _computations(schema)


def completed(data: object, schema: pa.Schema) -> object:
    """Rows handed in, in any form, with the columns of a schema that are computed; as they are where none is.

    Raises
    ------
    InvalidInputError
        As the rows are read: a value that does not fit, or one for a computed column that is not what it must be.
    """
    return _completed(data, schema) if computed_names(schema) else data


def _completed(data: object, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    own = pa.schema([field for field in schema if not is_computed(field)])
    computations = _computations(schema)
    for batch in as_batches(data):
        for start in range(0, max(batch.num_rows, 1), _SLICE_ROWS):
            part = batch.slice(start, _SLICE_ROWS)
            given = [name for name in part.schema.names if name in computations]
            rows = conform(part.drop_columns(given) if given else part, own)
            values = {name: _run(one, rows) for name, one in computations.items()}
            for name in given:
                _agree(part.column(name), values[name], schema.field(name))
            columns = [values[name] if name in values else rows.column(name) for name in schema.names]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)


def require_agreeing(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> None:
    """Raise InvalidInputError where rows bring another value of a computed column than their other columns make."""
    computations = _computations(schema)
    for batch in batches:
        for name, computation in computations.items():
            if name not in batch.schema.names or batch.column(name).null_count == batch.num_rows:
                continue
            missing = sorted(computation.inputs - set(batch.schema.names))
            if missing:
                raise InvalidInputError(
                    f"column {name!r} is computed from {missing[0]!r}, which the rows handed in lack",
                    fix=f"leave {name!r} out of them",
                )
            _agree(batch.column(name), _run(computation, batch), schema.field(name))


def refuse_given(schema: pa.Schema, names: Iterable[str]) -> None:
    """Raise InvalidInputError where a change sets a computed column."""
    for name in names:
        at = schema.get_field_index(name)
        expression = None if at < 0 else expression_of(schema.field(at))
        if expression is not None:
            raise InvalidInputError(
                f"column {name!r} is computed as {expression.text(schema)}, and cannot be set",
                fix="set what it is computed from",
            )


def recomputed(schema: pa.Schema, values: NewValues) -> NewValues:
    """New values with those of the columns that are computed from any of them; as they are where there is none."""
    changed = set(values.columns)
    affected = {
        name: one for name, one in _computations(schema).items() if not changed.isdisjoint(one.inputs)
    }
    return _Recomputed(values, affected) if affected else values


@dataclass(frozen=True, slots=True)
class _Recomputed:
    """New values, and after them those of the columns that depend on them."""

    values: NewValues
    computed: Mapping[str, Computation]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are set, then those computed."""
        return (*self.values.columns, *self.computed)

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the values are made of, and what else the computed columns read."""
        read = frozenset[str]().union(*(one.inputs for one in self.computed.values()))
        return tuple(dict.fromkeys([*self.values.inputs, *sorted(read - set(self.values.columns))]))

    def unchanged(self, target: Target) -> Mapping[str, pa.Array]:
        """What is known of the other columns."""
        return self.values.unchanged(target)

    def compute(self, rows: pa.RecordBatch, target: Target) -> Mapping[str, pa.Array]:
        """All values, the computed ones from the new values of the others."""
        own = list(self.values.inputs)
        new = dict(self.values.compute(rows.select(own) if own else rows_only(rows.num_rows), target))
        after = {name: rows.column(name) for name in rows.schema.names} | new
        batch = pa.RecordBatch.from_arrays(list(after.values()), list(after)) if after else rows
        return new | {name: _run(one, batch) for name, one in self.computed.items()}


def _computations(schema: pa.Schema) -> dict[str, Computation]:
    """The computed columns of a schema, in its order, each ready to be computed from rows."""
    found = {field.name: expression_of(field) for field in schema if is_computed(field)}
    return assign(schema, found)


def _run(computation: Computation, rows: pa.RecordBatch) -> pa.Array:
    names = sorted(computation.inputs)
    return computation.run(rows.select(names) if names else rows_only(rows.num_rows))


def _agree(given: pa.Array, values: pa.Array, field: pa.Field) -> None:
    """Raise where a value handed in is neither NULL, which counts as none, nor the one computed."""
    if given.null_count == len(given):
        return
    converted = fitted(given, field.with_nullable(True))
    one, other = comparable(converted), comparable(values)
    same = pc.fill_null(pc.equal(one, other), False)
    if pa.types.is_floating(one.type):
        same = pc.or_(same, pc.fill_null(pc.and_(pc.is_nan(one), pc.is_nan(other)), False))
    wrong = pc.and_(one.is_valid(), pc.invert(same)).to_numpy(zero_copy_only=False)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise InvalidInputError(
            f"column {field.name!r} is computed, and would be {values[row].as_py()!r} where row {row} of a batch has "
            f"{converted[row].as_py()!r}",
            fix="leave the column out",
        )
