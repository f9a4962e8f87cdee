"""A table removed, or removed and made anew, under those who have it open: nothing lands in its place unseen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pytest

import lake_format as lake

SCHEMA = pa.schema([("id", pa.int64()), ("x", pa.float64()), ("vec", pa.list_(pa.float32(), 4))])


def data(count: int, start: int = 0) -> pa.Table:
    ids = range(start, start + count)
    return pa.table({"id": ids, "x": [1.0] * count, "vec": [[float(one)] * 4 for one in ids]}, schema=SCHEMA)


def in_transaction(table: lake.Table) -> None:
    with table.transaction() as pending:
        pending.append(data(2, 100))


WRITES: dict[str, Callable[[lake.Table], object]] = {
    "append": lambda table: table.append(data(2, 100)),
    "delete": lambda table: table.delete("id = 1"),
    "update": lambda table: table.update({"x": 2.0}, "id = 1"),
    "upsert": lambda table: table.upsert(data(2, 1), on="id"),
    "overwrite": lambda table: table.overwrite(data(3)),
    "index": lambda table: table.create_index("vec"),
    "add a column": lambda table: table.add_column("y", pa.int64()),
    "drop a column": lambda table: table.drop_column("x"),
    "compact": lambda table: table.compact(),
    "tag": lambda table: table.tag("a"),
    "branch": lambda table: table.create_branch("b"),
    "expire": lambda table: table.expire_versions(),
    "properties": lambda table: table.set_properties({"user.a": "b"}),
    "restore": lambda table: table.restore(3),
    "transaction": in_transaction,
}


@pytest.fixture(params=["disk", "memory"])
def opened(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> lake.Table:
    """A table of seven versions; a remote store is asked each time, as after a minute."""
    for name in ("_SURE_SECONDS", "_SURE_TO_COMMIT"):
        monkeypatch.setattr(f"lake_format.log.{name}", 0.0)
    disk = request.param == "disk"
    uri = str(tmp_path / "table") if disk else f"memory://removed-{uuid4().hex}"
    table = lake.create(uri, SCHEMA)
    for number in range(6):
        table.append(data(5, 5 * number))
    return table


def removed(table: lake.Table) -> None:
    for info in list(table.snapshot.store.list("")):
        table.snapshot.store.delete(info.path)


@pytest.mark.parametrize("name", WRITES)
def test_nothing_is_written_where_a_table_was(opened: lake.Table, name: str) -> None:
    removed(opened)
    with pytest.raises(lake.LakeError):
        WRITES[name](opened)
    with pytest.raises(lake.NotFoundError):
        lake.open(opened.uri)


@pytest.mark.parametrize("name", WRITES)
def test_a_table_made_anew_is_not_spoiled(opened: lake.Table, name: str) -> None:
    """A write is refused, or goes to the table that is there: its versions go on, and its rows are its own."""
    store = opened.snapshot.store
    removed(opened)
    anew = lake.create("unused", SCHEMA, store=store)
    anew.append(data(7, 1000))
    try:
        WRITES[name](opened)
    except lake.LakeError:
        assert lake.open("unused", store=store).version == 2
    now = lake.open("unused", store=store)
    assert now.version <= 3
    assert now.snapshot.version.table_id == anew.snapshot.version.table_id
    assert set(now.to_arrow()["id"].to_pylist()) <= {*range(1000, 1007), 100, 101, 0, 1, 2}


def test_a_commit_that_came_too_late_tells_tables_apart(opened: lake.Table) -> None:
    """The number it wanted is taken by the other table."""
    store = opened.snapshot.store
    removed(opened)
    anew = lake.create("unused", SCHEMA, store=store)
    for number in range(8):
        anew.append(data(1, 1000 + number))
    with pytest.raises(lake.LakeError):
        opened.append(data(2, 100))
    assert lake.open("unused", store=store).count() == 8
