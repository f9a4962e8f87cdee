"""Row access: rows by row id, each column group read once per fragment, in the order asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lake_engines.files.vector_reader import vectors_to_arrow
from lake_engines.fragment_reader import FragmentReader, ReaderPool, output_schema
from lake_format.errors import NotFoundError
from lake_format.row_ids import U64
from lake_format.schema import ROW_ID, is_vector
from lake_format.snapshot import Snapshot

__all__ = ["take_located", "take_rows"]

_Indexes = npt.NDArray[np.int64]


def take_rows(snapshot: Snapshot, row_ids: U64, columns: Sequence[str], pool: ReaderPool) -> pa.Table:
    """One row per row id, in order; NotFoundError naming row ids that no live row has."""
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
    parts, order = [], []
    alone = bool((owners == owners[0]).all())
    for owner in [int(owners[0])] if alone else np.unique(owners).tolist():
        rows = np.flatnonzero(owners == owner)
        reader = FragmentReader(snapshot, snapshot.fragments.fragment(owner), pool)
        parts.append(_take_fragment(reader, positions[rows], schema))
        order.append(rows)
    if len(parts) == 1:
        return pa.Table.from_batches(parts, schema)
    merged = pa.concat_batches(parts)
    back = np.empty(len(owners), np.int64)
    back[np.concatenate(order)] = np.arange(len(owners))
    return pa.Table.from_batches([merged.take(pa.array(back))], schema)


def _take_fragment(reader: FragmentReader, positions: _Indexes, schema: pa.Schema) -> pa.RecordBatch:
    """Rows of one fragment in the order of ``positions``, repeats allowed.

    Vectors and row ids are addressed directly, in any order; other columns are read sorted and put in order.
    """
    found: dict[str, pa.Array] = {}
    others = []
    for field in schema:
        if is_vector(field.type):
            found[field.name] = _take_vectors(reader, field, positions)
        elif field.name == ROW_ID:
            found[ROW_ID] = pa.array(reader.row_ids_at(positions))
        else:
            others.append(field.name)
    if others:
        distinct, inverse = np.unique(positions.astype(np.uint64), return_inverse=True)
        batch = reader.take(distinct, others)
        if len(distinct) != len(positions) or (inverse[1:] < inverse[:-1]).any():
            batch = batch.take(pa.array(inverse.astype(np.int64)))
        found |= dict(zip(others, batch.columns, strict=True))
    return pa.RecordBatch.from_arrays([found[name] for name in schema.names], schema=schema)


def _take_vectors(reader: FragmentReader, field: pa.Field, positions: _Indexes) -> pa.Array:
    vectors = reader.vectors(field.name)
    if vectors is None:
        return pa.nulls(len(positions), field.type)
    return vectors_to_arrow(*vectors.take_vectors(positions), field.type)
