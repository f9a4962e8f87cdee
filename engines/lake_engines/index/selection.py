"""Which vectors a search may return: a bitmap over ordinals, and how many it holds.

Kept as a value of its own so that a filter is evaluated and counted once for many queries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lake_engines.index.interface import I64, U8
from lake_format.errors import InvalidInputError

__all__ = ["Selection"]


@dataclass(frozen=True, slots=True)
class Selection:
    """A set of ordinals out of ``total``.

    Attributes
    ----------
    bitmap
        Bit ``i % 8`` (lowest first, as in Arrow) of byte ``i // 8`` is set if ordinal ``i`` is
        selected; the bits after the last ordinal are 0.
    total
        Number of ordinals the bitmap speaks of.
    count
        Number of set bits.
    """

    bitmap: U8
    total: int
    count: int

    @classmethod
    def from_bitmap(cls, bitmap: U8, total: int) -> Selection:
        """Wrap a packed bitmap of at least ``total`` bits, in Arrow's order; not copied where possible."""
        length = (total + 7) // 8
        if bitmap.dtype != np.uint8 or bitmap.ndim != 1 or len(bitmap) < length:
            raise InvalidInputError(
                f"a selection bitmap for {total} vectors must be {length} bytes of uint8, "
                f"not {len(bitmap)} of {bitmap.dtype}"
            )
        packed = np.ascontiguousarray(bitmap[:length])
        spare = -total % 8
        if spare and packed[-1] >> (8 - spare):
            packed = packed.copy()
            packed[-1] &= 0xFF >> spare
        return cls(packed, total, int(np.bitwise_count(packed).sum(dtype=np.int64)))

    @classmethod
    def from_mask(cls, mask: npt.NDArray[np.bool_]) -> Selection:
        """Pack a boolean mask with one entry per ordinal."""
        return cls(np.packbits(mask, bitorder="little"), len(mask), int(np.count_nonzero(mask)))

    @classmethod
    def from_ordinals(cls, ordinals: I64, total: int) -> Selection:
        """Select the given ordinals; repeated ones count once."""
        if len(ordinals) and (ordinals.min() < 0 or ordinals.max() >= total):
            raise InvalidInputError(f"selected ordinals must lie in [0, {total})")
        mask = np.zeros(total, np.bool_)
        mask[ordinals] = True
        return cls.from_mask(mask)

    def without(self, other: Selection) -> Selection:
        """Return what is selected here and not in ``other``."""
        return Selection.from_bitmap(self.bitmap & ~other.bitmap, self.total)

    def contains(self, ordinals: I64) -> npt.NDArray[np.bool_]:
        """Tell for each ordinal whether it is selected; same shape as ``ordinals``."""
        bits = (self.bitmap[ordinals >> 3] >> (ordinals & 7).astype(np.uint8)) & 1
        mask: npt.NDArray[np.bool_] = bits.view(np.bool_)
        return mask

    def first(self, limit: int) -> I64:
        """Return the first ``limit`` selected ordinals, ascending."""
        if limit >= self.total:
            return np.flatnonzero(np.unpackbits(self.bitmap, bitorder="little")).astype(np.int64)
        found: list[I64] = []
        missing, step = limit, 1 << 16
        for start in range(0, len(self.bitmap), step):
            if missing <= 0:
                break
            bits = np.unpackbits(self.bitmap[start : start + step], bitorder="little")
            part = np.flatnonzero(bits)[:missing] + 8 * start
            found.append(part.astype(np.int64))
            missing -= len(part)
        return np.concatenate(found) if found else np.empty(0, np.int64)
