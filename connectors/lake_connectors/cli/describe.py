"""``lake describe``, ``lake history`` and ``lake inspect``: what a table is made of, and how it came to be so."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
import pyarrow as pa
import pyarrow.compute as pc

from lake_connectors.cli.command import Command
from lake_connectors.cli.options import format_option, open_options, open_table, version_option
from lake_connectors.cli.output import bytes_text, print_facts, print_json, write_rows
from lake_connectors.cli.schema_text import type_text

if TYPE_CHECKING:
    from lake_format import Table

__all__ = ["describe", "history", "inspect"]

_READERS = {
    "parquet": "any Parquet reader",
    "vortex": "vortex-data",
}
_BYTES = re.compile(r"\bbytes=(\d+)")
PARTS = (
    "columns",
    "fragments",
    "partitions",
    "files",
    "manifests",
    "indexes",
    "versions",
    "roots",
    "sources",
    "pins",
)


@click.command(
    cls=Command,
    examples=[
        "lake describe items",
        "lake describe s3://bucket/items --version 3 --format json",
    ],
)
@click.argument("uri")
@version_option
@format_option
@open_options
def describe(uri: str, version: int | None, output_format: str, storage_options: tuple[str, ...]) -> None:
    """What the table at URI is: its columns, rows, files and indexes, and which other programs can read each file."""
    table = open_table(uri, version, storage_options)
    facts = _facts(table)
    if output_format == "json":
        print_json(facts)
    elif output_format == "csv":
        write_rows(pa.Table.from_pylist(facts["columns"]), "csv")
    else:
        print_facts(_shown(facts))


@click.command(
    cls=Command,
    examples=[
        "lake history items",
        "lake history items --limit 5 --format json",
    ],
)
@click.argument("uri")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the newest versions.")
@version_option
@format_option
@open_options
def history(
    *, uri: str, limit: int | None, version: int | None, output_format: str, storage_options: tuple[str, ...]
) -> None:
    """Every version of the table at URI, newest first: when it was made, by what, and how many rows it has.

    Any of them can be read: pass its number as --version to scan, search, sql, describe or inspect.
    """
    table = open_table(uri, version, storage_options)
    shown = table.inspect.versions(limit=limit, newest_first=True)
    if output_format == "table":
        shown = _for_people(shown)
    write_rows(shown, output_format)


@click.command(
    cls=Command,
    examples=[
        "lake inspect items files",
        "lake inspect items fragments --version 2 --format csv",
    ],
)
@click.argument("uri")
@click.argument("part", type=click.Choice(PARTS))
@version_option
@format_option
@open_options
def inspect(
    *, uri: str, part: str, version: int | None, output_format: str, storage_options: tuple[str, ...]
) -> None:
    """One row for each column, fragment, file, manifest, index, version, root, source or pin of the table at URI.

    Roots are external places it reads from, sources the tables it was cloned from, pins what it keeps for clones.
    """
    table = open_table(uri, version, storage_options)
    write_rows(getattr(table.inspect, part)(), output_format)


def _for_people(versions: pa.Table) -> pa.Table:
    """The history with whole seconds, readable sizes, and without ids."""
    seconds = versions.column("committed_at").cast(pa.timestamp("s", "UTC"), safe=False)
    summaries = [_BYTES.sub(_readable_bytes, text) for text in versions.column("summary").to_pylist()]
    shown = versions.set_column(1, "committed_at", seconds).drop_columns(
        ["commit_id", "writer_id", "summary"]
    )
    return shown.append_column("summary", pa.array(summaries, pa.string()))


def _readable_bytes(match: re.Match[str]) -> str:
    return f"bytes={bytes_text(int(match[1]))}"


def _facts(table: Table) -> dict[str, Any]:
    version = table.snapshot.version
    files, indexes = table.inspect.files(), table.inspect.indexes()
    committed = datetime.fromtimestamp(version.committed_at / 1_000_000, tz=UTC)
    return {
        "uri": table.uri,
        "version": table.version,
        "committed_at": committed.isoformat(timespec="seconds"),
        "rows": table.count(),
        "fragments": table.inspect.fragments().num_rows,
        "files": files.num_rows,
        "file_bytes": pc.sum(files.column("bytes")).as_py() or 0,
        "columns": _columns(table, files),
        "indexes": indexes.to_pylist(),
        "properties": table.properties,
        "external_roots": table.inspect.roots().to_pylist(),
        "sources": table.inspect.sources().to_pylist(),
    }


def _columns(table: Table, files: pa.Table) -> list[dict[str, Any]]:
    formats: dict[str, Counter[str]] = {field.name: Counter() for field in table.schema}
    for row in files.select(["columns", "format"]).to_pylist():
        for name in row["columns"]:
            if name in formats:
                formats[name][row["format"]] += 1
    declared = table.inspect.columns().select(["default", "computed"]).to_pylist()
    return [
        {
            "name": field.name,
            "type": type_text(field.type),
            "nullable": field.nullable,
            **own,
            "formats": sorted(formats[field.name]),
        }
        for field, own in zip(table.schema, declared, strict=True)
    ]


def _shown(facts: dict[str, Any]) -> Iterable[tuple[str, str]]:
    yield "table", facts["uri"]
    yield "version", f"{facts['version']}, committed {facts['committed_at']}"
    held = f"{_counted(facts['fragments'], 'fragment')}, {_counted(facts['files'], 'file')}"
    yield "rows", f"{facts['rows']:,} in {held}, {bytes_text(facts['file_bytes'])}"
    yield "columns", "\n".join(_column_lines(facts["columns"]))
    yield "indexes", "\n".join(map(_index_line, facts["indexes"])) or "none; lake index makes one"
    if facts["properties"]:
        yield "properties", "\n".join(f"{name}={value}" for name, value in facts["properties"].items())
    if facts["external_roots"]:
        yield "external", "\n".join(map(_root_line, facts["external_roots"]))
    if facts["sources"]:
        yield "cloned from", "\n".join(map(_source_line, facts["sources"]))


def _column_lines(columns: list[dict[str, Any]]) -> Iterable[str]:
    names = max(len(column["name"]) for column in columns)
    types = max(len(column["type"]) for column in columns)
    for column in columns:
        readers = " and ".join(f"{name} ({_READERS.get(name, name)})" for name in column["formats"])
        null = "" if column["nullable"] else "  not null"
        default = "" if column["default"] is None else f"  default {column['default']}"
        computed = "" if column["computed"] is None else f"  computed as {column['computed']}"
        line = f"{column['name']:<{names}}  {column['type']:<{types}}{null}{default}{computed}  {readers}"
        yield line.rstrip()


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _root_line(root: dict[str, Any]) -> str:
    return f"{root['uri']}: {_counted(root['files'], 'file')}, {bytes_text(root['bytes'])}"


def _source_line(source: dict[str, Any]) -> str:
    held = "pinned" if source["pinned"] else "UNPINNED: files may be collected there"
    return f"{source['uri']}, version {source['version']}, {held}"


def _index_line(index: dict[str, Any]) -> str:
    return (
        f"{index['name']}: {index['kind']} on {index['column']}, {index['metric']}, {index['rows']:,} rows, "
        f"{bytes_text(index['bytes'])}"
    )
