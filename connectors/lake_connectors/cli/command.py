"""A command whose help ends with examples, each on a line of its own just as one would type it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

__all__ = ["Command", "write_examples"]


class Command(click.Command):
    """A click command with examples; the first sentence of its docstring is its line in lists."""

    def __init__(self, *arguments: Any, examples: Sequence[str] = (), **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.examples = tuple(examples)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples after the options."""
        write_examples(formatter, self.examples)


def write_examples(formatter: click.HelpFormatter, examples: Sequence[str], title: str = "Examples") -> None:
    """Write a section of lines that are not wrapped: they are there to be copied."""
    if examples:
        with formatter.section(title):
            for example in examples:
                formatter.write(f"{'':>{formatter.current_indent}}{example}\n")
