"""knn() and knn_vec(): exactly the nearest among the rows that match the whole WHERE, on plain connections too."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from duckdb_lake import DIMENSION, INTERFACES, ROWS, Lake, attached, filled_table, new_table, query, rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_duckdb_tables import CONDITIONS

import lake_format as lake
from lake_connectors.duckdb import attach, connect

VECTOR = f"FLOAT[{DIMENSION}]"


@pytest.fixture(scope="module")
def table() -> lake.Table:
    return filled_table()


@pytest.fixture(scope="module", params=INTERFACES)
def items(request: pytest.FixtureRequest, table: lake.Table) -> Iterator[Lake]:
    made = attached(request.param, table)
    yield made
    made.con.close()


@pytest.fixture(params=INTERFACES)
def interface(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def found(items: Lake, condition: str, k: int, vector: list[float]) -> list[int]:
    """Ids by knn() on the plain connection."""
    sql = f"SELECT id FROM knn('items', ?, {k}) WHERE {condition}"
    return [row[0] for row in items.con.duckdb.execute(sql, [vector]).fetchall()]


@pytest.mark.parametrize("condition", CONDITIONS)
def test_the_k_nearest_among_the_matching_rows(items: Lake, condition: str) -> None:
    """Also where DuckDB keeps the predicate for itself: LIKE, functions, arithmetic that may fail."""
    vector = query(len(condition))
    assert found(items, condition, 10, vector) == items.nearest(condition, 10, vector)


@settings(max_examples=20, suppress_health_check=list(HealthCheck))
@given(
    conditions=st.lists(st.sampled_from(CONDITIONS), min_size=1, max_size=3),
    joint=st.sampled_from([" AND ", " OR "]),
    k=st.integers(1, 700),
    seed=st.integers(0, 9),
    threads=st.sampled_from([1, 4]),
)
def test_any_filters_and_any_k(
    items: Lake, conditions: list[str], joint: str, k: int, seed: int, threads: int
) -> None:
    items.con.duckdb.execute(f"SET threads = {threads}")
    condition = joint.join(f"({one})" for one in conditions)
    assert found(items, condition, k, query(seed)) == items.nearest(condition, k, query(seed))


def test_rows_come_with_row_id_and_true_distance(items: Lake) -> None:
    answer = items.con.sql("SELECT * FROM knn('items', ?, 5)", params=[query()]).to_arrow_table()
    assert answer.column_names == [*items.table.schema.names, "_row_id", "_distance"]
    direct = items.table.search(query(), k=5).to_arrow()
    assert answer["_row_id"].to_pylist() == direct["_row_id"].to_pylist()
    assert answer["_distance"].to_pylist() == pytest.approx(direct["_distance"].to_pylist())


def test_predicates_travel_and_rows_are_not_read_in_vain(items: Lake) -> None:
    items.seen.clear()
    items.con.duckdb.execute(
        "SELECT title FROM knn('items', ?, 3) WHERE id > 100 AND title LIKE '%y%'", [query()]
    ).fetchall()
    (read,) = items.seen
    assert read.nearest is not None
    assert read.nearest.k == 3
    assert set(read.columns) <= {"title", "_row_id", "_distance"}
    assert ["100" in text for text in read.predicates] == [True]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT count(*) FROM knn('items', $q, 7)", 7),
        ("SELECT count(*) FROM knn('items', $q)", 10),
        ("SELECT count(*) FROM knn('items', $q, 7) WHERE id % 2 = 0", 7),
        ("SELECT count(*) FROM knn('items', $q, k := 4, exact := true)", 4),
        (
            "SELECT count(*) FROM (FROM knn('items', $q, 3) UNION ALL FROM knn('items', $q, 5))"
            " WHERE title LIKE '%x%'",
            8,
        ),
        ("SELECT count(*) FROM (FROM knn('items', $q, 4) UNION ALL FROM knn('items', $q, 4))", 8),
        ("WITH near AS (FROM knn('items', $q, 6)) SELECT count(*) FROM near WHERE title LIKE '%x%'", 6),
        ("SELECT max(c) FROM (SELECT count(*) OVER () c FROM knn('items', $q, 9))", 9),
        ("SELECT count(*) FROM knn('items', $q, 5000)", ROWS - len(range(5, ROWS, 41))),
        ("SELECT count(*) FROM knn('items', $q, 10) WHERE _distance < 0", 0),
        ("SELECT count(*) FROM knn('items', $q, 10) WHERE _distance >= 0 AND _row_id % 2 = 1", 10),
        ("SELECT count(*) FROM knn('items', $q, 10) WHERE id < 3", 3),
        (
            "SELECT count(*) FROM knn('items', $q, 10, metric := 'cosine', vector_column := 'vec', recall := 0.9)",
            10,
        ),
    ],
)
def test_counts(items: Lake, sql: str, expected: int) -> None:
    assert items.con.duckdb.execute(sql, {"q": query()}).fetchone() == (expected,)


def test_distance_as_a_filter(items: Lake) -> None:
    distances = items.table.search(query(), k=30, select=["_distance"]).to_arrow()["_distance"].to_pylist()
    for bound in (distances[4], distances[17]):
        got = items.con.execute(
            "SELECT _distance FROM knn('items', ?, 10) WHERE _distance < ?::FLOAT", [query(), bound]
        ).fetchall()
        assert [row[0] for row in got] == [value for value in distances if value < bound][:10]


def test_joins_choose_among_the_neighbours(items: Lake) -> None:
    """A join filters what knn() found; whichever order DuckDB would like, rows of other tables do not count as k."""
    con = items.con.duckdb
    con.execute(
        "CREATE OR REPLACE TABLE sales AS SELECT i AS sold, j FROM range(0, 600, 2) a(i), range(3) b(j)"
    )
    near = items.nearest("true", 20, query())
    got = con.execute("SELECT id, j FROM knn('items', ?, 20) JOIN sales ON sold = id", [query()]).fetchall()
    assert sorted(got) == sorted((one, j) for one in near if one % 2 == 0 for j in range(3))
    kept = con.execute(
        "SELECT id FROM knn('items', ?, 20) WHERE id IN (SELECT sold FROM sales)", [query()]
    ).fetchall()
    assert sorted(row[0] for row in kept) == sorted(one for one in near if one % 2 == 0)


ASKING_OTHERS = [
    "id IN (SELECT sold FROM sold)",
    "id NOT IN (SELECT sold FROM sold) AND price < 90",
    "EXISTS (FROM sold WHERE sold = n.id AND kind = 'a')",
    "NOT EXISTS (FROM sold WHERE sold = n.id)",
    "small = (SELECT max(small) FROM copied)",
    "(id IN (SELECT sold FROM sold) OR title LIKE 'x%')",
    "id > ALL (SELECT sold FROM sold WHERE sold < 90)",
    "(SELECT count(*) FROM sold WHERE kind = n.category) > 3",
    "place.city IN (SELECT place.city FROM copied WHERE id = 3)",
    "id IN (FROM range(1, 200000, 3))",
    "id IN (SELECT id FROM items ORDER BY array_distance(vec, [0, 0, 0, 0, 0, 1]::FLOAT[6]) LIMIT 100)",
]


@pytest.fixture
def asked(items: Lake) -> Lake:
    items.con.duckdb.execute(
        "CREATE OR REPLACE TABLE sold AS SELECT id AS sold, category AS kind FROM copied WHERE id % 3 = 0"
    )
    return items


@pytest.mark.parametrize("condition", ASKING_OTHERS)
def test_conditions_that_ask_other_tables_are_filters_as_well(asked: Lake, condition: str) -> None:
    """Permissions, say: on our connection k rows come back where k rows match."""
    sql = f"SELECT id, title FROM knn('items', ?, 7) AS n WHERE {condition}"
    matching = f"(SELECT * FROM copied AS n WHERE vec IS NOT NULL AND {condition.replace('items', 'copied')})"
    true = f"SELECT id, title FROM {matching} ORDER BY array_distance(vec, ?::{VECTOR}) LIMIT 7"
    expected = sorted(asked.con.duckdb.execute(true, [query()]).fetchall(), key=repr)
    for _ in range(2):
        assert sorted(asked.con.execute(sql, [query()]).fetchall(), key=repr) == expected
    around = f"SELECT count(*) FROM ({sql}) AS near JOIN range(3) AS t(i) ON t.i <= near.id + 3"
    assert asked.con.execute(around, [query()]).fetchone() == (3 * len(expected),)


def test_a_search_that_stands_twice_in_a_statement(asked: Lake) -> None:
    """Both count what passes of theirs, though one may be asked when the other has not heard of all yet."""
    near = "SELECT id FROM knn('items', ?, 7) WHERE id IN (SELECT sold FROM sold)"
    expected = sorted(2 * asked.con.execute(near, [query()]).fetchall())
    assert len(expected) == 14
    for threads in 10 * [1, 2, 4, 8]:
        asked.con.duckdb.execute(f"SET threads = {threads}")
        found = asked.con.execute(f"{near} UNION ALL {near}", 2 * [query()]).fetchall()
        assert sorted(found) == expected


def test_such_conditions_in_statements_of_every_form(asked: Lake) -> None:
    con, vector = asked.con, query(4)
    expected = asked.nearest("id IN (SELECT sold FROM sold) AND id > 20", 5, vector)
    near = "SELECT id FROM knn('items', {}, 5) WHERE id IN (SELECT sold FROM sold) AND id > {}"
    for sql in (
        f"WITH near AS ({near}) SELECT id FROM near JOIN sold ON sold = id",
        f"SELECT n.id FROM ({near}) AS n LEFT JOIN sold ON n.id = sold.sold",
        f"SELECT n.id FROM sold JOIN ({near.replace('SELECT sold', 'SELECT sold.sold')}) AS n ON n.id = sold.sold",
        f"{near} UNION SELECT -1",
    ):
        found = con.execute(sql.format("$q", "$least"), {"q": vector, "least": 20}).fetchall()
        assert sorted(row[0] for row in found if row[0] != -1) == sorted(expected), sql
    con.execute(f"PREPARE of_the_sold AS {near.format('$1', '$2')}")
    assert sorted(con.execute(f"EXECUTE of_the_sold({vector}, 20)").fetchall()) == [
        (one,) for one in sorted(expected)
    ]
    relation = con.sql(near.format("?", 20), params=[vector])
    assert sorted(relation.fetchall()) == [(one,) for one in sorted(expected)]
    shown = con.execute(near.format("?", 20).replace("id FROM", "* FROM"), [vector]).description
    assert shown == con.execute("SELECT * FROM knn('items', ?, 5)", [vector]).description


FEW_KEYS = {
    "id IN (SELECT sold FROM sold WHERE sold < ?)": True,
    "small IN (SELECT sold * 100000 FROM sold WHERE sold < ?) OR id < 9": False,
    "small IN (SELECT sold FROM sold WHERE sold < ?) AND price < 90": True,
    "id IN (SELECT id FROM items WHERE price < ?)": True,
    "id IN (SELECT s.sold FROM sold AS s JOIN copied ON id = sold WHERE price < ?)": True,
    "id IN (SELECT max(sold) FROM sold WHERE sold < ? GROUP BY kind)": True,
    "id IN (SELECT -sold FROM sold WHERE sold BETWEEN 1 AND ?)": True,
    "id IN (SELECT sold / 3 FROM sold WHERE sold < ?)": False,
    "id NOT IN (SELECT sold FROM sold WHERE sold < ?)": False,
    "id IN (SELECT sold FROM of_the_sold_view WHERE sold < ?)": False,
    "id IN (SELECT sold FROM sold WHERE kind = n.category AND sold < ?)": False,
    "id IN (SELECT sold FROM sold WHERE kind = category AND sold < ?)": False,
    "id IN (SELECT unnest(range(?)))": True,
    "id IN (FROM range(?))": False,
    "id IN (SELECT sold FROM sold ORDER BY sold LIMIT ?)": False,
}


@pytest.mark.parametrize(("condition", "told"), FEW_KEYS.items())
def test_few_keys_of_other_tables_reach_the_search(asked: Lake, condition: str, told: bool) -> None:
    """Those that can be asked for beforehand: then the search looks at no other rows."""
    asked.con.duckdb.execute("CREATE OR REPLACE VIEW of_the_sold_view AS FROM sold")
    true = f"""SELECT id FROM copied AS n WHERE vec IS NOT NULL AND {condition.replace("items", "copied")}
        ORDER BY array_distance(vec, $2::{VECTOR}) LIMIT 7""".replace("?", "$1")
    sql = f"SELECT id FROM knn('items', $2, 7) AS n WHERE {condition}".replace("?", "$1")
    for least in (25, 60):
        given = [least, query(least)]
        asked.seen.clear()
        found = asked.con.execute(sql, given).fetchall()
        searches = [read.nearest for read in asked.seen if read.nearest is not None]
        assert [search.condition is not None for search in searches] == [told]
        assert sorted(found) == sorted(asked.con.duckdb.execute(true, given).fetchall())


def test_what_is_read_once_is_not_asked_before(asked: Lake) -> None:
    """Python objects may be streams; a name that may be the statement's would end a transaction."""
    stream = pa.table({"item": [3, 6, 9, 12]}).to_reader()
    assert stream is not None
    sql = "SELECT id FROM knn('items', ?, 7) AS n WHERE id IN (SELECT item FROM {})"
    assert sorted(asked.con.execute(sql.format("stream"), [query()]).fetchall()) == [(3,), (6,), (9,), (12,)]
    asked.con.execute("CREATE OR REPLACE SEQUENCE numbers")
    asked.con.execute(sql.format("(SELECT nextval('numbers') AS item FROM sold LIMIT 2)"), [query()])
    assert asked.con.execute("SELECT nextval('numbers')").fetchone() in {(3,), (201,)}
    asked.con.execute("BEGIN")
    around = (
        "SELECT id FROM knn('items', ?, 7) AS n WHERE id IN (SELECT sold FROM sold WHERE kind = category)"
    )
    assert len(asked.con.execute(around, [query()]).fetchall()) == 7
    asked.con.execute("DELETE FROM sold WHERE sold > 30")
    seen = asked.con.execute(
        "SELECT max(id) FROM knn('items', ?, 7) WHERE id IN (FROM sold SELECT sold)", [query()]
    )
    assert seen.fetchone()[0] <= 30
    asked.con.execute("ROLLBACK")


def test_conditions_that_ask_the_statement_around_choose_among_the_neighbours(asked: Lake) -> None:
    """There is no one search for all rows of the statement."""
    near = "SELECT * FROM knn('items', $q, 9) AS n WHERE id IN (SELECT sold FROM sold WHERE sold > {})"
    bare, named = near.format("least"), near.format("t.least")
    for sql in (
        f"SELECT least, (SELECT min(id) FROM ({bare})) FROM range(0, 600, 200) AS t(least)",
        f"SELECT least, id FROM range(0, 600, 200) AS t(least), LATERAL ({bare})",
        f"SELECT id FROM range(0, 600, 200) AS t(least), LATERAL ({named})",
    ):
        expected = asked.con.duckdb.execute(sql, {"q": query()}).fetchall()
        assert sorted(asked.con.execute(sql, {"q": query()}).fetchall(), key=repr) == sorted(
            expected, key=repr
        )


def test_prepared_statements_and_variables(items: Lake) -> None:
    con = items.con.duckdb
    con.execute("PREPARE near AS SELECT id FROM knn('items', $1, $2) WHERE id > $3")
    vector = query(3)
    assert [row[0] for row in con.execute(f"EXECUTE near({vector}, 4, 50)").fetchall()] == items.nearest(
        "id > 50", 4, vector
    )
    con.execute(f"SET VARIABLE target = {vector}::{VECTOR}")
    got = con.execute("SELECT id FROM knn('items', getvariable('target'), 4)").fetchall()
    assert [row[0] for row in got] == items.nearest("true", 4, vector)


def test_the_same_search_again_and_again(items: Lake) -> None:
    """Searches are kept apart though their text is the same."""
    expected = items.nearest("title <> 'x'", 5, query())
    for _ in range(66):
        assert found(items, "title <> 'x'", 5, query()) == expected


def test_lateral_joins_search_in_batches(items: Lake) -> None:
    con = items.con.duckdb
    sql = """SELECT q.id, n.id, n._distance, n.title FROM copied q,
        LATERAL (SELECT unnest(knn_vec(q.vec, CASE WHEN q.id = 7 THEN 1 ELSE 3 END), recursive := true)) n
        WHERE q.id < 50 ORDER BY q.id, n._distance"""
    got = con.execute(sql).fetchall()
    expected = con.execute("""SELECT q.id, n.id, d, n.title FROM (SELECT * FROM copied WHERE id < 50) q, LATERAL (
        SELECT id, title, array_distance(vec, q.vec) d FROM copied WHERE vec IS NOT NULL AND q.vec IS NOT NULL
        ORDER BY d LIMIT 3) n ORDER BY q.id, d""").fetchall()
    expected = [row for row in expected if row[0] != 7 or row[2] == 0]
    assert [row[:2] for row in got] == [row[:2] for row in expected]
    assert [row[3] for row in got] == [row[3] for row in expected]
    assert [row[2] for row in got] == pytest.approx([row[2] for row in expected], abs=1e-6)
    assert con.execute("SELECT len(knn_vec_items(NULL::FLOAT[], 3))").fetchone() == (None,)


def test_two_tables_side_by_side(interface: str, table: lake.Table) -> None:
    other = new_table(pa.schema([("name", pa.string()), ("e", pa.list_(pa.float32(), 2))]))
    other.append(pa.table({"name": ["a", "b"], "e": [[0.0, 0.0], [1.0, 1.0]]}, schema=other.schema))
    con = duckdb.connect()
    attach(con, table, "items", interface=interface)
    attach(con, other, "names")
    sql = "SELECT i.id, n.name FROM knn('items', ?, 1) i, knn('names', [0.9, 1], 1) n"
    ((_, name),) = con.execute(sql, [query()]).fetchall()
    assert name == "b"
    assert con.execute("SELECT knn_vec_names([0, 0.1], 1)[1].name").fetchone() == ("a",)
    assert con.execute("SELECT len(knn_vec(?, 2))", [query()]).fetchone() == (2,)


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("FROM knn('items', [1, 2], 3)", "dimension 6"),
        ("FROM knn('items', $q, 0)", "k must be a positive whole number, not 0"),
        ("FROM knn('items', $q, -4)", "k must be a positive whole number, not -4"),
        ("FROM knn('items', $q, NULL)", "k must be a positive whole number"),
        ("FROM knn('items', $q, 'many')", "k must be a positive whole number"),
        ("FROM knn('items', NULL, 3)", "the query vector is NULL"),
        ("FROM knn('items', [1, 2, 3, 4, 5, NULL], 3)", "holds NULL"),
        ("FROM knn('items', [1, 2, 3, 4, 5, 'nan'::FLOAT], 3)", "holds NULL, NaN or infinite"),
        ("FROM knn('items', $q, 3, metric := 'manhattan')", "unknown metric 'manhattan'"),
        ("FROM knn('items', $q, 3, vector_column := 'title')", "not a vector"),
        ("FROM knn('items', $q, 3, vector_column := 'vex')", "did you mean 'vec'"),
        ("FROM knn('items', $q, 3, recall := 2)", "recall must be"),
        ("FROM knn('itmes', $q, 3)", "no lake table itmes is attached; attached: items"),
        ("FROM knn(NULL, $q, 3)", "no lake table NULL"),
        ("SELECT n.id FROM copied c, knn('items', c.vec, 3) n", "must be constants or parameters"),
        ("SELECT knn_vec([1, 2], 3)", "dimension 6"),
        ("SELECT knn_vec($q, 0)", "k must be a positive whole number"),
        ("SELECT knn_vec([1, 2, 3, 4, 5, NULL], 3)", "holds NULL"),
    ],
)
def test_errors_are_duckdbs_with_our_words(items: Lake, sql: str, message: str) -> None:
    given_parameters = {"q": query()} if "$q" in sql else None
    for con in (items.con.duckdb, items.con):
        with pytest.raises(duckdb.Error, match=message):
            con.execute(sql, given_parameters).fetchall()
    assert items.con.duckdb.execute("SELECT count(*) FROM items").fetchone() == (ROWS,)


ALONE = [
    "SELECT * FROM knn('items', $q, 7)",
    "SELECT id, _distance FROM knn('ITEMS', $q, 7, exact := true) AS near",
    "FROM knn('items', q := $q, k := 700, recall := 0.9) AS near ORDER BY near.price, near.id LIMIT 3",
    "SELECT near.id FROM knn('items', $q::FLOAT[6], metric := 'cosine') near ORDER BY id DESC",
    "SELECT min(price), max(id), count(*) FROM knn('items', $q, 9, 'vec')",
    "SELECT category, count(*) FROM knn('items', $q, 50) GROUP BY category ORDER BY ALL",
    "SELECT DISTINCT category FROM knn('items', $q, 50) ORDER BY ALL",
    "SELECT id, row_number() OVER (ORDER BY price, id) FROM knn('items', $q, 50) ORDER BY ALL",
    "SELECT * EXCLUDE (vec) FROM knn('items', $q, 100000) LIMIT 5",
    "SELECT id FROM knn('items', $q, 7) WHERE price > 1",
]
FILTERED = [
    "SELECT id FROM knn('items', $q, 7) WHERE length(title) > 3",
    "SELECT count(*) FILTER (WHERE price > 1) FROM knn('items', $q, 7)",
    "SELECT category FROM knn('items', $q, 50) GROUP BY category HAVING category > 'b' ORDER BY 1",
    "SELECT a.id FROM knn('items', $q, 7) a JOIN knn('items', $q, 9) b USING (id) ORDER BY 1",
    "WITH near AS (FROM knn('items', $q, 7)) SELECT id FROM near WHERE price > 1 ORDER BY 1",
    "SELECT id FROM (FROM knn('items', $q, 7)) WHERE price > 1 ORDER BY 1",
    "SELECT id FROM knn('items', $q, 50) QUALIFY rank() OVER (PARTITION BY category ORDER BY id) = 1 ORDER BY 1",
]


@pytest.mark.filterwarnings("ignore:Arrow output on a DB-API result")
@pytest.mark.parametrize("sql", [*ALONE, *FILTERED])
def test_searches_after_which_nothing_filters_need_no_counting(items: Lake, sql: str) -> None:
    """They are the same by either way; only they get the shorter one."""
    parameters = {"q": query(3)}
    expected = items.con.duckdb.execute(sql, parameters).to_arrow_table().to_pylist()
    answer = items.con.execute(sql, parameters).to_arrow_table().to_pylist()
    assert repr(answer) == repr(expected)  # NaN among them
    shorter = "knn_alone" in items.con._rewriter(sql)
    assert shorter == (sql in ALONE and items.con._state.interface == "sources")


def test_unknown_options_are_refused(items: Lake) -> None:
    with pytest.raises(duckdb.Error, match="recall := NULL"):
        items.con.duckdb.execute("FROM knn('items', [1, 2], 3, probes := 3)")


def test_without_its_optimizer_duckdb_pushes_nothing_and_says_so(interface: str, table: lake.Table) -> None:
    con = duckdb.connect()
    attach(con, table, "items", interface=interface)
    con.execute("PRAGMA disable_optimizer")
    with pytest.raises(duckdb.Error, match="constants or parameters"):
        con.execute("FROM knn('items', ?, 3)", [query()]).fetchall()


def test_empty_tables_and_tables_without_vectors(interface: str) -> None:
    con = connect(interface=interface).attach(new_table(), "empty")
    assert con.execute("SELECT count(*) FROM knn('empty', ?, 3) WHERE id % 2 = 0", [query()]).fetchone() == (
        0,
    )
    plain = new_table(pa.schema([("id", pa.int64())]))
    plain.append(pa.table({"id": [1]}))
    con.attach(plain, "plain")
    with pytest.raises(duckdb.Error, match="no vector column"):
        con.execute("FROM knn('plain', [1], 3)")


def test_rows_appended_later_are_found(interface: str) -> None:
    table = new_table()
    table.append(rows(0, 20))
    con = connect(interface=interface).attach(table, "items")
    for start in (20, 40):
        table.append(rows(start, 20))
        (nearest,) = table.search(query(), k=1, select=["id"]).to_pylist()
        assert con.execute("SELECT id FROM knn('items', ?, 1)", [query()]).fetchall() == [(nearest["id"],)]
        assert con.execute("SELECT count(*) FROM knn('items', ?, 500)", [query()]).fetchone()[0] > start


def test_interrupting_leaves_the_connection_usable(interface: str) -> None:
    table = new_table(pa.schema([("id", pa.int64()), ("vec", pa.list_(pa.float32(), 4))]))
    count = 30_000
    vectors = np.random.default_rng(0).random(count * 4, dtype=np.float32)
    table.append(
        pa.table({"id": np.arange(count), "vec": pa.FixedSizeListArray.from_arrays(pa.array(vectors), 4)})
    )
    con = duckdb.connect()
    attach(con, table, "items", interface=interface)
    con.execute("SELECT id FROM knn('items', [0, 0, 0, 0], 1)").fetchall()
    slow = "SELECT a.id FROM knn('items', [0, 0, 0, 0], 30000) a, range(20000) b(i) WHERE (a.id * i) % 999983 = 7"
    timer = threading.Timer(0.3, con.interrupt)
    timer.start()
    began = time.monotonic()
    with pytest.raises(duckdb.InterruptException):
        con.execute(slow).fetchall()
    timer.join()
    assert time.monotonic() - began < 5
    assert len(con.execute("FROM knn('items', [0, 0, 0, 0], 3)").fetchall()) == 3


@pytest.fixture(scope="module")
def large() -> lake.Table:
    """20,000 rows in clusters, an index over most of them."""
    random = np.random.default_rng(5)
    centres = random.normal(size=(40, 16)).astype(np.float32) * 3
    table = new_table(
        pa.schema([("id", pa.int64()), ("tag", pa.string()), ("vec", pa.list_(pa.float32(), 16))])
    )

    def part(start: int, count: int) -> pa.Table:
        values = centres[random.integers(0, 40, count)] + random.normal(size=(count, 16)).astype(np.float32)
        ids = np.arange(start, start + count)
        return pa.table(
            {
                "id": ids,
                "tag": [f"t{number % 23}" for number in ids],
                "vec": pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 16),
            }
        )

    table.append(part(0, 18_000))
    table.create_index("vec")
    table.append(part(18_000, 2_000))
    return table


def test_the_index_answers_and_finds_what_it_should(interface: str, large: lake.Table) -> None:
    con = connect(interface=interface).attach(large, "items")
    vectors = large.take(list(range(0, 20_000, 4000)), ["vec"])["vec"].to_pylist()
    assert "index" in large.search(vectors[0], k=10).explain()
    for condition in ("true", "id % 3 = 0", "tag LIKE '%7' AND id < 15000", "id % 2000 = 11"):
        hits = 0
        for vector in vectors:
            got = con.execute(f"SELECT id FROM knn('items', ?, 10) WHERE {condition}", [vector]).fetchall()
            exact = con.execute(
                f"SELECT id FROM knn('items', ?, 10, exact := true) WHERE {condition}", [vector]
            ).fetchall()
            assert len(got) == len(exact) == 10
            hits += len(set(got) & set(exact))
        assert hits >= 0.9 * 10 * len(vectors), condition
