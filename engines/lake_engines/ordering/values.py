"""Values of any ordered type as numpy values whose order is theirs. Pure.

Numbers become unsigned 64-bit words; text and binary the first bytes of each. NULLs are left to the caller.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lake_format.row_ids import U64
from lake_format.statistics import bound_kind

__all__ = ["PREFIX_BYTES", "nulls_of", "ordered", "words_of"]

PREFIX_BYTES = 32
"""So many bytes of a text or binary value decide its place."""
_SIGN = np.uint64(1 << 63)


def ordered(column: pa.Array) -> npt.NDArray[np.generic]:
    """Values whose order is the column's; uint64, or ``S32`` for text and binary; shape ``(n,)``.

    Floats are in total order: NaN after infinity, both zeros equal. Decimals are rounded to doubles. What stands
    for a NULL has no meaning.
    """
    column = _plain(column)
    kind = (bound_kind(column.type) or "").partition(":")[0]
    if kind in ("text", "binary"):
        return _prefixes(column)
    if kind in ("float", "decimal"):
        return _float_words(column)
    if kind == "boolean":
        column = column.cast(pa.uint8())
    elif not pa.types.is_integer(column.type):
        column = column.view(pa.int32() if column.type.bit_width == 32 else pa.int64())
    numbers = np.asarray(_filled(column, 0).to_numpy(zero_copy_only=False))
    if numbers.dtype.kind == "u":
        return numbers.astype(np.uint64)
    return np.ascontiguousarray(numbers.astype(np.int64)).view(np.uint64) ^ _SIGN


def nulls_of(column: pa.Array) -> npt.NDArray[np.bool_]:
    """Where the column is NULL; shape ``(n,)``."""
    return np.asarray(_plain(column).is_null().to_numpy(zero_copy_only=False), dtype=bool)


def words_of(values: npt.NDArray[np.generic]) -> list[U64]:
    """The values as one or more uint64 words each, the most significant first."""
    if values.dtype.kind == "u":
        return [values.astype(np.uint64, copy=False)]
    words = np.ascontiguousarray(values).view(">u8").reshape(len(values), -1)
    return [words[:, place].astype(np.uint64) for place in range(words.shape[1])]


def _plain(column: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        return column.dictionary_decode()
    return pc.run_end_decode(column) if pa.types.is_run_end_encoded(column.type) else column


def _filled(column: pa.Array, value: object) -> pa.Array:
    return column.fill_null(value) if column.null_count else column


def _float_words(column: pa.Array) -> U64:
    numbers = np.asarray(_filled(column.cast(pa.float64()), 0.0).to_numpy(zero_copy_only=False)) + 0.0
    numbers[np.isnan(numbers)] = np.nan  # one NaN, above infinity
    bits = np.ascontiguousarray(numbers).view(np.uint64)
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def _prefixes(column: pa.Array) -> npt.NDArray[np.bytes_]:
    if pa.types.is_string_view(column.type):
        column = column.cast(pa.large_string())
    column = _filled(column.cast(pa.large_binary()), b"")
    _, offset_buffer, data_buffer = column.buffers()
    ends = np.frombuffer(offset_buffer, np.int64, len(column) + 1, column.offset * 8)
    first, last = int(ends[0]), int(ends[-1])
    data = np.zeros(last - first + PREFIX_BYTES, np.uint8)
    if data_buffer is not None:
        data[: last - first] = np.frombuffer(data_buffer, np.uint8)[first:last]
    place = np.arange(PREFIX_BYTES)
    taken = data[(ends[:-1] - first)[:, None] + place]
    taken[place >= np.diff(ends)[:, None]] = 0
    return np.ascontiguousarray(taken).view(f"S{PREFIX_BYTES}").reshape(len(column))
