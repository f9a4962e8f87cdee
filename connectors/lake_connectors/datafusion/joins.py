"""What the joins above a search say of its rows: which keys they let through, where these are few.

DataFusion makes a join of ``id IN (SELECT …)``. Told of the keys, the search finds rows that pass at once, instead of
handing out ever more of which few do. The join stays where it is and decides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
from datafusion import DataFrame
from datafusion.expr import Expr

from lake_connectors.adapter.requests import MOST_KEYS, among
from lake_connectors.datafusion.conditions import column_of
from lake_connectors.datafusion.plans import Scan
from lake_engines.predicate.tree import Expression

__all__ = ["keys_let_through"]

_KEY = "key"


def keys_let_through(
    scan: Scan, schema: pa.Schema, frame_of: Callable[[Any], DataFrame]
) -> tuple[Expression, ...]:
    """Conditions that every row passes which the joins let through.

    Parameters
    ----------
    schema
        The table's columns, and those that a search adds.
    frame_of
        A frame over a plan, to run the other side of a join.
    """
    terms: list[Expression] = []
    for join, below in scan.joins:
        variant = join.to_variant()
        if str(variant.join_type()) != "LeftSemi":
            continue
        for left, right in variant.on():
            column = column_of(left, below, schema)
            keys = None if column is None else _keys(frame_of(join.inputs()[1]), right)
            if column is not None and keys is not None:
                terms.append(among(column, keys))
    return tuple(terms)


def _keys(frame: DataFrame, key: Any) -> list[pa.Scalar] | None:
    """The keys of one side of a join; None where they are too many."""
    keys = frame.select(Expr(key).alias(_KEY)).distinct().limit(MOST_KEYS + 1).to_arrow_table().column(_KEY)
    return None if len(keys) > MOST_KEYS else list(keys.drop_null())
