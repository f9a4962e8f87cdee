"""One call does what a table's properties say is due, in a safe order, and tells why; jobs and keys are collected."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pytest
from stores.faulty import Fault, FaultyStore, SimulatedCrash, count_calls
from test_upkeep_compact import SCHEMA, contents, fresh, make, reopened, rows

import lake_format as lake
from lake_format.errors import InvalidInputError, LakeError
from lake_format.paths import JOBS, KEYS
from lake_format.store import Store, forget_memory, open_store

POLICY = {"maintain.expire-older-than": "0min"}
NOW = timedelta(0)


@pytest.fixture
def store() -> Iterator[Store]:
    uri = f"memory://maintain-{uuid4().hex}"
    yield open_store(uri)
    forget_memory(uri)


def test_what_is_due_is_done_in_order(store: Store) -> None:
    table = make(store, *[3] * 9)
    table.create_index("v")
    table.append(rows(27, 5))
    assert table.maintain(dry_run=True).due == ["compact", "optimize-indexes"]
    version, before = table.version, contents(table)
    report = table.maintain()
    assert report.due == ["compact", "optimize-indexes"]
    assert [step.why for step in report.steps] == [
        "10 fragments are small or worn; it is due from 8 on",
        "the table has no clustering",
        "v_l2 lacks 5 rows",
        "maintain.expire-older-than is 'never'",
        "no version has expired",
    ]
    assert table.version == version + 2
    assert (len(table.inspect.fragments()), contents(table)) == (1, before)
    assert table.search([0] * 4, 3).plan["rows compared exactly"] == 0
    assert table.maintain().due == []
    assert table.version == version + 2
    assert report.to_dict()["steps"][0]["result"]["fragments_removed"] == 10


def test_expiry_and_collection_are_a_policy(store: Store) -> None:
    table = make(store, *[3] * 9)
    table.set_properties({**POLICY, "maintain.keep-versions": 2, "maintain.compact": False})
    report = table.maintain(dry_run=True)
    assert report.due == ["expire"]
    report = table.maintain()
    assert (report.steps[0].due, report.steps[0].why) == (False, "switched off by its property")
    assert report.steps[3].result.horizon == 10
    assert report.steps[4].due
    assert table.count() == 27
    table.set_properties({"maintain.collect-garbage": "false", "maintain.compact": None})
    assert table.maintain().due == ["compact", "expire"]


def test_rows_that_are_not_in_order_are_sorted_some_in_each_run(store: Store) -> None:
    """What is in order already is left alone; compaction comes first. spec: CLU-1, CLU-2, CLU-3"""
    table = lake.create("unused", SCHEMA, store=store, properties={"write.fragment-rows": 4})
    table.append(pa.concat_tables([rows(i, 1) for i in np.random.default_rng(5).permutation(160)]))
    table.set_clustering("id")
    before = contents(table)
    report = table.maintain(dry_run=True)
    assert report.due == ["cluster"]
    assert report.steps[1].why == "160 rows are not in the table's order; it is due from 10% of the rows on"
    report = table.maintain()
    assert (report.steps[1].result.rows, report.steps[1].result.fragments_removed) == (4 * 32, 32)
    assert contents(table) == before
    table.append(rows(160, 4))
    assert table.maintain().steps[1].result.rows == 32
    marks = table.inspect.fragments()["clustering"].to_pylist()
    assert len(set(marks)) == 1
    kept = table.inspect.files()["path"].to_pylist()
    assert table.maintain().due == []
    assert table.inspect.files()["path"].to_pylist() == kept
    assert contents(table).keys() == {*before, *range(160, 164)}
    assert table.verify().ok


def test_few_rows_out_of_order_wait_and_the_property_switches_it_off(store: Store) -> None:
    table = lake.create("unused", SCHEMA, store=store, properties={"write.fragment-rows": 10})
    table.append(rows(0, 10)).set_clustering("id").append(rows(10, 100))
    step = table.maintain().steps[1]
    assert (step.due, step.why[:7]) == (False, "10 rows")
    table.delete("id >= 100")
    assert table.maintain(dry_run=True).due == ["cluster"]
    table.set_properties({"maintain.cluster": False})
    assert table.maintain(dry_run=True).steps[1].why == "switched off by its property"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("maintain.compact", "yes"),
        ("maintain.expire-older-than", "7"),
        ("maintain.expire-older-than", "a week"),
        ("maintain.keep-versions", 0),
        ("maintain.cluster-by", "id"),
        ("maintain.cluster", "sometimes"),
    ],
)
def test_a_policy_is_checked_when_it_is_set(store: Store, name: str, value: object) -> None:
    with pytest.raises(InvalidInputError, match=name):
        make(store).set_properties({name: value})


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(
    ("fault", "step"),
    [
        (Fault.CRASH_AFTER, 9),
        pytest.param(Fault.CRASH_AFTER, 1, marks=pytest.mark.long),
        pytest.param(Fault.LOSE_REQUEST, 1, marks=pytest.mark.long),
    ],
)
def test_a_fault_at_any_call_loses_nothing(store: Store, fault: Fault, step: int) -> None:
    table = make(store, *[2] * 9)
    table.create_index("v")
    table.delete("id = 3")
    table.set_properties(POLICY)
    objects, before = {info.path: store.get(info.path) for info in store.list("")}, contents(table)

    def job(faulty: Store) -> None:
        reopened(faulty).maintain()

    for call in range(0, count_calls(job, fresh(objects)), step):
        faulty = FaultyStore(fresh(objects), {call: fault})
        with suppress(LakeError, SimulatedCrash):
            job(faulty)
        faulty.revive()
        after = reopened(faulty.inner)
        assert contents(after) == before, call
        after.maintain()
        assert after.verify().ok, call
        assert len(after.search([0] * 4, 50)) == 17


def test_jobs_and_key_hashes_that_nobody_needs_are_collected(store: Store) -> None:
    """A job planned before the horizon cannot commit any more; one planned since stays. spec: UPK-6"""
    table = lake.create("unused", SCHEMA, store=store).append(rows(0, 20))
    plan = table.plan_backfill("name", lake.sql("'old'"), job="abandoned")
    for part in plan.parts:
        table.run_backfill(part)
    store.create(f"{KEYS}{uuid4()}.keys", b"")
    table.append(rows(20, 5))
    table.expire_versions()
    assert [path for path in table.collect_garbage(grace=NOW).objects if path.startswith(JOBS)]
    running = table.plan_backfill("name", lake.sql("'new'"), job="running")
    for part in running.parts[:1]:
        table.run_backfill(part)
    table.collect_garbage(dry_run=False, grace=NOW)
    left = [info.path for folder in (JOBS, KEYS) for info in store.list(folder)]
    assert left
    assert all(path.startswith(f"{JOBS}running/") for path in left)
    for part in running.parts[1:]:
        table.run_backfill(part)
    table.commit_backfill(running)
    assert set(table.to_arrow()["name"].to_pylist()) == {"new"}
    assert table.verify().ok
