"""SQL text as filters: what is accepted, what it becomes, and what errors say."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lake_engines.predicate import bind, parse_filter, parse_sql
from lake_engines.predicate.patterns import Wildcard, read_pattern
from lake_engines.predicate.tree import Column, Comparison, Expression, Literal, Operator
from lake_format.errors import InvalidInputError, LakeError, UnsupportedError

SCHEMA = pa.schema([
    ("price", pa.float64()),
    ("Name", pa.string()),
    ("ts", pa.timestamp("us")),
    ("tz", pa.timestamp("ms", "UTC")),
    ("d", pa.date32()),
    ("n", pa.int8()),
    ("i", pa.int64()),
    ("ok", pa.bool_()),
    ("raw", pa.binary()),
    ("vec", pa.list_(pa.float32(), 2)),
    ("a.b", pa.int8()),
    ("s", pa.struct([("x", pa.int32()), ("Y", pa.struct([("z", pa.string())]))])),
])  # fmt: skip


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("price<10", "price < 10"),
        ("price == 10", "price = 10"),
        ("price != 10 -- why", "price <> 10"),
        ("10 > price /* swapped */", "10 > price"),
        ("n NOT IN (1, NULL)", "NOT (n IN (1, NULL))"),
        ("n BETWEEN -1 AND 2", "(n >= -1) AND (n <= 2)"),
        ("n not between 1 and 2", "NOT ((n >= 1) AND (n <= 2))"),
        ("a AND (b AND c) OR d", "(a AND b AND c) OR d"),
        ("NOT ok", "NOT ok"),
        ("ok IS TRUE", "ok IS NOT DISTINCT FROM TRUE"),
        ("ok IS NOT NULL", "NOT (ok IS NULL)"),
        ("n IS NOT DISTINCT FROM 3", "n IS NOT DISTINCT FROM 3"),
        ("n IS DISTINCT FROM NULL", "n IS DISTINCT FROM NULL"),
        ("x NOT ILIKE 'a!%' ESCAPE '!'", "NOT (x ILIKE 'a!%' ESCAPE '!')"),
        ("name = 'it''s'", "name = 'it''s'"),
        ("s.x = 1", "s.x = 1"),
        ("s['x'] = 1", "s.x = 1"),
        ("a.b.c.d.e.f = 1", "a.b.c.d.e.f = 1"),
        ('"a.b" = 1 AND "select" = 2 AND "q""q" = 3', '("a.b" = 1) AND ("select" = 2) AND ("q""q" = 3)'),
        ("raw = x'00FF'", "raw = '\\x00\\xFF'::BLOB"),
        ("raw = '\\x00a'::BLOB", "raw = '\\x00\\x61'::BLOB"),
        ("d = DATE '2024-02-29'", "d = DATE '2024-02-29'"),
        ("ts > TIMESTAMP '2024-02-29T12:00'", "ts > TIMESTAMP '2024-02-29 12:00:00'"),
        ("ts > '2024-02-29'::TIMESTAMP_NS", "ts > CAST('2024-02-29' AS TIMESTAMP_NS)"),
        ("tz < TIMESTAMPTZ '2024-01-01 01:00+01:30'", "tz < TIMESTAMPTZ '2023-12-31 23:30:00+00:00'"),
        ("ts < TIMESTAMP '2024-01-01' - INTERVAL '36' HOUR", "ts < TIMESTAMP '2023-12-30 12:00:00'"),
        ("t = TIME '12:30:00.5'", "t = TIME '12:30:00.500000'"),
        ("span > INTERVAL 5 MINUTE", "span > INTERVAL '300' SECOND"),
        ("x = 1.50 OR x = 1e3 OR x = -0.5", "(x = 1.50) OR (x = 1000.0e0) OR (x = -0.5)"),
        ("x = 123456789012345678901", "x = 123456789012345678901"),
        ("i = -9223372036854775808", "i = -9223372036854775808"),
        ("x = 'inf'::DOUBLE", "x = CAST('inf' AS DOUBLE)"),
        ("CAST(n AS BIGINT) + 2 * n > 3 % 2", "(CAST(n AS BIGINT) + (2 * n)) > (3 % 2)"),
        ("-(n) = 1 AND abs(n) = 1", "((-n) = 1) AND (abs(n) = 1)"),
        ("EXTRACT(month FROM ts) = 3", "month(ts) = 3"),
        ("date_part('day', ts) = 3", "day(ts) = 3"),
        ("isnan(price) OR prefix(name, 'a')", "isnan(price) OR starts_with(name, 'a')"),
        ("ends_with(name, 'a') = contains(name, 'b')", "ends_with(name, 'a') = contains(name, 'b')"),
        ("CASE WHEN ok THEN 1 END = 1", "CASE WHEN ok THEN 1 ELSE NULL END = 1"),
        ("CASE n WHEN 1 THEN 'a' WHEN 2 THEN 'b' ELSE name END = 'a'",
         "CASE WHEN n = 1 THEN 'a' WHEN n = 2 THEN 'b' ELSE name END = 'a'"),
        ("name || 'a' || name = 'b'", "((name || 'a') || name) = 'b'"),
        ("nullif(n, 1) = if(ok, 1, 2)", "CASE WHEN n = 1 THEN NULL ELSE n END = CASE WHEN ok THEN 1 ELSE 2 END"),
        ("trim(BOTH 'x' FROM name) = ltrim(name)", "trim(name, 'x') = ltrim(name)"),
        ("substring(name FROM 2 FOR 3) = left(name, -1)", "substr(name, 2, 3) = left(name, -1)"),
        ("extract(dow FROM ts) = weekday(ts)", "dayofweek(ts) = dayofweek(ts)"),
        ("date_trunc('Month', ts) = ts", "date_trunc('month', ts) = ts"),
        ("coalesce(n, 0) IN (1, n)", "(coalesce(n, 0) = 1) OR (coalesce(n, 0) = n)"),
    ],
)  # fmt: skip
def test_accepted_forms(text: str, canonical: str) -> None:
    """spec: FILTER-1 — and the canonical text reads back as the same tree."""
    tree = parse_sql(text)
    expected = canonical.replace("CAST('2024-02-29' AS TIMESTAMP_NS)", "TIMESTAMP '2024-02-29 00:00:00'")
    assert str(tree) == expected
    again = parse_sql(str(tree))
    assert str(again) == expected
    if "::" not in text and "-" not in text:
        assert again == tree


SYNTAX = [
    ("price < ", "line 1, column 7: price →<"),
    ("price < 3 b", "line 1, column 11: price < 3 →b"),
    ("price < 3\n  AND AND ok", "line 2, column 7"),
    ("SELECT 1", "not valid SQL"),
    ("price < 3; DROP TABLE x", "→DROP TABLE x"),
    ("name = 'x", "quotes"),
    ("((price = 1)", "Expecting \\)"),
    ("  ", "empty"),
    ("price < 1e999", "beyond the range.*line 1, column 9"),
    ("d = DATE '2024-02-30'", "day.* (line 1|out of range|in:)"),
    ("d = DATE 'soon'", "not a date"),
    ("ts = TIMESTAMP '2024-01-01 25:00:00'", "time of day does not exist"),
    ("ts = TIMESTAMP '2024-01-01 00:00:00+02'", "TIMESTAMPTZ"),
    ("n = CAST(300 AS TINYINT)", "int8 has no such value"),
    ("n = CAST('2.5' AS INTEGER)", "has no such value"),
    ("n = 1::DECIMAL(50, 2)", "1 to 38 digits"),
    ("raw = '\\xZZ'::BLOB", "hexadecimal"),
    ("(" * 3000 + "ok" + ")" * 3000, "nested too deeply"),
]


@pytest.mark.parametrize(("text", "message"), SYNTAX, ids=range(len(SYNTAX)))
def test_text_that_is_no_filter(text: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        parse_sql(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("price << 3", r"price << 3 .*line 1, column 1"),
        ("ok AND\n name ~ 'x'", "line 2, column 2"),
        ("n = ANY([1])", "ANY"),
        ("n IN (SELECT 1)", "SELECT"),
        ("EXISTS(SELECT 1)", "EXISTS"),
        ("n = ?", r"\?"),
        ("n = $1", r"\$1"),
        ("CASE WHEN ok THEN sum(n) END", "SUM"),
        ("floor(price, 2) = 1", "FLOOR"),
        ("sum(n) > 3", "SUM"),
        ("frobnicate(n) = 1", "FROBNICATE.*line 1"),
        ("name LIKE name", "constant"),
        ("name SIMILAR TO 'a'", "(?i)similar|regexp"),
        ("TRY_CAST(name AS INT) = 1", "TRY_CAST"),
        ("ts > TIMESTAMP '2024-01-01' - INTERVAL 1 MONTH", "whole number of weeks"),
        ("vec[1] > 0", r"vec\[1\]"),
        ("* = 1", r"\*"),
        ("extract(epoch from ts) = 1", "EPOCH"),
    ],
)
def test_constructs_that_are_not_supported_are_named(text: str, message: str) -> None:
    """spec: FILTER-1"""
    with pytest.raises(UnsupportedError, match=message):
        parse_sql(text)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (
            "pricce < 3",
            InvalidInputError,
            "no column 'pricce' — did you mean 'price'.*available: price, Name",
        ),
        ("s.q = 1", InvalidInputError, "no struct member 's.q'.*available: x, Y"),
        ("n.x = 1", InvalidInputError, "'n' has type int8"),
        ("a.b = 1", InvalidInputError, "no column 'a'"),
        ("price < 'abc'", InvalidInputError, "column 'price' of type double with 'abc': it is not a number"),
        ("Name = 5", InvalidInputError, "column 'Name' of type string with 5.*single quotes"),
        ("n = TRUE", InvalidInputError, "column 'n' of type int8 with TRUE: a number"),
        ("ok = 1", InvalidInputError, "TRUE or FALSE"),
        ("ok = 'maybe'", InvalidInputError, "neither 'true' nor 'false'"),
        ("ts < 3", InvalidInputError, "a date or timestamp is expected"),
        ("ts < '2024-13-01'", InvalidInputError, "month"),
        ("d < ok", InvalidInputError, "date32.* and bool"),
        ("n", InvalidInputError, "no condition"),
        ("n + 1", InvalidInputError, "no condition"),
        ("n AND ok", InvalidInputError, "no condition"),
        ("vec = 3", UnsupportedError, "vec has type"),
        ("isnan(Name)", InvalidInputError, r"isnan\(\) takes a number"),
        ("n LIKE 'a'", InvalidInputError, "needs text"),
        ("Name LIKE 'a!' ESCAPE '!'", InvalidInputError, "must not end with its escape"),
        ("Name LIKE 'a' ESCAPE '!!'", InvalidInputError, "one character"),
        ("lower(n) = 'a'", InvalidInputError, r"lower\(\) cannot be applied to int8"),
        ("d + 1 = d", InvalidInputError, "date32"),
        ("CAST(Name AS INTEGER) = 3", UnsupportedError, "could fail"),
        ("i * i * i * i * i > 0", UnsupportedError, "more than 76"),
        ("n % n = 0", UnsupportedError, "constant"),
        ("n % 0 = 0", UnsupportedError, "not 0"),
        ("price % 2 = 0", UnsupportedError, "integers only"),
        ("i // -1 = 3", UnsupportedError, "overflow"),
    ],
)
def test_filters_that_do_not_fit_the_table(text: str, kind: type[LakeError], message: str) -> None:
    """spec: FILTER-5 — refused before any row is read, with the column, the type and the value."""
    with pytest.raises(kind, match=message):
        bind(parse_sql(text), SCHEMA)


def test_names_are_found_whatever_their_case() -> None:
    """spec: FILTER-6"""
    for text in ("NAME = 'a'", "\"name\" = 'a'", "S.y.Z = 'a'", '"a.b" = 1'):
        assert bind(parse_sql(text), SCHEMA).columns <= {"Name", "s", "a.b"}
    both = pa.schema([("x", pa.int8()), ("X", pa.int8())])
    assert bind(parse_sql("X = 1"), both).columns == {"X"}
    with pytest.raises(InvalidInputError, match="ambiguous: 'aB', 'Ab'"):
        bind(parse_sql("AB = 1"), pa.schema([("aB", pa.int8()), ("Ab", pa.int8())]))


def test_struct_members_are_null_under_a_null_struct() -> None:
    """spec: FILTER-6"""
    rows = [{"x": 1, "Y": {"z": "a"}}, None, {"x": None, "Y": None}]
    batch = pa.record_batch({"s": pa.array(rows, SCHEMA.field("s").type)})
    assert bind(parse_sql("s.x IS NULL"), batch.schema).mask(batch).tolist() == [False, True, True]
    assert bind(parse_sql("s.Y.z = 'a'"), batch.schema).mask(batch).tolist() == [True, False, False]


@given(st.text(max_size=30))
@example("@")
@example("coalesce(")
def test_any_text_gives_a_tree_or_an_error_of_ours(text: str) -> None:
    with contextlib.suppress(LakeError):
        assert isinstance(parse_sql(text), Expression)


@given(
    st.lists(
        st.sampled_from(
            [
                "n",
                "AND",
                "(",
                ")",
                "1",
                "'a'",
                "<",
                "IN",
                "NOT",
                ".",
                ",",
                "IS",
                "NULL",
                "::",
                "LIKE",
                "@",
                "||",
                "CASE",
                "WHEN",
                "THEN",
                "END",
                "lower(",
                "trim(",
                "substr(",
                "if(",
                "-",
                "%",
            ]
        )
    )
)
def test_any_words_give_a_tree_or_an_error_of_ours(words: list[str]) -> None:
    with contextlib.suppress(LakeError):
        bind(parse_sql(" ".join(words)), SCHEMA)


@given(st.text(max_size=20), st.text("a%_\\b", max_size=8), st.sampled_from([None, "\\", "a"]))
def test_any_pattern_matches_as_written(value: str, pattern: str, escape: str | None) -> None:
    """spec: FILTER-7 — LIKE against a matcher written from the definition."""
    try:
        parts = read_pattern(pattern, escape)
    except ValueError:
        assert escape is not None
        return
    tree = parse_sql("v LIKE ''")
    tree = type(tree)(Column(("v",)), pattern, escape)
    for text in (value, "".join(part if isinstance(part, str) else "\n" for part in parts)):
        batch = pa.record_batch({"v": pa.array([text])})
        assert bind(tree, batch.schema).mask(batch).tolist() == [_matches(text, parts)]


def _matches(text: str, parts: tuple[str | Wildcard, ...]) -> bool:
    if not parts:
        return text == ""
    first, rest = parts[0], parts[1:]
    if isinstance(first, str):
        return text.startswith(first) and _matches(text[len(first) :], rest)
    if first is Wildcard.ONE:
        return text != "" and _matches(text[1:], rest)
    return any(_matches(text[start:], rest) for start in range(len(text) + 1))


def test_filters_come_in_three_forms() -> None:
    tree = Comparison(Operator.LESS, Column(("n",)), Literal(pa.scalar(1)))
    assert parse_filter(tree) is tree
    assert parse_filter("n < 1") == tree
    assert parse_sql("n < 1") is parse_sql("n < 1")
    assert str(parse_filter(pc.field("n") < 1)) == "(n < 1)"
    with pytest.raises(InvalidInputError, match="type int"):
        parse_filter(3)  # type: ignore[arg-type]


def test_many_options_and_terms() -> None:
    batch = pa.record_batch({"n": pa.array(range(3000))})
    listed = ", ".join(map(str, range(0, 6000, 2)))
    assert bind(parse_sql(f"n IN ({listed})"), batch.schema).mask(batch).sum() == 1500
    alternatives = " OR ".join(f"n = {number}" for number in range(300))
    assert bind(parse_sql(alternatives), batch.schema).mask(batch).sum() == 300


def test_sqlglot_is_loaded_only_for_sql_text() -> None:
    code = (
        "import sys; import pyarrow.compute as pc; import pyarrow as pa\n"
        "from lake_engines.predicate import bind, from_arrow\n"
        "bind(from_arrow(pc.field('n') < 1), pa.schema([('n', pa.int8())]))\n"
        "sys.exit('sqlglot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
