"""Reading an optimised plan: which tables it scans, through which filters, and which scans are searches.

A search is ``ORDER BY distance(vector column, constant) LIMIT k`` over one table, nearest first, with nothing but
filters, projections and aliases between; everything else is left to DataFusion. Must not run anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lake_connectors.adapter.requests import NearestRequest

__all__ = ["DISTANCES", "Ordered", "Scan", "constant", "kind_of", "ordered", "resolved", "scans"]

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
_CHOOSING = ("LeftSemi", "LeftAnti", "LeftMark")
"""Joins that let rows on their left through, each once: what DataFusion makes of IN (SELECT …) and EXISTS."""

_NUMBERED = re.compile(r"__(?:correlated|scalar)_sq_\d+")


@dataclass(frozen=True, slots=True)
class Scan:
    """A table read somewhere in a plan.

    Attributes
    ----------
    plan
        The scan itself.
    chain
        What lies straight above it and neither adds nor orders rows, the topmost first.
    kinds
        What each of the chain does.
    sort
        What orders the rows of the chain and takes the first of them, where there is such a thing.
    """

    plan: Any
    chain: tuple[Any, ...]
    kinds: tuple[str, ...]
    sort: Any | None

    @property
    def name(self) -> str:
        """The table, as the statement names it."""
        return str(self.plan.to_variant().table_name())

    @property
    def is_filtered(self) -> bool:
        """Whether DataFusion drops some of its rows itself."""
        return "Filter" in self.kinds or "Join" in self.kinds

    @property
    def filters(self) -> tuple[tuple[Any, tuple[Any, ...]], ...]:
        """The filters that DataFusion evaluates itself, from the lowest, each with what lies below it.

        Not those above a join, which may read what the join adds.
        """
        lowest = max((at for at, kind in enumerate(self.kinds) if kind == "Join"), default=-1)
        return self._of_kind("Filter", below=lowest)

    @property
    def joins(self) -> tuple[tuple[Any, tuple[Any, ...]], ...]:
        """The joins that let some of its rows through, from the lowest, each with what lies below it on the left."""
        return self._of_kind("Join")

    @property
    def conditions(self) -> tuple[str, ...]:
        """The text of everything that its rows have to pass."""
        pushed = (str(one) for one in self.plan.to_variant().filters())
        own = (str(node.to_variant().predicate()) for node, _ in self._of_kind("Filter"))
        others = (f"{node.display()} {node.inputs()[1].display_indent()}" for node, _ in self.joins)
        return tuple(_NUMBERED.sub("", text) for text in (*pushed, *own, *others))

    def _of_kind(self, kind: str, below: int = -1) -> tuple[tuple[Any, tuple[Any, ...]], ...]:
        places = [at for at in range(below + 1, len(self.chain)) if self.kinds[at] == kind]
        return tuple((self.chain[at], (*self.chain[at + 1 :], self.plan)) for at in reversed(places))


@dataclass(frozen=True, slots=True)
class Ordered:
    """What an ORDER BY distance LIMIT asks for: a column, a metric, a vector, and how many rows."""

    column: str
    metric: str
    vector: Any
    rows: int

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


def kind_of(plan: Any) -> str:
    """What a node of a plan does, such as ``Filter``."""
    return type(plan.to_variant()).__name__


def scans(
    plan: Any, chain: tuple[Any, ...] = (), kinds: tuple[str, ...] = (), sort: Any | None = None
) -> Iterator[Scan]:
    """All tables that a plan reads; ``chain``, its ``kinds`` and ``sort`` are what lies straight above it."""
    kind = kind_of(plan)
    if kind == "TableScan":
        yield Scan(plan, chain, kinds, sort)
        return
    limited = kind == "Sort" and plan.to_variant().get_fetch_val() is not None
    for place, child in enumerate(plan.inputs()):
        if kind in _BETWEEN or (kind == "Join" and place == 0 and _chooses(plan)):
            yield from scans(child, (*chain, plan), (*kinds, kind), sort)
        else:
            yield from scans(child, sort=plan if limited else None)


def _chooses(plan: Any) -> bool:
    """Whether a join lets some of the rows on its left through, each once."""
    return str(plan.to_variant().join_type()) in _CHOOSING


def ordered(scan: Scan) -> Ordered | None:
    """The search that a scan is; None where it is none."""
    if scan.sort is None or scan.joins:
        return None
    sort = scan.sort.to_variant()
    first = sort.sort_exprs()[0]
    key, below = resolved(first.expr(), scan.chain)
    if key.variant_name() != "ScalarFunction":
        return None
    metric, nearest_ascending = DISTANCES.get(key.rex_call_operator(), (None, True))
    if (
        metric is None
        or first.ascending() != nearest_ascending
        or (first.ascending() and first.nulls_first())
    ):
        return None
    sides = _sides(key, below)
    return None if sides is None else Ordered(sides[0], metric, sides[1], sort.get_fetch_val())


def resolved(expression: Any, below: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """The expression behind the names that projections below give it, and what is below that; without aliases."""
    expression = _unaliased(expression)
    while below and expression.variant_name() == "Column":
        node, *rest = below
        below = tuple(rest)
        if kind_of(node) == "Projection":
            name = expression.to_variant().name()
            hits = [one for one in node.to_variant().projections() if _output_name(one) == name]
            if len(hits) == 1:
                expression = _unaliased(hits[0])
    return expression, below


def _unaliased(expression: Any) -> Any:
    while expression.variant_name() == "Alias":
        expression = expression.to_variant().expr()
    return expression


def _output_name(expression: Any) -> str:
    variant = expression.to_variant()
    if expression.variant_name() == "Alias":
        return str(variant.alias())
    return str(variant.name()) if expression.variant_name() == "Column" else str(expression.schema_name())


def _sides(key: Any, below: tuple[Any, ...]) -> tuple[str, Any] | None:
    """The column and the constant, in whichever order they stand; casts of the column are looked through."""
    operands = key.rex_call_operands()
    if len(operands) != 2:
        return None
    for side, other in (operands, reversed(operands)):
        column, _ = _uncast(side, below)
        if column.variant_name() != "Column":
            continue
        try:
            value = constant(other)
        except ValueError:
            continue
        if isinstance(value, list) and value and all(isinstance(one, int | float) for one in value):
            return str(column.to_variant().name()), value
    return None


def _uncast(expression: Any, below: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    expression, below = resolved(expression, below)
    while expression.variant_name() == "Cast":
        expression, below = resolved(expression.rex_call_operands()[0], below)
    return expression, below
