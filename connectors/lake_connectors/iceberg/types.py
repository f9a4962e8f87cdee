"""Iceberg's schemas as Arrow's, with Iceberg's field ids at every depth. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
from pyiceberg import types as iceberg
from pyiceberg.schema import Schema

from lake_connectors.iceberg.defaults import with_initial_default
from lake_format.errors import InvalidInputError, UnsupportedError
from lake_format.schema import (
    FIELD_ID_KEY,
    MAX_VECTOR_DIMENSION,
    check_column_type,
    check_names,
    require_column,
)

__all__ = ["arrow_schema", "with_vectors"]

_PLAIN: dict[type[iceberg.PrimitiveType], pa.DataType] = {
    iceberg.BooleanType: pa.bool_(),
    iceberg.IntegerType: pa.int32(),
    iceberg.LongType: pa.int64(),
    iceberg.FloatType: pa.float32(),
    iceberg.DoubleType: pa.float64(),
    iceberg.DateType: pa.date32(),
    iceberg.TimeType: pa.time64("us"),
    iceberg.TimestampType: pa.timestamp("us"),
    iceberg.TimestamptzType: pa.timestamp("us", "UTC"),
    iceberg.TimestampNanoType: pa.timestamp("ns"),
    iceberg.TimestamptzNanoType: pa.timestamp("ns", "UTC"),
    iceberg.StringType: pa.string(),
    iceberg.BinaryType: pa.binary(),
    iceberg.UUIDType: pa.binary(16),
}


def arrow_schema(schema: Schema) -> pa.Schema:
    """The Arrow schema of an Iceberg table.

    Raises
    ------
    UnsupportedError
        A column has a type or a name that tables cannot hold; it is named.
    """
    fields = [with_initial_default(_field(field, field.name), field) for field in schema.fields]
    try:
        check_names([field.name for field in fields], "the Iceberg table")
        for field in fields:
            check_column_type(field)
    except InvalidInputError as error:
        raise UnsupportedError(
            f"the Iceberg table cannot be imported: {error.what}", fix="rename or drop it there first"
        ) from error
    return pa.schema(fields)


def with_vectors(schema: pa.Schema, vectors: Mapping[str, int] | None) -> pa.Schema:
    """The schema with some of its columns of lists as vectors.

    Parameters
    ----------
    vectors
        Dimensions by column.

    Raises
    ------
    InvalidInputError
        A column is not there or not a list of floats, or a dimension is not one.
    """
    for name, dimension in (vectors or {}).items():
        column = require_column(schema, name)
        if not pa.types.is_list(column.type) or column.type.value_type != pa.float32():
            raise InvalidInputError(f"column {name!r} is {column.type}, not a list of 32-bit floats")
        if not isinstance(dimension, int) or not 1 <= dimension <= MAX_VECTOR_DIMENSION:
            raise InvalidInputError(
                f"vectors of {name!r} cannot have the dimension {dimension!r}",
                fix=f"give a whole number from 1 to {MAX_VECTOR_DIMENSION}",
            )
        made = column.with_type(pa.list_(column.type.value_field, dimension))
        schema = schema.set(schema.get_field_index(name), made)
    return schema


def _field(field: iceberg.NestedField, column: str) -> pa.Field:
    return _numbered(field.name, field.field_type, field.field_id, not field.required, column, field.doc)


def _numbered(
    name: str,
    kind: iceberg.IcebergType,
    field_id: int,
    nullable: bool,
    column: str,
    comment: str | None = None,
) -> pa.Field:
    metadata = {FIELD_ID_KEY: str(field_id).encode()}
    if comment:
        metadata[b"comment"] = comment.encode()
    return pa.field(name, _type(kind, column), nullable, metadata)


def _type(kind: iceberg.IcebergType, column: str) -> pa.DataType:
    if isinstance(kind, iceberg.StructType):
        return pa.struct([_field(field, column) for field in kind.fields])
    if isinstance(kind, iceberg.ListType):
        element = _numbered("element", kind.element_type, kind.element_id, not kind.element_required, column)
        return pa.list_(element)
    if isinstance(kind, iceberg.MapType):
        key = _numbered("key", kind.key_type, kind.key_id, False, column)
        value = _numbered("value", kind.value_type, kind.value_id, not kind.value_required, column)
        return pa.map_(key, value)
    if isinstance(kind, iceberg.DecimalType):
        return pa.decimal128(kind.precision, kind.scale)
    if isinstance(kind, iceberg.FixedType):
        return pa.binary(len(kind))
    plain = _PLAIN.get(type(kind)) if isinstance(kind, iceberg.PrimitiveType) else None
    if plain is None:
        raise UnsupportedError(
            f"column {column!r} of the Iceberg table has the type {kind}, which cannot be imported",
            fix="drop the column there, or import an older snapshot",
        )
    return plain
