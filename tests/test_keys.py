"""Keys declared, dropped and changed; the key index through updates, restores, upkeep and collection."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from key_samples import PAIRS, pairs, small_runs
from row_samples import content, ids, interrupted, make, rows

import lake_format as lake
from lake_format.errors import ConflictError, InvalidInputError, LakeError, UnsupportedError
from lake_format.key_index import KeyIndex, KeyRunsMerged
from lake_format.row_runs import RowRuns
from lake_format.table import Table


@pytest.fixture
def small() -> Iterator[None]:
    with small_runs():
        yield


def index_of(table: Table) -> KeyIndex:
    index = table.snapshot.version.key_index
    assert index is not None
    return index


# --- declaring and dropping -------------------------------------------------------------------------------------


def test_a_key_can_be_declared_later(tmp_path: Path, small: None) -> None:
    """spec: IDN-13, KEY-1, CHG-12"""
    table = make(tmp_path, *range(100), fragment_rows=30)
    table.delete("id % 3 = 0")
    table.upsert(rows(5, 6, price=7.0), on="id")
    table.set_key("id")
    assert table.key == ["id"]
    assert not table.schema.field("id").nullable
    assert {"keys", "key-index"} <= table.snapshot.version.required_features
    assert table.get([5, 6, 9], columns=["price"]).column("price").to_pylist() == [7.0, 7.0]
    with pytest.raises(lake.DuplicateKeyError):
        table.append(rows(5))
    assert table.verify().ok
    table.set_key(["id", "name"] if table.update({"name": "x"}, "name IS NULL") else [])
    assert table.key == ["id", "name"]
    table.append(rows(5, name="another"))
    table.drop_key()
    assert table.key == []
    assert table.snapshot.version.key_index is None
    assert not table.schema.field("id").nullable
    table.append(rows(5, 5))
    assert ids(table).count(5) == 4


def test_a_key_that_does_not_identify_rows_is_refused_with_the_rows_named(tmp_path: Path) -> None:
    """spec: IDN-13"""
    table = make(tmp_path, 1, 2, 3, 2)
    version = table.version
    with pytest.raises(lake.DuplicateKeyError, match=r"row ids 1 and 3 .* id=2"):
        table.set_key("id")
    with pytest.raises(InvalidInputError, match="price"):
        table.set_key("price")
    with pytest.raises(InvalidInputError, match="nope"):
        table.set_key("nope")
    table.update({"name": None}, where="id = 3")
    with pytest.raises(InvalidInputError, match=r"'name' is NULL in the row with row id 2"):
        table.set_key("name")
    assert table.version == version + 1
    assert table.key == []
    with pytest.raises(InvalidInputError, match="no key"):
        table.drop_key()
    assert not list((tmp_path / "table" / "_lake").glob("indexes/*"))


def test_rows_that_come_while_a_key_is_declared_are_looked_at_too(tmp_path: Path) -> None:
    """spec: IDN-13, CON-2 (fields_required)"""
    table = make(tmp_path, 1, 2)
    blocked = Interrupting(table, lambda other: other.append(rows(3)))
    blocked.set_key("id")
    assert blocked.get(3) is not None
    assert blocked.verify().ok
    blocked.drop_key()
    with pytest.raises(lake.DuplicateKeyError):
        Interrupting(table, lambda other: other.append(rows(2))).set_key("id")
    lake.open(table.uri).delete("_row_id = 3")
    with pytest.raises(ConflictError):
        Interrupting(table, lambda other: other.drop_column("id")).set_key("id")


def test_writers_meet_a_key_that_was_declared_meanwhile(tmp_path: Path) -> None:
    """spec: IDN-13, CHG-7"""
    table = make(tmp_path, 1, 2, 3)
    late, _ = interrupted(table, lambda other: other.set_key("id"))
    with pytest.raises(lake.DuplicateKeyError):
        late.update({"id": 2}, where="id = 1")
    table.refresh().drop_key()
    late, _ = interrupted(table, lambda other: other.set_key("id"))
    late.upsert(rows(3, 4, price=0.5), on="id")
    assert content(table.refresh(), "price") == {1: 1.0, 2: 2.0, 3: 0.5, 4: 0.5}
    held = lake.open(table.uri).drop_key()
    lake.open(table.uri).set_key("id")
    with pytest.raises(ConflictError, match="part of the table's key"):
        held.alter_column("id", nullable=True)
    held.alter_column("price", comment="in euros")
    assert held.key == ["id"]


def Interrupting(table: Table, meanwhile) -> Table:  # noqa: N802 - reads as what it is
    """The table with an engine that lets somebody commit after the first look at all keys."""
    from lake_engines import DefaultEngine

    class Engine(DefaultEngine):
        done = False

        def build_key_index(self, snapshot, columns, new_id):
            index = super().build_key_index(snapshot, columns, new_id)
            if not self.done:
                self.done = True
                meanwhile(lake.open(table.uri))
            return index

    return lake.open(table.uri, engine=Engine())


@pytest.mark.parametrize(
    "forbidden",
    [
        lambda table: table.drop_column("id"),
        lambda table: table.alter_column("id", nullable=True),
        lambda table: table.alter_column("id", type=pa.float64()),
        lambda table: table.merge(rows(1)).when_matched_update({"id": 5}).execute(),
    ],
)
def test_what_would_break_a_key_is_refused(tmp_path: Path, forbidden) -> None:
    """spec: IDN-13"""
    table = make(tmp_path, 1, 2, key="id")
    with pytest.raises((InvalidInputError, UnsupportedError), match=r"key|narrowed"):
        forbidden(table)
    assert content(table, "price") == {1: 1.0, 2: 2.0}


# --- new values of key columns ----------------------------------------------------------------------------------


def test_keys_can_be_changed_and_stay_unique(tmp_path: Path, small: None) -> None:
    """spec: IDN-13, IDN-15, KEY-3, CHG-11"""
    table = make(tmp_path, *range(10), key="id", fragment_rows=4)
    before = {row["id"]: row["_row_id"] for row in table.scan(["id", "_row_id"]).read_all().to_pylist()}
    done = table.update({"id": lake.sql("id + 1"), "price": -1.0}, where="id >= 5")
    assert done.updated == 5
    after = {row["id"]: row["_row_id"] for row in table.scan(["id", "_row_id"]).read_all().to_pylist()}
    assert after == {i + (i >= 5): row_id for i, row_id in before.items()}
    assert table.get(5) is None
    assert table.get([6, 10], columns=["price"]).column("price").to_pylist() == [-1.0, -1.0]
    for where, value in (("id = 1", 2), ("id < 2", 77)):
        with pytest.raises(lake.DuplicateKeyError):
            table.update({"id": value}, where=where)
    with pytest.raises(InvalidInputError, match="id"):
        table.update({"id": None}, where="id = 1")
    calls = []
    table.update({"id": lambda batch: calls.append(1) or [50] * batch.num_rows}, where="id = 1")
    assert len(calls) == 1  # a function that gives another answer every time is asked once
    table.append(rows(1, 5))
    table.upsert(rows(50, 51, 6, price=3.0))
    assert content(table, "price")[6] == 3.0
    assert table.verify().ok
    table.compact()
    assert not index_of(table).stale
    assert table.verify().ok


def test_changed_keys_meet_those_of_others(tmp_path: Path, small: None) -> None:
    """spec: IDN-15, CHG-11"""
    table = make(tmp_path, 1, 2, 3, key="id")
    late, _ = interrupted(table, lambda other: other.update({"id": 9}, where="id = 3"))
    with pytest.raises(ConflictError):
        late.append(rows(9))
    late, _ = interrupted(table, lambda other: other.update({"id": 8}, where="id = 2"))
    late.upsert(rows(2, 8, price=0.0))
    assert content(table.refresh(), "price") == {1: 1.0, 2: 0.0, 8: 0.0, 9: 3.0}
    late, _ = interrupted(table, lambda other: other.append(rows(7)))
    with pytest.raises(ConflictError):
        late.update({"id": 7}, where="id = 1")
    late, _ = interrupted(table, lambda other: other.update({"id": 70}, where="id = 1"))
    with pytest.raises(ConflictError):
        late.update({"id": 71}, where="id = 1")
    assert table.refresh().verify().ok


def test_runs_merged_from_keys_that_changed_meanwhile_are_given_up(tmp_path: Path, small: None) -> None:
    """spec: KEY-9"""
    table = lake.create(str(tmp_path / "t"), PAIRS, key="id")
    for number in range(5):
        table.append(pairs(4, number * 10))
    late, engine = interrupted(table, lambda other: other.update({"id": 500}, where="id = 21"))
    for number in range(5, 9):
        late.append(pairs(4, number * 10))
    assert late.get(500) is not None
    assert late.get(21) is None
    assert late.verify().ok
    assert any(plan.edits.merged_runs is not None for plan in engine.plans)

    index = index_of(late)
    gone = KeyRunsMerged(replaced=frozenset({("no such run", RowRuns())}), run=None)
    assert index.with_merged(gone) is index


def test_runs_made_in_a_transaction_fit_where_it_lands(tmp_path: Path, small: None) -> None:
    """spec: KEY-9. Ids of its new rows shift when others add rows meanwhile; runs merged from them are given up."""
    table = lake.create(str(tmp_path / "t"), PAIRS, key="id")
    rival = lake.open(table.uri)
    for attempt in range(3):
        with table.transaction() as inside:
            for number in range(7):
                inside.append(pairs(4, attempt * 1_000 + number * 10))
            inside.update({"id": lake.sql("id + 500")}, where=f"id >= {attempt * 1_000 + 60}")
            inside.append(pairs(4, attempt * 1_000 + 100))
            rival.append(pairs(3, 10_000 + attempt * 10))
        assert table.refresh().verify().problems == []
        assert table.get(attempt * 1_000 + 560) is not None
        assert table.get(attempt * 1_000 + 11) is not None
    assert table.count() == 3 * (8 * 4 + 3)


def test_upkeep_of_the_index_gives_way(tmp_path: Path, small: None) -> None:
    """spec: KEY-9"""
    from lake_engines import DefaultEngine

    table = lake.create(str(tmp_path / "t"), PAIRS, key="id")
    for number in range(5):
        table.append(pairs(4, number * 10))

    class Engine(DefaultEngine):
        def settle_key_index(self, snapshot, new_id):
            merged = super().settle_key_index(snapshot, new_id)
            lake.open(table.uri).update({"id": lake.sql("id + 100")}, where="id < 3")
            return merged

    late = lake.open(table.uri, engine=Engine())
    late.compact()
    assert late.refresh().get(101) is not None
    assert late.verify().ok


def test_a_restore_brings_no_index_of_a_key_that_was_dropped(tmp_path: Path) -> None:
    """spec: KEY-1, VER-5"""
    table = make(tmp_path, 1, 2, key="id").append(rows(3))
    version = table.version
    table.drop_key().restore(version)
    assert table.snapshot.version.key_index is None
    table.upsert(rows(3, 4, name="new"), on="id")
    table.append(rows(4)).compact(1000)
    assert ids(table) == [1, 2, 3, 4, 4]
    assert table.verify().problems == []


def test_a_restore_brings_the_index_of_its_version(tmp_path: Path, small: None) -> None:
    """spec: KEY-1"""
    table = make(tmp_path, *range(8), key="id")
    version = table.version
    table.update({"id": lake.sql("id + 4")}, where="id >= 4")
    table.append(rows(4, 5, 6, 7))
    table.compact()
    table.restore(version)
    assert [row["id"] for row in table.get(list(range(12))).to_pylist()] == list(range(8))
    with pytest.raises(lake.DuplicateKeyError):
        table.append(rows(4))
    table.append(rows(8))
    assert table.verify().ok


def test_collection_keeps_runs_that_are_needed_and_removes_others(tmp_path: Path, small: None) -> None:
    """spec: UPK-6"""
    from datetime import timedelta

    table = lake.create(str(tmp_path / "t"), PAIRS, key="id")
    for number in range(12):
        table.append(pairs(4, number * 10))
    table.compact()
    table.append(pairs(4, 1_000))
    files = set((tmp_path / "t" / "_lake" / "indexes").iterdir())
    table.expire_versions(keep=1)
    import os
    import time

    for path in (tmp_path / "t").rglob("*"):
        if path.is_file() and "versions" not in path.parts:
            os.utime(path, (time.time() - 100, time.time() - 100))
    table.collect_garbage(dry_run=False, grace=timedelta(0))
    left = set((tmp_path / "t" / "_lake" / "indexes").iterdir())
    assert {str(path.relative_to(tmp_path / "t")) for path in left} == set(index_of(table).paths())
    assert left < files
    assert table.verify().ok


def test_a_failed_write_leaves_no_runs_behind(tmp_path: Path, small: None) -> None:
    table = make(tmp_path, 1, key="id")
    before = sorted((tmp_path / "table").rglob("*"))

    def broken() -> Iterator[pa.RecordBatch]:
        yield from pa.Table.from_pylist(rows(*range(10, 30))).to_batches()
        raise OSError("the source is gone")

    with pytest.raises((OSError, LakeError)):
        table.append(broken())
    assert sorted((tmp_path / "table").rglob("*")) == before
