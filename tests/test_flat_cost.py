"""What a commit, an opening and a plan cost does not grow with the table: counted in requests and bytes.

spec: MAN-7, COM-6
"""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pytest
from stores.many_fragments import multiply

import lake_format as lake
from lake_format.engine import ScanRequest
from lake_format.manifest import FragmentTable
from lake_format.store import Store, forget_memory, open_store
from lake_format.store.metered import MeteredStore, Usage

ROWS = 50
SIZES = (10, 20_000)


@pytest.fixture
def stores() -> Iterator[dict[int, Store]]:
    """Tables of few and of very many fragments."""
    uris = {size: f"memory://flat-{uuid4().hex}" for size in SIZES}
    opened = {size: open_store(uri) for size, uri in uris.items()}
    for size, store in opened.items():
        multiply(lake.create("unused", rows(0).schema, store=store).append(rows(0)), size)
    yield opened
    for uri in uris.values():
        forget_memory(uri)


def rows(first: int) -> pa.Table:
    ids = np.arange(first, first + ROWS)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(ids, 8).astype("f4")), 8)
    return pa.table([pa.array(ids), vectors, pa.array([f"row {i}" for i in ids])], ["id", "v", "name"])


def cost(store: Store, *, appends: int) -> Usage:
    """Of opening a table and appending to it."""
    metered = MeteredStore(store)
    table = lake.open("unused", store=metered)
    for number in range(appends):
        table.append(rows(10**7 + number * ROWS))
    return metered.usage()


def test_an_append_costs_the_same_however_many_fragments_there_are(stores: dict[int, Store]) -> None:
    """Also over so many commits that manifests are merged and a checkpoint is written. spec: MAN-7"""
    for appends in (1, 40):
        few, many = (cost(stores[size], appends=appends) for size in SIZES)
        assert many.requests == few.requests
        assert many.bytes_written <= 1.05 * few.bytes_written
        assert many.bytes_read <= 1.05 * few.bytes_read + 2000
        # data and vector file; the version and the hint
        assert few.requests["open_writer"] == 2 * appends
        assert few.requests["create"] <= appends + appends // 16
        assert few.requests["put"] <= appends + appends // 32 + 1


def test_opening_and_planning_read_manifests_once(stores: dict[int, Store]) -> None:
    """Manifests that cannot matter are not read; all of them are in one round. spec: COM-6, MAN-7, TAB-8"""
    metered = MeteredStore(stores[20_000])
    table = lake.open("unused", store=metered)
    assert metered.usage().requests == {"get": 2}
    assert metered.usage().bytes_read < 10_000
    assert table.count() == 20_000 * ROWS
    assert table.count(f"id between {7000 * ROWS} and {7001 * ROWS - 1}") == ROWS  # its bounds say so
    assert metered.usage().requests == {"get": 2, "get_ranges": 1}
    assert metered.usage().rounds == 3
    assert metered.usage().bytes_read < 4096 * 100 + 10_000
    metered.reset()
    assert table.take([7000 * ROWS + 3], ["name"])["name"].to_pylist() == ["row 3"]
    assert metered.usage().requests["get_ranges"] <= 3  # the row; its manifest is kept
    request = ScanRequest(columns=("id",), fragments=frozenset({9000}))
    assert table.engine.scan(table.snapshot, request).read_all().num_rows == ROWS
    assert table.count("id < 0 OR _row_id IN (5, 19999999)") == 1
    assert "fragments" not in table.snapshot.__dict__
    assert len(table.snapshot.fragments) == 20_000
    assert metered.usage().requests["get_ranges"] <= 10
    metered.reset()
    assert table.take([7000 * ROWS + 3], ["name"])["name"].to_pylist() == ["row 3"]
    assert len(table.snapshot.fragments._cache) == 1  # no other entry was looked into
    table.append(rows(10**7))
    assert table.count("id < 0") == 0
    assert metered.usage().requests.get("get_ranges", 0) <= 4  # files and manifests are kept


def test_a_replaced_entry_keeps_its_place_without_copying_the_others(stores: dict[int, Store]) -> None:
    """spec: MAN-6"""
    before = lake.open("unused", store=stores[20_000]).snapshot.fragments.table
    moved = [17, 12_345]
    others = np.setdiff1d(np.arange(20_000), moved)
    kept = FragmentTable([before.take(pa.array(others)), before.take(pa.array(moved))])
    assert kept.table.equals(before)
    assert 1 < kept.table.column(0).num_chunks <= 5
    shuffled = before.take(pa.array(np.random.default_rng(0).permutation(20_000)))
    assert FragmentTable([shuffled]).table.equals(before)


def test_rows_by_id_leave_out_the_fragments_that_cannot_hold_them(stores: dict[int, Store]) -> None:
    """Whichever way the filter names them; no other entry is looked into. spec: STAT-7"""
    table = lake.open("unused", store=stores[20_000])
    ids = [3, 7000 * ROWS, 7000 * ROWS + 1, 20_000 * ROWS - 1]
    assert table.count(f"_row_id IN ({', '.join(map(str, ids))})") == 4
    assert table.count(f"_row_id = {ids[1]} OR _row_id = {ids[3]}") == 2
    assert table.count(f"_row_id BETWEEN {ids[1] + 5} AND {ids[1] + 7}") == 3
    assert len(table.snapshot.fragments._cache) == 3
    assert (
        table.count(f"_row_id < {7000 * ROWS}") == 7000 * ROWS
    )  # no file is read for those that match whole
    many = np.random.default_rng(0).choice(10**6, 1000, replace=False).tolist()
    assert len(table.engine.scan_parts(table.snapshot, f"_row_id IN ({', '.join(map(str, many))})")) == len(
        {one // ROWS for one in many}
    )
    assert table.delete(f"_row_id IN ({', '.join(map(str, ids))})").deleted == 4
    assert table.count() == 20_000 * ROWS - 4
