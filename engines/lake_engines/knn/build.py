"""Builds a vector index over the live rows of a snapshot, fed to the index builder in row-id order; or trains one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lake_engines.fragment_reader import ReaderPool
from lake_engines.index import FLAT_LIMIT, BuiltIndex, IndexReader, build_index, train_index, write_empty
from lake_engines.index.interface import check_metric
from lake_engines.knn.coverage import Addresses, Runs, cover
from lake_engines.knn.distances import F32, I64
from lake_engines.knn.vectors import VectorColumn
from lake_format.engine import IndexRequest
from lake_format.errors import InvalidInputError
from lake_format.model import IndexEntry, IndexShard
from lake_format.paths import index_path
from lake_format.row_ids import U64, encode_row_ids
from lake_format.schema import field_id
from lake_format.snapshot import Snapshot

__all__ = [
    "SnapshotVectors",
    "build_vector_index",
    "open_shard",
    "rows_with_vectors",
    "stored_shard",
    "train_vector_index",
]


class SnapshotVectors:
    """The vectors of a snapshot's live rows as one sequence: ordinal = rank of the row id among rows covered."""

    def __init__(self, column: VectorColumn, address_runs: Runs) -> None:
        self._column = column
        self._starts, self._lengths = address_runs
        self._ends = np.cumsum(self._lengths)
        self._first = self._ends - self._lengths

    @property
    def count(self) -> int:
        """How many vectors there are."""
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def dimension(self) -> int:
        """Components of each vector."""
        return self._column.dimension

    def read(self, start: int, stop: int) -> F32:
        """Vectors of ordinals ``[start, stop)``."""
        run = bisect_right(self._ends.tolist(), start) if len(self._ends) < 64 else self._run_of(start)
        parts = []
        while start < stop:
            size = min(stop, int(self._ends[run])) - start
            address = int(self._starts[run]) + start - int(self._first[run])
            window = (np.array([address]), np.array([size]))
            parts += [vectors for _, vectors in self._column.blocks(window)]
            start, run = start + size, run + 1
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def gather(self, ordinals: I64) -> F32:
        """Vectors of ascending ordinals."""
        return self._column.gather(self.addresses(ordinals))

    def addresses(self, ordinals: I64) -> I64:
        """The address of each ordinal."""
        run = np.searchsorted(self._ends, ordinals, side="right")
        return self._starts[run] + ordinals - self._first[run]

    def _run_of(self, ordinal: int) -> int:
        return int(np.searchsorted(self._ends, ordinal, side="right"))


def build_vector_index(snapshot: Snapshot, request: IndexRequest, pool: ReaderPool) -> IndexEntry:
    """Build and store an index over all live rows that have a vector.

    Raises
    ------
    InvalidInputError
        No rows, an unknown option, or a vector with a NaN or infinite value, named by its row id.
    """
    options = _checked_options(request)
    addresses = Addresses(snapshot)
    column = VectorColumn(snapshot, addresses, request.column, pool)
    row_ids, runs = rows_with_vectors(addresses, column)
    source = _some(SnapshotVectors(column, runs), request)
    path = index_path(request.new_id())
    with snapshot.store.open_writer(path) as writer:
        built = build_index(
            source,
            metric=check_metric(request.metric),
            writer=writer,
            progress=request.progress,
            name_row=lambda ordinal: f"row id {int(row_ids[ordinal])} of column {request.column!r}",
            lists=options.lists,
            seed=options.seed,
            refine=options.refine,
        )
    parameters = {**built.parameters, "model_id": built.model_id}
    shard = stored_shard(path, built, row_ids)
    return replace(_entry(snapshot, request, built.kind, parameters), shards=(shard,))


def train_vector_index(
    snapshot: Snapshot, request: IndexRequest, pool: ReaderPool
) -> tuple[IndexEntry, IndexShard | None]:
    """An index that has no shard yet, and a shard of no vector that hands its model on; it is learned from a sample.

    So few rows that they are indexed without codes need no model; they must not be parted. Memory: the sample, and
    what grows with the number of runs of rows, not of rows.

    Raises
    ------
    InvalidInputError
        As :func:`build_vector_index`, for the vectors of the sample.
    """
    options = _checked_options(request)
    addresses = Addresses(snapshot)
    column = VectorColumn(snapshot, addresses, request.column, pool)
    source = _some(SnapshotVectors(column, _runs_with_vectors(addresses, column)[1]), request)
    if source.count < FLAT_LIMIT:
        return _entry(snapshot, request, "flat", {"refine": int(options.refine)}), None

    def name_row(ordinal: int) -> str:
        row_ids = addresses.row_ids(source.addresses(np.array([ordinal])))
        return f"row id {int(row_ids[0])} of column {request.column!r}"

    metric = check_metric(request.metric)
    model, notes = train_index(source, metric, lists=options.lists, seed=options.seed, name_row=name_row)
    path = index_path(request.new_id())
    with snapshot.store.open_writer(path) as writer:
        built = write_empty(model, writer, refine=options.refine)
    parameters = {**built.parameters, **notes, "model_id": built.model_id}
    return _entry(snapshot, request, built.kind, parameters), stored_shard(
        path, built, np.empty(0, np.uint64)
    )


def _some(source: SnapshotVectors, request: IndexRequest) -> SnapshotVectors:
    if source.count == 0:
        raise InvalidInputError(
            f"column {request.column!r} has no vectors to index", fix="append rows before building an index"
        )
    return source


def stored_shard(path: str, built: BuiltIndex, row_ids: U64) -> IndexShard:
    """What a version says of an index file over these rows."""
    return IndexShard(
        path=path,
        size=built.size,
        head_length=built.head_length,
        head_crc=built.head_crc,
        row_count=len(row_ids),
        row_ids=encode_row_ids(row_ids) if len(row_ids) else b"",
    )


def open_shard(snapshot: Snapshot, shard: IndexShard) -> IndexReader:
    """A reader of an index file of the snapshot's table."""
    return IndexReader.open(
        snapshot.store,
        shard.path,
        size=shard.size,
        head_length=shard.head_length,
        head_crc=shard.head_crc,
    )


def _entry(snapshot: Snapshot, request: IndexRequest, kind: str, parameters: Mapping[str, Any]) -> IndexEntry:
    return IndexEntry(
        index_id=str(request.new_id()),
        name=request.name,
        kind=kind,
        field_id=field_id(snapshot.schema.field(request.column)),
        metric=request.metric,
        parameters=parameters,
        shards=(),
    )


def rows_with_vectors(addresses: Addresses, column: VectorColumn) -> tuple[U64, Runs]:
    """Ascending row ids of live rows whose vector is not NULL, and their addresses as runs in that order."""
    first, (address, length) = _runs_with_vectors(addresses, column)
    ids = np.repeat(first - (np.cumsum(length) - length), length) + np.arange(int(length.sum()))
    return ids.astype(np.uint64), (address, length)


def _runs_with_vectors(addresses: Addresses, column: VectorColumn) -> tuple[I64, Runs]:
    """The same as runs: the first row id of each, and starts and lengths in addresses."""
    first, length, address = addresses.live_runs()
    if len(column.null_addresses):
        present = cover(addresses, None).without(column.null_addresses).uncovered
        starts, sizes = present
        run = np.searchsorted(address, starts, side="right") - 1 if _ascending(address) else None
        if run is None:
            order = np.argsort(address)
            run = order[np.searchsorted(address[order], starts, side="right") - 1]
        first = first[run] + starts - address[run]
        order = np.argsort(first)
        first, length, address = first[order], sizes[order], starts[order]
    return first, (address, length)


def _ascending(values: I64) -> bool:
    return bool((values[1:] > values[:-1]).all())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    lists: int | None = None
    seed: int = 0
    refine: bool = True


_RULES: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "lists": (lambda value: _is_whole(value, 1), "a whole number from 1 up"),
    "seed": (lambda value: _is_whole(value, 0), "a whole number from 0 up"),
    "refine": (lambda value: isinstance(value, bool), "True or False"),
}


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _checked_options(request: IndexRequest) -> _Options:
    for name, value in request.options.items():
        if name not in _RULES:
            raise InvalidInputError(f"unknown index option {name!r}", fix=f"options are {', '.join(_RULES)}")
        check, rule = _RULES[name]
        if not check(value):
            raise InvalidInputError(f"index option {name!r} is {value!r}", fix=f"it must be {rule}")
    return _Options(**request.options)  # type: ignore[arg-type]  # checked just above
