"""Partition transforms: Iceberg's own results, and intervals that hold every value they stand for."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyiceberg.transforms import (
    BucketTransform,
    DayTransform,
    HourTransform,
    IdentityTransform,
    MonthTransform,
    TruncateTransform,
    YearTransform,
)
from pyiceberg.types import (
    BinaryType,
    DateType,
    DecimalType,
    IcebergType,
    IntegerType,
    LongType,
    StringType,
    TimestampType,
    TimestamptzType,
    TimeType,
)

from lake_format.errors import InvalidInputError
from lake_format.murmur import hash_bytes, hash_longs
from lake_format.statistics import encode_bound
from lake_format.transforms import Transform, parse_transform

_FIRST, _LAST = dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59)
_EPOCH = dt.datetime(1970, 1, 1)
_Values = st.SearchStrategy[Any]

TYPES: dict[str, tuple[pa.DataType, IcebergType, _Values]] = {
    "int": (pa.int32(), IntegerType(), st.integers(-(2**31), 2**31 - 1)),
    "long": (pa.int64(), LongType(), st.integers(-(2**63) + 2**31, 2**63 - 1)),
    "decimal": (
        pa.decimal128(20, 3),
        DecimalType(20, 3),
        st.decimals(-(10**15), 10**15, places=3),
    ),
    "date": (pa.date32(), DateType(), st.dates()),
    "time": (pa.time64("us"), TimeType(), st.times()),
    "timestamp": (pa.timestamp("us"), TimestampType(), st.datetimes(_FIRST, _LAST)),
    "timestamptz": (
        pa.timestamp("us", "UTC"),
        TimestamptzType(),
        st.datetimes(_FIRST, _LAST, timezones=st.just(dt.UTC)),
    ),
    "text": (pa.string(), StringType(), st.text(max_size=12)),
    "binary": (pa.binary(), BinaryType(), st.binary(max_size=12)),
}
_TIMES: dict[str, Any] = {
    "year": YearTransform(),
    "month": MonthTransform(),
    "day": DayTransform(),
    "hour": HourTransform(),
}
_BY_NAME: dict[str, Callable[[int], Any]] = {
    "identity": lambda _: IdentityTransform(),
    "bucket": lambda n: BucketTransform(num_buckets=n),
    "truncate": lambda n: TruncateTransform(width=n),
    **{name: (lambda _, transform=transform: transform) for name, transform in _TIMES.items()},
}
_FITS = {
    "identity": list(TYPES),
    "bucket": list(TYPES),
    "truncate": ["int", "long", "decimal", "text", "binary"],
    "year": ["date", "timestamp", "timestamptz"],
    "month": ["date", "timestamp", "timestamptz"],
    "day": ["date", "timestamp", "timestamptz"],
    "hour": ["timestamp", "timestamptz"],
}
CASES = [(name, kind) for name, kinds in _FITS.items() for kind in kinds]


def to_iceberg(value: Any) -> Any:
    """A value as pyiceberg keeps it: numbers for dates and times."""
    if isinstance(value, dt.datetime):
        return (value.replace(tzinfo=None) - _EPOCH) // dt.timedelta(microseconds=1)
    if isinstance(value, dt.date):
        return (value - _EPOCH.date()).days
    if isinstance(value, dt.time):
        return ((value.hour * 60 + value.minute) * 60 + value.second) * 1_000_000 + value.microsecond
    return value


@pytest.mark.parametrize(("name", "kind"), CASES, ids=lambda part: part)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_results_are_those_of_pyiceberg(name: str, kind: str, data: st.DataObject) -> None:
    """spec: PAR-2, PAR-3"""
    arrow, iceberg, values = TYPES[kind]
    number = data.draw(st.integers(1, 1000)) if name in ("bucket", "truncate") else 0
    given_values = data.draw(st.lists(st.none() | values, max_size=8))
    transform = Transform(name, number)
    assert transform.fits(arrow)
    theirs = _BY_NAME[name](number).transform(iceberg)
    expected = [None if value is None else theirs(to_iceberg(value)) for value in given_values]
    found = transform.apply(pa.array(given_values, arrow))
    assert found.type in (transform.result_type(arrow), pa.large_string(), pa.large_binary())
    assert [to_iceberg(value) for value in found.to_pylist()] == expected


@pytest.mark.parametrize(("name", "kind"), CASES, ids=lambda part: part)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_value_lies_in_the_interval_of_its_result(name: str, kind: str, data: st.DataObject) -> None:
    """spec: PAR-6"""
    arrow, _, values = TYPES[kind]
    number = data.draw(st.integers(1, 1000)) if name in ("bucket", "truncate") else 0
    column = pa.array([data.draw(values)], arrow)
    transform = Transform(name, number)
    result = encode_bound(transform.apply(column)[0])
    lower, upper = transform.interval(result, arrow)
    value = encode_bound(column[0])
    assert lower is None or lower <= value
    assert upper is None or value <= upper
    assert isinstance(transform.shown(result, arrow), str)


def test_the_vectors_of_the_specification() -> None:
    """spec: PAR-3 (Iceberg, Appendix B)"""

    def one(column: pa.Array) -> int:
        hashes = hash_bytes(column) if pa.types.is_binary(column.type) else hash_longs(column.to_numpy())
        return int(hashes.view("i4")[0])

    assert one(pa.array([34])) == 2017239379
    assert one(pa.array([17486])) == -653330422  # 2017-11-16
    assert one(pa.array([81068000000])) == -662762989  # 22:31:08
    assert one(pa.array([1510871468000000])) == -2047944441  # 2017-11-16T22:31:08
    assert one(pa.array([b"iceberg"])) == 1210000089
    assert one(pa.array([UUID("f79c3e09-677c-4bbd-a479-3f349cb785e7").bytes])) == 1488055340
    assert one(pa.array([b"\x00\x01\x02\x03"])) == -188683207
    many = 2**31 - 1
    assert Transform("bucket", many).apply(pa.array([Decimal("14.20")]))[0].as_py() == (
        (-500754589 & 0x7FFFFFFF) % many
    )


def test_days_before_1970_and_units_of_time() -> None:
    """spec: PAR-2"""
    moment = dt.datetime(1969, 12, 31, 23, 59, 59)
    for unit in ("s", "ms", "us", "ns"):
        column = pa.array([moment], pa.timestamp(unit))
        assert [Transform(name).apply(column)[0].as_py() for name in _TIMES] == [-1, -1, -1, -1]
        assert Transform("bucket", 1000).apply(column) == Transform("bucket", 1000).apply(
            pa.array([moment], pa.timestamp("us"))
        )
    assert Transform("truncate", 10).apply(pa.array([-1, -10, -11, 9])).to_pylist() == [-10, -10, -20, 0]
    assert Transform("truncate", 10).apply(pa.array([-128], pa.int8()))[0].as_py() == -130


def test_dictionaries_count_as_their_values() -> None:
    """spec: PAR-2"""
    plain = pa.array(["apple", None, "apricot"])
    for transform in (Transform("identity"), Transform("bucket", 7), Transform("truncate", 2)):
        assert transform.apply(plain.dictionary_encode()) == transform.apply(plain)


@pytest.mark.parametrize(
    "text",
    ["void", "bucket", "bucket[0]", "day[3]", "truncate[-1]", "bucket[99999999999]", "", "bucket[007]"],
)
def test_unknown_transforms_are_refused(text: str) -> None:
    """spec: PAR-2"""
    with pytest.raises(InvalidInputError):
        parse_transform(text)


@pytest.mark.parametrize(
    ("transform", "dtype"),
    [
        (Transform("identity"), pa.float64()),
        (Transform("identity"), pa.list_(pa.float32(), 4)),
        (Transform("bucket", 4), pa.bool_()),
        (Transform("bucket", 4), pa.uint64()),
        (Transform("truncate", 4), pa.date32()),
        (Transform("hour"), pa.date32()),
        (Transform("day"), pa.string()),
    ],
    ids=str,
)
def test_types_that_do_not_fit(transform: Transform, dtype: pa.DataType) -> None:
    """spec: PAR-2"""
    assert not transform.fits(dtype)
