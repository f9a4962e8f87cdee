"""Expiry and collection: nothing a kept version, a tag or a running writer needs is ever removed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from samples import bare_version, still_surroundings
from stores.faulty import Fault, FaultyStore, SimulatedCrash, count_calls
from stores.long_history import pour
from test_upkeep_compact import SCHEMA, contents, fresh, make, reopened, rows

import lake_format as lake
from lake_format.codec import encode_version
from lake_format.errors import ConflictError, CorruptionError, InvalidInputError, LakeError, NotFoundError
from lake_format.log import ExpiredError, VersionLog
from lake_format.paths import HISTORY, LATEST, checkpoint_number, checkpoint_path, version_path
from lake_format.store import Store, forget_memory, open_store
from lake_format.tombstone import Tombstone, decode_tombstone, encode_tombstone, is_tombstone

NOW = timedelta(0)


@pytest.fixture
def store() -> Iterator[Store]:
    uri = f"memory://garbage-{uuid4().hex}"
    yield open_store(uri)
    forget_memory(uri)


def paths(store: Store) -> list[str]:
    return [info.path for info in store.list("")]


def stones(store: Store) -> list[int]:
    numbers = VersionLog(store).numbers()
    return [number for number in numbers if is_tombstone(store.get(version_path(number)))]


def files_of(table: lake.Table) -> set[str]:
    return set(table.inspect.files()["path"].to_pylist())


# --- what expires -------------------------------------------------------------------------------------------


def test_the_newest_and_the_tagged_are_kept(store: Store) -> None:
    """spec: VER-6, UPK-4, IDN-19"""
    table = make(store, 5, 7, 3).tag("first", 2)
    report = table.expire_versions(keep=2)
    assert (report.horizon, report.expired) == (4, 2)
    assert table.snapshot.version.horizon == 4
    assert "expired-versions" in table.snapshot.version.required_features
    assert table.checkout("first").count() == 5
    assert table.expire_versions(keep=3).expired == 0
    for gone in (lambda: table.tag("x", 3), lambda: table.restore(1)):
        with pytest.raises(ExpiredError, match=r"has expired.*oldest version kept is 4"):
            gone()
    assert table.restore("first").count() == 5
    assert table.restore(4).count() == 15


def test_expiry_by_age(store: Store) -> None:
    """What was current at the moment stays. spec: UPK-4, VER-2"""
    clock = iter(range(1_700_000_000, 1_700_009_000, 60))
    around = still_surroundings(now=lambda: float(next(clock)), new_id=uuid4)
    table = lake.create("unused", SCHEMA, store=store, surroundings=around)
    for number in range(4):
        table.append(rows(number, 1))  # version n at minute n - 1
    assert table.expire_versions(timedelta(days=1)).expired == 0
    assert table.expire_versions("2023-11-14T22:14:30Z", keep=2).horizon == 2  # 70 s after version 1
    with pytest.raises(ExpiredError, match="oldest version kept is 2"):
        lake.open("unused", as_of="2023-11-14T22:14:00Z", store=store)
    assert lake.open("unused", as_of="2023-11-14T22:14:21Z", store=store).version == 2
    assert table.expire_versions(timedelta(0), keep=3).horizon == 4
    with pytest.raises(InvalidInputError, match="keep"):
        table.expire_versions(keep=0)


def test_work_prepared_on_an_expired_version_is_refused(store: Store) -> None:
    """spec: UPK-4, IDN-19"""
    table, late = make(store, 5, 7), reopened(store)
    table.append(rows(12, 1))
    table.expire_versions()
    for collected in (False, True):
        if collected:
            table.collect_garbage(dry_run=False, grace=NOW)
        with pytest.raises(ConflictError, match=r"prepared on version 3.*have expired"):
            late.append(rows(20, 1))
    late.refresh().append(rows(20, 1))
    assert late.count() == 14


def test_checkpoints_that_are_of_no_use_go(store: Store) -> None:
    """Those that a milestone replaces, and those of expired versions; a tagged one keeps its own. spec: UPK-9"""
    pour(store, 2200)
    table = reopened(store).tag("old", 1500)
    assert not table.collect_garbage(dry_run=False, grace=NOW).objects
    for horizon, kept in ((10, [1024, 2048]), (1500, [2048]), (2150, [2048])):
        table.expire_versions(keep=table.version - horizon + 1)
        report = table.collect_garbage(dry_run=False, grace=NOW)
        left = [checkpoint_number(path) for path in paths(store) if path.startswith(HISTORY)]
        assert [number for number in left if number <= 2048] == kept
        assert set(report.objects).isdisjoint(paths(store))
        told = [one["version"] for one in table.versions()]
        assert told == sorted({*range(horizon, table.version + 1), 1500})
    table.delete_tag("old").collect_garbage(dry_run=False, grace=NOW)
    assert checkpoint_path(2048) not in paths(store)
    assert len(table.versions()) == table.version - 2149


# --- tombstones ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hint", ["current", "lagging", "missing", "broken"])
def test_no_hint_leads_back_to_an_old_version(store: Store, hint: str) -> None:
    """spec: VER-7, COM-6"""
    table = make(store, 5, 7, 3, 4)
    early = table.checkout(2)
    table.compact()
    table.expire_versions()
    report = table.collect_garbage(dry_run=False, grace=NOW)
    assert report.versions == stones(store) == [1, 2, 3, 4, 5]
    if hint == "lagging":
        store.put(LATEST, encode_version(early.snapshot.version))
    elif hint == "missing":
        store.delete(LATEST)
    elif hint == "broken":
        store.put(LATEST, b"?")
    found = reopened(store)
    assert found.version == table.version == 7
    assert contents(found).keys() == set(range(19))
    assert [one["version"] for one in found.versions()] == [6, 7]
    for number in (1, 5):
        with pytest.raises(ExpiredError, match=f"version {number} .*has expired"):
            lake.open("unused", number, store=store)
    with pytest.raises(NotFoundError, match="no version 8"):
        lake.open("unused", 8, store=store)


def test_a_number_is_never_claimed_again(store: Store) -> None:
    """A stalled writer meets the tombstone and learns whose commit it was. spec: VER-7, IDN-17"""
    table = make(store, 5, 7, 3)
    mine = table.checkout(3).snapshot.version
    table.expire_versions()
    table.collect_garbage(dry_run=False, grace=NOW)
    log = VersionLog(store, lambda _seconds: None)
    assert log.claim(mine)  # the answer to the commit itself came late
    theirs = bare_version(3)
    assert not log.claim(theirs)
    assert reopened(store).version == 5


def test_damaged_tombstones_are_refused() -> None:
    """spec: VER-7"""
    stone = Tombstone(table_id="t", version=3, commit_id="c", committed_at=5, horizon=9)
    data = encode_tombstone(stone)
    assert decode_tombstone(data, "here") == stone
    assert data[:8] == b"LAKEVERX"
    for at in range(8, len(data)):
        with pytest.raises(CorruptionError, match="here"):
            decode_tombstone(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], "here")
    for length in range(len(data)):
        with pytest.raises(CorruptionError, match="here"):
            decode_tombstone(data[:length], "here")
    wrong: Any
    for wrong in ({"version": "3"}, {"commit_id": 3}, {"horizon": 3}, {"version": 0}, {"committed_at": -1}):
        values = {"table_id": "t", "version": 3, "commit_id": "c", "committed_at": 5, "horizon": 9}
        with pytest.raises(CorruptionError, match="here"):
            decode_tombstone(encode_tombstone(Tombstone(**(values | wrong))), "here")


# --- what is removed ----------------------------------------------------------------------------------------


def test_only_what_nobody_needs_is_removed(store: Store) -> None:
    """A dry run says the same and does nothing. spec: UPK-5, UPK-6, UPK-7"""
    table = make(store, 5, 7, 3)
    table.create_index("v", lists=1)
    table.tag("kept", 3)
    needed = files_of(table.checkout(3))
    orphan = f"data/{uuid4()}.parquet"
    store.create(orphan, b"left by a writer that died")
    store.create("_lake/other/thing", b"unknown to this release")
    third = files_of(table) - needed
    index = table.snapshot.version.indexes[0].shards[0].path
    table.compact()
    assert table.collect_garbage(dry_run=False, grace=NOW).objects == []  # nothing has expired yet
    table.expire_versions()
    before = paths(store)
    planned = table.collect_garbage(grace=NOW)
    assert paths(store) == before
    assert stones(store) == []
    assert set(planned.objects) == third | {orphan}
    assert planned.bytes == sum(info.size for info in store.list("") if info.path in planned.objects)
    assert table.collect_garbage(dry_run=False, grace=timedelta(hours=1)).objects == []
    done = table.collect_garbage(dry_run=False, grace=NOW)
    assert (done.objects, done.bytes, done.dry_run) == (planned.objects, planned.bytes, False)
    assert set(before) - set(paths(store)) == set(planned.objects)
    assert index in paths(store)
    assert contents(reopened(store)).keys() == set(range(15))
    assert contents(table.checkout("kept")).keys() == set(range(12))
    assert table.search([11.0] * 4, 1, select=["id"]).to_arrow()["id"].to_pylist() == [11]
    assert table.collect_garbage(dry_run=False, grace=NOW).objects == []
    table.delete_tag("kept")
    table.expire_versions()
    assert set(table.collect_garbage(dry_run=False, grace=NOW).objects) == needed
    assert 3 in stones(store)


def test_a_writer_at_work_keeps_its_files(store: Store) -> None:
    """Written after the horizon's version, committed after the collection. spec: UPK-6, IDN-19"""
    table = make(store, 5, 7)
    table.expire_versions(keep=1)
    writer = reopened(store)
    append = writer.engine.write

    def slow(*arguments: Any) -> Any:
        written = append(*arguments)
        table.expire_versions(keep=2)
        table.collect_garbage(dry_run=False, grace=NOW)
        return written

    writer.engine.write = slow  # type: ignore[method-assign]
    writer.append(rows(12, 3))
    assert contents(reopened(store)).keys() == set(range(15))


@pytest.mark.parametrize("operation", ["append", "upsert", "compact"])
def test_a_writer_overtaken_until_its_base_expired_is_refused(store: Store, operation: str) -> None:
    """However often it was rebased on versions that had not: its files may be gone. spec: UPK-4, UPK-6"""
    table, rivals = make(store, 5, 7), 6

    def now() -> float:  # asked for just before a claim
        nonlocal rivals
        if rivals:
            rivals -= 1
            rival = reopened(store)
            rival.append(rows(100 + rivals, 1))
            rival.expire_versions(keep=4)
            rival.collect_garbage(dry_run=False, grace=NOW)
        return 1_700_000_000.0

    late = lake.open("unused", store=store, surroundings=still_surroundings(now=now, new_id=uuid4))
    with pytest.raises(ConflictError, match=r"prepared on version 3.*have expired"):
        {
            "append": lambda: late.append(rows(12, 1)),
            "upsert": lambda: late.upsert(rows(4, 9), on="id"),
            "compact": late.compact,
        }[operation]()
    assert len(contents(reopened(store))) == 12 + 6 - rivals
    assert reopened(store).verify().problems == []
    assert table.refresh().append(rows(12, 1)).count() == 13 + 6 - rivals


def test_removed_fragments_of_a_stored_manifest_are_garbage(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Needed while one kept version has them. spec: UPK-6, MAN-6"""
    table = make(store, *([1] * 17))
    monkeypatch.setattr("lake_format.manifest_set.INLINE_BYTES", 1)
    table.append(rows(17, 1))
    monkeypatch.undo()
    table.delete("id < 9")
    assert [one.removed for one in table.snapshot.version.manifests if one.path] == [tuple(range(9))]
    early = files_of(table.checkout(19))
    table.expire_versions(keep=3)
    kept = table.snapshot.version.horizon
    table.collect_garbage(dry_run=False, grace=NOW)
    assert table.checkout(kept).count() >= 9
    table.append(rows(18, 1))
    table.expire_versions()
    removed = set(table.collect_garbage(dry_run=False, grace=NOW).objects)
    assert removed & early == early - files_of(table)
    assert contents(reopened(store)).keys() == set(range(9, 19))


def test_a_crash_anywhere_in_a_collection(store: Store) -> None:
    """spec: UPK-5"""
    table = make(store, 5, 7, format="parquet").tag("t", 2)
    table.compact()
    table.expire_versions()
    objects = {info.path: store.get(info.path) for info in store.list("")}

    def collected(target: Store) -> None:
        reopened(target).collect_garbage(dry_run=False, grace=NOW)

    def aged() -> Store:
        copy = fresh({path: data for path, data in objects.items() if not path.startswith("_lake/versions")})
        for path, data in objects.items():
            if path.startswith("_lake/versions"):
                copy.create(path, data)
        return copy

    calls = count_calls(collected, aged())
    for call in range(calls):
        for fault in (Fault.CRASH_BEFORE, Fault.CRASH_AFTER, Fault.LOSE_RESPONSE, Fault.PERMISSION_DENIED):
            faulty = FaultyStore(aged(), {call: fault})
            with suppress(SimulatedCrash, LakeError):
                collected(faulty)
            again = reopened(faulty.inner)
            assert again.version == table.version
            assert again.count() == 12
            assert again.checkout("t").to_arrow().num_rows == 5
            collected(faulty.inner)
            assert stones(faulty.inner) == [1, 3, 4]


def test_unfinished_files_of_killed_writers(tmp_path: Path) -> None:
    """spec: UPK-6, STO-22"""
    table = lake.create(str(tmp_path / "t"), SCHEMA)
    leftover = tmp_path / "t" / "data" / f".{'0' * 32}.tmp"
    leftover.parent.mkdir()
    leftover.write_bytes(b"abc")
    os.utime(leftover, (1, 1))
    assert table.collect_garbage().leftovers == 0
    assert leftover.exists()
    assert table.collect_garbage(dry_run=False).leftovers == 1
    assert not leftover.exists()


def test_bad_grace(store: Store) -> None:
    for wrong in (timedelta(-1), 5, None):
        with pytest.raises(InvalidInputError, match="grace"):
            make_or_open(store).collect_garbage(grace=wrong)  # type: ignore[arg-type]


def make_or_open(store: Store) -> lake.Table:
    return reopened(store) if paths(store) else make(store, 1)
