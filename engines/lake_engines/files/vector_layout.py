"""Where every vector of a vector file lies: the layout record and the arithmetic from row to byte offset.

No I/O: writers fill a :class:`VectorLayout`, readers ask it. The bytes are specified in ``spec/files.md``
(VEC-6); they come from storage and are checked in full before use.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyroaring

from lake_engines.files.base import Positions
from lake_engines.files.layout import VECTOR_KIND, seal, unseal
from lake_format.checksum import crc32
from lake_format.errors import CorruptionError

__all__ = ["ELEMENTS", "NullBlob", "VectorLayout", "decode_nulls", "encode_nulls", "page_rows_for"]

ELEMENTS: dict[int, tuple[pa.DataType, np.dtype[Any]]] = {
    1: (pa.float32(), np.dtype("<f4")),
    2: (pa.float16(), np.dtype("<f2")),
    3: (pa.float64(), np.dtype("<f8")),
}
"""Element code of a layout → its Arrow type and its type in memory."""

PAGE_BYTES = 48 << 20
MAX_PAGE_ROWS = 1 << 20
MAX_DIMENSION = 1 << 16
INLINE_NULL_BYTES = 2048

_HEAD = struct.Struct("<BBHIQIIQ")  # element, nulls, 0, dim, rows, page rows, pages, NULL count
_BLOB = struct.Struct("<QII")
_NO_NULLS, _INLINE_NULLS, _BLOB_NULLS = range(3)
_U64 = npt.NDArray[np.uint64]


def page_rows_for(width: int) -> int:
    """Rows per page for vectors of ``width`` bytes: the largest power of two that fits 48 MiB, at most 2²⁰.

    Measured: one 32 MB page per row group writes and maps best; a single huge page writes 3-4 times slower.
    """
    return min(MAX_PAGE_ROWS, 1 << (PAGE_BYTES // width).bit_length() - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class NullBlob:
    """Where the encoded NULL positions lie: in the layout itself (``inline``) or in the file."""

    inline: bytes | None = None
    offset: int = 0
    length: int = 0
    crc: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VectorLayout:
    """The pages of one vector file.

    Attributes
    ----------
    element
        Key into :data:`ELEMENTS`.
    dim
        Elements per vector.
    rows
        Rows in the file, NULL vectors included.
    page_rows
        Rows of every page but the last, which may have fewer.
    value_offsets
        Byte offset of the first value of each page, shape ``(pages,)``.
    level_lengths
        Bytes of levels in front of those values, shape ``(pages,)``.
    crcs
        CRC-32 of each page's levels and values, shape ``(pages,)``.
    page_nulls
        NULL vectors per page, shape ``(pages,)``: they have no slot among the values.
    nulls
        Where the positions of NULL vectors are; None when there are none.
    """

    element: int
    dim: int
    rows: int
    page_rows: int
    value_offsets: _U64
    level_lengths: npt.NDArray[np.uint32]
    crcs: npt.NDArray[np.uint32]
    page_nulls: npt.NDArray[np.uint32]
    nulls: NullBlob | None = None
    _first_slots: _U64 = field(init=False, repr=False)

    def __post_init__(self) -> None:
        before = np.cumsum(self.page_nulls, dtype=np.uint64) - self.page_nulls
        object.__setattr__(self, "_first_slots", before)

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy type of one element."""
        return ELEMENTS[self.element][1]

    @property
    def width(self) -> int:
        """Bytes of one vector."""
        return self.dim * self.dtype.itemsize

    @property
    def pages(self) -> int:
        """Number of pages."""
        return len(self.value_offsets)

    @property
    def null_count(self) -> int:
        """NULL vectors in the file."""
        return int(self.page_nulls.sum())

    def rows_of(self, page: int) -> int:
        """Rows of ``page``, NULL vectors included."""
        return min(self.page_rows, self.rows - page * self.page_rows)

    def values_of(self, page: int) -> int:
        """Vectors stored in ``page``: its rows less its NULLs."""
        return self.rows_of(page) - int(self.page_nulls[page])

    def slots(self, positions: Positions, nulls: _U64) -> tuple[_U64, _U64, npt.NDArray[np.bool_] | None]:
        """Page, place among the page's values, and validity of each row.

        Parameters
        ----------
        positions
            Rows, below :attr:`rows`, in any order.
        nulls
            Sorted positions of all NULL vectors (empty when there are none).

        Returns
        -------
        page, slot, valid
            Each of the shape of ``positions``. ``valid`` is None when no row of the file is NULL; page and
            slot of a NULL row mean nothing.
        """
        page = positions // np.uint64(self.page_rows)
        slot = positions - page * np.uint64(self.page_rows)
        if not len(nulls):
            return page, slot, None
        rank = np.searchsorted(nulls, positions).astype(np.uint64)
        valid = nulls[np.minimum(rank, np.uint64(len(nulls) - 1))] != positions
        # the rank counts the NULLs before a row; those of earlier pages took no slot in this one
        return page, slot - (rank - self._first_slots[page]), valid

    def offsets(self, positions: Positions, nulls: _U64) -> tuple[_U64, npt.NDArray[np.bool_] | None]:
        """Byte offset of each row's vector, and validity as :meth:`slots` gives it."""
        page, slot, valid = self.slots(positions, nulls)
        return self.value_offsets[page] + slot * np.uint64(self.width), valid

    def grid(self) -> _U64 | None:
        """First slot of each page when the whole file is seen as one array of vectors; None when it cannot be.

        Our writer keeps all pages on one grid of ``width`` bytes (VEC-5) so that a take is one gather.
        """
        if not self.pages:
            return None
        steps = self.value_offsets - self.value_offsets[0]
        width = np.uint64(self.width)
        return None if bool((steps % width).any()) else steps // width

    def to_bytes(self) -> bytes:
        """The layout record (VEC-6)."""
        kind = (
            _NO_NULLS if self.nulls is None else _BLOB_NULLS if self.nulls.inline is None else _INLINE_NULLS
        )
        head = _HEAD.pack(
            self.element, kind, 0, self.dim, self.rows, self.page_rows, self.pages, self.null_count
        )
        body = head + self.value_offsets.astype("<u8").tobytes() + self.level_lengths.astype("<u4").tobytes()
        body += self.crcs.astype("<u4").tobytes()
        if self.nulls is not None:
            body += self.page_nulls.astype("<u4").tobytes()
            body += _BLOB.pack(self.nulls.offset, self.nulls.length, self.nulls.crc) + (
                self.nulls.inline or b""
            )
        return seal(VECTOR_KIND, body)

    @classmethod
    def from_bytes(cls, data: bytes, path: str, size: int) -> VectorLayout:
        """Read and check a layout record against the size of its file.

        Raises
        ------
        CorruptionError
            The record is damaged, or points outside the ``size`` bytes of ``path``.
        """
        body = unseal(VECTOR_KIND, data, path)
        try:
            layout = cls._parse(body)
        except (struct.error, ValueError) as error:
            raise CorruptionError(f"the layout of vector file {path!r} is malformed: {error}") from error
        layout._check(path, size)
        return layout

    @classmethod
    def _parse(cls, body: bytes) -> VectorLayout:
        element, kind, _, dim, rows, page_rows, pages, null_count = _HEAD.unpack_from(body)
        if element not in ELEMENTS or kind > _BLOB_NULLS or not 1 <= dim <= MAX_DIMENSION or not page_rows:
            raise ValueError(f"element {element}, nulls {kind}, dimension {dim}, page rows {page_rows}")
        at = _HEAD.size

        def column(kind_: str) -> npt.NDArray[Any]:
            nonlocal at
            array: npt.NDArray[Any] = np.frombuffer(body, kind_, pages, at)
            at += array.nbytes
            return array

        offsets, levels, crcs = column("<u8"), column("<u4"), column("<u4")
        page_nulls, nulls = np.zeros(pages, np.uint32), None
        if kind != _NO_NULLS:
            page_nulls = column("<u4")
            offset, length, crc = _BLOB.unpack_from(body, at)
            at += _BLOB.size
            inline = body[at : at + length] if kind == _INLINE_NULLS else None
            at += len(inline or b"")
            nulls = NullBlob(inline=inline, offset=offset, length=length, crc=crc)
        if at != len(body):
            raise ValueError(f"{len(body)} bytes where {at} are expected")
        if int(page_nulls.sum()) != null_count:
            raise ValueError(f"{null_count} NULLs, but the pages count {int(page_nulls.sum())}")
        return cls(
            element=element, dim=dim, rows=rows, page_rows=page_rows, value_offsets=offsets,
            level_lengths=levels, crcs=crcs, page_nulls=page_nulls, nulls=nulls,
        )  # fmt: skip

    def _check(self, path: str, size: int) -> None:
        if self.pages != -(-self.rows // self.page_rows):
            raise CorruptionError(
                f"{path!r} has {self.pages} pages of {self.page_rows} rows for {self.rows} rows"
            )
        counts = np.full(self.pages, self.page_rows, np.int64)
        if self.pages:
            counts[-1] = self.rows_of(self.pages - 1)
        values = counts - self.page_nulls
        if bool((values < 0).any()):
            raise CorruptionError(f"a page of {path!r} has more NULL vectors than rows")
        # in Python integers: a hostile offset must not wrap around
        offsets = self.value_offsets.tolist()
        starts = [
            offset - length for offset, length in zip(offsets, self.level_lengths.tolist(), strict=True)
        ]
        ends = [offset + count * self.width for offset, count in zip(offsets, values.tolist(), strict=True)]
        if any(start < low for start, low in zip(starts, [4, *ends], strict=False)) or (
            ends and ends[-1] > size
        ):
            raise CorruptionError(
                f"a page of {path!r} lies outside the file's {size} bytes or over another page"
            )
        if (
            self.nulls is not None
            and self.nulls.offset + self.nulls.length > size
            and self.nulls.inline is None
        ):
            raise CorruptionError(f"the NULL positions of {path!r} lie outside the file's {size} bytes")


def encode_nulls(positions: _U64) -> bytes:
    """Sorted NULL positions as a portable 64-bit roaring bitmap, run-compressed."""
    bitmap = pyroaring.BitMap64(positions)
    bitmap.run_optimize()
    data: bytes = bitmap.serialize()
    return data


def decode_nulls(data: bytes, layout: VectorLayout, path: str) -> _U64:
    """The sorted NULL positions of a file, checked against its layout.

    Raises
    ------
    CorruptionError
        The bytes fail their checksum, are no bitmap, or disagree with the pages' counts.
    """
    if layout.nulls is None:
        return np.empty(0, np.uint64)
    if crc32(data) != layout.nulls.crc or len(data) != layout.nulls.length:
        raise CorruptionError(f"the NULL positions of {path!r} fail their checksum")
    try:
        bitmap = pyroaring.BitMap64.deserialize(data)
    except ValueError as error:
        raise CorruptionError(f"the NULL positions of {path!r} are no roaring bitmap: {error}") from error
    if len(bitmap) != layout.null_count or (len(bitmap) and bitmap.max() >= layout.rows):
        raise CorruptionError(f"the NULL positions of {path!r} disagree with its pages")
    nulls: _U64 = np.asarray(bitmap.to_array(), np.uint64)
    pages = np.bincount((nulls // np.uint64(layout.page_rows)).astype(np.int64), minlength=layout.pages)
    if bool((pages != layout.page_nulls).any()):
        raise CorruptionError(f"the NULL positions of {path!r} disagree with its pages")
    return nulls
