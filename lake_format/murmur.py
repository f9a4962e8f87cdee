"""Murmur3 x86 32-bit with seed 0 over Arrow and numpy values, vectorised (public domain algorithm by A. Appleby).

Iceberg's bucket transform is defined by it; :mod:`lake_format.transforms` says what is hashed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["hash_bytes", "hash_longs"]

_U32 = npt.NDArray[np.uint32]
_FIRST = np.uint32(0xCC9E2D51)
_SECOND = np.uint32(0x1B873593)
_ADDED = np.uint32(0xE6546B64)


def hash_longs(values: npt.NDArray[np.int64]) -> _U32:
    """The hash of each number as its 8 little-endian bytes; shape ``(n,)``."""
    words = np.ascontiguousarray(values, "<i8").view("<u4").reshape(-1, 2)
    state = np.zeros(len(words), np.uint32)
    for column in range(2):
        state = _body(state, words[:, column])
    return _finished(state, np.full(len(words), 8, np.uint32))


def hash_bytes(values: pa.Array) -> _U32:
    """The hash of each byte string of a binary array; what is said of a NULL has no meaning; shape ``(n,)``."""
    offsets, lengths, data = _byte_strings(values)
    # Four bytes more, so that the last word of the last string can be read whole.
    padded = np.concatenate([data, np.zeros(4, np.uint8)])
    windows = np.ndarray((len(padded) - 3,), "<u4", padded, strides=(1,))
    state = np.zeros(len(values), np.uint32)
    active = np.flatnonzero(lengths >= 4)
    done = 0
    while len(active):  # each step serves all strings that are still long enough
        state[active] = _body(state[active], windows[offsets[active] + done])
        done += 4
        active = active[lengths[active] >= done + 4]
    rest = np.flatnonzero(lengths % 4)
    if len(rest):
        left = (lengths[rest] % 4).astype(np.uint32)
        words = windows[offsets[rest] + lengths[rest] - left]
        state[rest] ^= _mixed(words & ((np.uint32(1) << (left * np.uint32(8))) - np.uint32(1)))
    return _finished(state, lengths.astype(np.uint32))


def _byte_strings(
    values: pa.Array,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Start and length of every string, and the bytes they lie in; NULL is empty."""
    filled = values.cast(pa.large_binary())
    if filled.null_count:
        filled = filled.fill_null(b"")
    _, offset_buffer, data_buffer = filled.buffers()
    ends = np.frombuffer(offset_buffer, np.int64, len(filled) + 1, filled.offset * 8)
    data = np.empty(0, np.uint8) if data_buffer is None else np.frombuffer(data_buffer, np.uint8)
    return ends[:-1] - ends[0], np.diff(ends), data[int(ends[0]) : int(ends[-1])]


def _mixed(words: _U32) -> _U32:
    return _rotated(words * _FIRST, 15) * _SECOND


def _body(state: _U32, words: _U32) -> _U32:
    return _rotated(state ^ _mixed(words), 13) * np.uint32(5) + _ADDED


def _rotated(words: _U32, bits: int) -> _U32:
    return (words << np.uint32(bits)) | (words >> np.uint32(32 - bits))


def _finished(state: _U32, lengths: _U32) -> _U32:
    state = state ^ lengths
    state = (state ^ (state >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    state = (state ^ (state >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return state ^ (state >> np.uint32(16))
