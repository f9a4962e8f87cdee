"""Data files over a network: rounds, requests and bytes counted by a server, and the same rows as locally."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from stores.range_server import RangeServer

from lake_engines.files import FileReader, VectorReader, WrittenFile, open_reader, open_writer
from lake_format.store import Store, open_store

ROWS, DIM = 20_000, 32


def table(rows: int = ROWS) -> pa.Table:
    rng = np.random.default_rng(0)
    return pa.table(
        {
            "id": np.arange(rows),
            "uid": rng.integers(0, 1 << 62, rows),
            "title": [f"title {number} of many" for number in rng.integers(0, 1 << 40, rows)],
            "category": [f"category {row % 7}" for row in range(rows)],
        }
    )


def vector_table(rows: int = ROWS) -> pa.Table:
    values = np.random.default_rng(0).standard_normal((rows, DIM), np.float32)
    return pa.table({"vec": pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), DIM)})


def write(store: Store, data: pa.Table, form: str) -> WrittenFile:
    writer = open_writer(store, "data/file", data.schema, format=form)
    for batch in data.to_batches(max_chunksize=6000):
        writer.write(batch)
    return writer.close()


Remote = Callable[[pa.Table, str], tuple[RangeServer, FileReader, WrittenFile]]


@pytest.fixture
def remote(range_server) -> Remote:
    def start(data: pa.Table, form: str) -> tuple[RangeServer, FileReader, WrittenFile]:
        server = range_server(latency=0.05)
        store = open_store(server.uri("lake"), server.storage_options)
        file = write(store, data, form)
        server.reset()
        return server, open_reader(store, file, data.schema), file

    return start


PLACES = np.sort(np.random.default_rng(1).choice(ROWS, 10, replace=False)).astype(np.uint64)


def test_vectors_cost_one_round_and_their_own_bytes(remote):
    """spec: VEC-9. Opening costs nothing: the layout tells all."""
    data = vector_table()
    server, reader, _ = remote(data, "parquet")
    assert isinstance(reader, VectorReader)
    assert server.count() == 0
    found, _ = reader.take_vectors(PLACES)
    np.testing.assert_array_equal(
        found, data["vec"].combine_chunks().flatten().to_numpy().reshape(-1, DIM)[PLACES]
    )
    assert server.rounds() == 1
    assert server.count() <= 10
    # neighbours within 32 KiB share a request
    assert server.bytes_sent() <= 10 * (DIM * 4 + 32_768) + 10_000


def test_parquet_rows_cost_three_rounds_then_one(remote):
    """spec: PQT-4. Footer; offset indexes (none where the tail held them); pages."""
    data = table()
    server, reader, file = remote(data, "parquet")
    assert server.count() == 1
    assert pa.Table.from_batches([reader.take(PLACES)]).equals(data.take(pa.array(PLACES)))
    assert server.rounds() <= 3
    server.reset()
    reader.take(PLACES, ["uid"])
    assert server.rounds() == 1
    assert server.bytes_sent() < file.size / 2


def test_vortex_rows_cost_the_footer_and_a_few_rounds(remote):
    """spec: VTX-4."""
    data = table()
    server, reader, _ = remote(data, "vortex")
    assert server.count() == 1
    assert pa.Table.from_batches([reader.take(PLACES)]).equals(data.take(pa.array(PLACES)))
    assert server.rounds() <= 4


@pytest.mark.parametrize("form", ["vortex", "parquet", "vectors"])
def test_every_store_gives_the_same_rows(any_store, form):
    """spec: FIL-2, FIL-6."""
    data = vector_table(3000) if form == "vectors" else table(3000)
    file = write(any_store, data, "vortex" if form == "vortex" else "parquet")
    reader = open_reader(any_store, file, data.schema)
    places = np.array([0, 17, 18, 1500, 2999], np.uint64)
    assert pa.Table.from_batches([reader.take(places)]).equals(data.take(pa.array(places)))
    window = pa.Table.from_batches(list(reader.scan(start=700, stop=2500, batch_rows=333)), data.schema)
    assert window.equals(data.slice(700, 1800))
    reader.verify()
    assert any_store.size(file.path) == file.size
