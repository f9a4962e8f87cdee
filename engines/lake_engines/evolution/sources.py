"""Where the values of a filled column come from: computed from the row, or joined from Arrow data.

Each source says which columns it reads and gives, for a batch of rows, the new values and which rows have one.
Nothing is read or written here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lake_engines.changes.assignments import Computation, assign, constant_of, fitted
from lake_engines.files.base import gather
from lake_engines.ingest import as_batches
from lake_engines.predicate.stored import bind_written
from lake_engines.predicate.values import Value
from lake_format.computed_columns import StoredExpression
from lake_format.errors import InvalidInputError, NotFoundError
from lake_format.expressions import SqlExpression
from lake_format.schema import ROW_ID, ROW_ID_FIELD, require_column
from lake_format.snapshot import Snapshot

__all__ = ["Source", "constant", "gathered", "infer_type", "is_joined", "open_source"]

_Mask = npt.NDArray[np.bool_]


class Source(Protocol):
    """New values of one column; a ``partial`` source may have none for some rows, which then keep theirs."""

    @property
    def partial(self) -> bool:
        """Whether some rows may be left without a value."""
        ...

    @property
    def concurrent(self) -> bool:
        """Whether several threads may run it at once; users' functions are not asked to bear that."""
        ...

    @property
    def inputs(self) -> frozenset[str]:
        """Columns it reads; ``_row_id`` may be among them."""
        ...

    def run(self, rows: pa.RecordBatch) -> tuple[pa.Array, _Mask | None]:
        """One value a row in the column's type, and which rows get one; None where all do."""
        ...


def is_joined(values: object) -> bool:
    """Whether values are rows of Arrow data, to be matched with rows of the table."""
    return isinstance(values, pa.Table | pa.RecordBatch | pa.RecordBatchReader) or (
        not isinstance(values, pa.Array | pa.ChunkedArray | pa.Scalar)
        and (hasattr(values, "__arrow_c_stream__") or hasattr(values, "scanner"))
    )


def gathered(values: object) -> object:
    """Data to join in memory, as it is read more than once; other values as they are."""
    if not is_joined(values) or isinstance(values, pa.Table):
        return values
    return pa.Table.from_batches(list(as_batches(values)))


def constant(field: pa.Field, values: object) -> pa.Array | None:
    """Values that are one and the same for all rows, as an array of one; None where they are not.

    Raises
    ------
    InvalidInputError
        The constant does not fit the field.
    """
    return None if is_joined(values) else constant_of(field, values)


def open_source(
    snapshot: Snapshot,
    field: pa.Field,
    values: object,
    inputs: tuple[str, ...] | None,
    on: str | None,
    *,
    is_member: bool = False,
) -> Source:
    """Check values against the table.

    Parameters
    ----------
    is_member
        The field is a member of a struct, so that a column of its name is another one.

    Raises
    ------
    InvalidInputError
        They do not fit the column or the table's columns, or a key occurs twice in data to join.
    NotFoundError
        Data to join names a row id that no live row has.
    """
    if is_joined(values):
        return _joined(snapshot, field, values, on)
    if on is not None:
        raise InvalidInputError("on= is for Arrow data to join", fix="leave it out")
    schema = snapshot.schema
    if not is_member and schema.get_field_index(field.name) < 0:
        schema = schema.append(field)
    if not isinstance(values, StoredExpression):
        schema = schema.append(ROW_ID_FIELD)
    inputs = tuple(snapshot.schema.names) if inputs is None else inputs
    computation = assign(pa.schema([field]), {field.name: values}, inputs, over=schema)[field.name]
    if field.name in computation.inputs and snapshot.schema.get_field_index(field.name) < 0:
        raise InvalidInputError(
            f"the values of new column {field.name!r} cannot be made of the column itself"
        )
    return _Computed(computation, concurrent=isinstance(values, pc.Expression) or not callable(values))


@dataclass(frozen=True, slots=True)
class _Computed:
    computation: Computation
    concurrent: bool
    partial: bool = False

    @property
    def inputs(self) -> frozenset[str]:
        return self.computation.inputs

    def run(self, rows: pa.RecordBatch) -> tuple[pa.Array, None]:
        return self.computation.run(rows), None


@dataclass(frozen=True, slots=True)
class _Joined:
    """Values found by key; ``find`` gives for each key its row among the values, -1 for none."""

    key: str
    values: pa.Array
    find: Callable[[pa.Array], npt.NDArray[np.int64]]
    partial: bool = True
    concurrent: bool = True

    @property
    def inputs(self) -> frozenset[str]:
        return frozenset({self.key})

    def run(self, rows: pa.RecordBatch) -> tuple[pa.Array, _Mask | None]:
        places = self.find(rows.column(self.key))
        found = places >= 0
        if found.all():
            return _picked(self.values, places), None
        padded = pa.concat_arrays([self.values, pa.nulls(1, self.values.type)])
        return _picked(padded, np.where(found, places, len(self.values))), found


def _picked(values: pa.Array, places: npt.NDArray[np.int64]) -> pa.Array:
    return gather(pa.RecordBatch.from_arrays([values], ["value"]), places).column(0)


def _joined(snapshot: Snapshot, field: pa.Field, values: object, on: str | None) -> _Joined:
    table = pa.Table.from_batches(list(as_batches(values))).combine_chunks()
    key = _key_of(table, on)
    stored = ROW_ID_FIELD if key == ROW_ID else require_column(snapshot.schema, key)
    column = _value_column(table, key, field.name)
    keys = fitted(_array(table.column(key)), stored.with_nullable(True).remove_metadata())
    if keys.null_count:
        raise InvalidInputError(
            f"key column {key!r} of the values to join has NULLs", fix="leave these rows out"
        )
    if len(pc.unique(keys)) < len(keys):
        repeated = pc.value_counts(keys).filter(pc.greater(pc.value_counts(keys).field("counts"), 1))
        raise InvalidInputError(
            f"key {repeated.field('values')[0].as_py()!r} occurs more than once in the values to join",
            fix="keep one row a key",
        )
    if key == ROW_ID:
        _require_live(snapshot, keys)
    fitting = fitted(_array(table.column(column)), field)
    return _Joined(key, fitting, _finder(keys))


def _array(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    if isinstance(combined, pa.ChunkedArray):
        return pa.concat_arrays(combined.chunks) if combined.num_chunks else pa.array([], column.type)
    return combined


def _key_of(table: pa.Table, on: str | None) -> str:
    if on is None:
        if ROW_ID in table.column_names:
            return ROW_ID
        raise InvalidInputError(
            f"the values to join have no column {ROW_ID!r}", fix='name the column to join by, such as on="id"'
        )
    if not isinstance(on, str) or on not in table.column_names:
        raise InvalidInputError(
            f"the values to join have no column {on!r}", fix=f"they have {', '.join(table.column_names)}"
        )
    return on


def _value_column(table: pa.Table, key: str, name: str) -> str:
    if name in table.column_names and name != key:
        return name
    others: list[str] = [one for one in table.column_names if one != key]
    if len(others) != 1:
        raise InvalidInputError(
            f"the values to join have no column {name!r}", fix=f"they have {', '.join(table.column_names)}"
        )
    return others[0]


def _require_live(snapshot: Snapshot, keys: pa.Array) -> None:
    row_ids = keys.to_numpy(zero_copy_only=False)
    owners, _ = snapshot.locations.locate(row_ids.astype(np.uint64))
    missing = row_ids[(owners < 0) | (row_ids < 0)]
    if len(missing):
        some = ", ".join(str(int(one)) for one in missing[:5])
        raise NotFoundError(
            f"{len(missing)} of {len(row_ids)} row ids to join have no row in version "
            f"{snapshot.version.version}: {some}",
            fix="they were deleted, or never given out",
        )


def _finder(keys: pa.Array) -> Callable[[pa.Array], npt.NDArray[np.int64]]:
    """Look-up of keys: whole numbers by bisection, everything else by Arrow's hash table."""
    if not pa.types.is_integer(keys.type):
        if pa.types.is_dictionary(keys.type):
            keys = keys.dictionary_decode()

        def by_hash(wanted: pa.Array) -> npt.NDArray[np.int64]:
            plain = wanted.dictionary_decode() if pa.types.is_dictionary(wanted.type) else wanted
            found = pc.index_in(plain, value_set=keys, skip_nulls=True)
            return np.asarray(found.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)

        return by_hash
    numbers = keys.to_numpy()
    order = np.argsort(numbers, kind="stable")
    ascending = numbers[order]

    def by_bisection(wanted: pa.Array) -> npt.NDArray[np.int64]:
        filled = wanted.fill_null(0) if wanted.null_count else wanted
        asked = filled.to_numpy(zero_copy_only=False)
        if len(ascending) == 0:
            return np.full(len(asked), -1, np.int64)
        place = np.minimum(np.searchsorted(ascending, asked), len(ascending) - 1)
        hit = ascending[place] == asked
        if wanted.null_count:
            hit &= np.asarray(wanted.is_valid().to_numpy(zero_copy_only=False))
        return np.where(hit, order[place], -1)

    return by_bisection


def infer_type(schema: pa.Schema, name: str, values: object, on: str | None) -> pa.DataType:
    """The type of a new column that was given without one; InvalidInputError where values do not tell."""
    if isinstance(values, SqlExpression):
        bound = bind_written(values.text, schema.append(ROW_ID_FIELD), name)
        return _stored(_customary(bound, schema), name)
    if is_joined(values) and hasattr(values, "schema"):
        names = [one for one in values.schema.names if one != (on or ROW_ID)]
        column = name if name in names else names[0] if len(names) == 1 else None
        if column is not None:
            return _stored(values.schema.field(column).type, name)
    if isinstance(values, pa.Array | pa.ChunkedArray | np.ndarray):
        raise InvalidInputError(
            f"the {len(values):,} values for column {name!r} do not say which rows they are for",
            fix=f"join them: a pyarrow.Table with {name!r} and {ROW_ID!r}, or a key and on=",
        )
    if not is_joined(values) and not callable(values):
        try:
            return _stored(_scalar(values).type, name)
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise InvalidInputError(
                f"the type of column {name!r} cannot be told from {values!r}", fix="give its type"
            ) from error
    raise InvalidInputError(f"the type of column {name!r} is missing", fix="give it, such as pa.int64()")


def _customary(value: Value, schema: pa.Schema) -> pa.DataType:
    """The type people expect: whole numbers made of whole numbers are int64, though they could need more digits."""
    exact = pa.types.is_decimal(value.dtype) and value.dtype.scale == 0
    names = [name for name in value.columns if schema.get_field_index(name) >= 0]
    if exact and all(pa.types.is_integer(schema.field(name).type) for name in names):
        return pa.int64()
    return value.dtype


def _scalar(value: Any) -> pa.Scalar:
    return value if isinstance(value, pa.Scalar) else pa.scalar(value)


def _stored(found: pa.DataType, name: str) -> pa.DataType:
    if pa.types.is_null(found):
        raise InvalidInputError(f"the type of column {name!r} cannot be told from NULL", fix="give its type")
    return found
