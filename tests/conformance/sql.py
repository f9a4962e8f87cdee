"""SQL that all engines take."""

from __future__ import annotations

from collections.abc import Sequence


def select(
    table: str, columns: Sequence[str] | None, where: str | None = None, limit: int | None = None
) -> str:
    """A SELECT; names are quoted, as some are keywords somewhere."""
    wanted = "*" if columns is None else ", ".join(f'"{name}"' for name in columns)
    condition = f" WHERE {where}" if where else ""
    return f"SELECT {wanted} FROM {table}{condition}" + ("" if limit is None else f" LIMIT {limit}")
