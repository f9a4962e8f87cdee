"""Rounds and requests on object storage, counted by a server that answers wave by wave: the currency of cold reads.

spec: COM-3 (finding the newest version costs two requests)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from stores.range_server import RangeServer

import lake_format as lake

ROWS, DIMENSION, APPENDS = 30_000, 32, 3


@pytest.fixture
def served(range_server: Callable[..., RangeServer]) -> tuple[RangeServer, np.ndarray]:
    """An indexed table of three fragments behind a counting server."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(100, DIMENSION))
    vectors = (centres[random.integers(0, 100, ROWS)] + 0.5 * random.normal(size=(ROWS, DIMENSION))).astype(
        "f4"
    )
    server = range_server(waves=True)
    schema = pa.schema(
        [("id", pa.int64()), ("title", pa.string()), ("vec", pa.list_(pa.float32(), DIMENSION))]
    )
    table = lake.create(server.uri("t"), schema, storage_options=server.storage_options)
    for ids in np.array_split(np.arange(ROWS), APPENDS):
        table.append(
            {
                "id": ids,
                "title": [f"title {number}" for number in ids],
                "vec": pa.FixedSizeListArray.from_arrays(pa.array(vectors[ids].reshape(-1)), DIMENSION),
            }
        )
    table.create_index("vec")
    server.reset()
    return server, vectors


def opened(server: RangeServer) -> lake.Table:
    return lake.open(server.uri("t"), storage_options=server.storage_options)


def test_opening_takes_two_rounds_and_brings_the_index_head_along(served) -> None:
    server, _ = served
    opened(server)
    # hint; then, side by side, the probe for a newer version and the index head
    assert (server.rounds(), server.count()) == (2, 3)


def test_a_cold_search_with_rows_takes_five_rounds(served) -> None:
    server, vectors = served
    found = opened(server).search(vectors[777] + 0.01, 10, select=["id", "title", "_distance"]).to_arrow()
    assert found.column("id")[0].as_py() == 777
    # hint; probe and head; lists; candidate vectors; rows of all fragments and groups at once
    assert server.rounds() == 5


def test_a_search_of_an_open_table_takes_two_rounds_and_the_rows_one_more(served) -> None:
    server, vectors = served
    table = opened(server)
    server.reset()
    table.search(vectors[5] + 0.01, 10, select=["_row_id", "_distance"])
    assert server.rounds() == 2
    server.reset()
    table.search(vectors[5] + 0.01, 10, select=["_row_id", "_distance"])
    assert server.rounds() == 1  # its lists are kept
    server.reset()
    table.search(vectors[5] + 0.01, 10, select=["id", "title", "_distance"])
    assert server.rounds() == 2


def test_rows_of_many_fragments_and_groups_come_in_one_round(served) -> None:
    server, _ = served
    table = opened(server)
    server.reset()
    found = table.take([5, 20_000, 29_999, 12_345, 5], ["title", "vec"])
    assert found.column("title").to_pylist() == [f"title {n}" for n in (5, 20_000, 29_999, 12_345, 5)]
    assert server.rounds() == 1


def test_row_vectors_cost_their_bytes_and_no_more(served) -> None:
    server, _ = served
    table = opened(server)
    server.reset()
    table.take([5, 15_000], ["vec"])
    assert server.bytes_sent() == 2 * DIMENSION * 4


def test_counting_rows_of_an_open_table_costs_nothing(served) -> None:
    server, _ = served
    table = opened(server)
    server.reset()
    assert table.count() == ROWS
    assert table.count("id >= 0") == ROWS  # every fragment's statistics say so
    assert table.count("id > 1000000") == 0
    assert server.count() == 0
