"""Arrow columns as text: valid JSON for every type a table holds, and plain text for CSV and people.

Works on whole columns, so that a million vectors cost no Python objects per number. Pure functions; nothing
here writes anywhere.

How values appear (the help of ``lake scan`` says so too): numbers keep every digit, decimals too; dates, times,
timestamps (UTC, ``…Z``) and durations (``PT1.5S``) are strings; bytes are base64; NaN and infinities, which JSON
has no numbers for, are the strings ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``; maps are lists of
``{"key": …, "value": …}``.
"""

from __future__ import annotations

import base64
from itertools import accumulate
from json.encoder import encode_basestring

import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["is_list", "json_texts", "plain_texts", "short_texts"]

_NOT_NUMBERS = {"nan": '"NaN"', "-nan": '"NaN"', "inf": '"Infinity"', "-inf": '"-Infinity"'}
_UNITS_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
SHOWN_ELEMENTS = 3
SHOWN_CHARACTERS = 60


def is_list(data_type: pa.DataType) -> bool:
    """Whether values of this type are sequences: lists of every kind, vectors among them."""
    return bool(
        pa.types.is_list(data_type)
        or pa.types.is_large_list(data_type)
        or pa.types.is_fixed_size_list(data_type)
        or pa.types.is_list_view(data_type)
        or pa.types.is_large_list_view(data_type)
    )


def json_texts(array: pa.Array) -> list[str]:
    """One JSON text a value; ``null`` for NULL."""
    array = _decoded(array)
    data_type = array.type
    if pa.types.is_struct(data_type):
        return _struct_texts(array)
    if is_list(data_type):
        return _list_texts(array)
    leaves = _leaf_texts(array)
    if pa.types.is_floating(data_type):
        return ["null" if text is None else _NOT_NUMBERS.get(text, text) for text in leaves]
    if pa.types.is_integer(data_type) or pa.types.is_boolean(data_type) or pa.types.is_decimal(data_type):
        return ["null" if text is None else text for text in leaves]
    return ["null" if text is None else encode_basestring(text) for text in leaves]


def plain_texts(array: pa.Array) -> list[str | None]:
    """One text a value, without quotes; lists, structs and maps as JSON; None for NULL."""
    array = _decoded(array)
    if pa.types.is_struct(array.type) or is_list(array.type):
        valid = array.is_valid().to_pylist()
        return [text if is_set else None for text, is_set in zip(json_texts(array), valid, strict=True)]
    return _leaf_texts(array)


def short_texts(array: pa.Array) -> list[str | None]:
    """One text a value for a narrow table cell: long lists and texts are cut, with their length said."""
    array = _decoded(array)
    if is_list(array.type):
        return [_short_list(value.values) if value.is_valid else None for value in array]
    if pa.types.is_floating(array.type):
        return [None if value is None else f"{value:.6g}" for value in array.to_pylist()]
    if pa.types.is_timestamp(array.type):
        return [text if text is None else text.replace("T", " ") for text in plain_texts(array)]
    return [text if text is None else _short_text(text) for text in plain_texts(array)]


def _short_list(values: pa.Array) -> str:
    shown = ", ".join(
        text if text is not None else "NULL" for text in short_texts(values.slice(0, SHOWN_ELEMENTS))
    )
    rest = f", … {len(values):,} in all" if len(values) > SHOWN_ELEMENTS else ""
    return f"[{shown}{rest}]"


def _short_text(text: str) -> str:
    line = " ".join(text.split()) if any(mark in text for mark in "\n\r\t") else text
    return line if len(line) <= SHOWN_CHARACTERS else line[: SHOWN_CHARACTERS - 1] + "…"


def _decoded(array: pa.Array) -> pa.Array:
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if pa.types.is_dictionary(array.type):
        return array.dictionary_decode()
    if pa.types.is_map(array.type):
        entry = pa.struct([("key", array.type.key_type), ("value", array.type.item_type)])
        return array.cast(pa.list_(entry))
    return array


def _struct_texts(array: pa.Array) -> list[str]:
    names = [encode_basestring(array.type.field(index).name) for index in range(array.type.num_fields)]
    columns = [json_texts(child) for child in array.flatten()]
    valid = array.is_valid().to_pylist()
    return [
        "{" + ", ".join(f"{name}: {text}" for name, text in zip(names, row, strict=True)) + "}"
        if is_set
        else "null"
        for is_set, row in zip(valid, zip(*columns, strict=True), strict=True)
    ]


def _list_texts(array: pa.Array) -> list[str]:
    lengths = pc.list_value_length(array).to_pylist()
    items = json_texts(array.flatten())
    ends = list(accumulate(length or 0 for length in lengths))
    return [
        "null" if length is None else "[" + ", ".join(items[end - length : end]) + "]"
        for length, end in zip(lengths, ends, strict=True)
    ]


def _leaf_texts(array: pa.Array) -> list[str | None]:
    data_type = array.type
    if _is_binary(data_type):
        values = array.cast(pa.large_binary()).to_pylist()
        return [None if value is None else base64.b64encode(value).decode("ascii") for value in values]
    if pa.types.is_duration(data_type):
        scale = _UNITS_PER_SECOND[data_type.unit]
        return [
            None if count is None else _duration(count, scale) for count in array.cast(pa.int64()).to_pylist()
        ]
    if pa.types.is_interval(data_type):
        return [None if value is None else _interval(*value) for value in array.to_pylist()]
    if pa.types.is_timestamp(data_type):
        return _timestamps(array)
    if pa.types.is_decimal(data_type):
        return [None if value is None else format(value, "f") for value in array.to_pylist()]
    texts: list[str | None] = array.cast(pa.large_string()).to_pylist()
    return texts


def _is_binary(data_type: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(data_type)
        or pa.types.is_large_binary(data_type)
        or pa.types.is_fixed_size_binary(data_type)
        or pa.types.is_binary_view(data_type)
    )


def _timestamps(array: pa.Array) -> list[str | None]:
    if array.type.tz is not None:
        array = array.cast(pa.timestamp(array.type.unit, "UTC"))
    spaced = array.cast(pa.large_string())
    texts: list[str | None] = pc.replace_substring(spaced, " ", "T", max_replacements=1).to_pylist()
    return texts


def _interval(months: int, days: int, nanoseconds: int) -> str:
    """An ISO 8601 duration in months, days and seconds: tables hold none, SQL can make one."""
    time = _duration(nanoseconds, 10**9)
    clock = f"T{time.replace('PT', '')}" if nanoseconds else ""
    return f"P{months}M{days}D{clock}"


def _duration(count: int, scale: int) -> str:
    """An ISO 8601 duration in seconds, exact to the unit."""
    whole, part = divmod(abs(count), scale)
    digits = f"{part:0{len(str(scale)) - 1}d}".rstrip("0") if scale > 1 else ""
    return f"{'-' if count < 0 else ''}PT{whole}{'.' + digits if digits else ''}S"
