"""Functions, arithmetic and casts of bound values, built so that they are exact and cannot fail on any row.

Integer and decimal arithmetic follows the range of its operands: 64-bit where that cannot overflow, decimals
of up to 76 digits beyond, and an error at binding where even these could. Casts that could fail are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lake_engines.predicate.exact import scale_of
from lake_engines.predicate.values import Computed, Constant, Value, plain_type
from lake_format.errors import InvalidInputError, UnsupportedError

__all__ = [
    "ARITHMETIC",
    "PARTS",
    "ROUNDINGS",
    "arithmetic",
    "as_float",
    "cast",
    "common",
    "converted",
    "is_exact_number",
    "is_null",
    "is_text",
    "magnitude",
    "mistyped",
    "part",
    "rounded",
    "truncated",
]

_INT64 = (-(2**63), 2**63 - 1)
_WIDEST = 76
_DIGITS = {8: 3, 16: 5, 32: 10, 64: 20}  # digits that Arrow wants for an integer of so many bits
PARTS: dict[str, Callable[..., Any]] = {
    "year": pc.year,
    "month": pc.month,
    "day": pc.day,
    "hour": pc.hour,
    "minute": pc.minute,
    "second": pc.second,
    "quarter": pc.quarter,
    "week": pc.iso_week,
    "dayofyear": pc.day_of_year,
    "dayofweek": partial(pc.day_of_week, count_from_zero=True, week_start=7),
    "isodow": partial(pc.day_of_week, count_from_zero=False, week_start=1),
}
"""Parts of dates and times, whole numbers. Weeks are those of ISO 8601; `dayofweek` counts from Sunday, 0."""

ROUNDINGS: dict[str, Callable[..., Any]] = {
    "floor": pc.floor,
    "ceil": pc.ceil,
    "round": partial(pc.round, ndigits=0, round_mode="half_towards_infinity"),
}
ARITHMETIC = frozenset("+-*/%") | {"//"}
_MOST_PLACES = 15
_CLOCK = frozenset({"hour", "minute", "second"})
_UNITS = frozenset({"year", "quarter", "month", "week", "day"})


def is_text(dtype: pa.DataType) -> bool:
    """Tell whether values are strings."""
    return bool(pa.types.is_string(dtype) or pa.types.is_large_string(dtype))


def is_exact_number(dtype: pa.DataType) -> bool:
    """Tell whether values are integers or decimals."""
    return bool(pa.types.is_integer(dtype) or pa.types.is_decimal(dtype))


def is_null(value: Value) -> bool:
    """Tell whether the value is NULL in every row."""
    return bool(pa.types.is_null(value.dtype)) or (isinstance(value, Constant) and not value.scalar.is_valid)


def _is_number(value: Value) -> bool:
    return is_exact_number(value.dtype) or bool(pa.types.is_floating(value.dtype))


def mistyped(name: str, *values: Value, fix: str | None = None) -> InvalidInputError:
    """The error of a function or operator given values of types that it does not take."""
    types = " and ".join(str(value.dtype) for value in values)
    return InvalidInputError(f"{name} cannot be applied to {types}", fix=fix)


def part(name: str, value: Value) -> Value:
    """A part of a date or time."""
    dtype, is_ = value.dtype, pa.types
    clock = name in _CLOCK
    if not (is_.is_timestamp(dtype) or (is_.is_date(dtype) and not clock) or (is_.is_time(dtype) and clock)):
        raise mistyped(f"{name}()", value)
    function = PARTS[name]
    if is_.is_timestamp(dtype) and dtype.tz is not None:  # parts of the day are those in UTC
        naive = pa.timestamp(dtype.unit)
        return Computed(lambda array: function(array.cast(naive)), (value,), pa.int64())
    return Computed(function, (value,), pa.int64())


def magnitude(name: str, value: Value) -> Value:
    """``abs`` or ``negate``."""
    if pa.types.is_floating(value.dtype):
        return Computed(pc.abs if name == "abs" else pc.negate, (value,), value.dtype)
    if not is_exact_number(value.dtype) or value.bounds is None:
        raise mistyped("-" if name == "negate" else f"{name}()", value)
    low, high = value.bounds
    limits = (-high, -low) if name == "negate" else (max(low, -high, 0), max(-low, high))
    scale = _scale(value)
    operand = _exact_operand(value, limits if scale == 0 else None)
    return Computed(pc.abs if name == "abs" else pc.negate, (operand,), operand.dtype, limits)


def rounded(name: str, value: Value, digits: Value | None = None) -> Value:
    """``floor``, ``ceil`` or ``round`` (halves away from zero), this one also to a number of decimal digits."""
    places = 0 if digits is None else digits.scalar.as_py() if isinstance(digits, Constant) else None
    if not isinstance(places, int) or isinstance(places, bool) or not 0 <= places <= _MOST_PLACES:
        raise InvalidInputError(f"{name}() rounds to a constant number of digits from 0 to {_MOST_PLACES}")
    scale = _scale(value)
    if is_exact_number(value.dtype) and scale <= places:
        return value
    if pa.types.is_floating(value.dtype):
        kernel = ROUNDINGS[name] if digits is None else partial(_to_places, 10.0**places)
        return Computed(kernel, (value,), value.dtype)
    if not pa.types.is_decimal(value.dtype):
        raise mistyped(f"{name}()", value)
    # One digit more: 99.5 becomes 100.0 first.
    wider = _decimal(value.dtype.precision + 1, scale)
    shorter = _decimal(max(wider.precision - scale + places, 1), places, wide=pa.types.is_decimal256(wider))
    keywords = {} if digits is None else {"ndigits": places}
    return Computed(
        lambda number: ROUNDINGS[name](number, **keywords).cast(shorter), (converted(value, wider),), shorter
    )


def _to_places(by: float, array: Any) -> Any:
    """Floats rounded as DuckDB does it: times a power of ten, to a whole number, and back, all as doubles."""
    scaled = pc.multiply(pc.cast(array, pa.float64()), by)
    found = pc.divide(ROUNDINGS["round"](scaled), by)
    return pc.if_else(pc.is_finite(found), found.cast(array.type), array)


def truncated(unit: Value, value: Value) -> Value:
    """``date_trunc(unit, value)``: the beginning of the year, month and so on that a date or timestamp lies in."""
    name = unit.scalar.as_py() if isinstance(unit, Constant) else None
    dtype, is_ = value.dtype, pa.types
    if name not in _UNITS | _CLOCK:
        raise InvalidInputError(f"date_trunc() cuts to {', '.join(sorted(_UNITS | _CLOCK))}, not to {name!r}")
    if not (is_.is_timestamp(dtype) or (is_.is_date32(dtype) and name in _UNITS)):
        raise mistyped(f"date_trunc('{name}', …)", value)
    if not is_.is_timestamp(dtype) or dtype.tz is None:
        return Computed(lambda array: pc.floor_temporal(array, unit=name), (value,), dtype)
    naive = pa.timestamp(dtype.unit)  # as the parts of it are, those in UTC
    return Computed(
        lambda array: pc.floor_temporal(array.cast(naive), unit=name).cast(dtype), (value,), dtype
    )


def _scale(value: Value) -> int:
    return int(value.dtype.scale) if pa.types.is_decimal(value.dtype) else 0


def _digits(limits: tuple[int, int]) -> int:
    return max(len(str(abs(limit))) for limit in limits)


def _fits_int64(limits: tuple[int, int] | None) -> bool:
    return limits is not None and _INT64[0] <= limits[0] and limits[1] <= _INT64[1]


def _exact_operand(value: Value, limits: tuple[int, int] | None) -> Value:
    """Cast an exact number to int64 if its own and the result's limits allow, else to a decimal."""
    bounds = value.bounds or _INT64
    if _scale(value) == 0 and _fits_int64(bounds) and _fits_int64(limits):
        return converted(value, pa.int64(), bounds)
    return _as_decimal(value)


def _as_decimal(value: Value, *, wide: bool = False) -> Value:
    bounds = value.bounds or _INT64
    digits = max(_digits(bounds), _scale(value), 1)
    if pa.types.is_integer(value.dtype):
        digits = max(digits, _DIGITS[value.dtype.bit_width])
    return converted(value, _decimal(digits, _scale(value), wide=wide), bounds)


def _decimal(precision: int, scale: int, *, wide: bool = False) -> pa.DataType:
    if precision > _WIDEST:
        raise UnsupportedError(
            f"the result could have {precision} digits, more than {_WIDEST}",
            fix="cast an operand to DOUBLE",
        )
    kind = pa.decimal256 if wide or precision > 38 else pa.decimal128
    return kind(precision, scale)


def converted(value: Value, dtype: pa.DataType, limits: tuple[int, int] | None = None) -> Value:
    """The value in a type that holds all it can be."""
    if value.dtype == dtype:
        return value
    if isinstance(value, Constant):
        return Constant(_cast_constant(value.scalar, dtype))
    return Computed(lambda array: array.cast(dtype), (value,), dtype, limits)


def _cast_constant(scalar: pa.Scalar, dtype: pa.DataType) -> pa.Scalar:
    if pa.types.is_decimal(dtype) and pa.types.is_integer(scalar.type):
        return pa.scalar(scalar.as_py(), dtype)
    return scalar.cast(dtype)


def as_float(value: Value) -> Value:
    """Convert a number to double, rounding to the nearest."""
    if value.dtype == pa.float64():
        return value
    if isinstance(value, Constant) and value.scalar.is_valid:
        return Constant(pa.scalar(float(value.scalar.as_py()), pa.float64()))
    double = pa.float64()
    if pa.types.is_decimal(
        value.dtype
    ):  # Arrow's own way ends beside the nearest: 99.99 becomes 99.99000000000001
        return Computed(lambda array: array.cast(pa.string()).cast(double), (value,), double)
    return Computed(lambda array: pc.cast(array, double, safe=False), (value,), double)


def arithmetic(sign: str, left: Value, right: Value) -> Value:
    """Two numbers added, subtracted, multiplied or divided."""
    if not (_is_number(left) and _is_number(right)):
        raise mistyped(sign, left, right)
    if sign == "/" or not (is_exact_number(left.dtype) and is_exact_number(right.dtype)):
        kernels = {"+": pc.add, "-": pc.subtract, "*": pc.multiply, "/": pc.divide}
        if sign not in kernels:
            raise UnsupportedError(f"{sign} is supported for integers only")
        return Computed(kernels[sign], (as_float(left), as_float(right)), pa.float64())
    if sign in {"//", "%"}:
        return _whole_division(sign, left, right)
    return _exact_arithmetic(sign, left, right)


def _whole_division(sign: str, left: Value, right: Value) -> Value:
    """Divide integers, cutting towards zero; the divisor is a constant so that no row divides by zero."""
    bounds, divisor = left.bounds, right.bounds if isinstance(right, Constant) else None
    if divisor is None or divisor[0] == 0 or bounds is None or not pa.types.is_integer(left.dtype):
        raise UnsupportedError(f"{sign} is supported for an integer and a constant integer that is not 0")
    by = divisor[0]
    ends = sorted((-(-end // by) if (end < 0) != (by < 0) else end // by) for end in bounds)
    if not (_fits_int64(bounds) and _fits_int64((ends[0], ends[1])) and _fits_int64(divisor)):
        raise UnsupportedError(f"{sign} is not supported for {left.dtype}: the result could overflow")
    number = converted(left, pa.int64(), bounds)
    constant = pa.scalar(by, pa.int64())
    if sign == "//":
        return Computed(lambda array: pc.divide(array, constant), (number,), pa.int64(), (ends[0], ends[1]))
    return Computed(
        lambda array: pc.subtract(array, pc.multiply(pc.divide(array, constant), constant)),
        (number,),
        pa.int64(),
        (-abs(by) + 1, abs(by) - 1),
    )


def _exact_arithmetic(sign: str, left: Value, right: Value) -> Value:
    scales = _scale(left), _scale(right)
    (a, b), (c, d) = left.bounds or _INT64, right.bounds or _INT64
    if sign == "*":
        scale = sum(scales)
        products = (a * c, a * d, b * c, b * d)
        limits = (min(products), max(products))
    else:
        scale = max(scales)
        grow = 10 ** (scale - scales[0]), 10 ** (scale - scales[1])
        a, b, c, d = a * grow[0], b * grow[0], c * grow[1], d * grow[1]
        limits = (a + c, b + d) if sign == "+" else (a - d, b - c)
    kernel = {"+": pc.add, "-": pc.subtract, "*": pc.multiply}[sign]
    if scale == 0 and all(_fits_int64(each) for each in (limits, left.bounds, right.bounds)):
        return Computed(
            kernel, (converted(left, pa.int64()), converted(right, pa.int64())), pa.int64(), limits
        )
    first, second = _as_decimal(left), _as_decimal(right)
    result = _result_type(sign, first.dtype, second.dtype)
    if result.bit_width == 256:
        first, second = _as_decimal(left, wide=True), _as_decimal(right, wide=True)
    return Computed(kernel, (first, second), result, limits)


def _result_type(sign: str, left: pa.DataType, right: pa.DataType) -> pa.DataType:
    """Return Arrow's type for decimal arithmetic (its documented precision rules)."""
    if sign == "*":
        return _decimal(left.precision + right.precision + 1, left.scale + right.scale)
    scale = max(left.scale, right.scale)
    whole = max(left.precision - left.scale, right.precision - right.scale)
    wide = pa.types.is_decimal256(left) or pa.types.is_decimal256(right)
    return _decimal(whole + scale + 1, scale, wide=wide)


def common(*values: Value) -> tuple[Value, ...]:
    """Convert values to one type in which they compare exactly (numbers with doubles: as doubles).

    Raises
    ------
    InvalidInputError
        If values of these types do not compare.
    """
    types, is_ = [value.dtype for value in values], pa.types
    if len(set(types)) == 1:
        return values
    if all(map(_is_number, values)):
        if not all(map(is_exact_number, types)):
            return tuple(map(as_float, values))
        return _common_exact(values)
    if all(map(is_text, types)):
        return tuple(converted(value, pa.large_string()) for value in values)
    if set(types) <= {pa.binary(), pa.large_binary()}:
        return tuple(converted(value, pa.large_binary()) for value in values)
    instants = all(is_.is_date(each) or is_.is_timestamp(each) for each in types)
    if instants or all(map(is_.is_time, types)) or all(map(is_.is_duration, types)):
        return tuple(map(_in_nanoseconds, values))
    raise mistyped("a comparison", *values)


def _common_exact(values: tuple[Value, ...]) -> tuple[Value, ...]:
    if all(_scale(value) == 0 and _fits_int64(value.bounds) for value in values):
        return tuple(converted(value, pa.int64()) for value in values)
    scale = max(map(_scale, values))
    decimals = tuple(map(_as_decimal, values))
    precision = max(value.dtype.precision + scale - value.dtype.scale for value in decimals)
    dtype = _decimal(precision, scale, wide=any(pa.types.is_decimal256(value.dtype) for value in decimals))
    return tuple(converted(value, dtype) for value in decimals)


def _in_nanoseconds(value: Value) -> Value:
    """Convert a temporal value to a count of nanoseconds, which for a 64-bit second needs 28 digits."""
    dtype = value.dtype
    per_unit = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
    if pa.types.is_date32(dtype):
        factor, integer = 86_400 * 10**9, pa.int32()
    else:
        factor = per_unit["ms" if pa.types.is_date64(dtype) else dtype.unit]
        integer = pa.int32() if dtype.bit_width == 32 else pa.int64()
    count = Computed(lambda array: array.cast(integer), (value,), integer)
    return _as_decimal_of(_exact_arithmetic("*", count, Constant(pa.scalar(factor))))


def _as_decimal_of(value: Value) -> Value:
    return converted(_as_decimal(value), pa.decimal128(38, 0))


def cast(value: Value, target: pa.DataType) -> Value:
    """Convert to ``target``, if no row can fail to.

    Raises
    ------
    UnsupportedError
        If some value of the source type has no value in the target type.
    """
    source, is_ = value.dtype, pa.types
    if plain_type(target) == source:
        return value
    if is_.is_float64(target) and _is_number(value):
        return as_float(value)
    if is_.is_integer(target) and is_.is_integer(source) and _holds(target, value):
        return converted(value, target, value.bounds)
    if is_text(target) and (is_.is_integer(source) or is_.is_boolean(source) or is_text(source)):
        return converted(value, target)
    if is_.is_date32(target) and is_.is_timestamp(source) and source.unit in {"us", "ns"}:
        return _date_of(value)
    raise UnsupportedError(
        f"CAST from {source} to {target} is not supported: it could fail or round on some row",
        fix="compare with a constant of the column's own type",
    )


def _holds(target: pa.DataType, value: Value) -> bool:
    scale, bounds = scale_of(target), value.bounds
    return scale is not None and bounds is not None and scale.low <= bounds[0] and bounds[1] <= scale.high


def _date_of(value: Value) -> Value:
    per_day = 86_400 * {"us": 10**6, "ns": 10**9}[value.dtype.unit]

    def date_of(array: Any) -> Any:
        ticks = array.cast(pa.int64())
        days = pc.divide(ticks, per_day)  # cuts towards zero: before the epoch one day too late
        late = pc.less(ticks, pc.multiply(days, per_day))
        return pc.subtract(days, late.cast(pa.int64())).cast(pa.int32()).cast(pa.date32())

    return Computed(date_of, (value,), pa.date32())
