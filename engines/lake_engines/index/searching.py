"""One search over one shard: find lists, scan them, widen where a selection or a large ``k`` needs it, refine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from lake_engines.index.calibration import with_expected_score
from lake_engines.index.interface import F32, F64, I64, Candidates, SearchStats
from lake_engines.index.kernel import Coarse
from lake_engines.index.layout import Head
from lake_engines.index.list_store import ListStore, LoadedLists, Transfer
from lake_engines.index.model import Model, PreparedQueries, all_true
from lake_engines.index.planning import REFINE_ABOVE, Plan
from lake_engines.index.refinement import RefineRegion
from lake_engines.index.selection import Selection

__all__ = ["Search", "Shard"]

Number = TypeVar("Number", np.float32, np.int64)

_QUERIES_AT_ONCE = 256
_WIDEST = 1024  # candidates of a search that widens by itself
_SAMPLE_STRIDE = 8  # of a list's ordinals at most, to estimate how many of them are selected
_SAMPLED_MATCHES = 2  # to expect in a sample; selections so small that it takes more are counted in full
_NEARLY_ALL = 0.97  # of the selection seen: there is no use in looking further
_ENOUGH = 0.5  # of the lists probed should hold what they would of a selection made by chance


@dataclass(frozen=True, slots=True)
class Shard:
    """The parts of an index with codes."""

    model: Model
    head: Head
    coarse: Coarse
    lists: ListStore
    refine: RefineRegion | None


@dataclass(slots=True)
class _Part:
    """Candidates of some queries, while they are put together."""

    ordinals: I64
    distances: F32


class Search:
    """One call of search: what is the same for all its queries."""

    def __init__(self, shard: Shard, plan: Plan, need: int, chosen: Selection | None, native: Any) -> None:
        self._shard = shard
        self._plan = plan
        self._need = need
        self._chosen = chosen
        self._native = native
        self._transfer = Transfer()
        self._probes = 0
        self._refined = 0

    def run(self, queries: F32) -> Candidates:
        """Search all queries, some at a time."""
        if len(queries) <= _QUERIES_AT_ONCE:
            return self._gathered([self._some(queries)])
        starts = range(0, len(queries), _QUERIES_AT_ONCE)
        return self._gathered([self._some(queries[start : start + _QUERIES_AT_ONCE]) for start in starts])

    def _some(self, queries: F32) -> _Part:
        """Search up to a few hundred queries: widen for those that need it until all have enough."""
        model, plan = self._shard.model, self._plan
        prepared = model.prepare_queries(queries)
        width = max(plan.width, self._need)
        scores, ordinals, enough = self._attempt(prepared.extended, plan.probes, width)
        probes, refine_to = plan.probes, plan.refine_to
        while probes < model.list_count and not all_true(enough):
            probes = min(model.list_count, 2 * probes)
            if plan.adapt:
                width = max(width, min(2 * width, _WIDEST))
                scores, ordinals = _widened(scores, width, np.nan), _widened(ordinals, width, -1)
                refine_to = plan.refine_wide if width > REFINE_ABOVE else refine_to
            pending = np.flatnonzero(~enough)
            scores[pending], ordinals[pending], enough[pending] = self._attempt(
                prepared.extended[pending], probes, width
            )
        self._probes = max(self._probes, probes)
        if refine_to:
            scores, ordinals = self._refine(prepared, scores, ordinals, max(refine_to, self._need))
        padded = not all_true(ordinals[:, -1] >= 0)  # -1 stands last
        if padded:
            scores[ordinals < 0] = 0
        distances = model.distances(scores, prepared)
        if padded:
            if (ordinals[:, self._need - 1] < 0).any():
                self._fill(ordinals, distances)
            distances[ordinals < 0] = np.nan
        return _Part(ordinals, distances)

    def _attempt(self, extended: F32, probes: int, width: int) -> tuple[F32, I64, npt.NDArray[np.bool_]]:
        """Scan the ``probes`` nearest lists; also tells which queries have found what they need."""
        model = self._shard.model
        scores, lists = self._shard.coarse.nearest(extended, probes)
        with_expected_score(model, extended, scores)
        return self._scan(extended, scores, lists, width, last=probes == model.list_count)

    def _scan(
        self, extended: F32, scores: F32, lists: I64, width: int, *, last: bool
    ) -> tuple[F32, I64, npt.NDArray[np.bool_]]:
        parts: list[tuple[F32, I64]] = []
        matches: F64 | None = None
        for columns in self._shard.lists.slices(lists):
            some, some_scores = lists, scores
            if columns is not None:
                some = np.ascontiguousarray(lists[:, columns])
                some_scores = np.ascontiguousarray(scores[:, columns])
            with self._shard.lists.loaded(some, self._transfer) as loaded:
                if self._plan.adapt and not last:
                    estimate = self._estimate(loaded, some)
                    matches = estimate if matches is None else matches + estimate
                parts.append(loaded.scanner.scan(extended, some_scores, some, width, self._native))
        best, found = parts[0] if len(parts) == 1 else _merge(parts, width)
        enough = found[:, self._need - 1] >= 0
        if matches is not None:
            enough &= matches >= _ENOUGH * lists.shape[1]
        return best, found, enough

    def _estimate(self, loaded: LoadedLists, lists: I64) -> F64:
        """Estimate per query how many lists hold as many selected vectors as they would by chance.

        A selection that has to do with the vectors may leave the lists around a query empty; more are then probed
        until as many with matches were seen. A part of each list's ordinals is looked at.
        """
        assert self._chosen is not None
        share = self._chosen.count / self._chosen.total
        by_chance = share * self._shard.head.count / self._shard.model.list_count
        stride = int(min(_SAMPLE_STRIDE, max(1.0, by_chance / _SAMPLED_MATCHES)))
        numbers = np.unique(lists)
        samples = [loaded.ordinals(number)[::stride] for number in numbers.tolist()]
        sizes = np.array([len(sample) for sample in samples])
        hits = np.concatenate([[0], np.cumsum(self._chosen.contains(np.concatenate(samples)))])
        ends = np.cumsum(sizes)
        hits = hits[ends] - hits[ends - sizes]
        expected = share * sizes
        filled = np.minimum(1.0, hits / np.maximum(1.0, expected))
        filled /= np.maximum(1e-9, np.minimum(1.0, expected.mean()))
        columns = np.searchsorted(numbers, lists)
        seen = hits[columns].sum(axis=1) * float(stride)
        matches: F64 = filled[columns].sum(axis=1)
        matches[seen >= _NEARLY_ALL * self._chosen.count] = np.inf
        return matches

    def _refine(self, prepared: PreparedQueries, scores: F32, ordinals: I64, keep: int) -> tuple[F32, I64]:
        """Narrow each query's candidates by the int8 records."""
        shard = self._shard
        assert shard.refine is not None
        self._refined = ordinals.shape[1]
        best = np.full((len(scores), keep), np.nan, np.float32)
        kept = np.full((len(scores), keep), -1, np.int64)
        for query in range(len(scores)):
            found = ordinals[query]
            found = found[found >= 0]
            closer = shard.refine.score(found, prepared.extended[query, : shard.model.dimension])
            if len(found) > keep:
                top = np.argpartition(-closer, keep - 1)[:keep]
                found, closer = found[top], closer[top]
            order = np.argsort(-closer)
            best[query, : len(order)], kept[query, : len(order)] = closer[order], found[order]
        return best, kept

    def _fill(self, ordinals: I64, distances: F32) -> None:
        """Fill up queries that lack candidates although every list was scanned.

        The kernel leaves out vectors of the very lowest score, and vectors without direction (zero vectors under
        cosine) are in no list: they come last.
        """
        chosen, head = self._chosen, self._shard.head
        everything = np.arange(head.count) if chosen is None else chosen.first(chosen.count)
        undirected = self._shard.lists.undirected(self._transfer)
        for query in np.flatnonzero(ordinals[:, self._need - 1] < 0).tolist():
            have = int((ordinals[query] >= 0).sum())
            rest = np.setdiff1d(everything, ordinals[query, :have], assume_unique=True)
            rest = np.concatenate([np.setdiff1d(rest, undirected), np.intersect1d(rest, undirected)])
            ordinals[query, have : self._need] = rest[: self._need - have]
            distances[query, have:] = np.nan

    def _gathered(self, parts: list[_Part]) -> Candidates:
        """Put the parts together."""
        transfer = self._transfer
        stats = SearchStats(
            probes=self._probes,
            lists_read=transfer.lists,
            rounds=transfer.rounds,
            requests=transfer.requests,
            bytes_read=transfer.bytes,
            refined=self._refined,
            widened=max(1, self._probes // self._plan.probes),
            complete=self._probes >= self._shard.model.list_count,
        )
        if len(parts) == 1:
            return Candidates(ordinals=parts[0].ordinals, distances=parts[0].distances, stats=stats)
        width = max(part.ordinals.shape[1] for part in parts)
        return Candidates(
            ordinals=np.concatenate([_widened(part.ordinals, width, -1) for part in parts]),
            distances=np.concatenate([_widened(part.distances, width, np.nan) for part in parts]),
            stats=stats,
        )


def _widened(rows: npt.NDArray[Number], width: int, value: float) -> npt.NDArray[Number]:
    """Pad rows at their end with ``value``."""
    missing = width - rows.shape[1]
    return rows if missing <= 0 else np.pad(rows, ((0, 0), (0, missing)), constant_values=value)


def _merge(parts: list[tuple[F32, I64]], width: int) -> tuple[F32, I64]:
    """Keep the best of several scans of the same queries."""
    scores = np.concatenate([part[0] for part in parts], axis=1)
    found = np.concatenate([part[1] for part in parts], axis=1)
    scores[found < 0] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :width]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(found, order, 1)
