"""Golden tables with vector indexes: flat, of each metric, of two shards."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
from pyroaring import BitMap64

from golden.making import Golden, with_nulls


def flat_index(golden: Golden) -> None:
    """An index over so few rows that it holds no lists, NULL vectors among them."""
    _indexed(golden, built=60, later=5, metrics=("l2",))


def vector_index(golden: Golden) -> None:
    """An index of each metric over part of the rows, NULL vectors among them; the rest was appended later."""
    _indexed(golden, built=1200, later=20, metrics=("l2", "cosine", "ip"))


def index_shards(golden: Golden) -> None:
    """An index of two shards of one model, some of whose rows went stale, and rows that none covers."""
    column = np.random.default_rng(8).standard_normal(1400 * 4).astype("f4")
    rows = pa.table(
        [pa.array(range(1400), pa.int32()), pa.FixedSizeListArray.from_arrays(pa.array(column), 4)],
        pa.schema([("n", pa.int32()), ("v", pa.list_(pa.float32(), 4))]),
    )
    table = golden.create(rows.schema)
    table.append(rows.slice(0, 1250)).create_index("v", lists=8)
    table.append(rows.slice(1250, 120)).optimize_index()
    table.append(rows.slice(1370))
    entry = table.snapshot.version.indexes[0]
    assert [shard.row_count for shard in entry.shards] == [1250, 120]
    stale = BitMap64([2, 7, 1255, 1390]).serialize()
    golden.land(table, indexes=(replace(entry, stale=stale),))
    query = [0.3, -1.1, 0.7, 0.2]
    nearest = {"l2": _nearest(rows, query, "l2", 10)}
    golden.expect(rows, range(1400), fragments=3, query=query, nearest=nearest, covered=1370)


def _indexed(golden: Golden, *, built: int, later: int, metrics: tuple[str, ...]) -> None:
    total = built + later
    drawn = np.random.default_rng(7).standard_normal(total * 4).astype("f4")  # no two at the same distance
    column = with_nulls(pa.FixedSizeListArray.from_arrays(pa.array(drawn), 4), [3, 40])
    rows = pa.table(
        [pa.array(range(total), pa.int32()), column],
        pa.schema([("n", pa.int32()), ("v", pa.list_(pa.float32(), 4))]),
    )
    table = golden.create(rows.schema)
    table.append(rows.slice(0, built))
    for metric in metrics:
        table.create_index("v", metric, lists=8)
    table.append(rows.slice(built))
    query = [0.3, -1.1, 0.7, 0.2]
    nearest = {metric: _nearest(rows, query, metric, 10) for metric in metrics}
    golden.expect(rows, range(total), fragments=2, query=query, nearest=nearest, covered=built - 2)


def _nearest(rows: pa.Table, query: list[float], metric: str, k: int) -> list[list[float]]:
    """Row id and distance of the k nearest rows, computed one by one in double precision."""
    found = []
    asked = np.array(query, np.float32).astype(np.float64)
    for row_id, vector in enumerate(rows.column("v").to_pylist()):
        if vector is None:
            continue
        values = np.array(vector)
        product = float(values @ asked)
        distance = {
            "l2": float(np.sqrt(((values - asked) ** 2).sum())),
            "ip": -product,
            "cosine": 1 - product / float(np.sqrt((values @ values) * (asked @ asked))),
        }[metric]
        found.append([distance, row_id])
    return [[row_id, distance] for distance, row_id in sorted(found)[:k]]
