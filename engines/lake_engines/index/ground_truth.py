"""Held-out queries and their exact neighbours, collected while the data streams by anyway.

Queries are vectors of the data: half of them as they are, half moved off the data by part of another vector's
residual, since real queries differ from the data.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np

from lake_engines.index.interface import F32, I64, VectorSource
from lake_engines.index.kernel import Codec, InnerProducts
from lake_engines.index.model import Model, row_norms

__all__ = ["FAR", "NEIGHBOURS_KEPT", "GroundTruth", "HeldOut", "Neighbours", "held_out_queries"]

NEIGHBOURS_KEPT = 112  # per query: more than the largest k calibrated, so that ties at its end are seen
FAR = 1000  # neighbours kept of a few queries: selective filters find theirs among so many
_QUERIES = 384
_FAR_QUERIES = 64
_ROWS_AT_ONCE = 4096
_SHIFT = 0.5  # of a residual


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Queries for calibration; the row that each was made from is no answer to it."""

    queries: F32
    sources: I64
    plain: int  # the first so many are unchanged vectors


def held_out_queries(source: VectorSource, model: Model, seed: int) -> HeldOut:
    """Choose queries; shape ``(n, dimension)``, in the space of the raw vectors."""
    generator = np.random.default_rng(seed + 1)
    wanted = max(2, min(_QUERIES, source.count // 16) // 2 * 2)
    ordinals = np.sort(generator.choice(source.count, min(source.count, wanted + wanted // 2), replace=False))
    raw = source.gather(ordinals)
    norms = row_norms(raw)
    usable = np.isfinite(norms) & (norms > 0 if model.metric == "cosine" else norms < 1e18)
    raw, norms, ordinals = raw[usable], norms[usable], ordinals[usable]
    order = generator.permutation(len(raw))
    raw, norms, ordinals = raw[order], norms[order], ordinals[order]
    prepared = model.prepare_vectors(raw, norms)
    residuals = (prepared - model.centroids[Codec(model).assign(prepared)])[:, : model.dimension]
    half = min(wanted // 2, len(raw) // 2)
    base = raw[half : 2 * half]
    if model.metric == "cosine":
        base = (base / norms[half : 2 * half, None]).astype(np.float32)
    others = np.roll(residuals, 1, axis=0)[half : 2 * half]
    shifted = base + others * np.float32(_SHIFT / model.scale)
    return HeldOut(np.concatenate([raw[:half], shifted]).astype(np.float32), ordinals[: 2 * half], half)


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Exact neighbours of held-out queries, best first.

    ``scores`` and ``ordinals`` have shape ``(queries, NEIGHBOURS_KEPT)``; ``far`` the ordinals of the ``FAR``
    nearest of the queries ``far_queries``. Missing ones have score -inf and ordinal -1.
    """

    scores: F32
    ordinals: I64
    far: I64
    far_queries: slice


class GroundTruth:
    """Collects the neighbours of all queries. Thread-safe."""

    def __init__(self, held_out: HeldOut, model: Model) -> None:
        queries = model.prepare_queries(held_out.queries).extended[:, : model.padded]
        norms = model.metric != "ip"
        self._far_queries = slice(0, None, max(1, len(queries) // _FAR_QUERIES))
        self._near = _Collector(held_out.sources, queries, NEIGHBOURS_KEPT, with_norms=norms)
        self._far = _Collector(
            held_out.sources[self._far_queries], queries[self._far_queries], FAR, with_norms=norms
        )

    def add(self, block: F32, ordinals: I64) -> None:
        """Look at prepared vectors with the given ascending ordinals."""
        self._near.add(block, ordinals)
        self._far.add(block, ordinals)

    def result(self) -> Neighbours:
        """Return what was found in all vectors added."""
        scores, ordinals = self._near.result()
        return Neighbours(scores, ordinals, self._far.result()[1], self._far_queries)


class _Collector:
    """Collects the exact nearest neighbours of the queries as blocks of the data pass by. Thread-safe.

    Scores are ``q·x - |x|²/2`` (l2, cosine) or ``q·x`` (ip). Only scores above what a query's worst kept
    neighbour has are looked at, so that all but the first blocks cost little more than one matrix
    product. The result does not depend on the order of blocks.

    Parameters
    ----------
    sources
        The ordinal that each query was made from, which is no answer to it; shape ``(queries,)``.
    queries
        Prepared queries, shape ``(queries, padded)``.
    kept
        Neighbours to keep of each.
    with_norms
        Whether the metric is l2 or cosine.
    """

    def __init__(self, sources: I64, queries: F32, kept: int, *, with_norms: bool) -> None:
        self._sources = sources
        self._kept = kept
        self._with_norms = with_norms
        self._products = InnerProducts(np.ascontiguousarray(queries))
        self._lock = threading.Lock()
        count = len(queries)
        self._worst = np.full(count, -np.inf, np.float32)
        self._best = (np.full((count, 0), 0, np.float32), np.zeros((count, 0), np.int64))
        self._pending: list[tuple[I64, F32, I64]] = []
        self._pending_size = 0

    def add(self, block: F32, ordinals: I64) -> None:
        """Look at prepared vectors with the given ascending ordinals."""
        if len(self._sources):
            for start in range(0, len(ordinals), _ROWS_AT_ONCE):
                self._add(block[start : start + _ROWS_AT_ONCE], ordinals[start : start + _ROWS_AT_ONCE])

    def _add(self, block: F32, ordinals: I64) -> None:
        scores = self._products.with_rows(block)
        if self._with_norms:
            scores -= 0.5 * np.einsum("ij,ij->i", block, block)[:, None]
        places = np.searchsorted(ordinals, self._sources)
        own = np.flatnonzero(ordinals[np.minimum(places, len(ordinals) - 1)] == self._sources)
        scores[places[own], own] = -np.inf
        worst = self._worst
        if len(block) > self._kept and not np.isfinite(worst).all():
            worst = np.maximum(
                worst,
                np.partition(scores, len(block) - self._kept, axis=0)[len(block) - self._kept],
            )
        places = np.flatnonzero(scores >= worst)  # several times faster than over two axes
        rows, queries = np.divmod(places, scores.shape[1])
        found = (queries, scores.ravel()[places], ordinals[rows])
        with self._lock:
            self._pending.append(found)
            self._pending_size += len(rows)
            if self._pending_size > self._kept * len(self._worst) or self._worst[0] == -np.inf:
                self._merge()

    def result(self) -> tuple[F32, I64]:
        """Return scores and ordinals, shape ``(queries, m)``, best first; missing ones have score -inf."""
        with self._lock:
            self._merge()
        return self._best

    def _merge(self) -> None:
        """Bring pending neighbours into the best; the caller holds the lock."""
        count = len(self._worst)
        kept_scores, kept = self._best
        queries = np.concatenate(
            [np.repeat(np.arange(count), kept.shape[1])] + [part[0] for part in self._pending]
        )
        scores = np.concatenate([kept_scores.ravel()] + [part[1] for part in self._pending])
        ordinals = np.concatenate([kept.ravel()] + [part[2] for part in self._pending])
        self._pending, self._pending_size = [], 0
        order = np.lexsort((ordinals, -scores, queries))
        queries, scores, ordinals = queries[order], scores[order], ordinals[order]
        starts = np.searchsorted(queries, np.arange(count))
        ranks = np.arange(len(queries)) - starts[queries]
        within = ranks < self._kept
        best = (
            np.full((count, self._kept), -np.inf, np.float32),
            np.full((count, self._kept), -1, np.int64),
        )
        best[0][queries[within], ranks[within]] = scores[within]
        best[1][queries[within], ranks[within]] = ordinals[within]
        self._best = best
        self._worst = best[0][:, -1].copy()
