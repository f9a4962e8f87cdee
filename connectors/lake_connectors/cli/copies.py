"""``lake backup`` and ``lake restore-backup``: a table's versions in another place, and a table made from them."""

from __future__ import annotations

import time

import click

import lake_format as lake
from lake_connectors.cli.command import Command
from lake_connectors.cli.options import key_values, open_options, open_table, target_option, version_option
from lake_connectors.cli.output import bytes_text
from lake_connectors.cli.progress import Progress

__all__ = ["backup", "restore_backup"]


@click.command(
    cls=Command,
    examples=[
        "lake backup items /backups/items",
        "lake backup items s3://bucket/backups/items --to-option region=eu-west-1",
    ],
)
@click.argument("uri")
@click.argument("target")
@version_option
@open_options
@target_option
def backup(
    *,
    uri: str,
    target: str,
    version: int | None,
    storage_options: tuple[str, ...],
    target_options: tuple[str, ...],
) -> None:
    """Copy the newest version of the table at URI, and those with a tag, into the backup TARGET.

    Only what the backup lacks is copied. A version is there whole or not at all; an interrupted backup is simply
    started again.
    """
    table = open_table(uri, version, storage_options)
    started = time.monotonic()
    with Progress(unit="bytes") as progress:
        report = table.backup(
            target, storage_options=key_values(target_options, "--to-option") or None, progress=progress
        )
    click.echo(
        f"backed up version {report.version} in {time.monotonic() - started:.1f} s: "
        f"copied {report.copied:,} objects, {bytes_text(report.copied_bytes)}; {report.kept:,} were there"
    )


@click.command(
    "restore-backup",
    cls=Command,
    examples=[
        "lake restore-backup /backups/items items",
        "lake restore-backup s3://bucket/backups/items items --version 3 --option region=eu-west-1",
    ],
)
@click.argument("source")
@click.argument("uri")
@click.option(
    "--version", "version", type=int, metavar="N", help="A version the backup holds; default: the newest."
)
@click.option(
    "--option",
    "source_options",
    multiple=True,
    metavar="KEY=VALUE",
    help="A storage option for the backup; may be repeated.",
)
@target_option
def restore_backup(
    *,
    source: str,
    uri: str,
    version: int | None,
    source_options: tuple[str, ...],
    target_options: tuple[str, ...],
) -> None:
    """Make a table at URI from the backup SOURCE. Every object is compared with what was copied there.

    URI must be an empty place. An interrupted restore is simply started again.
    """
    started = time.monotonic()
    with Progress(unit="bytes") as progress:
        table = lake.restore_backup(
            source,
            uri,
            version,
            backup_options=key_values(source_options, "--option") or None,
            storage_options=key_values(target_options, "--to-option") or None,
            progress=progress,
        )
    click.echo(
        f"restored version {table.version}, {table.count():,} rows, in {time.monotonic() - started:.1f} s: "
        f"{table.uri}"
    )
