"""Vectors, sources and exact answers for the tests of the vector index."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lake_engines.index import BuiltIndex, Candidates, IndexReader, Metric, build_index
from lake_format.store import Store


@dataclass
class ArraySource:
    """An array as a source; counts what is read at once, so that tests can see memory stay bounded."""

    vectors: np.ndarray
    most_at_once: int = 0
    passes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def count(self) -> int:
        return len(self.vectors)

    @property
    def dimension(self) -> int:
        return int(self.vectors.shape[1])

    def read(self, start: int, stop: int) -> np.ndarray:
        with self.lock:
            self.most_at_once = max(self.most_at_once, stop - start)
            self.passes += stop - start
        return self.vectors[start:stop]

    def gather(self, ordinals: np.ndarray) -> np.ndarray:
        return self.vectors[ordinals]


def clustered(count: int, dimension: int, seed: int = 0, queries: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Vectors around many centres, off the origin and of differing lengths, and queries of the same kind."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(200, dimension)) * 3 / (1 + np.arange(dimension)) ** 0.4
    owners = random.integers(0, 200, count + queries)
    points = centres[owners] + random.normal(size=(count + queries, dimension)) * 0.5 + 2
    points *= np.exp(0.15 * random.normal(size=(count + queries, 1)))
    points = (points * 50).astype(np.float32)
    return points[:count], points[count:]


def store_index(store: Store, path: str, vectors: np.ndarray, metric: Metric, **options: Any) -> BuiltIndex:
    with store.open_writer(path) as writer:
        return build_index(ArraySource(vectors), metric=metric, writer=writer, **options)


def open_index(store: Store, path: str, built: BuiltIndex, **options: Any) -> IndexReader:
    return IndexReader.open(
        store, path, size=built.size, head_length=built.head_length, head_crc=built.head_crc, **options
    )


def distances(vectors: np.ndarray, query: np.ndarray, metric: str) -> np.ndarray:
    """True distances in float64; NaN where cosine has none."""
    x, q = vectors.astype(np.float64), query.astype(np.float64)
    if metric == "l2":
        return np.linalg.norm(x - q, axis=1)
    if metric == "ip":
        return -(x @ q)
    with np.errstate(invalid="ignore"):
        return 1 - (x @ q) / np.linalg.norm(x, axis=1) / np.linalg.norm(q)


def recall(exact: np.ndarray, found: Candidates, k: int, mask: np.ndarray | None = None) -> float:
    """Mean recall at ``k`` after the exact last step over the candidates, which is the caller's in real life.

    ``exact`` holds the true distances of every query to every vector.
    """
    if mask is not None:
        exact = np.where(mask, exact, np.inf)
    bounds = np.partition(exact, k - 1, axis=1)[:, k - 1]
    hits = 0
    for row, ordinals, bound in zip(exact, found.ordinals, bounds, strict=True):
        hits += min(k, int((row[ordinals[ordinals >= 0]] <= bound + 1e-9).sum()))
    return hits / k / len(exact)
