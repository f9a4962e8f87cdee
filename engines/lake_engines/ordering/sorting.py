"""Sorts rows of any number in bounded memory: runs in temporary files, merged a few at a time.

External merge sort (Knuth, The Art of Computer Programming, volume 3, 5.4), vectorised: a merge step takes from
every run the rows up to the least of the runs' last keys at hand. The sort is stable. Needs a bounded share of the
rows in memory and, beyond that, their size on local disk.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lake_engines.files.base import batch_bytes, gather
from lake_engines.ordering.keys import RowKeys
from lake_format.errors import StorageError
from lake_format.row_ids import U64

__all__ = ["MEMORY_BYTES", "ExternalSort", "SortedRows"]

MEMORY_BYTES = 160 << 20
"""Rows held in memory; sorting them needs about as much again."""
_CHUNK_BYTES = 4 << 20
_MOST_ROWS = 65_536
_FAN_IN = 24
_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4")


@dataclass(frozen=True, slots=True)
class SortedRows:
    """Some rows in order, their key words, and the place of each among the rows handed in."""

    batch: pa.RecordBatch
    words: list[U64]
    places: npt.NDArray[np.int64]


class ExternalSort:
    """Takes rows in any order and gives them back sorted by their keys; a context manager."""

    def __init__(self, schema: pa.Schema, keys: RowKeys, memory_bytes: int = MEMORY_BYTES) -> None:
        self._schema = schema
        self._keys = keys
        self._limit = memory_bytes
        self._held: list[pa.RecordBatch] = []
        self._bytes = 0
        self._taken = 0
        self._levels: list[list[Path]] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._files = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self._held = []
        if self._folder is not None:
            self._folder.cleanup()

    def add(self, batch: pa.RecordBatch) -> None:
        """Take in some rows."""
        if batch.num_rows == 0:
            return
        self._held.append(batch)
        self._bytes += batch_bytes(batch)
        if self._bytes > self._limit:
            self._spill(0, self._sorted_held())

    def rows(self) -> Iterator[SortedRows]:
        """All rows in order; nothing can be added afterwards."""
        if not self._levels:
            yield from self._sorted_held()
            return
        if self._held:
            self._spill(0, self._sorted_held())
        # Lower levels hold later rows; places keep equal keys in order whatever the order of runs.
        runs = [run for level in self._levels for run in level]
        while len(runs) > _FAN_IN:
            runs = [*runs[_FAN_IN:], self._write(self._merged(runs[:_FAN_IN]))]
        yield from self._merged(runs)

    # --- runs ---------------------------------------------------------------------------------------------

    def _sorted_held(self) -> Iterator[SortedRows]:
        if not self._held:
            return
        batches, self._held, self._bytes = self._held, [], 0
        self._keys.fit(batches)
        columns: list[list[U64]] = []
        place = self._taken
        for batch in batches:
            columns.append(self._keys.keys(batch, place))
            place += batch.num_rows
        words = [np.concatenate(parts) for parts in zip(*columns, strict=True)]
        first, self._taken = self._taken, place
        order = _order(words)
        rows = pa.concat_batches(batches) if len(batches) > 1 else batches[0]
        batches.clear()
        step = _chunk_rows(rows)
        unmoved = bool((order[1:] > order[:-1]).all())
        for start in range(0, rows.num_rows, step):
            at = order[start : start + step]
            batch = rows.slice(start, step) if unmoved else gather(rows, at)
            yield SortedRows(batch, [word[at] for word in words], at + first)

    def _spill(self, level: int, rows: Iterator[SortedRows]) -> None:
        while len(self._levels) <= level:
            self._levels.append([])
        self._levels[level].append(self._write(rows))
        if len(self._levels[level]) >= _FAN_IN:
            runs, self._levels[level] = self._levels[level], []
            self._spill(level + 1, self._merged(runs))

    def _write(self, rows: Iterator[SortedRows]) -> Path:
        with _storing():
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="lake-sort-")
            path = Path(self._folder.name) / str(self._files)
            self._files += 1
        writer = None
        with contextlib.ExitStack() as stack:
            for part in rows:
                columns = [*part.batch.columns, *map(pa.array, part.words), pa.array(part.places)]
                batch = pa.RecordBatch.from_arrays(columns, [str(index) for index in range(len(columns))])
                with _storing():
                    if writer is None:
                        sink = stack.enter_context(pa.OSFile(str(path), "wb"))
                        writer = stack.enter_context(pa.ipc.new_stream(sink, batch.schema, options=_OPTIONS))
                    writer.write_batch(batch)
        return path

    def _read(self, path: Path) -> Iterator[SortedRows]:
        width = len(self._schema)
        with _storing(), pa.OSFile(str(path), "rb") as source, pa.ipc.open_stream(source) as reader:
            for batch in reader:
                yield SortedRows(
                    pa.RecordBatch.from_arrays(batch.columns[:width], schema=self._schema),
                    [np.asarray(column.to_numpy()) for column in batch.columns[width:-1]],
                    np.asarray(batch.columns[-1].to_numpy()),
                )
        path.unlink()

    # --- merging ------------------------------------------------------------------------------------------

    def _merged(self, runs: Sequence[Path]) -> Iterator[SortedRows]:
        sources = [self._read(run) for run in runs]
        heads = [next(source) for source in sources]
        while heads:
            last = [(*(int(word[-1]) for word in head.words), int(head.places[-1])) for head in heads]
            bound: tuple[int, ...] = min(last)
            cuts = [_rows_up_to(head, bound) for head in heads]
            parts = [_part(head, 0, cut) for head, cut in zip(heads, cuts, strict=True) if cut]
            yield _put_in_order(parts)
            heads, sources = _advanced(heads, sources, cuts)


def _advanced(
    heads: list[SortedRows], sources: list[Iterator[SortedRows]], cuts: list[int]
) -> tuple[list[SortedRows], list[Iterator[SortedRows]]]:
    """What is left of each run, and the runs that are not at their end."""
    left, open_sources = [], []
    for head, source, cut in zip(heads, sources, cuts, strict=True):
        rest = _part(head, cut, head.batch.num_rows) if cut < head.batch.num_rows else next(source, None)
        if rest is not None:
            left.append(rest)
            open_sources.append(source)
    return left, open_sources


def _rows_up_to(rows: SortedRows, bound: tuple[int, ...]) -> int:
    """How many rows have keys up to ``bound``; the place is the last word of a key, so no two are equal."""
    low, high = 0, len(rows.places)
    for word, limit in zip([*rows.words, rows.places], bound, strict=True):
        value = word.dtype.type(limit)
        start = low + int(np.searchsorted(word[low:high], value, side="left"))
        high = low + int(np.searchsorted(word[low:high], value, side="right"))
        low = start
    return high


def _part(rows: SortedRows, start: int, stop: int) -> SortedRows:
    return SortedRows(
        rows.batch.slice(start, stop - start),
        [word[start:stop] for word in rows.words],
        rows.places[start:stop],
    )


def _put_in_order(parts: list[SortedRows]) -> SortedRows:
    if len(parts) == 1:
        return parts[0]
    words = [np.concatenate(pieces) for pieces in zip(*(part.words for part in parts), strict=True)]
    places = np.concatenate([part.places for part in parts])
    order = _order([*words, places])
    batch = gather(pa.concat_batches([part.batch for part in parts]), order)
    return SortedRows(batch, [word[order] for word in words], places[order])


def _order(words: Sequence[npt.NDArray[np.generic]]) -> npt.NDArray[np.int64]:
    if len(words) == 1:
        return np.argsort(words[0], kind="stable")
    return np.lexsort(tuple(reversed(words)))


def _chunk_rows(batch: pa.RecordBatch) -> int:
    width = max(batch_bytes(batch) // max(int(batch.num_rows), 1), 1)
    return max(1, min(_CHUNK_BYTES // width, _MOST_ROWS))


@contextlib.contextmanager
def _storing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"rows could not be sorted on local disk: {error}",
            fix="make room in the folder for temporary files, or set TMPDIR to another one",
        ) from error
