"""Attached tables read by DuckDB: the rows and filters of its own copy, and only what a statement needs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from duckdb_lake import INTERFACES, ROWS, SCHEMA, Lake, attached, filled_table, new_table, rows
from hypothesis import HealthCheck, given, settings
from lake_rows import condition_trees

import lake_format as lake
from lake_connectors.duckdb import attach, connect, detach
from lake_connectors.duckdb.attaching import WAY_VARIABLE
from lake_format.draft import Draft
from lake_format.operation_record import OperationRecord
from lake_format.schema import assign_field_ids
from lake_format.snapshot import Snapshot

CONDITIONS = [
    "id < 17",
    "id = 100",
    "id + 1 = 6",
    "id % 7 = 3",
    "id BETWEEN 90 AND 110",
    "id IN (1, 2, 599, 7000)",
    "small IS NULL",
    "small <> 2",
    "small IN (1, NULL)",
    "price > 9.99",
    "price >= 'inf'::DOUBLE",
    "price < 0",
    "price = 0",
    "price <> 0",
    "price <= 0.0",
    "price IN (0, 9.99)",
    "isnan(price)",
    "price > 'nan'::DOUBLE",
    "weight > 2",
    "weight = 0.1::FLOAT",
    "weight < 0.1",
    "title = 'x'",
    "title LIKE 'x%'",
    "title ILIKE 'ä%'",
    "title > 'x'",
    "title IN ('', 'it''s', '日本')",
    "length(title) > 3",
    "lower(title) = 'ärger'",
    "category IS NOT NULL",
    "category IS DISTINCT FROM 'a'",
    "moment < TIMESTAMP '2024-03-31 12:00:00'",
    "moment = TIMESTAMP '2024-03-31 00:37:00'",
    "seen >= TIMESTAMPTZ '2024-03-31 03:00:00+02'",
    "seen < TIMESTAMPTZ '2024-03-31 03:00:00.000001+02'",
    "day = DATE '2024-01-05'",
    "day > DATE '2024-02-01'",
    "cost > 1.05",
    "cost IN (1.10, 0)",
    "cost = -2",
    "flag",
    "NOT flag",
    "place.city = 'Rome'",
    "place.zip > 1",
    "place IS NULL",
    "vec IS NULL",
]


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


@pytest.mark.parametrize("condition", CONDITIONS)
def test_each_filter_selects_what_duckdb_selects(items: Lake, condition: str) -> None:
    items.same(f"SELECT id FROM items WHERE {condition}")
    items.same(f"SELECT id, title FROM items WHERE NOT ({condition})")


@settings(max_examples=20, suppress_health_check=list(HealthCheck))
@given(tree=condition_trees(CONDITIONS, 5))
def test_filters_together_select_what_duckdb_selects(items: Lake, tree: str) -> None:
    items.same(f"SELECT id FROM items WHERE {tree}")


def test_whole_rows_come_back_as_they_are(items: Lake) -> None:
    got = items.con.sql("SELECT * FROM items ORDER BY id").to_arrow_table()
    expected = items.con.sql("SELECT * FROM copied ORDER BY id").to_arrow_table()
    assert got.schema.names == SCHEMA.names
    assert repr(got.to_pylist()) == repr(expected.to_pylist())
    assert items.con.execute("DESCRIBE items").fetchall() == items.con.execute("DESCRIBE copied").fetchall()


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM items",
        "SELECT category, count(*), max(moment), sum(cost) FROM items WHERE id < 300 GROUP BY category",
        "SELECT a.id FROM items a JOIN items b ON a.id = b.id + 1 WHERE b.small = 7",
        "SELECT id FROM items WHERE id IN (SELECT id * 2 FROM items WHERE category = 'a')",
        "SELECT DISTINCT title FROM items",
        "WITH few AS (SELECT * FROM items WHERE id < 20) SELECT id, place.city FROM few WHERE small > 0",
        "SELECT id, row_number() OVER (PARTITION BY category ORDER BY id) FROM items WHERE id > 500",
    ],
)
def test_statements_answer_as_over_a_copy(items: Lake, sql: str) -> None:
    items.same(sql)


def test_only_the_columns_and_filters_needed_arrive(items: Lake) -> None:
    items.seen.clear()
    items.con.execute(
        "SELECT title FROM items WHERE id >= 590 AND category = 'a' AND length(title) > 2"
    ).fetchall()
    (read,) = items.seen
    assert set(read.columns) <= {"title"}
    text = " ".join(read.predicates)
    assert "590" in text
    assert "category" in text
    assert "length" not in text


def test_a_limit_stops_the_reading(interface: str) -> None:
    table = new_table(pa.schema([("n", pa.int64())]))
    for start in range(3):
        table.append(pa.table({"n": np.arange(start * 200_000, (start + 1) * 200_000)}))
    con = connect(interface=interface).attach(table, "many")
    assert con.execute("SELECT n FROM many LIMIT 3").fetchall() == [(0,), (1,), (2,)]
    assert con.execute("SELECT count(*), sum(n) FROM many").fetchall() == [(600_000, sum(range(600_000)))]


def test_new_rows_are_seen_by_the_next_statement_and_a_pinned_table_stays(interface: str) -> None:
    table = new_table()
    table.append(rows(0, 10))
    con = connect(interface=interface).attach(table, "now").attach(table.uri, "old", version=table.version)
    other = lake.open(table.uri)
    other.append(rows(10, 5))
    counts = "SELECT (SELECT count(*) FROM now), (SELECT count(*) FROM old)"
    assert con.execute(counts).fetchall() == [(15, 10)]
    assert table.version != other.version  # the table handed in is not moved
    con.execute("PREPARE counted AS SELECT count(id) FROM now")
    other.append(rows(15, 5))
    assert con.execute("EXECUTE counted").fetchall() in ([(15,)], [(20,)])
    assert con.execute(counts).fetchall() == [(20, 10)]


def test_staleness_may_be_allowed(interface: str) -> None:
    table = new_table()
    con = connect(interface=interface).attach(table, "items", max_staleness=3600)
    assert con.execute("SELECT count(id) FROM items").fetchone() == (0,)
    table.append(rows(0, 3))
    assert con.execute("SELECT count(id) FROM items").fetchone() == (0,)


def test_row_ids_come_from_lake_and_hidden_columns_stay_hidden(items: Lake) -> None:
    found = items.con.execute(
        "SELECT _row_id, id, title FROM lake('Items') WHERE id IN (3, 4) ORDER BY id"
    ).fetchall()
    taken = items.table.take([row[0] for row in found], ["id", "title"]).to_pylist()
    assert [(row["id"], row["title"]) for row in taken] == [row[1:] for row in found]
    for hidden in ("_row_id", "_distance", "_knn", "_gate"):
        with pytest.raises(duckdb.BinderException):
            items.con.execute(f"SELECT {hidden} FROM items")


def test_half_float_vectors_arrive_as_floats(interface: str) -> None:
    table = new_table(pa.schema([("id", pa.int32()), ("v", pa.list_(pa.float16(), 2)), ("h", pa.float16())]))
    halves = np.array([[1, 2], [3, 4.5]], np.float16)
    table.append(
        pa.table(
            {
                "id": pa.array([1, 2], pa.int32()),
                "v": pa.FixedSizeListArray.from_arrays(pa.array(halves.ravel()), 2),
                "h": pa.array(halves[:, 1]),
            }
        )
    )
    con = connect(interface=interface).attach(table, "halves")
    assert con.execute("SELECT v, h FROM halves WHERE h >= 4.5").fetchall() == [((3.0, 4.5), 4.5)]
    assert str(con.execute("SELECT v FROM halves").description[0][1]) == "FLOAT[2]"
    assert con.execute("SELECT id FROM knn('halves', [3, 4], 1)").fetchall() == [(2,)]
    assert con.execute(
        "SELECT id FROM halves ORDER BY array_distance(v, [1, 1]::FLOAT[2]) LIMIT 1"
    ).fetchall() == [(1,)]


def test_odd_names(interface: str) -> None:
    schema = pa.schema(
        [('we"ird col', pa.int64()), ("select", pa.string()), ("Vec", pa.list_(pa.float32(), 2))]
    )
    table = new_table(schema)
    table.append(
        pa.table({'we"ird col': [1, 2], "select": ["a", "b"], "Vec": [[0.0, 0.0], [1.0, 1.0]]}, schema=schema)
    )
    con = connect(interface=interface).attach(table, "my 'odd' \"Table\"")
    quoted = '"my \'odd\' ""Table"""'
    assert con.execute(f'SELECT "we""ird col" FROM {quoted} WHERE "select" = \'b\'').fetchall() == [(2,)]
    assert con.execute(
        'SELECT "select" FROM knn(\'MY \'\'odd\'\' "tABLE"\', [0.9, 1], 1) WHERE "we""ird col" > 0'
    ).fetchall() == [("b",)]
    assert con.execute(
        f'SELECT "we""ird col" FROM {quoted} ORDER BY array_distance(vEC, [0.9, 1]::FLOAT[2]) LIMIT 1'
    ).fetchall() == [(2,)]
    con.detach("MY 'odd' \"TABLE\"")
    with pytest.raises(duckdb.CatalogException):
        con.execute(f"FROM {quoted}")


def test_attach_again_replaces_and_detach_forgets(interface: str) -> None:
    first, second = new_table(), new_table()
    first.append(rows(0, 4))
    second.append(rows(0, 7))
    con = duckdb.connect()
    assert attach(con, first, "goods", interface=interface) == "goods"
    attach(con, second, "GOODS")
    assert con.execute("SELECT count(id) FROM goods").fetchone() == (7,)
    attach(con, first, "other")
    both = "SELECT (SELECT count(id) FROM goods), (SELECT count(id) FROM other)"
    assert con.execute(both).fetchone() == (7, 4)
    detach(con, "goods")
    with pytest.raises(duckdb.CatalogException, match="goods"):
        con.execute("FROM goods")
    with pytest.raises(
        duckdb.InvalidInputException, match="no lake table goods is attached; attached: other"
    ):
        con.execute("FROM knn('goods', [1, 2], 3)")
    with pytest.raises(lake.NotFoundError, match="attached: other"):
        detach(con, "goods")
    detach(con, "other")
    with pytest.raises(duckdb.InvalidInputException, match="no lake table other is attached"):
        con.execute("FROM knn('other', [1, 2], 3)")
    attach(con, first, "other")
    assert con.execute("SELECT count(id) FROM other").fetchone() == (4,)


def test_attach_refuses_what_it_cannot_do(interface: str) -> None:
    con = duckdb.connect()
    con.execute("CREATE TABLE taken(i INT)")
    with pytest.raises(lake.InvalidInputError, match="'TAKEN' already"):
        attach(con, new_table(), "TAKEN", interface=interface)
    with pytest.raises(lake.NotFoundError):
        attach(con, "memory://nothing-there")
    with pytest.raises(lake.InvalidInputError, match="not object"):
        attach(object(), new_table())
    with pytest.raises(lake.InvalidInputError, match="unknown interface 'fast'"):
        attach(duckdb.connect(), new_table(), "t", interface="fast")
    with pytest.raises(lake.InvalidInputError, match="interface already"):
        attach(con, new_table(), "t", interface=next(one for one in INTERFACES if one != interface))
    with pytest.raises(lake.InvalidInputError, match="goes with a URI"):
        attach(con, new_table(), "t", version=1)
    wide = new_table(pa.schema([("d", pa.decimal256(50, 2))]))
    with pytest.raises(lake.UnsupportedError, match="decimal256"):
        attach(con, wide, "wide")
    assert con.execute("SELECT count(*) FROM taken").fetchone() == (0,)


def test_the_environment_chooses_the_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WAY_VARIABLE, "public")
    con = connect()
    assert con._state.interface == "public"
    monkeypatch.delenv(WAY_VARIABLE)
    assert connect()._state.interface == "sources"


def test_another_private_module_means_the_public_interface() -> None:
    """In a process of its own, as DuckDB looks at its module once."""
    code = """
import duckdb, sys
import duckdb._sources.arrow as arrow
arrow.ArrowScanSource.accepts = lambda self, node, more: False
from lake_connectors.duckdb import connect
print(connect()._state.interface)
try:
    connect(interface="sources")
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("public\nUnsupportedError DuckDB"), done.stdout


def test_python_variables_are_found_as_by_duckdb_itself(items: Lake) -> None:
    mine = pa.table({"wanted": [3, 5]})
    assert mine.num_rows == 2
    sql = "SELECT id FROM items JOIN mine ON wanted = id ORDER BY id"
    assert items.con.execute(sql).fetchall() == [(3,), (5,)]
    assert items.con.sql(sql).fetchall() == [(3,), (5,)]
    assert items.con.query("SELECT sum(wanted) FROM mine").fetchall() == [(8,)]


def test_the_wrapper_is_the_connection_otherwise(interface: str) -> None:
    with connect(interface=interface) as con:
        con.execute("CREATE TABLE t(i INT)").executemany("INSERT INTO t VALUES (?)", [[1], [2]])
        assert con.begin() is con
        assert con.execute("SELECT sum(i) FROM t").fetchone() == (3,)
        assert con.rollback() is con
        assert con.table("t").order("i").fetchall() == [(1,), (2,)]
        assert [column[0] for column in con.execute("SELECT i FROM t").description] == ["i"]
        assert "fetch_df" in dir(con) or "fetchdf" in dir(con)
        assert "nothing attached" in repr(con)
        with pytest.raises(AttributeError):
            _ = con.no_such_method
    with pytest.raises(duckdb.ConnectionException):
        con.execute("SELECT 1")


def test_cursors_and_threads_read_the_same_tables(interface: str, table: lake.Table) -> None:
    con = connect(interface=interface).attach(table, "items")

    def read(number: int) -> list[object]:
        cursor = con.cursor()
        answers = []
        for _ in range(3):
            answers += cursor.execute("SELECT count(*) FROM items WHERE id < ?", [number]).fetchall()
            answers += cursor.execute(
                "SELECT id FROM knn('items', ?, 2) WHERE id % 50 = 3", [[0.5] * 6]
            ).fetchall()
        return answers

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(read, [10, 20, 30, 40]))
    nearest = found[0][1:3]
    assert len(nearest) == 2
    for number, answers in zip([10, 20, 30, 40], found, strict=True):
        assert answers == [(number,), *nearest] * 3


def test_a_failing_read_leaves_the_connection_usable(interface: str) -> None:
    table = new_table()
    table.append(rows(0, 5))
    con = connect(interface=interface).attach(table, "items")
    with pytest.raises(duckdb.Error):
        con.execute("SELECT title::INTEGER FROM items").fetchall()
    assert con.execute("SELECT count(*) FROM items").fetchone() == (5,)


def test_everything_counted_is_what_was_written(items: Lake) -> None:
    assert items.con.execute("SELECT count(*) FROM items").fetchone() == (ROWS,)


@dataclass(frozen=True)
class NewSchema:
    """A commit of another schema, as schema changes make it."""

    schema: pa.Schema
    next_field_id: int
    record: OperationRecord = field(default_factory=lambda: OperationRecord(kind="schema"))
    summary: dict[str, object] = field(default_factory=dict)

    def apply(self, draft: Draft) -> OperationRecord:
        draft.set_schema(self.schema, self.next_field_id)
        return self.record

    def replan(self, latest: Snapshot) -> NewSchema:
        raise AssertionError(latest)


def change_columns(table: lake.Table, *, drop: str | None = None, add: str | None = None) -> None:
    version = table.snapshot.version
    fields = [column for column in version.schema if column.name != drop]
    following = version.next_field_id
    if add is not None:
        (column,), following = assign_field_ids(pa.schema([(add, pa.float32())]), following)
        fields.append(column)
    table._commit(NewSchema(pa.schema(fields), following))


def test_new_columns_are_seen_by_the_next_statement(interface: str) -> None:
    """On a plain connection where DuckDB's scan sources are used, on ours always."""
    table = new_table()
    table.append(rows(0, 6))
    con = connect(interface=interface).attach(table, "items")
    connections = [con, con.duckdb] if interface == "sources" else [con]
    nearest = "SELECT id, score FROM knn('items', ?, 2)"
    for plain in connections:
        with pytest.raises(duckdb.BinderException, match="score"):
            plain.execute("SELECT score FROM items")
    change_columns(table, add="score")
    for plain in connections:
        assert plain.execute("SELECT count(*), count(score) FROM items").fetchall() == [(6, 0)]
        assert [row[1] for row in plain.execute(nearest, [[0.5] * 6]).fetchall()] == [None, None]
        assert [column[0] for column in plain.execute("FROM items").description] == [*SCHEMA.names, "score"]
    table.append(rows(6, 2).append_column("score", pa.array([1.5, 2.5], pa.float32())))
    ordered = "SELECT score FROM items WHERE score > 2 ORDER BY array_distance(vec, ?::FLOAT[6]) LIMIT 4"
    assert con.execute(ordered, [[0.5] * 6]).fetchall() == [(2.5,)]
    con.execute("PREPARE titles AS SELECT id, title FROM items")
    change_columns(table, drop="title")
    with pytest.raises(duckdb.Error, match="title"):
        con.execute("SELECT title FROM items").fetchall()
    with pytest.raises(duckdb.Error, match="title"):
        con.execute("EXECUTE titles").fetchall()
    assert con.execute("SELECT sum(id), max(score) FROM items").fetchall() == [(28, 2.5)]
