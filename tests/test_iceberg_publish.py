"""Tables published as Iceberg's: what pyiceberg reads is what the table held, whatever happened to it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from external_samples import files
from publish_samples import Rows, by_id, counted, held, life, opened, read
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.manifest import ManifestContent, ManifestFile
from pyiceberg.table import StaticTable
from row_samples import SCHEMA, rows, vector
from stores.faulty import Fault, FaultyStore, SimulatedCrash

import lake_format as lake
from lake_connectors import iceberg
from lake_connectors.iceberg.publication import folder, snapshots
from lake_format.store.local import LocalStore


def manifests(publication: iceberg.Publication, content: ManifestContent) -> list[ManifestFile]:
    found = StaticTable.from_metadata(publication.metadata_location)
    snapshot = found.current_snapshot()
    assert snapshot is not None
    return [one for one in snapshot.manifests(found.io) if one.content == content]


def objects(place: Path) -> set[str]:
    return {path.name for path in (place / "metadata").iterdir()}


# --- the same rows ------------------------------------------------------------------------------------------------


def test_a_version_is_published_where_its_files_lie(tmp_path: Path) -> None:
    """spec: CPY-11"""
    table = opened(tmp_path / "t", *range(25))
    table.delete("id IN (3, 14)")
    before = files(tmp_path / "t")
    published = iceberg.publish(table)
    assert read(published) == held(table)
    assert published.location == f"file://{tmp_path}/t"
    assert published.metadata_location == f"{published.location}/metadata/v1.metadata.json"
    assert (tmp_path / "t" / "metadata" / "version-hint.text").read_text() == "1"
    after = files(tmp_path / "t")
    assert {path: after[path] for path in before} == before
    assert {path.split("/")[0] for path in after.keys() - before.keys()} == {"metadata", "_lake"}
    assert table.refresh().version == published.version
    assert table.verify().problems == []


def test_readers_find_the_newest_by_the_folder_and_catalogs_by_the_metadata(tmp_path: Path) -> None:
    table = opened(tmp_path / "t", 1, 2)
    published = iceberg.publish(table)
    assert StaticTable.from_metadata(published.location).scan().count() == 2
    catalog = SqlCatalog("test", uri=f"sqlite:///{tmp_path}/c.db", warehouse=f"file://{tmp_path}/w")
    catalog.create_namespace("shop")
    registered = catalog.register_table("shop.items", published.metadata_location)
    assert registered.scan(row_filter="price > 1.5", selected_fields=("name",)).to_arrow().to_pylist() == [
        {"name": "name 2"}
    ]


def test_an_empty_table_and_one_that_became_empty(tmp_path: Path) -> None:
    table = opened(tmp_path / "t")
    assert read(iceberg.publish(table)) == {}
    table.append(rows(1))
    assert len(read(iceberg.publish(table))) == 1
    table.overwrite([])
    assert read(iceberg.publish(table)) == {}


def test_every_published_version_reads_as_the_table_did(tmp_path: Path) -> None:
    """spec: CPY-11, CPY-12"""
    table = counted(tmp_path / "t")
    kept: dict[int, Rows] = {}
    for step, change in enumerate([lambda: None, *life(table)]):
        change()
        published = iceberg.publish(table, keep=20)
        kept[published.snapshot_id] = held(table)
        assert read(published) == held(table), step
    for snapshot_id, expected in kept.items():
        assert read(published, snapshot_id) == expected
    metadata = StaticTable.from_metadata(published.metadata_location).metadata
    assert [one.snapshot_id for one in metadata.snapshots] == list(kept)
    assert [one.snapshot_id for one in metadata.snapshot_log] == list(kept)
    assert [one.parent_snapshot_id for one in metadata.snapshots] == [None, *list(kept)[:-1]]
    totals = metadata.snapshots[-1].summary
    assert totals is not None
    assert totals["total-records"] == "2"


def test_what_was_published_may_be_imported_again(tmp_path: Path) -> None:
    table = opened(tmp_path / "t", *range(15))
    table.update({"price": 0.5}, where="id > 9")
    published = iceberg.publish(table)
    back = iceberg.import_table(published.metadata_location, str(tmp_path / "back"), vectors={"vec": 8})
    assert held(back) == held(table)
    found = lake.open(str(tmp_path / "back"), allow_external=str(tmp_path / "t"))
    assert found.search(vector(4), k=1, select=["id"]).to_arrow()["id"].to_pylist() == [4]


def test_a_clone_is_published_over_the_files_it_shares(tmp_path: Path) -> None:
    table = opened(tmp_path / "t", *range(12))
    clone = table.clone(tmp_path / "clone")
    assert clone.compact().commits == 0
    clone.append(rows(20)).delete("id = 3")
    published = iceberg.publish(clone)
    assert read(published) == held(clone)
    assert read(iceberg.publish(table)) == held(table)
    assert len(list((tmp_path / "clone" / "data").iterdir())) == 1
    clone.overwrite(rows(5))
    assert read(iceberg.publish(clone)) == held(clone)


def test_backups_and_checks_leave_the_publication_out(tmp_path: Path) -> None:
    """spec: CPY-11"""
    table = opened(tmp_path / "t", *range(12))
    iceberg.publish(table)
    assert table.verify().problems == []
    table.backup(tmp_path / "kept")
    assert not (tmp_path / "kept" / "metadata").exists()
    back = lake.restore_backup(str(tmp_path / "kept"), str(tmp_path / "back"))
    assert read(iceberg.publish(back)) == held(table)


# --- as much as changed -------------------------------------------------------------------------------------------


def test_the_same_version_again_does_nothing(tmp_path: Path) -> None:
    """spec: CPY-12"""
    table = opened(tmp_path / "t", 1, 2)
    first = iceberg.publish(table)
    before = files(tmp_path / "t" / "metadata")
    assert iceberg.publish(lake.open(str(tmp_path / "t"))) == first
    assert {path: data for path, (data, _) in files(tmp_path / "t" / "metadata").items()} == {
        path: data for path, (data, _) in before.items()
    }


def test_a_further_version_keeps_the_manifests_of_what_stays(tmp_path: Path) -> None:
    table = opened(tmp_path / "t", *range(25))
    data = manifests(iceberg.publish(table), ManifestContent.DATA)
    table.append(rows(30))
    more = manifests(iceberg.publish(table), ManifestContent.DATA)
    assert more[: len(data)] == data
    assert (len(more), more[-1].added_files_count) == (2, 1)
    table.delete("id IN (3, 12)")
    first = iceberg.publish(table)
    table.delete("id = 4")
    second = iceberg.publish(table)
    assert manifests(second, ManifestContent.DATA) == more
    one, two = manifests(first, ManifestContent.DELETES), manifests(second, ManifestContent.DELETES)
    assert (len(one), two[0], two[1].added_rows_count) == (1, one[0], 1)


def test_files_that_go_are_told_and_others_stay(tmp_path: Path) -> None:
    table = opened(tmp_path / "t", *range(30))
    iceberg.publish(table)
    table.delete("id < 8")
    table.compact()
    published = iceberg.publish(table)
    (old, new) = manifests(published, ManifestContent.DATA)
    assert (old.existing_files_count, old.deleted_files_count, old.added_files_count) == (2, 1, 0)
    assert (new.added_files_count, new.added_rows_count) == (1, 2)
    assert read(published) == held(table)


def test_rows_that_come_back_are_there_again(tmp_path: Path) -> None:
    """A restore takes deletions back: all delete files give way to one."""
    table = opened(tmp_path / "t", *range(20))
    wanted = held(table)
    for where in ("id = 3", "id IN (5, 15)"):
        table.delete(where)
        iceberg.publish(table)
    table.restore(2)
    published = iceberg.publish(table)
    assert read(published) == wanted
    assert manifests(published, ManifestContent.DELETES) == []
    table.restore(3)
    assert 3 not in read(iceberg.publish(table))


def test_manifests_are_put_together_when_there_are_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "_MOST_MANIFESTS", 3)
    table = opened(tmp_path / "t")
    for number in range(9):
        table.append(rows(2 * number, 2 * number + 1))
        table.delete(f"id = {2 * number}")
        published = iceberg.publish(table)
        assert read(published) == held(table)
        for content in ManifestContent:
            assert len(manifests(published, content)) <= 4


def test_old_snapshots_go_with_all_that_only_they_named(tmp_path: Path) -> None:
    """spec: CPY-12, CPY-13"""
    table = opened(tmp_path / "t")
    for number in range(7):
        table.append(rows(2 * number, 2 * number + 1))
        table.delete(f"id = {2 * number}")
        if number == 4:
            table.compact()
        published = iceberg.publish(table, keep=2)
    found = StaticTable.from_metadata(published.metadata_location)
    assert len(found.metadata.snapshots) == 2
    named = {"version-hint.text", "v7.metadata.json", "v6.metadata.json"}
    for snapshot in found.metadata.snapshots:
        assert by_id(found.scan(snapshot_id=snapshot.snapshot_id).to_arrow())
        named.add(snapshot.manifest_list)
        for manifest in snapshot.manifests(found.io):
            named.add(manifest.manifest_path)
            if manifest.content == ManifestContent.DELETES:
                named |= {one.data_file.file_path for one in manifest.fetch_manifest_entry(found.io)}
    assert objects(tmp_path / "t") == {name.rsplit("/", 1)[-1] for name in named}
    assert len(table.inspect.pins()) == 2


def test_garbage_collection_keeps_what_is_published_and_nothing_else(tmp_path: Path) -> None:
    """spec: CPY-13"""
    table = opened(tmp_path / "t", *range(12))
    published = iceberg.publish(table)
    expected = held(table)
    table.overwrite(rows(99))
    table.expire_versions()
    table.collect_garbage(dry_run=False, grace=timedelta(0))
    assert read(published) == expected
    again = iceberg.publish(table, keep=1)
    assert read(again) == held(table)
    table.append(rows(100))
    table.expire_versions()
    assert len(table.collect_garbage(dry_run=False, grace=timedelta(0)).objects) >= 2
    assert read(again).keys() == {99}
    assert read(iceberg.publish(table)) == held(table)


def test_a_publication_goes_on_although_its_pin_was_released(tmp_path: Path) -> None:
    table = opened(tmp_path / "t", *range(12))
    table.delete("id = 1")
    iceberg.publish(table)
    table.release_pin(table.inspect.pins()["table_id"][0].as_py())
    table.append(rows(20))
    table.expire_versions()
    table.collect_garbage(dry_run=False, grace=timedelta(0))
    assert read(iceberg.publish(table)) == held(table)


# --- what is refused ------------------------------------------------------------------------------------------------


def test_fragments_that_are_no_single_file_are_refused_and_compaction_mends_them(tmp_path: Path) -> None:
    """spec: CPY-11"""
    split = lake.create(str(tmp_path / "split"), SCHEMA).append(rows(1, 2))
    with pytest.raises(lake.UnsupportedError, match=r"fragment 0 lies in 2 files.*compact\(\)"):
        iceberg.publish(split)
    assert not (tmp_path / "split" / "metadata").exists()
    split.set_properties({"write.layout": "open"}).compact()
    assert read(iceberg.publish(split)) == held(split)

    table = opened(tmp_path / "t", *range(12))
    table.add_column("twice", values=lake.sql("price * 2"))
    table.add_column("kind", values="constant")
    with pytest.raises(lake.UnsupportedError, match="fragment 0 lies in 2 files; fragment 1 lies in 2 files"):
        iceberg.publish(table)
    table.compact()
    assert read(iceberg.publish(table)) == held(table)
    assert held(table)[3] | {"twice": 6.0, "kind": "constant"} == held(table)[3]


@pytest.mark.parametrize(
    "kind",
    [
        pa.uint32(),
        pa.uint64(),
        pa.float16(),
        pa.list_(pa.float16(), 4),
        pa.duration("us"),
        pa.timestamp("ns"),
        pa.timestamp("ns", "UTC"),
        pa.time32("ms"),
        pa.time64("ns"),
        pa.date64(),
        pa.decimal256(40, 2),
        pa.null(),
        pa.struct([("inside", pa.uint64())]),
        pa.list_(pa.duration("s")),
        pa.dictionary(pa.int8(), pa.uint32()),
    ],
    ids=str,
)
def test_types_that_iceberg_does_not_have_are_refused_by_column(tmp_path: Path, kind: pa.DataType) -> None:
    schema = pa.schema([("id", pa.int64()), ("odd", kind)])
    table = lake.create(str(tmp_path / "t"), schema, layout="open").append({"id": [1], "odd": [None]})
    with pytest.raises(lake.UnsupportedError, match="column 'odd' holds"):
        iceberg.publish(table)
    assert list(table.inspect.pins().to_pylist()) == []
    assert not (tmp_path / "t" / "metadata").exists()


def test_a_dropped_column_that_readers_give_up_on_is_refused(tmp_path: Path) -> None:
    schema = pa.schema([("id", pa.int64()), ("odd", pa.time32("ms"))])
    table = lake.create(str(tmp_path / "t"), schema, layout="open").append({"id": [1], "odd": [None]})
    table.drop_column("odd")
    with pytest.raises(lake.UnsupportedError, match="cannot be read by pyiceberg"):
        iceberg.publish(table)
    table.update({"id": 2})
    assert read(iceberg.publish(table)) == {2: {"id": 2}}


def test_places_and_versions_that_cannot_be_published(tmp_path: Path) -> None:
    memory = lake.create("memory://no-iceberg", SCHEMA, layout="open")
    with pytest.raises(lake.UnsupportedError, match="memory://no-iceberg cannot be named"):
        iceberg.publish(memory)
    with pytest.raises(lake.UnsupportedError, match=r"cannot be named.*without '\?'"):
        iceberg.publish(opened(tmp_path / "what?", 1))
    table = opened(tmp_path / "t", 1)
    with pytest.raises(lake.InvalidInputError, match="keep must be a positive whole number, not 0"):
        iceberg.publish(table, keep=0)
    with pytest.raises(lake.UnsupportedError, match="branch 'try' cannot be published"):
        iceberg.publish(table.create_branch("try"))
    older = table.checkout(1)
    iceberg.publish(table)
    with pytest.raises(lake.InvalidInputError, match=r"version 3 is published in .* this is version 1"):
        iceberg.publish(older)
    other = opened(tmp_path / "other", 1)
    with pytest.raises(lake.AlreadyExistsError, match="is of another table"):
        iceberg.publish(other, tmp_path / "t")
    table.append(rows(2)).expire_versions()
    gone = lake.open(str(tmp_path / "t"))
    table.append(rows(3)).expire_versions()
    with pytest.raises(lake.NotFoundError, match="has expired"):
        iceberg.publish(gone, tmp_path / "elsewhere")
    assert not list((tmp_path / "elsewhere").rglob("*.json"))


def test_another_place_holds_the_metadata_alone(tmp_path: Path) -> None:
    table = opened(tmp_path / "t", *range(12))
    table.delete("id = 1")
    published = iceberg.publish(table, tmp_path / "elsewhere")
    assert read(published) == held(table)
    assert not (tmp_path / "t" / "metadata").exists()
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["metadata"]
    assert iceberg.publish(table).location != published.location
    assert len(table.inspect.pins()) == 2


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"format-version": 2}', b"\xff\xfe"])
def test_damaged_metadata_are_named(tmp_path: Path, content: bytes) -> None:
    table = opened(tmp_path / "t", 1)
    iceberg.publish(table)
    (tmp_path / "t" / "metadata" / "v1.metadata.json").write_bytes(content)
    table.append(rows(2))
    with pytest.raises(lake.CorruptionError, match=r"v1\.metadata\.json cannot be read"):
        iceberg.publish(table)


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    table = opened(tmp_path / "t", *range(12))
    (manifest,) = manifests(iceberg.publish(table), ManifestContent.DATA)
    path = Path(manifest.manifest_path.removeprefix("file://"))
    path.write_bytes(path.read_bytes()[:-20])
    table.overwrite(rows(5))
    before = objects(tmp_path / "t")
    with pytest.raises(lake.CorruptionError, match=path.name):
        iceberg.publish(table)
    assert objects(tmp_path / "t") == before


@pytest.mark.parametrize("hint", [None, b"", b"nonsense", b"1", b"77"])
def test_a_hint_that_is_wrong_costs_a_look_and_nothing_else(tmp_path: Path, hint: bytes | None) -> None:
    """spec: CPY-12"""
    table = opened(tmp_path / "t", 1)
    for number in (2, 3):
        iceberg.publish(table)
        table.append(rows(number))
    path = tmp_path / "t" / "metadata" / "version-hint.text"
    path.unlink()
    if hint is not None:
        path.write_bytes(hint)
    published = iceberg.publish(table)
    assert published.metadata_location.endswith("v3.metadata.json")
    assert (path.read_bytes(), read(published)) == (b"3", held(table))


# --- crashes and others -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        Fault.CRASH_AFTER,
        *(
            pytest.param(one, marks=pytest.mark.long)
            for one in Fault
            if one not in (Fault.CRASH_AFTER, Fault.OVERTAKEN, Fault.DELAY, Fault.SHORT_READ)
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:what is published")
def test_a_fault_at_any_call_leaves_the_older_publication_or_the_new_one(
    tmp_path: Path, fault: Fault
) -> None:
    """spec: CPY-11"""
    place = tmp_path / "t"
    table = opened(place, *range(6))
    published = iceberg.publish(table)
    calls = number = 0
    while number <= calls:
        table.append(rows(100 + number)).delete(f"id = {99 + number}")
        if number % 4 == 3:
            table.compact()
        older = read(published)
        store = FaultyStore(LocalStore(place), {number: fault})
        with suppress(SimulatedCrash, lake.LakeError):
            iceberg.publish(lake.open(str(place), store=store), keep=2)
        found = by_id(StaticTable.from_metadata(_newest(place)).scan().to_arrow())
        assert found in (older, held(table)), number
        again = FaultyStore(LocalStore(place))
        published = iceberg.publish(lake.open(str(place), store=again), keep=2)
        assert read(published) == held(table), number
        calls, number = max(calls, len(store.calls), len(again.calls)), number + 1
    assert number > 20
    assert len(table.inspect.pins()) <= 3
    assert table.verify().problems == []


def _newest(place: Path) -> str:
    numbers = [int(path.name[1:].split(".")[0]) for path in (place / "metadata").glob("v*.metadata.json")]
    return f"{place}/metadata/v{max(numbers)}.metadata.json"


def test_publishers_that_meet_publish_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """spec: CPY-12"""
    table = opened(tmp_path / "t", 1)
    late = lake.open(str(tmp_path / "t"))
    late.append(rows(2))
    create, met = folder.Folder.create_metadata, []

    def meeting(self: folder.Folder, number: int, data: bytes) -> None:
        if not met:
            met.append(number)
            iceberg.publish(table)
        create(self, number, data)

    monkeypatch.setattr(folder.Folder, "create_metadata", meeting)
    published = iceberg.publish(late)
    assert (met, published.metadata_location.endswith("v2.metadata.json")) == ([1], True)
    assert read(published) == held(late)
    assert len(StaticTable.from_metadata(published.metadata_location).metadata.snapshots) == 2
    assert len([name for name in objects(tmp_path / "t") if name.endswith(".list.avro")]) == 2


def test_many_publishers_of_a_table_that_grows(tmp_path: Path) -> None:
    opened(tmp_path / "t", 0)

    def work(number: int) -> None:
        for step in range(4):
            table = lake.open(str(tmp_path / "t"))
            table.append(rows(10 * number + step + 1))
            with suppress(lake.InvalidInputError):  # somebody was quicker with a later version
                iceberg.publish(table, keep=100)

    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(work, number) for number in range(1, 4)]:
            done.result()
    table = lake.open(str(tmp_path / "t"))
    published = iceberg.publish(table, keep=100)
    assert read(published) == held(table)
    found = StaticTable.from_metadata(published.metadata_location).metadata
    versions = [int(one.summary["lake.version"]) for one in found.snapshots if one.summary]
    assert versions == sorted(set(versions))
    for snapshot, version in zip(found.snapshots, versions, strict=True):
        assert read(published, snapshot.snapshot_id) == held(table.checkout(version))


def test_on_s3(s3_location: Any) -> None:
    options = s3_location.storage_options
    table = lake.create(s3_location.uri, SCHEMA, layout="open", storage_options=options)
    table.append(rows(1, 2, 3)).delete("id = 2")
    published = iceberg.publish(table, storage_options=options)
    assert published.metadata_location == f"{s3_location.uri}/metadata/v1.metadata.json"
    access = {
        "s3.endpoint": options["endpoint"],
        "s3.access-key-id": options["access_key_id"],
        "s3.secret-access-key": options["secret_access_key"],
        "s3.region": options.get("region", "us-east-1"),
    }
    found = StaticTable.from_metadata(published.metadata_location, access)
    assert by_id(found.scan().to_arrow()) == held(table)
