"""The name a table gets where none is given."""

from __future__ import annotations

from pathlib import PurePosixPath

from lake_format.errors import InvalidInputError

__all__ = ["default_name"]


def default_name(uri: str) -> str:
    """The last part of a table's URI."""
    name = PurePosixPath(uri.split("?", 1)[0].rstrip("/")).name
    name = name.split("://")[-1].strip()
    if not name:
        raise InvalidInputError(f"no table name can be taken from {uri!r}", fix="give name=")
    return name
