"""The bytes of an index file: which blobs it has, and the head that says where each list lies.

::

    PFA1 | refine | scan | model | head | Puffin footer
                          └── one request from the end brings these ──┘

Knows bytes only (spec/index.md, IDX clauses). Stored bytes are untrusted and checked here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lake_engines.index.interface import I64, METRICS, CalibrationRow, Metric
from lake_engines.index.packing import packed_length
from lake_format.checksum import crc32
from lake_format.errors import CorruptionError

__all__ = [
    "ALIGNMENT",
    "FLAT_BLOB",
    "HEAD_BLOB",
    "MODEL_BLOB",
    "REFINE_BLOB",
    "SCAN_BLOB",
    "Flat",
    "Head",
    "ListTable",
]

FLAT_BLOB = "lake-flat-v0"
MODEL_BLOB = "lake-ivf-pq4-model-v0"
HEAD_BLOB = "lake-ivf-pq4-head-v0"
SCAN_BLOB = "lake-ivf-pq4-scan-v0"
REFINE_BLOB = "lake-int8-refine-v0"

ALIGNMENT = 64  # lists start at multiples of it in the file: a cache line, and what vector loads like

_HEAD_MAGIC = b"IVL0"
_HEAD = struct.Struct("<4sIQII16s")
_ROW = struct.Struct("<IfIIIIf")
_FLAT_MAGIC = b"IVF0"
_FLAT = struct.Struct("<4sIIQ")
_TABLE = np.dtype([("offset", "<u8"), ("count", "<u4"), ("crc", "<u4")])


@dataclass(frozen=True, slots=True)
class ListTable:
    """Where each list lies in the scan blob; one entry per list, then one for vectors without direction.

    ``offsets`` are bytes from the start of the scan blob, ``counts`` vectors, ``checksums`` CRC-32 of the
    list's bytes: packed codes (none in the last entry), then int64 ordinals.
    """

    offsets: I64
    counts: I64
    checksums: npt.NDArray[np.uint32]

    def lengths(self, code_size: int) -> I64:
        """Bytes of each list."""
        codes = packed_length(self.counts, code_size)  # type: ignore[arg-type]  # works on arrays as well
        lengths = np.asarray(codes + 8 * self.counts, np.int64)
        lengths[-1] = 8 * self.counts[-1]
        return lengths


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """All a search needs to know of a shard besides its model."""

    count: int
    code_size: int
    model_id: str
    table: ListTable
    calibration: tuple[CalibrationRow, ...]

    def encode(self) -> bytes:
        """Return the head's bytes, checksum last."""
        entries = np.zeros(len(self.table.counts), _TABLE)
        entries["offset"], entries["count"] = self.table.offsets, self.table.counts
        entries["crc"] = self.table.checksums
        fixed = _HEAD.pack(
            _HEAD_MAGIC,
            self.code_size,
            self.count,
            len(entries) - 1,
            len(self.calibration),
            bytes.fromhex(self.model_id),
        )
        rows = b"".join(
            _ROW.pack(r.k, r.target, r.probes, r.candidates, r.refine_from, r.refine_to, r.recall)
            for r in self.calibration
        )
        body = fixed + entries.tobytes() + rows
        return body + struct.pack("<I", crc32(body))

    @classmethod
    def decode(cls, data: bytes, *, scan_length: int, where: str) -> Head:
        """Read and check a head; every list must lie within the scan blob of ``scan_length`` bytes."""
        _check(data, _HEAD_MAGIC, _HEAD.size, "head", where)
        _, code_size, count, lists, rows, name = _HEAD.unpack_from(data)
        table_length = (lists + 1) * _TABLE.itemsize
        if len(data) != _HEAD.size + table_length + rows * _ROW.size + 4 or code_size == 0:
            raise CorruptionError(f"{where}: the index head's lengths contradict each other")
        entries = np.frombuffer(data, _TABLE, lists + 1, _HEAD.size)
        table = ListTable(
            entries["offset"].astype(np.int64), entries["count"].astype(np.int64), entries["crc"].copy()
        )
        lengths = table.lengths(code_size)
        if (table.offsets < 0).any() or (table.offsets > scan_length - lengths).any():
            raise CorruptionError(f"{where}: a list of the index lies outside its region")
        if int(table.counts.sum()) != count:
            raise CorruptionError(f"{where}: the index lists do not add up to {count} vectors")
        start = _HEAD.size + table_length
        calibration = tuple(_row(part) for part in _ROW.iter_unpack(data[start:-4]))
        if any(not 1 <= row.probes <= lists or row.candidates < 1 for row in calibration):
            raise CorruptionError(f"{where}: the index head's calibration is out of range")
        return cls(
            count=count, code_size=code_size, model_id=name.hex(), table=table, calibration=calibration
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Flat:
    """An index of so few vectors that comparing with all of them is fastest: it holds no codes."""

    metric: Metric
    dimension: int
    count: int

    def encode(self) -> bytes:
        """Return the bytes, checksum last."""
        body = _FLAT.pack(_FLAT_MAGIC, METRICS.index(self.metric), self.dimension, self.count)
        return body + struct.pack("<I", crc32(body))

    @classmethod
    def decode(cls, data: bytes, where: str) -> Flat:
        """Read and check what :meth:`encode` writes."""
        _check(data, _FLAT_MAGIC, _FLAT.size, "flat index", where)
        _, metric, dimension, count = _FLAT.unpack_from(data)
        if len(data) != _FLAT.size + 4 or metric >= len(METRICS) or dimension == 0:
            raise CorruptionError(f"{where}: the flat index contradicts itself")
        return cls(metric=METRICS[metric], dimension=dimension, count=count)


def _check(data: bytes, magic: bytes, least: int, what: str, where: str) -> None:
    if len(data) < least + 4 or data[:4] != magic:
        raise CorruptionError(f"{where}: not the bytes of an index {what}")
    if crc32(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
        raise CorruptionError(f"{where}: the index {what}'s checksum does not match")


def _row(part: tuple[Any, ...]) -> CalibrationRow:
    k, target, probes, candidates, refine_from, refine_to, recall = part
    return CalibrationRow(
        k=k,
        target=round(target, 6),  # undoes the trip through float32
        probes=probes,
        candidates=candidates,
        refine_from=refine_from,
        refine_to=refine_to,
        recall=round(recall, 6),
    )
