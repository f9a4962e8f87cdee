"""Conditions that ask other tables: joins in DataFusion's plan, and filters of a search all the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from datafusion_lake import FLOATS, Lake, attached
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lake_rows import filled_table, query

ASKING_OTHERS = [
    "id IN (SELECT sold FROM sold)",
    "id NOT IN (SELECT sold FROM sold) AND price < 90",
    "id NOT IN (SELECT small FROM copied)",  # NULL among them: nothing passes
    "EXISTS (SELECT 1 FROM sold WHERE sold = n.id AND kind = 'a')",
    "NOT EXISTS (SELECT 1 FROM sold WHERE sold = n.id)",
    "small = (SELECT max(small) FROM copied)",
    "small > (SELECT min(c.small) FROM copied c WHERE c.category = n.category AND c.small <> -3)",
    "(id IN (SELECT sold FROM sold) OR title LIKE 'x%')",
    "NOT (id IN (SELECT sold FROM sold) AND small = 1)",
    "title IN (SELECT title FROM copied WHERE id < 4) AND character_length(title) > 1",
    "weight IN (SELECT weight FROM copied WHERE id < 40)",
    "id IN (SELECT sold FROM sold) AND category IN (SELECT kind FROM sold WHERE sold < 9)",
    "id IN (SELECT CAST(sold AS INT) FROM sold) AND id + small > 100",
    "id IN (SELECT sold FROM sold WHERE sold < 0)",
    "id IN (SELECT item FROM many)",
]


@pytest.fixture(scope="module")
def items() -> Lake:
    made = attached(filled_table("memory://datafusion-joins"))
    made.ctx.sql("CREATE TABLE sold AS SELECT id AS sold, category AS kind FROM copied WHERE id % 3 = 0")
    made.ctx.from_arrow(pa.table({"item": np.arange(0, 20_000, 4)}), "many")
    return made


def nearest(items: Lake, condition: str, k: int, vector: Any) -> list[Any]:
    """What DataFusion finds in its own copy."""
    sql = f"""SELECT id, title FROM copied AS n WHERE vec IS NOT NULL AND {condition}
        ORDER BY array_distance(vec, $q), id LIMIT {k}"""
    return items.rows(sql, q=vector)


@pytest.mark.parametrize("k", [1, 7, 80])
@pytest.mark.parametrize("condition", ASKING_OTHERS)
def test_conditions_that_ask_other_tables_are_filters(items: Lake, condition: str, k: int) -> None:
    vector = pa.scalar(query(k), FLOATS)
    sql = f"SELECT id, title FROM knn('items', $q, {k}) AS n WHERE {condition}"
    expected = sorted(nearest(items, condition, k, vector), key=repr)
    assert sorted(items.rows(sql, q=vector), key=repr) == expected
    around = f"SELECT count(*) FROM ({sql}) AS near JOIN sold ON sold >= 0"
    assert items.rows(around, q=vector) == [(200 * len(expected),)]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    ids=st.lists(st.integers(0, 620), max_size=30) | st.lists(st.none() | st.integers(0, 620), max_size=9),
    k=st.integers(1, 20),
    negated=st.booleans(),
    beside=st.sampled_from(["true", "character_length(title) > 1", "price < 50", "small IS NULL"]),
)
def test_any_keys(items: Lake, ids: list[int | None], k: int, negated: bool, beside: str) -> None:
    if items.ctx.table_exist("asked"):
        items.ctx.deregister_table("asked")
    items.ctx.from_arrow(pa.table({"key": pa.array(ids, pa.int64())}), "asked")
    condition = f"id {'NOT ' * negated}IN (SELECT key FROM asked) AND {beside}"
    vector = pa.scalar(query(k), FLOATS)
    sql = f"SELECT id, title FROM knn('items', $q, {k}) WHERE {condition}"
    expected = sorted(nearest(items, condition, k, vector), key=repr)
    assert sorted(items.rows(sql, q=vector), key=repr) == expected


def test_few_keys_reach_the_search(items: Lake) -> None:
    """The search is told of them, and reads no other rows; of many it is not."""
    vector = pa.scalar(query(), FLOATS)
    sql = "SELECT id FROM knn('items', $q, 5) WHERE id IN (SELECT sold FROM sold WHERE sold < 60)"
    assert len(items.rows(sql, q=vector)) == 5
    (told,) = {str(read.predicates) for read in items.seen}
    assert "id IN (" in told
    items.rows("SELECT id FROM knn('items', $q, 5) WHERE id IN (SELECT item FROM many)", q=vector)
    assert not any(" IN (" in str(read.predicates) for read in items.seen)


def test_one_search_that_is_asked_in_two_ways_is_refused(items: Lake) -> None:
    near = "WITH near AS (SELECT * FROM knn('items', $q, 5)) SELECT id FROM near"
    same = f"{near} WHERE id IN (SELECT sold FROM sold) UNION ALL SELECT id FROM near"
    vector = pa.scalar(query(), FLOATS)
    assert len(items.rows(f"{same} WHERE id IN (SELECT sold FROM sold)", q=vector)) == 10
    with pytest.raises(Exception, match="one knn\\(\\) is filtered in several ways"):
        items.rows(f"{same} WHERE id NOT IN (SELECT sold FROM sold)", q=vector)


def test_an_order_by_over_such_conditions_stays_datafusions(items: Lake) -> None:
    vector = pa.scalar(query(), FLOATS)
    for condition in ASKING_OTHERS:
        matching = f"SELECT id FROM items AS n WHERE vec IS NOT NULL AND {condition}"
        items.same(f"{matching} ORDER BY array_distance(vec, $q), id LIMIT 7", ordered=True, q=vector)
