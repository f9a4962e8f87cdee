"""Comparisons of a bound value with a constant, fitted so that they are exact under the rules asked for.

Here constants meet types: whatever does not fit is an error now, so that nothing can fail per row.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pyarrow as pa

from lake_engines.predicate.constants import literal_sql, scalar_from_text
from lake_engines.predicate.exact import Family, exact_value, fit, fit_float32, scalar_from_storage, scale_of
from lake_engines.predicate.functions import common, is_exact_number, is_text
from lake_engines.predicate.tree import Operator, Rules
from lake_engines.predicate.truth import (
    AnyOf,
    Compare,
    ComparePair,
    Fixed,
    Member,
    Nan,
    Negation,
    Truth,
    WhenValid,
)
from lake_engines.predicate.values import FieldValue, Value
from lake_format.errors import InvalidInputError, UnsupportedError
from lake_format.statistics import is_binary_like

__all__ = ["compare_constant", "compare_values", "member"]


def compare_values(left: Value, operator: Operator, right: Value, rules: Rules) -> Truth:
    """Build ``left operator right`` for two values that both vary by row."""
    if rules == "arrow" and left.dtype != right.dtype:
        both_integers = pa.types.is_integer(left.dtype) and pa.types.is_integer(right.dtype)
        if not both_integers:
            raise UnsupportedError(f"Arrow's own rules convert {left.dtype} and {right.dtype}")
    if pa.types.is_null(left.dtype) or pa.types.is_null(right.dtype):
        return Fixed(None)
    left, right = common(left, right)
    _refuse_unordered(left)
    nan_greatest = rules != "arrow" and bool(pa.types.is_floating(left.dtype))
    return ComparePair(left, operator, right, nan_greatest)


def _refuse_unordered(value: Value) -> None:
    dtype, is_ = value.dtype, pa.types
    known = scale_of(dtype) is not None or is_.is_floating(dtype) or is_text(dtype)
    if not (known or is_binary_like(dtype) or is_.is_boolean(dtype)):
        raise UnsupportedError(
            f"{value} has type {dtype}, whose values are not compared in filters",
            fix="IS NULL and IS NOT NULL work for every type",
        )


def _mismatch(value: Value, constant: pa.Scalar, why: str) -> InvalidInputError:
    named = f"column '{value}'" if isinstance(value, FieldValue) else "an expression"
    return InvalidInputError(
        f"cannot compare {named} of type {value.dtype} with {literal_sql(constant)}: {why}"
    )


def compare_constant(value: Value, operator: Operator, constant: pa.Scalar, rules: Rules) -> Truth:
    """Build ``value operator constant`` for one of the six comparisons.

    Raises
    ------
    InvalidInputError
        If the constant is no value of the column's family of types.
    UnsupportedError
        If values of this type do not compare, or (rules ``arrow``) Arrow would convert inexactly.
    """
    if not constant.is_valid or pa.types.is_null(value.dtype):
        return Fixed(None)
    _refuse_unordered(value)
    dtype = value.dtype
    if is_text(constant.type) and not is_text(dtype) and rules != "arrow":
        try:
            constant = scalar_from_text(constant.as_py(), dtype)
        except ValueError as error:
            raise _mismatch(value, constant, str(error)) from error
    if pa.types.is_floating(dtype):
        return _compare_float(value, operator, constant, rules)
    if scale_of(dtype) is not None:
        return _compare_exact(value, operator, constant, rules)
    for fits in (is_text, is_binary_like, pa.types.is_boolean):
        if fits(dtype) and fits(constant.type):
            return Compare(value, operator, constant if constant.type == dtype else constant.cast(dtype))
    raise _mismatch(value, constant, _hint(dtype))


def _hint(dtype: pa.DataType) -> str:
    if is_text(dtype):
        return "text is compared with text: put the constant in single quotes"
    return "TRUE or FALSE is expected" if pa.types.is_boolean(dtype) else "a byte string is expected"


def _compare_exact(value: Value, operator: Operator, constant: pa.Scalar, rules: Rules) -> Truth:
    scale = scale_of(value.dtype)
    if scale is None:
        raise TypeError(value.dtype)
    other = scale_of(constant.type)
    if other is None and pa.types.is_floating(constant.type) and scale.family is Family.NUMBER:
        if rules == "arrow" and pa.types.is_decimal(value.dtype):
            raise UnsupportedError("Arrow compares decimals and floats inexactly")
    elif other is None or other.family is not scale.family:
        raise _mismatch(value, constant, f"a {scale.family.value} is expected")
    elif rules == "arrow" and other.zoned != scale.zoned:
        raise UnsupportedError("Arrow does not compare timestamps with and without zone")
    exact = exact_value(constant)
    if rules == "arrow" and isinstance(exact, float) and math.isnan(exact):
        return WhenValid(value, operator is Operator.NOT_EQUAL)
    fitted = fit(operator, exact, scale)
    if isinstance(fitted, bool):
        return WhenValid(value, fitted)
    return Compare(value, fitted[0], scalar_from_storage(fitted[1], value.dtype))


def _compare_float(value: Value, operator: Operator, constant: pa.Scalar, rules: Rules) -> Truth:
    if not (pa.types.is_floating(constant.type) or is_exact_number(constant.type)):
        raise _mismatch(value, constant, "a number is expected")
    exact = exact_value(constant)
    number = float(exact)
    if math.isnan(number):
        return _compare_nan(value, operator, rules)
    if rules == "arrow" and exact != number:
        raise UnsupportedError("Arrow does not round constants")
    nan_greatest = rules != "arrow"
    if value.dtype != pa.float32():
        return Compare(value, operator, pa.scalar(number, value.dtype), nan_greatest)
    if rules != "arrow" and not pa.types.is_floating(constant.type):
        rounded = _rounded(exact, value)
        if not math.isinf(rounded):
            return Compare(value, operator, pa.scalar(rounded, pa.float32()), nan_greatest)
    fitted = fit_float32(operator, number)
    if isinstance(fitted, bool):
        return WhenValid(value, fitted)
    return Compare(value, fitted[0], pa.scalar(fitted[1], pa.float32()), nan_greatest)


def _rounded(exact: Fraction | float, value: Value) -> float:
    """Round a decimal constant to the column's own precision, so that ``x = 0.1`` finds what 0.1 became."""
    half = isinstance(value, FieldValue) and pa.types.is_float16(value.stored)
    with np.errstate(over="ignore"):
        return float((np.float16 if half else np.float32)(float(exact)))


def _compare_nan(value: Value, operator: Operator, rules: Rules) -> Truth:
    """Compare with NaN: as the greatest value, equal to itself (SQL), or as unordered (IEEE 754)."""
    if rules == "arrow":
        return WhenValid(value, operator is Operator.NOT_EQUAL)
    match operator:
        case Operator.EQUAL | Operator.GREATER_EQUAL:
            return Nan(value)
        case Operator.NOT_EQUAL | Operator.LESS:
            return Negation(Nan(value))
        case _:
            return WhenValid(value, operator is Operator.LESS_EQUAL)


def member(value: Value, options: tuple[pa.Scalar, ...], rules: Rules) -> Truth:
    """Build ``value IN (options)``: every option is compared as ``=`` would."""
    found: list[pa.Scalar] = []
    has_null = has_nan = False
    if rules == "arrow":
        _refuse_unlike(value, options)
    if _are_plain(value, options):
        found = [option for option in options if option.is_valid]
        has_null = len(found) < len(options)
    else:
        for option in options:
            term = compare_constant(value, Operator.EQUAL, option, rules)
            has_null = has_null or isinstance(term, Fixed)
            has_nan = has_nan or isinstance(term, Nan)
            if isinstance(term, Compare):
                found.append(term.constant)
    rest = _member_of(value, found, has_null)
    return AnyOf((Nan(value), rest)) if has_nan else rest


def _are_plain(value: Value, options: tuple[pa.Scalar, ...]) -> bool:
    if not (is_text(value.dtype) or pa.types.is_integer(value.dtype)):
        return False
    return all(option.type == value.dtype for option in options)


def _member_of(value: Value, found: list[pa.Scalar], has_null: bool) -> Truth:
    if not found:
        return Fixed(None) if has_null else WhenValid(value, False)
    options = pa.array(found, value.dtype)
    if pa.types.is_floating(value.dtype):  # Arrow hashes -0.0 and 0.0 apart
        zeros = pa.array([0.0, -0.0] if any(option.as_py() == 0 for option in found) else [], value.dtype)
        options = pa.concat_arrays([options, zeros])
    return Member(value, options.unique(), has_null)


def _refuse_unlike(value: Value, options: tuple[pa.Scalar, ...]) -> None:
    """Leave to Arrow the lists that its ``is_in`` converts or hashes in its own way."""
    dtype = value.dtype
    integers = pa.types.is_integer(dtype) and all(pa.types.is_integer(option.type) for option in options)
    if pa.types.is_floating(dtype) or not (integers or all(option.type == dtype for option in options)):
        raise UnsupportedError("Arrow's is_in has rules of its own here")
