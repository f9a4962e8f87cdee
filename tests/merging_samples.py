"""For tests of merges: two lines with few rows, and what they hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pytest

import lake_format as lake
from lake_format.store import Store, forget_memory, open_store

__all__ = ["SCHEMA", "content", "nearest", "pair", "row_ids", "rows", "store"]

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), False),
        ("a", pa.int64()),
        ("b", pa.int64()),
        ("v", pa.list_(pa.float32(), 4)),
    ]
)


def rows(first: int, count: int = 1) -> pa.Table:
    ids = np.arange(first, first + count)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(ids, 4).astype("f4")), 4)
    return pa.table([pa.array(ids), pa.array(ids), pa.array(ids), vectors], SCHEMA)


@pytest.fixture
def store() -> Iterator[Store]:
    uri = f"memory://merging-{uuid4().hex}"
    yield open_store(uri)
    forget_memory(uri)


@pytest.fixture
def pair(store: Store) -> tuple[lake.Table, lake.Table]:
    main = lake.create("unused", SCHEMA, store=store).append(rows(0, 10)).append(rows(10, 10))
    return main, main.create_branch("b")


def content(table: lake.Table, *columns: str) -> dict[int, Any]:
    found = table.scan(["id", *(columns or ("a",))]).read_all().to_pylist()
    assert len({row["id"] for row in found}) == len(found) == table.count()
    return {
        row["id"]: tuple(row[name] for name in columns) if columns[1:] else row[(columns or ("a",))[0]]
        for row in found
    }


def row_ids(table: lake.Table) -> dict[int, int]:
    return content(table, "_row_id")


def nearest(table: lake.Table, query: float, k: int = 6) -> list[int]:
    """What a search finds, which is what a comparison with every row finds."""
    found = table.search([query] * 4, k=k, recall=1.0, column="v", select=["id"]).to_arrow()["id"].to_pylist()
    exact = table.search([query] * 4, k=k, exact=True, column="v", select=["id"]).to_arrow()["id"].to_pylist()
    values = {one: abs(value[0] - query) for one, value in content(table, "v").items()}
    assert [values[one] for one in found] == sorted(values.values())[:k] == [values[one] for one in exact]
    return [int(one) for one in found]
