"""Bound conditions: TRUE, FALSE or NULL per row, computed by Arrow's kernels.

Nodes are made by `bind`, which has fitted every constant to its column; evaluation therefore cannot fail.
Pruning reads the same nodes in `prune`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import Any
from typing import Literal as OneOf

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lake_engines.predicate.tree import Operator
from lake_engines.predicate.values import Value
from lake_format.statistics import encode_bound

__all__ = [
    "All",
    "Answer",
    "AnyOf",
    "ByArrow",
    "Compare",
    "ComparePair",
    "Filled",
    "Fixed",
    "Match",
    "Member",
    "Nan",
    "Negation",
    "Null",
    "Truth",
    "WhenValid",
]

_KERNELS: dict[Operator, Callable[..., Any]] = {
    Operator.EQUAL: pc.equal,
    Operator.NOT_EQUAL: pc.not_equal,
    Operator.LESS: pc.less,
    Operator.LESS_EQUAL: pc.less_equal,
    Operator.GREATER: pc.greater,
    Operator.GREATER_EQUAL: pc.greater_equal,
}
_FEW = 4  # options up to which comparing one by one beats hashing
_FEW_NUMBERS = 32  # the same for whole numbers by NumPy, which compares them in a third of the time
_NULL = pa.scalar(None, pa.bool_())


class Truth:
    """A condition: one of the nodes below."""

    @cached_property
    def parts(self) -> tuple[Truth | Value, ...]:
        """The conditions and values this one is made of."""
        found: list[Truth | Value] = []
        for each in vars(self).values():
            found.extend(part for part in (each if isinstance(each, tuple) else (each,)) if _is_part(part))
        return tuple(found)

    @cached_property
    def columns(self) -> frozenset[str]:
        """Top-level columns needed to evaluate."""
        return frozenset[str]().union(*(part.columns for part in self.parts))

    def evaluate(self, batch: pa.RecordBatch) -> Any:
        """Compute the answer for all rows of ``batch``: a boolean array, or a scalar where it is constant."""
        return self._answer(batch)

    def _answer(self, batch: pa.RecordBatch) -> Any:
        raise NotImplementedError


def _is_part(each: object) -> bool:
    return isinstance(each, Truth | Value)


@dataclass(frozen=True)
class Fixed(Truth):
    """The same answer for every row; ``None`` is NULL."""

    answer: bool | None

    def _answer(self, batch: pa.RecordBatch) -> Any:
        return pa.scalar(self.answer, pa.bool_())


@dataclass(frozen=True)
class WhenValid(Truth):
    """The same answer for every row that has a value; NULL for the others."""

    value: Value
    answer: bool

    def _answer(self, batch: pa.RecordBatch) -> Any:
        found = self.value.evaluate(batch)
        if not found.null_count if isinstance(found, pa.Array) else found.is_valid:
            return pa.scalar(self.answer)
        return pc.if_else(pc.is_valid(found), self.answer, _NULL)


@dataclass(frozen=True)
class Compare(Truth):
    """``value operator constant``, the constant having the value's type.

    With ``nan_greatest``, NaN in the column is equal to itself and above everything; otherwise unordered.
    The constant is never NaN or NULL.
    """

    value: Value
    operator: Operator
    constant: pa.Scalar
    nan_greatest: bool = False

    @cached_property
    def _kernel(self) -> Callable[[Any], Any]:
        constant = self.constant
        if self.nan_greatest and self.operator in {Operator.GREATER, Operator.GREATER_EQUAL}:
            opposite = pc.less_equal if self.operator is Operator.GREATER else pc.less
            return lambda array: pc.invert(opposite(array, constant))
        compare = _KERNELS[self.operator]
        return lambda array: compare(array, constant)

    def _answer(self, batch: pa.RecordBatch) -> Any:
        return self.value.apply(batch, self._kernel)


@dataclass(frozen=True)
class ComparePair(Truth):
    """``left operator right``, both of one type."""

    left: Value
    operator: Operator
    right: Value
    nan_greatest: bool = False

    def _answer(self, batch: pa.RecordBatch) -> Any:
        left, right = self.left.evaluate(batch), self.right.evaluate(batch)
        if not self.nan_greatest:
            return _KERNELS[self.operator](left, right)
        match self.operator:
            case Operator.EQUAL:
                return _equal(left, right)
            case Operator.NOT_EQUAL:
                return pc.invert(_equal(left, right))
            case Operator.LESS_EQUAL:
                return _at_most(left, right)
            case Operator.GREATER_EQUAL:
                return _at_most(right, left)
            case Operator.LESS:
                return pc.invert(_at_most(right, left))
            case _:
                return pc.invert(_at_most(left, right))


def _equal(left: Any, right: Any) -> Any:
    return pc.or_(pc.equal(left, right), pc.and_(pc.is_nan(left), pc.is_nan(right)))


def _at_most(left: Any, right: Any) -> Any:
    return pc.or_(pc.less_equal(left, right), pc.is_nan(right))


@dataclass(frozen=True)
class Member(Truth):
    """``value IN (options)``; options are distinct, of the value's type, without NULL and NaN."""

    value: Value
    options: pa.Array
    has_null: bool

    @cached_property
    def encoded(self) -> list[bytes]:
        """The options as bounds, ascending, for comparison with statistics."""
        return sorted({encode_bound(option) for option in self.options})

    @cached_property
    def _numbers(self) -> npt.NDArray[np.generic] | None:
        """The options, where comparing whole numbers with each of them is quickest."""
        few = pa.types.is_integer(self.options.type) and len(self.options) <= _FEW_NUMBERS
        return np.asarray(self.options.to_numpy()) if few else None

    def _found(self, array: Any) -> Any:
        if self._numbers is not None and isinstance(array, pa.Array) and not array.null_count:
            values = array.to_numpy()
            found = pa.array(reduce(np.logical_or, (values == option for option in self._numbers)))
        elif len(self.options) <= _FEW:
            found = reduce(pc.or_, (pc.equal(array, option) for option in self.options))
        else:
            found = pc.is_in(array, value_set=self.options)
            if array.null_count if isinstance(array, pa.Array) else not array.is_valid:
                found = pc.if_else(pc.is_valid(array), found, _NULL)
        return pc.if_else(found, found, _NULL) if self.has_null else found

    def _answer(self, batch: pa.RecordBatch) -> Any:
        return self.value.apply(batch, self._found)


@dataclass(frozen=True)
class Null(Truth):
    """``value IS NULL``."""

    value: Value

    def _answer(self, batch: pa.RecordBatch) -> Any:
        return pc.is_null(self.value.evaluate(batch))


@dataclass(frozen=True)
class Nan(Truth):
    """Whether a floating point value is NaN; NULL for NULL."""

    value: Value

    def _answer(self, batch: pa.RecordBatch) -> Any:
        return self.value.apply(batch, pc.is_nan)


@dataclass(frozen=True)
class Match(Truth):
    """A test of text: by prefix, suffix, part, or a regular expression over the whole of it.

    With ``ignore_case`` the value is put in lower case first; ``text`` is in lower case already.
    ``prefix`` is what every matching text starts with (empty if unknown), for pruning.
    """

    value: Value
    kind: OneOf["starts_with", "ends_with", "contains", "regex"]
    text: str
    prefix: str = ""
    ignore_case: bool = False

    def _matches(self, array: Any) -> Any:
        if self.ignore_case:
            array = pc.utf8_lower(array)
        match self.kind:
            case "starts_with":
                return pc.starts_with(array, self.text)
            case "ends_with":
                return pc.ends_with(array, self.text)
            case "contains":
                return pc.match_substring(array, self.text)
            case "regex":
                return pc.match_substring_regex(array, self.text)

    def _answer(self, batch: pa.RecordBatch) -> Any:
        return self.value.apply(batch, self._matches)


@dataclass(frozen=True)
class Filled(Truth):
    """The term, with ``answer`` where it is NULL."""

    term: Truth
    answer: bool

    def _answer(self, batch: pa.RecordBatch) -> Any:
        return pc.fill_null(self.term.evaluate(batch), self.answer)


@dataclass(frozen=True)
class All(Truth):
    """AND."""

    terms: tuple[Truth, ...]

    def _answer(self, batch: pa.RecordBatch) -> Any:
        return reduce(pc.and_kleene, (term.evaluate(batch) for term in self.terms))


@dataclass(frozen=True)
class AnyOf(Truth):
    """OR."""

    terms: tuple[Truth, ...]

    def _answer(self, batch: pa.RecordBatch) -> Any:
        return reduce(pc.or_kleene, (term.evaluate(batch) for term in self.terms))


@dataclass(frozen=True)
class Negation(Truth):
    """NOT."""

    term: Truth

    def _answer(self, batch: pa.RecordBatch) -> Any:
        return pc.invert(self.term.evaluate(batch))


@dataclass(frozen=True)
class ByArrow(Truth):
    """A pyarrow expression that Arrow itself evaluates; ``hints`` hold wherever it does, for pruning."""

    run: Callable[[pa.RecordBatch], Any]
    values: tuple[Value, ...]
    hints: tuple[Truth, ...] = field(default=())

    def _answer(self, batch: pa.RecordBatch) -> Any:
        return self.run(batch)


@dataclass(frozen=True)
class Answer(Value):
    """A condition taken as a boolean value, as in ``(a < b) = TRUE``."""

    truth: Truth
    dtype: pa.DataType = field(default_factory=pa.bool_)

    @cached_property
    def columns(self) -> frozenset[str]:  # type: ignore[override]
        """The columns of the condition."""
        return self.truth.columns

    def _compute(self, batch: pa.RecordBatch) -> Any:
        return self.truth.evaluate(batch)
