"""Tables in the open layout, what may happen to them, and what pyiceberg reads of them once published."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyiceberg.table import StaticTable
from row_samples import SCHEMA, rows, vector

import lake_format as lake
from lake_connectors import iceberg
from lake_format.table import Table

Rows = dict[int, dict[str, Any]]


def opened(place: Path, *ids: int, **options: Any) -> Table:
    """A table in the open layout, ten rows a fragment."""
    table = lake.create(str(place), SCHEMA, layout="open", properties={"write.fragment-rows": 10}, **options)
    return table.append(rows(*ids)) if ids else table


def held(table: Table) -> Rows:
    """What the table holds; vectors and zones as Iceberg tells them."""
    return by_id(table.to_arrow())


def read(publication: iceberg.Publication, snapshot_id: int | None = None) -> Rows:
    """What pyiceberg reads."""
    found = StaticTable.from_metadata(publication.metadata_location)
    return by_id(found.scan(snapshot_id=snapshot_id).to_arrow())


def by_id(table: pa.Table) -> Rows:
    found = {row["id"]: row for row in table.to_pylist()}
    assert len(found) == table.num_rows
    return found


def counted(place: Path) -> Table:
    """A table for :func:`life`."""
    schema = SCHEMA.append(pa.field("count", pa.int32()))
    table = lake.create(str(place), schema, layout="open", properties={"write.fragment-rows": 10})
    return table.append([row | {"count": row["id"]} for row in rows(*range(25))])


def life(table: Table) -> list[Callable[[], Any]]:
    """Changes of every kind, one after another."""
    return [
        lambda: table.append(rows(*range(25, 32))),
        lambda: table.delete("id IN (0, 1, 26)"),
        lambda: table.update({"name": "updated", "vec": vector(77)}, where="id BETWEEN 8 AND 12"),
        lambda: table.add_column("note", pa.string()),
        lambda: table.upsert([row | {"note": "new"} for row in rows(12, 40)], on="id"),
        lambda: table.alter_column("count", type=pa.int64()),
        lambda: table.rename_column("name", "title"),
        lambda: table.delete("id = 9"),
        table.compact,
        lambda: table.drop_column("price"),
        lambda: table.add_column("price", pa.int32()),
        lambda: table.restore(3),
        lambda: table.append(rows(50, 51)),
        lambda: table.overwrite(rows(60, 61)),
    ]
