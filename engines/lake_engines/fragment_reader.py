"""One fragment as rows: opens its column groups, matches columns by field id, joins groups side by side.

Everything above reads fragments through this and never sees files; deleted rows are still in what it returns,
as positions must stay countable.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from threading import Lock

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lake_engines.arrays import relabel
from lake_engines.evolution.projection import Projection, projection
from lake_engines.files import FileReader, WrittenFile, open_reader
from lake_engines.files.base import Positions, rows_only
from lake_engines.files.vector_reader import VectorReader
from lake_engines.parallel import run_all
from lake_format.errors import CorruptionError
from lake_format.model import ColumnGroup, Fragment
from lake_format.row_ids import U64
from lake_format.schema import ROW_ID, ROW_ID_FIELD, field_id
from lake_format.snapshot import Snapshot, deleted_positions
from lake_format.store.base import Store

__all__ = ["FragmentReader", "ReaderPool", "output_schema"]

_OPEN_FILES = 512


class ReaderPool:
    """Open file readers, shared and kept up to a number; data files never change, so none goes stale."""

    def __init__(self, limit: int = _OPEN_FILES) -> None:
        self._limit = limit
        self._lock = Lock()
        self._readers: OrderedDict[str, FileReader] = OrderedDict()

    def get(self, store: Store, group: ColumnGroup, rows: int, schema: pa.Schema) -> FileReader:
        """The reader of a column group's file."""
        with self._lock:
            reader = self._readers.get(group.path)
            if reader is not None:
                self._readers.move_to_end(group.path)
                return reader
        file = WrittenFile(
            path=group.path, format=group.format, rows=rows, size=group.size, layout=group.layout
        )
        reader = open_reader(store, file, schema)
        with self._lock:
            self._readers[group.path] = reader
            while len(self._readers) > self._limit:
                self._readers.popitem(last=False)
        return reader


def output_schema(snapshot: Snapshot, names: Sequence[str]) -> pa.Schema:
    """The Arrow schema of a read of these columns, ``_row_id`` included where asked for; no field ids in it."""
    schema = snapshot.user_schema
    return pa.schema([ROW_ID_FIELD if name == ROW_ID else schema.field(name) for name in names])


class FragmentReader:
    """Reads columns of one fragment by their names in the snapshot's schema."""

    def __init__(self, snapshot: Snapshot, fragment: Fragment, pool: ReaderPool) -> None:
        self.fragment = fragment
        self._snapshot = snapshot
        self._pool = pool
        self._owner = {field: group for group in fragment.groups for field in group.live_field_ids}
        self._projections: dict[int, Projection] = {}
        self._readers: dict[str, FileReader] = {}
        self._row_ids: U64 | None = None

    @cached_property
    def is_local(self) -> bool:
        """Whether the fragment's files are memory-mapped, not fetched."""
        return self._snapshot.store.local_path(self.fragment.groups[0].path) is not None

    def deleted(self) -> U64:
        """Deleted positions, ascending."""
        return deleted_positions(self.fragment)

    def row_ids_at(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The row ids at these positions; same shape."""
        if self.fragment.first_row_id is not None:
            return positions + self.fragment.first_row_id
        if self._row_ids is None:
            self._row_ids = self.fragment.row_ids()
        return self._row_ids[positions].astype(np.int64)

    def vectors(self, name: str) -> VectorReader | None:
        """The raw vectors of a column; None where this fragment has no values of it."""
        group = self._owner.get(field_id(self._snapshot.schema.field(name)))
        if group is None:
            return None
        reader = self._reader(group)
        if not isinstance(reader, VectorReader):
            raise CorruptionError(f"file {group.path!r} of vector column {name!r} has no vector pages")
        return reader

    def scan(
        self, names: Sequence[str], start: int, stop: int, batch_rows: int
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Rows ``[start, stop)`` as ``(first position, batch)``, columns in the order of ``names``."""
        plan = self._plan(names)
        streams = [
            self._reader(group).scan(columns, start=start, stop=stop, batch_rows=batch_rows)
            for group, columns in plan
        ]
        if not streams:
            streams = [_empty_batches(start, stop, batch_rows)]
        position = start
        for rows, parts in _aligned(streams):
            yield position, self._assemble(names, plan, parts, rows, np.arange(position, position + rows))
            position += rows
        if position != stop:
            raise CorruptionError(f"fragment {self.fragment.fragment_id} ended at row {position}, not {stop}")

    def take(self, positions: Positions, names: Sequence[str]) -> pa.RecordBatch:
        """The rows at strictly increasing positions."""
        plan = self._plan(names)
        takes = [partial(self._reader(group).take, positions, columns) for group, columns in plan]
        parts = run_all(takes, together=not self.is_local)
        return self._assemble(names, plan, parts, len(positions), positions.astype(np.int64))

    def _reader(self, group: ColumnGroup) -> FileReader:
        if group.path not in self._readers:
            self._readers[group.path] = self._opened(group)
        return self._readers[group.path]

    def _opened(self, group: ColumnGroup) -> FileReader:
        schema = self._snapshot.version.schemas.get(group.schema_id)
        if schema is None:
            raise CorruptionError(
                f"file {group.path!r} was written with the unknown schema {group.schema_id}"
            )
        by_id = {field_id(field): field for field in schema}
        missing = [identity for identity in group.field_ids if identity not in by_id]
        if missing:
            raise CorruptionError(
                f"file {group.path!r} holds field {missing[0]}, which its schema does not have"
            )
        fields = pa.schema([by_id[identity] for identity in group.field_ids])
        return self._pool.get(self._snapshot.store, group, self.fragment.row_count, fields)

    def _plan(self, names: Sequence[str]) -> list[tuple[ColumnGroup, list[str]]]:
        """The groups to read and, in each, the columns by their name at the time of writing."""
        wanted: dict[str, tuple[ColumnGroup, list[str]]] = {}
        for name in names:
            if name == ROW_ID:
                continue
            identity = field_id(self._snapshot.schema.field(name))
            group = self._owner.get(identity)
            if group is not None:
                wanted.setdefault(group.path, (group, []))[1].append(self._stored_name(group, identity))
        return list(wanted.values())

    def _stored_name(self, group: ColumnGroup, identity: int) -> str:
        return str(self._reader(group).schema.names[group.field_ids.index(identity)])

    def _projection(self, group: ColumnGroup, identity: int, name: str) -> Projection:
        """How this file's values of a column become values of its present type."""
        if identity not in self._projections:
            written = self._reader(group).schema.field(group.field_ids.index(identity))
            self._projections[identity] = projection(written, self._snapshot.schema.field(name))
        return self._projections[identity]

    def _assemble(
        self,
        names: Sequence[str],
        plan: list[tuple[ColumnGroup, list[str]]],
        parts: list[pa.RecordBatch],
        rows: int,
        positions: npt.NDArray[np.int64],
    ) -> pa.RecordBatch:
        schema = output_schema(self._snapshot, names)
        found = {group.path: part for (group, _), part in zip(plan, parts, strict=False)}
        arrays = []
        for name, field in zip(names, schema, strict=True):
            if name == ROW_ID:
                arrays.append(pa.array(self.row_ids_at(positions)))
                continue
            identity = field_id(self._snapshot.schema.field(name))
            group = self._owner.get(identity)
            if group is None:
                arrays.append(pa.nulls(rows, field.type))
                continue
            array = found[group.path].column(self._stored_name(group, identity))
            arrays.append(relabel(self._projection(group, identity, name)(array), field.type))
        if not arrays:
            return rows_only(rows)
        return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _aligned(streams: list[Iterator[pa.RecordBatch]]) -> Iterator[tuple[int, list[pa.RecordBatch]]]:
    """Batches of several streams cut at common boundaries, without copying."""
    current = [next(stream, None) for stream in streams]
    while all(batch is not None for batch in current):
        batches = [batch for batch in current if batch is not None]
        rows = min(batch.num_rows for batch in batches)
        if rows:
            yield rows, [batch.slice(0, rows) for batch in batches]
        current = [
            batch.slice(rows) if batch.num_rows > rows else next(stream, None)
            for batch, stream in zip(batches, streams, strict=True)
        ]
    if any(batch is not None for batch in current):
        raise CorruptionError("the column groups of a fragment have different numbers of rows")


def _empty_batches(start: int, stop: int, batch_rows: int) -> Iterator[pa.RecordBatch]:
    for begin in range(start, stop, batch_rows):
        yield rows_only(min(batch_rows, stop - begin))
