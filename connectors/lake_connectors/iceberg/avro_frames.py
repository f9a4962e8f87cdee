"""Whether an Avro container is whole. pyiceberg takes one that is cut off for one that ends there. Pure."""

from __future__ import annotations

from lake_format.errors import CorruptionError

__all__ = ["check_whole"]

_MAGIC = b"Obj\x01"
_SYNC = 16
_LONGEST = 10
"""Bytes that a 64-bit number takes at most."""


def check_whole(data: bytes, where: str) -> None:
    """Refuse (CorruptionError) bytes that are not a header and whole blocks up to their end."""
    if data[:4] != _MAGIC:
        raise CorruptionError(f"{where} is not an Avro file")
    at = 4
    while True:  # the header's metadata: runs of keys and values, ended by an empty one
        count, at = _number(data, at, where)
        if count < 0:
            _, at = _number(data, at, where)
        if count == 0:
            break
        for _ in range(2 * abs(count)):
            length, at = _number(data, at, where)
            at = _behind(data, at, length, where)
    start, at = at, _behind(data, at, _SYNC, where)
    sync = data[start:at]
    while at < len(data):
        _, at = _number(data, at, where)
        length, at = _number(data, at, where)
        start = _behind(data, at, length, where)
        at = _behind(data, start, _SYNC, where)
        if data[start:at] != sync:
            raise CorruptionError(f"{where} is damaged: a block of it does not end where it says")


def _number(data: bytes, at: int, where: str) -> tuple[int, int]:
    """A zigzag number and where it ends."""
    found = 0
    for index, byte in enumerate(data[at : at + _LONGEST]):
        found |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return (found >> 1) ^ -(found & 1), at + index + 1
    raise CorruptionError(f"{where} is cut off, or damaged")


def _behind(data: bytes, at: int, length: int, where: str) -> int:
    if length < 0 or at + length > len(data):
        raise CorruptionError(f"{where} is cut off, or damaged")
    return at + length
