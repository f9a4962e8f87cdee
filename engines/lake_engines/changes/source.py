"""Rows handed in to an upsert, merge, overwrite or keyed append, kept so that they can be read again and by position.

What is in memory already stays there; streams are spooled to a temporary file and mapped. Keys are checked here:
none NULL, none twice. Memory: the key columns and 24 bytes a row.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lake_engines.changes.values import I64
from lake_engines.files.base import gather
from lake_engines.ingest import as_batches, conform
from lake_format.errors import InvalidInputError, StorageError
from lake_format.keys import hash_keys
from lake_format.row_edits import DuplicateKeyError
from lake_format.row_ids import U64
from lake_format.schema import is_computed, is_vector, require_column

__all__ = ["SourceKeys", "StagedRows", "comparable", "key_text"]

_SLICE_ROWS = 65_536


class StagedRows:
    """Rows of a user, conformed to the columns of a table that they have, readable again and again.

    Parameters
    ----------
    data
        Whatever ``append`` takes.
    schema
        The table's schema.
    extra
        A column that the table need not have (``order_by``).

    Raises
    ------
    InvalidInputError
        A column that the table does not have, or a value that does not fit.
    """

    def __init__(self, data: object, schema: pa.Schema, extra: str | None = None) -> None:
        self._spool: tempfile._TemporaryFileWrapper[bytes] | None = None
        self._names: tuple[str, ...] | None = None
        batches = self._conformed(data, schema, extra)
        in_memory = isinstance(data, pa.Table | pa.RecordBatch | list | tuple | Mapping)
        try:
            self.table = _gathered(batches) if in_memory else self._spooled(batches)
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns handed in."""
        return tuple(self.table.schema.names)

    def take(self, rows: I64, columns: Sequence[str] | None = None) -> pa.RecordBatch:
        """Rows by position, in the order asked for."""
        table = self.table if columns is None else self.table.select(list(columns))
        if len(rows) and len(rows) == rows[-1] - rows[0] + 1 and (np.diff(rows) == 1).all():
            chosen = table.slice(int(rows[0]), len(rows))
        else:
            return _gathered_rows(table, rows)
        merged = chosen.combine_chunks()
        arrays = [_single(column) for column in merged.columns]
        return pa.RecordBatch.from_arrays(arrays, schema=merged.schema)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All rows in order."""
        yield from self.table.to_batches(max_chunksize=_SLICE_ROWS)

    def close(self) -> None:
        """Remove the spooled file; the rows must not be read any more."""
        if self._spool is not None:
            self.table = pa.table({})
            self._spool.close()
            self._spool = None

    def _conformed(self, data: object, schema: pa.Schema, extra: str | None) -> Iterator[pa.RecordBatch]:
        for batch in as_batches(_as_columns(data)):
            if self._names is None:
                self._names = tuple(batch.schema.names)
            for name in batch.schema.names:
                if name != extra:
                    require_column(schema, name)
                if name not in self._names:
                    raise InvalidInputError(
                        f"column {name!r} is in some of the batches handed in, but not in the first"
                    )
            own = [name for name in self._names if schema.get_field_index(name) >= 0]
            narrow = pa.schema([_handed_in(schema.field(name)) for name in own])
            present = [name for name in own if batch.schema.get_field_index(name) >= 0]
            result = conform(batch.select(present), narrow)
            if extra is not None and extra not in own:
                require_column(batch.schema, extra)
                result = result.append_column(extra, batch.column(extra))
            yield result

    def _spooled(self, batches: Iterator[pa.RecordBatch]) -> pa.Table:
        first = next(batches, None)
        if first is None:
            return pa.table({})
        try:
            self._spool = tempfile.NamedTemporaryFile(prefix="lake-rows-", suffix=".arrow")  # noqa: SIM115
            with pa.ipc.new_file(self._spool, first.schema) as writer:
                writer.write_batch(first)
                for batch in batches:
                    writer.write_batch(batch)
            self._spool.flush()
            return pa.ipc.open_file(pa.memory_map(str(Path(self._spool.name)))).read_all()
        except OSError as error:
            raise StorageError(
                f"the rows handed in cannot be kept in {tempfile.gettempdir()!r}: {error}",
                fix="make room there, or point TMPDIR elsewhere",
            ) from error


def _handed_in(field: pa.Field) -> pa.Field:
    """A column as rows may have it; of a computed one no value is needed."""
    return field.remove_metadata().with_nullable(field.nullable or is_computed(field))


def _as_columns(data: object) -> object:
    """A list of dictionaries as columns, so that all batches have the same ones."""
    if not isinstance(data, list | tuple) or not data or not all(isinstance(row, Mapping) for row in data):
        return data
    names = dict.fromkeys(name for row in data for name in row)
    return {name: [row.get(name) for row in data] for name in names}


def _gathered(batches: Iterator[pa.RecordBatch]) -> pa.Table:
    found = list(batches)
    filled = [batch for batch in found if batch.num_rows] or found[:1]
    return pa.Table.from_batches(filled) if filled else pa.table({})


def _single(column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _gathered_rows(table: pa.Table, rows: I64) -> pa.RecordBatch:
    """Rows by position, chunk by chunk: Arrow would put whole columns together before it takes from them."""
    columns = []
    for column in table.columns:
        vectors = _gathered_vectors(column, rows)
        columns.append(_gathered_values(column, rows) if vectors is None else vectors)
    return pa.RecordBatch.from_arrays(columns, schema=table.schema)


def _gathered_values(column: pa.ChunkedArray, rows: I64) -> pa.Array:
    if column.num_chunks == 1:
        return _taken(column.chunk(0), rows)
    parts, order = [pa.array([], column.type)], []
    for chunk, places, inside in _by_chunk(column, rows):
        parts.append(_taken(chunk, inside))
        order.append(places)
    back = np.empty(len(rows), np.int64)
    back[np.concatenate([*order, np.empty(0, np.int64)])] = np.arange(len(rows))
    return _taken(pa.concat_arrays(parts), back)


def _gathered_vectors(column: pa.ChunkedArray, rows: I64) -> pa.Array | None:
    """Some vectors of a column; None where Arrow has to do it.

    NumPy asks for large pages, of which the kernel clears fewer: new memory costs more than copying into it.
    """
    kind = column.type
    if not is_vector(kind) or column.null_count:
        return None
    found = np.empty((len(rows), kind.list_size), kind.value_type.to_pandas_dtype())
    for chunk, places, inside in _by_chunk(column, rows):
        values = chunk.flatten()
        if values.null_count:
            return None
        vectors = values.to_numpy(zero_copy_only=True).reshape(-1, kind.list_size)
        if len(inside) == len(rows):
            np.take(vectors, inside, axis=0, out=found, mode="clip")
        else:
            found[places] = vectors[inside]
    return pa.FixedSizeListArray.from_arrays(pa.array(found.reshape(-1)), type=kind)


def _by_chunk(column: pa.ChunkedArray, rows: I64) -> Iterator[tuple[pa.Array, I64, I64]]:
    """Each chunk that holds rows: it, which of the rows they are, and where in it they lie."""
    if column.num_chunks == 1:
        yield column.chunk(0), np.arange(len(rows)), rows
        return
    starts = np.cumsum([0, *(len(chunk) for chunk in column.chunks)])
    owners = np.searchsorted(starts, rows, side="right") - 1
    for owner in np.unique(owners).tolist():
        places = np.flatnonzero(owners == owner)
        yield column.chunk(owner), places, rows[places] - starts[owner]


def _taken(array: pa.Array, rows: I64) -> pa.Array:
    return gather(pa.RecordBatch.from_arrays([array], ["values"]), rows).column(0)


class SourceKeys:
    """The keys of staged rows: hashed, sorted by hash, each at most once.

    Parameters
    ----------
    rows, columns
        The rows and the columns that make their key.
    order_by
        The row with the greatest value of this column stands for its key; None makes a repeated key an error.

    Raises
    ------
    InvalidInputError
        A NULL in a key; :class:`DuplicateKeyError` for a key that occurs twice and is not decided.
    """

    def __init__(
        self,
        rows: StagedRows,
        columns: Sequence[str],
        order_by: str | None = None,
        *,
        subject: str = "the rows handed in",
    ) -> None:
        self.columns = tuple(columns)
        self._subject = subject
        self.parts = [_single(rows.table.column(name)) for name in columns]
        _refuse_null(self.parts, self.columns)
        hashes = _hashes(self.parts, len(rows))
        order = np.argsort(hashes, kind="stable")
        groups = _groups(self.parts, hashes, order)
        if groups is not None:
            order = self._decided(rows, *groups, order_by)
            order = order[np.argsort(hashes[order], kind="stable")]
        self.rows: I64 = order
        """One row for each key, ascending by hash."""
        self.hashes: U64 = hashes[order]

    @cached_property
    def distinct_hashes(self) -> U64:
        """The hashes, each once, ascending."""
        first = np.ones(len(self.hashes), bool)
        first[1:] = self.hashes[1:] != self.hashes[:-1]
        return self.hashes[first]

    def part(self, index: int, rows: I64) -> pa.Array:
        """One column of the keys of some rows."""
        return self.parts[index].take(pa.array(rows))

    def _decided(self, rows: StagedRows, order: I64, group: I64, order_by: str | None) -> I64:
        repeated = np.flatnonzero(group[1:] == group[:-1])
        if len(repeated) and order_by is None:
            raise DuplicateKeyError(
                f"{self._subject} have the key {key_text(self.columns, self.parts, int(order[repeated[0]]))} "
                "more than once",
                fix="keep one of them, or name a column with order_by= whose greatest value decides",
            )
        if order_by is None:
            return order
        column = _single(rows.table.column(order_by))
        sorting = pc.array_sort_indices(column, null_placement="at_start").to_numpy()
        rank = np.empty(len(column), np.int64)
        rank[sorting] = np.arange(len(column))
        within = np.lexsort((rank[order], group))
        order, group = order[within], group[within]
        last = np.flatnonzero(np.r_[group[1:] != group[:-1], True])
        rivalled = (last > 0) & (group[np.maximum(last - 1, 0)] == group[last])
        self._refuse_ties(column, order, last[rivalled], order_by)
        chosen: I64 = order[last]
        return chosen

    def _refuse_ties(self, column: pa.Array, order: I64, last: I64, order_by: str) -> None:
        best = column.take(pa.array(order[last]))
        second = column.take(pa.array(order[last - 1]))
        same = pc.fill_null(pc.equal(best, second), False)
        tied = pc.or_(same, pc.and_(pc.is_null(best), pc.is_null(second))).to_numpy(zero_copy_only=False)
        if tied.any():
            row = int(order[last[int(np.flatnonzero(tied)[0])]])
            raise DuplicateKeyError(
                f"two rows handed in have the key {key_text(self.columns, self.parts, row)} and the same "
                f"{order_by!r}, {column[row]}",
                fix="keep one of them",
            )


def key_text(columns: Sequence[str], parts: Sequence[pa.Array], row: int) -> str:
    """A key as people read it: ``id=5``, or ``(region='eu', id=5)``."""
    pairs = [f"{name}={part[row].as_py()!r}" for name, part in zip(columns, parts, strict=True)]
    return pairs[0] if len(pairs) == 1 else f"({', '.join(pairs)})"


def _refuse_null(parts: Sequence[pa.Array], columns: Sequence[str]) -> None:
    for name, part in zip(columns, parts, strict=True):
        if part.null_count:
            row = int(np.flatnonzero(part.is_null().to_numpy(zero_copy_only=False))[0])
            raise InvalidInputError(
                f"key column {name!r} is NULL in row {row} of the rows handed in",
                fix="a key identifies its row: fill it in",
            )


def _hashes(parts: Sequence[pa.Array], rows: int) -> U64:
    slices = [
        hash_keys([part.slice(start, _SLICE_ROWS) for part in parts]) for start in range(0, rows, _SLICE_ROWS)
    ]
    return np.concatenate(slices) if slices else np.empty(0, np.uint64)


def _groups(parts: Sequence[pa.Array], hashes: U64, order: I64) -> tuple[I64, I64] | None:
    """Rows ordered so that equal keys are neighbours, and their group numbers; None if no two hashes are equal."""
    same_hash = hashes[order[1:]] == hashes[order[:-1]]
    at = np.flatnonzero(same_hash)
    if len(at) == 0:
        return None
    same_key = same_hash.copy()
    same_key[at] = _equal_keys(parts, order[at], order[at + 1])
    if (same_hash & ~same_key).any():
        order = _regrouped(parts, hashes, order, same_hash)
        same_key[at] = _equal_keys(parts, order[at], order[at + 1])
    group = np.concatenate([[0], np.cumsum(~same_key)]).astype(np.int64)
    return order, group


def _regrouped(parts: Sequence[pa.Array], hashes: U64, order: I64, same_hash: npt.NDArray[np.bool_]) -> I64:
    """Put rows of different keys and one hash in the order of their keys; such collisions are next to unheard of."""
    order = order.copy()
    starts = np.flatnonzero(np.r_[True, ~same_hash])
    ends = np.r_[starts[1:], len(order)]
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        if end - start > 1:
            rows = order[start:end].tolist()
            rows.sort(key=lambda row: tuple(part[row].as_py() for part in parts))
            order[start:end] = rows
    return order


def _equal_keys(parts: Sequence[pa.Array], first: I64, second: I64) -> npt.NDArray[np.bool_]:
    equal = np.ones(len(first), bool)
    for part in parts:
        same = pc.equal(comparable(part.take(pa.array(first))), comparable(part.take(pa.array(second))))
        equal &= same.to_numpy(zero_copy_only=False)
    return equal


def comparable(array: pa.Array) -> pa.Array:
    """The values in a type that Arrow's comparisons and takes know."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_string_view(array.type):
        return array.cast(pa.large_string())
    if pa.types.is_binary_view(array.type):
        return array.cast(pa.large_binary())
    return array
