"""The patches of a fragment as it is read: which rows of which file lie over which positions.

A patch's positions are in the manifest, so its rows are known before anything is fetched, and are read together with
the columns they lie over (spec/tables.md, MAN-9). Files are opened by whoever reads the fragment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lake_format.errors import CorruptionError
from lake_format.model import ColumnPatch, Fragment
from lake_format.positions import patched_positions
from lake_format.row_ids import U64

__all__ = ["FragmentPatches", "Overlay", "PatchStream"]

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Overlay:
    """Values of a patch that lie over some rows that were read.

    Attributes
    ----------
    patch
        Whose they are.
    at
        Which of the rows read get them, ascending.
    values
        As many rows of the patch's file.
    """

    patch: ColumnPatch
    at: I64
    values: pa.RecordBatch


class FragmentPatches:
    """What lies over the column groups of one fragment; positions are decoded when first needed."""

    def __init__(self, fragment: Fragment) -> None:
        self._fragment = fragment
        self._positions: dict[tuple[str, int], I64] = {}

    @cached_property
    def _by_field(self) -> dict[int, tuple[int, ...]]:
        found: dict[int, tuple[int, ...]] = {}
        for number, patch in enumerate(self._fragment.patches):
            for identity in patch.file.live_field_ids:
                found[identity] = (*found.get(identity, ()), number)
        return found

    def of(self, identities: Sequence[int]) -> list[ColumnPatch]:
        """The patches that have one of these columns, in their order."""
        numbers = {number for identity in identities for number in self._by_field.get(identity, ())}
        return [self._fragment.patches[number] for number in sorted(numbers)]

    def positions(self, patch: ColumnPatch) -> I64:
        """The positions a patch lies over, ascending."""
        key = (patch.file.path, patch.first_row)
        if key not in self._positions:
            self._positions[key] = patched_positions(self._fragment, patch).astype(np.int64)
        return self._positions[key]

    def over(self, patch: ColumnPatch, positions: npt.NDArray[np.integer]) -> tuple[I64, U64]:
        """Which of some increasing positions a patch lies over, and the rows of its file with their values."""
        held = self.positions(patch)
        wanted = positions.astype(np.int64)
        index = np.searchsorted(held, wanted)
        hit = index < len(held)
        hit[hit] = held[index[hit]] == wanted[hit]
        return np.flatnonzero(hit), (index[hit] + patch.first_row).astype(np.uint64)


class PatchStream:
    """The values of a patch that lie over a window of its fragment, handed out from front to back.

    Parameters
    ----------
    positions
        All positions of the patch.
    window
        First position of the fragment's window, and the one after its last.
    open_rows
        Reads the rows ``[first, last)`` of the patch's file.
    """

    def __init__(
        self,
        patch: ColumnPatch,
        positions: I64,
        window: tuple[int, int],
        open_rows: Callable[[int, int], Iterator[pa.RecordBatch]],
    ) -> None:
        low, high = np.searchsorted(positions, window).tolist()
        self._patch = patch
        self._positions = positions[low:high]
        self._rows = open_rows(patch.first_row + low, patch.first_row + high)
        self._held: list[pa.RecordBatch] = []
        self._at = 0

    def begin(self) -> None:
        """Read the first rows, if there are any."""
        if len(self._positions):
            self._held.append(self._next())

    def take(self, start: int, stop: int) -> Overlay | None:
        """What lies over positions ``[start, stop)``, which follow those of the call before; None for nothing."""
        end = int(np.searchsorted(self._positions, stop))
        if end == self._at:
            return None
        at = self._positions[self._at : end] - start
        self._at = end
        return Overlay(self._patch, at, self._taken(len(at)))

    def _taken(self, count: int) -> pa.RecordBatch:
        while sum(batch.num_rows for batch in self._held) < count:
            self._held.append(self._next())
        parts = []
        while count:
            first = self._held.pop(0)
            parts.append(first.slice(0, count))
            if first.num_rows > count:
                self._held.insert(0, first.slice(count))
            count -= parts[-1].num_rows
        return parts[0] if len(parts) == 1 else pa.concat_batches(parts)

    def _next(self) -> pa.RecordBatch:
        batch = next(self._rows, None)
        if batch is None:
            raise CorruptionError(f"patch file {self._patch.file.path!r} has fewer rows than its patches")
        return batch
