"""From what CSV and JSON can carry to the types of a table: the reverse of :mod:`lake_connectors.cli.texts`.

A *wire type* is what Arrow's own CSV and JSON readers are asked for; :func:`decoded` turns such a column into the
type wanted. Pure functions; files are opened elsewhere.
"""

from __future__ import annotations

import base64
import binascii
import re
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from lake_connectors.cli.texts import is_list
from lake_format.errors import InvalidInputError

__all__ = ["csv_wire_type", "decoded", "json_wire_type", "parsed_json_column"]

_DURATION = re.compile(r"(-?)PT(\d+(?:\.\d+)?)S")
_UNITS_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def json_wire_type(wanted: pa.DataType) -> pa.DataType:
    """The type to ask of Arrow's JSON reader for a column of this type."""
    types = pa.types
    if types.is_dictionary(wanted):
        return json_wire_type(wanted.value_type)
    if types.is_map(wanted):
        return pa.list_(
            pa.struct([("key", json_wire_type(wanted.key_type)), ("value", json_wire_type(wanted.item_type))])
        )
    if is_list(wanted):
        return pa.list_(json_wire_type(wanted.value_type))
    if types.is_struct(wanted):
        children = (wanted.field(index) for index in range(wanted.num_fields))
        return pa.struct([(child.name, json_wire_type(child.type)) for child in children])
    if types.is_float16(wanted):
        return pa.float32()
    plain = (types.is_integer, types.is_floating, types.is_boolean, types.is_timestamp, types.is_decimal)
    return wanted if any(check(wanted) for check in plain) or types.is_null(wanted) else pa.string()


def csv_wire_type(wanted: pa.DataType) -> pa.DataType:
    """The type to ask of Arrow's CSV reader; what has no CSV form comes as text."""
    if pa.types.is_nested(wanted):
        return pa.string()
    wire = json_wire_type(wanted)
    return wanted if pa.types.is_date(wanted) or pa.types.is_time(wanted) else wire


def parsed_json_column(texts: pa.Array, wire: pa.DataType, name: str) -> pa.Array:
    """A column of JSON texts, such as ``[0.1, 0.2]`` in a CSV cell, read as the wire type."""
    lines = "".join(f'{{"v": {_single_line(text)}}}\n' for text in texts.to_pylist())
    if not lines:
        return pa.array([], wire)
    options = pj.ParseOptions(explicit_schema=pa.schema([("v", wire)]))
    block = pj.ReadOptions(block_size=len(lines.encode()) + 1)
    try:
        table = pj.read_json(pa.py_buffer(lines.encode()), read_options=block, parse_options=options)
    except pa.ArrowException as error:
        raise InvalidInputError(
            f"column {name!r} holds {wire}, but a cell is not such JSON: {error}",
            fix='write it like "[0.1, 0.2]"',
        ) from error
    return table.column("v").combine_chunks()


def decoded(array: pa.Array, wanted: pa.DataType, name: str) -> pa.Array:
    """A column in its wire type as the type wanted.

    Lists of numbers stay lists where a vector is wanted: the table checks their length itself.

    Raises
    ------
    InvalidInputError
        A text that is no date, base64, duration, … ; the message names the column and the text.
    """
    types = pa.types
    if array.type == wanted:
        return array
    if types.is_dictionary(wanted):
        return decoded(array, wanted.value_type, name)
    if types.is_map(wanted):
        return _decoded_map(array, wanted, name)
    if is_list(wanted) and types.is_list(array.type):
        return _decoded_list(array, wanted, name)
    if types.is_struct(wanted) and types.is_struct(array.type):
        return _decoded_struct(array, wanted, name)
    if types.is_string(array.type):
        return _decoded_text(array, wanted, name)
    return array


def _decoded_text(array: pa.Array, wanted: pa.DataType, name: str) -> pa.Array:
    types = pa.types
    if types.is_date(wanted) or types.is_time(wanted):
        try:
            return _times(array, wanted) if types.is_time(wanted) else array.cast(wanted)
        except pa.ArrowException as error:
            raise InvalidInputError(f"column {name!r} is {wanted}: {error}") from error
    if types.is_duration(wanted):
        scale = _UNITS_PER_SECOND[wanted.unit]
        counts = [None if text is None else _duration(text, scale, name) for text in array.to_pylist()]
        return pa.array(counts, pa.int64()).cast(wanted)
    binary = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view)
    if any(check(wanted) for check in binary):
        values = pa.array(
            [None if text is None else _bytes(text, name) for text in array.to_pylist()], pa.binary()
        )
        return values if types.is_fixed_size_binary(wanted) else values.cast(wanted)
    return array


def _times(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    """Arrow reads times of day only as part of a timestamp."""
    stamps = pc.binary_join_element_wise("1970-01-01T", array, "")
    return stamps.cast(pa.timestamp(wanted.unit)).cast(wanted)


def _decoded_list(array: pa.Array, wanted: pa.DataType, name: str) -> pa.Array:
    items = decoded(array.values, wanted.value_type, name)
    return pa.ListArray.from_arrays(_offsets(array), items)


def _decoded_map(array: pa.Array, wanted: pa.DataType, name: str) -> pa.Array:
    entries = array.values
    keys = decoded(entries.field("key"), wanted.key_type, name)
    if keys.null_count:
        raise InvalidInputError(
            f"column {name!r} has a map entry without a key", fix='write entries as {"key": …, "value": …}'
        )
    return pa.MapArray.from_arrays(
        _offsets(array), keys, decoded(entries.field("value"), wanted.item_type, name)
    )


def _decoded_struct(array: pa.Array, wanted: pa.DataType, name: str) -> pa.Array:
    fields = [array.type.field(index) for index in range(array.type.num_fields)]
    known = {wanted.field(index).name: wanted.field(index).type for index in range(wanted.num_fields)}
    columns = [
        decoded(child, known[field.name], f"{name}.{field.name}") if field.name in known else child
        for field, child in zip(fields, array.flatten(), strict=True)
    ]
    mask = array.is_null() if array.null_count else None
    return pa.StructArray.from_arrays(columns, names=[field.name for field in fields], mask=mask)


def _offsets(array: pa.Array) -> pa.Array:
    """List offsets in which NULL lists are NULL, as ``from_arrays`` wants them."""
    if not array.null_count:
        return array.offsets
    offsets = array.offsets.to_pylist()
    valid = [*array.is_valid().to_pylist(), True]
    return pa.array(
        [offset if is_set else None for offset, is_set in zip(offsets, valid, strict=True)], pa.int32()
    )


def _single_line(text: str | None) -> str:
    # Between JSON tokens a line break is a blank; inside a JSON string it would be an error anyway.
    return "null" if text is None else text.replace("\n", " ").replace("\r", " ") or "null"


def _duration(text: str, scale: int, name: str) -> int:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise InvalidInputError(f"column {name!r}: {text!r} is no duration", fix="write seconds as PT1.5S")
    count = Decimal(match[2]) * scale
    if count != int(count):
        raise InvalidInputError(
            f"column {name!r}: {text!r} is finer than the column's unit", fix="round it first"
        )
    return -int(count) if match[1] else int(count)


def _bytes(text: str, name: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        shown = text if len(text) <= 40 else text[:40] + "…"
        raise InvalidInputError(
            f"column {name!r}: {shown!r} is not base64", fix="bytes travel as base64"
        ) from error
