"""True distances and exact nearest neighbours over plain arrays. No files, no tables.

Distances are what users see: Euclidean for l2 (not squared), 1 − cosine, negated inner product. A zero vector has
no direction: its cosine distance is NaN, and NaN sorts after every number.
"""

from __future__ import annotations

import faiss
import numpy as np
import numpy.typing as npt

__all__ = ["F32", "I64", "Nearest", "exact_distances", "nearest_in_block"]

_SPARE = 16
"""So many rows beyond k are ranked, to see whether the k-th stands clear of rounding."""
_FEW = 4096
"""Up to so many distances are simply computed."""
_ROUNDING = np.float32(1e-5)
"""Relative error a float32 ranking by matrix products may have."""

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
    with np.errstate(all="ignore"):  # infinite components are the caller's data, not our fault
        if metric == "l2":
            difference = vectors - query
            return np.asarray(np.sqrt(np.einsum("ij,ij->i", difference, difference)))
        products = vectors @ query
        if metric == "ip":
            return np.asarray(-products)
        lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors)) * np.float32(np.sqrt(query @ query))
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

    A fast pass ranks rows roughly; those whose rough distance cannot be told apart from the k-th are measured one
    by one, so that rounding never decides a result.

    Returns
    -------
    list of (ndarray, ndarray)
        Distances and rows of the block, at least ``min(k, rows)`` each, per query; unordered.
    """
    rows = len(vectors)
    if rows <= k + _SPARE or rows * len(queries) <= _FEW:
        shortlists: list[I64] = [np.arange(rows)] * len(queries)
    elif metric == "cosine":
        shortlists = [_shortlist(scores, k) for scores in _cosine_scores(queries, vectors)]
    else:
        shortlists = _ranked(queries, vectors, k, metric)
    return [
        (exact_distances(query, vectors[shortlist], metric), shortlist)
        for query, shortlist in zip(queries, shortlists, strict=True)
    ]


def _ranked(queries: F32, vectors: F32, k: int, metric: str) -> list[I64]:
    """Shortlists by faiss: at memory speed for few queries, by matrix products for many."""
    kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    scores, found = faiss.knn(queries, vectors, k + _SPARE, metric=kind)
    rough = np.abs(scores[:, -1] - scores[:, k - 1])
    lengths = np.einsum("ij,ij->i", queries, queries)
    return [
        rows if rows[-1] >= 0 and gap > _ROUNDING * (length + abs(last)) else np.arange(len(vectors))
        for rows, gap, length, last in zip(found, rough, lengths, scores[:, -1], strict=True)
    ]


def _cosine_scores(queries: F32, vectors: F32) -> F32:
    """Negated inner products over the vectors' lengths; shape (queries, rows)."""
    squares = np.einsum("ij,ij->i", vectors, vectors)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(-((queries @ vectors.T) / np.sqrt(squares)))


def _shortlist(scores: F32, k: int) -> I64:
    """Rows that may be among the k best: the k best by score and everything within rounding of them."""
    finite = np.where(np.isnan(scores), np.float32(np.inf), scores)
    part = np.argpartition(finite, k + _SPARE)[: k + _SPARE]
    worst = np.partition(finite[part], k - 1)[k - 1]
    slack = np.float32(1e-4) * max(np.float32(1), np.abs(worst)) if np.isfinite(worst) else np.float32(0)
    if finite[part].max() > worst + slack:
        return part
    return np.flatnonzero(finite <= worst + slack)
