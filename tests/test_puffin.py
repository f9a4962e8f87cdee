"""The Puffin container: what we write is what the published specification says, and nothing broken is believed."""

import json
import struct
from contextlib import suppress

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lake_format.errors import CorruptionError, UnsupportedError
from lake_format.puffin import (
    BlobMetadata,
    FileMetadata,
    PuffinWriter,
    decode_blob,
    decode_footer,
    encode_footer,
    footer_length,
)


class Sink(bytearray):
    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        self.extend(data)
        return len(data)


def written(blobs: list[tuple[str, bytes]]) -> bytes:
    sink = Sink()
    writer = PuffinWriter(sink, properties={"created-by": "test"})
    for kind, body in blobs:
        writer.begin()
        writer.write(body[: len(body) // 2])
        writer.write(memoryview(body)[len(body) // 2 :])
        writer.end(kind, fields=[3, 1], properties={"size": str(len(body))})
    writer.finish()
    return bytes(sink)


# spec: PUF-1 PUF-2 PUF-3
@given(st.lists(st.tuples(st.text(max_size=8), st.binary(max_size=50)), max_size=5))
def test_what_is_written_is_read_back(blobs: list[tuple[str, bytes]]) -> None:
    data = written(blobs)
    metadata = decode_footer(data[-footer_length(data[-12:], "f") :], size=len(data), where="f")
    assert [blob.type for blob in metadata.blobs] == [kind for kind, _ in blobs]
    for blob, (_, body) in zip(metadata.blobs, blobs, strict=True):
        assert (
            decode_blob(data[blob.offset : blob.offset + blob.length], blob, max_length=100, where="f")
            == body
        )
        assert (blob.fields, blob.snapshot_id, blob.sequence_number) == ((3, 1), -1, -1)
        assert blob.properties == {"size": str(len(body))}
    assert metadata.properties == {"created-by": "test"}


# spec: PUF-1
def test_bytes_by_hand() -> None:
    """A file put together here from the specification's text, byte by byte."""
    payload = (
        b'{"blobs":[{"type":"t","fields":[7],"snapshot-id":5,"sequence-number":6,"offset":4,"length":3,'
        b'"properties":{"a":"b"}}]}'
    )
    data = b"PFA1" + b"xyz" + b"PFA1" + payload + struct.pack("<i", len(payload)) + b"\0\0\0\0" + b"PFA1"
    assert decode_footer(data, size=len(data), where="f") == FileMetadata(
        blobs=(
            BlobMetadata(
                type="t",
                offset=4,
                length=3,
                fields=(7,),
                snapshot_id=5,
                sequence_number=6,
                properties={"a": "b"},
            ),
        )
    )
    assert encode_footer(decode_footer(data, size=len(data), where="f")) == data[7:]


# spec: PUF-4
def test_a_compressed_footer_and_blob() -> None:
    body = json.dumps({"blobs": []}).encode()
    packed = pa.CompressedOutputStream
    sink = pa.BufferOutputStream()
    with packed(sink, "lz4") as stream:
        stream.write(body)
    payload = sink.getvalue().to_pybytes()
    data = b"PFA1PFA1" + payload + struct.pack("<iI", len(payload), 1) + b"PFA1"
    assert decode_footer(data, size=len(data), where="f").blobs == ()

    stored = pa.compress(b"a" * 1000, "zstd", asbytes=True)
    blob = BlobMetadata(type="t", offset=4, length=len(stored), compression_codec="zstd")
    assert decode_blob(stored, blob, max_length=1000, where="f") == b"a" * 1000
    with pytest.raises(CorruptionError, match="more than 999"):
        decode_blob(stored, blob, max_length=999, where="f")
    other = BlobMetadata(type="t", offset=4, length=1, compression_codec="brotli")
    with pytest.raises(UnsupportedError, match="brotli"):
        decode_blob(b"x", other, max_length=9, where="f")


# spec: PUF-5
@given(st.data())
def test_truncated_or_altered_containers_are_refused_or_mean_the_same(data: st.DataObject) -> None:
    whole = written([("a", b"0123456789"), ("b", b"xyz")])
    expected = decode_footer(whole, size=len(whole), where="f")
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(CorruptionError):
        decode_footer(whole[:cut], size=cut, where="f")
    place = data.draw(st.integers(17, len(whole) - 1))
    broken = bytearray(whole)
    broken[place] ^= 1 << data.draw(st.integers(0, 7))
    with suppress(CorruptionError, UnsupportedError):
        found = decode_footer(bytes(broken), size=len(broken), where="f")
        # Inside a string or a number a change cannot be seen, but what is read stays within the file.
        assert all(4 <= blob.offset <= blob.offset + blob.length <= len(whole) for blob in found.blobs)
        assert len(found.blobs) == len(expected.blobs)


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        {"blobs": {}},
        {"blobs": [1]},
        {
            "blobs": [
                {"type": 1, "fields": [], "snapshot-id": 0, "sequence-number": 0, "offset": 4, "length": 0}
            ]
        },
        {
            "blobs": [
                {
                    "type": "t",
                    "fields": [True],
                    "snapshot-id": 0,
                    "sequence-number": 0,
                    "offset": 4,
                    "length": 0,
                }
            ]
        },
        {
            "blobs": [
                {"type": "t", "fields": [], "snapshot-id": 0, "sequence-number": 0, "offset": 4, "length": 99}
            ]
        },
        {
            "blobs": [
                {"type": "t", "fields": [], "snapshot-id": 0, "sequence-number": 0, "offset": 2, "length": 1}
            ]
        },
        {
            "blobs": [
                {"type": "t", "fields": [], "snapshot-id": 0, "sequence-number": 0, "offset": 4, "length": -1}
            ]
        },
        {
            "blobs": [
                {
                    "type": "t",
                    "fields": [],
                    "snapshot-id": 0,
                    "sequence-number": 0,
                    "offset": 4.0,
                    "length": 0,
                }
            ]
        },
        {"blobs": [{"type": "t", "fields": [], "snapshot-id": 0, "offset": 4, "length": 0}]},
        {"blobs": [], "properties": {"a": 1}},
    ],
)
# spec: PUF-5
def test_footers_that_contradict_the_specification(document: object) -> None:
    payload = json.dumps(document).encode()
    data = b"PFA1PFA1" + payload + struct.pack("<iI", len(payload), 0) + b"PFA1"
    with pytest.raises(CorruptionError, match="some/file"):
        decode_footer(data, size=len(data), where="some/file")


def test_unknown_flags_and_impossible_lengths() -> None:
    data = bytearray(written([]))
    data[-5] = 1
    with pytest.raises(UnsupportedError, match="flags"):
        decode_footer(bytes(data), size=len(data), where="f")
    with pytest.raises(CorruptionError, match="-1 bytes"):
        footer_length(struct.pack("<iI", -1, 0) + b"PFA1", "f")
