"""Many processes build one index: it is the one built at once, and nothing of it is seen before its commit."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import Location
from index_samples import clustered

import lake_format as lake
from lake_format.model import IndexEntry

SCHEMA = pa.schema([("id", pa.int64()), ("vec", pa.list_(pa.float32(), 16))])
VECTORS, QUERIES = clustered(3000, 16, seed=3, queries=40)


def rows(start: int, stop: int) -> pa.Table:
    values = pa.array(VECTORS[start:stop].ravel())
    return pa.table(
        {"id": np.arange(start, stop), "vec": pa.FixedSizeListArray.from_arrays(values, 16)}, schema=SCHEMA
    )


def made(place: Location | Path, bounds: tuple[int, ...] = (0, 500, 1250, 2000, 3000)) -> lake.Table:
    location = place if isinstance(place, Location) else Location(str(place / "table"))
    table = lake.create(location.uri, SCHEMA, storage_options=location.storage_options)
    for start, stop in pairwise(bounds):
        table.append(rows(start, stop))
    return table


def build(table: lake.Table, parts: int = 4, **options: object) -> lake.Table:
    plan = table.plan_index("vec", parts=parts, **options)
    parts = [[table.index_part(task, threads=1) for task in shard] for shard in plan]
    whole = [table.join_index_parts(shard, threads=1) for shard in parts]
    return table.commit_index(whole)


def answers(table: lake.Table, **options: object) -> list[list[int]]:
    found = table.search(QUERIES, 10, select=["_row_id"], **options).to_arrow().column("_row_id").to_pylist()
    return [found[start : start + 10] for start in range(0, len(found), 10)]


def recall(table: lake.Table) -> float:
    pairs = zip(answers(table), answers(table, exact=True), strict=True)
    return sum(len(set(one) & set(other)) for one, other in pairs) / (10 * len(QUERIES))


def index_files(table: lake.Table) -> set[str]:
    return {info.path for info in table.snapshot.store.list("_lake/indexes/")}


@pytest.fixture(scope="module")
def built_at_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[list[int]], IndexEntry]:
    """What the index finds that one call built, and its entry."""
    local = made(tmp_path_factory.mktemp("local")).create_index("vec")
    return answers(local), local.snapshot.version.indexes[0]


def test_it_is_the_index_that_is_built_at_once(
    table_uri: Location, built_at_once: tuple[list[list[int]], IndexEntry]
) -> None:
    """spec: IDX-14, UPK-23"""
    table = build(made(table_uri))
    local, expected = built_at_once
    assert answers(table) == local
    entry = table.snapshot.version.indexes[0]
    assert (entry.kind, entry.parameters) == (expected.kind, expected.parameters)
    assert [shard.row_count for shard in entry.shards] == [3000]
    assert entry.shards[0].size == expected.shards[0].size
    assert index_files(table) == {entry.shards[0].path}, "the model and the parts are gone"
    assert not table.verify().problems
    assert table.optimize_index()[0].encoded == 0


@pytest.mark.parametrize("shards", [pytest.param(2, marks=pytest.mark.long), 4])
def test_several_shards_of_one_size_find_as_much(tmp_path: Path, shards: int) -> None:
    """Each is measured among its own rows; what is taken of all of them together has to be more. spec: IDX-8"""
    vectors, queries = clustered(4800, 24, queries=100)
    schema = pa.schema([("vec", pa.list_(pa.float32(), 24))])
    table = lake.create(str(tmp_path / "table"), schema)
    for part in np.split(vectors, 4):
        table.append(
            pa.table({"vec": pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), 24)}, schema=schema)
        )
    build(table, parts=4, shard_rows=4800 // shards)
    assert len(table.snapshot.version.indexes[0].shards) == shards
    for asked in (0.9, 0.95):
        found, true = (
            np.reshape(table.search(queries, 10, select=["_row_id"], **how).to_arrow()["_row_id"], (100, 10))
            for how in ({"recall": asked}, {"exact": True})
        )
        assert sum(len(np.intersect1d(*pair)) for pair in zip(found, true, strict=True)) >= 1000 * asked


def test_shards_of_several_fragments_are_put_together_by_copying(tmp_path: Path) -> None:
    table = build(made(tmp_path), parts=4, shard_rows=1500)
    assert [shard.row_count for shard in table.snapshot.version.indexes[0].shards] == [1250, 1750]
    assert recall(table) >= 0.95
    assert not table.verify().problems
    report = table.optimize_index()[0]
    assert (report.copied, report.encoded, report.shards) == (3000, 0, 1)


def test_nothing_is_seen_before_the_commit_and_what_is_left_is_garbage(tmp_path: Path) -> None:
    """spec: COM-1, UPK-6"""
    table = made(tmp_path)
    before = table.version
    (tasks,) = table.plan_index("vec", parts=2)
    table.join_index_parts([table.index_part(task) for task in tasks])
    assert table.refresh().version == before
    assert not table.snapshot.version.indexes
    assert len(index_files(table)) == 4
    table.append(rows(0, 5)).expire_versions(timedelta(0))
    assert len(table.collect_garbage(dry_run=False, grace=timedelta(0)).objects) == 4
    assert not index_files(table)
    assert not table.verify().problems


def test_rows_that_others_write_meanwhile_are_found_at_once(tmp_path: Path) -> None:
    """spec: IDN-10"""
    table = made(tmp_path, (0, 700, 1500))
    plan = table.plan_index("vec", parts=2)
    other = lake.open(table.uri)
    other.append(rows(1500, 3000))
    other.delete("id BETWEEN 100 AND 199")
    other.update({"vec": VECTORS[2999].tolist()}, where="id = 7")
    other.compact()
    whole = [table.join_index_parts([table.index_part(task) for task in shard]) for shard in plan]
    table.commit_index(whole)
    found = table.search(VECTORS[2999], 2, select=["id"]).to_arrow().column("id").to_pylist()
    assert sorted(found) == [7, 2999]
    assert table.search(VECTORS[150], 1, select=["id"]).to_arrow().column("id").to_pylist() != [150]
    assert recall(table) >= 0.95
    assert table.optimize_index()[0].encoded == 1501
    assert not table.verify().problems


def test_rows_without_vector_and_few_rows(tmp_path: Path) -> None:
    table = made(tmp_path, (0, 800, 1600))
    nothing = pa.array([None] * 50, SCHEMA.field("vec").type)
    table.append(pa.table({"id": np.arange(50), "vec": nothing}, schema=SCHEMA))
    build(table, parts=3)
    assert table.snapshot.version.indexes[0].shards[0].row_count == 1600
    assert recall(table) >= 0.95
    few = build(made(tmp_path / "few", (0, 300, 900)), parts=2, name="mine", metric="cosine", refine=False)
    entry = few.snapshot.version.indexes[0]
    assert (entry.kind, entry.name, entry.metric, len(entry.shards)) == ("flat", "mine", "cosine", 1)
    assert answers(few) == answers(few, exact=True, metric="cosine")
    assert not few.verify().problems


def test_parts_come_from_other_processes_at_the_planned_version(tmp_path: Path) -> None:
    table = made(tmp_path)
    (tasks,) = table.plan_index("vec", parts=2)
    table.append(rows(0, 10))
    script = """import sys, lake_format as lake
print(lake.open(sys.argv[1]).index_part(bytes.fromhex(sys.argv[2]), threads=1).hex())"""
    command = [sys.executable, "-c", script, table.uri, tasks[0].hex()]
    parts = [table.index_part(tasks[1]), bytes.fromhex(subprocess.check_output(command, text=True))]
    table.commit_index([table.join_index_parts(parts)])
    assert table.snapshot.version.indexes[0].shards[0].row_count == 3000


def test_mistakes_are_named(tmp_path: Path) -> None:
    table = made(tmp_path, (0, 600, 1200))
    for wrong, words in (
        ({"column": "id"}, "not a vector"),
        ({"metric": "l3"}, "unknown metric 'l3'"),
        ({"parts": 0}, "parts must be"),
        ({"shard_rows": -1}, "shard_rows must be"),
        ({"probes": 3}, "unknown index option 'probes'"),
        ({"lists": 70_000}, "number of lists"),
    ):
        with pytest.raises(lake.InvalidInputError, match=words):
            table.plan_index(**{"column": "vec", **wrong})
    with pytest.raises(lake.InvalidInputError, match="no vectors"):
        lake.create(str(tmp_path / "empty"), SCHEMA).plan_index("vec")
    (tasks,) = table.plan_index("vec", parts=2)
    first, second = (table.index_part(task) for task in tasks)
    again = table.index_part(table.plan_index("vec")[0][0])
    for parts, words in (
        ([], "there is no part"),
        ([first], "part 1 of 2 is missing"),
        ([first, again], "several plans"),
    ):
        with pytest.raises(lake.InvalidInputError, match=words):
            table.join_index_parts(parts)
    with pytest.raises(lake.InvalidInputError, match="in 2 parts"):
        table.commit_index([first])
    with pytest.raises(lake.InvalidInputError, match="another table"):
        made(tmp_path / "other", (0, 1500)).commit_index([table.join_index_parts([first, second])])
    for broken in (b"", first[:-1], first[:20] + b"x" + first[21:], tasks[0]):
        with pytest.raises(lake.CorruptionError):
            table.join_index_parts([broken, second])
    assert not table.refresh().snapshot.version.indexes


def test_two_shards_of_a_plan_must_both_be_there_and_the_second_of_one_is_left_out(tmp_path: Path) -> None:
    table = made(tmp_path)
    one, other = (table.index_part(tasks[0]) for tasks in table.plan_index("vec", parts=2, shard_rows=1500))
    with pytest.raises(lake.InvalidInputError, match="shard 1 of 2 is missing"):
        table.commit_index([one])
    with pytest.raises(lake.InvalidInputError, match="several shards"):
        table.join_index_parts([one, other])
    table.commit_index([one, other, one])
    assert len(table.snapshot.version.indexes[0].shards) == 2


def test_a_vector_that_is_not_finite_is_named(tmp_path: Path) -> None:
    table = made(tmp_path, (0, 1100))
    bad = rows(1100, 1101).to_pylist()
    bad[0]["vec"][3] = float("nan")
    table.append(bad)
    with pytest.raises(lake.InvalidInputError, match="row id 1100 of column 'vec'"):
        build(table, parts=2)
    assert not table.refresh().snapshot.version.indexes
