"""True distances and exact nearest neighbours over plain arrays. No files, no tables.

Distances are what users see: Euclidean for l2 (not squared), 1 − cosine, negated inner product. A zero vector has
no direction: its cosine distance is NaN, and NaN sorts after every number.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["F32", "I64", "Nearest", "exact_distances", "nearest_in_block"]

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]


def exact_distances(query: F32, vectors: F32, metric: str) -> F32:
    """The distance of one query to each vector.

    Parameters
    ----------
    query
        Shape ``(dimension,)``.
    vectors
        Shape ``(n, dimension)``.

    Returns
    -------
    ndarray
        float32, shape ``(n,)``.
    """
    if metric == "l2":
        difference = vectors - query
        return np.asarray(np.sqrt(np.einsum("ij,ij->i", difference, difference)))
    products = vectors @ query
    if metric == "ip":
        return -products
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors)) * np.float32(np.sqrt(query @ query))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(lengths > 0, np.float32(1) - products / lengths, np.float32(np.nan))


class Nearest:
    """The best k rows seen so far for one query, by distance and then address; NaN last."""

    __slots__ = ("addresses", "distances", "k")

    def __init__(self, k: int) -> None:
        self.k = k
        self.distances: F32 = np.empty(0, np.float32)
        self.addresses: I64 = np.empty(0, np.int64)

    def add(self, distances: F32, addresses: I64) -> None:
        """Take further rows into account."""
        distances = np.concatenate([self.distances, distances])
        addresses = np.concatenate([self.addresses, addresses])
        order = np.lexsort((addresses, distances))[: self.k]  # numpy sorts NaN last
        self.distances, self.addresses = distances[order], addresses[order]


def nearest_in_block(queries: F32, vectors: F32, k: int, metric: str) -> list[tuple[F32, I64]]:
    """The k nearest rows of a block for each query, with true distances.

    A matrix product ranks rows roughly; those whose rough distance cannot be told apart from the k-th are measured
    one by one, so cancellation in ``|x|² − 2x·q + |q|²`` never decides a result.

    Returns
    -------
    list of (ndarray, ndarray)
        Distances and rows of the block, at most ``k`` each, per query; unordered.
    """
    rows = len(vectors)
    if rows <= k or rows * len(queries) <= 4096:
        every = np.arange(rows)
        return [(exact_distances(query, vectors, metric), every) for query in queries]
    rough = _rough_scores(queries, vectors, metric)
    found = []
    for query, scores in zip(queries, rough, strict=True):
        shortlist = _shortlist(scores, k)
        found.append((exact_distances(query, vectors[shortlist], metric), shortlist))
    return found


def _rough_scores(queries: F32, vectors: F32, metric: str) -> F32:
    """Scores that order rows as their distances do, up to rounding; smaller is nearer; shape (queries, rows)."""
    products = queries @ vectors.T
    if metric == "ip":
        return -products
    squares = np.einsum("ij,ij->i", vectors, vectors)
    if metric == "l2":
        products *= np.float32(-2)
        products += squares
        return products
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(-(products / np.sqrt(squares)))


def _shortlist(scores: F32, k: int) -> I64:
    """Rows that may be among the k best: the k best by score and everything within rounding of them."""
    finite = np.where(np.isnan(scores), np.float32(np.inf), scores)
    wanted = min(2 * k + 16, len(finite) - 1)
    part = np.argpartition(finite, wanted)[: wanted + 1]
    worst = np.partition(finite[part], k - 1)[k - 1]
    slack = np.float32(1e-4) * max(np.float32(1), np.abs(worst)) if np.isfinite(worst) else np.float32(0)
    if finite[part].max() > worst + slack:
        return part
    return np.flatnonzero(finite <= worst + slack)
