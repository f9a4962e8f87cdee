"""Chores on Arrow arrays that pyarrow or a file library leaves undone. Pure; no rows are changed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lake_engines.files.base import gather

__all__ = ["keep", "relabel", "unsliced"]


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


def keep(batch: pa.RecordBatch, mask: npt.NDArray[np.bool_]) -> pa.RecordBatch:
    """The rows where ``mask`` is true, for every type (pyarrow's filter lacks string and binary views)."""
    if mask.all():
        return batch
    try:
        return batch.filter(pa.array(mask))
    except pa.ArrowNotImplementedError:
        return gather(batch, np.flatnonzero(mask))


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
