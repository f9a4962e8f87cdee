"""The Arrow types that Polars is not shown, and what stands in for them.

Polars panics over zones that are offsets and over decimals of 256 bits; its text and binary are views anyway.
"""

from __future__ import annotations

import re

import pyarrow as pa

from lake_connectors.adapter.types import EngineTypes
from lake_format.errors import UnsupportedError

__all__ = ["TYPES"]

_WIDEST_DECIMAL = 38
_OFFSET = re.compile(r"[+-]\d\d:?\d\d")


def _has_offset(kind: pa.DataType) -> bool:
    return pa.types.is_timestamp(kind) and kind.tz is not None and _OFFSET.fullmatch(kind.tz) is not None


def _decimal(kind: pa.DataType) -> pa.DataType:
    if kind.precision > _WIDEST_DECIMAL:
        raise UnsupportedError(f"Polars cannot read the type {kind}", fix="its decimals have up to 38 digits")
    return pa.decimal128(kind.precision, kind.scale)


TYPES = EngineTypes(
    (
        (_has_offset, lambda kind: pa.timestamp(kind.unit, "UTC")),  # the same moments
        (pa.types.is_decimal32, _decimal),
        (pa.types.is_decimal64, _decimal),
        (pa.types.is_decimal256, _decimal),
    )
)
"""What Polars takes."""
