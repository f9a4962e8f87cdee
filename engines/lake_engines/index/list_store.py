"""Brings lists to where they can be scanned: already there in a mapped file, or fetched by range requests.

Both kinds check a list's checksum when it is first touched and are safe for concurrent searches. Nothing here
knows about scores.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType
from typing import Protocol

import numpy as np
import numpy.typing as npt

from lake_engines.index.interface import I64, U8
from lake_engines.index.kernel import ListScanner
from lake_engines.index.layout import ALIGNMENT, ListTable
from lake_format.checksum import crc32
from lake_format.errors import CorruptionError
from lake_format.store.base import ByteRange, Store
from lake_format.store.ranges import plan_reads

__all__ = ["ListStore", "LoadedLists", "MappedLists", "RangedLists", "Transfer", "place_all"]

_WHOLE: tuple[slice | None] = (None,)
_MAX_REQUEST = 8 << 20
_GAP = 32 << 10  # bytes; reading over a smaller gap costs less than another request (measured)


@dataclass(slots=True)
class Transfer:
    """What loading cost; added up over a search."""

    lists: int = 0
    rounds: int = 0
    requests: int = 0
    bytes: int = 0


class LoadedLists(Protocol):
    """Lists ready to scan, for as long as the context that gave them is open."""

    @property
    def scanner(self) -> ListScanner:
        """What scans them."""
        ...

    def ordinals(self, number: int) -> I64:
        """Return the ordinals of list ``number``; shape ``(rows of the list,)``."""
        ...

    def packed(self, number: int) -> U8:
        """Return the packed codes of list ``number``."""
        ...


class ListStore(Protocol):
    """Where the lists of one shard come from."""

    def loaded(self, lists: I64, transfer: Transfer) -> AbstractContextManager[LoadedLists]:
        """Return a context in which ``lists`` (any shape, repeats allowed) can be scanned."""
        ...

    def undirected(self, transfer: Transfer) -> I64:
        """Return the ordinals of vectors without direction, which belong to no list."""
        ...

    def slices(self, lists: I64) -> Sequence[slice | None]:
        """Cut the columns of ``lists`` (queries by probes) so that each part fits in memory; None is all."""
        ...


def place_all(scanner: ListScanner, table: ListTable, base: int) -> None:
    """Place every list of ``table`` in a region that starts at address ``base``."""
    lists = np.arange(len(table.counts) - 1)
    scanner.place(lists, table.counts[:-1], (table.offsets[:-1] + base).astype(np.uint64))


class MappedLists:
    """All lists of a memory-mapped scan region; its table is written once, so scans need no locks."""

    def __init__(
        self, region: U8, table: ListTable, code_size: int, scanner: ListScanner, where: str
    ) -> None:
        self._region = region
        self._table = table
        self._lengths = table.lengths(code_size)
        self._code_lengths = self._lengths - 8 * table.counts
        ordinals = table.offsets + self._code_lengths
        self._ordinals = ordinals.tolist(), (ordinals + 8 * table.counts).tolist()  # asked for by the hundred
        self._where = where
        self._checked = table.counts == 0
        self.scanner = scanner
        place_all(scanner, table, region.ctypes.data)

    def loaded(self, lists: I64, transfer: Transfer) -> MappedLists:
        """Check what has not been touched yet; the context itself costs nothing."""
        if not self._checked[lists].all():
            wanted = np.unique(lists)
            for number in wanted[~self._checked[wanted]].tolist():
                self._check(number)
                transfer.lists += 1
        return self

    def __enter__(self) -> LoadedLists:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def ordinals(self, number: int) -> I64:
        """Return the ordinals of a list, without a copy."""
        starts, ends = self._ordinals
        return self._region[starts[number] : ends[number]].view(np.int64)

    def packed(self, number: int) -> U8:
        """Return the packed codes of a list, without a copy."""
        start = self._table.offsets[number]
        return self._region[start : start + self._code_lengths[number]]

    def undirected(self, transfer: Transfer) -> I64:
        """Return the ordinals of the last entry of the table."""
        last = len(self._checked) - 1
        if not self._checked[last]:
            self._check(last)
            transfer.lists += 1
        return self.ordinals(last)

    def slices(self, lists: I64) -> Sequence[slice | None]:
        """One part: mapped pages are the operating system's to keep or drop."""
        return _WHOLE

    def _check(self, number: int) -> None:
        start = int(self._table.offsets[number])
        data = self._region[start : start + int(self._lengths[number])]
        _check_list(data.data, int(self._table.checksums[number]), number, self._where)
        _check_ordinals(self.ordinals(number), int(self._table.counts.sum()), number, self._where)
        self._checked[number] = True


class RangedLists:
    """Lists fetched by range requests, kept while they fit in a byte budget, least recently used out first.

    Each search writes the addresses of its own lists into a scanner of its own (from a pool) and holds the buffers,
    so that eviction by another thread cannot pull memory away under a scan.
    """

    def __init__(
        self,
        store: Store,
        path: str,
        region_offset: int,
        table: ListTable,
        code_size: int,
        new_scanner: Callable[[], ListScanner],
        budget: int,
    ) -> None:
        self._store, self._path, self._region_offset = store, path, region_offset
        self._table = table
        self._lengths = table.lengths(code_size)
        self._code_size = code_size
        self._new_scanner = new_scanner
        self._budget = budget
        self._lock = threading.Lock()
        self._cache: OrderedDict[int, U8] = OrderedDict()
        self._cached_bytes = 0
        self._idle: list[ListScanner] = []

    @contextmanager
    def loaded(self, lists: I64, transfer: Transfer) -> Iterator[LoadedLists]:
        """Fetch what is missing, in one round, and point a scanner at all of ``lists``."""
        wanted = np.unique(lists)
        wanted = wanted[self._table.counts[wanted] > 0]
        buffers = self._buffers(wanted, transfer)
        with self._lock:
            scanner = self._idle.pop() if self._idle else None
        scanner = scanner or self._new_scanner()
        addresses = np.array([buffer.ctypes.data for buffer in buffers.values()], np.uint64)
        scanner.place(wanted, self._table.counts[wanted], addresses)
        try:
            yield _Fetched(scanner, buffers, self._table.counts)
        finally:
            with self._lock:
                self._idle.append(scanner)

    def undirected(self, transfer: Transfer) -> I64:
        """Return the ordinals of the last entry of the table."""
        last = len(self._table.counts) - 1
        if self._table.counts[last] == 0:
            return np.empty(0, np.int64)
        return self._buffers(np.array([last]), transfer)[last].view(np.int64)

    def slices(self, lists: I64) -> Sequence[slice | None]:
        """Cut so that one part's lists fit in the budget."""
        total = int(self._lengths[np.unique(lists)].sum())
        if total <= self._budget:
            return _WHOLE
        parts = min(lists.shape[1], -(-total // self._budget))
        edges = np.linspace(0, lists.shape[1], parts + 1).astype(int).tolist()
        return tuple(slice(start, stop) for start, stop in pairwise(edges) if stop > start)

    def _buffers(self, wanted: I64, transfer: Transfer) -> dict[int, U8]:
        """Return the bytes of each list, in the order of ``wanted``."""
        numbers: list[int] = wanted.tolist()
        with self._lock:
            found = {number: self._cache[number] for number in numbers if number in self._cache}
            for number in found:
                self._cache.move_to_end(number)
        missing = [number for number in numbers if number not in found]
        if missing:
            fetched = self._fetch(missing, transfer)
            self._keep(fetched)
            found |= fetched
        return {number: found[number] for number in numbers}

    def _fetch(self, numbers: list[int], transfer: Transfer) -> dict[int, U8]:
        """Fetch lists in one round; neighbours in the file share a request."""
        offsets, lengths = self._table.offsets[numbers].tolist(), self._lengths[numbers].tolist()
        ranges = [
            ByteRange(self._path, self._region_offset + offset, length)
            for offset, length in zip(offsets, lengths, strict=True)
        ]
        plan = plan_reads(ranges, gap=_GAP, max_request=_MAX_REQUEST)
        answers = self._store.get_ranges(plan.requests)
        transfer.rounds += 1
        transfer.requests += len(plan.requests)
        transfer.bytes += sum(item.length for item in plan.requests)
        transfer.lists += len(numbers)
        requests, starts = plan.request_of.tolist(), plan.start_in.tolist()
        return {
            number: self._accept(number, answers[request], start)
            for number, request, start in zip(numbers, requests, starts, strict=True)
        }

    def _accept(self, number: int, answer: bytes, start: int) -> U8:
        """Check one list and copy it to aligned memory of its own: the answer may hold gaps and other lists."""
        length = int(self._lengths[number])
        if start + length > len(answer):
            raise CorruptionError(f"{self._path}: list {number} of the index is cut off")
        part = memoryview(answer)[start : start + length]
        _check_list(part, int(self._table.checksums[number]), number, self._path)
        buffer = _aligned(length)
        buffer[:] = np.frombuffer(part, np.uint8)
        ordinals = buffer[length - 8 * int(self._table.counts[number]) :].view(np.int64)
        _check_ordinals(ordinals, int(self._table.counts.sum()), number, self._path)
        return buffer

    def _keep(self, fetched: dict[int, U8]) -> None:
        with self._lock:
            for number, buffer in fetched.items():
                if number not in self._cache:
                    self._cache[number] = buffer
                    self._cached_bytes += len(buffer)
            while self._cached_bytes > self._budget and self._cache:
                _, dropped = self._cache.popitem(last=False)
                self._cached_bytes -= len(dropped)


@dataclass(frozen=True, slots=True)
class _Fetched:
    """Lists of a :class:`RangedLists`; holds their memory."""

    scanner: ListScanner
    buffers: dict[int, U8]
    counts: I64

    def ordinals(self, number: int) -> I64:
        if self.counts[number] == 0:
            return np.empty(0, np.int64)
        buffer = self.buffers[number]
        return buffer[len(buffer) - 8 * int(self.counts[number]) :].view(np.int64)

    def packed(self, number: int) -> U8:
        if self.counts[number] == 0:
            return np.empty(0, np.uint8)
        buffer = self.buffers[number]
        return buffer[: len(buffer) - 8 * int(self.counts[number])]


def _aligned(length: int) -> U8:
    raw = np.empty(length + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + length]


def _check_list(data: memoryview, checksum: int, number: int, where: str) -> None:
    if crc32(data) != checksum:
        raise CorruptionError(f"{where}: list {number} of the index is altered (its checksum does not match)")


def _check_ordinals(ordinals: npt.NDArray[np.int64], count: int, number: int, where: str) -> None:
    if len(ordinals) and (ordinals.min() < 0 or ordinals.max() >= count):
        raise CorruptionError(f"{where}: list {number} of the index names vectors that do not exist")
