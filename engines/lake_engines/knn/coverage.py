"""Which live rows an index covers, and where each of its ordinals lies now (spec/identity.md, IDN-8 and IDN-9).

Rows are named by *address*: the fragments of a snapshot laid end to end, in the order of its fragment table.
Everything is done on runs, so the cost follows the number of runs, not of rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap64

from lake_engines.knn.distances import I64
from lake_format.errors import CorruptionError
from lake_format.model import IndexEntry, IndexShard
from lake_format.row_ids import row_id_runs
from lake_format.snapshot import Snapshot

__all__ = ["Addresses", "Coverage", "ShardMap", "cover", "expand"]

Runs = tuple[I64, I64]
"""Starts and lengths of ascending, disjoint runs."""


class Addresses:
    """Addresses of a snapshot's rows, and back to fragment and position."""

    def __init__(self, snapshot: Snapshot) -> None:
        rows = snapshot.fragments.integers("row_count").astype(np.int64)
        self.starts: I64 = np.concatenate([np.zeros(1, np.int64), np.cumsum(rows)])
        first, length, owner, position = snapshot.locations.runs
        self._first, self._length = first.astype(np.int64), length
        self._address: I64 = self.starts[owner] + position
        self._in_order: tuple[I64, I64] | None = None

    @property
    def total(self) -> int:
        """Addresses in all, deleted rows included."""
        return int(self.starts[-1])

    def live_runs(self) -> tuple[I64, I64, I64]:
        """Runs of live rows ascending by row id: first row id, length, first address."""
        return self._first, self._length, self._address

    def row_ids(self, addresses: I64) -> I64:
        """The row id at each address of a live row; any order, same shape."""
        if self._in_order is None:
            order = np.argsort(self._address, kind="stable")
            self._in_order = self._address[order], self._first[order]
        starts, first = self._in_order
        run = np.searchsorted(starts, addresses, side="right") - 1
        return np.asarray(first[run] + addresses - starts[run])

    def split(self, addresses: I64) -> tuple[I64, I64]:
        """Fragment row and position of each address."""
        owners = np.searchsorted(self.starts, addresses, side="right") - 1
        return owners, addresses - self.starts[owners]


@dataclass(frozen=True, slots=True)
class ShardMap:
    """Ordinals of one shard that are live and current, as runs onto addresses."""

    ordinals: I64
    lengths: I64
    addresses: I64
    total: int

    @property
    def live(self) -> int:
        """How many ordinals still stand for a live row with the value the index holds."""
        return int(self.lengths.sum())

    def address_of(self, ordinals: I64) -> I64:
        """The address of each ordinal, -1 where it stands for no live row; any shape."""
        if len(self.ordinals) == 0:
            return np.full(ordinals.shape, -1, np.int64)
        run = np.searchsorted(self.ordinals, ordinals, side="right") - 1
        offset = ordinals - self.ordinals[run]
        held = (ordinals >= 0) & (run >= 0) & (offset < self.lengths[run])
        return np.where(held, self.addresses[run] + offset, -1)

    def select(self, mask: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.bool_]:
        """The ordinals whose rows are live and, where there is a mask over addresses, in it."""
        chosen = np.zeros(self.total, bool)
        if len(self.ordinals) > 256:
            ordinals = expand(self.ordinals, self.lengths)
            chosen[ordinals] = True if mask is None else mask[expand(self.addresses, self.lengths)]
            return chosen
        for ordinal, length, address in zip(
            self.ordinals.tolist(), self.lengths.tolist(), self.addresses.tolist(), strict=True
        ):
            chosen[ordinal : ordinal + length] = True if mask is None else mask[address : address + length]
        return chosen


@dataclass(frozen=True, slots=True)
class Coverage:
    """What an index covers of a snapshot, and the address runs it leaves to flat search."""

    shards: tuple[ShardMap, ...]
    uncovered: Runs

    @property
    def uncovered_rows(self) -> int:
        """Live rows outside the index."""
        return int(self.uncovered[1].sum())

    def without(self, addresses: I64) -> Coverage:
        """The same coverage with these addresses (ascending) no longer searched flat."""
        if len(addresses) == 0:
            return self
        return Coverage(self.shards, _subtract(self.uncovered, _runs_of(addresses)))


def cover(addresses: Addresses, entry: IndexEntry | None) -> Coverage:
    """Intersect an index's row ids with the live rows; without an index everything is uncovered."""
    first, length, address = addresses.live_runs()
    stale = _stale_runs(entry)
    shards, covered = [], []
    for shard in entry.shards if entry else ():
        shard_map, runs = _map_shard(shard, stale, (first, length, address))
        shards.append(shard_map)
        covered.append(runs)
    left = _subtract((first, length), _union(covered))
    return Coverage(tuple(shards), _to_addresses(left, (first, length, address)))


def _stale_runs(entry: IndexEntry | None) -> Runs:
    if entry is None or entry.stale is None:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    try:
        bitmap = BitMap64.deserialize(entry.stale)
    except (ValueError, RuntimeError, TypeError, IndexError) as error:
        raise CorruptionError(f"the stale rows of index {entry.name!r} cannot be read") from error
    return _runs_of(np.fromiter(bitmap, np.int64, len(bitmap)))


def _map_shard(shard: IndexShard, stale: Runs, live: tuple[I64, I64, I64]) -> tuple[ShardMap, Runs]:
    starts, lengths = row_id_runs(shard.row_ids, shard.row_count)
    rows = (starts.astype(np.int64), lengths)
    ordinal_starts = np.cumsum(lengths) - lengths
    current = _subtract(rows, stale)
    in_shard, in_live, begin, size = _intersect(current, (live[0], live[1]), owner_of_first=rows)
    ordinals = ordinal_starts[in_shard] + begin - rows[0][in_shard]
    addresses = live[2][in_live] + begin - live[0][in_live]
    return ShardMap(ordinals, size, addresses, shard.row_count), (begin, size)


def _intersect(first: Runs, second: Runs, *, owner_of_first: Runs) -> tuple[I64, I64, I64, I64]:
    """Overlaps of two run lists.

    Returns
    -------
    (ndarray, ndarray, ndarray, ndarray)
        For each overlap, ascending: the run of ``owner_of_first`` and of ``second`` it lies in, its start, length.
    """
    (a_start, a_length), (b_start, b_length) = first, second
    a_end, b_end = a_start + a_length, b_start + b_length
    low = np.searchsorted(b_end, a_start, side="right")
    high = np.searchsorted(b_start, a_end, side="left")
    counts = np.maximum(high - low, 0)
    a_index = np.repeat(np.arange(len(a_start)), counts)
    b_index = expand(low, counts)
    begin = np.maximum(a_start[a_index], b_start[b_index])
    size = np.minimum(a_end[a_index], b_end[b_index]) - begin
    owner = np.searchsorted(owner_of_first[0], begin, side="right") - 1
    return owner, b_index, begin, size


def _subtract(runs: Runs, taken: Runs) -> Runs:
    """The parts of ``runs`` that no run of ``taken`` holds."""
    if len(taken[0]) == 0:
        return runs
    gaps_start = np.concatenate([[np.iinfo(np.int64).min >> 1], taken[0] + taken[1]])
    gaps_end = np.concatenate([taken[0], [np.iinfo(np.int64).max >> 1]])
    solid = gaps_end > gaps_start
    gaps = (gaps_start[solid], (gaps_end - gaps_start)[solid])
    _, _, begin, size = _intersect(runs, gaps, owner_of_first=runs)
    return begin, size


def _union(parts: list[Runs]) -> Runs:
    if not parts:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    starts = np.concatenate([part[0] for part in parts])
    lengths = np.concatenate([part[1] for part in parts])
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], (starts + lengths)[order]
    if len(starts) == 0:
        return starts, ends
    reach = np.maximum.accumulate(ends)
    fresh = np.concatenate([[True], starts[1:] > reach[:-1]])
    heads = np.flatnonzero(fresh)
    tails = np.concatenate([heads[1:] - 1, [len(starts) - 1]])
    return starts[heads], reach[tails] - starts[heads]


def _to_addresses(row_runs: Runs, live: tuple[I64, I64, I64]) -> Runs:
    """Row-id runs as address runs, ascending by address."""
    owner, _, begin, size = _intersect(row_runs, (live[0], live[1]), owner_of_first=(live[0], live[1]))
    start = live[2][owner] + begin - live[0][owner]
    order = np.argsort(start, kind="stable")
    return start[order], size[order]


def _runs_of(ascending: I64) -> Runs:
    if len(ascending) == 0:
        return ascending, ascending
    heads = np.flatnonzero(np.concatenate([[True], np.diff(ascending) != 1]))
    return ascending[heads], np.diff(np.concatenate([heads, [len(ascending)]]))


def expand(starts: I64, lengths: I64) -> I64:
    """Every number of the runs, in order."""
    total = int(lengths.sum())
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(total)
