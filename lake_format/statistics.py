"""Statistics of a column within a fragment: counts, and bounds as bytes whose order is the values' order.

This module encodes values, computes statistics of Arrow data and merges them batch by batch. It must not
know files, manifests or predicates: whoever prunes compares the bytes. The layout is `spec/statistics.md`.
"""

from __future__ import annotations

import decimal
import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lake_format.errors import CorruptionError, InvalidInputError
from lake_format.schema import FIELD_ID_KEY

__all__ = [
    "BOUND_LIMIT",
    "ColumnStatistics",
    "ColumnStatisticsBuilder",
    "StatisticsBuilder",
    "bound_kind",
    "compute_statistics",
    "decode_bound",
    "encode_bound",
    "encode_integers",
    "field_id_of",
    "merge_statistics",
    "number_encoder",
    "truncate_lower",
    "truncate_upper",
    "value_type",
]

BOUND_LIMIT = 64  # bytes of a text or binary value that a bound keeps

_INT64_FLIP = 1 << 63
_INSTANT_BYTES = 16
_DECIMAL_BYTES = 32
_NANOSECONDS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
_NANOSECONDS_PER_DAY = 86_400 * 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnStatistics:
    """What is known about one field within one fragment (or batch).

    ``lower`` and ``upper`` enclose every value that is neither NULL nor NaN; ``None`` means unknown (or that
    there is no such value). ``nan_count`` is ``None`` for fields that cannot hold NaN.
    """

    field_id: int
    null_count: int
    nan_count: int | None
    lower: bytes | None
    upper: bytes | None


def value_type(dtype: pa.DataType) -> pa.DataType:
    """Return the type of the values once dictionaries, run ends and extensions are looked through."""
    if isinstance(dtype, pa.BaseExtensionType):
        return value_type(dtype.storage_type)
    if pa.types.is_dictionary(dtype) or pa.types.is_run_end_encoded(dtype):
        return value_type(dtype.value_type)
    return dtype


def bound_kind(dtype: pa.DataType) -> str | None:
    """Name the encoding of bounds of ``dtype``; ``None`` for types that have no bounds.

    Bounds of two types compare with each other exactly if their kinds are equal, so bounds written before a
    column was widened stay usable if the kind did not change.
    """
    dtype = value_type(dtype)
    is_ = pa.types
    if is_.is_signed_integer(dtype):
        return "signed"
    if is_.is_unsigned_integer(dtype):
        return "unsigned"
    if is_.is_floating(dtype):
        return "float"
    if is_.is_boolean(dtype):
        return "boolean"
    if is_.is_decimal(dtype):
        return f"decimal:{dtype.scale}"
    if is_.is_date(dtype):
        return "instant"
    if is_.is_timestamp(dtype):
        return "instant" if dtype.tz is None else "instant:utc"
    if is_.is_time(dtype):
        return "time"
    if is_.is_duration(dtype):
        return "duration"
    if is_.is_string(dtype) or is_.is_large_string(dtype) or is_.is_string_view(dtype):
        return "text"
    if is_binary_like(dtype):
        return "binary"
    return None


def is_binary_like(dtype: pa.DataType) -> bool:
    """Tell whether values of ``dtype`` are byte strings that are not text."""
    is_ = pa.types
    return bool(
        is_.is_binary(dtype)
        or is_.is_large_binary(dtype)
        or is_.is_fixed_size_binary(dtype)
        or is_.is_binary_view(dtype)
    )


def encode_bound(value: pa.Scalar, dtype: pa.DataType | None = None) -> bytes:
    """Encode ``value`` so that unsigned byte order is value order among values of one :func:`bound_kind`.

    Text and binary values are not cut here (see :func:`truncate_lower`).

    Parameters
    ----------
    value
        A scalar that is neither NULL nor NaN.
    dtype
        The column's type, if the scalar should be cast to it first.

    Raises
    ------
    InvalidInputError
        If the value is NULL or NaN or its type has no bounds.
    """
    if dtype is not None and value.type != dtype and value_type(dtype) != value.type:
        value = value.cast(value_type(dtype))
    kind = bound_kind(value.type)
    if kind is None or not value.is_valid:
        raise InvalidInputError(f"no bound can be made of {value!r}")
    family = kind.partition(":")[0]
    if family in {"text", "binary"}:
        return bytes(value.as_buffer())
    if family == "decimal":
        number = unscaled(value.as_py(), value.type.scale)
    else:
        number = value.value if family in {"instant", "time", "duration"} else value.as_py()
    return number_encoder(value.type)(number)


def number_encoder(dtype: pa.DataType) -> Callable[[Any], bytes]:
    """How the number that stands for a value of ``dtype`` becomes a bound.

    That number is a decimal's unscaled value, what is stored of a date, time or duration, or else the value itself.
    """
    family = (bound_kind(dtype) or "").partition(":")[0]
    if family == "signed":
        return lambda number: (number + _INT64_FLIP).to_bytes(8, "big")
    if family == "unsigned":
        return lambda number: number.to_bytes(8, "big")
    if family == "float":
        return lambda number: _encode_float(float(number))
    if family == "boolean":
        return lambda number: b"\x01" if number else b"\x00"
    if family == "decimal":
        return lambda number: _encode_wide(number, _DECIMAL_BYTES)
    unit = _nanoseconds_per_unit(value_type(dtype))
    return lambda number: _encode_wide(int(number) * unit, _INSTANT_BYTES)


def unscaled(value: decimal.Decimal, scale: int) -> int:
    """Return ``value * 10**scale`` as an exact integer, whatever the decimal context."""
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):
        raise InvalidInputError(f"{value} is not a finite decimal")
    magnitude: int = int("".join(map(str, digits)) or "0")
    shift = exponent + scale
    magnitude = magnitude * int(10**shift) if shift >= 0 else magnitude // int(10**-shift)
    return -magnitude if sign else magnitude


def _encode_float(number: float) -> bytes:
    if math.isnan(number):
        raise InvalidInputError("NaN has no bound: it is counted instead")
    bits = int.from_bytes(struct.pack(">d", number + 0.0), "big")  # + 0.0 turns -0.0 into 0.0
    # Positive numbers order like their bits; negative ones in reverse, and below all positive ones.
    bits = bits ^ (1 << 63) if bits < 1 << 63 else bits ^ ((1 << 64) - 1)
    return bits.to_bytes(8, "big")


def _encode_wide(number: int, width: int) -> bytes:
    return (number + (1 << (8 * width - 1))).to_bytes(width, "big")


def _nanoseconds_per_unit(dtype: pa.DataType) -> int:
    if pa.types.is_date32(dtype):
        return _NANOSECONDS_PER_DAY
    if pa.types.is_date64(dtype):
        return _NANOSECONDS["ms"]
    return _NANOSECONDS[str(dtype.unit)]


def decode_bound(bound: bytes, dtype: pa.DataType) -> pa.Scalar:
    """Turn a bound back into a value of ``dtype`` (looked through dictionaries), to be shown to people.

    Raises
    ------
    CorruptionError
        If the bytes are not what :func:`encode_bound` makes for ``dtype``.
    """
    dtype = value_type(dtype)
    kind = bound_kind(dtype)
    family = "" if kind is None else kind.partition(":")[0]
    widths = {"signed": 8, "unsigned": 8, "float": 8, "boolean": 1, "decimal": 32}
    width = widths.get(family, _INSTANT_BYTES if family in {"instant", "time", "duration"} else None)
    if kind is None or (width is not None and len(bound) != width):
        raise CorruptionError(f"a bound of {len(bound)} bytes does not fit a column of type {dtype}")
    try:
        return _decode(bound, family, dtype)
    except (pa.ArrowException, UnicodeDecodeError, OverflowError, ValueError) as error:
        raise CorruptionError(f"bound {bound.hex()} is no value of type {dtype}: {error}") from error


def _decode(bound: bytes, family: str, dtype: pa.DataType) -> pa.Scalar:
    number = int.from_bytes(bound, "big") if family not in {"text", "binary"} else 0
    if family == "signed":
        return pa.scalar(number - _INT64_FLIP, dtype)
    if family == "unsigned":
        return pa.scalar(number, dtype)
    if family == "boolean":
        return pa.scalar(bool(number), dtype)
    if family == "float":
        bits = number ^ (1 << 63) if number >= 1 << 63 else number ^ ((1 << 64) - 1)
        return pa.scalar(struct.unpack(">d", bits.to_bytes(8, "big"))[0], pa.float64()).cast(dtype)
    if family == "decimal":
        return decimal_scalar(number - (1 << 255), dtype)
    if family in {"instant", "time", "duration"}:
        units = (number - (1 << 127)) // _nanoseconds_per_unit(dtype)
        return storage_scalar(units, dtype)
    return pa.scalar(bound.decode() if family == "text" else bound, pa.string() if family == "text" else None)


def decimal_scalar(number: int, dtype: pa.DataType) -> pa.Scalar:
    """Return the decimal of ``dtype`` whose unscaled value is ``number``."""
    digits = tuple(map(int, str(abs(number))))
    return pa.scalar(decimal.Decimal((int(number < 0), digits, -dtype.scale)), dtype)


def storage_scalar(number: int, dtype: pa.DataType) -> pa.Scalar:
    """Return the date, time, timestamp or duration of ``dtype`` whose stored integer is ``number``."""
    integer = pa.int32() if dtype.bit_width == 32 else pa.int64()
    return pa.array([number], integer).view(dtype)[0]


def encode_integers(values: npt.NDArray[np.uint64]) -> pa.BinaryArray:
    """Whole numbers below 2⁶³ as bounds of a 64-bit signed column, all at once."""
    data = (values + np.uint64(_INT64_FLIP)).astype(">u8").tobytes()
    offsets = np.arange(len(values) + 1, dtype=np.int32) * 8
    return pa.Array.from_buffers(pa.binary(), len(values), [None, pa.py_buffer(offsets), pa.py_buffer(data)])


def truncate_lower(bound: bytes, *, text: bool) -> bytes:
    """Cut a text or binary lower bound to at most ``BOUND_LIMIT`` bytes; a prefix is never greater."""
    return bound if len(bound) <= BOUND_LIMIT else _prefix(bound, text)


def truncate_upper(bound: bytes, *, text: bool) -> bytes | None:
    """Cut a text or binary upper bound: the prefix, incremented so that it stays above the value.

    ``None`` if no prefix can be incremented (all bytes 0xFF, or all code points U+10FFFF).
    """
    if len(bound) <= BOUND_LIMIT:
        return bound
    return increment(_prefix(bound, text), text=text)


def _prefix(bound: bytes, text: bool) -> bytes:
    end = BOUND_LIMIT
    if text:
        while end > BOUND_LIMIT - 4 and bound[end] & 0xC0 == 0x80:  # never inside a code point
            end -= 1
    return bound[:end]


def increment(prefix: bytes, *, text: bool) -> bytes | None:
    """Return the least short value greater than everything that starts with ``prefix``; ``None`` if none.

    Text stays well-formed UTF-8 (code point order is byte order there); ill-formed text is taken as bytes.
    """
    if text:
        try:
            points = [ord(character) for character in prefix.decode()]
        except UnicodeDecodeError:
            return increment(prefix, text=False)
        while points and points[-1] == 0x10FFFF:
            points.pop()
        if not points:
            return None
        points[-1] = 0xE000 if points[-1] == 0xD7FF else points[-1] + 1  # the surrogates are no text
        return "".join(map(chr, points)).encode()
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else None


def compute_statistics(column: pa.Array | pa.ChunkedArray, field_id: int) -> ColumnStatistics:
    """Compute the statistics of one column, whatever its type (types without order get counts only)."""
    builder = ColumnStatisticsBuilder(field_id, column.type)
    for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
        builder.update(chunk)
    return builder.finish()


def merge_statistics(first: ColumnStatistics, second: ColumnStatistics) -> ColumnStatistics:
    """Return statistics that hold for both parts together; bounds must be of one kind.

    A part whose bound is unknown makes the merged bound unknown. A part that has no values at all looks the
    same, so merging through a :class:`ColumnStatisticsBuilder` is tighter where the data is at hand.
    """
    lower = None if first.lower is None or second.lower is None else min(first.lower, second.lower)
    upper = None if first.upper is None or second.upper is None else max(first.upper, second.upper)
    has_nan = first.nan_count is not None and second.nan_count is not None
    return ColumnStatistics(
        field_id=first.field_id,
        null_count=first.null_count + second.null_count,
        nan_count=(first.nan_count or 0) + (second.nan_count or 0) if has_nan else None,
        lower=lower,
        upper=upper,
    )


class ColumnStatisticsBuilder:
    """Gathers the statistics of one field from arrays that come one after another; memory is constant.

    Parameters
    ----------
    whole
        Leave long bounds uncut: to compare with, not to be stored.
    """

    __slots__ = ("_field_id", "_kind", "_lower", "_nan_count", "_null_count", "_open", "_upper", "_whole")

    def __init__(self, field_id: int, dtype: pa.DataType, *, whole: bool = False) -> None:
        self._field_id = field_id
        self._whole = whole
        self._kind = bound_kind(dtype)
        self._null_count = 0
        self._nan_count = 0
        self._lower: bytes | None = None
        self._upper: bytes | None = None
        self._open = False  # a value was met whose upper bound cannot be written down

    def update(self, array: pa.Array) -> None:
        """Take in the values of ``array``."""
        self._null_count += _count_nulls(array)
        if self._kind is None or len(array) == 0:
            return
        if self._kind == "float":
            self._nan_count += pc.sum(pc.is_nan(_distinct(array, keep_duplicates=True))).as_py() or 0
        extremes = pc.min_max(_comparable(_distinct(array)))
        least, greatest = extremes["min"], extremes["max"]
        if not least.is_valid or (self._kind == "float" and math.isnan(least.as_py())):
            return
        if self._kind == "duration":
            least, greatest = (
                storage_scalar(bound.as_py(), value_type(array.type)) for bound in extremes.values()
            )
        lower, upper = encode_bound(least), encode_bound(greatest)
        if self._kind in {"text", "binary"} and not self._whole:
            lower = truncate_lower(lower, text=self._kind == "text")
            shortened = truncate_upper(upper, text=self._kind == "text")
            self._open = self._open or shortened is None
            upper = b"" if shortened is None else shortened
        self._lower = lower if self._lower is None else min(self._lower, lower)
        self._upper = upper if self._upper is None else max(self._upper, upper)

    def finish(self) -> ColumnStatistics:
        """Return the statistics of everything taken in so far."""
        return ColumnStatistics(
            field_id=self._field_id,
            null_count=self._null_count,
            nan_count=self._nan_count if self._kind == "float" else None,
            lower=self._lower,
            upper=None if self._open else self._upper,
        )


def _count_nulls(array: pa.Array) -> int:
    if isinstance(array, pa.ExtensionArray):
        return _count_nulls(array.storage)
    if pa.types.is_dictionary(array.type) and array.dictionary.null_count:
        return int(pc.count(array.dictionary_decode(), mode="only_null").as_py())
    if pa.types.is_run_end_encoded(array.type):
        return int(pc.run_end_decode(array).null_count)
    return int(array.null_count)


def _distinct(array: pa.Array, *, keep_duplicates: bool = False) -> pa.Array:
    """Return plain values of ``array``: of a dictionary only those that are used."""
    if isinstance(array, pa.ExtensionArray):
        return _distinct(array.storage, keep_duplicates=keep_duplicates)
    if pa.types.is_dictionary(array.type):
        used = array.indices if keep_duplicates else array.indices.unique()
        return _distinct(array.dictionary.take(used), keep_duplicates=keep_duplicates)
    if pa.types.is_run_end_encoded(array.type):
        return _distinct(pc.run_end_decode(array), keep_duplicates=keep_duplicates)
    return array


def _comparable(array: pa.Array) -> pa.Array:
    """Cast to a type for which Arrow has a min_max kernel, without loss."""
    dtype = array.type
    if pa.types.is_float16(dtype):
        return array.cast(pa.float32())
    if pa.types.is_decimal32(dtype) or pa.types.is_decimal64(dtype):
        return array.cast(pa.decimal128(dtype.precision, dtype.scale))
    if pa.types.is_duration(dtype):
        return array.cast(pa.int64())
    if pa.types.is_string_view(dtype):
        return array.cast(pa.string())
    if pa.types.is_binary_view(dtype):
        return array.cast(pa.binary())
    return array


class StatisticsBuilder:
    """Gathers the statistics of every field of a schema, struct members included, batch by batch.

    Parameters
    ----------
    schema
        Arrow schema whose fields, and whose struct members at any depth, carry their permanent ids in the
        metadata key ``PARQUET:field_id``. Members of lists and maps have no statistics.
    whole
        Leave long bounds uncut: to compare with, not to be stored.

    Raises
    ------
    InvalidInputError
        If a field has no id.
    """

    def __init__(self, schema: pa.Schema, *, whole: bool = False) -> None:
        self._schema = schema
        self._builders = [_builders_of(field, field.name, whole=whole) for field in schema]

    def update(self, batch: pa.RecordBatch | pa.Table) -> None:
        """Take in one batch (columns in the order of the schema)."""
        for column, builders in zip(batch.columns, self._builders, strict=True):
            chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
            for chunk in chunks:
                for array, builder in zip(_leaves(chunk), builders, strict=True):
                    builder.update(array)

    def finish(self) -> list[ColumnStatistics]:
        """Return the statistics of all fields, depth first in the order of the schema."""
        return [builder.finish() for builders in self._builders for builder in builders]


def _builders_of(field: pa.Field, path: str, *, whole: bool) -> list[ColumnStatisticsBuilder]:
    builders = [ColumnStatisticsBuilder(field_id_of(field, path), field.type, whole=whole)]
    if pa.types.is_struct(field.type):
        for child in field.type.fields:
            builders.extend(_builders_of(child, f"{path}.{child.name}", whole=whole))
    return builders


def _leaves(array: pa.Array) -> Iterator[pa.Array]:
    yield array
    if pa.types.is_struct(array.type):
        for child in array.flatten():  # flatten, not field: a NULL struct has NULL members
            yield from _leaves(child)


def field_id_of(field: pa.Field, path: str | None = None) -> int:
    """Read the permanent id of ``field`` from its metadata.

    Raises
    ------
    InvalidInputError
        If there is none.
    """
    found = (field.metadata or {}).get(FIELD_ID_KEY)
    if found is None or not found.isdigit():
        raise InvalidInputError(f"field '{path or field.name}' carries no valid {FIELD_ID_KEY.decode()}")
    return int(found)
