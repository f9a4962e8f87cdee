"""Building an index: what it accepts and refuses, how little it holds, and that odd data stay findable."""

import io
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from index_samples import ArraySource, clustered, distances, open_index, recall, store_index

from lake_engines.index import IndexReader, Metric, build_index
from lake_engines.index.building import FLAT_LIMIT
from lake_format.errors import InvalidInputError
from lake_format.puffin import decode_footer
from lake_format.store.local import LocalStore


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path), sync=False)


def indexed(store: LocalStore, vectors: np.ndarray, metric: Metric, **options: object) -> IndexReader:
    built = store_index(store, "a.puffin", np.ascontiguousarray(vectors, dtype=np.float32), metric, **options)
    return open_index(store, "a.puffin", built)


def test_a_build_is_repeatable_whatever_the_threads(store: LocalStore) -> None:
    vectors, _ = clustered(5000, 24)
    for number, threads in enumerate((1, 3, 3)):
        store_index(store, f"{number}.puffin", vectors, "l2", threads=threads, seed=5)
    first = store.get("0.puffin")
    assert first == store.get("1.puffin") == store.get("2.puffin")
    store_index(store, "other.puffin", vectors, "l2", seed=6)
    assert first != store.get("other.puffin")


def test_a_build_streams(tmp_path: Path) -> None:
    vectors, _ = clustered(50_000, 64)
    source = ArraySource(vectors)

    class Null(io.RawIOBase):
        def write(self, data: object, /) -> int:  # type: ignore[override]
            return len(memoryview(data))  # type: ignore[arg-type]

    stages: Counter[str] = Counter()
    last: dict[str, tuple[int, int]] = {}

    def progress(stage: str, done: int, total: int) -> None:
        stages[stage] += 1
        last[stage] = (done, total)

    tracemalloc.start()
    build_index(source, metric="l2", writer=Null(), progress=progress, threads=2)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert source.most_at_once <= 16_384
    assert source.passes == 50_000
    # 13 MB of vectors: a 3 MB sample twice, blocks, calibration; no copy of the data, and not its refinement region.
    assert peak < 70e6
    assert list(stages) == ["train", "encode", "calibrate", "write"]
    assert all(done == total for done, total in last.values())
    assert stages["encode"] > 3


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2e18])
@pytest.mark.parametrize("count", [100, 3000])
def test_vectors_without_distance_are_refused_by_name(store: LocalStore, value: float, count: int) -> None:
    vectors, _ = clustered(count, 8)
    vectors[77, 3] = value
    with pytest.raises(InvalidInputError, match="vector of row 77"):
        indexed(store, vectors, "l2", name_row="row {}".format)
    with pytest.raises(LookupError):
        store.size("a.puffin")


def test_wrong_arguments(store: LocalStore) -> None:
    vectors, _ = clustered(2000, 8)
    with pytest.raises(InvalidInputError, match="hamming"):
        indexed(store, vectors, "hamming")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="number of lists"):
        indexed(store, vectors, "l2", lists=0)
    model = indexed(store, vectors, "l2").model
    store.delete("a.puffin")
    with pytest.raises(InvalidInputError, match="does not fit"):
        indexed(store, vectors, "ip", model=model)
    with pytest.raises(InvalidInputError, match="0 components"):
        indexed(store, np.empty((5, 0), np.float32), "l2")


# spec: IDX-2
@pytest.mark.parametrize("count", [0, 1, 5, FLAT_LIMIT - 1])
def test_few_vectors_need_no_codes(store: LocalStore, count: int) -> None:
    vectors, queries = clustered(count, 8)
    reader = indexed(store, vectors, "cosine")
    assert (reader.count, reader.dimension, reader.metric, reader.model) == (count, 8, "cosine", None)
    found = reader.search(queries[:3], 10)
    assert found.ordinals.shape == (3, count)
    assert sorted(found.ordinals[1].tolist()) == list(range(count))
    if count:
        mask = np.arange(count) % 2 == 0
        assert (
            reader.search(queries[0], 1, selection=mask).ordinals[0].tolist() == np.flatnonzero(mask).tolist()
        )


@given(
    dimension=st.integers(1, 40),
    count=st.integers(FLAT_LIMIT, FLAT_LIMIT + 300),
    metric=st.sampled_from(["l2", "cosine", "ip"]),
    kind=st.sampled_from(["normal", "tiny", "huge", "constant", "duplicates", "zeros", "outliers"]),
)
@settings(max_examples=14, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_odd_data_are_all_findable(
    store: LocalStore, dimension: int, count: int, metric: Metric, kind: str
) -> None:
    random = np.random.default_rng(dimension * count)
    vectors = random.normal(size=(count, dimension)).astype(np.float32)
    if kind == "tiny":
        vectors *= np.float32(1e-12)
    elif kind == "huge":
        vectors *= np.float32(1e14)
    elif kind == "constant":
        vectors[:] = vectors[0]
    elif kind == "duplicates":
        vectors = vectors[random.integers(0, 5, count)]
    elif kind == "zeros":
        vectors[random.random(count) < 0.9] = 0
    elif kind == "outliers":
        vectors[::100] *= np.float32(1e9)
    store.delete("a.puffin")
    reader = indexed(store, vectors, metric)
    query = vectors[-1] + vectors[0]
    everything = reader.search(query, count + 1)
    assert sorted(everything.ordinals[0].tolist()) == list(range(count))
    exact = distances(vectors, query, metric)
    found = reader.search(query, 5, recall=1.0).ordinals[0]
    if kind in ("normal", "tiny", "huge", "constant"):
        best = np.sort(exact)[:5]
        near = np.sort(exact[found[found >= 0]])[:5]
        assert np.allclose(near, best, rtol=1e-3, atol=1e-5 * np.abs(exact).max())


# spec: IDX-9
def test_zero_vectors_come_last_under_cosine(store: LocalStore) -> None:
    vectors, queries = clustered(3000, 16)
    zeros = np.arange(0, 3000, 3)
    vectors[zeros] = 0
    reader = indexed(store, vectors, "cosine")
    found = reader.search(queries[:5], 2500)
    assert not np.isin(found.ordinals[:, :2000], zeros).any()
    assert np.isin(found.ordinals[:, 2000:2500], zeros).all()
    assert np.isnan(found.distances[:, 2000:]).all()
    assert np.isfinite(found.distances[:, :2000]).all()
    mask = np.isin(np.arange(3000), zeros)
    only = reader.search(queries[:5], 20, selection=mask)
    assert (np.isin(only.ordinals[:, :20], zeros)).all()
    near = reader.search(queries[:5], 10)
    assert not np.isin(near.ordinals[near.ordinals >= 0], zeros).any()
    for metric in ("l2", "ip"):  # there the zero vector is a vector like any other
        store.delete("a.puffin")
        plain = indexed(store, vectors, metric).search(np.zeros(16, np.float32), 5)
        assert len(plain.ordinals[0]) >= 5


# spec: IDX-14
def test_shards_share_a_model(store: LocalStore) -> None:
    vectors, queries = clustered(12_000, 16)
    built = [store_index(store, "first.puffin", vectors[:8000], "l2")]
    first = open_index(store, "first.puffin", built[0])
    built.append(store_index(store, "second.puffin", vectors[8000:], "l2", model=first.model))
    built.append(store_index(store, "small.puffin", vectors[:10], "l2", model=first.model))
    assert built[0].model_id == built[1].model_id == built[2].model_id
    second, small = open_index(store, "second.puffin", built[1]), open_index(store, "small.puffin", built[2])
    assert second.model_id == first.model_id
    exact = np.stack([distances(vectors, query, "l2") for query in queries])
    assert recall(exact[:, 8000:], second.search(queries, 10), 10) >= 0.9
    assert sorted(small.search(queries[0], 10).ordinals[0].tolist()) == list(range(10))
    # Scores of shards of one model compare: merged by approximate distance, the candidates are those of both.
    parts = [first.search(queries, 10, recall=0.99), second.search(queries, 10, recall=0.99)]
    ordinals = np.concatenate([parts[0].ordinals, parts[1].ordinals + 8000], axis=1)
    order = np.argsort(np.concatenate([part.distances for part in parts], axis=1), axis=1)[:, :60]
    merged = np.take_along_axis(ordinals, order, 1)
    hits = [np.isin(np.argsort(row)[:10], found).mean() for row, found in zip(exact, merged, strict=True)]
    assert np.mean(hits) >= 0.9


def test_what_the_build_reports(store: LocalStore) -> None:
    vectors, _ = clustered(3000, 10)
    built = store_index(store, "a.puffin", vectors, "ip", fields=[7], lists=12)
    data = store.get("a.puffin")
    assert built.size == len(data)
    assert (built.count, built.dimension, built.metric, built.kind) == (3000, 10, "ip", "ivf-pq4")
    assert built.parameters["lists"] == 12
    metadata = decode_footer(data, size=len(data), where="a")
    assert all(blob.fields == (7,) for blob in metadata.blobs)
    model = metadata.find("lake-ivf-pq4-model-v0")
    assert model is not None
    assert model.properties["metric"] == "ip"
    assert built.head_length == len(data) - model.offset
    without = store_index(store, "b.puffin", vectors, "ip", refine=False, lists=12)
    assert without.size < built.size - 3000 * 10
    reader = open_index(store, "b.puffin", without)
    assert reader.search(vectors[:2], 5, refine=True).stats.refined == 0
    for row in built.calibration:
        assert 1 <= row.probes <= 12
        assert row.refine_to <= row.candidates
    assert {row.k for row in built.calibration} == {1, 10, 100}
