"""Version objects: exact there and back, and nothing but a typed error from any altered byte (spec/tables.md)."""

from __future__ import annotations

import copy
import json
import struct
import zlib
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from repository import SPEC
from samples import SCHEMA, fragment, index_entry, version

from lake_format.codec import MAGIC, decode_version, encode_version
from lake_format.errors import CorruptionError, LakeError, UnsupportedError
from lake_format.manifest import inline_manifest
from lake_format.model import KNOWN_FEATURES, ManifestReference, Version

_ZSTD = pa.Codec("zstd")
_SAMPLE = encode_version(version())


def parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    """A version object taken apart by its specification: description and inline manifests. spec: TAB-2"""
    magic, packed, length, crc = struct.unpack_from("<8sIII", data)
    assert magic == b"LAKEVER0"
    body = data[20 : 20 + packed]
    assert zlib.crc32(body) == crc
    return json.loads(_ZSTD.decompress(body, length, asbytes=True)), data[20 + packed :]


def put_together(description: object, tail: bytes = b"") -> bytes:
    text = description if isinstance(description, bytes) else json.dumps(description).encode()
    packed = _ZSTD.compress(text, asbytes=True)
    return struct.pack("<8sIII", MAGIC, len(packed), len(text), zlib.crc32(packed)) + packed + tail


def altered(change: Callable[[dict[str, Any]], object]) -> bytes:
    """The sample with one change to its description, everything else intact."""
    description, tail = parts(_SAMPLE)
    change(description)
    return put_together(description, tail)


def refused(data: bytes) -> bool:
    """Whether an object is refused with an error of ours; any other exception passes through."""
    try:
        decode_version(data, "here")
    except (CorruptionError, UnsupportedError):
        return True
    return False


def test_round_trip_keeps_everything() -> None:
    """spec: TAB-3, TAB-8, TAB-9"""
    original = version(
        manifests=(
            ManifestReference(
                path="_lake/manifests/m.arrow",
                size=10,
                crc=4_000_000_000,
                fragment_count=3,
                row_count=7,
                first_fragment_id=1,
                last_fragment_id=9,
                removed=(1, 9),
            ),
            inline_manifest([fragment(0)]),
        ),
        indexes=(index_entry(stale=b"\x00\x01"), index_entry(name="other", metric="ip", shards=())),
    )
    assert decode_version(encode_version(original), "here") == original


def test_description_is_what_the_specification_says() -> None:
    """spec: TAB-2, TAB-3, MAN-5, SCH-1"""
    description, tail = parts(_SAMPLE)
    fields = {
        "format_version", "required_features", "table_id", "version", "parent", "commit_id", "committed_at",
        "writer_id", "operations", "summary", "schema_id", "schemas", "next_field_id", "next_row_id",
        "next_fragment_id", "row_count", "properties", "manifests", "indexes", "sequences",
    }  # fmt: skip
    assert set(description) == fields
    assert [entry["path"] for entry in description["manifests"]] == [None, None]
    sizes = [entry["size"] for entry in description["manifests"]]
    assert len(tail) == sum(sizes)
    first = pa.ipc.open_file(pa.py_buffer(tail[: sizes[0]])).read_all()
    assert first.column("fragment_id").to_pylist() == [0]


def test_unknown_fields_are_kept_through_a_rewrite() -> None:
    """spec: TAB-4"""
    data = altered(lambda description: description.update(invented={"deep": [1, None, "x"]}))
    read = decode_version(data, "here")
    again, _ = parts(encode_version(read))
    assert again["invented"] == {"deep": [1, None, "x"]}


def test_a_known_field_is_never_shadowed_by_an_unknown_one() -> None:
    read = decode_version(encode_version(version(extra={"row_count": 99})), "here")
    assert read.row_count == 20


def test_newer_format_version_is_refused_before_anything_else() -> None:
    """spec: TAB-5"""
    for description in ({"format_version": 1}, parts(_SAMPLE)[0] | {"format_version": 7, "manifests": "?"}):
        with pytest.raises(UnsupportedError, match=r"here has format version [17].*upgrade"):
            decode_version(put_together(description), "here")


def test_newer_container_is_refused() -> None:
    """spec: TAB-2"""
    with pytest.raises(UnsupportedError, match="container version"):
        decode_version(b"LAKEVER1" + _SAMPLE[8:], "here")


def test_unknown_required_feature_is_refused_by_name() -> None:
    """spec: TAB-6"""
    data = altered(lambda description: description["required_features"].append("time-machine"))
    with pytest.raises(UnsupportedError, match=r"here requires the feature 'time-machine'.*upgrade"):
        decode_version(data, "here")


def test_every_feature_this_release_knows_is_in_the_specification() -> None:
    """spec: TAB-6"""
    text = (SPEC / "tables.md").read_text("utf-8")
    assert [name for name in sorted(KNOWN_FEATURES) if f"| `{name}` |" not in text] == []


@pytest.mark.parametrize(
    "path", ["../x", "/etc/passwd", "a//b", "a/./b", "data/..", "", "C:\\x", "data/.hidden"]
)
def test_paths_leaving_the_root_are_refused(path: str) -> None:
    """spec: TAB-7"""

    def point_manifest(description: dict[str, Any]) -> None:
        description["manifests"][0]["path"] = path

    def point_shard(description: dict[str, Any]) -> None:
        description["indexes"][0]["shards"][0]["path"] = path

    for change in (point_manifest, point_shard):
        with pytest.raises(CorruptionError, match="here: object path"):
            decode_version(altered(change), "here")


def test_every_single_byte_matters() -> None:
    """Any one byte inverted: an error of ours, never another one, never silence. spec: TAB-2"""
    for position in range(len(_SAMPLE)):
        damaged = bytearray(_SAMPLE)
        damaged[position] ^= 0xFF
        assert refused(bytes(damaged)), f"byte {position} inverted went unnoticed"


@given(st.data())
@settings(max_examples=150)
def test_any_damage_is_noticed(data: st.DataObject) -> None:
    """Bits flipped, bytes cut out, put in or appended. spec: TAB-2"""
    start = data.draw(st.integers(0, len(_SAMPLE)))
    stop = data.draw(st.integers(start, min(len(_SAMPLE), start + 40)))
    damaged = _SAMPLE[:start] + data.draw(st.binary(max_size=40)) + _SAMPLE[stop:]
    assert damaged == _SAMPLE or refused(damaged)


def test_every_truncation_is_noticed() -> None:
    """spec: TAB-2"""
    for length in range(len(_SAMPLE)):
        assert refused(_SAMPLE[:length]), f"cut to {length} bytes went unnoticed"


def _places(value: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place inside a JSON value."""
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    return [path, *(place for key, child in children for place in _places(child, (*path, key)))]


_ODD = [
    None,
    True,
    -1,
    0,
    1.5,
    2**63,
    2**200,
    "",
    "x",
    "../up",
    [],
    [[]],
    {},
    {"a": {}},
    "\ud800",
    [None],
    ["é"],
]


def test_every_field_with_every_odd_value_is_an_error_of_ours_or_a_version() -> None:
    """Well-formed objects with ill-formed contents, as a broken or hostile writer makes them. spec: TAB-3"""
    description, tail = parts(_SAMPLE)
    for place in _places(description)[1:]:
        for odd in _ODD:
            changed = copy.deepcopy(description)
            at: Any = changed
            for key in place[:-1]:
                at = at[key]
            at[place[-1]] = odd
            try:
                found = decode_version(put_together(changed, tail), "here")
            except LakeError:
                continue
            assert isinstance(found, Version)
            decode_version(encode_version(found), "here")


@pytest.mark.parametrize("field", sorted(parts(_SAMPLE)[0]))
def test_every_field_must_be_there(field: str) -> None:
    """spec: TAB-3"""
    with pytest.raises(CorruptionError, match=field):
        decode_version(altered(lambda description: description.pop(field)), "here")


@pytest.mark.parametrize("text", [b"", b"[]", b"7", b"{", b"\xff\xfe", b"[" * 100_000, b"null"])
def test_a_description_that_is_no_json_object(text: bytes) -> None:
    """spec: TAB-2"""
    with pytest.raises(CorruptionError):
        decode_version(put_together(text), "here")


def test_unpacked_length_is_bounded() -> None:
    """A small object that unpacks to a huge one is refused before memory is taken. spec: TAB-2"""
    packed = _ZSTD.compress(b" " * 1000, asbytes=True)
    bomb = struct.pack("<8sIII", MAGIC, len(packed), (256 << 20) + 1, zlib.crc32(packed)) + packed
    with pytest.raises(CorruptionError):
        decode_version(bomb, "here")


def test_schemas_without_ids_or_with_shared_ids_are_refused() -> None:
    """spec: SCH-2"""
    import base64

    bare = pa.schema([("a", pa.int64())])
    twice = pa.schema([pa.field(name, pa.int64(), metadata={"PARQUET:field_id": "1"}) for name in "ab"])
    nested = pa.schema([pa.field("a", pa.list_(pa.int8()), metadata={"PARQUET:field_id": "1"})])
    for schema, message in ((bare, "no field id"), (twice, "same id"), (nested, "no field id")):
        text = base64.b64encode(schema.serialize().to_pybytes()).decode()
        with pytest.raises(CorruptionError, match=message):
            decode_version(
                altered(lambda description, text=text: description["schemas"].update({"0": text})), "here"
            )


def test_current_schema_must_be_among_the_schemas() -> None:
    """spec: TAB-3"""
    with pytest.raises(CorruptionError, match="schema 5"):
        decode_version(altered(lambda description: description.update(schema_id=5)), "here")


def test_schema_metadata_and_nested_ids_survive() -> None:
    """spec: SCH-1, SCH-2, SCH-3"""
    found = decode_version(_SAMPLE, "here").schema
    assert found.equals(SCHEMA, check_metadata=True)
    item = found.field("tags").type.value_field
    assert item.metadata[b"PARQUET:field_id"] == b"3"
    assert found.field("v").metadata[b"PARQUET:field_id"] == b"4"
