"""Updates that give rows new keys: each is computed once, and known to be nobody else's, before a file is written.

Memory: the new keys, and 40 bytes for each row that gets one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from lake_engines.changes.assignments import Assignments
from lake_engines.changes.joining import refuse_taken_keys
from lake_engines.changes.placing import touched
from lake_engines.changes.source import SourceKeys, StagedRows
from lake_engines.changes.values import Target
from lake_engines.files.base import rows_only
from lake_engines.fragment_reader import FragmentReader, ReaderPool
from lake_format.snapshot import Snapshot

__all__ = ["RekeyedRows", "rekey"]

_STEP = 65_536


@dataclass(frozen=True, slots=True)
class RekeyedRows:
    """New values of rows of which some are keys: those lie ready, by a row's origin; the others are computed.

    ``targets`` are the rows, their origins counted through; ``keys`` the new keys.
    """

    targets: Sequence[Target]
    keys: SourceKeys
    columns: tuple[str, ...]
    ready: StagedRows
    others: Assignments

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns that the values still to be computed need."""
        return self.others.inputs

    def unchanged(self, target: Target) -> Mapping[str, pa.Array]:
        """Nothing."""
        return {}

    def compute(self, rows: pa.RecordBatch, target: Target) -> Mapping[str, pa.Array]:
        """New values of all columns for these rows."""
        assert target.origin is not None
        ready = self.ready.take(target.origin)
        return {
            **dict(zip(ready.schema.names, ready.columns, strict=True)),
            **self.others.compute(rows, target),
        }


def rekey(
    snapshot: Snapshot,
    targets: Iterable[Target],
    assignments: Assignments,
    key: Sequence[str],
    pool: ReaderPool,
) -> RekeyedRows:
    """Compute new keys and refuse those that are taken.

    Raises
    ------
    DuplicateKeyError
        Two rows would get the same key, or one the key of a row that the update leaves alone.
    InvalidInputError
        A key would be NULL.
    """
    changed = [name for name in assignments.columns if name in key]
    counted = list(_counted(targets))
    of_keys = assignments.only(changed)
    schema = pa.schema([snapshot.schema.field(name).remove_metadata() for name in key])
    batches = [batch for target in counted for batch in _new_keys(snapshot, target, of_keys, schema, pool)]
    table = pa.Table.from_batches(batches, schema)
    keys = SourceKeys(StagedRows(table, snapshot.schema), key, subject="the new values")
    refuse_taken_keys(
        snapshot,
        keys,
        [touched(target) for target in counted],
        pool,
        fix="choose other values, or delete that row before",
    )
    return RekeyedRows(
        targets=counted,
        keys=keys,
        columns=assignments.columns,
        ready=StagedRows(table.select(changed), snapshot.schema),
        others=assignments.only([name for name in assignments.columns if name not in key]),
    )


def _counted(targets: Iterable[Target]) -> Iterator[Target]:
    done = 0
    for target in targets:
        yield replace(target, origin=np.arange(done, done + len(target.positions)))
        done += len(target.positions)


def _new_keys(
    snapshot: Snapshot, target: Target, assignments: Assignments, schema: pa.Schema, pool: ReaderPool
) -> Iterator[pa.RecordBatch]:
    reader = FragmentReader(snapshot, target.fragment, pool)
    kept = [name for name in schema.names if name not in assignments.columns]
    read = list(dict.fromkeys([*kept, *assignments.inputs]))
    for start in range(0, len(target.positions), _STEP):
        part = target.part(start, start + _STEP)
        count = len(part.positions)
        rows = reader.take(part.positions.astype(np.uint64), read) if read else rows_only(count)
        inputs = rows.select(list(assignments.inputs)) if assignments.inputs else rows_only(count)
        new = assignments.compute(inputs, part)
        arrays = [new[name] if name in new else rows.column(name) for name in schema.names]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)
