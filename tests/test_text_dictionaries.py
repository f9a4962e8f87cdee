"""Text handed out as dictionaries: the same rows, and values once where the file has them once."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lake_format as lake
from lake_connectors.duckdb import connect
from lake_format.engine import ScanRequest

ROWS = 40_000
SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64()),
        pa.field("kind", pa.string()),
        pa.field("title", pa.string()),
        pa.field("long", pa.large_string()),
        pa.field("code", pa.dictionary(pa.int8(), pa.string())),
        pa.field("place", pa.struct([pa.field("city", pa.string())])),
    ]
)


def rows(start: int, count: int) -> pa.Table:
    ids = np.arange(start, start + count)
    kinds = np.array(["shoe", "hat", "", None, "ünï", "a somewhat longer kind"], object)[ids % 6]
    cities = [None if one % 7 == 0 else {"city": None if one % 5 == 0 else f"city {one % 3}"} for one in ids]
    return pa.table(
        [
            pa.array(ids),
            pa.array(kinds, pa.string()),
            pa.array([None if one % 11 == 0 else f"title {one}" for one in ids], pa.string()),
            pa.array(kinds[::-1], pa.large_string()),
            pa.array(kinds, pa.string()).dictionary_encode().cast(SCHEMA.field("code").type),
            pa.array(cities, SCHEMA.field("place").type),
        ],
        schema=SCHEMA,
    )


def history() -> lake.Table:
    """Vortex files and small Parquet ones, deleted and patched rows, renamed, added and widened columns."""
    table = lake.create("memory://text-dictionaries", SCHEMA)
    table.append(rows(0, ROWS)).append(rows(ROWS, 500))
    table.delete("id % 10 = 3")
    table.update({"kind": "corrected"}, "id BETWEEN 100 AND 140 OR id = 40100")
    table.rename_column("title", "heading").add_column("note", pa.string(), lake.sql("kind"))
    table.add_column("empty", pa.string()).add_column("same", pa.string(), "constant")
    table.append(rows(ROWS + 500, 300).rename_columns(["id", "kind", "heading", "long", "code", "place"]))
    return table


@pytest.fixture(scope="module")
def table() -> lake.Table:
    return history()


def read(table: lake.Table, dictionaries: bool, **request: object) -> pa.Table:
    columns = tuple(request.pop("columns", table.schema.names))
    wanted = ScanRequest(columns=columns, dictionaries=dictionaries, **request)
    return table._engine.scan(table.snapshot, wanted).read_all()


def decoded(found: pa.Table, schema: pa.Schema) -> pa.Table:
    return pa.table(
        [
            column if column.type == field.type else column.cast(field.type)
            for column, field in zip(found.columns, schema, strict=True)
        ],
        schema=schema,
    )


@settings(max_examples=40, deadline=None)
@given(
    columns=st.lists(
        st.sampled_from(
            ["id", "kind", "heading", "long", "code", "place", "note", "empty", "same", "_row_id"]
        ),
        min_size=1,
        unique=True,
    ),
    where=st.sampled_from(
        [
            None,
            "id < 120",
            "id % 2 = 0",
            "id % 500 = 7",
            "kind = 'hat'",
            "kind = 'corrected'",
            "heading LIKE 'title 1%' OR kind IS NULL",
            "long > 'n' AND id > 39000",
            "code IN ('shoe', 'hat') AND note <> ''",
            "same = 'constant' AND empty IS NULL",
            "place.city = 'city 1'",
        ]
    ),
    limit=st.none() | st.integers(0, 50_000),
    batch_rows=st.sampled_from([None, 1000, 50_000, 122_880]),
)
def test_the_same_rows_as_plain_text(
    table: lake.Table, columns: list[str], where: str | None, limit: int | None, batch_rows: int | None
) -> None:
    request = {"columns": columns, "where": where, "limit": limit, "batch_rows": batch_rows}
    expected, found = read(table, False, **request), read(table, True, **request)
    for field, other in zip(found.schema, expected.schema, strict=True):
        is_text = pa.types.is_string(other.type) or pa.types.is_large_string(other.type)
        assert field.type == (pa.dictionary(pa.int32(), other.type) if is_text else other.type)
    found.validate(full=True)
    assert decoded(found, expected.schema).equals(expected)


def test_values_come_once_where_the_file_has_them_once(table: lake.Table) -> None:
    found = read(table, True, columns=["long", "heading"], where="id >= 1000 AND id < 30000")
    for chunk in found.column("long").chunks:
        assert len(chunk.dictionary) <= 6
    assert all(len(chunk.dictionary) >= len(chunk) for chunk in found.column("heading").chunks)


def test_duckdb_groups_by_what_it_is_given(table: lake.Table) -> None:
    con = connect(interface="sources").attach(table, "items")
    con.execute("SET TimeZone = 'UTC'")
    kinds = dict(con.execute("SELECT column_name, column_type FROM (DESCRIBE items)").fetchall())
    assert {kinds[name] for name in ("kind", "heading", "long", "code")} == {"VARCHAR"}
    copied = table.to_arrow()
    con.duckdb.register("copied", copied)
    for names, where in itertools.product(["kind", "long", "kind, code", "heading"], ["true", "id > 39990"]):
        sql = (
            f"SELECT {names}, count(*), min(id), max(kind) FROM {{}} WHERE {where} GROUP BY ALL ORDER BY ALL"
        )
        assert con.execute(sql.format("items")).fetchall() == con.execute(sql.format("copied")).fetchall()
    joined = "SELECT count(*), min(a.heading) FROM {0} a JOIN {0} b ON a.kind = b.note AND a.id = b.id"
    assert con.execute(joined.format("items")).fetchone() == con.execute(joined.format("copied")).fetchone()


def test_what_duckdb_made_of_it_outlives_the_scan(table: lake.Table) -> None:
    """Dictionaries of one batch are gone when the next one comes."""
    con = connect(interface="sources").attach(table, "items")
    con.execute("CREATE TABLE kept AS SELECT id, kind, heading, long FROM items ORDER BY long, kind, id")
    found = con.sql("SELECT id, kind, heading, long FROM kept ORDER BY id").to_arrow_table()
    expected = table.to_arrow().select(["id", "kind", "heading", "long"]).sort_by("id")
    assert found.to_pylist() == expected.to_pylist()


def test_columns_that_are_or_were_dictionaries_and_views() -> None:
    """A dictionary that the file holds because the column was one is none where the column is plain by now."""
    schema = pa.schema(
        [
            pa.field("code", pa.dictionary(pa.int16(), pa.int64())),
            pa.field("word", pa.dictionary(pa.int8(), pa.string())),
            pa.field("view", pa.string_view()),
            pa.field("text", pa.string()),
        ]
    )
    made = lake.create("memory://text-dictionaries-widened", schema)
    numbers = np.arange(3000) % 7
    words = pa.array([f"word {number}" for number in numbers])
    made.append(
        pa.table(
            [
                pa.array(numbers).dictionary_encode().cast(schema.field("code").type),
                words.dictionary_encode().cast(schema.field("word").type),
                words.cast(pa.string_view()),
                words,
            ],
            schema=schema,
        )
    )
    made.widen_column("code", pa.int64()).widen_column("word", pa.string())
    made.widen_column("text", pa.large_string())
    expected = made.to_arrow()
    assert expected.schema.types == [pa.int64(), pa.string(), pa.string_view(), pa.large_string()]
    assert expected.column("text").to_pylist() == words.to_pylist()
    found = read(made, True)
    assert found.column("code").type == pa.int64()
    assert decoded(found, expected.schema).equals(expected)
    con = connect(interface="sources").attach(made, "made")
    sql = "SELECT code, word, view, text, count(*) FROM made GROUP BY ALL ORDER BY ALL"
    rows = con.execute(sql).fetchall()
    assert [row[:4] for row in rows] == [(n, f"word {n}", f"word {n}", f"word {n}") for n in range(7)]
