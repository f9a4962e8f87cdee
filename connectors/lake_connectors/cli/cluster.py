"""``lake cluster``: bring the rows of a table into an order in which those read together lie together."""

from __future__ import annotations

import click

from lake_connectors.cli.command import Command
from lake_connectors.cli.options import open_options, open_table
from lake_connectors.cli.output import bytes_text
from lake_connectors.cli.progress import Progress
from lake_format.clustering import METHODS

__all__ = ["cluster"]


@click.command(
    cls=Command,
    examples=[
        "lake cluster items price created",
        "lake cluster items --vector embedding",
        "lake cluster items",
    ],
)
@click.argument("uri")
@click.argument("columns", nargs=-1)
@click.option("--vector", metavar="COLUMN", help="Order rows as the lists of this column's index.")
@click.option("--method", type=click.Choice(METHODS), help="How several columns make one order.")
@click.option("--everything", is_flag=True, help="Sort again what is in this order already.")
@open_options
def cluster(
    *,
    uri: str,
    columns: tuple[str, ...],
    vector: str | None,
    method: str | None,
    everything: bool,
    storage_options: tuple[str, ...],
) -> None:
    """Bring the rows of the table at URI into order by COLUMNS, or by the order the table was given.

    Row ids and indexes stay as they are; what is in order already is left alone.
    """
    table = open_table(uri, None, storage_options)
    with Progress() as progress:
        done = table.cluster(
            columns or None, vector=vector, method=method, everything=everything, progress=progress
        )
    click.echo(
        f"clustered {done.rows:,} rows: {done.fragments_removed} fragments became {done.fragments_added}, "
        f"{bytes_text(done.bytes_written)}, version {table.version}"
    )
    if done.yielded:
        click.echo(f"{done.yielded} groups were changed meanwhile and left alone; run it again")
