"""Sets of row positions (or row ids): bitmaps to arrays and back, fast where the set is one run."""

from __future__ import annotations

from array import array
from sys import byteorder
from typing import Any

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap64

__all__ = ["bitmap_of", "positions_of"]


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
