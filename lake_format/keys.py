"""Keys: which columns identify a row, their hashes, and how a commit stores them (spec/identity.md, IDN-13 to 15).

Pure values and arrays; looking keys up in a table is the engine's work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lake_format.errors import CorruptionError, InvalidInputError, UnsupportedError
from lake_format.model import Version
from lake_format.promotion import promotion
from lake_format.row_ids import U64
from lake_format.schema import field_by_id, field_id, is_computed, require_column

__all__ = [
    "KEY_FEATURE",
    "KEY_PROPERTY",
    "check_key_columns",
    "decode_key_hashes",
    "encode_key_hashes",
    "hash_keys",
    "is_number",
    "keeps_key_hash",
    "key_columns",
    "key_field_ids",
    "key_words",
    "require_key_type",
    "with_key",
]

KEY_PROPERTY = "key"
"""The property that holds the field ids of the key's columns, in order, as decimal numbers parted by commas."""
KEY_FEATURE = "keys"

_SEED = np.uint64(0x6C616B652D6B6579)  # "lake-key"
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def key_field_ids(properties: Mapping[str, str]) -> tuple[int, ...]:
    """Field ids of the key's columns, in order; empty for a table without key."""
    text = properties.get(KEY_PROPERTY, "")
    parts = text.split(",") if text else []
    if not all(part.isdigit() for part in parts):
        raise CorruptionError(f"the key of the table is {text!r}, not a list of field ids")
    return tuple(int(part) for part in parts)


def key_columns(version: Version) -> tuple[str, ...]:
    """Names of the key's columns, in order; empty for a table without key."""
    names = []
    for identity in key_field_ids(version.properties):
        found = field_by_id(version.schema, identity)
        if found is None:
            raise CorruptionError(f"the key of the table names field {identity}, which it does not have")
        names.append(found.name)
    return tuple(names)


def check_key_columns(schema: pa.Schema, key: object) -> tuple[str, ...]:
    """The columns of a key as a user names them; InvalidInputError for unknown, repeated or unfit ones."""
    names = [key] if isinstance(key, str) else list(key) if isinstance(key, Sequence) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise InvalidInputError(f"a key must be one or more column names, not {key!r}", fix='key=["id"]')
    for name in names:
        require_key_type(column := require_column(schema, name))
        if is_computed(column):
            raise InvalidInputError(
                f"column {name!r} is computed and cannot be part of a key",
                fix="make what it is computed from the key",
            )
        if names.count(name) > 1:
            raise InvalidInputError(f"column {name!r} is in the key twice")
    return tuple(names)


def require_key_type(field: pa.Field) -> None:
    """Raise InvalidInputError for a column whose type cannot be part of a key (IDN-14)."""
    if _kind(field.type) is None:
        raise InvalidInputError(
            f"column {field.name!r} has the type {field.type}, which cannot identify rows",
            fix="integers, booleans, dates, times, timestamps, text and binary can",
        )


def with_key(schema: pa.Schema, names: Sequence[str]) -> tuple[pa.Schema, str]:
    """The schema with the key's columns made NOT NULL, and the key as a property's text."""
    numbers = []
    for name in names:
        index = schema.get_field_index(name)
        numbers.append(str(field_id(schema.field(index))))
        schema = schema.set(index, schema.field(index).with_nullable(False))
    return schema, ",".join(numbers)


def keeps_key_hash(source: pa.DataType, target: object) -> bool:
    """Whether a key's values hash alike in both types (spec/identity.md, IDN-14): whole numbers, text, bytes do."""
    types = pa.types
    if not isinstance(target, pa.DataType) or promotion(source, target) is None or source == target:
        return True  # refused for another reason, or no change
    return bool(
        (types.is_integer(source) and types.is_integer(target))
        or (types.is_string(source) and types.is_large_string(target))
        or (types.is_binary(source) and types.is_large_binary(target))
    )


def hash_keys(columns: Sequence[pa.Array]) -> U64:
    """The key hash of every row (IDN-14).

    Parameters
    ----------
    columns
        The parts of the key, in order, each with ``n`` values. The hash of a row with a NULL part has no meaning.

    Returns
    -------
    ndarray
        uint64, shape ``(n,)``.
    """
    state = np.full(len(columns[0]), _SEED, np.uint64)
    for column in columns:
        kind = _kind(column.type)
        if kind == "number":
            state = _mix(_mix(state ^ key_words(column)) ^ np.uint64(8))
        elif kind == "bytes":
            state = _hash_bytes(state, column)
        else:
            raise UnsupportedError(f"values of type {column.type} cannot be part of a key")
    return state


def encode_key_hashes(hashes: U64) -> bytes:
    """The bytes of a key-hash object: ascending little-endian u64 (CON-2)."""
    return hashes.astype("<u8").tobytes()


def decode_key_hashes(data: bytes, path: str) -> tuple[int, ...]:
    """Read a key-hash object; CorruptionError if it is not whole or not ascending."""
    if len(data) % 8:
        raise CorruptionError(f"key hashes {path!r} are not a whole number of hashes")
    hashes = np.frombuffer(data, "<u8")
    if (hashes[1:] <= hashes[:-1]).any():
        raise CorruptionError(f"key hashes {path!r} are not ascending")
    return tuple(hashes.tolist())


def _kind(data_type: pa.DataType) -> str | None:
    types = pa.types
    if types.is_dictionary(data_type):
        return _kind(data_type.value_type)
    if types.is_integer(data_type) or types.is_boolean(data_type):
        return "number"
    if types.is_date(data_type) or types.is_time(data_type) or types.is_timestamp(data_type):
        return "number"
    text = types.is_string(data_type) or types.is_large_string(data_type) or types.is_string_view(data_type)
    binary = types.is_binary(data_type) or types.is_large_binary(data_type)
    binary = binary or types.is_binary_view(data_type) or types.is_fixed_size_binary(data_type)
    return "bytes" if text or binary else None


def _mix(word: U64) -> U64:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014; constants by Stafford, variant 13)."""
    word = (word ^ (word >> np.uint64(30))) * _FIRST
    word = (word ^ (word >> np.uint64(27))) * _SECOND
    return word ^ (word >> np.uint64(31))


def is_number(data_type: pa.DataType) -> bool:
    """Whether key parts of this type are 8 bytes each."""
    return _kind(data_type) == "number"


def key_words(column: pa.Array) -> U64:
    """Numbers as the 8 bytes of two's complement that stand for them in a key hash; shape ``(n,)``, NULL is any."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    elif not pa.types.is_integer(column.type):
        column = column.view(pa.int32() if column.type.bit_width == 32 else pa.int64())
    numbers = (column.fill_null(0) if column.null_count else column).to_numpy(zero_copy_only=False)
    wide = numbers.astype(np.int64 if numbers.dtype.kind == "i" else np.uint64, copy=False)
    return np.ascontiguousarray(wide).view(np.uint64)


def _hash_bytes(state: U64, column: pa.Array) -> U64:
    """Take in byte strings word by word: each step serves all strings that are still long enough."""
    offsets, lengths, data = _byte_strings(column)
    # Eight bytes more, so that the last word of the last string can be read whole.
    padded = np.concatenate([data, np.zeros(8, np.uint8)])
    windows = np.ndarray((len(padded) - 7,), "<u8", padded, strides=(1,))
    state = state.copy()
    active = np.flatnonzero(lengths > 0)
    done = 0
    while len(active):
        words = windows[offsets[active] + done]
        left = np.minimum(lengths[active] - done, 8).astype(np.uint64)
        keep = ~np.uint64(0) >> (np.uint64(64) - np.uint64(8) * left)
        state[active] = _mix(state[active] ^ (words & keep))
        done += 8
        active = active[lengths[active] > done]
    return _mix(state ^ lengths.astype(np.uint64))


def _byte_strings(
    column: pa.Array,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Start and length of every string, and the bytes they lie in; NULL is empty."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    text = pa.types.is_string(column.type) or pa.types.is_string_view(column.type)
    text = text or pa.types.is_large_string(column.type)
    column = column.cast(pa.large_string() if text else pa.large_binary())
    if column.null_count:
        column = column.fill_null("" if text else b"")
    _, offset_buffer, data_buffer = column.buffers()
    ends = np.frombuffer(offset_buffer, np.int64, len(column) + 1, column.offset * 8)
    data = np.empty(0, np.uint8) if data_buffer is None else np.frombuffer(data_buffer, np.uint8)
    first, last = int(ends[0]), int(ends[-1])
    return ends[:-1] - first, np.diff(ends), data[first:last]
