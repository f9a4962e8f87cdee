"""The bytes a collected version leaves under its name, there and back (spec/versions.md, VER-7).

A tombstone keeps the number taken, so that no stalled writer claims it again, and tells whose commit it was, so
that a writer whose answer was lost still learns its fate. No storage access here.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any

from lake_format.checksum import crc32
from lake_format.errors import CorruptionError

__all__ = ["Tombstone", "decode_tombstone", "encode_tombstone", "is_tombstone"]

MAGIC = b"LAKEVERX"
_HEAD = struct.Struct("<8sII")  # magic, length of the JSON, its checksum
_MOST_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Tombstone:
    """What is left of a collected version.

    ``horizon`` is the number of a version that was there when this one was collected.
    """

    table_id: str
    version: int
    commit_id: str
    committed_at: int
    horizon: int


def is_tombstone(data: bytes) -> bool:
    """Whether these bytes, found under a version's name, are a tombstone."""
    return data[: len(MAGIC)] == MAGIC


def encode_tombstone(tombstone: Tombstone) -> bytes:
    """The bytes of a tombstone."""
    values = {name: getattr(tombstone, name) for name in Tombstone.__slots__}
    text = json.dumps(values, separators=(",", ":"), sort_keys=True).encode()
    return _HEAD.pack(MAGIC, len(text), crc32(text)) + text


def decode_tombstone(data: bytes, where: str) -> Tombstone:
    """Read and check a tombstone; CorruptionError naming ``where`` for anything else."""
    if not is_tombstone(data) or not _HEAD.size < len(data) <= _MOST_BYTES:
        raise CorruptionError(f"{where} is not a tombstone")
    _, length, crc = _HEAD.unpack_from(data)
    text = data[_HEAD.size :]
    if len(text) != length or crc32(text) != crc:
        raise CorruptionError(f"{where} is truncated or altered (checksum does not match)")
    try:
        raw = json.loads(text)
        values: dict[str, Any] = {name: raw[name] for name in Tombstone.__slots__}
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise CorruptionError(f"{where} is a tombstone with a missing or malformed field") from error
    for name, value in values.items():
        kind = str if name in ("table_id", "commit_id") else int
        if type(value) is not kind or (type(value) is int and not 0 <= value < 1 << 63):
            raise CorruptionError(f"{where} is a tombstone whose {name} is {value!r}")
    found = Tombstone(**values)
    if not 0 < found.version < found.horizon:
        raise CorruptionError(f"{where} is a tombstone of version {found.version} below {found.horizon}")
    return found
