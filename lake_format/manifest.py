"""Manifests: fragments as rows of an Arrow IPC file, there and back (spec/tables.md, MAN clauses).

A manifest is columnar so that a hundred thousand fragments are pruned by vector instructions, and a
:class:`Fragment` value is made only for those that survive. No storage access here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lake_format.checksum import crc32
from lake_format.errors import CorruptionError
from lake_format.field_history import FieldHistory
from lake_format.manifest_bounds import summarise
from lake_format.model import FILE_COLUMNS, ColumnGroup, ColumnPatch, Fragment, ManifestReference
from lake_format.partition_values import PartitionValues
from lake_format.partitioning import Partition
from lake_format.row_ids import U64, row_id_limits
from lake_format.schema import ROW_ID_STATISTICS
from lake_format.statistics import ColumnStatistics, encode_integers
from lake_format.store.paths import check_object_path, split_external

__all__ = ["MANIFEST_SCHEMA", "FragmentTable", "decode_manifest", "encode_manifest", "inline_manifest"]
__all__ += ["live_rows", "manifest_table", "named_files", "placed_in", "with_file_paths"]

_GROUP = pa.struct(
    [
        pa.field("path", pa.string(), False),
        pa.field("format", pa.string(), False),
        pa.field("size", pa.uint64(), False),
        pa.field("schema_id", pa.uint32(), False),
        pa.field("field_ids", pa.list_(pa.field("item", pa.uint32(), False)), False),
        pa.field("layout", pa.binary(), False),
    ]
)
_PATCH = pa.struct(
    [
        *_GROUP,
        pa.field("file_rows", pa.uint64(), False),
        pa.field("first_row", pa.uint64(), False),
        pa.field("count", pa.uint64(), False),
        pa.field("positions", pa.binary(), False),
    ]
)
_STATISTICS = pa.struct(
    [
        pa.field("field_id", pa.uint32(), False),
        pa.field("null_count", pa.uint64(), False),
        pa.field("nan_count", pa.uint64()),
        pa.field("lower", pa.binary()),
        pa.field("upper", pa.binary()),
    ]
)
_PARTITION = pa.struct(
    [
        pa.field("spec_id", pa.uint32()),
        pa.field("values", pa.list_(pa.field("item", pa.binary()))),
    ]
)
MANIFEST_SCHEMA = pa.schema(
    [
        pa.field("fragment_id", pa.uint64(), False),
        pa.field("row_count", pa.uint64(), False),
        pa.field("first_row_id", pa.uint64()),
        pa.field("row_id_sequence", pa.binary()),
        pa.field("deleted_count", pa.uint64(), False),
        pa.field("deletions", pa.binary()),
        pa.field("groups", pa.list_(pa.field("item", _GROUP, False)), False),
        pa.field("statistics", pa.list_(pa.field("item", _STATISTICS, False)), False),
        pa.field("patches", pa.list_(pa.field("item", _PATCH, False))),
        pa.field("partition", _PARTITION),
        pa.field("clustering", pa.string()),
    ]
)
_OPTIONAL = frozenset({"patches", "partition", "clustering"})
"""Columns that are left out of a manifest in which they are NULL throughout."""
_MOST_PIECES = 1024
"""Fragments out of order are put in their places as so many slices at most; beyond that all are copied."""
_SUPERSEDED = 1 << 31
"""Added to the id of a file's column whose values another group has by now; ids themselves are smaller."""
_ROW_IDS = np.uint64(1 << 63)
_NO_STATISTICS = pa.array([], MANIFEST_SCHEMA.field("statistics").type)
_Column = tuple[pa.BinaryArray, pa.BinaryArray, pa.UInt64Array, pa.UInt64Array]
_OPTIONS = pa.ipc.IpcWriteOptions(compression="zstd", use_threads=False)
_READ_OPTIONS = pa.ipc.IpcReadOptions(use_threads=False)  # waking threads takes longer than a manifest


def encode_manifest(fragments: pa.Table | Sequence[Fragment]) -> bytes:
    """The bytes of a manifest holding these fragments, in this order."""
    table = fragments if isinstance(fragments, pa.Table) else manifest_table(fragments)
    unused = [name for name in _OPTIONAL if table.column(name).null_count == table.num_rows]
    table = table.drop_columns(unused)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema, options=_OPTIONS) as writer:
        writer.write_table(table.combine_chunks())
    return bytes(sink.getvalue())


def manifest_table(fragments: Sequence[Fragment]) -> pa.Table:
    """These fragments as rows of a manifest."""
    return pa.Table.from_pylist(
        [_fragment_to_row(fragment) for fragment in fragments], schema=MANIFEST_SCHEMA
    )


def inline_manifest(fragments: pa.Table | Sequence[Fragment]) -> ManifestReference:
    """A manifest of at least one fragment, carried inside the version object itself."""
    table = fragments if isinstance(fragments, pa.Table) else manifest_table(fragments)
    body = encode_manifest(table)
    ids = pc.min_max(table.column("fragment_id")).as_py()
    row_ids, bounds = summarise(FragmentTable([table]))
    return ManifestReference(
        path=None,
        size=len(body),
        crc=crc32(body),
        fragment_count=table.num_rows,
        row_count=live_rows(table),
        first_fragment_id=ids["min"],
        last_fragment_id=ids["max"],
        row_ids=row_ids,
        bounds=bounds,
        body=body,
    )


def decode_manifest(data: bytes, reference: ManifestReference) -> pa.Table:
    """Read and check a manifest; CorruptionError names the object."""
    where = reference.path or "an inline manifest"
    if len(data) != reference.size or crc32(data) != reference.crc:
        raise CorruptionError(f"manifest {where} is truncated or altered (checksum does not match)")
    try:
        table = pa.ipc.open_file(pa.py_buffer(data), options=_READ_OPTIONS).read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CorruptionError(f"manifest {where} cannot be read: {error}") from error
    for field in MANIFEST_SCHEMA:
        if field.name in _OPTIONAL and field.name not in table.schema.names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
        index = table.schema.get_field_index(field.name)
        if index < 0 or table.schema.field(index).type != field.type:
            raise CorruptionError(f"manifest {where} has no column {field.name!r} of type {field.type}")
    if table.num_rows != reference.fragment_count:
        raise CorruptionError(
            f"manifest {where} holds {table.num_rows} fragments, not {reference.fragment_count}"
        )
    table = table.select(MANIFEST_SCHEMA.names)
    for field in MANIFEST_SCHEMA:
        if any(_has_forbidden_null(chunk, field) for chunk in table.column(field.name).chunks):
            raise CorruptionError(f"manifest {where} has a NULL in column {field.name!r}")
    root = None if reference.path is None else split_external(reference.path)[0]
    return table if root is None else placed_in(table, root)


def placed_in(table: pa.Table, root: int) -> pa.Table:
    """The fragments of a manifest that was written for an external root: paths of its own lie there (MAN-8)."""
    for name in FILE_COLUMNS:
        path = named_files(table, name)[1].field("path")
        placed = pc.binary_join_element_wise(f"@{root}", path, "/")
        table = with_file_paths(table, name, pc.if_else(pc.starts_with(path, "@"), path, placed))
    return table


def named_files(table: pa.Table, column: str) -> tuple[pa.Array, pa.StructArray]:
    """All files in one of ``FILE_COLUMNS``, one after another, and for each the row its fragment is in."""
    lists = _files_lists(table, column)
    return pc.list_parent_indices(lists), lists.flatten()


def with_file_paths(table: pa.Table, column: str, paths: pa.Array) -> pa.Table:
    """The manifest with other paths in one of ``FILE_COLUMNS``, in the order of :func:`named_files`."""
    field, lists = MANIFEST_SCHEMA.field(column), _files_lists(table, column)
    files, members = lists.flatten(), list(field.type.value_type)
    columns = [paths if one.name == "path" else files.field(one.name) for one in members]
    moved = pa.ListArray.from_arrays(
        lists.offsets,
        pa.StructArray.from_arrays(columns, fields=members),
        type=field.type,
        mask=lists.is_null() if lists.null_count else None,
    )
    return table.set_column(MANIFEST_SCHEMA.get_field_index(column), field, moved)


def _files_lists(table: pa.Table, column: str) -> pa.ListArray:
    return pa.concat_arrays([*table.column(column).chunks, pa.array([], MANIFEST_SCHEMA.field(column).type)])


def _has_forbidden_null(array: pa.Array, field: pa.Field) -> bool:
    """Whether a field that must not be NULL is, at any depth."""
    if array.null_count and not field.nullable:
        return True
    if pa.types.is_list(field.type):
        return _has_forbidden_null(array.flatten(), field.type.value_field)
    if pa.types.is_struct(field.type):
        return any(_has_forbidden_null(array.field(child.name), child) for child in field.type)
    return False


class FragmentTable:
    """All live fragments of a version, columnar; one row each.

    Attributes
    ----------
    table
        The manifests' rows with superseded fragments left out; schema ``MANIFEST_SCHEMA``.
    history
        The version's schemas, by which statistics written before a type was widened are judged.
    partitions
        The partitions' values, which bound their columns as statistics do.
    """

    def __init__(self, tables: Iterable[pa.Table]) -> None:
        parts = list(tables)
        # In pieces as they come: bringing a hundred thousand fragments together would cost as much as reading them.
        self.table = _in_scan_order(pa.concat_tables(parts)) if parts else MANIFEST_SCHEMA.empty_table()
        self.history: FieldHistory | None = None
        self.partitions: PartitionValues | None = None
        self._cache: dict[int, Fragment] = {}
        self._statistics: _StatisticsColumns | None = None
        self._row_ids: tuple[U64, U64] | None = None

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def integers(self, name: str) -> U64:
        """A whole-number column as numpy, NULLs as zero; shape ``(fragments,)``."""
        column = self.table.column(name)
        if column.null_count:
            column = pc.fill_null(column, 0)
        return np.asarray(column.to_numpy(), dtype=np.uint64)

    def fragment(self, index: int) -> Fragment:
        """The fragment at this row, decoded and checked once."""
        known = self._cache.get(index)
        if known is None:
            known = self._cache[index] = _fragment_from_row(self.table.slice(index, 1).to_pylist()[0])
        return known

    def by_id(self, fragment_id: int) -> Fragment | None:
        """The fragment of this id; None where it is not in the version."""
        ids = self._ids
        at = int(np.searchsorted(ids, np.uint64(fragment_id)))
        return self.fragment(at) if at < len(ids) and ids[at] == fragment_id else None

    @cached_property
    def _ids(self) -> U64:
        return self.integers("fragment_id")

    def partition_numbers(self) -> npt.NDArray[np.int64]:
        """For each fragment a number that only those of the same partition have; shape ``(fragments,)``."""
        column = self.table.column("partition")
        if column.null_count == len(column):
            return np.zeros(len(self), np.int64)
        known: dict[object, int] = {}
        keys = ((one["spec_id"], *one["values"]) if one else None for one in column.to_pylist())
        return np.array([known.setdefault(key, len(known)) for key in keys], np.int64)

    def row_id_limits(self) -> tuple[U64, U64]:
        """The smallest and the greatest row id of each fragment, deleted rows included; shape ``(fragments,)``."""
        if self._row_ids is None:
            low, rows = np.array(self.integers("first_row_id")), self.integers("row_count")
            if (low >= _ROW_IDS).any() or (rows >= _ROW_IDS - low).any():
                raise CorruptionError(
                    "a fragment has row ids of 2**63 or more", fix="run verify() on the table"
                )
            high = low + rows - np.uint64(1)
            for place, sequence in self._sequences():
                low[place], high[place] = row_id_limits(sequence, int(rows[place]))
            self._row_ids = low, high
        return self._row_ids

    def _sequences(self) -> Iterator[tuple[int, bytes]]:
        """The row-id sequences, each with the row its fragment is in; chunk by chunk, which Arrow's take is not."""
        start = 0
        for first, sequence in zip(
            *(self.table.column(name).chunks for name in ("first_row_id", "row_id_sequence")), strict=True
        ):
            for index in np.flatnonzero(first.is_null()).tolist() if first.null_count else ():
                found = sequence[index].as_py()
                if found is None:
                    raise CorruptionError("a fragment has neither a first row id nor a row-id sequence")
                yield start + index, found
            start += len(first)

    def fragments(self, selected: npt.NDArray[np.bool_] | None = None) -> list[Fragment]:
        """The fragments where ``selected`` is true (all without it), in order."""
        indexes = range(len(self)) if selected is None else np.flatnonzero(selected).tolist()
        return [self.fragment(index) for index in indexes]

    # --- the statistics view that predicate pruning reads -------------------------------------------------

    @property
    def row_count(self) -> npt.NDArray[np.int64]:
        """Physical rows of each fragment; shape ``(fragments,)``."""
        return self.integers("row_count").astype(np.int64)

    def column(self, field_id: int) -> _Column | None:
        """Bounds and counts of one field over all fragments.

        Returns
        -------
        tuple or None
            ``(lower, upper, null_count, nan_count)``, one entry a fragment; NULL is unknown. None when nothing
            is known of the field. For ``ROW_ID_STATISTICS`` those of row ids, deleted rows included.
        """
        if field_id == ROW_ID_STATISTICS:
            none = pa.array(np.zeros(len(self), np.uint64))
            low, high = self.row_id_limits()
            return encode_integers(low), encode_integers(high), none, none
        if self._statistics is None:
            self._statistics = _StatisticsColumns(self.table.column("statistics"))
        found = self._statistics.of(field_id)
        if self.history is not None:
            found = self.history.corrected(field_id, found, self.table)
        return found if self.partitions is None else self.partitions.narrowed(field_id, found)

    def fields_with_statistics(self) -> list[int]:
        """Ids of the fields that some fragment has statistics of, ascending."""
        if self._statistics is None:
            self._statistics = _StatisticsColumns(self.table.column("statistics"))
        return self._statistics.fields()

    def may_equal(self, field_id: int, options: pa.Array) -> npt.NDArray[np.bool_] | None:
        """Where a field may equal one of some values by the fragments' buckets; None where none are known."""
        return None if self.partitions is None else self.partitions.may_equal(field_id, options)


def _in_scan_order(table: pa.Table) -> pa.Table:
    """The fragments by their ids: replaced entries are stored last, but their rows keep their place (MAN-6)."""
    ids = table.column("fragment_id").to_numpy()
    if (ids[1:] >= ids[:-1]).all():
        return table
    order = np.argsort(ids, kind="stable")
    starts = np.flatnonzero(np.r_[True, order[1:] != order[:-1] + 1])
    if len(starts) > _MOST_PIECES:
        return table.take(pa.array(order))
    stops = np.r_[starts[1:], len(order)]
    return pa.concat_tables(
        table.slice(int(order[start]), int(stop - start)) for start, stop in zip(starts, stops, strict=True)
    )


class _StatisticsColumns:
    """The nested statistics column, flattened once and cut by field id on demand."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        lists = (
            column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays([*column.chunks, _NO_STATISTICS])
        )
        self._values = lists.flatten()
        self._ids = self._values.field("field_id").to_numpy(zero_copy_only=False)
        self._owner = np.repeat(np.arange(len(lists)), np.diff(lists.offsets.to_numpy()))
        self._fragments = len(lists)
        self._known: dict[int, _Column | None] = {}

    def fields(self) -> list[int]:
        return [int(one) for one in np.unique(self._ids)]

    def of(self, field_id: int) -> _Column | None:
        if field_id not in self._known:
            self._known[field_id] = self._cut(np.flatnonzero(self._ids == field_id))
        return self._known[field_id]

    def _cut(self, rows: npt.NDArray[np.int64]) -> _Column | None:
        if len(rows) == 0:
            return None
        indexes = np.zeros(self._fragments, np.int64)
        unknown = np.ones(self._fragments, bool)
        indexes[self._owner[rows]], unknown[self._owner[rows]] = rows, False
        picked = self._values.take(pa.array(indexes, mask=unknown))
        # A struct's NULLs hide its members; flatten() carries them down, field() would not.
        members = dict(zip(_STATISTICS.names, picked.flatten(), strict=True))
        return members["lower"], members["upper"], members["null_count"], members["nan_count"]


def live_rows(table: pa.Table) -> int:
    """How many rows of these fragments are not deleted."""
    total = pc.sum(table.column("row_count")).as_py() or 0
    return int(total) - int(pc.sum(table.column("deleted_count")).as_py() or 0)


def _fragment_to_row(fragment: Fragment) -> dict[str, Any]:
    return {
        "fragment_id": fragment.fragment_id,
        "row_count": fragment.row_count,
        "first_row_id": fragment.first_row_id,
        "row_id_sequence": fragment.row_id_sequence,
        "deleted_count": fragment.deleted_count,
        "deletions": fragment.deletions,
        "groups": [_group_to_struct(group) for group in fragment.groups],
        "patches": [_patch_to_struct(patch) for patch in fragment.patches] or None,
        "statistics": [
            {
                "field_id": column.field_id,
                "null_count": column.null_count,
                "nan_count": column.nan_count,
                "lower": column.lower,
                "upper": column.upper,
            }
            for column in fragment.statistics
        ],
        "partition": None
        if fragment.partition is None
        else {"spec_id": fragment.partition.spec_id, "values": list(fragment.partition.values)},
        "clustering": fragment.clustering,
    }


def _group_to_struct(group: ColumnGroup) -> dict[str, Any]:
    return {
        "path": group.path,
        "format": group.format,
        "size": group.size,
        "schema_id": group.schema_id,
        "field_ids": [one | _SUPERSEDED if one in group.superseded else one for one in group.field_ids],
        "layout": group.layout,
    }


def _patch_to_struct(patch: ColumnPatch) -> dict[str, Any]:
    return {
        **_group_to_struct(patch.file),
        "file_rows": patch.file_rows,
        "first_row": patch.first_row,
        "count": patch.count,
        "positions": patch.positions,
    }


def _fragment_from_row(row: dict[str, Any]) -> Fragment:
    name = f"fragment {row['fragment_id']}"
    if (row["first_row_id"] is None) == (row["row_id_sequence"] is None):
        raise CorruptionError(f"{name} must have either a first row id or a row-id sequence")
    if row["deleted_count"] > row["row_count"] or row["row_count"] == 0 or not row["groups"]:
        raise CorruptionError(f"{name} has impossible row counts or no column groups")
    groups = tuple(_group_from_struct(group) for group in row["groups"])
    held = [field_id for group in groups for field_id in group.live_field_ids]
    if len(set(held)) != len(held):
        raise CorruptionError(f"{name} holds a column in two groups")
    return Fragment(
        fragment_id=row["fragment_id"],
        row_count=row["row_count"],
        first_row_id=row["first_row_id"],
        row_id_sequence=row["row_id_sequence"],
        deleted_count=row["deleted_count"],
        deletions=row["deletions"],
        groups=groups,
        patches=tuple(_patch_from_struct(patch, name) for patch in row["patches"] or ()),
        statistics=tuple(ColumnStatistics(**column) for column in row["statistics"]),
        partition=_partition(row["partition"]),
        clustering=row["clustering"],
    )


def _group_from_struct(raw: dict[str, Any]) -> ColumnGroup:
    return ColumnGroup(
        field_ids=tuple(one & ~_SUPERSEDED for one in raw["field_ids"]),
        superseded=frozenset(one & ~_SUPERSEDED for one in raw["field_ids"] if one & _SUPERSEDED),
        schema_id=raw["schema_id"],
        path=check_object_path(raw["path"]),
        format=raw["format"],
        size=raw["size"],
        layout=raw["layout"],
    )


def _patch_from_struct(raw: dict[str, Any], name: str) -> ColumnPatch:
    if raw["count"] == 0 or raw["first_row"] + raw["count"] > raw["file_rows"]:
        raise CorruptionError(f"{name} has a patch of rows that its file {raw['path']!r} does not have")
    return ColumnPatch(
        file=_group_from_struct(raw),
        file_rows=raw["file_rows"],
        first_row=raw["first_row"],
        count=raw["count"],
        positions=raw["positions"],
    )


def _partition(raw: dict[str, Any] | None) -> Partition | None:
    return None if raw is None else Partition(spec_id=raw["spec_id"], values=tuple(raw["values"]))
