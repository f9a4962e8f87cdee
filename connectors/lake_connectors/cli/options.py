"""Options that several commands share, and how they become arguments of the library."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import numpy as np

import lake_format as lake
from lake_format.errors import InvalidInputError

if TYPE_CHECKING:
    from lake_format import Table

__all__ = [
    "COLUMN_LIST",
    "ColumnList",
    "format_option",
    "key_values",
    "open_options",
    "open_table",
    "read_json",
    "storage_option",
    "target_option",
    "version_option",
    "where_option",
]

_Command = TypeVar("_Command", bound=Callable[..., Any])

format_option = click.option(
    "--format",
    "output_format",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    show_default=True,
    help="table for people; json is one JSON object a line; csv has a header line.",
)

version_option = click.option(
    "--version", "version", type=int, metavar="N", help="Read the table as it was at this version."
)

where_option = click.option(
    "--where", metavar="SQL", help="""Only rows that match, e.g. "price < 10 AND kind IN ('a', 'b')"."""
)

storage_option = click.option(
    "--option",
    "storage_options",
    multiple=True,
    metavar="KEY=VALUE",
    help="A storage option such as endpoint=… or region=…; may be repeated. Others come from the environment.",
)

target_option = click.option(
    "--to-option",
    "target_options",
    multiple=True,
    metavar="KEY=VALUE",
    help="A storage option for the other place; may be repeated.",
)

_external_option = click.option(
    "--allow-external",
    "allowed",
    multiple=True,
    metavar="PREFIX",
    expose_value=False,
    callback=lambda ctx, _param, given: ctx.meta.update({_ALLOWED: given}),
    help="A place outside the table that it may read files from, as a clone or an import does; may be repeated.",
)
_branch_option = click.option(
    "--branch",
    "branch_name",
    metavar="NAME",
    expose_value=False,
    callback=lambda ctx, _param, given: ctx.meta.update({_BRANCH: given}),
    help="The branch to work on; default: main.",
)
_ALLOWED = "lake.allow_external"
_BRANCH = "lake.branch"


def open_options(command: _Command) -> _Command:
    """The options of every command that opens a table: which branch, how it is reached, what else it may read."""
    return storage_option(_external_option(_branch_option(command)))


class ColumnList(click.ParamType[list[str]]):
    """Column names separated by commas; a name with a comma in it goes in double quotes."""

    name = "columns"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        """The names as a list."""
        if isinstance(value, list):
            return value
        names = next(csv.reader([str(value)], skipinitialspace=True), [])
        if not names or not all(name.strip() for name in names):
            self.fail(f"{value!r} has an empty column name", param, ctx)
        return [name.strip() for name in names]


COLUMN_LIST = ColumnList()


def key_values(pairs: Iterable[str], option: str) -> dict[str, str]:
    """``key=value`` words as a dictionary; InvalidInputError naming the option for any other word."""
    result: dict[str, str] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key:
            # The word may hold a secret, so the message must not repeat its value.
            raise InvalidInputError(f"{option} takes KEY=VALUE, not {key!r}", fix=f"write {option} key=value")
        result[key.strip()] = value
    return result


def open_table(uri: str, version: int | None, storage_options: Iterable[str]) -> Table:
    """Open the table that a command was given."""
    context = click.get_current_context(silent=True)
    return lake.open(
        uri,
        version,
        storage_options=key_values(storage_options, "--option") or None,
        branch=context.meta.get(_BRANCH) if context else None,
        allow_external=context.meta.get(_ALLOWED) if context else None,
    )


def read_json(text: str, option: str) -> Any:
    """A JSON value given on the command line, or after ``@`` the name of a file with JSON or a NumPy array in it.

    Raises
    ------
    InvalidInputError
        The file cannot be read, or the text is no JSON.
    """
    if not text.startswith("@"):
        return _parsed(text, option)
    path = Path(text[1:])
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"{option}: cannot read {path}: {error.strerror or error}") from error
    if path.suffix == ".npy":
        return _numpy_array(path, option)
    try:
        return _parsed(data.decode("utf-8"), f"{option} {path}")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{option}: {path} is not text", fix="give a .json or .npy file") from error


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidInputError(
            f"{where}: not JSON at character {error.pos}: {error.msg}",
            fix='write it like "[0.1, 0.2]" or @file.json',
        ) from error


def _numpy_array(path: Path, option: str) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InvalidInputError(f"{option}: {path} is not a NumPy array file: {error}") from error
