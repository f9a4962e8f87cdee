"""Arrays as a file holds them, made into arrays of the field as it is now: matched by field id at every depth.

Members that a file lacks are NULL, members that were dropped vanish, types that were widened are cast. Names and
order inside the file never matter (spec/evolution.md, EVO-1 to EVO-4). No I/O.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lake_engines.arrays import relabel
from lake_format.errors import CorruptionError
from lake_format.promotion import promotion
from lake_format.schema import child_fields, field_id, is_vector

__all__ = ["Projection", "projection"]

Projection = Callable[[pa.Array], pa.Array]
"""Turns an array read from a file into one of the current field's type; same length, same rows."""

_LISTS = (pa.types.is_list, pa.types.is_large_list)


def projection(written: pa.Field, current: pa.Field) -> Projection:
    """How values of a field as written become values of the field as it is now.

    Parameters
    ----------
    written, current
        Two states of one field, ids in their metadata at every depth.

    Raises
    ------
    CorruptionError
        No change that the format allows leads from one type to the other.
    """
    target = current.type
    if _alike(written, current):
        return lambda array: relabel(array, target)
    step = _step(written, current)
    return lambda array: relabel(step(array), target)


def _alike(written: pa.Field, current: pa.Field) -> bool:
    """Whether the same members lie in the same order with the same types, whatever they are called."""
    if not pa.types.is_nested(current.type):
        return bool(written.type == current.type)
    if written.type.id != current.type.id or written.type.num_fields != current.type.num_fields:
        return False
    if pa.types.is_fixed_size_list(current.type) and written.type.list_size != current.type.list_size:
        return False
    pairs = zip(child_fields(written.type), child_fields(current.type), strict=True)
    return all(field_id(one) == field_id(other) and _alike(one, other) for one, other in pairs)


def _step(written: pa.Field, current: pa.Field) -> Projection:
    source, target = written.type, current.type
    if _alike(written, current):
        return lambda array: relabel(array, target)
    if pa.types.is_struct(source) and pa.types.is_struct(target):
        return _struct_step(written, current)
    if pa.types.is_map(source) and pa.types.is_map(target):
        return _map_step(written, current)
    if pa.types.is_fixed_size_list(source) and pa.types.is_fixed_size_list(target):
        if source.list_size == target.list_size:
            return _fixed_list_step(written, current)
    elif any(check(source) for check in _LISTS) and is_vector(target):
        return _vector_step(written, current)
    elif any(check(source) for check in _LISTS) and any(check(target) for check in _LISTS):
        if pa.types.is_list(source) or pa.types.is_large_list(target):
            return _list_step(written, current)
    elif (found := promotion(source, target)) is not None:
        return lambda array: widened(array, target, safe=not found.checked)
    raise CorruptionError(
        f"field {current.name!r} (id {field_id(current)}) is {target}, but a file holds it as {source}",
        fix="no widening leads there: the table's schema history is damaged",
    )


def widened(array: pa.Array, target: pa.DataType, *, safe: bool = True) -> pa.Array:
    """The same values in a wider type.

    Parameters
    ----------
    safe
        Refuse (CorruptionError) a value that does not fit. Not after a checked widening: there only rows that
        are deleted may hold one.
    """
    try:
        if pa.types.is_dictionary(array.type):
            return _widened_dictionary(array, target)
        if pa.types.is_null(array.type):
            return pa.nulls(len(array), target)
        return array.cast(target, safe=safe)
    except pa.ArrowException as error:
        raise CorruptionError(f"a value of type {array.type} does not fit {target}: {error}") from error


def _widened_dictionary(array: pa.DictionaryArray, target: pa.DataType) -> pa.Array:
    if not pa.types.is_dictionary(target):
        plain = array.dictionary_decode()
        return plain if plain.type == target else widened(plain, target)
    dictionary = array.dictionary
    if dictionary.type != target.value_type:
        dictionary = widened(dictionary, target.value_type)
    codes = array.indices.cast(target.index_type)
    return pa.DictionaryArray.from_arrays(codes, dictionary, ordered=target.ordered)


def _struct_step(written: pa.Field, current: pa.Field) -> Projection:
    places = {field_id(child): (index, child) for index, child in enumerate(child_fields(written.type))}
    plan: list[tuple[int, Projection] | None] = []
    for child in current.type:
        found = places.get(field_id(child))
        plan.append(None if found is None else (found[0], _step(found[1], child)))
    target = current.type

    def run(array: pa.StructArray) -> pa.Array:
        members = [
            pa.nulls(len(array), target.field(index).type) if step is None else step[1](array.field(step[0]))
            for index, step in enumerate(plan)
        ]
        fields = [
            pa.field(child.name, member.type, True) for child, member in zip(target, members, strict=True)
        ]
        mask = array.is_null() if array.null_count else None
        return pa.StructArray.from_arrays(members, fields=fields, mask=mask)

    return run


def _list_step(written: pa.Field, current: pa.Field) -> Projection:
    (before,), (now,) = child_fields(written.type), child_fields(current.type)
    inner = _step(before, now)
    kind = pa.LargeListArray if pa.types.is_large_list(current.type) else pa.ListArray
    width = pa.int64() if pa.types.is_large_list(current.type) else pa.int32()

    def run(array: pa.ListArray) -> pa.Array:
        offsets, (values,) = _own_offsets(array, array.values)
        mask = array.is_null() if array.null_count else None
        return kind.from_arrays(offsets.cast(width), inner(values), mask=mask)

    return run


def _vector_step(written: pa.Field, current: pa.Field) -> Projection:
    """Lists as vectors, where each has the vector's dimension (EVO-11)."""
    (before,), (now,) = child_fields(written.type), child_fields(current.type)
    inner, size, name = _step(before, now), current.type.list_size, current.name

    def run(array: pa.ListArray) -> pa.Array:
        lengths = pc.fill_null(pc.list_value_length(array), size).to_numpy(zero_copy_only=False)
        wrong = np.flatnonzero(lengths != size)
        if len(wrong):
            raise CorruptionError(
                f"column {name!r} holds vectors of dimension {size}, but a file has a list of {lengths[wrong[0]]}",
                fix="import the column as a list, or mend the file's rows",
            )
        values = array.flatten()
        if values.null_count:
            raise CorruptionError(
                f"column {name!r} holds vectors, but a file has a list with NULL inside",
                fix="import the column as a list, or mend the file's rows",
            )
        if not array.null_count:
            return pa.FixedSizeListArray.from_arrays(inner(values), size)
        valid = array.is_valid().to_numpy(zero_copy_only=False)
        taken = pa.array(np.where(valid, np.cumsum(valid) - 1, 0), mask=~valid)
        return pa.FixedSizeListArray.from_arrays(inner(values), size).take(taken)

    return run


def _own_offsets(array: pa.Array, *elements: pa.Array) -> tuple[pa.Array, list[pa.Array]]:
    """Offsets from 0 on, and exactly the elements they point into."""
    offsets = array.offsets
    first, last = offsets[0].as_py(), offsets[-1].as_py()
    if first or offsets.offset:
        offsets = pc.subtract(offsets, pa.scalar(first, offsets.type))
    if (
        first == last
    ):  # a slice of no rows somewhere inside does not survive the Arrow C interface (pyarrow 26)
        return offsets, [pa.array([], one.type) for one in elements]
    return offsets, [one.slice(first, last - first) for one in elements]


def _map_step(written: pa.Field, current: pa.Field) -> Projection:
    (key_before, item_before), (key_now, item_now) = child_fields(written.type), child_fields(current.type)
    key, item = _step(key_before, key_now), _step(item_before, item_now)

    def run(array: pa.MapArray) -> pa.Array:
        offsets, (keys, items) = _own_offsets(array, array.keys, array.items)
        mask = array.is_null() if array.null_count else None
        return pa.MapArray.from_arrays(offsets, key(keys), item(items), mask=mask)

    return run


def _fixed_list_step(written: pa.Field, current: pa.Field) -> Projection:
    (before,), (now,) = child_fields(written.type), child_fields(current.type)
    inner = _step(before, now)
    size = current.type.list_size

    def run(array: pa.FixedSizeListArray) -> pa.Array:
        values = array.values.slice(array.offset * size, len(array) * size)
        mask = array.is_null() if array.null_count else None
        return pa.FixedSizeListArray.from_arrays(inner(values), size, mask=mask)

    return run
