"""Compaction: fewer fragments, the same rows with the same ids, searches as before, users' work never undone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import fragment
from stores.faulty import Fault, FaultyStore, SimulatedCrash, count_calls

import lake_format as lake
from lake_format.compaction import CompactionTarget, choose_fragments
from lake_format.errors import InvalidInputError, LakeError, UnsupportedError
from lake_format.manifest import FragmentTable, decode_manifest, inline_manifest
from lake_format.store import Store, forget_memory, open_store
from lake_format.transaction import Surroundings

SCHEMA = pa.schema(
    [pa.field("id", pa.int64(), False), ("name", pa.string()), ("v", pa.list_(pa.float32(), 4))]
)


def rows(first: int, count: int) -> pa.Table:
    ids = np.arange(first, first + count)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(ids, 4).astype("f4")), 4)
    return pa.table([pa.array(ids), pa.array([f"row {i}" for i in ids]), vectors], SCHEMA)


@pytest.fixture
def store() -> Iterator[Store]:
    uri = f"memory://compact-{uuid4().hex}"
    yield open_store(uri)
    forget_memory(uri)


def reopened(store: Store) -> lake.Table:
    return lake.open("unused", store=store, surroundings=Surroundings(sleep=lambda _seconds: None))


def make(store: Store, *sizes: int, format: str = "vortex") -> lake.Table:  # noqa: A002
    table = lake.create("unused", SCHEMA, store=store, properties={"write.scalar-format": format})
    first = 0
    for size in sizes:
        table.append(rows(first, size))
        first += size
    return table


def contents(table: lake.Table) -> dict[int, dict[str, Any]]:
    found = table.scan(["_row_id", "id", "name", "v"]).read_all().to_pylist()
    by_id = {row.pop("_row_id"): row for row in found}
    assert len(by_id) == len(found) == table.count()
    return by_id


def test_small_fragments_become_one_with_the_same_row_ids(store: Store) -> None:
    """spec: UPK-1, UPK-2"""
    table = make(store, 5, 7, 3, 50, 4)
    table.delete("id in (1, 2, 13)")
    before, order = contents(table), table.to_arrow()["id"].to_pylist()
    report = table.compact(target_rows=40)
    assert (report.fragments_removed, report.fragments_added, report.commits, report.yielded) == (4, 1, 1, 0)
    assert report.rows == 16
    assert report.bytes_written > 0
    assert contents(table) == before == contents(reopened(store))
    moved = [i for i in order if not 15 <= i < 65]
    assert table.to_arrow()["id"].to_pylist() == [*range(15, 65), *moved]
    fragments = table.inspect.fragments().to_pylist()
    assert [(one["rows"], one["deleted_rows"], one["first_row_id"]) for one in fragments] == [
        (50, 0, 15),
        (16, 0, None),
    ]
    assert table.take([68, 0, 14])["id"].to_pylist() == [68, 0, 14]
    table.append(rows(69, 2))
    assert max(contents(table)) == 70
    again = table.version
    assert table.compact(target_rows=40).commits in (0, 1)
    assert contents(table).keys() == {*before, 69, 70}
    assert table.version - again <= 1


def test_rows_that_stay_contiguous_need_no_sequence(store: Store) -> None:
    """spec: UPK-2"""
    table = make(store, 5, 7, 3)
    table.compact()
    assert table.inspect.fragments()["first_row_id"].to_pylist() == [0]
    assert "row-id-sequences" not in table.snapshot.version.required_features


def test_many_deletions_are_reason_enough_few_are_not(store: Store) -> None:
    """Deleted rows are gone from the new files. spec: UPK-1, UPK-2"""
    table = make(store, 100, 100)
    table.delete("id < 9 or id between 100 and 109")
    before = contents(table)
    report = table.compact(target_rows=150, deleted_share=0.1)
    assert (report.fragments_removed, report.fragments_added, report.rows) == (1, 1, 90)
    assert [one["rows"] for one in table.inspect.fragments().to_pylist()] == [100, 90]
    assert contents(table) == before
    assert table.compact(target_rows=150, deleted_share=0.1).commits == 0


@pytest.mark.parametrize("format", ["vortex", "parquet"])
def test_searches_answer_as_before(store: Store, format: str) -> None:  # noqa: A002
    """The index is not touched; its coverage and stale rows hold on. spec: UPK-3, IDN-9"""
    table = lake.create("unused", SCHEMA, store=store, properties={"write.scalar-format": format})
    for first in range(0, 600, 200):
        table.append(rows(first, 200))
    table.create_index("v", lists=4)
    table.append(rows(600, 50))
    table.delete("id % 7 = 3")
    table.update({"v": [10.25] * 4}, where="id = 501")
    queries = np.repeat(np.array([[10.2], [299.6], [640.0]], "f4"), 4, axis=1)
    before = [table.search(q, 5, select=["_row_id", "_distance"]).to_arrow() for q in queries]
    entries = table.snapshot.version.indexes
    assert table.compact().fragments_added == 1
    assert table.snapshot.version.indexes == entries
    after = [table.search(q, 5, select=["_row_id", "_distance"]).to_arrow() for q in queries]
    assert after == before
    assert before[0]["_row_id"][0].as_py() == 501
    filtered = table.search(queries[0], 3, where="id > 400", select=["id"]).to_arrow()
    assert filtered["id"][0].as_py() == 501


def during(monkeypatch: pytest.MonkeyPatch, table: lake.Table, work: Callable[[], object]) -> None:
    """Let ``work`` happen after the next compaction has written its files and before it commits."""
    rewrite = table.engine.rewrite

    def rewritten(*arguments: Any) -> Any:
        found = rewrite(*arguments)
        monkeypatch.undo()
        work()
        return found

    monkeypatch.setattr(table.engine, "rewrite", rewritten)


def test_rows_deleted_meanwhile_stay_deleted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """spec: IDN-12, CON-8"""
    table, other = make(store, 5, 7, 3), reopened(store)
    other.refresh().delete("id = 2")
    during(
        monkeypatch, table, lambda: (other.refresh().delete("id in (0, 6, 14)"), other.append(rows(15, 4)))
    )
    report = table.compact(target_rows=20)
    assert (report.commits, report.yielded) == (1, 0)
    assert sorted(contents(table)) == [1, 3, 4, 5, 7, 8, 9, 10, 11, 12, 13, 15, 16, 17, 18]
    compacted = table.inspect.fragments().to_pylist()[-1]
    assert (compacted["rows"], compacted["deleted_rows"]) == (14, 3)


@pytest.mark.parametrize("where", ["id = 3", "id < 6"])
def test_rows_updated_meanwhile_keep_their_new_values(
    store: Store, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Whichever way the update took: what was compacted is given up, or masked. spec: CON-8"""
    table, other = make(store, 5, 7, 3), reopened(store)
    during(monkeypatch, table, lambda: other.update({"name": "new"}, where=where))
    report = table.compact()
    assert report.commits + report.yielded == 1
    names = {i: row["name"] for i, row in contents(table.refresh()).items()}
    updated = {3} if where == "id = 3" else set(range(6))
    assert names == {i: "new" if i in updated else f"row {i}" for i in range(15)}


def test_another_compaction_wins(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loser gives way without an error and leaves no files. spec: CON-8"""
    table, other = make(store, 5, 7, 3), reopened(store)
    before = contents(table)
    during(monkeypatch, table, lambda: other.refresh().compact())
    assert table.compact().yielded == 1
    named = set(table.refresh().inspect.files()["path"].to_pylist())
    early = {
        path for number in range(2, 5) for path in table.checkout(number).inspect.files()["path"].to_pylist()
    }
    assert {info.path for info in store.list("data/")} == named | early
    assert contents(table) == before


def test_a_crash_anywhere_leaves_the_rows_as_they_were(store: Store) -> None:
    """spec: UPK-2, COM-1"""
    before = contents(make(store, 5, 7, format="parquet"))
    objects = {info.path: store.get(info.path) for info in store.list("")}

    def job(target: Store) -> None:
        reopened(target).compact()

    calls = count_calls(job, fresh(objects))
    assert calls > 6
    for call in range(calls):
        for fault in (Fault.CRASH_BEFORE, Fault.CRASH_AFTER, Fault.LOSE_RESPONSE, Fault.DISK_FULL):
            faulty = FaultyStore(fresh(objects), {call: fault})
            with suppress(SimulatedCrash, LakeError):
                job(faulty)
            faulty.revive()
            table = reopened(faulty.inner)
            assert contents(table) == before, (call, fault)
            table.compact()
            assert len(table.inspect.fragments()) == 1


def fresh(objects: dict[str, bytes]) -> Store:
    store = open_store(f"memory://compact-{uuid4().hex}")
    for path, data in objects.items():
        store.create(path, data)
    return store


_STEPS = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 30)),
    st.tuples(st.just("delete"), st.integers(2, 7)),
    st.tuples(st.just("update"), st.integers(2, 7)),
    st.tuples(st.just("compact"), st.integers(1, 60)),
)


@given(st.lists(_STEPS, min_size=2, max_size=9))
@settings(max_examples=12)
def test_any_history_reads_like_a_dictionary(steps: list[tuple[str, int]]) -> None:
    """spec: UPK-2, IDN-6"""
    store = open_store(f"memory://compact-{uuid4().hex}")
    table = lake.create("unused", SCHEMA, store=store)
    model: dict[int, tuple[int, str]] = {}
    following = 0
    for what, number in steps:
        if what == "append":
            table.append(rows(following, number))
            model |= {i: (i, f"row {i}") for i in range(following, following + number)}
            following += number
        elif what == "delete":
            table.delete(f"id % {number} = 1")
            model = {i: row for i, row in model.items() if i % number != 1}
        elif what == "update":
            table.update({"name": f"by {number}"}, where=f"id % {number} = 0")
            model |= {i: (i, f"by {number}") for i in model if i % number == 0}
        else:
            table.compact(target_rows=number, deleted_share=0.2)
        assert {i: (row["id"], row["name"]) for i, row in contents(table).items()} == model
    table.compact()
    assert {i: (row["id"], row["name"]) for i, row in contents(reopened(store)).items()} == model
    assert len(table.inspect.fragments()) <= 1


def _table(*fragments: Any) -> FragmentTable:
    reference = inline_manifest(fragments)
    assert reference.body is not None
    return FragmentTable([decode_manifest(reference.body, reference)])


@given(st.lists(st.tuples(st.integers(1, 100), st.integers(0, 100)), min_size=1, max_size=30))
@settings(max_examples=60)
def test_choosing_ends(shapes: list[tuple[int, int]]) -> None:
    """Chosen once, each in one group, none above the target; gathered fragments are not chosen again. spec: UPK-1"""
    fragments = [
        fragment(n, rows=size, first_row_id=1000 * n, deleted_count=min(gone, size - 1), deletions=b"?")
        for n, (size, gone) in enumerate(shapes)
    ]
    target = CompactionTarget(rows=100, bytes=1 << 40, deleted_share=0.5)
    groups = choose_fragments(_table(*fragments), target)
    chosen = [index for group in groups for index in group]
    assert chosen == sorted(set(chosen))
    live = [one.row_count - one.deleted_count for one in fragments]
    assert all(sum(live[index] for index in group) <= 100 for group in groups)
    kept = [one for index, one in enumerate(fragments) if index not in chosen]
    made = [
        fragment(100 + n, rows=sum(live[index] for index in group), first_row_id=10**6 * (n + 1))
        for n, group in enumerate(groups)
    ]
    rounds = 0
    while kept or made:
        again = choose_fragments(_table(*kept, *made), target)
        if not again:
            break
        rounds += 1
        assert rounds < 10
        everything = [*kept, *made]
        taken = {index for group in again for index in group}
        merged = [
            fragment(
                1000 * rounds + n,
                rows=sum(everything[i].row_count - everything[i].deleted_count for i in group),
                first_row_id=10**8 * (rounds + 1) + 10**4 * n,
            )
            for n, group in enumerate(again)
        ]
        kept, made = [one for index, one in enumerate(everything) if index not in taken], merged


@pytest.mark.parametrize(
    "wrong",
    [
        {"target_rows": 0},
        {"target_rows": 1.5},
        {"target_bytes": -1},
        {"deleted_share": 0},
        {"deleted_share": 2},
    ],
)
def test_bad_targets(store: Store, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(wrong))):
        make(store, 1).compact(**wrong)


def test_an_older_version_is_not_compacted(store: Store) -> None:
    make(store, 1, 1)
    with pytest.raises(UnsupportedError):
        lake.open("unused", 2, store=store).compact()


def test_rows_that_cannot_be_read_are_not_compacted_away(store: Store) -> None:
    table = make(store, 5, 7)
    store.delete(table.inspect.files()["path"][0].as_py())
    with pytest.raises(LakeError):
        reopened(store).compact()
    assert reopened(store).version == 3


def test_moved_rows_are_found_by_id_in_the_fragments_they_are_in(store: Store) -> None:
    """Fragments whose row ids are a sequence are pruned by it too. spec: STAT-7, RID-1"""
    table = make(store, 20, 20, 20)
    table.set_properties({"write.update-strategy": "move"})
    table.update({"name": "moved"}, where="id IN (3, 41)")
    table.delete("id = 22")
    expected = sorted(contents(table))
    for where, ids in (
        ("_row_id IN (3, 22, 41, 99)", [3, 41]),
        ("_row_id > 41", [i for i in expected if i > 41]),
        ("NOT _row_id <> 30", [30]),
        ("_row_id BETWEEN 4 AND 40 AND id < 30", list(range(4, 22)) + list(range(23, 30))),
    ):
        assert sorted(table.scan(["id"], where).read_all()["id"].to_pylist()) == ids, where
        assert table.count(where) == len(ids)
    assert len(table.engine.scan_parts(table.snapshot, "_row_id = 3")) == 2  # where it was, where it is
    assert len(table.engine.scan_parts(table.snapshot, "_row_id = 30")) == 2  # between those that moved, too
    assert len(table.engine.scan_parts(table.snapshot, "_row_id = 50")) == 1
