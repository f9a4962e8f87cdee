"""Clustering: the same rows with the same ids in a better order; users' work first, indexes untouched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pytest
from index_samples import clustered
from stores.faulty import FaultyStore
from stores.range_server import RangeServer

import lake_format as lake
from lake_engines import DefaultEngine
from lake_engines.filters import compile_filter
from lake_engines.scan import prune
from lake_format.clustering import Clustering
from lake_format.errors import InvalidInputError, NotFoundError, StorageError
from lake_format.store import forget_memory, open_store

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), False),
        ("x", pa.float64()),
        ("y", pa.int32()),
        ("v", pa.list_(pa.float32(), 8)),
    ]
)


@pytest.fixture
def uri() -> Iterator[str]:
    made = f"memory://cluster-{uuid4().hex}"
    yield made
    forget_memory(made)


def rows(count: int, first: int = 0, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    vectors, _ = clustered(count, 8, seed)
    return pa.table(
        [
            np.arange(first, first + count),
            rng.random(count),
            rng.integers(0, 1000, count).astype("i4"),
            pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 8),
        ],
        SCHEMA,
    )


def make(uri: str, count: int = 4000, fragment_rows: int = 250, **options: Any) -> lake.Table:
    table = lake.create(uri, SCHEMA, properties={"write.fragment-rows": fragment_rows}, **options)
    return table.append(rows(count))


def contents(table: lake.Table) -> dict[int, dict[str, Any]]:
    found = table.scan(["_row_id", *table.schema.names]).read_all().to_pylist()
    by_id = {row.pop("_row_id"): row for row in found}
    assert len(by_id) == len(found) == table.count()
    return by_id


def kept(table: lake.Table, where: str) -> int:
    return len(prune(table.snapshot, compile_filter(table.snapshot, where)))


def by(table: lake.Table, strategy: str) -> lake.Table:
    return table.set_properties({"write.update-strategy": strategy})


BOX = "x BETWEEN 0.4 AND 0.5 AND y BETWEEN 300 AND 400"


@pytest.mark.parametrize("method", ["hilbert", "zorder"])
def test_filters_on_two_columns_read_few_fragments(uri: str, method: str) -> None:
    """spec: CLU-2, CLU-3"""
    table = make(uri)
    before, count = contents(table), table.count(BOX)
    assert kept(table, BOX) == 16
    report = table.cluster(["x", "y"], method=method, group_rows=4000)
    assert (report.commits, report.fragments_added, report.rows) == (1, 16, 4000)
    assert kept(table, BOX) <= 4
    assert (contents(table), table.count(BOX)) == (before, count)
    assert table.inspect.fragments()["clustering"].to_pylist() == [f"{method}:2,3"] * 16
    assert table.verify().problems == []
    assert lake.open(uri).versions()[-1]["operation"] == "cluster"


def test_one_column_is_sorted_within_a_group(uri: str) -> None:
    assert make(uri).cluster("x", group_rows=4000).commits == 1
    found = lake.open(uri).scan(["x"]).read_all()["x"].to_numpy()
    assert (np.diff(found) >= 0).all()


def test_what_is_clustered_is_left_alone(uri: str) -> None:
    """spec: CLU-1"""
    table = make(uri)
    table.cluster(["x", "y"])
    version = table.version
    assert table.cluster(["x", "y"]).commits == 0
    assert table.version == version
    table.append(rows(500, 4000, seed=1))
    assert table.cluster(["x", "y"]).fragments_removed == 2
    assert table.cluster(["x", "y"]).commits == 0
    assert table.cluster(["x", "y"], everything=True).fragments_removed == 18
    assert table.cluster(["y", "x"]).fragments_removed == 18


def test_rows_are_written_in_the_order_of_the_table(uri: str) -> None:
    """spec: CLU-1, CLU-2"""
    table = make(uri, cluster_by=["x", "y"])
    assert table.clustering == ("hilbert", ["x", "y"])
    assert kept(table, BOX) <= 4
    assert table.cluster().commits == 0
    assert {row["id"] for row in contents(table).values()} == set(range(4000))
    for seed in range(3):
        table.append(rows(60, 4000 + 60 * seed, seed))
    assert table.compact().fragments_added == 1
    assert table.inspect.fragments()["clustering"].null_count == 0
    table.set_clustering("x")
    assert table.clustering == ("linear", ["x"])
    table.rename_column("x", "z").append(rows(100, 9000).rename_columns(["id", "z", "y", "v"]))
    assert (np.diff(table.scan(["z"], where="id >= 9000").read_all()["z"].to_numpy()) >= 0).all()
    table.drop_column("z")
    assert table.clustering is None
    with pytest.raises(InvalidInputError, match="no clustering of its own"):
        table.cluster()
    table.set_clustering(None).append(rows(10, 20_000).drop_columns(["x"]))


def test_new_values_of_a_clustered_column_end_the_order(uri: str) -> None:
    """spec: CLU-4"""
    table = make(uri, 40_000, 20_000)
    table.cluster("y")
    assert table.update({"x": 1.0}).strategy == "rewrite"
    assert table.inspect.fragments()["clustering"].to_pylist() == ["linear:3"] * 2
    assert table.update({"y": 1}).strategy == "rewrite"
    assert table.inspect.fragments()["clustering"].to_pylist() == [None] * 2


@pytest.mark.parametrize("text", ["", "hilbert", "hilbert:", "spiral:1", "vector:1,x", "linear:1;2"])
def test_unknown_orders_count_as_none(text: str) -> None:
    """spec: CLU-2"""
    assert Clustering.parse(text) is None
    stored = Clustering(method="vector", field_ids=(4,), index_id="ab-1")
    assert Clustering.parse(str(stored)) == stored


@pytest.mark.parametrize("partition_by", [[], ["bucket(2, id)"]])
def test_searches_after_clustering_are_exact_and_indexes_untouched(uri: str, partition_by: list[str]) -> None:
    """spec: CLU-3, UPK-3"""
    table = make(uri, partition_by=partition_by).create_index("v", lists=20)
    table.delete("y < 50")
    before, indexes = contents(table), table.snapshot.version.indexes
    _, queries = clustered(4000, 8, queries=5)
    wanted = [table.search(query, k=10, exact=True).to_arrow()["_row_id"].to_pylist() for query in queries]
    for order in ({"vector": "v"}, {"columns": ["x", "y"]}):
        assert table.cluster(**order).commits > 0
        assert table.snapshot.version.indexes == indexes
        assert contents(table) == before
        for query, ids in zip(queries, wanted, strict=True):
            assert table.search(query, k=10, recall=1.0).to_arrow()["_row_id"].to_pylist() == ids
        assert table.verify().problems == []
    assert table.snapshot.version.row_count == len(before)


def test_rows_of_a_search_lie_close_together_in_the_order_of_the_index(
    range_server: Callable[..., RangeServer],
) -> None:
    """spec: CLU-2"""
    server = range_server()
    options = {"storage_options": server.storage_options}
    vectors, queries = clustered(8_000, 64, queries=5)
    schema = pa.schema([("v", pa.list_(pa.float32(), 64))])
    table = lake.create(server.uri("t"), schema, **options)
    table.append({"v": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 64)})
    table.create_index("v", lists=40)

    def cost() -> tuple[list[list[int]], int, int]:
        """What a cold search finds, its requests, and the pages of 4 KiB that the rows found lie in."""
        remote = lake.open(server.uri("t"), **options)
        places = remote.snapshot.locations
        server.reset()
        found = [remote.search(query, k=50).to_arrow()["_row_id"].to_pylist() for query in queries]
        pages = [set((places.locate(np.array(ids, np.uint64))[1] // 16).tolist()) for ids in found]
        return found, server.count(), sum(map(len, pages))

    before = cost()
    assert table.cluster(vector="v").commits == 1
    assert table.cluster(vector="v").commits == 0
    after = cost()
    assert after[0] == before[0]
    assert after[1] < before[1]
    assert after[2] < 0.6 * before[2]


class _Meddling(DefaultEngine):
    """Lets others do something between the writing of new files and their commit."""

    def __init__(self, meddle: Callable[[], object]) -> None:
        super().__init__()
        self._meddle: Callable[[], object] | None = meddle

    def rewrite(self, snapshot: Any, request: Any) -> Any:
        done = super().rewrite(snapshot, request)
        if self._meddle is not None:
            meddle, self._meddle = self._meddle, None
            meddle()
        return done


@pytest.mark.parametrize(
    ("meddle", "commits", "yielded"),
    [
        (lambda other: other.delete("id % 7 = 0"), 2, 0),
        (lambda other: by(other, "move").update({"y": 5}, where="id = 11"), 2, 0),
        (lambda other: by(other, "patch").update({"y": 5}, where="id = 11"), 1, 1),
        (lambda other: other.update({"y": 5}), 0, 2),  # fragments are rewritten, the second group's too
        (lambda other: other.upsert(rows(30, 3990, seed=5), on="id"), 2, 0),
        (lambda other: other.append(rows(10, 5000)), 2, 0),
        (lambda other: (other.delete("id % 5 = 0"), other.compact(deleted_share=0.1)), 0, 2),
        (lambda other: other.cluster("y"), 0, 2),
        (lambda other: other.overwrite(rows(5, 7000), where="x < 0.3"), 2, 0),
        (lambda other: other.set_partitioning("y"), 2, 0),
    ],
    ids=[
        "delete",
        "move",
        "patch",
        "rewrite",
        "upsert",
        "append",
        "compact",
        "cluster",
        "overwrite",
        "partition",
    ],
)
def test_users_work_goes_first(uri: str, meddle: Any, commits: int, yielded: int) -> None:
    """spec: CLU-3, IDN-12, CON-8"""
    twin = f"{uri}-twin"
    for one in (uri, twin):
        make(one)
    expected = lake.open(twin)
    meddle(expected)
    table = lake.open(uri, engine=_Meddling(lambda: meddle(lake.open(uri))))
    report = table.cluster(["x", "y"])
    assert report.commits in (commits, commits + (yielded > 0))
    assert report.yielded >= (1 if yielded else 0)
    assert contents(lake.open(uri)) == contents(expected)
    assert lake.open(uri).verify().problems == []
    forget_memory(twin)


def test_a_clustering_that_is_interrupted_keeps_what_is_done(uri: str) -> None:
    """spec: CLU-3"""
    table = make(uri)
    before = contents(table)

    def fail(snapshot: Any, request: Any) -> Any:
        if table.inspect.fragments()["clustering"].null_count < 16:
            raise StorageError("no more")
        return DefaultEngine.rewrite(engine, snapshot, request)

    engine = DefaultEngine()
    engine.rewrite = fail  # type: ignore[method-assign]
    table = lake.open(uri, engine=engine)
    with pytest.raises(StorageError):
        table.cluster("x", group_rows=1000)
    again = lake.open(uri)
    assert again.inspect.fragments()["clustering"].null_count == 12
    assert again.cluster("x", group_rows=1000).commits == 3
    assert contents(again) == before


def test_files_of_a_failed_clustering_are_removed(uri: str) -> None:
    store = FaultyStore(open_store(uri))
    table = make(uri)
    files = {info.path for info in store.list("data/")}
    meddled = lake.open("unused", store=store, engine=_Meddling(lambda: lake.open(uri).update({"y": 1})))
    meddled.cluster("x", group_rows=4000)
    version = table.refresh().snapshot
    named = {group.path for one in version.fragments.fragments() for group in one.groups}
    assert {info.path for info in store.list("data/")} == files | named


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no clustering of its own"),
        ({"columns": "nothing"}, "nothing"),
        ({"columns": "v"}, "no order"),
        ({"columns": ["x", "x"]}, "twice"),
        ({"columns": ["x"], "method": "spiral"}, "spiral"),
        ({"columns": []}, "1 to 16"),
        ({"columns": "x", "vector": "v"}, "not by both"),
        ({"columns": "x", "group_rows": 0}, "group_rows"),
    ],
)
def test_bad_input_is_named(uri: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        lake.create(uri, SCHEMA).cluster(**options)


def test_a_vector_without_index_cannot_be_clustered_by(uri: str) -> None:
    with pytest.raises(NotFoundError, match="no index"):
        lake.create(uri, SCHEMA).cluster(vector="v")
