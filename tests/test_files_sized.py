"""Scalar files in the format of their size: plain Parquet while they are small and on a disk, Vortex otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lake_format as lake
from lake_engines.files import open_reader, open_sized_writer, sized_writer
from lake_engines.files.column_cache import ColumnCache
from lake_format.errors import CorruptionError, InvalidInputError
from lake_format.store import open_store
from lake_format.store.base import is_local
from lake_format.store.local import LocalStore

SCHEMA = pa.schema(
    [("id", pa.int64()), ("text", pa.string()), ("kind", pa.dictionary(pa.int32(), pa.string()))]
)


def batch(rows: int, first: int = 0, width: int = 5) -> pa.RecordBatch:
    ids = range(first, first + rows)
    text = [None if i % 7 == 3 else f"{i:0{width}}" for i in ids]
    kinds = pa.array([f"kind {i % 3}" for i in ids]).dictionary_encode()
    return pa.record_batch([pa.array(ids, pa.int64()), pa.array(text, pa.string()), kinds], schema=SCHEMA)


def written(root: Path, *batches: pa.RecordBatch) -> Any:
    writer = open_sized_writer(LocalStore(root), lambda chosen: f"data/x.{chosen}", SCHEMA)
    for one in batches:
        writer.write(one)
    return writer.close()


@pytest.mark.parametrize(
    ("batches", "expected"),
    [
        ([], "parquet"),
        ([batch(1)], "parquet"),
        ([batch(100), batch(sized_writer.SMALL_ROWS - 100, 100)], "parquet"),
        ([batch(100), batch(sized_writer.SMALL_ROWS - 99, 100)], "vortex"),
        ([batch(500, width=12_000)], "vortex"),
    ],
)
def test_the_size_decides_and_rows_come_back(
    tmp_path: Path, batches: list[pa.RecordBatch], expected: str
) -> None:
    """spec: FIL-6"""
    file = written(tmp_path, *batches)
    assert (file.format, file.path) == (expected, f"data/x.{expected}")
    reader = open_reader(LocalStore(tmp_path), file, SCHEMA)
    found = pa.Table.from_batches(list(reader.scan()), SCHEMA)
    assert found.to_pylist() == pa.Table.from_batches(batches, SCHEMA).to_pylist()
    reader.verify()


def test_a_small_file_is_plain_parquet_for_anybody(tmp_path: Path) -> None:
    written(tmp_path, batch(3_000))
    footer = pq.read_metadata(tmp_path / "data/x.parquet")
    chunks = [footer.row_group(0).column(at) for at in range(footer.num_columns)]
    assert {chunk.compression for chunk in chunks} == {"UNCOMPRESSED"}
    assert all(chunk.has_offset_index for chunk in chunks)
    assert (
        pq.read_table(tmp_path / "data/x.parquet").column("text").to_pylist()
        == batch(3_000)["text"].to_pylist()
    )


def test_a_file_given_up_leaves_nothing(tmp_path: Path) -> None:
    """spec: FIL-2"""
    for rows in (10, sized_writer.SMALL_ROWS + 1):
        writer = open_sized_writer(LocalStore(tmp_path), lambda chosen: f"data/x.{chosen}", SCHEMA)
        writer.write(batch(rows))
        writer.abort()
    writer = open_sized_writer(LocalStore(tmp_path), lambda chosen: f"data/x.{chosen}", SCHEMA)
    writer.write(pa.record_batch({"other": [1]}))
    with pytest.raises(InvalidInputError, match="does not fit"):
        writer.close()
    writer.abort()
    assert not list(tmp_path.rglob("*.*"))


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_takes_from_a_small_file_are_those_of_its_rows(
    tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    rows = data.draw(st.integers(1, 2_000))
    root, whole = tmp_path_factory.mktemp("small"), batch(rows)
    reader = open_reader(LocalStore(root), written(root, whole), SCHEMA)
    for _ in range(3):
        places = sorted(data.draw(st.sets(st.integers(0, rows - 1), max_size=20)))
        names = data.draw(st.permutations(SCHEMA.names)).copy()[: data.draw(st.integers(1, 3))]
        found = reader.take(np.array(places, np.uint64), names)
        assert found.schema.names == names
        assert found.to_pylist() == whole.take(pa.array(places, pa.int64())).select(names).to_pylist()


@pytest.mark.parametrize("read", ["scan", "take"])
def test_an_altered_byte_of_a_small_file_is_refused(tmp_path: Path, read: str) -> None:
    """Its pages carry checksums that every read checks, as the file is decoded as a whole anyway."""
    file = written(tmp_path, batch(10_000))
    path = tmp_path / "data/x.parquet"
    good = path.read_bytes()
    values = good.index((500).to_bytes(8, "little"))
    path.write_bytes(good[:values] + b"\x01" + good[values + 1 :])
    reader = open_reader(LocalStore(tmp_path), file, SCHEMA)
    with pytest.raises(CorruptionError, match=r"data/x\.parquet"):
        list(reader.scan()) if read == "scan" else reader.take(np.array([500], np.uint64))


def test_the_cache_of_columns_keeps_to_its_bytes() -> None:
    arrays = {name: pa.array(np.arange(100)) for name in "abcd"}
    cache = ColumnCache(2 * arrays["a"].nbytes)
    for name in "abc":
        cache.put(1, name, arrays[name])
        assert cache.get(1, "a") is arrays["a"]
    assert cache.get(1, "b") is None, "a was used since"
    cache.put(1, "a", arrays["d"])
    assert cache.get(1, "a") is arrays["a"]
    assert cache.get(2, "a") is None
    cache.put(1, "large", pa.array(np.arange(1_000)))
    assert cache.get(1, "large") is None


def test_only_small_fragments_on_a_disk_are_parquet_until_they_are_compacted(tmp_path: Path) -> None:
    def formats(table: lake.Table) -> set[str]:
        return set(table.inspect.files().column("format").to_pylist())

    rows = pa.table({"id": range(sized_writer.SMALL_ROWS // 2 + 1)})
    table = lake.create(str(tmp_path / "t"), rows.schema).append(rows).append(rows)
    assert formats(table) == {"parquet"}
    assert "vortex-files" not in table.snapshot.version.required_features
    assert formats(table.compact().table if hasattr(table.compact(), "table") else table.refresh()) == {
        "vortex"
    }
    for wanted in ("vortex", "parquet"):
        other = lake.create(str(tmp_path / wanted), rows.schema, properties={"write.scalar-format": wanted})
        assert formats(other.append(rows)) == {wanted}
    assert formats(lake.create("memory://sized", rows.schema).append(rows)) == {"vortex"}
    assert is_local(LocalStore(tmp_path))
    assert not is_local(open_store("memory://sized"))
