"""The list of commands, each loaded from its module when it is called, so that ``lake --help`` is instant."""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass

import click

import lake_format
from lake_connectors.cli.command import write_examples
from lake_connectors.cli.outcome import EXIT_MEANINGS

__all__ = ["FIRST_STEPS", "PLACES", "Place", "root"]

FIRST_STEPS = (
    'lake create items --schema "id int64, title string, vec vector(3)"',
    "lake append items rows.jsonl",
    "lake index items vec",
    'lake search items --vector "[1, 0, 0]" --k 5',
    'lake sql "SELECT title FROM items WHERE id < 10" items',
)

_HERE = "lake_connectors.cli"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a command lives, and the line about it in the list of commands."""

    module: str
    about: str


PLACES = {
    "create": Place("create", "Make a new, empty table."),
    "append": Place("append", "Add the rows of Parquet, CSV, JSON or Arrow files."),
    "add-column": Place(
        "columns", "Add a column: of NULLs, of values computed once, or computed for every row to come."
    ),
    "rename-column": Place("columns", "Give a column another name."),
    "drop-column": Place("columns", "Remove a column."),
    "delete": Place("rows", "Remove the rows that match a filter."),
    "update": Place("rows", "Give columns new values in the rows that match a filter."),
    "list-tables": Place("tables", "The tables in a folder."),
    "describe": Place("describe", "What a table is: columns, rows, files, indexes."),
    "history": Place("describe", "The versions of a table, newest first."),
    "branch": Place("branch", "List, make and delete branches; bring main forward to one."),
    "changes": Place("changes", "The rows inserted, updated and deleted since a version."),
    "scan": Place("read", "Read rows: some columns, a filter, a limit."),
    "index": Place("index", "Build a vector index."),
    "drop-index": Place("index", "Remove a vector index."),
    "search": Place("search", "Find the rows nearest to a vector."),
    "sql": Place("sql", "Ask one or more tables in DuckDB SQL."),
    "cluster": Place("cluster", "Bring rows into an order in which those read together lie together."),
    "compact": Place("upkeep", "Put small fragments together, and drop deleted rows from the files."),
    "optimize-index": Place("upkeep", "Let indexes catch up with rows added and changed since."),
    "tag": Place("versions", "List, set and delete names of versions."),
    "restore": Place("versions", "Make an older version current again."),
    "expire": Place("versions", "Let old versions go."),
    "collect-garbage": Place("versions", "Remove files that no version needs any more."),
    "properties": Place("properties", "Show and set what a table remembers, such as when versions expire."),
    "maintain": Place("upkeep", "Do the upkeep that is due by the table's properties."),
    "verify": Place("upkeep", "Read everything a version names, and say what is damaged."),
    "repair": Place("upkeep", "Find what is broken, and mend what can be mended."),
    "backup": Place("copies", "Copy a version, whole, into a backup."),
    "clone": Place("clone", "Make a table that shares the files of another one."),
    "release-pin": Place("clone", "Let go of what a clone shares."),
    "publish": Place("publish", "Make a version a snapshot of an Iceberg table over the same files."),
    "import-iceberg": Place("iceberg", "Make a table of an Iceberg table, whose files stay where they are."),
    "refresh-iceberg": Place("iceberg", "Bring an imported table to a later snapshot."),
    "restore-backup": Place("copies", "Make a table from a backup."),
    "inspect": Place(
        "describe", "A table's columns, fragments, files, manifests, indexes, versions, external roots."
    ),
}


class _LazyGroup(click.Group):
    """A group that imports a command's module only when that command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, in the order in which a new table meets them."""
        return list(PLACES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name; a usage error that names the nearest one where there is none."""
        place = PLACES.get(cmd_name)
        if place is None:
            near = difflib.get_close_matches(cmd_name, PLACES, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"commands are {', '.join(PLACES)}"
            raise click.UsageError(f"no command {cmd_name!r}: {hint}", ctx)
        command: click.Command = getattr(
            importlib.import_module(f"{_HERE}.{place.module}"), cmd_name.replace("-", "_")
        )
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, place.about) for name, place in PLACES.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the first steps and the exit codes."""
        write_examples(formatter, FIRST_STEPS, "First steps")
        with formatter.section("Exit codes"):
            formatter.write_text(", ".join(f"{code} {meaning}" for code, meaning in EXIT_MEANINGS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(lake_format.__version__, prog_name="lake", message="%(prog)s %(version)s")
def root() -> None:
    """Versioned vector tables over Parquet and Vortex files.

    A table's URI is a local path, s3://bucket/prefix, gs://… or az://….
    """
