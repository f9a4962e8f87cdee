"""Upkeep of indexes: an index catches up with appends, updates and deletes, and is right at every moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pytest
from index_samples import clustered
from pyroaring import BitMap64
from stores.faulty import Fault, FaultyStore, SimulatedCrash, count_calls

import lake_format as lake
from lake_engines import DefaultEngine
from lake_engines.index.drift import drift
from lake_engines.knn.optimize import ShardState, choose_shards
from lake_format.errors import InvalidInputError, LakeError, NotFoundError
from lake_format.index_upkeep import EncodedRows, IndexReport, IndexUpkeepRequest
from lake_format.snapshot import Snapshot
from lake_format.store import Store, forget_memory, open_store
from lake_format.transaction import Surroundings

DIMENSION = 16
SCHEMA = pa.schema([pa.field("id", pa.int64(), False), pa.field("v", pa.list_(pa.float32(), DIMENSION))])
VECTORS, QUERIES = clustered(6000, DIMENSION, queries=40)


def rows(first: int, count: int) -> pa.Table:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(VECTORS[first : first + count].ravel()), DIMENSION)
    return pa.table([pa.array(np.arange(first, first + count)), vectors], SCHEMA)


@pytest.fixture
def store() -> Iterator[Store]:
    uri = f"memory://indexes-{uuid4().hex}"
    yield open_store(uri)
    forget_memory(uri)


@pytest.fixture
def table(store: Store) -> lake.Table:
    made = lake.create("unused", SCHEMA, store=store)
    made.append(rows(0, 3000)).create_index("v", lists=30)
    return made


def shards(table: lake.Table) -> list[int]:
    return [shard.row_count for shard in table.snapshot.version.indexes[0].shards]


def recall(table: lake.Table, k: int = 10) -> float:
    """Of the true neighbours, the share that the index finds, over all queries."""
    found = table.search(QUERIES, k, select=["id"]).to_arrow()["id"].to_numpy()
    true = table.search(QUERIES, k, select=["id"], exact=True).to_arrow()["id"].to_numpy()
    pairs = zip(found.reshape(len(QUERIES), k), true.reshape(len(QUERIES), k), strict=True)
    return float(np.mean([len(set(a) & set(b)) / k for a, b in pairs]))


def flat_rows(table: lake.Table) -> int:
    return int(table.search(QUERIES[0], 5).plan["rows compared exactly"])


def test_rows_appended_since_get_a_shard_of_the_same_model(table: lake.Table) -> None:
    """spec: UPK-20"""
    model = table.snapshot.version.indexes[0].parameters["model_id"]
    table.append(rows(3000, 200))
    assert flat_rows(table) == 200
    [report] = table.optimize_index()
    assert (report.index, report.encoded, report.copied, report.dropped) == ("v_l2", 200, 0, 0)
    assert (report.shards, report.retrained, report.yielded) == (2, "", False)
    assert shards(table) == [3000, 200]
    assert table.snapshot.version.indexes[0].parameters["model_id"] == model
    assert flat_rows(table) == 0
    assert recall(table) >= 0.95
    assert table.verify().ok


def test_small_shards_are_copied_together(table: lake.Table) -> None:
    table.append(rows(3000, 100)).optimize_index()
    table.append(rows(3100, 150)).optimize_index()
    assert shards(table) == [3000, 250]
    [report] = table.append(rows(3250, 750)).optimize_index()
    assert (report.encoded, report.copied, report.shards, shards(table)) == (750, 3250, 1, [4000])
    assert flat_rows(table) == 0
    assert recall(table) >= 0.95
    assert table.verify().ok


def test_nothing_to_do_is_no_commit(table: lake.Table) -> None:
    version = table.version
    assert [one.encoded for one in table.optimize_index()] == [0]
    assert table.version == version


def test_updated_rows_are_encoded_again_and_gone_ones_dropped(table: lake.Table) -> None:
    """spec: IDN-10, UPK-21"""
    moved = VECTORS[5000].tolist()
    table.update({"v": moved}, "id < 400")
    table.delete("id >= 2000")
    assert flat_rows(table) == 400
    [report] = table.optimize_index(retrain=False)
    assert (report.encoded, report.copied, report.dropped) == (400, 1600, 1000)
    entry = table.snapshot.version.indexes[0]
    assert entry.stale is None
    assert shards(table) == [2000]
    assert flat_rows(table) == 0
    near = table.search(VECTORS[5000], 400, select=["id", "_distance"]).to_arrow()
    assert sorted(near["id"].to_pylist()) == list(range(400))
    assert near["_distance"].to_pylist() == [0.0] * 400
    assert table.verify().ok


def test_a_few_stale_rows_leave_a_large_shard_alone(table: lake.Table) -> None:
    table.update({"v": VECTORS[5000].tolist()}, "id < 5")
    version = table.version
    assert [one.shards for one in table.optimize_index()] == [1]
    assert table.version == version
    assert sorted(table.search(VECTORS[5000], 5, select=["id"]).to_arrow()["id"].to_pylist()) == [
        0,
        1,
        2,
        3,
        4,
    ]


def test_drifted_vectors_train_the_model_anew(table: lake.Table) -> None:
    """spec: UPK-22"""
    before = table.snapshot.version.indexes[0]
    far = pa.FixedSizeListArray.from_arrays(pa.array((VECTORS[3000:5000] * -9 + 400).ravel()), DIMENSION)
    table.append(pa.table([pa.array(np.arange(3000, 5000)), far], SCHEMA))
    [report] = table.optimize_index()
    assert "as far from the centroids" in report.retrained
    after = table.snapshot.version.indexes[0]
    assert after.index_id == before.index_id
    assert after.parameters["model_id"] != before.parameters["model_id"]
    assert shards(table) == [5000]
    assert recall(table) >= 0.9  # 0.95 is for queries from all over the vectors; these are from one half


def test_retraining_is_chosen_by_the_caller_too(table: lake.Table) -> None:
    [report] = table.optimize_index(retrain=True)
    assert report.retrained == "asked for"
    assert report.encoded == 3000
    with pytest.raises(InvalidInputError, match="retrain must be True, False or None"):
        table.optimize_index(retrain=1)  # type: ignore[arg-type]
    with pytest.raises(NotFoundError, match="no index 'x'"):
        table.optimize_index("x")


def test_a_small_index_grows_into_one_with_codes(store: Store) -> None:
    table = lake.create("unused", SCHEMA, store=store)
    table.append(rows(0, 500)).create_index("v")
    table.append(rows(500, 100)).optimize_index()
    assert shards(table) == [600]
    [report] = table.append(rows(600, 900)).optimize_index()
    assert report.retrained == "there are enough rows for codes now"
    assert table.snapshot.version.indexes[0].kind == "ivf-pq4"
    assert recall(table) >= 0.95


def test_an_index_of_no_rows_starts_over(table: lake.Table) -> None:
    table.delete("true")
    table.optimize_index()
    assert shards(table) == []
    assert len(table.search(QUERIES[0], 3).to_arrow()) == 0
    table.append(rows(0, 2000)).optimize_index()
    assert shards(table) == [2000]
    assert recall(table) >= 0.95


def test_appends_are_indexed_at_once_where_wanted(table: lake.Table) -> None:
    """spec: IDN-9, UPK-20"""
    other = lake.open("unused", store=table.snapshot.store)
    table.set_properties({"write.index-on-append": True})
    other.refresh().append(rows(3000, 300))
    table.append(rows(3300, 300))  # prepared on the version before: its row ids move on
    assert shards(table) == [3000, 300, 300]
    assert flat_rows(table) == 0
    assert recall(table) >= 0.95
    found = table.search(VECTORS[3300:3310], 1, select=["id", "_distance"]).to_arrow()
    assert found["id"].to_pylist() == list(range(3300, 3310))
    assert table.verify().ok
    table.set_properties({"write.index-on-append": None})
    assert table.properties == {}
    table.append(rows(3600, 10))
    assert flat_rows(table) == 10
    table.optimize_index()
    assert (shards(table), flat_rows(table)) == ([3610], 0)


def test_a_bad_vector_leaves_nothing_behind_an_append(table: lake.Table) -> None:
    table.set_properties({"write.index-on-append": True})
    before = {info.path for info in table.snapshot.store.list("")}
    bad = pa.FixedSizeListArray.from_arrays(pa.array([float("nan")] * DIMENSION, pa.float32()), DIMENSION)
    with pytest.raises(InvalidInputError, match="row id 3000 of column 'v' holds NaN"):
        table.append(pa.table([pa.array([1]), bad], SCHEMA))
    assert {info.path for info in table.snapshot.store.list("")} == before


def interfere(table: lake.Table, work: Callable[[lake.Table], object]) -> list[IndexReport]:
    """Optimize while somebody else does something after the shards were built and before they are committed."""
    other = lake.open("unused", store=table.snapshot.store)
    optimize = DefaultEngine.optimize_index

    class Interrupted(DefaultEngine):
        def optimize_index(self, snapshot: Snapshot, request: IndexUpkeepRequest) -> EncodedRows | None:
            found = optimize(self, snapshot, request)
            work(other)
            return found

    return lake.open("unused", store=table.snapshot.store, engine=Interrupted()).optimize_index(retrain=False)


def test_users_work_goes_first(table: lake.Table) -> None:
    """spec: CON-8, IDN-10"""
    table.append(rows(3000, 200))
    vector = VECTORS[5500].tolist()
    [report] = interfere(table, lambda other: other.update({"v": vector}, "id in (5, 3005)"))
    assert (report.encoded, report.yielded) == (200, False)
    table.refresh()
    assert BitMap64.deserialize(table.snapshot.version.indexes[0].stale).to_array().tolist() == [5, 3005]
    assert sorted(table.search(VECTORS[5500], 2, select=["id"]).to_arrow()["id"].to_pylist()) == [5, 3005]
    table.append(rows(3200, 200))
    before = {info.path for info in table.snapshot.store.list("_lake/indexes/")}
    [report] = interfere(table, lambda other: other.drop_index("v_l2"))
    assert report.yielded
    assert {info.path for info in table.snapshot.store.list("_lake/indexes/")} == before
    table.refresh().create_index("v", lists=30).append(rows(3400, 100))
    [report] = interfere(table, lambda other: other.optimize_index())
    assert report.yielded
    table.refresh().append(rows(3500, 100))
    [report] = interfere(table, lambda other: other.drop_column("v"))
    assert report.yielded


def test_rows_of_a_compaction_meanwhile_are_found_again(table: lake.Table) -> None:
    table.append(rows(3000, 200)).delete("id % 7 = 0")
    [report] = interfere(
        table, lambda other: (other.compact(target_rows=10_000), other.rename_column("v", "w"))
    )
    assert not report.yielded
    assert flat_rows(table.refresh()) == 0
    assert recall(table) >= 0.95
    assert table.verify().ok


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(
    ("fault", "step"),
    [
        (Fault.CRASH_AFTER, 2),
        (Fault.LOSE_RESPONSE, 3),
        pytest.param(Fault.CRASH_AFTER, 1, marks=pytest.mark.long),
        pytest.param(Fault.CRASH_BEFORE, 1, marks=pytest.mark.long),
        pytest.param(Fault.LOSE_REQUEST, 1, marks=pytest.mark.long),
    ],
)
def test_a_fault_at_any_call_leaves_an_index_that_is_right(
    table: lake.Table, fault: Fault, step: int
) -> None:
    """spec: IDN-10"""
    table.append(rows(3000, 100)).update({"v": VECTORS[5500].tolist()}, "id < 40")
    store = table.snapshot.store
    objects = {info.path: store.get(info.path) for info in store.list("")}

    def copied() -> Store:
        made = open_store(f"memory://indexes-{uuid4().hex}")
        for path, data in objects.items():
            made.create(path, data)
        return made

    def job(faulty: Store) -> None:
        around = Surroundings(sleep=lambda _seconds: None)
        lake.open("unused", store=faulty, surroundings=around).optimize_index()

    for call in range(0, count_calls(job, copied()), step):
        faulty = FaultyStore(copied(), {call: fault})
        with suppress(LakeError, SimulatedCrash):
            job(faulty)
        faulty.revive()
        after = lake.open("unused", store=faulty.inner)
        found = after.search(VECTORS[5500], 40, select=["id"]).to_arrow()["id"].to_pylist()
        assert sorted(found) == list(range(40)), call
        after.optimize_index()
        assert flat_rows(after) == 0
        assert after.verify().ok, call
        forget_memory(faulty.inner.uri)


def test_which_shards_are_written_anew() -> None:
    """spec: UPK-23"""
    large, small = ShardState(100_000, 100_000, 0), ShardState(500, 500, 0)
    assert choose_shards([large], 0) == []
    assert choose_shards([large], 5000) == []
    assert choose_shards([large, small], 5000) == [1]
    assert choose_shards([large, small], 0) == []
    assert choose_shards([large, small, small], 0) == [1, 2]
    assert choose_shards([large], 20_000) == [0]
    assert choose_shards([ShardState(1000, 850, 0)], 0) == [0]
    assert choose_shards([ShardState(1000, 985, 15)], 0) == [0]
    assert choose_shards([ShardState(1000, 1000, 0, fits=False)], 0) == [0]
    steps = [ShardState(rows, rows, 0) for rows in (10, 1000, 100_000, 10_000_000, 1_000_000_000)]
    assert choose_shards(steps, 0) == []
    assert choose_shards(steps, 9) == [0]
    assert choose_shards([large, small, small], 10) == [1, 2]


def test_drift_is_measured_against_the_training() -> None:
    """spec: UPK-22"""
    notes = {"lists": 30, "trained_rows": 3000, "training_error": 0.5}
    assert drift(notes, 3000, 0.6) == ""
    assert "trained on 3,000 rows, and there are 9,001" in drift(notes, 9001, 0.5)
    assert "1.4 times as far" in drift(notes, 3000, 0.7)
    assert drift({}, 1023, 0.0) == ""
    assert "enough rows" in drift({}, 1024, 0.0)
    assert drift({"lists": 30}, 10**6, 9.0) == ""
