"""What an attached table shows to DuckDB: the table itself, its neighbours, and two helpers of the neighbours.

A relation tells its schema when a statement is bound, says which predicates it answers exactly, and opens a
stream when the statement runs. How it gets into DuckDB is the business of `plugged` and `public`. This module
must not import duckdb.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lake_connectors.duckdb.gate import GATE_TYPE, Passage
from lake_connectors.duckdb.nearest import CHUNK_ROWS, Conditions, NearestQuery, nearest_rows
from lake_connectors.duckdb.token import NearestRequest, read_request
from lake_connectors.duckdb.types import declared_schema, fitted
from lake_engines.predicate import bind
from lake_engines.predicate.tree import And, Column, Comparison, Expression, Literal, Operator, Rules, walk
from lake_format.engine import Engine, ScanRequest
from lake_format.errors import InvalidInputError, LakeError
from lake_format.log import VersionLog
from lake_format.queries import check_queries, check_recall, vector_column
from lake_format.schema import DISTANCE, DISTANCE_FIELD, ROW_ID, ROW_ID_FIELD
from lake_format.snapshot import Snapshot
from lake_format.table import METRICS, Table

__all__ = [
    "GATE",
    "KNN",
    "RANK",
    "Follower",
    "Nearest",
    "Nothing",
    "Observer",
    "Pushdown",
    "Ranks",
    "ReadRequest",
    "Relation",
    "Rows",
]

KNN, GATE, RANK = "_knn", "_gate", "_rank"
_BATCH_ROWS = 122_880
"""DuckDB's own row group: large enough to cost nothing per batch, small enough to stop early."""
_DISTANCE_SCHEMA = pa.schema([pa.field(DISTANCE, pa.float32())])
_RANKS = pa.schema([pa.field(KNN, pa.string()), pa.field(RANK, pa.int64())])
_LONGEST_WAIT = 0.02
_REMEMBERED = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushdown:
    """What reached a table when a statement ran: for tests, logs and tuning.

    Attributes
    ----------
    columns
        Columns of the table that were read for the result.
    predicates
        Predicates that the table answered itself, as SQL.
    nearest
        The request, where nearest neighbours were asked for.
    """

    table: str
    version: int
    columns: tuple[str, ...]
    predicates: tuple[str, ...]
    nearest: NearestRequest | None = None


Observer = Callable[[Pushdown], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRequest:
    """Rows wanted from a relation.

    Attributes
    ----------
    columns
        Names in order; may be empty, then only the number of rows counts.
    predicates
        What the relation accepted, all to be TRUE.
    rest
        A pyarrow expression that rows must pass too, for what ``predicates`` could not say of it.
    """

    columns: tuple[str, ...]
    predicates: tuple[Expression, ...]
    rules: Rules
    rest: pc.Expression | None = None


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


@dataclass(frozen=True, slots=True)
class Shown:
    """A table's schema in the forms in which its relations show it to DuckDB; made once per schema.

    Attributes
    ----------
    table
        As the version has it, field ids included.
    rows, hidden, found
        The table's own columns; with the hidden ones before them; with those that knn() shows after them.
    """

    table: pa.Schema
    rows: pa.Schema
    hidden: pa.Schema
    found: pa.Schema

    @classmethod
    def of(cls, schema: pa.Schema) -> Shown:
        """The forms of a table's schema."""
        rows = declared_schema(schema)
        internal = (pa.field(KNN, pa.string()), pa.field(GATE, GATE_TYPE))
        open_ = (pa.field(ROW_ID, ROW_ID_FIELD.type), pa.field(DISTANCE, DISTANCE_FIELD.type))
        return cls(schema, rows, pa.schema([*internal, *open_, *rows]), pa.schema([*rows, *open_]))


class Follower:
    """A table as statements see it: each is bound to the newest version, or always to the same one.

    Parameters
    ----------
    table
        Is not moved: its log is followed from the version it is at.
    max_staleness
        Seconds for which the version seen last is taken for the newest without asking the store.
    """

    def __init__(
        self, name: str, table: Table, max_staleness: float = 0.0, observer: Observer | None = None
    ) -> None:
        self.name = name
        self.engine: Engine = table.engine
        self._log = None if table._pinned else VersionLog(table.snapshot.store, time.sleep)
        self._snapshot = table.snapshot
        self._shown = Shown.of(self._snapshot.schema)
        self._max_staleness = max_staleness
        self._asked = float("-inf")
        self._observer = observer
        self._lock = threading.Lock()

    @property
    def snapshot(self) -> Snapshot:
        """The version bound last."""
        return self._snapshot

    @property
    def shown(self) -> Shown:
        """Its schemas."""
        return self._shown

    def bind(self) -> Snapshot:
        """Move to the newest version and return it."""
        with self._lock:
            if self._log is not None and time.monotonic() - self._asked >= self._max_staleness:
                version = self._log.latest_from(self._snapshot.version)
                self._asked = time.monotonic()
                if version.commit_id != self._snapshot.version.commit_id:
                    self._snapshot = Snapshot(self._snapshot.store, version, self._snapshot.manifests)
                    if not version.schema.equals(self._shown.table, check_metadata=True):
                        self._shown = Shown.of(version.schema)
            return self._snapshot

    def tell(self, snapshot: Snapshot, request: ReadRequest, nearest: NearestRequest | None = None) -> None:
        """Report a read to the observer, if there is one."""
        if self._observer is not None:
            hidden = {KNN, GATE}
            self._observer(
                Pushdown(
                    table=self.name,
                    version=snapshot.version.version,
                    columns=tuple(name for name in request.columns if name not in hidden),
                    predicates=tuple(str(term) for term in request.predicates if not _mentions(term, KNN)),
                    nearest=nearest,
                )
            )


class Rows:
    """The table under its own name: its columns and nothing else."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower

    def schema(self) -> pa.Schema:
        """The table's columns, moved to the newest version."""
        self._follower.bind()
        return self._follower.shown.rows

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
        return _scan(self._follower, snapshot, request)


class Nearest:
    """The table with its hidden columns: neighbours when `_knn` is compared with a request, else all rows."""

    def __init__(self, follower: Follower) -> None:
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
        if _request_text(predicate) is not None:
            return True
        if _mentions(predicate, DISTANCE):
            return _binds(predicate, _DISTANCE_SCHEMA)
        return _binds(predicate, self._follower.snapshot.schema.append(ROW_ID_FIELD))

    def passages(self, text: str) -> list[Passage]:
        """The scans made for this request, the latest last."""
        with self._lock:
            return list(self._passages.get(text, ()))

    def read(self, request: ReadRequest) -> pa.RecordBatchReader:
        """Neighbours in distance order as long as they are pulled, or a scan."""
        texts = {text for term in request.predicates if (text := _request_text(term)) is not None}
        snapshot = self._follower.snapshot
        if not texts:
            return self._scan(snapshot, request)
        if len(texts) > 1:
            raise InvalidInputError("two different neighbour searches meet in one scan", fix="use knn() once")
        text = texts.pop()
        wanted = read_request(text)
        self._follower.tell(snapshot, request, wanted)
        passage = Passage(wanted.k)
        with self._lock:
            self._passages.setdefault(text, deque(maxlen=_REMEMBERED)).append(passage)
            while len(self._passages) > _REMEMBERED:
                self._passages.pop(next(iter(self._passages)))
        return _neighbours(self._follower, snapshot, wanted, request, text, passage)

    def _scan(self, snapshot: Snapshot, request: ReadRequest) -> pa.RecordBatchReader:
        for name in (KNN, GATE, DISTANCE):
            if name in request.columns or any(_mentions(term, name) for term in request.predicates):
                raise InvalidInputError(
                    "the query vector and k of a neighbour search must be constants or parameters",
                    fix=f"for one search a row use knn_vec_{self._follower.name}(vector, k) with LATERAL",
                )
        self._follower.tell(snapshot, request)
        return _scan(self._follower, snapshot, request)


class Ranks:
    """The numbers of those rows of the latest finished searches that are among the first k to pass DuckDB's filters."""

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
        return _request_text(predicate) is not None

    def read(self, request: ReadRequest) -> pa.RecordBatchReader:
        """Made when it is pulled, and only then known."""
        texts = [text for term in request.predicates if (text := _request_text(term)) is not None]
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
        for start in range(0, len(kept), _BATCH_ROWS):
            numbers = kept[start : start + _BATCH_ROWS]
            values = {RANK: pa.array(numbers), KNN: pa.repeat(pa.scalar(text), len(numbers))}
            yield pa.RecordBatch.from_arrays([values[name] for name in schema.names], schema=schema)


class Nothing:
    """No rows, with the columns of knn(): the second half of a UNION that keeps DuckDB from reordering joins."""

    def __init__(self, follower: Follower) -> None:
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
        return pa.RecordBatchReader.from_batches(pa.schema([schema.field(name) for name in request.columns]), iter(()))


# --- leaves ---------------------------------------------------------------------------------------------------


def _mentions(predicate: Expression, column: str) -> bool:
    return any(isinstance(node, Column) and node.path[0] == column for node in walk(predicate))


def _binds(predicate: Expression, schema: pa.Schema) -> bool:
    try:
        bind(predicate, schema, rules="duckdb")
    except LakeError:
        return False
    return True


def _request_text(predicate: Expression) -> str | None:
    """The text of `_knn = 'text'`."""
    match predicate:
        case Comparison(operator=Operator.EQUAL, left=Column(path=("_knn",)), right=Literal(value=value)):
            text = value.as_py()
            return text if isinstance(text, str) else None
    return None


def _scan(follower: Follower, snapshot: Snapshot, request: ReadRequest) -> pa.RecordBatchReader:
    schema = follower.shown.hidden
    conditions = Conditions(request.predicates, request.rules)
    columns = request.columns or (_narrowest(snapshot.schema),)
    reader = follower.engine.scan(
        snapshot,
        ScanRequest(columns=columns, where=conditions.bound(snapshot.schema), batch_rows=_BATCH_ROWS),
    )
    declared = pa.schema([schema.field(name) for name in columns])
    if all(field.type == given.type for field, given in zip(declared, reader.schema, strict=True)):
        return reader
    return pa.RecordBatchReader.from_batches(declared, (_fit(batch, declared) for batch in reader))


def _narrowest(schema: pa.Schema) -> str:
    """A column that costs little to read, where only the number of rows counts."""
    fixed = [field for field in schema if pa.types.is_primitive(field.type)]
    return min(fixed, key=lambda field: field.type.bit_width).name if fixed else ROW_ID


def _fit(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    arrays = [fitted(batch.column(field.name), field.type) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _neighbours(
    follower: Follower,
    snapshot: Snapshot,
    wanted: NearestRequest,
    request: ReadRequest,
    text: str,
    passage: Passage,
) -> pa.RecordBatchReader:
    """The stream behind knn(): the first search is done now, so that its errors come at once and plainly."""
    field = vector_column(
        snapshot.schema, wanted.column, [entry.field_id for entry in snapshot.version.indexes]
    )
    if wanted.metric is not None and wanted.metric not in METRICS:
        raise InvalidInputError(f"unknown metric {wanted.metric!r}", fix=f"metrics are {', '.join(METRICS)}")
    rows = snapshot.version.row_count
    out = pa.schema([follower.shown.hidden.field(name) for name in request.columns])
    query = NearestQuery(
        vector=check_queries(wanted.vector, field)[0],
        column=field.name,
        metric=wanted.metric,
        first=rows if wanted.k is None else min(wanted.k, rows),
        recall=check_recall(wanted.recall),
        exact=wanted.exact,
        without_vector=wanted.ordered,
    )
    if rows == 0 or wanted.k == 0:
        passage.finished = True
        return pa.RecordBatchReader.from_batches(out, iter(()))
    terms = tuple(term for term in request.predicates if _request_text(term) is None)
    on_distance = Conditions(tuple(term for term in terms if _mentions(term, DISTANCE)), request.rules)
    conditions = Conditions(tuple(term for term in terms if not _mentions(term, DISTANCE)), request.rules)
    needed = _needed(request, snapshot.schema)
    began = time.perf_counter()
    tables = nearest_rows(follower.engine, snapshot, query, needed, conditions)
    first = next(tables)
    cost = time.perf_counter() - began
    stream = _Stream(out, text, passage, on_distance, request.rest)
    return pa.RecordBatchReader.from_batches(out, stream.batches(first, tables, min(2 * cost, _LONGEST_WAIT)))


def _needed(request: ReadRequest, schema: pa.Schema) -> tuple[str, ...]:
    """The table's columns that batches must have: those asked for and those the rest of the filter reads."""
    names = dict.fromkeys(name for name in request.columns if name in schema.names)
    if request.rest is not None:
        names.update(dict.fromkeys(schema.names))
    return tuple(names)


class _Stream:
    """Turns searched tables into the batches DuckDB pulls, and ends when enough rows have passed its filters."""

    def __init__(
        self,
        schema: pa.Schema,
        text: str,
        passage: Passage,
        on_distance: Conditions,
        rest: pc.Expression | None,
    ) -> None:
        self._schema = schema
        self._text = text
        self._passage = passage
        self._on_distance = (
            bind(_conjunction(on_distance.terms), _DISTANCE_SCHEMA, rules=on_distance.rules)
            if on_distance.terms
            else None
        )
        self._farthest = _farthest(on_distance.terms)
        self._rest = rest

    def batches(self, first: pa.Table, more: Iterator[pa.Table], wait: float) -> Iterator[pa.RecordBatch]:
        """The batches; ``wait`` is how long a second thread lets the first report, in seconds."""
        thread = threading.get_ident()
        beyond = yield from self._chunks(first)
        while not beyond and not self._passage.enough:
            if threading.get_ident() != thread and self._passage.wait_enough(wait):
                break
            thread = threading.get_ident()
            table = next(more, None)
            if table is None:
                break
            beyond = yield from self._chunks(table)
        self._passage.finished = True

    def _chunks(self, table: pa.Table) -> Iterator[pa.RecordBatch]:
        """The rows of one table that pass what is known here; returns whether all further rows are too far."""
        rows = self._passing(table)
        for start in range(0, rows.num_rows, CHUNK_ROWS):
            yield self._batch(rows.slice(start, CHUNK_ROWS))
        return self._is_beyond(table)

    def _passing(self, table: pa.Table) -> pa.Table:
        if self._on_distance is not None:
            distances = table.select([DISTANCE]).combine_chunks().to_batches()
            masks = [self._on_distance.evaluate(batch) for batch in distances]
            if masks:
                table = table.filter(pa.chunked_array(masks))
        if self._rest is not None:
            marked = table.append_column(KNN, pa.repeat(pa.scalar(self._text), table.num_rows))
            table = marked.filter(self._rest)
        return table

    def _is_beyond(self, table: pa.Table) -> bool:
        if self._farthest is None or table.num_rows == 0:
            return False
        last = table.column(DISTANCE)[-1].as_py()
        return last is not None and last > self._farthest

    def _batch(self, table: pa.Table) -> pa.RecordBatch:
        rows = table.num_rows
        arrays = []
        for field in self._schema:
            if field.name == GATE:
                arrays.append(self._passage.gates(rows))
            elif field.name == KNN:
                arrays.append(pa.repeat(pa.scalar(self._text), rows))
            else:
                arrays.append(fitted(_flat(table.column(field.name)), field.type))
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)


def _flat(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _conjunction(terms: Sequence[Expression]) -> Expression:
    return terms[0] if len(terms) == 1 else And(tuple(terms))


def _farthest(terms: Sequence[Expression]) -> float | None:
    """The distance beyond which no row can pass."""
    bounds = [
        float(term.right.value.as_py())
        for term in terms
        if isinstance(term, Comparison)
        and term.operator in (Operator.LESS, Operator.LESS_EQUAL)
        and isinstance(term.right, Literal)
        and term.right.value.is_valid
    ]
    return min(bounds) if bounds and not np.isnan(bounds).any() else None
