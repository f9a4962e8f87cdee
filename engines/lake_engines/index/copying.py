"""Codes and refinement records taken over from other shards of the same model, under new ordinals.

This is how shards merge and shed rows without encoding anything again, or even reading a vector. What is read is
checked by its checksums first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lake_engines.index.interface import I64, U8
from lake_engines.index.list_store import Transfer
from lake_engines.index.packing import unpack_codes
from lake_engines.index.reader import IndexReader
from lake_engines.index.refinement import RECORDS_PER_CHECKSUM, record_size
from lake_format.checksum import crc32
from lake_format.errors import CorruptionError
from lake_format.store.base import ByteRange, Store

__all__ = ["CopiedShard"]

_LISTS_AT_ONCE = 64
_RECORDS_AT_ONCE = 1 << 16


@dataclass(frozen=True, slots=True)
class CopiedShard:
    """The vectors of one shard that go into a new one.

    Attributes
    ----------
    old, new
        Their ordinals in this shard and in the new one; both ascend, shape ``(n,)``.
    """

    store: Store
    reader: IndexReader
    old: I64
    new: I64

    def copy_codes(self, lists: npt.NDArray[np.uint16], codes: U8) -> None:
        """Put list number and code of every vector at its new ordinal."""
        shard = self.reader.shard
        place = np.full(self.reader.count, -1, np.int64)
        place[self.old] = self.new
        transfer = Transfer()
        filled = np.flatnonzero(shard.head.table.counts[:-1])
        for start in range(0, len(filled), _LISTS_AT_ONCE):
            part = filled[start : start + _LISTS_AT_ONCE]
            with shard.lists.loaded(part, transfer) as loaded:
                for number in part.tolist():
                    at = place[loaded.ordinals(number)]
                    kept = at >= 0
                    unpacked = unpack_codes(loaded.packed(number), len(at), shard.head.code_size)
                    codes[at[kept]] = unpacked[kept]
                    lists[at[kept]] = number
        undirected = place[shard.lists.undirected(transfer)]
        undirected = undirected[undirected >= 0]
        lists[undirected], codes[undirected] = shard.model.list_count, 0

    def records(self, start: int, stop: int) -> tuple[I64, U8]:
        """New ordinals within ``[start, stop)`` and their refinement records, shape ``(n, record size)``."""
        low, high = np.searchsorted(self.new, [start, stop])
        old = self.old[low:high]
        parts = [
            self._read(old[first : first + _RECORDS_AT_ONCE])
            for first in range(0, len(old), _RECORDS_AT_ONCE)
        ]
        size = record_size(self.reader.dimension)
        return self.new[low:high], np.concatenate(parts) if parts else np.empty((0, size), np.uint8)

    def _read(self, old: I64) -> U8:
        """The records of ascending ordinals: whole checksummed runs around them in one request."""
        place, size = self.reader.refine_place, record_size(self.reader.dimension)
        assert place is not None
        count, step = self.reader.count, RECORDS_PER_CHECKSUM
        chunk, last = int(old[0]) // step, int(old[-1]) // step + 1
        first, end = chunk * step, min(last * step, count)
        records = ByteRange(place.path, place.offset + first * size, (end - first) * size)
        sums = ByteRange(place.path, place.offset + count * size + 4 * chunk, 4 * (last - chunk))
        data, stored = self.store.get_ranges([records, sums])
        if len(data) != records.length or len(stored) != sums.length:
            raise CorruptionError(f"{place.path}: the refinement region is cut off")
        found = np.frombuffer(data, np.uint8).reshape(-1, size)
        for offset, checksum in enumerate(np.frombuffer(stored, "<u4").tolist()):
            if crc32(found[offset * step : (offset + 1) * step].data) != checksum:
                raise CorruptionError(
                    f"{place.path}: refinement records from {first + offset * step} are altered (checksum)"
                )
        return found[old - first]
