"""Rows as users hand them in, made into record batches of a table's schema, or refused with the column named.

Conversions are exact or an error, with one exception that users expect: vector elements become the column's float
type. Streams stay streams; nothing is gathered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lake_format.errors import InvalidInputError, LakeError
from lake_format.schema import is_vector, require_column

__all__ = ["as_batches", "conform"]


def as_batches(data: object) -> Iterator[pa.RecordBatch]:
    """Record batches of whatever holds rows; an empty one first where columns are known ahead of the rows.

    Parameters
    ----------
    data
        An Arrow table, batch, reader or dataset; anything with ``__arrow_c_stream__`` or ``__arrow_c_array__``
        (pandas and Polars frames, DuckDB relations); a mapping of columns; an iterable of any of those, or of
        dictionaries, one a row.
    """
    if isinstance(data, pa.Table):
        yield from _announced(data.to_reader())
    elif isinstance(data, pa.RecordBatch):
        yield data
    elif isinstance(data, Mapping):
        yield from as_batches(_from_python(lambda: pa.table(dict(data))))
    elif hasattr(data, "scanner") and hasattr(data, "schema"):
        yield from _announced(data.scanner().to_reader())
    elif hasattr(data, "__arrow_c_stream__"):
        yield from _announced(pa.RecordBatchReader.from_stream(data))
    elif hasattr(data, "__arrow_c_array__"):
        yield pa.record_batch(data)
    elif isinstance(data, Iterable) and not isinstance(data, str | bytes):
        yield from _from_iterable(data)
    else:
        hint = (
            "call .collect() first"
            if hasattr(data, "collect")
            else "pass an Arrow table, reader or data frame"
        )
        raise InvalidInputError(f"cannot read rows from a {type(data).__name__}", fix=hint)


def _announced(reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    """The reader's batches after an empty one, so that columns are checked before, and without, any row."""
    yield pa.RecordBatch.from_pylist([], schema=reader.schema)
    yield from reader


def _from_iterable(items: Iterable[object]) -> Iterator[pa.RecordBatch]:
    rows: list[Mapping[str, object]] = []
    for item in items:
        if isinstance(item, Mapping) and not hasattr(item, "__arrow_c_stream__"):
            rows.append(item)
            if len(rows) == 8192:
                yield from _from_rows(rows)
                rows = []
        else:
            if rows:
                yield from _from_rows(rows)
                rows = []
            yield from as_batches(item)
    if rows:
        yield from _from_rows(rows)


def _from_rows(rows: list[Mapping[str, object]]) -> list[pa.RecordBatch]:
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    return list(_from_python(lambda: pa.table(columns)).to_batches())


def _from_python(build: object) -> pa.Table:
    try:
        return build()  # type: ignore[operator]
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InvalidInputError(f"the rows cannot be made into columns: {error}") from error


def conform(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch with exactly the columns and types of ``schema``.

    Columns are matched by name; a missing nullable one becomes NULL.

    Raises
    ------
    InvalidInputError
        Naming the column, and the first value that does not fit.
    """
    names = batch.schema.names
    for name in names:
        require_column(schema, name)
        if names.count(name) > 1:
            raise InvalidInputError(f"column {name!r} occurs twice in the rows to append")
    return pa.RecordBatch.from_arrays([_column(batch, field) for field in schema], schema=schema)


def _column(batch: pa.RecordBatch, field: pa.Field) -> pa.Array:
    index = batch.schema.get_field_index(field.name)
    if index < 0:
        if not field.nullable:
            raise InvalidInputError(
                f"column {field.name!r} is missing from the rows to append, and must not be NULL",
                fix="add it",
            )
        return pa.nulls(batch.num_rows, field.type)
    array = _converted(batch.column(index), field)
    if array.null_count and not field.nullable:
        row = int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
        raise InvalidInputError(f"column {field.name!r} must not be NULL, but row {row} of a batch is")
    return array


def _converted(array: pa.Array, field: pa.Field) -> pa.Array:
    target = field.type
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if array.type == target:
        return array if array.type.equals(target, check_metadata=True) else _relabelled(array, target)
    if is_vector(target):
        return _as_vectors(array, field)
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), target)
    if not _may_convert(array.type, target):
        raise InvalidInputError(
            f"column {field.name!r} is {target}, but the values given are {array.type}",
            fix=f"cast it to {target} first",
        )
    try:
        converted = array.cast(target)
    except (pa.ArrowException, NotImplementedError) as error:
        raise InvalidInputError(
            f"column {field.name!r} is {target}, and a value of type {array.type} does not fit: {error}"
        ) from error
    if pa.types.is_floating(array.type) and pa.types.is_floating(target):
        _require_same_floats(array, converted, field)
    return converted


def _relabelled(array: pa.Array, target: pa.DataType) -> pa.Array:
    """The same buffers under a type that differs in metadata only."""
    try:
        return array.cast(target)
    except (pa.ArrowException, NotImplementedError):
        return array


def _require_same_floats(array: pa.Array, converted: pa.Array, field: pa.Field) -> None:
    back = converted.cast(array.type)
    same = pc.or_(pc.equal(back, array), pc.and_(pc.is_nan(back), pc.is_nan(array)))
    lost = pc.fill_null(pc.invert(same), False)
    if pc.any(lost).as_py():
        value = array.filter(lost)[0]
        raise InvalidInputError(
            f"column {field.name!r} is {field.type}, which cannot hold {value} exactly",
            fix="round it first",
        )


def _may_convert(source: pa.DataType, target: pa.DataType) -> bool:
    """Whether values of one type can be checked and turned into the other without guessing what was meant."""
    types = pa.types
    if types.is_dictionary(source) or types.is_run_end_encoded(source):
        return bool(source.value_type == target) or _may_convert(source.value_type, target)
    if types.is_dictionary(target):
        return source == target.value_type or _may_convert(source, target.value_type)
    text = (types.is_string, types.is_large_string, types.is_string_view)
    binary = (types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary)
    number = (types.is_integer, types.is_floating, types.is_decimal)
    if types.is_integer(source):
        return bool(any(check(target) for check in number))
    if types.is_floating(source):
        return bool(types.is_floating(target))
    if types.is_timestamp(source) and types.is_timestamp(target):
        return (source.tz is None) == (target.tz is None)
    same_family = (
        text,
        binary,
        (types.is_decimal,),
        (types.is_date,),
        (types.is_time,),
        (types.is_duration,),
    )
    if any(any(check(source) for check in family) for family in same_family):
        return any(
            any(f(source) for f in family) and any(f(target) for f in family) for family in same_family
        )
    return bool(types.is_nested(source) and types.is_nested(target))


def _as_vectors(array: pa.Array, field: pa.Field) -> pa.Array:
    """Lists of numbers as vectors of the column's dimension and element type."""
    target = field.type
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), target)
    if not (
        pa.types.is_list(array.type)
        or pa.types.is_large_list(array.type)
        or pa.types.is_fixed_size_list(array.type)
    ):
        raise InvalidInputError(
            f"column {field.name!r} holds vectors of dimension {target.list_size}, but the rows have {array.type}",
            fix="pass lists of numbers",
        )
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    lengths = pc.fill_null(pc.list_value_length(array), target.list_size).to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero(valid & (lengths != target.list_size))
    if len(wrong):
        row = int(wrong[0])
        raise InvalidInputError(
            f"column {field.name!r} holds vectors of dimension {target.list_size}, "
            f"but row {row} of a batch has {int(lengths[row])}"
        )
    elements = array.filter(pa.array(valid)).flatten() if array.null_count else array.flatten()
    values = _elements(elements, field)
    if not array.null_count:
        return pa.FixedSizeListArray.from_arrays(values, type=target)
    spread = np.zeros((len(array), target.list_size), values.to_numpy(zero_copy_only=False).dtype)
    spread[valid] = values.to_numpy(zero_copy_only=False).reshape(-1, target.list_size)
    return pa.FixedSizeListArray.from_arrays(pa.array(spread.reshape(-1)), type=target, mask=pa.array(~valid))


def _elements(elements: pa.Array, field: pa.Field) -> pa.Array:
    is_, kind = pa.types, elements.type
    if len(elements) and not (is_.is_floating(kind) or is_.is_integer(kind) or is_.is_decimal(kind)):
        raise InvalidInputError(f"column {field.name!r} holds vectors of numbers, not of {elements.type}")
    if elements.null_count:
        raise InvalidInputError(
            f"column {field.name!r} has a NULL inside a vector",
            fix="a vector may be NULL as a whole, its elements may not",
        )
    try:
        if is_.is_decimal(
            kind
        ):  # what [0.5, 1] is in SQL; Arrow casts decimals to floats of 32 and 64 bits only
            elements = elements.cast(pa.float64())
        return elements.cast(field.type.value_type, safe=False)
    except (pa.ArrowException, LakeError) as error:
        raise InvalidInputError(
            f"column {field.name!r} cannot take vectors of {elements.type}: {error}"
        ) from error
