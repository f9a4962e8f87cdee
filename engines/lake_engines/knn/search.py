"""Plans and runs a nearest-neighbour search: index where it helps, flat search for the rest, true distances last.

The result is always the nearest ``min(k, matching rows)`` rows: rows the index does not cover are searched flat,
few matching rows are compared one by one, and if an index yields too few candidates the search is done exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from lake_engines.fragment_reader import ReaderPool
from lake_engines.index import Candidates, SearchStats, Selection
from lake_engines.knn.coverage import Coverage, Runs, ShardMap, expand
from lake_engines.knn.distances import F32, I64, Nearest, exact_distances, nearest_in_block
from lake_engines.knn.matches import Matches
from lake_engines.knn.state import SearchState
from lake_engines.take import take_located
from lake_format.engine import SearchAnswer, SearchRequest
from lake_format.model import IndexEntry, IndexShard
from lake_format.parallel import run_all
from lake_format.schema import DISTANCE, DISTANCE_FIELD, ROW_ID, ROW_ID_FIELD

__all__ = ["search"]

_FLAT_BYTES = 2 << 20
"""Matching rows whose vectors take no more than this are compared one by one on a local disk."""
_FLAT_REQUESTS = 128
"""The same bound where every row may cost a request."""
_STRAYED = 8
"""Probing this many times wider than planned means that a filter and a query have little to do with each other."""
_STRAY_ROWS = 100_000
"""Up to so many matching rows are then compared one by one."""
_RERANK_BYTES = 32 << 20
_SCATTERED, _SHORT_RUN = 16, 64
"""More runs than these, of fewer rows on average, are gathered row by row: each run has a price of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What will be done: the index and shards to ask, and what is searched flat."""

    entry: IndexEntry | None
    coverage: Coverage
    matches: Matches | None
    flat: Runs | I64
    reason: str


def search(state: SearchState, request: SearchRequest, pool: ReaderPool) -> SearchAnswer:
    """The nearest matching rows of each query, nearest first, query after query."""
    entry = _choose_index(state, request)
    metric = request.metric or (entry.metric if entry else "l2")
    plan = _plan(state, request, entry)
    facts: dict[str, Any] = {"metric": metric, "k": request.k, "queries": len(request.queries)}
    found = [Nearest(request.k) for _ in request.queries]
    if plan.entry is not None:
        facts |= _search_shards(state, request, plan, metric, found)
        if _strayed(state, plan, facts["times probed wider"]):
            found = [Nearest(request.k) for _ in request.queries]
            plan = _exact_plan(
                plan.matches, state.coverage(request.column, None), "the filter picks far rows"
            )
    if plan.entry is None:
        facts |= {"strategy": "exact", "reason": plan.reason}
    facts["rows compared exactly"] = _search_flat(state, request, plan.flat, plan.matches, metric, found)
    if plan.matches is not None:
        facts["rows matching the filter"] = plan.matches.count
    return _answer(state, request, found, facts, pool)


def _choose_index(state: SearchState, request: SearchRequest) -> IndexEntry | None:
    """The index of the column whose metric was asked for, or the newest of the column."""
    wanted = state.field_id(request.column)
    entries = [entry for entry in state.snapshot.version.indexes if entry.field_id == wanted]
    if request.metric is not None:
        entries = [entry for entry in entries if entry.metric == request.metric]
    return entries[-1] if entries else None


def _plan(state: SearchState, request: SearchRequest, entry: IndexEntry | None) -> _Plan:
    matches = state.matches(request.where)
    everything = state.coverage(request.column, None)
    if entry is None or request.exact:
        reason = "asked for" if request.exact else "no index of this column and metric"
        return _exact_plan(matches, everything, reason)
    if matches is not None and _few(state, request.column, matches.count):
        return _exact_plan(matches, everything, "few rows match the filter")
    coverage = state.coverage(request.column, entry)
    if sum(shard.live for shard in coverage.shards) == 0:
        return _exact_plan(matches, everything, "the index covers no live row")
    return _Plan(entry=entry, coverage=coverage, matches=matches, flat=coverage.uncovered, reason="")


def _exact_plan(matches: Matches | None, everything: Coverage, reason: str) -> _Plan:
    flat = (
        everything.uncovered if matches is None or matches.count > matches.total // 8 else matches.addresses()
    )
    return _Plan(entry=None, coverage=everything, matches=matches, flat=flat, reason=reason)


def _few(state: SearchState, column: str, rows: int) -> bool:
    if not state.is_local:
        return rows <= _FLAT_REQUESTS
    return rows * state.vectors(column).dimension * 4 <= _FLAT_BYTES


def _strayed(state: SearchState, plan: _Plan, widened: int) -> bool:
    """Whether matching rows lie so far from the query that lists near it say little, and are few enough."""
    few = plan.matches is not None and plan.matches.count <= _STRAY_ROWS
    return few and state.is_local and widened >= _STRAYED


def _search_shards(
    state: SearchState, request: SearchRequest, plan: _Plan, metric: str, found: list[Nearest]
) -> Mapping[str, Any]:
    assert plan.entry is not None
    facts: dict[str, Any] = {
        "strategy": "index",
        "index": plan.entry.name,
        "recall asked for": request.recall,
        "times probed wider": 1,
    }
    asked, sizes = [], []
    for shard, shard_map in zip(plan.entry.shards, plan.coverage.shards, strict=True):
        if shard_map.live == 0:
            continue
        selection = state.selection(shard, shard_map, plan.matches)
        size = shard_map.live if selection is None else selection.count
        if size > 0:
            sizes.append(size)
            asked.append(partial(_search_shard, state, request, shard, shard_map, selection))
    # Lists of all shards are fetched in the same round; where they are mapped, one after another is quicker.
    parts = run_all(asked, together=not state.is_local)
    for candidates, _ in parts:
        facts = _added(facts, candidates.stats)
    if parts:
        addresses = _nearest_candidates(parts, sizes, request.k)
        _rerank(state, request, addresses, metric, found)
        facts["candidates compared exactly"] = int((addresses >= 0).sum())
    else:
        facts["candidates compared exactly"] = 0
    return facts


def _search_shard(
    state: SearchState,
    request: SearchRequest,
    shard: IndexShard,
    shard_map: ShardMap,
    selection: Selection | None,
) -> tuple[Candidates, I64]:
    """What one shard finds, and the addresses of it."""
    reader = state.index(shard)
    candidates = reader.search(request.queries, request.k, recall=request.recall, selection=selection)
    return candidates, shard_map.address_of(candidates.ordinals)


def _nearest_candidates(parts: Sequence[tuple[Candidates, I64]], sizes: Sequence[int], k: int) -> I64:
    """Addresses of the best candidates of all shards (-1: none).

    Approximate distances of different shards compare, as each is near the true one (IDX-8). A shard's number of
    candidates was measured among its own rows. Among more rows, more of them seem as near: about with the square root
    of how many more, on all data that was tried. Candidates of unknown distance stay, as nothing says how far they
    are.

    Parameters
    ----------
    sizes
        How many rows were searched in each shard.
    """
    if len(parts) == 1:
        return parts[0][1]
    addresses = np.concatenate([found for _, found in parts], axis=1)
    distances = np.concatenate([candidates.distances for candidates, _ in parts], axis=1)
    distances = np.where(addresses < 0, np.inf, np.where(np.isnan(distances), -np.inf, distances))
    unknown = int((distances == -np.inf).sum(axis=1).max(initial=0))
    widest, size = max((found.shape[1], size) for (_, found), size in zip(parts, sizes, strict=True))
    width = unknown + max(k, math.ceil(widest * math.sqrt(sum(sizes) / size)))
    if width >= addresses.shape[1]:
        return addresses
    best = np.argpartition(distances, width - 1, axis=1)[:, :width]
    return np.take_along_axis(addresses, best, axis=1)


def _added(facts: Mapping[str, Any], stats: SearchStats) -> dict[str, Any]:
    """The facts with what one shard did: figures add up, rounds go side by side."""
    return {
        **facts,
        "times probed wider": max(facts["times probed wider"], stats.widened),
        "lists probed": facts.get("lists probed", 0) + stats.probes,
        "lists read": facts.get("lists read", 0) + stats.lists_read,
        "index requests": facts.get("index requests", 0) + stats.requests,
        "index bytes read": facts.get("index bytes read", 0) + stats.bytes_read,
        "index rounds": max(facts.get("index rounds", 0), stats.rounds),
    }


def _rerank(
    state: SearchState,
    request: SearchRequest,
    addresses: I64,
    metric: str,
    found: list[Nearest],
) -> None:
    """True distances of the candidates of every query, from the raw vectors; one gather for many queries."""
    column = state.vectors(request.column)
    per_query = max(1, addresses.shape[1])
    step = max(1, _RERANK_BYTES // (4 * column.dimension * per_query))
    for start in range(0, len(addresses), step):
        block = addresses[start : start + step]
        kept = block >= 0
        rows = block[kept]
        if len(rows) == 0:
            continue
        vectors = column.gather(rows)
        ends = np.cumsum(np.count_nonzero(kept, axis=1)).tolist()
        for offset, (begin, end) in enumerate(pairwise([0, *ends])):
            distances = exact_distances(request.queries[start + offset], vectors[begin:end], metric)
            found[start + offset].add(distances, rows[begin:end])


def _search_flat(
    state: SearchState,
    request: SearchRequest,
    flat: Runs | I64,
    matches: Matches | None,
    metric: str,
    found: list[Nearest],
) -> int:
    """Compare rows one by one: given addresses, or runs of addresses under the filter."""
    compared = 0
    for addresses, vectors in _flat_blocks(state, request.column, flat, matches):
        compared += len(addresses)
        results = nearest_in_block(request.queries, vectors, request.k, metric)
        for nearest, (distances, rows) in zip(found, results, strict=True):
            nearest.add(distances, addresses[rows])
    return compared


def _flat_blocks(
    state: SearchState, name: str, flat: Runs | I64, matches: Matches | None
) -> Iterator[tuple[I64, F32]]:
    column = state.vectors(name)
    if isinstance(flat, tuple) and len(flat[0]) > _SCATTERED and flat[1].mean() < _SHORT_RUN:
        flat = expand(*flat)
        flat = flat if matches is None else flat[matches.contains(flat)]
    if isinstance(flat, tuple):
        for addresses, vectors in column.blocks(flat):
            if matches is None:
                yield addresses, vectors
                continue
            kept = matches.contains(addresses)
            if kept.any():
                yield addresses[kept], vectors[kept]
        return
    nulls = column.null_addresses
    wanted = flat if len(nulls) == 0 else np.setdiff1d(flat, nulls, assume_unique=True)
    step = max(1, _RERANK_BYTES // (4 * column.dimension))
    for start in range(0, len(wanted), step):
        block = wanted[start : start + step]
        yield block, column.gather(block)


def _answer(
    state: SearchState,
    request: SearchRequest,
    found: list[Nearest],
    facts: Mapping[str, Any],
    pool: ReaderPool,
) -> SearchAnswer:
    addresses = np.concatenate([nearest.addresses for nearest in found])
    distances = np.concatenate([nearest.distances for nearest in found])
    query = np.repeat(np.arange(len(found)), [len(nearest.addresses) for nearest in found])
    known = {
        DISTANCE: (DISTANCE_FIELD, pa.array(distances)),
        ROW_ID: (ROW_ID_FIELD, pa.array(state.addresses.row_ids(addresses))),
    }
    stored = [name for name in request.select if name not in known]
    if stored:
        owners, positions = state.addresses.split(addresses)
        rows = take_located(state.snapshot, owners, positions, stored, pool)
        known |= {field.name: (field, rows.column(field.name)) for field in rows.schema}
    fields, columns = (
        zip(*(known[name] for name in request.select), strict=True) if request.select else ((), ())
    )
    table = pa.Table.from_arrays(list(columns), schema=pa.schema(list(fields)))
    return SearchAnswer(table=table, query=query, plan=facts)
