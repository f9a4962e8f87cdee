"""Iceberg's initial defaults as declared defaults: values of rows written before a column was there. Pure."""

from __future__ import annotations

import uuid

import pyarrow as pa
from pyiceberg.conversions import from_json
from pyiceberg.types import NestedField, PrimitiveType

from lake_format.column_defaults import declarable, with_default
from lake_format.errors import CorruptionError

__all__ = ["with_initial_default"]


def with_initial_default(column: pa.Field, field: NestedField) -> pa.Field:
    """The column with the default that Iceberg says it has; as it is where it has none, or none that can be declared.

    Raises
    ------
    CorruptionError
        The default is no value of the column's type.
    """
    if field.initial_default is None or not isinstance(field.field_type, PrimitiveType):
        return column
    try:
        value = from_json(field.field_type, field.initial_default)
        found = pa.array([value.bytes if isinstance(value, uuid.UUID) else value], column.type)
    except (ArithmeticError, AttributeError, TypeError, ValueError, pa.ArrowException) as error:
        raise CorruptionError(
            f"column {field.name!r} of the Iceberg table is {field.field_type} and has the initial default "
            f"{field.initial_default!r}"
        ) from error
    return with_default(column, found) if declarable(found) else column
