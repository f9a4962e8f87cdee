"""Repair mends what is derived, tells what is lost, and drops it only when asked to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from uuid import uuid4

import pytest
from key_samples import small_runs
from stores.faulty import Fault, FaultyStore, SimulatedCrash, count_calls
from test_upkeep_compact import contents, fresh, make, reopened, rows
from test_upkeep_verify import change

import lake_format as lake
from lake_format.codec import decode_version, encode_version
from lake_format.errors import ConflictError, LakeError
from lake_format.manifest import FragmentTable, decode_manifest, inline_manifest
from lake_format.paths import LATEST, version_path
from lake_format.row_runs import RowRuns
from lake_format.store import Store, forget_memory, open_store


@pytest.fixture(scope="module")
def objects() -> dict[str, bytes]:
    store = open_store(f"memory://repair-{uuid4().hex}")
    table = make(store, 40, 30, 20)
    table.create_index("v")
    table.delete("id % 10 = 3")
    table.append(rows(90, 10)).optimize_index()
    return {info.path: store.get(info.path) for info in store.list("")}


@pytest.fixture
def store(objects: dict[str, bytes]) -> Iterator[Store]:
    made = fresh(objects)
    yield made
    forget_memory(made.uri)


def test_a_sound_table_is_left_alone(store: Store) -> None:
    table = reopened(store)
    report = table.repair(dry_run=False)
    assert report.ok
    assert report.version == table.version == reopened(store).version


def test_a_broken_hint_is_written_again(store: Store) -> None:
    """spec: UPK-31"""
    for damage in (lambda: change(store, LATEST, b"rubbish"), lambda: store.delete(LATEST)):
        damage()
        table = reopened(store)
        [finding] = table.repair().findings
        assert (finding.path, finding.action) == (LATEST, "write it again")
        table.repair(dry_run=False)
        assert store.get(LATEST) == store.get(version_path(table.version))
        assert reopened(store).repair().ok


def test_a_damaged_shard_leaves_its_index(store: Store) -> None:
    """spec: UPK-30"""
    path = next(info.path for info in store.list("_lake/indexes/") if info.path in shard_paths(store))
    change(store, path, store.get(path)[:-9] + b"X" * 9)
    table = reopened(store)
    version, before = table.version, contents(table)
    [finding] = table.repair().findings
    assert finding.path == path
    assert "searched flat" in finding.action
    assert table.version == version
    assert table.repair(dry_run=False).version == version + 1
    assert contents(table) == before
    found = table.search([5] * 4, 1, select=["id"]).to_pylist()
    assert found == [{"id": 5}]
    assert table.verify().ok
    table.optimize_index()
    assert table.search([5] * 4, 1).plan["rows compared exactly"] == 0
    assert table.verify().ok


def shard_paths(store: Store) -> set[str]:
    return {shard.path for one in reopened(store).snapshot.version.indexes for shard in one.shards}


def test_wrong_counts_and_statistics_are_measured_anew(store: Store) -> None:
    """spec: UPK-30"""
    table = reopened(store)
    path, version = version_path(table.version), table.snapshot.version
    fragments = table.snapshot.fragments.fragments()
    statistics = tuple(
        replace(one, upper=one.lower) if one.field_id == 1 else one for one in fragments[0].statistics
    )
    wrong = inline_manifest([replace(fragments[0], statistics=statistics), *fragments[1:]])
    assert wrong.body is not None
    assert len(FragmentTable([decode_manifest(wrong.body, wrong)])) == len(fragments)
    changed = encode_version(replace(version, manifests=(wrong,), row_count=version.row_count + 7))
    assert decode_version(changed, path).row_count == version.row_count + 7
    change(store, path, changed)
    change(store, LATEST, changed)
    table = reopened(store)
    assert not table.verify().ok
    assert table.count("id = 39") == 0
    report = table.repair(dry_run=False)
    assert {finding.action for finding in report.findings} == {
        "count rows anew",
        "measure its statistics anew",
    }
    assert table.verify().ok
    assert table.count() == version.row_count
    assert table.count("id = 39") == 1


def lose(store: Store) -> str:
    table = reopened(store)
    path = table.inspect.files()["path"][0].as_py()
    store.delete(path)
    return str(path)


def test_lost_rows_are_told_and_dropped_only_on_request(store: Store) -> None:
    """spec: UPK-30"""
    path = lose(store)
    table = reopened(store)
    version = table.version
    report = table.repair(dry_run=False)
    assert [(one.path, one.action, one.rows) for one in report.left] == [(path, "", 36)]
    assert table.version == version
    with pytest.raises(LakeError):
        table.to_arrow()
    report = table.repair(dry_run=False, drop_lost=True)
    assert report.left == []
    assert [one.action for one in report.findings] == ["drop fragment 0"]
    assert table.version == version + 1
    assert {row["id"] for row in contents(table).values()} == {
        i for i in range(40, 100) if i % 10 != 3 or i >= 90
    }
    assert "rows_lost=36" in table.versions()[-1]["summary"]
    assert table.verify().ok
    assert len(table.search([50] * 4, 100)) == table.count()


def test_a_table_that_changed_meanwhile_is_looked_at_again(store: Store) -> None:
    """spec: UPK-30"""
    path = reopened(store).inspect.files()["path"][0].as_py()
    kept = store.get(path)
    store.delete(path)
    table, other = reopened(store), reopened(store)
    damage = table._damage(drop_lost=True, progress=None)
    store.create(path, kept)
    other.delete("id = 1")
    store.delete(path)
    with pytest.raises(ConflictError, match="repair it again"):
        table._commit(*table._mending(damage), base=table.snapshot.version)
    assert table.repair(dry_run=False, drop_lost=True).left == []
    assert table.verify().ok


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.long)])
def test_a_fault_at_any_call_leaves_a_table_to_repair(store: Store, step: int) -> None:
    path = next(iter(shard_paths(store)))
    change(store, path, b"rubbish")
    lose(store)
    damaged = {info.path: store.get(info.path) for info in store.list("")}

    def job(faulty: Store) -> None:
        reopened(faulty).repair(dry_run=False, drop_lost=True)

    for call in range(0, count_calls(job, fresh(damaged)), step):
        faulty = FaultyStore(fresh(damaged), {call: Fault.CRASH_AFTER})
        with suppress(LakeError, SimulatedCrash):
            job(faulty)
        faulty.revive()
        after: lake.Table = reopened(faulty.inner)
        after.repair(dry_run=False, drop_lost=True)
        assert after.verify().ok, call


@pytest.fixture
def keyed() -> Iterator[Store]:
    """A table with a key whose index has a stored run and rows that it does not answer for."""
    store = open_store(f"memory://repair-keys-{uuid4().hex}")
    with small_runs():
        table = lake.create("unused", rows(0, 1).schema, key="id", store=store)
        table.append(rows(0, 40)).append(rows(40, 1))
        table.update({"id": 1000}, where="id = 7")
        yield store
    forget_memory(store.uri)


def run_path(table: lake.Table) -> str:
    index = table.snapshot.version.key_index
    assert index is not None
    return next(iter(index.paths()))


@pytest.mark.parametrize("how", ["lost", "altered"])
def test_a_damaged_key_index_is_built_anew(keyed: Store, how: str) -> None:
    """Verify finds it, a dry run says what would be done, and every key is found afterwards. spec: UPK-8, UPK-30"""
    path = run_path(reopened(keyed))
    if how == "lost":
        keyed.delete(path)
    else:
        data = keyed.get(path)
        change(keyed, path, data[:40] + bytes([data[40] ^ 1]) + data[41:])
    table = reopened(keyed)
    assert [problem.path for problem in table.verify().problems] == [path]
    [finding] = table.repair().findings
    assert (finding.path, finding.action) == (path, "build the key index anew")
    version = table.version
    assert table.repair(dry_run=False).version == version + 1
    table = reopened(keyed)
    assert table.verify().ok
    assert table.repair().ok
    assert run_path(table) != path
    keys = [*range(7), *range(8, 41), 1000]
    assert table.get(keys, columns=["id"]).column("id").to_pylist() == keys
    with pytest.raises(lake.DuplicateKeyError):
        table.append(rows(3, 1))


def test_a_key_index_that_misses_rows_is_built_anew(keyed: Store) -> None:
    """spec: UPK-30, KEY-3"""
    table = reopened(keyed)
    path, version = version_path(table.version), table.snapshot.version
    index = version.key_index
    assert index is not None
    changed = encode_version(replace(version, key_index=replace(index, stale=RowRuns())))
    change(keyed, path, changed)
    change(keyed, LATEST, changed)
    table = reopened(keyed)
    [problem] = table.verify().problems
    assert "would not find 1 rows" in problem.what
    assert [one.action for one in table.repair(dry_run=False).findings] == ["build the key index anew"]
    assert table.verify().ok
    assert table.get(1000)["id"] == 1000


def test_a_key_index_whose_rows_are_lost_too_loses_the_damaged_run_alone(keyed: Store) -> None:
    """spec: UPK-30"""
    keyed.delete(run_path(reopened(keyed)))
    lose(keyed)
    table = reopened(keyed)
    report = table.repair(dry_run=False)
    assert [bool(one.action) for one in report.findings] == [False, True]
    assert not list(reopened(keyed).snapshot.version.key_index.paths())
    report = table.repair(dry_run=False, drop_lost=True)
    assert report.left == []
    assert table.verify().ok
    assert table.get([40, 1000], columns=["id"]).column("id").to_pylist()[0] == 40


def test_a_key_index_that_others_changed_meanwhile_is_looked_at_again(keyed: Store) -> None:
    """The run that was built and not committed is removed. spec: UPK-30"""
    keyed.delete(run_path(reopened(keyed)))
    table, other = reopened(keyed), reopened(keyed)
    damage = table._damage(drop_lost=False, progress=None)
    changes = table._mending(damage)
    other.drop_key()
    held = {info.path for info in keyed.list("_lake/indexes/")}
    with pytest.raises(ConflictError):
        table._mended(changes)
    assert len({info.path for info in keyed.list("_lake/indexes/")}) == len(held) - 1
    table.repair(dry_run=False)
    assert table.verify().ok
