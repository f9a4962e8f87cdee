"""Which types a column may be widened to without any value changing, and which of those need a look at the data.

Pure knowledge about types (spec/evolution.md, EVO-4): no arrays are cast and no data is read here.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from lake_format.schema import is_vector

__all__ = ["Promotion", "promotion", "value_range"]

_UNITS = ("s", "ms", "us", "ns")
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_MANTISSA = {16: 11, 32: 24, 64: 53}
"""Bits of an integer that a float of so many bits holds exactly."""
_DIGITS = {8: 3, 16: 5, 32: 10, 64: 19}
"""Decimal digits of a signed integer of so many bits."""
_INT64_MAX = 2**63 - 1
_DAY_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class Promotion:
    """A widening that keeps every value.

    Attributes
    ----------
    checked
        Whether the target holds fewer far-away instants than the source, so that the data must be looked at.
    """

    checked: bool = False


def promotion(source: pa.DataType, target: pa.DataType) -> Promotion | None:
    """How ``source`` may become ``target``; None if some value would be lost, rounded or read differently.

    Members of structs and elements of lists are widened by themselves: containers promote only where their
    children stay what they are (``list`` to ``large_list``), vectors only to wider elements.
    """
    types = pa.types
    if source == target:
        return Promotion()
    if is_vector(source) or is_vector(target):
        same_shape = types.is_fixed_size_list(source) and types.is_fixed_size_list(target)
        wider = (
            same_shape and source.list_size == target.list_size and is_vector(source) and is_vector(target)
        )
        return promotion(source.value_type, target.value_type) if wider else None
    if types.is_null(source):
        return None if types.is_nested(target) else Promotion()
    if types.is_dictionary(source):
        return _of_dictionary(source, target)
    if types.is_list(source) and types.is_large_list(target):
        return Promotion() if source.value_field.equals(target.value_field) else None
    for rule in (_of_text, _of_integer, _of_float, _of_decimal, _of_temporal):
        if (found := rule(source, target)) is not None:
            return found
    return None


def value_range(source: pa.DataType, target: pa.DataType) -> tuple[int, int]:
    """The least and greatest stored integer of ``source`` that a *checked* promotion to ``target`` can hold."""
    if pa.types.is_date32(source):
        factor = _DAY_SECONDS * _PER_SECOND[target.unit]
    else:
        unit = "ms" if pa.types.is_date64(source) else source.unit
        factor = _PER_SECOND[target.unit] // _PER_SECOND[unit]
    return -(_INT64_MAX // factor), _INT64_MAX // factor


def _of_text(source: pa.DataType, target: pa.DataType) -> Promotion | None:
    types = pa.types
    text = types.is_string(source) and (types.is_large_string(target) or types.is_string_view(target))
    binary = types.is_binary(source) and (types.is_large_binary(target) or types.is_binary_view(target))
    fixed = types.is_fixed_size_binary(source) and (types.is_binary(target) or types.is_large_binary(target))
    return Promotion() if text or binary or fixed else None


def _of_integer(source: pa.DataType, target: pa.DataType) -> Promotion | None:
    types = pa.types
    if not types.is_integer(source):
        return None
    unsigned = types.is_unsigned_integer(source)
    bits = source.bit_width
    if types.is_integer(target):
        keeps_sign = unsigned or types.is_signed_integer(target)
        return Promotion() if keeps_sign and target.bit_width > bits else None
    if types.is_floating(target):
        magnitude = bits if unsigned else bits - 1
        return Promotion() if magnitude <= _MANTISSA[target.bit_width] else None
    if types.is_decimal(target):
        digits = 20 if unsigned and bits == 64 else _DIGITS[bits]
        return Promotion() if target.precision - target.scale >= digits else None
    return None


def _of_float(source: pa.DataType, target: pa.DataType) -> Promotion | None:
    if pa.types.is_floating(source) and pa.types.is_floating(target) and target.bit_width > source.bit_width:
        return Promotion()
    return None


def _of_decimal(source: pa.DataType, target: pa.DataType) -> Promotion | None:
    if not (pa.types.is_decimal(source) and pa.types.is_decimal(target)):
        return None
    whole = target.precision - target.scale >= source.precision - source.scale
    return Promotion() if whole and target.scale >= source.scale else None


def _of_temporal(source: pa.DataType, target: pa.DataType) -> Promotion | None:
    types = pa.types
    if types.is_date(source):
        if types.is_timestamp(target) and target.tz is None:
            # 2**31 days are less than 2**63 ms, but not than 2**63 us.
            exact = types.is_date32(source) and target.unit in {"s", "ms"}
            fine = types.is_date64(source) and target.unit == "s"  # a date64 is a whole day
            return Promotion(checked=not exact and not fine and _finer(source, target))
        return Promotion() if types.is_date32(source) and types.is_date64(target) else None
    same = (
        (types.is_timestamp(source) and types.is_timestamp(target) and source.tz == target.tz)
        or (types.is_duration(source) and types.is_duration(target))
        or (types.is_time(source) and types.is_time(target))
    )
    if not same or _UNITS.index(target.unit) < _UNITS.index(source.unit):
        return None
    return Promotion(checked=not types.is_time(source) and target.unit != source.unit)


def _finer(source: pa.DataType, target: pa.DataType) -> bool:
    own = "ms" if pa.types.is_date64(source) else "s"
    return _UNITS.index(target.unit) > _UNITS.index(own)


def _of_dictionary(source: pa.DataType, target: pa.DataType) -> Promotion | None:
    """Codes may be counted in a wider integer; the values may be widened, or written out without codes."""
    if not pa.types.is_dictionary(target):
        return promotion(source.value_type, target)
    wide = target.index_type == source.index_type or _of_integer(source.index_type, target.index_type)
    if source.ordered != target.ordered or not wide:
        return None
    return promotion(source.value_type, target.value_type)
