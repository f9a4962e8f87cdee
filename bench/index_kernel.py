"""The vector index by itself, without tables: build time and memory, bytes, latency and recall.

Run as ``python -m bench.index_kernel [--rows 1000000] [--metric l2] [--skip-fashion] [--folder DIR]``. The exact last
step over the candidates is timed apart: in a table it runs on mapped pages of the data files.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.data import clustered, fashion_mnist
from bench.harness import in_child, machine
from lake_engines.index import BuiltIndex, IndexReader, Selection, build_index
from lake_format.store.local import LocalStore

TARGETS = (0.9, 0.95, 0.99)
K = 10


class Source:
    """A mapped array as a source of vectors."""

    def __init__(self, path: str) -> None:
        self.vectors = np.load(path, mmap_mode="r")
        self.count, self.dimension = self.vectors.shape

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.vectors[start:stop]

    def gather(self, ordinals: np.ndarray) -> np.ndarray:
        return self.vectors[ordinals]


def build(folder: str, array: str, metric: str) -> BuiltIndex:
    store = LocalStore(folder, sync=False)
    with store.open_writer("index.puffin") as writer:
        return build_index(Source(array), metric=metric, writer=writer)


def closest(vectors: np.ndarray, query: np.ndarray, ordinals: np.ndarray, metric: str) -> np.ndarray:
    """The exact last step: the K nearest of the candidates."""
    rows = vectors[ordinals[ordinals >= 0]]
    if metric == "ip":
        distances = -(rows @ query)
    else:
        difference = rows - query
        distances = np.einsum("ij,ij->i", difference, difference)
    return ordinals[np.argsort(distances)[:K]]


def truth(
    vectors: np.ndarray, queries: np.ndarray, metric: str, mask: np.ndarray | None = None
) -> np.ndarray:
    import faiss

    kind = faiss.METRIC_INNER_PRODUCT if metric == "ip" else faiss.METRIC_L2
    rows = vectors if mask is None else vectors[mask]
    found = faiss.knn(queries, np.ascontiguousarray(rows), K, metric=kind)[1]
    return found if mask is None else np.flatnonzero(mask)[found]


def recall(
    vectors: np.ndarray, queries: np.ndarray, found: np.ndarray, right: np.ndarray, metric: str
) -> float:
    hits = [
        np.isin(closest(vectors, query, row, metric), exact).sum()
        for query, row, exact in zip(queries, found, right, strict=True)
    ]
    return float(np.mean(hits)) / K


def latency(reader: IndexReader, queries: np.ndarray, **options: object) -> float:
    """Median microseconds of one query at a time, warm."""
    times = []
    for query in queries:
        start = time.perf_counter()
        reader.search(query, K, **options)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def measure(name: str, vectors: np.ndarray, queries: np.ndarray, metric: str, folder: Path) -> None:
    if metric == "cosine":  # for the exact step here; the index does it by itself
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    array = folder / "vectors.npy"
    np.save(array, vectors)
    store = LocalStore(str(folder), sync=False)
    store.delete("index.puffin")
    run = in_child(build, str(folder), str(array), metric)
    built = run.value
    print(f"\n## {name}, {metric}: {built.count} x {built.dimension}, {built.parameters}")
    print(
        f"build {run.seconds:.1f} s, anonymous memory at most {run.peak_anonymous / 1e6:.0f} MB more than before, "
        f"{built.size / built.count:.0f} bytes per vector, head {built.head_length / 1e3:.0f} kB"
    )
    start = time.perf_counter()
    reader = IndexReader.open(
        store, "index.puffin", size=built.size, head_length=built.head_length, head_crc=built.head_crc
    )
    print(f"open {(time.perf_counter() - start) * 1e3:.1f} ms")
    right = truth(vectors, queries, metric)
    for target in TARGETS:
        found = reader.search(queries, K, recall=target)
        start = time.perf_counter()
        reader.search(queries, K, recall=target)
        batch = (time.perf_counter() - start) / len(queries) * 1e6
        print(
            f"recall {target}: measured {recall(vectors, queries, found.ordinals, right, metric):.4f}, "
            f"one query {latency(reader, queries, recall=target):.0f} us, in a batch {batch:.0f} us, "
            f"{found.stats.probes} lists, {found.ordinals.shape[1]} candidates"
        )
    for share in (0.5, 0.1, 0.01):
        mask = np.random.default_rng(0).random(len(vectors)) < share
        selection = Selection.from_mask(mask)
        found = reader.search(queries, K, selection=selection)
        some = truth(vectors, queries, metric, mask)
        print(
            f"{share:.0%} selected: measured {recall(vectors, queries, found.ordinals, some, metric):.4f}, "
            f"one query {latency(reader, queries, selection=selection):.0f} us, {found.stats.probes} lists"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=128)
    parser.add_argument("--metric", default="l2", choices=("l2", "cosine", "ip"))
    parser.add_argument("--skip-fashion", action="store_true")
    parser.add_argument("--folder")
    options = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        vectors, queries = clustered(options.rows, options.dimension, queries=500)
        measure("clustered", vectors, queries, options.metric, folder)
        del vectors
        if not options.skip_fashion:
            images, tests = fashion_mnist()
            measure("fashion-mnist", images, tests[:500], options.metric, folder)


if __name__ == "__main__":
    main()
