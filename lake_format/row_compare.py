"""Which rows of two Arrow tables differ, for columns of any type. NaN equals NaN, and the sign of a zero counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lake_format.promotion import promotion
from lake_format.schema import child_fields, field_id

__all__ = ["common_columns", "differing", "names_of"]

FieldPairs = Sequence[tuple[pa.Field, pa.Field]]
"""The same column as two versions describe it."""


def common_columns(old: pa.Schema, new: pa.Schema) -> FieldPairs:
    """The columns that both schemas have, by their ids, in the order of the newer one."""
    before = {field_id(field): field for field in old}
    return [(before[field_id(field)], field) for field in new if field_id(field) in before]


def names_of(pairs: FieldPairs, which: int) -> tuple[str, ...]:
    """Names of the columns in the older (0) or newer (1) schema."""
    return tuple(pair[which].name for pair in pairs)


def differing(old: pa.Table, new: pa.Table, pairs: FieldPairs | None = None) -> npt.NDArray[np.bool_]:
    """Rows with another value in a column; the tables have equally many rows and columns, in order.

    Parameters
    ----------
    pairs
        The columns as their schemas describe them, where these are two: members of structs that only one of them
        has do not count, whatever they are called.
    """
    found = np.zeros(new.num_rows, bool)
    for index, (before, after) in enumerate(zip(old.columns, new.columns, strict=True)):
        one, two = before.combine_chunks(), after.combine_chunks()
        if pairs is not None and one.type != two.type:
            was, now = pairs[index]
            one, two = _shared(one, was, now), _shared(two, now, was)
        if one.type != two.type:
            one, two = _alike(one, two)
        _mark(_bits(one), _bits(two), 0, found)
    return found


def _alike(one: pa.Array, two: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Both in the wider type; where neither is, or a value does not fit, values that are equal where these are."""
    try:
        if promotion(two.type, one.type) is not None:
            return one, two.cast(one.type)
        return one.cast(two.type), two
    except pa.ArrowInvalid:
        pairs = zip(one.to_pylist(), two.to_pylist(), strict=True)
        other = pa.array([not (old == new or repr(old) == repr(new)) for old, new in pairs], pa.bool_())
        return pa.repeat(pa.scalar(False), len(other)), other


def _shared(column: pa.Array, own: pa.Field, other: pa.Field) -> pa.Array:
    """The values without members of structs that the other version lacks; members go by their ids."""
    if pa.types.is_struct(own.type):
        others = {field_id(child): child for child in child_fields(other.type)}
        members = {
            str(number): _shared(column.field(place), child, others[number])
            for place, child in enumerate(child_fields(own.type))
            if (number := field_id(child)) in others
        }
        names = sorted(members)
        return pa.StructArray.from_arrays([members[name] for name in names], names, mask=column.is_null())
    if pa.types.is_list(own.type) or pa.types.is_large_list(own.type):
        kind = pa.ListArray if pa.types.is_list(own.type) else pa.LargeListArray
        inner = _shared(column.flatten(), child_fields(own.type)[0], child_fields(other.type)[0])
        ends = np.cumsum(pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False))
        offsets = np.concatenate([[0], ends]).astype(np.int32 if kind is pa.ListArray else np.int64)
        return kind.from_arrays(pa.array(offsets), inner, mask=column.is_null())
    return column


def _bits(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Numbers with a fraction as the integers of their bits, so that NaN equals NaN."""
    if pa.types.is_floating(column.type):
        return column.view({16: pa.int16(), 32: pa.int32(), 64: pa.int64()}[column.type.bit_width])
    return column


def _mark(old: pa.Array, new: pa.Array, start: int, found: npt.NDArray[np.bool_]) -> None:
    """Mark rows that differ, by halving what is not equal as a whole: works for every type."""
    if len(new) == 0 or old.equals(new):
        return
    if len(new) == 1:
        found[start] = True
        return
    half = len(new) // 2
    _mark(old.slice(0, half), new.slice(0, half), start, found)
    _mark(old.slice(half), new.slice(half), start + half, found)
