"""LIKE patterns: read into literal parts and wildcards, and turned into the cheapest exact test."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

import pyarrow as pa
import pyarrow.compute as pc

from lake_engines.predicate.tree import Operator
from lake_engines.predicate.truth import Compare, Match, Truth, WhenValid
from lake_engines.predicate.values import Value

__all__ = ["Wildcard", "like", "read_pattern"]


class Wildcard(Enum):
    """What stands for other characters in a pattern."""

    ONE = "_"
    ANY = "%"


@dataclass(frozen=True, slots=True)
class _Shape:
    parts: tuple[str | Wildcard, ...]

    @property
    def prefix(self) -> str:
        first = self.parts[0] if self.parts else ""
        return first if isinstance(first, str) else ""


def read_pattern(pattern: str, escape: str | None) -> tuple[str | Wildcard, ...]:
    """Split a pattern into runs of literal text and wildcards; runs of ``%`` become one.

    Raises
    ------
    ValueError
        If the pattern ends with its escape character, or the escape is not one character.
    """
    if escape is not None and len(escape) != 1:
        raise ValueError("ESCAPE takes exactly one character")
    parts: list[str | Wildcard] = []
    characters = iter(pattern)
    for character in characters:
        if character == escape:
            literal = next(characters, None)
            if literal is None:
                raise ValueError("a LIKE pattern must not end with its escape character")
        elif character in "_%":
            wildcard = Wildcard(character)
            if wildcard is Wildcard.ONE or parts[-1:] != [Wildcard.ANY]:
                parts.append(wildcard)
            continue
        else:
            literal = character
        if parts and isinstance(parts[-1], str):
            parts[-1] += literal
        else:
            parts.append(literal)
    return tuple(parts)


def like(value: Value, pattern: str, escape: str | None, *, ignore_case: bool) -> Truth:
    """Build the test ``value [I]LIKE pattern``.

    Without regard to case both sides are compared in lower case, character by character (as DuckDB does).
    """
    parts = read_pattern(pattern, escape)
    if ignore_case:
        parts = tuple(pc.utf8_lower(part).as_py() if isinstance(part, str) else part for part in parts)
    shape = _Shape(parts)
    prefix = "" if ignore_case else shape.prefix
    match parts:
        case ():
            return Compare(value, Operator.EQUAL, pa.scalar("", value.dtype))
        case (str(text),) if not ignore_case:
            return Compare(value, Operator.EQUAL, pa.scalar(text, value.dtype))
        case (Wildcard.ANY,):
            return WhenValid(value, True)
        case (str(text), Wildcard.ANY):
            return Match(value, "starts_with", text, prefix, ignore_case)
        case (Wildcard.ANY, str(text)):
            return Match(value, "ends_with", text, prefix, ignore_case)
        case (Wildcard.ANY, str(text), Wildcard.ANY):
            return Match(value, "contains", text, prefix, ignore_case)
    return Match(value, "regex", _regex(parts), prefix, ignore_case)


def _regex(parts: tuple[str | Wildcard, ...]) -> str:
    spelled = {Wildcard.ONE: ".", Wildcard.ANY: ".*"}
    body = "".join(re.escape(part) if isinstance(part, str) else spelled[part] for part in parts)
    return rf"(?s)\A{body}\z"
