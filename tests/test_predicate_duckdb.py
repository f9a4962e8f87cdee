"""Filters mean what they mean in DuckDB: random conditions over awkward values, DuckDB itself as the model.

The same conditions check that pruning by statistics never loses a row.
"""

from __future__ import annotations

import datetime as dt
import decimal
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lake_engines.predicate import bind, parse_sql
from lake_format.statistics import compute_statistics

D = decimal.Decimal
UTC = dt.UTC
POOLS: dict[str, tuple[pa.DataType, list[object]]] = {
    "i8": (pa.int8(), [-128, -1, 0, 1, 2, 127]),
    "i32": (pa.int32(), [-(2**31), -7, 0, 3, 2**31 - 1]),
    "i64": (pa.int64(), [-(2**63), -(2**53) - 1, -1, 0, 5, 2**53 + 1, 2**63 - 1]),
    "u8": (pa.uint8(), [0, 1, 255]),
    "u64": (pa.uint64(), [0, 1, 2**63, 2**64 - 1]),
    "f32": (pa.float32(), [math.nan, -math.inf, -1.5, -0.0, 0.0, 0.1, 1.0, 16777216.0, 3.4e38, math.inf]),
    "f64": (pa.float64(), [math.nan, -math.inf, -1e300, -0.0, 0.0, 0.1, 0.5, 1.0, 1e300, math.inf]),
    "b": (pa.bool_(), [True, False]),
    "t": (
        pa.string(),
        ["", "a", "A", "ab", "a%b", "a_b", "a\\b", "a\nb", "é", "É", "👍", "zz", "ſ", "it's", "a" * 80],
    ),
    "bin": (pa.binary(), [b"", b"\x00", b"a", b"ab", b"\xff\xfe"]),
    "dec": (
        pa.decimal128(10, 2),
        [D("-99999999.99"), D("-0.01"), D("0.00"), D("0.10"), D("1.50"), D("99999999.99")],
    ),
    "wide": (
        pa.decimal128(38, 10),
        [D("-1234567890123456789012345678.0000000001"), D("0E-10"), D("1.5000000000")],
    ),
    "d": (pa.date32(), [dt.date(1, 1, 1), dt.date(1969, 12, 31), dt.date(1970, 1, 1), dt.date(2024, 2, 29)]),
    "ts": (
        pa.timestamp("us"),
        [
            dt.datetime(1969, 12, 31, 23, 59, 59, 999999),
            dt.datetime(1970, 1, 1),
            dt.datetime(2024, 2, 29, 12, 30),
        ],
    ),
    "tss": (pa.timestamp("s"), [dt.datetime(1969, 12, 31, 23, 59, 59), dt.datetime(2024, 2, 29, 12, 30)]),
    "tsn": (pa.timestamp("ns"), [dt.datetime(1970, 1, 1), dt.datetime(2024, 2, 29, 12, 30, 0, 1)]),
    "tz": (
        pa.timestamp("us", "UTC"),
        [dt.datetime(1970, 1, 1, tzinfo=UTC), dt.datetime(2024, 2, 29, 12, 30, tzinfo=UTC)],
    ),
    "tm": (pa.time64("us"), [dt.time(0), dt.time(12, 30, 0, 1), dt.time(23, 59, 59, 999999)]),
}
WHOLE = [
    "0",
    "1",
    "-1",
    "3",
    "127",
    "128",
    "-129",
    "255",
    "256",
    "16777217",
    "2147483648",
    "9223372036854775807",
]
BROKEN = ["0.1", "0.5", "1.50", "-0.01", "99999999.99", "0.001", "127.5", "-128.5"]
DOUBLES = ["1e0", "5e-1", "1e300", "-1e300", "'nan'::DOUBLE", "'inf'::DOUBLE", "CAST('-inf' AS DOUBLE)"]
LITERALS = {
    "number": [*WHOLE, *BROKEN, "18446744073709551615", "99999999999999999999"],
    "float": [*WHOLE, *BROKEN, *DOUBLES],
    "b": ["TRUE", "FALSE"],
    "t": ["''", "'a'", "'A'", "'é'", "'👍'", "'zzz'", "'it''s'", "'a%b'", f"'{'a' * 80}'"],
    "bin": ["x''", "'\\x00'::BLOB", "x'FFFE'", "'a'::BLOB"],
    "instant": [
        "DATE '1970-01-01'",
        "DATE '2024-02-29'",
        "TIMESTAMP '1969-12-31 23:59:59.999999'",
        "TIMESTAMP '2024-02-29 12:30:00'",
        "DATE '2024-02-28' + INTERVAL 1 DAY",
    ],
    "tz": ["TIMESTAMPTZ '1970-01-01 02:00:00+02'", "TIMESTAMPTZ '2024-02-29 12:30:00Z'", "DATE '2024-02-29'"],
    "tm": ["TIME '00:00:00'", "TIME '12:30:00.000001'", "'23:59:59.999999'"],
}
FAMILY = {"f32": "float", "f64": "float", "d": "instant", "ts": "instant", "tss": "instant", "tsn": "instant"}
FAMILY |= dict.fromkeys(("i8", "i32", "i64", "u8", "u64", "dec", "wide"), "number")
PATTERNS = [
    "'a%'",
    "'%b'",
    "'%a%'",
    "'a_b'",
    "'_'",
    "'%'",
    "''",
    "'é'",
    "'A%'",
    "'a\\%b'",
    "'%_b%'",
    "'a%b%'",
    "'S'",
]


def build_table(rows: dict[str, list[object]]) -> pa.Table:
    return pa.table({name: pa.array(rows[name], dtype) for name, (dtype, _) in POOLS.items()})


@st.composite
def leaves(draw: st.DrawFn) -> str:
    name = draw(st.sampled_from(list(POOLS)))
    literals = LITERALS[FAMILY.get(name, name)]
    if name == "f32":  # DuckDB gives a list of both kinds one type; here each constant keeps its own
        literals = draw(st.sampled_from([[*WHOLE, *BROKEN], DOUBLES]))
    literal = st.sampled_from(literals)
    operators = ["=", "<>", "<", "<=", ">", ">=", "!=", "IS DISTINCT FROM", "IS NOT DISTINCT FROM"]
    kind = draw(st.integers(0, 7))
    if kind <= 2:
        return f"{name} {draw(st.sampled_from(operators))} {draw(literal)}"
    if kind == 3:
        return f"{draw(literal)} {draw(st.sampled_from(operators))} {name}"
    if kind == 4:
        negation = draw(st.sampled_from(["", "NOT "]))
        options = draw(st.lists(literal | st.just("NULL"), min_size=1, max_size=7))
        return f"{name} {negation}IN ({', '.join(options)})"
    if kind == 5:
        return f"{name} {draw(st.sampled_from(['', 'NOT ']))}BETWEEN {draw(literal)} AND {draw(literal)}"
    if kind == 6:
        return f"{name} IS {draw(st.sampled_from(['', 'NOT ']))}NULL"
    return draw(special())


SPECIAL = [
    "i8 {} i32", "i64 {} u64", "dec {} i64", "f64 {} f64 + 0e0", "d {} ts", "tss {} tsn", "f32 {} f64", "t {} t",
    "tz {} tz", "length(t) {} 0", "length(t) {} 2", "month(ts) {} 12", "day(ts) {} 29", "hour(ts) {} 23",
    "minute(ts) {} 30", "second(ts) {} 59", "year(d) {} 1970", "year(ts) {} 1969", "year(tss) {} 2024",
    "year(tsn) {} 1970", "year(tz) {} 1970", "lower(t) {} 'a'", "upper(t) {} 'A'", "date_part('day', d) {} 1",
    "CAST(ts AS DATE) {} DATE '1969-12-31'", "coalesce(i8, 1) {} 1", "coalesce(i64, 1) {} 1",
    "coalesce(u64, 1) {} 1", "coalesce(dec, 1) {} 1", "coalesce(t, 'a') {} 'a'", "i8::BIGINT + 7 {} 3",
    "i32::BIGINT - 9 {} 3", "u8::BIGINT * -5 {} 3", "i32::BIGINT * 6 {} 3", "i32 % -3 {} 1", "i32 % 7 {} 1",
    "i32 // -3 {} 1", "i32 // 7 {} 1", "f64 / 2 {} 0.25", "f64 + 1 {} 1", "-f64 {} 0", "abs(f64) {} 1",
    "dec * 2 {} 3", "dec - i8 {} 0.5", "i8 / u8 {} 1", "-i8::INT {} 1", "i32::VARCHAR {} '0'",
    "i8::DOUBLE {} 1.5e0", "b = (i8 {} 1)", "ts {} '1970-01-01'", "ts {} '2024-02-29 12:30'", "i8 {} '1'",
    "d {} '1970-01-01'", "b {} 'true'", "bin {} 'a'",
    "CASE WHEN i8 > 0 THEN i32 ELSE i64 END {} 3", "t || 'b' {} 'ab'", "greatest(i8, i32) {} 3",
    "nullif(f64, 0) {} 1", "least(f64, f32) {} 0.5", "round(f64) {} 1", "floor(dec) {} 0", "dayofweek(ts) {} 4",
    "substr(t, 1, 1) {} 'a'", "trim(t) {} 'a'", "replace(t, 'a', '') {} 'b'",
    "CASE t WHEN 'a' THEN 1 WHEN 'ab' THEN 2 END {} 1",
    "date_trunc('month', ts) {} TIMESTAMP '2024-02-01'",
]  # fmt: skip
FLAGS = [
    "b", "NOT b", "b IS TRUE", "b IS NOT FALSE", "b IS NOT TRUE", "NULL", "TRUE", "1 < 2", "isnan(f64)",
    "NOT isnan(f32)", "starts_with(t, 'a')", "contains(t, 'b')", "suffix(t, 'b')", "t LIKE 'a!%b' ESCAPE '!'",
    "t NOT ILIKE 'A!%B' ESCAPE '!'", "CASE WHEN b THEN i8 > 0 ELSE f64 < 1 END", "CASE i8 WHEN 1 THEN TRUE END",
]  # fmt: skip


@st.composite
def special(draw: st.DrawFn) -> str:
    operator = draw(st.sampled_from(["=", "<>", "<", "<=", ">", ">="]))
    like = draw(st.sampled_from(["LIKE", "NOT LIKE", "ILIKE", "NOT ILIKE"]))
    patterns = [f"t {like} {pattern}" for pattern in PATTERNS]
    return draw(st.sampled_from([*SPECIAL, *SPECIAL, *FLAGS, *patterns])).format(operator)


def combine(children: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    joined = st.builds(
        lambda terms, word: f" {word} ".join(f"({term})" for term in terms),
        st.lists(children, min_size=2, max_size=4),
        st.sampled_from(["AND", "OR"]),
    )
    return joined | children.map(lambda term: f"NOT ({term})")


CONDITIONS = st.recursive(leaves(), combine, max_leaves=6)


@dataclass
class Model:
    """The same rows in DuckDB and here, here also cut into fragments with their statistics."""

    connection: duckdb.DuckDBPyConnection
    batch: pa.RecordBatch
    slices: list[slice]
    view: Fragments


class Fragments:
    """Statistics of consecutive slices of a batch, as a manifest would give them."""

    def __init__(self, batch: pa.RecordBatch, slices: list[slice]) -> None:
        self.row_count = pa.array([each.stop - each.start for each in slices])
        self._columns: dict[int, tuple[pa.Array, pa.Array, pa.Array, pa.Array]] = {}
        for number, field in enumerate(batch.schema):
            column = batch.column(field.name)
            found = [compute_statistics(column[each.start : each.stop], number) for each in slices]
            self._columns[number] = (
                pa.array([each.lower for each in found], pa.binary()),
                pa.array([each.upper for each in found], pa.binary()),
                pa.array([each.null_count for each in found]),
                pa.array([each.nan_count for each in found], pa.int64()),
            )

    def may_equal(self, field_id: int, options: pa.Array) -> None:
        return None

    def column(self, field_id: int) -> tuple[pa.Array, pa.Array, pa.Array, pa.Array] | None:
        return self._columns.get(field_id)


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'; SET threads = 1")
    count = 90
    generator = np.random.default_rng(7)
    rows: dict[str, list[object]] = {}
    for name, (_, pool) in POOLS.items():
        values = [*pool, None]
        rows[name] = [values[index] for index in generator.integers(0, len(values), count)]
    table = build_table(rows)
    connection.register("arrow_t", table)
    connection.execute("CREATE TABLE t AS SELECT row_number() OVER () - 1 AS n, * FROM arrow_t")
    connection.unregister("arrow_t")
    fields = [
        pa.field(name, dtype, metadata={"PARQUET:field_id": str(number)})
        for number, (name, (dtype, _)) in enumerate(POOLS.items())
    ]
    stored = connection.sql("SELECT * FROM t ORDER BY n").to_arrow_table().select(list(POOLS))
    batch = stored.cast(pa.schema(fields)).combine_chunks().to_batches()[0]
    starts = [0, *np.cumsum([1, 1, 2, 3, 8] * 6).tolist()]
    slices = [slice(start, stop) for start, stop in itertools.pairwise(starts)]
    yield Model(connection, batch, slices, Fragments(batch, slices))
    connection.close()


def own_rows(model: Model, sql: str) -> list[int]:
    """Evaluate with this project; check on the way that pruning agrees and that the text reads back."""
    predicate = bind(parse_sql(sql), model.batch.schema)
    passed = predicate.evaluate(model.batch)
    assert passed.null_count == 0
    assert len(passed) == model.batch.num_rows
    again = bind(parse_sql(str(predicate)), model.batch.schema)
    assert again.evaluate(model.batch).equals(passed), str(predicate)
    mask = predicate.mask(model.batch)
    for part in predicate.conjuncts:
        assert not (mask & ~part.mask(model.batch)).any()
    may, all_pass = predicate.prune(model.view), predicate.covers(model.view)
    for number, rows in enumerate(model.slices):
        assert may[number] or not mask[rows].any(), f"{sql} prunes rows that pass"
        assert not all_pass[number] or mask[rows].all(), f"{sql} covers rows that do not pass"
    return np.flatnonzero(mask).tolist()


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(sql=CONDITIONS)
@example(sql="f64 > 0 AND NOT (f64 <= 1e300)")
@example(sql="NOT (i8 IN (1, NULL))")
def test_conditions_select_the_rows_that_duckdb_selects(model: Model, sql: str) -> None:
    """spec: FILTER-1, FILTER-2, FILTER-3, FILTER-5, STAT-7"""
    query = f"SELECT n FROM t WHERE {sql} ORDER BY n"
    try:
        expected = [row[0] for row in model.connection.execute(query).fetchall()]
    except (duckdb.ConversionException, duckdb.OutOfRangeException):
        own_rows(model, sql)  # DuckDB meets a row it cannot convert; ours must not fail at all
        return
    assert own_rows(model, sql) == expected


@pytest.mark.parametrize("operator", ["=", "<>", "<", "<=", ">", ">="])
def test_pruning_single_rows_is_exact(model: Model, operator: str) -> None:
    """spec: STAT-7 — a fragment of one row has exact bounds, so pruning must find exactly the passing rows."""
    for name in POOLS:
        family = FAMILY.get(name, name)
        for literal in LITERALS[family]:
            predicate = bind(parse_sql(f"{name} {operator} {literal}"), model.batch.schema)
            mask, may, covered = (
                predicate.mask(model.batch),
                predicate.prune(model.view),
                predicate.covers(model.view),
            )
            for number, rows in enumerate(model.slices):
                value = model.batch.column(name)[rows.start].as_py()
                if rows.stop - rows.start == 1 and value != "a" * 80:
                    assert may[number] == mask[rows.start] == covered[number], str(predicate)
