"""``lake search``: the rows nearest to a vector, to several, or to a row of the table."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from lake_connectors.cli.command import Command
from lake_connectors.cli.options import (
    COLUMN_LIST,
    format_option,
    open_options,
    open_table,
    read_json,
    version_option,
    where_option,
)
from lake_connectors.cli.output import note, write_rows
from lake_format.errors import InvalidInputError
from lake_format.queries import vector_column
from lake_format.schema import DISTANCE, ROW_ID, is_vector

if TYPE_CHECKING:
    from lake_format import Table

__all__ = ["search"]


@click.command(
    cls=Command,
    examples=[
        'lake search items --vector "[0.1, 0.7, 0.2]" --k 5',
        'lake search items --vector @query.json --where "price < 10" --select title,_distance',
        "lake search items --like-row 17 --exact --format json",
        "lake search items --like-row 17 --explain",
    ],
)
@click.argument("uri")
@click.option(
    "--vector", metavar="JSON|@FILE", help='"[0.1, 0.2, …]", a list of such lists, or @FILE (.json, .npy).'
)
@click.option(
    "--like-row", type=click.IntRange(min=0), metavar="ID", help="Search with the vector of this row."
)
@click.option("--k", type=int, default=10, show_default=True, help="How many neighbours.")
@click.option("--column", metavar="NAME", help="The vector column; needed where there are several.")
@where_option
@click.option(
    "--select", type=COLUMN_LIST, metavar="A,B,…", help="Columns shown; by default all but the vectors."
)
@click.option("--metric", type=click.Choice(["l2", "cosine", "ip"]), help="By default the index's own.")
@click.option(
    "--recall", type=float, default=0.95, show_default=True, help="Share of true neighbours wanted."
)
@click.option("--exact", is_flag=True, help="Compare with every matching row instead of using the index.")
@click.option("--explain", is_flag=True, help="Also say, on standard error, how the search was done.")
@version_option
@format_option
@open_options
def search(
    *,
    uri: str,
    vector: str | None,
    like_row: int | None,
    k: int,
    column: str | None,
    where: str | None,
    select: list[str] | None,
    metric: str | None,
    recall: float,
    exact: bool,
    explain: bool,
    version: int | None,
    output_format: str,
    storage_options: tuple[str, ...],
) -> None:
    """Find the rows of the table at URI whose vectors are nearest, nearest first.

    _distance is Euclidean for l2, 1 - cosine for cosine, and the negated inner product for ip. With --like-row the
    row itself comes first. Several query vectors at once give a column _query. JSON is one object a line.
    """
    if (vector is None) == (like_row is None):
        raise InvalidInputError("a search needs a query", fix="give either --vector or --like-row")
    table = open_table(uri, version, storage_options)
    query = (
        read_json(vector, "--vector") if vector is not None else _vector_of(table, int(like_row or 0), column)
    )
    table.engine.warm(table.snapshot)  # opening the index is start-up, not search
    started = time.perf_counter()
    result = table.search(
        query,
        k,
        column,
        where,
        select or _default_columns(table),
        recall=recall,
        exact=exact,
        metric=metric,
    )
    took = time.perf_counter() - started
    write_rows(result.to_arrow(), output_format)
    if explain:
        note(result.explain())
    elif output_format == "table":
        note(f"{len(result):,} rows in {took * 1000:.1f} ms; --explain tells how")


def _default_columns(table: Table) -> list[str]:
    return [DISTANCE, ROW_ID, *(field.name for field in table.schema if not is_vector(field.type))]


def _vector_of(table: Table, row_id: int, column: str | None) -> Any:
    version = table.snapshot.version
    indexed = [entry.field_id for entry in version.indexes]
    name = vector_column(version.schema, column, indexed).name
    vector = table.take([row_id], [name]).column(0)[0]
    if not vector.is_valid:
        raise InvalidInputError(
            f"row {row_id} has no vector in {name!r}: it is NULL", fix="choose another row"
        )
    return vector.values
