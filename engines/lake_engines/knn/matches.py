"""The rows a filter lets through, as a bitmap over addresses: evaluated once, used for a whole batch of queries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lake_engines.fragment_reader import FragmentReader, ReaderPool
from lake_engines.knn.coverage import Addresses
from lake_engines.knn.distances import I64
from lake_engines.predicate import BoundPredicate
from lake_engines.scan import matching_positions
from lake_format.snapshot import Snapshot

__all__ = ["Matches", "find_matches"]


@dataclass(frozen=True, slots=True)
class Matches:
    """Addresses of live rows that match a filter.

    Attributes
    ----------
    key
        What was evaluated, as text; equal keys of one snapshot have equal rows.
    bits
        One bit an address, least significant first; shape ``(ceil(total / 8),)``.
    count, total
        Matching rows; addresses in all.
    """

    key: str
    bits: npt.NDArray[np.uint8]
    count: int
    total: int

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return int(self.bits.nbytes)

    def mask(self) -> npt.NDArray[np.bool_]:
        """One boolean an address."""
        return np.unpackbits(self.bits, count=self.total, bitorder="little").view(bool)

    def addresses(self) -> I64:
        """The matching addresses, ascending."""
        return np.flatnonzero(self.mask())

    def contains(self, addresses: I64) -> npt.NDArray[np.bool_]:
        """Which of the addresses match."""
        return np.asarray((self.bits[addresses >> 3] >> (addresses & 7).astype(np.uint8)) & 1 == 1)


def find_matches(
    snapshot: Snapshot, addresses: Addresses, predicate: BoundPredicate, pool: ReaderPool, key: str
) -> Matches:
    """Evaluate a filter over the fragments that may hold matching rows."""
    mask = np.zeros(addresses.total, bool)
    for index in np.flatnonzero(predicate.prune(snapshot.fragments)).tolist():
        reader = FragmentReader(snapshot, snapshot.fragments.fragment(index), pool)
        base = int(addresses.starts[index])
        for positions in matching_positions(reader, predicate):
            mask[base + positions] = True
    return Matches(key, np.packbits(mask, bitorder="little"), int(np.count_nonzero(mask)), addresses.total)
