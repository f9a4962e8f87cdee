"""Binding and pruning: exact constants, encoded columns, what readers are given, and which fragments remain."""

from __future__ import annotations

import datetime as dt
import math
import operator
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lake_engines.predicate import SimpleConjunct, bind, parse_sql
from lake_engines.predicate.exact import exact_value, fit, fit_float32, scale_of
from lake_engines.predicate.tree import Operator
from lake_format.errors import InvalidInputError
from lake_format.statistics import compute_statistics, encode_bound

COMPARE = {
    Operator.EQUAL: operator.eq,
    Operator.NOT_EQUAL: operator.ne,
    Operator.LESS: operator.lt,
    Operator.LESS_EQUAL: operator.le,
    Operator.GREATER: operator.gt,
    Operator.GREATER_EQUAL: operator.ge,
}
OPERATORS = st.sampled_from(list(COMPARE))


@given(
    OPERATORS,
    st.fractions(-300, 300, max_denominator=4) | st.sampled_from([math.inf, -math.inf]),
    st.sampled_from([pa.int8(), pa.uint8(), pa.decimal128(3, 1), pa.decimal128(3, 2)]),
)
def test_fitted_constants_answer_as_exact_arithmetic_does(
    comparison: Operator, value: Fraction | float, dtype: pa.DataType
) -> None:
    """spec: FILTER-5 — for every value the type can hold, extremes included."""
    scale = scale_of(dtype)
    assert scale is not None
    fitted = fit(comparison, value, scale)
    for stored in range(max(scale.low, -999), min(scale.high, 999) + 1):
        expected = COMPARE[comparison](stored * scale.unit, value)
        answer = fitted if isinstance(fitted, bool) else COMPARE[fitted[0]](stored, fitted[1])
        assert answer == expected, (stored, fitted)


@given(OPERATORS, st.floats(allow_nan=False), st.floats(width=32, allow_nan=False))
def test_float32_columns_compare_exactly_with_doubles(
    comparison: Operator, value: float, stored: float
) -> None:
    """spec: FILTER-5"""
    fitted = fit_float32(comparison, value)
    if not isinstance(fitted, bool):
        assert float(np.float32(fitted[1])) == fitted[1]
        fitted = COMPARE[fitted[0]](stored, fitted[1])
    assert fitted == COMPARE[comparison](stored, value)


@given(st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2200, 1, 1)))
def test_constants_have_one_exact_value_whatever_their_unit(moment: dt.datetime) -> None:
    fine, zoned = (exact_value(pa.scalar(moment, pa.timestamp("us", zone))) for zone in (None, "UTC"))
    assert (
        fine
        == zoned
        == Fraction(round((moment - dt.datetime(1970, 1, 1)) / dt.timedelta(microseconds=1)), 10**6)
    )


def passing(batch: pa.RecordBatch, sql: str, schema: pa.Schema | None = None) -> list[bool]:
    answer: list[bool] = bind(parse_sql(sql), schema or batch.schema).mask(batch).tolist()
    return answer


ENCODINGS = [
    pa.array(["a", "b", None, "a"]),
    pa.array(["a", "b", None, "a"]).dictionary_encode(),
    pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, 0]), pa.array(["a", "b", None])),
    pa.array(["a", "b", None, "a"], pa.large_string()),
    pa.array(["a", "b", None, "a"], pa.string_view()),
    pa.RunEndEncodedArray.from_arrays([1, 2, 3, 4], pa.array(["a", "b", None, "a"])),
]


@pytest.mark.parametrize("array", ENCODINGS, ids=lambda array: str(array.type).split("<")[0])
def test_encodings_do_not_matter(array: pa.Array) -> None:
    """spec: FILTER-6 — neither in the schema nor in the rows a file reader delivers."""
    batch = pa.record_batch({"t": array})
    for schema in (batch.schema, pa.schema([("t", pa.string())])):
        assert passing(batch, "t = 'a'", schema) == [True, False, False, True]
        assert passing(batch, "NOT t IN ('a', 'x')", schema) == [False, True, False, False]
        assert passing(batch, "t LIKE 'A%' OR t ILIKE 'B'", schema) == [False, True, False, False]
        assert passing(batch, "t IS NULL", schema) == [False, False, True, False]
        assert passing(batch, "t IS DISTINCT FROM 'a'", schema) == [False, True, True, False]


def test_types_that_duckdb_lacks() -> None:
    """spec: FILTER-2, FILTER-5"""
    batch = pa.record_batch({
        "half": pa.array([np.float16(0.1), np.float16("nan"), None]),
        "fixed": pa.array([b"ab", b"cd", None], pa.binary(2)),
        "small": pa.array([1, 2, None], pa.decimal32(5, 2)),
        "old": pa.array([dt.date(1970, 1, 1), dt.date(2024, 1, 1), None], pa.date64()),
        "span": pa.array([1000, -1, None], pa.duration("ms")),
        "clock": pa.array([dt.time(1), dt.time(2), None], pa.time32("s")),
        "nothing": pa.nulls(3),
    })  # fmt: skip
    assert passing(batch, "half = 0.1") == [True, False, False]
    assert passing(batch, "half > 5") == [False, True, False]
    assert passing(batch, "fixed > 'ab'") == [False, True, False]
    assert passing(batch, "fixed = 'abc'") == [False, False, False]
    assert passing(batch, "small < 1.005 OR small IN (2)") == [True, True, False]
    assert passing(batch, "old < TIMESTAMP '1970-01-01 00:00:00.001'") == [True, False, False]
    assert passing(batch, "span >= INTERVAL 1 SECOND") == [True, False, False]
    assert passing(batch, "clock < TIME '01:00:00.5'") == [True, False, False]
    assert passing(batch, "nothing = 1 OR nothing IN (1) OR nothing LIKE 'a'") == [False, False, False]
    assert passing(batch, "nothing IS NULL") == [True, True, True]


def test_instants_of_different_units_compare_without_overflow() -> None:
    """spec: FILTER-5"""
    far = pa.array([2**62, 0, None]).cast(pa.timestamp("s"))
    fine = pa.array([2**62, 1, 5]).cast(pa.timestamp("ns"))
    batch = pa.record_batch(
        {"far": far, "fine": fine, "day": pa.array([2**31 - 1, 0, 1], pa.int32()).cast(pa.date32())}
    )
    assert passing(batch, "far > fine") == [True, False, False]
    assert passing(batch, "day > fine") == [True, False, True]


def test_zones() -> None:
    """spec: FILTER-3 — a time without zone is UTC where it meets one with."""
    noon = dt.datetime(2024, 1, 1, 12)
    batch = pa.record_batch({"tz": pa.array([noon], pa.timestamp("us", "Asia/Tokyo"))})
    for sql in (
        "tz = TIMESTAMP '2024-01-01 12:00:00'",
        "tz = TIMESTAMPTZ '2024-01-01 21:00:00+09'",
        "tz = '2024-01-01 12:00:00Z'",
        "tz > DATE '2024-01-01' AND hour(tz) = 12",
    ):
        assert passing(batch, sql) == [True], sql


def test_constant_filters() -> None:
    batch = pa.record_batch({"n": pa.array([1, None])})
    assert bind(parse_sql("1 < 2"), batch.schema).always
    assert bind(parse_sql("NULL"), batch.schema).never
    assert bind(parse_sql("'a' = 'b' OR 2 < 1.5"), batch.schema).never
    assert passing(batch, "TRUE") == [True, True]
    assert passing(batch, "NULL OR n = 1") == [True, False]
    assert passing(batch, "n + NULL = 1 OR abs(NULL) = n OR NULL = NULL") == [False, False]
    assert passing(batch, "coalesce(NULL, n, CAST(NULL AS INT), 5) = 5") == [False, True]
    assert passing(batch, "'2024-01-01' < DATE '2024-01-02' AND n = 1") == [True, False]
    empty = batch.slice(0, 0)
    assert len(bind(parse_sql("TRUE"), batch.schema).evaluate(empty)) == 0
    with pytest.raises(InvalidInputError, match="lack the column 'n'"):
        passing(pa.record_batch({"m": [1]}), "n = 1", batch.schema)


def test_struct_members_are_read_by_name() -> None:
    """spec: FILTER-6 — files may hold the members in another order than the schema."""
    schema = pa.schema([("s", pa.struct([("a", pa.int8()), ("b", pa.int8())]))])
    turned = pa.record_batch(
        {"s": pa.array([{"b": 2, "a": 1}], pa.struct([("b", pa.int8()), ("a", pa.int8())]))}
    )
    assert passing(turned, "s.a = 1 AND s.b = 2", schema) == [True]


def test_conjuncts_carry_their_own_columns_and_text() -> None:
    schema = pa.schema([("a", pa.int64()), ("b", pa.string()), ("c", pa.float64())])
    predicate = bind(parse_sql("a > 1 AND (b = 'x' OR c < 2) AND c IS NOT NULL"), schema)
    assert predicate.columns == {"a", "b", "c"}
    assert [(str(part), sorted(part.columns)) for part in predicate.conjuncts] == [
        ("a > 1", ["a"]),
        ("(b = 'x') OR (c < 2)", ["b", "c"]),
        ("NOT (c IS NULL)", ["c"]),
    ]
    assert bind(parse_sql("a = 1"), schema).conjuncts[0].columns == {"a"}


def with_ids(*fields: tuple[str, pa.DataType]) -> pa.Schema:
    return pa.schema([
        pa.field(name, dtype, metadata={"PARQUET:field_id": str(number)})
        for number, (name, dtype) in enumerate(fields)
    ])  # fmt: skip


def test_what_readers_are_given() -> None:
    """Constants have the column's own type; floating point never leaves (readers disagree about NaN and -0.0)."""
    schema = with_ids(
        ("n", pa.int32()), ("t", pa.string()), ("f", pa.float32()), ("ts", pa.timestamp("ms", "UTC"))
    )
    text = "n < 3.5 AND t LIKE 'a%' AND n IN (1, 1000000000000) AND f > 1 AND ts IS NOT NULL AND n + 1 > 2"
    found, complete = bind(parse_sql(text), schema).simple_conjuncts()
    assert not complete
    assert found == (
        SimpleConjunct(("n",), 0, "<=", (pa.scalar(3, pa.int32()),)),
        SimpleConjunct(("t",), 1, "starts with", (pa.scalar("a"),)),
        SimpleConjunct(("n",), 0, "in", (pa.scalar(1, pa.int32()),)),
        SimpleConjunct(("ts",), 3, "is not null", ()),
    )
    assert bind(parse_sql("n = 1 AND t <> 'x'"), schema).simple_conjuncts()[1]


class View:
    """Statistics of given fragments (lists of values), field 0 only."""

    def __init__(self, dtype: pa.DataType, *fragments: list[object]) -> None:
        found = [compute_statistics(pa.array(values, dtype), 0) for values in fragments]
        self.row_count = np.array([len(values) for values in fragments])
        self.columns = (
            pa.array([each.lower for each in found], pa.binary()),
            pa.array([each.upper for each in found], pa.binary()),
            pa.array([each.null_count for each in found], pa.uint64()),
            pa.array([each.nan_count for each in found], pa.uint64()),
        )

    def may_equal(self, field_id: int, options: pa.Array) -> None:
        return None

    def column(self, field_id: int) -> tuple[pa.Array, pa.Array, pa.Array, pa.Array] | None:
        return self.columns if field_id == 0 else None


def kept(view: View, dtype: pa.DataType, sql: str) -> list[bool]:
    answer: list[bool] = bind(parse_sql(sql), with_ids(("x", dtype), ("y", pa.int8()))).prune(view).tolist()
    return answer


def test_fragments_without_a_match_are_pruned() -> None:
    """spec: STAT-7"""
    view = View(pa.int64(), [1, 5], [10, 20], [None, None], [7, 7])
    for sql, expected in {
        "x < 10": [True, False, False, True],
        "NOT x < 10": [False, True, False, False],
        "x = 7": [False, False, False, True],
        "x <> 7": [True, True, False, False],
        "x IN (6, 21, 30)": [False, False, False, False],
        "x IN (6, 15)": [False, True, False, False],
        "x NOT IN (7)": [True, True, False, False],
        "x NOT IN (7, NULL)": [False, False, False, False],
        "x IS NULL": [False, False, True, False],
        "x IS NOT NULL": [True, True, False, True],
        "x IS DISTINCT FROM 7": [True, True, True, False],
        "x BETWEEN 6 AND 9": [False, False, False, True],
        "x < 3 OR x > 15": [True, True, False, False],
        "x > 100 AND y = 1": [False, False, False, False],
        "x > 3 AND y = 1": [True, True, False, True],
        "x > 3.5 AND x < 1e1": [True, False, False, True],
    }.items():
        assert kept(view, pa.int64(), sql) == expected, sql
    many = ", ".join(str(100 + number) for number in range(500))
    assert kept(view, pa.int64(), f"x IN ({many}, 20)") == [False, True, False, False]


def test_text_is_pruned_by_prefix() -> None:
    """spec: STAT-7, FILTER-7"""
    view = View(pa.string(), ["apple", "apricot"], ["banana"], ["b" * 80], ["", "é"])
    assert kept(view, pa.string(), "x LIKE 'ap%'") == [True, False, False, True]
    assert kept(view, pa.string(), "x LIKE 'ba_a%a'") == [False, True, False, True]
    assert kept(view, pa.string(), "x NOT LIKE 'ap%'") == [False, True, True, True]
    assert kept(view, pa.string(), "x = 'apple'") == [True, False, False, True]
    assert kept(view, pa.string(), f"x = '{'b' * 80}'") == [False, False, True, True]
    assert kept(view, pa.string(), "x ILIKE 'ZZZ%'") == [True] * 4


def test_nan_is_above_every_bound() -> None:
    """spec: STAT-7, FILTER-3"""
    view = View(pa.float64(), [1.0, 2.0], [1.0, math.nan], [math.nan], [None])
    assert kept(view, pa.float64(), "x > 5") == [False, True, True, False]
    assert kept(view, pa.float64(), "NOT x > 5") == [True, True, False, False]
    assert kept(view, pa.float64(), "x <= 5") == [True, True, False, False]
    assert kept(view, pa.float64(), "isnan(x)") == [False, True, True, False]
    assert kept(view, pa.float64(), "x = 'nan'::DOUBLE") == [False, True, True, False]
    assert kept(view, pa.float64(), "x < 'nan'::DOUBLE") == [True, True, False, False]


def test_what_is_unknown_is_never_pruned() -> None:
    """spec: STAT-7"""
    view = View(pa.int64(), [1, 5], [10, 20])
    view.columns = tuple(pa.nulls(2, array.type) for array in view.columns)  # type: ignore[assignment]
    for sql in ("x < 0", "NOT x < 0", "x IS NULL", "x IN (3)", "x = 1 AND x + 1 = 2", "y = 1"):
        assert kept(view, pa.int64(), sql) == [True, True], sql
    assert not bind(parse_sql("x IS NOT NULL"), with_ids(("x", pa.int64()))).covers(view).any()
    lower = pa.array([encode_bound(pa.scalar(3)), None], pa.binary())
    view.columns = (lower, *view.columns[1:])
    assert kept(view, pa.int64(), "x < 3") == [False, True]
    assert kept(view, pa.int64(), "x > 3") == [True, True]


def test_fragments_whose_rows_all_pass_are_known() -> None:
    """spec: STAT-7"""
    view = View(pa.int64(), [1, 5], [10, 20], [None, 11], [7, 7])
    schema = with_ids(("x", pa.int64()))
    for sql, expected in {
        "x < 8": [True, False, False, True],
        "x IS NOT NULL": [True, True, False, True],
        "x IN (7)": [False, False, False, True],
        "x < 8 OR x >= 10": [True, True, False, True],
    }.items():
        covered = bind(parse_sql(sql), schema).covers(view).tolist()
        assert all(not certain or truth for certain, truth in zip(covered, expected, strict=True)), sql
    assert bind(parse_sql("x < 8"), schema).covers(view).tolist() == [True, False, False, True]


def test_columns_are_compared_by_their_bounds() -> None:
    """spec: STAT-7"""
    view = View(pa.int64(), [1, 5], [10, 20])
    other = View(pa.int64(), [6, 9], [12, 15])

    class Both:
        row_count = view.row_count

        def may_equal(self, field_id: int, options: pa.Array) -> None:
            return None

        def column(self, field_id: int) -> tuple[pa.Array, pa.Array, pa.Array, pa.Array] | None:
            return (view, other)[field_id].columns

    schema = with_ids(("x", pa.int64()), ("y", pa.int64()))
    for sql, expected in {"x > y": [False, True], "x < y": [True, True], "x = y": [False, True]}.items():
        assert bind(parse_sql(sql), schema).prune(Both()).tolist() == expected, sql


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_pruning_never_loses_a_row_of_random_fragments(data: st.DataObject) -> None:
    """spec: STAT-4, STAT-7 — long texts, whose bounds are cut, included."""
    texts = (
        st.none()
        | st.text(st.sampled_from("ab\U0010ffffé"), max_size=3)
        | st.just("a" * 70 + "b")
        | st.just("é" * 40)
    )
    fragments = data.draw(st.lists(st.lists(texts, min_size=1, max_size=4), min_size=1, max_size=5))
    constant = data.draw(texts.filter(lambda text: text is not None))
    template = data.draw(
        st.sampled_from(["x {o} '{c}'", "x LIKE '{c}%'", "NOT x LIKE '{c}%'", "x IN ('{c}', 'ab')"])
    )
    sql = template.format(o=data.draw(st.sampled_from(["=", "<>", "<", "<=", ">", ">="])), c=constant)
    schema = with_ids(("x", pa.string()))
    predicate, view = bind(parse_sql(sql), schema), View(pa.string(), *fragments)
    may, covered = predicate.prune(view), predicate.covers(view)
    for number, values in enumerate(fragments):
        mask = predicate.mask(pa.record_batch({"x": pa.array(values, pa.string())}))
        assert may[number] or not mask.any()
        assert not covered[number] or mask.all()
