"""Merging columns, indexes and partitions: taken where only one line changed them, refused by name where both did."""

from __future__ import annotations

import pyarrow as pa
import pytest
from index_samples import clustered
from merging_samples import SCHEMA, content, nearest, pair, rows, store

import lake_format as lake
from lake_format.errors import ConflictError
from lake_format.store import Store

__all__ = ["pair", "store"]  # fixtures

# --- columns, indexes, partitions ---------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["branch", "main"])
def test_columns_may_be_changed_on_one_line(pair: tuple[lake.Table, lake.Table], where: str) -> None:
    """Rows of the other line have NULL in what is new, whatever else was done to them. spec: BRA-18, IDN-16, SCH-5"""
    main, branch = pair
    one, other = (branch, main) if where == "branch" else (main, branch)
    one.add_column("n", values=lake.sql("id * 2"))
    one.rename_column("b", "c")
    other.append(rows(200))
    other.update({"a": 5}, where="id = 4")
    other.delete("id = 3")
    other.compact()
    main.merge_branch("b")
    found = content(main, "a", "c", "n")
    assert (found[4], found[5], found[200]) == ((5, 4, 8), (5, 5, 10), (200, 200, None))
    assert 3 not in found
    assert main.schema.names == ["id", "a", "c", "v", "n"]
    branch.drop_column("n") if where == "branch" else branch.append(rows(201))
    main.merge_branch("b")
    assert ("n" in main.schema.names) == (where == "main")
    assert main.verify().ok


@pytest.mark.parametrize("strategy", ["patch", "move", "rewrite"])
def test_a_widened_column_and_a_constant_one_come_along(store: Store, strategy: str) -> None:
    """Rows that main wrote in the narrow type are read in the wide one, with the constant. spec: BRA-16, BRA-18"""
    narrow = pa.field("a", pa.int32())
    main = lake.create("unused", SCHEMA.set(1, narrow), store=store)
    main.append(rows(0, 10).cast(SCHEMA.set(1, narrow)))
    main.set_properties({"write.update-strategy": strategy})
    branch = main.create_branch("b")
    branch.alter_column("a", type=pa.int64())
    branch.update({"a": 2**40}, where="id in (1, 2)")
    branch.add_column("c", pa.int64(), values=7)
    branch.update({"c": 8}, where="id = 3")
    main.update({"a": 5}, where="id in (4, 5)")
    main.append(rows(50).cast(SCHEMA.set(1, narrow)))
    main.compact()
    main.merge_branch("b")
    expected = {one: (one, 7) for one in (*range(10), 50)}
    expected |= {1: (2**40, 7), 2: (2**40, 7), 3: (3, 8), 4: (5, 7), 5: (5, 7)}
    assert content(main, "a", "c") == expected
    assert [main.count(one) for one in ("a > 5000", "a = 5", "c = 8", "c = 7")] == [2, 2, 1, 10]
    assert main.verify().ok


def test_schemas_of_the_same_number_are_told_apart(pair: tuple[lake.Table, lake.Table]) -> None:
    """Both lines had a schema 1 of their own; files of each are read by their own. spec: BRA-18, SCH-5"""
    main, branch = pair
    main.rename_column("a", "x").rename_column("x", "a")
    branch.drop_column("b")
    branch.append(rows(200).drop_columns(["b"]))
    branch.update({"a": 5}, where="id = 4")
    main.append(rows(300))
    main.merge_branch("b")
    assert content(main)[4] == 5
    assert main.schema.names == ["id", "a", "v"]
    branch.update({"a": 6}, where="id in (4, 200)")
    main.update({"v": [0.5] * 4}, where="id = 4")
    main.merge_branch("b")
    assert content(main, "a", "v")[4] == (6, [0.5] * 4)
    assert content(main)[200] == 6
    assert main.verify().ok


def test_a_rule_that_nobody_judged_stays_on_the_branch(pair: tuple[lake.Table, lake.Table]) -> None:
    """A key makes columns NOT NULL and leaves them so; NULLs came meanwhile. spec: BRA-18, IDN-13"""
    main, branch = pair
    branch.set_key(["a"]).drop_key()
    branch.append(rows(200))
    nulls = rows(100).set_column(1, SCHEMA.field("a"), pa.array([None], pa.int64()))
    main.append(nulls)
    main.merge_branch("b")
    assert main.schema.field("a").nullable
    assert content(main)[100] is None
    assert main.verify().ok


@pytest.mark.parametrize("on", ["before", "branch", "main"])
def test_an_index_is_never_wrong(store: Store, on: str) -> None:
    """It was there before the fork, or one of the lines built it. spec: IDN-8, IDN-9, IDN-10, BRA-17"""
    main = lake.create("unused", SCHEMA, store=store).append(rows(0, 300))
    main.set_properties({"write.index-on-append": "true"})
    if on == "before":
        main.create_index("v", name="by_v", lists=4)
    branch = main.create_branch("b")
    if on != "before":
        (branch if on == "branch" else main).create_index("v", name="by_v", lists=4)
    branch.append(rows(1000, 30))
    branch.update({"v": [1000.5] * 4}, where="id in (1, 1003)")
    branch.delete("id = 1005")
    main.update({"v": [1001.5] * 4}, where="id in (2, 3)")
    main.append(rows(1100, 5))
    main.compact()
    main.merge_branch("b")
    assert main.inspect.indexes().num_rows == 1
    found = nearest(main, 1000.5)
    assert {1, 1003, 1000, 1001} <= set(found)
    assert {2, 3} <= set(nearest(main, 1001.5))
    assert main.verify().ok
    if on != "main":
        branch.optimize_index("by_v")
    branch.update({"v": [7.5] * 4}, where="id in (1003, 200)")
    main.merge_branch("b")
    assert {1003, 200} <= set(nearest(main, 7.5))
    main.optimize_index("by_v")
    assert {1003, 200} <= set(nearest(main, 7.5))
    if on != "main":
        branch.drop_index("by_v")
        main.merge_branch("b")
        assert main.inspect.indexes().num_rows == 0
    assert main.verify().ok


def test_shards_over_new_rows_come_along(store: Store) -> None:
    """A branch that encodes what it appends need not be encoded again. spec: IDN-9, IDN-10, BRA-17"""
    vectors, _ = clustered(3200, 16)
    schema = pa.schema([("id", pa.int64()), ("v", pa.list_(pa.float32(), 16))])

    def numbered(first: int, count: int) -> pa.Table:
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors[first : first + count].ravel()), 16)
        return pa.table([pa.array(range(first, first + count)), column], schema)

    def found(table: lake.Table, query: int, *, exact: bool = False) -> list[int]:
        answer = table.search(vectors[query], k=5, recall=1.0, exact=exact, select=["id"]).to_arrow()
        return [int(one) for one in answer["id"].to_pylist()]

    main = lake.create("unused", schema, store=store).append(numbered(0, 3000)).create_index("v", lists=30)
    main.set_properties({"write.index-on-append": "true"})
    branch = main.create_branch("b").append(numbered(3000, 100))
    branch.update({"v": vectors[0].tolist()}, where="id = 3050")
    main.append(numbered(3100, 50))
    main.merge_branch("b")
    (entry,) = main.snapshot.version.indexes
    assert [shard.row_count for shard in entry.shards] == [3000, 50, 100]
    for query in (0, 3050, 3051, 3120):
        assert found(main, query) == found(main, query, exact=True)
    assert set(found(main, 0)) >= {0, 3050}
    assert main.verify().ok
    main.optimize_index(entry.name)
    assert set(found(main, 0)) >= {0, 3050}


def test_partitions_come_along(store: Store) -> None:
    """spec: PAR-7, BRA-17"""
    main = lake.create("unused", SCHEMA, store=store, partition_by=["bucket(4, id)"]).append(rows(0, 20))
    branch = main.create_branch("b").append(rows(100, 20))
    branch.delete("id = 7")
    branch.update({"id": 500}, where="id = 100")
    main.append(rows(200, 5))
    main.update({"a": 1}, where="id = 8")
    main.merge_branch("b")
    assert set(content(main)) == {*range(7), *range(8, 20), *range(101, 120), *range(200, 205), 500}
    assert main.count("id = 500") == 1
    assert main.verify().ok
    branch.set_partitioning(["bucket(8, id)"])
    branch.append(rows(600, 5))
    main.set_partitioning(["bucket(16, id)"])
    with pytest.raises(ConflictError, match="partitioned another way"):
        main.merge_branch("b")
