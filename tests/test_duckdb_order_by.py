"""ORDER BY distance LIMIT k through our connection: recognised where it should be, and always DuckDB's own answer."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from duckdb_lake import INTERFACES, Lake, attached, filled_table, new_table, query
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_duckdb_tables import CONDITIONS

import lake_format as lake
from lake_connectors.duckdb import connect

Q = "?::FLOAT[6]"
BY = f"ORDER BY array_distance(vec, {Q})"

PUSHED = [
    f"SELECT id FROM items {BY} LIMIT 10",
    f"SELECT * EXCLUDE (seen) FROM items {BY} LIMIT 3",
    f"SELECT id, array_distance(vec, {Q}) AS d FROM items ORDER BY d LIMIT 5",
    f"SELECT array_distance(vec, {Q}), id FROM items ORDER BY 1 LIMIT 5",
    f"SELECT id FROM items ORDER BY array_distance({Q}, vec) ASC NULLS LAST, id LIMIT 5",
    f"SELECT id FROM items {BY} LIMIT 4 OFFSET 7",
    f"SELECT id FROM items {BY} LIMIT 2 + 3",
    f"SELECT id FROM items {BY}, id LIMIT 700",
    f"SELECT id FROM items WHERE vec IS NOT NULL ORDER BY vec <-> {Q} LIMIT 5",
    f"SELECT id FROM items WHERE vec IS NOT NULL ORDER BY list_distance(vec, {Q}) LIMIT 5",
    f"SELECT id FROM items ORDER BY array_cosine_distance(vec, {Q}) LIMIT 5",
    f"SELECT id FROM items WHERE vec IS NOT NULL ORDER BY vec <=> {Q} LIMIT 5",
    f"SELECT id FROM items ORDER BY array_negative_inner_product(vec, {Q}) LIMIT 5",
    f"SELECT id FROM items ORDER BY array_cosine_similarity(vec, {Q}) DESC LIMIT 5",
    f"SELECT id FROM items ORDER BY array_inner_product(vec, {Q}) DESC LIMIT 5",
    f"SELECT i.id FROM items AS i WHERE i.price < 50 AND items_is_not(i.title) {BY.replace('vec', 'i.vec')} LIMIT 5",
    f"FROM items SELECT id {BY} LIMIT 5",
    f"WITH near AS (SELECT * FROM items WHERE id > 20 {BY} LIMIT 9) SELECT id, title FROM near ORDER BY id",
    f"SELECT count(*) FROM (SELECT id FROM items WHERE id % 5 = 0 {BY} LIMIT 6) AS t",
    f"SELECT ID FROM ITEMS WHERE Price > 1 ORDER BY Array_Distance(VEC, {Q}) LIMIT 5",
    f"SELECT id FROM items {BY.replace('vec', 'vec::DOUBLE[6]').replace('FLOAT', 'DOUBLE')} LIMIT 5",
    "SELECT id FROM items ORDER BY array_distance(vec, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]::FLOAT[6]) LIMIT 5",
    "SELECT id FROM items ORDER BY array_distance(vec, array_value(1, 2, 3, -4, 5, 6)::FLOAT[6]) LIMIT 5",
]

LEFT_ALONE = [
    f"SELECT id FROM items {BY} LIMIT 0",
    f"SELECT id FROM items {BY} DESC LIMIT 5",
    f"SELECT id FROM items {BY} NULLS FIRST, id LIMIT 5",
    f"SELECT id FROM items {BY}, id",
    f"SELECT id FROM items ORDER BY id, array_distance(vec, {Q}) LIMIT 5",
    f"SELECT DISTINCT category, array_distance(vec, {Q}) d FROM items ORDER BY d LIMIT 5",
    f"SELECT category, min(array_distance(vec, {Q})) d FROM items GROUP BY category ORDER BY d LIMIT 2",
    f"SELECT a.id FROM items a JOIN copied b USING (id) ORDER BY array_distance(a.vec, {Q}) LIMIT 5",
    f"SELECT id, row_number() OVER (ORDER BY id) FROM items {BY} LIMIT 5",
    f"SELECT id FROM items WHERE id IN (SELECT id * 3 FROM copied) {BY} LIMIT 5",
    f"SELECT price * 2 AS twice, id FROM items WHERE twice < 30 {BY} LIMIT 5",
    f"SELECT id, unnest([1, 2]) u FROM items {BY}, id, u LIMIT 5",
    f"SELECT id FROM items ORDER BY array_distance(vec, {Q}) + id LIMIT 5",
    f"SELECT id FROM items ORDER BY array_cosine_similarity(vec, {Q}), id LIMIT 5",
    f"WITH items AS (SELECT * FROM copied WHERE id < 50) SELECT id FROM items {BY} LIMIT 5",
    f"SELECT id FROM items ORDER BY array_distance(vec::INTEGER[6]::FLOAT[6], {Q}), id LIMIT 5",
    "SELECT id FROM items ORDER BY array_distance(vec, (SELECT vec FROM copied WHERE id = 3)), id LIMIT 5",
    "SELECT a.id, (SELECT b.id FROM items b ORDER BY array_distance(b.vec, a.vec), b.id LIMIT 1) "
    "FROM copied a WHERE a.id IN (3, 4)",
]


@pytest.fixture(scope="module")
def table() -> lake.Table:
    return filled_table()


@pytest.fixture(scope="module", params=INTERFACES)
def items(request: pytest.FixtureRequest, table: lake.Table) -> Iterator[Lake]:
    made = attached(request.param, table)
    made.con.execute("CREATE MACRO items_is_not(t) AS t IS NULL OR t <> 'items'")
    made.con.execute("CREATE MACRO copied_is_not(t) AS t IS NULL OR t <> 'items'")
    yield made
    made.con.close()


def parameters(sql: str) -> list[object] | None:
    return [query(len(sql))] * sql.count("?") or None


def was_searched(items: Lake) -> bool:
    return any(read.nearest is not None for read in items.seen)


@pytest.mark.parametrize("sql", PUSHED)
def test_recognised_and_the_same(items: Lake, sql: str) -> None:
    items.seen.clear()
    sql = sql.replace("ITEMS", "items")
    items.same(sql, parameters(sql), ordered=True)
    assert was_searched(items)


@pytest.mark.parametrize("sql", LEFT_ALONE)
def test_left_alone_and_the_same(items: Lake, sql: str) -> None:
    items.seen.clear()
    items.same(sql, parameters(sql), ordered=True)
    assert not was_searched(items)


@settings(max_examples=20, suppress_health_check=list(HealthCheck))
@given(
    conditions=st.lists(st.sampled_from(CONDITIONS), min_size=1, max_size=3),
    k=st.integers(1, 80),
    offset=st.integers(0, 50),
    seed=st.integers(0, 9),
    threads=st.sampled_from([1, 4]),
)
def test_any_filters_limit_and_offset(
    items: Lake, conditions: list[str], k: int, offset: int, seed: int, threads: int
) -> None:
    items.con.duckdb.execute(f"SET threads = {threads}")
    where = " AND ".join(f"({condition})" for condition in conditions)
    # Rows without a vector are equally far; the id decides among them, in both statements.
    sql = f"SELECT id FROM items WHERE {where} {BY}, id LIMIT ? OFFSET ?"
    items.same(sql, [query(seed), k, offset], ordered=True)


def test_rows_without_a_vector_fill_up_the_limit(items: Lake) -> None:
    sql = f"SELECT id, vec IS NULL FROM items WHERE id IN (4, 5, 6, 46) {BY}, id LIMIT 10"
    rows = items.same(sql, [query()], ordered=True)
    assert [row[1] for row in rows] == [False, False, True, True]


def test_parameters_of_every_kind(items: Lake) -> None:
    expected = items.same(
        f"SELECT id FROM items WHERE id > 40 {BY} LIMIT 6 OFFSET 2", [query()], ordered=True
    )
    named = (
        "SELECT id FROM items WHERE id > $low ORDER BY array_distance(vec, $q::FLOAT[6]) LIMIT $k OFFSET $o"
    )
    assert items.con.execute(named, {"low": 40, "q": query(), "k": 6, "o": 2}).fetchall() == expected
    assert items.con.sql(named, params={"low": 40, "q": query(), "k": 6, "o": 2}).fetchall() == expected
    numbered = (
        "SELECT id FROM items WHERE id > $2 ORDER BY array_distance(vec, $1::FLOAT[6]) LIMIT $3 OFFSET 2"
    )
    assert items.con.execute(numbered, [query(), 40, 6]).fetchall() == expected
    array = np.array(query(), np.float32)
    assert (
        items.con.execute(f"SELECT id FROM items WHERE id > 40 {BY} LIMIT 6 OFFSET 2", [array]).fetchall()
        == expected
    )
    items.con.execute(f"PREPARE near AS SELECT id FROM items WHERE id > 40 {BY} LIMIT 6 OFFSET 2")
    items.seen.clear()
    assert items.con.execute(f"EXECUTE near({query()})").fetchall() == expected
    assert was_searched(items)
    assert items.con.execute(
        f"SELECT count(*) FROM (SELECT id FROM items {BY} LIMIT NULL)", [query()]
    ).fetchone() == (600,)


def test_statements_around_a_search(items: Lake) -> None:
    con = items.con
    expected = items.same(f"SELECT id FROM items {BY} LIMIT 5", [query()], ordered=True)
    con.execute(f"CREATE OR REPLACE TEMP TABLE kept AS SELECT id FROM items {BY} LIMIT 5", [query()])
    assert con.execute("FROM kept").fetchall() == expected
    items.seen.clear()
    con.execute(f"INSERT INTO kept (id) SELECT id FROM items {BY} LIMIT 5", [query()])
    assert was_searched(items)
    assert con.execute("SELECT count(*) FROM kept").fetchone() == (10,)
    plan = con.execute(f"EXPLAIN SELECT id FROM items {BY} LIMIT 5", [query()]).fetchall()[0][1]
    assert "_knn" in plan
    items.seen.clear()
    script = (
        f"SET threads = 2; SELECT id FROM items ORDER BY array_distance(vec, {query()}::FLOAT[6]) LIMIT 5"
    )
    assert con.execute(script).fetchall() == expected
    assert was_searched(items)


def test_settings_of_order_are_respected(items: Lake) -> None:
    sql = f"SELECT id FROM items {BY}, id LIMIT 5"
    plain = items.same(sql, [query()], ordered=True)
    for setting in ("default_null_order = 'nulls_first'", "default_order = 'DESC'"):
        items.con.execute(f"SET {setting}")
        items.seen.clear()
        assert items.same(sql, [query()], ordered=True) != plain
        assert not was_searched(items)
        items.con.execute(f"RESET {setting.split()[0]}")
    items.seen.clear()
    assert items.same(sql, [query()], ordered=True) == plain
    assert was_searched(items)


def test_recognition_does_not_disturb_a_pending_result(items: Lake) -> None:
    items.con.execute("SELECT id FROM items ORDER BY id LIMIT 3")
    relation = items.con.sql(
        "SELECT id FROM items ORDER BY array_distance(vec, [1,2,3,4,5,6]::FLOAT[6]) LIMIT 2"
    )
    assert items.con.fetchall() == [(0,), (1,), (2,)]
    assert len(relation.fetchall()) == 2


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT id FROM items ORDER BY array_distance(vec, [1, 2]::FLOAT[2]) LIMIT 3", "array_distance"),
        ("SELECT nope FROM items ORDER BY array_distance(vec, [1,2,3,4,5,6]::FLOAT[6]) LIMIT 3", "nope"),
        ("SELECT id FROM items ORDER BY array_distance(vec, [1,2,3,4,5,6]::FLOAT[6]) LIMIT -3", "negative"),
        ("SELECT id FROM items ORDER BY array_distance(vec, [1,2,3,4,5,NULL]::FLOAT[6]) LIMIT 3", "NULL"),
        ("SELECT id FROM items ORDER BY array_distance(vec, [1) LIMIT 3", "syntax error"),
    ],
)
def test_errors_are_duckdbs(items: Lake, sql: str, message: str) -> None:
    with pytest.raises(duckdb.Error, match=message):
        items.con.execute(sql).fetchall()
    assert items.con.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("interface", INTERFACES)
def test_zero_vectors_under_cosine(interface: str) -> None:
    table = new_table(pa.schema([("id", pa.int64()), ("vec", pa.list_(pa.float32(), 6))]))
    vectors = [[0.0] * 6, query(1), None, query(2), [0.0] * 6]
    table.append(pa.table({"id": range(5), "vec": vectors}, schema=table.schema))
    items = attached(interface, table)
    for k in range(1, 6):
        items.same(
            f"SELECT id FROM items ORDER BY array_cosine_distance(vec, {Q}), id LIMIT {k}",
            [query()],
            ordered=True,
        )


@pytest.mark.parametrize("interface", INTERFACES)
def test_another_metric_than_the_indexs_is_exact(interface: str) -> None:
    random = np.random.default_rng(3)
    count = 3000
    values = random.normal(size=(count, 6)).astype(np.float32)
    table = new_table(pa.schema([("id", pa.int64()), ("vec", pa.list_(pa.float32(), 6))]))
    table.append(
        pa.table(
            {"id": np.arange(count), "vec": pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 6)}
        )
    )
    table.create_index("vec", metric="cosine")
    items = attached(interface, table)
    items.same(f"SELECT id FROM items {BY} LIMIT 20", [query()], ordered=True)
    near = items.con.execute(f"SELECT id FROM items ORDER BY vec <=> {Q} LIMIT 20", [query()]).fetchall()
    exact = items.con.execute(f"SELECT id FROM copied ORDER BY vec <=> {Q} LIMIT 20", [query()]).fetchall()
    assert len(set(near) & set(exact)) >= 17


def test_a_table_made_under_a_search_text_is_noticed() -> None:
    """What was remembered of a text is forgotten when tables come and go."""
    first = new_table(pa.schema([("id", pa.int64()), ("vec", pa.list_(pa.float32(), 2))]))
    first.append(pa.table({"id": [1], "vec": [[0.0, 0.0]]}, schema=first.schema))
    con = connect()
    sql = "SELECT id FROM things ORDER BY array_distance(vec, [1, 1]::FLOAT[2]) LIMIT 1"
    con.attach(first, "things")
    assert con.execute(sql).fetchall() == [(1,)]
    con.detach("things")
    con.execute("CREATE TABLE things AS SELECT 7 AS id, [1, 1]::FLOAT[2] AS vec")
    assert con.execute(sql).fetchall() == [(7,)]
