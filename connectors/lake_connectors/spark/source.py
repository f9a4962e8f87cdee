"""The data source ``lake``: Spark's Python interface over reading and writing.

Spark runs its methods in processes of their own, one for each step; whatever one needs of another is in the objects
Spark carries along, as plain values. A commit that fails after it landed makes Spark call ``abort`` with files that
are part of the table by then: cleaning up looks first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
from pyspark import TaskContext
from pyspark.sql.datasource import (
    DataSource,
    DataSourceArrowWriter,
    DataSourceReader,
    DataSourceStreamArrowWriter,
    Filter,
    InputPartition,
    WriterCommitMessage,
)
from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema
from pyspark.sql.types import StructType

from lake_connectors.spark.creating import CREATING, NewTable, Shape, shape_of
from lake_connectors.spark.predicates import translate
from lake_connectors.spark.reading import (
    Place,
    batches_of,
    grouped,
    is_exact,
    place_of,
    place_to_write,
    shown_schema,
)
from lake_connectors.spark.types import TYPES
from lake_engines.predicate.tree import Expression
from lake_format.errors import InvalidInputError, NotFoundError, UnsupportedError
from lake_format.table import Table

__all__ = ["FilteringLakeSource", "LakeSource"]

_READING = ("parallelism",)
_STREAMING = ("checkpointlocation",)
_WRITING = ("idempotencywriter", "idempotencysequence", *CREATING)
_ANY_SHAPE = Shape()


class LakeSource(DataSource):
    """``spark.read.format("lake")`` and ``frame.write.format("lake")``; Spark filters the rows itself.

    Spark refuses readers that take filters unless ``spark.sql.python.filterPushdown.enabled`` is set, which it is
    not by default, and does not tell sources whether it is: there are two of them.
    """

    @classmethod
    def name(cls) -> str:
        """What ``format(…)`` takes."""
        return "lake"

    def schema(self) -> StructType:
        """The table's columns in Spark's types."""
        place = place_of(self.options, _READING)
        return from_arrow_schema(shown_schema(place.open(), place), prefer_timestamp_ntz=True)

    def reader(self, schema: StructType) -> DataSourceReader:
        """A scan, pinned to the version of now."""
        return _Reader(place_of(self.options, _READING), schema, _parallelism(self.options))

    def writer(self, schema: StructType, overwrite: bool) -> DataSourceArrowWriter:
        """One append, or one replacement of all rows; of a table that is made of the frame where there is none."""
        place, shape = place_to_write(self.options, _WRITING), shape_of(self.options)
        return _Writer(place, schema, overwrite, _job(self.options), shape)

    def streamWriter(self, schema: StructType, overwrite: bool) -> DataSourceStreamArrowWriter:  # noqa: N802
        """One append, or one replacement of all rows, a batch, however often Spark runs it."""
        place = place_to_write(self.options, (*CREATING, *_STREAMING))
        return _StreamWriter(_Writer(place, schema, overwrite, None, shape_of(self.options)))


class FilteringLakeSource(LakeSource):
    """The same where Spark pushes filters: the table answers them, by its statistics first."""

    def reader(self, schema: StructType) -> DataSourceReader:
        """A scan, pinned to the version of now, that takes filters."""
        return _FilteringReader(place_of(self.options, _READING), schema, _parallelism(self.options))


def _parallelism(options: Any) -> int:
    """How many tasks read; 0 leaves it to the number of rows."""
    given = options.get("parallelism")
    if given is None:
        return 0
    if not (given.isdecimal() and int(given)):
        raise InvalidInputError(f"parallelism must be a positive whole number, not {given!r}")
    return int(given)


def _job(options: Any) -> tuple[str, int] | None:
    writer, sequence = options.get("idempotencyWriter"), options.get("idempotencySequence")
    if (writer is None) != (sequence is None):
        raise InvalidInputError("idempotencyWriter and idempotencySequence go together")
    if writer is not None and not sequence.isdecimal():
        raise InvalidInputError(f"idempotencySequence must be a whole number from 0 up, not {sequence!r}")
    return None if writer is None else (writer, int(sequence))


@dataclass
class _Part(InputPartition):
    """Fragments one task reads."""

    fragments: frozenset[int]


class _Reader(DataSourceReader):
    def __init__(self, place: Place, schema: StructType, parallelism: int) -> None:
        table = place.open()
        self._place = Place(**{**vars(place), "version": table.version})
        self._schema = schema
        self._parallelism = parallelism
        self._terms: tuple[Expression, ...] = ()

    def partitions(self) -> list[InputPartition]:
        """A part of the fragments each."""
        table = self._place.open()
        wanted = self._parallelism or _default_parts(table.snapshot.version.row_count)
        groups = grouped(table, self._terms, wanted)
        return [_Part(group) for group in groups] or [_Part(frozenset())]

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        """The rows of a part."""
        assert isinstance(partition, _Part)
        target = to_arrow_schema(self._schema, timezone="UTC", prefers_large_types=False)
        yield from batches_of(self._place, partition.fragments, self._terms, target)


class _FilteringReader(_Reader):
    def pushFilters(self, filters: list[Filter]) -> Iterable[Filter]:  # noqa: N802 - Spark's name
        """Keep what the table answers exactly; the rest goes back to Spark."""
        table = self._place.open()
        for one in filters:
            term = translate(one)
            if term is not None and is_exact(table, term):
                self._terms = (*self._terms, term)
            else:
                yield one


def _default_parts(rows: int) -> int:
    return max(2, min(rows // 250_000, 256))


@dataclass
class _Written(WriterCommitMessage):
    """A part that a task wrote; see ``Table.write_part``."""

    part: bytes


class _Writer(DataSourceArrowWriter):
    def __init__(
        self,
        place: Place,
        schema: StructType,
        overwrite: bool,
        job: tuple[str, int] | None,
        shape: Shape = _ANY_SHAPE,
    ) -> None:
        self._overwrite = overwrite
        self._job = job
        self._done = False
        self._place: Place | NewTable
        try:
            table = place.open()
        except NotFoundError:
            self._place = NewTable.of(place, schema, shape)
            return
        shape.check(table)
        _check_columns(table.schema, schema)
        self._done = job is not None and table.is_committed(job)
        self._place = Place(**{**vars(place), "version": table.version})

    def write(self, iterator: Iterator[pa.RecordBatch]) -> _Written:
        """On an executor: rows into files that are no part of the table yet; of a job that is done, no file."""
        first = None if self._done else next(iterator, None)
        if first is None:
            return _Written(b"")

        def batches() -> Iterator[pa.RecordBatch]:
            yield first
            yield from iterator

        reader = pa.RecordBatchReader.from_batches(first.schema, batches())
        return _Written(self._place.open().write_part(reader))

    def commit(self, messages: list[WriterCommitMessage | None]) -> None:
        """On the driver: everything at once."""
        if not self._done:
            self.land(messages, self._job)

    def land(self, messages: list[WriterCommitMessage | None], job: tuple[str, int] | None) -> None:
        """Commit as a job; what was written for one that has committed meanwhile is removed."""
        if any(message is None for message in messages):
            raise InvalidInputError(
                "a task reported nothing: its rows would be missing", fix="run the job again"
            )
        table, parts = self._newest(), self._parts(messages)
        if job is not None and table.is_committed(job):
            table.discard_parts(parts)
        else:
            table.commit_parts(parts, overwrite=self._overwrite, idempotency=job)

    def abort(self, messages: list[WriterCommitMessage | None]) -> None:
        """Remove what was written, unless it was committed after all."""
        parts = self._parts(messages)
        if any(parts):
            self._newest().discard_parts(parts)

    def _newest(self) -> Table:
        place = self._place
        if isinstance(place, NewTable):
            place.open()  # where no task had a row, it is made now
            place = place.place
        return replace(place, version=None).open()

    def _parts(self, messages: list[WriterCommitMessage | None]) -> list[bytes]:
        """Of tasks that failed nothing is known: their files are garbage to collect."""
        return [message.part for message in messages if isinstance(message, _Written)]


@dataclass
class _Streamed(_Written):
    """The same, and of which query: its id is kept with its checkpoint, so that it outlives a restart."""

    query: str


class _StreamWriter(DataSourceStreamArrowWriter):
    """A query that starts again runs its last batch again: batches are known by the query's id and their number."""

    def __init__(self, writer: _Writer) -> None:
        self._writer = writer

    def write(self, iterator: Iterator[pa.RecordBatch]) -> WriterCommitMessage:
        """On an executor: rows into files that are no part of the table yet."""
        context = TaskContext.get()
        query = context.getLocalProperty("sql.streaming.queryId") if context else None
        if query is None:
            raise UnsupportedError("Spark does not say which query this batch is of", fix="use foreachBatch")
        return _Streamed(self._writer.write(iterator).part, query)

    def commit(self, messages: list[WriterCommitMessage | None], batchId: int) -> None:  # noqa: N803
        """On the driver: the whole batch, unless it was committed before."""
        query = next((one.query for one in messages if isinstance(one, _Streamed)), None)
        self._writer.land(messages, None if query is None else (f"spark-stream-{query}", batchId))

    def abort(self, messages: list[WriterCommitMessage | None], batchId: int) -> None:  # noqa: N803
        """Remove what was written, unless it was committed after all."""
        self._writer.abort(messages)


def _check_columns(table: pa.Schema, frame: StructType) -> None:
    """Spark hands over whatever columns a frame has: what does not fit is said before anything is written."""
    unknown = next((name for name in frame.names if name not in table.names), None)
    if unknown is not None:
        raise InvalidInputError(
            f"the table has no column {unknown!r}", fix=f"columns are {', '.join(table.names)}"
        )
    missing = next(
        (field.name for field in table if not field.nullable and field.name not in frame.names), None
    )
    if missing is not None:
        raise InvalidInputError(f"column {missing!r} may not be NULL, and the frame does not have it")
    TYPES.schema(pa.schema([table.field(name) for name in frame.names]))
