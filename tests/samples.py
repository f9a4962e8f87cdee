"""Values of the format made for tests: versions, fragments, manifests. Nothing here touches an engine."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cache
from typing import Any
from uuid import UUID, uuid5

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
        "required_features": frozenset({"vector-pages", "vortex-files"}),
    }
    return Version(**(given | changes))
