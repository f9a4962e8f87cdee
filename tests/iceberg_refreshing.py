"""What tests about imported tables that follow later snapshots share."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from iceberg_samples import by_id, delete_file, with_deletes
from pyiceberg.manifest import DataFileContent
from pyiceberg.table import Table as IcebergTable

import lake_format as lake
from lake_connectors import iceberg


def ids(table: lake.Table) -> list[int]:
    return sorted(table.to_arrow().column("id").to_pylist())


def row_ids(table: lake.Table) -> dict[int, int]:
    found = table.scan(columns=["id", "_row_id"]).read_all().to_pydict()
    return dict(zip(found["id"], found["_row_id"], strict=True))


def plain(table: pa.Table) -> str:
    return repr(by_id(table))


def going_on(source: IcebergTable, metadata: str) -> IcebergTable:
    """The table with this metadata file, in its catalog."""
    catalog = source.catalog
    catalog.drop_table("shop.items")
    return catalog.register_table("shop.items", metadata)


def position_deletes(source: IcebergTable, *places: tuple[str, int]) -> str:
    rows = pa.table({"file_path": [path for path, _ in places], "pos": [at for _, at in places]})
    return with_deletes(source, delete_file(source, rows, DataFileContent.POSITION_DELETES))


def refused(source: Any, table: lake.Table, kind: type[lake.LakeError], match: str, **options: Any) -> None:
    version, before = table.version, plain(table.to_arrow())
    with pytest.raises(kind, match=match):
        iceberg.refresh_table(source, table, **options)
    assert table.refresh().version == version
    assert plain(table.to_arrow()) == before
