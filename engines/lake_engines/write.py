"""Rows into files: streams batches into column groups, cuts fragments at size limits, gathers statistics.

Nothing written here is visible until a commit names it. Memory is bounded by the writers' pages, whatever the
length of the stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from uuid import UUID

import pyarrow as pa

from lake_engines.arrays import unsliced
from lake_engines.files import open_sized_writer, open_writer, vortex_can_hold
from lake_engines.files.base import FileWriter
from lake_engines.ingest import as_batches, conform
from lake_engines.ordering.arranging import Arranger, Piece
from lake_engines.ordering.keys import RowKeys
from lake_format.engine import Progress, WriteRequest, Written
from lake_format.errors import LakeError
from lake_format.model import OPEN_FEATURE, ColumnGroup, NewFragment
from lake_format.open_layout import is_open
from lake_format.parallel import run_all
from lake_format.partitioning import Partition
from lake_format.paths import data_path
from lake_format.properties import integer_property, text_property
from lake_format.schema import field_id, is_vector
from lake_format.statistics import StatisticsBuilder
from lake_format.store.base import Store, is_local

__all__ = ["GroupPlan", "discard", "discard_objects", "plan_groups", "write_fragments"]

_SLICE_ROWS = 65_536
_LARGE = 64 << 10
"""From so many bytes on the files of a fragment are finished side by side."""


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """Columns that share a file: their names in order and the file's format."""

    columns: tuple[str, ...]
    format: str  # "vortex", "parquet", or "auto": Vortex, but for small files on a local disk
    features: frozenset[str] = frozenset()
    """What a reader of a Parquet file must know."""
    is_open: bool = False
    """Whether it is a file of the open layout."""

    def open_writer(
        self, store: Store, schema: pa.Schema, new_id: Callable[[], UUID], *, lasting: bool = False
    ) -> FileWriter:
        """A writer for a new file of the group."""
        if self.format == "auto" and is_local(store):
            return open_sized_writer(store, lambda chosen: data_path(new_id(), chosen), schema)
        chosen = "vortex" if self.format == "auto" else self.format
        path = data_path(new_id(), chosen)
        return open_writer(store, path, schema, format=chosen, plain=self.is_open, lasting=lasting)

    def needs(self, file_format: str) -> frozenset[str]:
        """What a reader of a file of the group must know."""
        return frozenset({"vortex-files"}) if file_format == "vortex" else self.features


def plan_groups(schema: pa.Schema, properties: Mapping[str, str]) -> list[GroupPlan]:
    """Which columns go together.

    Each vector column alone, all others in the scalar format if it holds them; or, in the open layout, all in one
    Parquet file that anybody reads.
    """
    if is_open(properties):
        return [GroupPlan(tuple(schema.names), "parquet", _open_features(schema), is_open=True)]
    scalar_format = text_property(properties, "write.scalar-format")
    vectors = [
        GroupPlan((field.name,), "parquet", frozenset({"vector-pages"}))
        for field in schema
        if is_vector(field.type)
    ]
    scalars = [field for field in schema if not is_vector(field.type)]
    vortex = [field.name for field in scalars if scalar_format != "parquet" and vortex_can_hold(field.type)]
    parquet = [field.name for field in scalars if field.name not in set(vortex)]
    groups = [GroupPlan(tuple(vortex), scalar_format)] if vortex else []
    groups += [GroupPlan(tuple(parquet), "parquet")] if parquet else []
    return groups + vectors


def _open_features(schema: pa.Schema) -> frozenset[str]:
    if not any(is_vector(field.type) for field in schema):
        return frozenset()
    return frozenset({"vector-pages" if len(schema) == 1 else OPEN_FEATURE})


class _FragmentWriter:
    """One fragment being written: a file per column group, and the statistics of its rows."""

    def __init__(
        self,
        store: Store,
        request: WriteRequest,
        groups: list[GroupPlan],
        partition: Partition | None,
        *,
        lasting: bool,
    ) -> None:
        schema = request.schema
        self.partition = partition
        self._clustering = None if request.clustering is None else str(request.clustering)
        self.rows = 0
        self.bytes = 0
        self._store = store
        self._schema_id = request.schema_id
        self._statistics = StatisticsBuilder(schema)
        self._groups = groups
        self._schemas = [pa.schema([schema.field(name) for name in group.columns]) for group in groups]
        self._writers: list[FileWriter] = []
        self._closed: dict[int, ColumnGroup] = {}
        try:
            for group, group_schema in zip(groups, self._schemas, strict=True):
                writer = group.open_writer(store, group_schema, request.new_id, lasting=lasting)
                self._writers.append(writer)
        except BaseException:
            self.abort()
            raise

    def write(self, batch: pa.RecordBatch) -> None:
        self._statistics.update(batch)
        for group, writer, schema in zip(self._groups, self._writers, self._schemas, strict=True):
            columns = [unsliced(batch.column(name)) for name in group.columns]
            writer.write(pa.RecordBatch.from_arrays(columns, schema=schema))
        self.rows += batch.num_rows
        self.bytes += batch.nbytes

    def close(self) -> NewFragment:
        closing = [partial(self._close_group, number) for number in range(len(self._groups))]
        run_all(
            closing, together=self.bytes >= _LARGE
        )  # one encodes or waits for the disk while another does
        return NewFragment(
            row_count=self.rows,
            groups=tuple(self._closed[number] for number in range(len(self._groups))),
            statistics=tuple(self._statistics.finish()),
            partition=self.partition,
            clustering=self._clustering,
        )

    def _close_group(self, number: int) -> None:
        file = self._writers[number].close()
        self._closed[number] = ColumnGroup(
            field_ids=tuple(field_id(field) for field in self._schemas[number]),
            schema_id=self._schema_id,
            path=file.path,
            format=file.format,
            size=file.size,
            layout=file.layout,
        )

    def abort(self) -> None:
        for writer in self._writers:
            writer.abort()
        _remove(self._store, list(self._closed.values()))


def write_fragments(
    store: Store,
    request: WriteRequest,
    keys: RowKeys | None = None,
    seen: Callable[[pa.RecordBatch], None] | None = None,
    *,
    lasting: bool = False,
) -> Written:
    """Write rows into new files, as many fragments as the table's partitions and limits ask for.

    Parameters
    ----------
    keys
        What the rows of a partition are sorted by, where it does not follow from the request's clustering.
    seen
        Called with the rows as they are written, in the order they end up in.
    lasting
        Whether the rows stay as they are until all are written, so that they may be kept instead of copied.

    Raises
    ------
    InvalidInputError
        A row does not fit the schema; files written before it are removed.
    """
    groups = plan_groups(request.schema, request.properties)
    done: list[NewFragment] = []
    arranger = Arranger(request, keys)
    try:
        _write_all(store, request, groups, _told_of(arranger, request, seen), done, lasting=lasting)
    except BaseException:
        _remove(store, [group for fragment in done for group in fragment.groups])
        raise
    return Written(
        fragments=tuple(done),
        features=_features(groups, done),
        rows=sum(fragment.row_count for fragment in done),
        bytes=sum(group.size for fragment in done for group in fragment.groups),
        order=arranger.order,
    )


def _write_all(
    store: Store,
    request: WriteRequest,
    groups: list[GroupPlan],
    pieces: Iterator[Piece],
    done: list[NewFragment],
    *,
    lasting: bool,
) -> None:
    row_limit = integer_property(request.properties, "write.fragment-rows")
    byte_limit = integer_property(request.properties, "write.fragment-bytes")
    current: _FragmentWriter | None = None
    written = 0
    try:
        for partition, batch in pieces:
            if current is not None and current.partition != partition:
                done.append(current.close())
                current = None
            start = 0
            while start < batch.num_rows:
                if current is None:
                    current = _FragmentWriter(store, request, groups, partition, lasting=lasting)
                piece = batch.slice(start, row_limit - current.rows)
                current.write(piece)
                start += piece.num_rows
                if current.rows >= row_limit or current.bytes >= byte_limit:
                    done.append(current.close())
                    current = None
            written += batch.num_rows
            _tell(request.progress, written, request.data)
        if current is not None:
            done.append(current.close())
            current = None
    finally:
        if current is not None:
            current.abort()


def _told_of(
    arranger: Arranger, request: WriteRequest, seen: Callable[[pa.RecordBatch], None] | None
) -> Iterator[Piece]:
    """The rows as they are to be written; whoever wants to see them sees them once they are."""
    for piece in arranger.pieces(_slices(request.data, request.schema)):
        yield piece
        if seen is not None:
            seen(piece[1])


def _slices(data: object, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for batch in as_batches(data):
        for start in range(0, max(batch.num_rows, 1), _SLICE_ROWS):
            yield conform(batch.slice(start, _SLICE_ROWS), schema)


def _tell(progress: Progress | None, written: int, data: object) -> None:
    if progress is not None:
        progress("append", written, data.num_rows if isinstance(data, pa.Table | pa.RecordBatch) else 0)


def _features(plans: list[GroupPlan], fragments: list[NewFragment]) -> frozenset[str]:
    needed = {
        feature
        for fragment in fragments
        for plan, group in zip(plans, fragment.groups, strict=True)
        for feature in plan.needs(group.format)
    }
    return frozenset(needed)


def discard(store: Store, written: Written) -> None:
    """Remove the files of fragments that will not be committed."""
    _remove(store, [group for fragment in written.fragments for group in fragment.groups])


def _remove(store: Store, groups: list[ColumnGroup]) -> None:
    discard_objects(store, [group.path for group in groups])


def discard_objects(store: Store, paths: Iterable[str]) -> None:
    """Delete objects that no commit names; one that cannot be deleted is garbage, not an error of the write."""
    for path in paths:
        with suppress(LakeError):
            store.delete(path)
