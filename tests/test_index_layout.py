"""The bytes of an index file: read here without the library's own code, and refused when altered."""

import json
import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from index_samples import clustered, open_index, store_index

from lake_engines.index import BuiltIndex, IndexReader
from lake_engines.index.encoding import correction_codes, correction_tables
from lake_engines.index.packing import pack_codes, packed_length, unpack_codes
from lake_format.errors import CorruptionError, NotFoundError
from lake_format.store.local import LocalStore


@dataclass
class File:
    store: LocalStore
    built: BuiltIndex
    data: bytes
    vectors: np.ndarray
    queries: np.ndarray


@pytest.fixture(scope="module", params=["l2", "cosine", "ip"])
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> File:
    return make_file(request.param, tmp_path_factory.mktemp("layout"))


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> File:
    return make_file("l2", tmp_path_factory.mktemp("layout"))


def make_file(metric: str, folder: Path) -> File:
    vectors, queries = clustered(3000, 10)
    vectors[::500] = 0
    store = LocalStore(str(folder), sync=False)
    built = store_index(store, "a.puffin", vectors, metric)  # type: ignore[arg-type]
    return File(store, built, store.get("a.puffin"), vectors, queries)


class ByTheSpec:
    """A reader made from spec/index.md alone: numpy and struct, one list after the other, no tables of 8 bits."""

    def __init__(self, data: bytes) -> None:
        (payload,) = struct.unpack_from("<i", data, len(data) - 12)
        footer = json.loads(data[len(data) - 12 - payload : len(data) - 12])
        self.blobs = {
            blob["type"]: data[blob["offset"] : blob["offset"] + blob["length"]] for blob in footer["blobs"]
        }
        self.places = {blob["type"]: blob["offset"] for blob in footer["blobs"]}
        self.read_model(self.blobs["lake-ivf-pq4-model-v0"])
        self.read_head(self.blobs["lake-ivf-pq4-head-v0"])

    def read_model(self, blob: bytes) -> None:
        magic, metric, d, k, m, sub, tables, scale = struct.unpack_from("<4s6If", blob)
        assert (magic, zlib.crc32(blob[:-4])) == (b"IVM0", struct.unpack("<I", blob[-4:])[0])
        self.metric, self.d, self.k, self.m, self.sub, self.scale = metric, d, k, m, sub, scale
        at = 32
        self.mean = np.frombuffer(blob, "<f4", d, at).astype(np.float64)
        self.codebook = np.frombuffer(blob, "<f4", m * 16 * sub, at := at + 4 * d).reshape(m, 16, sub)
        self.tables = np.frombuffer(blob, "<f4", tables * 16, at := at + 64 * m * sub).reshape(tables, 16)
        self.centroids = np.zeros((k, m * sub))
        self.centroids[:, :d] = np.frombuffer(blob, "<f2", k * d, at + 64 * tables).reshape(k, d)

    def read_head(self, blob: bytes) -> None:
        magic, code_size, n, k, rows, self.model_id = struct.unpack_from("<4sIQII16s", blob)
        assert (magic, k, code_size) == (b"IVL0", self.k, (self.m + len(self.tables)) // 2)
        assert zlib.crc32(blob[:-4]) == struct.unpack("<I", blob[-4:])[0]
        self.n, self.code_size = n, code_size
        self.lists = [struct.unpack_from("<QII", blob, 40 + 16 * number) for number in range(k + 1)]
        at = 40 + 16 * (k + 1)
        self.calibration = [struct.unpack_from("<IfIIIIf", blob, at + 28 * row) for row in range(rows)]
        assert len(blob) == at + 28 * rows + 4

    def list(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Ordinals, and codes of shape (rows, subquantisers + tables)."""
        offset, count, crc = self.lists[number]
        codes = 0 if number == self.k else -(-count // 32) * 32 * self.code_size
        region = self.blobs["lake-ivf-pq4-scan-v0"][offset : offset + codes + 8 * count]
        assert zlib.crc32(region) == crc
        out = np.zeros((count, 2 * self.code_size), np.uint8)
        if number < self.k:
            order = [0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15]
            for row in range(count):
                block, place = divmod(row, 32)
                lane = order.index(place % 16)
                for s in range(2 * self.code_size):
                    byte = region[block * 32 * self.code_size + (s // 2) * 32 + 16 * (s % 2) + lane]
                    out[row, s] = byte >> 4 if place >= 16 else byte & 15
        return np.frombuffer(region, "<i8", count, codes), out

    def prepared(self, query: np.ndarray) -> np.ndarray:
        q = query.astype(np.float64)
        if self.metric in (1, 2):
            q = q / np.linalg.norm(q)
        if self.metric in (0, 1):
            q = (q - self.mean) * self.scale
        return np.concatenate([q, np.zeros(self.m * self.sub - self.d)])

    def scores(self, query: np.ndarray) -> dict[int, float]:
        q = self.prepared(query)
        coarse = self.centroids @ q
        factor = 1.0
        if self.metric == 2:
            factor = coarse.max()
        else:
            coarse -= 0.5 * (self.centroids**2).sum(axis=1)
        lookup = np.einsum("msj,mj->ms", self.codebook, q.reshape(self.m, self.sub))
        lookup = np.concatenate([lookup, factor * self.tables])
        found = {}
        for number in range(self.k):
            ordinals, codes = self.list(number)
            total = coarse[number] + lookup[np.arange(len(lookup)), codes].sum(axis=1)
            found |= dict(zip(ordinals.tolist(), total.tolist(), strict=True))
        return found

    def distance(self, query: np.ndarray, score: float) -> float:
        if self.metric == 2:
            norm = np.linalg.norm(query)
            return float(-(score / self.scale * norm + query @ self.mean))
        squared = max(0.0, float((self.prepared(query) ** 2).sum()) - 2 * score)
        return float(np.sqrt(squared) / self.scale if self.metric == 0 else squared / (2 * self.scale**2))

    def refined(self, ordinal: int, query: np.ndarray) -> float:
        record = self.blobs["lake-int8-refine-v0"][ordinal * (8 + self.d) :][: 8 + self.d]
        scale, bias = struct.unpack_from("<ff", record)
        return float(
            scale * (np.frombuffer(record, np.int8, self.d, 8) @ self.prepared(query)[: self.d]) + bias
        )


# spec: IDX-1 IDX-3 IDX-4 IDX-5 IDX-6 IDX-7 IDX-8 IDX-9
def test_a_reader_made_from_the_specification_agrees(file: File) -> None:
    theirs = ByTheSpec(file.data)
    ours = open_index(file.store, "a.puffin", file.built)
    assert theirs.n == 3000
    for query in file.queries[:5]:
        scores = theirs.scores(query)
        zeros = set(theirs.list(theirs.k)[0].tolist())
        assert zeros == (set(range(0, 3000, 500)) if theirs.metric == 1 else set())
        assert len(scores) == 3000 - len(zeros)
        found = ours.search(query, 2000, probes=theirs.k, candidates=2000, refine=False)
        expected = np.array([theirs.distance(query, scores[o]) for o in found.ordinals[0].tolist()])
        # The scan adds up tables of 8 bits: its steps are what the two may differ by.
        assert np.abs(found.distances[0] - expected).max() < 0.03 * np.ptp(expected)
        by_score = sorted(scores, key=scores.__getitem__, reverse=True)[:100]
        assert np.isin(by_score, found.ordinals[0, :200]).mean() > 0.98
        refined = ours.search(query, 100, probes=theirs.k, candidates=300, refine=True)
        for ordinal, distance in list(
            zip(refined.ordinals[0].tolist(), refined.distances[0].tolist(), strict=True)
        )[:20]:
            assert theirs.distance(query, theirs.refined(ordinal, query)) == pytest.approx(distance, rel=1e-3)


# spec: IDX-4
def test_lists_are_aligned_and_the_head_comes_last(one: File) -> None:
    theirs = ByTheSpec(one.data)
    start = theirs.places["lake-ivf-pq4-scan-v0"]
    assert all((start + offset) % 64 == 0 for offset, _, _ in theirs.lists)
    assert one.built.head_length == len(one.data) - theirs.places["lake-ivf-pq4-model-v0"]
    assert zlib.crc32(one.data[-one.built.head_length :]) == one.built.head_crc
    assert theirs.model_id.hex() == one.built.model_id


# spec: IDX-10
def test_refinement_checksums(one: File) -> None:
    blob = ByTheSpec(one.data).blobs["lake-int8-refine-v0"]
    records, chunks = 3000 * 18, -(-3000 // 64)
    table = struct.unpack(f"<{chunks}I", blob[records:-4])
    assert [zlib.crc32(blob[i * 64 * 18 : min(records, (i + 1) * 64 * 18)]) for i in range(chunks)] == list(
        table
    )
    assert struct.unpack("<I", blob[-4:])[0] == zlib.crc32(blob[records:-4])


# spec: IDX-5
@given(st.integers(0, 100), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_packing_round_trip(count: int, code_size: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 256, (count, code_size)).astype(np.uint8)
    packed = pack_codes(codes)
    assert len(packed) == packed_length(count, code_size)
    assert np.array_equal(unpack_codes(packed, count, code_size), codes)


# spec: IDX-7
@pytest.mark.parametrize("tables", [2, 4, 6, 8])
def test_corrections_are_sums_of_table_entries(tables: int) -> None:
    layout = correction_tables(-3.0, 5.0, tables)
    values = np.linspace(-3, 5, 999).astype(np.float32)
    packed = correction_codes(values, layout)
    codes = np.stack([packed & 15, packed >> 4], axis=2).reshape(999, tables)
    sums = layout[np.arange(tables), codes].sum(axis=1)
    assert np.abs(sums - values).max() <= layout[-1, 1] / 2 + 1e-5
    assert np.ptp(layout, axis=1).max() <= 8 / (tables - 1)


def search_altered(one: File, place: int, bit: int, folder: Path) -> None:
    """Flip a bit and read the whole file by a search."""
    data = bytearray(one.data)
    data[place] ^= 1 << bit
    (folder / "b.puffin").write_bytes(data)
    reader = open_index(LocalStore(str(folder), sync=False), "b.puffin", one.built)
    reader.search(one.queries[:20], 10, recall=1.0, refine=True, candidates=2300)


# spec: IDX-11
@given(st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_altered_byte_is_noticed_before_use(one: File, tmp_path: Path, data: st.DataObject) -> None:
    theirs = ByTheSpec(one.data)
    scan, model = theirs.places["lake-ivf-pq4-scan-v0"], theirs.places["lake-ivf-pq4-model-v0"]
    padding = np.zeros(len(one.data), np.bool_)
    padding[scan:model] = True
    for offset, count, _ in theirs.lists:
        padding[scan + offset : scan + offset + packed_length(count, theirs.code_size) + 8 * count] = False
    place = data.draw(st.sampled_from(np.flatnonzero(~padding).tolist()))
    with pytest.raises(CorruptionError, match=r"b\.puffin"):
        search_altered(one, place, data.draw(st.integers(0, 7)), tmp_path)


def test_without_the_manifests_checksum_the_parts_check_themselves(one: File, tmp_path: Path) -> None:
    start = len(one.data) - one.built.head_length
    for place in range(start, len(one.data), 131):
        data = bytearray(one.data)
        data[place] ^= 0x10
        (tmp_path / "b.puffin").write_bytes(data)
        store = LocalStore(str(tmp_path), sync=False)
        with suppress(CorruptionError):  # or the change was in what only people read
            reader = IndexReader.open(
                store, "b.puffin", size=len(data), head_length=one.built.head_length, head_crc=None
            )
            assert (reader.search(one.queries[:1], 10).ordinals[0, :10] >= 0).all()


@pytest.mark.parametrize("length", [0, 1, 100, -1, -5000])
def test_truncated_files(one: File, tmp_path: Path, length: int) -> None:
    (tmp_path / "b.puffin").write_bytes(one.data[:length])
    with pytest.raises(CorruptionError, match=r"b\.puffin"):
        open_index(LocalStore(str(tmp_path), sync=False), "b.puffin", one.built)


def test_absent_and_foreign_files(one: File, tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path), sync=False)
    with pytest.raises(NotFoundError):
        open_index(store, "b.puffin", one.built)
    (tmp_path / "b.puffin").write_bytes(b"PFA1PFA1{}" + struct.pack("<iI", 2, 0) + b"PFA1")
    with pytest.raises(CorruptionError, match="blobs"):
        IndexReader.open(store, "b.puffin", size=22, head_length=22)
    empty = b'PFA1PFA1{"blobs":[]}' + struct.pack("<iI", 12, 0) + b"PFA1"
    (tmp_path / "b.puffin").write_bytes(empty)
    with pytest.raises(CorruptionError, match="not an index"):
        IndexReader.open(store, "b.puffin", size=len(empty), head_length=len(empty))
