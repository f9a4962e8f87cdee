"""pyarrow expressions keep Arrow's meaning: compared with what Arrow itself selects."""

from __future__ import annotations

import contextlib
import datetime as dt
import decimal
import functools
import math
import operator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lake_engines.predicate import bind, from_arrow, parse_filter
from lake_engines.predicate.truth import ByArrow
from lake_format.errors import InvalidInputError, UnsupportedError
from lake_format.statistics import compute_statistics

D = decimal.Decimal
F = pc.field
NAN = math.nan
BERLIN = pa.timestamp("us", "Europe/Berlin")
COLUMNS: dict[str, tuple[pa.DataType, list[object]]] = {
    "i8": (pa.int8(), [-128, -1, 0, 1, 127]),
    "i64": (pa.int64(), [-(2**53) - 1, -1, 0, 1, 2**62]),
    "u64": (pa.uint64(), [0, 1, 2**63]),
    "f32": (pa.float32(), [NAN, -0.0, 0.0, 0.1, 1.0, math.inf]),
    "f64": (pa.float64(), [NAN, -0.0, 0.0, 0.1, 1.0, -math.inf]),
    "b": (pa.bool_(), [True, False]),
    "t": (pa.string(), ["", "a", "ab", "a%b", "é", "b\na", "a\\b"]),
    "big": (pa.large_string(), ["", "a", "zz"]),
    "cat": (pa.dictionary(pa.int32(), pa.string()), ["a", "b", "zz"]),
    "bin": (pa.binary(), [b"", b"a", b"\xff"]),
    "dec": (pa.decimal128(9, 2), [D("-1.50"), D("0.00"), D("0.10"), D("1.00")]),
    "d": (pa.date32(), [dt.date(1969, 12, 31), dt.date(2024, 2, 29)]),
    "ts": (pa.timestamp("us"), [dt.datetime(1970, 1, 1), dt.datetime(2024, 2, 29, 12)]),
    "tz": (BERLIN, [dt.datetime(1970, 1, 1), dt.datetime(2024, 2, 29, 12)]),
    "tm": (pa.time64("us"), [dt.time(0), dt.time(12, 30)]),
    "span": (pa.duration("ms"), [dt.timedelta(0), dt.timedelta(hours=1)]),
    "s": (
        pa.struct([("x", pa.int32()), ("y", pa.struct([("z", pa.string())]))]),
        [{"x": 1, "y": {"z": "a"}}, {"x": None, "y": None}, {"x": 7, "y": {"z": None}}],
    ),
}
CONSTANTS: list[object] = [
    -1, 0, 1, 127, 128, 2**40, 0.0, 0.1, 0.5, 1.0, NAN, math.inf, True, False, "", "a", "zz", b"", b"a", D("0.10"),
    D("1"), D("0.001"), dt.date(2024, 2, 29), dt.datetime(1970, 1, 1), dt.datetime(2024, 2, 29, 12), dt.time(12, 30),
    dt.timedelta(hours=1), pa.scalar(1, pa.int8()), pa.scalar(0.1, pa.float32()), pa.scalar(None, pa.int64()),
    pa.scalar(dt.datetime(2024, 2, 29, 12), pa.timestamp("s", "UTC")), pa.scalar("a", pa.large_string()),
]  # fmt: skip
OPERATORS = [operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge]


def build_batch() -> pa.RecordBatch:
    generator = np.random.default_rng(3)
    arrays, fields = [], []
    for number, (name, (dtype, pool)) in enumerate(COLUMNS.items()):
        values = [*pool, None]
        chosen = [values[index] for index in generator.integers(0, len(values), 60)]
        plain = pa.string() if pa.types.is_dictionary(dtype) else dtype
        array = pa.array(chosen, plain)
        arrays.append(array.dictionary_encode() if plain != dtype else array)
        fields.append(pa.field(name, dtype, metadata={"PARQUET:field_id": str(number)}))
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


BATCH = build_batch()


class Rows:
    """Statistics of the batch, one fragment per five rows."""

    starts = range(0, BATCH.num_rows, 5)
    row_count = pa.array([5] * (BATCH.num_rows // 5))

    def may_equal(self, field_id: int, options: pa.Array) -> None:
        return None

    @functools.cache  # noqa: B019 - one view lives as long as the module
    def column(self, field_id: int) -> tuple[pa.Array, pa.Array, pa.Array, pa.Array] | None:
        found = [compute_statistics(BATCH.column(field_id)[start : start + 5], 0) for start in self.starts]
        return (
            pa.array([each.lower for each in found], pa.binary()),
            pa.array([each.upper for each in found], pa.binary()),
            pa.array([each.null_count for each in found]),
            pa.array([each.nan_count for each in found], pa.int64()),
        )


VIEW = Rows()


@st.composite
def leaves(draw: st.DrawFn) -> pc.Expression:
    name = draw(st.sampled_from(list(COLUMNS)))
    field = draw(st.sampled_from([F("s", "x"), F("s", "y", "z")])) if name == "s" else F(name)
    constant = st.sampled_from(CONSTANTS)
    kind = draw(st.integers(0, 9))
    if kind <= 3:
        return draw(st.sampled_from(OPERATORS))(field, draw(constant))
    if kind == 4:
        pool = [value for value in COLUMNS[name][1] if name != "s"] or [1]
        options = draw(st.lists(st.sampled_from([*pool, None]), max_size=6))
        return field.isin(pa.array(options, None if name in {"s", "cat"} else COLUMNS[name][0]))
    if kind == 5:
        return draw(st.sampled_from([field.is_null(), field.is_valid(), F("f64").is_null(nan_is_null=True)]))
    return draw(
        st.sampled_from([
            F("b"), pc.is_nan(F("f32")), F("i8") < F("i64"), F("f64") < F("f32"), F("ts") == F("ts"),
            pc.starts_with(F("t"), "a"), pc.ends_with(F("big"), "a"), pc.match_substring(F("t"), "b"),
            pc.match_like(F("t"), "a%b"), pc.match_like(F("t"), "_"), pc.match_like(F("t"), "a\\%b"),
            pc.match_like(F("t"), "b%a"), pc.match_substring_regex(F("t"), "^a"), F("i8") + 1 > 1,
            pc.match_substring(F("t"), "B", ignore_case=True), pc.year(F("d")) > 2000, F("i8").cast(pa.int64()) > 0,
            pc.if_else(F("b"), F("i8"), 0) == 0, pc.scalar(True), F("cat") == "b", F("f32").isin([0.1]),
        ])
    )  # fmt: skip


def combine(children: st.SearchStrategy[pc.Expression]) -> st.SearchStrategy[pc.Expression]:
    return st.one_of(
        st.builds(operator.and_, children, children),
        st.builds(operator.or_, children, children),
        st.builds(operator.invert, children),
    )


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(expression=st.recursive(leaves(), combine, max_leaves=5))
def test_expressions_select_the_rows_that_arrow_selects(expression: pc.Expression) -> None:
    """spec: FILTER-4, STAT-7"""
    try:
        expected = pa.Table.from_batches([BATCH.append_column("n", pa.array(range(60)))]).filter(expression)
    except (pa.ArrowException, ValueError):
        # Arrow refuses. Either so do we, or the comparison has an exact meaning that Arrow has no kernel for.
        with contextlib.suppress(InvalidInputError, UnsupportedError):
            bind(from_arrow(expression), BATCH.schema).evaluate(BATCH)
        return
    predicate = bind(parse_filter(expression), BATCH.schema)
    mask = predicate.mask(BATCH)
    assert np.flatnonzero(mask).tolist() == expected.column("n").to_pylist(), str(expression)
    may, covered = predicate.prune(VIEW), predicate.covers(VIEW)
    for number, start in enumerate(VIEW.starts):
        assert may[number] or not mask[start : start + 5].any()
        assert not covered[number] or mask[start : start + 5].all()


@pytest.mark.parametrize(
    ("expression", "columns", "by_arrow"),
    [
        ((F("i64") < 10) & F("t").isin(["a", "b"]), {"i64", "t"}, False),
        (F("s", "y", "z") == "a", {"s"}, False),
        (pc.starts_with(F("t"), "a") | ~F("b"), {"t", "b"}, False),
        (F("tz") >= pa.scalar(dt.datetime(2024, 1, 1), pa.timestamp("us", "UTC")), {"tz"}, False),
        (F("dec") == 1, {"dec"}, False),
        (F("i64") < 3.5, {"i64"}, False),
        (F("i8") + F("i64") > 1, {"i8", "i64"}, True),
        (F("f64").isin([0.0]), {"f64"}, True),
    ],
)
def test_columns_are_found_and_known_forms_are_translated(
    expression: pc.Expression, columns: set[str], by_arrow: bool
) -> None:
    """spec: FILTER-4 — the contract with pyarrow's serialised form; a change of it must be seen here."""
    predicate = bind(from_arrow(expression), BATCH.schema)
    assert predicate.columns == columns
    assert isinstance(predicate.condition, ByArrow) == by_arrow
    assert predicate.evaluate(BATCH).null_count == 0


def test_what_arrow_evaluates_is_still_pruned_by_what_is_understood() -> None:
    """spec: FILTER-4"""
    expression = (F("i64") > 2**61) & (F("i64") + 1 > 0)
    predicate = bind(from_arrow(expression), BATCH.schema)
    assert isinstance(predicate.condition, ByArrow)
    assert not predicate.prune(VIEW).all()


def test_nan_follows_the_rules_asked_for() -> None:
    """spec: FILTER-3"""
    batch = pa.record_batch({"f": pa.array([1.0, NAN, None])})
    tree = from_arrow(F("f") > 0.5)
    assert bind(tree, batch.schema).mask(batch).tolist() == [True, False, False]
    assert bind(tree, batch.schema, "duckdb").mask(batch).tolist() == [True, True, False]
    with pytest.raises(UnsupportedError):
        bind(from_arrow(F("f") * 2 > 0.5), batch.schema, "duckdb")


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        (F("nope") == 1, "no column 'nope'"),
        (F("I8") == 1, "did you mean 'i8'"),
        (F("s", "q") == 1, "no struct member 's.q'"),
        (F("i8") < "x", "Arrow cannot evaluate"),
        (F("tz") < dt.datetime(2024, 1, 1), "Arrow cannot evaluate"),
        (F("i8") + 1, "is no condition|not boolean"),
        (F(0) == 1, "by name, not by position"),
    ],
)
def test_expressions_that_cannot_be_filters(expression: pc.Expression, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        bind(from_arrow(expression), BATCH.schema)


def test_a_row_that_arrow_cannot_convert_is_an_error_of_ours() -> None:
    batch = pa.record_batch({"i": pa.array([300])})
    predicate = bind(from_arrow(F("i").cast(pa.int8()) > 1), batch.schema)
    with pytest.raises(InvalidInputError, match="Arrow cannot evaluate"):
        predicate.evaluate(batch)


def test_long_alternatives_do_not_recurse() -> None:
    expression = functools.reduce(operator.or_, [F("i64") == number for number in range(200)])
    predicate = bind(from_arrow(expression), BATCH.schema)
    assert predicate.mask(BATCH).sum() == sum(
        value in range(200) for value in BATCH.column("i64").to_pylist()
    )
