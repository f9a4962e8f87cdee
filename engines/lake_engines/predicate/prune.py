"""Pruning: which fragments can hold a row for which a condition is TRUE, from their statistics alone.

For every condition three masks over the fragments are computed: whether TRUE, FALSE and NULL may occur. They
may say "may" too often, never too rarely. All work is vectorised: one Arrow kernel per bound, any number of
fragments. Reference: spec/statistics.md (STAT-7).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lake_engines.predicate.tree import Operator
from lake_engines.predicate.truth import (
    All,
    AnyOf,
    ByArrow,
    Compare,
    ComparePair,
    Filled,
    Fixed,
    Match,
    Member,
    Nan,
    Negation,
    Null,
    Truth,
    WhenValid,
)
from lake_engines.predicate.values import FieldValue, Value
from lake_format.statistics import bound_kind, encode_bound, increment, value_type

__all__ = ["Outcomes", "StatisticsView", "outcomes"]

Mask = npt.NDArray[np.bool_]
_NUMBERS = frozenset({"signed", "unsigned", "float"})
"""Kinds whose bounds have eight bytes."""
_FEW = 32  # options compared one by one with all fragments
_SOME = 5_000  # fragments up to which each is searched for among the options


class StatisticsView(Protocol):
    """The statistics of many fragments, column by column."""

    @property
    def row_count(self) -> pa.Array | npt.NDArray[np.int64]:
        """Rows of each fragment, deleted ones included."""
        ...

    def column(self, field_id: int) -> tuple[pa.Array, pa.Array, pa.Array, pa.Array] | None:
        """Return (lower, upper, null_count, nan_count) over all fragments, or ``None`` if nothing is known.

        Bounds are binary arrays of the current type's :func:`lake_format.statistics.bound_kind`; counts are
        integers. NULL means unknown, which is always right.
        """
        ...

    def may_equal(self, field_id: int, options: pa.Array) -> npt.NDArray[np.bool_] | None:
        """Tell where the field may equal one of ``options`` by what bounds do not say; ``None`` if nothing does."""
        ...


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Per fragment, which answers may occur among its rows."""

    true: Mask
    false: Mask
    null: Mask


@dataclass(frozen=True, slots=True)
class _Field:
    """Statistics of one field, unknown counts replaced by what is always right."""

    lower: pa.Array
    upper: pa.Array
    may_null: Mask
    may_nan: Mask
    may_value: Mask  # neither NULL nor NaN
    may_valid: Mask  # not NULL


def outcomes(condition: Truth, view: StatisticsView) -> Outcomes:
    """Tell which answers ``condition`` may have in each fragment."""
    match condition:
        case All(terms):
            return reduce(_both, (outcomes(term, view) for term in terms))
        case AnyOf(terms):
            return _swapped(reduce(_both, (_swapped(outcomes(term, view)) for term in terms)))
        case Negation(term):
            return _swapped(outcomes(term, view))
        case Filled(term, answer):
            inner = outcomes(term, view)
            true = inner.true | inner.null if answer else inner.true
            false = inner.false if answer else inner.false | inner.null
            return Outcomes(true, false, np.zeros_like(inner.null))
        case Fixed(fixed):
            return _fixed(view, true=fixed is True, false=fixed is False, null=fixed is None)
        case ByArrow():
            if not condition.hints:
                return _unknown(view)
            hint = reduce(_both, (outcomes(term, view) for term in condition.hints))
            return Outcomes(hint.true, np.ones_like(hint.true), np.ones_like(hint.true))
        case ComparePair():
            return _pair(condition, view)
        case WhenValid(value) | Null(value) | Nan(value) | Compare(value) | Member(value) | Match(value):
            field = _field(value, view)
            found = _unknown(view) if field is None else _leaf(condition, field)
            return _without_impossible(condition, found, view)
        case _:
            return _unknown(view)


def _without_impossible(condition: Truth, found: Outcomes, view: StatisticsView) -> Outcomes:
    """Equality is TRUE nowhere but where the view says that the field may have such a value."""
    match condition:
        case Compare(FieldValue() as value, Operator.EQUAL, constant):
            options = pa.array([constant], value_type(value.dtype))
        case Member(FieldValue() as value, options):
            pass
        case _:
            return found
    if value.field_id is None:
        return found
    possible = view.may_equal(value.field_id, options)
    return found if possible is None else Outcomes(found.true & possible, found.false, found.null)


def _fixed(view: StatisticsView, *, true: bool, false: bool, null: bool) -> Outcomes:
    count = len(view.row_count)
    return Outcomes(np.full(count, true), np.full(count, false), np.full(count, null))


def _unknown(view: StatisticsView) -> Outcomes:
    return _fixed(view, true=True, false=True, null=True)


def _swapped(inner: Outcomes) -> Outcomes:
    return Outcomes(inner.false, inner.true, inner.null)


def _both(left: Outcomes, right: Outcomes) -> Outcomes:
    null = (left.null & (right.true | right.null)) | (right.null & (left.true | left.null))
    return Outcomes(left.true & right.true, left.false | right.false, null)


def _field(value: Value, view: StatisticsView) -> _Field | None:
    if not isinstance(value, FieldValue) or value.field_id is None:
        return None
    found = view.column(value.field_id)
    if found is None:
        return None
    lower, upper, null_count, nan_count = found
    rows = numbers(view.row_count, 0)
    nulls, nulls_known = numbers(null_count, 0), _known(null_count)
    is_float = bound_kind(value.dtype) == "float"
    nans = numbers(nan_count, 0) if is_float else np.zeros_like(nulls)
    nans_known = _known(nan_count) if is_float else np.ones_like(nulls_known)
    return _Field(
        lower=_binary(lower),
        upper=_binary(upper),
        may_null=(nulls > 0) | ~nulls_known,
        may_nan=(nans > 0) | ~nans_known if is_float else np.zeros_like(nulls_known),
        may_value=(rows - nulls - nans > 0) | ~nulls_known | ~nans_known,
        may_valid=(rows - nulls > 0) | ~nulls_known,
    )


def numbers(counts: Any, unknown: int) -> npt.NDArray[np.int64]:
    if isinstance(counts, np.ndarray):
        return counts.astype(np.int64, copy=False)
    filled = counts.fill_null(unknown) if counts.null_count else counts
    return np.asarray(filled.to_numpy(zero_copy_only=False), dtype=np.int64)


def _known(counts: Any) -> Mask:
    if isinstance(counts, np.ndarray) or not counts.null_count:
        return np.ones(len(counts), dtype=np.bool_)
    return np.asarray(counts.is_valid().to_numpy(zero_copy_only=False), dtype=np.bool_)


def _binary(bounds: pa.Array) -> pa.Array:
    return bounds if pa.types.is_binary(bounds.type) else bounds.cast(pa.binary())


def _may(kernel: Callable[[Any, Any], Any], bounds: pa.Array, other: Any) -> Mask:
    """Compare bounds with a constant (or other bounds); where a bound is unknown, the answer is yes."""
    if isinstance(other, bytes):
        other = pa.scalar(other, pa.binary())
    answer = kernel(bounds, other)
    if answer.null_count:
        answer = answer.fill_null(True)
    return np.asarray(answer.to_numpy(zero_copy_only=False), dtype=np.bool_)


def _leaf(condition: Truth, field: _Field) -> Outcomes:
    nothing = np.zeros_like(field.may_null)
    match condition:
        case WhenValid(_, answer):
            valid = field.may_valid
            return Outcomes(valid if answer else nothing, nothing if answer else valid, field.may_null)
        case Null():
            return Outcomes(field.may_null, field.may_valid, nothing)
        case Nan():
            return Outcomes(field.may_nan, field.may_value, field.may_null)
        case Compare():
            return _compare(condition, field)
        case Member():
            return _member(condition, field)
        case Match():
            return _match(condition, field)
        case _:
            raise TypeError(condition)


def _compare(condition: Compare, field: _Field) -> Outcomes:
    constant = encode_bound(condition.constant)
    true, false = _ordered(condition.operator, constant, field)
    true, false = true & field.may_value, false & field.may_value
    above = condition.operator in {Operator.GREATER, Operator.GREATER_EQUAL}
    nan_passes = condition.operator is Operator.NOT_EQUAL or (above and condition.nan_greatest)
    if nan_passes:
        true = true | field.may_nan
    else:
        false = false | field.may_nan
    return Outcomes(true, false, field.may_null)


def _ordered(operator: Operator, constant: bytes, field: _Field) -> tuple[Mask, Mask]:
    """Tell whether some value between the bounds passes, and whether some does not."""
    lower, upper = field.lower, field.upper
    match operator:
        case Operator.LESS:
            return _may(pc.less, lower, constant), _may(pc.greater_equal, upper, constant)
        case Operator.LESS_EQUAL:
            return _may(pc.less_equal, lower, constant), _may(pc.greater, upper, constant)
        case Operator.GREATER:
            return _may(pc.greater, upper, constant), _may(pc.less_equal, lower, constant)
        case Operator.GREATER_EQUAL:
            return _may(pc.greater_equal, upper, constant), _may(pc.less, lower, constant)
    within = _within(constant, field)
    beside = _may(pc.less, lower, constant) | _may(pc.greater, upper, constant)
    return (within, beside) if operator is Operator.EQUAL else (beside, within)


def _within(constant: bytes, field: _Field) -> Mask:
    return _may(pc.less_equal, field.lower, constant) & _may(pc.greater_equal, field.upper, constant)


def _member(condition: Member, field: _Field) -> Outcomes:
    options = condition.encoded
    within = _may(pc.less_equal, field.lower, options[-1]) & _may(pc.greater_equal, field.upper, options[0])
    near = np.flatnonzero(within)
    if bound_kind(condition.value.dtype) in _NUMBERS:
        within[near] = _holds_number(
            options, field.lower.take(pa.array(near)), field.upper.take(pa.array(near))
        )
    elif len(near) <= _SOME:
        lower, upper = field.lower.take(pa.array(near)), field.upper.take(pa.array(near))
        pairs = zip(lower.to_pylist(), upper.to_pylist(), strict=True)
        within[near] = [_holds_one(options, low, high) for low, high in pairs]
    elif len(options) <= _FEW:
        within &= reduce(np.logical_or, (_within(option, field) for option in options))
    true = within & field.may_value
    single = ~_may(pc.not_equal, field.lower, field.upper)  # one value only, so it is or it is not an option
    fails = field.may_value & ~(single & within) | field.may_nan
    nothing = np.zeros_like(fails)
    false, null = (nothing, fails | field.may_null) if condition.has_null else (fails, field.may_null)
    return Outcomes(true, false, null)


def _holds_number(options: list[bytes], lower: pa.Array, upper: pa.Array) -> Mask:
    """Where one of the options lies between bounds of eight bytes; where one is unknown it may."""
    numbers = np.frombuffer(b"".join(options), ">u8")
    low = np.frombuffer(b"".join(lower.fill_null(bytes(8)).to_pylist()), ">u8")
    high = np.frombuffer(b"".join(upper.fill_null(b"\xff" * 8).to_pylist()), ">u8")
    first = np.searchsorted(numbers, low)
    return np.asarray((first < len(numbers)) & (numbers[np.minimum(first, len(numbers) - 1)] <= high))


def _holds_one(options: list[bytes], lower: bytes | None, upper: bytes | None) -> bool:
    start = 0 if lower is None else bisect_left(options, lower)
    return start < len(options) and (upper is None or options[start] <= upper)


def _match(condition: Match, field: _Field) -> Outcomes:
    prefix = condition.prefix.encode()
    true, false = field.may_value, field.may_value
    if prefix:
        end = increment(prefix, text=True)
        true = true & _may(pc.greater_equal, field.upper, prefix)
        if end is not None:
            true = true & _may(pc.less, field.lower, end)
            if condition.kind == "starts_with":
                outside = _may(pc.less, field.lower, prefix) | _may(pc.greater_equal, field.upper, end)
                false = false & outside
    return Outcomes(true, false, field.may_null)


def _pair(condition: ComparePair, view: StatisticsView) -> Outcomes:
    left, right = _field(condition.left, view), _field(condition.right, view)
    kinds = bound_kind(condition.left.dtype), bound_kind(condition.right.dtype)
    if left is None or right is None or kinds[0] is None or kinds[0] != kinds[1]:
        return _unknown(view)
    match condition.operator:
        case Operator.LESS:
            true = _may(pc.less, left.lower, right.upper)
        case Operator.LESS_EQUAL:
            true = _may(pc.less_equal, left.lower, right.upper)
        case Operator.GREATER:
            true = _may(pc.greater, left.upper, right.lower)
        case Operator.GREATER_EQUAL:
            true = _may(pc.greater_equal, left.upper, right.lower)
        case Operator.EQUAL:
            true = _may(pc.less_equal, left.lower, right.upper) & _may(pc.less_equal, right.lower, left.upper)
        case _:
            true = np.ones_like(left.may_null)
    true = (true & left.may_value & right.may_value) | left.may_nan | right.may_nan
    may_both = left.may_valid & right.may_valid
    return Outcomes(true & may_both, may_both, left.may_null | right.may_null)
