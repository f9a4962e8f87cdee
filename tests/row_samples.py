"""Tables and rows for tests of row changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa

import lake_format as lake
from lake_engines import DefaultEngine
from lake_engines.changes import placing
from lake_engines.changes.costs import Cost, compare
from lake_format.row_edits import RowPlan, RowRequest
from lake_format.snapshot import Snapshot
from lake_format.table import Table

DIMENSION = 8
SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), False),
        pa.field("name", pa.string()),
        pa.field("price", pa.float64()),
        pa.field("vec", pa.list_(pa.float32(), DIMENSION)),
    ]
)


def vector(seed: int) -> list[float]:
    """A vector that follows from a number; different numbers give far-apart vectors."""
    values: list[float] = np.random.default_rng(seed).normal(size=DIMENSION).astype(np.float32).tolist()
    return values


def rows(*ids: int, **changes: Any) -> list[dict[str, Any]]:
    """Rows with these ids; ``changes`` overrides columns by constant, or by function of the id."""
    plain = [{"id": i, "name": f"name {i}", "price": float(i), "vec": vector(i)} for i in ids]
    for row in plain:
        for column, value in changes.items():
            row[column] = value(row["id"]) if callable(value) else value
    return plain


def make(tmp_path: Path, *ids: int, key: Any = None, fragment_rows: int = 10, **more: Any) -> Table:
    """A table of these rows, cut into fragments of ``fragment_rows``."""
    properties = {"write.fragment-rows": fragment_rows, **more.pop("properties", {})}
    table = lake.create(str(tmp_path / "table"), SCHEMA, key=key, properties=properties, **more)
    return table.append(rows(*ids)) if ids else table


def content(table: Table, *columns: str) -> dict[int, Any]:
    """What a table holds: the named columns (the only one plain) by id. Fails if an id is there twice."""
    found = table.scan(["id", *columns]).read_all().to_pylist()
    result = {row["id"]: row[columns[0]] if len(columns) == 1 else row for row in found}
    assert len(result) == len(found)
    return result


def ids(table: Table) -> list[int]:
    """The ids of all rows, sorted, repeats kept."""
    return sorted(table.scan(["id"]).read_all().column("id").to_pylist())


def row_ids(table: Table) -> dict[int, int]:
    """Row id by id."""
    found = table.scan(["id", "_row_id"]).read_all().to_pylist()
    return {row["id"]: row["_row_id"] for row in found}


class InterruptedEngine(DefaultEngine):
    """Lets somebody else commit between a plan and its commit."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        super().__init__()
        self.meanwhile: Callable[[], object] | None = meanwhile
        self.plans: list[RowPlan] = []

    def plan_rows(self, snapshot: Snapshot, request: RowRequest) -> RowPlan:
        plan = super().plan_rows(snapshot, request)
        self.plans.append(plan)
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        return plan


def interrupted(table: Table, meanwhile: Callable[[Table], object]) -> tuple[Table, InterruptedEngine]:
    """The same table, on which the first change meets what ``meanwhile`` commits after it was planned."""
    other = lake.open(table.uri)
    engine = InterruptedEngine(lambda: meanwhile(other))
    return lake.open(table.uri, engine=engine), engine


class Forced:
    """Makes every change of existing rows a rewrite, patch or move; None leaves it to the costs."""

    def __init__(self, strategy: str | None) -> None:
        costs = {"rewrite": Cost(0, 1, 1), "patch": Cost(1, 0, 1), "move": Cost(1, 1, 0)}
        self._patch = mock.patch.object(
            placing, "compare", (lambda *_: costs[strategy]) if strategy else compare
        )

    def __enter__(self) -> None:
        self._patch.start()

    def __exit__(self, *_: object) -> None:
        self._patch.stop()


def summary(table: Table) -> Mapping[str, Any]:
    """The figures of the newest commit."""
    return table.snapshot.version.summary
