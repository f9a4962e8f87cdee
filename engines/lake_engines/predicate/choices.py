"""Values chosen among others, row by row: CASE, ``coalesce``, ``greatest`` and ``least``.

What is chosen among gets one type first. Constants take the type of the columns beside them where it can hold
them; other values are brought to a type that holds all of them exactly (numbers with doubles: doubles).
"""

from __future__ import annotations

import math
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lake_engines.predicate.constants import cast_scalar, literal_sql, scalar_from_text
from lake_engines.predicate.functions import common, is_exact_number, is_null, is_text
from lake_engines.predicate.truth import Answer, Filled, Truth
from lake_engines.predicate.values import Computed, Constant, Value
from lake_format.errors import InvalidInputError, UnsupportedError

__all__ = ["case", "coalesce", "extreme"]


def coalesce(arguments: tuple[Value, ...]) -> Value:
    """The first that is not NULL."""
    values = _of_one_type("coalesce()", tuple(each for each in arguments if not is_null(each)))
    if not values:
        return arguments[0]
    return Computed(pc.coalesce, values, values[0].dtype, _hull(values))


def case(conditions: tuple[Truth, ...], results: tuple[Value, ...], otherwise: Value) -> Value:
    """The result beside the first condition that is TRUE, else ``otherwise``."""
    known = _of_one_type("CASE", tuple(each for each in (*results, otherwise) if not is_null(each)))
    if not known:
        return Constant(pa.scalar(None))
    dtype, rest = known[0].dtype, iter(known)
    null = Constant(pa.scalar(None, dtype))
    values = [null if is_null(each) else next(rest) for each in (*results, otherwise)]
    asked = tuple(Answer(Filled(condition, False)) for condition in conditions)
    count = len(asked)

    def chosen(*columns: Any) -> Any:
        pairs = zip(reversed(columns[:count]), reversed(columns[count:-1]), strict=True)
        return reduce(lambda below, pair: pc.if_else(pair[0], pair[1], below), pairs, columns[-1])

    return Computed(chosen, (*asked, *values), dtype, _hull(known))


def extreme(name: str, arguments: tuple[Value, ...]) -> Value:
    """The ``greatest`` or ``least`` that is not NULL; NaN is above all, and of equal ones the first is taken."""
    values = _of_one_type(f"{name}()", tuple(each for each in arguments if not is_null(each)))
    if not values:
        if not arguments:
            raise InvalidInputError(f"{name}() takes one argument or more")
        return arguments[0]
    dtype, is_ = values[0].dtype, pa.types
    if is_.is_nested(dtype) or is_.is_interval(dtype):
        raise UnsupportedError(f"{name}() is not supported for {dtype}, whose values are not compared")
    floating = is_.is_floating(dtype)
    above = _above if floating else pc.greater

    def further(best: Any, other: Any) -> Any:
        beyond = above(other, best) if name == "greatest" else above(best, other)
        # NULL where either is: then whichever is not is taken.
        return pc.if_else(pc.fill_null(beyond, False), other, pc.coalesce(best, other))

    return Computed(lambda *columns: reduce(further, columns), values, dtype, _hull(values))


def _above(one: Any, other: Any) -> Any:
    """Whether floats are greater than others, NaN being equal to itself and above everything."""
    return pc.and_(pc.invert(pc.is_nan(other)), pc.or_(pc.greater(one, other), pc.is_nan(one)))


def _hull(values: tuple[Value, ...]) -> tuple[int, int] | None:
    """The limits of any of them; None where values are not stored as integers."""
    found = [value.bounds for value in values]
    known = [bounds for bounds in found if bounds is not None]
    if len(known) < len(found) or not known:
        return None
    return min(low for low, _ in known), max(high for _, high in known)


def _of_one_type(what: str, values: tuple[Value, ...]) -> tuple[Value, ...]:
    types = {value.dtype for value in values if not isinstance(value, Constant)}
    if len(types) == 1:
        dtype = types.pop()
        fitted = tuple(_fitted(what, value, dtype) for value in values)
        known = tuple(value for value in fitted if value is not None)
        if len(known) == len(values):
            return known
    if (
        any(pa.types.is_temporal(value.dtype) for value in values)
        and len({each.dtype for each in values}) > 1
    ):
        raise _unlike(what, values)  # they compare, but as numbers: no time is of such a type
    try:
        return common(*values) if values else ()
    except InvalidInputError as error:
        raise _unlike(what, values) from error


def _unlike(what: str, values: tuple[Value, ...]) -> InvalidInputError:
    types = " and ".join(dict.fromkeys(str(value.dtype) for value in values))
    return InvalidInputError(f"{what} chooses among values of one type, not {types}", fix="CAST them to one")


def _fitted(what: str, value: Value, dtype: pa.DataType) -> Value | None:
    """The value in this type: itself, or a constant that the type can hold; None for another."""
    if value.dtype == dtype:
        return value
    if not isinstance(value, Constant):
        return None
    scalar = value.scalar
    is_number = is_exact_number(scalar.type)
    if pa.types.is_floating(dtype) and is_number:
        rounded = scalar.as_py() if not pa.types.is_decimal(scalar.type) else float(scalar.as_py())
        found = pa.scalar(float(rounded), pa.float64()).cast(dtype)
        return Constant(found) if math.isfinite(found.as_py()) else None
    if is_text(scalar.type) and not is_text(dtype):
        try:
            return Constant(cast_scalar(scalar_from_text(scalar.as_py(), dtype), dtype))
        except ValueError as error:
            raise InvalidInputError(
                f"{what} chooses among {dtype} and {literal_sql(scalar)}: {error}", fix="CAST one of them"
            ) from error
    alike = (is_text(scalar.type) and is_text(dtype)) or (is_number and is_exact_number(dtype))
    if not alike and not _same_moments(scalar.type, dtype):
        return None
    try:
        return Constant(cast_scalar(scalar, dtype))
    except ValueError:
        return None


def _same_moments(one: pa.DataType, other: pa.DataType) -> bool:
    """Whether constants of one type may become another: dates and timestamps, both with a zone or both without."""
    is_ = pa.types
    if not all(is_.is_date(each) or is_.is_timestamp(each) for each in (one, other)):
        return bool(
            (is_.is_time(one) and is_.is_time(other)) or (is_.is_duration(one) and is_.is_duration(other))
        )
    return bool(_zoned(one) == _zoned(other))


def _zoned(dtype: pa.DataType) -> bool:
    return pa.types.is_timestamp(dtype) and dtype.tz is not None
