"""``lake compact``, ``optimize-index``, ``maintain``, ``verify`` and ``repair``: keep a table in order, mend it."""

from __future__ import annotations

import json

import click

from lake_connectors.cli.command import Command
from lake_connectors.cli.options import open_options, open_table, version_option
from lake_connectors.cli.outcome import EXIT_CODES
from lake_connectors.cli.output import bytes_text
from lake_connectors.cli.progress import Progress
from lake_format.errors import CorruptionError, InvalidInputError

__all__ = ["compact", "maintain", "optimize_index", "repair", "verify"]


@click.command(
    cls=Command,
    examples=[
        "lake compact items --dry-run",
        "lake compact items",
        "lake compact items --target-rows 1000000 --deleted-share 0.05",
    ],
)
@click.argument("uri")
@click.option("--target-rows", type=int, metavar="N", help="The most rows of a new fragment.")
@click.option("--target-bytes", type=int, metavar="N", help="The most bytes of a new fragment.")
@click.option(
    "--deleted-share",
    type=float,
    default=0.1,
    show_default=True,
    metavar="SHARE",
    help="From this share of deleted rows on a fragment is written anew.",
)
@click.option("--workers", type=int, metavar="N", help="How many threads write; each takes 60 to 200 MiB.")
@click.option("--dry-run", is_flag=True, help="Only tell how many groups of fragments would be written anew.")
@open_options
def compact(
    *,
    uri: str,
    target_rows: int | None,
    target_bytes: int | None,
    deleted_share: float,
    workers: int | None,
    dry_run: bool,
    storage_options: tuple[str, ...],
) -> None:
    """Put small fragments of the table at URI together, and write anew those in which many rows are deleted."""
    if dry_run and workers is not None:
        raise InvalidInputError("--workers says how to write, --dry-run not to", fix="leave one of them out")
    table = open_table(uri, None, storage_options)
    if dry_run:
        tasks = table.plan_compaction(target_rows, target_bytes=target_bytes, deleted_share=deleted_share)
        click.echo(f"{len(tasks):,} groups of fragments would be written anew; nothing was changed")
        return
    with Progress() as progress:
        report = table.compact(
            target_rows,
            target_bytes=target_bytes,
            deleted_share=deleted_share,
            workers=workers,
            progress=progress,
        )
    yielded = f"; {report.yielded} groups gave way to others' work" if report.yielded else ""
    click.echo(
        f"{report.fragments_removed:,} fragments became {report.fragments_added:,}: {report.rows:,} rows, "
        f"{bytes_text(report.bytes_written)} in {report.commits} commits{yielded}"
    )


@click.command(
    "optimize-index",
    cls=Command,
    examples=["lake optimize-index items", "lake optimize-index items vec_l2 --retrain"],
)
@click.argument("uri")
@click.argument("name", required=False)
@click.option("--retrain/--no-retrain", default=None, help="Train the model anew in any case, or in none.")
@open_options
def optimize_index(
    *, uri: str, name: str | None, retrain: bool | None, storage_options: tuple[str, ...]
) -> None:
    """Let the index NAME of the table at URI, or all of them, take in rows added and changed since."""
    table = open_table(uri, None, storage_options)
    with Progress() as progress:
        reports = table.optimize_index(name, retrain=retrain, progress=progress)
    for report in reports:
        why = f", trained anew: {report.retrained}" if report.retrained else ""
        state = "gave way to others' work" if report.yielded else f"{report.shards} shards{why}"
        click.echo(
            f"{report.index}: {report.encoded:,} rows encoded, {report.copied:,} copied, "
            f"{report.dropped:,} dropped; {state}"
        )
    if not reports:
        click.echo("the table has no index")


@click.command(cls=Command, examples=["lake verify items", "lake verify items --metadata-only --json"])
@click.argument("uri")
@version_option
@click.option("--metadata-only", is_flag=True, help="Leave data and index files unread.")
@click.option("--json", "as_json", is_flag=True, help="The report as one JSON object.")
@open_options
def verify(
    *,
    uri: str,
    version: int | None,
    metadata_only: bool,
    as_json: bool,
    storage_options: tuple[str, ...],
) -> None:
    """Check every reference, size, checksum, count and bound of a version of the table at URI.

    Ends with exit code 8 where something is damaged.
    """
    table = open_table(uri, version, storage_options)
    with Progress(unit="fragments") as progress:
        report = table.verify(data=not metadata_only, progress=progress)
    if as_json:
        click.echo(json.dumps(report.to_dict()))
    else:
        for problem in report.problems:
            click.echo(f"{problem.path}: {problem.what}")
        looked = f"{report.fragments:,} fragments, {report.files:,} files, {report.indexes:,} indexes"
        click.echo(f"version {report.version}: {looked}; {len(report.problems)} problems")
    if not report.ok:
        click.get_current_context().exit(EXIT_CODES[CorruptionError.code])


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
