"""Reads an ordinary Parquet file: scans by row window, takes by page, in the exact types that were written.

Decoding is pyarrow's; this module decides which row groups and pages it gets to see. It must work without a
layout too: files of foreign writers have none.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lake_engines.files.access import FileBytes, StoreFile
from lake_engines.files.base import (
    DEFAULT_BATCH_ROWS,
    UNKNOWN_ROWS,
    Positions,
    WrittenFile,
    check_columns,
    check_increasing,
    check_window,
    empty_batch,
    gather,
    project,
    rows_only,
)
from lake_engines.files.checksums import TAIL_BYTES, StreamLayout
from lake_engines.files.column_cache import DECODED
from lake_engines.files.layout import PARQUET_KIND
from lake_engines.files.parquet_excerpt import GroupPlan, assemble, plan_group, ranges_of, shared_breaks
from lake_engines.files.parquet_meta import FileMeta, Pages, RowGroup, parse_footer, parse_pages
from lake_engines.files.parquet_types import leaf_count, parquet_can_hold, restore
from lake_engines.files.vector_pages import MAGIC
from lake_format.errors import CorruptionError, LakeError
from lake_format.store.base import Store

__all__ = ["ParquetReader"]

_I64 = npt.NDArray[np.int64]
_FEW_ROWS = 4096
_AS_THEY_ARE = {"PLAIN", "RLE"}  # values, and their levels
_SMALL_BYTES = 1 << 20
"""A take from a file up to this size decodes whole columns and keeps them: measured quicker than a few pages."""


class ParquetReader:
    """A :class:`~lake_engines.files.base.FileReader` for any Parquet file.

    Parameters
    ----------
    file
        With an empty layout the file is a foreign one: nothing but its size is known beforehand.
    schema
        The schema as written; None to take it from the footer.
    verify_reads
        Check every block that is read against its checksum, where there is a layout.
    """

    def __init__(
        self, store: Store, file: WrittenFile, schema: pa.Schema | None = None, *, verify_reads: bool = False
    ) -> None:
        self._path = file.path
        self._layout: StreamLayout | None = None
        if file.layout:
            self._layout = StreamLayout.from_bytes(
                file.layout, PARQUET_KIND, path=file.path, rows=file.rows, size=file.size
            )
        self._bytes = FileBytes(store, file.path, file.size, checksums=self._layout if verify_reads else None)
        self._footer = self._read_footer()
        with self._reading():
            envelope = MAGIC + self._footer + len(self._footer).to_bytes(4, "little") + MAGIC
            self._metadata = pq.read_metadata(pa.BufferReader(envelope))
            found = self._metadata.schema.to_arrow_schema()
        if file.rows not in (UNKNOWN_ROWS, self._metadata.num_rows):
            raise CorruptionError(
                f"Parquet file {file.path!r} has {self._metadata.num_rows} rows, not the {file.rows} recorded"
            )
        self._schema: pa.Schema = _written_schema(self._metadata, found) if schema is None else schema
        if found.names != self._schema.names:
            raise CorruptionError(
                f"Parquet file {file.path!r} has the columns {found.names}, not {self._schema.names}"
            )
        leaves = np.cumsum([0, *(leaf_count(field.type) for field in self._schema)]).tolist()
        self._leaves = {
            name: list(range(leaves[index], leaves[index + 1]))
            for index, name in enumerate(self._schema.names)
        }
        self._pages: dict[tuple[int, int], Pages] = {}
        self._places: dict[str, tuple[_I64, _I64, _I64] | None] = {}
        self._null_rows: dict[str, npt.NDArray[np.uint64]] = {}
        self._owner = object()  # of cached columns: they must not keep the file's maps alive

    def _read_footer(self) -> bytes:
        size = self._bytes.size
        length = self._layout.tail_length if self._layout else min(TAIL_BYTES, size)
        tail = bytes(self._bytes.read(size - length, length))
        if self._layout:
            self._layout.check_tail(tail, self._path)
        self._bytes.hold(size - length, tail)
        if length < 12 or tail[-4:] != MAGIC:
            raise CorruptionError(
                f"{self._path!r} is not a Parquet file: it does not end in {MAGIC.decode()}"
            )
        footer = int.from_bytes(tail[-8:-4], "little")
        if footer + 12 > size:
            raise CorruptionError(f"the footer of Parquet file {self._path!r} is longer than the file")
        if footer + 8 <= length:
            return tail[-8 - footer : -8]
        return bytes(self._bytes.read(size - 8 - footer, footer))

    @property
    def rows(self) -> int:
        """Rows in the file."""
        rows: int = self._metadata.num_rows
        return rows

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema exactly as written."""
        return self._schema

    @property
    def footer_schema(self) -> pa.Schema:
        """The Arrow schema that the footer's own types amount to, with the field ids it gives."""
        return self._metadata.schema.to_arrow_schema()

    def value_count(self, column: str) -> int:
        """How many values the column has at its leaves; NULLs and empty lists count as one each."""
        leaves = self._leaves[column]
        groups = range(self._metadata.num_row_groups)
        return sum(self._metadata.row_group(at).column(leaf).num_values for at in groups for leaf in leaves)

    def null_rows(self, column: str) -> npt.NDArray[np.uint64]:
        """Sorted rows in which a column is NULL; the first call reads all of it."""
        if column not in self._null_rows:
            first, found = 0, [np.empty(0, np.int64)]
            for batch in self.scan([column], batch_rows=_FEW_ROWS):
                if batch.column(0).null_count:
                    valid = batch.column(0).is_valid().to_numpy(zero_copy_only=False)
                    found.append(first + np.flatnonzero(~valid))
                first += batch.num_rows
            self._null_rows[column] = np.concatenate(found).astype(np.uint64)
        return self._null_rows[column]

    def knows_nulls(self, column: str) -> bool:
        """Whether :meth:`null_rows` has read the column already."""
        return column in self._null_rows

    def value_pages(self, column: str) -> tuple[_I64, _I64, _I64] | None:
        """The pages of a column, if its values lie there as they are.

        A page ends with its values, so its header and levels need not be read to find them.

        Returns
        -------
        tuple or None
            First row, offset and length of each page, each of shape ``(pages,)``. None where values are encoded or
            compressed, or the file has no offset index.
        """
        if column not in self._places:
            self._places[column] = self._value_pages(column)
        return self._places[column]

    def _value_pages(self, column: str) -> tuple[_I64, _I64, _I64] | None:
        (leaf,) = self._leaves[column]
        groups = range(self._metadata.num_row_groups)
        chunks = [self._metadata.row_group(at).column(leaf) for at in groups]
        plain = all(one.compression == "UNCOMPRESSED" and {*one.encodings} <= _AS_THEY_ARE for one in chunks)
        if not plain or not all(self._meta.groups[at].chunks[leaf].index_length for at in groups):
            return None
        self._load_pages([(at, leaf) for at in groups])
        pages = [self._pages[at, leaf] for at in groups]
        rows = [one.first_rows + self._first_rows[at] for at, one in zip(groups, pages, strict=True)]
        none = [np.empty(0, np.int64)]
        return (
            np.concatenate([*none, *rows]),
            np.concatenate([*none, *(one.offsets for one in pages)]),
            np.concatenate([*none, *(one.lengths for one in pages)]),
        )

    def read_places(self, offsets: Sequence[int], lengths: Sequence[int]) -> bytes:
        """Runs of bytes, one after another."""
        return b"".join(self._bytes.read_many(offsets, lengths))

    @property
    def key_values(self) -> dict[bytes, bytes]:
        """The footer's own key-value metadata."""
        return dict(self._metadata.metadata or {})

    def scan(
        self,
        columns: Sequence[str] | None = None,
        *,
        start: int = 0,
        stop: int | None = None,
        batch_rows: int = DEFAULT_BATCH_ROWS,
        dictionaries: bool = False,
    ) -> Iterator[pa.RecordBatch]:
        """Rows ``[start, stop)`` in order; only the row groups they lie in are read, and text as it is."""
        names = check_columns(columns, self._schema, self._path)
        begin, end = check_window(start, stop, self.rows, self._path)
        if not names:
            for first in range(begin, end, batch_rows):
                yield rows_only(min(batch_rows, end - first))
            return
        if begin == end:
            return
        first_rows = self._first_rows
        groups = range(
            int(np.searchsorted(first_rows, begin, "right")) - 1,
            int(np.searchsorted(first_rows, end, "left")),
        )
        at = int(first_rows[groups.start])
        source = self._open()
        with self._reading():
            batches = source.reader.iter_batches(
                batch_rows,
                row_groups=list(groups),
                column_indices=self._leaf_indices(names),
                use_threads=True,
            )
        for batch in self._guarded(batches):
            low, high = max(begin - at, 0), min(end - at, batch.num_rows)
            at += batch.num_rows
            if low < high:
                yield self._exact(batch.slice(low, high - low), names)

    def _guarded(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        while True:
            with self._reading():
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def _open(self) -> pq.ParquetFile:
        """A reader of its own for each scan: pyarrow's are not meant to be shared between threads."""
        with self._reading():
            if self._bytes.is_local and not self._bytes.is_checked:
                source = pa.BufferReader(pa.py_buffer(self._bytes.scan_map()))
            else:
                source = pa.PythonFile(StoreFile(self._bytes), "r")
            return pq.ParquetFile(
                source,
                metadata=self._metadata,
                pre_buffer=not self._bytes.is_local,
                page_checksum_verification=self._is_small,  # next to nothing there
            )

    def _leaf_indices(self, names: Sequence[str]) -> list[int]:
        return sorted(leaf for name in names for leaf in self._leaves[name])

    def _exact(self, batch: pa.RecordBatch, names: Sequence[str]) -> pa.RecordBatch:
        wanted = project(self._schema, names)
        with self._reading():
            arrays = [restore(batch.column(field.name), field.type) for field in wanted]
        return pa.RecordBatch.from_arrays(arrays, schema=wanted)

    def take(self, positions: Positions, columns: Sequence[str] | None = None) -> pa.RecordBatch:
        """The rows at ``positions`` (strictly increasing): only the pages that hold them are read and decoded."""
        names = check_columns(columns, self._schema, self._path)
        places = check_increasing(positions, self.rows, self._path).astype(np.int64)
        if not names:
            return rows_only(len(places))
        if not len(places):
            return empty_batch(project(self._schema, names))
        if self._is_small:
            wanted_schema = project(self._schema, names)
            return gather(pa.RecordBatch.from_arrays(self._decoded(names), schema=wanted_schema), places)
        wanted = self._by_group(places)
        self._load_pages([(group, leaf) for group, _ in wanted for leaf in self._leaf_indices(names)])
        families = self._families(names, wanted)
        ranges = [ranges_of(plans) for _, plans in families]
        data = self._bytes.read_many(
            [offset for offsets, _ in ranges for offset in offsets],
            [length for _, lengths in ranges for length in lengths],
        )
        arrays: dict[str, pa.Array] = {}
        used = 0
        for (members, plans), (offsets, _) in zip(families, ranges, strict=True):
            part = self._decode(members, plans, data[used : used + len(offsets)])
            arrays.update(zip(members, part.columns, strict=True))
            used += len(offsets)
        batch = pa.RecordBatch.from_arrays([arrays[name] for name in names], names)
        return self._exact(batch, names)

    @cached_property
    def _is_small(self) -> bool:
        """Whether its columns are at hand as a whole: mapped, or fetched with the footer."""
        if self._bytes.is_checked or not (self._bytes.is_local or self._bytes.size <= TAIL_BYTES):
            return False
        groups = (self._metadata.row_group(index) for index in range(self._metadata.num_row_groups))
        return bool(max(self._bytes.size, sum(group.total_byte_size for group in groups)) <= _SMALL_BYTES)

    def _decoded(self, names: Sequence[str]) -> list[pa.Array]:
        """Whole columns, from the cache where they are in it."""
        found = {name: DECODED.get(self._owner, name) for name in names}
        missing = [name for name, array in found.items() if array is None]
        if missing:
            source = self._open()
            with self._reading():
                table = source.reader.read_all(column_indices=self._leaf_indices(missing), use_threads=False)
            if table.num_rows != self.rows:
                raise CorruptionError(
                    f"Parquet file {self._path!r} gave {table.num_rows} rows, not {self.rows}"
                )
            for name in missing:
                with self._reading():
                    whole = restore(_one_chunk(table.column(name)), self._schema.field(name).type)
                DECODED.put(self._owner, name, whole)
                found[name] = whole
        return [found[name] for name in names]

    def _families(
        self, names: Sequence[str], wanted: Sequence[tuple[int, _I64]]
    ) -> list[tuple[list[str], list[GroupPlan]]]:
        """The columns whose pages break at the same rows, together, with what is to be read for them.

        One excerpt can only hold rows that all its columns have, so columns that break elsewhere (nested
        ones, mostly) get one of their own instead of widening everybody's.
        """
        groups = self._meta.groups
        families: dict[bytes, tuple[list[str], list[dict[int, Pages]]]] = {}
        for name in names:
            pages = [{leaf: self._pages[group, leaf] for leaf in self._leaves[name]} for group, _ in wanted]
            key = b"|".join(shared_breaks(each).tobytes() for each in pages)
            members, joined = families.setdefault(key, ([], [{} for _ in wanted]))
            members.append(name)
            for into, found in zip(joined, pages, strict=True):
                into.update(found)
        return [
            (
                members,
                [
                    plan_group(groups[group], each, rows)
                    for (group, rows), each in zip(wanted, joined, strict=True)
                ],
            )
            for members, joined in families.values()
        ]

    def _decode(
        self, names: Sequence[str], plans: Sequence[GroupPlan], data: Sequence[bytes | memoryview]
    ) -> pa.RecordBatch:
        """The wanted rows of one family of columns, in the order of ``names``."""
        excerpt = assemble(self._meta, plans, data, self._path)
        with self._reading():
            small = pq.ParquetFile(pa.BufferReader(excerpt))
            table = small.reader.read_all(column_indices=self._leaf_indices(names), use_threads=True)
            if table.num_rows != sum(plan.rows for plan in plans):
                raise CorruptionError(
                    f"Parquet file {self._path!r} gave other rows than its page index promises"
                )
            starts = np.cumsum([0, *(plan.rows for plan in plans[:-1])])
            index = np.concatenate([plan.places + first for plan, first in zip(plans, starts, strict=True)])
            return gather(table.select(list(names)).combine_chunks().to_batches()[0], index)

    def _by_group(self, places: _I64) -> list[tuple[int, _I64]]:
        """Each row group that holds wanted rows, with those rows counted from its start."""
        group = np.searchsorted(self._first_rows, places, "right") - 1
        found, starts = np.unique(group, return_index=True)
        parts = np.split(places, starts[1:])
        return [
            (int(number), part - self._first_rows[number]) for number, part in zip(found, parts, strict=True)
        ]

    @cached_property
    def _meta(self) -> FileMeta:
        """Parsed when the first take needs it: pyarrow does not tell where offset indexes lie."""
        return parse_footer(self._footer, self._path, self._bytes.size)

    @cached_property
    def _first_rows(self) -> _I64:
        metadata = self._metadata
        rows = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
        first: _I64 = np.cumsum([0, *rows[:-1]], dtype=np.int64)
        return first

    def _load_pages(self, wanted: Sequence[tuple[int, int]]) -> None:
        """Read the offset indexes that are not known yet, all in one round."""
        missing = [key for key in wanted if key not in self._pages]
        groups = self._meta.groups
        indexed = [key for key in missing if groups[key[0]].chunks[key[1]].index_length]
        chunks = [groups[group].chunks[leaf] for group, leaf in indexed]
        offsets, lengths = [chunk.index_offset for chunk in chunks], [chunk.index_length for chunk in chunks]
        data = self._bytes.read_many(offsets, lengths)
        for key, chunk, index in zip(indexed, chunks, data, strict=True):
            self._pages[key] = parse_pages(index, chunk, groups[key[0]].rows, self._path)
        for group, leaf in missing:
            if (group, leaf) not in self._pages:
                self._pages[group, leaf] = _whole_chunk(groups[group], leaf)

    def _reading(self) -> contextlib.AbstractContextManager[None]:
        return _reading(self._path)

    def verify(self) -> None:
        """Check every block of the file, or decode all of it where there are no checksums."""
        if self._layout is not None:
            self._bytes.verify(self._layout)
        else:
            for _ in self.scan():
                pass


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _written_schema(metadata: pq.FileMetaData, found: pa.Schema) -> pa.Schema:
    """The Arrow schema that an Arrow writer left in the footer; what Parquet's own types tell otherwise."""
    stored = (metadata.metadata or {}).get(b"ARROW:schema")
    if stored is None:
        return found
    try:
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(stored)))
    except (pa.ArrowException, ValueError, OSError):
        return found  # a hint that cannot be read is no reason to refuse the file
    usable = schema.names == found.names and all(parquet_can_hold(field.type) for field in schema)
    return schema if usable else found


def _whole_chunk(group: RowGroup, leaf: int) -> Pages:
    """A chunk without an offset index, as if it were one page."""
    chunk = group.chunks[leaf]
    length = chunk.start + chunk.length - chunk.data_start
    return Pages(
        offsets=np.array([chunk.data_start]), lengths=np.array([length]), first_rows=np.zeros(1, np.int64)
    )


@contextlib.contextmanager
def _reading(path: str) -> Iterator[None]:
    """Report what pyarrow finds wrong with the file as a CorruptionError that names it."""
    try:
        yield
    except LakeError:
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise CorruptionError(f"Parquet file {path!r} cannot be read: {line[:200]}") from error
