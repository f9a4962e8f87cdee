"""Arrow types as DuckDB takes them: what DuckDB cannot read is declared, and handed over, as its nearest kin.

Pure functions; every conversion is exact.
"""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from lake_format.errors import UnsupportedError

__all__ = ["declared_schema", "declared_type", "fitted"]

_Test = Callable[[pa.DataType], bool]
_SIMPLE: tuple[tuple[_Test, Callable[[pa.DataType], pa.DataType]], ...] = (
    (pa.types.is_float16, lambda _: pa.float32()),
    (pa.types.is_string_view, lambda _: pa.string()),
    (pa.types.is_binary_view, lambda _: pa.binary()),
    (pa.types.is_decimal32, lambda kind: pa.decimal128(kind.precision, kind.scale)),
    (pa.types.is_decimal64, lambda kind: pa.decimal128(kind.precision, kind.scale)),
    (pa.types.is_decimal256, lambda kind: pa.decimal128(kind.precision, kind.scale)),
)
_WIDEST_DECIMAL = 38


def declared_type(kind: pa.DataType) -> pa.DataType:
    """The type as which DuckDB is shown a column of type ``kind``.

    A view layout anywhere in a schema would switch off DuckDB's filter translation for all of it; half floats
    are vectors' storage, and DuckDB computes distances on FLOAT.

    Raises
    ------
    UnsupportedError
        Decimals of more than 38 digits.
    """
    if pa.types.is_decimal256(kind) and kind.precision > _WIDEST_DECIMAL:
        raise UnsupportedError(f"DuckDB cannot read the type {kind}", fix="its decimals have up to 38 digits")
    for test, convert in _SIMPLE:
        if test(kind):
            return convert(kind)
    if pa.types.is_dictionary(kind):
        return declared_type(kind.value_type)
    if pa.types.is_struct(kind):
        return pa.struct([_declared_field(kind.field(index)) for index in range(kind.num_fields)])
    if pa.types.is_map(kind):
        return pa.map_(_declared_field(kind.key_field), _declared_field(kind.item_field))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_declared_field(kind.value_field), kind.list_size)
    if pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind):
        return pa.large_list(_declared_field(kind.value_field))
    if pa.types.is_list(kind) or pa.types.is_list_view(kind):
        return pa.list_(_declared_field(kind.value_field))
    return kind


def _declared_field(field: pa.Field) -> pa.Field:
    return pa.field(field.name, declared_type(field.type), field.nullable)


def declared_schema(schema: pa.Schema) -> pa.Schema:
    """The schema as DuckDB is shown it, without metadata."""
    return pa.schema([_declared_field(field) for field in schema])


def fitted(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """``array`` as ``kind``; itself where it has that type already."""
    return array if array.type == kind else array.cast(kind)
