"""Jobs on a real cluster of two workers, while executors and drivers are killed: no row lost, none doubled."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from index_samples import clustered
from spark_session import need_java

import lake_format as lake

pytestmark = pytest.mark.long
SCHEMA = pa.schema([("id", pa.int64()), ("vec", pa.list_(pa.float32(), 16))])
VECTORS, QUERIES = clustered(4000, 16, queries=30)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    need_java()
    from spark_cluster import Cluster

    made = Cluster(tmp_path_factory.mktemp("cluster"))
    yield made
    made.stop()


@pytest.fixture(scope="module")
def drivers(cluster: Any) -> Iterator[Any]:
    from spark_cluster import Drivers

    made = Drivers(cluster)
    yield made
    made.stop()


@pytest.fixture
def table(tmp_path: Path) -> lake.Table:
    made = lake.create(str(tmp_path / "items"), SCHEMA)
    for part in np.split(np.arange(4000), 4):
        values = pa.FixedSizeListArray.from_arrays(pa.array(VECTORS[part].ravel()), 16)
        made.append(pa.table({"id": part, "vec": values}, schema=SCHEMA))
    return made


def held(table: lake.Table) -> list[int]:
    return sorted(table.refresh().scan(["id"]).read_all().column("id").to_pylist())


def nothing_is_left(table: lake.Table) -> None:
    """What was written in vain is garbage and can be collected; what counts is whole."""
    before = held(table)
    table.set_properties({"user.note": "the last commit"})
    table.expire_versions(timedelta(0))
    table.collect_garbage(dry_run=False, grace=timedelta(0))
    assert held(table) == before
    assert not table.verify().problems
    named = {file["path"] for file in table.inspect.files().to_pylist()}
    assert {info.path for info in table.snapshot.store.list("data/")} == named


def test_reads_and_writes(drivers: Any, table: lake.Table) -> None:
    driver = drivers.one()
    assert driver.run("ids", uri=table.uri, where="id < 5 OR id >= 3998") == [0, 1, 2, 3, 4, 3998, 3999]
    driver.run("append", uri=table.uri, start=5000, stop=5100)
    assert held(table) == [*range(4000), *range(5000, 5100)]
    assert table.version == 6
    driver.run("append", uri=table.uri, start=0, stop=10, mode="overwrite")
    assert (held(table), table.version) == (list(range(10)), 7)
    nothing_is_left(table)


@pytest.mark.parametrize("fault", ["python", "executor"])
def test_a_task_whose_process_is_killed_is_done_again(
    cluster: Any, drivers: Any, table: lake.Table, tmp_path: Path, fault: str
) -> None:
    """spec: COM-1"""
    mark, driver = tmp_path / "killed", drivers.one()
    driver.run("ids", uri=table.uri, where="id < 3")  # executors are there
    before = set(cluster.executors())
    driver.run("append", uri=table.uri, start=5000, stop=5100, fault=fault, mark=str(mark))
    assert mark.exists()
    assert (before <= set(cluster.executors())) == (fault == "python")
    assert held(table) == [*range(4000), *range(5000, 5100)]
    assert table.version == 6
    nothing_is_left(table)


def test_a_column_is_whole_although_an_executor_died(drivers: Any, table: lake.Table, tmp_path: Path) -> None:
    mark = tmp_path / "killed"
    drivers.one().run("add_column", uri=table.uri, mark=str(mark))
    assert mark.exists()
    found = table.refresh().scan(["id", "twice"]).read_all().to_pydict()
    assert found["twice"] == [2 * one for one in found["id"]]
    nothing_is_left(table)


def test_an_index_is_whole_although_an_executor_died(
    cluster: Any, drivers: Any, table: lake.Table, tmp_path: Path
) -> None:
    """It answers as the one that is built at once; rows appended meanwhile are found too. spec: IDX-14, IDN-10"""
    from spark_cluster import wait_until

    driver = drivers.one()
    driver.run("ids", uri=table.uri, where="id < 3")  # executors are there
    driver.start("create_index", uri=table.uri)
    wait_until("the model", lambda: list(table.snapshot.store.list("_lake/indexes/")))
    os.kill(cluster.executors()[0], signal.SIGKILL)
    assert not lake.open(table.uri).snapshot.version.indexes
    late = pa.FixedSizeListArray.from_arrays(pa.array(QUERIES[0]), 16)
    lake.open(table.uri).append(pa.table({"id": [9000], "vec": late}, schema=SCHEMA))
    driver.result()
    (entry,) = table.refresh().snapshot.version.indexes
    assert sum(shard.row_count for shard in entry.shards) == 4000
    assert table.search(QUERIES[0], 1, select=["id"]).to_arrow().column("id").to_pylist() == [9000]
    found, other = (
        each.search(QUERIES[1:], 10, select=["id"]).to_arrow().column("id").to_pylist()
        for each in (table, lake.open(table.uri, 5).clone(str(tmp_path / "local")).create_index("vec"))
    )
    assert found == other
    nothing_is_left(table)


def test_a_driver_killed_before_its_commit_leaves_the_table_as_it_was(
    drivers: Any, table: lake.Table, tmp_path: Path
) -> None:
    """spec: COM-1, UPK-6"""
    from spark_cluster import wait_until

    mark, driver = tmp_path / "waits", drivers.one()
    driver.start("append", uri=table.uri, start=5000, stop=5100, fault="wait", mark=str(mark), job=1)
    wait_until("a task is half done", mark.exists)
    fresh = drivers.one(fresh=True)
    assert (held(table), table.version) == (list(range(4000)), 5)
    fresh.run("append", uri=table.uri, start=5000, stop=5100, job=1)
    assert held(table) == [*range(4000), *range(5000, 5100)]
    nothing_is_left(table)


def test_a_driver_killed_after_its_commit_is_run_again_and_writes_nothing_twice(
    drivers: Any, table: lake.Table
) -> None:
    from spark_cluster import wait_until

    drivers.one().start("append", uri=table.uri, start=5000, stop=5100, job=1)
    wait_until("the commit", lambda: table.refresh().version == 6)
    drivers.one(fresh=True).run("append", uri=table.uri, start=5000, stop=5100, job=1)
    assert (held(table), table.version) == ([*range(4000), *range(5000, 5100)], 6)
    nothing_is_left(table)


def test_two_jobs_at_once_lose_and_double_nothing(drivers: Any, table: lake.Table) -> None:
    """spec: COM-3"""
    both = drivers.two()
    for driver in both:
        driver.run("ids", uri=table.uri, where="id < 3")  # executors are there
    for driver, start in zip(both, (5000, 6000), strict=True):
        driver.start("append", uri=table.uri, start=start, stop=start + 100)
    assert [driver.result() for driver in both] == [None, None]
    expected = [*range(4000), *range(5000, 5100), *range(6000, 6100)]
    assert (held(table), table.version) == (expected, 7)
    for driver in both:  # the same job, started twice
        driver.start("append", uri=table.uri, start=8000, stop=8050, job=7)
    assert [driver.result() for driver in both] == [None, None]
    assert (held(table), table.version) == ([*expected, *range(8000, 8050)], 8)
    nothing_is_left(table)
