"""A check of all stored bytes finds what was damaged, says where, and finds nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from stores.faulty import Fault, FaultyStore
from test_upkeep_compact import fresh, make, reopened

import lake_format as lake
from lake_format.codec import decode_version, encode_version
from lake_format.errors import StorageError
from lake_format.manifest import FragmentTable, decode_manifest, inline_manifest
from lake_format.model import Fragment, Version
from lake_format.paths import LATEST, version_path
from lake_format.puffin import decode_footer
from lake_format.row_ids import encode_row_ids
from lake_format.store import Store, forget_memory, open_store
from lake_format.store.metered import MeteredStore


@pytest.fixture(scope="module")
def objects() -> dict[str, bytes]:
    """A table with everything: deletions, a moved row, an index with stale rows, two formats of files."""
    store = open_store(f"memory://verify-{uuid4().hex}")
    table = make(store, 300, 200, 30)
    table.create_index("v", lists=3)
    table.delete("id % 10 = 3")
    table.update({"name": "other"}, where="id = 7")
    table.update({"v": [1.5] * 4}, where="id = 8")
    return {info.path: store.get(info.path) for info in store.list("")}


@pytest.fixture
def store(objects: dict[str, bytes]) -> Iterator[Store]:
    made = fresh(objects)
    yield made
    forget_memory(made.uri)


def change(store: Store, path: str, data: bytes) -> None:
    store.delete(path)
    store.create(path, data)


def test_a_sound_table_has_no_problems(store: Store) -> None:
    """spec: UPK-8"""
    table = reopened(store)
    seen: list[tuple[str, int, int]] = []
    report = table.verify(progress=lambda *step: seen.append(step))
    assert report.ok
    assert report.problems == []
    assert report.version == table.version
    assert report.fragments == len(table.inspect.fragments()) == len(seen) >= 3
    assert report.files == len(table.inspect.files())
    assert report.indexes == 1
    for number in range(1, table.version):
        assert table.checkout(number).verify().ok
    assert table.refresh().compact().commits == 1
    assert table.verify().ok
    assert report.to_dict()["problems"] == []


def test_metadata_alone_reads_no_files(store: Store) -> None:
    metered = MeteredStore(store)
    table = reopened(metered)
    before = metered.usage()
    assert table.verify(data=False).ok
    assert metered.usage().since(before).total_requests == 0  # its manifests are inline


def named(table: lake.Table) -> list[str]:
    indexes = [shard.path for entry in table.snapshot.version.indexes for shard in entry.shards]
    return [*table.inspect.files()["path"].to_pylist(), *indexes]


def place_of_values(data: bytes) -> int:
    """Where a vector of the table lies in a file of vectors; the middle of any other file."""
    places = (data.find(np.full(4, value, "<f4").tobytes()) for value in (20.0, 310.0, 505.0, 7.0, 1.5))
    return next((place for place in places if place >= 0), len(data) // 2)


@pytest.mark.parametrize("how", ["missing", "truncated", "longer", "altered", "footer"])
def test_every_damaged_file_is_named(store: Store, how: str) -> None:
    """spec: UPK-8"""
    table = reopened(store)
    for path in named(table):
        data = store.get(path)
        if how == "missing":
            store.delete(path)
        elif how == "truncated":
            change(store, path, data[:-1])
        elif how == "longer":
            change(store, path, data + b"\0")
        else:
            at = len(data) - 6 if how == "footer" else place_of_values(data)
            change(store, path, data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :])
        report = reopened(store).verify()
        assert not report.ok
        assert {problem.path for problem in report.problems} == {path}, report.problems
        assert all(problem.what for problem in report.problems)
        if how != "missing":
            store.delete(path)
        store.create(path, data)
    assert reopened(store).verify().ok


def test_a_store_that_fails_is_no_finding(store: Store) -> None:
    """spec: UPK-8"""
    table = reopened(store)
    victim = named(table)[0]

    def plan(_number: int, _method: str, path: str) -> Fault | None:
        return Fault.PERMISSION_DENIED if path == victim else None

    with pytest.raises(StorageError):
        reopened(FaultyStore(store, plan)).verify()


def rewritten(store: Store, edit: Callable[[Version], Version]) -> lake.Table:
    """The table with its newest version object altered, checksums right again."""
    number = reopened(store).version
    path = version_path(number)
    version = edit(decode_version(store.get(path), path))
    change(store, path, encode_version(version))
    store.delete(LATEST)
    return reopened(store)


def with_fragments(edit: Callable[[list[Fragment]], list[Fragment]]) -> Callable[[Version], Version]:
    def edited(version: Version) -> Version:
        found = []
        for reference in version.manifests:
            table = decode_manifest(reference.body or b"", reference)
            found += [
                one for one in FragmentTable([table]).fragments() if one.fragment_id not in reference.removed
            ]
        return replace(version, manifests=(inline_manifest(edit(found)),))

    return edited


def _first(**changes: Any) -> Callable[[Version], Version]:
    def edit(fragments: list[Fragment]) -> list[Fragment]:
        ordered = sorted(fragments, key=lambda one: one.fragment_id)
        return [replace(ordered[0], **changes), *ordered[1:]]

    return with_fragments(edit)


def _bounds(version: Version) -> Version:
    def edit(fragments: list[Fragment]) -> list[Fragment]:
        first = min(fragments, key=lambda one: one.fragment_id)
        narrowed = tuple(
            replace(one, lower=one.upper) if one.field_id == 1 else one for one in first.statistics
        )
        return [replace(one, statistics=narrowed) if one is first else one for one in fragments]

    return with_fragments(edit)(version)


def _schemaless(version: Version) -> Version:
    def edit(fragments: list[Fragment]) -> list[Fragment]:
        first = fragments[0]
        groups = tuple(replace(group, schema_id=7) for group in first.groups)
        return [replace(first, groups=groups), *fragments[1:]]

    return with_fragments(edit)(version)


def _reindexed(version: Version, **changes: Any) -> Version:
    return replace(version, indexes=(replace(version.indexes[0], **changes),))


def _recovered(version: Version) -> Version:
    shard = version.indexes[0].shards[0]
    again = replace(shard, row_ids=encode_row_ids(shard.decoded_row_ids()))
    return _reindexed(version, shards=(shard, again))


_LIES: dict[str, tuple[Callable[[Version], Version], str]] = {
    "rows": (lambda version: replace(version, row_count=version.row_count + 1), "counts 478 rows"),
    "row ids": (lambda version: replace(version, next_row_id=100), "never given out"),
    "fragment ids": (lambda version: replace(version, next_fragment_id=1), "never given out"),
    "field ids": (lambda version: replace(version, next_field_id=2), "field 4 has an id"),
    "twice live": (_first(first_row_id=300), "row id is live in two"),
    "deletions": (_first(deleted_count=1), "does not fit its rows"),
    "schema": (_schemaless, "schema that does not describe it"),
    "bounds": (_bounds, "lower bound above a value"),
    "index field": (lambda version: _reindexed(version, field_id=99), "which the table lacks"),
    "coverage": (_recovered, "more than once|cover the same row"),
}


@pytest.mark.parametrize("lie", sorted(_LIES))
def test_metadata_that_contradicts_itself_or_the_data(store: Store, lie: str) -> None:
    """spec: UPK-8, TAB-10, IDN-6"""
    edit, said = _LIES[lie]
    report = rewritten(store, edit).verify()
    assert [one for one in report.problems if re.search(said, one.what)], report.problems


def test_a_damaged_manifest_is_named_and_the_rest_checked(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """spec: UPK-8"""
    monkeypatch.setattr("lake_format.manifest_set.INLINE_BYTES", 1)
    table = reopened(store)
    table.delete("id = 20")
    monkeypatch.undo()
    path = next(one.path for one in table.snapshot.version.manifests if one.path)
    data = store.get(path)
    change(store, path, data[:100] + b"?" + data[101:])
    report = reopened(store).verify()
    assert path in {problem.path for problem in report.problems}


@pytest.mark.parametrize("where", ["local", "memory"])
def test_every_part_of_an_index_is_checked(where: str, tmp_path: Path) -> None:
    """Lists everywhere; the refinement where the file is mapped. spec: UPK-8, IDX-1"""
    uri = str(tmp_path / "t") if where == "local" else f"memory://verify-{uuid4().hex}"
    store = open_store(uri)
    table = make(store, 1500)
    table.create_index("v", lists=4)
    table.delete("id % 5 = 0")
    assert table.verify().ok
    shard = table.snapshot.version.indexes[0].shards[0]
    data = store.get(shard.path)
    metadata = decode_footer(data[-shard.head_length :], size=len(data), where=shard.path)
    kinds = ["scan", "model", "head", *(["refine"] if where == "local" else [])]
    for blob in metadata.blobs:
        if not any(kind in blob.type for kind in kinds):
            continue
        for at in (blob.offset + 20, blob.offset + 40):
            change(store, shard.path, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            assert {one.path for one in reopened(store).verify().problems} == {shard.path}, (blob.type, at)
    change(store, shard.path, data)
    assert reopened(store).verify().ok


@pytest.mark.parametrize("kind", [pa.string(), pa.binary()])
def test_values_longer_than_a_bound_are_no_problem_as_partitions(kind: pa.DataType) -> None:
    """A partition's value is whole where statistics are cut; a wrong one is still found. spec: UPK-8, PAR-4, PAR-6"""
    store = open_store(f"memory://verify-{uuid4().hex}")
    schema = pa.schema([("id", pa.int64()), ("k", kind)])
    table = lake.create("unused", schema, partition_by=["k"], store=store)
    long = ["a" * 70, "a" * 63 + "bcdef", "b" * 64 + "x", "ü" * 40, "short"]
    keys = pa.array(long).cast(kind)
    table.append(pa.table({"id": range(len(long)), "k": keys}))
    assert table.verify().ok
    assert [table.count(pc.field("k") == key) for key in keys] == [1] * len(long)

    def wrong(fragments: list[Fragment]) -> list[Fragment]:
        first, *others = fragments
        assert first.partition is not None
        other = first.partition.values[0][:-1] + b"!"
        return [replace(first, partition=replace(first.partition, values=(other,))), *others]

    problems = rewritten(store, with_fragments(wrong)).verify().problems
    assert any("bound" in problem.what for problem in problems)
    forget_memory(store.uri)
