"""The int8 refinement: a second, closer look at candidates without reading their raw vectors.

A record is the prepared vector as int8 with its own scale. It depends on no list and lies at its ordinal, so
the region is written in one streaming pass and shards merge by concatenation. Checksums cover 64 records each
and are checked at first touch.
"""

from __future__ import annotations

import numpy as np

from lake_engines.index.interface import F32, I64, U8, Metric
from lake_format.checksum import crc32
from lake_format.errors import CorruptionError

__all__ = [
    "RECORDS_PER_CHECKSUM",
    "RefineRegion",
    "chunk_checksums",
    "encode_records",
    "record_size",
    "score",
]

RECORDS_PER_CHECKSUM = 64
_PREFIX = 8  # float32 scale, float32 bias


def record_size(dimension: int) -> int:
    """Bytes of one record."""
    return _PREFIX + dimension


def encode_records(prepared: F32, dimension: int, metric: Metric) -> U8:
    """Encode prepared vectors, shape ``(n, >= dimension)``, as records of shape ``(n, record_size)``."""
    inner = prepared[:, :dimension]
    scales = np.maximum(inner.max(axis=1), -inner.min(axis=1)) * np.float32(1 / 127)
    factors = 1 / np.where(scales > 0, scales, 1)
    rounded = inner * factors[:, None].astype(np.float32)
    np.rint(rounded, out=rounded)
    records = np.empty((len(prepared), record_size(dimension)), np.uint8)
    records[:, _PREFIX:] = rounded.astype(np.int8).view(np.uint8)
    head = np.zeros((len(prepared), 2), "<f4")
    head[:, 0] = scales
    if metric != "ip":
        head[:, 1] = -0.5 * np.einsum("ij,ij->i", rounded, rounded) * scales * scales
    records[:, :_PREFIX] = head.view(np.uint8)
    return records


def score(records: U8, query: F32) -> F32:
    """Score records against one prepared query of shape ``(dimension,)``; greater is nearer."""
    head = np.ascontiguousarray(records[:, :_PREFIX]).view(np.float32)
    products: F32 = records[:, _PREFIX:].view(np.int8).astype(np.float32) @ query
    products *= head[:, 0]
    products += head[:, 1]
    return products


def chunk_checksums(records: U8) -> list[int]:
    """CRC-32 of each run of 64 records (the last may be shorter)."""
    step = RECORDS_PER_CHECKSUM
    return [crc32(records[start : start + step].data) for start in range(0, len(records), step)]


class RefineRegion:
    """The refinement blob of a memory-mapped file. Safe for concurrent use.

    Parameters
    ----------
    blob
        The blob's bytes: records, then a CRC-32 per 64 records, then the CRC-32 of those.
    count, dimension
        Number and components of the vectors.
    where
        The file's name, for messages.
    """

    def __init__(self, blob: U8, count: int, dimension: int, where: str) -> None:
        chunks = -(-count // RECORDS_PER_CHECKSUM)
        end = count * record_size(dimension)
        if len(blob) != end + 4 * chunks + 4:
            raise CorruptionError(
                f"{where}: the refinement region has {len(blob)} bytes, not as its head says"
            )
        table = blob[end:-4].tobytes()
        if crc32(table) != int.from_bytes(blob[-4:].tobytes(), "little"):
            raise CorruptionError(f"{where}: the refinement region's checksums are altered")
        self._records = blob[:end].reshape(count, record_size(dimension))
        self._checksums = np.frombuffer(table, "<u4")
        self._checked = np.zeros(chunks, np.bool_)
        self._where = where

    def score(self, ordinals: I64, query: F32) -> F32:
        """Score the vectors at ``ordinals`` against one prepared query; greater is nearer."""
        chunks = ordinals // RECORDS_PER_CHECKSUM
        if not self._checked[chunks].all():
            self._check(np.unique(chunks))
        return score(self._records.take(ordinals, axis=0), query)

    def _check(self, chunks: I64) -> None:
        for chunk in chunks[~self._checked[chunks]].tolist():
            start = chunk * RECORDS_PER_CHECKSUM
            if crc32(self._records[start : start + RECORDS_PER_CHECKSUM].data) != self._checksums[chunk]:
                raise CorruptionError(
                    f"{self._where}: refinement records from {start} are altered (checksum)"
                )
            self._checked[chunk] = True
