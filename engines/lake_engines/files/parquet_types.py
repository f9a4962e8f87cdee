"""Which Arrow types a Parquet file keeps, and how to get back the exact type that was written. Pure."""

from __future__ import annotations

import pyarrow as pa
from pyarrow import types

__all__ = ["leaf_count", "parquet_can_hold", "restore"]


def parquet_can_hold(data_type: pa.DataType) -> bool:
    """Whether a column of this type comes back from Parquet exactly, NULLs included.

    Intervals, unions, run-end encoding, empty structs, extension types, decimals of negative scale, nested
    string or binary views, nested dictionaries of anything but strings or bytes, and dictionaries within
    fixed-size lists (pyarrow 26 reads codes beyond the dictionary beneath a NULL) do not.
    """
    if types.is_dictionary(data_type):
        return _flat(data_type.value_type)
    return _is_view(data_type) or _holds(data_type)


def _is_view(data_type: pa.DataType) -> bool:
    return bool(types.is_string_view(data_type) or types.is_binary_view(data_type))


def _holds(data_type: pa.DataType) -> bool:
    if types.is_dictionary(data_type):
        return bool(types.is_string(data_type.value_type) or types.is_binary(data_type.value_type))
    if types.is_struct(data_type):
        return data_type.num_fields > 0 and all(_holds(field.type) for field in data_type)
    if types.is_map(data_type):
        return _holds(data_type.key_type) and _holds(data_type.item_type)
    if types.is_list(data_type) or types.is_large_list(data_type):
        return _holds(data_type.value_type)
    if types.is_fixed_size_list(data_type):
        return (
            data_type.list_size > 0 and _holds(data_type.value_type) and not _has_codes(data_type.value_type)
        )
    return _flat(data_type) and not _is_view(data_type)  # pyarrow 26 cannot write slices of nested views


def _has_codes(data_type: pa.DataType) -> bool:
    """Whether a dictionary lies anywhere inside."""
    if types.is_dictionary(data_type):
        return True
    inside = range(data_type.num_fields) if types.is_nested(data_type) else ()
    return any(_has_codes(data_type.field(index).type) for index in inside)


def _flat(data_type: pa.DataType) -> bool:
    if (
        isinstance(data_type, pa.BaseExtensionType)
        or types.is_interval(data_type)
        or types.is_nested(data_type)
    ):
        return False
    if types.is_decimal(data_type):
        return bool(0 <= data_type.scale <= data_type.precision)
    return not types.is_run_end_encoded(data_type) and not types.is_dictionary(data_type)


def leaf_count(data_type: pa.DataType) -> int:
    """Parquet columns that a field of this type takes."""
    if types.is_nested(data_type) and not types.is_dictionary(data_type):
        return sum(leaf_count(data_type.field(index).type) for index in range(data_type.num_fields))
    return 1


def restore(array: pa.Array, data_type: pa.DataType) -> pa.Array:
    """``array`` in the type that was written, where the Parquet reader gives a near relative."""
    if array.type.equals(data_type, check_metadata=True):
        return array
    if types.is_dictionary(data_type) and not types.is_dictionary(array.type):
        array = array.dictionary_encode()
    shape = _shape(data_type)
    if not _shape(array.type).equals(shape):
        array = array.cast(shape)
    return pa.array(_Relabelled(array, data_type))


class _Relabelled:
    """An array under another type of the same layout: names, nullability and metadata differ, no byte does."""

    def __init__(self, array: pa.Array, data_type: pa.DataType) -> None:
        self._array = array
        self._type = data_type

    def __arrow_c_array__(self, requested_schema: object = None) -> tuple[object, object]:
        return self._type.__arrow_c_schema__(), self._array.__arrow_c_array__()[1]


def _shape(data_type: pa.DataType) -> pa.DataType:
    """The type with what does not touch the layout set alike: names of list items, nullability, metadata."""
    if types.is_struct(data_type):
        return pa.struct([pa.field(field.name, _shape(field.type)) for field in data_type])
    if types.is_map(data_type):
        return pa.map_(_shape(data_type.key_type), _shape(data_type.item_type))
    if types.is_fixed_size_list(data_type):
        return pa.list_(_shape(data_type.value_type), data_type.list_size)
    if types.is_large_list(data_type):
        return pa.large_list(_shape(data_type.value_type))
    if types.is_list(data_type):
        return pa.list_(_shape(data_type.value_type))
    return data_type
