"""Tables and rows for tests of columns with values and of backfills."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from conftest import Location

import lake_format as lake

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int32(), False),
        ("name", pa.string()),
        ("price", pa.float64()),
        ("v", pa.list_(pa.float32(), 4)),
    ]
)


def batch(*ids: int) -> pa.Table:
    return pa.table(
        {
            "id": pa.array(ids, pa.int32()),
            "name": [None if one % 5 == 4 else f"name {one % 3}" for one in ids],
            "price": [one / 4 for one in ids],
            "v": pa.array([[one, 0, 0, 1] for one in ids], pa.list_(pa.float32(), 4)),
        },
        SCHEMA,
    )


def make(location: Location, rows: int = 20, fragment_rows: int = 6, **more: Any) -> lake.Table:
    properties = {"write.fragment-rows": fragment_rows}
    table = lake.create(
        location.uri, SCHEMA, properties=properties, storage_options=location.storage_options, **more
    )
    return table.append(batch(*range(rows)))


def column(table: lake.Table, name: str) -> dict[int, Any]:
    """The column's values by id; fails where an id is there twice."""
    found = table.scan(["id", name]).read_all().to_pydict()
    assert len(set(found["id"])) == len(found["id"])
    return dict(zip(found["id"], found[name], strict=True))


def plus_one(rows: pa.RecordBatch) -> pa.Array:
    return pc.add(rows["id"], 1)


def expected(*more: int, without: tuple[int, ...] = ()) -> dict[int, int | None]:
    return {i: i + 1 for i in range(20) if i not in without} | dict.fromkeys(more)
