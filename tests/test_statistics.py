"""Statistics: the order of encoded bounds, what they enclose, and merging."""

from __future__ import annotations

import datetime as dt
import decimal
import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lake_format.errors import CorruptionError, InvalidInputError
from lake_format.statistics import (
    BOUND_LIMIT,
    ColumnStatistics,
    StatisticsBuilder,
    bound_kind,
    compute_statistics,
    decode_bound,
    encode_bound,
    field_id_of,
    increment,
    merge_statistics,
    truncate_lower,
    truncate_upper,
)

INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=90)


def stored(dtype: pa.DataType) -> st.SearchStrategy[pa.Scalar]:
    """Scalars of a temporal type from their stored integers, extremes included."""
    integer = pa.int32() if dtype.bit_width == 32 else pa.int64()
    bits = dtype.bit_width
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1).map(
        lambda n: pa.array([n], integer).view(dtype)[0]
    )


def storage_number(scalar: pa.Scalar) -> int:
    return int(scalar.value)


ORDERED = {
    pa.int8(): st.integers(-128, 127),
    pa.int64(): INT64,
    pa.uint16(): st.integers(0, 2**16 - 1),
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.float16(): st.floats(width=16, allow_nan=False),
    pa.float32(): st.floats(width=32, allow_nan=False),
    pa.float64(): st.floats(allow_nan=False),
    pa.bool_(): st.booleans(),
    pa.decimal32(9, 3): st.decimals(-(10**5), 10**5, places=3),
    pa.decimal128(38, 2): st.integers(-(10**38) + 1, 10**38 - 1).map(
        lambda n: decimal.Decimal((int(n < 0), tuple(map(int, str(abs(n)))), -2))
    ),
    pa.decimal256(76, 0): st.integers(-(10**76) + 1, 10**76 - 1).map(decimal.Decimal),
    pa.string(): TEXT,
    pa.large_string(): TEXT,
    pa.string_view(): TEXT,
    pa.binary(): st.binary(max_size=90),
    pa.binary_view(): st.binary(max_size=90),
}
TEMPORAL = [
    pa.date32(),
    pa.date64(),
    pa.time32("s"),
    pa.time64("ns"),
    pa.timestamp("s"),
    pa.timestamp("us", "Europe/Berlin"),
    pa.timestamp("ns"),
    pa.duration("ms"),
]


def plain(value: object) -> object:
    return value.encode() if isinstance(value, str) else value


@pytest.mark.parametrize("dtype", ORDERED, ids=str)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_byte_order_is_value_order(dtype: pa.DataType, data: st.DataObject) -> None:
    """spec: STAT-2, STAT-3"""
    first, second = data.draw(ORDERED[dtype]), data.draw(ORDERED[dtype])
    low, high = (encode_bound(pa.scalar(value, dtype)) for value in (first, second))
    assert (low < high) == (plain(first) < plain(second))
    assert (low == high) == (first == second)
    assert decode_bound(low, dtype).as_py() == first


@pytest.mark.parametrize("dtype", TEMPORAL, ids=str)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_temporal_byte_order_is_value_order(dtype: pa.DataType, data: st.DataObject) -> None:
    """spec: STAT-3"""
    first, second = data.draw(stored(dtype)), data.draw(stored(dtype))
    low, high = encode_bound(first), encode_bound(second)
    assert (low < high) == (storage_number(first) < storage_number(second))
    assert storage_number(decode_bound(low, dtype)) == storage_number(first)


@given(st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2200, 1, 1)))
def test_bounds_of_instants_do_not_depend_on_the_unit(moment: dt.datetime) -> None:
    """spec: STAT-3 — a widened unit (or a date widened to a timestamp) keeps its bounds."""
    moment = moment.replace(microsecond=0)
    coarse, fine = (encode_bound(pa.scalar(moment, pa.timestamp(unit))) for unit in ("s", "ns"))
    assert coarse == fine
    day = moment.date()
    midnight = dt.datetime.combine(day, dt.time())
    assert encode_bound(pa.scalar(day, pa.date32())) == encode_bound(pa.scalar(midnight, pa.timestamp("us")))
    assert bound_kind(pa.date32()) == bound_kind(pa.timestamp("ns")) != bound_kind(pa.timestamp("ns", "UTC"))


def test_known_bytes_of_bounds() -> None:
    """spec: STAT-3 — the bytes themselves, so that a change of the layout is seen."""
    assert encode_bound(pa.scalar(-1, pa.int8())).hex() == "7fffffffffffffff"
    assert encode_bound(pa.scalar(1, pa.uint8())).hex() == "0000000000000001"
    assert encode_bound(pa.scalar(1.0)).hex() == "bff0000000000000"
    assert encode_bound(pa.scalar(-1.0, pa.float32())).hex() == "400fffffffffffff"
    assert encode_bound(pa.scalar(-0.0)) == encode_bound(pa.scalar(0.0)) == bytes([0x80] + [0] * 7)
    assert encode_bound(pa.scalar(True)) == b"\x01"
    assert encode_bound(pa.scalar(decimal.Decimal("-0.01"))).hex() == "7f" + "ff" * 31
    assert encode_bound(pa.scalar(1, pa.int64()).cast(pa.timestamp("us"))).hex() == "80" + "00" * 13 + "03e8"
    assert encode_bound(pa.scalar("é")) == "é".encode()


@given(TEXT)
def test_cut_text_bounds_enclose_and_stay_text(text: str) -> None:
    """spec: STAT-4"""
    value = text.encode()
    lower, upper = truncate_lower(value, text=True), truncate_upper(value, text=True)
    assert lower <= value
    assert len(lower) <= BOUND_LIMIT
    assert lower.decode() == text[: len(lower.decode())]
    assert upper is None or (upper >= value and len(upper) <= BOUND_LIMIT + 3)
    if upper is not None:
        upper.decode()


@given(st.binary(max_size=100), st.binary(max_size=40))
def test_cut_binary_bounds_enclose(head: bytes, tail: bytes) -> None:
    """spec: STAT-4"""
    upper = truncate_upper(head, text=False)
    assert truncate_lower(head, text=False) <= head
    assert upper is None or upper >= head
    above = increment(head, text=False)
    assert above is None or above > head + tail


def test_a_bound_that_cannot_be_incremented_is_unknown() -> None:
    """spec: STAT-4"""
    assert truncate_upper(b"\xff" * 65, text=False) is None
    assert truncate_upper(("\U0010ffff" * 17).encode(), text=True) is None
    found = compute_statistics(pa.array(["a", "\U0010ffff" * 17, "b"]), 1)
    assert found.lower == b"a"
    assert found.upper is None
    assert truncate_upper(("x" * 63 + "\ud7ff" + "y").encode(), text=True) == b"x" * 62 + b"y"
    assert increment("\ud7ff".encode(), text=True) == "\ue000".encode()


def test_nan_null_and_negative_zero() -> None:
    """spec: STAT-1, STAT-3 — NaN is counted, never a bound; a column of NaN and NULL has no bounds."""
    found = compute_statistics(pa.array([math.nan, None, -0.0, 2.5], pa.float32()), 7)
    assert found == ColumnStatistics(
        field_id=7,
        null_count=1,
        nan_count=1,
        lower=encode_bound(pa.scalar(0.0)),
        upper=encode_bound(pa.scalar(2.5)),
    )
    bare = compute_statistics(pa.array([math.nan, None]), 7)
    assert (bare.null_count, bare.nan_count, bare.lower, bare.upper) == (1, 1, None, None)
    assert compute_statistics(pa.array([np.float16("nan"), np.float16(3)]), 1).nan_count == 1


def test_types_without_order_have_counts_only() -> None:
    """spec: STAT-1"""
    for array in (
        pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2)),
        pa.array([None, None]),
        pa.array([{"a": 1}, None]),
        pa.array([(1, 2, 3), None], pa.month_day_nano_interval()),
    ):
        found = compute_statistics(array, 3)
        assert (found.lower, found.upper, found.nan_count) == (None, None, None)
        assert found.null_count == array.null_count > 0


def test_encoded_columns_are_seen_through() -> None:
    """spec: STAT-5 — dictionaries count by the values used; NULLs in the dictionary are NULLs."""
    dictionary = pa.DictionaryArray.from_arrays(pa.array([1, 2, None, 1]), pa.array(["zz", "b", None]))
    found = compute_statistics(pa.chunked_array([dictionary, dictionary]), 1)
    assert (found.null_count, found.lower, found.upper) == (4, b"b", b"b")
    ends = pa.RunEndEncodedArray.from_arrays([2, 5], [1.5, math.nan])
    found = compute_statistics(ends, 1)
    assert (found.nan_count, found.upper) == (3, encode_bound(pa.scalar(1.5)))
    floats = pa.DictionaryArray.from_arrays(pa.array([0, 0, 1]), pa.array([math.nan, 1.0]))
    assert compute_statistics(floats, 1).nan_count == 2
    assert compute_statistics(pa.array([dt.timedelta(1)], pa.duration("s")), 1).lower is not None
    assert compute_statistics(pa.array([b"ab"], pa.binary(2)), 1).lower == b"ab"


def _with_id(name: str, dtype: pa.DataType, number: int) -> pa.Field:
    return pa.field(name, dtype, metadata={"PARQUET:field_id": str(number)})


def test_struct_members_have_statistics_of_their_own() -> None:
    """spec: STAT-5 — under a NULL struct its members are NULL."""
    inner = pa.struct(
        [_with_id("a", pa.int32(), 2), _with_id("b", pa.struct([_with_id("c", pa.string(), 4)]), 3)]
    )
    schema = pa.schema([_with_id("s", inner, 1), _with_id("t", pa.int8(), 5)])
    assert field_id_of(schema.field("t")) == 5
    builder = StatisticsBuilder(schema)
    rows = [
        {"s": None, "t": 1},
        {"s": {"a": 5, "b": None}, "t": 2},
        {"s": {"a": 4, "b": {"c": "x"}}, "t": None},
    ]
    for row in rows:
        builder.update(pa.RecordBatch.from_pylist([row], schema=schema))
    found = {each.field_id: each for each in builder.finish()}
    assert [found[number].null_count for number in (1, 2, 3, 4, 5)] == [1, 1, 2, 2, 1]
    assert found[2].lower == encode_bound(pa.scalar(4))
    assert found[2].upper == encode_bound(pa.scalar(5))
    assert found[4].upper == b"x"
    builder.update(pa.Table.from_pylist(rows, schema=schema))
    assert {each.field_id: each.null_count for each in builder.finish()}[4] == 4


def test_a_field_without_id_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"'s\.a'"):
        StatisticsBuilder(pa.schema([_with_id("s", pa.struct([pa.field("a", pa.int8())]), 1)]))


COLUMNS = {
    pa.int32(): st.integers(-(2**31), 2**31 - 1),
    pa.float64(): st.floats(),
    pa.string(): TEXT,
    pa.binary(): st.binary(max_size=70),
    pa.decimal64(10, 2): st.decimals(-(10**6), 10**6, places=2),
    pa.bool_(): st.booleans(),
}


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_merging_equals_computing_at_once(data: st.DataObject) -> None:
    """spec: STAT-6 — every value lies within the bounds, also after a merge of parts."""
    dtype = data.draw(st.sampled_from(list(COLUMNS)))
    parts = data.draw(st.lists(st.lists(st.none() | COLUMNS[dtype], max_size=8), min_size=1, max_size=4))
    chunks = [pa.array(part, dtype) for part in parts]
    whole = compute_statistics(pa.chunked_array(chunks, dtype), 1)
    assert whole == compute_statistics(pa.array([value for part in parts for value in part], dtype), 1)
    merged = compute_statistics(chunks[0], 1)
    for chunk in chunks[1:]:
        merged = merge_statistics(merged, compute_statistics(chunk, 1))
    for found in (whole, merged):
        assert (found.null_count, found.nan_count) == (whole.null_count, whole.nan_count)
        for part in parts:
            for value in part:
                if value is None or (isinstance(value, float) and math.isnan(value)):
                    continue
                bound = encode_bound(pa.scalar(value, dtype))
                assert found.lower is None or found.lower <= bound
                assert found.upper is None or found.upper >= bound


def test_bounds_compare_in_arrow_as_in_bytes() -> None:
    """spec: STAT-2 — pruning compares bounds with Arrow's binary kernels."""
    bounds = [encode_bound(pa.scalar(number)) for number in (-5, 0, 2**40)]
    assert pc.less(pa.array(bounds, pa.binary()), pa.scalar(bounds[1], pa.binary())).to_pylist() == [
        True,
        False,
        False,
    ]


def test_bad_bounds_and_values_are_named() -> None:
    with pytest.raises(CorruptionError, match="3 bytes"):
        decode_bound(b"abc", pa.int32())
    with pytest.raises(CorruptionError):
        decode_bound(b"\xff" * 8, pa.int8())
    with pytest.raises(CorruptionError):
        decode_bound(b"\xff\xfe", pa.string())
    with pytest.raises(CorruptionError):
        decode_bound(b"\xff" * 32, pa.decimal128(5, 2))
    with pytest.raises(CorruptionError):
        decode_bound(b"x", pa.list_(pa.int8()))
    with pytest.raises(CorruptionError):
        decode_bound(b"\xff" * 16, pa.timestamp("ns"))
    for scalar in (pa.scalar(None, pa.int8()), pa.scalar(math.nan), pa.scalar([1])):
        with pytest.raises(InvalidInputError):
            encode_bound(scalar)


@pytest.mark.parametrize(
    ("written", "now", "same"),
    [
        (pa.int8(), pa.int64(), True),
        (pa.float32(), pa.float64(), True),
        (pa.decimal128(9, 2), pa.decimal256(40, 2), True),
        (pa.date32(), pa.timestamp("us"), True),
        (pa.timestamp("s", "UTC"), pa.timestamp("ns", "Europe/Berlin"), True),
        (pa.dictionary(pa.int8(), pa.string()), pa.large_string(), True),
        (pa.binary(4), pa.large_binary(), True),
        (pa.int32(), pa.float64(), False),
        (pa.uint32(), pa.int64(), False),
        (pa.decimal128(9, 2), pa.decimal128(9, 3), False),
        (pa.timestamp("us"), pa.timestamp("us", "UTC"), False),
        (pa.string(), pa.binary(), False),
    ],
)
def test_bounds_stay_usable_where_the_kind_stays(written: pa.DataType, now: pa.DataType, same: bool) -> None:
    """spec: STAT-8"""
    assert (bound_kind(written) == bound_kind(now)) is same
    assert bound_kind(pa.list_(pa.int8())) is None
