"""The raw vectors of a fragment whose vector column has patches: read by address, like those of one file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from itertools import chain, islice
from typing import Any

import numpy as np
import numpy.typing as npt

from lake_engines.files.vector_reader import VectorReader
from lake_engines.listed_vectors import ListedVectors
from lake_format.parallel import run_all

__all__ = ["PatchedVectors", "RawVectors", "VectorPart", "vector_parts"]

I64 = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.floating[Any]]
_Valid = npt.NDArray[np.bool_]
_AHEAD_BYTES = 16 << 20
_Chunk = tuple[int, _Floats, _Valid | None]
VectorPart = tuple[VectorReader | ListedVectors, I64, I64]
"""A file, which of the vectors asked for it has, and at which of its rows."""


class PatchedVectors:
    """Vectors of one column of a fragment: those of a file, with those of patches over them.

    Parameters
    ----------
    base
        The column group's file; None where the fragment has none, and every vector is NULL that is not patched.
    layers
        Positions (ascending), the patch's file, and its row of the first of them; later layers over earlier ones.
    rows, dimension
        Of the fragment, of the column.
    """

    def __init__(
        self,
        base: VectorReader | ListedVectors | None,
        layers: Sequence[tuple[I64, VectorReader | ListedVectors, int]],
        rows: int,
        dimension: int,
    ) -> None:
        self._base = base
        self._files = [reader for _, reader, _ in layers]
        self._rows = rows
        self._dimension = dimension
        places = np.concatenate([positions for positions, _, _ in layers])
        layer = np.repeat(np.arange(len(layers)), [len(positions) for positions, _, _ in layers])
        row = np.concatenate([first + np.arange(len(positions)) for positions, _, first in layers])
        # Sorted by position, the latest layer last; the last of each position is the one that is seen.
        order = np.lexsort((layer, places))
        last = np.r_[np.diff(places[order]) > 0, True]
        self._places, self._layer, self._row = (values[order][last] for values in (places, layer, row))
        readers: list[VectorReader | ListedVectors] = [*self._files, *([base] if base is not None else [])]
        self.is_local = all(reader.is_local for reader in readers)
        self.dtype: np.dtype[Any] = np.result_type(*(reader.dtype for reader in readers))

    @property
    def null_count(self) -> int:
        """NULL vectors at all positions."""
        return len(self._nulls)

    def nulls(self) -> npt.NDArray[np.uint64]:
        """Sorted positions of the NULL vectors."""
        return self._nulls

    @cached_property
    def _nulls(self) -> npt.NDArray[np.uint64]:
        below = np.arange(self._rows) if self._base is None else self._base.nulls().astype(np.int64)
        found = [np.setdiff1d(below, self._places, assume_unique=True)]
        for number, reader in enumerate(self._files):
            own = self._layer == number
            gone = np.isin(self._row[own], reader.nulls().astype(np.int64))
            found.append(self._places[own][gone])
        return np.sort(np.concatenate(found)).astype(np.uint64)

    def parts(self, positions: npt.NDArray[np.integer]) -> list[VectorPart]:
        """Which file has which of the vectors at positions in any order; positions without a vector are in none."""
        wanted = np.asarray(positions).astype(np.int64)
        if len(self._places):
            index = np.minimum(np.searchsorted(self._places, wanted), len(self._places) - 1)
            over = self._places[index] == wanted
        found: list[VectorPart] = []
        for number in np.unique(self._layer[index[over]]).tolist():
            at = np.flatnonzero(over & (self._layer[index] == number))
            found.append((self._files[number], at, self._row[index[at]]))
        under = np.flatnonzero(~over)
        if self._base is not None and len(under):
            found.append((self._base, under, wanted[under]))
        return found

    def take_vectors(self, positions: npt.NDArray[np.integer]) -> tuple[_Floats, _Valid | None]:
        """The vectors at ``positions``, in any order, repeats allowed; zeros and False for NULL vectors."""
        out = np.zeros((len(positions), self._dimension), self.dtype)
        valid = np.zeros(len(positions), bool)
        parts = self.parts(positions)
        takes = [partial(reader.take_vectors, rows) for reader, _, rows in parts]
        for (_, at, _), (vectors, present) in zip(
            parts, run_all(takes, together=not self.is_local), strict=True
        ):
            out[at] = vectors
            valid[at] = True if present is None else present
        return out, None if valid.all() else valid

    def chunks(self, *, start: int = 0, stop: int | None = None, batch_rows: int) -> Iterator[_Chunk]:
        """The vectors of rows ``[start, stop)``, block by block: first position, vectors, which are there."""
        end = self._rows if stop is None else stop
        ahead = _Ahead(self, *np.searchsorted(self._places, [start, end]).tolist())
        below = self._below(start, end, batch_rows)
        if not self.is_local:
            below = ahead.begun_with(below)
        for first, vectors, valid in below:
            low, high = np.searchsorted(self._places, [first, first + len(vectors)]).tolist()
            if low == high:
                yield first, vectors, valid
                continue
            new, present = ahead.take(low, high)
            at = self._places[low:high] - first
            mixed = vectors.astype(self.dtype)  # a copy: it may be a window into the file
            mixed[at] = new
            shown = np.ones(len(vectors), bool) if valid is None else valid.copy()
            shown[at] = present
            yield first, mixed, None if shown.all() else shown

    def _below(self, start: int, stop: int, batch_rows: int) -> Iterator[_Chunk]:
        if self._base is not None:
            yield from self._base.chunks(start=start, stop=stop, batch_rows=batch_rows)
            return
        for first in range(start, stop, batch_rows):
            count = min(batch_rows, stop - first)
            yield first, np.zeros((count, self._dimension), self.dtype), np.zeros(count, bool)

    def patched(self, low: int, high: int) -> tuple[_Floats, _Valid]:
        """The vectors of the patched positions from the ``low``-th to before the ``high``-th."""
        vectors, valid = self.take_vectors(self._places[low:high])
        return vectors, np.ones(high - low, bool) if valid is None else valid


class _Ahead:
    """Patched vectors in order, fetched some way ahead so that a scan asks storage seldom."""

    def __init__(self, vectors: PatchedVectors, start: int, stop: int) -> None:
        self._vectors = vectors
        self._stop = stop
        self._low = self._high = start
        self._step = max(1, _AHEAD_BYTES // (vectors._dimension * vectors.dtype.itemsize))
        self._held: tuple[_Floats, _Valid] | None = None

    def begun_with(self, chunks: Iterator[_Chunk]) -> Iterator[_Chunk]:
        """The chunks, the first of them read in one round with the first vectors of this."""
        firsts: list[_Chunk] = []
        run_all(
            [lambda: self._fetch(self._low, self._low), lambda: firsts.extend(islice(chunks, 1))],
            together=True,
        )
        return chain(firsts, chunks)

    def take(self, low: int, high: int) -> tuple[_Floats, _Valid]:
        """The vectors of the patched positions from the ``low``-th to before the ``high``-th."""
        if self._held is None or high > self._high:
            self._fetch(low, high)
        assert self._held is not None
        vectors, valid = self._held
        return vectors[low - self._low : high - self._low], valid[low - self._low : high - self._low]

    def _fetch(self, low: int, high: int) -> None:
        self._low, self._high = low, min(self._stop, max(high, low + self._step))
        self._held = self._vectors.patched(self._low, self._high)


RawVectors = VectorReader | ListedVectors | PatchedVectors
"""The vectors of a column in one fragment, by position."""


def vector_parts(vectors: RawVectors, positions: I64) -> list[VectorPart]:
    """Which file has which of the vectors at positions in any order."""
    if isinstance(vectors, PatchedVectors):
        return vectors.parts(positions)
    return [(vectors, np.arange(len(positions)), positions)]
