"""The raw vectors of one column over a whole snapshot, by address: what exact distances are computed from."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import numpy.typing as npt

from lake_engines.fragment_reader import FragmentReader, ReaderPool
from lake_engines.knn.coverage import Addresses, Runs
from lake_engines.knn.distances import F32, I64
from lake_engines.listed_vectors import ListedVectors
from lake_engines.patched_vectors import RawVectors, vector_parts
from lake_format.errors import CorruptionError
from lake_format.snapshot import Snapshot
from lake_format.store.base import ByteRange
from lake_format.store.ranges import read_coalesced

__all__ = ["VectorColumn"]

_BLOCK_BYTES = 16 << 20


class VectorColumn:
    """Vectors by address; a fragment without the column has only NULL vectors."""

    def __init__(self, snapshot: Snapshot, addresses: Addresses, name: str, pool: ReaderPool) -> None:
        self._snapshot = snapshot
        self._addresses = addresses
        self._name = name
        self._pool = pool
        self._readers: dict[int, RawVectors | None] = {}
        self.dimension: int = snapshot.schema.field(name).type.list_size

    def gather(self, addresses: I64) -> F32:
        """The vectors at addresses that hold one, any order; one round of requests where storage is remote.

        Returns
        -------
        ndarray
            float32, shape ``(n, dimension)``.
        """
        owners, positions = self._addresses.split(addresses)
        distinct = (
            [int(owners[0])] if len(owners) and (owners == owners[0]).all() else np.unique(owners).tolist()
        )
        readers = {owner: self._require(owner) for owner in distinct}
        if not all(reader.is_local for reader in readers.values()):
            return self._fetch(readers, owners, positions)
        if len(distinct) == 1:
            vectors, _ = readers[distinct[0]].take_vectors(positions)
            return vectors.astype(np.float32, copy=False)
        out = np.empty((len(addresses), self.dimension), np.float32)
        for owner in distinct:
            rows = np.flatnonzero(owners == owner)
            out[rows] = readers[owner].take_vectors(positions[rows])[0]
        return out

    def blocks(self, runs: Runs) -> Iterator[tuple[I64, F32]]:
        """The non-NULL vectors of address runs, block by block: addresses and float32 vectors."""
        for start, length in zip(*(part.tolist() for part in runs), strict=True):
            yield from self._run(start, length)

    @cached_property
    def null_addresses(self) -> I64:
        """Addresses of rows whose vector is NULL, ascending."""
        found = []
        for owner in range(len(self._snapshot.fragments)):
            reader = self._reader(owner)
            base = int(self._addresses.starts[owner])
            if reader is None:
                found.append(np.arange(base, int(self._addresses.starts[owner + 1])))
            elif reader.null_count:
                found.append(reader.nulls().astype(np.int64) + base)
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def _run(self, start: int, length: int) -> Iterator[tuple[I64, F32]]:
        stop = start + length
        rows = max(1, _BLOCK_BYTES // (4 * self.dimension))
        while start < stop:
            owner = int(np.searchsorted(self._addresses.starts, start, side="right") - 1)
            base, end = (int(value) for value in self._addresses.starts[owner : owner + 2])
            reader = self._reader(owner)
            if reader is not None:
                window = reader.chunks(start=start - base, stop=min(stop, end) - base, batch_rows=rows)
                for first, vectors, valid in window:
                    yield _present(base + first, vectors, valid)
            start = min(stop, end)

    def _fetch(self, readers: dict[int, RawVectors], owners: I64, positions: I64) -> F32:
        """One round of range requests for vectors of any number of files; those that hold lists are read besides."""
        ranges: list[ByteRange] = []
        parts = []
        out = np.empty((len(owners), self.dimension), np.float32)
        for owner, vectors in readers.items():
            rows = np.flatnonzero(owners == owner)
            for file, at, places in vector_parts(vectors, positions[rows]):
                if isinstance(file, ListedVectors):
                    out[rows[at]] = file.take_vectors(places)[0]
                    continue
                offsets, length, _ = file.byte_ranges(places)
                parts.append((file.dtype, rows[at]))
                ranges += [ByteRange(file.path, offset, length) for offset in offsets.tolist()]
        found = read_coalesced(self._snapshot.store, ranges)
        start = 0
        for dtype, rows in parts:  # files differ in type where the column was widened
            data = b"".join(found[start : start + len(rows)])
            start += len(rows)
            if len(data) != len(rows) * self.dimension * dtype.itemsize:
                raise CorruptionError(f"storage returned too few bytes for vectors of column {self._name!r}")
            out[rows] = np.frombuffer(data, dtype).reshape(len(rows), self.dimension)
        return out

    def _reader(self, owner: int) -> RawVectors | None:
        if owner not in self._readers:
            fragment = self._snapshot.fragments.fragment(owner)
            self._readers[owner] = FragmentReader(self._snapshot, fragment, self._pool).vectors(self._name)
        return self._readers[owner]

    def _require(self, owner: int) -> RawVectors:
        reader = self._reader(owner)
        assert reader is not None, "addresses of NULL vectors are left out before"
        return reader


def _present(
    first: int, vectors: npt.NDArray[np.floating], valid: npt.NDArray[np.bool_] | None
) -> tuple[I64, F32]:
    addresses = np.arange(first, first + len(vectors))
    if valid is not None:
        addresses, vectors = addresses[valid], vectors[valid]
    return addresses, vectors.astype(np.float32, copy=False)
