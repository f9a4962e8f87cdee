"""What an attached table shows to DuckDB: the table itself, its neighbours, and two helpers of the neighbours.

A relation tells its schema when a statement is bound, says which predicates it answers exactly, and opens a
stream when the statement runs. How it gets into DuckDB is the business of `plugged` and `public`. This module
must not import duckdb.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

import numpy as np
import pyarrow as pa

from lake_connectors.adapter.requests import ReadRequest, mentions
from lake_connectors.duckdb.gate import Passage
from lake_connectors.duckdb.showing import GATE, KNN, RANK, TableFollower
from lake_connectors.duckdb.streams import (
    BATCH_ROWS,
    DISTANCE_SCHEMA,
    neighbour_stream,
    request_text,
    scan_stream,
)
from lake_connectors.duckdb.token import read_request
from lake_engines.predicate import bind
from lake_engines.predicate.tree import Expression, conjuncts_of
from lake_format.errors import InvalidInputError, LakeError
from lake_format.schema import DISTANCE, ROW_ID_FIELD
from lake_format.snapshot import Snapshot

__all__ = ["Nearest", "Nothing", "Ranks", "Relation", "Rows"]

_RANKS = pa.schema([pa.field(KNN, pa.string()), pa.field(RANK, pa.int64())])
_REMEMBERED = 64
"""Searches with one text that are told apart, and texts; a statement with more of either is not expected."""


class Relation(Protocol):
    """One name that DuckDB can read."""

    def schema(self) -> pa.Schema:
        """The columns a statement that is bound now will see."""
        ...

    def rows(self) -> int | None:
        """An estimate of the number of rows."""
        ...

    def accepts(self, predicate: Expression) -> bool:
        """Whether the predicate, by DuckDB's rules, is answered exactly."""
        ...

    def read(self, request: ReadRequest) -> pa.RecordBatchReader:
        """Open the stream."""
        ...


class Rows:
    """The table under its own name: its columns and nothing else.

    Parameters
    ----------
    dictionaries
        Whether columns of text are handed over as dictionaries.
    """

    def __init__(self, follower: TableFollower, *, dictionaries: bool) -> None:
        self._follower = follower
        self._dictionaries = dictionaries

    def schema(self) -> pa.Schema:
        """The table's columns, moved to the newest version."""
        self._follower.bind()
        return self._follower.shown.coded if self._dictionaries else self._follower.shown.rows

    def rows(self) -> int | None:
        """The number of live rows."""
        return self._follower.snapshot.version.row_count

    def accepts(self, predicate: Expression) -> bool:
        """Whether the predicate can be evaluated exactly as DuckDB would."""
        return _binds(predicate, self._follower.snapshot.schema.append(ROW_ID_FIELD))

    def read(self, request: ReadRequest) -> pa.RecordBatchReader:
        """A scan with the predicates and only the columns asked for."""
        snapshot = self._follower.snapshot
        self._follower.tell(snapshot, request)
        return scan_stream(self._follower, snapshot, request, dictionaries=self._dictionaries)


class Nearest:
    """The table with its hidden columns: neighbours when `_knn` is compared with a request, else all rows."""

    def __init__(self, follower: TableFollower) -> None:
        self._follower = follower
        self._lock = threading.Lock()
        self._passages: dict[str, deque[Passage]] = {}

    def schema(self) -> pa.Schema:
        """Hidden columns first, so that a column added to the table moves none."""
        self._follower.bind()
        return self._follower.shown.hidden

    def rows(self) -> int | None:
        """The number of live rows."""
        return self._follower.snapshot.version.row_count

    def accepts(self, predicate: Expression) -> bool:
        """Predicates on the table's columns, on `_distance` alone, and `_knn = 'request'`."""
        if request_text(predicate) is not None:
            return True
        if mentions(predicate, DISTANCE):
            return _binds(predicate, DISTANCE_SCHEMA)
        return _binds(predicate, self._follower.snapshot.schema.append(ROW_ID_FIELD))

    def passages(self, text: str) -> list[Passage]:
        """The scans made for this request, the latest last."""
        with self._lock:
            return list(self._passages.get(text, ()))

    def read(self, request: ReadRequest) -> pa.RecordBatchReader:
        """Neighbours in distance order as long as they are pulled, or a scan."""
        texts = {text for term in request.predicates if (text := request_text(term)) is not None}
        snapshot = self._follower.snapshot
        if not texts:
            return self._scan(snapshot, request)
        if len(texts) > 1:
            raise InvalidInputError("two different neighbour searches meet in one scan", fix="use knn() once")
        text = texts.pop()
        wanted = read_request(text)
        if wanted.condition is not None:
            request = replace(request, predicates=(*request.predicates, *conjuncts_of(wanted.condition)))
        self._follower.tell(snapshot, request, wanted)
        passage = Passage(wanted.k)
        if not wanted.alone:
            self._remember(text, passage)
        return neighbour_stream(self._follower, snapshot, wanted, request, text, passage)

    def _remember(self, text: str, passage: Passage) -> None:
        with self._lock:
            self._passages.setdefault(text, deque(maxlen=_REMEMBERED)).append(passage)
            while len(self._passages) > _REMEMBERED:
                self._passages.pop(next(iter(self._passages)))

    def _scan(self, snapshot: Snapshot, request: ReadRequest) -> pa.RecordBatchReader:
        for name in (KNN, GATE, DISTANCE):
            if name in request.columns or any(mentions(term, name) for term in request.predicates):
                raise InvalidInputError(
                    "the query vector and k of a neighbour search must be constants or parameters, and numbers",
                    fix=f"for one search a row use knn_vec_{self._follower.name}(vector, k) with LATERAL",
                )
        self._follower.tell(snapshot, request)
        return scan_stream(self._follower, snapshot, request)


class Ranks:
    """The numbers of those rows of finished searches that are among the first k to pass DuckDB's filters."""

    def __init__(self, nearest: Nearest) -> None:
        self._nearest = nearest

    def schema(self) -> pa.Schema:
        """The request and a row's number."""
        return _RANKS

    def rows(self) -> int | None:
        """So many that DuckDB reads this side of the join last."""
        return 1 << 50

    def accepts(self, predicate: Expression) -> bool:
        """Only `_knn = 'request'`."""
        return request_text(predicate) is not None

    def read(self, request: ReadRequest) -> pa.RecordBatchReader:
        """Made when it is pulled, and only then known."""
        texts = [text for term in request.predicates if (text := request_text(term)) is not None]
        if len(texts) != 1:
            raise InvalidInputError(
                "the query vector and k of a neighbour search must be constants or parameters",
                fix="pass them as parameters, or SET VARIABLE and use getvariable()",
            )
        schema = pa.schema([_RANKS.field(name) for name in request.columns])
        return pa.RecordBatchReader.from_batches(schema, self._batches(texts[0], schema))

    def _batches(self, text: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        passages = [passage for passage in self._nearest.passages(text) if passage.finished]
        if not passages:
            raise InvalidInputError(
                "DuckDB read the two sides of a neighbour search in the wrong order",
                fix="enable its optimizer (PRAGMA enable_optimizer)",
            )
        kept = np.concatenate([passage.kept() for passage in passages])
        for start in range(0, len(kept), BATCH_ROWS):
            numbers = kept[start : start + BATCH_ROWS]
            values = {RANK: pa.array(numbers), KNN: pa.repeat(pa.scalar(text), len(numbers))}
            yield pa.RecordBatch.from_arrays([values[name] for name in schema.names], schema=schema)


class Nothing:
    """No rows, with the columns of knn(): the second half of a UNION that keeps DuckDB from reordering joins."""

    def __init__(self, follower: TableFollower) -> None:
        self._follower = follower

    def schema(self) -> pa.Schema:
        """The columns of knn() at the version bound last."""
        return self._follower.shown.found

    def rows(self) -> int | None:
        """None."""
        return 0

    def accepts(self, predicate: Expression) -> bool:
        """Every predicate: no row can fail it."""
        return True

    def read(self, request: ReadRequest) -> pa.RecordBatchReader:
        """Nothing."""
        schema = self.schema()
        return pa.RecordBatchReader.from_batches(
            pa.schema([schema.field(name) for name in request.columns]), iter(())
        )


def _binds(predicate: Expression, schema: pa.Schema) -> bool:
    try:
        bind(predicate, schema, rules="duckdb")
    except LakeError:
        return False
    return True
