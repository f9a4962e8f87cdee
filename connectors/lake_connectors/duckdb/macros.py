"""The SQL that stands between what users write and the hidden relations: knn(), lake(), and the pushed ORDER BY.

Pure text. Why it has this shape: `gate` explains the join; the UNION with an empty relation keeps DuckDB from
moving a user's joins below that join, while it still moves filters below both.
"""

# ruff: noqa: S608 - SQL is what this module makes, of its own words and of names it quotes

from __future__ import annotations

from collections.abc import Sequence

from lake_connectors.duckdb.gate import MARK_FUNCTION
from lake_connectors.duckdb.names import hidden_name, identifier, text_literal
from lake_connectors.duckdb.token import request_sql

__all__ = ["alone_subquery", "counted_subquery", "macros", "vector_macro"]


def macros(names: Sequence[str], ranks_sql: str) -> list[str]:
    """Statements that define ``knn`` and ``lake`` for the tables attached to one connection.

    Parameters
    ----------
    names
        The attached tables.
    ranks_sql
        How the numbers of kept rows are read: ``{table}`` and ``{request}`` are filled in.
    """
    request = request_sql("q", "k", metric="metric", recall="recall", exact="exact", column="vector_column")
    ranks = ranks_sql.format(table=_unchecked("ranks"), request=request)
    rows = _relation("rows", names, "knn")
    nothing = _unchecked("nothing")
    return [
        f"""CREATE OR REPLACE TEMP MACRO knn(
    tbl, q, k := 10, vector_column := NULL, metric := NULL, recall := NULL, exact := NULL) AS TABLE
SELECT n.* EXCLUDE (_gate, _row_id, _distance), n._row_id, n._distance
FROM (SELECT * EXCLUDE (_knn) FROM query_table({rows}) WHERE _knn COLLATE C = {request}) AS n
JOIN ({ranks}) AS r ON r._rank = {MARK_FUNCTION}(n._gate)
UNION ALL SELECT * FROM query_table({nothing})""",
        f"""CREATE OR REPLACE TEMP MACRO lake(tbl) AS TABLE
SELECT * EXCLUDE (_knn, _gate, _distance, _row_id), _row_id FROM query_table({_relation("rows", names, "lake")})""",
    ]


def vector_macro(name: str, function: str) -> str:
    """The statement that defines ``name`` as the row by row search of one table, made by ``function``."""
    return f"CREATE OR REPLACE TEMP MACRO {identifier(name)}(vector, k) AS {function}(vector::FLOAT[], k::BIGINT)"


def _relation(kind: str, names: Sequence[str], macro: str) -> str:
    """An SQL expression for the hidden relation of the table named by the macro's argument, which is checked."""
    wrong = f"error('{macro}(): no lake table ' || coalesce(tbl, 'NULL') || ' is attached"
    if not names:
        return f"{wrong}')"
    known = ", ".join(text_literal(name.lower()) for name in names)
    attached = "; attached: " + ", ".join(names).replace("'", "''")
    return f"CASE WHEN lower(tbl) IN ({known}) THEN {_unchecked(kind)} ELSE {wrong}{attached}') END"


def _unchecked(kind: str) -> str:
    """The same for a second relation of the table: its name has been checked where the first is read.

    ``query_table`` reads its argument as an SQL name, so it is quoted.
    """
    prefix = text_literal('"' + hidden_name(kind, ""))
    return f"""{prefix} || replace(lower(tbl), '"', '""') || '"'"""


def counted_subquery(
    table: str, alias: str, ranks_sql: str, request: str, condition: str, *, found: bool
) -> str:
    """The subquery for a search whose rows DuckDB filters: those with the k smallest distances that match.

    Parameters
    ----------
    request, condition
        SQL expressions; column references in them are to ``alias``.
    found
        Whether it stands for knn(): with ``_row_id`` and ``_distance`` among its columns, and no LIMIT above it.
    """
    more = ", n._row_id, n._distance" if found else ""
    nothing = f"\nUNION ALL SELECT * FROM {identifier(hidden_name('nothing', table))}" if found else ""
    ranks = ranks_sql.format(table=text_literal(identifier(hidden_name("ranks", table))), request=request)
    rows = identifier(hidden_name("rows", table))
    inner = identifier(alias)
    return f"""SELECT n.* EXCLUDE (_gate, _row_id, _distance){more} FROM ({ranks}) AS r
JOIN (SELECT * EXCLUDE (_knn) FROM {rows} AS {inner} WHERE {inner}._knn COLLATE C = {request} AND ({condition})) AS n
  ON r._rank = {MARK_FUNCTION}(n._gate){nothing}"""


def alone_subquery(table: str, alias: str, request: str, *, found: bool) -> str:
    """The subquery for a search that nothing filters: its rows as they come, without a join to count them.

    Parameters
    ----------
    found
        Whether ``_row_id`` and ``_distance`` are among its columns, as in knn().
    """
    inner, more = identifier(alias), ", _row_id, _distance" if found else ""
    return f"""SELECT * EXCLUDE (_knn, _gate, _row_id, _distance){more}
FROM {identifier(hidden_name("rows", table))} AS {inner} WHERE {inner}._knn COLLATE C = {request}"""
