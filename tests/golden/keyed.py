"""Golden tables with keys: without a key index, and with runs of every kind."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa

import lake_format as lake
from golden.making import Golden


def keys(golden: Golden) -> None:
    """A key of two columns and no key index, as a table from before there were any."""
    table, rows = _keyed(golden, 20)
    features = table.snapshot.version.required_features - {"key-index"}
    golden.land(table, key_index=None, required_features=features)
    golden.expect(rows, range(20), fragments=1)


def key_index(golden: Golden) -> None:
    """Runs of the key index in files and in the version; rows deleted, stale, and not covered by any."""
    table, first = _keyed(golden, 700)
    table.delete("id % 7 = 3")
    table.compact()
    later = [_key_rows(300, 700), _key_rows(5, 1_000), _key_rows(3, 1_005)]
    for rows in later:
        table.append(rows)
    index = table.snapshot.version.key_index
    assert index is not None
    known = replace(index, runs=index.runs[:-1]).with_stale(np.array([0, 705], np.uint64))
    golden.land(table, key_index=known)
    kept = [row for row in range(700) if row % 7 != 3]
    rows = pa.concat_tables([first.take(pa.array(kept)), *later]).combine_chunks()
    golden.expect(rows, [*kept, *range(700, 1_008)], fragments=4, unanswered=[0, 705, 1_005, 1_006, 1_007])


def _key_rows(count: int, first: int) -> pa.Table:
    ids = range(first, first + count)
    schema = pa.schema([pa.field("region", pa.string(), False), pa.field("id", pa.int32(), False)])
    return pa.table([[f"region {number % 3}" for number in ids], pa.array(ids, pa.int32())], schema)


def _keyed(golden: Golden, count: int) -> tuple[lake.Table, pa.Table]:
    rows = _key_rows(count, 0)
    table = lake.create(golden.uri, rows.schema, key=["region", "id"], surroundings=golden.surroundings)
    return table.append(rows), rows
