"""Golden tables with keys: found by our code, and by a reader of the key index made from the specification alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from independent_keys import candidates
from key_samples import small_runs
from model.key_hash import key_hash

import lake_format as lake

ROOT = Path(__file__).parent / "golden" / "v0"


def rows_of(name: str) -> list[dict]:
    found: list[dict] = pa.ipc.open_file(ROOT / f"{name}.arrow").read_all().to_pylist()
    return found


def test_the_independent_reader_finds_every_row_that_the_index_answers_for() -> None:
    """spec: KEY-1, KEY-2, KEY-3, KEY-4, KEY-5, KEY-6, KEY-7, IDN-14"""
    unanswered = set(json.loads((ROOT / "key-index.json").read_text())["unanswered"])
    for row in rows_of("key-index"):
        found, stale = candidates(ROOT / "key-index", key_hash([row["region"], row["id"]]))
        if row["_row_id"] not in unanswered:
            assert found == {row["_row_id"]}
        else:
            assert row["_row_id"] in stale or not found
    assert candidates(ROOT / "key-index", key_hash(["region 0", 1])) == ({*()}, stale)


@pytest.mark.parametrize("name", ["keys", "key-index"])
def test_our_code_gets_every_row_and_goes_on_writing(name: str, tmp_path: Path) -> None:
    """spec: KEY-1, KEY-3, CHG-7. With and without index, also of a table that is written on."""
    shutil.copytree(ROOT / name, tmp_path / name)
    table = lake.open(str(tmp_path / name))
    rows = rows_of(name)
    keys = [(row["region"], row["id"]) for row in rows]
    with small_runs():
        assert table.get(keys, [*table.schema.names, "_row_id"]).to_pylist() == rows
        assert table.get(("region 9", 5)) is None
        assert table.verify().ok
        for row in (rows[0], rows[-1]):
            with pytest.raises(lake.DuplicateKeyError):
                table.append([{"region": row["region"], "id": row["id"]}])
        table.append([{"region": "new", "id": 1}])
        table.compact()
    index = table.snapshot.version.key_index
    assert index is not None
    assert len(index.runs) == 1
    assert table.verify().ok
    assert len(table.get([*keys, ("new", 1)])) == len(keys) + 1
