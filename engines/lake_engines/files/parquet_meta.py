"""The footer and offset indexes of a Parquet file, parsed for what addressing needs: where the pages lie.

Source of the structures: Apache Parquet, ``parquet.thrift``. Pure: bytes in, values out. The bytes are
untrusted, so that every offset is checked against the file's size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lake_engines.files import thrift
from lake_format.errors import CorruptionError

__all__ = ["ColumnChunk", "FileMeta", "Pages", "RowGroup", "parse_footer", "parse_pages"]

_I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnChunk:
    """One leaf column of one row group; offsets and lengths in bytes."""

    physical_type: int
    encodings: tuple[int, ...]
    path: tuple[bytes, ...]
    codec: int
    values: int
    start: int  # of the dictionary page where there is one, else of the first data page
    data_start: int
    length: int
    index_offset: int  # of the offset index; 0 where there is none
    index_length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RowGroup:
    """One row group: its first row within the file, its rows, and its leaf columns in schema order."""

    first_row: int
    rows: int
    chunks: tuple[ColumnChunk, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileMeta:
    """The parsed footer, with the fields that a changed copy needs left encoded."""

    rows: int
    groups: tuple[RowGroup, ...]
    fields: tuple[thrift.Field, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pages:
    """The data pages of one column chunk; each array has the shape ``(pages,)``.

    ``first_rows`` count from the start of the row group; ``lengths`` include the page headers.
    """

    offsets: _I64
    lengths: _I64
    first_rows: _I64


def parse_footer(footer: bytes, path: str, size: int) -> FileMeta:
    """The metadata of a Parquet file, every chunk checked to lie inside its ``size`` bytes.

    Raises
    ------
    CorruptionError
        The footer is malformed or points outside the file.
    """
    try:
        meta, _ = thrift.decode(footer)
        fields = thrift.split(footer)
        groups: list[RowGroup] = []
        first_row = 0
        for group in meta[4]:
            chunks = tuple(_chunk(raw) for raw in group[1])
            groups.append(RowGroup(first_row=first_row, rows=group[3], chunks=chunks))
            first_row += group[3]
        rows = meta[3]
    except (thrift.ThriftError, KeyError, TypeError, AttributeError) as error:
        raise CorruptionError(f"the footer of Parquet file {path!r} is malformed: {error}") from error
    if first_row != rows:
        raise CorruptionError(f"the row groups of {path!r} have {first_row} rows, its footer says {rows}")
    for group_ in groups:
        for chunk in group_.chunks:
            index_end = chunk.index_offset + chunk.index_length
            if not (4 <= chunk.start <= chunk.data_start <= chunk.start + chunk.length <= size >= index_end):
                raise CorruptionError(f"a column chunk of {path!r} lies outside the file's {size} bytes")
    return FileMeta(rows=rows, groups=tuple(groups), fields=tuple(fields))


def _chunk(raw: dict[int, Any]) -> ColumnChunk:
    column = raw[3]
    data_start = column[9]
    dictionary = column.get(11) or 0  # some writers record 0 for "none"
    return ColumnChunk(
        physical_type=column[1],
        encodings=tuple(column[2]),
        path=tuple(column[3]),
        codec=column[4],
        values=column[5],
        start=min(dictionary, data_start) if dictionary > 0 else data_start,
        data_start=data_start,
        length=column[7],
        index_offset=raw.get(4, 0),
        index_length=raw.get(5, 0),
    )


def parse_pages(index: bytes | memoryview, chunk: ColumnChunk, rows: int, path: str) -> Pages:
    """The pages of ``chunk`` from the bytes of its offset index.

    Raises
    ------
    CorruptionError
        The index is malformed, or its pages leave the chunk or do not follow each other.
    """
    try:
        locations = thrift.decode(index)[0][1]
        table = np.array([(page[1], page[2], page[3]) for page in locations], np.int64).reshape(-1, 3)
    except (thrift.ThriftError, KeyError, TypeError, OverflowError) as error:
        raise CorruptionError(f"an offset index of Parquet file {path!r} is malformed: {error}") from error
    offsets, lengths, first_rows = table.T
    end = chunk.start + chunk.length
    if (
        not len(table)
        or first_rows[0] != 0
        or bool((np.diff(np.append(first_rows, rows)) <= 0).any())
        or bool((offsets < chunk.data_start).any() or (lengths <= 0).any() or (offsets + lengths > end).any())
    ):
        raise CorruptionError(f"an offset index of Parquet file {path!r} points outside its column chunk")
    return Pages(offsets=offsets, lengths=lengths, first_rows=first_rows)
