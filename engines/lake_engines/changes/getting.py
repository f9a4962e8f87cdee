"""Rows by their key: looked up, compared and read in one take of each fragment that may have one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from lake_engines.changes.lookup import KeyLookup
from lake_engines.changes.source import SourceKeys, StagedRows
from lake_engines.files.base import gather
from lake_engines.fragment_reader import FragmentReader, ReaderPool, output_schema
from lake_format.snapshot import Snapshot

__all__ = ["get_rows"]


def get_rows(snapshot: Snapshot, keys: pa.Table, columns: Sequence[str], pool: ReaderPool) -> pa.Table:
    """The rows that have these keys, in the order of the keys, repeated where a key is."""
    schema = output_schema(snapshot, columns)
    staged = StagedRows(keys, snapshot.schema)
    place: dict[tuple[object, ...], int] = {}
    first: list[int] = []  # of each distinct key
    asked = []
    for number, key in enumerate(zip(*(column.to_pylist() for column in staged.table.columns), strict=True)):
        if key not in place:
            place[key] = len(first)
            first.append(number)
        asked.append(place[key])
    if not asked:
        return schema.empty_table()
    distinct = StagedRows(staged.table.take(pa.array(first)), snapshot.schema)
    lookup = KeyLookup(SourceKeys(distinct, keys.schema.names))
    row_of = np.full(len(first), -1, np.int64)
    batches: list[pa.RecordBatch] = []
    rows = 0
    for candidates, window in lookup.sweep(snapshot, pool, single=columns):
        if candidates.positions is not None:
            batch = gather(window.batch.select(list(columns)), window.rows)
        else:  # all keys of the fragment were read: take what else is wanted of the rows that have one
            reader = FragmentReader(snapshot, candidates.fragment, pool)
            batch = reader.take(window.positions[window.rows].astype(np.uint64), list(columns))
        row_of[window.origin] = np.arange(rows, rows + batch.num_rows)
        batches.append(batch)
        rows += batch.num_rows
    found = row_of[np.array(asked)]
    found = found[found >= 0]
    if len(found) == 0:
        return schema.empty_table()
    return pa.Table.from_batches([gather(pa.concat_batches(batches), found)], schema)
