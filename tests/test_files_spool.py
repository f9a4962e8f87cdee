"""Batches kept until a file is encoded, and why: Vortex files read and written by one thread at the same time."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import Location

from lake_engines.files import open_reader, open_writer
from lake_engines.files.spool import Spool
from lake_format.errors import StorageError

SCHEMA = pa.schema([("a", pa.int64()), ("b", pa.dictionary(pa.int8(), pa.string())), ("c", pa.string_view())])


def batches(count: int) -> list[pa.RecordBatch]:
    return [
        pa.record_batch(
            [
                pa.array(np.arange(100) + number),
                pa.array([f"{number % 3}"] * 100).dictionary_encode().cast(SCHEMA.field("b").type),
                pa.array([f"longer than twelve bytes {number}"] * 100, pa.string_view()),
            ],
            schema=SCHEMA,
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("memory", [0, 5_000, 1 << 30])
def test_what_goes_in_comes_out(memory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    spool = Spool(SCHEMA, "data/x", memory_bytes=memory)
    for batch in batches(20):
        spool.add(batch.slice(3, 90))
    assert bool(list(tmp_path.iterdir())) == (memory < 1 << 30)
    found = pa.Table.from_batches(spool.batches(), SCHEMA)
    assert found.equals(pa.Table.from_batches([batch.slice(3, 90) for batch in batches(20)]))
    spool.close()
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_nowhere_to_keep_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    spool = Spool(SCHEMA, "data/x", memory_bytes=0)
    with pytest.raises(StorageError, match="'data/x' cannot be kept in '/nowhere'"):
        spool.add(batches(1)[0])


def test_one_thread_reads_while_it_writes(memory_location: Location) -> None:
    """Vortex may let any thread that calls it pull for any writer: that must never wait for the thread itself."""
    store = memory_location.store()
    schema = pa.schema([("a", pa.int64())])
    batch = pa.record_batch([np.arange(20_000)], schema=schema)

    def work() -> None:
        first = open_writer(store, "data/0", schema, format="vortex")
        first.write(batch)
        base = first.close()
        for number in range(1, 40):
            writer = open_writer(store, f"data/{number}", schema, format="vortex")
            for _ in range(3):
                for part in open_reader(store, base, schema).scan():
                    writer.write(part)
            assert writer.close().rows == 60_000

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert len(list(store.list("data/"))) == 40
