"""``lake sql``: DuckDB over one or more tables."""

from __future__ import annotations

import importlib
import re
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import click

from lake_connectors.cli.command import Command
from lake_connectors.cli.options import (
    format_option,
    key_values,
    open_options,
    open_table,
    read_json,
    version_option,
)
from lake_connectors.cli.output import write_rows
from lake_format import errors
from lake_format.errors import InvalidInputError, LakeError

__all__ = ["sql"]

_OURS = re.compile(r"\b([A-Z]\w*Error): (.+)")
_NO_TABLE = re.compile(r"Catalog Error: Table with name .* does not exist")
_HINTS = ("Did you mean", "Candidate")


@click.command(
    cls=Command,
    examples=[
        'lake sql "SELECT count(*) FROM items" items',
        'lake sql "SELECT a.id FROM a JOIN b USING (id)" --table a=s3://bucket/one --table b=two',
        """lake sql "SELECT title, _distance FROM knn('items', ?, 5) WHERE price < 10" items --param @query.json""",
        'lake sql "SELECT title FROM items ORDER BY array_distance(vec, [0.1, 0.2]::FLOAT[2]) LIMIT 5" items',
    ],
)
@click.argument("query")
@click.argument("uris", nargs=-1, metavar="[URI]…")
@click.option(
    "--table",
    "named",
    multiple=True,
    metavar="NAME=URI",
    help="Give a table another name than its last path part.",
)
@click.option(
    "--param", "parameters", multiple=True, metavar="JSON|@FILE", help="A value for a ? of the query."
)
@version_option
@format_option
@open_options
def sql(
    *,
    query: str,
    uris: tuple[str, ...],
    named: tuple[str, ...],
    parameters: tuple[str, ...],
    version: int | None,
    output_format: str,
    storage_options: tuple[str, ...],
) -> None:
    """Run one DuckDB query over tables.

    A table is known by the last part of its URI, in which anything but letters, digits and _ becomes _, or by the
    name that --table gives it.

    knn('items', vector, k) and ORDER BY array_distance(vec, vector) LIMIT k use the vector index.
    """
    tables = _tables(uris, named)
    if version is not None and len(tables) != 1:
        raise InvalidInputError(f"--version goes with one table, not with {len(tables)}")
    values = [_plain(read_json(parameter, "--param")) for parameter in parameters]
    duckdb, connector = _duckdb()
    opened = {name: open_table(uri, version, storage_options) for name, uri in tables.items()}
    connection = connector.connect()
    try:
        for name, table in opened.items():
            connection.attach(table, name)
        _run(connection, query, values, output_format)
    except duckdb.Error as error:
        raise _translated(error, list(tables)) from error


def _tables(uris: tuple[str, ...], named: tuple[str, ...]) -> dict[str, str]:
    """URI by name; InvalidInputError where two tables have one name or there is none."""
    tables = key_values(named, "--table")
    for uri in uris:
        name = re.sub(r"\W", "_", re.split(r"[/\\]", uri.rstrip("/\\"))[-1])
        if name in tables:
            raise InvalidInputError(
                f"two tables are called {name!r}", fix=f"name one with --table other={uri}"
            )
        tables[name] = uri
    return tables


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def _duckdb() -> tuple[Any, Any]:
    """DuckDB and our connector to it."""
    # Our connector first: it says what to install where DuckDB is missing.
    connector = importlib.import_module("lake_connectors.duckdb")
    return importlib.import_module("duckdb"), connector


def _run(connection: Any, query: str, values: list[Any], output_format: str) -> None:
    """Run the query and write its rows.

    In a thread of its own: while DuckDB computes for an Arrow reader it looks at no signal, so the main thread has
    to stay free to notice Ctrl-C and stop it.
    """

    def run() -> None:
        answer = connection.sql(query, params=values) if values else connection.sql(query)
        if answer is not None:
            write_rows(answer.to_arrow_reader(), output_format)

    with ThreadPoolExecutor(1, "sql") as worker:
        done = worker.submit(run)
        try:
            done.result()
        except KeyboardInterrupt:
            while not done.done():  # an interrupt before DuckDB has begun is lost on it
                connection.interrupt()
                wait([done], timeout=0.05)
            raise


def _translated(error: Exception, tables: list[str]) -> LakeError:
    """DuckDB's error as one of ours: the one that came up through DuckDB, or what DuckDB itself says."""
    text = str(error).strip()
    ours = _OURS.search(text)
    if ours is not None and ours[1] in errors.__all__:
        kind: type[LakeError] = getattr(errors, ours[1])
        what, _, fix = ours[2].partition(" — ")
        return kind(what, fix=fix or None)
    lines = text.splitlines()
    if _NO_TABLE.match(lines[0]):
        here = f"here are {', '.join(tables)}" if tables else "give the table's URI after the query"
        return InvalidInputError(f"DuckDB: {lines[0]}", fix=here)
    hints = [line for line in lines[1:] if line.startswith(_HINTS)]
    return InvalidInputError(f"DuckDB: {lines[0]}", fix=hints[0] if hints else None)
