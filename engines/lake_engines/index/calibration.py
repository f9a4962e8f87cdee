"""Measures at build what a wanted recall takes, so that users name a recall and never a knob.

A row counts as reaching its target only if all held-out queries together do so by half a standard error, and
the unchanged ones do so by themselves. Costs are a fixed model, not timings, so builds are deterministic.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lake_engines.index.ground_truth import FAR, NEIGHBOURS_KEPT, HeldOut, Neighbours
from lake_engines.index.interface import F32, I64, CalibrationRow, VectorSource
from lake_engines.index.kernel import Coarse, ListScanner
from lake_engines.index.model import Model, PreparedQueries, row_norms
from lake_engines.index.refinement import encode_records, score

__all__ = ["TARGETS", "Measurement", "calibrate", "with_expected_score"]

TARGETS = (0.9, 0.95, 0.99, 0.999)
_NEIGHBOURS = (1, 10, 100)
_LEAST_FACTOR = np.float32(1e-6)
_WIDTH = 2048  # candidates looked at
_PROBE_STEPS = sorted({round(2 ** (step / 4)) for step in range(65)})
_WIDTH_STEPS = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6.5, 8, 10, 13, 16, 20, 26, 32, 40, 50, 100)  # times k
_REFINE_QUERIES = 48
_REFINE_WIDTH = 1024
_NANOSECONDS_PER_BYTE = 0.1  # of scanned codes
_NANOSECONDS_PER_LIST = 50.0
_NANOSECONDS_PER_CANDIDATE = 100.0  # kept by the scan and looked up
_NANOSECONDS_PER_COMPONENT = 0.5  # of a candidate compared exactly


@dataclass(frozen=True, slots=True)
class Measurement:
    """Everything a calibration looks at.

    ``list_of`` tells the list of each ordinal; ``scanner`` must have all lists in place.
    """

    model: Model
    held_out: HeldOut
    prepared: PreparedQueries
    truth: Neighbours
    list_of: npt.NDArray[np.uint16]
    coarse: Coarse
    scanner: ListScanner
    source: VectorSource
    refine: bool


@dataclass(frozen=True, slots=True)
class _Scan:
    """One wide scan: candidates in order of score, and how many probes it takes to meet each of them.

    A scan with fewer probes finds the same candidates in the same order less those of lists it does not
    probe, so this one tells what all of them would find.
    """

    ordinals: I64
    probes_needed: I64
    most_probes: int
    rank_of_list: I64


def calibrate(measurement: Measurement) -> tuple[CalibrationRow, ...]:
    """Measure the rows for every ``k`` and target that the number of vectors allows."""
    count = len(measurement.list_of)
    scan = _scan(measurement)
    refined = _refined_ranks(measurement, scan.ordinals[:, :_REFINE_WIDTH]) if measurement.refine else None
    rows = []
    for k in _NEIGHBOURS:
        if k > 1 and 10 * k > count:
            continue
        queries, right = _right_answers(measurement.truth, scan.ordinals, k)
        plain = queries < measurement.held_out.plain
        positions = {
            probes: _positions(scan.probes_needed[queries] <= probes, right, k)
            for probes in [*(step for step in _PROBE_STEPS if step < scan.most_probes), scan.most_probes]
        }
        measured = _Measured(positions, plain)
        for target in TARGETS:
            keep = _refine_to(refined, k, target)
            rows.append(_choose(measurement.model, count, k, target, measured, keep))
    return tuple(rows + _far_rows(measurement, scan, rows))


def _far_rows(measurement: Measurement, scan: _Scan, rows: list[CalibrationRow]) -> list[CalibrationRow]:
    """Tell how many probes hold the ``FAR`` nearest, among which a selective filter finds its few.

    The numbers of candidates are scaled up from the largest ``k`` that was measured exactly.
    """
    count, lists = len(measurement.list_of), measurement.model.list_count
    if count < 10 * FAR:
        return []
    known = measurement.truth.far
    holders = np.minimum(measurement.list_of[np.maximum(known, 0)].astype(np.int64), lists - 1)
    ranks = np.take_along_axis(scan.rank_of_list[measurement.truth.far_queries], holders, 1)
    needed = np.sort(ranks[known >= 0] + 1)
    if not len(needed):
        return []
    far = []
    for row in rows:
        if row.k != _NEIGHBOURS[-1]:
            continue
        probes = int(needed[min(len(needed) - 1, int(len(needed) * row.target))])
        scale = FAR // row.k
        far.append(
            CalibrationRow(
                k=FAR,
                target=row.target,
                probes=min(lists, max(probes, row.probes)),
                candidates=min(count, scale * row.candidates),
                refine_from=min(count, scale * row.refine_from),
                refine_to=min(count, scale * row.refine_to),
                recall=row.recall,
            )
        )
    return far


def with_expected_score(model: Model, queries: F32, scores: F32) -> None:
    """Give ip queries the factor for their corrections: the score to expect of the best vectors."""
    if model.metric == "ip":
        best = scores[
            :, :1
        ]  # not 0: tables that are the same everywhere would leave the scan without a scale
        queries[:, model.padded :: model.sub] = np.where(np.abs(best) < _LEAST_FACTOR, _LEAST_FACTOR, best)


def _scan(measurement: Measurement) -> _Scan:
    """Scan as many lists as hold practically all neighbours."""
    model, queries = measurement.model, measurement.prepared.extended
    scores, lists = measurement.coarse.nearest(queries, model.list_count)
    with_expected_score(model, queries, scores)
    rank_of_list = np.argsort(lists, axis=1)
    known = measurement.truth.ordinals[:, :100]
    holders = measurement.list_of[np.maximum(known, 0)].astype(np.int64)
    holders = np.minimum(holders, model.list_count - 1)  # of vectors in no list: any rank will do
    needed = np.sort((np.take_along_axis(rank_of_list, holders, 1) + 1)[known >= 0])
    most = model.list_count if not len(needed) else int(needed[int((len(needed) - 1) * 0.9997)])
    width = min(_WIDTH, len(measurement.list_of))
    _, found = measurement.scanner.scan(
        queries, np.ascontiguousarray(scores[:, :most]), np.ascontiguousarray(lists[:, :most]), width, None
    )
    found = _without(found, measurement.held_out.sources)
    holders = np.minimum(measurement.list_of[np.maximum(found, 0)].astype(np.int64), model.list_count - 1)
    probes = np.take_along_axis(rank_of_list, holders, 1) + 1
    probes[found < 0] = model.list_count + 1
    return _Scan(found, probes, most, rank_of_list)


def _without(found: I64, sources: I64) -> I64:
    """Move each query's own row to the end of its candidates, as -1."""
    found = np.where(found == sources[:, None], -1, found)
    return np.take_along_axis(found, np.argsort(found < 0, axis=1, kind="stable"), 1)


def _right_answers(truth: Neighbours, found: I64, k: int) -> tuple[I64, npt.NDArray[np.bool_]]:
    """Tell which candidates are among the ``k`` nearest, ties included.

    Returns the queries that can be judged (enough neighbours, and no ties beyond those kept), and for
    each of them a mask over its candidates.
    """
    scores, ordinals = truth.scores, truth.ordinals
    queries, masks = [], []
    for query in range(len(scores)):
        if scores.shape[1] < k or scores[query, k - 1] == -np.inf:
            continue
        bound = scores[query, k - 1]
        near = scores[query] >= bound - 2e-6 * (1 + abs(bound))
        if near.all() and len(near) == NEIGHBOURS_KEPT:
            continue
        queries.append(query)
        masks.append(np.isin(found[query], ordinals[query, near]))
    if not queries:
        return np.empty(0, np.int64), np.empty((0, found.shape[1]), np.bool_)
    return np.array(queries, np.int64), np.stack(masks)


def _positions(within: npt.NDArray[np.bool_], right: npt.NDArray[np.bool_], k: int) -> I64:
    """Return where the first ``k`` right answers stand among the candidates ``within`` reach.

    Shape ``(queries, k)``; the number of candidates for those not found.
    """
    places = np.cumsum(within, axis=1) - 1
    hits = right & within
    ranks = np.cumsum(hits, axis=1) - 1
    positions = np.full((len(within), k), within.shape[1], np.int64)
    queries, columns = np.nonzero(hits & (ranks < k))
    positions[queries, ranks[queries, columns]] = places[queries, columns]
    return positions


class _Measured:
    """What a number of probes and candidates finds of the ``k`` nearest: the same for every target."""

    def __init__(self, positions: dict[int, I64], plain: npt.NDArray[np.bool_]) -> None:
        self.positions = positions
        self._plain = plain
        self._known: dict[tuple[int, int], tuple[float, float]] = {}

    def recall(self, probes: int, width: int) -> tuple[float, float]:
        """The recall found, and the one that it proves, for ordinary queries alone too; NaN proves none."""
        found = self._known.get((probes, width))
        if found is None:
            found = self._known[probes, width] = self._found(probes, width)
        return found

    def _found(self, probes: int, width: int) -> tuple[float, float]:
        recalls = (self.positions[probes] < width).mean(axis=1)
        if not len(recalls):
            return np.nan, np.nan
        error = float(recalls.std()) / len(recalls) ** 0.5
        recall = float(recalls.mean())
        ordinary = float(recalls[self._plain].mean()) if self._plain.any() else np.inf
        return recall, min(recall - error / 2, ordinary)


def _choose(
    model: Model,
    count: int,
    k: int,
    target: float,
    measured: _Measured,
    refine_to: int,
) -> CalibrationRow:
    """Find the cheapest number of probes and candidates that reaches the target."""
    widths = sorted({min(round(step * k), _WIDTH, count) for step in _WIDTH_STEPS})
    best: tuple[float, int, int, float] | None = None
    for probes in measured.positions:
        for width in widths:
            recall, proven = measured.recall(probes, width)
            if not proven >= target:
                continue
            cost = probes * (
                _NANOSECONDS_PER_LIST + count / model.list_count * model.code_size * _NANOSECONDS_PER_BYTE
            )
            cost += width * (_NANOSECONDS_PER_CANDIDATE + _NANOSECONDS_PER_COMPONENT * model.dimension)
            if best is None or cost < best[0]:
                best = (cost, probes, width, recall)
            break
    if best is None:
        best = _short_of(measured.positions, widths, target, model.list_count)
    _, probes, width, recall = best
    return CalibrationRow(
        k=k,
        target=target,
        probes=probes,
        candidates=width,
        refine_from=min(int(width * 1.3) + 1, count),
        refine_to=min(width, refine_to),
        recall=round(recall, 6),
    )


def _short_of(
    positions: dict[int, I64], widths: list[int], target: float, lists: int
) -> tuple[float, int, int, float]:
    """Choose where no measured effort proves enough: twice the most, or everything if that was far off."""
    most = max(positions)
    ranks = positions[most]
    reached = [float((ranks < width).mean()) if ranks.size else 0.0 for width in widths]
    missed = 1 - target
    if reached[-1] < target - missed / 2:
        return 0.0, lists, widths[-1], reached[-1]
    enough = next(i for i, recall in enumerate(reached) if recall >= reached[-1] - missed / 4)
    return 0.0, min(lists, 2 * most), widths[enough], reached[enough]


def _refined_ranks(measurement: Measurement, found: I64) -> I64 | None:
    """Measure where the refinement ranks what is nearest.

    Candidates of some queries are ranked by their refinement records and exactly. Row ``i`` of the result
    holds, for query ``i``, the refined rank of its exactly nearest candidate, of the second nearest, and
    so on.
    """
    model = measurement.model
    rows = []
    for query in range(min(_REFINE_QUERIES, len(found))):
        candidates = np.sort(found[query][found[query] >= 0])
        raw = measurement.source.gather(candidates)
        prepared = model.prepare_vectors(raw, row_norms(raw))
        inner = measurement.prepared.extended[query, : model.padded]
        refined = score(encode_records(prepared, model.dimension, model.metric), inner[: model.dimension])
        exact = prepared @ inner
        if model.metric != "ip":
            exact -= 0.5 * np.einsum("ij,ij->i", prepared, prepared)
        ranks = np.empty(len(candidates), np.int64)
        ranks[np.argsort(-refined, kind="stable")] = np.arange(len(candidates))
        rows.append(ranks[np.argsort(-exact, kind="stable")])
    shortest = min((len(row) for row in rows), default=0)
    return np.stack([row[:shortest] for row in rows]) if shortest else None


def _refine_to(ranks: I64 | None, k: int, target: float) -> int:
    """How many refined candidates lose no more than a tenth of what the target allows to be lost."""
    if ranks is None:
        return _WIDTH
    nearest = np.sort(ranks[:, :k].ravel())
    allowed = int(len(nearest) * (1 - target) / 10)
    return max(k, int(nearest[len(nearest) - 1 - allowed]) + 1)
