"""The part of Thrift's compact protocol that Parquet metadata needs: encode and decode, nothing else.

Source: Apache Thrift, ``doc/specs/thrift-compact-protocol.md``. It must not know what the fields mean.
Decoding treats its input as untrusted: every fault of the bytes raises :class:`ThriftError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "Field",
    "ThriftError",
    "binary",
    "boolean",
    "decode",
    "encode",
    "i32",
    "i64",
    "list_of",
    "split",
    "struct",
    "varint",
]

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)
_MAX_DEPTH = 32


class ThriftError(ValueError):
    """The bytes are not a well-formed compact-protocol struct."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a struct: its id, its compact-protocol type and its encoded value."""

    id: int
    kind: int
    value: bytes


def i32(field_id: int, value: int) -> Field:
    """A 32-bit integer (or enum) field."""
    return Field(field_id, _I32, _zigzag(value))


def i64(field_id: int, value: int) -> Field:
    """A 64-bit integer field."""
    return Field(field_id, _I64, _zigzag(value))


def boolean(field_id: int, value: bool) -> Field:
    """A boolean field: its value lives in the type nibble."""
    return Field(field_id, _TRUE if value else _FALSE, b"")


def binary(field_id: int, value: bytes) -> Field:
    """A binary or string field."""
    return Field(field_id, _BINARY, _binary(value))


def struct(field_id: int, fields: Sequence[Field]) -> Field:
    """A nested struct field."""
    return Field(field_id, _STRUCT, encode(fields))


def list_of(field_id: int, items: Sequence[Sequence[Field] | bytes | int]) -> Field:
    """A list field of structs (sequences of fields), of binaries, or of 32-bit integers."""
    if items and isinstance(items[0], bytes):
        kind, body = _BINARY, b"".join(_binary(item) for item in items if isinstance(item, bytes))
    elif items and isinstance(items[0], int):
        kind, body = _I32, b"".join(_zigzag(item) for item in items if isinstance(item, int))
    else:
        kind, body = _STRUCT, b"".join(encode(item) for item in items if not isinstance(item, (bytes, int)))
    count = len(items)
    head = bytes([count << 4 | kind]) if count < 15 else bytes([0xF0 | kind]) + varint(count)
    return Field(field_id, _LIST, head + body)


def encode(fields: Sequence[Field]) -> bytes:
    """The bytes of a struct; ``fields`` must come in ascending order of id."""
    out = bytearray()
    last = 0
    for field in fields:
        delta = field.id - last
        if 0 < delta <= 15:
            out.append(delta << 4 | field.kind)
        else:
            out.append(field.kind)
            out += _zigzag(field.id)
        out += field.value
        last = field.id
    out.append(0)
    return bytes(out)


def varint(value: int) -> bytes:
    """``value`` (not negative) as an unsigned LEB128 integer."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _zigzag(value: int) -> bytes:
    return varint(value << 1 if value >= 0 else (-value << 1) - 1)


def _binary(value: bytes) -> bytes:
    return varint(len(value)) + value


def decode(data: bytes | memoryview, start: int = 0) -> tuple[dict[int, Any], int]:
    """The struct at ``start`` as ``{field id: value}``, and the offset just past it.

    Lists become lists, structs dicts, binaries bytes. Unknown fields are kept: they cost little.

    Raises
    ------
    ThriftError
        The bytes end early, nest deeper than any Parquet metadata does, or use an unknown type.
    """
    try:
        return _struct(data, start, 0)
    except IndexError:
        raise ThriftError("the bytes end inside a struct") from None


def split(data: bytes | memoryview) -> list[Field]:
    """The fields of the struct at the start of ``data``, their values left encoded.

    So that a changed copy can be encoded while what is not understood stays as it was.
    """
    fields = []
    at = field_id = 0
    try:
        while head := data[at]:
            at += 1
            if head >> 4:
                field_id += head >> 4
            else:
                raw, at = _read_varint(data, at)
                field_id = _unzigzag(raw)
            start, kind = at, head & 15
            if kind not in (_TRUE, _FALSE):
                at = _value(data, at, kind, 0)[1]
            fields.append(Field(field_id, kind, bytes(data[start:at])))
    except IndexError:
        raise ThriftError("the bytes end inside a struct") from None
    return fields


def _struct(data: bytes | memoryview, at: int, depth: int) -> tuple[dict[int, Any], int]:
    if depth > _MAX_DEPTH:
        raise ThriftError(f"structs nest deeper than {_MAX_DEPTH}")
    out: dict[int, Any] = {}
    field_id = 0
    while True:
        head = data[at]
        at += 1
        if head == 0:
            return out, at
        if head >> 4:
            field_id += head >> 4
        else:
            raw, at = _read_varint(data, at)
            field_id = _unzigzag(raw)
        kind = head & 15
        if kind in (_TRUE, _FALSE):
            out[field_id] = kind == _TRUE
        else:
            out[field_id], at = _value(data, at, kind, depth)


def _value(data: bytes | memoryview, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (_I16, _I32, _I64):
        raw, at = _read_varint(data, at)
        return _unzigzag(raw), at
    if kind == _BINARY:
        length, at = _read_varint(data, at)
        if length > len(data) - at:
            raise ThriftError(f"a binary of {length} bytes runs past the end")
        return bytes(data[at : at + length]), at + length
    if kind in (_LIST, _SET):
        return _list(data, at, depth)
    if kind == _STRUCT:
        return _struct(data, at, depth + 1)
    if kind in (_TRUE, _FALSE, _BYTE):  # inside a list a boolean takes a byte of its own
        return data[at] == 1 if kind != _BYTE else data[at], at + 1
    if kind == _DOUBLE:
        if len(data) - at < 8:
            raise ThriftError("a double runs past the end")
        return bytes(data[at : at + 8]), at + 8
    raise ThriftError(f"unknown type {kind}")


def _list(data: bytes | memoryview, at: int, depth: int) -> tuple[list[Any], int]:
    head = data[at]
    at += 1
    count = head >> 4
    if count == 15:
        count, at = _read_varint(data, at)
    if count > len(data) - at:  # every item takes at least one byte
        raise ThriftError(f"a list of {count} items runs past the end")
    out: list[Any] = []
    for _ in range(count):
        item, at = _value(data, at, head & 15, depth + 1)
        out.append(item)
    return out, at


def _read_varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ThriftError("an integer is longer than 64 bits")


def _unzigzag(value: int) -> int:
    return value >> 1 ^ -(value & 1)
