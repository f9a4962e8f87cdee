"""``lake add-column``, ``rename-column`` and ``drop-column``: which columns a table has."""

from __future__ import annotations

import click

import lake_format as lake
from lake_connectors.cli.command import Command
from lake_connectors.cli.options import open_options, open_table
from lake_connectors.cli.progress import Progress
from lake_connectors.cli.schema_text import parse_schema, type_text
from lake_format.errors import InvalidInputError

__all__ = ["add_column", "drop_column", "rename_column"]


@click.command(
    cls=Command,
    examples=[
        "lake add-column items stock --type int64",
        'lake add-column items title_length --sql "length(title)"',
        'lake add-column items with_tax --sql "price * 1.2" --type float64 --computed',
    ],
)
@click.argument("uri")
@click.argument("name")
@click.option(
    "--type", "type_words", metavar="TEXT", help="Its type, as for lake create; --sql tells one itself."
)
@click.option("--sql", metavar="SQL", help="Its values, over the other columns of the row.")
@click.option(
    "--computed",
    is_flag=True,
    help="Keep --sql with the column: rows to come, and rows that change, get theirs too.",
)
@click.option("--not-null", is_flag=True, help="Forbid NULL in it.")
@click.option("--comment", metavar="TEXT", help="Kept with the column.")
@open_options
def add_column(
    *,
    uri: str,
    name: str,
    type_words: str | None,
    sql: str | None,
    computed: bool,
    not_null: bool,
    comment: str | None,
    storage_options: tuple[str, ...],
) -> None:
    """Add the column NAME to the table at URI.

    Of NULLs it is metadata only. Values are written as one file a fragment, and no other file is touched. NAME may be
    "a.b", a new member of the struct a.
    """
    if type_words is None and sql is None:
        raise InvalidInputError("a column needs a type or values", fix="give --type, --sql or both")
    if computed and sql is None:
        raise InvalidInputError("--computed says that --sql stays with the column", fix="give --sql")
    table = open_table(uri, None, storage_options)
    with Progress() as progress:
        table.add_column(
            name,
            None if type_words is None else parse_schema(f"column {type_words}").field(0).type,
            None if sql is None else lake.sql(sql),
            nullable=not not_null,
            comment=comment,
            computed=computed,
            progress=progress,
        )
    (added,) = (row for row in table.inspect.columns().to_pylist() if row["column"] == name.partition(".")[0])
    told = f", computed as {added['computed']}" if added["computed"] else ""
    shown = type_text(table.schema.field(added["column"]).type)
    click.echo(f"{added['column']} is {shown}{told}: version {table.version}")


@click.command(
    cls=Command,
    examples=["lake rename-column items title name", "lake rename-column items address.zip postcode"],
)
@click.argument("uri")
@click.argument("column")
@click.argument("name")
@open_options
def rename_column(*, uri: str, column: str, name: str, storage_options: tuple[str, ...]) -> None:
    """Call COLUMN of the table at URI NAME from now on. Only metadata changes; COLUMN may be a member "a.b"."""
    table = open_table(uri, None, storage_options).rename_column(column, name)
    click.echo(f"{column} is called {name} now: version {table.version}")


@click.command(cls=Command, examples=["lake drop-column items stock", "lake drop-column items address.zip"])
@click.argument("uri")
@click.argument("column")
@open_options
def drop_column(*, uri: str, column: str, storage_options: tuple[str, ...]) -> None:
    """Remove COLUMN, which may be a member "a.b", from the table at URI. Older versions keep it."""
    table = open_table(uri, None, storage_options).drop_column(column)
    click.echo(f"{column} is gone: version {table.version}")
