"""Partition transforms: what becomes of a column's values, and which values a result stands for.

Names and results are Apache Iceberg's (table specification, "Partition Transforms" and Appendix B). Pure functions
over Arrow arrays; which columns a table is partitioned by is :mod:`lake_format.partitioning`'s business
(spec/partitions.md, PAR-2 to PAR-4).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lake_format.errors import InvalidInputError
from lake_format.murmur import hash_bytes, hash_longs
from lake_format.statistics import (
    bound_kind,
    decimal_scalar,
    decode_bound,
    increment,
    unscaled,
    value_type,
)

__all__ = ["Transform", "parse_transform"]

_UNITS = {"year": "Y", "month": "M", "day": "D", "hour": "h"}
_NUMBERED = ("bucket", "truncate")
_FAMILIES = {
    "identity": {"signed", "unsigned", "boolean", "decimal", "instant", "time", "duration", "text", "binary"},
    "bucket": {"signed", "unsigned", "decimal", "instant", "time", "text", "binary"},
    "truncate": {"signed", "unsigned", "decimal", "text", "binary"},
    **{unit: {"instant"} for unit in _UNITS},
}
_LIMIT = 1 << 31
_MICROSECONDS = {"s": 1_000_000, "ms": 1_000, "us": 1}
_INTEGER = pa.int32()


@dataclass(frozen=True, slots=True)
class Transform:
    """One of Iceberg's transforms.

    Attributes
    ----------
    name
        ``identity``, ``bucket``, ``truncate``, ``year``, ``month``, ``day`` or ``hour``.
    number
        The number of buckets, or the width to truncate to; 0 for the others.
    """

    name: str
    number: int = 0

    def __str__(self) -> str:
        return f"{self.name}[{self.number}]" if self.number else self.name

    def of(self, column: str) -> str:
        """The transform of a column as users write it: ``bucket(16, id)``, ``day(ts)``, ``id``."""
        if self.name == "identity":
            return column
        return f"{self.name}({self.number}, {column})" if self.number else f"{self.name}({column})"

    def fits(self, dtype: pa.DataType) -> bool:
        """Whether columns of this type can be transformed."""
        family = (bound_kind(dtype) or "").partition(":")[0]
        dtype = value_type(dtype)
        if self.name == "hour" and pa.types.is_date(dtype):
            return False
        if self.name == "bucket" and pa.types.is_uint64(dtype):
            return False
        return family in _FAMILIES[self.name]

    def survives(self, source: pa.DataType, target: pa.DataType) -> bool:
        """Whether widening a column from one type to another leaves every result what it was."""
        dates = pa.types.is_date(value_type(source)) == pa.types.is_date(value_type(target))
        return bound_kind(source) == bound_kind(target) and dates and self.fits(target)

    def result_type(self, dtype: pa.DataType) -> pa.DataType:
        """The type of the results for columns of this type."""
        plain = value_type(dtype)
        if self.name == "identity":
            return plain
        return _truncated_type(plain) if self.name == "truncate" else _INTEGER

    def apply(self, values: pa.Array) -> pa.Array:
        """The result for every value; NULL for NULL."""
        values = _plain(values)
        if self.name == "identity":
            return values
        if self.name == "bucket":
            return _with_nulls(_bucket(values, self.number), values)
        if self.name == "truncate":
            return _truncated(values, self.number)
        return _with_nulls(_periods(values, _UNITS[self.name]), values)

    def interval(self, result: bytes, dtype: pa.DataType) -> tuple[bytes | None, bytes | None]:
        """Bounds of the values of ``dtype`` that have a result, both as bounds are encoded; None is no bound."""
        if self.name == "identity":
            return result, result
        if self.name == "bucket":
            return None, None
        if self.name == "truncate":
            return _truncation_interval(result, self.number, value_type(dtype))
        number = decode_bound(result, _INTEGER).as_py()
        ends = np.array([number, number + 1], f"datetime64[{_UNITS[self.name]}]").astype("datetime64[s]")
        first, following = (int(one) * 1_000_000_000 for one in ends.astype(np.int64).tolist())
        return _instant(first), _instant(following - 1)

    def shown(self, result: bytes | None, dtype: pa.DataType) -> str:
        """A result for people: ``2024-05``, ``3``, ``NULL``."""
        if result is None:
            return "NULL"
        value = decode_bound(result, self.result_type(dtype)).as_py()
        if self.name in _UNITS:
            return str(np.array(value, f"datetime64[{_UNITS[self.name]}]"))
        return value.hex() if isinstance(value, bytes) else str(value)


def parse_transform(text: str) -> Transform:
    """Read a transform as it is stored, ``bucket[16]``; InvalidInputError for anything unknown."""
    found = re.fullmatch(r"([a-z]+)(?:\[(\d{1,10})\])?", text)
    name, number = (found.group(1), int(found.group(2) or 0)) if found else ("", 0)
    if (
        name not in _FAMILIES
        or (name in _NUMBERED) != (0 < number < _LIMIT)
        or str(Transform(name, number)) != text
    ):
        raise InvalidInputError(
            f"unknown partition transform {text!r}", fix=f"known are {', '.join(_FAMILIES)}"
        )
    return Transform(name, number)


def _plain(values: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(values.type):
        return values.dictionary_decode()
    if pa.types.is_run_end_encoded(values.type):
        return pc.run_end_decode(values)
    return values


def _with_nulls(numbers: npt.NDArray[np.int64], values: pa.Array) -> pa.Array:
    mask = np.asarray(values.is_null().to_numpy(zero_copy_only=False)) if values.null_count else None
    return pa.array(numbers, _INTEGER, mask=mask)


def _integers(values: pa.Array) -> npt.NDArray[np.int64]:
    """Stored integers of numbers, dates, times and timestamps, 0 for NULL."""
    dtype = values.type
    if not pa.types.is_integer(dtype):
        values = values.view(pa.int32() if dtype.bit_width == 32 else pa.int64())
    filled = values.fill_null(0) if values.null_count else values
    return np.asarray(filled.to_numpy(zero_copy_only=False)).astype(np.int64, copy=False)


def _bucket(values: pa.Array, count: int) -> npt.NDArray[np.int64]:
    dtype = values.type
    if pa.types.is_decimal(dtype):
        hashes = hash_bytes(_decimal_bytes(values))
    elif pa.types.is_date64(dtype):
        hashes = hash_longs(_integers(values) // 86_400_000)
    elif pa.types.is_timestamp(dtype) or pa.types.is_time(dtype):
        numbers = _integers(values)
        hashes = hash_longs(numbers // 1000 if dtype.unit == "ns" else numbers * _MICROSECONDS[dtype.unit])
    elif pa.types.is_integer(dtype) or pa.types.is_date(dtype):
        hashes = hash_longs(_integers(values))
    else:
        hashes = hash_bytes(_as_binary(values))
    return (hashes & np.uint32(0x7FFFFFFF)).astype(np.int64) % count


def _as_binary(values: pa.Array) -> pa.Array:
    if pa.types.is_string_view(values.type):
        values = values.cast(pa.large_string())
    return values.cast(pa.large_binary())


def _decimal_bytes(values: pa.Array) -> pa.Array:
    """The unscaled value of each decimal in the fewest big-endian bytes of two's complement."""
    return pa.array(
        [None if one is None else _fewest_bytes(one) for one in _unscaled(values)], pa.large_binary()
    )


def _unscaled(values: pa.Array) -> list[int | None]:
    scale = values.type.scale
    return [None if one is None else unscaled(one, scale) for one in values.to_pylist()]


def _fewest_bytes(number: int) -> bytes:
    bits = (number if number >= 0 else ~number).bit_length()
    return number.to_bytes(bits // 8 + 1, "big", signed=True)


def _truncated(values: pa.Array, width: int) -> pa.Array:
    dtype = values.type
    if pa.types.is_decimal(dtype):
        kept = [None if one is None else one - one % width for one in _unscaled(values)]
        wide = _truncated_type(dtype)
        return pa.array([None if one is None else decimal_scalar(one, wide).as_py() for one in kept], wide)
    if pa.types.is_integer(dtype):
        wide = values.cast(_truncated_type(dtype))
        numbers = np.asarray((wide.fill_null(0) if wide.null_count else wide).to_numpy(zero_copy_only=False))
        mask = np.asarray(values.is_null().to_numpy(zero_copy_only=False)) if values.null_count else None
        return pa.array(numbers - numbers % numbers.dtype.type(width), wide.type, mask=mask)
    if bound_kind(dtype) == "text":
        return pc.utf8_slice_codeunits(values.cast(pa.large_string()), 0, width)
    return pc.binary_slice(_as_binary(values), 0, width)


def _truncated_type(dtype: pa.DataType) -> pa.DataType:
    """The widest type of a kind: the start of the lowest range may not fit the column's own."""
    if pa.types.is_decimal(dtype):
        return pa.decimal256(76, dtype.scale)
    if pa.types.is_integer(dtype):
        return pa.int64() if pa.types.is_signed_integer(dtype) else pa.uint64()
    return dtype


def _periods(values: pa.Array, unit: str) -> npt.NDArray[np.int64]:
    dtype = values.type
    stored = "D" if pa.types.is_date32(dtype) else "ms" if pa.types.is_date64(dtype) else dtype.unit
    return _integers(values).view(f"datetime64[{stored}]").astype(f"datetime64[{unit}]").astype(np.int64)


def _truncation_interval(result: bytes, width: int, dtype: pa.DataType) -> tuple[bytes | None, bytes | None]:
    kind = bound_kind(dtype) or ""
    if kind in ("text", "binary"):
        text = kind == "text"
        short = (len(result.decode()) if text else len(result)) < width
        return result, result if short else increment(result, text=text)
    if pa.types.is_decimal(dtype):
        return result, (int.from_bytes(result, "big") + width - 1).to_bytes(len(result), "big")
    upper = int.from_bytes(result, "big") + width - 1
    if upper >= 1 << 64:  # the lowest or highest range of 64 bits, whose ends do not fit
        return None, None
    return result, upper.to_bytes(8, "big")


def _instant(nanoseconds: int) -> bytes:
    return (nanoseconds + (1 << 127)).to_bytes(16, "big")
