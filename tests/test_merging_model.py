"""Two lines that are written and merged at random, against what a dict remembers; hypothesis drives.

Every update names the rows by their ids and writes constants, so that a merge must be refused exactly where both
lines wrote the same column of the same row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

import lake_format as lake
from lake_format.errors import ConflictError
from lake_format.store import forget_memory, open_store

SCHEMA = pa.schema(
    [("id", pa.int64()), ("a", pa.int64()), ("b", pa.int64()), ("v", pa.list_(pa.float32(), 4))]
)
START = 40
LINES = st.sampled_from(["main", "branch"])
COLUMNS = st.sampled_from(["a", "b", "v"])
PICK = st.sets(st.integers(0, START + 10), max_size=6) | st.sets(st.integers(0, START + 10), min_size=25)
Rows = dict[int, dict[str, int]]


def table_of(values: Rows) -> pa.Table:
    ids = list(values)
    vectors = pa.array([[float(values[one]["v"])] * 4 for one in ids], SCHEMA.field("v").type)
    columns = [pa.array([values[one][name] for one in ids], pa.int64()) for name in ("a", "b")]
    return pa.table([pa.array(ids, pa.int64()), *columns, vectors], SCHEMA)


@dataclass
class Line:
    """One line as it should be, and what was done on it that the other may not have seen."""

    table: lake.Table
    rows: Rows
    steps: list[tuple[str, Any]] = field(default_factory=list)
    """Since the fork, or on the branch since it was merged."""

    def written(self) -> set[tuple[str, int]]:
        """Columns and rows that were updated."""
        return {(column, one) for what, step in self.steps if what == "update" for column, one in step}


def replay(rows: Rows, steps: list[tuple[str, Any]]) -> None:
    """Do on some rows what was done on others."""
    for what, step in steps:
        if what == "append":
            rows |= {one: dict(values) for one, values in step.items()}
        elif what == "delete":
            for one in step:
                rows.pop(one, None)
        else:
            for (column, one), value in step.items():
                if one in rows:
                    rows[one][column] = value


class TwoLines(RuleBasedStateMachine):
    """Main and one branch of it; the branch is made anew where it cannot be merged any more."""

    def __init__(self) -> None:
        super().__init__()
        self.uri = f"memory://merging-{uuid4().hex}"
        self.next_id, self.next_value, self.branches = 0, 1000, 0
        self.row_ids: dict[int, int] = {}

    @initialize(strategy=st.sampled_from(["auto", "patch", "move", "rewrite"]), indexed=st.booleans())
    def start(self, strategy: str, indexed: bool) -> None:
        table = lake.create("unused", SCHEMA, store=open_store(self.uri))
        self.lines = {"main": Line(table, {})}
        self.append("main", START // 2)
        self.append("main", START // 2)
        table.set_properties({"write.update-strategy": strategy, "write.index-on-append": "true"})
        if indexed:
            table.create_index("v", name="by_v", lists=2)
        self.fork()

    def fork(self) -> None:
        main = self.lines["main"]
        self.branches += 1
        self.name = f"b{self.branches}"
        main.steps = []
        rows = {one: dict(values) for one, values in main.rows.items()}
        self.lines["branch"] = Line(main.table.create_branch(self.name), rows)

    @rule(line=LINES, count=st.integers(1, 4))
    def append(self, line: str, count: int) -> None:
        own = self.lines[line]
        new = {self.next_id + at: {"a": at, "b": at, "v": self.next_id + at} for at in range(count)}
        self.next_id += count
        own.table.append(table_of(new))
        self.did(own, "append", {one: dict(values) for one, values in new.items()})

    @rule(line=LINES, picked=PICK)
    def delete(self, line: str, picked: set[int]) -> None:
        own = self.lines[line]
        ids = sorted(picked & own.rows.keys())[:8]
        if ids:
            own.table.delete(f"id in ({', '.join(map(str, ids))})")
            self.did(own, "delete", ids)

    @rule(line=LINES, picked=PICK, column=COLUMNS)
    def update(self, line: str, picked: set[int], column: str) -> None:
        own = self.lines[line]
        ids = sorted(picked & own.rows.keys())
        self.next_value += 1
        value = [float(self.next_value)] * 4 if column == "v" else self.next_value
        if ids:
            own.table.update({column: value}, where=f"id in ({', '.join(map(str, ids))})")
            self.did(own, "update", dict.fromkeys(((column, one) for one in ids), self.next_value))

    @rule(line=LINES)
    def compact(self, line: str) -> None:
        self.lines[line].table.compact()

    @rule(line=LINES)
    def index(self, line: str) -> None:
        table = self.lines[line].table
        if table.inspect.indexes().num_rows:
            table.optimize_index("by_v")

    @rule()
    def merge(self) -> None:
        main, branch = self.lines["main"], self.lines["branch"]
        both = main.written() & branch.written()
        before = main.table.version
        try:
            main.table.merge_branch(self.name)
        except ConflictError:
            assert both
            assert main.table.refresh().version == before
            main.table.delete_branch(self.name)
            self.fork()
            return
        assert not both
        replay(main.rows, branch.steps)
        branch.steps = []
        assert main.table.verify().ok

    def did(self, line: Line, what: str, step: Any) -> None:
        line.steps.append((what, step))
        replay(line.rows, [(what, step)])

    @invariant()
    def lines_hold_what_they_should(self) -> None:
        for line in getattr(self, "lines", {}).values():
            found = line.table.scan(["id", "a", "b", "v", "_row_id"]).read_all().to_pylist()
            assert len(found) == len(line.rows) == line.table.count()
            for row in found:
                assert {"a": row["a"], "b": row["b"], "v": int(row["v"][0])} == line.rows[row["id"]]
                assert self.row_ids.setdefault(row["id"], row["_row_id"]) == row["_row_id"]
            self.search_is_right(line)

    def search_is_right(self, line: Line) -> None:
        query = np.full(4, 7.0, np.float32)
        found = (
            line.table.search(query, k=5, recall=1.0, column="v", select=["id"]).to_arrow()["id"].to_pylist()
        )
        ordered = sorted(line.rows, key=lambda one: abs(line.rows[one]["v"] - 7))
        far = [abs(line.rows[one]["v"] - 7) for one in ordered[:5]]
        assert [abs(line.rows[one]["v"] - 7) for one in found] == far

    def teardown(self) -> None:
        forget_memory(self.uri)


def run(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        TwoLines,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_two_lines_written_and_merged_at_random() -> None:
    """spec: CON-11, IDN-2, IDN-3, IDN-10, BRA-14, BRA-15, BRA-16"""
    run(5, 14)


@pytest.mark.long
def test_two_lines_written_and_merged_at_random_for_long() -> None:
    run(300, 30)
