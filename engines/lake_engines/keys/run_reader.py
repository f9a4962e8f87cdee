"""Looks hashes up in runs of the key index: heads and filters first, then only the pages that may hold one.

Local files are mapped. Elsewhere all runs are asked side by side, in two rounds: heads (with the filter where it is
less to read than the pages would be), then pages. Heads and filters are kept up to a number
of bytes; runs never change.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from lake_engines.keys.bloom import BLOCK_BYTES, may_contain
from lake_engines.keys.layout import ENTRY_BYTES, PAGES_START, RunHead, page_entries
from lake_format.checksum import crc32, joined_crc32
from lake_format.errors import CorruptionError, NotFoundError, StorageError
from lake_format.key_index import KeyRun
from lake_format.row_ids import U64
from lake_format.store.base import ByteRange, Store
from lake_format.store.ranges import read_coalesced

__all__ = ["RunPool", "RunReader", "look_up"]

_KEPT_BYTES = 64 << 20
_WHOLE = 128 << 10
"""A file up to this size is read at once."""
_STEP = 65_536
_SIDE_BY_SIDE = 16
"""From so many neighbouring pages on one checksum of all is worth working out what it has to be."""
_TOP = (1 << 64) - 1

I64 = npt.NDArray[np.int64]


class RunReader:
    """One run: its head, its filter if it was fetched, its pages if they are at hand."""

    def __init__(self, run: KeyRun) -> None:
        self.run = run
        self._where = run.run.path
        self.head: RunHead | None = None
        self._filter: npt.NDArray[np.uint32] | None = None
        self._pages: npt.NDArray[np.uint8] | None = None  # all of them: a map, or a small file
        self._checked: npt.NDArray[np.bool_] | None = None
        self._inline: tuple[U64, I64] | None = None
        if not self._where:
            hashes = np.frombuffer(run.run.hashes, "<u8")
            order = np.argsort(hashes)
            self._inline = (hashes[order], order)

    @property
    def nbytes(self) -> int:
        """Memory held, maps aside."""
        head = 0 if self.head is None else self.head.pages * 12
        return (
            head
            + (0 if self._filter is None else self._filter.nbytes)
            + self.run.run.entries * 16 * (self._inline is not None)
        )

    # --- opening --------------------------------------------------------------------------------------

    def wanted(self, store: Store, hashes: int) -> list[ByteRange]:
        """What has to be fetched before pages can be chosen for a lookup of so many hashes."""
        if self._inline is not None or self._pages is not None:
            return []
        new = self.run.run
        if self.head is None and self._mapped(store):
            return []
        if self.head is None and new.size <= _WHOLE:
            return [ByteRange(self._where, 0, new.size)]
        per_page = page_entries(new.entries)
        pages = min(hashes, -(-new.entries // per_page))
        filter_pays = new.filter_length <= pages * per_page * ENTRY_BYTES
        if self.head is None:
            start = new.head_offset - new.filter_length if filter_pays else new.head_offset
            return [ByteRange(self._where, start, new.head_offset + new.head_length - start)]
        if self._filter is None and filter_pays:
            return [ByteRange(self._where, self.head.filter_start, new.filter_length)]
        return []

    def take_in(self, place: ByteRange, data: bytes | memoryview) -> None:
        """Bytes asked for by :meth:`wanted`."""
        new = self.run.run
        if self.head is None:
            at = new.head_offset - place.offset
            self._decode(bytes(data[at : at + new.head_length]))
        assert self.head is not None
        start = self.head.filter_start - place.offset
        if start >= 0:
            self._take_filter(data[start : start + self.head.blocks * BLOCK_BYTES])
        if place.offset == 0:
            self._take_pages(np.frombuffer(data, np.uint8))

    def _mapped(self, store: Store) -> bool:
        local = store.local_path(self._where)
        if local is None:
            return False
        try:
            mapped = np.memmap(local, np.uint8, "r").view(np.ndarray)
        except FileNotFoundError as error:
            raise NotFoundError(
                f"key index run {self._where!r} is gone", fix="compact() the table"
            ) from error
        except (OSError, ValueError) as error:
            raise StorageError(f"key index run {self._where!r} cannot be mapped ({error})") from error
        new = self.run.run
        if len(mapped) != new.size:
            raise CorruptionError(f"key index run {self._where!r} has {len(mapped)} bytes, not {new.size}")
        self._decode(mapped[new.head_offset : new.head_offset + new.head_length].tobytes())
        self._take_pages(mapped)
        return True

    def _decode(self, data: bytes) -> None:
        new = self.run.run
        self.head = RunHead.decode(data, new.head_crc, new.entries, new.head_offset, self._where)
        blocks = self.head.blocks * BLOCK_BYTES
        starts = self.head.filter_start == new.head_offset - new.filter_length
        if self.head.rows != new.row_count or blocks != new.filter_length or not starts:
            raise CorruptionError(f"key index run {self._where!r} is not what the version says of it")

    def _take_filter(self, data: bytes | memoryview) -> None:
        assert self.head is not None
        if len(data) != self.head.blocks * BLOCK_BYTES or crc32(data) != self.head.filter_crc:
            raise CorruptionError(f"the filter of key index run {self._where!r} is altered")
        self._filter = np.frombuffer(data, "<u4").reshape(-1, 8)

    def _take_pages(self, file: npt.NDArray[np.uint8]) -> None:
        assert self.head is not None
        pages = file[PAGES_START : self.head.filter_start]
        self._pages = pages.reshape(self.head.pages, self.head.page_bytes)
        self._checked = np.zeros(self.head.pages, bool)

    # --- looking up -----------------------------------------------------------------------------------

    def candidates(self, hashes: U64) -> tuple[I64, I64]:
        """Which hashes may be in which page: their index, and the page's number."""
        if self._is_small(len(hashes)):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        assert self.head is not None
        chosen = np.arange(len(hashes))
        if self._filter is not None:
            chosen = np.flatnonzero(may_contain(self._filter, hashes))
        wanted = hashes[chosen]
        last = np.searchsorted(self.head.fences, wanted, side="right") - 1
        first = np.maximum(np.searchsorted(self.head.fences, wanted) - 1, 0)
        counts = np.maximum(last - first + 1, 0)  # none where the hash is below all
        before = np.cumsum(counts) - counts
        pages = np.repeat(first - before, counts) + np.arange(int(counts.sum()))
        return np.repeat(chosen, counts), pages

    def _is_small(self, hashes: int) -> bool:
        """Whether all entries are at hand, and so few that each is looked for among so many hashes instead."""
        return self._inline is not None or (self._pages is not None and self.run.run.entries <= hashes)

    def missing(self, pages: I64) -> list[ByteRange]:
        """The pages (ascending, distinct) that have to be fetched."""
        if self._inline is not None or self._pages is not None:
            return []
        assert self.head is not None
        size = self.head.page_bytes
        return [ByteRange(self._where, PAGES_START + page * size, size) for page in pages.tolist()]

    def hits(
        self, hashes: U64, index: I64, pages: I64, distinct: I64, fetched: Sequence[bytes | memoryview]
    ) -> tuple[I64, I64]:
        """Entries that have one of the hashes: the hash's index, and the entry's ordinal.

        Parameters
        ----------
        index, pages
            As :meth:`candidates` gave them.
        distinct, fetched
            The pages asked for by :meth:`missing`, and their bytes.
        """
        if self._inline is not None:
            return _equal(hashes, *self._inline)
        if self._pages is not None and self._is_small(len(hashes)):
            self._check_held(np.arange(len(self._pages)))
            return _equal(hashes, *self._unpacked(self._pages, 0))
        if len(index) == 0:
            return index, index
        assert self.head is not None
        if self._pages is not None:
            table, at = self._pages, pages
            self._check_held(distinct)
        else:
            self._check(distinct, fetched)
            table = np.frombuffer(b"".join(fetched), np.uint8).reshape(len(distinct), -1)
            at = np.searchsorted(distinct, pages)
        found = [
            _search(table, self.head.per_page, hashes[index[part]], at[part], index[part])
            for part in (slice(start, start + _STEP) for start in range(0, len(index), _STEP))
        ]
        places, ordinals = (np.concatenate(column) for column in zip(*found, strict=True))
        real = ordinals != 0xFFFFFFFF  # padding
        return places[real], ordinals[real]

    def filter_words(self, store: Store) -> npt.NDArray[np.uint32]:
        """The whole filter, shape ``(blocks, 8)``."""
        assert self.head is not None
        if self._filter is None:
            new = self.run.run
            place = ByteRange(self._where, self.head.filter_start, new.filter_length)
            self._take_filter(store.get_ranges([place])[0])
        assert self._filter is not None
        return self._filter

    def between(self, store: Store, low: int, high: int) -> tuple[U64, U64]:
        """The entries with ``low <= hash < high``, which ascend, and their row ids; ``high`` may be 2**64."""
        start = stop = 0
        if self.head is not None:
            start = max(int(np.searchsorted(self.head.fences, np.uint64(low))) - 1, 0)
            stop = self.head.pages if high > _TOP else int(np.searchsorted(self.head.fences, np.uint64(high)))
            if start >= stop:
                return np.empty(0, np.uint64), np.empty(0, np.uint64)
        hashes, ordinals = self.entries(store, start, stop)
        inside = hashes >= np.uint64(low)
        if high <= _TOP:
            inside &= hashes < np.uint64(high)
        return hashes[inside], self.run.row_ids(ordinals[inside])

    def entries(self, store: Store, start: int, stop: int) -> tuple[U64, I64]:
        """All entries of the pages ``[start, stop)``; of an inline run, all."""
        if self._inline is not None:
            return self._inline
        if self._pages is not None:
            self._check_held(np.arange(start, stop))
            return self._unpacked(self._pages[start:stop], start)
        assert self.head is not None
        size = self.head.page_bytes
        place = ByteRange(self._where, PAGES_START + start * size, (stop - start) * size)
        table = np.frombuffer(store.get_ranges([place])[0], np.uint8).reshape(stop - start, size)
        self._check(np.arange(start, stop), list(table))
        return self._unpacked(table, start)

    def _unpacked(self, table: npt.NDArray[np.uint8], start: int) -> tuple[U64, I64]:
        """The entries of some pages, which are the run's from ``start`` on."""
        assert self.head is not None
        per_page = self.head.per_page
        hashes = np.ascontiguousarray(table[:, : 8 * per_page]).view("<u8").ravel()
        ordinals = np.ascontiguousarray(table[:, 8 * per_page :]).view("<u4").ravel().astype(np.int64)
        count = min(self.head.entries - start * per_page, len(hashes))
        return hashes[:count], ordinals[:count]

    def _check(self, pages: I64, contents: Sequence[Any]) -> None:
        assert self.head is not None
        crcs = self.head.page_crcs
        for page, data in zip(pages.tolist(), contents, strict=True):
            if crc32(data) != crcs[page]:
                raise CorruptionError(
                    f"page {page} of key index run {self._where!r} is altered",
                    fix="run verify() on the table",
                )

    def _check_held(self, pages: I64) -> None:
        """Check pages at hand, ascending, that were not checked before: those side by side by one checksum."""
        assert self.head is not None
        assert self._pages is not None
        assert self._checked is not None
        new = pages[~self._checked[pages]]
        for run in np.split(new, np.flatnonzero(np.diff(new) != 1) + 1):
            held = self._pages[run[0] : run[-1] + 1] if len(run) else self._pages[:0]
            if len(run) >= _SIDE_BY_SIDE:
                wanted = joined_crc32(self.head.page_crcs[run], self.head.page_bytes)
                if crc32(held.reshape(-1)) == wanted:
                    continue
            self._check(run, list(held))
        self._checked[new] = True


class RunPool:
    """Readers of runs, kept while heads and filters fit into a number of bytes."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._readers: OrderedDict[str, RunReader] = OrderedDict()

    def readers(self, store: Store, runs: Sequence[KeyRun], hashes: int) -> list[RunReader]:
        """Readers of the runs, ready for a lookup of so many hashes; what is missing is fetched in one round."""
        found = [self._get(run) for run in runs]
        wanted = [(reader, place) for reader in found for place in reader.wanted(store, hashes)]
        fetched = read_coalesced(store, [place for _, place in wanted]) if wanted else []
        for (reader, place), data in zip(wanted, fetched, strict=True):
            reader.take_in(place, data)
        self._trim()
        return found

    def _get(self, run: KeyRun) -> RunReader:
        if not run.run.path:
            return RunReader(run)
        with self._lock:
            known = self._readers.get(run.run.path)
            if known is not None and known.run == run:
                self._readers.move_to_end(run.run.path)
                return known
            reader = self._readers[run.run.path] = RunReader(run)
            return reader

    def _trim(self) -> None:
        with self._lock:
            held = sum(reader.nbytes for reader in self._readers.values())
            while held > _KEPT_BYTES and len(self._readers) > 1:
                held -= self._readers.popitem(last=False)[1].nbytes


def look_up(store: Store, readers: Sequence[RunReader], hashes: U64) -> Iterator[tuple[RunReader, I64, I64]]:
    """Entries of all runs with one of the hashes (ascending, distinct): reader, hash index, ordinal."""
    chosen = [reader.candidates(hashes) for reader in readers]
    distinct = [pages[_begins(pages)] for _, pages in chosen]
    wanted = [reader.missing(pages) for reader, pages in zip(readers, distinct, strict=True)]
    fetched = iter(read_coalesced(store, [place for places in wanted for place in places]))
    for reader, (index, pages), known, places in zip(readers, chosen, distinct, wanted, strict=True):
        contents = [next(fetched) for _ in places]
        yield (reader, *reader.hits(hashes, index, pages, known, contents))


def _search(table: npt.NDArray[np.uint8], per_page: int, wanted: U64, at: I64, index: I64) -> tuple[I64, I64]:
    """Entries equal to the wanted hashes, each looked for in the page it may be in, all side by side.

    Parameters
    ----------
    table
        Pages, shape ``(pages, 12 * per_page)``; ``per_page`` is a power of two.
    at, index
        The page of each wanted hash, and what to tell of it where it is found.
    """
    stride = table.strides[0]
    hashes = np.ndarray((len(table), per_page), "<u8", table, strides=(stride, 8))
    ordinals = np.ndarray((len(table), per_page), "<u4", table, 8 * per_page, strides=(stride, 4))
    low = _first_not_below(table, per_page, wanted, at)
    places: list[I64] = []
    found: list[I64] = []
    rows = np.arange(len(wanted))
    while len(
        rows
    ):  # once, but where hashes share their upper half or occur twice, which is next to unheard of
        rows = rows[low[rows] < per_page]
        entry = hashes[at[rows], low[rows]]
        hit = rows[entry == wanted[rows]]
        places.append(index[hit])
        found.append(ordinals[at[hit], low[hit]].astype(np.int64))
        rows = rows[entry <= wanted[rows]]
        low[rows] += 1
    return np.concatenate(places), np.concatenate(found)


def _first_not_below(table: npt.NDArray[np.uint8], per_page: int, wanted: U64, at: I64) -> I64:
    """The first entry of each page whose hash has an upper half not below that of the wanted one.

    Halving steps in step for all hashes, and half of each hash: as many pages as there are hashes lie in no cache.
    """
    words = table.reshape(-1).view("<u4")
    upper = (wanted >> np.uint64(32)).astype(np.uint32)
    page = at * (table.shape[1] // 4)
    low = np.zeros(len(wanted), np.int64)
    half = per_page
    while half := half // 2:
        low += half * (words.take(page + 2 * (low + half) - 1) < upper)
    return np.asarray(low + (words.take(page + 2 * low + 1) < upper))


def _begins(numbers: I64) -> npt.NDArray[np.bool_]:
    """Where runs of equal numbers begin."""
    begins = np.ones(len(numbers), bool)
    begins[1:] = numbers[1:] != numbers[:-1]
    return begins


def _equal(wanted: U64, hashes: U64, ordinals: I64) -> tuple[I64, I64]:
    """Which of the wanted hashes, ascending and distinct, each of some entries has, where it has one."""
    if len(wanted) == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    at = np.minimum(np.searchsorted(wanted, hashes), len(wanted) - 1)
    hit = wanted[at] == hashes
    return at[hit], ordinals[hit]
