"""Writes the live rows of several fragments anew, in their order or in another; memory is bounded.

Rows that keep their order go batch by batch; others through an external sort.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from lake_engines.arrays import keep
from lake_engines.fragment_reader import FragmentReader, ReaderPool
from lake_engines.upkeep.row_order import row_keys
from lake_engines.write import discard, write_fragments
from lake_format.compaction import RewriteRequest, Rewritten
from lake_format.engine import WriteRequest
from lake_format.errors import CorruptionError
from lake_format.model import Fragment
from lake_format.parallel import ahead
from lake_format.positions import deleted_positions
from lake_format.row_ids import U64
from lake_format.snapshot import Snapshot

__all__ = ["batch_rows_of", "rewrite_fragments"]

_BATCH_BYTES = 16 << 20
_MOST_ROWS = 65_536
_FEWEST_ROWS = 256


def rewrite_fragments(snapshot: Snapshot, request: RewriteRequest, pool: ReaderPool) -> tuple[Rewritten, ...]:
    """Write the rows that are live in the fragments as fragments of the current schema."""
    version = snapshot.version
    row_ids = np.concatenate([_live_ids(fragment) for fragment in request.fragments])
    if len(row_ids) == 0:
        return ()
    whole = {"write.fragment-rows": str(len(row_ids)), "write.fragment-bytes": str(1 << 62)}
    written = write_fragments(
        snapshot.store,
        WriteRequest(
            data=_read(snapshot, request.fragments, pool),
            schema=version.schema,
            schema_id=version.schema_id,
            # One fragment whatever its size where it is settled already which rows go together.
            properties={**version.properties, **({} if request.split else whole)},
            clustering=request.clustering,
            progress=request.progress,
            new_id=request.new_id,
        ),
        row_keys(snapshot, request, row_ids, pool),
        lasting=True,
    )
    if written.rows != len(row_ids):
        discard(snapshot.store, written)
        raise CorruptionError(
            f"fragments hold {written.rows} live rows where their manifest says {len(row_ids)}",
            fix="run verify() on the table",
        )
    moved = row_ids if written.order is None else row_ids[written.order]
    ends = np.cumsum([fragment.row_count for fragment in written.fragments])
    return tuple(
        Rewritten(
            fragment=replace(fragment, partition=request.fragments[0].partition),
            row_ids=ids,
            features=written.features,
        )
        for fragment, ids in zip(written.fragments, np.split(moved, ends[:-1]), strict=True)
    )


def batch_rows_of(fragment: Fragment) -> int:
    """Rows of a fragment that make about 16 MiB."""
    width = max(sum(group.size for group in fragment.groups) // fragment.row_count, 1)
    return max(min(_BATCH_BYTES // width, _MOST_ROWS), _FEWEST_ROWS)


def _read(snapshot: Snapshot, fragments: Sequence[Fragment], pool: ReaderPool) -> Iterator[pa.RecordBatch]:
    """The live rows; where they are many, the next of them are read while the last are written."""
    rows = _live_rows(snapshot, fragments, pool)
    large = sum(group.size for fragment in fragments for group in fragment.groups) >= _BATCH_BYTES
    return ahead(rows) if large else rows


def _live_rows(
    snapshot: Snapshot, fragments: Sequence[Fragment], pool: ReaderPool
) -> Iterator[pa.RecordBatch]:
    names = snapshot.schema.names
    for fragment in fragments:
        reader = FragmentReader(snapshot, fragment, pool)
        deleted = reader.deleted()
        for start, batch in reader.scan(names, 0, fragment.row_count, batch_rows_of(fragment)):
            low, high = np.searchsorted(deleted, [start, start + batch.num_rows])
            if low == high:
                yield batch
                continue
            mask = np.ones(batch.num_rows, bool)
            mask[deleted[low:high].astype(np.int64) - start] = False
            yield keep(batch, mask)


def _live_ids(fragment: Fragment) -> U64:
    live = np.ones(fragment.row_count, bool)
    live[deleted_positions(fragment).astype(np.int64)] = False
    return fragment.row_ids()[live]
