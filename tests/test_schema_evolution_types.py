"""Widening types: every pair of types the format allows, with the values at both ends of the narrower one."""

from __future__ import annotations

import datetime as dt
import itertools
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import Location

import lake_format as lake
from lake_engines.evolution.projection import widened
from lake_format.errors import CorruptionError, InvalidInputError, UnsupportedError
from lake_format.promotion import promotion, value_range

_LEAVES: dict[pa.DataType, list[Any]] = {
    pa.float16(): [np.float16(65504), np.float16(-0.0), np.float16("nan")],
    pa.float32(): [3.4028234663852886e38, float("-inf"), -1.5],
    pa.float64(): [1e300],
    pa.decimal32(5, 2): [Decimal("999.99"), Decimal("-999.99")],
    pa.decimal64(15, 3): [Decimal("999999999999.999")],
    pa.decimal128(20, 0): [Decimal(10**20 - 1)],
    pa.decimal128(38, 10): [Decimal("-1.0000000001")],
    pa.decimal256(60, 20): [Decimal(1)],
    pa.string(): ["", "ü" * 9],
    pa.large_string(): ["a"],
    pa.string_view(): ["longer than twelve bytes"],
    pa.binary(): [b"", b"\xff"],
    pa.binary(2): [b"ab"],
    pa.large_binary(): [b"a"],
    pa.binary_view(): [b"b"],
    pa.date32(): [0, -1, 100_000],
    pa.date64(): [0, 86_400_000],
    pa.bool_(): [True],
    pa.null(): [None],
    pa.dictionary(pa.int8(), pa.string()): ["x", "y"],
    pa.dictionary(pa.int32(), pa.string()): ["x"],
    pa.dictionary(pa.int8(), pa.int32()): [7, -7],
    pa.dictionary(pa.int16(), pa.int64()): [7],
}
for _bits in (8, 16, 32, 64):
    _LEAVES[getattr(pa, f"int{_bits}")()] = [-(2 ** (_bits - 1)), 2 ** (_bits - 1) - 1]
    _LEAVES[getattr(pa, f"uint{_bits}")()] = [0, 2**_bits - 1]
for _unit, _factor in (("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)):
    for _make in (pa.timestamp, pa.duration, lambda unit: pa.timestamp(unit, "UTC")):
        _LEAVES[_make(_unit)] = [0, -5 * _factor, 1_700_000_000 * _factor]
    _LEAVES[pa.time32(_unit) if _factor < 10**4 else pa.time64(_unit)] = [0, 86_399 * _factor]

_PAIRS = [
    (source, target)
    for source, target in itertools.permutations(_LEAVES, 2)
    if promotion(source, target) is not None
]


def _same(one: pa.Scalar, other: pa.Scalar) -> bool:
    """Equality of values across types, as people mean it."""
    if not one.is_valid or not other.is_valid:
        return one.is_valid == other.is_valid
    if pa.types.is_temporal(one.type):
        return _nanoseconds(one) == _nanoseconds(other)
    first, second = one.as_py(), other.as_py()
    if first != first:
        return second != second
    return first == second


def _nanoseconds(value: pa.Scalar) -> int:
    if pa.types.is_date32(value.type):
        return value.value * 86_400 * 10**9
    unit = "ms" if pa.types.is_date64(value.type) else value.type.unit
    return value.value * {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}[unit]


@pytest.mark.parametrize(("source", "target"), _PAIRS, ids=str)
def test_a_widened_array_holds_the_same_values(source: pa.DataType, target: pa.DataType) -> None:
    """spec: EVO-4"""
    array = pa.array([*_LEAVES[source], None], source)
    wide = widened(array, target)
    assert wide.type == target
    assert all(_same(one, other) for one, other in zip(array, wide, strict=True))


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (pa.int64(), pa.int32()),
        (pa.int64(), pa.float64()),
        (pa.int32(), pa.float32()),
        (pa.int8(), pa.uint16()),
        (pa.uint32(), pa.int32()),
        (pa.uint64(), pa.int64()),
        (pa.int32(), pa.decimal128(9, 0)),
        (pa.int32(), pa.decimal128(12, 3)),
        (pa.decimal128(10, 2), pa.decimal128(10, 3)),
        (pa.decimal128(10, 2), pa.decimal128(9, 2)),
        (pa.float64(), pa.float32()),
        (pa.string(), pa.binary()),
        (pa.string(), pa.int64()),
        (pa.bool_(), pa.int8()),
        (pa.timestamp("us"), pa.timestamp("us", "UTC")),
        (pa.timestamp("us", "UTC"), pa.timestamp("us", "Europe/Berlin")),
        (pa.timestamp("ns"), pa.timestamp("us")),
        (pa.date32(), pa.timestamp("us", "UTC")),
        (pa.timestamp("us"), pa.date32()),
        (pa.dictionary(pa.int32(), pa.string()), pa.dictionary(pa.int8(), pa.string())),
        (pa.string(), pa.dictionary(pa.int8(), pa.string())),
        (pa.list_(pa.float32(), 4), pa.list_(pa.float64(), 4)),
        (pa.list_(pa.float32(), 4), pa.list_(pa.float32(), 5)),
        (pa.list_(pa.float64(), 4), pa.list_(pa.float32(), 4)),
        (pa.null(), pa.list_(pa.float32(), 4)),
        (pa.large_list(pa.int8()), pa.list_(pa.int8())),
    ],
    ids=str,
)
def test_what_is_no_widening_is_refused(
    source: pa.DataType, target: pa.DataType, memory_location: Location
) -> None:
    """spec: EVO-4"""
    assert promotion(source, target) is None
    table = lake.create(memory_location.uri, pa.schema([("c", source)]))
    with pytest.raises(InvalidInputError, match="cannot become"):
        table.widen_column("c", target)
    assert table.version == 1


def test_widenings_of_every_family_in_one_table(memory_location: Location) -> None:
    """spec: EVO-4 — scan, take and filter see the wider type in rows written before and after."""
    pairs = [pair for pair in _PAIRS if not pa.types.is_null(pair[0])][::4]
    names = [f"c{number}" for number in range(len(pairs))]
    old = pa.table([pa.array([*_LEAVES[source][:2], None][-2:], source) for source, _ in pairs], names)
    table = lake.create(memory_location.uri, old.schema)
    table.append(old)
    for name, (_, target) in zip(names, pairs, strict=True):
        table.widen_column(name, target)
    new = pa.table([pa.array([_LEAVES[target][-1]], target) for _, target in pairs], names)
    table.append(new)
    assert table.schema.types == [target for _, target in pairs]
    whole, taken = table.to_arrow(), table.take([2, 0, 1])
    for name in names:
        expected = [*old[name], *new[name]]
        assert all(map(_same, expected, whole[name])), name
        assert all(map(_same, [expected[2], expected[0], expected[1]], taken[name])), name
        assert table.count(f"{name} IS NULL") == 1


_FAR = [(source, target) for source, target in _PAIRS if promotion(source, target).checked]  # type: ignore[union-attr]


@pytest.mark.parametrize(("source", "target"), _FAR, ids=str)
def test_instants_too_far_away_are_found_before_a_unit_is_widened(
    source: pa.DataType, target: pa.DataType, memory_location: Location
) -> None:
    """spec: EVO-4"""
    low, high = value_range(source, target)
    step = 86_400_000 if pa.types.is_date64(source) else 1
    low, high = -(-low // step) * step, high // step * step
    fits = pa.table({"c": pa.concat_arrays([_stored(source, one) for one in (low, high)])})
    far = pa.table({"c": _stored(source, high + step)})
    table = lake.create(memory_location.uri, fits.schema)
    table.append(fits)
    table.append(far)
    with pytest.raises(InvalidInputError, match="1 rows"):
        table.widen_column("c", target)
    table.delete("_row_id = 2")
    table.widen_column("c", target)  # a deleted row may hold anything
    assert [_nanoseconds(one) for one in table.to_arrow()["c"]] == [_nanoseconds(one) for one in fits["c"]]


def _stored(source: pa.DataType, number: int) -> pa.Array:
    return pa.array([number], pa.int32() if source.bit_width == 32 else pa.int64()).view(source)


def test_an_instant_in_a_list_cannot_be_checked(memory_location: Location) -> None:
    table = lake.create(memory_location.uri, pa.schema([("l", pa.list_(pa.timestamp("s")))]))
    with pytest.raises(UnsupportedError, match="lies in a list"):
        table.widen_column("l.item", pa.timestamp("ns"))


def test_a_file_that_no_widening_explains_is_corrupt() -> None:
    """spec: EVO-4"""
    from lake_engines.evolution.projection import projection
    from lake_format.schema import FIELD_ID_KEY

    def field(data_type: pa.DataType) -> pa.Field:
        return pa.field("c", data_type, metadata={FIELD_ID_KEY: b"1"})

    with pytest.raises(CorruptionError, match="schema history is damaged"):
        projection(field(pa.int64()), field(pa.int32()))


def test_bounds_of_another_kind_prune_nothing(memory_location: Location) -> None:
    """spec: STAT-8, EVO-5 — an integer's bounds say nothing about the decimal or the double it became."""
    schema = pa.schema([("d", pa.int32()), ("f", pa.int32()), ("t", pa.date32()), ("n", pa.int32())])
    table = lake.create(memory_location.uri, schema)
    row = {"d": 5, "f": 5, "t": dt.date(2020, 1, 1), "n": None}
    table.append([row])
    table.widen_column("d", pa.decimal128(20, 2)).widen_column("f", pa.float64())
    table.widen_column("t", pa.timestamp("us")).widen_column("n", pa.int64())
    table.append([{"d": Decimal("5.25"), "f": 5.5, "t": dt.datetime(2020, 1, 1, 6), "n": 1}])
    assert table.count("d = 5") == table.count("f = 5") == table.count("f < 5.25") == 1
    assert table.count("d >= 5") == table.count("f >= 5") == table.count("t >= '2020-01-01'") == 2
    assert table.count("t < '2020-01-01 03:00:00'") == table.count("n = 1") == table.count("n IS NULL") == 1
    view = table.snapshot.fragments
    ids = [int(field.metadata[b"PARQUET:field_id"]) for field in table.snapshot.schema]
    lower = [view.column(one)[0].is_valid().to_pylist() for one in ids]  # type: ignore[index]
    assert lower == [[False, True], [False, True], [True, True], [False, True]]
