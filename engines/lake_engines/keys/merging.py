"""Puts runs of the key index together, and builds a whole index: sorted pieces, merged window by window.

Memory: a window of some hundred thousand entries; sorted pieces of new hashes lie in a temporary file. A window is a
part of the range of hashes, which are spread evenly over it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self
from uuid import UUID

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lake_engines.arrays import keep
from lake_engines.fragment_reader import FragmentReader, ReaderPool
from lake_engines.keys.finding import Rows, unanswered_rows
from lake_engines.keys.run_reader import RunReader
from lake_engines.keys.run_writer import write_run
from lake_engines.keys.tiers import settled
from lake_engines.take import take_rows
from lake_format.errors import InvalidInputError, StorageError
from lake_format.key_index import (
    Intervals,
    KeyIndex,
    KeyRun,
    KeyRunsMerged,
    Numbering,
    intervals_of,
    runs_of,
    united,
    without,
)
from lake_format.keys import hash_keys
from lake_format.row_edits import DuplicateKeyError
from lake_format.row_ids import U64
from lake_format.row_runs import RowRuns
from lake_format.schema import field_by_id, field_id
from lake_format.snapshot import Snapshot

__all__ = [
    "SortedHashes",
    "Window",
    "all_rows",
    "build_key_index",
    "hashed_rows",
    "merge_runs",
    "refuse_doubles",
    "windows_of",
]

_WINDOW = 262_144
_PIECE = 1 << 21
"""Hashes sorted in memory at a time; 32 MiB with their row ids."""
_SCAN_ROWS = 65_536
_SPARSE = 8
"""Rows of a fragment are read one by one where they are fewer than one in so many."""
_MOST_ROWS = 0xFFFFFFFE
_LINE_BITS = np.uint64(40)

I64 = npt.NDArray[np.int64]

Entries = tuple[U64, U64]
"""Hashes that ascend, and the row id of each."""


class _Source(Protocol):
    @property
    def entries(self) -> int:
        """At most how many."""
        ...

    def between(self, low: int, high: int) -> Entries:
        """Entries with ``low <= hash < high``; windows are asked for in ascending order."""
        ...


class SortedHashes:
    """Hashes of rows as sorted pieces in a temporary file; removed when closed.

    Raises
    ------
    StorageError
        There is no room for the file.
    """

    def __init__(self) -> None:
        self._file = tempfile.NamedTemporaryFile(prefix="lake-keys-", suffix=".bin")  # noqa: SIM115
        self._held: list[Entries] = []
        self._rows = 0
        self._pieces: list[tuple[int, int]] = []  # offset in words, entries
        self._end = 0

    def add(self, hashes: U64, row_ids: U64) -> None:
        """Take in rows, in any order."""
        self._held.append((hashes, row_ids))
        self._rows += len(hashes)
        if self._rows >= _PIECE:
            self._spill()

    def sources(self) -> list[_Source]:
        """The sorted pieces, once all rows are in."""
        if self._rows:
            self._spill()
        self._file.flush()
        if not self._pieces:
            return []
        words = np.memmap(Path(self._file.name), np.uint64, "r").view(np.ndarray)
        return [
            _Piece(words[start : start + count], words[start + count : start + 2 * count])
            for start, count in self._pieces
        ]

    def _spill(self) -> None:
        hashes, row_ids = (np.concatenate(column) for column in zip(*self._held, strict=True))
        order = np.argsort(hashes)
        try:
            self._file.write(hashes[order].astype(np.uint64).tobytes())
            self._file.write(row_ids[order].astype(np.uint64).tobytes())
        except OSError as error:
            raise StorageError(
                f"key hashes cannot be kept in {tempfile.gettempdir()!r}: {error}",
                fix="make room there, or point TMPDIR elsewhere",
            ) from error
        self._pieces.append((self._end, len(hashes)))
        self._end += 2 * len(hashes)
        self._held, self._rows = [], 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


@dataclass(frozen=True, slots=True)
class _Piece:
    hashes: U64
    row_ids: U64

    @property
    def entries(self) -> int:
        return len(self.hashes)

    def between(self, low: int, high: int) -> Entries:
        start = int(np.searchsorted(self.hashes, np.uint64(low)))
        stop = len(self.hashes) if high > _TOP else int(np.searchsorted(self.hashes, np.uint64(high)))
        return self.hashes[start:stop], self.row_ids[start:stop]


_TOP = (1 << 64) - 1


@dataclass(slots=True)
class _RunSource:
    """A run of a snapshot, read page by page, without rows that are dead or stale."""

    snapshot: Snapshot
    reader: RunReader
    stale: U64 = field(default_factory=lambda: np.empty(0, np.uint64))

    @property
    def entries(self) -> int:
        return self.reader.run.run.entries

    def between(self, low: int, high: int) -> Entries:
        hashes, row_ids = self.reader.between(self.snapshot.store, low, high)
        live = (self.snapshot.locations.locate(row_ids)[0] >= 0) & ~np.isin(row_ids, self.stale)
        return hashes[live], row_ids[live]


@dataclass(frozen=True, slots=True)
class Window:
    """All entries with ``low <= hash < high``, ascending by hash and row id."""

    low: int
    high: int
    hashes: U64
    row_ids: U64


def windows_of(sources: Sequence[_Source]) -> Iterator[Window]:
    """All entries in ascending order of hash, equal hashes never parted."""
    count = max(1, -(-sum(source.entries for source in sources) // _WINDOW))
    edges = [(_TOP + 1) * number // count for number in range(count + 1)]
    for low, high in pairwise(edges if sources else []):
        found = [source.between(low, high) for source in sources]
        hashes, row_ids = (np.concatenate(column) for column in zip(*found, strict=True))
        order = np.lexsort((row_ids, hashes))
        yield Window(low, high, hashes[order], row_ids[order])


def merge_runs(
    snapshot: Snapshot,
    index: KeyIndex,
    runs: Sequence[KeyRun],
    pool: ReaderPool,
    new_id: Callable[[], UUID],
    *,
    refresh: bool = False,
) -> KeyRunsMerged | None:
    """Write one run in place of several; entries of rows that are dead or stale are left out.

    Parameters
    ----------
    refresh
        Also take in the rows that the index does not answer for, reading their keys.

    Returns
    -------
    KeyRunsMerged or None
        None where there is nothing to do, or one run cannot number so many rows.
    """
    stale = np.fromiter(index.stale, np.uint64, len(index.stale))
    readers = pool.key_runs.readers(snapshot.store, runs, 0)
    covered = [run.intervals for run in runs]
    with SortedHashes() as fresh:
        if refresh:
            for hashes, row_ids in hashed_rows(
                snapshot, unanswered_rows(snapshot, index), index.field_ids, pool
            ):
                fresh.add(hashes, row_ids)
                covered.append(intervals_of(row_ids))
        sources: list[_Source] = [_RunSource(snapshot, reader, stale) for reader in readers]
        sources += fresh.sources()
        rows = _numbered(snapshot, united(covered))
        if not rows or len(rows) > _MOST_ROWS:
            return None
        run = _write(snapshot, index.field_ids, rows, sources, windows_of(sources), new_id)
    refreshed = index.stale if refresh else RowRuns()
    return KeyRunsMerged(replaced=frozenset(one.identity for one in runs), run=run, refreshed=refreshed)


def settle_key_index(
    snapshot: Snapshot, pool: ReaderPool, new_id: Callable[[], UUID]
) -> KeyRunsMerged | None:
    """One run over all rows, in place of all there are; None where there are few and every row is known."""
    index = snapshot.version.key_index
    if index is None or (settled(index) and not len(unanswered_rows(snapshot, index))):
        return None
    return merge_runs(snapshot, index, index.runs, pool, new_id, refresh=True)


def build_key_index(
    snapshot: Snapshot, columns: Sequence[str], pool: ReaderPool, new_id: Callable[[], UUID]
) -> KeyIndex:
    """Index all live rows by their key, having made sure that each has one and no two have the same.

    Raises
    ------
    InvalidInputError
        A NULL in a key; :class:`DuplicateKeyError` for a key that two rows have. Each names the key and the rows.
    """
    field_ids = tuple(field_id(snapshot.schema.field(name)) for name in columns)
    everything = all_rows(snapshot)
    with SortedHashes() as fresh:
        for hashes, row_ids in hashed_rows(snapshot, everything, field_ids, pool):
            fresh.add(hashes, row_ids)
        sources = fresh.sources()
        first, length, _, _ = snapshot.locations.runs
        rows = _numbered(snapshot, united([(first, length.astype(np.uint64))]))
        checked = _without_doubles(snapshot, columns, windows_of(sources), pool)
        if not rows or len(rows) > _MOST_ROWS:
            for _ in checked:  # no run can number them, or there are none: look all the same
                pass
            return KeyIndex(field_ids=field_ids)
        return KeyIndex(
            field_ids=field_ids, runs=(_write(snapshot, field_ids, rows, sources, checked, new_id),)
        )


def _write(
    snapshot: Snapshot,
    field_ids: Sequence[int],
    rows: RowRuns,
    sources: Sequence[_Source],
    windows: Iterable[Window],
    new_id: Callable[[], UUID],
) -> KeyRun:
    numbering = Numbering(rows)
    new = write_run(
        snapshot.store,
        ((one.hashes, numbering.ordinals(one.row_ids)) for one in windows),
        entries=sum(source.entries for source in sources),
        rows=len(rows),
        field_ids=field_ids,
        new_id=new_id,
    )
    return new.placed(rows)


def _numbered(snapshot: Snapshot, covered: Intervals) -> RowRuns:
    """The rows a run counts: gaps of dead rows are closed, so that a run of many rows is told in few words.

    Row ids that this line has given out and that are not live stay dead; those of other lines may come with a merge.
    """
    first, length = covered
    if len(first) == 0:
        return RowRuns()
    limit = np.uint64(snapshot.version.next_row_id)
    start = limit >> _LINE_BITS << _LINE_BITS
    live, count, _, _ = snapshot.locations.runs
    alive = united([(live, count.astype(np.uint64))])
    ours = (np.array([start]), np.array([limit - start]))
    dead = without(ours, alive)
    inside = (dead[0] >= first[0]) & (dead[0] + dead[1] <= first[-1] + length[-1])
    return runs_of(united([covered, (dead[0][inside], dead[1][inside])]))


def all_rows(snapshot: Snapshot) -> Rows:
    """Every live row."""
    _, length, owner, position = snapshot.locations.runs
    before = np.cumsum(length) - length
    within = np.arange(int(length.sum())) - np.repeat(before, length)
    return Rows(np.repeat(owner, length), np.repeat(position, length) + within)


def hashed_rows(
    snapshot: Snapshot, rows: Rows, field_ids: Sequence[int], pool: ReaderPool
) -> Iterator[Entries]:
    """Key hashes and row ids of rows, some thousand at a time; a NULL in a key is an InvalidInputError."""
    names = _names(snapshot, field_ids)
    for owner, positions in rows.by_owner().items():
        reader = FragmentReader(snapshot, snapshot.fragments.fragment(owner), pool)
        for batch, at in _read(reader, positions, names):
            parts = [batch.column(name) for name in names]
            row_ids = reader.row_ids_at(at)
            for name, part in zip(names, parts, strict=True):
                if part.null_count:
                    row = int(np.flatnonzero(part.is_null().to_numpy(zero_copy_only=False))[0])
                    raise InvalidInputError(
                        f"key column {name!r} is NULL in the row with row id {int(row_ids[row])}",
                        fix="a key identifies its row: fill it in, or delete the row",
                    )
            yield hash_keys(parts), row_ids.astype(np.uint64)


def _read(
    reader: FragmentReader, positions: I64, names: Sequence[str]
) -> Iterator[tuple[pa.RecordBatch, I64]]:
    total = reader.fragment.row_count
    if len(positions) * _SPARSE < total:
        for start in range(0, len(positions), _SCAN_ROWS):
            at = positions[start : start + _SCAN_ROWS]
            yield reader.take(at.astype(np.uint64), names), at
        return
    for start, batch in reader.scan(names, int(positions[0]), int(positions[-1]) + 1, _SCAN_ROWS):
        low, high = np.searchsorted(positions, [start, start + batch.num_rows])
        at = positions[low:high]
        if len(at) == batch.num_rows:
            yield batch, at
        elif len(at):
            mask = np.zeros(batch.num_rows, bool)
            mask[at - start] = True
            yield keep(batch, mask), at


def _without_doubles(
    snapshot: Snapshot, columns: Sequence[str], windows: Iterable[Window], pool: ReaderPool
) -> Iterator[Window]:
    for window in windows:
        refuse_doubles(snapshot, columns, window, pool)
        yield window


def refuse_doubles(snapshot: Snapshot, columns: Sequence[str], window: Window, pool: ReaderPool) -> None:
    """Compare the keys of rows with equal hashes; DuplicateKeyError names the first that two rows have."""
    same = window.hashes[1:] == window.hashes[:-1]
    if not same.any():
        return
    at = np.flatnonzero(np.r_[same, False] | np.r_[False, same])
    begins = np.flatnonzero(np.r_[True, window.hashes[at[1:]] != window.hashes[at[:-1]]])
    cuts = begins[np.searchsorted(begins, np.arange(_SCAN_ROWS, len(at), _SCAN_ROWS), side="right") - 1]
    for group in np.split(at, np.unique(cuts[cuts > 0])):  # equal hashes are never parted
        row_ids = window.row_ids[group]
        seen: dict[tuple[object, ...], int] = {}
        keys = take_rows(snapshot, row_ids, columns, pool).to_pylist()
        for row_id, row in zip(row_ids.tolist(), keys, strict=True):
            key = tuple(row[name] for name in columns)
            if key in seen:
                text = ", ".join(f"{name}={value!r}" for name, value in row.items())
                raise DuplicateKeyError(
                    f"the rows with the row ids {seen[key]} and {row_id} have the same key, {text}",
                    fix="delete one of them, or add a column to the key that tells them apart",
                )
            seen[key] = row_id


def _names(snapshot: Snapshot, field_ids: Sequence[int]) -> list[str]:
    found = [field_by_id(snapshot.schema, identity) for identity in field_ids]
    return [str(field.name) for field in found if field is not None]
