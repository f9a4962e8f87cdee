"""Commits under fire: many writers at once, crashes at every storage call, lost answers, full disks, short reads.

After each of them the table opens; what was acknowledged is there once, what was not is there wholly or not at all.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pytest
from conftest import Location
from fault_operations import OPERATIONS, Struck, connect, start
from samples import still_surroundings
from stores.faulty import Fault, FaultyStore, SimulatedCrash, count_calls

import lake_format as lake
from lake_format.errors import LakeError, NotWrittenError, StateUnknownError
from lake_format.store import Store, forget_memory, open_store
from lake_format.transaction import Surroundings

SCHEMA = pa.schema(
    [pa.field("id", pa.int64(), False), ("name", pa.string()), ("v", pa.list_(pa.float32(), 4))]
)
CRASHES = (Fault.CRASH_BEFORE, Fault.CRASH_AFTER, Fault.CRASH_MID_WRITE)
FAILURES = (Fault.LOSE_RESPONSE, Fault.LOSE_REQUEST, Fault.PERMISSION_DENIED, Fault.DISK_FULL)
Job = Callable[[Store], Any]


def rows(*ids: int) -> pa.Table:
    vectors = np.repeat(np.array(ids, np.float32), 4)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors), 4)
    return pa.table([pa.array(ids, pa.int64()), pa.array([f"row {i}" for i in ids]), column], SCHEMA)


def fresh(objects: dict[str, bytes]) -> Store:
    """A memory store that holds these objects."""
    store = open_store(f"memory://faults-{uuid4().hex}")
    for path, data in objects.items():
        store.create(path, data)
    return store


def objects_of(store: Store) -> dict[str, bytes]:
    return {info.path: store.get(info.path) for info in store.list("")}


def at(store: Store) -> dict[str, Any]:
    """Where and under which circumstances a table is used: no waiting."""
    around = Surroundings(sleep=lambda _seconds: None)
    return {"uri": "unused", "store": store, "surroundings": around}


def create(store: Store) -> lake.Table:
    return lake.create(schema=SCHEMA, **at(store))


def append(store: Store) -> lake.Table:
    return lake.open(**at(store)).append(rows(10, 11, 12))


def append_two_fragments(store: Store) -> lake.Table:
    table = lake.open(**at(store))
    return table.append(iter([rows(10, 11, 12), rows(*range(13, 18))]))


def index(store: Store) -> lake.Table:
    return lake.open(**at(store)).create_index("v", name="by_v")


def ids(store: Store) -> list[int]:
    table = lake.open(**at(store))
    found = table.to_arrow()
    assert found.column("name").to_pylist() == [f"row {i}" for i in found.column("id").to_pylist()]
    row_ids = table.scan(["_row_id"]).read_all().column("_row_id").to_pylist()
    assert len(set(row_ids)) == len(row_ids) == table.count()
    return [int(i) for i in found.column("id").to_pylist()]


@pytest.fixture(scope="module")
def before() -> dict[str, bytes]:
    """The objects of a table with two commits of rows."""
    store = fresh({})
    create(store).append(rows(0, 1, 2)).append(rows(3, 4))
    return objects_of(store)


OLD = [0, 1, 2, 3, 4]


def outcomes(old: list[int] | None, new: list[int], *, go_on: bool = False) -> Callable[[Store, bool], None]:
    """What the table may be after a job that was (or was not) acknowledged; ``go_on``: and it takes more rows."""

    def check(store: Store, acknowledged: bool) -> None:
        try:
            found: list[int] | None = ids(store)
        except lake.NotFoundError:
            found = None
        if acknowledged:
            assert found == new
        assert found in (old, new)
        if found is not None and go_on:
            append(store)
            assert ids(store) == [*found, 10, 11, 12]

    return check


def every_call(job: Job, objects: dict[str, bytes], faults: tuple[Fault, ...], check: Any) -> set[str]:
    """Run a job once per storage call and fault; returns what was seen to happen."""
    calls = count_calls(job, fresh(objects))
    seen = set()
    for number in range(calls):
        for fault in faults:
            store = fresh(objects)
            faulty = FaultyStore(store, {number: fault})
            try:
                job(faulty)
            except SimulatedCrash:
                seen.add("crash")
                check(store, False)
            except LakeError as error:
                seen.add(type(error).__name__)
                check(store, False)
            else:
                seen.add("done")
                check(store, True)
            forget_memory(store.uri)
    return seen


def test_a_crash_at_any_call_of_an_append(before: dict[str, bytes]) -> None:
    """spec: COM-1, COM-2, COM-10"""
    assert "crash" in every_call(append, before, CRASHES, outcomes(OLD, [*OLD, 10, 11, 12]))


def test_a_crash_while_an_append_writes_two_fragments(before: dict[str, bytes]) -> None:
    """spec: COM-2, COM-10"""
    check = outcomes(OLD, [*OLD, *range(10, 18)], go_on=True)
    assert "crash" in every_call(append_two_fragments, before, (Fault.CRASH_AFTER,), check)


def test_a_crash_at_any_call_of_a_create() -> None:
    """spec: COM-1, COM-10"""
    assert "crash" in every_call(create, {}, CRASHES, outcomes(None, [], go_on=True))


def test_a_crash_at_any_call_of_an_index_build(before: dict[str, bytes]) -> None:
    """spec: COM-2, COM-10"""

    def check(store: Store, _acknowledged: bool) -> None:
        table = lake.open(**at(store))
        assert ids(store) == OLD
        assert table.search([2.0] * 4, k=1).to_arrow().column("id").to_pylist() == [2]
        assert table.create_index("v", name="by_v").inspect.indexes().num_rows == 1

    assert "crash" in every_call(index, before, CRASHES, check)


@pytest.mark.parametrize("job", [append, create])
def test_a_failure_at_any_call(job: Job, before: dict[str, bytes]) -> None:
    """A call fails once: the job is done, or an error of ours tells that it is not. spec: COM-4, COM-5"""
    objects, old, new = (before, OLD, [*OLD, 10, 11, 12]) if job is append else ({}, None, [])
    seen = every_call(job, objects, FAILURES, outcomes(old, new))
    assert "done" in seen
    assert "StateUnknownError" not in seen  # one lost answer is always cleared up


def test_a_failed_append_leaves_no_files_behind(before: dict[str, bytes]) -> None:
    """Nothing of a commit that certainly did not land stays in storage, if storage lets itself be cleaned."""
    for number in range(count_calls(append, fresh(before))):
        store = fresh(before)
        try:
            append(FaultyStore(store, {number: Fault.DISK_FULL}))
        except StateUnknownError:
            continue  # then they must stay (COM-4)
        except LakeError:
            assert set(objects_of(store)) == set(before)
        forget_memory(store.uri)


def test_an_unknown_outcome_keeps_the_files(before: dict[str, bytes]) -> None:
    """spec: COM-4"""
    for landed in (True, False):
        store = fresh(before)
        fault = Fault.LOSE_RESPONSE if landed else Fault.LOSE_REQUEST
        seen: list[str] = []

        def plan(
            _number: int, method: str, path: str, fault: Fault = fault, seen: list[str] = seen
        ) -> Fault | None:
            claiming = method == "create" and path.startswith("_lake/versions/")
            if claiming:
                seen.append(path)
            reading_back = seen and method == "get" and path == seen[0]
            return fault if claiming else Fault.LOSE_RESPONSE if reading_back else None

        with pytest.raises(StateUnknownError, match="refresh"):
            append(FaultyStore(store, plan))
        assert len([path for path in objects_of(store) if path.startswith("data/")]) == 6
        assert ids(store) == ([*OLD, 10, 11, 12] if landed else OLD)


def test_short_reads_are_never_taken_for_data(before: dict[str, bytes]) -> None:
    """spec: TAB-2, MAN-4"""
    store = fresh(before)
    lake.open(**at(store)).create_index("v")
    objects = objects_of(store)

    def job(store: Store) -> Any:
        table = lake.open(**at(store))
        rows_found = table.to_arrow().column("id").to_pylist()
        taken = table.take([3, 0]).column("id").to_pylist()
        nearest = table.search([3.1] * 4, k=2).to_arrow().column("id").to_pylist()
        return rows_found, taken, nearest

    right = job(fresh(objects))
    assert right == (OLD, [3, 0], [3, 4])
    refused = 0
    for number in range(count_calls(job, fresh(objects))):
        try:
            assert job(FaultyStore(fresh(objects), {number: Fault.SHORT_READ})) == right
        except LakeError:
            refused += 1
    assert refused > 3


def run_together(jobs: list[Callable[[], None]]) -> None:
    """Start all jobs at once in threads; the first error of any is raised here."""
    gate, errors = threading.Barrier(len(jobs)), []

    def run(job: Callable[[], None]) -> None:
        try:
            gate.wait()
            job()
        except BaseException as error:  # noqa: BLE001 - raised again by the caller
            errors.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_all_rows_of_many_writers_are_there_once(table_uri: Location) -> None:
    """spec: COM-1, COM-3, COM-9"""
    writers, commits = 4, 3
    lake.create(table_uri.uri, SCHEMA, storage_options=table_uri.storage_options)

    def writer(number: int) -> Callable[[], None]:
        def work() -> None:
            table = lake.open(table_uri.uri, storage_options=table_uri.storage_options)
            for commit in range(commits):
                first = 100 * number + 10 * commit
                table.append(rows(first, first + 1))
                assert table.count(f"id IN ({first}, {first + 1})") == 2

        return work

    run_together([writer(number) for number in range(writers)])
    table = lake.open(table_uri.uri, storage_options=table_uri.storage_options)
    everything = table.scan(["id", "_row_id"]).read_all()
    wanted = sorted(100 * w + 10 * c + i for w in range(writers) for c in range(commits) for i in (0, 1))
    assert sorted(everything.column("id").to_pylist()) == wanted
    assert everything.column("_row_id").to_pylist() == list(range(2 * writers * commits))
    assert [entry["version"] for entry in table.versions()] == list(range(1, writers * commits + 2))
    files = {info.path for info in table_uri.store().list("data/")}
    assert files == set(table.inspect.files().column("path").to_pylist())


def test_writers_that_lose_answers_now_and_then(before: dict[str, bytes]) -> None:
    """Every fifth answer to a create is lost, or its request was; all rows are there once. spec: COM-3, COM-4"""
    store = fresh(before)

    def writer(number: int) -> Callable[[], None]:
        chance = random.Random(number)

        def plan(_call: int, method: str, path: str) -> Fault | None:
            if method not in ("create", "put") or chance.random() > 0.2:
                return None
            return chance.choice([Fault.LOSE_RESPONSE, Fault.LOSE_REQUEST, Fault.DELAY])

        def work() -> None:
            table = lake.open(**at(FaultyStore(store, plan)))
            for commit in range(5):
                table.append(rows(1000 * (number + 1) + commit))

        return work

    run_together([writer(number) for number in range(4)])
    assert sorted(ids(store)) == sorted([*OLD, *(1000 * (w + 1) + c for w in range(4) for c in range(5))])


def test_an_index_is_built_while_rows_come_in(before: dict[str, bytes]) -> None:
    """An index lands on a newer version than it was built from; later rows are found flat. spec: COM-3, TAB-9"""
    store = fresh(before)
    done = threading.Event()

    def builder() -> None:
        for number in range(4):
            lake.open(**at(store)).create_index("v", name=f"index-{number}")
        done.set()

    def appender() -> None:
        table, first = lake.open(**at(store)), 100
        while not done.is_set() and first < 200:
            table.append(rows(first))
            first += 1
            time.sleep(0.001)

    run_together([builder, appender])
    table = lake.open(**at(store))
    assert table.inspect.indexes().num_rows == 4
    for row in table.to_arrow().to_pylist():
        nearest = table.search(row["v"], k=1).to_arrow().to_pylist()[0]
        assert (nearest["id"], nearest["_distance"]) == (row["id"], 0.0)


def test_an_index_of_a_name_that_was_taken_is_a_conflict_and_leaves_nothing(before: dict[str, bytes]) -> None:
    """spec: COM-3"""
    store = fresh(before)
    late = lake.open(**at(store))
    lake.open(**at(store)).create_index("v", name="by_v")
    objects = set(objects_of(store))
    with pytest.raises(lake.ConflictError, match="same name"):
        late.create_index("v", "ip", name="by_v")
    assert set(objects_of(store)) == objects
    assert late.refresh().create_index("v", "ip", name="by_v").inspect.indexes().num_rows == 1


def test_creating_at_the_same_time_makes_one_table(table_uri: Location) -> None:
    """spec: COM-1"""
    made: list[str] = []

    def maker(number: int) -> Callable[[], None]:
        def work() -> None:
            try:
                lake.create(
                    table_uri.uri,
                    SCHEMA,
                    properties={"user.maker": number},
                    storage_options=table_uri.storage_options,
                )
            except lake.AlreadyExistsError:
                return
            made.append(str(number))

        return work

    run_together([maker(number) for number in range(6)])
    assert len(made) == 1
    table = lake.open(table_uri.uri, storage_options=table_uri.storage_options)
    assert table.properties == {"user.maker": made[0]}


def test_a_dropped_and_recreated_table_is_not_written_to(before: dict[str, bytes]) -> None:
    """A handle from before never writes its rows into another table of the same place. spec: COM-3"""
    store = fresh(before)
    stale = lake.open(**at(store))
    for path in sorted(objects_of(store), key=lambda path: path != "_lake/latest"):  # COM-6
        store.delete(path)
    other = create(store)
    for number in range(6):
        other.append(rows(number))
    with pytest.raises(lake.ConflictError, match="made anew"):
        stale.append(rows(77))
    assert ids(store) == [0, 1, 2, 3, 4, 5]


def test_surroundings_of_tests_do_not_leak() -> None:
    """The clock and ids that tests pass are those a commit uses."""
    store = fresh({})
    table = lake.create("unused", SCHEMA, store=store, surroundings=still_surroundings())
    table.append(rows(1))
    assert [entry["writer_id"] for entry in table.versions()] == ["tester", "tester"]
    paths = [info.path for info in store.list("data/")]
    assert all(path.startswith("data/00000000-0000-0000-0000-") for path in paths)


KEEPS_WHAT_IT_WROTE = {"backfill job"}  # whoever resumes the job takes it up


@pytest.mark.parametrize(
    "operation", [one for one in OPERATIONS if one.name != "collect garbage"], ids=lambda one: one.name
)
def test_what_was_written_for_a_refused_commit_is_removed_at_once(operation: Struck) -> None:
    """A commit that certainly did not land leaves nothing behind. spec: COM-4, COM-10"""
    store = start_of_operations()
    operation.prepare(connect(store))
    before = named_objects(store)

    def refuse(_number: int, method: str, path: str) -> Fault | None:
        return Fault.DISK_FULL if method == "create" and path.startswith("_lake/versions/") else None

    with pytest.raises(NotWrittenError):
        operation.run(connect(FaultyStore(store, refuse)))
    left = named_objects(store) - before
    assert bool(left) == (operation.name in KEEPS_WHAT_IT_WROTE), left


def start_of_operations() -> Store:
    store = fresh({})
    start(store)
    return store


def named_objects(store: Store) -> set[str]:
    """What only versions give a meaning to."""
    folders = ("data/", "_lake/indexes/", "_lake/manifests/", "_lake/keys/")
    return {info.path for folder in folders for info in store.list(folder)}
