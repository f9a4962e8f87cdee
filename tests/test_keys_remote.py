"""Keys on object storage: rounds, requests and bytes of lookups, counted; and the same on an S3 server."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from key_samples import small_runs
from stores.range_server import RangeServer

import lake_format as lake
from lake_format.store.local import LocalStore
from lake_format.table import Table

FRAGMENTS, ROWS = 60, 30_000
SCHEMA = pa.schema([("id", pa.string()), ("price", pa.float64())])


def some(numbers: Any, price: float = 1.0) -> pa.Table:
    """Rows whose keys are in no order."""
    ids = [f"key {number * 2654435761 % 2**32:010d}" for number in np.asarray(numbers).tolist()]
    return pa.table({"id": ids, "price": np.full(len(ids), price)})


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a table of many fragments that no statistics tell apart, keys indexed by one run."""
    folder = tmp_path_factory.mktemp("keys")
    store = LocalStore(folder / "t", sync=False)
    properties = {"write.fragment-rows": ROWS // FRAGMENTS}
    table = lake.create("t", SCHEMA, key="id", properties=properties, store=store)
    table.append(some(np.arange(ROWS)))
    assert len(table.snapshot.fragments) == FRAGMENTS
    return folder


@pytest.fixture
def server(prepared: Path, tmp_path: Path, range_server: Callable[..., RangeServer]) -> RangeServer:
    shutil.copytree(prepared / "t", tmp_path / "t")
    return range_server(LocalStore(tmp_path, sync=False), waves=True)


def opened(server: RangeServer) -> Table:
    table = lake.open(server.uri("t"), storage_options=server.storage_options)
    assert len(table.snapshot.fragments) >= FRAGMENTS  # manifests are in
    server.reset()
    return table


def test_rows_by_key_take_three_rounds_and_their_pages(server: RangeServer) -> None:
    """spec: KEY-8"""
    table = opened(server)
    wanted = [5, 29_999, 12_345, 777, 20_000, 1]
    found = table.get(some(wanted)["id"])
    assert found.column("id").to_pylist() == some(wanted)["id"].to_pylist()
    # the head of the run; a page for each key; the rows, of all fragments at once
    assert server.rounds() == 3
    assert server.count() <= 1 + 2 * len(wanted)
    assert server.bytes_sent() < 250_000
    server.reset()
    assert table.get("key 9") is None
    assert server.count() == 0  # head and filter are kept, and the filter says no


def test_new_keys_are_known_to_be_new_from_pages_alone(server: RangeServer) -> None:
    """spec: KEY-8. No data file is read; 10 keys cost no more than 10 pages."""
    table = opened(server)
    table.append(some(range(ROWS, ROWS + 10)))
    read = [request for request in server.requests if request.method == "GET"]
    assert not [request for request in read if "/data/" in request.key]
    assert server.bytes_sent() < 12 * 12_400
    assert server.rounds() <= 7
    table.append(some(range(ROWS + 10, ROWS + 1_000)))
    server.reset()
    table.append(some(range(ROWS + 1_000, ROWS + 2_000)))  # so many that filters cost less
    assert server.bytes_sent() < 150_000
    with pytest.raises(lake.DuplicateKeyError):
        table.append(some([ROWS + 5]))


def test_an_upsert_of_few_keys_takes_few_rounds_and_few_bytes(server: RangeServer) -> None:
    """spec: KEY-8"""
    table = opened(server)
    wanted = list(range(0, ROWS, ROWS // 8))
    done = table.upsert(some([*wanted, ROWS + 1], price=2.0))
    assert (done.updated, done.inserted) == (len(wanted), 1)
    assert server.rounds() <= 9
    assert server.count() < 5 * len(wanted)
    assert server.bytes_sent() < 500_000
    assert opened(server).count("price = 2") == len(wanted) + 1


def test_many_runs_are_asked_in_the_same_two_rounds(server: RangeServer) -> None:
    """spec: KEY-8"""
    with small_runs(inline=2, fanout=100):
        table = opened(server)
        for number in range(6):
            table.append(some(range(ROWS + 20 * number, ROWS + 20 * number + 20)))
        assert len(table.snapshot.version.key_index.runs) == 7
        table = opened(server)
        found = table.get(some([5, ROWS + 1, ROWS + 25, ROWS + 61])["id"])
        assert len(found) == 4
        assert server.rounds() == 3


def test_keys_on_s3(s3_location: Any) -> None:
    """spec: IDN-13. Two writers on a server with the conditional writes of the real one."""
    options = {"storage_options": s3_location.storage_options}
    with small_runs():
        table = lake.create(s3_location.uri, SCHEMA, key="id", **options)
        rival = lake.open(s3_location.uri, **options)
        for number in range(6):
            table.append(some(range(10 * number, 10 * number + 6)))
            rival.upsert(some(range(10 * number + 4, 10 * number + 8), price=float(number)))
        assert table.refresh().count() == 6 * 8
        keys = some([n for n in range(60) if n % 10 < 8])["id"]
        assert table.get(keys).column("id").to_pylist() == keys.to_pylist()
        table.update({"id": "another"}, where=f"id = '{keys[0]}'")
        with pytest.raises(lake.DuplicateKeyError):
            rival.append(pa.table({"id": ["another"]}))
        table.compact()
        assert table.verify().ok
