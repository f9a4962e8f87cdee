"""Rows of a snapshot in distance order, as many as are pulled: the search behind every SQL way to ask for it.

Knows engines and snapshots only through their public interface, and nothing of DuckDB: other SQL engines need
the same stream. It must not decide what a predicate means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lake_engines.predicate.bind import bind
from lake_engines.predicate.bound import BoundPredicate
from lake_engines.predicate.tree import (
    And,
    Column,
    Comparison,
    Expression,
    IsNull,
    Literal,
    Operator,
    Rules,
)
from lake_format.engine import Engine, ScanRequest, SearchRequest
from lake_format.schema import DISTANCE, ROW_ID, ROW_ID_FIELD
from lake_format.snapshot import Snapshot

__all__ = ["CHUNK_ROWS", "Conditions", "NearestQuery", "OnDistance", "nearest_rows", "with_columns"]

CHUNK_ROWS = 2048
_GROWTH = 4
_MOST_GROWTH = 32
_MARGIN = 1.5
_LEAST_WIDENED = 64
_FLAT_SHARE = 8
"""From one row in eight on, comparing with every row costs less than the index would."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """Predicates that all must be TRUE, with the rules that give them their meaning."""

    terms: tuple[Expression, ...]
    rules: Rules

    def bound(self, schema: pa.Schema, *more: Expression) -> BoundPredicate | None:
        """The predicates checked against a table schema (``_row_id`` included); None where there are none."""
        terms = (*self.terms, *more)
        if not terms:
            return None
        whole = terms[0] if len(terms) == 1 else And(terms)
        return bind(whole, schema.append(ROW_ID_FIELD), rules=self.rules)

    def __str__(self) -> str:
        return " AND ".join(map(str, self.terms))


class OnDistance:
    """Conditions that read the distance, which is known once rows are found.

    Parameters
    ----------
    schema
        The columns that they read.
    """

    def __init__(self, terms: tuple[Expression, ...], schema: pa.Schema, rules: Rules) -> None:
        whole = terms[0] if len(terms) == 1 else And(terms)
        self._bound = bind(whole, schema, rules=rules) if terms else None
        self._farthest = _least(terms)

    def passing(self, found: pa.Table) -> pa.Table:
        """The rows that pass."""
        if self._bound is None:
            return found
        masks = [self._bound.evaluate(batch) for batch in found.to_batches()]
        return found.filter(pa.chunked_array(masks, pa.bool_()))

    def is_beyond(self, found: pa.Table) -> bool:
        """Whether all rows farther than these are too far."""
        if self._farthest is None or found.num_rows == 0:
            return False
        last = found.column(DISTANCE)[-1].as_py()
        return last is not None and last > self._farthest


def _least(terms: tuple[Expression, ...]) -> float | None:
    """The distance beyond which no row can pass."""
    bounds = [
        float(term.right.value.as_py())
        for term in terms
        if isinstance(term, Comparison)
        and term.operator in (Operator.LESS, Operator.LESS_EQUAL)
        and isinstance(term.right, Literal)
        and term.right.value.is_valid
    ]
    return min(bounds) if bounds and not np.isnan(bounds).any() else None


@dataclass(frozen=True, slots=True, kw_only=True)
class NearestQuery:
    """What to be near to, checked against a snapshot.

    Attributes
    ----------
    vector
        float32, shape ``(1, dimension)``, finite.
    first
        How many rows the first batch should have: what is expected to be enough.
    without_vector
        Whether rows whose vector is NULL come at the end, their distance NULL.
    """

    vector: npt.NDArray[np.float32]
    column: str
    metric: str | None
    first: int
    recall: float
    exact: bool
    without_vector: bool = False


def nearest_rows(
    engine: Engine,
    snapshot: Snapshot,
    query: NearestQuery,
    columns: tuple[str, ...],
    conditions: Conditions,
    useful: Callable[[], int],
) -> Iterator[pa.Table]:
    """Matching rows, nearest first, in batches that grow while more are pulled.

    The first batch is one search; each further one searches farther and leaves out what was handed out before.
    How much farther follows from the share of rows that were of use so far; at least four times as far, so that
    all searches together cost about a third more than the last alone.

    Parameters
    ----------
    useful
        Tells how many of the rows handed out so far were of use.

    Yields
    ------
    pyarrow.Table
        ``columns``, then ``_row_id`` and ``_distance``; never more than ``CHUNK_ROWS`` rows but in the first.
    """
    where = conditions.bound(snapshot.schema)
    wanted, rows = max(query.first, 1), snapshot.version.row_count
    found = _search(engine, snapshot, query, wanted, (*columns, ROW_ID, DISTANCE), where)
    yield found
    seen = found.column(ROW_ID).to_numpy()
    while found.num_rows == wanted and wanted < rows:
        wanted = min(_farther(wanted, query.first, useful()), rows)
        at_once = wanted <= CHUNK_ROWS
        found = _search(
            engine, snapshot, query, wanted, (*(columns if at_once else ()), ROW_ID, DISTANCE), where
        )
        fresh = found.filter(pa.array(~np.isin(found.column(ROW_ID).to_numpy(), seen)))
        seen = np.concatenate([seen, fresh.column(ROW_ID).to_numpy()])
        if at_once:
            yield fresh
        else:
            yield from with_columns(engine, snapshot, fresh, columns)
    if query.without_vector:
        yield from _without_vector(engine, snapshot, query, columns, conditions)


def _farther(reached: int, first: int, useful: int) -> int:
    """How many rows to search for next, where ``useful`` of ``reached`` were and ``first`` are needed."""
    likely = int(_MARGIN * reached * first / max(useful, 1))
    return max(reached * _GROWTH, _LEAST_WIDENED, min(likely, reached * _MOST_GROWTH))


def _search(
    engine: Engine,
    snapshot: Snapshot,
    query: NearestQuery,
    k: int,
    select: tuple[str, ...],
    where: BoundPredicate | None,
) -> pa.Table:
    request = SearchRequest(
        queries=query.vector,
        k=k,
        column=query.column,
        where=where,
        select=select,
        recall=query.recall,
        exact=query.exact or k * _FLAT_SHARE >= snapshot.version.row_count,
        metric=query.metric,
    )
    return engine.search(snapshot, request).table


def with_columns(
    engine: Engine, snapshot: Snapshot, found: pa.Table, columns: tuple[str, ...]
) -> Iterator[pa.Table]:
    """Rows of which the id and the distance are known, with columns of the table before them."""
    for start in range(0, found.num_rows, CHUNK_ROWS):
        part = found.slice(start, CHUNK_ROWS)
        if columns:
            taken = engine.take(snapshot, part.column(ROW_ID).to_numpy().astype(np.uint64), columns)
            for name in (ROW_ID, DISTANCE):
                taken = taken.append_column(part.schema.field(name), part.column(name))
            part = taken
        yield part


def _without_vector(
    engine: Engine, snapshot: Snapshot, query: NearestQuery, columns: tuple[str, ...], conditions: Conditions
) -> Iterator[pa.Table]:
    where = conditions.bound(snapshot.schema, IsNull(Column((query.column,))))
    request = ScanRequest(columns=(*columns, ROW_ID), where=where, batch_rows=CHUNK_ROWS)
    for batch in engine.scan(snapshot, request):
        table = pa.table(batch)
        for start in range(0, table.num_rows, CHUNK_ROWS):
            part = table.slice(start, CHUNK_ROWS)
            yield part.append_column(DISTANCE, pa.nulls(part.num_rows, pa.float32()))
