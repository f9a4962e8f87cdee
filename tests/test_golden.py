"""Golden tables: our code and the independent reader find in them exactly what went in (tests/golden/README.md)."""

from __future__ import annotations

import ast
import base64
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from independent_reader import RefusedError, read_table, roaring64, unpack, version_path
from pyroaring import BitMap64
from test_types_roundtrip import assert_same

import lake_format as lake
from lake_format.codec import encode_version
from lake_format.errors import LakeError
from lake_format.model import KNOWN_FEATURES
from lake_format.store.local import LocalStore

ROOT = Path(__file__).parent / "golden" / "v0"
NAMES = sorted(path.name for path in ROOT.iterdir() if path.is_dir())


def expected(name: str) -> tuple[pa.Table, dict[str, Any]]:
    """Rows with ``_row_id`` last, and other facts."""
    return pa.ipc.open_file(ROOT / f"{name}.arrow").read_all(), json.loads(
        (ROOT / f"{name}.json").read_text()
    )


def plain(table: pa.Table) -> pa.Table:
    """The table without field metadata, at any depth: its rows and types."""
    from lake_format.schema import without_field_ids

    return pa.table(
        [pa.chunked_array(c.chunks, c.type) for c in table.columns], without_field_ids(table.schema)
    )


def test_every_kind_of_table_is_there() -> None:
    import golden.generate

    assert sorted(golden.generate.TABLES) == NAMES
    catalogue = (ROOT.parent / "README.md").read_text("utf-8")
    assert [name for name in NAMES if f"| `{name}` |" not in catalogue] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_independent_reader_finds_what_went_in(name: str) -> None:
    """spec: TAB-1, TAB-2, TAB-3, TAB-10, MAN-1, MAN-6, RID-2, SCH-4, SCH-5, DEL-1, DEL-2, COM-1, COM-6"""
    rows, facts = expected(name)
    found, description = read_table(ROOT / name, outside=outside())
    assert_same(plain(found), rows)
    assert len(description["fragments"]) == facts.get("fragments", len(description["fragments"]))
    for covered in description["covered"].values():
        assert covered == facts["covered"]


@pytest.mark.parametrize("name", NAMES)
def test_our_code_finds_what_went_in(name: str) -> None:
    """spec: TAB-3, TAB-9, MAN-2, RID-1, SCH-4, SCH-5, SCH-8, DEL-1, DEL-2"""
    rows, facts = expected(name)
    table = lake.open(str(ROOT / name), allow_external={"s3://golden": LocalStore(ROOT)})
    assert_same(table.scan([*table.schema.names, "_row_id"]).read_all(), set_not_null(rows))
    assert_same(table.to_arrow(), rows.drop_columns(["_row_id"]))
    assert table.count() == rows.num_rows == table.count("_row_id >= 0")
    ids = rows.column("_row_id").to_pylist()
    order = sorted(range(len(ids)), key=lambda row: (row * 7919) % 104_729)[:50]
    assert_same(
        table.take([ids[row] for row in order]),
        pa.concat_tables([rows.slice(row, 1) for row in order] or [rows]).drop_columns(["_row_id"]),
    )
    assert len(table.snapshot.fragments) == facts.get("fragments", len(table.snapshot.fragments))


def outside() -> dict[str, Path]:
    """The folders that stand for external roots of golden tables."""
    return {f"s3://golden/{name}": ROOT / name for name in NAMES}


def test_the_independent_reader_stays_inside_unless_told() -> None:
    """spec: STO-28"""
    with pytest.raises(RefusedError, match="nobody allowed"):
        read_table(ROOT / "external-files")


def set_not_null(rows: pa.Table) -> pa.Table:
    """Our scans say that ``_row_id`` is never NULL."""
    return rows.set_column(
        rows.num_columns - 1, pa.field("_row_id", pa.int64(), False), rows.column("_row_id")
    )


@pytest.mark.parametrize("name", ["vector-index", "flat-index", "index-shards"])
def test_nearest_rows_of_the_tables_with_an_index(name: str) -> None:
    """spec: TAB-9, SCH-6"""
    _, facts = expected(name)
    table = lake.open(str(ROOT / name))
    for metric, nearest in facts["nearest"].items():
        true = np.array([distance for _, distance in nearest])
        exact = table.search(facts["query"], k=10, metric=metric, exact=True).to_arrow()
        np.testing.assert_allclose(exact.column("_distance").to_numpy(), true, rtol=1e-5, atol=1e-6)
        assert exact.column("_row_id").to_pylist() == [row_id for row_id, _ in nearest]
        indexed = table.search(facts["query"], k=10, metric=metric, recall=0.99).to_arrow()
        assert len(set(exact.column("_row_id").to_pylist()) & set(indexed.column("_row_id").to_pylist())) >= 9
        assert indexed.column("_distance").to_numpy()[0] == exact.column("_distance").to_numpy()[0]


def test_expired_versions_are_told_apart_from_kept_ones() -> None:
    """spec: VER-6, VER-7"""
    _, facts = expected("expired-versions")
    path = ROOT / "expired-versions"
    table = lake.open(str(path))
    assert table.checkout("kept").count() == read_table(path, facts["kept"])[0].num_rows == 3
    for number in facts["expired"]:
        with pytest.raises(LakeError, match="has expired"):
            lake.open(str(path), version=number)
        with pytest.raises(RefusedError):
            read_table(path, number)


def test_a_clone_and_the_version_its_source_keeps_for_it() -> None:
    """spec: CPY-8, CPY-9, CPY-10"""
    facts = expected("pinned")[1]
    shared, _ = read_table(ROOT / "pinned", facts["pinned"])
    assert shared.num_rows == 302
    assert lake.open(str(ROOT / "pinned"), facts["pinned"]).verify().problems == []
    with pytest.raises(LakeError, match="has expired"):
        lake.open(str(ROOT / "pinned"), facts["pinned"] - 1)

    description, _ = unpack(version_path(ROOT / "clone", 1).read_bytes())
    source, _ = unpack(version_path(ROOT / "pinned", facts["pinned"]).read_bytes())
    ((root, uri),) = description["roots"].items()
    assert uri == "s3://golden/pinned"
    assert description["cloned_from"] == [
        {
            "root": int(root),
            "table_id": source["table_id"],
            "line": 0,
            "version": facts["pinned"],
            "pinned": True,
        }
    ]
    (pin,) = (ROOT / "pinned/_lake/pins").iterdir()
    assert pin.name == f"{0:07d}-{facts['pinned']:020d}-{description['table_id']}.pin"
    assert json.loads(pin.read_text())["clone"] == "s3://golden/clone"
    named = [one["path"] for one in description["manifests"]]
    named += [shard["path"] for entry in description["indexes"] for shard in entry["shards"]]
    named += [run["path"] for run in description["key_index"]["runs"] if "path" in run]
    assert {path.partition("/")[0] for path in named if path} == {f"@{root}"}
    assert len([path for path in named if path]) == 3
    table = lake.open(str(ROOT / "clone"), allow_external={"s3://golden": LocalStore(ROOT)})
    assert table.verify().problems == []
    assert (table.get(7)["name"], table.get(400)["name"]) == (None, "name 400")


def test_older_versions_of_a_golden_table() -> None:
    """spec: COM-1, COM-6, COM-7, COM-8"""
    table = lake.open(str(ROOT / "append"))
    assert [entry["version"] for entry in table.versions()] == [1, 2, 3, 4]
    times = [entry["committed_at"] for entry in table.versions()]
    assert times == sorted(set(times))
    for version, rows in ((1, 0), (2, 5), (3, 8), (4, 15)):
        assert lake.open(str(ROOT / "append"), version=version).count() == rows
        assert read_table(ROOT / "append", version)[0].num_rows == rows


def test_the_independent_reader_is_independent() -> None:
    """It imports nothing of ours, and is short enough to be read in one go."""
    parts = sorted(Path(__file__).parent.glob("independent_*.py"))
    assert len(parts) == 3
    for path in parts:
        source = path.read_text("utf-8")
        modules = {
            alias.name.partition(".")[0]
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in (node.names if isinstance(node, ast.Import) else [ast.alias(node.module or "")])
        }
        allowed = {"numpy", "pyarrow", "vortex", *(part.stem for part in parts)}
        assert modules <= set(sys.stdlib_module_names) | allowed, path.name
        assert len(source.splitlines()) < 300, path.name


def test_every_feature_has_a_golden_table() -> None:
    """What a reader must know is shown by a committed table that needs it. spec: TAB-6"""
    needed = [lake.open(str(ROOT / name)).snapshot.version.required_features for name in NAMES]
    assert KNOWN_FEATURES - frozenset().union(*needed) == frozenset()


def test_a_branch_is_read_beside_main() -> None:
    """spec: BRA-1, BRA-3"""
    place = str(ROOT / "merged-branch")
    found, description = read_table(place, line=1)
    assert description["origin"]["name"] == "work"
    ours = lake.open(place, branch="work")
    assert found["id"].to_pylist() == ours.to_arrow()["id"].to_pylist() == [0, 2, 3, 5, 6, 1, 100]
    assert found["_row_id"].to_pylist() == ours.scan(["_row_id"]).read_all()["_row_id"].to_pylist()


@pytest.mark.parametrize("name", ["append", "stored-manifest", "null-vectors", "moved-rows"])
def test_both_readers_refuse_damaged_metadata(name: str, tmp_path: Path) -> None:
    """A byte inverted in the newest version object, in a manifest, in a vector page. spec: TAB-2, MAN-4"""
    shutil.copytree(ROOT / name, tmp_path / "t")
    for path in sorted((tmp_path / "t").rglob("*")):
        newest = max((tmp_path / "t/_lake/versions").iterdir())
        if not (path == newest or path.suffix == ".arrow"):
            continue
        good = path.read_bytes()
        (tmp_path / "t/_lake/latest").unlink(missing_ok=True)
        for position in range(0, len(good), 97):
            path.write_bytes(good[:position] + bytes([good[position] ^ 0x55]) + good[position + 1 :])
            with pytest.raises(LakeError):
                lake.open(str(tmp_path / "t")).to_arrow()
            with pytest.raises((RefusedError, OSError, ValueError)):
                read_table(tmp_path / "t")
        path.write_bytes(good)


def test_what_the_reader_of_bitmaps_was_checked_against() -> None:
    """The independent reader's roaring decoder against the library that writes them. spec: DEL-1"""
    sets = [
        [],
        [0],
        [5, 2**32 - 1, 2**32, 2**40 + 3],
        range(0, 200_000),
        range(0, 400_000, 7),
        [*range(65_536, 70_000), *range(140_000, 200_000, 3), *range(262_144, 262_150), 2**33],
    ]
    for members in sets:
        for optimised in (False, True):
            bitmap = BitMap64(members)
            if optimised:
                bitmap.run_optimize()
            assert roaring64(bitmap.serialize()).tolist() == list(members)


def test_a_rewritten_golden_version_is_the_same_bytes_of_json() -> None:
    """Our encoder says of a golden version what its writer said: nothing is lost on the way. spec: TAB-3, TAB-4"""
    for name in NAMES:
        table = lake.open(str(ROOT / name))
        stored, _ = unpack(version_path(ROOT / name, table.version).read_bytes())
        again, _ = unpack(encode_version(table.snapshot.version))
        assert again == stored
        for text in stored["schemas"].values():
            assert base64.b64decode(text, validate=True)
