"""``lake maintain`` and ``lake repair``: keep a table in order, mend it."""

from __future__ import annotations

import json

import click

from lake_connectors.cli.command import Command
from lake_connectors.cli.options import open_options, open_table
from lake_connectors.cli.progress import Progress

__all__ = ["maintain", "repair"]


@click.command(
    cls=Command,
    examples=["lake maintain items --dry-run", "lake maintain items"],
)
@click.argument("uri")
@click.option("--dry-run", is_flag=True, help="Only tell what is due.")
@click.option("--json", "as_json", is_flag=True, help="The report as one JSON object.")
@open_options
def maintain(*, uri: str, dry_run: bool, as_json: bool, storage_options: tuple[str, ...]) -> None:
    """Do the upkeep of the table at URI that is due by its maintain.* properties.

    Compaction, then the order of rows, then indexes, then old versions, then what nobody needs any more.
    """
    table = open_table(uri, None, storage_options)
    with Progress() as progress:
        report = table.maintain(dry_run=dry_run, progress=progress)
    if as_json:
        click.echo(json.dumps(report.to_dict()))
        return
    for step in report.steps:
        state = ("due" if dry_run else "done") if step.due else "not due"
        click.echo(f"{step.name:<16} {state:<8} {step.why}")


@click.command(
    cls=Command,
    examples=["lake repair items", "lake repair items --apply", "lake repair items --apply --drop-lost"],
)
@click.argument("uri")
@click.option("--apply", is_flag=True, help="Mend what can be mended; otherwise only tell.")
@click.option("--drop-lost", is_flag=True, help="Remove the rows of files that cannot be read.")
@click.option("--json", "as_json", is_flag=True, help="The report as one JSON object.")
@open_options
def repair(
    *, uri: str, apply: bool, drop_lost: bool, as_json: bool, storage_options: tuple[str, ...]
) -> None:
    """Look at everything the table at URI names, and mend what can be mended, in one commit."""
    table = open_table(uri, None, storage_options)
    with Progress() as progress:
        report = table.repair(dry_run=not apply, drop_lost=drop_lost, progress=progress)
    if as_json:
        click.echo(json.dumps(report.to_dict()))
        return
    for finding in report.findings:
        rows = f" ({finding.rows:,} rows)" if finding.rows else ""
        click.echo(f"{finding.path}: {finding.what}{rows}")
        click.echo(f"  {finding.action or 'left as it is; --drop-lost removes the rows'}")
    done = f"version {report.version}" if apply else "nothing was changed"
    click.echo(f"{len(report.findings)} problems, {len(report.left)} of them left; {done}")
