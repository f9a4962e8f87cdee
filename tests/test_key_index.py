"""The key index: the bytes of its runs, lookups, and rows fetched by key."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from key_samples import PAIRS, pairs, run_pages, small_runs
from row_samples import content, make, rows

import lake_format as lake
from lake_engines.keys.bloom import block_count, build_filter, may_contain
from lake_engines.keys.layout import page_entries
from lake_format.errors import CorruptionError, InvalidInputError
from lake_format.key_index import KeyIndex, Numbering, intervals_of, runs_of, united, without
from lake_format.keys import hash_keys
from lake_format.puffin import decode_footer
from lake_format.row_runs import RowRuns
from lake_format.table import Table


@pytest.fixture
def small() -> Iterator[None]:
    with small_runs():
        yield


def index_of(table: Table) -> KeyIndex:
    index = table.snapshot.version.key_index
    assert index is not None
    return index


# --- the bytes --------------------------------------------------------------------------------------------------


def test_a_run_can_be_read_by_its_description_alone(tmp_path: Path, small: None) -> None:
    """spec: KEY-1, KEY-2, KEY-4, KEY-5, KEY-6, KEY-7. Decoded here with nothing but struct and numpy."""
    table = lake.create(str(tmp_path / "t"), PAIRS, key=["region", "id"])
    table.append(pairs(40)).append(pairs(2, 100))
    index = index_of(table)
    assert index.field_ids == (1, 2)
    assert "key-index" in table.snapshot.version.required_features
    stored, inline = index.runs
    assert stored.rows.runs == ((0, 40),)
    expected = hash_keys([pairs(40).column(name).combine_chunks() for name in ("region", "id")])
    assert inline.run.path == ""
    two = hash_keys([pairs(2, 100).column(name).combine_chunks() for name in ("region", "id")])
    assert inline.run.hashes == two.astype("<u8").tobytes()

    data, run = run_pages(table), stored.run
    names = [blob.type for blob in decode_footer(data, size=len(data), where="run").blobs]
    assert names == ["lake-key-pages-v1", "lake-key-filter-v1", "lake-key-head-v1"]
    head = data[run.head_offset : run.head_offset + run.head_length]
    assert zlib.crc32(head) == run.head_crc
    per_page, blocks, entries, counted, filter_crc = struct.unpack_from("<IIQQI", head)
    assert (per_page, entries, counted) == (16, 40, 40)
    fences = np.frombuffer(head, "<u8", 3, 28)
    crcs = np.frombuffer(head, "<u4", 3, 28 + 24)
    found = {}
    for number in range(3):
        page = data[4 + number * 192 : 4 + (number + 1) * 192]
        assert zlib.crc32(page) == crcs[number]
        hashes, ordinals = np.frombuffer(page, "<u8", 16), np.frombuffer(page, "<u4", 16, 128)
        assert hashes[0] == fences[number]
        found.update(zip(ordinals.tolist(), hashes.tolist(), strict=True))
    assert found.pop(0xFFFFFFFF) == 2**64 - 1
    assert found == dict(enumerate(expected.tolist()))

    bits = data[run.head_offset - run.filter_length : run.head_offset]
    assert len(bits) == 32 * blocks
    assert zlib.crc32(bits) == filter_crc
    words = np.frombuffer(bits, "<u4").reshape(-1, 8)
    salt = [0x47B6137B, 0x44974D91, 0x8824AD5B, 0xA2B7289D, 0x705495C7, 0x2DF1424B, 0x9EFC4947, 0x5C6BFB31]
    for value in expected.tolist():
        block = ((value >> 32) * blocks) >> 32
        for word in range(8):
            bit = ((value & 0xFFFFFFFF) * salt[word] % 2**32) >> 27
            assert int(words[block, word]) >> bit & 1


def test_the_filter_keeps_most_other_keys_out() -> None:
    """spec: KEY-6"""
    random = np.random.default_rng(0)
    own = np.sort(random.integers(0, 2**64, 20_000, np.uint64))
    words = np.zeros((block_count(len(own)), 8), np.uint32)
    build_filter(own, len(words), words)
    assert may_contain(words, own).all()
    assert may_contain(words, random.integers(0, 2**64, 100_000, np.uint64)).mean() < 0.01
    assert words.nbytes * 8 <= 12.1 * len(own)


def test_pages_grow_only_in_runs_of_millions() -> None:
    """spec: KEY-5"""
    assert [page_entries(n) for n in (1, 17, 1_000, 10**6, 8_192 * 1_024, 10**8)] == [
        16, 32, 1_024, 1_024, 1_024, 16_384,
    ]  # fmt: skip


def test_sets_of_rows_agree_with_sets() -> None:
    random = np.random.default_rng(1)
    for _ in range(200):
        one, two = (random.choice(40, random.integers(0, 25), replace=False).astype(np.uint64) for _ in "ab")
        both = united([intervals_of(one), intervals_of(two)])
        assert runs_of(both) == RowRuns.from_ids({*one.tolist(), *two.tolist()})
        rest = without(intervals_of(one), intervals_of(two))
        assert sorted(runs_of(rest)) == sorted({*one.tolist()} - {*two.tolist()})
        if len(one):
            numbering = Numbering(runs_of(intervals_of(one)))
            ordinals = numbering.ordinals(np.sort(one))
            assert ordinals.tolist() == list(range(len(one)))
            assert numbering.row_ids(ordinals).tolist() == sorted(one.tolist())


@pytest.mark.parametrize(
    "change",
    [
        {"fields": []},
        {"runs": [{"rows": [], "entries": 0, "hashes": ""}]},
        {"runs": [{"rows": [[0, 2]], "entries": 2, "hashes": "AAAA"}]},
        {"runs": [{"rows": [[0, 2]], "entries": 2, "path": "../x", "size": 9, "head_offset": 0}]},
        {"runs": [3]},
        {"stale": [[5, 0]]},
    ],
)
def test_a_malformed_key_index_is_refused(change: dict) -> None:
    """spec: KEY-1, KEY-2"""
    with pytest.raises((CorruptionError, InvalidInputError)):
        KeyIndex.from_json({"fields": [1], "runs": [], "stale": [], **change})


@pytest.mark.parametrize("where", ["page", "filter", "head", "cut"])
def test_altered_bytes_are_refused_and_found(tmp_path: Path, small: None, where: str) -> None:
    """spec: KEY-7, UPK-8"""
    table = lake.create(str(tmp_path / "t"), PAIRS, key=["region", "id"]).append(pairs(40))
    run = index_of(table).runs[0].run
    path = tmp_path / "t" / run.path
    data = bytearray(path.read_bytes())
    at = {"page": 10, "filter": run.head_offset - 3, "head": run.head_offset + 30, "cut": 0}[where]
    if where == "cut":
        del data[-5:]
    else:
        data[at] ^= 0x10
    path.write_bytes(data)
    table = lake.open(table.uri)
    if where != "filter":  # which local lookups do without
        with pytest.raises(CorruptionError, match=run.path):
            table.get([("r0", 0), ("r1", 1), ("r2", 2), ("r0", 30)])
    assert [problem.path for problem in table.verify().problems] == [run.path]


def test_verify_finds_a_row_that_the_index_would_miss_and_a_key_that_is_there_twice(
    tmp_path: Path, small: None
) -> None:
    """spec: KEY-3, UPK-8, IDN-13"""
    table = make(tmp_path, *range(6), key="id")
    table.append(rows(7))
    assert table.verify().ok
    index = index_of(table)
    wrong = replace(index, runs=(replace(index.runs[0], rows=RowRuns(((0, 7),))), *index.runs[1:]))
    wrong = KeyIndex.from_json(wrong.to_json())
    table._snapshot.version = replace(table.snapshot.version, key_index=wrong)
    assert "is not what the version says" in table.verify().problems[0].what
    lost = replace(index, runs=(index.runs[0], replace(index.runs[1], rows=RowRuns(((6, 1),)))))
    shifted = lost.runs[1].run.hashes[::-1]
    lost = replace(
        lost, runs=(lost.runs[0], replace(lost.runs[1], run=replace(lost.runs[1].run, hashes=shifted)))
    )
    table._snapshot.version = replace(table.snapshot.version, key_index=lost)
    assert "would not find 1 rows, the one with row id 6" in table.verify().problems[0].what

    plain = make(tmp_path / "plain", 1, 2, 2)
    plain._snapshot.version = replace(plain.snapshot.version, properties={"key": "1"})
    assert "id=2" in plain.verify().problems[0].what


# --- looking up -------------------------------------------------------------------------------------------------


def test_every_key_is_found_through_every_kind_of_run(tmp_path: Path, small: None) -> None:
    """spec: KEY-3, KEY-9"""
    table = lake.create(str(tmp_path / "t"), PAIRS, key=["region", "id"])
    for number in range(30):
        table.append(pairs(1 + number % 5, number * 10))
    index = index_of(table)
    assert 1 < len(index.runs) < 10
    assert {bool(run.run.path) for run in index.runs} == {True, False}
    everything = table.to_arrow().to_pylist()
    keys = [(row["region"], row["id"]) for row in everything]
    assert table.get(keys).to_pylist() == everything
    assert len(table.get([("r0", 1), ("r9", 0), ("r0", 999)])) == 0
    for region, number in keys[::7]:
        with pytest.raises(lake.DuplicateKeyError, match=f"id={number}"):
            table.append(pa.table({"region": [region], "id": [number], "v": [0]}))
    report = table.compact()
    assert report.fragments_added == 1
    assert len(index_of(table).runs) == 1
    assert table.get(keys).to_pylist() == everything
    assert table.verify().ok


def test_equal_hashes_of_different_keys_are_told_apart(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """spec: KEY-3, IDN-14. Every key gets one of three hashes."""

    def few(columns: list[pa.Array]) -> np.ndarray:
        return np.array([len(str(value)) for value in columns[0].to_pylist()], np.uint64) << np.uint64(62)

    for module in ("changes.lookup", "changes.source", "keys.run_writer", "keys.merging"):
        monkeypatch.setattr(f"lake_engines.{module}.hash_keys", few)
    names = [f"{'x' * (i % 3)}{i}" for i in range(60)]
    table = lake.create(str(tmp_path / "t"), pa.schema([("k", pa.string()), ("v", pa.int64())]), key="k")
    for start in range(0, 60, 6):
        part = names[start : start + 6]
        table.append({"k": part, "v": list(range(start, start + 6))})
    found = table.get(names).column("v").to_pylist()
    assert found == list(range(60))
    table.upsert({"k": [*names[::2], "new"], "v": [-1] * 31})
    assert table.count("v = -1") == 31
    table.compact()
    assert table.get("x1")["v"] == 1
    table.drop_key().set_key("k")
    assert table.verify().ok


def test_rows_that_the_index_does_not_know_are_found(tmp_path: Path, small: None) -> None:
    """spec: KEY-1, KEY-3. Rows added by who knows no index, or before there was one."""
    table = make(tmp_path, *range(5), key="id", fragment_rows=2)
    table._commit(Without(None))
    assert table.get(3)["name"] == "name 3"
    table.append(rows(10))
    table._commit(Without(KeyIndex(field_ids=(1,))))
    table.append(rows(11, 12, 13))
    assert content(table, "name") == {i: f"name {i}" for i in (*range(5), 10, 11, 12, 13)}
    for taken in (0, 4, 10, 12):
        with pytest.raises(lake.DuplicateKeyError):
            table.append(rows(taken))
    table._commit(Without(None))
    table.compact()
    assert len(index_of(table).runs) == 1
    assert index_of(table).answered()[0].tolist() == [0]
    assert table.verify().ok


class Without:
    """Puts another key index in place: what a writer leaves that knows none."""

    def __init__(self, index: KeyIndex | None) -> None:
        from lake_format.operation_record import OperationRecord

        self.record = OperationRecord(kind="optimize_index")
        self.summary: dict = {}
        self._index = index

    def apply(self, draft):
        draft.set_key_index(self._index)
        return self.record

    def replan(self, latest):
        raise AssertionError


# --- rows by key ------------------------------------------------------------------------------------------------


def test_get_takes_keys_in_many_shapes(tmp_path: Path) -> None:
    table = make(tmp_path, *range(20), key="id", fragment_rows=7)
    assert table.get(3, columns=["name"]) == {"name": "name 3"}
    assert table.get(99) is None
    found = table.get([19, 3, 99, 3], columns=["id", "_row_id"])
    assert found.to_pylist() == [{"id": i, "_row_id": i} for i in (19, 3, 3)]
    assert found.schema.field("id").type == pa.int64()
    assert table.get(np.array([4, 5]), columns=["id"]).column("id").to_pylist() == [4, 5]
    assert table.get(pa.chunked_array([[6], [7]]), columns=["id"]).column("id").to_pylist() == [6, 7]
    assert table.get([{"id": 8}], columns=["id"]).column("id").to_pylist() == [8]
    assert len(table.get([])) == 0
    assert table.get([], columns=["name"]).schema.names == ["name"]
    assert len(table.get(3)["vec"]) == 8
    table.delete("id = 3")
    assert table.get(3) is None

    both = lake.create(str(tmp_path / "both"), PAIRS, key=["region", "id"]).append(pairs(9))
    assert both.get(("r1", 4)) == {"region": "r1", "id": 4, "v": 40}
    assert both.get({"id": 4, "region": "r1"}, columns=["v"]) == {"v": 40}
    assert both.get([("r1", 4), ("r2", 4), ("r0", 0)], columns=["v"]).column("v").to_pylist() == [40, 0]


@pytest.mark.parametrize(
    ("key", "message"), [("five", "id"), ([1, None], "id"), (None, "id"), ([(1, 2)], "id"), (1.5, "id")]
)
def test_get_refuses_what_cannot_be_a_key(tmp_path: Path, key: object, message: str) -> None:
    table = make(tmp_path, 1, 2, key="id")
    with pytest.raises(InvalidInputError, match=message):
        table.get(key)


def test_get_needs_a_key(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no key"):
        make(tmp_path, 1).get(1)
    both = lake.create(str(tmp_path / "both"), PAIRS, key=["region", "id"])
    with pytest.raises(InvalidInputError, match="region, id"):
        both.get(5)
