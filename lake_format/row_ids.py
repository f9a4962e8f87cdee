"""Row-id sequences: which permanent row id stands at each position of a fragment, as small bytes.

Freshly appended fragments hold one contiguous range; compaction and clustering move rows and leave a sequence.
The encoding is chosen by size and is normative (spec/tables.md, RID clauses). Pure values, no I/O.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from lake_format.errors import CorruptionError, InvalidInputError

__all__ = [
    "U64",
    "decode_row_ids",
    "encode_row_ids",
    "packed_runs",
    "row_id_limits",
    "row_id_runs",
]

U64 = npt.NDArray[np.uint64]

_HEADER = struct.Struct("<BBHIQ")  # kind, offset width in bytes, zero, run count, smallest row id
_RUNS = 1
_ARRAY = 2
_LIMIT = 1 << 63


def encode_row_ids(row_ids: U64) -> bytes:
    """Encode the row ids of a fragment's positions, in order; the smaller of runs and array is taken."""
    ids = np.ascontiguousarray(row_ids, dtype=np.uint64)
    if not 0 < len(ids) < 1 << 32 or ids.max() >= _LIMIT:
        raise InvalidInputError("a row-id sequence holds 1 to 2**32 - 1 row ids below 2**63")
    base = ids.min()
    offsets = ids - base
    width = _width(int(offsets.max()))
    starts = np.flatnonzero(np.r_[True, ids[1:] != ids[:-1] + np.uint64(1)])
    lengths = np.diff(np.r_[starts, len(ids)])
    if len(starts) * (width + 4) < len(ids) * width:
        return _sequence(base, width, offsets[starts], lengths)
    return _sequence(base, width, offsets)


def decode_row_ids(data: bytes, row_count: int) -> U64:
    """The row id of every position, shape ``(row_count,)``; CorruptionError if the bytes do not fit."""
    ids, lengths = _entries(data, row_count)
    if lengths is not None:
        first = np.cumsum(lengths) - lengths
        within = np.arange(row_count, dtype=np.int64) - np.repeat(first, lengths)
        ids = np.repeat(ids, lengths) + within.astype(np.uint64)
    if len(ids) != row_count or (row_count and int(ids.max()) >= _LIMIT):
        raise CorruptionError("a row-id sequence does not have one id per row of its fragment")
    return ids


def row_id_limits(data: bytes, row_count: int) -> tuple[int, int]:
    """The smallest and the greatest row id of a sequence; CorruptionError if the bytes do not fit."""
    ids, lengths = _entries(data, row_count)
    ends = ids if lengths is None else ids + (lengths - 1).astype(np.uint64)
    if not len(ids):
        raise CorruptionError("a row-id sequence is empty")
    return int(ids.min()), int(ends.max())


def _entries(data: bytes, row_count: int | None) -> tuple[U64, npt.NDArray[np.int64] | None]:
    """What a sequence stores: first ids of runs and their lengths, or every id and None."""
    if len(data) < _HEADER.size:
        raise CorruptionError(f"a row-id sequence of {len(data)} bytes is shorter than its header")
    kind, width, zero, count, base = _HEADER.unpack_from(data)
    per_entry = width + (4 if kind == _RUNS else 0)
    too_many = row_count is not None and count > row_count
    if kind not in (_RUNS, _ARRAY) or width not in (1, 2, 4, 8) or zero or too_many:
        raise CorruptionError("a row-id sequence has an unknown encoding")
    if len(data) != _HEADER.size + count * per_entry:
        raise CorruptionError("a row-id sequence has the wrong length")
    offsets = np.frombuffer(data, f"<u{width}", count, _HEADER.size).astype(np.uint64)
    # In Python integers: hostile values must not wrap around.
    if base + int(offsets.max(initial=0)) >= _LIMIT:
        raise CorruptionError("a row-id sequence holds row ids of 2**63 or more")
    ids = offsets + np.uint64(base)
    if kind != _RUNS:
        return ids, None
    lengths = np.frombuffer(data, "<u4", count, _HEADER.size + count * width).astype(np.int64)
    if (row_count is not None and int(lengths.sum()) != row_count) or not lengths.all():
        raise CorruptionError("the runs of a row-id sequence do not add up to its fragment's rows")
    return ids, lengths


def packed_runs(first: U64, count: U64) -> bytes:
    """A set of row ids as a sequence; of runs, or of single ids where that is shorter.

    Parameters
    ----------
    first, count
        Ascending runs, at least one.
    """
    longest = np.uint64((1 << 32) - 1)
    if (count > longest).any():  # in pieces that a run length can say
        pieces = ((count + longest - np.uint64(1)) // longest).astype(np.int64)
        within = (np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)).astype(np.uint64)
        left = np.repeat(count, pieces) - within * longest
        first, count = np.repeat(first, pieces) + within * longest, np.minimum(left, longest)
    base, total = first[0], int(count.sum())
    width = _width(int(first[-1] + count[-1] - np.uint64(1) - base))
    if len(first) * (width + 4) < total * width:
        return _sequence(base, width, first - base, count)
    before = np.cumsum(count) - count
    offsets = np.repeat(first - before - base, count.astype(np.int64)) + np.arange(total, dtype=np.uint64)
    return _sequence(base, width, offsets)


def _width(largest: int) -> int:
    return next(width for width in (1, 2, 4, 8) if largest < 1 << (8 * width))


def _sequence(base: np.uint64, width: int, offsets: U64, lengths: npt.NDArray[Any] | None = None) -> bytes:
    """The bytes of a sequence: of runs where there are lengths, else of single ids."""
    kind, tail = (_ARRAY, b"") if lengths is None else (_RUNS, lengths.astype("<u4").tobytes())
    head = _HEADER.pack(kind, width, 0, len(offsets), int(base))
    return b"".join([head, offsets.astype(f"<u{width}").tobytes(), tail])


def row_id_runs(data: bytes, row_count: int | None = None) -> tuple[U64, npt.NDArray[np.int64]]:
    """The ascending row ids of a set as runs: first ids and lengths; CorruptionError if they do not ascend.

    Parameters
    ----------
    row_count
        How many there must be; None is whatever the entries say.
    """
    first, lengths = _entries(data, row_count)
    count = np.ones(len(first), np.uint64) if lengths is None else lengths.astype(np.uint64)
    if row_count is not None and int(count.sum()) != row_count:
        raise CorruptionError("a row-id sequence does not have one id per row of its fragment")
    ends = first + count
    if (ends > _LIMIT).any() or (ends[:-1] > first[1:]).any():
        raise CorruptionError("a set of row ids is not ascending")
    if not len(first):
        return first, count.astype(np.int64)
    starts = np.flatnonzero(np.r_[True, first[1:] != ends[:-1]])
    last = np.r_[starts[1:] - 1, len(first) - 1]
    return first[starts], (ends[last] - first[starts]).astype(np.int64)
