"""Names inside DuckDB: how they are quoted, and under which an attached table's relations are hidden. Pure."""

from __future__ import annotations

from pathlib import PurePosixPath

from lake_format.errors import InvalidInputError

__all__ = ["default_name", "hidden_name", "identifier", "text_literal", "vector_function"]


def identifier(name: str) -> str:
    """``name`` as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def text_literal(text: str) -> str:
    """``text`` as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def hidden_name(kind: str, name: str) -> str:
    """The name of a helper relation of the table ``name``; DuckDB's names ignore case."""
    return f"lake${kind}:{name.lower()}"


def vector_function(name: str | None) -> str:
    """The function for neighbour searches row by row, of a table or of the one attached first."""
    return "knn_vec" if name is None else f"knn_vec_{name.lower()}"


def default_name(uri: str) -> str:
    """The last part of a table's URI."""
    name = PurePosixPath(uri.split("?", 1)[0].rstrip("/")).name
    name = name.split("://")[-1].strip()
    if not name:
        raise InvalidInputError(f"no table name can be taken from {uri!r}", fix="give name=")
    return name
