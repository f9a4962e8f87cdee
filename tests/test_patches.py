"""Patches: scattered new values laid over the files of their fragments, and what readers make of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pytest
from pyroaring import BitMap64
from row_samples import Forced, content, interrupted, make, row_ids, vector
from samples import every_type, fragment
from stores.faulty import Fault, FaultyStore, SimulatedCrash
from test_manifest import read
from test_upkeep_verify import rewritten, with_fragments

import lake_format as lake
from lake_format.errors import CorruptionError, LakeError
from lake_format.manifest import encode_manifest
from lake_format.model import ColumnPatch, Fragment
from lake_format.patching import MOST_PATCHES
from lake_format.row_edits import StrategyUse
from lake_format.store import Store, open_store
from lake_format.store.local import LocalStore
from lake_format.store.metered import MeteredStore
from lake_format.table import Table
from lake_format.transaction import Surroundings

PATCH = {"write.update-strategy": "patch"}


def patched(tmp_path: Path, count: int = 40, **more: Any) -> Table:
    """A table in which every update of few rows is a patch."""
    properties = {**PATCH, **more.pop("properties", {})}
    return make(tmp_path, *range(count), properties=properties, **more)


def entries(table: Table) -> list[Fragment]:
    return table.snapshot.fragments.fragments()


def patch(file: Fragment, *positions: int, **changes: Any) -> ColumnPatch:
    whole = ColumnPatch(
        file=file.groups[0],
        file_rows=20,
        first_row=3,
        count=len(positions),
        positions=BitMap64(positions).serialize(),
    )
    return replace(whole, **changes)


# --- the manifest -----------------------------------------------------------------------------------------------


def test_a_manifest_keeps_patches_and_lacks_the_column_without_any() -> None:
    """spec: MAN-1, MAN-9"""
    plain = fragment(0)
    laid = replace(fragment(1), patches=(patch(plain, 2, 5), patch(plain, 5, first_row=19)))
    assert read([plain, laid]).fragments() == [plain, laid]
    assert [file.path for file in laid.files()].count(plain.groups[0].path) == 2
    schema = pa.ipc.open_file(pa.py_buffer(encode_manifest([plain]))).schema
    assert "patches" not in schema.names
    with pytest.raises(CorruptionError, match="rows that its file"):
        read([replace(laid, patches=(patch(plain, 2, 5, first_row=19),))]).fragments()


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda one: replace(one, count=1), "does not fit its rows"),
        (lambda one: replace(one, positions=BitMap64([0, 41]).serialize()), "does not fit its rows"),
        (lambda one: replace(one, positions=b"?"), "cannot be read"),
        (lambda one: replace(one, file=replace(one.file, schema_id=9)), "does not describe it"),
        (lambda one: replace(one, file=replace(one.file, size=9)), "not the 9 recorded"),
        (lambda one: replace(one, file_rows=7), "rows"),
    ],
)
def test_a_damaged_patch_is_found(damage: Callable[[ColumnPatch], ColumnPatch], told: str) -> None:
    """spec: MAN-9, UPK-8"""
    store = open_store(f"memory://{uuid4().hex}")
    table = lake.create("t", pa.schema([("id", pa.int64())]), store=store, properties=PATCH)
    table.append({"id": range(40)}).update({"id": -1}, "id IN (3, 5)")
    assert table.verify().ok

    def edit(fragments: list[Fragment]) -> list[Fragment]:
        return [replace(one, patches=tuple(damage(each) for each in one.patches)) for one in fragments]

    report = rewritten(store, with_fragments(edit)).verify()
    assert any(told in problem.what for problem in report.problems), report.problems


# --- what is written --------------------------------------------------------------------------------------------


def test_a_scattered_update_writes_bytes_in_proportion_to_the_change(tmp_path: Path) -> None:
    """A thousand rows in a hundred fragments: one file, no vector. spec: CHG-4, IDN-7, IDN-11, PAT-1"""
    store = MeteredStore(LocalStore(tmp_path))
    schema = pa.schema([("id", pa.int64()), ("n", pa.int32()), ("vec", pa.list_(pa.float32(), 128))])
    table = lake.create("wide", schema, store=store, properties={"write.fragment-rows": 200})
    count = 20_000
    vectors = np.random.default_rng(0).normal(size=count * 128).astype(np.float32)
    ids = np.arange(count)
    table.append({"id": ids, "n": ids % 7, "vec": pa.FixedSizeListArray.from_arrays(pa.array(vectors), 128)})
    plan = table.plan_update({"n": lake.sql("n + 100")}, "id % 20 = 3")
    assert plan.strategies["patch"].fragments == plan.fragments == 100
    start = store.usage()
    done = table.update({"n": lake.sql("n + 100")}, "id % 20 = 3")
    cost = store.usage().since(start)
    assert (done.strategy, done.updated) == ("patch", 1000)
    assert done.strategies == {"patch": StrategyUse(fragments=100, rows=1000, bytes=done.bytes)}
    assert done.bytes < 12_000
    assert cost.bytes_written < 60_000  # and the entries of a hundred fragments
    assert len({one.patches[0].file.path for one in entries(table)}) == 1
    assert table.snapshot.version.required_features >= {"patch-files"}
    assert table.scan(["n"]).read_all().column("n").to_pylist() == [
        i % 7 + (100 if i % 20 == 3 else 0) for i in range(count)
    ]
    assert table.verify().ok


def test_the_plan_of_a_change_tells_what_would_be_written(tmp_path: Path) -> None:
    table = patched(tmp_path, 40, fragment_rows=20)
    plan = table.plan_update({"price": 1.0}, "id IN (3, 25)")
    assert (plan.updated, plan.strategy, plan.strategies["patch"].fragments) == (2, "patch", 2)
    assert "2 rows in 2 of 2 fragments" in plan.explain()
    assert (table.plan_delete("id < 5").deleted, table.plan_delete("id < 5").strategy) == (5, "nothing")
    upsert = table.plan_upsert([{"id": 3, "price": 7.0}, {"id": 99, "price": 8.0}], on="id")
    assert (upsert.updated, upsert.inserted, upsert.strategy) == (1, 1, "patch")
    assert upsert.bytes > 0
    assert lake.open(table.uri).version == table.version
    assert content(table, "price")[3] == 3.0


def test_the_table_says_how_updates_are_written(tmp_path: Path) -> None:
    for strategy in ("rewrite", "patch", "move"):
        table = make(
            tmp_path / strategy, *range(40), fragment_rows=40, properties={"write.update-strategy": strategy}
        )
        assert table.update({"price": 1.0}, "id = 3").strategy == strategy
    with pytest.raises(lake.InvalidInputError, match="update-strategy"):
        patched(tmp_path / "wrong", properties={"write.update-strategy": "guess"})


def test_values_nobody_sees_any_more_are_dropped(tmp_path: Path) -> None:
    """spec: PAT-2, MAN-3"""
    table = patched(tmp_path, fragment_rows=40)
    for price in range(12):  # the same rows again and again do not pile up
        table.update({"price": float(price)}, "id IN (3, 5)")
    assert [one.count for one in entries(table)[0].patches] == [2]
    table.update({"price": 50.0, "name": "both"}, "id IN (3, 7)")
    table.update({"name": "one"}, "id IN (3, 7)")
    first, second, third = entries(table)[0].patches
    assert (first.count, second.file.superseded, third.count) == (2, {2}, 2)
    assert content(table, "price", "name")[5] == {"id": 5, "price": 11.0, "name": "name 5"}
    assert content(table, "price", "name")[7] == {"id": 7, "price": 50.0, "name": "one"}
    assert table.update({"price": lake.sql("price + 1")}, "id > 20").strategy == "rewrite"
    assert [one.file.live_field_ids for one in entries(table)[0].patches] == [(2,)]
    assert content(table, "price")[5] == 11.0
    assert table.verify().ok


def test_patches_do_not_pile_up_without_limit(tmp_path: Path) -> None:
    """spec: PAT-4"""
    table = patched(tmp_path, 400, fragment_rows=400)
    strategies = [table.update({"price": -1.0}, f"id = {i}").strategy for i in range(MOST_PATCHES + 1)]
    assert strategies == ["patch"] * MOST_PATCHES + ["rewrite"]
    assert entries(table)[0].patches == ()
    assert table.update({"price": -2.0}, "id < 101").strategy == "rewrite"
    assert table.update({"price": -2.0}, "id < 100").strategy == "patch"
    assert table.compact().commits == 1  # a quarter of the rows is patched
    assert [one.patches for one in entries(table)] == [()]
    assert content(table, "price") == {i: -2.0 if i <= 100 else float(i) for i in range(400)}
    assert table.compact().commits == 0


# --- what is read -----------------------------------------------------------------------------------------------


def test_every_type_is_patched(tmp_path: Path) -> None:
    """NULLs over values and values over NULLs, in scans, takes and filters. spec: MAN-9"""
    old, new = every_type(20), every_type(4)
    table = lake.create(str(tmp_path / "t"), old.schema, properties=PATCH).append(old)
    places = [2, 3, 11, 19]
    key = pa.array(range(20), pa.int64())
    table.add_column("key", pa.int64(), values=pa.table({"_row_id": key, "key": key}), on="_row_id")
    source = new.append_column("key", pa.array(places, pa.int64()))
    assert table.upsert(source, on="key").strategy == "patch"
    taken = [4 + places.index(i) if i in places else i for i in range(20)]
    both = [*old.to_pylist()[:4], *new.to_pylist()]
    plain = old.to_pylist()
    expected = [new.to_pylist()[places.index(i)] if i in places else plain[i] for i in range(20)]
    assert len(taken) == 20
    assert len(both) == 8
    assert str(table.scan(old.schema.names).read_all().to_pylist()) == str(expected)
    rows = [19, 2, 4, 2]
    assert str(table.take(rows, old.schema.names).to_pylist()) == str([expected[i] for i in rows])
    assert table.verify().ok


def test_filters_and_statistics_see_the_new_values(tmp_path: Path) -> None:
    """Bounds are widened, NULLs and NaNs counted. spec: PAT-3, STAT-7"""
    table = patched(tmp_path, fragment_rows=40)
    table.update({"price": 1000.0}, "id = 3")
    table.update({"price": None}, "id = 4")
    table.update({"price": math.nan}, "id IN (5, 6)")
    assert table.count("price > 500") == 3  # NaN is above everything
    assert table.count("price IS NULL") == 1
    assert table.count("price = 1000") == 1
    assert table.count("price = 3") == 0
    table.update({"price": -7.0}, "id IN (4, 5)")
    (statistics,) = [one for one in entries(table)[0].statistics if one.field_id == 3]
    assert (statistics.null_count, statistics.nan_count) == (0, 1)
    assert table.count("price IS NOT NULL") == 40
    assert table.count("price < 0") == 2
    assert table.verify().ok


def test_a_column_that_no_file_has_is_patched(tmp_path: Path) -> None:
    """spec: PAT-3, SCH-5"""
    table = patched(tmp_path, fragment_rows=40)
    table.add_column("note", pa.string()).add_column("w", pa.list_(pa.float32(), 4))
    assert table.update({"note": "x", "w": [1.0, 2.0, 3.0, 4.0]}, "id IN (7, 9)").strategy == "patch"
    assert table.count("note IS NULL") == 38
    assert table.count("note = 'x'") == 2
    assert {i for i, note in content(table, "note").items() if note} == {7, 9}
    found = (
        table.search([1.0, 2.0, 3.0, 4.0], 5, column="w", select=["id", "_distance"]).to_arrow().to_pylist()
    )
    assert [(row["id"], row["_distance"]) for row in found] == [(7, 0.0), (9, 0.0)]
    assert table.verify().ok


def test_old_patches_are_read_as_the_present_type(tmp_path: Path) -> None:
    """spec: PAT-3, STAT-8, MAN-9"""
    schema = pa.schema(
        [
            ("id", pa.int64()),
            ("n", pa.int32()),
            ("s", pa.struct([("a", pa.int32())])),
            ("v", pa.list_(pa.float32(), 2)),
        ]
    )
    table = lake.create(str(tmp_path / "t"), schema, properties=PATCH)
    rows = [{"id": i, "n": i, "s": {"a": i}, "v": [float(i), 0.0]} for i in range(40)]
    table.append(rows)
    table.update({"n": 1000, "v": [0.5, 0.5], "s": {"a": -1}}, "id = 3")
    table.widen_column("n", pa.float64())
    table.widen_column("v.item", pa.float64())
    table.add_column("s.b", pa.string())
    table.update({"n": 0.25, "v": [1e-300, 0.0], "s": {"a": 5, "b": "new"}}, "id = 4")
    found = {row["id"]: row for row in table.scan().read_all().to_pylist()}
    assert found[3] == {"id": 3, "n": 1000.0, "s": {"a": -1, "b": None}, "v": [0.5, 0.5]}
    assert found[4] == {"id": 4, "n": 0.25, "s": {"a": 5, "b": "new"}, "v": [1e-300, 0.0]}
    assert [table.count(where) for where in ("n > 500", "n < 0.5", "s.b = 'new'", "s.b IS NULL")] == [
        1,
        2,
        1,
        39,
    ]
    assert table.take([3, 4], ["v"]).column("v").to_pylist() == [[0.5, 0.5], [1e-300, 0.0]]
    assert table.verify().ok
    table.drop_column("n")
    table.rename_column("id", "key")
    assert table.count("key = 3") == 1
    assert table.compact(deleted_share=0.01).commits == 0
    assert table.verify().ok


@pytest.mark.parametrize("indexed", [False, True])
def test_a_patched_vector_is_found_at_its_new_value_only(tmp_path: Path, *, indexed: bool) -> None:
    """spec: IDN-10, PAT-1"""
    table = patched(tmp_path, 300, fragment_rows=100)
    if indexed:
        table.create_index("vec")
    values = {5: vector(9001), 150: vector(9002), 250: None}
    table.update(
        {"vec": lambda batch: [values[i] for i in batch["id"].to_pylist()]},
        "id IN (5, 150, 250)",
        inputs=["id"],
    )
    table.update({"vec": vector(9003)}, "id = 150")
    for exact in (False, True):
        for seed, row in ((9001, 5), (9003, 150), (77, 77)):
            found = (
                table.search(vector(seed), 1, select=["id", "_distance"], exact=exact).to_arrow().to_pylist()
            )
            assert [(one["id"], round(one["_distance"], 4)) for one in found] == [(row, 0.0)]
        gone = table.search(vector(9002), 300, select=["id", "_distance"], exact=exact).to_arrow()
        assert len(gone) == 299
        assert min(gone.column("_distance").to_pylist()) > 0.01
    table.create_index("vec", name="again") if not indexed else table.compact(target_rows=1000)
    found = table.search(vector(9003), 1, select=["id"]).to_arrow().to_pylist()
    assert found == [{"id": 150}]
    assert table.verify().ok


# --- others at work ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["patch", "rewrite", "move"])
@pytest.mark.parametrize("second", ["patch", "rewrite", "move"])
def test_two_updates_of_different_rows_both_land(tmp_path: Path, first: str, second: str) -> None:
    """spec: PAT-5, CHG-10"""
    make(tmp_path, *range(40), fragment_rows=40)

    def rival(table: Table) -> None:
        with Forced(first):
            table.update({"price": -1.0}, "id IN (3, 4)")

    mine, engine = interrupted(lake.open(str(tmp_path / "table")), rival)
    with Forced(second):
        mine.update({"price": -2.0}, "id IN (5, 9)")
    landed = lake.open(mine.uri)
    assert len(engine.plans) == 1
    new = {3: -1.0, 4: -1.0, 5: -2.0, 9: -2.0}
    assert content(landed, "price") == {i: new.get(i, float(i)) for i in range(40)}
    if (first, second) == ("patch", "patch"):
        assert [one.count for one in entries(landed)[0].patches] == [2, 2]
    assert landed.verify().ok


@pytest.mark.parametrize("rival", [lambda t: t.compact(target_rows=1000), lambda t: t.delete("id = 9")])
def test_a_patch_follows_its_rows(tmp_path: Path, rival: Callable[[Table], Any]) -> None:
    """The fragment was compacted away, or a row is gone. spec: IDN-12, PAT-5"""
    make(tmp_path, *range(80), fragment_rows=40)
    mine, _ = interrupted(lake.open(str(tmp_path / "table")), rival)
    with Forced("patch"):
        mine.update({"price": -2.0, "vec": vector(7)}, "id IN (5, 9, 60)")
    landed = lake.open(mine.uri)
    gone = landed.count() == 79
    found = content(landed, "price", "vec")
    assert {i: found[i]["price"] for i in found if found[i]["price"] < 0} == dict.fromkeys(
        (5, 60) if gone else (5, 9, 60), -2.0
    )
    assert found[5]["vec"] == vector(7)
    assert row_ids(landed) == {i: i for i in range(80) if i in found}
    assert landed.verify().ok


def test_versions_differ_by_patched_rows_and_their_files_are_kept(tmp_path: Path) -> None:
    """spec: VER-8, UPK-5"""
    table = patched(tmp_path, fragment_rows=40)
    before = table.version
    table.update({"price": -1.0}, "id IN (3, 5)")
    assert table.diff(before, table.version).changed.tolist() == [3, 5]
    table.compact(deleted_share=0.01)
    table.update({"price": -2.0}, "id = 7")
    table.expire_versions(keep=1)
    table.collect_garbage(dry_run=False, grace=timedelta(0))
    fresh = lake.open(table.uri)
    assert {i for i, price in content(fresh, "price").items() if price < 0} == {3, 5, 7}
    assert fresh.verify().ok


FAULTS = (Fault.CRASH_BEFORE, Fault.CRASH_AFTER, Fault.CRASH_MID_WRITE, Fault.LOSE_RESPONSE, Fault.DISK_FULL)


def test_a_fault_at_any_call_of_a_patch() -> None:
    """All or nothing, and whoever tries again succeeds. spec: PAT-1, COM-4"""

    def opened(store: Store) -> Table:
        return lake.open("unused", store=store, surroundings=Surroundings(sleep=lambda _seconds: None))

    def values(store: Store) -> Any:
        return opened(store).scan(["n"]).read_all().column("n").to_pylist()

    def job(store: Store) -> None:
        opened(store).update({"n": lake.sql("n + 100"), "v": [1.0, 2.0]}, "n IN (3, 25)")

    first = open_store(f"memory://{uuid4().hex}")
    schema = pa.schema([("n", pa.int64()), ("v", pa.list_(pa.float32(), 2))])
    properties = {**PATCH, "write.fragment-rows": 20}
    lake.create("unused", schema, store=first, properties=properties).append(
        {"n": range(40), "v": [[0.0, float(i)] for i in range(40)]}
    )
    objects = {info.path: first.get(info.path) for info in first.list("")}

    def fresh() -> FaultyStore:
        store = open_store(f"memory://{uuid4().hex}")
        for path, data in objects.items():
            store.create(path, data)
        return FaultyStore(store)

    quiet = fresh()
    before = values(quiet)
    start = len(quiet.calls)
    job(quiet)
    calls = len(quiet.calls) - start
    after = values(quiet)
    assert [one.count for one in entries(opened(quiet))[0].patches] == [1, 1]
    for number in range(calls):
        store, fault = fresh(), FAULTS[number % len(FAULTS)]
        store._plan = lambda at, _method, _path, number=number, fault=fault: fault if at == number else None  # type: ignore[assignment]
        acknowledged = True
        try:
            job(store)
        except (SimulatedCrash, LakeError):
            acknowledged = False
        store.revive()
        found = values(store)
        assert found in ([after] if acknowledged else [before, after]), (number, fault, store.calls[number])
        if found == before:
            job(store)
            assert values(store) == after
        assert opened(store).verify().ok
