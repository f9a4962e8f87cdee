"""Damaged, truncated and missing files, failing stores and failing producers: typed errors, nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from stores.faulty import Fault, FaultyStore

from lake_engines.files import FileReader, WrittenFile, describe_file, open_reader, open_writer
from lake_format.errors import (
    CorruptionError,
    InvalidInputError,
    NotFoundError,
    StorageError,
    UnsupportedError,
)
from lake_format.store.local import LocalStore

ROWS = 3000
KINDS = ["vector", "vortex", "parquet"]


def table_for(kind: str) -> tuple[pa.Table, str]:
    rng = np.random.default_rng(0)
    if kind == "vector":
        values = rng.standard_normal((ROWS, 8), np.float32)
        null = pa.array(np.arange(ROWS) % 11 == 0)
        column = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 8, mask=null)
        return pa.table({"vec": column}), "parquet"
    columns = {
        "id": np.arange(ROWS),
        "price": rng.standard_normal(ROWS),
        "title": [f"title {row % 333} of {row}" for row in range(ROWS)],
        "tags": [[row % 3, 7] if row % 5 else None for row in range(ROWS)],
    }
    return pa.table(columns), kind


def write(store, kind: str) -> tuple[WrittenFile, pa.Table]:
    table, form = table_for(kind)
    writer = open_writer(
        store, f"data/{kind}", table.schema, format=form, page_rows=None if kind == "vortex" else 256
    )
    for batch in table.to_batches(max_chunksize=700):
        writer.write(batch)
    return writer.close(), table


def read_all(reader: FileReader) -> pa.Table:
    reader.take(np.array([0, 5, ROWS - 1], np.uint64))
    return pa.Table.from_batches(list(reader.scan()), reader.schema)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path, sync=False)


def alter(tmp_path: Path, file: WrittenFile, data: bytes) -> None:
    (tmp_path / file.path).write_bytes(data)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("remote", [False, True], ids=["mapped", "ranges"])
def test_a_missing_file_is_not_found_by_name(store, tmp_path, kind, remote):
    """spec: FIL-8."""
    file, table = write(store, kind)
    os.unlink(tmp_path / file.path)
    where = FaultyStore(store) if remote else store
    with pytest.raises(NotFoundError, match=f"data/{kind}"):
        read_all(open_reader(where, file, table.schema))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("remote", [False, True], ids=["mapped", "ranges"])
@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_truncated_file_is_corrupt_by_name(store, tmp_path, kind, remote, keep):
    """spec: FIL-8. Found before anything is mapped: never a crash."""
    file, table = write(store, kind)
    whole = (tmp_path / file.path).read_bytes()
    alter(tmp_path, file, whole[:keep])
    where = FaultyStore(store) if remote else store

    def read() -> None:
        read_all(open_reader(where, file, table.schema))
        open_reader(where, file, table.schema).verify()  # ranged vector reads need not touch the end

    with pytest.raises(CorruptionError, match=f"data/{kind}"):
        read()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("remote", [False, True], ids=["mapped", "ranges"])
def test_verify_and_verify_reads_find_any_flipped_byte_of_data(store, tmp_path, kind, remote):
    """spec: FIL-5, FIL-9, VEC-6."""
    file, table = write(store, kind)
    whole = bytearray((tmp_path / file.path).read_bytes())
    where = FaultyStore(store) if remote else store
    end = open_reader(where, file, table.schema)._layout.value_offsets[-1] if kind == "vector" else len(whole)
    open_reader(where, file, table.schema).verify()
    # in a vector file the padding before a page belongs to nobody
    places = [4 + int(place) for place in np.linspace(100, int(end) - 8, 12)]
    for place in places:
        whole[place] ^= 0x41
        alter(tmp_path, file, bytes(whole))
        with pytest.raises(CorruptionError, match=f"data/{kind}"):
            open_reader(where, file, table.schema).verify()
        with pytest.raises(CorruptionError, match=f"data/{kind}"):
            read_all(open_reader(where, file, table.schema, verify_reads=True))
        whole[place] ^= 0x41
    alter(tmp_path, file, bytes(whole))
    assert read_all(open_reader(where, file, table.schema, verify_reads=True)).equals(table)


@pytest.mark.parametrize("kind", ["vortex", "parquet"])
def test_flipped_bytes_end_in_rows_or_a_typed_error_and_never_end_the_process(kind):
    """spec: FIL-8. In a process of its own, as a panic inside a decoder could end it."""
    program = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
import tempfile, numpy as np
from pathlib import Path
from test_files_faults import *
root = Path(tempfile.mkdtemp()); store = LocalStore(root, sync=False)
file, table = write(store, {kind!r}); whole = (root / file.path).read_bytes()
rng = np.random.default_rng(3); seen = 0
for attempt in range(80):
    altered = bytearray(whole)
    places = rng.integers(0, len(whole) - (9000 if attempt % 2 else 0), 3)
    for place in places: altered[int(place)] = int(rng.integers(256))
    alter(root, file, bytes(altered))
    try: read_all(open_reader(store, file, table.schema))
    except CorruptionError as error:
        seen += 1
        assert file.path in str(error) and "Backtrace" not in str(error) and chr(10) not in str(error), str(error)
assert seen > 10, seen
print("survived")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip().endswith("survived"), done.stderr[-2000:]


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_layout_is_corrupt(store, kind):
    """spec: FIL-4, FIL-5, VEC-6."""
    file, table = write(store, kind)
    for place in range(len(file.layout)):
        altered = bytearray(file.layout)
        altered[place] ^= 0x10
        with pytest.raises((CorruptionError, UnsupportedError), match=f"data/{kind}"):
            open_reader(store, replace(file, layout=bytes(altered)), table.schema)
    for length in range(1, len(file.layout)):
        with pytest.raises(CorruptionError, match=f"data/{kind}"):
            open_reader(store, replace(file, layout=file.layout[:length]), table.schema)


@pytest.mark.parametrize("kind", KINDS)
def test_a_layout_that_contradicts_the_manifest_is_corrupt(store, kind):
    """spec: FIL-4."""
    file, table = write(store, kind)
    with pytest.raises(CorruptionError, match="rows"):
        open_reader(store, replace(file, rows=ROWS + 1), table.schema)
    with pytest.raises(CorruptionError, match=f"data/{kind}"):
        read_all(open_reader(store, replace(file, size=file.size + 1), table.schema))
    other = pa.schema([("other", pa.list_(pa.float32(), 9))])
    if kind != "vortex":
        with pytest.raises(CorruptionError, match=f"data/{kind}"):
            read_all(open_reader(store, file, other))


def hostile_layouts(layout) -> list:
    """Records whose checksum holds and whose content lies."""
    pages = layout.pages
    far = layout.value_offsets.copy()
    far[-1] = 2**64 - 8
    back = layout.value_offsets.copy()
    back[1] = 4
    many = layout.page_nulls.copy()
    many[0] += 1
    over = layout.page_nulls.copy()
    over[0] = 10_000
    return [
        replace(layout, value_offsets=far),
        replace(layout, value_offsets=back),
        replace(layout, page_rows=layout.page_rows // 2),
        replace(layout, rows=layout.rows + layout.page_rows * 7),
        replace(layout, dim=layout.dim * 100),
        replace(layout, page_nulls=many),
        replace(layout, page_nulls=over),
        replace(layout, level_lengths=np.full(pages, 2**32 - 1, np.uint32)),
        replace(layout, nulls=replace(layout.nulls, inline=None, offset=2**63, length=layout.nulls.length)),
    ]


def believe(store, file: WrittenFile, schema: pa.Schema) -> None:
    reader = open_reader(store, file, schema)
    reader.verify()
    read_all(reader)


def test_a_lying_vector_layout_never_leads_outside_the_file(store):
    """spec: VEC-6, VEC-8."""
    file, table = write(store, "vector")
    honest = open_reader(store, file, table.schema)._layout
    for number, lie in enumerate(hostile_layouts(honest)):
        # dataclasses.replace keeps _first_slots out: it is derived anew
        altered = replace(file, layout=lie.to_bytes(), rows=lie.rows)
        with pytest.raises(CorruptionError, match="data/vector"):
            believe(store, altered, table.schema)
        assert number < 9


def test_lake_metadata_of_a_vector_file_is_checked(store, tmp_path):
    """spec: VEC-10."""
    file, _ = write(store, "vector")
    whole = (tmp_path / file.path).read_bytes()
    alter(tmp_path, file, whole.replace(b'"layout":"', b'"layout":"!'[:10] + b"!", 1)[: len(whole)])
    with pytest.raises(CorruptionError, match="data/vector"):
        open_reader(store, *describe_file(store, file.path))


@pytest.mark.parametrize("kind", KINDS)
def test_a_failing_store_fails_reads_with_its_own_error(store, kind):
    file, table = write(store, kind)
    for fault in (Fault.PERMISSION_DENIED, Fault.SHORT_READ):
        plain = FaultyStore(store)
        read_all(open_reader(plain, file, table.schema))
        for number, (method, _) in enumerate(plain.calls):
            if method.startswith("get"):
                with pytest.raises((StorageError, CorruptionError), match=f"data/{kind}"):
                    read_all(open_reader(FaultyStore(store, {number: fault}), file, table.schema))


@pytest.mark.parametrize("kind", KINDS)
def test_a_failing_store_fails_writes_and_nothing_becomes_visible(store, kind, tmp_path_factory, monkeypatch):
    """spec: FIL-2."""
    plain = FaultyStore(store)
    write_or_abort(plain, kind)
    store.delete(f"data/{kind}")
    pipes = tmp_path_factory.mktemp("pipes")
    monkeypatch.setattr(tempfile, "tempdir", str(pipes))
    # how many writes a Vortex file takes depends on the pipe: the first is the one that is always there
    calls = plain.calls if kind != "vortex" else [("open_writer", ""), ("write", ""), ("close", "")]
    for number, (method, _) in enumerate(calls):

        def plan(at, called, _path, number=number, method=method):
            return Fault.DISK_FULL if (called == method if kind == "vortex" else at == number) else None

        with pytest.raises(StorageError, match="the disk is full"):
            write_or_abort(FaultyStore(store, plan), kind)
        assert list(store.list("")) == []
    assert background() == []
    assert list(pipes.iterdir()) == []


def background() -> list[str]:
    """Our threads that still run; those of a remote store live as long as it does."""
    names = (thread.name for thread in threading.enumerate())
    return [name for name in names if name.startswith("lake-") and not name.startswith("lake-ranges")]


def write_or_abort(store, kind: str) -> None:
    table, form = table_for(kind)
    writer = open_writer(store, f"data/{kind}", table.schema, format=form)
    try:
        for batch in table.to_batches(max_chunksize=700):
            writer.write(batch)
        writer.close()
    except BaseException:
        writer.abort()
        raise


@pytest.mark.parametrize("kind", KINDS)
def test_a_failing_producer_leaves_nothing_visible(store, kind):
    """spec: FIL-2. Aborting is harmless twice, and after a close."""
    table, form = table_for(kind)
    writer = open_writer(store, f"data/{kind}", table.schema, format=form)
    writer.write(table.to_batches()[0])
    with pytest.raises(InvalidInputError, match=f"data/{kind}"):
        writer.write(pa.record_batch({"wrong": [1]}))
    writer.abort()
    writer.abort()
    assert list(store.list("")) == []
    assert background() == []
    writer = open_writer(store, f"data/{kind}", table.schema, format=form)
    writer.close()
    writer.abort()
    assert [info.path for info in store.list("")] == [f"data/{kind}"]


def test_a_vortex_file_needs_a_folder_for_its_pipe(store, monkeypatch):
    """spec: FIL-2."""
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    with pytest.raises(StorageError, match=r"'/nowhere'.*TMPDIR"):
        open_writer(store, "x", pa.schema([("x", pa.int8())]), format="vortex")
    assert list(store.list("")) == []


def test_unknown_formats_are_refused(store):
    """spec: FIL-1."""
    schema = pa.schema([("x", pa.int8())])
    with pytest.raises(InvalidInputError, match="'orc'"):
        open_writer(store, "x", schema, format="orc")
    with pytest.raises(CorruptionError, match="'orc'"):
        open_reader(store, WrittenFile(path="x", format="orc", rows=0, size=0, layout=b""), schema)
    with pytest.raises(InvalidInputError, match="page_rows"):
        open_writer(store, "x", schema, format="parquet", page_rows=0)
    with pytest.raises(InvalidInputError, match="different names"):
        open_writer(store, "x", pa.schema([("x", pa.int8()), ("x", pa.int8())]), format="vortex")
