"""An Iceberg table with a past, imported where it lies: every engine must read of it what pyiceberg reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from iceberg_refreshing import going_on, position_deletes
from iceberg_samples import paths_of, warehouse
from pyiceberg.table import Table as IcebergTable
from pyiceberg.types import DoubleType, LongType, StringType

import lake_format as lake
from conformance.engine import Reached
from lake_connectors import iceberg

DIMENSION = 16
_FIRST = pa.schema(
    [
        ("id", pa.int32()),
        ("name", pa.string()),
        ("price", pa.float32()),
        ("place", pa.struct([("city", pa.string()), ("zip", pa.int32())])),
        ("vec", pa.list_(pa.float32())),
    ]
)


@dataclass
class Imported:
    """Both tables; ``rows`` is what pyiceberg reads, with vectors as the imported table has them."""

    source: IcebergTable
    table: lake.Table

    @property
    def rows(self) -> pa.Table:
        return self.source.scan().to_arrow().select(self.table.schema.names).cast(self.table.schema)

    def reached(self) -> Reached:
        return Reached(self.table.uri, allow_external=(self.source.location(),))

    def go_on(self, start: int, count: int = 20) -> None:
        """Append to the Iceberg table, delete a row of it, and follow."""
        self.source.append(_rows(self.source.schema().as_arrow(), start, count))
        self.source = going_on(self.source, position_deletes(self.source, (paths_of(self.source)[-1], 0)))
        iceberg.refresh_table(self.source, self.table)


def imported(folder: Path) -> Imported:
    """Columns that were added, dropped, added again, renamed, moved and widened; rows deleted by position."""
    source = warehouse(folder / "warehouse").create_table("shop.items", _FIRST)
    source.append(_rows(_FIRST, 0, 200))
    with source.update_schema() as change:
        change.rename_column("price", "cost")
        change.update_column("price", DoubleType())
        change.update_column("id", LongType())
        change.delete_column("name")
        change.rename_column("place.city", "town")
        change.add_column("stock", LongType())
        change.move_first("vec")
    with source.update_schema() as change:
        change.add_column("name", StringType())
    source.append(_rows(source.schema().as_arrow(), 200, 200))
    first, second = paths_of(source)
    source = going_on(source, position_deletes(source, *((first, at) for at in range(10)), (second, 3)))
    table = iceberg.import_table(source, str(folder / "imported"), vectors={"vec": DIMENSION})
    both = Imported(source, table)
    both.go_on(400, 200)
    return both


def vectors(start: int, count: int) -> np.ndarray:
    return np.stack(
        [np.random.default_rng(n).standard_normal(DIMENSION) for n in range(start, start + count)]
    )


def _rows(schema: pa.Schema, start: int, count: int) -> pa.Table:
    """Rows in whatever columns the Iceberg table has by then."""
    numbers = range(start, start + count)
    known = {
        "id": list(numbers),
        "name": [None if n % 5 == 0 else f"name {n}" for n in numbers],
        "price": [n / 4 for n in numbers],
        "cost": [n / 4 for n in numbers],
        "stock": [n % 9 for n in numbers],
        "vec": [
            None if n % 50 == 7 else one
            for n, one in zip(numbers, vectors(start, count).tolist(), strict=True)
        ],
    }
    columns = []
    for field in schema:
        if field.name == "place":
            made = [
                {one.name: n if one.name == "zip" else f"town {n}" for one in field.type} for n in numbers
            ]
        else:
            made = known[field.name]
        columns.append(pa.array(made, field.type))
    return pa.table(columns, schema)
