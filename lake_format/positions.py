"""Sets of row positions (or row ids): bitmaps to arrays and back, fast where the set is one run; a fragment's own."""

from __future__ import annotations

from array import array
from sys import byteorder
from typing import Any

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap64

from lake_format.errors import CorruptionError
from lake_format.model import ColumnPatch, Fragment
from lake_format.row_ids import U64

__all__ = ["bitmap_of", "deleted_positions", "patched_positions", "positions_of"]


def bitmap_of(ascending: npt.NDArray[Any]) -> BitMap64:
    """The set of these numbers, which are whole, not negative, and strictly increasing."""
    if len(ascending) == 0:
        return BitMap64()
    first, last = int(ascending[0]), int(ascending[-1])
    if last - first + 1 == len(ascending):
        return BitMap64(range(first, last + 1))
    words = array("Q", ascending.astype("<u8").tobytes())
    if byteorder == "big":
        words.byteswap()
    return BitMap64(words)


def positions_of(bitmap: BitMap64) -> npt.NDArray[np.int64]:
    """The members of a set, ascending."""
    if not bitmap:
        return np.empty(0, np.int64)
    first, last = int(bitmap.min()), int(bitmap.max())
    if last - first + 1 == len(bitmap):
        return np.arange(first, last + 1)
    return np.array(bitmap.to_array(), np.uint64).astype(np.int64)


def deleted_positions(fragment: Fragment) -> U64:
    """Deleted positions of a fragment, ascending; CorruptionError if the bitmap does not fit it."""
    if fragment.deletions is None:
        if fragment.deleted_count:
            raise CorruptionError(f"fragment {fragment.fragment_id} counts deleted rows but has no bitmap")
        return np.empty(0, np.uint64)
    name = f"the deletion bitmap of fragment {fragment.fragment_id}"
    return _positions(fragment.deletions, fragment.deleted_count, fragment.row_count, name)


def patched_positions(fragment: Fragment, patch: ColumnPatch) -> U64:
    """The positions of one of a fragment's patches, ascending; CorruptionError if the bitmap does not fit it."""
    name = f"the bitmap of a patch of fragment {fragment.fragment_id}"
    return _positions(patch.positions, patch.count, fragment.row_count, name)


def _positions(data: bytes, count: int, rows: int, name: str) -> U64:
    try:
        bitmap = BitMap64.deserialize(data)
    except (ValueError, RuntimeError, TypeError, IndexError) as error:
        raise CorruptionError(f"{name} cannot be read") from error
    positions = positions_of(bitmap).astype(np.uint64)
    if len(positions) != count or (len(positions) and positions[-1] >= rows):
        raise CorruptionError(f"{name} does not fit its rows")
    return positions
