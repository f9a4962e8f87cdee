"""Scalar files as others see them, and Parquet files that others wrote."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lake_engines.files import VectorReader, WrittenFile, describe_file, open_reader, open_writer, thrift
from lake_engines.files.parquet_meta import parse_footer, parse_pages
from lake_engines.files.vector_layout import VectorLayout
from lake_format.errors import CorruptionError
from lake_format.store.local import LocalStore

ROWS = 5000


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path, sync=False)


def table() -> pa.Table:
    rng = np.random.default_rng(0)
    return pa.table(
        {
            "id": np.arange(ROWS),
            "name.first": [None if row % 9 == 0 else f"name {row % 1000}" for row in range(ROWS)],
            "tags": pa.array([[row, None] if row % 4 else [] for row in range(ROWS)]),
            "who": pa.array([{"a": row, "b": str(row)} if row % 5 else None for row in range(ROWS)]),
            "attributes": pa.array([[("k", row)] for row in range(ROWS)], pa.map_(pa.string(), pa.int64())),
            "price": rng.standard_normal(ROWS),
        }
    )


def write(store: LocalStore, data: pa.Table, form: str, **options) -> WrittenFile:
    writer = open_writer(store, "file", data.schema, format=form, **options)
    for batch in data.to_batches(max_chunksize=999):
        writer.write(batch)
    return writer.close()


def test_a_vortex_file_is_read_by_vortex_alone(store, tmp_path):
    """spec: VTX-1, VTX-2."""
    import vortex

    data = table().drop_columns("attributes")
    write(store, data, "vortex")
    assert vortex.open(str(tmp_path / "file")).to_arrow(schema=data.schema).read_all().equals(data)


def test_parquet_files_have_small_pages_that_break_together(store, tmp_path):
    """spec: PQT-1, PQT-2."""
    data = table()
    write(store, data, "parquet")
    assert pq.read_table(tmp_path / "file").equals(data)
    raw = (tmp_path / "file").read_bytes()
    footer = raw[-8 - int.from_bytes(raw[-8:-4], "little") : -8]
    breaks = set()
    for chunk in parse_footer(footer, "file", len(raw)).groups[0].chunks:
        index = raw[chunk.index_offset : chunk.index_offset + chunk.index_length]
        if len(chunk.path) == 1:
            breaks.add(tuple(parse_pages(index, chunk, ROWS, "file").first_rows.tolist()))
        assert chunk.data_start - chunk.start <= 32 << 10  # pyarrow looks at the limit after each batch
    assert breaks == {tuple(range(0, ROWS, 512))}
    leaf = pq.ParquetFile(tmp_path / "file").metadata.row_group(0).column(0)
    assert (leaf.compression, leaf.statistics.max, leaf.has_column_index) == ("ZSTD", ROWS - 1, True)


def test_row_groups_are_bounded(store, tmp_path):
    """spec: PQT-1."""
    data = pa.table({"id": np.arange(300_000)})
    write(store, data, "parquet")
    metadata = pq.read_metadata(tmp_path / "file")
    assert [metadata.row_group(number).num_rows for number in range(3)] == [131_072, 131_072, 37_856]


def test_offsets_outside_the_file_are_corruption(store, tmp_path):
    """spec: PQT-3."""
    write(store, table(), "parquet")
    raw = (tmp_path / "file").read_bytes()
    footer = raw[-8 - int.from_bytes(raw[-8:-4], "little") : -8]
    meta = parse_footer(footer, "file", len(raw))
    with pytest.raises(CorruptionError, match="'file' lies outside the file's 1000 bytes"):
        parse_footer(footer, "file", 1000)
    chunk = meta.groups[0].chunks[0]
    for location in ([1 << 40, 10, 0], [chunk.data_start, 1 << 30, 0], [chunk.data_start, 10, 7], [0, 10, 0]):
        fields = [thrift.i64(1, location[0]), thrift.i32(2, location[1]), thrift.i64(3, location[2])]
        with pytest.raises(CorruptionError, match="outside its column chunk"):
            parse_pages(thrift.encode([thrift.list_of(1, [fields])]), chunk, ROWS, "file")
    for cut in range(len(footer)):
        with pytest.raises(CorruptionError, match="'file'"):
            parse_footer(footer[:cut], "file", len(raw))


@pytest.mark.parametrize("writer", ["pyarrow", "pyarrow, indexed", "pyarrow, v2 pages", "polars", "duckdb"])
def test_files_of_other_writers_are_read_without_a_layout(store, tmp_path, writer):
    """spec: FIL-4, PQT-1, PQT-4."""
    data = table().drop_columns(["attributes", "who"] if writer == "polars" else ["attributes"])
    path = str(tmp_path / "file")
    if writer == "polars":
        pytest.importorskip("polars").from_arrow(data).write_parquet(path, row_group_size=1200)
    elif writer == "duckdb":
        duckdb = pytest.importorskip("duckdb")
        duckdb.connect().register("data", data).execute(
            f"COPY data TO '{path}' (FORMAT parquet, ROW_GROUP_SIZE 2048)"
        )
    else:
        options = {"pyarrow": {}, "pyarrow, indexed": {"write_page_index": True, "data_page_size": 2000}}
        options["pyarrow, v2 pages"] = {
            "data_page_version": "2.0",
            "write_page_index": True,
            "max_rows_per_page": 70,
        }
        pq.write_table(data, path, row_group_size=1700, write_batch_size=60, **options[writer])
    file, schema = describe_file(store, "file")
    assert (file.rows, file.layout) == (ROWS, b"")
    reader = open_reader(store, file)
    assert reader.schema.equals(schema)
    expected = data.cast(pa.schema([(field.name, field.type) for field in schema]))
    assert pa.Table.from_batches(list(reader.scan(start=1100, stop=4000))).equals(expected.slice(1100, 2900))
    places = np.unique(np.random.default_rng(0).integers(0, ROWS, 60)).astype(np.uint64)
    assert pa.Table.from_batches([reader.take(places)]).equals(expected.take(pa.array(places)))
    reader.verify()


def test_pages_off_the_grid_are_read_too(store, tmp_path):
    """spec: VEC-11."""
    values = np.random.default_rng(0).standard_normal((90, 3), np.float32)
    data = pa.table({"vec": pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 3)})
    file = write(store, data, "parquet", page_rows=50)
    layout = VectorLayout.from_bytes(file.layout, "file", file.size)
    raw = (tmp_path / "file").read_bytes()
    start, levels = int(layout.value_offsets[1]), int(layout.level_lengths[1])
    moved = len(raw) + levels
    moved += (4 - (moved - int(layout.value_offsets[0]))) % 12  # four bytes past the grid of 12-byte vectors
    page = raw[start - levels : start + 40 * 12]
    whole = raw + bytes(moved - levels - len(raw)) + page
    (tmp_path / "file").write_bytes(whole)
    offsets = np.array([layout.value_offsets[0], moved], np.uint64)
    record = replace(layout, value_offsets=offsets).to_bytes()
    reader = open_reader(store, replace(file, size=len(whole), layout=record), data.schema)
    assert isinstance(reader, VectorReader)
    places = np.array([89, 0, 50, 49, 3, 51, 89])
    np.testing.assert_array_equal(reader.take_vectors(places)[0], values[places])
    assert pa.Table.from_batches(list(reader.scan())).equals(data)
    reader.verify()
