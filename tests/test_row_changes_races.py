"""Row changes that meet others: made to fit, planned again or refused, never lost and never doubled."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from row_samples import Forced, InterruptedEngine, content, ids, interrupted, make, row_ids, rows, vector

import lake_format as lake
from lake_format.draft import Draft
from lake_format.errors import ConflictError, CorruptionError, LakeError, NotFoundError
from lake_format.keys import decode_key_hashes, hash_keys
from lake_format.operation_record import OperationRecord
from lake_format.paths import KEYS
from lake_format.row_ids import encode_row_ids
from lake_format.snapshot import Snapshot
from lake_format.table import Table


class Compaction:
    """All rows into one new fragment, in descending order of row id: what upkeep does, in its simplest form."""

    def __init__(self, table: Table) -> None:
        self._table = table
        snapshot = table.snapshot
        self._gone = [int(one) for one in snapshot.fragments.integers("fragment_id")]
        self.record = OperationRecord(kind="compact", fragments_removed=frozenset(self._gone))
        self.summary: dict[str, Any] = {}

    def apply(self, draft: Draft) -> OperationRecord:
        from lake_format.engine import WriteRequest

        table = self._table
        order = np.sort(np.array(list(row_ids(table).values()), np.uint64))[::-1]
        version = table.snapshot.version
        data = table.take(order)
        written = table.engine.write(
            table.snapshot.store,
            WriteRequest(
                data=data,
                schema=version.schema,
                schema_id=version.schema_id,
                properties={"write.fragment-rows": "1000000"},
            ),
        )
        draft.replace_fragments(dict.fromkeys(self._gone))
        (fragment,) = written.fragments
        draft.add_moved([(fragment, encode_row_ids(order))], written.features)
        return self.record

    def replan(self, latest: Snapshot) -> Compaction:
        raise AssertionError("not in these tests")


def compact(table: Table) -> None:
    table.refresh()
    table._commit(Compaction(table))


Meanwhile = Callable[[Table], object]


@pytest.mark.parametrize(
    ("change", "meanwhile", "expected"),
    [
        # other rows, other columns of the same rows, the same fragment in every way
        (lambda t: t.delete("id = 1"), lambda t: t.delete("id = 2"), {1: None, 2: None}),
        (lambda t: t.delete("id = 1"), lambda t: t.delete("id IN (1, 2)"), {1: None, 2: None}),
        (lambda t: t.delete("id = 1"), lambda t: t.update({"name": "x"}, "id < 5"), {1: None, 2: ("x", 2.0)}),
        (lambda t: t.delete("id = 1"), lambda t: t.update({"name": "x"}), {1: None, 2: ("x", 2.0)}),
        (lambda t: t.delete("id = 1"), compact, {1: None, 2: ("name 2", 2.0)}),
        (lambda t: t.delete("id = 1"), lambda t: (t.update({"name": "x"}, "id = 1"), compact(t)), {1: None}),
        (
            lambda t: t.update({"price": 9.0}, "id = 1"),
            lambda t: t.update({"name": "x"}, "id = 1"),
            {1: ("x", 9.0)},
        ),
        (
            lambda t: t.update({"price": 9.0}, "id = 1"),
            lambda t: t.update({"name": "x"}),
            {1: ("x", 9.0), 2: ("x", 2.0)},
        ),
        (
            lambda t: t.update({"price": 9.0}),
            lambda t: t.update({"name": "x"}, "id = 1"),
            {1: ("x", 9.0), 2: ("name 2", 9.0)},
        ),
        (
            lambda t: t.update({"price": 9.0}),
            lambda t: t.update({"name": "x"}),
            {1: ("x", 9.0), 2: ("x", 9.0)},
        ),
        (
            lambda t: t.update({"price": 9.0}, "id < 150"),
            lambda t: t.update({"price": 8.0}, "id > 150"),
            {1: ("name 1", 9.0), 160: ("name 160", 8.0)},
        ),
        (lambda t: t.update({"price": 9.0}, "id = 1"), lambda t: t.delete("id = 1"), {1: None}),
        (lambda t: t.update({"price": 9.0}), lambda t: t.delete("id = 1"), {1: None, 2: ("name 2", 9.0)}),
        (
            lambda t: t.update({"price": 9.0}, "id IN (1, 2)"),
            lambda t: t.delete("id = 1"),
            {1: None, 2: ("name 2", 9.0)},
        ),
        (lambda t: t.update({"price": 9.0}, "id = 1"), compact, {1: ("name 1", 9.0), 2: ("name 2", 2.0)}),
        (lambda t: t.update({"price": 9.0}), compact, {1: ("name 1", 9.0), 150: ("name 150", 9.0)}),
        (
            lambda t: t.update({"price": 9.0}),
            lambda t: (t.delete("id = 1"), compact(t)),
            {1: None, 2: ("name 2", 9.0)},
        ),
        (
            lambda t: t.update({"price": 9.0}),
            lambda t: (t.update({"name": "x"}, "id < 3"), compact(t)),
            {2: ("x", 9.0), 5: ("name 5", 9.0)},
        ),
        (
            lambda t: t.update({"price": 9.0}),
            lambda t: t.append(rows(900)),
            {1: ("name 1", 9.0), 900: ("name 900", 900.0)},
        ),
        # upserts see what came first
        (
            lambda t: t.upsert([{"id": 1, "price": 9.0}], on="id"),
            lambda t: t.update({"name": "x"}, "id = 1"),
            {1: ("x", 9.0)},
        ),
        (
            lambda t: t.upsert([{"id": 1, "price": 9.0}], on="id"),
            lambda t: t.delete("id = 1"),
            {1: (None, 9.0)},
        ),
        (
            lambda t: t.upsert(rows(900, name="mine"), on="id"),
            lambda t: t.append(rows(900)),
            {900: ("mine", 900.0)},
        ),
        (
            lambda t: t.upsert(rows(900, name="mine"), on="id"),
            lambda t: t.upsert(rows(900, 901), on="id"),
            {900: ("mine", 900.0), 901: ("name 901", 901.0)},
        ),
        (lambda t: t.upsert(rows(1, 900), on="id"), compact, {1: ("name 1", 1.0), 900: ("name 900", 900.0)}),
        (
            lambda t: (
                t.merge(rows(1), on="id").when_not_matched_by_source_delete(condition="id > 100").execute()
            ),
            lambda t: t.append(rows(900)),
            {150: None, 900: None},
        ),
        (
            lambda t: t.overwrite(rows(1), "id < 100"),
            lambda t: t.append(rows(50, 900)),
            {1: ("name 1", 1.0), 50: None, 900: ("name 900", 900.0)},
        ),
        (
            lambda t: t.overwrite(rows(1), "id < 100"),
            compact,
            {1: ("name 1", 1.0), 50: None, 150: ("name 150", 150.0)},
        ),
    ],
)
@pytest.mark.parametrize(
    ("own", "rival"),
    [("rewrite", "rewrite"), ("move", "rewrite"), ("rewrite", "move"), ("move", "move"), ("patch", "patch")],
)
def test_a_change_is_made_to_fit_what_came_first(
    tmp_path: Path, own: str, rival: str, change: Meanwhile, meanwhile: Meanwhile, expected: dict[int, Any]
) -> None:
    """spec: IDN-12, CON-7, CHG-10"""
    make(tmp_path, *range(200), fragment_rows=100)

    def rival_first(table: Table) -> None:
        with Forced(rival):
            meanwhile(table)

    mine, _ = interrupted(lake.open(str(tmp_path / "table")), rival_first)
    with Forced(own):
        change(mine)
    fresh = lake.open(mine.uri)
    found = content(fresh, "name", "price")
    for i, values in expected.items():
        assert (None if i not in found else (found[i]["name"], found[i]["price"])) == values
    assert fresh.count() == len(found)
    vectors = content(fresh, "vec")
    assert all(vectors[i] == vector(i) for i in (2, 5, 150) if i in vectors)
    where = row_ids(fresh)
    assert fresh.take([*where.values()], ["id"]).column("id").to_pylist() == [*where]


@pytest.mark.parametrize(
    ("change", "meanwhile"),
    [
        (lambda t: t.delete("price = 1"), lambda t: t.update({"price": 5.0}, "id = 1")),
        (lambda t: t.update({"price": 9.0}, "id = 1"), lambda t: t.update({"price": 8.0}, "id = 1")),
        (lambda t: t.update({"name": lake.sql("lower(name)")}), lambda t: t.update({"name": "x"}, "id = 3")),
        (lambda t: t.update({"name": "x"}, "price < 10"), lambda t: t.update({"price": 1.0}, "id = 3")),
    ],
)
def test_what_cannot_be_merged_is_refused_and_leaves_nothing(
    tmp_path: Path, change: Meanwhile, meanwhile: Meanwhile
) -> None:
    make(tmp_path, *range(20))
    mine, engine = interrupted(lake.open(str(tmp_path / "table")), meanwhile)
    with pytest.raises(ConflictError):
        change(mine)
    (plan,) = engine.plans
    assert not [group for group in plan.edits.files() if (tmp_path / "table" / group.path).exists()]
    assert lake.open(mine.uri).version == 3


def test_an_index_built_meanwhile_does_not_keep_the_old_vector(tmp_path: Path) -> None:
    """spec: IDN-10"""
    table = make(tmp_path, *range(300), fragment_rows=100)
    mine, _ = interrupted(table, lambda other: other.create_index("vec"))
    mine.update({"vec": vector(9000)}, "id = 5")
    found = mine.search(vector(9000), 1, select=["id", "_distance"]).to_arrow().to_pylist()
    assert found == [{"id": 5, "_distance": 0.0}]
    assert mine.search(vector(5), 1, select=["id"]).to_arrow()["id"].to_pylist() != [5]


def test_keys_taken_meanwhile_are_a_conflict(tmp_path: Path) -> None:
    """spec: IDN-15, CHG-7"""
    table = make(tmp_path, *range(5), key="id")
    mine, _ = interrupted(table, lambda other: other.append(rows(7, 8)))
    with pytest.raises(ConflictError, match="same key"):
        mine.append(rows(8, 9))
    other, _ = interrupted(table, lambda third: third.append(rows(20)))
    other.append(rows(21))
    assert ids(lake.open(table.uri)) == [0, 1, 2, 3, 4, 7, 8, 20, 21]
    again, engine = interrupted(table, lambda third: third.upsert(rows(30, name="first")))
    done = again.upsert(rows(30, 31, name="second"))
    assert (done.updated, done.inserted, len(engine.plans)) == (1, 1, 2)


def test_threads_may_share_a_table_object(tmp_path: Path) -> None:
    """What another thread committed through the same object is judged like anybody's commit."""
    engine = InterruptedEngine(lambda: table.append(rows(7, name="other thread")))
    table = lake.open(make(tmp_path, *range(5), key="id").uri, engine=engine)
    table.upsert(rows(7, name="mine"))
    assert content(table, "name")[7] == "mine"
    engine.meanwhile = lambda: table.append(rows(8))
    with pytest.raises(ConflictError):
        table.append(rows(8))
    assert ids(lake.open(table.uri)) == [0, 1, 2, 3, 4, 7, 8]


def test_many_key_hashes_lie_in_an_object(tmp_path: Path) -> None:
    """spec: CHG-9"""
    table = make(tmp_path, key="id", fragment_rows=10_000)
    many = pa.table({"id": np.arange(2000)})
    mine, _ = interrupted(table, lambda other: other.append(many))
    with pytest.raises(ConflictError, match="same key"):
        mine.append(rows(1999, 5000))
    second, _ = interrupted(table, lambda other: other.append(pa.table({"id": np.arange(3000, 4000)})))
    second.append(rows(5000))
    record = table.refresh().snapshot.version.operations[0]
    assert record["kind"] == "append"
    stored = sorted((tmp_path / "table" / KEYS).iterdir())
    hashes = decode_key_hashes(stored[0].read_bytes(), "keys")
    assert len(stored) == 2
    assert len(hashes) in (1000, 2000)
    assert int(hash_keys([pa.array([3000])])[0]) in {
        one for path in stored for one in decode_key_hashes(path.read_bytes(), "keys")
    }
    for bad in (b"123", np.array([2, 1], "<u8").tobytes()):
        with pytest.raises(CorruptionError):
            decode_key_hashes(bad, "keys")


def test_threads_that_upsert_the_same_keys_never_double_them(tmp_path: Path) -> None:
    """8 writers, overlapping keys: exactly the distinct keys, each with a whole row of one writer. spec: IDN-13"""
    table = make(tmp_path, key="id")
    errors: list[LakeError] = []

    def write(writer: int, shared: Table | None) -> None:
        try:
            own = shared or lake.open(table.uri)
            for step in range(4):
                own.upsert(rows(*range(step, step + 3), name=f"w{writer}", price=float(writer)))
        except LakeError as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(n, table if n % 2 else None)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    fresh = lake.open(table.uri)
    found = content(fresh, "name", "price")
    assert sorted(found) == [*range(6)]
    assert all(row["name"] == f"w{int(row['price'])}" for row in found.values())
    assert fresh.count() == 6
    assert sum(one["operation"] == "upsert" for one in fresh.versions()) == 32


def test_threads_that_append_the_same_keys_win_once(tmp_path: Path) -> None:
    """spec: IDN-13"""
    table = make(tmp_path, key="id")
    won: list[int] = []

    def write(writer: int) -> None:
        own = lake.open(table.uri)
        for step in range(4):
            try:
                own.append(rows(step, name=f"w{writer}"))
                won.append(step)
            except (ConflictError, lake.DuplicateKeyError):
                own.refresh()

    threads = [threading.Thread(target=write, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [0, 1, 2, 3]
    assert ids(lake.open(table.uri)) == [0, 1, 2, 3]


def test_rows_deleted_meanwhile_do_not_come_back_by_a_move(tmp_path: Path) -> None:
    """spec: IDN-12"""
    table = make(tmp_path, *range(50), fragment_rows=50)
    gone = row_ids(table)[1]
    mine, _ = interrupted(table, lambda other: other.delete("id = 1"))
    mine.update({"price": 9.0}, "id IN (1, 2, 3)")
    assert ids(mine) == [0, *range(2, 50)]
    with pytest.raises(NotFoundError):
        mine.take([gone])
    last, _ = interrupted(table, lambda other: other.delete("id = 4"))
    last.update({"price": 9.0}, "id = 4")
    assert last.count() == 48


def test_new_rows_behind_moved_ones_get_their_ids_where_they_land(tmp_path: Path) -> None:
    """Row ids taken meanwhile are not given twice; rows that moved elsewhere meanwhile are dead on arrival.

    spec: CHG-3, CHG-10, IDN-2
    """
    table = make(tmp_path, *range(50), key="id", fragment_rows=50)
    before = row_ids(table)

    def meanwhile(other: Table) -> None:
        other.append(rows(90, 91)).delete("id = 2")
        compact(other)

    with Forced("move"):
        mine, engine = interrupted(table, meanwhile)
        mine.upsert(rows(1, 3, 60, 61, name="new"))
    assert len(engine.plans) == 1, "nothing was planned twice"
    assert ids(mine) == [0, 1, *range(3, 50), 60, 61, 90, 91]
    after = row_ids(mine)
    assert {one: after[one] for one in before if one != 2} == {one: before[one] for one in before if one != 2}
    assert [after[one] for one in (90, 91, 60, 61)] == [50, 51, 52, 53]
    assert mine.snapshot.version.next_row_id == 54
    names = content(mine, "name")
    assert [names[one] for one in (1, 3, 60, 61)] == ["new"] * 4
    assert sorted(mine.inspect.fragments()["deleted_rows"].to_pylist())[-1] == 2
    assert mine.get(61, columns=["name"]) == {"name": "new"}
    assert not mine.verify().problems
