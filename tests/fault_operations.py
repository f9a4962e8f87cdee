"""Every operation of a table, to be struck at each of its storage calls (test_faults.py).

To add one, add a line to ``OPERATIONS``: what to call on a table as :func:`start` makes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pyarrow as pa

import lake_format as lake
from lake_format.store import Store, open_store
from lake_format.transaction import Surroundings

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), False),
        ("n", pa.int32()),
        ("name", pa.string()),
        ("v", pa.list_(pa.float32(), 2)),
    ]
)
INDEXED = "v_l2"
NEW = tuple(range(20, 26))
RIVAL = 900


def rows(*ids: int) -> pa.Table:
    columns = [
        pa.array(ids, pa.int64()),
        pa.array([i * 10 for i in ids], pa.int32()),
        pa.array([f"row {i}" for i in ids]),
        pa.array([[float(i), -float(i)] for i in ids], SCHEMA.field("v").type),
    ]
    return pa.table(columns, SCHEMA)


def connect(store: Store) -> lake.Table:
    return lake.open("unused", store=store, surroundings=_around())


def _around() -> Surroundings:
    return Surroundings(sleep=lambda _seconds: None, chance=lambda: 0.5)


def start(store: Store) -> lake.Table:
    """A table with a key, fragments, deletions, an index that is behind, a tag, and versions that expired."""
    table = lake.create(
        "unused",
        SCHEMA,
        key="id",
        properties={"write.fragment-rows": 4},
        store=store,
        surroundings=_around(),
    )
    table.append(rows(*range(8)))
    table.create_index("v").tag("first", 2)
    table.delete("id = 3")
    table.append(rows(8, 9)).append(rows(10))
    table.add_column("later", pa.int64())
    table.expire_versions(keep=4)
    return table


@dataclass(frozen=True)
class Struck:
    """An operation, and what is done to the table before it, unharmed."""

    name: str
    run: Callable[[lake.Table], Any]
    prepare: Callable[[lake.Table], Any] = lambda table: table


def _together(table: lake.Table) -> None:
    with table.transaction() as both:
        both.append(rows(*NEW))
        both.delete("id < 2")
        both.set_properties({"user.note": "together"})


def _update(table: lake.Table) -> None:
    table.update({"n": lake.sql("n + 1"), "v": [7.0, 7.0]}, "id IN (1, 5, 9)")


def _add_computed(table: lake.Table) -> None:
    table.add_column("twice", values=lake.sql("n * 2"), computed=True)


def _strategy(name: str) -> Callable[[lake.Table], Any]:
    return lambda table: table.set_properties({"write.update-strategy": name})


def _merge(table: lake.Table) -> None:
    merge = table.merge(rows(1, 2, *NEW)).when_matched_delete(condition="id = 1").when_matched_update()
    merge.when_not_matched_insert().when_not_matched_by_source_update({"name": "left"}).execute()


def _collect(table: lake.Table) -> None:
    table.collect_garbage(dry_run=False, grace=timedelta(0))


def _index_in_parts(table: lake.Table) -> None:
    plan = table.plan_index("v", "cosine")
    table.commit_index([table.join_index_parts(map(table.index_part, tasks)) for tasks in plan])


OPERATIONS = [
    Struck("append", lambda table: table.append(rows(*NEW))),
    Struck("append once", lambda table: table.append(rows(*NEW), idempotency=("job", 1))),
    Struck("delete", lambda table: table.delete("id < 2 OR id = 9")),
    Struck("update", lambda table: table.update({"name": "new", "v": [3.0, 1.0]}, "id > 4")),
    Struck("update by patch", _update, _strategy("patch")),
    Struck("update by move", _update, _strategy("move")),
    Struck("update by rewrite", _update, _strategy("rewrite")),
    Struck("upsert", lambda table: table.upsert(rows(4, 5, *NEW))),
    Struck("merge", _merge),
    Struck("overwrite", lambda table: table.overwrite(rows(*NEW), "id < 6")),
    Struck("transaction", _together),
    Struck("add column", lambda table: table.add_column("c", pa.string())),
    Struck("add column with values", lambda table: table.add_column("c", pa.int64(), lake.sql("id * 2"))),
    Struck("add computed column", _add_computed),
    Struck("append beside computed", lambda table: table.append(rows(*NEW)), _add_computed),
    Struck("update beside computed", lambda table: table.update({"n": 7}, "id > 4"), _add_computed),
    Struck("drop column", lambda table: table.drop_column("v")),
    Struck("rename column", lambda table: table.rename_column("name", "title")),
    Struck("reorder columns", lambda table: table.reorder_columns(["v", "n"])),
    Struck("widen column", lambda table: table.widen_column("n", pa.int64())),
    Struck("forbid null", lambda table: table.alter_column("n", nullable=False)),
    Struck("backfill", lambda table: table.backfill("later", lake.sql("id + 1"), "id <> 5")),
    Struck("backfill job", lambda table: table.backfill("later", lake.sql("id + 1"), "id <> 5", job="j")),
    Struck("create index", lambda table: table.create_index("v", "cosine")),
    Struck("create index in parts", _index_in_parts),
    Struck("optimize index", lambda table: table.optimize_index()),
    Struck("drop index", lambda table: table.drop_index(INDEXED)),
    Struck("set properties", lambda table: table.set_properties({"user.note": "a"})),
    Struck("tag", lambda table: table.tag("now")),
    Struck("delete tag", lambda table: table.delete_tag("first")),
    Struck("restore", lambda table: table.restore("first")),
    Struck("compact", lambda table: table.compact(8)),
    Struck("expire versions", lambda table: table.expire_versions(keep=1)),
    Struck("collect garbage", _collect),
]


def fresh(objects: dict[str, bytes]) -> Store:
    """A memory store that holds these objects."""
    store = open_store(f"memory://faults-{uuid4().hex}")
    for path, data in objects.items():
        store.create(path, data)
    return store


def objects_of(store: Store) -> dict[str, bytes]:
    return {info.path: store.get(info.path) for info in store.list("")}


def contents(store: Store) -> dict[str, Any]:
    """All one can see of a table; the row ids are those of the rows that are there."""
    table = connect(store)
    names = table.schema.names
    found = table.scan([*names, "_row_id"]).read_all().to_pylist()
    row_ids = [row.pop("_row_id") for row in found]
    assert len(set(row_ids)) == len(row_ids) == table.count()
    assert table.take(row_ids).to_pylist() == found
    if "v" in names:
        near = [table.search([4.0, -4.5], k=4, exact=exact).to_arrow() for exact in (False, True)]
        assert near[0].equals(near[1])
    return {
        "schema": str(table.schema.remove_metadata()),
        "rows": sorted(found, key=lambda row: row["id"]),
        "tags": table.tags(),
        "properties": table.properties,
        "indexes": sorted(table.inspect.indexes().column("name").to_pylist()),
    }
