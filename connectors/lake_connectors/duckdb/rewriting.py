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
from typing import Any

from duckdb import DuckDBPyConnection
from duckdb import Error as DuckDBError

from lake_connectors.duckdb.attaching import Attachments
from lake_connectors.duckdb.folders import Resolver
from lake_connectors.duckdb.macros import alone_subquery, ordered_subquery
from lake_connectors.duckdb.mentions import find_mentions, may_travel
from lake_connectors.duckdb.names import text_literal
from lake_connectors.duckdb.recognition import (
    DISTANCE_FUNCTIONS,
    Found,
    FoundCall,
    KnownTable,
    find_call,
    find_searches,
)
from lake_connectors.duckdb.token import request_sql
from lake_format.schema import is_vector

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
    """

    text: str
    orders: bool
    default_order: bool


class Rewriter:
    """Rewrites statements for one connection.

    Parameters
    ----------
    parser
        A cursor of its own, so that parsing never disturbs a result being fetched.
    resolver
        Attaches the versions and tables of folders that statements mention.
    """

    def __init__(self, parser: DuckDBPyConnection, state: Attachments, resolver: Resolver) -> None:
        self._parser = parser
        self._resolver = resolver
        self._state = state
        self._known: OrderedDict[str, _Rewritten | None] = OrderedDict()
        self._fixed: OrderedDict[str, str] = OrderedDict()
        self._templates: dict[tuple[str, ...], Any] = {}
        self._layout: object = None
        self._held: object = None
        self._tables: dict[str, KnownTable] = {}

    def __call__(self, text: str) -> str:
        """The text to run in place of ``text``."""
        if len(text) > _LONGEST:
            return text
        if self._resolver.folders or may_travel(text):
            text = self._resolved(text)
        tables = self._attached()
        if not tables:
            return text
        if text not in self._known:
            self._known[text] = self._rewritten(text, tables)
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        found = self._known[text]
        if found is None or not self._order_is_ours(found):
            return text
        return found.text

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
            self._known.clear()
            self._fixed.clear()
            self._tables = {}
            for name, follower in self._state.followers.items():
                fields = list(follower.snapshot.schema)
                self._tables[name] = KnownTable(
                    follower.name,
                    frozenset(field.name.lower() for field in fields),
                    {field.name.lower(): field.name for field in fields if is_vector(field.type)},
                )
        return self._tables

    def _order_is_ours(self, found: _Rewritten) -> bool:
        """Whether DuckDB's settings sort ascending, NULL last, if the rewritten statement counts on that."""
        if not found.orders:
            return True
        row = self._parser.execute(
            "SELECT current_setting('default_null_order'), current_setting('default_order')"
        ).fetchone()
        assert row is not None
        nulls, order = (str(value).upper() for value in row)
        last = nulls in ("NULLS_LAST", "NULLS LAST", "LAST")
        return last and (order.startswith("ASC") or not found.default_order)

    def _rewritten(self, text: str, tables: Mapping[str, KnownTable]) -> _Rewritten | None:
        lowered = text.lower()
        calls = self._sees_filters and "knn" in lowered
        orders = "limit" in lowered and any(name in lowered for name in DISTANCE_FUNCTIONS)
        if not calls and not orders:
            return None
        if not any(name in lowered for name in tables):
            return None
        prefix = _PREFIX.match(text)
        head, body = (text[: prefix.end()], text[prefix.end() :]) if prefix else ("", text)
        tree = self._parse(body)
        if tree is None:
            return self._each_statement(text, tables)
        if calls and (call := find_call(tree, tables)) is not None:
            self._replace_call(call)
            return _Rewritten(head + self._written(tree), orders=False, default_order=False)
        found = find_searches(tree, tables) if orders else []
        if not found:
            return None
        for search in found:
            self._replace(search)
        return _Rewritten(
            head + self._written(tree),
            orders=True,
            default_order=any(search.default_order for search in found),
        )

    def _each_statement(self, text: str, tables: Mapping[str, KnownTable]) -> _Rewritten | None:
        """A script of several statements: each on its own."""
        try:
            parts = [statement.query for statement in self._parser.extract_statements(text)]
        except DuckDBError:
            return None
        if len(parts) < 2:
            return None
        outcomes = [self._rewritten(part, tables) for part in parts]
        if not any(outcomes):
            return None
        texts = [outcome.text if outcome else part for part, outcome in zip(parts, outcomes, strict=True)]
        joined = ";\n".join(part.rstrip().rstrip(";") for part in texts)
        done = [outcome for outcome in outcomes if outcome]
        return _Rewritten(
            joined,
            orders=any(outcome.orders for outcome in done),
            default_order=any(outcome.default_order for outcome in done),
        )

    def _parse(self, text: str) -> Any:
        """The tree of a text with exactly one SELECT; None for anything else."""
        row = self._parser.execute(f"SELECT json_serialize_sql(?::VARCHAR, {_OPTIONS})", [text]).fetchone()
        assert row is not None
        tree = json.loads(row[0])
        return None if tree.get("error") or len(tree.get("statements", [])) != 1 else tree

    def _written(self, tree: Any) -> str:
        row = self._parser.execute("SELECT json_deserialize_sql(?::JSON)", [json.dumps(tree)]).fetchone()
        assert row is not None
        return str(row[0])

    def _replace(self, found: Found) -> None:
        """Put the subquery in the table's place; the WHERE moves into it, ORDER BY and LIMIT stay."""
        tree = copy.deepcopy(self._template(found))
        limit = found.limit
        parts = {"lake_vector": found.vector, "lake_limit": limit, "lake_offset": found.offset or _number(0)}
        parts["lake_condition"] = found.condition or self._expression("TRUE")
        found.node["from_table"] = _substituted(tree, parts)
        found.node.pop("where_clause", None)

    def _replace_call(self, found: FoundCall) -> None:
        """Put the rows of the search alone in the place of the call."""
        given = found.arguments
        names = {name: f"lake_{name}" if name in given else "NULL" for name in _OPTIONAL}
        request = request_sql(
            "lake_q",
            "lake_k" if "k" in given else "10",
            alone=True,
            metric=names["metric"],
            recall=names["recall"],
            exact=names["exact"],
            column=names["vector_column"],
        )
        tree = self._subquery(alone_subquery(found.table.name, found.alias, request, found=True), found.alias)
        parts = {f"lake_{name}": node for name, node in given.items()}
        found.node["from_table"] = _substituted(tree, parts)

    def _template(self, found: Found) -> Any:
        """The parsed subquery with names where the statement's own expressions go."""
        alone = found.condition is None and self._sees_filters
        key = (found.table.name, found.alias, found.metric, found.column, str(alone))
        if key not in self._templates:
            request = request_sql(
                "lake_vector",
                "lake_limit::BIGINT + coalesce(lake_offset::BIGINT, 0)",
                ordered=True,
                alone=alone,
                metric=text_literal(found.metric),
                column=text_literal(found.column),
            )
            self._templates[key] = self._subquery(
                alone_subquery(found.table.name, found.alias, request, found=False)
                if alone
                else ordered_subquery(
                    found.table.name, found.alias, self._state.ranks_sql, request, "lake_condition"
                ),
                found.alias,
            )
        return self._templates[key]

    def _subquery(self, text: str, alias: str) -> Any:
        """A parsed subquery to put in a table's place."""
        tree = self._parse(f"FROM ({text}) AS placeholder")
        assert tree is not None
        source = tree["statements"][0]["node"]["from_table"]
        source["alias"] = alias
        return source

    @property
    def _sees_filters(self) -> bool:
        """Whether a search is told of every filter, so that one without any may do without counting."""
        return self._state.interface == "sources"

    def _expression(self, text: str) -> Any:
        tree = self._parse(f"SELECT {text}")
        assert tree is not None
        return tree["statements"][0]["node"]["select_list"][0]


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
