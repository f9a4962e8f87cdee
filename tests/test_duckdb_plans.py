"""Searches asked again and again: the request handed over in memory, the plan kept, and never an answer of before."""

from __future__ import annotations

import datetime as dt
import gc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from duckdb_lake import DIMENSION, Lake, attached, filled_table, new_table, query, rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lake_format as lake
from lake_connectors.duckdb import connect

KNN = "SELECT id, title FROM knn('items', ?, 5)"
ORDERED = f"SELECT id, title FROM items ORDER BY array_distance(vec, ?::FLOAT[{DIMENSION}]) LIMIT 5"
STATEMENTS = {
    KNN: "v",
    "FROM knn('items', ?::FLOAT[], k := 5) SELECT id, vec": "v",
    "SELECT _distance, id FROM knn('items', ?, 7, metric := 'cosine', recall := 0.9)": "v",
    "SELECT n.* EXCLUDE (seen) FROM knn('items', ?, 5, exact := true) AS n LIMIT 3": "v",
    "SELECT id, _distance FROM knn('items', ?, 5) WHERE price < 50 AND title LIKE '%a%'": "v",
    "SELECT id, upper(title) FROM knn('items', ?, 5) ORDER BY _distance DESC": "v",
    "SELECT id FROM knn('items', ?, 6) WHERE id > ? AND id <> ? ORDER BY _distance ASC": "vnn",
    "SELECT id, ?::BIGINT FROM knn('items', ?, 4) WHERE id <= ?": "nvn",
    ORDERED: "v",
    f"SELECT id FROM items WHERE id % 2 = 0 ORDER BY array_distance(vec, ?::FLOAT[{DIMENSION}]) LIMIT 9": "v",
    f"SELECT * EXCLUDE (seen) FROM items ORDER BY vec <=> ?::FLOAT[{DIMENSION}] LIMIT 9": "v",
    f"SELECT id, small AS s FROM items i WHERE id < ? ORDER BY vec <-> ?::FLOAT[{DIMENSION}] LIMIT 9 OFFSET 3": "nv",
    f"SELECT id, array_distance(vec, $1::FLOAT[{DIMENSION}]) AS d FROM items ORDER BY d LIMIT 3": "v",
}
"""Statements, and what each takes: the vector and numbers."""


@pytest.fixture(scope="module")
def table() -> lake.Table:
    return filled_table()


@pytest.fixture(scope="module")
def items(table: lake.Table) -> Iterator[Lake]:
    made = attached("sources", table)
    yield made
    made.con.close()


def parameters(sql: str, vector: object, numbers: Sequence[int]) -> list[object]:
    """The parameters in the order in which the statement takes them."""
    left = iter(numbers)
    return [vector if kind == "v" else next(left) for kind in STATEMENTS[sql]]


def afresh(items: Lake, sql: str, given: object) -> list[object]:
    """The rows by a relation, whose request travels as text and whose plan nobody keeps."""
    return list(items.con.sql(sql, params=given).fetchall())


def outcome(run: Callable[[], list[object]]) -> tuple[type[Exception] | None, object]:
    """The rows, or the error and what it says."""
    try:
        return None, run()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is to be the same
        return type(error), str(error).partition("LINE")[0]


@settings(max_examples=20, suppress_health_check=list(HealthCheck))
@given(
    asked=st.lists(
        st.tuples(st.sampled_from([*STATEMENTS]), st.integers(0, 50), st.tuples(*[st.integers(0, 600)] * 2)),
        min_size=1,
        max_size=12,
    )
)
def test_any_statements_in_any_order(items: Lake, asked: list[tuple[str, int, tuple[int, int]]]) -> None:
    for sql, seed, numbers in asked:
        handed = parameters(sql, query(seed), numbers)
        assert repr(items.con.execute(sql, handed).fetchall()) == repr(afresh(items, sql, handed)), sql


@pytest.mark.parametrize("sql", STATEMENTS)
def test_each_statement_many_times(items: Lake, sql: str) -> None:
    for seed in range(4):
        handed = parameters(sql, query(seed), [400, 500])
        found = items.con.execute(sql, handed).fetchall()
        assert found
        assert repr(found) == repr(afresh(items, sql, handed))


def test_plans_are_kept_and_searches_told(items: Lake) -> None:
    """Otherwise the tests here show nothing."""
    for sql in (KNN, ORDERED):
        items.con.execute(sql, [query()])
        items.con.execute(sql, [query()])
    held = items.con.execute("SELECT statement FROM duckdb_prepared_statements()").fetchall()
    assert sum("lake$rows:items" in text for (text,) in held) >= 2
    items.seen.clear()
    items.con.execute(KNN, [query(3)]).fetchall()
    assert len(items.seen) == 1
    assert items.seen[0].columns == ("id", "title")
    assert items.seen[0].nearest is not None
    assert items.seen[0].nearest.vector.tolist() == np.array(query(3), np.float32).tolist()


VECTORS = {
    "list": query(),
    "tuple": tuple(query()),
    "float32": np.array(query(), np.float32),
    "float64": np.array(query(), np.float64),
    "whole numbers": [1, 2, 3, 4, 5, 6],
    "mixed": [1, 2.5, 3, 4, 5, 6],
    "every second of an array": np.array(query() + query())[::2],
}


@pytest.mark.parametrize("kind", VECTORS)
@pytest.mark.parametrize("sql", [KNN, ORDERED])
def test_every_kind_of_vector(items: Lake, sql: str, kind: str) -> None:
    for _ in range(3):
        handed = [VECTORS[kind]]
        assert items.con.execute(sql, handed).fetchall() == afresh(items, sql, handed)


WRONG = {
    "too short": [1.0, 2.0],
    "too long": [1.0] * (DIMENSION + 1),
    "empty": [],
    "NULL": None,
    "a NULL in it": [1.0, None, 3.0, 4.0, 5.0, 6.0],
    "NaN": [float("nan")] * DIMENSION,
    "infinite": [float("inf")] * DIMENSION,
    "too large": [1e300] * DIMENSION,
    "huge": [10**400] * DIMENSION,
    "text": ["x"] * DIMENSION,
    "one text": "x",
    "of NumPy's numbers": [*np.array(query(), np.float32)],
    "a number": 3.0,
    "of truth": [True] * DIMENSION,
    "nested": [[1.0] * DIMENSION],
    "a matrix": np.ones((2, DIMENSION)),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("sql", [KNN, ORDERED])
def test_wrong_vectors_fare_as_without_a_plan(items: Lake, sql: str, kind: str) -> None:
    for seed in range(3):
        items.con.execute(sql, [query(seed)]).fetchall()
    handed = [WRONG[kind]]
    expected = outcome(lambda: afresh(items, sql, handed))
    assert outcome(lambda: items.con.execute(sql, handed).fetchall()) == expected
    assert items.con.execute(sql, [query(1)]).fetchall() == afresh(items, sql, [query(1)])


@pytest.mark.parametrize(
    "handed",
    [
        [query(), 0],
        [query(), -1],
        [query(), None],
        [query(), 2.5],
        [query(), "3"],
        [query(), True],
        [query(), 2**70],
        [query()],
        [query(), 3, 4],
        {"1": query()},
    ],
)
def test_wrong_k_fares_as_without_a_plan(items: Lake, handed: object) -> None:
    sql = "SELECT id FROM knn('items', ?, ?)"
    assert [len(items.con.execute(sql, [query(k), k]).fetchall()) for k in (1, 5, 3, 700)] == [1, 5, 3, 585]
    expected = outcome(lambda: afresh(items, sql, handed))
    assert outcome(lambda: items.con.execute(sql, handed).fetchall()) == expected


@pytest.mark.parametrize(
    ("condition", "values"),
    [
        ("id < ?", [3, 500, -1, 2**40]),
        ("price > ?", [1.5, float("inf"), 10, -0.0, 10.25]),
        ("title = ?", ["x", "it's", "日本", "", "a:b", 3]),
        ("born < ?", [dt.datetime(2020, 1, 2, 3, 4, 5, 6), dt.datetime(1999, 1, 1)]),
    ],
)
def test_parameters_of_conditions(condition: str, values: list[object]) -> None:
    """Also values of other kinds than the one before."""
    with attached("sources", dated()).con as con:
        sql = f"SELECT id FROM knn('items', $v, $k) WHERE {condition.replace('?', '$x')}"
        for value in [*values, *values]:
            handed = {"v": query(), "k": 20, "x": value}
            found = outcome(lambda: con.execute(sql, handed).fetchall())  # noqa: B023
            assert found == outcome(lambda: con.sql(sql, params=handed).fetchall())  # noqa: B023


def dated() -> lake.Table:
    table = new_table()
    table.append(rows(0, 100))
    plain = table.to_arrow().select(["id", "price", "title", "vec"])
    moments = pa.array([dt.datetime(1990 + number % 60, 1, 1) for number in range(100)], pa.timestamp("us"))
    plain = plain.append_column("born", moments)
    made = new_table(plain.schema.remove_metadata())
    made.append(plain)
    return made


@pytest.fixture
def fresh() -> Iterator[Lake]:
    made = attached("sources", filled_table())
    for sql in (KNN, ORDERED, "SELECT * EXCLUDE (seen) FROM knn('items', ?, 2)"):
        for seed in range(3):
            made.con.execute(sql, [query(seed)]).fetchall()
    yield made
    made.con.close()


def test_new_rows_are_seen_at_once(fresh: Lake) -> None:
    for seed in range(3):
        fresh.table.append(with_vector(rows(1000 + seed, 1), query(90 + seed)))
        for sql in (KNN, ORDERED):
            assert fresh.con.execute(sql, [query(90 + seed)]).fetchone()[0] == 1000 + seed  # type: ignore[index]


def with_vector(handed: pa.Table, vector: list[float]) -> pa.Table:
    place = handed.schema.get_field_index("vec")
    return handed.set_column(
        place, handed.schema.field("vec"), pa.array([vector], handed.schema.field("vec").type)
    )


def test_columns_come_go_and_change(fresh: Lake) -> None:
    sql = "SELECT * EXCLUDE (seen) FROM knn('items', ?, 2)"

    def names() -> list[str]:
        for _ in range(3):
            fresh.con.execute(sql, [query()]).fetchall()
            found = [column[0] for column in fresh.con.description]
            shown = [name for name in fresh.table.schema.names if name != "seen"]
            assert found == [*shown, "_row_id", "_distance"]
        return found

    names()
    fresh.table.add_column("added", pa.float64(), lake.sql("price * 2"))
    assert "added" in names()
    fresh.table.rename_column("title", "heading")
    assert "heading" in names()
    with pytest.raises(duckdb.BinderException, match="title"):
        fresh.con.execute(KNN, [query()])
    fresh.table.rename_column("added", "title")
    assert fresh.con.execute(KNN, [query()]).fetchall() == afresh(fresh, KNN, [query()])
    fresh.table.drop_column("title")
    with pytest.raises(duckdb.BinderException, match="title"):
        fresh.con.execute(KNN, [query()])
    fresh.table.reorder_columns(["vec", "id"])
    assert names()[0] == "vec"


def test_another_table_of_the_same_name(fresh: Lake) -> None:
    other = new_table()
    other.append(rows(5000, 20))
    fresh.con.attach(other, "items")
    for _ in range(3):
        found = fresh.con.execute(KNN, [query()]).fetchall()
        assert all(5000 <= number < 5020 for number, _ in found)
    fresh.con.detach("items")
    gc.collect()
    with pytest.raises(duckdb.Error):
        fresh.con.execute(KNN, [query()])
    held = fresh.con.execute("SELECT count(*) FROM duckdb_prepared_statements()").fetchone()
    assert held == (0,)


def test_plans_the_user_took_away(fresh: Lake) -> None:
    names = fresh.con.execute("SELECT name FROM duckdb_prepared_statements()").fetchall()
    assert names
    for (name,) in names:
        fresh.con.execute(f"DEALLOCATE {name}")
    for _ in range(2):
        assert fresh.con.execute(KNN, [query()]).fetchall() == afresh(fresh, KNN, [query()])


def test_settings_that_change(fresh: Lake) -> None:
    ordered = ORDERED.replace("LIMIT 5", "LIMIT 700")
    sorted_ = "SELECT id, title FROM knn('items', ?, 50) ORDER BY title"
    for setting in (
        "default_null_order = 'nulls_first'",
        "default_order = 'desc'",
        "default_collation = 'nocase'",
        "threads = 1",
    ):
        for change in (f"SET {setting}", f"RESET {setting.partition(' ')[0]}"):
            fresh.con.duckdb.execute(change)
            for sql in (KNN, ordered, sorted_):
                for _ in range(3):
                    found = fresh.con.execute(sql, [query()]).fetchall()
                    expected = fresh.con.duckdb.execute(
                        sql.replace("FROM items", "FROM copied"), [query()]
                    ).fetchall()
                    assert len(found) == len(expected)
                    assert sql == ordered or [row[1] for row in found] == [row[1] for row in expected]
                    assert {row[0] for row in found} == {row[0] for row in expected}


def test_more_statements_than_plans(fresh: Lake) -> None:
    texts = [f"SELECT id, {number} FROM knn('items', ?, 3)" for number in range(40)]
    for _ in range(3):
        for number, text in enumerate(texts):
            found = fresh.con.execute(text, [query(number)]).fetchall()
            assert [row[1] for row in found] == [number] * 3
            assert found == afresh(fresh, text, [query(number)])
    held = fresh.con.execute("SELECT count(*) FROM duckdb_prepared_statements()").fetchone()
    assert held is not None
    assert held[0] <= 32


def test_explain_and_tables_made_of_a_search(fresh: Lake) -> None:
    for seed in range(3):
        plan = fresh.con.execute(f"EXPLAIN {KNN}", [query(seed)]).fetchall()
        assert "_knn" in plan[0][1]
        fresh.con.execute(f"CREATE OR REPLACE TABLE kept AS {KNN}", [query(seed)])
        assert fresh.con.execute("FROM kept").fetchall() == afresh(fresh, KNN, [query(seed)])


def test_a_statement_prepared_by_the_user(fresh: Lake) -> None:
    fresh.con.execute("PREPARE mine AS SELECT id FROM knn('items', $1, 5)")
    values = ", ".join(map(str, query(4)))
    for _ in range(2):
        found = fresh.con.execute(f"EXECUTE mine([{values}])").fetchall()
        assert found == [(number,) for number, _ in afresh(fresh, KNN, [query(4)])]


def test_within_transactions(fresh: Lake) -> None:
    expected = afresh(fresh, KNN, [query()])
    fresh.con.execute("BEGIN")
    assert fresh.con.execute(KNN, [query()]).fetchall() == expected
    with pytest.raises(duckdb.Error):
        fresh.con.execute("SELECT error('mine')").fetchall()
    with pytest.raises(duckdb.TransactionException):
        fresh.con.execute(KNN, [query()])
    fresh.con.execute("ROLLBACK")
    for _ in range(3):
        assert fresh.con.execute(KNN, [query()]).fetchall() == expected


def test_each_cursor_has_plans_of_its_own(fresh: Lake) -> None:
    """Eight threads with a cursor each get the neighbours of their own vectors."""
    expected = {seed: afresh(fresh, KNN, [query(seed)]) for seed in range(40)}

    def ask(first: int) -> list[int]:
        with fresh.con.cursor() as con:
            return [
                seed
                for seed in range(first, 40, 2)
                if con.execute(KNN, [query(seed)]).fetchall() != expected[seed]
            ]

    with ThreadPoolExecutor(8) as threads:  # which raises what a thread raised
        wrong = [seed for found in threads.map(ask, range(8)) for seed in found]
    assert not wrong


def test_results_read_batch_by_batch(fresh: Lake) -> None:
    sql = "SELECT id, title FROM knn('items', ?, 600)"
    for seed in range(4):
        expected = [row[0] for row in afresh(fresh, sql, [query(seed)])]
        reader = fresh.con.execute(sql, [query(seed)]).to_arrow_reader(100)
        assert pa.Table.from_batches(reader)["id"].to_pylist() == expected


def test_a_plain_connection_to_the_same_database_is_not_touched() -> None:
    with connect() as con:
        con.attach(filled_table(), "items")
        for _ in range(3):
            con.execute(KNN, [query()]).fetchall()
        other = con.duckdb.cursor()
        assert other.execute("SELECT count(*) FROM duckdb_prepared_statements()").fetchone() == (0,)
