"""Upserts of whole rows: written as they were handed in, on a thread of their own, while their keys are looked up.

Where every column is handed in, nothing that the table holds can end up in the files: which rows exist already only
decides which row ids stand at which places. So no row is copied to bring it to others of its fragment, and the files
are encoded and reach the disk while the key index is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from threading import Event
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa

from lake_engines.changes.costs import compare
from lake_engines.changes.merging import Clause
from lake_engines.changes.placing import Placement, touched_at, update_strategy, write_rows
from lake_engines.changes.source import SourceKeys, StagedRows
from lake_engines.changes.values import I64, Target
from lake_engines.write import discard
from lake_format.clustering import clustering_of
from lake_format.engine import Written
from lake_format.errors import CorruptionError
from lake_format.keys import key_columns
from lake_format.model import NewFragment
from lake_format.row_edits import RowMove, RowRequest
from lake_format.schema import is_computed
from lake_format.snapshot import Snapshot

__all__ = ["WholeRows", "are_whole"]

_SHARE = 4
"""Rows that are more than this part of the table may replace whole fragments: they are told apart first."""


def are_whole(
    snapshot: Snapshot,
    source: StagedRows,
    keys: SourceKeys,
    clauses: Sequence[tuple[str, Clause]],
    columns: tuple[str, ...],
) -> bool:
    """Whether rows handed in are written as they are, wherever rows with their keys lie.

    So it is where each brings every column and replaces or becomes one row of a table with a key and no order of its
    own, and moving rows is the cheapest way to give as many of them new values in the largest fragment.

    Parameters
    ----------
    columns
        Those that existing rows get new values of.
    """
    version, schema = snapshot.version, snapshot.schema
    plain = [("matched", "update"), ("not matched", "insert")]
    if [(when, clause.action) for when, clause in clauses] != plain or any(
        clause.condition is not None or clause.values is not None for _, clause in clauses
    ):
        return False
    ordered = version.partitioning or clustering_of(version.properties, schema) is not None
    missing = not set(schema.names) <= set(source.columns) or any(is_computed(field) for field in schema)
    several = not key_columns(version) or len(keys.rows) != len(source)
    if ordered or missing or several or len(source) * _SHARE > version.row_count:
        return False
    wanted = update_strategy(version.properties)
    if wanted != "auto":
        return wanted == "move"
    sizes = snapshot.fragments.integers("row_count")
    largest = snapshot.fragments.fragment(int(sizes.argmax()))
    cost = compare(largest, schema, columns, min(len(source), largest.row_count))
    return not columns or cost.strategy == "move"


class WholeRows:
    """Rows being written in the order they were handed in; files that did not :meth:`land` are removed in the end."""

    def __init__(self, snapshot: Snapshot, source: StagedRows, request: RowRequest) -> None:
        self._store = snapshot.store
        self._stopped = Event()
        self._landed = False
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="lake-rows")
        batches = self._until_stopped(source.batches(), snapshot.schema.names)
        self._writing: Future[Written] = self._threads.submit(
            write_rows, snapshot.store, snapshot, batches, request.new_id, lasting=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._threads.shutdown()
        if not self._landed and self._writing.exception() is None:
            discard(self._store, self._writing.result())

    def _until_stopped(
        self, batches: Iterator[pa.RecordBatch], columns: list[str]
    ) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if self._stopped.is_set():
                raise InterruptedError
            yield batch.select(columns)

    def land(self, targets: Iterable[Target], into: Placement) -> tuple[Written, I64]:
        """Wait for the files, and tell which rows of the table are in them.

        Parameters
        ----------
        targets
            Rows of the table, and the row handed in that each becomes.

        Returns
        -------
        (Written, ndarray)
            The fragments that hold new rows only, with the number of all new rows; and the new ones of the rows
            handed in, in the order in which they get their row ids.
        """
        known = list(targets)
        for target in known:
            into.count("move", fragments=1, rows=len(target.positions))
        written = self._writing.result()
        moves: list[RowMove] = []
        own: list[NewFragment] = []
        fresh: list[I64] = []
        fresh_own: list[I64] = []
        start = 0
        for fragment in written.fragments:
            move, new = _told_apart(known, fragment, start)
            start += fragment.row_count
            if move.rows:
                moves.append(move)
                fresh.append(new)
            else:
                own.append(fragment)
                fresh_own.append(new)
        self._landed = True
        into.moves += moves
        if moves:
            into.take_in("move", written)
        new_rows = np.concatenate([np.empty(0, np.int64), *fresh, *fresh_own])
        size = 0 if moves else written.bytes
        return replace(written, fragments=tuple(own), rows=len(new_rows), bytes=size), new_rows


def _told_apart(targets: Sequence[Target], fragment: NewFragment, start: int) -> tuple[RowMove, I64]:
    """Which rows of the table are in a fragment of the rows handed in from ``start`` on, and those that are new."""
    is_new = np.ones(fragment.row_count, bool)
    rows = []
    places = [np.empty(0, np.int64)]
    for target in targets:
        assert target.origin is not None
        at = target.origin - start
        inside = np.flatnonzero((at >= 0) & (at < fragment.row_count))
        if len(inside):
            rows.append(touched_at(target, inside))
            places.append(at[inside])
            is_new[at[inside]] = False
    new = np.flatnonzero(is_new)
    if len(new) + sum(len(one) for one in places) != fragment.row_count:
        raise CorruptionError("two rows of the table have the same key", fix="run verify() on the table")
    move = RowMove(rows=tuple(rows), fragment=fragment, new_rows=len(new), places=np.concatenate(places))
    return move, new + start
