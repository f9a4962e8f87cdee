"""``lake index`` and ``drop-index``: build a vector index, remove one."""

from __future__ import annotations

import time

import click

from lake_connectors.cli.command import Command
from lake_connectors.cli.options import open_options, open_table
from lake_connectors.cli.output import bytes_text
from lake_connectors.cli.progress import Progress

__all__ = ["drop_index", "index"]


@click.command(
    cls=Command,
    examples=[
        "lake index items vec",
        "lake index items embedding --metric cosine",
    ],
)
@click.argument("uri")
@click.argument("column")
@click.option(
    "--metric",
    type=click.Choice(["l2", "cosine", "ip"]),
    default="l2",
    show_default=True,
    help="Euclidean distance, cosine distance or inner product.",
)
@click.option(
    "--name", metavar="NAME", help="The index's name; one of that name is replaced. Default: COLUMN_METRIC."
)
@click.option(
    "--lists",
    type=click.IntRange(min=1),
    metavar="N",
    help="Inverted lists; by default chosen from the rows.",
)
@click.option("--seed", type=int, metavar="N", help="Seed of the sampling, to build the same index again.")
@open_options
def index(
    *,
    uri: str,
    column: str,
    metric: str,
    name: str | None,
    lists: int | None,
    seed: int | None,
    storage_options: tuple[str, ...],
) -> None:
    """Build a vector index over COLUMN of the table at URI, and measure its recall.

    Rows appended later are found without it; build it again when there are many.
    """
    table = open_table(uri, None, storage_options)
    started = time.monotonic()
    given = {"lists": lists, "seed": seed}
    options = {key: value for key, value in given.items() if value is not None}
    with Progress() as progress:
        table.create_index(column, metric, name=name, progress=progress, **options)
    made = next(
        row for row in table.inspect.indexes().to_pylist() if row["name"] == (name or f"{column}_{metric}")
    )
    click.echo(
        f"indexed {made['rows']:,} rows in {time.monotonic() - started:.1f} s: index {made['name']}, "
        f"{bytes_text(made['bytes'])}, version {table.version}"
    )


@click.command(
    cls=Command, examples=["lake drop-index items vec_l2", "lake drop-index items vec_l2 --branch try"]
)
@click.argument("uri")
@click.argument("name")
@open_options
def drop_index(*, uri: str, name: str, storage_options: tuple[str, ...]) -> None:
    """Remove the index NAME from the table at URI; its rows are found by comparing all of them from now on."""
    table = open_table(uri, None, storage_options).drop_index(name)
    click.echo(f"index {name} is gone: version {table.version}")
