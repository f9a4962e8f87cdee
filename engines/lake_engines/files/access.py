"""Byte access to one data file: memory maps where the store is a local disk, ranged reads elsewhere.

It must not know what the bytes mean. Every reader of this package gets its bytes here, so that the size of a
file is checked once, before anything is mapped: a truncated file is an error, never a crash.
"""

from __future__ import annotations

import io
import mmap
import os
from collections.abc import Sequence
from threading import Lock

from lake_engines.files.checksums import StreamLayout
from lake_engines.files.residency import populate_in_background
from lake_format.errors import CorruptionError, NotFoundError, StorageError
from lake_format.store.base import ByteRange, Store
from lake_format.store.ranges import read_coalesced
from lake_format.store.table_store import name_of

__all__ = ["FileBytes", "StoreFile"]

_TAKES_BEFORE_POPULATING = 16  # a file taken from so often is worth a page table of its own
_RUN_BYTES = 4 << 20  # a long run is fetched in parts of this size at the same time


class FileBytes:
    """The bytes of the object ``path``, which must have ``size`` bytes.

    Two maps of a local file are kept, each made when first needed: a page that is read at random must not
    drag its neighbours in (``MADV_RANDOM``), a page that is scanned should.
    """

    def __init__(self, store: Store, path: str, size: int, *, checksums: StreamLayout | None = None) -> None:
        self.store = store
        self.path = path
        self.size = size
        self._checksums = checksums
        self._checked: set[int] = set()  # blocks that passed their checksum
        self._lock = Lock()
        self._scan_map: mmap.mmap | None = None
        self._take_map: mmap.mmap | None = None
        self._takes = 0
        self._end = (size, b"")  # where bytes begin that were fetched already, and they
        self.local_path = store.local_path(path)
        if self.local_path is not None:
            self._check_size(self.local_path)

    @property
    def is_local(self) -> bool:
        """Whether the file can be mapped."""
        return self.local_path is not None

    @property
    def is_checked(self) -> bool:
        """Whether every read is checked against the file's checksums."""
        return self._checksums is not None

    def scan_map(self) -> mmap.mmap:
        """The file mapped for reading in order; only for local files."""
        with self._lock:
            if self._scan_map is None:
                self._scan_map = self._map("MADV_NORMAL")
            return self._scan_map

    def take_map(self) -> mmap.mmap:
        """The file mapped for reading at random; only for local files."""
        with self._lock:
            if self._take_map is None:
                self._take_map = self._map("MADV_RANDOM")
            self._takes += 1
            if self._takes == _TAKES_BEFORE_POPULATING:
                populate_in_background(self._take_map)
            return self._take_map

    def _map(self, advice: str) -> mmap.mmap:
        assert self.local_path is not None, "only local files are mapped"
        self._check_size(self.local_path)
        try:
            with open(self.local_path, "rb") as file:
                mapped = mmap.mmap(file.fileno(), self.size, access=mmap.ACCESS_READ)
        except OSError as error:
            raise _failure(error, self.path) from error
        if hasattr(mmap, advice):
            mapped.madvise(getattr(mmap, advice))
        return mapped

    def hold(self, offset: int, end: bytes) -> None:
        """Keep the end of a file that is not local: what lies in it is not fetched again."""
        if not self.is_local and not self.is_checked:
            self._end = (offset, end)

    def check_size(self) -> None:
        """Check the object's size, also where reading it would not have shown it."""
        self._compare_size(self.store.size(self.path))

    def _check_size(self, local_path: str) -> None:
        try:
            self._compare_size(os.stat(local_path).st_size)
        except OSError as error:
            raise _failure(error, self.path) from error

    def _compare_size(self, found: int) -> None:
        if found != self.size:
            raise CorruptionError(
                f"data file {name_of(self.store, self.path)!r} has {found} bytes, not the {self.size} recorded for it"
            )

    def read(self, offset: int, length: int) -> bytes | memoryview:
        """One run of bytes; a long run is fetched in parts at the same time.

        Raises
        ------
        CorruptionError
            The run reaches past the end of the file.
        """
        if offset < 0 or length < 0 or offset + length > self.size:
            raise CorruptionError(
                f"bytes {offset} to {offset + length} leave the {self.size} bytes of {self.path!r}"
            )
        if self._checksums is not None:
            return self._read_checked(self._checksums, offset, length)
        return self._read(offset, length)

    def _read(self, offset: int, length: int) -> bytes | memoryview:
        return self._held(offset, length) if offset >= self._end[0] else self._fetched(offset, length)

    def _fetched(self, offset: int, length: int) -> bytes | memoryview:
        if self.is_local:
            return memoryview(self.scan_map())[offset : offset + length]
        parts = [
            ByteRange(self.path, start, min(_RUN_BYTES, offset + length - start))
            for start in range(offset, offset + length, _RUN_BYTES)
        ]
        found = self.store.get_ranges(parts)
        self._check_lengths(found, [part.length for part in parts])
        return found[0] if len(found) == 1 else b"".join(found)

    def _read_checked(self, layout: StreamLayout, offset: int, length: int) -> bytes | memoryview:
        """The run, once the whole blocks that hold it have passed their checksums."""
        blocks = range(offset // layout.block_bytes, -(-(offset + length) // layout.block_bytes))
        if self._checked.issuperset(blocks):
            return self._read(offset, length)
        start = blocks.start * layout.block_bytes
        stop = min(blocks.stop * layout.block_bytes, self.size)
        data = memoryview(self._read(start, stop - start))
        for block in blocks:
            at = (block - blocks.start) * layout.block_bytes
            if not self.is_local or block not in self._checked:
                layout.check_block(block, data[at : at + layout.block_bytes], self.path)
        if self.is_local:  # a mapped block stays what it is; a fetched one is fetched anew each time
            self._checked.update(blocks)
        return data[offset - start : offset - start + length]

    def verify(self, layout: StreamLayout) -> None:
        """Read the whole file, block by block, and check every checksum of ``layout``."""
        for block in range(len(layout.block_crcs)):
            start = block * layout.block_bytes
            layout.check_block(
                block, self._fetched(start, min(layout.block_bytes, self.size - start)), self.path
            )

    def read_many(self, offsets: Sequence[int], lengths: Sequence[int]) -> list[bytes | memoryview]:
        """Many short runs, in one round where the store is remote."""
        if self._checksums is not None:
            return [self.read(offset, length) for offset, length in zip(offsets, lengths, strict=True)]
        if self.is_local:
            view = memoryview(self.take_map())
            return [view[offset : offset + length] for offset, length in zip(offsets, lengths, strict=True)]
        places = list(zip(offsets, lengths, strict=True))
        ranges = [ByteRange(self.path, *place) for place in places if place[0] < self._end[0]]
        fetched = iter(read_coalesced(self.store, ranges) if ranges else ())
        found = [
            next(fetched) if offset < self._end[0] else self._held(offset, length)
            for offset, length in places
        ]
        self._check_lengths(found, lengths)
        return found

    def _held(self, offset: int, length: int) -> memoryview:
        """Bytes of the end that is kept."""
        start, end = self._end
        return memoryview(end)[offset - start : offset - start + length]

    def _check_lengths(self, found: Sequence[bytes | memoryview], lengths: Sequence[int]) -> None:
        if [len(data) for data in found] != list(lengths):
            raise StorageError(
                f"the store gave fewer bytes of {self.path!r} than were asked for", fix="read again"
            )


def _failure(error: OSError, path: str) -> NotFoundError | StorageError:
    if isinstance(error, FileNotFoundError):
        return NotFoundError(f"data file {path!r} is not there")
    return StorageError(f"data file {path!r} cannot be opened: {error.strerror}")


class StoreFile(io.RawIOBase):
    """One object as a seekable, read-only Python file: what pyarrow reads remote Parquet through."""

    def __init__(self, data: FileBytes) -> None:
        super().__init__()
        self._data = data
        self._at = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The current offset in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to ``offset``, counted from the start, the current place, or the end."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._data.size}[whence]
        self._at = min(max(0, base + offset), self._data.size)
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """Up to ``size`` bytes from the current place; all the rest for -1 or None."""
        left = self._data.size - self._at
        length = left if size is None or size < 0 else min(size, left)
        found = self._data.read(self._at, length)
        self._at += length
        return bytes(found)

    def size(self) -> int:
        """The object's size in bytes; pyarrow asks for it."""
        return self._data.size
