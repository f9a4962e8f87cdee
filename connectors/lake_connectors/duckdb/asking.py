"""Keys that a WHERE takes from other tables, asked for before a search, which then finds rows that pass at once.

Of ``id IN (SELECT item FROM allowed)`` DuckDB tells a scan nothing: where few are allowed, nearly all rows would be
handed out before k pass. The WHERE stays where it is and decides; the search is only told what can pass. Nothing is
asked that may not be read twice, such as a Python object, or that may ask the statement around it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa
from duckdb import DuckDBPyConnection

from lake_connectors.adapter.requests import MOST_KEYS, among
from lake_connectors.duckdb.recognition import (
    FoundCall,
    first_names,
    names_given,
    nodes_in,
    own_column,
    parameters_in,
)
from lake_connectors.duckdb.showing import TableFollower
from lake_engines.predicate.tree import Column, Expression

__all__ = ["Asked", "askable", "keys_asked"]

Node = dict[str, Any]

_REPEATABLE = frozenset({"BASE_TABLE", "JOIN", "EMPTY", "SUBQUERY"})
"""Kinds of sources: table functions may read something that is read once."""

_CHANGING = frozenset({"nextval", "random", "uuid", "gen_random_uuid", "uuidv4", "uuidv7", "setseed"})


@dataclass(frozen=True, slots=True)
class Asked:
    """The keys that one condition lets through.

    Attributes
    ----------
    column
        The searched table's, of whole numbers: other types have more than one way to be equal.
    query
        The subquery.
    tables, columns
        The tables that it reads and the columns it takes from them, in lower case.
    parameters
        The names of its parameters.
    """

    column: str
    query: str
    tables: frozenset[str]
    columns: frozenset[str]
    parameters: frozenset[str]


def askable(call: FoundCall, written: Callable[[Node], str]) -> tuple[Asked, ...]:
    """What can be asked of the conditions of a call of knn().

    Parameters
    ----------
    written
        A SELECT node as SQL.
    """
    found = []
    for condition in _conjuncts(call.condition):
        column = _compared(condition, call)
        tables = _tables(condition.get("subquery")) if column is not None else None
        if column is not None and tables is not None:
            node = condition["subquery"]["node"]
            nodes = list(nodes_in(node))
            columns = frozenset(first_names(nodes)) - names_given(nodes)
            found.append(Asked(column, written(node), tables, columns, parameters_in(nodes)))
    return tuple(found)


def _conjuncts(condition: Node | None) -> Iterator[Node]:
    if condition is None:
        return
    if condition.get("type") == "CONJUNCTION_AND":
        for child in condition["children"]:
            yield from _conjuncts(child)
    else:
        yield condition


def _compared(condition: Node, call: FoundCall) -> str | None:
    """The column of whole numbers that has to be among a subquery's."""
    equal = condition.get("comparison_type") == "COMPARE_EQUAL" and condition.get("subquery_type") == "ANY"
    if condition.get("class") != "SUBQUERY" or not equal or condition["child"].get("class") != "COLUMN_REF":
        return None
    name = own_column(condition["child"], call.table, call.alias)
    field = None if name is None else call.table.plain.get(name)
    return field.name if field is not None and pa.types.is_integer(field.type) else None


def _tables(subquery: Any) -> frozenset[str] | None:
    """The tables a subquery reads; None where it reads something else, or gives other values each time."""
    names = set()
    for node in nodes_in(subquery):
        source = node.get("from_table")
        kinds = {one.get("type") for one in _sources(source)} if isinstance(source, dict) else set()
        if not kinds <= _REPEATABLE or str(node.get("function_name", "")).lower() in _CHANGING:
            return None
        if node.get("sample") or str(node.get("type", "")).startswith("LIMIT_"):
            return None
        if node.get("type") == "BASE_TABLE":
            if len(node.get("qualified_name", {}).get("path", [""])) != 1:
                return None
            names.add(str(node["table_name"]).lower())
    return frozenset(names)


def _sources(source: Node) -> Iterator[Node]:
    yield source
    for side in ("left", "right"):
        if isinstance(source.get(side), dict) and source.get("type") == "JOIN":
            yield from _sources(source[side])


def keys_asked(
    con: DuckDBPyConnection,
    asked: Sequence[Asked],
    given: Mapping[str, object],
    attached: Mapping[str, TableFollower],
) -> tuple[Expression, ...]:
    """Conditions that every row passes which the subqueries let through; none of what cannot be asked.

    Parameters
    ----------
    con
        The connection that will run the statement.
    given
        The values of its parameters, by name.
    attached
        Tables of a lake, by name in lower case.
    """
    terms: list[Expression] = []
    for one in asked:
        own = (attached[name].snapshot.schema.names for name in one.tables & attached.keys())
        columns = {name.lower() for names in own for name in names}
        others = _columns_of(con, one.tables - attached.keys())
        if others is not None and one.columns <= columns | others:
            keys = _keys(con, one, {name: given[name] for name in one.parameters})
            if keys is not None:
                terms.append(among(Column((one.column,)), keys))
    return tuple(terms)


def _columns_of(con: DuckDBPyConnection, names: Set[str]) -> set[str] | None:
    """Columns of tables of DuckDB's own; None where one is none, or a view: registered objects are views."""
    if not names:
        return set()
    sql = """SELECT lower(table_name), lower(column_name), internal OR EXISTS (
        FROM duckdb_views() AS v WHERE lower(v.view_name) = lower(c.table_name))
        FROM duckdb_columns() AS c WHERE lower(table_name) IN $names AND (database_name = 'temp'
        OR (database_name = current_database() AND schema_name = current_schema()))"""
    found = con.execute(sql, {"names": sorted(names)}).fetchall()
    if any(is_view for _, _, is_view in found) or {table for table, _, _ in found} != names:
        return None
    return {column for _, column, _ in found}


def _keys(con: DuckDBPyConnection, asked: Asked, given: dict[str, object]) -> list[pa.Scalar] | None:
    """The keys; None where they are too many, are no whole numbers, or DuckDB refuses the subquery alone."""
    source = f"({asked.query}) AS asked(key)"  # as DuckDB wrote it
    sql = f"SELECT DISTINCT key FROM {source} WHERE key IS NOT NULL LIMIT {MOST_KEYS + 1}"  # noqa: S608
    try:
        found = [key for (key,) in con.execute(sql, given or None).fetchall()]
    except duckdb.Error:
        return None
    if len(found) > MOST_KEYS or not all(type(key) is int and -(2**63) <= key < 2**63 for key in found):
        return None
    return [pa.scalar(key, pa.int64()) for key in found]
