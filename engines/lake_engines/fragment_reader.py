"""One fragment as rows: opens its column groups, matches columns by field id, joins groups side by side.

Patches are read along with the groups they lie over, in the same round where storage is remote.

Everything above reads fragments through this and never sees files; deleted rows are still in what it returns,
as positions must stay countable.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from threading import Lock

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lake_engines.arrays import overlaid, relabel
from lake_engines.evolution.projection import Projection, projection
from lake_engines.files import FileReader, WrittenFile, open_reader
from lake_engines.files.base import Positions, rows_only
from lake_engines.files.dictionaries import is_encoded, plain
from lake_engines.files.parquet_reader import ParquetReader
from lake_engines.files.vector_reader import VectorReader
from lake_engines.keys.run_reader import RunPool
from lake_engines.listed_vectors import ListedVectors
from lake_engines.patched_vectors import PatchedVectors, RawVectors
from lake_engines.patches import FragmentPatches, Overlay, PatchStream
from lake_format.column_defaults import default_values
from lake_format.errors import CorruptionError
from lake_format.model import ColumnGroup, ColumnPatch, Fragment
from lake_format.parallel import run_all
from lake_format.positions import deleted_positions
from lake_format.row_ids import U64
from lake_format.schema import ROW_ID, ROW_ID_FIELD, field_id
from lake_format.snapshot import Snapshot
from lake_format.store.base import Store
from lake_format.store.table_store import name_of

__all__ = ["FragmentReader", "ReaderPool", "output_schema"]

_OPEN_FILES = 512
_FRAGMENTS = 64
"""Readers of fragments that are kept: single rows are asked for faster than a reader can be made."""


class ReaderPool:
    """Open file readers, shared and kept up to a number; data files never change, so none goes stale."""

    def __init__(self, limit: int = _OPEN_FILES) -> None:
        self._limit = limit
        self._lock = Lock()
        self._readers: OrderedDict[str, FileReader] = OrderedDict()
        self.key_runs = RunPool()
        self._opening: dict[str, Lock] = {}
        self._latest: Snapshot | None = None
        self._fragments: dict[int, FragmentReader] = {}

    def fragment(self, snapshot: Snapshot, owner: int) -> FragmentReader:
        """The reader of a fragment by its row of the fragment table; some of the snapshot asked for last are kept."""
        with self._lock:
            if snapshot is not self._latest:
                self._latest, self._fragments = snapshot, {}
            kept = self._fragments
            reader = kept.get(owner)
        if reader is None:
            reader = FragmentReader(snapshot, snapshot.fragments.fragment(owner), self)
            with self._lock:
                if reader.is_small and len(kept) < _FRAGMENTS:
                    kept[owner] = reader
        return reader

    def get(self, store: Store, group: ColumnGroup, rows: int, schema: pa.Schema) -> FileReader:
        """The reader of a column group's file."""
        with self._lock:
            reader = self._known(group.path)
            if reader is not None:
                return reader
            opening = self._opening.setdefault(group.path, Lock())
        with opening:  # whoever else wants the file meanwhile waits for it, and does not fetch its footer too
            with self._lock:
                reader = self._known(group.path)
                if reader is not None:
                    return reader
            file = WrittenFile(
                path=group.path, format=group.format, rows=rows, size=group.size, layout=group.layout
            )
            try:
                reader = open_reader(store, file, schema)
                with self._lock:
                    self._readers[group.path] = reader
                    while len(self._readers) > self._limit:
                        self._readers.popitem(last=False)
            finally:
                self._opening.pop(group.path, None)
        return reader

    def _known(self, path: str) -> FileReader | None:
        reader = self._readers.get(path)
        if reader is not None:
            self._readers.move_to_end(path)
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
        self._patches = FragmentPatches(fragment)
        self._projections: dict[tuple[str, int], tuple[pa.Field, Projection]] = {}
        self._readers: dict[str, FileReader] = {}
        self._schemas: dict[str, pa.Schema] = {}
        self._row_ids: U64 | None = None
        self._prepared: tuple[tuple[str, ...], _Columns] | None = None

    @property
    def is_small(self) -> bool:
        """Whether it keeps nothing that grows with the rows of the fragment: row ids in no order, patches."""
        return self.fragment.first_row_id is not None and not self.fragment.patches

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

    def vectors(self, name: str) -> RawVectors | None:
        """The raw vectors of a column; None where this fragment has no values of it: vectors have no defaults."""
        field = self._snapshot.schema.field(name)
        group = self._owner.get(field_id(field))
        base = None if group is None else self._file_vectors(group, self.fragment.row_count, name)
        patches = self._patches.of([field_id(field)])
        if not patches:
            return base
        layers = [
            (
                self._patches.positions(patch),
                self._file_vectors(patch.file, patch.file_rows, name),
                patch.first_row,
            )
            for patch in patches
        ]
        return PatchedVectors(base, layers, self.fragment.row_count, field.type.list_size)

    def _file_vectors(self, file: ColumnGroup, rows: int, name: str) -> VectorReader | ListedVectors:
        reader = self._reader(file, rows)
        if isinstance(reader, VectorReader):
            return reader
        if not isinstance(reader, ParquetReader):
            raise CorruptionError(f"file {file.path!r} of vector column {name!r} has no vector pages")
        field = self._snapshot.schema.field(name)
        written = self._schema_of(file).field(file.field_ids.index(field_id(field)))
        project = self._projection(file, written, field)
        is_own = bool(file.layout) and written.type == field.type
        return ListedVectors(reader, written.name, project, field.type, is_local=self.is_local, is_own=is_own)

    def scan(
        self, names: Sequence[str], start: int, stop: int, batch_rows: int, *, dictionaries: bool = False
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Rows ``[start, stop)`` as ``(first position, batch)``, columns in the order of ``names``.

        With ``dictionaries``, columns of text may come as dictionaries, batch by batch.
        """
        plan = self._columns(names).groups
        window = _Window(start, stop, batch_rows, dictionaries)
        streams = [self._scanned(group, self.fragment.row_count, columns, window) for group, columns in plan]
        layers = [self._layer(patch, columns, window) for patch, columns in self._over(names)]
        if layers and not self.is_local:
            streams = _begun(streams, layers)
        if not streams:
            streams = [_empty_batches(start, stop, batch_rows)]
        position = start
        for rows, parts in _aligned(streams):
            positions = np.arange(position, position + rows)
            overlays = [layer.take(position, position + rows) for layer in layers]
            over = [one for one in overlays if one is not None]
            yield position, self._assemble(names, parts, positions, over)
            position += rows
        if position != stop:
            raise CorruptionError(f"fragment {self.fragment.fragment_id} ended at row {position}, not {stop}")

    def take(self, positions: Positions, names: Sequence[str]) -> pa.RecordBatch:
        """The rows at strictly increasing positions."""
        plan = self._columns(names).groups
        over = [(one, columns, *self._patches.over(one, positions)) for one, columns in self._over(names)]
        over = [one for one in over if len(one[2])]
        takes = [
            partial(self._taken, group, self.fragment.row_count, positions, columns)
            for group, columns in plan
        ]
        takes += [
            partial(self._taken, patch.file, patch.file_rows, rows, columns)
            for patch, columns, _, rows in over
        ]
        parts = run_all(takes, together=not self.is_local)
        overlays = [
            Overlay(patch, at, part) for (patch, _, at, _), part in zip(over, parts[len(plan) :], strict=True)
        ]
        return self._assemble(names, parts[: len(plan)], positions.astype(np.int64), overlays)

    def _reader(self, file: ColumnGroup, rows: int) -> FileReader:
        if file.path not in self._readers:
            self._readers[file.path] = self._opened(file, rows)
        return self._readers[file.path]

    def _opened(self, file: ColumnGroup, rows: int) -> FileReader:
        return self._pool.get(self._snapshot.store, file, rows, self._schema_of(file))

    def _schema_of(self, file: ColumnGroup) -> pa.Schema:
        """The file's columns as written; nothing is opened."""
        if file.path not in self._schemas:
            schema = self._snapshot.version.schemas.get(file.schema_id)
            if schema is None:
                raise CorruptionError(
                    f"file {file.path!r} was written with the unknown schema {file.schema_id}"
                )
            by_id = {field_id(field): field for field in schema}
            missing = [identity for identity in file.field_ids if identity not in by_id]
            if missing:
                raise CorruptionError(
                    f"file {file.path!r} holds field {missing[0]}, which its schema does not have"
                )
            self._schemas[file.path] = pa.schema([by_id[identity] for identity in file.field_ids])
        return self._schemas[file.path]

    def _scanned(
        self, file: ColumnGroup, rows: int, columns: list[str], window: _Window
    ) -> Iterator[pa.RecordBatch]:
        """A window of a file, which is opened when the first row is asked for."""
        yield from self._reader(file, rows).scan(
            columns,
            start=window.start,
            stop=window.stop,
            batch_rows=window.batch_rows,
            dictionaries=window.dictionaries,
        )

    def _taken(
        self, file: ColumnGroup, rows: int, positions: Positions, columns: list[str]
    ) -> pa.RecordBatch:
        return self._reader(file, rows).take(positions, columns)

    def _plan(self, names: Sequence[str]) -> list[tuple[ColumnGroup, list[str]]]:
        """The groups to read and, in each, the columns by their name at the time of writing."""
        wanted: dict[str, tuple[ColumnGroup, list[str]]] = {}
        for identity in self._identities(names):
            group = self._owner.get(identity)
            if group is not None:
                columns = wanted.setdefault(group.path, (group, []))[1]
                columns.append(self._stored_name(group, identity))
        return list(wanted.values())

    def _over(self, names: Sequence[str]) -> list[tuple[ColumnPatch, list[str]]]:
        """The patches to read, in their order, and in each the columns by their name at the time of writing."""
        if not self.fragment.patches:
            return []
        identities = self._identities(names)
        return [
            (
                patch,
                [
                    self._stored_name(patch.file, one)
                    for one in identities
                    if one in patch.file.live_field_ids
                ],
            )
            for patch in self._patches.of(identities)
        ]

    def _layer(self, patch: ColumnPatch, columns: list[str], window: _Window) -> PatchStream:
        def open_rows(first: int, last: int) -> Iterator[pa.RecordBatch]:
            rows = _Window(first, last, window.batch_rows, dictionaries=False)
            return self._scanned(patch.file, patch.file_rows, columns, rows)

        return PatchStream(patch, self._patches.positions(patch), (window.start, window.stop), open_rows)

    def _identities(self, names: Sequence[str]) -> list[int]:
        return [field_id(self._snapshot.schema.field(name)) for name in names if name != ROW_ID]

    def _stored_name(self, file: ColumnGroup, identity: int) -> str:
        return str(self._schema_of(file).names[file.field_ids.index(identity)])

    def _values(self, file: ColumnGroup, part: pa.RecordBatch, field: pa.Field, identity: int) -> pa.Array:
        """Values of a column as a file has them, as values of its present type; text as a dictionary stays one."""
        key = (file.path, identity)
        if key not in self._projections:
            written = self._schema_of(file).field(file.field_ids.index(identity))
            self._projections[key] = written, self._projection(file, written, field)
        written, project = self._projections[key]
        array = part.column(written.name)
        if is_encoded(array, written.type) and written.type == field.type:
            return array
        return project(plain(array, written.type))

    def _projection(self, file: ColumnGroup, written: pa.Field, field: pa.Field) -> Projection:
        """How values of a file become values of a column; what they cannot become is told with the file's name."""
        project, name = projection(written, field), name_of(self._snapshot.store, file.path)

        def run(array: pa.Array) -> pa.Array:
            try:
                return project(array)
            except CorruptionError as error:
                raise CorruptionError(f"file {name!r}: {error.what}", fix=error.fix) from error

        return run

    def _assemble(
        self,
        names: Sequence[str],
        parts: list[pa.RecordBatch],
        positions: npt.NDArray[np.int64],
        overlays: Sequence[Overlay],
    ) -> pa.RecordBatch:
        columns = self._columns(names)
        found = {group.path: part for (group, _), part in zip(columns.groups, parts, strict=False)}
        arrays = []
        for target, (field, identity) in zip(columns.schema, columns.fields, strict=True):
            if field is None:
                arrays.append(pa.array(self.row_ids_at(positions)))
                continue
            group = self._owner.get(identity)
            if group is None:
                array = default_values(field, len(positions))
            else:
                array = self._values(group, found[group.path], field, identity)
            layers = [
                (
                    one.at,
                    relabel(self._values(one.patch.file, one.values, field, identity), target.type),
                )
                for one in overlays
                if identity in one.patch.file.live_field_ids
            ]
            if layers or not is_encoded(array, target.type):
                array = relabel(plain(array, target.type), target.type)
            arrays.append(overlaid(array, layers) if layers else array)
        if not arrays:
            return rows_only(len(positions))
        schema = columns.schema
        if any(is_encoded(array, kind) for array, kind in zip(arrays, schema.types, strict=True)):
            schema = pa.schema(
                [field.with_type(array.type) for field, array in zip(schema, arrays, strict=True)]
            )
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _columns(self, names: Sequence[str]) -> _Columns:
        """What is known of columns before any row is read; of those asked for last it is kept."""
        wanted = tuple(names)
        prepared = self._prepared
        if prepared is None or prepared[0] != wanted:
            schema = self._snapshot.schema
            fields = [None if name == ROW_ID else schema.field(name) for name in wanted]
            prepared = (
                wanted,
                _Columns(
                    groups=self._plan(wanted),
                    schema=output_schema(self._snapshot, wanted),
                    fields=[(field, -1 if field is None else field_id(field)) for field in fields],
                ),
            )
            self._prepared = prepared
        return prepared[1]


@dataclass(frozen=True, slots=True)
class _Columns:
    """Columns to read: which file has which, how they are shown, and their fields (None: row ids) with their ids."""

    groups: list[tuple[ColumnGroup, list[str]]]
    schema: pa.Schema
    fields: list[tuple[pa.Field | None, int]]


@dataclass(frozen=True, slots=True)
class _Window:
    """Rows of a file to read, and how."""

    start: int
    stop: int
    batch_rows: int
    dictionaries: bool


def _begun(
    streams: list[Iterator[pa.RecordBatch]], layers: list[PatchStream]
) -> list[Iterator[pa.RecordBatch]]:
    """The streams with the first batch of each read already, and of each layer, all in one round."""
    firsts: list[pa.RecordBatch | None] = [None] * len(streams)

    def begin(number: int) -> None:
        firsts[number] = next(streams[number], None)

    calls: list[Callable[[], None]] = [partial(begin, number) for number in range(len(streams))]
    run_all([*calls, *(layer.begin for layer in layers)], together=True)
    return [
        iter(()) if first is None else chain([first], rest)
        for first, rest in zip(firsts, streams, strict=True)
    ]


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
