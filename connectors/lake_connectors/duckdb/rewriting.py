"""SQL text in, SQL text out: a recognised ``ORDER BY distance LIMIT k`` gets the neighbours in its table's place.

Statements are parsed and written by DuckDB itself, and both outcomes are remembered per text. What cannot be
parsed alone (DDL, several kinds of statement at once) is split or left as it is: leaving a statement alone is
always correct, only slower.
"""

from __future__ import annotations

import copy
import json
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import pyarrow as pa
from duckdb import DuckDBPyConnection
from duckdb import Error as DuckDBError

from lake_connectors.duckdb.asking import askable
from lake_connectors.duckdb.attaching import Attachments
from lake_connectors.duckdb.conditions import Carried, carry, given_by_name, kinds_of
from lake_connectors.duckdb.folders import Resolver
from lake_connectors.duckdb.handing import HandedOver, Recipe, are_readable
from lake_connectors.duckdb.macros import alone_subquery, counted_subquery
from lake_connectors.duckdb.mentions import find_mentions, may_travel
from lake_connectors.duckdb.names import identifier, text_literal
from lake_connectors.duckdb.plans import Plans, is_keepable
from lake_connectors.duckdb.recognition import (
    DISTANCE_FUNCTIONS,
    Found,
    FoundCall,
    KnownTable,
    cte_names,
    find_call,
    find_counted_calls,
    find_searches,
    nodes_in,
    parameters_in,
)
from lake_connectors.duckdb.showing import TableFollower
from lake_connectors.duckdb.token import request_sql
from lake_format.schema import DISTANCE, DISTANCE_FIELD, ROW_ID, ROW_ID_FIELD, is_vector

__all__ = ["Rewriter"]

_OPTIONS = "skip_default := true, skip_empty := true, skip_null := true"
_REMEMBERED = 512
_LONGEST = 1 << 20
_NAME = r'(?:"(?:[^"]|"")+"|\w+)(?:\s*\.\s*(?:"(?:[^"]|"")+"|\w+))*'
_PREFIX = re.compile(
    rf"""\s*(?:EXPLAIN(?:\s+ANALYZE)?
    |PREPARE\s+{_NAME}\s+AS
    |CREATE\s+(?:OR\s+REPLACE\s+)?(?:TEMP\s+|TEMPORARY\s+)?TABLE\s+(?:IF\s+NOT\s+EXISTS\s+)?{_NAME}\s+AS
    |INSERT\s+INTO\s+{_NAME}(?:\s*\([^()]*\))?
    )\s+(?=SELECT\b|WITH\b|FROM\b)""",
    re.IGNORECASE | re.VERBOSE,
)
_Key: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]
"""A text and the kinds of its parameters."""

_FOUND_FIELDS = {ROW_ID: ROW_ID_FIELD, DISTANCE: DISTANCE_FIELD}
"""Columns of knn() that the table has not."""

_OPTIONAL = ("metric", "recall", "exact", "vector_column")
"""Parameters of knn() that are NULL where they are not given."""


@dataclass(frozen=True, slots=True)
class _Rewritten:
    """The outcome for one text.

    Attributes
    ----------
    text
        The text to run.
    orders, default_order
        Whether it counts on DuckDB to put NULL last, and on its default order.
    compares_text
        Whether it counts on DuckDB to compare text by code points.
    recipe
        How the request is made where it can be handed over in memory.
    """

    text: str
    orders: bool = False
    default_order: bool = False
    compares_text: bool = False
    recipe: Recipe | None = None


class Rewriter:
    """Rewrites statements for one connection.

    Parameters
    ----------
    parser
        A cursor of its own, so that parsing never disturbs a result being fetched.
    resolver
        Attaches the versions and tables of folders that statements mention.
    plans
        Those of the connection, given up together with the texts.
    """

    def __init__(
        self, parser: DuckDBPyConnection, state: Attachments, resolver: Resolver, plans: Plans
    ) -> None:
        self._parser = parser
        self._plans = plans
        self._resolver = resolver
        self._state = state
        self._known: OrderedDict[_Key, _Rewritten | None] = OrderedDict()
        self._fixed: OrderedDict[str, str] = OrderedDict()
        self._templates: dict[tuple[str, ...], Any] = {}
        self._layout: object = None
        self._held: object = None
        self._tables: dict[str, KnownTable] = {}

    def __call__(self, text: str, parameters: object = None) -> str:
        """The text to run in place of ``text``; ``parameters`` are those it will be run with, where known."""
        resolved, found = self._found(text, parameters)
        return found.text if found else resolved

    def at_once(self, text: str, parameters: object) -> tuple[str, object, Recipe | None]:
        """The same for a statement that is run now: text, the parameters left to it, the recipe it is run by."""
        resolved, found = self._found(text, parameters)
        if found is None or found.recipe is None:
            return (found.text if found else resolved), parameters, None
        recipe, given = found.recipe, given_by_name(parameters)
        recipe.handed.request = recipe.request(given)
        if recipe.handed.request is None:
            return found.text, parameters, None
        return recipe.text, {name: given[name] for name in recipe.left} or None, recipe

    def _found(self, text: str, parameters: object) -> tuple[str, _Rewritten | None]:
        """The text with its tables attached, and what to run in its place; None is the text itself."""
        if len(text) > _LONGEST:
            return text, None
        if self._resolver.folders or may_travel(text):
            text = self._resolved(text)
        tables = self._attached()
        if not tables:
            return text, None
        key = (text, kinds_of(parameters))
        if key not in self._known:
            self._known[key] = self._rewritten(text, tables, dict(key[1]))
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        found = self._known[key]
        if found is None or not self._settings_fit(found):
            return text, None
        return text, found

    def _resolved(self, text: str) -> str:
        """The text with mentions of versions, times and folders as names of attached tables."""
        if text in self._fixed:
            return self._fixed[text]
        prefix = _PREFIX.match(text)
        head, body = (text[: prefix.end()], text[prefix.end() :]) if prefix else ("", text)
        tree = self._parse(body)
        if tree is None:
            return text
        mentions = find_mentions(tree)
        changed = [mention for mention in mentions if self._resolver.redirect(mention)]
        resolved = head + self._written(tree) if changed else text
        if all(mention.is_fixed for mention in mentions):
            self._fixed[text] = resolved
            if len(self._fixed) > _REMEMBERED:
                self._fixed.popitem(last=False)
        return resolved

    def close(self) -> None:
        """Close the cursor."""
        self._parser.close()

    def _attached(self) -> Mapping[str, KnownTable]:
        """The attached tables; what was remembered is forgotten when they or their columns change."""
        shown = [follower.shown for follower in self._state.followers.values()]
        layout = (self._state.changes, *map(id, shown))
        if layout != self._layout:
            self._layout, self._held = layout, shown
            self._plans.forget()
            self._known.clear()
            self._fixed.clear()
            self._tables = {}
            for name, follower in self._state.followers.items():
                fields = list(follower.snapshot.schema)
                self._tables[name] = KnownTable(
                    follower.name,
                    frozenset(field.name.lower() for field in fields),
                    {field.name.lower(): field.name for field in fields if is_vector(field.type)},
                    _plain(follower),
                )
        return self._tables

    def _settings_fit(self, found: _Rewritten) -> bool:
        """Whether DuckDB sorts ascending, NULL last, and compares text as is, where the statement counts on it."""
        if not found.orders and not found.compares_text:
            return True
        row = self._parser.execute(
            "SELECT current_setting('default_null_order'), current_setting('default_order'), "
            "current_setting('default_collation')"
        ).fetchone()
        assert row is not None
        nulls, order, collation = (str(value or "").upper() for value in row)
        if found.compares_text and collation not in ("", "BINARY"):
            return False
        last = nulls in ("NULLS_LAST", "NULLS LAST", "LAST")
        return not found.orders or (last and (order.startswith("ASC") or not found.default_order))

    def _rewritten(
        self, text: str, tables: Mapping[str, KnownTable], kinds: Mapping[str, str]
    ) -> _Rewritten | None:
        """The outcome for a text whose parameters are of these kinds."""
        lowered = text.lower()
        calls = "knn" in lowered
        orders = "limit" in lowered and any(name in lowered for name in DISTANCE_FUNCTIONS)
        if not calls and not orders:
            return None
        if not any(name in lowered for name in tables):
            return None
        prefix = _PREFIX.match(text)
        head, body = (text[: prefix.end()], text[prefix.end() :]) if prefix else ("", text)
        tree = self._parse(body)
        if tree is None:
            return self._each_statement(text, tables, kinds)
        if _is_prepared(head):  # its parameters come later
            kinds = {}
        if calls and self._sees_filters and (call := find_call(tree, tables)) is not None:
            return self._with_call(head, tree, call, kinds)
        counted = find_counted_calls(tree, tables) if calls else []
        found = find_searches(tree, tables) if orders else []
        if not found and not counted:
            return None
        parameters = parameters_in(nodes_in(tree))
        carried = [self._replace(search, kinds) for search in found]
        for call in counted:  # what was found within their conditions goes along
            self._replace_call(call, None)
        text = head + self._written(tree)
        recipe = None
        if len(counted) == 1 and not found:
            recipe = self._recipe(head, tree, counted[0], None, parameters)
        elif len(found) == 1 and not counted and self._is_alone(found[0], carried[0]):
            recipe = self._recipe(head, tree, found[0], carried[0], parameters)
        return _Rewritten(
            text,
            orders=bool(found),
            default_order=any(search.default_order for search in found),
            compares_text=any(one.compares_text for one in carried if one),
            recipe=recipe,
        )

    def _with_call(
        self, head: str, tree: Any, call: FoundCall, kinds: Mapping[str, str]
    ) -> _Rewritten | None:
        """The statement with a call of knn() replaced, if its WHERE can travel with it."""
        carried = None
        if call.condition is not None:
            carried = carry(call.condition, call.alias, {**call.table.plain, **_FOUND_FIELDS}, kinds)
            if carried is None:
                return None
        parameters = parameters_in(nodes_in(tree))
        self._replace_call(call, carried)
        return _Rewritten(
            head + self._written(tree),
            compares_text=carried is not None and carried.compares_text,
            recipe=self._recipe(head, tree, call, carried, parameters),
        )

    def _recipe(
        self,
        head: str,
        tree: Any,
        found: Found | FoundCall,
        carried: Carried | None,
        parameters: frozenset[str],
    ) -> Recipe | None:
        """The statement with a number in place of its request, if the request can be made of its parameters."""
        if _is_prepared(head) or not are_readable(found.arguments):
            return None
        handed, follower = HandedOver(), self._state.followers[found.table.name.lower()]
        shows_distance = isinstance(found, FoundCall) or found.by_distance_alone
        if isinstance(found, Found) and shows_distance:
            found.order_by(self._by_distance(found.alias))
        alone = self._is_alone(found, carried)
        source = self._source(found, text_literal(handed.text), alone=alone, shows_distance=shows_distance)
        found.node["from_table"] = _substituted(source, {"lake_condition": found.condition})
        whole = found.node is tree["statements"][0]["node"] and not head and not any(cte_names(tree))
        left = parameters_in(nodes_in(tree))
        return Recipe(
            text=head + self._written(tree),
            left=left,
            handed=handed,
            follower=follower,
            shown=follower.shown,
            keeps=whole and alone and shows_distance and not left and is_keepable(found.node),
            ordered=isinstance(found, Found),
            arguments=found.arguments,
            condition=carried,
            parameters=parameters,
            alone=alone,
            asked=() if alone or isinstance(found, Found) else askable(found, self._select),
        )

    def _each_statement(
        self, text: str, tables: Mapping[str, KnownTable], kinds: Mapping[str, str]
    ) -> _Rewritten | None:
        """A script of several statements: each on its own."""
        try:
            parts = [statement.query for statement in self._parser.extract_statements(text)]
        except DuckDBError:
            return None
        if len(parts) < 2:
            return None
        outcomes = [self._rewritten(part, tables, kinds) for part in parts]
        if not any(outcomes):
            return None
        texts = [outcome.text if outcome else part for part, outcome in zip(parts, outcomes, strict=True)]
        joined = ";\n".join(part.rstrip().rstrip(";") for part in texts)
        done = [outcome for outcome in outcomes if outcome]
        return _Rewritten(
            joined,
            orders=any(outcome.orders for outcome in done),
            default_order=any(outcome.default_order for outcome in done),
            compares_text=any(outcome.compares_text for outcome in done),
        )

    def _parse(self, text: str) -> Any:
        """The tree of a text with exactly one SELECT; None for anything else."""
        row = self._parser.execute(f"SELECT json_serialize_sql(?::VARCHAR, {_OPTIONS})", [text]).fetchone()
        assert row is not None
        tree = json.loads(row[0])
        return None if tree.get("error") or len(tree.get("statements", [])) != 1 else tree

    def _select(self, node: Any) -> str:
        """A SELECT as text."""
        return self._written({"error": False, "statements": [{"node": node}]})

    def _written(self, tree: Any) -> str:
        row = self._parser.execute("SELECT json_deserialize_sql(?::JSON)", [json.dumps(tree)]).fetchone()
        assert row is not None
        return str(row[0])

    def _replace(self, found: Found, kinds: Mapping[str, str]) -> Carried | None:
        """Put the subquery in the table's place; the WHERE moves into it, ORDER BY and LIMIT stay."""
        carried = None
        if found.condition is not None and self._sees_filters:
            carried = carry(found.condition, found.alias, found.table.plain, kinds)
        tree = copy.deepcopy(self._template(found, carried))
        limit = found.limit
        parts = {"lake_vector": found.vector, "lake_limit": limit, "lake_offset": found.offset or _number(0)}
        parts["lake_condition"] = found.condition or self._expression("TRUE")
        found.node["from_table"] = _substituted(tree, parts | _parameters(carried))
        found.node.pop("where_clause", None)
        return carried

    def _replace_call(self, found: FoundCall, carried: Carried | None) -> None:
        """Put the rows of the search in the place of the call: alone, with a WHERE in the request, or counted."""
        given, alone = found.arguments, self._is_alone(found, carried)
        names = {name: f"lake_{name}" if name in given else "NULL" for name in _OPTIONAL}
        request = request_sql(
            "lake_q",
            "lake_k" if "k" in given else "10",
            alone=alone,
            metric=names["metric"],
            recall=names["recall"],
            exact=names["exact"],
            condition=carried.sql if carried else "NULL",
            column=names["vector_column"],
        )
        tree = self._source(found, request, alone=alone, shows_distance=True)
        parts = {f"lake_{name}": node for name, node in given.items()} | {"lake_condition": found.condition}
        found.node["from_table"] = _substituted(tree, parts | _parameters(carried))
        found.node.pop("where_clause", None)

    def _template(self, found: Found, carried: Carried | None) -> Any:
        """The parsed subquery with names where the statement's own expressions go."""
        alone = self._is_alone(found, carried)
        condition = carried.sql if carried else "NULL"
        key = (found.table.name, found.alias, found.metric, found.column, str(alone), condition)
        if key not in self._templates:
            request = request_sql(
                "lake_vector",
                "lake_limit::BIGINT + coalesce(lake_offset::BIGINT, 0)",
                ordered=True,
                alone=alone,
                metric=text_literal(found.metric),
                condition=condition,
                column=text_literal(found.column),
            )
            if len(self._templates) >= _REMEMBERED:
                self._templates.clear()
            self._templates[key] = self._source(found, request, alone=alone, shows_distance=False)
        return self._templates[key]

    def _source(self, found: Found | FoundCall, request: str, *, alone: bool, shows_distance: bool) -> Any:
        """The parsed subquery for a search; ``lake_condition`` is where DuckDB filters its rows, if it does."""
        name, alias = found.table.name, found.alias
        if alone:
            return self._subquery(alone_subquery(name, alias, request, found=shows_distance), alias)
        ranks = self._state.ranks_sql
        text = counted_subquery(name, alias, ranks, request, "lake_condition", found=shows_distance)
        return self._subquery(text, alias)

    def _subquery(self, text: str, alias: str) -> Any:
        """A parsed subquery to put in a table's place."""
        tree = self._parse(f"FROM ({text}) AS placeholder")
        assert tree is not None
        source = tree["statements"][0]["node"]["from_table"]
        source["alias"] = alias
        return source

    def _by_distance(self, alias: str) -> list[Any]:
        """The keys of an order by the distance found."""
        tree = self._parse(f"SELECT 1 ORDER BY {identifier(alias)}.{DISTANCE} ASC NULLS LAST")
        orders: list[Any] = tree["statements"][0]["node"]["modifiers"][0]["orders"]
        return orders

    def _is_alone(self, found: Found | FoundCall, carried: Carried | None) -> bool:
        """Whether nothing filters the rows of a search after it."""
        return carried is not None or (found.condition is None and self._sees_filters)

    @property
    def _sees_filters(self) -> bool:
        """Whether a search is told of every filter, so that one without any may do without counting."""
        return self._state.interface == "sources"

    def _expression(self, text: str) -> Any:
        tree = self._parse(f"SELECT {text}")
        assert tree is not None
        return tree["statements"][0]["node"]["select_list"][0]


def _plain(follower: TableFollower) -> dict[str, pa.Field]:
    """The columns that DuckDB is shown in their own types; others it may compare by other rules."""
    shown = follower.shown.rows
    return {
        field.name.lower(): field.remove_metadata()
        for field in follower.snapshot.schema
        if shown.field(field.name).type == field.type
    }


def _is_prepared(head: str) -> bool:
    """Whether a statement is to run later, with parameters that are not known yet."""
    return head.lstrip()[:7].upper() == "PREPARE"


def _parameters(carried: Carried | None) -> dict[str, Any]:
    nodes = carried.parameters if carried else ()
    return {f"lake_parameter_{number}": node for number, node in enumerate(nodes)}


def _number(value: int) -> Any:
    return {
        "class": "CONSTANT",
        "type": "VALUE_CONSTANT",
        "literal": {"kind": "INTEGER", "text": str(value)},
    }


def _substituted(node: Any, parts: Mapping[str, Any]) -> Any:
    if isinstance(node, dict):
        names = node.get("column_names")
        if node.get("class") == "COLUMN_REF" and names and len(names) == 1 and names[0] in parts:
            return copy.deepcopy(parts[names[0]])
        return {key: _substituted(value, parts) for key, value in node.items()}
    if isinstance(node, list):
        return [_substituted(value, parts) for value in node]
    return node
