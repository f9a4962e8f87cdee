"""Filters mean what they mean in DuckDB: random conditions over awkward values, DuckDB itself as the model.

spec: FILTER-1, FILTER-2, FILTER-3, FILTER-5
"""

from __future__ import annotations

import datetime as dt
import decimal
import math
from collections.abc import Iterator

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lake_engines.predicate import bind, parse_sql

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
NUMBERS = ["i8", "i32", "i64", "u8", "u64", "dec"]


def build_table(rows: dict[str, list[object]]) -> pa.Table:
    return pa.table({name: pa.array(rows[name], dtype) for name, (dtype, _) in POOLS.items()})


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
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
    yield connection
    connection.close()


@st.composite
def leaves(draw: st.DrawFn) -> str:
    name = draw(st.sampled_from(list(POOLS)))
    literals = LITERALS[FAMILY.get(name, name)]
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


@st.composite
def special(draw: st.DrawFn) -> str:
    operator = draw(st.sampled_from(["=", "<>", "<", "<=", ">", ">="]))
    negation = draw(st.sampled_from(["", "NOT "]))
    pair = st.sampled_from(
        [
            "i8 {} i32",
            "i64 {} u64",
            "dec {} i64",
            "f64 {} f64 + 0e0",
            "d {} ts",
            "tss {} tsn",
            "f32 {} f64",
            "t {} t",
            "tz {} tz",
        ]
    )
    return draw(
        st.one_of(
            st.builds(lambda p: f"t {negation}LIKE {p}", st.sampled_from(PATTERNS)),
            st.builds(lambda p: f"t {negation}ILIKE {p}", st.sampled_from(PATTERNS)),
            st.just(f"t {negation}LIKE 'a!%b' ESCAPE '!'"),
            st.builds(lambda p: p.format(operator), pair),
            st.sampled_from(["b", "NOT b", "b IS TRUE", "b IS NOT FALSE", "b IS NOT TRUE", "NULL", "TRUE", "1 < 2"]),
            st.sampled_from(["isnan(f64)", "NOT isnan(f32)", "starts_with(t, 'a')", "contains(t, 'b')", "suffix(t, 'b')"]),
            st.builds(lambda n: f"length(t) {operator} {n}", st.integers(0, 4)),
            st.builds(lambda p: f"{p}(ts) {operator} 12", st.sampled_from(["month", "day", "hour", "minute", "second"])),
            st.builds(lambda c: f"year({c}) {operator} 1970", st.sampled_from(["d", "ts", "tss", "tsn", "tz"])),
            st.sampled_from([f"lower(t) {operator} 'a'", f"upper(t) {operator} 'A'", f"CAST(ts AS DATE) {operator} DATE '1969-12-31'"]),
            st.builds(lambda c: f"coalesce({c}, 1) {operator} 1", st.sampled_from(NUMBERS)),
            st.builds(lambda c, n: f"{c}::BIGINT + {n} {operator} 3", st.sampled_from(["i8", "i32", "u8"]), st.integers(-9, 9)),
            st.builds(lambda c, n: f"{c}::BIGINT * {n} {operator} 3", st.sampled_from(["i8", "i32", "u8"]), st.integers(-9, 9)),
            st.builds(lambda n: f"i32 % {n} {operator} 1", st.sampled_from([-3, 2, 7])),
            st.builds(lambda n: f"i32 // {n} {operator} 1", st.sampled_from([-3, 2, 7])),
            st.sampled_from([f"f64 / 2 {operator} 0.25", f"f64 + 1 {operator} 1", f"-f64 {operator} 0", f"abs(f64) {operator} 1"]),
            st.sampled_from([f"dec * 2 {operator} 3", f"dec - i8 {operator} 0.5", f"i8 / u8 {operator} 1", f"-i8::INT {operator} 1"]),
            st.sampled_from([f"i32::VARCHAR {operator} '0'", f"i8::DOUBLE {operator} 1.5e0", f"b = (i8 {operator} 1)"]),
            st.builds(lambda s: f"ts {operator} {s}", st.sampled_from(["'1970-01-01'", "'2024-02-29 12:30'"])),
            st.sampled_from([f"i8 {operator} '1'", f"d {operator} '1970-01-01'", f"b {operator} 'true'", f"bin {operator} 'a'"]),
        )
    )  # fmt: skip


def combine(children: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    joined = st.builds(
        lambda terms, word: f" {word} ".join(f"({term})" for term in terms),
        st.lists(children, min_size=2, max_size=4),
        st.sampled_from(["AND", "OR"]),
    )
    return joined | children.map(lambda term: f"NOT ({term})")


CONDITIONS = st.recursive(leaves(), combine, max_leaves=6)
TABLES: dict[int, pa.RecordBatch] = {}


def own_rows(connection: duckdb.DuckDBPyConnection, sql: str) -> list[int]:
    """Evaluate with our engine over DuckDB's copy of the rows, read back once."""
    batch = TABLES.get(id(connection))
    if batch is None:
        table = connection.execute("SELECT * FROM t ORDER BY n").to_arrow_table()
        fields = [pa.field(name, dtype) for name, (dtype, _) in POOLS.items()]
        table = table.select([field.name for field in fields]).cast(pa.schema(fields))
        batch = TABLES[id(connection)] = table.combine_chunks().to_batches()[0]
    predicate = bind(parse_sql(sql), batch.schema)
    passed = predicate.evaluate(batch)
    assert passed.null_count == 0
    again = bind(parse_sql(str(predicate)), batch.schema)
    assert again.evaluate(batch).equals(passed), str(predicate)
    return list(np.flatnonzero(passed.to_numpy(zero_copy_only=False)))


@settings(
    max_examples=600,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(sql=CONDITIONS)
@example(sql="f64 > 0 AND NOT (f64 <= 1e300)")
@example(sql="NOT (i8 IN (1, NULL))")
def test_conditions_select_the_rows_that_duckdb_selects(
    connection: duckdb.DuckDBPyConnection, sql: str
) -> None:
    try:
        expected = [
            row[0] for row in connection.execute(f"SELECT n FROM t WHERE {sql} ORDER BY n").fetchall()
        ]
    except (duckdb.ConversionException, duckdb.OutOfRangeException):
        own_rows(connection, sql)  # DuckDB meets a row it cannot convert; ours must not fail at all
        return
    assert own_rows(connection, sql) == expected
