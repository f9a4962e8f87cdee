"""A table's schema as Iceberg's, where the bytes of its Parquet files mean the same by Iceberg's types. Pure."""

from __future__ import annotations

import pyarrow as pa
from pyiceberg import types as iceberg
from pyiceberg.schema import Schema

from lake_format.errors import UnsupportedError
from lake_format.schema import child_fields, field_id

__all__ = ["iceberg_schema"]

_MOST_DIGITS = 38


def iceberg_schema(schema: pa.Schema) -> Schema:
    """The schema under its field ids.

    Raises
    ------
    UnsupportedError
        A column holds what Iceberg has no type for, or keeps in other bytes; it is named.
    """
    return Schema(*(_field(field, field.name) for field in schema))


def _field(field: pa.Field, column: str) -> iceberg.NestedField:
    comment = (field.metadata or {}).get(b"comment")
    return iceberg.NestedField(
        field_id=field_id(field),
        name=field.name,
        field_type=_type(field.type, column),
        required=not field.nullable,
        doc=None if comment is None else comment.decode("utf-8", "replace"),
    )


def _type(data_type: pa.DataType, column: str) -> iceberg.IcebergType:
    if pa.types.is_struct(data_type):
        return iceberg.StructType(*(_field(child, column) for child in child_fields(data_type)))
    if pa.types.is_map(data_type):
        key, value = child_fields(data_type)
        return iceberg.MapType(
            key_id=field_id(key),
            key_type=_type(key.type, column),
            value_id=field_id(value),
            value_type=_type(value.type, column),
            value_required=not value.nullable,
        )
    if pa.types.is_dictionary(data_type):
        return _type(data_type.value_type, column)
    children = child_fields(data_type)
    if children:
        (element,) = children
        return iceberg.ListType(
            element_id=field_id(element),
            element_type=_type(element.type, column),
            element_required=not element.nullable,
        )
    found = _number(data_type) or _instant(data_type) or _bytes(data_type)
    if found is None:
        raise UnsupportedError(
            f"column {column!r} holds {data_type}, which Iceberg's tables do not",
            fix="widen its type or drop the column, then compact() and publish again",
        )
    return found


def _number(data_type: pa.DataType) -> iceberg.PrimitiveType | None:
    is_ = pa.types
    if is_.is_boolean(data_type):
        return iceberg.BooleanType()
    if is_.is_signed_integer(data_type) or is_.is_uint8(data_type) or is_.is_uint16(data_type):
        # Parquet keeps up to 32 bits in 32; unsigned ones of 32 and 64 would be read as negative.
        return iceberg.LongType() if data_type.bit_width == 64 else iceberg.IntegerType()
    if is_.is_float32(data_type):
        return iceberg.FloatType()
    if is_.is_float64(data_type):
        return iceberg.DoubleType()
    if is_.is_decimal128(data_type) and data_type.precision <= _MOST_DIGITS:
        return iceberg.DecimalType(data_type.precision, data_type.scale)
    return None


def _instant(data_type: pa.DataType) -> iceberg.PrimitiveType | None:
    is_ = pa.types
    if is_.is_date32(data_type):
        return iceberg.DateType()
    if is_.is_time64(data_type) and data_type.unit == "us":
        return iceberg.TimeType()
    if is_.is_timestamp(data_type) and data_type.unit != "ns":
        return iceberg.TimestampType() if data_type.tz is None else iceberg.TimestamptzType()
    return None


def _bytes(data_type: pa.DataType) -> iceberg.PrimitiveType | None:
    is_ = pa.types
    if is_.is_string(data_type) or is_.is_large_string(data_type) or is_.is_string_view(data_type):
        return iceberg.StringType()
    if is_.is_binary(data_type) or is_.is_large_binary(data_type) or is_.is_binary_view(data_type):
        return iceberg.BinaryType()
    if is_.is_fixed_size_binary(data_type):
        return iceberg.FixedType(data_type.byte_width)
    return None
