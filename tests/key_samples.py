"""For tests of keys: small tables in which every part of the key index is used that large ones have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

import numpy as np
import pyarrow as pa

from lake_engines.changes import lookup
from lake_engines.keys import layout, merging, run_writer, tiers
from lake_format.store.base import ByteRange
from lake_format.table import Table


@contextmanager
def small_runs(inline: int = 2, fanout: int = 3, page: int = 16, stale: int = 3) -> Iterator[None]:
    """Runs are files from ``inline`` rows on, merged ``fanout`` at a time; the index is always asked."""
    with ExitStack() as patches:
        for module, name, value in (
            (run_writer, "_INLINE", inline),
            (tiers, "_SMALLEST", inline),
            (tiers, "_FANOUT", fanout),
            (tiers, "_MOST_STALE", stale),
            (layout, "_USUAL", page),
            (merging, "_WINDOW", 24),
            (merging, "_PIECE", 40),
            (lookup, "_BULK", 0),
            (lookup, "_SPARSE", 1),
        ):
            patches.enter_context(mock.patch.object(module, name, value))
        yield


def run_pages(table: Table, number: int = 0) -> bytes:
    """The bytes of a run's file."""
    run = table.snapshot.version.key_index.runs[number].run
    return table.snapshot.store.get_ranges([ByteRange(run.path, 0, run.size)])[0]


def pairs(count: int, start: int = 0) -> pa.Table:
    """Rows with a key of two parts."""
    ids = np.arange(start, start + count)
    return pa.table({"region": [f"r{i % 3}" for i in ids.tolist()], "id": ids, "v": ids * 10})


PAIRS = pa.schema([("region", pa.string()), ("id", pa.int64()), ("v", pa.int64())])
