"""Backups and tables made from them: whole, only what is new, verified, resumable (spec/copies.md)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pytest
from conftest import Location
from external_samples import SCHEMA, files, referring_pair, rows
from independent_reader import read_table
from stores.faulty import Fault, FaultyStore, SimulatedCrash, count_calls

import lake_format as lake
from lake_format.copies.copying import Wanted, copy_objects
from lake_format.copies.inventory import Inventory
from lake_format.errors import (
    AlreadyExistsError,
    CorruptionError,
    InvalidInputError,
    LakeError,
    NotFoundError,
    StorageError,
)
from lake_format.store import ByteRange, Store, open_store
from lake_format.store.local import LocalStore
from lake_format.store.metered import MeteredStore

FAULTS = (Fault.CRASH_BEFORE, Fault.CRASH_AFTER, Fault.CRASH_MID_WRITE, Fault.LOSE_RESPONSE, Fault.DISK_FULL)


def lively(uri: str, **options: Any) -> lake.Table:
    """A keyed table with deletions, moved rows, an index, a tag, an expired version and a changed column."""
    schema = pa.schema([pa.field("id", pa.int64(), False), SCHEMA.field("v")])
    table = lake.create(uri, schema, key="id", **options)
    table.append(rows(0).cast(schema))
    table.append(rows(10).cast(schema))
    table.tag("first", 2)
    table.add_column("name", pa.string(), "'n' || id")
    table.create_index("v")
    table.delete("id = 3")
    table.expire_versions(keep=2)
    table.upsert(rows(14, 4).append_column("name", pa.array(["w", "x", "y", "z"])))
    return table


def everything(table: lake.Table) -> pa.Table:
    return table.scan([*table.schema.names, "_row_id"]).read_all().sort_by("_row_id")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> lake.Table:
    """A table that no test of this module changes."""
    return lively(str(tmp_path_factory.mktemp("lively") / "t"))


@pytest.fixture(scope="module")
def made(table: lake.Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of it that no test changes."""
    place = tmp_path_factory.mktemp("backup") / "b"
    table.backup(place)
    return place


def test_a_restored_table_is_the_one_that_was_backed_up(
    table: lake.Table, made: Path, tmp_path: Path
) -> None:
    """spec: CPY-1, CPY-2, CPY-6"""
    restored = lake.restore_backup(str(made), str(tmp_path / "r"))
    assert restored.version == table.version
    assert restored.snapshot.version.table_id == table.snapshot.version.table_id
    assert everything(restored) == everything(table)
    assert (restored.schema, restored.tags(), restored.key) == (table.schema, table.tags(), table.key)
    assert restored.verify().problems == []
    query = np.arange(44, 48, dtype="f4")
    assert restored.search(query, k=3).to_pylist() == table.search(query, k=3).to_pylist()
    assert restored.search(query, k=3).plan["index"] == table.search(query, k=3).plan["index"]
    first = lake.open(str(tmp_path / "r"), tag="first")
    assert everything(first) == everything(table.checkout("first"))


def test_a_restored_table_lives_on(table: lake.Table, made: Path, tmp_path: Path) -> None:
    """spec: CPY-6, IDN-2"""
    restored = lake.restore_backup(str(made), str(tmp_path / "r"))
    added = rows(100, 2).append_column("name", pa.nulls(2, pa.string()))
    restored.append(added)
    assert restored.version == table.version + 1
    new_ids = restored.scan(["_row_id"], "id >= 100").read_all().column(0).to_pylist()
    assert min(new_ids) >= table.snapshot.version.next_row_id
    with pytest.raises(LakeError, match="key"):
        restored.append(added)
    restored.compact()
    restored.expire_versions()
    restored.collect_garbage(dry_run=False)
    assert restored.verify().problems == []
    assert restored.count() == table.count() + 2
    (tmp_path / "r" / "_lake" / "latest").unlink()
    assert lake.open(str(tmp_path / "r")).version == restored.version
    with pytest.raises(NotFoundError, match="expired"):
        lake.open(str(tmp_path / "r"), 1)


def test_a_later_backup_copies_only_what_is_new(tmp_path: Path) -> None:
    """spec: CPY-5"""
    table = lively(str(tmp_path / "t"))
    target = MeteredStore(LocalStore(tmp_path / "b"))
    first = table.backup("b", store=target)
    assert (first.versions, first.kept > 0) == ([2, table.version], True)
    before = files(tmp_path / "b")

    table.append(rows(50).append_column("name", pa.nulls(6, pa.string())))
    new = {row["path"]: row["bytes"] for row in table.inspect.files().to_pylist()}
    new = {path: size for path, size in new.items() if path not in before}
    target.reset()
    second = table.backup("b", store=target)
    assert second.copied_bytes == sum(new.values())
    assert second.copied == len(new)
    versions = sum(len(data) for path, (data, _) in files(tmp_path / "b").items() if path not in before)
    assert target.usage().bytes_written == versions
    assert {path: kept for path, kept in files(tmp_path / "b").items() if path in before} == before

    target.reset()
    third = table.backup("b", store=target)
    assert (third.versions, third.copied, target.usage().bytes_written) == (
        [],
        0,
        target.usage().bytes_written,
    )
    assert all(kind in ("get", "create", "list") for kind in target.usage().requests)
    restored = lake.restore_backup(str(tmp_path / "b"), str(tmp_path / "old"), first.version)
    assert restored.count() == table.count() - 6
    assert everything(lake.restore_backup(str(tmp_path / "b"), str(tmp_path / "new"))) == everything(table)


def test_a_version_or_a_tag_may_be_asked_for(table: lake.Table, tmp_path: Path) -> None:
    assert table.backup(tmp_path / "b", "first").versions == [2]
    assert lake.restore_backup(str(tmp_path / "b"), str(tmp_path / "r")).count() == 6
    assert table.backup(tmp_path / "b").versions == [table.version]


def test_progress_counts_bytes(table: lake.Table, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    report = table.backup(tmp_path / "b", progress=lambda *one: told.append(one))
    assert sum(one[1] for one in told[-1:]) <= report.copied_bytes
    lake.restore_backup(str(tmp_path / "b"), str(tmp_path / "r"), progress=lambda *one: told.append(one))
    assert {one[0] for one in told} == {"backup", "restore"}
    assert told[-1][1] == told[-1][2]


def test_object_stores(s3_location: Location, tmp_path: Path) -> None:
    """From S3 to S3, and back to a disk."""
    options = {"storage_options": s3_location.storage_options}
    table = lively(s3_location.uri, **options)
    place = f"{s3_location.uri}-backup"
    assert table.backup(place, **options).copied > 0
    assert table.backup(place, **options).copied == 0
    back = lake.restore_backup(place, str(tmp_path / "r"), backup_options=s3_location.storage_options)
    assert everything(back) == everything(table)
    again = lake.restore_backup(
        place, f"{s3_location.uri}-2", backup_options=s3_location.storage_options, **options
    )
    assert everything(again) == everything(table)


def test_external_files_are_copied_in(tmp_path: Path) -> None:
    """spec: CPY-3"""
    home, source = referring_pair(tmp_path)
    table = lake.open(str(home), allow_external=str(source))
    table.create_index("v")
    before = files(source)
    first = table.backup(tmp_path / "b")
    assert files(source) == before
    assert table.append(rows(200)).backup(tmp_path / "b").copied < first.copied
    wanted = everything(table)
    shutil.rmtree(source)
    restored = lake.restore_backup(str(tmp_path / "b"), str(tmp_path / "r"))
    assert everything(restored) == wanted
    assert restored.snapshot.version.roots == {}
    assert "external-files" not in restored.snapshot.version.required_features
    assert restored.verify().problems == []
    with pytest.raises(LakeError, match="allow_external"):
        lake.open(str(home)).backup(tmp_path / "b2")
    found, _ = read_table(tmp_path / "r")
    assert found.num_rows == wanted.num_rows


# --- mistakes and damage ----------------------------------------------------------------------------------------


def test_places_that_are_no_backup_of_this_table(table: lake.Table, made: Path, tmp_path: Path) -> None:
    """spec: CPY-1"""
    other = lake.create(str(tmp_path / "other"), SCHEMA)
    with pytest.raises(InvalidInputError, match="there is a table"):
        table.backup(tmp_path / "other")
    with pytest.raises(InvalidInputError, match="there is a table"):
        table.backup(table.uri)
    with pytest.raises(InvalidInputError, match="another table"):
        other.backup(made)
    with pytest.raises(NotFoundError, match="no backup"):
        lake.restore_backup(str(tmp_path / "nowhere"), str(tmp_path / "r"))
    with pytest.raises(NotFoundError, match=f"no version 99.*versions are: 2, {table.version}"):
        lake.restore_backup(str(made), str(tmp_path / "r"), 99)
    with pytest.raises(AlreadyExistsError, match="there is a table"):
        lake.restore_backup(str(made), str(tmp_path / "other"))
    with pytest.raises(InvalidInputError):
        lake.restore_backup(str(made), str(tmp_path / "r"), 0)
    with pytest.raises(NotFoundError, match="no version 77"):
        table.backup(tmp_path / "b", 77)
    assert not (tmp_path / "r").exists()


def test_a_table_that_went_another_way_needs_another_backup(tmp_path: Path) -> None:
    """spec: CPY-2"""
    table = lake.create(str(tmp_path / "t"), SCHEMA).append(rows(0))
    table.backup(tmp_path / "b")
    table.append(rows(10)).backup(tmp_path / "b")
    older = lake.restore_backup(str(tmp_path / "b"), str(tmp_path / "r"), 2).append(rows(20))
    with pytest.raises(AlreadyExistsError, match="another version 3"):
        older.backup(tmp_path / "b")


def test_damage_of_any_object_is_found_and_named(made: Path, tmp_path: Path) -> None:
    """spec: CPY-4, CPY-6"""
    for path in sorted(files(made)):
        copy = tmp_path / "damaged"
        shutil.copytree(made, copy)
        data = (copy / path).read_bytes()
        (copy / path).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(LakeError) as caught:
            lake.restore_backup(str(copy), str(tmp_path / "r"), max(Inventory(LocalStore(made)).numbers()))
        assert Path(path).name in str(caught.value), path
        (copy / path).unlink()
        with pytest.raises(LakeError):
            lake.restore_backup(str(copy), str(tmp_path / "r"), max(Inventory(LocalStore(made)).numbers()))
        with pytest.raises(NotFoundError):
            lake.open(str(tmp_path / "r"))
        shutil.rmtree(copy)
        shutil.rmtree(tmp_path / "r", ignore_errors=True)


def test_damage_of_the_source_never_becomes_a_backup(tmp_path: Path) -> None:
    """spec: CPY-2"""
    table = lake.create(str(tmp_path / "t"), SCHEMA).append(rows(0))
    changed = next((tmp_path / "t" / "data").glob("*.parquet"))
    changed.write_bytes(changed.read_bytes()[:-1])
    with pytest.raises(CorruptionError, match=rf"{changed.name}.* bytes, not the"):
        table.backup(tmp_path / "b")
    changed.unlink()
    with pytest.raises(NotFoundError, match=changed.name):
        table.backup(tmp_path / "b")
    with pytest.raises(NotFoundError, match="none is complete"):
        lake.restore_backup(str(tmp_path / "b"), str(tmp_path / "r"))


def test_another_object_under_a_name_is_never_replaced(table: lake.Table, tmp_path: Path) -> None:
    """spec: CPY-4, CPY-5"""
    path = table.inspect.files().to_pylist()[0]["path"]
    size = (Path(table.uri) / path).stat().st_size
    for content, what in ((b"x" * size, "holds another object"), (b"x", "has 1 bytes")):
        place = tmp_path / what.replace(" ", "-")
        LocalStore(place).create(path, content)
        with pytest.raises(CorruptionError, match=what):
            table.backup(place)
        assert (place / path).read_bytes() == content


# --- crashes ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> lake.Table:
    """Two versions to back up, three fragments."""
    table = lake.create(str(tmp_path_factory.mktemp("small") / "t"), SCHEMA)
    table.append(rows(0)).tag("first")
    return table.append(rows(10)).append(rows(20))


def unsynced(place: Path) -> LocalStore:
    return LocalStore(place, sync=False)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_backup_that_failed_at_any_call_is_taken_up_again(
    fault: Fault, small: lake.Table, tmp_path: Path
) -> None:
    """What is in it at any moment is whole. spec: CPY-2, STO-23"""
    calls = count_calls(lambda store: small.backup("b", store=store), unsynced(tmp_path / "n"))
    for number in range(calls):
        place = tmp_path / f"b{number}"
        store = FaultyStore(unsynced(place), {number: fault})
        failed = _fails(lambda store=store: small.backup("b", store=store))
        held = Inventory(unsynced(place)).numbers()
        assert held in ([], [2], [2, small.version])
        for version in held:
            restored = lake.restore_backup("b", "r", version, backup_store=unsynced(place), store=memory())
            assert restored.count() == (6 if version == 2 else 18)
        if failed:
            store.revive()
            small.backup("b", store=store)
        restored = lake.restore_backup("b", "r", backup_store=unsynced(place), store=memory())
        assert restored.to_arrow() == small.to_arrow()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_restore_that_failed_at_any_call_is_taken_up_again(
    fault: Fault, small: lake.Table, tmp_path: Path
) -> None:
    """Between the calls there is no table, or the whole of it. spec: CPY-6, COM-10"""
    source = unsynced(tmp_path / "b")
    small.backup("b", store=source)

    def restore(store: Store) -> lake.Table:
        return lake.restore_backup("b", "r", backup_store=source, store=store)

    for number in range(count_calls(restore, memory())):
        place = memory()
        store = FaultyStore(place, {number: fault})
        failed = _fails(lambda store=store: restore(store))
        try:
            found = lake.open("r", store=place)
        except NotFoundError:
            assert failed
        else:
            assert found.version == small.version
            assert found.to_arrow() == small.to_arrow()
        if failed:
            store.revive()
            restore(store)
        assert lake.open("r", store=place).to_arrow() == small.to_arrow()
        assert lake.open("r", 2, store=place).count() == 6


def test_a_source_that_fails_leaves_nothing_half(small: lake.Table) -> None:
    counted = FaultyStore(LocalStore(small.uri))
    opened = lake.open("t", store=counted)
    begun = len(counted.calls)
    opened.backup("b", store=memory())
    for fault in (Fault.SHORT_READ, Fault.PERMISSION_DENIED):
        failures = 0
        for number in range(begun, len(counted.calls)):
            source, target = FaultyStore(LocalStore(small.uri), {number: fault}), memory()
            opened = lake.open("t", store=source)
            failed = _fails(lambda opened=opened, target=target: opened.backup("b", store=target))
            assert (small.version in Inventory(target).numbers()) != failed
            failures += failed
            source.revive()
            opened.backup("b", store=target)
            restored = lake.restore_backup("b", "r", backup_store=target, store=memory())
            assert restored.to_arrow() == small.to_arrow()
        assert failures > 3


def memory() -> Store:
    return open_store(f"memory://backup-{uuid4().hex}")


def _fails(job: Callable[[], object]) -> bool:
    try:
        job()
    except (SimulatedCrash, StorageError, CorruptionError):
        return True
    return False


# --- memory -----------------------------------------------------------------------------------------------------


def test_large_objects_are_streamed(tmp_path: Path) -> None:
    """No request asks for more than 8 MiB, however large the object."""
    data = np.random.default_rng(1).bytes(20 << 20)
    source, target = open_store(str(tmp_path / "a")), open_store(str(tmp_path / "b"))
    source.create("data/x", data)
    asked: list[int] = []

    class Watched(FaultyStore):
        def get_ranges(self, ranges: Any) -> list[bytes]:
            asked.extend(one.length for one in ranges)
            return super().get_ranges(ranges)

    (copied,) = copy_objects(Watched(source), Watched(target), [Wanted("data/x", "data/x", len(data))], ())
    assert (copied.size, copied.written) == (len(data), True)
    assert max(asked) <= 8 << 20
    assert sum(asked) == 2 * len(data)
    assert target.get_ranges([ByteRange("data/x", 0, len(data))]) == [data]


# --- the inventory ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"format_version": 1, "table_id": "x"}', '{"format_version": 0}']
)
def test_a_damaged_label_is_corruption(text: str, made: Path, tmp_path: Path) -> None:
    """spec: CPY-1"""
    shutil.copytree(made, tmp_path / "b")
    (tmp_path / "b" / "_backup" / "table.json").write_text(text)
    with pytest.raises(CorruptionError, match=r"table\.json"):
        lake.restore_backup(str(tmp_path / "b"), str(tmp_path / "r"))


def test_a_backup_is_read_as_the_specification_says(made: Path, table: lake.Table) -> None:
    """Without our code: names, checksums, order of things. spec: CPY-1, CPY-4"""
    import hashlib

    label = json.loads((made / "_backup" / "table.json").read_text())
    assert label == {"format_version": 0, "table_id": table.snapshot.version.table_id}
    seen = {}
    for path in (made / "_backup" / "objects").iterdir():
        assert hashlib.blake2b(path.read_bytes(), digest_size=32).hexdigest() == path.stem
        for row in pa.ipc.open_file(path).read_all().to_pylist():
            seen[row["path"]] = row
    others = {path for path in files(made) if not path.startswith("_backup/")}
    assert set(seen) == others
    for path, row in seen.items():
        data = (made / path).read_bytes()
        assert (row["size"], row["digest"]) == (len(data), hashlib.blake2b(data, digest_size=32).digest())
    names = sorted(path.name for path in (made / "_backup" / "versions").iterdir())
    assert names == [f"{number:020d}.lake" for number in (2, table.version)]
    for name in names:
        assert (made / "_backup/versions" / name).read_bytes() == (
            Path(table.uri) / "_lake/versions" / name
        ).read_bytes()
