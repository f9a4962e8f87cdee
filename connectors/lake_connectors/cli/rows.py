"""``lake delete`` and ``update``: change the rows that match a filter, in one commit."""

from __future__ import annotations

import click

import lake_format as lake
from lake_connectors.cli.command import Command
from lake_connectors.cli.options import key_values, open_options, open_table
from lake_connectors.cli.progress import Progress

__all__ = ["delete", "update"]

_which_option = click.option(
    "--where", metavar="SQL", required=True, help='Which rows, e.g. "price < 10"; "true" means all of them.'
)


@click.command(
    cls=Command, examples=['lake delete items --where "price < 10"', "lake delete items --where true"]
)
@click.argument("uri")
@_which_option
@open_options
def delete(*, uri: str, where: str, storage_options: tuple[str, ...]) -> None:
    """Remove the rows of the table at URI that match, in one commit. Older versions keep them."""
    table = open_table(uri, None, storage_options)
    with Progress() as progress:
        done = table.delete(where, progress=progress)
    click.echo(f"{done.deleted:,} rows deleted: version {table.version}, {table.count():,} rows")


@click.command(
    cls=Command,
    examples=[
        'lake update items --set "price=price * 1.1" --where "kind = \'book\'"',
        "lake update items --set \"title='none'\" --set stock=0 --where true",
    ],
)
@click.argument("uri")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    required=True,
    metavar="COLUMN=SQL",
    help="A column and its new value, over the columns of the row; text in single quotes. May be repeated.",
)
@_which_option
@open_options
def update(*, uri: str, assignments: tuple[str, ...], where: str, storage_options: tuple[str, ...]) -> None:
    """Give columns new values in the rows of the table at URI that match, in one commit."""
    values = {name: lake.sql(text) for name, text in key_values(assignments, "--set").items()}
    table = open_table(uri, None, storage_options)
    with Progress() as progress:
        done = table.update(values, where, progress=progress)
    click.echo(f"{done.updated:,} rows updated ({done.strategy}): version {table.version}")
