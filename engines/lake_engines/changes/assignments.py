"""New values of columns as users give them: constants, SQL, pyarrow expressions, Python functions over batches.

Each is checked against the schema before a row is read. Values become the column's type as appended rows would,
except that results of expressions may be rounded to a narrower float, as SQL's assignment does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lake_engines.changes.values import Target
from lake_engines.ingest import conform
from lake_engines.predicate import from_arrow
from lake_engines.predicate.stored import bind_stored, bind_written
from lake_engines.predicate.tree import Opaque
from lake_format.computed_columns import StoredExpression
from lake_format.errors import InvalidInputError, LakeError
from lake_format.expressions import SqlExpression
from lake_format.schema import is_vector, require_column
from lake_format.schema_edit import resolve

__all__ = ["Assignments", "Computation", "assign", "constant_of", "fitted"]


class Computation(Protocol):
    """One column's new values."""

    @property
    def inputs(self) -> frozenset[str]:
        """Columns it reads."""
        ...

    def run(self, rows: pa.RecordBatch) -> pa.Array:
        """One value a row, of the column's type."""
        ...


@dataclass(frozen=True, slots=True)
class _Constant:
    value: pa.Array  # of one element
    inputs: frozenset[str] = frozenset()

    def run(self, rows: pa.RecordBatch) -> pa.Array:
        return self.value.take(pa.array(np.zeros(rows.num_rows, np.int64)))


@dataclass(frozen=True, slots=True)
class _Expression:
    field: pa.Field
    text: str
    inputs: frozenset[str]
    evaluate: Callable[[pa.RecordBatch], Any]

    def run(self, rows: pa.RecordBatch) -> pa.Array:
        found = self.evaluate(rows)
        if isinstance(found, pa.Scalar):
            found = pa.array([found.as_py()], found.type).take(pa.array(np.zeros(rows.num_rows, np.int64)))
        return fitted(found, self.field, computed=True)


@dataclass(frozen=True, slots=True)
class _Function:
    field: pa.Field
    function: Callable[[pa.RecordBatch], Any]
    inputs: frozenset[str]

    def run(self, rows: pa.RecordBatch) -> pa.Array:
        found = self.function(rows)
        if isinstance(found, pa.ChunkedArray):
            found = found.combine_chunks()
        if isinstance(found, np.ndarray) and found.ndim == 2:
            found = list(found)
        if not isinstance(found, pa.Array):
            found = _as_array(found, self.field)
        if len(found) != rows.num_rows:
            raise InvalidInputError(
                f"the function for column {self.field.name!r} gave {len(found)} values for {rows.num_rows} rows"
            )
        return fitted(found, self.field, computed=True)


@dataclass(frozen=True, slots=True)
class Assignments:
    """New values of several columns, each computed from the row's own old ones."""

    by_column: Mapping[str, Computation]

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that get new values."""
        return tuple(self.by_column)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns the values are computed from."""
        return tuple(sorted(frozenset[str]().union(*(one.inputs for one in self.by_column.values()))))

    def only(self, columns: Sequence[str]) -> Assignments:
        """The assignments of some of the columns."""
        return Assignments({name: self.by_column[name] for name in columns})

    def unchanged(self, target: Target) -> Mapping[str, pa.Array]:
        """Nothing."""
        return {}

    def compute(self, rows: pa.RecordBatch, target: Target) -> Mapping[str, pa.Array]:
        """New values of all columns for these rows."""
        return {name: computation.run(rows) for name, computation in self.by_column.items()}


def assign(
    schema: pa.Schema,
    values: Mapping[str, object],
    inputs: tuple[str, ...] | None = None,
    over: pa.Schema | None = None,
) -> dict[str, Computation]:
    """Check new values by column against a schema.

    Parameters
    ----------
    schema
        Columns that may be set, ids in their metadata.
    inputs
        Columns that Python functions are given; None is all.
    over
        Columns that expressions may read; None is ``schema``.

    Raises
    ------
    InvalidInputError
        An unknown column, a constant that does not fit, an expression that cannot be evaluated.
    """
    return {
        name: _computation(_whole_column(schema, name), value, over or schema, inputs)
        for name, value in values.items()
    }


def _whole_column(schema: pa.Schema, name: str) -> pa.Field:
    """The column of this name; InvalidInputError, for a member of a struct with what gives it values."""
    if schema.get_field_index(name) < 0 and isinstance(name, str) and "." in name:
        place = resolve(schema, name)
        outer = place.names[0]
        raise InvalidInputError(
            f"{name!r} is a member of column {outer!r}, and values are given to whole columns here",
            fix=f"give {outer!r} new structs"
            if place.in_list
            else f"backfill({name!r}, …, where=…) gives a member values; or give {outer!r} new structs",
        )
    return require_column(schema, name)


def constant_of(field: pa.Field, value: object) -> pa.Array | None:
    """A constant as an array of one value of the column's type; None for what is computed from rows.

    Raises
    ------
    InvalidInputError
        It does not fit the column.
    """
    if isinstance(value, SqlExpression | StoredExpression | pc.Expression):
        return None
    if callable(value) and not isinstance(value, pa.Scalar):
        return None
    return fitted(_as_array([_plain(value)], field), field)


def _computation(
    field: pa.Field, value: object, schema: pa.Schema, inputs: tuple[str, ...] | None
) -> Computation:
    if isinstance(value, SqlExpression):
        return _sql(field, value.text, schema)
    if isinstance(value, StoredExpression):
        bound = bind_stored(value, schema, field.name)
        return _Expression(field, str(value), frozenset(bound.columns), bound.evaluate)
    if isinstance(value, pc.Expression):
        return _arrow(field, value, schema)
    if callable(value) and not isinstance(value, pa.Scalar):
        names = schema.names if inputs is None else [require_column(schema, name).name for name in inputs]
        return _Function(field, value, frozenset(names))
    constant = constant_of(field, value)
    assert constant is not None
    return _Constant(constant)


def _sql(field: pa.Field, text: str, schema: pa.Schema) -> Computation:
    bound = bind_written(text, schema, field.name)
    return _Expression(field, text, frozenset(bound.columns), bound.evaluate)


def _arrow(field: pa.Field, expression: pc.Expression, schema: pa.Schema) -> Computation:
    node = from_arrow(expression)
    names = list(dict.fromkeys(path[0] for path in node.paths))
    for name in names:
        require_column(schema, name)
    return _Expression(field, str(node), frozenset(names), _runner(node, names))


def _runner(node: Opaque, names: list[str]) -> Callable[[pa.RecordBatch], pa.Array]:
    from pyarrow import acero  # noqa: PLC0415 - loaded only where Arrow evaluates

    project = acero.Declaration("project", acero.ProjectNodeOptions([node.source], ["value"]))

    def run(rows: pa.RecordBatch) -> pa.Array:
        # A column that the expression does not read still gives a constant expression its number of rows.
        table = (
            pa.Table.from_batches([rows.select(names)])
            if names
            else pa.table({"none": pa.nulls(rows.num_rows)})
        )
        source = acero.Declaration("table_source", acero.TableSourceNodeOptions(table))
        try:
            plan = acero.Declaration.from_sequence([source, project])
            found = plan.to_table(use_threads=False).column("value").combine_chunks()
        except (pa.ArrowException, ValueError) as error:
            raise InvalidInputError(f"Arrow cannot evaluate {node}: {error}") from error
        return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found

    return run


def _plain(value: object) -> object:
    if isinstance(value, pa.Scalar | pa.Array):
        return value.as_py() if isinstance(value, pa.Scalar) else value.to_pylist()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else value


def _as_array(values: object, field: pa.Field) -> pa.Array:
    """Python values as an array of the column's type, or of what they look like where Arrow would cut them to fit."""
    wanted = [field.type, None]
    if _is_number(field.type) or is_vector(field.type):
        wanted.reverse()
    errors: list[Exception] = []
    for data_type in wanted:
        try:
            return pa.array(values, data_type)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            errors.append(error)
    raise InvalidInputError(f"the values for column {field.name!r} are no column: {errors[0]}") from errors[0]


def fitted(array: pa.Array, field: pa.Field, *, computed: bool = False) -> pa.Array:
    """The values in the type of a column, or InvalidInputError naming it.

    Parameters
    ----------
    computed
        The result of an expression: any number that the column can hold will do, and is rounded to its float type.
    """
    if computed and _is_number(field.type) and _is_number(array.type):
        try:
            array = array.cast(field.type, safe=not pa.types.is_floating(field.type))
        except (pa.ArrowException, LakeError) as error:
            raise InvalidInputError(f"column {field.name!r} cannot take {array.type}: {error}") from error
    schema = pa.schema([field])
    return conform(pa.RecordBatch.from_arrays([array], [field.name]), schema).column(0)


def _is_number(data_type: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_integer(data_type) or types.is_floating(data_type) or types.is_decimal(data_type))
