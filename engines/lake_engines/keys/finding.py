"""Which live rows of a snapshot may have one of some keys: hits of its key index, and rows the index does not know.

A row that is not among them has none of the keys. Whether one that is has a key is for its real value to say.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lake_engines.keys.run_reader import RunPool, look_up
from lake_format.key_index import KeyIndex
from lake_format.row_ids import U64
from lake_format.snapshot import Snapshot

__all__ = ["FoundKeys", "Rows", "find_keys", "unanswered_rows"]

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Rows:
    """Live rows by fragment row (of the fragment table) and position; shape ``(n,)`` each."""

    owners: I64
    positions: I64

    def __len__(self) -> int:
        return len(self.owners)

    def joined(self, other: Rows) -> Rows:
        """These rows and others."""
        return Rows(
            np.concatenate([self.owners, other.owners]), np.concatenate([self.positions, other.positions])
        )

    def by_owner(self) -> dict[int, I64]:
        """Positions, ascending and distinct, by fragment row."""
        order = np.lexsort((self.positions, self.owners))
        owners, positions = self.owners[order], self.positions[order]
        begins = np.ones(len(owners), bool)
        begins[1:] = owners[1:] != owners[:-1]
        distinct = begins.copy()
        distinct[1:] |= positions[1:] != positions[:-1]
        owners, positions, begins = owners[distinct], positions[distinct], begins[distinct]
        starts = np.flatnonzero(begins)
        parts = np.split(positions, starts[1:]) if len(owners) else []
        return {int(owners[start]): part for start, part in zip(starts, parts, strict=True)}


@dataclass(frozen=True, slots=True)
class FoundKeys:
    """Rows with a hash that was looked for, and rows whose hash is not known."""

    hits: Rows
    unanswered: Rows


def find_keys(snapshot: Snapshot, index: KeyIndex, hashes: U64, pool: RunPool) -> FoundKeys:
    """Look hashes up.

    Parameters
    ----------
    hashes
        Ascending, distinct.
    """
    readers = pool.readers(snapshot.store, index.runs, len(hashes))
    ids = [reader.run.row_ids(found) for reader, _, found in look_up(snapshot.store, readers, hashes)]
    row_ids = np.sort(np.concatenate([np.empty(0, np.uint64), *ids]))
    row_ids = row_ids[np.r_[True, row_ids[1:] != row_ids[:-1]][: len(row_ids)]]
    owners, positions = snapshot.locations.locate(row_ids)
    live = owners >= 0
    return FoundKeys(Rows(owners[live], positions[live]), unanswered_rows(snapshot, index))


def _not_within(snapshot: Snapshot, starts: U64, ends: U64) -> I64:
    """The fragments, by their row, whose row ids do not all lie in one of the ranges."""
    low, high = snapshot.fragments.row_id_limits()
    if len(starts) == 0:
        return np.arange(len(low))
    at = np.searchsorted(starts, low, side="right") - 1
    return np.flatnonzero((at < 0) | (high >= ends[np.maximum(at, 0)]))


def unanswered_rows(snapshot: Snapshot, index: KeyIndex) -> Rows:
    """Live rows that the index does not answer for."""
    known, count = index.answered()
    ends = known + count
    first, length, owner, position = snapshot.locations.runs_of(_not_within(snapshot, known, ends))
    at = np.searchsorted(known, first, side="right") - 1
    stops = first + length.astype(np.uint64)
    inside = np.zeros(len(first), bool)
    if len(known):
        inside = (at >= 0) & (stops <= ends[np.maximum(at, 0)])
    owners: list[I64] = []
    positions: list[I64] = []
    for run in np.flatnonzero(~inside).tolist():
        low, high = int(first[run]), int(stops[run])
        missing = np.ones(high - low, bool)
        start = max(int(at[run]), 0)
        stop = int(np.searchsorted(known, np.uint64(high)))
        for begin, end in zip(known[start:stop].tolist(), ends[start:stop].tolist(), strict=True):
            missing[max(begin - low, 0) : max(end - low, 0)] = False
        found = np.flatnonzero(missing) + position[run]
        owners.append(np.full(len(found), owner[run]))
        positions.append(found)
    none = np.empty(0, np.int64)
    return Rows(np.concatenate([none, *owners]), np.concatenate([none, *positions]))
