"""Computed columns: SQL over other columns of the row that is kept with the column, so that every writer keeps to it.

The expression lies in the metadata of the column's field and names its inputs by field id, so that renaming them
changes nothing (spec/evolution.md, EVO-12). It comes from storage, so it is checked before use. Pure: engines parse
and evaluate it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import pyarrow as pa

from lake_format.errors import CorruptionError, InvalidInputError, UnsupportedError
from lake_format.expressions import identifier_sql
from lake_format.keys import keeps_key_hash
from lake_format.schema import COMPUTED_KEY, child_fields, field_id, is_computed, is_vector

__all__ = [
    "COMPUTED_FEATURE",
    "EXPRESSION",
    "MOST_BYTES",
    "StoredExpression",
    "check_computable",
    "check_computed",
    "computed_from",
    "computed_names",
    "expression_of",
    "expression_text",
    "ids_read",
    "with_expression",
]

COMPUTED_FEATURE = "computed-columns"
MOST_BYTES = 4096
"""No expression is longer; every version carries it."""
_MOST_STORED = 16_384
_TOKEN = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|\$([1-9]\d{0,3})""")
"""Quoted text and names, in which a dollar sign is nothing but that, and places of inputs."""


class _Own:
    def __repr__(self) -> str:
        return "EXPRESSION"


EXPRESSION: object = _Own()
"""Stands for the values that a column's own expression gives."""


@dataclass(frozen=True, slots=True)
class StoredExpression:
    """SQL in which ``$1``, ``$2``, … stand for fields.

    Attributes
    ----------
    sql
        The text.
    inputs
        The permanent id of the field that ``$1`` stands for, that of ``$2``, and so on.
    """

    sql: str
    inputs: tuple[int, ...]

    def text(self, schema: pa.Schema) -> str:
        """The expression over the names that its inputs have in a schema.

        Raises
        ------
        CorruptionError
            The schema lacks one of them.
        """
        paths = [identifier_sql(tuple(one.name for one in path)) for path in self.paths(schema)]

        def spelled(token: re.Match[str]) -> str:
            if token[1] is None:
                return token[0]
            if int(token[1]) > len(paths):
                raise CorruptionError(f"the expression {self.sql!r} names more inputs than it has")
            return paths[int(token[1]) - 1]

        return _TOKEN.sub(spelled, self.sql)

    def paths(self, schema: pa.Schema) -> list[tuple[pa.Field, ...]]:
        """For each input the fields that lead to it, from the top-level column down to itself."""
        found = dict(_paths(schema))
        missing = next((one for one in self.inputs if one not in found), None)
        if missing is not None:
            raise CorruptionError(f"the expression {self.sql!r} reads field {missing}, which is not there")
        return [found[one] for one in self.inputs]


def with_expression(field: pa.Field, expression: StoredExpression) -> pa.Field:
    """The field as a computed one; its other metadata stays.

    Raises
    ------
    InvalidInputError
        The expression is too long to be kept.
    """
    stored = json.dumps(
        {"sql": expression.sql, "inputs": list(expression.inputs)}, ensure_ascii=False
    ).encode()
    if len(expression.sql.encode()) > MOST_BYTES or len(stored) > _MOST_STORED:
        raise InvalidInputError(
            f"the expression of column {field.name!r} has {len(expression.sql.encode()):,} bytes",
            fix=f"no more than {MOST_BYTES:,} are kept with a column",
        )
    return field.with_metadata({**(field.metadata or {}), COMPUTED_KEY: stored})


def expression_of(field: pa.Field) -> StoredExpression | None:
    """What a top-level column is computed by; None for one that holds what it is given.

    Raises
    ------
    CorruptionError
        What is stored is no expression.
    """
    stored = (field.metadata or {}).get(COMPUTED_KEY)
    if stored is None:
        return None
    found = _decoded(stored) if len(stored) <= _MOST_STORED else None
    if found is None:
        raise CorruptionError(f"what column {field.name!r} is said to be computed by is no stored expression")
    return found


def computed_names(schema: pa.Schema) -> list[str]:
    """The computed columns, in their order."""
    return [field.name for field in schema if is_computed(field)]


def expression_text(schema: pa.Schema, field: pa.Field) -> str | None:
    """What a column of a schema is computed by, for people to read; None for one that is not."""
    expression = expression_of(field)
    return None if expression is None else expression.text(schema)


def ids_read(schema: pa.Schema, expression: StoredExpression) -> frozenset[int]:
    """Ids of all fields on the way to what an expression reads: whoever writes or drops one of them concerns it."""
    return frozenset(field_id(field) for path in expression.paths(schema) for field in path)


def computed_from(schema: pa.Schema, changed: Iterable[int]) -> list[str]:
    """The computed columns that read one of these fields, or what lies inside or around it."""
    ids = set(changed)
    return [
        field.name
        for field in schema
        if (expression := expression_of(field)) is not None
        and not ids.isdisjoint(ids_read(schema, expression))
    ]


def check_computable(schema: pa.Schema, field: pa.Field, inputs: Sequence[int]) -> None:
    """Raise where a column cannot be computed from these fields.

    Raises
    ------
    InvalidInputError
        One of them is, or lies in, a column that is computed itself, or is the column.
    UnsupportedError
        The column holds vectors or nested values.
    """
    if is_vector(field.type) or child_fields(field.type):
        raise UnsupportedError(
            f"column {field.name!r} is {field.type}, and only plain values are computed by an expression",
            fix="add it with values instead",
        )
    for path in StoredExpression("", tuple(inputs)).paths(schema):
        if path[0].name == field.name:
            raise InvalidInputError(f"column {field.name!r} cannot be computed from itself")
        if is_computed(path[0]):
            raise InvalidInputError(
                f"column {field.name!r} cannot be computed from {path[0].name!r}, which is computed itself",
                fix="write that expression into this one",
            )


def check_computed(before: pa.Schema, after: pa.Schema) -> None:
    """Raise InvalidInputError if a new schema takes something away that columns are computed from, or alters it.

    Types may become others only where every expression keeps its values: whole numbers, text and bytes may be
    widened within their kind.
    """
    old = {one: path[-1] for one, path in _paths(before)}
    new = {one: path[-1] for one, path in _paths(after)}
    for column in after:
        expression = expression_of(column)
        if expression is None:
            continue
        own = old.get(field_id(column))
        if own is not None and not _keeps_values(own.type, column.type):
            raise InvalidInputError(
                f"column {column.name!r} is computed, and rows that are there would differ from those to come as "
                f"{column.type}",
                fix="drop it and add it anew",
            )
        for identity in expression.inputs:
            was = old.get(identity)
            if identity not in new:
                name = f"field {identity}" if was is None else repr(was.name)
                raise InvalidInputError(
                    f"column {column.name!r} is computed from {name}, which would be gone",
                    fix=f"drop {column.name!r} first",
                )
            if was is not None and not _keeps_values(was.type, new[identity].type):
                raise InvalidInputError(
                    f"column {was.name!r} cannot be made {new[identity].type}: {column.name!r} is computed from "
                    "it, and would get other values",
                    fix=f"drop {column.name!r} first, and add it anew afterwards",
                )


def _keeps_values(source: pa.DataType, target: pa.DataType) -> bool:
    """Whether what is computed from values stays the same in a wider type; of nested ones only NULL is read."""
    return source == target or bool(child_fields(source)) or keeps_key_hash(source, target)


def _paths(schema: pa.Schema) -> Iterator[tuple[int, tuple[pa.Field, ...]]]:
    """Every column and every member of structs by id, with the fields that lead to it."""
    todo: list[tuple[pa.Field, ...]] = [(field,) for field in schema]
    for path in todo:
        yield field_id(path[-1]), path
        if pa.types.is_struct(path[-1].type):
            todo += [(*path, child) for child in child_fields(path[-1].type)]


@lru_cache(1024)
def _decoded(stored: bytes) -> StoredExpression | None:
    try:
        found = json.loads(stored)
    except (ValueError, RecursionError):
        return None
    match found:
        case {"sql": str() as sql, "inputs": list() as inputs} if sql.strip() and all(map(_is_id, inputs)):
            return StoredExpression(sql, tuple(inputs)) if len(sql.encode()) <= MOST_BYTES else None
    return None


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31
