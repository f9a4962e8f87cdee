"""Files outside the table's root: named by number, read only with consent, never written (STO-27 to STO-29)."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from external_samples import SCHEMA, files, refer, referring_pair, rows
from hypothesis import given
from hypothesis import strategies as st
from samples import fragment
from stores.faulty import Fault, FaultyStore

import lake_format as lake
from lake_format.codec import decode_version, encode_version
from lake_format.errors import CorruptionError, InvalidInputError, LakeError, NotFoundError, StorageError
from lake_format.manifest import FragmentTable, decode_manifest, inline_manifest
from lake_format.roots import numbered_root
from lake_format.store import open_store
from lake_format.store.consent import Consent, ExternalNotAllowedError
from lake_format.store.local import LocalStore
from lake_format.store.metered import MeteredStore
from lake_format.store.paths import check_object_path, check_path, external_path, split_external
from lake_format.store.places import Place
from lake_format.store.table_store import TableStore


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return referring_pair(tmp_path)


# --- paths and places -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["@1/data/a.parquet", "@4294967295/Straße %20 ü/=x", "@7/a"])
def test_paths_in_external_roots(path: str) -> None:
    """spec: STO-9, TAB-7"""
    assert check_object_path(path) == path
    number, inner = split_external(path)
    assert number is not None
    assert external_path(number, inner) == path
    with pytest.raises(CorruptionError):
        check_path(path)


@pytest.mark.parametrize(
    "path",
    [
        "@0/a",
        "@01/a",
        "@4294967296/a",
        "@/a",
        "@1",
        "@1/",
        "@1//a",
        "@1//etc/passwd",
        "@1/../a",
        "@1/a/../../b",
        "@1/.hidden",
        "@1/a\\b",
        "@1/a\nb",
        "@-1/a",
        "@x/a",
        "@1/" + "a" * 201,
        "@1/" + "a/" * 500 + "b",
        "@1/\ud800",
        "@\u0661/a",
    ],
)
def test_other_paths_are_corruption(path: str) -> None:
    """spec: STO-9, STO-8"""
    with pytest.raises(CorruptionError):
        check_object_path(path)


@given(st.text(max_size=30))
def test_no_path_of_the_table_is_one_in_an_external_root(text: str) -> None:
    """spec: STO-9"""
    try:
        check_path(text)
    except CorruptionError:
        return
    assert split_external(text)[0] is None


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("/data/x", "file:///data/x"),
        ("file:///data/a%20b/", "file:///data/a%20b"),
        ("file://localhost/data//x/../y", "file:///data/y"),
        ("s3a://bucket/a/b/", "s3://bucket/a/b"),
        ("S3://bucket", "s3://bucket"),
        ("gcs://b/x y", "gs://b/x y"),
        ("abfs://c@acc.dfs.core.windows.net/t", "abfss://c@acc.dfs.core.windows.net/t"),
        ("http://host:8080/x", "http://host:8080/x"),
        ("memory://m/x", "memory://m/x"),
    ],
)
def test_a_place_has_one_spelling(written: str, stored: str) -> None:
    """spec: STO-27"""
    assert Place.of(written).uri == stored
    assert Place.stored(stored) == Place.of(written)
    if written != stored:
        with pytest.raises(CorruptionError):
            Place.stored(written)


@pytest.mark.parametrize(
    "uri",
    [
        "ftp://host/x",
        "s3://user:secret@bucket/x",
        "https://user:secret@host/x",
        "s3://bucket/a/../b",
        "s3://bucket/a?versionId=1",
        "s3:///x",
        "file://server/share",
        "s3://bu cket/x",
        "http://host/a\nb",
    ],
)
def test_other_uris_are_refused(uri: str) -> None:
    """spec: STO-27, STO-25"""
    with pytest.raises(InvalidInputError) as caught:
        Place.of(uri)
    assert "secret" not in str(caught.value)
    with pytest.raises(CorruptionError) as corrupt:
        Place.stored(uri)
    assert "secret" not in str(corrupt.value)


def test_a_prefix_covers_whole_parts_of_the_same_bucket_only() -> None:
    """spec: STO-28"""
    prefix = Place.of("s3://b/lake")
    assert prefix.covers(Place.of("s3://b/lake"))
    assert prefix.covers(Place.of("s3a://b/lake/t/x"))
    for other in (
        "s3://b/lake2",
        "s3://b",
        "s3://b2/lake/t",
        "gs://b/lake/t",
        "/b/lake/t",
        "http://b/lake/t",
    ):
        assert not prefix.covers(Place.of(other)), other
    assert not Place.of("/data/lake").covers(Place.of("/data/lake/../other"))


def test_root_numbers_follow_from_the_place() -> None:
    """spec: TAB-11"""
    assert numbered_root("s3a://b/t/", {}) == (2_471_286_278, "s3://b/t")
    assert numbered_root("s3://b/t", {5: "s3://b/x"})[0] == 2_471_286_278
    assert numbered_root("s3://b/t", {2_471_286_278: "s3://b/x"})[0] == 2_471_286_279


# --- reading ----------------------------------------------------------------------------------------------------


def test_rows_in_an_external_root_are_read_with_consent(pair: tuple[Path, Path]) -> None:
    """spec: TAB-11, STO-28"""
    table = lake.open(str(pair[0]), allow_external=[str(pair[1])])
    assert table.to_arrow() == pa.concat_tables([rows(0), rows(100)])
    assert table.take([8, 1]).column("id").to_pylist() == [102, 1]
    assert table.search([408.0, 409, 410, 411], k=1).to_pylist()[0]["id"] == 102
    assert "external-files" in table.snapshot.version.required_features
    assert table.inspect.roots().to_pylist()[0]["uri"] == f"file://{pair[1]}"
    assert table.verify().problems == []


def test_without_consent_only_what_needs_no_external_file_is_read(pair: tuple[Path, Path]) -> None:
    """spec: STO-28"""
    for allowed in (None, [], [f"{pair[1]}2"], ["s3://bucket/source"], [str(pair[1] / "data" / "deeper")]):
        table = lake.open(str(pair[0]), allow_external=allowed)
        assert table.count() == 12
        assert table.take([0]).column("id").to_pylist() == [0]
        with pytest.raises(ExternalNotAllowedError, match="allow_external=") as caught:
            table.to_arrow()
        assert f"file://{pair[1]}" in str(caught.value)
        assert caught.value.code == "external_not_allowed"


def test_any_prefix_that_covers_the_root_is_consent(pair: tuple[Path, Path]) -> None:
    """spec: STO-28"""
    source = str(pair[1])
    for allowed in (source, [source], [str(pair[1].parent)], {source: None}, {f"file://{source}": {}}, ["/"]):
        assert lake.open(str(pair[0]), allow_external=allowed).to_arrow().num_rows == 12


@pytest.mark.parametrize("allowed", [{"/x": 7}, ["ftp://x/y"], [""], ["s3://k:s@b/x"]])
def test_a_bad_prefix_is_refused(pair: tuple[Path, Path], allowed: Any) -> None:
    with pytest.raises(InvalidInputError):
        lake.open(str(pair[0]), allow_external=allowed)


def test_an_older_version_and_a_restored_one_know_their_roots(pair: tuple[Path, Path]) -> None:
    """spec: TAB-11"""
    table = lake.open(str(pair[0]), allow_external=str(pair[1]))
    table.delete("id >= 100")
    assert table.count() == 6
    table.append(rows(50))
    table.restore(3)
    assert table.to_arrow() == pa.concat_tables([rows(0), rows(100)])
    older = lake.open(str(pair[0]), 3, allow_external=str(pair[1]))
    assert older.to_arrow().num_rows == 12


def test_ranges_in_several_roots_are_one_round(pair: tuple[Path, Path]) -> None:
    """spec: STO-16"""
    home, outside = (MeteredStore(LocalStore(root)) for root in pair)
    blind_home, blind_outside = (FaultyStore(store) for store in (home, outside))  # no memory maps
    table = lake.open("home", store=blind_home, allow_external={str(pair[1]): blind_outside})
    table.take([0])
    home.reset(), outside.reset()
    assert table.take([1, 7], ["v"]).num_rows == 2
    assert home.usage().rounds <= 1
    assert outside.usage().rounds <= 1
    assert outside.usage().bytes_read > 0


def test_an_index_over_external_rows(pair: tuple[Path, Path]) -> None:
    table = lake.open(str(pair[0]), allow_external=str(pair[1]))
    table.create_index("v")
    assert table.search([408.0, 409, 410, 411], k=1).to_pylist()[0]["id"] == 102


# --- nothing is written there -----------------------------------------------------------------------------------


def test_no_operation_changes_an_external_root(pair: tuple[Path, Path]) -> None:
    """spec: STO-29"""
    before = files(pair[1])
    table = lake.open(str(pair[0]), allow_external=str(pair[1]))
    table.update({"id": lake.sql("id + 1000")}, where="id = 101")
    table.delete("id = 102")
    table.create_index("v")
    table.compact()
    assert all(not group["path"].startswith("@") for group in table.inspect.files().to_pylist())
    table.expire_versions()
    table.collect_garbage(dry_run=False)
    assert sorted(table.to_arrow().column("id").to_pylist()) == [*range(6), 100, 103, 104, 105, 1101]
    assert files(pair[1]) == before


def test_the_store_refuses_to_change_external_objects(tmp_path: Path) -> None:
    """spec: STO-29"""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a").write_bytes(b"x")
    store = TableStore(LocalStore(tmp_path / "home"), Consent.of([str(tmp_path)]))
    store.learn({9: f"file://{tmp_path}/outside"})
    assert store.get("@9/a") == b"x"
    for change in (
        lambda: store.create("@9/b", b""),
        lambda: store.put("@9/a", b""),
        lambda: store.delete("@9/a"),
        lambda: store.open_writer("@9/b"),
        lambda: list(store.list("@9/")),
    ):
        with pytest.raises(InvalidInputError, match="outside the table's root"):
            change()
    assert (tmp_path / "outside" / "a").read_bytes() == b"x"
    assert not (tmp_path / "outside" / "b").exists()


# --- hostile and damaged ----------------------------------------------------------------------------------------


def test_a_link_does_not_lead_out_of_the_prefix(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """Neither a link inside the root, nor a root that is a link itself. spec: STO-28, STO-7"""
    secret = tmp_path / "secret"
    pair[1].rename(secret)
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    os.symlink(secret, pair[1])
    with pytest.raises(LakeError):
        lake.open(str(pair[0]), allow_external={str(tmp_path / "allowed"): None}).to_arrow()
    store = TableStore(LocalStore(tmp_path / "home"), Consent.of([str(allowed)]))
    os.symlink(secret, allowed / "root")
    store.learn({3: f"file://{allowed}/root"})
    with pytest.raises(LakeError):
        store.get("@3/_lake/latest")


@pytest.mark.parametrize(
    ("roots", "what"),
    [
        ({"0": "s3://b/x"}, "@0"),
        ({"01": "s3://b/x"}, "external root"),
        ({"x": "s3://b/x"}, "external root"),
        ({str(1 << 32): "s3://b/x"}, "@4294967296"),
        ({"1": "s3://b/x/"}, "written as"),
        ({"1": "s3://b/../x"}, "malformed"),
        ({"1": "relative/path"}, "written as"),
        ({"1": 7}, "a text"),
        ([], "an object"),
    ],
)
def test_malformed_roots_are_corruption(roots: Any, what: str, tmp_path: Path) -> None:
    """spec: TAB-11, STO-27"""
    version = lake.create(str(tmp_path), SCHEMA).snapshot.version
    features = frozenset({"external-files"})
    good = encode_version(replace(version, required_features=features, extra={"roots": {"7": "s3://b/x"}}))
    assert decode_version(good, "x").roots == {7: "s3://b/x"}
    with pytest.raises(CorruptionError, match=what):
        decode_version(
            encode_version(replace(version, required_features=features, extra={"roots": roots})), "x"
        )


def test_a_version_names_its_roots_and_the_feature(tmp_path: Path) -> None:
    """spec: TAB-11"""
    version = lake.create(str(tmp_path), SCHEMA).snapshot.version
    with pytest.raises(CorruptionError, match="external-files"):
        decode_version(encode_version(replace(version, roots={7: "s3://b/x"})), "x")
    reference = replace(inline_manifest([fragment(0)]), path="@7/_lake/manifests/a.arrow", body=None)
    with pytest.raises(CorruptionError, match="@7/"):
        decode_version(encode_version(replace(version, manifests=(reference,))), "x")


def test_paths_of_an_external_manifest_are_relative_to_its_root() -> None:
    """spec: MAN-8"""
    own = fragment(0)
    outer = replace(own, fragment_id=1, groups=(replace(own.groups[0], path="@9/x/ä b.parquet"),))
    reference = inline_manifest([own, outer])
    assert reference.body is not None
    placed = replace(reference, path="@7/m.arrow", body=None)
    found = FragmentTable([decode_manifest(reference.body, placed)]).fragments()
    assert [group.path for group in found[0].groups] == [f"@7/{group.path}" for group in own.groups]
    assert found[1] == outer


def test_a_number_means_one_place(tmp_path: Path) -> None:
    """spec: TAB-11"""
    store = TableStore(LocalStore(tmp_path))
    store.learn({3: "s3://b/x"})
    store.learn({3: "s3://b/x", 4: "s3://b/y"})
    with pytest.raises(CorruptionError, match="external root 3"):
        store.learn({3: "s3://b/z"})
    with pytest.raises(CorruptionError, match="external root 5"):
        store.get("@5/a")


def test_a_missing_root_and_a_changed_file_are_named(pair: tuple[Path, Path]) -> None:
    """spec: FIL-8, UPK-8"""
    table = lake.open(str(pair[0]), allow_external=str(pair[1]))
    changed = next((pair[1] / "data").glob("*.parquet"))
    changed.write_bytes(changed.read_bytes() + b"more")
    with pytest.raises(CorruptionError, match=rf"file://{changed}.* bytes, not the"):
        table.to_arrow()
    (problem,) = table.verify().problems
    assert str(changed) in problem.path + problem.what
    pair[1].rename(pair[1].with_name("gone"))
    with pytest.raises(NotFoundError, match=str(pair[1])):
        lake.open(str(pair[0]), allow_external=str(pair[1])).to_arrow()


def test_faults_of_an_external_store_reach_the_reader_as_errors(pair: tuple[Path, Path]) -> None:
    calls = FaultyStore(LocalStore(pair[1]))
    lake.open(str(pair[0]), allow_external={str(pair[1]): calls}).to_arrow()
    assert calls.calls
    for number in range(len(calls.calls)):
        failing = FaultyStore(LocalStore(pair[1]), {number: Fault.PERMISSION_DENIED})
        table = lake.open(str(pair[0]), allow_external={str(pair[1]): failing})
        with pytest.raises(StorageError):
            table.to_arrow()
        assert table.to_arrow().num_rows == 12


def test_options_of_the_table_serve_the_same_account_only() -> None:
    """spec: STO-28"""
    given_options = {"access_key_id": "k", "secret_access_key": "s"}

    def options(prefix: str, home: str) -> object:
        return Consent.of([prefix], home, given_options).prefixes[0].options

    assert options("s3://other/x", "s3://b/t") == given_options
    assert options("gs://other/x", "s3://b/t") is None
    assert options("http://other/x", "http://b/t") is None
    assert options("/other", "/t") is None
    one, two = "abfss://c@one.dfs.core.windows.net/t", "abfss://c@two.dfs.core.windows.net/t"
    assert options(two, one) is None
    assert options(one.replace("c@", "d@"), one) == given_options
    assert Consent.of({"s3://x": {"region": "r"}}, "s3://b", given_options).prefixes[0].options == {
        "region": "r"
    }


def test_object_stores_hold_external_roots(tmp_path: Path) -> None:
    source = lake.create("memory://external-source/s", SCHEMA).append(rows(100))
    table = refer(lake.create(str(tmp_path / "t"), SCHEMA), source, "memory://external-source/s")
    with pytest.raises(ExternalNotAllowedError):
        table.to_arrow()
    opened = lake.open(str(tmp_path / "t"), allow_external="memory://external-source")
    assert opened.to_arrow() == rows(100)
    assert open_store("memory://external-source").get("s/_lake/latest")
