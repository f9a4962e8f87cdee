"""Lloyd's k-means over a sample, on Python threads.

Each thread runs its part of the work single-threaded in the kernel: on busy machines that is several times
faster than the kernel's own parallel loops, which wait for each other by spinning. The parts are fixed, so
the result does not depend on the number of threads.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from lake_engines.index.interface import F32, I64
from lake_engines.index.kernel import Nearest, train_codebook

__all__ = ["cluster", "cluster_components"]

_ROUNDS = 6
_PART_ROWS = 4096
_PARTS = 8
_NUDGE = np.float32(1 / 1024)  # of a component, to part the two halves of a cluster that was split


def cluster(sample: F32, count: int, seed: int, pool: ThreadPoolExecutor) -> F32:
    """Find ``count`` centroids of ``sample``, shape ``(n, d)`` with ``n >= count``; shape ``(count, d)``."""
    generator = np.random.default_rng(seed)
    centroids = sample[np.sort(generator.choice(len(sample), count, replace=False))]
    parts = [sample[start : start + _PART_ROWS] for start in range(0, len(sample), _PART_ROWS)]
    for _ in range(_ROUNDS):
        nearest = Nearest(centroids)

        def sums(part: F32, nearest: Nearest = nearest) -> tuple[F32, I64]:
            return _sums(part, nearest.assign(part), count)

        totals = np.zeros(centroids.shape, np.float32)
        sizes = np.zeros(count, np.int64)
        for part_totals, part_sizes in pool.map(sums, parts):
            totals += part_totals
            sizes += part_sizes
        totals /= np.maximum(sizes, 1)[:, None].astype(np.float32)
        centroids = totals
        _fill_empty(centroids, sizes)
    return centroids


def cluster_components(residuals: F32, sub: int, seed: int, pool: ThreadPoolExecutor) -> F32:
    """Train a codebook: 16 codewords for each run of ``sub`` components; shape ``(d / sub, 16, sub)``."""
    groups = np.array_split(np.arange(residuals.shape[1] // sub), _PARTS)

    def train(group: I64) -> F32:
        return train_codebook(
            np.ascontiguousarray(residuals[:, group[0] * sub : (group[-1] + 1) * sub]), sub, seed
        )

    return np.concatenate(list(pool.map(train, [group for group in groups if len(group)])))


def _sums(part: F32, lists: I64, count: int) -> tuple[F32, I64]:
    """Sum up the vectors of each list."""
    order = np.argsort(lists, kind="stable")
    present, starts = np.unique(lists[order], return_index=True)
    totals = np.zeros((count, part.shape[1]), np.float32)
    totals[present] = np.add.reduceat(part[order], starts, axis=0)
    return totals, np.bincount(lists, minlength=count)


def _fill_empty(centroids: F32, sizes: I64) -> None:
    """Give each empty list half of the largest, as faiss does."""
    for empty in np.flatnonzero(sizes == 0).tolist():
        largest = int(np.argmax(sizes))
        if sizes[largest] < 2:
            break
        signs = np.where(np.arange(centroids.shape[1]) % 2 == 0, _NUDGE, -_NUDGE)
        centroids[empty] = centroids[largest] * (1 + signs)
        centroids[largest] *= 1 - signs
        sizes[empty] = sizes[largest] // 2
        sizes[largest] -= sizes[empty]
