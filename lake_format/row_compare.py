"""Which rows of two Arrow tables differ, for columns of any type. NaN equals NaN, and the sign of a zero counts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["differing"]


def differing(old: pa.Table, new: pa.Table) -> npt.NDArray[np.bool_]:
    """Rows with another value in a column; the tables have equally many rows and columns, in order."""
    found = np.zeros(new.num_rows, bool)
    for before, after in zip(old.columns, new.columns, strict=True):
        same_type = before if before.type == after.type else before.cast(after.type)
        _mark(_bits(same_type.combine_chunks()), _bits(after.combine_chunks()), 0, found)
    return found


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
