"""What Iceberg's metadata say of a column within a file, as statistics; none where they do not say enough. Pure."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping

import pyarrow as pa
from pyiceberg.manifest import DataFile

from lake_format.schema import field_id
from lake_format.statistics import (
    ColumnStatistics,
    bound_kind,
    decimal_scalar,
    encode_bound,
    storage_scalar,
    truncate_lower,
    truncate_upper,
)

__all__ = ["statistics_of"]


def statistics_of(file: DataFile, schema: pa.Schema) -> tuple[ColumnStatistics, ...]:
    """Statistics of the columns whose counts the file's metadata give, with bounds where they are usable.

    A column gets none unless its NULLs, and the NaNs of a column that can hold them, are counted: both are needed
    to leave a file out safely.
    """
    found = (_of_column(file, column) for column in schema)
    return tuple(one for one in found if one is not None)


def _of_column(file: DataFile, column: pa.Field) -> ColumnStatistics | None:
    identity, kind = field_id(column), bound_kind(column.type)
    if kind is None or pa.types.is_fixed_size_binary(column.type):
        return None
    nulls = _count(file.null_value_counts, identity, file.record_count)
    values = _count(file.value_counts, identity, file.record_count)
    nans = _count(file.nan_value_counts, identity, file.record_count) if kind == "float" else None
    if nulls is None or values not in (None, file.record_count) or (kind == "float" and nans is None):
        return None
    lower = _bound(file.lower_bounds, identity, column.type)
    upper = _bound(file.upper_bounds, identity, column.type)
    if lower is not None and upper is not None and lower > upper:
        lower = upper = None
    if kind in ("text", "binary"):
        text = kind == "text"
        lower = None if lower is None else truncate_lower(lower, text=text)
        upper = None if upper is None else truncate_upper(upper, text=text)
    return ColumnStatistics(field_id=identity, null_count=nulls, nan_count=nans, lower=lower, upper=upper)


def _count(counts: Mapping[int, int] | None, identity: int, rows: int) -> int | None:
    found = (counts or {}).get(identity)
    return found if found is not None and 0 <= found <= rows else None


def _bound(bounds: Mapping[int, bytes] | None, identity: int, data_type: pa.DataType) -> bytes | None:
    raw = (bounds or {}).get(identity)
    value = None if raw is None else _value(raw, data_type)
    return None if value is None else encode_bound(value)


def _value(raw: bytes, data_type: pa.DataType) -> pa.Scalar | None:
    """The value of a bound in Iceberg's encoding; None for bytes that are none of this type.

    A bound written before a column was widened has the narrower type's length.
    """
    is_ = pa.types
    try:
        if is_.is_string(data_type):
            return pa.scalar(raw.decode(), data_type)
        if is_.is_binary(data_type):
            return pa.scalar(raw, data_type)
        if is_.is_boolean(data_type):
            return pa.scalar(raw != b"\x00", data_type) if len(raw) == 1 else None
        if is_.is_floating(data_type):
            return _float(raw, data_type)
        if is_.is_decimal(data_type):
            number = int.from_bytes(raw, "big", signed=True)
            return decimal_scalar(number, data_type) if 0 < len(raw) <= 16 else None
        number = int.from_bytes(raw, "little", signed=True)
        if is_.is_integer(data_type):
            return pa.scalar(number, data_type) if len(raw) in (4, data_type.bit_width // 8) else None
        return storage_scalar(number, data_type) if len(raw) * 8 == data_type.bit_width else None
    except (ValueError, OverflowError, pa.ArrowException):
        return None


def _float(raw: bytes, data_type: pa.DataType) -> pa.Scalar | None:
    if len(raw) not in (4, data_type.bit_width // 8):
        return None
    (number,) = struct.unpack("<f" if len(raw) == 4 else "<d", raw)
    return None if math.isnan(number) else pa.scalar(number, data_type)
