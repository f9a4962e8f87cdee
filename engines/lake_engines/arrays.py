"""Chores on Arrow arrays that pyarrow or a file library leaves undone. Pure; no rows are changed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lake_engines.files.base import gather
from lake_format.schema import child_fields, field_id

__all__ = ["joined", "keep", "member_of", "overlaid", "relabel", "unsliced", "with_member"]


def relabel(array: pa.Array, data_type: pa.DataType) -> pa.Array:
    """The same buffers under a type of the same layout: names, nullability and metadata inside may differ."""
    if array.type.equals(data_type, check_metadata=True):
        return array
    return pa.array(_Relabelled(array, data_type))


class _Relabelled:
    def __init__(self, array: pa.Array, data_type: pa.DataType) -> None:
        self._array = array
        self._type = data_type

    def __arrow_c_array__(self, requested_schema: object = None) -> tuple[object, object]:
        return self._type.__arrow_c_schema__(), self._array.__arrow_c_array__()[1]


def member_of(array: pa.StructArray, field: pa.Field, path: Sequence[int]) -> pa.Array:
    """What a member of structs holds, NULL where a struct around it is.

    Parameters
    ----------
    field
        The column, ids in its metadata.
    path
        Ids of the fields that lead to the member, from the column down to itself.
    """
    places = []
    for identity in path[1:]:
        ids = [field_id(child) for child in child_fields(field.type)]
        places.append(ids.index(identity))
        field = child_fields(field.type)[places[-1]]
    return pc.struct_field(array, places)


def with_member(array: pa.StructArray, field: pa.Field, path: Sequence[int], member: pa.Array) -> pa.Array:
    """A column of structs with other values of a member, or with one more, NULL where the struct is.

    Parameters
    ----------
    field
        The column as it becomes, ids in its metadata.
    path
        Ids of the fields that lead to the member, from the column down to itself; a new one is the last member.
    """

    def grown(struct: pa.StructArray, now: pa.Field, inside: Sequence[int]) -> pa.Array:
        children = child_fields(now.type)
        members = [struct.field(place) for place in range(struct.type.num_fields)]
        place = [field_id(child) for child in children].index(inside[0])
        changed = member if len(inside) == 1 else grown(members[place], children[place], inside[1:])
        members[place : place + 1] = [changed]
        names = [pa.field(child.name, one.type, True) for child, one in zip(children, members, strict=True)]
        mask = struct.is_null() if struct.null_count else None
        return pa.StructArray.from_arrays(members, fields=names, mask=mask)

    return relabel(grown(array, field, path[1:]), field.type)


def keep(batch: pa.RecordBatch, mask: npt.NDArray[np.bool_]) -> pa.RecordBatch:
    """The rows where ``mask`` is true, for every type (pyarrow's filter lacks string and binary views)."""
    if mask.all():
        return batch
    try:
        return batch.filter(pa.array(mask))
    except pa.ArrowNotImplementedError:
        return gather(batch, np.flatnonzero(mask))


def overlaid(base: pa.Array, layers: Sequence[tuple[npt.NDArray[np.int64], pa.Array]]) -> pa.Array:
    """``base`` with other values in some places; later layers over earlier ones. For every type.

    Parameters
    ----------
    layers
        Places (increasing) and as many values of the same type.
    """
    layers = [(at, values) for at, values in layers if len(at)]
    if not layers:
        return base
    if len(layers[-1][0]) == len(base):
        return layers[-1][1]
    index = np.arange(len(base))
    held = len(base)
    for at, values in layers:
        index[at] = held + np.arange(len(values))
        held += len(values)
    every = joined([base, *(values for _, values in layers)])
    return gather(pa.RecordBatch.from_arrays([every], ["value"]), index).column(0)


def joined(arrays: list[pa.Array]) -> pa.Array:
    """Arrays of one type, one after the other; for dictionaries too, whatever each holds."""
    try:
        return pa.concat_arrays(arrays)
    except pa.ArrowInvalid:  # pyarrow 26 joins no dictionaries that hold a NULL
        return pa.concat_arrays([_without_null_entries(array) for array in arrays])


def _without_null_entries(array: pa.Array) -> pa.Array:
    """The same values, none of them NULL by way of its dictionary."""
    if not pa.types.is_dictionary(array.type):
        return pa.array(array.to_pylist(), array.type)
    known = array.dictionary.is_valid().to_numpy(zero_copy_only=False)
    renumbered = pa.array(np.cumsum(known) - 1, array.type.index_type, mask=~known)
    return pa.DictionaryArray.from_arrays(
        renumbered.take(array.indices), array.dictionary.drop_null(), ordered=array.type.ordered
    )


def unsliced(array: pa.Array) -> pa.Array:
    """The array without an offset where structs lie in structs or fixed-size lists.

    Vortex 0.93 cannot write such a slice.
    """
    if array.offset == 0 or not _has_inner_struct(array.type, within=False):
        return array
    return array.take(pa.array(np.arange(len(array))))


def _has_inner_struct(data_type: pa.DataType, *, within: bool) -> bool:
    if not pa.types.is_nested(data_type):
        return False
    if within and pa.types.is_struct(data_type):
        return True
    children = [data_type.field(index).type for index in range(data_type.num_fields)]
    within = within or pa.types.is_struct(data_type) or pa.types.is_fixed_size_list(data_type)
    return any(_has_inner_struct(child, within=within) for child in children)
