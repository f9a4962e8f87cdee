"""Exact comparison of stored integers with any constant.

Integers, decimals, dates, times, timestamps and durations are all stored as integers times a unit. A constant
is an exact fraction; ``column operator constant`` is turned into a comparison of the stored integer with an
integer that its type can hold, or into a known answer: nothing is rounded, nothing overflows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import assert_never

import numpy as np
import pyarrow as pa

from lake_engines.predicate.tree import Operator
from lake_format.statistics import decimal_scalar, storage_scalar, unscaled

__all__ = ["Family", "Scale", "exact_value", "fit", "fit_float32", "scalar_from_storage", "scale_of"]


class Family(StrEnum):
    """Types whose values compare with each other; the value is what people call them."""

    NUMBER = "number"
    INSTANT = "date or timestamp"
    TIME = "time of day"
    DURATION = "duration"


@dataclass(frozen=True, slots=True)
class Scale:
    """How a type stores its values: as integers from ``low`` to ``high``, times ``unit``.

    The unit is in seconds for temporal types. ``zoned`` tells instants with a zone from those without.
    """

    family: Family
    unit: Fraction
    low: int
    high: int
    zoned: bool = False


_SECONDS = {"s": Fraction(1), "ms": Fraction(1, 10**3), "us": Fraction(1, 10**6), "ns": Fraction(1, 10**9)}


def scale_of(dtype: pa.DataType) -> Scale | None:
    """Return how ``dtype`` stores its values, or ``None`` if not as scaled integers."""
    is_ = pa.types
    if is_.is_integer(dtype):
        signed = is_.is_signed_integer(dtype)
        bits = dtype.bit_width - signed
        return Scale(Family.NUMBER, Fraction(1), -(1 << bits) if signed else 0, (1 << bits) - 1)
    if is_.is_decimal(dtype):
        most = int(10**dtype.precision) - 1
        return Scale(Family.NUMBER, Fraction(10) ** -dtype.scale, -most, most)
    if not is_.is_temporal(dtype) or is_.is_interval(dtype):
        return None
    bits = dtype.bit_width - 1
    low, high = -(1 << bits), (1 << bits) - 1
    if is_.is_date(dtype):
        unit = Fraction(86_400) if is_.is_date32(dtype) else _SECONDS["ms"]
        return Scale(Family.INSTANT, unit, low, high)
    unit = _SECONDS[dtype.unit]
    if is_.is_timestamp(dtype):
        return Scale(Family.INSTANT, unit, low, high, dtype.tz is not None)
    return Scale(Family.TIME if is_.is_time(dtype) else Family.DURATION, unit, low, high)


def exact_value(constant: pa.Scalar) -> Fraction | float:
    """Return the exact value of a number or temporal constant; infinities and NaN stay floats.

    Raises
    ------
    TypeError
        If the constant is of another kind.
    """
    dtype = constant.type
    if pa.types.is_floating(dtype):
        number = float(constant.as_py())
        return Fraction(number) if math.isfinite(number) else number
    scale = scale_of(dtype)
    if scale is None:
        raise TypeError(f"{dtype} is neither a number nor temporal")
    if pa.types.is_integer(dtype):
        return Fraction(constant.as_py())
    if pa.types.is_decimal(dtype):
        return unscaled(constant.as_py(), dtype.scale) * scale.unit
    return int(constant.value) * scale.unit


def fit(operator: Operator, value: Fraction | float, scale: Scale) -> bool | tuple[Operator, int]:
    """Say ``stored * unit operator value`` as ``stored operator integer``, or as a known answer.

    Parameters
    ----------
    operator
        One of the six comparisons (not the DISTINCT forms).
    value
        Exact value, or an infinity or NaN (which here is greater than everything).
    scale
        How the column stores its values.

    Returns
    -------
    bool or (operator, integer)
        A ``bool`` is the answer for every value that is not NULL.
    """
    if not isinstance(value, Fraction):
        above = not value < 0  # NaN counts as above
        return {
            Operator.EQUAL: False,
            Operator.NOT_EQUAL: True,
            Operator.LESS: above,
            Operator.LESS_EQUAL: above,
        }.get(operator, not above)
    stored = value / scale.unit
    floor, ceiling = math.floor(stored), math.ceil(stored)
    match operator:
        case Operator.EQUAL | Operator.NOT_EQUAL:
            if floor == ceiling and scale.low <= floor <= scale.high:
                return operator, floor
            return operator is Operator.NOT_EQUAL
        case Operator.LESS | Operator.LESS_EQUAL:
            most = ceiling - 1 if operator is Operator.LESS else floor
            return most >= scale.high if not scale.low <= most < scale.high else (Operator.LESS_EQUAL, most)
        case Operator.GREATER | Operator.GREATER_EQUAL:
            least = floor + 1 if operator is Operator.GREATER else ceiling
            return (
                least <= scale.low if not scale.low < least <= scale.high else (Operator.GREATER_EQUAL, least)
            )
        case Operator.DISTINCT | Operator.NOT_DISTINCT:
            raise ValueError("IS DISTINCT FROM is split up before")
        case _:
            assert_never(operator)


def fit_float32(operator: Operator, value: float) -> bool | tuple[Operator, float]:
    """Say ``float32 operator value`` with a constant that float32 holds exactly, or as a known answer.

    ``value`` is not NaN. NaN in the column keeps its place: it is above everything, or unordered.
    """
    with np.errstate(over="ignore"):
        nearest = np.float32(value)
    if float(nearest) == value:
        return operator, value
    match operator:
        case Operator.EQUAL | Operator.NOT_EQUAL:
            return operator is Operator.NOT_EQUAL
        case Operator.LESS | Operator.LESS_EQUAL:
            below = nearest if float(nearest) < value else np.nextafter(nearest, np.float32(-np.inf))
            return Operator.LESS_EQUAL, float(below)
        case _:
            above = nearest if float(nearest) > value else np.nextafter(nearest, np.float32(np.inf))
            return Operator.GREATER_EQUAL, float(above)


def scalar_from_storage(number: int, dtype: pa.DataType) -> pa.Scalar:
    """Return the scalar of ``dtype`` whose stored integer is ``number``."""
    if pa.types.is_integer(dtype):
        return pa.scalar(number, dtype)
    return decimal_scalar(number, dtype) if pa.types.is_decimal(dtype) else storage_scalar(number, dtype)
