"""Edits of a table's schema as values: find a field by path, replace, add, drop and reorder fields by id.

Every function takes a schema with field ids and returns another; ids of fields that stay never change. What an edit
means for data and commits is the business of :mod:`lake_format.schema_changes`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from lake_format.errors import InvalidInputError
from lake_format.schema import (
    FIELD_ID_KEY,
    assign_field_ids,
    check_column_type,
    check_names,
    child_fields,
    field_id,
    walk_fields,
    with_child_fields,
    without_field_ids,
)

__all__ = [
    "FieldPath",
    "Place",
    "add_field",
    "edit_field",
    "ids_within",
    "numbered",
    "place_of",
    "reorder",
    "resolve",
    "split",
]
__all__ += ["renamed_between", "with_metadata"]

FieldPath = str | Sequence[str]
"""A column's name; for nested fields names joined by dots, or a sequence of names where a name has a dot."""

_ELEMENT_NAMES = frozenset({"item", "element"})


@dataclass(frozen=True, slots=True)
class Place:
    """A field and where it lies: ``parents`` from the top-level column down, itself not included."""

    field: pa.Field
    parents: tuple[pa.Field, ...] = ()

    @property
    def field_id(self) -> int:
        """The field's permanent id."""
        return field_id(self.field)

    @property
    def names(self) -> tuple[str, ...]:
        """Names from the top-level column down to the field."""
        return (*(parent.name for parent in self.parents), self.field.name)

    @property
    def in_list(self) -> bool:
        """Whether a list or map lies above the field, so that a row may have many values of it."""
        return any(not pa.types.is_struct(parent.type) for parent in self.parents)

    def __str__(self) -> str:
        return ".".join(self.names)


def split(path: FieldPath) -> tuple[str, ...]:
    """A path as names; InvalidInputError for anything that is none."""
    names = tuple(path.split(".")) if isinstance(path, str) else tuple(path)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise InvalidInputError(f"{path!r} is no name of a column", fix='write "a", "a.b" or ("a", "b")')
    return names


def resolve(schema: pa.Schema, path: FieldPath) -> Place:
    """The field at a path; a top-level column whose whole name has dots wins over a nested field.

    Raises
    ------
    InvalidInputError
        There is none; near matches are named.
    """
    if isinstance(path, str) and (index := schema.get_field_index(path)) >= 0:
        return Place(schema.field(index))
    parents: list[pa.Field] = []
    fields = list(schema)
    for name in split(path):
        found = next((field for field in fields if field.name == name), None)
        if found is None and parents and _has_elements(parents[-1].type) and name in _ELEMENT_NAMES:
            found = fields[0]
        if found is None:
            raise _unknown(path, fields)
        parents.append(found)
        fields = child_fields(found.type)
    return Place(parents[-1], tuple(parents[:-1]))


def place_of(schema: pa.Schema, wanted: int) -> Place | None:
    """Where the field with this id lies, at whatever depth; None where it is not there."""
    todo = [Place(field) for field in schema]
    for place in todo:
        if place.field_id == wanted:
            return place
        todo += [Place(child, (*place.parents, place.field)) for child in child_fields(place.field.type)]
    return None


def _has_elements(data_type: pa.DataType) -> bool:
    return not pa.types.is_struct(data_type) and not pa.types.is_map(data_type)


def _unknown(path: FieldPath, fields: list[pa.Field]) -> InvalidInputError:
    shown = path if isinstance(path, str) else ".".join(path)
    names = [field.name for field in fields]
    near = difflib.get_close_matches(shown.rpartition(".")[2], names, n=3)
    hint = (
        f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are {', '.join(names) or 'none'}"
    )
    return InvalidInputError(f"no column {shown!r}", fix=hint)


def ids_within(field: pa.Field) -> frozenset[int]:
    """The ids of a field and of everything inside it."""
    return frozenset(field_id(one) for one in walk_fields([field]))


def edit_field(schema: pa.Schema, wanted: int, change: Callable[[pa.Field], pa.Field | None]) -> pa.Schema:
    """The schema with one field replaced, or left out where ``change`` gives None.

    Raises
    ------
    InvalidInputError
        The field is not there, it was the last of its kind, or its new name is taken.
    """
    found = False

    def visit(field: pa.Field) -> Iterator[pa.Field]:
        nonlocal found
        if field_id(field) == wanted:
            found = True
            changed = change(field)
            if changed is not None:
                yield changed
            return
        children = child_fields(field.type)
        edited = [new for child in children for new in visit(child)]
        if all(new is child for new, child in zip(edited, children, strict=False)) and len(edited) == len(
            children
        ):
            yield field
            return
        if not edited or (len(edited) < len(children) and not pa.types.is_struct(field.type)):
            raise InvalidInputError(f"column {field.name!r} would have nothing inside", fix="drop it instead")
        yield field.with_type(with_child_fields(field.type, edited))

    fields = [new for field in schema for new in visit(field)]
    if not found:
        raise InvalidInputError(f"the table has no field {wanted} any more")
    if not fields:
        raise InvalidInputError("a table needs at least one column", fix="drop the table instead")
    return _checked(pa.schema(fields, schema.metadata))


def add_field(schema: pa.Schema, field: pa.Field, parent: int | None) -> pa.Schema:
    """The schema with a numbered field at the end of the columns, or of the members of struct ``parent``."""
    if parent is None:
        return _checked(schema.append(field))

    def grown(struct: pa.Field) -> pa.Field:
        return struct.with_type(pa.struct([*child_fields(struct.type), field]))

    return edit_field(schema, parent, grown)


def reorder(schema: pa.Schema, first: Sequence[int], parent: int | None = None) -> pa.Schema:
    """The schema with these fields in front, in this order; the others follow as they were."""
    if parent is not None:
        return edit_field(
            schema,
            parent,
            lambda struct: struct.with_type(pa.struct(_ordered(child_fields(struct.type), first))),
        )
    return pa.schema(_ordered(list(schema), first), schema.metadata)


def _ordered(fields: list[pa.Field], first: Sequence[int]) -> list[pa.Field]:
    rank = {identity: place for place, identity in enumerate(first)}
    return sorted(fields, key=lambda field: rank.get(field_id(field), len(rank)))


def numbered(field: pa.Field, next_field_id: int) -> tuple[pa.Field, int]:
    """A new column as users describe it, checked and with ids on it and in it; and the next unused id."""
    check_names([field.name], "the schema")
    check_column_type(field)
    schema, following = assign_field_ids(without_field_ids(pa.schema([field])), next_field_id)
    return schema.field(0), following


def renamed_between(base: pa.Schema, latest: pa.Schema, below: int | None = None) -> str | None:
    """A name of ``base`` that means another field in ``latest``, or a struct's member that is gone; None without.

    Whatever a user wrote in names of ``base`` must not be carried out on ``latest`` if there is one. A column that is
    gone altogether does no harm: naming it is an error. Fields with ids from ``below`` on do not count.
    """
    now = _paths(latest)
    kept = set(now.values())
    for path, number in _paths(base).items():
        other = now.get(path)
        if below is not None and number >= below:
            continue
        if other != number and (other is not None or number in kept or len(path) > 1):
            return ".".join(path)
    return None


def _paths(schema: pa.Schema) -> dict[tuple[str, ...], int]:
    """The id of every field, by the names that lead to it."""
    found: dict[tuple[str, ...], int] = {}
    todo: list[tuple[tuple[str, ...], pa.Field]] = [((field.name,), field) for field in schema]
    for path, field in todo:
        found[path] = field_id(field)
        todo += [((*path, child.name), child) for child in child_fields(field.type)]
    return found


def with_metadata(field: pa.Field, changes: dict[bytes, bytes | None]) -> pa.Field:
    """The field with metadata entries set, or removed where the value is None; its id stays."""
    entries = {**(field.metadata or {}), **changes}
    assert FIELD_ID_KEY not in changes, "ids never change"
    return field.with_metadata({key: value for key, value in entries.items() if value is not None})


def _checked(schema: pa.Schema) -> pa.Schema:
    check_names(schema.names, "the schema")
    for field in walk_fields(schema):
        if pa.types.is_struct(field.type):
            check_names([child.name for child in field.type], f"struct column {field.name!r}")
    return schema
