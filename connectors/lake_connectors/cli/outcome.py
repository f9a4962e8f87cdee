"""How a command ends: exit codes by class of error, and the one line that tells a user what went wrong.

Knows no command. Exit codes are part of the interface: scripts depend on them.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import TYPE_CHECKING

import click

from lake_format.errors import LakeError

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["EXIT_CODES", "EXIT_MEANINGS", "INTERRUPTED", "PIPE_CLOSED", "exit_code", "report"]

EXIT_CODES = {
    "invalid_input": 2,
    "not_found": 3,
    "already_exists": 4,
    "conflict": 5,
    "unsupported": 6,
    "storage": 7,
    "corruption": 8,
    "state_unknown": 9,
}
"""Exit code by the error's stable code. 0 is success, 1 a fault of this program itself."""

INTERRUPTED = 130
"""Ctrl-C, as a shell reports it: 128 + SIGINT."""

PIPE_CLOSED = 141
"""Whoever read the output stopped reading, as in ``lake scan … | head``: 128 + SIGPIPE."""

EXIT_MEANINGS = {
    0: "done",
    1: "a fault of lake itself",
    2: "wrong input",
    3: "not found",
    4: "exists already",
    5: "conflict",
    6: "unsupported",
    7: "storage failed",
    8: "damaged data",
    9: "outcome of a commit unknown",
    INTERRUPTED: "interrupted",
    PIPE_CLOSED: "the reader of the output went away",
}
"""What each exit code says, for the help."""

_SHELL_WORDS = {
    "open it with lake.open()": "add rows with 'lake append'",
    "lake.create()": "'lake create'",
    "versions() lists": "'lake history' lists",
    "open it with allow_external=": "add --allow-external ",
}

DEBUG_VARIABLE = "LAKE_DEBUG"


def exit_code(error: BaseException) -> int:
    """The exit code that tells a script what kind of error this is."""
    if isinstance(error, KeyboardInterrupt | click.Abort) or _is_arrow_interrupt(error):
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return PIPE_CLOSED
    if isinstance(error, LakeError):
        # A special kind of an error has a code of its own; its exit code is that of the class it belongs to.
        codes = (vars(kind).get("code") for kind in type(error).__mro__)
        return next((EXIT_CODES[code] for code in codes if code in EXIT_CODES), 1)
    if isinstance(error, click.ClickException):
        return error.exit_code
    return 1


def report(error: BaseException) -> int:
    """Say on standard error, in one line, what went wrong; return the exit code."""
    code = exit_code(error)
    if code == PIPE_CLOSED:
        # Python flushes standard output once more when it exits, and would complain about the closed pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code
    if os.environ.get(DEBUG_VARIABLE):
        traceback.print_exception(error)
    label = "interrupted" if code == INTERRUPTED else "error"
    message = _message(error, code)
    click.secho(label, err=True, fg="red", bold=True, nl=False)
    click.echo(f": {message}" if message else "", err=True)
    return code


def _message(error: BaseException, code: int) -> str:
    if code == INTERRUPTED:
        return ""
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return _one_line(f"{error.format_message().rstrip('.')} — see '{error.ctx.command_path} --help'")
    if isinstance(error, click.ClickException):
        return _one_line(error.format_message())
    if isinstance(error, LakeError):
        return _one_line(_in_shell_words(str(error)))
    return _one_line(
        f"{type(error).__name__}: {error} — this is a fault of lake itself; "
        f"run it again with {DEBUG_VARIABLE}=1 and report what it prints"
    )


def _in_shell_words(text: str) -> str:
    """The library's advice as commands."""
    for python, shell in _SHELL_WORDS.items():
        text = text.replace(python, shell)
    return text


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _is_arrow_interrupt(error: BaseException) -> bool:
    """Arrow's own readers turn Ctrl-C into an error of theirs."""
    arrow: ModuleType | None = sys.modules.get("pyarrow")
    return arrow is not None and isinstance(error, arrow.lib.ArrowCancelled)
