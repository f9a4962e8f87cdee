"""What long runs of the state machine found, each as the shortest history that showed it."""

from __future__ import annotations

from uuid import uuid4

import pyarrow as pa
import pytest

import lake_format as lake
from lake_format.errors import ConflictError

SCHEMA = pa.schema([("id", pa.int64()), ("s", pa.struct([("a", pa.int8()), ("b", pa.string())]))])


def table_of(*ids: int, key: str | None = None) -> lake.Table:
    table = lake.create(f"memory://found-{uuid4().hex}", SCHEMA, key=key)
    return table.append(rows(*ids)) if ids else table


def rows(*ids: int) -> pa.Table:
    return pa.Table.from_pylist([{"id": i, "s": {"a": i, "b": str(i)}} for i in ids], schema=SCHEMA)


def test_a_column_that_forbids_null_is_not_added_over_rows_that_came_meanwhile() -> None:
    """spec: EVO-3"""
    late = table_of()
    lake.open(late.uri).append(rows(1, 2))
    with pytest.raises(ConflictError, match="forbids NULL"):
        late.add_column("c", pa.int64(), lake.sql("7"), nullable=False)
    late.refresh().add_column("c", pa.int64(), lake.sql("7"), nullable=False)
    assert late.to_arrow().column("c").to_pylist() == [7, 7]


def test_a_member_renamed_meanwhile_does_not_swallow_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """An upsert that has to be planned anew would look for names of the version it was made on. spec: CHG-13"""
    table = table_of(1, key="id")
    rival = lake.open(table.uri)
    plan = table.engine.plan_rows

    def overtaken(snapshot: object, request: object) -> object:
        monkeypatch.undo()
        found = plan(snapshot, request)
        rival.upsert(rows(5)).version  # noqa: B018 - the same key: the upsert must be planned anew
        rival.refresh().rename_column("s.b", "c")
        return found

    monkeypatch.setattr(table.engine, "plan_rows", overtaken)
    with pytest.raises(ConflictError, match=r"'s\.b'"):
        table.upsert(rows(5))
    assert table.refresh().upsert(pa.table({"id": [5], "s": [{"a": 6, "c": "new"}]})).updated == 1


def test_renamed_and_new_members_are_no_difference() -> None:
    """spec: VER-8"""
    table = table_of(1, 2)
    before = table.version
    table.rename_column("s.b", "c").add_column("s.d", pa.string())
    table.widen_column("s.a", pa.int32())
    table.update({"s": lambda batch: batch["s"]}, inputs=["s"])
    assert table.diff(before).changed.tolist() == []
    table.update({"s": lambda batch: pa.array([{"a": 1, "c": "x"}] * len(batch), batch["s"].type)}, "id = 2")
    assert table.diff(before).changed.tolist() == [1]


@pytest.mark.parametrize("strategy", ["auto", "rewrite", "patch", "move"])
@pytest.mark.parametrize("key", [None, "id"])
def test_rows_that_are_nothing_but_a_key_are_upserted(key: str | None, strategy: str) -> None:
    """There is no column to change in those that are there."""
    schema = pa.schema([pa.field("id", pa.int64(), nullable=False)])
    table = lake.create(f"memory://found-{uuid4().hex}", schema, key=key)
    table.set_properties({"write.update-strategy": strategy}).append([{"id": 1}, {"id": 2}])
    done = table.upsert([{"id": 2}, {"id": 3}], on="id")
    assert (done.updated, done.inserted) == (1, 1)
    table.upsert([{"id": 1}, {"id": 2}, {"id": 3}], on="id")
    assert sorted(table.scan().read_all()["id"].to_pylist()) == [1, 2, 3]
    assert table.verify().problems == []


def test_a_merge_into_a_table_without_partitions_keeps_those_of_the_branch() -> None:
    """What was written named no spec, so that the partitions of fragments were unknown. spec: BRA-17, PAR-1"""
    table = table_of(1, 2)
    branch = table.create_branch("work").set_partitioning("bucket(3, id)")
    branch.append(rows(8, 9))
    table.refresh().merge_branch("work")
    merged = lake.open(table.uri)
    assert merged.verify().problems == []
    assert merged.partitioning == []
    assert sorted(merged.append(rows(10)).to_arrow().column("id").to_pylist()) == [1, 2, 8, 9, 10]
    assert merged.count("id = 8") == 1
    assert lake.open(table.create_branch("other").uri, branch="other").verify().problems == []


@pytest.mark.parametrize("columns", ["n", ["n", "id"]])
def test_an_order_whose_column_is_dropped_meanwhile_is_given_up(columns: str | list[str]) -> None:
    """The groups that are left give way; those that were sorted stay. spec: CLU-1"""
    table = lake.create(f"memory://found-{uuid4().hex}", pa.schema([("id", pa.int64()), ("n", pa.int64())]))
    for start in (0, 10, 20):
        table.append([{"id": i, "n": -i} for i in range(start, start + 10)])
    rivals = [lake.open(table.uri)]

    def drop(*_: object) -> None:
        while rivals:
            rivals.pop().drop_column("n")

    report = table.cluster(columns, group_rows=10, everything=True, progress=drop)
    assert (report.commits, report.yielded) == (1, 2)
    assert sorted(lake.open(table.uri).to_arrow().column("id").to_pylist()) == list(range(30))
    assert not lake.open(table.uri).verify().problems


def test_a_job_begun_before_the_table_had_a_key_is_held_to_it() -> None:
    """An append with a token goes by the newest version, and so by its key. spec: CHG-7"""
    late = table_of(1, 2)
    lake.open(late.uri).set_key("id")
    with pytest.raises(lake.DuplicateKeyError, match=r"\b2\b"):
        late.append(rows(2, 3), idempotency=("job", 0))
    assert late.append(rows(3), idempotency=("job", 0)).to_arrow().column("id").to_pylist() == [1, 2, 3]
