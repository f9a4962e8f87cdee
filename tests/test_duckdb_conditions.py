"""A WHERE that travels in the request of a search: only where it means the same here and in DuckDB."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal

import duckdb
import pytest
from duckdb_lake import DIMENSION, Lake, attached, filled_table, query
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from lake_rows import condition_trees

import lake_format as lake
from lake_connectors.duckdb.conditions import read_condition

BY = f"ORDER BY array_distance(vec, $q::FLOAT[{DIMENSION}])"

CARRIED = [
    "id < 17",
    "17 > id",
    "ID = 100",
    "near.id = 100",
    "id BETWEEN 90 AND 110",
    "id NOT BETWEEN 90 AND 110",
    "id IN (1, 2, 599, 7000)",
    "id NOT IN (1, 2)",
    "id > 10.5",
    "small IS NULL",
    "small IS NOT DISTINCT FROM 2",
    "price > 9.99",
    "price > 1e0",
    "price IN (0, 9.99)",
    "weight < 0.1",
    "weight = 0.1",
    "weight BETWEEN 1e-1 AND 1e2",
    "title = 'x'",
    "title <> ''",
    "title LIKE 'x%'",
    "title NOT LIKE '%y%' AND title ILIKE '%Ä%'",
    "title NOT ILIKE 'x%'",
    "title IN ('', 'it''s', '日本')",
    "category IS DISTINCT FROM 'a'",
    "moment < TIMESTAMP '2024-03-31 12:00:00'",
    "moment < '2024-03-31 12:00:00'",
    "day = DATE '2024-01-05'",
    "day > '2024-02-01'",
    "day > CAST('2024-02-01' AS DATE)",
    "cost > 1.05",
    "cost IN (1.10, 0)",
    "flag",
    "NOT flag OR flag = FALSE",
    "place.city = 'Rome'",
    "near.place.city = 'Rome'",
    "Place.ZIP > 1",
    "place IS NULL",
    "vec IS NOT NULL",
    "(id < 300 OR title LIKE 'x%') AND NOT (price < 5 AND small IN (1, 2))",
]
LEFT_TO_DUCKDB = [
    "id + 1 = 6",
    "length(title) > 3",
    "title LIKE category",
    "title LIKE 'a!%' ESCAPE '!'",
    "id < price",
    "id < 1e2",
    "id IN (1, 2e0)",
    "price BETWEEN 1 AND 1e1",
    "seen >= TIMESTAMPTZ '2024-03-31 03:00:00+02'",
    "seen >= TIMESTAMP '2024-03-31 03:00:00'",
    "price > 'nan'::DOUBLE",
    "id = (SELECT 5)",
    "id = NULL",
    "TRUE",
    "id = TRY_CAST('7' AS BIGINT)",
    "title = 'x' COLLATE NOCASE",
    "day > DATE '2024-02-01' + INTERVAL 1 DAY",
]


@pytest.fixture(scope="module")
def items() -> Iterator[Lake]:
    made = attached("sources", filled_table())
    yield made
    made.con.close()


def carried(items: Lake, sql: str, parameters: object = None) -> bool:
    """Whether the statement runs without counting what passes."""
    return "_alone" in items.con._rewriter(sql, parameters)


def statements(condition: str) -> tuple[str, str]:
    """The same search by either way of asking."""
    qualified = condition.replace("near.", "")
    return (
        f"SELECT id FROM knn('items', $q, 9) AS near WHERE {condition} ORDER BY _distance, id",
        f"SELECT id FROM items WHERE ({qualified}) AND vec IS NOT NULL {BY}, id LIMIT 9",
    )


@pytest.mark.parametrize("condition", [*CARRIED, *LEFT_TO_DUCKDB])
def test_each_condition_means_what_it_means_in_duckdb(items: Lake, condition: str) -> None:
    given_parameters = {"q": query(3)}
    expected = items.con.duckdb.execute(
        statements(condition)[1].replace("items", "copied"), given_parameters
    ).fetchall()
    for sql in statements(condition):
        assert carried(items, sql, given_parameters) == (condition in CARRIED), sql
        assert items.con.execute(sql, given_parameters).fetchall() == expected, sql


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    tree=condition_trees([condition.replace("near.", "") for condition in CARRIED], 5),
    k=st.integers(1, 700),
    seed=st.integers(0, 9),
)
def test_conditions_together(items: Lake, tree: str, k: int, seed: int) -> None:
    sql = f"SELECT id FROM knn('items', $q, {k}) WHERE {tree}"
    assert carried(items, sql)
    found = [row[0] for row in items.con.execute(sql, {"q": query(seed)}).fetchall()]
    assert found == items.nearest(tree, k, query(seed))


VALUES = st.one_of(
    st.sampled_from(["id", "small", "cost"]).flatmap(
        lambda name: st.tuples(st.just(name), st.integers(-5, 300) | st.integers(-(2**63), 2**63 - 1))
    ),
    st.tuples(st.just("price"), st.floats(allow_nan=True) | st.integers(-5, 50)),
    st.tuples(st.just("weight"), st.floats(width=32) | st.floats(-5, 5)),
    st.tuples(st.just("title"), st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))),
    st.tuples(st.just("flag"), st.booleans()),
    st.tuples(st.just("day"), st.dates(dt.date(1900, 1, 1), dt.date(2100, 1, 1))),
    st.tuples(st.just("moment"), st.datetimes(dt.datetime(2000, 1, 1), dt.datetime(2100, 1, 1))),
)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(value=VALUES, operator=st.sampled_from(["=", "<>", "<", "<=", ">", ">=", "IS DISTINCT FROM"]))
@example(value=("title", "it's: a 'quote', [and] (more)"), operator="<")
@example(value=("title", ""), operator="<>")
@example(value=("price", float("nan")), operator="<")
@example(value=("weight", 0.1), operator="<=")
def test_values_of_parameters(items: Lake, value: tuple[str, object], operator: str) -> None:
    """Each as DuckDB compares it, by number and by name."""
    name, given_value = value
    numbered = f"SELECT id FROM knn('items', ?, 12) WHERE {name} {operator} ?"
    parameters: list[object] = [query(), given_value]
    expected = items.con.duckdb.execute(numbered, parameters).fetchall()
    assert carried(items, numbered, parameters)
    assert items.con.execute(numbered, parameters).fetchall() == expected
    named = numbered.replace("knn('items', ?", "knn('items', $q").replace("?", "$v")
    assert items.con.sql(named, params={"v": given_value, "q": query()}).fetchall() == expected


@pytest.mark.parametrize(
    ("condition", "value"),
    [
        ("id < ?", 2**70),
        ("id < ?", 3.5),
        ("id < ?", None),
        ("id < ?", "12"),
        ("day < ?", "2024-02-01"),
        ("price < ?", Decimal("3.5")),
        ("seen < ?", dt.datetime(2024, 3, 31)),
        ("moment < ?::TIMESTAMPTZ", dt.datetime(2024, 3, 31, tzinfo=dt.UTC)),
        ("title LIKE ?", "x%"),
    ],
)
def test_other_parameters_are_duckdbs(items: Lake, condition: str, value: object) -> None:
    sql = f"SELECT id FROM knn('items', ?, 12) WHERE {condition}"
    assert not carried(items, sql, [query(), value])
    found = items.con.execute(sql, [query(), value]).fetchall()
    assert found == items.con.duckdb.execute(sql, [query(), value]).fetchall()


def test_one_text_with_parameters_of_different_kinds(items: Lake) -> None:
    """What was remembered for one kind does not serve another."""
    sql = "SELECT count(*) FROM knn('items', ?, 700) WHERE id < ?"
    for value, expected in ((10, 9), (9.5, 9), (None, 0), (10, 9), ("10", 9)):
        assert items.con.execute(sql, [query(), value]).fetchone() == (expected,), value


def test_prepared_statements_do_not_count_on_parameters(items: Lake) -> None:
    items.con.execute(
        f"PREPARE cheap AS SELECT id FROM items WHERE price < $2 {BY.replace('$q', '$1')} LIMIT 4"
    )
    for price in ("8", "8.5", "'9'", "NULL"):
        (expected,) = [
            items.con.execute(
                f"SELECT id FROM copied WHERE price < {price} {BY} LIMIT 4", {"q": query()}
            ).fetchall()
        ]
        found = items.con.execute(f"EXECUTE cheap({query()}::FLOAT[{DIMENSION}], {price})").fetchall()
        assert found == expected, price
    items.con.execute("DEALLOCATE cheap")


def test_many_parameter_lists(items: Lake) -> None:
    sql = "SELECT count(*) FROM knn('items', ?, 700) WHERE id < ?"
    assert items.con.executemany(sql, [[query(), 5], [query(), 9.5]]).fetchall() == [(9,)]


def test_distance_travels_too(items: Lake) -> None:
    sql = "SELECT id FROM knn('items', ?, 50) WHERE _distance < 2.5 AND id > 50 AND _row_id < 400"
    assert carried(items, sql, [query()])
    found = items.con.execute(sql, [query()]).fetchall()
    assert found == items.con.duckdb.execute(sql, [query()]).fetchall()
    assert found
    mixed = "SELECT id FROM knn('items', ?, 50) WHERE _distance < 2.5 OR id < 5"
    assert not carried(items, mixed, [query()])
    assert (
        items.con.execute(mixed, [query()]).fetchall()
        == items.con.duckdb.execute(mixed, [query()]).fetchall()
    )


@pytest.mark.parametrize("condition", ["title = 'X'", "title LIKE 'X%'", "title IN ('X', 'y')"])
def test_text_is_compared_as_the_session_says(items: Lake, condition: str) -> None:
    sql = f"SELECT count(*) FROM knn('items', ?, 700) WHERE {condition}"
    (exact,) = items.con.execute(sql, [query()]).fetchone() or ()
    items.con.execute("SET default_collation = 'NOCASE'")
    try:
        assert not carried(items, sql)
        assert (
            items.con.execute(sql, [query()]).fetchone()
            == items.con.duckdb.execute(sql, [query()]).fetchone()
        )
    finally:
        items.con.execute("SET default_collation = ''")
    assert items.con.execute(sql, [query()]).fetchone() == (exact,)


def test_what_the_table_was_asked_is_observed(items: Lake) -> None:
    items.seen.clear()
    items.con.execute("SELECT title FROM knn('items', ?, 3) WHERE id > 100 AND title LIKE '%y%'", [query()])
    (read,) = items.seen
    assert read.columns == ("title",)
    assert len(read.predicates) == 2
    assert "100" in read.predicates[0]
    assert "LIKE" in read.predicates[1]


@pytest.mark.parametrize(
    "text", ["", "zz", "7b7d", b"[]".hex(), b'{"form": ["DROP"], "parameters": 0}'.hex(), b"\xff".hex()]
)
def test_a_request_that_holds_no_condition_is_refused(items: Lake, text: str) -> None:
    with pytest.raises(lake.InvalidInputError, match="no condition"):
        read_condition(text)
    request = f"row('knn_alone', 5, NULL, NULL, NULL, '{text}', {query()}::FLOAT[]::VARCHAR, NULL)::VARCHAR"
    with pytest.raises(duckdb.Error, match="no condition"):
        items.con.duckdb.execute(f'FROM "lake$rows:items" WHERE _knn = {request}').fetchall()
