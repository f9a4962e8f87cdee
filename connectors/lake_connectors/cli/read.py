"""``lake scan``: rows of a table, some columns, a filter, a limit."""

from __future__ import annotations

import click

from lake_connectors.cli.command import Command
from lake_connectors.cli.options import (
    COLUMN_LIST,
    format_option,
    open_options,
    open_table,
    version_option,
    where_option,
)
from lake_connectors.cli.output import note, write_rows

__all__ = ["scan"]

TABLE_ROWS = 20


@click.command(
    cls=Command,
    examples=[
        "lake scan items",
        'lake scan items --columns id,title --where "price < 10" --limit 100',
        "lake scan items --format csv > items.csv",
        "lake scan items --version 3 --format json | head",
    ],
)
@click.argument("uri")
@click.option(
    "--columns", type=COLUMN_LIST, metavar="A,B,…", help="Only these columns; _row_id may be among them."
)
@where_option
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="At most so many rows.")
@version_option
@format_option
@open_options
def scan(
    *,
    uri: str,
    columns: list[str] | None,
    where: str | None,
    limit: int | None,
    version: int | None,
    output_format: str,
    storage_options: tuple[str, ...],
) -> None:
    """Read rows of the table at URI.

    As a table, the first 20 rows unless --limit says otherwise, with long values shortened; as JSON or CSV, all
    rows and every value whole. JSON is one object a line: numbers keep every digit, dates, times and timestamps
    (in UTC) are strings, bytes are base64, NaN and infinities are strings. In CSV, NULL is an empty cell and the
    empty text is "".
    """
    table = open_table(uri, version, storage_options)
    wanted = TABLE_ROWS if limit is None and output_format == "table" else limit
    # One row more than is shown tells whether there are more, without counting them.
    asked = wanted + 1 if limit is None and wanted is not None else wanted
    reader = table.scan(columns, where, asked)
    if limit is not None or wanted is None:
        write_rows(reader, output_format)
        return
    rows = reader.read_all()
    write_rows(rows.slice(0, wanted), output_format)
    if rows.num_rows > wanted:
        note(f"first {wanted} rows; --limit shows more, --format csv or json all")
