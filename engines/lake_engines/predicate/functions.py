"""Functions, arithmetic and casts of bound values, built so that they are exact and cannot fail on any row.

Integer and decimal arithmetic follows the range of its operands: 64-bit where that cannot overflow, decimals
of up to 76 digits beyond, and an error at binding where even these could. Casts that could fail are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lake_engines.predicate.exact import scale_of
from lake_engines.predicate.values import Computed, Constant, Value, plain_type
from lake_format.errors import InvalidInputError, UnsupportedError

__all__ = ["as_float", "build", "cast", "common", "is_exact_number", "is_text"]

_INT64 = (-(2**63), 2**63 - 1)
_WIDEST = 76
_DIGITS = {8: 3, 16: 5, 32: 10, 64: 20}  # digits that Arrow wants for an integer of so many bits
_PARTS: dict[str, Callable[..., Any]] = {
    "year": pc.year,
    "month": pc.month,
    "day": pc.day,
    "hour": pc.hour,
    "minute": pc.minute,
    "second": pc.second,
}
_NULL = Constant(pa.scalar(None))
_ARITHMETIC = frozenset("+-*/%") | {"//"}


def is_text(dtype: pa.DataType) -> bool:
    """Tell whether values are strings."""
    return bool(pa.types.is_string(dtype) or pa.types.is_large_string(dtype))


def is_exact_number(dtype: pa.DataType) -> bool:
    """Tell whether values are integers or decimals."""
    return bool(pa.types.is_integer(dtype) or pa.types.is_decimal(dtype))


def _is_null(value: Value) -> bool:
    return bool(pa.types.is_null(value.dtype)) or (isinstance(value, Constant) and not value.scalar.is_valid)


def _is_number(value: Value) -> bool:
    return is_exact_number(value.dtype) or bool(pa.types.is_floating(value.dtype))


def build(name: str, arguments: tuple[Value, ...]) -> Value:
    """Apply the function (or arithmetic operator) ``name``.

    Raises
    ------
    UnsupportedError
        If there is no such function here, or its result could overflow.
    InvalidInputError
        If the number or the types of the arguments do not fit.
    """
    if name == "coalesce" and arguments:
        known = tuple(argument for argument in arguments if not _is_null(argument))
        return _coalesce(known) if known else arguments[0]
    if name in _ARITHMETIC and len(arguments) == 2:
        return _NULL if any(map(_is_null, arguments)) else _arithmetic(name, *arguments)
    unary = {"lower": _text, "upper": _text, "length": _text, "abs": _magnitude, "negate": _magnitude}
    unary |= dict.fromkeys(_PARTS, _part)
    if name not in unary:
        raise UnsupportedError(
            f"the function {name}() is not supported in filters", fix=f"use {known_functions()}"
        )
    if len(arguments) != 1:
        raise InvalidInputError(f"{name}() takes one argument, not {len(arguments)}")
    return _NULL if _is_null(arguments[0]) else unary[name](name, arguments[0])


def known_functions() -> str:
    """List the functions for error messages."""
    return ", ".join(
        ["lower", "upper", "length", "abs", "coalesce", *_PARTS, "starts_with, ends_with, contains"]
    )


def _mistyped(name: str, *values: Value) -> InvalidInputError:
    types = " and ".join(str(value.dtype) for value in values)
    return InvalidInputError(f"{name} cannot be applied to {types}")


def _text(name: str, value: Value) -> Value:
    if not is_text(value.dtype):
        raise _mistyped(f"{name}()", value)
    if name == "length":
        return Computed(
            lambda array: pc.utf8_length(array).cast(pa.int64()), (value,), pa.int64(), (0, 2**63 - 1)
        )
    return Computed(pc.utf8_lower if name == "lower" else pc.utf8_upper, (value,), value.dtype)


def _part(name: str, value: Value) -> Value:
    dtype, is_ = value.dtype, pa.types
    clock = name in {"hour", "minute", "second"}
    if not (is_.is_timestamp(dtype) or (is_.is_date(dtype) and not clock) or (is_.is_time(dtype) and clock)):
        raise _mistyped(f"{name}()", value)
    function = _PARTS[name]
    if is_.is_timestamp(dtype) and dtype.tz is not None:  # parts of the day are those in UTC
        naive = pa.timestamp(dtype.unit)
        return Computed(lambda array: function(array.cast(naive)), (value,), pa.int64())
    return Computed(function, (value,), pa.int64())


def _magnitude(name: str, value: Value) -> Value:
    if pa.types.is_floating(value.dtype):
        return Computed(pc.abs if name == "abs" else pc.negate, (value,), value.dtype)
    if not is_exact_number(value.dtype) or value.bounds is None:
        raise _mistyped("-" if name == "negate" else f"{name}()", value)
    low, high = value.bounds
    limits = (-high, -low) if name == "negate" else (max(low, -high, 0), max(-low, high))
    scale = _scale(value)
    operand = _exact_operand(value, limits if scale == 0 else None)
    return Computed(pc.abs if name == "abs" else pc.negate, (operand,), operand.dtype, limits)


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
        return _converted(value, pa.int64(), bounds)
    return _as_decimal(value)


def _as_decimal(value: Value, *, wide: bool = False) -> Value:
    bounds = value.bounds or _INT64
    digits = max(_digits(bounds), _scale(value), 1)
    if pa.types.is_integer(value.dtype):
        digits = max(digits, _DIGITS[value.dtype.bit_width])
    return _converted(value, _decimal(digits, _scale(value), wide=wide), bounds)


def _decimal(precision: int, scale: int, *, wide: bool = False) -> pa.DataType:
    if precision > _WIDEST:
        raise UnsupportedError(
            f"the result could have {precision} digits, more than {_WIDEST}",
            fix="cast an operand to DOUBLE",
        )
    kind = pa.decimal256 if wide or precision > 38 else pa.decimal128
    return kind(precision, scale)


def _converted(value: Value, dtype: pa.DataType, limits: tuple[int, int] | None = None) -> Value:
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
    return Computed(lambda array: pc.cast(array, double, safe=False), (value,), double)


def _arithmetic(sign: str, left: Value, right: Value) -> Value:
    if not (_is_number(left) and _is_number(right)):
        raise _mistyped(sign, left, right)
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
    number = _converted(left, pa.int64(), bounds)
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
            kernel, (_converted(left, pa.int64()), _converted(right, pa.int64())), pa.int64(), limits
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


def common(left: Value, right: Value) -> tuple[Value, Value]:
    """Convert two values to one type in which they compare exactly (numbers with doubles: as doubles).

    Raises
    ------
    InvalidInputError
        If values of these types do not compare.
    """
    one, other, is_ = left.dtype, right.dtype, pa.types
    if one == other:
        return left, right
    if _is_number(left) and _is_number(right):
        if not (is_exact_number(one) and is_exact_number(other)):
            return as_float(left), as_float(right)
        return _common_exact(left, right)
    if is_text(one) and is_text(other):
        return _converted(left, pa.large_string()), _converted(right, pa.large_string())
    binary = {pa.binary(), pa.large_binary()}
    if one in binary and other in binary:
        return _converted(left, pa.large_binary()), _converted(right, pa.large_binary())
    instants = all(is_.is_date(each) or is_.is_timestamp(each) for each in (one, other))
    if (
        instants
        or (is_.is_time(one) and is_.is_time(other))
        or (is_.is_duration(one) and is_.is_duration(other))
    ):
        return _in_nanoseconds(left), _in_nanoseconds(right)
    raise _mistyped("a comparison", left, right)


def _common_exact(left: Value, right: Value) -> tuple[Value, Value]:
    if _scale(left) == _scale(right) == 0 and _fits_int64(left.bounds) and _fits_int64(right.bounds):
        return _converted(left, pa.int64()), _converted(right, pa.int64())
    scale = max(_scale(left), _scale(right))
    values = _as_decimal(left), _as_decimal(right)
    precision = max(value.dtype.precision + scale - value.dtype.scale for value in values)
    wide = any(pa.types.is_decimal256(value.dtype) for value in values)
    dtype = _decimal(precision, scale, wide=wide)
    return _converted(values[0], dtype), _converted(values[1], dtype)


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
    return _converted(_as_decimal(value), pa.decimal128(38, 0))


def _coalesce(arguments: tuple[Value, ...]) -> Value:
    values = list(arguments)
    for index in range(1, len(values)):
        first, values[index] = common(values[0], values[index])
        values[:index] = [common(value, first)[0] for value in values[:index]]
    dtype = values[0].dtype
    return Computed(pc.coalesce, tuple(_converted(value, dtype) for value in values), dtype)


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
        return _converted(value, target, value.bounds)
    if is_text(target) and (is_.is_integer(source) or is_.is_boolean(source) or is_text(source)):
        return _converted(value, target)
    if is_.is_date32(target) and is_.is_timestamp(source) and source.unit in {"us", "ns"}:
        return _date_of(value)
    raise UnsupportedError(
        f"CAST from {source} to {target} is not supported in filters: it could fail or round on some row",
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
