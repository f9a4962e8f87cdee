"""Measures at build what a wanted recall takes, so that users name a recall and never a knob.

Queries are held-out vectors: half of them as they are, half moved off the data by part of another vector's residual,
since real queries differ from the data. A row counts as reaching its target only if both halves together do so by a
standard error, and the plain half does by itself. Costs are a fixed model, not timings, so builds are deterministic.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from lake_engines.index.interface import F32, F64, I64, CalibrationRow, VectorSource
from lake_engines.index.kernel import Codec, Coarse, ListScanner, exact_neighbours
from lake_engines.index.model import Model, PreparedQueries, row_norms
from lake_engines.index.refinement import encode_records, score

__all__ = ["GroundTruth", "Measurement", "TARGETS", "calibrate", "held_out_queries"]

TARGETS = (0.9, 0.95, 0.99, 0.999)
NEIGHBOURS = (1, 10, 100)
_TRUTH = 112  # neighbours kept per query: more than the largest k, so that ties at its end are seen
_QUERIES = 256
_SHIFT = 0.3  # of a residual
_WIDTH = 1024
_PROBE_STEPS = sorted({round(2 ** (step / 4)) for step in range(64)})
_WIDTH_STEPS = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.5, 8.0, 10.0, 13.0, 16.0, 20.0, 26.0, 32.0, 40.0, 51.2, 100.0)
_REFINE_QUERIES = 48
_NANOSECONDS_PER_BYTE = 0.1  # of scanned codes
_NANOSECONDS_PER_CANDIDATE = 100.0  # kept by the scan and looked up
_NANOSECONDS_PER_COMPONENT = 0.5  # of a candidate compared exactly


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
        base = base / norms[half : 2 * half, None].astype(np.float32)
    others = np.roll(residuals, 1, axis=0)[half : 2 * half]
    shifted = base + others * np.float32(_SHIFT / model.scale)
    return HeldOut(np.concatenate([raw[:half], shifted]).astype(np.float32), ordinals[: 2 * half], half)


class GroundTruth:
    """Collects the exact nearest neighbours of the queries as blocks of the data pass by. Thread-safe."""

    def __init__(self, held_out: HeldOut, prepared: PreparedQueries, model: Model) -> None:
        self._queries = np.ascontiguousarray(prepared.extended[:, : model.padded])
        self._sources = held_out.sources
        self._kind: Literal["l2", "ip"] = "ip" if model.metric == "ip" else "l2"
        self._lock = threading.Lock()
        self._pending: list[tuple[F32, I64]] = []

    def add(self, block: F32, ordinals: I64) -> None:
        """Look at prepared vectors with the given ordinals."""
        if not len(ordinals) or not len(self._queries):
            return
        scores, positions = exact_neighbours(self._queries, block, min(_TRUTH + 1, len(block)), self._kind)
        found = ordinals[positions]
        scores[found == self._sources[:, None]] = -np.inf
        with self._lock:
            self._pending.append((scores, found))
            full = self._pending if len(self._pending) >= 8 else None
            if full:
                self._pending = []
        if full:
            merged = _best(full)
            with self._lock:
                self._pending.append(merged)

    def result(self) -> tuple[F32, I64]:
        """Return scores and ordinals, best first; fewer than all columns if there are fewer vectors."""
        return _best(self._pending) if self._pending else (np.empty((0, 0), np.float32), np.empty((0, 0), np.int64))


def _best(parts: list[tuple[F32, I64]]) -> tuple[F32, I64]:
    scores = np.concatenate([part[0] for part in parts], axis=1)
    ordinals = np.concatenate([part[1] for part in parts], axis=1)
    # By score, then ordinal: the same whatever order blocks arrived in.
    order = np.lexsort((ordinals, -scores), axis=1)[:, :_TRUTH]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(ordinals, order, 1)


@dataclass(frozen=True, slots=True)
class Measurement:
    """Everything a calibration looks at."""

    model: Model
    held_out: HeldOut
    prepared: PreparedQueries
    truth: tuple[F32, I64]
    list_of: npt.NDArray[np.uint16]  # the list of each ordinal
    coarse: Coarse
    scanner: ListScanner  # over all lists
    source: VectorSource
    refine: bool


def calibrate(measurement: Measurement, progress: Callable[[int, int], None]) -> tuple[CalibrationRow, ...]:
    """Measure the rows for every ``k`` and target that the number of vectors allows."""
    neighbours = [k for k in NEIGHBOURS if k == 1 or 10 * k <= len(measurement.list_of)]
    answers = {k: _answers(measurement.truth, k) for k in neighbours}
    scans = _scan_all(measurement, progress)
    shares = _refined_ranks(measurement, scans[max(scans)]) if measurement.refine else None
    rows = []
    for k in neighbours:
        positions = {probes: _positions(found, answers[k], k) for probes, found in scans.items()}
        for target in TARGETS:
            rows.append(_choose(measurement, k, target, positions, answers[k], shares))
    return tuple(rows)


@dataclass(frozen=True, slots=True)
class _Answers:
    """The right answers for one ``k``: per query all ordinals at least as near as the k-th."""

    queries: I64  # those that can be judged
    ordinals: list[I64]


def _answers(truth: tuple[F32, I64], k: int) -> _Answers:
    """Find right answers; queries whose ties may go on beyond what was kept are left out."""
    scores, ordinals = truth
    queries, right = [], []
    for query in range(len(scores)):
        valid = scores[query] > -np.inf
        if int(valid.sum()) < k:
            continue
        bound = scores[query, k - 1]
        near = valid & (scores[query] >= bound - 2e-6 - 2e-6 * abs(bound))
        if near.all() and len(near) == _TRUTH:
            continue
        queries.append(query)
        right.append(ordinals[query, near])
    return _Answers(np.array(queries, np.int64), right)


def _scan_all(measurement: Measurement, progress: Callable[[int, int], None]) -> dict[int, I64]:
    """Scan with more and more probes until more cannot help; returns candidates by number of probes."""
    model, queries = measurement.model, measurement.prepared.extended
    scores, lists = measurement.coarse.nearest(queries, model.list_count)
    queries = with_expected_score(model, queries, scores)
    width = min(_WIDTH, len(measurement.list_of))
    ranks = np.argsort(lists, axis=1)  # of each list in each query's order
    holders = measurement.list_of[measurement.truth[1][:, :100]].astype(np.int64)
    holders = np.minimum(holders, model.list_count - 1)
    reached = np.take_along_axis(ranks, holders, 1) if holders.size else np.zeros((1, 1), np.int64)
    steps = [probes for probes in _PROBE_STEPS if probes < model.list_count] + [model.list_count]
    scans: dict[int, I64] = {}
    for number, probes in enumerate(steps):
        ceiling = float((reached < probes).mean())
        if ceiling < 0.75 and probes < model.list_count:
            continue
        chosen = np.ascontiguousarray(lists[:, :probes])
        _, found = measurement.scanner.scan(
            queries, np.ascontiguousarray(scores[:, :probes]), chosen, width, None
        )
        scans[probes] = _without(found, measurement.held_out.sources)
        progress(number + 1, len(steps))
        if ceiling >= 0.9998:
            break
    return scans


def with_expected_score(model: Model, queries: F32, scores: F32) -> F32:
    """Give ip queries the factor for their corrections: the score to expect of the best vectors."""
    if model.metric == "ip":
        queries[:, model.padded :: model.sub] = scores[:, :1]
    return queries


def _without(found: I64, sources: I64) -> I64:
    """Move each query's own row to the end of its candidates, as -1."""
    own = found == sources[:, None]
    order = np.argsort(own, axis=1, kind="stable")
    found = np.where(own, -1, found)
    return np.take_along_axis(found, order, 1)


def _positions(found: I64, answers: _Answers, k: int) -> I64:
    """Return where the k first right answers stand among the candidates; the width where they do not."""
    width = found.shape[1]
    positions = np.full((len(answers.queries), k), width, np.int64)
    for row, (query, right) in enumerate(zip(answers.queries.tolist(), answers.ordinals, strict=True)):
        hits = np.flatnonzero(np.isin(found[query], right))[:k]
        positions[row, : len(hits)] = hits
    return positions


def _choose(
    measurement: Measurement,
    k: int,
    target: float,
    positions: dict[int, I64],
    answers: _Answers,
    shares: F64 | None,
) -> CalibrationRow:
    """Find the cheapest number of probes and candidates that reaches the target."""
    model = measurement.model
    plain = answers.queries < measurement.held_out.plain
    rows_per_list = len(measurement.list_of) / model.list_count
    widths = sorted({min(round(step * k), _WIDTH, len(measurement.list_of)) for step in _WIDTH_STEPS})
    best: tuple[float, int, int, float] | None = None
    for probes, ranks in positions.items():
        for width in widths:
            recalls = (ranks < width).mean(axis=1)
            if len(recalls) and _reaches(recalls, plain, target):
                cost = probes * rows_per_list * model.code_size * _NANOSECONDS_PER_BYTE
                cost += width * (_NANOSECONDS_PER_CANDIDATE + _NANOSECONDS_PER_COMPONENT * model.dimension)
                if best is None or cost < best[0]:
                    best = (cost, probes, width, float(recalls.mean()))
                break
    if best is None:  # nothing measured suffices, or nothing could be measured: look at everything
        ranks = positions[max(positions)]
        recall = float((ranks < widths[-1]).mean()) if ranks.size else 0.0
        best = (0.0, model.list_count, widths[-1], recall)
    _, probes, width, recall = best
    refine_from = min(int(width * 1.3) + 1, len(measurement.list_of))
    return CalibrationRow(
        k=k,
        target=target,
        probes=probes,
        candidates=width,
        refine_from=refine_from,
        refine_to=min(width, _refine_to(shares, k, target)),
        recall=round(recall, 6),
    )


def _reaches(recalls: F64, plain: npt.NDArray[np.bool_], target: float) -> bool:
    mean = float(recalls.mean())
    error = float(recalls.std()) / len(recalls) ** 0.5
    return mean - error >= target and (not plain.any() or float(recalls[plain].mean()) >= target)


def _refined_ranks(measurement: Measurement, found: I64) -> F64 | None:
    """Measure how far the refinement misplaces vectors.

    For some queries, candidates are ranked by their refinement records and by exact scores. Returns, for each of
    the widths 1 to the number of candidates, nothing less than a table: entry ``[i, j]`` is the share of queries'
    exact top ``i + 1`` found in the refined top ``j + 1``, for the values of ``k`` in use.
    """
    model = measurement.model
    rows = []
    for query in range(min(_REFINE_QUERIES, len(found))):
        candidates = np.sort(found[query][found[query] >= 0])
        if len(candidates) < 2:
            continue
        raw = measurement.source.gather(candidates)
        prepared = model.prepare_vectors(raw, row_norms(raw))
        inner = measurement.prepared.extended[query, : model.padded]
        refined = score(encode_records(prepared, model.dimension, model.metric), inner[: model.dimension])
        if model.metric == "ip":
            exact = prepared @ inner
        else:
            difference = prepared - inner
            exact = -np.einsum("ij,ij->i", difference, difference)
        ranks = np.empty(len(candidates), np.int64)
        ranks[np.argsort(-refined, kind="stable")] = np.arange(len(candidates))
        rows.append(ranks[np.argsort(-exact, kind="stable")])
    if not rows:
        return None
    shortest = min(len(row) for row in rows)
    return np.stack([row[:shortest] for row in rows]).astype(np.float64)


def _refine_to(ranks: F64 | None, k: int, target: float) -> int:
    """How many refined candidates keep all but a small part of the allowed loss."""
    if ranks is None:
        return _WIDTH * 100
    nearest = np.sort(ranks[:, :k].ravel())
    allowed = int(len(nearest) * (1 - target) / 10)
    return max(k, int(nearest[len(nearest) - 1 - allowed]) + 1)
