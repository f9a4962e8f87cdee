"""``lake tag``, ``restore``, ``expire`` and ``collect-garbage``: which versions there are, and what they need."""

from __future__ import annotations

from datetime import timedelta

import click

from lake_connectors.cli.command import Command
from lake_connectors.cli.options import open_options, open_table, version_option
from lake_connectors.cli.output import bytes_text
from lake_format.errors import InvalidInputError

__all__ = ["collect_garbage", "expire", "restore", "tag"]


@click.command(
    cls=Command,
    examples=[
        "lake tag list items",
        "lake tag set items v1",
        "lake tag set items v1 --version 3 --move",
        "lake tag delete items v1",
    ],
)
@click.argument("action", type=click.Choice(["list", "set", "delete"]))
@click.argument("uri")
@click.argument("name", required=False)
@version_option
@click.option("--move", is_flag=True, help="Let a tag that names another version name this one.")
@open_options
def tag(
    *,
    action: str,
    uri: str,
    name: str | None,
    version: int | None,
    move: bool,
    storage_options: tuple[str, ...],
) -> None:
    """List, set or delete tags of the table at URI: names of versions, which then never expire."""
    table = open_table(uri, None, storage_options)
    if action == "list":
        for known, number in table.tags().items():
            click.echo(f"{known}  version {number}")
        return
    if name is None:
        raise InvalidInputError(f"{action} needs the name of a tag", fix=f"lake tag {action} {uri} NAME")
    if action == "set":
        table.tag(name, version, move=move)
        click.echo(f"{name} names version {table.tags()[name]}")
    else:
        table.delete_tag(name)
        click.echo(f"tag {name} deleted")


@click.command(cls=Command, examples=["lake restore items 3", "lake restore items v1"])
@click.argument("uri")
@click.argument("version")
@open_options
def restore(*, uri: str, version: str, storage_options: tuple[str, ...]) -> None:
    """Make the columns, rows and indexes of VERSION, a number or a tag, current; nothing of the history goes."""
    table = open_table(uri, None, storage_options)
    table.restore(int(version) if version.isdigit() else version)
    click.echo(f"version {table.version} is version {version} again: {table.count():,} rows")


@click.command(
    cls=Command, examples=["lake expire items --keep 10", "lake expire items --older-than-days 30"]
)
@click.argument("uri")
@click.option(
    "--older-than-days", type=float, metavar="DAYS", help="Those that ceased to be current so long ago."
)
@click.option(
    "--keep",
    type=int,
    default=1,
    show_default=True,
    metavar="N",
    help="So many of the newest versions stay, whatever their age.",
)
@open_options
def expire(*, uri: str, older_than_days: float | None, keep: int, storage_options: tuple[str, ...]) -> None:
    """Let old versions of the table at URI go. Tagged ones stay; files are removed by `lake collect-garbage`."""
    age = None if older_than_days is None else timedelta(days=older_than_days)
    report = open_table(uri, None, storage_options).expire_versions(age, keep=keep)
    click.echo(f"{report.expired:,} versions expired; the oldest is {report.horizon}")


@click.command(
    "collect-garbage",
    cls=Command,
    examples=["lake collect-garbage items", "lake collect-garbage items --apply"],
)
@click.argument("uri")
@click.option("--apply", is_flag=True, help="Remove the files; otherwise only tell which.")
@click.option(
    "--grace-minutes",
    type=float,
    default=10.0,
    show_default=True,
    metavar="MINUTES",
    help="How much older than the oldest kept version a file must be.",
)
@open_options
def collect_garbage(*, uri: str, apply: bool, grace_minutes: float, storage_options: tuple[str, ...]) -> None:
    """Remove files of the table at URI that no version needs: of expired versions, and of writers that failed."""
    table = open_table(uri, None, storage_options)
    report = table.collect_garbage(dry_run=not apply, grace=timedelta(minutes=grace_minutes))
    for path in report.objects:
        click.echo(path)
    done = "removed" if apply else "would be removed with --apply"
    click.echo(f"{len(report.objects):,} files, {bytes_text(report.bytes)}, {done}")
