"""Plans that DuckDB keeps: a search that is asked again and again with other vectors is planned once.

DuckDB plans each statement anew, which for a search takes about as long as the search. A statement without
parameters of its own can be prepared instead. Its plan is not made again when a setting, a function or a column
changes, so only what depends on none of these is kept (see :func:`is_keepable`), and only for the columns that the
table had.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict

import duckdb
from duckdb import DuckDBPyConnection

from lake_connectors.duckdb.handing import Node, Recipe
from lake_connectors.duckdb.recognition import nodes_in
from lake_format.schema import DISTANCE

__all__ = ["Plans", "is_keepable"]

_WORTHWHILE = 2
"""The run from which on a statement is prepared: many are run only once."""

_NAMES = tuple(f"lake_plan_{number}" for number in range(32))
_INDEPENDENT = frozenset({"COLUMN_REF", "CONSTANT", "STAR"})


def is_keepable(select: Node) -> bool:
    """Whether a SELECT of a search alone gives columns and constants, as they come or by a stated distance order."""
    items, modifiers = select["select_list"], select.get("modifiers", [])
    classes = {str(node["class"]) for node in nodes_in([items, modifiers]) if "class" in node}
    if not classes <= _INDEPENDENT or any(str(item.get("alias", "")).lower() == DISTANCE for item in items):
        return False
    return all(
        modifier["type"] == "LIMIT_MODIFIER"
        or (modifier["type"] == "ORDER_MODIFIER" and all(map(_is_by_distance, modifier["orders"])))
        for modifier in modifiers
    )


def _is_by_distance(key: Node) -> bool:
    """Whether rows are sorted by a search's distance, in a direction that no setting says."""
    names = key["expression"].get("column_names", [""])
    return names[-1].lower() == DISTANCE and key.get("type") in ("ASCENDING", "DESCENDING")


class Plans:
    """The plans kept for one connection.

    Parameters
    ----------
    con
        Plans are a connection's own: the one that runs the statements.
    """

    def __init__(self, con: DuckDBPyConnection) -> None:
        self._con = con
        self._runs: weakref.WeakKeyDictionary[Recipe, int] = weakref.WeakKeyDictionary()
        self._names: OrderedDict[Recipe, str] = OrderedDict()

    def run(self, recipe: Recipe) -> bool:
        """Run a statement by its kept plan; False where there is none, and it has to be run as it stands."""
        self._runs[recipe] = self._runs.get(recipe, 0) + 1
        if not recipe.keeps or self._runs[recipe] < _WORTHWHILE:
            return False
        recipe.follower.bind()
        if recipe.follower.shown is not recipe.shown:
            return False
        try:
            self._con.execute(f"EXECUTE {self._names.get(recipe) or self._prepared(recipe)}")
        except duckdb.BinderException:  # deallocated, or something it mentions is gone: DuckDB tells better
            self._names.pop(recipe, None)
            return False
        return True

    def _prepared(self, recipe: Recipe) -> str:
        """Prepare the statement under a name; where there are enough, in place of the one prepared first."""
        if len(self._names) >= len(_NAMES):
            self._names.popitem(last=False)
        name = next(name for name in _NAMES if name not in self._names.values())
        self._con.execute(f"PREPARE {name} AS {recipe.text}")
        self._names[recipe] = name
        return name

    def forget(self) -> None:
        """Give up all plans, and with them what they hold of tables."""
        while self._names:
            _, name = self._names.popitem()
            self._con.execute(f"DEALLOCATE {name}")
