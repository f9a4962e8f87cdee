"""The tables every engine reads, made once a session and served by a loopback S3 that counts what is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pyarrow as pa
from lake_rows import SCHEMA, rows
from stores.range_server import RangeServer

import lake_format as lake
from conformance.engine import Reached
from lake_format.store.local import LocalStore

WIDE_FRAGMENTS, WIDE_ROWS, WIDE_DIMENSION = 20, 400, 128
WIDE_SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("category", pa.string()),
        ("text", pa.string()),
        ("vec", pa.list_(pa.float32(), WIDE_DIMENSION)),
    ]
)


@dataclass
class Served:
    """A folder behind a counting server."""

    folder: str
    server: RangeServer
    made: dict[str, lake.Table] = field(default_factory=dict)

    def reached(self, name: str, version: int | None = None) -> Reached:
        return Reached(self.server.uri(name), self.server.storage_options, version)

    def local(self, name: str, version: int | None = None) -> Reached:
        return Reached(f"{self.folder}/{name}", {}, version)

    def create(self, name: str, schema: pa.Schema, **options: object) -> lake.Table:
        self.made[name] = lake.create(
            f"{self.folder}/{name}", schema, storage_options={"sync": "false"}, **options
        )
        return self.made[name]


def serving(folder: str) -> Iterator[Served]:
    with RangeServer(LocalStore(folder, sync=False), latency=0.0) as server:
        yield Served(folder, server)


def filled(served: Served, name: str = "items") -> lake.Table:
    """600 rows with everything that makes filters go wrong."""
    table = served.create(name, SCHEMA)
    for start in range(0, 600, 200):
        table.append(rows(start, 200))
    return table


def wide_rows(fragment: int) -> pa.Table:
    random = np.random.default_rng(fragment)
    ids = np.arange(fragment * WIDE_ROWS, (fragment + 1) * WIDE_ROWS)
    centres = np.random.default_rng(99).standard_normal((32, WIDE_DIMENSION))
    vectors = centres[ids % 32] + random.standard_normal((WIDE_ROWS, WIDE_DIMENSION)) / 4
    letters = random.integers(97, 123, (WIDE_ROWS, 800), dtype=np.uint8)
    return pa.table(
        {
            "id": pa.array(ids),
            "category": pa.array([f"c{number % 10}" for number in ids]),
            "text": pa.array([line.tobytes().decode() for line in letters]),
            "vec": pa.FixedSizeListArray.from_arrays(
                pa.array(vectors.astype(np.float32).ravel()), WIDE_DIMENSION
            ),
        },
        schema=WIDE_SCHEMA,
    )


def wide(served: Served) -> lake.Table:
    """Many fragments in order of id, with a column of text and an index: to count what is not read."""
    table = served.create("wide", WIDE_SCHEMA)
    for fragment in range(WIDE_FRAGMENTS):
        table.append(wide_rows(fragment))
    return table.create_index("vec", "l2")


EVOLVING = pa.schema(
    [
        ("id", pa.int32()),
        ("name", pa.string()),
        ("price", pa.float32()),
        ("place", pa.struct([("city", pa.string()), ("zip", pa.int32())])),
        ("vec", pa.list_(pa.float32(), 4)),
    ]
)


def evolving_rows(schema: pa.Schema, start: int, count: int = 40) -> pa.Table:
    """Rows in whatever columns a table has by now."""
    makers = {
        "id": lambda n: n,
        "name": lambda n: None if n % 5 == 0 else f"name {n}",
        "price": lambda n: n / 4,
        "cost": lambda n: n / 4,
        "stock": lambda n: n % 9,
        "place": lambda n, fields=(): {key: (n if key == "zip" else f"town {n}") for key in fields},
        "vec": lambda n: [float(n), 1.0, 0.0, -1.0],
    }
    columns = {}
    for one in schema:
        make = makers[one.name]
        if one.name == "place":
            make = partial(make, fields=tuple(member.name for member in one.type))
        columns[one.name] = pa.array([make(n) for n in range(start, start + count)], one.type)
    return pa.table(columns, schema=schema)


def evolved(served: Served) -> lake.Table:
    """A table whose columns were added, dropped, added again, renamed, moved, widened and filled."""
    table = served.create("evolved", EVOLVING)
    table.append(evolving_rows(table.schema, 0))
    table.add_column("stock", pa.int64())
    table.append(evolving_rows(table.schema, 40))
    table.drop_column("name")
    table.add_column("name", pa.string())
    table.append(evolving_rows(table.schema, 80))
    table.rename_column("price", "cost")
    table.widen_column("id", pa.int64())
    table.widen_column("cost", pa.float64())
    table.reorder_columns(["vec", "id"])
    table.rename_column("place.city", "town")
    table.append(evolving_rows(table.schema, 120))
    table.backfill("stock", lake.sql("id * 2"), where="stock IS NULL")
    table.delete("id < 10")
    table.update({"name": "changed"}, where="id BETWEEN 50 AND 55")
    table.compact()
    return table
