"""Filters that stay in DataFusion's plan: what the table is told of them; searches find their k rows anyway."""

from __future__ import annotations

import itertools
import struct

import numpy as np
import pyarrow as pa
import pytest
from datafusion_lake import FLOATS, Lake, attached
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from lake_rows import condition_trees, filled_table, query

import lake_format as lake

TOLD = [
    "title LIKE 'x%'",
    "title NOT LIKE '%y%' AND weight < 0.1",
    "title ILIKE '%X_y%'",
    "title NOT ILIKE 'x%'",
    "title LIKE '%a\\\\b%' OR title LIKE '%\\%%'",
    "title LIKE '\\_' OR title LIKE 'it''s%'",
    "starts_with(title, 'x_') OR ends_with(title, 'y')",
    "contains(title, '%')",
    "title ~ 'x'",
    "place.city = 'Rome'",
    "place['zip'] > 1 OR flag",
    "place.city LIKE 'R%'",
    "NOT (place.city = 'Rome' AND title LIKE 'x%')",
    "flag IS TRUE",
    "flag IS NOT TRUE",
    "flag IS FALSE",
    "flag IS NOT FALSE",
    "flag IS UNKNOWN",
    "flag IS NOT UNKNOWN",
    "small IS DISTINCT FROM 2",
    "category IS NOT DISTINCT FROM 'a'",
    "place.city IS NULL",
    "place.city IS DISTINCT FROM 'Rome'",
    "place IS NOT NULL AND title LIKE 'x%'",
    "weight < 0.1",
    "weight BETWEEN 0.1 AND 2",
    "weight > 1 OR title LIKE 'x%'",
    "isnan(price)",
    "price = 'NaN' OR title LIKE 'x%'",
    "price >= 'NaN' OR title LIKE 'x%'",
    "price <> 0 AND (price < 10 OR title LIKE 'x%')",
    "small > 100000 OR title LIKE 'x%'",
    "small < 1.5",
    "(cost > 1.05 OR cost IN (0, -2)) AND (title LIKE 'x%' OR cost < 5)",
    "day > '2024-02-01' OR title LIKE 'x%'",
    "moment < '2024-03-31 12:00:00' OR title LIKE 'x%'",
    "seen >= '2024-03-31 03:00:00' OR title LIKE 'x%'",
    "seen >= '2024-03-31T03:00:00Z' OR title LIKE 'x%'",
    "id BETWEEN 5 AND 20 OR title LIKE 'x%'",
    "id NOT BETWEEN 5 AND 580 OR title LIKE 'x%'",
    "id IN (1, 2, 3, 4, 5, 599) OR title LIKE 'x%'",
    "id NOT IN (1, 2, 3, 4, 5, 6) AND (id < 99 OR title LIKE 'x%')",
    "title IN ('', 'x', 'it''s', '日本', 'Ärger') OR title LIKE '_'",
    "category NOT IN ('a', 'x', 'y', 'z', 'zz') OR title LIKE 'x%'",
    "category IN ('a', 'x', 'y', 'z', NULL) OR title LIKE 'x%'",
    "NOT (category IN ('b', 'c') OR title LIKE 'x%')",
    "title = category OR title < category OR title LIKE 'x%'",
    "title IS NULL OR title LIKE 'x%'",
    "vec IS NOT NULL AND (flag OR title LIKE 'x%')",
    "(id < 300 OR title LIKE 'x%') AND NOT (price < 5 AND small IN (1, 2))",
]
TOLD_IN_PART = [
    "title ILIKE '%ä%'",
    "title ILIKE 'it''S' OR id < 3",
    "title LIKE 'x%' AND length(title) > 1",
    "id % 2 = 0 AND title LIKE '%'||'x%' AND flag IS TRUE",
    "price < 50 AND lower(title) = 'x'",
]
KEPT = [
    "title NOT ILIKE '%ä%'",
    "category LIKE title",
    "title LIKE '%'",
    "id % 3 = 0",
    "lower(title) = 'x'",
    "length(title) > 3 OR title LIKE 'x%'",
    "id < 1e2",
    "price IN (1, 2, 3, 4, 9.99) OR title LIKE 'x%'",
    "(id < 90) IS NOT FALSE",
    "title SIMILAR TO 'x.*'",
    "CAST(id AS VARCHAR) LIKE '1%'",
    "TRY_CAST(price AS BIGINT) = 9",
]


@pytest.fixture(scope="module")
def items() -> Lake:
    return attached(filled_table("memory://datafusion-conditions"))


def by_distance(condition: str, k: int) -> str:
    return f"SELECT id FROM items WHERE {condition} ORDER BY array_distance(vec, $q), id LIMIT {k}"


def nearest(items: Lake, condition: str, k: int, seed: int) -> list[int]:
    """The ids of the nearest rows that have a vector, by DataFusion's own plan over its own copy."""
    sql = by_distance(f"({condition}) AND vec IS NOT NULL", k).replace("items", "copied")
    return [one for (one,) in items.rows(sql, q=pa.scalar(query(seed), FLOATS))]


@pytest.mark.parametrize("condition", [*TOLD, *TOLD_IN_PART, *KEPT])
def test_each_condition_means_what_it_means_in_datafusion(items: Lake, condition: str) -> None:
    expected = nearest(items, condition, 9, seed=3)
    assert expected
    vector = pa.scalar(query(3), FLOATS)
    found = items.rows(f"SELECT id, _distance FROM knn('items', $q, 9) WHERE {condition}", q=vector)
    assert [one for one, _ in sorted(found, key=lambda row: row[1])] == expected
    reads = list(items.seen)
    assert all(read.predicates for read in reads) == (condition not in KEPT)
    assert len(reads) <= (1 if condition in TOLD else 5), "a search that knows the whole condition runs once"
    ordered = by_distance(f"({condition}) AND vec IS NOT NULL", 9)
    assert [one for (one,) in items.rows(ordered, q=vector)] == expected


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    tree=condition_trees([f"({one})" for one in (*TOLD, *TOLD_IN_PART, *KEPT)], 5),
    k=st.integers(1, 700),
    seed=st.integers(0, 9),
)
def test_conditions_together(items: Lake, tree: str, k: int, seed: int) -> None:
    assume(items.can_push(tree))
    vector = pa.scalar(query(seed), FLOATS)
    found = items.rows(f"SELECT id, _distance FROM knn('items', $q, {k}) WHERE {tree}", q=vector)
    assert [one for one, _ in sorted(found, key=lambda row: row[1])] == nearest(items, tree, k, seed)


LETTERS = "aAsSſkK\u212aiIİıßẞσςΣäÄµμéǅ1日\n"


@pytest.fixture(scope="module")
def texts() -> Lake:
    """Every short text of letters whose case is folded in more than one way, and of what patterns are made of."""
    schema = pa.schema([("id", pa.int64()), ("title", pa.string()), ("vec", pa.list_(pa.float32(), 2))])
    short = [
        "".join(one) for length in (0, 1, 2) for one in itertools.product(LETTERS + "%_\\", repeat=length)
    ]
    titles = [*short, *("".join(one) for one in itertools.product("sKi\\%a", repeat=4)), None]
    table = lake.create("memory://datafusion-texts", schema)
    numbers = np.arange(2 * len(titles), dtype=np.float32)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(numbers), 2)
    table.append(
        pa.table({"id": pa.array(range(len(titles))), "title": titles, "vec": vectors}, schema=schema)
    )
    return attached(table)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    pattern=st.text(st.sampled_from(LETTERS + "%%%__\\"), max_size=5),
    operator=st.sampled_from(["LIKE", "NOT LIKE", "ILIKE", "NOT ILIKE"]),
)
@example(pattern="\\", operator="LIKE")
@example(pattern="a\\", operator="ILIKE")
@example(pattern="%\\%", operator="LIKE")
@example(pattern="\\s%", operator="ILIKE")
@example(pattern="\\a\\_%", operator="ILIKE")
@example(pattern="%ſ_", operator="ILIKE")
@example(pattern="i_", operator="ILIKE")
@example(pattern="K%", operator="NOT ILIKE")
def test_patterns_match_what_they_match_in_datafusion(texts: Lake, pattern: str, operator: str) -> None:
    """As many rows are asked for as match, so that one too many or too few that the table finds would show."""
    condition = f"title {operator} $p"
    expected = {row for (row,) in texts.rows(f"SELECT id FROM copied WHERE {condition}", p=pattern)}
    wanted = max(len(expected), 1)
    sql = f"SELECT id FROM knn('items', [0.0, 0.0], {wanted}) WHERE {condition}"
    assert {row for (row,) in texts.rows(sql, p=pattern)} == expected


VALUES = st.one_of(
    st.tuples(st.sampled_from(["id", "small"]), st.integers(-5, 300) | st.integers(-(2**63), 2**63 - 1)),
    st.tuples(
        st.sampled_from(["price", "weight", "small"]), st.floats() | st.sampled_from([0.1, -0.0, 9.99])
    ),
    st.tuples(st.sampled_from(["title", "category"]), st.text(st.characters(exclude_categories=["Cs"]))),
    st.tuples(st.just("day"), st.dates().map(lambda day: pa.scalar(day, pa.date32()))),
    st.builds(
        lambda minutes, dtype: (
            "seen" if dtype.tz else "moment",
            pa.scalar(1711846800 + 60 * minutes, pa.timestamp("s", dtype.tz)).cast(dtype),
        ),
        st.integers(-300, 9_000),
        st.sampled_from(
            [pa.timestamp(unit, zone) for unit in ("s", "ms", "us", "ns") for zone in (None, "Europe/Berlin")]
        ),
    ),
)


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(value=VALUES, operator=st.sampled_from(["=", "<>", "<", "<=", ">", ">=", "IS DISTINCT FROM"]))
@example(value=("price", float("nan")), operator="<")
@example(value=("price", -float("nan")), operator=">")
@example(value=("price", struct.unpack("d", struct.pack("Q", 0x7FF8000000000001))[0]), operator="=")
@example(value=("weight", 0.1), operator="<=")
@example(value=("small", float("inf")), operator="<")
def test_values_compare_as_in_datafusion(items: Lake, value: tuple[str, object], operator: str) -> None:
    """Beside a LIKE, so that the comparison stays in the plan; as many rows are asked for as match."""
    name, given_value = value
    condition = f"vec IS NOT NULL AND (({name} {operator} $v) OR title LIKE 'xy%')"
    expected = {row for (row,) in items.rows(f"SELECT id FROM copied WHERE {condition}", v=given_value)}
    sql = f"SELECT id FROM knn('items', $q, {len(expected)}) WHERE {condition}"
    found = items.rows(sql, q=pa.scalar(query(), FLOATS), v=given_value)
    assert {row for (row,) in found} == expected


def test_every_nan_is_the_greatest_number() -> None:
    schema = pa.schema([("id", pa.int64()), ("price", pa.float64()), ("vec", pa.list_(pa.float32(), 2))])
    table = lake.create("memory://datafusion-nan", schema)
    prices = np.array([np.nan, -np.nan, 1.0, 7.0, -np.nan])
    assert np.signbit(prices).sum() == 2
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(10, dtype=np.float32)), 2)
    table.append(pa.table({"id": pa.array(range(5)), "price": prices, "vec": vectors}, schema=schema))
    made = attached(table)
    for condition, expected in (("price > 5", [0, 1, 3, 4]), ("price < 5", [2]), ("isnan(price)", [0, 1, 4])):
        sql = f"SELECT id FROM knn('items', [0.0, 0.0], 4) WHERE {condition} AND CAST(id AS VARCHAR) <> '9'"
        assert sorted(row for (row,) in made.rows(sql)) == expected, condition


@pytest.mark.parametrize(("operator", "expected"), [("<", range(10)), (">=", range(10, 30))])
def test_the_distance_as_a_double(items: Lake, operator: str, expected: range) -> None:
    """A bound above ends the search; rows beyond a bound below are looked for until k are found."""
    vector = pa.scalar(query(), FLOATS)
    every = items.rows("SELECT id, _distance FROM knn('items', $q, 600)", q=vector)
    bound = (every[9][1] + every[10][1]) / 2
    sql = f"SELECT id FROM knn('items', $q, 20) WHERE _distance {operator} {bound!r}"
    assert [row for (row,) in items.rows(sql, q=vector)] == [every[place][0] for place in expected]
    assert len(items.seen) == 1
    mixed = f"SELECT id FROM knn('items', $q, 20) WHERE _distance {operator} {bound!r} OR title LIKE 'xyl%'"
    kept = [one for one, distance in every if (distance < bound) == (operator == "<")]
    titles = items.table.to_arrow().column("title").to_pylist()
    either = [one for one, _ in every if one in kept or (titles[one] or "").startswith("xyl")]
    assert [row for (row,) in items.rows(mixed, q=vector)] == either[:20]


BOTH = "SELECT id FROM ({}) UNION ALL SELECT id FROM ({})"
NEAR = "SELECT * FROM items WHERE {} ORDER BY array_distance(vec, $q) LIMIT 5"


@pytest.mark.parametrize(
    "sql",
    [
        BOTH.format(NEAR.format("true"), "SELECT * FROM items"),
        BOTH.format(NEAR.format("title LIKE 'x%'"), NEAR.format("title LIKE '%y%'")),
        BOTH.format(NEAR.format("true"), NEAR.format("true").replace("$q", "$r")),
        "WITH t AS (SELECT * FROM items) "
        + BOTH.format(NEAR.replace("items", "t").format("true"), "TABLE t"),
        "SELECT count(*) FROM items a WHERE id IN (SELECT id FROM items ORDER BY array_distance(vec, $q) LIMIT 5)",
    ],
)
def test_a_table_that_is_searched_and_mentioned_elsewhere(items: Lake, sql: str) -> None:
    vectors = {
        name: pa.scalar(query(seed), FLOATS) for name, seed in (("q", 2), ("r", 5)) if f"${name}" in sql
    }
    items.same(sql.replace("TABLE t", "SELECT * FROM t"), **vectors)


def test_one_knn_under_a_name_used_twice(items: Lake) -> None:
    vector = pa.scalar(query(1), FLOATS)
    near = "WITH near AS (SELECT * FROM knn('items', $q, 9) {}) "
    twice = near + "SELECT a.id FROM near a JOIN near b ON a.id = b.id"
    for where in ("", "WHERE title LIKE 'x%'", "WHERE length(title) = 3"):
        once = items.rows(f"SELECT id FROM knn('items', $q, 9) {where}", q=vector)
        assert len(once) == 9
        assert sorted(items.rows(twice.format(where), q=vector)) == sorted(once)
    apart = near.format("") + "SELECT id FROM near WHERE title LIKE 'x%' UNION ALL SELECT id FROM near"
    with pytest.raises(lake.UnsupportedError, match="write knn"):
        items.rows(apart, q=vector)
    pushed = near.format("") + "SELECT id FROM near WHERE id < 50 UNION ALL SELECT id FROM near"
    assert len(items.rows(pushed, q=vector)) == 18


def test_columns_under_other_names(items: Lake) -> None:
    vector = pa.scalar(query(1), FLOATS)
    swapped = "SELECT id AS small, small AS id, category AS title, title AS category, vec FROM {}"
    condition = "title LIKE 'a%' OR category LIKE 'x%' AND small IS DISTINCT FROM 7"
    items.same(
        f"SELECT small FROM ({swapped.format('items')}) WHERE {condition} ORDER BY array_distance(vec, $q) LIMIT 8",
        q=vector,
    )
    searched = f"SELECT small FROM ({swapped.format(chr(34) + 'near' + chr(34))}) WHERE {condition}"
    found = items.rows(f"WITH near AS (SELECT * FROM knn('items', $q, 8)) {searched}", q=vector)
    expected = nearest(items, "category LIKE 'a%' OR title LIKE 'x%' AND id IS DISTINCT FROM 7", 8, seed=1)
    assert sorted(row for (row,) in found) == sorted(expected)


def test_the_vector_column_under_the_name_of_another() -> None:
    pair = pa.list_(pa.float32(), 2)
    schema = pa.schema([("id", pa.int64()), ("one", pair), ("two", pair)])
    table = lake.create("memory://datafusion-two-vectors", schema)
    table.append([{"id": at, "one": [at, 0], "two": [-at, 0]} for at in range(50)])
    made = attached(table)
    made.same(
        "SELECT id FROM (SELECT id, two AS one, one AS two FROM items) ORDER BY array_distance(one, [-50, 0]) LIMIT 3"
    )
    assert any(read.nearest is not None for read in made.seen)
