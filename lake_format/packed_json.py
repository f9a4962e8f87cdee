"""A JSON object as stored bytes: magic, lengths, checksum, one zstd frame. There and back, checked.

::

    magic | u32 length | u32 length unpacked | u32 crc | zstd(JSON) | whatever the object holds besides

Stored bytes are untrusted: what is not exactly this is refused with a ``CorruptionError`` that says where.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from lake_format.checksum import crc32
from lake_format.errors import CorruptionError, UnsupportedError

__all__ = ["pack_json", "unpack_json"]

_HEAD = struct.Struct("<8sIII")
_MAX_UNPACKED = 256 << 20
_ZSTD = pa.Codec("zstd", compression_level=3)


def pack_json(magic: bytes, value: Mapping[str, Any]) -> bytes:
    """The bytes of an object; ``magic`` is eight bytes, the last being the container's version."""
    text = json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
    packed = _ZSTD.compress(text, asbytes=True)
    return b"".join([_HEAD.pack(magic, len(packed), len(text), crc32(packed)), packed])


def unpack_json(data: bytes, magic: bytes, where: str, kind: str) -> tuple[dict[str, Any], memoryview]:
    """The object, and the bytes after it.

    Parameters
    ----------
    where, kind
        Which object this is and what it must be, for messages.

    Raises
    ------
    CorruptionError
        The bytes are something else, cut short or altered.
    UnsupportedError
        They are of another version of the container.
    """
    if len(data) < _HEAD.size or data[:7] != magic[:7]:
        raise CorruptionError(f"{where} is not {kind} (no {magic.decode()} at its start)")
    found, packed_length, length, crc = _HEAD.unpack_from(data)
    if found != magic:
        raise UnsupportedError(f"{where} has the container version {found[7:]!r}", fix="upgrade lake-format")
    packed = memoryview(data)[_HEAD.size : _HEAD.size + packed_length]
    if len(packed) != packed_length or length > _MAX_UNPACKED or crc32(packed) != crc:
        raise CorruptionError(f"{where} is truncated or altered (checksum does not match)")
    try:
        raw = json.loads(_ZSTD.decompress(packed, decompressed_size=length, asbytes=True))
    except (ValueError, OSError, RecursionError, pa.ArrowException) as error:
        raise CorruptionError(f"{where} cannot be unpacked: {error}") from error
    if not isinstance(raw, dict):
        raise CorruptionError(f"{where} does not hold a JSON object")
    return raw, memoryview(data)[_HEAD.size + packed_length :]
