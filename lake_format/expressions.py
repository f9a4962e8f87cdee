"""Values computed from columns, as users write them: SQL text that is marked as such, since a plain string is text.

A value only; engines parse and evaluate it.
"""

from __future__ import annotations

from dataclasses import dataclass

from lake_format.errors import InvalidInputError

__all__ = ["SqlExpression", "sql"]


@dataclass(frozen=True, slots=True)
class SqlExpression:
    """SQL that computes a value per row from the columns of the row."""

    text: str

    def __str__(self) -> str:
        return self.text


def sql(text: str) -> SqlExpression:
    """Mark text as an SQL expression over a row's columns.

    Parameters
    ----------
    text
        Such as ``"price * 1.1"`` or ``"lower(title)"``; the functions are those of filters (spec/filters.md).
        In a merge the columns of the rows handed in are ``source.<name>``.
    """
    if not isinstance(text, str) or not text.strip():
        raise InvalidInputError(f"an SQL expression must be text, not {text!r}", fix='write sql("price * 2")')
    return SqlExpression(text)
