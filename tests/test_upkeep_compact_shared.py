"""Compaction by several threads, and by several processes that share one: the same rows, each group once."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pytest
from stores.faulty import Fault, FaultyStore, SimulatedCrash, count_calls
from test_upkeep_compact import SCHEMA, contents, fresh, make, reopened, rows

import lake_format as lake
from lake_format.errors import CorruptionError, InvalidInputError, LakeError, UnsupportedError
from lake_format.parallel import ahead, as_finished
from lake_format.store import Store, forget_memory, open_store

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.fixture
def store() -> Iterator[Store]:
    uri = f"memory://compact-{uuid4().hex}"
    yield open_store(uri)
    forget_memory(uri)


def worn(store: Store, groups: int = 6) -> lake.Table:
    """A table with so many pairs of small fragments, each pair to become one."""
    table = make(store, *[10] * (2 * groups))
    table.delete("id % 10 = 3")
    return table


def data_files(store: Store) -> set[str]:
    return {info.path for info in store.list("data/")}


def named_files(table: lake.Table) -> set[str]:
    files: set[str] = set()
    for version in range(1, table.refresh().version + 1):
        files |= set(table.checkout(version).inspect.files()["path"].to_pylist())
    return files


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_groups_are_written_side_by_side(store: Store, workers: int) -> None:
    """spec: UPK-1, UPK-2"""
    table = worn(store)
    before, started = contents(table), table.version
    told: list[tuple[str, int, int]] = []
    report = table.compact(target_rows=18, workers=workers, progress=lambda *one: told.append(one))
    assert (report.fragments_removed, report.fragments_added, report.rows, report.yielded) == (12, 6, 108, 0)
    assert 1 <= report.commits <= 6
    assert report.commits == table.version - started
    assert contents(table) == before == contents(reopened(store))
    assert told[-1] == ("compact", 108, 108)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert table.verify().ok
    assert table.compact(target_rows=18).commits == 0
    assert data_files(store) == named_files(table)


def test_groups_finished_together_share_a_commit(store: Store) -> None:
    """While one commit is made others finish; they land in the next one. spec: UPK-1"""
    table = worn(store, 8)
    before, rewrite, others = contents(table), table.engine.rewrite, threading.Barrier(4, timeout=20)

    def together(*arguments: object) -> object:
        done = rewrite(*arguments)  # type: ignore[arg-type]
        others.wait()
        return done

    table.engine.rewrite = together  # type: ignore[method-assign, assignment]
    report = table.compact(target_rows=18, workers=4)
    assert report.fragments_added == 8
    assert report.commits < 8
    assert contents(table) == before


def test_what_others_did_stops_only_the_group_they_did_it_to(store: Store) -> None:
    """Of groups that would land in one commit those that can do. spec: CON-8, IDN-12"""
    table, other = worn(store), reopened(store)
    rewrite, all_here = table.engine.rewrite, threading.Barrier(6, timeout=20)

    def after_an_update(*arguments: object) -> object:
        done = rewrite(*arguments)  # type: ignore[arg-type]
        if all_here.wait() == 0:
            other.refresh().update({"name": "new"}, where="id = 45")
            other.delete("id = 70")
        all_here.wait()
        return done

    table.engine.rewrite = after_an_update  # type: ignore[method-assign, assignment]
    report = table.compact(target_rows=18, workers=6)
    assert report.fragments_added + report.yielded == 6
    found = contents(table.refresh())
    assert sorted(found) == [i for i in range(120) if i % 10 != 3 and i != 70]
    assert {i for i, row in found.items() if row["name"] == "new"} == {45}
    assert table.verify().ok
    assert data_files(store) == named_files(table)


def test_an_error_in_one_group_leaves_no_rubbish_and_the_others_in_place(store: Store) -> None:
    """What landed stays; what was written and did not is removed. spec: UPK-2"""
    table = worn(store)
    before = contents(table)
    lost = table.inspect.files().to_pylist()[8]["path"]
    kept = store.get(lost)
    store.delete(lost)
    damaged = reopened(store)
    with pytest.raises(LakeError):
        damaged.compact(target_rows=18, workers=2)
    assert data_files(store) <= named_files(damaged)
    store.create(lost, kept)
    assert contents(reopened(store)) == before
    assert reopened(store).compact(target_rows=18).fragments_added >= 1
    assert contents(reopened(store)) == before


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.long)])
def test_a_crash_among_threads_leaves_the_rows_as_they_were(store: Store, step: int) -> None:
    """spec: UPK-2, COM-1"""
    table = make(store, 5, 6, 7, 6, format="parquet")
    before = contents(table)
    objects = {info.path: store.get(info.path) for info in store.list("")}

    def job(target: Store) -> None:
        reopened(target).compact(target_rows=15, workers=3)

    for call in range(0, count_calls(job, fresh(objects)), step):
        for fault in (Fault.CRASH_BEFORE, Fault.CRASH_AFTER, Fault.LOSE_RESPONSE, Fault.DISK_FULL):
            faulty = FaultyStore(fresh(objects), {call: fault})
            with suppress(SimulatedCrash, LakeError):
                job(faulty)
            faulty.revive()
            after = reopened(faulty.inner)
            assert contents(after) == before, (call, fault)
            after.compact(target_rows=15)
            assert len(after.inspect.fragments()) == 2


# --- shared by processes ----------------------------------------------------------------------------------------

_WORKER = """
import sys, lake_format as lake
task = bytes.fromhex(sys.stdin.read())
print(lake.open(sys.argv[1]).compact_part(task).hex())
"""


def test_processes_share_a_compaction(tmp_path: Path) -> None:
    """Plan here, write here and in another process, commit here: one commit. spec: UPK-1, UPK-2"""
    uri = str(tmp_path / "t")
    table = lake.create(uri, SCHEMA, cluster_by=["name"])
    for first in range(0, 40, 10):
        table.append(rows(first, 10))
    table.delete("id = 5")
    before, started = contents(table), table.version
    tasks = table.plan_compaction(target_rows=21)
    assert len(tasks) == 2
    there = subprocess.run(
        [sys.executable, "-c", _WORKER, uri], input=tasks[0].hex(), capture_output=True, text=True, check=True
    )
    parts = [bytes.fromhex(there.stdout), table.compact_part(tasks[1])]
    table.append(rows(40, 1)).delete("id = 12")
    report = table.commit_compaction(parts)
    assert (report.fragments_removed, report.fragments_added, report.commits, report.yielded) == (4, 2, 1, 0)
    assert table.version == started + 3
    del before[12]
    assert contents(table) == {**before, 40: contents(table)[40]}
    assert table.verify().ok


def test_a_task_done_twice_counts_once(store: Store) -> None:
    table = worn(store, 2)
    before, tasks = contents(table), table.plan_compaction(target_rows=18)
    first, second = (table.compact_part(task) for task in tasks)
    again = reopened(store).compact_part(tasks[0])
    assert table.commit_compaction([first]).fragments_added == 1
    report = table.commit_compaction([again, second, b""])
    assert (report.fragments_added, report.yielded) == (1, 1)
    assert contents(table) == before
    assert data_files(store) == named_files(table)
    table.discard_parts([first, second])  # what was committed stays
    assert contents(reopened(store)) == before


def test_parts_that_are_not_committed_can_be_discarded(store: Store) -> None:
    table = worn(store, 1)
    files = data_files(store)
    [task] = table.plan_compaction(target_rows=18)
    table.discard_parts([table.compact_part(task)])
    assert data_files(store) == files


def test_bad_parts_and_tasks(store: Store) -> None:
    table = worn(store, 2)
    tasks = table.plan_compaction(target_rows=18)
    part = table.compact_part(tasks[0])
    before, version = contents(table), table.version
    for wrong in (part[:-1], b"rubbish", part[:20] + b"x" + part[21:], tasks[0]):
        with pytest.raises(CorruptionError):
            table.commit_compaction([wrong])
    for wrong in (tasks[0][:-1], part):
        with pytest.raises(CorruptionError):
            table.compact_part(wrong)
    with pytest.raises(InvalidInputError, match="commit_compaction"):
        table.commit_parts([part])
    with pytest.raises(InvalidInputError, match="commit_parts"):
        table.commit_compaction([table.write_part(rows(0, 1))])
    other = worn(open_store(f"memory://compact-{uuid4().hex}"), 1)
    with pytest.raises(InvalidInputError, match="another table"):
        other.compact_part(tasks[0])
    with pytest.raises(InvalidInputError, match="another table"):
        other.commit_compaction([part])
    with pytest.raises(InvalidInputError, match="workers"):
        table.compact(workers=0)
    with pytest.raises(UnsupportedError):
        lake.open("unused", 2, store=store).commit_compaction([part])
    assert (contents(table), table.refresh().version) == (before, version)


def test_a_part_with_other_rows_is_refused(store: Store) -> None:
    """Bytes from elsewhere never lose rows. spec: UPK-2"""
    from lake_format.parts import decode_part, encode_part

    table = worn(store, 2)
    first, second = (table.compact_part(task) for task in table.plan_compaction(target_rows=18))
    one, two = decode_part(first), decode_part(second)
    forged = encode_part(table.snapshot.version, one.fragments, one.features, two.replaces)
    version = table.version
    with pytest.raises(CorruptionError, match="does not hold the rows"):
        table.commit_compaction([forged])
    unknown = encode_part(table.snapshot.version, one.fragments, one.features, [77])
    with pytest.raises(InvalidInputError, match="77"):
        table.commit_compaction([unknown])
    assert table.refresh().version == version


# --- the tools --------------------------------------------------------------------------------------------------


def test_results_come_as_they_are_finished_and_none_is_lost() -> None:
    first = threading.Event()
    unused: list[int] = []

    def work(number: int) -> int:
        if number == 0:
            assert first.wait(20)
        return number

    given: list[int] = []
    for done in as_finished(work, range(9), 2, unused.append):
        given += done
        first.set()
    assert sorted(given) == list(range(9))
    assert not unused

    def fails(number: int) -> int:
        if number == 3:
            raise ValueError(number)
        return number

    given = []
    with suppress(ValueError):
        for done in as_finished(fails, range(50), 2, unused.append):
            given += done
        pytest.fail("nothing was raised")
    assert set(given).isdisjoint(unused)
    assert len(given) + len(unused) < 50


def test_ahead_gives_the_same_and_stops_when_it_is_told() -> None:
    made: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    assert list(ahead(numbers())) == list(range(100))
    made.clear()
    some = ahead(numbers())
    assert [next(some), next(some)] == [0, 1]
    some.close()
    assert len(made) <= 4

    def broken() -> Iterator[int]:
        yield 1
        raise ValueError("here")

    with pytest.raises(ValueError, match="here"):
        list(ahead(broken()))


def test_a_large_group_is_read_ahead_and_its_files_finished_side_by_side(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same rows come out. spec: UPK-2"""
    monkeypatch.setattr("lake_engines.upkeep.rewriting._BATCH_BYTES", 1)
    monkeypatch.setattr("lake_engines.write._LARGE", 1)
    table = worn(store, 2)
    before = contents(table)
    assert table.compact().fragments_added == 1
    assert contents(table) == before
    assert table.verify().ok
    with pytest.raises(InvalidInputError):
        table.append(pa.table({"id": [None]}))
    assert data_files(store) == named_files(table)
