"""The Arrow types that DuckDB is not shown, and what stands in for them.

A view layout anywhere in a schema would switch off DuckDB's filter translation for all of it; half floats are
vectors' storage, and DuckDB computes distances on FLOAT.
"""

from __future__ import annotations

import pyarrow as pa

from lake_connectors.adapter.types import EngineTypes
from lake_format.errors import UnsupportedError

__all__ = ["TYPES"]

_WIDEST_DECIMAL = 38


def _decimal(kind: pa.DataType) -> pa.DataType:
    if kind.precision > _WIDEST_DECIMAL:
        raise UnsupportedError(f"DuckDB cannot read the type {kind}", fix="its decimals have up to 38 digits")
    return pa.decimal128(kind.precision, kind.scale)


TYPES = EngineTypes(
    (
        (pa.types.is_float16, lambda _: pa.float32()),
        (pa.types.is_string_view, lambda _: pa.string()),
        (pa.types.is_binary_view, lambda _: pa.binary()),
        (pa.types.is_decimal32, _decimal),
        (pa.types.is_decimal64, _decimal),
        (pa.types.is_decimal256, _decimal),
    )
)
"""What DuckDB takes."""
