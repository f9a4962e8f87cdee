"""Learns a model from a sample: centre and scale, centroids, codebook, correction tables.

Reads only the sample. Deterministic for a seed.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from lake_engines.index.clustering import cluster, cluster_components
from lake_engines.index.drift import SAMPLE, mean_error
from lake_engines.index.encoding import RowNamer, check_finite, correction_tables, correction_values
from lake_engines.index.interface import F32, I64, Metric, VectorSource
from lake_engines.index.kernel import Codec, kernel_threads, use_threads
from lake_engines.index.model import Model, padded_dimension, prepare, row_norms, sub_dimension
from lake_format.errors import InvalidInputError

__all__ = ["check_list_count", "default_list_count", "sample_ordinals", "train_index", "train_model"]

_RUN = 8  # neighbouring rows are sampled together: fewer reads, hardly less variety
_PER_LIST = 40
_SAMPLE_BYTES = 96 << 20
_CODEBOOK_ROWS = 12_288
_LARGEST_CENTROID = 60_000.0  # within float16
_COARSE_TABLES = (1, 3, 5, 7)  # with the fine one an even number, so that codes end on a byte


def default_list_count(count: int, dimension: int) -> int:
    """Choose the number of lists: about the square root, fewer where centroids are long and fill the head."""
    factor = 1.25 if dimension <= 256 else 0.8
    return int(max(1, min(factor * count**0.5, count // 200, 65_535)))


def check_list_count(lists: int | None) -> None:
    """InvalidInputError for more lists than an index can have, or none."""
    if lists is not None and not 1 <= lists <= 65_535:
        raise InvalidInputError(f"the number of lists must lie in [1, 65535], not {lists}")


def train_index(
    source: VectorSource,
    metric: Metric,
    *,
    lists: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    name_row: RowNamer = "ordinal {}".format,
) -> tuple[Model, dict[str, int | float]]:
    """Learn a model from a sample, and nothing else; returns it with the figures to be kept with the index.

    Parameters
    ----------
    source, metric, lists, seed, threads, name_row
        As for a build.

    Raises
    ------
    InvalidInputError
        A sampled vector is not finite, or the number of lists is out of range.
    """
    check_list_count(lists)
    wanted = lists or default_list_count(source.count, source.dimension)
    before = use_threads(1)
    try:
        with kernel_threads(threads or os.cpu_count() or 1) as pool:
            model = train_model(source, metric, wanted, seed=seed, name_row=name_row, pool=pool)
        sample = np.linspace(0, source.count - 1, min(SAMPLE, source.count)).astype(np.int64)
        error = mean_error(model, source.gather(sample))
    finally:
        use_threads(before)
    return model, {"trained_rows": source.count, "training_error": error}


def train_model(
    source: VectorSource,
    metric: Metric,
    lists: int,
    *,
    seed: int,
    name_row: RowNamer,
    pool: ThreadPoolExecutor,
) -> Model:
    """Train a model for vectors like those of ``source``.

    Parameters
    ----------
    lists
        Number of centroids; made smaller where the sample has fewer vectors.
    pool
        Threads to work on.

    Raises
    ------
    InvalidInputError
        A sampled vector is not finite.
    """
    sub = sub_dimension(source.dimension)
    padded = padded_dimension(source.dimension, sub)
    prepared, mean, scale = _prepared_sample(source, metric, lists, padded, seed, name_row)
    lists = max(1, min(lists, len(prepared)))
    centroids = cluster(prepared, lists, seed, pool)
    np.clip(centroids, -_LARGEST_CENTROID, _LARGEST_CENTROID, out=centroids)
    centroids = centroids.astype(np.float16).astype(np.float32)
    model = Model(
        metric=metric,
        dimension=source.dimension,
        scale=scale,
        mean=mean,
        centroids=np.ascontiguousarray(centroids[_tour(centroids)]),
        codebook=np.zeros((padded // sub, 16, sub), np.float32),
        corrections=np.zeros((2, 16), np.float32),
    )
    return _with_codebook(model, prepared, seed, pool)


def sample_ordinals(count: int, wanted: int, seed: int) -> I64:
    """Choose about ``wanted`` ordinals out of ``count``, ascending, in short runs."""
    if wanted >= count:
        return np.arange(count)
    generator = np.random.default_rng(seed)
    runs = np.sort(generator.choice(-(-count // _RUN), -(-wanted // _RUN), replace=False))
    ordinals = (runs[:, None] * _RUN + np.arange(_RUN)).ravel()
    return ordinals[ordinals < count]


def _prepared_sample(
    source: VectorSource, metric: Metric, lists: int, padded: int, seed: int, name_row: RowNamer
) -> tuple[F32, F32, float]:
    """Read a sample; returns it prepared, with the mean and the scale found from it."""
    wanted = max(_PER_LIST * lists, _CODEBOOK_ROWS)
    wanted = max(min(wanted, _SAMPLE_BYTES // (4 * padded)), 8 * lists)
    ordinals = sample_ordinals(source.count, wanted, seed)
    raw = source.gather(ordinals)
    norms = row_norms(raw)
    for position in np.flatnonzero(~np.isfinite(norms))[:1].tolist():
        check_finite(norms[position : position + 1], int(ordinals[position]), name_row)
    if metric == "cosine" and (norms == 0).any():
        raw, norms = raw[norms > 0], norms[norms > 0]
        if not len(raw):  # nothing but zero vectors: any model will do
            raw, norms = np.ones((1, source.dimension), np.float32), np.ones(1)
    centre = np.zeros(source.dimension, np.float32)
    prepared = prepare(raw, norms, metric, centre, 1.0, padded)
    del raw
    centre = prepared[:, : source.dimension].mean(axis=0, dtype=np.float64).astype(np.float32)
    prepared[:, : source.dimension] -= centre
    power = float(np.einsum("ij,ij->", prepared, prepared, dtype=np.float64)) / len(prepared)
    scale = float(np.float32(power**-0.5)) if power > 1e-60 else 1.0
    prepared *= np.float32(scale)
    return prepared, centre, scale


def _with_codebook(model: Model, prepared: F32, seed: int, pool: ThreadPoolExecutor) -> Model:
    """Train the codebook on residuals, then size the correction tables by what they must reach."""
    step = max(1, len(prepared) // _CODEBOOK_ROWS)
    rows = np.ascontiguousarray(prepared[::step][:_CODEBOOK_ROWS])
    centroids = model.centroids[Codec(model).assign(rows)]
    residuals = rows - centroids
    if len(residuals) < 16:
        residuals = np.resize(residuals, (16, residuals.shape[1]))
    model = replace(model, codebook=cluster_components(residuals, model.sub, seed, pool))
    residuals = residuals[: len(rows)]
    _, decoded = Codec(model).quantise(residuals)
    values = correction_values(model.metric, rows, centroids, residuals, decoded)
    low, high = (float(value) for value in np.quantile(values, [0.0005, 0.9995]))
    reach = high - low
    queries, factors = _typical_queries(model, rows[:256])
    spans = np.ptp(
        np.einsum("qms,mjs->qmj", queries.reshape(len(queries), -1, model.sub), model.codebook), axis=2
    )
    span = float(np.median(spans.max(axis=1)))
    needed = reach * factors * 240 / 255
    coarse = next((count for count in _COARSE_TABLES if needed / count <= span), _COARSE_TABLES[-1])
    return replace(model, corrections=correction_tables(low, high, coarse + 1))


def _typical_queries(model: Model, rows: F32) -> tuple[F32, float]:
    """Take vectors as queries; returns them and the factor that corrections meet in a scan."""
    if model.metric != "ip":
        return rows, 1.0
    raw = rows.copy()
    raw[:, : model.dimension] += model.mean * np.float32(model.scale)
    raw /= np.maximum(np.linalg.norm(raw, axis=1, keepdims=True), 1e-20)
    return raw, float(np.median(np.abs((raw @ model.centroids.T).max(axis=1))))


def _tour(centroids: F32) -> I64:
    """Order centroids so that near ones are close together: always on to the nearest one left.

    Lists then lie in the file so that the probes of a query are few runs of bytes.
    """
    count = len(centroids)
    squares = np.einsum("ij,ij->i", centroids, centroids)
    left = np.ones(count, np.bool_)
    order = np.empty(count, np.int64)
    current = int(np.argmin(squares))
    for place in range(count):
        order[place] = current
        left[current] = False
        if place + 1 < count:
            distances = squares - 2 * (centroids @ centroids[current])
            distances[~left] = np.inf
            current = int(np.argmin(distances))
    return order
