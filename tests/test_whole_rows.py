"""Upserts of whole rows: files hold them as they were handed in, whatever lies where, and whoever came meanwhile."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from row_samples import SCHEMA, content, ids, interrupted, make, row_ids, rows, vector
from stores.faulty import Fault, FaultyStore
from test_row_changes_races import compact

import lake_format as lake
from lake_format.draft import Draft
from lake_format.errors import CorruptionError, InvalidInputError, StorageError
from lake_format.operation_record import OperationRecord
from lake_format.snapshot import Snapshot
from lake_format.store.local import LocalStore
from lake_format.table import Table

MOVES = {"write.update-strategy": "move"}


def files(root: Path) -> set[str]:
    return {path.name for path in (root / "data").rglob("*") if path.is_file()}


def handed_in(*wanted: int, **changes: Any) -> pa.Table:
    return pa.Table.from_pylist(rows(*wanted, **changes), SCHEMA)


@pytest.mark.parametrize(("fragment_rows", "more"), [(1000, 1), (7, 3)])
def test_rows_lie_as_they_were_handed_in(tmp_path: Path, fragment_rows: int, more: int) -> None:
    """Old and new ones mixed, in as many fragments as the limit asks for. spec: CHG-3, IDN-2, KEY-3"""
    table = make(tmp_path, *range(100), key="id", properties=MOVES, fragment_rows=fragment_rows)
    before, count = row_ids(table), table.inspect.fragments().num_rows
    wanted = [*range(93, 110)]
    random.Random(3).shuffle(wanted)
    explained = table.plan_upsert(handed_in(*wanted))
    done = table.upsert(handed_in(*wanted, name="new"))
    assert (done.updated, done.inserted, done.strategy) == (7, 10, "move")
    assert (explained.updated, explained.inserted, explained.strategy) == (7, 10, "move")
    assert table.scan(["id"]).read_all().column("id").to_pylist() == [*range(93), *wanted]
    after = row_ids(table)
    assert {one: after[one] for one in range(100)} == before
    assert sorted(after[one] for one in range(100, 110)) == [*range(100, 110)]
    assert content(table, "name", "vec")[104] == {"id": 104, "name": "new", "vec": vector(104)}
    kept = table.inspect.fragments().num_rows
    assert kept <= count + more
    assert not table.verify().problems
    assert lake.open(table.uri).upsert(handed_in(*wanted)).updated == 17
    changes = table.changes(table.version - 1, columns=["id"]).read_all().to_pylist()
    assert {one["id"] for one in changes if one["_change"] == "insert"} == {*range(100, 110)}


def test_which_rows_are_written_as_they_are(tmp_path: Path) -> None:
    """Not those that lack a column, are sorted by the table, are many, or are cheaper to write another way."""

    def last_ids(table: Table, source: pa.Table) -> list[int]:
        table.upsert(source)
        found: list[int] = table.scan(["id"]).read_all().column("id").to_pylist()
        return found[-3:]

    shuffled = handed_in(30, 10, 20)
    usual = {"key": "id", "properties": MOVES, "fragment_rows": 100}
    assert last_ids(make(tmp_path / "whole", *range(40), **usual), shuffled) == [30, 10, 20]
    lacking = shuffled.drop_columns(["name"])
    assert last_ids(make(tmp_path / "lacking", *range(40), **usual), lacking) == [10, 20, 30]
    assert last_ids(make(tmp_path / "many", *range(10), 10, 20, 30, **usual), shuffled) == [30, 10, 20]
    sorted_by = make(tmp_path / "sorted", *range(40), cluster_by="id", **usual)
    assert last_ids(sorted_by, shuffled) == [10, 20, 30]
    parted = make(tmp_path / "parted", *range(40), partition_by=("truncate(100, id)",), **usual)
    assert last_ids(parted, shuffled) == [10, 20, 30]
    rewritten = {**usual, "properties": {"write.update-strategy": "rewrite"}}
    assert last_ids(make(tmp_path / "rewritten", *range(40), **rewritten), shuffled) == [37, 38, 39]
    unkeyed = make(tmp_path / "unkeyed", *range(40), properties=MOVES, fragment_rows=100)
    unkeyed.upsert(shuffled, on="id")
    assert unkeyed.scan(["id"]).read_all().column("id").to_pylist()[-3:] == [10, 20, 30]


Meanwhile = Callable[[Table], object]


@pytest.mark.parametrize(
    "meanwhile",
    [
        compact,
        lambda t: t.append(rows(500, 501)),
        lambda t: t.delete("id IN (2, 3)"),
        lambda t: t.update({"name": "x"}, "id IN (5, 6)"),
        lambda t: (t.delete("id = 4"), compact(t)),
        lambda t: (t.update({"price": 8.0}, "id < 30"), compact(t)),
        lambda t: t.upsert(handed_in(7, 8, 600, name="x")),
        lambda t: t.upsert(handed_in(31, 15, 700, 12, name="x")),
    ],
)
def test_rows_land_whoever_came_first(tmp_path: Path, meanwhile: Meanwhile) -> None:
    """Every row handed in is there afterwards, as handed in, and of the others those that nobody deleted.

    spec: IDN-12, CON-7, CHG-10
    """
    table = make(tmp_path, *range(60), key="id", properties=MOVES, fragment_rows=25)
    wanted = [3, 300, 19, 8, 4, 301, 13, 6, 55, 12, 16, 302, 31]
    expected_rest = content(table, "name", "price", "vec")
    before = row_ids(table)
    mine, _ = interrupted(table, meanwhile)
    mine.upsert(handed_in(*wanted, name="mine", price=9.0))
    fresh = lake.open(table.uri)
    found = content(fresh, "name", "price", "vec")
    for one in wanted:
        assert found[one] == {"id": one, "name": "mine", "price": 9.0, "vec": vector(one)}
    assert all(found[one]["vec"] == vector(one) for one in found)
    untouched = set(range(60)) - set(wanted) - {2, 3, 4}
    assert untouched <= set(found)
    assert expected_rest.keys() - found.keys() <= {2}
    after = row_ids(fresh)
    assert {one: after[one] for one in untouched} == {one: before[one] for one in untouched}
    assert fresh.take([*after.values()], ["id"]).column("id").to_pylist() == [*after]
    assert fresh.count() == len(found)
    assert not fresh.verify().problems


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=9, unique=True), min_size=1, max_size=5))
def test_one_upsert_after_another(tmp_path_factory: pytest.TempPathFactory, batches: list[list[int]]) -> None:
    """spec: CHG-3, IDN-2"""
    root = tmp_path_factory.mktemp("upserts")
    table = make(root, *range(100, 140), key="id", properties=MOVES, fragment_rows=15)
    expected = content(table, "name")
    known = row_ids(table)
    for number, wanted in enumerate(batches):
        done = lake.open(table.uri).upsert(handed_in(*wanted, name=f"step {number}"))
        assert (done.updated, done.inserted) == (
            len(set(wanted) & expected.keys()),
            len(set(wanted) - expected.keys()),
        )
        expected |= dict.fromkeys(wanted, f"step {number}")
        now = row_ids(table.refresh())
        assert {one: now[one] for one in known} == known
        known = now
    assert content(table, "name") == expected
    assert len(set(known.values())) == len(known)
    assert all(one == vector(i) for i, one in content(table, "vec").items())
    assert not table.verify().problems


def test_what_fails_leaves_no_file(tmp_path: Path) -> None:
    """Whether the rows do not fit, or the keys of the table cannot be read while they are written. spec: CHG-9"""
    table = make(tmp_path, *range(2000), key="id", properties=MOVES, fragment_rows=1000)
    root = tmp_path / "table"
    before = files(root)
    strict = table.alter_column("name", nullable=False)
    unnamed = handed_in(*range(1990, 2300)).drop_columns(["name"])
    unnamed = unnamed.append_column("name", pa.nulls(len(unnamed), pa.string()))
    with pytest.raises(InvalidInputError, match="name"):
        strict.upsert(unnamed)
    assert files(root) == before
    for start, failing in (("data/", ("close",)), ("_lake/indexes/", ("get_ranges", "get"))):

        def refuse(
            _: int, method: str, path: str, start: str = start, failing: tuple[str, ...] = failing
        ) -> Fault | None:
            return Fault.PERMISSION_DENIED if path.startswith(start) and method in failing else None

        with pytest.raises(StorageError, match="permission denied"):
            lake.open("unused", store=FaultyStore(LocalStore(root), refuse)).upsert(
                handed_in(*range(1990, 2300))
            )
        assert files(root) == before
    assert ids(lake.open(table.uri)) == [*range(2000)]


class KeyOverDoubles:
    """Declares a key although rows share it: what only a broken writer does."""

    def __init__(self) -> None:
        self.record = OperationRecord(kind="set_properties", claims=frozenset({"property:key"}))
        self.summary: dict[str, Any] = {}

    def apply(self, draft: Draft) -> OperationRecord:
        draft.set_properties({**draft.version.properties, "key": "1"})
        return self.record

    def replan(self, latest: Snapshot) -> KeyOverDoubles:
        raise AssertionError("not in these tests")


def test_two_rows_of_one_key_are_not_merged_into_one(tmp_path: Path) -> None:
    table = make(tmp_path, *range(30), 5, properties=MOVES)
    table._commit(KeyOverDoubles())
    with pytest.raises(CorruptionError, match="same key"):
        table.upsert(handed_in(5, 6))
    assert table.count() == 31
