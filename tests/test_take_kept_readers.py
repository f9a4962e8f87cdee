"""Takes keep readers of fragments of the snapshot asked for last: few, and never across versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import lake_format as lake
from lake_format.errors import NotFoundError


def made(root: Path, fragments: int, rows: int = 5) -> lake.Table:
    schema = pa.schema([("id", pa.int64()), ("name", pa.string()), ("vec", pa.list_(pa.float32(), 2))])
    table = lake.create(str(root / "t"), schema)
    for number in range(fragments):
        ids = np.arange(number * rows, (number + 1) * rows)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(ids, 2), pa.float32()), 2)
        names = [f"n{one}" for one in ids]
        table = table.append(pa.table({"id": ids, "name": names, "vec": vectors}, schema=schema))
    return table


def kept(table: lake.Table) -> dict[int, Any]:
    return table.engine._files._fragments


def test_readers_are_kept_up_to_a_number_whatever_is_taken(tmp_path: Path) -> None:
    table = made(tmp_path, 70, rows=2)
    ids = np.random.default_rng(1).permutation(140).tolist()
    for _ in range(3):
        found = table.take(ids, columns=["name", "id", "vec"])
        assert found.column("id").to_pylist() == ids
        assert found.column("name").to_pylist() == [f"n{one}" for one in ids]
        assert found.column("vec").to_pylist() == [[one, one] for one in ids]
    assert len(kept(table)) == 64


def test_versions_taken_from_in_turn_each_give_their_own_rows(tmp_path: Path) -> None:
    first = made(tmp_path, 2)
    first = lake.open(str(tmp_path / "t"), version=first.version)
    table = lake.open(str(tmp_path / "t"))
    assert first.take([7, 1]).column("name").to_pylist() == ["n7", "n1"]
    table.rename_column("name", "title")
    table.delete("id = 1")
    table.update({"title": "new"}, where="id = 7")
    for _ in range(3):
        assert first.take([7, 1], columns=["name"]).column("name").to_pylist() == ["n7", "n1"]
        assert table.take([7, 0], columns=["title", "_row_id"]).to_pylist() == [
            {"title": "new", "_row_id": 7},
            {"title": "n0", "_row_id": 0},
        ]
        with pytest.raises(NotFoundError):
            table.take([1], columns=["title"])


def test_a_reader_that_grows_with_its_rows_is_not_kept(tmp_path: Path) -> None:
    table = made(tmp_path, 2)
    table.update({"name": "new"}, where="id = 7")
    assert table.take([7, 1, 8], columns=["name"]).column("name").to_pylist() == ["new", "n1", "n8"]
    table.delete("id = 8")
    table.compact()
    for _ in range(2):
        assert table.take([7, 1, 9], columns=["name"]).column("name").to_pylist() == ["new", "n1", "n9"]
        assert all(
            reader.fragment.first_row_id is not None and not reader.fragment.patches
            for reader in kept(table).values()
        )
    moved = [
        table.snapshot.fragments.fragment(owner).first_row_id
        for owner in range(len(table.snapshot.fragments))
    ]
    assert None in moved, "no fragment of this test has row ids in no order"
