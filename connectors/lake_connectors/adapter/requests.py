"""What an engine asks of a table: rows that match, or the nearest of them. Values without behaviour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lake_engines.predicate.tree import Column, Expression, In, Literal, Rules, walk
from lake_format.schema import DISTANCE

__all__ = ["MOST_KEYS", "NearestRequest", "ReadRequest", "among", "mentions", "mixes_distance"]

MOST_KEYS = 1024
"""Of so many keys of another table a search is told; of more it takes no longer to find rows that pass without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NearestRequest:
    """Nearest neighbours as SQL asked for them.

    Attributes
    ----------
    vector
        float32, shape ``(dimension,)``; not yet checked against a column.
    k
        Rows wanted; None is all of them (``LIMIT NULL``).
    ordered
        Whether the rows are to be those of ``ORDER BY distance``, which has rows without a vector at its end.
    alone
        Whether the engine filters nothing after the search, so that the first k rows are the answer.
    condition
        A filter that travelled with the request instead of being pushed.
    """

    vector: npt.NDArray[np.float32]
    k: int | None
    ordered: bool
    alone: bool = False
    metric: str | None
    recall: float
    exact: bool
    column: str | None
    condition: Expression | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRequest:
    """Rows wanted from a table.

    Attributes
    ----------
    columns
        Names in order; may be empty, then only the number of rows counts.
    predicates
        What the connector accepted, all to be TRUE.
    rest
        A pyarrow expression that rows must pass too, for what ``predicates`` could not say of it.
    """

    columns: tuple[str, ...]
    predicates: tuple[Expression, ...]
    rules: Rules
    rest: pc.Expression | None = None


def among(column: Column, keys: Sequence[pa.Scalar]) -> Expression:
    """The condition that a column is one of the keys; where there are none, one that lets no file be read."""
    return In(column, tuple(map(Literal, keys))) if keys else Literal(pa.scalar(False))


def mentions(predicate: Expression, column: str) -> bool:
    """Whether a predicate reads a column."""
    return any(isinstance(node, Column) and node.path[0] == column for node in walk(predicate))


def mixes_distance(predicate: Expression) -> bool:
    """Whether a predicate reads the distance and something else: the two are known at different times."""
    names = {node.path[0] for node in walk(predicate) if isinstance(node, Column)}
    return DISTANCE in names and len(names) > 1
