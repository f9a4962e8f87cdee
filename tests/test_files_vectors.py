"""Vector files: byte-addressable, zero-copy, and plain Parquet to everyone else (spec chapter: files.md, VEC)."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lake_engines.files import VectorReader, describe_file, open_reader, open_writer, take_any_order, thrift
from lake_engines.files.vector_layout import VectorLayout, page_rows_for
from lake_format.errors import InvalidInputError
from lake_format.store.local import LocalStore

ELEMENTS = {pa.float32(): np.float32, pa.float16(): np.float16, pa.float64(): np.float64}

FLOAT32 = pa.float32()


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path, sync=False)


def vector_schema(dim: int, element: pa.DataType = FLOAT32, *, nullable: bool = True) -> pa.Schema:
    item = pa.field("item", element, metadata={b"PARQUET:field_id": b"12"})
    return pa.schema([pa.field("vec", pa.list_(item, dim), nullable, {b"PARQUET:field_id": b"11"})])


def vectors(rows: int, dim: int, element: pa.DataType = FLOAT32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, dim)).astype(ELEMENTS[element])


def column(values: np.ndarray, schema: pa.Schema, null: np.ndarray | None = None) -> pa.RecordBatch:
    kind = schema.field(0).type
    mask = None if null is None else pa.array(null)
    array = pa.FixedSizeListArray.from_arrays(
        pa.array(values.reshape(-1), kind.value_type), type=kind, mask=mask
    )
    return pa.record_batch([array], schema=schema)


def write(
    store: LocalStore, batches: list[pa.RecordBatch], page_rows: int | None = None, path: str = "v.parquet"
):
    writer = open_writer(store, path, batches[0].schema, page_rows=page_rows)
    for batch in batches:
        writer.write(batch)
    file = writer.close()
    reader = open_reader(store, file, batches[0].schema)
    assert isinstance(reader, VectorReader)
    return reader, file


@settings(max_examples=80, suppress_health_check=list(HealthCheck))
@given(
    rows=st.integers(0, 120), dim=st.integers(1, 20), element=st.sampled_from(list(ELEMENTS)),
    page_rows=st.integers(1, 50), nulls=st.sampled_from([0.0, 0.1, 0.9, 1.0]), nullable=st.booleans(),
    cuts=st.lists(st.integers(0, 120), max_size=4), data=st.data(),
)  # fmt: skip
def test_any_vectors_in_any_batches_come_back(
    tmp_path, rows, dim, element, page_rows, nulls, nullable, cuts, data
):
    """spec: VEC-1, VEC-3, VEC-4, VEC-5, VEC-7, VEC-8. Input batches are slices, so offsets are exercised too."""
    store = LocalStore(tmp_path, sync=False)
    store.delete("v.parquet")
    schema = vector_schema(dim, element, nullable=nullable)
    values = vectors(rows, dim, element)
    null = np.random.default_rng(1).random(rows) < nulls if nullable else None
    whole = column(values, schema, null)
    edges = sorted({0, rows, *(min(cut, rows) for cut in cuts)})
    parts = [whole.slice(low, high - low) for low, high in pairwise(edges)] or [whole]
    reader, file = write(store, parts, page_rows)
    assert (reader.rows, file.rows, reader.null_count) == (rows, rows, 0 if null is None else int(null.sum()))

    batch_rows = data.draw(st.integers(1, 60))
    start = data.draw(st.integers(0, rows))
    stop = data.draw(st.integers(start, rows))
    found = pa.Table.from_batches(list(reader.scan(start=start, stop=stop, batch_rows=batch_rows)), schema)
    found.validate(full=True)
    assert found.equals(pa.Table.from_batches([whole], schema).slice(start, stop - start))

    places = data.draw(st.lists(st.integers(0, rows - 1), max_size=30)) if rows else []
    array, valid = reader.take_vectors(places)
    expected = np.where(null[places][:, None], 0, values[places]) if null is not None else values[places]
    np.testing.assert_array_equal(array, expected)
    assert (valid is None) == (reader.null_count == 0)
    if valid is not None and null is not None:
        np.testing.assert_array_equal(valid, ~null[places])
    assert take_any_order(reader, places).equals(whole.take(pa.array(places, pa.int64())))

    offsets, length, present = reader.byte_ranges(places)
    raw = (tmp_path / "v.parquet").read_bytes()
    there_of = [True] * len(places) if present is None else present.tolist()
    for place, offset, there in zip(places, offsets.tolist(), there_of, strict=True):
        assert not there or raw[offset : offset + length] == values[place].tobytes()
    for first, chunk, chunk_valid in reader.chunks(start=start, stop=stop):
        rows_of = np.arange(first, first + len(chunk))
        keep = np.ones(len(chunk), bool) if chunk_valid is None else chunk_valid
        np.testing.assert_array_equal(chunk[keep], values[rows_of[keep]])
    reader.verify()
    # the footer alone is enough, and gives the same
    described, own_schema = describe_file(store, "v.parquet")
    assert described == file
    assert own_schema.equals(schema, check_metadata=True)


@pytest.mark.parametrize("element", ELEMENTS, ids=str)
@pytest.mark.parametrize("nulls", [False, True], ids=["no nulls", "nulls"])
def test_stock_readers_see_an_ordinary_list_column(store, tmp_path, element, nulls):
    """spec: VEC-1, VEC-2."""
    duckdb = pytest.importorskip("duckdb")
    polars = pytest.importorskip("polars")
    pandas = pytest.importorskip("pandas")
    schema = vector_schema(5, element)
    null = np.arange(1000) % 7 == 3 if nulls else None
    whole = column(vectors(1000, 5, element), schema, null)
    write(store, [whole], page_rows=64)
    path = str(tmp_path / "v.parquet")
    expected = [None if value is None else list(value) for value in whole.column(0).to_pylist()]

    table = pq.ParquetFile(path, page_checksum_verification=True).read()
    assert table["vec"].to_pylist() == expected
    assert table.schema.field("vec").type == pa.list_(pa.field("element", element, nullable=False), 5)
    assert table.schema.field("vec").metadata[b"PARQUET:field_id"] == b"11"
    leaf = pq.ParquetFile(path).metadata.row_group(1).column(0)
    assert leaf.path_in_schema == "vec.list.element"
    assert leaf.has_offset_index
    assert leaf.compression == "UNCOMPRESSED"
    assert leaf.statistics.null_count == (0 if null is None else int(null[64:128].sum()))

    found = duckdb.sql(f"SELECT vec FROM '{path}'").fetchall()
    assert [None if value is None else list(value) for (value,) in found] == expected
    some = duckdb.sql(
        f"SELECT vec FROM read_parquet('{path}', file_row_number = true) WHERE file_row_number BETWEEN 500 AND 502"
    ).fetchall()
    assert [None if value is None else list(value) for (value,) in some] == expected[500:503]

    assert polars.read_parquet(path)["vec"].to_list() == expected
    assert polars.scan_parquet(path).slice(500, 70).collect()["vec"].to_list() == expected[500:570]
    frame = pandas.read_parquet(path)
    assert [None if value is None else list(value) for value in frame["vec"]] == expected


def test_a_scan_of_a_local_file_copies_nothing(store, tmp_path):
    """spec: VEC-4, VEC-9. The Arrow buffer is the mapped page: same address, 64-byte aligned."""
    values = vectors(3000, 24)
    reader, _ = write(store, [column(values, vector_schema(24))], page_rows=1000)
    mapped = np.frombuffer(reader._bytes.scan_map(), np.uint8).ctypes.data
    raw = (tmp_path / "v.parquet").read_bytes()
    for number, batch in enumerate(reader.scan(batch_rows=1000)):
        address = batch.column(0).values.buffers()[1].address
        offset = address - mapped
        assert address % 64 == 0
        assert raw[offset : offset + 24 * 4] == values[number * 1000].tobytes()
    for first, chunk, valid in reader.chunks():
        assert valid is None
        assert mapped <= chunk.ctypes.data < mapped + len(raw)
        np.testing.assert_array_equal(chunk, values[first : first + len(chunk)])
        assert not chunk.flags.writeable


@pytest.mark.parametrize(
    ("dim", "element"), [(3, pa.float32()), (100, pa.float16()), (7, pa.float64()), (64, pa.float32())]
)
def test_pages_are_aligned_and_share_one_grid(store, dim, element):
    """spec: VEC-4, VEC-5."""
    _, file = write(store, [column(vectors(1000, dim, element), vector_schema(dim, element))], page_rows=128)
    layout = VectorLayout.from_bytes(file.layout, file.path, file.size)
    assert layout.pages == 8
    assert not (layout.value_offsets % 64).any()
    assert not ((layout.value_offsets - layout.value_offsets[0]) % layout.width).any()


def test_the_page_index_and_headers_lead_an_independent_reader_to_the_floats(store, tmp_path):
    """spec: VEC-2, VEC-3. Footer → offset index → page header → levels → values, with no help of the layout."""
    values, null = vectors(300, 4), np.arange(300) % 5 == 1
    write(store, [column(values, vector_schema(4), null)], page_rows=100)
    raw = (tmp_path / "v.parquet").read_bytes()
    footer, _ = thrift.decode(raw[-8 - int.from_bytes(raw[-8:-4], "little") : -8])
    found = []
    for group in footer[4]:
        chunk = group[1][0]
        page = thrift.decode(raw, chunk[4])[0][1][0]
        header, at = thrift.decode(raw, page[1])
        assert page[2] == at - page[1] + header[3]
        assert header[5][1] == 80 * 4 + 20
        for _ in range(2):  # repetition levels, definition levels
            at += 4 + int.from_bytes(raw[at : at + 4], "little")
        found.append(np.frombuffer(raw, "<f4", 80 * 4, at).reshape(80, 4))
    np.testing.assert_array_equal(np.concatenate(found), values[~null])


def test_bytes_are_deterministic(tmp_path):
    """spec: VEC-3. The same rows in other batches make the same file."""
    whole = column(vectors(500, 6), vector_schema(6), np.arange(500) % 3 == 0)
    files = []
    for number, step in enumerate((500, 7)):
        store = LocalStore(tmp_path / str(number), sync=False)
        write(store, [whole.slice(low, step) for low in range(0, 500, step)], page_rows=64)
        files.append((tmp_path / str(number) / "v.parquet").read_bytes())
    assert files[0] == files[1]


def test_many_nulls_lie_in_the_file_and_not_in_the_layout(store):
    """spec: VEC-6, VEC-8. A manifest must stay small however many vectors are NULL."""
    null = np.random.default_rng(5).random(200_000) < 0.5
    whole = column(vectors(200_000, 2), vector_schema(2), null)
    reader, file = write(store, [whole])
    assert len(file.layout) < 1000
    places = np.arange(0, 200_000, 37, dtype=np.uint64)
    _, valid = reader.take_vectors(places)
    np.testing.assert_array_equal(valid, ~null[::37])


@pytest.mark.parametrize("bad_row", [0, 129, 499])
def test_a_null_element_is_refused_by_column_and_row(store, bad_row):
    """spec: VEC-7."""
    schema = vector_schema(4)
    rows = [[1.0, 2.0, 3.0, 4.0] if row % 10 else None for row in range(500)]
    rows[bad_row] = [1.0, None, 3.0, 4.0]
    batch = pa.record_batch([pa.array(rows, schema.field(0).type)], schema=schema)
    writer = open_writer(store, "v.parquet", schema)
    before = bad_row - bad_row % 128
    writer.write(batch.slice(0, before))
    with pytest.raises(InvalidInputError, match=rf"'vec' has a NULL element in row {bad_row}, element 1"):
        writer.write(batch.slice(before))
    writer.abort()
    assert list(store.list("")) == []


def test_a_null_vector_is_refused_where_the_column_forbids_it(store):
    schema = vector_schema(2, nullable=False)
    writer = open_writer(store, "v.parquet", schema)
    writer.write(column(vectors(3, 2), schema))
    with pytest.raises(InvalidInputError, match="'vec' is not nullable, but row 4 is NULL"):
        writer.write(column(vectors(3, 2), schema, np.array([False, True, False])))
    writer.abort()


def test_positions_are_checked(store):
    reader, _ = write(store, [column(vectors(10, 2), vector_schema(2))])
    with pytest.raises(InvalidInputError, match="row position 10 is past the 10 rows"):
        reader.take_vectors([3, 10])
    with pytest.raises(InvalidInputError, match="-1 is negative"):
        reader.take_vectors([-1])
    with pytest.raises(InvalidInputError, match="not strictly increasing"):
        reader.take(np.array([3, 3], np.uint64))
    with pytest.raises(InvalidInputError, match="has no column 'vecs'"):
        reader.take(np.array([3], np.uint64), ["vecs"])
    with pytest.raises(InvalidInputError, match=r"shape \(1, 2\)"):
        reader.take_into([1], np.empty((1, 3), np.float32))


def test_writing_holds_one_page_in_memory(store):
    """spec: VEC-4. Memory of NumPy and Python is one page, whatever the file's length; batches are dropped."""
    schema = vector_schema(64)
    page_rows = 4096  # 1 MiB
    writer = open_writer(store, "v.parquet", schema, page_rows=page_rows)
    tracemalloc.start()
    for seed in range(40):
        writer.write(column(vectors(1000, 64, seed=seed), schema))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert writer.close().size > 10_000_000
    assert peak < 4 << 20


def test_page_size_follows_the_width():
    """spec: VEC-4."""
    assert [page_rows_for(width) for width in (512, 3072, 256 << 10)] == [65_536, 16_384, 128]


@settings(max_examples=30, deadline=None)
@given(data=st.data(), nullable=st.booleans())
def test_batches_kept_and_batches_copied_make_the_same_file(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, nullable: bool
) -> None:
    """And a writer that was not told otherwise copies what its caller may write over. spec: VEC-3"""
    store = LocalStore(tmp_path_factory.mktemp("lasting"), sync=False)
    schema = vector_schema(3, nullable=nullable)
    sizes = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=6))
    batches = []
    for number, size in enumerate(sizes):
        null = np.random.default_rng(number).random(size) < 0.3 if nullable else None
        batches.append(column(vectors(size, 3, seed=number), schema, null))
    for name, lasting in (("kept", True), ("copied", False)):
        writer = open_writer(store, name, schema, page_rows=16, lasting=lasting)
        for batch in batches:
            writer.write(batch)
        writer.close()
    assert store.get("kept") == store.get("copied")
    reused = np.zeros((5, 3), np.float32)
    writer = open_writer(store, "reused", schema)
    for number in range(3):
        reused[:] = number
        writer.write(column(reused, schema))
    reader = open_reader(store, writer.close(), schema)
    found = [row[0] for batch in reader.scan() for row in batch.column(0).to_pylist()]
    assert found == [0.0] * 5 + [1.0] * 5 + [2.0] * 5
