"""The Puffin container: named blobs between two magics, described by a JSON footer. Bytes in, bytes out.

Puffin is Apache Iceberg's published container for derived data (https://iceberg.apache.org/puffin-spec)::

    Magic Blob1 Blob2 ... BlobN Footer
    Footer = Magic FooterPayload FooterPayloadSize(i32) Flags(4 bytes) Magic

This module knows the container and nothing of what blobs mean; it opens no files. Everything it decodes is
untrusted: sizes, types and bounds are checked before use; a violation is a ``CorruptionError``.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa

from lake_format.errors import CorruptionError, UnsupportedError

__all__ = [
    "MAGIC",
    "TRAILER_LENGTH",
    "BlobMetadata",
    "FileMetadata",
    "PuffinWriter",
    "decode_blob",
    "decode_footer",
    "encode_footer",
    "footer_length",
]

MAGIC = b"PFA1"
TRAILER_LENGTH = 12  # FooterPayloadSize, Flags, Magic
_FLAG_COMPRESSED = 1
_MAX_DECODED_FOOTER = 64 << 20  # a footer describes blobs; more than this is an attack or an error
_UNKNOWN = -1  # snapshot id and sequence number of a blob written before its commit (Puffin spec, v1)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobMetadata:
    """Where one blob lies and what it is; the names are those of the Puffin specification.

    ``offset`` and ``length`` are bytes in the file (after compression); ``fields`` are the ids of the fields
    the blob was computed from.
    """

    type: str
    offset: int
    length: int
    fields: tuple[int, ...] = ()
    snapshot_id: int = _UNKNOWN
    sequence_number: int = _UNKNOWN
    compression_codec: str | None = None
    properties: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileMetadata:
    """The footer's payload: all blobs in file order, and free properties of the file."""

    blobs: tuple[BlobMetadata, ...]
    properties: Mapping[str, str] = field(default_factory=dict)

    def find(self, blob_type: str) -> BlobMetadata | None:
        """Return the first blob of that type, or None."""
        return next((blob for blob in self.blobs if blob.type == blob_type), None)


class ByteSink(Protocol):
    """What a container is written to: anything with ``write``, such as a store's ObjectWriter."""

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        """Append ``data``."""
        ...


class PuffinWriter:
    """Writes a container front to back without holding blobs: begin a blob, write its parts, end it.

    The caller owns the sink and closes it after :meth:`finish`.
    """

    def __init__(self, sink: ByteSink, *, properties: Mapping[str, str] | None = None) -> None:
        self._sink = sink
        self._properties = dict(properties or {})
        self._blobs: list[BlobMetadata] = []
        self._started_at: int | None = None
        self._position = 0
        self._put(MAGIC)

    @property
    def position(self) -> int:
        """Bytes of the container written so far."""
        return self._position

    def begin(self) -> int:
        """Start a blob and return its offset in bytes."""
        assert self._started_at is None, "the previous blob has not been ended"
        self._started_at = self._position
        return self._position

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append ``data`` to the blob begun last; returns its length in bytes."""
        assert self._started_at is not None, "no blob has been begun"
        return self._put(data)

    def end(
        self, blob_type: str, *, fields: Sequence[int] = (), properties: Mapping[str, str] | None = None
    ) -> BlobMetadata:
        """Finish the current blob under its type name and return its entry."""
        assert self._started_at is not None, "no blob has been begun"
        blob = BlobMetadata(
            type=blob_type,
            offset=self._started_at,
            length=self._position - self._started_at,
            fields=tuple(fields),
            properties=dict(properties or {}),
        )
        self._blobs.append(blob)
        self._started_at = None
        return blob

    def finish(self) -> FileMetadata:
        """Write the footer and return what it says."""
        assert self._started_at is None, "the last blob has not been ended"
        metadata = FileMetadata(blobs=tuple(self._blobs), properties=self._properties)
        self._put(encode_footer(metadata))
        return metadata

    def _put(self, data: bytes | bytearray | memoryview) -> int:
        length = memoryview(data).nbytes
        self._sink.write(data)
        self._position += length
        return length


def encode_footer(metadata: FileMetadata) -> bytes:
    """Encode the whole footer, first magic to last, payload not compressed."""
    document: dict[str, Any] = {"blobs": [_blob_to_json(blob) for blob in metadata.blobs]}
    if metadata.properties:
        document["properties"] = dict(metadata.properties)
    payload = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    return b"".join((MAGIC, payload, struct.pack("<iI", len(payload), 0), MAGIC))


def footer_length(trailer: bytes, where: str) -> int:
    """Length in bytes of the whole footer, from (at least) the file's last 12 bytes.

    Raises
    ------
    CorruptionError
        The bytes do not end a Puffin file.
    """
    if len(trailer) < TRAILER_LENGTH or trailer[-4:] != MAGIC:
        raise CorruptionError(f"{where}: not a Puffin file, or truncated: it does not end in {MAGIC!r}")
    (payload_size,) = struct.unpack_from("<i", trailer, len(trailer) - TRAILER_LENGTH)
    if payload_size < 0:
        raise CorruptionError(f"{where}: the Puffin footer claims a payload of {payload_size} bytes")
    return int(len(MAGIC) + payload_size + TRAILER_LENGTH)


def decode_footer(tail: bytes, *, size: int, where: str) -> FileMetadata:
    """Read and check what the footer says, from the file's last bytes.

    Parameters
    ----------
    tail
        The end of the file: at least the whole footer (:func:`footer_length`), or the whole file.
    size
        Size of the file in bytes; blobs must lie between the first magic and the footer.
    where
        The file's name, for messages.

    Raises
    ------
    CorruptionError
        Truncated, not Puffin, not valid JSON, a field missing or of a wrong type, or a blob out of bounds.
    UnsupportedError
        A flag that a later version of Puffin may define.
    """
    length = footer_length(tail, where)
    if length > len(tail) or length + len(MAGIC) > size:
        raise CorruptionError(f"{where}: Puffin footer of {length} bytes is cut off (file of {size} bytes)")
    footer = tail[len(tail) - length :]
    if footer[:4] != MAGIC:
        raise CorruptionError(f"{where}: the Puffin footer does not start with {MAGIC!r}")
    (flags,) = struct.unpack_from("<I", footer, length - 8)
    if flags & ~_FLAG_COMPRESSED:
        raise UnsupportedError(f"{where}: unknown Puffin flags {flags:#010x}", fix="use a newer lake-format")
    payload = footer[4 : length - TRAILER_LENGTH]
    if flags & _FLAG_COMPRESSED:
        payload = _decompress(payload, "lz4", _MAX_DECODED_FOOTER, where)
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise CorruptionError(f"{where}: the Puffin footer is not JSON ({error})") from error
    return _metadata_from_json(document, limit=size - length, where=where)


def decode_blob(stored: bytes, blob: BlobMetadata, *, max_length: int, where: str) -> bytes:
    """Return a blob's contents from its stored bytes, decompressed where its codec says so.

    Raises
    ------
    CorruptionError
        The compressed bytes do not decode, or to more than ``max_length`` bytes.
    UnsupportedError
        A codec that the Puffin specification does not name.
    """
    if len(stored) != blob.length:
        raise CorruptionError(f"{where}: blob {blob.type!r} has {len(stored)} bytes, not {blob.length}")
    if blob.compression_codec is None:
        return stored
    if blob.compression_codec not in ("lz4", "zstd"):
        raise UnsupportedError(f"{where}: blob {blob.type!r} uses unknown codec {blob.compression_codec!r}")
    return _decompress(stored, blob.compression_codec, max_length, where)


def _decompress(data: bytes, codec: str, max_length: int, where: str) -> bytes:
    """Decode one frame, never producing more than ``max_length`` bytes (frames are untrusted)."""
    try:
        with pa.CompressedInputStream(pa.BufferReader(data), codec) as stream:
            decoded: bytes = stream.read(max_length + 1)
    except (OSError, ValueError) as error:  # pyarrow's errors derive from these
        raise CorruptionError(f"{where}: {codec} frame does not decode ({error})") from error
    if len(decoded) > max_length:
        raise CorruptionError(f"{where}: {codec} frame decodes to more than {max_length} bytes")
    return decoded


def _blob_to_json(blob: BlobMetadata) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "type": blob.type,
        "fields": list(blob.fields),
        "snapshot-id": blob.snapshot_id,
        "sequence-number": blob.sequence_number,
        "offset": blob.offset,
        "length": blob.length,
    }
    if blob.compression_codec is not None:
        entry["compression-codec"] = blob.compression_codec
    if blob.properties:
        entry["properties"] = dict(blob.properties)
    return entry


def _metadata_from_json(document: object, *, limit: int, where: str) -> FileMetadata:
    """Check every field's type, and that each blob lies in ``[4, limit)``; unknown fields are ignored."""
    if not isinstance(document, dict) or not isinstance(document.get("blobs"), list):
        raise CorruptionError(f"{where}: the Puffin footer has no list 'blobs'")
    blobs = tuple(_blob_from_json(entry, number, where) for number, entry in enumerate(document["blobs"]))
    for number, blob in enumerate(blobs):
        if blob.offset < len(MAGIC) or blob.length < 0 or blob.offset + blob.length > limit:
            raise CorruptionError(
                f"{where}: blob {number} ({blob.type!r}) at {blob.offset}+{blob.length} lies outside the file"
            )
    return FileMetadata(blobs=blobs, properties=_string_map(document.get("properties", {}), "file", where))


def _blob_from_json(entry: object, number: int, where: str) -> BlobMetadata:
    name = f"blob {number}"
    if not isinstance(entry, dict):
        raise CorruptionError(f"{where}: {name} of the Puffin footer is not an object")

    def integer(key: str) -> int:
        value = entry.get(key)
        if not isinstance(value, int) or isinstance(value, bool):
            raise CorruptionError(f"{where}: {name}: {key!r} is not an integer: {value!r}")
        return value

    fields, kind, codec = entry.get("fields"), entry.get("type"), entry.get("compression-codec")
    if not isinstance(kind, str) or not (codec is None or isinstance(codec, str)):
        raise CorruptionError(f"{where}: {name}: 'type' or 'compression-codec' is not a string")
    if not isinstance(fields, list) or not all(type(item) is int for item in fields):
        raise CorruptionError(f"{where}: {name}: 'fields' is not a list of integers")
    return BlobMetadata(
        type=kind,
        offset=integer("offset"),
        length=integer("length"),
        fields=tuple(fields),
        snapshot_id=integer("snapshot-id"),
        sequence_number=integer("sequence-number"),
        compression_codec=codec,
        properties=_string_map(entry.get("properties", {}), name, where),
    )


def _string_map(value: object, name: str, where: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise CorruptionError(f"{where}: {name}: 'properties' is not a map of strings")
    return dict(value)
