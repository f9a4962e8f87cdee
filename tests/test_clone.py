"""Clones: tables that share the files of another one, safe from its collector (spec/copies.md, CPY-7 to CPY-10)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import Location
from external_samples import SCHEMA, files, referring_pair, rows
from independent_reader import read_table
from stores.faulty import Fault, FaultyStore
from stores.range_server import RangeServer
from test_backup import everything, lively

import lake_format as lake
from lake_format.codec import decode_version, encode_version
from lake_format.errors import (
    AlreadyExistsError,
    CorruptionError,
    InvalidInputError,
    LakeError,
    NotFoundError,
    UnsupportedError,
)
from lake_format.lines import LINE_IDS
from lake_format.log import ExpiredError
from lake_format.paths import PINS
from lake_format.pins import list_pins
from lake_format.store.consent import ExternalNotAllowedError
from lake_format.store.local import LocalStore
from lake_format.store.metered import MeteredStore

NOW = timedelta(0)


def named(first: int, count: int) -> pa.Table:
    table = rows(first, count)
    schema = pa.schema([pa.field("id", pa.int64(), False), SCHEMA.field("v")])
    return table.cast(schema).append_column("name", pa.array([f"c{n}" for n in range(count)]))


def collected(table: lake.Table) -> list[str]:
    table.expire_versions()
    return table.collect_garbage(dry_run=False, grace=NOW).objects


def check_same_search(one: lake.Table, other: lake.Table) -> None:
    query = np.arange(44, 48, dtype="f4")
    found = [table.search(query, k=3, select=["id", "_row_id", "_distance"]) for table in (one, other)]
    assert found[0].to_pylist() == found[1].to_pylist()
    assert found[0].plan["index"] == found[1].plan["index"]


# --- what a clone is --------------------------------------------------------------------------------------------


def test_a_clone_shares_every_file(tmp_path: Path) -> None:
    """Rows, ids, index and key are there, and not a byte of them. spec: CPY-7, CPY-8, IDN-3, IDN-20"""
    source = lively(str(tmp_path / "s"))
    before = files(tmp_path / "s")
    clone = source.clone(tmp_path / "c")
    assert everything(clone) == everything(source)
    assert (clone.version, clone.schema, clone.key) == (1, source.schema, source.key)
    assert (clone.tags(), clone.branches()) == ({}, [])
    check_same_search(clone, source)
    assert clone.verify().problems == []
    assert sorted(files(tmp_path / "c")) == ["_lake/latest", f"_lake/versions/{1:020d}.lake"]
    after = files(tmp_path / "s")
    assert {path: kept for path, kept in after.items() if path in before} == before
    made = clone.snapshot.version
    new = [path for path in after if path not in before]
    pin = f"{PINS}{0:07d}-{source.version:020d}-{made.table_id}.pin"
    assert sorted(new) == ["_lake/lines/0000001.line", pin]
    assert made.table_id != source.snapshot.version.table_id
    assert (made.next_row_id, made.next_fragment_id) == (LINE_IDS, LINE_IDS)
    assert clone.inspect.sources().to_pylist() == [
        {
            "uri": (tmp_path / "s").as_uri(),
            "table_id": source.snapshot.version.table_id,
            "line": 0,
            "version": source.version,
            "pinned": True,
        }
    ]
    (listed,) = source.inspect.pins().to_pylist()
    assert (listed["version"], listed["table_id"]) == (source.version, made.table_id)
    assert listed["clone"] == clone.uri
    assert listed["created_at"] is not None


def test_making_one_takes_few_requests(tmp_path: Path) -> None:
    """However many manifests and files there are."""
    table = lively(str(tmp_path / "s"))
    source, target = MeteredStore(LocalStore(tmp_path / "s")), MeteredStore(LocalStore(tmp_path / "c"))
    opened = lake.open(table.uri, store=source)
    source.reset()
    opened.clone("c", store=target)
    assert sum(source.usage().requests.values()) <= 5  # newest version, list lines, line, pin
    assert sum(target.usage().requests.values()) <= 4  # list, the first version and its test, hint


def test_opening_it_needs_consent(tmp_path: Path) -> None:
    """spec: STO-28, CPY-8"""
    source = lively(str(tmp_path / "s"))
    source.clone(tmp_path / "c")
    with pytest.raises(ExternalNotAllowedError, match="allow_external"):
        lake.open(str(tmp_path / "c")).to_arrow()
    opened = lake.open(str(tmp_path / "c"), allow_external=source.uri)
    assert everything(opened) == everything(source)
    found, _ = read_table(tmp_path / "c", outside={(tmp_path / "s").as_uri(): tmp_path / "s"})
    assert found.sort_by("_row_id").column("_row_id") == everything(source).column("_row_id")


def test_both_go_their_own_way(tmp_path: Path) -> None:
    """spec: IDN-3, STO-29"""
    source = lively(str(tmp_path / "s"))
    clone = source.clone(tmp_path / "c")
    shared = everything(source)
    before = files(tmp_path / "s")
    clone.append(named(100, 4))
    with pytest.raises(LakeError, match="key"):
        clone.append(named(100, 1))
    with pytest.raises(LakeError, match="key"):
        clone.append(named(5, 1))
    clone.update({"name": "changed"}, "id = 4")
    clone.upsert(named(12, 4))
    clone.delete("id = 1")
    clone.add_column("more", pa.int64(), 7)
    clone.optimize_index()
    assert clone.get(100)["name"] == "c0"
    assert files(tmp_path / "s") == before
    assert everything(source.refresh()) == shared
    new = clone.scan(["_row_id"], "id >= 100").read_all().column(0).to_pylist()
    assert new == [LINE_IDS + n for n in range(4)]
    kept = everything(clone)
    source.delete("id = 2")
    source.append(named(200, 2)).compact()
    assert everything(clone.refresh()) == kept
    assert clone.verify().problems == []
    branch = clone.create_branch("try").append(named(300, 1))
    assert branch.snapshot.version.line == 2
    clone.fast_forward("try")
    assert clone.count("id = 300") == 1
    assert clone.checkout(1).count() == shared.num_rows
    clone.restore(1)
    assert everything(clone) == shared


@pytest.mark.parametrize("which", [2, "first"])
def test_an_older_version_or_a_tag(which: int | str, tmp_path: Path) -> None:
    source = lively(str(tmp_path / "s"))
    clone = source.clone(tmp_path / "c", which)
    assert everything(clone) == everything(source.checkout("first"))
    assert [pin.version for pin in list_pins(LocalStore(tmp_path / "s"))] == [2]
    assert everything(source.checkout("first").clone(tmp_path / "d")) == everything(clone)


def test_a_clone_of_an_empty_table_and_of_a_branch(tmp_path: Path) -> None:
    """spec: CPY-7"""
    source = lake.create(str(tmp_path / "s"), SCHEMA)
    assert source.clone(tmp_path / "e").append(rows(0)).count() == 6
    branch = source.create_branch("b").append(rows(10))
    clone = branch.clone(tmp_path / "c")
    assert (clone.branch, clone.count()) == ("main", 6)
    (pin,) = (pin for pin in list_pins(LocalStore(tmp_path / "s")) if pin.line)
    assert (pin.line, pin.version) == (branch.snapshot.version.line, branch.version)
    branch.delete("id = 10")
    source.delete_branch("b")
    collected(source)
    assert clone.verify().problems == []
    source.release_pin(clone.snapshot.version.table_id)
    assert collected(source.append(rows(1, 1)))


def test_a_clone_of_a_table_that_refers_to_other_places(tmp_path: Path) -> None:
    """What lies outside the source is named as it is there. spec: CPY-8"""
    home, outside = referring_pair(tmp_path)
    table = lake.open(str(home), allow_external=str(outside))
    clone = table.clone(tmp_path / "c")
    assert everything(clone) == everything(table)
    assert set(clone.inspect.roots()["uri"].to_pylist()) == {home.as_uri(), outside.as_uri()}
    assert clone.inspect.sources().num_rows == 1
    assert list_pins(LocalStore(outside)) == []
    with pytest.raises(ExternalNotAllowedError):
        lake.open(str(tmp_path / "c"), allow_external=str(home)).to_arrow()


def test_places_and_versions_that_are_refused(tmp_path: Path) -> None:
    """Nothing is left behind. spec: CPY-7"""
    source = lively(str(tmp_path / "s"))
    before = files(tmp_path / "s")
    for place in ("s", "t"):
        lake.create(str(tmp_path / "t"), SCHEMA) if place == "t" else None
        with pytest.raises(AlreadyExistsError, match="there is a table"):
            source.clone(tmp_path / place)
    for wrong, error in (
        (99, NotFoundError),
        ("nope", NotFoundError),
        (3, NotFoundError),
        (0, InvalidInputError),
    ):
        with pytest.raises(error):
            source.clone(tmp_path / "c", wrong)
    with source.transaction() as tx, pytest.raises(UnsupportedError, match="transaction"):
        tx.clone(tmp_path / "c")
    assert files(tmp_path / "s") == before
    assert not (tmp_path / "c").exists()


# --- pins -------------------------------------------------------------------------------------------------------


def test_what_is_pinned_is_not_collected(tmp_path: Path) -> None:
    """Version, manifests, files, index shards, key runs. spec: CPY-9, CPY-10, IDN-20"""
    source = lively(str(tmp_path / "s"))
    at_clone = source.version
    clone = source.clone(tmp_path / "c")
    shared = everything(clone)
    source.overwrite(named(500, 8))
    source.drop_index(source.inspect.indexes()["name"].to_pylist()[0])
    collected(source)
    clone = lake.open(clone.uri, allow_external=source.uri)
    assert everything(clone) == shared
    assert clone.verify().problems == []
    assert source.checkout(at_clone).count() == shared.num_rows
    assert clone.get(14)["name"] == "w"
    with pytest.raises(ExpiredError):
        source.clone(tmp_path / "d", at_clone)

    source.release_pin(clone.snapshot.version.table_id)
    assert source.inspect.pins().num_rows == 0
    with pytest.raises(NotFoundError, match="there are none"):
        source.release_pin(clone.snapshot.version.table_id)
    gone = collected(source)
    assert any(path.startswith("data/") for path in gone)
    assert any(path.startswith("_lake/indexes/") for path in gone)
    with pytest.raises(ExpiredError):
        source.checkout(at_clone)
    assert source.verify().problems == []
    assert lake.open(clone.uri, allow_external=source.uri).verify().problems != []


def test_compaction_makes_a_clone_independent(tmp_path: Path) -> None:
    """Files of the source are copied as they are rewritten, and it can then be removed."""
    source = lake.create(str(tmp_path / "s"), SCHEMA).append(rows(0)).append(rows(10))
    clone = source.clone(tmp_path / "c")
    shared = everything(clone)
    clone.compact()
    assert {path.startswith("@") for path in clone.inspect.files()["path"].to_pylist()} == {False}
    assert everything(clone) == shared
    source.release_pin(clone.snapshot.version.table_id)
    collected(clone)
    shutil.rmtree(tmp_path / "s")
    assert everything(lake.open(clone.uri)) == shared


def test_collection_in_a_clone_touches_nothing_outside(tmp_path: Path) -> None:
    """spec: STO-29"""
    source = lively(str(tmp_path / "s"))
    clone = source.clone(tmp_path / "c")
    before = files(tmp_path / "s")
    clone.append(named(100, 4)).delete("id = 101")
    clone.overwrite(named(100, 2))
    assert all(not path.startswith("@") for path in collected(clone))
    assert files(tmp_path / "s") == before
    assert clone.verify().problems == []


def test_a_clone_of_a_clone_pins_both(tmp_path: Path) -> None:
    """So that the one in between may go. spec: CPY-9"""
    source = lively(str(tmp_path / "s"))
    middle = source.clone(tmp_path / "m").append(named(100, 2))
    last = middle.clone(tmp_path / "l")
    shared = everything(last)
    assert last.inspect.sources()["pinned"].to_pylist() == [True, True]
    assert last.snapshot.version.next_row_id == 2 * LINE_IDS
    source.release_pin(middle.snapshot.version.table_id)
    source.overwrite(named(500, 1))
    middle.overwrite(named(500, 1))
    collected(source)
    collected(middle)
    allowed = [source.uri, middle.uri]
    last = lake.open(last.uri, allow_external=allowed)
    assert everything(last) == shared
    assert last.verify().problems == []
    with pytest.raises(ExternalNotAllowedError):
        lake.open(middle.uri).clone(tmp_path / "x")
    assert len(list_pins(LocalStore(tmp_path / "m"))) == 1

    with pytest.warns(UserWarning, match="not pinned"):
        late = lake.open(middle.uri, allow_external=allowed).clone(tmp_path / "late")
    assert late.inspect.sources()["pinned"].to_pylist() == [True, False]


def test_a_backup_of_a_clone_stands_alone(tmp_path: Path) -> None:
    """spec: CPY-3"""
    source = lively(str(tmp_path / "s"))
    clone = source.clone(tmp_path / "c").append(named(100, 2))
    wanted = everything(clone)
    clone.backup(tmp_path / "b")
    shutil.rmtree(tmp_path / "s")
    restored = lake.restore_backup(str(tmp_path / "b"), str(tmp_path / "r"))
    assert everything(restored) == wanted
    assert restored.inspect.sources().num_rows == 0
    assert restored.verify().problems == []


def read_only(_number: int, method: str, _path: str) -> Fault | None:
    return Fault.PERMISSION_DENIED if method in ("create", "put", "delete", "open_writer") else None


def test_a_source_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """spec: CPY-9, IDN-20"""
    table = lively(str(tmp_path / "s"))
    table.create_branch("b")
    table.delete_branch("b")
    before = files(tmp_path / "s")
    source = lake.open(table.uri, store=FaultyStore(LocalStore(tmp_path / "s"), read_only))
    with pytest.warns(UserWarning, match="not pinned"):
        clone = source.clone(tmp_path / "c")
    assert clone.inspect.sources()["pinned"].to_pylist() == [False]
    assert clone.snapshot.version.next_row_id == 2 * LINE_IDS
    assert everything(clone) == everything(table)
    assert files(tmp_path / "s") == before
    with pytest.warns(UserWarning, match="not pinned"):
        further = clone.clone(tmp_path / "d")
    assert further.inspect.sources()["pinned"].to_pylist() == [True, False]


def test_a_source_that_is_published_over_http(
    range_server: Callable[..., RangeServer], tmp_path: Path
) -> None:
    """It can neither be written to nor listed. spec: CPY-7, CPY-9"""
    server = range_server()
    place = server.uri("lake/t")
    table = lake.create(place, SCHEMA, storage_options=server.storage_options).append(rows(0))
    published = server.storage_options["endpoint"] + place.removeprefix("s3:/")
    with pytest.warns(UserWarning, match="not pinned"):
        clone = lake.open(published).clone(tmp_path / "c")
    assert everything(clone) == everything(table)
    opened = lake.open(str(tmp_path / "c"), allow_external=published).append(rows(10))
    assert opened.count() == 12
    assert opened.verify().problems == []


def test_what_is_stored_of_it_is_checked(tmp_path: Path) -> None:
    """spec: CPY-8"""
    source = lake.create(str(tmp_path / "s"), SCHEMA).append(rows(0))
    version = source.clone(tmp_path / "c").snapshot.version
    assert decode_version(encode_version(version), "x") == version
    good = version.cloned_from[0]
    for wrong in (
        replace(good, root=7),
        replace(good, line=1 << 23),
        replace(good, version=0),
        replace(good, pinned=1),  # type: ignore[arg-type]
        replace(good, table_id=None),  # type: ignore[arg-type]
    ):
        with pytest.raises(CorruptionError, match="cloned from"):
            decode_version(encode_version(replace(version, cloned_from=(wrong,))), "x")
    for content in (
        b"",
        b"[]",
        b'{"clone": 7, "created_at": 1e300}',
        json.dumps({"created_at": 1 << 90}).encode(),
    ):
        (pin,) = (tmp_path / "s" / PINS).glob("*.pin")
        pin.write_bytes(content)
        (listed,) = source.inspect.pins().to_pylist()
        assert (listed["clone"], listed["created_at"]) == (None, None)
    (tmp_path / "s" / PINS / "notes.txt").write_text("not a pin")
    assert source.inspect.pins().num_rows == 1


def test_object_stores(s3_location: Location, memory_location: Location, tmp_path: Path) -> None:
    """From S3 to S3, from S3 to a disk, and from memory to S3."""
    options = s3_location.storage_options
    source = lively(s3_location.uri, storage_options=options)
    clone = source.clone(f"{s3_location.uri}-clone", storage_options=options)
    assert everything(clone) == everything(source)
    opened = lake.open(clone.uri, storage_options=options, allow_external=source.uri)
    assert everything(opened.append(named(100, 1)).checkout(1)) == everything(source)
    check_same_search(opened, clone.refresh())
    source.clone(tmp_path / "c")
    local = lake.open(str(tmp_path / "c"), allow_external={source.uri: options})
    assert everything(local) == everything(source)
    source.overwrite(named(900, 1))
    collected(source)
    assert local.verify().problems == []
    memory = lake.create(memory_location.uri, SCHEMA).append(rows(0))
    back = memory.clone(f"{s3_location.uri}-2", storage_options=options)
    assert everything(back) == everything(memory)
