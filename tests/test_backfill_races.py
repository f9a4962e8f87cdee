"""Columns with values and backfills while others append, delete, compact and change columns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from backfill_samples import batch, column, expected, make, plus_one
from conftest import Location

import lake_format as lake
from lake_format.errors import (
    ConflictError,
    LakeError,
)
from lake_format.expressions import sql


@pytest.fixture
def table(memory_location: Location) -> lake.Table:
    return make(memory_location)


class _Meanwhile:
    """Values that let something happen after they were computed and before they are committed."""

    def __init__(self, values: Any, action: Callable[[], Any]) -> None:
        self.values, self.action, self.calls = values, action, 0

    def __call__(self, rows: pa.RecordBatch) -> Any:
        if self.calls == 0:
            self.action()
        self.calls += 1
        return self.values(rows)


@pytest.fixture(params=["add", "fill"])
def fill(request: pytest.FixtureRequest, table: lake.Table) -> Callable[..., lake.Table]:
    """Give column ``n`` values while ``action`` happens: as a new column, or as a backfill."""
    if request.param == "fill":
        table.add_column("n", pa.int64())

    def run(
        action: Callable[[lake.Table], Any], values: Any = plus_one, inputs: tuple[str, ...] = ("id",)
    ) -> lake.Table:
        other = lake.open(table.uri)
        meanwhile = _Meanwhile(values, lambda: action(other))
        if request.param == "fill":
            table.backfill("n", meanwhile, inputs=inputs)
        else:
            table.add_column("n", pa.int64(), meanwhile, inputs=inputs)
        table.calls = meanwhile.calls  # type: ignore[attr-defined]
        return table

    return run


@pytest.mark.parametrize("values", [None, 7])
def test_null_is_forbidden_while_a_column_is_filled(table: lake.Table, values: int | None) -> None:
    """Whoever comes later looks again. spec: EVO-5"""
    table.add_column("n", values=1)
    other = lake.open(table.uri)

    def fill(rows: pa.RecordBatch) -> pa.Array:
        if other.schema.field("n").nullable:
            other.alter_column("n", nullable=False)
        return pa.array([values] * rows.num_rows, pa.int32())

    if values is None:
        with pytest.raises(LakeError, match=r"'n'.*NULL"):
            table.backfill("n", fill, inputs=["id"])
    else:
        table.backfill("n", fill, inputs=["id"])
    assert lake.open(table.uri).count("n IS NULL") == 0


def test_null_is_forbidden_after_a_column_was_filled(table: lake.Table) -> None:
    """spec: EVO-5"""
    table.add_column("n", values=1)
    stale = lake.open(table.uri)
    table.backfill("n", None, "id = 1")
    with pytest.raises(LakeError, match=r"'n'.*NULL"):
        stale.alter_column("n", nullable=False)
    assert lake.open(table.uri).schema.field("n").nullable


def test_rows_appended_meanwhile_are_null(fill: Callable[..., lake.Table]) -> None:
    """spec: EVO-8"""
    table = fill(lambda other: other.append(batch(100, 101)))
    assert column(table, "n") == expected(100, 101)
    table.backfill("n", sql("id + 1"), "n IS NULL")
    assert column(table, "n") == expected() | {100: 101, 101: 102}


def test_rows_deleted_meanwhile_stay_deleted(fill: Callable[..., lake.Table]) -> None:
    table = fill(lambda other: other.delete("id IN (1, 8) OR id >= 18"))
    assert column(table, "n") == expected(without=(1, 8, 18, 19))


def test_fragments_compacted_meanwhile(fill: Callable[..., lake.Table]) -> None:
    """spec: EVO-7 — values follow their rows by row id; nothing is computed again."""
    table = fill(lambda other: (other.delete("id IN (0, 7)"), other.compact(1000)))
    assert column(table, "n") == expected(without=(0, 7))
    assert table.calls == 4  # type: ignore[attr-defined]


def test_rows_moved_and_columns_changed_meanwhile(fill: Callable[..., lake.Table]) -> None:
    def action(other: lake.Table) -> None:
        other.update({"name": "new"}, "id = 3")
        other.update({"price": 0.0, "v": [9, 9, 9, 9]}, "id >= 5")
        other.rename_column("name", "title").widen_column("price", pa.float64()).add_column("x", values=1)
        other.compact(1000)

    table = fill(action)
    assert column(table, "n") == expected()
    assert column(table, "title")[3] == "new"
    assert column(table, "x") == dict.fromkeys(range(20), 1)
    assert table.take([6])["v"].to_pylist() == [[9, 9, 9, 9]]


def test_what_values_are_made_of_changes_meanwhile(fill: Callable[..., lake.Table]) -> None:
    """They are computed again, from what is there now."""
    table = fill(
        lambda other: other.update({"price": 500.0}, "id = 4"),
        lambda rows: pc.floor(rows["price"]),
        ("price",),
    )
    assert column(table, "n") == {i: 500 if i == 4 else i // 4 for i in range(20)}


def test_two_new_columns_at_once(table: lake.Table) -> None:
    """spec: EVO-7 — the later one takes the next field id; its files are not written again."""
    other = lake.open(table.uri)
    slow = _Meanwhile(
        plus_one,
        lambda: other.add_column("first", values="f").add_column("nested", pa.struct([("a", pa.int8())])),
    )
    table.add_column("second", pa.int64(), slow, inputs=["id"])
    assert slow.calls == 4
    assert table.schema.names[-3:] == ["first", "nested", "second"]
    assert column(table, "second") == expected()
    assert set(column(table, "first").values()) == {"f"}
    assert table.count("second > 10") == 10
    assert lake.open(table.uri).to_arrow().equals(table.to_arrow())


def test_the_same_name_at_once_is_a_conflict(table: lake.Table) -> None:
    other = lake.open(table.uri)
    slow = _Meanwhile(plus_one, lambda: other.add_column("N", values="f"))
    before = {info.path for info in table.snapshot.store.list("data/")}
    with pytest.raises(ConflictError, match="same name"):
        table.add_column("n", pa.int64(), slow, inputs=["id"])
    named = {group.path for fragment in other.snapshot.fragments.fragments() for group in fragment.groups}
    assert {info.path for info in table.snapshot.store.list("data/")} == before | named


def test_the_column_is_dropped_meanwhile(table: lake.Table) -> None:
    table.add_column("n", pa.int64())
    other = lake.open(table.uri)
    with pytest.raises(ConflictError):
        table.backfill("n", _Meanwhile(plus_one, lambda: other.drop_column("n")), inputs=["id"])
    assert "n" not in table.refresh().schema.names


def test_rows_come_while_a_required_column_is_added(table: lake.Table) -> None:
    other = lake.open(table.uri)
    slow = _Meanwhile(plus_one, lambda: other.append(batch(100)))
    table.add_column("n", pa.int64(), slow, inputs=["id"], nullable=False)
    assert column(table, "n") == expected() | {100: 101}
    stale = lake.open(table.uri)
    table.add_column("m", pa.int64(), sql("1"), nullable=False)
    rows = batch(200).append_column("n", pa.array([1]))
    with pytest.raises(ConflictError):
        stale.append(rows)


def test_two_backfills_of_one_column_at_once(table: lake.Table) -> None:
    table.add_column("n", pa.int64())
    other = lake.open(table.uri)
    slow = _Meanwhile(plus_one, lambda: other.backfill("n", -1, "id >= 10"))
    table.backfill("n", slow, "id < 12", inputs=["id"])
    assert column(table, "n") == {i: i + 1 if i < 12 else -1 for i in range(20)}
    other.refresh()
    slow = _Meanwhile(plus_one, lambda: other.update({"n": 77}, "id = 15"))
    table.backfill("n", slow, "n = -1", inputs=["id"])  # the one that was updated is not -1 any more
    assert column(table, "n")[15] == 77
    assert column(table, "n")[16] == 17
