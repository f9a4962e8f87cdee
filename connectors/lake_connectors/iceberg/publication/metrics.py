"""What is known of a file's columns as Iceberg's metrics: counts, and bounds in Iceberg's encoding. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
from pyiceberg import types as iceberg
from pyiceberg.conversions import to_bytes

from lake_format.model import Fragment
from lake_format.schema import child_fields, field_id
from lake_format.statistics import ColumnStatistics, bound_kind, decode_bound

__all__ = ["metrics_of"]


def metrics_of(
    fragment: Fragment, schema: pa.Schema, types: Mapping[int, iceberg.IcebergType], written: pa.Schema
) -> dict[str, Any]:
    """Counts and bounds of the columns, and of members of structs, as arguments of a ``DataFile``.

    Parameters
    ----------
    types
        Iceberg's type of each field.
    written
        The schema the file was written with: bounds of another kind than the present one's are left out.
    """
    known = {one.field_id: one for one in fragment.statistics}
    before = {field_id(field): field.type for field in _leaves(written)}
    found: dict[str, Any] = {
        name: {}
        for name in ("value_counts", "null_value_counts", "nan_value_counts", "lower_bounds", "upper_bounds")
    }
    for field in _leaves(schema):
        identity = field_id(field)
        one, kind = known.get(identity), bound_kind(field.type)
        if one is None or identity not in before:
            continue
        found["value_counts"][identity] = fragment.row_count
        found["null_value_counts"][identity] = one.null_count
        if one.nan_count is not None:
            found["nan_value_counts"][identity] = one.nan_count
        if kind is not None and kind == bound_kind(before[identity]):
            _add_bounds(found, one, field.type, types[identity])
    return found


def _add_bounds(
    found: dict[str, Any], one: ColumnStatistics, data_type: pa.DataType, kind: iceberg.IcebergType
) -> None:
    if not isinstance(kind, iceberg.PrimitiveType):
        return
    for name, bound in (("lower_bounds", one.lower), ("upper_bounds", one.upper)):
        if bound is not None:
            value = _value(bound, data_type)
            if name == "lower_bounds" and value == 0.0 and pa.types.is_floating(data_type):
                value = -0.0  # for Iceberg it is less than 0.0; here they are one
            found[name][one.field_id] = to_bytes(kind, value)


def _value(bound: bytes, data_type: pa.DataType) -> Any:
    value = decode_bound(bound, data_type)
    if pa.types.is_timestamp(value.type):
        return value.cast(pa.timestamp("us", value.type.tz)).value
    if pa.types.is_date(value.type) or pa.types.is_time(value.type):
        return value.value
    return value.as_py()


def _leaves(fields: Any) -> Iterator[pa.Field]:
    """Columns without anything inside, and such members of structs; nothing of lists and maps."""
    for field in fields:
        if pa.types.is_struct(field.type):
            yield from _leaves(child_fields(field.type))
        elif not child_fields(field.type):
            yield field
