"""Opening the streams behind relations: a scan, or neighbours in distance order until enough have passed.

This module must not import duckdb.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lake_connectors.adapter.nearest import (
    CHUNK_ROWS,
    Conditions,
    NearestQuery,
    OnDistance,
    nearest_rows,
)
from lake_connectors.adapter.requests import NearestRequest, ReadRequest, mentions
from lake_connectors.adapter.types import fitted
from lake_connectors.duckdb.gate import Passage
from lake_connectors.duckdb.showing import GATE, KNN, TableFollower
from lake_engines.files.dictionaries import as_dictionaries, with_dictionaries
from lake_engines.predicate.tree import Column, Comparison, Expression, Literal, Operator
from lake_format.engine import ScanRequest
from lake_format.errors import InvalidInputError
from lake_format.queries import check_queries, check_recall, vector_column
from lake_format.schema import DISTANCE, ROW_ID
from lake_format.snapshot import Snapshot
from lake_format.table import METRICS

__all__ = ["BATCH_ROWS", "DISTANCE_SCHEMA", "neighbour_stream", "request_text", "scan_stream"]

BATCH_ROWS = 122_880
"""DuckDB's own row group: large enough to cost nothing per batch, small enough to stop early."""

DISTANCE_SCHEMA = pa.schema([pa.field(DISTANCE, pa.float32())])
_LONGEST_WAIT = 0.02


def request_text(predicate: Expression) -> str | None:
    """The text of `_knn = 'text'`."""
    match predicate:
        case Comparison(operator=Operator.EQUAL, left=Column(path=("_knn",)), right=Literal(value=value)):
            text = value.as_py()
            return text if isinstance(text, str) else None
    return None


def scan_stream(
    follower: TableFollower, snapshot: Snapshot, request: ReadRequest, *, dictionaries: bool = False
) -> pa.RecordBatchReader:
    """The rows of a snapshot that pass the predicates, in the types DuckDB is shown."""
    schema = with_dictionaries(follower.shown.hidden) if dictionaries else follower.shown.hidden
    conditions = Conditions(request.predicates, request.rules)
    columns = request.columns or (_narrowest(snapshot.schema),)
    _check_there(columns, snapshot)
    reader = follower.engine.scan(
        snapshot,
        ScanRequest(
            columns=columns,
            where=conditions.bound(snapshot.schema),
            batch_rows=BATCH_ROWS,
            dictionaries=dictionaries,
        ),
    )
    declared = pa.schema([schema.field(name) for name in columns])
    if all(field.type == given.type for field, given in zip(declared, reader.schema, strict=True)):
        return reader
    return pa.RecordBatchReader.from_batches(declared, (_fit(batch, declared) for batch in reader))


def _check_there(columns: Sequence[str], snapshot: Snapshot) -> None:
    """A statement prepared before a column went asks for it still."""
    gone = [name for name in columns if name not in (KNN, GATE, ROW_ID, DISTANCE, *snapshot.schema.names)]
    if gone:
        raise InvalidInputError(
            f"version {snapshot.version.version} has no column {gone[0]!r} any more",
            fix="prepare the statement again",
        )


def _narrowest(schema: pa.Schema) -> str:
    """A column that costs little to read, where only the number of rows counts."""
    fixed = [field for field in schema if pa.types.is_primitive(field.type)]
    return min(fixed, key=lambda field: field.type.bit_width).name if fixed else ROW_ID


def _fit(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    arrays = [_fitted(batch.column(field.name), field.type) for field in schema]
    return as_dictionaries(pa.RecordBatch.from_arrays(arrays, names=schema.names), schema)


def _fitted(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """As the type that is declared; where that is a dictionary, as one or as its values."""
    as_values = pa.types.is_dictionary(kind) and not pa.types.is_dictionary(array.type)
    return fitted(array, kind.value_type if as_values else kind)


def neighbour_stream(
    follower: TableFollower,
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
    _check_there(request.columns, snapshot)
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
    terms = tuple(term for term in request.predicates if request_text(term) is None)
    on_distance = OnDistance(
        tuple(term for term in terms if mentions(term, DISTANCE)), DISTANCE_SCHEMA, request.rules
    )
    conditions = Conditions(tuple(term for term in terms if not mentions(term, DISTANCE)), request.rules)
    needed = _needed(request, snapshot.schema)
    began = time.perf_counter()
    tables = nearest_rows(follower.engine, snapshot, query, needed, conditions, lambda: passage.passed)
    first = next(tables)
    cost = time.perf_counter() - began
    stream = _Stream(out, text, passage, on_distance, request.rest, alone=wanted.alone)
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
        on_distance: OnDistance,
        rest: pc.Expression | None,
        *,
        alone: bool,
    ) -> None:
        self._schema = schema
        self._text = text
        self._passage = passage
        self._alone = alone
        self._on_distance = on_distance
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

    def _chunks(self, table: pa.Table) -> Generator[pa.RecordBatch, None, bool]:
        """The rows of one table that pass what is known here; returns whether all further rows are too far."""
        rows = self._passing(table)
        for start in range(0, rows.num_rows, CHUNK_ROWS):
            batch = self._batch(rows.slice(start, CHUNK_ROWS))
            if self._alone:  # nothing is filtered out after us
                self._passage.report(np.arange(batch.num_rows))
            yield batch
        return self._on_distance.is_beyond(table)

    def _passing(self, table: pa.Table) -> pa.Table:
        table = self._on_distance.passing(table)
        if self._rest is not None:
            marked = table.append_column(KNN, pa.repeat(pa.scalar(self._text), table.num_rows))
            table = marked.filter(self._rest)
        return table

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
