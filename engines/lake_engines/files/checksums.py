"""Checksums of a streamed file: taken as its bytes go out, checked when they come back.

Vortex and scalar Parquet files share one layout record (``spec/files.md``, FIL-5): the CRC-32 of the file's
tail, which is checked whenever a file is opened, and of each block, checked by ``verify`` and ``verify_reads``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from lake_engines.files.layout import seal, unseal
from lake_format.checksum import crc32
from lake_format.errors import CorruptionError
from lake_format.store.base import ObjectWriter

__all__ = ["BLOCK_BYTES", "TAIL_BYTES", "HashingWriter", "StreamLayout"]

BLOCK_BYTES = 1 << 20
TAIL_BYTES = 1 << 16

_HEAD = struct.Struct("<QQIIII")  # rows, size, tail length, tail CRC, block bytes, block count


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLayout:
    """What a reader checks a streamed file against.

    Attributes
    ----------
    rows, size
        Rows and bytes of the file.
    tail_length, tail_crc
        The last bytes of the file, which hold its footer or the end of it.
    block_bytes, block_crcs
        CRC-32 of each run of ``block_bytes`` bytes from the start; the last may be shorter.
    """

    rows: int
    size: int
    tail_length: int
    tail_crc: int
    block_bytes: int
    block_crcs: tuple[int, ...]

    def to_bytes(self, kind: bytes) -> bytes:
        """The layout record."""
        count = len(self.block_crcs)
        head = _HEAD.pack(self.rows, self.size, self.tail_length, self.tail_crc, self.block_bytes, count)
        return seal(kind, head + struct.pack(f"<{count}I", *self.block_crcs))

    @classmethod
    def from_bytes(cls, data: bytes, kind: bytes, *, path: str, rows: int, size: int) -> StreamLayout:
        """Read a layout record and check it against the rows and size the manifest gives the file.

        Raises
        ------
        CorruptionError
            The record is damaged or speaks of another file.
        """
        body = unseal(kind, data, path)
        try:
            found = _HEAD.unpack_from(body)
            crcs = struct.unpack_from(f"<{found[5]}I", body, _HEAD.size)
        except struct.error as error:
            raise CorruptionError(f"the layout of {path!r} is malformed: {error}") from error
        if (found[0], found[1]) != (rows, size):
            raise CorruptionError(
                f"the layout of {path!r} is for {found[0]} rows in {found[1]} bytes, not {rows} rows in {size} bytes"
            )
        if not found[4] or found[5] != -(-size // found[4]) or found[2] > size:
            raise CorruptionError(f"the layout of {path!r} has {found[5]} checksums for {size} bytes")
        return cls(
            rows=rows,
            size=size,
            tail_length=found[2],
            tail_crc=found[3],
            block_bytes=found[4],
            block_crcs=crcs,
        )

    def check_tail(self, tail: bytes | memoryview, path: str) -> None:
        """Check the last bytes of the file, all ``tail_length`` of them."""
        if len(tail) != self.tail_length or crc32(tail) != self.tail_crc:
            raise CorruptionError(f"the footer of data file {path!r} fails its checksum")

    def check_block(self, block: int, data: bytes | memoryview, path: str) -> None:
        """Check block ``block``, given whole."""
        if crc32(data) != self.block_crcs[block]:
            start = block * self.block_bytes
            raise CorruptionError(
                f"data file {path!r} is damaged: bytes {start} to {start + len(data)} fail their checksum"
            )


class HashingWriter:
    """Passes bytes on to an object writer and keeps their checksums; a file object to pyarrow."""

    def __init__(self, out: ObjectWriter) -> None:
        self._out = out
        self._size = 0
        self._crc = 0
        self._crcs: list[int] = []
        self._tail = bytearray()
        self._discarding = False
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append ``data`` and return its length in bytes."""
        view = memoryview(data).cast("B")
        if self._discarding:
            return len(view)
        at = 0
        while at < len(view):
            part = view[at : at + BLOCK_BYTES - self._size % BLOCK_BYTES]
            self._crc = crc32(part, self._crc)
            self._size += len(part)
            at += len(part)
            if self._size % BLOCK_BYTES == 0:
                self._crcs.append(self._crc)
                self._crc = 0
        self._tail += view[-TAIL_BYTES:]
        del self._tail[:-TAIL_BYTES]
        self._out.write(view)
        return len(view)

    def tell(self) -> int:
        """Bytes written so far."""
        return self._size

    def discard(self) -> None:
        """Drop all that is written from here on: pyarrow's writer cannot be given up without a footer."""
        self._discarding = True

    def flush(self) -> None:
        """Nothing to do: the store makes bytes durable when the object is closed."""

    def close(self) -> None:
        """Called by pyarrow when it drops the file; the object itself is closed by its owner."""
        self.closed = True

    def layout(self, rows: int) -> StreamLayout:
        """The layout of the finished file."""
        crcs = [*self._crcs, self._crc] if self._size % BLOCK_BYTES else self._crcs
        return StreamLayout(
            rows=rows,
            size=self._size,
            tail_length=len(self._tail),
            tail_crc=crc32(self._tail),
            block_bytes=BLOCK_BYTES,
            block_crcs=tuple(crcs),
        )
