"""Searches handed to their scan in memory: a statement that runs at once holds a number in the place of its vector.

A vector that travels as a parameter costs DuckDB a cast to text and us the reading of that text, together more than
the search. A connection that is given the parameters reads them itself, keeps the request while the statement runs,
and lets DuckDB carry a number (see `token`). What is not plainly a vector, a number or a name stays DuckDB's to
convert or to refuse. Must not run SQL.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt

from lake_connectors.adapter.requests import NearestRequest
from lake_connectors.duckdb.asking import Asked
from lake_connectors.duckdb.conditions import Carried, read_condition
from lake_connectors.duckdb.recognition import keeps_floats
from lake_connectors.duckdb.showing import Shown, TableFollower

__all__ = ["HandedOver", "Recipe", "are_readable", "handed_over"]

Node = dict[str, Any]

_PREFIX = "#"
_numbers = count(1)
_open: weakref.WeakValueDictionary[str, HandedOver] = weakref.WeakValueDictionary()


class HandedOver:
    """Where a scan finds its request, by ``text``, as long as this object is kept."""

    __slots__ = ("__weakref__", "request", "text")

    def __init__(self) -> None:
        self.request: NearestRequest | None = None
        self.text = f"{_PREFIX}{next(_numbers)}"
        _open[self.text] = self


def handed_over(text: str) -> NearestRequest | None:
    """The request that was handed over under this text; None where there is none."""
    found = _open.get(text)
    return None if found is None else found.request


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class Recipe:
    """A statement whose request is handed over, and how that is made of the statement's parameters.

    Attributes
    ----------
    text, left
        What to run, and the names of the parameters that it still has.
    handed
        Where its scan finds the request.
    follower, shown
        The table, and its columns as the statement was written for.
    keeps
        Whether DuckDB's plan for it stays right as long as it has these columns.
    ordered
        Whether the search stands under an ``ORDER BY``.
    arguments
        Expression nodes: ``q``, and what else of ``k``, ``offset``, ``metric``, ``recall``, ``exact`` and
        ``vector_column`` the statement gives.
    condition
        What filters the rows.
    parameters
        Names of the parameters of the statement as it was written.
    alone
        Whether DuckDB filters nothing after the search.
    asked
        Where it does: keys the search may be told before.
    """

    text: str
    left: frozenset[str]
    handed: HandedOver
    follower: TableFollower
    shown: Shown
    keeps: bool
    ordered: bool
    arguments: Mapping[str, Node]
    condition: Carried | None
    parameters: frozenset[str]
    alone: bool
    asked: tuple[Asked, ...]

    def request(self, given: Mapping[str, object]) -> NearestRequest | None:
        """The request; None where the values are not what is expected and DuckDB should say so."""
        if given.keys() != self.parameters:
            return None
        values = {name: _value(node, given) for name, node in self.arguments.items() if name != "q"}
        vector, k = _vector(self.arguments["q"], given), _whole(values.get("k", 10))
        offset = _whole(values.get("offset", 0))
        recall, exact = values.get("recall", 0.95), values.get("exact", False)
        metric, column = values.get("metric"), values.get("vector_column")
        if vector is None or k is None or offset is None or (k < 1 and not self.ordered):
            return None
        if not isinstance(recall, int | float) or isinstance(recall, bool) or not isinstance(exact, bool):
            return None
        if not isinstance(metric, str | None) or not isinstance(column, str | None):
            return None
        return NearestRequest(
            vector=vector,
            k=k + offset,
            ordered=self.ordered,
            alone=self.alone,
            metric=metric,
            recall=recall,
            exact=exact,
            column=column,
            condition=None if self.condition is None else read_condition(self.condition.text(given)),
        )


def are_readable(arguments: Mapping[str, Node]) -> bool:
    """Whether the vector is a parameter, as it is or cast to floats, and all else parameters or constants."""
    vector = arguments["q"]
    if vector.get("class") == "CAST" and keeps_floats(vector.get("type_expr", {})):
        vector = vector["child"]
    others = (node.get("class") for name, node in arguments.items() if name != "q")
    return vector.get("class") == "PARAMETER" and {*others} <= {"PARAMETER", "CONSTANT"}


def _vector(node: Node, given: Mapping[str, object]) -> npt.NDArray[np.float32] | None:
    """The query vector, if it is one of finite numbers, and as long as the statement says."""
    length = None
    if node["class"] == "CAST":
        length = next((_value(size, {}) for size in node["type_expr"]["children"][1:]), None)
        node = node["child"]
    value = given[node["identifier"]]
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "fi" or value.ndim != 1:
            return None
    elif not isinstance(value, list | tuple) or not set(map(type, value)) <= {int, float}:
        return None
    try:
        with np.errstate(over="ignore"):  # what is too large becomes infinite
            vector = np.array(value, np.float32)
    except OverflowError:
        return None
    fits = length in (None, len(vector)) and len(vector) > 0
    return vector if fits and np.isfinite(vector).all() else None


def _value(node: Node, given: Mapping[str, object]) -> object:
    """The value of a parameter or a plain constant; None is no value that any argument takes."""
    if node.get("class") == "PARAMETER":
        return given[node["identifier"]]
    literal = node.get("literal", {}) if node.get("class") == "CONSTANT" else {}
    kind, text = literal.get("kind"), literal.get("text", "")
    if kind == "INTEGER":
        return int(text)
    if kind == "NUMERIC":
        return float(text)
    if kind == "BOOLEAN":
        return bool(text == "true")
    return text if kind == "STRING" else None


def _whole(value: object) -> int | None:
    """A whole number from 0 on that DuckDB holds in 64 bits."""
    return value if type(value) is int and 0 <= value < 1 << 62 else None
