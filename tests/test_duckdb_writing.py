"""Writing to tables of a lake from DuckDB, folders of tables, and older versions in SQL."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

import lake_format as lake
from lake_connectors.duckdb import LakeConnection, connect

SCHEMA = pa.schema(
    [("id", pa.int64()), ("name", pa.string()), ("price", pa.float64()), ("vec", pa.list_(pa.float32(), 2))]
)


@pytest.fixture(params=["sources", "public"])
def con(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LakeConnection]:
    made = connect(interface=request.param)
    table = lake.create(str(tmp_path / "items"), SCHEMA)
    table.append([{"id": 1, "name": "a", "price": 1.5, "vec": [0, 1]}])
    table.append([{"id": 2, "name": "b", "price": 2.5, "vec": [1, 0]}])
    made.attach(table, "items").attach_folder(tmp_path, "shop")
    yield made
    made.close()


def test_insert_beside_a_computed_column(con: LakeConnection) -> None:
    """It is left out, as in DuckDB's own tables, or given as it must be."""
    lake.open(con._state.tables["items"].uri).add_column("twice", values=lake.sql("price * 2"), computed=True)
    con.execute("INSERT INTO items SELECT 3, 'c', 9, [0.5, 0.5]")
    con.execute("INSERT INTO items BY NAME SELECT 4 AS id, 4.0::DOUBLE AS price")
    con.execute("INSERT INTO items FROM items WHERE id = 3")
    found = con.execute("SELECT id, twice FROM items ORDER BY id").fetchall()
    assert found == [(1, 3.0), (2, 5.0), (3, 18.0), (3, 18.0), (4, 8.0)]
    with pytest.raises(duckdb.Error, match="'twice' is computed, and would be 18"):
        con.execute("INSERT INTO items SELECT 3, 'c', 9, [0.5, 0.5], 1.0::DOUBLE")
    with pytest.raises(duckdb.Error, match="wants 4 columns"):
        con.execute("INSERT INTO items SELECT 3, 'c', 9")
    con.execute("CREATE TABLE shop.copied AS FROM items")
    assert con.execute("SELECT sum(twice) FROM shop.copied").fetchall() == [(52.0,)]


def test_insert_by_position_by_name_and_some_columns(con: LakeConnection) -> None:
    assert con.execute("INSERT INTO items SELECT 3, 'c', 9, [0.5, 0.5]").fetchall() == [(1,)]
    con.execute("INSERT INTO items BY NAME SELECT [2.0, 2.0]::FLOAT[2] AS vec, 4 AS id")
    con.execute("INSERT INTO items (name, id) VALUES (?, ?), ('f', 6)", ["e", 5])
    con.sql("INSERT INTO items (id) SELECT range FROM range(10, 12)")
    found = con.execute("SELECT id, name, price FROM items ORDER BY id").fetchall()
    assert found == [
        (1, "a", 1.5),
        (2, "b", 2.5),
        (3, "c", 9.0),
        (4, None, None),
        (5, "e", None),
        (6, "f", None),
        (10, None, None),
        (11, None, None),
    ]
    assert lake.open(con._state.tables["items"].uri).version == 7, "one commit each"


def test_a_query_may_read_what_it_writes_to_and_tables_of_the_connection(con: LakeConnection) -> None:
    con.execute("CREATE TEMP TABLE more AS SELECT 7 AS id, 'x' AS name")
    con.execute("INSERT INTO items (id, name) SELECT i.id + 100, m.name FROM items i, more m")
    con.execute("INSERT INTO items (id) SELECT id * 2 FROM items")
    assert con.execute("SELECT count(*) FROM items").fetchone() == (8,)


def test_create_table_as_in_a_folder(con: LakeConnection, tmp_path: Path) -> None:
    made = con.execute(
        "CREATE TABLE shop.near AS SELECT id, vec, _distance AS far FROM knn('items', [0.0, 1.0], 2) ORDER BY id"
    )
    assert made.fetchall() == [(2,)]
    assert lake.open(str(tmp_path / "near")).schema.field("vec").type == pa.list_(pa.float32(), 2)
    assert con.execute("SELECT near.id FROM shop.near").fetchall() == [(1,), (2,)]
    assert con.execute("SELECT n.id FROM shop.near n WHERE n.far > 1").fetchall() == [(2,)]
    assert con.execute("SELECT id FROM knn('shop.near', [1.0, 0.0], 1)").fetchall() == [(2,)]
    con.execute("INSERT INTO shop.near SELECT * FROM shop.near")
    assert con.execute("SELECT count(*) FROM shop.near").fetchone() == (4,)
    assert con.execute("CREATE TABLE IF NOT EXISTS shop.near AS SELECT 1 AS id").fetchall() == [(0,)]
    with pytest.raises(duckdb.Error, match="already"):
        con.execute("CREATE TABLE shop.near AS SELECT 1 AS id")


def test_duckdbs_own_tables_are_duckdbs(con: LakeConnection) -> None:
    con.execute("CREATE TABLE mine AS SELECT id FROM items")
    con.execute("INSERT INTO mine VALUES (77)")
    assert con.execute("SELECT max(id) FROM mine").fetchone() == (77,)
    assert con.execute("SELECT count(*) FROM items").fetchone() == (2,)


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("INSERT INTO items SELECT 1, 'a'", "wants 4 columns"),
        ("INSERT INTO items (id, nmae) SELECT 1, 'a'", "no column 'nmae'"),
        ("INSERT INTO items (id) SELECT 'x'", "id"),
        ("INSERT INTO items SELECT 3, 'c', 9, [0.5]", "vec"),
        ("INSERT OR REPLACE INTO items SELECT 1, 'a', 1, NULL", "OR REPLACE is not supported"),
        ("INSERT INTO items (id) SELECT 1 RETURNING id", "RETURNING is not supported"),
        ("CREATE OR REPLACE TABLE shop.items AS SELECT 1 AS id", "OR REPLACE is not supported"),
        ("SELECT * FROM shop.nothing", "no table"),
        ("SELECT * FROM items AT (VERSION => 99)", "no version 99"),
        ("SELECT * FROM items AT (VERSION => 'no-tag')", "no-tag"),
        ("SELECT * FROM items AT (TIMESTAMP => '2024-01-01')", "time zone"),
        ("SELECT * FROM items AT (VERSION => 1 + 1)", "constant"),
    ],
)
def test_mistakes_are_named_and_write_nothing(con: LakeConnection, sql: str, message: str) -> None:
    with pytest.raises(duckdb.Error, match=message):
        con.execute(sql).fetchall()
    assert con.execute("SELECT count(*) FROM items").fetchone() == (2,)


def test_older_versions(con: LakeConnection) -> None:
    table = con._state.tables["items"].refresh()
    table.tag("early", 2)
    before = datetime.now(UTC).isoformat()
    table.delete("id = 1").version  # noqa: B018 - the version follows
    table.add_column("extra", pa.int64())
    assert con.execute("SELECT id, extra FROM items").fetchall() == [(2, None)]
    for sql in (
        "SELECT id FROM items AT (VERSION => 3) ORDER BY id",
        "SELECT i.id FROM items AS i AT (VERSION => '3') ORDER BY i.id",
        "SELECT id FROM lake('items', version => 3) ORDER BY id",
        "SELECT id FROM lake('items', version := 3) ORDER BY id",
        f"SELECT id FROM items AT (TIMESTAMP => '{before}') ORDER BY id",
        f"SELECT id FROM lake('items', as_of => '{before}') ORDER BY id",
        "SELECT id FROM shop.items AT (VERSION => 3) ORDER BY id",
    ):
        assert con.execute(sql).fetchall() == [(1,), (2,)], sql
        assert con.sql(sql).fetchall() == [(1,), (2,)], sql
    assert con.execute("SELECT id FROM items AT (VERSION => 'early')").fetchall() == [(1,)]
    assert con.execute("SELECT id FROM knn('items', [1.0, 0.0], 5, version => 'early')").fetchall() == [(1,)]
    sql = "SELECT id FROM items AT (VERSION => 3) ORDER BY array_distance(vec, [0, 1]::FLOAT[2]) LIMIT 1"
    assert con.execute(sql).fetchall() == [(1,)]
    joined = "SELECT o.id FROM items o AT (VERSION => 3) ANTI JOIN items n ON o.id = n.id"
    assert con.execute(joined).fetchall() == [(1,)]


def test_a_tag_that_moves_is_followed(con: LakeConnection) -> None:
    table = con._state.tables["items"].refresh()
    table.tag("good", 2)
    sql = "SELECT count(*) FROM items AT (VERSION => 'good')"
    assert con.execute(sql).fetchone() == (1,)
    table.tag("good", 3, move=True)
    assert con.execute(sql).fetchone() == (2,)


def test_versions_in_prepared_and_stored_statements(con: LakeConnection) -> None:
    con.execute("PREPARE old AS SELECT count(*) FROM items AT (VERSION => 2) WHERE price > $1")
    assert con.execute("EXECUTE old(0.5)").fetchone() == (1,)
    con.execute("CREATE TABLE kept AS SELECT * FROM items AT (VERSION => 2)")
    assert con.execute("SELECT count(*) FROM kept").fetchone() == (1,)


def test_cursors_know_folders_and_tables(con: LakeConnection) -> None:
    cursor = con.cursor()
    cursor.execute("INSERT INTO items (id) VALUES (9)")
    assert cursor.execute("SELECT count(*) FROM shop.items").fetchone() == (3,)
    assert con.execute("SELECT count(*) FROM items").fetchone() == (3,)
