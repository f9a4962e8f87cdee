"""What was done to the columns of another table, done to a table that was made of it: by field id. Pure, no I/O.

Three schemas meet: what both tables had (``base``), what the other has by now (``theirs``) and what this one has
(``mine``). What only one side changed stays as that side has it; what both changed in two ways is refused by name.
Columns never become stricter here: rows were written that nobody held to a new rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa

from lake_format.column_defaults import default_of
from lake_format.errors import ConflictError, InvalidInputError, UnsupportedError
from lake_format.operation_record import OperationRecord
from lake_format.promotion import promotion
from lake_format.schema import (
    DEFAULT_KEY,
    check_names,
    child_fields,
    field_id,
    walk_fields,
    with_child_fields,
)
from lake_format.schema_changes import claim
from lake_format.schema_edit import ids_within, with_metadata

__all__ = ["evolves_types", "followed", "following_records"]

_COMMENT = b"comment"


def followed(base: pa.Schema, theirs: pa.Schema, mine: pa.Schema) -> pa.Schema:
    """``mine`` with everything that became of ``base`` in ``theirs``.

    Raises
    ------
    ConflictError
        Both sides changed the same thing about a column, both have a column of the same name or id, or rows of theirs
        may break a rule of mine.
    UnsupportedError
        A type became another in a way that not every stored value can follow.
    """
    _check_new_ids(base, theirs, mine)
    before, after = _by_id(base), _by_id(theirs)
    kept: dict[int, pa.Field] = {}
    for identity, column in _by_id(mine).items():
        was, now = before.get(identity), after.get(identity)
        if was is not None and now is not None:
            kept[identity] = _followed(was, now, column)
        elif was is None or not _is_dropped(was, column):
            kept[identity] = column
    for identity, column in after.items():
        if identity not in before and identity not in kept:
            kept[identity] = _added(column)
    columns = [kept[identity] for identity in _order(base, theirs, mine, kept)]
    return _checked(columns, mine.metadata)


def following_records(before: pa.Schema, after: pa.Schema) -> Iterator[OperationRecord]:
    """What the commit that puts one schema in place of the other does, as others judge it."""
    old, new = _by_id(before), _by_id(after)
    for identity, column in new.items():
        was = old.get(identity)
        if was is None or was.name != column.name:
            yield OperationRecord(
                kind="add_column" if was is None else "rename_column",
                fields_written=ids_within(column) if was is None else frozenset({identity}),
                claims=frozenset({claim(column.name)}),
            )
        if was is not None and not was.with_name(column.name).equals(column, check_metadata=True):
            yield OperationRecord(kind="alter_column", fields_written=ids_within(was) | ids_within(column))
    for identity, column in old.items():
        if identity not in new:
            yield OperationRecord(kind="drop_column", fields_written=ids_within(column))
    if [one for one in old if one in new] != [one for one in new if one in old]:
        yield OperationRecord(kind="alter_column")


def evolves_types(before: pa.Schema, after: pa.Schema) -> bool:
    """Whether a column that both have holds other types or members in the later one (EVO-4)."""
    old = _by_id(before)
    pairs = ((old[identity], column) for identity, column in _by_id(after).items() if identity in old)
    return any(not _same(_loose(one), _loose(other)) for one, other in pairs)


# --- one column -------------------------------------------------------------------------------------------------


def _followed(base: pa.Field, theirs: pa.Field, mine: pa.Field) -> pa.Field:
    _check_rules(base, mine)
    name = mine.name
    if theirs.name != base.name:
        if mine.name not in (base.name, theirs.name):
            raise _both(mine, f"was renamed to {theirs.name!r} there, and here from {base.name!r}")
        name = theirs.name
    was, now, own = _loose(base), _loose(theirs), _loose(mine)
    chosen = mine.type
    if not _same(was, now):
        if not _same(own, was) and not _same(own, now):
            raise _both(mine, f"became {theirs.type} there and {mine.type} here, from {base.type}")
        _check_widening(mine, theirs)
        chosen = theirs.type
    nullable = {field_id(one) for field in (theirs, mine) for one in walk_fields([field]) if one.nullable}
    changes: dict[bytes, bytes | None] = {DEFAULT_KEY: (theirs.metadata or {}).get(DEFAULT_KEY)}
    if _comment(theirs) != _comment(base):
        changes[_COMMENT] = _comment(theirs)
    column = with_metadata(mine, changes).with_name(name)
    return _ruled(column.with_type(chosen), lambda field: field_id(field) in nullable)


def _added(column: pa.Field) -> pa.Field:
    """A column that is new here: where rows are that have no value of it, it cannot forbid NULL."""
    return column if default_of(column) is not None else column.with_nullable(True)


def _is_dropped(base: pa.Field, mine: pa.Field) -> bool:
    """True: it goes here too. ConflictError where it was changed here."""
    same = mine.name == base.name and _same(_loose(base), _loose(mine))
    if not same:
        raise _both(mine, "was dropped there and changed here")
    return True


def _check_rules(base: pa.Field, mine: pa.Field) -> None:
    rules = {field_id(one) for one in walk_fields([mine]) if not one.nullable}
    for field in walk_fields([base]):
        if field.nullable and field_id(field) in rules:
            raise ConflictError(
                f"column {mine.name!r} may not be NULL here, and may be there",
                fix="allow NULL with alter_column(…, nullable=True) first",
            )


def _check_widening(mine: pa.Field, theirs: pa.Field) -> None:
    """UnsupportedError where a value of a field that both have might not fit its new type."""
    inside = {field_id(one): one for one in child_fields(theirs.type)}
    if inside:
        for child in child_fields(mine.type):
            if field_id(child) in inside:
                _check_widening(child, inside[field_id(child)])
    if pa.types.is_nested(mine.type) and pa.types.is_nested(theirs.type):
        return
    found = promotion(mine.type, theirs.type)
    if found is None or found.checked:
        raise UnsupportedError(
            f"column {mine.name!r} became {theirs.type} there, and is {mine.type} here: its values cannot follow",
            fix="import the table anew, to another place",
        )


def _both(mine: pa.Field, what: str) -> ConflictError:
    return ConflictError(
        f"column {mine.name!r} {what}", fix="undo the change here, or import the table anew, to another place"
    )


# --- the schema as a whole --------------------------------------------------------------------------------------


def _check_new_ids(base: pa.Schema, theirs: pa.Schema, mine: pa.Schema) -> None:
    """Refuse where a field that is new there has the id of another one here."""
    known, own = {field_id(one) for one in walk_fields(base)}, _by_id(mine)
    columns = {field_id(one): column for column in mine for one in walk_fields([column])}
    for column in theirs:
        for field in walk_fields([column]):
            identity = field_id(field)
            if identity in known or identity not in columns:
                continue
            if (
                identity in own
                and _same(_loose(own[identity]), _loose(field))
                and own[identity].name == field.name
            ):
                continue  # it came over before, by another way
            raise ConflictError(
                f"field {identity} is {field.name!r} there, but lies in column {columns[identity].name!r} here",
                fix="drop that column, and add it anew after this",
            )


def _order(base: pa.Schema, theirs: pa.Schema, mine: pa.Schema, kept: dict[int, pa.Field]) -> Sequence[int]:
    """Ids in order: as one side put them; where both moved columns, as mine did, with new columns behind."""
    before, after, here = (list(_by_id(one)) for one in (base, theirs, mine))

    def common(ids: Sequence[int], others: Sequence[int]) -> list[int]:
        return [one for one in ids if one in kept and one in others]

    stayed = common(before, after)
    moved_there = [one for one in after if one in kept][: len(stayed)] != stayed
    moved_here = common(here, before) != common(before, here)
    first = after if moved_there and not moved_here else here
    return [one for one in dict.fromkeys([*first, *after, *here]) if one in kept]


def _checked(columns: list[pa.Field], metadata: object) -> pa.Schema:
    try:
        check_names([one.name for one in columns], "the schema")
    except InvalidInputError as error:
        raise ConflictError(
            f"the columns of both tables do not go together: {error.what}",
            fix="rename or drop the column here first",
        ) from error
    if not columns:
        raise ConflictError("no column would be left", fix="import the table anew, to another place")
    return pa.schema(columns, metadata)


def _by_id(schema: pa.Schema) -> dict[int, pa.Field]:
    return {field_id(one): one for one in schema}


def _comment(field: pa.Field) -> bytes | None:
    return (field.metadata or {}).get(_COMMENT)


def _same(one: pa.DataType, other: pa.DataType) -> bool:
    """Whether two types are the same, names, ids and rules inside included."""
    return bool(pa.field("", one).equals(pa.field("", other), check_metadata=True))


def _loose(field: pa.Field) -> pa.DataType:
    """The field's type with NULL allowed wherever it may be."""
    return _ruled(field, lambda _: True).type


def _ruled(field: pa.Field, nullable: Callable[[pa.Field], bool]) -> pa.Field:
    """The field with other rules about NULL, at every depth; keys of maps are never NULL."""
    children = child_fields(field.type)
    if children:
        inside = [_ruled(child, nullable) for child in children]
        if pa.types.is_map(field.type):
            inside[0] = inside[0].with_nullable(False)
        field = field.with_type(with_child_fields(field.type, inside))
    return field.with_nullable(bool(nullable(field)))
