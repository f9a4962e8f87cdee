"""The change data feed: replayed onto an earlier state it gives the later one; it costs what changed.

spec: VER-12, VER-13, VER-14
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import still_surroundings

import lake_format as lake
from lake_format.change_feed import _in_parts
from lake_format.errors import InvalidInputError, NotFoundError
from lake_format.id_ranges import ids_of, union
from lake_format.log import ExpiredError
from lake_format.schema import field_id
from lake_format.store import Store, forget_memory, open_store
from lake_format.store.metered import MeteredStore

SCHEMA = pa.schema([pa.field("id", pa.int64(), False), ("name", pa.string()), ("n", pa.int32())])
OWN = ["_change", "_row_id", "_version", "_committed_at"]


def rows(first: int, count: int) -> pa.Table:
    ids = range(first, first + count)
    return pa.table([pa.array(ids), pa.array([f"row {i}" for i in ids]), pa.array(ids, pa.int32())], SCHEMA)


@pytest.fixture
def store() -> Iterator[Store]:
    uri = f"memory://feed-{uuid4().hex}"
    yield open_store(uri)
    forget_memory(uri)


def make(store: Store, *sizes: int, **how: Any) -> lake.Table:
    clock = iter(range(1_700_000_000, 1_700_900_000, 60))
    around = still_surroundings(now=lambda: float(next(clock)), new_id=uuid4)
    table = lake.create("unused", how.pop("schema", SCHEMA), store=store, surroundings=around, **how)
    for number, size in enumerate(sizes):
        table.append(rows(sum(sizes[:number]), size))
    return table


def told(table: lake.Table, since: Any, until: Any = None, **how: Any) -> list[tuple[Any, ...]]:
    """Change, row id and version of each."""
    found = table.changes(since, until, **how).read_all().to_pylist()
    return [(one["_change"], one["_row_id"], one["_version"]) for one in found]


# --- what is told -------------------------------------------------------------------------------------------


def test_every_kind_of_change(store: Store) -> None:
    """spec: VER-12"""
    table = make(store, 3)
    start = table.version
    table.append(rows(3, 2))
    table.update({"name": "new"}, where="id = 1")
    table.delete("id = 0")
    table.upsert(
        pa.table({"id": [2, 9], "name": ["two", "nine"], "n": pa.array([2, 9], pa.int32())}), on="id"
    )
    found = table.changes(start).read_all()
    assert found.schema.names == [*OWN, "id", "name", "n"]
    assert found.select(["_change", "_row_id", "_version", "name"]).to_pylist() == [
        dict(zip(("_change", "_row_id", "_version", "name"), one, strict=True))
        for one in [
            ("insert", 3, 3, "row 3"),
            ("insert", 4, 3, "row 4"),
            ("update_preimage", 1, 4, "row 1"),
            ("update_postimage", 1, 4, "new"),
            ("delete", 0, 5, "row 0"),
            ("update_preimage", 2, 6, "row 2"),
            ("update_postimage", 2, 6, "two"),
            ("insert", 5, 6, "nine"),
        ]
    ]
    times = dict(zip(found["_version"].to_pylist(), found["_committed_at"].to_pylist(), strict=True))
    history = {one["version"]: one["committed_at"] for one in table.versions()}
    assert times == {version: history[version] for version in times}
    assert told(table, 3, 4) == told(table, 3, 5)[:2]
    assert told(table, table.version) == []


@pytest.mark.parametrize("strategy", ["rewrite", "patch", "move"])
def test_an_update_is_told_however_it_was_written(store: Store, strategy: str) -> None:
    """spec: VER-12, IDN-11"""
    table = make(store, 40, 40, properties={"write.update-strategy": strategy})
    table.update({"name": "new"}, where="id in (3, 50)")
    found = table.changes(3).read_all().select(["_change", "_row_id", "name"]).to_pylist()
    assert [(one["_row_id"], one["name"]) for one in found] == [
        (3, "row 3"),
        (3, "new"),
        (50, "row 50"),
        (50, "new"),
    ]


def test_versions_are_named_by_number_tag_or_time(store: Store) -> None:
    table = make(store, 2, 3, 4).tag("loaded", 3)
    begin = datetime.fromtimestamp(1_700_000_000, UTC)
    expected = [("insert", row, 4) for row in range(5, 9)]
    for since in (3, "loaded", begin + timedelta(seconds=130), "2023-11-14T22:15:20Z"):
        assert told(table, since) == expected
    assert told(table, 2, "loaded") == [("insert", row, 3) for row in range(2, 5)]
    assert told(table.checkout(3), 2) == told(table, 2, 3)
    for wrong, kind in (("nothing", NotFoundError), (0, InvalidInputError), (99, NotFoundError)):
        with pytest.raises(kind):
            table.changes(wrong)
    with pytest.raises(InvalidInputError, match="nothing since version 3 until version 2"):
        table.changes(3, 2)


def test_columns_of_the_feed(store: Store) -> None:
    """Fewer columns tell the same changes; a name of the feed's own is refused. spec: VER-13"""
    table = make(store, 3)
    table.update({"name": "x"}, where="id = 1")
    table.update({"name": "x"}, where="id = 1")  # nothing new
    assert table.changes(1, columns=["n"]).read_all().schema.names == [*OWN, "n"]
    assert told(table, 2, columns=["n"]) == told(table, 2) == told(table, 2, columns=[])
    assert len(told(table, 2)) == 2
    with pytest.raises(InvalidInputError, match="nam"):
        table.changes(1, columns=["nam"])
    table.rename_column("n", "_change")
    with pytest.raises(InvalidInputError, match=r"'_change' has the name.*columns="):
        table.changes(1)
    assert told(table, 1, columns=["id"])[0] == ("insert", 0, 2)


def test_values_are_in_the_schema_of_the_last_version(store: Store) -> None:
    """Renamed, widened, dropped, added, added anew under the old name. spec: VER-13"""
    table = make(store, 2)
    table.rename_column("name", "title")
    table.widen_column("n", pa.int64())
    table.drop_column("title")
    table.add_column("title", pa.string())
    table.delete("id = 0")
    found = table.changes(1).read_all()
    assert found.schema.field("n").type == pa.int64()
    assert found.select(["_change", "id", "n", "title"]).to_pylist() == [
        {"_change": "insert", "id": 0, "n": 0, "title": None},
        {"_change": "insert", "id": 1, "n": 1, "title": None},
        {"_change": "delete", "id": 0, "n": 0, "title": None},
    ]
    early = table.changes(1, 4).read_all()
    assert early["title"].to_pylist() == ["row 0", "row 1"]


def test_a_filled_column_is_an_update_of_every_row(store: Store) -> None:
    """So is a declared default; a column without values changes no row. spec: VER-12, VER-13"""
    table = make(store, 3)
    table.add_column("empty", pa.int64()).add_column("seven", pa.int64(), values=7)
    assert table.changes(2, 3).read_all().num_rows == 0
    assert table.changes(3).read_all()["seven"].to_pylist() == [None, 7] * 3
    before = table.version
    table.add_column("double", values=lake.sql("n * 2"))
    found = table.changes(before).read_all()
    assert found["double"].to_pylist() == [None, 0, None, 2, None, 4]


def test_expired_versions_in_between_are_said(store: Store) -> None:
    """spec: VER-14"""
    table = make(store, 2, 3, 4).tag("old", 2)
    table.expire_versions(keep=2)
    for since in (1, "old", 3):
        with pytest.raises(ExpiredError, match=r"version \d has expired.*read version 4"):
            table.changes(since)
    assert told(table, 4) == []
    assert told(table, "old", "old") == []


def test_a_column_that_was_gone_for_a_while(store: Store) -> None:
    """NULL while it was not there, also where files of that time do not have it. spec: VER-13"""
    table = make(store, 2, 2)
    table.drop_column("name")
    table.compact()
    table.restore(3)
    feed = table.changes(2).read_all()
    assert feed.select(["_version", "_row_id", "name"]).to_pylist() == [
        {"_version": version, "_row_id": row, "name": name}
        for version, row, name in [
            (3, 2, "row 2"),
            (3, 3, "row 3"),
            *((4, row, name) for row in range(4) for name in (f"row {row}", None)),
            *((6, row, name) for row in range(4) for name in (None, f"row {row}")),
        ]
    ]


def test_a_type_that_was_wider_for_a_while(store: Store) -> None:
    """A restore makes it narrow: values of the time between are told where they fit, or refused. spec: VER-13"""
    table = make(store, 2)
    table.add_column("number", pa.int16(), pa.scalar(7, pa.int16()))
    table.widen_column("number", pa.int64())
    table.update({"number": 9}, "id = 1")
    table.restore(3)
    feed = table.changes(3, columns=["number"]).read_all()
    assert [(row["_version"], row["number"]) for row in feed.to_pylist()] == [(5, 7), (5, 9), (6, 9), (6, 7)]
    assert table.diff(5, 6).changed.tolist() == table.diff(6, 5).changed.tolist() == [1]
    table.restore(5).update({"number": 70_000}, "id = 0")
    table.restore(3)
    assert table.diff(8, 9).changed.tolist() == table.diff(9, 8).changed.tolist() == [0, 1]
    with pytest.raises(
        InvalidInputError, match=r"'number' is int16 there, and in version 8 it was int64.*version 8"
    ):
        table.changes(3).read_all()
    assert told(table, 3, 7)


# --- the model ----------------------------------------------------------------------------------------------

_STEPS = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 12)),
    st.tuples(st.sampled_from(["delete", "update", "upsert"]), st.integers(2, 7)),
    st.tuples(st.just("compact"), st.integers(1, 60)),
    st.tuples(st.just("add_column"), st.booleans()),
    st.tuples(st.just("drop_column"), st.just(0)),
    st.tuples(st.just("restore"), st.integers(0, 20)),
)


def step(table: lake.Table, what: str, number: int, at: int) -> None:
    match what:
        case "append":
            part = rows(100 * at, number)
            table.append(part.select([name for name in table.schema.names if name in part.schema.names]))
        case "delete":
            table.delete(f"id % {number} = 1")
        case "update":
            table.update({"n": lake.sql(f"id % {number + 1}")}, where=f"id % {number} = 0")
        case "upsert":
            ids = pa.array([1, number, 100 * at + 50], pa.int64())
            table.upsert(pa.table({"id": ids, "n": pa.array([at, 7, at], pa.int32())}), on="id")
        case "compact":
            table.compact(target_rows=number, deleted_share=0.2)
        case "add_column":
            table.add_column(f"c{at}", pa.int64(), values=lake.sql("n + 1") if number else None)
        case "drop_column" if len(table.schema) > 2:
            table.drop_column(table.schema.names[-1] if table.schema.names[-1] != "n" else "name")
        case "restore":
            table.restore(1 + number % table.version)


def replayed(before: dict[int, Any], feed: pa.Table, names: list[str]) -> dict[int, Any]:
    """The feed applied to a state; every preimage and deleted row must be what is there."""
    now, seen = dict(before), set()
    for one in feed.to_pylist():
        row_id, values = one["_row_id"], tuple(one[name] for name in names)
        if one["_change"] != "update_postimage":
            assert (one["_version"], row_id) not in seen, "told twice in one version"
            seen.add((one["_version"], row_id))
        if one["_change"] in ("delete", "update_preimage"):
            assert now.pop(row_id) == values
        else:
            assert row_id not in now
            now[row_id] = values
    assert feed["_version"].to_pylist() == sorted(feed["_version"].to_pylist())
    return now


@given(st.lists(_STEPS, min_size=2, max_size=7), st.data())
@settings(max_examples=15, deadline=None)
def test_replaying_the_feed_gives_the_later_state(steps: list[tuple[str, int]], data: st.DataObject) -> None:
    """Any history, from any version to any later one, against the rows that the versions have. spec: VER-12"""
    uri = f"memory://feed-{uuid4().hex}"
    strategy = data.draw(st.sampled_from(["auto", "rewrite", "patch", "move"]))
    table = make(open_store(uri), 6, 5, properties={"write.update-strategy": strategy})
    for at, (what, number) in enumerate(steps, 1):
        step(table, what, number, at)
    last = data.draw(st.integers(2, table.version))
    first = data.draw(st.integers(1, last))
    until = table.checkout(last)
    names = until.schema.names
    before = seen_as(table.checkout(first), until)
    feed = table.changes(first, last).read_all()
    assert replayed(before, feed, names) == seen_as(until, until)
    forget_memory(uri)


def seen_as(since: lake.Table, until: lake.Table) -> dict[int, tuple[Any, ...]]:
    """Rows of one version in the columns of another, matched by field id; NULL in those it does not have."""
    old = {field_id(field): field.name for field in since.snapshot.schema}
    names = [old.get(field_id(field)) for field in until.snapshot.schema]
    found = since.scan(["_row_id", *filter(None, names)]).read_all().to_pylist()
    return {row["_row_id"]: tuple(row[name] if name else None for name in names) for row in found}


# --- what it costs ------------------------------------------------------------------------------------------


def test_compaction_tells_nothing_and_reads_no_rows(store: Store) -> None:
    """spec: VER-12"""
    metered = MeteredStore(store)
    table = make(metered, *[20] * 12)
    table.delete("id % 10 = 3")
    compacted = table.version
    table.compact()
    fresh = lake.open("unused", store=metered)
    metered.reset()
    assert told(fresh, compacted) == []
    assert "get_ranges" not in metered.usage().requests
    # the probe for a newer version, the version before; the one between are those compaction made
    assert metered.usage().requests["get"] <= 2 + fresh.version - compacted


def test_a_delete_reads_the_rows_it_deleted(store: Store) -> None:
    """A few rows among many fragments: bytes follow the change, not the table. spec: VER-12"""
    schema = pa.schema([pa.field("id", pa.int64(), False), ("v", pa.list_(pa.float32(), 256))])
    metered = MeteredStore(store)
    table = make(metered, schema=schema, properties={"write.fragment-rows": 500})
    ids = np.arange(4000)
    values = pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(ids, 256).astype("f4")), 256)
    table.append(pa.table([pa.array(ids), values], schema))
    table.delete("id in (7, 1700, 1701)")
    fresh = lake.open("unused", store=metered)
    metered.reset()
    feed = fresh.changes(2, columns=["v"]).read_all()
    assert [one[0] for one in feed["v"].to_pylist()] == [7.0, 1700.0, 1701.0]
    assert metered.usage().bytes_read < 3 * 1024 + 40_000
    assert metered.usage().total_requests <= 6


def test_the_feed_is_read_as_it_is_asked_for(store: Store) -> None:
    """A reader that stops early does not pay for later versions. spec: VER-12"""
    metered = MeteredStore(store)
    table = make(metered, *[50] * 20)
    reader = table.changes(1)
    reader.read_next_batch()
    metered.reset()
    reader.read_next_batch()
    assert metered.usage().bytes_read < 20_000
    assert max(batch.num_rows for batch in table.changes(1)) <= 4096


@given(st.lists(st.tuples(st.integers(0, 60_000), st.integers(1, 9000)), max_size=6))
def test_parts_of_a_set_of_row_ids(pairs: list[tuple[int, int]]) -> None:
    """Every id once, in order, a few thousand at a time."""
    starts = np.array([first for first, _ in pairs], np.int64)
    counts = np.array([count for _, count in pairs], np.int64)
    ranges = union([(starts[[at]], starts[[at]] + counts[[at]]) for at in range(len(pairs))])
    expected = sorted({one for first, count in pairs for one in range(first, first + count)})
    parts = list(_in_parts(ranges))
    assert [one for part in parts for one in part.tolist()] == expected == ids_of(ranges).tolist()
    assert all(0 < len(part) <= 4096 for part in parts)
