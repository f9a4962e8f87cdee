"""The Arrow types that Spark is not shown, and what stands in for them: Spark has fewer than Arrow.

Unsigned numbers become the next wider signed ones, half floats floats, seconds and milliseconds microseconds, vectors
lists. What no type of Spark's holds exactly is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from lake_connectors.adapter.types import EngineTypes, fitted
from lake_format.errors import UnsupportedError

__all__ = ["TYPES", "as_spark_batch"]

_WIDEST_DECIMAL = 38
_is = pa.types


def _refused(kind: pa.DataType) -> pa.DataType:
    raise UnsupportedError(f"Spark cannot read the type {kind}", fix="leave the column out: option columns")


def _decimal(kind: pa.DataType) -> pa.DataType:
    if kind.precision > _WIDEST_DECIMAL:
        return _refused(kind)
    return pa.decimal128(kind.precision, kind.scale)


def _timestamp(kind: pa.DataType) -> pa.DataType:
    if kind.unit == "ns":
        return _refused(kind)  # Spark keeps microseconds
    return pa.timestamp("us", None if kind.tz is None else "UTC")


def _to(target: pa.DataType) -> Callable[[pa.DataType], pa.DataType]:
    return lambda _: target


TYPES: EngineTypes = EngineTypes(
    (
        (_is.is_null, _refused),
        (_is.is_float16, _to(pa.float32())),
        (_is.is_uint8, _to(pa.int16())),
        (_is.is_uint16, _to(pa.int32())),
        (_is.is_uint32, _to(pa.int64())),
        (_is.is_uint64, _to(pa.decimal128(20, 0))),
        (_is.is_large_string, _to(pa.string())),
        (_is.is_string_view, _to(pa.string())),
        (_is.is_large_binary, _to(pa.binary())),
        (_is.is_binary_view, _to(pa.binary())),
        (_is.is_fixed_size_binary, _to(pa.binary())),
        (_is.is_date64, _to(pa.date32())),
        (_is.is_timestamp, _timestamp),
        (_is.is_time, _refused),
        (_is.is_duration, _refused),
        (_is.is_decimal, _decimal),
        (_is.is_fixed_size_list, lambda kind: pa.list_(TYPES.field(kind.value_field))),
        (_is.is_large_list, lambda kind: pa.list_(TYPES.field(kind.value_field))),
    ),
    nullable_members=True,  # a NULL struct holds NULL members, which Arrow does not cast to others
)
"""What Spark takes."""


def as_spark_batch(batch: pa.RecordBatch, target: pa.Schema) -> pa.RecordBatch:
    """The columns of ``target``, in its types; vectors as lists over the very same values."""
    arrays = [_as_spark(batch.column(field.name), field.type) for field in target]
    return pa.RecordBatch.from_arrays(arrays, schema=target)


def _as_spark(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if _is.is_fixed_size_list(array.type) and _is.is_list(kind) and not array.null_count:
        size = array.type.list_size
        values = fitted(array.flatten(), kind.value_type)
        offsets = pa.array(np.arange(0, (len(array) + 1) * size, size, dtype=np.int32))
        return pa.ListArray.from_arrays(offsets, values, type=kind)
    if array.type == kind:
        return array
    plain = TYPES.declared(array.type)
    return array.cast(plain).cast(kind) if plain != kind else array.cast(kind)
