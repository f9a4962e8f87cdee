"""The envelope of every layout: magic, version, body, checksum. It must not know what the body means.

A layout is the small record that a manifest keeps of a data file so that a reader can address rows without
opening the footer (``spec/files.md``, FIL-4).
"""

from __future__ import annotations

import struct

from lake_format.checksum import crc32
from lake_format.errors import CorruptionError, UnsupportedError

__all__ = ["PARQUET_KIND", "VECTOR_KIND", "VORTEX_KIND", "kind_of", "seal", "unseal"]

VECTOR_KIND = b"LKVC"
VORTEX_KIND = b"LKVX"
PARQUET_KIND = b"LKPQ"

_HEAD = struct.Struct("<4sII")  # kind, version, length of the body in bytes
_VERSION = 0


def seal(kind: bytes, body: bytes) -> bytes:
    """``body`` in its envelope: head, body, CRC-32 of both."""
    data = _HEAD.pack(kind, _VERSION, len(body)) + body
    return data + crc32(data).to_bytes(4, "little")


def kind_of(layout: bytes) -> bytes | None:
    """The kind a layout claims to be, or None for an empty layout (a foreign file)."""
    return bytes(layout[:4]) if layout else None


def unseal(kind: bytes, layout: bytes, path: str) -> bytes:
    """The body of a layout, after its kind, version, length and checksum have been checked.

    Raises
    ------
    CorruptionError
        The layout is cut short, altered, or of another kind.
    UnsupportedError
        A newer release wrote it.
    """
    if len(layout) < _HEAD.size + 4:
        raise CorruptionError(f"the layout of {path!r} is cut short: {len(layout)} bytes")
    found, version, length = _HEAD.unpack_from(layout)
    if found != kind:
        raise CorruptionError(f"the layout of {path!r} is of kind {found!r}, not {kind!r}")
    if len(layout) != _HEAD.size + length + 4:
        raise CorruptionError(
            f"the layout of {path!r} has {len(layout)} bytes, not {_HEAD.size + length + 4}"
        )
    if crc32(layout[:-4]) != int.from_bytes(layout[-4:], "little"):
        raise CorruptionError(f"the layout of {path!r} fails its checksum")
    if version != _VERSION:
        raise UnsupportedError(
            f"the layout of {path!r} has version {version}, this release reads version {_VERSION}",
            fix="upgrade lake-format",
        )
    return layout[_HEAD.size : -4]
