"""Rows that forbid a change of a column: NULL where it is to be forbidden, instants that a finer unit cannot hold.

What to look for, as filters, and what to say where there are any; looking is the engine's work (spec/evolution.md,
EVO-4 and EVO-5).
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from lake_format.errors import InvalidInputError, UnsupportedError
from lake_format.promotion import promotion, value_range
from lake_format.schema_edit import Place
from lake_format.statistics import storage_scalar

__all__ = ["Forbidden", "null_checks", "type_checks"]


@dataclass(frozen=True, slots=True)
class Forbidden:
    """Rows that a change forbids: how to find them, and what to say if there are any."""

    rows: pc.Expression
    what: str
    fix: str


def type_checks(place: Place, target: object) -> list[Forbidden]:
    """What the data must not hold for a widening; InvalidInputError for a type that is no widening."""
    source = place.field.type
    if not isinstance(target, pa.DataType):
        raise InvalidInputError(f"a type must be a pyarrow.DataType, not {target!r}", fix="write pa.int64()")
    found = promotion(source, target)
    if found is None:
        hint = "types can be widened, never narrowed or changed; add a column and backfill it with the values"
        if pa.types.is_nested(source) and not pa.types.is_fixed_size_list(source):
            hint = f"name what is inside, such as {str(place)!r} followed by a dot and a name"
        raise InvalidInputError(f"column {str(place)!r} is {source} and cannot become {target}", fix=hint)
    if not found.checked:
        return []
    if place.in_list:
        raise UnsupportedError(
            f"column {str(place)!r} lies in a list: whether all its values fit {target} is not checked",
            fix="add a column of the new type",
        )
    low, high = (storage_scalar(number, source) for number in value_range(source, target))
    value = pc.field(*place.names)
    return [
        Forbidden(
            rows=(value < low) | (value > high),
            what=f"column {str(place)!r} has values that {target} cannot hold",
            fix="take a coarser unit, or change these rows first",
        )
    ]


def null_checks(place: Place) -> list[Forbidden]:
    """What the data must not hold for NULL to be forbidden."""
    if place.in_list:
        raise UnsupportedError(f"column {str(place)!r} lies in a list: NULL there cannot be forbidden later")
    rows = pc.field(*place.names).is_null()
    if place.parents:
        rows = pc.field(*place.names[:-1]).is_valid() & rows
    return [
        Forbidden(
            rows=rows,
            what=f"column {str(place)!r} is NULL",
            fix="give these rows a value first, then forbid NULL",
        )
    ]
