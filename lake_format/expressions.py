"""Values computed from columns, as users write them: SQL text that is marked as such, since a plain string is text.

A value only; engines parse and evaluate it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lake_format.errors import InvalidInputError

__all__ = ["SqlExpression", "identifier_sql", "sql"]


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


def identifier_sql(path: tuple[str, ...]) -> str:
    """Spell a column or struct member, quoted where needed."""
    plain = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
    return ".".join(
        name
        if plain.fullmatch(name) and name.upper() not in _RESERVED
        else '"' + name.replace('"', '""') + '"'
        for name in path
    )


_KEYWORDS = """
    ALL AND ANY AS ASC BETWEEN BOTH CASE CAST CHECK COLLATE COLUMN CONSTRAINT CREATE CROSS CURRENT_DATE DATE
    DEFAULT DESC DESCRIBE DISTINCT ELSE END ESCAPE EXCEPT EXISTS EXTRACT FALSE FETCH FOR FROM FULL GLOB GROUP
    HAVING ILIKE IN INNER INTERSECT INTERVAL INTO IS ISNULL JOIN LATERAL LEFT LIKE LIMIT MAP NATURAL NOT
    NOTNULL NULL OFFSET ON OR ORDER OUTER OVERLAPS PIVOT PRIMARY QUALIFY RIGHT SELECT SHOW SIMILAR SOME STRUCT
    TABLE THEN TIME TIMESTAMP TIMESTAMPTZ TO TRUE UNION UNIQUE UNPIVOT USING VALUES WHEN WHERE WINDOW WITH
"""
_RESERVED = frozenset(_KEYWORDS.split())
