"""Values that SQL expressions compute are those that DuckDB computes: text, choices, rounding, parts of dates."""

from __future__ import annotations

import datetime as dt
import decimal
import math
from collections.abc import Iterator

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lake_engines.predicate import bind, parse_sql
from lake_engines.predicate.bind import value_of
from lake_format.errors import InvalidInputError, LakeError, UnsupportedError

D = decimal.Decimal
NAN, INF = math.nan, math.inf
SPACED = ["", "a", "  aB ", "\u00a0é\u3000", "\ta\n", "👍x👍", "xxaxx", "it's", "e\u0301", None, "aXbXc", "b"]
ROWS = pa.table(
    {
        "t": pa.array(SPACED, pa.string()),
        "u": pa.array(reversed(SPACED), pa.large_string()),
        "i": pa.array([0, -1, 3, None, 2**31 - 1, 7, -7, 1, 2, 3, 4, 5], pa.int32()),
        "w": pa.array([0, 5, 2**63 - 1, -(2**63), None, 1, 2, 3, 4, 5, 6, 7], pa.int64()),
        "f": pa.array([NAN, 0.5, -0.5, 1.5, 2.5, -0.0, 0.0, INF, -INF, None, 1e300, 2.675], pa.float64()),
        "g": pa.array([NAN, -0.0, 1.25, None, NAN, 0.0, -0.0, 0.1, 3e38, 2.5, -2.5, INF], pa.float32()),
        "m": pa.array(
            [
                D("99.99"),
                None,
                *map(D, ["-0.50", "1.25", "-99.99", "0", "1.50", "2.50", "0.49", "7", "0.01", "-1.50"]),
            ],
            pa.decimal128(4, 2),
        ),
        "b": pa.array([True, False, None] * 4, pa.bool_()),
        "x": pa.array([b"", b"\x00a", None, b"a", b"b", b"\xff"] * 2, pa.binary()),
        "d": pa.array(
            [dt.date(1969, 12, 31), dt.date(2024, 2, 29), None, dt.date(2021, 1, 3)] * 3, pa.date32()
        ),
        "s": pa.array(
            [dt.datetime(1969, 12, 31, 23, 59, 59, 999999), dt.datetime(2024, 12, 30, 1, 2, 3), None] * 4,
            pa.timestamp("us"),
        ),
    }
).combine_chunks()
BATCH = ROWS.to_batches()[0]

VALUES = [
    "t || u", "t || 'x' || i", "b || '-' || t", "x || x", "x || '\\x00'::BLOB", "t || NULL", "'a' || 1 + 2",
    "concat(t, i, NULL, u)", "concat(NULL)", "substr(t, 2)", "substr(t, 0, 2)", "substr(t, -2)", "substr(t, -3, 2)",
    "substr(t, 2, -1)", "substr(t, 3, -2)", "substr(t, -2, -2)", "substr(t, -4, 9)", "substr(t, 1, NULL)",
    "substr(t, 9)",
    "substring(t FROM 2 FOR 1)", "left(t, 1)", "left(t, -1)", "left(t, 0)", "right(t, 2)", "right(t, -2)",
    "right(t, 0)",
    "trim(t)", "ltrim(t)", "rtrim(t)", "trim(t, 'x')", "trim(BOTH 'xa' FROM t)", "ltrim(t, '')", "rtrim(t, 'x👍')",
    "replace(t, 'x', 'yy')", "replace(t, '', 'y')", "replace(t, 'X', '')", "replace(u, 'a', NULL)",
    "upper(t) || lower(u)",
    "length(t || u)",
    "CASE WHEN i > 2 THEN 'big' WHEN i < 0 THEN t ELSE u END", "CASE WHEN b THEN i END",
    "CASE i WHEN 3 THEN 'three' END",
    "CASE f WHEN 'nan'::DOUBLE THEN 1 WHEN 0 THEN 2 ELSE 3 END", "CASE i WHEN NULL THEN 1 ELSE 2 END",
    "CASE WHEN b THEN m ELSE 1 END", "CASE WHEN b THEN w ELSE i END", "CASE WHEN b THEN f ELSE 1 END",
    "CASE WHEN b THEN d ELSE '2020-01-01' END", "CASE WHEN b THEN s END", "CASE WHEN b THEN x ELSE NULL END",
    "CASE WHEN b THEN NULL ELSE NULL END", "CASE WHEN NULL THEN 1 ELSE i END", "CASE WHEN b THEN b ELSE i > 1 END",
    "CASE WHEN TRUE THEN t ELSE 'x' END", "if(b, i, 5)", "nullif(i, 3)", "nullif(f, 'nan'::DOUBLE)", "nullif(t, 'a')",
    "nullif(NULL, 1)", "ifnull(t, 'none')", "coalesce(g, 0.5)", "coalesce(d, DATE '2000-01-01')", "coalesce(NULL, i)",
    "greatest(f, 0.5)", "least(f, 0.5)", "greatest(f, 'nan'::DOUBLE)", "least(f, NULL, 'nan'::DOUBLE)",
    "greatest(i, w)",
    "least(i, 5, w)", "greatest(t, u)", "least(t, 'b')", "greatest(d, DATE '2021-01-01')", "greatest(b, FALSE)",
    "least(m, 1.5)", "greatest(x, 'a'::BLOB)", "greatest(NULL, i)", "greatest(g, 1)",
    "least(s, TIMESTAMP '2000-01-01')",
    "floor(f)", "ceil(f)", "ceiling(g)", "round(f)", "round(g)", "round(f, 2)", "round(g, 1)", "round(f, 0)",
    "floor(m)",
    "ceil(m)", "round(m)", "round(m, 1)", "round(m, 5)", "round(i)", "floor(i)", "round(i, 2)", "round(NULL)",
    "abs(f)",
    "quarter(d)", "week(d)", "dayofweek(d)", "isodow(d)", "dayofyear(s)", "extract(dow FROM s)",
    "date_part('doy', d)",
    "quarter(s)", "week(s)", "weekday(s)", "date_trunc('month', s)", "date_trunc('week', s)", "date_trunc('hour', s)",
    "date_trunc('quarter', s)", "date_trunc('second', s)", "date_trunc('year', d)", "date_trunc('week', d)",
]  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Iterator[duckdb.DuckDBPyConnection]:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'; SET threads = 1")
    connection.register("arrow_rows", ROWS.append_column("n", pa.array(range(len(ROWS)))))
    connection.execute("CREATE TABLE r AS SELECT * FROM arrow_rows")
    connection.unregister("arrow_rows")
    yield connection
    connection.close()


def expected(model: duckdb.DuckDBPyConnection, sql: str) -> list[object]:
    return [row[0] for row in model.execute(f"SELECT {sql} FROM r ORDER BY n").fetchall()]


def own(sql: str) -> list[object]:
    """Our values; the canonical text gives the same ones."""
    tree = parse_sql(sql)
    value = value_of(tree, BATCH.schema)
    found = value.evaluate(BATCH)
    assert found.type == value.dtype
    again = value_of(parse_sql(str(tree)), BATCH.schema).evaluate(BATCH)
    assert plain(again) == plain(found), str(tree)
    return plain(found)


def plain(found: pa.Array | pa.Scalar) -> list[object]:
    values = found.to_pylist() if isinstance(found, pa.Array) else [found.as_py()] * len(ROWS)
    return [comparable(value) for value in values]


def comparable(value: object) -> object:
    """Values that are equal where they are the same: NaN too, a zero with its sign, a date as its midnight."""
    if isinstance(value, float):
        return str(value)
    if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        return dt.datetime(value.year, value.month, value.day)
    return value


def same(ours: list[object], theirs: list[object]) -> bool:
    """Equal; whole numbers that DuckDB gives as doubles are equal to ours."""
    pairs = zip(ours, theirs, strict=True)
    return all(
        one == comparable(other) or (isinstance(other, float) and isinstance(one, int) and one == other)
        for one, other in pairs
    )


@pytest.mark.parametrize("sql", VALUES)
def test_values_are_those_of_duckdb(model: duckdb.DuckDBPyConnection, sql: str) -> None:
    """spec: FILTER-1, FILTER-8"""
    ours, theirs = own(sql), expected(model, sql)
    assert same(ours, theirs), list(zip(ours, theirs, strict=True))


TEXTS = st.recursive(
    st.sampled_from(["t", "u", "'a'", "''", "NULL", "'👍 '"]),
    lambda inner: st.one_of(
        st.builds("({} || {})".format, inner, inner),
        st.builds("concat({}, {}, i)".format, inner, inner),
        st.builds("substr({}, {}, {})".format, inner, st.integers(-4, 4), st.integers(-4, 4)),
        st.builds("{}({}, {})".format, st.sampled_from(["left", "right"]), inner, st.integers(-3, 3)),
        st.builds("{}({})".format, st.sampled_from(["trim", "ltrim", "rtrim", "upper"]), inner),
        st.builds("replace({}, 'x', 'ab')".format, inner),
        st.builds("CASE WHEN {} = {} THEN {} ELSE {} END".format, inner, inner, inner, inner),
        st.builds("CASE WHEN b THEN {} WHEN i > 2 THEN {} END".format, inner, inner),
        st.builds(
            "{}({}, {})".format, st.sampled_from(["greatest", "least", "nullif", "coalesce"]), inner, inner
        ),
    ),
    max_leaves=6,
)
NUMBERS = st.recursive(
    st.sampled_from(["f", "f", "i", "m", "0.5", "2", "NULL", "'nan'::DOUBLE"]),
    lambda inner: st.one_of(
        st.builds(
            "{}({}, {}, {})".format, st.sampled_from(["greatest", "least", "coalesce"]), inner, inner, inner
        ),
        st.builds("CASE WHEN {} < {} THEN {} ELSE {} END".format, inner, inner, inner, inner),
        st.builds("CASE {} WHEN {} THEN {} END".format, inner, inner, inner),
        st.builds("nullif({}, {})".format, inner, inner),
    ),
    max_leaves=6,
)


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(sql=TEXTS)
def test_any_text_is_that_of_duckdb(model: duckdb.DuckDBPyConnection, sql: str) -> None:
    """spec: FILTER-8"""
    assert own(sql) == expected(model, f"({sql})::VARCHAR")


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(sql=NUMBERS)
def test_any_choice_among_numbers_is_that_of_duckdb(model: duckdb.DuckDBPyConnection, sql: str) -> None:
    """spec: FILTER-8 — compared as doubles, in which DuckDB gives what we may give exactly."""
    ours, theirs = own(sql), expected(model, f"({sql})::DOUBLE")
    assert [as_double(each) for each in ours] == [as_double(each) for each in theirs]


def as_double(value: object) -> str | None:
    return None if value is None else str(float(value) + 0.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sql", "wanted"),
    [
        ("t || i", pa.string()), ("u || t", pa.large_string()), ("x || x", pa.binary()),
        ("concat(i, b)", pa.string()),
        ("CASE WHEN b THEN i ELSE 0 END", pa.int32()), ("CASE WHEN b THEN i ELSE w END", pa.int64()),
        ("CASE WHEN b THEN g ELSE 0 END", pa.float32()), ("CASE WHEN b THEN 1 ELSE 2 END", pa.int64()),
        ("CASE WHEN b THEN f ELSE i END", pa.float64()), ("coalesce(g, 0.1)", pa.float32()),
        ("floor(g)", pa.float32()),
        ("CASE WHEN b THEN d END", pa.date32()), ("nullif(i, w)", pa.int32()),
        ("greatest(m, 1)", pa.decimal128(4, 2)),
        ("round(m)", pa.decimal128(3, 0)), ("dayofweek(d)", pa.int64()), ("date_trunc('day', s)", pa.timestamp("us")),
        ("CASE WHEN b THEN b END", pa.bool_()), ("substr(u, 1)", pa.large_string()),
    ],
)  # fmt: skip
def test_types_are_those_of_what_is_chosen_among(sql: str, wanted: pa.DataType) -> None:
    """spec: FILTER-8"""
    assert value_of(parse_sql(sql), BATCH.schema).dtype == wanted


@pytest.mark.parametrize(
    ("sql", "kind", "message"),
    [
        (
            "t || f",
            InvalidInputError,
            r"\|\| cannot be applied to string and double.*whole numbers and booleans",
        ),
        ("concat(x, t)", InvalidInputError, "concat cannot be applied to binary and string"),
        ("substr(t, i)", UnsupportedError, r"substr\(\) takes constants after its first argument, not i"),
        ("substr(t, 1.5)", InvalidInputError, "whole numbers"),
        ("left(t, 99999999999)", InvalidInputError, "32 bits"),
        ("replace(t, 1, 'a')", InvalidInputError, "takes text"),
        ("replace(t, u, 'a')", UnsupportedError, "constants"),
        ("trim(i)", InvalidInputError, r"trim\(\) cannot be applied to int32"),
        ("CASE WHEN i THEN 1 END", InvalidInputError, "i has type int32 and is no condition"),
        (
            "CASE WHEN b THEN t ELSE i END",
            InvalidInputError,
            "CASE chooses among values of one type, not string and",
        ),
        (
            "CASE WHEN b THEN i ELSE 'abc' END",
            InvalidInputError,
            "CASE chooses among int32 and 'abc': it is not a numb",
        ),
        ("coalesce(d, s)", InvalidInputError, "one type, not date32.* and timestamp"),
        ("greatest(d, s)", InvalidInputError, "CAST them"),
        ("round(t)", InvalidInputError, "round"),
        ("round(f, -1)", InvalidInputError, "digits from 0 to 15"),
        ("round(f, i)", InvalidInputError, "constant number of digits"),
        ("floor(f, 2)", UnsupportedError, "FLOOR"),
        ("week(t)", InvalidInputError, r"week\(\)"),
        ("date_trunc('decade', s)", InvalidInputError, "not to 'decade'"),
        ("date_trunc('hour', d)", InvalidInputError, "date32"),
        ("reverse(t)", UnsupportedError, "REVERSE"),
    ],
)
def test_what_does_not_fit_is_said_before_a_row_is_read(
    sql: str, kind: type[LakeError], message: str
) -> None:
    """spec: FILTER-1, FILTER-8"""
    with pytest.raises(kind, match=message):
        value_of(parse_sql(sql), BATCH.schema)


def test_choices_are_conditions_too() -> None:
    """spec: FILTER-8"""
    found = bind(parse_sql("CASE WHEN b THEN i > 1 ELSE t = 'a' END"), BATCH.schema).mask(BATCH)
    wanted = [
        bool((i is not None and i > 1) if b else t == "a")
        for b, i, t in zip(*(BATCH.column(name).to_pylist() for name in "bit"), strict=True)
    ]
    assert found.tolist() == wanted


@pytest.mark.parametrize(
    "sql",
    [
        "CASE WHEN 1 < 2 THEN 1 ELSE 2 END = 1", "'a' || 'b' = 'ab'", "substr('abc', 2) = 'bc'", "round(2.5) = 3",
        "greatest(1, 2, 1.5) = 2", "date_trunc('month', DATE '2024-02-29') = DATE '2024-02-01'", "trim(' a ') = 'a'",
        "nullif(1, 1) IS NULL", "concat('a', NULL, 1) = 'a1'", "least('nan'::DOUBLE, 1) = 1",
        "round(2.675e0, 2) > 2.67",
        "CASE 1 WHEN NULL THEN FALSE ELSE TRUE END", "1.5 + 0e0 = 1.5", "coalesce(0.5, 1, 2) = 0.5",
    ],
)  # fmt: skip
def test_what_reads_no_column_is_computed_at_once(sql: str) -> None:
    """spec: FILTER-8"""
    assert bind(parse_sql(sql), BATCH.schema).always
