"""How one version's values are seen as another version's schema where the other's types are not wider (VER-13).

A restore makes a type narrow again, so a version in between can hold values that the later schema has no room for:
such columns are read as the version itself has them, and turned into the later type value by value, or refused.
"""

from __future__ import annotations

import pyarrow as pa

from lake_format.errors import InvalidInputError
from lake_format.promotion import promotion
from lake_format.row_compare import differing
from lake_format.schema import child_fields, field_id

__all__ = ["readable_schema", "seen_as"]


def readable_schema(own: pa.Schema, other: pa.Schema) -> pa.Schema:
    """The other version's schema, with own types where no widening leads to the other's.

    Parameters
    ----------
    own
        The schema of the version that is read; its columns are matched by field id.
    other
        The schema it is to be seen as.
    """
    mine = {field_id(field): field for field in own}
    return pa.schema([_readable(mine.get(field_id(field)), field) for field in other], other.metadata)


def _readable(own: pa.Field | None, other: pa.Field) -> pa.Field:
    return other if own is None or _leads_to(own, other) else own.with_name(other.name)


def _leads_to(own: pa.Field, other: pa.Field) -> bool:
    """Whether what files hold of the one field can be read as the other, at every depth."""
    if not (pa.types.is_nested(own.type) and pa.types.is_nested(other.type)):
        return promotion(own.type, other.type) is not None
    if own.type.id != other.type.id and not (
        pa.types.is_list(own.type) and pa.types.is_large_list(other.type)
    ):
        return False
    there = {field_id(child): child for child in child_fields(other.type)}
    return all(
        _leads_to(child, there[field_id(child)])
        for child in child_fields(own.type)
        if field_id(child) in there
    )


def seen_as(column: pa.ChunkedArray, field: pa.Field, version: int) -> pa.ChunkedArray:
    """The values of a column of :func:`readable_schema`, in the type that the other version has.

    Parameters
    ----------
    version
        The version whose values these are, to be named by errors.

    Raises
    ------
    InvalidInputError
        A value does not fit the type, or members inside the column had other types.
    """
    if column.type == field.type:
        return column
    try:
        found = column.cast(field.type)
        back = found.cast(column.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise _does_not_fit(column, field, version) from error
    kept = not differing(pa.table({field.name: column}), pa.table({field.name: back})).any()
    if pa.types.is_nested(field.type) or not kept:
        raise _does_not_fit(column, field, version)
    return found


def _does_not_fit(column: pa.ChunkedArray, field: pa.Field, version: int) -> InvalidInputError:
    return InvalidInputError(
        f"what changed cannot be told as the last version has it: column {field.name!r} is {field.type} there, and "
        f"in version {version} it was {column.type}, with values that do not fit",
        fix=f"follow the changes until version {version}, then read the last version as a whole",
    )
