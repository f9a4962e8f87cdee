"""``lake branch``: list, make, merge and delete branches, and bring main forward to one."""

from __future__ import annotations

import json

import click

from lake_connectors.cli.command import Command
from lake_connectors.cli.options import open_options, open_table, version_option
from lake_format.errors import InvalidInputError

__all__ = ["branch"]


@click.command(
    cls=Command,
    examples=[
        "lake branch list items",
        "lake branch create items try",
        "lake branch merge items try",
        "lake branch fast-forward items try",
        "lake branch delete items try",
    ],
)
@click.argument("action", type=click.Choice(["list", "create", "delete", "merge", "fast-forward"]))
@click.argument("uri")
@click.argument("name", required=False)
@version_option
@click.option("--json", "as_json", is_flag=True, help="The list as one JSON object a line.")
@open_options
def branch(
    *,
    action: str,
    uri: str,
    name: str | None,
    version: int | None,
    as_json: bool,
    storage_options: tuple[str, ...],
) -> None:
    """List, create, merge or delete branches of the table at URI, or bring main forward to one.

    A branch is made from the newest version, or from another with --version; from another branch with --branch.
    It is merged into what it was made from: into main, or with --branch into that branch.
    """
    table = open_table(uri, version if action == "create" else None, storage_options)
    if action == "list":
        for one in table.branches():
            told = (
                json.dumps(one)
                if as_json
                else f"{one['name']}  from {one['from_branch']} {one['from_version']}"
            )
            click.echo(told)
        return
    if name is None:
        raise InvalidInputError(
            f"{action} needs the name of a branch", fix=f"lake branch {action} {uri} NAME"
        )
    if action == "create":
        made = table.create_branch(name)
        click.echo(f"branch {name}: {made.count():,} rows of version {table.version} of {table.branch}")
    elif action == "delete":
        table.delete_branch(name)
        click.echo(f"branch {name} deleted")
    elif action == "merge":
        table.merge_branch(name)
        click.echo(f"{name} is merged into {table.branch}: version {table.version}, {table.count():,} rows")
    else:
        table.fast_forward(name)
        click.echo(f"main is where {name} is: version {table.version}, {table.count():,} rows")
