"""A predicate bound to a schema: what the scan asks — which columns, which fragments, which rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lake_engines.predicate.prune import StatisticsView, numbers, outcomes
from lake_engines.predicate.tree import Expression, Rules
from lake_engines.predicate.truth import All, Compare, Fixed, Match, Member, Negation, Null, Truth, WhenValid
from lake_engines.predicate.values import FieldValue

__all__ = ["BoundPredicate", "SimpleConjunct"]


@dataclass(frozen=True, slots=True)
class SimpleConjunct:
    """A conjunct that file readers understand: one field compared with constants of its own type.

    ``operator`` is one of ``= <> < <= > >=`` (one value), ``in`` (several), ``is null`` and ``is not null``
    (none), ``starts with`` (one string). Floating point fields never appear: readers disagree about NaN and
    -0.0. Every row that passes the predicate passes the conjunct; as part of a conjunction it is exact.
    """

    path: tuple[str, ...]
    field_id: int | None
    operator: str
    values: tuple[pa.Scalar, ...]


@dataclass(frozen=True)
class BoundPredicate:
    """A filter whose every constant has been fitted to its column; evaluating it cannot fail.

    Made by :func:`lake_engines.predicate.bind`. ``columns`` are the top-level columns it reads.
    """

    condition: Truth
    expression: Expression
    rules: Rules
    parts: tuple[BoundPredicate, ...] = ()

    @property
    def columns(self) -> frozenset[str]:
        """Top-level columns that batches must have."""
        return self.condition.columns

    @property
    def always(self) -> bool:
        """Whether every row passes, whatever its values."""
        return isinstance(self.condition, Fixed) and self.condition.answer is True

    @property
    def never(self) -> bool:
        """Whether no row passes, whatever its values."""
        return isinstance(self.condition, Fixed) and self.condition.answer is not True

    @property
    def conjuncts(self) -> tuple[BoundPredicate, ...]:
        """The parts that must all be TRUE: evaluated one after another they say what the whole says."""
        return self.parts or (self,)

    def __str__(self) -> str:
        return str(self.expression)

    def evaluate(self, batch: pa.RecordBatch) -> pa.BooleanArray:
        """Tell for each row whether the predicate is TRUE (neither FALSE nor NULL).

        Parameters
        ----------
        batch
            Rows with at least :attr:`columns`; types may be encoded differently from the schema's.

        Returns
        -------
        pyarrow.BooleanArray
            As many answers as rows, without NULLs: ready for ``batch.filter``.
        """
        passed: pa.BooleanArray | None = None
        for term in _conjuncts(self.condition):
            answer = _rows(term.evaluate(batch), batch.num_rows)
            passed = answer if passed is None else pc.and_(passed, answer)
            if not passed.true_count:
                break
        return passed if passed is not None else _rows(pa.scalar(True), batch.num_rows)

    def mask(self, batch: pa.RecordBatch) -> npt.NDArray[np.bool_]:
        """Return :meth:`evaluate` as a NumPy mask."""
        return np.asarray(self.evaluate(batch).to_numpy(zero_copy_only=False), dtype=np.bool_)

    def prune(self, view: StatisticsView) -> npt.NDArray[np.bool_]:
        """Tell for each fragment whether it may hold a passing row; ``False`` is certain."""
        return outcomes(self.condition, view).true & (numbers(view.row_count, 1) > 0)

    def covers(self, view: StatisticsView) -> npt.NDArray[np.bool_]:
        """Tell for each fragment whether all its rows certainly pass, so that it need not be read."""
        found = outcomes(self.condition, view)
        return ~(found.false | found.null)

    def simple_conjuncts(self) -> tuple[tuple[SimpleConjunct, ...], bool]:
        """Return what a file reader can be given, and whether that is the whole predicate."""
        found = [simple for term in _conjuncts(self.condition) for simple in _simple(term)]
        terms = sum(1 for _ in _conjuncts(self.condition))
        return tuple(found), len(found) == terms


def _conjuncts(condition: Truth) -> Iterator[Truth]:
    if isinstance(condition, All):
        for term in condition.terms:
            yield from _conjuncts(term)
    else:
        yield condition


def _rows(answer: pa.Scalar | pa.Array, count: int) -> pa.BooleanArray:
    if isinstance(answer, pa.Scalar):
        return pa.repeat(pa.scalar(answer.as_py() is True), count)
    return answer.fill_null(False) if answer.null_count else answer


def _simple(condition: Truth) -> Iterator[SimpleConjunct]:
    match condition:
        case Compare(FieldValue() as field, operator, constant) if _pushable(field):
            yield SimpleConjunct(field.path, field.field_id, operator.value, (constant,))
        case Member(FieldValue() as field, options) if _pushable(field):
            yield SimpleConjunct(field.path, field.field_id, "in", tuple(options))
        case Null(FieldValue() as field):
            yield SimpleConjunct(field.path, field.field_id, "is null", ())
        case Negation(Null(FieldValue() as field)) | WhenValid(FieldValue() as field, True):
            yield SimpleConjunct(field.path, field.field_id, "is not null", ())
        case Match(FieldValue() as field, "starts_with", text) if not condition.ignore_case:
            yield SimpleConjunct(field.path, field.field_id, "starts with", (pa.scalar(text),))


def _pushable(field: FieldValue) -> bool:
    return not pa.types.is_floating(field.dtype)
