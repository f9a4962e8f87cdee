"""Row access: rows by row id, each column group read once per fragment, in the order asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lake_engines.files.base import gather
from lake_engines.files.vector_reader import vectors_to_arrow
from lake_engines.fragment_reader import FragmentReader, ReaderPool, output_schema
from lake_format.errors import NotFoundError
from lake_format.parallel import run_all
from lake_format.row_ids import U64
from lake_format.schema import ROW_ID, is_vector
from lake_format.snapshot import Snapshot

__all__ = ["take_located", "take_rows"]

_Indexes = npt.NDArray[np.int64]


def take_rows(snapshot: Snapshot, row_ids: U64, columns: Sequence[str], pool: ReaderPool) -> pa.Table:
    """One row per row id, in order; NotFoundError naming row ids that no live row has."""
    snapshot = snapshot.narrowed(snapshot.manifest_bounds.may_hold(row_ids))
    owners, positions = snapshot.locations.locate(row_ids)
    missing = row_ids[owners < 0]
    if len(missing):
        some = ", ".join(str(int(row_id)) for row_id in missing[:5])
        raise NotFoundError(
            f"{len(missing)} of {len(row_ids)} row ids have no row in version {snapshot.version.version}: {some}",
            fix="they were deleted, or never given out",
        )
    return take_located(snapshot, owners, positions, columns, pool)


def take_located(
    snapshot: Snapshot, owners: _Indexes, positions: _Indexes, columns: Sequence[str], pool: ReaderPool
) -> pa.Table:
    """One row per (fragment, position), in order.

    Parameters
    ----------
    owners, positions
        Rows of the fragment table and positions in those fragments; shape ``(n,)`` each.
    """
    schema = output_schema(snapshot, columns)
    if len(owners) == 0:
        return schema.empty_table()
    if bool((owners == owners[0]).all()):
        batch = _take_fragment(pool.fragment(snapshot, int(owners[0])), positions, schema)
        return pa.Table.from_batches([batch], schema)
    distinct = np.unique(owners).tolist()
    order = [np.flatnonzero(owners == owner) for owner in distinct]
    readers = [pool.fragment(snapshot, owner) for owner in distinct]
    takes = [
        partial(_take_fragment, reader, positions[rows], schema)
        for reader, rows in zip(readers, order, strict=True)
    ]
    parts = run_all(takes, together=not readers[0].is_local)
    merged = pa.concat_batches(parts)
    back = np.empty(len(owners), np.int64)
    back[np.concatenate(order)] = np.arange(len(owners))
    return pa.Table.from_batches([gather(merged, back)], schema)


def _take_fragment(reader: FragmentReader, positions: _Indexes, schema: pa.Schema) -> pa.RecordBatch:
    """Rows of one fragment in the order of ``positions``, repeats allowed.

    Vectors and row ids are addressed directly, in any order; other columns are read sorted and put in order.
    """
    others = [field.name for field in schema if not is_vector(field.type) and field.name != ROW_ID]
    calls: list[Callable[[], Mapping[str, pa.Array]]] = [
        partial(_take_vectors, reader, field, positions) for field in schema if is_vector(field.type)
    ]
    if others:
        calls.append(partial(_take_others, reader, others, positions))
    found: dict[str, pa.Array] = {}
    if ROW_ID in schema.names:
        found[ROW_ID] = pa.array(reader.row_ids_at(positions))
    for columns in run_all(calls, together=len(calls) > 1 and not reader.is_local):
        found |= columns
    return pa.RecordBatch.from_arrays([found[name] for name in schema.names], schema=schema)


def _take_others(reader: FragmentReader, names: list[str], positions: _Indexes) -> Mapping[str, pa.Array]:
    wanted = positions.astype(np.uint64)
    if (wanted[1:] > wanted[:-1]).all():
        batch = reader.take(wanted, names)
    else:
        distinct, inverse = np.unique(wanted, return_inverse=True)
        batch = gather(reader.take(distinct, names), inverse.astype(np.int64))
    return dict(zip(names, batch.columns, strict=True))


def _take_vectors(reader: FragmentReader, field: pa.Field, positions: _Indexes) -> Mapping[str, pa.Array]:
    vectors = reader.vectors(field.name)
    if vectors is None:
        return {field.name: pa.nulls(len(positions), field.type)}
    values, valid = vectors.take_vectors(positions)
    values = values.astype(field.type.value_type.to_pandas_dtype(), copy=False)  # written before a widening
    return {field.name: vectors_to_arrow(values, valid, field.type)}
