"""The text in which a nearest-neighbour request travels through DuckDB: a predicate on a hidden column.

A pushed predicate is the one thing DuckDB hands to a scan, and equality with text the one kind that survives
parameters and constant folding. :func:`request_sql` writes the text, :func:`read_request` reads it back; of a request
that was handed over in memory (`handing`) only a number travels. The column is compared by its bytes
(``COLLATE C``): under another collation, a session's default say, DuckDB pushes nothing.
"""

from __future__ import annotations

import json
import re

import numpy as np
import numpy.typing as npt

from lake_connectors.adapter.requests import NearestRequest
from lake_connectors.duckdb.conditions import read_condition
from lake_connectors.duckdb.handing import handed_over
from lake_format.errors import InvalidInputError

__all__ = ["read_request", "request_sql"]

_NULL = "NULL"
_FORM = re.compile(
    r"\((knn|order)(_alone)?, ([^,]*), ([^,]*), ([^,]*), ([^,]*), ([^,]*), (NULL|'\[.*?\]'), (.*)\)",
    re.DOTALL,
)


def request_sql(
    vector: str,
    k: str,
    *,
    ordered: bool = False,
    alone: bool = False,
    metric: str = "NULL",
    recall: str = "NULL",
    exact: str = "NULL",
    condition: str = "NULL",
    column: str = "NULL",
) -> str:
    """The SQL expression for the text of a request; all arguments are SQL expressions.

    One row cast to text is the cheapest to plan of the forms tried: each ``||`` costs DuckDB's planner some 20 µs.
    The vector is cast to text before: DuckDB 2.0 crashes where the row of a statement it prepares holds a list.
    """
    mode = ("order" if ordered else "knn") + ("_alone" if alone else "")
    settings = f"'{mode}', {k}, {metric}, {recall}, {exact}, {condition}"
    return f"row({settings}, {vector}::FLOAT[]::VARCHAR, {column})::VARCHAR"


def read_request(text: str) -> NearestRequest:
    """Read the text of a request.

    Raises
    ------
    InvalidInputError
        A vector that is NULL or not finite, a k below 1, an argument that is no number or boolean, a condition
        that cannot be read.
    """
    if (found := handed_over(text)) is not None:
        return found
    parts = _FORM.fullmatch(text)
    if parts is None:
        raise InvalidInputError(
            f"the hidden column _knn was compared with {text[:60]!r}", fix="use knn() instead"
        )
    mode, alone, k, metric, recall, exact, condition, vector, column = parts.groups()
    ordered = mode == "order"
    return NearestRequest(
        vector=_vector(_text(vector)),
        k=_k(k, ordered=ordered),
        ordered=ordered,
        alone=alone is not None,
        metric=_text(metric),
        recall=0.95 if recall == _NULL else _number("recall", recall),
        exact=exact != _NULL and _truth("exact", exact),
        column=_text(column),
        condition=None if condition == _NULL else read_condition(_text(condition) or ""),
    )


def _text(text: str) -> str | None:
    """Text as DuckDB writes it in a row: quoted where it must be."""
    if text == _NULL:
        return None
    if len(text) > 1 and text[0] == text[-1] == "'":
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return text


def _vector(text: str | None) -> npt.NDArray[np.float32]:
    try:
        return np.array(json.loads(text or ""), dtype=np.float32, ndmin=1)
    except (ValueError, TypeError) as error:
        what = "is NULL" if text is None else "holds NULL, NaN or infinite values"
        raise InvalidInputError(f"the query vector {what}", fix="search with finite numbers only") from error


def _k(text: str, *, ordered: bool) -> int | None:
    if ordered and text == "NULL":
        return None
    if not text.isdigit() or (int(text) < 1 and not ordered):
        raise InvalidInputError(f"k must be a positive whole number, not {text}")
    return int(text)


def _truth(name: str, text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise InvalidInputError(f"{name} must be true or false, not {text!r}")
    return text.lower() == "true"


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InvalidInputError(f"{name} must be a number, not {text!r}") from error
