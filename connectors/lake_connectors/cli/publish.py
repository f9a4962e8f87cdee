"""``lake publish``: a table's version as a snapshot of an Iceberg table over the same files."""

from __future__ import annotations

import importlib

import click

from lake_connectors.cli.command import Command
from lake_connectors.cli.options import key_values, open_options, open_table, target_option

__all__ = ["publish"]


@click.command(
    cls=Command,
    examples=[
        "lake publish items",
        "lake publish s3://bucket/items s3://bucket/published/items --keep 3",
    ],
)
@click.argument("uri")
@click.argument("location", required=False)
@click.option("--keep", type=int, default=10, show_default=True, help="So many of the newest snapshots stay.")
@open_options
@target_option
def publish(
    *,
    uri: str,
    location: str | None,
    keep: int,
    storage_options: tuple[str, ...],
    target_options: tuple[str, ...],
) -> None:
    """Publish the table at URI as an Iceberg table, beside its files or with its metadata at LOCATION.

    The table must be in the open layout (lake create --layout open). Nothing is copied. Publish again after later
    commits: a snapshot is added, in proportion to what changed. Pins keep the files of the published versions.
    """
    iceberg = importlib.import_module("lake_connectors.iceberg")
    published = iceberg.publish(
        open_table(uri, None, storage_options),
        location,
        keep=keep,
        storage_options=key_values(target_options, "--to-option") or None,
    )
    click.echo(f"published version {published.version} as snapshot {published.snapshot_id}")
    click.echo(published.metadata_location)
