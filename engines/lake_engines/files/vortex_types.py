"""Which Arrow types a Vortex file gives back exactly. Pure; proven type by type in the tests."""

from __future__ import annotations

import pyarrow as pa
from pyarrow import types

__all__ = ["vortex_can_hold"]

_FLAT = (
    types.is_null,
    types.is_boolean,
    types.is_integer,
    types.is_floating,
    types.is_decimal,
    types.is_date,
    types.is_time,
    types.is_timestamp,
    types.is_string,
    types.is_large_string,
    types.is_string_view,
    types.is_binary,
    types.is_large_binary,
    types.is_binary_view,
)


def vortex_can_hold(data_type: pa.DataType) -> bool:
    """Whether a column of this type comes back from Vortex 0.93 exactly, NULLs included.

    Fixed-size binary, duration, interval, map, union, run-end-encoded, list views and extension types do not:
    such columns belong in a Parquet file.
    """
    if isinstance(data_type, pa.BaseExtensionType):
        return False
    if any(is_kind(data_type) for is_kind in _FLAT):
        return True
    if types.is_dictionary(data_type):
        return any(is_kind(data_type.value_type) for is_kind in _FLAT[1:])
    if types.is_struct(data_type):
        names = [field.name for field in data_type]
        return len(names) == len(set(names)) > 0 and all(vortex_can_hold(field.type) for field in data_type)
    if types.is_list(data_type) or types.is_large_list(data_type) or types.is_fixed_size_list(data_type):
        return vortex_can_hold(data_type.value_type)
    return False
