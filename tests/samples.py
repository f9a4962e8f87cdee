"""Values made for tests: versions, fragments, manifests, a column of every type. Nothing here touches an engine."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from decimal import Decimal
from functools import cache
from typing import Any
from uuid import UUID, uuid5

import numpy as np
import pyarrow as pa

from lake_format.manifest import inline_manifest
from lake_format.model import ColumnGroup, Fragment, IndexEntry, IndexShard, Version
from lake_format.row_ids import encode_row_ids
from lake_format.schema import assign_field_ids
from lake_format.statistics import ColumnStatistics
from lake_format.transaction import Surroundings

SCHEMA, NEXT_FIELD_ID = assign_field_ids(
    pa.schema(
        [
            pa.field("id", pa.int64(), False),
            pa.field("tags", pa.list_(pa.string())),
            pa.field("v", pa.list_(pa.float32(), 4)),
        ]
    ),
    1,
)


def uuids() -> Iterator[UUID]:
    """UUIDs in a row: 00000000-…-01, -02, …"""
    return (UUID(int=number) for number in itertools.count(1))


def still_surroundings(**changes: Any) -> Surroundings:
    """A clock that stands still, ids in a row, no waiting."""
    given = {
        "now": lambda: 1_700_000_000.0,
        "new_id": uuids().__next__,
        "chance": lambda: 0.5,
        "sleep": lambda _seconds: None,
        "writer_id": "tester",
    }
    return Surroundings(**(given | changes))


def _unique(number: int, what: str) -> UUID:
    return uuid5(UUID(int=number), what)


def fragment(number: int, *, rows: int = 10, first_row_id: int | None = None, **changes: Any) -> Fragment:
    """A fragment of two groups, never written anywhere."""
    given: dict[str, Any] = {
        "fragment_id": number,
        "row_count": rows,
        "first_row_id": number * rows if first_row_id is None else first_row_id,
        "groups": (
            ColumnGroup(
                field_ids=(1, 2),
                schema_id=0,
                path=f"data/{_unique(number, 'scalars')}.vortex",
                format="vortex",
                size=1000 + number,
                layout=_unique(number, "layout").bytes * 4,
            ),
            ColumnGroup(
                field_ids=(4,),
                schema_id=0,
                path=f"data/{_unique(number, 'vectors')}.parquet",
                format="parquet",
                size=2000 + number,
                layout=b"",
            ),
        ),
        "statistics": (
            ColumnStatistics(field_id=1, null_count=0, nan_count=None, lower=b"\x00", upper=b"\xff"),
            ColumnStatistics(field_id=4, null_count=3, nan_count=0, lower=None, upper=None),
        ),
    }
    return Fragment(**(given | changes))


def index_entry(**changes: Any) -> IndexEntry:
    """An index of one shard over row ids 0 to 9."""
    shard = IndexShard(
        path="_lake/indexes/shard.puffin",
        size=4096,
        head_length=512,
        head_crc=7,
        row_count=10,
        row_ids=encode_row_ids(pa.array(range(10), pa.uint64()).to_numpy()),
    )
    given: dict[str, Any] = {
        "index_id": "an-index",
        "name": "v_l2",
        "kind": "ivf-pq4",
        "field_id": 4,
        "metric": "l2",
        "parameters": {"lists": 4},
        "shards": (shard,),
    }
    return IndexEntry(**(given | changes))


@cache
def bare_version(number: int) -> Version:
    """A version without rows or indexes."""
    return version(number, manifests=(), indexes=(), next_row_id=0, next_fragment_id=0, row_count=0)


def version(number: int = 3, **changes: Any) -> Version:
    """A version with two inline manifests and an index."""
    given: dict[str, Any] = {
        "table_id": "a-table",
        "version": number,
        "parent": number - 1 if number > 1 else None,
        "commit_id": f"commit-{number}",
        "committed_at": 1_700_000_000_000_000 + number,
        "writer_id": "tester",
        "operations": ({"kind": "append", "rows_added": 20},),
        "summary": {"rows": 20},
        "schema_id": 0,
        "schemas": {0: SCHEMA},
        "next_field_id": NEXT_FIELD_ID,
        "next_row_id": 20,
        "next_fragment_id": 2,
        "row_count": 20,
        "manifests": (inline_manifest([fragment(0)]), inline_manifest([fragment(1)])),
        "indexes": (index_entry(),),
        "properties": {"user.owner": "me"},
        "sequences": {"job": 7},
        "required_features": frozenset({"vector-pages", "vortex-files"}),
    }
    return Version(**(given | changes))


def every_type(rows: int = 4) -> pa.Table:
    """A column of each Arrow type that a table may have; every third value is NULL."""
    second = 1_600_000_000
    values: dict[pa.DataType, list[Any]] = {
        pa.null(): [None, None],
        pa.bool_(): [True, False],
        pa.float16(): [np.float16(1.5), np.float16(-0.0)],
        pa.float32(): [1.5, float("nan")],
        pa.float64(): [-0.0, float("inf")],
        pa.decimal32(5, 2): [Decimal("123.45"), Decimal("-0.01")],
        pa.decimal64(15, 3): [Decimal("123456789012.345"), Decimal("0")],
        pa.decimal128(38, 10): [Decimal("1234567890123456789012345678.0123456789"), Decimal("-1")],
        pa.decimal256(60, 4): [Decimal(10) ** 50, Decimal("-0.0001")],
        pa.string(): ["", "plain ünïcödé 🐠"],
        pa.large_string(): ["x", "y" * 300],
        pa.string_view(): ["short", "longer than twelve bytes"],
        pa.binary(): [b"", b"\x00\xff"],
        pa.large_binary(): [b"a", b"b" * 300],
        pa.binary_view(): [b"a", b"longer than twelve bytes"],
        pa.binary(4): [b"abcd", b"\x00\x00\x00\x00"],
        pa.date32(): [0, -1],
        pa.date64(): [0, 86_400_000],
        pa.dictionary(pa.int8(), pa.string()): ["red", "green"],
        pa.dictionary(pa.int32(), pa.int64(), ordered=True): [7, 9],
        pa.struct([pa.field("a", pa.int32(), False), ("b", pa.struct([("c", pa.string())]))]): [
            {"a": 1, "b": None},
            {"a": 2, "b": {"c": None}},
        ],
        pa.list_(pa.int32()): [[], [1, None, 3]],
        pa.large_list(pa.string()): [["a"], ["b", ""]],
        pa.list_(pa.dictionary(pa.int8(), pa.string())): [["a", "b"], [None]],
        pa.list_(pa.int32(), 3): [[1, 2, 3], [4, None, 6]],
        pa.list_(pa.float64(), 2): [[0.1, 0.2], [-0.0, 1.0]],
        pa.list_(pa.struct([("x", pa.float32()), ("y", pa.list_(pa.date32()))])): [
            [],
            [{"x": 1.0, "y": [3]}],
        ],
        pa.map_(pa.string(), pa.int32()): [[("k", 1), ("l", None)], []],
        pa.list_(pa.float32(), 4): [[1.0, 2.0, 3.0, 4.0], [0.0, -0.0, 0.5, 1e-30]],
        pa.list_(pa.float16(), 3): [[np.float16(i) for i in (1, 2, 3)], [np.float16(0.5)] * 3],
    }
    for bits in (8, 16, 32, 64):
        values[getattr(pa, f"int{bits}")()] = [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1]
        values[getattr(pa, f"uint{bits}")()] = [0, 2**bits - 1]
    for unit in ("s", "ms", "us", "ns"):
        factor = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
        moments = [second * factor, -second * factor + 1]
        values[pa.timestamp(unit)] = moments
        values[pa.timestamp(unit, "Europe/Berlin")] = moments
        values[pa.duration(unit)] = [1, -7]
        values[pa.time32(unit) if factor < 10**4 else pa.time64(unit)] = [0, 86_399 * factor]
    values[pa.timestamp("us", "UTC")] = [0, 1]
    values[pa.timestamp("ms", "+05:30")] = [0, 1]
    columns = {}
    for number, (kind, (first, second_value)) in enumerate(values.items()):
        pattern = [first, second_value, None]
        picked = [pattern[(row + number) % 3] for row in range(rows)]
        columns[f"c{number:02}_{kind.id}"] = pa.array(picked, kind)
    return pa.table(columns)
