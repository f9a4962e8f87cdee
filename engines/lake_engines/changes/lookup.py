"""Finds the live rows of a table that have the keys of rows handed in: by key index or statistics, then by value.

Only key columns (and columns a condition needs) are read: of the rows that the index names, or window by window.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lake_engines.changes.source import SourceKeys, comparable
from lake_engines.changes.values import I64
from lake_engines.fragment_reader import FragmentReader, ReaderPool
from lake_engines.keys.finding import find_keys
from lake_format.keys import hash_keys, is_number, key_words
from lake_format.model import Fragment
from lake_format.parallel import in_order
from lake_format.row_ids import U64
from lake_format.schema import field_id
from lake_format.snapshot import Snapshot
from lake_format.statistics import bound_kind, encode_bound

__all__ = ["KeyCandidates", "KeyLookup", "KeyWindow"]

_WINDOW_ROWS = 131_072
_SPARSE = 16
"""Positions of a fragment are read one by one where they are fewer than one in so many."""
_AT_ONCE = 32
"""Fragments of an object store that rows are fetched from at the same time."""
_BULK = 4
"""So many times fewer keys than rows are looked up; more are joined by reading all keys."""
_FILTER_BITS = 16
"""Slots of the filter per key: a row whose key is none of them passes it once in so many times."""
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class KeyCandidates:
    """A fragment that may have keys that are looked for; at these positions only, or anywhere (None)."""

    fragment: Fragment
    positions: I64 | None = None


@dataclass(frozen=True, slots=True)
class KeyWindow:
    """Rows of a fragment and which of them have a key that was looked for.

    Attributes
    ----------
    positions, batch
        Where the rows are, ascending, and the columns read.
    live
        Which rows are not deleted.
    rows, origin
        Rows of the window that match, ascending, and the source row each matches; shape ``(n,)`` each.
    """

    positions: I64
    batch: pa.RecordBatch
    live: npt.NDArray[np.bool_]
    rows: I64
    origin: I64


class KeyLookup:
    """Looks for the keys of staged rows in a table."""

    def __init__(self, keys: SourceKeys) -> None:
        self.keys = keys
        self._is_number = len(keys.columns) == 1 and is_number(keys.parts[0].type)
        words = key_words(keys.part(0, keys.rows)) if self._is_number else keys.hashes
        order = np.argsort(words, kind="stable") if self._is_number else np.arange(len(words))
        self._words, self._rows = words[order], keys.rows[order]
        bits = max(10, int(len(words) * _FILTER_BITS - 1).bit_length())
        self._shift = np.uint64(64 - bits)
        self._filter = np.zeros(1 << bits, bool)
        self._filter[self._slot(self._words)] = True
        self._collides = bool((self._words[1:] == self._words[:-1]).any())

    def candidates(self, snapshot: Snapshot, pool: ReaderPool) -> list[KeyCandidates]:
        """Where the keys may be, by the table's key index if it is over them, else by statistics."""
        index = snapshot.version.key_index
        identities = tuple(field_id(snapshot.schema.field(name)) for name in self.keys.columns)
        usable = index is not None and index.field_ids == identities
        if index is None or not usable or self._is_bulk(snapshot):
            return [KeyCandidates(fragment) for fragment in self._by_statistics(snapshot)]
        found = find_keys(snapshot, index, self.keys.distinct_hashes, pool.key_runs)
        rows = found.hits.joined(found.unanswered).by_owner()
        fragments = ((snapshot.fragments.fragment(owner), positions) for owner, positions in rows.items())
        return [
            KeyCandidates(fragment, positions if len(positions) * _SPARSE < fragment.row_count else None)
            for fragment, positions in fragments
        ]

    def _is_bulk(self, snapshot: Snapshot) -> bool:
        """Whether so many keys are looked for that reading the key columns is cheaper than asking for each."""
        return len(self.keys.rows) * _BULK > snapshot.version.row_count

    def _by_statistics(self, snapshot: Snapshot) -> list[Fragment]:
        """The fragments whose statistics do not rule all keys out."""
        table = snapshot.fragments
        selected = np.full(len(table), len(self.keys.rows) > 0)
        for index, name in enumerate(self.keys.columns):
            if not selected.any():
                break
            field = snapshot.schema.field(name)
            bounds = table.column(field_id(field))
            if bounds is not None and bound_kind(field.type) is not None:
                values = comparable(self.keys.part(index, self.keys.rows))
                selected &= _may_hold(values, field.type, bounds[0], bounds[1], selected)
        return table.fragments(selected)

    def sweep(
        self,
        snapshot: Snapshot,
        pool: ReaderPool,
        columns: Sequence[str] = (),
        *,
        single: Sequence[str] = (),
        fragments: Sequence[Fragment] | None = None,
    ) -> Iterator[tuple[KeyCandidates, KeyWindow]]:
        """All rows that have to be looked at, fragment by fragment; single ones are fetched side by side.

        Parameters
        ----------
        columns
            Wanted besides the key.
        single
            Wanted, too, where rows are fetched one by one.
        fragments
            Read these whole, whatever may be in them.
        """
        chosen = (
            self.candidates(snapshot, pool)
            if fragments is None
            else [KeyCandidates(fragment) for fragment in fragments]
        )
        sparse = [one for one in chosen if one.positions is not None]
        local = not sparse or snapshot.store.local_path(sparse[0].fragment.groups[0].path) is not None
        fetch = partial(self._fetched, snapshot, pool, [*columns, *single])
        for candidates, windows in zip(
            sparse, in_order(fetch, sparse, 1 if local else _AT_ONCE), strict=True
        ):
            yield from ((candidates, window) for window in windows)
        for candidates in chosen:
            if candidates.positions is None:
                whole = self.windows(snapshot, candidates, pool, columns)
                yield from ((candidates, window) for window in whole)

    def _fetched(
        self, snapshot: Snapshot, pool: ReaderPool, columns: Sequence[str], candidates: KeyCandidates
    ) -> list[KeyWindow]:
        return list(self.windows(snapshot, candidates, pool, columns))

    def windows(
        self, snapshot: Snapshot, candidates: KeyCandidates, pool: ReaderPool, columns: Sequence[str] = ()
    ) -> Iterator[KeyWindow]:
        """The rows of a fragment that may have a key, those that have one marked."""
        fragment = candidates.fragment
        reader = FragmentReader(snapshot, fragment, pool)
        read = list(dict.fromkeys([*self.keys.columns, *columns]))
        if candidates.positions is not None:
            for begin in range(0, len(candidates.positions), _WINDOW_ROWS):
                positions = candidates.positions[begin : begin + _WINDOW_ROWS]
                batch = reader.take(positions.astype(np.uint64), read)
                live = np.ones(batch.num_rows, bool)  # the index names live rows only
                yield KeyWindow(positions, batch, live, *self._match(batch, live))
            return
        deleted = reader.deleted()
        for start, batch in reader.scan(read, 0, fragment.row_count, _WINDOW_ROWS):
            live = np.ones(batch.num_rows, bool)
            low, high = np.searchsorted(deleted, [start, start + batch.num_rows])
            live[deleted[low:high].astype(np.int64) - start] = False
            rows, origin = self._match(batch, live)
            yield KeyWindow(np.arange(start, start + batch.num_rows), batch, live, rows, origin)

    def _match(self, batch: pa.RecordBatch, live: npt.NDArray[np.bool_]) -> tuple[I64, I64]:
        parts = [batch.column(name) for name in self.keys.columns]
        possible = live.copy()
        for part in parts:
            if part.null_count:
                possible &= part.is_valid().to_numpy(zero_copy_only=False)
        words = key_words(parts[0]) if self._is_number else hash_keys(parts)
        possible &= self._filter[self._slot(words)]
        rows = np.flatnonzero(possible)
        rows, places = self._find(words[rows], rows)
        origin = self._rows[places]
        if self._is_number:  # the word is the key
            return rows, origin
        equal = np.ones(len(rows), bool)
        for index, part in enumerate(parts):
            theirs = comparable(self.keys.part(index, origin))
            same = pc.equal(comparable(part.take(pa.array(rows))), theirs)
            equal &= same.to_numpy(zero_copy_only=False)
        return rows[equal], origin[equal]

    def _slot(self, words: U64) -> npt.NDArray[np.int64]:
        """The filter's slot of each word, by multiplicative hashing (Knuth, volume 3, section 6.4)."""
        return ((words * _SPREAD) >> self._shift).view(np.int64)

    def _find(self, words: U64, rows: I64) -> tuple[I64, I64]:
        """Pairs of rows and places in the sorted words that are equal, ascending by row."""
        order = np.argsort(words)  # searching in order is kind to caches
        wanted = words[order]
        low = np.searchsorted(self._words, wanted)
        if not self._collides:
            hit = low < len(self._words)
            hit[hit] = self._words[low[hit]] == wanted[hit]
            found, places = rows[order[hit]], low[hit]
        else:
            counts = np.searchsorted(self._words, wanted, side="right") - low
            before = np.cumsum(counts) - counts
            places = np.repeat(low - before, counts) + np.arange(int(counts.sum()))
            found = np.repeat(rows[order], counts)
        back = np.argsort(found, kind="stable")
        return found[back], places[back]


def _may_hold(
    values: pa.Array,
    data_type: pa.DataType,
    lower: pa.BinaryArray,
    upper: pa.BinaryArray,
    selected: npt.NDArray[np.bool_],
) -> npt.NDArray[np.bool_]:
    """For each fragment, whether one of the values may lie within its bounds; unknown bounds may hold anything."""
    ends = pc.min_max(values)
    least, most = encode_bound(ends["min"], data_type), encode_bound(ends["max"], data_type)
    above = pc.fill_null(pc.greater_equal(upper, pa.scalar(least, upper.type)), True)
    below = pc.fill_null(pc.less_equal(lower, pa.scalar(most, lower.type)), True)
    may = np.array(pc.and_(above, below).to_numpy(zero_copy_only=False)) & selected
    within = _some_between(values, data_type)
    if within is None:
        return may
    for index in np.flatnonzero(may).tolist():
        low, high = lower[index].as_py(), upper[index].as_py()
        may[index] = low is None or high is None or within(low, high)
    return may


def _some_between(values: pa.Array, data_type: pa.DataType) -> Callable[[bytes, bytes], bool] | None:
    """A test whether some value lies between two bounds, for types whose bounds are cheap to make; else None."""
    kind = bound_kind(data_type)
    if kind in ("signed", "unsigned"):
        word = np.int64 if kind == "signed" else np.uint64
        numbers = np.sort(values.to_numpy(zero_copy_only=False).astype(word))
        shift = 1 << 63 if kind == "signed" else 0

        def between(low: bytes, high: bytes) -> bool:
            first = np.searchsorted(numbers, word(int.from_bytes(low, "big") - shift))
            return bool(first < len(numbers) and int(numbers[first]) <= int.from_bytes(high, "big") - shift)

        return between
    if kind == "text" and len(values) <= 1 << 17:
        texts = sorted(value.encode() for value in values.to_pylist())

        def between_texts(low: bytes, high: bytes) -> bool:
            first = bisect_left(texts, low)
            return first < len(texts) and texts[first] <= high

        return between_texts
    return None
