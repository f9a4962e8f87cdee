"""Finding ``ORDER BY distance(vector, constant) LIMIT k`` over an attached table in DuckDB's own syntax tree.

The rule: one attached table under filters and projections; the first ORDER BY key is a known distance, nearest
first, between a vector column and something constant when the statement is planned; LIMIT is constant; no
DISTINCT, GROUP BY, window or join beside it. Everything else is left to DuckDB, which answers it without us.
A ``FROM knn(…)`` under a WHERE and nothing else is found too: it may need less around it than knn() in general.
Works on what ``json_serialize_sql`` returns; it must not run SQL.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from lake_format.schema import DISTANCE, ROW_ID

__all__ = [
    "DISTANCE_FUNCTIONS",
    "Found",
    "FoundCall",
    "KnownTable",
    "cte_names",
    "find_call",
    "find_counted_calls",
    "find_searches",
    "first_names",
    "keeps_floats",
    "names_given",
    "nodes_in",
    "own_column",
    "parameters_in",
]

Node = dict[str, Any]

_ASCENDING = {
    "array_distance": "l2",
    "list_distance": "l2",
    "<->": "l2",
    "array_cosine_distance": "cosine",
    "list_cosine_distance": "cosine",
    "<=>": "cosine",
    "array_negative_inner_product": "ip",
    "array_negative_dot_product": "ip",
    "list_negative_inner_product": "ip",
    "list_negative_dot_product": "ip",
    "<#>": "ip",
}
_DESCENDING = {
    "array_cosine_similarity": "cosine",
    "list_cosine_similarity": "cosine",
    "array_inner_product": "ip",
    "array_dot_product": "ip",
    "list_inner_product": "ip",
    "list_dot_product": "ip",
}
DISTANCE_FUNCTIONS = frozenset({*_ASCENDING, *_DESCENDING})
"""Names one of which a statement must contain to be worth parsing."""

_CONSTANT_FUNCTIONS = frozenset({"list_value", "array_value", "list_pack", "getvariable", "-", "+"})
_VOLATILE = ("COLUMN_REF", "SUBQUERY", "WINDOW", "STAR", "LAMBDA")


@dataclass(frozen=True, slots=True)
class KnownTable:
    """An attached table as statements name it.

    Attributes
    ----------
    columns
        Its columns, in lower case.
    vectors
        The vector columns' own spelling, by name in lower case.
    plain
        The columns that DuckDB sees in the table's own types, by name in lower case.
    """

    name: str
    columns: frozenset[str]
    vectors: Mapping[str, str]
    plain: Mapping[str, pa.Field]


@dataclass(frozen=True, slots=True)
class Found:
    """A search found in a statement.

    Attributes
    ----------
    node
        The SELECT node, in place in the tree.
    vector, limit, offset, condition
        Expression nodes; offset and condition may be None.
    default_order
        Whether the statement leaves the direction to DuckDB's settings.
    by_distance_alone
        Whether the distance is the only key of the order, growing, and needed for nothing else.
    """

    node: Node
    table: KnownTable
    alias: str
    column: str
    metric: str
    vector: Node
    limit: Node
    offset: Node | None
    condition: Node | None
    default_order: bool
    by_distance_alone: bool

    @property
    def arguments(self) -> Mapping[str, Node]:
        """What the search is made of, by parameter of knn(), and its offset."""
        named = {"metric": _text(self.metric), "vector_column": _text(self.column)}
        offset = {} if self.offset is None else {"offset": self.offset}
        return {"q": self.vector, "k": self.limit, **named, **offset}

    def order_by(self, keys: list[Node]) -> None:
        """Put other keys into the ORDER BY, in place."""
        order = next(one for one in self.node["modifiers"] if one["type"] == "ORDER_MODIFIER")
        order["orders"] = keys


@dataclass(frozen=True, slots=True)
class FoundCall:
    """A call of knn() that is all a statement reads from, with nothing but a WHERE that could filter its rows.

    Attributes
    ----------
    node
        The SELECT node, in place in the tree.
    condition
        The WHERE, if there is one.
    arguments
        Expression nodes by parameter of knn(), without the table; those not given are missing.
    """

    node: Node
    table: KnownTable
    alias: str
    arguments: Mapping[str, Node]
    condition: Node | None


_CALL_PARAMETERS = ("tbl", "q", "k", "vector_column", "metric", "recall", "exact")
_FILTERS = ("having", "qualify", "sample")


def find_call(tree: Node, tables: Mapping[str, KnownTable]) -> FoundCall | None:
    """The call of knn() in a statement that reads its rows and nothing else."""
    node = tree["statements"][0]["node"]
    if node.get("type") != "SELECT_NODE" or any(node.get(name) for name in _FILTERS) or any(cte_names(tree)):
        return None
    if _has(node, ("SUBQUERY",)) or any(item.get("filter") for item in nodes_in(node.get("select_list", []))):
        return None
    return _call(node, tables)


def find_counted_calls(tree: Node, tables: Mapping[str, KnownTable]) -> list[FoundCall]:
    """Calls of knn() whose WHERE asks other tables, each alone in its FROM.

    DuckDB makes joins of such conditions and moves them below no other join: they have to stand next to the search.
    Those are left alone that may ask the statement around them, for which there is no one search.
    """
    found = ((_call(node, tables), beside) for node, beside in _independent(tree["statements"][0]["node"]))
    return [call for call, beside in found if call is not None and _asks_other_tables(call, beside)]


def _independent(node: Any, beside: bool = False) -> Iterator[tuple[Node, bool]]:
    """SELECTs that are no part of an expression, and whether they stand beside others that they may ask.

    There a bare name may be a column of the others: only names that say which table they are of can be told apart.
    """
    if isinstance(node, list):
        for value in node:
            yield from _independent(value, beside)
    elif isinstance(node, dict) and "class" not in node:
        if node.get("type") == "SELECT_NODE":
            yield node, beside
        for name, value in node.items():
            yield from _independent(value, beside or (name == "right" and node.get("type") == "JOIN"))


def _asks_other_tables(call: FoundCall, beside: bool) -> bool:
    """Whether the WHERE has subqueries, and means the same next to the search."""
    condition = call.condition
    if condition is None or not _has(condition, ("SUBQUERY",)):
        return False
    own = {*call.table.columns, ROW_ID, DISTANCE, call.alias.lower()}
    within = [item["subquery"] for item in nodes_in(condition) if item.get("class") == "SUBQUERY"]
    hidden = {id(item) for inner in within for item in nodes_in(inner)}
    outer = [item for item in nodes_in(condition) if id(item) not in hidden]
    if any(item.get("class") in ("WINDOW", "STAR") for item in outer) or not set(first_names(outer)) <= own:
        return False
    return not beside or set(first_names(nodes_in(within))) <= own | names_given(nodes_in(within))


def first_names(nodes: Iterable[Node]) -> Iterator[str]:
    """What the column references among nodes begin with, in lower case."""
    return (node["column_names"][0].lower() for node in nodes if node.get("class") == "COLUMN_REF")


def names_given(nodes: Iterable[Node]) -> set[str]:
    """The names of tables and the aliases among nodes, in lower case."""
    return {str(node.get(name, "")).lower() for node in nodes for name in ("alias", "table_name")}


def _call(node: Node, tables: Mapping[str, KnownTable]) -> FoundCall | None:
    """The call of knn() that is all a SELECT reads from."""
    source = node.get("from_table") or {}
    known = {"type", "alias", "query_location", "query_location_length", "function"}
    if source.get("type") != "TABLE_FUNCTION" or set(source) - known:
        return None
    call = source["function"]
    if call.get("function_name", "").lower() != "knn" or call.get("qualified_name") != {"path": ["knn"]}:
        return None
    arguments = _arguments(call)
    table = tables.get(_text_of(arguments.pop("tbl", None)) or "") if arguments else None
    if table is None or "q" not in arguments or not all(map(_is_constant, arguments.values())):
        return None
    return FoundCall(node, table, source.get("alias") or "knn", arguments, node.get("where_clause") or None)


def _arguments(call: Node) -> dict[str, Node]:
    """The arguments of a call of knn() by parameter; none at all where one is unknown or given twice."""
    found: dict[str, Node] = {}
    for place, argument in enumerate(call.get("arguments", [])):
        name = argument.get("name") or next(iter(_CALL_PARAMETERS[place : place + 1]), None)
        if name is None or name.lower() not in _CALL_PARAMETERS or name.lower() in found:
            return {}
        found[name.lower()] = argument["expression"]
    return found


def _text(value: str) -> Node:
    """A constant text."""
    return {"class": "CONSTANT", "type": "VALUE_CONSTANT", "literal": {"kind": "STRING", "text": value}}


def _text_of(node: Node | None) -> str | None:
    """The constant text that an expression is, in lower case."""
    literal = node.get("literal", {}) if node and node.get("class") == "CONSTANT" else {}
    return str(literal["text"]).lower() if literal.get("kind") == "STRING" else None


def find_searches(tree: Node, tables: Mapping[str, KnownTable]) -> list[Found]:
    """All searches in a statement, common table expressions and subqueries included."""
    hidden = {name.lower() for name in cte_names(tree)}
    visible = {name: table for name, table in tables.items() if name not in hidden}
    return [found for node in _selects(tree) if (found := _search(node, visible)) is not None]


def _selects(node: Any) -> Iterator[Node]:
    if isinstance(node, dict):
        if node.get("type") == "SELECT_NODE":
            yield node
        for value in node.values():
            yield from _selects(value)
    elif isinstance(node, list):
        for value in node:
            yield from _selects(value)


def cte_names(node: Any) -> Iterator[str]:
    """Names that common table expressions give; such a name may not mean the attached table."""
    if isinstance(node, dict):
        entries = node.get("cte_map", {}).get("map", []) if isinstance(node.get("cte_map"), dict) else []
        for entry in entries:
            yield str(entry.get("key", ""))
        for value in node.values():
            yield from cte_names(value)
    elif isinstance(node, list):
        for value in node:
            yield from cte_names(value)


def _search(node: Node, tables: Mapping[str, KnownTable]) -> Found | None:
    source = node.get("from_table") or {}
    if not _is_plain(node, source):
        return None
    table = tables.get(_table_name(source))
    modifiers = {modifier["type"]: modifier for modifier in node.get("modifiers", [])}
    if table is None or set(modifiers) != {"ORDER_MODIFIER", "LIMIT_MODIFIER"}:
        return None
    limit = modifiers["LIMIT_MODIFIER"].get("limit")
    offset = modifiers["LIMIT_MODIFIER"].get("offset")
    first, *further = modifiers["ORDER_MODIFIER"]["orders"]
    alias = source.get("alias") or source["table_name"]
    key = _order_key(first["expression"], node)
    condition = node.get("where_clause") or None
    if limit is None or not _is_constant(limit) or (offset and not _is_constant(offset)) or key is None:
        return None
    if not _nulls_last(first) or (condition and not _movable(condition, table, alias)):
        return None
    metric = _metric(key["function_name"], str(first.get("type", "")))
    sides = _sides(key, table, alias)
    if metric is None or sides is None or _has(node.get("select_list", []), ("WINDOW",)):
        return None
    return Found(
        node=node,
        table=table,
        alias=alias,
        column=sides[0],
        metric=metric,
        vector=sides[1],
        limit=limit,
        offset=offset or None,
        condition=condition,
        default_order=str(first.get("type", "")) == "ORDER_DEFAULT",
        by_distance_alone=not further and first["expression"] is key and _leaves_distance(key, node),
    )


def _is_plain(node: Node, source: Node) -> bool:
    if source.get("type") != "BASE_TABLE" or source.get("schema_name") or source.get("catalog_name"):
        return False
    if any(source.get(name) for name in ("sample", "column_name_alias", "at_clause")):
        return False
    if any(node.get(name) for name in ("group_expressions", "group_sets", "having", "qualify", "sample")):
        return False
    return node.get("aggregate_handling") in (None, "STANDARD_HANDLING") and not _multiplies(node)


def _table_name(source: Node) -> str:
    path = (
        source.get("qualified_name", {}).get("path")
        if isinstance(source.get("qualified_name"), dict)
        else None
    )
    if path and len(path) > 1:
        return ""
    return str(source.get("table_name", "")).lower()


def _multiplies(node: Node) -> bool:
    """Whether the select list makes several rows, or none, of one: LIMIT then counts other rows than ours."""
    functions = (item for item in nodes_in(node.get("select_list", [])) if item.get("class") == "FUNCTION")
    return any(item.get("function_name", "").lower() in ("unnest", "unlist") for item in functions)


def _order_key(expression: Node, node: Node) -> Node | None:
    """The function call that is ordered by; aliases and positions are followed into the select list."""
    chosen: Node | None = expression
    items = node.get("select_list", [])
    if expression.get("class") == "COLUMN_REF" and len(expression["column_names"]) == 1:
        name = expression["column_names"][0].lower()
        chosen = next((item for item in items if str(item.get("alias", "")).lower() == name), None)
    elif expression.get("class") == "CONSTANT" and expression["literal"].get("kind") == "INTEGER":
        position = int(expression["literal"]["text"])
        if any(item.get("class") == "STAR" for item in items) or not 1 <= position <= len(items):
            return None
        chosen = items[position - 1]
    if chosen is None or chosen.get("class") != "FUNCTION":
        return None
    return chosen


def _metric(function: str, direction: str) -> str | None:
    name = function.lower()
    if direction in ("ORDER_DEFAULT", "ORDER_ASCENDING", "ASCENDING"):
        return _ASCENDING.get(name)
    if direction in ("DESCENDING", "ORDER_DESCENDING"):
        return _DESCENDING.get(name)
    return None


def _leaves_distance(key: Node, node: Node) -> bool:
    """Whether rows may have the distance found as a column more, by which they are sorted as by the function.

    By a similarity NaN would come first, and last by the distance.
    """
    names = {name.lower() for item in nodes_in(node["select_list"]) for name in item.get("column_names", ())}
    names |= {str(item.get("alias", "")).lower() for item in node["select_list"]}
    hidden = {DISTANCE, ROW_ID} & names
    return (
        key["function_name"].lower() in _ASCENDING and not hidden and not _has(node["select_list"], ("STAR",))
    )


def _nulls_last(order: Node) -> bool:
    """Whether rows without a distance come last, or the settings say where."""
    return str(order.get("null_order", "ORDER_DEFAULT")) in ("ORDER_DEFAULT", "NULLS LAST", "NULLS_LAST")


def _sides(key: Node, table: KnownTable, alias: str) -> tuple[str, Node] | None:
    """The vector column and the constant, in whichever order they stand."""
    arguments = [argument["expression"] for argument in key.get("arguments", [])]
    if len(arguments) != 2 or any(key.get(name) for name in ("filter", "distinct")):
        return None
    for column, constant in (arguments, reversed(arguments)):
        name = own_column(column, table, alias)
        vector = table.vectors.get(name) if name is not None else None
        if vector is not None and _is_constant(constant):
            return vector, constant
    return None


def own_column(node: Node, table: KnownTable, alias: str) -> str | None:
    """The column, in lower case, that a reference names; casts to arrays are looked through."""
    if node.get("class") == "CAST" and keeps_floats(node.get("type_expr", {})):
        return own_column(node.get("child", {}), table, alias)
    if node.get("class") != "COLUMN_REF":
        return None
    names = [name.lower() for name in node["column_names"]]
    if len(names) == 2 and names[0] == alias.lower():
        names = names[1:]
    return names[0] if len(names) == 1 and names[0] in table.columns else None


def keeps_floats(kind: Node) -> bool:
    """Whether a cast is to an array or list of floats, which leaves every component as it is."""
    members = kind.get("children", [])
    named = kind.get("type_name", "").lower() in ("array", "list")
    return bool(
        named and members and members[0].get("type_name", "").upper() in ("FLOAT", "REAL", "FLOAT4", "DOUBLE")
    )


def _movable(condition: Node, table: KnownTable, alias: str) -> bool:
    """Whether a WHERE means the same next to the table: no subqueries, no aliases of the select list."""
    if _has(condition, ("SUBQUERY", "WINDOW", "STAR")):
        return False
    return set(first_names(nodes_in(condition))) <= {*table.columns, alias.lower()}


def _is_constant(node: Any) -> bool:
    """Whether the value is known when the statement is planned."""
    if _has(node, _VOLATILE):
        return False
    return all(
        item.get("function_name", "").lower() in _CONSTANT_FUNCTIONS
        for item in nodes_in(node)
        if item.get("class") == "FUNCTION"
    )


def _has(node: Any, classes: tuple[str, ...]) -> bool:
    return any(item.get("class") in classes for item in nodes_in(node))


def parameters_in(nodes: Iterable[Node]) -> frozenset[str]:
    """The names of the parameters among nodes of a tree."""
    return frozenset(str(node["identifier"]) for node in nodes if node.get("class") == "PARAMETER")


def nodes_in(node: Any) -> Iterator[Node]:
    """Every object of a tree, in no order."""
    pending = [node]
    while pending:
        current = pending.pop()
        if isinstance(current, dict):
            yield current
            pending.extend(current.values())
        elif isinstance(current, list):
            pending.extend(current)
