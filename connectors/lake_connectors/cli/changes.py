"""``lake changes``: the change data feed of a table."""

from __future__ import annotations

import click

from lake_connectors.cli.command import Command
from lake_connectors.cli.options import COLUMN_LIST, format_option, open_options, open_table
from lake_connectors.cli.output import write_rows

__all__ = ["changes"]


class _When(click.ParamType[int | str]):
    """A version's number, a tag, or a moment."""

    name = "version"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Digits as a number, anything else as it is."""
        text = str(value)
        return int(text) if text.isascii() and text.isdigit() else text


@click.command(
    cls=Command,
    examples=[
        "lake changes items --since 12",
        "lake changes items --since 2026-03-01T00:00:00Z --format json > changes.jsonl",
        "lake changes items --since loaded --until 40 --columns id,price",
    ],
)
@click.argument("uri")
@click.option(
    "--since",
    type=_When(),
    required=True,
    metavar="WHEN",
    help="A version, a tag or a time; later changes count.",
)
@click.option("--until", type=_When(), metavar="WHEN", help="The last version told; by default the newest.")
@click.option("--columns", type=COLUMN_LIST, metavar="A,B,…", help="Only these columns.")
@format_option
@open_options
def changes(
    *,
    uri: str,
    since: int | str,
    until: int | str | None,
    columns: list[str] | None,
    output_format: str,
    storage_options: tuple[str, ...],
) -> None:
    """Rows of the table at URI that were inserted, updated or deleted since a version, in the order of commits.

    An update is two rows: update_preimage with the values before it, update_postimage with those after. All values
    are in the columns the last version has. Nothing but what changed is read.
    """
    table = open_table(uri, None, storage_options)
    write_rows(table.changes(since, until, columns=columns), output_format)
