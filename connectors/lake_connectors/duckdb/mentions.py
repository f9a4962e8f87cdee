"""The tables a statement mentions, in DuckDB's own syntax tree: by name, as of a version or a time, or in a folder.

``FROM items AT (VERSION => 3)``, ``lake('items', version => 3)``, ``knn('items', v, 10, as_of => '2026-03-01Z')`` and
``FROM shop.hats`` mention tables that have to be attached under a name of their own before DuckDB can read them.
Works on what ``json_serialize_sql`` returns; it must not run SQL or open tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lake_connectors.duckdb.recognition import nodes_in
from lake_format.errors import InvalidInputError

__all__ = ["Mention", "find_mentions", "may_travel"]

Node = dict[str, Any]
_FUNCTIONS = ("lake", "knn")
_MARKS = ("version", "as_of", "timestamp")


@dataclass(frozen=True, slots=True)
class Mention:
    """A table mentioned in a statement.

    Attributes
    ----------
    node
        Where, in place in the tree.
    name
        As written, the parts of a qualified name joined with dots.
    version
        A number or a tag; None is the newest, unless there is a moment.
    moment
        Text of a moment in time.
    """

    node: Node
    name: str
    version: int | str | None = None
    moment: str | None = None

    @property
    def is_fixed(self) -> bool:
        """Whether it means the same version whenever it is read."""
        return self.moment is None and not isinstance(self.version, str)

    def redirect(self, name: str) -> None:
        """Read the table attached under another name in its place."""
        if self.node["type"] == "TABLE_FUNCTION":
            function = self.node["function"]
            function["arguments"][0]["expression"]["literal"]["text"] = name
            function["arguments"] = [
                one for one in function["arguments"] if str(one.get("name", "")).lower() not in _MARKS
            ]
            return
        self.node.setdefault("alias", self.name.rpartition(".")[2])
        self.node["table_name"] = name
        self.node["qualified_name"] = {"path": [name]}
        for key in ("at_clause", "schema_name", "catalog_name"):
            self.node.pop(key, None)


def may_travel(text: str) -> bool:
    """Whether a statement may mention a version or a time; cheap."""
    return ("=>" in text or ":=" in text) and any(mark in text.lower() for mark in _MARKS)


def find_mentions(tree: Node) -> list[Mention]:
    """Every table mentioned by name, and by ``lake`` and ``knn``.

    Raises
    ------
    InvalidInputError
        A version or moment that is no constant.
    """
    return [mention for node in nodes_in(tree) if (mention := _mention(node)) is not None]


def _mention(node: Node) -> Mention | None:
    if node.get("type") == "BASE_TABLE":
        path = [
            *filter(None, (node.get("catalog_name"), node.get("schema_name"))),
            node.get("table_name", ""),
        ]
        at = node.get("at_clause")
        if not at:
            return Mention(node, ".".join(path))
        value = _constant(at["expr"])
        if str(at.get("unit", "")).upper() == "VERSION":
            return Mention(node, ".".join(path), version=_version(value))
        return Mention(node, ".".join(path), moment=str(value))
    if node.get("type") == "TABLE_FUNCTION":
        return _function(node)
    return None


def _function(node: Node) -> Mention | None:
    function = node.get("function", {})
    arguments = function.get("arguments", [])
    if str(function.get("function_name", "")).lower() not in _FUNCTIONS or not arguments:
        return None
    literal = arguments[0]["expression"].get("literal", {})
    if literal.get("kind") != "STRING":
        return None
    named = {str(one["name"]).lower(): one["expression"] for one in arguments if one.get("name")}
    if "version" in named:
        return Mention(node, literal["text"], version=_version(_constant(named["version"])))
    if "as_of" in named:
        return Mention(node, literal["text"], moment=str(_constant(named["as_of"])))
    return Mention(node, literal["text"])


def _constant(node: Node) -> int | str:
    while node.get("class") == "CAST":
        node = node["child"]
    literal = node.get("literal", {})
    if literal.get("kind") not in ("INTEGER", "STRING"):
        raise InvalidInputError(
            "the version or time of a table must be a constant",
            fix="write VERSION => 3, a tag as VERSION => 'name', or TIMESTAMP => '2026-03-01T12:00:00Z'",
        )
    return int(literal["text"]) if literal["kind"] == "INTEGER" else str(literal["text"])


def _version(value: int | str) -> int | str:
    return int(value) if isinstance(value, str) and value.isdigit() else value
