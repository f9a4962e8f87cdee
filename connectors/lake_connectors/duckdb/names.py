"""Names inside DuckDB: how they are quoted, and under which an attached table's relations are hidden. Pure."""

from __future__ import annotations

__all__ = ["hidden_name", "identifier", "text_literal", "vector_function"]


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
