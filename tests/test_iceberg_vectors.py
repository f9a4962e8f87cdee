"""Lists of floats in imported Iceberg tables as vectors: read, searched, indexed, and refused where they are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from external_samples import files
from iceberg_samples import bring, by_id, embedded, filled, nearest, refused
from stores.faulty import FaultyStore

import lake_format as lake
from lake_connectors import duckdb as lake_duckdb
from lake_connectors import iceberg
from lake_format.store import open_store


def test_lists_become_vectors_that_are_searched_and_indexed(tmp_path: Path) -> None:
    """spec: EVO-11"""
    source = filled(tmp_path / "source", embedded(0, 600), embedded(600, 400))
    before = files(tmp_path / "source")
    table = bring(source, tmp_path, vectors={"embedding": 8})
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 8)
    assert "listed-vectors" in table.snapshot.version.required_features
    everything = source.scan().to_arrow()
    assert by_id(table.to_arrow()) == by_id(everything)
    some = table.take([700, 3, 700]).column("embedding").to_pylist()
    assert some[0] == some[2] == by_id(everything)[table.take([700]).to_pylist()[0]["id"]]["embedding"]
    query = np.ones(8, "f4")
    wanted = nearest(everything, query, 10)
    assert table.search(query, 10, exact=True).to_arrow().column("id").to_pylist() == wanted
    table.create_index("embedding", metric="l2")
    assert table.search(query, 10, recall=0.99).to_arrow().column("id").to_pylist()[:3] == wanted[:3]
    table.update({"embedding": [1.0] * 8}, where="id = 5")
    assert table.search(query, 1).to_arrow().column("id").to_pylist() == [5]
    with lake_duckdb.connect() as connection:
        connection.attach(table, "items")
        found = connection.execute("SELECT id FROM knn('items', ?::FLOAT[8], 1)", [query.tolist()]).fetchall()
        assert found == [(5,)]
    table.compact()
    assert table.search(query, 1).to_arrow().column("id").to_pylist() == [5]
    assert files(tmp_path / "source") == before


def test_lists_on_remote_storage_are_searched_with_patches_over_them(tmp_path: Path) -> None:
    source = filled(tmp_path / "source", embedded(0, 600), embedded(600, 400))
    table = bring(source, tmp_path, vectors={"embedding": 8})
    table.create_index("embedding", metric="l2")
    table.set_properties({"write.update-strategy": "patch"})
    table.update({"embedding": [1.0] * 8}, where="id = 7")
    assert table.verify().problems == []
    place = source.location()
    remote = FaultyStore(open_store(place.removeprefix("file://")), {})
    table = lake.open(str(tmp_path / "imported"), allow_external={place: remote})
    query = np.ones(8, "f4")
    rows = table.to_arrow()
    wanted = nearest(rows, query, 5)
    assert wanted[0] == 7
    assert table.search(query, 5, exact=True).to_arrow().column("id").to_pylist() == wanted
    assert table.search(query, 5, recall=0.99).to_arrow().column("id").to_pylist()[0] == 7
    assert remote.calls


def test_lists_that_are_no_vectors_are_found_when_read(tmp_path: Path) -> None:
    """spec: EVO-11"""
    for number, (bad, match) in enumerate((([1.0], "a list of 1"), ([1.0, None], "NULL inside"))):
        rows = pa.table({"id": [1, 2], "v": pa.array([[1.0, 2.0], bad], pa.list_(pa.float32()))})
        source = filled(tmp_path / f"source-{number}", rows)
        table = iceberg.import_table(source, str(tmp_path / f"table-{number}"), vectors={"v": 2})
        assert table.count() == 2
        for read in (table.to_arrow, lambda table=table: table.search([1.0, 2.0], 1, exact=True).to_arrow()):
            with pytest.raises(
                lake.CorruptionError, match=f"source-{number}/.*parquet.*'v' holds vectors.*{match}"
            ):
                read()
    refused(source, tmp_path, lake.InvalidInputError, "no column 'w'", vectors={"w": 2})
    refused(source, tmp_path, lake.InvalidInputError, "'id' is int64, not a list", vectors={"id": 2})
    refused(source, tmp_path, lake.InvalidInputError, "dimension 0", vectors={"v": 0})
