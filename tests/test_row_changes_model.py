"""Random changes of rows against a dictionary, alone and against a rival that commits between plan and commit.

After every step the table must hold what the model holds, rows must keep their row ids, and searches through an
index must agree with exact ones.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from row_samples import Forced, InterruptedEngine, make, rows, vector
from test_row_changes_races import compact

import lake_format as lake
from lake_format.errors import ConflictError
from lake_format.table import Table

Row = dict[str, Any]
Model = dict[int, Row]

IDS = st.integers(0, 30)
SETS = st.lists(IDS, min_size=1, max_size=12, unique=True)
STRATEGIES = st.sampled_from(["rewrite", "patch", "move", None])
PRICES = st.integers(0, 9).map(float)


class Rows(RuleBasedStateMachine):
    """One keyed table, a model of it, and a rival with a handle of its own."""

    @initialize(
        fragment_rows=st.sampled_from([3, 8, 100]),
        indexed=st.booleans(),
        own=STRATEGIES,
        rival=STRATEGIES,
    )
    def start(self, fragment_rows: int, indexed: bool, own: str | None, rival: str | None) -> None:
        self.rival_strategy = rival
        self.forced = Forced(own)
        self.forced.__enter__()
        self.folder = tempfile.TemporaryDirectory()
        self.engine = InterruptedEngine(lambda: None)
        self.table = make(Path(self.folder.name), *range(8), key="id", fragment_rows=fragment_rows)
        self.table = lake.open(self.table.uri, engine=self.engine)
        self.rival = lake.open(self.table.uri)
        self.model: Model = {i: {**row, "row_id": i} for i, row in enumerate(rows(*range(8)))}
        self.next_row_id = 8
        if indexed:
            self.table.create_index("vec")

    def teardown(self) -> None:
        if hasattr(self, "forced"):
            self.forced.__exit__()
        if hasattr(self, "folder"):
            self.folder.cleanup()

    # --- the steps; each is (what to call, what it means) ---------------------------------------------------

    def _insert(self, model: Model, row: Row) -> None:
        model[row["id"]] = {"name": None, "price": None, "vec": None, **row, "row_id": self.next_row_id}
        self.next_row_id += 1

    @rule(chosen=SETS)
    def append(self, chosen: list[int]) -> None:
        new = [i for i in chosen if i not in self.model]
        if new != chosen:
            with pytest.raises(lake.DuplicateKeyError):
                self.table.append(rows(*chosen))
        if new:
            self.table.append(rows(*new))
            for row in rows(*new):
                self._insert(self.model, row)

    @rule(chosen=SETS)
    def delete(self, chosen: list[int]) -> None:
        self.table.delete(_among(chosen))
        for i in chosen:
            self.model.pop(i, None)

    @rule(chosen=SETS, price=PRICES)
    def update(self, chosen: list[int], price: float) -> None:
        self.table.update({"price": price}, _among(chosen))
        for i in set(chosen) & self.model.keys():
            self.model[i]["price"] = price

    @rule(below=PRICES)
    def update_by_expression(self, below: float) -> None:
        self.table.update(
            {"price": lake.sql("price + 1"), "name": lake.sql("upper(name)")}, f"price < {below}"
        )
        for row in self.model.values():
            if row["price"] is not None and row["price"] < below:
                row["price"] += 1
                row["name"] = row["name"] and row["name"].upper()

    @rule(chosen=SETS, seed=st.integers(100, 130))
    def update_vectors(self, chosen: list[int], seed: int) -> None:
        self.table.update(
            {"vec": lambda batch: [vector(seed + i) for i in batch["id"].to_pylist()]},
            _among(chosen),
            inputs=["id"],
        )
        for i in set(chosen) & self.model.keys():
            self.model[i]["vec"] = vector(seed + i)

    @rule(chosen=SETS, price=PRICES, narrow=st.booleans())
    def upsert(self, chosen: list[int], price: float, narrow: bool) -> None:
        self._upsert(self.table, self.model, chosen, price, narrow)

    def _upsert(self, table: Table, model: Model, chosen: list[int], price: float, narrow: bool) -> None:
        data = rows(*chosen, price=price)
        if narrow:
            data = [{"id": row["id"], "price": row["price"]} for row in data]
        table.upsert(data)
        for row in data:
            if row["id"] in model:
                model[row["id"]].update(row)
            else:
                self._insert(model, row)

    @rule(chosen=SETS, price=PRICES)
    def merge(self, chosen: list[int], price: float) -> None:
        (
            self.table.merge(rows(*chosen, price=price))
            .when_matched_delete(condition="id % 3 = 0")
            .when_matched_update({"price": lake.sql("source.price")})
            .when_not_matched_insert()
            .when_not_matched_by_source_update({"name": "left"}, condition="id > 15")
            .execute()
        )
        for i in [*self.model]:
            if i in chosen and i % 3 == 0:
                del self.model[i]
            elif i in chosen:
                self.model[i]["price"] = price
            elif i > 15:
                self.model[i]["name"] = "left"
        before = self.last
        for row in rows(*chosen, price=price):
            if row["id"] not in before:
                self._insert(self.model, row)

    @rule(chosen=SETS, least=IDS)
    def overwrite(self, chosen: list[int], least: int) -> None:
        stays = {i for i in self.model if i < least}
        new = [i for i in chosen if i not in stays]
        self.table.overwrite(rows(*new) if new else [], where=f"id >= {least}")
        for i in [*self.model.keys() - stays]:
            del self.model[i]
        for row in rows(*new):
            self._insert(self.model, row)

    @precondition(lambda self: self.model)
    @rule()
    def compact(self) -> None:
        compact(self.table)

    # --- races: the rival commits between plan and commit ---------------------------------------------------

    @rule(
        mine=st.sampled_from(["delete", "update", "upsert"]),
        theirs=st.sampled_from(["delete", "name", "price", "upsert", "compact", "rewrite"]),
        chosen=SETS,
        others=SETS,
        price=PRICES,
    )
    def race(self, mine: str, theirs: str, chosen: list[int], others: list[int], price: float) -> None:
        there = {i: row["row_id"] for i, row in self.model.items()}
        seen = {i for i in chosen if i in there}
        self.engine.meanwhile = lambda: self._rival(theirs, others)
        try:
            if mine == "delete":
                self.table.delete(_among(chosen))
            elif mine == "update":
                self.table.update({"price": price}, _among(chosen))
            else:
                self._upsert_raced(chosen, price)
                return
        except ConflictError:
            self.engine.meanwhile = None
            assert theirs in ("price", "upsert"), "only writes of the same values may conflict"
            return
        # Only rows that were selected on the base, and are still the same rows.
        for i in seen:
            if i in self.model and self.model[i]["row_id"] == there[i]:
                if mine == "delete":
                    del self.model[i]
                else:
                    self.model[i]["price"] = price

    def _upsert_raced(self, chosen: list[int], price: float) -> None:
        data = [{"id": i, "price": price} for i in chosen]
        self.table.upsert(data)
        for row in data:
            if row["id"] in self.model:
                self.model[row["id"]].update(row)
            else:
                self._insert(self.model, row)

    def _rival(self, what: str, others: list[int]) -> None:
        rival: dict[str, Callable[[], object]] = {
            "delete": lambda: self.rival.delete(_among(others)),
            "name": lambda: self.rival.update({"name": "theirs"}, _among(others)),
            "price": lambda: self.rival.update({"price": 77.0}, _among(others)),
            "rewrite": lambda: self.rival.update({"name": "all"}),
            "compact": lambda: compact(self.rival) if self.model else None,
            "upsert": lambda: self._upsert(self.rival, self.model, others, 55.0, True),
        }
        with Forced(self.rival_strategy):
            rival[what]()
        for i in set(others) & self.model.keys():
            if what == "delete":
                del self.model[i]
            elif what == "name":
                self.model[i]["name"] = "theirs"
            elif what == "price":
                self.model[i]["price"] = 77.0
        if what == "rewrite":
            for row in self.model.values():
                row["name"] = "all"

    # --- what must always hold ------------------------------------------------------------------------------

    @invariant()
    def table_equals_model(self) -> None:
        if not hasattr(self, "table"):
            return
        fresh = lake.open(self.table.uri)
        found = fresh.scan(["id", "name", "price", "vec", "_row_id"]).read_all().to_pylist()
        held = {}
        for row in found:
            held[row["id"]] = {
                **{name: row[name] for name in row if name != "_row_id"},
                "row_id": row["_row_id"],
            }
        assert len(held) == len(found) == fresh.count()
        assert held == self.model
        self.last = {i: dict(row) for i, row in self.model.items()}
        if held:
            taken = fresh.take([row["row_id"] for row in held.values()], ["id", "price"]).to_pylist()
            assert taken == [{"id": row["id"], "price": row["price"]} for row in held.values()]

    @invariant()
    def searches_agree(self) -> None:
        if not hasattr(self, "table"):
            return
        table = self.table.refresh()
        with_vector = [row for row in self.model.values() if row["vec"] is not None]
        for row in with_vector[:2]:
            options: dict[str, Any] = {"k": 3, "column": "vec", "select": ["id", "_distance"]}
            best = table.search(row["vec"], **options).to_arrow().to_pylist()
            exact = table.search(row["vec"], **options, exact=True).to_arrow().to_pylist()
            assert best[0]["_distance"] == exact[0]["_distance"] == 0.0
            assert len(best) == len(exact) == min(3, len(with_vector))
            assert all(self.model[one["id"]]["vec"] is not None for one in best)


def _among(chosen: list[int]) -> str:
    return f"id IN ({', '.join(map(str, chosen))})"


TestRows = Rows.TestCase
TestRows.settings = settings(
    max_examples=8, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
)
