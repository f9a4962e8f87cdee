"""The Parquet bytes of a vector file: levels, page headers, offset index and footer, laid out by hand.

Pure functions from values to bytes. Source of the structures: Apache Parquet, ``parquet.thrift`` and
``Encodings.md`` (RLE/bit-packing hybrid). Nothing here knows where the bytes go.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lake_engines.files import thrift
from lake_format.schema import FIELD_ID_KEY

__all__ = ["LAKE_KEY", "MAGIC", "VectorPage", "footer", "levels", "offset_index", "page_header"]

MAGIC = b"PAR1"
LAKE_KEY = b"_lake"
CREATED_BY = b"lake-format version 0.1.0 (build 0)"

_PLAIN, _RLE = 0, 3
_DATA_PAGE = 0
_UNCOMPRESSED = 0
_REQUIRED, _OPTIONAL, _REPEATED = range(3)
_LIST_CONVERTED, _LIST_LOGICAL, _FLOAT16_LOGICAL = 3, 3, 15
_PHYSICAL = {pa.float32(): 4, pa.float64(): 5, pa.float16(): 7}
_ONE_ZERO = b"\x02\x00"  # an RLE run: one level of value 0


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorPage:
    """One written page, which is also one column chunk and one row group.

    ``offset`` is that of the page header and ``length`` counts from there to the end of the values.
    """

    offset: int
    length: int
    rows: int
    nulls: int
    values: int  # levels of the page: elements of its vectors plus one per NULL vector


def levels(valid: npt.NDArray[np.bool_] | None, rows: int, dim: int, nullable: bool) -> bytes:
    """The repetition and definition levels of a version-1 data page, each behind its length.

    Deterministic: every vector is one run of a single 0 and one of ``dim - 1`` ones; definition levels are
    one run for a page without NULLs, and one run per row otherwise.

    Parameters
    ----------
    valid
        Which rows hold a vector, shape ``(rows,)``; None when all do.
    """
    deepest = 2 if nullable else 1
    repetition = _ONE_ZERO + (_run(dim - 1, 1) if dim > 1 else b"")
    if valid is None:
        return _sized(repetition * rows) + _sized(_run(rows * dim, deepest))
    return _sized(_per_row(valid, repetition)) + _sized(_per_row(valid, _run(dim, deepest)))


def _run(count: int, value: int) -> bytes:
    return thrift.varint(count << 1) + bytes([value])


def _per_row(valid: npt.NDArray[np.bool_], run: bytes) -> bytes:
    """``run`` for every valid row and a single 0 for every NULL row, joined without a loop."""
    of_vector = np.repeat(valid, np.where(valid, len(run), len(_ONE_ZERO)))
    out = np.empty(len(of_vector), np.uint8)
    vectors = int(valid.sum())
    out[of_vector] = np.tile(np.frombuffer(run, np.uint8), vectors)
    out[~of_vector] = np.tile(np.frombuffer(_ONE_ZERO, np.uint8), len(valid) - vectors)
    return out.tobytes()


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data


def page_header(page_bytes: int, crc: int, values: int) -> bytes:
    """The header of an uncompressed PLAIN data page of ``page_bytes`` levels and values."""
    signed_crc = crc - (1 << 32) if crc >> 31 else crc
    data_page = [thrift.i32(1, values), thrift.i32(2, _PLAIN), thrift.i32(3, _RLE), thrift.i32(4, _RLE)]
    return thrift.encode(
        [
            thrift.i32(1, _DATA_PAGE),
            thrift.i32(2, page_bytes),
            thrift.i32(3, page_bytes),
            thrift.i32(4, signed_crc),
            thrift.struct(5, data_page),
        ]
    )


def offset_index(page: VectorPage) -> bytes:
    """The offset index of a chunk that is one page."""
    location = [thrift.i64(1, page.offset), thrift.i32(2, page.length), thrift.i64(3, 0)]
    return thrift.encode([thrift.list_of(1, [location])])


def footer(
    schema: pa.Schema,
    pages: Sequence[VectorPage],
    indexes: Sequence[tuple[int, int]],
    layout: bytes,
    blobs: Sequence[dict[str, Any]] = (),
) -> bytes:
    """The file metadata of a vector file, without its length and magic.

    Parameters
    ----------
    schema
        One field, a fixed-size list of floats.
    indexes
        Offset and length of each page's offset index.
    layout
        The layout record, repeated under :data:`LAKE_KEY` so that the file explains itself.
    blobs
        Type, offset and length of whatever else lies between the data and the footer.
    """
    lake = {"version": 0, "layout": base64.b64encode(layout).decode(), "blobs": list(blobs)}
    arrow_schema = base64.b64encode(schema.serialize().to_pybytes())
    metadata = [
        [thrift.binary(1, b"ARROW:schema"), thrift.binary(2, arrow_schema)],
        [thrift.binary(1, LAKE_KEY), thrift.binary(2, json.dumps(lake, separators=(",", ":")).encode())],
    ]
    groups = [_row_group(schema.field(0), page, index) for page, index in zip(pages, indexes, strict=True)]
    return thrift.encode(
        [
            thrift.i32(1, 2),
            thrift.list_of(2, _schema_elements(schema.field(0))),
            thrift.i64(3, sum(page.rows for page in pages)),
            thrift.list_of(4, groups),
            thrift.list_of(5, metadata),
            thrift.binary(6, CREATED_BY),
            thrift.list_of(7, [[thrift.struct(1, [])]]),
        ]
    )


def _schema_elements(field: pa.Field) -> list[list[thrift.Field]]:
    element = field.type.value_field
    half = field.type.value_type == pa.float16()
    return [
        [thrift.binary(4, b"schema"), thrift.i32(5, 1)],
        [
            thrift.i32(3, _OPTIONAL if field.nullable else _REQUIRED),
            thrift.binary(4, field.name.encode()),
            thrift.i32(5, 1),
            thrift.i32(6, _LIST_CONVERTED),
            *_field_id(field),
            thrift.struct(10, [thrift.struct(_LIST_LOGICAL, [])]),
        ],
        [thrift.i32(3, _REPEATED), thrift.binary(4, b"list"), thrift.i32(5, 1)],
        [
            thrift.i32(1, _PHYSICAL[field.type.value_type]),
            *([thrift.i32(2, 2)] if half else []),
            thrift.i32(3, _REQUIRED),
            thrift.binary(4, b"element"),
            *_field_id(element),
            *([thrift.struct(10, [thrift.struct(_FLOAT16_LOGICAL, [])])] if half else []),
        ],
    ]


def _field_id(field: pa.Field) -> list[thrift.Field]:
    raw = (field.metadata or {}).get(FIELD_ID_KEY)
    return [] if raw is None else [thrift.i32(9, int(raw))]


def _row_group(field: pa.Field, page: VectorPage, index: tuple[int, int]) -> list[thrift.Field]:
    column = [
        thrift.i32(1, _PHYSICAL[field.type.value_type]),
        thrift.list_of(2, [_PLAIN, _RLE]),
        thrift.list_of(3, [field.name.encode(), b"list", b"element"]),
        thrift.i32(4, _UNCOMPRESSED),
        thrift.i64(5, page.values),
        thrift.i64(6, page.length),
        thrift.i64(7, page.length),
        thrift.i64(9, page.offset),
        thrift.struct(12, [thrift.i64(3, page.nulls)]),
        thrift.list_of(13, [[thrift.i32(1, _DATA_PAGE), thrift.i32(2, _PLAIN), thrift.i32(3, 1)]]),
    ]
    chunk = [
        thrift.i64(2, 0),
        thrift.struct(3, column),
        thrift.i64(4, index[0]),
        thrift.i32(5, index[1]),
    ]
    return [
        thrift.list_of(1, [chunk]),
        thrift.i64(2, page.length),
        thrift.i64(3, page.rows),
        thrift.i64(5, page.offset),
        thrift.i64(6, page.length),
    ]
