"""Backfills by many workers: parts, crashes, resumption, one commit at the end."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from backfill_samples import batch, column, expected, make, plus_one
from conftest import Location

import lake_format as lake
from lake_format.errors import (
    ConflictError,
    CorruptionError,
    InvalidInputError,
    NotFoundError,
    UnsupportedError,
)
from lake_format.expressions import sql


@pytest.fixture
def table(memory_location: Location) -> lake.Table:
    return make(memory_location)


def _through_json(part: Any) -> Any:
    return type(part).from_json(json.loads(json.dumps(part.to_json())))


def _jobs(table: lake.Table) -> list[str]:
    return [info.path for info in table.snapshot.store.list("_lake/jobs/")]


def test_many_workers_and_one_commit(table_uri: Location) -> None:
    """spec: EVO-8, EVO-9 — plans, parts and results travel as JSON; nothing is visible before the commit."""
    table = make(table_uri)
    table.add_column("n", pa.int64())
    plan = _through_json(table.plan_backfill("n", sql("id + 1"), "id <> 3", parts=3))
    assert sorted(one for part in plan.parts for one in part.fragments) == [0, 1, 2, 3]
    results = []
    for part in plan.parts:
        worker = lake.open(table_uri.uri, storage_options=table_uri.storage_options)
        results.append(_through_json(worker.run_backfill(_through_json(part))))
        worker.append(batch(100 + part.number))
        assert set(column(worker, "n").values()) == {None}
    assert sum(result.rows for result in results) == 19
    before = table.refresh().version
    assert column(table.commit_backfill(plan, results), "n") == expected(100, 101, 102) | {3: None}
    assert table.version == before + 1
    assert _jobs(table) == []
    with pytest.raises(NotFoundError, match="no job"):
        table.run_backfill(plan.parts[0])


def test_a_job_goes_on_after_a_crash(table: lake.Table) -> None:
    """spec: EVO-9 — finished fragments are not done again, whoever resumes."""
    table.add_column("n", pa.int64())
    done: list[int] = []

    def values(rows: pa.RecordBatch) -> pa.Array:
        if len(done) == 2:
            done.append(-1)
            raise RuntimeError("the machine died")
        done.append(rows["id"][0].as_py())
        return plus_one(rows)

    with pytest.raises(RuntimeError, match="died"):
        table.backfill("n", values, inputs=["id"], job="nightly")
    assert len(_jobs(table)) == 3  # the plan and two fragments
    table.append(batch(100))
    table.delete("id = 0")
    resumed = lake.open(table.uri)
    resumed.backfill("n", values, inputs=["id"], job="nightly")
    assert done == [0, 6, -1, 12, 18]
    assert column(resumed, "n") == expected(100, without=(0,))
    assert _jobs(table) == []


def test_two_workers_on_one_part(table: lake.Table) -> None:
    """The first to record a fragment wins; the other's file is removed."""
    table.add_column("n", pa.int64())
    plan = table.plan_backfill("n", sql("id"), job="twice", parts=1)
    other = lake.open(table.uri)
    part = plan.parts[0]
    store = table.snapshot.store
    files = {info.path for info in store.list("data/")}
    first = table.run_backfill(part)
    written = {info.path for info in store.list("data/")} - files
    assert other.run_backfill(part) == first
    assert {info.path for info in store.list("data/")} - files == written
    table.commit_backfill(plan)
    other.commit_backfill(plan)  # it has landed already
    assert other.version == table.version


def test_a_commit_that_was_not_cleaned_up_is_not_repeated(
    table: lake.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lake_format.backfill_job import JobRecords

    table.add_column("n", pa.int64())
    with monkeypatch.context() as patch:
        patch.setattr(JobRecords, "remove", lambda self: None)
        table.backfill("n", sql("id + 1"), job="j")
    assert _jobs(table)
    table.update({"n": 5}, "id = 1")
    version = table.version
    again = lake.open(table.uri).backfill("n", sql("id + 1"), job="j")
    assert again.version == version
    assert column(again, "n") == expected() | {1: 5}
    assert _jobs(table) == []


def test_a_job_is_held_to_what_it_was_started_with(table: lake.Table) -> None:
    table.add_column("n", pa.int64()).add_column("m", pa.int64())
    plan = table.plan_backfill("n", sql("id"), "id < 3", job="j")
    for wrong in (
        lambda: table.plan_backfill("n", sql("id + 1"), "id < 3", job="j"),
        lambda: table.plan_backfill("n", sql("id"), "id < 4", job="j"),
        lambda: table.plan_backfill("m", sql("id"), "id < 3", job="j"),
    ):
        with pytest.raises(InvalidInputError, match="a job 'j' was started"):
            wrong()
    with pytest.raises(InvalidInputError, match="4 of 4 fragments are not done yet"):
        table.commit_backfill(plan)
    with pytest.raises(InvalidInputError, match="no name of a job"):
        table.plan_backfill("n", sql("id"), job="../x")
    with pytest.raises(UnsupportedError, match="takes its filter as text"):
        table.plan_backfill("n", 1, pc.field("id") > 1)
    table.run_backfill(plan.parts[0])
    files = len(list(table.snapshot.store.list("data/")))
    table.drop_backfill("j")
    assert _jobs(table) == []
    assert len(list(table.snapshot.store.list("data/"))) == files - 1


def test_values_of_a_job_may_have_to_be_handed_in_again(table: lake.Table) -> None:
    table.add_column("n", pa.int64())
    plan = table.plan_backfill("n", plus_one, inputs=["id"], job="f")
    with pytest.raises(InvalidInputError, match="give values="):
        table.run_backfill(plan.parts[0])
    for part in plan.parts:
        table.run_backfill(part, plus_one)
    lake.open(table.uri).update({"id": 500}, "id = 3")
    with pytest.raises(ConflictError, match="commit the job with values="):
        table.commit_backfill(plan)
    table.commit_backfill(plan, values=plus_one)
    assert column(table, "n") == {500 if i == 3 else i: 501 if i == 3 else i + 1 for i in range(20)}


def test_records_whose_file_is_gone_are_done_again(table: lake.Table) -> None:
    """spec: EVO-9"""
    table.add_column("n", pa.int64())
    plan = table.plan_backfill("n", sql("id + 1"), job="j")
    store = table.snapshot.store
    files = {info.path for info in store.list("data/")}
    for part in plan.parts:
        table.run_backfill(part)
    gone = min({info.path for info in store.list("data/")} - files)
    store.delete(gone)
    with pytest.raises(InvalidInputError, match="1 of 4 fragments are not done"):
        table.commit_backfill(plan)
    table.backfill("n", sql("id + 1"), job="j")
    assert column(table, "n") == expected()


def test_damaged_job_objects_are_told(table: lake.Table) -> None:
    """spec: EVO-9"""
    table.add_column("n", pa.int64())
    plan = table.plan_backfill("n", sql("id + 1"), job="j")
    table.run_backfill(plan.parts[0])
    store = table.snapshot.store
    for path in _jobs(table):
        whole = store.get(path)
        for damaged in (whole[:-1], whole[:5], b"X" + whole[1:], whole[:-1] + bytes([whole[-1] ^ 1])):
            store.put(path, damaged)
            with pytest.raises(CorruptionError, match="job object"):
                table.run_backfill(plan.parts[0])
        store.put(path, whole)
    assert table.run_backfill(plan.parts[0]).rows == 6
