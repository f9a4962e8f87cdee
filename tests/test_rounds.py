"""Rounds and requests on object storage, counted by a server that answers wave by wave: the currency of cold reads.

spec: COM-3 (finding the newest version costs two requests)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from row_samples import Forced
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
    server.latency *= 4  # a busy machine may take that long to start the threads of one round
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


def test_patched_rows_come_in_the_round_of_the_rows_they_lie_over(served) -> None:
    """A patch's rows are known from the manifest: no read needs a round more for them. spec: MAN-9, PAT-4"""
    server, vectors = served
    rows = [7, 12_000, 12_001, 25_000]
    plain = costs(server, vectors, rows)
    table = opened(server)
    new = np.full(DIMENSION, 9.0, "f4").tolist()
    with Forced("patch"):
        table.update({"title": lake.sql("upper(title)"), "vec": new}, "id IN (7, 12001, 25000)")
    laid = costs(server, vectors, rows)
    for read in plain:
        assert laid[read][0] == plain[read][0], read
    assert laid["rows"][1] == plain["rows"][1] + 1  # one file has the patches of all fragments
    assert laid["scan"][1] == plain["scan"][1] + 1
    table = opened(server)
    titles = table.take(rows, ["title"]).column("title").to_pylist()
    assert titles == ["TITLE 7", "title 12000", "TITLE 12001", "TITLE 25000"]
    assert table.take(rows, ["vec"]).column("vec").to_pylist()[2] == new


def costs(server: RangeServer, vectors: np.ndarray, rows: list[int]) -> dict[str, tuple[int, int]]:
    """Rounds and requests of reads of an open table."""
    table = opened(server)
    table.count("id < 0")  # manifests
    found = {}
    for name, job in {
        "rows": lambda: table.take(rows, ["id", "title"]),
        "vectors": lambda: table.take(rows, ["vec"]),
        "search": lambda: table.search(vectors[100], 3, exact=True, select=["_row_id"]),
        "scan": lambda: opened(server).scan(["title"], "_row_id >= 24000").read_all(),
    }.items():
        server.reset()
        job()
        found[name] = (server.rounds(), server.count())
    return found
