"""The command line ``lake``: tables made, filled, read, indexed and searched from a shell.

This module is the front door only: it runs the command named on the command line and turns whatever goes
wrong into one line and an exit code. Commands live in modules of their own, loaded when they are called.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from typing import NoReturn

import click

from lake_connectors.cli.outcome import INTERRUPTED, report
from lake_connectors.cli.root import root

__all__ = ["main", "run"]


class _WithoutPandas(MetaPathFinder):
    """Hides pandas from this process.

    pyarrow imports pandas, where it is installed, as soon as it makes an array: a second of start-up for every
    command, and no command uses it.
    """

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        """Refuse pandas, leave the rest to others."""
        if fullname == "pandas":
            raise ModuleNotFoundError("pandas is not used by the command line", name=fullname)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line.

    Parameters
    ----------
    arguments
        Words after ``lake``; None takes them from the process.

    Returns
    -------
    int
        The exit code, see :data:`lake_connectors.cli.outcome.EXIT_CODES`.
    """
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        # Not root.main(), which would turn a closed pipe into exit code 1.
        with root.make_context("lake", words) as context:
            root.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as done:
        return done.exit_code
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the outermost border
        return report(error)
    return 0


def main() -> NoReturn:
    """Run the command line of this process and exit."""
    sys.meta_path.insert(0, _WithoutPandas())
    try:
        sys.exit(run())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
