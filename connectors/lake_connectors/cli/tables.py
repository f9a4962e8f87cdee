"""``lake list-tables``: which tables a folder holds."""

from __future__ import annotations

import click

import lake_format as lake
from lake_connectors.cli.command import Command
from lake_connectors.cli.options import key_values, storage_option

__all__ = ["list_tables"]


@click.command(
    "list-tables",
    cls=Command,
    examples=["lake list-tables .", "lake list-tables s3://bucket/shop --option region=eu"],
)
@click.argument("uri")
@storage_option
def list_tables(*, uri: str, storage_options: tuple[str, ...]) -> None:
    """Name the tables in the folder at URI, one a line; those in folders below are not listed."""
    for name in lake.list_tables(uri, storage_options=key_values(storage_options, "--option") or None):
        click.echo(name)
