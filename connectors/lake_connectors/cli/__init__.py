"""The command line ``lake``: tables made, filled, read, indexed and searched from a shell.

This module is the front door only: it runs the command named on the command line and turns whatever goes wrong
into one line and an exit code. Commands live in modules of their own, loaded when they are called.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main", "run"]


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
    from lake_connectors.cli.outcome import report
    from lake_connectors.cli.root import root

    try:
        result = root.main(args=arguments, prog_name="lake", standalone_mode=False)
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the outermost border: every error gets its line
        return report(error)
    return result if isinstance(result, int) else 0


def main() -> None:
    """Run the command line of this process and exit."""
    sys.exit(run())
