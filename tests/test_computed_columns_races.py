"""Columns that become computed while others write, and writers that are overtaken by them.

spec: EVO-12, EVO-14
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from conftest import Location
from machine.interposed import InterposedStore
from test_computed_columns import SCHEMA, TOTAL, rows

import lake_format as lake
from lake_format.errors import ConflictError, InvalidInputError
from lake_format.store import Store

Change = Callable[[lake.Table], Any]


class Race:
    """One table, and two who write it."""

    def __init__(self, store: Store, **how: Any) -> None:
        self.store = store
        lake.create("unused", SCHEMA, store=store, properties={"write.fragment-rows": 6}, **how).append(
            rows(*range(20))
        )

    def open(self) -> lake.Table:
        return lake.open("unused", store=self.store)

    def run(self, mine: Change, theirs: Change) -> lake.Table:
        """``mine``, which finds when it would commit that ``theirs`` came first."""
        between = InterposedStore(self.store)
        table = lake.open("unused", store=between)
        between.meanwhile = lambda: theirs(self.open())
        try:
            mine(table)
        finally:
            between.raise_failure()
            assert between.meanwhile is None
        return self.open()


@pytest.fixture
def race(memory_location: Location) -> Race:
    return Race(memory_location.store())


def add(table: lake.Table) -> lake.Table:
    return table.add_column("total", values=TOTAL, computed=True)


def right(table: lake.Table, price: str = "price") -> lake.Table:
    for row in table.to_arrow().to_pylist():
        known = row[price] is not None and row["amount"] is not None
        assert row["total"] == (row[price] * row["amount"] if known else None), row
    assert table.verify().problems == []
    return table


WRITES: dict[str, Change] = {
    "append": lambda table: table.append(rows(50, 51)),
    "parts": lambda table: table.commit_parts([table.write_part(rows(50)), table.write_part(rows(51))]),
    "update": lambda table: table.update({"price": 7.0}, "id < 3"),
    "update by patch": lambda table: table.update({"amount": lake.sql("amount + 1")}, "id = 8"),
    "update of another": lambda table: table.update({"v": [1.0, 1.0]}, "id < 9"),
    "upsert": lambda table: table.upsert(rows(2, 50), on="id"),
    "merge": lambda table: (
        table.merge(rows(2, 50), on="id").when_matched_delete().when_not_matched_insert().execute()
    ),
    "overwrite": lambda table: table.overwrite(rows(50), "id < 3"),
    "delete": lambda table: table.delete("id IN (1, 8)"),
    "compact": lambda table: table.compact(1000),
    "rename": lambda table: table.rename_column("amount", "AMOUNT").rename_column("AMOUNT", "amount"),
    "widen": lambda table: table.widen_column("amount", pa.int64()),
    "another column": lambda table: table.add_column("other", values=1),
    "another computed": lambda table: table.add_column("other", values=lake.sql("price + 1"), computed=True),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_writer_is_overtaken_by_the_column(race: Race, name: str) -> None:
    """spec: EVO-14"""
    table = right(race.run(WRITES[name], add))
    right(table.append(rows(90)))


@pytest.mark.parametrize("name", WRITES)
def test_the_column_is_overtaken_by_a_writer(race: Race, name: str) -> None:
    """spec: EVO-12"""
    table = right(race.run(add, WRITES[name]))
    right(table.append(rows(90)))


@pytest.mark.parametrize("name", ["append", "update", "upsert", "overwrite"])
def test_writers_of_a_table_with_a_key(memory_location: Location, name: str) -> None:
    race = Race(memory_location.store(), key="id")
    right(race.run(WRITES[name], add))
    right(
        race.run(lambda table: table.add_column("b", values=lake.sql("id"), computed=True), WRITES["update"])
    )


def test_an_append_is_overtaken_by_several(race: Race) -> None:
    """Each file is written once for each column, beside those that the rows have."""

    def several(table: lake.Table) -> None:
        add(table).add_column("half", pa.float32(), lake.sql("price / 2"), computed=True)
        table.rename_column("price", "cost")

    table = right(race.run(WRITES["append"], several), "cost")
    assert table.count("half = cost / 2") == 18
    assert len(table.inspect.files().filter(pa.compute.field("fragment_id") == 4)) == 4


REFUSED: dict[str, tuple[Change, Change]] = {
    "dropped": (add, lambda table: table.drop_column("amount")),
    "drop": (lambda table: table.drop_column("amount"), add),
    "member dropped": (
        lambda table: table.add_column("total", values=lake.sql("lower(at.city)"), computed=True),
        lambda table: table.drop_column("at.city"),
    ),
    "drop of a member": (
        lambda table: table.drop_column("at.city"),
        lambda table: table.add_column("total", values=lake.sql("lower(at.city)"), computed=True),
    ),
    "widened": (add, lambda table: table.widen_column("amount", pa.float64())),
    "widening": (lambda table: table.widen_column("amount", pa.float64()), add),
    "backfill": (lambda table: table.backfill("amount", 3), add),
    "same name": (add, lambda table: table.add_column("TOTAL", pa.int8())),
    "append without values": (
        lambda table: table.append([{"id": 50}]),
        lambda table: (
            table.delete("price IS NULL")
            and table.add_column("total", values=TOTAL, computed=True, nullable=False)
        ),
    ),
    "append against another rule": (
        WRITES["append"],
        lambda table: add(table).add_column("more", values=1, nullable=False),
    ),
    "append after a restore": (WRITES["append"], lambda table: table.restore(1)),
    "parts that replace all": (
        lambda table: table.commit_parts([table.write_part(rows(50))], overwrite=True),
        add,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_go_together(race: Race, name: str) -> None:
    mine, theirs = REFUSED[name]
    with pytest.raises((ConflictError, InvalidInputError)) as caught:
        race.run(mine, theirs)
    assert caught.value.fix
    assert race.open().verify().problems == []


def test_a_backfill_overtaken_by_a_column_made_of_it(race: Race) -> None:
    """As a job, too: its values are not put in place."""
    race.open().add_column("n", pa.int64())
    plan = race.open().plan_backfill("n", lake.sql("id"))
    for part in plan.parts:
        race.open().run_backfill(part)
    race.open().add_column("m", values=lake.sql("n + 1"), computed=True)
    with pytest.raises(ConflictError, match="'m' is computed from column 'n' since"):
        race.open().commit_backfill(plan)
    race.open().drop_backfill(plan.job)
    race.open().update({"n": lake.sql("id")})
    assert race.open().count("m = id + 1") == 20


def test_the_expression_as_a_job(race: Race) -> None:
    """What a damaged table lacks is computed again, in parts, while others write."""
    table = add(race.open())
    plan = table.plan_backfill("total", where="total IS NULL", parts=2)
    results = [race.open().run_backfill(part) for part in plan.parts]
    race.open().rename_column("price", "cost").append(rows_named("cost", 60))
    right(table.commit_backfill(plan, results), "cost")
    right(
        race.run(lambda table: table.backfill("total"), lambda table: table.update({"cost": 3.0}, "id = 2")),
        "cost",
    )


def rows_named(price: str, *ids: int) -> pa.Table:
    return rows(*ids).rename_columns(["id", price, "amount", "at", "v"])


def test_branches_that_bring_it_and_rows_without(race: Race) -> None:
    """A merge carries nothing out again, so rows that lack the column cannot meet it."""
    table = race.open()
    table.create_branch("rows")
    table.create_branch("column")
    lake.open("unused", store=race.store, branch="rows").append(rows(50))
    add(lake.open("unused", store=race.store, branch="column"))
    table.merge_branch("column")
    right(race.open())
    with pytest.raises(ConflictError, match="cannot be merged"):
        table.merge_branch("rows")


def test_files_of_another_format_get_it_too(tmp_path: Path) -> None:
    """spec: EVO-14 — an imported table that follows its source."""
    pytest.importorskip("pyiceberg")
    from iceberg_samples import bring, filled, numbered

    from lake_connectors import iceberg

    source = filled(tmp_path / "source", numbered(0), numbered(10))
    table = bring(source, tmp_path)
    table.add_column("twice", values=lake.sql("id * 2"), computed=True)
    source.append(numbered(20))
    source.delete("id = 3")
    iceberg.refresh_table(source, table)
    assert table.count() == table.count("twice = id * 2") == 14
    source.update_schema().rename_column("id", "number").commit()
    iceberg.refresh_table(source, table)
    assert table.inspect.columns()["computed"].to_pylist() == [None, "number * 2"]
    table.append([{"number": 50}])
    assert table.count("twice = number * 2") == 15
    assert table.verify().problems == []
