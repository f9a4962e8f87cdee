"""``lake clone`` and ``lake release-pin``: a table that shares the files of another one, and letting go of them."""

from __future__ import annotations

import warnings

import click

from lake_connectors.cli.command import Command
from lake_connectors.cli.options import key_values, open_options, open_table, target_option, version_option

__all__ = ["clone", "release_pin"]


@click.command(
    cls=Command,
    examples=[
        "lake clone items try",
        "lake clone s3://bucket/items s3://bucket/try --version 3 --to-option region=eu-west-1",
    ],
)
@click.argument("uri")
@click.argument("target")
@version_option
@open_options
@target_option
def clone(
    *,
    uri: str,
    target: str,
    version: int | None,
    storage_options: tuple[str, ...],
    target_options: tuple[str, ...],
) -> None:
    """Make a table at TARGET out of a version of the table at URI, without copying a byte of its rows.

    Its files stay where they are: open the clone with --allow-external URI. A pin keeps them there, whatever expires.
    """
    table = open_table(uri, version, storage_options)
    with warnings.catch_warnings(action="ignore"):  # it is told below
        made = table.clone(target, storage_options=key_values(target_options, "--to-option") or None)
    click.echo(f"cloned version {table.version}, {made.count():,} rows: {made.uri}")
    for source in made.inspect.sources().to_pylist():
        if not source["pinned"]:
            click.echo(
                f"warning: not pinned in {source['uri']}, which cannot be written to: the clone lasts only as long "
                "as that table keeps the version",
                err=True,
            )


@click.command(
    "release-pin",
    cls=Command,
    examples=[
        "lake release-pin items 0f8c1d1e-5b0a-4b57-9f0e-0c4f7a6d2b11",
        "lake release-pin s3://bucket/items 0f8c1d1e-5b0a-4b57-9f0e-0c4f7a6d2b11 --option region=eu-west-1",
    ],
)
@click.argument("uri")
@click.argument("table_id")
@open_options
def release_pin(*, uri: str, table_id: str, storage_options: tuple[str, ...]) -> None:
    """Let the table at URI collect what the clone TABLE_ID shares; `lake inspect URI pins` lists them.

    A clone that still refers to files there breaks when they are collected.
    """
    open_table(uri, None, storage_options).release_pin(table_id)
    click.echo(f"released the pin of {table_id}")
