"""Manifests: fragments there and back, checked before use, few of them however many commits (spec/tables.md)."""

from __future__ import annotations

import contextlib
import io
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap64
from samples import fragment, uuids

from lake_format.errors import CorruptionError
from lake_format.manifest import (
    MANIFEST_SCHEMA,
    FragmentTable,
    decode_manifest,
    encode_manifest,
    inline_manifest,
)
from lake_format.manifest_set import INLINE_BYTES, MERGE_WIDTH, ManifestSet
from lake_format.model import Fragment, ManifestReference
from lake_format.positions import deleted_positions
from lake_format.row_ids import encode_row_ids
from lake_format.row_locations import RowLocations
from lake_format.store import open_store
from lake_format.store.metered import MeteredStore


def reference_of(body: bytes, fragments: int) -> ManifestReference:
    return ManifestReference(
        path="_lake/manifests/m.arrow",
        size=len(body),
        crc=zlib.crc32(body),
        fragment_count=fragments,
        row_count=0,
        first_fragment_id=0,
        last_fragment_id=fragments,
    )


def read(fragments: list[Fragment]) -> FragmentTable:
    body = encode_manifest(fragments)
    return FragmentTable([decode_manifest(body, reference_of(body, len(fragments)))])


def rewritten(change: Any) -> tuple[bytes, ManifestReference]:
    """A manifest whose columns were changed by hand, under a checksum that fits."""
    table = change(pa.Table.from_pylist([_row()], schema=MANIFEST_SCHEMA))
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue(), reference_of(sink.getvalue(), table.num_rows)


def _row(**changes: Any) -> dict[str, Any]:
    row = pa.ipc.open_file(pa.py_buffer(encode_manifest([fragment(0)]))).read_all().to_pylist()[0]
    return row | changes


def test_round_trip() -> None:
    """spec: MAN-1, MAN-2, MAN-3"""
    fragments = [
        fragment(0),
        fragment(1, first_row_id=2**63 - 10),
        replace(
            fragment(2),
            first_row_id=None,
            row_id_sequence=encode_row_ids(np.arange(10, dtype=np.uint64)[::-1]),
        ),
        fragment(3, deleted_count=2, deletions=BitMap64([1, 5]).serialize()),
        fragment(4, statistics=()),
    ]
    table = read(fragments)
    assert table.fragments() == fragments
    assert table.fragments(np.array([True, False, False, True, False])) == [fragments[0], fragments[3]]
    assert fragments[2].row_ids().tolist() == list(range(9, -1, -1))
    assert deleted_positions(fragments[3]).tolist() == [1, 5]


def test_other_columns_are_ignored_and_other_compression_is_read() -> None:
    """spec: MAN-1"""
    body, reference = rewritten(lambda table: table.append_column("new", pa.array([1])))
    assert FragmentTable([decode_manifest(body, reference)]).fragments() == [fragment(0)]
    for compression in (None, "lz4", "zstd"):
        sink = io.BytesIO()
        table = pa.Table.from_pylist([_row()], schema=MANIFEST_SCHEMA)
        with pa.ipc.new_file(
            sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)
        ) as writer:
            writer.write_table(table)
        body = sink.getvalue()
        assert FragmentTable([decode_manifest(body, reference_of(body, 1))]).fragments() == [fragment(0)]


def test_any_altered_byte_is_noticed() -> None:
    """spec: MAN-4"""
    body = encode_manifest([fragment(number) for number in range(3)])
    reference = reference_of(body, 3)
    for position in range(len(body)):
        with pytest.raises(CorruptionError, match=r"_lake/manifests/m\.arrow"):
            decode_manifest(body[:position] + bytes([body[position] ^ 1]) + body[position + 1 :], reference)
    with pytest.raises(CorruptionError):
        decode_manifest(body[:-1], reference)
    with pytest.raises(CorruptionError, match="3 fragments, not 4"):
        decode_manifest(body, replace(reference, fragment_count=4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop_columns(["groups"]), "no column 'groups'"),
        (lambda table: table.set_column(1, "row_count", pa.array([1], pa.int32())), "no column 'row_count'"),
        (
            lambda table: table.set_column(1, "row_count", pa.array([None], pa.uint64())),
            "NULL in column 'row_count'",
        ),
        (lambda table: table.set_column(6, "groups", pa.nulls(1, table.schema.field("groups").type)), "NULL"),
    ],
)
def test_ill_formed_tables_are_refused(change: Any, message: str) -> None:
    """spec: MAN-1"""
    body, reference = rewritten(change)
    with pytest.raises(CorruptionError, match=message):
        decode_manifest(body, reference)


def _with_group(**changes: Any) -> dict[str, Any]:
    row = _row()
    return {"groups": [row["groups"][0] | changes, *row["groups"][1:]]}


@pytest.mark.parametrize(
    "changes",
    [
        {"row_id_sequence": b"x"},
        {"first_row_id": None},
        {"row_count": 0},
        {"groups": []},
        {"deleted_count": 11},
        _with_group(path="../secret"),
        _with_group(path="/etc/passwd"),
        _with_group(field_ids=[4]),
        _with_group(field_ids=[1, 1]),
    ],
)
def test_impossible_fragments_are_refused(changes: dict[str, Any]) -> None:
    """spec: MAN-2, MAN-3, MAN-4, TAB-7"""
    table = pa.Table.from_pylist([_row(**changes)], schema=MANIFEST_SCHEMA)
    body = encode_manifest(table)
    found = FragmentTable([decode_manifest(body, reference_of(body, 1))])
    with pytest.raises(CorruptionError):
        found.fragment(0)


@given(st.binary(max_size=60), st.data())
@settings(max_examples=100)
def test_damage_under_a_fitting_checksum_is_an_error_of_ours(noise: bytes, data: st.DataObject) -> None:
    """As a hostile writer would: whatever the Arrow library makes of it, nothing but our errors comes out."""
    body = bytearray(encode_manifest([fragment(0), fragment(1)]))
    position = data.draw(st.integers(0, len(body)))
    body[position : position + len(noise)] = noise
    with contextlib.suppress(CorruptionError):
        FragmentTable([decode_manifest(bytes(body), reference_of(bytes(body), 2))]).fragments()


@pytest.mark.parametrize(
    ("count", "bitmap"),
    [
        (1, None),
        (1, BitMap64([10]).serialize()),
        (1, BitMap64([1, 2]).serialize()),
        (2, b""),
        (2, b"\x01" + bytes(30)),
        (1, BitMap64([1]).serialize()[:-1]),
    ],
)
def test_deletions_that_do_not_fit_are_refused(count: int, bitmap: bytes | None) -> None:
    """spec: DEL-2"""
    with pytest.raises(CorruptionError, match="fragment 0"):
        deleted_positions(fragment(0, deleted_count=count, deletions=bitmap))


def test_rows_are_located_through_deletions_and_sequences() -> None:
    """spec: DEL-2, DEL-3, RID-1"""
    moved = encode_row_ids(np.array([3, 40, 41, 7], np.uint64))
    table = read(
        [
            fragment(0, rows=10, first_row_id=0, deleted_count=2, deletions=BitMap64([3, 7]).serialize()),
            fragment(1, rows=5, first_row_id=10),
            replace(fragment(2, rows=4), first_row_id=None, row_id_sequence=moved),
        ]
    )
    asked = np.array([7, 3, 14, 41, 9, 15, 42, 39, 2**63 - 1], np.uint64)
    owners, positions = RowLocations(table).locate(asked)
    assert owners.tolist() == [2, 2, 1, 2, 0, -1, -1, -1, -1]
    assert positions.tolist() == [3, 0, 4, 2, 9, -1, -1, -1, -1]


def test_a_row_id_live_twice_is_refused() -> None:
    """spec: DEL-3"""
    for twice in (fragment(1, rows=10, first_row_id=9), fragment(1, rows=1, first_row_id=4)):
        with pytest.raises(CorruptionError, match="live in two fragments"):
            RowLocations(read([fragment(0, rows=10, first_row_id=0), twice]))


def test_removed_fragments_are_left_out_and_scan_order_is_that_of_ids() -> None:
    """spec: MAN-6"""
    store = open_store("memory://manifest-removed")
    first = replace(inline_manifest([fragment(number) for number in range(4)]), removed=(1, 2))
    second = inline_manifest([fragment(9), fragment(5)])
    table = ManifestSet(store, uuids().__next__).load([first, second])
    assert [one.fragment_id for one in table.fragments()] == [0, 3, 5, 9]


@pytest.fixture(scope="module")
def long_history() -> tuple[MeteredStore, list[tuple[ManifestReference, ...]], list[int]]:
    """A store, the manifests after each of 300 commits of 5 fragments, and the bytes each commit stored."""
    store = MeteredStore(open_store("memory://manifest-history"))
    manifests = ManifestSet(store, uuids().__next__)
    history: list[tuple[ManifestReference, ...]] = [()]
    stored = []
    for number in range(300):
        before = store.usage().bytes_written
        added = [fragment(5 * number + i) for i in range(5)]
        history.append(manifests.settle(manifests.add(history[-1], added), {}))
        stored.append(store.usage().bytes_written - before)
    return store, history, stored


def test_many_commits_leave_few_manifests_and_all_fragments_in_order(long_history: Any) -> None:
    """spec: MAN-5, MAN-6, MAN-7"""
    store, history, stored = long_history
    for references in history:
        assert sum(reference.size for reference in references if reference.path is None) <= INLINE_BYTES
        assert len(references) <= 4 * MERGE_WIDTH
    final = history[-1]
    table = ManifestSet(store, uuids().__next__).load(final)
    assert table.integers("fragment_id").tolist() == list(range(1500))
    assert sum(reference.fragment_count for reference in final) == 1500
    assert sum(reference.row_count for reference in final) == 15_000
    whole = len(encode_manifest([fragment(number) for number in range(1500)]))
    assert (
        sum(stored) < 4 * whole
    )  # proportional to the change: rewriting all of it each time would be 100 times


def test_all_manifests_are_fetched_in_one_round(long_history: Any) -> None:
    """spec: MAN-5"""
    store, history, _ = long_history
    references = max(history, key=lambda one: sum(reference.path is not None for reference in one))
    assert sum(reference.path is not None for reference in references) > 1
    before = store.usage().rounds
    fresh = ManifestSet(store, uuids().__next__)
    fresh.load(references)
    assert store.usage().rounds == before + 1
    fresh.load(references)
    assert store.usage().rounds == before + 1  # decoded manifests are remembered


def test_a_stored_manifest_that_was_damaged_is_named() -> None:
    """spec: MAN-4"""
    store = open_store("memory://manifest-damaged")
    body = encode_manifest([fragment(0)])
    store.create("_lake/manifests/m.arrow", body[:-8] + bytes(8))
    with pytest.raises(CorruptionError, match=r"_lake/manifests/m\.arrow"):
        ManifestSet(store, uuids().__next__).load([reference_of(body, 1)])
