"""``lake import-iceberg`` and ``lake refresh-iceberg``: Iceberg tables as tables, and their later snapshots."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

import click

from lake_connectors.cli.command import Command
from lake_connectors.cli.options import key_values, storage_option
from lake_format.errors import InvalidInputError

__all__ = ["import_iceberg", "refresh_iceberg"]


def _shared(command: Any) -> Any:
    """The options of both commands."""
    source = click.option(
        "--from-option",
        "source_options",
        multiple=True,
        metavar="KEY=VALUE",
        help="A storage option for the Iceberg table's place; may be repeated.",
    )
    external = click.option(
        "--allow-external",
        "allowed",
        multiple=True,
        metavar="PREFIX",
        help="A further place that its files may lie in; may be repeated.",
    )
    vectors = click.option(
        "--vector",
        "vectors",
        multiple=True,
        metavar="COLUMN=DIMENSION",
        help="A column of lists that is to be one of vectors; may be repeated.",
    )
    snapshot = click.option(
        "--snapshot", "snapshot", type=int, metavar="ID", help="The snapshot; default: the current one."
    )
    return snapshot(vectors(external(storage_option(source(command)))))


@click.command(
    "import-iceberg",
    cls=Command,
    examples=[
        "lake import-iceberg warehouse/shop/items/metadata/00003-4a.metadata.json items",
        "lake import-iceberg s3://wh/items/metadata/00003-4a.metadata.json items --vector embedding=384",
    ],
)
@click.argument("source")
@click.argument("uri")
@_shared
def import_iceberg(*, source: str, uri: str, **given: Any) -> None:
    """Make a table at URI of the Iceberg table whose metadata file is SOURCE, without copying a byte.

    Its files stay where they are: open the table with --allow-external and the Iceberg table's place.
    """
    table = importlib.import_module("lake_connectors.iceberg").import_table(source, uri, **_options(given))
    click.echo(f"imported {table.count():,} rows: {table.uri}")


@click.command(
    "refresh-iceberg",
    cls=Command,
    examples=[
        "lake refresh-iceberg warehouse/shop/items/metadata/00004-7c.metadata.json items",
        "lake refresh-iceberg s3://wh/items/metadata/00004-7c.metadata.json items --snapshot 42",
    ],
)
@click.argument("source")
@click.argument("uri")
@_shared
def refresh_iceberg(*, source: str, uri: str, **given: Any) -> None:
    """Bring the imported table at URI to another snapshot of the Iceberg table whose metadata file is SOURCE.

    Reads only what is new there. What was done to the table here stays; where that does not go together, it says so.
    """
    table = importlib.import_module("lake_connectors.iceberg").refresh_table(source, uri, **_options(given))
    click.echo(f"version {table.version}, {table.count():,} rows: {table.uri}")


def _options(given: dict[str, Any]) -> dict[str, Any]:
    return {
        "snapshot_id": given["snapshot"],
        "vectors": _dimensions(given["vectors"]) or None,
        "allow_external": given["allowed"] or None,
        "storage_options": key_values(given["storage_options"], "--option") or None,
        "source_options": key_values(given["source_options"], "--from-option") or None,
    }


def _dimensions(words: Iterable[str]) -> dict[str, int]:
    found = key_values(words, "--vector")
    wrong = next((word for word in found.items() if not word[1].isdecimal()), None)
    if wrong is not None:
        raise InvalidInputError(
            f"--vector takes COLUMN=DIMENSION, not {'='.join(wrong)!r}", fix="for example embedding=384"
        )
    return {name: int(number) for name, number in found.items()}
