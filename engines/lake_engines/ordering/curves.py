"""Space-filling curves: points of a grid to their place along a curve, vectorised over points. Pure.

Hilbert: J. Skilling, "Programming the Hilbert curve", AIP Conference Proceedings 707 (2004).
Z-order: G. M. Morton, "A computer oriented geodetic data base" (1966).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lake_format.row_ids import U64

__all__ = ["hilbert", "zorder"]


def zorder(axes: Sequence[U64], bits: int) -> U64:
    """The place of each point along the Z-order curve.

    Parameters
    ----------
    axes
        The coordinates, one array an axis, each below ``2**bits``; at most 64 bits together.
    """
    return _interleaved(axes, bits)


def hilbert(axes: Sequence[U64], bits: int) -> U64:
    """The place of each point along the Hilbert curve: consecutive places are neighbours in the grid."""
    point = [np.array(axis, np.uint64) for axis in axes]
    zero = np.uint64(0)
    for bit in range(bits - 1, 0, -1):  # undo excess work
        flag, below = np.uint64(1 << bit), np.uint64((1 << bit) - 1)
        for index in range(len(point)):
            has = (point[index] & flag) != 0
            swapped = np.where(has, zero, (point[0] ^ point[index]) & below)
            point[0] ^= np.where(has, below, swapped)
            point[index] ^= swapped
    for index in range(1, len(point)):  # Gray encode
        point[index] ^= point[index - 1]
    turned = np.zeros_like(point[0])
    for bit in range(bits - 1, 0, -1):
        has = (point[-1] & np.uint64(1 << bit)) != 0
        turned ^= np.where(has, np.uint64((1 << bit) - 1), zero)
    return _interleaved([axis ^ turned for axis in point], bits)


def _interleaved(axes: Sequence[U64], bits: int) -> U64:
    """The bits of all axes, highest first, in turn."""
    place = np.zeros(len(axes[0]), np.uint64)
    for bit in range(bits - 1, -1, -1):
        for axis in axes:
            place = (place << np.uint64(1)) | ((axis >> np.uint64(bit)) & np.uint64(1))
    return place
