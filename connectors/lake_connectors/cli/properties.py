"""``lake properties``: the options a table remembers, among them what ``lake maintain`` goes by."""

from __future__ import annotations

import json

import click

from lake_connectors.cli.command import Command
from lake_connectors.cli.options import key_values, open_options, open_table
from lake_format.errors import InvalidInputError
from lake_format.properties import PROPERTIES

__all__ = ["properties"]


@click.command(
    cls=Command,
    examples=[
        "lake properties items",
        "lake properties items --all",
        "lake properties items maintain.expire-older-than=7d maintain.keep-versions=10",
        "lake properties items --unset maintain.keep-versions",
    ],
)
@click.argument("uri")
@click.argument("values", nargs=-1, metavar="[NAME=VALUE]…")
@click.option("--unset", multiple=True, metavar="NAME", help="Let its default hold again; may be repeated.")
@click.option(
    "--all", "show_all", is_flag=True, help="Show those that were not set too, with their defaults."
)
@click.option("--json", "as_json", is_flag=True, help="The properties as one JSON object.")
@open_options
def properties(
    *,
    uri: str,
    values: tuple[str, ...],
    unset: tuple[str, ...],
    show_all: bool,
    as_json: bool,
    storage_options: tuple[str, ...],
) -> None:
    """Set the properties of the table at URI that are given, in one commit; then show what it has."""
    given = key_values(values, "a property")
    twice = sorted(set(given) & set(unset))
    if twice:
        raise InvalidInputError(f"property {twice[0]!r} is both set and unset", fix="leave one of them out")
    table = open_table(uri, None, storage_options)
    table.set_properties({**given, **dict.fromkeys(unset)})
    known = {name: each.default for name, each in PROPERTIES.items()} if show_all else {}
    shown = {**known, **table.properties}
    if as_json:
        click.echo(json.dumps(shown))
        return
    for name, value in sorted(shown.items()):
        click.echo(f"{name}={value}" + ("" if name in table.properties else "  (default)"))
    if not shown:
        click.echo("no property was set; --all shows the defaults")
