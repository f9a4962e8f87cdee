"""What Iceberg's metadata say of a column within a file, as statistics; none where they do not say enough. Pure."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pyarrow as pa
from pyiceberg.manifest import DataFile

from lake_format.schema import field_id
from lake_format.statistics import (
    ColumnStatistics,
    bound_kind,
    number_encoder,
    truncate_lower,
    truncate_upper,
)

__all__ = ["Bounds"]

_Read = Callable[[bytes], bytes | None]
_FLOATS = {4: struct.Struct("<f"), 8: struct.Struct("<d")}


class Bounds:
    """Makes statistics of the columns whose counts the files' metadata give, with bounds where they are usable.

    A column gets none unless its NULLs, and the NaNs of a column that can hold them, are counted: both are needed
    to leave a file out safely.

    Parameters
    ----------
    schema
        The table's columns, with field ids.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._columns = [
            _Column(field_id(column), bound_kind(column.type) or "", _reader(column.type))
            for column in schema
            if bound_kind(column.type) is not None and not pa.types.is_fixed_size_binary(column.type)
        ]

    def of(self, file: DataFile) -> tuple[ColumnStatistics, ...]:
        """The statistics of one file."""
        told = _Told(
            rows=file.record_count,
            nulls=dict(file.null_value_counts or {}),
            values=dict(file.value_counts or {}),
            nans=dict(file.nan_value_counts or {}),
            lower=dict(file.lower_bounds or {}),
            upper=dict(file.upper_bounds or {}),
        )
        found = (column.within(told) for column in self._columns)
        return tuple(one for one in found if one is not None)


@dataclass(frozen=True, slots=True)
class _Told:
    """What the metadata say of a file, by field id."""

    rows: int
    nulls: Mapping[int, int]
    values: Mapping[int, int]
    nans: Mapping[int, int]
    lower: Mapping[int, bytes]
    upper: Mapping[int, bytes]


@dataclass(frozen=True, slots=True)
class _Column:
    """One column: its kind of bounds, and how Iceberg's become ours."""

    identity: int
    kind: str
    read: _Read

    def within(self, told: _Told) -> ColumnStatistics | None:
        identity, rows = self.identity, told.rows
        nulls, nans = told.nulls.get(identity), None
        if nulls is None or not 0 <= nulls <= rows or told.values.get(identity, rows) != rows:
            return None
        if self.kind == "float":
            nans = told.nans.get(identity)
            if nans is None or not 0 <= nans <= rows:
                return None
        low, high = told.lower.get(identity), told.upper.get(identity)
        lower = None if low is None else self.read(low)
        upper = None if high is None else self.read(high)
        if lower is not None and upper is not None and lower > upper:
            lower = upper = None
        if self.kind in ("text", "binary"):
            text = self.kind == "text"
            lower = None if lower is None else truncate_lower(lower, text=text)
            upper = None if upper is None else truncate_upper(upper, text=text)
        return ColumnStatistics(field_id=identity, null_count=nulls, nan_count=nans, lower=lower, upper=upper)


def _reader(data_type: pa.DataType) -> _Read:
    """How a bound in Iceberg's encoding becomes one of ours; None comes of bytes that are none of this type.

    A bound written before a column was widened has the narrower type's length.
    """
    is_ = pa.types
    if is_.is_string(data_type):
        return _text
    if is_.is_binary(data_type):
        return lambda raw: raw
    encode = number_encoder(data_type)
    width = 1 if is_.is_boolean(data_type) else data_type.bit_width // 8
    if is_.is_boolean(data_type):
        return lambda raw: encode(raw != b"\x00") if len(raw) == 1 else None
    if is_.is_decimal(data_type):
        limit = 10**data_type.precision
        return lambda raw: _decimal(raw, limit, encode)
    if is_.is_floating(data_type):
        return lambda raw: _float(raw, encode) if len(raw) in (4, width) else None
    widths = (4, width) if is_.is_integer(data_type) else (width,)
    return lambda raw: encode(int.from_bytes(raw, "little", signed=True)) if len(raw) in widths else None


def _text(raw: bytes) -> bytes | None:
    try:
        raw.decode()
    except ValueError:
        return None
    return raw


def _decimal(raw: bytes, limit: int, encode: Callable[[int], bytes]) -> bytes | None:
    number = int.from_bytes(raw, "big", signed=True)
    return encode(number) if 0 < len(raw) <= 16 and abs(number) < limit else None


def _float(raw: bytes, encode: Callable[[float], bytes]) -> bytes | None:
    (number,) = _FLOATS[len(raw)].unpack(raw)
    return None if math.isnan(number) else encode(number)
