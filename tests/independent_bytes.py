"""The binary structures of the format, read as `spec/` says: row-id sequences, roaring bitmaps, vector files.

A part of :mod:`independent_reader`; it too imports nothing of this project.
"""

from __future__ import annotations

import base64
import struct
import zlib
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa


class RefusedError(Exception):
    """The bytes are not what the specification says."""


def require(condition: object, what: str) -> None:
    if not condition:
        raise RefusedError(what)


@dataclass
class Cursor:
    """Little-endian values, one after another."""

    data: bytes
    at: int = 0

    def take(self, layout: str) -> tuple[Any, ...]:
        require(self.at + struct.calcsize("<" + layout) <= len(self.data), "cut short")
        values = struct.unpack_from("<" + layout, self.data, self.at)
        self.at += struct.calcsize("<" + layout)
        return values

    def array(self, dtype: str, count: int) -> np.ndarray:
        require(self.at + np.dtype(dtype).itemsize * count <= len(self.data), "cut short")
        values = np.frombuffer(self.data, dtype, count, self.at)
        self.at += values.nbytes
        return values


def row_id_sequence(data: bytes, count: int) -> np.ndarray:
    """RID-1 to RID-3."""
    cursor = Cursor(data)
    kind, width, zero, entries, base = cursor.take("BBHIQ")
    require(kind in (1, 2) and width in (1, 2, 4, 8) and zero == 0, "unknown row-id sequence")
    ids = cursor.array(f"<u{width}", entries).astype(np.uint64) + np.uint64(base)
    if kind == 1:
        runs = zip(ids.tolist(), cursor.array("<u4", entries).tolist(), strict=True)
        ids = np.concatenate([np.arange(first, first + size) for first, size in runs]).astype(np.uint64)
    require(len(ids) == count and cursor.at == len(data), "row-id sequence does not fit")
    return ids


def row_id_set(stored: list[list[int]] | str) -> list[int]:
    """CON-14: a set of row ids, ascending."""
    if isinstance(stored, str):
        data = base64.b64decode(stored, validate=True)
        kind, entries = data[0], struct.unpack_from("<I", data, 4)[0]
        lengths = struct.unpack(f"<{entries}I", data[-4 * entries :]) if kind == 1 else [1] * entries
        ids = row_id_sequence(data, sum(lengths)).tolist()
    else:
        ids = [row_id for first, count in stored for row_id in range(first, first + count)]
    require(all(one < other for one, other in pairwise(ids)), "a set out of order")
    return ids


def roaring64(data: bytes) -> np.ndarray:
    """A portable 64-bit roaring bitmap: buckets of 32-bit ones by high half (RoaringFormatSpec)."""
    cursor = Cursor(data)
    parts = [np.empty(0, np.uint64)]
    for _ in range(cursor.take("Q")[0]):
        (high,) = cursor.take("I")
        parts.append(roaring32(cursor) + np.uint64(high << 32))
    require(cursor.at == len(data), "bytes after a bitmap")
    return np.concatenate(parts)


def roaring32(cursor: Cursor) -> np.ndarray:
    (cookie,) = cursor.take("I")
    require(cookie & 0xFFFF in (12346, 12347), "not a roaring bitmap")
    has_runs = cookie & 0xFFFF == 12347
    containers = (cookie >> 16) + 1 if has_runs else cursor.take("I")[0]
    is_run = np.zeros(containers, np.uint8)
    if has_runs:
        is_run = np.unpackbits(cursor.array("u1", (containers + 7) // 8), bitorder="little")[:containers]
    heads = cursor.array("<u2", 2 * containers).reshape(-1, 2).astype(np.int64)  # key, cardinality - 1
    if not has_runs or containers >= 4:
        cursor.array("<u4", containers)  # offsets, not needed when reading front to back
    parts = [np.empty(0, np.int64)]
    for (key, size), run in zip(heads.tolist(), is_run.tolist(), strict=True):
        if run:
            (count,) = cursor.take("H")
            pairs = cursor.array("<u2", 2 * count).reshape(-1, 2).astype(np.int64)
            low = np.concatenate([np.arange(start, start + more + 1) for start, more in pairs.tolist()])
        elif size + 1 > 4096:
            low = np.flatnonzero(np.unpackbits(cursor.array("u1", 8192), bitorder="little"))
        else:
            low = cursor.array("<u2", size + 1).astype(np.int64)
        require(len(low) == size + 1, "a roaring container has another size than it says")
        parts.append(low + (key << 16))
    return np.concatenate(parts).astype(np.uint64)


def vector_file(data: bytes, record: bytes, field: pa.Field) -> pa.Array:
    """Vectors from their pages, through the layout record alone: no Parquet reader takes part (VEC-6)."""
    cursor = Cursor(record)
    kind, version, length = cursor.take("4sII")
    require((kind, version) == (b"LKVC", 0) and len(record) == 12 + length + 4, "unknown layout")
    require(zlib.crc32(record[:-4]) == int.from_bytes(record[-4:], "little"), "layout altered")
    element, null_kind, _, dim, rows, page_rows, pages, null_count = cursor.take("BBHIQIIQ")
    dtype = {1: np.dtype("<f4"), 2: np.dtype("<f2"), 3: np.dtype("<f8")}[element]
    offsets, levels, crcs = (cursor.array(kind, pages) for kind in ("<u8", "<u4", "<u4"))
    page_nulls, nulls = np.zeros(pages, np.int64), np.empty(0, np.uint64)
    if null_kind:
        page_nulls = cursor.array("<u4", pages).astype(np.int64)
        at, size, crc = cursor.take("QII")
        blob = record[cursor.at : cursor.at + size] if null_kind == 1 else data[at : at + size]
        require(zlib.crc32(blob) == crc, "NULL positions altered")
        nulls = roaring64(blob)
    require(len(nulls) == null_count == page_nulls.sum(), "NULL counts disagree")
    valid = ~np.isin(np.arange(rows), nulls.astype(np.int64))
    out = np.zeros((rows, dim), dtype)
    for page in range(pages):
        first, last = page * page_rows, min((page + 1) * page_rows, rows)
        count = last - first - int(page_nulls[page])
        start, stop = int(offsets[page]), int(offsets[page]) + count * dim * dtype.itemsize
        require(stop <= len(data), "page outside the file")
        require(zlib.crc32(data[start - int(levels[page]) : stop]) == crcs[page], "page altered")
        out[first:last][valid[first:last]] = np.frombuffer(data, dtype, count * dim, start).reshape(-1, dim)
    mask = pa.array(~valid) if len(nulls) else None
    return pa.FixedSizeListArray.from_arrays(pa.array(out.reshape(-1)), type=field.type, mask=mask)
