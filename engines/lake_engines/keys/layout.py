"""The bytes of a run of the key index: a Puffin file of pages, a filter and a head (spec/keys.md, KEY-4 to 7).

::

    blob lake-key-pages-v1    page 0, page 1, …   each: hashes u64[n], ascending; ordinals u32[n]; the last one padded
    blob lake-key-filter-v1   blocks of 32 bytes
    blob lake-key-head-v1     counts, checksums, the first hash of each page

The only place that encodes and decodes them. Nothing is taken on trust: see :meth:`RunHead.decode`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lake_format.checksum import crc32
from lake_format.errors import CorruptionError
from lake_format.puffin import MAGIC
from lake_format.row_ids import U64

__all__ = ["ENTRY_BYTES", "FILTER_BLOB", "HEAD_BLOB", "PAGES_BLOB", "PAGES_START", "RunHead", "page_entries"]

PAGES_BLOB = "lake-key-pages-v1"
FILTER_BLOB = "lake-key-filter-v1"
HEAD_BLOB = "lake-key-head-v1"
ENTRY_BYTES = 12
PAGES_START = len(MAGIC)
"""Pages come first in the file."""

_HEAD = struct.Struct("<IIQQI")  # entries per page, filter blocks, entries, ordinals, CRC of the filter
_SMALLEST, _USUAL, _MOST_PAGES = 16, 1_024, 8_192


def page_entries(entries: int) -> int:
    """How many entries a page has: 1,024 (12 KiB), fewer in a smaller run, more where pages would be too many."""
    size = _SMALLEST
    while size < min(entries, _USUAL) or size * _MOST_PAGES < entries:
        size *= 2
    return size


@dataclass(frozen=True, slots=True)
class RunHead:
    """What is known of a run before a page of it is read.

    Attributes
    ----------
    fences
        The first hash of each page; shape ``(pages,)``.
    page_crcs
        CRC-32 of each page; shape ``(pages,)``.
    """

    per_page: int
    blocks: int
    entries: int
    rows: int
    filter_crc: int
    fences: U64
    page_crcs: npt.NDArray[np.uint32]

    @property
    def pages(self) -> int:
        """How many pages."""
        return len(self.fences)

    @property
    def page_bytes(self) -> int:
        """The length of each page."""
        return self.per_page * ENTRY_BYTES

    @property
    def filter_start(self) -> int:
        """Where in the file the filter begins: right after the pages."""
        return PAGES_START + self.pages * self.page_bytes

    def encode(self) -> bytes:
        """The bytes of the head."""
        fixed = _HEAD.pack(self.per_page, self.blocks, self.entries, self.rows, self.filter_crc)
        return fixed + self.fences.astype("<u8").tobytes() + self.page_crcs.astype("<u4").tobytes()

    @classmethod
    def decode(cls, data: bytes, crc: int, entries: int, head_offset: int, where: str) -> RunHead:
        """Read a head; CorruptionError where it is altered or does not fit what the version says of the run."""
        if len(data) < _HEAD.size or crc32(data) != crc:
            raise CorruptionError(f"the head of key index run {where!r} is truncated or altered")
        per_page, blocks, count, rows, filter_crc = _HEAD.unpack_from(data)
        pages = -(-count // per_page) if per_page else 0
        if len(data) != _HEAD.size + 12 * pages or count != entries or not 0 < blocks < 1 << 32:
            raise CorruptionError(f"the head of key index run {where!r} does not fit what is recorded of it")
        fences = np.frombuffer(data, "<u8", pages, _HEAD.size)
        crcs = np.frombuffer(data, "<u4", pages, _HEAD.size + 8 * pages)
        head = cls(per_page, blocks, count, rows, filter_crc, fences, crcs)
        if head.filter_start + 32 * blocks != head_offset or (fences[1:] < fences[:-1]).any():
            raise CorruptionError(f"the head of key index run {where!r} does not fit its file")
        return head
