"""Reads a vector file by address: maps or fetches exactly the bytes of the vectors asked for.

Nothing is decoded: a mapped Parquet page is the Arrow buffer. Where rows lie is the layout's business
(:mod:`lake_engines.files.vector_layout`); this module moves bytes into arrays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lake_engines.files.access import FileBytes
from lake_engines.files.base import (
    DEFAULT_BATCH_ROWS,
    Positions,
    WrittenFile,
    as_positions,
    check_columns,
    check_increasing,
    check_window,
    rows_only,
)
from lake_engines.files.vector_layout import ELEMENTS, VectorLayout, decode_nulls
from lake_format.checksum import crc32
from lake_format.errors import CorruptionError, InvalidInputError
from lake_format.store.base import Store

__all__ = ["VectorReader", "vectors_to_arrow"]

_Floats = npt.NDArray[np.floating[Any]]
_Valid = npt.NDArray[np.bool_]
_U64 = npt.NDArray[np.uint64]


class VectorReader:
    """A :class:`~lake_engines.files.base.FileReader` for one vector column, with access to the raw vectors.

    Parameters
    ----------
    file
        As the writer returned it; its layout must be a vector layout.
    schema
        The one field as written.
    verify_reads
        Check a page against its checksum before anything is read from it for the first time.

    Raises
    ------
    CorruptionError
        The layout is damaged, or disagrees with the file's size, rows or schema.
    NotFoundError
        A local file that is not there.
    """

    def __init__(
        self, store: Store, file: WrittenFile, schema: pa.Schema, *, verify_reads: bool = False
    ) -> None:
        self._layout = VectorLayout.from_bytes(file.layout, file.path, file.size)
        self._schema = schema
        self._check(file)
        self._bytes = FileBytes(store, file.path, file.size)
        self._path = file.path
        self._nulls: _U64 | None = None if self._layout.nulls else np.empty(0, np.uint64)
        self._grid = self._layout.grid()
        self._unchecked = set(range(self._layout.pages)) if verify_reads else set()

    def _check(self, file: WrittenFile) -> None:
        layout = self._layout
        expected = pa.list_(pa.field("element", ELEMENTS[layout.element][0]), layout.dim)
        found = self._schema.field(0).type if len(self._schema) == 1 else None
        if (
            found is None
            or not pa.types.is_fixed_size_list(found)
            or (found.value_type, found.list_size) != (expected.value_type, layout.dim)
        ):
            raise CorruptionError(
                f"vector file {file.path!r} holds {expected}, but its schema says {self._schema}"
            )
        if layout.rows != file.rows:
            raise CorruptionError(
                f"vector file {file.path!r} has {layout.rows} rows, not the {file.rows} recorded"
            )

    @property
    def path(self) -> str:
        """The object the vectors lie in."""
        return self._path

    @property
    def is_local(self) -> bool:
        """Whether vectors are read through a memory map, not by requests."""
        return self._bytes.is_local

    @property
    def rows(self) -> int:
        """Rows in the file, NULL vectors included."""
        return self._layout.rows

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema exactly as written."""
        return self._schema

    @property
    def dim(self) -> int:
        """Elements per vector."""
        return self._layout.dim

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy type of one element."""
        return self._layout.dtype

    @property
    def null_count(self) -> int:
        """NULL vectors in the file."""
        return self._layout.null_count

    def nulls(self) -> _U64:
        """Sorted positions of the NULL vectors; read once, with one request where they lie in the file."""
        if self._nulls is None:
            blob = self._layout.nulls
            assert blob is not None, "a file without NULLs starts with an empty array"
            data = (
                blob.inline if blob.inline is not None else bytes(self._bytes.read(blob.offset, blob.length))
            )
            self._nulls = decode_nulls(data, self._layout, self._path)
        return self._nulls

    def byte_ranges(self, positions: npt.ArrayLike) -> tuple[_U64, int, _Valid | None]:
        """Where the vectors of ``positions`` (any order) lie in the file.

        Returns
        -------
        offsets
            Byte offset of each vector, shape ``(n,)``; without meaning where ``valid`` is False.
        length
            Bytes of one vector.
        valid
            Which rows hold a vector, or None when the file has no NULL vectors.
        """
        offsets, valid = self._layout.offsets(self._checked(positions), self.nulls())
        return offsets, self._layout.width, valid

    def take_vectors(self, positions: npt.ArrayLike) -> tuple[_Floats, _Valid | None]:
        """The vectors at ``positions``, in any order, repeats allowed.

        Returns
        -------
        vectors
            Shape ``(n, dim)``, the caller's own memory; zeros for NULL vectors.
        valid
            Shape ``(n,)``, or None when the file has no NULL vectors.
        """
        wanted = self._checked(positions)
        out = np.empty((len(wanted), self.dim), self.dtype)
        return out, self.take_into(wanted, out)

    def take_into(self, positions: npt.ArrayLike, out: _Floats) -> _Valid | None:
        """Like :meth:`take_vectors`, into C-contiguous ``out`` of shape ``(n, dim)`` and the file's dtype."""
        wanted = self._checked(positions)
        if out.shape != (len(wanted), self.dim) or out.dtype != self.dtype or not out.flags.c_contiguous:
            raise InvalidInputError(
                f"vectors of {self._path!r} need a contiguous {self.dtype} array of shape "
                f"{(len(wanted), self.dim)}, not {out.dtype} of shape {out.shape}"
            )
        if not len(wanted):
            return None if self._layout.nulls is None else np.ones(0, np.bool_)
        page, slot, valid = self._layout.slots(wanted, self.nulls())
        if valid is None or bool(valid.all()):
            self._gather(page, slot, out)
        else:
            out[~valid] = 0
            if bool(valid.any()):
                found = np.empty((int(valid.sum()), self.dim), self.dtype)
                self._gather(page[valid], slot[valid], found)
                out[valid] = found
        return valid

    def _gather(self, page: _U64, slot: _U64, out: _Floats) -> None:
        """Copy the vectors at ``slot`` of ``page``, all of them present, into ``out``."""
        for number in self._unchecked.intersection(page.tolist()):
            self._verify_page(number)
        width = self._layout.width
        vectors = out.reshape(-1).view(f"V{width}")
        if not self._bytes.is_local:
            offsets = self._layout.value_offsets[page] + slot * np.uint64(width)
            found = self._bytes.read_many(offsets.tolist(), [width] * len(offsets))
            vectors[:] = np.frombuffer(b"".join(found), f"V{width}")
        elif self._grid is not None:
            index = (self._grid[page] + slot).astype(np.int64)
            # "clip" lets NumPy write straight into `out`; the indices were checked already
            np.take(self._slots(0, self._grid_slots()), index, out=vectors, mode="clip")
        else:
            for number in np.unique(page).tolist():
                chosen = page == number
                vectors[chosen] = self._slots(number, self._layout.values_of(number))[
                    slot[chosen].astype(np.int64)
                ]

    def _grid_slots(self) -> int:
        """Slots from the first vector of the first page to the last of the last, gaps counted."""
        last = self._layout.pages - 1
        assert self._grid is not None, "asked only of files whose pages share a grid"
        return int(self._grid[last]) + self._layout.values_of(last)

    def _slots(self, page: int, count: int) -> npt.NDArray[np.void]:
        start = int(self._layout.value_offsets[page])
        return np.frombuffer(self._bytes.take_map(), f"V{self._layout.width}", count, start)

    def _checked(self, positions: npt.ArrayLike) -> Positions:
        wanted = as_positions(positions)
        if wanted.size and int(wanted.max()) >= self.rows:
            raise InvalidInputError(
                f"row position {int(wanted.max())} is past the {self.rows} rows of {self._path!r}"
            )
        return wanted

    def take(self, positions: Positions, columns: Sequence[str] | None = None) -> pa.RecordBatch:
        """The vectors at ``positions`` (strictly increasing) as a batch of one column."""
        names = check_columns(columns, self._schema, self._path)
        wanted = check_increasing(positions, self.rows, self._path)
        if not names:
            return rows_only(len(wanted))
        return self._batch(*self.take_vectors(wanted))

    def scan(
        self,
        columns: Sequence[str] | None = None,
        *,
        start: int = 0,
        stop: int | None = None,
        batch_rows: int = DEFAULT_BATCH_ROWS,
        dictionaries: bool = False,
    ) -> Iterator[pa.RecordBatch]:
        """Rows ``[start, stop)``; over a local file a batch without NULLs is a window into the mapped page."""
        names = check_columns(columns, self._schema, self._path)
        begin, end = check_window(start, stop, self.rows, self._path)
        for first, count in self._blocks(begin, end, batch_rows):
            yield self._batch(*self._block(first, count)) if names else rows_only(count)

    def chunks(
        self, *, start: int = 0, stop: int | None = None, batch_rows: int | None = None
    ) -> Iterator[tuple[int, _Floats, _Valid | None]]:
        """The vectors of rows ``[start, stop)``, page by page.

        Yields
        ------
        first_row
            Position of the chunk's first row.
        vectors
            Shape ``(rows, dim)``: read-only and without a copy for a page without NULLs of a local file;
            zeros for NULL vectors.
        valid
            Shape ``(rows,)``, or None when the chunk has no NULLs.
        """
        begin, end = check_window(start, stop, self.rows, self._path)
        for first, count in self._blocks(begin, end, batch_rows or self._layout.page_rows):
            vectors, valid = self._block(first, count)
            yield first, vectors, valid

    def _blocks(self, begin: int, end: int, batch_rows: int) -> Iterator[tuple[int, int]]:
        """Windows of at most ``batch_rows`` rows that do not cross a page's end."""
        page_rows = self._layout.page_rows
        while begin < end:
            count = min(max(1, batch_rows), end - begin, page_rows - begin % page_rows)
            yield begin, count
            begin += count

    def _block(self, first: int, count: int) -> tuple[_Floats, _Valid | None]:
        """``count`` vectors from row ``first``, all in one page."""
        layout, nulls = self._layout, self.nulls()
        low, high = np.searchsorted(nulls, [first, first + count]).tolist()
        page = first // layout.page_rows
        if page in self._unchecked:
            self._verify_page(page)
        before = low - int(np.searchsorted(nulls, page * layout.page_rows))
        slot = first - page * layout.page_rows - before
        offset = int(layout.value_offsets[page]) + slot * layout.width
        present = count - (high - low)
        data = self._bytes.read(offset, present * layout.width)
        values: _Floats = np.frombuffer(data, layout.dtype).reshape(present, layout.dim)
        if high == low:
            return values, None
        valid = np.ones(count, np.bool_)
        valid[(nulls[low:high] - np.uint64(first)).astype(np.int64)] = False
        vectors = np.zeros((count, layout.dim), layout.dtype)
        vectors[valid] = values
        return vectors, valid

    def _batch(self, vectors: _Floats, valid: _Valid | None) -> pa.RecordBatch:
        column = vectors_to_arrow(vectors, valid, self._schema.field(0).type)
        return pa.RecordBatch.from_arrays([column], schema=self._schema)

    def verify(self) -> None:
        """Read every page and check it against its checksum.

        Raises
        ------
        CorruptionError
            Naming the file and the first damaged rows.
        """
        self._bytes.check_size()
        for page in range(self._layout.pages):
            self._verify_page(page)
        self.nulls()

    def _verify_page(self, page: int) -> None:
        layout = self._layout
        levels = int(layout.level_lengths[page])
        length = levels + layout.values_of(page) * layout.width
        data = self._bytes.read(int(layout.value_offsets[page]) - levels, length)
        if crc32(data) != int(layout.crcs[page]):
            first = page * layout.page_rows
            raise CorruptionError(
                f"vector file {self._path!r} is damaged: rows {first} to {first + layout.rows_of(page)} "
                "fail their checksum"
            )
        self._unchecked.discard(page)


def vectors_to_arrow(vectors: _Floats, valid: _Valid | None, kind: pa.DataType) -> pa.Array:
    """Vectors of shape ``(n, dim)`` as an Arrow array of type ``kind`` over the same memory."""
    elements = pa.Array.from_buffers(kind.value_type, vectors.size, [None, pa.py_buffer(vectors)])
    validity = None
    if valid is not None and not bool(valid.all()):
        validity = pa.py_buffer(np.packbits(valid, bitorder="little"))
    return pa.Array.from_buffers(kind, len(vectors), [validity], children=[elements])
