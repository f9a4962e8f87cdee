"""Searching an index: wanted recall is reached, selections hold, everything is findable, threads do not matter."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from index_samples import clustered, distances, open_index, recall, store_index
from stores.range_server import RangeServer

from lake_engines.index import BuiltIndex, IndexReader, Metric, Selection
from lake_format.errors import InvalidInputError
from lake_format.store import Store, open_store
from lake_format.store.local import LocalStore

COUNT, DIMENSION = 20_000, 32
METRICS = get_args(Metric)


@dataclass
class Sample:
    vectors: np.ndarray
    queries: np.ndarray
    metric: Metric
    store: LocalStore
    built: BuiltIndex
    reader: IndexReader
    exact: np.ndarray  # true distances, queries by vectors


@pytest.fixture(scope="module", params=METRICS)
def sample(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return make_sample(request.param, tmp_path_factory.mktemp("index"))


@pytest.fixture(scope="module")
def l2(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return make_sample("l2", tmp_path_factory.mktemp("index"))


def make_sample(metric: Metric, folder: Path) -> Sample:
    vectors, queries = clustered(COUNT, DIMENSION)
    store = LocalStore(str(folder), sync=False)
    built = store_index(store, "a.puffin", vectors, metric)
    exact = np.stack([distances(vectors, query, metric) for query in queries])
    return Sample(vectors, queries, metric, store, built, open_index(store, "a.puffin", built), exact)


# spec: IDX-13
@pytest.mark.parametrize("target", [0.9, 0.95, 0.99])
def test_the_wanted_recall_is_reached(sample: Sample, target: float) -> None:
    for k in (1, 10, 100):
        found = sample.reader.search(sample.queries, k, recall=target)
        assert recall(sample.exact, found, k) >= target - 0.025
        assert not found.stats.complete
        assert found.ordinals.shape[1] < COUNT / 10


def test_the_refinement_keeps_the_recall_with_fewer_candidates(sample: Sample) -> None:
    plain = sample.reader.search(sample.queries, 10, refine=False)
    refined = sample.reader.search(sample.queries, 10, refine=True)
    assert refined.ordinals.shape[1] < plain.ordinals.shape[1]
    assert refined.stats.refined > 0
    assert recall(sample.exact, refined, 10) >= 0.94


def test_candidates_are_unique_sorted_and_nearly_right(sample: Sample) -> None:
    found = sample.reader.search(sample.queries, 10)
    for row, ordinals, approximate in zip(sample.exact, found.ordinals, found.distances, strict=True):
        assert len(np.unique(ordinals)) == len(ordinals)
        assert (np.diff(approximate) >= 0).all()
        assert np.quantile(np.abs(row[ordinals] - approximate), 0.9) < 0.12 * np.ptp(row)
    refined = sample.reader.search(sample.queries, 10, refine=True)
    for row, ordinals, approximate in zip(sample.exact, refined.ordinals, refined.distances, strict=True):
        assert np.abs(row[ordinals] - approximate).max() < 0.005 * np.ptp(row)


# spec: IDX-7 IDX-8
def test_scanning_everything_is_nearly_exact(sample: Sample) -> None:
    found = sample.reader.search(sample.queries, 10, recall=1.0)
    assert found.stats.complete
    assert recall(sample.exact, found, 10) == 1.0


@pytest.mark.parametrize("share", [0.5, 0.1, 0.02])
def test_selections_hold_and_recall_with_them(sample: Sample, share: float) -> None:
    mask = np.random.default_rng(1).random(COUNT) < share
    found = sample.reader.search(sample.queries, 10, selection=mask)
    assert mask[found.ordinals[found.ordinals >= 0]].all()
    assert recall(sample.exact, found, 10, mask) >= 0.92


def test_selections_away_from_the_query(l2: Sample) -> None:
    """Filters that have to do with the vectors: nothing near the query matches."""
    owners = np.argmin(np.linalg.norm(l2.vectors[:, None, :8] - l2.vectors[None, :40, :8], axis=2), axis=1)
    plain = l2.reader.search(l2.queries, 10)
    recalls, widened = [], []
    for number, query in enumerate(l2.queries[:40]):
        nearest = owners[np.argsort(l2.exact[number])[:3000]]
        away = np.setdiff1d(np.arange(40), nearest)[:4]
        mask = np.isin(owners, away)
        if mask.sum() < 200:
            continue
        found = l2.reader.search(query, 10, selection=mask)
        assert mask[found.ordinals[found.ordinals >= 0]].all()
        assert found.stats.probes > plain.stats.probes
        widened.append(found.stats.widened)
        recalls.append(recall(l2.exact[number : number + 1], found, 10, mask))
    assert len(recalls) > 5
    assert np.mean(recalls) >= 0.85
    assert plain.stats.widened == 1
    assert np.median(widened) >= 2


@given(
    count=st.integers(0, 40),
    k=st.integers(1, 60),
    probes=st.none() | st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_as_many_as_there_are_come_back(
    sample: Sample, count: int, k: int, probes: int | None, seed: int
) -> None:
    random = np.random.default_rng(seed)
    chosen = random.choice(COUNT, count, replace=False)
    selection = Selection.from_ordinals(chosen, COUNT)
    found = sample.reader.search(sample.queries[:3], k, selection=selection, probes=probes)
    for ordinals in found.ordinals:
        kept = ordinals[ordinals >= 0]
        assert len(kept) >= min(k, count)
        assert len(np.unique(kept)) == len(kept)
        assert set(kept) <= set(chosen)


def test_more_than_the_index_holds(sample: Sample) -> None:
    found = sample.reader.search(sample.queries[0], COUNT + 5)
    assert sorted(found.ordinals[0].tolist()) == list(range(COUNT))
    empty = sample.reader.search(sample.queries, 10, selection=np.zeros(COUNT, np.bool_))
    assert empty.ordinals.shape == (100, 0)


def test_batches_equal_single_queries(sample: Sample) -> None:
    together = sample.reader.search(sample.queries, 10)
    for number in range(0, 100, 7):
        alone = sample.reader.search(sample.queries[number], 10)
        same = np.isin(alone.ordinals[0, :10], together.ordinals[number]).mean()
        assert same == 1.0


def test_threads_share_a_reader(sample: Sample) -> None:
    expected = sample.reader.search(sample.queries, 10).ordinals
    fresh = open_index(sample.store, "a.puffin", sample.built)
    barrier = threading.Barrier(8)

    def work(worker: int) -> list[bool]:
        barrier.wait()
        return [
            bool(np.array_equal(fresh.search(sample.queries[i], 10).ordinals[0, :10], expected[i, :10]))
            for i in range(worker, 100, 4)
        ]

    with ThreadPoolExecutor(8) as pool:
        same = [equal for part in pool.map(work, range(8)) for equal in part]
    assert np.mean(same) > 0.98  # vectors of equal 8-bit score may swap


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (np.zeros(31, np.float32), "32 components"),
        (np.zeros((2, 2, 32), np.float32), "32 components"),
        (np.r_[np.zeros(31), np.nan].astype(np.float32), "nan at component 31"),
        (np.r_[np.inf, np.zeros(31)].astype(np.float32), "inf at component 0"),
    ],
)
def test_wrong_queries(l2: Sample, query: np.ndarray, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        l2.reader.search(query, 10)


def test_wrong_options(l2: Sample) -> None:
    query = l2.queries[0]
    for options, message in (
        ({"k": 0}, "k must"),
        ({"k": 1, "recall": 0.0}, "recall"),
        ({"k": 1, "recall": 1.5}, "recall"),
        ({"k": 1, "recall": float("nan")}, "recall"),
        ({"k": 1, "probes": 0}, "probes"),
        ({"k": 1, "candidates": 0}, "candidates"),
        ({"k": 1, "selection": np.ones(3, np.bool_)}, "over 3 vectors"),
        ({"k": 1, "selection": np.ones(COUNT, np.uint8)}, "boolean mask"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            l2.reader.search(query, **options)


@pytest.mark.filterwarnings("error")
def test_queries_at_the_ends_of_float32(sample: Sample) -> None:
    for size in (3e38, 1e20, 1e-30, 1e-45):
        query = sample.queries[0] / np.abs(sample.queries[0]).max() * np.float32(size)
        found = sample.reader.search(query, 10)
        assert (found.ordinals[0, :10] >= 0).all()
    found = sample.reader.search(np.zeros(DIMENSION, np.float32), 10)
    assert (found.ordinals[0, :10] >= 0).all()
    if sample.metric == "cosine":
        assert np.isnan(found.distances).all()


def remote(sample: Sample, **options: int) -> tuple[Store, IndexReader]:
    memory = open_store(f"memory://index-{sample.metric}-{id(sample)}/table")
    try:
        memory.size("a.puffin")
    except LookupError:
        with memory.open_writer("a.puffin") as writer:
            writer.write(sample.store.get("a.puffin"))
    return memory, open_index(memory, "a.puffin", sample.built, **options)


# spec: IDX-12
def test_range_reads_find_the_same(sample: Sample) -> None:
    _, reader = remote(sample)
    mapped = sample.reader.search(sample.queries, 10, refine=False)
    fetched = reader.search(sample.queries, 10)
    assert fetched.stats.rounds == 1
    assert fetched.stats.requests > 0
    same = [np.isin(a, b).mean() for a, b in zip(mapped.ordinals[:, :10], fetched.ordinals, strict=True)]
    assert np.mean(same) > 0.999
    again = reader.search(sample.queries, 10)
    assert (again.stats.rounds, again.stats.bytes_read) == (0, 0)


# spec: IDX-1 IDX-12
def test_rounds_over_a_network(l2: Sample, range_server: Callable[..., RangeServer]) -> None:
    """One request opens an index, one round brings the lists of a search, near lists share a request."""
    server = range_server(backing=l2.store, latency=0.02)
    store = open_store(server.uri(), server.storage_options)
    server.reset()
    reader = open_index(store, "a.puffin", l2.built)
    assert (server.count(), server.rounds()) == (1, 1)
    assert server.bytes_sent() == l2.built.head_length
    server.reset()
    found = reader.search(l2.queries[0], 10)
    assert server.rounds() == found.stats.rounds == 1
    assert server.count() == found.stats.requests <= found.stats.probes
    assert server.bytes_sent() == found.stats.bytes_read < l2.built.size / 4
    server.reset()
    reader.search(l2.queries[0], 10)
    assert server.count() == 0


def test_range_reads_in_little_memory_and_by_many_threads(l2: Sample) -> None:
    _, small = remote(l2, cache_bytes=20_000)
    expected = l2.reader.search(l2.queries, 10, recall=1.0).ordinals
    found = small.search(l2.queries, 10, recall=1.0)
    assert (
        np.mean([np.isin(a, b).mean() for a, b in zip(expected[:, :10], found.ordinals, strict=True)]) > 0.999
    )
    mask = np.random.default_rng(0).random(COUNT) < 0.01

    def work(number: int) -> bool:
        everything = small.search(l2.queries[number], 10, selection=mask)
        kept = everything.ordinals[everything.ordinals >= 0]
        near = small.search(l2.queries[number], 10).ordinals[0]
        return (
            len(kept) >= 10
            and bool(mask[kept].all())
            and bool(np.isin(expected[number, :5], near).mean() > 0.5)
        )

    with ThreadPoolExecutor(6) as pool:
        assert np.mean(list(pool.map(work, range(60)))) > 0.95


def test_selections_are_bitmaps(l2: Sample) -> None:
    mask = np.random.default_rng(3).random(1003) < 0.4
    selection = Selection.from_mask(mask)
    packed = np.packbits(mask, bitorder="little")
    packed[-1] |= 0xF8  # bits after the last one mean nothing
    assert np.array_equal(Selection.from_bitmap(packed, 1003).bitmap, selection.bitmap)
    ordinals = np.flatnonzero(mask)
    assert np.array_equal(Selection.from_ordinals(ordinals, 1003).bitmap, selection.bitmap)
    assert selection.count == len(ordinals)
    assert np.array_equal(selection.first(7), ordinals[:7])
    assert np.array_equal(selection.first(5000), ordinals)
    assert np.array_equal(selection.contains(np.arange(1003)), mask)
    less = selection.without(Selection.from_ordinals(ordinals[:10], 1003))
    assert np.array_equal(less.first(2000), ordinals[10:])
    with pytest.raises(InvalidInputError, match="126 bytes"):
        Selection.from_bitmap(packed[:-1], 1003)
    with pytest.raises(InvalidInputError, match=r"\[0, 1003\)"):
        Selection.from_ordinals(np.array([1003]), 1003)
