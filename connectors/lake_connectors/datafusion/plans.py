"""Finding searches in an optimised plan, and settling how many rows each has to hand out.

A search is ``ORDER BY distance(vector column, constant) LIMIT k`` over one table, nearest first, with nothing but
filters, projections and aliases between; everything else is left to DataFusion. Where a filter stays with DataFusion
the nearest k rows are not enough: the part of the plan below the search is run for growing numbers of candidates
until k of them pass, and then for the least number of which k pass. So no plan can get fewer rows than there are,
and none gets more than k, whatever stands above.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lake_connectors.adapter.requests import NearestRequest
from lake_connectors.datafusion.datasets import NearestDataset

__all__ = ["DISTANCES", "Ordered", "Residual", "constant", "ordered_scans", "residual_scans", "settle"]

DISTANCES = {
    "array_distance": ("l2", True),
    "list_distance": ("l2", True),
    "cosine_distance": ("cosine", True),
    "inner_product": ("ip", False),
    "dot_product": ("ip", False),
    "lake_l2_distance": ("l2", True),
    "lake_cosine_distance": ("cosine", True),
    "lake_negative_inner_product": ("ip", True),
}
"""Functions by which rows may be ordered: the metric, and whether the nearest rows come first in ascending order."""

_BETWEEN = ("Projection", "SubqueryAlias", "Filter")
_GROWTH = 4
_LEAST = 64


@dataclass(frozen=True, slots=True)
class Residual:
    """A table under filters that DataFusion evaluates: the topmost of them, and the scan below."""

    name: str
    plan: Any


@dataclass(frozen=True, slots=True)
class Ordered:
    """An ORDER BY distance LIMIT over a table.

    Attributes
    ----------
    name
        The table, as the plan names it.
    column, metric, vector
        What is ordered by.
    rows
        How many rows are wanted.
    below
        The plan below the sort.
    residual
        The topmost filter below it, where there is one.
    """

    name: tuple[str, ...]
    column: str
    metric: str
    vector: Any
    rows: int
    below: Any
    residual: Any | None

    def request(self) -> NearestRequest:
        """The request to the table."""
        return NearestRequest(
            vector=np.asarray(self.vector, np.float32).ravel(),
            k=self.rows,
            ordered=True,
            metric=self.metric,
            recall=0.95,
            exact=False,
            column=self.column,
        )


def constant(expression: Any) -> Any:
    """The value of a constant expression; ValueError for any other."""
    kind = expression.variant_name()
    if kind == "Literal":
        value = expression.python_value()
        return value.as_py() if hasattr(value, "as_py") else value
    if kind == "ScalarFunction" and expression.rex_call_operator() in ("make_array", "arrow_cast"):
        return [constant(one) for one in expression.rex_call_operands()]
    if kind == "Cast":
        return constant(expression.rex_call_operands()[0])
    if kind == "Negative":
        return -constant(expression.to_variant().expr())
    raise ValueError(f"{expression} is no constant")


def ordered_scans(plan: Any) -> Iterator[Ordered]:
    """All searches in a plan."""
    found = _ordered(plan)
    if found is not None:
        yield found
    for child in plan.inputs():
        yield from ordered_scans(child)


def _ordered(plan: Any) -> Ordered | None:
    sort = plan.to_variant()
    if type(sort).__name__ != "Sort" or sort.get_fetch_val() is None:
        return None
    below = plan.inputs()[0]
    chain = list(_chain(below))
    if type(chain[-1].to_variant()).__name__ != "TableScan":
        return None
    first = sort.sort_exprs()[0]
    key = _resolved(first.expr(), chain)
    if key is None or key.variant_name() != "ScalarFunction":
        return None
    metric, nearest_ascending = DISTANCES.get(key.rex_call_operator(), (None, True))
    if (
        metric is None
        or first.ascending() != nearest_ascending
        or (first.ascending() and first.nulls_first())
    ):
        return None
    sides = _sides(key)
    scan = chain[-1].to_variant()
    if sides is None:
        return None
    residual = next((node for node in chain if type(node.to_variant()).__name__ == "Filter"), None)
    return Ordered(tuple(scan.fqn()), sides[0], metric, sides[1], sort.get_fetch_val(), below, residual)


def _chain(plan: Any) -> Iterator[Any]:
    """The plan and what lies straight below it, as long as it neither adds nor orders rows."""
    yield plan
    while type(plan.to_variant()).__name__ in _BETWEEN:
        plan = plan.inputs()[0]
        yield plan


def _resolved(expression: Any, chain: list[Any]) -> Any | None:
    """The expression behind the names that projections below give it; without aliases."""
    expression = _unaliased(expression)
    for node in chain:
        variant = node.to_variant()
        if expression.variant_name() == "Column" and type(variant).__name__ == "Projection":
            name = expression.to_variant().name()
            hits = [one for one in variant.projections() if _output_name(one) == name]
            if len(hits) == 1:
                expression = _unaliased(hits[0])
    return expression


def _unaliased(expression: Any) -> Any:
    while expression.variant_name() == "Alias":
        expression = expression.to_variant().expr()
    return expression


def _output_name(expression: Any) -> str:
    variant = expression.to_variant()
    if expression.variant_name() == "Alias":
        return str(variant.alias())
    return str(variant.name()) if expression.variant_name() == "Column" else str(expression.schema_name())


def _sides(key: Any) -> tuple[str, Any] | None:
    """The column and the constant, in whichever order they stand; casts of the column are looked through."""
    operands = key.rex_call_operands()
    if len(operands) != 2:
        return None
    for side, other in (operands, reversed(operands)):
        column = _uncast(side)
        if column.variant_name() != "Column":
            continue
        try:
            value = constant(other)
        except ValueError:
            continue
        if isinstance(value, list) and value and all(isinstance(one, int | float) for one in value):
            return str(column.to_variant().name()), value
    return None


def _uncast(expression: Any) -> Any:
    while expression.variant_name() == "Cast":
        expression = expression.rex_call_operands()[0]
    return expression


def residual_scans(plan: Any, above: Any | None = None) -> Iterator[Residual]:
    """All scans under filters that DataFusion evaluates itself."""
    kind = type(plan.to_variant()).__name__
    if kind == "TableScan":
        if above is not None:
            yield Residual(str(plan.to_variant().table_name()), above)
        return
    topmost = (
        (above if above is not None else plan if kind == "Filter" else None) if kind in _BETWEEN else None
    )
    for child in plan.inputs():
        yield from residual_scans(child, topmost)


def settle(dataset: NearestDataset, wanted: int, passing: Callable[[], int]) -> None:
    """Set the least number of candidates of which ``wanted`` pass, or all there are.

    Parameters
    ----------
    passing
        Runs the plan below the search and tells how many rows came through.
    """
    dataset.candidates, low = max(wanted, 1), 0
    rows = dataset.snapshot.version.row_count
    while (found := passing()) < wanted and not dataset.exhausted and dataset.candidates < rows:
        low = dataset.candidates
        likely = int(1.5 * low * wanted / max(found, 1))
        dataset.candidates = min(max(low * _GROWTH, _LEAST, min(likely, low * 32)), rows)
    if found <= wanted:
        return
    high = dataset.candidates  # enough pass of these, and too few of the first `low`
    while high - low > 1:
        dataset.candidates = (low + high) // 2
        low, high = (low, dataset.candidates) if passing() >= wanted else (dataset.candidates, high)
    dataset.candidates = high
